"For tests of layer distances: a tokenizer of plain words, documents, a model that turns the stream, the equation."
import random
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from prunebook.data.texts import tokenize
from prunebook.model.stack import LayerStack


def eos_tokenizer(side='right'):
    "Words w0 … w98, and pad = eos = w2, as in many real tokenizers"
    t = Tokenizer(models.WordLevel({f'w{i}': i for i in range(99)}, unk_token='w1'))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='w2', eos_token='w2', padding_side=side)


def documents(n=13, longest=40, seed=0):
    "Random words. The last document has the pad token inside and at its end"
    r = random.Random(seed)
    drawn = [' '.join(f'w{r.randrange(3, 99)}' for _ in range(r.randint(1, longest))) for _ in range(n - 1)]
    return drawn + ['w5 w2 w7 w2']


def louder(model):
    "Random weights hardly turn the stream. Make them, and the norms, do so"
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.mul_(4) if p.dim() > 1 else p.add_(.3 * torch.randn_like(p))
    return model


def half_turns(a, b): return torch.arccos((a @ b / a.norm() / b.norm()).clamp(-1, 1)) / torch.pi


def of_blocks(x, measure):
    "(L+1, L+1) means over tokens of the measure of each pair; x is (L+1, T, d)"
    size = range(len(x))
    def mean(l, r): return np.mean([measure(x[l, t], x[r, t]).item() for t in range(x.shape[1])])
    return [[mean(l, r) if l < r else 0. for r in size] for l in size]


def equation(model, tok, docs, max_length=32, tokens='last', measure=half_turns):
    """The paper's equation, slowly: float64, one document at a time, without padding. The hidden states are
    transformers' own, but the last is the last layer's output. (texts, L+1, L+1)"""
    model.config._experts_implementation = 'eager'  # the grouped product of experts has no float64
    exact, out, keep = type(model)(model.config).double().eval(), [], []
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    depth, layers = len(LayerStack(exact)), LayerStack(exact).layers
    layers[-1].register_forward_hook(lambda m, i, o: keep.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        for ids in tokenize(tok, docs, max_length).ids:
            given = dict(output_hidden_states=True, use_cache=False)
            states = exact.get_decoder()(torch.tensor([ids]), **given).hidden_states
            x = torch.stack([o[0] for o in [*states[:depth], keep.pop()]])
            x = dict(last=x[:, -1:], mean=x.mean(1, keepdim=True), all=x)[tokens]
            out.append(of_blocks(x, measure))
    return np.array(out)
