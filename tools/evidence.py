"""The long runs behind the paper's pages: `python tools/evidence.py gemma3-270m` makes or goes on with all of a model.

Each run is a folder of nbs/results that holds several sweeps. A run that was stopped goes on where it was; one that is
whole is read and left alone. `--only NAME` makes one sweep, `--list` shows them all. One run at a time: each uses all
cores. The page reference/paper/criteria says what the newer ones ask, and what counts as an answer.
"""
import argparse
import json
import random
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save

from prunebook.core import atomic_write
from prunebook.estimates import SLOWER, _machine_speed, model_size, peak_gb, work
from prunebook.healing.recipes import QUICK
from prunebook.evaluation.losses import loss_map
from prunebook.model.loading import load_model
from prunebook.model.stack import LayerStack
from prunebook.paper.runs import Run, model_record, read_run
from prunebook.data.texts import load_texts
from prunebook.similarity.distances import LayerDistances
from prunebook.similarity.distances import layer_distances
from prunebook.evaluation.losses import text_loss
from prunebook.evaluation.tasks import TASKS, GeneratedTask
from prunebook.paper.sweep import Cut, SweepConfig, _Row, _score_units, _start_sweep, sweep

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
RECIPE = QUICK.replace(steps=100)  # 100 steps of 4 rows of 256 tokens are 102,400 tokens
PAPER = ['similarity', 'simple']

QWEN = dict(n_texts=64, n_questions={'mmlu': 741, 'boolq': 500, 'arc_easy': 500, 'piqa': 500},
            tasks=['c4', 'mmlu', 'boolq', 'arc_easy', 'piqa'])
QWEN_HEALED = QWEN | dict(tasks=['c4', 'mmlu', 'boolq', 'arc_easy'],
                          n_questions={'mmlu': 741, 'boolq': 500, 'arc_easy': 500})
GEMMA = dict(tasks=['arc_easy', 'sciq', 'piqa'])
GEMMA_LOSS = dict(tasks=['c4', *GEMMA['tasks']], n_texts=64)
HEALED = dict(ns=[], healing=RECIPE)
SMALL = dict(tasks=['c4'], n_texts=64)

def asked(n, **kwargs):
    "A sweep of one task that has `n` questions"
    (task,) = kwargs['tasks']
    return SweepConfig(n_questions={task: n}, **kwargs)

def base_loss(steps, rank=64):
    "The loss of the unpruned model, healed by `steps` steps, on the documents of the kept sweeps of healing lengths"
    recipe = RECIPE.replace(steps=steps, rank=rank, alpha=rank)
    return SweepConfig(strategies=['similarity'], ns=[], healed_ns=[0], healing=recipe, tasks=['c4'], n_texts=32)

def long_healing(rank=64, **kwargs):
    "Healing with 1,024,000 tokens of four sets of texts, since C4's alone would be read eight times"
    recipe = RECIPE.replace(steps=1000, save_every=50, rank=rank, alpha=rank)
    return SweepConfig(**dict(ns=[], tasks=['c4'], n_texts=32,  # the documents of the shorter healing runs
                              healing=recipe, healing_texts='c4+wiki+technical+tiny') | kwargs)

def read_numbers():
    "400 questions whose answer stands in them: the form of GSM8K without its reasoning"
    rng, names = random.Random(0), ['Tom', 'Ada', 'Leah', 'Omar', 'Mia', 'Jon', 'Eva', 'Raj']
    ask = '{} writes the number {} on the board. Which number is on the board?'
    say, numbers = 'The number on the board is {0}. The answer is {0}.', rng.sample(range(10, 1000), 408)
    return [dict(question=ask.format(rng.choice(names), k), answer=say.format(k)) for k in numbers]

READING = GeneratedTask('read_number', 'Reading a number', lambda: read_numbers()[8:], shots=8, seed=None,
               examples=lambda: read_numbers()[:8], stop=('Q:',), prompt=lambda o: f"Q: {o['question']}\nA:")
TASKS.add(READING)

LETTERS, LIKELIHOOD = 'arc_easy:scoring=letter', 'arc_easy'
FOUR_WAYS = [LETTERS, LIKELIHOOD, 'arc_easy:shots=5,scoring=letter', 'arc_easy:shots=5']
ASKED = dict(tasks=[*FOUR_WAYS, 'mmlu_text'], n_questions=dict.fromkeys(FOUR_WAYS, 500) | {'mmlu_text': 741})
SEEDED = dict(tasks=['c4', LIKELIHOOD, LETTERS, 'mmlu', 'boolq'], n_texts=64,
              n_questions={LIKELIHOOD: 500, LETTERS: 500, 'mmlu': 741, 'boolq': 500})

def single_layers(n):
    "The loss, and ARC-Easy asked in two ways; `ONE_BY_ONE` makes the cuts"
    return SweepConfig(ns=[], tasks=['c4', LIKELIHOOD, LETTERS], n_texts=16, max_length=256,
                       n_questions={LIKELIHOOD: n, LETTERS: n})

# sweeps whose rows decide these claims and no other
MADE_FOR = {'healed-fine': ['C3b'], 'healed-simple-fine': [], 'read-number': []}
ONE_BY_ONE = ['single-layers-100', 'single-layers']  # the questions of the first are among those of the second

SWEEPS = {
    'gemma3-270m': {
        'losses': SweepConfig(strategies=[*PAPER, 'middle'], ns=range(1, 13), **SMALL),
        'cuts': SweepConfig(strategies=['similarity'], ns=range(1, 13), **GEMMA),
        'cuts-simple': SweepConfig(strategies=['simple'], ns=[2, 4, 6, 8], **GEMMA),
        'hellaswag': asked(1000, strategies=['similarity'], ns=[1, 2, 3, 4, 6, 8, 10, 12], tasks=['hellaswag']),
        'siqa': SweepConfig(strategies=['similarity'], ns=range(1, 13), tasks=['siqa']),
        'search': SweepConfig(strategies=['middle', 'best_loss', 'greedy'], ns=[1, 2, 4, 6, 8], **GEMMA_LOSS),
        'wiki': SweepConfig(strategies=[*PAPER, 'best_loss', 'greedy'], ns=[1, 2, 4, 6], sources=dict(c4='wiki'),
                            **SMALL),
        'healed': SweepConfig(strategies=['similarity'], healed_ns=[0, 4, 2, 6, 8], **HEALED, **GEMMA_LOSS),
        'healed-simple': SweepConfig(strategies=['simple', 'best_loss'], healed_ns=[4], **HEALED, **GEMMA_LOSS),
        'healed-simple-more': SweepConfig(strategies=['simple'], healed_ns=[2, 6, 8], **HEALED, **GEMMA_LOSS),
        'healed-seeds': SweepConfig(strategies=PAPER, healed_ns=[0, 4], seeds=[1, 2], **HEALED, **GEMMA_LOSS),
        'shots': SweepConfig(strategies=['similarity'], ns=[1, 2, 4, 6], tasks=['arc_easy', 'arc_easy:shots=5'])},
    'qwen2.5-coder-1.5b': {
        'cuts': SweepConfig(strategies=PAPER, ns=[1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20], **QWEN),
        'middle': SweepConfig(strategies=['middle'], ns=[1, 2, 4, 6, 10, 14, 20], **QWEN),
        'mmlu-text': asked(741, strategies=['similarity'], ns=[1, 2, 3, 4, 6, 8, 10, 14], tasks=['mmlu_text']),
        'mmlu-0-shot': asked(741, strategies=['similarity'], ns=[1, 2, 3, 4, 6, 8, 10, 14], tasks=['mmlu:shots=0']),
        'gsm8k': asked(100, strategies=['similarity'], ns=[1, 2, 3, 4, 6], tasks=['gsm8k']),
        'healed': SweepConfig(strategies=['similarity'], healed_ns=[0, 8, 4, 6, 10, 14], **HEALED, **QWEN_HEALED),
        'healed-2': SweepConfig(strategies=['similarity'], healed_ns=[2], **HEALED, **QWEN_HEALED),
        'healed-simple': SweepConfig(strategies=['simple'], healed_ns=[4, 8, 6], **HEALED, **QWEN_HEALED),
        'letters': asked(500, strategies=PAPER, healed_ns=[0, 4, 8], tasks=['arc_easy:scoring=letter'], **HEALED),
        'single-layers-100': single_layers(100),
        'single-layers': single_layers(500),
        **{f'four-ways-{o}': SweepConfig(strategies=[o], ns=[1, 2, 3, 4, 6, 8], **ASKED) for o in [*PAPER, 'middle']},
        'healed-simple-fine': SweepConfig(strategies=['simple'], healed_ns=[3, 5, 2, 1], **HEALED, **QWEN_HEALED),
        'healed-seed-1': SweepConfig(strategies=PAPER, healed_ns=[0, 4], seeds=[1], **HEALED, **SEEDED),
        'healed-seed-2': SweepConfig(strategies=PAPER, healed_ns=[0, 4], seeds=[2], **HEALED, **SEEDED),
        'healed-fine': SweepConfig(strategies=['similarity'], healed_ns=[3, 1], **HEALED, **QWEN_HEALED),
        'mmlu-3000': asked(3000, strategies=['similarity'], ns=[1, 2, 3, 4, 6], tasks=['mmlu']),
        'gsm8k-400': asked(400, strategies=['similarity'], ns=[1, 2, 3, 4, 6], tasks=['gsm8k']),
        'read-number': asked(400, strategies=['similarity'], ns=[1, 2, 3, 4, 6], tasks=[READING.name])},
    'demo': {
        'healed-base': SweepConfig(strategies=['similarity'], healed_ns=[0], n_texts=32, n_questions=dict(piqa=500),
                                   tasks=['c4', 'arc_easy', 'piqa'], **HEALED),
        **{f'healed-base-{steps}k': base_loss(steps) for steps in (5, 10, 20, 40)},
        'healed-base-rank-2': base_loss(100, rank=2),
        'seeds-simple': SweepConfig(strategies=['simple'], healed_ns=[4, 8], seeds=[1, 2], tasks=['c4'], n_texts=32,
                                    **HEALED),
        'rank-2-simple': SweepConfig(strategies=['simple'], ns=[], healed_ns=[4, 8], tasks=['c4', 'arc_easy'],
                                     n_texts=32, healing=RECIPE.replace(rank=2, alpha=2)),
        'losses': SweepConfig(strategies=PAPER, ns=range(1, 30), **SMALL),
        'tokens-1m': long_healing(strategies=PAPER, healed_ns=[0, 8, 4]),
        'rank-2-1m': long_healing(2, strategies=['similarity'], healed_ns=[8]),
        'healed-base-rank-2-1m': long_healing(2, strategies=['similarity'], healed_ns=[0]),
        'tokens-1m-answers': long_healing(tasks=['arc_easy'], strategies=['similarity'], healed_ns=[8, 4]),
        'rank-2-1m-answers': long_healing(2, tasks=['arc_easy'], strategies=['similarity'], healed_ns=[8, 4])}}

LOSS_MAP_SIZES = {'qwen2.5-coder-1.5b': [2, 4, 6, 8]}  # all sizes of the smaller models

def distances_of(model, tokenizer, folder):
    "The distances of a run: read, or measured on 256 texts"
    if (folder/'distances.safetensors').exists(): return LayerDistances.load(folder)
    return layer_distances(model, tokenizer, load_texts('demo', 'calibration', n=256))

def one_by_one(model, tokenizer, config, folder, name):
    "The tasks of a sweep for the model without each layer in turn. The rule of a row is named after its layer"
    with Run(folder, model_record(model)) as run:
        _start_sweep(run, name, model, tokenizer, config)
        depth = len(LayerStack(model))
        cuts = [Cut('none', 0, 0), *(Cut(f'layer {l}', 1, 0, (l,)) for l in range(depth))]
        loss, *asked = config.tasks  # the losses share a pass, questions are asked of one model after the other
        units = [[_Row(o, False, loss) for o in cuts], *([_Row(o, False, task)] for task in asked for o in cuts)]
        _score_units(run, name, model, tokenizer, config, units)

def passed(where):
    "A hook: the positions `where` leave a layer as they entered it"
    def hook(layer, args, kwargs, out):
        x, y = args[0] if args else kwargs['hidden_states'], (out[0] if isinstance(out, tuple) else out).clone()
        y[:, where] = x[:, where]
        return (y, *out[1:]) if isinstance(out, tuple) else y
    return hook

def silent(module, args, kwargs, out):
    "A hook: an attention or an MLP adds nothing"
    return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)

PARTS = {'layer': lambda o: (o, passed(slice(None))), 'attention': lambda o: (o.self_attn, silent),
         'mlp': lambda o: (o.mlp, silent), 'position 0': lambda o: (o, passed(slice(0, 1)))}

def part_losses(model, tokenizer, folder, parts=(), n=16, max_length=256):
    """Nats of each document without each part of each layer; `parts.safetensors` keeps them. If no parts are named,
    without all of them and without sets of them, and the time of each"""
    layers, texts, file = LayerStack(model).layers, load_texts('demo', 'validation', n=n), folder/'parts.safetensors'
    found, every = load_file(file) if file.exists() else {}, not parts
    for o in parts or PARTS: found.setdefault(o, np.full((len(layers), n), np.nan))
    def loss(*hooks):
        with ExitStack() as active:
            for module, hook in hooks: active.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            return text_loss(model, tokenizer, texts, max_length, progress=False)
    if 'none' not in found:
        score = loss()
        found |= dict(none=np.array(score.sums), counts=np.array(score.counts))
    if every and 'milliseconds' not in found: found |= dict(milliseconds=part_times(model))
    for l in range(len(layers)):
        for part in parts or PARTS:
            if not np.isnan(found[part][l]).any(): continue
            found[part][l] = loss(PARTS[part](layers[l])).sums
            atomic_write(file, save(found))
    if not every: return
    for name, parts in part_sets(found, LayerDistances.load(folder)).items():
        if name in found: continue
        found[name] = np.array(loss(*(PARTS[part](layers[l]) for part, l in parts)).sums)
        atomic_write(file, save(found))

def part_sets(found, distances):
    "Sets to remove together: the cheapest pair, and three rules that each save about 10, 20 and 30 % of the time"
    ranked = {part: [(part, int(l)) for l in found[part].sum(1).argsort()] for part in ('layer', 'attention', 'mlp')}
    whole, attention, _ = found['milliseconds'].mean(1)
    sets = dict(pair=[ranked['attention'][0], ranked['mlp'][0]])
    for percent in (10, 20, 30):
        k = round(percent / 100 * distances.depth)
        sets[f'block {percent}'] = [('layer', l) for l in distances.best_block(k)]
        sets[f'layers {percent}'] = ranked['layer'][:k]
        sets[f'attention {percent}'] = ranked['attention'][:round(k * whole / attention)]
    return sets

@torch.inference_mode()
def part_times(model, repeats=30):
    "(3, layers) milliseconds of each layer, its attention and its MLP for one token: the least of the repeats"
    layers, start = LayerStack(model).layers, {}
    modules = [[o, o.self_attn, o.mlp] for o in layers]
    least = {id(m): np.inf for row in modules for m in row}
    def before(module, args): start[id(module)] = time.perf_counter()
    def after(module, args, out): least[id(module)] = min(least[id(module)], time.perf_counter() - start[id(module)])
    with ExitStack() as active:
        for m in (m for row in modules for m in row):
            active.callback(m.register_forward_pre_hook(before).remove)
            active.callback(m.register_forward_hook(after).remove)
        for _ in range(repeats): model(torch.tensor([[1]]), use_cache=False)
    return np.ascontiguousarray(1000 * np.array([[least[id(m)] for m in row] for row in modules]).T)  # to save

def mixed_texts(model, tokenizer, file, tokens, batch=64, length=512):
    """A file of documents: those of the registry, then `tokens` tokens or more that the unpruned model writes after
    eight tokens of a text for healing, sampled from its 95 % likeliest. It goes on where it stopped"""
    begins = [ids for o in load_texts('demo', 'healing') if len(ids := tokenizer(o)['input_ids'][:8]) == 8]
    own = load_texts(ALL_TEXTS, 'healing')
    if not file.exists(): atomic_write(file, ''.join(json.dumps(dict(text=o)) + '\n' for o in own))
    rows = [o for o in file.read_text().splitlines(keepends=True) if o.endswith('\n')]  # a kill may leave half a row
    def count(rows): return sum(len(tokenizer(json.loads(o)['text'], verbose=False)['input_ids']) for o in rows)
    have = count(rows[len(own):])
    while have < tokens:
        torch.manual_seed(len(rows))
        ids = torch.tensor([begins[(len(rows) + i) % len(begins)] for i in range(batch)], device=model.device)
        out = model.generate(ids, do_sample=True, top_p=.95, top_k=0, max_new_tokens=length - 8,
                             pad_token_id=tokenizer.pad_token_id or 0)
        new = [json.dumps(dict(text=o)) + '\n' for o in tokenizer.batch_decode(out, skip_special_tokens=True)]
        rows, have = rows + new, have + count(new)
        atomic_write(file, ''.join(rows))
    return str(file)

ALL_TEXTS = 'c4+wiki+technical+tiny'

def gpu_sweeps(mixed, smoke=False):
    "The plan for one GPU: every size with a million tokens, more seeds, registry texts alone, and ten million"
    scored = dict(tasks=['c4'], n_texts=8) if smoke else SEEDED
    def healed(steps, ns, texts=mixed, **kwargs):
        recipe = RECIPE.replace(steps=2 if smoke else steps)
        return SweepConfig(ns=[], healed_ns=ns[:2] if smoke else ns, healing=recipe, healing_texts=texts,
                           **dict(strategies=PAPER) | kwargs | scored)
    return {'gpu-1m': healed(1000, [0, 4, 3, 5, 2, 6, 1, 8]), 'gpu-1m-seeds': healed(1000, [0, 4, 3, 5], seeds=[1, 2]),
            'gpu-1m-registry': healed(1000, [0, 4], ALL_TEXTS), 'gpu-10m': healed(10_000, [0, 4])}

def gpu_plan(name, model, tokenizer, folder, distances, smoke):
    "Say how long it takes, write the texts, then heal and score"
    place = folder.with_name(f'{folder.name}-written.jsonl')  # beside the run: no page needs it
    size, tokens, batch, length = model_size(name), *((16, 2, 16) if smoke else (10_300_000, 64, 512))
    plan = gpu_sweeps(str(place), smoke).values()
    healings = [(o.healing.steps, sum(1 + (n > 0) for n in o.healed_ns) * len(o.seeds)) for o in plan]
    trained = sum(steps * n for steps, n in healings) * RECIPE.batch_size * RECIPE.max_length
    asked = 0 if smoke else 300_000 * sum(n for _, n in healings)  # tokens of the questions and documents
    speed = _machine_speed(size, model.dtype.itemsize)
    took = {k: work(size, k, n) / speed / SLOWER[k] / 60 for k, n in dict(heal=trained, evaluate=asked).items()}
    prompt = torch.full((batch, 8), tokenizer('A')['input_ids'][-1], device=model.device)
    for _ in range(2):  # the first prepares the kernels
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=8, min_new_tokens=8, pad_token_id=tokenizer.pad_token_id or 0)
    took['write'] = (time.perf_counter() - start) / 8 / batch * tokens / 60  # a step writes a token of each row
    adapters = sum(n for _, n in healings) * 12 * size.depth * RECIPE.rank * (size.hidden + size.inner) / 1e9
    print(', '.join(f'{k}: {v:,.0f} minutes' for k, v in took.items()), f'together {sum(took.values()):,.0f}; '
          f'{peak_gb(size, "heal", recipe=RECIPE):,.0f} GB of memory, {adapters:,.1f} of disk', flush=True)
    texts = mixed_texts(model, tokenizer, place, tokens, batch, length)
    for k, config in gpu_sweeps(texts, smoke).items(): sweep(model, tokenizer, config, folder, distances, name=k)

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model', choices=SWEEPS)
    p.add_argument('--only', nargs='+', metavar='NAME', help='these sweeps')
    p.add_argument('--loss-map', action='store_true', help='the loss without each block as well')
    p.add_argument('--parts', nargs='*', choices=PARTS, help='only the loss without parts of each layer')
    p.add_argument('--gpu-plan', action='store_true', help='only the plan for one GPU with 80 GB')
    p.add_argument('--smoke', action='store_true', help='the plan in small, to try it')
    p.add_argument('--results', type=Path, default=RESULTS, help='the folder of the runs')
    p.add_argument('--dtype', default='bfloat16', help='that of the kept rows; float32 where 16 bits are slow')
    p.add_argument('--list', action='store_true', help='show the sweeps, and which rows they have')
    args = p.parse_args(argv)
    folder, sweeps = args.results/args.model, SWEEPS[args.model]
    if odd := set(args.only or ()) - set(sweeps): p.error(f'no sweeps {sorted(odd)}; there are {", ".join(sweeps)}')
    if args.list:
        have = read_run(folder).sweep.value_counts() if (folder/'results.csv').exists() else {}
        return print('\n'.join(f'{k}: {have.get(k, 0)} rows' for k in sweeps))
    model, tokenizer = load_model(args.model, dtype=args.dtype)
    distances = distances_of(model, tokenizer, folder)
    if args.gpu_plan: return gpu_plan(args.model, model, tokenizer, folder, distances, args.smoke)
    if args.parts is not None: return part_losses(model, tokenizer, folder, args.parts)
    for name in args.only or sweeps:
        if name in MADE_FOR:  # before its first row
            with Run(folder, model_record(model)) as run: run.note(name, claims=MADE_FOR[name])
        if name in ONE_BY_ONE: one_by_one(model, tokenizer, sweeps[name], folder, name)
        else: sweep(model, tokenizer, sweeps[name], folder, distances, name=name)
    if args.loss_map and not (folder/'loss_map.safetensors').exists():
        found = loss_map(model, tokenizer, load_texts('demo', 'validation', n=16), max_length=256,
                         ns=LOSS_MAP_SIZES.get(args.model), partial=(partial := folder/'.loss_map.unfinished'))
        with Run(folder, model_record(model)): found.save(folder)
        partial.unlink(missing_ok=True)

if __name__ == '__main__': main()
