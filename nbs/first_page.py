"""What the first page draws and says: the kept runs, without layers."""
from pathlib import Path

import numpy as np

from prunebook.evaluation.losses import LossMap
from prunebook.paper.claims import resamples
from prunebook.paper.figures import figure_style, panels
from prunebook.similarity.distances import LayerDistances

RESULTS = Path(__file__).parent/'results'
TESTS = {'arc_easy': ('ARC-Easy:\nscore each\nanswer', '#009E73', (8.4, 83)),  # where the label stands
         'arc_easy:scoring=letter': ('ARC-Easy:\npick a letter', '#b45f06', (5.8, 46)),
         'gsm8k': ('GSM8K: write solution', '#6a3d9a', (-.1, -9))}

def draw(run):
    "The added loss, and what three ways of asking keep, against the layers dropped; gives the rows of both"
    kept = {k: run.items(k).retention().query('n <= 8') for k in TESTS}
    added = run.items('c4').excess().query('n <= 8')
    left, right = panels(2, width_ratios=(1, 1.8))
    left.figure.set_size_inches(5.6, 3.6)  # narrow, so that its text can be read on a phone
    with figure_style():
        left.fill_between(added.n, added.low, added.high, color='#0072B2', alpha=.15, lw=0)
        left.plot(added.n, added.value, 'o:', color='#0072B2', mfc='white')
        left.set(ylim=(0, .55), xticks=range(0, 9, 2), xlabel='layers dropped, of 28',
                 ylabel='added loss (nats per token)')
        left.set_title('One loss …\n', loc='left')
        for k, (label, color, place) in TESTS.items():
            o = kept[k]
            right.fill_between(o.n, 100 * o.low, 100 * o.high, color=color, alpha=.13, lw=0)
            right.plot(o.n, 100 * o.value, 'o:', color=color, mfc='white')
            right.text(*place, label, color=color, va='center', fontsize=10)
        right.axhline(0, color='0.5', lw=1, ls=':')
        right.text(11.9, 2, 'chance', color='0.4', ha='right')
        right.set(ylim=(-16, 125), xlim=(-.3, 12), xticks=range(0, 9, 2), xlabel='layers dropped, of 28',
                  ylabel='accuracy above chance kept (%)')
        right.set_title('… but what survives depends\non how you ask', loc='left')
    return kept, added

def against_angle(name, share):
    "(2, resamples) of the middle's and the median block's loss minus the angle's, a mean over sizes"
    losses, distances = (o.load(RESULTS/name) for o in (LossMap, LayerDistances))
    counts, found, depth = np.array(losses.counts), [], losses.depth
    weight = resamples(len(counts))
    for n in (n for n in losses.sizes if n <= depth * share):
        sums = np.stack([losses.sums[l, l + n] for l in range(depth - n + 1)])
        loss = weight @ sums.T / (weight @ counts)[:, None]
        found.append([loss[:, (depth - n) // 2], np.median(loss, 1)] - loss[:, distances.best_block(n).start])
    return np.mean(found, 0)
