"""Every verdict of the page of claims and of the first page, for all kept models, the numbers of the first page, and
headline numbers of other pages, computed again from the kept rows. Nothing of prunebook is imported: the formulas are
written here a second time, with numpy alone, as the pages state them."""
import html, json, math, re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
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
        for row in re.findall(r'<tr[^>]*>(.*?)</tr>', ''.join(data.get('text/html', '')), re.S):
            yield [html.unescape(o) for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]


claims = list(tables('paper/claims'))
rows = {}  # Verdict, number, threshold and adjusted p by claim, model and title of the task
for claim, who, *cells in (o for o in claims if len(o) == 6 and re.fullmatch(r'C\d\w?', o[0])):
    rows[claim, *(who.split(', ') + [''])[:2]] = cells
markdown = '\n'.join(''.join(data.get('text/markdown', '')) for data, _ in outputs('paper/claims'))
said = {(c, m): text for c, m, text in re.findall(r'^- (C\d\w?), `(.*?)`: (.*)$', markdown, re.M)}


def numbers(text): return [float(o) for o in re.findall(r'-?\d[\d,]*\.?\d*', text.replace('−', '-').replace(',', ''))]


def near(got, value, low, high, digits, other=0.):
    "The value and its interval to the last digit; `other` resamples may move the ends by a share of the width"
    assert got[0] == pytest.approx(value, abs=.51 * 10**-digits)
    assert got[1:3] == pytest.approx([low, high], abs=other * (high - low) + .51 * 10**-digits)


@cache
def words(page):
    "The prose of a page and what its cells print, in their order"
    said = []
    for c in json.loads((root/f'{page}.ipynb').read_text())['cells']:
        said += c['source'] if c['cell_type'] == 'markdown' else []
        for o in c.get('outputs', []): said += [*o.get('text', ''), *o.get('data', {}).get('text/markdown', ''), '\n']
        said.append('\n')
    return ''.join(said)


def agrees(text, one, other=0.):
    "The first number of a text is what was found to the digits that it has, with its interval if the text has one"
    value, *ends = np.atleast_1d(one)
    digits = len(re.search(r'\d+(?:\.(\d+))?', text)[1] or '')
    if '[' in text: near(numbers(text), value, *ends, digits, other)
    else: assert numbers(text)[0] == pytest.approx(value, abs=.51 * 10**-digits)


def stands(page, pattern, *found, other=0.):
    "What a page says in place of each # of the pattern, with an interval or without, is what was found"
    number = r'([+−-]?\d+(?:\.\d+)?(?: %| points| nats(?: per \w+)?)?(?: \[[^]]*\])?)'
    said = re.findall(pattern.replace('#', number), words(page))
    assert said, f'{page} says nothing like {pattern!r}'
    for texts in said:
        for text, one in zip([texts] if isinstance(texts, str) else texts, found, strict=True): agrees(text, one, other)


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
        counted = re.search(rf'^- `{m}`, .* layers: (.*?)\. ?', markdown, re.M)[1]
        own = [words[c, m].removesuffix(' †') for c in RULES]
        for word, count in re.findall(r'([a-z ]+) (\d+)', counted): assert own.count(word.strip()) == int(count)
    shown = [o for data, _ in outputs('index') for o in ''.join(data.get('text/markdown', '')).splitlines()[2:]]
    five = [[o.strip() for o in line.split('|')[2:-1]] for line in shown]
    plain, gemma = ['C1', 'C5a', 'C5b'], [*MODELS].index('gemma-3-270m')
    assert not any('†' in words[c, m] for c in plain for m in MODELS), 'a † is "undecided (fails alone)" there'
    mine = {c: [words[c, m] for m in MODELS] for c in plain} | {
        c: [known_tests(c, m)[0] for m in MODELS] for c in ('C3a', 'C3b')}
    for c in ('C5a', 'C5b'): mine[c][gemma] = 'not informative'
    assert five == [mine[c] for c in ('C1', 'C3a', 'C3b', 'C5a', 'C5b')]
    counts = np.sum([known_tests('C3a', m)[1] for m in MODELS], 0)
    assert counts.tolist() == [11, 0, 5, 2]  # tests before healing; that hold; that fail; and alone


def known_tests(claim, model):
    "What the first page says of a plateau on the tasks that a model knows, and the four counts"
    found = {k: judged(*k) for k in rows if k[:2] == (claim, model)}
    found = {k: o.word for k, o in found.items() if not re.match('does not know|not measured', o.why)}
    hold, fail = (sum(o == word for o in found.values()) for word in ('holds', 'fails'))
    alone = sum(k in daggers(model) for k in found)
    of_them = ' alone' if 0 < alone == fail else f', {alone} of them alone' if alone else ''
    said = f'{hold} of {len(found)} tests hold, {fail} fail' + 's' * (fail == 1) + of_them
    return said, (len(found), hold, fail, alone)


def test_what_the_places_of_blocks_rest_on():
    "C1 without the blocks that hold the last layer and without the single one, C2 without those that hold the first"
    r = {m: run(m) for m in MODELS}
    def place(m, n, least=0): return blocks_of(r[m], n)[:r[m].depth - n + 1 - least].argmin() / (r[m].depth - n)
    def blocks_of(r, n): return np.array([r.mean[i, i + n] for i in range(r.depth - n + 1)])
    def last(d): return (d[-1] - d.min()) / np.ptp(d)
    for m in MODELS:
        depth, text = r[m].depth, words('paper/claims')
        some = [np.mean([place(m, n, 1) for n in range(1, depth // 4 + 1)]),
                np.mean([place(m, n) for n in range(2, depth // 4 + 1)]),
                np.mean([last(blocks_of(r[m], n)[1:]) for n in range(1, depth // 2 + 1)])]
        line, other = re.findall(rf'`{m}` .*?: (without the blocks .*)', text)
        shown = *re.findall(r'has ([\d.]+) .*? n = 1 ([\d.]+)', line)[0], re.search(r'has ([\d.]+)', other)[1]
        assert [float(o) for o in shown] == pytest.approx(some, abs=.0051)
    assert blocks_of(r['gemma-3-270m'], 4).argmin() + 4 == r['gemma-3-270m'].depth  # it holds the last layer
    assert blocks_of(r[QWEN], 1).argmin() == 24 and "Qwen's on layer 24" in first.replace('’', "'")




def test_how_many_verdicts_stand():
    "Each model in its own family and all in one, and the title of the figure"
    tested = [k for k in rows if certain(k) is not None]
    decided = [k for k in tested if judged(*k).word in ('holds', 'fails')]
    alone = [k for k in decided if k not in daggers(k[1])]
    together = [k for k in alone if k not in daggers(*MODELS)]
    stands('paper/claims', r'# findings were tested, and # of them.*?# stand in .*?, and # where all # runs',
           len(tested), len(decided), len(alone), len(together), len(MODELS))
    fewer = re.search('The difference: (.*)[.]', words('paper/claims'))[1].split(', ')
    assert fewer == [f'`{m}` {claim} {title}'.strip() for claim, m, title in sorted(
        set(alone) - set(together), key=lambda k: ([*MODELS].index(k[1]), k[0]))]
    found = [(k, o.word) for c in RULES for m in MODELS if not (o := judged(*(k := first_of(c, m)))).why.startswith(
        'not measured')]
    counts = [sum(word == o and k not in daggers(k[1]) for k, word in found) for o in ('holds', 'fails')]
    assert (len(found), *counts) == (33, 11, 10), 'draw the figure of the verdicts again: its title has the old counts'


# The first page

first = (root.parent/'README.md').read_text().replace('\\', '')
QWEN = 'Qwen2.5-Coder-1.5B-Instruct'
ASKED = dict(likelihood='arc_easy', letter='arc_easy:scoring=letter')


@pytest.mark.parametrize('way', ['likelihood', 'letter'])
def test_the_same_questions_asked_in_two_ways(way):
    "Without six layers, with bands over all cuts at once"
    r = run(QWEN)
    a = right(r, keys := cuts(r, ASKED[way], sweeps='cuts four-ways-similarity'))
    def kept(accuracy): return (accuracy[..., 1:] - .25) / (accuracy[..., :1] - .25)
    value, some = kept(a.mean(1)), kept(draws(a))
    half = np.quantile(np.abs((some - value) / some.std(0)).max(1), .95) * some.std(0)
    i = [k[2] for k in keys[1:]].index(6)
    assert a.shape[1] == 500
    assert value[i] > .9 if way == 'likelihood' else value[i] < .2, 'the first page: it still ranks, and hardly picks'
    said = dict(likelihood='one layer.{0,60}likelihood loses #', letter='letters nothing, #')[way]
    i = [k[2] for k in keys[1:]].index(1)
    stands('findings/letters', said, [100 * (1 - o[i]) for o in (value, value + half, value - half)])


def test_added_loss():
    r = run(QWEN)
    keys = cuts(r, 'c4', 'similarity', False)
    sums, tokens = nats(r, [keys[0], next(k for k in keys if k[2] == 6)])
    assert len(tokens) == 64
    some = draws(sums, tokens)
    value, more = np.diff(sums.sum(1))[0] / tokens.sum(), some[:, 1] - some[:, 0]
    stands('findings/letters', 'rises by # on 64', (value, *np.quantile(more, [.025, .975])))


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('way', ['ARC-Easy by likelihood', 'ARC-Easy by letter', 'MMLU by letter'])
def test_two_healed_cuts_swap_their_order(way, seed):
    "Of each seed, on their own page"
    task = ASKED.get(way.removeprefix('ARC-Easy by '), 'mmlu')
    first = ['letters'] * 2 if 'letter' in task else ['healed', 'healed-simple']
    sweeps = [f'healed-seed-{seed}'] * 2 if seed else first
    r, row = run(QWEN), next(o for o in tables('findings/disagree') if o[0] == f'{way} (points)')
    a, b = right(r, [(sweep, s, 4, True, seed, task) for sweep, s in zip(sweeps, ('similarity', 'simple'))])
    d = 100 * (b - a)[None]
    near(numbers(row[1 + seed]), d.mean(), *np.quantile(draws(d), [.025, .975]), 1, .05)


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
    printed = '\n'.join(text for _, text in outputs('findings/disagree'))
    shown = numbers(re.search(rf'BoolQ by AUC, n = {n}, .*?: (.*)', printed)[1])
    near(shown, d[0], *np.quantile(d[1:], [.025, .975]), 1)
    if n == 4:
        row = next(o for o in tables('findings/disagree') if o[0] == 'BoolQ by AUC (points)')
        assert numbers(row[1]) == shown and row[2:] == ['not measured'] * 2


def test_the_higher_loss_answers_more_with_each_new_seed():
    "Experiment D, on its own page: the smaller gain on MMLU of two seeds, and both losses"
    printed = next(text for _, text in outputs('findings/disagree') if text.startswith('MMLU, simple minus'))
    r, both = run(QWEN), [[(f'healed-seed-{s}', o, 4, True, s) for o in ('similarity', 'simple')] for s in (1, 2)]
    d = 100 * np.array([np.diff(right(r, [(*o, 'mmlu') for o in pair]), axis=0)[0] for pair in both])
    found = numbers(printed.partition(':')[2])
    near(found, d.mean(1).min(), *np.quantile(draws(d).min(1), [.025, .975]), 1, .05)
    assert found[1] > 0 and ' yes p = 0.0002' in printed
    for pair in both:
        sums, tokens = nats(r, [(*o, 'c4') for o in pair])
        assert np.quantile(draws(np.diff(sums, axis=0), tokens), .025) > 0


def test_no_plateau_where_every_cut_is_healed():
    "Experiment E: C3b of MMLU with all its cuts, p by Holm over A to E; C4 with its rows, which decide no other claim"
    mine, page = judged('C3b', QWEN, 'MMLU'), (root/'findings/design.ipynb').read_text()
    shown = numbers(re.search(r'after a plateau: (.*?) against 0.5', page)[1])
    near(shown, mine.value, mine.low, mine.high, 2)
    assert mine.word == 'fails' and mine.low > .5
    p = certain(('C3b', QWEN, 'MMLU'))
    alone, adjusted = (o for o in tables('findings/design') if o[0] in ('p', 'by Holm over the five'))
    assert [float(o[5]) for o in (alone, adjusted)] == pytest.approx([p, 2 * p], abs=6e-4)  # only B has a larger one
    page, r = (root/'reference/paper/criteria.ipynb').read_text(), run(QWEN)
    sums, tokens = nats(r, keys := cuts(r, 'c4', healed=True, sweeps=FINE))
    x, (kept, lost) = np.array([k[2] for k in keys]) / r.depth, mine.places
    inside = (x[1:] > kept) & (x[:-1] < lost)
    def slopes(y):
        up, step = np.diff(y), np.diff(x)
        return up[:, inside].sum(1) / step[inside].sum() * step[~inside].sum() / up[:, ~inside].sum(1)
    near(numbers(re.search(r'C4 would hold on this model, (.*?),? because', page)[1]), slopes(sums.sum(1)[None])[0],
         *np.quantile(slopes(draws(sums, tokens)), [.025, .975]), 2, .011)


def test_no_plateau_with_3000_questions():
    "Experiment H: the rule for a plateau on its own rows, and what they keep"
    r = run(QWEN)
    keys = [('mmlu-3000', 'similarity' if n else 'none', n, False, 0, 'mmlu') for n in (0, 1, 2, 3, 4, 6)]
    mine, small = (settled(width, r, o) for o in (keys, [('cuts', *o[1:]) for o in keys]))
    assert (mine.word, small.word) == ('fails', 'undecided') and right(r, keys).shape[1] == 3000
    for page, pattern in (('paper/figure2', r'and six layers\. The width is #, so'),
                          ('paper/figure2', r'3,000 questions: width #, \*fails'),
                          ('paper/claims', r'says \*fails\*, #'),
                          ('findings/design', r'\| H \| \[[^|]*?plateau: # against')):
        stands(page, pattern, (mine.value, mine.low, mine.high))
    shown = [o for o in tables('paper/figure2') if len(o) == 5 and o[0].isdigit() and o[3].endswith('%')]
    assert [float(o[3][:-1]) for o in shown] == pytest.approx(100 * right(r, keys).mean(1), abs=.051)
    (alone, among), *again = re.findall(r'p (?:is )?(0\.\d+) alone,? and (0\.\d+)', words('paper/figure2'))
    less_sure = [p for k in rows if k[1] == QWEN and (p := certain(k)) is not None and p >= mine.p]
    assert float(alone) == pytest.approx(mine.p, abs=.00006) and again == [(alone, among)]
    assert float(among) == pytest.approx((1 + len(less_sure)) * mine.p, abs=.0006)
    x, a = np.array([k[2] for k in keys]) / r.depth, right(r, keys)
    chances = []  # other resamples, as many, put it on either side of 0.05
    for seed in range(10):
        kept, lost = fall(x, draws(a, seed=seed), .25)
        chances.append((1 + len(less_sure)) * 2 * (1 + ((lost - kept) / lost <= .5).sum()) / (1 + DRAWS))
    assert min(chances) < .05 < max(chances) and 'coin flip' in words('paper/figure2')


def test_reasoning_breaks_before_writing():
    "Experiment I: the share kept of reading a number minus that of GSM8K. The unpruned model reads all 400 right"
    r, page, ns = run(QWEN), 'paper/figure2', (0, 1, 2, 3, 4, 6)
    read, solved = ([(sweep, 'similarity' if n else 'none', n, False, 0, task) for n in ns]
                    for sweep, task in (('read-number', 'read_number'), ('gsm8k-400', 'gsm8k')))
    def kept(a): return a[..., 2:5].mean(-1) / a[..., 0]  # n = 2, 3, 4
    a, b = (right(r, o) for o in (read, solved))
    assert a.shape == b.shape == (6, 400) and a[0].all()
    value = kept(a.mean(1)) - kept(b.mean(1))
    ends = np.quantile(kept(draws(a, seed=1)) - kept(draws(b)), [.025, .975])
    for at, pattern in ((page, r'over n = 2, 3 and 4\. It is # against 0\.2'),
                        (page, 'the difference # against 0.2: yes, p = 0.0001'),
                        ('findings/design', r'reasoning breaks before writing: # against')):
        stands(at, pattern, (value, *ends))
    assert ends[0] > .2
    truth = [re.findall(r'\d+', o)[-1] for o in r.items[read[0]].written]
    first = [sum(re.findall(r'\d+', o)[:1] == [t] for o, t in zip(r.items[k].written, truth)) for k in read]
    assert first == [400, 400, 400, 400, 399, 398] and min(first) == 398  # as the page says
    shown = [o for o in tables(page) if len(o) == 6 and o[1].endswith('of 400')]
    assert [[numbers(o[1])[0], numbers(o[3])[0], int(o[4])] for o in shown] == [
        [y.sum(), x.sum(), f] for x, y, f in zip(a, b, first)]


def test_four_layers_are_a_peak():
    "Experiment C, on its own page"
    printed = next(text for _, text in outputs('findings/disagree') if text.startswith('right answers at n = 3'))
    kept = [('healed-simple-fine', 3), ('healed-simple', 4), ('healed-simple-fine', 5)]
    three, four, five = right(run(QWEN), [(sweep, 'simple', n, True, 0, 'mmlu') for sweep, n in kept])
    d = 100 * (four - (three + five) / 2)[None]
    shares, found, *_, seeds = (o.partition(':')[2] for o in printed.splitlines())
    assert numbers(shares) == pytest.approx([100 * o.mean() for o in (three, four, five)], abs=.051)
    near(numbers(found), d.mean(), *np.quantile(draws(d), [.025, .975]), 1, .05)
    assert ' yes p = 0.0001' in found and np.quantile(draws(d), .025) > 5
    again = right(run(QWEN), [(f'healed-seed-{s}', 'simple', 4, True, s, 'mmlu') for s in (1, 2)])
    assert numbers(seeds) == pytest.approx(100 * again.mean(1), abs=.051)
    stands('findings/disagree', 'seeds 1 and 2 of healing it is # and #', *(100 * again.mean(1)))
    one, two = right(run(QWEN), [('healed-simple-fine', 'simple', n, True, 0, 'mmlu') for n in (1, 2)])
    whole = right(run(QWEN), [('healed', 'none', 0, True, 0, 'mmlu')])
    stands('findings/disagree', 'better than one by #, and than two by #',
           *(paired(100 * (four - o)) for o in (one, two)), other=.06)
    kept = [100 * (o.mean() - .25) / (whole.mean() - .25) for o in (one, two, three, four, five)]
    stands('findings/disagree', 'falls to #, # and # % at one, two and three', *kept[:3])
    assert kept[3] > 100 and 45 < kept[4] < 55


def test_where_the_cost_of_a_layer_arises():
    "Experiment F, on its own page: each layer of three models removed, everywhere and at position 0 only"
    printed = next(text for _, text in outputs('findings/one_layer') if text.startswith('more than half'))
    shown = [o for o in tables('findings/one_layer') if len(o) == 5 and o[-1].endswith('%')]
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
        assert f'{title} layer {over}' in printed if over else f'{title} no layer' in printed
        rows = [o for o in shown if o[0] == title]
        assert [int(o[1]) for o in rows] == first.argsort()[::-1][:3].tolist()
        for _, l, everywhere, only, share in rows:
            costs = whole[int(l)], parts['position 0'][int(l)] - parts['none']
            near(numbers(everywhere), *linear(costs[0], tokens), 2)
            near(numbers(only), *linear(costs[1], tokens), 2)
            if (title, l) == ('Qwen2.5-Coder-1.5B', '1'):
                of_half = linear(costs[1] - costs[0] / 2, tokens)
                assert of_half[1] < 0 < of_half[2]
                near(numbers(printed.partition('half of its cost:')[2]), *of_half, 2)
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
    for shown, d in zip(row[1:], third, strict=True): near(numbers(shown), d[0], *np.quantile(d[1:], [.025, .975]), 2)
    median, middle = third[3] - third[0], third[1] - third[0]
    assert np.quantile(median[1:], .025) > 0  # on all three models
    if folder.startswith('qwen'):
        low, high = np.quantile(middle[1:], [.025, .975])
        assert low < 0 < high
        stands('findings/design', r'\| G \|[^|]*?: #, \*undecided', (middle[0], low, high))
    half = np.mean(found, 0)
    for rule, title in ((3, 'median block'), (1, 'middle')):
        row = next(o for o in tables('findings/measuring') if o[:2] == [title, name])
        for text, mean in zip(row[2:], (third, half)):
            d = mean[rule] - mean[0]
            if text != 'not measured': agrees(text, (d[0], *np.quantile(d[1:], [.025, .975])))
    if folder.startswith('qwen'): return
    assert middle[0] * (half[1] - half[0])[0] < 0, 'the other sign up to half of the layers'
    own = {'demo': '# more .{0,60}SmolLM2', 'gemma3-270m': '# less .{0,20}Gemma'}
    middle *= np.sign(middle[0])
    stands('findings/measuring', own[folder], (middle[0], *np.quantile(middle[1:], [.025, .975])))


def test_two_ways_of_asking():
    "Retention by likelihood minus by letter, a mean over four cuts, of which the last has the largest"
    r = run(QWEN)
    a, b = (right(r, [('four-ways-similarity', 'similarity' if n else 'none', n, False, 0, t) for n in (0, 2, 3, 4, 6)])
            for t in ASKED.values())
    some = draws(np.concatenate([a, b])) - .25
    def mean(o): return (o[:, 1:5] / o[:, :1] - o[:, 6:] / o[:, 5:6]).mean(1)
    value = mean(np.concatenate([a, b]).mean(1)[None] - .25)[0]
    shown = next(text for _, text in outputs('findings/letters') if text.startswith('holds: '))
    near(numbers(shown), value, *np.quantile(mean(some), [.025, .975]), 2)
    both = right(r, [k for t in ASKED.values() for k in cuts(r, t, sweeps='cuts four-ways-similarity') if k[2] <= 8])
    assert len(both) == 14  # the whole model and six cuts, asked in two ways
    def each(o): return (o[..., 1:7] - .25) / (o[..., :1] - .25) - (o[..., 8:] - .25) / (o[..., 7:8] - .25)
    found, ends = each(both.mean(1)), np.quantile(each(draws(both)), [.025, .975], axis=0)
    line = re.search('all sizes: (.*)', words('findings/letters'))[1]
    for text, *one in zip(re.findall(r'n = \d (\S+ \[.*?\])', line), found, *ends, strict=True): agrees(text, one)
    said = re.search('likelihood keeps (.*) points more', words('findings/letters'))[1]
    assert numbers(said) == (100 * found).round().tolist() and found[0] < 0
    stands('findings/design', 'the sign is reversed, #', found[0])
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
    stands('findings/design', r'\| L \|[^|]*?: #, \*yes', found)
    assert found[2] < 0
    for share, *cells in (o for o in tables(page) if len(o) == 5 and re.fullmatch('[123]0 %', o[0])):
        one, layers, block = (added(f'{o} {share[:2]}')[0] for o in ('attention', 'layers', 'block'))
        for text, o in zip(cells, (one, layers, block, one - layers), strict=True): agrees(text, paired(o, tokens))
    def less(share): return (added(f'layers {share}') - added(f'attention {share}'))[0]
    stands(page, '# nats less .*?# more at 20', paired(less(10), tokens), paired(-less(20), tokens))


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
    stands(page, 'letters # and the likelihood #', found['3 to 12'][2], found['3 to 12'][1])
    more = 100 * ((letter[:1] - letter[1:]) - (text[:1] - text[1:]))[3:13].mean(0)
    stands(page, 'by letter minus by likelihood: #', paired(more))
    stands(page, 'The difference is #, for layers', paired(more))
    stands(page, 'last layer.{0,50}by #', found['27'][0])
    assert all(low < 0 < high for _, low, high in found['27'][1:])
    kept = [('four-ways-similarity', 'similarity' if n else 'none', n, False, 0, ASKED['letter']) for n in (0, 4)]
    whole, four = right(r, kept)[:, ::5]  # every fifth of the 500 questions
    assert (whole == letter[0]).sum() == 99  # one is a tie
    together, alone = 100 * (whole - four), ways[2][0][13:17].sum(0)
    stands(page, 'layers 13 to 16 together.*?#[.].*?sum to #, which is # less', *map(paired, (together, alone,
                                                                                         together - alone)))

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
    assert re.search(rf'\| B \|.*100 questions: \*{mine.word}\*', words('findings/design'))


def test_what_two_healed_cuts_keep():
    "Against the unpruned model healed alike; the losses and the letters of three seeds"
    page, r = 'findings/disagree', run(QWEN)
    models = [('healed', 'none', 0), ('healed', 'similarity', 4), ('healed-simple', 'simple', 4)]
    (whole, similarity, simple), tokens = nats(r, [(*o, True, 0, 'c4') for o in models])
    lost = np.subtract(*right(r, [(*o, True, 0, 'mmlu') for o in models[:2]]))
    more = np.subtract(*right(r, [(*o, True, 0, 'mmlu') for o in models[::-2]]))
    stands(page, 'unpruned model, # more', paired(100 * more), other=.05)
    stands(page, '# higher.*?# higher.*?# on MMLU', paired(simple - whole, tokens),
           paired(similarity - whole, tokens), paired(100 * lost), other=.05)
    row = next(o for o in tables(page) if o[0] == 'loss (nats)')
    for seed, cell in enumerate(row[1:]):
        sweeps = [f'healed-seed-{seed}'] * 2 if seed else ['healed', 'healed-simple']
        (a, b), tokens = nats(r, [(o, s, 4, True, seed, 'c4') for o, s in zip(sweeps, ('similarity', 'simple'))])
        agrees(cell, paired(b - a, tokens), .05)
    def letters(sweep, seed): return 100 * right(r, [(sweep, s, 4, True, seed, 'arc_easy:scoring=letter')
                                                     for s in ('similarity', 'simple')])
    (a, b), *new = letters('letters', 0), letters('healed-seed-1', 1), letters('healed-seed-2', 2)
    less = [paired(b - a - (d - c)) for c, d in new]
    stands(page, 'leads by # less with seed 1.*?by # less with seed 2', *less, other=.03)
    (whole,) = 100 * right(r, [('letters', 'none', 0, True, 0, 'arc_easy:scoring=letter')])
    stands(page, '# and # fewer', *(paired(whole - d) for _, d in new), other=.03)


def test_what_two_strategies_keep():
    "Their accuracies and healed losses by cut, and the rise from three layers to four without healing"
    page, r = 'findings/disagree', run(QWEN)
    three, four = 100 * right(r, [('cuts', 'simple', n, False, 0, 'mmlu') for n in (3, 4)])
    stands(page, 'nhealed,? four .{0,30}better than three too, by #', paired(four - three), other=.06)
    shown, strategy = [o for o in tables(page) if ' % (' in ''.join(o)], ''
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
        assert most[1] * most[2] > 0, 'the page says that it excludes zero'
    small, found = run('SmolLM2-135M-Instruct'), {}
    for n in (0, 2, 4, 6, 8, 12):
        keys = [(f'shots-5{o}', 'similarity' if n else 'none', n, False, 0, 'arc_easy') for o in ('', '-order-1')]
        found[n] = paired(100 * np.subtract(*right(small, keys[::-1])))
    printed = dict(o for o in tables(page) if len(o) == 2 and o[0].isdigit())
    assert [*found] == [int(o) for o in printed]
    for n, one in found.items(): agrees(printed[str(n)], one, .06)
    assert [n for n, o in found.items() if o[1] > 0] == [6] and not [n for n, o in found.items() if o[2] < 0]
    stands(page, 'changes the accuracy by #', found[6], other=.06)


def test_the_frozen_rules_on_gemma():
    "Experiment J"
    found = [judged(o, 'gemma-3-270m', task) for o, task in (('C5b', ''), ('C7a', ''), ('C7b', 'ARC-Easy'))]
    assert [o.word for o in found] == ['holds', 'holds', 'fails']
    pattern = r'\| J \| measured: .*?, # against 1\.25\. .*?, # against 0\.1\. .*?, # against 0\.034'
    stands('findings/design', pattern, *((o.value, o.low, o.high) for o in found))


def test_a_low_rank_after_a_million_tokens():
    "Experiment K, of one of its two cuts"
    r, page = run('SmolLM2-135M-Instruct'), 'paper/figures7to9'
    asked = [(f'{o}-1m-answers', 'similarity', 8, True, 0, 'arc_easy') for o in ('rank-2', 'tokens')]
    low, high = right(r, asked)
    found = paired(100 * (low - high))
    (cell,) = (o[-1] for o in tables(page) if o[0] == '1,024,000')
    agrees(cell, found, .06)
    stands(page, '1,024,000 tokens of healing: # points, .undecided', found, other=.06)
    stands(page, 'After a million tokens, rank 2 minus rank 64 is # under', found, other=.06)
    stands('paper/claims', 'After so many tokens, rank 2 minus rank 64 is # on', found, other=.06)
    stands('findings/design', r'\| K \|[^|]*?: #, \*', found, other=.06)


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
    assert counts == (15, 15, 1, 5)  # as the first paragraph says in words
    shown = re.search(r'fewer:\n((?:.+, n = \d+\n)+)', words('findings/disagree'))[1]
    assert sorted(shown.splitlines()) == sorted(against)


def test_letters_that_do_not_disagree():
    "MMLU of the healed cuts: only at one and at four layers does the interval of the difference leave zero"
    r, told = run(QWEN), 'On MMLU at two, three, six and eight layers, the difference could be zero.'
    for n in (1, 2, 3, 4, 6, 8):
        keys = [next(k for k in cuts(r, 'mmlu', s, True, FINE) if k[2] == n)
                for s in ('similarity', 'simple')]
        _, low, high = paired(np.diff(right(r, keys), axis=0)[0])
        assert (low < 0 < high) == (n not in (1, 4)) and (n != 1 or high < 0)
    assert told in words('findings/disagree')


def test_published_cuts_and_repairs():
    "The first paragraphs of their page, from the losses by document and the answers to ARC-Easy"
    page, results = 'findings/published', root/'results'
    (whole, nearest), tokens = nats(run('gemma-3-270m'), [
        ('losses', o, n, False, 0, 'c4') for o, n in (('none', 0), ('similarity', 4))])
    kept = pd.read_csv(results/'published_cuts.csv').set_index('cut')
    sums = {k: np.array(o.split(), float) for k, o in kept.sums.items()}
    def added(o): return (o - whole)[16:].sum() / tokens[16:].sum()  # the other 16 documents chose the best block
    best, *published = sorted(map(added, sums.values()))
    assert best == added(sums['best block'])
    assert len(published) == 4
    assert kept.layers['last'] == '14 15 16 17'
    assert sum(o < added(nearest) - 1e-4 for o in published) == 3
    assert published[-1] == pytest.approx(added(nearest), abs=2e-3)
    cuts_of = sorted((o[16:] for o in [*sums.values(), nearest]), key=lambda o: o.sum())
    assert np.array_equal(cuts_of[0], sums['best block'][16:])
    less, more = (paired(o, tokens[16:]) for o in (cuts_of[1] - cuts_of[0], nearest[16:] - cuts_of[1]))
    stands(page, 'adds # less than the best published.*?adds # more', less, more, other=.06)

    kept = pd.read_csv(results/'repair.csv').set_index(['cut', 'method'])
    total = {k: np.array(o.split(), float).sum() / sum(map(int, kept.counts.iloc[0].split()))
             for k, o in kept.sums.items()}
    cut, constant = total['11-18', 'none'], total['11-18', 'constant']
    stands(page, 'undoes # of # on the first', cut - constant, cut - total['unpruned', 'none'])
    assert .7 < (cut - constant) / (cut - total['unpruned', 'none']) < .8  # "three quarters"

    r = run('SmolLM2-135M-Instruct')
    base = right(r, cuts(r, 'arc_easy')[:1])[0]
    for pattern, healed in (('keeps # of its raw', False), ('and # after a short', True)):
        cut = right(r, [k for k in cuts(r, 'arc_easy', healed=healed) if k[2] == 8])[0]
        some = draws(np.stack([cut, base]))
        found = cut.mean() / base.mean(), *np.quantile(some[:, 0] / some[:, 1], [.025, .975])
        stands(page, pattern, [100 * o for o in found], other=.07)

    t = pd.read_csv(results/'published.csv').query('model == "Llama-2-7B" and fraction.between(.2, .3)').dropna(
        subset='retained')
    own = t[t.method.str.contains('UIDL')].retained
    stands(page, 'lie between # and # of the unpruned.*?paper keeps #', t.retained.min(), t.retained.max(), own.item())


def test_published_tables():
    "Single layers, blends of data, and layers against experts, as others measured them"
    page, results = 'findings/published', root/'results'
    shown = {o[0]: o[1:] for o in tables(page) if len(o) == 5 and o[0] not in ('model', 'part', 'source')}
    singles, worst, dear = pd.read_csv(results/'published_singles.csv'), 0, 1
    chosen = pd.read_csv(root/'paper/published.csv', comment='#').query('n == 1 and model == "Llama-2-7b"').start.item()
    def rank(p, i): return [i, (p < p[i]).sum() + 1, len(p)], math.log(p[i] / p.min())
    for model, own in singles.groupby('model'):
        p = own.perplexity.to_numpy()
        layers, cheapest, *cells = shown[model]
        assert own.layer.tolist() == list(range(int(layers))) and int(cheapest) == p.argmin()
        for cell, i in zip(cells, ((len(p) - 1) // 2, len(p) - 2), strict=True):
            place, more = rank(p, i)
            assert numbers(cell)[:3] == place and float(cell.rpartition('+')[2]) == pytest.approx(more, abs=.0051)
        worst, dear = max(worst, rank(p, (len(p) - 1) // 2)[1]), min(dear, rank(p, len(p) - 2)[0][1] / len(p))
        if model != 'Llama-2-7B': continue
        place, more = rank(p, chosen)
        stands(page, 'own choice for one layer of Llama-2-7B, #, ranks #th of #, for # nats', *place, more)
    stands(page, 'costs at most # nats more than the cheapest one', worst)
    assert singles.model.nunique() == 8 and dear > .5
    t = pd.read_csv(results/'published_blends.csv')
    only, blends = t[(t.data == 'pre-training only') & (t.billion_tokens == 56)].iloc[0], t[
        t.data.str.startswith('30 %') & (t.billion_tokens == 60)]
    stands(page, 'solves up to # points more of AIME 2025, at up to # points less MMLU',
           (blends['AIME 2025'] - only['AIME 2025']).max(), -(blends.MMLU - only.MMLU).min())
    t = pd.read_csv(results/'published_experts.csv').set_index(['layers', 'experts', 'hidden_size', 'expert_size'])
    whole, fewer, cut = (t.loc[o] for o in ((48, 128, 2048, 768), (48, 96, 2048, 768), (40, 128, 2048, 768)))
    stands(page, '# billion parameters keep an MMLU of # of #[.].*?# billion keep #', fewer.billion_parameters,
           fewer.MMLU, whole.MMLU, cut.billion_parameters, cut.MMLU)


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
    stands(page, '# for the distance.*?# for the unhealed', found[0], found[2])
    stands(page, 'best 11.*?# and #', found[1], found[3])
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
    stands(page, 'block.{0,30}?# above', linear(after[starts['distance']] - after[best], tokens))


def test_the_middle_on_more_documents():
    r = run(QWEN)
    for n, said in {1: 'at one layer', 2: 'at two', 4: 'at four'}.items():
        sums, tokens = nats(r, [('cuts', 'similarity', n, False, 0, 'c4'), ('middle', 'middle', n, False, 0, 'c4')])
        less = paired(sums[0] - sums[1], tokens)
        assert len(tokens) == 64 and less[1] > 0
        stands('findings/measuring', f'# less {said}', less)


def test_one_layer_taken_apart():
    page, kept = 'findings/one_layer', load_file(root/'results'/'one_layer.safetensors')
    tokens, sums = block_losses('demo')
    mean = load_file(root/'results'/'demo'/'distances.safetensors')['mean']
    cost = np.array([sums[i, i + 1] - sums[0, 0] for i in range(30)]).sum(1) / tokens.sum()
    turn = np.array([mean[i, i + 1] for i in range(30)])
    stands(page, r'layer 11: loss #, rank # of # from below; distance #, rank # of #', cost[11],
           (cost <= cost[11]).sum(), 30, turn[11], (turn <= turn[11]).sum(), 30)
    stands(page, 'median layer: loss #, distance #', np.median(cost), np.median(turn))
    stands(page, 'Without layer 11, the loss .*?by #', cost[11])
    added = {k.removeprefix('demo/'): linear((v - kept['demo/none']).astype(float).sum(1), np.full(16, 255))
             for k, v in kept.items() if k.startswith('demo/') and v.shape == (16, 255)}
    rows = [o for o in tables(page) if len(o) == 4 and o[0] in added]
    assert len(rows) == 6
    for name, *cells in rows: near([float(o) for o in cells], *added[name], 2)
    fixed = added['whole layer, constant at position 0'][0]
    stands(page, 'the constant undoes: #%', 100 * (1 - fixed / added['whole layer'][0]))
    stands(page, 'remaining #', fixed)
    whole, without, constant = (100 * kept[f'demo/arc/{o}'].astype(float) for o in ('none', 'whole layer', 'constant'))
    stands(page, 'ARC-Easy, unpruned: #%', whole.mean())
    for at, o in (('without layer 11', without), ('with the constant', constant)):
        stands(page, f'ARC-Easy, {at}: #% of # questions, #', o.mean(), len(o), paired(o - whole))
    stands(page, 'loses #.*?constant.*?#', paired(whole - without), paired(whole - constant))
    seen, cut = (kept[f'demo/seen/{o}'].mean(-1) for o in ('none', 'whole layer'))
    shares = [100 * o[2, 12:].mean() for o in (seen, cut)]
    for name, share in zip(('unpruned', 'without'), shares): stands(page, f'after 11, {name}: #%', share)
    stands(page, 'send # of their attention, and # without', *shares)
    each = [100 * kept[f'demo/seen/{o}'][2, 12:].mean(0) for o in ('none', 'whole layer')]
    ends = [f(o) for o in each for f in (min, max)]
    stands(page, r'layer 11 \(# to # % and # to # % in each of # documents', *ends, 8)
    assert f'{seen[0, 10]:,.0f} before layer 11, {seen[0, 11]:,.0f} after it' in words(page)


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
        stands(page, '# at n = 5', -change[5][0])
        less = [[-change[n][i] for i in (0, 2, 1)] for n in (5, 8)]
        stands(page, "# less than the paper's block at five layers, # less at eight", *less)
        stands(page, 'layers 9 to 11 minus layer 11 alone: #', linear(sums[9, 12] - sums[11, 12], tokens))
        assert f'costly: {costly}' in words(page)
    else:
        stands(page, 'up to # nats', max(o for o, _, _ in change.values()))
        stands(page, '# of # layers are costly', len(costly), depth)


def test_where_half_is_lost():
    "By the rule for a plateau, and the accuracies of the unpruned models"
    page, at = 'paper/figure2', {}
    shown = [o for o in tables(page) if len(o) == 5 and re.fullmatch(r'[\d.]+% of [\d,]+', o[2])]
    assert len(shown) == 11
    for name, title, accuracy, _, lost in shown:
        model = next(o for o in MODELS if o.startswith(name))
        r, keys = run(model), cuts(run(model), TASKS[title])
        x, a, guess = np.array([k[2] for k in keys]) / r.depth, right(r, keys), row(r, keys[0]).baseline
        some = np.concatenate([fall(x, o, guess)[1] for o in (a.mean(1)[None], draws(a))])
        at[model, title] = 100 * some[0], *(100 * np.quantile(some[1:], [.025, .975]))
        agrees(lost, at[model, title])
        assert numbers(accuracy) == pytest.approx([100 * a[0].mean(), a.shape[1]], abs=.051)
    stands(page, '# of the layers on MMLU.*?# on ARC-Easy', at[QWEN, 'MMLU'], at[QWEN, 'ARC-Easy'])


def test_written_solutions_break_first():
    page, keys = 'paper/figure2', cuts(run(QWEN), 'gsm8k')
    solved = dict(zip((k[2] for k in keys), right(run(QWEN), keys).sum(1)))
    rows = [o for o in tables(page) if o[0].startswith('GSM8K, n = ')]
    assert {numbers(o[0])[-1]: o[1] for o in rows} == {n: f'{k / 4:.0f}% = {k:.0f}/400' for n, k in solved.items()}
    stands(page, 'solves # of # problems of GSM8K.*?# without one layer.*?# without four', solved[0], 400,
           solved[1], solved[4])


def test_which_healing_brings_written_answers_back():
    "The comparisons of experiment M, and the first paragraph of its page"
    kept = pd.read_parquet(root/'results'/'abilities.parquet').sort_values('item')
    def items(arm, task='gsm8k:shots=0'): return kept[(kept.arm == arm) & (kept.task == task)]
    arms = {'whole': 'parent', 'cut, not healed': 'cut-2', 'healed on C4': 'c4-2', 'healed on own answers': 'self-2',
            'healed on C4, seed 1': 'c4-2-seed-1', 'healed on C4, slowly': 'c4-slow-2',
            'healed on C4, slowly, seed 1': 'c4-slow-2-seed-1', 'distilled on C4': 'c4-top-2',
            'distilled on own answers': 'self-top-2', 'healed on own answers, seed 1': 'self-2-seed-1',
            'whole healed on C4': 'c4-0', 'whole healed on own answers': 'self-0',
            'healed on own answers, 0.3 × the tokens': 'self-2-less',
            'healed on own answers, 3 × the tokens': 'self-2-more', 'four layers cut, not healed': 'cut-4',
            'four layers cut, healed on C4': 'c4-4', 'four layers cut, healed on own answers': 'self-4',
            'healed on C4, seed 2': 'c4-2-seed-2', 'healed on own answers, seed 2': 'self-2-seed-2'}
    lines = '\n'.join(text for _, text in outputs('findings/abilities')).splitlines()
    found, compared = [], [o for o in tables('findings/abilities') if len(o) == 7 and re.match(r'fixed|\d', o[6])]
    at = next(i for i, o in enumerate(compared) if o[0] == 'What of HumanEval?')
    assert [at, len(compared)] == [36, 43]
    for title, task, n, pairs in (('HumanEval', 'humaneval', 164, compared[at:]),
                                  ('GSM8K', 'gsm8k:shots=0', 400, compared[:at])):
        right = {k: items(v, task).right.to_numpy(float) for k, v in arms.items() if len(items(v, task))}
        for k, o in right.items():
            shown = numbers(next(t for t in lines if t.startswith(f'{title}, {k}: ')).partition(': ')[2])
            p, z = o.mean(), 1.959964  # Wilson's interval
            middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
            near(shown[2:], 100 * p, *[100 * (middle + s * half) / (1 + z * z / n) for s in (-1, 1)], 1)
            assert shown[:2] == [o.sum(), n] and len(o) == n
        for _, k, v, points, won, lost, p in pairs:
            d = right[k] - right[v]
            near(numbers(points), 100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975]), 1, .05)
            assert [int(won), int(lost)] == [(d > 0).sum(), (d < 0).sum()]
            n_pairs, least = int(won) + int(lost), min(int(won), int(lost))  # a sign test
            sign = min(1, 2 * sum(math.comb(n_pairs, i) for i in range(least + 1)) / 2**n_pairs)
            found += [(sign, float(p))] if p != 'fixed' else []
    found.sort()
    adjusted = np.minimum(1, np.maximum.accumulate([p * (len(found) - i) for i, (p, _) in enumerate(found)]))  # by Holm
    assert len(found) == 42 and [p for _, p in found] == pytest.approx(adjusted, rel=.06)
    for pattern, a, b in (('differ by # between two seeds', ', seed 1', ', seed 2'), ('by # on C4 at a lower', '', ''),
                          ('and by # at the usual', ', seed 1', '')):
        name = 'healed on own answers' if a and b else 'healed on C4' if a else 'healed on C4, slowly'
        d = 100 * (right[name + b] - right[name + a] if a else right[name] - right[f'{name}, seed 1'])
        d *= np.sign(d.mean())
        stands('paper/figures7to9', pattern, (d.mean(), *np.quantile(draws(d[None]), [.025, .975])), other=.05)
    for seed, shown in zip(('', ', seed 1', ', seed 2'), (t for t in lines if t.startswith('holds: '))):
        d, shown = right[f'healed on own answers{seed}'] - right[f'healed on C4{seed}'], numbers(shown)
        near(shown, 100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975]), 0)
        assert shown[1] >= shown[4] == 5
        assert shown[3] == 400
        assert np.quantile(draws(d[None]), .025) > .05

    said = words('findings/abilities').partition('## What does each healing do?')[2]
    claimed = re.search(r'solves (\d+) of 400 .*? solves (\d+)\. .*?it solves (\d+), (\d+) and (\d+), which.*?'
                        r'it solves (\d+), (\d+) and (\d+)\.', said, re.S).groups()
    seeds = '', ', seed 1', ', seed 2'
    arms_of = [f'healed on {o}{k}' for o in ('C4', 'own answers') for k in seeds]
    assert [*map(int, claimed)] == [right[k].sum() for k in ('cut, not healed', 'whole', *arms_of)]
    for row, a, b in (('cut, on C4, seed 2', 'cut, not healed', 'healed on C4, seed 2'),
                      ('cut, on own answers, seed 2', 'cut, not healed', 'healed on own answers, seed 2'),
                      ('four layers cut, on C4', 'four layers cut, not healed', 'four layers cut, healed on C4'),
                      ('four layers cut, on own answers', 'four layers cut, not healed',
                       'four layers cut, healed on own answers'),
                      ('the same, seed 2', 'healed on C4, seed 2', 'healed on own answers, seed 2')):
        d = 100 * (right[b] - right[a])
        stands('findings/abilities', rf'\| {row} \| #', (d.mean(), *np.quantile(draws(d[None]), [.025, .975])))
    whole, fast, own = (right[o] for o in ('whole', 'whole healed on C4', 'whole healed on own answers'))
    for d, pattern in ((fast - whole, r'\| whole model, on C4 \| #'),
                       (own - whole, r'\| whole model, on own answers \| #'),
                       (own - fast, 'it solves 219, # more than on C4')):
        stands('findings/abilities', pattern, (100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975])))
    assert [fast.sum(), own.sum()] == [179, 219]  # as the page says
    fast, own = (right[f'four layers cut, healed on {o}'] for o in ('C4', 'own answers'))
    assert re.search(r'C4 leaves (\d+) of 400 and own answers (\d+), 7', said).groups() == (
        f'{fast.sum():.0f}', f'{own.sum():.0f}')
    shown = [100 * (own - fast).mean(), *np.quantile(100 * draws((own - fast)[None]), [.025, .975])]
    stands('findings/abilities', r'\| the same, four layers \| #', shown)
    assert shown[1] < 5 < shown[2]
    a, b = (items(o, 'c4') for o in ('c4-4', 'self-4'))
    stands('findings/abilities', 'a C4 loss that is # higher. On ARC', paired(
        b['sum'].to_numpy() - a['sum'].to_numpy(), a['count'].to_numpy(float)), other=.1)
    d = items('self-4', 'arc_easy').right.to_numpy(float) - items('c4-4', 'arc_easy').right.to_numpy(float)
    stands('findings/abilities', 'On ARC-Easy it is #', (
        100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975])))
    nats = {o: items(o, 'c4')['sum'].to_numpy() for o in ('c4-0', 'c4-2', 'self-2')}
    tokens = items('c4-2', 'c4')['count'].to_numpy(float)
    alike, apart = (paired(nats['c4-2'] - nats[o], tokens) for o in ('c4-0', 'self-2'))
    near(numbers(re.search(r'That loss then lies (.*?) above', said)[1]), *alike, 3, .1)  # the page's is linearised
    near(numbers(re.search(r'at a C4 loss (.*?) higher \(seed 0\)', said)[1]), *(-o for o in np.take(apart, [0, 2, 1])),
         2, .1)
    d = right['distilled on C4'] - right['healed on C4']
    k, *shown = numbers(re.search(r'On C4 it then solves (\d+ \(one seed\), .*?) more than without', said)[1])
    near(shown, 100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975]), 0)
    assert k == right['distilled on C4'].sum()
    (cut, bare), (c4, short) = ((right[k], ~items(arms[k]).written.str.contains('=').to_numpy())
                                for k in ('cut, not healed', 'healed on C4'))
    form = (root/'findings/abilities.ipynb').read_text().partition('Is it ability or form?')[2]
    says = (r'answers (\d+) of the 400.*?does so (\d+) times.*?solves (\d+) and the cut (\d+), so (\d+) of the (\d+) '
            r'problems.*?other \d+ it solves (\d+) and the cut (\d+)')
    counts = [short.sum(), bare.sum(), c4[short].sum(), cut[short].sum(), (cut - c4)[short].sum(), (cut - c4).sum(),
              c4[~short].sum(), cut[~short].sum()]
    assert [*map(int, re.search(says, form, re.S).groups())] == counts
    plain, taught = items('self-2', 'c4'), items('self-top-2', 'c4')
    d, tokens = plain['sum'].to_numpy() - taught['sum'].to_numpy(), plain['count'].to_numpy(float)
    near(numbers(re.search(r'a C4 loss that is (.*) lower', said)[1]), d.sum() / tokens.sum(),
         *np.quantile(draws(d[None], tokens), [.025, .975]), 2, .1)
    own, fast = (100 * np.mean([right[f'{o}{k}'] for k in seeds], 0)[None]
                 for o in ('healed on own answers', 'healed on C4'))
    assert np.quantile(draws(own - fast), .025) > 0
    rng, drawn = np.random.default_rng(0), []  # the seeds are drawn anew as well as the problems
    for some in (['cut, not healed'], [f'healed on own answers{k}' for k in seeds]):
        solved = draws(100 * np.array([right[o] for o in some]))
        drawn.append(np.take_along_axis(solved, rng.integers(len(some), size=solved.shape), 1).mean(1))
    found = own.mean() - 100 * right['cut, not healed'].mean(), *np.quantile(drawn[1] - drawn[0], [.025, .975])
    stands('findings/abilities', r'own answers above the cut, with the seeds drawn too: #', found)
    shown = re.search(r'from nothing: ([\d.]+) of (\d+) points of GSM8K (\[.*?\])', words('findings/abilities'))
    near(numbers(shown[1] + shown[3]), *found, 1)
    assert found[1] < 0 and int(shown[2]) == round(100 * (right['whole'] - right['cut, not healed']).mean())
    assert found[0] > 0 and 'own answers does no such harm' in first.replace('model’s ', '')
    assert 'That it wins any back is not shown' in first
    page = (root/'findings/abilities.ipynb').read_text()
    all_fast, own = fast[0] / 100, own[0] / 100
    fast, slow = ((right[o] + right[f'{o}, seed 1']) / 2 for o in ('healed on C4', 'healed on C4, slowly'))
    cut = right['cut, not healed']
    for d, at in ((slow - fast, 'Over both it brings (.*?), and'), (cut - slow, 'still (.*?) better'),
                  (own - all_fast, 'Over the three seeds that is (.*?) above C4'),
                  (own - cut, 'Their mean, (.*?) over the problems'), (cut - all_fast, 'which is (.*?) fewer than')):
        shown = numbers(re.search(at, page)[1])
        near(shown, 100 * d.mean(), *np.quantile(100 * draws(d[None]), [.025, .975]), 1)
    assert 'It halves the problems' in first and 'takes a fifth of the whole' in first
    assert .4 < np.mean([right[o].sum() for o in arms_of[:3]]) / right['cut, not healed'].sum() < .6
    assert .15 < 1 - right['whole healed on C4'].sum() / right['whole'].sum() < .25
    d = right['whole'] - right['whole healed on C4']
    near(numbers(re.search(r'to 179, by (.*?), while', page)[1]), 100 * d.mean(),
         *np.quantile(100 * draws(d[None]), [.025, .975]), 1, .05)
    slow, fast = (items(arms[k], 'c4')['sum'] for k in ('healed on C4, slowly', 'healed on C4'))
    assert abs(slow.sum() - fast.sum()) / tokens.sum() < .01


def test_what_more_tokens_bring():
    "A straight line over the logarithm of the tokens, which is not drawn on"
    kept, notes = pd.read_parquet(root/'results'/'abilities.parquet'), json.loads(
        (root/'results'/'abilities.json').read_text())
    arms = 'self-2-less', 'self-2', 'self-2-seed-1', 'self-2-seed-2', 'self-2-more'
    kept = kept[kept.task == 'gsm8k:shots=0'].pivot(index='item', columns='arm', values='right')
    solved, tokens = 100 * kept[list(arms)].to_numpy(float).T, np.log10([notes[o]['tokens'] for o in arms])
    assert .95 < np.ptp(tokens) < 1
    slope, _ = np.polyfit(tokens, np.concatenate([solved.mean(1)[None], draws(solved)]).T, 1)
    text = next(m[1] for _, o in outputs('findings/abilities') if (m := re.search('ten times the tokens: (.*)', o)))
    near(numbers(text), slope[0], *np.quantile(slope[1:], [.025, .975]), 1)
    assert 'million' not in words('findings/abilities') and 'extrapolat' not in words('findings/abilities')
    less, more, cut = (100 * kept[o].to_numpy(float) for o in ('self-2-less', 'self-2-more', 'cut-2'))
    for pattern, d in (('solves 99, # fewer', less - more), ('so are the # that it lies above', more - cut),
                       ('the shortest, by #', less - cut)):
        stands('findings/abilities', pattern, (d.mean(), *np.quantile(draws(d[None]), [.025, .975])))
    stands('findings/abilities', 'Ten times the tokens bring #', (slope[0], *np.quantile(slope[1:], [.025, .975])))


def test_what_healing_moves_beside_the_answers():
    "Agreement with the whole model against the cut, and ARC-Easy of own answers against C4, with seed 1"
    kept = pd.read_parquet(root/'results'/'abilities.parquet').sort_values('item')
    def items(arm, task): return kept[(kept.arm == arm) & (kept.task == task)]
    page = (root/'findings/abilities.ipynb').read_text()
    cut = items('cut-2', 'agreement')
    tokens = cut['count'].to_numpy(float)
    for arm, at in (('c4-2-seed-1', "whole model's at (.*?) more of"),
                    ('self-2-seed-1', r'Own answers \(seed 1\) do so at (.*?), and'),
                    ('c4-slow-2', 'lower rate at (.*?) and'),
                    ('c4-slow-2-seed-1', 'lower rate at .*? and (.*?), while'),
                    ('self-top-2', 'with the teacher at (.*?). Only')):
        d = cut['sum'].to_numpy() - items(arm, 'agreement')['sum'].to_numpy()
        near(numbers(re.search(at, page)[1]), 100 * d.sum() / tokens.sum(),
             *np.quantile(100 * draws(d[None], tokens), [.025, .975]), 1, .15)  # the page's interval is linearised
    more, fast, own = (items(o, 'agreement')['sum'].to_numpy() for o in ('c4-top-2', 'c4-0', 'self-0'))
    for d, at in ((more - cut['sum'].to_numpy(), 'tokens back, at (.*?) of the places'),
                  (own - fast, '90.0 %, (.*?) more')):
        near(numbers(re.search(at, page)[1]), 100 * d.sum() / tokens.sum(),
             *np.quantile(100 * draws(d[None], tokens), [.025, .975]), 1, .15)
    assert [f'{100 * o.sum() / tokens.sum():.1f}' for o in (fast, own)] == ['80.1', '90.0']
    loss = pd.read_parquet(root/'results/qwen2.5-coder-1.5b/items.parquet').query(
        "sweep == 'cuts' and n == 0 and task == 'c4'").sort_values('index').loss.to_numpy()
    d, tokens = items('self-0', 'c4')['sum'].to_numpy() - loss, items('self-0', 'c4')['count'].to_numpy(float)
    stands('findings/abilities', 'C4 loss rises by #', paired(d, tokens), other=.1)
    c4, own = (items(o, 'arc_easy').right.to_numpy(float) for o in ('c4-2-seed-1', 'self-2-seed-1'))
    d = c4 - own
    near(numbers(re.search(r'against them: (.*?) below C4', page)[1]), 100 * d.mean(),
         *np.quantile(100 * draws(d[None]), [.025, .975]), 1, .25)


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
    "With bands over all cuts at once"
    r, shown = run(QWEN), {o[0]: o[1:] for o in tables('findings/letters') if len(o) == 4}
    for title in ('GSM8K', 'MMLU', 'BoolQ', 'ARC-Easy', 'PIQA'):
        a, guess = right(r, keys := cuts(r, TASKS[title])), row(r, cuts(r, TASKS[title])[0]).baseline
        def kept(o): return (o[..., 1:] - guess) / (o[..., :1] - guess)
        value, some = kept(a.mean(1)), kept(draws(a))
        half = np.quantile(np.abs((some - value) / some.std(0)).max(1), .95) * some.std(0)
        i = [k[2] for k in keys[1:]].index(4)
        near([float(o) for o in shown[title]], *(100 * o[i] for o in (value, value - half, value + half)), 0, .03)


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
    page, table = 'findings/design', pd.read_parquet(root/'results'/'map.parquet')
    def asked(cut, task, form=''):
        found = table[(table.layers == cut) & (table.task == task) & (table.form == form)].sort_values('item')
        assert found.item.tolist() == list(range(len(found)))
        return found
    def letters(cut): return asked(cut, 'arc_easy', 'letter').right.to_numpy(float)
    def points(a, b): return [100 * o for o in paired(letters(a) - letters(b))]
    assert len(letters('24')) == 1000
    stands(page, r'picks # \*more\* letters right', points('13-16', '23-26'))
    stands(page, r'layer 24, and # \*fewer\* letters', points('24', '15-16'))
    def scored(cut): return asked(cut, 'arc_easy', 'likelihood').right.to_numpy(float)
    stands(page, r'each answer is scored it has # more', [100 * o for o in paired(scored('13-16') - scored('23-26'))])
    late, middle = (asked(cut, 'c4') for cut in ('24', '15-16'))
    assert late['count'].tolist() == middle['count'].tolist()
    stands(page, r'loss is # \*lower\* than without layer 24', paired(
        late['sum'].to_numpy() - middle['sum'].to_numpy(), late['count'].to_numpy()))
    best = np.array([o.argmax() for o in map(np.array, asked('24', 'arc_easy', 'letter').logprobs)])
    right = asked('24', 'arc_easy', 'letter')
    assert ((best == right.answer) == right.right).all(), 'the likeliest letter is the one that counts'
