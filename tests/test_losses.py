"""Losses of many pruned models. Sharing prefixes changes nothing but the time; a loss map says what single models say;
and the comparison with distances is not flattered by its own choice."""
import numpy as np, pytest, torch
from prunebook.core import PrunebookError
from prunebook.evaluation.losses import cut_losses, judge_distances, loss_map, text_loss
from prunebook.similarity.distances import layer_distances
from prunebook.model.stack import Block, LayerStack
from support.tiny import Letters, letter_texts, letter_tokenizer, tiny

DEPTH, texts = 6, letter_texts()
KINDS = {k: {} for k in ('llama', 'qwen3', 'gpt_neox', 'gpt2', 'phi', 'opt', 'falcon', 'mixtral', 'gemma3')}
KINDS['gemma3_text'] = dict(sliding_window=6, final_logit_softcapping=5.)

def spread(kind='llama', **kw):
    "A tiny model whose layers matter, so that equality says something"
    return tiny(kind, DEPTH, initializer_range=.3, **KINDS[kind] | kw)

def all_cuts():
    "Every block, and three cuts that are none"
    blocks = [list(Block(l, n)) for n in range(1, DEPTH) for l in range(DEPTH - n + 1)]
    return [[l for l in range(DEPTH) if l not in c] for c in [[], *blocks, [0, 2], [1, 3], [2, 4]]]

def losses_of(model, keeps, **kw):
    return cut_losses(model, Letters(), texts, keeps, **dict(max_length=32, progress=False) | kw)

def test_the_bytes_of_a_text_are_its_own_where_a_tokenizer_tidies_up():
    "Some decode 'a , b .' as 'a, b.', and then the bits per byte would be of a shorter text"
    tok, text = letter_tokenizer(), ['Yes , it is . Or not ?']
    tok.clean_up_tokenization_spaces = True
    assert len(tok.decode(tok(text[0])['input_ids'])) < len(text[0])
    assert text_loss(tiny(), tok, text, progress=False).n_bytes == len(text[0]) - 1  # the first token is given

# sharing changes nothing but the time

@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_shared_equals_plain_equals_transformers(kind):
    ids = [torch.tensor([Letters()(o)['input_ids'][:32]]) for o in texts]
    model, before, keeps = spread(kind), spread(kind).state_dict(), all_cuts()
    stack, config = LayerStack(model), model.config.to_json_string()
    shared = losses_of(model, keeps, batch_tokens=64)
    for k, s in zip(keeps, shared):
        with stack.view(k) as small:
            plain = text_loss(small, Letters(), texts, max_length=32, batch_tokens=64, progress=False)
            want = [float(small(o, labels=o).loss) * (o.shape[1] - 1) for o in ids]
        np.testing.assert_allclose(plain.sums, want, rtol=1e-4)
        np.testing.assert_allclose(s.sums, plain.sums, rtol=2e-5)
        assert (s.counts, s.index, s.items) == (plain.counts, plain.index, plain.items)
        assert s.counts == [o.shape[1] - 1 for o in ids]
    assert len({round(s.value, 4) for s in shared}) > len(keeps) // 2
    assert model.config.to_json_string() == config
    for k, v in model.state_dict().items(): assert torch.equal(v, before[k])
    assert not any('forward' in m.__dict__ for m in model.modules())

def test_a_state_beside_the_stream_is_refused():
    "What layer 0 computes is added once more at layer 4, so a pass cannot start at layers 1 to 4"
    model, beside = spread(), []
    model.model.embed_tokens.register_forward_hook(lambda *_: beside.clear())
    model.model.layers[0].mlp.register_forward_hook(lambda m, args, out: beside.append(out))
    model.model.layers[4].register_forward_pre_hook(lambda m, args: (args[0] + sum(beside),))
    with pytest.raises(PrunebookError, match='cannot start in the middle'): losses_of(model, [range(6), [0, 1, 3, 4]])
    assert losses_of(model, [[*range(6)], [0, 1, 2, 3, 4]]) and losses_of(model, [[0, 1, 3, 4]])

@pytest.mark.parametrize('kw', [dict(memory=1e-9), dict(batch_tokens=32), dict(batch_tokens=10**4)], ids=str)
def test_memory_and_batches_change_no_loss(kw):
    keeps = [list(range(6)), [0, 1, 5], [0, 1, 2, 5]]
    for s, t in zip(losses_of(spread(), keeps), losses_of(spread(), keeps, **kw)):
        np.testing.assert_allclose(s.sums, t.sums, rtol=1e-5)

def test_a_stopped_call_goes_on(tmp_path, monkeypatch):
    "What was done is not run again"
    import prunebook.evaluation.losses as losses
    model, keeps, partial, real, ran = spread(), [[0, 1], [0, 1, 2, 5]], tmp_path/'partial', losses._batch_losses, []
    whole = losses_of(model, keeps, batch_tokens=40)
    def stops(*args):
        ran.append(args[2].rows)
        if len(ran) == 3: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(losses, '_batch_losses', stops)
    with pytest.raises(KeyboardInterrupt): losses_of(model, keeps, batch_tokens=40, partial=partial)
    again = losses_of(model, keeps, batch_tokens=40, partial=partial)
    assert [s.sums for s in whole] == [s.sums for s in again] and sum(map(len, ran[:2] + ran[3:])) == len(texts)
    assert losses_of(model, keeps[:1], partial=partial)[0].n == len(texts)  # another question: the file is not used
    partial.write_bytes(b'{}')
    with pytest.raises(PrunebookError, match='is damaged'): losses_of(model, keeps, partial=partial)

# distance against loss

def test_map_and_distances_of_two_models_are_refused():
    losses = loss_map(spread(), Letters(), texts, max_length=32, progress=False)
    others = {'of one of 4': tiny(layers=4), 'is of a model of 6 layers': tiny(layers=6, seed=1)}
    for said, o in others.items():
        d = layer_distances(o, Letters(), texts, max_length=32, progress=False)
        with pytest.raises(PrunebookError, match=said): judge_distances(losses, d)
