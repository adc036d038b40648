"""The demo model's numbers stay the same. `PRUNEBOOK_GOLDEN=write pytest tests/test_golden.py` writes tests/golden.json
anew, which is right only after a change that is meant to change them. All in float32, where CPUs differ little."""
import json
import os
from pathlib import Path
import numpy as np
import pytest
import torch
from prunebook.data.questions import load_questions
from prunebook.data.texts import load_texts
from prunebook.evaluation.choices import choice_accuracy
from prunebook.evaluation.losses import cut_losses
from prunebook.model.loading import load_model
from prunebook.similarity.distances import layer_distances

file = Path(__file__).with_name('golden.json')
BLOCKS = [(0, 1), (5, 1), (14, 1), (29, 1), (11, 8), (21, 8), (3, 12), (9, 20), (0, 29)]  # (l, n)
CUTS = dict(none=[], one=[14], similarity_8=range(11, 19), simple_8=range(21, 29), first=[0])
# how far another CPU, other kernels or another number of threads may be off
DISTANCE, LOSS, THREADS = 1e-4, 1e-3, 1e-5


@pytest.fixture(scope='module')
def float_demo(): return load_model('demo', dtype='float32')


def distances(model, tok, n=8):
    return layer_distances(model, tok, load_texts('demo', n=n), max_length=128, progress=False).mean


def losses(model, tok, n=8):
    keeps = [[i for i in range(30) if i not in c] for c in CUTS.values()]
    texts = load_texts('demo', split='validation', n=n)
    return {k: s.value for k, s in zip(CUTS, cut_losses(model, tok, texts, keeps, max_length=128, progress=False))}


def likelihoods(model, tok):
    score = choice_accuracy(model, tok, load_questions('demo', n=4), progress=False)
    return [v for o in score.logprobs for v in o]


def test_distances_and_losses(float_demo):
    d = distances(*float_demo)
    found = dict(distances={f'{l},{n}': float(d[l, l+n]) for l, n in BLOCKS}, losses=losses(*float_demo))
    kept = json.loads(file.read_text())
    if os.environ.get('PRUNEBOOK_GOLDEN') == 'write':
        file.write_text(json.dumps(dict(what=kept['what'], **found), indent=1) + '\n')
        kept = found
    for name, tolerance in (('distances', DISTANCE), ('losses', LOSS)):
        assert kept[name].keys() == found[name].keys()
        off = {k: abs(found[name][k] - v) for k, v in kept[name].items()}
        assert max(off.values()) < tolerance, {k: v for k, v in off.items() if v >= tolerance}


@pytest.mark.thorough
def test_threads(float_demo):
    was, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert torch.get_num_threads() == n
            values = list(losses(*float_demo, n=3).values())
            found.append((distances(*float_demo, n=3), values, likelihoods(*float_demo)))
    finally: torch.set_num_threads(was)
    for name, one, two in zip(('distances', 'losses', 'likelihoods'), *found):
        np.testing.assert_allclose(one, two, rtol=THREADS, atol=THREADS, err_msg=name)
