"""Does healing leave a model able to answer? `python tools/stability.py demo packed,mixed,5e-4,1,12,0-3` measures.

A healing can lower the loss and still teach a model to end its answers before their first word. Each row is one healing
of one cut on chats, documents, or both: the loss on held-out documents and chats, and the largest probability, over
four prompts, that the first token of the answer ends it. Rows are appended to nbs/results/stability.csv as they come; a
row that is there is not measured again. The kept rows `eos twice` were made before chats ended as their template does.
"""
import argparse
import csv
import inspect
import pydoc
from pathlib import Path

import torch

from prunebook import HealingConfig, heal, load_model, load_questions, load_texts, prune_model, text_loss
from prunebook.evaluation.generation import _end_tokens
from prunebook.evaluation.losses import _chat_prompt

FILE = Path(__file__).parent.parent/'nbs'/'results'/'stability.csv'
CUTS = {'demo': range(11, 19), 'qwen2.5-coder-0.5b': range(7, 13)}
PROMPTS = ['What is the capital of France?', 'Write a Python function that reverses a list.',
           'Explain in one sentence why the sky is blue.', 'Name three animals that live in the sea.']
MODULES = 'argparse asyncio.tasks collections csv datetime difflib email.message functools heapq itertools json ' \
          'logging os pathlib random re shutil statistics string subprocess tempfile textwrap threading urllib.parse'
BASE = HealingConfig(steps=12, batch_size=2, max_length=128, packing='packed', deterministic=False)
COLUMNS = 'model packing texts learning_rate warmup steps seed tokens c4 chat p_end'.split()

def chats(tokenizer, start, n):
    "Half of them sums with their solution, half questions with a short answer, as the chat template renders them"
    pairs = [(o['question'], o['solution']) for o in load_questions('gsm8k', progress=False)[start:start + n // 2]]
    pairs += [(o['question'], f"The answer is {o['choices'][o['answer']]}.")
              for o in load_questions('arc_easy', progress=False)[start:start + n // 2]]
    said = [[dict(role='user', content=q), dict(role='assistant', content=a)] for q, a in pairs]
    return [tokenizer.apply_chat_template(o, tokenize=False) for o in said]

def documents(n):
    "Docstrings of Python's library"
    found = {}
    for name in MODULES.split():
        module = pydoc.locate(name)
        for _, o in [('', module), *inspect.getmembers(module, lambda o: inspect.isclass(o) or inspect.isroutine(o))]:
            if len(text := inspect.getdoc(o) or '') > 300: found.setdefault(text)
    return list(found)[:n]

def mixture(tokenizer, kind):
    if kind == 'c4': return load_texts('demo', 'healing')
    return (chats(tokenizer, 0, 160) if kind != 'documents' else []) + (documents(154) if kind != 'chats' else [])

@torch.inference_mode()
def p_end(model, tokenizer):
    "For each prompt the probability that the first token of an answer ends it"
    ends, found = _end_tokens(model, tokenizer), []
    for o in PROMPTS:
        ids = tokenizer(_chat_prompt(tokenizer, o), add_special_tokens=False, return_tensors='pt').input_ids
        found.append(model(ids.to(model.device)).logits[0, -1].float().softmax(-1)[ends].sum().item())
    return found

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model', choices=CUTS)
    p.add_argument('arms', nargs='+', help='packing,texts,learning_rate,warmup,steps,seeds: no step is no healing')
    args = p.parse_args()
    have = list(csv.DictReader(FILE.open())) if FILE.exists() else []
    have = {tuple(o[k] for k in COLUMNS[:7]) for o in have}
    model, tok = load_model(args.model, progress=False)
    small = prune_model(model, CUTS[args.model])
    def loss(model, texts): return round(text_loss(model, tok, texts, max_length=128, progress=False).value, 4)
    for arm in args.arms:
        packing, texts, rate, warmup, steps, seeds = arm.split(',')
        first, _, last = seeds.partition('-')
        for seed in range(int(first), int(last or first) + 1):
            key = (args.model, packing, texts, f'{float(rate):g}', warmup, steps, str(seed))
            if key in have: continue
            healed, tokens = small, 0
            if int(steps):
                recipe = BASE.replace(packing=packing, learning_rate=float(rate), warmup=int(warmup), steps=int(steps),
                                      seed=seed)
                result = heal(small, tok, mixture(tok, texts), recipe, progress=False)
                healed, tokens = result.model, result.history[-1]['tokens']
            row = dict(zip(COLUMNS, key), tokens=tokens, c4=loss(healed, load_texts('demo', 'validation', n=12)),
                       chat=loss(healed, chats(tok, 1000, 12)), p_end=round(max(p_end(healed, tok)), 5))
            new = not FILE.exists()
            with FILE.open('a', newline='') as f:
                out = csv.DictWriter(f, COLUMNS)
                if new: out.writeheader()
                out.writerow(row)
            print(row, flush=True)

if __name__ == '__main__': main()
