"What a run shows of each claim, on made data whose truth is known. The rules themselves: tests/test_criteria.py."
import math
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from prunebook.paper.claims import (
    Finding, RunFolder, Unmeasured, _with_hashes, answers_of, base_healed, base_note, both_losses, claim_finding,
    claims_table, collapse_of, deep_minima, draw_distances, evaluate_claim, excess_of, gap_by_length, healed_gap,
    healing_gain, judge_claims, kept_n, kept_rows, last_layer_apart, losses_of, main_tasks, no_plateau, one_bad_layer,
    open_run, rank_effect, rank_gaps, rank_pairs, retention_of, rulings_table, seeds_agree, shots_agree, shots_gain,
    shots_of, shots_table, smooth_loss, spans, task_plateau, title_of, unhealed_gap, unpruned, with_holm)
from prunebook.core import PrunebookError
from prunebook.paper.criteria import HOLDS, REFUTED, UNDECIDED, Ruling
from prunebook.similarity.distances import LayerDistances
from support.made_runs import (DEPTH, MODEL, Made, choice, distances, examples, fill, full, lengths, loss, ranks, seeds,
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


def test_a_cut_that_two_sweeps_scored_stands_once(tmp_path):
    main = run_of(tmp_path, cuts('c4', [0, 2, 4], 'a'), cuts('c4', [0, 2, 4, 6], 'b')).main
    assert list(main.n) == [0, 2, 4, 6] and set(main.sweep) == {'b'}


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
    assert unhealed_gap(run).word == HOLDS and healed_gap(run).word == REFUTED


def test_items_that_differ_are_not_paired(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40, seed=n), 'similarity', n)
    other = loss(9, n=40)
    made.add('main', replace(other, counts=other.counts[::-1], sums=other.sums[::-1]), 'similarity', 8)
    with pytest.raises(Unmeasured, match='not of the same items'): losses_of(open_run(made.root))


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


# Words

def test_three_words_each_with_its_reason():
    def missing(): raise Unmeasured('not there')
    seen = lambda: Finding.of('seen', Ruling(HOLDS, 'interval', 1, .5, 2, 0, .001))
    found = [evaluate_claim('C1', f) for f in (seen, missing)]
    assert [o.word for o in found] == [HOLDS, UNDECIDED]
    assert [o.verdict for o in with_holm(found)] == ['holds', 'undecided: not measured in this run']
    assert [o.seen for o in found] == ['seen', 'not there'] and found[0].claim == 'C1'
    at = Finding.of('', Ruling(UNDECIDED, 'interval', 1, 0, 2, 1, .9))
    assert at.verdict == 'undecided: the interval contains the threshold'


def test_a_decision_may_fall_in_the_family():
    p = [.001, .03, .04, 1.]
    words = [HOLDS, REFUTED, HOLDS, UNDECIDED]
    found = with_holm([Finding.of('', Ruling(w, 'interval', 1, 1, 1, 0, o)) for w, o in zip(words, p)])
    assert [round(o.holm, 4) for o in found] == [.004, .09, .09, 1], 'the undecided one was tested as well'
    assert [o.stands for o in found] == [True, False, False, False]
    assert [o.verdict[-1] == '†' for o in found] == [False, True, True, False]


def test_sentences():
    assert [spans(o) for o in ([4, 1, 2, 3, 8, 6, 9], [], [5])] == ['1-4, 6, 8, 9', '', '5']


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
    assert main_tasks(run) == ['other', 'quiz'] and main_tasks(run, generated=True) == ['sums']
    got = {k: (claim_finding(run, k).word, claim_finding(run, k).reason) for k in {o.claim for o in run.findings}}
    held = {k for k, v in got.items() if v == (HOLDS, 'interval')}
    assert held == {'C1', 'C2', 'C3a', 'C3b', 'C4', 'C5a', 'C5b', 'C8'}, got
    assert {k for k, v in got.items() if v[1] == 'not_measured'} == {'C6a', 'C6b', 'C7a', 'C7b'}
    assert got['C3c'] == (UNDECIDED, 'interval')
    assert all(o.stands for o in run.findings if o.word == HOLDS)
    at = collapse_of(run, 'quiz')
    assert .2 <= at.kept < at.lost <= .55 and kept_n(run, 'quiz') == 4


def test_tables_of_claims(made):
    run = paper_like(made)
    table = claims_table([run])
    assert list(table) == ['model'] and len(table) == 13
    words = r'(holds|fails|undecided|not informative)( -?[0-9.]+( †)?| \([a-z ]+\))$'
    assert table.model.str.match(words).all(), table.model
    short = rulings_table([run], ['C3a', 'C6a'])
    assert list(short) == ['model', 'verdict', 'number', 'threshold', 'p (Holm)'] and len(short) == 3
    assert short.number.iloc[-1] == '' and short.threshold.iloc[0] == '0.5'


# C1 and C2: distances

def test_deep_or_shallow():
    assert deep_minima(distances(lambda n: DEPTH - n - 2)).word == HOLDS
    assert deep_minima(distances(lambda n: 1)).word == REFUTED
    assert deep_minima(distances(lambda n: (DEPTH - n) // 2, spread=.5)).word == UNDECIDED
    assert evaluate_claim('C1', deep_minima, None).reason == 'not_measured'
    single = LayerDistances(np.zeros((4, 4)), np.full((4, 4), np.nan), 1)
    with pytest.raises(Unmeasured, match='single text'): draw_distances(single, 1)


def test_draws_have_the_moments_of_the_distances():
    d = distances(lambda n: 5, spread=.2)
    draws = draw_distances(d, 3, size=20_000)
    np.testing.assert_allclose(draws.mean(0), np.diagonal(d.mean, 3), atol=6e-4)
    np.testing.assert_allclose(draws.std(0), np.diagonal(d.sem, 3), rtol=.03)


def test_sizes_of_blocks_err_together():
    "The interval is no narrower than if all sizes erred at once"
    d = distances(lambda n: 5, spread=.2)
    one = [np.sort(draw_distances(d, n).argmin(1)) / (d.depth - n) for n in range(1, d.depth // 4 + 1)]
    found = deep_minima(d)
    widest = np.mean([np.subtract(*np.quantile(o, [.975, .025])) for o in one])
    assert found.high - found.low == pytest.approx(widest, abs=.02)


def test_last_layer():
    assert last_layer_apart(distances(lambda n: 5)).word == HOLDS
    assert last_layer_apart(distances(lambda n: 5, last=.05)).word == REFUTED


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
    assert run.knows('quiz') and not run.knows('dull') and collapse_of(run, 'dull') is None
    for f in (task_plateau, one_bad_layer): assert f(run, 'dull').reason == 'baseline'
    assert task_plateau(run, 'dull', healed=True).reason == 'baseline'
    assert healing_gain(run, 'dull').reason == healing_gain(run, 'quiz', 'dull').reason == 'baseline'
    assert {o.reason for o in run.findings if o.task == 'dull'} <= {'baseline', 'not_measured'}
    assert claim_finding(run, 'C3a').task != 'dull'


def test_written_answers_without_a_plateau(made):
    run = open_run(fill(made, kind='at_once', tasks=('sums',), scoring='generated').root)
    assert run.tasks('generated') == ['sums'] and run.tasks() == []
    assert no_plateau(run).word == HOLDS
    assert [o.reason for o in run.findings if o.claim == 'C3a'] == ['not_measured']


def test_empty_answers_are_counted(made):
    made.config('s')
    for n, p in ((0, .8), (1, .5), (2, .2), (3, 0)):
        score = choice(p, 'sums', scoring='generated')
        score = replace(score, written=['7' if o else ' ' for o in score.right])
        made.add('s', score, 'similarity' if n else 'none', n)
    assert '50% at n = 1, 80% at n = 2' in no_plateau(open_run(made.root)).seen


def test_one_bad_layer_makes_a_larger_cut_better(made):
    made.config('s')
    for n, p in ((0, .8), (2, .75), (4, .4), (6, .7), (8, .3)):
        made.add('s', choice(p), 'similarity' if n else 'none', n)
    found = one_bad_layer(open_run(made.root), 'quiz')
    assert found.word == HOLDS and 'from n = 4 (40.0%) to 6 (70.0%)' in found.seen


def test_retention_and_excess_are_curves(made):
    run = open_run(fill(made).root)
    r, e = retention_of(run, 'quiz'), excess_of(run, healed=True)
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
    assert unhealed_gap(run).word == HOLDS and healed_gap(run).word == REFUTED
    assert unhealed_gap(run).value == pytest.approx(15, rel=.05) and healed_gap(run).value == pytest.approx(12, rel=.05)
    assert both_losses(run, False).ns == list(x[1:]), 'all cuts that both have'


def test_the_excess_is_over_the_base_healed_alike(made):
    "Healing alone brings 0.2 nats; beside the unhealed base the two strategies would seem to differ less"
    fill(made, healed=lambda n: 2.8 + .03 * n, healed_simple=lambda n: 2.8 + .06 * n)
    before = evaluate_claim('C5b', healed_gap, open_run(made.root))
    made.add('main', loss(2.8, seed=99), 'none', 0, True)
    after = healed_gap(open_run(made.root))
    assert after.value == pytest.approx(2, rel=.05) and after.word == REFUTED and 'same recipe' in after.seen
    assert before.reason == 'baseline' or before.value > 2.5
    excess = excess_of(open_run(made.root), healed=True)
    assert excess.value.iloc[1] == pytest.approx(.03, abs=.01)


def test_a_recipe_with_a_healed_base_is_preferred(made):
    fill(made)
    made.config('base', healing=dict(steps=20)).add('base', loss(3), 'none', 0)
    made.add('base', loss(2.9, seed=9), 'none', 0, True)
    for s, by in (('similarity', .1), ('simple', .3)): made.add('base', loss(2.9 + 4 * by, seed=8), s, 4, True)
    found = both_losses(open_run(made.root), healed=True)
    assert found.ns == [4] and base_healed(found.rows)


def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    assert healed_gap(run).reason == 'baseline' and 'ratio not computed' in healed_gap(run).seen


def test_gap_by_length(made):
    fill(made, healing=dict(rank=2))
    for steps, left in ((100, .5), (400, .1), (1600, .02)): lengths(made, steps, lambda n: 0, lambda n: left * 1.4 * n)
    table = gap_by_length(open_run(made.root))
    assert list(table.index) == [0, 10 * 256, 100 * 256, 400 * 256, 1600 * 256]
    np.testing.assert_allclose(table.gap[2:], [.5 * 1.4 * 6, .1 * 1.4 * 6, .02 * 1.4 * 6], atol=.02)
    assert (table.gap_low <= table.gap).all() and list(table.base_alike) == [True, *[False] * 4]
    one = gap_by_length(open_run(made.root), [4])
    np.testing.assert_allclose(one.gap[2:], [.5 * 1.4 * 4, .1 * 1.4 * 4, .02 * 1.4 * 4], atol=.02)
    np.testing.assert_allclose(table.change[1:], np.diff(table.ratio))
    same = ['change', 'change_low', 'change_high']
    for steps in (3200, 6400):
        made.config(f's-{steps}', healing=dict(steps=steps)).add(f's-{steps}', loss(3), 'none', 0)
        for s, seed in (('similarity', 5), ('simple', 6)):
            made.add(f's-{steps}', loss(3 + seed / 10, seed=seed), s, 4, True)
    twice = gap_by_length(open_run(made.root), [4])
    assert (twice[same].iloc[-1] == 0).all() and twice.ratio_low.iloc[-1] < twice.ratio_high.iloc[-1], 'paired'
    with pytest.raises(Unmeasured, match='n = 5'): gap_by_length(open_run(made.root), [5])
    with pytest.raises(Unmeasured): gap_by_length(open_run(Made(made.root.parent/'none').config('s').add(
        's', loss(3), 'none', 0).root))


# C6, C7 and healing

def test_ranks(made):
    ranks(made)
    run = open_run(made.root)
    losses, answers = rank_effect(run), rank_effect(run, 'mmlu')
    assert losses.word == HOLDS and losses.value == pytest.approx(.2, abs=.02)
    assert answers.word == HOLDS and answers.value == pytest.approx(.1, abs=.03)


def test_ranks_at_two_lengths_are_not_averaged(made):
    "A claim takes one recipe; `rank_gaps` shows every length"
    ranks(made)
    claimed = rank_effect(open_run(made.root))
    for rank, extra in ((2, .05), (64, 0)):
        made.config(f'longer-{rank}', healing=dict(rank=rank, steps=1000))
        made.add(f'longer-{rank}', loss(2.9 + extra, seed=8), 'similarity', 8, True)
    run = open_run(made.root)
    assert rank_effect(run).value == claimed.value and all(len(o) == 2 for o in rank_pairs(run))
    gaps = rank_gaps(run).set_index(['healing_tokens', 'strategy', 'n'])
    assert len(gaps) == 5 and len(gaps.index.levels[0]) == 2 and ((gaps.lowest == 2) & (gaps.highest == 64)).all()
    np.testing.assert_allclose(gaps.gap[:4], .2, atol=.02)
    assert gaps.gap.iloc[4] == pytest.approx(.05, abs=.02) and (gaps.low <= gaps.gap).all()
    assert gaps.ratio.isna().all(), 'no unpruned model was healed'
    for rank, base in ((64, 2.8), (2, 2.83)):
        assert rank_gaps(open_run(made.root)).ratio.isna().all(), 'not at both ranks'
        made.config(f'base-{rank}', healing=dict(rank=rank, steps=1000))
        made.add(f'base-{rank}', loss(base, seed=8), 'none', 0, True)
    gaps = rank_gaps(open_run(made.root))
    assert gaps.ratio.isna().sum() == 4 and gaps.ratio.iloc[4] == pytest.approx(.12 / .1, abs=.05)


def test_seeds(made):
    fill(made)
    seeds(made)
    found = seeds_agree(open_run(made.root))
    assert found.word == HOLDS and '3 seeds' in found.seen and 'starts at the unhealed one' in found.seen
    for seed in (0, 1, 2): made.add('seeds' if seed else 'main', loss(3 + .3 * seed), 'similarity', 8, True, seed)
    assert seeds_agree(open_run(made.root)).word == REFUTED


def test_examples_that_change_nothing_and_that_do(made):
    examples(made)
    run = open_run(made.root)
    assert shots_agree(run, 'quiz').word == HOLDS and shots_of(run, 'quiz')[2] == 5
    np.testing.assert_allclose(shots_gain(run, 'quiz').value, .02, atol=.02)
    for n, p in zip(x, shapes['plateau']):
        helped = replace(choice(p + .1 * (n == 0)), shots=5)
        for order in (0, 1): made.add(f'shots-5-{order}', helped, 'similarity' if n else 'none', n)
    found = shots_agree(open_run(made.root), 'quiz')
    assert found.word == REFUTED and found.value == pytest.approx(-.1, abs=.02)


def test_healing_gain(made):
    made.config('main')
    for task, after in (('yes', .7), ('quiz', .45)):
        made.add('main', choice(.8, task), 'none', 0)
        for n in (4, 8):
            made.add('main', choice(.4, task), 'similarity', n).add('main', choice(after, task), 'similarity', n, True)
    made.add('main', choice(.4, 'yes'), 'simple', 4)
    run = open_run(made.root)
    assert healing_gain(run, 'yes').value == pytest.approx(.3, abs=.01)
    assert [healing_gain(run, *o).word for o in (('yes', 'quiz'), ('quiz', 'yes'))] == [HOLDS, REFUTED]


def test_healing_gain_under_another_strategy_and_at_shared_cuts(made):
    made.config('main')
    for task, ns in (('yes', (4, 8)), ('quiz', (4,))):
        made.add('main', choice(.8, task), 'none', 0)
        for n in ns:
            made.add('main', choice(.4, task), 'simple', n)
            made.add('main', choice(.7 if n == 4 else .4, task), 'simple', n, True)
    run = open_run(made.root)
    assert healing_gain(run, 'yes', strategy='simple').value == pytest.approx(.15, abs=.01)
    both = healing_gain(run, 'yes', 'quiz', 'simple')
    assert both.value == pytest.approx(0, abs=.01) and 'at n = 4:' in both.seen
    with pytest.raises(Unmeasured): healing_gain(run, 'yes')


def test_a_task_healed_at_one_cut_is_left_out_beside_others(made):
    made.config('main')
    for task, ns in (('yes', (4, 8)), ('quiz', (4,))):
        made.add('main', choice(.8, task), 'none', 0)
        for n in ns: made.add('main', choice(.5, task), 'similarity', n, True)
    run = open_run(made.root)
    assert [o.task for o in run.findings if o.claim == 'C3b'] == ['yes']
    assert [(o['task'], o['measured']) for o in kept_rows(run) if o['healed']] == [('yes', [4, 8]), ('quiz', [4])]


def test_a_full_run_has_every_claim(tmp_path):
    run = open_run(full(tmp_path/'run').root)
    words = {k: claim_finding(run, k) for k in ('C5a', 'C5b', 'C6a', 'C6b', 'C7a', 'C7b', 'C8')}
    assert not [k for k, o in words.items() if o.reason == 'not_measured']
    assert answers_of(run, 'arc_easy').known and judge_claims(run)
    assert MODEL['depth'] == run.depth
