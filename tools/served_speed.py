"""Tokens a second, memory and file size of a model without its deepest layers but one, in transformers and llama.cpp:
`python tools/served_speed.py MODEL --ns 0 4 8 --out speeds.csv`. Speed does not depend on which layers go.

Each model runs in a process of its own, all are in memory at once, and each round measures every one of them once, in
an order that changes, because other programs use the machine too. Needs `pip install "prunebook[gguf]"`."""
import argparse, multiprocessing, tempfile, time
from pathlib import Path
import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from prunebook import prune_checkpoint
from prunebook.core import read_json
from prunebook.model.loading import find_model, slow_in_16_bits
from prunebook.pruning.checkpoint import checkpoint_folder, config_depth, decoder_config
from prunebook.serving.gguf import quantize, threads, to_gguf

TYPES = 'f16', 'q4_k_m'


def timed(decode, forget, ids, generate):
    "Seconds and processor seconds for the prompt and for the tokens after it, and the peak of memory in MB"
    now = lambda: np.array([time.perf_counter(), time.process_time()])
    forget()
    decode(ids[:8])
    forget()
    start = now()
    token = decode(ids)
    read = now()
    for _ in range(generate): token = decode([token])
    (a, a_cpu), (b, b_cpu) = (read - start).tolist(), (now() - read).tolist()
    peak = next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM')) * 1024 / 1e6
    return dict(prompt=a, generate=b, prompt_cpu=a_cpu, generate_cpu=b_cpu, peak_mb=peak)


def in_llama_cpp(path, prompt, generate, pipe, context=256):
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib  # its class computes embeddings as well
    ffi, lib = get_ffi(), get_lib()
    lib.llama_backend_init()
    how, run = lib.llama_model_default_params(), lib.llama_context_default_params()
    how.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(path.encode(), how)
    run.n_ctx, run.n_batch, run.n_ubatch = max(prompt + generate, context), 512, 512
    run.n_threads = run.n_threads_batch = threads()
    ctx, vocab = lib.llama_init_from_model(model, run), lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    def decode(ids):
        tokens = ffi.new('llama_token[]', ids)  # the batch points to it, and does not keep it
        if lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f'llama.cpp cannot run {path}')
        return int(np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(ctx, -1), 4 * vocab), np.float32).argmax())
    def forget(): lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
    ids = np.random.default_rng(0).integers(3, vocab, prompt).tolist()
    while pipe.recv(): pipe.send(timed(decode, forget, ids, generate))


def in_transformers(path, prompt, generate, pipe, context=None):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads())
    model, cache = AutoModelForCausalLM.from_pretrained(path, dtype='auto', trust_remote_code=False).eval(), {}
    if model.dtype.itemsize == 2 and slow_in_16_bits(): model.float()
    def decode(ids):
        with torch.inference_mode():
            out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1, past_key_values=cache.get('kept'))
        cache['kept'] = out.past_key_values
        return int(out.logits[0, -1].argmax())
    vocab = decoder_config(read_json(Path(path)/'config.json'))[0]['vocab_size']
    ids = np.random.default_rng(0).integers(3, vocab, prompt).tolist()
    while pipe.recv(): pipe.send(timed(decode, cache.clear, ids, generate))


def models(model, ns, work):
    "(n, stack, folder or file) of every model to measure"
    folder = checkpoint_folder(find_model(model)[0])
    depth = config_depth(folder)
    for n in ns:
        small = work/f'n{n}' if n else folder
        if n: prune_checkpoint(folder, small, range(depth - 1 - n, depth - 1), progress=False)
        yield n, 'transformers', small
        whole = to_gguf(small, work/f'n{n}.f16.gguf', 'f16', tokenizer=False)
        for type in TYPES: yield n, f'llama.cpp {type}', whole if type == 'f16' else quantize(
            whole, work/f'n{n}.{type}.gguf', type)


def alternate(runs, rounds, prompt, generate, context=256):
    "A row for each round of each of `runs`, (what it is, `in_llama_cpp` or `in_transformers`, file or folder)"
    rows, pipes, start = [], [], multiprocessing.get_context('spawn')
    for _, run, path in runs:
        ours, theirs = start.Pipe()
        start.Process(target=run, args=(str(path), prompt, generate, theirs, context), daemon=True).start()
        pipes.append(ours)
    rng = np.random.default_rng(0)
    for i in tqdm([i for _ in range(rounds) for i in rng.permutation(len(runs))]):
        pipes[i].send(True)
        took = pipes[i].recv()
        rates = {k: (prompt if k.startswith('prompt') else generate) / took[k] for k in took if k != 'peak_mb'}
        rows.append(runs[i][0] | rates | dict(peak_mb=took['peak_mb']))
    for o in pipes: o.send(False)
    return rows


def measure(model, ns, rounds=5, prompt=128, generate=24):
    "A row for each n and stack: medians over the rounds, and the quartiles of the speeds"
    with tempfile.TemporaryDirectory() as tmp:
        runs = []
        for n, stack, path in models(model, ns, Path(tmp)):
            size = sum(o.stat().st_size for o in (path.glob('*.safetensors') if path.is_dir() else [path]))
            about = dict(model=model, n=n, stack=stack, file_mb=size / 1e6)
            runs.append((about, in_transformers if Path(path).is_dir() else in_llama_cpp, path))
        rows = alternate(runs, rounds, prompt, generate)
    by = pd.DataFrame(rows).groupby(['model', 'stack', 'n'])
    out = by.median()
    for k in ('prompt', 'generate', 'prompt_cpu', 'generate_cpu'):
        for name, q in (('low', .25), ('high', .75)): out[f'{k}_{name}'] = by[k].quantile(q)
    return out.reset_index()


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model')
    p.add_argument('--ns', type=int, nargs='+', required=True)
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    measure(args.model, args.ns, args.rounds).round(2).to_csv(args.out, index=False)
