"Checkpoints on disk for tests: read, spoilt, or made of patterns."
import hashlib
import json
from pathlib import Path
from safetensors.torch import load_file
from prunebook.pruning.checkpoint import read_tensors

INDEX = 'model.safetensors.index.json'

def tensors(folder): return {k: v for f in sorted(Path(folder).glob('*.safetensors')) for k, v in load_file(f).items()}

def digest(folder):
    "The hash of each file"
    files = [p for p in Path(folder).rglob('*') if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def absent(folder):
    "Is there nothing at `folder`, and nothing half built beside it?"
    return not folder.exists() and not list(folder.parent.glob(f'.{folder.name}*'))

def shard(folder, i=0): return sorted(folder.glob('*.safetensors'))[i]

def edit_json(file, f=None, **changes):
    "Change a JSON file by a function or by fields"
    d = json.loads(file.read_text())
    if f: f(d)
    file.write_text(json.dumps(d | changes))

def edit_header(file, f):
    "Rewrite the header of a safetensors file"
    data = file.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    table = json.loads(data[8:8+n])
    f(table)
    new = json.dumps(table).encode()
    file.write_bytes(len(new).to_bytes(8, 'little') + new + data[8+n:])

def synthetic(folder, layers, mb, shards, name='model.layers'):
    "A Llama-like checkpoint of `layers` layers of `mb` MB each, its bytes a pattern"
    folder.mkdir()
    places, per = {}, -(-layers // shards)
    for s in range(shards):
        file, table, end = f'model-{s+1:05}-of-{shards:05}.safetensors', {}, 0
        for i in range(s * per, min(layers, (s + 1) * per)):
            for part in ('a', 'b'):
                offsets = [end, end := end + (mb << 19)]
                table[f'{name}.{i}.{part}.weight'] = dict(dtype='BF16', shape=[mb << 8, 1024], data_offsets=offsets)
        head = json.dumps(table).encode()
        with open(folder/file, 'wb') as f:
            f.write(len(head).to_bytes(8, 'little') + head)
            for k in table: f.write(hashlib.sha256(k.encode()).digest() * (mb << 14))
        places |= dict.fromkeys(table, file)
    (folder/INDEX).write_text(json.dumps(dict(weight_map=places)))
    (folder/'config.json').write_text(json.dumps(dict(model_type='llama', num_hidden_layers=layers)))
    return folder

def has_layers(folder, keep):
    "Are the bytes of the layers those of the layers `keep` of a `synthetic` checkpoint?"
    for t in read_tensors(folder):
        was = t.name.replace(f'.{t.name.split(".")[2]}.', f'.{keep[int(t.name.split(".")[2])]}.')
        with open(t.file, 'rb') as f:
            f.seek(t.start)
            if f.read(t.size) != hashlib.sha256(was.encode()).digest() * (t.size // 32): return False
    return True
