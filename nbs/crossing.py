"""What the page *Which layers carry what?* reads, judges and draws: the kept rows of N and O, by their rules."""
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from prunebook.paper.figures import WIDE, figure_style

RESULTS = Path(__file__).parent/'results'
QWEN = 'qwen2.5-coder-1.5b'
RESAMPLES = 20_000
CHANCE = {'arc_easy': .25, 'gsm8k': 0.}
MEASURES = {  # name: task and form
    'ARC-Easy:\neach answer scored': ('arc_easy', 'likelihood'),
    'ARC-Easy: choices shown,\nanswers scored': ('arc_easy', 'shown'),
    'ARC-Easy:\na letter picked': ('arc_easy', 'letter'),
    'ARC-Easy: a letter picked,\nother order': ('arc_easy', 'permuted'), 'GSM8K: written': ('gsm8k', '')}
N1, N1_EQUAL, N2 = ('15-16', '24'), ('8', '24'), ('13-16', '23-26')
SAY = {N1: 'Lower loss, fewer solutions', N2: 'Lower loss, more of both'}
RULES = {'maths': 'own answers to maths', 'code': 'own answers about code', 'c4': 'C4, the same search',
         'angle': 'the angle', 'middle': 'the middle'}
PROBLEMS = 600

def read_rows(model=QWEN):
    "The kept rows of a model, a row an item"
    table = pd.read_parquet(RESULTS/'map.parquet')
    return table[table.model == model]

def items(table, cut, task, form=''):
    "(items,) right answers without some layers, or (documents, 2) sums and counts of a loss; `None` if not asked"
    found = table[(table.layers == cut) & (table.task == task) & (table.form == form)].sort_values('item')
    if not len(found): return None
    return found[['sum', 'count']].to_numpy(float) if task == 'c4' else found['right'].to_numpy(float)

def resampled(values, seed=0):
    "(20,000,) means of resampled items; values (n,), or (n, 2) sums and counts"
    rng, n, means = np.random.default_rng(seed), len(values), []
    for _ in range(0, RESAMPLES, 1000):
        counts = rng.multinomial(n, np.full(n, 1 / n), 1000)
        means.append(counts @ values if values.ndim == 1 else (counts @ values[:, 0]) / (counts @ values[:, 1]))
    means = np.concatenate(means)
    return means / n if values.ndim == 1 else means

def paired(d):
    "Mean of differences (n,), or (n, 2) sums and counts, with the ends of its 95 % interval and p: value, low, high, p"
    means = resampled(d)
    value = d.mean() if d.ndim == 1 else d[:, 0].sum() / d[:, 1].sum()
    low, high = np.quantile(means, [.025, .975])
    p = min(1., max(1e-4, 2 * min((means <= 0).mean(), (means >= 0).mean())))
    return dict(value=value, low=low, high=high, p=p, n=len(d))

def difference(table, first, second, task, form=''):
    "The first cut minus the second over their common items: value, low, high, p; `None` if one was not asked"
    a, b = items(table, first, task, form), items(table, second, task, form)
    if a is None or b is None: return None
    if len(a) != len(b):  # 200 problems are every third but one of the 300
        few, many = sorted((a, b), key=len)
        many = many[[i * len(many) // len(few) for i in range(len(few))]]
        a, b = (few, many) if len(a) < len(b) else (many, few)
    d = a - b if a.ndim == 1 else np.stack([a[:, 0] - b[:, 0], b[:, 1]], 1)
    return paired(d)

def judge(signs):
    "The word of a test: differences, each with the sign that it must have. `None` stands for one that was not measured"
    if any(d is None for d, _ in signs): return dict(word='not measured', p=None)
    if all(d['high'] < 0 if sign < 0 else d['low'] > 0 for d, sign in signs): word = 'yes'
    elif any(d['low'] > 0 if sign < 0 else d['high'] < 0 for d, sign in signs): word = 'no'
    else: word = 'undecided'
    return dict(word=word, p=max(d['p'] for d, _ in signs))

def judge_n1(table, pair=N1):
    "N1: a lower C4 loss, and fewer right letters and right answers to GSM8K"
    return judge([(difference(table, *pair, *o), -1) for o in (('c4',), ('arc_easy', 'letter'), ('gsm8k',))])

def judge_n2(table):
    "N2: more right answers where each is scored, and fewer right letters"
    return judge([(difference(table, *N2, 'arc_easy', 'likelihood'), 1),
                  (difference(table, *N2, 'arc_easy', 'letter'), -1)])

def kept(table, cut, task, form):
    "The share of the whole model's accuracy above chance that a cut keeps, with its interval; `None` if not asked"
    a, whole = items(table, cut, task, form), items(table, '', task, form)
    if a is None or whole is None: return None
    whole = whole[[i * len(whole) // len(a) for i in range(len(a))]]
    both = [resampled(o) - CHANCE[task] for o in (a, whole)]  # the same items are drawn
    low, high = np.quantile(both[0] / both[1], [.025, .975])
    return (a.mean() - CHANCE[task]) / (whole.mean() - CHANCE[task]), low, high

def draw_pairs(table, pairs=(N1, N2)):
    "What two cuts keep of each measure, a panel a pair: where the colours change sides, the order of the cuts reverses"
    def asked(pair, measure): return all(items(table, cut, *measure) is not None for cut in pair)
    names = [k for k, o in MEASURES.items() if any(asked(pair, o) for pair in pairs)]
    with figure_style():
        _, axes = plt.subplots(1, len(pairs), figsize=(WIDE, .55 * len(names) + 2), sharey=True, layout='constrained')
        for ax, pair in zip(np.atleast_1d(axes), pairs):
            there = [i for i, k in enumerate(names) if asked(pair, MEASURES[k])]
            for i in {*range(len(names))} - {*there}: ax.text(.5, i, 'not asked', color='.5', ha='center', va='center')
            for cut, color, marker in zip(pair, ('C0', 'C1'), 'os'):
                points = np.array([kept(table, cut, *MEASURES[names[i]]) for i in there])
                y = np.array(there) + (.12 if cut == pair[0] else -.12)
                value, low, high = points.T
                ax.errorbar(value, y, xerr=[value - low, high - value], fmt=marker, color=color, ms=6, elinewidth=1,
                            capsize=2)
                title = 'layer' if '-' not in cut else 'layers'
                loss = items(table, cut, 'c4')
                whole = items(table, '', 'c4')
                added = (loss[:, 0].sum() - whole[:, 0].sum()) / whole[:, 1].sum()
                ax.annotate(f'without {title} {cut.replace("-", "–")}: C4 loss +{added:.2f} nats', (0, 1),
                            (0, 24 if cut == pair[0] else 8), xycoords='axes fraction', textcoords='offset points',
                            color=color, fontsize=9)
            ax.axvline(0, color='.7', lw=.8)
            ax.axvline(1, color='.7', lw=.8, ls=':')
            ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - .5, -.5))
            ax.set_title(SAY[pair], loc='left', pad=40)
            ax.set_xticks([0, .5, 1])
            ax.xaxis.set_major_formatter(lambda v, _: f'{100 * v:.0f} %')
        axes[0].figure.supxlabel('kept of what the whole model has above chance', fontsize=10)
    return axes

def read_choices():
    "A row a rule of experiment O: its `layers`, what they cost on answers to `maths` and `code`, and (600,) `right`"
    plans = pd.read_json(RESULTS/'choose.json')
    rows = pd.read_parquet(RESULTS/'choose.parquet').sort_values('item')
    asked = {cut: o for cut, o in rows.groupby('layers') if len(o) == PROBLEMS}
    cuts = [' '.join(map(str, o)) for o in plans.layers]
    return plans[['layers']].assign(
        **pd.DataFrame(plans.held_out.tolist()),
        right=[asked[o].right.to_numpy(float) if o in asked else None for o in cuts],
        broken=[(asked[o].tokens >= 768).mean() if o in asked else None for o in cuts]).set_index(plans.rule)

def judge_o(choices, other):
    "O: the cut by own answers to maths minus that of another rule, with *better*, *worse*, *undecided*, or its reason"
    ours, theirs = choices.loc['maths'], choices.loc[other]
    if ours.layers == theirs.layers: return dict(word='the same cut', p=None)
    if ours.right is None or theirs.right is None: return dict(word='not measured', p=None)
    d = paired(ours.right - theirs.right)
    return d | dict(word='better' if d['low'] > 0 else 'worse' if d['high'] < 0 else 'undecided')

def draw_choices(choices):
    "Of each rule's cut, the loss that it adds on answers to maths, and the problems that it solves"
    there = choices[[o is not None for o in choices.right]]
    there = there.iloc[np.argsort([o.mean() for o in there.right])]
    with figure_style():
        _, (left, ax) = plt.subplots(1, 2, figsize=(WIDE, .6 * len(there) + 1.2), sharey=True, layout='constrained')
        for y, (rule, o) in enumerate(there.iterrows()):
            color = 'C1' if rule in ('maths', 'code') else 'C0'
            low, high = np.quantile(resampled(o.right), [.025, .975])
            left.plot([0, o.maths], [y, y], 'o-', color=color, markevery=[1])
            ax.errorbar(o.right.mean(), y, xerr=[[o.right.mean() - low], [high - o.right.mean()]], fmt='o', color=color,
                        ms=6, elinewidth=1, capsize=2)
            ax.annotate(f'{o.right.sum():.0f}', (high, y), (6, 0), textcoords='offset points', va='center', color=color)
        names = [f'{RULES[k]}:\nlayers {" and ".join(map(str, o))}' for k, o in there.layers.items()]
        left.set(yticks=range(len(names)), yticklabels=names, xlim=(0, None), ylim=(-.5, len(names) - .5),
                 xlabel='added loss on other answers, nats')
        ax.set(xlim=(0, None), xlabel=f'of {PROBLEMS} problems solved')
        left.figure.suptitle('Own answers choose the better cut', x=.02, ha='left', fontsize=12)
        ax.xaxis.set_major_formatter(lambda v, _: f'{100 * v:.0f} %')
    return left, ax
