"""The demo model's numbers stay the same. `PRUNEBOOK_GOLDEN=write pytest tests/test_golden.py` writes tests/golden.json
anew, which is right only after a change that is meant to change them. All in float32, where CPUs differ little."""
import json, os
from pathlib import Path
from prunebook.data.texts import load_texts
from prunebook.evaluation.losses import cut_losses
from prunebook.model.loading import load_model
from prunebook.similarity.distances import layer_distances

file = Path(__file__).with_name('golden.json')
BLOCKS = [(0, 1), (5, 1), (14, 1), (29, 1), (11, 8), (21, 8), (3, 12), (9, 20), (0, 29)]  # (l, n)
CUTS = dict(none=[], one=[14], similarity_8=range(11, 19), simple_8=range(21, 29), first=[0])
# how far another CPU, other kernels or another number of threads may be off
DISTANCE, LOSS = 1e-4, 1e-3

def test_distances_and_losses():
    model, tok = load_model('demo', dtype='float32')
    d = layer_distances(model, tok, load_texts('demo', n=8), max_length=128, progress=False).mean
    keeps = [[i for i in range(30) if i not in c] for c in CUTS.values()]
    texts = load_texts('demo', split='validation', n=8)
    losses = cut_losses(model, tok, texts, keeps, max_length=128, progress=False)
    found = dict(distances={f'{l},{n}': float(d[l, l+n]) for l, n in BLOCKS},
                 losses={k: s.value for k, s in zip(CUTS, losses)})
    kept = json.loads(file.read_text())
    if os.environ.get('PRUNEBOOK_GOLDEN') == 'write':
        file.write_text(json.dumps(dict(what=kept['what'], **found), indent=1) + '\n')
        kept = found
    for name, tolerance in (('distances', DISTANCE), ('losses', LOSS)):
        assert kept[name].keys() == found[name].keys()
        off = {k: abs(found[name][k] - v) for k, v in kept[name].items()}
        assert max(off.values()) < tolerance, {k: v for k, v in off.items() if v >= tolerance}
