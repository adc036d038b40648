"Statistics of the claims on made data whose truth is known, and `read_run` on what may be lying in a folder."
import json, math
import numpy as np, pandas as pd, pytest
from prunebook.claims import (FAILS, HOLDS, MISSING, UNSURE, Finding, Unmeasured, Unsure, about, bulge, closing_rate, collapse_of, curve_shape, deep_minima, draw_distances, findings_table, gap_by_length,
    healed_gap, healing_gain, judge_claims, largest_jump, last_layer_apart, no_plateau, open_run, plateau, points_of, qa_plateau, rank_effect, seeds_agree, settings_agree, shots_agree, smooth_loss, spans, unhealed_gap, verdict)
from prunebook.evaluation import Score, wilson, ratio_interval, LossScore
from prunebook.healing import HealingConfig
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import KEYS, SweepConfig, kept_score, read_run
from dataclasses import asdict

DEPTH, x = 20, np.array([0, 1, 2, 3, 4, 6, 8, 10, 12, 14])
shapes = dict(plateau=np.where(x < 6, .8, np.maximum(.25, .8 - .14 * (x - 5))), straight=np.maximum(.25, .8 - .055 * x), at_once=.25 + .55 * np.exp(-.35 * x))

def distances(best, count=200, spread=.01, depth=DEPTH, last=.5):
    "Distances whose best block of each size is `best(n)` by a clear margin; the last layer is `last` away from everything"
    mean = np.zeros((depth + 1, depth + 1))
    for n in range(1, depth + 1):
        for l in range(depth - n + 1): mean[l, l + n] = mean[l + n, l] = last if l + n == depth else .1 + .01 * abs(l - best(n))
    return LayerDistances(mean, np.full_like(mean, spread / math.sqrt(count)), count, info=dict(model='made/model'))

class Made:
    "A run folder of made scores, written as a sweep writes them"
    def __init__(self, root): self.root, self.rows = root, {}
    def config(self, name, **kw):
        folder = self.root/name
        (folder/'scores').mkdir(parents=True, exist_ok=True)
        healing = kw.pop('healing', {})
        config = SweepConfig(healing=HealingConfig(**dict(steps=10, batch_size=4, max_length=64) | healing), **kw)
        (folder/'sweep.json').write_text(json.dumps(dict(model='f00', dtype='torch.float32', depth=DEPTH, config=asdict(config))))
        return self
    def add(self, sweep, score, strategy, n, healed=False, seed=0):
        row, key = score.row(), (strategy, n, healed, seed, score.task)
        folder = self.root/sweep
        (folder/'scores'/('-'.join(map(str, key)) + '.json')).write_text(json.dumps(dict(kind=type(score).__name__) | asdict(score)))
        self.rows.setdefault(sweep, []).append(dict(zip(KEYS, key)) | dict(metric=row['metric'], value=score.value, low=score.low, high=score.high, k=row['k'], count=score.n, baseline=row['baseline'],
            normalized=row.get('normalized'), fraction_layers=n / DEPTH, layers='', source='made'))
        pd.DataFrame(self.rows[sweep]).astype(dict(k='Int64')).to_csv(folder/'results.csv', index=False)
        return self

def choice(p, task='quiz', n=600, scoring='likelihood', seed=0, noise=0):
    "Questions of differing difficulty, the same for all models; `noise` of them are answered at random"
    ease = np.random.default_rng(0).permutation(n) / n
    right = np.where(np.random.default_rng(seed).random(n) < noise, np.random.default_rng(seed + 1).random(n) < p, ease < p)
    answers = [i % 4 for i in range(n)]
    picked = [a if r else (a + 1) % 4 for a, r in zip(answers, right)]
    k, generated = int(right.sum()), scoring == 'generated'
    return Score(task, k / n, k, n, *wilson(k, n), picked, answers, scoring, 0. if generated else .25, 0. if generated else .25)

def loss(v, seed=0, n=40):
    "Documents of differing difficulty, the same for all models"
    r = np.random.default_rng(7)
    counts, hard = r.integers(50, 200, n), r.normal(0, .3, n)
    sums = counts * (v + hard + np.random.default_rng(seed).normal(0, .01, n))
    value, low, high = ratio_interval(sums, counts)
    return LossScore('c4', float(value), float(low), float(high), n, sums.tolist(), counts.tolist(), list(range(n)), [], 1000, 32000)

@pytest.fixture
def made(tmp_path): return Made(tmp_path)

def test_verdicts():
    assert [verdict(.6, .9, .5), verdict(.1, .4, .5), verdict(.1, .5, .5), verdict(.4, .6, .5), verdict(math.nan, 1, .5)] == [HOLDS, FAILS, FAILS, UNSURE, UNSURE]
    assert [verdict(.1, .4, .5, above=False), verdict(.6, .9, .5, above=False)] == [HOLDS, FAILS]
    def missing(): raise Unmeasured('not there')
    def silent(): raise Unsure('says nothing')
    assert [about('C1', 'p', missing).verdict, about('C1', 'p', silent).verdict] == [MISSING, UNSURE]
    table = findings_table([about('C9', 'it is so', lambda: Finding('seen', HOLDS)), about('C9', 'it is so', missing)], 'm')
    assert list(table['same?']) == ['yes', MISSING] and list(table['we see on m']) == ['seen', 'not there']

def test_deep_or_shallow():
    assert deep_minima(distances(lambda n: DEPTH - n - 2)).verdict == HOLDS
    assert deep_minima(distances(lambda n: 1)).verdict == FAILS
    assert deep_minima(distances(lambda n: (DEPTH - n) // 2, spread=.5)).verdict == UNSURE
    assert about('C1', '', deep_minima, None).verdict == MISSING
    with pytest.raises(Unmeasured, match='single text'): draw_distances(LayerDistances(np.zeros((4, 4)), np.full((4, 4), np.nan), 1), 1)

def test_draws_have_the_moments_of_the_distances():
    d = distances(lambda n: 5, spread=.2)
    draws = draw_distances(d, 3, size=20_000)
    np.testing.assert_allclose(draws.mean(0), np.diagonal(d.mean, 3), atol=6e-4)
    np.testing.assert_allclose(draws.std(0), np.diagonal(d.sem, 3), rtol=.03)

def test_last_layer():
    assert last_layer_apart(distances(lambda n: 5)).verdict == HOLDS
    assert last_layer_apart(distances(lambda n: 5, last=.05)).verdict == FAILS

def test_jump():
    j = largest_jump([23, 24, 23, 23, 23, 22, 22, 21, 20, 19, 18, 18, 17, 16, 15, 8, 8, 7])  # Llama-2-7b as published
    assert (j.n, j.size, j.second) == (16, 7, 1)
    slide = largest_jump(list(range(30, 0, -1)))
    assert slide.ratio == 1
    assert largest_jump([1, 2, 3]).size == 0
    with pytest.raises(Unmeasured): largest_jump([1, 2])

def test_bulge_of_known_areas():
    t = np.linspace(0, 1, 101)
    assert abs(bulge(t, 1 - t)) < 1e-12
    assert abs(bulge(t, 3 - 2 * np.maximum(0, t - .5)) - .25) < 1e-3
    assert abs(bulge(t, np.where(t < 1, .8, .2)) - .5) < .01
    assert bulge(t, np.exp(-5 * t)) < -.2

@pytest.mark.parametrize('kind,want', [('plateau', HOLDS), ('straight', FAILS), ('at_once', FAILS)])
def test_plateau_of_made_curves(kind, want):
    right = np.stack([choice(p).right for p in shapes[kind]])
    assert plateau(x / DEPTH, right, .25).verdict == want
    assert plateau(x / DEPTH, right, .25, wanted=False).verdict == {HOLDS: FAILS, FAILS: HOLDS}[want]

@pytest.mark.parametrize('seed', range(5))
def test_plateau_is_seldom_seen_in_noise_around_a_line(seed):
    right = np.stack([choice(p, seed=10 * seed + i, noise=.5).right for i, p in enumerate(shapes['straight'])])
    assert plateau(x / DEPTH, right, .25).verdict != HOLDS

def test_too_weak_or_too_few_says_so():
    with pytest.raises(Unsure, match='nothing to lose'): curve_shape(x, np.stack([choice(.26).right] * len(x)), .25)
    with pytest.raises(Unsure, match='within the error'): curve_shape(x, np.stack([choice(.8).right] * len(x)), .25)
    with pytest.raises(Unsure, match='shape needs four'): curve_shape(x[:3], np.stack([choice(p).right for p in (.8, .5, .3)]), .25)

def fill(made, sweep='main', kind='plateau', loss_sim=lambda n: 3 + .1 * n, loss_simple=lambda n: 3 + 1.5 * n, healed=lambda n: 3 + .05 * n, healed_simple=None, tasks=('quiz',), ns=x, healing=None, scoring='likelihood'):
    made.config(sweep, healing=healing or {})
    for n, p in zip(ns, shapes[kind]):
        n = int(n)
        for s in ('similarity', 'simple') if n else ('none',):
            for t in tasks: made.add(sweep, choice(p, t, scoring=scoring), s, n)
            made.add(sweep, loss(loss_sim(n) if s != 'simple' else loss_simple(n), seed=n), s, n)
            if n: made.add(sweep, loss((healed_simple or healed)(n) if s == 'simple' else healed(n), seed=n), s, n, True)
    return made

def test_claims_of_a_run_that_is_as_the_paper_says(made):
    fill(made, tasks=('quiz', 'other'))
    distances(lambda n: DEPTH - n - 2).save(made.root)
    fill(made, 'written', 'at_once', tasks=('sums',), scoring='generated')
    run = open_run(made.root)
    assert run.name == 'model' and run.depth == DEPTH and run.main.sweep.unique().tolist() == ['main']
    found = {(o.claim, o.paper): o for o in judge_claims(run)}
    assert len(found) == 12
    got = {k[0]: o.verdict for k, o in found.items() if 'healed)' not in k[1] or 'unhealed' in k[1]}
    assert {k: got[k] for k in ('C1', 'C2', 'C3', 'C4', 'C5a', 'C5b', 'C6a', 'C7a', 'C8')} == dict(C1=HOLDS, C2=HOLDS, C3=HOLDS, C4=HOLDS, C5a=HOLDS, C5b=HOLDS, C6a=MISSING, C7a=MISSING, C8=MISSING)
    low, high = collapse_of(run)
    assert .2 <= low < high <= .55
    assert about('', '', qa_plateau, run, False, ['sums']).verdict == MISSING, 'it is not in the main sweep'

def test_written_answers_without_a_plateau(made):
    run = open_run(fill(made, kind='at_once', tasks=('sums',), scoring='generated').root)
    assert run.tasks('generated') == ['sums'] and run.tasks() == []
    assert no_plateau(run).verdict == HOLDS
    assert about('C3', '', qa_plateau, run).verdict == MISSING

def test_jump_of_the_healed_loss_is_seen(made):
    jumps = lambda n: 3 + .05 * n + 2 * (n > 6)
    run = open_run(fill(made, healed=jumps).root)
    assert smooth_loss(run, collapse=collapse_of(run)).verdict == FAILS
    assert smooth_loss(run).verdict == UNSURE, 'a step picked for its steepness says nothing against the claim'
    assert smooth_loss(run, False, collapse=collapse_of(run)).verdict == HOLDS
    assert smooth_loss(run, True, collapse=collapse_of(run), smooth=False).verdict == HOLDS

def test_gap_that_stays_is_not_called_closed(made):
    run = open_run(fill(made, healed_simple=lambda n: 3 + .6 * n).root)
    assert unhealed_gap(run).verdict == HOLDS and healed_gap(run).verdict == FAILS
    assert abs(healed_gap(run).value - .55 / 1.4) < .01

@pytest.mark.parametrize('power,want', [(.5, HOLDS), (0, UNSURE)])
def test_rate_of_closing(made, power, want):
    fill(made)
    for steps in (100, 400, 1600, 6400):
        name, left = f'tokens-{steps}', .5 * (steps / 100)**-power
        made.config(name, healing=dict(steps=steps)).add(name, loss(3), 'none', 0)
        for n in (4, 8):
            made.add(name, loss(3 + .1 * n, seed=steps), 'similarity', n, True)
            made.add(name, loss(3 + .1 * n + left * 1.4 * n, seed=steps + 1), 'simple', n, True)
    run = open_run(made.root)
    table = gap_by_length(run)
    assert list(table.index) == [s * 256 for s in (100, 400, 1600, 6400)]
    found = closing_rate(run)
    assert abs(found.value - power) < .05 and (found.verdict == HOLDS) == (want == HOLDS)

def test_ranks(made):
    for rank, extra, p in ((2, .2, .5), (8, .1, .45), (64, 0, .4)):
        made.config(f'ranks-{rank}', healing=dict(rank=rank))
        for n in (0, 4, 8):
            for s in ('similarity', 'simple') if n else ('none',):
                made.add(f'ranks-{rank}', loss(3 + .1 * n + (extra if n else 0), seed=rank + n), s, n, n > 0)
                made.add(f'ranks-{rank}', choice(p, seed=rank, noise=.05), s, n, n > 0)
    run = open_run(made.root)
    assert rank_effect(run).verdict == HOLDS and abs(rank_effect(run).value - .2) < .02
    assert rank_effect(run, 'choice').verdict == HOLDS and abs(rank_effect(run, 'choice').value - .1) < .03

def test_settings_that_agree_and_that_do_not():
    r, base = np.random.default_rng(0), shapes['plateau'][:, None]
    agree = lambda sd, **kw: settings_agree(base + r.normal(0, sd, (len(x), 3)), **kw).verdict
    assert [agree(.01), agree(.5)] == [HOLDS, FAILS]
    assert settings_agree(base + np.array([[0, .1, .2]])).value < 1e-6, 'a shift of the whole curve does not move the transition'
    assert settings_agree(base + np.array([[0, .3, .6]]), shift=False).verdict == FAILS
    assert settings_agree([[3.5, 3.51, 3.5]], False, whole=3.).verdict == HOLDS and settings_agree([[3.5, 4, 4.5]], False, whole=3.).verdict != HOLDS
    moved = np.stack([np.interp(x + k, x, shapes['plateau']) for k in (-4, 0, 4)], 1)
    assert settings_agree(moved).verdict != HOLDS
    with pytest.raises(Unmeasured): settings_agree(base)

def test_interval_of_the_straying_covers_the_truth():
    r, base, sd = np.random.default_rng(1), shapes['plateau'][:, None], .05
    reach = np.ptp(base)
    found = [settings_agree(base + r.normal(0, sd, (len(x), 4))) for _ in range(200)]
    inside = np.mean([o.low * np.ptp(base) < sd * 1.02 and o.high * np.ptp(base) > sd * .9 for o in found])
    assert inside > .9 and reach > 0

def test_seeds_and_shots_of_a_run(made):
    made.config('seeds')
    made.add('seeds', loss(3), 'none', 0)
    for n in (4, 8):
        for seed in (0, 1, 2): made.add('seeds', loss(3 + .1 * n, seed=100 + n + seed), 'similarity', n, True, seed)
    for shots, order in ((0, 0), (5, 0), (5, 1)):
        name = f'shots-{shots}-{order}'
        made.config(name, scoring=dict(shots=shots, seed=order))
        for n, p in zip(x, shapes['plateau']): made.add(name, choice(p + .02 * (shots > 0), seed=order, noise=.02), 'similarity' if n else 'none', int(n))
    run = open_run(made.root)
    assert seeds_agree(run).verdict == HOLDS and shots_agree(run, 'quiz').verdict == HOLDS
    assert set(read_run(made.root).shots) == {0, 5}

def test_healing_gain(made):
    made.config('main')
    for task, after in (('yes', .7), ('quiz', .45)):
        made.add('main', choice(.8, task), 'none', 0)
        for n in (4, 8): made.add('main', choice(.4, task), 'similarity', n).add('main', choice(after, task), 'similarity', n, True)
    made.add('main', choice(.4, 'yes'), 'simple', 4)
    run = open_run(made.root)
    assert abs(healing_gain(run, 'yes').value - .3) < .01 and healing_gain(run, 'yes', 'quiz').verdict == HOLDS and healing_gain(run, 'quiz', 'yes').verdict == FAILS

def test_items_that_differ_are_not_paired(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40 if n < 6 else 30), 'similarity', n)
    assert about('C4', '', smooth_loss, open_run(made.root), False).verdict == MISSING

def test_sentences():
    assert spans([4, 1, 2, 3, 8, 6, 9]) == '1-4, 6, 8, 9' and spans([]) == '' and spans([5]) == '5'
    assert 'No cut' in points_of(pd.DataFrame(dict(n=[0])))

def test_read_run(made):
    fill(made, 'a/deep', ns=x[:3]); fill(made, 'b', ns=x[:2], healing=dict(rank=2, steps=7))
    t = read_run(made.root)
    assert set(t.sweep) == {'a/deep', 'b'} and len(t) == 2 + 2 * 2 * 3 + 2 + 2 * 3
    b = t[(t.sweep == 'b') & t.healed]
    assert set(b['rank']) == {2} and set(b.healing_tokens) == {7 * 4 * 64} and set(t[~t.healed].healing_tokens) == {0} and t[~t.healed]['rank'].isna().all()
    row = t[(t.sweep == 'a/deep') & (t.n == 2) & (t.task == 'quiz')].iloc[0]
    assert kept_score(made.root, row).k == row.k

def test_read_run_refuses(made, tmp_path):
    with pytest.raises(PrunebookError, match='no sweep here'): read_run(tmp_path/'nothing')
    made.config('started')
    with pytest.raises(PrunebookError, match='none has a score'): read_run(made.root)
    fill(made, 'whole', ns=x[:2])
    assert set(read_run(made.root).sweep) == {'whole'}
    row = read_run(made.root).iloc[0]
    for f in (made.root/'whole'/'scores').iterdir(): f.unlink()
    with pytest.raises(PrunebookError, match='not kept'): kept_score(made.root, row)
    for text in ('{', '[]', '{"config": {}}', ''):
        (made.root/'started'/'sweep.json').write_text(text)
        (made.root/'started'/'results.csv').write_text((made.root/'whole'/'results.csv').read_text())
        with pytest.raises(PrunebookError, match='damaged'): read_run(made.root)
    made.config('started')
    for text in ('', 'a,b\n1,2\n', '\x00\x01'):
        (made.root/'started'/'results.csv').write_text(text)
        with pytest.raises(PrunebookError, match='damaged'): read_run(made.root)
