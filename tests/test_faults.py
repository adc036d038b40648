"""Guarantees 1 and 2 for whole commands, on a tiny model: killed before file operations, stopped by signals, on full
disks, two at once. The old result or the new one stands at OUT, the next run gives the right result, and nothing is
left beside it.

A seeded share runs always, the rest with `--slow`. `PRUNEBOOK_FAULTS=FILE` writes the counts to a table."""
import hashlib, json, os, random, signal, subprocess, sys, time
from collections import Counter, defaultdict
from pathlib import Path
import pandas as pd, pytest
from prunebook.pruning.checkpoint import prune_checkpoint
from prunebook.core import read_json
from prunebook.healing.recipes import HealingConfig
from prunebook.similarity.distances import LayerDistances
from prunebook.paper.sweep import SweepConfig
from support import kills
from support.kills import beside, put, tree, unsynced
from support.tiny import save, texts, tiny, words

pytestmark = pytest.mark.thorough
EVERY = ('similarity', 'prune', 'prune in memory', 'heal', 'evaluate', 'sweep', 'reproduce', 'shrink')
FOLDERS = tuple(o for o in EVERY if o not in ('evaluate', 'sweep'))  # OUT appears whole; the others add to it
HEAVY = ('reproduce', 'shrink')

@pytest.fixture(scope='session')
def stage(tmp_path_factory):
    "A tiny model, a pruned one, texts, questions and recipes"
    work = tmp_path_factory.mktemp('stage')
    save(work/'m', tiny(layers=4, hidden_size=16, max_position_embeddings=512))
    prune_checkpoint(work/'m', work/'p', [1], progress=False)
    for i, name in enumerate('tj'): (work/f'{name}.txt').write_text('\n'.join(texts(120, seed=i)) + '\n')
    r = random.Random(0)
    ask = lambda: dict(question=' '.join(r.sample(words, 4)), choices=r.sample(words, 3), answer=r.randrange(3))
    (work/'q.jsonl').write_text(''.join(json.dumps(ask()) + '\n' for _ in range(20)))
    recipe = HealingConfig(steps=4, batch_size=2, max_length=16, rank=2, save_every=2, bits=32)
    recipe.save(work/'heal.json')
    t, q = str(work/'t.txt'), str(work/'q.jsonl')
    SweepConfig(strategies=['simple', 'random'], ns=[1, 2], healed_ns=[1], healing=recipe, tasks=['c4', q], n_texts=20,
                sources=dict(c4=str(work/'j.txt')), max_length=24, batch_tokens=96, calibration=t, healing_texts=t,
                n_calibration=8).save(work/'sweep.json')
    return work

def arguments(command, stage, out, again=False):
    "The command; `again` as a user starts it after an interruption"
    m, t, j, q = stage/'m', stage/'t.txt', stage/'j.txt', stage/'q.jsonl'
    resume = ['--resume'] if again else []
    found = dict(
        similarity=['similarity', m, '--texts', t, '--max-length', 24, '--batch-tokens', 96, '--out', out, '--force',
                    *resume],
        prune=['prune', m, out, '--drop', '1', '--force'],
        heal=['heal', stage/'p', out, '--texts', t, '--config', stage/'heal.json', '--n-judge', 0, '--force', *resume],
        evaluate=['evaluate', m, '--tasks', 'c4', q, '--judge-texts', t, '--max-length', 24, '--save', out],
        sweep=['sweep', m, '--config', stage/'sweep.json', '--out', out],
        reproduce=['reproduce', '--model', m, '--preset', 'smoke', '--texts', t, '--judge-texts', j,
                   '--questions', q, '--out', out, '--force'],
        shrink=['shrink', m, out, '--drop', '1', '--data', t, '--tasks', q, '--n-questions', 8, '--tokens', 9,
                '--allow-empty', '--force'])
    found['prune in memory'] = [*found['prune'], '--in-memory']
    return [str(o) for o in [*found[command], '--no-progress']]

def table(file):
    columns = ['strategy', 'n', 'healed', 'seed', 'task', 'value', 'low', 'high']
    return pd.read_csv(file)[columns].round(9).sort_values(columns[:5]).to_csv(index=False)

def result(command, out):
    "The part of a finished run that must not depend on interruptions; `None` if it is not there"
    try:
        if command == 'similarity': return LayerDistances.load(out).mean.round(9).tolist()
        if command == 'evaluate': return sorted((o['task'], o['value']) for o in map(read_json, out.glob('*.json')))
        if command in ('sweep', 'reproduce'): return table(out/'results.csv')
        names = [p for p in sorted(out.rglob('*.safetensors')) if 'adapter' not in p.parts]
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in names] or None
    except (OSError, ValueError, KeyError): return None

class Right:
    "An undisturbed run"
    def __init__(self, command, stage, out):
        begin = time.monotonic()
        done = kills.command(arguments(command, stage, out), out.parent, out.with_name('log'))
        assert done.code == 0, done.said
        self.seconds = time.monotonic() - begin
        self.result, self.events, self.names = result(command, out), done.events, set(tree(out))
        assert self.result

@pytest.fixture(scope='session')
def right(stage, tmp_path_factory):
    found = {}
    def get(command):
        if command not in found: found[command] = Right(command, stage, tmp_path_factory.mktemp('right')/'out')
        return found[command]
    return get

COUNTS = defaultdict(Counter)

@pytest.fixture(autouse=True, scope='module')
def record():
    "Rows of tests that did not run stay"
    yield
    if not (file := os.environ.get('PRUNEBOOK_FAULTS')): return
    rows = [dict(fault=fault, command=command, runs=sum(codes.values()), exit=' '.join(map(str, sorted(codes))),
                 after=after) for (fault, command, after), codes in COUNTS.items()]
    was = [pd.read_csv(file, dtype=str)] if Path(file).exists() else []
    found = pd.concat([*was, pd.DataFrame(rows)]).drop_duplicates(['fault', 'command'], keep='last')
    found.sort_values(['fault', 'command']).to_csv(file, index=False)

AFTER = dict(similarity='--resume goes on', heal='--resume goes on', sweep='the same command goes on',
             reproduce='the same command goes on', shrink='the same command goes on',
             evaluate='the same command starts again')

def note(fault, command, code): COUNTS[fault, command, AFTER.get(command, 'the same command starts again')][code] += 1

def each(quick=EVERY):
    "All commands; those not in `quick` only with --slow"
    slow = lambda c: pytest.param(c, marks=pytest.mark.slow)
    return pytest.mark.parametrize('command', [c if c in quick else slow(c) for c in EVERY])

@pytest.fixture
def share(request):
    "A function that takes so many of some numbers: few always, many with --slow"
    slow = request.config.getoption('--slow')
    seed = random.Random(request.node.name)
    return lambda numbers, few, many: sorted(seed.sample(list(numbers), min(len(numbers), many if slow else few)))

OLD = {'old/part': b'old', 'model.safetensors': b'old', 'results.csv': b'old'}

def one_line(command, said):
    assert 'Traceback' not in said, said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f'prunebook {command.split()[0]}: '), said
    return last

def stands(command, out, was, right):
    "The old folder or the new one; commands that add to a folder may have added a part"
    if command not in FOLDERS: return
    # missing only between the two renames; then the next run puts the old folder back
    found = tree(out) or tree(out.with_name('.out.prunebook-old'))
    new = result(command, out) == right.result and set(found) - {'asked.json'} == right.names - {'asked.json'}
    assert found == was or new, sorted(found or ())
    other = {o for o in beside(out) if not o.startswith(('.out.prunebook-', 'log'))}
    assert other <= {'out', '.out.lock', 'out.unfinished', '.out.unfinished.lock'}

def goes_on(command, stage, out, right, why=''):
    "The next run gives the right result, and leaves nothing else"
    log = out.with_name('log')
    done = kills.command(arguments(command, stage, out, again=True), out.parent, log)
    assert done.code == 0, f'{why}: {done.said}'
    assert result(command, out) == right.result, why
    assert beside(out) == ['log', 'log.said', 'out'], why
    assert {o for o in tree(out) if '.tmp' in o or 'prunebook-' in o or '.lock' in o} == set(), why

# killed and stopped

SIGNS = [('SIGKILL before a file operation', signal.SIGKILL, -signal.SIGKILL),
         ('SIGINT at a file operation', signal.SIGINT, 130), ('SIGTERM at a file operation', signal.SIGTERM, 143)]

@pytest.mark.parametrize('fault, sign, code', SIGNS, ids=['SIGKILL', 'SIGINT', 'SIGTERM'])
@each()
def test_stopped(command, fault, sign, code, stage, right, share, tmp_path):
    good, few = right(command), 3 if sign == signal.SIGKILL and command not in HEAVY else 1
    for k in share(range(len(good.events)), few, 40 if few == 3 else 20):
        out = tmp_path/str(k)/'out'
        out.parent.mkdir()
        if command in FOLDERS and k % 2: put(out, OLD)
        was = tree(out)
        done = kills.command(arguments(command, stage, out), out.parent, out.with_name('log'), at=k, sign=sign)
        why = f'{fault}, number {k}: {good.events[k]}'
        assert done.code in (code, 0), f'{why}: {done.said}'  # a run may have an operation or two less
        if done.code > 0: assert 'interrupted' in one_line(command, done.said)
        stands(command, out, was, good)
        goes_on(command, stage, out, good, why)
        note(fault, command, 128 - done.code if done.code < 0 else done.code)

@pytest.mark.slow
@each()
def test_stopped_at_any_time(command, stage, right, tmp_path):
    good, r = right(command), random.Random(command)
    for i in range(20):
        out = tmp_path/str(i)/'out'
        out.parent.mkdir()
        sign, code = r.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
        log = out.with_name('log')
        done = kills.stopped_after(r.uniform(0, good.seconds), sign, arguments(command, stage, out), out.parent, log)
        assert done.code in (code, 0), done.said
        if done.code: assert 'interrupted' in one_line(command, done.said)
        stands(command, out, None, good)
        goes_on(command, stage, out, good, f'stopped by {sign.name}')
        note(f'{sign.name} at a random time', command, done.code)

# power cuts

@pytest.mark.parametrize('command', FOLDERS)
def test_synced_before_it_counts(command, stage, tmp_path):
    out = tmp_path/'out'
    put(out, OLD)
    done = kills.command(arguments(command, stage, out), tmp_path, tmp_path/'log')
    assert done.code == 0, done.said
    assert unsynced(done.events, out) == []
    note('power cut after the end (order of syncs)', command, done.code)

# full disks

SIZES = (4, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 288, 320, 352, 384,
         448, 512, 640, 768, 896, 1024, 1280, 1536, 2048)

@each(('prune', 'evaluate', 'sweep', 'heal'))
def test_full_disk(command, stage, right, share, disk, tmp_path):
    good = right(command)
    for kb in share(SIZES, 2, len(SIZES)):
        out = disk(kb)/'out'
        log = tmp_path/'log'
        done = kills.command(arguments(command, stage, out), out.parent, log)
        assert done.code in (0, 2), (kb, done.said)
        if done.code: one_line(command, done.said)
        if command in FOLDERS: assert tree(out) is None or done.code == 0
        disk.change('size=100m')
        again = kills.command(arguments(command, stage, out, again=True), out.parent, log)
        assert again.code == 0, (kb, again.said)
        assert result(command, out) == good.result and beside(out) == ['out'], kb
        subprocess.run(['umount', '-l', out.parent], check=True)
        note('full disk', command, done.code)

@each(('prune', 'sweep'))
def test_read_only_folder(command, stage, disk, tmp_path):
    out = disk(64)/'out'
    disk.change('ro')
    done = kills.command(arguments(command, stage, out), out.parent, tmp_path/'log')
    assert done.code == 2
    assert 'Read-only' in one_line(command, done.said)
    assert not beside(out)
    note('read-only folder', command, done.code)

# two at once

@each(('prune', 'heal'))
def test_two_at_once(command, stage, right, tmp_path):
    good, out, logs = right(command), tmp_path/'place'/'out', [tmp_path/'log0', tmp_path/'log1']
    out.parent.mkdir()
    both = [kills.start(arguments(command, stage, out), out.parent, log) for log in logs]
    ends = sorted([kills.end(p, log) for p, log in zip(both, logs)], key=lambda o: o.code)
    assert ends[0].code == 0, ends[0].said
    if ends[1].code: assert ends[1].code == 2 and 'another process' in one_line(command, ends[1].said)
    assert result(command, out) == good.result and beside(out) == ['out']
    note('two at once in one folder', command, ends[1].code)

# surroundings

SURROUNDINGS = {'no HOME': dict(HOME=None), 'locale C': dict(LC_ALL='C', LANG='C', PYTHONIOENCODING='ascii')}

@pytest.mark.parametrize('name', SURROUNDINGS)
@each(('prune',))
def test_surroundings(name, command, stage, right, tmp_path):
    out = tmp_path/'out-é'
    env = {k: v for k, v in (os.environ | SURROUNDINGS[name]).items() if v is not None} | dict(OMP_NUM_THREADS='1')
    run = [sys.executable, '-m', 'prunebook', *arguments(command, stage, out)]
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(command, out) == right(command).result and beside(out) == [out.name]
    note(name, command, 0)
