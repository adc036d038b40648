"""Pruning on disk beside cp and mergekit (MERGEKIT: the path of mergekit-yaml; BENCH_DIR: a folder with 10 GB).

On an idle machine; writes nbs/results."""
import json, os, platform, shutil, subprocess, sys, tempfile
from pathlib import Path
from time import perf_counter, sleep
import prunebook
from measured import measured, processor
from prunebook.pruning.checkpoint import check_checkpoint, prune_checkpoint
from prunebook.model.stack import show_layers
from prunebook.pruning.strategies import Plan

os.chdir(Path(__file__).parents[2]/'nbs/reference')

def fake(folder, kind, layers=32, d=2048, ff=5632, vocab=32000, shards=4):
    "A checkpoint of `kind` (llama or qwen3) in bfloat16 with random weights between -2 and 2, in `shards` files"
    folder.mkdir(parents=True)
    layer = (
        {f'self_attn.{o}_proj.weight': (d, d) for o in 'qkvo'}
        | {
            'mlp.gate_proj.weight': (ff, d),
            'mlp.up_proj.weight': (ff, d),
            'mlp.down_proj.weight': (d, ff),
            'input_layernorm.weight': (d,),
            'post_attention_layernorm.weight': (d,),
        }
        | ({f'self_attn.{o}_norm.weight': (d // 16,) for o in 'qk'} if kind == 'qwen3' else {})
    )
    shapes = (
        {'model.embed_tokens.weight': (vocab, d)}
        | {f'model.layers.{i}.{k}': v for i in range(layers) for k, v in layer.items()}
        | {'model.norm.weight': (d,), 'lm_head.weight': (vocab, d)}
    )
    names, per, places = list(shapes), -(-len(shapes) // shards), {}
    noise = bytes(b for i in range(1 << 19) for b in (os.urandom(1)[0], (0x3B, 0xBB)[i * 7919 % 2]))
    for s in range(shards):
        file, table, end = f'model-{s + 1:05}-of-{shards:05}.safetensors', {'__metadata__': {'format': 'pt'}}, 0
        for n in names[s * per : (s + 1) * per]:
            size = 2
            for o in shapes[n]:
                size *= o
            table[n], places[n], end = (
                dict(dtype='BF16', shape=shapes[n], data_offsets=[end, end + size]),
                file,
                end + size,
            )
        head = json.dumps(table).encode()
        head += b' ' * (-len(head) % 8)
        with open(folder / file, 'wb') as f:
            f.write(len(head).to_bytes(8, 'little') + head)
            for o in range(0, end, len(noise)):
                f.write(noise[: end - o])
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(metadata={}, weight_map=places)))
    config = dict(
        architectures=[dict(qwen3='Qwen3ForCausalLM', llama='LlamaForCausalLM')[kind]],
        model_type=kind,
        num_hidden_layers=layers,
        hidden_size=d,
        intermediate_size=ff,
        vocab_size=vocab,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=d // 16,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        hidden_act='silu',
        tie_word_embeddings=False,
        dtype='bfloat16',
    )
    (folder / 'config.json').write_text(
        json.dumps(config | (dict(layer_types=['full_attention'] * layers) if kind == 'qwen3' else {}))
    )
    return folder

def process(*cmd):
    "Seconds, peak memory in MB, exit code and last line of what it said"
    with tempfile.TemporaryFile() as said:
        start = perf_counter()
        p = subprocess.Popen(
            [str(o) for o in cmd],
            stdout=said,
            stderr=said,
            env=os.environ | dict(PYTHONPATH=str(Path(prunebook.__file__).parents[1])),
        )
        mb = 0
        while p.poll() is None:  # the kernel keeps the peak; we ask for it until the process ends
            try:
                mb = max(
                    mb, next(int(o.split()[1]) / 1024 for o in open(f'/proc/{p.pid}/status') if o.startswith('VmHWM'))
                )
            except (OSError, StopIteration):
                pass
            sleep(0.005)
        seconds = perf_counter() - start
        said.seek(0)
        return dict(
            seconds=seconds, mb=mb, code=p.returncode, said=(said.read().decode().strip().splitlines() or [''])[-1]
        )


ours = 'import sys; from prunebook import prune_checkpoint; prune_checkpoint(*sys.argv[1:4], progress=False)'


def contenders(src, plan, work):
    "Command lines by name: each writes `work`/out"
    out, recipe = work / 'out', work / 'cut.yml'
    runs = [o.split('-') for o in show_layers(plan.keep).split(', ')]
    parts = [f'  - sources:\n      - model: {src}\n        layer_range: [{o[0]}, {int(o[-1]) + 1}]\n' for o in runs]
    recipe.write_text(f'merge_method: passthrough\ndtype: bfloat16\nslices:\n{"".join(parts)}')
    drop = ','.join(map(str, plan))
    found = dict(prunebook=[sys.executable, '-c', ours, src, out, drop], cp=['cp', '-r', work / 'written', out])
    if tool := os.environ.get('MERGEKIT'):
        found['mergekit'] = [tool, recipe, out, '--no-copy-tokenizer']
    return found


def race(src, plan, work, rounds=5):
    "A row per run: every contender in turn, `rounds` times, every other round in reverse. `cp` copies our output"
    prune_checkpoint(src, work / 'written', plan, progress=False)
    rows = []
    for r in range(rounds + 1):  # the first round warms caches and is not counted
        for name, cmd in sorted(contenders(src, plan, work).items(), reverse=r % 2):
            shutil.rmtree(work / 'out', ignore_errors=True)
            os.sync()
            rows.append(dict(contender=name, round=r) | process(*cmd))
    return [r for r in rows if r['round']]

work = Path(tempfile.mkdtemp(dir=os.environ.get('BENCH_DIR')))
try:
    big = fake(work / 'llama', 'llama')
    rows = race(big, Plan(tuple(range(20, 28)), 32), work)
    written = sum(p.stat().st_size for p in (work / 'written').iterdir())
    read = sum(p.stat().st_size for p in big.iterdir())
    small, plan, qwen = fake(work / 'qwen3', 'qwen3', layers=8, d=256, ff=512, shards=1), Plan((3, 4), 8), []
    for name, cmd in contenders(small, plan, work).items():
        if name == 'cp':
            continue
        shutil.rmtree(work / 'out', ignore_errors=True)
        done = process(*cmd)
        qwen.append(
            dict(
                contender=name,
                code=done['code'],
                said=done['said'] if done['code'] else '',
                sound=(work / 'out' / 'config.json').exists() and check_checkpoint(work / 'out') == [],
            )
        )
finally:
    shutil.rmtree(work)

conditions = dict(
    processor=processor(),
    cores=os.cpu_count(),
    system=platform.system(),
    python=platform.python_version(),
    mergekit=os.environ.get('MERGEKIT_VERSION'),
    gb_read=read / 1e9,
    gb_written=written / 1e9,
    rounds=5,
)
Path('../results/pruning_benchmark.json').write_text(
    json.dumps(dict(conditions=conditions, runs=rows, qwen3=qwen) | measured('pruning/checkpoint'), indent=1)
)
