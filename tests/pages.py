"""The tutorial contract: what holds for every page of the book. `problems(page)` says what does not.

A number in prose, or in a figure's caption, must be *printed* by a cell of its page (rounded as the prose rounds it, with its sign) or *set* by one
(a literal of its code; how a figure is drawn, comments and captions set nothing).
These are no results, and need no cell:
- code, formulas, headings, link targets; the numbers of a list; 0 and 1; numbers in words (bfloat16, 7B);
- numbers of layers ("layers 11 to 18"), of figures, sections, claims and exercises; years and arXiv ids; bits; versions; the 95 % of intervals;
- numbers quoted from a source, in the sentence that names it: "the paper", "et al.", or a link out of the book."""
import html, json, math, re
from dataclasses import dataclass
from pathlib import Path

BANNED = ('for free|state[- ]of[- ]the[- ]art|sota|blazing(?:ly)?|lightning[- ]fast|cutting[- ]edge|revolutionary|game[- ]chang\\w+|unparalleled|world[- ]class|seamless(?:ly)?|effortless(?:ly)?|'
    'magical(?:ly)?|guarantee[sd]?|production[- ]ready|best[- ]in[- ]class|lossless(?:ly)?|no loss of quality|zero[- ]cost|outperforms?|superior|the best (?:tool|library|method|strategy|way)|unrivall?ed')
CITED = re.compile(r"\bpapers?\b|et al\.|\]\(https?:", re.I)
MACHINE = re.compile(r'threads?\b|processor|\bcores?\b|x86_64|aarch64|\bCPU|\bGPU|\b[AH]100\b', re.I)
TIME = re.compile(r'(?<![\w.])\d(?:[\d,.]*\d)?\s*(?:ms|s|sec|seconds?|min|minutes?|hours?|h)\b(?!-)|\b(?:seconds|minutes|hours)\b[^\n]*?[:=] ?\d', re.I)
EXAM = re.compile(r'accura|answered right|right answers|\b(?:mmlu|arc|arc.easy|piqa|boolq|gsm8k)\b', re.I)
SHARE = re.compile(r'\d(?:\.\d+)?\s*%')
COUNT, INTERVAL = re.compile(r'\d\s*(?:/|of|out of)\s*\d'), re.compile(r'interval|\[|±|\d\s*%?\s*(?:to|–)\s*\d')
NUMBER = re.compile(r'(?<![\w.,])(?:(?<!\))[-−])?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w])(?!\.\d)')
_value = r'(?:[-+.\d][\w.]*|\([^()]*\)|\[[^\[\]]*\])'
DRAWN = re.compile(rf'\b(?:figsize|dpi|lw|linewidth|elinewidth|capsize|zorder|fontsize|labelsize|ms|markersize|mew|ncol|pad|borderaxespad|bbox_to_anchor|xytext|[xy]lim|[xy]ticks|extent|font_scale|rounding_size|height_ratios|width_ratios|hspace|wspace|indent) ?= ?{_value}|\bset_[xy](?:lim|ticks){_value}')
SCALES = dict(thousand=1e3, million=1e6, billion=1e9, kb=1e3, mb=1e6, gb=1e9)
_run = r'\d+(?:(?:, | and | or | to |-|–|:|/)\d+)*'
NO_RESULT = [re.compile(o, re.I) for o in (
    rf'\b(?:layers?|blocks?) {_run}', r'\bpython \d+\.\d+(?:(?: to |–|-| or )\d+\.\d+)?', rf'\b(?:figures?|tables?|sections?|equations?|claims?|exercises?|chapters?|cells?|versions?|seeds?) {_run}[a-z]?\b', r'\bappendix \w+',
    r'\b\d{4}\.\d{4,5}\b', rf'{_run}[ -]bits?\b', r'\b95 ?%', r'\b(?:19|20)\d\d\b', r'\b\d+(?:\.\d+)+\b(?=[^%]{0,12}\bor newer)')]

@dataclass
class Page:
    "A notebook: `name` is its path below nbs/"
    name: str
    cells: list[dict]
    folder: Path = Path('nbs')

    @classmethod
    def read(cls, path, folder): return cls(str(Path(path).relative_to(folder)), json.loads(Path(path).read_text(encoding='utf-8'))['cells'], Path(folder))

    @property
    def prose(self): return [(i, ''.join(c['source'])) for i, c in enumerate(self.cells) if c['cell_type'] == 'markdown']
    @property
    def code(self): return [(i, ''.join(c['source']), c.get('outputs', [])) for i, c in enumerate(self.cells) if c['cell_type'] == 'code']
    @property
    def said(self): return self.prose + [(i, m) for i, src, _ in self.code for m in re.findall(r'^#\| fig-cap: (.+)$', src, re.M)]

def joined(o): return o if isinstance(o, str) else ''.join(o or [])

def texts(out):
    "What a reader can read of an output"
    d = out.get('data', {})
    if 'text' in out: return joined(out['text'])
    rich = re.sub(r'<style.*?</style>', '', joined(d.get('text/html', '')), flags=re.S)
    return '\n'.join([html.unescape(re.sub(r'<[^>]+>', ' ', rich)), joined(d.get('text/markdown', '')), '' if 'image/png' in d else joined(d.get('text/plain', ''))])

def plain(md):
    "Prose without code, formulas and headings; links keep their text and the mark that they lead out"
    md = re.sub(r'^(```|~~~).*?^\1[^\n]*$', '', md, flags=re.S | re.M)
    md = re.sub(r'\$\$.*?\$\$|(?<!\\)\$[^$\n]+\$', ' … ', md, flags=re.S)
    md = re.sub(r'`[^`\n]+`', ' … ', md)
    return '\n'.join('' if re.match(r'\s*(#|:::|- [\w-]+: )', o) else re.sub(r'^\s*\d+\. ', '* ', o) for o in md.splitlines())

def sentences(md):
    "Sentences of prose; a table's row is one, and so is an item of a list"
    for block in re.split(r'\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )', plain(md)):
        yield from re.split(r'(?<=[.!?:;])\s+(?=[A-Z*_\[(…])', ' '.join(block.split()) if not block.lstrip().startswith('|') else block)

def numbers(text, keep_all=False):
    "(as written, value, what follows) of each number that may be a result"
    text = re.sub(r'\]\([^)]*\)', '] ', text)
    for o in () if keep_all else NO_RESULT: text = o.sub(lambda m: re.sub(r'\d', '#', m[0]), text)
    for m in NUMBER.finditer(text):
        value = float(m[0].replace(',', '').replace('−', '-'))
        if keep_all or value not in (0, 1): yield m[0], value, text[m.end():m.end() + 12]

def shown(page):
    "Values that a page's cells print, and the literals that they set"
    out = {v for _, _, outs in page.code for o in outs for _, v, _ in numbers(texts(o), True)}
    return out, {v for _, src, _ in page.code for _, v, _ in numbers(setting(src), True)}

def setting(src):
    "Code without what sets nothing, and its numbers as prose writes them"
    src = DRAWN.sub(' ', re.sub(r'^#\|.*$|(?:^|  )# .*$', '', src, flags=re.M))
    return re.sub(r'(?<=\d)_(?=\d)', '', re.sub(r'(?<![\d.])\.(?=\d)', '0.', src))

def is_shown(written, value, after, printed, literals):
    "Is the number in prose one of the printed ones, rounded as it is written, or one of the literals?"
    body = written.lstrip('-−').replace(',', '')
    digits = len(body.partition('.')[2]) if 'e' not in body else None
    scale = next((s for w, s in SCALES.items() if re.match(rf'[ -]?{w}', after, re.I)), 1)
    units = {1, scale} | ({.01} if re.match(r'\s*(%|per ?cent)', after) else set())
    near = lambda u: math.isclose(u, value, rel_tol=.05) if digits is None else abs(u - value) <= .5000001 * 10.**-digits
    return value in literals or any(near(u / s) for u in printed for s in units)

def number_problems(page):
    printed, literals = shown(page)
    for i, md in page.said:
        for s in sentences(md):
            if CITED.search(s): continue
            for written, value, after in numbers(s):
                if not is_shown(written, value, after, printed, literals): yield f'cell {i}: {written} is printed by no cell: {s.strip()[:110]!r}'

def accuracy_problems(page):
    spoken = [(i, s) for i, md in page.said for s in sentences(md) if not CITED.search(s)]
    printed = [(i, l) for i, _, outs in page.code for o in outs if 'text' in o for l in joined(o['text']).splitlines()]
    for i, s in spoken + printed:
        bare = re.sub(r'\b95 ?%|chance[^.,;]{0,12}?\d+(?:\.\d+)? ?%|majority \d+(?:\.\d+)?%|\d+(?:\.\d+)? ?% of (?:the )?(?:layers|parameters)', '', s)
        if EXAM.search(bare) and SHARE.search(bare) and not (COUNT.search(bare) and INTERVAL.search(bare)): yield f'cell {i}: an accuracy without its count and interval: {s.strip()[:110]!r}'
    for i, _, outs in page.code:
        for o in outs:
            heads = {html.unescape(h).strip().lower() for h in re.findall(r'<th[^>]*>([^<]*)</th>', joined(o.get('data', {}).get('text/html', '')))}
            if COUNT.search(t := texts(o)) and INTERVAL.search(t): continue  # written out in the table's cells
            if any('accura' in h for h in heads) and not ({'low', 'high'} <= heads and heads & {'k', 'right'} and heads & {'n', 'count', 'of'}): yield f'cell {i}: a table of accuracies without k, n, low and high'

def time_problems(page):
    everything = {i: md for i, md in page.prose} | {i: src + '\n'.join(map(texts, outs)) for i, src, outs in page.code}
    said = [(i, s) for i, md in page.said for s in sentences(md) if not CITED.search(s)] + [(i, texts(o)) for i, _, outs in page.code for o in outs]
    if any(MACHINE.search(texts(o)) for _, _, outs in page.code for o in outs): return  # the page prints its conditions once, for all of it
    for i, s in said:
        if (m := TIME.search(s)) and not any(MACHINE.search(everything.get(j, '')) for j in range(i - 3, i + 4)): yield f'cell {i}: a time ({m[0].strip()}) without what it was measured on, in this cell or near it'

def output_problems(page):
    for i, src, outs in page.code:
        for o in outs:
            if o['output_type'] == 'error': yield f'cell {i}: an error: {o.get("ename")}'
            if o.get('name') == 'stderr': yield f'cell {i}: text of stderr: {joined(o["text"])[:60]!r}'
            if m := re.search(r'Traceback \(most recent|\b\w+Warning: |\d%\|', t := texts(o)): yield f'cell {i}: a traceback, warning or progress bar: {m[0]!r}'
            if m := re.search(r'(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt)/[\w.-]+|\bat 0x[0-9a-f]{6,}', t): yield f'cell {i}: something of this machine: {m[0]!r}'
            if {'image/png', 'image/svg+xml'} & set(o.get('data', {})) and not re.search(r'^#\| fig-cap: \S', src, re.M): yield f'cell {i}: a figure without a caption (#| fig-cap)'

def slug(heading):
    "A heading's anchor, as pandoc makes it"
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', r'\1', heading)
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', text).strip().lower()))

def anchors(page):
    heads = {slug(h) for _, md in page.prose for h in re.findall(r'^#{1,6} +(.+)$', md, re.M)}
    return heads | {m for _, src, _ in page.code for m in re.findall(r'^(?:def|class) (\w+)', src, re.M)} | {m for _, src, _ in page.code for m in re.findall(r'^#\| label: (\S+)', src, re.M)}

def link_problems(page, book):
    "Relative links, anchors and figure references; addresses on the web are not fetched"
    labels, here = anchors(page), Path(page.name).parent
    for i, md in page.prose:
        bare = re.sub(r'^(```).*?^\1[^\n]*$|`[^`\n]+`', '', md, flags=re.S | re.M)
        for f in re.findall(r'(?<![\w\[/])@(fig-[\w-]+)', bare):
            if f not in labels: yield f'cell {i}: no figure {f} on this page'
        for target in re.findall(r'\]\(([^)\s]+)(?: "[^"]*")?\)', bare):
            if re.match(r'(https?://[\w-]+\.[\w./-]+|mailto:)', target): continue
            file, _, anchor = target.partition('#')
            if re.match(r'\w+:', target): yield f'cell {i}: {target} is not an address'; continue
            to = (page.folder/here/file).resolve() if file else None
            if to and not to.exists(): yield f'cell {i}: {target} leads to no file'; continue
            other = page if not to else next((p for p in book if (p.folder/p.name).resolve() == to), None)
            if anchor and (other is None or anchor not in anchors(other)): yield f'cell {i}: {target}: no such heading'

def word_problems(page):
    for i, md in page.said:
        for m in re.finditer(rf'\b(?:{BANNED})\b', plain(md), re.I): yield f'cell {i}: a claim that no cell can show: {m[0]!r}'

def title_problems(page):
    first = page.prose[0][1] if page.prose else ''
    if not re.match(r'# .+\n\n> .+', first): yield 'cell 0: no title and description ("# title", "> description")'
    elif extra := [l for l in first.splitlines()[1:] if l.strip() and not re.match(r'> |- [\w-]+: ', l)]: yield f'cell 0: the site leaves this out, give it a cell of its own: {extra[0][:60]!r}'

def problems(page, book=()):
    "All that a page does not keep of the contract"
    checks = [number_problems, accuracy_problems, time_problems, output_problems, word_problems, title_problems, lambda p: link_problems(p, book or [p])]
    return [f'{page.name}, {o}' for f in checks for o in f(page)]

def exercises(page):
    "How many exercises a page has, and how many folded answers"
    md = '\n\n'.join(s for _, s in page.prose)
    count = lambda part: len(re.findall(r'^\d+\. ', part, re.M))
    asked = re.search(r'^## Exercises\n(.*?)(?=^:::|^## |\Z)', md, re.S | re.M)
    answered = re.search(r'^::: \{\.callout-tip collapse="true"\}\n## Answers\n(.*?)^:::', md, re.S | re.M)
    return count(asked[1]) if asked else 0, count(answered[1]) if answered else 0
