"The pages in a browser: each is opened at the width of a telephone and of a desk, light and dark."
import os, re, subprocess, sys
from pathlib import Path
import pytest
from support.browser import Browser, find

root = Path(__file__).parents[1]
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(not find(), reason='no chromium: apt-get install chromium')]

def sources():
    "What the site is made from"
    pages = [p for p in (root/'nbs').rglob('*') if p.is_file() and '.ipynb_checkpoints' not in p.parts]
    return [*pages, *(root/'tools').glob('*.py')]

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The pages as HTML: those in _site/ if they are newer than what they are made from, or newly made"
    made = root/'_site'/'index.html'
    if made.exists() and made.stat().st_mtime > max(p.stat().st_mtime for p in sources()): return made.parent
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, 'tools/preview.py', '--dest', str(out)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return out

@pytest.fixture(scope='module')
def browser():
    with Browser() as b: yield b

def test_every_page(site, browser):
    pages = sorted(site.rglob('*.html'))
    numbered = re.compile(r'^\d+[a-z]?_')  # the site drops the numbers of the rooms
    asked = {numbered.sub('', p.stem) for p in sources() if p.suffix == '.ipynb'}
    assert asked <= {p.stem for p in pages}, 'a page was not made'
    if run := os.environ.get('PRUNEBOOK_RUN'): pages += sorted(Path(run).glob('report.html'))
    shown = lambda p: str(p.relative_to(site) if p.is_relative_to(site) else p.name)
    wrong = {shown(p): o for p in pages if (o := browser.look(p.as_uri()))}
    assert wrong == {}, '\n'.join(f'{k}: {o}' for k, v in wrong.items() for o in v)

# The browser itself, on pages that are broken

HEAD = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>x</title>'
DARK = '<style>@media(prefers-color-scheme:dark){body{background:#111;color:#333}}</style><p>text</p>'
BROKEN = dict(
    exception=('<p>text</p><script>no_such_thing()</script>', 'exception: '),
    missing=('<p>text</p><img src="no-such.png" alt="gone">', 'does not decode'),
    wide=('<div style="width:700px">text</div>', '390 px, light: scrolls sideways'),
    pale_when_dark=(DARK, '1280 px, dark: p in body has a contrast of'))

@pytest.mark.parametrize('body, says', BROKEN.values(), ids=BROKEN)
def test_a_broken_page_is_seen(browser, tmp_path, body, says):
    (tmp_path/'page.html').write_text(HEAD + body)
    found = browser.look((tmp_path/'page.html').as_uri())
    assert any(says in o for o in found), found

def test_a_sound_page_passes(browser, tmp_path):
    (tmp_path/'page.html').write_text(f'{HEAD}<div style="overflow-x:auto"><div style="width:700px">text</div></div>')
    assert browser.look((tmp_path/'page.html').as_uri()) == []
