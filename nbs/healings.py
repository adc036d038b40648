"""What *No healing is shown to bring written answers back* reads, compares and draws: the rows of experiment M."""
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from prunebook.evaluation.scores import ratio_interval, wilson
from prunebook.paper.claims import bootstrap, with_interval
from prunebook.paper.criteria import holm
from prunebook.paper.figures import figure_style, panels

RESULTS = Path(__file__).parent/'results'
ARMS = {'parent': 'whole', 'c4-0': 'whole healed on C4', 'self-0': 'whole healed on own answers',
        'cut-2': 'cut, not healed', 'c4-2': 'healed on C4', 'c4-slow-2': 'healed on C4, slowly',
        'self-2': 'healed on own answers', 'c4-top-2': 'distilled on C4', 'self-top-2': 'distilled on own answers'}
AGAIN = {'c4-2-seed-1': 'c4-2', 'c4-2-seed-2': 'c4-2', 'c4-slow-2-seed-1': 'c4-slow-2', 'self-2-seed-1': 'self-2',
         'self-2-seed-2': 'self-2'}  # other seeds
LENGTHS = {'self-2-less': '0.3 × the tokens', 'self-2-more': '3 × the tokens'}
FOUR = {'cut-4': 'four layers cut, not healed', 'c4-4': 'four layers cut, healed on C4',
        'self-4': 'four layers cut, healed on own answers'}
NAMES = ARMS | {k: f'{ARMS[v]}, seed {k[-1]}' for k, v in AGAIN.items()}
NAMES |= {k: f"{ARMS['self-2']}, {v}" for k, v in LENGTHS.items()} | FOUR
COLOURS = {o: '#b45f06' if o.startswith('self') else '#0072B2' for o in ARMS} | {'parent': '0.35', 'cut-2': '0.6'}
GSM8K = 'gsm8k:shots=0'
WRITTEN = {GSM8K: 'GSM8K', 'humaneval': 'HumanEval'}
TASKS = {k: f'{v} (%)' for k, v in WRITTEN.items()} | {'arc_easy': 'ARC-Easy (%)', 'c4': 'C4 loss (nats)'}
FIXED = 'c4-2', 'self-2'  # the one comparison that was fixed before any row
QUESTIONS = {
    'Own answers or C4?': (FIXED, ('c4-2-seed-1', 'self-2'), ('c4-2-seed-1', 'self-2-seed-1'),
                           ('c4-2-seed-2', 'self-2-seed-2'), ('c4-top-2', 'self-top-2')),
    'And without four layers?': (('c4-4', 'self-4'), ('cut-4', 'c4-4'), ('cut-4', 'self-4')),
    'Does C4 cost answers?': (('cut-2', 'c4-2'), ('cut-2', 'c4-2-seed-1'), ('cut-2', 'c4-2-seed-2'),
                              ('cut-2', 'c4-slow-2'), ('cut-2', 'c4-slow-2-seed-1')),
    'And where nothing is cut?': (('parent', 'c4-0'), ('parent', 'self-0'), ('c4-0', 'self-0')),
    'Do own answers bring any back?': (('cut-2', 'self-2'), ('cut-2', 'self-2-seed-1'), ('cut-2', 'self-2-seed-2'),
                                       ('cut-2', 'self-top-2')),
    'Do more tokens help?': (('self-2-less', 'self-2-more'), ('cut-2', 'self-2-more'),
                             ('cut-2', 'self-2-less')),
    'Does the teacher help?': (('c4-2', 'c4-top-2'), ('c4-2-seed-1', 'c4-top-2'), ('self-2', 'self-top-2'),
                               ('cut-2', 'c4-top-2')),
    'Does a lower rate help?': (('c4-2', 'c4-slow-2'), ('c4-2-seed-1', 'c4-slow-2-seed-1')),
    'Do two seeds differ?': (('c4-2', 'c4-2-seed-1'), ('c4-2', 'c4-2-seed-2'), ('c4-2-seed-1', 'c4-2-seed-2'),
                             ('self-2', 'self-2-seed-1'), ('self-2', 'self-2-seed-2'),
                             ('self-2-seed-1', 'self-2-seed-2'), ('c4-slow-2', 'c4-slow-2-seed-1'))}
PROGRAMS = (('cut-2', 'c4-2-seed-1'), ('cut-2', 'c4-slow-2'), ('cut-2', 'self-2-seed-1'),
            ('c4-2-seed-1', 'self-2-seed-1'), ('cut-2', 'c4-top-2'), ('cut-2', 'self-top-2'),
            ('c4-top-2', 'self-top-2'))  # of HumanEval
LONGER = 'self-2-less', 'self-2', 'self-2-seed-1', 'self-2-seed-2', 'self-2-more'

@cache
def read_rows():
    "The kept rows: `arm`, `task`, `item`, `right` and `written`, or `sum` and `count` of a loss"
    return pd.read_parquet(RESULTS/'abilities.parquet').sort_values(['arm', 'task', 'item'])

def read_notes():
    "Of each arm, the tokens, steps and losses of its healing"
    return json.loads((RESULTS/'abilities.json').read_text())

def items(arm, task): return read_rows()[(read_rows().arm == arm) & (read_rows().task == task)]

@cache
def unhealed():
    "Scores of the whole model and of the cut that another run kept, on the same documents and questions"
    kept = pd.read_csv(RESULTS/'qwen2.5-coder-1.5b'/'results.csv').query("sweep == 'cuts' and not healed")
    return {'parent': kept[kept.n == 0], 'cut-2': kept[(kept.n == 2) & (kept.strategy == 'similarity')]}

def score(arm, task):
    "Value, low and high: a loss, or the share of right answers in per cent; `None` if it was not measured"
    o, other = items(arm, task), unhealed()
    if not len(o):
        if arm not in other: return None
        rows = other[arm][other[arm].task == task]
        return None if rows.empty else (rows[['value', 'low', 'high']].iloc[0] * (1 if task == 'c4' else 100)).tolist()
    if task in ('c4', 'agreement'):
        return [v * (1 if task == 'c4' else 100) for v in ratio_interval(o['sum'], o['count'])]
    k, n = int(o.right.sum()), len(o)
    return 100 * k / n, *(100 * v for v in wilson(k, n))

def difference(task, *arms):
    "The second of two arms minus the first, paired, with its 95 % interval"
    a, b = (items(o, task).reset_index() for o in arms)
    if task == 'c4': return ratio_interval(b['sum'] - a['sum'], a['count'])
    drawn = bootstrap(np.array([a.right, b.right], float)) @ [-100, 100]
    return 100 * (b.right.mean() - a.right.mean()), *np.quantile(drawn, [.025, .975])

@cache
def unhealed_losses():
    "(64,) summed C4 losses of the whole model (0) and of the cut (2), on the same documents, by another run"
    stored = pd.read_parquet(RESULTS/'qwen2.5-coder-1.5b'/'items.parquet', filters=[
        ('sweep', '==', 'cuts'), ('task', '==', 'c4'), ('strategy', 'in', ['none', 'similarity'])]).sort_values('index')
    return {n: stored[stored.n == n].loss.to_numpy() for n in (0, 2)}

def by_healing(arm, task):
    "A healed model minus the one that it began with, paired, with its 95 % interval"
    whole = arm.split('-seed')[0].endswith('-0')
    if task != 'c4': return difference(task, 'parent' if whole else 'cut-2', arm)
    o = items(arm, 'c4')
    return ratio_interval(o['sum'].to_numpy() - unhealed_losses()[0 if whole else 2], o['count'].to_numpy())

def told(task, *arms): return with_interval(*difference(task, *arms), '+.2f' if task == 'c4' else '+.1f')

def comparisons():
    "All pairs of healings: points, problems that one of them solves alone, and p by a sign test after Holm"
    asked = [(GSM8K, k, *o) for k, pairs in QUESTIONS.items() for o in pairs]
    asked += [('humaneval', 'What of HumanEval?', *o) for o in PROGRAMS]
    found, chances = [], []
    for task, question, a, b in asked:
        one, other = (items(o, task).right.to_numpy(bool) for o in (a, b))
        won, lost = int((other & ~one).sum()), int((one & ~other).sum())
        found.append((question, NAMES[b], NAMES[a], told(task, a, b), won, lost))
        if (a, b) != FIXED: chances.append(binomtest(won, won + lost).pvalue)
    found = pd.DataFrame(found, columns=['question', 'model', 'against', 'points', 'won', 'lost'])
    found['p'] = ['fixed', *(f'{o:.2g}' for o in holm(chances))]  # over all that were not fixed
    return found

def draw_healings():
    "What each healing adds to the loss, and to the problems that are solved; the smaller points are other seeds"
    arms = [o for o in ARMS if o not in ('parent', 'cut-2')]
    with figure_style():
        axes = panels(2, 2, sharey=True)
        axes[0].figure.set_size_inches(5.6, 4)  # narrow, so that its text can be read on a phone
        for ax, (task, label) in zip(axes, (('c4', 'C4 loss added (nats)'), (GSM8K, 'GSM8K gained (points)'))):
            for name in [*arms, *AGAIN]:
                if not len(items(name, task)): continue
                value, low, high = by_healing(name, task)
                arm = AGAIN.get(name, name)
                y = arms.index(arm) + .22 * (int(name[-1]) if name in AGAIN else 0)
                ax.errorbar(value, y, xerr=[[value - low], [high - value]], fmt='o', ms=7 - 2 * (name in AGAIN),
                            capsize=3, color=COLOURS[arm])
            ax.set(xlabel=label, ylim=(len(arms) - .4, -.5))
            ax.axvline(0, color='0.5', ls=':', lw=1, zorder=0)
            ax.tick_params('y', length=0)
        axes[0].set_yticks(range(len(arms)), [re.sub('(?<=,) | (?=on [^,]*$)', '\n', ARMS[o]) for o in arms])
        axes[0].set_title('C4 lowers the loss …', loc='left')
        axes[1].set_title('… and costs answers', loc='left')

def draw_lengths():
    "Problems solved against the tokens of healing on own answers; gives the slope of the line, a factor of ten long"
    tokens = np.array([read_notes()[o]['tokens'] for o in LONGER])
    solved = 100 * np.array([items(o, GSM8K).right.to_numpy(float) for o in LONGER])
    drawn = bootstrap(solved)
    level, slope = np.linalg.pinv(np.stack([np.ones(len(tokens)), np.log10(tokens)], 1))  # of the least squares
    def line(weights): return solved.mean(1) @ weights, *np.quantile(drawn @ weights, [.025, .975])

    with figure_style():
        (ax,) = panels(1, height=3.2, width=5.6)
        for arm, at in zip(LONGER, tokens):
            value, low, high = score(arm, GSM8K)
            aside = 1 + .06 * ({'self-2-seed-1': -1, 'self-2-seed-2': 1}.get(arm, 0))  # three healings of one length
            ax.errorbar(at * aside, value, yerr=[[value - low], [high - value]], fmt='o', capsize=3,
                        color=COLOURS['self-2'], ms=7 - 2 * (arm in AGAIN))
        at = np.geomspace(tokens.min(), tokens.max())
        value, low, high = np.transpose([line(level + np.log10(o) * slope) for o in at])
        ax.plot(at, value, color=COLOURS['self-2'])
        ax.fill_between(at, low, high, color=COLOURS['self-2'], alpha=.2, lw=0)
        for arm, below in (('parent', False), ('cut-2', True)):
            y = score(arm, GSM8K)[0]
            ax.axhline(y, color='0.5', ls=':', lw=1)
            ax.text(tokens.max(), y - 1 if below else y + 1, ARMS[arm], ha='right', va='top' if below else 'bottom',
                    color='0.35')
        ax.set(xscale='log', ylim=(0, 70), xlabel='tokens of healing', ylabel='GSM8K (%)')
        ax.set_xticks([30_000, 100_000, 300_000], ['30,000', '100,000', '300,000'])
        ax.set_xticks([], minor=True)
        ax.set_title('Nearly ten times the tokens, and no rise shows', loc='left')
    return line(slope)
