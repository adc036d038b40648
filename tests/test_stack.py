"Layers: named, and taken out for a moment or for good; no trace left by anything that fails; and fingerprints."
import itertools
import numpy as np, pytest, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from prunebook.model import stack as stack_module
from prunebook.core import PrunebookError
from prunebook.model.loading import load_model, quantization
from prunebook.model.stack import LayerStack, check_layers, fingerprint, untie
from prunebook.pruning.strategies import prune_model
from support.architectures import state
from support.tiny import SHAPE, save, tiny

ids = torch.arange(3, 15)[None]

@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad(): yield

# naming layers

@pytest.mark.parametrize('wrong, says', [
    ([8], r'\[8\] not among the layers 0 to 7'), ([-1], r'\[-1\]'), ([2, 2], r'\[2\] given more than once'),
    ([1.5], r'\[1.5\]'), ([True], r'\[True\]'), (['1'], r"\['1'\]"), (3, 'Give a list'), ([np.int64(9)], r'\[9\]'),
    ([np.float64(1)], r'\[1.0\]')])
def test_wrong_layers_are_listed(wrong, says):
    with pytest.raises(PrunebookError, match=says): check_layers(wrong, 8)

def test_places_in_the_stream_are_one_more_than_layers(tiny_model):
    stack = LayerStack(tiny_model)
    for wrong in ([99], [9], [-1], [0, 99]):
        with pytest.raises(PrunebookError, match=r'at .* the places 0 to 8 of a model of 8\.'):
            with stack.stream(lambda x: x, at=wrong): pass
    with pytest.raises(PrunebookError, match='at .* given more than once'):
        with stack.stream(lambda x: x, at=[8, 8]): pass
    with stack.stream(lambda x: x.shape, at=[8, 0]) as seen: stack.body(ids)
    assert seen == [(1, 12, 32)] * 2

# cutting

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

# fingerprints and copies

def test_fingerprints():
    model = tiny()
    want = fingerprint(model)
    assert len(want) == 16 and fingerprint(LayerStack(model).copy().model) == want == fingerprint(tiny())
    assert fingerprint(tiny(seed=1)) != want
    model.model.layers[3].mlp.up_proj.weight.mul_(1.01)
    assert fingerprint(model) != want

def test_fingerprint_of_a_kept_run():
    "The algorithm may not change: kept runs hold its values"
    model = torch.nn.Linear(3, 2)
    for p in model.parameters(): p.copy_(torch.arange(p.numel(), dtype=torch.float32).view_as(p))
    assert fingerprint(model) == '902a9de9ca6620bc'

def test_fingerprint_in_4_bits(tmp_path):
    "A forward pass may sort the packed weights anew, and the fingerprint stays"
    tiny(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization(4))
    before = fingerprint(model)
    model(torch.arange(8)[None])
    assert fingerprint(model) == before != fingerprint(tiny(hidden_size=64, intermediate_size=128))

def test_a_tower_for_pictures_inside_the_decoder_has_no_say():
    "Phi-4-multimodal: its table of positions is of the pictures"
    stack, tower = LayerStack(tiny(layers=2)), tiny('gpt2', 2).transformer
    assert LayerStack(tiny('gpt2', 2)).positions == 128
    stack.decoder.embed_tokens_extend = tower
    assert stack.positions is None

def test_a_copy_stays_where_it_is_when_the_other_is_moved():
    model = tiny(layers=4)
    small, ids = prune_model(model, [1]), torch.arange(8)[None] + 5
    want = model(ids).logits
    assert small.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert small.to(torch.float64)(ids).logits.dtype == torch.float64
    assert torch.equal(model(ids).logits, want)

@pytest.mark.parametrize('first', ['whole', 'pruned'])
def test_a_copy_in_8_bits_computes_as_the_other(first, tmp_path):
    "bitsandbytes moves codes and scales at the first use, of whichever comes first"
    folder, ids = save(tmp_path/'m', tiny(layers=4, hidden_size=64, intermediate_size=128)), torch.arange(8)[None] + 5
    def loaded(): return load_model(str(folder), bits=8, progress=False)[0]
    want = dict(whole=loaded()(ids).logits)
    with LayerStack(loaded()).view([0, 2, 3]) as view: want['pruned'] = view(ids).logits
    models = dict(whole=(whole := loaded()), pruned=prune_model(whole, [1]))
    for k in (first, *models): assert torch.equal(models[k](ids).logits, want[k])

def test_a_cut_that_needs_what_a_missing_layer_stores_is_refused_in_the_larger_class_too():
    "Gemma 4 with shared keys and values, as the hub's class"
    kinds = ['sliding_attention'] * 3 + ['full_attention']
    text = SHAPE | dict(num_hidden_layers=8, layer_types=kinds * 2, num_kv_shared_layers=4, head_dim=8,
                        global_head_dim=8, num_key_value_heads=2, hidden_size_per_layer_input=0,
                        vocab_size_per_layer_input=99)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model('gemma4', text_config=text)).eval()
    with pytest.raises(PrunebookError, match='cannot be cut'): prune_model(model, [2])

def test_a_decoder_without_a_head_has_nothing_to_untie():
    body = tiny().model
    untie(body)
    assert body.get_output_embeddings() is None
