"Every page keeps the tutorial contract (tests/pages.py says what it is), and the checker sees it when one does not."
import re
from pathlib import Path
import pytest, yaml
from pages import Page, exercises, problems

folder = Path(__file__).parents[1]/'nbs'
files = sorted(p for p in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
book = [Page.read(p, folder) for p in files]
library = [p for p in book if re.match(r'\d\d_\w+\.ipynb$', p.name)]

@pytest.mark.parametrize('page', book, ids=lambda p: p.name)
def test_page_keeps_the_contract(page): assert problems(page, book) == []

def listed():
    return [n for o in yaml.safe_load((folder/'sidebar.yml').read_text())['website']['sidebar']['contents'] for n in ([o] if isinstance(o, str) else o['contents'])]

def test_sidebar_and_folder_agree(): assert sorted(listed()) == sorted(p.name for p in book)

def leads_to(page):
    "Pages that the last words of a page lead to"
    return [((folder/page.name).parent/t).resolve() for t in re.findall(r'\]\(([^)#]+\.ipynb)', page.prose[-1][1])]

def test_reading_order():
    "index, first steps, the library, the paper's first page: each leads to the next in its last words"
    order, by_name = listed(), {p.name: p for p in book}
    course = ['index.ipynb', 'guide/first_steps.ipynb', *(p.name for p in library), *[n for n in order if n.startswith('paper/')][:1]]
    assert order[:len(course) - 1] == course[:-1]
    for here, there in zip(course, course[1:]): assert (folder/there).resolve() in leads_to(by_name[here]), f'{here} does not lead to {there}'

@pytest.mark.parametrize('page', [p for p in library if p.name < '09'], ids=lambda p: p.name)
def test_exercises_have_answers(page):
    asked, answered = exercises(page)
    assert asked == answered >= 2

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_the_root_lead_somewhere(name):
    links = re.findall(r'\]\(([^)\s#]+)', (folder.parent/name).read_text(encoding='utf-8'))
    assert [o for o in links if not re.match(r'https?://', o) and not (folder.parent/o).exists()] == []

# The checker itself, on pages that are right and pages that are broken.

def md(text): return dict(cell_type='markdown', source=text)
def code(src='x', text=None, **data):
    outs = [dict(output_type='stream', name='stdout', text=text)] if text else []
    return dict(cell_type='code', source=src, outputs=outs + ([dict(output_type='display_data', data={k.replace('_', '/'): v for k, v in data.items()})] if data else []))
def made(*cells): return Page('made.ipynb', [md('# made\n\n> A page.'), *cells], Path('/nowhere'))

sound = dict(
    printed=[md('The loss is 3.59, a rise of 57 % in 135 million words.'), code(text='3.5912 0.5704 134,515,008')],
    set_here=[md('A tolerance of 0.002, on 64 texts.'), code('run(tolerance=.002, n=64)')],
    no_results=[md('## 3 steps\n\n1. Layers 11 to 18 go, as in figure 4; `x = 99`, $n = 77$, in 16 bits, since 2019 (arXiv:2403.17887), with a 95 % interval.')],
    quoted=[md('The paper measures 10,000 texts. [Others](https://example.org/a) took 800.')],
    accuracy=[md('MMLU accuracy is 28 %, 28 of 100 [20 %, 37 %].'), code(text='mmlu: 28.0% = 28/100 [20.1%, 37.5%], chance 25.0%')],
    times=[code(text='fit: 3.2 s on 2 threads')],
    signs=[md('It falls: -0.36, and rises by 0.02.'), code(text='-0.3591 +0.0204')],
    drawn_and_set=[md('On 64 texts.'), code('run(n=64)\nplot(figsize=(8, 3), lw=2.5)')],
    caption=[code('#| fig-cap: Loss on 64 texts.\nrun(n=64)', image_png='iVBOR')],
    links=[md('[up](#a-heading), @fig-one\n\n## A *heading*'), code('#| label: fig-one\n#| fig-cap: One.', image_png='iVBOR')])

@pytest.mark.parametrize('cells', sound.values(), ids=sound)
def test_a_sound_page_passes(cells): assert problems(made(*cells)) == []

broken = dict(
    unprinted=([md('The loss is 3.59.'), code(text='4.57')], '3.59 is printed by no cell'),
    rounded_wrongly=([md('The loss is 3.60.'), code(text='3.5912')], '3.60 is printed'),
    percent=([md('It keeps 58 % of it.'), code(text='0.5704')], '58 is printed'),
    in_a_table=([md('| a | b |\n|---|---|\n| loss | 3.59 |'), code(text='4')], '3.59 is printed'),
    in_a_list=([md('Results:\n\n- 250 items\n- 300 items'), code(text='250')], '300 is printed'),
    only_in_prose_elsewhere=([md('It is 42.'), md('Indeed 42.')], '42 is printed'),
    in_code_of_prose=([md('```python\nx = 42\n```\n\nIt is 42.')], '42 is printed'),
    figsize=([md('It took 8 texts.'), code('plot(figsize=(8, 3))')], '8 is printed'),
    line_width=([md('It is 2.5.'), code('plot(lw=2.5)')], '2.5 is printed'),
    axis=([md('It is 7.'), code('ax.set_xlim(0, 7)')], '7 is printed'),
    comment=([md('It is 42.'), code('x = 3  # not 42')], '42 is printed'),
    sign=([md('The rise is 3.59.'), code(text='-3.59')], '3.59 is printed'),
    lost_sign=([md('The change is -3.59.'), code(text='3.59')], '-3.59 is printed'),
    caption=([code('#| fig-cap: Loss on 64 texts.', image_png='iVBOR')], '64 is printed'),
    claim_in_a_caption=([code('#| fig-cap: State-of-the-art.', image_png='iVBOR')], 'a claim'),
    accuracy_in_a_caption=([code('#| fig-cap: The accuracy is 28 %.\nx = 28', image_png='iVBOR')], 'an accuracy without'),
    accuracy=([md('Its accuracy is 28 %.'), code(text='28')], 'an accuracy without'),
    accuracy_without_interval=([code(text='mmlu: 28.0% = 28/100')], 'an accuracy without'),
    accuracy_table=([code(text_html='<table><tr><th>task</th><th>accuracy</th></tr></table>')], 'a table of accuracies'),
    time=([code(text='it took 3.2 s')], 'a time (3.2 s)'),
    time_in_prose=([md('It takes 12 minutes.'), code(text='12')], 'a time (12 minutes)'),
    stderr=([dict(cell_type='code', source='x', outputs=[dict(output_type='stream', name='stderr', text='oh')])], 'text of stderr'),
    error=([dict(cell_type='code', source='x', outputs=[dict(output_type='error', ename='ValueError', evalue='no')])], 'an error: ValueError'),
    warning=([code(text='x.py:1: UserWarning: beware')], 'a traceback, warning'),
    progress=([code(text=' 45%|████      |')], 'a traceback, warning'),
    machine=([code(text='saved in /home/me/x')], 'something of this machine'),
    figure=([code(image_png='iVBOR')], 'a figure without a caption'),
    dead_link=([md('[there](no_such.ipynb)')], 'leads to no file'),
    dead_anchor=([md('[there](#no-such)')], 'no such heading'),
    dead_figure=([md('See @fig-none.')], 'no figure fig-none'),
    bad_address=([md('[x](htp://example.org)')], 'is not an address'),
    claim=([md('A state-of-the-art method.')], 'a claim'),
    free=([md('You get this for free.')], 'a claim'))

@pytest.mark.parametrize('cells, says', broken.values(), ids=broken)
def test_a_broken_page_is_seen(cells, says):
    found = problems(made(*cells))
    assert found and any(says in o for o in found), found

def test_prose_in_the_title_cell_is_seen(): assert any('leaves this out' in o for o in problems(Page('made.ipynb', [md('# made\n\n> A page.\n\nMore.')])))

def test_a_page_without_a_title_is_seen(): assert any('no title' in o for o in problems(Page('made.ipynb', [md('Hello.')])))

def test_unanswered_exercises_are_seen():
    asked = '## Exercises\n\n1. A?\n2. B?\n\n::: {.callout-tip collapse="true"}\n## Answers\n\n1. a\n%s:::\n'
    assert exercises(made(md(asked % '2. b\n'))) == (2, 2) and exercises(made(md(asked % ''))) == (2, 1) and exercises(made()) == (0, 0)
