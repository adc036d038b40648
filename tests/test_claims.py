"Which rows of a run belong together, and what the kept runs show of each claim, beside the page that says so."
import html, json, math, re
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest
from prunebook.core import PrunebookError
from prunebook.paper.claims import (
    CLAIMS, UNINFORMATIVE, Curve, RunFolder, Unmeasured, ruled, base_note, claim_rows, claims_table, open_run,
    rulings_table)
from prunebook.paper.figures import plot_scores
from prunebook.paper.criteria import HOLDS, REFUTED, Ruling
from prunebook.paper.runs import read_run
from support.made_runs import DEPTH, Made, choice, distances, fill, loss, x

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

def test_a_ruling_is_kept_until_a_byte_of_its_arguments_changes(tmp_path, monkeypatch):
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path))
    right, calls = np.array([[.1, 1 / 3], [0, 1]]), []

    def rule(right, level=1, seed=0):
        calls.append(seed)
        return Ruling(HOLDS, 'interval', float(right.sum()) / level, low=-math.inf, p=.01 + seed / 1e4)
    first = ruled(rule, right)
    assert calls == list(range(10))
    assert first.p == pytest.approx(.01045 - .9 * 2 / 2001)
    assert first.value == right.sum()
    assert repr(ruled(rule, right)) == repr(first)
    assert ruled(rule, right).p == first.p
    assert len(calls) == 10
    ruled(rule, np.nextafter(right, 2)), ruled(rule, right.T), ruled(rule, right, level=2)
    assert len(calls) == 40
    kept = list((tmp_path/'rulings').iterdir())
    for o in kept: o.write_text('{"word":')
    assert len(kept) == 4
    assert ruled(rule, right).p == first.p
    assert len(calls) == 50

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('right', [0, 1])
def test_one_question_shows_that_no_cut_keeps_anything(right):
    "It has no spread: the test of `kept_cuts`, which is fixed, would be of NaN, and pass"
    rows = pd.DataFrame([dict(n=n, baseline=.25) for n in (0, 2, 5)])
    def kept(n, keeps=2):
        items = np.array([[right] * n] * keeps + [[0] * n] * (3 - keeps), float)
        return Curve(rows, items, np.ones(n)).kept
    assert kept(1) == kept(1, 3) == 0
    assert kept(200) == 2 * right and kept(200, 3) == 5 * right

def test_the_interval_is_of_ten_calls_and_the_word_of_the_first(tmp_path, monkeypatch):
    "That of the calls that found the same; p too where the first puts it below 0.05"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path))
    words, values = [HOLDS] + [REFUTED] * 9, [.5] * 8 + [.7, math.nan]

    def rule(p, seed=0): return Ruling(words[seed], 'interval', values[seed], seed / 10, 1 + seed, p=p - seed / 100)
    found, sure = ruled(rule, .2), ruled(rule, .04)
    assert (found.word, found.value, found.p) == (HOLDS, .5, .2)
    assert (found.low, found.high) == pytest.approx((.35, 4.5))
    assert sure.p == pytest.approx(.04 - .045 - .9 * 2 / 2001)

def test_nothing_is_compared_with_a_rise_that_is_none(made):
    run = open_run(fill(made, healed=lambda n: 3, healed_simple=lambda n: 3 + .3 * n).root)
    assert run.judge('C5b').reason == 'baseline' and 'ratio not computed' in run.judge('C5b').seen

@pytest.mark.parametrize('cost, last, word, reason', [
    (lambda n: .05 * n, 14, HOLDS, 'interval'),
    (lambda n: .05 * n + (n >= 8), 14, REFUTED, 'interval'),
    (lambda n: .01 * n**2, 8, UNINFORMATIVE, 'before_collapse'),  # no jump, and flatter before
    (lambda n: .05 * n, 8, HOLDS, 'interval'),
    (lambda n: .6 * n**.5, 8, HOLDS, 'interval')])  # where a fall could hide, it would have
def test_a_curve_is_no_jump(made, cost, last, word, reason):
    "C4 says nothing where a loss without a jump gets the same word: answers collapse between 5 and 7 layers"
    found = open_run(fill(made, healed=lambda n: 3 + cost(n), ns=x[x <= last]).root).judge('C4')
    assert (found.word, found.reason) == (word, reason), found

@pytest.mark.parametrize('name', ['demo', 'gemma3-270m', 'qwen2.5-coder-1.5b'])
def test_the_page_of_claims_shows_what_the_run_gives(name):
    "Word, number and threshold of every finding. Whether they are right: tests/test_recomputed.py"
    cells = json.loads((nbs/'paper'/'claims.ipynb').read_text())['cells']
    shown = ''.join(''.join(o.get('data', {}).get('text/html', '')) for c in cells for o in c.get('outputs', []))
    rows = [[html.unescape(o) for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)]
            for row in re.findall(r'<tr.*?>(.*?)</tr>', shown, re.S)]
    run = open_run(nbs/'results'/name)
    page = sorted(o[:5] for o in rows if len(o) == 6 and o[1].split(', ')[0] == run.name)
    assert sorted([*map(str, o[:5])] for o in rulings_table([run], CLAIMS).itertuples()) == page
    heads, *table = [o for o in rows if len(o) == 4]
    assert {o[0]: o[heads.index(run.name)] for o in table} == dict(claims_table([run])[run.name])

@pytest.mark.parametrize('name', ['demo', 'gemma3-270m', 'qwen2.5-coder-1.5b'])
def test_the_rows_behind_every_number_are_found(name):
    "Those of a sweep that was made for one claim decide no other"
    run = open_run(nbs/'results'/name)
    for claim in {o.claim for o in run.findings if o.reason != 'not_measured'} - {'C1', 'C2'}:  # those are of distances
        sweeps = set(claim_rows(run.folder, claim).sweep)
        assert sweeps and ('healed-fine' in sweeps) == (name.startswith('qwen') and claim == 'C3b'), claim

def test_rows_that_were_asked_otherwise_are_no_one_curve(made):
    "In the chat template, or with room for fewer tokens of an answer"
    made.config('plain').config('chat', scoring=dict(chat=True)).config('short', scoring=dict(max_new_tokens=8))
    for n in (0, 2, 4): made.add('plain', choice(.8 - .02 * n), 'similarity' if n else 'none', n)
    for n in (0, 6): made.add('chat', replace(choice(.5), chat=True), 'similarity' if n else 'none', n)
    for sweep, ns in (('plain', (0, 2, 4)), ('short', (6, 8))):
        for n in ns: made.add(sweep, choice(.5, 'gsm8k', scoring='generated'), 'similarity' if n else 'none', n)
    run = open_run(made.root)
    assert run.items('quiz').ns == run.items('gsm8k').ns == [0, 2, 4]

def test_a_task_with_examples_is_the_same_task(made):
    "Listed once, without them, and compared by the rows of one sweep; alone it stays"
    told = lambda p: replace(choice(p, 'quiz:shots=5'), shots=5)
    made.config('apart').config('together').config('only')
    for n in (0, 2, 4):
        where = 'similarity' if n else 'none', n
        made.add('apart', choice(.9 - .1 * n), *where).add('together', choice(.8 - .1 * n), *where)
        made.add('together', told(.85 - .1 * n), *where)
        made.add('only', replace(choice(.8 - .1 * n, 'other:shots=5'), shots=5), *where)
    run = open_run(made.root)
    assert run.tasks() == ['other:shots=5', 'quiz']
    _, without, shots, rows = run.by_shots('quiz')
    assert without.values == pytest.approx([.8, .6, .4], abs=.002)
    assert shots.mean(1) == pytest.approx([.85, .65, .45], abs=.002)
    assert set(without.rows.sweep) == {'together'}
    assert sorted(zip(rows.n, rows.shots)) == [(n, k) for n in (0, 2, 4) for k in (0, 5)]

def test_models_healed_on_other_texts_are_not_healed_alike(made):
    "Two files may have one name: their hash tells"
    for name, rank, texts in (('a', 2, 'h1'), ('b', 4, 'h2')):
        made.config(name, healing=dict(rank=rank), healing_texts='train.jsonl').add(name, loss(4), 'simple', 2, True)
        made.sweeps[name]['items'] = dict(healing_texts=texts)
    with pytest.raises(Unmeasured): open_run(made.root).rank_pairs()
    made.sweeps['b']['items'] = dict(healing_texts='h1')
    made.dirty = True
    assert len(open_run(made.root).rank_pairs()) == 2

def test_cuts_that_a_claim_excludes_do_not_decide_it(made):
    made.config('main').add('main', loss(3), 'none', 0)
    for n in (8, 10):  # of 20 layers
        for strategy, slope in (('similarity', .1), ('simple', 1.)):
            made.add('main', loss(3 + slope * n, seed=n), strategy, n)
    assert open_run(made.root).judge('C5a').reason == 'not_measured'
    for strategy, slope in (('similarity', .1), ('simple', 1.)): made.add('main', loss(3 + 4 * slope), strategy, 4)
    assert open_run(made.root).judge('C5a').word == HOLDS

def test_a_sweep_of_another_kind_takes_no_pairs_away(made):
    "Another recipe at a third rank, and other seeds at another cut"
    made.config('s0').config('s1', seeds=[1]).config('r2', healing=dict(rank=2)).add('s0', loss(3), 'none', 0)
    for n in (2, 4):
        made.add('s0', loss(4, seed=n), 'similarity', n, True).add('r2', loss(4.5, seed=n), 'similarity', n, True)
        made.add('s1', loss(3.5, seed=n), 'similarity', n, True, 1)
    judged = lambda: [open_run(made.root).judge(o).value for o in ('C6a', 'C7a')]
    before = judged()
    made.config('other', healing=dict(rank=128, steps=99)).add('other', loss(4), 'similarity', 2, True)
    made.config('s2', seeds=[2, 3])
    for seed in (2, 3): made.add('s2', loss(3.6), 'similarity', 6, True, seed)
    assert judged() == pytest.approx(before) and not any(map(math.isnan, before))

def test_a_curve_is_drawn_of_one_recipe(made):
    made.config('long').config('short', healing=dict(rank=2)).add('long', loss(3), 'none', 0)
    for n in (2, 4): made.add('long', loss(4), 'similarity', n, True)
    made.add('short', loss(9), 'similarity', 4, True)
    [line] = [o[0].get_ydata() for o in plot_scores(read_run(made.root), 'c4').containers]
    assert line == pytest.approx([3, 4, 4], abs=.1)

def test_each_curve_begins_at_the_unpruned_model_on_its_own_documents(made):
    "Not at what the curve before it left"
    for name, n, value in (('few', 20, 3), ('many', 40, 5)): made.config(name).add(name, loss(value, n=n), 'none', 0)
    for cut in (2, 4): made.add('few', loss(4, n=20), 'similarity', cut).add('many', loss(6), 'simple', cut)
    lines = [o[0].get_ydata()[0] for o in plot_scores(read_run(made.root), 'c4').containers]
    assert sorted(lines) == pytest.approx([3, 5], abs=.2)
