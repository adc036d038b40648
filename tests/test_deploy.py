"""Served elsewhere: what the rules say about other stacks, tested by running these stacks on random models; the choice
of layers that stays right there; `prunebook check --serve`. Stacks that are not installed are skipped."""
import json
from functools import cache
import numpy as np, pytest, torch
from prunebook import PrunebookError, choose_layers, prune_checkpoint, prune_model
from prunebook.pruning.checkpoint import write_model
from prunebook.cli import main
from prunebook.serving.stacks import RUNNERS, agreement_of, serving_report, transformers_scores
from prunebook.pruning.budget import restriction
from prunebook.serving.rules import SERVED, served_by, serving_verdict
from prunebook.similarity.distances import LayerDistances
from support.tiny import save, tiny, word_tokenizer

WINDOW = dict(sliding_window=8)
MIXED = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
             shared_expert_intermediate_size=16, decoder_sparse_step=1)
LINEAR = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
GEMMA = dict(WINDOW, head_dim=8, num_key_value_heads=2)
FAMILIES = dict(
    llama=(8, 3, {}), mistral=(8, 3, WINDOW), qwen2=(8, 3, {}), qwen3=(8, 3, dict(head_dim=8)),
    gemma2=(9, 2, GEMMA | dict(query_pre_attn_scalar=8)), gemma3_text=(13, 6, GEMMA | dict(query_pre_attn_scalar=8)),
    gemma4_text=(12, 6, GEMMA | dict(hidden_size_per_layer_input=0, num_kv_shared_layers=0)),
    gpt_oss=(9, 2, GEMMA | MIXED), cohere2=(9, 4, WINDOW), smollm3=(9, 4, {}),
    qwen3_next=(9, 4, MIXED | LINEAR | dict(head_dim=8)))
"Model type: depth, period (or any number, where nothing is counted), and fields of the config"
CASES = [(f, n) for f, (_, period, _) in FAMILIES.items() for n in (0, 1, 2, period)]
QUICK = {('gemma3_text', 2), ('gemma3_text', 6), ('cohere2', 1), ('qwen3', 2)}
cases = [pytest.param(*o, marks=[] if o in QUICK else pytest.mark.slow) for o in dict.fromkeys(CASES)]

def needs(stack):
    "Marks a test that runs a stack"
    there = pytest.mark.skipif(not RUNNERS[stack].installed, reason=f'needs the extra {RUNNERS[stack].extra}')
    return lambda test: pytest.mark.extra(there(test))

def wide_awake(model):
    "Larger weights, so that attention has an effect in an untrained model"
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1: p *= 3
    return model

@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    "`pruned(family, n)`: a folder with a random model of a family without `n` layers from layer 1 on"
    @cache
    def make(family, n):
        depth, _, fields = FAMILIES[family]
        model = wide_awake(tiny(family, layers=depth, **fields))
        small = prune_model(model, range(1, 1 + n)) if n else model
        folder = tmp_path_factory.mktemp(f'{family}-{n}')/'model'
        write_model(small, word_tokenizer(), folder)
        return folder
    return make

def without(drop, depth): return [i for i in range(depth) if i not in drop]

# ---- the table

def test_other_verdicts():
    oss = dict(model_type='gpt_oss', num_hidden_layers=8)
    assert [serving_verdict(oss, 'vllm', without(o, 8)).status for o in ([2], [2, 3])] == ['differs', 'same']
    assert 'Texts up to 128 tokens' in serving_verdict(oss, 'vllm', without([2], 8)).why
    smol = dict(model_type='smollm3', num_hidden_layers=8)
    assert [serving_verdict(smol, o, without([2], 8)).status for o in SERVED if o != 'mlx'] == ['differs', 'same']
    linear = dict(model_type='qwen3_next', num_hidden_layers=8)
    assert 'does not load' in serving_verdict(linear, 'mlx', without([2], 8)).why
    assert serving_verdict(dict(model_type='qwen3_5_text', num_hidden_layers=8), 'mlx').status == 'not supported'
    assert serving_verdict(dict(model_type='rwkv', num_hidden_layers=8), 'mlx', [0, 1]).status == 'unknown'

# ---- the rules against the stacks

@needs('mlx')
@pytest.mark.parametrize('family, n', cases)
def test_rules_against_mlx(pruned, family, n): against('mlx', pruned(family, n))

@needs('llama.cpp')
@pytest.mark.parametrize('stack', ['llama.cpp', 'llama.cpp-mended'])
@pytest.mark.parametrize('family, n', cases)
def test_rules_against_llama_cpp(pruned, stack, family, n): against(stack, pruned(family, n))

def against(stack, folder):
    "The rule's verdict is what running the stack shows"
    config, ids = json.loads((folder/'config.json').read_text()), np.random.default_rng(0).integers(3, 99, 60).tolist()
    rule = serving_verdict(config, stack)
    try: found = agreement_of(transformers_scores(folder, ids), RUNNERS[stack].scores(folder, ids))
    except PrunebookError as e:
        assert 'does not load' in rule.why or rule.status == 'not supported', f'{e} / {rule}'
        return
    assert (found.largest < .02) == (rule.status == 'same'), f'{rule} / {found}'  # a wrong kind: .05 and more

# ---- choosing

def test_choose_layers_for_a_stack():
    "The deeper a block of 18 layers starts, the cheaper, but the best block of two starts at 10"
    mean = np.array([[max(0, stop - start) * (20 - start) / 400 for stop in range(19)] for start in range(19)])
    mean[10, 12] = .001
    how = dict(n=2, distances=LayerDistances(mean, np.zeros_like(mean), 10))
    gemma = dict(model_type='gemma3_text', num_hidden_layers=18)
    def to(*stacks): return dict(allowed=served_by(stacks, gemma))
    assert choose_layers('similarity', **how).layers == (10, 11)
    plan = choose_layers('similarity', **how, **to('mlx', 'llama.cpp'))
    assert plan.layers == (16, 17)
    record = plan.details['allowed']
    assert record['by'] == 'mlx, llama.cpp' and record['unrestricted'] == [10, 11]
    assert record['distance'] == dict(unrestricted=mean[10, 12], chosen=mean[16, 18])
    assert plan.details['distance'] == mean[16, 18] and '16-17 instead of 10-11' in restriction(plan)
    json.dumps(plan.details)
    assert choose_layers('similarity', **how, **to('llama.cpp-mended')).layers == (10, 11)
    assert restriction(choose_layers('similarity', **how | dict(n=6), **to('mlx'))) == ''
    with pytest.raises(PrunebookError, match="unknown: There is no rule for the model type 'gpt2'"):
        served_by('vllm', dict(model_type='gpt2', n_layer=12))

def test_choose_by_loss_for_a_stack():
    "The loss of both cuts is in the record"
    model = tiny('gemma3_text', layers=8)
    how = dict(model=model, loss=lambda m: 10. + len(m.model.layers), progress=False)
    allowed = served_by('mlx', model.config)
    assert allowed.fits(choose_layers('greedy', n=3, allowed=allowed, **how).keep)
    free, plan = (choose_layers('best_loss', n=2, allowed=o, **how) for o in (None, allowed))
    assert allowed.fits(plan.keep) and not allowed.fits(free.keep)
    assert plan.details['allowed']['loss'] == dict(unrestricted=16., chosen=16.)

@pytest.mark.parametrize('n', range(1, 6))
def test_a_predicate_of_your_own_gets_the_cheapest_block(n):
    mean, ends = np.random.default_rng(n).random((9, 9)), lambda keep: {0, 7} <= set(keep)
    found, costs = LayerDistances(mean, np.zeros_like(mean), 10), 1 - np.cos(np.pi * np.diagonal(mean, 1))
    plan = choose_layers('block_influence', n=n, distances=found, allowed=lambda keep: keep == [0, *keep[1:-1], 7]
                         and np.ptp(without(keep, 8)) == n - 1)
    assert ends(plan.keep) and sum(costs[i] for i in plan) == pytest.approx(
        min(costs[o:o + n].sum() for o in range(1, 8 - n)))

# ---- pruning, cards, exports

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "An unpruned Gemma 3, and two cuts of it"
    root = tmp_path_factory.mktemp('gemma')
    save(root/'unpruned', wide_awake(tiny('gemma3_text', layers=13, **GEMMA, query_pre_attn_scalar=8)))
    for name, drop in dict(two='3-4', six='3-8').items():
        prune_checkpoint(root/'unpruned', root/name, drop, progress=False)
    return root

def test_pruning_warns_and_the_card_says_so(folders, tmp_path, caplog):
    how = ['prune', str(folders/'unpruned'), str(tmp_path/'a'), '--no-progress', '--drop']
    assert main([*how, '3-4']) == 0
    [said] = [o.getMessage() for o in caplog.records]
    assert 'llama.cpp (plain conversion), MLX' in said
    assert '\n' not in said
    assert '`prunebook export` mends it' in said
    assert '| Serving | llama.cpp: differs, mlx: differs, vllm: same (' in (tmp_path/'a'/'README.md').read_text()
    caplog.clear()
    assert main([*how, '3-8', '--force', '--in-memory']) == 0 and not caplog.records
    assert '| Serving | llama.cpp: same, mlx: same, vllm: same (' in (tmp_path/'a'/'README.md').read_text()

# ---- the report and the command

def test_check_says_what_is_served(folders, capsys):
    stacks = ['--serve', 'llama.cpp', 'mlx', 'vllm']
    assert main(['check', str(folders/'two'), '--files-only', '--json', *stacks]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [v['status'] for v in found['serving'].values()] == ['differs', 'differs', 'same']
    assert found['problems'] == [] and 'gemma3_text.py' in found['serving']['mlx']['source']
    assert main(['check', str(folders/'six'), '--files-only', *stacks]) == 0
    assert main(['check', str(folders/'two'), '--files-only', '--serve', 'vllm', 'llama.cpp-mended']) == 0

def test_a_full_disk_is_no_verdict(folders, monkeypatch):
    runner = type('Runner', (), dict(versions=lambda self: 'x 1', scores=lambda *a: pytest.fail('ran')))
    monkeypatch.setitem(RUNNERS, 'llama.cpp', runner())
    monkeypatch.setattr('shutil.disk_usage', lambda place: type('usage', (), dict(free=10)))
    with pytest.raises(PrunebookError, match='GB free'): serving_report(folders/'six', 'llama.cpp')

def test_prune_for_a_stack(folders, tmp_path, capsys):
    how = ['prune', str(folders/'unpruned'), str(tmp_path/'out'), '--no-progress', '--serve', 'mlx', 'llama.cpp']
    assert main([*how, '--drop', '3-4']) == 2 and 'cannot go without a change' in capsys.readouterr().err
    assert not (tmp_path/'out').exists()
    assert main([*how, '--n', '1', '--strategy', 'simple']) == 2 and 'Blocks of 2, 3' in capsys.readouterr().err
    assert main([*how, '--n', '6', '--strategy', 'middle', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['serving'] == {k: 'same' for k in SERVED}
