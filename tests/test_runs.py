"""A run folder. What was written is what is read; a row never stands without its items; what is damaged is refused in
one line; nothing private is recorded; and the kept runs have their numbers."""
import hashlib, itertools, json, math, random, signal, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from prunebook.paper import runs
from prunebook.core import PrunebookError
from prunebook.evaluation.scores import LossScore, Score, ratio_interval, wilson
from prunebook.paper.runs import _FILES, ITEMS, KEYS, RESULTS, Run, kept_score, read_run, _start_record
from support.kills import forked, tree
from support.made_runs import MODEL, Made, choice, fill, loss
from support.readers import spoil

results = Path(__file__).parents[1]/'nbs'/'results'

def scores():
    "One of each kind, with everything that a score can hold"
    logprobs = [[-1.5, -2., -3.], [-2.125, -1., -math.inf], [0., -1., -2.], [-.001, -7., -9.]]
    choices = Score('quiz', .5, 2, 4, *wilson(2, 4), [0, 1, 0, 0], [0, 1, 2, 3], 'letter', .25, .5, logprobs, [1, 3],
                    [], 1.25, 'set', items='abc', groups=['law', 'law', 'art', ''], shots=5, chat=True)
    written = Score('sums', 1 / 3, 1, 3, *wilson(1, 3), [1, 0, 0], [1, 1, 1], 'generated', 0., 0.,
                    written=['12', '', 'ä\n"x"'])
    one = LossScore('c4', 3.25, -math.inf, math.inf, 1, [325.], [100], [4], [0, 1, 2, 3], 321,
                    vocab=99, seconds=2., source='demo', items='d')
    return [choices, written, one, loss(3.1), choice(.5, n=7)]

def write(folder, named=None):
    "A run with a sweep of all these scores; returns them by key"
    named = named or {('main', 'none', 0, False, i, s.task): s for i, s in enumerate(scores())}
    made = Made(folder)
    for name in {k[0] for k in named}: made.config(name)
    made.write()
    with Run(folder, MODEL) as run: run.add_all([(k, s, range(k[2])) for k, s in named.items()])
    return named

# what was written is what is read

def test_every_score_comes_back_to_the_last_digit(tmp_path):
    "Every kind; losses with all their digits; infinite intervals; and names that pandas takes for missing values"
    rng = np.random.default_rng(0)
    named = {('main', 'none', 0, False, i, s.task): s for i, s in enumerate(scores())}
    named |= {('main', 's', 1, True, i, 'c4'): loss(float(v), seed=i) for i, v in enumerate(rng.uniform(0, 99, 40))}
    named['nan', 'NA', 1, False, 0, 'NA'] = LossScore('NA', 3.25, -math.inf, math.inf, 1, [325.], [100], [0], [], 9,
                                                      vocab=99, source='null', items='NA')
    write(tmp_path/'run', named)
    table = read_run(tmp_path/'run')
    assert len(table) == len(named)
    for _, row in table.iterrows(): assert kept_score(tmp_path/'run', row) == named[tuple(row[KEYS])]

def test_a_row_that_is_there_is_refused_and_the_run_stays_whole(tmp_path):
    named = write(tmp_path/'run')
    with Run(tmp_path/'run', MODEL) as run:
        again = [(k, s, range(k[2])) for k, s in named.items()]
        for o in (again, [(('main', 's', 1, False, 0, 'c4'), loss(3), [1])] * 2):
            with pytest.raises(PrunebookError, match='has a row of'): run.add_all(o)
    assert len(read_run(tmp_path/'run')) == len(named)

def test_pandas_alone_reads_it(tmp_path):
    write(tmp_path/'run')
    table, items = pd.read_csv(tmp_path/'run'/'results.csv'), pd.read_parquet(tmp_path/'run'/'items.parquet')
    assert list(table) == list(RESULTS)
    assert list(items) == list(ITEMS)
    assert len(items) == table['count'].sum()

def test_rows_have_the_settings_of_their_sweep(tmp_path):
    made = Made(tmp_path/'run').config('a', healing=dict(rank=8, steps=5)).config('b', scoring=dict(shots=2, seed=3))
    made.add('a', loss(3), 'simple', 2, True).add('a', loss(3), 'none', 0).add('b', choice(.5), 'none', 0)
    table = read_run(made.root).set_index('sweep', drop=False)
    assert list(table.loc['a'].healing_tokens) == [5 * 4 * 64, 0] and table.loc['a', 'rank'].iloc[0] == 8
    assert table.loc['b'].shots_seed == 3 and math.isnan(table.loc['b'].max_length)
    assert table.loc['a', 'fraction_params'].tolist() == [2 * 40 / 1000, 0]

# a row never stands without its items

def test_killed_between_any_two_writes(tmp_path, monkeypatch):
    "Whatever was written, the next start sees whole scores, and can go on"
    named, real = list(write(tmp_path/'whole').items()), runs.atomic_write
    for stop in range(2 * len(named)):
        folder, count = tmp_path/f'killed{stop}', iter(range(99))
        Made(folder).config('main').write()

        def write_or_die(path, data):
            if next(count) == stop: raise KeyboardInterrupt
            real(path, data)
        monkeypatch.setattr(runs, 'atomic_write', write_or_die)
        with pytest.raises(KeyboardInterrupt), Run(folder, MODEL) as run:
            for k, s in named: run.add_all([(k, s, [])])
        monkeypatch.setattr(runs, 'atomic_write', real)
        with Run(folder, MODEL) as run:
            assert len(run.table) == stop // 2 and run.items.keys() == {k for k, _ in named[:stop // 2]}
            for k, s in named:
                if not run.has(*k): run.add_all([(k, s, [])])
        for _, row in read_run(folder).iterrows(): assert kept_score(folder, row) == dict(named)[tuple(row[KEYS])]

def named_scores(n=6, seed=0):
    "Keys and scores for several calls"
    return [(('main', 's', 1 + i, False, seed, o.task), o, range(1 + i)) for i, o in enumerate(
        [loss(3 + .1 * i, seed=i) if i % 2 else choice(.2 + .1 * i, n=9 + i) for i in range(n)])]

def started(folder):
    Made(folder).config('main').write()
    return folder

def stored(folder):
    "The scores that a run has, by key; each is as it was made"
    try: table = read_run(folder)
    except PrunebookError as e:
        assert 'none has a score yet' in str(e)
        return {}
    return {tuple(row[KEYS]): kept_score(folder, row) for _, row in table.iterrows()}

def test_many_calls_and_starts_make_the_bytes_of_one(tmp_path):
    "And a run that is opened once more changes none"
    all_of, folders = named_scores(9), [started(tmp_path/o) for o in ('one', 'calls', 'starts')]
    with Run(folders[0], MODEL) as run: run.add_all(all_of)
    with Run(folders[1], MODEL) as run:
        for o in all_of: run.add_all([o])
    for i in range(0, 9, 2):
        with Run(folders[2], MODEL) as run:
            for o in all_of[i:i + 2]: run.add_all([o])
    whole = tree(folders[0])
    assert list(whole) == ['items.parquet', 'results.csv', 'run.json']
    with Run(folders[2], MODEL) as run: assert len(run.table) == 9
    assert tree(folders[1]) == tree(folders[2]) == whole

def test_a_call_writes_its_own_scores_alone(tmp_path, monkeypatch):
    "However many there are already; both tables are written once, at the end"
    written, real = [], runs.atomic_write

    def note(path, data):
        written.append((Path(path).name, len(data)))
        real(path, data)
    monkeypatch.setattr(runs, 'atomic_write', note)
    size = []
    with Run(started(tmp_path/'run'), MODEL) as run:
        for i in range(40):
            written.clear()
            run.add_all([(('main', 's', 1, False, i, 'quiz'), choice(.5), [1])])
            size.append(sum(n for _, n in written))
            assert not {o for o, _ in written} & {'items.parquet', 'results.csv'}
        written.clear()
    assert [o for o, _ in written] == ['items.parquet', 'results.csv']
    assert max(size) < 1.1 * min(size)

def test_a_run_that_is_being_written_is_read(tmp_path):
    "After each call, by every reader, with the rows of its earlier starts"
    folder, all_of = started(tmp_path/'run'), named_scores()
    with Run(folder, MODEL) as run: run.add_all(all_of[:2])
    with Run(folder, MODEL) as run:
        for i, o in enumerate(all_of[2:], 3):
            run.add_all([o])
            assert stored(folder) == {k: s for k, s, _ in all_of[:i]}
            assert len(run.table) == i
    assert stored(folder) == {k: s for k, s, _ in all_of}

def test_parts_that_are_joined_while_they_are_read(tmp_path, monkeypatch):
    folder, all_of, calls = started(tmp_path/'run'), named_scores(), []
    with Run(folder, MODEL) as run:
        for o in all_of: run.add_all([o])
        for name in ('_read_results', '_cut_into_scores'):
            def read(path, real=getattr(runs, name)):
                if Path(path).parent.name == 'parts' and not calls:
                    calls.append(path)
                    monkeypatch.undo()
                    run._join()
                return real(path)
            monkeypatch.setattr(runs, name, read)
        assert stored(folder) == {k: s for k, s, _ in all_of} and len(calls) == 1
        assert not (folder/'parts').exists()

def killed_at(folder, all_of, log, at=None):
    "Two starts of a run, killed before its operation `at` under the folder"
    def work():
        for some in (all_of[:3], all_of[3:]):
            with Run(folder, MODEL) as run:
                for o in some: run.add_all([o])
    return forked(work, folder, log, at)

@pytest.mark.thorough
def test_killed_before_each_operation(tmp_path):
    "A reader sees whole scores, in order, and none that a call had stored is lost; the next start makes the same bytes"
    all_of, log = named_scores(5), tmp_path/'log'
    assert killed_at(started(tmp_path/'whole'), all_of, log).code == 0
    whole, counts = tree(tmp_path/'whole'), []
    for k in itertools.count():
        done = killed_at(folder := started(tmp_path/f'{k}'), all_of, log, k)
        if done.code == 0: break
        assert done.code == -signal.SIGKILL, done
        found = stored(folder)
        assert found == {k: s for k, s, _ in all_of[:len(found)]}, done.events[-1:]
        counts.append(len(found))
        with Run(folder, MODEL) as run:
            assert run.items.keys() == found.keys()
            for o in all_of[len(found):]: run.add_all([o])
        assert tree(folder) == whole, done.events[-1:]
    assert counts == sorted(counts)
    assert set(counts) == set(range(6))
    assert len(counts) > 60

def test_killed_while_it_joins_counts_nothing_twice(tmp_path):
    "Before each operation of the last start, which stores nothing new"
    all_of, log = named_scores(4), tmp_path/'log'
    def half():
        with Run(folder, MODEL) as run:
            for o in all_of: run.add_all([o])
            run._join = lambda: None
    for k in itertools.count():
        folder = started(tmp_path/f'{k}')
        half()
        def again():
            with Run(folder, MODEL): pass
        code = forked(again, folder, log, k).code
        assert stored(folder) == {k: s for k, s, _ in all_of}
        if code == 0: break
        with Run(folder, MODEL) as run: assert len(run.table) == 4
        assert sorted(tree(folder)) == ['items.parquet', 'results.csv', 'run.json']
    assert k > 5

def test_a_part_whose_rows_were_never_written_is_dropped(tmp_path):
    "Also if the score is made again, with other numbers"
    folder, (first, second, *_) = started(tmp_path/'run'), named_scores()
    with Run(folder, MODEL) as run:
        for o in (first, second): run.add_all([o])
        (folder/'parts'/'0000002.csv').unlink()
        run._join = lambda: None
    assert stored(folder) == {first[0]: first[1]}
    other = (second[0], loss(9., seed=7), second[2])
    with Run(folder, MODEL) as run:
        run.add_all([other])
        assert stored(folder) == {first[0]: first[1], second[0]: other[1]}
    assert stored(folder) == {first[0]: first[1], second[0]: other[1]}

def test_an_error_in_a_run_is_the_one_that_is_raised(tmp_path, monkeypatch):
    "And not that of joining what it stored, which stays"
    folder, all_of = started(tmp_path/'run'), named_scores()
    def full(self): raise PrunebookError('no space')
    monkeypatch.setattr(Run, '_join', full)
    with pytest.raises(KeyboardInterrupt), Run(folder, MODEL) as run:
        run.add_all(all_of[:1])
        raise KeyboardInterrupt
    with pytest.raises(PrunebookError, match='no space'), Run(folder, MODEL) as run: run.add_all(all_of[1:2])
    monkeypatch.undo()
    with Run(folder, MODEL) as run: run.add_all(all_of[2:])
    assert stored(folder) == {k: s for k, s, _ in all_of}

# what is damaged is refused in one line

def refused(f, *args, match=None):
    with pytest.raises(PrunebookError, match=match) as e: f(*args)
    assert '\n' not in str(e.value).strip()

def test_rows_without_items_and_items_that_disagree(tmp_path):
    write(folder := tmp_path/'run')
    row = read_run(folder).iloc[0]
    refused(kept_score, folder, row.replace({row.task: 'other'}), match='has no items')
    table = pd.read_csv(folder/'results.csv', keep_default_na=False)
    table['k'] = table.k.where(table.task != 'quiz', '1')
    table.to_csv(folder/'results.csv', index=False)
    bad = read_run(folder).query('task == "quiz"').iloc[0]
    refused(kept_score, folder, bad, match='do not fit the table')
    pd.DataFrame(dict(a=[1])).to_parquet(folder/'items.parquet')
    refused(kept_score, folder, bad, match='does not exist')
    (folder/'items.parquet').unlink()
    refused(Run(folder, MODEL).__enter__, match='items.parquet')
    (folder/'results.csv').unlink()
    (folder/'results.csv').symlink_to('/dev/zero')
    refused(read_run, folder, match='no plain file')

@pytest.mark.parametrize('name, how', [('0000001.csv', 'cut'), ('0000001.parquet', 'cut'), ('0000001.parquet', 'gone')])
def test_a_damaged_part_is_named(name, how, tmp_path):
    folder = started(tmp_path/'run')
    with Run(folder, MODEL) as run:
        for o in named_scores(3): run.add_all([o])
        run._join = lambda: None
    part = folder/'parts'/name
    if how == 'gone': part.unlink()
    else: part.write_bytes(part.read_bytes()[:99])
    refused(lambda: [kept_score(folder, row) for _, row in read_run(folder).iterrows()], match=name)
    refused(Run(folder, MODEL).__enter__, match=name)

@pytest.mark.parametrize('name', ['record', 'results', 'items'])
def test_damaged_files_give_one_line_or_a_table(tmp_path, name):
    "Never another exception, whatever byte is changed"
    made = fill(Made(tmp_path/'run'), ns=[0, 2, 4])
    path, told = made.root/_FILES[name], 0
    good, rng = path.read_bytes(), random.Random(0)
    for how in ['flip', 'cut', 'insert', 'drop', 'double'] * 12:
        path.write_bytes(spoil(good, [(how, rng.random(), rng.randbytes(3))]))
        try:
            for _, row in read_run(made.root).iloc[:4].iterrows(): kept_score(made.root, row)
        except PrunebookError as e:
            assert '\n' not in str(e)
            told += 1
    assert told > 5

# nothing private is recorded

def test_commands_and_sources_without_local_paths_and_secrets(tmp_path, monkeypatch):
    args = ['sweep', str(tmp_path), f'--out={tmp_path}/o', 'hf_' + 'a' * 30]
    monkeypatch.setattr(sys, 'argv', ['/opt/x/prunebook', *args])
    start = _start_record()
    assert str(tmp_path) not in start['command'] and 'hf_aaa' not in start['command']
    assert start['command'].startswith('prunebook sweep')
    named = {('main', 's', 1, False, 0, 'quiz'): choice(.5)}
    next(iter(named.values())).source = str(tmp_path/'mine.jsonl')
    write(tmp_path/'run', named)
    assert read_run(tmp_path/'run').source[0] == 'mine.jsonl'

# the kept runs

kept = json.loads((Path(__file__).parent/'kept_numbers.json').read_text())

@pytest.mark.parametrize('name', kept)
def test_kept_runs_have_the_numbers_that_they_were_published_with(name):
    "And every row is what its items say"
    table = read_run(results/name)
    assert len(table) == len(kept[name])
    for _, row in table.iterrows():
        value, low, high, k, digest = kept[name][' '.join(str(row[o]) for o in KEYS)]
        score = kept_score(results/name, row)
        assert (row.value, row.low, row.high) == (value, low, high) == (score.value, score.low, score.high)
        assert pd.isna(row.k) and k is None or row.k == k
        body = ([score.sums, score.counts, score.index] if isinstance(score, LossScore) else
                [score.picked, score.answers, score.written])
        assert hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16] == digest
        if row.metric == 'loss': want = ratio_interval(score.sums, score.counts)
        else: want = score.right.mean(), *wilson(score.k, score.n)
        np.testing.assert_allclose([value, low, high], want, rtol=1e-9)
        assert score.n == row['count'] and len((row.layers if isinstance(row.layers, str) else '').split()) == row.n
