"""Served elsewhere: what the rules say about other stacks, tested by running these stacks on random models; the choice
of layers that stays right there; `prunebook check --serve`. Stacks that are not installed are skipped."""
import itertools, json, subprocess, sys
from types import SimpleNamespace
import numpy as np, pytest, torch
from transformers import AutoConfig
from prunebook import PrunebookError, choose_layers, prune_checkpoint, prune_model
from prunebook.pruning.checkpoint import model_card, sound_record, widen_config
from prunebook.cli import main
from prunebook.serving.stacks import RUNNERS, Agreement, _judge, agreement_of, probe_ids, serving_report
from prunebook.serving.stacks import transformers_scores
from prunebook.pruning.budget import NotAllowed, restriction
from prunebook.pruning.strategies import Plan, as_plan
from prunebook.serving.rules import SERVED, served_by, serving_states, serving_verdict
from prunebook.serving.rules import serving_warning
from support.tiny import save

WINDOW = dict(sliding_window=8)
MIXED = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
             shared_expert_intermediate_size=16, decoder_sparse_step=1)
LINEAR = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
LLLG = (['sliding_attention'] * 3 + ['full_attention']) * 16
GEMMA = dict(WINDOW, head_dim=8, num_key_value_heads=2)
FAMILIES = dict(
    llama=(8, 3, {}), mistral=(8, 3, WINDOW), qwen2=(8, 3, {}), qwen3=(8, 3, dict(head_dim=8)),
    gemma2=(9, 2, GEMMA | dict(query_pre_attn_scalar=8)), gemma3_text=(13, 6, GEMMA | dict(query_pre_attn_scalar=8)),
    gemma4_text=(12, 6, GEMMA | dict(hidden_size_per_layer_input=0, num_kv_shared_layers=0)),
    gpt_oss=(9, 2, GEMMA | MIXED), cohere2=(9, 4, WINDOW), smollm3=(9, 4, {}),
    exaone4=(64, 4, WINDOW | dict(head_dim=8, sliding_window_pattern='LLLG', layer_types=LLLG)),
    qwen3_next=(9, 4, MIXED | LINEAR | dict(head_dim=8)))
"Model type: depth, period (or any number, where nothing is counted), and fields of the config"
CASES = [(f, n) for f, (_, period, _) in FAMILIES.items() for n in (0, 1, 2, period)]
QUICK = {('gemma3_text', 2), ('gemma3_text', 6), ('cohere2', 1), ('qwen3', 2), ('exaone4', 2)}
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
def pruned(tmp_path_factory, tiny):
    "`pruned(family, n)`: a folder with a random model of a family without `n` layers from layer 1 on"
    made = {}
    def make(family, n):
        if (family, n) in made: return made[family, n]
        depth, _, fields = FAMILIES[family]
        model = wide_awake(tiny(family, layers=depth, **fields))
        small = prune_model(model, range(1, 1 + n)) if n else model
        folder = made[family, n] = tmp_path_factory.mktemp(f'{family}-{n}')/'model'
        save(folder, small)
        widen_config(folder)
        return folder
    return make

def gemma(depth=18, **fields): return dict(model_type='gemma3_text', num_hidden_layers=depth, **fields)

def without(drop, depth): return [i for i in range(depth) if i not in drop]

def servable(config, keep, stacks): return served_by(stacks, config).fits(keep)

def servable_blocks(config, n, stacks):
    depth = config['num_hidden_layers']
    return [o for o in range(depth - n + 1) if servable(config, without(range(o, o + n), depth), stacks)]

# ---- the table

@pytest.mark.parametrize('family', FAMILIES)
def test_unpruned_models_are_the_same_in_vllm(family):
    config = AutoConfig.for_model(family, num_hidden_layers=FAMILIES[family][0])
    assert serving_verdict(config, 'vllm').status == 'same'

@pytest.mark.parametrize('stack', ['llama.cpp', 'mlx'])
@pytest.mark.parametrize('drop, right', [
    ('10-11', False), ('6-11', True), ('0-5', True), ('3-8', True), ('16-17', True), ('17', True), ('2', False),
    ('1-12', True), ('3-5,8-10', True)])
def test_cuts_of_gemma3(stack, drop, right):
    keep = as_plan(drop, 18).keep
    found = serving_verdict(gemma(), stack, keep)
    assert (found.status == 'same') == right and found.by_cut != right and bool(found.layers) != right
    assert serving_verdict(gemma(), 'llama.cpp-mended', keep).status == 'same'
    assert serving_verdict(gemma(), 'vllm', keep).status == 'same'

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

def test_the_scale_of_the_largest_gemma_is_lost_in_a_plain_conversion():
    largest = gemma(62, query_pre_attn_scalar=168, head_dim=128, hidden_size=5376, num_attention_heads=32)
    assert serving_verdict(largest, 'llama.cpp').status == 'same'
    found = serving_verdict(largest, 'llama.cpp', without(range(6, 12), 62))
    assert found.by_cut and 'sqrt(168)' in found.why
    assert serving_verdict(largest, 'llama.cpp-mended', without(range(6, 12), 62)).status == 'same'

def test_angles_that_mlx_does_not_read():
    "Saved by transformers 5 alone. A pruned model is saved with the old names too"
    new = dict(model_type='llama', num_hidden_layers=4, rope_parameters=dict(rope_theta=5e5, rope_type='default'))
    found = serving_verdict(new, 'mlx')
    assert found.status == 'differs' and not found.by_cut and 'rope_theta' in found.why
    assert serving_verdict(new, 'mlx', [0, 1, 3]).status == 'same'
    assert serving_verdict(new | dict(rope_theta=5e5), 'mlx').status == 'same'
    assert serving_warning(new, [0, 1, 3]) == '' and serving_states(new, [0])['mlx'] == 'same'

def test_fields_that_a_stack_ignores():
    "mlx-lm has no scaled angles for Gemma 2, and rounds those of YaRN; both are wrong unpruned too"
    scaled = dict(rope_parameters=dict(rope_theta=1e4, rope_type='linear', factor=2.))
    gemma2 = dict(model_type='gemma2', num_hidden_layers=4, layer_types=['full_attention'] * 4, head_dim=8) | scaled
    found = serving_verdict(gemma2, 'mlx', [0, 1])
    assert found.status == 'differs' and not found.by_cut and 'linear' in found.why
    yarn = dict(rope_theta=1e4, rope_type='yarn', factor=2., original_max_position_embeddings=64)
    llama = lambda **kw: dict(model_type='llama', num_hidden_layers=4, rope_parameters=yarn | kw)
    assert serving_states(llama(), [0])['mlx'] == 'same'
    assert serving_states(llama(truncate=False), [0])['mlx'] == 'differs unpruned too'

def exaone(depth, **fields):
    kinds = (['sliding_attention'] * 3 + ['full_attention']) * (depth // 4)
    return dict(model_type='exaone4', num_hidden_layers=depth, sliding_window=8, sliding_window_pattern='LLLG',
                layer_types=kinds, rope_theta=1e6, **fields)

@pytest.mark.parametrize('stack, drop, right', [
    ('llama.cpp', '', True), ('llama.cpp', '4-7', False), ('llama.cpp-mended', '4-7', False), ('mlx', '', True),
    ('mlx', '4-7', True), ('mlx', '5-8', True), ('mlx', '4', False), ('mlx', '63', True), ('vllm', '4', True)])
def test_cuts_of_exaone(stack, drop, right):
    "64 layers are the 32B. llama.cpp knows it by them, and mlx-lm counts letters"
    config = exaone(64)
    found = serving_verdict(config, stack, as_plan(drop, 64).keep if drop else range(64))
    assert (found.status == 'same') == right and found.by_cut != right
    if not right: assert ('depth of 64' if 'llama' in stack else 'letters of sliding_window_pattern') in found.why

def test_exaone_without_windows():
    "As the 1.2B: all layers are alike, with rotary positions"
    config = exaone(8) | dict(sliding_window=None, sliding_window_pattern=None, layer_types=['full_attention'] * 8)
    assert serving_states(config, [0, 1, 2]) == dict.fromkeys(SERVED, 'same')
    assert 'it stops' in serving_verdict(exaone(8) | dict(sliding_window_pattern=4), 'mlx').why
    only_full = [3, 7, 11]
    assert [serving_verdict(exaone(64), o, only_full).by_cut for o in SERVED] == [True, True, True]

def test_rules_need_no_transformers_where_defaults_are_known():
    "In a new process, with the configs of old checkpoints"
    code = """import sys
from prunebook.serving.rules import _verdicts_of
for kind in ('llama', 'qwen2', 'qwen3'):
    [mlx] = [o for o in _verdicts_of(dict(model_type=kind, num_hidden_layers=4), [0, 1]) if o.stack == 'mlx']
    print(kind, mlx.status)
assert 'transformers' not in sys.modules"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split() == ['llama', 'same', 'qwen2', 'differs', 'qwen3', 'same'], done.stderr
    config = AutoConfig.for_model('qwen2')
    assert config.rope_parameters['rope_theta'] == 10_000, 'mlx-lm takes a million for Qwen2'

@pytest.mark.parametrize('wrong', [dict(layer_types=3), dict(num_hidden_layers='x'), dict(layer_types=['a']),
                                   dict(rope_parameters=[1]), dict(rope_parameters=dict(rope_theta='x'))])
def test_a_config_of_another_form(wrong):
    config = gemma() | wrong
    try: found = serving_verdict(config, 'mlx', [0, 1])
    except PrunebookError: found = None
    assert found is None or found.stack == 'mlx'
    assert isinstance(serving_warning(config, [0, 1]), str)

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

@pytest.mark.slow
@pytest.mark.parametrize('drop, right', [('10-11', False), ('4', False), ('6-11', True), ('16-17', True)])
def test_real_gemma(tmp_path, drop, right):
    "Cuts that break the period are flagged, and mended by our export; cuts that keep it pass; all by running"
    from prunebook.model.assets import fetch
    folder = prune_checkpoint(fetch('gemma3-270m', progress=False), tmp_path/'out', drop, progress=False)
    stacks = [o for o in RUNNERS if RUNNERS[o].installed]
    if not stacks: pytest.skip('no stack is installed')
    for o in serving_report(folder, stacks):
        assert (o.status == 'same') == (right or o.stack == 'llama.cpp-mended'), o
        assert o.agreement.close == (o.rule.status == 'same')

# ---- choosing

def test_a_period_may_go_anywhere():
    assert servable_blocks(gemma(), 6, SERVED) == list(range(13))
    assert servable_blocks(gemma(), 12, SERVED) == list(range(7))
    assert servable_blocks(gemma(), 2, SERVED) == [16] and servable_blocks(gemma(), 2, 'vllm') == list(range(17))

@pytest.mark.parametrize('stack', ['mlx', 'llama.cpp'])
@pytest.mark.parametrize('config', [AutoConfig.for_model(o, num_hidden_layers=8) for o in ('gemma3_text', 'cohere2')])
@pytest.mark.parametrize('n', range(1, 6))
def test_cheapest_set_is_the_best_of_all(stack, config, n):
    costs = np.random.default_rng(n).random(8).tolist()
    right = [o for o in itertools.combinations(range(8), n) if servable(config, without(o, 8), stack)]
    best = min((sum(costs[i] for i in o) for o in right), default=None)
    found = served_by(stack, config).cheapest(costs, n)
    assert found is None if best is None else sum(costs[i] for i in found) == pytest.approx(best)

class Distances:
    "A table for 18 layers: the deeper a block starts, the cheaper"
    depth, fingerprint, info = 18, 'x', {}
    mean = np.array([[(stop - start) * (20 - start) / 400 for stop in range(19)] for start in range(19)])
    def ranked(self, n): return sorted((Plan(range(o, o + n), 18) for o in range(19 - n)), key=lambda p: -p.layers[0])
    def best_block(self, n):
        from prunebook import Block
        return Block(10, n)

def influences(depth, seed=0):
    "Distances with a random Block Influence for each layer"
    return SimpleNamespace(depth=depth, mean=np.zeros((depth + 1, depth + 1)),
                           influence=np.random.default_rng(seed).random(depth))

def test_choose_layers_for_a_stack():
    how, to = dict(n=2, distances=Distances()), lambda *stacks: dict(allowed=served_by(stacks, gemma()))
    assert choose_layers('similarity', **how).layers == (10, 11)
    plan = choose_layers('similarity', **how, **to('mlx', 'llama.cpp'))
    assert plan.layers == (16, 17) and servable(gemma(), plan.keep, 'mlx')
    record = plan.details['allowed']
    assert record['by'] == 'mlx, llama.cpp' and record['unrestricted'] == [10, 11]
    assert record['distance'] == dict(unrestricted=Distances.mean[10, 12], chosen=Distances.mean[16, 18])
    assert plan.details['distance'] == Distances.mean[16, 18] and '16-17 instead of 10-11' in restriction(plan)
    json.dumps(plan.details)
    assert choose_layers('similarity', **how, **to('llama.cpp-mended')).layers == (10, 11)
    assert restriction(choose_layers('similarity', **how | dict(n=6), **to('mlx'))) == ''

def test_choose_single_layers_for_a_stack():
    plan = choose_layers('block_influence', n=4, distances=influences(18), allowed=served_by('mlx', gemma()))
    assert len(plan) == 4 and servable(gemma(), plan.keep, 'mlx')

def test_choose_by_loss_for_a_stack(tiny):
    "The loss of both cuts is in the record"
    model = tiny('gemma3_text', layers=8)
    loss = lambda m: 10. + sum(map(int, [len(m.model.layers)]))
    plan = choose_layers('greedy', n=3, model=model, loss=loss, allowed=served_by('mlx', model.config), progress=False)
    assert servable(model.config, plan.keep, 'mlx')
    free = choose_layers('best_loss', n=2, model=model, loss=loss, progress=False)
    plan = choose_layers('best_loss', n=2, model=model, loss=loss, progress=False,
                         allowed=served_by('mlx', model.config))
    assert not servable(model.config, free.keep, 'mlx') and servable(model.config, plan.keep, 'mlx')
    assert plan.details['allowed']['loss'] == dict(unrestricted=16., chosen=16.)

def test_the_last_layer_stays_without_a_measurement():
    with pytest.raises(NotAllowed, match='Blocks of 6, 12 layers can'):
        choose_layers('simple', n=4, depth=18, allowed=served_by('mlx', gemma()))
    assert choose_layers('simple', n=6, depth=18, allowed=served_by('mlx', gemma())).layers == tuple(range(11, 17))

def test_a_budget_with_a_stack(tiny):
    model = tiny('gemma3_text', layers=13)
    allowed = served_by('mlx', model.config)
    plan = choose_layers('simple', model=model, params=model.num_parameters() - 1, allowed=allowed)
    assert plan.layers == (10, 11) and servable(model.config, plan.keep, 'mlx'), 'one layer alone cannot go'

@pytest.mark.parametrize('how, says', [
    (dict(strategy=[3, 4]), 'cannot go without a change'), (dict(allowed='mlx'), 'give a function'),
    (dict(depth=9), 'is of 18 layers'), (dict(strategy=lambda n, depth: [1, 4]), 'Give distances='),
    (dict(allowed=lambda keep: False), 'Neither can a block of another size')])
def test_bad_choices(how, says):
    with pytest.raises(PrunebookError, match=says):
        choose_layers(**dict(strategy='simple', n=2, depth=18, allowed=served_by('mlx', gemma())) | how)

@pytest.mark.parametrize('stacks, config, says', [
    ('ollama', gemma(), 'not a known stack'), ([], gemma(), 'nothing'),
    ('mlx', dict(model_type='rwkv', num_hidden_layers=18), 'no rule'), ('mlx', None, 'content of a config.json')])
def test_a_stack_without_rules(stacks, config, says):
    with pytest.raises(PrunebookError, match=says): served_by(stacks, config)

@pytest.mark.parametrize('n', range(1, 6))
def test_a_predicate_of_your_own_gets_the_best_of_all_sets(n):
    found, ok = influences(8, n), lambda keep: 0 in keep and sum(keep) % 3 == 0
    costs = found.influence
    best = min((sum(costs[i] for i in o) for o in itertools.combinations(range(8), n) if ok(without(o, 8))))
    plan = choose_layers('block_influence', n=n, distances=found, allowed=ok)
    assert ok(plan.keep) and sum(costs[i] for i in plan) == pytest.approx(best)

# ---- pruning, cards, exports

@pytest.fixture(scope='module')
def folders(tmp_path_factory, tiny):
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
    assert 'llama.cpp (plain conversion), MLX' in said and '\n' not in said and '`prunebook export` mends it' in said
    assert '| Serving | llama.cpp: differs, mlx: differs, vllm: same (' in (tmp_path/'a'/'README.md').read_text()
    caplog.clear()
    assert main([*how, '3-8', '--force', '--in-memory']) == 0 and not caplog.records
    assert '| Serving | llama.cpp: same, mlx: same, vllm: same (' in (tmp_path/'a'/'README.md').read_text()

def test_a_hostile_record_cannot_write_into_the_card():
    record = dict(dropped=[1], kept=[0, 2], depth=3, strategy='list', source='lab/m', revision=None, versions={},
                  parameters=dict(before=3, after=2), bytes=dict(before=6, after=4))
    card = model_card(record | dict(serving={'mlx': 'same<script>', 'e | vil': 'same', 'vllm': 'same'}))
    assert '| Serving | mlx: same_script_, e _ vil: same, vllm: same (' in card
    assert not sound_record(record | dict(serving=3))

# ---- the report and the command

def test_judge():
    "A run decides, except that a fault beyond the window stays one"
    near, far = Agreement(9, 1e-5, 1e-4, 1.), Agreement(9, .1, 2., .5)
    same, wrong = (serving_verdict(gemma(), 'mlx', o) for o in (range(18), without([3], 18)))
    assert [_judge(r, 'run', a).status for r, a in ((same, near), (same, far), (wrong, near), (wrong, far))] == \
        ['same', 'differs', 'differs', 'differs']
    assert 'Please report it' in _judge(same, 'run', far).why
    assert _judge(same, 'run', PrunebookError('no')).status == 'not supported'
    assert agreement_of((np.array([np.nan]), np.array([1])), (np.array([1.]), np.array([1]))).largest == np.inf

def test_probe(folders, tmp_path, tiny):
    assert len(probe_ids(folders/'unpruned')) == 72 and max(probe_ids(folders/'unpruned', 20)) < 99
    tiny().save_pretrained(tmp_path/'m')
    assert len(set(probe_ids(tmp_path/'m', 50))) > 10, 'without a tokenizer: random tokens'

def test_check_says_what_is_served(folders, capsys):
    stacks = ['--serve', 'llama.cpp', 'mlx', 'vllm']
    assert main(['check', str(folders/'two'), '--files-only', '--json', *stacks]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [v['status'] for v in found['serving'].values()] == ['differs', 'differs', 'same']
    assert found['problems'] == [] and 'gemma3_text.py' in found['serving']['mlx']['source']
    assert main(['check', str(folders/'six'), '--files-only', *stacks]) == 0
    assert main(['check', str(folders/'two'), '--files-only', '--serve', 'vllm', 'llama.cpp-mended']) == 0

def test_stacks_that_are_not_installed(folders, capsys, monkeypatch):
    from prunebook import core
    from prunebook.serving import stacks
    def missing(package): raise core.PackageNotFoundError(package)
    monkeypatch.setattr(core, 'version', missing)
    assert main(['check', str(folders/'six'), '--serve', 'mlx', 'llama.cpp']) == 0
    said = capsys.readouterr().out
    assert 'by rules only (mlx is not installed' in said and 'prunebook[mlx]' in said and 'prunebook[gguf]' in said
    with pytest.raises(PrunebookError, match='prunebook\\[mlx\\]'): stacks._mlx_scores(folders/'six', [1, 2])

@needs('mlx')
def test_check_runs_what_is_installed(folders, capsys):
    assert main(['check', str(folders/'two'), '--serve', 'mlx', '--json']) == 1
    found = json.loads(capsys.readouterr().out)['serving']['mlx']
    assert found['status'] == 'differs' and 'by running mlx' in found['how'] and found['tokens'] == 72
    assert found['largest'] > .05 and 'Attention of layers' in found['why']
    assert main(['check', str(folders/'six'), '--serve', 'mlx']) == 0

def test_a_quantised_checkpoint_is_checked_by_rules(folders, tmp_path):
    import shutil
    shutil.copytree(folders/'six', tmp_path/'q')
    config = json.loads((tmp_path/'q'/'config.json').read_text()) | dict(quantization_config=dict(quant_method='gptq'))
    (tmp_path/'q'/'config.json').write_text(json.dumps(config))
    [found] = serving_report(tmp_path/'q', 'mlx')
    assert 'quantised' in found.how or 'not installed' in found.how

def test_prune_for_a_stack(folders, tmp_path, capsys):
    how = ['prune', str(folders/'unpruned'), str(tmp_path/'out'), '--no-progress', '--serve', 'mlx', 'llama.cpp']
    assert main([*how, '--drop', '3-4']) == 2 and 'cannot go without a change' in capsys.readouterr().err
    assert not (tmp_path/'out').exists()
    assert main([*how, '--n', '1', '--strategy', 'simple']) == 2 and 'Blocks of 2, 3' in capsys.readouterr().err
    assert main([*how, '--n', '6', '--strategy', 'middle', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['serving'] == {k: 'same' for k in SERVED}
