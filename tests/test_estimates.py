"The estimate's arithmetic against the operations and the bytes that torch counts"
import json, re
import pytest, torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook import HealingConfig, PrunebookError, heal, load_model, prune_model, save_pruned
from prunebook.estimates import (FAMILIES, MEASURED, SLOWER, cache_gb, check_memory, compare_options, estimate, file_gb,
                                 known_family, layer_caches, model_size, peak_gb, recipe_within, weights_gb, work,
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

# The key-value cache, and bits against layers against the sibling

GEMMA_4 = dict(head_dim=8, global_head_dim=16, num_key_value_heads=2, hidden_size_per_layer_input=0,
               vocab_size_per_layer_input=99, sliding_window=8)

@pytest.mark.parametrize('kind, fields', [
    ('llama', dict(num_key_value_heads=2, head_dim=16)), ('gpt2', {}), ('gpt_neox', {}), ('falcon', {}),
    ('deepseek_v3', {}), ('mistral', dict(sliding_window=8)), ('gemma2', dict(sliding_window=8)),
    ('gemma3', dict(sliding_window=8)), ('gemma4_text', GEMMA_4),
    ('qwen2', dict(sliding_window=8)), ('qwen2', dict(sliding_window=8, use_sliding_window=True, max_window_layers=4)),
    ('gemma3n_text', dict(head_dim=8, num_key_value_heads=2, sliding_window=8, num_kv_shared_layers=3, laurel_rank=4,
                          vocab_size_per_layer_input=99, hidden_size_per_layer_input=8))])
def test_the_cache_is_that_of_transformers(kind, fields, tmp_path):
    "Which drops a token of a window once the next one is there"
    model = tiny(kind, 8, **fields)
    with torch.no_grad(): cache = model(torch.arange(3, 43)[None], use_cache=True).past_key_values
    own = [o for o in cache.layers if getattr(o, 'keys', None) is not None]
    numbers = sum(o.keys.numel() + o.values.numel() for o in own)
    caches = layer_caches(json.loads(save(tmp_path/'m', model).joinpath('config.json').read_text()))
    dropped = sum(n for n, window in caches if window)
    assert sum(n * min(40, window or 40) for n, window in caches) - dropped == numbers
    assert (dropped > 0) == ('sliding_window' in fields and fields.get('use_sliding_window', kind != 'qwen2'))

def test_the_cache_grows_with_the_batch_and_a_window_bounds_it():
    gemma = FAMILIES[18].size
    full, sliding = ([n for n, w in gemma.cache if bool(w) == o] for o in (False, True))
    assert cache_gb(gemma, 8192, 8) == pytest.approx(8 * 2 * (8192 * sum(full) + 512 * sum(sliding)) / 1e9)
    assert cache_gb(gemma, 256, 1) == pytest.approx(2 * 256 * sum(full + sliding) / 1e9)
    assert (len(full), len(sliding)) == (4, 22)

@pytest.mark.parametrize('name, heads, kv, dim', [
    ('Qwen2.5-0.5B', 14, 2, 64), ('Qwen2.5-7B', 28, 4, 128), ('Qwen3-0.6B', 16, 8, 128), ('Qwen3-8B', 32, 8, 128),
    ('Llama-3.2-1B', 32, 8, 64), ('Llama-3.1-8B', 32, 8, 128), ('Gemma-3-1B', 4, 1, 256), ('Gemma-3-27B', 32, 16, 128),
    ('SmolLM2-135M', 9, 3, 64), ('SmolLM2-1.7B', 32, 32, 64)])
def test_the_table_of_families_is_that_of_their_configs(name, heads, kv, dim):
    o = next(o for o in FAMILIES if o.name == name)
    slides = dict(sliding_window=o.window) if o.window else {}
    config = AutoConfig.for_model(o.kind, num_hidden_layers=o.depth, hidden_size=o.hidden, intermediate_size=o.inner,
                                  num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim, vocab_size=o.vocab,
                                  tie_word_embeddings=o.tables == 1, **slides)
    with torch.device('meta'): model = AutoModelForCausalLM.from_config(config)
    assert o.parameters == model.num_parameters() and o.size.cache == layer_caches(config.to_dict())

def coder(n=0):
    return FAMILIES[1]._replace(name='Qwen/Qwen2.5-Coder-1.5B-Instruct').size

def test_a_comparison_names_the_rows_that_were_measured_and_no_others():
    table = compare_options(coder(), gb=.95, context=1024)
    known = table[table.quality != 'not measured']
    whole, small = 'Qwen2.5-Coder-1.5B-Instruct', 'Qwen2.5-Coder-0.5B-Instruct'
    rows = [(o, type, n) for o, type, n in zip(known.model, known.type, known.dropped)]
    assert (coder().name, 'bf16', 0) in rows and (small, 'q4_k_m', 0) in rows
    for (name, type, n), said in zip(rows, known.quality):
        wide = MEASURED.get((name.removeprefix('Qwen/'), 'bf16', n))
        own = MEASURED.get((name.removeprefix('Qwen/'), type, n))
        assert said == (f'measured: {own}' if own else f'measured in bf16: {wide}')
    assert {name for name, _, _ in rows} <= {coder().name, small}
    assert MEASURED[whole, 'q3_k_m', 0] in table.attrs['notes']['estimate']
    assert 'not measured' in compare_options(FAMILIES[3].size, gb=5).attrs['notes']['estimate']
    assert [*table.model.unique()[1:]] == [small] and table.speed_estimate[0] == 1
    assert (table.speed_estimate[1:] > 1).all() and (table.fits == (table.total_gb <= .95)).all()
    for n, type, how in ((2, 'q4_k_m', 'measured: '), (4, 'q4_k_m', 'measured: ')):
        few = compare_options(coder(), gb=file_gb(coder(), 'q4_k_m', 1 - n / 28)[0] + .03, context=1024)
        cut = few[(few.dropped > 0) & (few.type == 'q4_k_m')].iloc[0]
        assert cut.dropped == n
        assert cut.quality == how + MEASURED[whole, type, n]

@pytest.mark.parametrize('few, more, taken', [('q3_k_m', 'q4_k_m', 'Coder-1.5B-Instruct as q3_k_m'),
                                              ('q2_k', 'q3_k_m', 'Coder-0.5B-Instruct as')])
def test_three_bits_are_taken_before_the_sibling_and_two_bits_after_it(few, more, taken):
    "Of the measured rows, three bits keep what the smaller model never had"
    gb = (file_gb(coder(), few)[0] + file_gb(coder(), more)[0]) / 2 + cache_gb(coder(), 1024)
    assert taken in compare_options(coder(), gb, 1024).attrs['notes']['estimate']

@pytest.mark.parametrize('gb, type', [(1.2, 'q8_0'), (.9, 'q4_k_m')])
def test_as_many_layers_go_as_are_needed(gb, type):
    "One fewer would not fit"
    table = compare_options(coder(), gb, 1024)
    cut = table[(table.dropped > 0) & (table.type == type)].iloc[0]
    one = file_gb(coder(), type, 1 - (cut.dropped - 1) / 28)[0] + cache_gb(coder(), 1024) * (29 - cut.dropped) / 28
    assert cut.fits and cut.total_gb <= gb < one

def test_a_gpu_that_is_smaller_than_the_smallest_option():
    table = compare_options(coder(), .4, 8192, 8)
    least = table.total_gb.min()
    assert not table.fits.any() and f'give {least:.3g} GB' in table.attrs['notes']['possible']
    assert 'Qwen2.5-Coder-0.5B' in table.attrs['notes']['possible'] and 'estimate' not in table.attrs['notes']
    tokens = int(re.search(r'a context of (\d+) tokens', table.attrs['notes']['possible'])[1])
    assert [compare_options(coder(), .4, n, 8).fits.any() for n in (tokens, 2 * tokens)] == [True, False]

def test_where_the_cache_counts_its_bits_are_named():
    "Before layers go: eight bits take 8.5 of 16, whatever the weights"
    many = compare_options(coder(), 4, 8192, 8)
    assert f'{8.5 / 16 * cache_gb(coder(), 8192, 8):.3g} GB' in many.attrs['notes']['cache']
    assert 'cache' not in compare_options(coder(), 4, 512).attrs['notes']

def test_a_model_without_a_known_sibling(pruned):
    "And the smallest of a family"
    notes = compare_options(pruned[1], gb=1).attrs['notes']
    assert 'no smaller sibling is known' in notes['sibling'] and 'Qwen3' in notes['sibling']
    assert known_family(pruned[1]) == [] and 'estimate' in notes
    assert 'Gemma-3-270M is the smallest' in compare_options(FAMILIES[17].size, gb=1).attrs['notes']['sibling']

def test_types_that_the_shapes_do_not_allow_are_not_offered(pruned):
    "Rows of 192 and 512: k-types for some; of 48: none"
    assert 'q4_k_m' in set(compare_options(pruned[1], gb=1).type)
    narrow = FAMILIES[0]._replace(hidden=48, inner=96).size
    assert set(compare_options(narrow, gb=1).type) == {'bf16'}
