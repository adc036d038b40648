"The command as a user meets it: in a process of its own."
import json, os, subprocess, sys, time
import pytest
from prunebook.cli import COMMANDS, main

def run(*args, **kw):
    return subprocess.run([sys.executable, '-m', 'prunebook', *map(str, args)], capture_output=True, text=True, **kw)

def one_line(done, says):
    "Exit code 2 and one clear line"
    assert done.returncode == 2 and done.stdout == ''
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('prunebook') and says in last, done.stderr
    assert 'Traceback' not in done.stderr

def test_help_and_version_start_at_once():
    for arg in ('--help', '--version'):
        times = []
        for _ in range(3):
            start = time.perf_counter(); done = run(arg); times.append(time.perf_counter() - start)
            assert done.returncode == 0
        assert min(times) < .5
    code = 'import sys, prunebook.cli; sys.exit(any(m in sys.modules for m in ("torch", "transformers", "pandas", "numpy", "matplotlib")))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

@pytest.mark.parametrize('name', COMMANDS)
def test_every_help_shows_an_example(name):
    done = run(name, '--help')
    assert done.returncode == 0 and f'prunebook {name}' in done.stdout.split('example')[1] and '--json' in done.stdout

@pytest.mark.parametrize('args, says', [
    ((), 'required'), (('fly',), 'invalid choice'), (('prune', 'demo'), 'required'),
    (('prune', 'demo', 'OUT'), '--drop'), (('prune', 'demo', 'OUT', '--drop', '28-30'), 'beyond layer 29'), (('prune', 'demo', 'OUT', '--drop', '9-3'), 'smaller number first'),
    (('prune', 'demo', 'OUT', '--n', '30', '--strategy', 'simple'), '1 to 29'), (('prune', 'demo', 'OUT', '--n', '2', '--strategy', 'magic'), 'simple'),
    (('similarity', 'demo', '--texts', 'nowhere.txt', '--out', 'OUT'), 'nowhere.txt'), (('similarity', '/nowhere/model', '--out', 'OUT'), 'cannot load'),
    (('similarity', 'demo', '--n-texts', '9999', '--out', 'OUT'), '1 to 256'), (('evaluate', 'demo', '--tasks', 'poetry'), 'poetry')])
def test_wrong_use(args, says, tmp_path):
    one_line(run(*[tmp_path/'out' if a == 'OUT' else a for a in args], env=os.environ | {'HF_HUB_OFFLINE': '1'}), says)
    assert list(tmp_path.iterdir()) == []

def test_nothing_is_overwritten_without_force(tmp_path):
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'mine').write_text('precious')
    for args in (('similarity', 'demo', '--out', tmp_path/'out'), ('prune', 'demo', tmp_path/'out', '--drop', '3'),
                 ('heal', 'demo', tmp_path/'out'), ('reproduce', '--preset', 'smoke', '--out', tmp_path/'out')):
        one_line(run(*args), 'not empty')
    assert (tmp_path/'out'/'mine').read_text() == 'precious'

def test_unwritable(tmp_path):
    (tmp_path/'file').write_text('')
    one_line(run('prune', 'demo', tmp_path/'file'/'out', '--drop', '3'), 'cannot write')

def test_similarity_then_prune_then_evaluate(tmp_path):
    texts = tmp_path/'texts.txt'
    texts.write_text('The cat sat on the mat and looked at the moon.\nA second document, rather short.\n')
    done = run('similarity', 'demo', '--texts', texts, '--out', tmp_path/'d', '--json')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found['best_blocks']) == 29 and {p.name for p in (tmp_path/'d').iterdir()} >= {'distances.safetensors', 'distances.json', 'best_blocks.csv', 'heatmap.png', 'curves.png'}
    done = run('prune', 'demo', tmp_path/'p', '--n', 4, '--distances', tmp_path/'d', '--json')
    assert done.returncode == 0, done.stderr
    block = found['best_blocks'][3]
    assert json.loads(done.stdout)['dropped'] == list(range(block['start'], block['stop']))
    done = run('evaluate', tmp_path/'p', '--tasks', 'mmlu', '--n', 4)
    assert done.returncode == 0 and 'mmlu' in done.stdout, done.stderr

def test_main_returns_the_exit_code(capsys):
    assert main(['prune', 'demo', '/nowhere/out']) == 2
    assert capsys.readouterr().err.count('\n') == 1

def test_the_environment_is_as_before(tmp_path, capsys):
    before = dict(os.environ)
    assert main(['check', str(tmp_path), '--no-progress']) == 1 and dict(os.environ) == before
