"Layer distances against a slow reference, under faults, across processes, and the promise of the stopping rule."
import os, random, signal, socket, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from architectures import tiny
from prunebook.data import tokenize
from prunebook.similarity import Certain, LayerDistances, Moments, by_ends, by_size, layer_distances
from prunebook.stack import LayerStack, PrunebookError

torch.set_num_threads(1)
TYPES = ['llama', 'qwen3', 'gemma3_text', 'gpt_neox', 'gpt2', 'phi', 'mistral', 'gemma2', 'opt', 'falcon', 'olmo2', 'stablelm', 'mixtral', 'qwen2', 'bloom', 'phi3', 'granite', 'cohere2', 'mpt', 'starcoder2']
DEPTH = 8

def tokenizer(side='right'):
    "Words w0 … w98; pad = eos, as in many real tokenizers"
    t = Tokenizer(models.WordLevel({f'w{i}': i for i in range(99)}, unk_token='w1'))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='w2', eos_token='w2', padding_side=side)

def texts(n=13, longest=40, seed=0):
    r = random.Random(seed)
    return [' '.join(f'w{r.randrange(3, 99)}' for _ in range(r.randint(1, longest))) for _ in range(n - 1)] + ['w5 w2 w7 w2']  # eos = pad inside and at the end

def reference(model, tok, docs, max_length=32, tokens='last', measure=lambda a, b: torch.arccos((a @ b / a.norm() / b.norm()).clamp(-1, 1)) / torch.pi):
    "The paper's equation, slowly: float64, a document at a time, no padding; transformers' own hidden states, but the last from the last layer's output"
    model.config._experts_implementation = 'eager'  # the grouped product of experts has no float64
    model, out = type(model)(model.config).double().eval(), []
    model.load_state_dict({k: v.double() for k, v in SOURCE[id(tok)].state_dict().items()})
    keep = []
    hook = LayerStack(model).layers[-1].register_forward_hook(lambda m, i, o: keep.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        for ids in tokenize(tok, docs, max_length).ids:
            states = model.get_decoder()(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
            x = torch.stack([o[0] for o in [*states[:DEPTH], keep.pop()]])
            x = x[:, -1:] if tokens == 'last' else x.mean(1, keepdim=True) if tokens == 'mean' else x
            out.append([[np.mean([measure(x[l, t], x[r, t]).item() for t in range(x.shape[1])]) if l < r else 0. for r in range(DEPTH + 1)] for l in range(DEPTH + 1)])
    hook.remove()
    return np.array(out)

SOURCE = {}
upper = np.triu_indices(DEPTH + 1, 1)

def louder(model):
    "Random weights hardly turn the stream; make them, and the norms, do so"
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.mul_(4) if p.dim() > 1 else p.add_(.3 * torch.randn_like(p))
    return model

@pytest.mark.parametrize('kind', TYPES)
def test_equals_the_equation(kind):
    model = louder(tiny(kind))
    for i, side in enumerate(('right', 'left')):
        tok = tokenizer(side); SOURCE[id(tok)] = model
        if not i: want = reference(model, tok, texts())
        for batch_tokens in (1, 97, 4096):
            got = layer_distances(model, tok, texts(), max_length=32, batch_tokens=batch_tokens, progress=False)
            assert np.abs(got.mean - by_ends(by_size(want.mean(0))))[upper].max() < 1e-5
            assert np.abs(got.sem[upper] - (want.std(0, ddof=1) / 13 ** .5)[upper]).max() < 1e-5
    assert want.mean(0)[upper].max() > .05 and got.count == 13
    half = layer_distances(model.bfloat16(), tok, texts(), max_length=32, progress=False)
    rounded = model.float(); SOURCE[id(tok)] = rounded  # the same weights, rounded: what bfloat16 arithmetic alone does
    assert np.abs(half.mean[upper] - reference(rounded, tok, texts()).mean(0)[upper]).max() < 1e-2

@pytest.mark.parametrize('kind', ['mamba', 'mamba2', 'falcon_mamba'])
def test_models_with_a_state(kind):
    "Layer after layer by hand: some of these give hidden states without the embedding's, so they are no reference"
    model, tok, want = louder(tiny(kind)), tokenizer(), []
    stack = LayerStack(model)
    with torch.no_grad():
        for ids in tokenize(tok, texts(), 32).ids:
            x = [model.get_input_embeddings()(torch.tensor([ids]))]
            for layer in stack.layers: x.append(layer(x[-1]))
            x = torch.cat(x)[:, -1].double()
            want.append([[torch.arccos((x[l] @ x[r] / x[l].norm() / x[r].norm()).clamp(-1, 1)).item() / np.pi for r in range(DEPTH + 1)] for l in range(DEPTH + 1)])
    got = layer_distances(model, tok, texts(), max_length=32, progress=False)
    assert np.abs(got.mean - np.mean(want, 0))[upper].max() < 1e-3 and got.mean[upper].max() > .05

def test_other_measures_and_tokens():
    model, tok = louder(tiny('llama')), tokenizer(); SOURCE[id(tok)] = model
    cos, norm = lambda a, b: 1 - a @ b / a.norm() / b.norm(), lambda a, b: (b - a).norm() / a.norm()
    docs = texts(5, 12)
    for tokens in ('last', 'all', 'mean'):
        got = layer_distances(model, tok, docs, max_length=32, tokens=tokens, measures=('norm', 'cosine', 'angle', 'block_influence'), progress=False)
        assert np.abs(got.mean[upper] - reference(model, tok, docs, tokens=tokens, measure=norm).mean(0)[upper]).max() < 1e-5
        assert np.abs(got.also['cosine'].mean[upper] - reference(model, tok, docs, tokens=tokens, measure=cos).mean(0)[upper]).max() < 1e-5
        assert np.abs(got.also['angle'].mean[upper] - reference(model, tok, docs, tokens=tokens).mean(0)[upper]).max() < 1e-5
        assert np.abs(got.also['block_influence'].mean[upper] - reference(model, tok, docs, tokens='all', measure=cos).mean(0)[upper]).max() < 1e-5
    assert np.allclose(got.influence, np.diagonal(got.also['block_influence'].mean, 1))

def test_leaves_the_model_alone():
    model = tiny('gpt2').train()
    model.transformer.h[3].eval()
    modes = [m.training for m in model.modules()]
    a, b = (layer_distances(model, tokenizer(), texts(), max_length=32, progress=False) for _ in range(2))
    assert modes == [m.training for m in model.modules()] and np.array_equal(a.mean, b.mean)  # no dropout
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

def test_round_trip(tmp_path):
    d = layer_distances(tiny('llama'), tokenizer(), texts(), max_length=32, measures=('angle', 'norm'), progress=False)
    e = LayerDistances.load(d.save(tmp_path/'x'))
    assert np.array_equal(d.mean, e.mean) and np.array_equal(d.also['norm'].sem, e.also['norm'].sem) and d.info == e.info and e.count == 13
    assert d.best_blocks().equals(e.best_blocks()) and len(d.to_frame()) == 36
    assert sorted(p.name for p in (tmp_path/'x').iterdir()) == ['distances.json', 'distances.safetensors']
    with pytest.raises(PrunebookError, match='no distances'): LayerDistances.load(tmp_path)
    (tmp_path/'x'/'distances.safetensors').write_bytes(b'12')
    with pytest.raises(PrunebookError, match='damaged'): LayerDistances.load(tmp_path/'x')
    for n in (0, 8):
        with pytest.raises(PrunebookError, match='1 to 7'): d.best_block(n)

def test_bad_input():
    model, tok = tiny('llama'), tokenizer()
    run = lambda docs, **kw: layer_distances(model, tok, docs, **dict(dict(max_length=32, progress=False), **kw))
    d = run(['w5', '', 'w6 w7', '  '], every=2)
    assert d.skipped == [1, 3] and d.count == 2
    assert run(['w5', 'w6', '', '  '], every=2).skipped == [2, 3]
    for docs in ([], ['', ' '], 'w5'):
        with pytest.raises(PrunebookError): run(docs)
    for kw, says in ((dict(measures=('magic',)), 'angle, cosine'), (dict(tokens='first'), '"mean"'), (dict(max_length=999), '128 positions'), (dict(until=Certain([8])), '1 to 7')):
        with pytest.raises(PrunebookError, match=says): run(['w5 w6'], **kw)
    for kw in (dict(ns=[]), dict(ns=[1], confidence=1), dict(ns=[1], tolerance=-1)):
        with pytest.raises(PrunebookError): Certain(**kw)

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_not_finite(value):
    model, tok = tiny('llama'), tokenizer()
    def spoil(layer, args, out):
        hit = (SEEN[0] == 77).any(-1)
        out[hit] = value
        return out
    model.model.layers[4].register_forward_hook(spoil)
    model.model.register_forward_pre_hook(lambda m, a, kw: SEEN.__setitem__(0, kw['input_ids']), with_kwargs=True)
    docs = [o.replace('w77', 'w78') for o in texts()]
    docs[9] = 'w5 w77 w6'
    with pytest.raises(PrunebookError, match='text 9: the output of layer 4 is not finite'): layer_distances(model, tok, docs, max_length=32, every=4, progress=False)

SEEN = [None]

def test_partial_is_refused(tmp_path):
    model, tok, p = tiny('llama'), tokenizer(), tmp_path/'p'
    run = lambda model=model, tok=tok, docs=texts(), **kw: layer_distances(model, tok, docs, **dict(dict(max_length=32, every=4, partial=p, progress=False), **kw))
    whole = run()
    assert np.array_equal(run().cov, whole.cov)  # goes on from the end
    other = tiny('llama')
    with torch.no_grad(): other.model.layers[5].mlp.up_proj.weight += .01
    words = tokenizer(); words.add_tokens('new')
    for what, kw in dict(model=dict(model=other), tokenizer=dict(tok=words), texts=dict(docs=texts(seed=1)), settings=dict(max_length=31)).items():
        with pytest.raises(PrunebookError, match=f'another {what}'): run(**kw)

def test_killed_twenty_times(tmp_path):
    "SIGKILL at random moments of the measuring; what is left goes on, and ends in the same bits"
    want = layer_distances(tiny('llama'), tokenizer(), texts(200), max_length=32, batch_tokens=64, every=4, progress=False)
    ctx, r, kills, state = torch.multiprocessing.get_context('fork'), random.Random(0), 0, tmp_path/'state'
    def work():
        layer_distances(tiny('llama'), tokenizer(), texts(200), max_length=32, batch_tokens=64, every=4, partial=state, progress=False).save(tmp_path/'out')
    while not (tmp_path/'out'/'distances.json').exists() or kills < 20:
        if (tmp_path/'out'/'distances.json').exists():  # finished before the 20th kill: once more, from nothing
            assert np.array_equal(LayerDistances.load(tmp_path/'out').cov, want.cov)
            state.unlink(); [o.unlink() for o in (tmp_path/'out').iterdir()]
        p = ctx.Process(target=work); p.start(); p.join(r.uniform(.02, .25))
        if p.is_alive(): os.kill(p.pid, signal.SIGKILL); kills += 1
        p.join()
    got = LayerDistances.load(tmp_path/'out')
    assert np.array_equal(got.mean, want.mean) and np.array_equal(got.cov, want.cov) and got.count == want.count == 200

TWO = '''
import sys
sys.path.insert(0, sys.argv[2])
from test_similarity import *
from accelerate import PartialState
rule = Certain(ns=[1, 3], confidence=.9, tolerance=.05) if sys.argv[3] == 'until' else None
d = layer_distances(louder(tiny('llama')), tokenizer(), texts(101), max_length=32, batch_tokens=128, every=10, until=rule, partial=sys.argv[1] + '/state', progress=False)
d.save(sys.argv[1] + f'/{PartialState().process_index}')
'''

@pytest.mark.parametrize('how', ['all', 'until'])
def test_two_processes_are_one(tmp_path, how):
    rule = Certain(ns=[1, 3], confidence=.9, tolerance=.05) if how == 'until' else None
    want = layer_distances(louder(tiny('llama')), tokenizer(), texts(101), max_length=32, batch_tokens=128, every=10, until=rule, progress=False)
    (tmp_path/'go.py').write_text(TWO)
    with socket.socket() as free: free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]
    # accelerate's own --cpu starts several processes only through mpirun; this way it starts them itself, GPU or not
    cmd = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', str(port), tmp_path/'go.py', tmp_path, Path(__file__).parent, how]
    done = subprocess.run(cmd, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true'), timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in '01':
        got = LayerDistances.load(tmp_path/rank)
        assert got.count == want.count and np.abs(got.mean - want.mean).max() < 1e-6 and np.abs(got.sem - want.sem).max() < 1e-6 and np.abs(got.cov - want.cov).max() < 1e-6
    if how == 'until': assert want.count < 101 and got.info['settled'] == want.info['settled']

def test_offloaded(tmp_path):
    "Some layers in memory, some on disk"
    from accelerate import dispatch_model
    model, tok = louder(tiny('llama')), tokenizer()
    want = layer_distances(model, tok, texts(), max_length=32, progress=False)
    where = {'model.embed_tokens': 'cpu', 'model.norm': 'disk', 'model.rotary_emb': 'cpu', 'lm_head': 'disk'} | {f'model.layers.{i}': 'cpu' if i < 3 else 'disk' for i in range(DEPTH)}
    there = dispatch_model(model, where, main_device='cpu', offload_dir=str(tmp_path), force_hooks=True)
    assert next(there.model.layers[5].parameters()).device.type == 'meta'
    got = layer_distances(there, tok, texts(), max_length=32, progress=False)
    assert np.array_equal(got.mean, want.mean)

# The promise: whatever the noise, the wrong block is called certain in at most 5 % of runs

def stream(r, noise, size, lead, depth=4):
    "(size, depth, depth) distances of synthetic texts: blocks of one size share half of the noise, and the block at 1 leads by so many standard deviations"
    draw = dict(normal=r.standard_normal, skewed=lambda s: r.exponential(size=s) - 1, left=lambda s: 1 - r.exponential(size=s), heavy=lambda s: r.standard_t(5, s))[noise]
    s = draw((size, depth, depth)) + draw((size, 1, 1))
    s[..., 1] -= lead
    return .3 + .02 * s

@pytest.mark.parametrize('lead', [.02, .1, .4])
@pytest.mark.parametrize('noise', ['normal', 'skewed', 'left', 'heavy'])
def test_seldom_wrong(noise, lead):
    r, rule, runs = np.random.default_rng(0), Certain(ns=[1, 2, 3]), 400
    wrong = called = 0
    for _ in range(runs):
        m, says = None, []
        for size in (16,) * 8 + (128,) * 15:  # looks at every 16 texts, later at every 128, up to 2048
            part = Moments.of(stream(r, noise, size, lead))
            m = part if m is None else m + part
            says = [v for v in rule.look(m) if v.certain]
            if says: break  # the first call is the most hasty
        called += bool(says); wrong += any(v.start != 1 for v in says)
    print(f'{noise}, lead {lead}: wrong in {wrong}, something called in {called} of {runs} runs')
    assert wrong <= .05 * runs
    assert called > .9 * runs if lead == .4 else True

def test_power():
    "A clear lead is called, a small one within the tolerance is a tie, and without tolerance stays open"
    r = np.random.default_rng(0)
    s = .3 + .02 * r.standard_normal((400, 4, 4))
    s[:, 0, 2] -= .02
    m = Moments.of(s)
    one, two = Certain([1, 2]).look(m)
    assert one.certain and one.start == 2 and one.settled and not two.settled
    assert Certain([2], tolerance=.02).look(m)[0].tie and not Certain([2], tolerance=1e-5).look(m)[0].settled

def test_an_ordinary_t_test_would_break_the_promise():
    "The same looks with a fixed-sample threshold: that is what the correction is for"
    r, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        d = r.standard_normal(1024)  # a difference that is zero
        n = np.arange(16, 1025, 16)
        t = [abs(d[:k].mean()) / d[:k].std(ddof=1) * k ** .5 for k in n]
        wrong += max(t) > 1.96
    assert wrong > .05 * 200 * 3

def test_moments_merge_exactly():
    r = np.random.default_rng(0)
    s = r.random((57, 5, 5))
    whole, parts = Moments.of(s), Moments.of(s[:1]) + Moments.of(s[1:20]) + Moments.of(s[20:])
    assert np.allclose(whole.mean, parts.mean, atol=1e-14) and np.allclose(whole.cov, parts.cov, atol=1e-14)
    assert np.isclose(parts.cov[2, 1, 3], np.cov(s[:, 2, 1], s[:, 2, 3])[0, 1])

def test_the_command_goes_on(tmp_path):
    "Killed after its first saving, and resumed; other settings are refused"
    docs = tmp_path/'docs.txt'
    docs.write_text('\n'.join(f'Document {i} says that {i} and {i} make {2 * i}, and no more than that.' for i in range(200)))
    cmd = [sys.executable, '-m', 'prunebook', 'similarity', 'demo', '--texts', docs, '--max-length', '16', '--until-certain', '28', '--tolerance', '0', '--out']
    run = lambda out, *more: subprocess.run([*cmd, out, *more], capture_output=True, text=True)
    p = subprocess.Popen([*cmd, tmp_path/'out'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path/'.out.partial').exists(): assert p.poll() is None; time.sleep(.01)
    p.kill(); p.wait()
    assert not (tmp_path/'out').exists()
    other = run(tmp_path/'out', '--resume', '--n-texts', '150')
    assert other.returncode == 2 and 'another texts' in other.stderr and len(other.stderr.strip().splitlines()) == 1
    assert (done := run(tmp_path/'out', '--resume')).returncode == 0, done.stderr
    assert (done := run(tmp_path/'whole')).returncode == 0, done.stderr
    a, b = LayerDistances.load(tmp_path/'out'), LayerDistances.load(tmp_path/'whole')
    assert np.array_equal(a.cov, b.cov) and a.count == b.count and a.info == b.info
    assert {p.name for p in tmp_path.iterdir()} == {'docs.txt', 'out', 'whole'}
    assert (tmp_path/'out'/'best_blocks.csv').read_text().splitlines()[0] == 'n,start,stop,layers,distance,sem,runner_up_start,certain'
