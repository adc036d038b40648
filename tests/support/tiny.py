"Random models of a few thousand parameters, tokenizers without a file, and texts with a rule to learn."
import json, random
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPE = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=64, vocab_size=99,
             max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)
_qwen = dict(head_dim=8, num_key_value_heads=2)
_mla = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4,
            num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16)
_moe = dict(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, decoder_sparse_step=2)
# for pictures, with a table of four positions, beside the decoder
_tower = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=28,
              patch_size=14)
KINDS = dict(
    llama={}, mistral={}, qwen3=_qwen, gemma2=dict(head_dim=8), gemma3_text=_qwen, gemma3=_qwen, gpt2={}, gpt_neox={},
    phi={},
    olmo2={}, falcon={}, stablelm={}, opt=dict(ffn_dim=64, word_embed_proj_dim=32), mixtral=dict(num_local_experts=4),
    qwen2_moe=dict(num_key_value_heads=2) | _moe, deepseek_v3=_mla)
"Model types, and the config fields that each needs besides `SHAPE`"

def tiny(model_type='llama', layers=8, dtype=torch.float32, seed=0, **kw):
    "A random model in evaluation mode. A field given as `None` keeps the architecture's default"
    fields = SHAPE | dict(num_hidden_layers=layers) | KINDS.get(model_type, {}) | kw
    torch.manual_seed(seed)
    if model_type == 'gemma3': fields = dict(text_config=fields, vision_config=_tower)
    config = AutoConfig.for_model(model_type, **{k: v for k, v in fields.items() if v is not None})
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

words = [f'w{i}' for i in range(96)]

def word_tokenizer(side='right', pad='<pad>'):
    "A token for each of `words`, between white space; `pad='</s>'` pads with the end token, as many do"
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['<pad>', '<s>', '</s>', *words])}, unk_token='<pad>'))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token=pad, bos_token='<s>', eos_token='</s>',
                                   padding_side=side)

def letter_tokenizer():
    "A token for each printable ASCII character and the line feed (in place of the tilde)"
    chars = ['<pad>', '<s>', '</s>', '<unk>', *map(chr, range(32, 126)), '\n']
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(chars)}, unk_token='<unk>'))
    t.pre_tokenizer = pre_tokenizers.Split(Regex('.|\n'), 'isolated')
    t.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='<pad>', bos_token='<s>', eos_token='</s>',
                                   unk_token='<unk>', clean_up_tokenization_spaces=False)

class Letters:
    "The least that our functions ask of a tokenizer, of single characters: no file, no library"
    pad_token_id, eos_token_id, bos_token_id = 0, 2, None

    def get_vocab(self): return {chr(32 + i): i for i in range(99)}

    def __len__(self): return 99

    def __call__(self, text, **kw):
        ids = [[3 + ord(c) % 90 for c in o] for o in ([text] if isinstance(text, str) else text)]
        return dict(input_ids=ids[0] if isinstance(text, str) else ids)

    def batch_decode(self, ids, **kw): return [''.join(chr(32 + i % 90) for i in o) for o in ids]

def texts(n=40, seed=0, shortest=4, longest=24):
    "Sentences for `word_tokenizer`: a word is followed by the one after it, nine times in ten"
    rng, out = random.Random(seed), []
    for _ in range(n):
        i, o = rng.randrange(96), []
        for _ in range(rng.randrange(shortest, longest)):
            o.append(words[i])
            i = (i + (1 if rng.random() < .9 else rng.randrange(96))) % 96
        out.append(' '.join(o))
    return out

def letter_texts(n=7, seed=0, longest=40):
    "Strings of a few letters, for `letter_tokenizer` and `Letters`"
    r = random.Random(seed)
    return [''.join(r.choice('abcdefgh ij') for _ in range(r.randrange(3, longest))) for _ in range(n)]

def questions(n=6, seed=0):
    "Questions of four choices of different lengths"
    r = random.Random(seed)
    word = lambda: ''.join(r.choice('abcdefgh') for _ in range(r.randrange(2, 9)))
    return [dict(question=f'{word()} {i}', choices=[word() for _ in range(4)], answer=r.randrange(4)) for i in range(n)]

def write_rows(path, rows):
    "A .jsonl file; returns its path"
    path.write_text(''.join(json.dumps(o) + '\n' for o in rows))
    return path

def save(folder, model=None, tokenizer=None, **kw):
    "A checkpoint with its tokenizer in `folder`, which is returned; `kw` goes to `save_pretrained`"
    model = tiny() if model is None else model
    model.save_pretrained(folder, **kw)
    (word_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder
