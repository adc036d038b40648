"What a user's slip must never cost: a source folder, a finished result, a right number."
import json
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from prunebook.cli import main
from prunebook.data import load_questions, load_texts
from prunebook.figures import plot_scores
from prunebook.pruning import choose_layers, new_folder, prune_checkpoint, prune_model
from prunebook.similarity import LayerDistances
from prunebook.stack import PrunebookError
from prunebook.sweep import loss_map
from test_sweep import Letters, texts, tiny

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

@pytest.mark.parametrize('name, content, says', [('t.txt', b'caf\xe9', 'UTF-8'), ('t.jsonl', b'{"text": ', 'not a readable'), ('t.jsonl', b'', 'no texts|not a readable')])
def test_damaged_texts(tmp_path, name, content, says):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(PrunebookError, match=says): load_texts(tmp_path/name)

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
