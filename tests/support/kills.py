"""Stop a process before its k-th file operation, and watch the order of its operations.

An audit hook sees every operation on paths under one folder. `forked` runs a function in a fork of this process, and
`command` a command of `prunebook` in a fork of a server that has imported the libraries."""
import json, multiprocessing, os, signal, sys, time
from pathlib import Path
from typing import NamedTuple

CHANGES = ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate', 'os.chmod',
           'os.utime', 'sync')
DIR_FD = {'os.remove': {0: 1}, 'os.rmdir': {0: 1}, 'os.mkdir': {0: 2}, 'os.rename': {0: 2, 1: 3}}  # of arguments

def is_change(event, args):
    "Does this event change files, or wait for a disk?"
    if event == 'open':
        mode, flags = args[1], args[2]
        by_mode = isinstance(mode, str) and set(mode) & set('wax+')
        return bool(by_mode or isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in CHANGES or event.startswith('shutil.')

def paths(event, args):
    "The absolute paths among an event's arguments"
    found = []
    for i, o in enumerate(args[:2]):
        if not isinstance(o, (str, bytes, os.PathLike)): continue
        base, fd = os.getcwd(), args[DIR_FD[event][i]] if i in DIR_FD.get(event, {}) else -1
        if isinstance(fd, int) and fd >= 0: base = os.readlink(f'/proc/self/fd/{fd}')
        found.append(os.path.normpath(os.path.join(base, os.fsdecode(o))))
    return found

def watch(under, at=None, log=None, sign=signal.SIGKILL):
    "Send `sign` to this process before its operation number `at`, from 0, on a path under `under`; write each to `log`"
    under, mine, seen, busy = str(Path(under).resolve()), os.getpid(), [0], [False]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else None
    def hook(event, args):
        if busy[0] or os.getpid() != mine or not is_change(event, args): return
        busy[0] = True
        try:
            about = [o for o in paths(event, args) if o == under or o.startswith(under + '/')]
            if not about: return
            if seen[0] == at: os.kill(mine, sign)
            seen[0] += 1
            if file is not None: os.write(file, (json.dumps([event, *about]) + '\n').encode())
        finally: busy[0] = False
    sys.addaudithook(hook)
    audit_syncs()

def audit_syncs():
    "Let each `os.fsync` be an event that audit hooks see, with the path"
    fsync = os.fsync
    def told(fd):
        sys.audit('sync', os.readlink(f'/proc/self/fd/{fd}'))
        fsync(fd)
    os.fsync = told

class Done(NamedTuple):
    code: int                 # Exit status; negative for a signal
    said: str                 # Standard error
    events: list[list[str]]   # [event, path, …] of each operation

def read_log(log): return [json.loads(o) for o in Path(log).read_text().splitlines()] if Path(log).exists() else []

def forked(f, under, log, at=None):
    "Run `f()` in a fork"
    Path(log).unlink(missing_ok=True)
    if not (pid := os.fork()):
        code = 1
        try:
            watch(under, at, log)
            f()
            code = 0
        except BaseException as e: os.write(2, f'{type(e).__name__}: {e}\n'.encode())
        finally: os._exit(code)
    return Done(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), '', read_log(log))

# the command line: a server that has imported the libraries forks a process for each run

SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload([
    'support.kills', 'prunebook.cli', 'prunebook.paper.sweep', 'prunebook.healing.healing',
    'prunebook.pruning.checkpoint', 'prunebook.evaluation.tasks', 'prunebook.paper.reproduce', 'peft',
    'transformers.trainer'])

def _main(argv, under, log, at, sign, said):
    "In the process: run `prunebook` with these arguments"
    import torch
    from prunebook.cli import main
    fd = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(fd, 2)
    torch.set_num_threads(1)
    # a shell's background job ignores Ctrl-C, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch(under, at, log, sign)
    sys.argv = ['prunebook', *map(str, argv)]  # as the command itself: only it receives signals
    sys.exit(main())

def start(argv, under, log, at=None, sign=signal.SIGKILL):
    "Start a command that is watched"
    Path(log).unlink(missing_ok=True)
    process = SERVER.Process(target=_main, args=(argv, under, log, at, sign, f'{log}.said'))
    process.start()
    return process

def end(process, log, timeout=600):
    process.join(timeout)
    assert process.exitcode is not None, 'it hangs'
    said = Path(f'{log}.said')
    return Done(process.exitcode, said.read_text(errors='replace') if said.exists() else '', read_log(log))

def command(argv, under, log, **kw):
    "Run a command to its end"
    return end(start(argv, under, log, **kw), log)

def stopped_after(seconds, sign, argv, under, log):
    "Run a command, and send it a signal that many seconds after its first file operation"
    process = start(argv, under, log)
    while not read_log(log) and process.is_alive(): time.sleep(.005)
    process.join(seconds)
    if process.is_alive(): os.kill(process.pid, sign)
    return end(process, log)

# the state of a folder

def tree(folder):
    "Every file below `folder`, with its content; `None` if there is no folder"
    folder = Path(folder)
    if not folder.is_dir(): return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

def put(folder, files):
    "Write files by their names below `folder`, as `tree` gives them"
    for name, data in files.items():
        (file := Path(folder)/name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

def beside(out):
    "Names in the folder of `out`"
    return sorted(p.name for p in Path(out).parent.iterdir())

# the order of operations

def commit_index(events, out):
    "Where `out` became the new folder"
    out = str(out)
    commits = [i for i, (event, *about) in enumerate(events) if event == 'os.rename' and about[-1] == out]
    assert commits, 'nothing was put at the place'
    return commits[-1]

def _name_inside(path, out):
    "The name that `path`, in a folder that is built for `out`, will have in `out`; `None` for other paths"
    for place in (path, *path.parents):
        built = place.name == out.name and place.parent.name.startswith(f'.{out.name}.prunebook-new-')
        done = place.name == f'{out.name}.unfinished'
        if built and place.parent.parent == out.parent or done and place.parent == out.parent:
            return str(path.relative_to(place))

def unsynced(events, out):
    "What a power cut right after the commit could lose: files and folders written and not synced before it"
    at, out, lost = commit_index(events, out), Path(out), []
    after = [about for e, *about in events[at:] if e == 'sync']
    if not any(str(out.parent) in about for about in after): lost.append(str(out.parent))
    synced, written = {}, {}
    for i, (event, *about) in enumerate(events[:at]):
        for name in filter(None, (_name_inside(Path(p), out) for p in about)):
            if event == 'sync': synced[name] = i
            elif event == 'open': written[name] = i
    names = ['.', *(str(p.relative_to(out)) for p in out.rglob('*') if not p.is_symlink())]
    return lost + [n for n in names if n not in synced or synced[n] < written.get(n, -1)]
