"Checkpoints on disk, by guarantee: the same cut as in memory, what transformers would load, whole or not at all."
import json
import os
import resource
import shutil
import subprocess
import sys
from types import SimpleNamespace
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from support import architectures
from support.checkpoints import (INDEX, absent, digest, edit_header, edit_json, has_layers, shard, synthetic, tensors)
from support.tiny import save, tiny, word_tokenizer
from prunebook.pruning.checkpoint import (check_checkpoint, prune_checkpoint, read_header, read_tensors, save_pruned,
                                          sound_record)
from prunebook.core import PrunebookError
from prunebook.model.stack import _reload_differs
from prunebook.model.stack import LayerStack
from prunebook.pruning.strategies import prune_model

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

def test_prediction_heads_beyond_the_depth_are_left_out(saved, tmp_path):
    save_file({'model.layers.6.extra.weight': torch.zeros(2)}, saved/'extra.safetensors')
    edit_json(saved/INDEX, lambda d: d['weight_map'].update({'model.layers.6.extra.weight': 'extra.safetensors'}))
    prune(saved, tmp_path/'out', [0])
    assert not [t.name for t in read_tensors(tmp_path/'out') if 'extra' in t.name]
    assert check_checkpoint(tmp_path/'out') == []

def test_without_copy_file_range(saved, tmp_path, monkeypatch):
    prune(saved, tmp_path/'a', [1, 3])
    monkeypatch.delattr(os, 'copy_file_range')
    prune(saved, tmp_path/'b', [1, 3])
    assert digest(tmp_path/'a') == digest(tmp_path/'b')

# a checkpoint means what transformers would load

def other(folder):
    "The tensors of a checkpoint with other numbers"
    return {k: v + 1 for k, v in tensors(folder).items()}

def test_an_index_beside_a_single_file(saved, tmp_path):
    "transformers loads model.safetensors: both ways of pruning must cut the same weights"
    save_file(other(saved), saved/'model.safetensors', {'format': 'pt'})
    want = load_file(saved/'model.safetensors')
    prune(saved, tmp_path/'disk')
    save_pruned(prune_model(AutoModelForCausalLM.from_pretrained(saved), [1]), word_tokenizer(), tmp_path/'memory')
    a, b = tensors(tmp_path/'disk'), tensors(tmp_path/'memory')
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(a['model.layers.1.mlp.up_proj.weight'], want['model.layers.2.mlp.up_proj.weight'])
    assert not (tmp_path/'disk'/INDEX).exists()

def test_a_stale_index_is_ignored(single, tmp_path):
    (single/INDEX).write_text(json.dumps(dict(weight_map={'model.norm.weight': 'model-00001-of-00002.safetensors'})))
    assert check_checkpoint(single) == []
    prune(single, tmp_path/'out')
    assert check_checkpoint(tmp_path/'out') == [] and not (tmp_path/'out'/INDEX).exists()

def test_weights_that_the_config_names(single, tmp_path):
    edit_json(single/'config.json', transformers_weights='new.safetensors')
    with pytest.raises(PrunebookError, match='new.safetensors'): prune(single, tmp_path/'bad')
    assert check_checkpoint(single, run=False)

def test_the_rest_of_the_folder_comes_along(saved, tmp_path):
    (saved/'notes.txt').write_text('mine')
    (saved/'pytorch_model.bin').write_bytes(b'old weights')
    (saved/'model.fp16.safetensors.index.json').write_text('{}')
    before = digest(saved)
    prune(saved, tmp_path/'out', '2-3')
    names = {p.name for p in (tmp_path/'out').iterdir()}
    assert {'config.json', 'generation_config.json', 'tokenizer.json', 'notes.txt', 'README.md'} <= names
    assert not names & {'pytorch_model.bin', 'model.fp16.safetensors.index.json'}
    assert 'without 2 of its 6 layers' in (tmp_path/'out'/'README.md').read_text()
    assert digest(saved) == before
    index = json.loads((tmp_path/'out'/INDEX).read_text())
    assert index['metadata']['total_size'] == sum(t.size for t in read_tensors(tmp_path/'out'))

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

def blobs(single, home):
    "Move the tokenizer into a cache like the hub's, with links in its place: the layout of old --local-dir downloads"
    (home/'blobs').mkdir(parents=True)
    for i, p in enumerate(sorted(single.glob('tokenizer*'))):
        shutil.move(p, home/'blobs'/f'{i:064x}')
        p.symlink_to(home/'blobs'/f'{i:064x}')

def test_a_tokenizer_linked_into_the_hub_cache_is_copied(single, tmp_path):
    blobs(single, tmp_path/'hub'/'models--lab--m')
    prune(single, tmp_path/'out')
    assert (tmp_path/'out'/'tokenizer.json').is_file() and not (tmp_path/'out'/'tokenizer.json').is_symlink()
    assert check_checkpoint(tmp_path/'out') == []

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
    lambda p, outside: os.mkfifo(p),
    lambda p, outside: p.symlink_to('/dev/zero'), lambda p, outside: p.symlink_to(p.name)])
@pytest.mark.parametrize('name', ['tokenizer.json', 'merges.txt', 'additional_chat_templates/a.jinja'])
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

def test_a_folder_without_a_usable_tokenizer(single):
    word_tokenizer().save_pretrained(single/'other')
    gone = [p for p in single.glob('*token*')]
    for p in gone: p.unlink()
    assert any('no files of a tokenizer' in o for o in check_checkpoint(single, run=False))
    (single/'tokenizer_config.json').write_text('{}')
    assert any('tokenizer' in o for o in check_checkpoint(single))

def test_a_tokenizer_of_another_model(tmp_path):
    save(tmp_path/'few', tiny(layers=2, vocab_size=50))
    save(tmp_path/'many', tiny(layers=2, vocab_size=5000))
    for o in ('few', 'many'): assert any('the tokenizer has' in p for p in check_checkpoint(tmp_path/o))

@pytest.mark.parametrize('config', [
    dict(stop_strings=['w1']), dict(num_beams=3), dict(num_return_sequences=2, do_sample=True),
    dict(prompt_lookup_num_tokens=3),
    dict(eos_token_id=list(range(99))), dict(min_new_tokens=50), dict(max_length=1), dict(return_dict_in_generate=True),
    dict(repetition_penalty=9.), dict(use_cache=False), dict(cache_implementation='static')])
def test_check_ignores_the_generation_settings(single, config):
    edit_json(single/'generation_config.json', **config)
    assert check_checkpoint(single) == []

@pytest.mark.parametrize('config', [
    dict(quant_method='gptq', dynamic={r'+:.*\.3\..*': dict(bits=8)}),
    dict(quant_method='compressed-tensors', ignore=[r're:.*layers\.[0-3]\..*']),
    dict(quant_method='bitsandbytes', llm_int8_skip_modules=['lm_head', 'model.layers.3.mlp'])])
def test_layers_that_a_quantisation_config_names(single, tmp_path, config):
    edit_json(single/'config.json', quantization_config=config)
    with pytest.raises(PrunebookError, match='single layers'): prune(single, tmp_path/'out')
    assert absent(tmp_path/'out')

# the record and the card

def front(folder): return (folder/'README.md').read_text().split('---')[1]

def test_base_model_is_a_hub_id_or_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path/'lab'/'m', tiny(layers=6))
    prune('lab/m', 'out')
    assert 'base_model' not in front(tmp_path/'out')
    assert json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']['source'] == 'm'
    save_pruned(prune_model(AutoModelForCausalLM.from_pretrained('lab/m'), [1]), word_tokenizer(), 'memory')
    assert 'base_model' not in front(tmp_path/'memory')
    prune('lab/m', 'named', source='lab/hub')
    assert 'base_model: lab/hub' in front(tmp_path/'named')
    assert str(tmp_path) not in (tmp_path/'out'/'config.json').read_text() + (tmp_path/'out'/'README.md').read_text()

def test_packed_bytes_are_no_parameters(tmp_path):
    pytest.importorskip('bitsandbytes')
    from prunebook.model.loading import quantization
    model = tiny(layers=6, hidden_size=64, head_dim=16)
    save(tmp_path/'src', model)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path/'src', quantization_config=quantization(4), device_map='cpu')
    save(tmp_path/'packed', packed)
    prune(tmp_path/'packed', tmp_path/'out', [1, 3])
    record = json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']
    whole, small = model.num_parameters(), prune_model(model, [1, 3]).num_parameters()
    assert record['parameters'] == dict(before=whole, after=small)
    assert prune_model(packed, [1, 3]).config.prunebook['parameters'] == record['parameters']

def test_parameters_of_other_packings_are_unknown(single, tmp_path):
    edit_json(single/'config.json', quantization_config=dict(quant_method='gptq', bits=4))
    prune(single, tmp_path/'out')
    record = json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']
    assert record['parameters'] == dict(before=None, after=None) and sound_record(record)
    assert '| parameters | unknown (quantised) |' in (tmp_path/'out'/'README.md').read_text()

@pytest.mark.parametrize('record', ['text', [1], dict(kept=3), dict(dropped=[1])])
def test_a_damaged_record_of_the_cut(saved, record):
    edit_json(saved/'config.json', prunebook=record)
    assert 'prunebook' in check_checkpoint(saved, run=False)[0]

# whole or not at all

def test_the_source_is_never_written(saved, tmp_path):
    before = digest(saved)
    os.symlink(saved, tmp_path/'link')
    for out in (saved, saved/'in', tmp_path/'link'):
        with pytest.raises(PrunebookError, match='never changed'): prune(saved, out, force=True)
    assert digest(saved) == before

def test_files_are_synced_before_they_are_put_in_place(saved, tmp_path):
    "After a power cut seconds after the end, no file may be empty"
    code = ('import os, sys\nfrom support.kills import audit_syncs\nseen = []\naudit_syncs()\n'
            'names = {"sync": 0, "os.rename": 1}\n'  # the path in its arguments
            'sys.addaudithook(lambda e, a: seen.append((e, str(a[names[e]]))) if e in names else None)\n'
            'from prunebook.pruning.checkpoint import prune_checkpoint\n'
            'prune_checkpoint(sys.argv[1], sys.argv[2], [1], progress=False)\n'
            'at = seen.index(("os.rename", sys.argv[2]))\n'
            'print(sorted({os.path.basename(p) for e, p in seen[:at]}))')
    done = subprocess.run([sys.executable, '-c', code, saved, tmp_path/'out'], capture_output=True, text=True,
                          env=os.environ | dict(PYTHONPATH=os.path.dirname(__file__)))
    assert done.returncode == 0, done.stderr
    assert all(repr(p.name) in done.stdout for p in (tmp_path/'out').iterdir())

in_process = "import sys; from prunebook.pruning.checkpoint import *; from prunebook.core import PrunebookError\n"

def test_a_full_disk_leaves_nothing(saved, tmp_path, monkeypatch):
    code = in_process + ('try: prune_checkpoint(sys.argv[1], sys.argv[2], [1], progress=False)\n'
                         'except PrunebookError as e: print(e)')

    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # a write beyond fails, as on a full disk
    cmd = [sys.executable, '-c', code, saved, tmp_path/'out']
    done = subprocess.run(cmd, capture_output=True, text=True, preexec_fn=limit)
    assert 'cannot write' in done.stdout, done.stderr
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

@pytest.mark.parametrize('kind', ['gpt_neox', 'bailing_hybrid'])
def test_models_that_name_their_base_otherwise_are_left(kind):
    from prunebook.model.configs import older_rotary
    assert older_rotary(dict(model_type=kind, rope_parameters=dict(rope_theta=5., rope_type='linear', factor=2.))) == {}
    assert older_rotary(dict(model_type='olmo3', rope_parameters=dict(full_attention=dict(rope_theta=5.)))) == {}

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

def lean(src, out, drop):
    "Peak memory in MB above the bare imports' own, in a new process without torch"
    code = """import sys
peak = lambda: int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1]) / 1024
from prunebook.pruning.checkpoint import prune_checkpoint
bare = peak()
prune_checkpoint(sys.argv[1], sys.argv[2], sys.argv[3], progress=False)
assert 'torch' not in sys.modules and 'transformers' not in sys.modules
print(peak() - bare)"""
    done = subprocess.run([sys.executable, '-c', code, src, out, drop], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('layers, mb', [(10, 40), pytest.param(32, 128, marks=pytest.mark.slow)])
def test_lean(tmp_path, layers, mb):
    src = synthetic(tmp_path/'src', layers, mb, 2)
    assert lean(src, tmp_path/'out', '3-6') < 60
    assert has_layers(tmp_path/'out', [0, 1, 2, *range(7, layers)])

@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json'])
def test_a_file_too_large_to_be_true(saved, tmp_path, name):
    with open(saved/name, 'ab') as f: f.truncate(70 << 20)
    size = f'{(saved/name).stat().st_size:,} bytes'
    with pytest.raises(PrunebookError, match=size): prune(saved, tmp_path/'out')
    assert any(size in o for o in check_checkpoint(saved, run=False))

def test_a_header_too_large_to_be_true(tmp_path):
    with open(tmp_path/'model.safetensors', 'wb') as f:
        f.write((60 << 20).to_bytes(8, 'little'))
        f.truncate(61 << 20)
    with pytest.raises(PrunebookError, match=f'{60 << 20:,}'): read_header(tmp_path/'model.safetensors')

# damage is named

def first(table): return next(k for k in table if k != '__metadata__')
def place(s, **names): edit_json(s/INDEX, lambda d: d['weight_map'].update(names))
def without_weights(s): return [p.unlink() for p in s.glob('*.safetensors*')]
def offsets(s, o): edit_header(shard(s), lambda t: t[first(t)].update(data_offsets=o))

broken = {  # what is spoilt, and the file or value that the message names
    'cut short': (lambda s: os.truncate(shard(s), shard(s).stat().st_size - 5), '00001-of'),
    'empty': (lambda s: os.truncate(shard(s), 0), '00001-of'),
    'headless': (lambda s: shard(s).write_bytes(b'\xff' * 1000), '00001-of'),
    'no table': (lambda s: shard(s).write_bytes((4).to_bytes(8, 'little') + b'nope'), '00001-of'),
    'a list': (lambda s: shard(s).write_bytes((2).to_bytes(8, 'little') + b'[]'), '00001-of'),
    'overlap': (lambda s: offsets(s, [0, 4]), '00001-of'), 'backwards': (lambda s: offsets(s, [8, 0]), '00001-of'),
    'no offsets': (lambda s: edit_header(shard(s), lambda t: t[first(t)].pop('data_offsets')), '00001-of'),
    'trailing': (lambda s: shard(s).write_bytes(shard(s).read_bytes() + b'more'), '00001-of'),
    'missing file': (lambda s: shard(s, 1).unlink(), '00002-of'),
    'missing tensor': (lambda s: place(s, ghost=shard(s).name), 'ghost'),
    'up and away': (lambda s: place(s, w='../../etc/passwd.safetensors'), '../../etc/passwd'),
    'absolute': (lambda s: place(s, w='/etc/passwd'), '/etc/passwd'),
    'no map': (lambda s: (s/INDEX).write_text('{}'), 'weight_map'),
    'index not JSON': (lambda s: (s/INDEX).write_text('{'), INDEX),
    'config not JSON': (lambda s: (s/'config.json').write_text('nope'), 'config.json'),
    'config a list': (lambda s: (s/'config.json').write_text('[]'), 'config.json'),
    'no config': (lambda s: (s/'config.json').unlink(), 'config.json'),
    'no depth': (lambda s: (s/'config.json').write_text('{"model_type": "llama"}'), 'num_hidden_layers'),
    'stale depth': (lambda s: edit_json(s/'config.json', num_hidden_layers=9), '9 layers, and the weights hold 6'),
    'deep JSON': (lambda s: (s/'config.json').write_text('{"a":' * 100_000), 'config.json'),
    'no weights': (without_weights, 'no model.safetensors'),
    'pickle': (lambda s: (without_weights(s), (s/'pytorch_model.bin').touch()), 'pytorch_model.bin')}

@pytest.mark.parametrize('how', broken)
def test_damage_is_named_and_nothing_is_written(saved, tmp_path, how):
    spoil, said = broken[how]
    spoil(saved)
    with pytest.raises(PrunebookError, match=said): prune(saved, tmp_path/'out')
    assert absent(tmp_path/'out') and any(said in o for o in check_checkpoint(saved))

one = dict(dtype='F32', shape=[1], data_offsets=[0, 4])

@pytest.mark.parametrize('entry', [
    one | dict(shape=[10**9]), one | dict(shape=[-1]), one | dict(shape=[1.0]), one | dict(data_offsets=[0.0, 4.0]),
    one | dict(dtype=3), one | dict(shape='a'), one | dict(shape=[True]), one | dict(data_offsets=[0, 10**400]),
    [], None, 7])
def test_hostile_headers(entry, tmp_path):
    head = json.dumps({'model.layers.0.w': entry}).encode()
    (tmp_path/'model.safetensors').write_bytes(len(head).to_bytes(8, 'little') + head + bytes(4))
    with pytest.raises(PrunebookError, match='damaged'): read_header(tmp_path/'model.safetensors')

@pytest.mark.parametrize('change, says', [
    (dict(num_hidden_layers=10**15), 'impossible'), (dict(num_hidden_layers=-6), 'impossible'),
    (dict(num_hidden_layers=True), 'num_hidden_layers'), (dict(scale_depth='x'), 'not as transformers writes'),
    (dict(layer_types=['full_attention'] * 6, attention_types=[[5, 'x']]), 'not as transformers writes'),
    (dict(per_layer_config=['x']), 'not as transformers writes')])
def test_hostile_configs(saved, tmp_path, change, says):
    edit_json(saved/'config.json', **change)
    with pytest.raises(PrunebookError, match=says): prune(saved, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_one_layer_under_two_names(single, tmp_path):
    "model.layers.01 is no second model.layers.1, whose place in the result it would take"
    was = tensors(single)
    save_file(was | {'model.layers.01.mlp.up_proj.weight': torch.zeros(3)}, single/'model.safetensors')
    prune(single, tmp_path/'out', [0])
    assert check_checkpoint(tmp_path/'out', run=False) == []
    name = 'model.layers.{}.mlp.up_proj.weight'
    assert torch.equal(tensors(tmp_path/'out')[name.format(0)], was[name.format(1)])

def test_a_tensor_in_two_shards(saved, tmp_path):
    a, b = shard(saved, 0), shard(saved, 1)
    name = next(iter(load_file(a)))
    save_file(load_file(b) | {name: torch.zeros(5)}, b, {'format': 'pt'})
    prune(saved, tmp_path/'out', [5])
    assert check_checkpoint(tmp_path/'out', run=False) == []
    assert torch.equal(tensors(tmp_path/'out')[name], load_file(a)[name])

def test_check_names_the_faults_of_other_tools(saved, tmp_path):
    def spoilt(**change):
        shutil.copytree(saved, tmp_path/'bad', dirs_exist_ok=True)
        edit_json(tmp_path/'bad'/'config.json', **json.loads((saved/'config.json').read_text()) | change)
        return check_checkpoint(tmp_path/'bad')
    assert spoilt() == []
    assert 'says 4 layers, and the weights hold' in spoilt(num_hidden_layers=4)[0]
    assert 'layer_types has 8 entries for 6 layers' in spoilt(layer_types=['full_attention'] * 8)[0]
    assert any('another shape' in o for o in spoilt(intermediate_size=65))
    was = tensors(saved)
    for p in (tmp_path/'bad').glob('*.safetensors*'): p.unlink()
    shutil.copy(saved/'config.json', tmp_path/'bad')
    lacking = {k: v for k, v in was.items() if k != 'model.layers.2.mlp.up_proj.weight'}
    save_file(lacking, tmp_path/'bad'/'model.safetensors', {'format': 'pt'})
    assert 'layer 2 lacks mlp.up_proj.weight' in check_checkpoint(tmp_path/'bad')[0]
    was['model.norm.weight'] = was['model.norm.weight'] * float('nan')
    save_file(was, tmp_path/'bad'/'model.safetensors', {'format': 'pt'})
    assert 'not finite' in check_checkpoint(tmp_path/'bad')[0]
