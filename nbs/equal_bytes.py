"""What the page *Should you prune?* reads, judges and draws: the kept rows of experiment P, by its rules."""
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from crossing import paired, resampled
from prunebook.paper.figures import WIDE, figure_style

RESULTS = Path(__file__).parent/'results'
SIBLING, PROBLEMS, GSM8K = '0.5b-q4_k_m', 400, 'gsm8k:shots=0'
CUTS = ('cut-1', 'cut-2', 'cut-4', 'answers-2', 'healed-2', 'cut-2-q3_k_m')
NAMES = {'q4_k_m': '1.5B, 4 bits', 'q3_k_m': '1.5B, 3 bits', 'q2_k': '1.5B, 2 bits', 'cut-1': '1 layer less',
         'cut-2': '2 layers less', 'cut-4': '4 layers less', 'answers-2': '2 layers less, chosen by answers',
         'healed-2': '2 layers less, healed', 'cut-2-q3_k_m': '2 layers less, 3 bits', '0.5b-q4_k_m': '0.5B, 4 bits',
         '0.5b-q8_0': '0.5B, 8 bits'}
BESIDE = {'q3_k_m': (-8, 4, 'right', 'bottom'), 'cut-2-q3_k_m': (0, -18, 'center', 'top'),
          '0.5b-q8_0': (0, -22, 'center', 'top'), 'cut-2': (8, 2, 'left', 'bottom')}  # labels that would meet another

def read_arms():
    "What is known of each file, a row an arm"
    return pd.read_csv(RESULTS/'should_you.csv', keep_default_na=False, na_values=['']).set_index('arm')

def read_rows():
    "The kept rows: `arm`, `task`, `item`, `right`, `written`, `tokens`"
    return pd.read_parquet(RESULTS/'should_you.parquet')

def right(rows, arm, task=GSM8K, whole=True):
    "(items,) right answers of an arm, by item; `None` if it was not asked, or if `whole`, not all of GSM8K"
    found = rows[(rows.arm == arm) & (rows.task == task)].sort_values('item')
    enough = len(found) and not (whole and task == GSM8K and len(found) < PROBLEMS)
    return found.right.to_numpy(float) if enough else None

def share(values):
    "The share of right answers, and the ends of its 95 % interval over the items"
    return values.mean(), *np.quantile(resampled(values), [.025, .975])

def rival(arms, cut):
    "The largest file of the whole 1.5B that is no larger than the file of a cut; `None` if there is none"
    whole = arms.loc[[o for o in ('q4_k_m', 'q3_k_m', 'q2_k') if o in arms.index]]
    small = whole[whole.bytes <= arms.bytes[cut]]
    return small.bytes.idxmax() if len(small) else None

def compare(rows, first, second, task=GSM8K):
    "The first arm minus the second, paired over the items: value, low, high, p and the word of the rule"
    a, b = (None if o is None else right(rows, o, task) for o in (first, second))
    if a is None or b is None: return dict(word='not measured', p=None)
    d = paired(a - b)
    return d | dict(word='better' if d['low'] > 0 else 'worse' if d['high'] < 0 else 'undecided')

def verdicts(arms, rows):
    "The two fixed comparisons of each cut, a row each"
    there = [o for o in CUTS if o in arms.index]
    pairs = [(cut, o) for cut in there for o in (rival(arms, cut), SIBLING) if o is not None]
    return pd.DataFrame([dict(cut=a, other=b) | compare(rows, a, b) for a, b in pairs])

def frontier(points):
    "Of (bytes, share), those that no smaller file reaches, the smallest first"
    best, kept = -1., []
    for at, value in sorted(points):
        if value > best:
            kept.append((at, value))
            best = value
    return kept

def draw(arms, rows):
    "MB of each file against the problems that it solves; whole models filled, cuts open, and the frontier"
    known = {o: right(rows, o, whole=False) for o in arms.index}
    known = {k: o for k, o in known.items() if o is not None}
    with figure_style():
        _, ax = plt.subplots(figsize=(WIDE, 3.6), layout='constrained')
        points = []
        for name, values in known.items():
            value, low, high = share(values)
            cut, color = name in CUTS, 'C2' if name.startswith('0.5b') else 'C1' if name in CUTS else 'C0'
            mb = arms.bytes[name] / 1e6
            ax.errorbar(mb, value, [[value - low], [high - value]], fmt='D' if name.startswith('healed') else 'o',
                        color=color, ms=7, elinewidth=1, mfc='w' if cut else color)
            few = '' if len(values) == PROBLEMS else f'\n({len(values)} of {PROBLEMS} problems)'
            x, y, ha, va = BESIDE.get(name, (8, -3, 'left', 'top'))
            ax.annotate(NAMES[name] + few, (mb, value), (x, y), textcoords='offset points', ha=ha, va=va, color=color)
            points.append((mb, value))
        ax.plot(*zip(*frontier(points)), color='.6', lw=1, ls='--', zorder=0)
        ax.set(xlabel='MB of the file', ylabel='problems solved', ylim=(0, .75),
               xlim=(arms.bytes.min() / 1e6 - 60, arms.bytes.max() / 1e6 + 250))
        ax.yaxis.set_major_formatter(lambda v, _: f'{100 * v:.0f} %')
        ax.set_title('Three bits solve more than any cut at four, in fewer bytes', loc='left')
    return ax

def times_as_fast(arms, kind):
    "Of each file, its tokens a second over those of the whole model at four bits, (rounds,); kind: prompt or generate"
    runs = {k: np.array(o.split(), float) for k, o in arms[f'{kind}_runs'].dropna().items()}
    return {k: o / runs['q4_k_m'] for k, o in runs.items()}

def draw_speed(arms):
    "How fast each file reads a prompt and writes, beside the whole model at four bits: the median and all rounds"
    kinds = {'prompt': 'reads a prompt', 'generate': 'writes'}
    found = {kind: times_as_fast(arms, kind) for kind in kinds}
    names = sorted(found['generate'], key=lambda o: np.median(found['generate'][o]))
    with figure_style():
        _, axes = plt.subplots(1, 2, figsize=(WIDE, .3 * len(names) + 1.2), sharey=True, layout='constrained')
        for ax, (kind, title) in zip(axes, kinds.items()):
            for y, name in enumerate(names):
                values = found[kind][name]
                cut, color = name in CUTS, 'C2' if name.startswith('0.5b') else 'C1' if name in CUTS else 'C0'
                ax.plot([values.min(), values.max()], [y, y], color=color, lw=1)
                ax.plot(np.median(values), y, 'o', color=color, ms=6, mfc='w' if cut else color)
            ax.axvline(1, color='.6', ls='--', lw=1, zorder=0)
            ax.set(yticks=range(len(names)), yticklabels=[NAMES[o] for o in names], xlim=(0, None),
                   xlabel='times as fast as 4 bits')
            ax.set_title(title, loc='left')
        title = 'Only the sibling is faster, and three bits write slower'
        axes[0].figure.suptitle(title, x=.02, ha='left', fontsize=12)
    return axes
