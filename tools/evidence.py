"""The long runs behind the paper's pages: `python tools/evidence.py gemma3-270m` makes or goes on with all of a model.

Each run is a folder of nbs/results that holds several sweeps. A run that was stopped goes on where it was; one that is
whole is read and left alone. `--only NAME` makes one sweep, `--list` shows them all. One run at a time: each uses all
cores.
"""
import argparse
from pathlib import Path

from prunebook.healing.recipes import QUICK
from prunebook.evaluation.losses import loss_map
from prunebook.model.loading import load_model
from prunebook.paper.runs import Run, model_record, read_run
from prunebook.data.texts import load_texts
from prunebook.similarity.distances import LayerDistances
from prunebook.similarity.similarity import layer_distances
from prunebook.paper.grids import SweepConfig
from prunebook.paper.sweeps import sweep

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
    return SweepConfig(ns=[], tasks=['c4'], n_texts=32,  # the documents of the shorter healing runs
                       healing=recipe, healing_texts='c4+wiki+technical+tiny', **kwargs)

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
        'healed-simple': SweepConfig(strategies=['simple', 'best_loss'], healed_ns=[4], **HEALED, **GEMMA_LOSS)},
    'qwen2.5-coder-1.5b': {
        'cuts': SweepConfig(strategies=PAPER, ns=[1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20], **QWEN),
        'middle': SweepConfig(strategies=['middle'], ns=[1, 2, 4, 6, 10, 14, 20], **QWEN),
        'mmlu-text': asked(741, strategies=['similarity'], ns=[1, 2, 3, 4, 6, 8, 10, 14], tasks=['mmlu_text']),
        'mmlu-0-shot': asked(741, strategies=['similarity'], ns=[1, 2, 3, 4, 6, 8, 10, 14], tasks=['mmlu:shots=0']),
        'gsm8k': asked(100, strategies=['similarity'], ns=[1, 2, 3, 4, 6], tasks=['gsm8k']),
        'healed': SweepConfig(strategies=['similarity'], healed_ns=[0, 8, 4, 6, 10, 14], **HEALED, **QWEN_HEALED),
        'healed-2': SweepConfig(strategies=['similarity'], healed_ns=[2], **HEALED, **QWEN_HEALED),
        'healed-simple': SweepConfig(strategies=['simple'], healed_ns=[4, 8, 6], **HEALED, **QWEN_HEALED),
        'letters': asked(500, strategies=PAPER, healed_ns=[0, 4, 8], tasks=['arc_easy:scoring=letter'], **HEALED)},
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
        'healed-base-rank-2-1m': long_healing(2, strategies=['similarity'], healed_ns=[0])}}

def distances_of(model, tokenizer, folder):
    "The distances of a run: read, or measured on 256 texts"
    if (folder/'distances.safetensors').exists(): return LayerDistances.load(folder)
    return layer_distances(model, tokenizer, load_texts('demo', 'calibration', n=256))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model', choices=SWEEPS)
    p.add_argument('--only', nargs='+', metavar='NAME', help='these sweeps')
    p.add_argument('--loss-map', action='store_true', help='the loss without each block as well')
    p.add_argument('--list', action='store_true', help='show the sweeps, and which rows they have')
    args = p.parse_args()
    folder, sweeps = RESULTS/args.model, SWEEPS[args.model]
    if args.list:
        have = read_run(folder).sweep.value_counts() if (folder/'results.csv').exists() else {}
        return print('\n'.join(f'{k}: {have.get(k, 0)} rows' for k in sweeps))
    model, tokenizer = load_model(args.model)
    distances = distances_of(model, tokenizer, folder)
    for name in args.only or sweeps: sweep(model, tokenizer, sweeps[name], folder, distances, name=name)
    if args.loss_map and not (folder/'loss_map.safetensors').exists():
        found = loss_map(model, tokenizer, load_texts('demo', 'validation', n=16), max_length=256)
        with Run(folder, model_record(model)): found.save(folder)

if __name__ == '__main__': main()
