"""Healing with the model divided among processes (FSDP): two processes on a CPU, over gloo, with the configuration that
the docs ship. accelerate takes FSDP for accelerators only; `support.fsdp.allow_cpu` lifts that for these tests."""
import shutil
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from prunebook import PrunebookError, prune_model
from prunebook.pruning.checkpoint import check_checkpoint, read_tensors, save_pruned
from prunebook.core import fully_sharded, read_json
from support.fsdp import launch
from support.healing import SMALL, run, texts, tiny, tokenizer

pytestmark = pytest.mark.thorough
WIDE = dict(hidden_size=64, intermediate_size=128)  # 4 bits come in blocks of 64
RECIPE = SMALL.replace(dropout=0., save_every=1)

SCRIPT = '''
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.fsdp import allow_cpu
allow_cpu()
from support.healing import *
from transformers import AutoModelForCausalLM
from prunebook import prune_model
from prunebook.healing import trainer
from prunebook.core import process
part, out, rank = sys.argv[1], Path(sys.argv[2]), process().rank
config = SMALL.replace(dropout=0., save_every=1)
cut = prune_model(tiny(hidden_size=64, intermediate_size=128), [2, 3])
before, seen, HEAD = state(cut), [], dict(method='head_and_last', options=dict(last=1))

class Seen(trainer._OrderedTrainer):
    def training_step(self, model, *args):
        own, whole = zip(*((p.to_local().numel(), p.numel()) for p in self.model.parameters()))
        seen.append(sum(own) / sum(whole))
        return super().training_step(model, *args)
trainer._OrderedTrainer = Seen

if part == 'all':
    result = run(cut, config, out=out/'lora', force=True)
    assert same(before, state(cut)), 'the given model stays whole and as it was'
    assert .45 < seen[-1] < .55, seen[-1]
    torch.save(result.model.state_dict(), out/f'{rank}.pt')
    run(AutoModelForCausalLM.from_pretrained(out/'pruned'), config.replace(bits=4), out=out/'qlora')
    assert .45 < seen[-1] < .55, seen[-1]
    assert heal(out/'pruned', None, texts(), config.replace(bits=4), out/'disk', False).model is None
    assert .45 < seen[-1] < .55, seen[-1]
    run(prune_model(tiny(hidden_size=64, intermediate_size=128), [2, 3]), config.replace(gradient_checkpointing=True),
        out=out/'again')
    run(prune_model(tiny(hidden_size=64, intermediate_size=128), [2, 3]), config.replace(**HEAD), out=out/'head')
    save = trainer._OrderedTrainer._save_optimizer_and_scheduler
    def dies(self, folder):
        if folder.endswith('-4'): os.kill(os.getpid(), signal.SIGKILL)
        return save(self, folder)
    trainer._OrderedTrainer._save_optimizer_and_scheduler = dies
run(prune_model(tiny(hidden_size=64, intermediate_size=128), [2, 3]), config, out=out/'killed', resume=True)
from prunebook.cli import main
assert main(['heal', str(out/'pruned'), str(out/'cli'), '--texts', str(out/'texts.txt'), '--config',
             str(out/'recipe.json'), '--bits', '4', '--no-progress']) == 0
'''

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "The folders of a launch that is killed in its last run"
    out, model = tmp_path_factory.mktemp('fsdp'), tiny(**WIDE)
    run(prune_model(model, [2, 3]), RECIPE.replace(seed=7), out=out/'lora')  # an older run, which is replaced
    save_pruned(prune_model(model, [2, 3]).bfloat16(), tokenizer(), out/'pruned')
    (out/'script.py').write_text(SCRIPT)
    (out/'texts.txt').write_text('\n\n'.join(texts()))
    RECIPE.save(out/'recipe.json')
    said = launch(out/'script.py', 'all', out, Path(__file__).parent)
    assert (out/'killed.unfinished').exists(), said.stderr
    return out

def losses(folder): return [o['loss'] for o in read_json(folder/'adapter'/'prunebook.json')['history']]
def adapter(folder): return (folder/'adapter'/'adapter_model.safetensors').read_bytes()

def test_the_same_as_one_process(place, tmp_path):
    "In float32 the losses to 1e-4; one whole adapter; in each process the same merged model"
    want = run(prune_model(tiny(**WIDE), [2, 3]), RECIPE, out=tmp_path/'one')
    assert losses(place/'lora') == pytest.approx(losses(tmp_path/'one'), abs=1e-4)
    one, two = (load_file(o/'adapter'/'adapter_model.safetensors') for o in (tmp_path/'one', place/'lora'))
    assert one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=1e-3) for k in one)
    first, second = (torch.load(place/f'{o}.pt') for o in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.allclose(first[k], v, atol=1e-4) for k, v in want.model.state_dict().items())
    assert sorted(p.name for p in (place/'lora').iterdir()) == ['adapter', 'asked.json']

def test_gradient_checkpointing_learns_the_same(place):
    assert losses(place/'again') == losses(place/'lora') and adapter(place/'again') == adapter(place/'lora')

def test_without_adapters(place, tmp_path):
    "The head learns too, which is divided with the embedding"
    recipe = RECIPE.replace(method='head_and_last', options=dict(last=1))
    want = run(prune_model(tiny(**WIDE), [2, 3]), recipe, out=tmp_path/'one')
    assert losses(place/'head') == pytest.approx([o['loss'] for o in want.history], abs=1e-4)
    one, two = (load_file(o/'adapter'/'weights.safetensors') for o in (tmp_path/'one', place/'head'))
    assert one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=1e-3) for k in one)

def test_four_bits(place):
    "The quantised weights are divided too, stored as bfloat16. From a model in memory or a checkpoint alike"
    want = run(AutoModelForCausalLM.from_pretrained(place/'pruned'), RECIPE.replace(bits=4)).history
    assert losses(place/'qlora') == pytest.approx([o['loss'] for o in want], abs=2e-3)
    assert losses(place/'disk') == losses(place/'qlora') and adapter(place/'disk') == adapter(place/'qlora')

def test_killed_and_resumed(place):
    "To the same bytes; and one process goes on from the checkpoint of two, to the same losses"
    shutil.copytree(place/'killed.unfinished', place/'alone.unfinished')
    assert (place/'alone.unfinished'/'checkpoints'/'checkpoint-3'/'whole.json').exists()
    said = launch(place/'script.py', 'resume', place, Path(__file__).parent)
    assert said.returncode == 0, said.stderr
    assert adapter(place/'killed') == adapter(place/'lora') and losses(place/'killed') == losses(place/'lora')
    run(prune_model(tiny(**WIDE), [2, 3]), RECIPE, out=place/'alone', resume=True)
    assert losses(place/'alone') == pytest.approx(losses(place/'lora'), abs=1e-4)
    assert adapter(place/'cli') == adapter(place/'disk'), 'the command does the same as the function'
    assert check_checkpoint(place/'cli') == [] and {o.dtype for o in read_tensors(place/'cli')} == {'BF16'}

def test_the_first_version_of_fsdp_is_refused(monkeypatch):
    assert not fully_sharded()
    for k, v in dict(WORLD_SIZE='2', RANK='0', ACCELERATE_USE_FSDP='true', FSDP_VERSION='1').items():
        monkeypatch.setenv(k, v)
    with pytest.raises(PrunebookError, match='fsdp_version: 2'): fully_sharded()
