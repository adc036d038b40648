"Hostile input for readers: bounds on time and memory, spoiled bytes, and `fuzz`, a test of many cases."
import errno, json, os, resource, shutil, signal, time
from contextlib import contextmanager
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from prunebook import PrunebookError

class Late(BaseException):
    "No reader takes it for an error of its own, as it would a TimeoutError"

def causes(e):
    "An exception and all that it was raised from or after"
    return [e, *(c for o in {e.__cause__, e.__context__} - {None} for c in causes(o))]

def starved(e):
    return isinstance(e, MemoryError) or getattr(e, 'errno', None) == errno.ENOMEM or 'allocate memory' in str(e)

@contextmanager
def bounded(seconds=20, megabytes=1500):
    "A case that hangs, or takes memory without bound, fails: also in a reader that refuses whatever goes wrong"
    rung = []

    def late(*args):
        rung.append(True)
        raise Late
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, hard))
    try: yield
    except Late: pass
    except Exception as e:
        assert not any(map(starved, causes(e))), f'more than {megabytes} MB: {e}'
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        assert not rung, f'more than {seconds} s'

def keep_counts(reader, ended, longest):
    "Add the counts of one test to the file named by PRUNEBOOK_FUZZ"
    if not (file := os.environ.get('PRUNEBOOK_FUZZ')): return
    kept = json.loads(Path(file).read_text())['readers'] if Path(file).exists() else {}
    kept[reader] = dict(cases=sum(ended.values()), refused=ended['refused'], longest_seconds=round(longest, 3))
    found = dict(cases=sum(o['cases'] for o in kept.values()), readers=dict(sorted(kept.items())))
    Path(file).write_text(json.dumps(found, indent=1) + '\n')

def fuzz(n, longer=10, seconds=20, **given_strategies):
    """A test of `n` cases, or with --slow of `longer` times as many, each in a folder of its own, `root`. A case ends
    well or in a `PrunebookError`, and writes nothing outside of its folder"""
    def wrap(check):
        def test(request, tmp_path):
            root = tmp_path/'root'
            ended, longest = dict(read=0, refused=0), [0.]

            def case(**kw):
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                begun = time.perf_counter()
                try:
                    with bounded(seconds): check(root, **kw)
                    ended['read'] += 1
                except PrunebookError as e:
                    assert str(e).strip()
                    ended['refused'] += 1
                longest[0] = max(longest[0], time.perf_counter() - begun)
                assert [p.name for p in tmp_path.iterdir()] == ['root'], 'something was written outside'
            times = longer if request.config.getoption('--slow') else 1
            rules = settings(max_examples=n * times, derandomize=True, database=None, deadline=None,
                             suppress_health_check=list(HealthCheck))
            rules(given(**given_strategies)(case))()
            assert all(ended.values()), f'a fuzz test in which all are read or all refused tests nothing: {ended}'
            keep_counts(check.__name__.removeprefix('test_'), ended, longest[0])
        test.__doc__ = check.__doc__
        return pytest.mark.fuzz(pytest.mark.thorough(test))
    return wrap

numbers = st.one_of(st.integers(-3, 12), st.integers(), st.sampled_from(
    [0, -1, 2**31, 2**63, 10**15, 10**400, 1e308, float('inf'), float('nan'), True, 0.0, 8.0]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(
    ['../../x', '/etc/passwd', '', '\0', '\ud800', '~', 'a' * 300]))
values = st.recursive(leaves, lambda o: st.one_of(
    st.lists(o, max_size=4), st.dictionaries(st.text(max_size=6), o, max_size=4)), max_leaves=8)
blobs = st.one_of(st.binary(max_size=200), values.map(lambda v: json.dumps(v).encode()), st.sampled_from(
    [b'', b'[' * 10**5, b'{"a":' * 10**5, b'\xff\xfe', b'9' * 6000, b'\0' * 4096, b'{}', b'[]', b'null']))
edits = st.lists(st.tuples(
    st.sampled_from(['flip', 'cut', 'insert', 'drop', 'double']), st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)

def near(**right):
    "Right objects with a field or two gone wrong"
    return st.dictionaries(st.sampled_from(sorted(right)), values, max_size=2).map(lambda o: right | o)

def spoil(data, changes):
    "Bytes, changed as `edits` say"
    for how, where, more in changes:
        at = int(where * len(data))
        if how == 'flip' and data: data = data[:at] + bytes([data[at] ^ more[0]]) + data[at + 1:]
        elif how == 'cut': data = data[:at]
        elif how == 'insert': data = data[:at] + more + data[at:]
        elif how == 'drop': data = data[:at] + data[at + len(more):]
        else: data = data[:at] + data[at:at + 64] + data[at:]
    return data
