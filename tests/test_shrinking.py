"One call from a model to a smaller one: it goes on after a kill, keeps nothing that failed a gate, and refuses early"
import json
from pathlib import Path
from pkgutil import resolve_name
import pandas as pd
import pytest
from prunebook import shrinking
from prunebook.core import PrunebookError
from prunebook.data.texts import load_texts
from prunebook.estimates import layer_sizes, model_size, peak_gb
from prunebook.healing.recipes import HealingConfig
from prunebook.pruning.checkpoint import check_checkpoint
from prunebook.serving.stacks import RUNNERS
from prunebook.shrinking import Rejected, candidate_cuts, shrink
from support.tiny import tiny, word_tokenizer

RECIPE = HealingConfig(steps=2, batch_size=2, max_length=16, rank=2, packing='packed')


@pytest.fixture
def given(tiny_folder, tmp_path):
    "Texts and questions in the words of the tiny model, and the arguments of a call"
    say = lambda i: ' '.join(f'w{(7 * i + j) % 96}' for j in range(24))
    (tmp_path/'my.jsonl').write_text('\n'.join(json.dumps(dict(text=say(i))) for i in range(40)))
    questions = [dict(question=say(i), choices=['w1', 'w2'], answer=i % 2) for i in range(20)]
    (tmp_path/'q.jsonl').write_text('\n'.join(map(json.dumps, questions)))
    return dict(model=str(tiny_folder), out=tmp_path/'out', drop=2, data=str(tmp_path/'my.jsonl'), recipe=RECIPE,
                tasks=[str(tmp_path/'q.jsonl')], n_questions=10, progress=False)


HEAL = 'prunebook.healing.healing.heal'


@pytest.mark.parametrize('step', [HEAL, 'prunebook.shrinking._judge', 'prunebook.shrinking._report'])
def test_goes_on_where_it_stopped(given, tmp_path, monkeypatch, step):
    took = iter([1., 1., .5, .5])  # the estimate differs from start to start
    given |= dict(minutes=6)
    estimated = lambda *a, **kw: pd.DataFrame(dict(command=['heal'], minutes=[next(took)]))
    monkeypatch.setattr('prunebook.estimates.estimate', estimated)
    def stop(*a, **kw): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(step, stop)
        with pytest.raises(KeyboardInterrupt): shrink(**given)
    assert not (tmp_path/'out').exists() and (tmp_path/'out.unfinished').exists()
    with monkeypatch.context() as m:
        m.setattr(shrinking, 'candidate_cuts', stop)  # the cuts are known
        if step.endswith('_report'): m.setattr(shrinking, '_judge', stop)
        assert shrink(**given).tokens == 12 * 32  # steps of the first estimate
    assert {p.name for p in tmp_path.iterdir()} == {'out', 'my.jsonl', 'q.jsonl'}
    assert check_checkpoint(tmp_path/'out') == []


@pytest.mark.parametrize('at', ['prunebook.core._put', 'shutil.rmtree'])
def test_goes_on_from_the_very_end(given, monkeypatch, at):
    "Stopped as the folder is put in its place, or as half of the healing in it is deleted"
    real = resolve_name(at.replace('._', ':_').replace('.rm', ':rm'))
    def stop(folder, *rest, **kw):
        if rest and rest[0].name == 'out': raise KeyboardInterrupt
        if not rest and (Path(folder)/'adapter').is_dir():
            (Path(folder)/'asked.json').unlink(missing_ok=True)
            raise KeyboardInterrupt
        return real(folder, *rest, **kw)
    with monkeypatch.context() as m:
        m.setattr(at, stop)
        with pytest.raises(KeyboardInterrupt): shrink(**given)
    assert not shrink(**given).problems


def test_other_texts_under_the_same_name_do_not_go_on(given, tmp_path, monkeypatch):
    def stop(*a, **kw): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(HEAL, stop)
        with pytest.raises(KeyboardInterrupt): shrink(**given)
    rows = (tmp_path/'my.jsonl').read_text().splitlines()
    (tmp_path/'my.jsonl').write_text('\n'.join(rows[:30]))
    with pytest.raises(PrunebookError, match='texts') as e: shrink(**given)
    assert '--force' in str(e.value) and '--resume' not in str(e.value)


def test_a_gate_leaves_nothing_at_out(given, tmp_path):
    (tmp_path/'out.rejected').mkdir()  # of somebody else
    with pytest.raises(PrunebookError, match='not made by prunebook'): shrink(**given, max_added_loss=-10)
    (tmp_path/'out.rejected').rmdir()
    for _ in range(2):  # the second replaces the first
        with pytest.raises(Rejected, match='nats') as e: shrink(**given, max_added_loss=-10)
        assert not (tmp_path/'out').exists() and check_checkpoint(tmp_path/'out.rejected') == []
    assert e.value.done.out == str(tmp_path/'out.rejected')


def test_only_cuts_that_a_stack_runs():
    "Without its four layers, a Gemma of a period of six keeps its kinds only if they are the last"
    kinds = ['full_attention' if i % 6 == 5 else 'sliding_attention' for i in range(18)]
    model = tiny('gemma3_text', 18, layer_types=kinds, sliding_window=8, max_position_embeddings=128)
    texts = [' '.join(f'w{(7 * i + j) % 96}' for j in range(30)) for i in range(40)]
    found = candidate_cuts(model, word_tokenizer(), texts, 4, ['llama.cpp'], progress=False)
    assert found and all(o['dropped'] == [14, 15, 16, 17] for o in found)
    assert any(o['dropped'] != [14, 15, 16, 17] for o in candidate_cuts(model, word_tokenizer(), texts, 4, (), False))


@pytest.mark.extra
@pytest.mark.thorough
@pytest.mark.skipif(not RUNNERS['llama.cpp'].installed, reason='needs the extra gguf')
def test_a_file_for_llama_cpp(given, tmp_path):
    "The demo model, since a tokenizer goes into the file as well"
    rows = [json.dumps(dict(text=o[:600])) for o in load_texts('demo', 'healing', n=20)]
    (tmp_path/'my.jsonl').write_text('\n'.join(rows))
    recipe = RECIPE.replace(max_length=64)
    done = shrink(**given | dict(model='demo', recipe=recipe, tasks=['arc_easy'], serve=['llama.cpp'], gguf='q8_0',
                                 allow_empty=True))
    assert not done.problems and done.use[-1] == f"llama-server -m {tmp_path/'out'/'model.gguf'}"
    with open(tmp_path/'out'/'model.gguf', 'rb') as f: assert f.read(4) == b'GGUF'
    assert {p.name for p in tmp_path.iterdir()} == {'out', 'my.jsonl', 'q.jsonl'}


def test_memory_is_judged_before_loading(given, monkeypatch):
    monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: dict(RAM=1e-6))
    with pytest.raises(PrunebookError, match='GB of memory'): shrink(**given)
    assert not given['out'].exists()
    assert not shrink(**given, force_memory=True).problems


def test_the_parent_counts_once(given, monkeypatch):
    "It teaches from the memory that it is cut in, so the need is that of healing, as `estimate` says"
    need = peak_gb(model_size(given['model']), 'heal', recipe=RECIPE.replace(objective='distill'))
    def loaded(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr('prunebook.load_model', loaded)
    for share, error in ((1 - 1e-9, PrunebookError), (1 + 1e-9, KeyboardInterrupt)):
        monkeypatch.setattr('prunebook.estimates.memory_gb', lambda: dict(RAM=need * share))
        with pytest.raises(error): shrink(**given | dict(recipe=RECIPE.replace(objective='distill')))


RETENTION = [(.5, .45, .25, .42, .8, None), (.5, .4, .25, .42, .8, '60%'), (.26, .25, .25, .2, .8, 'above chance'),
             (.2, .3, .25, .15, 0., 'above chance'), (3., 2., None, 2.9, .8, 'above chance'),
             (.2, .1, .25, .15, None, None)]


@pytest.mark.parametrize('parent, healed, chance, low, least, says', RETENTION)
def test_what_is_kept_of_what_the_parent_knows(parent, healed, chance, low, least, says):
    "A task that the parent does not know is named, and passes no gate"
    task = dict(measure='arc', parent=parent, healed=healed, chance=chance, parent_low=low, change=healed - parent)
    found = shrinking._failed([dict(measure='loss', change=0.), task], dict(parent={}, healed={}), None, least, False)
    assert found == [] if says is None else len(found) == 1 and 'arc' in found[0] and says in found[0], found


@pytest.mark.parametrize('target', [dict(params=3), dict(speedup=1.3)])
def test_a_target_instead_of_a_number_of_layers(given, target, capsys):
    "All that a run needs is checked for the budget too, and a run with progress says the budget first"
    sizes = layer_sizes(given['model'])
    if 'params' in target: target = dict(params=sizes.after([0, 1])['params'])
    given = given | dict(drop=None, tokens=70) | target
    assert list(shrink(**given, dry_run=True).command)[:3] == ['similarity', 'prune', 'heal']
    done, said = shrink(**given | dict(progress=True)), capsys.readouterr().err
    assert 'peak_gb' in said and done.tokens == 96  # three steps of 32
    left = sizes.after(done.cuts[0]['dropped'])
    assert left['params'] <= target.get('params', 1e9) and left['speedup'] >= target.get('speedup', 0)
    assert any(not (sizes.after(range(len(o['dropped']) - 1))['params'] <= target.get('params', 0)
                    or sizes.after(range(len(o['dropped']) - 1))['speedup'] >= target.get('speedup', 99))
               for o in done.cuts)  # and no more than that


def test_lost_answers_are_those_of_the_parent():
    "A cut that had lost its answers before healing does not excuse them"
    answers = dict(parent={'Who?': 'It was Ada.'}, pruned={'Who?': ''}, healed={'Who?': ''})
    loss = [dict(measure='loss', change=0.)]
    assert 'Who?' in shrinking._failed(loss, answers, None, None, allow_empty=False)[0]
    assert not shrinking._failed(loss, answers, None, None, allow_empty=True)
