"Rows, and the quiet Trainer."
import os, random
import numpy as np, pytest, torch
from prunebook import HealingConfig, PrunebookError, prune_model
from prunebook.healing.packing import attend_by_document, collate, documents_isolated, training_rows
from prunebook.core import on_first
from prunebook.healing.trainer import preserve_global_state
from prunebook.model.stack import LayerStack
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
    batch = collate([o[0], o[1]], packed=True)
    assert torch.equal(batch['labels'] == -100, batch['position_ids'] == 0)
    assert (batch['input_ids'][batch['position_ids'] == 0] == 1).all(), 'BOS is never a label'

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

def test_two_models_in_one_process_keep_their_own_documents():
    "The backward pass of one, which runs its layers again, after a forward pass of the other"
    rows = training_rows(tokenizer(), texts(), CHUNKS)
    mine, other = (collate([rows[i], rows[j]], packed=True) for i, j in ((0, 1), (1, 0)))
    ours = dict(input_ids=mine['input_ids'], position_ids=mine['position_ids'])
    theirs = dict(input_ids=other['input_ids'], position_ids=other['position_ids'])
    def gradient(between):
        model, guide = tiny().train(), tiny()
        for o in (model, guide): assert attend_by_document(o, 40)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        loss = model(**ours, labels=mine['labels']).loss
        if between: guide(**theirs)
        loss.backward()
        return model.get_input_embeddings().weight.grad
    assert torch.equal(gradient(False), gradient(True))

# Nothing outside is changed

def test_leaves_the_world_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pruned, env = prune_model(tiny(), [2]), dict(os.environ)
    def draws(heals):
        "What comes after a seed, and after a healing or not"
        for o in (torch.manual_seed, np.random.seed, random.seed): o(5)
        if heals: run(pruned)
        return *torch.rand(2).tolist(), *np.random.rand(2), random.random()
    assert draws(True) == draws(False)
    assert env == dict(os.environ) and not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().out == ''

@pytest.mark.parametrize('env', [dict(RANK=''), dict(RANK='1', ACCELERATE_USE_FSDP='true', FSDP_VERSION='2')])
def test_a_stray_rank_is_a_single_process(env, tmp_path, monkeypatch):
    for k, v in env.items(): monkeypatch.setenv(k, v)
    assert on_first(lambda: 3) == 3
    result = run(prune_model(tiny(), [2]), SMALL.replace(steps=2), out=tmp_path/'out')
    assert (tmp_path/'out'/'adapter'/'adapter_model.safetensors').exists() and len(result.history) == 2
    with preserve_global_state(): assert 'RANK' not in os.environ
    assert {k: os.environ[k] for k in env} == env

def test_a_batch_must_divide_among_processes(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(PrunebookError, match='batch_size=3 is not a multiple of 2 processes'):
        HealingConfig(batch_size=3).check_start(None)
