"The registry of tasks: names, prompts as the harness words them, and `evaluate`."
import json, os, re, socket, tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from transformers import LlamaTokenizer
from prunebook.model.assets import ASSETS
from prunebook.core import PrunebookError
from prunebook.data.questions import load_questions
from prunebook.evaluation.choices import _in_words, choose_examples, permuted, prompt
from prunebook.evaluation import generation
from prunebook.evaluation.generation import generate_texts, passes_tests, run_program, same_mathematics
from prunebook.evaluation.scores import Scores, load_score, paired_differences
from prunebook.evaluation.tasks import TASKS, ChoiceTask, GeneratedTask, change_task, evaluate, judged_on, parse_task
from prunebook.evaluation.tasks import LossTask, in_forms, ready_tasks
from support.tiny import Letters, letter_texts, letter_tokenizer, questions, tiny, write_rows
from test_likelihood import plain

KEPT = Path(__file__).parents[1]/'nbs'/'results'
needs_questions = pytest.mark.skipif(not ASSETS['mmlu'].fetched, reason='the questions are not fetched')
model = tiny(layers=2, max_position_embeddings=512, initializer_range=.3)

def run(tasks, **kw): return evaluate(model, Letters(), tasks, progress=False, **kw)

# names

def test_changes_stand_in_the_name():
    t = parse_task('mmlu:shots=0,scoring=per_char')
    assert (t.name, t.shots, t.scoring) == ('mmlu:shots=0,scoring=per_char', 0, 'per_char')
    assert t.title == 'MMLU (0-shot, scoring per_char)'
    assert parse_task('mmlu:scoring=letter,shots=5') is TASKS['mmlu'] and parse_task(t) is t
    assert parse_task('mmlu:scoring=per_char , shots=0') == t
    assert parse_task('boolq:scoring=likelihood').answers is None, 'a wording belongs to its scoring'
    assert parse_task('arc_easy:scoring=per_char').prompt is None and parse_task('hellaswag:scoring=per_token').prompt
    assert change_task(TASKS['arc_easy'], shots=5, seed=1).name == 'arc_easy:shots=5,seed=1'
    for task, change in (('arc_easy', 'shot'), ('arc_easy', 'column'), ('c4', 'shots'), ('sums', 'scoring')):
        with pytest.raises(PrunebookError, match=f'{task}: {change} means nothing'):
            change_task(TASKS[task], **{change: 1})

@pytest.mark.parametrize('spec', [
    'c4:letter', 'c4:scoring=letter', 'c4:shots=1', 'sums:per_char', 'sums:scoring=per_char', 'mmlu:K=5', 'mmlu:letter',
    'mmlu:shots=-1', 'mmlu:shots=x', 'mmlu:shots=', 'mmlu:seed=1.5', 'arc_easy:scoring=best', 'trivia', 'no.jsonl'])
def test_meaningless_specs_are_refused(spec):
    with pytest.raises(PrunebookError): parse_task(spec)
    with pytest.raises(PrunebookError): run([spec])

def test_a_file_of_questions_is_a_task(tmp_path):
    choice = write_rows(tmp_path/'q.jsonl', questions())
    assert (parse_task(choice).name, parse_task(choice).kind) == ('q.jsonl', 'choice')
    assert parse_task(write_rows(tmp_path/'s.jsonl', load_questions('sums', n=3))).kind == 'generated'
    s = run([str(choice), f'{choice}:scoring=per_char,shots=2'])
    a, b = s.values()
    assert a.scoring == 'likelihood'
    assert b.task == 'q.jsonl:shots=2,scoring=per_char'
    assert b.shots == 2
    assert str(tmp_path) not in json.dumps([o.to_dict() for o in s.values()]), 'local paths stay out of records'

def test_a_file_of_texts_is_a_loss(tmp_path):
    docs = write_rows(tmp_path/'d.jsonl', [dict(text=o, body=o[::-1]) for o in letter_texts()])
    a, b = run([docs, f'{docs}:column=body']).values()
    assert (a.task, a.source, b.task) == ('d.jsonl', 'd.jsonl', 'd.jsonl:column=body') and a.sums != b.sums
    assert run([dict(text=o) for o in letter_texts()])['own'].sums == a.sums
    assert run(questions())['own'].logprobs == run([write_rows(tmp_path/'q.jsonl', questions())]).popitem()[1].logprobs
    with pytest.raises(PrunebookError, match="no text in column 'x'"): run([f'{docs}:column=x'])

# the rows

def test_default_scorings_are_the_harness_headline():
    assert {k: o.scoring for k, o in TASKS.items() if o.kind == 'choice' and o.scoring != 'likelihood'} == dict(
        mmlu='letter', boolq='letter', csqa='letter', arc_challenge='per_char', hellaswag='per_char',
        openbookqa='per_char')

def words(name, item, **kw):
    t = TASKS[name]
    return _in_words(item, scoring=t.scoring, ask=t.prompt, say=t.answers, **kw)

def test_prompts_are_the_harness_ones():
    "Written out from lm-evaluation-harness 0.4.13, its YAML files"
    q = dict(question=' Why? ', choices=['a b', 'c'], answer=1)
    listed, plain = 'Why?\nA. a b\nB. c\nAnswer:', 'Question: Why?\nAnswer:'
    assert words('mmlu', q | dict(subject='high_school_physics')) == (
        'The following are multiple choice questions (with answers) about high school physics.\n\n',
        [(listed, 'A'), (listed, 'B')])
    assert words('csqa', q) == ('', [(f'Question: {listed}', o) for o in 'AB'])
    for name in ('arc_easy', 'arc_challenge', 'piqa', 'mmlu_text'):
        assert words(name, q) == ('', [(plain, 'a b'), (plain, 'c')])
    b = dict(passage='It is.', question='is it?', choices=['no', 'yes'], answer=1)
    for name, said in (('boolq', ('No', 'Yes')), ('boolq_text', ('no', 'yes'))):
        assert words(name, b)[1] == [('It is.\nQuestion: is it?\nAnswer:', o) for o in said]
    for name, item, text in (('hellaswag', dict(question='Roof: He'), 'Roof: He'),
                             ('sciq', {}, '\nQuestion:  Why? \nAnswer:'),
                             ('sciq', dict(passage='S.'), 'S.\nQuestion:  Why? \nAnswer:'),
                             ('siqa', dict(question='C. Q?'), 'Q: C. Q?\nA:')):
        assert words(name, q | item)[1] == [(text, 'a b'), (text, 'c')]

def test_winogrande_is_asked_by_partial_evaluation():
    item = dict(question='Sarah beat Maria, so _ got the cup.', choices=['Sarah', 'Maria'], answer=0)
    front, pairs = words('winogrande', item, examples=[item | dict(answer=1)])
    assert pairs == [(f'Sarah beat Maria, so {o}', 'got the cup.') for o in ('Sarah', 'Maria')]
    assert front == 'Sarah beat Maria, so Maria got the cup.\n\n'
    s = run([replace(TASKS['winogrande'], items=[item])])['winogrande']
    want = [plain(model, *(Letters()(t)['input_ids'] for t in (o, ' got the cup.'))) for o, _ in pairs]
    np.testing.assert_allclose(s.logprobs[0], want, rtol=1e-4)

def test_gsm8k_shows_the_eight_examples_in_order():
    t = TASKS['gsm8k']
    assert [o['answer'].split()[-1] for o in t.examples] == ['6.', '5.', '39.', '8.', '9.', '29.', '33.', '8.']
    assert t.shots == 8 and choose_examples(dict(question='new'), t.examples, 8, t.seed) == t.examples

PATTERN = r'(-?[$0-9.,]{2,})|(-?[0-9]+)'  # flexible-extract of gsm8k_cot, version 3

def flexible_extract(texts):
    found = [re.findall(PATTERN, o) for o in texts]
    return [next(filter(None, o[-1])).strip() if o else '[invalid]' for o in found]

def harness_filter(texts):
    from lm_eval.filters.extraction import RegexFilter
    return [o for [o] in RegexFilter(PATTERN, group_select=-1).apply([[o] for o in texts], [{}] * len(texts))]

def kept_answers(chat):
    "Written answers to GSM8K, in a chat or behind examples, with the numbers that are right, and how each was judged"
    items = load_questions('gsm8k', n=400)
    if chat:
        tables = [pd.read_parquet(KEPT/f'{o}.parquet') for o in ('abilities', 'should_you')]
        kept = pd.concat(tables).query('task == "gsm8k:shots=0"')
        where, right = kept['item'].astype(int), kept['right']
    else:
        kept = pd.read_parquet(KEPT/'qwen2.5-coder-1.5b'/'items.parquet').query('sweep == "gsm8k-400"')
        where, right = kept['index'], kept['picked'] == 1
    return list(kept['written']), [str(items[i]['answer']) for i in where], list(right)

@needs_questions
@pytest.mark.parametrize('extract', (flexible_extract, harness_filter))
@pytest.mark.parametrize('chat', (False, True))
def test_kept_answers_to_gsm8k_are_scored_as_by_the_filter_of_the_harness(extract, chat):
    """All but a few that end in .0 or .00: exact_match compares texts, and 9.00 is not the text 9. One of 2,400 says
    -$6, which was judged when we read a 6 there. Where two end in "}$.", the filter meets "$." as the last number"""
    if extract is harness_filter: pytest.importorskip('lm_eval')
    written, answers, right = kept_answers(chat)
    strip = lambda o: re.sub(r',|\$|(?s:.*)#### |\.$', '', o)
    rows = [(strip(got), strip(want), yes) for got, want, yes in zip(extract(written), answers, right)]
    apart = [(got, want, yes) for got, want, yes in rows if yes != (got == want)]
    signs = [(got, want, yes) for got, want, yes in apart if got == f'-{want}']
    assert signs == [] if chat else signs == [('-6', '6', True)]
    bare = [(want, yes) for got, want, yes in apart if not re.search(r'\d', got)]
    assert bare == ([('5600', 1), ('1000', 1)] if chat else [])
    rest = [o for o in apart if o not in signs and re.search(r'\d', o[0])]
    assert all(yes and '.' in got and float(got) == float(want) for got, want, yes in rest)
    assert 0 < len(apart) <= len(rows) / 200

@pytest.mark.parametrize('text, number', [
    ('so 7.', 7), ('1,250.50', 1250.5), ('$1,000,000', 1e6), ('5-7', 7), ('10-$6', 6), ('10 - $6', 6), ('a...50', 50),
    ('v.50', 50), ('(2).5', 5), ('-3', -3), ('−3', -3), ('-$6', -6), ('−$6', -6), ('$-6', -6), ('€−6', -6),
    ('£.50', .5), ('He pays $.50', .5), ('-.5', -.5), ('−$.50', -.5), ('-$1,200.75', -1200.75), ('none', None),
    ('', None)])
def test_the_last_number_is_read_with_its_sign_and_its_point(text, number):
    assert generation.last_number(text) == number
    if number is None: return
    assert generation.same_number(text, dict(answer=f'{number:g}' if number % 1 else str(int(number))))
    assert not generation.same_number(text, dict(answer=str(abs(number) + 1)))

def test_an_answer_without_a_number_is_never_met():
    assert not generation.same_number('so 5', dict(answer='none'))

def test_the_mended_reader_changes_four_kept_answers():
    "Signs before a dollar. The kept rows stay as they were judged, and one of them counts as right by the old reading"
    old = re.compile(r'(?:(?<!\d)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?')
    def before(text): return float(found[-1].replace(',', '')) if (found := old.findall(text)) else None
    runs = [pd.read_parquet(o, columns=['task', 'written']) for o in KEPT.glob('*/items.parquet')]
    table = pd.concat([*runs, pd.read_parquet(KEPT/'abilities.parquet', columns=['task', 'written'])])
    said = table[table.task.str.startswith(('gsm8k', 'sums', 'read_number'))].written.dropna()
    assert len(said) > 16_000
    apart = sorted((before(o), generation.last_number(o)) for o in said if before(o) != generation.last_number(o))
    assert apart == [(6, -6), (18.4, -18.4), (110, -110), (880, -880)]

def test_choices_that_are_shown_are_scored_by_their_texts():
    item = dict(question='Q', choices=['x', 'yy', 'z'], answer=1, subject='an_art')
    front, pairs = _in_words(item, scoring='shown')
    assert pairs == [('Q\nA. x\nB. yy\nC. z\nAnswer:', o) for o in item['choices']]
    assert front == _in_words(item, scoring='letter')[0] != ''
    assert [text for text, _ in pairs] == [text for text, _ in _in_words(item, scoring='letter')[1]]
    for name in ('boolq', 'csqa', 'hellaswag'):
        task = parse_task(f'{name}:scoring=shown')
        assert (task.prompt, task.answers) == (None, None), 'a wording belongs to its scoring'

def test_choices_in_another_order_are_the_same_questions():
    rows = [dict(question=f'Q{i}', choices=['a', 'b', 'c', 'd'], answer=i % 4) for i in range(40)]
    task = replace(parse_task('arc_easy:scoring=letter,permute=3'), items=rows)
    assert task.name == 'arc_easy:scoring=letter,permute=3'
    asked = task.load(20)
    for new, old in zip(asked.items, rows[::2]):
        assert new['question'] == old['question'] and sorted(new['choices']) == old['choices']
        assert new['choices'][new['answer']] == old['choices'][old['answer']]
    assert len({tuple(o['choices']) for o in asked.items}) > 8
    assert asked.load().items == asked.items, 'an order is drawn once'
    assert task.load(20).items == asked.items != replace(task, permute=4).load(20).items
    assert replace(task, shots=1).load(20).examples == [permuted(o, 3) for o in rows]

def test_forms_are_the_same_questions_asked_in_four_ways():
    rows = [dict(question=f'Q{i}', choices=['a', 'b', 'c'], answer=i % 3) for i in range(6)]
    forms = in_forms(ChoiceTask('mine', 'Mine', rows, scoring='per_char'))
    assert {k: o.name for k, o in forms.items()} == dict(
        likelihood='mine', shown='mine:scoring=shown', letter='mine:scoring=letter',
        permuted='mine:scoring=letter,permute=1')
    assert [o.name for o in in_forms('mmlu').values()] == [
        'mmlu:scoring=likelihood', 'mmlu:scoring=shown', 'mmlu', 'mmlu:permute=1']
    for name in ('gsm8k', 'c4'):
        with pytest.raises(PrunebookError, match=name): in_forms(name)

@pytest.mark.parametrize('spec', [
    'arc_easy:permute=1', 'piqa:scoring=per_char,permute=0', 'arc_easy:scoring=letter,permute=-1'])
def test_an_order_means_something_only_where_choices_are_listed(spec):
    with pytest.raises(PrunebookError, match='permute'): parse_task(spec)

@needs_questions
def test_worked_solutions_of_math500_are_right_and_those_of_other_problems_are_not():
    items = load_questions('math500')
    assert all(same_mathematics(o['solution'], o) for o in items)
    others = [(o, p['solution']) for o, p in zip(items, items[1:]) if o['answer'] != p['answer']]
    assert len(others) > 480 and sum(same_mathematics(text, o) for o, text in others) < 5

@needs_questions
def test_mmlu_is_asked_with_five_dev_examples_of_the_subject():
    t = TASKS['mmlu']
    item, dev = t.read()[700], t.load(1).examples
    shown = choose_examples(item, dev, t.shots, t.seed)
    assert shown == [o for o in dev if o['subject'] == item['subject']]
    text, _ = words('mmlu', item, examples=shown)
    assert text.count('\nAnswer: ') == 5 and f'{prompt(shown[0], letter=True)} {"ABCD"[shown[0]["answer"]]}' in text

# evaluate

def test_nothing_runs_before_all_questions_are_there(monkeypatch):
    seen = []
    first = GeneratedTask('first', 'First', [dict(question='q', answer='1')], right=lambda *a: seen.append(a))
    monkeypatch.setitem(TASKS, 'first', first)
    few, rows = dict(shots=6, examples=questions()), questions()
    for tasks in (['first', 'trivia'], ['first', ChoiceTask('b', 'B', [dict(question='q')])], [],
                  ['first', ChoiceTask('b', 'B', rows, **few)], [first, replace(first, items=rows)]):
        with pytest.raises(PrunebookError): run(tasks)
    for how in (dict(max_new_tokens=-1), dict(chat=True), dict(save=__file__)):
        with pytest.raises(PrunebookError, match='max_new_tokens=-1|chat template|cannot write'): run(['first'], **how)
    with pytest.raises(PrunebookError, match='Ask for 1 to 1'): run(['first'], n_questions=2)
    talk = [dict(messages=[dict(role='user', content='q'), dict(role='assistant', content='a')])]
    for texts, how, says in (talk, {}, 'no chat'), (['a b c'], dict(max_length=0), 'max_length=0'):
        with pytest.raises(PrunebookError, match=says): run(['first', LossTask('t', 'T', texts)], **how)
    with pytest.raises(PrunebookError, match='tasks is a dict.*is no task'): run(rows[0])
    with pytest.raises(PrunebookError, match='tasks=None'): run(None)
    bad = (dict(prompt='2+2?', answer='4'), 'cannot ask question 0'), (dict(question=4, answer='4'), 'a text')
    for row, says in bad:
        with pytest.raises(PrunebookError, match=says): run(['gsm8k'], n_questions=1, sources=dict(gsm8k=[row]))
    assert not seen

def test_the_first_texts_are_scored_wherever_they_come_from(tmp_path):
    (tmp_path/'t.txt').write_text('\n'.join(own := [f'text number {i}' for i in range(9)]))
    for source in (own, str(tmp_path/'t.txt')):
        assert ready_tasks(['c4'], n_texts=3, sources=dict(c4=source))['c4'].items == own[:3]

def test_questions_of_yours_that_no_answer_fits_are_refused_before_any():
    many = [dict(question='Which?', choices=[str(i) for i in range(30)], answer=3)]
    with pytest.raises(PrunebookError, match='30 choices|letter'): ready_tasks(['arc_easy:scoring=letter'], 1,
                                                                              sources=dict(arc_easy=many))
    few = tiny('gpt2', 2)
    with pytest.raises(PrunebookError, match='positions for prompt and answer'): evaluate(few, Letters(), ['sums'], 1)
    asked = dict(passage='It is.', question='Where', choices=['yes', 'in New York'], answer=0)
    assert [o for _, o in words('boolq', asked)[1]] == ['Yes', 'In New York']

def test_a_source_of_no_task_is_refused():
    "It would have been left aside, and the usual questions been asked"
    for key in ('sums:seed=3', 'sum'):
        with pytest.raises(PrunebookError, match=f'sources names {key}'):
            ready_tasks(['sums:seed=3'], 2, sources={key: 'mine.jsonl'})
    said = judged_on(['c4', 'sums'], 'judge.txt', sources=dict(sums='mine.jsonl'))
    assert said == (['c4', 'sums'], dict(c4='judge.txt', sums='mine.jsonl'))

def test_texts_of_yours_are_a_task_where_none_reads_texts(tmp_path):
    "Named after the file, also of rows that have a question and a text; a set with a name has one of its own"
    judge = str(write_rows(tmp_path/'judge.jsonl', [dict(text='a b', body='c d')] * 3))
    both = str(write_rows(tmp_path/'both.jsonl', [o | dict(text='a b') for o in questions()]))
    told = {o: judged_on(['sums'], o, column) for o, column in ((judge, 'text'), (both, 'text'), ('wiki', 'text'))}
    assert [o for o, _ in told.values()] == [['sums', judge], ['sums', f'{both}:column=text'],
                                             ['sums', 'c4:source=wiki']]
    assert judged_on(['sums'], 'wiki', 'body', dict(c4='x', sums='y')) == (
        ['sums', 'c4:source=wiki,column=body'], dict(sums='y')), 'another text is not read under this name'
    made = [parse_task(judged_on([], *o)[0][0]) for o in ((judge,), (both,), (judge, 'body'))]
    assert [o.kind for o in made] == ['loss'] * 3
    assert [o.name for o in made] == ['judge.jsonl', 'both.jsonl', 'judge.jsonl:column=body']
    assert [o.load().items[0] for o in made] == ['a b', 'a b', 'c d']
    assert judged_on(['agreement', 'sums'], judge) == (['agreement', 'sums'], dict(agreement=judge))

def test_an_interruption_keeps_the_scores_that_are_known(monkeypatch, tmp_path):
    def stop(text, item): raise KeyboardInterrupt
    second = GeneratedTask('second', 'Second', [dict(question='q', answer='1')], right=stop, stop=())
    monkeypatch.setitem(TASKS, 'second', second)
    first = write_rows(tmp_path/'q.jsonl', questions())
    with pytest.raises(KeyboardInterrupt): run([first, 'second'], save=tmp_path/'out', max_new_tokens=2)
    assert [load_score(o).n for o in (tmp_path/'out').glob('*.json')] == [6]

def test_scores_that_were_made_otherwise_are_not_replaced(tmp_path):
    task, how = ChoiceTask('mine', 'Mine', questions()), dict(save=tmp_path, progress=False)
    half = tiny(layers=2, max_position_embeddings=512).bfloat16()  # with the same fingerprint in both types
    evaluate(half, Letters(), [task], **how)
    with pytest.raises(PrunebookError, match='keeps a score with scoring'):
        evaluate(half, Letters(), [replace(task, scoring='letter')], **how)
    with pytest.raises(PrunebookError, match='in another dtype'): evaluate(half.float(), Letters(), [task], **how)

# kept scores

@pytest.fixture
def asked(tmp_path):
    "Tasks with every sign that a file name cannot have, and what they are asked on"
    mine, own = write_rows(tmp_path/'my=own, q.jsonl', questions()), ChoiceTask('m' * 300, 'Long', questions(4))
    names = ['arc_easy:scoring=letter', 'arc_easy: shots = 0, seed=3', str(mine), f'{mine}:shots=1']
    return [*names, own], dict(arc_easy=questions(5)), [*names, own.name]

def test_kept_scores_come_back_by_the_names_that_were_asked(asked, tmp_path):
    tasks, sources, names = asked
    fresh = run(tasks, sources=sources, save=tmp_path/'a')
    fresh.save(tmp_path/'b')
    for kept in (Scores.load(tmp_path/'a'), Scores.load(tmp_path/'b')):
        assert kept == fresh and set(kept) == set(names)
        assert [o['difference'] for o in paired_differences(kept, fresh)] == [0] * len(names)

def test_older_and_renamed_files_go_by_their_own_names(asked, tmp_path):
    tasks, sources, names = asked
    for o in (tmp_path/'old', tmp_path/'new'): run(tasks[:2], sources=sources).save(o)
    for o in (tmp_path/'old').glob('*.json'):
        o.write_text(json.dumps({k: v for k, v in json.loads(o.read_text()).items() if k != 'asked'}))
    assert set(Scores.load(tmp_path/'old')) == {o.stem for o in (tmp_path/'old').glob('*.json')}
    (tmp_path/'new'/'arc_easy_scoring_letter.json').rename(tmp_path/'new'/'arc_easy_before.json')
    assert set(Scores.load(tmp_path/'new')) == {'arc_easy_before', names[1]}

@pytest.mark.parametrize('other', [
    dict(n_questions=3), dict(n_texts=2), dict(scoring='letter'), dict(max_new_tokens=3), dict(max_length=9)],
    ids=lambda o: next(iter(o)))
def test_a_score_of_other_items_is_not_replaced(other, tmp_path):
    "Neither by `evaluate` nor by `Scores.save`; the same again is"
    def score(scoring='likelihood', **kw):
        tasks = [LossTask('c4', 'C4', letter_texts()), ChoiceTask('q', 'Q', questions(), scoring=scoring),
                 GeneratedTask('sums', 'Sums', [dict(question='x', answer='7')] * 4)]
        return run(tasks, **dict(max_new_tokens=2) | kw)
    def files(): return {o.name: o.read_bytes() for o in tmp_path.glob('*.json')}
    score(save=tmp_path)
    before = files()
    score().save(tmp_path)
    assert files().keys() == before.keys() == {'c4.json', 'q.json', 'sums.json'}
    before = files()
    with pytest.raises(PrunebookError, match='another folder'): score(save=tmp_path, **other)
    with pytest.raises(PrunebookError, match='another folder'): score(**other).save(tmp_path)
    assert files() == before

def test_two_tasks_of_one_file_name_are_refused_before_the_first(tmp_path, monkeypatch):
    alike = [write_rows(tmp_path/o, questions()) for o in ('a=b.jsonl', 'a,b.jsonl')]
    monkeypatch.chdir(tmp_path)
    for save in ('first', 'second'):
        names = [o.name for o in alike]
        with pytest.raises(PrunebookError, match='a=b.jsonl and a,b.jsonl'):
            run(names, save=save) if save == 'first' else run(names).save(save)
        assert not list(tmp_path.glob(f'{save}/*.json'))
    run(names[:1]).save('third')
    for make in (lambda: run(names[1:]).save('third'), lambda: run(names[1:], save='fourth').save('third')):
        with pytest.raises(PrunebookError, match='another folder'): make()
    assert set(Scores.load('third')) == {'a=b.jsonl'}

def test_a_name_in_a_file_is_a_text(tmp_path):
    run([ChoiceTask('q', 'Q', questions())]).save(tmp_path)
    for wrong in ([1], {}, 3):
        (tmp_path/'q.json').write_text(json.dumps(json.loads((tmp_path/'q.json').read_text()) | dict(asked=wrong)))
        with pytest.raises(PrunebookError, match='is no score'): Scores.load(tmp_path)

# programs

def locks():
    try: return run_program('')
    except PrunebookError: return False

needs_locks = pytest.mark.skipif(not locks(), reason='programs cannot be locked up here')

@needs_locks
@needs_questions
def test_humaneval_in_both_forms():
    "The right solutions pass, the empty ones do not, and prompts and ends are the harness's"
    items, t, tok = load_questions('humaneval'), TASKS['humaneval'], letter_tokenizer()
    some = items[::33]
    assert all(passes_tests(o['answer'], o) for o in some) and not any(passes_tests('    pass', o) for o in some)
    tok.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[reply]"
    own = tiny(layers=2, max_position_embeddings=4096)
    own.generation_config.eos_token_id = None
    for chat in (False, True):
        s = evaluate(own, tok, [t], n_questions=2, max_new_tokens=2, chat=chat, progress=False)['humaneval']
        assert (s.n, s.k, s.chat) == (2, 0, chat)
    say = t.in_chat
    assert say['prompt'](items[0]).endswith(f"```python\n{items[0]['question']}\n```\n") and '```' in say['stop']

@pytest.mark.slow
@needs_locks
@needs_questions
def test_every_solution_of_humaneval_passes():
    assert [o['entry_point'] for o in load_questions('humaneval') if not passes_tests(o['answer'], o)] == []

@needs_locks
def test_programs_outside_cannot_be_reached():
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(file := tempfile.mktemp(dir='/tmp'))
        here.listen()
        assert not run_program(f'import socket; socket.socket(socket.AF_UNIX).connect({file!r})')
    os.unlink(file)

@needs_locks
def test_a_program_that_ends_early_cannot_say_that_it_passed():
    says = 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b"done")\n    except OSError: pass\n'
    assert not run_program(says + 'os._exit(0)') and not run_program(says)

@needs_locks
def test_rows_that_cannot_be_judged_are_refused_before_an_answer_is_written():
    with pytest.raises(PrunebookError, match='humaneval needs its test too'):
        ready_tasks('humaneval', 1, sources=dict(humaneval=[dict(question='def f():', answer='    return 1')]))

def test_programs_that_cannot_be_locked_up_are_refused(monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(PrunebookError, match='cannot lock up programs'): run(['humaneval'])

# the harness, where it is installed

@pytest.mark.slow
@needs_questions
@pytest.mark.parametrize('name', ('arc_easy', 'piqa', 'winogrande', 'mmlu'))
def test_agrees_with_the_harness_item_by_item(name, tmp_path):
    "Log-likelihoods of the harness's own requests, on the demo model in float32"
    pytest.importorskip('lm_eval')
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from prunebook.model.loading import load_model
    t = TASKS[name]
    demo, tok = load_model('demo', dtype=torch.float32)
    items, n = t.read(), int(os.environ.get('PRUNEBOOK_TEST_ITEMS', 40))
    items = [items[i * len(items) // n] for i in range(n)]
    ours = evaluate(demo, tok, [replace(t, items=items)], progress=False)[name]
    asked = [words(name, o, examples=choose_examples(o, t.load(1).examples, t.shots, t.seed)) for o in items]
    requests = [Instance('loglikelihood', o, (front + text, f' {choice}'), j)
                for o, (front, pairs) in zip(items, asked) for j, (text, choice) in enumerate(pairs)]
    theirs = iter(HFLM(pretrained=demo, tokenizer=tok, batch_size=4).loglikelihood(requests, disable_tqdm=True))
    for lp in ours.logprobs: np.testing.assert_allclose(lp, [next(theirs)[0] for _ in lp], atol=2e-3, rtol=1e-4)

# what a tokenizer or a machine may spoil

def test_an_answer_keeps_the_space_that_it_begins_with(monkeypatch):
    "Alone, tokens of Llama 2's kind of tokenizer lose it, and an indented program would not run"
    letters = [chr(i) for i in range(33, 127)] + ['▁', '▁▁', '▁▁▁', '▁▁▁▁']
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), *letters]
    merges = [('▁', '▁'), ('▁▁', '▁'), ('▁▁', '▁▁')]
    tok = LlamaTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=merges)
    asked, right = 'def add(a, b):\n', '    return a + b\n'
    ids, whole = (tok(o)['input_ids'] for o in (asked, asked + right))
    said = [*whole[len(ids):], tok.eos_token_id]
    assert tok.decode(said, skip_special_tokens=True) != right
    model = tiny(layers=1, vocab_size=len(tok))
    def write(x, max_new_tokens=None, **_):  # a model that writes these tokens
        done = x.shape[1] - len(ids)
        return torch.cat([x, torch.tensor([said[done:done + max_new_tokens]])], 1)
    monkeypatch.setattr(model, 'generate', write)
    [found] = generate_texts(model, tok, [ids], 64)
    assert found.text == right and found.ended

@pytest.mark.parametrize('common', [20, 0])
def test_a_batch_holds_only_so_many_keys_and_values(common, monkeypatch):
    "A CPU whose memory ends says nothing and ends: there is no floor under what they hold"
    seen, wide = [], tiny(layers=2, hidden_size=64, num_attention_heads=4)
    a_token = 2 * 2 * 64 * 4  # keys and values of two layers in float32
    monkeypatch.setattr(generation, '_HELD', 1e6)
    monkeypatch.setattr(generation, 'token_budget', lambda n: seen.append(n) or 64)
    monkeypatch.setattr(generation, 'generate_texts', lambda model, tok, rows, *a, **k: [None] * len(rows))
    ids = [[*range(3, 3 + common), 40 + i] for i in range(3)]
    list(generation.write_in_batches(wide, None, ids, 4))
    assert seen == [int(1e6 / a_token)]

def test_a_sandbox_in_which_nothing_ends_is_refused(monkeypatch):
    monkeypatch.setattr(generation, 'run_program', lambda code: False)
    with pytest.raises(PrunebookError, match='an empty program does not end here'): generation.check_sandbox()
