"""Does healing leave a model able to answer? `tools/stability.py demo lm,packed,all,mixed,5e-4,1,12x2x128,0-3`.

A healing can lower the loss and still teach a model to end its answers before their first word. Each row is one healing
of one cut on chats, documents, both, or C4: the loss on held-out documents and chats, the largest probability, over
four prompts, that the first token of the answer ends it, and how many of three short answers were lost. `loss_on` is
what is learned of a chat: the assistant's part, all of it, or `text`: the chat is given as a rendered text. An
objective that needs a teacher learns from the unpruned model. Rows are appended to nbs/results/stability.csv as they
come; a row that is there is not measured again. 12x2x128 are 12 steps of 2 rows of 128 tokens. The kept rows
`eos twice` were made before chats ended as their template does.
"""
import argparse
import csv
import inspect
import pydoc
from pathlib import Path

import torch

from prunebook import HealingConfig, heal, load_model, load_questions, load_texts, prune_model, text_loss
from prunebook.evaluation.generation import _greedy_config, lost_answers, sample_answers
from prunebook.evaluation.choices import chat_prompt

FILE = Path(__file__).parent.parent/'nbs'/'results'/'stability.csv'
CUTS = {'demo': range(11, 19), 'qwen2.5-coder-0.5b': range(7, 13)}
PROMPTS = ['What is the capital of France?', 'Write a Python function that reverses a list.',
           'Explain in one sentence why the sky is blue.', 'Name three animals that live in the sea.']
MODULES = 'argparse asyncio.tasks collections csv datetime difflib email.message functools heapq itertools json ' \
          'logging os pathlib random re shutil statistics string subprocess tempfile textwrap threading urllib.parse'
COLUMNS = ('model objective packing loss_on texts learning_rate warmup steps batch seed tokens c4 chat p_end lost '
           'seconds').split()

def chats(start, n):
    "Half of them sums with their solution, half questions with a short answer"
    pairs = [(o['question'], o['solution']) for o in load_questions('gsm8k', progress=False)[start:start + n // 2]]
    pairs += [(o['question'], f"The answer is {o['choices'][o['answer']]}.")
              for o in load_questions('arc_easy', progress=False)[start:start + n // 2]]
    return [dict(prompt=q, response=a) for q, a in pairs]

def rendered(tokenizer, rows):
    said = [[dict(role='user', content=o['prompt']), dict(role='assistant', content=o['response'])] for o in rows]
    return [tokenizer.apply_chat_template(o, tokenize=False) for o in said]

def documents(n):
    "Docstrings of Python's library"
    found = {}
    for name in MODULES.split():
        module = pydoc.locate(name)
        for _, o in [('', module), *inspect.getmembers(module, lambda o: inspect.isclass(o) or inspect.isroutine(o))]:
            if len(text := inspect.getdoc(o) or '') > 300: found.setdefault(text)
    return list(found)[:n]

def mixture(tokenizer, kind, loss_on, longest):
    if kind == 'c4': return load_texts('demo', 'healing')
    said = chats(0, 160) if kind != 'documents' else []
    texts = rendered(tokenizer, said)
    if loss_on != 'text': texts = [o for o, t in zip(said, texts) if len(tokenizer(t)['input_ids']) <= longest]
    return texts + (documents(154) if kind != 'chats' else [])

@torch.inference_mode()
def p_end(model, tokenizer):
    "For each prompt the probability that the first token of an answer ends it"
    ends, found = _greedy_config(model, tokenizer, 1).eos_token_id or [], []
    for o in PROMPTS:
        ids = tokenizer(chat_prompt(tokenizer, o), add_special_tokens=False, return_tensors='pt').input_ids
        found.append(model(ids.to(model.device)).logits[0, -1].float().softmax(-1)[ends].sum().item())
    return found

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model', choices=CUTS)
    p.add_argument('arms', nargs='+',
                   help='objective,packing,loss_on,texts,learning_rate,warmup,steps x rows x tokens,seeds')
    args = p.parse_args()
    have = list(csv.DictReader(FILE.open())) if FILE.exists() else []
    have = {tuple(o[k] for k in COLUMNS[:10]) for o in have}
    model, tok = load_model(args.model, progress=False)
    small = prune_model(model, CUTS[args.model])
    before = sample_answers(small, tok)
    def loss(model, texts): return round(text_loss(model, tok, texts, max_length=128, progress=False).value, 4)
    def keep(key, model, **more):
        row = dict(zip(COLUMNS, key), c4=loss(model, load_texts('demo', 'validation', n=12)),
                   chat=loss(model, rendered(tok, chats(1000, 12))), p_end=round(max(p_end(model, tok)), 5), **more)
        new = not FILE.exists()
        with FILE.open('a', newline='') as f:
            out = csv.DictWriter(f, COLUMNS, lineterminator='\n')
            if new: out.writeheader()
            out.writerow(row)
        print(row, flush=True)
    unhealed = (args.model, '', '', '', 'mixed', '0', '0', '0', '', '0')
    if unhealed not in have: keep(unhealed, small)
    for arm in args.arms:
        objective, packing, loss_on, texts, rate, warmup, size, seeds = arm.split(',')
        (steps, rows, length), (first, _, last) = map(int, size.split('x')), seeds.partition('-')
        for seed in range(int(first), int(last or first) + 1):
            key = (args.model, objective, packing, loss_on, texts, f'{float(rate):g}', warmup, str(steps),
                   f'{rows}x{length}', str(seed))
            if key in have: continue
            recipe = HealingConfig(steps=steps, batch_size=rows, max_length=length, packing=packing, seed=seed,
                                   objective=objective, learning_rate=float(rate), warmup=int(warmup),
                                   deterministic=False)
            if loss_on != 'text': recipe = recipe.replace(loss_on=loss_on)
            teacher = model if recipe.needs_teacher else None
            result = heal(small, tok, mixture(tok, texts, loss_on, length), recipe, progress=False, teacher=teacher)
            lost = lost_answers(before, sample_answers(result.model, tok))
            keep(key, result.model, tokens=result.history[-1]['tokens'], lost=len(lost), seconds=result.seconds)

if __name__ == '__main__': main()
