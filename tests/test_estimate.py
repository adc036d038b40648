"The estimate's arithmetic against what torch counts, and the advice of the command line against its own options."
import argparse, json
from dataclasses import replace
import pytest, torch
from torch.utils.flop_counter import FlopCounterMode
from prunebook import HealingConfig, PrunebookError, heal, model_size, prune_model, save_pruned
from prunebook.cli import _smaller, _source
from prunebook.estimate import work, working_gb
from prunebook.healing import _collate, _rows, _student
from test_healing import texts, tiny, tokenizer

WIDE = dict(hidden_size=192, intermediate_size=512, vocab_size=99, num_hidden_layers=8)
LIGHT = HealingConfig(steps=1, batch_size=4, max_length=16, rank=1, bits=32, packing='chunk', deterministic=False)

@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    "A model, and its size as `estimate` reads it"
    folder = tmp_path_factory.mktemp('estimate')/'small'
    small = prune_model(tiny(**WIDE), [3, 4])
    save_pruned(small, tokenizer(), folder)
    return small, model_size(str(folder)), folder

@pytest.mark.parametrize('again', [False, True])
def test_operations_of_healing(pruned, again):
    "A step with the narrowest adapter; attention, which the arithmetic leaves out, is little for sixteen tokens"
    model, size, _ = pruned
    with FlopCounterMode(display=False) as counted: heal(model, tokenizer(), texts(), replace(LIGHT, gradient_checkpointing=again), progress=False)
    tokens = LIGHT.batch_size * LIGHT.max_length
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'heal', tokens, again), rel=.15)

def test_operations_of_a_measurement(pruned):
    model, size, _ = pruned
    ids = torch.arange(3, 67).view(4, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'evaluate', 64), rel=.1)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model.base_model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'similarity', 64), rel=.1)

@pytest.mark.parametrize('again', [False, True])
def test_what_a_forward_pass_leaves_behind(pruned, again):
    "Every tensor that is kept for the way back, but weights. Of layers that are run again only their input is, and one layer's at a time comes on top of it"
    model, size, _ = pruned
    config = replace(LIGHT, gradient_checkpointing=again)
    student, causal = _student(model, config)
    own, kept = {p.untyped_storage().data_ptr() for p in causal.parameters()}, {}
    def keep(t):
        if (s := t.untyped_storage()).data_ptr() not in own: kept[s.data_ptr()] = s.nbytes()
        return t
    rows = _rows(tokenizer(), texts(), config)
    batch = _collate([rows[i] for i in range(4)])
    student.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): causal.base_model(input_ids=batch['input_ids'])
    recipe = dict(batch_size=4, max_length=16, rank=1)
    both = {o: working_gb(size, 'heal', 4, recipe=recipe | dict(gradient_checkpointing=o)) for o in (False, True)}
    one_layer = (both[False] - both[True] + (a := 4 * 16 * 4 * size.depth * size.hidden / 1e9)) / (size.depth - 1)  # what the formula gives a layer
    said = a if again else one_layer * size.depth
    assert .6 * said < sum(kept.values()) / 1e9 < 1.25 * said

def test_a_longer_batch_and_layers_run_again(pruned):
    size = pruned[1]
    gb = lambda **kw: working_gb(size, 'heal', 2, recipe=dict(batch_size=8, max_length=512) | kw)
    assert gb(gradient_checkpointing=True) < gb(micro_batch=2) < gb()
    assert gb(micro_batch=2) == gb(batch_size=2)

@pytest.mark.parametrize('command, given, want', [
    ('heal', dict(micro_batch=None, gradient_checkpointing=False), ['--micro-batch 1', '--gradient-checkpointing', '--config']),
    ('heal', dict(micro_batch=1, gradient_checkpointing=True), ['--config']),
    ('similarity', dict(batch_tokens=None, max_length=512), ['--batch-tokens', '--max-length']),
    ('evaluate', dict(batch_tokens=None, max_length=512, bits=None), ['--batch-tokens', '--max-length', '--bits 4'])])
def test_advice_names_what_the_command_has(command, given, want):
    says = _smaller(argparse.Namespace(command=command, **given))
    options = ['--micro-batch 1', '--gradient-checkpointing', '--config', '--batch-tokens', '--max-length', '--bits 4']
    assert [o for o in options if o in says] == want and says.endswith('a larger machine')

def test_the_recipe_goes_by_the_first_model(pruned, tmp_path):
    "A folder that was pruned says of what; one that does not, or a hub id, stands for itself"
    folder = pruned[2]
    config = json.loads((folder/'config.json').read_text())
    config['prunebook']['source'] = 'mistralai/Mistral-7B-v0.1'
    (tmp_path/'config.json').write_text(json.dumps(config))
    assert _source(str(tmp_path)) == 'mistralai/Mistral-7B-v0.1' and _source('meta-llama/Llama-2-7b-hf') == 'meta-llama/Llama-2-7b-hf'
    del config['prunebook']
    (tmp_path/'config.json').write_text(json.dumps(config))
    assert _source(str(tmp_path)) == str(tmp_path)
    for broken in ('[]', '{"prunebook": 3}'):
        (tmp_path/'config.json').write_text(broken)
        try: assert _source(str(tmp_path)) == str(tmp_path)
        except PrunebookError: assert broken == '[]'
