"""Healing: packing, a plain Trainer script, memory, and every method at equal tokens.

On an idle machine; writes nbs/results."""
import json, os, platform, statistics, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path
import numpy as np
import pandas as pd
import torch, transformers
from transformers import Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model
from measured import measured, processor
from prunebook.healing import packing
from prunebook.healing.trainer import CausalLMLoss
from prunebook.data.texts import load_texts
from prunebook.estimates import model_size, peak_gb
from prunebook.healing.healing import heal
from prunebook.model.loading import load_model
from prunebook.pruning.strategies import prune_model
from prunebook.healing.recipes import QUICK, HealingConfig, frozen_copy
from unittest import mock
from prunebook.model.stack import Block, LayerStack

os.chdir(Path(__file__).parents[2]/'nbs/reference')

results = Path('../results/healing_benchmarks.json')

def conditions():
    "The machine and the versions"
    return dict(processor=processor(), threads=torch.get_num_threads(), python=platform.python_version(),
                torch=torch.__version__, transformers=transformers.__version__, date=time.strftime('%Y-%m-%d'))

def keep(name, **values):
    "Add a result to the file, with its conditions and the code that is timed"
    old = json.loads(results.read_text()) if results.exists() else {}
    about = dict(conditions=conditions()) | measured('healing/healing')
    results.write_text(json.dumps(old | {name: values | about}, indent=1) + '\n')

def say(name, text): print(text.format(**json.loads(results.read_text())[name]))

def in_turns(runs=5, **fs):
    "What each of `fs` returns for the number of the round, after one round that does not count; the order alternates"
    got = {k: [] for k in fs}
    for i in range(runs + 1):
        for k in (list(fs) if i % 2 else list(fs)[::-1]):
            out = fs[k](i)
            if i: got[k].append(out)
    return got

model, tok = load_model('demo')
pruned = prune_model(model, Block(11, 8))
texts = load_texts('demo', split='healing')

def wide_collate(rows, width=None, **kw):
    "`packing.collate`, padded to `width`: an empty row of this width makes all others as wide, and is taken off again"
    if not width: return collate(rows, **kw)
    empty = dict(ids=np.zeros(width, np.int32), pos=np.zeros(width, np.int32))
    return {k: v[:-1] for k, v in collate([*rows, empty], **kw).items()}

def rate(seed, how, width=None):
    "Real tokens a second of one step"
    cfg = HealingConfig(steps=1, warmup=0, batch_size=1 if how == 'chunk' else 4, max_length=2048,
                        packing=how, seed=seed)
    packing.collate = partial(wide_collate, width=width)
    try: result = heal(pruned, tok, texts, cfg, progress=False)
    finally: packing.collate = collate
    return result.history[-1]['tokens'] / result.seconds

collate = packing.collate
r = in_turns(maximum=lambda i: rate(i, 'none', 2048), longest=lambda i: rate(i, 'none'),
             chunk=lambda i: rate(i, 'chunk'))
med = {k: statistics.median(v) for k, v in r.items()}
keep('packing', ratio_maximum=med['chunk'] / med['maximum'], ratio_longest=med['chunk'] / med['longest'],
     real_tokens_per_second=r, rows=4, max_length=2048)

cfg = HealingConfig(steps=3, batch_size=4, max_length=512, deterministic=False)
rows = packing.training_rows(tok, texts, cfg)

class InOrder(Trainer):
    def _get_train_sampler(self, *args): return torch.utils.data.SequentialSampler(self.train_dataset)

def plain(i):
    "Seconds of the training"
    lora = LoraConfig(r=64, lora_alpha=64, lora_dropout=.05, target_modules=['gate_proj', 'up_proj', 'down_proj'],
                      task_type='CAUSAL_LM')
    args = TrainingArguments(
        output_dir=tempfile.gettempdir(), max_steps=3, per_device_train_batch_size=4, learning_rate=3e-4,
        lr_scheduler_type='cosine', bf16=True, use_cpu=True, seed=0, logging_steps=1, save_strategy='no',
        disable_tqdm=True, report_to=[], remove_unused_columns=False, dataloader_pin_memory=False)
    trainer = InOrder(model=get_peft_model(frozen_copy(pruned), lora), args=args, train_dataset=rows,
                      data_collator=partial(packing.collate, pad_id=tok.pad_token_id))
    trainer.remove_callback(transformers.PrinterCallback)
    start = time.time()
    trainer.train()
    return time.time() - start

t = in_turns(ours=lambda i: heal(pruned, tok, texts, cfg, progress=False).seconds, plain=plain)
ratio = statistics.median(a / b for a, b in zip(t['plain'], t['ours']))
keep('plain Trainer + peft / ours', ratio=ratio, seconds=t, steps=3, batch_size=4, max_length=512)

short = HealingConfig(steps=2, batch_size=2, max_length=128, bits=32, deterministic=False)
few_rows, frozen = packing.training_rows(tok, texts, short), frozen_copy(pruned, 32)
bare = CausalLMLoss(frozen, LayerStack(frozen))
steps = [packing.collate([few_rows[2 * s + k] for k in range(2)], pad_id=tok.pad_token_id) for s in range(2)]

def forward(i):
    "CPU seconds of one forward pass of all rows"
    start = time.process_time()
    with torch.no_grad():
        for o in steps: bare(**o)
    return time.process_time() - start

def healing(i):
    "CPU seconds of a training on them"
    with mock.patch.object(time, 'time', time.process_time):
        return heal(pruned, tok, texts, short, progress=False).seconds

t = in_turns(2, heal=healing, forward=forward)
ratio = statistics.median(a / b for a, b in zip(t['heal'], t['forward']))
real = sum(int((o['labels'] != -100).sum()) + 2 for o in steps)  # the first token of a row is not predicted
keep('healing / forward passes', ratio_of_three=3 / ratio, ratio_of_two=2 / ratio, forwards=ratio, seconds=t,
     tokens_per_second=real / statistics.median(t['heal']), steps=2, batch_size=2, max_length=128)

def seconds(adapt): return heal(pruned, tok, texts, cfg.replace(adapt=adapt), progress=False).seconds
t = in_turns(**{a: (lambda i, a=a: seconds(a)) for a in ('all', 'near_cut', 'after_cut')})
ratios = {f'ratio_{a}': statistics.median(x / y for x, y in zip(t[a], t['all'])) for a in ('near_cut', 'after_cut')}
keep('adapt: seconds beside all', **ratios, seconds=t, steps=3, batch_size=4, max_length=512)

memory_script = '''
import json, sys
from prunebook.data.texts import load_texts
from prunebook.healing.healing import heal
from prunebook.model.loading import load_model
from prunebook.pruning.strategies import prune_model
from prunebook.healing.recipes import QUICK
from prunebook.model.stack import LayerStack
name, budget = sys.argv[1], json.loads(sys.argv[2])
model, tok = load_model(name)
pruned = prune_model(model, [len(LayerStack(model)) - 2])
recipe = QUICK.replace(steps=2, batch_tokens=budget)
result = heal(pruned, tok, load_texts('demo', split='healing'), recipe, progress=False)
peak = next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM')) * 1024 / 1e9
losses = [round(o['loss'], 4) for o in result.history]
print(json.dumps(dict(gb=round(peak, 2), dtype=str(model.dtype)[6:], seconds=result.seconds, losses=losses)))
'''

def peak_of(name, budget):
    "Peak of the memory of healing in a process of its own, and what the estimate says"
    command = [sys.executable, '-c', memory_script, name, json.dumps(budget)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    estimate = peak_gb(model_size(name), 'heal', recipe=QUICK.replace(steps=2, batch_tokens=budget))
    return json.loads(out.splitlines()[-1]) | dict(estimated_gb=round(estimate, 2))

name = 'qwen2.5-coder-1.5b'
keep('memory', model=name, steps=2, batch_size=4, max_length=256, removed_layers=1,
     whole_step=peak_of(name, None), batch_tokens_256=peak_of(name, 256))

tokens = 12_288
methods = dict(
    padded=dict(packing='none'), packed={}, packed_3=dict(batch_size=3, steps=tokens // (3 * 256)),
    near_cut=dict(adapt='near_cut'), after_cut=dict(adapt='after_cut'), distill=dict(objective='distill'),
    head_and_last=dict(method='head_and_last', learning_rate=1e-4), nothing=None)
blocks = dict(none=-1, similarity=11, simple=21)

script = '''
import json, sys, time, torch
import numpy as np
from prunebook.data.texts import load_texts
from prunebook.evaluation.losses import text_loss
from prunebook.healing.healing import heal
from prunebook.healing.recipes import QUICK
from prunebook.model.loading import load_model
from prunebook.pruning.strategies import prune_model
from prunebook.model.stack import Block
from prunebook.healing.packing import training_rows
start, tokens, seed, changes = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
model, tok = load_model('demo')
for p in model.parameters(): p.abs().max()  # weights are mapped from the file: have all of them in memory first
texts = load_texts('demo', split='healing')

def report(model, **values):
    s = text_loss(model, tok, load_texts('demo', split='validation', n=32), progress=False)
    print(json.dumps(values | dict(loss=s.value, sums=[round(o, 2) for o in s.sums], counts=s.counts)))
    sys.exit()

if changes is None:  # no healing: the unpruned model, or the pruned one
    report(model if start < 0 else prune_model(model, Block(start, 8)), tokens=0, seconds=0., memory=0.)
pruned = prune_model(model, Block(start, 8))
cfg = QUICK.replace(**dict(dict(steps=tokens // 1024, seed=seed), **changes))
if cfg.packing == 'none':  # as many steps as make the same number of real tokens
    rows = training_rows(tok, texts, cfg.replace(steps=1000))
    real = rows.lengths[rows.order].reshape(-1, 4).sum(1).cumsum()
    cfg = cfg.replace(steps=int((real < tokens).sum()) + 1)
read = lambda key: next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith(key))
open('/proc/self/clear_refs', 'w').write('5')
before = read('VmRSS')
result = heal(pruned, tok, texts, cfg, progress=False, teacher=model)
memory = (read('VmHWM') - before) / 1024
report(result.model, tokens=result.history[-1]['tokens'], seconds=result.seconds, memory=memory)
'''

path = Path('../results/healing_methods.csv')
done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=['strategy', 'method', 'seed'])

def row_of(strategy, start, name, changes, seed):
    "Run one method in a process of its own"
    args = [str(start), str(tokens), str(seed), json.dumps(changes)]
    out = subprocess.run([sys.executable, '-c', script, *args], capture_output=True, text=True, check=True).stdout
    plain = lambda v: round(v, 4) if isinstance(v, float) else json.dumps(v) if isinstance(v, list) else v
    found = {k: plain(v) for k, v in json.loads(out.splitlines()[-1]).items()}
    return dict(strategy=strategy, method=name, seed=seed) | found

for seed in range(3):
    for strategy, start in blocks.items():
        for name, changes in methods.items():
            if ((done.strategy == strategy) & (done.method == name) & (done.seed == seed)).any(): continue
            fixed = seed and changes is None  # nothing is drawn at random
            if fixed or start < 0 and changes is not None: continue
            done = pd.concat([done, pd.DataFrame([row_of(strategy, start, name, changes, seed)])], ignore_index=True)
            done.to_csv(path, index=False)
