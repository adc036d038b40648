"Healing beyond its notebook: architectures, kills and resumes, processes, faults."
import gc, json, multiprocessing, os, random, socket, subprocess, sys, time
from dataclasses import replace
import numpy as np, pytest, torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
import prunebook.healing as healing
from prunebook import HealingConfig, PrunebookError, heal, prune_model
from prunebook.pruning import save_pruned
from prunebook.stack import LayerStack
from prunebook.healing import _callbacks, fingerprint, load_adapter, _attend_by_document, _by_document, _collate, _documents, _packing, _rows, _seams, _spans, _student, _twin

words = [f'w{i}' for i in range(96)]
kinds = dict(llama={}, qwen3=dict(head_dim=8, num_key_value_heads=2), mistral={}, phi={}, gpt2={}, gpt_neox={}, olmo2={}, falcon=dict(alibi=True), stablelm={},
    gemma2=dict(head_dim=8), gemma3_text=dict(head_dim=8, num_key_value_heads=2), opt=dict(ffn_dim=64, word_embed_proj_dim=32))

def tiny(kind='llama', **kw):
    kw = dict(num_hidden_layers=6, hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=64, vocab_size=99, max_position_embeddings=128,
              bos_token_id=1, eos_token_id=2, pad_token_id=0) | kinds.get(kind, {}) | kw
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **kw)).eval()

def tokenizer():
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['<pad>', '<s>', '</s>', *words])}, unk_token='<pad>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='<pad>', bos_token='<s>', eos_token='</s>')

def texts(n=40, seed=0):
    "Sentences with a rule to learn: a word is followed by the one after it, or by a jump"
    rng, out = random.Random(seed), []
    for _ in range(n):
        i, o = rng.randrange(96), []
        for _ in range(rng.randrange(4, 24)): o.append(words[i]); i = (i + (1 if rng.random() < .9 else rng.randrange(96))) % 96
        out.append(' '.join(o))
    return out

small = HealingConfig(steps=6, batch_size=4, max_length=16, rank=4, learning_rate=1e-2, bits=32)
run = lambda model, config=small, **kw: heal(model, tokenizer(), texts(), config, progress=False, **kw)
state = lambda m: {k: v.clone() for k, v in m.state_dict().items()}
same = lambda a, b: a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('method', ['lora', 'head_and_last'])
def test_every_architecture(kind, method, tmp_path):
    model = tiny(kind)
    pruned = prune_model(model, [2, 3])
    before, modules = state(pruned), [id(m) for m in pruned.modules()]
    flags = [p.requires_grad for p in pruned.parameters()]
    result = run(pruned, replace(small, method=method, last=1, steps=3), out=tmp_path/'run')
    assert same(before, state(pruned)) and modules == [id(m) for m in pruned.modules()] and flags == [p.requires_grad for p in pruned.parameters()]
    assert type(result.model) is type(model) and [o['step'] for o in result.history] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['adapter', 'healing.json']
    result.save(tokenizer(), tmp_path/'saved')
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'saved', dtype=torch.float32)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad(): a, b, c = (m(ids).logits for m in (result.model, again, pruned))
    assert torch.allclose(a, b, atol=1e-6) and not torch.allclose(a, c, atol=1e-4)
    if method == 'lora':
        with torch.no_grad(): assert torch.allclose(a, load_adapter(pruned, tmp_path/'run'/'adapter', merge=False)(ids).logits, atol=1e-5)

@pytest.mark.parametrize('kind, name', dict(llama='mlp.down_proj', gpt2='mlp.c_proj', phi='mlp.fc2', gpt_neox='mlp.dense_4h_to_h').items())
def test_patch_is_the_least_squares_map(kind, name):
    "Against the formula on the page, with every token's states in memory, one document at a time"
    model, seen = tiny(kind), []
    stack, tok = LayerStack(model), tokenizer()
    for m, key in ((stack.layers[1].get_submodule(name), 'm'), (stack.layers[1], 'x'), (stack.layers[3], 'y')):
        m.register_forward_hook(lambda mod, i, o, key=key: seen.append((key, (o[0] if isinstance(o, tuple) else o)[0])))
    with torch.no_grad():
        for o in texts(): model.base_model(input_ids=torch.tensor(tok(o)['input_ids'][:small.max_length])[None], use_cache=False)
    m, x, y = (torch.cat([o for k, o in seen if k == key]).double() for key in 'mxy')
    w = (m.norm(dim=-1, keepdim=True) + 1e-6) ** -2
    G = m.T @ (w * m)
    M = torch.eye(32) + torch.linalg.solve(G + G.diagonal().mean() * torch.eye(32), m.T @ (w * (y - x))).T
    for o in stack.model.modules(): o._forward_hooks.clear()
    pruned = prune_model(model, [2, 3])
    result = run(pruned, replace(small, method='linear_patch'), teacher=model)
    assert result.history == [] and type(result.model) is type(model)
    changed = {n: p for n, p in result.model.named_parameters() if not torch.equal(p, pruned.get_parameter(n))}
    assert changed and all(n.startswith(f'{stack.path}.1.{name}.') for n in changed)
    for n, p in changed.items():
        old = pruned.get_parameter(n).detach().double()
        want = old @ M.T if old.ndim == 1 or kind == 'gpt2' else M @ old
        assert (p - want).norm() < 1e-4 * (want - old).norm()

def test_patch_refuses_a_norm_after_the_map():
    model = tiny('gemma2')
    for m in model.modules():  # at their start these norms are nearly the identity; trained ones are not
        if 'Norm' in type(m).__name__: m.weight.data += 2
    with pytest.raises(PrunebookError, match='norm stands between'): run(prune_model(model, [2, 3]), replace(small, method='linear_patch'), teacher=model)

def test_learns_and_history():
    pruned = prune_model(tiny(), [2, 3])
    result = run(pruned, replace(small, steps=40, warmup=None, batch_size=8, method='head_and_last'))
    h = result.history
    assert h[-1]['loss'] < h[0]['loss'] - .5
    assert set(h[0]) == {'step', 'loss', 'learning_rate', 'tokens'} and h[4]['learning_rate'] == pytest.approx(small.learning_rate)
    rows = _rows(tokenizer(), texts(), replace(small, steps=40, batch_size=8))
    assert h[-1]['tokens'] == sum(len(rows[i]['ids']) for i in range(len(rows)))

def test_leaves_the_world_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pruned = prune_model(tiny(), [2])
    torch.manual_seed(5); np.random.seed(5); random.seed(5)
    want = torch.rand(2), np.random.rand(2), random.random()
    torch.manual_seed(5); np.random.seed(5); random.seed(5)
    env = dict(os.environ)
    run(pruned)
    assert torch.equal(torch.rand(2), want[0]) and np.array_equal(np.random.rand(2), want[1]) and random.random() == want[2]
    assert env == dict(os.environ) and not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().out == ''

def test_same_seed_same_bits():
    pruned = prune_model(tiny(), [2, 3])
    a, b, c = run(pruned), run(pruned), run(pruned, replace(small, seed=1))
    assert same(a.adapter, b.adapter) and a.history == b.history and not same(a.adapter, c.adapter)

def test_micro_batches_add_up():
    pruned = prune_model(tiny(), [2, 3])
    whole, parts = (run(pruned, replace(small, dropout=0., micro_batch=m)).history for m in (None, 1))
    assert [o['loss'] for o in parts] == pytest.approx([o['loss'] for o in whole], abs=1e-4)
    assert [o['tokens'] for o in parts] == [o['tokens'] for o in whole]

@pytest.mark.parametrize('kind, changes', [*((k, {}) for k in ('llama', 'gpt2', 'gemma3_text', 'falcon')), *(('llama', o) for o in (dict(packing='chunk'), dict(adapt='near_cut', near=1), dict(method='head_and_last', last=1), dict(objective='distill')))])
def test_layers_that_are_run_again_learn_the_same(kind, changes):
    "Bit by bit, dropout included; each is run again, and gradients go no deeper than without"
    model = tiny(kind)
    pruned = prune_model(model, [2, 3])
    layer, call, calls = type(LayerStack(pruned).layers[0]), torch.nn.Module._call_impl, []
    def learn(again):
        place, learning = {}, set()
        calls.append(0)
        def counted(self, *args, **kw):
            calls[-1] += 1
            out = call(self, *args, **kw)
            if isinstance(self, layer) and (out[0] if isinstance(out, tuple) else out).requires_grad: learning.add(place.setdefault(self, len(place)))
            elif isinstance(self, layer): place.setdefault(self, len(place))  # layers come in order
            return out
        with pytest.MonkeyPatch.context() as m:
            m.setattr(torch.nn.Module, '_call_impl', counted)
            return run(pruned, replace(small, steps=3, gradient_checkpointing=again, **changes), teacher=model), learning
    (a, deep), (b, deep_too) = learn(False), learn(True)
    assert same(a.adapter, b.adapter) and a.history == b.history
    assert calls[1] > 1.1 * calls[0] and deep == deep_too

def test_a_model_whose_layers_cannot_be_run_again_is_refused(monkeypatch):
    pruned = prune_model(tiny(), [2, 3])
    monkeypatch.setattr(type(pruned), 'supports_gradient_checkpointing', False)
    with pytest.raises(PrunebookError, match='it is not offered for LlamaForCausalLM'): run(pruned, replace(small, gradient_checkpointing=True))

@pytest.mark.parametrize('after', [0, 2])
def test_rows_that_do_not_fit_into_memory_are_halved(after, monkeypatch, caplog, tmp_path):
    "From the start, or in the middle of a run, from its last checkpoint; the numbers are those of small batches"
    pruned, recipe = prune_model(tiny(), [2, 3]), replace(small, dropout=0., save_every=1)
    want, calls, old = run(pruned, replace(recipe, micro_batch=1)).history, [0], torch.nn.Embedding.forward
    def forward(self, x):
        calls[0] += 1
        if len(x) > 1 and calls[0] > after: raise torch.OutOfMemoryError('CUDA out of memory')
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', forward)
    got = run(pruned, recipe, out=tmp_path/'out').history
    assert calls[0] == after + 2 + 4 * (recipe.steps - after), 'steps that a checkpoint holds are not run again'
    assert 'out of memory with 2 rows at once; going on with 1,' in caplog.text
    assert [o['loss'] for o in got] == pytest.approx([o['loss'] for o in want], abs=1e-4) and [o['tokens'] for o in got] == [o['tokens'] for o in want]
    monkeypatch.setattr(torch.nn.Embedding, 'forward', lambda self, x: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory')))
    with pytest.raises(PrunebookError, match='1 row.s. of .* do not fit'): run(pruned, recipe)

@pytest.mark.parametrize('slow, bits', [(True, 32), (False, 16)])
def test_a_processor_slow_in_16_bits_trains_in_32(slow, bits, monkeypatch):
    monkeypatch.setattr(healing, 'slow_in_16_bits', lambda device: slow)
    assert run(prune_model(tiny(), [2, 3]), replace(small, steps=1, bits=16)).config.bits == bits

def test_no_model_outlives_the_rows_that_did_not_fit(monkeypatch):
    "Else the memory would be gone for which fewer rows are tried"
    pruned, old, alive = prune_model(tiny(), [2, 3]), torch.nn.Embedding.forward, []
    def forward(self, x):
        if len(x) > 1: raise torch.OutOfMemoryError('CUDA out of memory')
        alive.append(sum(type(o) is type(pruned) for o in gc.get_objects()))
        return old(self, x)
    monkeypatch.setattr(torch.nn.Embedding, 'forward', forward)
    last = [(run(pruned, replace(small, steps=1, packing='chunk', micro_batch=micro)), gc.collect(), alive[-1])[-1] for micro in (1, None)]
    assert last[0] == last[1], 'as many models with rows that fit from the start as after two attempts'

@pytest.mark.parametrize('by_document', [False, True])
@pytest.mark.parametrize('kind', ['llama', 'gpt2', 'gemma3_text', 'gpt_neox'])
def test_documents_of_a_chunk_do_not_mix(kind, by_document):
    "Hidden states of packed documents are those of the documents alone"
    model = tiny(kind)
    assert _packing(model) == 'isolated'
    rows = _rows(tokenizer(), texts(), replace(small, packing='chunk', max_length=40))
    batch = _collate([rows[0], rows[1]], packed=True)
    if by_document:
        _attend_by_document(model, 40)
        assert model.config._attn_implementation == 'by_document'
        _documents[:] = _spans(batch['position_ids'])
    starts = [*(batch['position_ids'][0] == 0).nonzero().flatten().tolist(), 40]
    assert len(starts) > 3
    with torch.no_grad():
        packed = model.base_model(input_ids=batch['input_ids'], position_ids=batch['position_ids'], use_cache=False).last_hidden_state[0]
        for a, b in zip(starts, starts[1:]):
            if by_document: model.set_attn_implementation('sdpa')
            alone = model.base_model(input_ids=batch['input_ids'][:1, a:b], use_cache=False).last_hidden_state[0]
            assert torch.allclose(packed[a:b], alone, atol=1e-5)

def test_attention_by_document_is_the_masked_one(monkeypatch):
    "The same loss curve, and a model that is asked in vain, or has a narrow window, is left as it was"
    from prunebook import healing
    cfg, cut, asked = replace(small, packing='chunk', steps=3, max_length=40), prune_model(tiny(), [2]), []
    healed = run(cut, cfg)
    fast = healed.history
    assert cut.config._attn_implementation == healed.model.config._attn_implementation == 'sdpa'
    monkeypatch.setattr(healing, '_attend_by_document', lambda *a: asked.append(a))
    assert [o['loss'] for o in run(cut, cfg).history] == pytest.approx([o['loss'] for o in fast], abs=1e-5) and asked
    def left_alone(model): _attend_by_document(model, 40); return model.config._attn_implementation == 'sdpa'
    assert left_alone(tiny('falcon', alibi=True)) and left_alone(tiny('mistral', sliding_window=16)) and not left_alone(tiny('mistral', sliding_window=40))
    monkeypatch.setattr(healing, '_by_document', lambda *a, **kw: (_by_document(*a, **kw)[0] + 1, None))  # whose states are not the same
    assert left_alone(tiny())

def test_chunks_hold_every_token_once():
    o = _rows(tokenizer(), texts(), replace(small, packing='chunk', max_length=40, steps=1, batch_size=2))
    docs = {' '.join(tokenizer().convert_ids_to_tokens(t)) for t in np.split(o.flat, np.flatnonzero(o.flat == 2) + 1)[:-1]}
    assert docs == {f'{t} </s>' for t in texts()}
    assert (o.pos[o.ends[:-1]] == 0).all() and o.pos.max() < 40

def test_chunk_where_attention_crosses(caplog):
    run(prune_model(tiny('bloom'), [2]), replace(small, packing='chunk', steps=2))
    assert 'cannot keep attention inside a document' in caplog.text

@pytest.mark.parametrize('adapt,layers', [('all', {0, 1, 2, 3}), ('after_cut', {2, 3}), ('near_cut', {1, 2})])
def test_no_graph_below_the_first_adapter(adapt, layers):
    pruned = prune_model(tiny(), [2, 3])
    student, causal = _student(pruned, replace(small, adapt=adapt, near=1))
    assert {int(n.split('layers.')[1].split('.')[0]) for n, p in student.named_parameters() if p.requires_grad} == layers
    graph = {}
    for i, l in enumerate(causal.model.layers): l.register_forward_hook(lambda m, a, o, i=i: graph.update({i: o.requires_grad}))
    causal(torch.arange(3, 9)[None])
    assert graph == {i: i >= min(layers) for i in range(4)}

def test_seams():
    model = tiny()
    assert _seams(prune_model(model, [0])) == [0] and _seams(prune_model(model, [4, 5])) == [4] and _seams(prune_model(model, [1, 3])) == [1, 2]
    assert _seams(prune_model(prune_model(model, [1]), [3])) == [1, 3]  # the second cut takes the first model's layer 4
    with pytest.raises(PrunebookError, match='no layer stands after the cut'): run(prune_model(model, [4, 5]), replace(small, adapt='after_cut'))

@pytest.mark.parametrize('objective', ['lm', 'distill'])
def test_pieces_do_not_matter(objective, monkeypatch):
    "Losses and weights are the same with logits of 64 positions at a time as with 5"
    import prunebook.healing as h
    model, whole = tiny('gemma2'), h._loss_forward
    pruned = prune_model(model, [2, 3])
    a = run(pruned, replace(small, objective=objective), teacher=model).history
    monkeypatch.setattr(h, '_loss_forward', lambda *args: whole(*args, size=5))
    b = run(pruned, replace(small, objective=objective), teacher=model).history
    assert [o['loss'] for o in a] == pytest.approx([o['loss'] for o in b], abs=1e-4)

def test_distillation_goes_to_the_teacher():
    model = tiny()
    for m in (model,): m.lm_head.weight.data *= 30
    h = run(prune_model(model, [2, 3]), replace(small, steps=40, objective='distill', dropout=0.), teacher=model).history
    assert h[-1]['loss'] < .7 * h[0]['loss']

def test_trained_in_four_bits():
    pytest.importorskip('bitsandbytes')
    pruned = prune_model(tiny(hidden_size=64, intermediate_size=128), [2, 3]).bfloat16()
    before = state(pruned)
    a, b = run(pruned, replace(small, bits=4)), run(pruned, replace(small, bits=16))
    assert {p.dtype for p in a.model.parameters()} == {torch.bfloat16} and same(before, state(pruned))
    assert a.history[0]['loss'] != b.history[0]['loss'] and a.history[0]['loss'] == pytest.approx(b.history[0]['loss'], abs=.2)

def to_the_end(out):
    "A run in a process of its own"
    torch.set_num_threads(1)
    run(prune_model(tiny(), [2, 3]), replace(small, steps=30, save_every=1, dropout=.1), out=out, resume=True)

@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    "Killed ten times and taken up again, the adapter is bit for bit that of a run left alone"
    ctx = multiprocessing.get_context('forkserver')  # processes that start at once, with the imports done
    ctx.set_forkserver_preload(['test_healing', 'transformers.trainer', 'peft', 'accelerate'])
    def start(out):
        p = ctx.Process(target=to_the_end, args=(out,)); p.start()
        return p
    p = start(tmp_path/'alone'); p.join(); assert p.exitcode == 0
    rng, kills, steps, out = random.Random(0), 0, [], tmp_path/'killed'
    done = lambda: max([int(p.parent.name.split('-')[1]) for p in (out/'checkpoints').glob('*/whole')], default=0)
    while kills < 10:
        p, was = start(out), done()
        while p.is_alive() and done() < min(was + 2, 29): time.sleep(.002)
        time.sleep(rng.random() * .05)  # somewhere between two checkpoints, or inside one
        assert p.is_alive(), 'the run ended before it was killed ten times'
        p.kill(); p.join(); kills += 1; steps.append(done())
    p = start(out); p.join(); assert p.exitcode == 0
    assert len(set(steps)) > 5
    assert (out/'adapter'/'adapter_model.safetensors').read_bytes() == (tmp_path/'alone'/'adapter'/'adapter_model.safetensors').read_bytes()
    a, b = (json.loads((o/'adapter'/'prunebook.json').read_text())['history'] for o in (out, tmp_path/'alone'))
    assert a == b and not (out/'checkpoints').exists()

def test_resume_is_for_the_same_run(tmp_path):
    pruned = prune_model(tiny(), [2, 3])
    first = run(pruned, out=tmp_path/'a')
    assert run(pruned, out=tmp_path/'a', resume=True).history == first.history  # done already: nothing is trained
    with pytest.raises(PrunebookError, match="'steps': \\(6, 7\\)"): run(pruned, replace(small, steps=7), out=tmp_path/'a', resume=True)
    note = json.loads((tmp_path/'a'/'healing.json').read_text())
    del note['config']['gradient_checkpointing']  # as a version kept it that did not know the field
    (tmp_path/'a'/'healing.json').write_text(json.dumps(note))
    assert run(pruned, out=tmp_path/'a', resume=True).history == first.history
    assert run(pruned, replace(small, gradient_checkpointing=True), out=tmp_path/'a', resume=True).history == first.history  # it changes no number
    (tmp_path/'a'/'healing.json').write_text(json.dumps(note | dict(config=note['config'] | dict(later=1))))
    with pytest.raises(PrunebookError, match="'later': \\(1, None\\)"): run(pruned, out=tmp_path/'a', resume=True)
    (tmp_path/'a'/'healing.json').write_text(json.dumps(note | dict(config='x')))
    with pytest.raises(PrunebookError, match='started otherwise'): run(pruned, replace(small, rank=3), out=tmp_path/'a', resume=True)
    (tmp_path/'a'/'healing.json').write_text(json.dumps(note))
    with pytest.raises(PrunebookError, match='not empty'): run(pruned, out=tmp_path/'a')
    assert run(pruned, replace(small, steps=2), out=tmp_path/'a', force=True).history[-1]['step'] == 2

def test_disk_full(tmp_path, monkeypatch):
    "A checkpoint that cannot be written leaves the one before, and the run goes on from it to the same end"
    from transformers import Trainer
    pruned, save, config = prune_model(tiny(), [2, 3]), Trainer._save_optimizer_and_scheduler, replace(small, save_every=1)
    def full(self, folder):
        if folder.endswith('-4'): raise OSError(28, 'No space left on device')
        return save(self, folder)
    monkeypatch.setattr(Trainer, '_save_optimizer_and_scheduler', full)
    with pytest.raises(PrunebookError, match='No space left'): run(pruned, config, out=tmp_path/'a')
    assert (tmp_path/'a'/'checkpoints'/'checkpoint-3'/'whole').exists() and not (tmp_path/'a'/'checkpoints'/'checkpoint-4'/'whole').exists()
    monkeypatch.undo()
    assert same(load_file(run(pruned, config, out=tmp_path/'a', resume=True).adapter/'adapter_model.safetensors'), run(pruned, config).adapter)

def test_two_processes(tmp_path):
    "The command on two processes, with the same global batch: the same losses and the same checkpoint"
    save_pruned(prune_model(tiny(), [2, 3]), tokenizer(), tmp_path/'pruned')
    (tmp_path/'texts.jsonl').write_text(''.join(json.dumps(dict(text=o)) + '\n' for o in texts()))
    replace(small, dropout=0.).save(tmp_path/'config.json')
    replace(small, batch_size=3).save(tmp_path/'odd.json')
    env = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')
    with socket.socket() as free: free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]  # older accelerate takes 0 as it is
    launch = ['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--main_process_port', str(port)]
    def start(launch, out, config='config', **kw):
        return subprocess.run([sys.executable, *launch, '-m', 'prunebook', 'heal', str(tmp_path/'pruned'), str(out), '--texts', str(tmp_path/'texts.jsonl'), '--config', str(tmp_path/f'{config}.json'),
            '--n-judge', '0', '--no-progress'], env=env, capture_output=True, text=True, timeout=170, **kw)
    def result(launch, out):
        start(launch, out, check=True)
        return json.loads((out/'adapter'/'prunebook.json').read_text())['history'], load_file(out/'model.safetensors')
    two, ours = result(launch, tmp_path/'two')
    one, theirs = result([], tmp_path/'one')
    assert len(two) == small.steps and [o['loss'] for o in two] == pytest.approx([o['loss'] for o in one], abs=1e-4)
    assert [o['tokens'] for o in two] == [o['tokens'] for o in one]
    assert 'batch_size=3 is not a multiple of 2 processes' in start(launch, tmp_path/'odd', 'odd').stderr  # there were two
    assert ours.keys() == theirs.keys() and all(torch.allclose(ours[k].float(), theirs[k].float(), atol=1e-4) for k in ours)

def test_not_a_number_stops(tmp_path):
    pruned = prune_model(tiny(), [2, 3])
    pruned.model.layers[1].mlp.up_proj.weight.data[0, 0] = float('nan')
    with pytest.raises(PrunebookError, match='step 1: the loss is nan'): run(pruned, out=tmp_path/'a')
    with pytest.raises(PrunebookError, match='diverge'): run(prune_model(tiny(), [2, 3]), replace(small, steps=60, learning_rate=.9, warmup=0, method='head_and_last'), out=tmp_path/'b')
    assert list((tmp_path/'b'/'checkpoints').glob('*/whole'))

@pytest.mark.parametrize('curve, stops', [([4.6] + [26.] * 25, True), ([4.6] * 10 + [7.] * 15, True), ([20.] * 3 + [9.] * 25, False), ([1.5] + [3.3] * 25, False), ([2.] + [12.5 - .1 * i for i in range(60)], False)])
def test_a_loss_that_grows_stops(curve, stops):
    "At once or slowly; but not one that starts on an easy document, above guessing, or both and falls"
    from transformers import TrainerControl, TrainerState, TrainingArguments
    model, state = tiny(), TrainerState()
    watch, args = _callbacks(60, False)[0], TrainingArguments('out', save_strategy='no')
    def go():
        for i, v in enumerate(curve):
            state.log_history.append(dict(loss=v)); state.global_step = i + 1
            watch.on_log(args, state, TrainerControl(), model=model, logs=dict(loss=v))
    if stops:
        with pytest.raises(PrunebookError, match='diverges'): go()
    else: go()

@pytest.mark.parametrize('change,match', [
    (dict(max_length=512), 'at most 128 positions'), (dict(batch_size=64), '40 documents, fewer than one batch of 64'), (dict(targets=['mlp.nope']), 'no such linear maps'),
    (dict(objective='distill'), 'give it as teacher'), (dict(method='linear_patch'), 'give it as teacher')])
def test_bad_input(change, match, tmp_path):
    with pytest.raises(PrunebookError, match=match): run(prune_model(tiny(), [2, 3]), replace(small, **change), out=tmp_path/'a')
    assert not (tmp_path/'a').exists()

def test_more_bad_input(caplog, monkeypatch, tmp_path):
    pruned = prune_model(tiny(), [2, 3])
    for wrong in ([], ['', ' '], ['w1']): 
        with pytest.raises(PrunebookError): heal(pruned, tokenizer(), wrong, small, progress=False)
    with pytest.raises(PrunebookError, match='token'): heal(prune_model(tiny(vocab_size=50), [2]), tokenizer(), texts(), small, progress=False)
    with pytest.raises(PrunebookError, match='another tokenizer'): run(pruned, replace(small, objective='distill'), teacher=tiny(vocab_size=120))
    with pytest.raises(PrunebookError, match='pruned from one of 6'): run(pruned, replace(small, method='linear_patch'), teacher=tiny(num_hidden_layers=7))
    run(tiny(), replace(small, steps=1)); assert 'plain fine-tuning' in caplog.text
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda n, *a: None if n == 'bitsandbytes' else find(n, *a))
    with pytest.raises(PrunebookError, match='bitsandbytes'): run(pruned, replace(small, bits=4))

def test_another_base_is_refused(tmp_path):
    model = tiny()
    result = run(prune_model(model, [2, 3]), out=tmp_path/'a')
    for other in (prune_model(model, [1, 2]), model, tiny(num_hidden_layers=4)):
        with pytest.raises(PrunebookError, match='Give the very model'): load_adapter(other, result.adapter)
    with pytest.raises(PrunebookError, match='not an adapter'): load_adapter(model, tmp_path)
    assert fingerprint(model) == fingerprint(_twin(model)) != fingerprint(result.model)

def test_config_round_trip(tmp_path):
    config = HealingConfig.paper('mistralai/Mistral-7B-v0.1', steps=7, targets=['up_proj'])
    config.save(tmp_path/'c.json')
    assert HealingConfig.load(tmp_path/'c.json') == config
    (tmp_path/'c.json').write_text('{"stepz": 3}')
    with pytest.raises(PrunebookError, match='stepz'): HealingConfig.load(tmp_path/'c.json')
