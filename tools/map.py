"""Which layers carry which ability? `python tools/map.py` makes or resumes the rows of experiment N.

The rules, the questions and this order were committed before the first row, on the page findings/design. A cut is a
model without some layers, not healed. Its scores stand in --work/MODEL/LAYERS, a file a task, which are read and left
alone. `--only PIECE …` makes some pieces, `--list` shows what is there, `--publish` adds it to nbs/results/map.parquet,
`--smoke` runs the same on the demo model in a minute. One run at a time: it uses all cores.
"""
import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from prunebook import evaluate, load_model, load_questions, load_texts, prune_model
from prunebook.core import atomic_write
from prunebook.evaluation.scores import load_score
from prunebook.evaluation.tasks import parse_task

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
TABLE = RESULTS/'map.parquet'
QWEN, SMALL = 'qwen2.5-coder-1.5b', 'qwen2.5-coder-0.5b'
FORMS = dict(likelihood='arc_easy', letter='arc_easy:scoring=letter', shown='arc_easy:scoring=shown',
             permuted='arc_easy:scoring=letter,permute=1')
ANSWER = 768  # tokens that a written answer may have

def evenly(rows, n): return [rows[i * len(rows) // n] for i in range(n)]

def used(rows, n):
    "The numbers of the questions that the kept runs asked: every k-th"
    return [i * len(rows) // n for i in range(n)]

def arc(new=1000):
    "Questions of ARC-Easy that no kept row of this model asked"
    rows = load_questions('arc_easy')
    seen = {*used(rows, 500)}
    return evenly([o for i, o in enumerate(rows) if i not in seen], new)

def gsm8k(new=300):
    "Problems of GSM8K that no row asked. Those from 900 on stay unused: they judge afterwards"
    rows = load_questions('gsm8k')
    seen = {*used(rows, 400)}
    return evenly([o for i, o in enumerate(rows[:900]) if i not in seen], new)

def documents(n=100):
    "Documents of C4 that no unhealed row read: healing read them"
    return load_texts('demo', 'healing', n=n)

class Piece(NamedTuple):
    "Cuts of a model, in this order, and the tasks that each is asked"
    cuts: tuple[str, ...]      # Layers without which it is asked, such as "15-16"; "" for the whole model
    asked: tuple[str, ...]     # Of `FORMS`, "c4", "gsm8k" or "gsm8k-200", the first 200 of an even spread
    model: str = QWEN

PAIRS = ('24', '15-16', '13-16', '23-26', '', '8')
PIECES = {
    'pairs': Piece(PAIRS, ('c4', 'letter', 'likelihood')),
    'gsm8k': Piece(('24', '15-16', '', '8'), ('gsm8k',)),
    'forms': Piece(PAIRS, ('shown', 'permuted')),
    'gsm8k-200': Piece(('13-16', '23-26'), ('gsm8k-200',))}

def layers_of(cut):
    "The layers that a name such as 15-16 means"
    first, _, last = cut.partition('-')
    return range(int(first), int(last or first) + 1) if cut else range(0)

def task_of(asked, smoke):
    "The task with its questions or texts, and how it is asked"
    if asked == 'c4': return replace(parse_task('c4'), items=documents(2 if smoke else 100)), {}
    if asked in FORMS: return replace(parse_task(FORMS[asked]), items=arc(8 if smoke else 1000)), {}
    problems = gsm8k(4 if smoke else 300)
    if asked == 'gsm8k-200': problems = evenly(problems, 2 if smoke else 200)
    return replace(parse_task('gsm8k:shots=0'), items=problems), dict(chat=True, max_new_tokens=32 if smoke else ANSWER)

def rows_of(file):
    "The items of a score"
    s, form = load_score(file), {v: k for k, v in FORMS.items()}
    rows = dict(model=file.parts[-4], layers=file.parts[-3].removeprefix('without ').removeprefix('whole'),
                task=s.task.partition(':')[0], form=form.get(s.task, ''), item=range(s.n))
    if s.task == 'c4': rows |= dict(sum=s.sums, count=s.counts)
    elif s.written: rows |= dict(right=s.right, written=s.written, ended=[i not in s.unfinished for i in range(s.n)])
    else: rows |= dict(right=s.right, answer=s.answers, logprobs=s.logprobs)
    return pd.DataFrame(rows)

def publish(work):
    "Add every score to the table; a cut's task that is there already stays as it is"
    table = pd.concat([rows_of(o) for o in sorted(work.glob('*/*/*/*.json'))])
    if TABLE.exists():
        old, keys = pd.read_parquet(TABLE), ['model', 'layers', 'task', 'form']
        known = pd.MultiIndex.from_frame(old[keys])
        table = pd.concat([old, table[~pd.MultiIndex.from_frame(table[keys]).isin(known)]])
    atomic_write(TABLE, table.to_parquet(index=False, compression='zstd', compression_level=15))

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='+', choices=PIECES, default=[*PIECES], metavar='PIECE')
    p.add_argument('--list', action='store_true', help='show the pieces, and which scores they have')
    p.add_argument('--publish', action='store_true', help='add all rows to the table in nbs/results')
    p.add_argument('--smoke', action='store_true', help='a few items of the demo model')
    p.add_argument('--dtype', default='bfloat16', help='float32 where 16 bits are slow')
    p.add_argument('--work', type=Path, help='where the scores are kept (default: map-work)')
    args = p.parse_args(argv)
    if args.smoke and args.publish: p.error('what --smoke made is no result: leave out one of both')
    work = args.work or Path('map-smoke' if args.smoke else 'map-work')
    def place(piece, cut, asked): return work/('demo' if args.smoke else piece.model)/(
        f'without {cut}' if cut else 'whole')/asked
    known = set() if args.smoke or not TABLE.exists() else set(
        map(tuple, pd.read_parquet(TABLE, columns=['model', 'layers', 'task', 'form']).drop_duplicates().to_numpy()))
    def there(piece, cut, asked):
        "Is the score in --work, or in the table?"
        task, form = ('arc_easy', asked) if asked in FORMS else (asked.partition('-')[0], '')
        return any(place(piece, cut, asked).glob('*.json')) or (piece.model, cut, task, form) in known
    if args.list:
        for name, piece in PIECES.items():
            print(name, *(f'{cut or "whole"} {asked}: {"there" if there(piece, cut, asked) else "-"}'
                          for asked in piece.asked for cut in piece.cuts), sep='\n  ')
        return
    if args.publish: return publish(work)
    models = {}
    for name in args.only:
        piece = PIECES[name]
        for asked in piece.asked:
            task, how = task_of(asked, args.smoke)
            for cut in piece.cuts:
                if there(piece, cut, asked): continue
                key = 'demo' if args.smoke else piece.model
                if key not in models: models = {key: load_model(key, dtype=args.dtype)}
                parent, tok = models[key]
                model = prune_model(parent, layers_of(cut)) if cut else parent
                print(cut or 'whole', evaluate(model, tok, [task], save=place(piece, cut, asked), **how), flush=True)

if __name__ == '__main__': main()
