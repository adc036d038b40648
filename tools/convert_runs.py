#!/usr/bin/env python
"""Convert runs of the first format (a folder per sweep, a JSON file per score) to the one format of a run.

    python tools/convert_runs.py OLD NEW [--old-code FOLDER]

OLD is a folder with sweeps at any depth; NEW becomes one run folder that holds them all. Every score is read back and
compared with the old one. With --old-code, a checkout of the version that wrote OLD, its own reader's table is too."""
import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prunebook.evaluation.scores import LossScore, Score
from prunebook.evaluation.maps import LossMap
from prunebook.paper.runs import KEYS, Run, kept_score, read_run, record_json
from prunebook.similarity.distances import LayerDistances
from prunebook.paper.sweep import SweepConfig, config_record
from dataclasses import asdict

TOTAL, LAYER, NAME = 134_515_008, 3_540_096, 'HuggingFaceTB/SmolLM2-135M-Instruct'  # the demo model


def old_score(path):
    given = json.loads(path.read_text())
    return dict(LossScore=LossScore, Score=Score)[given.pop('kind')](**given)


def score_file(key):
    from prunebook.core import file_name
    return file_name('-'.join(map(str, key))) + '.json'


def old_table(folder):
    return pd.read_csv(folder/'results.csv', keep_default_na=False, na_values=[''],
                       dtype=dict(k='Int64', layers=str, source=str))


def old_scores(folder):
    "Key, score and layers of each row of an old sweep"
    for _, row in old_table(folder).iterrows():
        key = tuple(row[['strategy', 'n', 'healed', 'seed', 'task']])
        layers = [int(o) for o in row.layers.split()] if isinstance(row.layers, str) else []
        yield row, key, old_score(folder/'scores'/score_file(key)), layers


def record(folder, name):
    "What `run.json` says of an old sweep"
    asked = json.loads((folder/'sweep.json').read_text())
    config = asked['config']
    config['sources'] = {k: v for k, v in dict(mmlu='demo').items() if k in config['tasks']} | config['sources']
    if set(config['tasks']) - {'c4', 'sums', 'gsm8k'}:  # today's mmlu and boolq are asked by letter
        config['scoring'] = dict(scoring='likelihood', shots=0, seed=0) | config['scoring']
    config = SweepConfig.of(config)
    lines = (folder/'starts.jsonl').read_text().splitlines() if (folder/'starts.jsonl').exists() else []
    plans = json.loads((folder/'plans.json').read_text()) if (folder/'plans.json').exists() else None
    healing = {}
    for f in folder.glob('healing-*.json'):  # the curve that the quick run keeps
        note = json.loads(f.read_text())
        history = {k: [o[k] for o in note['history']] for k in note['history'][0]}
        healing[f.stem.removeprefix('healing-') + '-0'] = dict(
            seconds=note['seconds'], tokens=note['history'][-1]['tokens'], history=history)
    return asked, dict(config=config_record(config),
                       dtype=asked.get('dtype', 'torch.bfloat16'), plans=plans,
                       starts=[json.loads(o) for o in lines if o.strip()], healing=healing, items={}, seconds=0.)


def convert(old, new):
    folders = [o.parent for o in sorted(old.rglob('sweep.json'))]
    sweeps = {o.relative_to(old).as_posix().replace('.', 'main'): o for o in folders}
    asked = json.loads((folders[0]/'sweep.json').read_text())
    model = dict(fingerprint=asked['model'], name=NAME, depth=asked['depth'], parameters=TOTAL,
                 layer_parameters=[LAYER] * asked['depth'])
    with Run(new, model) as run:
        adds = []
        for name, folder in sweeps.items():
            asked, about = record(folder, name)
            assert asked['model'] == model['fingerprint'] and asked['depth'] == model['depth'], name
            plans = {}
            for row, key, score, layers in old_scores(folder):
                if isinstance(score, Score): score.shots = asked['config']['scoring'].get('shots', 0)
                adds.append(((name, *key), score, layers))
                if key[1]: plans['-'.join(map(str, [key[0], key[1], key[3]]))] = layers
                about['items'][row.task] = score.items
                about['seconds'] += score.seconds
            if about['plans'] is None: about['plans'] = plans
            run.note(name, **about | dict(seconds=round(about['seconds'], 1)))
        distances = [LayerDistances.load(o.parent) for o in sorted(old.rglob('distances.safetensors'))]
        assert len({o.fingerprint for o in distances}) == 1
        distances[0].save(new)
        run.record['distances'] = distances[0].fingerprint
        run.note(name)
        run.add_all(adds)
    if (old/'loss_map.json').exists():
        o = json.loads((old/'loss_map.json').read_text())
        before = LossMap.of({(l, e): s for l, e, s in o['sums']}, o['depth'], o['counts'], o['info'])
        before.save(new)
        after = LossMap.load(new)
        assert np.array_equal(before.sums, after.sums, equal_nan=True) and before.counts == after.counts
    return sweeps


def rename_tasks(folder, names):
    "Give tasks of a converted run other names: the first format called MMLU and BoolQ by likelihood `mmlu` and `boolq`"
    table = pd.read_csv(folder/'results.csv', keep_default_na=False, dtype=str)
    table['task'] = table.task.replace(names)
    table.to_csv(folder/'results.csv', index=False)
    items = pq.read_table(folder/'items.parquet')
    tasks = pa.array([names.get(o, o) for o in items['task'].to_pylist()], pa.string())
    items = items.set_column(items.schema.get_field_index('task'), 'task', tasks)
    pq.write_table(items, folder/'items.parquet', compression='zstd', compression_level=9, row_group_size=2**20)
    run, new = json.loads((folder/'run.json').read_text()), lambda o: names.get(o, o)
    for sweep in run['sweeps'].values():
        config = sweep['config']
        config['tasks'] = [new(o) for o in config['tasks']]
        for k in ('task_ns', 'n_questions', 'sources'):
            if isinstance(config.get(k), dict): config[k] = {new(o): v for o, v in config[k].items()}
        sweep['items'] = {new(o): v for o, v in sweep['items'].items()}
    (folder/'run.json').write_text(record_json(run))


def check(old, new, sweeps):
    "Every score is the old one; every row is the old row"
    table, n = read_run(new).set_index(KEYS), 0
    for name, folder in sweeps.items():
        for row, key, was, layers in old_scores(folder):
            now = kept_score(new, table.loc[(name, *key)].to_frame().T.assign(**dict(zip(KEYS, (name, *key)))).iloc[0])
            if isinstance(was, Score): was.logprobs = [[round(v, 3) for v in o] for o in was.logprobs]
            if isinstance(was, Score): was.shots = now.shots
            for k, v in asdict(was).items():
                got = getattr(now, k)
                same = math.isclose(v, got, abs_tol=6e-4) if k == 'seconds' else got == v
                assert same, f'{name} {key} {k}: {v!r:.200} then, {got!r:.200} now'
            n += 1
    assert n == len(table)
    return n


def same_table(old, new, code):
    "The table of `read_run` is that of the old reader, column by column"
    with tempfile.TemporaryDirectory() as d:
        say = (f'import sys; sys.path.insert(0, {str(code)!r})\nfrom prunebook.sweep import read_run\n'
               f'read_run({str(old)!r}).to_pickle({d + "/t.pkl"!r})')
        subprocess.run([sys.executable, '-c', say], check=True, cwd=code)
        before = pd.read_pickle(f'{d}/t.pkl')
    after, left = read_run(new), ['versions']
    before['sweep'] = before.sweep.replace('.', 'main')
    if before['dtype'].isna().all(): before['dtype'] = 'torch.bfloat16'
    names = [o for o in before if o not in left]
    before, after = (o.sort_values(KEYS).reset_index(drop=True)[names] for o in (before, after))
    pd.testing.assert_frame_equal(before, after, check_exact=True, check_dtype=False)
    return names


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('old', type=Path)
    p.add_argument('new', type=Path)
    p.add_argument('--old-code', type=Path)
    a = p.parse_args()
    sweeps = convert(a.old, a.new)
    print(f'{check(a.old, a.new, sweeps)} scores of {len(sweeps)} sweeps are those of the old run')
    if a.old_code:
        names = same_table(a.old, a.new, a.old_code)
        print(f'{len(names)} columns of the table are those of the old reader')
    rename_tasks(a.new, dict(mmlu='mmlu_text', boolq='boolq_text'))
