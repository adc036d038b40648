"""Every verdict of the page of claims and of the first page, for all kept models, and the tables and lines that other
pages print, computed again from the kept rows. Nothing of prunebook is imported: the formulas are written here a second
time, with numpy alone. Prose is not read: `test_pages` finds its numbers in what is printed."""
import hashlib, html, json, math, re
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from safetensors.numpy import load_file

root, SEED = Path(__file__).parents[1]/'nbs', 0
DRAWS, RULED = 20_000, 2000  # resamples of every interval that is printed, and those by which the frozen rules decide
KEYS = ['sweep', 'strategy', 'n', 'healed', 'seed', 'task']
MODELS = {'SmolLM2-135M-Instruct': ('demo', 30), 'gemma-3-270m': ('gemma3-270m', 18),
          'Qwen2.5-Coder-1.5B-Instruct': ('qwen2.5-coder-1.5b', 28)}
TASKS = {'ARC-Easy': 'arc_easy', 'PIQA': 'piqa', 'MMLU': 'mmlu', 'MMLU (texts)': 'mmlu_text', 'BoolQ': 'boolq',
         'BoolQ (texts)': 'boolq_text', 'HellaSwag': 'hellaswag', 'SciQ': 'sciq', 'Social IQa': 'siqa',
         'Sums of one step': 'sums', 'GSM8K': 'gsm8k'}
# where the curves of a model are
PLAIN = dict(demo='similarity sums', **{'gemma3-270m': 'cuts hellaswag siqa', 'qwen2.5-coder-1.5b': 'cuts gsm8k-400'})
LOSSES = dict(demo='losses', **{'gemma3-270m': 'losses', 'qwen2.5-coder-1.5b': 'cuts'})
HEALED = 'healed healed-2 healed-deep healed-base healed-simple healed-simple-more'
FINE = f'{HEALED} healed-fine healed-simple-fine'  # with the rows that decide C3b alone, or no claim

# The pages

@cache
def outputs(page):
    "The outputs of a page, in their order"
    cells = json.loads((root/f'{page}.ipynb').read_text())['cells']
    return [(o.get('data', {}), ''.join(o.get('text', ''))) for c in cells for o in c.get('outputs', [])]

def tables(page):
    "The rows of a page's tables, as lists of their cells"
    for data, _ in outputs(page):
        made = ''.join([*data.get('text/html', ''), *data.get('text/markdown', '')])  # folded ones are in the latter
        for row in re.findall(r'<tr[^>]*>(.*?)</tr>', made, re.S):
            yield [html.unescape(o).replace('\xa0', ' ') for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]

claims = list(tables('paper/claims'))
rows = {}  # Verdict, number, threshold and adjusted p by claim, model and title of the task
for claim, who, *cells in (o for o in claims if len(o) == 6 and re.fullmatch(r'C\d\w?', o[0])):
    rows[claim, *(who.split(', ') + [''])[:2]] = cells

def numbers(text): return [float(o) for o in re.findall(r'-?\d[\d,]*\.?\d*', text.replace('−', '-').replace(',', ''))]

def near(got, value, low, high, digits, other=0.):
    "The value and its interval to the last digit; `other` resamples may move the ends by a share of the width"
    assert got[0] == pytest.approx(value, abs=.51 * 10**-digits)
    assert got[1:3] == pytest.approx([low, high], abs=other * (high - low) + .51 * 10**-digits)

@cache
def printed(page):
    "What the cells of a page print, in their order"
    return '\n'.join(text + ''.join(data.get('text/markdown', '')) for data, text in outputs(page))

def agrees(text, one, other=0.):
    "The first number of a text is what was found to the digits that it has, with its interval if the text has one"
    value, *ends = np.atleast_1d(one)
    digits = len(re.search(r'\d+(?:\.(\d+))?', text)[1] or '')
    if '[' in text: near(numbers(text), value, *ends, digits, other)
    else: assert numbers(text)[0] == pytest.approx(value, abs=.51 * 10**-digits)

def stands(page, pattern, *found, other=0.):
    "What a page prints in place of each # of the pattern, with an interval or without, is what was found"
    number = r'([+−-]?\d+(?:\.\d+)?(?: %| points| nats(?: per \w+)?)?(?: \[[^]]*\])?)'
    shown = re.search(pattern.replace('#', number), printed(page))
    assert shown, f'{page} prints nothing like {pattern!r}'
    for text, one in zip(shown.groups(), found, strict=True): agrees(text, one, other)

said = {(c, m): text for c, m, text in re.findall(r'^- (C\d\w?), `(.*?)`: (.*)$', printed('paper/claims'), re.M)}

# The rows

@cache
def run(model):
    folder, depth = MODELS[model]
    table = pd.read_csv(root/'results'/folder/'results.csv')
    columns = [*KEYS, 'index', 'picked', 'answer', 'loss', 'tokens', 'written']
    items = pd.read_parquet(root/'results'/folder/'items.parquet', columns=columns).sort_values('index', kind='stable')
    kept = load_file(root/'results'/folder/'distances.safetensors')
    cov, at = {}, 0
    for n in range(1, depth + 1):  # of all pairs of blocks of n layers
        m = depth - n + 1
        cov[n], at = kept['cov'][at:at + m * m].reshape(m, m) / kept['count'][0], at + m * m
    return SimpleNamespace(folder=folder, depth=depth, table=table, items=dict(iter(items.groupby(KEYS))), cov=cov,
                           mean=kept['mean'])

def cuts(r, task, strategy='similarity', healed=False, sweeps=''):
    "The rows of a curve by n, the unpruned model first"
    t, of = r.table, (sweeps or (HEALED if healed else (LOSSES if task == 'c4' else PLAIN)[r.folder])).split()
    t = t[(t.task == task) & t.sweep.isin(of) & (t.healed == healed) & (t.seed == 0)]
    t = t[((t.strategy == strategy) | (t.n == 0))].drop_duplicates('n').sort_values('n')
    return [tuple(o) for o in t[KEYS].itertuples(index=False)]

def right(r, keys): return np.stack([(o.picked == o.answer).to_numpy(float) for o in (r.items[k] for k in keys)])

def nats(r, keys):
    "(P, D) nats and (D,) tokens"
    got = [r.items[k] for k in keys]
    assert all((o.tokens.to_numpy() == got[0].tokens.to_numpy()).all() for o in got)
    return np.stack([o.loss.to_numpy(float) for o in got]), got[0].tokens.to_numpy(float)

@cache
def resamples(n, size=DRAWS, seed=0):
    "(size, n) how often each of n items is drawn"
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size).astype(np.uint8)

def draws(x, tokens=None, size=DRAWS, seed=0):
    "(size, P) means of the rows of x over the same resamples of its columns; of losses, nats per token"
    weight, both = resamples(x.shape[1], size, seed), np.vstack([x, np.ones(x.shape[1]) if tokens is None else tokens])
    total = np.concatenate([o.astype(float) @ both.T for o in np.split(weight, max(1, size // 1000))])
    return total[:, :-1] / total[:, -1:]

def ruled(x, tokens=None):
    "What a frozen rule draws; the seed is a part of it"
    return draws(x, tokens, RULED, SEED)

def paired(d, tokens=None):
    "The mean of differences with its interval; of losses, nats per token"
    value = d.mean() if tokens is None else d.sum() / tokens.sum()
    return value, *np.quantile(draws(d[None], tokens), [.025, .975])

def linear(sums, tokens):
    "Nats per token, and the linearised interval by t"
    n, mean = len(tokens), sums.sum() / tokens.sum()
    t = {16: 2.13145, 32: 2.03951}[n]
    half = t * math.sqrt(n / (n - 1) * ((sums - mean * tokens)**2).sum()) / tokens.sum()
    return mean, mean - half, mean + half

@cache
def block_losses(folder):
    "Tokens by document, and by block its nats: (0, 0) is the unpruned model, (start, stop) the model without it"
    kept = load_file(root/'results'/folder/'loss_map.safetensors')
    return kept['counts'].astype(float), dict(zip(map(tuple, kept['blocks'].tolist()), kept['sums']))

# The rules

def ruling(value, resampled, threshold, above=True, said=()):
    "The word of the 95 % interval, and a two-sided p"
    low, high = np.quantile(resampled, [.025, .975])
    p = 2 * (1 + min((resampled <= threshold).sum(), (resampled >= threshold).sum())) / (1 + len(resampled))
    return decided(value, low, high, threshold, min(1, p), above, said)

def decided(value, low, high, threshold, p, above=True, said=()):
    word = 'undecided' if low <= threshold <= high else 'holds' if (low > threshold) == above else 'fails'
    return SimpleNamespace(word=word, why='interval contains', value=value, low=low, high=high, p=p, said=said)

def nothing(why): return SimpleNamespace(word='undecided', why=why, value=None, p=None, said=())

def uninformative(found, why):
    found.word, found.why = 'not informative', why
    return found

def known(r, key):
    "Is the lower end of Wilson's interval above chance and the share of the most frequent answer?"
    o, written = r.items[key], r.items[key].written.notna().any()
    p, n, z = (o.picked == o.answer).mean(), len(o), 1.959964
    low = (p + z**2 / 2 / n - z * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)) / (1 + z**2 / n)
    most = row(r, key).majority if written else o.answer.value_counts(normalize=True).max()
    return low > max(row(r, key).baseline, most)

def row(r, key): return r.table[(r.table[KEYS] == list(key)).all(axis=1)].iloc[0]

def falling(y):
    "The nearest non-increasing curves: the largest over t ≥ i of the least over s ≤ i mean of y[s..t]"
    size = y.shape[1]
    total = np.concatenate([np.zeros((len(y), 1)), y.cumsum(1)], 1)
    def mean(s, t): return (total[:, t + 1] - total[:, s]) / (t + 1 - s)
    return np.stack([np.max([np.min([mean(s, t) for s in range(i + 1)], 0) for t in range(i, size)], 0)
                     for i in range(size)], 1)

def where(x, y, level):
    "Where falling curves pass a level; infinite if they do not"
    found = np.full(len(y), np.inf)
    for i in range(len(x) - 1, 0, -1):
        a, b = y[:, i - 1], y[:, i]
        with np.errstate(all='ignore'):
            at = x[i - 1] + (x[i] - x[i - 1]) * np.clip((a - level) / (a - b), 0, 1)
        found = np.where(b < level, at, found)
    return found

def fall(x, accuracy, guess):
    "Where retention falls below 90 % and 50 %"
    y = falling((accuracy - guess) / (accuracy[:, :1] - guess))
    return where(x, y, .9), where(x, y, .5)

def width(r, keys, above=False):
    "C3 and C8: the width of the fall against 0.5"
    if not known(r, keys[0]): return nothing('does not know the task')
    x, a, guess = np.array([k[2] for k in keys]) / r.depth, right(r, keys), row(r, keys[0]).baseline
    (kept,), (lost,) = fall(x, a.mean(1)[None], guess)
    some_kept, some_lost = fall(x, ruled(a), guess)
    there = np.isfinite(some_lost)
    if not math.isfinite(lost) or there.mean() < .95: return nothing('was not located')
    some = (some_lost - some_kept)[there] / some_lost[there]
    said = f'below 90% at {kept:.1%} of the layers, below 50% at {lost:.1%}', f'{a.shape[1]} questions'
    found = ruling((lost - kept) / lost, some, .5, above, said)
    found.places = kept, lost
    return uninformative(found, 'smallest cut') if found.word != 'undecided' and lost <= x[1] else found

def healed_width(r, task, sweeps=HEALED):
    "Not informative if the unhealed curve gets this word at the healed cuts, and another at all its own"
    keys, plain = cuts(r, task, healed=True, sweeps=sweeps), cuts(r, task)
    if len(keys) < 3: return None
    found = width(r, keys)
    same = [k for k in plain if k[2] in {o[2] for o in keys}]
    if found.word in ('holds', 'fails') and width(r, same).word == found.word != width(r, plain).word:
        return uninformative(found, 'at the cuts that were healed')
    return found

def written_width(r, task):
    found, keys = width(r, cuts(r, task), above=True), cuts(r, task)
    empty = {k[2]: r.items[k].written.fillna('').str.strip().eq('').mean() for k in keys}
    found.said += tuple(f'{v:.0%} at n = {n}' for n, v in empty.items() if v > .05)
    return found

def rise(r, task):
    "C3c: the surest rise from a cut to a larger one, with an interval over all pairs"
    keys = cuts(r, task)
    if not known(r, keys[0]): return nothing('does not know the task')
    a = right(r, keys)
    i, j = np.triu_indices(len(a), 1)
    mean, some = a.mean(1), ruled(a)
    up, moved = mean[j] - mean[i], some[:, j] - some[:, i]
    z = (moved - up) / (spread := np.maximum(moved.std(0), 1e-9))
    best, reach = int((up / spread).argmax()), np.quantile(z.max(1), .95)
    p = (1 + (z.max(1) >= (up / spread)[best]).sum()) / (1 + RULED)
    most = int(up.argmax())
    said = f'n = {keys[i[most]][2]} ({mean[i[most]]:.1%}) to {keys[j[most]][2]} ({mean[j[most]]:.1%})',
    found = decided(up[best], up[best] - reach * spread[best], up[best] + reach * spread[best], 0, p, said=said)
    below = found.word == 'holds' and mean[i[best]] < row(r, keys[0]).baseline
    return uninformative(found, 'worse than by chance') if below else found

def smooth(r, _):
    "C4: the slope of the healed loss across the collapse over the slope elsewhere, against 2"
    first = next(t for t in ('mmlu', 'boolq', 'arc_easy') if cuts(r, t, healed=True) and known(r, cuts(r, t)[0]))
    kept, lost = healed_width(r, first).places
    sums, tokens = nats(r, keys := cuts(r, 'c4', healed=True))
    x = np.array([k[2] for k in keys]) / r.depth
    inside = (x[1:] > kept) & (x[:-1] < lost)
    def ratio(y, end=None):
        y, across, step = y[:, :end], inside[:end and end - 1], np.diff(x[:end])
        up = np.diff(y)
        rest = up[:, ~across].sum(1) / step[~across].sum()
        least = .1 * np.ptp(y, axis=1) / np.ptp(x[:end])
        return up[:, across].sum(1) / step[across].sum() / np.maximum(rest, least)
    whole, some = (sums.sum(1) / tokens.sum())[None], ruled(sums, tokens)
    found, end = ruling(ratio(whole)[0], ratio(some), 2, above=False), int((x < lost).sum()) + 1
    if inside[:end - 1].all(): return uninformative(found, 'comes after it')
    before = ruling(ratio(whole, end)[0], ratio(some, end), 2, above=False)
    shown = numbers(re.search('before it alone (.*?)]', said['C4', 'SmolLM2-135M-Instruct'])[1])
    assert shown == pytest.approx([before.value, before.low, before.high], abs=.05)
    return found if before.word == found.word else uninformative(found, 'something else')

def gap(r, healed):
    "C5: the mean excess loss under simple over that under similarity; unhealed up to a quarter of the layers"
    (base, *a), (_, *b) = (cuts(r, 'c4', s, healed) for s in ('similarity', 'simple'))
    shared = {k[2] for k in a} & {k[2] for k in b}
    if not healed: shared = {n for n in shared if n <= r.depth // 4}
    a, b = ([k for k in o if k[2] in shared] for o in (a, b))
    sums, tokens = nats(r, [base, *a, *b])
    def means(y): return y[:, 1:1 + len(a)].mean(1) - y[:, 0], y[:, 1 + len(a):].mean(1) - y[:, 0]
    (u,), (v,) = means((sums.sum(1) / tokens.sum())[None])
    some_u, some_v = means(ruled(sums, tokens))
    said = f'mean excess loss {u:.3f} nats under similarity, {v:.3f} under simple',
    return ruling(v / u, some_v / some_u, *((1.25, False) if healed else (2, True)), said)

def rank(r, task):
    "C6: rank 2 minus rank 64, over four cuts"
    if r.folder != 'demo': return None
    if task != 'c4' and not known(r, cuts(r, task)[0]): return nothing('does not know the task')
    where = dict(similarity=('rank-2', 'healed'), simple=('rank-2-simple', 'healed-simple'))
    low, high = ([(o[i], s, n, True, 0, task) for s, o in where.items() for n in (4, 8)] for i in (0, 1))
    if task != 'c4': d = right(r, low) - right(r, high)
    else: d = (nats(r, low)[0] - nats(r, high)[0]) / nats(r, high)[1]
    d = d.mean(0, keepdims=True)
    return ruling(d.mean(), ruled(d)[:, 0], 0)

def seeds(r, _):
    "C7a: the spread over seeds as a share of the mean excess loss, with a chi-squared interval"
    ns, sweeps = {'demo': ((4, 8), ('healed', 'seeds', 'seeds')),
                  'gemma3-270m': ((4,), ('healed', 'healed-seeds', 'healed-seeds')),
                  'qwen2.5-coder-1.5b': ((4,), ('healed', 'healed-seed-1', 'healed-seed-2'))}[r.folder]
    sums, tokens = nats(r, [(o, 'similarity', n, True, s, 'c4') for n in ns for s, o in enumerate(sweeps)])
    whole = r.table[(r.table.n == 0) & r.table.healed & (r.table.task == 'c4')]
    whole = whole[whole.sweep.isin(f'{HEALED} healed-seeds'.split())]
    base = nats(r, [tuple(o) for o in whole[KEYS].itertuples(index=False)])[0].mean(0)  # over the seeds it has
    losses = (sums.sum(1) / tokens.sum()).reshape(len(ns), -1)
    df = len(ns) * (len(sweeps) - 1)
    value = math.sqrt(losses.var(1, ddof=1).mean()) / (losses.mean() - base.sum() / tokens.sum())
    made = np.random.default_rng(0).chisquare(df, 10**6)
    low, high = value * np.sqrt(df / np.quantile(made, [.975, .025]))
    tail = (made <= df * (value / .1)**2).mean()
    return decided(value, low, high, .1, 2 * min(tail, 1 - tail), above=False)

def examples(r, task):
    "C7b: the largest change of the gain from five examples, in a tenth of the accuracy above chance"
    if not r.table.sweep.str.startswith('shots').any(): return None
    asked = [(task, 'shots'), (f'{task}:shots=5', 'shots')]
    if r.folder == 'demo': asked = [(task, o) for o in ('shots-0', 'shots-5', 'shots-5-order-1')]
    plain, *orders = (right(r, cuts(r, t, sweeps=o)) for t, o in asked)
    keys, shots = cuts(r, task, sweeps=asked[0][1]), np.mean(orders, 0)
    d = shots - plain
    gain, some = d.mean(1), ruled(d)
    change, moved = gain[1:] - gain[0], some[:, 1:] - some[:, :1]
    margin = .1 * (max(plain[0].mean(), shots[0].mean()) - row(r, keys[0]).baseline)
    reach = np.quantile(np.abs((moved - change) / moved.std(0)).max(1), .95) * moved.std(0)
    most = int(np.abs(change).argmax())
    low, high = change[most] - reach[most], change[most] + reach[most]
    edge = math.copysign(margin, change[most])
    p = 2 * (1 + min((moved[:, most] <= edge).sum(), (moved[:, most] >= edge).sum())) / (1 + RULED)
    word = 'fails' if (np.abs(change) - reach > margin).any() else 'undecided'
    if (np.abs(change) + reach < margin).all(): word = 'holds'
    said = f'5 examples bring {gain[0]:+.1%} unpruned and {gain[1 + most]:+.1%} at n = {keys[1 + most][2]}',
    return SimpleNamespace(word=word, why='', value=change[most], low=low, high=high, p=min(1, p), said=said)

def blocks(r, n):
    "The mean distances of all blocks of n layers, and resamples of them"
    mean = np.array([r.mean[l, l + n] for l in range(r.depth - n + 1)])
    return mean, np.random.default_rng([0, n]).multivariate_normal(mean, r.cov[n], DRAWS, 'ignore', method='eigh')

def deep(r, _):
    "C1: the mean place of the best block; all sizes err together"
    found = {n: blocks(r, n) for n in range(1, r.depth // 4 + 1)}
    value = np.mean([o.argmin() / (r.depth - n) for n, (o, _) in found.items()])
    return of_blocks(value, [o.argmin(1) / (r.depth - n) for n, (_, o) in found.items()], .5)

def of_blocks(value, drawn, threshold, said=()):
    "All sizes err together. The first draws decide the word, and all of them make the interval and p"
    first, whole = (ruling(value, np.mean([np.sort(o[:k]) for o in drawn], 0), threshold, said=said)
                    for k in (RULED, DRAWS))
    first.low, first.high, first.p = whole.low, whole.high, whole.p
    return first

def last(r, _):
    "C2: the distance of the block with the last layer, rescaled by size"
    found = [blocks(r, n) for n in range(1, r.depth // 2 + 1)]
    def scaled(o): return (o[..., -1] - o.min(-1)) / np.ptp(o, axis=-1)
    said = (f'{np.mean([(o[:-1] < o[-1]).mean() for o, _ in found]):.0%} of the other blocks',
            f'at {sum(o.argmax() == 0 for o, _ in found)} of {len(found)} sizes')
    return of_blocks(np.mean([scaled(o) for o, _ in found]), [scaled(o) for _, o in found], .9, said)

RULES = dict(C1=deep, C2=last, C3a=lambda r, t: width(r, cuts(r, t)),
             C3b=lambda r, t: healed_width(r, t, f'{HEALED} healed-fine'), C3c=rise, C4=smooth,  # made for C3b alone
             C5a=lambda r, _: gap(r, False), C5b=lambda r, _: gap(r, True), C6a=lambda r, _: rank(r, 'c4'), C6b=rank,
             C7a=seeds, C7b=examples, C8=lambda r, t: written_width(r, t) if t else None)

# The verdicts

def settled(rule, *args, least=2):
    """The word of a frozen rule by its own draws, with the interval of ten seeds together, and p too if it is below
    0.05: each counts the statistic itself, which counts once"""
    global SEED
    if (found := rule(*args)) is None or found.value is None: return found
    each = [found]
    for SEED in range(1, 10): each.append(rule(*args))
    SEED = 0
    alike = [o for o in each if o.value == found.value]
    found.low, found.high = (np.mean([getattr(o, k) for o in alike]) for k in ('low', 'high'))
    if found.p < .05: found.p = np.mean([o.p for o in each]) - .9 * least / 2001
    return found

@cache
def judged(claim, model, title):
    rule, args = RULES[claim], (run(model), TASKS.get(title, ''))
    draws_all = claim in ('C1', 'C2', 'C7a')  # or needs no draws
    return (rule(*args) if draws_all else settled(rule, *args, least=1 + (claim != 'C3c'))) or nothing(
        'not measured in this run')

def certain(key): return judged(*key).p

@cache
def daggers(*models):
    "Decided findings that Holm's correction over all that were tested takes back"
    tested = sorted((p, k) for k in rows if k[1] in models and (p := certain(k)) is not None)
    adjusted = np.maximum.accumulate([p * (len(tested) - i) for i, (p, _) in enumerate(tested)])
    return {k for (_, k), p in zip(tested, adjusted) if p >= .05 and judged(*k).word in ('holds', 'fails')}

@pytest.mark.parametrize('claim, model, title', rows)
def test_verdict(claim, model, title):
    verdict, number, _, p = rows[claim, model, title]
    mine = judged(claim, model, title)
    word = 'not measured' if mine.why.startswith('not measured') else mine.word
    assert re.split('[:†]', verdict)[0].strip() == word
    assert mine.word in ('holds', 'fails') or mine.why.removesuffix(' in this run') in verdict
    assert ('†' in verdict) == ((claim, model, title) in daggers(model))
    if mine.value is None: return None if not (number or p) else pytest.fail(f'{number}, {p}')
    digits = 2 if abs(mine.value) >= .1 else 3
    near(numbers(number), mine.value, mine.low, mine.high, digits, .01 * (claim == 'C7a'))
    sentence = said[claim, model]
    if not title or sentence.startswith(title): assert all(o in sentence for o in mine.said)

def first_of(claim, model):
    "The finding that stands for a claim: the first on a task that the model knows"
    own = [k for k in rows if k[:2] == (claim, model)]
    return next((k for k in own if 'does not know' not in judged(*k).why), own[0])

def test_every_table_of_verdicts():
    "That of all claims, the counts below it, and the five on the first page"
    words = {(c, m): 'not measured' if (o := judged(*first_of(c, m))).why.startswith('not measured') else o.word
             + ' †' * (first_of(c, m) in daggers(m)) for c in RULES for m in MODELS}
    table = [o for o in claims if len(o) == 4 and re.match(r'C\d\w?: ', o[0])]
    assert [o[0].partition(':')[0] for o in table] == [*RULES]
    for claim, *cells in table:
        for cell, m in zip(cells, MODELS):
            assert ' '.join(re.sub(r'-?\d[\d.]*', '', cell).split()) == words[claim.partition(':')[0], m]
    for m in MODELS:
        counted = re.search(rf'^- `{m}`, .* layers: (.*?)\. ?', printed('paper/claims'), re.M)[1]
        own = [words[c, m].removesuffix(' †') for c in RULES]
        for word, count in re.findall(r'([a-z ]+) (\d+)', counted): assert own.count(word.strip()) == int(count)
    shown = [o for data, _ in outputs('index') for o in ''.join(data.get('text/markdown', '')).splitlines()[2:]]
    five = [[o.strip() for o in line.split('|')[2:-1]] for line in shown]
    plain, gemma = ['C1', 'C5a', 'C5b'], [*MODELS].index('gemma-3-270m')
    assert not any('†' in words[c, m] for c in plain for m in MODELS), 'a † is "undecided" there'
    mine = {c: [words[c, m] for m in MODELS] for c in plain} | {
        c: [word_of_plateau(c, m) for m in MODELS] for c in ('C3a', 'C3b')}
    for c in ('C5a', 'C5b'): mine[c][gemma] = 'not informative'
    assert five == [mine[c] for c in ('C1', 'C3a', 'C3b', 'C5a', 'C5b')]
    assert np.sum([counts_of_plateau('C3a', m) for m in MODELS], 0).tolist() == [11, 0, 5, 2]

def counts_of_plateau(claim, model):
    "Of the tests on tasks that a model knows, how many there are, hold, fail, and fail alone"
    found = {k: judged(*k) for k in rows if k[:2] == (claim, model)}
    found = {k: o.word for k, o in found.items() if not re.match('does not know|not measured', o.why)}
    hold, fail = (sum(o == word for o in found.values()) for word in ('holds', 'fails'))
    return len(found), hold, fail, sum(k in daggers(model) for k in found)

def word_of_plateau(claim, model):
    "What the first page says: it fails where one task rejects it among all tests of the model, and none confirms it"
    _, hold, fail, alone = counts_of_plateau(claim, model)
    assert hold == 0
    return 'fails' if fail > alone else 'undecided'

def test_what_the_places_of_blocks_rest_on():
    "C1 without the blocks that hold the last layer and without the single one, C2 without those that hold the first"
    r = {m: run(m) for m in MODELS}
    def place(m, n, least=0): return blocks_of(r[m], n)[:r[m].depth - n + 1 - least].argmin() / (r[m].depth - n)
    def blocks_of(r, n): return np.array([r.mean[i, i + n] for i in range(r.depth - n + 1)])
    def last(d): return (d[-1] - d.min()) / np.ptp(d)
    for m in MODELS:
        depth, text = r[m].depth, printed('paper/claims')
        some = [np.mean([place(m, n, 1) for n in range(1, depth // 4 + 1)]),
                np.mean([place(m, n) for n in range(2, depth // 4 + 1)]),
                np.mean([last(blocks_of(r[m], n)[1:]) for n in range(1, depth // 2 + 1)])]
        line, other = re.findall(rf'`{m}` .*?: (without the blocks .*)', text)
        shown = *re.findall(r'has ([\d.]+) .*? n = 1 ([\d.]+)', line)[0], re.search(r'has ([\d.]+)', other)[1]
        assert [float(o) for o in shown] == pytest.approx(some, abs=.0051)
    assert blocks_of(r['gemma-3-270m'], 4).argmin() + 4 == r['gemma-3-270m'].depth  # it holds the last layer
    assert blocks_of(r[QWEN], 1).argmin() == 24

def test_how_many_verdicts_stand():
    "Each model in its own family and all in one, and the title of the figure"
    tested = [k for k in rows if certain(k) is not None]
    decided = [k for k in tested if judged(*k).word in ('holds', 'fails')]
    alone = [k for k in decided if k not in daggers(k[1])]
    together = [k for k in alone if k not in daggers(*MODELS)]
    stands('paper/claims', r'# findings were tested, and # of them.*?# stand in .*?, and # where all # runs',
           len(tested), len(decided), len(alone), len(together), len(MODELS))
    fewer = re.search('The difference: (.*)[.]', printed('paper/claims'))[1].split(', ')
    assert fewer == [f'`{m}` {claim} {title}'.strip() for claim, m, title in sorted(
        set(alone) - set(together), key=lambda k: ([*MODELS].index(k[1]), k[0]))]
    found = [(k, o.word) for c in RULES for m in MODELS if not (o := judged(*(k := first_of(c, m)))).why.startswith(
        'not measured')]
    counts = [sum(word == o and k not in daggers(k[1]) for k, word in found) for o in ('holds', 'fails')]
    assert (len(found), *counts) == (33, 11, 10), 'draw the figure of the verdicts again: its title has the old counts'

# The findings

QWEN = 'Qwen2.5-Coder-1.5B-Instruct'
ASKED = dict(likelihood='arc_easy', letter='arc_easy:scoring=letter')

def kept_shares(r, keys):
    "What each cut keeps of the accuracy above a guess, in %, with bands over all cuts at once, by n"
    a, guess = right(r, keys), row(r, keys[0]).baseline
    def kept(o): return 100 * (o[..., 1:] - guess) / (o[..., :1] - guess)
    value, some = kept(a.mean(1)), kept(draws(a))
    half = np.quantile(np.abs((some - value) / some.std(0)).max(1), .95) * some.std(0)
    return dict(zip((k[2] for k in keys[1:]), zip(value, value - half, value + half)))

def test_the_same_questions_asked_in_two_ways():
    "Accuracies, what is kept of them, and the loss that is added"
    r = run(QWEN)
    ways, losses = [cuts(r, o, sweeps='cuts four-ways-similarity') for o in ASKED.values()], cuts(r, 'c4')
    kept = [kept_shares(r, o) for o in ways]
    shown = [o for o in tables('findings/letters') if len(o) == 4 and o[0].isdigit() and '(' in o[1]]
    assert [int(o[0]) for o in shown] == [0, 1, 2, 3, 4, 6, 8]
    for n, *cells, loss in shown[1:]:
        for cell, keys, found in zip(cells, ways, kept, strict=True):
            accuracy, share = cell.split(' (')
            agrees(accuracy, 100 * right(r, [k for k in keys if k[2] == int(n)]).mean())
            agrees(share, found[int(n)], .03)
        (base, cut), tokens = nats(r, [losses[0], next(k for k in losses if k[2] == int(n))])
        assert len(tokens) == 64
        agrees(loss, paired(cut - base, tokens), .03)
    assert kept[0][6][0] > 90, 'without six layers it still ranks'
    assert kept[1][6][0] < 20, 'and hardly picks'

@pytest.mark.parametrize('way, task', {'loss (nats)': 'c4', 'ARC-Easy by likelihood (points)': 'arc_easy',
                                       'ARC-Easy by letter (points)': ASKED['letter'],
                                       'MMLU by letter (points)': 'mmlu'}.items())
def test_two_healed_cuts_swap_their_order(way, task):
    "Of each seed, on their own page"
    r, (shown,) = run(QWEN), [o[1:] for o in tables('findings/disagree') if o[0] == way]
    assert len(shown) == 3
    for seed, cell in enumerate(shown):
        sweeps = ['letters'] * 2 if 'letter' in task else ['healed', 'healed-simple']
        sweeps = [f'healed-seed-{seed}'] * 2 if seed else sweeps
        keys = [(sweep, s, 4, True, seed, task) for sweep, s in zip(sweeps, ('similarity', 'simple'))]
        (a, b), tokens = nats(r, keys) if task == 'c4' else (100 * right(r, keys), None)
        agrees(cell, paired(b - a, tokens), .05)

@pytest.mark.parametrize('n', [3, 4, 6, 8])
def test_two_healed_cuts_by_auc(n):
    "BoolQ, on their own page: how often yes has higher odds where it is right; sorted twice, and ties count half"
    where = [('task', '==', 'boolq'), ('healed', '==', True), ('n', '==', n), ('seed', '==', 0)]
    items = pd.read_parquet(root/'results/qwen2.5-coder-1.5b/items.parquet', filters=where).sort_values('index')
    weight = np.concatenate([np.ones((1, 500)), resamples(500)])
    def auc(strategy):
        own = items[items.strategy == strategy]
        odds, yes = np.stack(own.logprobs) @ [-1, 1], own.answer.to_numpy() == 1  # exact decimals
        def area(order):
            w, y = weight[:, order], yes[order]
            return (np.cumsum(w * ~y, 1) * w * y).sum(1) / (w * y).sum(1) / (w * ~y).sum(1)
        return (area(np.lexsort((yes, odds))) + area(np.lexsort((~yes, odds)))) / 2
    d = 100 * (auc('simple') - auc('similarity'))
    found = d[0], *np.quantile(d[1:], [.025, .975])
    stands('findings/disagree', rf'BoolQ by AUC, n = {n}, .*?: #', found)
    if n != 4: return
    row = next(o for o in tables('findings/disagree') if o[0] == 'BoolQ by AUC (points)')
    agrees(row[1], found)
    assert row[2:] == ['not measured'] * 2

def test_the_higher_loss_answers_more_with_each_new_seed():
    "Experiment D, on its own page: the smaller gain on MMLU of two seeds, and both losses"
    r, both = run(QWEN), [[(f'healed-seed-{s}', o, 4, True, s) for o in ('similarity', 'simple')] for s in (1, 2)]
    d = 100 * np.array([np.diff(right(r, [(*o, 'mmlu') for o in pair]), axis=0)[0] for pair in both])
    found = d.mean(1).min(), *np.quantile(draws(d).min(1), [.025, .975])
    stands('findings/disagree', r'the smaller of two new seeds \(points\): # yes p = 0.0002', found, other=.05)
    assert found[1] > 0
    for pair in both:
        sums, tokens = nats(r, [(*o, 'c4') for o in pair])
        assert np.quantile(draws(np.diff(sums, axis=0), tokens), .025) > 0

def test_no_plateau_where_every_cut_is_healed():
    "Experiment E: C3b of MMLU with all its cuts, p by Holm over A to E; C4 with its rows, which decide no other claim"
    mine, p = judged('C3b', QWEN, 'MMLU'), certain(('C3b', QWEN, 'MMLU'))
    assert mine.word == 'fails' and mine.low > .5
    alone, adjusted = (o for o in tables('findings/design') if o[0] in ('p', 'by Holm over the five'))
    assert [float(o[5]) for o in (alone, adjusted)] == pytest.approx([p, 2 * p], abs=6e-4)  # only B has a larger one
    sums, tokens = nats(r := run(QWEN), keys := cuts(r, 'c4', healed=True, sweeps=FINE))
    x, (kept, lost) = np.array([k[2] for k in keys]) / r.depth, mine.places
    inside = (x[1:] > kept) & (x[:-1] < lost)
    up, step = np.diff(draws(sums, tokens)), np.diff(x)
    slopes = up[:, inside].sum(1) / step[inside].sum() * step[~inside].sum() / up[:, ~inside].sum(1)
    assert np.quantile(slopes, .975) < 2, 'C4 would hold'

def test_no_plateau_with_3000_questions():
    "Experiment H: the rule for a plateau on its own rows, and what they keep"
    r, page = run(QWEN), 'paper/figure2'
    keys = [('mmlu-3000', 'similarity' if n else 'none', n, False, 0, 'mmlu') for n in (0, 1, 2, 3, 4, 6)]
    mine, small = (settled(width, r, o) for o in (keys, [('cuts', *o[1:]) for o in keys]))
    assert (mine.word, small.word) == ('fails', 'undecided')
    assert right(r, keys).shape[1] == 3000
    among = (1 + sum(p >= mine.p for k in rows if k[1] == QWEN and (p := certain(k)) is not None)) * mine.p
    stands(page, r'3,000 questions: width #, \*fails\*, p # alone and # among', (mine.value, mine.low, mine.high),
           mine.p, among)
    shown = [o for o in tables(page) if len(o) == 5 and o[0].isdigit() and o[3].endswith('%')]
    assert [float(o[3][:-1]) for o in shown] == pytest.approx(100 * right(r, keys).mean(1), abs=.051)

def test_reasoning_breaks_before_writing():
    "Experiment I: the share kept of reading a number minus that of GSM8K. The unpruned model reads all 400 right"
    r, ns = run(QWEN), (0, 1, 2, 3, 4, 6)
    read, solved = ([(sweep, 'similarity' if n else 'none', n, False, 0, task) for n in ns]
                    for sweep, task in (('read-number', 'read_number'), ('gsm8k-400', 'gsm8k')))
    def kept(a): return a[..., 2:5].mean(-1) / a[..., 0]  # n = 2, 3, 4
    a, b = (right(r, o) for o in (read, solved))
    assert a.shape == b.shape == (6, 400) and a[0].all()
    value = kept(a.mean(1)) - kept(b.mean(1))
    ends = np.quantile(kept(draws(a, seed=1)) - kept(draws(b)), [.025, .975])
    stands('paper/figure2', 'the difference # against 0.2: yes, p = 0.0001', (value, *ends))
    assert ends[0] > .2
    truth = [re.findall(r'\d+', o)[-1] for o in r.items[read[0]].written]
    first = [sum(re.findall(r'\d+', o)[:1] == [t] for o, t in zip(r.items[k].written, truth)) for k in read]
    assert first == [400, 400, 400, 400, 399, 398]
    shown = [o for o in tables('paper/figure2') if len(o) == 6 and o[1].endswith('of 400')]
    assert [[numbers(o[1])[0], numbers(o[3])[0], int(o[4])] for o in shown] == [
        [y.sum(), x.sum(), f] for x, y, f in zip(a, b, first)]

def test_four_layers_are_a_peak():
    "Experiment C, on its own page"
    page, r = 'findings/disagree', run(QWEN)
    kept = [('healed-simple' if n == 4 else 'healed-simple-fine', n) for n in (1, 2, 3, 4, 5)]
    one, two, three, four, five = 100 * right(r, [(sweep, 'simple', n, True, 0, 'mmlu') for sweep, n in kept])
    stands(page, 'right answers at n = 3, 4, 5: #%, #%, #%', *(o.mean() for o in (three, four, five)))
    found = paired(four - (three + five) / 2)
    stands(page, r'minus the mean of 3 and 5 \(points\): # yes p = 0.0001', found, other=.05)
    assert found[1] > 5
    for n, less in ((1, one), (2, two)):
        stands(page, rf'n = 4 minus n = {n} \(points\): #', paired(four - less), other=.06)
    again = right(r, [(f'healed-seed-{s}', 'simple', 4, True, s, 'mmlu') for s in (1, 2)])
    stands(page, 'with seeds 1 and 2 of healing: #%, #%', *(100 * again.mean(1)))

def test_where_the_cost_of_a_layer_arises():
    "Experiment F, on its own page: each layer of three models removed, everywhere and at position 0 only"
    page = 'findings/one_layer'
    shown = [o for o in tables(page) if len(o) == 5 and o[-1].endswith('%')]
    for name, (folder, depth) in MODELS.items():
        parts = load_file(root/'results'/folder/'parts.safetensors')
        whole, tokens = parts.get('layer', 0) - parts['none'], parts['counts'].astype(float)
        if folder == 'gemma3-270m':
            _, sums = block_losses(folder)
            whole = np.array([sums[l, l + 1] for l in range(depth)]) - sums[0, 0]
        if name == QWEN:
            kept, count = nats(run(QWEN), [('single-layers-100', o, int(o != 'none'), False, 0, 'c4') for o in
                                           ('none', *(f'layer {l}' for l in range(depth)))])
            whole = kept[1:] - kept[0]
            assert (count == tokens).all()
        cost, first = (o.sum(1) / tokens.sum() for o in (whole, parts['position 0'] - parts['none']))
        title = name.removesuffix('-Instruct').replace('gemma', 'Gemma').replace('270m', '270M')
        over = ', '.join(map(str, np.flatnonzero(first > cost / 2)))
        assert re.search(f'more than half .*{title} ' + (f'layer {over}' if over else 'no layer'), printed(page))
        rows = [o for o in shown if o[0] == title]
        assert [int(o[1]) for o in rows] == first.argsort()[::-1][:3].tolist()
        for _, l, everywhere, only, share in rows:
            costs = whole[int(l)], parts['position 0'][int(l)] - parts['none']
            for text, o in zip((everywhere, only), costs): agrees(text, linear(o, tokens))
            if (title, l) == ('Qwen2.5-Coder-1.5B', '1'):
                of_half = linear(costs[1] - costs[0] / 2, tokens)
                assert of_half[1] < 0 < of_half[2]
                stands(page, 'half of its cost: #', of_half)
            assert numbers(share)[0] == pytest.approx(100 * first[int(l)] / cost[int(l)], abs=.51)

@pytest.mark.parametrize('folder, name', [
    ('demo', 'SmolLM2-135M'), ('gemma3-270m', 'Gemma-3-270M'), ('qwen2.5-coder-1.5b', 'Qwen2.5-Coder-1.5B')])
def test_the_angle_against_other_blocks(folder, name):
    "From the kept losses of every block: the first page, and the mean regrets of four rules on their own page"
    kept, mean = (load_file(root/'results'/folder/f'{o}.safetensors') for o in ('loss_map', 'distances'))
    depth, tokens = int(kept['blocks'].max()), kept['counts'].astype(float)
    weight = np.concatenate([np.ones((1, len(tokens))), resamples(len(tokens))])
    loss = dict(zip(map(tuple, kept['blocks'].tolist()), kept['sums'] @ weight.T / (weight @ tokens)))
    sizes = [n for n in range(1, depth // 2 + 1) if (0, n) in loss]
    found = []
    for n in sizes:
        of = np.stack([loss[l, l + n] for l in range(depth - n + 1)])
        nearest = int(np.argmin([mean['mean'][l, l + n] for l in range(depth - n + 1)]))
        found.append(np.stack([of[nearest], of[(depth - n) // 2], of[depth - 1 - n], np.median(of, 0)])
                     - of[of[:, 0].argmin()])
    third = np.mean(found[:sum(n <= depth // 3 for n in sizes)], 0)
    row = next(o for o in tables('findings/measuring') if o[0] == name and len(o) == 5)
    for shown, d in zip(row[1:], third, strict=True): agrees(shown, (d[0], *np.quantile(d[1:], [.025, .975])))
    median, middle = third[3] - third[0], third[1] - third[0]
    assert np.quantile(median[1:], .025) > 0  # on all three models
    if folder.startswith('qwen'):
        low, high = np.quantile(middle[1:], [.025, .975])
        assert low < 0 < high
    half = np.mean(found, 0)
    for rule, title in ((3, 'median block'), (1, 'middle')):
        row = next(o for o in tables('findings/measuring') if o[:2] == [title, name])
        for text, mean in zip(row[2:], (third, half)):
            d = mean[rule] - mean[0]
            if text != 'not measured': agrees(text, (d[0], *np.quantile(d[1:], [.025, .975])))
    if folder.startswith('qwen'): return
    assert middle[0] * (half[1] - half[0])[0] < 0, 'the other sign up to half of the layers'

def test_two_ways_of_asking():
    "Retention by likelihood minus by letter, a mean over four cuts, of which the last has the largest"
    r = run(QWEN)
    a, b = (right(r, [('four-ways-similarity', 'similarity' if n else 'none', n, False, 0, t) for n in (0, 2, 3, 4, 6)])
            for t in ASKED.values())
    some = draws(np.concatenate([a, b])) - .25
    def mean(o): return (o[:, 1:5] / o[:, :1] - o[:, 6:] / o[:, 5:6]).mean(1)
    value = mean(np.concatenate([a, b]).mean(1)[None] - .25)[0]
    stands('findings/letters', 'holds: # against 0.1', (value, *np.quantile(mean(some), [.025, .975])))
    both = right(r, [k for t in ASKED.values() for k in cuts(r, t, sweeps='cuts four-ways-similarity') if k[2] <= 8])
    assert len(both) == 14  # the whole model and six cuts, asked in two ways
    def each(o): return (o[..., 1:7] - .25) / (o[..., :1] - .25) - (o[..., 8:] - .25) / (o[..., 7:8] - .25)
    found, ends = each(both.mean(1)), np.quantile(each(draws(both)), [.025, .975], axis=0)
    line = re.search('all sizes: (.*)', printed('findings/letters'))[1]
    for text, *one in zip(re.findall(r'n = \d (\S+ \[.*?\])', line), found, *ends, strict=True): agrees(text, one)
    assert found[0] < 0, 'without one layer the sign is reversed'
    a, b = ((o[1:].mean(1) - .25) / (o[0].mean() - .25) for o in (a, b))
    assert (a - b).argmax() == 3

# Pages whose numbers the first page does not have

def test_half_layers():
    "Experiment L, and the sets of parts"
    page, kept = 'findings/published', load_file(root/'results'/'demo'/'parts.safetensors')
    tokens, parts = kept['counts'].astype(float), ('layer', 'attention', 'mlp')
    time = dict(zip(parts, kept['milliseconds'].mean(1)), pair=kept['milliseconds'].mean(1)[1:].sum())
    def added(name): return np.atleast_2d(kept[name] - kept['none'])
    best = {k: added(k)[added(k).sum(1).argmin()] for k in (*parts, 'pair')}
    shown = [o for o in tables(page) if len(o) == 5 and o[0] in best]
    assert len(shown) == 4
    for name, _, ms, loss, per in shown:
        assert float(ms) == pytest.approx(time[name], abs=.0051)
        agrees(loss, paired(best[name], tokens))
        agrees(per, paired(best[name] / time[name], tokens))
    found = paired(best['attention'] / time['attention'] - best['layer'] / time['layer'], tokens)
    stands(page, 'best attention minus best layer: #', found)
    assert found[2] < 0
    for share, *cells in (o for o in tables(page) if len(o) == 5 and re.fullmatch('[123]0 %', o[0])):
        one, layers, block = (added(f'{o} {share[:2]}')[0] for o in ('attention', 'layers', 'block'))
        for text, o in zip(cells, (one, layers, block, one - layers), strict=True): agrees(text, paired(o, tokens))

def test_where_letters_are_read():
    "Experiment B, with the first 100 questions: each layer removed alone"
    page, r = 'findings/letters', run(QWEN)
    def without(task): return [('single-layers-100', f'layer {i}' if i + 1 else 'none', int(i >= 0), False, 0, task)
                               for i in range(-1, 28)]
    sums, tokens = nats(r, without('c4'))
    text, letter = (right(r, without(o)) for o in ASKED.values())
    ways = (sums[1:] - sums[0], tokens), (100 * (text[0] - text[1:]), None), (100 * (letter[0] - letter[1:]), None)
    groups = {'3 to 12': slice(3, 13), '13 to 25': slice(13, 26), '27': slice(27, 28)}
    found = {k: [paired(cost[some].mean(0), of) for cost, of in ways] for k, some in groups.items()}
    shown = [o for o in tables(page) if o[0] in groups]
    assert len(shown) == 3
    for layers, *cells in shown:
        for cell, one in zip(cells, found[layers], strict=True): agrees(cell, one)
    more = 100 * ((letter[:1] - letter[1:]) - (text[:1] - text[1:]))[3:13].mean(0)
    stands(page, 'by letter minus by likelihood: #', paired(more))
    assert all(low < 0 < high for _, low, high in found['27'][1:])
    kept = [('four-ways-similarity', 'similarity' if n else 'none', n, False, 0, ASKED['letter']) for n in (0, 4)]
    whole, four = right(r, kept)[:, ::5]  # every fifth of the 500 questions
    assert (whole == letter[0]).sum() == 99  # one is a tie
    together, alone = 100 * (whole - four), ways[2][0][13:17].sum(0)
    for label, d in dict(together=together, added=alone, difference=together - alone).items():
        stands(page, f'layers 13 to 16 by letter, .*{label}: #', paired(d))

    def apart(a): return ((a[..., 1:29] - .25) / (a[..., :1] - .25) - (a[..., 30:] - .25) / (a[..., 29:30] - .25))
    value, some, both = [], [], np.concatenate([text, letter])
    for odd in (1, 0):  # the two layers are chosen on one half, and compared on the other
        gap, other = apart(both[:, odd::2].mean(1)), both[:, 1 - odd::2]
        def spread(a): return apart(a)[..., gap.argmax()] - apart(a)[..., gap.argmin()]
        value, some = [*value, spread(other.mean(1))], [*some, spread(draws(other))]
    mine = ruling(np.mean(value), np.mean(some, 0), .2)
    stands(page, f'{mine.word}: # against 0.2, p = #', (mine.value, mine.low, mine.high), mine.p)
    (chances,) = (o for o in tables('findings/design') if o[0] == 'p')
    assert float(chances[2]) == pytest.approx(mine.p, abs=.006)

def test_what_two_strategies_keep():
    "Their accuracies and healed losses by cut"
    r, strategy = run(QWEN), ''
    shown = [o for o in tables('findings/disagree') if ' % (' in ''.join(o)]
    assert len(shown) == 15
    for *name, n, a, b, c, d, loss in shown:
        strategy = (name or [strategy])[0]
        for cell, task, healed in ((a, 'mmlu', False), (b, 'mmlu', True), (c, 'arc_easy', False), (d, 'arc_easy', True),
                                   (loss, 'c4', True)):
            keys = cuts(r, task, strategy, healed, FINE if healed else 'cuts')
            own = [keys[0], *(k for k in keys if k[2] == int(n))]
            assert (cell in ('', 'not measured')) == (len(own) < 2)
            if len(own) < 2: continue
            if task == 'c4':
                (base, cut), tokens = nats(r, own)
                agrees(cell, paired(cut - base, tokens), .05)
                continue
            base, cut = 100 * right(r, own).mean(1)
            assert numbers(cell)[:2] == pytest.approx([cut, 100 * (cut - 25) / (base - 25)], abs=.51)
            agrees(cell.partition('(')[0], cut)

def test_what_seeds_and_the_order_of_examples_move():
    "Figures 7 and 8: the answers are paired, and of three seeds the largest difference is shown"
    r, page = run(QWEN), 'paper/figures7to9'
    shown = [o for o in tables(page) if o[0] == 'Qwen2.5-Coder-1.5B' and o[2:4] == ['simple', '4']]
    for title, task, first in (
            ('MMLU', 'mmlu', 'healed-simple'), ('ARC-Easy (scoring letter)', ASKED['letter'], 'letters')):
        sweeps = first, 'healed-seed-1', 'healed-seed-2'
        own = right(r, [(o, 'simple', 4, True, s, task) for s, o in enumerate(sweeps)])
        pairs = [paired(100 * (b - a)) for a, b in ((own[0], own[1]), (own[0], own[2]), (own[1], own[2]))]
        most = max(pairs, key=lambda o: abs(o[0]))
        (row,) = (o for o in shown if o[1] == title)
        agrees(row[-1], most, .06)
        assert most[1] * most[2] > 0
    small, found = run('SmolLM2-135M-Instruct'), {}
    for n in (0, 2, 4, 6, 8, 12):
        keys = [(f'shots-5{o}', 'similarity' if n else 'none', n, False, 0, 'arc_easy') for o in ('', '-order-1')]
        found[n] = paired(100 * np.subtract(*right(small, keys[::-1])))
    printed = dict(o for o in tables(page) if len(o) == 2 and o[0].isdigit())
    assert [*found] == [int(o) for o in printed]
    for n, one in found.items(): agrees(printed[str(n)], one, .06)
    assert [n for n, o in found.items() if o[1] > 0] == [6] and not [n for n, o in found.items() if o[2] < 0]

def test_the_frozen_rules_on_gemma():
    "Experiment J. Their numbers stand on the page of claims"
    found = [judged(o, 'gemma-3-270m', task).word for o, task in (('C5b', ''), ('C7a', ''), ('C7b', 'ARC-Easy'))]
    assert found == ['holds', 'holds', 'fails']

def test_a_low_rank_after_a_million_tokens():
    "Experiment K, of one of its two cuts"
    r, page = run('SmolLM2-135M-Instruct'), 'paper/figures7to9'
    asked = [(f'{o}-1m-answers', 'similarity', 8, True, 0, 'arc_easy') for o in ('rank-2', 'tokens')]
    low, high = right(r, asked)
    found = paired(100 * (low - high))
    (cell,) = (o[-1] for o in tables(page) if o[0] == '1,024,000')
    agrees(cell, found, .06)
    stands(page, '1,024,000 tokens of healing: # points, .undecided', found, other=.06)

def test_how_often_loss_and_answers_agree():
    "Over all cuts that were healed under both strategies, of the tasks that a model knows"
    sure, against, ways, asked, sweeps = 0, [], [], 0, f'{FINE} letters'
    for name, r in ((o, run(o)) for o in MODELS):
        def both(task):
            a, b = ({k[2]: k for k in cuts(r, task, s, True, sweeps) if k[2]} for s in ('similarity', 'simple'))
            return {n: [a[n], b[n]] for n in a if n in b}
        losses = both('c4')
        for task in sorted({k[5] for k in r.items} - {'c4'}):
            pairs = both(task)
            for n, keys in pairs.items() if pairs and known(r, cuts(r, task, sweeps=sweeps)[0]) else ():
                (a, b), (sums, tokens) = right(r, keys), nats(r, losses[n])
                answers, loss = paired(b - a), paired(sums[1] - sums[0], tokens)
                asked += 1
                if min(answers[1] * answers[2], loss[1] * loss[2]) <= 0: continue
                sure += 1
                title = next((k for k, v in TASKS.items() if v == task), 'ARC-Easy (scoring letter)')
                ways.append((task in ('mmlu', 'boolq') or 'letter' in task, answers[0] * loss[0] < 0))
                if answers[0] * loss[0] > 0: against.append(f'{name.removesuffix("-Instruct")}, {title}, n = {n}')
    stands('findings/disagree', '# of # pairs', sure, asked)
    stands('findings/disagree', 'In # of them .*?in # fewer', sure - len(against), len(against))
    agreeing = [sum(agree for letter, agree in ways if letter == o) for o in (False, True)]
    counts = agreeing[0], sum(not o for o, _ in ways), agreeing[1], sum(o for o, _ in ways)
    stands('findings/disagree', 'by likelihood, # of # agree, by letter or yes and no # of #', *counts)
    shown = re.search(r'fewer:\n((?:.+, n = \d+\n)+)', printed('findings/disagree'))[1]
    assert sorted(shown.splitlines()) == sorted(against)

def test_letters_that_do_not_disagree():
    "MMLU of the healed cuts: only at one and at four layers does the interval of the difference leave zero"
    r = run(QWEN)
    for n in (1, 2, 3, 4, 6, 8):
        keys = [next(k for k in cuts(r, 'mmlu', s, True, FINE) if k[2] == n)
                for s in ('similarity', 'simple')]
        _, low, high = paired(np.diff(right(r, keys), axis=0)[0])
        assert (low < 0 < high) == (n not in (1, 4)) and (n != 1 or high < 0)

def test_published_cuts():
    "On the documents that did not choose the best block"
    kept = pd.read_csv(root/'results'/'published_cuts.csv').set_index('cut')
    (whole, *ours), tokens = nats(run('gemma-3-270m'), [
        ('losses', o, n, False, 0, 'c4') for o, n in (('none', 0), ('similarity', 4), ('simple', 4), ('middle', 4))])
    sums = {k: np.array(o.split(), float) for k, o in kept.sums.items()}
    sums |= dict(zip(('similarity', 'simple', 'middle'), ours))
    shown = {o[0]: o[3:] for o in tables('findings/published') if len(o) == 5 and o[0] in sums}
    assert [*shown] == sorted(sums, key=lambda k: (sums[k][16:].sum(), k == 'last')) and len(shown) == 8
    for cut, cells in shown.items():
        for cell, base in zip(cells, (whole, sums['data-driven'])):
            agrees(cell, paired((sums[cut] - base)[16:], tokens[16:]), .06)
    assert kept.layers['last'] == '14 15 16 17', 'the block of least angle'

def test_repairs():
    "The loss of each cut, and its change by each method"
    kept = pd.read_csv(root/'results'/'repair.csv').set_index(['cut', 'method'])
    sums, tokens = ({k: np.array(o.split(), float) for k, o in kept[c].items()} for c in ('sums', 'counts'))
    def loss(*key): return sums[key].sum() / tokens[key].sum()
    shown, cut = [o[-5:] for o in tables('findings/published') if len(o) == 6 and o[1] in {m for _, m in sums}], ''
    index = [o[:2] for o in tables('findings/published') if len(o) == 6 and o[1] in {m for _, m in sums}]
    assert {tuple(o) for o in index} == {*sums} - {('unpruned', 'none')}
    for (cut, method), (_, value, change, low, high) in zip(index, shown):
        agrees(value, loss(cut, method))
        d = linear(sums[cut, method] - sums[cut, 'none'], tokens[cut, method])
        assert [float(o) for o in (change, low, high)] == pytest.approx(d, abs=.0051)
    excess = loss('11-18', 'none') - loss('unpruned', 'none')
    undone = [100 * (loss('11-18', 'none') - loss('11-18', m)) / excess for m in ('rescale', 'linear map', 'constant')]
    stands('findings/published', '11-18: # above the unpruned model; undone: rescale #%, linear map #%, constant #%',
           excess, *undone)

def test_what_is_kept_of_the_raw_accuracy():
    "Beside what others published"
    r = run('SmolLM2-135M-Instruct')
    base = right(r, cuts(r, 'arc_easy')[:1])[0]
    shown = [o for o in tables('findings/published') if len(o) == 3 and o[0].isdigit()]
    assert [int(o[0]) for o in shown] == [2, 4, 6, 8, 10, 12]
    for n, *cells in shown:
        for cell, healed in zip(cells, (False, True)):
            cut = right(r, [k for k in cuts(r, 'arc_easy', healed=healed) if k[2] == int(n)])[0]
            some = draws(np.stack([cut, base]))
            found = cut.mean() / base.mean(), *np.quantile(some[:, 0] / some[:, 1], [.025, .975])
            agrees(cell, [100 * o for o in found], .07)

def test_published_tables():
    "Single layers, blends of data, and layers against experts, as others measured them"
    page, results = 'findings/published', root/'results'
    shown, singles = {o[0]: o[1:] for o in tables(page) if len(o) == 5}, pd.read_csv(results/'published_singles.csv')
    chosen = pd.read_csv(root/'paper/published.csv', comment='#').query('n == 1 and model == "Llama-2-7b"').start.item()
    def rank(p, i): return [i, (p < p[i]).sum() + 1, len(p)], math.log(p[i] / p.min())
    for model, own in singles.groupby('model'):
        p = own.perplexity.to_numpy()
        layers, cheapest, *cells = shown[model]
        assert own.layer.tolist() == list(range(int(layers))) and int(cheapest) == p.argmin()
        for cell, i in zip(cells, ((len(p) - 1) // 2, len(p) - 2), strict=True):
            place, more = rank(p, i)
            assert numbers(cell)[:3] == place and float(cell.rpartition('+')[2]) == pytest.approx(more, abs=.0051)
        if model != 'Llama-2-7B': continue
        place, more = rank(p, chosen)
        stands(page, "the paper's layer of Llama-2-7B, #: # of #, # nats", *place, more)
    assert singles.model.nunique() == 8
    t = pd.read_csv(results/'published_blends.csv')
    only, blends = t[(t.data == 'pre-training only') & (t.billion_tokens == 56)].iloc[0], t[
        t.data.str.startswith('30 %') & (t.billion_tokens == 60)]
    more = [(blends[o] - only[o]).agg(f) for o, f in product(('AIME 2025', 'MMLU'), ('min', 'max'))]
    found = re.search(r'AIME 2025 (\[.*?\]), MMLU (\[.*?\])', printed(page))
    assert numbers(found[1]) + numbers(found[2])[::-1] == pytest.approx(more, abs=.051)
    t = pd.read_csv(results/'published_experts.csv')[['layers', 'hidden_size', 'expert_size', 'experts',
                                                      'billion_parameters', 'MMLU']]
    rows = [o for o in tables(page) if len(o) == 7 and o[0] in ('40', '44', '48')]
    assert [[float(v) for v in (*o[:5], o[6])] for o in rows] == t.to_numpy(float).tolist()

def test_what_predicts_the_healed_loss():
    "The correlations with it, and the price of each choice"
    page, t = 'findings/measuring', pd.read_csv(root/'results'/'predict.csv').set_index('start').sort_index()
    tokens, before, after = (np.array(t[k].map(json.loads).tolist(), float) for k in ('counts', 'before', 'after'))
    tokens, before, after = tokens[0], before[1:], after[1:]  # the first row is the unpruned model
    mean = load_file(root/'results'/'demo'/'distances.safetensors')['mean']
    distance = np.array([mean[i, i + 8] for i in range(len(after))])
    def loss(o): return o.sum(1) / tokens.sum()
    def spearman(a, b):
        n, d = b.shape[-1], a.argsort(-1).argsort(-1) - b.argsort(-1).argsort(-1)
        return 1 - 6 * (d**2).sum(-1) / (n * (n * n - 1))
    rows = [o[-4:] for o in tables(page) if len(o) > 3 and o[-4] in ('all 23 blocks', 'the 11 it ranks best')]
    found, healed = [], draws(after, tokens)
    for by, some in ((distance, distance[None]), (loss(before), draws(before, tokens))):
        for few in (np.arange(23), by.argsort()[:11]):
            found.append((spearman(by[few], loss(after)[few]),
                          *np.quantile(spearman(some[:, few], healed[:, few]), [.025, .975])))
    for row, one in zip(rows, found, strict=True): near([float(o) for o in row[1:]], *one, 2, .05)
    best, depth = loss(after).argmin(), len(mean) - 1
    starts = {'distance': distance.argmin(), 'unhealed loss': loss(before).argmin(), 'middle': (depth - 8) // 2,
              'simple': depth - 9, 'best healed': best}
    rows = [o for o in tables(page) if len(o) == 7 and o[0] in starts]
    for rule, layers, *cells in rows:
        i = starts[rule]
        assert layers == f'{i}-{i + 7}'
        assert [float(o) for o in cells[:2]] == pytest.approx([loss(before)[i], loss(after)[i]], abs=.0051)
        near([float(o) for o in cells[2:]], *linear(after[i] - after[best], tokens), 2)
    assert len(rows) == len(starts)

@pytest.mark.parametrize('n, less', {1: [.10, .08, .12], 2: [.01, 0, .03], 4: [.01, 0, .02]}.items())
def test_the_middle_on_more_documents(n, less):
    sums, tokens = nats(run(QWEN), [('cuts', 'similarity', n, False, 0, 'c4'), ('middle', 'middle', n, False, 0, 'c4')])
    found = paired(sums[0] - sums[1], tokens)
    assert found == pytest.approx(less, abs=.0051)
    assert len(tokens) == 64 and found[1] > 0

def test_one_layer_taken_apart():
    page, kept = 'findings/one_layer', load_file(root/'results'/'one_layer.safetensors')
    tokens, sums = block_losses('demo')
    mean = load_file(root/'results'/'demo'/'distances.safetensors')['mean']
    cost = np.array([sums[i, i + 1] - sums[0, 0] for i in range(30)]).sum(1) / tokens.sum()
    turn = np.array([mean[i, i + 1] for i in range(30)])
    stands(page, r'layer 11: loss #, rank # of # from below; distance #, rank # of #', cost[11],
           (cost <= cost[11]).sum(), 30, turn[11], (turn <= turn[11]).sum(), 30)
    stands(page, 'median layer: loss #, distance #', np.median(cost), np.median(turn))
    added = {k.removeprefix('demo/'): linear((v - kept['demo/none']).astype(float).sum(1), np.full(16, 255))
             for k, v in kept.items() if k.startswith('demo/') and v.shape == (16, 255)}
    rows = [o for o in tables(page) if len(o) == 4 and o[0] in added]
    assert len(rows) == 6
    for name, *cells in rows: near([float(o) for o in cells], *added[name], 2)
    fixed = added['whole layer, constant at position 0'][0] / added['whole layer'][0]
    stands(page, 'the constant undoes: #%', 100 * (1 - fixed))
    whole, without, constant = (100 * kept[f'demo/arc/{o}'].astype(float) for o in ('none', 'whole layer', 'constant'))
    stands(page, 'ARC-Easy, unpruned: #%', whole.mean())
    for at, o in (('without layer 11', without), ('with the constant', constant)):
        stands(page, f'ARC-Easy, {at}: #% of # questions, #', o.mean(), len(o), paired(o - whole))
    seen = kept['demo/seen/none'].mean(-1)
    for name, o in (('unpruned', 'none'), ('without', 'whole layer')):
        each = 100 * kept[f'demo/seen/{o}'][2, 12:].mean(0)
        stands(page, f'after 11, {name}: #%, in single documents #% to #%', each.mean(), each.min(), each.max())
    assert len(each) == 8
    assert f'{seen[0, 10]:,.0f} before layer 11, {seen[0, 11]:,.0f} after it' in printed(page)

@pytest.mark.parametrize('folder, depth', [('demo', 30), ('gemma3-270m', 18)])
def test_sparing_costly_layers(folder, depth):
    "Of the blocks with the fewest layers that cost more than 0.5 nats alone, the one of least angle"
    page, (tokens, sums) = 'findings/one_layer', block_losses(folder)
    mean = load_file(root/'results'/folder/'distances.safetensors')['mean']
    costly = [i for i in range(depth) if (sums[i, i + 1] - sums[0, 0]).sum() > .5 * tokens.sum()]
    def start(n, spared): return min(range(depth - n + 1), key=lambda i: (len({*spared} & {*range(i, i + n)}),
                                                                         mean[i, i + n]))
    found = {n: (a, b) for n in range(1, depth // 2 + 1) if (a := start(n, costly)) != (b := start(n, []))}
    change = {n: linear(sums[a, a + n] - sums[b, b + n], tokens) for n, (a, b) in found.items()}
    shown = [o for o in tables(page) if len(o) == 6 and o[0].isdigit()]
    shown = shown[:len(found)] if folder == 'demo' else shown[len(shown) - len(found):]
    assert {int(n): (int(a), int(b)) for n, a, b, *_ in shown} == found
    for n, _, _, *cells in shown: near([float(o) for o in cells], *change[int(n)], 2)
    if folder == 'demo':
        stands(page, 'layers 9 to 11 minus layer 11 alone: #', linear(sums[9, 12] - sums[11, 12], tokens))
        assert f'costly: {costly}' in printed(page)
    else: stands(page, '# of # layers are costly', len(costly), depth)

def test_where_half_is_lost():
    "By the rule for a plateau, and the accuracies of the unpruned models"
    shown = [o for o in tables('paper/figure2') if len(o) == 5 and re.fullmatch(r'[\d.]+% of [\d,]+', o[2])]
    assert len(shown) == 11
    for name, title, accuracy, _, lost in shown:
        model = next(o for o in MODELS if o.startswith(name))
        r, keys = run(model), cuts(run(model), TASKS[title])
        x, a, guess = np.array([k[2] for k in keys]) / r.depth, right(r, keys), row(r, keys[0]).baseline
        some = np.concatenate([fall(x, o, guess)[1] for o in (a.mean(1)[None], draws(a))])
        agrees(lost, (100 * some[0], *(100 * np.quantile(some[1:], [.025, .975]))))
        assert numbers(accuracy) == pytest.approx([100 * a[0].mean(), a.shape[1]], abs=.051)

def test_written_solutions_break_first():
    keys = cuts(run(QWEN), 'gsm8k')
    solved = dict(zip((k[2] for k in keys), right(run(QWEN), keys).sum(1)))
    rows = [o for o in tables('paper/figure2') if o[0].startswith('GSM8K, n = ')]
    assert {numbers(o[0])[-1]: o[1] for o in rows} == {n: f'{k / 4:.0f}% = {k:.0f}/400' for n, k in solved.items()}

# Experiment M: its answers, by the title of an arm

ABILITIES, GSM8K = 'findings/abilities', 'gsm8k:shots=0'
ARMS = {'whole': 'parent', 'cut, not healed': 'cut-2', 'healed on C4': 'c4-2', 'healed on own answers': 'self-2',
        'healed on C4, seed 1': 'c4-2-seed-1', 'healed on C4, slowly': 'c4-slow-2',
        'healed on C4, slowly, seed 1': 'c4-slow-2-seed-1', 'distilled on C4': 'c4-top-2',
        'distilled on own answers': 'self-top-2', 'healed on own answers, seed 1': 'self-2-seed-1',
        'whole healed on C4': 'c4-0', 'whole healed on own answers': 'self-0',
        'healed on own answers, 0.3 × the tokens': 'self-2-less',
        'healed on own answers, 3 × the tokens': 'self-2-more', 'four layers cut, not healed': 'cut-4',
        'four layers cut, healed on C4': 'c4-4', 'four layers cut, healed on own answers': 'self-4',
        'healed on C4, seed 2': 'c4-2-seed-2', 'healed on own answers, seed 2': 'self-2-seed-2'}
SEEDS = '', ', seed 1', ', seed 2'

@cache
def abilities(): return dict(iter(pd.read_parquet(root/'results'/'abilities.parquet').sort_values('item').groupby(
    ['arm', 'task'])))

def asked(title, task=GSM8K): return abilities().get((ARMS[title], task))
def solved(title, task=GSM8K): return 100 * asked(title, task).right.to_numpy(float)

def moved(first, second, task):
    "The first minus the second: nats or agreement a token, or points"
    a, b = asked(first, task), asked(second, task)
    if task not in ('c4', 'agreement'): return paired(solved(first, task) - solved(second, task))
    return paired(a['sum'].to_numpy() - b['sum'].to_numpy(), a['count'].to_numpy(float))

def difference_row(arm, other):
    "One of two healings minus the other: a cell for each task"
    return next(o for o in tables('findings/abilities') if o[0] == f'{arm} − {other}')


def test_which_healing_brings_written_answers_back():
    "How many each arm solves, and the comparisons of two with their p"
    lines, found = printed(ABILITIES).splitlines(), []
    compared = [o for o in tables(ABILITIES) if len(o) == 7 and re.match(r'fixed|\d', o[6])]
    at = next(i for i, o in enumerate(compared) if o[0] == 'What of HumanEval?')
    assert [at, len(compared)] == [36, 43]
    for title, task, n, pairs in (('HumanEval', 'humaneval', 164, compared[at:]), ('GSM8K', GSM8K, 400, compared[:at])):
        for k in (k for k in ARMS if asked(k, task) is not None):
            own = solved(k, task) / 100
            shown = numbers(next(t for t in lines if t.startswith(f'{title}, {k}: ')).partition(': ')[2])
            p, z = own.mean(), 1.959964  # Wilson's interval
            middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
            near(shown[2:], 100 * p, *[100 * (middle + s * half) / (1 + z * z / n) for s in (-1, 1)], 1)
            assert shown[:2] == [own.sum(), n] and len(own) == n
        for _, k, v, points, won, lost, p in pairs:
            d = solved(k, task) - solved(v, task)
            agrees(points, paired(d), .05)
            assert [int(won), int(lost)] == [(d > 0).sum(), (d < 0).sum()]
            n_pairs, least = int(won) + int(lost), min(int(won), int(lost))  # a sign test
            sign = min(1, 2 * sum(math.comb(n_pairs, i) for i in range(least + 1)) / 2**n_pairs)
            found += [(sign, float(p))] if p != 'fixed' else []
    found.sort()
    adjusted = np.minimum(1, np.maximum.accumulate([p * (len(found) - i) for i, (p, _) in enumerate(found)]))  # by Holm
    assert len(found) == 42 and [p for _, p in found] == pytest.approx(adjusted, rel=.06)

def test_the_gate_of_own_answers():
    "At each seed, and without four layers"
    lines = re.findall(r'^(holds|undecided): (.*?) points, (\d+) questions, the threshold is (\d+)', printed(ABILITIES),
                       re.M)
    assert [o[0] for o in lines] == ['holds'] * 3 + ['undecided']
    arms = [(f'healed on own answers{k}', f'healed on C4{k}') for k in SEEDS]
    arms += [('four layers cut, healed on own answers', 'four layers cut, healed on C4')]
    for (word, points, n, threshold), pair in zip(lines, arms):
        found = moved(*pair, GSM8K)
        agrees(points, found)
        assert (int(n), int(threshold), found[1] > 5) == (400, 5, word == 'holds')

def test_what_each_healing_moves():
    "The difference of two arms in each task, and in the likeliest token"
    columns = (GSM8K, 'humaneval', 'arc_easy', 'c4')
    shown = [(o[0].split(' − '), o[1:]) for o in tables(ABILITIES) if len(o) == 5 and ' − ' in o[0]]
    assert len(shown) == 9
    for (first, second), cells in shown:
        for cell, task in zip(cells, columns):
            if cell != '–': agrees(cell, moved(first, second, task), .25 if task == 'arc_easy' else .1)
    losses = {k: run(QWEN).items['cuts', s, n, False, 0, 'c4'].loss.to_numpy() for k, s, n in (
        ('the whole model', 'none', 0), ('the cut', 'similarity', 2))}
    losses['the whole model healed alike'] = asked('whole healed on C4', 'c4')['sum'].to_numpy()
    shown = re.findall(r'^(.*?), (C4 loss|agreement) against (.*?): (.*)$', printed(ABILITIES), re.M)
    assert len(shown) == 14
    for first, what, second, text in shown:
        own, loss = asked(first, 'c4'), what == 'C4 loss'
        found = paired(own['sum'].to_numpy() - losses[second], own['count'].to_numpy(float)) if loss else [
            100 * o for o in moved(first, second, 'agreement')]
        agrees(text, found, .15)  # theirs are linearised
    tokens = asked('whole healed on C4', 'agreement')['count'].sum()
    for k in ('C4', 'own answers'):
        (cell,) = (o[2] for o in tables(ABILITIES) if len(o) == 3 and o[0] == f'whole healed on {k}')
        assert numbers(cell)[0] == pytest.approx(
            100 * asked(f'whole healed on {k}', 'agreement')['sum'].sum() / tokens, abs=.051)

def test_what_the_seeds_of_healing_say_together():
    "Over the problems, and with the seeds drawn anew too"
    own, fast, slow = ([solved(f'healed on {o}{k}') for k in SEEDS[:n]] for o, n in (
        ('own answers', 3), ('C4', 3), ('C4, slowly', 2)))
    cut, whole = [solved('cut, not healed')], solved('whole')
    for label, a, b in (('both seeds, the lower rate brings C4', slow, fast[:2]),
                        ('both seeds, the cut is above C4 at the lower rate by', cut, slow),
                        ('three seeds, own answers are above C4 by', own, fast),
                        ('three seeds, own answers are above the cut by', own, cut),
                        ('three seeds, the cut is above C4 by', cut, fast)):
        stands(ABILITIES, f'{label}: #', paired(np.mean(a, 0) - np.mean(b, 0)), other=.05)
    def drawn(arms, rng):
        some = draws(np.array(arms))
        return np.take_along_axis(some, rng.integers(len(arms), size=some.shape), 1).mean(1)
    rng = np.random.default_rng(0)
    value, ends = np.mean(own) - np.mean(cut), np.quantile(-drawn(cut, rng) + drawn(own, rng), [.025, .975])
    stands(ABILITIES, 'own answers above the cut, with the seeds drawn too: #', (value, *ends))
    assert ends[0] < 0 < value, 'the first page: that it wins any back is not shown'
    assert 1 / 9 < value / (whole - cut[0]).mean() < 1 / 7
    assert .4 < np.mean(fast) / np.mean(cut) < .6, 'the first page: it halves the problems'
    assert .15 < 1 - solved('whole healed on C4').mean() / whole.mean() < .25, 'and takes a fifth of the whole'
    assert [solved(f'whole healed on {o}').sum() / 100 for o in ('C4', 'own answers')] == [179, 219]

def test_answers_without_a_calculation():
    (cut, bare), (c4, short) = ((solved(k) / 100, ~asked(k).written.str.contains('=').to_numpy())
                                for k in ('cut, not healed', 'healed on C4'))
    for label, some in (('does not calculate', short), ('calculates', ~short)):
        stands(ABILITIES, f'healed on C4, where it {label}: # of # solved, and # by the cut', c4[some].sum(),
               some.sum(), cut[some].sum())
    rows = {o[0]: o[1:] for o in tables(ABILITIES) if len(o) == 9}
    assert [int(rows[k][1]) for k in ('cut, not healed', 'healed on C4')] == [bare.sum(), short.sum()]

def test_what_more_tokens_bring():
    "A straight line over the logarithm of the tokens, which is not drawn on"
    notes = json.loads((root/'results'/'abilities.json').read_text())
    arms = [f'healed on own answers{o}' for o in (*SEEDS, ', 0.3 × the tokens', ', 3 × the tokens')]
    right, tokens = np.array([solved(o) for o in arms]), np.log10([notes[ARMS[o]]['tokens'] for o in arms])
    assert .95 < np.ptp(tokens) < 1
    slope, _ = np.polyfit(tokens, np.concatenate([right.mean(1)[None], draws(right)]).T, 1)
    stands(ABILITIES, 'ten times the tokens: #', (slope[0], *np.quantile(slope[1:], [.025, .975])))

# Whole tables

SHORT = {'SmolLM2-135M': 'SmolLM2-135M-Instruct', 'gemma-3-270m': 'gemma-3-270m', 'Qwen2.5-Coder-1.5B': QWEN}

def filled(page, columns, depth=2):
    "The rows of a page's tables that have so many columns, with the first `depth` of them, which a table states once"
    index = []
    for o in tables(page):
        if len(o) == columns: index = o[:depth]
        elif len(o) < columns - depth + 1 or not index: continue
        yield [*index[:columns - len(o)], *o] if len(o) < columns else o

def curve_of(r, strategy, healed, like=None):
    "Nats of a model's documents by n, on documents `like` those of another curve, and their tokens"
    places = 'healed' if healed else ''
    t = r.table[(r.table.task == 'c4') & (r.table.healed == healed) & (r.table.seed == 0)]
    t = t[t.sweep.isin(FINE.split()) if places else ~t.sweep.str.startswith(('four', 'single'))]
    found = {}
    for key in t[t.strategy.isin([strategy, 'none'])][KEYS].itertuples(index=False):
        o = r.items[tuple(key)]
        if like is None or np.array_equal(o.tokens, like): found.setdefault(key.n, o.loss.to_numpy(float))
    return found, r.items[tuple(key)].tokens.to_numpy(float) if like is None else like

def test_two_strategies_at_each_cut():
    "The table of C5: the excess losses of both, and their ratio with its interval"
    shown = [o for o in tables('paper/claims') if len(o) == 6 and o[1] in ('yes', 'no')]
    assert {o[0] for o in shown} == {*MODELS} and len(shown) > 20
    for model, healed, n, *kept, ratio in shown:
        r, state, n = run(model), healed == 'yes', int(n)
        (base, *a), (_, *b) = (cuts(r, 'c4', s, state, FINE if state else '') for s in ('similarity', 'simple'))
        y, tokens = nats(r, [base, *(k for k in (*a, *b) if k[2] == n)])
        def excess(o): return o[:, 1] - o[:, 0], o[:, 2] - o[:, 0]
        (u,), (v,) = excess((y.sum(1) / tokens.sum())[None])
        some_u, some_v = excess(draws(y, tokens))
        assert [float(o) for o in kept] == pytest.approx([u, v], abs=.0051)
        if ratio: near(numbers(ratio), v / u, *np.quantile(some_v / some_u, [.025, .975]), 2, .03)
        else: assert (some_u <= 0).mean() > .025

def test_what_healing_repairs():
    "Figure 3: the repair at each cut that was healed, and the share over all of them"
    shown = [o for o in tables('paper/figure3') if len(o) == 6 and o[0] in SHORT]
    assert len(shown) == 35 and {o[0] for o in shown} == {*SHORT}
    for model, strategy, n, lowered, repair, share in shown:
        healed, tokens = curve_of(r := run(SHORT[model]), strategy, True)
        plain, n = curve_of(r, strategy, False, tokens)[0], int(n)
        y = np.stack([plain[0], plain[n], healed[0], healed[n]])
        def of(o): return (o[:, 1] - o[:, 0] - o[:, 3] + o[:, 2]), (o[:, 1] - o[:, 0])
        (more,), (excess,) = of((y.sum(1) / tokens.sum())[None])
        some, over = of(draws(y, tokens))
        assert float(lowered) == pytest.approx((plain[n] - healed[n]).sum() / tokens.sum(), abs=.00051)
        near(numbers(repair), more, *np.quantile(some, [.025, .975]), 3, .03)
        near(numbers(share), 100 * more / excess, *np.quantile(100 * some / over, [.025, .975]), 0, .03)
    for name, own in SHORT.items():
        healed, tokens = curve_of(run(own), 'similarity', True)
        plain, ns = curve_of(run(own), 'similarity', False, tokens)[0], sorted({*healed} - {0})
        y, k = np.stack([plain[0], *(plain[n] for n in ns), healed[0], *(healed[n] for n in ns)]), len(ns) + 1
        def removed(o): return 1 - (o[:, k + 1:].mean(1) - o[:, k]) / (o[:, 1:k].mean(1) - o[:, 0])
        value, some = removed((y.sum(1) / tokens.sum())[None])[0], removed(draws(y, tokens))
        said = next(''.join(data['text/markdown']) for data, _ in outputs('paper/figure3') if 'healing removes' in
                    ''.join(data.get('text/markdown', '')))
        line = next(o for o in said.splitlines() if name in o)
        near(numbers(line.partition('removes')[2]), *(100 * o for o in (value, *np.quantile(some, [.025, .975]))), 0)

def test_what_healing_adds_to_the_answers():
    "Figure 2: accuracy after healing minus before, at every cut"
    heads = dict(zip(('arc_easy', 'boolq', 'mmlu', 'piqa', 'sciq'), range(2, 7)))
    shown = [o for o in filled('paper/figure2', 7) if o[0] in SHORT]
    assert len(shown) == 21
    for name, n, *_ in shown:
        own = next(o for o in shown if o[:2] == [name, n])
        for task, i in heads.items():
            if not own[i]: continue
            r = run(SHORT[name])
            a = next(k for k in cuts(r, task) if k[2] == int(n))
            b = next(k for k in cuts(r, task, healed=True, sweeps=FINE) if k[2] == int(n))
            d = 100 * np.subtract(*right(r, [b, a]))
            near(numbers(own[i]), d.mean(), *np.quantile(draws(d[None]), [.025, .975]), 1, .06)  # other resamples

@cache
def logits(folder, task):
    "Log-probabilities of the choices, and the answers, by the keys of a row"
    items = pd.read_parquet(root/'results'/folder/'items.parquet', columns=[*KEYS, 'index', 'logprobs', 'answer'],
                            filters=[('task', '==', task)]).sort_values('index', kind='stable')
    return {k: (np.array([[float(v) for v in o] for o in own.logprobs]), own.answer.to_numpy(int))
            for k, own in items.groupby(KEYS)}

def auc(score, positive):
    "The share of pairs in which the positive one has the higher score, ties a half"
    low, high = np.sort(score[~positive]), score[positive]
    return (np.searchsorted(low, high, 'left') + np.searchsorted(low, high, 'right')).mean() / 2 / len(low)

def test_letters_of_mmlu():
    "Accuracy, calibrated accuracy, AUC, and the probability of any letter"
    kept = logits('qwen2.5-coder-1.5b', 'mmlu')
    shown = [o for o in tables('findings/letters') if len(o) == 5 and o[0].isdigit()]
    assert len(shown) == 10
    for n, *cells in shown:
        raw, answer = kept['cuts', 'similarity' if int(n) else 'none', int(n), False, 0, 'mmlu']
        mass = np.exp(raw).sum(1)
        sure = raw - np.log(mass)[:, None]
        calibrated = ((sure - sure.mean(0)).argmax(1) == answer).mean()
        area = np.mean([auc(sure[:, i], answer == i) for i in range(4)])
        value = [(raw.argmax(1) == answer).mean(), calibrated, area, mass.mean()]
        assert [numbers(o)[0] for o in cells] == pytest.approx([100 * o for o in value], abs=.51)

def test_five_tests_of_one_cut():
    r, shown = run(QWEN), {o[0]: o[1:] for o in tables('findings/letters') if len(o) == 4}
    for title in ('GSM8K', 'MMLU', 'BoolQ', 'ARC-Easy', 'PIQA'):
        near([float(o) for o in shown[title]], *kept_shares(r, cuts(r, TASKS[title]))[4], 0, .03)

def test_two_cuts_against_the_unpruned_model():
    "Healed alike, four layers: loss, answers, and the AUC of BoolQ; and the same questions asked twice"
    r, page = run(QWEN), 'findings/disagree'
    def healed(task, strategy, n):
        sweep = 'letters' if 'letter' in task else 'healed-simple' if strategy == 'simple' else 'healed'
        return sweep, strategy, n, True, 0, task
    shown = {o[0]: o[1:] for o in tables(page) if len(o) == 3}
    for cell, strategy in enumerate(('similarity', 'simple')):
        for title, task in (('ARC-Easy by likelihood', 'arc_easy'), ('ARC-Easy by letter', 'arc_easy:scoring=letter'),
                            ('MMLU by letter', 'mmlu')):
            d = 100 * np.subtract(*right(r, [healed(task, strategy, 4), healed(task, 'none', 0)]))
            near(numbers(shown[title][cell]), d.mean(), *np.quantile(draws(d[None]), [.025, .975]), 1, .03)
        y, tokens = nats(r, [healed('c4', 'none', 0), healed('c4', strategy, 4)])
        near(numbers(shown['loss'][cell]), *paired(y[1] - y[0], tokens), 2)
        kept = logits('qwen2.5-coder-1.5b', 'boolq')
        areas = []
        for key in (healed('boolq', 'none', 0), healed('boolq', strategy, 4)):
            raw, answer = kept[key]
            areas.append(100 * auc((raw[:, 1] - raw[:, 0]).round(3), answer == 1))
        assert numbers(shown['BoolQ by AUC'][cell])[0] == pytest.approx(areas[1] - areas[0], abs=.11)
    asked = {o[0]: o[1:] for o in tables(page) if len(o) == 4}
    gaps = [np.subtract(*right(r, [healed(ASKED[way], s, 4) for s in ('simple', 'similarity')]))
            for way in ('likelihood', 'letter')]
    for title, d in (('by likelihood', gaps[0]), ('by letter', gaps[1]),
                     ('by letter minus by likelihood', gaps[1] - gaps[0])):
        near(numbers(asked[title][2]), 100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975]), 1, .03)

def test_seeds_of_healing():
    "Figure 8: of each cut healed with several seeds, the scores, and the largest difference of two"
    shown = [o for o in tables('paper/figures7to9') if len(o) == 8 and o[0] in SHORT]
    tasks = TASKS | {'C4': 'c4', 'ARC-Easy (scoring letter)': 'arc_easy:scoring=letter'}
    assert len(shown) == 20
    for model, title, strategy, n, tokens, each, spread, most in shown:
        r, task = run(SHORT[model]), tasks[title]
        t = r.table[(r.table.task == task) & (r.table.strategy == strategy) & (r.table.n == int(n)) & r.table.healed]
        found = []
        for seed in (0, 1, 2):
            sweeps = f'seeds seeds-simple healed-seeds healed-seed-{seed}' if seed else f'{HEALED} letters'
            own = t[(t.seed == seed) & t.sweep.isin(sweeps.split())]
            found.append(tuple(own[KEYS].iloc[0]))
        if task == 'c4': y, weight = nats(r, found)
        else: y, weight = 100 * right(r, found), None
        mean = y.sum(1) / (weight.sum() if task == 'c4' else y.shape[1])
        digits = 3 if task == 'c4' else 1
        assert numbers(each) == pytest.approx(mean, abs=.51 * 10**-digits)
        assert numbers(spread)[0] == pytest.approx(np.std(mean, ddof=1), abs=.51 * 10**-digits)
        a, b = max(((0, 1), (0, 2), (1, 2)), key=lambda o: abs(mean[o[1]] - mean[o[0]]))
        near(numbers(most), *paired(y[b] - y[a], weight), digits, .08)  # other resamples of few changed answers

def test_what_the_map_says_so_far():
    "Its pairs of cuts, on new questions and documents; a comparison that was not asked is not measured"
    table = pd.read_parquet(root/'results'/'map.parquet')
    def asked(cut, task, form):
        found = table[(table.layers == cut) & (table.task == task) & (table.form == form)].sort_values('item')
        assert found.item.tolist() == list(range(len(found)))
        return found
    (head,) = (o for o in tables('findings/design') if o[1:] and o[1].startswith('without 15-16 minus'))
    pairs, n1 = [re.fullmatch(r'without (\S+) minus without (\S+)', o).groups() for o in head[1:]], []
    for title, task, form in (('C4 loss, nats a token', 'c4', ''), ('right letters, ARC-Easy', 'arc_easy', 'letter'),
                              ('texts scored, ARC-Easy', 'arc_easy', 'likelihood'), ('GSM8K', 'gsm8k', '')):
        (cells,) = (o[1:] for o in tables('findings/design') if o[0] == title)
        for cell, pair in zip(cells, pairs, strict=True):
            if not cell:
                assert not {*pair} & {*table[table.task == task].layers}
                continue
            a, b = (asked(cut, task, form) for cut in pair)
            tokens = a['count'].to_numpy() if task == 'c4' else None
            d = np.subtract(*((o['sum'] if task == 'c4' else o.right).to_numpy(float) for o in (a, b)))
            assert task == 'c4' and a['count'].tolist() == b['count'].tolist() or len(a) == len(b) == (
                300 if task == 'gsm8k' else 1000)
            agrees(cell, paired(d, tokens), .05)
            if pair == ('15-16', '24') and title != 'texts scored, ARC-Easy': n1.append(paired(d, tokens)[2] < 0)
    assert n1 == [True] * 3
    assert ['verdict', 'yes', 'no'] in [*tables('findings/design')]
    for cut, name in (('', 'none'), ('15-16', '15–16'), ('24', '24')):
        found = asked(cut, 'gsm8k', '')
        told = [name, str(int(found.right.sum())), '300', str(int((~found.ended.astype(bool)).sum()))]
        assert told in [o[-4:] for o in tables('findings/which_layers')]
    right = asked('24', 'arc_easy', 'letter')
    best = np.array([o.argmax() for o in map(np.array, right.logprobs)])
    assert ((best == right.answer) == right.right).all(), 'the likeliest letter is the one that counts'

def test_what_choosing_by_answers_keeps():
    "Of each rule, the cut, its losses and the problems that it solves; own answers to maths minus two other rules"
    plans = {o['rule']: o for o in json.loads((root/'results'/'choose.json').read_text())}
    table = pd.read_parquet(root/'results'/'choose.parquet').sort_values('item')
    asked = {cut: o for cut, o in table.groupby('layers') if len(o) == 600}
    for o in asked.values(): assert o.item.tolist() == list(range(600))
    page, names, right = [*tables('findings/which_layers')], {}, {}
    for rule, plan in plans.items():
        (cells,) = (o for o in page if len(o) == 7 and o[1] == ' and '.join(map(str, plan['layers'])))
        assert cells[2:4] == [f"{plan['held_out'][k]:.3f}" for k in ('maths', 'code')]
        names[rule], found = cells[0], asked.get(' '.join(map(str, plan['layers'])))
        if found is None: assert cells[4:] == ['not asked', '', '']
        else:
            right[rule] = found.right.to_numpy(float)
            assert cells[4] == str(found.right.sum())
            agrees(cells[5], [100 * v for v in paired(right[rule])], .05)
            agrees(cells[6], [100 * (found.tokens >= 768).mean()], .05)
    for other in ('angle', 'c4'):
        (cells,) = (o for o in page if len(o) == 3 and o[0] == names[other])
        if other not in right: assert cells[1:] == ['', 'not measured']
        else:
            found = [100 * v for v in paired(right['maths'] - right[other])]
            agrees(cells[1], found, .05)
            assert cells[2] == ('better' if found[1] > 0 else 'worse' if found[2] < 0 else 'undecided')

def test_what_should_you_says_so_far():
    "Of each file, its bytes and the problems that it solves; of each cut, the two fixed comparisons with their words"
    arms = pd.read_csv(root/'results'/'should_you.csv', keep_default_na=False).set_index('arm')
    table = pd.read_parquet(root/'results'/'should_you.parquet')
    table = table[table.task == 'gsm8k:shots=0'].sort_values('item')
    asked = {arm: o.right.to_numpy(float) for arm, o in table.groupby('arm')}
    for arm, o in table.groupby('arm'): assert o.item.tolist() == list(range(len(o))), arm
    page = [o for o in tables('practice/should_you') if len(o) > 3]
    names, files = {}, [o for o in page if len(o) == 5 and o[1].isdigit()]
    assert len(files) == len(arms)
    for (arm, o), found in zip(arms.sort_values('bytes', ascending=False).iterrows(), files):
        assert found[1:3] == [str(round(o.bytes / 1e6)), str(o.kv_bytes_a_token)]
        names[arm] = found[0]
        if arm not in asked:
            assert found[3] == 'not asked'
            continue
        assert (float(o.problems), float(o.right)) == (len(asked[arm]), asked[arm].sum())
        agrees(found[3], [100 * v for v in paired(asked[arm])], .05)
        assert (f'of {len(asked[arm])} problems' in found[3]) == (len(asked[arm]) < 400)
        agrees(found[4], [100 * (table[table.arm == arm].tokens >= 768).mean()], .05)
    for k, column in (('prompt', -2), ('generate', -1)):
        runs = {arm: np.array(o.split(), float) for arm, o in arms[f'{k}_runs'].items()}
        for arm, name in names.items():
            (cells,) = (o for o in page if len(o) == 6 and o[0] == name)
            ratio = runs[arm] / runs['q4_k_m']
            assert numbers(cells[column]) == pytest.approx([np.median(ratio), ratio.min(), ratio.max()], abs=.0051)
    whole = arms[(arms.model == 'qwen2.5-coder-1.5b') & (arms.dropped == '')]
    told = [o for o in page if o[-1] in ('better', 'worse', 'undecided', 'not measured')]
    wanted = []
    for arm, o in arms[arms.dropped != ''].iterrows():
        less = whole[whole.bytes <= o.bytes].bytes
        for other in [*([less.idxmax()] if len(less) else []), '0.5b-q4_k_m']: wanted.append((arm, other))
    assert sorted(o[:2] for o in told) == sorted([names[a], names[b]] for a, b in wanted)
    for arm, other in wanted:
        (cells,) = (o for o in told if o[:2] == [names[arm], names[other]])
        if min(len(asked.get(arm, ())), len(asked.get(other, ()))) < 400:
            assert cells[2:] == ['', 'not measured']
            continue
        found = [100 * v for v in paired(asked[arm] - asked[other])]
        agrees(cells[2], found, .05)
        assert cells[3] == ('better' if found[1] > 0 else 'worse' if found[2] < 0 else 'undecided')
    slower = np.median(np.divide(*(runs[o] for o in ('q3_k_m', 'q4_k_m'))))
    assert f"q3_k_m wrote {slower:.2f}'" in (root.parent/'prunebook'/'estimates.py').read_text()
    close = asked['cut-2-q3_k_m'] - asked['0.5b-q4_k_m']
    means = close[np.random.default_rng(0).integers(0, 400, (20_000, 400))].mean(1)
    assert 3 * 2 * (means >= 0).mean() > .05, 'Holm: of the sixteen tests, two have a larger p'
    prose = (root/'practice'/'should_you.ipynb').read_text()
    assert 'p is above 0.05 after Holm' in prose
    solved = {k: f'{v.sum():.0f}' for k, v in asked.items()}
    assert f"leave {solved['answers-2']} of the 400 problems solved in place of {solved['cut-2']}" in prose

def test_a_time_is_marked_if_its_code_is_another_one():
    def now(module): return hashlib.sha256((root.parent/f'prunebook/{module}.py').read_bytes()).hexdigest()[:8]
    shown, files = {o[0]: o[1] for o in tables('reference/benchmarks') if len(o) == 5}, root/'results'
    kept = {o.stem: json.loads(o.read_text()) for o in files.glob('*.json')}
    kept |= kept['similarity_benchmarks'] | kept['healing_benchmarks']
    kept |= {'pruning on disk': kept['pruning_benchmark'], 'start': kept['startup']}
    names = [o for o in shown if o in kept]
    assert len(names) == 23
    for o in names:
        of = kept[o].get('code', {})
        old = not of or any(v.split()[-1] != now(k) for k, v in of.items())
        assert shown[o] == f"{kept[o].get('commit', '')} {'†' * old}".strip(), f'{o}: measure it again, or run the page'
