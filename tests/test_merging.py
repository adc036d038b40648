"Merging on disk: exact against peft, little memory, whole or not at all, and refusals."
import os, shutil, subprocess, sys
from dataclasses import replace
import pytest, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
import prunebook.healing.adapters as adapters
from prunebook import PrunebookError, heal, merge_adapter, prune_model
from prunebook.healing.adapters import checkpoint_fingerprint, load_adapter
from prunebook.pruning.checkpoint import check_checkpoint, read_tensors, save_pruned
from prunebook.cli import main
from prunebook.core import read_json
from prunebook.healing.methods import METHODS
from prunebook.model.stack import fingerprint
from support.checkpoints import absent, digest, tensors
from support.healing import SMALL, run, texts, tiny, tokenizer

RECIPE = SMALL.replace(steps=2)
KINDS = ('llama', 'gpt2', 'gemma3_text', 'gpt_neox', 'falcon', 'opt')


def saved(folder, model=None, dtype=torch.bfloat16, **kw):
    "A pruned checkpoint in 16 bits"
    return save_pruned(prune_model(tiny() if model is None else model, [2, 3]).to(dtype), tokenizer(), folder, **kw)


@pytest.fixture(scope='module')
def healed(tmp_path_factory):
    "A checkpoint of several shards, its adapter, and the two merged"
    place = tmp_path_factory.mktemp('merging')
    saved(place/'src', max_shard_size='20KB')
    heal(place/'src', None, texts(), RECIPE, place/'run', False)
    merge_adapter(place/'src', place/'run'/'adapter', place/'out', progress=False)
    return place


def in_memory(folder, adapter):
    "peft's merge in float32, rounded once"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {k: v.bfloat16() for k, v in load_adapter(model, adapter).state_dict().items()}


# The result

def test_merged_to_the_bit(healed):
    src, out, adapter = healed/'src', healed/'out', healed/'run'/'adapter'
    assert len(list(src.glob('*.safetensors'))) > 2
    want, was, got = in_memory(src, adapter), tensors(src), tensors(out)
    assert got.keys() == was.keys() and all(torch.equal(got[k], want[k]) for k in got)
    changed = {k for k in got if not torch.equal(got[k], was[k])}
    assert changed and all('.mlp.' in k for k in changed)
    about = lambda folder: [(t.name, t.shape, t.dtype) for t in read_tensors(folder)]
    assert about(out) == about(src)


def test_the_folder_is_a_healed_checkpoint(healed):
    config = read_json(healed/'out'/'config.json')
    assert config['prunebook']['healed']['steps'] == 2 and config['prunebook']['dropped'] == [2, 3]
    assert '## Healing' in (healed/'out'/'README.md').read_text() and (healed/'out'/'loss.png').exists()
    for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        assert (healed/'out'/name).read_bytes() == (healed/'src'/name).read_bytes()
    assert check_checkpoint(healed/'out') == []
    assert sorted(p.name for p in healed.iterdir()) == ['out', 'run', 'src']


@pytest.mark.parametrize('kind', KINDS)
def test_architectures(kind, tmp_path):
    "Also weights that lie the other way round (GPT-2), and names of their own (GPT-NeoX)"
    saved(tmp_path/'src', tiny(kind))
    result = heal(tmp_path/'src', tokenizer(), texts(), RECIPE, tmp_path/'run', False)
    merge_adapter(tmp_path/'src', result.adapter, tmp_path/'out', progress=False)
    got = AutoModelForCausalLM.from_pretrained(tmp_path/'out').state_dict()
    assert all(torch.equal(got[k], v) for k, v in in_memory(tmp_path/'src', result.adapter).items())


@pytest.mark.parametrize('lora', [dict(use_dora=True), dict(use_rslora=True)])
def test_other_adapters_of_peft(lora, tmp_path):
    METHODS.add(replace(METHODS['lora'], name='other', lora=lora))
    recipe, src = RECIPE.replace(method='other'), saved(tmp_path/'src')
    try: adapter = heal(src, None, texts(), recipe, tmp_path/'run', False).adapter
    finally: del METHODS['other']
    merge_adapter(tmp_path/'src', adapter, tmp_path/'out', progress=False)
    want = in_memory(tmp_path/'src', adapter)
    assert all(torch.equal(v, want[k]) for k, v in tensors(tmp_path/'out').items())
    assert read_json(tmp_path/'out'/'config.json')['prunebook']['healed']['method'] == 'other'


def test_whole_tensors_are_replaced(tmp_path):
    "The closed form has a new weight instead of an adapter"
    model = tiny()
    saved(tmp_path/'src', model, torch.float32)
    cut = AutoModelForCausalLM.from_pretrained(tmp_path/'src', dtype=torch.float32)
    result = run(cut, RECIPE.replace(method='linear_patch'), out=tmp_path/'run', teacher=model)
    merge_adapter(tmp_path/'src', result.adapter, tmp_path/'out', progress=False)
    want = result.model.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in tensors(tmp_path/'out').items())


# Healing a folder

def test_a_folder_is_healed_as_its_model(healed, tmp_path):
    "The same base, the same losses: only where the weights are kept differs"
    model = AutoModelForCausalLM.from_pretrained(healed/'src')
    assert checkpoint_fingerprint(healed/'src') == fingerprint(model)
    one = run(model.float(), RECIPE, out=tmp_path/'one')
    two = heal(healed/'src', None, texts(), RECIPE, tmp_path/'two', False)
    assert two.model is None and two.history == one.history
    name = 'adapter_model.safetensors'
    assert (one.adapter/name).read_bytes() == (two.adapter/name).read_bytes()
    with pytest.raises(PrunebookError, match='merge_adapter'): two.save(tokenizer(), tmp_path/'saved')


def test_only_the_four_bits_are_loaded(tmp_path):
    pytest.importorskip('bitsandbytes')
    cut = tiny(hidden_size=64, intermediate_size=128)
    saved(tmp_path/'src', cut)
    result = heal(tmp_path/'src', None, texts(), RECIPE.replace(bits=4), tmp_path/'run', False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path/'src', dtype=torch.bfloat16)
    want = run(model, RECIPE.replace(bits=4)).history
    assert [o['loss'] for o in result.history] == pytest.approx([o['loss'] for o in want], abs=2e-3)
    merge_adapter(tmp_path/'src', result.adapter, tmp_path/'out', progress=False)
    assert {t.dtype for t in read_tensors(tmp_path/'out')} == {'BF16'}


def test_rows_that_do_not_fit_are_halved(healed, monkeypatch, tmp_path):
    "The adapters of the first attempt are taken off the one copy that there is"
    want = heal(healed/'src', None, texts(), RECIPE.replace(dropout=0., batch_tokens=16), progress=False)
    old = torch.nn.Embedding.forward
    def forward(self, x):
        if x.numel() > 16: raise torch.OutOfMemoryError('CUDA out of memory')
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', forward)
    got = heal(healed/'src', None, texts(), RECIPE.replace(dropout=0.), progress=False)
    assert got.history == want.history and got.adapter.keys() == want.adapter.keys()


# Refusals

def test_refusals(healed, tmp_path):
    adapter, merge = healed/'run'/'adapter', lambda *a, **kw: merge_adapter(*a, progress=False, **kw)
    saved(tmp_path/'other', tiny(seed=1))
    with pytest.raises(PrunebookError, match='Give the very model'): merge(tmp_path/'other', adapter, tmp_path/'a')
    with pytest.raises(PrunebookError, match='not an adapter'): merge(healed/'src', tmp_path, tmp_path.parent/'b')
    with pytest.raises(PrunebookError, match='only read'): merge(healed/'src', adapter, healed/'src', force=True)
    with pytest.raises(PrunebookError, match='only read'): merge(healed/'src', adapter, adapter, force=True)
    with pytest.raises(PrunebookError, match='not empty'): merge(healed/'src', adapter, healed/'out')
    with pytest.raises(PrunebookError, match='needs them in memory'):
        heal(healed/'src', None, texts(), RECIPE.replace(method='head_and_last'), progress=False)
    assert absent(tmp_path/'a')


@pytest.mark.parametrize('damage', ['missing', 'extra', 'shape', 'nan'])
def test_a_damaged_adapter_writes_nothing(damage, healed, tmp_path):
    shutil.copytree(healed/'run'/'adapter', tmp_path/'adapter')
    file = tmp_path/'adapter'/'adapter_model.safetensors'
    parts = load_file(file)
    name = next(k for k in parts if 'lora_A' in k)
    if damage == 'missing': del parts[name]
    if damage == 'extra': parts['base_model.model.lm_head.bias'] = torch.zeros(3)
    if damage == 'shape': parts[name] = parts[name][:, 1:].contiguous()
    if damage == 'nan': parts[name] = parts[name] * float('nan')
    save_file(parts, file)
    with pytest.raises(PrunebookError): merge_adapter(healed/'src', tmp_path/'adapter', tmp_path/'out', progress=False)
    assert absent(tmp_path/'out')


def test_a_killed_merge_leaves_the_old(healed, tmp_path, monkeypatch):
    "Nothing appears at OUT, and what is there stays"
    def full(*args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(adapters, '_merged_weight', full)
    adapter = healed/'run'/'adapter'
    with pytest.raises(PrunebookError, match='No space left'):
        merge_adapter(healed/'src', adapter, tmp_path/'out', progress=False)
    assert absent(tmp_path/'out')
    before = digest(healed/'out')
    with pytest.raises(PrunebookError): merge_adapter(healed/'src', adapter, healed/'out', True, False)
    assert digest(healed/'out') == before


# Memory

LEAN = '''
import sys
from prunebook.healing.adapters import merge_adapter
read = lambda: next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM')) * 1024
import peft, torch, transformers, matplotlib.pyplot
from transformers import AutoModelForCausalLM
before = read()
merge_adapter(*sys.argv[1:], progress=False)
print(read() - before)
'''


def test_lean(tmp_path):
    "Merging takes less memory above the imports than two shards, and than half of the whole"
    config = LlamaConfig(hidden_size=1024, intermediate_size=5632, num_hidden_layers=11, vocab_size=99,
                         num_attention_heads=8)
    saved(tmp_path/'src', LlamaForCausalLM(config), max_shard_size='150MB')
    adapter = heal(tmp_path/'src', None, texts(), RECIPE.replace(steps=1, batch_size=1), tmp_path/'run', False).adapter
    done = subprocess.run([sys.executable, '-c', LEAN, *map(str, (tmp_path/'src', adapter, tmp_path/'out'))],
                          env=os.environ | dict(OMP_NUM_THREADS='1'), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes = [o.stat().st_size for o in (tmp_path/'src').glob('*.safetensors')]
    assert len(sizes) > 2 and int(done.stdout) < min(2 * max(sizes), .5 * sum(sizes))


# The command

@pytest.fixture
def files(healed, tmp_path):
    "Arguments of `prunebook heal`"
    (tmp_path/'texts.txt').write_text('\n\n'.join(texts()))
    replace(RECIPE, bits=16).save(tmp_path/'recipe.json')
    def given(*more, src=healed/'src', out=tmp_path/'out'):
        return [str(o) for o in ('heal', src, out, '--texts', tmp_path/'texts.txt', '--config', tmp_path/'recipe.json',
                                 '--no-progress', *more)]
    return given


def test_heal_in_four_bits_loads_nothing_else(files, tmp_path, monkeypatch, capsys):
    "Killed before the merge, it goes on after the training"
    pytest.importorskip('bitsandbytes')
    saved(tmp_path/'src', tiny(hidden_size=64, intermediate_size=128))
    from prunebook.model import loading as models
    load, loaded = models.load_model, []
    def noted(*args, **kw):
        loaded.append(load(*args, **kw))
        return loaded[-1]
    monkeypatch.setattr('prunebook.healing.adapters.load_model', noted)
    args = files('--bits', 4, src=tmp_path/'src')
    def dies(*args, **kw): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(adapters, '_merged_weight', dies)
        assert main(args) == 130 and not (tmp_path/'out').exists()
    assert main([*args, '--resume']) == 0
    assert all(model.is_loaded_in_4bit for model, _ in loaded) and len(loaded) == 2
    names = {p.name for p in (tmp_path/'out').iterdir()}
    assert {'adapter', 'config.json', 'model.safetensors', 'tokenizer.json', 'README.md', 'loss.png'} <= names
    assert not {'asked.json', 'healing'} & names and check_checkpoint(tmp_path/'out') == []
    want = in_memory(tmp_path/'src', tmp_path/'out'/'adapter')
    assert all(torch.equal(v, want[k]) for k, v in tensors(tmp_path/'out').items())
    assert read_json(tmp_path/'out'/'config.json')['prunebook']['healed']['bits'] == 4


@pytest.mark.parametrize('more, says', [(('--train-bits', 16), 'Leave out --train-bits'),
                                        (('--revision', 'main'), 'leave out --revision'),
                                        (('--method', 'head_and_last'), 'needs them in memory')])
def test_heal_in_four_bits_refuses(more, says, files, tmp_path, capsys):
    assert main(files('--bits', 4, *more)) == 2
    assert says in capsys.readouterr().err and not (tmp_path/'out').exists()
