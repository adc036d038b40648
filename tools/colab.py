"""Put an "Open in Colab" link and a hidden installing cell into the course pages: `python tools/colab.py`.
Running it again changes nothing. `--check` fails if a page lacks them."""
import hashlib, json, sys
from pathlib import Path
import yaml

root = Path(__file__).parents[1]
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
BLOB = 'https://colab.research.google.com/github/prunebook/prunebook/blob/main/nbs'
INSTALL = '''#| hide
from importlib.util import find_spec
if find_spec('google') and find_spec('google.colab'):
    import os, subprocess, sys
    if not find_spec('prunebook'):
        source = 'https://github.com/prunebook/prunebook'
        subprocess.run(['git', 'clone', '-q', '--depth', '1', source, 'book'], check=True)
        subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', './book', 'nbdev==2.4.14'], check=True)
    if os.path.isdir('book'): os.chdir('book/nbs/FOLDER')  # the page reads the runs that are kept there'''


def course():
    "The pages of the start and the course, as the sidebar lists them, and the one on extensions"
    contents = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    sections = [o for o in contents if isinstance(o, dict) and o['section'] in ('Start', 'Course')]
    return [*(p for o in sections for p in o['contents']), 'practice/extend.ipynb']


def source(cell): return ''.join(cell['source'])


def with_colab(nb, page):
    "The notebook with the link and the cell as they should be"
    cells = nb['cells']
    link = f'[![Open in Colab]({BADGE})]({BLOB}/{page})'
    prose = next(i for i, c in enumerate(cells) if i and c['cell_type'] == 'markdown')
    if BADGE not in source(cells[prose]):
        cells[prose]['source'] = (link + '\n\n' + source(cells[prose])).splitlines(True)
    install = next((c for c in cells if 'google.colab' in source(c)), None)
    if install is None:
        ident = hashlib.sha256(f'colab {page}'.encode()).hexdigest()[:8]
        install = dict(cell_type='code', execution_count=None, id=ident, metadata={}, outputs=[])
        first = next(i for i, c in enumerate(cells) if c['cell_type'] == 'code')
        cells.insert(first + ('default_exp' in source(cells[first])), install)
    code = INSTALL.replace('/FOLDER', f'/{Path(page).parent}'.removesuffix('/.'))
    install['source'] = code.splitlines(True)
    return nb


if __name__ == '__main__':
    lacking = []
    for page in course():
        path = root/'nbs'/page
        before = path.read_text(encoding='utf-8')
        after = json.dumps(with_colab(json.loads(before), page), indent=1, ensure_ascii=False) + '\n'
        if after == before: continue
        lacking.append(page)
        if '--check' not in sys.argv: path.write_text(after, encoding='utf-8')
    print(f'{len(lacking)} pages changed' if '--check' not in sys.argv else f'lacking: {lacking or "none"}')
    sys.exit(bool(lacking) and '--check' in sys.argv)
