"""The command line, by its promises: help from the registries, one clear line for every failure, sources that are
never written, your own texts without the demo's, and a clean end in every case."""
import argparse, dataclasses, json, os, random, resource, signal, subprocess, sys, time
import numpy as np, pytest
import prunebook.cli as cli
from prunebook import METHODS, STRATEGIES, HealingConfig, Method, PrunebookError, Strategy, SweepConfig
from prunebook.model.assets import ASSETS, Asset
from prunebook.cli import COMMANDS, main, parser
from prunebook.similarity.distances import LayerDistances
from prunebook.pruning.strategies import prune_model
from support.tiny import letter_tokenizer, save, texts, tiny


def run(*args, **kw):
    "The command in a process of its own, as a user meets it"
    env = os.environ | dict(HF_HUB_OFFLINE='1') | kw.pop('env', {})
    command = [sys.executable, *kw.pop('python', ()), '-m', 'prunebook', *map(str, args)]
    return subprocess.run(command, **dict(capture_output=True, text=True, env=env) | kw)


def refused(capsys, *args, says=''):
    "Exit code 2, nothing on stdout, and one clear line on stderr"
    try: code = main([str(o) for o in args])
    except SystemExit as e: code = e.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ''
    assert err.count('\n') == 1 and err.startswith('prunebook') and says in err, err


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "A model, the same without a layer, texts and questions of one's own"
    folder, model = tmp_path_factory.mktemp('own'), tiny(layers=6, max_position_embeddings=1024)
    save(folder/'model', model, letter_tokenizer())
    save(folder/'pruned', prune_model(model, [3]), letter_tokenizer())
    (folder/'texts.txt').write_text('\n'.join(texts(40)))
    (folder/'judge.txt').write_text('\n'.join(texts(12, seed=1)))
    rows = [dict(question=f'{i} and {i}', choices=['same', 'other', 'none'], answer=i % 3) for i in range(12)]
    (folder/'mine.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


# A model that is not there

@pytest.mark.parametrize('words', [
    'check nowhere', 'prune nowhere out --n 2', 'similarity nowhere --out out', 'heal nowhere out',
    'heal demo out --objective distill --teacher nowhere', 'evaluate demo --parent nowhere', 'estimate nowhere'])
def test_a_model_that_is_not_there_is_refused_at_once(tmp_path, words):
    "Without a network. The libraries of the hub try for 24 s; imports on a busy laptop may take 5"
    start = time.perf_counter()
    done = run(*words.split(), env=dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9', HF_HOME=str(tmp_path)),
               cwd=tmp_path)
    assert time.perf_counter() - start < 15
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1
    assert 'nowhere: no such folder' in done.stderr and not (tmp_path/'out').exists()


def test_offline_the_hub_is_not_asked(capsys):
    "HF_HUB_OFFLINE is set in these tests"
    refused(capsys, 'estimate', 'no/model', says='no/model: no such folder or file, and the hub')


# Help and registries

def test_help_and_version_start_at_once():
    "Seconds of the processor, generous: a laptop that does other work"
    for args in (['--help'], ['--version'], ['heal', '--help']):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*args).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    heavy = ('torch', 'transformers', 'pandas', 'numpy', 'matplotlib')
    code = f'import sys, prunebook.cli; sys.exit(any(m in sys.modules for m in {heavy}))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


NO_TORCH = """
import sys
from prunebook.cli import COMMANDS, main
folder, distances, out = sys.argv[1:]
heavy = ('torch', 'transformers', 'pandas', 'matplotlib')
prune = ['prune', folder, out, '--n', '2', '--distances', distances]
for words in [*([o, '--help'] for o in COMMANDS), ['assets'], prune, ['check', out, '--files-only']]:
    code = main(words)
    found = [o for o in heavy if o in sys.modules]
    assert code == 0 and not found, (words, code, found)
"""


def test_commands_that_need_no_torch_do_not_import_it(tiny_folder, tmp_path):
    "The help of every command, and the ones that list, copy bytes or read headers"
    distances = LayerDistances(np.ones((9, 9)), np.ones((9, 9)), 2).save(tmp_path/'distances')
    done = subprocess.run([sys.executable, '-c', NO_TORCH, tiny_folder, distances, tmp_path/'out'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def options(name):
    actions = parser(name)._subparsers._group_actions[0].choices[name]._actions
    return [a for a in actions if a.dest != 'help']


@pytest.mark.parametrize('name', COMMANDS)
def test_every_help_shows_an_example_and_explains_every_option(name, capsys):
    assert main([name, '--help']) == 0
    said = capsys.readouterr().out
    assert f'prunebook {name}' in said.split('example')[1] and '--json' in said
    assert [a.option_strings for a in options(name) if not a.help] == [] and '%%' not in said


def test_every_field_of_a_recipe_and_of_a_sweep_is_an_option():
    for name, config in dict(heal=HealingConfig, estimate=HealingConfig, sweep=SweepConfig).items():
        fields = {cli._RENAMED.get(f.name, f.name) or 'recipe' for f in dataclasses.fields(config)}
        assert fields <= {a.dest for a in options(name)}
    args = parser('heal').parse_args(['heal', 'm', 'o', '--learning-rate', '1e-4', '--no-deterministic'])
    assert (args.learning_rate, args.deterministic, args.steps) == (1e-4, False, None)
    args = parser('sweep').parse_args(['sweep', 'm', '--out', 'o', '--task-ns', '{"mmlu": [2]}', '--n-questions', '5'])
    assert (args.task_ns, args.n_questions) == (dict(mmlu=[2]), 5)


def test_prune_measures_on_as_many_texts_as_asked(own, tmp_path, monkeypatch):
    seen = []
    def measure(model, tok, texts, **how):
        seen.append(len(texts))
        raise PrunebookError('seen')
    monkeypatch.setattr('prunebook.similarity.distances.layer_distances', measure)
    monkeypatch.setattr(cli._Texts, 'read', lambda texts, *args: ['a text'] * (texts.n_texts or 222))
    for n in ([], ['--n-texts', '10'], ['--n-texts', '100']):
        assert main(['prune', str(own/'model'), str(tmp_path/'out'), '--n', '1', *n, '--no-progress']) == 2
    assert seen == [64, 10, 100]


def test_the_options_of_a_new_strategy_are_options(monkeypatch, capsys):
    odd = Strategy('odd', lambda n, depth, step=2: range(0, 2 * n, step), 'every other', options=dict(step=2))
    monkeypatch.setitem(STRATEGIES, 'odd', odd)
    monkeypatch.setitem(METHODS, 'other', Method('other', 'another way', trains_adapters=True))
    assert parser('prune').parse_args(['prune', 'm', 'o', '--strategy', 'odd', '--step', '2']).step == 2
    assert main(['prune', '--help']) == 0 and 'odd' in capsys.readouterr().out
    assert main(['heal', '--help']) == 0 and 'other' in capsys.readouterr().out


def test_assets_lists_fetches_and_deletes(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path))
    assert main(['assets', '--json']) == 0
    rows = {o['name']: o for o in json.loads(capsys.readouterr().out)['assets']}
    assert set(rows) == set(ASSETS) and rows['demo']['fetched'] == 'no'
    assert rows['qwen2.5-coder-0.5b']['third_party'] == 'yes'
    assert {'kind', 'title', 'licence', 'mb'} <= set(rows['demo'])
    (tmp_path/'mine').mkdir()
    monkeypatch.setitem(ASSETS, 'mine', Asset('mine', 'model', 'my own', path=str(tmp_path/'mine')))
    assert main(['assets', '--delete', 'mine']) == 0
    from prunebook.model.assets import _place
    folder = _place(ASSETS['wiki'])
    folder.mkdir()
    (folder/'half').touch()
    assert main(['assets', '--delete', 'wiki']) == 0 and not folder.exists() and (tmp_path/'mine').exists()


# Failures

def test_the_advice_names_only_options_that_the_command_has(capsys):
    "For each command, the options that the line about memory names are options of that command"
    for name in COMMANDS:
        given = argparse.Namespace(command=name, **{a.dest: a.default for a in options(name)})
        words = {o.strip('.,') for o in cli._less_memory(given).split() if o.startswith('--')}
        assert words <= {s for a in options(name) for s in a.option_strings}, name


def test_stdout_on_a_full_device():
    with open('/dev/full', 'w') as full:
        for args in (['assets'], ['--help'], ['prune', '--help']):
            done = run(*args, stdout=full, stderr=subprocess.PIPE, capture_output=False)
            assert done.returncode == 2 and done.stderr.count('\n') <= 1 and 'Traceback' not in done.stderr, done.stderr


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b'bad-\xff')
    done = run('similarity', 'demo', '--out', tmp_path/name)
    assert done.returncode == 2 and 'UTF-8' in done.stderr and done.stderr.count('\n') == 1
    (tmp_path/name).mkdir()
    done = run('check', 'nowhere', cwd=tmp_path/name)
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr


def test_without_docstrings(own, tmp_path):
    assert run('--help', python=['-OO']).returncode == 0
    done = run('prune', own/'model', tmp_path/'out', '--drop', '2', python=['-OO'])
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
def test_no_progress_is_silent(own, tmp_path):
    args = ['--n', '1', '--texts', own/'texts.txt', '--max-length', '64', '--no-progress']
    done = run('prune', own/'model', tmp_path/'out', *args)
    assert done.returncode == 0 and done.stderr == ''


def test_the_environment_and_the_handlers_are_as_before(tmp_path, capsys):
    before, handlers = dict(os.environ), [signal.getsignal(o) for o in (signal.SIGINT, signal.SIGTERM)]
    assert main(['check', str(tmp_path), '--no-progress']) in (1, 2)
    assert dict(os.environ) == before and [signal.getsignal(o) for o in (signal.SIGINT, signal.SIGTERM)] == handlers


# Sources stay, and nothing is overwritten

def snapshot(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.mark.parametrize('args', [
    ('sweep', 'M', '--out', 'M', '--texts', 'T'), ('evaluate', 'M', '--save', 'M', '--tasks', 'Q'),
    ('similarity', 'M', '--out', 'M', '--texts', 'T', '--force'), ('prune', 'M', 'M', '--drop', '1', '--force'),
    ('heal', 'M.unfinished', 'M', '--texts', 'T', '--force'), ('reproduce', '--model', 'M.unfinished', '--out', 'M'),
    ('reproduce', '--model', 'M', '--out', 'M', '--force')])
def test_a_source_is_never_written(args, own, tmp_path, capsys):
    import shutil
    for name in ('m', 'm.unfinished'): shutil.copytree(own/'model', tmp_path/name)
    if 'M.unfinished' in args: shutil.rmtree(tmp_path/'m')
    before = snapshot(tmp_path)
    place = {'M': tmp_path/'m', 'M.unfinished': tmp_path/'m.unfinished', 'T': own/'texts.txt', 'Q': own/'mine.jsonl'}
    refused(capsys, *(place.get(a, a) for a in args), '--no-progress')
    assert snapshot(tmp_path) == before


def test_an_interrupted_measurement_is_never_deleted_unasked(own, tmp_path, capsys, monkeypatch):
    from prunebook.similarity.stopping import _MeasurementCheckpoint
    args = ['similarity', str(own/'model'), '--texts', str(own/'texts.txt'), '--out', str(tmp_path/'d')]
    args.append('--no-progress')
    save_state, saved = _MeasurementCheckpoint.save, []

    def stop_after_one(self, *a, **kw):
        save_state(self, *a, **kw)
        saved.append(1)
        raise KeyboardInterrupt
    monkeypatch.setattr(_MeasurementCheckpoint, 'save', stop_after_one)
    assert main([*args, '--until-certain', '1', '--tolerance', '0']) == 130 and saved
    assert 'with --resume to continue' in capsys.readouterr().err
    monkeypatch.undo()
    before = snapshot(tmp_path)
    assert before, 'the state is there'
    refused(capsys, *args, says='--resume')
    refused(capsys, *args, '--resume', '--max-length', '7', says='512 then, 7 now')
    refused(capsys, *args, '--texts', 'nowhere.txt', says='')
    assert snapshot(tmp_path) == before
    assert main([*args, '--resume', '--until-certain', '1', '--tolerance', '0']) == 0
    names = {p.name for p in (tmp_path/'d').iterdir()}
    figures = {f'{k}.{e}' for k in ('curves', 'heatmap') for e in ('png', 'svg')}
    assert names == {'distances.safetensors', 'best_blocks.csv'} | figures
    assert [p.name for p in tmp_path.iterdir()] == ['d']


@pytest.mark.parametrize('env', [dict(RANK='1'), dict(RANK=''), dict(RANK='3', WORLD_SIZE='1'), dict(WORLD_SIZE='')])
def test_a_stray_rank_is_a_single_process(env, own, tmp_path, monkeypatch, capsys):
    for k, v in env.items(): monkeypatch.setenv(k, v)
    args = ['--texts', str(own/'texts.txt'), '--max-length', '32', '--no-progress']
    assert main(['similarity', str(own/'model'), '--out', str(tmp_path/'d'), *args]) == 0
    assert (tmp_path/'d'/'distances.safetensors').exists()


# Your own model, texts and questions

def test_own_data_alone_by_every_command(own, tmp_path, capsys, monkeypatch):
    "Nothing of the demo is fetched: the cache stays empty from the first command to the last"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    monkeypatch.chdir(tmp_path)
    model, calibration, judge, mine = (str(own/o) for o in ('model', 'texts.txt', 'judge.txt', 'mine.jsonl'))

    def ok(*args):
        code = main([*args, '--no-progress', '--json'])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)
    found = ok('similarity', model, '--texts', calibration, '--max-length', '64', '--out', 'd')
    pruned = ok('prune', model, 'p', '--n', '2', '--distances', 'd')
    assert pruned['dropped'] == list(range(found['best_blocks'][1]['start'], found['best_blocks'][1]['stop']))
    again = ok('prune', model, 'p2', '--n', '2', '--texts', calibration, '--max-length', '64')
    assert again['dropped'] == pruned['dropped']
    ok('prune', model, 'p3', '--n', '1', '--strategy', 'best_loss', '--texts', calibration)
    recipe = ['--steps', '2', '--batch-size', '2', '--max-length', '32', '--rank', '2']
    healed = ok('heal', 'p', 'h', '--texts', calibration, '--judge-texts', judge, *recipe)
    assert healed['steps'] == 2 and 'judge.txt validation loss' in healed
    assert not (tmp_path/'h'/'asked.json').exists() and (tmp_path/'h'/'adapter').is_dir()
    scores = ok('evaluate', 'h', '--tasks', 'c4', mine, '--judge-texts', judge, '--n-questions', '6', '--save', 's')
    scores = scores['scores']
    assert [(o['task'], o['source']) for o in scores] == [('c4', 'judge.txt'), ('mine.jsonl', 'mine.jsonl')]
    own_texts = ['--texts', calibration, '--n-calibration', '20', '--judge-texts', judge, '--tasks', 'c4', mine]
    rows = ok('sweep', model, '--out', 'w', '--ns', '1', '2', '--healed-ns', '2', *own_texts, '--recipe',
              recipe_file(tmp_path), '--max-length', '64')
    assert {(o['strategy'], o['healed']) for o in rows['rows']} == {
        ('none', False), ('similarity', False), ('similarity', True), ('simple', False), ('simple', True)}
    assert ok('check', 'h')['sound']
    ok('estimate', model)
    assert not (tmp_path/'cache').exists() or list((tmp_path/'cache').iterdir()) == []
    assert str(own) not in (tmp_path/'w'/'run.json').read_text()


def recipe_file(folder):
    from prunebook import HealingConfig
    HealingConfig(steps=2, batch_size=2, max_length=32, rank=2, packing='chunk').save(folder/'recipe.json')
    return str(folder/'recipe.json')


# Interruptions

SLOW = dict(
    similarity=['similarity', 'M', '--texts', 'T', '--out', 'o'], prune=['prune', 'M', 'o', '--n', '2', '--texts', 'T'],
    evaluate=['evaluate', 'M', '--tasks', 'Q'],
    # of an unpruned model, heal would warn that this is plain fine-tuning: a line of its own
    heal=['heal', 'P', 'o', '--texts', 'T', '--steps', '200', '--max-length', '32'],
    check=['check', 'M'],
    sweep=['sweep', 'M', '--out', 'o', '--ns', '1', '2', '--texts', 'T', '--n-calibration', '8',
           '--tasks', 'Q'])


def interrupted(command, own, folder, after, number):
    "Send a signal to a command some seconds after its start; its exit code and stderr"
    place = {'M': own/'model', 'P': own/'pruned', 'T': own/'texts.txt', 'Q': own/'mine.jsonl'}
    args = [sys.executable, '-m', 'prunebook', *(str(place.get(a, a)) for a in SLOW[command]), '--no-progress']
    p = subprocess.Popen(args, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    p.send_signal(number)
    try: _, err = p.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        p.kill()
        raise
    return p.returncode, err


@pytest.mark.thorough
@pytest.mark.parametrize('command, count', [
    *((o, 1) for o in SLOW), *(pytest.param(o, 20, marks=pytest.mark.slow, id=f'{o}-20') for o in SLOW)])
def test_a_signal_at_any_moment_ends_in_one_line(command, count, own, tmp_path):
    r = random.Random(f'{command} {count}')
    for i in range(count):
        number = r.choice([signal.SIGINT, signal.SIGTERM])
        (folder := tmp_path/str(i)).mkdir()
        code, err = interrupted(command, own, folder, r.uniform(.6, 9), number)
        assert code in (0, 128 + number), (code, err)
        assert 'Traceback' not in err and err.count('\n') == (code != 0), err
        left = {p.name for p in folder.iterdir()}
        resumable = {'o.unfinished', '.o.prunebook-asked'}  # work, and the request that may go on with it
        assert left <= {'o', *resumable} and ('.o.prunebook-asked' not in left or left == resumable), left


@pytest.mark.thorough
def test_a_signal_inside_an_import_waits_for_its_end(tmp_path):
    "An exception inside the import of a C++ module would abort the process"
    lines = 'import os, signal, time', 'os.kill(os.getpid(), signal.SIGTERM)', 'time.sleep(.3)', 'done = True'
    (tmp_path/'slow.py').write_text('\n'.join(lines) + '\n')
    code = """if 1:
        import sys, time
        from prunebook.cli import _interruptible
        sys.path.insert(0, sys.argv[1])
        try:
            with _interruptible() as came:
                import slow
                time.sleep(9)
        except KeyboardInterrupt: print(slow.done, came)"""
    done = subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True)
    assert done.stdout == 'True [15]\n', done


@pytest.mark.thorough
def test_a_signal_while_a_library_starts_a_thread_ends_the_process(own, tmp_path):
    "transformers loads weights in a pool of threads. One that starts when the signal comes waits for work forever"
    code = """if 1:
        import os, signal, sys, threading
        from prunebook.cli import main
        wait = threading.Event.wait
        def signalled(event, timeout=None):
            done, caller = wait(event, timeout), sys._getframe(2).f_code.co_name
            if caller == '_adjust_thread_count':
                threading.Event.wait = wait
                os.kill(os.getpid(), signal.SIGTERM)
            return done
        threading.Event.wait = signalled
        sys.exit(main())"""
    args = 'heal', own/'pruned', 'o', '--texts', own/'texts.txt', '--no-progress'
    done = subprocess.run([sys.executable, '-c', code, *args], cwd=tmp_path, capture_output=True, text=True, timeout=99)
    assert done.returncode == 143 and done.stderr.count('\n') == 1 and 'interrupted' in done.stderr, done
    assert not list(tmp_path.iterdir())
