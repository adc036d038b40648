"""Bits, layers or the sibling, at equal bytes: `python tools/should_you.py` makes or resumes the arms of experiment P.

You have a 4-bit file of a chat model. What next? These rules were written before the first row.

The parents are the 4-bit files of Qwen2.5-Coder-Instruct (q4_k_m), read into 16 bits. Every arm goes the same way from
there, the whole model too: the layers go, `to_gguf` writes 16 bits, and llama.cpp's own quantiser the type. So no arm
is quantised once less than another, and a file of the makers, from their own 16-bit weights, may do better than ours.

| arm | model | layers dropped | type |
|---|---|---|---|
| q4_k_m, q3_k_m, q2_k | 1.5B | none | its name |
| cut-1, cut-2, cut-4 | 1.5B | the block that the angle chooses | q4_k_m |
| answers-2 | 1.5B | two, chosen by the loss on own answers (experiment O), given as --answers-cut | q4_k_m |
| healed-2 | 1.5B | those of cut-2, healed as experiment M's self-top-2: own answers, teacher, seed 0 | q4_k_m |
| cut-2-q3_k_m | 1.5B | those of cut-2 | q3_k_m |
| 0.5b-q4_k_m, 0.5b-q8_0 | 0.5B | none | its name |

GSM8K is the measure: the 400 used problems (every k-th), in the chat template, no examples, greedy, at most 768 tokens,
written by llama.cpp, 32 sequences in one context with a float32 cache; an answer is right if its last number is. An
answer of 768 tokens was broken off, and their share is shown. ARC-Easy, each answer scored and a letter picked, and
MMLU follow by transformers on the files, and are described; where the whole 0.5B does not clear chance, it is left out.

Two comparisons are fixed for each cut (the six arms that drop layers): against the largest file of the whole 1.5B that
is no larger, and against 0.5b-q4_k_m. The share of right GSM8K answers of the cut minus the other's, paired over the
problems, 20,000 resamples: the cut is *better* if the 95 % interval lies above 0, *worse* if below, else *undecided*. p
is two-sided, by Holm over all tests of the experiments N to Q. Where no file of the whole 1.5B is that small, the
second stands alone. Speed and memory decide nothing: bytes, memory with room for 4,096 tokens, bytes of keys
and values a token (16 bits), and prompt (512) and generated (64) tokens a second, medians of five alternating runs.

An arm keeps its file and its answers in --work, eighty problems at a time, and goes on there. `--only ARM …` makes some
arms, `--tasks TASK …` some scores, `--speed` the runs of all files that are there, `--list` shows what is there,
`--publish` writes nbs/results/should_you.parquet and .csv, `--verify N` writes N published answers of each arm anew,
drawn at random, and fails if too many are right or wrong otherwise, `--smoke` does all of it on the demo. One run at a
time.
"""
import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from abilities import FIRST, TOKENS
from prunebook import HealingConfig, as_plan, evaluate, heal, load_model, load_texts, prune_checkpoint, prune_model
from prunebook import save_pruned
from prunebook.core import atomic_write, read_json
from prunebook.estimates import model_size
from prunebook.evaluation.generation import same_number
from prunebook.evaluation.scores import load_score, wilson
from prunebook.evaluation.tasks import ready_tasks
from prunebook.healing.packing import documents, training_rows
from prunebook.model.loading import load_tokenizer
from prunebook.pruning.checkpoint import checkpoint_folder
from prunebook.serving.gguf import llama_replies, quantize, stored_types, to_gguf
from prunebook.similarity.distances import LayerDistances
from served_speed import alternate, in_llama_cpp

RESULTS = Path(__file__).parent.parent/'nbs'/'results'
LARGE, SMALL = 'qwen2.5-coder-1.5b', 'qwen2.5-coder-0.5b'
GSM8K, PLAIN = 'gsm8k:shots=0', {'arc_easy': 500, 'arc_easy:scoring=letter': 500, 'mmlu': 741}
PROBLEMS, NEW, SEQUENCES, PART = 400, 768, 32, 80

class Arm(NamedTuple):
    "A file: of which model, of which type, how many layers are dropped, and who chooses them"
    model: str = LARGE
    type: str = 'q4_k_m'
    n: int = 0
    by: str = 'angle'
    healed: bool = False

ARMS = {'q4_k_m': Arm(), 'q3_k_m': Arm(type='q3_k_m'), 'q2_k': Arm(type='q2_k'), 'cut-1': Arm(n=1), 'cut-2': Arm(n=2),
        'cut-4': Arm(n=4), 'answers-2': Arm(n=2, by='answers'), 'healed-2': Arm(n=2, healed=True),
        'cut-2-q3_k_m': Arm(type='q3_k_m', n=2), '0.5b-q4_k_m': Arm(SMALL), '0.5b-q8_0': Arm(SMALL, 'q8_0')}

def dropped(arm, model, answers_cut):
    "The layers that go"
    if arm.by == 'answers': return list(as_plan(answers_cut, model_size(model).depth).layers)
    return list(LayerDistances.load(RESULTS/model).best_block(arm.n).layers) if arm.n else []

def healed(model, layers, out, work, steps, dtype):
    "The checkpoint `out` of a model without these layers, healed as experiment M's self-top-2"
    (parent, tok), like = load_model(model, dtype=dtype), FIRST['self-top-2']
    said = load_texts(RESULTS/'abilities_answers.jsonl')
    texts = [o for o, d in zip(said, documents(said, tok, 10**6)) if len(d.ids) <= 512][:steps and 8]
    recipe = HealingConfig(steps=1, batch_size=2, max_length=512, learning_rate=like.rate, packing='packed',
                           seed=like.seed, objective=like.objective)
    mean = training_rows(tok, documents(texts, tok, 512), recipe).lengths.mean()
    recipe = recipe.replace(steps=steps or round(TOKENS / (recipe.batch_size * mean)))
    done = heal(prune_model(parent, layers), tok, texts, recipe, work/'healing', teacher=parent, resume=True,
                teacher_folder=work/'teacher')
    save_pruned(done.model, tok, out)

def make(name, arm, model, layers, work, smoke, dtype):
    "The file of an arm, and what is known of it"
    file = work/f'{name}.gguf'
    if file.exists(): return file
    with tempfile.TemporaryDirectory(dir=work) as tmp:
        folder = parent = checkpoint_folder(model)
        if layers: folder = Path(tmp)/'cut'
        if arm.healed: healed(model, layers, folder, work, 2 if smoke else None, dtype)
        elif layers: prune_checkpoint(parent, folder, layers, progress=False)
        cache = model_size(str(folder)).cache
        quantize(to_gguf(folder, Path(tmp)/'f16.gguf', 'f16'), made := Path(tmp)/'made.gguf', arm.type)
        bits, stored = stored_types(made)
        about = dict(arm=name, model=model, type=arm.type, dropped=' '.join(map(str, layers)), bits=round(bits, 3),
                     bytes=made.stat().st_size, kv_bytes_a_token=2 * sum(n for n, _ in cache),
                     stored=' '.join(f'{k} {v:.3f}' for k, v in stored.items()))
        (work/f'{name}.json').write_text(json.dumps(about) + '\n')
        made.rename(file)
    print(f'{name}: {about["bytes"]:,} bytes', flush=True)
    return file

def write(file, model, task, items, smoke):
    "Answers of a file to some problems, and whether each is right"
    folder, tok = checkpoint_folder(model), load_tokenizer(model)
    config = folder/'generation_config.json'
    ends = read_json(config).get('eos_token_id') if config.is_file() else None
    found = llama_replies(file, tok, [task.prompt(o) for o in items], 48 if smoke else NEW, SEQUENCES, chat=True,
                          stop=task.stop, ends=ends)
    return [dict(right=int(same_number(o.text, item)), written=o.text, tokens=o.tokens)
            for o, item in zip(found, items)]

def answer(name, file, model, work, smoke, task):
    "The written answers of an arm, a line a problem; those that are there stay"
    place, part = work/f'{name}.jsonl', 2 if smoke else PART
    there = len(place.read_text().splitlines()) if place.exists() else 0
    for start in range(there, len(task.items), part):
        items = task.items[start:start + part]
        rows = [dict(arm=name, task=GSM8K, item=start + i) | o
                for i, o in enumerate(write(file, model, task, items, smoke))]
        old = place.read_text() if place.exists() else ''
        atomic_write(place, old + ''.join(json.dumps(o) + '\n' for o in rows))
        print(f'{name}: {start + len(items)} of {len(task.items)} problems', flush=True)

def verify(name, file, model, task, n, table, smoke):
    """Writes `n` answers of an arm anew, drawn at random from a table. Are as many right or wrong as there, if two
    instruction sets differ as often as the upper end of what was measured, 3 of 40? No, if the chance is below 1 %"""
    two = (pd.read_parquet(RESULTS/f'should_you{o}.parquet').query('arm == "q4_k_m"').set_index('item').right
           for o in ('', '_avx2'))
    apart = (next(two) - next(two)).dropna()
    share = wilson(int(apart.ne(0).sum()), len(apart))[1]
    kept = table[(table.arm == name) & (table.task == GSM8K)].set_index('item').right
    at = np.random.default_rng().choice(kept.index, min(n, len(kept)), replace=False)
    again = [o['right'] for o in write(file, model, task, [task.items[i] for i in at], smoke)]
    other = int((kept[at].to_numpy() != again).sum())
    chance = binom.sf(other - 1, len(at), share)
    print(f'{name}: {len(at) - other} of {len(at)} as in the table, problems {sorted(map(int, at))}: '
          + ('confirmed' if chance >= .01 else f'not confirmed (so many others have a chance of {chance:.2g})'))
    return chance >= .01

def score(name, file, tasks, work, smoke):
    "The scores of an arm's weights by transformers, a file a task; those that are there stay"
    place = work/'scores'/name
    kept = {load_score(o).task for o in place.glob('*.json')}
    if not (left := [o for o in tasks if o in PLAIN and o not in kept]): return
    place.mkdir(parents=True, exist_ok=True)
    model, tok = load_model(str(file))
    for o in left: print(name, evaluate(model, tok, [o], n_questions=4 if smoke else PLAIN[o], save=place), flush=True)

def speeds(work, smoke):
    "Runs of all files in turn, in one table"
    files = [o for k in ARMS if (o := work/f'{k}.gguf').exists()]
    runs = [(dict(arm=o.stem), in_llama_cpp, o) for o in files]
    how = dict(rounds=2, prompt=16, generate=4, context=256) if smoke else dict(rounds=5, prompt=512, generate=64,
                                                                                context=4096)
    pd.DataFrame(alternate(runs, **how)).to_csv(work/'speed.csv', index=False)

def publish(work, out):
    "All rows in OUT.parquet, and a line an arm in OUT.csv"
    tables, lines = [], []
    runs = pd.read_csv(work/'speed.csv') if (work/'speed.csv').exists() else pd.DataFrame(columns=['arm'])
    for name in [o for o in ARMS if (work/f'{o}.json').exists()]:
        line, own = read_json(work/f'{name}.json'), runs[runs.arm == name]
        if len(own):
            line['memory_mb'] = round(own.peak_mb.max(), 1)
            for k in ('prompt', 'generate'):
                line[f'{k}_per_second'] = round(own[k].median(), 2)
                line[f'{k}_runs'] = ' '.join(f'{o:.2f}' for o in own[k])
        if (said := work/f'{name}.jsonl').exists():
            tables.append(pd.DataFrame([json.loads(o) for o in said.read_text().splitlines()]))
            line |= dict(problems=len(tables[-1]), right=int(tables[-1].right.sum()))
        for s in map(load_score, sorted((work/'scores'/name).glob('*.json'))):
            tables.append(pd.DataFrame(dict(arm=name, task=s.task, item=range(s.n), right=np.asarray(s.right, int),
                                            written=None, tokens=None)))
        lines.append(line)
    if not tables: raise SystemExit(f'{work} has no answers yet. Make some arms first.')
    table = pd.concat(tables, ignore_index=True).astype(dict(tokens='Int64', written='string'))
    atomic_write(out.with_suffix('.parquet'), table.to_parquet(index=False, compression='zstd', compression_level=15))
    atomic_write(out.with_suffix('.csv'), pd.DataFrame(lines).to_csv(index=False))

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='+', metavar='ARM', default=list(ARMS), help='these arms')
    p.add_argument('--tasks', nargs='+', metavar='TASK', default=[GSM8K], help='these scores')
    p.add_argument('--answers-cut', metavar='LAYERS', help='the two layers that own answers chose, such as 2,12')
    p.add_argument('--speed', action='store_true', help='tokens a second of all files that are there, in turn')
    p.add_argument('--verify', type=int, metavar='N', help='write N published answers of each arm anew, and compare')
    p.add_argument('--publish', action='store_true', help='write the tables in nbs/results')
    p.add_argument('--list', action='store_true', help='show the arms, and what is there')
    p.add_argument('--smoke', action='store_true', help='a few problems and tokens, the demo model')
    p.add_argument('--dtype', default='bfloat16', help='of healing; float32 where 16 bits are slow')
    p.add_argument('--work', type=Path, help='where files and answers are kept (default: should-you-work)')
    args = p.parse_args(argv)
    work = args.work or Path('should-you-smoke' if args.smoke else 'should-you-work')
    if odd := set(args.only) - {*ARMS}: p.error(f'no arms {sorted(odd)}; there are {", ".join(ARMS)}')
    if odd := set(args.tasks) - {GSM8K, *PLAIN}: p.error(f'no scores {sorted(odd)}; there are {[GSM8K, *PLAIN]}')
    if args.verify:
        table = pd.read_parquet((work if args.smoke else RESULTS)/'should_you.parquet')
        args.only = [o for o in args.only if (table.arm == o).any()]
    if args.list:
        for name in ARMS:
            said, scores = work/f'{name}.jsonl', len(list((work/'scores'/name).glob('*.json')))
            n = len(said.read_text().splitlines()) if said.exists() else 0
            there = 'file' if (work/f'{name}.gguf').exists() else 'no file'
            print(f'{name}: {there}, {n} answers, {scores} scores')
        return
    if args.speed: return speeds(work, args.smoke)
    if args.publish: return publish(work, work/'should_you' if args.smoke else RESULTS/'should_you')
    cut = args.answers_cut or ('2,12' if args.smoke else None)
    if not cut and any(ARMS[o].by == 'answers' and not (work/f'{o}.gguf').exists() for o in args.only):
        p.error('answers-2 drops the layers that experiment O chose: give them (--answers-cut), or other arms (--only)')
    work.mkdir(parents=True, exist_ok=True)
    task, sound = ready_tasks(GSM8K, 3 if args.smoke else PROBLEMS)[GSM8K], []
    for name in args.only:
        arm = ARMS[name]
        model = 'demo' if args.smoke else arm.model
        layers = dropped(arm, model, cut) if not (work/f'{name}.gguf').exists() else []
        file = make(name, arm, model, layers, work, args.smoke, args.dtype)
        if args.verify:
            sound.append(verify(name, file, model, task, args.verify, table, args.smoke))
            continue
        if GSM8K in args.tasks: answer(name, file, model, work, args.smoke, task)
        score(name, file, args.tasks, work, args.smoke)
    return int(not all(sound))

if __name__ == '__main__': raise SystemExit(main())
