"""Every page of the book opens in Jupyter, saves no error, warning or text of stderr, names nothing of the machine that
ran it, and prints the measurements that its prose names. Links, anchors and figures are checked where the pages are
rendered. At the end, the checker on broken pages."""
import html, re
from functools import cache
from pathlib import Path
import nbformat, numpy as np, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

folder = Path(__file__).parents[1]/'nbs'
files = sorted(p for p in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

@cache
def read(path): return nbformat.read(path, as_version=4)

def text_of(out):
    "What a reader can read of an output"
    d = out.get('data', {})
    if 'text' in out: return out['text']
    rich = re.sub(r'<style.*?</style>|<[^>]+>', ' ', d.get('text/html', ''), flags=re.S)
    plain = '' if 'image/png' in d else d.get('text/plain', '')
    return '\n'.join([html.unescape(rich), d.get('text/markdown', ''), plain])

def output_problems(path):
    for i, o in [(i, o) for i, c in enumerate(read(path).cells) for o in c.get('outputs', ())]:
        text = text_of(o)
        if o['output_type'] == 'error': yield f'cell {i}: an error: {o["ename"]}'
        if o.get('name') == 'stderr': yield f'cell {i}: text of stderr: {text[:60]!r}'
        if m := re.search(r'Traceback \(most recent|\b\w+Warning: |\d%\|', text):
            yield f'cell {i}: a traceback, warning or progress bar: {m[0]!r}'
        if m := re.search(r'(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt)/[\w.-]+|\bat 0x[0-9a-f]{6,}', text):
            yield f'cell {i}: something of this machine: {m[0]!r}'

NUMBER = re.compile(r'(?<![\w.:/#-])\d[\d,]*(?:\.\d+)?(?![\w/]|\.\d|-\d)')
# a unit that stands behind a number, and the forms in which a cell may print it
FORMS = {r'%|points?': lambda x: [x, 100 * x, abs(100 - 100 * x)], r'million': lambda x: [x, x / 1e6],
         r'ms\b': lambda x: [x, 1000 * x], r'minutes': lambda x: [x, x / 60], r'GB': lambda x: [x, x / 1e3, x / 1e9],
         r'MB': lambda x: [x, x / 1e6], r'times|nats|s\b|seconds|hours|tokens': lambda x: [x], r'': lambda x: [x]}
# what no cell can print: identifiers of articles, versions of programs
NO_MEASUREMENT = re.compile(  # and the sizes of runs
    r'\d{4}\.\d{5}|\b(?:Python|torch|accelerate|transformers|Llama|Section) \d\.\d+(?: to \d\.\d+)?'
    r'|95 % interval|\d[\d,]* (?:or \d+ )?(?:million )?tokens|to \d+ times as many')

@cache
def numbers_of(path):
    "All numbers that stand in a page's code and outputs"
    code = [c for c in read(path).cells if c.cell_type == 'code']
    text = '\n'.join(t for c in code for t in [c.source, *map(text_of, c.outputs)])
    found = re.findall(r'\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+', text)
    return np.unique([float(o.replace(',', '')) for o in found])

def number_problems(path):
    """Measurements in prose (with decimals or a unit) that no cell of the page prints, or of a page that the same cell
    links to. A cell that begins with <!-- given --> says where its numbers are from"""
    for i, md in [(i, c.source) for i, c in enumerate(read(path).cells) if c.cell_type == 'markdown']:
        if md.startswith('<!-- given -->'): continue
        linked = {(path.parent/o).resolve() for o in re.findall(r'\]\(([^)\s#:]+\.ipynb)', md)}
        known = np.concatenate([numbers_of(p) for p in {path, *linked}])
        md = re.sub(r'^(```).*?^\1[^\n]*$|^#+ [^\n]*$|`[^`\n]+`|\$[^$]+\$|\]\([^)]*\)', ' ', md, flags=re.S | re.M)
        md = NO_MEASUREMENT.sub(' ', md)
        for m in NUMBER.finditer(md):
            said = m[0].replace(',', '')
            forms = next(f for unit, f in FORMS.items() if re.compile(r'\s?(?:%s)' % unit).match(md, m.end()))
            if '.' not in said and forms is FORMS['']: continue
            if not np.isclose(forms(known), float(said), 0, .51 * 10**-len(said.partition('.')[2])).any():
                yield f'cell {i}: {md[max(0, m.start() - 30):m.end() + 15]!r}: no cell prints {m[0]}'

def problems(path): return [*output_problems(path), *number_problems(path)]

@pytest.mark.parametrize('path', files, ids=lambda p: str(p.relative_to(folder)))
def test_page_is_sound(path):
    nbformat.validate(read(path))
    assert read(path).metadata.kernelspec.name == 'python3' and problems(path) == []
    assert not any('.callout' in c.source for c in read(path).cells), 'Jupyter and GitHub show it open: <details>'

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_the_root_lead_somewhere(name):
    links = re.findall(r'\]\(([^)\s#]+)', (folder.parent/name).read_text(encoding='utf-8'))
    assert [o for o in links if not re.match(r'https?://', o) and not (folder.parent/o).exists()] == []

def test_a_signature_shows_its_code_without_links(monkeypatch):
    "nbdev links names in the comments of a signature, and slants the first line of a docstring alone"
    monkeypatch.syspath_prepend(str(folder.parent/'tools'))
    import preview
    shown = ['---\n', '\n', '### heal\n', '\n', '```python\n', 'def heal(\n', '    a:str, # As in [`b`](../c.html#b)\n',
             ')\n', '```\n', '\n', '*Heal as [`b`](../c.html#b) does, or not*\n', 'at all']
    made = new_output('display_data', data={'text/markdown': ''})
    made.data['text/markdown'] = shown
    cell = new_code_cell('show_doc(heal)', outputs=[made])
    preview.plain_signatures(cell)
    text = ''.join(cell.outputs[0].data['text/markdown'])
    assert '# As in `b`\n' in text and 'Heal as [`b`](../c.html#b) does, or not\nat all' in text

def printed(text, name='stdout'): return new_code_cell('x', outputs=[new_output('stream', name=name, text=text)])

error = new_output('error', ename='ValueError', evalue='no', traceback=[])
BROKEN = dict(
    stderr=([printed('oh', 'stderr')], 'text of stderr'), error=([new_code_cell('x', outputs=[error])], 'ValueError'),
    address=([printed('<object at 0x7f0000000000>')], 'something of this machine'),
    number=([new_markdown_cell('A loss of 2.31 nats.'), printed('2.3195')], 'no cell prints 2.31'),
    headed=([new_markdown_cell('## A title\n\nA loss of 2.31 nats.'), printed('2.3195')], 'no cell prints 2.31'))

@pytest.mark.parametrize('cells, says', BROKEN.values(), ids=BROKEN)
def test_a_broken_page_is_seen(cells, says, tmp_path):
    nbformat.write(new_notebook(cells=cells), tmp_path/'made.ipynb')
    found = problems(tmp_path/'made.ipynb')
    assert any(says in o for o in found), found
