"Statistics of the claims on made data whose truth is known, and `read_run` on what may be lying in a folder."
import json, math
import numpy as np, pandas as pd, pytest
from made import DEPTH, Made, choice, distances, examples, fill, lengths, loss, ranks, seeds, shapes, x
from prunebook.claims import (FAILS, HOLDS, MISSING, UNSURE, Finding, RunFolder, Unmeasured, Unsure, about, bulge, closing_rate, collapse_of, curve_shape, deep_minima, draw_distances, findings_table, gap_by_length,
    gap_left, healed_gap, healing_gain, judge_claims, largest_jump, last_layer_apart, no_plateau, open_run, plateau, points_of, qa_plateau, rank_effect, seeded_tasks, seeds_agree, settings_agree, shots_agree, shots_table, slowing, smooth_loss, spans, step_ratio, unhealed_gap, verdict)
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import kept_score, read_run

@pytest.fixture
def made(tmp_path): return Made(tmp_path)

def test_one_figure_holds_what_belongs_together(tmp_path):
    "Of each task the choice that has most cuts of the paper's strategies: not what controls say, nor another task; other lengths of document apart"
    base = dict(model='m', dtype='torch.bfloat16', depth=12, sweep='s', healed=False, seed=0, shots=0, shots_seed=0, source='demo', layers='')
    row = lambda task, strategy, n, **kw: base | dict(task=task, strategy=strategy, n=n, metric='loss' if task == 'c4' else 'likelihood', count=100, max_length=512. if task == 'c4' else math.nan) | kw
    own = lambda task, ns, **kw: [row(task, 'none' if n == 0 else 'similarity', n, **kw) for n in ns]
    rows = own('c4', [0, 2, 4]) + own('mmlu', [0, 4], shots=5) + own('mmlu', [2]) + own('c4', [0, 6], max_length=64.) + [row('c4', s, n, count=32) for s in ('first', 'middle', 'random') for n in (1, 2, 3, 4)]
    table = pd.DataFrame([r | dict(method='lora', objective='lm', adapt='all', rank=64, healing_tokens=0) for r in rows])
    main = RunFolder(tmp_path, table, 'm').main
    assert [(o.task, o.n, o['count']) for _, o in main.iterrows()] == [('c4', 0, 100), ('c4', 2, 100), ('c4', 4, 100), ('mmlu', 0, 100), ('mmlu', 4, 100)]

def test_a_curve_by_itself_is_that_of_most_questions(tmp_path):
    "If it was asked as in the figures, reaches as far and has half the cuts; and the whole model is that of the sweep with most cuts"
    base = dict(model='m', dtype='torch.float32', depth=12, healed=False, seed=0, shots=0, shots_seed=0, source='q', layers='', task='arc_easy', metric='likelihood', max_length=math.nan, method=None, objective=None, adapt=None, rank=None, healing_tokens=0)
    own = lambda sweep, ns, count, **kw: [base | dict(strategy='none' if n == 0 else 'similarity', n=n, sweep=sweep, count=count) | kw for n in ns]
    run = lambda *rows: RunFolder(tmp_path, pd.DataFrame([o for r in rows for o in r]), 'm')
    counts = lambda *rows, **kw: set(run(*rows).finest_curve('arc_easy', **kw)['count'])
    short, usual = own('a', [0, 2], 100), own('b', [0, 1, 3, 4, 5, 6], 100)
    for curve in (run(short, usual).main, run(short, usual).finest_curve('arc_easy')): assert list(curve.query('n == 0').sweep) == ['b'] and set(curve.n) == {0, 1, 2, 3, 4, 5, 6}
    assert counts(short, usual, own('c', [0, 1, 2, 4, 6], 900)) == {900} and set(run(short, usual, own('c', [0, 1, 2, 4, 6], 900)).main['count']) == {100}
    assert counts(short, usual, own('c', [0, 1, 2, 3, 4, 5], 900)) == {100}, 'it does not reach as far'
    assert counts(short, usual, own('c', [0, 3, 6], 900)) == {100}, 'too few cuts'
    assert counts(short, usual, own('c', [0, 1, 2, 4, 6], 900, shots=5)) == {100}, 'asked otherwise'
    assert counts(usual, own('c', [1, 2, 3, 4, 5, 6], 900)) == {100}, 'the whole model is missing'
    healed = own('g', [1, 2, 4, 6], 100, healed=True, rank=64.)
    assert counts(usual, healed, own('h', [1, 2, 4, 6], 900, healed=True, rank=2.) + own('h', [0], 900), healed=True) == {100}, 'healed otherwise'
    assert counts(usual, healed, own('h', [1, 2, 4, 6], 900, healed=True, rank=64.) + own('h', [0], 900), healed=True) == {900}

def test_settings_are_compared_on_the_questions_that_most_have(tmp_path):
    rows = [dict(strategy='none' if n == 0 else 'similarity', n=n, healed=False, seed=0, task='t', source='q', count=count, max_length=math.nan, dtype='d', shots=s, shots_seed=0, sweep=f'{s}-{count}', value=n + s)
        for s, count, ns in ((0, 100, [0, 1, 2]), (5, 100, [0, 2]), (0, 900, [0, 1, 2, 3, 4])) for n in ns]
    wide, own = shots_table(RunFolder(tmp_path, pd.DataFrame(rows), 'm'), 't')
    assert set(own['count']) == {100} and list(wide.index) == [0, 2] and wide.shape[1] == 2

def test_a_gap_that_is_closed_has_no_rate_and_a_rise_that_is_none_no_ratio(made):
    fill(made, healing=dict(rank=2))
    for steps, left in ((100, .5), (400, .1), (1600, .02), (6400, -.1)): lengths(made, steps, lambda n: 0, lambda n: left * 1.4 * n)
    run = open_run(made.root)
    with np.errstate(divide='raise', invalid='raise'): table = gap_by_length(run)  # a closed gap has no logarithm
    assert table.rate.notna().tolist() == [False, True, True, False]
    assert table.ratio.notna().all() and closing_rate(run).verdict == HOLDS and 'from 25,600 to 409,600 tokens' in closing_rate(run).seen
    with pytest.raises(Unsure, match='no rate'): slowing(run)
    lengths(made, 25600, lambda n: -.101 * n, lambda n: .1 * n)  # no rise under similarity
    assert gap_by_length(open_run(made.root)).ratio.notna().tolist() == [True] * 4 + [False]

def test_closing_that_slows_down_and_that_does_not(made):
    fill(made, healing=dict(rank=2))
    for steps, left in ((100, .5), (400, .1), (1600, .04)): lengths(made, steps, lambda n: 0, lambda n: left * 1.4 * n)
    assert slowing(open_run(made.root)).verdict == HOLDS
    lengths(made, 6400, lambda n: 0, lambda n: .002 * 1.4 * n)
    assert slowing(open_run(made.root)).verdict == FAILS

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

def test_a_slope_that_ends_in_a_drop_is_no_plateau():
    "Two thirds of the height are lost step by step, and the rest at once: the chord is passed, and nothing was held"
    right = np.stack([choice(p, n=4000).right for p in np.interp(x, [0, 10, 12, 14], [.8, .4, .25, .25])])
    s = curve_shape(x / DEPTH, right, .25)
    assert 0 < s.bulge and s.high < .1 and s.held < .05 and s.fell > .95
    assert plateau(x / DEPTH, right, .25).verdict == FAILS

@pytest.mark.parametrize('kind', shapes)
def test_no_draw_is_on_both_sides(kind):
    s = curve_shape(x / DEPTH, np.stack([choice(p, noise=.3).right for p in shapes[kind]]), .25)
    assert s.held + s.fell <= 1

def test_answers_gone_within_a_tenth_of_the_layers_had_no_plateau():
    right = np.stack([choice(p).right for p in (.8, .25, .25, .25)])
    assert plateau(np.array([0, .03, .07, .1]), right, .25).verdict == FAILS
    with pytest.raises(Unsure, match='shape needs four'): plateau(np.array([0, .2, .3, .4]), right, .25)
    held = np.stack([choice(p).right for p in (.8, .8, .25, .25)])
    assert plateau(np.array([0, .03, .07, .1]), held, .25).verdict == FAILS, 'its bulge is large, and its place too early'

def test_a_fall_that_stops_above_the_floor_is_no_collapse():
    right = np.stack([choice(p).right for p in (.8, .8, .8, .8, .8, .65, .5)])
    found = plateau(np.arange(7) / 10, right, .25)
    assert found.low > 0 and found.verdict == UNSURE and 'floor not reached' in found.seen

def test_too_weak_or_too_few_says_so():
    with pytest.raises(Unsure, match='nothing to lose'): curve_shape(x, np.stack([choice(.26).right] * len(x)), .25)
    with pytest.raises(Unsure, match='within the error'): curve_shape(x, np.stack([choice(.8).right] * len(x)), .25)
    with pytest.raises(Unsure, match='shape needs four'): curve_shape(x[:3], np.stack([choice(p).right for p in (.8, .5, .3)]), .25)

def test_claims_of_a_run_that_is_as_the_paper_says(made):
    fill(made, tasks=('quiz', 'other'))
    distances(lambda n: DEPTH - n - 2).save(made.root)
    fill(made, 'written', 'at_once', tasks=('sums',), scoring='generated')
    run = open_run(made.root)
    assert run.name == 'model' and run.depth == DEPTH and run.tasks() == ['quiz', 'other'] and run.tasks('generated') == ['sums']
    found = {(o.claim, o.paper): o for o in judge_claims(run)}
    assert len(found) == 12
    got = {k[0]: o.verdict for k, o in found.items() if 'healed)' not in k[1] or 'unhealed' in k[1]}
    assert {k: got[k] for k in ('C1', 'C2', 'C3', 'C4', 'C5a', 'C5b', 'C6a', 'C7a', 'C8')} == dict(C1=HOLDS, C2=HOLDS, C3=HOLDS, C4=HOLDS, C5a=HOLDS, C5b=HOLDS, C6a=MISSING, C7a=MISSING, C8=HOLDS)
    low, high = collapse_of(run)
    assert .2 <= low < high <= .55

def test_one_figure_from_several_sweeps(made):
    "Strategies, healing, seeds and other recipes in sweeps of their own: what belongs together is found"
    for s in ('similarity', 'simple'):
        made.config(s, strategies=[s]).add(s, loss(3), 'none', 0)
        for n in (2, 4, 6, 8): made.add(s, loss(3 + n * (1 if s == 'simple' else .1), seed=n), s, n)
    for name, steps, ns, seed in (('healed', 100, (2, 4, 8), 0), ('more', 100, (4,), 1), ('short', 5, (4, 8), 0)):
        made.config(name, seeds=[seed], healing=dict(steps=steps)).add(name, loss(3), 'none', 0, seed=seed)
        for n in ns:
            for s in ('similarity', 'simple'): made.add(name, loss(3 + n * (.2 if s == 'simple' else .05) + 5 / steps, seed=n + seed), s, n, True, seed)
    made.config('controls', strategies=['first']).add('controls', loss(9), 'first', 2)
    made.config('few').add('few', loss(5, n=10), 'none', 0).add('few', loss(5, n=10), 'similarity', 2)
    run = open_run(made.root)
    assert set(run.main.sweep) == {'similarity', 'simple', 'healed', 'more'} and set(run.main.strategy) == {'none', 'similarity', 'simple'}
    assert list(run.curve('c4', healed=True).n) == [0, 2, 4, 8] and set(run.curve('c4', healed=True).seed) == {0}
    assert unhealed_gap(run).verdict == HOLDS and abs(gap_left(run)[1] - .15 / .9) < .01 and healed_gap(run).verdict == FAILS
    assert 'similarity, healed: n = 2, 4, 8' in points_of(run.main)

def test_two_models_in_one_folder_are_refused(made):
    fill(made, ns=x[:2])
    fill(made, 'other', ns=x[:2])
    asked = json.loads((made.root/'other'/'sweep.json').read_text())
    (made.root/'other'/'sweep.json').write_text(json.dumps(asked | dict(model='other')))
    with pytest.raises(PrunebookError, match='2 different models'): open_run(made.root)

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

def test_a_curve_that_explodes_and_comes_back_has_a_jump():
    t, inside = np.arange(6) / 10, np.arange(5) == 2
    assert abs(step_ratio(t, np.array([3, 3.1, 3.2, 4.2, 4.3, 4.4]), inside) - 10) < 1e-9
    assert step_ratio(t, np.array([3, 3, 3, 9, 4, 3.5]), inside) > 10 and abs(step_ratio(t, np.linspace(3, 4, 6), inside) - 1) < 1e-9

def test_gap_that_stays_is_not_called_closed(made):
    run = open_run(fill(made, healed_simple=lambda n: 3 + .6 * n).root)
    assert unhealed_gap(run).verdict == HOLDS and healed_gap(run).verdict == FAILS
    assert abs(gap_left(run)[1] - .55 / 1.4) < .01 and '39%' in healed_gap(run).seen

def test_losses_a_hair_apart_coincide_whatever_their_ratio(made):
    run = open_run(fill(made, healed=lambda n: 3 + .001 * n, healed_simple=lambda n: 3 + .003 * n).root)
    assert healed_gap(run).verdict == HOLDS and 'the line is 1 %' in healed_gap(run).seen

def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    with pytest.raises(Unsure, match='does not rise beyond doubt'): healed_gap(run)

@pytest.mark.parametrize('power,want', [(.5, HOLDS), (0, UNSURE)])
def test_rate_of_closing(made, power, want):
    fill(made, healing=dict(rank=2))
    for steps in (100, 400, 1600, 6400):
        left = .5 * (steps / 100)**-power
        lengths(made, steps, lambda n: 0, lambda n: left * 1.4 * n)
    run = open_run(made.root)
    table = gap_by_length(run)
    assert list(table.index) == [s * 256 for s in (100, 400, 1600, 6400)]
    found = closing_rate(run)
    assert abs(found.value - power) < .05 and (found.verdict == HOLDS) == (want == HOLDS)

def test_ranks(made):
    ranks(made)
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
    fill(made); seeds(made); examples(made)
    run = open_run(made.root)
    assert seeds_agree(run).verdict == HOLDS and shots_agree(run, 'quiz').verdict == HOLDS
    assert set(read_run(made.root).shots) == {0, 5}
    assert about('', '', seeds_agree, run, 'quiz').verdict == MISSING
    assert seeded_tasks(run) == ['c4']
    for seed, p in enumerate((.5, .51, .49)): made.add('seeds', choice(p), 'similarity', 4, True, seed).add('seeds', choice(p - .2), 'similarity', 8, True, seed)
    run = open_run(made.root)
    made.add('main', choice(.26, 'dull'), 'none', 0)
    for seed in (0, 1): made.add('seeds', choice(.25, 'dull'), 'similarity', 4, True, seed)
    run = open_run(made.root)
    assert 'dull' in run.tasks(), 'it was asked, and the whole model cannot do it'
    assert seeded_tasks(run) == ['c4', 'quiz'] and [o.verdict for o in judge_claims(run) if o.claim == 'C7a'] == [HOLDS, HOLDS]

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

def test_a_curve_that_comes_back_has_not_collapsed():
    ease = np.random.default_rng(0).uniform(size=600)
    curve = lambda *accuracies: curve_shape(np.arange(len(accuracies)) / 20, ease < np.array(accuracies)[:, None], .25)
    assert curve(.7, .7, .7, .7, .25, .7, .7, .25, .25).end == 7 / 20
    assert not curve(.7, .7, .7, .7, .25, .7, .6).floored

def test_sizes_of_blocks_err_together():
    d = distances(lambda n: 5, spread=.2)
    one = [np.sort(draw_distances(d, n).argmin(1)) / (d.depth - n) for n in range(1, d.depth // 4 + 1)]
    widest = np.mean([np.quantile(o, .975) - np.quantile(o, .025) for o in one])
    found = deep_minima(d)
    assert found.high - found.low == pytest.approx(widest, abs=.02), 'no narrower than if all erred at once'
