"""Guarantee 1: a folder that was there stays until the new one is safe. Guarantee 2: a resumed run equals one that was
never interrupted, or is refused. Processes are killed before each of their file operations, and the next run must
succeed."""
import itertools, os, signal, subprocess, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
import pytest
from prunebook import core
from prunebook.core import PrunebookError, atomic_write, new_folder, work_folder
from support.kills import beside, forked, put, tree, unsynced

@pytest.fixture
def memory(tmp_path):
    "A folder in memory, where a sync takes no time; on the disk where there is none"
    if not os.access('/dev/shm', os.W_OK): yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir='/dev/shm') as d: yield Path(d)

# the protocol itself: killed before each operation

ASKED = dict(steps=3)
# as asked for, so that it could pass for unfinished work
OLD = {'asked.json': b'{"steps": 3}', 'old/part': b'old', 'old-only': b'old'}
NEW = {'a': b'new', 'deep/b': b'new', 'c.json': b'new'}

def work(folder):
    "Write `NEW`, and go on from its first file if that is there"
    if not (folder/'a').exists(): atomic_write(folder/'a', 'new')
    put(folder, {'deep/b': b'new'})
    atomic_write(folder/'c.json', 'new')

def do_new(out, **kw):
    with new_folder(out, **kw) as folder: work(folder)

def do_work(out, **kw):
    with work_folder(out, ASKED, keep=True, **kw) as folder: work(folder)

STAGES = dict(
    absent=lambda out: None,
    empty=lambda out: out.mkdir(),
    full=lambda out: put(out, OLD),
    unfinished=lambda out: put(out.with_name('out.unfinished'), {'asked.json': b'{"steps": 3}', 'a': b'new'}),
    both=lambda out: (STAGES['full'](out), STAGES['unfinished'](out)))
CASES = [(do_new, 'absent', {}), (do_new, 'empty', {}), (do_new, 'full', dict(force=True)), (do_work, 'absent', {}),
         (do_work, 'empty', {}), (do_work, 'full', dict(force=True)), (do_work, 'unfinished', dict(resume=True)),
         (do_work, 'unfinished', dict(force=True)), (do_work, 'both', dict(resume=True, force=True))]

def name_case(o): return getattr(o, '__name__', None) or (o if isinstance(o, str) else '-'.join(o) or 'plain')

def expected(do): return NEW | ({'asked.json': b'{\n "steps": 3\n}\n'} if do is do_work else {})

def is_new(found, do):
    "The new folder, whole; a record that was there already has its own spaces"
    plain = lambda files: {k: b''.join(v.split()) for k, v in files.items()}
    return found is not None and plain(found) == plain(expected(do))

@pytest.mark.thorough
@pytest.mark.parametrize('do, stage, how', CASES, ids=name_case)
def test_killed_before_each_operation(do, stage, how, memory):
    log, total = memory/'log', None
    for k in itertools.count():
        place = memory/f'kill-{k}'
        place.mkdir()
        out = place/'out'
        STAGES[stage](out)
        was = tree(out)
        done = forked(lambda: do(out, **how), place, log, k)
        if done.code == 0: break
        assert done.code == -signal.SIGKILL
        found = tree(out)
        moved_aside = was and found is None and tree(place/'.out.prunebook-old') == was
        assert found == was or is_new(found, do) or moved_aside, f'killed before operation {k}: {done.events[-1:]}'
        # a run that is refused puts back the old folder too
        if moved_aside:
            assert forked(lambda: do(out), place, log).code == 1
            assert tree(out) == was
        again = dict(force=True) | (dict(resume=True) if do is do_work else {})
        why = f'killed before operation {k}: {done.events[-1:]}'
        assert forked(lambda: do(out, **again), place, log).code == 0, why
        assert is_new(tree(out), do), why
        assert beside(out) == ['out']
        total = k + 1
    assert total > 15
    assert is_new(tree(out), do) and beside(out) == ['out'], 'nothing killed it'

@pytest.mark.parametrize('do, stage, how', CASES, ids=name_case)
def test_synced_before_it_counts(do, stage, how, memory):
    "A power cut finds everything on the disk: files and folders are synced before the rename, the parent after it"
    place = memory/'place'
    place.mkdir()
    STAGES[stage](place/'out')
    done = forked(lambda: do(place/'out', **how), place, memory/'log')
    assert done.code == 0 and unsynced(done.events, place/'out') == []

slow = lambda k: pytest.param(k, marks=pytest.mark.slow)

@pytest.mark.thorough
@pytest.mark.parametrize('first', [k if k % 10 == 2 else slow(k) for k in range(5, 60)])
def test_killed_twice(memory, first):
    "The run that cleans up is killed in its turn, before each of its operations"
    log = memory/'log'
    for second in itertools.count():
        out = memory/str(second)/'out'
        put(out, OLD)
        if forked(lambda: do_work(out, force=True), out.parent, log, first).code == 0: break
        if forked(lambda: do_work(out, force=True, resume=True), out.parent, log, second).code == 0: break
        found = tree(out) or tree(out.with_name('.out.prunebook-old'))
        assert found == OLD or is_new(found, do_work)
        assert forked(lambda: do_work(out, force=True, resume=True), out.parent, log).code == 0
        assert is_new(tree(out), do_work) and beside(out) == ['out']

def test_a_file_is_whole_whenever_its_writer_dies(memory):
    for k in itertools.count():
        file = memory/str(k)/'file'
        put(file.parent, dict(file=b'old'))
        if forked(lambda: atomic_write(file, 'new'), file.parent, memory/'log', k).code == 0: break
        assert file.read_bytes() in (b'old', b'new')
        atomic_write(file, 'newer')
        assert tree(file.parent) == dict(file=b'newer')
    assert k > 4

# folders that are not ours, and other processes

def test_filled_at_the_last_moment(tmp_path, monkeypatch):
    "Between the last look and the rename"
    monkeypatch.setattr(core, 'sync_tree', lambda new: put(tmp_path/'out', OLD))
    with pytest.raises(PrunebookError, match='not empty'), new_folder(tmp_path/'out') as new: put(new, NEW)
    assert tree(tmp_path/'out') == OLD and beside(tmp_path/'out') == ['out']

@pytest.mark.parametrize('reads', ['out', '.', 'out/part', 'out.unfinished', 'out.unfinished/m', 'link', 'link/m',
                                   '~/out'])
def test_sources_are_never_written(tmp_path, reads, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    put(tmp_path/'out', {'part/x': b'x'})
    put(tmp_path/'out.unfinished', {'m/x': b'x', 'asked.json': b'{"steps": 3}'})
    (tmp_path/'link').symlink_to('out.unfinished')
    was = tree(tmp_path)
    with pytest.raises(PrunebookError, match='only read'):
        with work_folder(tmp_path/'out', ASKED, force=True, reads=[reads if '~' in reads else tmp_path/reads]): pass
    assert tree(tmp_path) == was

def test_what_interrupted_work_has_written_needs_no_more_room(tmp_path, monkeypatch):
    monkeypatch.setattr(core.shutil, 'disk_usage', lambda place: SimpleNamespace(free=2))
    put(tmp_path/'out.unfinished', {'model.safetensors': b'123'})
    core.check_room(tmp_path/'out.unfinished', 5)
    with pytest.raises(PrunebookError, match='GB free'): core.check_room(tmp_path/'out.unfinished', 6)

@pytest.mark.parametrize('place', ['/', '/dev/null', '/dev', '~/x', 'caf\udce9'])
def test_places_that_cannot_be(place):
    for make in (lambda: new_folder(place, force=True), lambda: work_folder(place, ASKED, force=True)):
        with pytest.raises(PrunebookError), make(): pass

HOLD = """import sys
from prunebook.core import lock, new_folder, work_folder
with {}:
    print('held', flush=True)
    sys.stdin.readline()
"""

@pytest.mark.parametrize('how', ['lock({!r})', 'new_folder({!r}, force=True)', 'work_folder({!r}, {{}}, force=True)'])
def test_two_at_once(tmp_path, how):
    "The second is refused, whatever both want; after a kill the lock is free at once"
    out = tmp_path/'out'
    put(out, OLD)
    code = HOLD.format(how.format(str(out)))
    other = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'held\n'
    for do in (do_new, do_work):
        with pytest.raises(PrunebookError, match='another process'): do(out, force=True)
    assert tree(out) == OLD
    other.kill()
    other.communicate()
    do_work(out, force=True)
    assert is_new(tree(out), do_work) and beside(out) == ['out']

# full disks

@pytest.mark.parametrize('do', [do_new, do_work])
@pytest.mark.parametrize('kb', range(12, 40, 4))
def test_full_disk(do, kb, disk):
    "The old folder or the new one, one line, and the next run succeeds once there is room"
    out = disk(kb)/'out'
    put(out, OLD)
    try: do(out, force=True)
    except PrunebookError as e:
        assert 'cannot write' in str(e) and 'space' in str(e)
        assert tree(out) == OLD and set(beside(out)) <= {'out', 'out.unfinished'}
    disk.change('size=400k')
    do(out, force=True)
    assert is_new(tree(out), do) and beside(out) == ['out']

def test_a_request_that_a_power_cut_left_empty_is_thrown_away_by_force(tmp_path):
    (left := tmp_path/'out.unfinished').mkdir()
    (left/'asked.json').write_text('')
    with pytest.raises(PrunebookError, match='cannot read'):
        with work_folder(tmp_path/'out', ASKED, None): pass
    with work_folder(tmp_path/'out', ASKED, None, force=True) as work: (work/'new').write_text('')
    assert (tmp_path/'out'/'new').exists() and not left.exists()
