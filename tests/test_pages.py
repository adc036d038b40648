"Hard facts about every page of the book (support/pages.py lists them), and the checker itself on broken pages."
import re
from pathlib import Path
import nbformat
import pytest
import yaml
from support.pages import Page, problems

folder = Path(__file__).parents[1]/'nbs'
files = sorted(p for p in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
book = [Page.read(p, folder) for p in files]
by_name = {p.name: p for p in book}


@pytest.mark.parametrize('page', book, ids=lambda p: p.name)
def test_page_is_sound(page):
    "And opens in Jupyter"
    nb = nbformat.read(page.folder/page.name, as_version=4)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == 'python3' and problems(page, book) == []


def listed():
    contents = yaml.safe_load((folder/'sidebar.yml').read_text())['website']['sidebar']['contents']
    return [n for o in contents for n in ([o] if isinstance(o, str) else o['contents'])]


def test_sidebar_and_folder_agree(): assert sorted(listed()) == sorted(by_name)


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_the_root_lead_somewhere(name):
    links = re.findall(r'\]\(([^)\s#]+)', (folder.parent/name).read_text(encoding='utf-8'))
    assert [o for o in links if not re.match(r'https?://', o) and not (folder.parent/o).exists()] == []


# The checker itself

def md(text): return dict(cell_type='markdown', source=text)


def code(src='x', text=None, **data):
    outs = [dict(output_type='stream', name='stdout', text=text)] if text else []
    rich = {k.replace('_', '/'): v for k, v in data.items()}
    if data: outs.append(dict(output_type='display_data', data=rich))
    return dict(cell_type='code', source=src, outputs=outs)


def made(*cells): return Page('made.ipynb', [md('# made\n\n> A page.'), *cells], Path('/nowhere'))


stderr = dict(cell_type='code', source='x', outputs=[dict(output_type='stream', name='stderr', text='oh')])
error = dict(cell_type='code', source='x', outputs=[dict(output_type='error', ename='ValueError', evalue='no')])
broken = dict(
    stderr=([stderr], 'text of stderr'),
    error=([error], 'an error: ValueError'),
    address=([code(text='<object at 0x7f0000000000>')], 'something of this machine'),
    figure=([code(image_png='iVBOR')], 'a figure without a caption'),
    dead_link=([md('[there](no_such.ipynb)')], 'leads to no file'),
    dead_anchor=([md('[there](#no-such)')], 'no such heading'),
    dead_figure=([md('See @fig-none.')], 'no figure fig-none'),
    number=([md('A loss of 2.31 nats.'), code(text='2.3195')], 'no cell prints 2.31'))


@pytest.mark.parametrize('cells, says', broken.values(), ids=broken)
def test_a_broken_page_is_seen(cells, says):
    found = problems(made(*cells))
    assert found and any(says in o for o in found), found
