"Healing beyond its page: architectures, methods, kills and resumes, several processes, bad input."
import copy, json, pickle, warnings
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
import prunebook.healing.trainer as trainer
from prunebook import HealingConfig, PrunebookError, SweepConfig, cli, heal, prune_model
from prunebook.core import Settings, read_json
from prunebook.evaluation.generation import generate_texts
from prunebook.healing import healing
from prunebook.healing.adapters import load_adapter
from prunebook.healing.packing import training_rows
from prunebook.healing.recipes import RECIPES, named_recipe
from prunebook.healing.trainer import _DivergenceWatch, _OrderedTrainer
from prunebook.model.stack import LayerStack
from prunebook.paper.cluster import Cluster
from support import architectures
from support.fsdp import launch
from support.healing import KINDS, SMALL, run, same, state, texts, tiny, tokenizer
from support.tiny import save

@pytest.fixture(scope='module')
def pruned(): return prune_model(tiny(), [2, 3])

# Methods

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('method', ['lora', 'head_and_last'])
def test_every_architecture(kind, method, tmp_path):
    model = tiny(kind)
    pruned = prune_model(model, [2, 3])
    before, modules = state(pruned), [id(m) for m in pruned.modules()]
    flags = [p.requires_grad for p in pruned.parameters()]
    recipe = SMALL.replace(method=method, steps=3, options=dict(last=1) if method == 'head_and_last' else None)
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

def test_learns_and_history(pruned):
    config = SMALL.replace(steps=40, batch_size=8, method='head_and_last')
    h = run(pruned, config).history
    assert h[-1]['loss'] < h[0]['loss'] - .5
    assert set(h[0]) == {'step', 'loss', 'learning_rate', 'tokens'} and h[4]['learning_rate'] == pytest.approx(1e-2)
    rows = training_rows(tokenizer(), texts(), config)
    assert h[-1]['tokens'] == sum(len(rows[i]['ids']) for i in range(len(rows)))

# The same numbers, whatever fits into memory

def test_same_seed_same_bits(pruned):
    a, b, c = run(pruned), run(pruned), run(pruned, SMALL.replace(seed=1))
    assert same(a.adapter, b.adapter)
    assert a.history == b.history
    assert not same(a.adapter, c.adapter)

@pytest.mark.parametrize('changes', [{}, dict(packing='chunk'), dict(objective='distill')])
def test_the_budget_of_tokens_changes_no_loss_and_no_gradient(changes, pruned, monkeypatch):
    "A row at a time, two, or all four"
    step, forward = _OrderedTrainer.training_step, trainer.CausalLMLoss.forward
    def noted_step(self, model, *args):
        loss = step(self, model, *args)
        if self.accelerator.sync_gradients:  # the last part of a step
            grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        return loss
    def noted_forward(self, labels, *args, **kw):
        rows.append(len(labels))
        return forward(self, labels, *args, **kw)
    monkeypatch.setattr(_OrderedTrainer, 'training_step', noted_step)
    monkeypatch.setattr(trainer.CausalLMLoss, 'forward', noted_forward)
    runs, seen = [], []
    for budget in (None, 1, 48):
        grads, rows = [], []
        config = SMALL.replace(dropout=0., steps=2, batch_tokens=budget, **changes)
        runs.append((run(pruned, config, teacher=tiny()).history, grads[0]))
        seen.append(rows[:4])
    assert seen == [[4, 4], [1, 1, 1, 1], [2, 2, 2, 2]]
    for history, grad in runs[1:]:
        assert [o['loss'] for o in history] == pytest.approx([o['loss'] for o in runs[0][0]], abs=1e-5)
        assert [o['tokens'] for o in history] == [o['tokens'] for o in runs[0][0]]
        for k, g in runs[0][1].items(): torch.testing.assert_close(grad[k], g, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('after', [0, 2])
def test_rows_that_do_not_fit_into_memory_are_halved(after, pruned, monkeypatch, caplog, tmp_path):
    "From the start, or in the middle of a run, from its last checkpoint; the numbers are those of small batches"
    recipe = SMALL.replace(steps=4, dropout=0., save_every=1, packing='chunk')
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
    save = _OrderedTrainer._save_optimizer_and_scheduler
    def stop(self, folder):
        if folder.endswith(f'-{at}'): raise KeyboardInterrupt
        return save(self, folder)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(_OrderedTrainer, '_save_optimizer_and_scheduler', stop)
        with pytest.raises(KeyboardInterrupt): run(pruned, config.replace(save_every=1), out=out, **kw)
    return Path(f'{out}.unfinished')/'checkpoints'

@pytest.mark.parametrize('name, damage', [
    ('weights.safetensors', lambda p: p.write_bytes(p.read_bytes()[::-1])),
    ('whole.json', lambda p: p.write_text('{'))])
def test_a_damaged_checkpoint_is_skipped(name, damage, pruned, tmp_path):
    "The one before is used, and the end is the same"
    damage(stopped(pruned, tmp_path/'a')/'checkpoint-3'/name)
    config = SMALL.replace(save_every=1)
    result = run(pruned, config, out=tmp_path/'a', resume=True)
    assert same(load_file(result.adapter/'adapter_model.safetensors'), run(pruned, config).adapter)
    assert [o['step'] for o in result.history] == [1, 2, 3, 4, 5, 6]

def test_resume_is_for_the_same_run(pruned, tmp_path):
    out, file = tmp_path/'a', tmp_path/'a'/'asked.json'
    first = run(pruned, out=out)
    with pytest.raises(PrunebookError, match="'steps': '6 then, 7 now'"):
        run(pruned, SMALL.replace(steps=7), out=out, resume=True)
    with pytest.raises(PrunebookError, match="'texts'"):
        heal(pruned, tokenizer(), texts(seed=1), SMALL, out, False, resume=True)
    asked = read_json(file)
    file.write_text(json.dumps({k: v for k, v in asked.items() if k != 'near'}))  # as an older version wrote it
    for more in ({}, dict(gradient_checkpointing=True), dict(batch_tokens=16)):  # done already: nothing is trained
        assert run(pruned, SMALL.replace(**more), out=out, resume=True).history == first.history
    file.write_text(json.dumps(asked | dict(later=1)))
    with pytest.raises(PrunebookError, match="'later': '1 then, None now'"): run(pruned, out=out, resume=True)
    with pytest.raises(PrunebookError, match='not empty'): run(pruned, out=out)

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

# Several processes

SCRIPT = '''
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.healing import *
from prunebook import prune_model
from prunebook.core import process
out, seed = Path(sys.argv[1]), int(sys.argv[3])
result = run(prune_model(tiny(), [2, 3]), SMALL.replace(dropout=0., seed=seed), out=out, force='force' in sys.argv)
torch.save(result.model.state_dict(), f'{out}-{process().rank}.pt')
'''

@pytest.mark.thorough
def test_two_processes(pruned, tmp_path):
    "With the same global batch: the same losses, and in each process the same model, also over an old adapter"
    (tmp_path/'two.py').write_text(SCRIPT)
    def two(*args): return launch(tmp_path/'two.py', tmp_path/'two', Path(__file__).parent, *args, how=['--multi_gpu'])
    one = run(pruned, SMALL.replace(dropout=0.))
    assert two(7).returncode == 0
    assert (done := two(0, 'force')).returncode == 0, done.stderr
    history = read_json(tmp_path/'two'/'adapter'/'prunebook.json')['history']
    assert [o['loss'] for o in history] == pytest.approx([o['loss'] for o in one.history], abs=1e-4)
    assert [o['tokens'] for o in history] == [o['tokens'] for o in one.history]
    first, second = (torch.load(tmp_path/f'two-{o}.pt') for o in (0, 1))
    assert same(first, second), 'neither process loads the old adapter'
    assert all(torch.allclose(v, first[k], atol=1e-4) for k, v in one.model.state_dict().items())
    refused = two(0)
    assert refused.returncode and refused.stderr.count('is not empty') >= 2, 'each process says why'

WAIT = '''
import time
from datetime import timedelta
import torch.distributed.distributed_c10d as c10d
from prunebook.core import on_first
c10d.default_pg_timeout = timedelta(seconds=3)
assert on_first(lambda: time.sleep(9) or 7) == 7
'''

@pytest.mark.thorough
def test_processes_wait_for_the_first_as_long_as_it_takes(tmp_path):
    (tmp_path/'wait.py').write_text(WAIT)
    done = launch(tmp_path/'wait.py', how=['--multi_gpu'])
    assert done.returncode == 0, done.stderr

# Offloaded

def test_an_offloaded_teacher_teaches_and_a_student_is_refused(pruned):
    from accelerate import cpu_offload
    recipe, (teacher, student) = SMALL.replace(steps=2, objective='distill'), (tiny(), prune_model(tiny(), [2, 3]))
    want = run(pruned, recipe, teacher=teacher).history
    for o in (teacher, student): cpu_offload(o, execution_device=torch.device('cpu'))
    assert run(pruned, recipe, teacher=teacher).history == want
    with pytest.raises(PrunebookError, match='offloaded'): run(student)

# Bad input, one clear line, before any training

def test_not_a_number_stops(tmp_path):
    cut = prune_model(tiny(), [2, 3])
    cut.model.layers[1].mlp.up_proj.weight.data[0, 0] = float('nan')
    with pytest.raises(PrunebookError, match='step 1: the loss is nan'): run(cut, out=tmp_path/'a')
    wild = SMALL.replace(steps=60, learning_rate=.9, warmup=0, method='head_and_last')
    with pytest.raises(PrunebookError, match='diverge'): run(prune_model(tiny(), [2, 3]), wild, out=tmp_path/'b')
    assert list((tmp_path/'b.unfinished'/'checkpoints').glob('*/whole.json'))

def test_losses_that_differ_much_are_no_divergence():
    "Steps of one short row do; what grows for good is stopped still"
    watch, drawn = _DivergenceWatch(10_000), np.random.default_rng(0)
    def stopped(losses):
        state = SimpleNamespace(log_history=[dict(loss=float(o)) for o in losses], global_step=len(losses))
        try: watch.on_log(SimpleNamespace(learning_rate=1e-4, save_strategy='no'), state, None, dict(loss=losses[-1]))
        except PrunebookError: return True
        return False
    noisy = drawn.lognormal(.3, .9, (200, 30))
    assert sum(map(stopped, noisy)) < 10 < sum(o[-10:].mean() > 1.5 * o[:10].mean() for o in noisy)
    assert all(stopped(np.linspace(2, 6, 30) + o) for o in drawn.normal(0, .3, (20, 30)))

def test_a_model_is_distilled_from_itself():
    "As the unpruned model of a sweep is: the divergence begins at zero, and its rounding grows manifold"
    model, recipe = tiny(), SMALL.replace(steps=60, objective='distill', bits=16, teacher_bits=16, learning_rate=2e-4)
    losses = [o['loss'] for o in run(model, recipe, teacher=model).history]
    assert len(losses) == 60 and max(losses) < .05

def test_a_recipe_that_is_none_is_refused(pruned):
    with pytest.raises(PrunebookError, match="config='packed': it must be a HealingConfig"): run(pruned, 'packed')

def test_a_pad_token_that_the_embedding_has_no_row_for(pruned):
    tok = tokenizer()
    tok.add_special_tokens(dict(pad_token='[PAD]'))
    assert tok.pad_token_id >= LayerStack(pruned).vocab_size
    heal(pruned, tok, texts(), SMALL.replace(steps=1), progress=False)
    assert len(generate_texts(pruned, tok, [[5, 6, 7], [5]], 4)) == 2

def test_texts_are_refused_before_a_weight_is_read(pruned, tmp_path, monkeypatch):
    folder = save(tmp_path/'small', pruned, tokenizer())
    monkeypatch.setattr(healing, 'load_model', pytest.fail)
    for packing, few in (('none', '3 documents'), ('packed', 'rows of 16')):
        with pytest.raises(PrunebookError, match=f'make .*{few}'):
            healing.heal_checkpoint(str(folder), tmp_path/'out', texts()[:3], SMALL.replace(packing=packing))
    with pytest.raises(PrunebookError, match='own: some of these texts are healed on'):
        healing.heal_checkpoint(str(folder), tmp_path/'out', texts(), SMALL, dict(own=texts()[5:6]))
    assert [o.name for o in tmp_path.iterdir()] == ['small']

def test_a_place_that_was_filled_meanwhile_costs_no_training(pruned, tmp_path, monkeypatch):
    folder, out, trained = save(tmp_path/'small', pruned, tokenizer()), tmp_path/'out', []
    train = healing._train
    def fill(*args, **kw):
        trained.append(1)
        out.mkdir()
        (out/'notes.txt').write_text('mine')
        return train(*args, **kw)
    monkeypatch.setattr(healing, '_train', fill)
    again = lambda: healing.heal_checkpoint(str(folder), out, texts(), SMALL, progress=False, resume=bool(trained))
    with pytest.raises(PrunebookError, match='is not empty'): again()
    (out/'notes.txt').unlink()
    again()
    assert trained == [1] and (out/'model.safetensors').exists()

@pytest.mark.parametrize('change, match', [
    (dict(batch_size=64), '40 documents, fewer than one batch of 64'),
    (dict(targets=['mlp.nope']), 'no such linear layers'), (dict(objective='distill'), 'give it as teacher')])
def test_bad_input(change, match, pruned, tmp_path):
    with pytest.raises(PrunebookError, match=match): run(pruned, SMALL.replace(**change), out=tmp_path/'a')
    assert list(tmp_path.iterdir()) == []

def test_wrong_texts_and_teachers(pruned, caplog):
    for wrong in ([], ['', ' '], ['w1']):
        with pytest.raises(PrunebookError): heal(pruned, tokenizer(), wrong, SMALL, progress=False)
    with pytest.raises(PrunebookError, match='the tokenizer gives token .* tokens 0 to 49'):
        run(prune_model(tiny(vocab_size=50), [2]))
    with pytest.raises(PrunebookError, match='head of the teacher has 120 rows'):
        run(pruned, SMALL.replace(objective='distill'), teacher=tiny(vocab_size=120))
    run(tiny(), SMALL.replace(steps=1))
    assert 'plain fine-tuning' in caplog.text

# what earlier reviewers did not look at

def test_a_teacher_in_training_mode_teaches_the_same():
    "Without its dropout; and rows are packed as for a student out of training"
    teacher = tiny('gpt2')
    cut, recipe = prune_model(teacher, [2, 3]), SMALL.replace(steps=2, dropout=0.)
    def losses(**kw): return [o['loss'] for o in run(cut, recipe.replace(**kw), teacher=teacher).history]
    distill, top = dict(objective='distill', teacher_bits=32), dict(objective='distill_top', packing='packed')
    before = losses(**distill), losses(**top)
    teacher.train()
    assert losses(**distill) == before[0]
    cut.train()
    assert len(losses(**top)) == 2

def test_a_setting_of_numpy_is_a_number():
    found = SMALL.replace(steps=np.int64(2), learning_rate=np.float32(.25), alpha=np.float64(2))
    assert type(found.steps) is int
    assert type(found.learning_rate) is float
    assert found.learning_rate == .25
    json.dumps(vars(found))

# A config is frozen

def below(kind): return [k for o in kind.__subclasses__() for k in (o, *below(o))]

def test_every_config_is_frozen():
    "Those of the library, and the arguments of a command that go together"
    found = {o for o in below(Settings) if o.__module__.startswith('prunebook.')}
    assert {HealingConfig, SweepConfig, Cluster} < found
    found |= {cli._Source, cli._Checkpoint, cli._Texts, cli._Lengths}
    assert [o for o in found if not o.__dataclass_params__.frozen] == []

@pytest.mark.parametrize('config', [
    HealingConfig(), RECIPES['distill'], HealingConfig.paper('microsoft/phi-2'), SMALL.replace(targets=('up_proj',)),
    SMALL.replace(method='head_and_last', options=dict(last=1)), SweepConfig(ns=range(1, 4), healed_ns=2, tasks='c4'),
    Cluster('local', load=dict(name='demo'))], ids=lambda o: type(o).__name__)
def test_a_config_is_changed_by_replace_alone(config, tmp_path):
    "And comes back from a file, a pickle and a copy"
    before = copy.deepcopy(vars(config))
    for f in fields(config):
        with pytest.raises(FrozenInstanceError): setattr(config, f.name, 2)
    assert vars(config) == before
    config.save(tmp_path/'config.json')
    assert type(config).of(read_json(tmp_path/'config.json')) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.copy(config)

def test_a_change_is_checked_and_what_follows_from_it_follows():
    config = HealingConfig()
    assert (config.replace(rank=2).alpha, config.replace(rank=2, alpha=8).alpha, config.rank) == (2, 8, 64)
    assert config.replace(steps=30).warmup == 3
    with pytest.raises(PrunebookError, match='rank=0'): config.replace(rank=0)
    with pytest.raises(PrunebookError, match='warmup=9'): config.replace(steps=9, warmup=9)
    with pytest.raises(PrunebookError, match='greed'): SweepConfig().replace(strategies=['greed'])
    with pytest.raises(PrunebookError, match='gpus_per_task=-1'): Cluster().replace(gpus_per_task=-1)

def test_a_list_that_was_given_may_change_afterwards():
    targets, ns, n_questions = ['up_proj'], [1, 2], dict(c4=3)
    config = HealingConfig(targets=targets)
    grid = SweepConfig(ns=ns, tasks=['c4'], n_questions=n_questions)
    for o in (targets, ns): o.clear()
    n_questions.clear()
    assert config.targets == ['up_proj']
    assert grid.ns == [1, 2]
    assert grid.n_questions == dict(c4=3)

def test_the_recipe_of_a_result_is_not_the_default(pruned, monkeypatch):
    # 32 bits, as on a CPU that is slow in 16, where the default of the teacher would be changed
    usual = SMALL.replace(steps=1, method='head_and_last', teacher_bits=32)
    monkeypatch.setitem(RECIPES, 'packed', usual)
    for result in (heal(pruned, tokenizer(), texts(), progress=False), run(pruned, usual)):
        assert result.config == usual and result.config is not usual
        result.config.options['last'] = 1
        assert usual.options == dict(last=3)

def test_the_folder_of_the_texts_is_not_replaced(tmp_path):
    (tmp_path/'my.txt').write_text('\n'.join(texts()))
    with pytest.raises(PrunebookError, match='only read and never changed'):
        heal(prune_model(tiny(), [2, 3]), tokenizer(), str(tmp_path/'my.txt'), SMALL, tmp_path, False, force=True)
    assert [o.name for o in tmp_path.iterdir()] == ['my.txt']

def test_an_adapter_brings_its_record_and_keeps_the_type(tmp_path):
    "Of a checkpoint in 16 bits that was healed in 32"
    cut = prune_model(tiny('gpt2', dtype=torch.bfloat16), [2, 3])
    wide = prune_model(tiny('gpt2', dtype=torch.bfloat16), [2, 3]).float()
    run(wide, SMALL.replace(steps=2, method='head_and_last'), out=tmp_path/'out')
    found = load_adapter(cut, tmp_path/'out'/'adapter')
    assert {o.dtype for o in found.parameters()} == {torch.bfloat16}
    assert found.config.prunebook['healed']['steps'] == 2 and 'healed' not in cut.config.prunebook

@pytest.mark.parametrize('merge', [True, False])
def test_an_adapter_is_loaded_without_a_warning_of_others(merge, pruned, tmp_path):
    "peft reads a property that transformers has given another name"
    adapter = run(pruned, SMALL.replace(steps=1), out=tmp_path/'out').adapter
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_adapter(pruned, adapter, merge=merge)

def test_a_teacher_in_8_bits_is_refused():
    teacher = tiny(hidden_size=64)
    cut = prune_model(teacher, [2, 3])
    teacher.lm_head.weight = torch.nn.Parameter(teacher.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(PrunebookError, match='the teacher is stored in 8 bits'):
        run(cut, SMALL.replace(objective='distill', teacher_bits=32), teacher=teacher)

def test_the_paper_recipe_of_a_model_that_was_cut_twice(tmp_path):
    record = dict(source='once', previous=dict(source='mistralai/Mistral-7B-v0.1'))
    (tmp_path/'config.json').write_text(json.dumps(dict(prunebook=record)))
    assert named_recipe('paper', str(tmp_path)).learning_rate == 3e-6

@pytest.mark.parametrize('kind, targets', [('dense nemotron_h', None), ('nemotron_h', ['in_proj', 'q_proj', 'up_proj']),
                                           ('jamba', ['q_proj', 'in_proj'])])
def test_a_hybrid_learns_where_it_has_the_layers(kind, targets):
    "Not every layer of it has an MLP, or each of the targets"
    kinds = dict(layers_block_type=['linear_attention', 'mlp', 'full_attention', 'mlp'] * 2) if 'dense' in kind else {}
    model = architectures.tiny(kind.removeprefix('dense '), **kinds)
    cut = prune_model(model, [0, 1, 2, 3] if kind == 'jamba' else [3, 4])
    assert len(run(cut, SMALL.replace(steps=2, targets=targets)).history) == 2
    with pytest.raises(PrunebookError, match=r"targets \['nowhere'\]: there are no such linear layers"):
        run(cut, SMALL.replace(targets=['nowhere', *(targets or [])]))

def test_jamba_in_four_bits():
    "Its own code asks the config whether the weights are packed"
    cut = prune_model(architectures.tiny('jamba'), [0, 1])
    assert len(run(cut, SMALL.replace(steps=2, method='head_and_last', bits=4)).history) == 2
    assert not getattr(cut.config, '_is_quantized', False)
