"""Losses of many pruned models. Sharing prefixes changes nothing but the time; a loss map says what single models say;
and the comparison with distances is not flattered by its own choice."""
import json
import numpy as np
import pytest
import torch
from prunebook.core import PrunebookError
from prunebook.evaluation.losses import cut_losses, share_prefixes, text_loss
from prunebook.evaluation.losses import LossMap, judge_distances, loss_map
from prunebook.similarity.distances import layer_distances
from prunebook.model.stack import Block, LayerStack
from support.tiny import Letters, letter_texts, tiny

DEPTH, texts = 6, letter_texts()
KINDS = {k: {} for k in ('llama', 'qwen3', 'gpt_neox', 'gpt2', 'phi', 'opt', 'falcon', 'mixtral')}
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


# sharing changes nothing but the time

@pytest.mark.parametrize('kind', KINDS)
def test_shared_equals_plain(kind):
    model, before, keeps = spread(kind), spread(kind).state_dict(), all_cuts()
    stack, config = LayerStack(model), model.config.to_json_string()
    shared = losses_of(model, keeps, batch_tokens=64)
    for k, s in zip(keeps, shared):
        with stack.view(k) as small:
            plain = text_loss(small, Letters(), texts, max_length=32, batch_tokens=64, progress=False)
        np.testing.assert_allclose(s.sums, plain.sums, rtol=2e-5)
        assert (s.counts, s.index, s.items) == (plain.counts, plain.index, plain.items)
    assert len({round(s.value, 4) for s in shared}) > len(keeps) // 2
    assert model.config.to_json_string() == config
    for k, v in model.state_dict().items(): assert torch.equal(v, before[k])
    assert not any('forward' in m.__dict__ for m in model.modules())


def test_layers_run_are_those_of_the_tree():
    model, count, keeps = spread(), [], all_cuts()
    for l in LayerStack(model).layers: l.self_attn.register_forward_hook(lambda *a: count.append(1))
    losses_of(model, keeps, batch_tokens=10**4)
    run = sum(o.applications for o in share_prefixes(keeps))
    assert run <= len(count) <= run + 1  # one more: `replay` asks a layer what it returns
    assert run < sum(map(len, keeps))


def test_states_that_wait():
    tree, = share_prefixes([[0, 1, 2], [0, 1], [0, 2], [0, 3, 4]])
    assert (tree.layers, tree.ends, [o.layers for o in tree.branches]) == ((0,), [], [(1,), (2,), (3, 4)])
    assert tree.branches[0].ends == [1] and tree.branches[0].branches[0].ends == [0] and tree.stored == 2


@pytest.mark.parametrize('kw', [dict(memory=1e-9), dict(batch_tokens=32), dict(batch_tokens=10**4)], ids=str)
def test_memory_and_batches_change_no_loss(kw):
    keeps = [list(range(6)), [0, 1, 5], [0, 1, 2, 5]]
    for s, t in zip(losses_of(spread(), keeps), losses_of(spread(), keeps, **kw)):
        np.testing.assert_allclose(s.sums, t.sums, rtol=1e-5)


def test_a_stopped_call_goes_on(tmp_path, monkeypatch):
    "Stopped after each batch in turn; what was done is not run again"
    import prunebook.evaluation.losses as losses
    model, keeps, partial, real = spread(), [[0, 1], [0, 1, 2, 5]], tmp_path/'partial', losses._batch_losses
    whole = losses_of(model, keeps, batch_tokens=40)
    for stop in (1, 2, 3):
        partial.unlink(missing_ok=True)
        left, ran = iter(range(stop)), []

        def interrupted(*args):
            if next(left, None) is None: raise KeyboardInterrupt
            return real(*args)

        def counted(*args):
            ran.append(len(args[3]))
            return real(*args)
        monkeypatch.setattr(losses, '_batch_losses', interrupted)
        with pytest.raises(KeyboardInterrupt): losses_of(model, keeps, batch_tokens=40, partial=partial)
        monkeypatch.setattr(losses, '_batch_losses', counted)
        again = losses_of(model, keeps, batch_tokens=40, partial=partial)
        assert [s.sums for s in whole] == [s.sums for s in again] and 0 < sum(ran) < len(texts)
    assert losses_of(model, keeps[:1], partial=partial)[0].n == len(texts)  # another question: the file is not used
    partial.write_bytes(b'{}')
    with pytest.raises(PrunebookError, match='is damaged'): losses_of(model, keeps, partial=partial)


def test_a_mapper_gives_the_same_bits_in_any_order(tmp_path):
    "What it did before it stopped is kept, also within a batch"
    def mapper(function, calls, model, tokenizer):
        seen.append(len(calls))
        for i in reversed(range(len(calls))):
            if i == stop: raise KeyboardInterrupt
            yield i, function(model, tokenizer, *calls[i])
    model, keeps, seen, stop = spread(), all_cuts() * 2, [], 3
    here = losses_of(model, keeps, batch_tokens=64)
    with pytest.raises(KeyboardInterrupt):
        losses_of(model, keeps, batch_tokens=64, mapper=mapper, partial=tmp_path/'partial')
    stop = None
    there = losses_of(model, keeps, batch_tokens=64, mapper=mapper, partial=tmp_path/'partial')
    assert [o.sums for o in there] == [o.sums for o in here] and seen[1] == 4 < seen[0]


# wrong input

@pytest.mark.parametrize('keeps', [[], [[]], [[0, 0]], [[9]]], ids=str)
def test_wrong_cuts_are_refused(keeps):
    with pytest.raises(PrunebookError): losses_of(spread(), keeps)


# the loss map

@pytest.fixture(scope='module')
def measured():
    model = spread()
    return model, loss_map(model, Letters(), texts, max_length=32, progress=False)


def test_loss_map_of_every_block(measured):
    model, m = measured
    stack = LayerStack(model)
    for l, n in [(0, 1), (2, 3), (5, 1), (1, 5)]:
        with stack.view([i for i in range(6) if i not in range(l, l + n)]) as small:
            want = text_loss(small, Letters(), texts, max_length=32, progress=False).value
        assert abs(m.loss[l, l + n] - want) < 1e-5
    assert len(m.to_frame()) == len(m.blocks) == 1 + sum(6 - n + 1 for n in range(1, 6))
    assert m.info['layers_run'] < m.info['layers_plain']
    assert m.loss[m.best_block(2).start, m.best_block(2).stop] == np.diagonal(m.loss, 2).min()
    for n in (0, 6):
        with pytest.raises(PrunebookError, match='has not all blocks of that size'): m.best_block(n)


def test_loss_map_is_saved_as_it_is_and_damaged_ones_are_refused(measured, tmp_path):
    _, m = measured
    path = m.save(tmp_path/'run')
    for o in (LossMap.load(tmp_path/'run'), LossMap.load(path)):
        np.testing.assert_array_equal(o.sums, m.sums)
        assert (o.counts, o.info) == (m.counts, m.info)
    data = path.read_bytes()
    rng, told = np.random.default_rng(0), 0
    for _ in range(60):
        i = int(rng.integers(len(data)))
        path.write_bytes(data[:i] + bytes([int(rng.integers(256))]) + data[i + 1 + int(rng.integers(3)):])
        try: LossMap.load(path)
        except PrunebookError: told += 1
    assert told > 10
    for bad in (b'', b'{}', data[:40]):
        path.write_bytes(bad)
        with pytest.raises(PrunebookError, match='is no loss map'): LossMap.load(path)
    with pytest.raises(PrunebookError, match='no such file'): LossMap.load(tmp_path)


@pytest.mark.parametrize('change', [
    dict(depth='9999'), dict(depth='2'), dict(info='[]'), dict(blocks=np.full((21, 2), 7)),
    dict(counts=np.zeros(7, int)), dict(sums=np.full((21, 7), np.nan)), dict(sums=np.zeros(3))],
    ids=lambda o: next(iter(o)))
def test_a_map_whose_parts_do_not_fit(measured, tmp_path, change):
    from safetensors.numpy import load_file, save_file
    path = measured[1].save(tmp_path)
    about = dict(depth='6', info=json.dumps({}))
    arrays = load_file(path) | {k: v for k, v in change.items() if k not in about}
    save_file(arrays, path, about | {k: v for k, v in change.items() if k in about})
    with pytest.raises(PrunebookError, match='is no loss map'): LossMap.load(path)


# distance against loss

def test_map_and_distances_of_two_models_are_refused(measured):
    others = {'of one of 4': tiny(layers=4), 'is of a model of 6 layers': tiny(layers=6, seed=1)}
    for said, o in others.items():
        d = layer_distances(o, Letters(), texts, max_length=32, progress=False)
        with pytest.raises(PrunebookError, match=said): judge_distances(measured[1], d)
