"Scores against the plain way of computing them, and, where the question files are, against the lm-evaluation-harness item by item."
import json, math, os, random
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook.data import load_questions
from prunebook.evaluation import (LossScore, Score, answers, check_items, choice_accuracy, compare, continuation_logprobs, _takes_forks, encode_pairs, evaluate, generated_accuracy, last_number, load_score, pick, prompt,
    ratio_interval, replaced, text_loss, token_losses, wilson)
from prunebook.stack import LayerStack, PrunebookError
from test_sweep import KINDS, Letters, questions, texts, tiny

DATA = os.environ.get('PRUNEBOOK_DATA')
needs_data = pytest.mark.skipif(not DATA, reason='set PRUNEBOOK_DATA to a folder with arc_easy.jsonl, piqa.jsonl, mmlu_test.jsonl, boolq.jsonl')

# loss

@pytest.mark.parametrize('kind', KINDS)
def test_loss_is_the_models_own(kind):
    model, tok = tiny(kind), Letters()
    got = text_loss(model, tok, texts(), max_length=32, batch_tokens=64, progress=False)
    for t, s, c in zip(texts(), got.sums, got.counts):
        ids = torch.tensor([tok(t)['input_ids'][:32]])
        with torch.no_grad(): logits = model(ids).logits[0, :-1]
        assert math.isclose(F.cross_entropy(logits, ids[0, 1:], reduction='sum').item(), s, rel_tol=1e-4) and c == ids.shape[1] - 1
    assert math.isclose(got.normalized, got.value / math.log(99)) and math.isclose(got.perplexity, math.exp(got.value))

def test_never_many_logits():
    model, most = tiny('llama'), [0]
    model.lm_head.register_forward_hook(lambda m, a, out: most.__setitem__(0, max(most[0], out.numel())))
    stack = LayerStack(model)
    x, targets = torch.randn(70, 32), torch.arange(70)
    with torch.inference_mode():
        out = stack.parent(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
        a, b = (token_losses(stack, out, x, targets, chunk=c) for c in (99 * 8, 2**24))
    torch.testing.assert_close(a, b)
    most[0] = 0
    with torch.inference_mode(): token_losses(stack, out, x, targets, chunk=99 * 8)
    assert most[0] == 99 * 8

def test_dropout_is_off_and_comes_back():
    model = tiny('gpt2').train()
    a, b = (text_loss(model, Letters(), texts(), progress=False).value for _ in range(2))
    assert a == b and model.training and model.transformer.drop.training

def test_forward_is_put_back_after_an_exception():
    model = tiny('llama')
    with pytest.raises(ZeroDivisionError), replaced(model.model, forward=lambda *a: 1 / 0): model.model()
    assert 'forward' not in model.model.__dict__ and model.model(torch.tensor([[1]])).last_hidden_state.shape == (1, 1, 32)

def test_short_texts_are_counted():
    s = text_loss(tiny('llama'), Letters(), ['a', '', 'abc'], progress=False)
    assert s.skipped == [0, 1] and s.n == 1 and s.low == -math.inf
    with pytest.raises(PrunebookError): text_loss(tiny('llama'), Letters(), ['a', ''], progress=False)

def test_nan_weights():
    model = tiny('llama')
    with torch.no_grad(): model.model.norm.weight.fill_(float('nan'))
    for f in (lambda: text_loss(model, Letters(), texts(), progress=False), lambda: choice_accuracy(model, Letters(), questions(), progress=False)):
        with pytest.raises(PrunebookError, match='not a number'): f()

def test_interval_covers():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        c = rng.integers(20, 200, 60)
        s = c * 3. + rng.normal(0, 1, 60) * c * .5
        _, low, high = ratio_interval(s, c)
        hits += low <= 3. <= high
    assert .91 <= hits / 400 <= .98

# questions

@pytest.mark.parametrize('kind', KINDS)
def test_shared_prompts_change_nothing(kind):
    "Few-shot fronts, choices of many lengths, choices of one token; against one full sequence a choice"
    model, r = tiny(kind), random.Random(0)
    word = lambda n: [r.randrange(3, 99) for _ in range(n)]
    front = word(20)
    requests = [(front + word(r.randrange(1, 9)), [word(r.randrange(1, 6)) for _ in range(r.randrange(2, 5))]) for _ in range(11)] + [(front + word(3), [[5], [6]])]
    for share in (4, 99):
        for got, (c, conts) in zip(continuation_logprobs(model, requests, batch_tokens=200, share=share), requests):
            for g, a in zip(got, conts):
                with torch.no_grad(): lp = model(torch.tensor([c + a])).logits[0].log_softmax(-1)
                assert math.isclose(sum(lp[len(c) - 1 + t, a[t]].item() for t in range(len(a))), g, rel_tol=1e-4, abs_tol=1e-4)

@pytest.mark.parametrize('kind', KINDS)
def test_forks_and_caches_agree(kind, monkeypatch):
    "The way for models that take no such masks gives the same, and the models that we know to take them do"
    model, r = tiny(kind, **({'sliding_window': 64} if 'sliding_window' in KINDS[kind] else {})), random.Random(1)
    word = lambda n: [r.randrange(3, 99) for _ in range(n)]
    requests = [(word(r.randrange(2, 9)), [word(r.randrange(1, 6)) for _ in range(3)]) for _ in range(7)]
    assert _takes_forks(LayerStack(model))
    forks = continuation_logprobs(model, requests)
    monkeypatch.setattr('prunebook.evaluation._takes_forks', lambda stack: False)
    for a, b in zip(forks, continuation_logprobs(model, requests)): np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

def test_who_takes_no_forks():
    "A state has no mask; in a window that is shorter than the row, a mask of one's own would let too much be seen"
    mamba = AutoModelForCausalLM.from_config(AutoConfig.for_model('mamba', hidden_size=32, num_hidden_layers=2, vocab_size=99, state_size=4)).eval()
    assert not _takes_forks(LayerStack(mamba)) and not _takes_forks(LayerStack(tiny('gemma3_text', sliding_window=4)))
    model, long = tiny('gemma3_text', sliding_window=16), [(list(range(3, 33)), [[40, 41], [50, 51, 52]])]
    assert _takes_forks(LayerStack(model))
    with torch.no_grad(): lp = model(torch.tensor([long[0][0] + [40, 41]])).logits[0].log_softmax(-1)
    assert math.isclose(continuation_logprobs(model, long)[0][0], (lp[29, 40] + lp[30, 41]).item(), rel_tol=1e-4)

def test_masks_by_place_in_the_row():
    "GPT-Neo masks by place in the row, whatever mask it is given: right all the same, also where a row of forks would be longer than its tables"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model('gpt_neo', num_layers=4, hidden_size=32, num_heads=4, attention_types=[[['global', 'local'], 2]], window_size=16, vocab_size=99,
        max_position_embeddings=64, initializer_range=.3, bos_token_id=1, eos_token_id=2)).eval()
    r = random.Random(0)
    for n, m in ((4, 2), (10, 4), (30, 4), (56, 6)):
        context, choices = [r.randrange(3, 99) for _ in range(n)], [[r.randrange(3, 99) for _ in range(m)] for _ in range(4)]
        for got, c in zip(continuation_logprobs(model, [(context, choices)])[0], choices):
            with torch.no_grad(): lp = model(torch.tensor([context + c])).logits[0].log_softmax(-1)
            assert math.isclose(got, sum(lp[n - 1 + t, v].item() for t, v in enumerate(c)), rel_tol=1e-4), (n, m)

def test_forks_are_asked_of_the_layers_there_are():
    "Attention alone takes forks; with the states of the whole model it does not"
    model = tiny('llama')
    stack = LayerStack(model)
    with stack.view([0, 1]): assert _takes_forks(stack)
    stack.layers[3].register_forward_hook(lambda m, a, out: out.cumsum(1) if torch.is_tensor(out) else (out[0].cumsum(1), *out[1:]))  # as a recurrence does: all that stood before
    assert not _takes_forks(stack)
    with stack.view([0, 1]): assert _takes_forks(stack)

def test_offloaded(tmp_path):
    "Embedding, head and some layers on disk: the same losses, scores and cuts"
    from accelerate import dispatch_model
    from prunebook.healing import fingerprint
    from prunebook.sweep import cut_losses
    model, items = tiny('llama'), questions()
    every = lambda m: (fingerprint(m), text_loss(m, Letters(), texts(), max_length=32, progress=False).sums, choice_accuracy(m, Letters(), items, progress=False).logprobs,
        [o.sums for o in cut_losses(m, Letters(), texts(), [range(6), [0, 1, 5]], max_length=32, progress=False)])
    want = every(model)
    where = {'model.embed_tokens': 'disk', 'model.norm': 'cpu', 'model.rotary_emb': 'cpu', 'lm_head': 'disk'} | {f'model.layers.{i}': 'cpu' if i < 3 else 'disk' for i in range(6)}
    there = dispatch_model(model, where, main_device='cpu', offload_dir=str(tmp_path), force_hooks=True)
    assert there.get_input_embeddings().weight.device.type == 'meta'
    got = every(there)
    assert got[0] == want[0] and got[1] == want[1] and got[2] == want[2]
    for a, b in zip(got[3], want[3]): np.testing.assert_allclose(a, b, rtol=1e-6)

def test_shared_prompts_run_fewer_tokens():
    model, seen = tiny('llama'), [0]
    assert _takes_forks(LayerStack(model))  # asked once
    LayerStack(model).layers[0].register_forward_hook(lambda m, a, out: seen.__setitem__(0, seen[0] + out.shape[0] * out.shape[1]))
    continuation_logprobs(model, [([3] * 30 + [i, i], [[7, 8], [9, 8], [5], [6]]) for i in range(4, 10)])
    assert seen[0] == 30 + 6 * (2 + 2), 'the common 30 once; then two of its own and two choices that are longer than a token'

def test_scorings():
    items = questions()
    model, tok = tiny('llama', max_position_embeddings=256), Letters()
    by = {s: choice_accuracy(model, tok, items, s, progress=False) for s in ('likelihood', 'per_char', 'per_token', 'letter')}
    lp = by['likelihood'].logprobs
    assert by['likelihood'].picked == pick(lp) and by['per_char'].picked == pick(lp, [[len(c) for c in o['choices']] for o in items])
    assert by['per_token'].picked == pick(lp, [[len(c) + 1 for c in o['choices']] for o in items])  # a space, then the letters
    s = by['letter']
    assert s.k == sum(p == o['answer'] for p, o in zip(s.picked, items)) and (s.low, s.high) == wilson(s.k, s.n) and s.chance == .25
    assert prompt(items[0], letter=True).count('\n') == 5 and answers(items[0], letter=True) == list('ABCD')

def test_shots_are_seeded_and_never_the_item_itself():
    items, model, tok = questions(8), tiny('llama', max_position_embeddings=512), Letters()
    for o in items: o['question'] += str(random.random())
    run = lambda **kw: choice_accuracy(model, tok, items, shots=3, examples=items, progress=False, **kw).logprobs
    assert run(seed=1) == run(seed=1) != run(seed=2)
    for wrong in (dict(shots=9, examples=items), dict(shots=2), dict(shots='2', examples=items)):
        with pytest.raises(PrunebookError, match='shots'): choice_accuracy(model, tok, items, progress=False, **wrong)

def test_longer_than_the_context(caplog):
    model, tok = tiny('llama', max_position_embeddings=64), Letters()
    items = questions(3) + [dict(question='x' * 80, choices=['aa', 'bbbb'], answer=1)]
    s = choice_accuracy(model, tok, items, progress=False)
    assert s.truncated == [3] and 'lose their beginning' in caplog.text
    ctx = tok(prompt(items[3]))['input_ids']
    for a, g in zip(items[3]['choices'], s.logprobs[3]):  # what the harness does: the last 65 tokens, the last of which is only predicted
        a = tok(' ' + a)['input_ids']
        with torch.no_grad(): lp = model(torch.tensor([(ctx + a)[-65:-1]])).logits[0].log_softmax(-1)
        assert math.isclose(sum(lp[len(lp) - len(a) + t, a[t]].item() for t in range(len(a))), g, rel_tol=1e-4)
    with pytest.raises(PrunebookError, match='longer than the context'): choice_accuracy(model, tok, items, too_long='refuse', progress=False)
    with pytest.raises(PrunebookError, match='does not fit'): choice_accuracy(model, tok, [dict(question='q', choices=['a', 'b' * 99], answer=0)], progress=False)

good = dict(question='Q', choices=['a', 'b'], answer=0)
@pytest.mark.parametrize('bad', [dict(answer=2), dict(answer=-1), dict(answer='a'), dict(answer=True), dict(answer=None), dict(choices=['a']), dict(choices=['a', '']), dict(choices='ab'), dict(choices=['a', 3])])
def test_items_that_cannot_be_scored(bad):
    with pytest.raises(PrunebookError, match='question 1'): check_items([good, good | bad])

def test_missing_fields_and_no_items():
    for wrong in ([dict(question='Q', choices=['a', 'b'])], [], 'Q', good):
        with pytest.raises(PrunebookError): check_items(wrong)

def test_unequal_counts_have_their_own_chance_and_duplicates_are_told(caplog):
    s = choice_accuracy(tiny('llama'), Letters(), [good, good, dict(question='R', choices=['a', 'b', 'c', 'd'], answer=3)], progress=False)
    assert math.isclose(s.chance, (1/2 + 1/2 + 1/4) / 3) and '1 of 3 questions are there more than once' in caplog.text
    assert math.isclose(s.majority, 2 / 3)

class Merging(Letters):
    "Merges 'r:' and a following ' x' into one token across the border"
    def __call__(self, text, **kw):
        enc = lambda o: [3 + ord(c) % 90 for c in o.replace(': x', '\x01')]
        return dict(input_ids=enc(text) if isinstance(text, str) else [enc(o) for o in text])

def test_merge_across_the_border():
    "As the harness: the prompt's own tokens, then what the whole has beyond their number"
    (ctx, conts), = encode_pairs(Merging(), ['Q:'], [['xyz', 'abc']], 99)[0]
    assert ctx == Merging()('Q:')['input_ids'] and conts[0] == Merging()('Q: xyz')['input_ids'][2:] and conts[1] == Merging()(' abc')['input_ids']
    with pytest.raises(PrunebookError, match='adds no token'): encode_pairs(Merging(), ['Q:'], [['x', 'abc']], 99)

def test_prompt_ending_in_a_space_gives_it_to_the_choice():
    (ctx, (a,)), = encode_pairs(Letters(), ['Q: '], [['x']], 99)[0]
    assert ctx == Letters()('Q:')['input_ids'] and a == Letters()('  x')['input_ids']

# comparisons

def test_compare_finds_and_does_not_find():
    rng = np.random.default_rng(0)
    counts = rng.integers(50, 100, 80).tolist()
    base = rng.normal(3, 1, 80) * counts
    score = lambda sums: LossScore('t', *ratio_interval(sums, counts), 80, list(sums), counts, list(range(80)), [], 1, 99)
    better = compare(score(base), score(base + rng.normal(.1, .1, 80) * counts))
    assert better.low > 0 and better.p < .01
    assert compare(score(base), score(base + rng.normal(0, .1, 80) * counts)).p > .05
    answer = [0] * 100
    choice = lambda picked: Score('t', 0., 0, 100, 0., 1., picked, answer, 'likelihood', .5, 1.)
    c = compare(choice([0] * 60 + [1] * 40), choice([0] * 70 + [1] * 30))
    assert math.isclose(c.p, 2 * .5**10) and 'McNemar' in c.test
    with pytest.raises(PrunebookError, match='same items'): compare(score(base), choice(answer))

def test_evaluate_names_what_it_cannot_find(monkeypatch, tmp_path):
    monkeypatch.delenv('PRUNEBOOK_DATA', raising=False)
    with pytest.raises(PrunebookError, match='no such file or question set'): evaluate(tiny('llama'), Letters(), ['trivia'], progress=False)
    with pytest.raises(PrunebookError, match='no tasks'): evaluate(tiny('llama'), Letters(), [], progress=False)
    (tmp_path/'piqa.jsonl').write_text('\n'.join(json.dumps(o) for o in questions()))
    s = evaluate(tiny('llama'), Letters(), ['piqa', 'piqa:per_char'], data_dir=tmp_path, progress=False)
    assert s['piqa'].logprobs == s['piqa:per_char'].logprobs and list(s.to_frame().metric) == ['likelihood', 'per_char']
    s.save(tmp_path/'scores')
    assert load_score(tmp_path/'scores'/'piqa_per_char.json') == s['piqa:per_char']
    few = evaluate(tiny('llama', max_position_embeddings=512), Letters(), ['piqa'], data_dir=tmp_path, sources=dict(piqa=str(tmp_path/'piqa.jsonl')), shots=2, progress=False)
    assert few['piqa'].logprobs != s['piqa'].logprobs

def test_worked_examples_must_be_of_the_kind_that_is_asked():
    model, written = tiny('llama', max_position_embeddings=512), [dict(question='Q', answer='7'), dict(question='R', answer='8')]
    for examples in (written, ['a', 'b', 'c'], [{'q': 1}] * 5):
        with pytest.raises(PrunebookError, match='example 0'): choice_accuracy(model, Letters(), questions(), shots=2, examples=examples, progress=False)
    for examples in (questions(), ['a', 'b', 'c'], [{'q': 1}] * 5):
        with pytest.raises(PrunebookError, match='example 0'): generated_accuracy(model, Letters(), written, shots=1, examples=examples, progress=False)
    with pytest.raises(PrunebookError, match='max_new_tokens=0'): generated_accuracy(model, Letters(), written, max_new_tokens=0, progress=False)
    with pytest.raises(PrunebookError, match='no max_tokens'): evaluate(model, Letters(), ['sums'], n=2, max_tokens=5, progress=False)

# generated answers

def test_generated_answers_do_not_depend_on_the_batch():
    model, items = tiny('llama', max_position_embeddings=256), [dict(question='x' * n, answer='7') for n in (3, 11, 30)]
    model.generation_config.eos_token_id = None
    run = lambda b: generated_accuracy(model, Letters(), items, max_new_tokens=5, batch_tokens=b, progress=False).written
    real = model.generate
    model.generate = lambda *a, **kw: real(*a, **{k: v for k, v in kw.items() if k not in ('stop_strings', 'tokenizer')})  # this tokenizer knows no stop strings
    assert run(1) == run(10_000) and all(run(1))
    assert generated_accuracy(model, Letters(), [*items, dict(question='y', answer='8')], max_new_tokens=2, progress=False).majority == .75
    with pytest.raises(PrunebookError, match='a number that stands'): generated_accuracy(model, Letters(), [dict(question='Q', answer='none')], progress=False)
    assert last_number('1,000 and then -2.50') == -2.5

# the harness

def yaml(path, name, prompt='Question: {{question}}\nAnswer:'):
    return dict(task=name, dataset_path='json', dataset_kwargs=dict(data_files=dict(test=str(path))), test_split='test', output_type='multiple_choice', doc_to_text=prompt, doc_to_target='answer',
        doc_to_choice='choices', metric_list=[dict(metric='acc', aggregation='mean', higher_is_better=True)])

@needs_data
@pytest.mark.slow
@pytest.mark.parametrize('name,file,n', [('arc_easy', 'arc_easy', 2376), ('piqa', 'piqa', 1838), ('mmlu', 'mmlu_test', 1000)])
def test_agrees_with_the_harness_item_by_item(name, file, n, tmp_path, monkeypatch):
    pytest.importorskip('lm_eval')
    from prunebook.data import load_model
    from prunebook.evaluation import harness_scores
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    n = int(os.environ.get('PRUNEBOOK_TEST_ITEMS', n))
    model, tok = load_model('demo', dtype=torch.float32)
    items = load_questions(name, n=n)
    (tmp_path/'items.jsonl').write_text(''.join(json.dumps({k: o[k] for k in ('question', 'choices', 'answer')} | dict(question=o['question'].strip())) + '\n' for o in items))
    theirs = harness_scores(model, tok, [yaml(tmp_path/'items.jsonl', name)])[f'harness:{name}']
    ours = choice_accuracy(model, tok, items, progress=False)
    for a, b in zip(ours.logprobs, theirs.logprobs): np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-4)
    assert ours.picked == theirs.picked and ours.answers == theirs.answers
    print(name, ours, f'{theirs.seconds / ours.seconds:.1f} times as fast as the harness')
