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
if find_spec('google') and find_spec('google.colab') and not find_spec('prunebook'):
    import subprocess, sys
    package = 'git+https://github.com/prunebook/prunebook'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', package, 'nbdev==2.4.14'], check=True)'''


def course():
    "The pages of the course, as the sidebar lists them"
    contents = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    return next(o['contents'] for o in contents if isinstance(o, dict) and o['section'] == 'Course')


def source(cell): return ''.join(cell['source'])


def with_colab(nb, page):
    "The notebook with link and cell; the same notebook if it has them"
    cells = nb['cells']
    link = f'[![Open in Colab]({BADGE})]({BLOB}/{page})'
    prose = next(i for i, c in enumerate(cells) if i and c['cell_type'] == 'markdown')
    if BADGE not in source(cells[prose]):
        cells[prose]['source'] = (link + '\n\n' + source(cells[prose])).splitlines(True)
    if not any('google.colab' in source(c) for c in cells):
        ident = hashlib.sha256(f'colab {page}'.encode()).hexdigest()[:8]
        first = next(i for i, c in enumerate(cells) if c['cell_type'] == 'code')
        if 'default_exp' in source(cells[first]): first += 1
        cells.insert(first, dict(cell_type='code', execution_count=None, id=ident, metadata={}, outputs=[],
                                 source=INSTALL.splitlines(True)))
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
