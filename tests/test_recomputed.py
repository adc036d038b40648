"""Numbers of the claims page, computed again from the kept tables with numpy and pandas alone. Nothing of the claims or
the criteria is imported: the formulas are written here a second time, as the pages state them."""
import html
import json
import math
import re
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

root = Path(__file__).parents[1]/'nbs'
run = root/'results'/'demo'
MODEL, DEPTH = 'SmolLM2-135M-Instruct', 30
HEALED_BASE = 'healed-base', 'none', 0, True  # the unpruned model after 100 steps, as the healed cuts


# The page

def outputs():
    "Outputs of the page of claims, in their order"
    cells = json.loads((root/'paper'/'claims.ipynb').read_text())['cells']
    return [o['data'] for c in cells for o in c.get('outputs', []) if 'data' in o]


def rulings():
    "Verdict and number of the page's tables of rulings, by claim and model"
    found = {}
    for text in (''.join(o.get('text/html', '')) for o in outputs()):
        if '<th>threshold</th>' not in text: continue
        for row in re.findall(r'<tr>(.*?)</tr>', text, re.S):
            claim, *cells = (html.unescape(o) for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S))
            if re.fullmatch(r'C\d\w?', claim): found[claim, cells[0]] = dict(verdict=cells[1], number=cells[2])
    return found


rows, table, mean = rulings(), pd.read_csv(run/'results.csv'), load_file(run/'distances.safetensors')['mean']
markdown = '\n'.join(''.join(o.get('text/markdown', '')) for o in outputs())
said = dict(re.findall(rf'^- (C\d\w?), `{MODEL}`: (.*)$', markdown, re.M))  # sentences about this model, by claim


def shown(claim, task=''):
    "Value, low and high of a row"
    text = rows[claim, MODEL + (f', {task}' if task else '')]['number']
    return [float(o) for o in re.findall(r'-?[0-9.]+', text)]


def near(claim, value, draws=None, task=''):
    "The page shows this value to its last digit, and an interval like that of `draws`"
    got, low, high = shown(claim, task)
    digits = 2 if abs(value) >= .1 else 3
    assert got == pytest.approx(value, abs=.51 * 10**-digits), (claim, task)
    if draws is None: return
    mine = np.quantile(draws, [.025, .975])
    assert [low, high] == pytest.approx(mine, abs=.15 * max(high - low, 10**-digits) + 10**-digits), (claim, task)


# The tables

KEYS = ['sweep', 'strategy', 'n', 'healed', 'seed', 'task']
columns = [*KEYS, 'index', 'picked', 'answer', 'loss', 'tokens', 'written']
items = dict(iter(pd.read_parquet(run/'items.parquet', columns=columns).groupby(KEYS)))


def right(task, *cuts):
    "(P, N) right answers at these (sweep, strategy, n, healed) or (…, seed)"
    got = [items[(*c[:4], c[4] if len(c) > 4 else 0, task)] for c in cuts]
    return np.stack([(o.picked == o.answer).to_numpy(float) for o in got])


def nats(*cuts):
    "(P, D) nats and (D,) tokens at these cuts"
    got = [items[(*c[:4], c[4] if len(c) > 4 else 0, 'c4')] for c in cuts]
    assert all((o.tokens.to_numpy() == got[0].tokens.to_numpy()).all() for o in got)
    return np.stack([o.loss.to_numpy(float) for o in got]), got[0].tokens.to_numpy(float)


def cuts_of(task, sweeps, strategy='similarity', healed=False):
    "The curve in these sweeps, by n"
    t = table[(table.task == task) & table.sweep.isin(sweeps) & (table.strategy == strategy) & (table.healed == healed)]
    return sorted({(o.sweep, strategy, int(o.n), healed) for o in t.itertuples() if o.n > 0 and o.seed == 0},
                  key=lambda o: o[2])


def draws(x, size=1500):
    "Means of (P, N) numbers over the same resamples of the columns"
    r, n = np.random.default_rng(12345), x.shape[1]
    return np.stack([x[:, r.integers(0, n, n)].mean(1) for _ in range(size)])


def loss_draws(sums, counts, size=1500):
    r, n = np.random.default_rng(54321), len(counts)
    picks = [r.integers(0, n, n) for _ in range(size)]
    return np.stack([sums[:, i].sum(1) / counts[i].sum() for i in picks])


# C1 and C2

def blocks(n): return np.array([mean[l, l + n] for l in range(DEPTH - n + 1)])


def test_places():
    near('C1', np.mean([blocks(n).argmin() / (DEPTH - n) for n in range(1, 8)]))


def test_last_layer():
    d = [blocks(n) for n in range(1, 16)]
    near('C2', np.mean([(o[-1] - o.min()) / (o.max() - o.min()) for o in d]))
    assert f'{np.mean([(o[:-1] < o[-1]).mean() for o in d]):.0%} of the other blocks' in said['C2']
    assert f'at {sum(o.argmax() == 0 for o in d)} of 15 sizes' in said['C2']


# C3 and C8

def falling(y):
    "The nearest non-increasing curve: pool adjacent violators"
    out = []
    for v in y:
        out.append([v, 1])
        while len(out) > 1 and out[-2][0] < out[-1][0]:
            (a, i), (b, j) = out[-2:]
            out[-2:] = [[(a * i + b * j) / (i + j), i + j]]
    return np.concatenate([[v] * n for v, n in out])


def where(x, y, level):
    "Where a falling curve passes `level`"
    for (a, b), (u, v) in zip(zip(x, x[1:]), zip(y, y[1:])):
        if v < level: return a + (b - a) * min(1, max(0, (u - level) / (u - v)))
    return math.inf


def fall(x, accuracy, chance):
    "Where retention falls below 90 % and 50 %, and the width"
    y = falling((accuracy - chance) / (accuracy[0] - chance))
    kept, lost = where(x, y, .9), where(x, y, .5)
    return kept, lost, (lost - kept) / lost


def check_fall(claim, task, title, sweeps, base, healed=False):
    curve = cuts_of(task, sweeps, healed=healed)
    x = np.array([0, *(c[2] for c in curve)]) / DEPTH
    r = right(task, base, *curve)
    chance = table[(table.task == task) & (table.sweep == base[0])].baseline.iloc[0]
    kept, lost, width = fall(x, r.mean(1), chance)
    near(claim, width, [fall(x, o, chance)[2] for o in draws(r, 800)], title)
    if said.get(claim, '').startswith(title):
        assert f'below 90% at {kept:.1%} of the layers, below 50% at {lost:.1%}' in said[claim]
        assert f'{r.shape[1]} questions' in said[claim]


@pytest.mark.parametrize('task, title', [('arc_easy', 'ARC-Easy'), ('piqa', 'PIQA')])
def test_falls(task, title):
    check_fall('C3a', task, title, ['similarity'], ('similarity', 'none', 0, False))
    check_fall('C3b', task, title, ['healed', 'healed-deep'], HEALED_BASE, True)


def test_written_sums():
    assert rows['C8', f'{MODEL}, Sums of one step']['verdict'].startswith('not informative')
    check_fall('C8', 'sums', 'Sums of one step', ['sums'], ('sums', 'none', 0, False))
    for n in (1, 2, 4):
        empty = items['sums', 'similarity', n, False, 0, 'sums'].written.fillna('').str.strip().eq('').mean()
        assert f'{empty:.0%} at n = {n}' in said['C8']


@pytest.mark.parametrize('task, title', [('arc_easy', 'ARC-Easy'), ('piqa', 'PIQA')])
def test_rises(task, title):
    curve = [('similarity', 'none', 0, False), *cuts_of(task, ['similarity'])]
    r = right(task, *curve)
    acc, n = r.mean(1), r.shape[1]
    pairs = [(i, j) for i in range(len(acc)) for j in range(i + 1, len(acc))]
    score = {(i, j): (acc[j] - acc[i]) / ((r[j] - r[i]).std() / math.sqrt(n)) for i, j in pairs}
    surest = [p for p in pairs if score[p] > .95 * max(score.values())]  # the rule's own spread is resampled
    got = shown('C3c', title)[0]
    assert min(abs(acc[j] - acc[i] - got) for i, j in surest) < 6e-4
    if said['C3c'].startswith(title):
        i, j = max(pairs, key=lambda p: acc[p[1]] - acc[p[0]])
        assert f'n = {curve[i][2]} ({acc[i]:.1%}) to {curve[j][2]} ({acc[j]:.1%})' in said['C3c']


@pytest.mark.parametrize('task, title', [('mmlu_text', 'MMLU (texts)'), ('boolq_text', 'BoolQ (texts)')])
def test_tasks_that_are_not_known(task, title):
    "Wilson's interval of the unpruned model reaches the share of the most frequent answer"
    o = items['similarity', 'none', 0, False, 0, task]
    p, n, z = (o.picked == o.answer).mean(), len(o), 1.959964
    low = (p + z**2 / 2 / n - z * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)) / (1 + z**2 / n)
    assert low <= o.answer.value_counts(normalize=True).max()
    for claim in ('C3a', 'C3b', 'C3c'):
        assert 'does not know the task' in rows[claim, f'{MODEL}, {title}']['verdict']


# The family

def test_holm_counts_every_finding_that_was_tested():
    "Also those that stayed undecided. A dagger stands where the adjusted p reaches 0.05"
    page = [o for o in outputs() if '<th>p (Holm)</th>' in ''.join(o.get('text/html', ''))]
    cells = [[html.unescape(o) for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]
             for o in page for row in re.findall(r'<tr>(.*?)</tr>', ''.join(o['text/html']), re.S)]
    own = [o for o in cells if len(o) == 6 and o[1].startswith(MODEL)]
    assert all((o[5] != '') == (o[3] != '') for o in own), 'adjusted wherever there is a number'
    decided = [o for o in own if o[2].startswith(('holds', 'fails'))]
    assert decided and all(o[2].endswith('†') == (float(o[5]) >= .05) for o in decided)


# C4 and C5

def test_slope_across_the_collapse():
    "The steps before it alone give another word, so the claim is not informative"
    answers = cuts_of('arc_easy', ['healed', 'healed-deep'], healed=True)
    r = right('arc_easy', HEALED_BASE, *answers)
    chance = table[(table.task == 'arc_easy') & (table.sweep == 'healed')].baseline.iloc[0]
    kept, lost, _ = fall(np.array([0, *(c[2] for c in answers)]) / DEPTH, r.mean(1), chance)
    curve = cuts_of('c4', ['healed', 'healed-deep'], healed=True)
    sums, counts = nats(HEALED_BASE, *curve)
    x = np.array([0, *(c[2] for c in curve)]) / DEPTH
    inside = (x[1:] > kept) & (x[:-1] < lost)
    def ratio(y, end=None):
        rise, run, within = np.diff(y[:end]), np.diff(x[:end]), inside[:end and end - 1]
        rest = max(rise[~within].sum() / run[~within].sum(), .1 * np.ptp(y[:end]) / np.ptp(x[:end]))
        return rise[within].sum() / run[within].sum() / rest
    losses, resampled = sums.sum(1) / counts.sum(), loss_draws(sums, counts)
    near('C4', ratio(losses), [ratio(o) for o in resampled])
    end = (x < lost).sum() + 1
    low, high = np.quantile([ratio(o, end) for o in resampled], [.025, .975])
    before = re.search(r'by the steps before it alone (\S+) \[(\S+), (\S+)\]', said['C4'])
    assert [float(o) for o in before.groups()] == pytest.approx([ratio(losses, end), low, high], abs=.05)
    assert low < 2 < high and rows['C4', MODEL]['verdict'].startswith('not informative')


def check_gap(claim, sums, counts):
    k = (len(sums) - 1) // 2
    parts = lambda y: (y[1:1 + k].mean() - y[0], y[1 + k:].mean() - y[0])
    a, b = parts(sums.sum(1) / counts.sum())
    near(claim, b / a, [v / u for u, v in map(parts, loss_draws(sums, counts))])
    assert f'mean excess loss {a:.3f} nats under similarity, {b:.3f} under simple' in said[claim]


def test_unhealed_gap():
    "On 64 documents, without up to a quarter of the layers"
    cuts = [('losses', s, n, False) for s in ('similarity', 'simple') for n in range(1, DEPTH // 4 + 1)]
    check_gap('C5a', *nats(('losses', 'none', 0, False), *cuts))


def test_healed_gap():
    "Over the unpruned model healed alike"
    sweeps = [('similarity', 'healed'), ('simple', 'healed-simple')]
    both = [cuts_of('c4', [sweep], s, True) for s, sweep in sweeps]
    ns = set.intersection(*({c[2] for c in v} for v in both))
    cuts = [c for v in both for c in v if c[2] in ns]
    check_gap('C5b', *nats(HEALED_BASE, *cuts))


# C6 and C7

def test_ranks():
    sweeps = dict(similarity=('rank-2', 'healed'), simple=('rank-2-simple', 'healed-simple'))
    low, high = ([(o[i], s, n, True) for s, o in sweeps.items() for n in (4, 8)] for i in (0, 1))
    (a, counts), (b, _) = nats(*low), nats(*high)
    d = (a - b) / counts
    near('C6a', d.mean(), draws(d.mean(0)[None])[:, 0])
    d = right('arc_easy', *low) - right('arc_easy', *high)
    near('C6b', d.mean(), draws(d.mean(0)[None])[:, 0], 'ARC-Easy')


def test_seeds():
    where = {0: 'healed', 1: 'seeds', 2: 'seeds'}
    sums, counts = nats(*((where[s], 'similarity', n, True, s) for n in (4, 8) for s in where))
    losses = (sums.sum(1) / counts.sum()).reshape(2, 3)
    base, _ = nats(HEALED_BASE)
    near('C7a', math.sqrt(losses.var(1, ddof=1).mean()) / (losses.mean() - base.sum() / counts.sum()))


def test_examples():
    ns = (0, 2, 4, 6, 8, 12)
    cuts = lambda sweep: [(sweep, 'similarity' if n else 'none', n, False) for n in ns]
    plain, first, second = (right('arc_easy', *cuts(s)) for s in ('shots-0', 'shots-5', 'shots-5-order-1'))
    gain = ((first + second) / 2 - plain).mean(1)
    most = max(range(1, len(ns)), key=lambda i: abs(gain[i] - gain[0]))
    near('C7b', gain[most] - gain[0], task='ARC-Easy')
    assert f'5 examples bring {gain[0]:+.1%} unpruned and {gain[most]:+.1%} at n = {ns[most]}' in said['C7b']


# Does measuring pay?

@pytest.mark.parametrize('folder, name', [('demo', 'SmolLM2-135M'), ('gemma3-270m', 'Gemma-3-270M')])
def test_regrets(folder, name):
    "The mean regret of three rules and of the median block, from the kept losses of every block"
    kept, mean = (load_file(root/'results'/folder/f'{o}.safetensors') for o in ('loss_map', 'distances'))
    loss = {tuple(b): s.sum() / kept['counts'].sum() for b, s in zip(kept['blocks'].tolist(), kept['sums'])}
    depth, found = int(kept['blocks'].max()), []
    for n in range(1, depth // 3 + 1):
        of = [loss[l, l + n] for l in range(depth - n + 1)]
        nearest = int(np.argmin([mean['mean'][l, l + n] for l in range(depth - n + 1)]))
        found.append([of[nearest], of[(depth - n) // 2], of[depth - 1 - n], np.median(of)] - np.min(of))
    cells = json.loads((root/'discoveries'/'measuring.ipynb').read_text())['cells']
    table = next(''.join(o['data']['text/html']) for c in cells for o in c.get('outputs', [])
                 if 'median block' in ''.join(o.get('data', {}).get('text/html', '')))
    row = re.search(rf'<th>{name}</th>(.*?)</tr>', table, re.S)[1]
    assert [float(o) for o in re.findall(r'<td>(.*?)</td>', row)] == pytest.approx(np.mean(found, 0), abs=.006)


# The same questions, asked in two ways

WAYS = ('arc_easy', 'arc_easy:scoring=letter')


def printed(page, cell):
    "The text and the HTML that a cell of a discovery prints"
    cells = json.loads((root/'discoveries'/f'{page}.ipynb').read_text())['cells']
    outputs = next(c['outputs'] for c in cells if c['id'] == cell)
    return ''.join(''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/html', '')) for o in outputs)


@pytest.fixture(scope='module')
def asked():
    "Right answers of Qwen to ARC-Easy, by sweep, strategy, n, healed, seed and way; (500,) each"
    t = pd.read_parquet(root/'results'/'qwen2.5-coder-1.5b'/'items.parquet')
    t = t[t.task.isin(WAYS)].sort_values('index')
    keys = ['sweep', 'strategy', 'n', 'healed', 'seed', 'task']
    return {k: (o.picked == o.answer).to_numpy(float) for k, o in t.groupby(keys)}


def test_two_ways_of_asking(asked):
    "Retention by likelihood minus by letter, a mean over four cuts"
    def kept(task):
        cuts = [('similarity' if n else 'none', n) for n in (0, 2, 3, 4, 6)]
        found = [asked['four-ways-similarity', *o, False, 0, task] for o in cuts]
        return lambda some: np.array([o[some].mean() for o in found]) - .25
    text, letter = map(kept, WAYS)
    def gap(some): return (text(some)[1:] / text(some)[0] - letter(some)[1:] / letter(some)[0]).mean()
    rng = np.random.default_rng(7)
    mine = [gap(slice(None)), *np.quantile([gap(rng.integers(0, 500, 500)) for _ in range(2000)], [.025, .975])]
    assert [float(o) for o in re.findall(r'[\d.]+', printed('letters', 'ask-a05'))[:3]] == pytest.approx(mine, abs=.012)


def test_two_healed_cuts_swap_their_order(asked):
    "Points of one cut minus the other, by way and seed"
    where = {('similarity', 0): ('healed', 'letters'), ('simple', 0): ('healed-simple', 'letters')}
    shown = re.findall(r'<td>([+-][\d.]+) \[', printed('disagree', 'disa0011'))[2:]
    for i, (way, seed) in enumerate((w, s) for w in (0, 1) for s in (0, 1)):
        a, b = (asked[where.get((o, seed), ('healed-seed-1',) * 2)[way], o, 4, True, seed, WAYS[way]].mean()
                for o in ('similarity', 'simple'))
        assert float(shown[i]) == pytest.approx(100 * (b - a), abs=.051)
