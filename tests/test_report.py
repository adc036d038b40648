"`prunebook report`: the paper's pages, run on whatever lies in a run folder. `PRUNEBOOK_RUN` names a finished run."
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
import nbformat
import pandas as pd
import pytest
from prunebook.paper import report as reports
from prunebook.core import PrunebookError
from prunebook.paper.report import _MARK, PAGES, _page_html, _pages_folder, report, _run_pages
from support import made_runs
from support.kills import audit_syncs
from support.browser import Browser, find
from support.made_runs import Made, choice, distances, fill, loss, x

root = Path(__file__).parents[1]
hostile = '<img src=x onerror=alert(1)>$x_{`](javascript:alert(2)) & "co" [web](https://example.org/x)'


class Reader(HTMLParser):
    "Tags, attributes and text of a page, without its folded code"
    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.folded = [], '', 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.folded += tag == 'details'

    def handle_endtag(self, tag): self.folded -= tag == 'details'

    def handle_data(self, data): self.text += '' if self.folded else data


def check(page, figures, least):
    "Whole, self-contained and harmless; returns what a reader sees"
    read = Reader(page.read_text(encoding='utf-8'))
    shown = [a for t, a in read.tags if t == 'img']
    assert len(shown) >= least and all(a['src'].startswith('data:image/png;base64,') for a in shown)
    assert all(base64.b64decode(a['src'].split(',')[1])[:8] == b'\x89PNG\r\n\x1a\n' for a in shown)
    assert len(list(figures.glob('*.png'))) == len(list(figures.glob('*.svg'))) == len(shown)
    assert not [t for t, _ in read.tags if t in ('script', 'iframe', 'object')]
    assert not [a for _, a in read.tags if any(k.startswith('on') for k in a)]
    links = [a['href'] for t, a in read.tags if t in ('a', 'link') and 'href' in a]
    assert all(o.startswith(('https://arxiv.org/', '#', 'data:')) for o in links), links
    assert {a['id'] for t, a in read.tags if t == 'section'} == set(PAGES) == {o[1:] for o in links if o[0] == '#'}
    assert 'Traceback' not in read.text and 'Error' not in read.text
    return read


# What is shown

@pytest.mark.thorough
def test_report_of_a_run(tmp_path):
    made = fill(Made(tmp_path/'run'), ns=x[:6], tasks=('arc_easy',))
    for rate in (1e-4, 1e-3):  # two recipes of one length, and no unpruned model healed alike
        made_runs.lengths(made, 20, lambda n: .1, lambda n: .2 * n, (1, 2, 3, 4, 6), learning_rate=rate)
    made_runs.ranks(made)
    distances(lambda n: 3).save(made.root)
    page = report(made.root, progress=False)
    read = check(page, tmp_path/'run'/'paper-figures', least=7)
    for words in ('In the paper', 'holds', 'not measured in this run', 'This run has no task with generated answers',
                  'The unpruned model was not healed alike'):
        assert words in read.text, words
    assert {'paper-figures', 'paper.html'} == {o.name for o in made.root.iterdir()} - {
        'run.json', 'results.csv', 'items.parquet', 'distances.safetensors'}
    assert str(tmp_path) not in page.read_text(), 'no local path'
    if find():
        with Browser() as b: assert b.look(page.as_uri()) == []
    first = [o.read_bytes() for o in sorted((tmp_path/'run'/'paper-figures').glob('*.svg'))]
    report(made.root, force=True, progress=False)
    assert first == [o.read_bytes() for o in sorted((tmp_path/'run'/'paper-figures').glob('*.svg'))], 'the same bytes'


@pytest.mark.thorough
@pytest.mark.parametrize('depth', [2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_small_models(tmp_path, monkeypatch, depth):
    model = made_runs.MODEL | dict(depth=depth, layer_parameters=[40] * depth)
    monkeypatch.setattr(made_runs, 'MODEL', model)
    made = fill(Made(tmp_path/'run'), ns=range(depth), tasks=('arc_easy',))
    distances(lambda n: 0, depth=depth).save(made.root)
    check(report(made.root, progress=False), tmp_path/'run'/'paper-figures', least=5)


# Strangers' files do nothing

@pytest.mark.thorough
def test_hostile_names(tmp_path):
    "In the model's name, in sweeps, strategies and tasks: shown as text"
    made = fill(Made(tmp_path/'run'), hostile, ns=x[:6], tasks=('arc_easy', hostile))
    made.add(hostile, choice(.5), hostile, 3).add(hostile, loss(5), hostile, 3)
    record = json.loads((made.root/'run.json').read_text())
    record['model']['name'] = hostile
    (made.root/'run.json').write_text(json.dumps(record))
    read = check(report(made.root, tmp_path/'h.html', progress=False), tmp_path/'h-figures', least=4)
    assert '<img src=x onerror' in read.text, 'the name is there, as text'


def test_escaping():
    v4 = nbformat.v4
    def out(**d): return v4.new_output('display_data', data={k.replace('_', '/'): v for k, v in d.items()})
    prose = f'# T {hostile}\n\n[a](javascript:alert(1)) [b](../x.ipynb) [c](https://arxiv.org)'
    shown = [out(text_plain=hostile), out(text_markdown=hostile), out(text_html='<td>/home/me/runs/secret</td>')]
    book = v4.new_notebook(cells=[v4.new_markdown_cell(prose), v4.new_code_cell('1', outputs=shown)])
    read = Reader(_page_html('t', book, Path('.')))
    links = [a['href'] for t, a in read.tags if t == 'a']
    assert links == ['https://example.org/x', 'https://arxiv.org'], 'outputs have no links'
    assert not [t for t, _ in read.tags if t == 'img'] and read.text.count('onerror') == 3
    assert '/home' not in read.text and 'secret' in read.text


@contextmanager
def listener():
    "A port, and the connections that came to it"
    with socket.create_server(('127.0.0.1', 0)) as server:
        came = []
        def serve():
            while True:
                try: came.append(server.accept()[0])
                except OSError: return
                came[-1].close()
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


def asks_for(folder, source):
    "A run whose table names `source` as its questions; question i has the answer i % 4"
    made = Made(folder).config('s')
    for n, p in ((0, .6), (1, .2), (2, .1), (3, 0)):
        score = choice(p, 'sums', scoring='generated')
        written = [f'It is {i % 4}.' if o else '' for i, o in enumerate(score.right)]
        picked = [int(o) for o in score.right]
        score = replace(score, picked=picked, answers=[1] * score.n, written=written)
        made.add('s', score, 'similarity' if n else 'none', n)
    table = pd.read_csv(made.root/'results.csv', dtype=str, keep_default_na=False)
    table.assign(source=str(source)).to_csv(made.root/'results.csv', index=False)
    return made.root


@pytest.mark.thorough
@pytest.mark.parametrize('online', [False, True])
def test_the_hub_is_asked_only_on_request(tmp_path, monkeypatch, online):
    run = asks_for(tmp_path/'run', 'lab/questions')
    for o in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE', 'TRANSFORMERS_OFFLINE'): monkeypatch.delenv(o, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'cache'))
    with listener() as (port, came):
        monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{port}')
        _run_pages(run, ['gsm8k'], progress=False, online=online)
        assert bool(came) == online


@pytest.mark.thorough
def test_a_local_file_is_not_read_because_a_table_names_it(tmp_path, monkeypatch):
    lines = [json.dumps(dict(question=f'secret {i}', answer=str(i % 4))) for i in range(600)]
    (tmp_path/'mine.jsonl').write_text('\n'.join(lines))
    run = asks_for(tmp_path/'run', tmp_path/'mine.jsonl')
    book = _run_pages(run, ['gsm8k'], progress=False)['gsm8k']
    assert 'secret' not in json.dumps(book.cells)


# What was there stays, and the next start just works

@pytest.fixture
def quick(monkeypatch):
    "Reports without running the pages"
    def pages(folder, progress=True, online=False):
        png = base64.b64encode(b'\x89PNG').decode()
        out = nbformat.v4.new_output('display_data', data={'image/png': png, 'image/svg+xml': '<svg/>'})
        cells = [nbformat.v4.new_markdown_cell('# A page'), nbformat.v4.new_code_cell('1', outputs=[out])]
        return dict(claims=nbformat.v4.new_notebook(cells=cells))
    monkeypatch.setattr(reports, '_run_pages', pages)


@pytest.fixture
def small(tmp_path): return fill(Made(tmp_path/'run'), ns=x[:3]).root


def names(folder): return sorted(o.name for o in folder.iterdir())


def test_only_a_report_is_replaced_and_only_on_request(small, quick, tmp_path):
    mine = tmp_path/'a-figures'
    mine.mkdir()
    (mine/'thesis.png').write_text('mine')
    for force in (False, True):
        with pytest.raises(PrunebookError, match='thesis.png, which no report wrote'):
            report(small, tmp_path/'a.html', force)
    (mine/'thesis.png').unlink()
    page = report(small, tmp_path/'a.html', progress=False)
    assert names(mine) == [_MARK, 'claims-1.png', 'claims-1.svg'], 'an empty folder is fine'
    before = page.read_bytes()
    with pytest.raises(PrunebookError, match='exists already'): report(small, page, progress=False)
    (mine/'thesis.png').write_text('mine')
    with pytest.raises(PrunebookError, match='thesis.png'): report(small, page, force=True, progress=False)
    (small/'results.csv').write_text('damaged')
    with pytest.raises(PrunebookError, match='damaged'): report(small, page, force=True, progress=False)
    assert page.read_bytes() == before and names(tmp_path) == ['a-figures', 'a.html', 'run']
    assert (mine/'thesis.png').read_text() == 'mine'


def stopped_at(step, work):
    "Run `work` in a child that dies before the `step`th change of a file; False if it had ended by then"
    child = os.fork()
    if child: return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0
    changes = ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'sync')
    def hook(event, args):
        nonlocal count
        writes = event == 'open' and isinstance(args[1], str) and any(o in args[1] for o in 'wxa')
        if writes or event in changes:
            count += 1
            if count == step: os._exit(9)
    sys.addaudithook(hook)
    audit_syncs()
    try: work()
    finally: os._exit(0)


@pytest.mark.thorough
@pytest.mark.parametrize('again', [False, True], ids=['new', 'replaced'])
def test_killed_anywhere_and_started_again(small, quick, tmp_path, again):
    "The same command works again, with nothing left behind"
    out = tmp_path/'out'/'a.html'
    if again: report(small, out, progress=False)
    step = 0
    while stopped_at(step := step + 1, lambda: report(small, out, force=again, progress=False)):
        if again: assert out.exists(), f'killed at step {step}, the old page is gone'
        report(small, out, force=again or out.exists(), progress=False)
        assert names(tmp_path/'out') == ['a-figures', 'a.html'], f'killed at step {step}'
        if not again:
            for o in (tmp_path/'out'/'a-figures').iterdir(): o.unlink()
            (tmp_path/'out'/'a-figures').rmdir()
            out.unlink()
    assert step > 10


def kernels(run):
    "Processes that run the pages on `run`"
    found = []
    for o in Path('/proc').glob('[0-9]*'):
        try:
            ours = f'PRUNEBOOK_RUN={run}\0'.encode() in (o/'environ').read_bytes()
            if ours and b'ipykernel' in (o/'cmdline').read_bytes(): found.append(int(o.name))
        except OSError: continue
    return found


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end: time.sleep(.05)
    return what()


SIGNALLED = '''
import signal, sys
from prunebook.paper.report import report
def stop(*a): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
try: report(sys.argv[1], sys.argv[2], progress=False)
except KeyboardInterrupt: sys.exit(77)
'''


@pytest.mark.thorough
@pytest.mark.skipif(not Path('/proc').is_dir(), reason='needs /proc')
@pytest.mark.parametrize('number, after', [(signal.SIGTERM, 0), (signal.SIGTERM, 2), (signal.SIGINT, .5)])
def test_a_signal_is_an_interrupt(small, tmp_path, number, after):
    "While the kernel runs: `KeyboardInterrupt` at once, no kernel left, nothing left on disk"
    env = dict(os.environ, OMP_NUM_THREADS='1')
    child = subprocess.Popen([sys.executable, '-c', SIGNALLED, small, tmp_path/'out'/'a.html'], env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert wait_for(lambda: kernels(small)), child.stderr.read()
    time.sleep(after)
    child.send_signal(number)
    said = child.communicate(timeout=60)
    assert child.returncode == 77, said
    assert said == ('', ''), said
    assert wait_for(lambda: not kernels(small), 10)
    assert names(tmp_path/'out') == []


# The package

def test_the_wheel_holds_the_pages(tmp_path):
    "Built from a copy of the tree, without network; the pages come without their outputs"
    import shutil
    pytest.importorskip('setuptools', '77')
    for o in ('setup.py', 'settings.ini', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(root/o, tmp_path/o)
    shutil.copytree(root/'prunebook', tmp_path/'prunebook', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(root/'nbs'/'paper', tmp_path/'nbs'/'paper', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    command = [sys.executable, 'setup.py', '-q', 'bdist_wheel', '-d', 'dist']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next((tmp_path/'dist').glob('*.whl'))) as z:
        found = [o for o in z.namelist() if o.startswith('prunebook/paper/pages/')]
        assert {Path(o).name for o in found} == {o.name for o in _pages_folder().iterdir() if o.is_file()}
        assert {Path(o).name for o in found} >= {f'{o}.ipynb' for o in PAGES} | {'published.csv'}
        for o in found:
            if o.endswith('.ipynb'): assert not [c for c in json.loads(z.read(o))['cells'] if c.get('outputs')]
