"""Strangers' files do nothing, and secrets stay inside. Tests of one room alone (wheels, checkpoints, models, reports)
stand beside that room's other tests."""
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
import nbformat
import pandas as pd
import pytest
import torch
import prunebook
from prunebook.pruning.checkpoint import model_card
from prunebook.cli import main
from prunebook.core import PrunebookError, atomic_write, printable
from prunebook.paper.figures import plot_scores
from prunebook.paper.report import _html_page, _page_html
from prunebook.healing.adapters import load_adapter
from prunebook.model.stack import fingerprint

nasty = ['<script>document.title="pwned"</script>', '"><img src=x onerror=document.title="pwned">',
         'a\n---\nlicense: mit\n# pwned', '|x|y|', '\x1b[31mred\x1b[0m', '$\\frac{', 'a\udcffb']

# other people's code

class Bomb:
    "A pickle that makes a file when it is read"
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, 'w')

def test_a_pickled_adapter_runs_nothing(tiny, tmp_path):
    model = tiny('llama', 6)
    note = dict(base=fingerprint(model), depth=6, pruned=None, config=dict(method='lora'), history=[], seconds=1.)
    (tmp_path/'prunebook.json').write_text(json.dumps(note))
    (tmp_path/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', r=1, target_modules=['q_proj'])))
    torch.save({'x': Bomb(str(tmp_path/'pwned'))}, tmp_path/'adapter_model.bin')
    with pytest.raises(PrunebookError, match='safetensors'): load_adapter(model, tmp_path)
    assert not (tmp_path/'pwned').exists()

def test_no_pickle_and_no_shell_in_the_package():
    words = ('pickle.', 'import pickle', 'torch.load', 'torch.save', 'shell=True', 'os.system', 'os.popen', ' exec(',
             'yaml.load(')
    for p in Path(prunebook.__file__).parent.rglob('*.py'):
        code = p.read_text().replace("exec('')", '')  # runs no code: it clears a flag of Python's
        for word in words: assert word not in code, f'{p.name}: {word}'

# text that others obey

def card_of(source):
    return model_card(dict(
        source=source, revision=source, strategy=source, dropped=[1], kept=[0, 2], depth=3,
        versions=dict(prunebook='0'),
        parameters=dict(before=3, after=2), bytes=dict(before=3, after=2)))

@pytest.mark.parametrize('name', nasty)
def test_cards_cannot_be_steered(name):
    import yaml
    card = card_of(name)
    _, front, rest = card.split('---\n', 2)
    assert yaml.safe_load(front) == dict(library_name='transformers', tags=['prunebook', 'layer-pruning'])
    assert '<' not in rest and '\x1b' not in rest and rest.count('\n#') == 1 and card.encode()
    assert all(o.count('|') == 3 for o in rest.splitlines() if o.startswith('|'))

def page():
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(o) for o in nasty])
    return _html_page(nasty[0], _page_html('page', book, Path('.')))

class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []
    def handle_starttag(self, tag, attrs): self.seen.append((tag, dict(attrs)))

def test_reports_hold_no_foreign_markup():
    parser = Tags()
    parser.feed(page())
    assert not [a for _, attrs in parser.seen for a in attrs if a.startswith('on')]
    assert 'script' not in {t for t, _ in parser.seen}

browser = shutil.which('chromium') or shutil.which('google-chrome')

@pytest.mark.skipif(not browser, reason='no browser here')
def test_reports_run_nothing_in_a_browser(tmp_path):
    (tmp_path/'page.html').write_text(page())
    (tmp_path/'control.html').write_text('<title>x</title>' + nasty[0])
    def dom(name):
        flags = ['--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path/"profile"}', '--dump-dom']
        argv = [browser, *flags, f'file://{tmp_path/name}']
        return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
    if 'pwned</title>' not in dom('control.html'): pytest.skip('the browser does not start here')
    assert 'pwned</title>' not in (shown := dom('page.html')) and '&lt;script&gt;' in shown

def test_figures_take_any_name(tmp_path):
    same = dict(healed=False, seed=0, task='$\\frac{x', value=.5, low=.4, high=.6)
    rows = [same | dict(strategy=s, n=n, fraction_layers=n / 30) for s, n in [('none', 0), ('$\\undefined', 2)]]
    plot_scores(pd.DataFrame(rows), '$\\frac{x').figure.savefig(tmp_path/'x.png')

def test_escape_codes_do_not_reach_the_terminal(capsys, tmp_path):
    assert printable('\x1b[31m') == '\\x1b[31m'
    assert main(['check', f'{tmp_path}/\x1b[31mred']) == 2
    err = capsys.readouterr().err
    assert '\x1b' not in err and r'\x1b[31mred' in err and err.count('\n') == 1

# files in the way

def test_a_link_laid_in_the_way_is_not_followed(tmp_path):
    (tmp_path/'mine').write_text('precious')
    (tmp_path/f'.a.{os.getpid()}').symlink_to(tmp_path/'mine')
    (tmp_path/'.a.tmp').symlink_to(tmp_path/'mine')
    with pytest.raises(PrunebookError, match='symbolic links'): atomic_write(tmp_path/'a', 'new')
    assert (tmp_path/'mine').read_text() == 'precious' and not (tmp_path/'a').exists()

def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    atomic_write(tmp_path/'a', 'one')
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(PrunebookError, match='No space'): atomic_write(tmp_path/'a', 'two')
    assert (tmp_path/'a').read_text() == 'one' and [p.name for p in tmp_path.iterdir()] == ['a']
