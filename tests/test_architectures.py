"Cuts are correct for every architecture, or refused. `nbs/results/architectures.csv` is the record of the full walk."
import copy, csv, json, subprocess, sys
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
    assert {k: r['parts'] for k, r in rows.items() if k in DOZEN and r['parts']} == {}

def test_older_names_of_the_angles_change_nothing():
    "Every config of a causal language model is read the same with and without them, also with scaled angles"
    from transformers import AutoConfig
    from prunebook.pruning.checkpoint import _with_older_rotary
    from prunebook.model.configs import decoder_part
    bad, seen = {}, 0
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        for scaling in ({}, dict(rope_type='linear', factor=4.)):
            try:
                config = AutoConfig.for_model(kind)
                told = json.loads(config.to_json_string())
                angles = decoder_part(told)['rope_parameters']
                angles.get('full_attention', angles).update(dict(rope_theta=12345.) | scaling)
                want = type(config).from_dict(copy.deepcopy(told))
            except Exception: continue  # it has no angles, or none that can be scaled so
            got = type(config).from_dict(_with_older_rotary(copy.deepcopy(told)))
            want, got = (decoder_part(o.to_dict())['rope_parameters'] for o in (want, got))
            if want != got: bad[kind] = want, got
            seen += 1
    assert bad == {} and seen > 150

@pytest.mark.slow
def test_the_full_walk(tmp_path):
    out = tmp_path/'now.csv'
    subprocess.run([sys.executable, architectures.__file__, str(out)], check=True)
    now = {r['architecture']: r['state'] for r in csv.DictReader(open(out))}
    assert 'failed' not in now.values()
    then = {r['architecture']: r['state'] for r in RECORD if r['state'] in ('supported', 'some cuts')}
    assert {k: (was, now.get(k)) for k, was in then.items() if now.get(k) not in (was, 'supported')} == {}
