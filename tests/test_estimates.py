"""The estimate's arithmetic against the operations and the bytes that torch counts, for models of every kind of source.
The advice of the command line is in test_cli.py."""
import json, subprocess, sys
import pytest, torch
from torch.utils.flop_counter import FlopCounterMode
from prunebook import HealingConfig, PrunebookError, heal, prune_model, save_pruned
from prunebook.estimates import Size, _machine_speed, estimate, model_size, work, working_gb
from prunebook.healing.healing import make_student
from prunebook.healing.packing import collate, training_rows
from support.tiny import texts, tiny, word_tokenizer

WIDE = dict(hidden_size=192, intermediate_size=512)
LIGHT = HealingConfig(steps=1, batch_size=4, max_length=16, rank=1, bits=32, packing='chunk', deterministic=False)


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    "A model, and its size as `estimate` reads it"
    folder = tmp_path_factory.mktemp('estimates')/'small'
    small = prune_model(tiny(**WIDE), [3, 4])
    save_pruned(small, word_tokenizer(), folder)
    return small, model_size(str(folder))


@pytest.mark.parametrize('again', [False, True])
def test_operations_of_healing(pruned, again):
    "A step with the narrowest adapter; attention, which the arithmetic leaves out, is little for sixteen tokens"
    model, size = pruned
    config = LIGHT.replace(gradient_checkpointing=again)
    with FlopCounterMode(display=False) as counted: heal(model, word_tokenizer(), texts(), config, progress=False)
    said = work(size, 'heal', LIGHT.batch_size * LIGHT.max_length, again)
    assert counted.get_total_flops() / 1e12 == pytest.approx(said, rel=.15)


def test_operations_of_a_measurement(pruned):
    model, size = pruned
    ids = torch.arange(3, 67).view(4, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'evaluate', 64), rel=.1)
    with torch.no_grad(), FlopCounterMode(display=False) as counted: model.base_model(ids)
    assert counted.get_total_flops() / 1e12 == pytest.approx(work(size, 'similarity', 64), rel=.1)


@pytest.mark.parametrize('again', [False, True])
def test_activations_saved_by_a_forward_pass(pruned, again):
    "Every tensor saved for the backward pass, but weights. Layers that run again save only their input"
    model, size = pruned
    config = LIGHT.replace(gradient_checkpointing=again)
    student, stack = make_student(model, config)
    causal = stack.model
    own, kept = {p.untyped_storage().data_ptr() for p in causal.parameters()}, {}

    def keep(t):
        if (s := t.untyped_storage()).data_ptr() not in own: kept[s.data_ptr()] = s.nbytes()
        return t
    rows = training_rows(word_tokenizer(), texts(), config)
    batch = collate([rows[i] for i in range(4)])
    student.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): causal.base_model(input_ids=batch['input_ids'])
    plain, saved = (working_gb(size, 'heal', 4, recipe=config.replace(gradient_checkpointing=o)) for o in (False, True))
    inputs = 4 * 16 * 4 * size.depth * size.hidden / 1e9
    layer = (plain - saved + inputs) / (size.depth - 1)  # what the formula gives one layer
    said = inputs if again else layer * size.depth
    assert .6 * said < sum(kept.values()) / 1e9 < 1.25 * said


def test_a_longer_batch_and_layers_run_again(pruned):
    size, big = pruned[1], LIGHT.replace(batch_size=8, max_length=512)
    gb = lambda **kw: working_gb(size, 'heal', 2, recipe=big.replace(**kw))
    assert gb(gradient_checkpointing=True) < gb(batch_tokens=1024) < gb()
    assert gb(batch_tokens=1024) == gb(batch_size=2)
    assert gb(batch_tokens=1) == gb(batch_size=1) and gb(batch_tokens=10**9) == gb(), 'a row, or the whole step'


def sparse_checkpoint(folder, config, shapes):
    "A checkpoint whose weights are one sparse file: a header, and a hole of the right size"
    folder.mkdir()
    (folder/'config.json').write_text(json.dumps(config))
    table, at = {}, 0
    for name, (a, b) in shapes.items():
        table[name] = dict(dtype='BF16', shape=[a, b], data_offsets=[at, at + 2 * a * b])
        at += 2 * a * b
    header = json.dumps(table).encode()
    with open(folder/'model.safetensors', 'wb') as f:
        f.write(len(header).to_bytes(8, 'little') + header)
        f.truncate(8 + len(header) + at)
    return folder


def test_the_estimate_of_405_billion_parameters_takes_little_itself(tmp_path):
    depth, hidden, inner, vocab = 126, 16384, 53248, 128256
    shapes = {'model.embed_tokens.weight': (vocab, hidden), 'lm_head.weight': (vocab, hidden)}
    parts = dict(q=(hidden, hidden), k=(1024, hidden), v=(1024, hidden), o=(hidden, hidden), gate=(inner, hidden),
                 up=(inner, hidden), down=(hidden, inner))
    shapes |= {f'model.layers.{i}.{k}.weight': v for i in range(depth) for k, v in parts.items()}
    config = dict(model_type='llama', num_hidden_layers=depth, hidden_size=hidden, intermediate_size=inner,
                  vocab_size=vocab)
    try: folder = sparse_checkpoint(tmp_path/'large', config, shapes)
    except OSError as e: pytest.skip(f'no sparse file of 812 GB here: {e}')
    size = model_size(str(folder))
    assert 400e9 < size.parameters < 410e9
    if sys.platform != 'linux': return
    # ru_maxrss would count this process as well, whose memory a child shares until it starts the other program
    code = ("import sys; from prunebook.cli import main; code = main(['estimate', sys.argv[1]]); "
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)")
    p = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True, text=True, check=True)
    assert 300e6 < 1024 * int(p.stderr.split()[-1]) < 1.6e9


@pytest.mark.parametrize('damage, says', [
    (lambda p: (p/'config.json').unlink(), 'config.json'),
    (lambda p: (p/'config.json').write_text('{}'), 'num_hidden_layers'),
    (lambda p: (p/'model.safetensors').write_bytes(b'{}'), 'model.safetensors'),
    (lambda p: (p/'config.json').write_text('{"num_hidden_layers": 2}'), 'hidden_size')])
def test_damaged_folders_are_refused(tmp_path, damage, says):
    tiny(layers=2).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(PrunebookError, match=says): model_size(str(tmp_path))


def test_wrong_numbers_are_refused():
    small = Size('x', 'llama', 2, 8, 16, 99, 100, 100, 99 * 8, {'BF16': 1784})
    for bad in (dict(n_texts=0), dict(max_length=-1)):
        with pytest.raises(PrunebookError, match='above 0'): estimate(small, speed=1., **bad)
    with pytest.raises(PrunebookError): estimate(small, speed=1., batch_tokens=0)
    assert _machine_speed(small, seconds=.01) > 0
