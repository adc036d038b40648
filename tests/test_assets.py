"What can go wrong on the way from a registry into the cache. Wheels are made here, and pip finds them in a folder."
import errno, hashlib, json, os, re, shutil, subprocess, sys, threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pytest
from hypothesis import strategies as st
from prunebook import PrunebookError
from prunebook.model import assets
from prunebook.model.assets import ASSETS, Asset, Wheel, complete, fetch, _place, remove
from support.assets import in_parts, make_wheel, requests, tiny_gguf
from support.readers import edits, fuzz, spoil

REFERENCE = Path(os.environ.get('PRUNEBOOK_SHARED_DATA', '/no/such/folder'))
WHY = dict(query='Question: Why?\nAnswer:', choices=['yes', 'no'], gold=1)
REQUESTS = 'made/arc/requests.jsonl.gz'

@pytest.fixture
def registry(tmp_path, monkeypatch):
    "A folder of wheels that pip looks into, and nothing else; an empty cache; a copy of the table"
    (tmp_path/'wheels').mkdir()
    for k in list(os.environ):
        if k.startswith('PIP_'): monkeypatch.delenv(k)
    settings = dict(PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path/'wheels'), PIP_CONFIG_FILE=os.devnull,
                    PIP_NO_CACHE_DIR='1', PRUNEBOOK_CACHE=str(tmp_path/'cache'))
    for k, v in settings.items(): monkeypatch.setenv(k, v)
    was = dict(ASSETS)
    yield tmp_path/'wheels'
    ASSETS.clear()
    ASSETS.update(was)

@pytest.fixture
def quick(registry, monkeypatch):
    "As `registry`, without the seconds that pip takes"
    def pip(command, **kw):
        found = next(registry.glob(command[-1].partition('==')[0].replace('-', '_') + '-*.whl'))
        shutil.copy(found, command[command.index('-d') + 1])
        return subprocess.CompletedProcess(command, 0, '', '')
    monkeypatch.setattr(assets, 'subprocess', SimpleNamespace(run=pip, DEVNULL=None))
    return registry

def added(asset):
    ASSETS.add(asset)
    return asset

def questions(folder, name='made', data=None, **kw):
    "Add a set of one question to the table"
    wheel = make_wheel(folder, f'{name}-wheel', {REQUESTS: requests(WHY) if data is None else data})
    return added(Asset(name, 'questions', 'Made', (wheel,), dict(test='*/arc/requests.jsonl.gz'), 'rows', **kw))

def model_in_parts(folder, gguf, n=3, name='mine'):
    "Add a model whose file is cut into parts"
    wheels = [make_wheel(folder, f'{name}-part{i}', {f'{name}_part{i}/data/part{i:02}.bin': data})
              for i, data in enumerate(in_parts(gguf.read_bytes(), n), 1)]
    return added(Asset(name, 'model', 'Mine', tuple(wheels), dict(model='*/data/part??.bin'), upstream='org/mine'))

def left(): return sorted(o.name for o in assets.cache_dir().iterdir()) if assets.cache_dir().exists() else []

# fetched once, and whole

def test_fetched_once_then_without_network(registry, monkeypatch):
    asset = questions(registry)
    file = fetch('made', progress=False)/'test.jsonl.gz'
    assert left() == [_place(asset).name] and file.exists()
    monkeypatch.setattr(assets, '_download', lambda *a: pytest.fail('a second fetch'))
    assert fetch('made') == file.parent
    assert remove('made') and not remove('made') and left() == []

@pytest.mark.parametrize('manifest', ['null', '', '{"files": {}}', '{"files": 3}', None])
def test_an_empty_manifest_is_not_a_complete_entry(manifest, quick):
    asset = questions(quick)
    (folder := _place(asset)).mkdir(parents=True)
    if manifest is not None: (folder/'manifest.json').write_text(manifest)
    assert not complete(asset)
    fetch('made', progress=False)
    assert complete(asset) and left() == [folder.name]

@pytest.mark.parametrize('damage', [
    lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink(), lambda p: (p.unlink(), p.mkdir())])
def test_a_damaged_entry_is_fetched_again(damage, quick):
    asset = questions(quick)
    good = (file := fetch('made', progress=False)/'test.jsonl.gz').read_bytes()
    damage(file)
    assert not complete(asset) and fetch('made', progress=False) == file.parent and file.read_bytes() == good

# one clear line, nothing half kept

def refused(name, says):
    with pytest.raises(PrunebookError, match=says) as e: fetch(name, progress=False)
    assert '\n' not in str(e.value) and left() == []

def spoil_wheel(quick, data):
    asset, file = ASSETS['made'], next(quick.glob('*.whl'))
    file.write_bytes(data)
    ASSETS.add(replace(asset, wheels=(Wheel('made-wheel==1.0', hashlib.sha256(data).hexdigest()),)))

def wrong_hash(quick): ASSETS.add(replace(o := ASSETS['made'], wheels=(replace(o.wheels[0], sha256='0' * 64),)))
def no_space(*a): raise OSError(errno.ENOSPC, 'No space left on device')

@pytest.mark.parametrize('how, spoilt, says', [
    ({}, wrong_hash, 'sha256 is .*, expected 0000'),
    ({}, lambda o: spoil_wheel(o, b'PK' + bytes(50)), 'cannot unpack made'),
    (dict(size_mb=86, disk_mb=3), 100, 'needs 175 MB, and 100 MB are left. .*PRUNEBOOK_CACHE'),
    ({}, no_space, 'cannot unpack made .No space left')])
def test_sets_that_cannot_be_had(how, spoilt, says, quick, monkeypatch):
    questions(quick, **how)
    if spoilt is no_space: monkeypatch.setattr(assets, '_write_lines', no_space)
    elif spoilt == 100:
        monkeypatch.setattr(assets.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 0, 10**8))
    elif spoilt: spoilt(quick)
    refused('made', says)

def test_a_part_is_missing(registry, tmp_path):
    model_in_parts(registry, tiny_gguf(tmp_path/'m.gguf'))
    next(registry.glob('mine_part2-*')).unlink()
    refused('mine', 'could not fetch mine-part2==1.0')

@pytest.mark.parametrize('members, says', [
    ({}, r'holds no file \*/data'), ({'a/data/part01.bin': b'a', 'b/data/part01.bin': b'b'}, 'cannot unpack mine')])
def test_each_wheel_must_hold_one_part(members, says, quick):
    wheel = make_wheel(quick, 'mine-part1', members)
    ASSETS.add(Asset('mine', 'model', 'Mine', (wheel,), dict(model='*/data/part??.bin')))
    refused('mine', says)

def test_no_path_of_a_wheel_becomes_a_path_here(quick, tmp_path):
    wheel = make_wheel(quick, 'made-wheel', {'../../evil/arc/requests.jsonl.gz': requests(WHY)})
    ASSETS.add(Asset('made', 'questions', 'Made', (wheel,), dict(test='*/arc/requests.jsonl.gz'), 'rows'))
    fetch('made', progress=False)
    assert sorted(o.name for o in _place(ASSETS['made']).iterdir()) == ['manifest.json', 'test.jsonl.gz']
    assert not list(tmp_path.rglob('evil'))

def test_no_pip(quick, monkeypatch, tmp_path):
    "A Python without pip: a virtual environment made without it"
    monkeypatch.undo()
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path/'bare'], check=True)
    monkeypatch.setattr(assets.sys, 'executable', str(tmp_path/'bare/bin/python'))
    questions(quick)
    refused('made', 'No module named pip')

def test_cache_cannot_be_written(quick, tmp_path, monkeypatch):
    questions(quick)
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'file'/'cache'))
    with pytest.raises(PrunebookError, match='cannot write'): fetch('made', progress=False)

def test_an_account_without_a_home(monkeypatch):
    monkeypatch.setenv('PRUNEBOOK_CACHE', '~nobody-at-all/cache')
    with pytest.raises(PrunebookError, match='no home folder'): assets.cache_dir()

def test_pip_may_not_tell_the_registry_password(registry, monkeypatch):
    questions(registry)
    said = 'ERROR: no route to https://me:secret@registry.example/simple'
    monkeypatch.setattr(subprocess, 'run', lambda *a, **kw: subprocess.CompletedProcess(a, 1, '', said))
    with pytest.raises(PrunebookError, match=r'https://\*\*\*@registry') as e: fetch('made', progress=False)
    assert 'secret' not in str(e.value)

# damaged model files

def beginning(edits):
    return [(how, where * .02 if i % 2 else where, what) for i, (how, where, what) in enumerate(edits)]

@fuzz(16, 6, seconds=90, changes=st.one_of(st.just([]), edits.map(beginning), edits.map(beginning)))
def test_model_files(root, changes):
    "Half of the edits are among the first numbers of the file"
    gguf = tiny_gguf(root/'tiny.gguf')
    gguf.write_bytes(spoil(gguf.read_bytes(), changes))
    assets._read_gguf(str(root), gguf.name)

# no hang: several processes, threads, and another try after a failure

def test_a_retry_after_a_failed_download_does_not_hang(registry):
    asset = questions(registry)
    file = next(registry.glob('*.whl'))
    file.rename(registry/'hidden')
    kept = []  # as a notebook does, which holds on to the last traceback
    for _ in range(2):
        with pytest.raises(PrunebookError) as e: fetch('made', progress=False)
        kept.append(e)
    (registry/'hidden').rename(file)
    worker = threading.Thread(target=fetch, args=('made', False), daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive() and complete(asset)

@pytest.mark.thorough
def test_two_processes_share_one_fetch(registry):
    wheel = questions(registry).wheels[0]
    code = (f'from prunebook.model.assets import *\nASSETS.add(Asset("made", "questions", "Made", ({wheel!r},), '
            'dict(test="*/arc/requests.jsonl.gz"), "rows"))\nprint(fetch("made").name)')
    procs = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [p.communicate(timeout=120)[0].strip() for p in procs]
    assert found == [_place(ASSETS['made']).name] * 2 and left() == found[:1]

def test_the_leavings_of_a_killed_process_are_removed(quick):
    asset = questions(quick)
    mark = assets.digest(*(o.sha256 for o in asset.wheels))[:12]
    (assets.cache_dir()/f'.part-{mark}-x').mkdir(parents=True)
    fetch('made', progress=False)
    assert left() == [_place(asset).name]

def test_silent_without_progress(quick, tmp_path, capfd):
    questions(quick)
    model_in_parts(quick, tiny_gguf(tmp_path/'m.gguf'))
    for name in ('made', 'mine'): fetch(name, progress=False)
    assert capfd.readouterr() == ('', '')
    remove('made')
    fetch('made')
    assert 'made' in capfd.readouterr().err

# the table, and a reader's own rows

def test_every_row_is_pinned_and_says_what_it_is():
    for o in ASSETS.values():
        assert o.wheels and all(re.fullmatch('[0-9a-f]{64}', w.sha256) for w in o.wheels), o.name
        assert o.title and o.licence and o.size_mb > 0 and o.disk_mb > 0, o.name
    assert len({o.key for o in ASSETS.values()}) == len(ASSETS)

def test_another_model_is_one_row(quick, tmp_path):
    "Fetched in parts, loaded by its name, pruned and saved"
    from prunebook import load_model
    from prunebook.model.stack import LayerStack
    model_in_parts(quick, tiny_gguf(tmp_path/'m.gguf'))
    model, tok = load_model('mine', progress=False)
    assert model.config.num_hidden_layers == 2 and model.config._name_or_path == 'org/mine'
    assert tok('ab')['input_ids'] == [94]
    LayerStack(model).cut([0])
    model.save_pretrained(tmp_path/'small')
    tok.save_pretrained(tmp_path/'small')
    assert load_model(str(tmp_path/'small'))[0].config.num_hidden_layers == 1

def test_a_local_folder_or_file_is_one_row(quick, tmp_path):
    from prunebook import load_model
    ASSETS.add(Asset('mine', 'model', 'Mine', path=str(tiny_gguf(tmp_path/'m.gguf'))))
    assert load_model('mine')[0].config.num_hidden_layers == 2
    ASSETS.add(Asset('gone', 'model', 'Gone', path=str(tmp_path/'gone')))
    with pytest.raises(PrunebookError, match='asset gone: there is no'): fetch('gone')
    assert not remove('mine') and (tmp_path/'m.gguf').exists()

# the real ones

def test_the_demo_is_the_one_of_the_kept_runs():
    from prunebook import load_model
    from prunebook.model.stack import fingerprint
    assert fingerprint(load_model('demo', dtype='bfloat16')[0]) == 'f05aa70870683f6a'

def test_all_parts_of_a_shared_wheel_are_there():
    fetch('arc_easy', progress=False)
    fetch('c4', progress=False)
    assert all(complete(o) for o in ASSETS.values() if o.kind != 'model')

@pytest.mark.slow
@pytest.mark.parametrize('name, layers', [('gemma3-270m', 18), ('qwen2.5-coder-0.5b', 24), ('qwen2.5-coder-1.5b', 28)])
def test_the_other_models_load(name, layers):
    from prunebook import load_model, load_texts
    from prunebook.data.texts import starts_with_bos
    model, tok = load_model(name)
    ids = tok(load_texts('demo', n=3)[2][:1000], return_tensors='pt')['input_ids']
    assert model.config.num_hidden_layers == layers and starts_with_bos(tok) == name.startswith('gemma')
    assert model(ids, labels=ids).loss < 4.5

def plain(item): return (item.get('subject'), item['question'], tuple(item['choices']), item['answer'])

@pytest.mark.skipif(not REFERENCE.is_dir(), reason='PRUNEBOOK_SHARED_DATA names no folder')
@pytest.mark.parametrize('file, name, split', [
    ('mmlu_test', 'mmlu', 'test'), ('mmlu_dev', 'mmlu', 'dev'), ('arc_easy', 'arc_easy', None),
    ('arc_challenge', 'arc_challenge', None), ('piqa', 'piqa', None)])
def test_every_question_is_as_published_elsewhere(file, name, split):
    from prunebook import load_questions
    there = [json.loads(o) for o in open(REFERENCE/f'{file}.jsonl')]
    assert [plain(o) for o in load_questions(name, split=split)] == [plain(o) for o in there]

@pytest.mark.skipif(not REFERENCE.is_dir(), reason='PRUNEBOOK_SHARED_DATA names no folder')
def test_every_sum_is_as_published_elsewhere():
    from prunebook import load_questions
    there = [json.loads(o) for o in open(REFERENCE/'gsm8k_test.jsonl')]
    here = {' '.join(o['question'].split()): o for o in load_questions('gsm8k')}
    assert {k: float(o['answer'].replace(',', '')) for k, o in here.items()} == {
        ' '.join(o['question'].split()): float(o['answer']) for o in there}
    assert all(o['solution'].endswith(f'#### {o["answer"]}') for o in here.values())
