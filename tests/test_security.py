"""Strangers' files do nothing, and secrets stay inside. Tests of one room alone (wheels, checkpoints, models, reports)
stand beside that room's other tests."""
import json, os
import pandas as pd, pytest, torch
from prunebook.cli import main
from prunebook.core import PrunebookError, atomic_write, printable
from prunebook.healing.adapters import load_adapter
from prunebook.model.stack import fingerprint
from prunebook.paper.figures import plot_scores
from prunebook.pruning.checkpoint import model_card
from support.checkpoints import Bomb
from support.tiny import tiny

nasty = ['<script>document.title="pwned"</script>', '"><img src=x onerror=document.title="pwned">',
         'a\n---\nlicense: mit\n# pwned', '|x|y|', '\x1b[31mred\x1b[0m', '$\\frac{', 'a\udcffb']

# other people's code

def test_a_pickled_adapter_runs_nothing(tmp_path):
    model = tiny('llama', 6)
    note = dict(base=fingerprint(model), depth=6, pruned=None, config=dict(method='lora'), history=[], seconds=1.)
    (tmp_path/'prunebook.json').write_text(json.dumps(note))
    (tmp_path/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', r=1, target_modules=['q_proj'])))
    torch.save({'x': Bomb(str(tmp_path/'pwned'))}, tmp_path/'adapter_model.bin')
    with pytest.raises(PrunebookError, match='safetensors'): load_adapter(model, tmp_path)
    assert not (tmp_path/'pwned').exists()

# text that others obey

@pytest.mark.parametrize('name', nasty)
def test_cards_cannot_be_steered(name):
    import yaml
    sizes = dict(before=3, after=2)
    card = model_card(dict(source=name, revision=name, strategy=name, dropped=[1], kept=[0, 2], depth=3, versions={},
                           parameters=sizes, bytes=sizes, serving={name: name, 'mlx': name}))
    _, front, rest = card.split('---\n', 2)
    assert yaml.safe_load(front) == dict(library_name='transformers', tags=['prunebook', 'layer-pruning'])
    assert '<' not in rest
    assert '\x1b' not in rest
    assert rest.count('\n#') == 1
    assert card.encode()
    assert all(o.count('|') == 3 for o in rest.splitlines() if o.startswith('|'))

def test_figures_take_any_name(tmp_path):
    same = dict(healed=False, seed=0, task='$\\frac{x', value=.5, low=.4, high=.6)
    rows = [same | dict(strategy=s, n=n, fraction_layers=n / 30) for s, n in [('none', 0), ('$\\undefined', 2)]]
    plot_scores(pd.DataFrame(rows), '$\\frac{x').figure.savefig(tmp_path/'x.png')

def test_escape_codes_do_not_reach_the_terminal(capsys, tmp_path):
    assert printable('\x1b[31m') == '\\x1b[31m'
    assert main(['check', f'{tmp_path}/\x1b[31mred']) == 2
    err = capsys.readouterr().err
    assert '\x1b' not in err
    assert r'\x1b[31mred' in err
    assert err.count('\n') == 1

# files in the way

def test_a_link_laid_in_the_way_is_not_followed(tmp_path):
    (tmp_path/'mine').write_text('precious')
    (tmp_path/f'.a.{os.getpid()}').symlink_to(tmp_path/'mine')
    (tmp_path/'.a.tmp').symlink_to(tmp_path/'mine')
    with pytest.raises(PrunebookError, match='symbolic links'): atomic_write(tmp_path/'a', 'new')
    assert (tmp_path/'mine').read_text() == 'precious' and not (tmp_path/'a').exists()
