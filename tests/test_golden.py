"""The demo model's numbers stay what they were. `PRUNEBOOK_GOLDEN=write pytest tests/test_golden.py` writes tests/golden.json anew,
which is right only after a change that is meant to change them. All in float32, where processors differ little."""
import json, os
from pathlib import Path
import numpy as np, pytest, torch
from prunebook import choice_accuracy, layer_distances, load_model, load_questions, load_texts
from prunebook.sweep import cut_losses

file = Path(__file__).with_name('golden.json')
BLOCKS = [(0, 1), (5, 1), (14, 1), (29, 1), (11, 8), (21, 8), (3, 12), (9, 20), (0, 29)]  # (l, n)
CUTS = dict(none=[], one=[14], similarity_8=range(11, 19), simple_8=range(21, 29), first=[0])
# how far another processor, other kernels or another number of threads may be off
DISTANCE, LOSS, THREADS = 1e-4, 1e-3, 1e-5

@pytest.fixture(scope='module')
def demo(): return load_model('demo', dtype='float32')

def distances(model, tok, n=8): return layer_distances(model, tok, load_texts('demo', n=n), max_length=128, progress=False).mean

def losses(model, tok, n=8):
    keeps = [[i for i in range(30) if i not in c] for c in CUTS.values()]
    return {k: s.value for k, s in zip(CUTS, cut_losses(model, tok, load_texts('demo', split='validation', n=n), keeps, max_length=128, progress=False))}

def test_distances_and_losses(demo):
    d = distances(*demo)
    found = dict(distances={f'{l},{n}': float(d[l, l+n]) for l, n in BLOCKS}, losses=losses(*demo))
    if os.environ.get('PRUNEBOOK_GOLDEN') == 'write':
        file.write_text(json.dumps(dict(what='SmolLM2-135M-Instruct (demo), float32; distances: 8 calibration texts, losses: 8 validation texts, 128 tokens each', **found), indent=1) + '\n')
    kept = json.loads(file.read_text())
    for what, tolerance in (('distances', DISTANCE), ('losses', LOSS)):
        assert kept[what].keys() == found[what].keys()
        off = {k: abs(found[what][k] - v) for k, v in kept[what].items()}
        assert max(off.values()) < tolerance, {k: v for k, v in off.items() if v >= tolerance}

def likelihoods(model, tok): return [v for o in choice_accuracy(model, tok, load_questions('demo', n=4), progress=False).logprobs for v in o]

def test_threads(demo):
    was, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert torch.get_num_threads() == n
            found.append((distances(*demo, n=3), list(losses(*demo, n=3).values()), likelihoods(*demo)))
    finally: torch.set_num_threads(was)
    for what, one, two in zip(('distances', 'losses', 'likelihoods'), *found): np.testing.assert_allclose(one, two, rtol=THREADS, atol=THREADS, err_msg=what)
