"Checkpoints on disk, by guarantee: the same cut as in memory, what transformers would load, whole or not at all."
import json, os, resource, shutil, subprocess, sys
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from prunebook.core import PrunebookError
from prunebook.estimates import layer_sizes
from prunebook.model.stack import LayerStack, _reload_differs
from prunebook.pruning.checkpoint import check_checkpoint, prune_checkpoint, read_tensors, save_pruned, write_model
from prunebook.pruning.strategies import Plan, prune_model
from support import architectures
from support.checkpoints import INDEX, absent, digest, edit_header, edit_json, growth, shard, tensors
from support.tiny import save, tiny, word_tokenizer

ids = torch.arange(3, 15)[None]
kinds = dict(llama=dict(tie_word_embeddings=True), qwen3={}, gemma2={}, gemma3_text={}, gpt2={}, gpt_neox={},
             mixtral={}, qwen2_moe={}, deepseek_v3={})

@pytest.fixture
def saved(tmp_path):
    "A saved tiny Llama of six layers in three shards"
    save(tmp_path/'src', tiny(layers=6), max_shard_size='60KB')
    assert (tmp_path/'src'/INDEX).exists()
    return tmp_path/'src'

@pytest.fixture
def single(tmp_path): return save(tmp_path/'src', tiny(layers=6))

def prune(src, dst, drop=(1,), **kw): return prune_checkpoint(src, dst, drop, progress=False, **kw)

# the same cut as in memory

@pytest.mark.parametrize('kind', kinds)
def test_disk_equals_memory(kind, tmp_path):
    drop, model = [1, 4], tiny(kind, layers=6, **kinds[kind])
    save(tmp_path/'src', model, max_shard_size='40KB')
    save_pruned(prune_model(model, drop), word_tokenizer(), tmp_path/'memory')
    prune(tmp_path/'src', tmp_path/'disk', drop)
    a, b = tensors(tmp_path/'memory'), tensors(tmp_path/'disk')
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path/o, output_loading_info=True) for o in ('memory', 'disk')]
    assert not any(loaded[1][1].values()), loaded[1][1]
    x, y = (m.config.to_dict() for m, _ in loaded)
    skip = ('prunebook', '_name_or_path')
    assert {k: v for k, v in x.items() if k not in skip} == {k: v for k, v in y.items() if k not in skip}
    says = ['dropped', 'kept', 'depth']
    if kind != 'deepseek_v3': says += ['parameters', 'bytes']  # its routers hold buffers too, which the files count
    assert [x['prunebook'][k] for k in says] == [y['prunebook'][k] for k in says]
    assert torch.equal(loaded[0][0](ids).logits, loaded[1][0](ids).logits)
    assert check_checkpoint(tmp_path/'disk') == []

def test_a_pattern_that_old_configs_leave_unsaid(tmp_path):
    "Gemma 2 alternates sliding and full layers. Its released configs do not list them"
    save(tmp_path/'src', tiny('gemma2', layers=6))
    config = json.loads((tmp_path/'src'/'config.json').read_text())
    types = config.pop('layer_types')
    (tmp_path/'src'/'config.json').write_text(json.dumps(config))
    prune(tmp_path/'src', tmp_path/'out', '1-1')
    assert json.loads((tmp_path/'out'/'config.json').read_text())['layer_types'] == types[:1] + types[2:]

def test_the_decoder_of_a_larger_model_is_cut_inside_its_config(tmp_path):
    "transformers builds the decoder of a Qwen3.5 alone, and its config is only a part of the folder's"
    text = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=99,
                max_position_embeddings=128, num_hidden_layers=8, head_dim=16, linear_num_key_heads=2,
                linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4)
    vision = dict(hidden_size=32, depth=2, num_heads=4, intermediate_size=32, out_hidden_size=32, patch_size=14,
                  num_position_embeddings=16)
    torch.manual_seed(0)
    config = AutoConfig.for_model('qwen3_5', text_config=text, vision_config=vision)
    save(tmp_path/'src', AutoModelForImageTextToText.from_config(config, dtype=torch.float32))
    prune(tmp_path/'src', tmp_path/'disk', range(4))
    cut = json.loads((tmp_path/'disk'/'config.json').read_text())
    assert cut['model_type'] == 'qwen3_5' and cut['text_config']['num_hidden_layers'] == 4
    assert 'num_hidden_layers' not in cut and check_checkpoint(tmp_path/'disk') == []
    small = prune_model(AutoModelForCausalLM.from_pretrained(tmp_path/'src'), range(4))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path/'disk')(ids).logits, small(ids).logits)

def test_prediction_heads_beyond_the_depth_are_left_out(saved, tmp_path):
    save_file({'model.layers.6.extra.weight': torch.zeros(2)}, saved/'extra.safetensors')
    edit_json(saved/INDEX, lambda d: d['weight_map'].update({'model.layers.6.extra.weight': 'extra.safetensors'}))
    sizes = layer_sizes(str(saved))
    prune(saved, tmp_path/'out', [0])
    assert sizes.after([0])['params'] == layer_sizes(str(tmp_path/'out')).after()['params']
    assert not [t.name for t in read_tensors(tmp_path/'out') if 'extra' in t.name]
    assert check_checkpoint(tmp_path/'out') == []

def test_without_copy_file_range(saved, tmp_path, monkeypatch):
    prune(saved, tmp_path/'a', [1, 3])
    monkeypatch.delattr(os, 'copy_file_range')
    prune(saved, tmp_path/'b', [1, 3])
    assert digest(tmp_path/'a') == digest(tmp_path/'b')

# a checkpoint means what transformers would load

def test_an_index_beside_a_single_file(saved, tmp_path):
    "transformers loads model.safetensors: both ways of pruning must cut the same weights, also if the index is stale"
    want = {k: v + 1 for k, v in tensors(saved).items()}
    save_file(want, saved/'model.safetensors', {'format': 'pt'})
    shard(saved).unlink()
    assert check_checkpoint(saved) == []
    prune(saved, tmp_path/'disk')
    save_pruned(prune_model(AutoModelForCausalLM.from_pretrained(saved), [1]), word_tokenizer(), tmp_path/'memory')
    a, b = tensors(tmp_path/'disk'), tensors(tmp_path/'memory')
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(a['model.layers.1.mlp.up_proj.weight'], want['model.layers.2.mlp.up_proj.weight'])
    assert not (tmp_path/'disk'/INDEX).exists()

def test_the_rest_of_the_folder_comes_along(saved, tmp_path):
    for o in ('notes.txt', 'report.html', 'shrink.json', 'loss.png'): (saved/o).write_text('of the model as it was')
    (saved/'pytorch_model.bin').write_bytes(b'old weights')
    (saved/'model.fp16.safetensors.index.json').write_text('{}')
    before = digest(saved)
    prune(saved, tmp_path/'out', '2-3')
    names = {p.name for p in (tmp_path/'out').iterdir()}
    assert {'config.json', 'generation_config.json', 'tokenizer.json', 'notes.txt', 'README.md'} <= names
    assert not names & {'report.html', 'shrink.json', 'loss.png'}
    assert not names & {'pytorch_model.bin', 'model.fp16.safetensors.index.json'}
    assert 'without 2 of its 6 layers' in (tmp_path/'out'/'README.md').read_text()
    assert digest(saved) == before
    index = json.loads((tmp_path/'out'/INDEX).read_text())
    assert index['metadata']['total_size'] == sum(t.size for t in read_tensors(tmp_path/'out'))

def test_options_of_saving_that_would_change_nothing_are_refused(tmp_path):
    small = prune_model(tiny(), [1])
    for option in ('max_shard_sise', 'safe_serialisation'):
        with pytest.raises(PrunebookError, match=option):
            save_pruned(small, word_tokenizer(), tmp_path/'out', **{option: '1MB'})
    assert not list(tmp_path.iterdir())
    save_pruned(small, word_tokenizer(), tmp_path/'out', max_shard_size='100KB')
    assert len(list((tmp_path/'out').glob('*.safetensors'))) > 1

def test_code_that_a_model_does_not_need_is_not_named(tmp_path):
    "It is not copied, and llama.cpp's converter would ask for it"
    model = tiny()
    model.config.auto_map = dict(AutoConfig='configuration_own.Own')
    write_model(model, word_tokenizer(), tmp_path)
    assert 'auto_map' not in json.loads((tmp_path/'config.json').read_text())

def test_chat_templates_in_a_folder_are_kept(single, tmp_path):
    (single/'chat_template.jinja').write_text('{{ messages }}')
    (single/'additional_chat_templates').mkdir()
    (single/'additional_chat_templates'/'tools.jinja').write_text('tools {{ messages }}')
    (single/'original').mkdir()
    (single/'original'/'params.json').write_text('{}')
    want = AutoTokenizer.from_pretrained(single).chat_template
    prune(single, tmp_path/'out')
    assert AutoTokenizer.from_pretrained(tmp_path/'out').chat_template == want and 'tools' in want
    assert not (tmp_path/'out'/'original').exists()

def test_the_hub_cache_of_links_is_followed(saved, tmp_path):
    home = tmp_path/'models--a--b'
    (home/'blobs').mkdir(parents=True)
    (home/'snapshots'/'rev').mkdir(parents=True)
    for p in saved.iterdir():
        shutil.copy(p, home/'blobs'/f'x{p.name}')
        (home/'snapshots'/'rev'/p.name).symlink_to(f'../../blobs/x{p.name}')
    prune(home/'snapshots'/'rev', tmp_path/'out')
    assert check_checkpoint(tmp_path/'out') == []

@pytest.mark.parametrize('lay', [
    lambda p, outside: p.symlink_to(outside), lambda p, outside: p.symlink_to('nowhere'),
    lambda p, outside: os.mkfifo(p), lambda p, outside: p.symlink_to('/dev/zero')])
@pytest.mark.parametrize('name', ['tokenizer.json', 'additional_chat_templates/a.jinja'])
def test_a_link_elsewhere_is_refused_and_never_dropped(single, tmp_path, lay, name):
    (tmp_path/'id_rsa').write_text('secret')
    (single/name).parent.mkdir(exist_ok=True)
    (single/name).unlink(missing_ok=True)
    lay(single/name, tmp_path/'id_rsa')
    with pytest.raises(PrunebookError, match='is not copied. Put a copy'): prune(single, tmp_path/'out')
    assert absent(tmp_path/'out')

def test_an_adapter_beside_the_weights(single, tmp_path, caplog):
    (single/'adapter_config.json').write_text('{"base_model_name_or_path": "stranger/m", "peft_type": "LORA"}')
    (single/'adapter_model.safetensors').write_bytes(b'')
    assert any('adapter_config.json' in o for o in check_checkpoint(single))
    prune(single, tmp_path/'out')
    assert 'adapter_config.json is not copied' in caplog.text
    assert not list((tmp_path/'out').glob('adapter*')) and check_checkpoint(tmp_path/'out') == []

def test_a_tokenizer_that_is_absent_or_of_another_model(tmp_path):
    for words in (50, 5000):
        folder = save(tmp_path/f'{words}', tiny(layers=2, vocab_size=words))
        assert any('the tokenizer has' in o for o in check_checkpoint(folder))
    for p in folder.glob('*token*'): p.unlink()
    assert any('no files of a tokenizer' in o for o in check_checkpoint(folder, run=False))

def test_check_ignores_the_generation_settings(single):
    edit_json(single/'generation_config.json', num_beams=3, num_return_sequences=2, do_sample=True, max_length=1,
              eos_token_id=list(range(99)), return_dict_in_generate=True, use_cache=False)
    assert check_checkpoint(single) == []

# the record and the card

def front(folder): return (folder/'README.md').read_text().split('---')[1]

def test_base_model_is_a_hub_id_or_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path/'lab'/'m', tiny(layers=6))
    prune('lab/m', 'out')
    assert 'base_model' not in front(tmp_path/'out')
    assert json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']['source'] == 'm'
    prune('lab/m', 'named', source='lab/hub')
    assert 'base_model: lab/hub' in front(tmp_path/'named')
    assert str(tmp_path) not in (tmp_path/'out'/'config.json').read_text() + (tmp_path/'out'/'README.md').read_text()

# whole or not at all

def test_a_full_disk_leaves_nothing(saved, tmp_path, monkeypatch):
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # a write beyond fails, as on a full disk
    command = [sys.executable, '-m', 'prunebook', 'prune', saved, tmp_path/'out', '--drop', '1']
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit,
                          env=os.environ | dict(PYTHONDONTWRITEBYTECODE='1'))
    assert done.returncode == 2
    assert 'cannot write' in done.stderr
    assert absent(tmp_path/'out')
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: SimpleNamespace(free=1000))
    with pytest.raises(PrunebookError, match='GB free'): prune(saved, tmp_path/'out')
    assert absent(tmp_path/'out')

# what other stacks read

LONGER = dict(original_max_position_embeddings=64)
LLAMA3 = dict(rope_type='llama3', factor=8., low_freq_factor=1., high_freq_factor=4.) | LONGER
YARN = dict(rope_type='yarn', factor=4., beta_fast=32., beta_slow=1.) | LONGER
ANGLES = dict(default=dict(rope_type='default'), linear=dict(rope_type='linear', factor=2.), llama3=LLAMA3, yarn=YARN)

@pytest.mark.parametrize('kind, angles', [('llama', o) for o in ANGLES] + [
    ('mistral', 'default'), ('qwen2', 'yarn'), ('qwen3', 'default'), ('gemma2', 'linear'), ('phi', 'default')])
def test_rotary_angles_stand_at_the_top_too(kind, angles, tmp_path):
    "transformers loads the same model from it, by its config, its logits and its modules"
    angles = dict(rope_theta=77_000.) | ANGLES[angles] | (dict(partial_rotary_factor=.5) if kind == 'phi' else {})
    model = tiny(kind, layers=6, rope_parameters=angles)
    save(tmp_path/'src', model)
    small = prune_model(model, [1, 4])
    save_pruned(small, word_tokenizer(), tmp_path/'memory')
    prune(tmp_path/'src', tmp_path/'disk', [1, 4])
    for folder in (tmp_path/'memory', tmp_path/'disk'):
        told = json.loads((folder/'config.json').read_text())
        assert told['rope_theta'] == 77_000 and told['rope_parameters']['rope_theta'] == 77_000
        assert (told['rope_scaling'] or {}).get('factor') == angles.get('factor')
        again = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert again.config.rope_parameters == small.config.rope_parameters
        assert torch.equal(again(ids).logits, small(ids).logits)
        assert _reload_differs(again, LayerStack(again).path) is None

def test_gemma3_has_a_name_for_each_kind(tmp_path):
    angles = dict(full_attention=dict(rope_theta=5e5, rope_type='linear', factor=8.),
                  sliding_attention=dict(rope_theta=2e4, rope_type='default'))
    model = tiny('gemma3_text', layers=7, rope_parameters=angles)
    small = prune_model(model, [0])
    save_pruned(small, word_tokenizer(), tmp_path/'a')
    told = json.loads((tmp_path/'a'/'config.json').read_text())
    assert (told['rope_theta'], told['rope_local_base_freq'], told['rope_scaling']['factor']) == (5e5, 2e4, 8.)
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'a').eval()
    assert again.config.rope_parameters == angles and torch.equal(again(ids).logits, small(ids).logits)

# kinds that a config class forces

@pytest.mark.parametrize('kind', ['gemma4_text', 'gemma4_unified_text'])
def test_a_last_layer_that_the_config_would_change(kind, tmp_path):
    "Transformers gives the last layer full attention. On disk and in memory alike"
    model = architectures.tiny(kind, hidden_size_per_layer_input=0)
    save(tmp_path/'src', model)
    for cut in (lambda: prune(tmp_path/'src', tmp_path/'out', [7]), lambda: prune_model(model, [7])):
        with pytest.raises(PrunebookError) as e: cut()
        assert 'layer_types[6] is sliding_attention, and would reload as full_attention' in str(e.value)
        assert '\n' not in str(e.value) and absent(tmp_path/'out')
    prune(tmp_path/'src', tmp_path/'out', [6, 7])
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'out').eval()
    assert torch.equal(again(ids).logits, prune_model(model, [6, 7])(ids).logits)

# memory

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_lean(tmp_path):
    "300 MB in two files"
    wide = tiny(layers=10, hidden_size=1024, intermediate_size=4096, dtype=torch.bfloat16)
    save(tmp_path/'src', wide, max_shard_size='200MB')
    code = "prune_checkpoint(*sys.argv[1:], progress=False)\nassert 'torch' not in sys.modules"
    imports = 'from prunebook.pruning.checkpoint import prune_checkpoint'
    assert growth(imports, code, tmp_path/'src', tmp_path/'out', '3-6') < 60

# damage is named

def place(s, **names): edit_json(s/INDEX, lambda d: d['weight_map'].update(names))
def without_weights(s): return [p.unlink() for p in s.glob('*.safetensors*')]

broken = {  # what is spoilt, and the file or value that the message names
    'cut short': (lambda s: os.truncate(shard(s), shard(s).stat().st_size - 5), '00001-of'),
    'headless': (lambda s: shard(s).write_bytes(b'\xff' * 1000), '00001-of'),
    'overlap': (lambda s: edit_header(shard(s), lambda t: t[max(t)].update(data_offsets=[0, 4])), '00001-of'),
    'missing file': (lambda s: shard(s, 1).unlink(), '00002-of'),
    'missing tensor': (lambda s: place(s, ghost=shard(s).name), 'ghost'),
    'up and away': (lambda s: place(s, w='../../etc/passwd.safetensors'), '../../etc/passwd'),
    'no map': (lambda s: (s/INDEX).write_text('{}'), 'weight_map'),
    'config not JSON': (lambda s: (s/'config.json').write_text('nope'), 'config.json'),
    'no config': (lambda s: (s/'config.json').unlink(), 'config.json'),
    'a depth of 10^15': (lambda s: edit_json(s/'config.json', num_hidden_layers=10**15), 'impossible'),
    'no weights': (without_weights, 'no model.safetensors'),
    'pickle': (lambda s: (without_weights(s), (s/'pytorch_model.bin').touch()), 'pytorch_model.bin')}

@pytest.mark.parametrize('how', broken)
def test_damage_is_named_and_nothing_is_written(saved, tmp_path, how):
    spoil, said = broken[how]
    spoil(saved)
    with pytest.raises(PrunebookError, match=said): prune(saved, tmp_path/'out')
    assert absent(tmp_path/'out') and any(said in o for o in check_checkpoint(saved))

def test_check_names_the_faults_of_other_tools(saved, tmp_path):
    def spoilt(**change):
        shutil.copytree(saved, tmp_path/'bad', dirs_exist_ok=True)
        edit_json(tmp_path/'bad'/'config.json', **json.loads((saved/'config.json').read_text()) | change)
        return check_checkpoint(tmp_path/'bad')
    assert spoilt() == []
    assert 'says 4 layers, and the weights hold' in spoilt(num_hidden_layers=4)[0]
    assert 'layer_types has 8 entries for 6 layers' in spoilt(layer_types=['full_attention'] * 8)[0]
    assert any('another shape' in o for o in spoilt(intermediate_size=65))
    shutil.rmtree(tmp_path/'bad')
    model = tiny(layers=6)
    model.model.norm.weight.data *= float('nan')
    assert 'not finite' in check_checkpoint(save(tmp_path/'bad', model))[0]
    weights = tensors(tmp_path/'bad')
    del weights['model.layers.2.mlp.up_proj.weight']
    save_file(weights, tmp_path/'bad'/'model.safetensors', {'format': 'pt'})
    assert 'layer 2 lacks mlp.up_proj.weight' in check_checkpoint(tmp_path/'bad')[0]

# configs as their makers published them

def nemotron(c): return c.pop('layers_block_type') and c.update(hybrid_override_pattern='ME*-ME*-', num_hidden_layers=8)

def kimi(c):
    full = [i + 1 for i, o in enumerate(c.pop('layer_types')) if 'full' in o]
    kda = [i for i in range(1, 9) if i not in full]
    c.pop('mlp_layer_types', None)
    c.update(first_k_dense_replace=1, linear_attn_config=dict(
        full_attn_layers=full, kda_layers=kda, head_dim=c['linear_head_dim'], num_heads=c['linear_num_heads'],
        short_conv_kernel_size=c['linear_conv_kernel_dim']))

@pytest.mark.parametrize('kind, publish, says', [
    ('exaone', lambda c: c.update(num_layers=c.pop('num_hidden_layers')), dict(num_layers=6)),
    ('nemotron_h', nemotron, dict(num_hidden_layers=6, hybrid_override_pattern='ME*E*-')),
    ('kimi_linear', kimi, None)])
def test_fields_under_their_older_names_are_cut_too(kind, publish, says, tmp_path):
    "Other stacks read them, and of some transformers as well"
    src, out = save(tmp_path/'src', architectures.tiny(kind)), tmp_path/'out'
    edit_json(src/'config.json', publish)
    whole = AutoModelForCausalLM.from_pretrained(src, dtype=torch.float32).eval()
    want = architectures.call(prune_model(whole, [3, 4]))
    config = json.loads((prune(src, out, [3, 4])/'config.json').read_text())
    assert says is None or says.items() <= config.items()
    if kind == 'kimi_linear':
        lists = [config['linear_attn_config'][k] for k in ('full_attn_layers', 'kda_layers')]
        assert sorted(sum(lists, [])) == [1, 2, 3, 4, 5, 6]
    assert architectures.close(architectures.call(AutoModelForCausalLM.from_pretrained(out).eval()), want)
    if kind != 'kimi_linear': assert check_checkpoint(out, run=False) == []
    prune(out, tmp_path/'again', [0])

def test_what_transformers_saves_of_nemotron_h(tmp_path):
    "Its depth is the length of a list"
    src = save(tmp_path/'src', prune_model(architectures.tiny('nemotron_h'), [3, 4]))
    assert check_checkpoint(src, run=False) == []
    assert check_checkpoint(prune(src, tmp_path/'out'), run=False) == []

@pytest.mark.parametrize('file, content, says', [
    ('hf_quant_config.json', dict(quantization=dict(exclude_modules=['model.layers.0*'])), 'names single layers'),
    ('hf_quant_config.json', dict(quant_method='torchao'), 'quantised by torchao')])
def test_quantisation_that_a_cut_would_break_is_refused(single, file, content, says, tmp_path):
    (single/file).write_text(json.dumps(content))
    with pytest.raises(PrunebookError, match=says): prune(single, tmp_path/'out')

def test_details_of_numpy_are_written_as_numbers(single, tmp_path):
    plan = Plan([1], 6, 'mine', dict(score=np.float32(.5), by=np.arange(2)))
    prune(single, tmp_path/'disk', plan)
    save_pruned(prune_model(AutoModelForCausalLM.from_pretrained(single), plan), word_tokenizer(), tmp_path/'memory')
    for o in ('disk', 'memory'):
        record = json.loads((tmp_path/o/'config.json').read_text())['prunebook']
        assert record['details'] == dict(score=.5, by=[0, 1])
