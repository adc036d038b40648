"The main job, shortened: the folder that a run leaves. `PRUNEBOOK_RUN` names a finished run; without it one is made."
import json, os, re, subprocess, sys
from pathlib import Path
import pandas as pd, pytest
from prunebook import LayerDistances, PrunebookError, check_checkpoint, read_run, reproduce
from prunebook.paper.reproduce import named_texts, _source_mark
from support.tiny import letter_tokenizer, save, texts, tiny

of_the_demo = pytest.mark.thorough  # a run of the demo takes minutes; .ci/run has made one


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    if given := os.environ.get('PRUNEBOOK_RUN'): return Path(given)
    return reproduce(out=tmp_path_factory.mktemp('run')/'run', preset='smoke', progress=False)


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "A model of 5 layers, texts and questions of one's own"
    folder = tmp_path_factory.mktemp('own')
    save(folder/'model', tiny(layers=5, max_position_embeddings=1024), letter_tokenizer())
    (folder/'texts.txt').write_text('\n'.join(texts(60)))
    (folder/'judge.txt').write_text('\n'.join(texts(12, seed=1)))
    rows = [dict(question=f'{i} and {i}', choices=['same', 'other', 'none'], answer=i % 3) for i in range(16)]
    (folder/'mine.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


def own_run(own, out, **kw):
    given = dict(texts=str(own/'texts.txt'), judge_texts=str(own/'judge.txt'), questions=[str(own/'mine.jsonl')])
    return reproduce(str(own/'model'), out, progress=False, **dict(preset='smoke') | given | kw)


@of_the_demo
def test_the_folder_and_its_tables(run):
    names = {p.name for p in run.iterdir()}
    assert names == {'run.json', 'results.csv', 'items.parquet', 'distances.safetensors', 'best_blocks.csv', 'figures',
                     'report.html', 'checkpoint', 'adapters'}
    assert {p.stem for p in (run/'figures').iterdir()} == {'loss', 'questions', 'stack', 'curves', 'heatmap'}
    t = read_run(run)
    assert set(t.strategy) == {'none', 'similarity', 'simple'} and set(t.task) == {'c4', 'arc_easy'}
    assert set(t.healed) == {False, True} and (t.low <= t.value).all() and (t.value <= t.high).all()
    loss = t[t.task == 'c4'].set_index(['strategy', 'n', 'healed']).value
    assert loss['none', 0, False] < loss['similarity', 2, False] < loss['simple', 2, False]
    for s in ('similarity', 'simple'): assert loss[s, 8, True] < loss[s, 8, False], 'healing lowers the loss'
    assert t[(t.strategy == 'simple') & (t.n == 2)].layers.iloc[0] == '27 28', 'the deepest but the last'
    dist, best = LayerDistances.load(run), pd.read_csv(run/'best_blocks.csv')
    assert list(best.columns) == 'n start stop layers distance sem runner_up_start certain'.split()
    assert [dist.best_block(n).start for n in best.n] == list(best.start)


@of_the_demo
def test_the_checkpoint_loads_with_plain_transformers(run):
    "In float32: in 16 bits, generating with and without a cache may round apart"
    code = ('import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
            'm, info = M.from_pretrained(sys.argv[1], dtype="float32", output_loading_info=True); '
            'x = T.from_pretrained(sys.argv[1])("The capital of", return_tensors="pt"); '
            'out = [m.generate(**x, max_new_tokens=8, do_sample=False, use_cache=c).tolist() for c in (True, False)]; '
            'assert not info["missing_keys"] and not info["unexpected_keys"], info; assert out[0] == out[1]; '
            'assert "prunebook" not in sys.modules; print(len(m.model.layers), m.config.num_hidden_layers)')
    done = subprocess.run([sys.executable, '-c', code, run/'checkpoint'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dropped = json.loads((run/'checkpoint'/'config.json').read_text())['prunebook']['dropped']
    assert done.stdout.split() == [str(30 - len(dropped))] * 2
    assert check_checkpoint(run/'checkpoint') == []


@of_the_demo
def test_the_first_screen_of_the_report_is_the_result(run):
    page = (run/'report.html').read_text()
    first = page[:page.index('<h3>')]
    told = json.loads((run/'run.json').read_text())['sweeps']['main']['reproduction']
    assert all(o in first for o in ('(27%: layers ', 'Healing on at most', 'On ARC-Easy it answers'))
    assert first.count('data:image/png;base64,') == 2
    assert page.count('rows</summary>') == 2, 'long tables are folded'
    assert not re.findall(r'(?:src|href)="(?!data:)', page), 'it needs no other file'
    assert max(len(o) for o in re.findall(r'\d+\.(\d+)', re.sub(r'base64,[^"]+', '', page))) <= 4, 'numbers are rounded'
    assert set(told['continuations']) == {'unpruned', 'pruned', 'healed'}


def test_your_own_model_and_data(own, tmp_path, monkeypatch):
    "Nothing of the demo: no asset is fetched, no depth of 30, and the sources are named"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    run = own_run(own, tmp_path/'run')
    t, page, record = read_run(run), (run/'report.html').read_text(), (run/'run.json').read_text()
    assert t.n.max() < 5 and set(t.source.dropna()) == {'judge.txt', 'mine.jsonl'}
    page = re.sub(r'base64,[^"]+', '', page)
    assert 'judge.txt' in page and 'mine.jsonl' in page and 'on C4' not in page and 'of C4' not in page
    for text in (page, record): assert str(own) not in text and str(tmp_path) not in text
    assert not (tmp_path/'cache').exists()


@pytest.mark.thorough
def test_the_papers_own_run_in_small(own, tmp_path, capsys):
    "From the command line: QLoRA in 4 bits, all strategies, seeds and ranks, and every figure of the paper"
    from prunebook.cli import main
    main(['reproduce', '--model', str(own/'model'), '--preset', 'paper', '--bits', '4', '--share', '.0002',
          '--ns', '2', '--texts', str(own/'texts.txt'), '--judge-texts', str(own/'judge.txt'),
          '--out', str(tmp_path/'run')])
    t = read_run(tmp_path/'run')
    assert set(t.sweep) == {'main', 'shots', 'seeds', 'rank-2'} and set(t.n) == {0, 2}
    assert {'c4', 'mmlu', 'boolq'} <= set(t.task)
    assert set(t[t.sweep == 'main'].strategy) == {'none', 'similarity', 'simple'}
    sweeps = json.loads((tmp_path/'run'/'run.json').read_text())['sweeps']
    assert {o['config']['healing']['bits'] for o in sweeps.values()} == {4} and set(t[t.healed]['rank']) == {2, 64}
    assert 'A100' in capsys.readouterr().out
    page = (tmp_path/'run'/'paper.html').read_text()
    for o in ('1', '2', '3', '5', 's7to9'): assert f'<section id="figure{o}">' in page


def test_the_figures_of_distances_need_no_sweep(own, tmp_path):
    run = own_run(own, tmp_path/'run', preset='paper', only='figure4', share=.0002, questions=None)
    assert {o.name for o in run.iterdir()} == {'distances.safetensors', 'best_blocks.csv', 'curves.png', 'curves.svg',
                                               'heatmap.png', 'heatmap.svg'}


def test_refusals_come_before_any_work(own, tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'mine').write_text('precious')
    with pytest.raises(PrunebookError, match='not empty'): own_run(own, tmp_path/'out')
    with pytest.raises(PrunebookError, match='judge_texts'): own_run(own, tmp_path/'new', judge_texts=None)
    with pytest.raises(PrunebookError, match='no_such'): own_run(own, tmp_path/'new', questions=['no_such'])
    with pytest.raises(PrunebookError, match='only read'): own_run(own, own/'model'/'inside')
    with pytest.raises(PrunebookError, match='n=600 '): own_run(own, tmp_path/'new', preset='paper', share=.01)
    assert (tmp_path/'out'/'mine').read_text() == 'precious' and [p.name for p in tmp_path.iterdir()] == ['out']


def stopped(own, out, monkeypatch, at, **kw):
    "A run that is interrupted when it comes to the function `at`"
    def stop(*a, **k): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(f'prunebook.paper.{at}', stop)
        with pytest.raises(KeyboardInterrupt): own_run(own, out, **kw)


@pytest.mark.parametrize('at', ['sweep.sweep', *[pytest.param(o, marks=pytest.mark.thorough) for o in (
    'reproduce._keep_checkpoint', 'report._run_pages')]])
def test_resumed_is_equal_to_never_interrupted(own, tmp_path, monkeypatch, at):
    "Also when it stopped between the distances and their figures: every file of every step is there"
    whole = own_run(own, tmp_path/'whole')
    stopped(own, tmp_path/'run', monkeypatch, at)
    assert not (tmp_path/'run').exists() and (tmp_path/'run.unfinished').exists()
    again = own_run(own, tmp_path/'run')
    assert not (tmp_path/'run.unfinished').exists()
    files = lambda o: {p.relative_to(o) for p in o.rglob('*') if p.is_file()}
    assert files(whole) == files(again)
    same = ['distances.safetensors', 'best_blocks.csv', 'figures/curves.svg', 'figures/loss.svg']
    assert [o for o in same if (whole/o).read_bytes() != (again/o).read_bytes()] == []
    drop = lambda t: t.drop(columns='seconds')
    pd.testing.assert_frame_equal(drop(read_run(whole)), drop(read_run(again)))


def test_a_run_goes_on_only_with_the_same_settings_and_files(own, tmp_path, monkeypatch):
    stopped(own, tmp_path/'run', monkeypatch, 'report._run_pages')
    with pytest.raises(PrunebookError, match='other settings'): own_run(own, tmp_path/'run', questions=['arc_easy'])
    changed = tmp_path/'mine.jsonl'
    changed.write_text('\n'.join((own/'mine.jsonl').read_text().splitlines()[:7]))
    with pytest.raises(PrunebookError, match='other settings'): own_run(own, tmp_path/'run', questions=[str(changed)])
    own_run(own, tmp_path/'run', questions=[str(own/'mine.jsonl')], force=True)


def test_marks_follow_the_content(tmp_path):
    (tmp_path/'a.txt').write_text('one')
    one = _source_mark(str(tmp_path/'a.txt'))
    (tmp_path/'a.txt').write_text('two')
    assert _source_mark(str(tmp_path/'a.txt')) != one and str(tmp_path) not in one


def test_parts_of_the_demo_are_disjoint():
    parts = [set(named_texts('demo', o)) for o in ('calibration', 'healing', 'validation')]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
