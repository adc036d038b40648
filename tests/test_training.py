"Rows, losses, the quiet Trainer and its checkpoints."
import os, random, sys
from types import SimpleNamespace
import numpy as np, pytest, torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from prunebook import PrunebookError, prune_model
from prunebook.healing.packing import attend_by_document, documents_isolated
from prunebook.core import read_json
from prunebook.model.stack import LayerStack
from prunebook.healing.packing import _row_order, collate, training_rows
from prunebook.healing.trainer import (CausalLMLoss, _DivergenceWatch, _MarkWhole, make_trainer, on_first,
                                       preserve_global_state, whole_checkpoint)
from support.kills import audit_syncs
from support.healing import SMALL, run, texts, tiny, tokenizer

CHUNKS = SMALL.replace(packing='chunk', max_length=40, steps=1, batch_size=2)


# Rows

def test_chunks_hold_every_token_once():
    o = training_rows(tokenizer(), texts(), CHUNKS)
    ends = np.flatnonzero(o.flat == 2) + 1
    docs = {' '.join(tokenizer().convert_ids_to_tokens(t)) for t in np.split(o.flat, ends)[:-1]}
    assert docs == {f'{t} </s>' for t in texts()}
    assert (o.pos[o.ends[:-1]] == 0).all() and o.pos.max() < 40


def test_a_chunk_begins_with_bos_if_the_tokenizer_begins_texts_with_it():
    plain, o = (training_rows(tokenizer(bos), texts(), CHUNKS) for bos in (False, True))
    assert not (plain.flat[plain.ends[:-1]] == 1).any()
    assert (o.flat[o.ends[:-1]] == 1).all() and (o.lengths == 40).all()
    begins = np.flatnonzero(o.flat[:o.ends[-1]] == 1)
    assert (o.pos[begins] == 0).all() and (o.flat[np.flatnonzero(o.pos[:o.ends[-1]] == 0)] == 1).all()
    changed = o.flat != np.concatenate([np.asarray(t) for t in _stream(True)])
    assert set(np.flatnonzero(changed)) <= set(o.ends[:-1]), 'no other token is written over'
    batch = collate([o[0], o[1]], packed=True)
    assert torch.equal(batch['labels'] == -100, batch['position_ids'] == 0)
    assert (batch['input_ids'][batch['position_ids'] == 0] == 1).all(), 'BOS is never a label'


def _stream(bos):
    "The documents in the order of the chunks, each with EOS"
    docs = [[*o, 2] for o in tokenizer(bos)(texts())['input_ids']]
    random.Random(CHUNKS.seed).shuffle(docs)
    return docs


def test_order_has_every_row_once_a_pass():
    order = _row_order(np.arange(1, 11), steps=4, batch_size=5, seed=3)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert all((np.diff(o) < 0).all() for o in order.reshape(4, 5)), 'the longest rows of a step come first'


@pytest.mark.parametrize('by_document', [False, True])
@pytest.mark.parametrize('kind', ['llama', 'gpt2', 'gemma3_text', 'gpt_neox'])
@torch.no_grad()
def test_documents_of_a_chunk_do_not_mix(kind, by_document):
    "Hidden states of packed documents are those of the documents alone"
    model, alone = tiny(kind), LayerStack(tiny(kind))
    stack = LayerStack(model)
    assert documents_isolated(stack)
    rows = training_rows(tokenizer(), texts(), CHUNKS)
    batch = collate([rows[0], rows[1]], packed=True)
    if by_document: assert attend_by_document(stack, 40)
    starts = [*(batch['position_ids'][0] == 0).nonzero().flatten().tolist(), 40]
    assert len(starts) > 3
    packed = stack.body(batch['input_ids'], position_ids=batch['position_ids']).last_hidden_state[0]
    for a, b in zip(starts, starts[1:]):
        assert torch.allclose(packed[a:b], alone.body(batch['input_ids'][:1, a:b]).last_hidden_state[0], atol=1e-5)


# The loss

@pytest.mark.parametrize('kind', ['llama', 'gemma2', 'gpt2', 'falcon'])
@pytest.mark.parametrize('size', [5, 64])
def test_the_loss_is_the_models_own_however_large_a_piece(kind, size):
    model = tiny(kind)
    rows = training_rows(tokenizer(), texts(), SMALL)
    batch = collate([rows[i] for i in range(4)])
    got = CausalLMLoss(model, LayerStack(model), size=size)(**batch)['loss']
    assert got.item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)


# Nothing outside is changed

def test_leaves_the_world_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pruned = prune_model(tiny(), [2])
    def draws(): return torch.rand(2), np.random.rand(2), random.random()
    def seed():
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
    seed()
    want = draws()
    seed()
    env = dict(os.environ)
    run(pruned)
    got = draws()
    assert torch.equal(got[0], want[0]) and np.array_equal(got[1], want[1]) and got[2] == want[2]
    assert env == dict(os.environ) and not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().out == ''


@pytest.mark.parametrize('env', [dict(RANK='1'), dict(RANK=''), dict(RANK='1', LOCAL_RANK='1', WORLD_SIZE='1'),
                                 dict(RANK='1', ACCELERATE_USE_FSDP='true', FSDP_VERSION='2')])
def test_a_stray_rank_is_a_single_process(env, tmp_path, monkeypatch):
    for k, v in env.items(): monkeypatch.setenv(k, v)
    assert on_first(lambda: 3) == 3
    result = run(prune_model(tiny(), [2]), SMALL.replace(steps=2), out=tmp_path/'out')
    assert (tmp_path/'out'/'adapter'/'adapter_model.safetensors').exists() and len(result.history) == 2
    with preserve_global_state(): assert 'RANK' not in os.environ
    assert {k: os.environ[k] for k in env} == env


# Checkpoints

def made_checkpoints(folder):
    for step in (1, 2, 10):
        (here := folder/f'checkpoint-{step}').mkdir()
        (here/'weights.safetensors').write_text(f'weights of step {step}')
        (here/'optimizer.safetensors').write_text(f'state of step {step}')
        _MarkWhole().mark(here)
    return folder


DAMAGES = ['empty', 'shorter', 'other bytes', 'gone', 'unmarked', 'empty mark', 'mark is no JSON']


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    last = made_checkpoints(tmp_path)/'checkpoint-10'
    assert whole_checkpoint(tmp_path) == last
    file, mark = last/'weights.safetensors', last/'whole.json'
    if damage == 'empty': file.write_text('')
    if damage == 'shorter': file.write_text(file.read_text()[:-1])
    if damage == 'other bytes': file.write_text('Weights of step 10')
    if damage == 'gone': file.unlink()
    if damage == 'unmarked': mark.unlink()
    if damage == 'empty mark': mark.write_text('')
    if damage == 'mark is no JSON': mark.write_text('{')
    assert whole_checkpoint(tmp_path).name == 'checkpoint-2' and not last.exists()


def test_a_checkpoint_is_on_the_disk_before_it_is_marked(tmp_path, monkeypatch):
    "fsync of every file comes before the mark appears"
    seen, on = [], [True]
    def hook(event, args):
        if on[0] and event in ('sync', 'os.rename'): seen.append((event, os.path.basename(str(args[0]))))
    monkeypatch.setattr(os, 'fsync', os.fsync)
    audit_syncs()
    sys.addaudithook(hook)
    folder = made_checkpoints(tmp_path)/'checkpoint-2'
    on[0] = False
    synced = [name for event, name in seen[:seen.index(('os.rename', '.whole.json.tmp'))] if event == 'sync']
    assert {'weights.safetensors', 'optimizer.safetensors', 'checkpoint-1'} <= set(synced)
    assert set(read_json(folder/'whole.json')) == {'weights.safetensors', 'optimizer.safetensors'}


# Watching the loss

CURVES = [
    ([4.6] + [26.] * 25, True), ([4.6] * 10 + [7.] * 15, True),  # grows at once, or slowly
    ([20.] * 3 + [9.] * 25, False), ([1.5] + [3.3] * 25, False),  # starts above guessing; starts on an easy document
    ([2.] + [12.5 - .1 * i for i in range(60)], False)]           # both, and falls


@pytest.mark.parametrize('curve, stops', CURVES)
def test_a_loss_that_grows_stops(curve, stops):
    watch, state = _DivergenceWatch(99), TrainerState()
    args = TrainingArguments('out', save_strategy='no')
    def go():
        for i, v in enumerate(curve):
            state.log_history.append(dict(loss=v))
            state.global_step = i + 1
            watch.on_log(args, state, TrainerControl(), logs=dict(loss=v))
    if not stops: return go()
    with pytest.raises(PrunebookError, match='diverges'): go()


def test_a_batch_must_divide_among_processes(monkeypatch, tmp_path):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(PrunebookError, match='batch_size=3 is not a multiple of 2 processes'):
        make_trainer(None, None, SimpleNamespace(batch_size=3), tmp_path, None)
