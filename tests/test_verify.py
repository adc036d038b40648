"""verify: an honest run is confirmed, each kind of lie is rejected, and what cannot be read or scored here is never
confirmed. The rule keeps its promise about honest runs."""
import json, os, re, shutil
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest
from prunebook.cli import main
from prunebook.core import PrunebookError
from prunebook.evaluation.scores import ratio_interval, wilson
from prunebook.evaluation.tasks import TASKS, ChoiceTask
from prunebook.paper.runs import _arrow_schema, measured_cut
from prunebook.paper.sweep import SweepConfig, kept_config, sweep
from prunebook.paper.verify import (HEAL_AGAIN, TOLERANCE, WORDS, _HONEST, _chosen, _verdict, at_most, deviation,
                                    is_confirmed, is_rejected, verify, verify_card, verify_runs, word_of)
from prunebook.pruning.checkpoint import model_card, save_pruned
from prunebook.pruning.strategies import prune_model
from support.tiny import Letters, letter_texts, letter_tokenizer, questions, save, tiny, write_rows

results = Path(__file__).parents[1]/'nbs'/'results'
WHO = dict(initializer_range=.3, max_position_embeddings=256)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A run with four cuts and two tasks, and the files of its items"
    folder = tmp_path_factory.mktemp('made')
    write_rows(folder/'texts.jsonl', [dict(text=o) for o in letter_texts(12)])
    write_rows(folder/'questions.jsonl', questions(40))
    texts = str(folder/'texts.jsonl')
    config = SweepConfig(strategies=['simple', 'middle'], ns=[1, 3], tasks=['c4', 'arc_easy'], max_length=32,
                         sources=dict(c4=texts, arc_easy=str(folder/'questions.jsonl')), calibration=texts)
    model = tiny('llama', 6, **WHO)
    sweep(model, Letters(), config, folder/'run', progress=False)
    return folder, model

@pytest.fixture
def run(made, tmp_path, monkeypatch):
    "A copy to tamper with; the items' files are found from its folder"
    shutil.copytree(made[0], tmp_path/'made')
    monkeypatch.chdir(tmp_path/'made')
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    return tmp_path/'made'/'run'

@pytest.fixture
def judge(made):
    def judge(run, **kw): return verify(run, 1, 7, **dict(model=made[1], tokenizer=Letters(), progress=False) | kw)
    return judge

def tamper(run, lie, **told):
    "Change items (a lie returns what changes in one, or nothing); the table agrees with them, but for what is told"
    items = pq.read_table(run/'items.parquet').cast(_arrow_schema()).to_pylist()
    for o in items: o |= lie(o) or {}
    table = pd.read_csv(run/'results.csv', dtype=str, keep_default_na=False)
    for i, o in table.iterrows():
        own = [x for x in items if (x['strategy'], x['n'], x['task']) == (o.strategy, int(o.n), o.task)]
        if o.k:
            k, n = sum(x['picked'] == x['answer'] for x in own), len(own)
            numbers = dict(k=k, value=k / n, **dict(zip(('low', 'high'), wilson(k, n))))
        else:
            value = ratio_interval(*([x[c] for x in own] for c in ('loss', 'tokens')))
            numbers = dict(zip(('value', 'low', 'high'), value), normalized=value[0] / np.log(int(o.vocab)))
        table.loc[i, [*numbers]] = [str(v) for v in numbers.values()]
    if lie is layers: table['layers'] = table.layers.replace('4', '1')
    for x in items: x['n'] = int(told.get('n', 3)) if (x['n'], x['task']) == (3, 'arc_easy') else x['n']
    where = (table.n == '3') & (table.task == 'arc_easy')
    for k in told: table.loc[where, k] = told[k]
    table.to_csv(run/'results.csv', index=False)
    pq.write_table(pa.Table.from_pylist(items, schema=_arrow_schema()), run/'items.parquet')

def flipped(o):  # the right choice to the top, in the log-probabilities as well
    if o['task'] == 'arc_easy' and o['n'] == 3:
        values, p, a = o['logprobs'], o['picked'], o['answer']
        values[p], values[a] = values[a], values[p]
        return dict(picked=a)

def picks(o): return dict(picked=o['answer']) if o['task'] == 'arc_easy' else None
def lowered(o): return dict(loss=o['loss'] * .98) if o['task'] == 'c4' and o['n'] == 1 else None
def layers(o): return None
def other_set(o): return dict(answer=3 - o['answer']) if o['task'] == 'arc_easy' else None
def nothing(o): return None

@pytest.mark.parametrize('lie, told', [
    *((lie, {}) for lie in (flipped, picks, lowered, layers, other_set)), (picks, dict(metric='per_token')),
    *((nothing, {k: v}) for k, v in dict(value='0.9', high='0.99', baseline='0.1', majority='0.2', n='5',
                                         fraction_layers='0.9').items())])
def test_a_lie_is_rejected(run, judge, lie, told):
    "In the items, or in a table that says something else than its items"
    tamper(run, lie, **told)
    assert judge(run).verdict == 'rejected'

def test_an_honest_run_is_confirmed_and_goes_on_where_it_stopped(run, judge, capsys, monkeypatch):
    tamper(run, nothing)
    found = judge(run)
    assert found.verdict == 'confirmed' and set(found.rows.verdict) == {'confirmed'}, found
    assert found.rows.drawn.eq(found.rows.agreeing).all() and len(found.rows) == 10
    monkeypatch.setattr('prunebook.paper.verify._rescored', None)  # nothing is scored twice
    assert judge(run).rows.equals(found.rows)
    assert set(judge(run, row=['simple', 'arc_easy']).rows.n) == {1, 3}
    monkeypatch.setattr('prunebook.paper.verify.verify', lambda *args, **kw: judge(run))
    assert main(['verify', str(run), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['verdict'] == 'confirmed'
    tamper(run, picks)
    assert main(['verify', str(run)]) == 1 and 'verdict: rejected' in capsys.readouterr().out

def test_healed_rows_are_scored_from_their_adapters_or_healed_again(run, judge, made):
    texts = str(run.parent/'texts.jsonl')
    others = str(write_rows(run.parent/'others.jsonl', [dict(text=o) for o in letter_texts(12, seed=5)]))
    recipe = dict(steps=2, batch_size=2, max_length=16, rank=2, learning_rate=1e-2, bits=32)
    config = SweepConfig(strategies=['simple'], ns=[], healed_ns=[2], tasks=['c4'], max_length=32, healing=recipe,
                         sources=dict(c4=texts), calibration=texts, healing_texts=others)
    sweep(made[1], Letters(), config, run.parent/'healed', progress=False)
    for _ in range(2):
        found = judge(run.parent/'healed', row=['healed'])
        assert found.rows.drawn.tolist() == [12] and found.rows.contradicting.tolist() == [0], found
        shutil.rmtree(run.parent/'healed'/'adapters', ignore_errors=True)

def record(run, change):
    found = json.loads((run/'run.json').read_text())
    change(found)
    (run/'run.json').write_text(json.dumps(found))

HARMS = dict(
    truncated=(lambda run: os.truncate(run/'items.parquet', 999), 'items.parquet'),
    altered=(lambda run: (run.parent/'checksums.txt').write_text(f'{"0" * 64} run/items.parquet\n'), 'checksums.txt'),
    no_run=(lambda run: (run/'run.json').unlink(), 'no run'))
LACKS = dict(
    model=(lambda run: record(run, lambda o: o['model'].update(fingerprint='f00d')), 'another'),
    depth=(lambda run: record(run, lambda o: o['model'].update(depth=7, layer_parameters=[9] * 7)), '7 layers'),
    items=(lambda run: (run/'items.parquet').unlink(), 'no items'),
    task=(lambda run: record(run, lambda o: o['sweeps']['main']['config'].update(tasks=['poetry'])), 'poetry'),
    texts=(lambda run: [o.unlink() for o in run.parent.glob('*.jsonl')], 'jsonl'))

@pytest.mark.parametrize('harm, named', HARMS.values(), ids=HARMS)
def test_what_cannot_be_read_is_refused_in_one_line(run, judge, harm, named, capsys):
    harm(run)
    with pytest.raises(PrunebookError, match=named): judge(run)
    assert main(['verify', str(run), '--no-progress']) == 2 and capsys.readouterr().err.count('\n') == 1

@pytest.mark.parametrize('harm, named', LACKS.values(), ids=LACKS)
def test_what_cannot_be_scored_here_is_not_confirmed(run, judge, harm, named):
    harm(run)
    found = judge(run)
    assert found.verdict == 'not verifiable here' and named in found.reason, found

def test_a_model_that_is_not_at_hand_and_another_tokenizer_confirm_nothing(run, judge, capsys):
    class Backwards(Letters):
        def __call__(self, text, **kw): return super().__call__([o[::-1] + '!' for o in text], **kw)
    assert judge(run, tokenizer=Backwards()).verdict != 'confirmed'
    record(run, lambda o: o['model'].update(name='nowhere/model'))
    assert main(['verify', str(run), '--no-progress']) == 3 and 'nowhere/model' in capsys.readouterr().out

@pytest.mark.thorough
def test_the_numbers_on_a_card_are_confirmed_and_a_lie_on_it_is_rejected(tmp_path, capsys):
    folder, run = tmp_path/'small', str(results/'demo')
    assert main(['prune', 'demo', str(folder), '--n', '4', '--distances', run, '--no-progress']) == 0
    assert '| arc_easy | 0.492 |' in (folder/'README.md').read_text()
    assert main(['check', str(folder), '--claims', run, '--minutes', '.2', '--json']) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.rindex('\n{'):])['claims'] in ('confirmed', 'undecided')
    other = shutil.copytree(run, tmp_path/'other')  # a run of another model says nothing of this one
    record(other, lambda o: o['model'].update(fingerprint='f00d'))
    assert main(['prune', 'demo', str(tmp_path/'no'), '--n', '4', '--distances', str(other), '--no-progress']) == 0
    assert '## Measured' not in (tmp_path/'no'/'README.md').read_text()
    assert main(['check', str(tmp_path/'no'), '--claims', run]) == 2
    config = json.loads((folder/'config.json').read_text())
    config['prunebook']['measured']['rows'][0]['value'] -= .05
    (folder/'config.json').write_text(json.dumps(config))
    assert main(['check', str(folder), '--claims', run]) == 1 and 'something else' in capsys.readouterr().out

def test_a_kind_of_score_of_ones_own_is_not_compared(run, judge, monkeypatch):
    class Own(ChoiceTask): metric = 'own'
    usual = TASKS['arc_easy']
    monkeypatch.setitem(TASKS, 'arc_easy', Own(**{o.name: getattr(usual, o.name) for o in fields(usual)}))
    assert set(judge(run, row=['arc_easy']).rows.verdict) == {'not verifiable here'}

def test_runs_without_such_rows_are_left_out(run, judge, monkeypatch, capsys):
    shutil.copytree(run, run.parent/'second')
    table = pd.read_csv(run/'results.csv', dtype=str, keep_default_na=False)
    table[table.strategy != 'middle'].to_csv(run/'results.csv', index=False)
    seen = []
    def verified(folder, minutes, seed, claim, row):
        seen.append(Path(folder).name)
        return judge(folder, row=row, **dict(model='nowhere/model') if len(seen) == 2 else {})
    monkeypatch.setattr('prunebook.paper.verify.verify', verified)
    assert verify_runs(run.parent, row=['middle'])['verdict_of'] == '1 of 1 runs' and seen == ['second']
    seen.clear()
    found = verify_runs(run.parent, row=['simple'])
    assert seen == ['run', 'second'], found
    assert found['verdict'] == 'undecided', found
    assert found['verdict_of'] == '1 of 2 runs', found
    for asked, named in ((dict(row=['poetry']), 'poetry'), (dict(claim='C2'), 'distances')):
        with pytest.raises(PrunebookError, match=named): verify_runs(run.parent, **asked)

@pytest.mark.parametrize('shift, verdict', [(0, 'not verifiable here'), (.01, 'rejected')])
def test_a_healed_card_is_not_rejected_for_its_weights(run, tmp_path, shift, verdict):
    "The run's numbers are of the cut before healing, so the weights differ, unless the card does not quote the run"
    measured = measured_cut(run, [4])
    measured['rows'][0]['value'] += shift
    small = prune_model(tiny('llama', 6, **WHO), [4], record=dict(measured=measured))
    healed = small.config.prunebook | dict(healed=dict(steps=1))
    assert '--claims' in model_card(small.config.prunebook) and '--claims' not in model_card(healed)
    (tmp_path/'config.json').write_text(json.dumps(dict(prunebook=healed)))
    assert verify_card(tmp_path, run).verdict == verdict

@pytest.mark.parametrize('drawn, size, word', [(150, 500, 'undecided'), (192, 500, 'confirmed'), (64, 64, 'confirmed')])
def test_the_word_on_a_single_row_is_that_of_the_row(drawn, size, word):
    counts = np.array([[drawn, 0, 0, 0, 0, 0]])
    said, _, words, _ = _verdict(pd.DataFrame(dict(count=[size])), counts, drawn, {}, {}, False)
    assert said == words[0] == word

def test_the_rule_keeps_its_promise():
    rng, rejected = np.random.default_rng(0), 0  # as many contradictions as are allowed, looked at after every item
    for _ in range(500):
        seen = np.eye(6, dtype=int)[rng.choice(6, (3, 200), p=_HONEST)].cumsum(1)
        rejected += any(is_rejected(seen[:, i]) for i in range(200))
    assert rejected <= 12  # 1 % of 500, and more than three standard deviations
    assert at_most(150, 0, 10**4) < .02 < at_most(140, 0, 10**4) and at_most(30, 0, 30) == 0
    assert deviation([-3., -8.], [-3., -8.3]) == pytest.approx(.3 / 11.3)

@pytest.mark.parametrize('run, sweeps, task', [
    *(('demo', ('similarity', 'healed-base'), o) for o in ('arc_easy', 'piqa')),
    *(('qwen2.5-coder-1.5b', ('cuts', 'healed-simple-fine'), o) for o in ('mmlu', 'boolq', 'arc_easy'))])
def test_an_honest_row_that_was_scored_twice_is_confirmed(run, sweeps, task):
    "On two processors, or by an older version of the library; looked at after every item"
    items = pd.read_parquet(results/run/'items.parquet').query('n == 0 and not healed and task == @task')
    a, b = (items[items.sweep == o].sort_values('index') for o in sweeps)
    said = [word_of(deviation(x.logprobs, y.logprobs), TOLERANCE['choice']['bfloat16'], x.picked != y.picked,
                    x.picked == x.answer != y.picked) for x, y in zip(a.itertuples(), b.itertuples())]
    seen = np.eye(len(WORDS), dtype=int)[said].cumsum(0)
    assert len(said) >= 500
    assert not any(is_rejected(o[None]) for o in seen)
    assert is_confirmed(seen[-1], len(said))

def test_the_kept_runs_have_their_checksums():
    lines = [o.split() for o in (results/'checksums.txt').read_text().splitlines()]
    assert [o for o in lines if o[0] != sha256((results/o[1]).read_bytes()).hexdigest()] == [], 'write it anew'

# the book

LINE = re.compile(r'prunebook verify nbs/results/(\S+) --(claim|row) (.*?)(?: --minutes|`| *#)')
book = [(p.stem, *o) for p in sorted(results.parent.rglob('*.ipynb')) for o in LINE.findall(p.read_text('utf-8'))]

@pytest.mark.parametrize('page, run, kind, words', book)
def test_the_book_names_rows_that_can_be_verified(page, run, kind, words):
    "Not written, and unhealed or healed so shortly that it is done again"
    rows = _chosen(results/run, words if kind == 'claim' else None, words.split() if kind == 'row' else ())
    def tokens(o): return (c := kept_config(results/run, o.sweep).healing).steps * c.batch_size * c.max_length
    assert any(o.metric != 'generated' and (not o.healed or tokens(o) <= HEAL_AGAIN) for o in rows.itertuples())

def test_a_card_stays_true_when_the_run_grows(tmp_path, monkeypatch):
    "Of a model without a name that a hub knows, the model is given"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    model, tok, run = tiny('llama', 6, **WHO), letter_tokenizer(), tmp_path/'run'
    texts = str(write_rows(tmp_path/'texts.jsonl', [dict(text=o) for o in letter_texts(12)]))
    config = SweepConfig(strategies=['middle'], ns=[2], tasks=['c4'], sources=dict(c4=texts), max_length=32)
    sweep(model, tok, config, run, progress=False)
    cut = prune_model(model, [2, 3], record=dict(measured=measured_cut(run, [2, 3])))
    big, small = save(tmp_path/'big', model, tok), save_pruned(cut, tok, tmp_path/'small')
    judged = lambda: verify_card(small, run, 1, False, str(big))
    assert (before := judged()).verdict != 'rejected' and len(before.rows)
    more = config.replace(tasks=[str(write_rows(tmp_path/'questions.jsonl', questions(9)))], sources={})
    sweep(model, tok, more, run, progress=False, name='a-new-one')
    assert judged().verdict == before.verdict
    edit = json.loads((small/'config.json').read_text())
    edit['prunebook']['measured']['rows'][0]['value'] += .1
    (small/'config.json').write_text(json.dumps(edit))
    assert judged().verdict == 'rejected'
