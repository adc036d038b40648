"""Which healing brings written answers back? `python tools/abilities.py` makes or resumes the arms of experiment M.

The design, written before the first row, is on the page findings/design. An arm is a cut of
Qwen2.5-Coder-1.5B, the texts and the objective of its healing, and a seed. Its scores stand in --work/scores/ARM, a
file a task, which are read and left alone, as are those that are published. Its healing works in a folder of --work and
goes on there after a stop. `--only ARM …` makes some arms, `--tasks TASK …` some of their scores, `--list` shows what
is there, `--publish` adds it to nbs/results, `--smoke` runs the same on the demo model in a minute. One run at a time.
"""
import argparse
import inspect
import json
import pydoc
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunebook import HealingConfig, evaluate, heal, load_model, load_questions, load_texts, prune_model
from prunebook.core import atomic_write
from prunebook.evaluation.scores import load_score
from prunebook.healing.packing import documents, training_rows
from prunebook.healing.teacher import write_answers
from prunebook.similarity.distances import LayerDistances

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
TABLE = RESULTS/'abilities.parquet'
TOKENS = 102_400
CHAT, PLAIN = {'gsm8k:shots=0': 400, 'humaneval': 164}, {'c4': 64, 'agreement': 64, 'arc_easy': 500, 'mmlu': 741}

class Arm(NamedTuple):
    "A healing: layers dropped by similarity, what it learns (`None`: not healed), how, and with which seed"
    n: int
    texts: str | None = None
    objective: str = 'lm'
    seed: int = 0
    times: float = 1  # so many times the tokens
    rate: float = 5e-4

FIRST = {'parent': Arm(0), 'cut-2': Arm(2), 'cut-4': Arm(4), 'c4-2': Arm(2, 'c4'), 'self-2': Arm(2, 'self'),
         'self-top-2': Arm(2, 'self', 'distill_top'), 'c4-top-2': Arm(2, 'c4', 'distill_top'),
         'c4-0': Arm(0, 'c4'), 'self-0': Arm(0, 'self'), 'c4-slow-2': Arm(2, 'c4', rate=1e-4),
         'c4-slow-2-seed-1': Arm(2, 'c4', seed=1, rate=1e-4)}
RIVALS = ['self-2', 'self-top-2', 'c4-top-2']

def arms(results):
    "All arms in their order; those of the best rival stand once all rivals have their GSM8K"
    found, known = dict(FIRST), published(TABLE, ['arm', 'task', 'right']).query('task == "gsm8k:shots=0"')
    solved = known.groupby('arm').right.sum().to_dict()
    solved |= {o: load_score(file).k for o in RIVALS if (file := results/o/'gsm8k_shots_0.json').exists()}
    best = max(RIVALS, key=solved.get) if solved.keys() >= {*RIVALS} else None
    for name in filter(None, (best, 'c4-2')):
        base, stem = FIRST[name], name.removesuffix('-2')
        found |= {f'{name}-seed-{s}': base._replace(seed=s) for s in (1, 2)} | {f'{stem}-4': base._replace(n=4)}
    lengths = dict(less=.3, more=3, long=10)
    return found | ({f'{best}-{k}': FIRST[best]._replace(times=v) for k, v in lengths.items()} if best else {})

def words(text, n=8):
    "All runs of `n` words"
    found = re.findall(r'\w+', text.lower())
    return {tuple(found[i:i + n]) for i in range(len(found) - n + 1)}

@cache
def prompts(most):
    "Problems of MATH-500, questions of SciQ, functions to write and texts to sum up; none near a scored question"
    said = [o['question'] for o in load_questions('math500')] + [o['question'] for o in load_questions('sciq')][::3]
    for name in 'collections csv datetime functools heapq itertools json os.path random re shutil statistics string ' \
                'textwrap urllib.parse bisect math calendar colorsys difflib'.split():
        made = [o for _, o in inspect.getmembers(pydoc.locate(name), inspect.isroutine) if inspect.getdoc(o)]
        said += [f'Write a Python function that does this:\n\n{inspect.getdoc(o)[:800]}' for o in made]
    said += [f'Sum up this text in two sentences.\n\n{o[:800]}' for o in load_texts('wiki', n=200)]
    scored = set()
    for task in ('gsm8k', 'humaneval', 'mmlu', 'arc_easy'):
        for o in load_questions(task): scored |= words(' '.join([o['question'], *map(str, o.get('choices', []))]))
    apart = [o for o in dict.fromkeys(said) if not words(o) & scored]
    print(f'{len(apart)} of {len(said)} prompts share no eight words in a row with a scored question', flush=True)
    return [apart[i] for i in np.random.default_rng(0).permutation(len(apart))[:most]]

def published(file, columns=None):
    "The table of items, perhaps some of its columns, or an empty one"
    return pd.read_parquet(file, columns=columns) if file.exists() else pd.DataFrame(columns=columns or ['arm', 'task'])

def publish(work, file):
    """All items in one table, a row per arm, task and item, added to what is there; beside it, what is known of each
    healing, and the answers that the unpruned model wrote"""
    scores, about = work/'scores', file.with_suffix('.json')
    def rows(path):
        s = load_score(path)
        answers = hasattr(s, 'right')
        own = dict(right=s.right, written=s.written or None) if answers else dict(sum=s.sums, count=s.counts)
        return pd.DataFrame(dict(arm=path.parent.name, task=s.task, item=range(s.n), seconds=s.seconds) | own)
    notes = {o.stem: json.loads(o.read_text()) for o in sorted(work.glob('*.json'))}
    table = pd.concat([rows(o) for o in sorted(scores.glob('*/*.json'))])
    old = published(file)
    new = pd.MultiIndex.from_frame(table[['arm', 'task']])
    table = pd.concat([old[~pd.MultiIndex.from_frame(old[['arm', 'task']]).isin(new)], table])
    atomic_write(file, table.to_parquet(index=False, compression='zstd', compression_level=15))
    about.write_text(json.dumps((json.loads(about.read_text()) if about.exists() else {}) | notes, indent=1) + '\n')
    for o in work.glob('answers*.jsonl'): (file.parent/f'abilities_{o.name}').write_bytes(o.read_bytes())

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='+', metavar='ARM')
    p.add_argument('--tasks', nargs='+', metavar='TASK', default=[*CHAT, *PLAIN], help='these scores')
    p.add_argument('--publish', action='store_true', help='add all items to the table in nbs/results')
    p.add_argument('--list', action='store_true', help='show the arms, and which scores they have')
    p.add_argument('--smoke', action='store_true', help='two steps, a few items, the demo model')
    p.add_argument('--dtype', default='bfloat16', help='float32 where 16 bits are slow')
    p.add_argument('--work', type=Path, help='where healings and answers are kept (default: abilities-work)')
    args = p.parse_args(argv)
    if args.smoke and args.publish: p.error('what --smoke made is no result: leave out one of both')
    args.work = args.work or Path('abilities-smoke' if args.smoke else 'abilities-work')
    scores = args.work/'scores'
    known = arms(scores)
    if args.list: return print('\n'.join(f'{k}: {len(list((scores/k).glob("*.json")))} files' for k in known))
    if args.publish: return publish(args.work, TABLE)
    if odd := set(args.only or ()) - set(known): p.error(f'no arms {sorted(odd)}; there are {", ".join(known)}')
    if odd := set(args.tasks) - {*CHAT, *PLAIN}: p.error(f'no scores {sorted(odd)}; there are {[*CHAT, *PLAIN]}')
    chat, plain, new, size, most = CHAT, PLAIN, 400, (2, 512), 400
    if args.smoke: chat, plain, new, size, most = {'gsm8k:shots=0': 3}, {'c4': 2, 'agreement': 2}, 48, (2, 128), 2
    parent, tok = load_model('demo' if args.smoke else 'qwen2.5-coder-1.5b', dtype=args.dtype)
    distances = LayerDistances.load(RESULTS/('demo' if args.smoke else 'qwen2.5-coder-1.5b'))

    def healed(name, arm, model):
        "The model of an arm"
        if arm.texts == 'self':
            def answers(file, asked):
                kept = RESULTS/f'abilities_{file}'
                if args.smoke or not kept.exists(): kept = args.work/file
                if not kept.exists(): write_answers(parent, tok, asked, kept, max_new_tokens=new)
                return load_texts(kept)
            sums = [o['question'] for o in load_questions('sums', n=12)] if args.smoke else []
            said = answers('answers.jsonl', prompts(most) + sums)
            if arm.times > 1:  # the same few would be read too often
                rest = prompts(2 * most if arm.times < 10 else None)[most:]
                said += answers(f'answers-{name}.jsonl', rest + sums)
            # prompt and answer together must fit into a row
            texts = [o for o, d in zip(said, documents(said, tok, 10**6)) if len(d.ids) <= size[1]]
        else: texts = load_texts('demo', 'healing')
        recipe = HealingConfig(steps=1, batch_size=size[0], max_length=size[1], learning_rate=arm.rate,
                               packing='packed', seed=arm.seed, objective=arm.objective)
        mean = training_rows(tok, documents(texts, tok, size[1]), recipe).lengths.mean()
        recipe = recipe.replace(steps=2 if args.smoke else round(arm.times * TOKENS / (size[0] * mean)))
        teacher = parent if arm.objective != 'lm' else None
        done = heal(model, tok, texts, recipe, args.work/name, teacher=teacher, resume=True,
                    teacher_folder=args.work/'teacher')
        note = dict(tokens=done.history[-1]['tokens'], steps=recipe.steps, seconds=done.seconds,
                    losses=[done.history[0]['loss'], done.history[-1]['loss']])
        (args.work/f'{name}.json').write_text(json.dumps(note) + '\n')
        return done.model

    args.work.mkdir(parents=True, exist_ok=True)
    done = set() if args.smoke else set(map(tuple, published(TABLE, ['arm', 'task']).to_numpy()))
    for name in args.only or arms(scores):
        arm, place = arms(scores)[name], scores/name
        place.mkdir(parents=True, exist_ok=True)
        wanted = [(o, k, o in chat) for o, k in (chat | plain).items() if o in args.tasks
                  and not (place/(re.sub('[:=,]', '_', o) + '.json')).exists()
                  and (name, o) not in {*done, ('parent', 'agreement')}]
        if not wanted: continue
        model = prune_model(parent, distances.best_block(arm.n)) if arm.n else parent
        if arm.texts: model = healed(name, arm, model)
        for task, k, said in wanted:
            count = dict(n_texts=k) if task in ('c4', 'agreement') else dict(n_questions=k)
            other = parent if task == 'agreement' else None
            print(name, evaluate(model, tok, [task], **count, chat=said, save=place, parent=other,
                                 max_new_tokens=(512 if task == 'humaneval' else new) if said else None), flush=True)

if __name__ == '__main__': main()
