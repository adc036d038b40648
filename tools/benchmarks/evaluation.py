"""How much time shared computation saves in evaluation and sweeps.

On an idle machine, with lm-eval installed; writes nbs/results."""
import os
import json
from pathlib import Path
import statistics, time
from importlib.metadata import version
import numpy as np
import torch
from prunebook.data.questions import load_questions
from prunebook.data.texts import load_texts
from prunebook.evaluation.choices import choice_accuracy
from prunebook.evaluation.losses import text_loss
from prunebook.evaluation.generation import _greedy_config, write_replies
from prunebook.evaluation.choices import _answers, _in_words, chat_prompt, choose_examples, prompt
from prunebook.evaluation.tasks import TASKS
from prunebook.evaluation.losses import cut_losses
from prunebook.evaluation.losses import share_prefixes
from prunebook.model.loading import load_model
from prunebook.evaluation.scores import versions
from prunebook.similarity.distances import layer_distances
from prunebook.model.stack import LayerStack
from measured import measured, processor
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

os.chdir(Path(__file__).parents[2]/'nbs/reference')

def kept(name): return json.loads(Path(f'../results/{name}.json').read_text())

def clock(f):
    "The result of `f`, and its seconds"
    start = time.perf_counter()
    found = f()
    return found, time.perf_counter() - start

def cpu_clock(f):
    "The result of `f`, and its CPU seconds"
    start = time.process_time()
    found = f()
    return found, time.process_time() - start

def alternate(first, second, times=5):
    "Median seconds of both, in turns, after one run of each that does not count"
    first(), second()
    pairs = [(clock(first)[1], clock(second)[1]) for _ in range(times)]
    medians = [statistics.median(o) for o in (*zip(*pairs), [a / b for a, b in pairs])]
    return dict(zip(('first', 'second', 'ratio'), (round(o, 2) for o in medians))) | dict(runs=times)

def keep(name, result, dtype='bfloat16', code='evaluation/choices'):
    "Into nbs/results, with the conditions and the `code` that is timed"
    about = dict(processor=processor(), threads=torch.get_num_threads(), versions=versions(), dtype=dtype)
    result = result | about | measured(code)
    Path(f'../results/{name}.json').write_text(json.dumps(result, indent=1) + '\n')
    return result

model, tok = load_model('demo')
stack, depth = LayerStack(model), 30

dist = layer_distances(model, tok, load_texts('demo', n=16), max_length=256, progress=False)
drops = [[]] + [list(dist.best_block(n)) for n in range(1, depth)]
drops += [list(range(depth - 1 - n, depth - 1)) for n in range(1, depth)]
keeps = [[l for l in range(depth) if l not in d] for d in drops]
texts = [t for t in load_texts('demo', split='validation') if len(t) > 1000][:2]

def plain():
    for k in keeps:
        with stack.view(k) as small: text_loss(small, tok, texts, max_length=128, progress=False)
def shared(): return cut_losses(model, tok, texts, keeps, max_length=128, progress=False)
applications = dict(layers_plain=sum(map(len, keeps)), layers_shared=sum(o.applications for o in share_prefixes(keeps)))
ratio = round(applications['layers_plain'] / applications['layers_shared'], 2)
keep('sharing', applications | dict(layers_ratio=ratio, documents=2, tokens=256) | alternate(plain, shared),
     code='evaluation/losses')

items = load_questions('arc_easy', n=240)
lm = HFLM(pretrained=model, tokenizer=tok, batch_size=32)
def harness():
    pairs = [(o, (prompt(o), ' ' + c), j) for o in items for j, c in enumerate(_answers(o))]
    return lm.loglikelihood([Instance('loglikelihood', *o) for o in pairs], disable_tqdm=True)
def ours(): return choice_accuracy(model, tok, items, progress=False)
about = dict(items=len(items), task='arc_easy', harness=version('lm-eval'))
keep('choice_speed', about | alternate(harness, ours))

dev, test = load_questions('mmlu', split='dev'), load_questions('mmlu')
subjects, per_subject = ['anatomy', 'sociology'], 40
qwen, qwen_tok = load_model('qwen2.5-coder-0.5b')

def requests(items):
    "The harness's requests for five-shot questions"
    worded = [_in_words(o, choose_examples(o, dev, 5, None), "letter") for o in items]
    return [Instance('loglikelihood', o, (front + text, ' ' + c), j)
            for o, (front, pairs) in zip(items, worded) for j, (text, c) in enumerate(pairs)]

def harness_mmlu(items, size):
    lm = HFLM(pretrained=qwen, tokenizer=qwen_tok, batch_size=size)
    found = [o[0] for o in lm.loglikelihood(requests(items), disable_tqdm=True)]
    return [found[i:i + 4] for i in range(0, len(found), 4)]

def our_mmlu(items): return choice_accuracy(qwen, qwen_tok, items, 'letter', 5, dev, seed=None, progress=False)

size, rows, same, largest = 4, [], 0, 0.  # the fastest of 1, 4 and 16 on the demo model
for s in subjects:
    items = [o for o in test if o['subject'] == s][:per_subject]
    score, b = cpu_clock(lambda: our_mmlu(items))
    theirs, a = cpu_clock(lambda: harness_mmlu(items, size))
    same += sum(int(x) == y for x, y in zip(map(np.argmax, theirs), score.picked))
    largest = max(largest, *(abs(x - y) for p, q in zip(theirs, score.logprobs) for x, y in zip(p, q)))
    rows.append(dict(subject=s, items=len(items), harness=round(a, 2), ours=round(b, 2), ratio=round(a / b, 2)))
total = [round(sum(o[k] for o in rows), 1) for k in ('harness', 'ours')]
mmlu = keep('mmlu_speed', dict(
    task='mmlu, 5-shot', model='qwen2.5-coder-0.5b', clock='CPU seconds', items=sum(o['items'] for o in rows),
    first=total[0], second=total[1], ratio=round(total[0] / total[1], 2), batch_size=size, same_answers=same,
    largest_difference=round(largest, 3), harness=version('lm-eval'), rows=rows))

subjects = ('anatomy clinical_knowledge global_facts high_school_geography human_aging management marketing nutrition '
            'sociology world_religions').split()
file = Path('../results/mmlu_same.json')
rows = json.loads(file.read_text()).get('rows', []) if file.exists() else []
qwen, qwen_tok = load_model('qwen2.5-coder-0.5b', dtype='float32')
for s in [o for o in subjects if o not in {r['subject'] for r in rows}]:
    items = [o for o in test if o['subject'] == s][:52]
    score, theirs = our_mmlu(items), harness_mmlu(items, size=4)
    gaps = [abs(x - y) for p, q in zip(theirs, score.logprobs) for x, y in zip(p, q)]
    equal = sum(int(x) == y for x, y in zip(map(np.argmax, theirs), score.picked))
    rows.append(dict(subject=s, items=len(items), same_answers=equal, largest_difference=round(max(gaps), 6)))
    total = {k: sum(r[k] for r in rows) for k in ('items', 'same_answers')}
    keep('mmlu_same', dict(task='mmlu, 5-shot', model='qwen2.5-coder-0.5b', subjects=len(rows), **total,
                           largest_difference=max(r['largest_difference'] for r in rows),
                           harness=version('lm-eval'), rows=rows), dtype='float32')

task, asked = TASKS['gsm8k'], load_questions('gsm8k', n=32)
exact, exact_tok = load_model('demo', dtype='float32')
config = _greedy_config(exact, exact_tok, task.max_new_tokens, task.stop)
front = ''.join(f"{task.prompt(o)} {o['answer']}\n\n" for o in task.examples)

def written_alone(item):
    ids = exact_tok(front + task.prompt(item), return_tensors='pt')
    out = exact.generate(**ids, generation_config=config, tokenizer=exact_tok)[0, ids['input_ids'].shape[1]:]
    return exact_tok.decode(out, skip_special_tokens=True).partition(task.stop[0])[0]

def one_at_a_time(items): return [written_alone(o) for o in items]
def in_batches(items): return task.score(exact, exact_tok, items, progress=False).written

threads = torch.get_num_threads()
torch.set_num_threads(1)
one_at_a_time(asked[:1]), in_batches(asked[:2])  # not counted
(alone, first), (batched, second) = (cpu_clock(lambda: f(asked)) for f in (one_at_a_time, in_batches))
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen: in_batches(asked)
own = {o.key: o.self_cpu_time_total for o in seen.key_averages()}
del seen  # gigabytes of events, which the larger model below needs
products = sum(own.get(f'aten::{o}', 0) for o in ('mm', 'addmm', 'bmm', '_scaled_dot_product_flash_attention_for_cpu'))
tokens = lambda text: len(exact_tok(text)['input_ids'])
keep('written_speed', dict(
    task='gsm8k', items=len(asked), clock='CPU seconds', runs=1, first=round(first, 1),
    second=round(second, 1), ratio=round(first / second, 2), same_texts=sum(map(str.__eq__, alone, batched)),
    examples_tokens=tokens(front), written_tokens=sum(map(tokens, alone)),
    products=round(products / sum(own.values()), 3)), dtype='float32', code='evaluation/generation')
torch.set_num_threads(threads)

# the same on a model whose weights do not fit into the processor's cache: 64 chats in batches, and eight of them alone
large, large_tok = load_model('qwen2.5-coder-1.5b', dtype='bfloat16')
chats, most = [prompt(o) for o in load_questions('gsm8k', n=64)], 400
config = _greedy_config(large, large_tok, most)

def chat_alone(texts):
    "The answers to chat prompts, by one `generate` each"
    def answer(text):
        ids = large_tok(chat_prompt(large_tok, text), add_special_tokens=False, return_tensors='pt')
        return large.generate(**ids, generation_config=config)[0, ids['input_ids'].shape[1]:]
    return [large_tok.decode(answer(o), skip_special_tokens=True) for o in texts]

def chat_in_batches(texts): return write_replies(large, large_tok, texts, most, progress=False, chat=True)[0]

with torch.inference_mode():
    chat_alone(chats[:1]), chat_in_batches(chats[:2])  # not counted
    (one, a), (batched, b), (more, c) = (clock(lambda: f(o)) for f, o in (
        (chat_alone, chats[:4]), (chat_in_batches, chats), (chat_alone, chats[4:8])))
alone, tokens = one + more, lambda texts: sum(len(large_tok(o)['input_ids']) for o in texts)
rates = tokens(alone) / (a + c), tokens(batched) / b
keep('written_speed_chat', dict(
    task='gsm8k:shots=0', model='qwen2.5-coder-1.5b', clock='seconds', runs=1, items=len(chats), alone=len(alone),
    written_tokens=[tokens(alone), tokens(batched)], first=round(a + c, 1), second=round(b, 1),
    tokens_a_second=[round(o, 1) for o in rates], ratio=round(rates[1] / rates[0], 2),
    ratios=[round(rates[1] * s / tokens(o), 2) for s, o in ((a, one), (c, more))],
    same_texts=sum(map(str.__eq__, alone, batched))), code='evaluation/generation')

ids = torch.randint(5, 40000, (1, 512), generator=torch.Generator().manual_seed(0))
def speed(m):
    "Prefill and decode, tokens per second"
    a = time.perf_counter()
    m(ids, use_cache=True, logits_to_keep=1)
    b = time.perf_counter()
    m.generate(ids[:, :32], max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0)
    return 512 / (b - a), 32 / (time.perf_counter() - b)

ns, rounds = [0, 4, 8, 15], []
with torch.inference_mode():
    for _ in range(6):
        rounds.append([])
        for n in ns:
            dropped = list(dist.best_block(n)) if n else []
            with stack.view([l for l in range(depth) if l not in dropped]) as small: rounds[-1].append(speed(small))

median = lambda i, k: round(statistics.median(r[i][k] / r[0][k] for r in rounds[1:]), 2)
layer_bytes = sum(p.nbytes for p in stack.layers[0].parameters())
all_bytes = sum(p.nbytes for p in model.parameters())
rows = [dict(n=n, prefill=median(i, 0), decode=median(i, 1), bytes=round(1 - n * layer_bytes / all_bytes, 3))
        for i, n in enumerate(ns)]
keep('pruned_speed', dict(runs=5, prefill_tokens=512, decode_tokens=32, rows=rows), code='model/stack')
