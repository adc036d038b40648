"What a run shows of each claim, on made data whose truth is known. The rules themselves: tests/test_criteria.py."
import math
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from prunebook.core import PrunebookError
from prunebook.paper.claims import (
    Finding, RunFolder, Unmeasured, _draw_distances, _last_layer_apart, _ruled, base_healed, base_note, claims_table,
    deep_minima, judge_claim, kept_rows, open_run, rank_pairs, rulings_table, shots_of, shots_table, smooth_loss,
    unpruned)
from prunebook.paper.criteria import HOLDS, REFUTED, UNDECIDED, Ruling, holm
from prunebook.similarity.distances import LayerDistances
from support.made_runs import DEPTH, Made, choice, distances, examples, fill, full, loss, ranks, shapes, x


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
    # other questions of the same number: their hash tells; of as many cuts, the more questions are taken
    a, b = (cuts('quiz', [0, 2, 4], h, items=h) for h in 'ab')
    assert set(run_of(tmp_path, a, b).main['items']) in ({'a'}, {'b'})
    more = cuts('quiz', [0, 2, 4], 'c', 900, items='c')
    assert set(run_of(tmp_path, a, more, b).main['items']) == {'c'}


def test_hashes_of_older_rows(made):
    "Filled in where rows of the same source and count have one, and only one"
    for sweep, count, h in (('a', 32, 'h'), ('b', 32, ''), ('c', 40, 'a'), ('d', 40, 'b'), ('e', 40, '')):
        made.config(sweep).add(sweep, replace(loss(3, n=count), source='q', items=h), 'none', 0)
    assert list(open_run(made.root).table['items']) == ['h', 'h', 'a', 'b', '']


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


@pytest.mark.parametrize('parts, columns, tasks', [
    ([('t', 0, 100, [0, 1, 2]), ('t', 5, 100, [0, 2]), ('t', 0, 900, [0, 1, 2, 3, 4])], [(0, 0), (5, 0)], {'t'}),
    ([('t', 5, 100, [0, 2, 4]), ('t:shots=0', 0, 100, [0, 2]), ('t_text', 0, 100, [0, 2])], [(0, 0), (5, 0)],
     {'t', 't:shots=0'})], ids=['on the questions that most have', 'a task asked without examples is the same task'])
def test_settings_of_examples(tmp_path, parts, columns, tasks):
    rows = [cuts(task, ns, f'{i}', count, shots=s) for i, (task, s, count, ns) in enumerate(parts)]
    table = pd.DataFrame([o | dict(value=o['n'] + o['shots']) for r in rows for o in r])
    wide, own = shots_table(RunFolder(tmp_path, table, 'm'), 't')
    assert list(wide.columns) == columns and list(wide.index) == [0, 2]
    assert set(own.task) == tasks and set(own['count']) == {100}


def test_items_that_differ_and_files_of_another_model(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40, seed=n), 'similarity', n)
    other = loss(9, n=40)
    made.add('main', replace(other, counts=other.counts[::-1], sums=other.sums[::-1]), 'similarity', 8)
    with pytest.raises(Unmeasured, match='not of the same items'): open_run(made.root).items()
    distances(lambda n: 1, depth=DEPTH + 1).save(made.root)
    with pytest.raises(PrunebookError, match='of one model'): open_run(made.root)


# Words

@pytest.mark.parametrize('finding, verdict', [
    (Finding(HOLDS, 'interval', 1, .5, 2, 0, .001), 'holds'),
    (Finding(REFUTED, 'interval', 1, .5, 2, 0, .03, holm=.09), 'fails †'),
    (Finding(UNDECIDED, 'interval', 1, 0, 2, 1, .9), 'undecided: the interval contains the threshold'),
    (Finding(), 'undecided: not measured in this run')], ids=lambda o: str(o)[:20])
def test_words(finding, verdict):
    assert finding.verdict == verdict and finding.stands == (verdict == 'holds')


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
    tested = [o for o in run.findings if not math.isnan(o.value)]
    np.testing.assert_allclose([o.holm for o in tested], holm([o.p for o in tested]))
    assert any(not o.decided for o in tested) and all(o.stands for o in tested if o.word == HOLDS)
    at = run.items('quiz').collapse
    assert .2 <= at.kept < at.lost <= .55 and run.items('quiz').kept == 4
    words = r'((holds|fails|undecided|not informative)( -?[0-9.]+( †)?| \([a-z ]+\))|not measured)$'
    table, short = claims_table([run]), rulings_table([run], ['C3a', 'C6a'])
    assert list(table) == ['model'] and len(table) == 13 and table.model.str.match(words).all(), table.model
    assert {o[:3] for o in table.index[table.model == 'not measured']} == {'C6a', 'C6b', 'C7a', 'C7b'}
    assert len(short) == 3 and short.number.iloc[-1] == '' and short.threshold.iloc[0] == '0.5'
    for n in x: made.add('main', choice(.2, 'dull'), 'similarity' if n else 'none', n)
    tasks = [set(rulings_table([open_run(made.root)], ['C3a'], known=o).model.str.split(', ').str[1]) for o in (0, 1)]
    assert tasks[0] - tasks[1] == {'dull'} and 'quiz' in tasks[1]


def test_a_ruling_is_kept_until_a_byte_of_its_arguments_changes(tmp_path, monkeypatch):
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path))
    right, calls = np.array([[.1, 1 / 3], [0, 1]]), []

    def rule(right, level=1, seed=0):
        calls.append(seed)
        return Ruling(HOLDS, 'interval', float(right.sum()) / level, low=-math.inf, p=.01 + seed / 1e4)
    first = _ruled(rule, right)
    assert calls == list(range(10)) and first.p == pytest.approx(.01045) and first.value == right.sum()
    assert repr(_ruled(rule, right)) == repr(first) and _ruled(rule, right).p == first.p and len(calls) == 10
    _ruled(rule, np.nextafter(right, 2)), _ruled(rule, right.T), _ruled(rule, right, level=2)
    assert len(calls) == 40
    kept = list((tmp_path/'rulings').iterdir())
    for o in kept: o.write_text('{"word":')
    assert len(kept) == 4 and _ruled(rule, right).p == first.p and len(calls) == 50
    (tmp_path/'file').touch()
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'file'))
    assert _ruled(rule, right).p == first.p and len(calls) == 60


# C1 and C2: distances

def test_places_of_blocks():
    assert deep_minima(distances(lambda n: DEPTH - n - 2)).word == HOLDS
    assert deep_minima(distances(lambda n: 1)).word == REFUTED
    assert deep_minima(distances(lambda n: (DEPTH - n) // 2, spread=.5)).word == UNDECIDED
    assert _last_layer_apart(distances(lambda n: 5)).word == HOLDS
    assert _last_layer_apart(distances(lambda n: 5, last=.05)).word == REFUTED
    single = LayerDistances(np.zeros((4, 4)), np.full((4, 4), np.nan), 1)
    with pytest.raises(Unmeasured, match='single text'): _draw_distances(single, 1)


def test_draws_have_the_moments_of_the_distances_and_sizes_err_together():
    d = distances(lambda n: 5, spread=.2)
    draws = _draw_distances(d, 3, size=20_000)
    np.testing.assert_allclose(draws.mean(0), np.diagonal(d.mean, 3), atol=6e-4)
    np.testing.assert_allclose(draws.std(0), np.diagonal(d.sem, 3), rtol=.03)
    one = [np.sort(_draw_distances(d, n).argmin(1)) / (d.depth - n) for n in range(1, d.depth // 4 + 1)]
    found, widest = deep_minima(d), np.mean([np.subtract(*np.quantile(o, [.975, .025])) for o in one])
    assert found.high - found.low == pytest.approx(widest, abs=.02)


# C3 and C8: the shape of a curve

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


def test_written_answers_without_a_plateau_and_empty_ones(tmp_path):
    run = open_run(fill(Made(tmp_path/'a'), kind='at_once', tasks=('sums',), scoring='generated').root)
    assert run.tasks('generated') == ['sums'] and run.tasks() == []
    assert judge_claim(run, 'C8', 'sums').word == HOLDS
    assert [o.reason for o in run.findings if o.claim == 'C3a'] == ['not_measured']
    made = Made(tmp_path/'b').config('s')
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


# C4 and C5: losses

def test_jumps_of_the_loss(tmp_path):
    run = open_run(fill(Made(tmp_path/'a'), healed=lambda n: 3 + .05 * n + 2 * (n > 6)).root)
    assert smooth_loss(run).word == REFUTED and 'unhealed answers to quiz' in smooth_loss(run).seen
    assert smooth_loss(run, healed=False).word == HOLDS
    made = Made(tmp_path/'b').config('main')  # without a collapse
    for n in x:
        made.add('main', choice(.8 - .01 * n), 'similarity' if n else 'none', n)
        made.add('main', loss(3 + .1 * n), 'similarity' if n else 'none', n)
        if n: made.add('main', loss(3 + .1 * n), 'similarity', n, True)
    assert smooth_loss(open_run(made.root)).reason == 'not_located'


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


def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    assert judge_claim(run, 'C5b').reason == 'baseline' and 'ratio not computed' in judge_claim(run, 'C5b').seen


# C6, C7 and healing

def test_ranks(made):
    "Cuts healed for two lengths are not averaged"
    ranks(made)
    run = open_run(made.root)
    claimed, answers = judge_claim(run, 'C6a'), judge_claim(run, 'C6b', 'mmlu')
    assert claimed.word == HOLDS and claimed.value == pytest.approx(.2, abs=.02)
    assert answers.word == HOLDS and answers.value == pytest.approx(.1, abs=.03)
    for rank, extra in ((2, .05), (64, 0)):
        made.config(f'longer-{rank}', healing=dict(rank=rank, steps=1000))
        made.add(f'longer-{rank}', loss(2.9 + extra, seed=8), 'similarity', 8, True)
    run = open_run(made.root)
    assert judge_claim(run, 'C6a').value == claimed.value and all(len(o) == 2 for o in rank_pairs(run))
    assert {o.healing_tokens.iloc[0] for o in rank_pairs(run, one_recipe=False)} == {10 * 256, 1000 * 256}


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
    assert not [k for k, o in words.items() if o.reason == 'not_measured'] and run.items('arc_easy').known
