"`prunebook report`: the paper's pages, run on whatever lies in a run folder. `PRUNEBOOK_RUN` names a finished run."
import base64
import json
import re
import signal
from dataclasses import replace
from html.parser import HTMLParser
import nbformat
import pandas as pd
import pytest
from prunebook.paper import report as reports
from prunebook.core import PrunebookError
from prunebook.paper.report import PAGES, report, _run_pages
from support import made_runs
from support.kills import forked
from support.browser import Browser, find
from support.made_runs import Made, choice, distances, fill, loss, x

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


def check(page, least):
    "Whole, self-contained, harmless, and about this run alone; returns what a reader sees"
    read = Reader(page.read_text(encoding='utf-8'))
    shown = [a for t, a in read.tags if t == 'img']
    assert len(shown) >= least and all(a['src'].startswith('data:image/svg+xml;base64,') for a in shown)
    assert all('<svg' in base64.b64decode(a['src'].split(',')[1]).decode() for a in shown)
    assert not re.findall(r'SmolLM|Qwen2|Gemma|this book|three dots', read.text), 'nothing about the models of the book'
    assert not [t for t, a in read.tags if t in ('script', 'iframe', 'object') or any(k.startswith('on') for k in a)]
    links = [a['href'] for t, a in read.tags if t in ('a', 'link') and 'href' in a]
    assert all(o.startswith(('#', 'data:')) for o in links), links
    assert {a['id'] for t, a in read.tags if t == 'section'} == set(PAGES) == {o[1:] for o in links if o[0] == '#'}
    assert 'Traceback' not in read.text and 'Error' not in read.text
    return read


# What is shown

@pytest.mark.thorough
def test_report_of_a_run(tmp_path):
    made = fill(Made(tmp_path/'run'), ns=x[:6], tasks=('arc_easy',))
    distances(lambda n: 3).save(made.root)
    page = report(made.root, progress=False)
    read = check(page, least=7)
    for words in ('C1: the block of least angle is deep', 'holds',
                  'not measured in this run', 'This run has no task with generated answers'):
        assert words in read.text, words
    assert {'paper.html'} == {o.name for o in made.root.iterdir()} - {
        'run.json', 'results.csv', 'items.parquet', 'distances.safetensors'}
    assert str(tmp_path) not in page.read_text(), 'no local path'
    if find():
        with Browser() as b: assert b.look(page.as_uri()) == []
    first = page.read_bytes()
    assert report(made.root, force=True, progress=False).read_bytes() == first, 'the same bytes'


@pytest.mark.thorough
@pytest.mark.parametrize('depth', [2, 4])
def test_small_models(tmp_path, monkeypatch, depth):
    monkeypatch.setattr(made_runs, 'MODEL', made_runs.MODEL | dict(depth=depth, layer_parameters=[40] * depth))
    made = fill(Made(tmp_path/'run'), ns=range(depth), tasks=('arc_easy',))
    distances(lambda n: 0, depth=depth).save(made.root)
    check(report(made.root, progress=False), least=5)


# Strangers' files do nothing

@pytest.mark.thorough
def test_hostile_names(tmp_path):
    "In the model's name, in sweeps, strategies and tasks: shown as text"
    made = fill(Made(tmp_path/'run'), hostile, ns=x[:6], tasks=('arc_easy', hostile))
    made.add(hostile, choice(.5), hostile, 3).add(hostile, loss(5), hostile, 3)
    record = json.loads((made.root/'run.json').read_text())
    record['model']['name'] = hostile
    (made.root/'run.json').write_text(json.dumps(record))
    read = check(report(made.root, tmp_path/'h.html', progress=False), least=4)
    assert '<img src=x onerror' in read.text, 'the name is there, as text'


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


# What was there stays, and the next start just works

@pytest.fixture
def quick(monkeypatch):
    "Reports without running the pages"
    def pages(folder, progress=True):
        out = nbformat.v4.new_output('display_data', data={'image/svg+xml': '<svg/>'})
        cells = [nbformat.v4.new_markdown_cell('# A page'), nbformat.v4.new_code_cell('1', outputs=[out])]
        return dict(claims=nbformat.v4.new_notebook(cells=cells))
    monkeypatch.setattr(reports, '_run_pages', pages)


@pytest.fixture
def small(tmp_path): return fill(Made(tmp_path/'run'), ns=x[:3]).root


def names(folder): return sorted(o.name for o in folder.iterdir())


def test_a_report_is_replaced_only_on_request(small, quick, tmp_path):
    page = report(small, tmp_path/'a.html', progress=False)
    before = page.read_bytes()
    assert b'data:image/svg+xml;base64,PHN2Zy8+' in before
    with pytest.raises(PrunebookError, match='exists already'): report(small, page, progress=False)
    (small/'results.csv').write_text('damaged')
    with pytest.raises(PrunebookError, match='damaged'): report(small, page, force=True, progress=False)
    assert page.read_bytes() == before and names(tmp_path) == ['a.html', 'run']


@pytest.mark.thorough
def test_killed_anywhere_and_started_again(small, quick, tmp_path):
    "The old page stays, and the same command works again, with nothing left behind"
    out = tmp_path/'out'/'a.html'
    make = lambda: report(small, out, force=True, progress=False)
    before, step = make().read_bytes(), 0
    while (code := forked(make, out.parent, tmp_path/'log', at=step).code) == -signal.SIGKILL:
        assert out.read_bytes() == before, f'killed at step {step}'
        make()
        assert names(out.parent) == ['a.html'], f'killed at step {step}'
        step += 1
    assert code == 0 and step > 4
