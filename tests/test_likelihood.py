"Losses and log-likelihoods against the plain way of computing them, for every kind of attention."
import random
import numpy as np, pytest, torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook.core import PrunebookError
from prunebook.evaluation.choices import choice_accuracy, prompt
from prunebook.evaluation.choices import _encode_pairs, _continuation_logprobs
from prunebook.evaluation.generation import encode_prompts
from prunebook.evaluation.losses import token_losses
from prunebook.model.stack import LayerStack
from support.tiny import Letters, tiny, word_tokenizer

SMALL = dict(layers=4, initializer_range=.3)  # larger weights: attention then matters in a random model
CASES = dict(llama={}, qwen3={}, gpt_neox={}, gpt2={}, phi={}, opt={}, falcon={}, mixtral={},
             gemma3_text=dict(sliding_window=6, final_logit_softcapping=5.),
             gemma3=dict(sliding_window=6))
# some of these start again when tokens go on from a cache
RECURRENT = dict(mamba={}, jamba=dict(attn_layer_period=2, attn_layer_offset=1), recurrent_gemma={})
make = lambda kind, **kw: tiny(kind, **SMALL | (CASES | RECURRENT)[kind] | kw)

def plain(model, context, choice):
    "log p of `choice` after `context`, by one forward over both"
    with torch.no_grad(): lp = model(torch.tensor([context + choice])).logits[0].log_softmax(-1)
    return sum(lp[len(context) - 1 + t, v].item() for t, v in enumerate(choice))

def words(r, n): return [r.randrange(3, 99) for _ in range(n)]

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

@pytest.mark.parametrize('kind', [*CASES, *RECURRENT])
def test_shared_prompts_change_nothing(kind):
    "Shared beginnings or none, choices of many lengths, choices of one token; against a sequence for each choice"
    model, r = make(kind), random.Random(0)
    for front in (words(r, 20), []):
        contexts = [front + words(r, r.randrange(1, 9)) for _ in range(11)]
        pairs = [(c, words(r, r.randrange(1, 6))) for c in contexts for _ in range(r.randrange(2, 5))]
        pairs += [(front + words(r, 3), o) for o in ([5], [6])]
        got = _continuation_logprobs(model, pairs, batch_tokens=200)
        np.testing.assert_allclose(got, [plain(model, *o) for o in pairs], rtol=1e-4, atol=1e-4)

def test_choices_fork():
    "Every kind of attention runs choices behind each other, if they fit its window; recurrent layers do not"
    forks = lambda kind, length, **kw: LayerStack(make(kind, **kw)).takes_forks(length)
    with torch.inference_mode():
        assert all(forks(kind, 100) for kind in CASES if kind not in ('gemma3', 'gemma3_text'))
        assert not any(forks(kind, 9) for kind in RECURRENT)
        for kind in ('gemma3', 'gemma3_text'):
            assert forks(kind, 40, sliding_window=40) and not forks(kind, 41, sliding_window=40)
    model, r = make('gemma3_text', sliding_window=40), random.Random(0)
    for n in (20, 38):  # in rows of 29 and 47 tokens
        pairs = [(c, words(r, 4)) for c in [words(r, n) for _ in range(3)] for _ in range(3)]
        np.testing.assert_allclose(_continuation_logprobs(model, pairs), [plain(model, *o) for o in pairs], rtol=1e-4)

def test_positions_in_tables():
    "GPT-Neo masks by place in the row, whatever mask it is given; also where copies of caches fill its tables"
    torch.manual_seed(0)
    config = AutoConfig.for_model('gpt_neo', num_layers=4, hidden_size=32, num_heads=4, window_size=16, vocab_size=99,
                                  attention_types=[[['global', 'local'], 2]], max_position_embeddings=64,
                                  initializer_range=.3, bos_token_id=1, eos_token_id=2)
    model, r = AutoModelForCausalLM.from_config(config).eval(), random.Random(0)
    for n, m in ((4, 2), (10, 4), (30, 4), (56, 6)):
        pairs = [(c, words(r, m)) for c in [words(r, n)] for _ in range(4)]
        got = _continuation_logprobs(model, pairs)
        np.testing.assert_allclose(got, [plain(model, *o) for o in pairs], rtol=1e-4)

@pytest.mark.parametrize('letters', [True, False])
def test_a_batch_is_halved_when_memory_runs_out(letters, monkeypatch):
    model, r = make('llama'), random.Random(7)
    front = words(r, 20)
    contexts = [front + words(r, 4) for _ in range(9)]
    pairs = [(c, words(r, 1 if letters else 3)) for c in contexts for _ in range(4)]
    whole, real = _continuation_logprobs(model, pairs, 300), LayerStack.extend

    def small(self, rows, *more, **how):
        if sum(map(len, rows)) > 24: raise torch.OutOfMemoryError('out of memory')
        return real(self, rows, *more, **how)
    monkeypatch.setattr(LayerStack, 'extend', small)
    np.testing.assert_allclose(whole, _continuation_logprobs(model, pairs, 300), rtol=1e-4)

def test_prompts_of_many_lengths_share_a_batch(monkeypatch):
    "A choice goes on behind pads: as many runs as the budget asks for, and not one for each length of a prompt"
    runs, real = [], LayerStack.extend
    def counted(self, given, *more, **how):
        runs.append(sum(map(len, given)))
        return real(self, given, *more, **how)
    model, r = make('llama'), random.Random(3)
    pairs = [(words(r, n), words(r, 3)) for n in range(3, 40) for _ in range(4)]
    want = [plain(model, *o) for o in pairs]
    monkeypatch.setattr(LayerStack, 'extend', counted)
    np.testing.assert_allclose(_continuation_logprobs(model, pairs, 1000), want, rtol=1e-4, atol=1e-4)
    assert len(runs) < 20, runs

def test_questions_with_the_same_prompt_are_not_one_batch(monkeypatch):
    rows, real = [], LayerStack.extend
    def counted(self, given, *more, **how):
        rows.append(len(given))
        return real(self, given, *more, **how)
    monkeypatch.setattr(LayerStack, 'extend', counted)
    items = [dict(question='q', choices=['aa', 'bb'], answer=0)] * 40
    found = [choice_accuracy(make('llama'), Letters(), items, prompt=ask, batch_tokens=64, progress=False).logprobs
             for ask in (lambda o: 'Answer:', lambda o: ['Answer:'])]
    assert max(rows) < 9 and found[0] == found[1]
    with pytest.raises(PrunebookError, match='3 prompts for the 2 choices'):
        choice_accuracy(make('llama'), Letters(), items, prompt=lambda o: ['a', 'b', 'c'], progress=False)

# text and tokens

class Merging(Letters):
    "Merges ': x' into one token, across the border of prompt and choice"
    def __call__(self, text, **kw):
        enc = lambda o: [3 + ord(c) % 90 for c in o.replace(': x', '\x01')]
        return dict(input_ids=enc(text) if isinstance(text, str) else [enc(o) for o in text])

def test_merge_across_the_border():
    "As the harness: the prompt's own tokens, then what the whole has beyond their number"
    (context, one), (_, other) = _encode_pairs(Merging(), [('Q:', 'xyz'), ('Q:', 'abc')], 99)[0]
    assert context == Merging()('Q:')['input_ids'] and one == Merging()('Q: xyz')['input_ids'][2:]
    assert other == Merging()(' abc')['input_ids']
    with pytest.raises(PrunebookError, match="adds no token.* 'Q:', the choice is 'x'"):
        _encode_pairs(Merging(), [('Q:', 'abc'), ('Q:', 'x')], 99)

def test_a_prompt_that_ends_in_a_space_gives_it_to_the_choice():
    assert _encode_pairs(Letters(), [('Q: ', 'x')], 99)[0] == [tuple(Letters()(['Q:', '  x'])['input_ids'])]

def test_an_end_that_the_tokenizer_adds_is_no_part_of_a_prompt():
    model, plain, ended = make('llama'), word_tokenizer(), word_tokenizer()
    end = processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 2)])
    ended.backend_tokenizer.post_processor = end
    items = [dict(question='w1 w2', choices=['w3', 'w5 w7'], answer=0)]
    want, got = (choice_accuracy(model, o, items, progress=False).logprobs for o in (plain, ended))
    assert got == want
    assert encode_prompts(LayerStack(model), ended, ['w1 w2'], 4, chat=False) == ([[4, 5]], [])

def test_longer_than_the_context():
    "What the harness does: the last tokens that fit, the very last of which is only predicted"
    text = prompt(dict(question='x' * 80, choices=['aa', 'bbbb'], answer=1))
    pairs, cut = _encode_pairs(Letters(), [(text, 'aa'), ('short', 'a'), (text, 'bbbb')], 64)
    assert cut == [0, 2]
    for (context, choice), a in zip(pairs[::2], ('aa', 'bbbb')):
        assert context + choice == Letters()(f'{text} {a}')['input_ids'][-65:]
    with pytest.raises(PrunebookError, match='does not fit'): _encode_pairs(Letters(), [('q', 'b' * 99)], 64)
