"Made wheels and GGUF files of a few kilobytes, and question files."
import gzip, hashlib, json, zipfile
import numpy as np

VOCAB = [chr(33 + i) for i in range(94)] + ['ab', '<s>', '</s>', 'Ġ', 'cd']

def make_wheel(folder, name, members, version='1.0'):
    "Write a wheel that pip accepts; returns its row for the table"
    module = name.replace('-', '_')
    file = folder/f'{module}-{version}-py3-none-any.whl'
    about = f'{module}-{version}.dist-info'
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as z:
        for member, data in members.items(): z.writestr(member, data)
        z.writestr(f'{about}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        z.writestr(f'{about}/WHEEL', 'Wheel-Version: 1.0\nGenerator: made\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        z.writestr(f'{about}/RECORD', '')
    return f'{name}=={version}', hashlib.sha256(file.read_bytes()).hexdigest()

def requests(*docs):
    "Gzipped requests, each question twice, as two ways of asking it"
    rows = [dict(native_id=i, doc_id=k * len(docs) + i, doc=o) for k in range(2) for i, o in enumerate(docs)]
    return gzip.compress(''.join(json.dumps(o) + '\n' for o in rows).encode(), mtime=0)

def tiny_gguf(path, architecture='llama', tokenizer=True, output=None, without=()):
    """A random model of two layers in the form in which the demo comes. `output`: None (tied), 'same' (the embedding
    stored twice) or 'other'; `without`: tensors that are left out"""
    from gguf import GGUFWriter
    rng, w = np.random.default_rng(0), GGUFWriter(path, architecture)
    fields = dict(context_length=64, embedding_length=8, block_count=2, feed_forward_length=8, head_count=2,
                  head_count_kv=1, layer_norm_rms_eps=1e-5, rope_freq_base=1e4, vocab_size=len(VOCAB))
    if tokenizer:
        fields |= dict(tokenizer_model='gpt2', token_list=VOCAB, token_merges=['a b', 'c d'], bos_token_id=95,
                       token_types=[1] * len(VOCAB), eos_token_id=96, unk_token_id=95, pad_token_id=96)
    for name, value in fields.items(): getattr(w, f'add_{name}')(value)
    layer = dict(attn_norm=(8,), ffn_norm=(8,), attn_q=(8, 8), attn_k=(4, 8), attn_v=(4, 8), attn_output=(8, 8),
                 ffn_gate=(8, 8), ffn_up=(8, 8), ffn_down=(8, 8))
    shapes = dict(token_embd=(len(VOCAB), 8), output_norm=(8,))
    shapes |= {f'blk.{i}.{k}': v for i in range(2) for k, v in layer.items()}
    tensors = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items() if k not in without}
    if output: tensors['output'] = tensors['token_embd'] if output == 'same' else tensors['token_embd'] + 1
    for name, values in tensors.items(): w.add_tensor(f'{name}.weight', values)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path

def in_parts(data, n):
    "Bytes cut into `n` parts"
    size = -(-len(data) // n)
    return [data[i * size:(i + 1) * size] for i in range(n)]
