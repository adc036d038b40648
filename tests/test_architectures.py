"Cuts are sound for whatever architecture; what cannot be is refused. `nbs/results/architectures.csv` is the record of the full walk."
import csv, subprocess, sys
from pathlib import Path
import pytest, torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
import architectures as walker
from prunebook.pruning import _alike
from prunebook.stack import LayerStack, _settings

record = list(csv.DictReader(open(Path(__file__).parents[1]/'nbs'/'results'/'architectures.csv')))

dozen = ('llama', 'qwen2_moe', 'gemma3_text', 'gemma4_text', 'gpt2', 'gpt_neo', 'deepseek_v3', 'llama4_text', 'lfm2', 'bamba', 'recurrent_gemma', 'minicpm3')  # each has its own way of speaking of layers
refused = ('minimax', 'rwkv', 'xlm', 'inkling2_text')

def test_a_dozen(tmp_path):
    rows = walker.walk([o for o in dozen + refused if o in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES], tmp_path)
    assert {r['architecture']: (r['state'], r['reason']) for r in rows if r['architecture'] in dozen and r['state'] != 'supported'} == {}
    assert {r['architecture']: r['state'] for r in rows if r['architecture'] in refused and r['state'] != 'refused'} == {}

def test_the_record():
    states = [r['state'] for r in record]
    assert 'failed' not in states and 'not run' not in states
    built = [o for o in states if o != 'not built']
    assert len(built) > 150 and sum(o in ('supported', 'some cuts') for o in built) / len(built) > .95

@pytest.mark.parametrize('kind', _alike)
def test_alike_means_alike(kind):
    "The architectures whose config.json is cut without asking the model's class"
    stack = LayerStack(walker.tiny(kind))
    def what(i):
        return {n: {k: v for k, v in _settings(m, torch.nn.Linear).items() if 'idx' not in k and 'layer_id' not in k} for n, m in stack.layers[i].named_modules()}
    assert all(what(i) == what(0) for i in range(1, len(stack)))

@pytest.mark.slow
def test_the_full_walk(tmp_path):
    out = tmp_path/'now.csv'
    subprocess.run([sys.executable, walker.__file__, str(out)], check=True)
    now = {r['architecture']: r['state'] for r in csv.DictReader(open(out))}
    assert 'failed' not in now.values()
    then = {r['architecture']: r['state'] for r in record}
    worse = {k: (then[k], now[k]) for k in then if then[k] in ('supported', 'some cuts') and now.get(k) not in (then[k], 'supported')}
    assert worse == {}
