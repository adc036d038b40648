"The main job, shortened: the folder that a run leaves. `PRUNEBOOK_RUN` names a finished run; without it one is made."
import json, os, re, shutil
from dataclasses import replace
from pathlib import Path
import pandas as pd, pytest
from prunebook import HealingConfig, LayerDistances, PrunebookError, load_texts, read_run, reproduce
from prunebook.data.texts import named_texts
from prunebook.estimates import Size, peak_gb, work
from prunebook.evaluation.tasks import ready_tasks
from prunebook.healing.healing import _warn_plain
from prunebook.paper.reproduce import PRESETS, _grid, _measure, _paper_sweeps, _recipe, paper_budget
from support.tiny import letter_tokenizer, write_rows
from test_conversations import tiny_chat
from test_packing import CHATML

def own_run(own, out, **kw):
    given = dict(texts=str(own/'texts.txt'), judge_texts=str(own/'judge.txt'), questions=[str(own/'mine.jsonl')])
    return reproduce(out=out, progress=False, **dict(model=str(own/'model'), preset='smoke') | given | kw)

@pytest.mark.thorough
def test_the_folder_and_its_tables(tmp_path):
    given = os.environ.get('PRUNEBOOK_RUN')
    run = Path(given) if given else reproduce(out=tmp_path/'run', preset='smoke', progress=False)
    names = {p.name for p in run.iterdir()}
    assert names == {'run.json', 'results.csv', 'items.parquet', 'distances.safetensors', 'best_blocks.csv',
                     'report.html', 'checkpoint', 'adapters'}
    t = read_run(run)
    assert set(t.strategy) == {'none', 'similarity', 'simple'} and set(t.task) == {'c4', 'arc_easy'}
    assert set(t.healed) == {False, True}
    assert (t.low <= t.value).all()
    assert (t.value <= t.high).all()
    loss = t[t.task == 'c4'].set_index(['strategy', 'n', 'healed']).value
    assert loss['none', 0, False] < loss['similarity', 2, False] < loss['simple', 2, False]
    for s in ('similarity', 'simple'): assert loss[s, 8, True] < loss[s, 8, False], 'healing lowers the loss'
    assert t[(t.strategy == 'simple') & (t.n == 2)].layers.iloc[0] == '27 28', 'the deepest but the last'
    dist, best = LayerDistances.load(run), pd.read_csv(run/'best_blocks.csv')
    assert [dist.best_block(n).start for n in best.n] == list(best.start)

@pytest.fixture(scope='module')
def whole(own, tmp_path_factory):
    "A run of one's own model that was not interrupted, beside its cache"
    place = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('PRUNEBOOK_CACHE', str(place/'cache'))
        return own_run(own, place/'run')

def test_your_own_model_and_data(own, whole):
    "Nothing of the demo: no asset is fetched, no depth of 30, and the sources are named"
    t, page, record = read_run(whole), (whole/'report.html').read_text(), (whole/'run.json').read_text()
    assert t.n.max() < 6 and set(t.source.dropna()) == {'judge.txt', 'mine.jsonl'}
    page = re.sub(r'base64,[^"]+', '', page)
    assert not re.findall(r'src="(?!data:)|href="(?!data:|https://prunebook)', page), 'it needs no other file'
    assert 'judge.txt' in page
    assert 'mine.jsonl' in page
    assert 'on C4' not in page
    assert 'of C4' not in page
    for text in (page, record): assert str(own) not in text and str(whole.parent) not in text
    assert not (whole.parent/'cache').exists()

def test_the_main_job_does_not_warn_of_itself(own, tmp_path, caplog, recwarn, monkeypatch):
    "It heals a model that chats on plain texts, as the paper does"
    monkeypatch.setattr('prunebook.paper.reproduce._result_html', lambda *args: '')
    _warn_plain.cache_clear()
    tok = letter_tokenizer()
    tok.chat_template = CHATML
    shutil.copytree(own/'model', tmp_path/'model')
    tok.save_pretrained(tmp_path/'model')
    own_run(own, tmp_path/'run', model=str(tmp_path/'model'))
    assert [str(o.message) for o in recwarn if issubclass(o.category, FutureWarning)] == []
    assert 'written answers' not in caplog.text and '--teacher' not in caplog.text

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
    assert 'A100' in capsys.readouterr().err  # on stdout it would spoil --json
    page = (tmp_path/'run'/'paper.html').read_text()
    for o in ('1', '2', '3', 's7to9'): assert f'<section id="figure{o}">' in page

def test_one_figure_of_the_paper(own, tmp_path, monkeypatch):
    "From the command line: its task, its strategy and the sizes that are given, and a report"
    from prunebook.cli import main
    told = []
    monkeypatch.setattr('prunebook.report', lambda folder, **kw: told.append(read_run(folder)))
    main(['reproduce', '--model', str(own/'model'), '--preset', 'paper', '--only', 'figure2', '--ns', '1,2', '--bits',
          '32', '--share', '.0002', '--texts', str(own/'texts.txt'), '--judge-texts', str(own/'judge.txt'),
          '--out', str(tmp_path/'run')])
    (t,) = told
    assert set(t.task) == {'mmlu'}
    assert set(t.sweep) == {'main'}
    assert set(t.strategy) == {'none', 'similarity'}
    assert set(t[~t.healed].n) == {0, 1, 2}
    assert set(t[t.healed].n) == {1, 2}
    assert read_run(tmp_path/'run').equals(t)

def test_no_more_questions_are_asked_than_there_are(tmp_path):
    "The sweep refused them, after hours of distances"
    rows = [dict(question=f'{i} and {i}', choices=['same', 'other'], answer=i % 2) for i in range(9)]
    (tmp_path/'mine.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    asked = lambda preset, *args: _grid(PRESETS[preset], 32, 7e9, 'demo', 'demo', *args).n_questions
    assert [*asked('quick', [str(tmp_path/'mine.jsonl')], None, 1.).values()] == [9]
    assert asked('paper', None, None, .5) == dict(mmlu=7021, boolq=1635) and asked('paper', None, None, 1.) is None
    whole, nearly = (paper_budget('demo', questions=[str(tmp_path/'mine.jsonl')], share=o)[0].tokens.sum()
                     for o in (1., .9999))
    assert whole == pytest.approx(nearly, rel=.005), 'nine questions, and not those of MMLU'

def test_the_figures_of_distances_need_no_sweep(own, tmp_path):
    run = own_run(own, tmp_path/'run', preset='paper', only='figure4', share=.0002, questions=None)
    assert {o.name for o in run.iterdir()} == {'distances.safetensors', 'best_blocks.csv', 'curves.png', 'curves.svg',
                                               'heatmap.png', 'heatmap.svg'}

def stopped(own, out, monkeypatch, at, **kw):
    "A run that is interrupted when it comes to the function `at`"
    def stop(*a, **k): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(f'prunebook.paper.{at}', stop)
        with pytest.raises(KeyboardInterrupt): own_run(own, out, **kw)

@pytest.mark.parametrize('at', ['sweep.sweep', *[pytest.param(o, marks=pytest.mark.thorough) for o in (
    'reproduce._keep_checkpoint', 'reproduce._result_html')]])
def test_resumed_is_equal_to_never_interrupted(own, whole, tmp_path, monkeypatch, at):
    "Also when it stopped between the distances and their figures: every file of every step is there"
    stopped(own, tmp_path/'run', monkeypatch, at)
    assert not (tmp_path/'run').exists() and (tmp_path/'run.unfinished').exists()
    if at == 'sweep.sweep': monkeypatch.setattr('prunebook.paper.reproduce._result_html', lambda *args: '')
    again = own_run(own, tmp_path/'run')
    assert not (tmp_path/'run.unfinished').exists()
    files = lambda o: {p.relative_to(o) for p in o.rglob('*') if p.is_file()}
    assert files(whole) == files(again)
    same = ['distances.safetensors', 'best_blocks.csv']
    assert [o for o in same if (whole/o).read_bytes() != (again/o).read_bytes()] == []
    drop = lambda t: t.drop(columns='seconds')
    pd.testing.assert_frame_equal(drop(read_run(whole)), drop(read_run(again)))

def test_sizes_that_cannot_be_are_refused_before_the_distances(own, tmp_path, monkeypatch):
    monkeypatch.setattr('prunebook.load_model', pytest.fail)
    for preset in ('smoke', 'paper'):
        with pytest.raises(PrunebookError, match=r'ns \[2, 6\]: drop from 1 to 5'):
            own_run(own, tmp_path/'run', ns=[2, 6], preset=preset, share=1e-4)
    assert not list(tmp_path.iterdir())

def test_distances_are_measured_on_conversations(tmp_path):
    model, tok = tiny_chat()
    file = write_rows(tmp_path/'chat.jsonl', [dict(prompt='Say a.', response='It is a.')] * 3)
    p = PRESETS['quick'].sized(1000, 1.)
    assert _measure(model, tok, replace(p, max_length=32), str(file), tmp_path, progress=False).count == 3

def test_a_run_goes_on_only_with_the_same_settings_and_files(own, tmp_path, monkeypatch):
    stopped(own, tmp_path/'run', monkeypatch, 'reproduce._result_html')
    with pytest.raises(PrunebookError, match='other settings'): own_run(own, tmp_path/'run', questions=['arc_easy'])
    changed = tmp_path/'mine.jsonl'
    changed.write_text('\n'.join((own/'mine.jsonl').read_text().splitlines()[:7]))
    with pytest.raises(PrunebookError, match='other settings'): own_run(own, tmp_path/'run', questions=[str(changed)])

def test_the_budget_is_said_before_the_memory_is_refused(tmp_path, monkeypatch, capsys):
    "Hours, memory and disk of the paper's own run; nothing is written"
    monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: dict(RAM=.5))
    monkeypatch.setattr('prunebook.load_model', lambda *args, **kw: pytest.fail('a weight was read'))
    given = dict(model='demo', out=tmp_path/'run', preset='paper', texts='demo', share=.001)
    with pytest.raises(PrunebookError, match='this machine has 0.5'): reproduce(**given)
    said = capsys.readouterr().err
    assert said.index('hours on one A100') < said.index('GB of disk') and not list(tmp_path.iterdir())
    need = paper_budget('demo')[1]
    assert need['disk_gb'] > paper_budget('demo', only='figure4')[1]['disk_gb'] > .1, 'adapters beside the weights'
    assert 'rank 64, learning rate 0.0003, rows of 2,048 tokens, the default, because no model' in said
    assert 'called demo.' in said

def test_a_model_of_13_billion_heals_on_one_a100():
    "Its rows of 4,096 tokens do by gradient checkpointing, which the hours count"
    depth, hidden, inner, vocab = 40, 5120, 13824, 32000
    layers, others = depth * hidden * (4 * hidden + 3 * inner), 2 * hidden * vocab
    size = Size('meta-llama/Llama-2-13b-hf', 'llama', depth, hidden, inner, vocab, layers, layers, others,
                dict(BF16=2 * (layers + others)))
    recipe = _recipe('paper', size.name, PRESETS['paper'], None)
    table, need = paper_budget(size, ns=[8], only='figure2')
    own = replace(recipe, gradient_checkpointing=False)
    assert need['memory_gb'] < 80 < peak_gb(size, 'heal', bits=16, recipe=own)
    heal = table[table.work.str.contains('healing')].iloc[0]
    assert heal.hours == pytest.approx(work(size, 'heal', int(heal.tokens), True) / 312 / .3 / 3600, rel=1e-6)
    assert not _recipe('paper', 'meta-llama/Llama-2-7b-hf', PRESETS['paper'], None).gradient_checkpointing

def test_distances_go_on_after_a_kill(tmp_path, monkeypatch):
    "The second start measures only what the first did not, and leaves no state behind"
    model, tok = tiny_chat()
    p, docs = replace(PRESETS['smoke'], n_texts=8, max_length=16), write_rows(
        tmp_path/'t.jsonl', [dict(text='The cat sat on the mat. ' * (i + 3)) for i in range(200)])
    p = replace(p, n_texts=200)
    from prunebook.similarity import distances
    real, seen = distances._measure_group, []
    def stops(*args, **kw):
        seen.append(1)
        if len(seen) == 2: raise KeyboardInterrupt
        return real(*args, **kw)
    monkeypatch.setattr(distances, '_measure_group', stops)
    with pytest.raises(KeyboardInterrupt): _measure(model, tok, p, str(docs), tmp_path, False)
    assert (tmp_path/'distances.unfinished').exists()
    dist = _measure(model, tok, p, str(docs), tmp_path, False)
    assert len(seen) == 3
    assert int(dist.count) == 200
    assert not (tmp_path/'distances.unfinished').exists()

def test_settings_of_the_paper_that_cannot_end_well_are_refused_at_once(tmp_path, monkeypatch):
    "The splits of the hub, texts in the place of questions, and sweeps that stand on what is not there"
    monkeypatch.setattr('datasets.load_dataset', lambda name, config, split, streaming: iter([dict(text=split)] * 99))
    with pytest.raises(PrunebookError, match='the loss needs others'):
        reproduce('demo', tmp_path/'a', texts='org/set:x')
    (tmp_path/'texts.txt').write_text('some text\n' * 20)
    with pytest.raises(PrunebookError, match='these are texts'):
        reproduce('demo', tmp_path/'a', questions=[str(tmp_path/'texts.txt')])
    base = _grid(PRESETS['paper'], 32, 7e9, 'demo', 'demo', ['arc_easy'], None, .1)
    assert {'main', 'seeds'} <= {*_paper_sweeps(base, 'figures7to9')} and 'shots' not in _paper_sweeps(base)
    assert all(HealingConfig.paper(f"{o}/Llama-2-7b-hf").rank == 2 for o in ("meta-llama", "/models"))

def test_what_is_on_the_hub_beside_c4_has_parts_of_its_own():
    "Joined sets, and texts that replace a task's"
    for part in ('calibration', 'healing', 'validation'): assert named_texts('demo+wiki', part)
    judged = ready_tasks(['c4'], n_texts=3, sources=dict(c4='wiki'))['c4'].items
    assert judged == load_texts('wiki', n=3)
