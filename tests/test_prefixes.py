"Questions to many pruned models at once: what each gives alone, and stopped calls that go on."
import random
import time
import numpy as np
import pytest
import prunebook.evaluation.choices as choices
from prunebook.core import PrunebookError
from prunebook.evaluation.choices import cut_answers
from prunebook.evaluation.evaluation import choice_accuracy
from prunebook.evaluation.prefixes import batch_room, pruned_tree, share_prefixes, states_stored
from prunebook.model.stack import LayerStack
from support.tiny import Letters, tiny

KEEPS = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 3], [0, 3], [1, 2, 3]]
make = lambda kind='llama': tiny(kind, layers=4, initializer_range=.3, max_position_embeddings=1024)


def questions(n=9, seed=0, subjects=1):
    r = random.Random(seed)
    word = lambda: ''.join(r.choice('abcdefgh') for _ in range(r.randrange(2, 9)))
    return [dict(question=f'{word()} {i}', choices=[word() for _ in range(4)], answer=r.randrange(4),
                 subject=f's{i % subjects}') for i in range(n)]


def ask(model, keeps=KEEPS, **kw):
    own = dict(examples=questions(8, 1, 2), seed=None, batch_tokens=300, progress=False)
    return cut_answers(model, Letters(), questions(subjects=2), keeps, **own | kw)


HOW = [dict(), dict(scoring='letter', shots=2), dict(scoring='per_token', shots=1), dict(scoring='per_char'),
       dict(scoring='likelihood', prompt=lambda o: [f'{o["question"]} {c}' for c in o['choices']],
            answers=lambda o: ['yes'] * 4)]


@pytest.mark.parametrize('how', HOW, ids=['plain', 'letters', 'per token', 'per char', 'own prompts'])
@pytest.mark.parametrize('kind', ['llama', 'gpt2', 'gemma3_text'])
def test_many_models_answer_as_each_alone(kind, how):
    model, stack = make(kind), None
    stack = LayerStack(model)
    for keep, score in zip(KEEPS, ask(model, **how)):
        with stack.view(keep) as small:
            alone = choice_accuracy(small, Letters(), questions(subjects=2), examples=questions(8, 1, 2), seed=None,
                                    batch_tokens=300, progress=False, **how)
        assert score.logprobs == alone.logprobs and score.picked == alone.picked
        assert (score.items, score.shots, score.groups, score.truncated) == \
            (alone.items, alone.shots, alone.groups, alone.truncated)


def test_a_stopped_call_goes_on(tmp_path, monkeypatch):
    "Stopped after each batch in turn: what was done is not run again, and no digit changes"
    model, file = make(), tmp_path/'answers'
    how = dict(scoring='letter', shots=2, batch_tokens=400)
    whole, real = ask(model, **how), choices.logprob_batches
    monkeypatch.setattr(time, 'perf_counter', iter(range(0, 10**6, 10)).__next__)  # each batch is old enough to be kept
    stops = 0
    while True:
        file.unlink(missing_ok=True)
        left = iter(range(stops + 1))

        def interrupted(*args, **kw):
            for o in real(*args, **kw):
                if next(left, None) is None: raise KeyboardInterrupt
                yield o
        monkeypatch.setattr(choices, 'logprob_batches', interrupted)
        try: ask(model, unfinished=file, **how)
        except KeyboardInterrupt: stops += 1
        else: break
        ran = []

        def counted(*args, **kw):
            for o in real(*args, **kw):
                ran.append(o)
                yield o
        monkeypatch.setattr(choices, 'logprob_batches', counted)
        again = ask(model, unfinished=file, **how)
        assert [o.logprobs for o in again] == [o.logprobs for o in whole] and ran
    assert stops > 2


def test_the_file_of_another_question_is_not_used(tmp_path, monkeypatch):
    model, file = make(), tmp_path/'answers'
    monkeypatch.setattr(time, 'perf_counter', iter(range(0, 10**6, 10)).__next__)
    plain = ask(model, unfinished=file)
    assert file.exists()
    other = ask(model, KEEPS[:3], unfinished=file)
    assert [o.logprobs for o in other] == [o.logprobs for o in plain[:3]]
    file.write_bytes(b'{}')
    with pytest.raises(PrunebookError, match='is damaged'): ask(model, unfinished=file)


def test_the_file_of_another_tokenizer_is_not_used(tmp_path, monkeypatch):
    class Shifted(Letters):
        def __call__(self, *args, **kw):
            ids = super().__call__(*args, **kw)['input_ids']
            return dict(input_ids=[[v + 1 if v > 5 else v for v in o] for o in ids])
    model, file = make(), tmp_path/'answers'
    monkeypatch.setattr(time, 'perf_counter', iter(range(0, 10**6, 10)).__next__)
    first = ask(model, unfinished=file)
    items, how = questions(subjects=2), dict(batch_tokens=300, progress=False)
    other = cut_answers(model, Shifted(), items, KEEPS, unfinished=file, **how)
    assert [o.logprobs for o in other] == [o.logprobs for o in cut_answers(model, Shifted(), items, KEEPS, **how)]
    assert other[0].logprobs != first[0].logprobs


@pytest.mark.parametrize('keeps', [[], [[]], [[0, 0]], [[9]]], ids=str)
def test_wrong_cuts_are_refused(keeps):
    with pytest.raises(PrunebookError): ask(make(), keeps)


def test_little_memory_means_small_batches():
    stack, tree = LayerStack(make()), share_prefixes(KEEPS)
    state = stack.hidden_size * stack.model.dtype.itemsize * (1 + max(map(states_stored, tree)))
    assert batch_room(stack, tree, 1, 10**6, 1000 * state / 1e9) == 1000
    few = ask(make(), memory=100 * state / 1e9)
    for a, b in zip(few, ask(make())): np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=1e-4)


def test_a_tree_of_some_models_keeps_their_numbers():
    ends = lambda roots: sorted(i for o in roots for i in [*o.ends, *ends(o.branches)])
    assert ends(pruned_tree(KEEPS, [1, 4])) == [1, 4] and ends(share_prefixes(KEEPS)) == [*range(5)]
