"Healing beyond its page: architectures, methods, kills and resumes, several processes, bad input."
import json, os, socket, subprocess, sys, threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
import prunebook.healing.healing as healing
import prunebook.healing.linear_patch as patching
import prunebook.healing.trainer as trainer
from prunebook import HealingConfig, PrunebookError, heal, prune_model
from prunebook.healing.adapters import load_adapter
from prunebook.pruning.checkpoint import save_pruned
from prunebook.core import lock, read_json
from prunebook.healing.healing import make_student
from prunebook.healing.methods import cut_positions, frozen_copy
from prunebook.healing.recipes import PAPER_RECIPES, settings_that_count
from prunebook.model.stack import fingerprint
from prunebook.model.stack import LayerStack
from prunebook.healing.packing import training_rows
from prunebook.healing.trainer import OrderedTrainer
from support.healing import KINDS, SMALL, run, same, state, texts, tiny, tokenizer


@pytest.fixture(scope='module')
def pruned(): return prune_model(tiny(), [2, 3])


# The recipe


def test_the_paper_has_seven_recipes():
    assert len(PAPER_RECIPES) == 7
    for name, recipe in PAPER_RECIPES.items():
        config = HealingConfig.paper(name)
        assert (config.steps, config.batch_size, config.warmup, config.bits) == (5000, 16, 100, 4)
        assert config.alpha == config.rank == recipe['rank'] and config.learning_rate == recipe['learning_rate']
    assert HealingConfig.paper('any/other') == HealingConfig.paper('microsoft/phi-2', learning_rate=3e-4)


WRONG = [
    dict(batch_tokens=-4), dict(batch_tokens=0), dict(batch_tokens=2.5),
    dict(steps=0), dict(steps=True), dict(steps='6'),
    dict(rank=1.5), dict(bits=8), dict(bits=True), dict(packing='tight'), dict(adapt='some'), dict(method='magic'),
    dict(method=3), dict(objective='kl'), dict(teacher_bits=5), dict(learning_rate=0.), dict(learning_rate=1),
    dict(dropout=1), dict(alpha=0), dict(max_length=1), dict(steps=10, warmup=10), dict(warmup=-1), dict(seed=2**32),
    dict(targets=[]), dict(targets=[3]), dict(deterministic=1), dict(gradient_checkpointing='yes'), dict(near=0),
    dict(save_every=0), dict(options=dict(last=2))]


@pytest.mark.parametrize('wrong', WRONG, ids=str)
def test_a_wrong_value_is_refused(wrong):
    with pytest.raises(PrunebookError, match=list(wrong)[-1]): HealingConfig(**wrong)
    with pytest.raises(PrunebookError): SMALL.replace(**wrong)


# Methods


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('method', ['lora', 'head_and_last'])
def test_every_architecture(kind, method, tmp_path):
    model = tiny(kind)
    pruned = prune_model(model, [2, 3])
    before, modules = state(pruned), [id(m) for m in pruned.modules()]
    flags = [p.requires_grad for p in pruned.parameters()]
    recipe = SMALL.replace(method=method, steps=3, **dict(last=1) if method == 'head_and_last' else {})
    result = run(pruned, recipe, out=tmp_path/'run')
    assert same(before, state(pruned)) and modules == [id(m) for m in pruned.modules()]
    assert flags == [p.requires_grad for p in pruned.parameters()]
    assert type(result.model) is type(model) and [o['step'] for o in result.history] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['adapter', 'asked.json']
    result.save(tokenizer(), tmp_path/'saved')
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'saved', dtype=torch.float32)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad(): a, b, c = (m(ids).logits for m in (result.model, again, pruned))
    assert torch.allclose(a, b, atol=1e-6) and not torch.allclose(a, c, atol=1e-4)
    if method != 'lora': return
    with torch.no_grad(): on_top = load_adapter(pruned, result.adapter, merge=False)(ids).logits
    assert torch.allclose(a, on_top, atol=1e-5)


WRITERS = dict(llama='mlp.down_proj', gpt2='mlp.c_proj', phi='mlp.fc2', gpt_neox='mlp.dense_4h_to_h')


@pytest.mark.parametrize('kind, name', WRITERS.items())
def test_patch_is_the_least_squares_map(kind, name):
    "Against the formula on the page, with every token's states in memory, one document at a time"
    model, seen = tiny(kind), []
    stack, tok = LayerStack(model), tokenizer()
    for m, key in ((stack.layers[1].get_submodule(name), 'm'), (stack.layers[1], 'x'), (stack.layers[3], 'y')):
        m.register_forward_hook(lambda mod, i, o, key=key: seen.append((key, (o[0] if isinstance(o, tuple) else o)[0])))
    with torch.no_grad():
        for o in texts(): stack.body(torch.tensor(tok(o)['input_ids'][:SMALL.max_length])[None])
    m, x, y = (torch.cat([o for k, o in seen if k == key]).double() for key in 'mxy')
    w = (m.norm(dim=-1, keepdim=True) + 1e-6) ** -2
    G = m.T @ (w * m)
    M = torch.eye(32) + torch.linalg.solve(G + G.diagonal().mean() * torch.eye(32), m.T @ (w * (y - x))).T
    for o in model.modules(): o._forward_hooks.clear()
    cut = prune_model(model, [2, 3])
    result = run(cut, SMALL.replace(method='linear_patch'), teacher=model)
    assert result.history == [] and type(result.model) is type(model)
    changed = {n: p for n, p in result.model.named_parameters() if not torch.equal(p, cut.get_parameter(n))}
    assert changed and all(n.startswith(f'{stack.path}.1.{name}.') for n in changed)
    for n, p in changed.items():
        old = cut.get_parameter(n).detach().double()
        want = old @ M.T if old.ndim == 1 or kind == 'gpt2' else M @ old
        assert (p - want).norm() < 1e-4 * (want - old).norm()


def test_patch_refuses_a_norm_after_the_map():
    model = tiny('gemma2')
    for m in model.modules():  # at their start these norms are nearly the identity; trained ones are not
        if 'Norm' in type(m).__name__: m.weight.data += 2
    with pytest.raises(PrunebookError, match='norm stands between'):
        run(prune_model(model, [2, 3]), SMALL.replace(method='linear_patch'), teacher=model)


def test_a_patch_that_makes_the_model_worse_warns(pruned, monkeypatch, caplog):
    losses = iter([2., 2., 2., 3.])
    monkeypatch.setattr(patching, 'text_loss', lambda *a, **kw: SimpleNamespace(value=next(losses)))
    for warned in (False, True):
        run(pruned, SMALL.replace(method='linear_patch'), teacher=tiny())
        assert ('from 2.00 to 3.00 nats per token on 8 of the texts' in caplog.text) == warned


def test_learns_and_history(pruned):
    config = SMALL.replace(steps=40, batch_size=8, method='head_and_last')
    h = run(pruned, config).history
    assert h[-1]['loss'] < h[0]['loss'] - .5
    assert set(h[0]) == {'step', 'loss', 'learning_rate', 'tokens'} and h[4]['learning_rate'] == pytest.approx(1e-2)
    rows = training_rows(tokenizer(), texts(), config)
    assert h[-1]['tokens'] == sum(len(rows[i]['ids']) for i in range(len(rows)))


def test_distillation_goes_to_the_teacher():
    model = tiny()
    model.lm_head.weight.data *= 30
    h = run(prune_model(model, [2, 3]), SMALL.replace(steps=40, objective='distill', dropout=0.), teacher=model).history
    assert h[-1]['loss'] < .7 * h[0]['loss']


@pytest.mark.parametrize('slow, bits', [(True, 32), (False, 16)])
def test_a_cpu_slow_in_16_bits_trains_in_32(slow, bits, pruned, monkeypatch):
    monkeypatch.setattr(healing, 'slow_in_16_bits', lambda device: slow)
    assert run(pruned, SMALL.replace(steps=1, bits=16)).config.bits == bits


@pytest.mark.parametrize('adapt, layers', [('all', {0, 1, 2, 3}), ('after_cut', {2, 3}), ('near_cut', {1, 2})])
def test_no_graph_below_the_first_adapter(adapt, layers, pruned):
    student, stack = make_student(pruned, SMALL.replace(adapt=adapt, near=1))
    learns = [n for n, p in student.named_parameters() if p.requires_grad]
    assert {int(n.split('layers.')[1].split('.')[0]) for n in learns} == layers
    graph = {}
    for i, layer in enumerate(stack.layers):
        layer.register_forward_hook(lambda m, a, o, i=i: graph.update({i: o.requires_grad}))
    stack.body(torch.arange(3, 9)[None])
    assert graph == {i: i >= min(layers) for i in range(4)}


def test_cut_positions():
    model = tiny()
    assert cut_positions(prune_model(model, [0])) == [0] and cut_positions(prune_model(model, [4, 5])) == [4]
    assert cut_positions(prune_model(prune_model(model, [1]), [3])) == [1, 3]  # the second cut removes the old layer 4
    with pytest.raises(PrunebookError, match='no layer stands after the cut'):
        run(prune_model(model, [4, 5]), SMALL.replace(adapt='after_cut'))


# The same numbers, whatever fits into memory


def test_same_seed_same_bits(pruned):
    a, b, c = run(pruned), run(pruned), run(pruned, SMALL.replace(seed=1))
    assert same(a.adapter, b.adapter) and a.history == b.history and not same(a.adapter, c.adapter)


@pytest.mark.parametrize('changes', [{}, dict(packing='chunk'), dict(objective='distill')])
def test_the_budget_of_tokens_changes_no_loss_and_no_gradient(changes, pruned, monkeypatch):
    "A row at a time, three, or all four"
    step, forward = OrderedTrainer.training_step, trainer.CausalLMLoss.forward
    def noted_step(self, model, *args):
        loss = step(self, model, *args)
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        return loss
    def noted_forward(self, labels, *args, **kw):
        rows.append(len(labels))
        return forward(self, labels, *args, **kw)
    monkeypatch.setattr(OrderedTrainer, 'training_step', noted_step)
    monkeypatch.setattr(trainer.CausalLMLoss, 'forward', noted_forward)
    runs, seen = [], []
    for budget in (None, 1, 48):
        grads, rows = [], []
        config = SMALL.replace(dropout=0., steps=2, batch_tokens=budget, **changes)
        runs.append((run(pruned, config, teacher=tiny()).history, grads[0]))
        seen.append(rows[:4])
    assert seen == [[4, 4], [1, 1, 1, 1], [3, 1, 3, 1]]
    for history, grad in runs[1:]:
        assert [o['loss'] for o in history] == pytest.approx([o['loss'] for o in runs[0][0]], abs=1e-5)
        assert [o['tokens'] for o in history] == [o['tokens'] for o in runs[0][0]]
        for k, g in runs[0][1].items(): torch.testing.assert_close(grad[k], g, rtol=1e-4, atol=1e-6)


ONCE_MORE = [('llama', dict(packing='chunk')), ('gpt2', dict(adapt='near_cut', near=1)),
             ('gemma3_text', dict(method='head_and_last', last=1)), ('falcon', dict(objective='distill'))]


@pytest.mark.parametrize('kind, changes', ONCE_MORE)
def test_gradient_checkpointing_learns_the_same(kind, changes):
    "Bit by bit, dropout included; layers are run again"
    model, calls = tiny(kind), []
    cut, layer, call = prune_model(model, [2, 3]), type(LayerStack(model).layers[0]), torch.nn.Module._call_impl
    def counted(self, *args, **kw):
        calls.append(isinstance(self, layer))
        return call(self, *args, **kw)
    def learn(again):
        calls.clear()
        with pytest.MonkeyPatch.context() as m:
            m.setattr(torch.nn.Module, '_call_impl', counted)
            done = run(cut, SMALL.replace(steps=3, gradient_checkpointing=again, **changes), teacher=model)
        return done, len(calls)
    (a, once), (b, again) = learn(False), learn(True)
    assert same(a.adapter, b.adapter) and a.history == b.history and again > 1.1 * once


@pytest.mark.parametrize('after', [0, 2])
def test_rows_that_do_not_fit_into_memory_are_halved(after, pruned, monkeypatch, caplog, tmp_path):
    "From the start, or in the middle of a run, from its last checkpoint; the numbers are those of small batches"
    recipe = SMALL.replace(dropout=0., save_every=1, packing='chunk')
    want, calls, old = run(pruned, recipe.replace(batch_tokens=16)).history, [0], torch.nn.Embedding.forward
    def forward(self, x):
        calls[0] += x.numel() > 8  # trials of how documents are kept apart are shorter
        if x.numel() > 16 and calls[0] > after: raise torch.OutOfMemoryError('CUDA out of memory')
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', forward)
    got = run(pruned, recipe, out=tmp_path/'out').history
    assert calls[0] == after + 2 + 4 * (recipe.steps - after), 'steps that a checkpoint holds are not run again'
    assert 'out of memory with 32 tokens at once; going on with 16,' in caplog.text
    assert [o['loss'] for o in got] == pytest.approx([o['loss'] for o in want], abs=1e-4)
    assert [o['tokens'] for o in got] == [o['tokens'] for o in want]
    def never(self, x):
        if x.numel() > 8: raise torch.OutOfMemoryError('CUDA out of memory')
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', never)
    with pytest.raises(PrunebookError, match='16 tokens at once do not fit'): run(pruned, recipe)


# What was there stays; resumed is equal to never interrupted, or refused


def stopped(pruned, out, config=SMALL, at=4, **kw):
    "Interrupt a run when it begins to save the checkpoint of step `at`"
    save = OrderedTrainer._save_optimizer_and_scheduler
    def stop(self, folder):
        if folder.endswith(f'-{at}'): raise KeyboardInterrupt
        return save(self, folder)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(OrderedTrainer, '_save_optimizer_and_scheduler', stop)
        with pytest.raises(KeyboardInterrupt): run(pruned, config.replace(save_every=1), out=out, **kw)
    return Path(f'{out}.unfinished')/'checkpoints'


def test_a_damaged_checkpoint_is_skipped(pruned, tmp_path):
    "Marked whole, and cut: the one before is used, and the end is the same"
    file = stopped(pruned, tmp_path/'a')/'checkpoint-3'/'weights.safetensors'
    file.write_bytes(file.read_bytes()[:-100])
    config = SMALL.replace(save_every=1)
    result = run(pruned, config, out=tmp_path/'a', resume=True)
    assert same(load_file(result.adapter/'adapter_model.safetensors'), run(pruned, config).adapter)
    assert [o['step'] for o in result.history] == [1, 2, 3, 4, 5, 6]


def test_the_old_result_stays_until_the_new_is_whole(pruned, tmp_path):
    out = tmp_path/'a'
    first = run(pruned, out=out)
    before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
    stopped(pruned, out, SMALL.replace(seed=1), force=True)
    assert {p: p.read_bytes() for p in out.rglob('*') if p.is_file()} == before
    with pytest.raises(PrunebookError, match='not empty'): run(pruned, SMALL.replace(seed=1, save_every=1), out=out)
    second = run(pruned, SMALL.replace(seed=1, save_every=1), out=out, resume=True, force=True)
    assert second.history != first.history and [p.name for p in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize('name', ['model', 'model.unfinished'])
def test_the_source_is_never_written(name, pruned, tmp_path):
    folder = save_pruned(pruned, tokenizer(), tmp_path/'saved').rename(tmp_path/name)
    model, before = AutoModelForCausalLM.from_pretrained(folder), sorted(folder.rglob('*'))
    with pytest.raises(PrunebookError, match='only read'): run(model, out=tmp_path/'model', force=True)
    with pytest.raises(PrunebookError, match='only read'):
        run(pruned, SMALL.replace(objective='distill'), out=folder/'out', teacher=str(folder))
    assert sorted(folder.rglob('*')) == before


def test_the_lock_is_held_to_the_end(pruned, tmp_path, monkeypatch):
    "Also while the adapter is merged, after the training"
    found, old = [], healing.load_adapter
    def other():
        try:
            with lock(tmp_path/'a'): found.append('free')
        except PrunebookError: found.append('locked')
    def merge(*args, **kw):
        t = threading.Thread(target=other)
        t.start()
        t.join()
        return old(*args, **kw)
    monkeypatch.setattr(healing, 'load_adapter', merge)
    run(pruned, SMALL.replace(steps=1), out=tmp_path/'a')
    run(pruned, SMALL.replace(steps=1), out=tmp_path/'a', resume=True)
    assert found == ['locked', 'locked']
    other()
    assert found[-1] == 'free'


def test_resume_is_for_the_same_run(pruned, tmp_path):
    out, file = tmp_path/'a', tmp_path/'a'/'asked.json'
    first = run(pruned, out=out)
    assert run(pruned, out=out, resume=True).history == first.history  # done already: nothing is trained
    with pytest.raises(PrunebookError, match="'steps': '6 then, 7 now'"):
        run(pruned, SMALL.replace(steps=7), out=out, resume=True)
    with pytest.raises(PrunebookError, match="'texts'"):
        heal(pruned, tokenizer(), texts(seed=1), SMALL, out, False, resume=True)
    asked = read_json(file)
    file.write_text(json.dumps({k: v for k, v in asked.items() if k != 'near'}))  # as an older version wrote it
    assert run(pruned, out=out, resume=True).history == first.history
    for other in (dict(gradient_checkpointing=True), dict(batch_tokens=16)):
        assert run(pruned, SMALL.replace(**other), out=out, resume=True).history == first.history
    file.write_text(json.dumps(asked | dict(later=1)))
    with pytest.raises(PrunebookError, match="'later': '1 then, None now'"): run(pruned, out=out, resume=True)
    file.write_text(json.dumps(asked))
    with pytest.raises(PrunebookError, match='not empty'): run(pruned, out=out)
    assert run(pruned, SMALL.replace(steps=2), out=out, force=True).history[-1]['step'] == 2


def test_distillation_is_resumed_with_its_teacher_only(tmp_path):
    model, other = tiny(), tiny()
    other.model.layers[0].mlp.up_proj.weight.data += .1
    cut, config = prune_model(model, [2, 3]), SMALL.replace(objective='distill')
    stopped(cut, tmp_path/'a', config, teacher=model)
    again = config.replace(save_every=1)
    def resumed(teacher): return run(cut, again, out=tmp_path/'a', teacher=teacher, resume=True)
    with pytest.raises(PrunebookError, match="'teacher'"): resumed(other)
    assert resumed(model).history == run(cut, again, teacher=model).history
    with pytest.raises(PrunebookError, match="'teacher'"): resumed(other)


# The saved result


HASH_SEED = '''
import sys
sys.path.insert(0, sys.argv[2])
from support.healing import *
from prunebook import prune_model
run(prune_model(tiny(), [2, 3]), SMALL.replace(steps=1), out=sys.argv[1])
'''


@pytest.mark.thorough
def test_the_same_bytes_under_any_hash_seed(tmp_path):
    found = []
    for seed in ('0', '1', '2'):
        out, env = tmp_path/seed, os.environ | dict(PYTHONHASHSEED=seed)
        subprocess.run([sys.executable, '-c', HASH_SEED, str(out), str(Path(__file__).parent)], env=env, check=True)
        found.append({p.name: p.read_bytes() for p in (out/'adapter').iterdir() if p.name != 'prunebook.json'})
    assert found[0] == found[1] == found[2] and set(found[0]) == {'adapter_config.json', 'adapter_model.safetensors'}


def test_another_base_is_refused(pruned, tmp_path):
    model = tiny()
    result = run(pruned, SMALL.replace(steps=1), out=tmp_path/'a')
    for other in (prune_model(model, [1, 2]), model, tiny(layers=4)):
        with pytest.raises(PrunebookError, match='Give the very model'): load_adapter(other, result.adapter)
    (result.adapter/'adapter_model.safetensors').write_bytes(b'')
    with pytest.raises(PrunebookError, match='is damaged'): load_adapter(pruned, result.adapter)
    assert fingerprint(model) == fingerprint(frozen_copy(model)) != fingerprint(result.model)


# Several processes

TWO = '''
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.healing import *
from prunebook import prune_model
from prunebook.core import process
out, batch, seed = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
config = SMALL.replace(dropout=0., batch_size=batch, seed=seed)
result = run(prune_model(tiny(), [2, 3]), config, out=out, force='force' in sys.argv)
torch.save(result.model.state_dict(), f'{out}-{process().rank}.pt')
'''


def launched(out, n, batch=4, seed=0, *more):
    env = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    script = out.parent/'two.py'
    script.write_text(TWO)
    launch = ['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', str(n),
              '--main_process_port', str(port)]
    args = [script, out, Path(__file__).parent, batch, seed, *more]
    command = [sys.executable, *(launch if n > 1 else []), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.thorough
def test_two_processes(tmp_path):
    "With the same global batch: the same losses, and in each process the same model, also over an old adapter"
    assert (one := launched(tmp_path/'one', 1)).returncode == 0, one.stderr
    assert launched(tmp_path/'two', 1, 4, 7).returncode == 0
    assert (two := launched(tmp_path/'two', 2, 4, 0, 'force')).returncode == 0, two.stderr
    histories = [read_json(tmp_path/o/'adapter'/'prunebook.json')['history'] for o in ('one', 'two')]
    assert [o['loss'] for o in histories[1]] == pytest.approx([o['loss'] for o in histories[0]], abs=1e-4)
    assert [o['tokens'] for o in histories[1]] == [o['tokens'] for o in histories[0]]
    want, first, second = (torch.load(tmp_path/f'{o}.pt') for o in ('one-0', 'two-0', 'two-1'))
    assert same(first, second), 'neither process loads the old adapter'
    assert all(torch.allclose(want[k], first[k], atol=1e-4) for k in want)
    odd = launched(tmp_path/'odd', 2, 3)
    assert odd.returncode and 'batch_size=3 is not a multiple of 2 processes' in odd.stderr
    refused = launched(tmp_path/'two', 2)
    assert refused.returncode and refused.stderr.count('is not empty') >= 2, 'each process says why'


# Bad input, one clear line, before any training


def test_not_a_number_stops(tmp_path):
    cut = prune_model(tiny(), [2, 3])
    cut.model.layers[1].mlp.up_proj.weight.data[0, 0] = float('nan')
    with pytest.raises(PrunebookError, match='step 1: the loss is nan'): run(cut, out=tmp_path/'a')
    wild = SMALL.replace(steps=60, learning_rate=.9, warmup=0, method='head_and_last')
    with pytest.raises(PrunebookError, match='diverge'): run(prune_model(tiny(), [2, 3]), wild, out=tmp_path/'b')
    assert list((tmp_path/'b.unfinished'/'checkpoints').glob('*/whole.json'))


BAD = [(dict(max_length=512), 'max_length=512: give 1 to 128'),
       (dict(batch_size=64), '40 documents, fewer than one batch of 64'),
       (dict(targets=['mlp.nope']), 'no such linear layers'), (dict(objective='distill'), 'give it as teacher'),
       (dict(method='linear_patch'), 'give it as teacher')]


@pytest.mark.parametrize('change, match', BAD)
def test_bad_input(change, match, pruned, tmp_path):
    with pytest.raises(PrunebookError, match=match): run(pruned, SMALL.replace(**change), out=tmp_path/'a')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kind', ['gpt2', 'opt'])
@pytest.mark.parametrize('packing', ['none', 'chunk'])
def test_more_tokens_than_positions_is_refused(kind, packing):
    with pytest.raises(PrunebookError, match='max_length=129: give 1 to 128'):
        run(prune_model(tiny(kind), [2]), SMALL.replace(max_length=129, packing=packing, batch_size=1))


def test_a_tokenizer_larger_than_the_embedding_is_refused(pruned):
    for method in ('lora', 'linear_patch'):
        with pytest.raises(PrunebookError, match='the tokenizer gives token .* tokens 0 to 49'):
            run(prune_model(tiny(vocab_size=50), [2]), SMALL.replace(method=method), teacher=tiny(vocab_size=50))


def test_wrong_texts_and_teachers(pruned, caplog):
    for wrong in ([], ['', ' '], ['w1']):
        with pytest.raises(PrunebookError): heal(pruned, tokenizer(), wrong, SMALL, progress=False)
    with pytest.raises(PrunebookError, match='another tokenizer'):
        run(pruned, SMALL.replace(objective='distill'), teacher=tiny(vocab_size=120))
    with pytest.raises(PrunebookError, match='pruned from one of 6'):
        run(pruned, SMALL.replace(method='linear_patch'), teacher=tiny(layers=7))
    run(tiny(), SMALL.replace(steps=1))
    assert 'plain fine-tuning' in caplog.text


def test_without_bitsandbytes_4_bits_are_refused(pruned, monkeypatch):
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda n, *a: None if n == 'bitsandbytes' else find(n, *a))
    with pytest.raises(PrunebookError, match='bitsandbytes'): run(pruned, SMALL.replace(bits=4))


def test_settings_that_count_know_older_recipes():
    old = {k: v for k, v in asdict(HealingConfig()).items() if k not in ('options', 'gradient_checkpointing')}
    now = asdict(HealingConfig(gradient_checkpointing=True, batch_tokens=512))
    assert settings_that_count(old | dict(micro_batch=None, last=3, options={})) == settings_that_count(now)
    assert HealingConfig.of(old | dict(micro_batch=None, last=3)) == HealingConfig()
    assert HealingConfig.of(old | dict(method='head_and_last', last=2)).options == dict(last=2)
