"Scores: losses, choices and generated answers, their intervals and comparisons, and the refusal of bad input."
import json, math
from pathlib import Path
import numpy as np, pytest, torch
from prunebook.core import PrunebookError
from prunebook.evaluation.choices import SCORINGS, _common_cache, choice_accuracy, prompt
from prunebook.evaluation.generation import begins_with_word, generate_texts, _greedy_config
from prunebook.evaluation.losses import divergence, text_loss
from prunebook.evaluation.scores import LossScore, Score, Scores, compare, load_score, paired_differences
from prunebook.evaluation.scores import ratio_interval, wilson
from prunebook.evaluation import tasks
from prunebook.evaluation.tasks import ChoiceTask, GeneratedTask, ask_cuts, evaluate
from prunebook.model.stack import LayerStack
from prunebook.similarity.distances import layer_distances
from support.tiny import Letters, letter_texts, letter_tokenizer, questions, tiny
from test_likelihood import plain

SMALL = dict(layers=4, initializer_range=.3)
texts = letter_texts()
good = dict(question='Q', choices=['a', 'b'], answer=0)
numbers = [dict(question='x' * n, answer='7') for n in (3, 11, 30)]

def ask(model, items, *args, **kw): return choice_accuracy(model, Letters(), items, *args, progress=False, **kw)

def wrote(model, tok, items, batch_tokens=None, **kw):
    "The score of what the model writes"
    return evaluate(model, tok, GeneratedTask('t', 'T', items, **kw), batch_tokens=batch_tokens, progress=False)['t']

# loss

def test_dropout_is_off_and_comes_back():
    model = tiny('gpt2', **SMALL).train()
    a, b = (text_loss(model, Letters(), texts, progress=False).value for _ in range(2))
    assert a == b
    assert model.training
    assert model.transformer.drop.training

def test_short_texts_are_listed_and_one_document_has_no_interval(tmp_path):
    s = text_loss(tiny(), Letters(), ['a', '', 'abc'], progress=False)
    assert s.skipped == [0, 1]
    assert s.n == 1
    assert (s.low, s.high) == (-math.inf, math.inf)
    s.save(tmp_path/'s.json')
    json.loads((tmp_path/'s.json').read_text(), parse_constant=lambda o: pytest.fail(f'{o} is not JSON'))
    assert load_score(tmp_path/'s.json') == s
    with pytest.raises(PrunebookError): text_loss(tiny(), Letters(), ['a', ''], progress=False)

def nan():
    model = tiny()
    with torch.no_grad(): model.model.norm.weight.fill_(math.nan)
    return model

@pytest.mark.parametrize('make, says, run', [
    (lambda: tiny('bert', **SMALL), 'is_decoder', lambda o: layer_distances(o, Letters(), texts, 64, progress=False)),
    (nan, 'not a number', lambda o: divergence(o, Letters(), tiny(), texts, progress=False)),
    (lambda: tiny(vocab_size=20), 'do not belong together', lambda o: wrote(o, Letters(), numbers, stop=()))],
    ids=['encoder', 'nan', 'small'])
def test_models_that_cannot_be_scored(make, says, run):
    "An encoder would read the answers, unless it is made to read forward only"
    for f in (run, lambda o: text_loss(o, Letters(), texts, progress=False), lambda o: ask(o, questions())):
        with pytest.raises(PrunebookError, match=says): f(make())
    assert text_loss(tiny('bert', is_decoder=True, **SMALL), Letters(), texts, progress=False).n == len(texts)

def test_offloaded(tmp_path):
    "Embedding, head and some layers on disk: the same losses and scores"
    from accelerate import dispatch_model
    model, items = tiny(**SMALL), questions()
    every = lambda m: (text_loss(m, Letters(), texts, max_length=32, progress=False).sums, ask(m, items).logprobs)
    want = every(model)
    where = dict.fromkeys(('model.norm', 'model.rotary_emb', 'model.layers.0', 'model.layers.1'), 'cpu')
    where |= dict.fromkeys(('model.embed_tokens', 'lm_head', 'model.layers.2', 'model.layers.3'), 'disk')
    there = dispatch_model(model, where, main_device='cpu', offload_dir=str(tmp_path), force_hooks=True)
    assert there.get_input_embeddings().weight.device.type == 'meta' and every(there) == want

def test_texts_are_cut_at_absolute_positions():
    "GPT-2 has 128 positions here; more tokens were an IndexError"
    model, tok = tiny('gpt2', layers=2), Letters()
    s = text_loss(model, tok, ['ab' * 300, 'cd' * 300], max_length=512, progress=False)
    assert s.counts == [127, 127]
    assert s.sums == text_loss(model, tok, ['ab' * 300, 'cd' * 300], max_length=128, progress=False).sums

def test_generation_stays_within_absolute_positions(caplog):
    model, tok = tiny('gpt2', layers=2), letter_tokenizer()
    s = wrote(model, tok, [dict(question='x' * 300, answer='7')], max_new_tokens=8)
    assert s.truncated == [0] and 'lose their beginning' in caplog.text
    with pytest.raises(PrunebookError, match='128 positions'):
        wrote(model, tok, [dict(question='x', answer='7')], max_new_tokens=128)

def test_answers_that_reach_the_limit_are_kept_and_told(tmp_path, caplog):
    "Of two files of one score, the older one does not say it"
    model, tok = tiny(layers=2, max_position_embeddings=256, initializer_range=.3), letter_tokenizer()
    model.generation_config.eos_token_id = None
    run = lambda most, **kw: evaluate(model, tok, GeneratedTask('t', 'T', numbers, **kw), max_new_tokens=most,
                                      progress=False)['t']
    s = run(6, stop=())
    assert s.unfinished == [0, 1, 2] and s.row()['unfinished'] == 3
    assert '3 of 3 answers reach the limit of 6 tokens' in caplog.text
    caplog.clear()
    ended = run(6, stop=tuple(o[2] for o in s.written))
    assert (ended.unfinished, ended.max_new_tokens, caplog.text) == ([], 6, '')
    assert run(6, stop=(), right=begins_with_word).unfinished == [0, 1, 2] and not caplog.text, 'such as LAMBADA'
    s.save(tmp_path/'new.json')
    assert load_score(tmp_path/'new.json') == s
    old = {k: v for k, v in s.to_dict().items() if k not in ('unfinished', 'max_new_tokens')}
    (tmp_path/'old.json').write_text(json.dumps(old))
    before = load_score(tmp_path/'old.json')
    assert before.unfinished is None and 'unfinished' not in before.row()
    assert paired_differences(dict(t=before), dict(t=s))[0]['difference'] == 0
    with pytest.raises(PrunebookError, match="'max_new_tokens': 6"): paired_differences(dict(t=s), dict(t=run(7)))

def test_answers_end_at_tokens_that_a_config_leaves_out():
    "A GGUF file names one end token, and Qwen2.5 has two: what it writes after the other is no part of its answer"
    model, tok = tiny(layers=2), letter_tokenizer()
    tok.eos_token = None
    def found(own):
        model.generation_config.eos_token_id = own
        return _greedy_config(model, tok, 1).eos_token_id
    assert [found(o) for o in (None, -1, 3, [3, 4])] == [[2], [2], [2, 3], [3, 4]]  # 2 is </s>
    tok.add_tokens(['<|endoftext|>', '<|end|>', 'other'], special_tokens=True)
    end, turn = tok.convert_tokens_to_ids(['<|endoftext|>', '<|end|>'])
    assert found(3) == [2, 3, end, turn] and found([3, 4]) == [3, 4]
    tok.add_tokens(['<|return|>'], special_tokens=True)  # of gpt-oss, whose <|end|> ends the reasoning
    assert found(3) == [2, 3, end]

def test_generation_obeys_no_config_of_the_folder():
    "Beams, several answers a prompt, penalties and stop strings of a folder are another measurement"
    model, tok = tiny(layers=2, max_position_embeddings=256, **dict(initializer_range=.3)), letter_tokenizer()
    model.generation_config.eos_token_id = None
    run = lambda: wrote(model, tok, numbers, max_new_tokens=6).written
    want, own = run(), model.generation_config
    own.update(num_beams=3, num_return_sequences=3, repetition_penalty=9., min_new_tokens=6, stop_strings=list('abcd'))
    assert run() == want
    assert model.generation_config is own
    assert own.num_beams == 3

# questions

def test_scorings():
    items = questions()
    model = tiny(max_position_embeddings=256, **SMALL)
    by = {s: ask(model, items, s) for s in SCORINGS}
    lp = by['likelihood'].logprobs
    sizes = dict(likelihood=lambda c: 1, per_char=len, per_token=lambda c: len(c) + 1)  # a space, then letters
    for name, size in sizes.items():
        assert by[name].picked == [np.argmax([p / size(c) for p, c in zip(l, o['choices'])]) for l, o in zip(lp, items)]
    s = by['letter']
    assert s.k == sum(p == o['answer'] for p, o in zip(s.picked, items)) and (s.low, s.high) == wilson(s.k, s.n)
    assert s.chance == .25

def test_shots_are_seeded_and_never_the_item_itself():
    items, model = questions(8), tiny(max_position_embeddings=512, **SMALL)
    run = lambda **kw: ask(model, items, shots=3, examples=items, **kw).logprobs
    assert run(seed=1) == run(seed=1) != run(seed=2)
    for shots in (9, '2', -1, True, 1.5):
        with pytest.raises(PrunebookError, match='shots'): ask(model, items, shots=shots, examples=items)
    with pytest.raises(PrunebookError, match='needs examples'): ask(model, items, shots=2)
    assert ask(model, items, shots=np.int64(3), examples=items, seed=1).logprobs == run(seed=1)

def test_unequal_counts_have_their_own_chance_and_duplicates_are_told(caplog):
    s = ask(tiny(layers=2), [good, good, dict(question='R', choices=['a', 'b', 'c', 'd'], answer=3)])
    assert math.isclose(s.chance, (1/2 + 1/2 + 1/4) / 3) and '1 of 3 questions are there more than once' in caplog.text
    assert math.isclose(s.majority, 2 / 3)

def test_examples_must_be_of_the_kind_that_is_asked():
    model, written = tiny(max_position_embeddings=512, layers=2), [dict(question=q, answer='7') for q in 'QRST']
    with pytest.raises(PrunebookError, match='example 0'): ask(model, questions(), shots=2, examples=written)
    with pytest.raises(PrunebookError, match='example 0'):
        wrote(model, Letters(), written, shots=1, examples=questions())

# generated answers

def written(*args, **kw): return [o.text for o in generate_texts(*args, **kw)]

def greedy(model, ids, n):
    "The first n tokens of a greedy loop without a cache"
    ids, start = list(ids), len(ids)
    for _ in range(n):
        with torch.no_grad(): ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]

def until(tokens, end): return tokens[:tokens.index(end)] if end in tokens else tokens

@pytest.mark.parametrize('kind, kw', [('llama', {}), ('gpt2', {}), ('falcon', dict(alibi=True)), ('qwen2_moe', {}),
                                      ('deepseek_v3', {}), ('gemma3', {})])
def test_answers_behind_common_examples_are_those_of_a_greedy_loop(kind, kw):
    "Prompts of unequal length, whose examples are computed once; the layers of gemma3 have windows"
    model, tok = tiny(kind, max_position_embeddings=256, **SMALL, **kw), letter_tokenizer()
    model.generation_config.eos_token_id = None
    begin = 'An example in front. '
    prompts = [tok(begin + o)['input_ids'] for o in ('abc', 'a question longer than the example', 'x')]
    n, cache = common = _common_cache(LayerStack(model), prompts, plain=True)
    assert (n, cache is None) == ((0, True) if kind == 'gemma3' else (len(begin), False))
    want = [tok.decode(until(greedy(model, o, 20), tok.eos_token_id), skip_special_tokens=True) for o in prompts]
    assert written(model, tok, prompts, 20) == want
    assert written(model, tok, prompts[:1], 20, common=common) == want[:1]
    stop = want[0][2]
    assert written(model, tok, prompts, 20, [stop]) == [o.partition(stop)[0] for o in want]

# the chat template

def test_chat_is_scored_behind_the_template_and_recorded():
    model, tok = tiny(max_position_embeddings=256, **SMALL), letter_tokenizer()
    with pytest.raises(PrunebookError, match='no chat template'):
        choice_accuracy(model, tok, questions(2), chat=True, progress=False)
    tok.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}[reply]"
    items = questions(3)
    s = choice_accuracy(model, tok, items, chat=True, progress=False)
    context, choice = f'[user]{prompt(items[0])}[end][reply]', items[0]['choices'][0]
    want = plain(model, *(tok(o)['input_ids'] for o in (context, choice)))
    assert s.chat and math.isclose(s.logprobs[0][0], want, rel_tol=1e-4)
    assert not ask(model, items).chat

# intervals and comparisons

def test_mcnemar_by_hand():
    choice = lambda picked: Score('t', 0., 0, 100, 0., 1., picked, [0] * 100, 'likelihood', .5, 1.)
    c = compare(choice([0] * 60 + [1] * 40), choice([0] * 70 + [1] * 30))
    assert math.isclose(c.p, 2 * .5**10) and 'McNemar' in c.test

def test_one_document_proves_nothing():
    loss = lambda v, n=1: LossScore('t', v, 0., 9., n, [10 * v] * n, [10] * n, list(range(n)), [], n_bytes=5, vocab=99)
    c = compare(loss(2.), loss(3.))
    assert (c.difference, c.low, c.high, c.p) == (1, -math.inf, math.inf, 1)
    assert compare(loss(2., 4), loss(3., 4)).p == 2 * .5**4

def test_only_scores_that_were_asked_alike_are_compared():
    plain, chat = (Score('t', 1., 1, 1, 0., 1., [0], [0], 'likelihood', .5, 1., chat=o) for o in (False, True))
    assert paired_differences(dict(t=plain), dict(t=plain))[0]['difference'] == 0
    with pytest.raises(PrunebookError, match='chat'): paired_differences(dict(t=plain), dict(t=chat))

def test_sample_logs_of_lm_eval():
    "Written by lm-eval 0.4.13 for the demo model, whole and without layers 10 and 11, with the totals that it printed"
    first, second = (Scores.load(Path(__file__).parent/'support'/'lm_eval'/o) for o in ('parent', 'pruned'))
    totals = {'small_arc,acc': (8, 6), 'small_arc,acc_norm': (5, 3), 'small_sums,last,exact_match': (11, 0),
              'small_sums,strict,exact_match': (11, 0)}
    assert {k: (o.k, second[k].k) for k, o in first.items()} == totals
    found = {o['task']: o['difference'] for o in paired_differences(first, second)}
    assert found == pytest.approx({k: (b - a) / 12 for k, (a, b) in totals.items()})
    other = second['small_sums,last,exact_match']
    with pytest.raises(PrunebookError, match='same items'): compare(first['small_arc,acc'], other)

def test_logs_that_cannot_be_read(tmp_path):
    "Of two models below one folder, as lm-eval writes them; and a damaged one"
    with pytest.raises(PrunebookError, match='several logs of small_arc,acc'):
        Scores.load(Path(__file__).parent/'support'/'lm_eval')
    (tmp_path/'samples_t_2026-11-29T11-21-56.1.jsonl').write_text('{"doc_id": 0')
    with pytest.raises(PrunebookError, match='samples_t'): Scores.load(tmp_path)

def test_a_log_holds_any_text_and_may_stand_beside_its_totals(tmp_path):
    [log] = (Path(__file__).parent/'support'/'lm_eval'/'parent').rglob('samples_small_arc*')
    rows = [json.loads(o) | dict(doc='a\x85b\u2028c') for o in log.read_text().splitlines()]
    (tmp_path/log.name).write_text(''.join(json.dumps(o, ensure_ascii=False) + '\n' for o in rows))
    (tmp_path/'results_2026-11-29T11-21-56.1.json').write_text('{}')
    assert Scores.load(tmp_path)['small_arc,acc'].k == 8

def test_scores_that_lm_eval_logged_can_be_kept(tmp_path):
    "Nothing is known there of a guess"
    logged = Scores.load(Path(__file__).parent/'support'/'lm_eval'/'parent')
    logged.save(tmp_path)
    for k, again in zip(sorted(logged), Scores.load(tmp_path).values()):
        assert again.right.tolist() == logged[k].right.tolist() and math.isnan(again.chance)

# the best few cuts

def test_of_the_best_cuts_those_that_answer_worse_are_dropped(monkeypatch):
    "On questions that the judge does not see; what the questions cannot tell stays in the order of the losses"
    model, rows, asked = tiny(layers=4), questions(60), []
    first, second = ChoiceTask('first', 'F', rows[:40]), ChoiceTask('second', 'S', rows[40:])
    wrong = {(0,): 20, (1,): 2, (2,): 0, (3,): 3}
    def scored(small, tok, ready, **run):
        out, gone = Scores(), tuple(small.config.prunebook['dropped'])
        asked.append({k: o.items for k, o in ready.items()})
        for k, o in ready.items():
            picked = [int(o.name == 'second' or i >= wrong[gone]) for i in range(len(o.items))]
            out[k] = Score(k, 0., sum(picked), len(picked), 0., 1., picked, [1] * len(picked), 'x', 0., 0.)
        return out
    monkeypatch.setattr(tasks, 'evaluate', scored)
    found = ask_cuts(model, None, [[0], [1], [2], [3]], [first, second], 24, 10)
    assert [o['dropped'] for o in found] == [[1], [2], [3], [0]] and [o['kept'] for o in found] == [True] * 3 + [False]
    assert found[3]['high'] < 0
    assert found[3]['right'] == dict(first=4, second=10)
    assert found[3]['questions'] == 34
    assert found[1]['difference'] == 0 and found[0]['difference'] == pytest.approx(-2 / 34)
    judged = [rows[i * 40 // 10] for i in range(10)]
    assert all(o == asked[0] for o in asked) and not [o for o in asked[0]['first'] if o in judged]
    for task, says in ((first, '40 questions, and the judge sees all'), ('c4', 'c4 asks no questions')):
        with pytest.raises(PrunebookError, match=says): ask_cuts(model, None, [[0]], task, n_judge=40)
    assert len(asked) == 4, 'nothing is asked before all is read'

def test_with_equal_counts_the_interval_is_that_of_a_mean():
    from scipy.stats import t
    sums = [1., 2., 4., 9.]
    half = t.ppf(.975, 3) * np.std(sums, ddof=1) / 2  # of four documents with a token each
    assert ratio_interval(sums, [1] * 4) == pytest.approx((4, 4 - half, 4 + half))
