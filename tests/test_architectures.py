"Cuts are correct for every architecture, or refused. `nbs/results/architectures.csv` is the record of the full walk."
import csv, subprocess, sys
from pathlib import Path
import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from support import architectures

RECORD = list(csv.DictReader(open(Path(__file__).parents[1]/'nbs'/'results'/'architectures.csv')))
# each refers to layers in a way of its own
DOZEN = ('llama', 'qwen2_moe', 'gemma3_text', 'gemma4_text', 'gpt2', 'gpt_neo', 'deepseek_v3', 'llama4_text', 'lfm2',
         'bamba', 'recurrent_gemma', 'minicpm3')
REFUSED = ('minimax', 'rwkv', 'xlm', 'inkling2_text')

@pytest.mark.thorough
def test_a_dozen(tmp_path):
    known = [o for o in DOZEN + REFUSED if o in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    rows = {r['architecture']: r for r in architectures.walk(known, tmp_path)}
    assert {k: (r['state'], r['reason']) for k, r in rows.items() if k in DOZEN and r['state'] != 'supported'} == {}
    assert {k: r['state'] for k, r in rows.items() if k in REFUSED and r['state'] != 'refused'} == {}

@pytest.mark.slow
def test_the_full_walk(tmp_path):
    out = tmp_path/'now.csv'
    subprocess.run([sys.executable, architectures.__file__, str(out)], check=True)
    now = {r['architecture']: r['state'] for r in csv.DictReader(open(out))}
    assert 'failed' not in now.values()
    then = {r['architecture']: r['state'] for r in RECORD if r['state'] in ('supported', 'some cuts')}
    assert {k: (was, now.get(k)) for k, was in then.items() if now.get(k) not in (was, 'supported')} == {}
