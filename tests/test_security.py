"What someone could smuggle in: through a checkpoint, a name, a message; and what must never get out."
import json, logging, os, pickle, shlex, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
import prunebook.cli as cli, prunebook.data as data
from prunebook.cli import main
from prunebook.data import load_model, load_questions, load_texts, mask, read_json, write_whole
from prunebook.evaluation import check_items, load_score
from prunebook.figures import plot_scores, report_html
from prunebook.healing import HealingConfig, load_adapter
from prunebook.pruning import Plan, alone, check_checkpoint, export_plan, model_card, new_folder, parse_layers, prune_checkpoint, prune_model, read_header, read_tensors
from prunebook.similarity import LayerDistances, layer_distances
from prunebook.stack import PrunebookError
from prunebook.sweep import LossMap, SweepConfig, cut_losses, sweep
from test_pruning import Tok, broken, edit_index, first, header, saved, shard, tensors  # noqa: F401 (a fixture)
from test_sweep import Letters, config, data as sweep_files, texts, tiny  # noqa: F401

token = 'hf_' + 'aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bD2fG4h'

# secrets

def test_secrets_are_blotted_out(monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'no-form-at-all')
    said = mask(f'GET https://me:pass@host/x?y {token} Bearer abcdefghij no-form-at-all mine hf_quantizer', 'mine', None)
    assert said == 'GET https://***@host/x?y *** Bearer *** *** *** hf_quantizer'

@pytest.mark.parametrize('secret', [token, 'a-token-of-no-form'])
def test_a_token_in_an_upstream_message_stays_inside(secret, monkeypatch, capsys):
    import traceback, transformers
    def fail(*args, **kw): raise OSError(f'401 Client Error: token {kw.get("token")} is not allowed\nmore')
    monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', fail)
    monkeypatch.setattr(cli, '_fits', lambda *args: None)  # which would ask the hub
    with pytest.raises(PrunebookError, match='401') as e: load_model('org/gated', token=secret)
    assert secret not in ''.join(traceback.format_exception(e.value)), 'nor in what Python shows of the cause'
    monkeypatch.setenv('HF_TOKEN', secret)
    monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', lambda *a, **kw: fail(token=os.environ['HF_TOKEN']))
    assert main(['evaluate', 'org/gated']) == 2
    assert '401' in (err := capsys.readouterr().err) and secret not in err

def test_reproduce_writes_no_token(tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'load_model', lambda *a, **kw: (_ for _ in ()).throw(PrunebookError('enough')))
    with pytest.raises(PrunebookError, match='enough'): cli.reproduce(out=tmp_path/'run', preset='smoke', progress=False, token=token, revision='main')
    kept = (tmp_path/'run.unfinished'/'asked.json').read_text()
    assert 'main' in kept and token not in kept

def test_pip_may_not_tell_the_registry_password(tmp_path, monkeypatch):
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path))
    monkeypatch.setattr(subprocess, 'run', lambda *a, **kw: subprocess.CompletedProcess(a, 1, '', 'ERROR: no route to https://me:secret@registry.example/simple'))
    with pytest.raises(PrunebookError, match=r'https://\*\*\*@registry') as e: load_texts('demo')
    assert 'secret' not in str(e.value)

# other people's code

remote = dict(model_type='evil', architectures=['Evil'], auto_map=dict(AutoConfig='evil.Config', AutoModelForCausalLM='evil.Evil'), num_hidden_layers=6)

def test_code_of_a_model_is_run_only_when_asked_and_said(tmp_path, monkeypatch, caplog):
    (tmp_path/'m').mkdir()
    (tmp_path/'m'/'config.json').write_text(json.dumps(remote))
    (tmp_path/'m'/'evil.py').write_text(f"open({str(tmp_path/'pwned')!r}, 'w')\nraise ImportError('ran')\n")
    monkeypatch.setattr('builtins.input', lambda *a: 'y')  # a terminal, or `yes |`, that agrees to all
    for f in (lambda: load_model(str(tmp_path/'m')), lambda: prune_checkpoint(tmp_path/'m', tmp_path/'out', [1])):
        with pytest.raises(PrunebookError): f()
    assert check_checkpoint(tmp_path/'m') and not (tmp_path/'pwned').exists() and 'will be run' not in caplog.text
    with pytest.raises(PrunebookError): load_model(str(tmp_path/'m'), trust_remote_code=True)
    assert 'will be run' in caplog.text and (tmp_path/'pwned').exists()

def test_the_command_says_it_aloud(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'prunebook', 'evaluate', str(tmp_path/'nowhere'), '--trust-remote-code'], capture_output=True, text=True)
    assert done.returncode == 2 and 'no such folder' in done.stderr
    (tmp_path/'m').mkdir()
    done = subprocess.run([sys.executable, '-m', 'prunebook', 'evaluate', str(tmp_path/'m'), '--trust-remote-code'], capture_output=True, text=True)
    assert done.returncode == 2 and 'code that comes with the model will be run' in done.stderr

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, 'w')

def test_pickles_run_nothing(saved, tmp_path):
    for p in saved.glob('*.safetensors*'): p.unlink()
    torch.save({'model.norm.weight': Bomb(str(tmp_path/'pwned'))}, saved/'pytorch_model.bin')
    with pytest.raises(PrunebookError): load_model(str(saved))
    with pytest.raises(PrunebookError, match='pickle'): prune_checkpoint(saved, tmp_path/'out', [1])
    assert check_checkpoint(saved) and not (tmp_path/'pwned').exists()
    (tmp_path/'adapter').mkdir()
    from prunebook.healing import fingerprint
    model = tiny('llama')
    note = dict(base=fingerprint(model), depth=6, pruned=None, config=dict(method='lora'), history=[], seconds=1.)
    (tmp_path/'adapter'/'prunebook.json').write_text(json.dumps(note))
    (tmp_path/'adapter'/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', r=1, target_modules=['q_proj'])))
    torch.save({'x': Bomb(str(tmp_path/'pwned'))}, tmp_path/'adapter'/'adapter_model.bin')
    with pytest.raises(PrunebookError, match='no adapter_model.safetensors'): load_adapter(model, tmp_path/'adapter')
    assert not (tmp_path/'pwned').exists()

def test_no_pickle_and_no_shell_in_the_package():
    for p in Path(cli.__file__).parent.glob('*.py'):
        code = p.read_text()
        for word in ('pickle.load', 'torch.load', 'torch.save', 'shell=True', 'os.system', 'os.popen', 'eval(compile', 'exec(', 'yaml.load('): assert word not in code, f'{p.name}: {word}'

def test_the_advice_is_safe_to_paste(tmp_path):
    folder = tmp_path/"x'; touch pwned; \"$(touch pwned)`touch pwned`"
    folder.mkdir(); (folder/'pytorch_model.bin').write_bytes(b'')
    with pytest.raises(PrunebookError) as e: read_tensors(folder)
    line = str(e.value).split('Convert them first: ')[1]
    assert shlex.split(line)[:2] == ['python', '-c'] and len(shlex.split(line)) == 3
    subprocess.run(['sh', '-c', line.replace('python', 'true', 1)], cwd=tmp_path, check=True)
    assert not (tmp_path/'pwned').exists()
    compile(shlex.split(line)[2], 'advice', 'exec')

# checkpoints

@pytest.mark.parametrize('entry', [dict(dtype='F32', shape=[10**9], data_offsets=[0, 4]), dict(dtype='F32', shape=[-1], data_offsets=[0, 4]), dict(dtype='F32', shape=[1.0], data_offsets=[0, 4]),
    dict(dtype='F32', shape=[1], data_offsets=[0.0, 4.0]), dict(dtype=3, shape=[1], data_offsets=[0, 4]), dict(dtype='F32', shape='a', data_offsets=[0, 4]), dict(dtype='F32', shape=[True], data_offsets=[0, 4]),
    dict(dtype='F32', shape=[1], data_offsets=[0, 10**400]), dict(dtype='F32', shape=[1], data_offsets=[0, 4], name='x'), [], None, 7])
def test_hostile_headers(entry, tmp_path):
    head = json.dumps({'model.layers.0.w': entry}).encode()
    (tmp_path/'model.safetensors').write_bytes(len(head).to_bytes(8, 'little') + head + bytes(4))
    with pytest.raises(PrunebookError, match='damaged'): read_header(tmp_path/'model.safetensors')

def test_deep_json_is_refused(saved, tmp_path):
    deep = '[' * 100_000
    (tmp_path/'f').write_bytes(len(deep).to_bytes(8, 'little') + deep.encode())
    with pytest.raises(PrunebookError): read_header(tmp_path/'f')
    for name in ('config.json', 'model.safetensors.index.json'):
        was = (saved/name).read_text()
        (saved/name).write_text('{"a":' * 100_000)
        with pytest.raises(PrunebookError): prune_checkpoint(saved, tmp_path/'out', [1])
        assert check_checkpoint(saved, run=False)
        (saved/name).write_text(was)

def test_one_layer_under_two_names(saved, tmp_path):
    "model.layers.01 is no second model.layers.1, whose place in the result it would take"
    from safetensors.torch import save_file
    whole = tensors(saved)
    for p in saved.glob('*.safetensors*'): p.unlink()
    save_file(whole | {'model.layers.01.mlp.up_proj.weight': torch.zeros(3)}, saved/'model.safetensors')
    prune_checkpoint(saved, tmp_path/'out', [0], progress=False)
    assert check_checkpoint(tmp_path/'out', run=False) == []
    assert torch.equal(tensors(tmp_path/'out')['model.layers.0.mlp.up_proj.weight'], whole['model.layers.1.mlp.up_proj.weight'])

def test_a_tensor_in_two_shards(saved, tmp_path):
    from safetensors.torch import load_file, save_file
    a, b = shard(saved, 0), shard(saved, 1)
    name = next(iter(load_file(a)))
    save_file(load_file(b) | {name: torch.zeros(5)}, b, {'format': 'pt'})
    prune_checkpoint(saved, tmp_path/'out', [5], progress=False)
    assert check_checkpoint(tmp_path/'out', run=False) == [] and torch.equal(tensors(tmp_path/'out')[name], load_file(a)[name])

@pytest.mark.parametrize('change, says', [(dict(num_hidden_layers=10**15), 'cannot be'), (dict(num_hidden_layers=-6), 'cannot be'), (dict(num_hidden_layers=True), 'num_hidden_layers'),
    (dict(layer_types=['full_attention'] * 6, attention_types=[[5, 'x']]), 'not as transformers writes'), (dict(scale_depth='x'), 'not as transformers writes'), (dict(per_layer_config=['x']), 'not as transformers writes')])
def test_hostile_configs(saved, tmp_path, change, says):
    config = json.loads((saved/'config.json').read_text())
    (saved/'config.json').write_text(json.dumps(config | change))
    with pytest.raises(PrunebookError, match=says): prune_checkpoint(saved, tmp_path/'out', [1])
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('record', ['text', [1], dict(kept=3), dict(dropped=[1])])
def test_a_damaged_record_of_the_cut(saved, record):
    config = json.loads((saved/'config.json').read_text())
    (saved/'config.json').write_text(json.dumps(config | dict(prunebook=record)))
    assert 'prunebook' in check_checkpoint(saved, run=False)[0]

def test_links_out_of_a_checkpoint_are_not_followed(saved, tmp_path, caplog):
    (tmp_path/'id_rsa').write_text('secret')
    (saved/'merges.txt').symlink_to(tmp_path/'id_rsa')
    (saved/'inside.txt').symlink_to('tokenizer.json')
    prune_checkpoint(saved, tmp_path/'out', [1], progress=False)
    assert not (tmp_path/'out'/'merges.txt').exists() and (tmp_path/'out'/'inside.txt').exists() and 'merges.txt' in caplog.text

def test_the_hub_cache_of_links_is_followed(saved, tmp_path):
    home = tmp_path/'models--a--b'
    (home/'blobs').mkdir(parents=True); (home/'snapshots'/'rev').mkdir(parents=True)
    for p in saved.iterdir():
        shutil.copy(p, home/'blobs'/f'x{p.name}')
        (home/'snapshots'/'rev'/p.name).symlink_to(f'../../blobs/x{p.name}')
    prune_checkpoint(home/'snapshots'/'rev', tmp_path/'out', [1], progress=False)
    assert (tmp_path/'out'/'tokenizer.json').exists() and check_checkpoint(tmp_path/'out', run=False) == []

# text that others obey

nasty = ['<script>document.title="pwned"</script>', '"><img src=x onerror=document.title="pwned">', 'a\n---\nlicense: mit\n# pwned', '|x|y|', '\x1b[31mred\x1b[0m', '$\\frac{', 'a\udcffb']

def card_of(source): return model_card(dict(source=source, revision=source, strategy=source, dropped=[1], kept=[0, 2], depth=3, parameters=dict(before=3, after=2), bytes=dict(before=3, after=2), versions=dict(prunebook='0')))

@pytest.mark.parametrize('name', nasty)
def test_cards_cannot_be_steered(name):
    import yaml
    card = card_of(name)
    _, front, rest = card.split('---\n', 2)
    assert yaml.safe_load(front) == dict(library_name='transformers', tags=['prunebook', 'layer-pruning'])
    assert '<' not in rest and '\x1b' not in rest and rest.count('\n#') == 1 and card.encode()
    assert all(o.count('|') == 3 for o in rest.splitlines() if o.startswith('|'))
    assert 'base_model: org/name' in card_of('org/name')

@pytest.mark.parametrize('name', nasty[:5])
def test_plans_for_mergekit_cannot_be_steered(name):
    import yaml
    assert yaml.safe_load(export_plan(Plan((1,), 3), 'mergekit', name))['slices'][0]['sources'][0]['model'] == name

def page():
    table = pd.DataFrame([{o: o for o in nasty[:4]}])
    return report_html(nasty[0], [(nasty[1], nasty[0], table), (nasty[0], nasty[1], nasty[1]), ('list', nasty[2], [nasty[0], table])])

class Tags(HTMLParser):
    def __init__(self): super().__init__(); self.seen = []
    def handle_starttag(self, tag, attrs): self.seen.append((tag, dict(attrs)))

def test_reports_hold_no_foreign_markup():
    parser = Tags()
    parser.feed(page())
    assert {t for t, _ in parser.seen} <= {'html', 'meta', 'link', 'title', 'style', 'h1', 'section', 'h2', 'p', 'div', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'pre', 'img'}
    assert not [a for _, attrs in parser.seen for a in attrs if a.startswith('on')] and 'script' not in {t for t, _ in parser.seen}

@pytest.mark.skipif(not (browser := shutil.which('chromium') or shutil.which('google-chrome')), reason='no browser here')
def test_reports_run_nothing_in_a_browser(tmp_path):
    (tmp_path/'page.html').write_text(page())
    (tmp_path/'control.html').write_text('<title>x</title>' + nasty[0])
    dom = lambda name: subprocess.run([browser, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path/"profile"}', '--dump-dom', f'file://{tmp_path/name}'], capture_output=True, text=True, timeout=60).stdout
    control = dom('control.html')
    if 'pwned</title>' not in control: pytest.skip('the browser does not start here')
    assert 'pwned</title>' not in (shown := dom('page.html')) and '&lt;script&gt;' in shown

def test_figures_take_any_name(tmp_path):
    rows = [dict(strategy=s, n=n, healed=False, seed=0, task='$\\frac{x', value=.5, low=.4, high=.6, fraction_layers=n / 30) for s, n in [('none', 0), ('$\\undefined', 2)]]
    plot_scores(pd.DataFrame(rows), '$\\frac{x').figure.savefig(tmp_path/'x.png')

def test_escape_codes_do_not_reach_the_terminal(capsys, tmp_path):
    assert main(['check', f'{tmp_path}/\x1b[31mred\udcff']) == 2
    err = capsys.readouterr().err
    assert '\x1b' not in err and r'\x1b[31mred\udcff' in err and err.count('\n') == 1

# files and values

@pytest.mark.parametrize('load', [Plan.load, HealingConfig.load, SweepConfig.load, LossMap.load, load_score, read_json], ids=lambda f: f.__qualname__)
@pytest.mark.parametrize('text', ['', '[]', '{}', 'null', '{"kind": []}', '{"layers": 3, "depth": "x"}', '{"steps": "x"}', '{"healing": 5}', '{"ns": 5.5, "tasks": [[]]}', '{"depth": 2, "counts": [0], "sums": [], "info": {}}', '{"a":' * 99999, '\xff'])
def test_damaged_files_are_named(load, text, tmp_path):
    (tmp_path/'x.json').write_bytes(text.encode('latin-1'))
    try: load(tmp_path/'x.json')
    except PrunebookError as e: assert str(e)
    with pytest.raises(PrunebookError): load(tmp_path/'nowhere.json')

def test_damaged_distances(tmp_path):
    d = layer_distances(tiny('llama'), Letters(), texts(), 64, progress=False)
    d.save(tmp_path)
    good = json.loads((tmp_path/'distances.json').read_text())
    for change in (dict(depth=7), dict(count='x'), dict(also=['angle2']), dict(until=dict(x=1)), dict(skipped=3)):
        (tmp_path/'distances.json').write_text(json.dumps(good | change))
        with pytest.raises(PrunebookError, match='damaged distances'): LayerDistances.load(tmp_path)
    (tmp_path/'distances.json').write_text(json.dumps(good))
    assert (LayerDistances.load(tmp_path).mean == d.mean).all()
    with pytest.raises(PrunebookError, match='damaged'): layer_distances(tiny('llama'), Letters(), texts(), 64, progress=False, partial=tmp_path/'distances.json')

def test_damaged_partials_and_runs(sweep_files, tmp_path):
    (tmp_path/'p').write_text('{"key"')
    with pytest.raises(PrunebookError, match='not JSON'): cut_losses(tiny('llama'), Letters(), texts(), [[0]], 64, progress=False, partial=tmp_path/'p')
    c = config(sweep_files, ns=[1], strategies=['simple'], tasks=['c4'])
    sweep(model := tiny('llama'), Letters(), c, tmp_path/'run', progress=False)
    for name, text in (('results.csv', 'a,b\n1,2\n'), ('plans.json', '{'), ('sweep.json', '{}')):
        was = (tmp_path/'run'/name).read_text()
        (tmp_path/'run'/name).write_text(text)
        with pytest.raises(PrunebookError, match=name): sweep(model, Letters(), c, tmp_path/'run', progress=False)
        (tmp_path/'run'/name).write_text(was)

@pytest.mark.parametrize('rows', [[dict(goal='x')], [dict(question='q', choices=dict(text=['a']), answerKey='z')], [dict(question=3, answer=True)]])
def test_questions_of_no_known_form(rows, tmp_path):
    (tmp_path/'q.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    with pytest.raises(PrunebookError, match='question 0'): load_questions(str(tmp_path/'q.jsonl'))

@pytest.mark.parametrize('item', [3, 'q', dict(question=3, choices=['a', 'b'], answer=0), dict(question='q', choices=5, answer=0), dict(question='q', choices=['a', 'b'], answer=0, subject=[1]), dict(question='q', choices=dict(a=1, b=2), answer=0)])
def test_items_of_no_known_form(item):
    with pytest.raises(PrunebookError, match='question 0'): check_items([item])

@pytest.mark.parametrize('kw', [dict(steps='x'), dict(learning_rate='x'), dict(alpha=float('nan')), dict(targets=3), dict(targets=[3]), dict(seed=-1), dict(seed=2**40), dict(bits=16.0), dict(dropout=None), dict(rank=None), dict(micro_batch=1.5), dict(deterministic='no')])
def test_recipes_check_their_types(kw):
    with pytest.raises(PrunebookError, match=next(iter(kw))): HealingConfig(**kw)

@pytest.mark.parametrize('drop', [5, None, 'a', [None], [[1]], {}, 2.5])
def test_layers_of_no_known_form(drop):
    with pytest.raises(PrunebookError): prune_model(tiny('llama'), drop)

def test_long_numbers():
    for text in ('9' * 5000, '1-' + '9' * 5000, '٣'):
        with pytest.raises(PrunebookError): parse_layers(text, 6)

def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(tmp_path/'a', 'one')
    monkeypatch.setattr(os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(PrunebookError, match='No space'): write_whole(tmp_path/'a', 'two')
    assert (tmp_path/'a').read_text() == 'one' and [p.name for p in tmp_path.iterdir()] == ['a']

def test_half_characters(tmp_path):
    (tmp_path/'q.jsonl').write_text(json.dumps(dict(question='x\ud800y', choices=['a', '\U0001f600'], answer=0)) + '\n')
    assert load_questions(str(tmp_path/'q.jsonl'))[0] == dict(question='x?y', choices=['a', '\U0001f600'], answer=0)
    tok = load_model('demo')[1]
    assert data.tokenize(tok, ['a\udcffb']).ids == data.tokenize(tok, ['a?b']).ids

def test_a_link_laid_in_the_way_is_not_followed(tmp_path):
    (tmp_path/'mine').write_text('precious')
    (tmp_path/f'.a.{os.getpid()}').symlink_to(tmp_path/'mine')
    write_whole(tmp_path/'a', 'new')
    assert (tmp_path/'mine').read_text() == 'precious' and (tmp_path/'a').read_text() == 'new'

def test_json_is_json(capsys, monkeypatch):
    def found(args): "Some numbers"; return dict(a=float('nan'), b=np.float64(1.5), c=[float('-inf')])
    monkeypatch.setitem(cli.COMMANDS, 'check', (found, '', cli.COMMANDS['check'][2]))
    assert main(['check', 'x', '--json']) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=lambda o: pytest.fail(o)) == dict(a=None, b=1.5, c=[None])
