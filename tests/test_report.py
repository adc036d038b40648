"`prunebook report`: the paper's pages, run on whatever lies in a run folder. `PRUNEBOOK_RUN` names a finished run."
import base64, json, re, shutil
from dataclasses import replace
from pathlib import Path
import nbformat, pandas as pd, pytest
from bs4 import BeautifulSoup
from prunebook.paper import report as reports
from prunebook.core import PrunebookError
from prunebook.model.stack import Block
from prunebook.paper.figures import plot_stack
from prunebook.paper.report import PAGES, report, _caption, _result_html, _run_pages, _sanitize_markdown
from support import made_runs
from support.browser import Browser, find
from support.made_runs import Made, choice, distances, fill, fill_paper, loss, x

hostile = '<img src=x onerror=alert(1)>$x_{`](javascript:alert(2)) & "co" [web](https://example.org/x)'

def check(page, least):
    "Whole, self-contained, harmless, and about this run alone; returns the text that a reader sees"
    soup = BeautifulSoup(page.read_text(encoding='utf-8'), 'html.parser')
    shown = [o['src'] for o in soup('img')]
    assert len(shown) >= least and all(o.startswith('data:image/svg+xml;base64,') for o in shown)
    assert all('<svg' in base64.b64decode(o.split(',')[1]).decode() for o in shown)
    assert not soup(['script', 'iframe', 'object']) and not [k for o in soup(True) for k in o.attrs if k[:2] == 'on']
    links = [o['href'] for o in soup(href=True)]
    assert all(o.startswith(('#', 'data:')) for o in links), links
    assert {o['id'] for o in soup('section')} == set(PAGES) == {o[1:] for o in links if o[0] == '#'}
    for o in soup('details'): o.decompose()  # folded code
    text = soup.get_text()
    assert not re.findall(r'SmolLM|Qwen2|Gemma|this book|three dots', text), 'nothing about the models of the book'
    assert 'Traceback' not in text and 'Error' not in text
    return text

# What is shown

def test_every_figure_of_the_paper(tmp_path):
    "Of a run of the preset paper: the two strategies and the seeds with loss and answers"
    made = fill_paper(Made(tmp_path/'run'))
    distances(lambda n: 10).save(made.root)
    page = report(made.root, progress=False)
    text = check(page, least=13)
    shown = [o.get_text() for o in BeautifulSoup(page.read_text(encoding='utf-8'), 'html.parser')('figcaption')]
    labels = re.findall("The paper's figure (\\w+)", ' '.join(shown))
    assert sorted(labels) == '1a 1c 1d 2 3 4 5 5 6 7 8 8 9'.split()
    assert 'MMLU' in text and not re.search('102,400|1.5 billion|60 % of the layers', ' '.join(shown))

@pytest.mark.thorough
def test_report_of_a_run(tmp_path):
    made = fill(Made(tmp_path/'run'), ns=x[:6], tasks=('arc_easy',))
    distances(lambda n: 3).save(made.root)
    page = report(made.root, progress=False)
    text = check(page, least=7)
    for words in ('C1: the block of least angle is deep', 'holds',
                  'not measured', 'This run has no task with generated answers'):
        assert words in text, words
    assert {'paper.html'} == {o.name for o in made.root.iterdir()} - {
        'run.json', 'results.csv', 'items.parquet', 'distances.safetensors'}
    assert str(tmp_path) not in page.read_text(), 'no local path'
    if find():
        with Browser() as b: assert b.look(page.as_uri()) == []
    first = page.read_bytes()
    assert report(made.root, force=True, progress=False).read_bytes() == first, 'the same bytes'

@pytest.mark.thorough
def test_a_small_model(tmp_path, monkeypatch):
    monkeypatch.setattr(made_runs, 'MODEL', made_runs.MODEL | dict(depth=2, layer_parameters=[40] * 2))
    made = fill(Made(tmp_path/'run'), ns=range(2), tasks=('arc_easy',))
    distances(lambda n: 0, depth=2).save(made.root)
    check(report(made.root, progress=False), least=5)

# The report of the main job

@pytest.mark.parametrize('healed', ['', 'its museums, its river and the tower that was built for a fair'])
def test_the_first_screen_of_the_main_job(healed, tmp_path):
    "The model, its layers, one verdict, and three models side by side; that one repeats itself is read from its text"
    run = Path(shutil.copytree(Path(__file__).parents[1]/'nbs'/'results'/'quick', tmp_path/'run'))
    record = json.loads((run/'run.json').read_text())
    if healed: record['sweeps']['main']['reproduction']['continuations']['healed'] = healed
    (run/'run.json').write_text(json.dumps(record))
    soup = BeautifulSoup(_result_html(run, progress=False), 'html.parser')
    assert soup.title.get_text() == 'SmolLM2-135M-Instruct without layers 11–18'
    assert [o.get_text() for o in soup('h1')] == [soup.title.get_text()]
    lines, names = soup('p'), [o.get_text() for o in soup.table.tbody('th')]
    cells = [[x.get_text() for x in o('td')] for o in soup.table.tbody('tr')]
    assert 'HuggingFaceTB/SmolLM2-135M-Instruct' in lines[0].get_text() and '2026-11-26' in lines[0].get_text()
    assert lines[1] in soup.table.find_all_previous('p') and ('repeats itself' in lines[1].get_text()) == (not healed)
    assert names == ['whole', 'cut', 'healed'] and [len(o) for o in cells] == [3, 3, 3]
    kept = pd.read_csv(run/'results.csv').query('strategy in ["none", "similarity"] and n in [0, 8]')
    for column, task, times in ((0, 'c4', 1), (1, 'arc_easy', 100)):
        own = times * kept[kept.task == task].sort_values(['n', 'healed'])[['value', 'low', 'high']].to_numpy()
        shown = [[float(x) for x in re.findall(r'[\d.]+', o)] for o in [row[column] for row in cells]]
        assert shown == [pytest.approx(o, abs=.51 if times > 1 else .0051) for o in own]
    links = [o['href'] for o in soup('a', href=True)]
    assert len(links) > 3 and all(re.fullmatch(r'https://prunebook\.github\.io/.*\.html(#.*)?', o) for o in links)
    assert not [o for o in soup('figcaption') if '*' in o.get_text()]

def test_a_link_is_one_only_in_the_books_own_words():
    assert 'href' not in _sanitize_markdown('[a](https://example.org)') + _caption('[a](https://example.org)')
    assert 'href="https://example.org' in _sanitize_markdown('[a](https://example.org)', links=True)

@pytest.mark.parametrize('depth, start, n', [(30, 11, 8), (16, 3, 2), (80, 41, 13), (40, 0, 1)])
def test_the_drawing_labels_the_layers_that_it_names(depth, start, n):
    shown = [o.get_text() for o in plot_stack(depth, Block(start, n)).texts]
    assert {str(start), str(start + n - 1), str(start + n)} <= {*shown}

# Strangers' files do nothing

@pytest.mark.thorough
def test_hostile_names(tmp_path):
    "In the model's name, in sweeps, strategies and tasks: shown as text"
    made = fill(Made(tmp_path/'run'), hostile, ns=x[:6], tasks=('arc_easy', hostile))
    made.add(hostile, choice(.5), hostile, 3).add(hostile, loss(5), hostile, 3)
    record = json.loads((made.root/'run.json').read_text())
    record['model']['name'] = hostile
    (made.root/'run.json').write_text(json.dumps(record))
    text = check(report(made.root, tmp_path/'h.html', progress=False), least=4)
    assert '<img src=x onerror' in text, 'the name is there, as text'

@pytest.mark.thorough
def test_a_local_file_is_not_read_because_a_table_names_it(tmp_path):
    lines = [json.dumps(dict(question=f'secret {i}', answer=str(i % 4))) for i in range(600)]
    (tmp_path/'mine.jsonl').write_text('\n'.join(lines))
    made = Made(tmp_path/'run').config('s')
    for n, p in ((0, .6), (1, .2), (2, .1), (3, 0)):
        score = choice(p, 'sums', scoring='generated')
        written = [f'It is {i % 4}.' if o else '' for i, o in enumerate(score.right)]
        score = replace(score, picked=[int(o) for o in score.right], answers=[1] * score.n, written=written)
        made.add('s', score, 'similarity' if n else 'none', n)
    table = pd.read_csv(made.root/'results.csv', dtype=str, keep_default_na=False)
    table.assign(source=str(tmp_path/'mine.jsonl')).to_csv(made.root/'results.csv', index=False)
    book = _run_pages(made.root, ['figure2'], progress=False)['figure2']
    assert 'secret' not in json.dumps(book.cells)

# What was there stays

def test_a_report_is_replaced_only_on_request(tmp_path, monkeypatch):
    out = nbformat.v4.new_output('display_data', data={'image/svg+xml': '<svg/>'})
    cells = [nbformat.v4.new_markdown_cell('# A page'), nbformat.v4.new_code_cell('1', outputs=[out])]
    made = dict(claims=nbformat.v4.new_notebook(cells=cells))
    monkeypatch.setattr(reports, '_run_pages', lambda folder, progress=True: made)
    run = fill(Made(tmp_path/'run'), ns=x[:3]).root
    page = report(run, tmp_path/'a.html', progress=False)
    before = page.read_bytes()
    assert b'data:image/svg+xml;base64,PHN2Zy8+' in before
    with pytest.raises(PrunebookError, match='exists already'): report(run, page, progress=False)
    (run/'results.csv').write_text('damaged')
    with pytest.raises(PrunebookError, match='damaged'): report(run, page, force=True, progress=False)
    assert page.read_bytes() == before and sorted(o.name for o in tmp_path.iterdir()) == ['a.html', 'run']
