"`prunebook report`: the paper's pages, run on whatever lies in a run folder. `PRUNEBOOK_RUN` names a finished run to be drawn as well."
import base64, json, os, re, subprocess, sys, zipfile
from html.parser import HTMLParser
from pathlib import Path
import prunebook, pytest
from prunebook import PrunebookError, SweepConfig, report, sweep
from prunebook.cli import main
from prunebook.report import PAGES, page_html, pages_folder
from browser import Browser, find
from made import Made, choice, full, loss, shapes, x
from test_sweep import Letters, config, data, tiny

root = Path(__file__).parents[1]
hostile = '<img src=x onerror=alert(1)>$x_{`](javascript:alert(2)) & "co"'

class Reader(HTMLParser):
    "Tags, attributes and text of a page"
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(page); self.close()
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text += data

@pytest.fixture
def run(data):
    "A small run of a model with a hostile name"
    model = tiny('llama', max_position_embeddings=256)
    model.config._name_or_path = hostile
    sweep(model, Letters(), config(data, ns=[1, 2, 3, 4], healed_ns=[2], healing=dict(steps=2, batch_size=2, max_length=16, rank=2)), data/'run'/'sweep', progress=False)
    return data/'run'

def check(page, figures, least):
    "Whole, self-contained and harmless; returns what a reader sees"
    read = Reader(page.read_text(encoding='utf-8'))
    shown = [a for t, a in read.tags if t == 'img']
    assert len(shown) >= least and all(a['src'].startswith('data:image/png;base64,') for a in shown)
    assert all(base64.b64decode(a['src'].split(',')[1])[:8] == b'\x89PNG\r\n\x1a\n' for a in shown)
    assert len(list(figures.glob('*.png'))) == len(list(figures.glob('*.svg'))) == len(shown)
    assert not [t for t, _ in read.tags if t in ('script', 'iframe', 'object')] and not [a for _, a in read.tags if any(k.startswith('on') for k in a)]
    links = [a['href'] for t, a in read.tags if t in ('a', 'link') and 'href' in a]
    assert all(o.startswith(('https://', '#', 'data:')) for o in links), links
    assert {a['id'] for t, a in read.tags if t == 'section'} == set(PAGES) == {o[1:] for o in links if o[0] == '#'}
    assert 'Traceback' not in read.text and 'Error' not in read.text
    return read

def test_report_of_a_small_run(run, capsys):
    assert main(['report', str(run), '--no-progress', '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    read = check(Path(said['report']), Path(said['figures']), least=7)
    assert '<img src=x' in read.text, 'the name is there, as text'
    for words in ('the paper says', 'holds', 'not measured in this run', 'This run has no task with generated answers', 'published'): assert words in read.text, words
    assert sorted(p.name for p in run.iterdir()) == ['paper-figures', 'paper.html', 'sweep']
    if find():
        with Browser() as b: assert b.look(Path(said['report']).as_uri()) == []
    before = Path(said['report']).stat().st_mtime_ns
    with pytest.raises(PrunebookError, match='there already'): report(run, progress=False)
    (run/'sweep'/'results.csv').write_text('damaged')
    with pytest.raises(PrunebookError, match='damaged'): report(run, force=True, progress=False)
    assert Path(said['report']).stat().st_mtime_ns == before, 'what was there stays'

@pytest.mark.slow
def test_report_of_all_that_a_run_may_hold(tmp_path):
    read = check(report(full(tmp_path/'run'), tmp_path/'all.html', progress=False), tmp_path/'all-figures', least=14)
    for words in ('Not shown', 'damaged'): assert words not in read.text.replace('Not shown: This run has no map of true losses', ''), words

def partial(m, kind):
    "Runs that lack nearly everything"
    m.config('s').add('s', loss(3), 'none', 0)
    if kind == 'the whole model only': m.add('s', choice(.6), 'none', 0)
    if kind == 'questions only':
        m.rows.clear()
        for n, p in zip(x, shapes['straight']): m.add('s', choice(p), 'similarity' if n else 'none', int(n))
    if kind == 'random only':
        for n in (1, 3): m.add('s', loss(3 + n), 'random', n).add('s', loss(3 + n, seed=1), 'random', n, False, 1)
    if kind == 'healed only':
        for n in (2, 4): m.add('s', loss(3 + n), 'similarity', n, True)
    return m.root

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['the whole model only', 'questions only', 'random only', 'healed only'])
def test_report_of_a_partial_run(tmp_path, kind):
    read = check(report(partial(Made(tmp_path/'run'), kind), tmp_path/'p.html', progress=False), tmp_path/'p-figures', least=2)
    assert 'Not shown: This run has no distances.' in read.text

@pytest.mark.skipif('PRUNEBOOK_RUN' not in os.environ, reason='PRUNEBOOK_RUN names no run')
def test_report_of_a_finished_run(tmp_path):
    page = report(os.environ['PRUNEBOOK_RUN'], tmp_path/'mine.html', progress=False)
    check(page, tmp_path/'mine-figures', least=7)

def test_a_folder_without_a_sweep(tmp_path, capsys):
    with pytest.raises(PrunebookError, match='no sweep here'): report(tmp_path, progress=False)
    assert main(['report', str(tmp_path/'nothing')]) == 2 and 'no sweep here' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

def test_pages_are_listed_everywhere():
    import yaml
    assert {o.stem for o in pages_folder().glob('*.ipynb')} == set(PAGES)
    sections = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    paper = next(o['contents'] for o in sections if isinstance(o, dict) and o['section'] == 'Paper')
    assert [Path(o).stem for o in paper] == list(PAGES)

def test_escaping():
    import nbformat
    v4 = nbformat.v4
    out = lambda **d: v4.new_output('display_data', data={k.replace('_', '/'): v for k, v in d.items()})
    cells = [v4.new_markdown_cell(f'# T {hostile}\n\n[a](javascript:alert(1)) [b](../x.ipynb) [c](https://arxiv.org)'), v4.new_code_cell(f'print("{hostile}")', outputs=[out(text_plain=hostile), out(text_markdown=hostile)])]
    read = Reader(page_html('t', v4.new_notebook(cells=cells), Path('.')))
    assert [a for t, a in read.tags if t == 'a'] == [dict(href='https://arxiv.org')] and not [t for t, _ in read.tags if t == 'img']
    assert read.text.count('onerror') == 4

def test_the_wheel_holds_the_pages(tmp_path):
    "Built from a copy of the tree, without network; the pages come without their outputs"
    import shutil
    pytest.importorskip('setuptools', '77')
    for o in ('setup.py', 'settings.ini', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'): shutil.copy(root/o, tmp_path/o)
    shutil.copytree(root/'prunebook', tmp_path/'prunebook', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(root/'nbs'/'paper', tmp_path/'nbs'/'paper', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    done = subprocess.run([sys.executable, 'setup.py', '-q', 'bdist_wheel', '-d', 'dist'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next((tmp_path/'dist').glob('*.whl'))) as z:
        names = [o for o in z.namelist() if o.startswith('prunebook/paper/')]
        assert {Path(o).name for o in names} == {f'{o}.ipynb' for o in PAGES} | {'published.csv'}
        for o in names:
            if o.endswith('.ipynb'): assert not [c for c in json.loads(z.read(o))['cells'] if c.get('outputs')]
