"""Hostile files: a reader ends with a result or a `PrunebookError`, in bounded time and memory, and writes nowhere
else. Readers of wheels, texts, questions and runs are fuzzed beside their other tests. `pytest --slow` runs ten times
as many cases."""
import contextlib, json
import numpy as np
import scipy.stats  # noqa: F401 (an alarm in the middle of its first import would break it)
from hypothesis import strategies as st
from prunebook.core import PrunebookError
from prunebook.evaluation.losses import LossMap
from prunebook.evaluation.scores import LossScore, Score, load_score
from prunebook.evaluation.tasks import parse_task
from prunebook.healing.recipes import HealingConfig
from prunebook.paper.sweep import SweepConfig
from prunebook.pruning.checkpoint import check_checkpoint, prune_checkpoint, _read_header, read_tensors
from prunebook.pruning.strategies import Plan, as_plan
from prunebook.similarity.distances import LayerDistances
from support.kills import put, tree
from support.readers import edits, fuzz, near, numbers, spoil, values

# checkpoints

def shard(names):
    "A safetensors file of two float32 numbers for each name"
    table = {o: dict(dtype='F32', shape=[2], data_offsets=[8 * i, 8 * i + 8]) for i, o in enumerate(names)}
    head = json.dumps(table).encode()
    return len(head).to_bytes(8, 'little') + head + b''.join(bytes([i] * 8) for i in range(len(names)))

config = dict(model_type='llama', num_hidden_layers=3, hidden_size=4, vocab_size=9, architectures=['LlamaForCausalLM'])
held = {'model-1.safetensors': ['embed.weight', 'model.layers.0.w', 'model.layers.1.w'],
        'model-2.safetensors': ['model.layers.2.w', 'norm.weight']}
places = {n: f for f, names in held.items() for n in names}
whole = {f: shard(names) for f, names in held.items()} | {
    'config.json': json.dumps(config).encode(),
    'model.safetensors.index.json': json.dumps(dict(weight_map=places)).encode()}

def prune(root, files):
    "A sound result or none, and the source as it was"
    put(root/'src', files)
    check_checkpoint(root/'src', run=False)
    try:
        prune_checkpoint(root/'src', root/'out', '1', progress=False)
        assert len(read_tensors(root/'out')) and (root/'out'/'config.json').exists()
    except PrunebookError:
        assert not (root/'out').exists()
        raise
    finally:
        assert sorted(p.name for p in root.iterdir() if p.name != 'out') == ['src']
        assert tree(root/'src') == files

@fuzz(150, name=st.sampled_from(sorted(whole)), changes=edits)
def test_bytes_of_a_checkpoint(root, name, changes): prune(root, whole | {name: spoil(whole[name], changes)})

per_layer = ['model_type', 'num_hidden_layers', 'layer_types', 'quantization_config', 'text_config', 'prunebook',
             'attention_types', 'per_layer_config', 'scale_depth', 'mlp_only_layers', 'attn_layer_period']

@fuzz(150, change=st.dictionaries(st.sampled_from(per_layer), values, max_size=2))
def test_configs(root, change): prune(root, whole | {'config.json': json.dumps(config | change).encode()})

@fuzz(100, index=st.one_of(near(weight_map=places, metadata=dict(total_size=40)), values, st.dictionaries(
    st.sampled_from(sorted(places)), st.sampled_from([*held, '../x.safetensors', '/x.safetensors', 'x\0.safetensors']),
    max_size=5).map(lambda o: dict(weight_map=places | o))))
def test_indexes(root, index):
    prune(root, whole | {'model.safetensors.index.json': json.dumps(index).encode()})

@fuzz(200, table=near(**{'a.w': dict(dtype='F32', shape=[2], data_offsets=[0, 8]),
                         'b.w': dict(dtype='F32', shape=[2], data_offsets=[8, 16])}),
      more=st.sampled_from([0, 0, 1, 64]))
def test_headers(root, table, more):
    head = json.dumps(table).encode()
    (root/'f').write_bytes(len(head).to_bytes(8, 'little') + head + bytes(16 + more))
    for t in _read_header(root/'f'): assert t.size >= 0 and t.stop <= (root/'f').stat().st_size

# settings, scores, tables

score = Score('t', .5, 1, 2, .1, .9, [0, 1], [0, 0], 'likelihood', .5, .5)
losses = LossScore('t', 2., 1., 3., 2, [4., 4.], [2, 2], [0, 1], [], 9, vocab=99)
readers = dict(
    score=(load_score, near(kind='Score', **vars(score))), losses=(load_score, near(kind='LossScore', **vars(losses))),
    plan=(Plan.load, near(layers=[1, 2], depth=4, strategy='x', details={})),
    healing=(HealingConfig.load, near(**vars(HealingConfig()))),
    sweep=(SweepConfig.load, near(**vars(SweepConfig()) | dict(healing=dict(steps=3)))))

@fuzz(300, case=st.one_of(*(st.tuples(st.just(k), st.one_of(v, v, values)) for k, (_, v) in readers.items())))
def test_settings_and_scores(root, case):
    name, content = case
    (root/'x.json').write_text(json.dumps(content, default=str))
    load = readers[name][0]
    found = load(root/'x.json')
    repr(found)
    if name in ('healing', 'sweep', 'plan'):
        found.save(root/'again.json')
        assert load(root/'again.json') == found

def use(table):
    "Whatever was read works, or says why not"
    repr(table)
    with contextlib.suppress(PrunebookError): table.best_block(1)
    if isinstance(table, LayerDistances): table.to_frame()

@fuzz(120, changes=edits)
def test_bytes_of_distances(root, changes):
    d = np.zeros((4, 4))
    LayerDistances(d, d, 3, [], np.zeros((3, 3, 3)), dict(model='x')).save(root)
    file = root/'distances.safetensors'
    file.write_bytes(spoil(file.read_bytes(), changes))
    use(LayerDistances.load(root))

@fuzz(120, changes=edits)
def test_bytes_of_a_loss_map(root, changes):
    LossMap.of({(0, 0): [1., 2.], (0, 1): [2., 3.], (1, 2): [2., 2.]}, 2, [3, 4], {}).save(root)
    file = root/'loss_map.safetensors'
    file.write_bytes(spoil(file.read_bytes(), changes))
    use(LossMap.load(root))

# text

@fuzz(200, text=st.text('0123456789-:, x٣²', max_size=14), depth=st.integers(1, 40))
def test_layer_ranges(root, text, depth):
    found = list(as_plan(text, depth))
    assert found == sorted(set(found))
    assert all(0 <= i < depth for i in found)
    assert found

@fuzz(200, name=st.sampled_from(['mmlu', 'c4', 'piqa', 'gsm8k', '', 'x']), rest=st.one_of(
    st.text(':=,shotcrng0123', max_size=20),
    st.tuples(st.sampled_from(['shots', 'scoring', 'seed', 'split', 'x']), numbers).map(lambda o: f':{o[0]}={o[1]}')))
def test_task_specs(root, name, rest):
    assert parse_task(name + rest).name
