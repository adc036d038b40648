"What a user's slip must never cost: a source folder, a finished result, a right number."
import json, os
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from prunebook import evaluation
from prunebook.cli import main
from prunebook.data import file_name, load_questions, load_texts, mask, read_json
from prunebook.evaluation import Score, check_items, compare, last_number
from prunebook.figures import plot_scores
from prunebook.pruning import check_checkpoint, choose_layers, free_place, new_folder, prune_checkpoint, prune_model, put_in_place
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import LossMap, loss_map, read_run, _read_table
from made import Made, loss
from test_sweep import Letters, texts, tiny

@pytest.fixture
def made_run(tmp_path):
    "A sweep's folder"
    m = Made(tmp_path)
    m.config('s').add('s', loss(3), 'none', 0)
    return tmp_path/'s'

@pytest.fixture
def zoo(tmp_path):
    "A folder of the user's with a checkpoint in it and something precious beside"
    tiny('llama').save_pretrained(tmp_path/'zoo'/'m')
    (tmp_path/'zoo'/'precious').write_text('mine')
    return tmp_path/'zoo'

def whole(zoo): return (zoo/'precious').read_text() == 'mine' and (zoo/'m'/'model.safetensors').stat().st_size > 1000

@pytest.mark.parametrize('out', ['m', '.', 'm/small'])
@pytest.mark.parametrize('how', [[], ['--in-memory']])
def test_the_source_is_never_replaced(zoo, out, how, capsys):
    assert main(['prune', str(zoo/'m'), str(zoo/out), '--drop', '1', '--force', *how]) == 2
    assert 'only read' in capsys.readouterr().err and whole(zoo)
    for argv in (['heal', str(zoo/'m'), str(zoo/out), '--force'], ['similarity', str(zoo/'m'), '--out', str(zoo/out), '--force'],
                 ['reproduce', '--model', str(zoo/'m'), '--out', str(zoo/out), '--force', '--preset', 'smoke']):
        assert main(argv) == 2 and 'only read' in capsys.readouterr().err and whole(zoo)
    with pytest.raises(PrunebookError, match='only read'): prune_checkpoint(zoo/'m', zoo/out, [1], force=True)
    assert whole(zoo)

def test_the_current_folder_is_never_replaced(zoo, monkeypatch):
    monkeypatch.chdir(zoo)
    with pytest.raises(PrunebookError, match='never replaced'):
        with new_folder('.', force=True): pass
    assert whole(zoo)

def test_what_was_filled_meanwhile_stays(tmp_path):
    with pytest.raises(PrunebookError, match='not empty'):
        with new_folder(tmp_path/'out') as tmp:
            (tmp/'ours').write_text('x')
            (tmp_path/'out').mkdir(); (tmp_path/'out'/'theirs').write_text('y')
    assert (tmp_path/'out'/'theirs').read_text() == 'y'

def test_distances_of_another_model():
    d = LayerDistances(np.ones((7, 7)), np.ones((7, 7)), 2)
    with pytest.raises(PrunebookError, match='6 layers and the model has 30'): choose_layers('similarity', 2, distances=d, depth=30)

def test_partial_losses_belong_to_one_model(tmp_path):
    a, b = tiny('llama'), tiny('llama')
    for p in b.parameters(): p.data.mul_(1.5)
    first = loss_map(a, Letters(), texts(), 16, ns=[1], partial=tmp_path/'p', progress=False)
    other = loss_map(b, Letters(), texts(), 16, ns=[1], partial=tmp_path/'p', progress=False)
    assert abs(other.loss[0, 0] - loss_map(b, Letters(), texts(), 16, ns=[1], progress=False).loss[0, 0]) < 1e-6 < abs(first.loss[0, 0] - other.loss[0, 0])

def test_named_layers_in_a_quantisation_config(zoo):
    config = json.loads((zoo/'m'/'config.json').read_text())
    config['quantization_config'] = dict(quant_method='bitsandbytes', llm_int8_skip_modules=['lm_head', 'model.layers.3.mlp'])
    (zoo/'m'/'config.json').write_text(json.dumps(config))
    with pytest.raises(PrunebookError, match='names single layers'): prune_checkpoint(zoo/'m', zoo/'small', [1])
    assert not (zoo/'small').exists()
    model = tiny('llama'); model.config.quantization_config = config['quantization_config']
    with pytest.raises(PrunebookError, match='names single layers'): prune_model(model, [1])

def test_only_a_line_feed_ends_a_document(tmp_path):
    (tmp_path/'t.txt').write_text('one\x0ctwo\u2028three\nfour\n', encoding='utf-8')
    assert load_texts(tmp_path/'t.txt') == ['one\x0ctwo\u2028three', 'four']
    (tmp_path/'q.jsonl').write_text(json.dumps(dict(question='a\u2028b', choices=['x', 'y'], answer=0), ensure_ascii=False) + '\n', encoding='utf-8')
    assert load_questions(str(tmp_path/'q.jsonl'))[0]['question'] == 'a\u2028b'

@pytest.mark.parametrize('name, content, says', [('t.txt', b'caf\xe9', 'UTF-8'), ('t.jsonl', b'{"text": "a"}\n\n{"text": ', 'line 3: not JSON'), ('t.jsonl', b'', 'no texts'),
    ('t.jsonl', b' null', 'line 1: not an object'), ('t.json', b'[{"text": "a"}, 3]', 'row 2: not an object'), ('t.jsonl', b'{"text": "a"}\n\xff', 'line 2: not UTF-8'), ('t.csv', b'', 'not a readable .csv')])
def test_damaged_texts(tmp_path, name, content, says):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(PrunebookError, match=says): load_texts(tmp_path/name)

@pytest.mark.parametrize('content', [b'{"text": "a"}\r\n\n{"text": "b"}', b'\xef\xbb\xbf[{"text": "a"},\n {"text": "b"}]\n'])
def test_json_by_the_line_or_in_a_list(tmp_path, content):
    for name in ('t.json', 't.jsonl'):
        (tmp_path/name).write_bytes(content)
        assert load_texts(tmp_path/name) == ['a', 'b'] and load_texts(tmp_path/name, n=1) == ['a']

def test_no_line_after_the_last_that_was_asked_is_read(tmp_path):
    (tmp_path/'t.jsonl').write_text('{"text": "a"}\n{bad')
    assert load_texts(tmp_path/'t.jsonl', n=1) == ['a']

def test_damaged_questions(tmp_path):
    (tmp_path/'q.jsonl').write_text('{"question": \n')
    with pytest.raises(PrunebookError, match='line 1'): load_questions(str(tmp_path/'q.jsonl'))

@pytest.mark.parametrize('argv, says', [(['similarity', 'demo', '--out', '/'], ''), (['evaluate', 'demo', '--dtype', 'fp16'], 'bfloat16'), (['sweep', 'demo', '--out', 'x', '--config', 'nowhere.json'], 'nowhere.json'),
    (['heal', 'demo', 'x', '--config', 'nowhere.json'], 'nowhere.json'), (['similarity', 'demo', '--out', 'x', '--n-texts', '0'], '1 or more')])
def test_one_line(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith(f'prunebook {argv[0]}: ') and says in err

def test_no_right_answer_has_an_interval_too():
    rows = [dict(strategy=s, n=n, healed=False, seed=0, task='gsm8k', value=v, low=lo, high=hi, fraction_layers=n / 30)
            for s, n, v, lo, hi in [('none', 0, .5, .4, .6), ('simple', 2, 0., 0., .04)]]
    ax = plot_scores(pd.DataFrame(rows), 'gsm8k')
    ends = np.concatenate([np.array(o) for c in ax.containers for o in c.lines[2][0].get_segments()])
    assert np.isfinite(ends).all() and np.isclose(ends[:, 1].min(), 0) and np.isclose(sorted(ends[:, 1])[1], .04)

# what a second look found

def test_a_name_with_brackets_is_no_pattern(tmp_path):
    for name, text in (('a[1].csv', 'this one'), ('a1.csv', 'another')): (tmp_path/name).write_text(f'text\n{text}\n')
    assert load_texts(str(tmp_path/'a[1].csv')) == ['this one']

def test_a_table_of_questions(tmp_path):
    (tmp_path/'q.csv').write_text('question,choices,answer\nWhich?,"[""a"", ""b""]",1\n')
    assert check_items(load_questions(str(tmp_path/'q.csv'))) == [dict(question='Which?', choices=['a', 'b'], answer=1)]

@pytest.mark.parametrize('make', [os.mkfifo, lambda p: p.symlink_to('/dev/zero')])
def test_pipes_and_devices_are_not_read(tmp_path, make):
    make(tmp_path/'config.json')
    with pytest.raises(PrunebookError, match='pipe or a device'): read_json(tmp_path/'config.json')
    assert 'pipe or a device' in check_checkpoint(tmp_path, run=False)[0]

def test_a_replaced_run_that_was_killed_on_its_last_step(tmp_path):
    for name in ('out', 'new', 'new.old'): (tmp_path/name).mkdir(); (tmp_path/name/'file').write_text(name)
    put_in_place(tmp_path/'new', tmp_path/'out', force=True)
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and (tmp_path/'out'/'file').read_text() == 'new'

def test_a_mounted_disk_is_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, 'ismount', lambda p: str(p) == str(tmp_path))
    with pytest.raises(PrunebookError, match='mounted.*run'): free_place(tmp_path)

def test_left_overs_of_this_machine_are_cleared(tmp_path):
    from prunebook.pruning import _host
    mine, other = tmp_path/f'.out.part-{_host()}-{os.getpid()}-x', tmp_path/'.out.part-elsewhere-1-x'
    for p in (mine, other, tmp_path/'.out.part-1'): p.mkdir()
    with new_folder(tmp_path/'out') as new: (new/'file').write_text('')
    assert not mine.exists() and other.exists(), 'the lock says that nobody works there, whoever has the number of its process now'

def test_names_of_files():
    assert file_name('similarity-2-True-0-arc_easy') == 'similarity-2-True-0-arc_easy'
    names = [file_name(o) for o in ('a/q.jsonl', 'a_q.jsonl', '字' * 100, '..', '', '\udcff')]
    assert len(set(names)) == 6 and all(len(o.encode('utf-8')) <= 200 and '/' not in o and o[0] != '.' for o in names)

def test_a_table_that_no_sweep_wrote(tmp_path):
    from made import Made, fill
    from prunebook.claims import open_run
    fill(Made(tmp_path))
    path = next(tmp_path.rglob('results.csv'))
    right = path.read_text()
    open_run(tmp_path)
    for old, new in (('False', 'maybe'), (',0.', ',x0.')):
        path.write_text(right.replace(old, new, 1))
        with pytest.raises(PrunebookError, match='column'): open_run(tmp_path)

def test_a_small_file_makes_no_large_table(tmp_path):
    (tmp_path/'x.json').write_text(json.dumps(dict(depth=999, counts=[1] * 100, info={}, sums=[[0, 0, [1.] * 100]])))
    with pytest.raises(PrunebookError, match='99,999,900|100,000,000'): LossMap.load(tmp_path/'x.json')

def test_scores_of_other_items_are_not_compared():
    score = Score('t', .5, 1, 2, .1, .9, [1, 0], [1, 1], 'generated', 0., .5, items='a')
    assert compare(score, replace(score, items='a')).p == 1 and compare(score, replace(score, items='')).p == 1
    with pytest.raises(PrunebookError, match='same items'): compare(score, replace(score, items='b'))

@pytest.mark.parametrize('text, number', [('10-15', 15), ('3,4', 4), ('so 1,234,567.5', 1234567.5), ('-3', -3), ('5 - 3', 3), ('12,3456', 3456)])
def test_last_numbers(text, number): assert last_number(text) == number

@pytest.mark.parametrize('tasks, says', [(['c4', 'mmul'], 'mmul'), (['c4', 'mmlu:lettre'], 'no scoring'), (['c4', 'a:b/q.jsonl'], 'a:b/q.jsonl')])
def test_evaluate_looks_at_all_before_it_works(tasks, says, monkeypatch):
    def work(*args, **kw): raise AssertionError('worked before it looked')
    monkeypatch.setattr(evaluation, 'text_loss', work)
    with pytest.raises(PrunebookError, match=says): evaluation.evaluate(None, None, tasks)

def test_addresses_keep_no_password():
    for text in ('https://me:p@ss@host/x', 'https://host/x?token=SECRETSECRET', 'https://host/x?a=1&sig=SECRETSECRET'): assert 'ss@' not in mask(text) and 'SECRET' not in mask(text)

def test_a_healing_that_fails_leaves_what_it_would_replace(zoo, tmp_path, capsys, monkeypatch):
    "With --force too, the old result is there until the new one stands"
    from prunebook import healing
    def fail(*args, **kw): raise PrunebookError('it failed')
    monkeypatch.setattr(healing, 'heal', fail)
    monkeypatch.setattr('prunebook.data.load_model', lambda *a, **kw: (tiny('llama'), Letters()))
    (tmp_path/'t.txt').write_text('some text\n' * 9)
    assert main(['heal', str(zoo/'m'), str(tmp_path/'zoo2'), '--texts', str(tmp_path/'t.txt'), '--n-judge', '0']) == 2 and not (tmp_path/'zoo2').exists()
    (tmp_path/'old').mkdir(); (tmp_path/'old'/'model').write_text('yesterday')
    assert main(['heal', str(zoo/'m'), str(tmp_path/'old'), '--force', '--texts', str(tmp_path/'t.txt'), '--n-judge', '0']) == 2
    assert 'it failed' in capsys.readouterr().err and (tmp_path/'old'/'model').read_text() == 'yesterday'

def test_a_null_character_in_a_name_is_wrong_use(capsys):
    with pytest.raises(SystemExit) as stop: main(['prune', 'src', 'a\0b', '--drop', '1'])
    assert stop.value.code == 2 and 'null character' in capsys.readouterr().err

@pytest.mark.parametrize('k, row, says', [('k', 'none,0,False,0,c4,1e400\n', 'cannot be read'), ('fraction_layers', 'none,0,False,0,c4,True\n', 'fraction_layers holds'), ('value', '', 'no row')])
def test_numbers_that_no_sweep_wrote(tmp_path, k, row, says):
    (tmp_path/'results.csv').write_text(f'strategy,n,healed,seed,task,{k}\n{row}')
    with pytest.raises(PrunebookError, match=says): _read_table(tmp_path/'results.csv')

def test_a_recipe_that_is_none(made_run):
    asked = json.loads((made_run/'sweep.json').read_text())
    asked['config']['healing']['rank'] = ''
    (made_run/'sweep.json').write_text(json.dumps(asked))
    with pytest.raises(PrunebookError, match="a damaged sweep .*rank=''"): read_run(made_run)
