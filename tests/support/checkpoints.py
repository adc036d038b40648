"Checkpoints on disk for tests: read and spoilt; and the memory that a function takes."
import hashlib, json, os, subprocess, sys
from pathlib import Path
from safetensors.torch import load_file

INDEX = 'model.safetensors.index.json'

def tensors(folder): return {k: v for f in sorted(Path(folder).glob('*.safetensors')) for k, v in load_file(f).items()}

def digest(folder):
    "The hash of each file"
    files = [p for p in Path(folder).rglob('*') if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def absent(folder):
    "Is there nothing at `folder`, and nothing half built beside it?"
    return not folder.exists() and not list(folder.parent.glob(f'.{folder.name}*'))

class Bomb:
    "A pickle that makes a file when it is read"
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, 'w')

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

def growth(imports, code, *args):
    "The most memory in MB that `code` takes above `imports`, in a new process"
    peak = "int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1]) / 1024"
    script = f'import sys\n{imports}\nbefore = {peak}\n{code}\nprint({peak} - before)'
    done = subprocess.run([sys.executable, '-c', script, *map(str, args)], capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
