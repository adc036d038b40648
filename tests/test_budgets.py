"Budgets instead of n: the least n that fits, for layers of one size and of several, loaded and from headers alone."
import json
import pytest
from prunebook import PrunebookError, choose_layers, prune_model
from prunebook.cli import main
from prunebook.estimates import layer_sizes
from prunebook.pruning.budget import as_budget, in_words, model_sizes
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
