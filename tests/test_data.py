"Texts and questions from anywhere, and tokens."
import gzip, inspect, json, re
import pandas as pd, pytest
from hypothesis import strategies as st
from prunebook import PrunebookError, load_questions, load_texts
from prunebook.model import assets
from prunebook.model.assets import TEXT_SPLITS
from prunebook.core import digest
from prunebook.cli import main
from prunebook.data.texts import _first_tokens, as_rows, as_texts, named_texts, split_texts, tokenize
from prunebook.data.questions import _CHECKED, _SUMMED, check_items, everyday_prompts
from prunebook.evaluation.tasks import TASKS
from support.readers import blobs, fuzz, near
from support.tiny import write_rows

KEPT_SPLITS = dict(calibration='dc26036e', healing='ad9f995d', validation='0c2d4d66')
ENDINGS = ['txt', 'jsonl', 'json', 'parquet']

def write_texts(path, docs):
    "Documents in the form that the ending says"
    df = pd.DataFrame(dict(text=docs))
    dict(txt=lambda: path.write_text('\n'.join(docs) + '\n'),
         jsonl=lambda: df.to_json(path, orient='records', lines=True),
         json=lambda: df.to_json(path, orient='records'),
         parquet=lambda: path.write_bytes(df.to_parquet()))[path.suffix[1:]]()
    return path

# texts

def test_splits_are_those_of_the_kept_runs():
    assert {s: digest(*load_texts('demo', split=s))[:8] for s in TEXT_SPLITS} == KEPT_SPLITS

def test_the_texts_for_healing_have_no_near_duplicates():
    c4 = [o for s in TEXT_SPLITS for o in load_texts('demo', split=s)]
    seen = set()
    assets._drop_near_duplicates(c4, seen)
    for name, n in (('wiki', 804), ('technical', 124), ('tiny', 317)):
        docs = load_texts(name)
        assert len(docs) == n and assets._drop_near_duplicates(docs, seen) == docs
        with pytest.raises(PrunebookError, match=f"split 'validation' of {name}: there is healing"):
            load_texts(name, 'validation')

@pytest.mark.parametrize('ending', ENDINGS)
def test_local_files(ending, tmp_path):
    docs = ['first document', 'second, with a comma', 'NA', 'None', '007']
    path = write_texts(tmp_path/f'docs.{ending}', docs)
    assert load_texts(path) == docs and load_texts(str(path), n=1) == docs[:1]

@pytest.mark.parametrize('ending', ENDINGS)
def test_a_file_of_yours_is_divided_where_a_split_is_asked(ending, tmp_path):
    "Duplicates count once, no document is on both sides, and without a split all rows stay as they are"
    docs = [f'document {i % 500}' for i in range(600)]
    path = write_texts(tmp_path/f'docs.{ending}', docs)
    healing, validation = (load_texts(path, split=o) for o in ('healing', 'validation'))
    assert (len(healing), len(validation)) == (400, 100)
    assert {*healing} | {*validation} == {*docs}
    assert load_texts(path, split='calibration') == healing
    assert load_texts(path, split='validation', n=64) == split_texts(docs)[1]
    assert healing == split_texts(docs)[0] != sorted(healing)
    assert load_texts(path) == docs
    for part in ('calibration', 'healing', 'validation'): assert named_texts(str(path), part, 7) == docs[:7]
    with pytest.raises(PrunebookError, match=f'n=101 .*{path.name}.*validation.* 100'):
        load_texts(path, 'validation', n=101)
    with pytest.raises(PrunebookError, match=f'train.*{path.name}.*calibration, healing, validation'):
        load_texts(path, split='train')

def test_a_file_that_is_too_short_to_be_divided_is_refused(tmp_path):
    path = write_texts(tmp_path/'docs.txt', ['one'] * 20 + ['two'])
    with pytest.raises(PrunebookError, match='2 different documents'): load_texts(path, split='validation')

def test_conversations_of_yours_are_divided_too(tmp_path):
    rows = [dict(prompt=f'{i}?', response=f'{i}!') for i in range(20)]
    path = write_rows(tmp_path/'chats.jsonl', rows)
    parts = load_texts(path, split='healing') + load_texts(path, split='validation')
    assert sorted(parts, key=rows.index) == rows

OPTIONS = dict(spilt='validation', revision='main', data_dir='x', config='en', most=3)

@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('name', ['demo', 'wiki', 'demo+wiki', 'mine.txt'])
def test_options_that_would_change_nothing_are_refused(name, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path/'mine.txt', ['one', 'two'])
    with pytest.raises(PrunebookError, match=option): load_texts(name, **{option: OPTIONS[option]})

def test_unknown_options_are_refused_before_the_hub_is_asked(monkeypatch):
    from datasets import load_dataset
    def asked(*args, **kwargs): raise AssertionError('the hub was asked')
    asked.__signature__ = inspect.signature(load_dataset)
    monkeypatch.setattr('datasets.load_dataset', asked)
    for option in ('spilt', 'streaming', 'path', 'config_kwargs'):
        with pytest.raises(PrunebookError, match=f'org/own.*{option}'): load_texts('org/own', **{option: 'x'})

def test_a_folder_does_not_hide_a_set_on_the_hub(tmp_path, monkeypatch):
    "Of the organisation's name, as downloads leave it"
    asked = []
    def stream(name, config, split, streaming):
        asked.append((name, split))
        return [dict(text='x')]
    monkeypatch.setattr('datasets.load_dataset', stream)
    monkeypatch.chdir(tmp_path)
    (tmp_path/'allenai').mkdir()
    assert load_texts('allenai/c4') == named_texts('allenai/c4', 'validation') == load_texts('allenai/c4:own') == ['x']
    assert asked == [('allenai/c4', 'train'), ('allenai/c4', 'validation'), ('allenai/c4', 'own')]
    for text in ('allenai/c4', 'allenai/c4:own'):
        with pytest.raises(PrunebookError, match='texts is one string'): as_rows(text)
    for path in ('allenai/mine.jsonl', 'allenai/two words', './allenai/c4', 'allenai/c4/en'):
        with pytest.raises(PrunebookError, match='no such file'): load_texts(path)

@pytest.mark.parametrize('write, says', [
    (lambda p: p.with_suffix('.csv').write_text('text\nx\n'), 'cannot read .csv'),
    (lambda p: p.write_text('x\n'), 'cannot read a file without ending'),
    (lambda p: p.with_suffix('.jsonl').write_text('{"body": 3}\n'), "no text in column 'text'; the .* .'body'"),
    (lambda p: p.with_suffix('.jsonl').write_text('{"text": "x"}\n{"text": null}\n'), 'x.jsonl, text 1: no text'),
    (lambda p: p.with_suffix('.jsonl.gz').write_bytes(gzip.compress(b'{"text": "x"}')[:-9]), 'not a readable'),
    (lambda p: p.with_suffix('.jsonl').write_text('{"text": \n'), 'line 1: not JSON'),
    (lambda p: p.with_suffix('.parquet').write_bytes(b'PAR1'), 'not a readable .parquet')])
def test_files_that_cannot_be_read(write, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path/'x')
    [path] = tmp_path.iterdir()
    with pytest.raises(PrunebookError, match=says) as e: as_texts(path.name)
    assert '\n' not in str(e.value)

def test_the_column_of_conversations_may_be_named(tmp_path):
    rows = [dict(messages=[dict(role='user', content='x'), dict(role='assistant', content='y')])]
    assert load_texts(write_rows(tmp_path/'chats.jsonl', rows), column='messages') == rows

def test_a_row_with_a_text_and_a_conversation_is_not_guessed(tmp_path, capsys):
    chat = dict(messages=[dict(role='user', content='x'), dict(role='assistant', content='y')])
    pair = dict(prompt='x', response='y')
    for row in (chat, pair):
        file = write_rows(tmp_path/'both.jsonl', [row | dict(text='x and y')] * 3)
        for read in (load_texts, as_rows, lambda o: as_rows([row | dict(text='z')])):
            with pytest.raises(PrunebookError, match='text 0: .*also a conversation.*--column messages'): read(file)
        found = load_texts(file, column='messages')
        assert found == as_rows(found) == [row] * 3
    assert main(['heal', 'demo', str(tmp_path/'out'), '--texts', str(file), '--no-progress']) == 2
    assert '--column messages' in capsys.readouterr().err
    assert as_rows([pair | dict(text=None), dict(text='z', messages=None)]) == [pair, 'z']

def test_of_a_set_on_the_hub_no_more_is_taken_than_asked_for(monkeypatch):
    "From its start, as a stream, of the split for its purpose; a few more would be downloaded for nothing"
    asked, taken = [], []
    def stream(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        for i in range(99):
            taken.append(i)
            yield dict(body=f'{split} {i}')
    monkeypatch.setattr('datasets.load_dataset', stream)
    assert named_texts('allenai/c4', 'healing', n_hub=3, column='body') == ['train 0', 'train 1', 'train 2']
    assert named_texts('org/own', 'calibration', n=2, column='body') == ['train 0', 'train 1']
    assert named_texts('org/own', 'validation', n=2, column='body') == ['validation 0', 'validation 1']
    assert asked == [('allenai/c4', 'en', 'train', True), ('org/own', None, 'train', True),
                     ('org/own', None, 'validation', True)] and len(taken) == 7
    assert named_texts('org/own:train_sft', 'healing', n_hub=2, column='body') == ['train_sft 0', 'train_sft 1']
    assert asked[3:] == [('org/own', None, 'train_sft', True)]
    with pytest.raises(PrunebookError, match="no text in column 'text'.*'body'"): load_texts('org/own')
    with pytest.raises(PrunebookError, match='n=100 .* has 99'): load_texts('org/own', n=100, column='body')

# questions

ROWS = dict(mmlu=14042, arc_easy=2376, arc_challenge=1172, gsm8k=1319, lambada=5153, humaneval=164, math500=500,
            piqa=1838, boolq=3270, hellaswag=10042, openbookqa=500, sciq=1000, winogrande=1267, csqa=1221, siqa=1954,
            arithmetic=3000)

@pytest.mark.parametrize('name', ROWS)
def test_every_set_is_whole_and_can_be_scored(name):
    items = load_questions(name)
    assert len(items) == ROWS[name]
    if 'choices' in items[0]: check_items(items)
    assert len({json.dumps(o) for o in items}) > .99 * len(items)
    if name in ('sciq', 'arc_easy', 'mmlu', 'hellaswag', 'piqa', 'csqa'):  # no answer is given away by its place
        share = pd.Series([o['answer'] for o in items]).value_counts(normalize=True)
        assert share.max() < 1.25 / len(items[0]['choices'])

GOOD = dict(question='q', choices=['a', 'b'], answer=0)

@pytest.mark.parametrize('row, says', [
    (dict(goal='x'), "KeyError: 'sol1'"), (dict(question=3, answer=True), 'AttributeError'),
    (dict(question='q'), 'it has no answer'), (dict(question='q', answer=3), 'the answer must be a text'),
    (GOOD | dict(answer=2), 'answer 2 is not the number of a choice, 0 to 1'), (GOOD | dict(answer=-1), 'answer -1'),
    (GOOD | dict(answer='A'), "answer 'A'"), (GOOD | dict(choices=[1, 2]), 'two or more texts'),
    (GOOD | dict(choices='a, b'), 'must be a list'), (GOOD | dict(question=None), 'the question is not a text')])
def test_rows_that_are_no_question(row, says, tmp_path):
    path = write_rows(tmp_path/'q.jsonl', [GOOD, row])
    with pytest.raises(PrunebookError, match='q.jsonl, question 1: not a question') as e: load_questions(path)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_a_split_of_questions_that_have_none_is_refused(tmp_path):
    for given, says in ((write_rows(tmp_path/'q.jsonl', [GOOD]), 'q.jsonl'), ('sums', 'sums'), ([GOOD], 'a list')):
        with pytest.raises(PrunebookError, match=f"split='dev': .*{says}"): load_questions(given, split='dev')

def test_sums_are_the_same_everywhere_and_of_three_kinds():
    found = load_questions('sums', n=83)
    words = (' gets ', ' gives ', ' boxes ')
    kinds = [next(k for k, word in enumerate(words) if word in o['question']) for o in found]
    assert [kinds.count(k) for k in range(3)] == [28, 28, 27]
    assert load_questions('sums')[0] == dict(
        question='Sara has 10 stones and gets 3 more. How many stones does Sara have now?', answer='13')

# tokens

def test_the_first_tokens_are_those_of_the_whole_document(demo):
    tok = demo[1]
    texts = load_texts('demo') + load_texts('wiki', n=200)
    texts += ['\n'.join(texts[:60]), ''.join(texts[60:120]).replace(' ', '')]
    texts += ['a' * 60_000, ' ' * 60_000 + 'x', 'é' * 30_000, '日本' * 20_000]
    whole = [o for t in texts for o in [tok(t, verbose=False)['input_ids']]]
    for n in (3, 64, 512): assert _first_tokens(tok, texts, n) == [o[:n] for o in whole]

def test_texts_that_cannot_be_tokenized(demo):
    tok = demo[1]
    for bad, says in [([], 'no texts given'), ('org/own', r'is one string.*load_texts\(NAME\)'), ([3], '3 is no text'),
                      (dict(text=['x']), 'dict, whose items are names'), (pd.DataFrame(dict(text=['x'])), 'DataFrame'),
                      ([' '], 'none of the 1 texts'), ([dict(messages=[])], 'template refuses a conversation')]:
        with pytest.raises(PrunebookError, match=says): tokenize(tok, bad)
    with pytest.raises(PrunebookError, match='max_length=1: .* 2 or more'): tokenize(tok, ['x'], 1, 2)
    assert tokenize(tok, ['Hello there', ' ', ''], min_length=2).skipped == [1, 2]

# hostile files

def encoded(o): return json.dumps(o).encode()

item = st.one_of(
    near(question='q', choices=['a', 'b'], answer=1, passage='p', subject='s'),
    near(goal='g', sol1='a', sol2='b', label=0),
    near(question='q', choices=dict(text=['a', 'b'], label=['A', 'B']), answerKey='A'), near(text='x'),
    near(question='q', passage='p', answer=True), near(sentence='a _', option1='a', option2='b', answer='1'),
    near(query='Question: q\nAnswer:', choices=['a', 'b'], gold=0),
    near(question_stem='q', choices=dict(text=['a'], label=['A']), answerKey='A'),
    near(activity_label='a', ctx_a='b', ctx_b='c', endings=['a', 'b'], label='1'),
    near(question='q', distractor1='a', distractor2='b', distractor3='c', correct_answer='d', support=''))
lines = st.lists(st.one_of(item.map(encoded), item.map(encoded), blobs), min_size=1, max_size=3).map(b'\n'.join)

@fuzz(300, 50, content=lines)
def test_questions_by_line(root, content):
    (root/'q.jsonl').write_bytes(content)
    load_questions(str(root/'q.jsonl'))

cells = st.text('a,"\n1é', max_size=40).map(lambda o: ('question,choices,answer,text\n' + o).encode())

@fuzz(60, content=st.one_of(lines, cells), ending=st.sampled_from([*ENDINGS, 'xyz', '']))
def test_tables(root, content, ending):
    (root/f'q.{ending}').write_bytes(content)
    try: load_questions(str(root/f'q.{ending}'))
    except PrunebookError: pass
    load_texts(str(root/f'q.{ending}'))

# prompts

def test_everyday_prompts_are_near_no_question_that_judges():
    "Of any task, nor to its examples; none is of a set for non-commercial use; and any few are of all kinds"
    def words(*texts):
        found = [re.findall(r'\w+', o.lower()) for o in texts]
        return {' '.join(o[i:i + 8]) for o in found for i in range(len(o) - 7)}
    prompts = everyday_prompts()
    assert len({*prompts}) == len(prompts) == 200 and prompts == everyday_prompts(None)[:200]
    assert not any('NC' in assets.ASSETS[o].licence for o in (*_CHECKED, _SUMMED))
    assert [[o.split()[0] == 'Write' for o in prompts[i::4]] == [i == 1] * 10 for i in range(4)]
    assert all(o.startswith('Sum up this text') for o in prompts[3:40:4])
    asked, near = words(*prompts), set()
    for task in TASKS.values():
        if task.reads_texts: continue
        examples = task.examples if isinstance(task.examples, list) else []
        for o in [*task.read(), *examples]:
            text = ' '.join([o.get('passage', ''), o['question'], *map(str, o.get('choices', ()))])
            near |= asked & words(text) | {text} & {*prompts}
    assert not near
    with pytest.raises(PrunebookError, match='n=99999 .*of 1'): everyday_prompts(99_999)
