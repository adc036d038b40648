"Budgets instead of n: the least n that fits, for layers of one size and of several, loaded and from headers alone."
import json
from contextlib import suppress
from dataclasses import replace
import pytest
from prunebook import PrunebookError, choose_layers, prune_model
from prunebook.cli import main
from prunebook.estimates import layer_sizes
from prunebook.pruning.budget import LayerSizes, as_budget, in_words, model_sizes
from prunebook.pruning.strategies import Plan, Strategy
from support import architectures
from support.tiny import save

@pytest.mark.parametrize('kind', ['llama', 'gpt2', 'qwen2_moe', 'mixtral', 'gemma3_text', 'phi', 'gemma3n_text',
                                  'gemma4_text', 'gpt_oss'])
def test_headers_say_the_sizes_of_the_model_and_of_its_cut(kind, tmp_path):
    "Also where layers differ, and where a table outside them shrinks with the cut"
    model = architectures.tiny(kind)
    said, read = model_sizes(model), layer_sizes(str(save(tmp_path/'m', model)))
    assert read.other_parameters == said.other_parameters and read.head == said.head
    if kind != 'gemma4_text':  # its layers hold a buffer of one number, which the files count
        assert (read.parameters, read.bytes) == (said.parameters, said.bytes)
        assert read.work == pytest.approx(said.work)
    left, small = said.after([2, 3]), prune_model(model, [2, 3])
    assert left['params'] == small.num_parameters() and said.after()['params'] == model.num_parameters()
    assert left['gb'] == pytest.approx(sum(p.nbytes for p in small.parameters()) / 1e9)
    work = sum(model_sizes(small).work)
    assert left['speedup'] == pytest.approx((said.head + sum(said.work)) / (said.head + work))

@pytest.mark.parametrize('limit', [dict(params=8 * 9e3), dict(gb=25e-5), dict(speedup=1.4), dict(speedup=2)])
def test_the_least_n_that_fits(limit, tiny_model):
    sizes, budget = model_sizes(tiny_model), as_budget(**limit)
    plan = choose_layers('simple', model=tiny_model, **limit)
    (name, value), left = budget, lambda n: sizes.after(range(7 - n, 7))
    within = lambda left: left[name] >= value if name == 'speedup' else left[name] <= value
    assert within(left(len(plan))) and not within(left(len(plan) - 1))
    assert plan.details['budget'] == dict([budget]) and plan.details['gives'] == sizes.after(plan)
    assert plan.layers == choose_layers('simple', len(plan), depth=8).layers
    assert in_words(plan.details['gives']) in str(plan)

def test_a_budget_goes_with_the_inputs_of_a_strategy(tiny_model):
    plan = choose_layers('greedy', speedup=1.2, model=tiny_model, loss=lambda m: len(m.model.layers), progress=False)
    assert plan.strategy == 'greedy' and set(plan.details) == {'order', 'losses', 'budget', 'gives'}
    assert choose_layers('random', seed=3, gb=25e-5, model=tiny_model).details['seed'] == 3

# every second layer is nine times as large as the others, which go first
LARGE = (10, 90) * 4
UNEVEN = LayerSizes(LARGE, LARGE, LARGE, 100, 100, 100)
ALLOWED = [None, lambda keep: 0 in keep, lambda keep: len(keep) < 4 and keep[0] == 0]

def search(model, asked, *n, **how):
    "A greedy plan by a loss that is less without the small layers, the first of them first; `asked` gets its calls"
    place = {id(o): i for i, o in enumerate(model.model.layers)}
    def loss(small):
        left = [place[id(o)] for o in small.model.layers]
        asked.append(left)
        return sum(100 * (i % 2 == 0) - i for i in left)
    return choose_layers('greedy', *n, model=model, loss=loss, progress=False, **how)

@pytest.mark.parametrize('limit', [dict(params=490), dict(params=470), dict(params=370), dict(params=190),
                                   dict(speedup=1.3), dict(gb=3e-7)])
@pytest.mark.parametrize('allowed', ALLOWED)
def test_a_budget_takes_the_first_layers_of_one_search(limit, allowed, tiny_model):
    "It is the plan of the first n that fits, as a search for each n finds it, and each loss is asked for once"
    (name, value), asked, plans = as_budget(**limit), [], []
    for n in range(1, 8):
        with suppress(PrunebookError): plans.append(search(tiny_model, [], n, allowed=allowed))
    fits = [o for o in plans if (UNEVEN.after(o)['speedup'] >= value if name == 'speedup' else
                                 UNEVEN.after(o)[name] <= value)]
    found = search(tiny_model, asked, sizes=UNEVEN, allowed=allowed, **limit)
    assert found == fits[0].replace(details=fits[0].details | dict(budget={name: value}, gives=UNEVEN.after(found)))
    if allowed is None:
        assert len(asked) == sum(8 - i for i in range(len(found)))
        assert len({*map(tuple, asked)}) == len(asked)

def test_a_search_that_fails_late_still_gives_its_first_layers(tiny_model):
    "A loss may be infinite for all deep cuts; the budget needs none of them"
    def loss(model): return float('inf') if len(model.model.layers) < 6 else 1.
    plan = choose_layers('greedy', params=450, sizes=replace(UNEVEN, parameters=(90, 90, 10, 10, 10, 10, 90, 90)),
                         model=tiny_model, loss=loss, progress=False)
    assert plan.layers == (0,)

def test_a_nested_strategy_of_your_own_runs_once(monkeypatch):
    asked = []
    def from_the_end(n, depth):
        asked.append(n)
        order = list(range(depth - 1, depth - 1 - n, -1))
        return Plan(order, depth, 'from_the_end', dict(order=order, steps=[o / 2 for o in order], depth=depth))
    plan = choose_layers(Strategy('from_the_end', from_the_end, nested=True), params=310, sizes=UNEVEN)
    assert plan.layers == (5, 6, 7) and len(asked) == 1
    assert plan.details['order'] == [7, 6, 5]
    assert plan.details['steps'] == [3.5, 3., 2.5]
    assert plan.details['depth'] == 8

def test_packed_weights_are_not_counted(tmp_path):
    folder = save(tmp_path/'m')
    config = json.loads((folder/'config.json').read_text()) | dict(quantization_config=dict(quant_method='gptq'))
    (folder/'config.json').write_text(json.dumps(config))
    with pytest.raises(PrunebookError, match='hides their number'): layer_sizes(str(folder))

# command line

def run(*args): return main(['prune', *map(str, args), '--no-progress', '--json'])

@pytest.mark.parametrize('option', ['--params', '--gb', '--speedup'])
@pytest.mark.parametrize('more', [(), ('--in-memory',)])
def test_prune_by_budget(option, more, tiny_folder, tmp_path, capsys):
    sizes = layer_sizes(str(tiny_folder))
    asked = sizes.after([0, 1, 2])[option.strip('-')]
    assert run(tiny_folder, tmp_path/'out', '--strategy', 'simple', option, asked, *more) == 0
    said = json.loads(capsys.readouterr().out)
    record = json.loads((tmp_path/'out/config.json').read_text())['prunebook']
    assert said['n'] == len(record['dropped']) == 3 and 'predicted' in said['fits']
    gives = record['details']['gives']
    assert gives['params'] == record['parameters']['after'] and gives['gb'] == record['bytes']['after'] / 1e9
