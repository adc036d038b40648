"""How long the measurement of all blocks takes, beside a bare forward pass, the textbook method and other packages.

On an idle machine; writes nbs/results."""
import importlib, json, os, platform, resource, statistics, subprocess, sys, time
from pathlib import Path
import numpy as np
import torch, transformers
from measured import measured, processor
from prunebook.model.assets import fetch
from prunebook.similarity.stopping import RunningCovariance, by_size
from prunebook.data.texts import batches, load_texts, token_budget, tokenize
from prunebook.model.loading import load_model
from prunebook.model.stack import fingerprint
from prunebook.similarity.distances import angle, gram, layer_distances, read_stream
from prunebook.model.stack import LayerStack

os.chdir(Path(__file__).parents[2]/'nbs/reference')

results = Path('../results/similarity_benchmarks.json')


def conditions():
    return dict(
        processor=processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        date=time.strftime('%Y-%m-%d'),
    )


def keep(name, **values):
    "Add a result to the file, with the conditions and the code that is timed"
    old = json.loads(results.read_text()) if results.exists() else {}
    results.parent.mkdir(exist_ok=True)
    about = dict(conditions=conditions()) | measured('similarity/distances')
    results.write_text(json.dumps(old | {name: values | about}, indent=1) + '\n')


def clock(f):
    "Seconds, and the result of `f`"
    start = time.perf_counter()
    out = f()
    return time.perf_counter() - start, out


def in_turns(runs=5, **fs):
    "Seconds of each of `fs`, run in turns, `runs` times after a first round; every other round in reverse"
    times = {k: [] for k in fs}
    for i in range(runs + 1):
        for k in list(fs) if i % 2 else list(fs)[::-1]:
            t, _ = clock(fs[k])
            if i:
                times[k].append(t)
    return times


def stored(name):
    "A result of the file"
    return json.loads(results.read_text())[name]

model, tok = load_model('demo')
texts = load_texts('demo', split='calibration')
decoder = model.get_decoder()

some = texts[:32]
ready = list(batches(tokenize(tok, some, 256).ids))


@torch.no_grad()
def bare():
    for b in ready:
        decoder(input_ids=b.input_ids, use_cache=False)


ours = lambda docs=some, **kw: layer_distances(model, tok, docs, **dict(dict(max_length=256, progress=False), **kw))


t = in_turns(15, ours=ours, bare=bare)
ratio = statistics.median(a / b for a, b in zip(t['ours'], t['bare']))
keep(
    'all blocks / bare forward',
    ratio=ratio,
    seconds=t,
    texts=len(some),
    max_length=256,
    batch_tokens=token_budget(None, 'cpu'),
)

stack = LayerStack(model)
streams = [read_stream(stack, b)['last'][0] for b in ready]


pieces = dict(
    tokens=lambda: tokenize(tok, some, 256),
    distances=lambda: [RunningCovariance.of(by_size(angle(gram(x)))) for x in streams],
    fingerprint=lambda: fingerprint(model),
)
t = in_turns(9, **pieces, bare=bare)
med = {k: statistics.median(v) for k, v in t.items()}
share = {k: med[k] / med['bare'] for k in pieces}
keep('the parts / bare forward', share=share, seconds=t)

def textbook(n, docs, max_length=256, batch_size=8):
    "Mean angular distance of all blocks of n layers, one pass"
    total = 0
    for at in range(0, len(docs), batch_size):
        enc = tok(
            docs[at : at + batch_size],
            return_tensors='pt',
            padding='longest',
            truncation=True,
            max_length=max_length,
            padding_side='right',
        )
        with torch.no_grad():
            states = model(**enc, output_hidden_states=True).hidden_states
        row, last = torch.arange(len(enc.input_ids)), enc.attention_mask.sum(1) - 1
        x = [o[row, last].double() for o in states]
        total += np.array(
            [
                torch.cosine_similarity(x[l], x[l + n], dim=-1).clamp(-1, 1).acos().sum().item() / np.pi
                for l in range(31 - n)
            ]
        )
    return total / len(docs)


few = texts[:8]
textbook(1, few)
ours(few)
passes, mine = [], []
for n in range(1, 30):
    s, d = clock(lambda: textbook(n, few))
    passes.append(s)
    if n % 4 == 1:
        s, dist = clock(lambda: ours(few))
        mine.append(s)
    assert (
        np.abs(d[:-1] - np.diagonal(dist.mean, n)[:-1]).max() < 2e-2
    )  # bfloat16; all but the block that holds the last layer, which they see normed
ratio = sum(passes) / statistics.median(mine)
keep('textbook, n = 1…29 / ours', ratio=ratio, passes=passes, ours=mine, texts=len(few), max_length=256, batch_size=8)

optipfair = importlib.import_module('optipfair.pruning.depth')
economize = importlib.import_module('economize.techniques.prune.depth')
adapter = importlib.import_module('economize.arch').adapter_for(model)
loader = [dict(input_ids=b.input_ids, attention_mask=b.attention_mask) for b in ready]
peers = dict(
    optipfair=lambda: optipfair.analyze_layer_importance(model, loader, show_progress=False),
    economize=lambda: economize.block_influence(adapter, loader),
)
t = in_turns(5, ours=ours, influence=lambda: ours(measures=('block_influence',)), **peers)
med = {k: statistics.median(v) for k, v in t.items()}
for name in peers:
    keep(
        f'{name}, n = 1 / ours, all n',
        ratio=med[name] / med['ours'],
        ratio_all_tokens=med[name] / med['influence'],
        seconds={k: t[k] for k in ('ours', 'influence', name)},
        texts=len(some),
        version=importlib.import_module('importlib.metadata').version(name),
    )

ragged = texts[:64]
ids = tokenize(tok, ragged, 512).ids


def padded(width=None, size=8):
    for at in range(0, len(ids), size):
        part = ids[at : at + size]
        x = torch.zeros(len(part), width or max(map(len, part)), dtype=torch.long)
        for r, o in enumerate(part):
            x[r, : len(o)] = torch.tensor(o)
        yield x


@torch.no_grad()
def run(xs):
    for x in xs:
        decoder(input_ids=x, use_cache=False)


t = in_turns(
    5,
    sorted=lambda: run(b.input_ids for b in batches(ids)),
    longest=lambda: run(padded()),
    longest_of_2=lambda: run(padded(size=2)),
    maximum=lambda: run(padded(512)),
)
med = {k: statistics.median(v) for k, v in t.items()}
keep(
    'padded in order / sorted',
    ratio_longest=med['longest'] / med['sorted'],
    ratio_longest_of_2=med['longest_of_2'] / med['sorted'],
    ratio_maximum=med['maximum'] / med['sorted'],
    seconds=t,
    texts=len(ragged),
    real_tokens=sum(map(len, ids)),
)

ids = tokenize(tok, texts[:24], 2048).ids
t = in_turns(
    5,
    sorted=lambda: run(b.input_ids for b in batches(ids)),
    longest=lambda: run(padded()),
    longest_of_2=lambda: run(padded(size=2)),
)
med = {k: statistics.median(v) for k, v in t.items()}
keep(
    'padded in order / sorted, up to 2048 tokens',
    ratio_longest=med['longest'] / med['sorted'],
    ratio_longest_of_2=med['longest_of_2'] / med['sorted'],
    seconds=t,
    texts=len(ids),
    real_tokens=sum(map(len, ids)),
)

a, b = ours(few), ours(few, batch_tokens=1)
gap = np.abs(a.mean - b.mean).max()
assert gap < 5e-3
print(
    f'largest difference of any distance, batches of {token_budget(None, "cpu"):,} tokens and one text '
    f'at a time: {gap:.1e}'
)

budgets = [256, 512, 1024, 2048, 4096, 8192]
t = in_turns(5, **{str(b): lambda b=b: ours(texts[:24], max_length=512, batch_tokens=b) for b in budgets})
med = {k: statistics.median(v) for k, v in t.items()}
keep(
    'a budget of tokens / of 1024',
    **{f'ratio_{k}': v / med['1024'] for k, v in med.items()},
    seconds=t,
    texts=24,
    max_length=512,
)

script = '''
import sys, torch
from prunebook.data.texts import load_texts
from prunebook.model.loading import load_model
from prunebook.similarity.distances import layer_distances
from prunebook.model.stack import LayerStack
n, layers, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model, tok = load_model('demo')
texts = (load_texts('demo') * 10)[:n]
for p in model.parameters(): p.abs().max()  # weights are mapped from the file: have all of them in memory first
LayerStack(model).cut(range(layers))
read = lambda key: next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith(key))
def work(texts):
    if how == 'ours': return layer_distances(model, tok, texts, max_length=128, batch_tokens=2048, progress=False)
    for at in range(0, len(texts), 16):
        enc = tok(texts[at:at+16], return_tensors='pt', padding='max_length', truncation=True, max_length=128)
        with torch.no_grad(): model(**enc, output_hidden_states=True)
work([texts[0][:50]])
open('/proc/self/clear_refs', 'w').write('5')
before = read('VmRSS')
work(texts)
print((read('VmHWM') - before) / 1024)
'''


def peak(*args):
    return float(
        subprocess.run(
            [sys.executable, '-c', script, *map(str, args)], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
    )


mb = {
    f'{how}, {layers} layers, {n} texts': [peak(n, layers, how) for _ in range(runs)]
    for how, layers, n, runs in [
        ('ours', 30, 256, 3),
        ('ours', 30, 2560, 2),
        ('ours', 10, 256, 3),
        ('textbook', 30, 256, 1),
        ('textbook', 10, 256, 1),
    ]
}
med = {k: statistics.median(v) for k, v in mb.items()}
growth = med['ours, 30 layers, 2560 texts'] / med['ours, 30 layers, 256 texts']
keep('peak memory above the model, MB', ratio_ten_times_the_texts=growth, **mb)

starts = {
    'python -c pass': ['-c', 'pass'],
    'import prunebook': ['-c', 'import prunebook'],
    'prunebook --help': ['-m', 'prunebook', '--help'],
    'prunebook similarity --help': ['-m', 'prunebook', 'similarity', '--help'],
    'prunebook evaluate --help': ['-m', 'prunebook', 'evaluate', '--help'],
    'prunebook reproduce --help': ['-m', 'prunebook', 'reproduce', '--help'],
    'prunebook assets': ['-m', 'prunebook', 'assets'],
    'prunebook check FOLDER --files-only': ['-m', 'prunebook', 'check', fetch('demo'), '--files-only'],
    'import torch': ['-c', 'import torch'],
}


def cpu_seconds(args):
    "User and system time of a process"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


seconds = {k: [] for k in starts}
for i in range(5):
    for k in list(starts) if i % 2 else list(starts)[::-1]:
        seconds[k].append(cpu_seconds(starts[k]))
kept = dict(seconds=seconds, conditions=conditions()) | measured('cli')
Path('../results/startup.json').write_text(json.dumps(kept, indent=1) + '\n')
