"""Fuzzing that follows the code's branches: atheris changes the bytes that reach a branch not seen before. On request,
since atheris has wheels for few systems:   pip install atheris && python tools/guided.py -runs=100000 [-seed=0]
A result or a `PrunebookError` may come of it. Anything else stops it, and the bytes are kept as crash-…
`PRUNEBOOK_GUIDED=file.json` keeps the counts, by the thousand."""
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
import atheris
with atheris.instrument_imports(include=['prunebook']):
    from prunebook.pruning.checkpoint import _read_header
    from prunebook.core import PrunebookError
    from prunebook.data.questions import load_questions
    from prunebook.data.texts import load_texts
    from prunebook.data.questions import check_items
    from prunebook.evaluation.scores import Score, load_score
    from prunebook.healing.recipes import HealingConfig
    from prunebook.evaluation.losses import LossMap
    from prunebook.pruning.strategies import Plan, as_plan
    from prunebook.paper.sweep import SweepConfig

os.environ.update(HF_HUB_OFFLINE='1', PIP_NO_INDEX='1')
logging.disable()
root, cases, refused = Path(tempfile.mkdtemp()), Counter(), Counter()


def put(name, data):
    (root/name).write_bytes(data)
    return root/name


def reload(load):
    "A file that was read is written and read again, and is the same"
    def f(data):
        found = load(put('x.json', data))
        found.save(root/'again.json')
        assert load(root/'again.json') == found
    return f


def header(data):
    for t in _read_header(put('x.safetensors', data)): assert t.size >= 0 and t.stop <= len(data)


def layers(data): assert all(0 <= i < 40 for i in as_plan(data.decode('utf-8', 'replace'), 40))


def whole_map():
    "The bytes of a right loss map"
    LossMap.of({(0, 0): [1., 2.], (0, 1): [2., 3.]}, 2, [3, 4], {}).save(root)
    data = (root/'loss_map.safetensors').read_bytes()
    (root/'loss_map.safetensors').unlink()
    return data


head = json.dumps({'w': dict(dtype='F32', shape=[2], data_offsets=[0, 8])}).encode()
score = asdict(Score('t', .5, 1, 2, .1, .9, [0, 1], [0, 0], 'likelihood', .5, .5)) | dict(kind='Score')
READERS = dict(
    header=(header, len(head).to_bytes(8, 'little') + head + bytes(8)), layers=(layers, b'1, 3-5, -1'),
    healing=(reload(HealingConfig.load), asdict(HealingConfig())),
    sweep=(reload(SweepConfig.load), asdict(SweepConfig())),
    plan=(reload(Plan.load), dict(layers=[1, 2], depth=4, strategy='x', details={})),
    score=(lambda d: load_score(put('x.json', d)), score),
    loss_map=(lambda d: LossMap.load(put('x.safetensors', d)), whole_map()),
    questions=(lambda d: check_items(load_questions(str(put('q.jsonl', d)))),
               dict(question='q', choices=['a', 'b'], answer=1)),
    texts=(lambda d: load_texts(str(put('t.jsonl', d))), dict(text='x')),
    lines=(lambda d: load_texts(str(put('t.txt', d))), b'one\ntwo\n'))
known = {'x.json', 'again.json', 'x.safetensors', 'q.jsonl', 't.jsonl', 't.txt'}


def one(data):
    if not data: return
    name, (read, _) = list(READERS.items())[data[0] % len(READERS)]
    cases[name] += 1
    try: read(data[1:])
    except PrunebookError as e:
        assert str(e).strip()
        refused[name] += 1
    assert {p.name for p in root.iterdir()} <= known
    if (out := os.environ.get('PRUNEBOOK_GUIDED')) and not sum(cases.values()) % 1000:
        counts = {k: dict(cases=cases[k], refused=refused[k]) for k in READERS}
        Path(out).write_text(json.dumps(counts, indent=1) + '\n')


if __name__ == '__main__':
    corpus = Path(tempfile.mkdtemp())
    for i, (_, right) in enumerate(READERS.values()):
        right = right if isinstance(right, bytes) else json.dumps(right, default=str).encode()
        (corpus/str(i)).write_bytes(bytes([i]) + right)
    atheris.Setup([*sys.argv, str(corpus), '-max_len=2000', '-timeout=20', '-rss_limit_mb=4000'], one)
    atheris.Fuzz()
