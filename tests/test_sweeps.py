"""Sweeps. One that is started again only reads what is there, or is refused; what differs is named; and nothing of
another model is taken."""
import pandas as pd, pytest, torch
from prunebook.core import PrunebookError
from prunebook.evaluation.scores import Score
from prunebook.healing.recipes import OBJECTIVES, HealingConfig, Objective
from prunebook.paper.runs import KEYS, kept_score, read_record
from prunebook.similarity.distances import layer_distances
from prunebook.paper.sweep import SweepConfig, sweep
from support.tiny import Letters, letter_texts, questions, tiny, write_rows

SHORT = dict(steps=2, batch_size=2, max_length=16, rank=2, bits=32)

def model(kind='llama', layers=6, seed=0, **kw):
    "A tiny model whose layers matter"
    return tiny(kind, layers, seed=seed, **dict(initializer_range=.3, max_position_embeddings=256) | kw)

@pytest.fixture
def data(tmp_path):
    "Files for a sweep of a tiny model"
    write_rows(tmp_path/'texts.jsonl', [dict(text=o) for o in letter_texts()])
    write_rows(tmp_path/'others.jsonl', [dict(text=o) for o in letter_texts(seed=3)])
    write_rows(tmp_path/'questions.jsonl', questions(12, seed=1))
    return tmp_path

def config(data, **kw):
    texts = str(data/'texts.jsonl')
    usual = dict(ns=[1, 3], tasks=['c4', 'arc_easy'], sources=dict(c4=texts, arc_easy=str(data/'questions.jsonl')),
                 calibration=texts, healing_texts=str(data/'others.jsonl'), n_calibration=5, n_search=3, max_length=32,
                 healing=SHORT)
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
    assert row.layers == '2 3 4'
    assert row.fraction_layers == .5
    assert 0 < row.fraction_params < .5
    score = kept_score(data/'run', row)
    assert isinstance(score, Score)
    assert score.k == row.k == score.right.sum()
    assert row.source == 'questions.jsonl'
    greedy = {o.n: set(o.layers.split()) for o in table[table.strategy == 'greedy'].itertuples()}
    assert greedy[1] < greedy[3]
    assert not (data/'run'/'work').exists()

def test_the_unpruned_model_is_healed_alike(data):
    "healed_ns with 0: one row a task and seed, of the same recipe, and the model that was given keeps its weights"
    m, c = model(), config(data, strategies=['simple'], ns=[1], healed_ns=[0, 2], seeds=[0, 1])
    before = {k: v.clone() for k, v in m.state_dict().items()}
    t = run(data, c, m=m)
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    base = t[(t.n == 0) & t.healed]
    assert set(base.strategy) == {'none'} and base.layers.isna().all()
    assert sorted(zip(base.task, base.seed)) == [(o, s) for o in ('arc_easy', 'c4') for s in (0, 1)]
    plain = t[(t.n == 0) & ~t.healed & (t.task == 'c4')].value.item()
    assert (base[base.task == 'c4'].value != plain).all()
    about = read_record(data/'run')['sweeps']['main']['healing']
    assert set(about) == {f'{k}-{s}' for k in ('none-0', 'simple-2') for s in (0, 1)}
    assert about['simple-2-0']['history']['step'] == [1, 2]
    assert about['simple-2-0']['tokens'] == about['simple-2-0']['history']['tokens'][-1] > 0
    assert (data/'run'/'adapters'/'main-simple-2-1'/'adapter').is_dir()

def test_run_again_it_only_reads(data, monkeypatch):
    "Also with other batches and memory"
    c = config(data, strategies=['similarity', 'random', 'greedy', 'best_loss'], seeds=[0, 1])
    table = run(data, c)
    for name in ('evaluation.losses.cut_losses', 'evaluation.losses.text_loss', 'evaluation.tasks.evaluate',
                 'similarity.distances.layer_distances'): monkeypatch.setattr(f'prunebook.{name}', None)
    same = c.replace(batch_tokens=64, memory=.5,
                     healing=c.healing.replace(gradient_checkpointing=True, batch_tokens=16))
    for o in (c, same): pd.testing.assert_frame_equal(table, run(data, o))

# or it is refused, and what differs is named

def test_settings_that_were_refused_do_not_bind(data):
    with pytest.raises(PrunebookError, match='max_length=999'): run(data, config(data, max_length=999))
    assert set(run(data, config(data)).n) == {0, 1, 3}

@pytest.mark.parametrize('name, task', [('questions', 'arc_easy'), ('healing', 'healing_texts')])
def test_items_changed_between_stop_and_start(data, name, task):
    "Rows of two question files stood in one table"
    write_rows(data/'healing.jsonl', [dict(text=o) for o in letter_texts(seed=4)])
    run(data, c := config(data, healing_texts=str(data/'healing.jsonl'), healed_ns=[2]))
    rows = questions(7, seed=2) if name == 'questions' else [dict(text=o) for o in letter_texts(5, seed=2)]
    write_rows(data/f'{name}.jsonl', rows)
    with pytest.raises(PrunebookError, match=f'the items of {task} differ'): run(data, c)

def test_a_worker_gets_what_was_registered_here(data):
    class Worker:  # a process of its own has only the library's
        def map(self, function, calls, model, tokenizer, progress):
            OBJECTIVES.pop('mine')
            for i, o in enumerate(calls): yield i, function(model, tokenizer, *o)
    OBJECTIVES.add(Objective('mine', 'of a test', None))
    small = dict(strategies=['simple'], ns=[], healed_ns=[2], tasks=['c4'])
    table = run(data, config(data, healing=HealingConfig(objective='mine', **SHORT), **small), ray=Worker())
    assert OBJECTIVES.pop('mine') and set(table.n) == {0, 2}

def test_another_model_is_refused(data):
    short = model().bfloat16()  # the same weights in both types
    run(data, c := config(data), m=short)
    with pytest.raises(PrunebookError, match='of another model'): run(data, c, m=model(seed=1))
    with pytest.raises(PrunebookError, match='the dtype differ'): run(data, c, m=short.float())

def test_distances_of_another_model_are_refused(data):
    "Of equal depth, only the fingerprint tells. Of another, nothing is written"
    deep = layer_distances(tiny(layers=8), Letters(), letter_texts(), 32, progress=False)
    with pytest.raises(PrunebookError, match='are of 8 layers'): run(data, config(data), distances=deep)
    assert not (data/'run').exists()
    other = layer_distances(model(seed=1), Letters(), letter_texts(), 32, progress=False)
    assert other.depth == 6
    with pytest.raises(PrunebookError, match='another model'): run(data, config(data), distances=other)
    own = layer_distances(model(), Letters(), letter_texts(20, seed=4), 32, progress=False)
    run(data, config(data), distances=own)
    run(data, config(data))  # the run has them now
    with pytest.raises(PrunebookError, match='other distances'):
        run(data, config(data), distances=layer_distances(model(), Letters(), letter_texts(), 32, progress=False))

@pytest.mark.parametrize('said, changes, ns', [
    ('257', dict(max_length=257), [2]), ('one batch of 99', dict(batch_size=99), [2]),
    (r"targets \['up'\]", dict(targets=['up']), [2]), ('healing.seed=7', dict(seed=7), [2]),
    ('which layers', dict(adapt='near_cut'), [0, 2])])
def test_recipes_that_cannot_work_are_refused_before_the_first_row(data, said, changes, ns):
    with pytest.raises(PrunebookError, match=said): run(data, config(data, healed_ns=ns, healing=SHORT | changes))
    assert not (data/'run').exists()

def test_what_two_rows_would_be_called_alike_is_refused(data):
    "And sources of no task, and ways of asking that cannot be"
    (data/'b').mkdir()
    both = [str(write_rows(o/'questions.jsonl', questions(12))) for o in (data, data/'b')]
    for says, changes in {'one name': dict(tasks=both), 'sources names': dict(sources={'arc_easy:shots=0': both[0]}),
                          'new_tokens': dict(scoring=dict(max_new_tokens=0)),
                          'chat': dict(scoring=dict(chat=1))}.items():
        with pytest.raises(PrunebookError, match=says): config(data, **changes)
    assert config(data, scoring=dict(examples='arc_easy', shots=1)).scoring  # none for texts
    with pytest.raises(PrunebookError, match='no chat template'): run(data, config(data, scoring=dict(chat=True)))
    assert not (data/'run').exists()

def test_a_whole_sweep_that_is_started_again_changes_no_byte(data):
    c = config(data)
    run(data, c)
    before = {o.name: o.read_bytes() for o in (data/'run').iterdir() if o.is_file()}
    assert len(read_record(data/'run')['sweeps']['main']['starts']) == 1
    run(data, c)
    assert before == {o.name: o.read_bytes() for o in (data/'run').iterdir() if o.is_file()}

def test_texts_that_are_healed_on_do_not_judge_and_a_size_named_twice_is_one(data):
    c = config(data, healed_ns=[2, 2], ns=[1, 1])
    assert (c.healed_ns, c.ns) == ([2], [1])
    with pytest.raises(PrunebookError, match='some of its texts are healed on'):
        run(data, config(data, healed_ns=[2], healing_texts=str(data/'texts.jsonl')))
