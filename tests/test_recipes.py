"The recipe of the page for recipes, on tiny random models of each architecture: measure, prune, check, heal, compare."
import pytest, torch
from prunebook import choose_layers, heal, prune_model
from prunebook.evaluation.losses import divergence
from prunebook.healing.recipes import HealingConfig
from prunebook.serving.rules import served_by, serving_verdict
from prunebook.pruning.budget import model_sizes
from support import architectures
from support.tiny import texts, word_tokenizer

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
    assert 0 < divergence(healed, tok, parent, docs, progress=False)['agreement'].value < 1
    ids = torch.arange(3, 13)[None]
    out = healed.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape[1] > 10
