"""Sweeps. A stopped sweep ends as if it had not been stopped, or is refused; what differs is named; nothing of another
model is taken; and strategies and tasks come from their registries."""
import json
import random
from dataclasses import asdict
import numpy as np
import pandas as pd
import pytest
import torch
from prunebook.core import PrunebookError
from prunebook.data.questions import load_questions
from prunebook.evaluation.scores import Score
from prunebook.evaluation.tasks import TASKS, GeneratedTask, LossTask
from prunebook.healing.recipes import HealingConfig
from prunebook.pruning.strategies import STRATEGIES, Strategy
from prunebook.paper.runs import KEYS, kept_score, read_record, read_run
from prunebook.similarity.distances import layer_distances
from prunebook.paper.sweep import SweepConfig, kept_config, _questions_of, _task_of
from prunebook.paper.sweep import sweep
from support.tiny import Letters, letter_texts, letter_tokenizer, tiny

COLUMNS = [*KEYS, 'metric', 'value', 'low', 'high', 'k', 'count', 'layers']
SHORT = dict(steps=2, batch_size=2, max_length=16, rank=2, bits=32)


def model(kind='llama', layers=6, seed=0, **kw):
    "A tiny model whose layers matter"
    return tiny(kind, layers, seed=seed, **dict(initializer_range=.3, max_position_embeddings=256) | kw)


def questions(n=12, seed=1):
    r = random.Random(seed)
    make = lambda: [r.choice('abc') * r.randrange(1, 4) + str(j) for j in range(4)]
    return [dict(question=f'What is {r.randrange(99)}', choices=make(), answer=r.randrange(4)) for _ in range(n)]


def write(path, rows): path.write_text(''.join(json.dumps(o) + '\n' for o in rows))


@pytest.fixture
def data(tmp_path):
    "Files for a sweep of a tiny model"
    write(tmp_path/'texts.jsonl', [dict(text=o) for o in letter_texts()])
    write(tmp_path/'questions.jsonl', questions())
    return tmp_path


def config(data, **kw):
    texts = str(data/'texts.jsonl')
    usual = dict(ns=[1, 3], tasks=['c4', 'arc_easy'], sources=dict(c4=texts, arc_easy=str(data/'questions.jsonl')),
                 calibration=texts, healing_texts=texts, n_calibration=5, n_search=3, max_length=32)
    return SweepConfig(**usual | kw)


def run(data, c, out='run', m=None, tokenizer=None, **kw):
    return sweep(m or model(), tokenizer or Letters(), c, data/out, progress=False, **kw)


# the table

def test_a_row_for_every_model_and_task(data):
    names = ['similarity', 'simple', 'random', 'greedy', 'block_influence', 'best_loss']
    table = run(data, config(data, strategies=names, seeds=[0, 1]))
    assert len(table) == 2 + (5 + 2) * 2 * 2 and not table.duplicated(KEYS).any()
    assert ((table.low <= table.value) & (table.value <= table.high)).all()
    row = table[(table.strategy == 'simple') & (table.n == 3) & (table.task == 'arc_easy')].iloc[0]
    assert row.layers == '2 3 4' and row.fraction_layers == .5 and 0 < row.fraction_params < .5
    score = kept_score(data/'run', row)
    assert isinstance(score, Score) and score.k == row.k == score.right.sum() and row.source == 'questions.jsonl'
    greedy = {o.n: set(o.layers.split()) for o in table[table.strategy == 'greedy'].itertuples()}
    assert greedy[1] < greedy[3]
    best = table[(table.task == 'c4') & (table.n == 1) & (table.strategy == 'best_loss')].value.item()
    assert best <= table[(table.task == 'c4') & (table.n == 1)].value.max()
    assert not (data/'run'/'work').exists()


def test_questions_by_task_and_examples(data):
    q = str(data/'questions.jsonl')
    c = config(data, strategies=['simple'], ns=[1], tasks=['arc_easy', 'piqa'], n_questions=dict(arc_easy=3))
    c = c.replace(sources=c.sources | dict(piqa=q), scoring=dict(shots=2, seed=1))
    table = run(data, c)
    counts = table.groupby('task')['count'].unique().map(list).to_dict()
    assert counts == dict(arc_easy=[3], piqa=[len(load_questions(q))])
    assert set(read_run(data/'run').shots) == {2} and set(read_run(data/'run').shots_seed) == {1}
    assert _questions_of(c, 'arc_easy') == 3 and _task_of(c, 'piqa').shots == 2
    c.save(data/'c.json')
    assert SweepConfig.load(data/'c.json') == c


def test_healed_rows_have_curves_and_adapters(data):
    c = config(data, strategies=['simple'], ns=[], healed_ns=[2], tasks=['c4'], seeds=[0, 1], healing=SHORT)
    table = run(data, c)
    assert list(table.healed) == [False, True, True] and list(table.seed) == [0, 0, 1]
    about = read_record(data/'run')['sweeps']['main']['healing']
    assert set(about) == {'simple-2-0', 'simple-2-1'} and about['simple-2-0']['history']['step'] == [1, 2]
    assert about['simple-2-0']['tokens'] == about['simple-2-0']['history']['tokens'][-1] > 0
    for seed in (0, 1): assert (data/'run'/'adapters'/f'main-simple-2-{seed}'/'adapter').is_dir()


def test_what_another_sweep_has_is_copied(data, registries):
    "Losses of the same unhealed models; no healed model's, and no written answers"
    rows = [dict(question=f'{i}', answer=str(i + 1)) for i in range(4)]
    TASKS.add(GeneratedTask('next', 'Next number', rows, max_new_tokens=4))
    c = config(data, strategies=['simple'], ns=[], healed_ns=[2], tasks=['c4', 'next'], healing=SHORT)
    first = run(data, c, tokenizer=letter_tokenizer(), name='a')
    second = run(data, c.replace(ns=[2], healed_ns=[]), tokenizer=letter_tokenizer(), name='b')
    copied = second[second.seconds == 0][['strategy', 'task']].values.tolist()
    assert copied == [['none', 'c4']] and len(second) == 4
    loss = lambda t: t[(t.task == 'c4') & (t.n == 2)].value.item()
    assert loss(first) != loss(second)
    third = run(data, c.replace(ns=[1, 2], healed_ns=[]), tokenizer=letter_tokenizer(), name='c')
    assert (third.seconds == 0).sum() == 2 and loss(third) == loss(second)


# a stopped sweep ends as if it had not been stopped

def test_the_unpruned_model_is_healed_alike(data):
    "healed_ns with 0: one row a task and seed, of the same recipe, and the model that was given keeps its weights"
    m, c = model(), config(data, strategies=['simple'], ns=[1], healed_ns=[0, 2], seeds=[0, 1], healing=SHORT)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    t = run(data, c, m=m)
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    base = t[(t.n == 0) & t.healed]
    assert set(base.strategy) == {'none'} and base.layers.isna().all()
    assert sorted(zip(base.task, base.seed)) == [(o, s) for o in ('arc_easy', 'c4') for s in (0, 1)]
    plain = t[(t.n == 0) & ~t.healed & (t.task == 'c4')].value.item()
    assert (base[base.task == 'c4'].value != plain).all()
    assert set(read_record(data/'run')['sweeps']['main']['healing']) == {
        f'{k}-{s}' for k in ('none-0', 'simple-2') for s in (0, 1)}


def test_run_again_it_only_reads(data, monkeypatch):
    "Also with other batches, memory and folder"
    c = config(data, strategies=['similarity', 'random', 'greedy', 'best_loss'], seeds=[0, 1])
    table = run(data, c)
    for name in ('evaluation.losses.cut_losses', 'evaluation.losses.text_loss', 'paper.sweep.evaluate',
                 'paper.sweep.layer_distances'): monkeypatch.setattr(f'prunebook.{name}', None)
    same = c.replace(batch_tokens=64, memory=.5, data_dir=str(data))
    same.healing = c.healing.replace(gradient_checkpointing=True, batch_tokens=16)
    for o in (c, same): pd.testing.assert_frame_equal(table, run(data, o))


@pytest.mark.thorough
@pytest.mark.parametrize('healed_ns, step', [([], 2), ([1], 8)], ids=['unhealed', 'healed'])
def test_stopped_at_any_write(data, monkeypatch, healed_ns, step):
    c = config(data, strategies=['similarity', 'greedy'], healed_ns=healed_ns, healing=SHORT)
    whole = run(data, c, 'whole')[COLUMNS].sort_values(KEYS).reset_index(drop=True)
    import prunebook.paper.runs as runs
    real, writes = runs.atomic_write, []
    monkeypatch.setattr(runs, 'atomic_write', lambda *a: writes.append(1) or real(*a))
    run(data, c, 'counted')
    for stop in range(1, len(writes), step):
        left = iter(range(stop))

        def stopped(*args):
            if next(left, None) is None: raise KeyboardInterrupt
            real(*args)
        monkeypatch.setattr(runs, 'atomic_write', stopped)
        with pytest.raises(KeyboardInterrupt): run(data, c, f'stopped{stop}')
        monkeypatch.setattr(runs, 'atomic_write', real)
        again = run(data, c, f'stopped{stop}')[COLUMNS].sort_values(KEYS).reset_index(drop=True)
        pd.testing.assert_frame_equal(again, whole)


def test_stopped_and_gone_on_with_other_batches(data, monkeypatch):
    "In the middle of the losses: what is done stays, and is not run again"
    import prunebook.evaluation.losses as losses
    c, real, left, read = config(data, batch_tokens=40), losses._batch_losses, iter(range(2)), []
    whole = run(data, c, 'whole')

    def interrupted(*args):
        if next(left, None) is None: raise KeyboardInterrupt
        return real(*args)

    def counted(*args):
        if len(args[2] or ()) > 1: read.extend(args[3])
        return real(*args)
    monkeypatch.setattr(losses, '_batch_losses', interrupted)
    with pytest.raises(KeyboardInterrupt): run(data, c, 'stopped')
    assert (data/'stopped'/'work'/'main'/'c4.partial').exists()
    monkeypatch.setattr(losses, '_batch_losses', counted)
    again = run(data, c.replace(batch_tokens=4096, memory=2., data_dir=str(data)), 'stopped')
    assert 0 < len(read) < len(letter_texts())
    numbers = ['value', 'low', 'high']
    exact = [o for o in COLUMNS if o not in numbers]
    pd.testing.assert_frame_equal(whole[exact], again[exact])
    np.testing.assert_allclose(whole[numbers], again[numbers], rtol=1e-5)


# or it is refused, and what differs is named

def test_other_settings_are_refused(data):
    run(data, c := config(data))
    for changes, said in ((dict(ns=[1]), 'ns differ'), (dict(healing=c.healing.replace(rank=3)), 'healing'),
                          (dict(n_texts=3), 'n_texts'), (dict(scoring=dict(shots=1)), 'scoring')):
        with pytest.raises(PrunebookError, match=said): run(data, c.replace(**changes))


def test_a_record_of_a_version_that_knew_fewer_settings(data):
    table = run(data, c := config(data))
    path = data/'run'/'run.json'
    record = json.loads(path.read_text())
    kept = record['sweeps']['main']['config']
    del kept['memory'], kept['healing']['gradient_checkpointing'], kept['healing']['batch_tokens']
    kept['healing']['micro_batch'] = 1
    path.write_text(json.dumps(record))
    pd.testing.assert_frame_equal(table, run(data, c))


@pytest.mark.parametrize('name', ['questions', 'texts'])
def test_items_changed_between_stop_and_start(data, name):
    "Rows of two question files stood in one table"
    write(data/'own.jsonl', [dict(text=o) for o in letter_texts()])
    run(data, c := config(data, calibration=str(data/'own.jsonl')))
    rows = questions(7, seed=2) if name == 'questions' else [dict(text=o) for o in letter_texts(5, seed=2)]
    write(data/f'{name}.jsonl', rows)
    task = 'arc_easy' if name == 'questions' else 'c4'
    with pytest.raises(PrunebookError, match=f'the items of {task} differ'): run(data, c)


def test_another_model_is_refused(data):
    short = model().bfloat16()  # the same weights in both types
    run(data, c := config(data), m=short)
    with pytest.raises(PrunebookError, match='of another model'): run(data, c, m=model(seed=1))
    with pytest.raises(PrunebookError, match='the dtype differ'): run(data, c, m=short.float())


def test_distances_of_another_model_are_refused(data):
    "Of equal depth: only the fingerprint tells"
    other = layer_distances(model(seed=1), Letters(), letter_texts(), 32, progress=False)
    assert other.depth == 6
    with pytest.raises(PrunebookError, match='another model'): run(data, config(data), distances=other)
    own = layer_distances(model(), Letters(), letter_texts(20, seed=4), 32, progress=False)
    run(data, config(data), distances=own)
    run(data, config(data))  # the run has them now
    with pytest.raises(PrunebookError, match='other distances'):
        run(data, config(data), distances=layer_distances(model(), Letters(), letter_texts(), 32, progress=False))


def test_refused_before_the_first_row(data):
    m, quantised = model(), model()
    m.config._name_or_path, quantised.is_quantized = str(data), True
    lacking = dict(healed_ns=[1], healing=SHORT, healing_texts=str(data/'none.txt'))
    (data/'own').mkdir()
    (data/'own'/'mine').touch()
    for said, kw, changes in (
            ('quantised', dict(m=quantised), dict(healed_ns=[2])), ('drop from 1 to 5', {}, dict(ns=[6])),
            ('only read', dict(m=m), {}), ('only read', dict(m=m, out='.'), {}), ('none.txt', {}, lacking),
            ('a sweep has a name', dict(name='../x'), {}), ('a sweep has a name', dict(name=''), {}),
            ('is a file', dict(out='own/mine'), {}), ('is no run: it holds mine', dict(out='own'), {})):
        with pytest.raises(PrunebookError, match=said): run(data, config(data, **changes), **kw)
    assert not (data/'run').exists()


@pytest.mark.parametrize('wrong', [
    dict(strategies=['simlarity']), dict(strategies=[]), dict(ns=[0]), dict(ns=[True]), dict(ns='x'), dict(ns={}),
    dict(task_ns=dict(piqa=[1])), dict(task_ns=[1]), dict(tasks=[3]), dict(tasks=['trivia']), dict(tasks=['c4', 'c4']),
    dict(n_questions=dict(c5=3)), dict(n_questions=dict(arc_easy=0)), dict(n_questions=True), dict(n_texts=0),
    dict(memory=0), dict(max_length=1), dict(healing=3), dict(healing=dict(stepps=3)), dict(scoring=dict(shot=3)),
    dict(sources=dict(c4=3)), dict(seeds=[-1])], ids=str)
def test_wrong_settings(wrong):
    with pytest.raises(PrunebookError): SweepConfig(**wrong)


# nothing private, nothing infinite in the way

def test_no_local_path_and_an_infinite_interval(data):
    "Of a single document"
    c = config(data, n_texts=1, tasks=['c4'], strategies=['simple'], data_dir=str(data))
    table = run(data, c)
    assert np.isinf(table.low).all() and kept_score(data/'run', table.iloc[0]).high == np.inf
    pd.testing.assert_frame_equal(table, run(data, c))
    assert str(data) not in (data/'run'/'run.json').read_text() + (data/'run'/'results.csv').read_text()


# strategies and tasks come from their registries

@pytest.fixture
def registries():
    "The registries as they were, afterwards"
    was = dict(STRATEGIES), dict(TASKS)
    yield
    for registry, old in zip((STRATEGIES, TASKS), was):
        registry.clear()
        registry.update(old)


def test_a_strategy_of_the_readers_own(data, registries):
    "One that needs distances, one that is seeded, one that is nested and needs the loss"
    def luck(n, depth, seed=0): return sorted(random.Random(seed).sample(range(depth), n))

    def by_loss(n, depth, model, loss):
        from prunebook.pruning.strategies import Plan
        order = sorted(range(depth), key=lambda i: (i % 2, i))
        assert loss(model) > 0
        return Plan(tuple(order[:n]), depth, 'even', dict(order=order[:n]))
    def far(n, depth, distances): return list(distances.ranked(n)[-1])
    STRATEGIES.add(Strategy('far', far, 'the worst block', needs=('distances',)))
    STRATEGIES.add(Strategy('luck', luck, 'any layers', options=dict(seed=0)))
    STRATEGIES.add(Strategy('even', by_loss, 'even layers', needs=('model', 'loss'), nested=True))
    table = run(data, config(data, strategies=['far', 'luck', 'even'], seeds=[3, 4], tasks=['c4']))
    assert table[table.strategy == 'even'].layers.tolist() == ['0', '0 2 4']
    assert len(table[table.strategy == 'luck']) == 4 and (data/'run'/'distances.safetensors').exists()


def test_a_task_of_the_readers_own(data, registries):
    rows = [dict(question=f'{i} and one', answer=str(i + 1)) for i in range(4)]
    TASKS.add(GeneratedTask('next', 'Next number', rows, max_new_tokens=4))
    TASKS.add(LossTask('mine', 'My texts', letter_texts(4, seed=9)))
    c = config(data, strategies=['simple'], ns=[2], tasks=['next', 'mine'])
    table = run(data, c, tokenizer=letter_tokenizer())
    found = table[['task', 'metric', 'count']].drop_duplicates().values.tolist()
    assert found == [['mine', 'loss', 4], ['next', 'generated', 4]]


# the kept runs can be made again

@pytest.mark.parametrize('name', ['healed', 'similarity', 'tokens-5k', 'shots-5-order-1', 'sums-healed'])
def test_kept_configs_load(name):
    from pathlib import Path
    folder = Path(__file__).parents[1]/'nbs'/'results'/'demo'
    c, rows = kept_config(folder, name), read_run(folder).query('sweep == @name')
    assert isinstance(c.healing, HealingConfig) and SweepConfig(**asdict(c)) == c
    assert set(c.tasks) == set(rows.task)
    for t in c.tasks: assert set(rows[rows.task == t].metric) == {_task_of(c, t).metric}, t
    for t in c.tasks: assert set(rows[rows.task == t].shots) == {_task_of(c, t).shots}, t
