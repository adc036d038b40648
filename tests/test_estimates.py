"The estimate's arithmetic against the operations and the bytes that torch counts"
import json, re
import pytest, torch
from torch.utils.flop_counter import FlopCounterMode
from prunebook import HealingConfig, PrunebookError, heal, load_model, prune_model, save_pruned
from prunebook.estimates import (SLOWER, check_memory, estimate, model_size, peak_gb, recipe_within, weights_gb, work,
                                 working_gb)
from prunebook.healing.healing import _make_student
from prunebook.healing.packing import collate, training_rows
from support.tiny import save, texts, tiny, word_tokenizer

WIDE = dict(hidden_size=192, intermediate_size=512)
LIGHT = HealingConfig(steps=1, batch_size=4, max_length=16, rank=1, bits=32, packing='chunk', deterministic=False)


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    "A model, and its size as `estimate` reads it"
    folder = tmp_path_factory.mktemp('estimates')/'small'
    small = prune_model(tiny(**WIDE), [3, 4])
    save_pruned(small, word_tokenizer(), folder)
    return small, model_size(str(folder))


def test_a_teacher_stored_in_float32_needs_four_bytes_a_parameter(tmp_path, monkeypatch):
    "It is loaded in its own type beside the student, whatever that has. A parent is loaded as the model is"
    save(tmp_path/'m', model := tiny(**WIDE), word_tokenizer())
    size, recipe = model_size(str(tmp_path/'m')), LIGHT.replace(objective='distill')
    count = sum(o.numel() for o in {id(o): o for o in model.parameters()}.values()) / 1e9
    for command, given, bytes_each in (('heal', recipe, 4), ('evaluate', None, 2)):
        need = peak_gb(size, command, 'bfloat16', batch_tokens=64, recipe=given) + bytes_each * count
        for more, fits in ((-count / 2, False), (count / 2, True)):
            monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: dict(RAM=need + more))
            how = dict(max_length=16, batch_tokens=64, recipe=given, teacher=size.name)
            if fits: check_memory(size, command, 'bfloat16', **how)
            else:
                with pytest.raises(PrunebookError, match='GB of memory'): check_memory(size, command, 'bfloat16', **how)


def test_healing_must_fit_on_the_gpus(pruned, monkeypatch):
    "What accelerate leaves in RAM cannot be trained; all else runs there, if slowly"
    size = pruned[1]
    need = peak_gb(size, 'heal', 'bfloat16', recipe=LIGHT)
    monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: {'RAM': 2 * need, 'A100 0': .6 * need})
    how = dict(command='heal', dtype='bfloat16', recipe=LIGHT)
    with pytest.raises(PrunebookError, match=r'for `heal`, and this machine has [\d.]+ \(A100 0\)\. Give'):
        check_memory(size, **how)
    check_memory(size, **how, device_map='cpu')
    check_memory(size, 'evaluate', 'bfloat16', max_length=16, batch_tokens=64)
    monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: {'RAM': .1, 'A100 0': .6 * need, 'A100 1': .6 * need})
    check_memory(size, **how)


def test_a_config_without_what_its_kind_has_by_default(tmp_path):
    "As those of Gemma 3, whose vocabulary stands in no file"
    save(tmp_path/'m', model := tiny('gemma3', 4))
    config = json.loads((file := tmp_path/'m'/'config.json').read_text())
    del config['text_config']['vocab_size']
    file.write_text(json.dumps(config))
    usual = type(model.config.get_text_config())().vocab_size
    assert model_size(str(tmp_path/'m')).vocab == usual > 99


@pytest.mark.parametrize('again', [False, True])
def test_operations_of_healing(pruned, again):
    "A step with the narrowest adapter; attention, which the arithmetic leaves out, is little for sixteen tokens"
    model, size = pruned
    config = LIGHT.replace(gradient_checkpointing=again)
    with FlopCounterMode(display=False) as counted: heal(model, word_tokenizer(), texts(), config, progress=False)
    said = work(size, 'heal', LIGHT.batch_size * LIGHT.max_length, again)
    assert counted.get_total_flops() / 1e12 == pytest.approx(said, rel=.15)


def test_a_teacher_takes_its_time(pruned):
    "It reads every token of healing as `evaluate` does"
    took = [estimate(pruned[1], recipe=LIGHT.replace(objective=o), speed=1e-3).set_index('command').minutes['heal']
            for o in ('lm', 'distill')]
    own, teacher = (work(pruned[1], o, 64) / SLOWER[o] for o in ('heal', 'evaluate'))
    assert took[1] / took[0] == pytest.approx(1 + teacher / own) and teacher > own / 4


def test_operations_of_a_measurement(pruned):
    model, size = pruned
    ids = torch.arange(3, 67).view(4, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'evaluate', 64), rel=.1)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model.base_model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'similarity', 64), rel=.1)


@pytest.mark.parametrize('again', [False, True])
def test_activations_saved_by_a_forward_pass(pruned, again):
    "Every tensor saved for the backward pass, but weights. Layers that run again save only their input"
    model, size = pruned
    config = LIGHT.replace(gradient_checkpointing=again)
    student, stack = _make_student(model, config)
    causal = stack.model
    own, kept = {p.untyped_storage().data_ptr() for p in causal.parameters()}, {}

    def keep(t):
        if (s := t.untyped_storage()).data_ptr() not in own: kept[s.data_ptr()] = s.nbytes()
        return t
    rows = training_rows(word_tokenizer(), texts(), config)
    batch = collate([rows[i] for i in range(4)])
    student.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): causal.base_model(input_ids=batch['input_ids'])
    plain, saved = (working_gb(size, 'heal', 4, recipe=config.replace(gradient_checkpointing=o)) for o in (False, True))
    inputs = 4 * 16 * 4 * size.depth * size.hidden / 1e9
    layer = (plain - saved + inputs) / (size.depth - 1)  # what the formula gives one layer
    said = inputs if again else layer * size.depth
    assert .6 * said < sum(kept.values()) / 1e9 < 1.25 * said


def test_documents_of_any_length_are_no_measure_of_tokens(pruned):
    with pytest.raises(PrunebookError, match='packing="none".*Give steps'):
        recipe_within(LIGHT.replace(packing='none'), pruned[1], tokens=10_000)
    assert recipe_within(LIGHT, pruned[1], tokens=10_000).steps == 157


def test_a_config_without_a_width_is_refused(tmp_path):
    tiny(layers=2).save_pretrained(tmp_path)
    (tmp_path/'config.json').write_text('{"num_hidden_layers": 2}')
    with pytest.raises(PrunebookError, match='hidden_size'): model_size(str(tmp_path))


@pytest.mark.parametrize('kind, fields', [('llama', {}), ('mixtral', dict(num_local_experts=4))])
def test_experts_stay_in_16_bits(kind, fields, tmp_path):
    "bitsandbytes does not know the tensor that holds them all"
    shape = dict(hidden_size=64, intermediate_size=256, vocab_size=99, layers=4, dtype=torch.bfloat16)
    folder = str(save(tmp_path/'m', tiny(kind, **shape | fields)))
    loaded = sum(p.nbytes for p in load_model(folder, 'bfloat16', bits=4, progress=False)[0].parameters())
    assert weights_gb(model_size(folder), bits=4) * 1e9 == pytest.approx(loaded, rel=.05)


@pytest.mark.parametrize('kind, fields', [
    ('mixtral', dict(num_local_experts=8, num_experts_per_tok=2)),
    ('granitemoe', dict(num_local_experts=8, num_experts_per_tok=2)),
    ('ernie4_5_moe', dict(moe_num_experts=8, moe_k=2, moe_intermediate_size=64, moe_num_shared_experts=1)),
    ('gemma4_text', dict(num_experts=8, top_k_experts=2, moe_intermediate_size=64, enable_moe_block=True, head_dim=8,
                         global_head_dim=8, num_key_value_heads=2, hidden_size_per_layer_input=0,
                         vocab_size_per_layer_input=99))])
def test_a_token_passes_through_a_quarter_of_the_experts(kind, fields, tmp_path):
    model = tiny(kind, 4, **fields)
    size = model_size(str(save(tmp_path/'m', model)))
    idle = .75 * sum(p.numel() for n, p in model.named_parameters()
                     if re.search(r'\bexperts\b|(input|output)_linear', n))
    assert idle > 0 and size.layers - size.active == pytest.approx(idle, rel=.01)
