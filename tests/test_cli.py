"""The command line, by its promises: it starts at once, one clear line for every failure, sources that are never
written, your own texts without the demo's, and a clean end in every case."""
import json, os, re, shutil, subprocess, sys, time
from inspect import signature
from pkgutil import resolve_name
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, prunebook as pb
from prunebook import HealingConfig
from prunebook.cli import _PLAIN, _answers, _options, COMMANDS, main
from prunebook.core import PrunebookError
from prunebook.data.texts import answer_row, read_answers
from prunebook.evaluation.generation import _SAMPLE_PROMPTS
from prunebook.paper.verify import Verification
from prunebook.pruning.checkpoint import check_checkpoint
from prunebook.similarity.distances import LayerDistances
from support.kills import tree
from support.tiny import letter_tokenizer, save, tiny, word_tokenizer, write_rows
from test_conversations import tiny_chat

def run(*args, stdout=subprocess.PIPE, **kw):
    "The command in a process of its own, as a user meets it"
    command = [sys.executable, '-m', 'prunebook', *args]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, **kw)

def refused(capsys, *args, says=''):
    "Exit code 2, nothing on stdout, and one clear line on stderr"
    try: code = main([str(o) for o in args])
    except SystemExit as e: code = e.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ''
    assert err.count('\n') == 1, err
    assert err.startswith('prunebook'), err
    assert says in err, err

@pytest.fixture
def ok(capsys):
    "The result of a command that ends with an exit code"
    def result(*args, code=0):
        ended = main([*map(str, args), '--no-progress', '--json'])
        out, err = capsys.readouterr()
        assert ended == code, err
        return json.loads(out)
    return result

# A model that is not there

@pytest.mark.parametrize('words', ['check nowhere', 'evaluate demo --parent nowhere'])
def test_a_model_that_is_not_there_is_refused_at_once(tmp_path, words):
    "Without a network. The libraries of the hub try for 24 s; imports on a busy laptop may take 5"
    start = time.perf_counter()
    env = os.environ | dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9', HF_HOME=str(tmp_path))
    done = run(*words.split(), env=env, cwd=tmp_path)
    assert time.perf_counter() - start < 15
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.count('\n') == 1
    assert 'nowhere: no such folder' in done.stderr and not (tmp_path/'out').exists()

# What needs no torch

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

TOO_LONG = {'similarity MODEL --out O --max-length 99999': '99999', 'heal MODEL O --max-length 99999': '99999',
            'sweep MODEL --out O --ns 40 --strategies simple --tasks c4': 'ns [40]',
            'similarity MODEL --out O --n-texts 0': 'n_texts=0'}
REFUSED_BY_FILES = """
import sys
from prunebook.cli import main
for line in sys.argv[2:]:
    code = main([sys.argv[1] if o == 'MODEL' else o for o in line.split()])
    found = [o for o in ('transformers', 'pandas', 'matplotlib') if o in sys.modules]
    assert code == 2 and not found, (line, code, found)
"""

def test_what_config_json_refuses_is_refused_without_transformers(tiny_folder, tmp_path):
    done = subprocess.run([sys.executable, '-c', REFUSED_BY_FILES, tiny_folder, *TOO_LONG], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for says, said in zip(TOO_LONG.values(), done.stderr.splitlines(), strict=True): assert says in said
    assert not (tmp_path/'O').exists()

# Failures

def test_stdout_on_a_full_device():
    with open('/dev/full', 'w') as full:
        for args in (['assets'], ['--help']):
            done = run(*args, stdout=full)
            assert done.returncode == 2, done.stderr
            assert done.stderr.count('\n') <= 1, done.stderr
            assert 'Traceback' not in done.stderr, done.stderr

# Sources stay, and nothing is overwritten

@pytest.mark.parametrize('args', [
    ('sweep', 'M', '--out', 'M', '--texts', 'T'), ('evaluate', 'M', '--save', 'M', '--tasks', 'Q'),
    ('similarity', 'M', '--out', 'M', '--texts', 'T', '--force'), ('prune', 'M', 'M', '--drop', '1', '--force'),
    ('heal', 'M.unfinished', 'M', '--texts', 'T', '--force'), ('reproduce', '--model', 'M.unfinished', '--out', 'M'),
    ('reproduce', '--model', 'M', '--out', 'M', '--force')])
def test_a_source_is_never_written(args, own, tmp_path, capsys):
    for name in ('m', 'm.unfinished'): shutil.copytree(own/'model', tmp_path/name)
    if 'M.unfinished' in args: shutil.rmtree(tmp_path/'m')
    before = tree(tmp_path)
    place = {'M': tmp_path/'m', 'M.unfinished': tmp_path/'m.unfinished', 'T': own/'texts.txt', 'Q': own/'mine.jsonl'}
    refused(capsys, *(place.get(a, a) for a in args), '--no-progress')
    assert tree(tmp_path) == before

# Your own model, texts and questions

def test_a_chat_model_is_healed_on_plain_texts_only_if_asked(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr('prunebook.heal_checkpoint', lambda *args, **kw: pytest.fail('it began'))
    refused(capsys, 'heal', 'demo', tmp_path/'h', '--no-progress', says='--objective lm')
    with pytest.raises(pytest.fail.Exception, match='it began'):
        main(['heal', 'demo', str(tmp_path/'h'), '--objective', 'lm', '--no-progress'])

def test_own_data_alone_by_every_command(own, tmp_path, ok, monkeypatch):
    "Nothing of the demo is fetched: the cache stays empty from the first command to the last"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    monkeypatch.chdir(tmp_path)
    model, calibration, judge, mine = (own/o for o in ('model', 'texts.txt', 'judge.txt', 'mine.jsonl'))
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
    scores = ok('evaluate', 'h', '--tasks', 'c4', mine, 'kl', '--judge-texts', judge, '--n-questions', '6', '--save',
                's', '--parent', model)['scores']
    told = [('c4', 'judge.txt'), ('mine.jsonl', 'mine.jsonl'), ('kl', 'judge.txt')]
    assert [(o['task'], o['source']) for o in scores] == told and scores[2]['value'] > 0
    own_texts = ['--texts', calibration, '--n-calibration', '20', '--judge-texts', judge, '--tasks', 'c4', mine]
    HealingConfig(steps=2, batch_size=2, max_length=32, rank=2, packing='chunk').save('recipe.json')
    rows = ok('sweep', model, '--out', 'w', '--ns', '1', '2', '--healed-ns', '2', *own_texts, '--recipe',
              'recipe.json', '--max-length', '64')
    assert {(o['strategy'], o['healed']) for o in rows['rows']} == {
        ('none', False), ('similarity', False), ('similarity', True), ('simple', False), ('simple', True)}
    assert ok('check', 'h')['sound']
    ok('estimate', model)
    assert not (tmp_path/'cache').exists() or list((tmp_path/'cache').iterdir()) == []
    assert str(own) not in (tmp_path/'w'/'run.json').read_text()

def test_the_loss_on_your_texts_needs_no_task_of_another_name(own, tmp_path, ok):
    "With questions alone it is one more task; with a task that reads texts, that one reads yours"
    judge, mine = own/'judge.txt', own/'mine.jsonl'
    def asked(*tasks): return ok('evaluate', own/'model', '--judge-texts', judge, '--tasks', *tasks)['scores']
    alone, usual = asked(mine), asked('c4', mine)
    assert [(o['task'], o['metric'], o['source']) for o in alone] == [
        ('mine.jsonl', 'likelihood', 'mine.jsonl'), ('judge.txt', 'loss', 'judge.txt')]
    assert [o['task'] for o in usual] == ['c4', 'mine.jsonl']
    assert alone[1]['value'] == usual[0]['value'] and alone[1]['n'] == usual[0]['n'] == 12
    rows = write_rows(tmp_path/'body.jsonl', [dict(body=o) for o in judge.read_text().splitlines()])
    named = ok('evaluate', own/'model', '--judge-texts', rows, '--column', 'body', '--tasks', mine)['scores'][1]
    assert (named['task'], named['value']) == ('body.jsonl:column=body', alone[1]['value'])
    for texts, name, more in ((judge, 'judge.txt', []), (rows, 'body.jsonl:column=body', ['--column', 'body'])):
        swept = ok('sweep', own/'model', '--out', tmp_path/name, '--ns', '1', '--strategies', 'simple', '--tasks', mine,
                   '--judge-texts', texts, *more)['rows']
        assert {o['task'] for o in swept} == {'mine.jsonl', name}
        [whole] = [o['value'] for o in swept if (o['task'], o['n']) == (name, 0)]
        assert whole == pytest.approx(alone[1]['value'])

@pytest.mark.parametrize('bits, dtype', [(16, 'bfloat16'), (32, 'float32')])
def test_bits_of_earlier_versions_are_a_type(bits, dtype, own, tmp_path, ok, monkeypatch):
    "Commands that gave 16 or 32 go on; what contradicts them is refused, as a line of `test_refusals` shows"
    loaded = []
    def load(name, load=pb.load_model, **how):
        loaded.append((how.get('dtype'), how.get('bits')))
        return load(name, **how)
    monkeypatch.setattr('prunebook.load_model', load)
    for more in (['--bits', bits], ['--bits', bits, '--dtype', dtype]):
        ok('evaluate', own/'model', '--tasks', own/'mine.jsonl', *more)
    assert loaded == [(dtype, None)] * 2
    estimates = [ok('estimate', own/'model', '--card', 'l4', *o) for o in (['--bits', bits], ['--dtype', dtype])]
    assert estimates[0] == estimates[1]

def test_a_rejected_model_has_an_exit_code_of_its_own(own, tmp_path, ok):
    words = ['shrink', own/'model', tmp_path/'out', '--drop', '1', '--data', own/'texts.txt', '--tasks',
             own/'mine.jsonl', '--n-questions', '6', '--tokens', '9', '--max-added-loss', '-10']
    for _ in range(2):  # the second replaces the first
        found = ok(*words, code=5)
        assert 'nats' in found['rejected'] and found['out'] == str(tmp_path/'out.rejected')
        assert [p.name for p in tmp_path.iterdir()] == ['out.rejected'] and not check_checkpoint(found['out'])

ANSWERS = [({}, 'Paris.', None), ({}, ' ', '--parent'), ({}, 'no way, no way, ' * 8, '--parent'),
           ('Paris.', '', '--objective distill_top'), (' ', '', None), ('la ' * 20, 'la ' * 20, None)]

@pytest.mark.parametrize('before, after, advice', ANSWERS)
def test_answers_that_are_empty_or_repeat_themselves_are_named(before, after, advice):
    "Also without the parent's, when nobody knows whether healing would help"
    found = [_answers(before and dict(Q=before), dict(Q=after), allow_empty=o).get('warning') for o in (False, True)]
    assert found[1] is None and (found[0] or '').count("'Q'") == (advice is not None), found
    if advice: assert advice in found[0]

def test_a_model_that_answers_nothing_gives_exit_code_4(demo, tmp_path, capsys):
    "Chats whose answers are empty teach the demo to end each turn at once; the healed model is written all the same"
    said = [[dict(role='user', content=f'What is {i} + {i}?'), dict(role='assistant', content='')] for i in range(24)]
    rows = [dict(text=demo[1].apply_chat_template(o, tokenize=False)) for o in said]
    chats = write_rows(tmp_path/'chats.jsonl', rows)
    HealingConfig(steps=8, batch_size=2, max_length=64, learning_rate=1e-2, rank=8).save(tmp_path/'recipe.json')
    words = ['heal', 'demo', tmp_path/'out', '--texts', chats, '--config', tmp_path/'recipe.json', '--json']
    assert main([*map(str, words), '--no-progress']) == 4
    out, err = capsys.readouterr()
    found, card = json.loads(out), (tmp_path/'out'/'README.md').read_text()
    assert list(found['answers']) == list(_SAMPLE_PROMPTS) and (tmp_path/'out'/'model.safetensors').exists()
    assert all(o['before'] and not o['after'] for o in found['answers'].values())
    assert 'the model lost its answer' in err
    assert _SAMPLE_PROMPTS[0] in card
    assert '    (nothing)' in card
    assert main(['evaluate', str(tmp_path/'out'), '--tasks', 'c4', '--n-texts', '1', '--no-progress']) == 4

# Exit codes

@pytest.mark.parametrize('verdict, sound, code', [
    ('confirmed', True, 0), ('rejected', False, 1), ('undecided', True, 3), ('not verifiable here', True, 3)])
def test_a_card_that_is_not_confirmed_has_an_exit_code(verdict, sound, code, own, ok, monkeypatch):
    "A script that reads nothing else must not take it for confirmed"
    monkeypatch.setattr('prunebook.cli.read_record', lambda run: {})
    judged = lambda *args, **kw: Verification(verdict, 'why', 'run', 0, 0., pd.DataFrame())
    monkeypatch.setattr('prunebook.paper.verify.verify_card', judged)
    found = ok('check', own/'pruned', '--claims', 'run', code=code)
    assert (found['claims'], found['sound']) == (verdict, sound)
    served = [SimpleNamespace(stack='mlx', right=False, row=dict)]
    monkeypatch.setattr('prunebook.serving_report', lambda *args, **kw: served)
    assert not ok('check', own/'pruned', '--claims', 'run', '--serve', 'mlx', code=1)['sound']
    monkeypatch.setattr('prunebook.check_checkpoint', lambda *args, **kw: ['a layer is missing'])
    assert 'claims' not in ok('check', own/'pruned', '--claims', 'run', code=1)
    assert ok('check', own/'pruned', code=1)['problems'] == ['a layer is missing']

# Interruptions

@pytest.mark.parametrize('command, says', [('verify', '--seed'), ('check x', 'Nothing was written')])
def test_what_is_left_is_told(command, says, monkeypatch, capsys):
    def stop(*args, **kw): raise KeyboardInterrupt
    for o in ('paper.verify.verify_runs', 'check_checkpoint'): monkeypatch.setattr(f'prunebook.{o}', stop)
    assert main(command.split()) == 130 and says in capsys.readouterr().err

@pytest.mark.thorough
def test_a_signal_inside_an_import_waits_for_its_end(tmp_path):
    "An exception inside the import of a C++ module would abort the process"
    lines = 'import os, signal, time', 'os.kill(os.getpid(), signal.SIGTERM)', 'time.sleep(.3)', 'done = True'
    (tmp_path/'slow.py').write_text('\n'.join(lines) + '\n')
    code = """if 1:
        import sys, time
        from prunebook.cli import _stoppable
        sys.path.insert(0, sys.argv[1])
        try:
            came = _stoppable()
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
    assert done.returncode == 143, done
    assert done.stderr.count('\n') == 1, done
    assert 'interrupted' in done.stderr, done
    assert not list(tmp_path.iterdir())

def test_minutes_stay_the_steps_of_the_first_start(own, tmp_path, monkeypatch, capsys, ok):
    "The machine may be faster when an interrupted healing goes on"
    took = iter([1., .1])
    estimated = lambda *a, **kw: pd.DataFrame(dict(command=['heal'], minutes=[next(took)]))
    monkeypatch.setattr('prunebook.estimates.estimate', estimated)
    recipe, size = tmp_path/'small.json', ['--minutes', 3, '--n-judge', 0]
    HealingConfig(steps=4, batch_size=2, max_length=16, rank=2, bits=32).save(recipe)
    args = ['heal', own/'pruned', f"{tmp_path/'h'}/", '--texts', own/'texts.txt', '--config', recipe, *size]
    def stop(*a, folder, **kw):
        (folder/'checkpoints').mkdir()
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr('prunebook.healing.healing._train', stop)
        assert main([*map(str, args), '--no-progress']) == 130
    capsys.readouterr()
    for other in (['--minutes', 5], ['--rank', 3]):
        refused(capsys, *args, *other, '--no-progress', '--resume', says=f"'{other[0][2:]}': ")
    assert ok(*args, '--resume')['steps'] == 4 * 3

def test_of_a_set_on_the_hub_healing_reads_a_document_for_each_place(own, tmp_path, monkeypatch, capsys):
    "256 came again and again"
    def read(name, split, n, *args, most, **kw): raise PrunebookError(f'{name} {split} {n or most}')
    for o in ('evaluation.tasks', 'data.texts'):  # in this order: a first import of the former would keep `read`
        monkeypatch.setattr(f'prunebook.{o}.load_texts', read)
    args = 'heal', own/'pruned', tmp_path/'h', '--texts', 'allenai/c4', '--batch-size', 5, '--steps', 70
    refused(capsys, *args, says='allenai/c4 train 350')
    refused(capsys, *args, '--n-texts', 9, says='allenai/c4 train 9')
    shrink = 'shrink', own/'model', tmp_path/'s', '--tasks', own/'mine.jsonl', '--n-questions', 5
    refused(capsys, *shrink, '--data', 'allenai/c4', says='allenai/c4 train 10000')

def test_a_revision_is_that_of_the_first_model(own, monkeypatch, ok):
    seen = []
    def loaded(name, revision=None, load=pb.load_model, **how):
        seen.append(revision)
        return load(name, **how)
    monkeypatch.setattr('prunebook.load_model', loaded)
    ok('evaluate', own/'model', own/'pruned', '--tasks', own/'mine.jsonl', '--revision', 'one')
    assert seen == ['one', None]

def test_a_difference_is_the_second_minus_the_first_also_of_kept_scores(own, tmp_path, ok):
    kept, texts = tmp_path/'kept', ['--tasks', 'c4', '--judge-texts', own/'judge.txt']
    found = ok('evaluate', own/'model', own/'pruned', *texts, '--save', kept)
    (before,), (after,), (change,) = (found[k] for k in ('first', 'second', 'differences'))
    assert change['difference'] == pytest.approx(after['value'] - before['value']) != 0
    assert ok('compare', kept/'first', kept/'second') == dict(differences=found['differences'])
    shutil.copy(kept/'first'/'c4.json', kept/'first'/'wiki.json')
    assert ok('compare', kept/'first', kept/'second') == dict(differences=found['differences'], only_in_one=['wiki'])

def test_one_set_of_questions_has_four_verdicts(own, ok, capsys):
    found = ok('evaluate', own/'model', '--tasks', own/'mine.jsonl', '--forms', '--n-questions', 4)
    (row,), scores = found['forms'], found['scores']
    assert list(row) == ['task', 'likelihood', 'shown', 'letter', 'permuted']
    assert [o['metric'] for o in scores] == ['likelihood', 'shown', 'letter', 'letter']
    said = [f"{o['value']:.3f} [{o['low']:.3f}, {o['high']:.3f}]" for o in scores]
    assert list(row.values())[1:] == said
    refused(capsys, 'evaluate', own/'model', '--tasks', 'c4', '--forms', says='c4')

def test_scores_stand_where_two_models_cannot_be_paired(own, tmp_path, ok, caplog):
    "Losses over the tokens of two tokenizers"
    other = shutil.copytree(own/'model', tmp_path/'other')
    word_tokenizer().save_pretrained(other)
    texts, mine = ['--judge-texts', own/'judge.txt'], own/'mine.jsonl'
    found = ok('evaluate', own/'model', other, '--tasks', 'c4', mine, *texts)
    assert [o['task'] for o in found['differences']] == [str(mine)] and 'c4: the two scores are not' in caplog.text
    found = ok('evaluate', own/'model', other, '--tasks', 'c4', *texts)
    assert len(found['first']) == len(found['second']) == 1 and 'same items' in found['not_paired']

def test_an_estimate_for_a_card_counts_the_teacher(own, ok):
    alone, taught = (ok('estimate', own/'model', '--card', 'l4', '--objective', o) for o in ('lm', 'distill'))
    heal = [next(r['peak_gb'] for r in o['needs'] if r['command'] == 'heal') for o in (alone, taught)]
    more = heal[1] - heal[0]  # it is loaded in its own type, float32
    assert more == pytest.approx(4 * alone['parameters'] / 1e9) and taught['memory_gb'] == dict(GPU=24)

def test_scores_of_another_model_or_of_other_items_stay(own, tmp_path, ok, capsys):
    "More tasks of the same model come beside them"
    tasks, kept = (['--tasks', own/'mine.jsonl'], ['--tasks', 'c4', '--judge-texts', own/'judge.txt']), tmp_path/'kept'
    for o in tasks: ok('evaluate', own/'model', *o, '--save', kept)
    before = tree(kept)
    for o in tasks: refused(capsys, 'evaluate', own/'pruned', *o, '--save', kept, '--no-progress', says='of another')
    for o, fewer in zip(tasks, ('--n-questions', '--n-texts')):
        refused(capsys, 'evaluate', own/'model', *o, fewer, 2, '--save', kept, '--no-progress', says='other items')
    short = 'evaluate', own/'model', *tasks[1], '--max-length', 9, '--save', kept, '--no-progress'
    refused(capsys, *short, says='other items')
    assert tree(kept) == before and len(before) == 3
    for o in tasks: ok('evaluate', own/'model', *o, '--save', kept)  # the same again

def test_agreement_with_another_parent_does_not_replace_the_first(own, tmp_path, ok, capsys):
    kept, texts = tmp_path/'kept', ['--tasks', 'agreement', '--judge-texts', own/'judge.txt']
    asked = 'evaluate', own/'pruned', *texts, '--save', kept, '--parent'
    ok(*asked, own/'model')
    before = tree(kept)
    refused(capsys, *asked, own/'pruned', '--no-progress', says='score with parent')
    assert tree(kept) == before
    said = json.loads((kept/'agreement.json').read_text())
    assert len(said.pop('parent')) == 16
    (kept/'agreement.json').write_text(json.dumps(said))
    ok(*asked, own/'model')  # an older score does not name its parent

def test_the_limit_of_written_answers_is_given_kept_and_not_replaced(own, tmp_path, ok, capsys, caplog):
    sums = write_rows(tmp_path/'sums.jsonl', [dict(question='1 + 1', answer='2')] * 3)
    asked = 'evaluate', own/'model', '--tasks', sums, '--save', tmp_path/'kept', '--max-new-tokens'
    [row] = ok(*asked, 4)['scores']
    assert row['unfinished'] == 3 and '3 of 3 answers reach the limit of 4 tokens' in caplog.text
    refused(capsys, *asked, 5, '--no-progress', says='max_new_tokens 4')

def test_distances_of_another_model_are_told(own, tmp_path, caplog, ok):
    for name in ('model', 'other'): shutil.copytree(own/'model', tmp_path/name)
    save(tmp_path/'other', tiny(layers=6, max_position_embeddings=1024, seed=1), letter_tokenizer())
    ok('similarity', tmp_path/'model', '--texts', own/'texts.txt', '--max-length', 32, '--out', tmp_path/'d')
    shutil.copytree(tmp_path/'model', tmp_path/'same')
    for name in ('model', 'same', 'other'):
        caplog.clear()
        ok('prune', tmp_path/name, tmp_path/f'{name}-out', '--n', 1, '--distances', tmp_path/'d')
        assert ('other weights' in caplog.text) == (name == 'other')

@pytest.mark.parametrize('name', COMMANDS)
def test_every_group_has_options(name):
    "A group whose type the command line cannot find would take its options away in silence"
    run = COMMANDS[name]
    groups = {p.name for f in [run, *([resolve_name(f'prunebook.{run.like}')] if run.like else [])]
              for p in signature(f).parameters.values()
              if p.kind != p.VAR_KEYWORD and not re.fullmatch(_PLAIN, str(p.annotation))}
    made_by_the_command = {'recipe', 'model', 'tokenizer', 'load', 'progress'}
    assert groups - made_by_the_command <= {o.to.partition('.')[0] for o in _options(run).values()}

def test_options_that_contradict_each_other(own, tmp_path, capsys, monkeypatch):
    refused(capsys, 'prune', own/'model', tmp_path/'p', '--drop', '1', '--strategy', 'simple', says='Give one of both')
    pb.SweepConfig(ns=[1], healed_ns=[1], tasks=['c4'], healing_texts=str(own/'judge.txt')).save(tmp_path/'c.json')
    seen = []
    monkeypatch.setattr('prunebook.cli.check_sweep', lambda grid, *a: seen.append(grid) or 1 / 0)
    for more in ([], ['--config', tmp_path/'c.json']):
        with pytest.raises(ZeroDivisionError):
            main([str(o) for o in ('sweep', own/'model', '--out', tmp_path/'o', '--texts', own/'texts.txt', *more)])
    assert [(o.calibration, o.healing_texts) for o in seen] == [
        (str(own/'texts.txt'),) * 2, (str(own/'texts.txt'), str(own/'judge.txt'))]

COUNT = """
similarity MODEL --out O --texts TEXTS --until-certain 1 --tolerance .1 --max-length 64 --batch-tokens 64
prune MODEL O --n 1 --texts TEXTS --n-texts 9 --max-length 64 --batch-tokens 64 --bits 32 --device-map cpu
prune MODEL O --n 1 --strategy greedy --distances RUN --texts TEXTS --max-length 64
prune MODEL O --drop 1 --in-memory --dtype float32 --device-map cpu --distances RUN
prune MODEL O --n 1 --strategy simple --in-memory --bits 32
prune MODEL O --n 1 --strategy texts --texts TEXTS --n-texts 9 --max-length 64 --bits 32 --device-map cpu
heal PRUNED O --texts TEXTS --adapt near_cut --near 1 --rank 2 --alpha 4 --dropout .1 --judge-texts JUDGE --n-judge 5
heal PRUNED O --texts CHAT --loss-on all --n-judge 0
heal PRUNED O --texts TEXTS --method head_and_last --options {"last":1}
heal PRUNED O --texts TEXTS --objective distill_top --teacher MODEL --top-k 4 --teacher-bits 32 --teacher-folder F
evaluate MODEL --tasks MINE --n-questions 5 --batch-tokens 64
evaluate MODEL --tasks SUMS --n-questions 2 --max-new-tokens 5
evaluate MODEL --tasks c4 --judge-texts ROWS --column words --n-texts 2 --max-length 64
evaluate MODEL --tasks kl --judge-texts JUDGE --parent MODEL --n-texts 5
sweep MODEL --out O --ns 1 --strategies random greedy --seeds 1 --n-search 5 --texts TEXTS --tasks MINE --n-questions 2
sweep MODEL --out O --ns 1 --strategies random --seeds 1 2 --tasks c4 --judge-texts JUDGE --n-texts 5 --memory 1
sweep MODEL --out O --ns 1 --strategies simple --healed-ns 1 --healing-texts TEXTS --recipe RECIPE --tasks MINE
"""

@pytest.mark.parametrize('line', COUNT.strip().splitlines())
def test_options_that_count_are_taken(line, own, tmp_path, monkeypatch):
    "As far as the first weight: what `tests/test_refusals.py` refuses elsewhere changes something here"
    for o in ('load_model', 'heal_checkpoint'): monkeypatch.setattr(f'prunebook.{o}', lambda *a, **kw: 1 / 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'run.json').write_text('{}')
    LayerDistances(np.ones((7, 7)), np.ones((7, 7)), 2).save(tmp_path/'run')
    monkeypatch.setattr('prunebook.cli.measured_cut', lambda *a: {})
    HealingConfig(steps=2, batch_size=2, max_length=32, rank=2).save(tmp_path/'recipe.json')
    said = [dict(role='user', content='one two'), dict(role='assistant', content='three four')]
    chat = write_rows(tmp_path/'chat.jsonl', [dict(messages=said)] * 9)
    places = dict(MODEL=own/'model', PRUNED=own/'pruned', TEXTS=own/'texts.txt', JUDGE=own/'judge.txt', RUN='run',
                  MINE=own/'mine.jsonl', RECIPE='recipe.json', CHAT=chat,
                  SUMS=write_rows(tmp_path/'sums.jsonl', [dict(question='1 + 1', answer='2')] * 3),
                  ROWS=write_rows(tmp_path/'rows.jsonl', [dict(words=f'{i} one two') for i in range(3)]))
    with pytest.raises(ZeroDivisionError): main([str(places.get(o, o)) for o in line.split()] + ['--no-progress'])

# By the answers

def test_a_cut_by_answers(tmp_path, ok, capsys, monkeypatch):
    "Yours or the model's, which are kept; and what is wrong with them is said before a weight is read"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    model, tok = tiny_chat()
    folder, other = save(tmp_path/'model', model, tok), save(tmp_path/'other', tiny_chat()[0], letter_tokenizer())
    mine = [dict(prompt=f'Say {o}.', response=f'It is {o}.') for o in 'abcdefghijkl']
    prune = ['prune', folder, tmp_path/'out', '--force', '--dtype', 'float32']
    by = [*prune, '--strategy', 'answers', '--prompts']
    found = ok(*by, write_rows(tmp_path/'mine.jsonl', mine), '--n', 1)
    chosen, held = read_answers(found['answers'])
    assert len(held) == 2 and {o['made']['by'] for o in chosen} == {'user'}
    plan = pb.choose_layers('answers', 1, model=model, tokenizer=tok, answers=chosen, progress=False)
    assert found['dropped'] == list(plan) and found['added_loss'] == pytest.approx(plan.details['loss'], abs=1e-4)
    record = json.loads((tmp_path/'out'/'config.json').read_text())['prunebook']
    assert record['strategy'] == 'answers' and record['details']['documents']['given'] == 10
    assert str(tmp_path) not in json.dumps(record)
    most = pb.prune_model(model, [1, 2]).num_parameters()
    again = ok(*by, found['answers'], '--params', most)
    assert again['answers'] == found['answers'] and again['n'] == 2
    searched = ok(*prune, '--strategy', 'texts', '--texts', write_rows(tmp_path/'t.jsonl', [dict(text='a b c ' * 9)]),
                  '--n', 1, '--max-length', 20)
    assert searched['strategy'] == 'texts' and searched['dropped']
    monkeypatch.setattr(pb, 'load_model', pytest.fail)
    rows = [json.loads(o) for o in open(found['answers'])]
    claims = [answer_row(o['messages'], **dict(o['made'], by='parent', parent='0' * 16)) for o in rows]
    rows[3]['messages'][1]['content'] = 'It is not.'
    long = [dict(prompt=o['prompt'] + 'a' * 500) for o in mine]
    for words, says in (
            ([*by, write_rows(tmp_path/'edited.jsonl', rows), '--n', 1], 'answer 3 was edited'),
            ([*by, write_rows(tmp_path/'claims.jsonl', claims), '--n', 1], 'answer 0 was written by another model'),
            ([*by, write_rows(tmp_path/'few.jsonl', mine[:4]), '--n', 1], '4 different prompts'),
            ([*by, write_rows(tmp_path/'long.jsonl', long), '--n', 1], '512 positions'),
            ([*by, found['answers'], '--n', 4], 'from 1 to 3'),
            ([*by, found['answers'], '--n', 1, '--max-new-tokens', 9], '--max-new-tokens'),
            ([*prune, '--prompts', 'everyday', '--n', 1], '--prompts: strategy similarity asks nothing'),
            (['prune', other, *by[2:], tmp_path/'mine.jsonl', '--n', 1], 'no chat template')):
        assert main([*map(str, words), '--no-progress']) == 2
        assert says in capsys.readouterr().err
