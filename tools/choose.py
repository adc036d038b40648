"""Can a cut be chosen by what the model writes? `python tools/choose.py` makes or resumes the rows of experiment O.

The rules were committed before the first row, on the page findings/design: its question, and these choices of a job.
Two layers of Qwen2.5-Coder-1.5B-Instruct go, chosen by one of

| rule | what it reads |
|---|---|
| maths | the model's own answers to 24 problems of MATH-500 |
| angle | the kept distances: the block that turns the residual stream least |
| c4 | 24 documents of C4, the first 256 tokens of each |
| code | the model's own answers to 24 descriptions of functions |
| middle | nothing: the block in the middle |

*maths*, *c4* and *code* are one search (`choose_layers`, strategies "answers" and "texts", as they come: beam 2, all
candidates on 6 documents, the best eighth on 24). The answers are those of experiment M, the first 24 of their kind;
the next 24 of each kind judge the loss of every cut crosswise, which decides nothing.

Every cut becomes a q4_k_m file, as in tools/should_you.py, and llama.cpp writes its answers to 600 problems of GSM8K
as there: chat template, no examples, greedy, at most 768 tokens, 32 sequences. The problems are 600 of the 627 before
number 900 that no row had asked when the rules were fixed; N1 has asked 300 of them since, of other files. The share
of right answers of *maths* minus that of *angle*, and minus that of *c4*, paired over the problems, 20,000 resamples:
*better* if the 95 % interval lies above 0, *worse* if below, else *undecided*, each its own test, by Holm over all
tests of N to Q. Two rules with one cut have one row, and their comparison is *the same cut*. The rest is described.

A rule keeps its plan in --work, a cut its file and answers, eighty problems at a time, and goes on there. `--only
RULE …` makes some, `--search` only their plans, `--list` shows what is there, `--publish` writes
nbs/results/choose.parquet and .json, `--smoke` does all of it on the demo. One run at a time.
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from map import gsm8k
from prunebook import choose_layers, load_model, load_questions, load_texts
from prunebook.core import atomic_write, read_json
from prunebook.evaluation.losses import answer_cut_losses
from prunebook.evaluation.tasks import ready_tasks
from prunebook.similarity.distances import LayerDistances
from should_you import GSM8K, LARGE, RESULTS, Arm, answer, make

RULES, N = ('maths', 'angle', 'c4', 'code', 'middle'), 2

def said(kind, first, n=24):
    "`n` of experiment M's answers of a kind, from the first-th"
    maths = {o['question'] for o in load_questions('math500')}
    def fits(asked): return asked in maths if kind == 'maths' else asked.startswith('Write a Python function')
    return [o for o in load_texts(RESULTS/'abilities_answers.jsonl') if fits(o['messages'][0]['content'])][first:][:n]

def plan_of(rule, model, tok, distances, n, documents):
    "The `n` layers that a rule drops, by so many documents"
    if rule == 'angle': return choose_layers('similarity', n, distances)
    if rule == 'middle': return choose_layers('middle', n, depth=distances.depth)
    given = dict(model=model, tokenizer=tok)
    if rule == 'c4': return choose_layers('texts', n, texts=load_texts('demo', n=documents), **given)
    return choose_layers('answers', n, answers=said(rule, 0, documents), **given)

def search(rules, name, work, dtype, n, documents):
    "The plan of each rule, a file each, with the loss of its cut on answers that no rule has read"
    if not (left := [o for o in rules if not (work/f'{o}.json').exists()]): return
    model, tok = load_model(name, dtype=dtype)
    distances = LayerDistances.load(RESULTS/name)
    losses = {k: answer_cut_losses(model, tok, said(k, documents, documents), False) for k in ('maths', 'code')}
    for rule in left:
        plan = plan_of(rule, model, tok, distances, n, documents)
        note = dict(rule=rule, model=name, layers=sorted(plan.layers), details=plan.details,
                    held_out={k: v([plan.keep], documents)[0] for k, v in losses.items()})
        atomic_write(work/f'{rule}.json', json.dumps(note, default=lambda o: o.tolist()) + '\n')
        print(rule, note['layers'], note['held_out'], flush=True)

def publish(work, out):
    "All answers in OUT.parquet, and what each rule chose in OUT.json"
    notes = [read_json(work/f'{o}.json') for o in RULES if (work/f'{o}.json').exists()]
    files = sorted(work.glob('*.jsonl'))
    if not files: raise SystemExit(f'{work} has no answers yet. Write some first.')
    table = pd.DataFrame([json.loads(o) for file in files for o in file.read_text().splitlines()])
    table = table.rename(columns=dict(arm='layers')).drop(columns='task')
    atomic_write(out.with_suffix('.parquet'), table.to_parquet(index=False, compression='zstd', compression_level=15))
    atomic_write(out.with_suffix('.json'), json.dumps(notes, indent=1) + '\n')

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='+', metavar='RULE', choices=RULES, default=RULES, help='these rules')
    p.add_argument('--search', action='store_true', help='choose the layers, and ask no problem')
    p.add_argument('--list', action='store_true', help='show what is there')
    p.add_argument('--publish', action='store_true', help='write the tables in nbs/results')
    p.add_argument('--smoke', action='store_true', help='a few answers and problems, the demo model')
    p.add_argument('--dtype', default='bfloat16', help='of the search; float32 where 16 bits are slow')
    p.add_argument('--work', type=Path, help='where plans, files and answers are kept (default: choose-work)')
    args = p.parse_args(argv)
    work = args.work or Path('choose-smoke' if args.smoke else 'choose-work')
    name = 'demo' if args.smoke else LARGE
    if args.list:
        for o in RULES: print(o, read_json(work/f'{o}.json')['layers'] if (work/f'{o}.json').exists() else 'no plan')
        for o in sorted(work.glob('*.jsonl')): print(f'{o.stem}: {len(o.read_text().splitlines())} answers')
        return
    if args.publish: return publish(work, work/'choose' if args.smoke else RESULTS/'choose')
    work.mkdir(parents=True, exist_ok=True)
    search(args.only, name, work, args.dtype, *((1, 1) if args.smoke else (N, 24)))
    if args.search: return
    task = replace(ready_tasks(GSM8K, 1)[GSM8K], items=gsm8k(3 if args.smoke else 600))
    for rule in args.only:
        layers = read_json(work/f'{rule}.json')['layers']
        cut = ' '.join(map(str, layers))
        file = make(cut, Arm(), name, layers, work, args.smoke, args.dtype)
        answer(cut, file, name, work, args.smoke, task)

if __name__ == '__main__': main()
