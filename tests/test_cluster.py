"""Sweeps on Ray. The table is that of one process; a worker, the driver or both may be killed at any time
and no finished row is lost; what cannot work is one clear line. Skipped without Ray."""
import os, signal, subprocess, sys, time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
import pandas as pd, psutil, pytest, torch
from prunebook import load_model
from prunebook.core import PrunebookError
from prunebook.paper.cluster import Cluster, check_cluster
from prunebook.paper.runs import KEYS, Run, _items_by_key, read_record, read_run
from prunebook.paper.sweep import sweep
from support.tiny import letter_texts, letter_tokenizer, questions, save, tiny, write_rows
from test_sweeps import config

pytestmark = [pytest.mark.extra, pytest.mark.thorough]
COLUMNS = [*KEYS, 'metric', 'value', 'low', 'high', 'k', 'count', 'layers', 'items', 'source']
HERE = str(Path(__file__).parent)

@pytest.fixture(scope='module')
def ray():
    "Two workers on this machine"
    ray = pytest.importorskip('ray')
    options = dict(num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('PYTHONPATH', HERE)
        m.setenv('RAY_agent_register_timeout_ms', '300000')
        m.setenv('RAY_USAGE_STATS_ENABLED', '0')
        for last in (False, False, True):  # on a busy machine it may not start in the half minute that Ray gives it
            try: ray.init('local', logging_level='ERROR', **options)
            except Exception:
                ray.shutdown()
                if last: raise
            else: break
        yield ray
        ray.shutdown()

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A model, texts and questions in files"
    folder = tmp_path_factory.mktemp('data')
    save(folder/'model', tiny(layers=6, initializer_range=.3, max_position_embeddings=256), letter_tokenizer())
    write_rows(folder/'texts.jsonl', [dict(text=o) for o in letter_texts(9)])
    write_rows(folder/'others.jsonl', [dict(text=o) for o in letter_texts(9, seed=3)])
    write_rows(folder/'questions.jsonl', questions(8))
    return folder

def loaded(data):
    torch.set_num_threads(1)  # as in a worker with one core: the last bits can depend on it
    return load_model(str(data/'model'), dtype='float32', progress=False)

def on_ray(data): return Cluster(load=dict(name=str(data/'model'), dtype='float32'))

def run(data, c, out, **kw): return sweep(*loaded(data), c, out, progress=False, **kw)

def same_run(a, b):
    "Tables, items, adapters and healing curves"
    table = lambda o: read_run(o)[COLUMNS].sort_values(KEYS).reset_index(drop=True)
    pd.testing.assert_frame_equal(table(a), table(b), check_exact=True)
    one, other = (_items_by_key(o/'items.parquet') for o in (a, b))
    assert one.keys() == other.keys() and all(one[k].equals(other[k]) for k in one)
    curve = lambda o: {k: v['history']['loss'] for k, v in read_record(o)['sweeps']['main']['healing'].items()}
    assert curve(a) == curve(b)
    places = [sorted(p.name for p in (o/'adapters').iterdir()) if (o/'adapters').exists() else [] for o in (a, b)]
    assert places[0] == places[1] and not (b/'work').exists()

@pytest.fixture(scope='module')
def plain(data, tmp_path_factory):
    "A run of one process"
    place = tmp_path_factory.mktemp('plain')/'run'
    run(data, config(data), place)
    return place

# what cannot work

@pytest.mark.parametrize('address', ['x', 'localhost:99999', 'no-such-host.invalid:6379', 'ray://localhost:1'])
def test_bad_addresses_are_noticed_at_once(address):
    start = time.time()
    pytest.importorskip('ray')
    with pytest.raises(PrunebookError, match='cannot reach Ray'): check_cluster(Cluster(address))
    assert time.time() - start < 30

def test_too_large_workers(ray, data):
    for wrong in (dict(cpus_per_task=3), dict(gpus_per_task=.5)):
        with pytest.raises(PrunebookError, match='the cluster has 2 and 0'):
            next(Cluster(**wrong).map(die, [()], *loaded(data), progress=False))

def test_without_ray(monkeypatch, data, tmp_path):
    def missing(name): raise PackageNotFoundError(name)
    monkeypatch.setattr('prunebook.core.version', missing)
    with pytest.raises(PrunebookError, match=r'pip install "prunebook\[ray\]"'):
        run(data, config(data), tmp_path/'run', ray=Cluster())

def test_a_model_that_workers_cannot_load_and_a_call_that_kills_its_worker(ray, data, tmp_path):
    "It ends with a message of one line, and not never"
    save(tmp_path/'other', tiny(layers=6, seed=5), letter_tokenizer())
    for name, said in (('gone', 'gone'), ('other', 'loaded another model')):
        with pytest.raises(PrunebookError, match=said) as e:
            run(data, config(data), tmp_path/f'{name}-run', ray=Cluster(load=dict(name=str(tmp_path/name))))
        assert '\n' not in str(e.value)
    with pytest.raises(PrunebookError, match='lost with its worker'):
        next(on_ray(data).map(die, [()], *loaded(data), progress=False))

def die(*args): os._exit(1)

# the same table

def test_a_sweep_is_that_of_one_process(ray, data, tmp_path):
    healed = config(data, healed_ns=[3], strategies=['simple'])
    run(data, healed, tmp_path/'one')
    run(data, healed, tmp_path/'many', ray=on_ray(data))
    same_run(tmp_path/'one', tmp_path/'many')
    again = run(data, healed, tmp_path/'many', ray=Cluster('nowhere'))
    assert len(again) == len(read_run(tmp_path/'one'))  # nothing is missing: no cluster is asked

def test_a_model_that_exists_only_in_memory(ray, data, plain, tmp_path):
    run(data, config(data), tmp_path/'run', ray=Cluster())
    same_run(plain, tmp_path/'run')

# killed

def workers():
    "Processes of Ray's workers"
    found = []
    for p in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if ''.join(p.cmdline()).startswith('ray::_call'): found.append(p.pid)
    return found

def test_killed_workers(ray, data, plain, tmp_path, monkeypatch):
    "After each of two writes a worker is killed"
    real, killed = Run.add_all, []

    def write(self, scores):
        before = len(self.table)
        real(self, scores)
        alive = workers()
        if len(killed) < 2 and len(self.table) > before and alive:
            os.kill(alive[len(killed) % len(alive)], signal.SIGKILL)
            killed.append(alive)
    monkeypatch.setattr(Run, 'add_all', write)
    run(data, config(data), tmp_path/'run', ray=on_ray(data))
    assert len(killed) == 2
    same_run(plain, tmp_path/'run')

def test_a_killed_driver(ray, data, plain, tmp_path):
    "The command, killed by SIGKILL as soon as there are rows. They stay, and the next start goes on"
    out = tmp_path/'run'
    config(data).save(tmp_path/'c.json')
    words = [sys.executable, '-m', 'prunebook', 'sweep', data/'model', '--dtype', 'float32', '--config',
             tmp_path/'c.json', '--out', out, '--ray', ray.get_runtime_context().gcs_address, '--no-progress']
    env = os.environ | dict(HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1')
    p = subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env)
    while p.poll() is None and not count(out): time.sleep(.02)
    p.kill()
    said = p.communicate()[1].decode()
    assert count(out), said
    run(data, config(data), out, ray=on_ray(data))
    same_run(plain, out)

def count(out):
    "Rows of a run that may not have begun"
    try: return len(read_run(out))
    except PrunebookError: return 0
