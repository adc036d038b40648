"The recipe of the page for recipes, on tiny random models of each architecture: measure, prune, check, heal, compare."
import json
import pytest, torch
from prunebook import PrunebookError, choose_layers, heal, prune_model
from prunebook.cli import main
from prunebook.evaluation.losses import divergence
from prunebook.healing.recipes import HealingConfig
from prunebook.serving.rules import served_by, serving_verdict
from prunebook.pruning.budget import model_sizes
from support import architectures
from support.tiny import save, texts, tiny, word_tokenizer

KINDS = ['qwen3', 'qwen3_5_text', 'gemma3_text', 'gemma4_text', 'smollm3', 'llama', 'gpt_oss', 'mistral']
PERIODS = dict(gemma3_text=6, smollm3=4, gpt_oss=2, qwen3_5_text=4)
LIGHT = HealingConfig(steps=1, batch_size=2, max_length=16, rank=2, bits=32, batch_tokens=16,
                      gradient_checkpointing=True)
EXPERTS = LIGHT.replace(targets=['q_proj', 'k_proj', 'v_proj', 'o_proj'])  # where experts are fused in one tensor


def of_kind(kind):
    "A tiny model of a type, of 12 layers where their kinds repeat"
    if kind not in PERIODS: return architectures.tiny(kind)
    own = {} if kind == 'smollm3' else dict(layer_types=None)
    return architectures.tiny(kind, num_hidden_layers=12, **own)


@pytest.mark.parametrize('kind', KINDS)
def test_choose_prune_heal_compare(kind):
    parent, tok, docs = of_kind(kind), word_tokenizer(), texts(8)
    serve = 'llama.cpp' if serving_verdict(parent.config, 'llama.cpp').status == 'same' else None
    plan = choose_layers('simple' if serve else 'middle', speedup=1.1, model=parent,
                         allowed=served_by(serve, parent.config) if serve else None)
    assert plan.details['gives']['speedup'] >= 1.1
    if serve: assert served_by(serve, parent.config).fits(plan.keep) and len(plan) % PERIODS.get(kind, 1) == 0
    small = prune_model(parent, plan)
    assert model_sizes(small).after()['params'] == plan.details['gives']['params'] == small.num_parameters()
    healed = heal(small, tok, docs, EXPERTS if kind == 'gpt_oss' else LIGHT, progress=False).model
    found = divergence(healed, parent, tok, docs, progress=False)
    assert 0 <= found['agreement'].value <= 1 and found['kl'].value >= 0
    ids = torch.arange(3, 13)[None]
    out = healed.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape[1] > 10


@pytest.mark.parametrize('kind', ['llama', *[pytest.param(o, marks=pytest.mark.slow) for o in KINDS if o != 'llama']])
def test_the_commands(kind, tmp_path, capsys):
    run = lambda *args: main([*map(str, args), '--no-progress', '--json'])
    docs, at = tmp_path/'docs.jsonl', {k: tmp_path/k for k in ('parent', 'dist', 'pruned', 'healed')}
    docs.write_text(''.join(json.dumps(dict(text=o)) + '\n' for o in texts(12)))
    save(at['parent'], tiny() if kind == 'llama' else of_kind(kind), word_tokenizer())
    memory = ['--in-memory'] if kind == 'gemma4_text' else []
    (EXPERTS if kind == 'gpt_oss' else LIGHT).save(tmp_path/'recipe.json')
    heal = ['--config', tmp_path/'recipe.json', '--steps', 2, '--n-judge', 0]
    for step in (
        ['similarity', at['parent'], '--out', at['dist'], '--texts', docs, '--max-length', 16],
        ['prune', at['parent'], at['pruned'], '--distances', at['dist'], '--speedup', 1.1, *memory],
        ['check', at['pruned']],
        ['heal', at['pruned'], at['healed'], '--texts', docs, *heal, '--batch-tokens', 16, '--gradient-checkpointing'],
        ['evaluate', at['healed'], '--parent', at['parent'], '--tasks', 'c4', 'agreement', '--judge-texts', docs],
    ):
        capsys.readouterr()
        assert run(*step) == 0, capsys.readouterr()
    loss, same = json.loads(capsys.readouterr().out)['scores']
    assert loss['value'] > 0 and 0 <= same['value'] <= 1
    record = json.loads((at['healed']/'config.json').read_text())['prunebook']
    assert record['details']['gives']['speedup'] >= 1.1


@pytest.mark.parametrize('kind, period', PERIODS.items())
def test_blocks_of_a_period_stay_servable(kind, period):
    config = of_kind(kind).config
    assert served_by('llama.cpp', config).fits([i for i in range(12) if not 3 <= i < 3 + period])
    assert not served_by('llama.cpp', config).fits([i for i in range(12) if i != 3])


def test_a_budget_that_no_servable_cut_keeps():
    "Of 12 layers with a period of six, six can go"
    model = of_kind('gemma3_text')
    how = dict(model=model, allowed=served_by('llama.cpp', model.config))
    assert len(choose_layers('simple', speedup=1.05, **how)) == 6
    with pytest.raises(PrunebookError): choose_layers('simple', speedup=1e6, **how)
