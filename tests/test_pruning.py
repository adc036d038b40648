"Cuts in memory and on disk: the same tensors, sound reloads, and nothing half done when something is wrong."
import hashlib, json, os, resource, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook.pruning import (Plan, check_checkpoint, choose_layers, export_plan, new_folder, parse_layers, prune_checkpoint, prune_model, read_header,
    read_tensors, save_pruned, show_layers)
from prunebook.stack import Block, LayerStack, PrunebookError

small = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=64, vocab_size=99, max_position_embeddings=64, num_hidden_layers=6, pad_token_id=0, bos_token_id=1, eos_token_id=2)
kinds = dict(llama=dict(tie_word_embeddings=True), qwen3={}, gemma2={}, gemma3_text={}, gpt2=dict(n_embd=32, n_head=4, n_layer=6), gpt_neox={}, mixtral=dict(num_local_experts=4), qwen2_moe=dict(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, decoder_sparse_step=2),
    deepseek_v3=dict(num_key_value_heads=4, head_dim=None, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16))
ids = torch.arange(3, 15)[None]

def tiny(kind='llama', dtype=torch.float32, **kw):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{k: v for k, v in (small | kinds[kind] | kw).items() if v is not None}), dtype=dtype).eval()

def tensors(folder): return {k: v for f in Path(folder).glob('*.safetensors') for k, v in load_file(f).items()}
def digest(folder): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}
def nothing(folder): assert not folder.exists() and not list(folder.parent.glob(f'.{folder.name}*'))

class Tok:
    "Stands in for a tokenizer where only its saving matters"
    def save_pretrained(self, out): Path(out, 'tokenizer.json').write_text('{}')

@pytest.fixture
def saved(tmp_path):
    "A saved tiny Llama in three shards"
    tiny().save_pretrained(tmp_path/'src', max_shard_size='60KB')
    (tmp_path/'src'/'tokenizer.json').write_text('{}')
    assert (tmp_path/'src'/'model.safetensors.index.json').exists()
    return tmp_path/'src'

# which layers

def test_layers_as_text():
    assert parse_layers('11-18', 30) == parse_layers('11:19', 30) == list(range(11, 19))
    assert parse_layers('5', 6) == [5] and parse_layers(' 4 , 0-1', 6) == [0, 1, 4]
    for layers in ([0], [0, 1, 2], [0, 2, 3, 9]): assert parse_layers(show_layers(layers), 10) == layers
    for wrong in ('', 'a', '1-', '3-1', '3:3', '6', '0-6', '1,1', '1,,2', '1.5', '-1', '0x1'):
        with pytest.raises(PrunebookError): parse_layers(wrong, 6)

def test_plans_check_themselves(tmp_path):
    plan = Plan((4, 1), 6, 'mine', dict(why='because'))
    assert plan.layers == (1, 4) and plan.keep == [0, 2, 3, 5] and len(plan) == 2 and plan.fraction == 1 / 3
    plan.save(tmp_path/'plan.json')
    back = Plan.load(tmp_path/'plan.json')
    assert (back.layers, back.depth, back.strategy, back.details) == (plan.layers, 6, 'mine', plan.details)
    for wrong in ((), range(6), (6,), (-1,), (1, 1), (1.0,), (True,)):
        with pytest.raises(PrunebookError): Plan(tuple(wrong), 6)

def distances(depth=10, best=3):
    d = np.full((depth + 1, depth + 1), .9)
    for i in range(depth): d[i, i+1] = .1 + .01 * ((i * 7) % depth)
    d[best, best+2] = .2
    return SimpleNamespace(mean=d, depth=depth, best_block=lambda n: Block(int(np.argmin(np.diagonal(d, n))), n))

def test_strategies_by_hand():
    pick = lambda s, n=2, **kw: choose_layers(s, n=n, depth=10, **kw).layers
    assert pick('simple') == (7, 8) and pick('first') == (0, 1) and pick('middle') == (4, 5)
    assert pick('keep_last', k=0) == (8, 9) and pick('keep_last', k=1) == pick('simple') and pick('keep_last', k=3) == (5, 6)
    assert pick('similarity', distances=distances()) == (3, 4)
    assert pick('block_influence', n=3, distances=distances()) == (0, 3, 6)
    assert pick('block_influence', influence=[9, 1, 8, 7, 2, 6, 5, 9, 9, 9]) == (1, 4)
    assert choose_layers([7, 2], depth=10).layers == choose_layers(Block(2, 6), depth=10).layers[::5] == (2, 7)
    blocks = {pick('random', seed=s) for s in range(200)}
    assert blocks == {(i, i + 1) for i in range(9)} and pick('random', seed=5) == pick('random', seed=5)
    for n in range(1, 10): assert 9 not in pick('simple', n=n)

def test_searches_find_what_trying_everything_finds():
    model, target = tiny(), None
    with torch.no_grad(): target = model(ids).logits
    loss = lambda m: float((m(ids).logits - target).square().mean())
    with torch.no_grad():
        by_hand = {}
        for s in range(5): by_hand[s] = loss(prune_model(model, range(s, s + 2)))
        best = choose_layers('best_loss', n=2, model=model, loss=loss, progress=False)
        assert best.layers[0] == min(by_hand, key=by_hand.get) and best.details['losses'] == pytest.approx(list(by_hand.values()))
        greedy = choose_layers('greedy', n=3, model=model, loss=loss, progress=False)
        keep = list(range(6))
        for i in greedy.details['order']:
            tried = {o: loss(prune_model(model, [j for j in range(6) if j not in keep or j == o])) for o in keep}
            assert i == min(tried, key=tried.get)
            keep.remove(i)
    assert len(LayerStack(model)) == 6

# in memory

def test_pruning_leaves_its_argument():
    model = tiny()
    before, whole = model.config.to_json_string(), model(ids).logits
    a, b = prune_model(model, [1, 2]), prune_model(model, Block(3, 2))
    assert model.config.to_json_string() == before and torch.equal(model(ids).logits, whole) and len(LayerStack(model)) == 6
    assert {p.data_ptr() for p in a.parameters()} < {p.data_ptr() for p in model.parameters()}
    assert not {id(m) for m in a.modules()} & {id(m) for m in model.modules()}
    assert a.get_input_embeddings().weight is a.lm_head.weight, 'tied weights stay tied'
    assert not torch.equal(a(ids).logits, b(ids).logits)
    c = prune_model(model, [1, 2], inplace=True)
    assert c is model and len(LayerStack(model)) == 4 and torch.equal(model(ids).logits, a(ids).logits)

def test_pruning_twice_keeps_both_records(tmp_path):
    twice = prune_model(prune_model(tiny(), [1]), [3])
    save_pruned(twice, Tok(), tmp_path/'out')
    record = json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']
    assert (record['depth'], record['dropped'], record['previous']['depth'], record['previous']['dropped']) == (5, [3], 6, [1])

def test_wrong_layers_and_models():
    model = tiny()
    for drop in ([], range(6), [6], [-1], [2, 2], Plan((1,), 8)):
        with pytest.raises(PrunebookError): prune_model(model, drop)
    assert len(LayerStack(model)) == 6
    from peft import LoraConfig, get_peft_model
    with pytest.raises(PrunebookError, match='adapter'): prune_model(get_peft_model(tiny(), LoraConfig(target_modules=['q_proj'])), [1])

def test_what_the_config_cannot_say_is_refused():
    model = tiny('gpt2', scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(PrunebookError, match='scale_attn_by_inverse_layer_idx'): prune_model(model, [2])
    assert len(LayerStack(model)) == 6

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_types_and_generation_settings_survive(tmp_path, dtype):
    model = tiny(dtype=dtype)
    model.generation_config.temperature, model.generation_config.do_sample = .5, True
    save_pruned(prune_model(model, [2, 4]), Tok(), tmp_path/'out')
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'out')
    assert again.dtype == dtype and again.generation_config.temperature == .5

def test_four_bits(tmp_path):
    pytest.importorskip('bitsandbytes')
    from prunebook.data import quantization
    tiny(hidden_size=64, head_dim=16).save_pretrained(tmp_path/'whole')
    model = AutoModelForCausalLM.from_pretrained(tmp_path/'whole', quantization_config=quantization(4), device_map='cpu')
    with LayerStack(model).view([0, 2, 5]) as view: want = view(ids).logits
    pruned = prune_model(model, [1, 3, 4])
    assert torch.equal(pruned(ids).logits, want)
    pruned.save_pretrained(tmp_path/'small')
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path/'small', device_map='cpu')(ids).logits, want, atol=1e-5)

# on disk

@pytest.mark.parametrize('kind', kinds)
def test_disk_equals_memory(kind, tmp_path):
    drop = [1, 4]
    model = tiny(kind)
    model.save_pretrained(tmp_path/'src', max_shard_size='40KB')
    save_pruned(prune_model(model, drop), Tok(), tmp_path/'memory')
    prune_checkpoint(tmp_path/'src', tmp_path/'disk', drop, progress=False)
    a, b = tensors(tmp_path/'memory'), tensors(tmp_path/'disk')
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path/o, output_loading_info=True) for o in ('memory', 'disk')]
    assert not any(loaded[1][1].values()), loaded[1][1]
    x, y = (m.config.to_dict() for m, _ in loaded)
    skip = ('prunebook', '_name_or_path')
    assert {k: v for k, v in x.items() if k not in skip} == {k: v for k, v in y.items() if k not in skip}
    says = ('dropped', 'kept', 'depth') + (('parameters', 'bytes') if kind != 'deepseek_v3' else ())  # whose routers hold buffers too, which the files count
    assert [x['prunebook'][k] for k in says] == [y['prunebook'][k] for k in says]
    assert torch.equal(loaded[0][0](ids).logits, loaded[1][0](ids).logits)
    assert check_checkpoint(tmp_path/'disk') == []

def test_a_pattern_that_old_configs_leave_unsaid(tmp_path):
    "Gemma 2 alternates sliding and full layers; its released configs do not list them"
    model = tiny('gemma2')
    model.save_pretrained(tmp_path/'src')
    config = json.loads((tmp_path/'src'/'config.json').read_text())
    types = config.pop('layer_types')
    (tmp_path/'src'/'config.json').write_text(json.dumps(config))
    prune_checkpoint(tmp_path/'src', tmp_path/'out', '1-1', progress=False)
    assert json.loads((tmp_path/'out'/'config.json').read_text())['layer_types'] == types[:1] + types[2:]

def test_the_rest_of_the_folder_comes_along(saved, tmp_path):
    (saved/'notes.txt').write_text('mine')
    (saved/'pytorch_model.bin').write_bytes(b'old weights')
    before = digest(saved)
    prune_checkpoint(saved, tmp_path/'out', '2-3', progress=False)
    names = {p.name for p in (tmp_path/'out').iterdir()}
    assert {'config.json', 'generation_config.json', 'tokenizer.json', 'notes.txt', 'README.md'} <= names and 'pytorch_model.bin' not in names
    assert 'without 2 of its 6 layers' in (tmp_path/'out'/'README.md').read_text()
    assert digest(saved) == before
    index = json.loads((tmp_path/'out'/'model.safetensors.index.json').read_text())
    assert index['metadata']['total_size'] == sum(t.size for t in read_tensors(tmp_path/'out'))

def test_prediction_heads_beyond_the_depth_are_left_out(saved, tmp_path):
    save_file({'model.layers.6.extra.weight': torch.zeros(2)}, saved/'extra.safetensors')
    index = json.loads((saved/'model.safetensors.index.json').read_text())
    index['weight_map']['model.layers.6.extra.weight'] = 'extra.safetensors'
    (saved/'model.safetensors.index.json').write_text(json.dumps(index))
    prune_checkpoint(saved, tmp_path/'out', [0], progress=False)
    assert not [t.name for t in read_tensors(tmp_path/'out') if 'extra' in t.name] and check_checkpoint(tmp_path/'out') == []

@pytest.mark.parametrize('drop', [[], '0-5', [6], [1, 1], '4-9', 'x', Plan((1,), 7)])
def test_wrong_layers_write_nothing(saved, tmp_path, drop):
    with pytest.raises(PrunebookError): prune_checkpoint(saved, tmp_path/'out', drop)
    nothing(tmp_path/'out')

def test_source_and_full_folders_are_safe(saved, tmp_path):
    before = digest(saved)
    for out in (saved, saved/'in'):
        with pytest.raises(PrunebookError, match='never changed'): prune_checkpoint(saved, out, [1], force=True)
    os.symlink(saved, tmp_path/'link')
    with pytest.raises(PrunebookError, match='never changed'): prune_checkpoint(saved, tmp_path/'link', [1], force=True)
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'mine').write_text('x')
    with pytest.raises(PrunebookError, match='force'): prune_checkpoint(saved, tmp_path/'out', [1])
    assert (tmp_path/'out'/'mine').read_text() == 'x'
    prune_checkpoint(saved, tmp_path/'out', [1], force=True, progress=False)
    assert not (tmp_path/'out'/'mine').exists() and check_checkpoint(tmp_path/'out', run=False) == [] and digest(saved) == before

def edit_index(saved, f):
    path = saved/'model.safetensors.index.json'
    index = json.loads(path.read_text())
    f(index['weight_map'])
    path.write_text(json.dumps(index))

def shard(saved, i=0): return sorted(saved.glob('*.safetensors'))[i]

def header(file, f):
    "Rewrite the header of `file`"
    data = file.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    table = json.loads(data[8:8+n])
    f(table)
    new = json.dumps(table).encode()
    file.write_bytes(len(new).to_bytes(8, 'little') + new + data[8+n:])

def first(table): return next(k for k in table if k != '__metadata__')

broken = {
    'cut short': (lambda s: os.truncate(shard(s), shard(s).stat().st_size - 5), 'end at byte'),
    'empty': (lambda s: os.truncate(shard(s), 0), 'header'),
    'headless': (lambda s: shard(s).write_bytes(b'\xff' * 1000), 'header'),
    'no table': (lambda s: shard(s).write_bytes((4).to_bytes(8, 'little') + b'nope'), 'not a table'),
    'a list': (lambda s: shard(s).write_bytes((2).to_bytes(8, 'little') + b'[]'), 'not a table'),
    'overlap': (lambda s: header(shard(s), lambda t: t[first(t)].update(data_offsets=[0, 4])), 'overlap'),
    'backwards': (lambda s: header(shard(s), lambda t: t[first(t)].update(data_offsets=[8, 0])), 'overlap'),
    'no offsets': (lambda s: header(shard(s), lambda t: t[first(t)].pop('data_offsets')), 'not a table'),
    'trailing': (lambda s: shard(s).write_bytes(shard(s).read_bytes() + b'more'), 'follow the last'),
    'missing file': (lambda s: shard(s, 1).unlink(), 'no such file'),
    'missing tensor': (lambda s: edit_index(s, lambda m: m.update({'model.layers.0.ghost': shard(s).name})), 'not there'),
    'up and away': (lambda s: edit_index(s, lambda m: m.update({'model.norm.weight': '../../etc/passwd.safetensors'})), 'not a safetensors file beside it'),
    'absolute': (lambda s: edit_index(s, lambda m: m.update({'model.norm.weight': '/etc/passwd'})), 'not a safetensors file beside it'),
    'no map': (lambda s: (s/'model.safetensors.index.json').write_text('{}'), 'weight_map'),
    'index not JSON': (lambda s: (s/'model.safetensors.index.json').write_text('{'), 'not JSON'),
    'config not JSON': (lambda s: (s/'config.json').write_text('nope'), 'not JSON'),
    'config a list': (lambda s: (s/'config.json').write_text('[]'), 'no JSON object'),
    'no config': (lambda s: (s/'config.json').unlink(), 'cannot read'),
    'no depth': (lambda s: (s/'config.json').write_text('{"model_type": "llama"}'), 'num_hidden_layers'),
    'stale depth': (lambda s: (s/'config.json').write_text((s/'config.json').read_text().replace('"num_hidden_layers": 6', '"num_hidden_layers": 9')), '9 layers, and the weights hold 6'),
    'no weights': (lambda s: [p.unlink() for p in s.glob('*.safetensors*')], 'no model.safetensors'),
    'pickle': (lambda s: ([p.unlink() for p in s.glob('*.safetensors*')], (s/'pytorch_model.bin').write_bytes(b'x')), 'Convert them first: python -c')}

@pytest.mark.parametrize('how', broken)
def test_damage_is_named_and_nothing_is_written(saved, tmp_path, how):
    spoil, said = broken[how]
    spoil(saved)
    with pytest.raises(PrunebookError, match=said): prune_checkpoint(saved, tmp_path/'out', [1])
    nothing(tmp_path/'out')
    wrong = check_checkpoint(saved)
    assert any(said in o for o in wrong), wrong

def test_check_names_what_other_tools_leave(saved, tmp_path):
    def spoilt(**change):
        shutil.copytree(saved, tmp_path/'bad', dirs_exist_ok=True)
        config = json.loads((saved/'config.json').read_text())
        (tmp_path/'bad'/'config.json').write_text(json.dumps(config | change))
        return check_checkpoint(tmp_path/'bad')
    assert spoilt() == []
    assert 'says 4 layers, and the weights hold' in spoilt(num_hidden_layers=4)[0]
    assert 'layer_types has 8 entries for 6 layers' in spoilt(layer_types=['full_attention'] * 8)[0]
    assert any('another shape' in o for o in spoilt(intermediate_size=65))
    whole = tensors(saved)
    gone = {k: v for k, v in whole.items() if k != 'model.layers.2.mlp.up_proj.weight'}
    for p in (tmp_path/'bad').glob('*.safetensors*'): p.unlink()
    shutil.copy(saved/'config.json', tmp_path/'bad')
    save_file(gone, tmp_path/'bad'/'model.safetensors', {'format': 'pt'})
    assert 'layer 2 lacks mlp.up_proj.weight' in check_checkpoint(tmp_path/'bad')[0]
    save_file(whole | {'model.norm.weight': whole['model.norm.weight'] * float('nan')}, tmp_path/'bad'/'model.safetensors', {'format': 'pt'})
    assert 'not finite' in check_checkpoint(tmp_path/'bad')[0]

in_process = "import sys; from prunebook.pruning import *; from prunebook.stack import PrunebookError\n"

def run(code, *args, **kw):
    return subprocess.run([sys.executable, '-c', in_process + code, *map(str, args)], capture_output=True, text=True, **kw)

def test_a_full_disk_leaves_nothing(saved, tmp_path, monkeypatch):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # a write beyond fails, as on a full disk
    done = run("try: prune_checkpoint(sys.argv[1], sys.argv[2], [1], progress=False)\nexcept PrunebookError as e: print(e)", saved, tmp_path/'out', preexec_fn=limit)
    assert 'cannot write' in done.stdout, done.stderr
    nothing(tmp_path/'out')
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: SimpleNamespace(free=1000))
    with pytest.raises(PrunebookError, match='GB free'): prune_checkpoint(saved, tmp_path/'out', [1])
    nothing(tmp_path/'out')

def test_an_unwritable_place(saved, tmp_path):
    (tmp_path/'file').write_text('')
    for out in (tmp_path/'file', tmp_path/'file'/'out'):
        with pytest.raises(PrunebookError): prune_checkpoint(saved, out, [1])

def synthetic(folder, layers, mb, shards, name='model.layers'):
    "A Llama-like checkpoint of `layers` layers of `mb` MB each, its bytes a pattern"
    folder.mkdir()
    places, per = {}, -(-layers // shards)
    for s in range(shards):
        file, table, end = f'model-{s+1:05}-of-{shards:05}.safetensors', {}, 0
        for i in range(s * per, min(layers, (s + 1) * per)):
            for part in ('a', 'b'):
                table[f'{name}.{i}.{part}.weight'] = dict(dtype='BF16', shape=[mb << 8, 1024], data_offsets=[end, end + (mb << 19)])
                end += mb << 19
        head = json.dumps(table).encode()
        with open(folder/file, 'wb') as f:
            f.write(len(head).to_bytes(8, 'little') + head)
            for k in table: f.write(hashlib.sha256(k.encode()).digest() * (mb << 14))
        places |= dict.fromkeys(table, file)
    (folder/'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=places)))
    (folder/'config.json').write_text(json.dumps(dict(model_type='llama', num_hidden_layers=layers)))
    return folder

def right(folder, keep):
    "Are the bytes of the layers those of the layers that were kept?"
    for t in read_tensors(folder):
        was = t.name.replace(f'.{t.name.split(".")[2]}.', f'.{keep[int(t.name.split(".")[2])]}.')
        with open(t.file, 'rb') as f:
            f.seek(t.start)
            if f.read(t.size) != hashlib.sha256(was.encode()).digest() * (t.size // 32): return False
    return True

def test_killed_at_any_moment(tmp_path):
    src, out = synthetic(tmp_path/'src', 8, 8, 3), tmp_path/'out'
    before, whole = digest(src), 0
    code = "print('go', flush=True); prune_checkpoint(sys.argv[1], sys.argv[2], [2, 5], progress=False)"
    for k in range(12):
        p = subprocess.Popen([sys.executable, '-c', in_process + code, str(src), str(out)], stdout=subprocess.PIPE, text=True)
        p.stdout.readline()
        time.sleep(.02 * k)
        p.send_signal(signal.SIGKILL); p.wait()
        if out.exists():
            assert right(out, [0, 1, 3, 4, 6, 7]) and (out/'README.md').exists()
            whole += 1; shutil.rmtree(out)
    prune_checkpoint(src, out, [2, 5], progress=False)
    assert right(out, [0, 1, 3, 4, 6, 7]) and digest(src) == before
    assert not list(tmp_path.glob('.out*')), 'what killed runs left is cleared by the next'

def lean(src, out, drop):
    "Peak memory in MB above the bare imports' own, in a new process without torch"
    code = """import resource, sys
peak = lambda: int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1]) / 1024
bare = peak()
from prunebook.pruning import prune_checkpoint
prune_checkpoint(sys.argv[1], sys.argv[2], sys.argv[3], progress=False)
assert 'torch' not in sys.modules and 'transformers' not in sys.modules
print(peak() - bare)"""
    done = subprocess.run([sys.executable, '-c', code, str(src), str(out), drop], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)

def test_lean(tmp_path):
    src = synthetic(tmp_path/'src', 10, 40, 2)
    assert lean(src, tmp_path/'out', '3-6') < 150
    assert right(tmp_path/'out', [0, 1, 2, 7, 8, 9])

@pytest.mark.slow
def test_lean_at_gigabytes(tmp_path):
    src = synthetic(tmp_path/'src', 32, 128, 4)
    assert lean(src, tmp_path/'out', '20-27') < 150
    assert right(tmp_path/'out', [*range(20), *range(28, 32)])

def test_without_copy_file_range(saved, tmp_path, monkeypatch):
    prune_checkpoint(saved, tmp_path/'a', [1, 3], progress=False)
    monkeypatch.delattr(os, 'copy_file_range')
    prune_checkpoint(saved, tmp_path/'b', [1, 3], progress=False)
    a, b = digest(tmp_path/'a'), digest(tmp_path/'b')
    assert a == b

def test_folders_appear_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError):
        with new_folder(tmp_path/'a'/'b') as tmp: (tmp/'x').write_text('x'); raise RuntimeError
    nothing(tmp_path/'a'/'b')
    with new_folder(tmp_path/'a'/'b') as tmp: (tmp/'x').write_text('1')
    with pytest.raises(RuntimeError):
        with new_folder(tmp_path/'a'/'b', force=True) as tmp: raise RuntimeError
    assert (tmp_path/'a'/'b'/'x').read_text() == '1'

def test_exports():
    import yaml
    plan = Plan((3, 4, 6), 8)
    slices = yaml.safe_load(export_plan(plan, 'mergekit', 'org/name'))['slices']
    assert [o['sources'][0]['layer_range'] for o in slices] == [[0, 3], [5, 6], [7, 8]]
    assert export_plan(plan, 'llama-quantize') == '--prune-layers 3,4,6' and '[3, 4, 6]' in export_plan(plan, 'shortgpt')
    with pytest.raises(PrunebookError): export_plan(plan, 'word')

def test_uploads_what_was_saved(tmp_path, monkeypatch):
    import huggingface_hub
    calls = []
    class Api:
        def create_repo(self, repo, exist_ok): calls.append(repo)
        def upload_folder(self, repo_id, folder_path): calls.append((repo_id, {p.name for p in Path(folder_path).iterdir()}))
    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    save_pruned(prune_model(tiny(), [1]), Tok(), tmp_path/'out', push_to_hub='me/small', max_shard_size='60KB')
    assert calls[0] == 'me/small' and {'README.md', 'config.json', 'tokenizer.json', 'model.safetensors.index.json'} <= calls[1][1]

# the command

def command(*args):
    from prunebook.cli import main
    return main([str(o) for o in args])

def test_command_prunes_on_disk(saved, tmp_path, capsys):
    for name, spelt in dict(a='1-2', b='1:3', c='1,2').items(): assert command('prune', saved, tmp_path/name, '--drop', spelt, '--json', '--no-progress') == 0
    assert json.loads(capsys.readouterr().out.split('\n}\n')[0] + '}')['dropped'] == [1, 2]
    files = [{k: v for k, v in digest(tmp_path/o).items() if k.endswith('.safetensors')} for o in 'abc']
    assert files[0] == files[1] == files[2]
    assert command('prune', saved, tmp_path/'d', '--strategy', 'keep_last', '--n', 2, '--k', 1, '--no-progress') == 0
    assert json.loads((tmp_path/'d'/'config.json').read_text())['prunebook']['dropped'] == [3, 4]

@pytest.mark.parametrize('args', [['--drop', '4-6'], ['--drop', '0-5'], ['--drop', ''], ['--n', '6', '--strategy', 'simple'], ['--n', '2', '--strategy', 'luck'], [], ['--n', '1', '--drop', '1']])
def test_command_refuses_in_one_line(saved, tmp_path, capsys, args):
    assert command('prune', saved, tmp_path/'out', *args) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.startswith('prunebook prune: ') and said.err.count('\n') == 1
    nothing(tmp_path/'out')

def test_command_checks(saved, capsys):
    assert command('check', saved, '--files-only') == 0
    shard(saved).write_bytes(b'')
    assert command('check', saved, '--json') == 1
    found = json.loads(capsys.readouterr().out.split('problems: []\n')[1])
    assert not found['sound'] and 'header' in found['problems'][0]
