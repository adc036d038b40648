"The kept tables, computed again: randomly chosen cells, from the model and the texts up. Each run picks other cells; a failure names its cell."
import json, os, random, re
from pathlib import Path
import numpy as np, pytest
from prunebook import LayerStack, SweepConfig, choice_accuracy, heal, kept_score, load_model, load_questions, load_texts, prune_model, read_run, text_loss
from prunebook.data import QUESTION_SETS
from prunebook.claims import FAILS, HOLDS, MISSING, UNSURE, judge_claims, open_run
from prunebook.evaluation import LossScore, Score, generated_accuracy, ratio_interval, wilson
from prunebook.healing import fingerprint
from prunebook.pruning import Plan
from dataclasses import replace

results = Path(__file__).parents[1]/'nbs'/'results'
runs = [o for o in (results/'demo', results/'quick') if any(o.rglob('results.csv'))]
pick = random.SystemRandom()

@pytest.fixture(scope='module')
def demo(): return load_model('demo', dtype='bfloat16')  # as the kept rows are, whatever this machine is fast in

@pytest.fixture(params=runs, ids=lambda o: o.name)
def run(request): return request.param

def configured(run, row): return SweepConfig(**json.loads((run/row.sweep/'sweep.json').read_text())['config'])

def dropped(row): return [int(o) for o in row.layers.split()] if isinstance(row.layers, str) else []

def kept_layers(row, depth): return [l for l in range(depth) if l not in dropped(row)]

HERE = ('demo', 'sums')  # questions that need no folder

def source_of(row, config):
    task = row.task.partition(':')[0]
    return config.sources.get(task, 'demo' if task == 'mmlu' else task)

def items(run, row):
    "The questions of a row, as the sweep loaded them. A folder that is named must have them: only without one is this test skipped"
    config = configured(run, row)
    source, folder = source_of(row, config), os.environ.get('PRUNEBOOK_DATA')
    if source not in HERE and not folder: pytest.skip(f'{row.task} needs its questions: PRUNEBOOK_DATA is not set')
    if source not in HERE: assert os.path.isfile(source) or any(Path(folder).glob(f'{source}*.jsonl')), f'PRUNEBOOK_DATA names {folder}, which has no {source}.jsonl'
    return load_questions(source, n=config.questions_of(row.task), data_dir=folder), config

def examples(row, config):
    "The worked examples that a row was asked with, as keyword arguments"
    if not row.shots: return {}
    source, folder = source_of(row, config), os.environ.get('PRUNEBOOK_DATA')
    split = None if source not in QUESTION_SETS else 'dev' if source == 'mmlu' else 'train'
    named = config.scoring.get('examples')
    given = load_questions(named, data_dir=folder) if isinstance(named, str) else named or load_questions(source, data_dir=folder, split=split)
    return dict(shots=int(row.shots), seed=int(row.shots_seed), examples=given)

def test_every_row_is_what_its_items_say(run):
    "No model: value and interval of each row, from what was kept item by item"
    table = read_run(run)
    for _, row in table.iterrows():
        score = kept_score(run, row)
        want = ratio_interval(score.sums, score.counts) if isinstance(score, LossScore) else (score.right.mean(), *wilson(int(score.right.sum()), score.n))
        np.testing.assert_allclose([row.value, row.low, row.high], want, rtol=1e-9, err_msg=str(row.to_dict()))
        assert score.n == row['count'] and len(dropped(row)) == row.n

def test_the_model_is_the_demo(run, demo):
    assert set(read_run(run).model) == {fingerprint(demo[0])}

def test_the_page_of_claims_shows_these_verdicts():
    "A line that is moved, or a table that grows, must reach the page"
    page = json.loads((results.parent/'paper'/'claims.ipynb').read_text())
    tables = [''.join(o['data']['text/html']) for c in page['cells'] for o in c.get('outputs', []) if 'text/html' in o.get('data', {})]
    html, = [o for o in tables if '<th>verdict</th>' in o]
    verdicts = [o.verdict for o in judge_claims(open_run(runs[0]))]
    assert re.findall(f'<td>({"|".join((HOLDS, FAILS, UNSURE, MISSING))})</td>', html) == verdicts

def test_a_loss(run, demo):
    "Six documents of a random unhealed cut"
    model, tok = demo
    row = pick.choice([o for _, o in read_run(run).iterrows() if o.metric == 'loss' and not o.healed])
    config, score = configured(run, row), kept_score(run, row)
    texts = load_texts(config.sources.get('c4', 'demo'), split='validation', n=config.n_texts)
    some = pick.sample(range(score.n), 6)
    with LayerStack(model).view(kept_layers(row, row.depth)) as small: again = text_loss(small, tok, [texts[score.index[i]] for i in some], config.max_length, progress=False)
    where = f'{run.name}: {row.sweep} {row.strategy} n={row.n}, documents {some}'
    assert again.counts == [score.counts[i] for i in some], where
    np.testing.assert_allclose(again.sums, [score.sums[i] for i in some], rtol=.02, err_msg=where)  # 16 bits, other batches

def damaged(run, row):
    "Is the loss of this cut more than twice the whole model's? In 16 bits the scores of such a one hang on the batch: now and then one is nats away"
    losses = read_run(run).query('task == "c4" and not healed')
    own = losses[(losses.layers == row.layers) & (losses.n == row.n)]
    return row.n > 0 and (own.empty or own.value.iloc[0] > 2 * losses[losses.n == 0].value.iloc[0])

def test_a_choice(run, demo):
    "Eight questions of a random unhealed cut"
    model, tok = demo
    rows = [o for _, o in read_run(run).iterrows() if o.metric in ('likelihood', 'letter') and not o.healed and (o.source == 'demo' or os.environ.get('PRUNEBOOK_DATA'))]
    if not rows: pytest.skip('the questions of this run are needed: PRUNEBOOK_DATA is not set')
    row = pick.choice(rows)
    (questions, config), score = items(run, row), kept_score(run, row)
    some = pick.sample(range(score.n), 8)
    with LayerStack(model).view(kept_layers(row, row.depth)) as small: again = choice_accuracy(small, tok, [questions[i] for i in some], row.metric, progress=False, **examples(row, config))
    where = f'{run.name}: {row.sweep} {row.task} {row.strategy} n={row.n}, {row.shots} examples, questions {some}'
    assert again.answers == [score.answers[i] for i in some], where
    near = lambda mine, kept: np.allclose(mine, kept, rtol=.03, atol=.3)
    sure = [i for i, mine in zip(some, again.logprobs) if near(mine, score.logprobs[i])]
    assert len(sure) >= 8 - 2 * damaged(run, row), f'{where}: {again.logprobs}'
    for i, mine in zip(some, again.logprobs):
        if i in sure and np.diff(np.sort(score.logprobs[i])[-2:])[0] > 1: assert np.argmax(mine) == score.picked[i], where

@pytest.mark.slow
def test_a_generated_answer(run, demo):
    model, tok = demo
    rows = [o for _, o in read_run(run).iterrows() if o.metric == 'generated' and not o.healed]
    if not rows: pytest.skip('no generated task in this run')
    row = pick.choice(rows)
    (questions, config), score = items(run, row), kept_score(run, row)
    some = pick.sample(range(score.n), 4)
    with LayerStack(model).view(kept_layers(row, row.depth)) as small: again = generated_accuracy(small, tok, [questions[i] for i in some], progress=False, **examples(row, config), **{k: v for k, v in config.scoring.items() if k == 'max_new_tokens'})
    assert [a[:20] == score.written[i][:20] for a, i in zip(again.written, some)].count(True) >= 3, f'{row.task} {row.strategy} n={row.n}, questions {some}'

@pytest.mark.slow
def test_a_healed_loss(run, demo):
    "Healed again from the start: the shortest healing of the run, a random cut of it"
    model, tok = demo
    rows = [o for _, o in read_run(run).iterrows() if o.metric == 'loss' and o.healed]
    if not rows: pytest.skip('nothing was healed in this run')
    row = pick.choice([o for o in rows if o.healing_tokens == min(r.healing_tokens for r in rows)])
    config = configured(run, row)
    small = prune_model(model, Plan(tuple(dropped(row)), row.depth, row.strategy))
    healed = heal(small, tok, load_texts(config.healing_texts, split='healing'), replace(config.healing, seed=int(row.seed)), progress=False, teacher=model).model
    again = text_loss(healed, tok, load_texts('demo', split='validation', n=config.n_texts), config.max_length, progress=False).value
    assert abs(again - row.value) < .03 * row.value, f'{run.name}: {row.sweep} {row.strategy} n={row.n} seed {row.seed}: kept {row.value}, now {again}'
