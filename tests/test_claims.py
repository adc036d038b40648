"What a run shows of each claim, on made data whose truth is known. The rules themselves: tests/test_criteria.py."
import json
import math
import re
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from prunebook.core import PrunebookError
from prunebook.paper.claims import (
    RunFolder, Unmeasured, _ruled, base_note, claims_table, open_run, rulings_table)
from prunebook.paper.figures import plot_scores
from prunebook.paper.criteria import HOLDS, UNDECIDED, Ruling, holm
from support.made_runs import DEPTH, Made, choice, distances, fill, loss, shapes, x

nbs = Path(__file__).parents[1]/'nbs'


@pytest.fixture
def made(tmp_path): return Made(tmp_path/'run')


# Which rows belong together

BASE = dict(model='m', depth=12, healed=False, seed=0, shots=0, shots_seed=0, layers='', recipe=None, rank=None,
            healing_texts=None, healing_tokens=0, items='')


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


RECIPE = dict(recipe='r', rank=64., healing_texts='t', healing_tokens=1000)


def test_a_healed_curve_starts_at_the_base_healed_alike(tmp_path):
    plain, healed = cuts('c4', [0, 2, 4]), cuts('c4', [2, 4], 'h', healed=True, **RECIPE)
    base = lambda **kw: cuts('c4', [0], 'b', healed=True, **RECIPE | kw)
    starts = lambda *rows: run_of(tmp_path, plain, healed, *rows).curve('c4', healed=True)
    assert starts(base()).healed.iloc[0] and list(starts(base()).n) == [0, 2, 4]
    assert 'healed by the same recipe' in base_note(starts(base()))
    for other in ([], base(healing_tokens=2000), base(rank=2.), base(recipe='s'), base(healing_texts='u'),
                  base(count=32), base(items='other')):
        assert not starts(other).healed.iloc[0] and 'starts at the unhealed one' in base_note(starts(other))
    run = run_of(tmp_path, plain, healed, base())
    assert not run.curve('c4').healed.any() and base_note(run.curve('c4')) == ''


@pytest.mark.parametrize('other', [dict(), dict(bits=32), dict(packing='chunk'), dict(batch_size=2, steps=20),
                                   dict(targets=['up_proj'])], ids=str)
def test_ranks_are_compared_only_where_all_else_is_alike(made, other):
    for name, recipe in dict(low=dict(rank=2) | other, high=dict(rank=8)).items():
        made.config(name, healing=recipe).add(name, loss(3), 'similarity', 2, True)
    if other: pytest.raises(Unmeasured, open_run(made.root).rank_pairs)
    else: assert list(open_run(made.root).rank_pairs()['rank']) == [2, 8]


def test_a_healed_curve_is_drawn_from_the_base_healed_alike():
    rows = [dict(task='c4', strategy='simple' if n else 'none', n=n, healed=h, fraction_layers=n / 4, value=v, low=v,
                 high=v) for n, h, v in ((0, False, 3), (0, True, 2), (1, False, 5), (1, True, 4))]
    lines = [o[0].get_ydata().tolist() for o in plot_scores(pd.DataFrame(rows), 'c4').containers]
    assert lines == [[3, 5], [2, 4]]


def test_items_that_differ_and_files_of_another_model(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (2, 4, 6): made.add('main', loss(3 + n, n=40, seed=n), 'similarity', n)
    other = loss(9, n=40)
    made.add('main', replace(other, counts=other.counts[::-1], sums=other.sums[::-1]), 'similarity', 8)
    with pytest.raises(Unmeasured, match='not of the same items'): open_run(made.root).items()
    distances(lambda n: 1, depth=DEPTH + 1).save(made.root)
    with pytest.raises(PrunebookError, match='of one model'): open_run(made.root)


# Findings

def test_claims_of_a_run_that_is_as_the_paper_says(made):
    fill(made, tasks=('quiz', 'other'))
    for n, p in zip(x, shapes['plateau']):
        for t in ('quiz', 'other'): made.add('main', choice(p, t), 'similarity' if n else 'none', n, True)
    made.add('main', loss(2.95, seed=99), 'none', 0, True)
    fill(made, 'written', 'at_once', tasks=('sums',), scoring='generated')
    distances(lambda n: DEPTH - n - 2).save(made.root)
    run = open_run(made.root)
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
    table = claims_table([run])
    assert {o[:3] for o in table.index[table.model == 'not measured']} == {'C6a', 'C6b', 'C7a', 'C7b'}
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


def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    assert run.judge('C5b').reason == 'baseline' and 'ratio not computed' in run.judge('C5b').seen


def test_the_page_of_claims_shows_these_verdicts():
    "A rule that moves, or a table that grows, must reach the page"
    page = json.loads((nbs/'paper'/'claims.ipynb').read_text())
    shown = next(''.join(o['data']['text/html']) for c in page['cells'] for o in c.get('outputs', [])
                 if 'text/html' in o.get('data', {}))
    cells = [re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', o, re.S) for o in re.findall(r'<tr.*?>(.*?)</tr>', shown, re.S)]
    run, first = open_run(nbs/'results'/'demo'), pd.DataFrame(cells)
    words = dict(zip(first[0].str.partition(':')[0], first[list(first.iloc[0]).index(run.name)]))
    found = {o.claim: run.finding(o.claim) for o in run.findings}
    assert len(found) == len(words) - 1
    for key, o in found.items():
        fallen = o.word in ('holds', 'fails') and not o.stands
        assert words[key].startswith(o.word) and words[key].endswith('†') == fallen, key


def test_questions_asked_in_another_way_are_no_task_of_the_claims():
    run = open_run(Path(__file__).parents[1]/'nbs'/'results'/'qwen2.5-coder-1.5b')
    assert 'arc_easy:scoring=letter' in run.tasks()
    assert not [o for o in run.findings if 'scoring=' in o.task]
