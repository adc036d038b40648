"Sharing prefixes must change nothing but the time; a sweep that is killed must end as if it had not been."
import json, random, time
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from prunebook.data import load_questions
from prunebook.evaluation import Score, load_score, text_loss
from prunebook.stack import Block, LayerStack, PrunebookError
from prunebook.similarity import LayerDistances, layer_distances
from dataclasses import asdict, replace
from prunebook.sweep import LossMap, SweepConfig, critical_fraction, cut_losses, judge_distances, loss_map, share_prefixes, sweep

KINDS = dict(llama={}, qwen3=dict(head_dim=8, num_key_value_heads=2), gemma3_text=dict(head_dim=8, num_key_value_heads=2, sliding_window=6, final_logit_softcapping=5.),
    gpt_neox={}, gpt2={}, phi={}, opt=dict(ffn_dim=64, word_embed_proj_dim=32), falcon={}, mixtral={})

class Letters:
    "A tokenizer of single characters: no file, no network"
    pad_token_id, eos_token_id = 0, 2
    def get_vocab(self): return {chr(32 + i): i for i in range(99)}
    def __call__(self, text, **kw): return dict(input_ids=[[3 + ord(c) % 90 for c in o] for o in text] if not isinstance(text, str) else [3 + ord(c) % 90 for c in text])
    def batch_decode(self, ids, **kw): return [''.join(chr(32 + i % 90) for i in o) for o in ids]

def tiny(kind, layers=6, **more):
    torch.manual_seed(0)
    kw = dict(num_hidden_layers=layers, hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=64, vocab_size=99,
              max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=.3) | KINDS[kind] | more
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **kw)).eval()

def texts(n=7):
    r = random.Random(0)
    return [''.join(r.choice('abcdefgh ij') for _ in range(r.randrange(3, 40))) for _ in range(n)]

@pytest.mark.parametrize('kind', KINDS)
def test_shared_equals_plain(kind):
    model, depth = tiny(kind), 6
    stack, before = LayerStack(model), tiny(kind).state_dict()
    cuts = [[]] + [list(Block(l, n)) for n in range(1, depth) for l in range(depth - n + 1)] + [[0, 2], [1, 3], [2, 4]]
    keeps = [[l for l in range(depth) if l not in c] for c in cuts]
    config = model.config.to_json_string()
    shared = cut_losses(model, Letters(), texts(), keeps, max_length=32, batch_tokens=64, progress=False)
    for k, s in zip(keeps, shared):
        with stack.view(k) as small: plain = text_loss(small, Letters(), texts(), max_length=32, batch_tokens=64, progress=False)
        np.testing.assert_allclose(s.sums, plain.sums, rtol=2e-5)
    assert len({round(s.value, 4) for s in shared}) > len(cuts) // 2, 'the cuts differ, so equality says something'
    assert model.config.to_json_string() == config
    for k, v in model.state_dict().items(): assert torch.equal(v, before[k])
    assert not any('forward' in m.__dict__ for m in model.modules())

def test_layers_run_are_what_the_tree_says():
    model, count = tiny('llama'), [0]
    for l in LayerStack(model).layers: l.self_attn.register_forward_hook(lambda *a: count.__setitem__(0, count[0] + 1))
    keeps = [[l for l in range(6) if l not in range(s, s + n)] for n in range(1, 6) for s in range(6 - n + 1)]
    cut_losses(model, Letters(), texts(), keeps, progress=False)
    assert count[0] == sum(o.applications for o in share_prefixes(keeps)) < sum(map(len, keeps))

def test_both_paper_strategies_of_a_stack_of_thirty():
    # the demo model's own l*(n), measured on calibration texts
    star = [14, 13, 13, 12, 11, 13, 12, 11, 10, 9, 9] + [3] * 8 + [2] * 4 + [1] * 4 + [0, 0]
    cuts = [[]] + [range(l, l + n) for n, l in enumerate(star, 1)] + [range(29 - n, 29) for n in range(1, 30)]
    keeps = [[i for i in range(30) if i not in c] for c in cuts]
    assert (sum(map(len, keeps)) + 30) / sum(o.applications for o in share_prefixes(keeps)) >= 2.8

def test_memory_budget_changes_batches_not_losses():
    model = tiny('llama')
    keeps = [list(range(6)), [0, 1, 5], [0, 1, 2, 5]]
    a, b = (cut_losses(model, Letters(), texts(), keeps, max_length=32, memory=m, progress=False) for m in (1., 1e-9))
    for s, t in zip(a, b): np.testing.assert_allclose(s.sums, t.sums, rtol=1e-5)

def test_partial_sums_are_taken_up(tmp_path):
    model, keeps = tiny('llama'), [[0, 1], [0, 1, 2, 5]]
    whole = cut_losses(model, Letters(), texts(), keeps, batch_tokens=40, max_length=40, progress=False, partial=tmp_path/'p.json')
    kept = json.loads((tmp_path/'p.json').read_text())
    kept['sums'] = [[None if i > 2 else v for i, v in enumerate(r)] for r in kept['sums']]
    (tmp_path/'p.json').write_text(json.dumps(kept))
    again = cut_losses(model, Letters(), texts(), keeps, batch_tokens=40, max_length=40, progress=False, partial=tmp_path/'p.json')
    assert [s.sums for s in whole] == [s.sums for s in again]

def test_wrong_cuts_are_refused():
    for keeps in ([], [[]], [[0, 0]], [[9]]):
        with pytest.raises(PrunebookError): cut_losses(tiny('llama'), Letters(), texts(), keeps, progress=False)

def test_nan_weights_are_refused():
    model = tiny('llama')
    with torch.no_grad(): LayerStack(model).layers[4].self_attn.o_proj.weight.fill_(float('nan'))
    with pytest.raises(PrunebookError, match='not a number'): cut_losses(model, Letters(), texts(), [[0, 1, 2, 3, 4, 5]], progress=False)
    assert np.isfinite(cut_losses(model, Letters(), texts(), [[0, 1, 2, 3, 5]], progress=False)[0].value)

def questions(n=12):
    r = random.Random(1)
    return [dict(question=f'What is {r.randrange(99)}', choices=[r.choice('abc') * r.randrange(1, 4) + str(j) for j in range(4)], answer=r.randrange(4)) for _ in range(n)]

@pytest.fixture
def data(tmp_path):
    "Files for a sweep of the tiny model"
    for name, rows in (('texts', [dict(text=o) for o in texts()]), ('questions', questions())):
        (tmp_path/f'{name}.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return tmp_path

def config(data, **kw):
    src = dict(c4=str(data/'texts.jsonl'), mmlu=str(data/'questions.jsonl'))
    return SweepConfig(**dict(ns=[1, 3], sources=src, calibration=src['c4'], healing_texts=src['c4'], n_calibration=5, max_length=32) | kw)

def test_sweep_resumes_and_refuses(data):
    model, c = tiny('llama', max_position_embeddings=256), config(data, strategies=['similarity', 'simple', 'random', 'greedy', 'block_influence'], seeds=[0, 1])
    table = sweep(model, Letters(), c, data/'run', progress=False)
    assert len(table) == 2 + (4 + 2) * 2 * 2
    assert not table.duplicated(['strategy', 'n', 'healed', 'seed', 'task']).any()
    assert ((table.low <= table.value) & (table.value <= table.high)).all()
    pd.testing.assert_frame_equal(table, sweep(model, Letters(), c, data/'run', progress=False))
    row = table[(table.strategy == 'simple') & (table.n == 3) & (table.task == 'mmlu')].iloc[0]
    assert row.layers == '2 3 4' and row.fraction_layers == .5 and 0 < row.fraction_params < .5
    kept = load_score(data/'run'/'scores'/'simple-3-False-0-mmlu.json')
    assert isinstance(kept, Score) and kept.k == row.k == kept.right.sum()
    asked = json.loads((data/'run'/'sweep.json').read_text())
    del asked['config']['memory'], asked['config']['healing']['gradient_checkpointing']  # as a version kept it that did not know them
    (data/'run'/'sweep.json').write_text(json.dumps(asked))
    pd.testing.assert_frame_equal(table, sweep(model, Letters(), c, data/'run', progress=False))
    go_on = lambda **kw: sweep(model, Letters(), config(data, strategies=c.strategies, seeds=c.seeds, healing=kw), data/'run', progress=False)
    pd.testing.assert_frame_equal(table, go_on(**asdict(c.healing) | dict(gradient_checkpointing=True)))  # it changes no number
    with pytest.raises(PrunebookError, match='otherwise: healing'): go_on(rank=3)
    with pytest.raises(PrunebookError, match='ns'): sweep(model, Letters(), config(data, ns=[1]), data/'run', progress=False)
    other = tiny('llama', max_position_embeddings=256)
    with torch.no_grad(): LayerStack(other).layers[0].self_attn.q_proj.weight.mul_(2)
    with pytest.raises(PrunebookError, match='the model'): sweep(other, Letters(), c, data/'run', progress=False)
    with pytest.raises(PrunebookError, match='drop from 1 to 5'): sweep(model, Letters(), config(data, ns=[6]), data/'other', progress=False)

def test_questions_by_task(data):
    "Two tasks, one cut down and one asked whole; a file that names a task that is not asked is refused"
    q, c = str(data/'questions.jsonl'), config(data, strategies=['simple'], ns=[1], healed_ns=[1], tasks=['mmlu', 'boolq'], healing=dict(steps=1, batch_size=1, max_length=16, bits=32))
    c.sources['boolq'] = q
    c = replace(c, n_questions=dict(mmlu=3))
    table = sweep(tiny('llama', max_position_embeddings=256), Letters(), c, data/'run', progress=False)
    whole = len(load_questions(q))
    assert table.groupby('task')['count'].unique().map(list).to_dict() == dict(mmlu=[3], boolq=[whole]) and whole > 3
    c.save(data/'c.json')
    assert SweepConfig.load(data/'c.json') == c
    for wrong, said in ((dict(c4=3), 'c4'), (dict(mmlu=0), 'dict of them by task'), (dict(mmlu=True), 'dict of them by task')):
        with pytest.raises(PrunebookError, match=said): replace(c, n_questions=wrong)

def test_loss_map_of_every_block():
    model, stack = tiny('llama'), LayerStack(tiny('llama'))
    m = loss_map(model, Letters(), texts(), max_length=32, progress=False)
    for l, n in [(0, 1), (2, 3), (5, 1), (1, 5)]:
        with stack.view([i for i in range(6) if i not in range(l, l + n)]) as small: want = text_loss(small, Letters(), texts(), max_length=32, progress=False).value
        assert abs(m.loss[l, l + n] - want) < 1e-5
    assert len(m.to_frame()) == 1 + sum(6 - n + 1 for n in range(1, 6))
    assert m.info['layers_run'] < m.info['layers_plain']
    assert m.loss[m.best_block(2).start, m.best_block(2).stop] == np.diagonal(m.loss, 2).min()
    judged = judge_distances(m, layer_distances(model, Letters(), texts(), max_length=32, progress=False))
    assert list(judged.n) == [1, 2, 3, 4, 5] and (judged.price >= 0).all()
    for n in (0, 6):
        with pytest.raises(PrunebookError, match='has not all blocks of that size'): m.best_block(n)
    with pytest.raises(PrunebookError, match='has not all blocks of that size'): loss_map(model, Letters(), texts(2), max_length=32, ns=[2], progress=False).best_block(3)
    with pytest.raises(PrunebookError, match='a map of 6 layers and distances of 4'): judge_distances(m, layer_distances(tiny('llama', layers=4), Letters(), texts(), max_length=32, progress=False))

def test_a_fair_price_of_blocks_that_are_all_alike_is_nothing():
    "Forty-nine blocks and twelve documents whose losses are chance: the least of many looks cheap on the documents that chose it, and not on others"
    r, depth, docs = np.random.default_rng(0), 50, 12
    price, fair = [], []
    for _ in range(40):
        sums = np.full((depth + 1, depth + 1, docs), np.nan)
        sums[range(depth), range(1, depth + 1)] = r.normal(300, 30, (depth, docs))
        grid = sums.sum(-1) / (100 * docs)
        far = np.abs(np.subtract.outer(np.arange(depth + 1), np.arange(depth + 1))) / depth
        far[0, 1] = far[1, 0] = 0
        row, = judge_distances(LossMap(grid, sums, [100] * docs, {}), LayerDistances(far, far * .01, 9)).to_dict('records')
        assert row['l_star'] == 0
        price.append(row['price']); fair.append(row['fair'])
    assert np.mean(price) > .1 and abs(np.mean(fair)) < 3 * np.std(fair) / 40**.5
    assert np.isnan(judge_distances(LossMap(grid, sums[..., :3], [100] * 3, {}), LayerDistances(far, far * .01, 9)).fair).all()

def curve(k, n=400): return pd.DataFrame(dict(task='t', fraction_layers=np.arange(len(k)) / 12, k=pd.array(k, 'Int64'), count=n))

def test_bend_is_found_and_refused():
    bent = critical_fraction(curve([300, 302, 299, 301, 300, 298, 230, 170, 110]), resamples=200)
    assert .3 < bent.low < bent.value < bent.high < .55 and bent.p < .02
    assert critical_fraction(curve([300, 285, 268, 256, 240, 224, 210, 196, 180]), resamples=200).p > .05
    with pytest.raises(PrunebookError, match='five'): critical_fraction(curve([3, 2, 1]))
    with pytest.raises(PrunebookError, match='one curve'): critical_fraction(pd.concat([curve([3] * 6), curve([3] * 6)]))

def _child(data, out):
    torch.set_num_threads(1)
    c = config(data, ns=[1, 2, 3], healed_ns=[2], healing=dict(steps=2, batch_size=2, max_length=16, rank=2, deterministic=False))
    sweep(tiny('llama', max_position_embeddings=256), Letters(), c, out, progress=False)

@pytest.mark.slow
def test_killed_at_random_times_ends_with_the_same_table(data):
    "SIGKILL, which nothing can catch, at 20 random times"
    import multiprocessing as mp
    ctx = mp.get_context('forkserver')
    ctx.set_forkserver_preload(['prunebook.sweep', 'test_sweep', 'peft'])
    def run(out, after=None):
        p = ctx.Process(target=_child, args=(data, out))
        p.start(); p.join(after)
        alive = p.is_alive()
        p.kill(); p.join()
        return alive, p.exitcode
    run(data/'warm')
    start = time.time()
    assert run(data/'whole') == (False, 0)
    T, r, kills, folder = time.time() - start, random.Random(0), 0, 0
    columns = ['strategy', 'n', 'healed', 'seed', 'task', 'metric', 'value', 'low', 'high', 'k', 'count', 'layers']
    table = lambda out: pd.read_csv(data/out/'results.csv', float_precision='round_trip')[columns].sort_values(columns[:5]).reset_index(drop=True)
    while kills < 20:
        alive, code = run(data/f'killed{folder}', r.uniform(.1, .8) * T)
        kills += alive
        if not alive:
            assert code == 0
            pd.testing.assert_frame_equal(table(f'killed{folder}'), table('whole'))
            folder += 1
    assert run(data/f'killed{folder}') == (False, 0)
    pd.testing.assert_frame_equal(table(f'killed{folder}'), table('whole'))
