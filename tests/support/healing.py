"A small recipe, and models of 6 layers to heal with it"
import torch
from tokenizers import processors
from prunebook.healing.healing import heal
from prunebook.healing.recipes import HealingConfig
from support.tiny import KINDS as _KINDS, texts, tiny as _tiny, word_tokenizer

KINDS = [k for k in _KINDS if k not in ('mixtral', 'qwen2_moe', 'deepseek_v3')]
SMALL = HealingConfig(steps=6, batch_size=4, max_length=16, rank=4, learning_rate=1e-2, bits=32)

def tiny(kind='llama', **kw):
    "A random model of 6 layers"
    return _tiny(kind, **dict(layers=6) | (dict(alibi=True) if kind == 'falcon' else {}) | kw)

def tokenizer(bos=False):
    "A tokenizer of whole words; with `bos` it begins every text with <s>"
    t = word_tokenizer()
    begin = processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 1)])
    if bos: t.backend_tokenizer.post_processor = begin
    return t

def run(model, config=SMALL, **kw): return heal(model, tokenizer(), texts(), config, progress=False, **kw)

def state(model): return {k: v.clone() for k, v in model.state_dict().items()}

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
