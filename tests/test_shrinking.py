"One call from a model to a smaller one: it goes on after a kill, keeps nothing that failed a gate, and refuses early"
import json, shutil
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch, prunebook as pb
from prunebook import choose_layers, prune_model, shrinking
from prunebook.core import PrunebookError
from prunebook.data.texts import answer_row, load_texts, read_table
from prunebook.estimates import layer_sizes, model_size, peak_gb
from prunebook.evaluation.scores import Score, choice_score, wilson
from prunebook.evaluation.tasks import ready_tasks
from prunebook.healing.recipes import HealingConfig
from prunebook.paper.criteria import kept_cuts, retention_band
from prunebook.model.stack import LayerStack, show_layers
from prunebook.pruning.checkpoint import check_checkpoint
from prunebook.serving.stacks import RUNNERS
from prunebook.similarity.distances import layer_distances
from prunebook.shrinking import (Budget, Effort, Gates, Reading, Rejected, Shrunk, candidate_cuts, layers_to_drop)
from support import architectures
from support.checkpoints import edit_json
from support.tiny import letter_tokenizer, save, texts, tiny, word_tokenizer, write_rows

RECIPE = HealingConfig(steps=2, batch_size=2, max_length=16, rank=2, packing='packed')

def shrink(*args, **given):
    "A call by the names of its command: what a group holds goes into it"
    for k, kind in dict(budget=Budget, read=Reading, effort=Effort, gates=Gates).items():
        own = {o.name: given.pop(o.name) for o in fields(kind) if o.name in given}
        if own: given[k] = replace(given.get(k, kind()), **own)
    return shrinking.shrink(*args, **given)

@pytest.fixture
def given(own, tmp_path):
    "The arguments of a call, by the names of its command"
    return dict(model=str(own/'model'), out=tmp_path/'out', drop=2, data=str(own/'texts.txt'), recipe=RECIPE,
                tasks=[str(own/'mine.jsonl')], n_questions=10, progress=False)

HEAL = 'prunebook.healing.healing.heal'

def stop(*args, **kw): raise KeyboardInterrupt

def interrupted(given, monkeypatch, at=HEAL, how=stop):
    with monkeypatch.context() as m:
        m.setattr(at, how)
        with pytest.raises(KeyboardInterrupt): shrink(**given)

@pytest.mark.parametrize('step', [HEAL, 'prunebook.shrinking._report'])
def test_goes_on_where_it_stopped(given, tmp_path, monkeypatch, step):
    took = iter([1., 1., .5, .5])  # the estimate differs from start to start
    given |= dict(minutes=6)
    estimated = lambda *a, **kw: pd.DataFrame(dict(command=['heal'], minutes=[next(took)]))
    monkeypatch.setattr('prunebook.estimates.estimate', estimated)
    interrupted(given, monkeypatch, step)
    assert not (tmp_path/'out').exists() and (tmp_path/'out.unfinished').exists()
    with monkeypatch.context() as m:
        m.setattr(shrinking, 'candidate_cuts', stop)  # the cuts are known
        if step.endswith('_report'): m.setattr(shrinking, '_judge', stop)
        assert shrink(**given).tokens == 12 * 32  # steps of the first estimate
    assert [p.name for p in tmp_path.iterdir()] == ['out']
    assert check_checkpoint(tmp_path/'out') == []

@pytest.mark.parametrize('at', ['prunebook.core._put', 'shutil.rmtree'])
def test_goes_on_from_the_very_end(given, monkeypatch, at):
    "Stopped as the folder is put in its place, or as half of the healing in it is deleted"
    real = resolve_name(at.replace('._', ':_').replace('.rm', ':rm'))
    def how(folder, *rest, **kw):
        if rest and rest[0].name == 'out': stop()
        if not rest and (Path(folder)/'adapter').is_dir():
            (Path(folder)/'asked.json').unlink(missing_ok=True)
            stop()
        return real(folder, *rest, **kw)
    interrupted(given, monkeypatch, at, how)
    assert not shrink(**given).problems

def test_a_place_that_was_taken_meanwhile_costs_no_healing(given, own, tmp_path, monkeypatch):
    "And a tokenizer that gives more than ids is no obstacle"
    given['model'] = str(shutil.copytree(own/'model', tmp_path/'m'))
    names = ['input_ids', 'token_type_ids', 'attention_mask']
    edit_json(tmp_path/'m'/'tokenizer_config.json', model_input_names=names)
    judged = shrinking._judge
    def meanwhile(*args):
        (tmp_path/'out').mkdir()
        (tmp_path/'out'/'mine').touch()
        return judged(*args)
    monkeypatch.setattr(shrinking, '_judge', meanwhile)
    with pytest.raises(PrunebookError, match='is not empty'): shrink(**given)
    assert (tmp_path/'out.unfinished'/'healing').exists() and (tmp_path/'out.unfinished'/'table.json').exists()

@pytest.fixture
def answered(given, tmp_path):
    "The arguments of a call for a model with a chat template, its prompts with answers, and questions"
    tok = letter_tokenizer()
    tok.chat_template = ("{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]{% else %}"
                         "{% generation %}{{ m['content'] }}.{% endgeneration %}{% endif %}{% endfor %}")
    save(tmp_path/'chat', tiny(layers=6, max_position_embeddings=1024), tok)
    said = [[dict(role='user', content=f'{i} and {i}'), dict(role='assistant', content='the same ' * 4)]
            for i in range(20)]
    write_rows(tmp_path/'answers.jsonl', [dict(messages=o) for o in said])
    write_rows(tmp_path/'asked.jsonl', [dict(question=f'{i} and {i}', choices=['same', 'other', 'none'], answer=i % 3)
                                        for i in range(30)])
    del given['data']
    return given | dict(model=str(tmp_path/'chat'), prompts=str(tmp_path/'answers.jsonl'), max_new_tokens=32,
                        tasks=[str(tmp_path/'asked.jsonl')], gates=Gates(min_retention=0, allow_empty=True),
                        recipe=RECIPE.replace(max_length=96))

def test_answers_choose_heal_and_judge(answered, tmp_path, monkeypatch):
    judged, real = [], shrinking._judge
    def judge(models, tok, held, job, *more):
        judged.append((held, job.ready))
        return real(models, tok, held, job, *more)
    monkeypatch.setattr(shrinking, '_judge', judge)
    chosen, ask = [], shrinking.ask_cuts
    monkeypatch.setattr(shrinking, 'ask_cuts', lambda m, t, cuts, tasks, *a, **kw: (
        chosen.extend(o['question'] for task in tasks for o in task.items), ask(m, t, cuts, tasks, *a, **kw))[1])
    interrupted(answered, monkeypatch)
    with monkeypatch.context() as m:
        m.setattr(shrinking, 'answer_cuts', stop)  # both are known
        m.setattr(shrinking, 'ask_cuts', stop)
        done = shrink(**answered)
    assert {o['rule'] for o in done.cuts} == {'answers'} and len(done.cuts) > 1
    assert all(o['questions'] == 10 and o['kept'] for o in done.cuts[:1])
    assert [o['measure'] for o in done.table][:2] == ['loss', 'agreement']
    [(held, ready)] = judged
    assert len(held) == 4
    assert len(chosen) == 10 and not {*chosen} & {o['question'] for t in ready.values() for o in t.read_from}
    assert 'on 16 answers' in done.notes[0]
    assert '4 others' in done.notes[0]
    assert '20 answers came with' in done.notes[0]
    assert show_layers(done.cuts[1]['dropped']) in str(done)

def test_the_best_cuts_are_those_of_the_search(answered):
    model, tok = pb.load_model(answered['model'], progress=False)
    rows = [o for o in read_table(answered['prompts'])]
    found = shrinking.answer_cuts(model, tok, rows, 2, progress=False)
    plan = choose_layers('answers', 2, model=model, tokenizer=tok, answers=rows, progress=False)
    assert found[0]['dropped'] == sorted(plan.layers)
    assert [o['loss'] for o in found] == sorted(o['loss'] for o in found)
    assert len({tuple(o['dropped']) for o in found}) == len(found) > 1

def test_prompts_need_a_chat_template_and_no_texts(answered, given, own, monkeypatch):
    monkeypatch.setattr('prunebook.load_model', stop)
    with pytest.raises(PrunebookError, match='answers.jsonl.*Give one of both'):
        shrink(**answered, data=str(own/'texts.txt'))
    with pytest.raises(PrunebookError, match="no chat template.*--data"):
        shrink(**answered | dict(model=str(own/'model')))
    with pytest.raises(PrunebookError, match='max_new_tokens=0'): shrink(**answered | dict(max_new_tokens=0))
    few = Path(answered['prompts'])
    few.write_text('\n'.join(few.read_text().splitlines()[:9]))
    with pytest.raises(PrunebookError, match='9 different prompts'): shrink(**answered)

@pytest.mark.parametrize('name', ['arc_easy', 'arc_easy:scoring=letter,permute=1'])
def test_the_questions_that_choose_and_judge_are_asked_in_the_same_order(name):
    from prunebook.data.questions import load_questions
    task = shrinking._ready_tasks([name], Gates(n_questions=50))[name]
    choose, judge = shrinking._choosing_questions(task, 20)
    def asked(items): return {(o['question'], *o['choices']) for o in items}
    assert len(choose.items) == 20 and len(judge.items) == 50
    assert asked([*choose.items, *judge.read_from]) == asked(ready_tasks([name])[name].items)
    assert asked(judge.items) <= asked(judge.read_from)
    assert (asked(judge.read_from) <= asked(load_questions('arc_easy'))) == ('permute' not in name)

def test_texts_judge_and_do_not_choose(answered, monkeypatch):
    monkeypatch.setattr('prunebook.load_model', stop)
    few = Path(answered['tasks'][0])
    few.write_text('\n'.join(few.read_text().splitlines()[:2]))
    with pytest.raises(PrunebookError, match='asked.jsonl has 2 questions.*at least 3'):
        shrink(**answered | dict(n_questions=2))
    with pytest.raises(KeyboardInterrupt): shrink(**answered | dict(tasks=['c4']))  # it gets as far as the weights

def test_answers_of_another_model_or_edited_ones_cost_no_loading(answered, monkeypatch):
    rows = [answer_row(o['messages'], by='parent', parent='0' * 16, model='other')
            for o in read_table(answered['prompts'])]
    monkeypatch.setattr('prunebook.load_model', stop)
    write_rows(Path(answered['prompts']), rows)
    with pytest.raises(PrunebookError, match='written by another model, other'): shrink(**answered)
    rows[0]['messages'][1]['content'] += '!'
    write_rows(Path(answered['prompts']), rows)
    with pytest.raises(PrunebookError, match='answer 0 was edited'): shrink(**answered)

@pytest.mark.parametrize('depth', [18, 26, 28, 34])
def test_a_share_is_as_many_layers_as_anywhere(depth):
    assert layers_to_drop('25%', depth) == len(choose_layers('simple', share=.25, depth=depth).layers)

@pytest.mark.parametrize('drop', [1., 2., 28., '1.0', '1.', '3.0', '1e0', True])
def test_a_share_of_everything_is_not_one_layer(drop):
    n = int(float(drop))
    with pytest.raises(PrunebookError, match=f'{drop!r}.*below 1.*drop={n}') as e: layers_to_drop(drop, 28)
    assert f'--drop {n}' in str(e.value)

def test_a_number_is_whole_and_a_share_is_below_one():
    same = {1: (1, '1', .02, '.02', '2%', np.int64(1)), 3: (' 3 ', '10%'), 27: (27, '27', .96, '96%')}
    for n, forms in same.items(): assert [layers_to_drop(o, 28) for o in forms] == [n] * len(forms)

def test_other_texts_or_another_model_of_the_same_name_do_not_go_on(given, own, tmp_path, monkeypatch):
    given['data'] = str(shutil.copy(given['data'], tmp_path/'my.txt'))
    interrupted(given, monkeypatch)
    another = given | dict(model=str(shutil.copytree(own/'model', tmp_path/'model')))
    with pytest.raises(PrunebookError, match='model [0-9a-f]{8}. then'): shrink(**another)
    (tmp_path/'my.txt').write_text('\n'.join(texts(60, seed=2)))
    with pytest.raises(PrunebookError, match='texts') as e: shrink(**given)
    assert '--force' in str(e.value) and '--resume' not in str(e.value)
    asked = given | dict(data=str(own/'texts.txt'), tasks=[str(shutil.copy(given['tasks'][0], tmp_path/'q.jsonl'))],
                         out=tmp_path/'other')
    interrupted(asked, monkeypatch)
    with (tmp_path/'q.jsonl').open('a') as f: f.write(json.dumps(dict(question='new?', choices=['a', 'b'], answer=0)))
    with pytest.raises(PrunebookError, match='tasks'): shrink(**asked)

def test_a_rejected_folder_of_somebody_else_stays(given, tmp_path):
    (tmp_path/'out.rejected').mkdir()
    with pytest.raises(PrunebookError, match='not made by prunebook'): shrink(**given, gates=Gates(max_added_loss=-10))

def test_only_cuts_that_a_stack_runs():
    "Without its four layers, a Gemma of a period of six keeps its kinds only if they are the last"
    kinds = ['full_attention' if i % 6 == 5 else 'sliding_attention' for i in range(18)]
    model = tiny('gemma3_text', 18, layer_types=kinds, sliding_window=8, max_position_embeddings=128)
    free, found = (candidate_cuts(model, word_tokenizer(), texts(), 4, o, progress=False) for o in ((), ['llama.cpp']))
    assert found and all(o['dropped'] == [14, 15, 16, 17] for o in found)
    assert any(o['dropped'] != [14, 15, 16, 17] for o in free)

def test_conversations_are_not_measured_at_the_token_that_ends_them_all(caplog):
    tok = word_tokenizer()
    tok.chat_template = '{% for m in messages %}{{ m.content }} end {% endfor %}'
    said = [dict(prompt=o, response=o) for o in texts()[:16]]
    candidate_cuts(tiny(layers=6), tok, said, 2, progress=False)
    run = dict(max_length=128, progress=False)
    assert layer_distances(tiny(layers=6), tok, said, **run).info['tokens'] == 'all'
    assert layer_distances(tiny(layers=6), tok, texts()[:16], **run).info['tokens'] == 'last'
    assert 'end in token' not in caplog.text
    layer_distances(tiny(layers=6), tok, said, **run, tokens='last')
    assert 'end in token' in caplog.text

def test_texts_that_make_no_batch_are_refused_before_the_cuts_are_compared(given, monkeypatch):
    monkeypatch.setattr(shrinking, 'candidate_cuts', lambda *args: pytest.fail('compared'))
    large = RECIPE.replace(batch_size=999)
    with pytest.raises(PrunebookError, match='fewer than one batch'): shrink(**given | dict(recipe=large))
    assert not given['out'].with_name('out.unfinished').exists()  # which would bind the next call

@pytest.mark.extra
@pytest.mark.thorough
@pytest.mark.skipif(not RUNNERS['llama.cpp'].installed, reason='needs the extra gguf')
def test_a_file_for_llama_cpp(given, tmp_path):
    "The demo model, since a tokenizer goes into the file as well"
    data = write_rows(tmp_path/'my.jsonl', [dict(text=o[:600]) for o in load_texts('demo', 'healing', n=20)])
    done = shrink(**given | dict(model='demo', recipe=RECIPE.replace(max_length=64), data=str(data), tasks=['arc_easy'],
                                 serve=['llama.cpp'], gguf='q8_0', gates=Gates(allow_empty=True)))
    assert not done.problems and done.use[-1] == f"llama-server -m {tmp_path/'out'/'model.gguf'}"
    with open(tmp_path/'out'/'model.gguf', 'rb') as f: assert f.read(4) == b'GGUF'
    assert {p.name for p in tmp_path.iterdir()} == {'out', 'my.jsonl'}

def test_a_file_that_llama_cpp_cannot_have_costs_no_healing(given, tmp_path, monkeypatch):
    "The checkpoint without it is the same, so the call without it goes on"
    monkeypatch.setattr(shrinking, 'llama_cpp', dict)
    def fails(folder, out, *rest, **kw):
        Path(out).write_text('half')
        raise PrunebookError('the tokenizer is none that llama.cpp knows.')
    monkeypatch.setattr('prunebook.export_gguf', fails)
    with pytest.raises(Rejected) as e:
        shrink(**given | dict(out=tmp_path/'no', gguf='q8_0', gates=Gates(max_added_loss=-10)))
    assert 'gguf' not in str(e.value.done)  # nothing was exported
    shutil.rmtree(tmp_path/'no.rejected')
    with pytest.raises(PrunebookError, match='none that llama.cpp knows.*--gguf'): shrink(**given, gguf='q8_0')
    monkeypatch.setattr('prunebook.healing.healing._train', lambda *args, **kw: pytest.fail('trained again'))
    assert not shrink(**given).problems and [p.name for p in tmp_path.iterdir()] == ['out']

@pytest.mark.skipif(not RUNNERS['llama.cpp'].installed, reason='needs the extra gguf')
def test_an_architecture_that_llama_cpp_does_not_know_is_refused_before_loading(given, own, tmp_path, monkeypatch):
    shutil.copytree(own/'model', tmp_path/'odd')
    edit_json(tmp_path/'odd'/'config.json', architectures=['OddForCausalLM'])
    monkeypatch.setattr('prunebook.load_model', stop)
    with pytest.raises(PrunebookError, match='OddForCausalLM is an architecture that'):
        shrink(**given | dict(model=str(tmp_path/'odd')), gguf='f16')
    with pytest.raises(KeyboardInterrupt): shrink(**given, gguf='f16')  # a known one is loaded

def test_memory_is_judged_before_loading(given, monkeypatch):
    "The need is that of healing, as `estimate` says: the parent teaches from the memory that it is cut in"
    given['recipe'] = RECIPE.replace(objective='distill')
    need = peak_gb(model_size(given['model']), 'heal', recipe=given['recipe'])
    monkeypatch.setattr('prunebook.load_model', stop)
    for ram, force, error in ((need * (1 - 1e-9), False, PrunebookError), (need * (1 + 1e-9), False, KeyboardInterrupt),
                              (1e-6, True, KeyboardInterrupt)):
        monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: dict(RAM=ram))
        with pytest.raises(error): shrink(**given, force_memory=force)

def asked(right, chance, measure='arc', seconds=1.):
    "Scores of parent, pruned and healed, with so many right answers; what one of them knows, a better one knows too"
    def score(k, n):
        value, (low, high) = k / n, wilson(k, n)
        return Score(measure, value, k, n, low, high, [int(i < k) for i in range(n)], [1] * n, 'x', chance, chance,
                     seconds=seconds)
    parent, healed, n = right
    return dict(parent=score(parent, n), pruned=score(healed, n), healed=score(healed, n))

# parent and healed of so many questions, chance, the least share that must be kept, and the word
RETENTION = [(80, 80, 100, .25, .8, 'passes'), (80, 79, 100, .25, .8, 'passes'), (80, 70, 100, .25, .8, 'undecided'),
             (320, 310, 400, .25, .8, 'passes'), (80, 60, 100, .25, .8, 'fails'), (320, 260, 400, .25, .8, 'fails'),
             (80, 60, 100, .25, .4, 'passes'), (50, 0, 100, .25, .8, 'fails'), (80, 85, 100, .25, 1., 'passes'),
             (28, 28, 100, .25, .8, 'not judged'), (20, 30, 100, .25, .8, 'not judged'),
             (1, 1, 1, .25, .8, 'not judged'),
             (60, 58, 100, 0., .8, 'passes'), (60, 50, 100, 0., .8, 'undecided'), (60, 30, 100, 0., .8, 'fails'),
             (10, 0, 100, 0., .8, 'fails'), (1, 0, 100, 0., .8, 'undecided'), (1, 0, 1, 0., .8, 'undecided'),
             (0, 0, 100, 0., .8, 'not judged'), (80, 10, 100, .25, 0, None), (80, 10, 100, .25, None, None)]

@pytest.mark.parametrize('parent, healed, n, chance, least, word', RETENTION)
def test_what_is_kept_of_what_the_parent_knows(parent, healed, n, chance, least, word):
    "The interval decides. What it leaves open, and a task that the parent does not know, is named, and is no failure"
    row = shrinking._row('arc', asked((parent, healed, n), chance))
    if word is None:
        assert shrinking._failed([dict(change=0.), row], dict(parent={}, healed={}), Gates(min_retention=least)) == []
        return
    assert shrinking._word(row, least) == word
    row |= dict(gate=word)
    done = Shrunk('small', [dict(rule='middle', dropped=[1])], [row], {}, 8, [], [], least)
    assert word in str(done) and word in done.gates[0]
    for strict in (False, True):
        gates = Gates(min_retention=least, strict=strict)
        found = shrinking._failed([dict(change=0.), row], dict(parent={}, healed={}), gates)
        assert bool(found) == (word == 'fails' or strict and word == 'undecided')
        assert all('arc' in o and word in o and f'{row["kept"]:.0%}' in o and f'{least:.0%}' in o for o in found)

def test_the_interval_of_what_is_kept_is_that_of_a_sweep():
    "Where a curve's band is given for one cut alone, it is nearly the same; and so is the paired test of what is kept"
    rng = np.random.default_rng(0)
    for healed, chance in ((.7, .25), (.6, .5), (.55, 0.)):
        ease = rng.random(n := 1000)
        right = np.array([ease < .8, np.where(rng.random(n) < .2, rng.random(n), ease) < healed])
        scores = [Score('t', o.mean(), int(o.sum()), n, 0., 1., o.astype(int).tolist(), [1] * n, 'x', chance, 0.)
                  for o in right]
        share, low, high = shrinking._kept(*scores)
        value, *band = (o[1] for o in retention_band(right, chance))
        assert share == pytest.approx(value) and (low, high) == pytest.approx(band, abs=.01)
        for least in np.linspace(low - .02, low + .02, 9):  # kept_cuts has no number exactly where the test turns
            if abs(least - low) > 1e-3: assert (low > least) == kept_cuts(right, chance, least, alpha=.025), least

KNOWS = dict(passes=80, fails=40, undecided=70, **{'not judged': 80})  # of a hundred questions

@pytest.fixture
def scored(given, tmp_path, monkeypatch):
    """`scored(word)` makes a healed model whose task passes, fails, stays undecided, or is not judged, and returns a
    list that will hold how many questions are asked, of each model. A hundred take the three so many seconds"""
    def file(name, n):
        rows = [dict(question=f'{i} and {i}', choices=['a', 'b', 'c', 'd'], answer=0) for i in range(n)]
        return str(write_rows(tmp_path/name, rows))
    given |= dict(tasks=[file('q.jsonl', 500)], n_questions=100)
    def use(word, seconds=1., stop_after=99):
        noted, calls = [], []
        def evaluate(model, tok, ready, **run):
            if len(calls) == stop_after: stop()
            knows, found = KNOWS[word] if len(calls) % 3 else 25 if word == 'not judged' else 80, {}
            for k, task in ready.items():
                wrong = [int(int(o['question'].split()[0]) * 61 % 100 >= knows) for o in task.items]
                found[k] = choice_score(k, wrong, task.items, 'x', seconds=seconds / 300 * len(wrong))
                noted.append(len(wrong))
            calls.append(1)
            return found
        monkeypatch.setattr('prunebook.evaluate', evaluate)
        return noted
    use.file = file
    return use

ENDS = [('passes', True, True), ('fails', False, False), ('undecided', False, True), ('undecided', True, False),
        ('not judged', True, True)]

@pytest.mark.parametrize('word, strict, kept', ENDS)
def test_the_gate_is_on_by_default_and_its_word_stands_everywhere(word, strict, kept, given, scored):
    "In the table, in shrink.json, in the report and on the card"
    noted, out, rejected = scored(word), given['out'], given['out'].with_name('out.rejected')
    if kept: done = shrink(**given, gates=Gates(strict=strict))
    else:
        with pytest.raises(Rejected) as e: shrink(**given, gates=Gates(strict=strict))
        done = e.value.done
    place = out if kept else rejected
    assert noted == [100] * 3 + [400] * 3 * (word == 'undecided')
    assert (done.table[1]['gate'], done.table[1]['n'], done.min_retention) == (word, noted[-1], .8)
    assert json.loads((place/'shrink.json').read_text())['table'][1]['gate'] == word
    for o in (str(done), (place/'report.html').read_text()): assert f' {word}\n' in o and 'gate\n' in o
    assert f'| {word} |' in (place/'README.md').read_text()
    assert out.exists() == kept != rejected.exists() and check_checkpoint(place) == []
    assert not {'table.json', 'again1.json'} & {o.name for o in place.iterdir()}

def test_without_the_gate_nothing_is_rejected_or_asked_again(given, scored):
    noted = scored('fails')
    done = shrink(**given, gates=Gates(min_retention=0))
    assert noted == [100] * 3
    assert not done.gates
    assert 'gate' not in done.table[1]
    assert '## What is kept' not in (given['out']/'README.md').read_text()

# questions of two tasks, how many are asked first, the minutes, the seconds of a hundred, and how many are asked then
MORE = [(500, 100, None, 1., 400, 400), (500, 100, 1, 1., 400, 400), (500, 100, 1, 60., None, None),
        (500, 100, 1, 24., 250, None), (500, 100, 1, 10., 400, 200), (150, 100, None, 1., 150, 150),
        (100, 100, None, 1., None, None), (500, 450, None, 1., None, None)]

@pytest.mark.parametrize('there, first, minutes, seconds, one, other', MORE)
def test_more_questions_while_there_are_some_and_time_is_left(there, first, minutes, seconds, one, other, scored,
                                                              tmp_path):
    "The time that is left is that of all tasks; what was asked is read again, and not asked"
    noted = scored('undecided', seconds)
    ready = ready_tasks([scored.file(f'{o}.jsonl', there) for o in 'xy'], first)
    models = dict.fromkeys(('parent', 'pruned', 'healed'), SimpleNamespace(config=tiny().config))
    table = shrinking._asked(models, None, ready, False)
    del noted[:]
    found = shrinking._gated([*table], .8, minutes, models, None, ready, tmp_path, False)
    assert noted == [o for n in (one, other) if n for o in [n] * 3]
    assert [(o['n'], o['gate']) for o in found] == [(n or first, 'undecided') for n in (one, other)]
    assert shrinking._gated([*table], .8, minutes, models, None, ready, tmp_path, False) == found
    assert len(noted) == 3 * sum(o is not None for o in (one, other))

def test_a_run_that_was_stopped_asks_nothing_twice(given, scored, monkeypatch):
    "Stopped between two tasks, of which more was asked, and continued with another gate"
    given['tasks'] += [scored.file('other.jsonl', 500)]
    noted = scored('undecided', stop_after=6)
    with pytest.raises(KeyboardInterrupt): shrink(**given)
    assert noted == [100] * 6 + [400] * 3
    more = scored('undecided')
    with pytest.raises(Rejected, match='other.jsonl is undecided'): shrink(**given, gates=Gates(strict=True))
    assert more == [400] * 3

def test_a_target_instead_of_a_number_of_layers(given, capsys):
    "All that a run needs is checked for the budget too, and a run with progress says the budget first"
    sizes, given = layer_sizes(given['model']), given | dict(drop=None, tokens=70, budget=Budget(speedup=1.3))
    assert list(shrink(**given, dry_run=True).command)[:3] == ['similarity', 'prune', 'heal']
    done, said = shrink(**given | dict(progress=True)), capsys.readouterr().err
    assert 'peak_gb' in said and done.tokens == 96  # three steps of 32
    n = len(done.cuts[0]['dropped'])
    less, enough = (sizes.after(range(o))['speedup'] for o in (n - 1, n))
    assert less < 1.3 <= enough

def chat(given, model): given['data'] = str(write_rows(
    model.with_name('chat.jsonl'), [dict(prompt=f'What is {i}?', response='A number.') for i in range(20)]))

def code(given, model):
    given['trust_remote_code'] = True
    edit_json(model/'config.json', auto_map=dict(AutoModelForCausalLM='own.Model'))

def other_tokenizer(given, model):
    with pytest.MonkeyPatch.context() as m:
        m.setattr('support.tiny.words', [f'word{i}' for i in range(5000)])
        word_tokenizer().save_pretrained(model)

def unknown_token(given, model):
    "As a sign of a template for which nobody made room in the embedding"
    (tok := letter_tokenizer()).add_special_tokens(dict(additional_special_tokens=['<|end|>']))
    tok.save_pretrained(model)
    rows = [dict(text=f'A text, {i}.<|end|>') for i in range(40)]
    given['data'] = str(write_rows(model.with_name('my.jsonl'), rows))

def no_tokenizer(given, model): [o.unlink() for o in model.glob('tokenizer*')]

def no_cut(given, model):
    "llama.cpp knows the scale of the largest Gemma 3 by its 62 layers"
    shape = dict(hidden_size=64, head_dim=8, query_pre_attn_scalar=16, max_position_embeddings=128)
    save(model, tiny('gemma3_text', 62, **shape))
    given['serve'] = ['llama.cpp']

EARLY = {chat: 'no chat template', code: 'runs code of its own', other_tokenizer: 'another model.*right tokenizer',
         unknown_token: 'gives token 99, and the model knows tokens 0 to 98', no_tokenizer: 'cannot load',
         no_cut: 'no block of 2 layers can go',
         lambda given, model: given.update(recipe=RECIPE.replace(max_length=9999)): 'max_length=9999',
         lambda given, model: edit_json(model/'config.json', quantization_config=dict(quant_method='fp8')):
             'its weights are quantised'}

@pytest.mark.parametrize('dry', (True, False))
@pytest.mark.parametrize('spoil, says', EARLY.items(), ids=EARLY.values())
def test_what_cannot_end_well_is_refused_before_a_weight_is_loaded(spoil, says, dry, given, tmp_path, monkeypatch):
    "A dry run gives no budget either"
    for o in ('load_model', 'estimate'): monkeypatch.setattr(f'prunebook.{o}', pytest.fail)
    model = shutil.copytree(given['model'], tmp_path/'model')
    spoil(given, model)
    with pytest.raises(PrunebookError, match=says): shrink(**given | dict(model=str(model)), dry_run=dry)
    assert not list(tmp_path.glob('out*'))

def test_cuts_of_layers_that_share_keys_and_values():
    "No walk starts in their middle, and some cuts cannot be: those that can are compared"
    kinds = ['sliding_attention', 'sliding_attention', 'full_attention'] * 2 + ['sliding_attention', 'full_attention']
    model = architectures.tiny('gemma4_text', num_kv_shared_layers=4, layer_types=kinds)
    cuts = candidate_cuts(model, word_tokenizer(), texts(16), 2, progress=False)
    assert cuts and all(prune_model(model, o['dropped']) and 0 < o['loss'] < 9 for o in cuts)
    @torch.no_grad()
    def spread(model): return float(model(torch.arange(9)[None]).logits.std())
    assert len(choose_layers('best_loss', 2, depth=8, model=model, loss=spread)) == 2

def test_a_secret_is_not_kept_and_the_seed_is_the_recipes(given, tmp_path, monkeypatch):
    given |= dict(token='hf_secret', recipe=RECIPE.replace(seed=7), tasks=(), gates=Gates(min_retention=None))
    interrupted(given, monkeypatch)
    assert 'hf_secret' not in ''.join(o.read_text() for o in (tmp_path/'out.unfinished').rglob('*.json'))
    done = shrink(**given)
    assert [o['measure'] for o in done.table] == ['loss', 'parameters', 'tokens a second']
    record = json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']
    assert record['strategy'] == done.cuts[0]['rule'] and '| seed | 7 |' in (tmp_path/'out'/'README.md').read_text()

def test_bits_are_refused_before_the_texts_are_read(tmp_path, monkeypatch):
    monkeypatch.delattr(shrinking, '_split_data')
    for bits, says in ((4, 'quantised'), (5, 'bits=5')):
        with pytest.raises(PrunebookError, match=says): shrink('demo', tmp_path/'out', bits=bits)

def test_lost_answers_are_those_of_the_parent():
    "A cut that had lost its answers before healing does not excuse them"
    answers = dict(parent={'Who?': 'It was Ada.'}, pruned={'Who?': ''}, healed={'Who?': ''})
    loss = [dict(measure='loss', change=0.)]
    assert 'Who?' in shrinking._failed(loss, answers, Gates(min_retention=None))[0]
    assert not shrinking._failed(loss, answers, Gates(min_retention=None, allow_empty=True))

def test_tasks_that_fell_are_named():
    "An accuracy whose interval lies below 0; a loss has gates of its own"
    def row(measure, low, high, chance): return dict(measure=measure, parent=.5, pruned=.4, healed=.4, change=-.1,
                                                     low=low, high=high, chance=chance)
    table = [row('loss', -.2, -.1, None), row('arc_easy', -.2, -.01, .25), row('piqa', -.2, .01, .5)]
    done = Shrunk('small', [dict(rule='middle', dropped=[1])], table, {}, 8, [], [])
    assert done.fell == ['arc_easy'] and 'arc_easy fell by more than chance' in str(done)

def test_an_answer_without_room_is_refused_before_the_cuts_are_compared(given, tmp_path, monkeypatch):
    "GPT-2 has a table of positions"
    given |= dict(model=str(save(tmp_path/'gpt2', tiny('gpt2', 6))), data=str(given['data']), tasks=['sums'])
    monkeypatch.setattr(shrinking, 'candidate_cuts', None)
    with pytest.raises(PrunebookError, match='answers of up to 256 tokens, and the model has 128 positions'):
        shrink(**given)
    assert not tmp_path.joinpath('out.unfinished').exists()

def test_a_template_that_writes_the_date_goes_on_tomorrow(given, tmp_path, monkeypatch):
    "As those of Llama 3.2, gpt-oss and SmolLM3: the tokens of the texts are those of the first start"
    tok = letter_tokenizer()
    tok.chat_template = ("{{ strftime_now('%d %b %Y') }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
                         "</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}")
    talks = [dict(prompt=f'What is {i}?', response=f'A number, {7 * i}.') for i in range(20)]
    given |= dict(model=str(save(tmp_path/'m', tiny(layers=6, max_position_embeddings=1024), tok)), tasks=(),
                  gates=Gates(min_retention=0), data=str(write_rows(tmp_path/'chat.jsonl', talks)),
                  recipe=RECIPE.replace(max_length=128))
    class Day(datetime):
        today = 1
        @classmethod
        def now(cls, tz=None): return cls(2026, 1, cls.today)
    monkeypatch.setattr('transformers.utils.chat_template_utils.datetime', Day)
    def begun(*args, folder, **kw):
        (folder/'checkpoints').mkdir()
        (folder/'checkpoints'/'x').write_text('')
        raise KeyboardInterrupt
    interrupted(given, monkeypatch, 'prunebook.healing.healing._train', begun)
    Day.today = 2
    assert shrink(**given).table

def test_a_disk_with_room_for_the_result_is_enough(given, monkeypatch):
    "The weights that stay, and little beside them"
    free = model_size(given['model']).parameters * 6  # the model is in float32
    monkeypatch.setattr('prunebook.core.shutil.disk_usage', lambda place: SimpleNamespace(free=free))
    assert len(shrink(**given, dry_run=True))
    monkeypatch.setattr('prunebook.core.shutil.disk_usage', lambda place: SimpleNamespace(free=free / 2))
    with pytest.raises(PrunebookError, match='and its disk has'): shrink(**given, dry_run=True)

def test_several_streams_have_no_angle_and_are_cut_by_the_loss():
    model, tok = architectures.tiny('gemma3n_text'), word_tokenizer()
    found = candidate_cuts(model, tok, texts(40), 1, progress=False)
    assert found and {o['rule'] for o in found} <= {'middle', 'single_losses'}

@pytest.mark.parametrize('right, most', [
    ({7: 60, 6: 59, 5: 10}, [2, 3]), ({7: 60, 6: 10, 5: 10}, [3]), ({7: 9, 6: 9}, [])])
def test_the_most_layers_without_which_every_task_passes(right, most, tmp_path, monkeypatch):
    "Of cuts of one to three layers; the whole model answers 60 of 100 questions, and a guess 25"
    def score(model, tok, ready, **kw):
        k = right.get(len(LayerStack(model)), 60 if len(LayerStack(model)) == 8 else 10)
        return dict.fromkeys(ready, asked((60, k, 100), .25)['healed'])
    monkeypatch.setattr('prunebook.evaluate', score)
    second = dict(rule='answers', dropped=[1, 2, 3, 4], smaller=[[3], [2, 3], [1, 2, 3]])
    first = dict(rule='answers', dropped=[2, 3, 4, 5])  # the questions liked it better
    items = [dict(question=f'{i}?', choices=['a', 'b', 'c', 'd'], answer=0) for i in range(100)]
    task = ready_tasks([str(write_rows(tmp_path/'mine.jsonl', items))])
    (name, task), = task.items()
    table = [dict(measure=name, n=100, kept=.1), dict(measure='parameters')]
    ready = {name: replace(task, read_from=task.items)}
    def found(cuts): return shrinking._fewer_that_pass(tiny(), None, cuts, table, ready, .6, False)
    assert found([first, second]) == most
    assert found([first]) is None
