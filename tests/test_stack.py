"Layers: found, named, taken out for a moment or for good, run in part; and no trace left by anything that fails."
import copy, itertools
import numpy as np, pytest, torch
from prunebook.healing.packing import attend_by_document
from prunebook.model import stack as stack_module
from prunebook.core import PrunebookError
from prunebook.model.configs import check_quantization
from prunebook.model.stack import evaluating, fingerprint, untie
from prunebook.model.stack import Block, LayerStack, check_layers, weight_sharing_copy
from support.architectures import state
from support.tiny import KINDS, tiny

ids = torch.arange(3, 15)[None]

@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad(): yield

# naming layers

@pytest.mark.parametrize('given', [
    [3, 4], range(3, 5), (4, 3), {3, 4}, np.array([3, 4]), [np.int64(3), 4], torch.tensor([3, 4]), Block(3, 2),
    Block(np.int32(3), np.int64(2)), iter([3, 4])])
def test_layers_in_any_form(given):
    found = check_layers(given, 8)
    assert found == [3, 4] and all(type(o) is int for o in found)

@pytest.mark.parametrize('wrong, says', [
    ([8], r'\[8\] not among the layers 0 to 7'), ([-1], r'\[-1\]'), ([2, 2], r'\[2\] given more than once'),
    ([1.5], r'\[1.5\]'), ([True], r'\[True\]'), (['1'], r"\['1'\]"), (3, 'Give a list'), ([np.int64(9)], r'\[9\]'),
    ([np.float64(1)], r'\[1.0\]')])
def test_wrong_layers_are_listed(wrong, says):
    with pytest.raises(PrunebookError, match=says): check_layers(wrong, 8)

# cutting

@pytest.mark.parametrize('keep', [[0, 3], range(1, 7, 2), np.array([0, 5])])
@pytest.mark.parametrize('kind', ['llama', 'gpt2', 'gemma3_text', 'qwen2_moe'])
def test_a_view_is_a_cut_that_leaves_no_trace(kind, keep):
    model = tiny(kind)
    before, unpruned = state(model), model(ids).logits
    with LayerStack(model).view(keep) as small: seen = small(ids).logits
    assert state(model) == before and torch.equal(model(ids).logits, unpruned)
    cut = weight_sharing_copy(model)
    LayerStack(cut).cut(keep)
    assert torch.equal(cut(ids).logits, seen) and state(model) == before
    assert {p.data_ptr() for p in cut.parameters()} < {p.data_ptr() for p in model.parameters()}

@pytest.mark.parametrize('keep', [[], range(9), [-1], [2, 2], [8]])
def test_wrong_cuts_change_nothing(keep):
    model = tiny()
    before = state(model)
    for do in (LayerStack(model).cut, lambda k: LayerStack(model).view(k).__enter__()):
        with pytest.raises(PrunebookError): do(keep)
    assert state(model) == before

@pytest.mark.parametrize('late', [False, True], ids=['before', 'after'])
@pytest.mark.parametrize('kind', ['gemma3_text', 'qwen2_moe', 'gpt2'])
def test_an_exception_inside_a_cut_undoes_it(kind, late, monkeypatch):
    "Wherever it strikes: in a layer, in the config, in the list of layers; before the change or right after it"
    model = tiny(kind, layers=4)
    before, unpruned = state(model), model(ids).logits
    for k in itertools.count(1):
        calls = [0]
        def fail(obj, name, value):
            calls[0] += 1
            if calls[0] != k or late: setattr(obj, name, value)
            if calls[0] == k: raise MemoryError
        monkeypatch.setattr(stack_module, 'setattr', fail, raising=False)
        try:
            with LayerStack(model).view([0, 3]):
                calls[0] = 1000  # all changes are made, and may be undone
                break
        except MemoryError: assert state(model) == before and len(LayerStack(model)) == 4, k
    monkeypatch.undo()
    assert k > 4 and torch.equal(model(ids).logits, unpruned)

def test_a_reload_that_would_differ_is_refused():
    model = tiny('gpt2', scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(PrunebookError, match='scale_attn_by_inverse_layer_idx'): LayerStack(model).cut([0, 1])
    assert len(LayerStack(model)) == 8

def test_adapters_fit_one_depth():
    from peft import LoraConfig, get_peft_model
    wrapped = get_peft_model(tiny(), LoraConfig(target_modules=['q_proj']))
    with pytest.raises(PrunebookError, match='adapter'): LayerStack(wrapped)
    inner = LayerStack(wrapped.get_base_model())  # running it is fine
    assert torch.equal(inner.logits(inner.body(ids).last_hidden_state[0]), wrapped(ids).logits[0])
    with pytest.raises(PrunebookError, match='adapter'): inner.cut([0, 1])

def test_quantisation_of_single_layers():
    check_quantization(None)
    check_quantization(dict(modules_to_not_convert=['lm_head']))
    for names in (['model.layers.3.mlp'], ['re:.*layers\\.12\\..*'], ['transformer.h.0']):
        with pytest.raises(PrunebookError, match='names single layers'): check_quantization(dict(ignore=names))

# parts of a forward pass

@pytest.mark.parametrize('kind', KINDS)
def test_body_and_head_are_the_forward(kind):
    model = tiny(kind)
    stack = LayerStack(model)
    hidden = stack.body(ids).last_hidden_state
    want = model(ids).logits[0]
    torch.testing.assert_close(stack.logits(hidden[0]), want, rtol=1e-5, atol=1e-6)
    with torch.enable_grad():
        leaf = hidden[0].clone().requires_grad_()
        stack.logits(leaf).logsumexp(-1).sum().backward()
    step = 1e-2 * torch.ones_like(leaf)
    moved = stack.logits(hidden[0] + step).logsumexp(-1).sum() - stack.logits(hidden[0] - step).logsumexp(-1).sum()
    torch.testing.assert_close((leaf.grad * 2 * step).sum(), moved, rtol=2e-2, atol=1e-4)

def test_logits_in_training():
    "Training puts a forward of its own on the model, which calls `logits`"
    model = tiny('gemma2')
    stack, want = LayerStack(model), model(ids).logits[0]
    model.forward = lambda **inputs: stack.logits(stack.body(**inputs).last_hidden_state[0])
    torch.testing.assert_close(model(input_ids=ids), want)

def test_replay_in_a_view():
    stack = LayerStack(tiny('gemma3_text'))
    with stack.view([0, 1, 5, 6]), stack.stream(lambda x: x.clone(), at=[2]) as xs:
        want = stack.body(ids).last_hidden_state
    with stack.view([0, 1, 5, 6]), stack.replay(2, xs[0]): assert torch.equal(stack.body(ids).last_hidden_state, want)

def test_evaluating():
    model = tiny().train()
    model.model.layers[2].eval()
    was = [m.training for m in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(m.training for m in model.modules())
        1 / 0
    assert [m.training for m in model.modules()] == was

@pytest.mark.parametrize('kind, most', [('gpt2', 128), ('opt', 128), ('llama', None), ('gpt_neox', None)])
def test_positions(kind, most):
    stack = LayerStack(tiny(kind))
    assert stack.positions == most
    if most:
        assert stack.body(torch.ones(1, most, dtype=torch.long)).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)): stack.body(torch.ones(1, most + 1, dtype=torch.long))


# fingerprints and copies

def test_fingerprints():
    model = tiny()
    want = fingerprint(model)
    assert len(want) == 16 and fingerprint(weight_sharing_copy(model)) == want == fingerprint(tiny())
    assert fingerprint(tiny(seed=1)) != want
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert fingerprint(half) == fingerprint(copy.deepcopy(half).float()) != want
    changed = copy.deepcopy(model)
    changed.model.layers[3].mlp.up_proj.weight.mul_(1.01)
    assert fingerprint(changed) != want

def test_fingerprint_of_an_offloaded_model(tmp_path):
    from accelerate import cpu_offload
    model = tiny()
    want = fingerprint(model)
    assert fingerprint(cpu_offload(model)) == want

def test_fingerprint_of_a_kept_run():
    "The algorithm may not change: kept runs hold its values"
    model = torch.nn.Linear(3, 2)
    for p in model.parameters(): p.copy_(torch.arange(p.numel(), dtype=torch.float32).view_as(p))
    assert fingerprint(model) == '902a9de9ca6620bc'

def test_untie():
    model = tiny(tie_word_embeddings=True)
    untie(model)
    assert model.lm_head.weight is not model.model.embed_tokens.weight and not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)

# several documents in a row of tokens

def test_attention_by_document_in_the_backward_pass():
    "Gradient checkpointing runs the layers once more"
    rows, place = torch.arange(3, 35)[None], torch.tensor([[*range(20), *range(12)]])
    def gradient(model, checkpointing):
        stack = LayerStack(model.train())
        if checkpointing: model.gradient_checkpointing_enable(dict(use_reentrant=False))
        with torch.enable_grad(): stack.body(rows, position_ids=place).last_hidden_state.square().sum().backward()
        return model.model.layers[0].mlp.up_proj.weight.grad
    want, model = gradient(tiny(), False), tiny()
    assert attend_by_document(model, 32)
    torch.testing.assert_close(gradient(model, True), want, rtol=1e-3, atol=1e-5)
