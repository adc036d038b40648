"""Hard facts about a page of the book. `problems(page)` lists those that do not hold.

Each page has a title and a description, saves no error, warning or text of stderr, names nothing of the machine that
ran it, gives every figure a caption, links only to places that exist, and prints the measurements that its prose
names."""
import html
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
import numpy as np


@dataclass(eq=False)
class Page:
    "A notebook: `name` is its path below nbs/"
    name: str
    cells: list[dict]
    folder: Path = Path('nbs')

    @classmethod
    def read(cls, path, folder):
        cells = json.loads(Path(path).read_text(encoding='utf-8'))['cells']
        return cls(str(Path(path).relative_to(folder)), cells, Path(folder))

    @property
    def prose(self):
        "(number of the cell, text)"
        return [(i, ''.join(c['source'])) for i, c in enumerate(self.cells) if c['cell_type'] == 'markdown']

    @property
    def code(self):
        "(number of the cell, source, outputs)"
        code = [(i, c) for i, c in enumerate(self.cells) if c['cell_type'] == 'code']
        return [(i, ''.join(c['source']), c.get('outputs', [])) for i, c in code]


def joined(o): return o if isinstance(o, str) else ''.join(o or [])


def text_of(out):
    "What a reader can read of an output"
    d = out.get('data', {})
    if 'text' in out: return joined(out['text'])
    rich = re.sub(r'<style.*?</style>|<[^>]+>', ' ', joined(d.get('text/html', '')), flags=re.S)
    plain = '' if 'image/png' in d else joined(d.get('text/plain', ''))
    return '\n'.join([html.unescape(rich), joined(d.get('text/markdown', '')), plain])


def output_problems(page):
    for i, src, outs in page.code:
        for o in outs:
            text = text_of(o)
            if o['output_type'] == 'error': yield f'cell {i}: an error: {o.get("ename")}'
            if o.get('name') == 'stderr': yield f'cell {i}: text of stderr: {joined(o["text"])[:60]!r}'
            if m := re.search(r'Traceback \(most recent|\b\w+Warning: |\d%\|', text):
                yield f'cell {i}: a traceback, warning or progress bar: {m[0]!r}'
            if m := re.search(r'(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt)/[\w.-]+|\bat 0x[0-9a-f]{6,}', text):
                yield f'cell {i}: something of this machine: {m[0]!r}'
            figure = {'image/png', 'image/svg+xml'} & set(o.get('data', {}))
            if figure and not re.search(r'^#\| fig-cap: \S', src, re.M):
                yield f'cell {i}: a figure without a caption (#| fig-cap)'


def title_problems(page):
    first = page.prose[0][1] if page.prose else ''
    if not re.match(r'# .+\n\n> .+', first): yield 'cell 0: no title and description ("# title", "> description")'
    extra = [o for o in first.splitlines()[1:] if o.strip() and not re.match(r'> |- [\w-]+: ', o)]
    if extra: yield f'cell 0: the site leaves this out, give it a cell of its own: {extra[0][:60]!r}'


def slug(heading):
    "A heading's anchor, as pandoc makes it"
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', r'\1', heading)
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', text).strip().lower()))


def anchors(page):
    found = {slug(h) for _, md in page.prose for h in re.findall(r'^#{1,6} +(.+)$', md, re.M)}
    for _, src, _ in page.code:
        found |= set(re.findall(r'^(?:def|class) (\w+)', src, re.M)) | set(re.findall(r'^#\| label: (\S+)', src, re.M))
    return found


def link_problems(page, book):
    "Relative links, anchors and figure references; addresses on the web are not fetched"
    here = anchors(page)
    for i, md in page.prose:
        bare = re.sub(r'^(```).*?^\1[^\n]*$|`[^`\n]+`', '', md, flags=re.S | re.M)
        for f in re.findall(r'(?<![\w\[/])@(fig-[\w-]+)', bare):
            if f not in here: yield f'cell {i}: no figure {f} on this page'
        for target in re.findall(r'\]\(([^)\s]+)(?: "[^"]*")?\)', bare):
            if why := target_problem(target, page, book): yield f'cell {i}: {target}{why}'


def target_problem(target, page, book):
    if re.match(r'(https?://[\w-]+\.[\w./-]+|mailto:)', target): return ''
    if re.match(r'\w+:', target): return ' is not an address'
    file, _, anchor = target.partition('#')
    to = (page.folder/Path(page.name).parent/file).resolve() if file else None
    if to and not to.exists(): return ' leads to no file'
    other = page if not to else next((p for p in book if (p.folder/p.name).resolve() == to), None)
    return ': no such heading' if anchor and (other is None or anchor not in anchors(other)) else ''


NUMBER = re.compile(r'(?<![\w.:/#-])\d[\d,]*(?:\.\d+)?(?![\w/]|\.\d|-\d)')
# a unit that stands behind a number, and the forms in which a cell may print it
FORMS = {r'%|points?': lambda x: [x, 100 * x, abs(100 - 100 * x)], r'million': lambda x: [x, x / 1e6],
         r'ms\b': lambda x: [x, 1000 * x], r'minutes': lambda x: [x, x / 60], r'GB': lambda x: [x, x / 1e3, x / 1e9],
         r'MB': lambda x: [x, x / 1e6], r'times|nats|s\b|seconds|hours|tokens': lambda x: [x], r'': lambda x: [x]}
# what no cell can print: identifiers of articles, versions of programs
NO_MEASUREMENT = re.compile(r'\d{4}\.\d{5}|\b(?:Python|torch|accelerate|transformers) \d\.\d+(?: to \d\.\d+)?')


@lru_cache
def numbers_of(page):
    "All numbers that stand in a page's code and outputs"
    text = '\n'.join(t for _, src, outs in page.code for t in [src, *map(text_of, outs)])
    found = re.findall(r'\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+', text)
    return np.unique([float(o.replace(',', '')) for o in found])


def number_problems(page, book):
    """Measurements in prose (with decimals or a unit) that no cell of the page prints, or of a page that the same cell
    links to. A cell that begins with <!-- given --> says where its numbers are from"""
    for i, md in page.prose:
        if md.startswith('<!-- given -->'): continue
        targets = {(page.folder/Path(page.name).parent/o).resolve() for o in re.findall(r'\]\(([^)\s#]+\.ipynb)', md)}
        known = np.concatenate([numbers_of(p) for p in book if p is page or (p.folder/p.name).resolve() in targets])
        md = re.sub(r'^(```).*?^\1[^\n]*$|^#+ .*$|`[^`\n]+`|\$[^$]+\$|\]\([^)]*\)', ' ', md, flags=re.S | re.M)
        md = NO_MEASUREMENT.sub(' ', md)
        for m in NUMBER.finditer(md):
            said = m[0].replace(',', '')
            forms = next(f for unit, f in FORMS.items() if re.compile(r'\s?(?:%s)' % unit).match(md, m.end()))
            if '.' not in said and forms is FORMS['']: continue
            if not np.isclose(forms(known), float(said), 0, .51 * 10**-len(said.partition('.')[2])).any():
                yield f'cell {i}: {md[max(0, m.start() - 30):m.end() + 15]!r}: no cell prints {m[0]}'


def problems(page, book=()):
    "All that does not hold of a page"
    found = [output_problems(page), title_problems(page), link_problems(page, book or [page]),
             number_problems(page, book or [page])]
    return [f'{page.name}, {o}' for some in found for o in some]
