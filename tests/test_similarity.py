"Layer distances against a slow reference, across processes, and the promise of the stopping rule."
import os, random, subprocess, sys
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from support import architectures
from support.tiny import tiny, word_tokenizer, words
from prunebook.core import PrunebookError
from prunebook.data.texts import tokenize
from prunebook.paper.figures import plot_heatmap
from prunebook.similarity.distances import LayerDistances, angle, gram, layer_distances
from prunebook.similarity.stopping import RunningCovariance, StoppingRule
from prunebook.model.stack import LayerStack, fingerprint

DEPTH = 8
TYPES = ['llama', 'qwen3', 'gemma3_text', 'gpt_neox', 'gpt2', 'phi', 'mistral', 'gemma2', 'opt', 'falcon', 'olmo2',
         'stablelm', 'mixtral', 'qwen2', 'bloom', 'phi3', 'granite', 'cohere2', 'starcoder2']
upper = np.triu_indices(DEPTH + 1, 1)
eos_tokenizer = partial(word_tokenizer, pad='</s>')

def documents(n=13, longest=40, seed=0):
    "Random words. The last document has the pad token inside and at its end"
    r = random.Random(seed)
    return [' '.join(r.choices(words, k=r.randint(1, longest))) for _ in range(n - 1)] + ['w5 </s> w7 </s>']

def louder(model):
    "Random weights hardly turn the stream. Make them, and the norms, do so"
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.mul_(4) if p.dim() > 1 else p.add_(.3 * torch.randn_like(p))
    return model

def half_turns(a, b): return torch.arccos((a @ b / a.norm() / b.norm()).clamp(-1, 1)) / torch.pi

def of_blocks(x, measure):
    "(L+1, L+1) means over tokens of the measure of each pair; x is (L+1, T, d)"
    size = range(len(x))
    def mean(l, r): return np.mean([measure(x[l, t], x[r, t]).item() for t in range(x.shape[1])])
    return [[mean(l, r) if l < r else 0. for r in size] for l in size]

def equation(model, tok, docs, max_length=32, tokens='last', measure=half_turns):
    """The paper's equation, slowly: float64, one document at a time, without padding. The hidden states are
    transformers' own, but the last is the last layer's output. (texts, L+1, L+1)"""
    model.config._experts_implementation = 'eager'  # the grouped product of experts has no float64
    exact, out, keep = type(model)(model.config).double().eval(), [], []
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    depth, layers = len(LayerStack(exact)), LayerStack(exact).layers
    layers[-1].register_forward_hook(lambda m, i, o: keep.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        for ids in tokenize(tok, docs, max_length).ids:
            given = dict(output_hidden_states=True, use_cache=False)
            states = exact.get_decoder()(torch.tensor([ids]), **given).hidden_states
            x = torch.stack([o[0] for o in [*states[:depth], keep.pop()]])
            out.append(of_blocks(x if tokens == 'all' else x[:, -1:], measure))
    return np.array(out)

def measure(model, tok=None, docs=None, **kw):
    given = dict(max_length=32, progress=False) | kw
    return layer_distances(model, tok or eos_tokenizer(), documents() if docs is None else docs, **given)

def off(found, want): return np.abs(found[upper] - want[upper]).max()

@pytest.mark.parametrize('kind', TYPES)
def test_equals_the_equation(kind):
    model = louder(tiny(kind))
    want = equation(model, eos_tokenizer(), documents())
    for side in ('right', 'left'):
        for batch_tokens in (1, 97, 4096):
            got = measure(model, eos_tokenizer(side), batch_tokens=batch_tokens)
            assert off(got.mean, want.mean(0)) < 1e-5 and got.count == 13
            assert off(got.sem, want.std(0, ddof=1) / 13 ** .5) < 1e-5
    assert want.mean(0)[upper].max() > .05
    half = measure(model.bfloat16())
    rounded = model.float()  # the same weights, rounded: the effect of bfloat16 arithmetic alone
    assert off(half.mean, equation(rounded, eos_tokenizer(), documents()).mean(0)) < 1e-2

@pytest.mark.parametrize('kind', ['mamba', 'falcon_mamba'])
def test_models_with_a_state(kind):
    "Layer after layer by hand: some of these give hidden states without the embedding's, so they are no reference"
    model, tok, want = louder(tiny(kind)), eos_tokenizer(), []
    with torch.no_grad():
        for ids in tokenize(tok, documents(), 32).ids:
            x = [model.get_input_embeddings()(torch.tensor([ids]))]
            for layer in LayerStack(model).layers: x.append(layer(x[-1]))
            want.append(of_blocks(torch.cat(x)[:, -1:].double(), half_turns))
    got = measure(model)
    assert off(got.mean, np.mean(want, 0)) < 1e-3 and got.mean[upper].max() > .05

@pytest.mark.parametrize('tokens', ['last', 'all'])
def test_other_measures_and_tokens(tokens):
    model, tok, docs = louder(tiny()), eos_tokenizer(), documents(5, 12)
    def cos(a, b): return 1 - a @ b / a.norm() / b.norm()
    def norm(a, b): return (b - a).norm() / a.norm()
    got = measure(model, docs=docs, tokens=tokens, measures=('norm', 'cosine', 'angle', 'block_influence'))
    kinds = dict(norm=(tokens, norm), cosine=(tokens, cos), angle=(tokens, half_turns), block_influence=('all', cos))
    slow = {k: equation(model, tok, docs, tokens=t, measure=f).mean(0) for k, (t, f) in kinds.items()}
    assert off(got.mean, slow['norm']) < 1e-5
    for k in ('cosine', 'angle', 'block_influence'): assert off(got.also[k].mean, slow[k]) < 1e-5
    assert np.allclose(got.influence, np.diagonal(got.also['block_influence'].mean, 1))
    assert np.array_equal(got.influence, measure(model, docs=docs, measures=['block_influence']).influence)

def test_a_small_angle_is_not_rounded_away():
    x = torch.tensor([[[1., 0.]], [[1., 1e-5]]])  # in float32, their product and their lengths are 1
    assert angle(gram(x))[0, 0, 1] == pytest.approx(1e-5 / np.pi, rel=1e-3)

def test_the_runner_up_is_the_second():
    mean = np.zeros((5, 5))
    for i, v in enumerate((.4, .1, .3, .2)): mean[i, i + 1] = v
    assert LayerDistances(mean, mean * 0, 3).best_blocks()[['start', 'runner_up_start']].iloc[0].tolist() == [1, 3]

def test_leaves_the_model_alone():
    model = tiny('gpt2').train()
    model.transformer.h[3].eval()
    modes = [m.training for m in model.modules()]
    a, b = measure(model), measure(model)
    assert modes == [m.training for m in model.modules()] and np.array_equal(a.mean, b.mean)  # no dropout
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

def test_offloaded(tmp_path):
    "Some layers in memory, some on disk"
    from accelerate import dispatch_model
    model = louder(tiny())
    want = measure(model)
    where = {'model.embed_tokens': 'cpu', 'model.norm': 'disk', 'model.rotary_emb': 'cpu', 'lm_head': 'disk'}
    where |= {f'model.layers.{i}': 'cpu' if i < 3 else 'disk' for i in range(DEPTH)}
    there = dispatch_model(model, where, main_device='cpu', offload_dir=str(tmp_path), force_hooks=True)
    assert next(there.model.layers[5].parameters()).device.type == 'meta'
    got = measure(there)
    assert np.array_equal(got.mean, want.mean)
    assert got.info['model_fingerprint'] == want.info['model_fingerprint']

def test_round_trip(tmp_path):
    "Also with numpy's numbers, and no path of this machine in the file"
    rule, model = StoppingRule(np.array([1, 2]), np.float32(.9), np.float32(.1)), tiny()
    model.config._name_or_path = str(tmp_path/'mine')
    d = measure(model, measures=('angle', 'norm'), until=rule, max_length=np.int64(32), every=np.int64(4),
                partial=tmp_path/'state')
    e = LayerDistances.load(d.save(tmp_path/'x'))
    assert np.array_equal(d.mean, e.mean) and np.array_equal(d.also['norm'].sem, e.also['norm'].sem)
    assert d.info == e.info
    assert e.count == 13
    assert d.fingerprint == e.fingerprint
    assert d.info['model_fingerprint'] == fingerprint(model)
    assert d.best_blocks().equals(e.best_blocks()) and d.best_block(np.int64(2)) == e.best_block(2)
    was = (tmp_path/'x'/'distances.safetensors').read_bytes()
    assert (e.save(tmp_path/'y')/'distances.safetensors').read_bytes() == was and str(tmp_path).encode() not in was

def test_texts_without_words():
    d = measure(tiny(), docs=['w5', '', 'w6 w7', '  '], every=2)
    assert d.skipped == [1, 3] and d.count == 2
    assert measure(tiny(), docs=['w5', 'w6', '', '  '], every=2).skipped == [2, 3]
    for docs in ([], ['', ' '], 'w5'):
        with pytest.raises(PrunebookError): measure(tiny(), docs=docs)

@pytest.mark.parametrize('kw, says', [
    (dict(measures=('magic',)), 'angle, cosine'), (dict(measures=()), 'is empty'), (dict(tokens='first'), "'all'"),
    (dict(max_length=999), '128'), (dict(until=StoppingRule([8])), '1 to 7'), (dict(every=0), '1 or more'),
    (dict(model=tiny(vocab_size=50)), 'do not belong together'),
    (dict(model=architectures.tiny('gemma3n_text')), 'more than one vector')])
def test_arguments_that_cannot_work(kw, says):
    with pytest.raises(PrunebookError, match=says): measure(**dict(model=tiny(), docs=['w5 w60']) | kw)

@pytest.mark.parametrize('wrong', [dict(ns=[]), dict(confidence=1), dict(tolerance=float('nan')), dict(ns=[1.5])])
def test_rules_that_cannot_work(wrong):
    with pytest.raises(PrunebookError): StoppingRule(**dict(ns=[1]) | wrong)

def test_not_finite():
    model, hit = tiny(), []
    note = lambda m, args, kw: hit.append((kw['input_ids'] == 80).any(-1)[:, None, None])  # w77
    model.model.register_forward_pre_hook(note, with_kwargs=True)
    model.model.layers[4].register_forward_hook(lambda m, args, out: out.masked_fill(hit[-1], float('nan')))
    docs = [o.replace('w77', 'w78') for o in documents()]
    docs[9] = 'w5 w77 w6'
    with pytest.raises(PrunebookError, match='text 9: the output of layer 4 is not finite'):
        measure(model, docs=docs, every=4)

def test_rows_of_a_heatmap_are_rescaled_each_by_itself():
    table = np.array([[0, 4, 9, 9], [0, 0, 2, 5], [0, 0, 0, 3], [0, 0, 0, 0.]])
    d, rows = LayerDistances(table, np.zeros((4, 4)), 9), lambda ax: np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_allclose(rows(plot_heatmap(d)), [[1, 0, .5], [1, 0, np.nan]])
    np.testing.assert_allclose(rows(plot_heatmap(d, first=False)), [[np.nan, 0, 1], [np.nan, 0, np.nan]])

# resumed is equal to never interrupted, or refused

def test_a_state_of_another_run_is_refused(tmp_path):
    model, p = tiny(), tmp_path/'p'
    def run(model=model, **kw): return measure(model, **dict(every=4, partial=p) | kw)
    full = run()
    assert np.array_equal(run().cov, full.cov)  # goes on from the end
    changed = tiny()
    with torch.no_grad(): changed.model.layers[5].mlp.up_proj.weight += .01
    longer = eos_tokenizer()
    longer.add_tokens('new')
    for wrong in (dict(ns=4), dict(ns=[1], confidence='high')):
        with pytest.raises(PrunebookError, match='StoppingRule'): StoppingRule(**wrong)
    half = tiny().bfloat16()  # with the same fingerprint in both types
    run(half, partial=tmp_path/'half')
    with pytest.raises(PrunebookError, match='another model'): run(half.float(), partial=tmp_path/'half')
    others = dict(model=dict(model=changed), tokenizer=dict(tok=longer), texts=dict(docs=documents(seed=1)),
                  settings=dict(max_length=31))
    for what, kw in others.items():
        with pytest.raises(PrunebookError, match=f'another {what}'): run(**kw)
    p.write_bytes(b'12')
    with pytest.raises(PrunebookError, match='damaged'): run()

TWO = '''
import sys
sys.path.insert(0, sys.argv[2])
from accelerate import PartialState
from support.tiny import tiny
from test_similarity import documents, eos_tokenizer, louder
from prunebook.similarity.stopping import StoppingRule
from prunebook.similarity.distances import layer_distances
rule = StoppingRule(ns=[1, 3], confidence=.9, tolerance=.05) if sys.argv[3] == 'until' else None
d = layer_distances(louder(tiny()), eos_tokenizer(), documents(101), max_length=32, batch_tokens=128, every=10,
                    until=rule, partial=sys.argv[1] + '/state', progress=False)
d.save(sys.argv[1] + f'/{PartialState().process_index}')
'''

@pytest.mark.thorough
@pytest.mark.parametrize('how', ['all', 'until'])
def test_two_processes_are_one(tmp_path, how):
    rule = StoppingRule(ns=[1, 3], confidence=.9, tolerance=.05) if how == 'until' else None
    want = measure(louder(tiny()), docs=documents(101), batch_tokens=128, every=10, until=rule)
    (tmp_path/'go.py').write_text(TWO)
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    cmd += [tmp_path/'go.py', tmp_path, Path(__file__).parent, how]
    env = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')
    done = subprocess.run(cmd, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in '01':
        got = LayerDistances.load(tmp_path/rank)
        assert got.count == want.count
        for k in ('mean', 'sem', 'cov'): assert np.abs(getattr(got, k) - getattr(want, k)).max() < 1e-6
    if how == 'until': assert want.count < 101 and got.info['settled'] == want.info['settled']

# the promise: whatever the noise, the wrong block is called certain in at most 5 % of runs

def stream(r, noise, size, lead, depth=4):
    """(size, depth, depth) distances of synthetic texts: blocks of one size share half of the noise, and the block at 1
    leads by so many standard deviations"""
    draw = dict(normal=r.standard_normal, skewed=lambda s: r.exponential(size=s) - 1,
                left=lambda s: 1 - r.exponential(size=s), heavy=lambda s: r.standard_t(5, s))[noise]
    s = draw((size, depth, depth)) + draw((size, 1, 1))
    s[..., 1] -= lead
    return .3 + .02 * s

@pytest.mark.parametrize('lead', [.02, .1, .4])
@pytest.mark.parametrize('noise', ['normal', 'skewed', 'left', 'heavy'])
def test_seldom_wrong(noise, lead):
    r, rule, runs = np.random.default_rng(0), StoppingRule(ns=[1, 2, 3]), 400
    wrong = called = 0
    for _ in range(runs):
        m, says = None, []
        for size in (16,) * 8 + (128,) * 15:  # looks at every 16 texts, later at every 128, up to 2048
            part = RunningCovariance.of(stream(r, noise, size, lead))
            m = part if m is None else m + part
            says = [v for v in rule.look(m) if v.certain]
            if says: break  # the first call is the most hasty
        called += bool(says)
        wrong += any(v.start != 1 for v in says)
    assert wrong <= .05 * runs
    assert called > .9 * runs if lead == .4 else True
