"""Every causal language model that the installed transformers can build from its config class, tiny and random: is a
cut of it correct?

`python -m tests.support.architectures nbs/results/architectures.csv` walks them all and writes the table. The tests
walk some."""
import csv, sys, tempfile, warnings
from pathlib import Path
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from prunebook.core import PrunebookError
from prunebook.model.configs import cut_config
from prunebook.model.stack import LayerStack

DEPTH = 8
CUTS = dict(middle=[3, 4], deepest=[6, 7], scattered=[1, 4, 6])
DEPTH_NAMES = ('num_hidden_layers', 'n_layer', 'n_layers', 'num_layers')
small = dict(
    hidden_size=32, n_embd=32, d_model=32, num_attention_heads=4, n_head=4, n_heads=4, num_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=64, n_inner=64, ffn_dim=64, d_ff=64, vocab_size=99,
    max_position_embeddings=128,
    n_positions=128, n_ctx=128, num_experts=4, num_local_experts=4, n_routed_experts=4, moe_num_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, decoder_start_token_id=1, is_decoder=True, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
    qk_nope_head_dim=8, v_head_dim=8, num_nextn_predict_layers=0, index_head_dim=8, index_n_heads=2, n_group=1,
    topk_group=1, rotary_dim=4, vocab_size_per_layer_input=99, hidden_size_per_layer_input=8, n_input_layers=2,
    n_output_layers=2, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=8,
    indexer_compress_ratio=2, decoder_layers=DEPTH, decoder_attention_heads=4, decoder_ffn_dim=64,
    default_language='en_XX', num_blocks=DEPTH)
mamba = dict(mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8)
full_attention = dict(layer_types=['linear_attention', 'full_attention'] * 4)
sliding = dict(layer_types=['sliding_attention', 'full_attention'] * 4)
special = dict(
    bamba=dict(**mamba, attn_layer_indices=[2, 5]), granitemoehybrid=dict(**mamba, **full_attention),
    gpt_neo=dict(num_layers=DEPTH, attention_types=[[['global', 'local'], DEPTH // 2]]),
    mamba2=dict(num_heads=8, head_dim=8, n_groups=1, state_size=8),
    zamba2=dict(layers_block_type=['linear_attention', 'linear_attention', 'hybrid', 'linear_attention'] * 2,
                mamba_ngroups=1, n_mamba_heads=8, mamba_d_state=8),
    nemotron_h=dict(layers_block_type=['linear_attention', 'moe', 'full_attention', 'mlp'] * 2,
                    mamba_num_heads=8, mamba_head_dim=8, n_groups=1),
    lfm2_moe=dict(layer_types=['conv', 'full_attention'] * 4),
    jamba=dict(attn_layer_period=4, attn_layer_offset=2, expert_layer_period=4, expert_layer_offset=1),
    zaya=dict(num_experts_per_tok=1), dots1=dict(n_shared_experts=1), dots3_note=dict(num_key_value_heads=4),
    dots3_note_text=dict(num_key_value_heads=4), gemma3n=dict(num_kv_shared_layers=0),
    gemma3n_text=dict(num_kv_shared_layers=0), kimi_linear=full_attention, gemma4=sliding, gemma4_text=sliding,
    gemma4_unified=sliding, gemma4_unified_text=sliding, gemma4_unified_assistant=sliding, dbrx=dict(n_heads=4),
    rwkv=dict(attention_hidden_size=32))

def tiny(model_type, **changes):
    "A random model of `DEPTH` layers in evaluation mode; raises the error of transformers if it cannot be built so"
    torch.manual_seed(0)
    config = type(AutoConfig.for_model(model_type))()
    config = config if type(text := config.get_text_config(decoder=True)) is type(config) else text
    known = config.to_dict() | getattr(config, 'attribute_map', {})
    kw = {k: v for k, v in small.items() if k in known}
    kw[next((k for k in DEPTH_NAMES if k in known), 'num_hidden_layers')] = DEPTH
    if 'qk_rope_head_dim' in config.to_dict():
        kw = {k: v for k, v in kw.items() if k != 'head_dim'} | dict(num_key_value_heads=4)
    make = lambda: type(config)(**kw | special.get(model_type, {}) | changes)
    with torch.device('meta'): size = sum(p.numel() for p in AutoModelForCausalLM.from_config(make()).parameters())
    if size > 3e7: raise MemoryError(f'{size:,} parameters at its smallest')
    return AutoModelForCausalLM.from_config(make(), dtype=torch.float32).eval()

def skip(layer):
    "Make `layer` return its input: the meaning of dropping it, as a hook"
    def hand_on(mod, args, kwargs, out):
        x = args[0] if args else kwargs['hidden_states']
        if 'Zaya' in type(mod).__name__: return args[:2]  # hidden states and the router's
        return type(out)([x, *out[1:]]) if isinstance(out, (tuple, list)) else x
    return layer.register_forward_hook(hand_on, with_kwargs=True)

ids = torch.arange(3, 15)[None]
call = lambda model: model(ids, use_cache=False).logits
close = lambda a, b: a.shape == b.shape and torch.allclose(a, b, atol=1e-5, rtol=1e-4)

uncached = ('cpmant',)  # a new model of this class, unpruned, already generates differently with its cache

def cached_right(model):
    "Does generation with a key-value cache equal generation without? A few architectures cannot, unpruned"
    how = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    write = lambda cache: model.generate(ids, use_cache=cache, **how)
    try: return torch.equal(write(True), write(False))
    except Exception: return False

def state(model):
    "All that a view may not change"
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, (int, str, tuple, list))} for m in model.modules()]
    return model.config.to_json_string(), plain, [p.data_ptr() for p in model.parameters()]

def check(model, drop, folder, caches):
    "Prune, compare with the model with layers skipped by hooks, save and reload. The check that failed, or None"
    stack = LayerStack(model)
    keep, before = [i for i in range(DEPTH) if i not in drop], state(model)
    unpruned = call(model)
    hooks = [skip(stack.layers[i]) for i in drop]
    want = call(model)
    for h in hooks: h.remove()
    with stack.view(keep) as view:
        if not close(call(view), want): return 'a view is not the model with layers skipped'
    if state(model) != before or not torch.equal(call(model), unpruned): return 'a view left a trace'
    pruned = LayerStack(model).copy().cut(keep).model
    if state(model) != before: return 'pruning changed its argument'
    if not close(call(pruned), want): return 'pruned is not the model with layers skipped'
    config = LayerStack(pruned).config
    for k, v in cut_config(vars(stack.config), keep, DEPTH).items():
        if getattr(config, k) != v: return f'config.{k}'
    types = getattr(config, 'layer_types', None)
    if types and len(types) != len(keep): return f'layer_types: {types}'
    if caches and not cached_right(pruned): return 'generation with the cache differs from without'
    pruned.save_pretrained(folder)
    again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    if bad := {k: sorted(map(str, v))[:3] for k, v in info.items() if v}: return f'reload: {bad}'
    if not close(call(again.eval()), want): return 'reload: other logits'

def one(model_type, tmp):
    "The class of a model, and what became of the cuts"
    try: model = tiny(model_type)
    except Exception as e:
        return dict(architecture=model_type, model='', state='not built', reason=f'{type(e).__name__}: {e}')
    row = dict(architecture=model_type, model=type(model).__name__, cuts={})
    try: stack = LayerStack(model)
    except PrunebookError as e: return row | dict(state='refused', reason=str(e))
    try: call(model)
    except Exception as e: return row | dict(state='not run', reason=f'unpruned, {type(e).__name__}: {e}')
    caches = (model_type not in uncached and model.can_generate() and getattr(stack.config, 'use_cache', True)
              and cached_right(model))
    for cut, drop in CUTS.items():
        try: row['cuts'][cut] = check(model, drop, Path(tmp)/f'{model_type}-{cut}', caches)
        except PrunebookError as e: row['cuts'][cut] = f'refused: {e}'
        except Exception as e: row['cuts'][cut] = f'{type(e).__name__}: {e}'
    bad = {c: why for c, why in row['cuts'].items() if why}
    refused = all(why.startswith('refused') for why in bad.values())
    state = 'supported' if not bad else 'failed' if not refused else 'refused' if len(bad) == len(CUTS) else 'some cuts'
    return row | dict(state=state, reason='; '.join(f'{c}: {why}' for c, why in bad.items()))

@torch.no_grad()
def walk(model_types, tmp):
    "A row per architecture"
    return [one(o, tmp) for o in model_types]

def main(args):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp: rows = walk(args[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), tmp)
    with open(args[0], 'w', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(['architecture', 'model', 'state', 'reason'])
        out.writerows([r['architecture'], r['model'], r['state'], ' '.join(r['reason'].split())] for r in rows)
    for s in sorted({r['state'] for r in rows}): print(s, sum(r['state'] == s for r in rows))

if __name__ == '__main__': main(sys.argv[1:])
