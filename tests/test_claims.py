"Statistics of the claims on made data whose truth is known."
import math
import numpy as np
import pandas as pd
import pytest
from prunebook.claims import (
    FAILS, HOLDS, MISSING, UNSURE, Finding, RunFolder, Unmeasured, Unsure, about, area_above_chord, closing_rate,
    collapse_of, curve_shape, deep_minima, draw_distances, findings_table, gap_by_length, gap_left, healed_gap,
    healing_gain, interval, judge_claims, largest_jump, last_layer_apart, no_plateau, open_run, plateau, points_of,
    qa_plateau, rank_effect, rank_table, seeded_tasks, seeds_agree, settings_agree, shots_agree, shots_table, slowing,
    smooth_loss, spans, step_ratio, title_of, unhealed_gap, verdict)
from prunebook.core import PrunebookError
from prunebook.similarity import LayerDistances
from support.made_runs import (DEPTH, Made, choice, distances, examples, fill, lengths, loss, ranks, seeds, shapes, x)


@pytest.fixture
def made(tmp_path): return Made(tmp_path/'run')


# Which rows belong together

BASE = dict(model='m', depth=12, healed=False, seed=0, shots=0, shots_seed=0, layers='', method=None, objective=None,
            adapt=None, rank=None, healing_tokens=0)


def cuts(task, ns, sweep='s', count=100, strategy='similarity', **kw):
    "Rows of a table as `read_run` gives it: a task under one strategy at `ns`"
    loss = task == 'c4'
    row = BASE | dict(sweep=sweep, task=task, count=count, metric='loss' if loss else 'likelihood', source='q',
                      max_length=512. if loss else math.nan, dtype='torch.float32') | kw
    return [row | dict(n=n, strategy='none' if n == 0 else strategy) for n in ns]


def run_of(folder, *rows): return RunFolder(folder, pd.DataFrame([o for r in rows for o in r]), 'm')


def test_one_figure_holds_what_belongs_together(tmp_path):
    "Of each task the choice with most cuts of the paper's strategies: no controls, and other document lengths apart"
    rows = [cuts('c4', [0, 2, 4]), cuts('mmlu', [0, 4], shots=5), cuts('mmlu', [2]), cuts('c4', [0, 6], max_length=64.)]
    rows += [cuts('c4', [1, 2, 3, 4], count=32, strategy=s) for s in ('first', 'middle', 'random')]
    main = run_of(tmp_path, *rows).main
    assert [(o.task, o.n, o['count']) for _, o in main.iterrows()] == [
        ('c4', 0, 100), ('c4', 2, 100), ('c4', 4, 100), ('mmlu', 0, 100), ('mmlu', 4, 100)]


def test_a_cut_that_two_sweeps_scored_stands_once(tmp_path):
    main = run_of(tmp_path, cuts('c4', [0, 2, 4], 'a'), cuts('c4', [0, 2, 4, 6], 'b')).main
    assert list(main.n) == [0, 2, 4, 6] and set(main.sweep) == {'b'}


def test_a_curve_by_itself_is_that_of_most_questions(tmp_path):
    "If it was asked as in the figures, reaches as far and has half the cuts"
    own = lambda sweep, ns, count, **kw: cuts('arc_easy', ns, sweep, count, **kw)
    counts = lambda *rows, **kw: set(run_of(tmp_path, *rows).finest_curve('arc_easy', **kw)['count'])
    short, usual = own('a', [0, 2], 100), own('b', [0, 1, 3, 4, 5, 6], 100)
    run = run_of(tmp_path, short, usual)
    for curve in (run.main, run.finest_curve('arc_easy')):
        assert list(curve.query('n == 0').sweep) == ['b'] and set(curve.n) == {0, 1, 2, 3, 4, 5, 6}
    fine = own('c', [0, 1, 2, 4, 6], 900)
    assert counts(short, usual, fine) == {900} and set(run_of(tmp_path, short, usual, fine).main['count']) == {100}
    assert counts(short, usual, own('c', [0, 1, 2, 3, 4, 5], 900)) == {100}, 'it does not reach as far'
    assert counts(short, usual, own('c', [0, 3, 6], 900)) == {100}, 'too few cuts'
    assert counts(short, usual, own('c', [0, 1, 2, 4, 6], 900, shots=5)) == {100}, 'asked otherwise'
    assert counts(usual, own('c', [1, 2, 3, 4, 5, 6], 900)) == {100}, 'the unpruned model is missing'


def test_healed_curves_are_of_one_recipe(tmp_path):
    own = lambda sweep, ns, count, **kw: cuts('arc_easy', ns, sweep, count, **kw)
    counts = lambda *rows: set(run_of(tmp_path, *rows).finest_curve('arc_easy', healed=True)['count'])
    usual, healed = own('b', [0, 1, 3, 4, 5, 6], 100), own('g', [1, 2, 4, 6], 100, healed=True, rank=64.)
    more = lambda rank: own('h', [1, 2, 4, 6], 900, healed=True, rank=rank) + own('h', [0], 900)
    assert counts(usual, healed, more(2.)) == {100} and counts(usual, healed, more(64.)) == {900}


def test_settings_are_compared_on_the_questions_that_most_have(tmp_path):
    parts = (0, 100, [0, 1, 2]), (5, 100, [0, 2]), (0, 900, [0, 1, 2, 3, 4])
    rows = [cuts('t', ns, f'{s}-{count}', count, shots=s) for s, count, ns in parts]
    table = pd.DataFrame([o | dict(value=o['n'] + o['shots']) for r in rows for o in r])
    wide, own = shots_table(RunFolder(tmp_path, table, 'm'), 't')
    assert set(own['count']) == {100} and list(wide.index) == [0, 2] and wide.shape[1] == 2


def test_one_figure_from_several_sweeps(made):
    "Strategies, healing, seeds and other recipes in sweeps of their own"
    for s in ('similarity', 'simple'):
        made.config(s, strategies=[s]).add(s, loss(3), 'none', 0)
        for n in (2, 4, 6, 8): made.add(s, loss(3 + n * (1 if s == 'simple' else .1), seed=n), s, n)
    for name, steps, ns, seed in (('healed', 100, (2, 4, 8), 0), ('more', 100, (4,), 1), ('short', 5, (4, 8), 0)):
        made.config(name, seeds=[seed], healing=dict(steps=steps)).add(name, loss(3), 'none', 0, seed=seed)
        for n, (s, by) in [(n, o) for n in ns for o in (('similarity', .05), ('simple', .2))]:
            made.add(name, loss(3 + n * by + 5 / steps, seed=n + seed), s, n, True, seed)
    made.config('controls', strategies=['first']).add('controls', loss(9), 'first', 2)
    made.config('few').add('few', loss(5, n=10), 'none', 0).add('few', loss(5, n=10), 'similarity', 2)
    run = open_run(made.root)
    assert set(run.main.strategy) == {'none', 'similarity', 'simple'}
    assert set(run.main[run.main.n > 0].sweep) == {'similarity', 'simple', 'healed', 'more'}
    healed = run.curve('c4', healed=True)
    assert list(healed.n) == [0, 2, 4, 8] and set(healed.seed) == {0}
    assert unhealed_gap(run).verdict == HOLDS and healed_gap(run).verdict == FAILS
    assert abs(gap_left(run)[1] - .15 / .9) < .01
    assert 'similarity, healed: n = 2, 4, 8' in points_of(run.main)


def test_items_that_differ_are_not_paired(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40 if n < 6 else 30), 'similarity', n)
    assert about('C4', '', smooth_loss, open_run(made.root), False).verdict == MISSING


def test_files_of_another_model_are_refused(made):
    fill(made, ns=x[:3])
    distances(lambda n: 1, depth=DEPTH + 1).save(made.root)
    with pytest.raises(PrunebookError, match='of one model'): open_run(made.root)


def test_a_task_is_no_file(tmp_path, monkeypatch):
    "A table's task that names a file on this machine is shown as it stands, and not opened"
    path = tmp_path/'secret.jsonl'
    path.write_text('{"question": "q", "choices": ["a", "b"], "answer": 0}\n')
    monkeypatch.chdir(tmp_path)
    assert title_of(str(path)) == str(path) and title_of('secret.jsonl') == 'secret.jsonl'


# Verdicts

def test_verdicts():
    assert [verdict(.6, .9, .5), verdict(.1, .4, .5), verdict(.1, .5, .5)] == [HOLDS, FAILS, FAILS]
    assert [verdict(.4, .6, .5), verdict(math.nan, 1, .5)] == [UNSURE, UNSURE]
    assert [verdict(.1, .4, .5, above=False), verdict(.6, .9, .5, above=False)] == [HOLDS, FAILS]
    def missing(): raise Unmeasured('not there')
    def silent(): raise Unsure('says nothing')
    assert [about('C1', 'p', missing).verdict, about('C1', 'p', silent).verdict] == [MISSING, UNSURE]
    seen = lambda: Finding('seen', HOLDS)
    table = findings_table([about('C9', 'it is so', seen), about('C9', 'it is so', missing)], 'm')
    assert list(table['same?']) == ['yes', MISSING] and list(table['we see on m']) == ['seen', 'not there']


def test_sentences():
    assert [spans(o) for o in ([4, 1, 2, 3, 8, 6, 9], [], [5])] == ['1-4, 6, 8, 9', '', '5']
    assert 'no cut' in points_of(pd.DataFrame(dict(n=[0])))


def test_claims_of_a_run_that_is_as_the_paper_says(made):
    fill(made, tasks=('quiz', 'other'))
    fill(made, 'written', 'at_once', tasks=('sums',), scoring='generated')
    distances(lambda n: DEPTH - n - 2).save(made.root)
    run = open_run(made.root)
    assert run.name == 'model' and run.depth == DEPTH
    assert run.tasks() == ['quiz', 'other'] and run.tasks('generated') == ['sums']
    found = {(o.claim, o.paper): o for o in judge_claims(run)}
    assert len(found) == 12
    got = {k[0]: o.verdict for k, o in found.items() if 'healed)' not in k[1] or 'unhealed' in k[1]}
    del got['C6b'], got['C7b']
    assert got == dict(C1=HOLDS, C2=HOLDS, C3=HOLDS, C4=HOLDS, C5a=HOLDS, C5b=HOLDS, C6a=MISSING, C7a=MISSING, C8=HOLDS)
    low, high = collapse_of(run)
    assert .2 <= low < high <= .55


# C1 and C2: distances

def test_deep_or_shallow():
    assert deep_minima(distances(lambda n: DEPTH - n - 2)).verdict == HOLDS
    assert deep_minima(distances(lambda n: 1)).verdict == FAILS
    assert deep_minima(distances(lambda n: (DEPTH - n) // 2, spread=.5)).verdict == UNSURE
    assert about('C1', '', deep_minima, None).verdict == MISSING
    single = LayerDistances(np.zeros((4, 4)), np.full((4, 4), np.nan), 1)
    with pytest.raises(Unmeasured, match='single text'): draw_distances(single, 1)


def test_draws_have_the_moments_of_the_distances():
    d = distances(lambda n: 5, spread=.2)
    draws = draw_distances(d, 3, size=20_000)
    np.testing.assert_allclose(draws.mean(0), np.diagonal(d.mean, 3), atol=6e-4)
    np.testing.assert_allclose(draws.std(0), np.diagonal(d.sem, 3), rtol=.03)


def test_sizes_of_blocks_err_together():
    d = distances(lambda n: 5, spread=.2)
    one = [np.sort(draw_distances(d, n).argmin(1)) / (d.depth - n) for n in range(1, d.depth // 4 + 1)]
    widest = np.mean([np.subtract(*interval(o)[::-1]) for o in one])
    found = deep_minima(d)
    assert found.high - found.low == pytest.approx(widest, abs=.02), 'no narrower than if all erred at once'


def test_last_layer():
    assert last_layer_apart(distances(lambda n: 5)).verdict == HOLDS
    assert last_layer_apart(distances(lambda n: 5, last=.05)).verdict == FAILS


def test_jump():
    j = largest_jump([23, 24, 23, 23, 23, 22, 22, 21, 20, 19, 18, 18, 17, 16, 15, 8, 8, 7])  # Llama-2-7b as published
    assert (j.n, j.size, j.second) == (16, 7, 1)
    assert largest_jump(list(range(30, 0, -1))).ratio == 1
    assert largest_jump([1, 2, 3]).size == 0
    with pytest.raises(Unmeasured): largest_jump([1, 2])


# C3 and C8: the shape of a curve

def rights(values, **kw): return np.stack([choice(p, **kw).right for p in values])


def test_area_of_known_curves():
    t = np.linspace(0, 1, 101)
    assert abs(area_above_chord(t, 1 - t)) < 1e-12
    assert abs(area_above_chord(t, 3 - 2 * np.maximum(0, t - .5)) - .25) < 1e-3
    assert abs(area_above_chord(t, np.where(t < 1, .8, .2)) - .5) < .01
    assert area_above_chord(t, np.exp(-5 * t)) < -.2


@pytest.mark.parametrize('kind,want', [('plateau', HOLDS), ('straight', FAILS), ('at_once', FAILS)])
def test_plateau_of_made_curves(kind, want):
    right = rights(shapes[kind])
    assert plateau(x / DEPTH, right, .25).verdict == want
    assert plateau(x / DEPTH, right, .25, wanted=False).verdict == {HOLDS: FAILS, FAILS: HOLDS}[want]


@pytest.mark.parametrize('seed', range(5))
def test_plateau_is_seldom_seen_in_noise_around_a_line(seed):
    right = np.stack([choice(p, seed=10 * seed + i, noise=.5).right for i, p in enumerate(shapes['straight'])])
    assert plateau(x / DEPTH, right, .25).verdict != HOLDS


def test_a_slope_that_ends_in_a_drop_is_no_plateau():
    "Two thirds of the height are lost step by step, and the rest at once: the chord is passed, and nothing was held"
    right = rights(np.interp(x, [0, 10, 12, 14], [.8, .4, .25, .25]), n=4000)
    s = curve_shape(x / DEPTH, right, .25)
    assert 0 < s.area and s.high < .1 and s.held < .05 and s.fell > .95
    assert plateau(x / DEPTH, right, .25).verdict == FAILS


@pytest.mark.parametrize('kind', shapes)
def test_no_resample_is_on_both_sides(kind):
    s = curve_shape(x / DEPTH, rights(shapes[kind], noise=.3), .25)
    assert s.held + s.fell <= 1


def test_answers_gone_within_a_tenth_of_the_layers_had_no_plateau():
    right = rights((.8, .25, .25, .25))
    assert plateau(np.array([0, .03, .07, .1]), right, .25).verdict == FAILS
    with pytest.raises(Unsure, match='shape needs four'): plateau(np.array([0, .2, .3, .4]), right, .25)
    held = plateau(np.array([0, .03, .07, .1]), rights((.8, .8, .25, .25)), .25)
    assert held.verdict == FAILS, 'its area is large, and its place too early'


def test_a_fall_that_stops_above_the_baseline_is_no_collapse():
    found = plateau(np.arange(7) / 10, rights((.8, .8, .8, .8, .8, .65, .5)), .25)
    assert found.low > 0 and found.verdict == UNSURE and 'baseline not reached' in found.seen


def test_a_curve_that_comes_back_has_not_collapsed():
    ease = np.random.default_rng(0).uniform(size=600)
    curve = lambda *p: curve_shape(np.arange(len(p)) / 20, ease < np.array(p)[:, None], .25)
    assert curve(.7, .7, .7, .7, .25, .7, .7, .25, .25).end == 7 / 20
    assert not curve(.7, .7, .7, .7, .25, .7, .6).reached


def test_too_weak_or_too_few_says_so():
    with pytest.raises(Unsure, match='nothing to lose'): curve_shape(x, rights([.26] * len(x)), .25)
    with pytest.raises(Unsure, match='within the error'): curve_shape(x, rights([.8] * len(x)), .25)
    with pytest.raises(Unsure, match='shape needs four'): curve_shape(x[:3], rights((.8, .5, .3)), .25)


def test_written_answers_without_a_plateau(made):
    run = open_run(fill(made, kind='at_once', tasks=('sums',), scoring='generated').root)
    assert run.tasks('generated') == ['sums'] and run.tasks() == []
    assert no_plateau(run).verdict == HOLDS
    assert about('C3', '', qa_plateau, run).verdict == MISSING


# C4: jumps of the loss

def test_jump_of_the_healed_loss_is_seen(made):
    run = open_run(fill(made, healed=lambda n: 3 + .05 * n + 2 * (n > 6)).root)
    assert smooth_loss(run, collapse=collapse_of(run)).verdict == FAILS
    assert smooth_loss(run).verdict == UNSURE, 'a step picked for its steepness says nothing against the claim'
    assert smooth_loss(run, False, collapse=collapse_of(run)).verdict == HOLDS
    assert smooth_loss(run, True, collapse=collapse_of(run), smooth=False).verdict == HOLDS


def test_a_curve_that_explodes_and_comes_back_has_a_jump():
    t, inside = np.arange(6) / 10, np.arange(5) == 2
    assert step_ratio(t, np.array([3, 3.1, 3.2, 4.2, 4.3, 4.4]), inside) == pytest.approx(10)
    assert step_ratio(t, np.array([3, 3, 3, 9, 4, 3.5]), inside) > 10
    assert step_ratio(t, np.linspace(3, 4, 6), inside) == pytest.approx(1)


# C5: the gap between strategies

def test_gap_that_stays_is_not_called_closed(made):
    run = open_run(fill(made, healed_simple=lambda n: 3 + .6 * n).root)
    assert unhealed_gap(run).verdict == HOLDS and healed_gap(run).verdict == FAILS
    assert abs(gap_left(run)[1] - .55 / 1.4) < .01 and '39%' in healed_gap(run).seen


def test_losses_a_hair_apart_coincide_whatever_their_ratio(made):
    run = open_run(fill(made, healed=lambda n: 3 + .001 * n, healed_simple=lambda n: 3 + .003 * n).root)
    assert healed_gap(run).verdict == HOLDS and 'the threshold is 1 %' in healed_gap(run).seen


def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    with pytest.raises(Unsure, match='does not rise beyond doubt'): healed_gap(run)


def healed_for(made, left_by_steps):
    "Lengths of healing that leave these shares of the gap"
    fill(made, healing=dict(rank=2))
    for steps, left in left_by_steps.items(): lengths(made, steps, lambda n: 0, lambda n, left=left: left * 1.4 * n)
    return made


@pytest.mark.parametrize('power', [.5, 0])
def test_rate_of_closing(made, power):
    steps = (100, 400, 1600, 6400)
    run = open_run(healed_for(made, {s: .5 * (s / 100)**-power for s in steps}).root)
    assert list(gap_by_length(run).index) == [s * 256 for s in steps]
    found = closing_rate(run)
    assert abs(found.value - power) < .05 and (found.verdict == HOLDS) == (power > 0)


def test_a_gap_that_is_closed_has_no_rate_and_a_rise_that_is_none_no_ratio(made):
    healed_for(made, {100: .5, 400: .1, 1600: .02, 6400: -.1})
    run = open_run(made.root)
    with np.errstate(divide='raise', invalid='raise'): table = gap_by_length(run)  # a closed gap has no logarithm
    assert table.rate.notna().tolist() == [False, True, True, False]
    assert table.ratio.notna().all() and closing_rate(run).verdict == HOLDS
    assert 'from 25,600 to 409,600 tokens' in closing_rate(run).seen
    with pytest.raises(Unsure, match='no rate'): slowing(run)
    lengths(made, 25600, lambda n: -.101 * n, lambda n: .1 * n)  # no rise under similarity
    assert gap_by_length(open_run(made.root)).ratio.notna().tolist() == [True] * 4 + [False]


def test_closing_that_slows_down_and_that_does_not(made):
    healed_for(made, {100: .5, 400: .1, 1600: .04})
    assert slowing(open_run(made.root)).verdict == HOLDS
    lengths(made, 6400, lambda n: 0, lambda n: .002 * 1.4 * n)
    assert slowing(open_run(made.root)).verdict == FAILS


# C6, C7 and healing

def test_ranks(made):
    ranks(made)
    run = open_run(made.root)
    losses, answers = rank_effect(run), rank_effect(run, 'choice')
    assert losses.verdict == HOLDS and abs(losses.value - .2) < .02
    assert answers.verdict == HOLDS and abs(answers.value - .1) < .03
    assert set(rank_table(run)) >= {'task', 'rank 2', 'rank 64', 'difference', 'low', 'high'}


def test_settings_that_agree_and_that_do_not():
    r, base = np.random.default_rng(0), shapes['plateau'][:, None]
    agree = lambda sd, **kw: settings_agree(base + r.normal(0, sd, (len(x), 3)), **kw).verdict
    assert [agree(.01), agree(.5)] == [HOLDS, FAILS]
    shifted = settings_agree(base + np.array([[0, .1, .2]]))
    assert shifted.value < 1e-6, 'a shift of the whole curve does not move the transition'
    assert settings_agree(base + np.array([[0, .3, .6]]), shift=False).verdict == FAILS
    assert settings_agree([[3.5, 3.51, 3.5]], False, unpruned=3.).verdict == HOLDS
    assert settings_agree([[3.5, 4, 4.5]], False, unpruned=3.).verdict != HOLDS
    moved = np.stack([np.interp(x + k, x, shapes['plateau']) for k in (-4, 0, 4)], 1)
    assert settings_agree(moved).verdict != HOLDS
    with pytest.raises(Unmeasured): settings_agree(base)


def test_interval_of_the_straying_covers_the_truth():
    r, base, sd = np.random.default_rng(1), shapes['plateau'][:, None], .05
    found = [settings_agree(base + r.normal(0, sd, (len(x), 4))) for _ in range(200)]
    reach = np.ptp(base)
    assert np.mean([o.low * reach < sd * 1.02 and o.high * reach > sd * .9 for o in found]) > .9


def test_seeds_and_shots_of_a_run(made):
    fill(made)
    seeds(made)
    examples(made)
    run = open_run(made.root)
    assert seeds_agree(run).verdict == HOLDS and shots_agree(run, 'quiz').verdict == HOLDS
    assert set(run.table.shots) == {0, 5}
    assert about('', '', seeds_agree, run, 'quiz').verdict == MISSING
    assert seeded_tasks(run) == ['c4']


def test_seeds_are_compared_on_tasks_that_the_model_can_do(made):
    fill(made)
    seeds(made)
    for seed, p in enumerate((.5, .51, .49)):
        for n, q in ((4, p), (8, p - .2)): made.add('seeds', choice(q), 'similarity', n, True, seed)
    made.add('main', choice(.26, 'dull'), 'none', 0)
    for seed in (0, 1): made.add('seeds', choice(.25, 'dull'), 'similarity', 4, True, seed)
    run = open_run(made.root)
    assert 'dull' in run.tasks(), 'it was asked, and the unpruned model cannot do it'
    assert run.knows('quiz') and not run.knows('dull')
    assert seeded_tasks(run) == ['c4', 'quiz']
    assert [o.verdict for o in judge_claims(run) if o.claim == 'C7a'] == [HOLDS, HOLDS]


def test_healing_gain(made):
    made.config('main')
    for task, after in (('yes', .7), ('quiz', .45)):
        made.add('main', choice(.8, task), 'none', 0)
        for n in (4, 8):
            made.add('main', choice(.4, task), 'similarity', n).add('main', choice(after, task), 'similarity', n, True)
    made.add('main', choice(.4, 'yes'), 'simple', 4)
    run = open_run(made.root)
    assert abs(healing_gain(run, 'yes').value - .3) < .01
    assert [healing_gain(run, *o).verdict for o in (('yes', 'quiz'), ('quiz', 'yes'))] == [HOLDS, FAILS]
