"Losses and log-likelihoods against the plain way of computing them, for every kind of attention."
import random
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook.model.attention import takes_forks
from prunebook.core import PrunebookError
from prunebook.evaluation.prompts import prompt
from prunebook.evaluation.likelihood import (continuation_logprobs, document_losses, encode_pairs, logprob_batches,
                                             pick, token_losses)
from prunebook.evaluation.prefixes import share_prefixes
from prunebook.data.texts import make_batch
from prunebook.model.stack import check_vocabulary
from prunebook.model.stack import LayerStack
from support.tiny import Letters, tiny

SMALL = dict(layers=4, initializer_range=.3)  # larger weights: attention then matters in a random model
CASES = dict(llama={}, qwen3={}, gpt_neox={}, gpt2={}, phi={}, opt={}, falcon={}, mixtral={},
             gemma3_text=dict(sliding_window=6, final_logit_softcapping=5.))
# some of these start again when tokens go on from a cache
RECURRENT = dict(mamba={}, jamba=dict(attn_layer_period=2, attn_layer_offset=1), recurrent_gemma={})
make = lambda kind, **kw: tiny(kind, **SMALL | (CASES | RECURRENT)[kind] | kw)


def plain(model, context, choice):
    "log p of `choice` after `context`, by one forward over both"
    with torch.no_grad(): lp = model(torch.tensor([context + choice])).logits[0].log_softmax(-1)
    return sum(lp[len(context) - 1 + t, v].item() for t, v in enumerate(choice))


def words(r, n): return [r.randrange(3, 99) for _ in range(n)]


# losses

@pytest.mark.parametrize('kind', CASES)
def test_losses_are_the_models_own(kind):
    model, r = make(kind), random.Random(0)
    ids = [words(r, n) for n in (9, 20, 5)]
    batch, stack = make_batch(ids, [0, 1, 2]), LayerStack(model)
    with torch.inference_mode(): got = document_losses(stack, stack.body(batch.input_ids).last_hidden_state, batch)
    np.testing.assert_allclose(got, [-plain(model, o[:1], o[1:]) for o in ids], rtol=1e-4)


def test_never_many_logits():
    model, most = make('llama'), [0]
    model.lm_head.register_forward_hook(lambda m, a, out: most.__setitem__(0, max(most[0], out.numel())))
    stack, x, targets = LayerStack(model), torch.randn(70, 32), torch.arange(70)
    with torch.inference_mode():
        a, b = (token_losses(stack, x, targets, chunk=c) for c in (99 * 8, 2**24))
        torch.testing.assert_close(a, b)
        most[0] = 0
        token_losses(stack, x, targets, chunk=99 * 8)
    assert most[0] == 99 * 8
    assert token_losses(stack, x[:0], targets[:0]).shape == (0,)


# what requests share

@pytest.mark.parametrize('kind', [*CASES, *RECURRENT])
def test_shared_prompts_change_nothing(kind):
    "Shared beginnings, choices of many lengths, choices of one token; against a sequence for each choice"
    model, r = make(kind), random.Random(0)
    front = words(r, 20)
    requests = [(front + words(r, r.randrange(1, 9)), [words(r, r.randrange(1, 6)) for _ in range(r.randrange(2, 5))])
                for _ in range(11)] + [(front + words(r, 3), [[5], [6]])]
    for share in (4, 99):
        for got, (c, choices) in zip(continuation_logprobs(model, requests, batch_tokens=200, share=share), requests):
            np.testing.assert_allclose(got, [plain(model, c, o) for o in choices], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', CASES)
def test_forks_and_caches_agree(kind, monkeypatch):
    "A model that takes no fork masks gives the same by the other way; the models that are known to take them do"
    model, r = make(kind, **dict(sliding_window=64) if 'sliding_window' in CASES[kind] else {}), random.Random(1)
    requests = [(words(r, r.randrange(2, 9)), [words(r, r.randrange(1, 6)) for _ in range(3)]) for _ in range(7)]
    assert takes_forks(LayerStack(model))
    forks = continuation_logprobs(model, requests)
    monkeypatch.setattr('prunebook.evaluation.likelihood.takes_forks', lambda stack: False)
    caches = continuation_logprobs(model, requests)
    for a, b in zip(forks, caches): np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_window_shorter_than_the_row():
    model, context = make('gemma3_text', sliding_window=16), list(range(3, 33))
    got = continuation_logprobs(model, [(context, [[40, 41], [50, 51, 52]])])[0]
    np.testing.assert_allclose(got, [plain(model, context, o) for o in ([40, 41], [50, 51, 52])], rtol=1e-4)


def test_masks_by_place_in_the_row():
    "GPT-Neo masks by place in the row, whatever mask it is given; also where a row of forks would exceed its tables"
    torch.manual_seed(0)
    config = AutoConfig.for_model('gpt_neo', num_layers=4, hidden_size=32, num_heads=4, window_size=16, vocab_size=99,
                                  attention_types=[[['global', 'local'], 2]], max_position_embeddings=64,
                                  initializer_range=.3, bos_token_id=1, eos_token_id=2)
    model, r = AutoModelForCausalLM.from_config(config).eval(), random.Random(0)
    for n, m in ((4, 2), (10, 4), (30, 4), (56, 6)):
        context, choices = words(r, n), [words(r, m) for _ in range(4)]
        got = continuation_logprobs(model, [(context, choices)])[0]
        np.testing.assert_allclose(got, [plain(model, context, o) for o in choices], rtol=1e-4)


def test_a_shared_beginning_is_computed_once():
    model, seen = make('llama'), [0]
    assert takes_forks(LayerStack(model))  # asked once
    count = lambda m, a, out: seen.__setitem__(0, seen[0] + a[0].shape[0] * a[0].shape[1])
    LayerStack(model).layers[0].register_forward_hook(count)
    continuation_logprobs(model, [([3] * 30 + [i, i], [[7, 8], [9, 8], [5], [6]]) for i in range(4, 10)])
    assert seen[0] == 30 + 6 * (2 + 2), 'the common 30 once; then two of its own and two choices longer than a token'


def test_letters_cost_nothing():
    "Choices of one token: a forward over the prompt, and no more"
    model, seen = make('llama'), []
    assert takes_forks(LayerStack(model))
    LayerStack(model).layers[0].register_forward_hook(lambda m, a, out: seen.append(a[0].shape))
    continuation_logprobs(model, [([3, 4, 5, 6, 7], [[10], [11], [12], [13]])])
    assert seen == [(1, 5, 32)]


@pytest.mark.parametrize('kind', CASES)
def test_whole_prompts_share_a_row(kind):
    "Behind a shared beginning, prompts with answers of one token are prongs of one row; in rows of any length"
    model, r = make(kind), random.Random(2)
    front = words(r, 20)
    requests = [(front + words(r, r.randrange(1, 12)), [[v] for v in words(r, 4)]) for _ in range(9)]
    for batch_tokens in (10, 90, 4000):
        for got, (c, choices) in zip(continuation_logprobs(model, requests, batch_tokens), requests):
            np.testing.assert_allclose(got, [plain(model, c, o) for o in choices], rtol=1e-4, atol=1e-4)


def test_a_row_of_prompts_is_one_batch_without_padding():
    model, seen = make('llama'), []
    assert takes_forks(LayerStack(model))
    LayerStack(model).layers[0].register_forward_hook(lambda m, a, out: seen.append(tuple(a[0].shape[:2])))
    requests = [([3] * 30 + [i] * n, [[7], [8]]) for i, n in ((4, 2), (5, 9), (6, 5))]
    continuation_logprobs(model, requests, batch_tokens=99)
    assert seen == [(1, 30), (1, 16)]


# many pruned models

KEEPS = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 3], [0, 3], [1, 2, 3], [0, 1]]


def asked(kind, r):
    "Requests for each of the three ways: choices of many tokens, of one token behind a shared beginning, and alone"
    front = words(r, 20)
    if kind == 'letters': return [(front + words(r, r.randrange(1, 9)), [[v] for v in words(r, 4)]) for _ in range(9)]
    front = front if kind == 'shared' else []
    return [(front + words(r, r.randrange(2, 9)), [words(r, r.randrange(1, 5)) for _ in range(3)]) for _ in range(7)]


@pytest.mark.parametrize('kind', ['letters', 'shared', 'alone'])
@pytest.mark.parametrize('model', [*CASES, 'mamba'])
def test_pruned_models_together_as_alone(model, kind):
    "One walk over the tree gives bit for bit what a view of each pruned model gives"
    model = make(model)
    requests, stack = asked(kind, random.Random(3)), LayerStack(model)
    together = list(logprob_batches(model, requests, KEEPS, batch_tokens=200))
    for m, keep in enumerate(KEEPS):
        with stack.view(keep) as small: alone = continuation_logprobs(small, requests, batch_tokens=200)
        got = {o: v for pairs, found in together for o, v in zip(pairs, found[m])}
        assert got == {(i, j): v for i, o in enumerate(alone) for j, v in enumerate(o)}
    assert len({round(float(found[m, 0]), 4) for m in range(len(KEEPS)) for _, found in together}) > 3


@pytest.mark.parametrize('kind', ['letters', 'shared', 'alone'])
def test_shared_layers_run_once(kind):
    model, ran, requests = make('llama'), [], asked(kind, random.Random(4))
    assert takes_forks(LayerStack(model))  # asked once
    for layer in LayerStack(model).layers: layer.self_attn.register_forward_hook(lambda *a: ran.append(1))
    batches = len(list(logprob_batches(model, requests, KEEPS, batch_tokens=60)))
    walks = batches + (kind != 'alone')  # the shared beginning runs through the tree as well
    tree = sum(o.applications for o in share_prefixes(KEEPS))
    assert batches > 1 and walks * tree <= len(ran) <= walks * tree + 1  # `replay` asks a layer what it returns
    assert tree < sum(map(len, KEEPS)) / 1.5


def test_requests_that_are_done_do_not_run():
    "The others keep their batches, and so their last digits"
    model, requests = make('llama'), asked('shared', random.Random(5))
    whole = list(logprob_batches(model, requests, KEEPS, batch_tokens=120))
    first = {i for i, _ in whole[0][0]}
    rest = list(logprob_batches(model, requests, KEEPS, batch_tokens=120, done=first))
    assert len(rest) == len(whole) - 1
    for (pairs, found), (again, values) in zip(whole[1:], rest):
        assert pairs == again and np.array_equal(found, values)
    assert not list(logprob_batches(model, requests, KEEPS, done=range(len(requests))))


def test_layers_stay_in_the_order_of_the_model():
    "As in a view: the order in which they are named does not matter; cuts that keep nothing are refused"
    model, requests = make('llama'), asked('shared', random.Random(6))
    one, two = (list(logprob_batches(model, requests, k)) for k in ([[3, 1], [0, 2, 1]], [[1, 3], [0, 1, 2]]))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, two))
    for wrong in ([], [[]], [[0, 0]]):
        with pytest.raises(PrunebookError): list(logprob_batches(model, requests, wrong))
    assert continuation_logprobs(model, []) == []


@pytest.mark.parametrize('keeps', [None, KEEPS], ids=['one model', 'many'])
def test_a_row_of_prompts_is_halved_when_memory_runs_out(keeps, monkeypatch):
    import prunebook.evaluation.likelihood as likelihood
    model, requests, real = make('llama'), asked('letters', random.Random(7)), likelihood.run_forks

    def small(stack, forks, base=None, before=0):
        if sum(len(o.ids) for o in forks) > 12: raise torch.OutOfMemoryError('out of memory')
        return real(stack, forks, base, before)
    whole = {o: v for p, f in logprob_batches(model, requests, keeps, 300) for o, v in zip(p, f.T)}
    monkeypatch.setattr(likelihood, 'run_forks', small)
    parts = {o: v for p, f in logprob_batches(model, requests, keeps, 300) for o, v in zip(p, f.T)}
    assert whole.keys() == parts.keys()
    for k in whole: np.testing.assert_allclose(parts[k], whole[k], rtol=1e-4)


# text and tokens

class Merging(Letters):
    "Merges ': x' into one token, across the border of prompt and choice"
    def __call__(self, text, **kw):
        enc = lambda o: [3 + ord(c) % 90 for c in o.replace(': x', '\x01')]
        return dict(input_ids=enc(text) if isinstance(text, str) else [enc(o) for o in text])


def test_merge_across_the_border():
    "As the harness: the prompt's own tokens, then what the whole has beyond their number"
    (context, choices), = encode_pairs(Merging(), ['Q:'], [['xyz', 'abc']], 99)[0]
    assert context == Merging()('Q:')['input_ids'] and choices[0] == Merging()('Q: xyz')['input_ids'][2:]
    assert choices[1] == Merging()(' abc')['input_ids']
    with pytest.raises(PrunebookError, match='adds no token'): encode_pairs(Merging(), ['Q:'], [['x', 'abc']], 99)


def test_a_prompt_that_ends_in_a_space_gives_it_to_the_choice():
    (context, (a,)), = encode_pairs(Letters(), ['Q: '], [['x']], 99)[0]
    assert context == Letters()('Q:')['input_ids'] and a == Letters()('  x')['input_ids']


def test_longer_than_the_context():
    "What the harness does: the last tokens that fit, the very last of which is only predicted"
    text = prompt(dict(question='x' * 80, choices=['aa', 'bbbb'], answer=1))
    requests, where, cut = encode_pairs(Letters(), [text], [['aa', 'bbbb']], 64)
    assert cut == [0] and where == [(0, [0]), (0, [1])]
    for (context, (choice,)), a in zip(requests, ('aa', 'bbbb')):
        assert context + choice == Letters()(f'{text} {a}')['input_ids'][-65:]
    with pytest.raises(PrunebookError, match='does not fit'): encode_pairs(Letters(), ['q'], [['a', 'b' * 99]], 64)


def test_a_tokenizer_larger_than_the_embedding_is_refused():
    model = make('llama')
    for wrong in (([3, 99], [[4]]), ([3, 5], [[4, 120]])):
        with pytest.raises(PrunebookError, match='do not belong together'): continuation_logprobs(model, [wrong])
    check_vocabulary(LayerStack(model), [[98], []])


def test_the_first_among_equals_is_picked():
    assert pick([[-1., -1.], [-3., -2.]]) == [0, 1] and pick([[-4., -9.]], [[2, 9]]) == [1]
