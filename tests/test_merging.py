"Merging on disk: exact against peft, little memory, whole or not at all, and refusals."
import json, shutil
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
import prunebook.healing.adapters as adapters
from prunebook import PrunebookError, heal, heal_checkpoint, load_model, merge_adapter, prune_model
from prunebook.healing.adapters import checkpoint_fingerprint, load_adapter
from prunebook.pruning.checkpoint import check_checkpoint, prune_checkpoint, read_tensors, save_pruned
from prunebook.cli import main
from prunebook.core import digest, read_json
from prunebook.healing.recipes import METHODS, Method
from prunebook.model.stack import fingerprint
from support import architectures
from support.checkpoints import absent, growth, tensors
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

@pytest.mark.parametrize('kind', KINDS)
def test_architectures(kind, tmp_path):
    "In several shards and 16 bits; weights that lie the other way round (GPT-2), names of their own (GPT-NeoX)"
    src, out = saved(tmp_path/'src', tiny(kind), max_shard_size='20KB'), tmp_path/'out'
    result = heal(src, tokenizer(), texts(), RECIPE, tmp_path/'run', False)
    merge_adapter(src, result.adapter, out, progress=False)
    got, was = tensors(out), tensors(src)
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in in_memory(src, result.adapter).items())
    about = lambda folder: [(t.name, t.shape, t.dtype) for t in read_tensors(folder)]
    assert about(out) == about(src) and len(list(src.glob('*.safetensors'))) > 2
    changed = {k for k in got if not torch.equal(got[k], was[k])}
    assert changed and all('mlp' in k or '.fc' in k or 'dense_' in k for k in changed)

@pytest.mark.parametrize('lora', [dict(use_dora=True), dict(use_rslora=True)])
def test_other_adapters_of_peft(lora, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, 'other', replace(METHODS['lora'], name='other', lora=lora))
    recipe, src = RECIPE.replace(method='other'), saved(tmp_path/'src')
    adapter = heal(src, None, texts(), recipe, tmp_path/'run', False).adapter
    merge_adapter(tmp_path/'src', adapter, tmp_path/'out', progress=False)
    want = in_memory(tmp_path/'src', adapter)
    assert all(torch.equal(v, want[k]) for k, v in tensors(tmp_path/'out').items())
    assert read_json(tmp_path/'out'/'config.json')['prunebook']['healed']['method'] == 'other'

def test_whole_tensors_are_replaced(tmp_path, monkeypatch):
    "A closed form has a new weight instead of an adapter"
    name = 'model.layers.1.mlp.down_proj.weight'
    solve = lambda model, *args: {name: 2 * model.get_parameter(name).detach()}
    monkeypatch.setitem(METHODS, 'solved', Method('solved', '', solve=solve))
    saved(tmp_path/'src', dtype=torch.float32)
    cut = AutoModelForCausalLM.from_pretrained(tmp_path/'src', dtype=torch.float32)
    result = run(cut, RECIPE.replace(method='solved'), out=tmp_path/'run')
    assert torch.equal(result.model.get_parameter(name), 2 * cut.get_parameter(name))
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

def test_a_second_healing_keeps_the_record_of_the_first(healed, tmp_path):
    heal_checkpoint(str(healed/'out'), tmp_path/'out', texts(), RECIPE.replace(steps=1, seed=3), progress=False)
    about = read_json(tmp_path/'out'/'config.json')['prunebook']['healed']
    assert (about['seed'], about['previous']['seed'], about['previous']['steps']) == (3, 0, 2)
    assert read_json(tmp_path/'out'/'adapter'/'asked.json')['texts'] == digest(*texts(), None)

# Refusals

def test_nothing_is_written_over_what_is_read(healed, tmp_path):
    "Neither the checkpoint, nor its adapter, nor the model that was healed, nor a teacher"
    src, adapter = healed/'src', healed/'run'/'adapter'
    model, tok = load_model(str(src))
    done, before = heal(model, tok, texts(), RECIPE, progress=False), sorted(src.rglob('*'))
    for write in (lambda: merge_adapter(src, adapter, src, True), lambda: merge_adapter(src, adapter, adapter, True),
                  lambda: done.save(tok, src, force=True),
                  lambda: run(model, RECIPE.replace(objective='distill'), out=src/'out', teacher=str(src))):
        with pytest.raises(PrunebookError, match='only read'): write()
    assert sorted(src.rglob('*')) == before

@pytest.mark.parametrize('damage', [
    lambda parts, name: parts.pop(name), lambda parts, name: parts.update({'base_model.model.x': torch.zeros(3)}),
    lambda parts, name: parts.update({name: parts[name][:, 1:].contiguous()}),
    lambda parts, name: parts[name].fill_(float('nan'))], ids=['missing', 'extra', 'shape', 'nan'])
def test_a_damaged_adapter_writes_nothing(damage, healed, tmp_path):
    shutil.copytree(healed/'run'/'adapter', tmp_path/'adapter')
    file = tmp_path/'adapter'/'adapter_model.safetensors'
    parts = load_file(file)
    damage(parts, next(k for k in parts if 'lora_A' in k))
    save_file(parts, file)
    with pytest.raises(PrunebookError): merge_adapter(healed/'src', tmp_path/'adapter', tmp_path/'out', progress=False)
    assert absent(tmp_path/'out')

def test_an_adapter_with_an_impossible_recipe_writes_nothing(healed, tmp_path):
    shutil.copytree(healed/'run'/'adapter', tmp_path/'adapter')
    note = json.loads((file := tmp_path/'adapter'/'prunebook.json').read_text())
    file.write_text(json.dumps(note | dict(config=note['config'] | dict(rank='many'))))
    with pytest.raises(PrunebookError, match="rank='many'"):
        merge_adapter(healed/'src', tmp_path/'adapter', tmp_path/'out', progress=False)
    assert absent(tmp_path/'out')

def test_a_place_that_is_taken_is_refused_before_anything_is_read(healed, tmp_path, monkeypatch):
    (tmp_path/'mine').write_text('mine')
    for o in ('checkpoint_folder', 'load_model'): monkeypatch.setattr(f'prunebook.healing.healing.{o}', pytest.fail)
    with pytest.raises(PrunebookError, match='not empty'): heal('lab/hub', None, texts(), RECIPE, tmp_path, False)
    for o in ('healing.adapters', 'pruning.checkpoint'):
        monkeypatch.setattr(f'prunebook.{o}.checkpoint_folder', pytest.fail)
    with pytest.raises(PrunebookError, match='not empty'): merge_adapter('lab/hub', healed/'run'/'adapter', tmp_path)
    with pytest.raises(PrunebookError, match='not empty'): prune_checkpoint('lab/hub', tmp_path, [1])

@pytest.mark.parametrize('bits', [None, 4])
def test_a_disk_without_room_is_seen_before_the_training(bits, healed, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda place: SimpleNamespace(free=9))
    monkeypatch.setattr('prunebook.healing.healing.heal', lambda *args, **kw: pytest.fail('trained'))
    with pytest.raises(PrunebookError, match='GB free'):
        heal_checkpoint(str(healed/'src'), tmp_path/'out', texts(), RECIPE, progress=False, bits=bits)
    assert absent(tmp_path/'out')

# Memory

def test_lean(tmp_path):
    "Merging takes less memory above the imports than two shards, and than half of the whole"
    wide = tiny(layers=11, hidden_size=1024, intermediate_size=5632, dtype=torch.bfloat16)
    saved(tmp_path/'src', wide, max_shard_size='150MB')
    adapter = heal(tmp_path/'src', None, texts(), RECIPE.replace(steps=1, batch_size=1), tmp_path/'run', False).adapter
    imports = ('import peft, torch, transformers, matplotlib.pyplot\nfrom transformers import AutoModelForCausalLM\n'
               'from prunebook.healing.adapters import merge_adapter')
    took = growth(imports, 'merge_adapter(*sys.argv[1:], progress=False)', tmp_path/'src', adapter, tmp_path/'out')
    sizes = [o.stat().st_size / 2**20 for o in (tmp_path/'src').glob('*.safetensors')]
    assert len(sizes) > 2 and took < min(2 * max(sizes), .5 * sum(sizes))

# The command

@pytest.fixture
def four_bits(tmp_path):
    "A checkpoint, the place of the healed one, and the words of the command"
    pytest.importorskip('bitsandbytes')
    src, out = saved(tmp_path/'src', tiny(hidden_size=64, intermediate_size=128)), tmp_path/'out'
    (tmp_path/'texts.txt').write_text('\n\n'.join(texts()))
    RECIPE.replace(bits=16).save(tmp_path/'recipe.json')
    return src, out, ['heal', str(src), str(out), '--texts', str(tmp_path/'texts.txt'), '--config',
                      str(tmp_path/'recipe.json'), '--bits', '4', '--no-progress']

def test_heal_in_four_bits_loads_nothing_else(four_bits, monkeypatch):
    "Killed before the merge, it goes on after the training"
    src, out, words = four_bits
    loaded, load = [], load_model
    def noted(*args, **kw):
        loaded.append(load(*args, **kw))
        return loaded[-1]
    monkeypatch.setattr('prunebook.healing.healing.load_model', noted)
    def dies(*args, **kw): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(adapters, '_merged_weight', dies)
        assert main(words) == 130 and not out.exists()
    assert main([*words, '--resume']) == 0
    assert all(model.is_loaded_in_4bit for model, _ in loaded) and len(loaded) == 2
    names = {p.name for p in out.iterdir()}
    assert {'adapter', 'config.json', 'model.safetensors', 'tokenizer.json', 'README.md', 'loss.png'} <= names
    assert not {'asked.json', 'healing'} & names and check_checkpoint(out) == []
    want = in_memory(src, out/'adapter')
    assert all(torch.equal(v, want[k]) for k, v in tensors(out).items())
    assert read_json(out/'config.json')['prunebook']['healed']['bits'] == 4

@pytest.mark.parametrize('chats', (True, False))
def test_heal_in_four_bits_judges_the_answers(chats, four_bits, tmp_path, monkeypatch, capsys):
    "Those of 4-bit copies; a model without a chat template has none, and is told not to be judged"
    src, out, words = four_bits
    if chats: (src/'chat_template.jinja').write_text('{% for m in messages %}{{ m.content }} {% endfor %}')
    asked, says = [], iter(('It is Ada.', ''))
    def answers(model, tok):
        asked.append((model.is_loaded_in_4bit, len(model.model.layers), model.name_or_path))
        return {'Who?': next(says)}
    monkeypatch.setattr('prunebook.healing.healing.sample_answers', answers)
    assert main([*words, '--json']) == (4 if chats else 0)
    said, err = capsys.readouterr()
    found, card = json.loads(said), (out/'README.md').read_text()
    assert found['not_judged'] == ('losses' if chats else 'losses and answers')
    assert asked == [(True, 4, str(o)) for o in ((src, tmp_path/'out.unfinished') if chats else ())]
    assert found.get('answers') == ({'Who?': dict(before='It is Ada.', after='')} if chats else None)
    assert ("'Who?'" in err) == ('It is Ada.' in card) == ('    (nothing)' in card) == chats
    assert '## Healing' in card
    assert '![Training loss' in card
    assert check_checkpoint(out) == []

def test_a_folder_is_healed_on_disk_with_no_option_that_would_do_nothing(healed, tmp_path):
    with pytest.raises(PrunebookError, match='leave out device_map'):
        heal_checkpoint(str(healed/'src'), tmp_path/'out', texts(), RECIPE, bits=4, device_map='cpu', dtype='auto')

@pytest.mark.parametrize('change', ['prompts', 'teacher'])
def test_answers_are_of_the_prompts_and_the_teacher_of_this_call(change, healed, tmp_path, monkeypatch):
    (file := tmp_path/'prompts.txt').write_text('w1 w2')
    given = dict(model=str(healed/'src'), out=tmp_path/'out', prompts=str(file), teacher=str(healed/'src'),
                 config=RECIPE, progress=False)
    def stop(small, tok, teacher, prompts, recipe, answers, progress, load):
        answers.write_text('{}')
        raise KeyboardInterrupt
    monkeypatch.setattr('prunebook.healing.healing.self_data', stop)
    for o in ('_with_room', '_compare_named'):  # they refuse a tokenizer that does not chat, and the model itself
        monkeypatch.setattr(f'prunebook.healing.healing.{o}', lambda *args, **kw: ['w1'])
    with pytest.raises(KeyboardInterrupt): heal_checkpoint(**given)
    if change == 'prompts': file.write_text('w5 w6')
    else: given['teacher'] = str(shutil.copytree(healed/'out', tmp_path/'src'))  # its name is the same
    with pytest.raises(PrunebookError, match=change): heal_checkpoint(**given, resume=True)

def test_a_kill_on_the_way_to_the_disk_costs_no_training(healed, tmp_path, monkeypatch):
    given = dict(model=str(healed/'src'), out=tmp_path/'out', texts=texts(), config=RECIPE, progress=False)
    def stop(folder):
        if folder.name == 'out.unfinished': raise KeyboardInterrupt
    with monkeypatch.context() as m:
        for place in ('core', 'healing.healing'): m.setattr(f'prunebook.{place}.sync_tree', stop, raising=False)
        with pytest.raises(KeyboardInterrupt): heal_checkpoint(**given)
    monkeypatch.setattr('prunebook.healing.healing._train', lambda *args, **kw: pytest.fail('trained again'))
    heal_checkpoint(**given, resume=True)
    assert check_checkpoint(tmp_path/'out') == []

def test_a_head_that_learned_alone_is_not_tied_again(tmp_path):
    "Some makers store a tied head beside the embedding; stacks that go by the config would drop what it learned"
    cut = prune_model(tiny(tie_word_embeddings=True), [2, 3])
    file = save_pruned(cut, tokenizer(), tmp_path/'cut')/'model.safetensors'
    weights = load_file(file)
    save_file(weights | {'lm_head.weight': weights['model.embed_tokens.weight'].clone()}, file, dict(format='pt'))
    model, _ = load_model(str(tmp_path/'cut'), progress=False)
    result = run(model, SMALL.replace(method='head_and_last', steps=2), out=tmp_path/'healed')
    merge_adapter(tmp_path/'cut', result.adapter, tmp_path/'merged', progress=False)
    assert read_json(tmp_path/'merged'/'config.json')['tie_word_embeddings'] is False
    again, _ = load_model(str(tmp_path/'merged'), progress=False)
    assert torch.equal(again.lm_head.weight, result.model.lm_head.weight)

@pytest.mark.parametrize('kind', ['gemma3', 'nemotron_h'])
def test_names_that_transformers_changes_while_it_loads(kind, tmp_path):
    "A folder in its own names is healed in 4 bits and merged as in memory"
    kinds = ['linear_attention', 'mlp', 'full_attention', 'mlp'] * 2  # experts are stored in another form
    model = tiny(kind) if kind == 'gemma3' else architectures.tiny(kind, layers_block_type=kinds)
    save_pruned(prune_model(model, [2, 3]), tokenizer(), tmp_path/'cut')
    small, _ = load_model(str(tmp_path/'cut'), progress=False)
    assert checkpoint_fingerprint(tmp_path/'cut') == fingerprint(small)
    result = run(small, SMALL.replace(steps=2), out=tmp_path/'healed')
    merge_adapter(tmp_path/'cut', result.adapter, tmp_path/'merged', progress=False)
    again, _ = load_model(str(tmp_path/'merged'), progress=False)
    for k, v in result.model.state_dict().items(): torch.testing.assert_close(again.state_dict()[k], v)
