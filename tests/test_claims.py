"What a run shows of each claim, on made data whose truth is known. The rules themselves: tests/test_criteria.py."
import math
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from prunebook.paper.claims import (
    Finding, RunFolder, Unmeasured, _draw_distances, _last_layer_apart, _with_hashes, _with_holm, base_healed,
    base_note, both_losses, claims_table, deep_minima, judge_claim, kept_rows, open_run, rank_pairs, rulings_table,
    shots_of, shots_table, smooth_loss, task_plateau, unpruned)
from prunebook.core import PrunebookError
from prunebook.paper.criteria import HOLDS, REFUTED, UNDECIDED
from prunebook.similarity.distances import LayerDistances
from support.made_runs import (DEPTH, MODEL, Made, choice, distances, examples, fill, full, loss, ranks, seeds,
                               shapes, x)


@pytest.fixture
def made(tmp_path): return Made(tmp_path/'run')


# Which rows belong together

BASE = dict(model='m', depth=12, healed=False, seed=0, shots=0, shots_seed=0, layers='', method=None, objective=None,
            adapt=None, rank=None, learning_rate=None, healing_texts=None, healing_tokens=0, items='')


def cuts(task, ns, sweep='s', count=100, strategy='similarity', **kw):
    "Rows of a table as `open_run` gives it: a task under one strategy at `ns`"
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


def test_other_questions_of_the_same_number_stay_apart(tmp_path):
    "The hash tells them apart; of as many cuts, the more questions are taken"
    a, b = (cuts('quiz', [0, 2, 4], h, items=h) for h in 'ab')
    assert set(run_of(tmp_path, a, b).main['items']) in ({'a'}, {'b'})
    more = cuts('quiz', [0, 2, 4], 'c', 900, items='c')
    assert set(run_of(tmp_path, a, more, b).main['items']) == {'c'}


def test_hashes_of_older_rows():
    "Filled in where rows of the same source and count have one, and only one"
    table = pd.DataFrame(dict(task='c4', source=list('ppqqq'), count=32, items=['h', None, 'a', 'b', None]))
    assert list(_with_hashes(table)['items']) == ['h', 'h', 'a', 'b', '']


RECIPE = dict(method='lora', objective='ce', adapt='mlp', rank=64., learning_rate=1e-3, healing_texts='t',
              healing_tokens=1000)


def test_a_healed_curve_starts_at_the_base_healed_alike(tmp_path):
    plain, healed = cuts('c4', [0, 2, 4]), cuts('c4', [2, 4], 'h', healed=True, **RECIPE)
    base = lambda **kw: cuts('c4', [0], 'b', healed=True, **RECIPE | kw)
    starts = lambda *rows: run_of(tmp_path, plain, healed, *rows).curve('c4', healed=True)
    assert base_healed(starts(base())) and list(starts(base()).n) == [0, 2, 4]
    assert 'healed by the same recipe' in base_note(starts(base()))
    for other in ([], base(healing_tokens=2000), base(rank=2.), base(learning_rate=1e-4), base(healing_texts='u'),
                  base(count=32), base(items='other')):
        assert not base_healed(starts(other)) and 'starts at the unhealed one' in base_note(starts(other))
    run = run_of(tmp_path, plain, healed, base())
    assert not run.curve('c4').healed.any() and base_note(run.curve('c4')) == ''
    assert list(unpruned(run.table).sweep) == ['s'], 'the healed base is not the unpruned model'


def test_settings_are_compared_on_the_questions_that_most_have(tmp_path):
    parts = (0, 100, [0, 1, 2]), (5, 100, [0, 2]), (0, 900, [0, 1, 2, 3, 4])
    rows = [cuts('t', ns, f'{s}-{count}', count, shots=s) for s, count, ns in parts]
    table = pd.DataFrame([o | dict(value=o['n'] + o['shots']) for r in rows for o in r])
    wide, own = shots_table(RunFolder(tmp_path, table, 'm'), 't')
    assert set(own['count']) == {100} and list(wide.index) == [0, 2] and wide.shape[1] == 2


def test_a_task_asked_without_examples_is_the_same_task(tmp_path):
    rows = [cuts('mmlu', [0, 2, 4], 'a', shots=5), cuts('mmlu:shots=0', [0, 2], 'b'), cuts('mmlu_text', [0, 2], 'c')]
    table = pd.DataFrame([o | dict(value=o['n'] + o['shots']) for r in rows for o in r])
    wide, own = shots_table(RunFolder(tmp_path, table, 'm'), 'mmlu')
    assert list(wide.columns) == [(0, 0), (5, 0)] and set(own.task) == {'mmlu', 'mmlu:shots=0'}


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
    assert judge_claim(run, 'C5a').word == HOLDS and judge_claim(run, 'C5b').word == REFUTED


def test_items_that_differ_are_not_paired(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40, seed=n), 'similarity', n)
    other = loss(9, n=40)
    made.add('main', replace(other, counts=other.counts[::-1], sums=other.sums[::-1]), 'similarity', 8)
    with pytest.raises(Unmeasured, match='not of the same items'): open_run(made.root).items()


def test_files_of_another_model_are_refused(made):
    fill(made, ns=x[:3])
    distances(lambda n: 1, depth=DEPTH + 1).save(made.root)
    with pytest.raises(PrunebookError, match='of one model'): open_run(made.root)



# Words

def test_three_words_each_with_its_reason(made):
    found = [Finding(HOLDS, 'interval', 1, .5, 2, 0, .001), judge_claim(open_run(fill(made, ns=x[:3]).root), 'C1')]
    assert [o.verdict for o in _with_holm(found)] == ['holds', 'undecided: not measured in this run']
    assert (found[1].claim, found[1].seen) == ('C1', 'This run has no distances.')
    assert Finding(UNDECIDED, 'interval', 1, 0, 2, 1, .9).verdict == 'undecided: the interval contains the threshold'


def test_a_decision_may_fall_in_the_family():
    p = [.001, .03, .04, 1.]
    words = [HOLDS, REFUTED, HOLDS, UNDECIDED]
    found = _with_holm([Finding(w, 'interval', 1, 1, 1, 0, o) for w, o in zip(words, p)])
    assert [round(o.holm, 4) for o in found] == [.004, .09, .09, 1], 'the undecided one was tested as well'
    assert [o.stands for o in found] == [True, False, False, False]
    assert [o.verdict[-1] == '†' for o in found] == [False, True, True, False]



def paper_like(made):
    fill(made, tasks=('quiz', 'other'))
    for n, p in zip(x, shapes['plateau']):
        for t in ('quiz', 'other'): made.add('main', choice(p, t), 'similarity' if n else 'none', n, True)
    made.add('main', loss(2.95, seed=99), 'none', 0, True)
    fill(made, 'written', 'at_once', tasks=('sums',), scoring='generated')
    distances(lambda n: DEPTH - n - 2).save(made.root)
    return open_run(made.root)


def test_claims_of_a_run_that_is_as_the_paper_says(made):
    run = paper_like(made)
    assert run.name == 'model' and run.depth == DEPTH
    assert run.tasks() == ['other', 'quiz'] and run.tasks('generated') == ['sums']
    got = {k: (run.finding(k).word, run.finding(k).reason) for k in {o.claim for o in run.findings}}
    held = {k for k, v in got.items() if v == (HOLDS, 'interval')}
    assert held == {'C1', 'C2', 'C3a', 'C3b', 'C4', 'C5a', 'C5b', 'C8'}, got
    assert {k for k, v in got.items() if v[1] == 'not_measured'} == {'C6a', 'C6b', 'C7a', 'C7b'}
    assert got['C3c'] == (UNDECIDED, 'interval')
    assert all(o.stands for o in run.findings if o.word == HOLDS)
    at = run.items('quiz').collapse
    assert .2 <= at.kept < at.lost <= .55 and run.items('quiz').kept == 4


def test_tables_of_claims(made):
    run = paper_like(made)
    words = r'(holds|fails|undecided|not informative)( -?[0-9.]+( †)?| \([a-z ]+\))$'
    table, short = claims_table([run]), rulings_table([run], ['C3a', 'C6a'])
    assert list(table) == ['model'] and len(table) == 13 and table.model.str.match(words).all(), table.model
    assert len(short) == 3 and short.number.iloc[-1] == '' and short.threshold.iloc[0] == '0.5'
    for n in x: made.add('main', choice(.2, 'dull'), 'similarity' if n else 'none', n)
    tasks = [set(rulings_table([open_run(made.root)], ['C3a'], known=o).model.str.split(', ').str[1]) for o in (0, 1)]
    assert tasks[0] - tasks[1] == {'dull'} and 'quiz' in tasks[1]


# C1 and C2: distances

def test_deep_or_shallow():
    assert deep_minima(distances(lambda n: DEPTH - n - 2)).word == HOLDS
    assert deep_minima(distances(lambda n: 1)).word == REFUTED
    assert deep_minima(distances(lambda n: (DEPTH - n) // 2, spread=.5)).word == UNDECIDED
    single = LayerDistances(np.zeros((4, 4)), np.full((4, 4), np.nan), 1)
    with pytest.raises(Unmeasured, match='single text'): _draw_distances(single, 1)


def test_draws_have_the_moments_of_the_distances():
    d = distances(lambda n: 5, spread=.2)
    draws = _draw_distances(d, 3, size=20_000)
    np.testing.assert_allclose(draws.mean(0), np.diagonal(d.mean, 3), atol=6e-4)
    np.testing.assert_allclose(draws.std(0), np.diagonal(d.sem, 3), rtol=.03)


def test_sizes_of_blocks_err_together():
    "The interval is no narrower than if all sizes erred at once"
    d = distances(lambda n: 5, spread=.2)
    one = [np.sort(_draw_distances(d, n).argmin(1)) / (d.depth - n) for n in range(1, d.depth // 4 + 1)]
    found = deep_minima(d)
    widest = np.mean([np.subtract(*np.quantile(o, [.975, .025])) for o in one])
    assert found.high - found.low == pytest.approx(widest, abs=.02)


def test_last_layer():
    assert _last_layer_apart(distances(lambda n: 5)).word == HOLDS
    assert _last_layer_apart(distances(lambda n: 5, last=.05)).word == REFUTED


# C3 and C8: the shape of a curve

@pytest.mark.parametrize('kind, word', [('plateau', HOLDS), ('straight', REFUTED), ('at_once', REFUTED)])
def test_shapes(made, kind, word):
    run = open_run(fill(made, kind=kind).root)
    assert task_plateau(run, 'quiz').word == word


@pytest.mark.parametrize('kind', ['plateau', 'straight'])
def test_the_number_does_not_depend_on_how_many_were_asked(tmp_path, kind):
    def value(n):
        m = Made(tmp_path/str(n)).config('s')
        for i, p in zip(x, shapes[kind]): m.add('s', choice(p, n=n), 'similarity' if i else 'none', i)
        return task_plateau(open_run(m.root), 'quiz')
    few, many = value(300), value(2400)
    assert few.value == pytest.approx(many.value, abs=.03) and few.word in (many.word, UNDECIDED)
    assert few.high - few.low > many.high - many.low


def test_a_task_that_the_model_does_not_know_is_not_judged(made):
    fill(made)
    made.config('dull')
    for n, p in zip(x, (.26, .3, .2, .26, .2, .3, .2, .26, .2, .3)):
        made.add('dull', choice(p, 'dull', seed=n, noise=.5), 'similarity' if n else 'none', n)
        made.add('dull', choice(p, 'dull', seed=50 + n, noise=.5), 'similarity' if n else 'none', n, True)
    examples(made, 'dull2')
    run = open_run(made.root)
    assert run.knows('quiz') and not run.knows('dull') and run.items('dull').collapse is None
    for claim in ('C3a', 'C3b', 'C3c'): assert judge_claim(run, claim, 'dull').reason == 'baseline'
    assert {o.reason for o in run.findings if o.task == 'dull'} <= {'baseline', 'not_measured'}
    assert run.finding('C3a').task != 'dull'


def test_written_answers_without_a_plateau(made):
    run = open_run(fill(made, kind='at_once', tasks=('sums',), scoring='generated').root)
    assert run.tasks('generated') == ['sums'] and run.tasks() == []
    assert judge_claim(run, 'C8', 'sums').word == HOLDS
    assert [o.reason for o in run.findings if o.claim == 'C3a'] == ['not_measured']


def test_empty_answers_are_counted(made):
    made.config('s')
    for n, p in ((0, .8), (1, .5), (2, .2), (3, 0)):
        score = choice(p, 'sums', scoring='generated')
        score = replace(score, written=['7' if o else ' ' for o in score.right])
        made.add('s', score, 'similarity' if n else 'none', n)
    assert '50% at n = 1, 80% at n = 2' in judge_claim(open_run(made.root), 'C8', 'sums').seen


def test_one_bad_layer_makes_a_larger_cut_better(made):
    made.config('s')
    for n, p in ((0, .8), (2, .75), (4, .4), (6, .7), (8, .3)):
        made.add('s', choice(p), 'similarity' if n else 'none', n)
    found = judge_claim(open_run(made.root), 'C3c', 'quiz')
    assert found.word == HOLDS and 'from n = 4 (40.0%) to 6 (70.0%)' in found.seen


def test_retention_and_excess_are_curves(made):
    run = open_run(fill(made).root)
    r, e = run.items('quiz').retention(), run.items(healed=True).excess()
    np.testing.assert_allclose(r.value, (r.accuracy - .25) / (.8 - .25), atol=.01)
    assert list(r[['value', 'low', 'high']].iloc[0]) == [1, 1, 1] and (r.low[1:] <= r.value[1:]).all()
    np.testing.assert_allclose(e.value, .05 * x, atol=.01)
    assert (e.low <= e.value).all() and (e.value <= e.high).all()


# C4: jumps of the loss

def test_jump_of_the_healed_loss_is_seen(made):
    run = open_run(fill(made, healed=lambda n: 3 + .05 * n + 2 * (n > 6)).root)
    assert smooth_loss(run).word == REFUTED and 'unhealed answers to quiz' in smooth_loss(run).seen
    assert smooth_loss(run, healed=False).word == HOLDS


def test_without_a_collapse_nothing_is_said(made):
    made.config('main')
    for n in x:
        made.add('main', choice(.8 - .01 * n), 'similarity' if n else 'none', n)
        made.add('main', loss(3 + .1 * n), 'similarity' if n else 'none', n)
        if n: made.add('main', loss(3 + .1 * n), 'similarity', n, True)
    assert smooth_loss(open_run(made.root)).reason == 'not_located'


# C5: the gap between strategies

def test_gap_that_stays_is_not_called_closed(made):
    run = open_run(fill(made, healed_simple=lambda n: 3 + .6 * n).root)
    before, after = judge_claim(run, 'C5a'), judge_claim(run, 'C5b')
    assert (before.word, after.word) == (HOLDS, REFUTED)
    assert (before.value, after.value) == (pytest.approx(15, rel=.05), pytest.approx(12, rel=.05))
    assert both_losses(run, False).cuts == list(x[1:]), 'all cuts that both have'


def test_the_excess_is_over_the_base_healed_alike(made):
    "Healing alone brings 0.2 nats; beside the unhealed base the two strategies would seem to differ less"
    fill(made, healed=lambda n: 2.8 + .03 * n, healed_simple=lambda n: 2.8 + .06 * n)
    before = judge_claim(open_run(made.root), 'C5b')
    made.add('main', loss(2.8, seed=99), 'none', 0, True)
    after = judge_claim(open_run(made.root), 'C5b')
    assert after.value == pytest.approx(2, rel=.05) and after.word == REFUTED and 'same recipe' in after.seen
    assert before.reason == 'baseline' or before.value > 2.5
    excess = open_run(made.root).items(healed=True).excess()
    assert excess.value.iloc[1] == pytest.approx(.03, abs=.01)


def test_a_recipe_with_a_healed_base_is_preferred(made):
    fill(made)
    made.config('base', healing=dict(steps=20)).add('base', loss(3), 'none', 0)
    made.add('base', loss(2.9, seed=9), 'none', 0, True)
    for s, by in (('similarity', .1), ('simple', .3)): made.add('base', loss(2.9 + 4 * by, seed=8), s, 4, True)
    found = both_losses(open_run(made.root), healed=True)
    assert found.cuts == [4] and base_healed(found.rows)


def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    assert judge_claim(run, 'C5b').reason == 'baseline' and 'ratio not computed' in judge_claim(run, 'C5b').seen



# C6, C7 and healing

def test_ranks(made):
    ranks(made)
    run = open_run(made.root)
    losses, answers = judge_claim(run, 'C6a'), judge_claim(run, 'C6b', 'mmlu')
    assert losses.word == HOLDS and losses.value == pytest.approx(.2, abs=.02)
    assert answers.word == HOLDS and answers.value == pytest.approx(.1, abs=.03)


def test_ranks_at_two_lengths_are_not_averaged(made):
    ranks(made)
    claimed = judge_claim(open_run(made.root), 'C6a')
    for rank, extra in ((2, .05), (64, 0)):
        made.config(f'longer-{rank}', healing=dict(rank=rank, steps=1000))
        made.add(f'longer-{rank}', loss(2.9 + extra, seed=8), 'similarity', 8, True)
    run = open_run(made.root)
    assert judge_claim(run, 'C6a').value == claimed.value and all(len(o) == 2 for o in rank_pairs(run))
    assert {o.healing_tokens.iloc[0] for o in rank_pairs(run, one_recipe=False)} == {10 * 256, 1000 * 256}


def test_seeds(made):
    fill(made)
    seeds(made)
    found = judge_claim(open_run(made.root), 'C7a')
    assert found.word == HOLDS and '3 seeds' in found.seen and 'starts at the unhealed one' in found.seen
    for seed in (0, 1, 2): made.add('seeds' if seed else 'main', loss(3 + .3 * seed), 'similarity', 8, True, seed)
    assert judge_claim(open_run(made.root), 'C7a').word == REFUTED


def test_examples_that_change_nothing_and_that_do(made):
    examples(made)
    run = open_run(made.root)
    assert judge_claim(run, 'C7b', 'quiz').word == HOLDS and shots_of(run, 'quiz')[2] == 5
    o, shots, _ = shots_of(run, 'quiz')
    np.testing.assert_allclose((shots - o.items).mean(1), .02, atol=.02)
    for n, p in zip(x, shapes['plateau']):
        helped = replace(choice(p + .1 * (n == 0)), shots=5)
        for order in (0, 1): made.add(f'shots-5-{order}', helped, 'similarity' if n else 'none', n)
    found = judge_claim(open_run(made.root), 'C7b', 'quiz')
    assert found.word == REFUTED and found.value == pytest.approx(-.1, abs=.02)




def test_a_task_healed_at_one_cut_is_left_out_beside_others(made):
    made.config('main')
    for task, ns in (('yes', (4, 8)), ('quiz', (4,))):
        made.add('main', choice(.8, task), 'none', 0)
        for n in ns: made.add('main', choice(.5, task), 'similarity', n, True)
    run = open_run(made.root)
    assert [o.task for o in run.findings if o.claim == 'C3b'] == ['yes']
    assert [(o['task'], o['measured']) for o in kept_rows(run) if o['healed']] == [('quiz', [4]), ('yes', [4, 8])]


def test_a_full_run_has_every_claim(tmp_path):
    run = open_run(full(tmp_path/'run').root)
    words = {k: run.finding(k) for k in ('C5a', 'C5b', 'C6a', 'C6b', 'C7a', 'C7b', 'C8')}
    assert not [k for k, o in words.items() if o.reason == 'not_measured']
    assert run.items('arc_easy').known and run.findings
    assert MODEL['depth'] == run.depth
