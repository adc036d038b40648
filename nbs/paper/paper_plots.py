"What the pages on the paper's figures draw. `book` is false for a reader's run: then no title says what is seen."
from itertools import product
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from prunebook.evaluation.tasks import task_title
from prunebook.paper.claims import CLAIMS, HOLDS, REFUTED, UNDECIDED, UNINFORMATIVE, Curve, Unmeasured, measured
from prunebook.paper.figures import (
    STRATEGY_COLOURS, accuracy_axis, draw_points, each_measured, escape_math, figure_style, label_ends, name_panel,
    panels, percent_axis, plot_curves, plot_heatmap, short_name)

BOTH = 'similarity', 'simple'

def draw_places(own, published):
    "Where the block of least angle lies, by its size; grey are the paper's models"
    colours = {'SmolLM2-135M': '#0072B2', 'gemma-3-270m': '#DE8F05', 'Qwen2.5-Coder-1.5B': '#009E73'}
    (ax,) = panels(1, height=3.6, width=5.6)
    with figure_style():
        for name, o in published.groupby('model', sort=False):
            ax.plot(100 * o.n / o.depth, o.start / (o.depth - o.n), color='0.75', lw=1.2)
        ax.annotate("the paper's four models", (15, .73), color='0.5')
        for run, distances in own:
            best = distances.best_blocks()
            best = best[best.n <= run.depth // 2]
            x, y = 100 * best.n / run.depth, best.start / (run.depth - best.n)
            color = colours.get(short_name(run.name), '#0072B2')
            ax.plot(x, y, 'o-', ms=5, mfc='white', label=short_name(run.name), color=color)
            ax.plot(x[best.certain], y[best.certain], 'o', ms=5, color=color)
        ax.axhline(.5, color='0.5', ls='--', lw=.9, zorder=0)
        percent_axis(ax)
        ax.set(ylim=(0, 1.03), yticks=(0, .5, 1), yticklabels=('shallowest', 'middle', 'deepest'),
               xlabel='layers dropped (%)')
        if len(own) > 1: name_panel(ax, "Deep in the paper's models, here mainly in Gemma")
        label_ends(ax)

def draw_curves(own):
    "The angular distance of blocks of three sizes against their first layer, a panel for each model"
    axes = panels(len(own), columns=1, height=2.1, width=5.6)
    for (run, distances), ax in zip(own, axes):
        name_panel(plot_curves(distances, ax=ax), short_name(run.name))
        ax.set(xticks=range(0, run.depth, 5), ylabel='', xlabel=ax.get_xlabel() if ax is axes[-1] else '')
    axes[0].figure.supylabel('angular distance (half turns)', fontsize=11)
    said = "Most are lowest in the middle, only Gemma's fall to the right"
    if len(own) > 1: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_maps(own, height, said):
    "A map of all blocks below the other, with one legend, one horizontal axis and one name of the colours"
    axes = panels(len(own), columns=1, height=height, width=5.6)
    for (run, table), ax in zip(own, axes):
        name_panel(plot_heatmap(table, ax, False), short_name(run.name))
        if ax is not axes[0]: ax.get_legend().remove()
        if ax is not axes[-1]: ax.set_xlabel('')
        if ax is not axes[len(own) // 2]: ax.images[0].colorbar.set_label('')
    if len(own) > 1: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_losses(runs):
    "The loss over log V, where a uniform guess has 1, before and after healing, a panel for each model"
    def load(run):
        curves = {name: run.curve('c4', healed=h) for name, h in (('not healed', False), ('healed', True))
                  if measured(run.curve, 'c4', healed=h)}
        if not curves: raise Unmeasured('This run has no losses on texts.')
        return curves
    found, book = each_measured(runs, load), len(runs) > 1
    axes = panels(len(found), columns=1, height=2, width=5.6, sharex=True, sharey=True)
    with figure_style():
        for (run, curves), ax in zip(found, axes):
            for name, rows in curves.items():
                scale = rows.normalized / rows.value
                rows = rows.assign(value=rows.normalized, low=rows.low * scale, high=rows.high * scale)
                if book: rows = rows[(rows.fraction_layers < .62) & (rows.value < 1.3)]
                draw_points(ax, 100 * rows.fraction_layers, rows, name == 'healed', color='#0072B2', label=name)
            ax.axhline(1, color='0.5', ls='--', lw=.9, zorder=0)
            percent_axis(ax)
            ax.label_outer()
            name_panel(ax, short_name(run.name))
        axes[0].set(ylim=(0, 1.3 if book else None))
        if book: axes[0].set_yticks((0, .5, 1))
        axes[0].annotate('uniform guess', (0, 1), (2, 3), textcoords='offset points', color='0.4', fontsize=10)
        axes[0].figure.supylabel('loss / log V', fontsize=11)
        if len(found) > 1: axes[0].figure.suptitle('Healing flattens the rise, least on the largest model', x=.02,
                                                   ha='left', fontsize=12)
        label_ends(*axes)

def draw_mends(runs, gone):
    "The share of the excess loss that healing removes under each rule, by model"
    found = [(i, s, *gone(r, s)) for i, r in enumerate(runs) for s in BOTH if measured(gone, r, s)]
    if not found: raise Unmeasured('No cut of these runs has losses healed and unhealed.')
    own = sorted({i for i, *_ in found})
    (ax,) = panels(1, height=1.4 + .5 * len(own), width=5.6)
    with figure_style():
        for i, strategy, value, low, high in found:
            y = len(own) - 1 - own.index(i) + (.12 if strategy == 'similarity' else -.12)
            ax.errorbar(100 * value, y, xerr=[[100 * (value - low)], [100 * (high - value)]], fmt='o', ms=7, capsize=3,
                        color=STRATEGY_COLOURS[strategy])
            if i != own[0]: continue
            ax.annotate(strategy, (100 * value, y), (0, 9 if strategy == 'similarity' else -19), ha='center',
                        textcoords='offset points', color=STRATEGY_COLOURS[strategy])
        ax.set_yticks(range(len(own)), [short_name(runs[o].name) for o in reversed(own)])
        ax.set(xlabel='excess loss removed by healing (%)', xlim=(0, 100), ylim=(-.6, len(own) - .3))
        if len(runs) > 1: name_panel(ax, 'Healing removes the larger share under simple')

def draw_strategies(runs, healed, said):
    "The excess loss of the two strategies by the layers dropped, a panel for each model"
    def load(run):
        found = {s: run.items('c4', s, healed).excess() for s in BOTH if measured(run.items, 'c4', s, healed)}
        if not found: raise Unmeasured('This run has neither of the two strategies.' if not healed else
                                       'Nothing was healed in this run.')
        return {s: rows[rows.fraction_layers <= (.45 if len(runs) > 1 else 1)] for s, rows in found.items()}
    found = each_measured(runs, load)
    axes = panels(len(found), columns=1, height=2, width=5.6, sharex=True, sharey=True)
    with figure_style():
        for (run, curves), ax in zip(found, axes):
            for s, rows in curves.items():
                draw_points(ax, 100 * rows.fraction_layers, rows, healed, color=STRATEGY_COLOURS[s], label=s)
            percent_axis(ax)
            ax.label_outer()
            name_panel(ax, short_name(run.name))
        axes[0].figure.supylabel('excess loss (nats per token)', fontsize=11)
        axes[0].set_ylim(0, None)
        if len(found) > 1: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)
        label_ends(*axes)

def draw_answers(runs):
    "The accuracy of one model under the two strategies, a row for each task, left unhealed and right healed"
    book = len(runs) > 1
    def load(run):
        found = [t for t in run.tasks() if run.knows(t) and all(measured(run.curve, t, s) for s in BOTH)]
        if not found: raise Unmeasured('This run asked no task that the unpruned model knows under both strategies.')
        return found[:2 if book else 4]
    run, tasks = each_measured(runs, load)[-1]
    axes = panels(2 * len(tasks), columns=2, height=2.4, sharex=True, sharey='row')
    axes[0].figure.set_size_inches(5.6, 2.4 * len(tasks))  # narrow, so that its text can be read on a phone
    with figure_style():
        for (task, healed), ax in zip(product(tasks, (False, True)), axes):
            for s in (s for s in BOTH if measured(run.curve, task, s, healed)):
                rows = run.curve(task, s, healed)
                draw_points(ax, 100 * rows.fraction_layers, rows, healed, color=STRATEGY_COLOURS[s])
            start = run.curve(task).iloc[0]
            ax.axhline(max(start.baseline, start.majority), color='0.5', ls='--', lw=.9, zorder=0)
            percent_axis(ax)
            accuracy_axis(ax)
            ax.label_outer()
            name_panel(ax, f'{escape_math(task_title(task))}, {"healed" if healed else "not healed"}')
        for y, s in zip((.95, .82), BOTH):
            axes[0].text(.97, y, s, color=STRATEGY_COLOURS[s], transform=axes[0].transAxes, ha='right', va='top')
        axes[0].figure.supylabel('accuracy', fontsize=11)
        said = 'For answers, neither rule is better throughout' if book else short_name(run.name)
        axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_lengths(run, gaps, book):
    "The excess loss of the two strategies by the tokens of healing, a panel for each cut"
    axes = panels(min(3, len(gaps)), columns=1, height=2.3, width=5.6, sharex=True, sharey=True)
    with figure_style():
        for (n, g), ax in zip(gaps.items(), axes):
            for s in BOTH:
                own = g[g[s] > 0]
                points = pd.DataFrame(dict(value=own[s], low=own[f'{s}_low'], high=own[f'{s}_high']))
                draw_points(ax, own.index, points, color=STRATEGY_COLOURS[s], label=s)
            ax.set(xscale='log', yscale='log', xlabel='healing tokens')
            ax.xaxis.set_major_formatter(lambda v, _: f'{v / 1000:,.0f}k')
            ax.yaxis.set_major_formatter('{x:g}')
            ax.yaxis.set_minor_formatter(lambda v, _: f'{v:g}' if f'{v:g}'.strip('0.')[:1] in '25' else '')
            ax.label_outer()
            name_panel(ax, f'{short_name(run.name)}, n = {n}')
        axes[0].figure.supylabel('excess loss (nats per token)', fontsize=11)
        if book: axes[0].figure.suptitle('The lines approach, then run side by side', x=.02, ha='left', fontsize=12)
        label_ends(*axes)

def draw_controls(run, t, book):
    "The loss of other rules minus that of similarity, a panel for each number of layers dropped"
    ns = sorted(t.n.unique())
    ns = ns if len(ns) <= 3 else [ns[1], ns[len(ns) // 2], ns[-1]]
    order = list(dict.fromkeys([*STRATEGY_COLOURS, *t.strategy]))
    order = [o for o in order if o in set(t.strategy)]
    axes = panels(len(ns), columns=1, height=1.9, width=5.6, sharex=True, sharey=True)
    with figure_style():
        for n, ax in zip(ns, axes):
            for o in t[t.n == n].itertuples():
                bar = [[max(0, o.value - o.low)], [max(0, o.high - o.value)]] if o.value < 2 else None
                ax.errorbar(min(o.value, 2), order.index(o.strategy), xerr=bar, fmt='o' if o.value < 2 else '>',
                            mfc='white', capsize=2, ms=6, color=STRATEGY_COLOURS.get(o.strategy, '0.3'))
            for name, far in t[(t.n == n) & (t.value >= 2)].groupby('strategy'):
                ax.annotate(', '.join(f'+{v:.0f}' for v in sorted(far.value)), (2, order.index(name)), (-7, 0),
                            ha='right', va='center', textcoords='offset points', fontsize=10, color='0.3')
            ax.axvline(0, color='0.5', ls='--', lw=.9, zorder=0)
            name_panel(ax, f'{n} of {run.depth} layers')
            ax.set_yticks(range(len(order)), [escape_math(o.replace('_', ' ')) for o in order])
            ax.set(xlim=(-2, 2.2), xticks=(-1, 0, 1, 2))
        axes[0].invert_yaxis()
        said = 'The middle costs about as much, the two ends far more'
        if book: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)
        axes[0].figure.supxlabel(f'loss minus that of similarity (nats per token), {short_name(run.name)}', fontsize=10)

TASK_COLOURS = dict(mmlu='#b45f06', arc_easy='#009E73', piqa='0.45', sciq='#CC79A7', boolq='#8a6d00')

def states(load):
    "What `load` finds before and after healing, where it was measured"
    return {name: load(healed) for name, healed in (('not healed', False), ('healed', True)) if measured(load, healed)}

def draw_glance(run, tasks, book):
    "What is kept on a task, and the loss that is added, before and after healing"
    tasks = [*tasks[:1 if book else 2], 'c4']
    axes = panels(len(tasks), 1, 2.4, 5.6, sharex=True)
    with figure_style():
        for task, ax in zip(tasks, axes):
            color, scale = ('#0072B2', 1) if task == 'c4' else (TASK_COLOURS.get(task, '0.3'), 100)
            load = Curve.excess if task == 'c4' else Curve.retention
            found = states(lambda h: load(run.items(task, healed=h)))
            for (name, rows), near in zip(found.items(), (2.6, 1)):
                rows, healed = rows[rows.fraction_layers < (.62 if book else 1)], name == 'healed'
                x, y, end = 100 * rows.fraction_layers, scale * rows[['value', 'low', 'high']], len(rows) - 1
                draw_points(ax, x, y, healed, color=color, label=name)
                for n in (1, 4) if book and not healed else ():
                    at = rows.n.tolist().index(n)
                    ax.plot(x[at], y.value[at], 'o', color=color, ms=9, mfc='none', mew=1.5)
                    ax.annotate(n, (x[at], y.value[at]), (9, 1) if scale > 1 else (-3, 9), textcoords='offset points',
                                color=color)
                place = dict(xytext=(0, 26), ha='right') if healed and scale > 1 else dict(xytext=(7, -4))
                if book and scale == 1: end = (y.value - near).abs().argmin()  # where no bar crosses the name
                ax.annotate(name, (x[end], y.value[end]), textcoords='offset points', color=color, **place)
            percent_axis(ax)
            ax.label_outer()
            if scale > 1:
                ax.set(ylim=(-25, 125), yticks=range(0, 101, 25),
                       ylabel=f'{escape_math(task_title(task))} above\nchance, kept (%)')
                name_panel(ax, 'From 1 layer to 4, MMLU halves …' if book else short_name(run.name))
            else:
                ax.set(ylim=(0, 3 if book else None), ylabel='excess loss\n(nats per token)')
                name_panel(ax, '… at the same loss' if book else '')
            if book: ax.set_xlim(-2, 62)

def draw_tasks(runs, known_tasks, healed, said):
    "The accuracy above chance that is kept on up to three tasks, by the layers dropped, a panel for each model"
    def load(run):
        tasks = [t for t in known_tasks(run) if measured(run.items, t, healed=healed)]
        first = [t for t in tasks if t in ('mmlu', 'arc_easy', 'sciq')] or tasks
        if not first: raise Unmeasured('No known task was measured in this state.')
        return {t: run.items(t, healed=healed).retention() for t in first[:3]}
    found = each_measured(runs, load)
    axes = panels(len(found), columns=1, height=2.1, width=5.6, sharex=True, sharey=True)
    with figure_style():
        for (run, curves), ax in zip(found, axes):
            for task, rows in curves.items():
                draw_points(ax, 100 * rows.fraction_layers, rows, healed, color=TASK_COLOURS.get(task, '0.2'),
                            label=escape_math(task_title(task)))
            for y in (0, 1): ax.axhline(y, color='0.5', ls='--', lw=.9, zorder=0)
            percent_axis(ax)
            ax.set(ylim=(-.25, 1.25), yticks=(0, .25, .5, .75, 1),
                   yticklabels=('chance', '25 %', '50 %', '75 %', '100 %'))
            ax.plot([20, 25, 35, 50], [1.22] * 4, 'v', color='0.45', ms=6)
            name_panel(ax, short_name(run.name), pad=9)
            ax.label_outer()
        axes[0].figure.supylabel('accuracy above chance, kept', fontsize=11)
        if len(runs) > 1: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)
        label_ends(*axes)

def draw_boolq(run, found, book):
    "The accuracy on BoolQ, and below, the AUC, by the layers dropped, before and after healing"
    top, below = panels(2, 1, 2.4, 5.6, sharex=True)
    color = TASK_COLOURS['boolq']
    with figure_style():
        for name, (rows, auc) in found.items():
            x, healed = 100 * rows.fraction_layers, name == 'healed'
            for ax, points in ((top, rows), (below, auc)):
                draw_points(ax, x, points, healed, color=color, label='_' if healed else name)
                if healed: ax.annotate(name, (x.iloc[-1], points.value.iloc[-1]), (0, 26), color=color, ha='center',
                                       textcoords='offset points')
        top.axhline(auc.majority[0], color='0.3', ls='-.', lw=1, zorder=0)
        top.annotate('the more frequent\nanswer alone', (1, auc.majority[0]), (3, 0), va='center', fontsize=9,
                     xycoords=('axes fraction', 'data'), textcoords='offset points', color='0.3')
        for ax in (top, below): percent_axis(ax)
        top.set_xlabel('')
        below.hlines(.5, 0, below.dataLim.x1, color='0.5', ls='--', lw=1, zorder=0)
        top.set(ylim=(.3, .9), ylabel='accuracy')
        below.set(ylim=(.3, .9), ylabel='AUC', xlabel=f'layers of {short_name(run.name)} dropped (%)')
        for ax in (top, below): ax.set_xlim(-3, 1.12 * ax.dataLim.x1)  # room for the names
        name_panel(top, 'Accuracy rests on the majority line …' if book else 'accuracy')
        name_panel(below, '… while the AUC falls towards chance' if book else 'AUC')
        label_ends(top, below)

def draw_written(found, book):
    "The right answers among those that the model writes out, a panel for each run and task"
    found = sorted(found, key=lambda o: o[1] != 'gsm8k')[:4]
    axes = panels(len(found), 1, 2.3, 5.6)
    with figure_style():
        for (run, task), ax in zip(found, axes):
            for name, rows in states(lambda h: run.curve(task, healed=h)).items():
                draw_points(ax, 100 * rows.fraction_layers, rows, name == 'healed', color='#6a3d9a',
                            label='_' if name == 'healed' else name)
                end = rows[['fraction_layers', 'value']].iloc[-2:].mean()
                if name == 'healed': ax.annotate(name, (100 * end.fraction_layers, end.value), (6, 4), color='#6a3d9a',
                                                 textcoords='offset points')
            ax.hlines(run.curve(task).majority.iloc[0], 0, ax.dataLim.x1, color='0.3', ls='-.', lw=1, zorder=0)
            percent_axis(ax)
            name_panel(ax, f'{escape_math(task_title(task))}, {short_name(run.name)}')
            accuracy_axis(ax)
            ax.set_ylabel('right answers')
            label_ends(ax)
        said = 'Written answers fail from the first layers on'
        if book: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_reading(read, solved, first, stops):
    "The right answers that are kept where a number is read and where GSM8K is solved; dashed, the right number first"
    with figure_style():
        (ax,) = panels(1, height=2.8, width=5.6)
        for rows, color, name in ((read, '#0072B2', 'read a number'), (solved, '#6a3d9a', 'solve GSM8K')):
            draw_points(ax, rows.n, 100 * rows[['value', 'low', 'high']], False, color=color, label=name)
        ax.plot(rows.n, first, '--', color='#0072B2', lw=1.2)
        ax.annotate('right number,\nbut never stops', (2, stops), (-9, 0), va='center', ha='right',
                    textcoords='offset points')
        ax.set(xlabel='layers dropped', ylabel='right answers, kept (%)', ylim=(-5, 112), xlim=(-.2, 8),
               xticks=range(7), title='It still reads a number,\nand no longer solves the problem')
        label_ends(ax)

def draw_verdicts(runs, word_of):
    "The word on every claim, a column for each model; hatched where it does not stand"
    short = dict(C1='the least angle is deep', C2='the last layer is least alike', C3a='a plateau, unhealed',
                 C3b='a plateau, healed', C3c='a larger cut is better', C4='the healed loss does not jump',
                 C5a='similarity far better, unhealed', C5b='the two coincide, healed', C6a='lower rank, higher loss',
                 C6b='lower rank, more right', C7a='seeds do not matter', C7b='examples do not matter',
                 C8='reasoning has no plateau')
    words = [HOLDS, REFUTED, UNDECIDED, UNINFORMATIVE, 'not measured']
    found = [[run.finding(k) for run in runs] for k in CLAIMS]
    codes = np.array([[words.index(word_of(o)) for o in row] for row in found])
    with figure_style():
        (ax,) = panels(1, height=6, width=5.6)
        colours = ListedColormap(['#9ecae1', '#fdae6b', '0.88', '0.94', 'white'])
        ax.imshow(codes, cmap=colours, vmin=0, vmax=4, aspect='auto')
        for i, row in enumerate(found):
            for j, o in enumerate(row):
                weak = o.decided and not o.stands
                if weak: ax.add_patch(Rectangle((j - .5, i - .5), 1, 1, fill=False, hatch='////', ec='white', lw=0))
                ax.text(j, i, word_of(o) + ' †' * weak, ha='center', va='center', fontsize=10,
                        color='0.1' if codes[i, j] < 2 else '0.4' if codes[i, j] < 4 else '0.65')
        ax.set_xticks(range(len(runs)), [fill(short_name(o.name), 12) for o in runs])
        ax.set_yticks(range(len(CLAIMS)), [fill(f'{k}: {short.get(k, "")}', 19) for k in CLAIMS])
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        for side in ax.spines.values(): side.set_visible(False)
        every = [o for row in found for o in row if word_of(o) != 'not measured']
        hold, fail = (sum(o.stands and o.word == w for o in every) for w in (HOLDS, REFUTED))
        said = f'Of {len(every)} verdicts, {hold} hold and {fail} fail.\nThe others decide nothing'
        ax.figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_gains(found, book):
    "What few-shot examples add to the accuracy, by the share of layers dropped, a panel for each run and task"
    axes = panels(len(found), columns=1, height=3, width=5.6)
    with figure_style():
        for (run, task, gain), ax in zip(found, axes):
            draw_points(ax, 100 * gain.n / run.depth, 100 * gain[['value', 'low', 'high']], False, color='#0072B2')
            ax.axhline(0, color='0.5', ls='--', lw=.9, zorder=0)
            percent_axis(ax)
            name_panel(ax, f'{short_name(run.name)}, {task_title(task)}')
            ax.set_ylabel('gain from examples (points)')
        said = 'Five examples help one whole model, and no cut for sure'
        if book: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_seeds(found, label, said, book):
    "Healed curves of two strategies, with all seeds where there are several, a panel for each run and task"
    axes = panels(len(found), columns=1, height=2.5, width=5.6, sharex=True)
    with figure_style():
        for (run, task, curves), ax in zip(found, axes):
            for s, (curve, rows) in curves.items():
                peak = book and s == 'simple' and task != 'c4'  # its end lies on the other curve
                draw_points(ax, 100 * curve.fraction_layers, curve, color=STRATEGY_COLOURS[s], label='' if peak else s)
                x, y = curve.loc[curve.value.idxmax(), ['fraction_layers', 'value']]
                if peak: ax.annotate(s, (100 * x, y), (9, 3), color=STRATEGY_COLOURS[s], textcoords='offset points')
                ax.plot(100 * rows.fraction_layers, rows.value, 'x', color='black', ms=8, mew=1.3, zorder=5)
            percent_axis(ax)
            ax.label_outer()
            if task != 'c4': accuracy_axis(ax)
            shown = '' if task == 'c4' else f', {escape_math(task_title(task))}'
            name_panel(ax, f'{short_name(run.name)}{shown}, {rows.seed.nunique()} seeds')
            label_ends(ax)
        x, side = (.03, 'left') if found[0][1] == 'c4' else (.97, 'right')  # above the curves
        axes[0].text(x, .95, 'crosses: every seed', transform=axes[0].transAxes, va='top', ha=side)
        axes[0].figure.supylabel(label, fontsize=11)
        if book: axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_ranks(healed, tasks, book):
    "Scores of healed cuts against the rank of the adapters, a row for each task and a column for each strategy"
    names = [o for o in BOTH if o in set(healed.strategy)]
    axes = panels(len(names) * len(tasks), columns=len(names), height=2.5, sharey='row')
    axes[0].figure.set_size_inches(5.6, 2.5 * len(tasks))  # narrow, so that its text can be read on a phone
    with figure_style():
        for (task, strategy), ax in zip(product(tasks, names), axes):
            own = healed[(healed.task == task) & (healed.strategy == strategy)]
            for n, part in list(own.groupby('n'))[:3]:
                points = part.groupby('rank')[['value', 'low', 'high']].mean().reset_index()
                draw_points(ax, points['rank'], points, color=STRATEGY_COLOURS[strategy], label=f'n = {n}')
            ax.set_xscale('log', base=2)
            ax.set_xticks(sorted(healed['rank'].unique()))
            ax.xaxis.set_major_formatter('{x:g}')
            ax.set(xlabel='rank of the adapters',
                   ylabel='loss (nats)' if task == 'c4' else f'{task_title(task)} accuracy')
            if task != 'c4': accuracy_axis(ax)
            name_panel(ax, strategy)
            if strategy != names[0]: ax.set_ylabel('')
        said = 'A lower rank has the higher loss, and no better accuracy' if book else 'Loss and accuracy by rank'
        axes[0].figure.suptitle(said, x=.02, ha='left', fontsize=12)
        label_ends(*axes)

def draw_rank_lengths(run, healed, book):
    "The loss against the healing tokens at the lowest and the highest rank, of one cut"
    (ax,) = panels(1, height=3, width=5.6)
    with figure_style():
        for rank, color in {healed['rank'].min(): '#D55E00', healed['rank'].max(): '#0072B2'}.items():
            points = healed[healed['rank'] == rank].groupby('healing_tokens')[['value', 'low', 'high']].mean()
            points = points.reset_index()
            draw_points(ax, points.healing_tokens, points, color=color, label=f'rank {rank:.0f}')
        ax.set(xscale='log', xlabel='healing tokens', ylabel='loss (nats per token)')
        ax.xaxis.set_major_formatter('{x:,.0f}')
        name_panel(ax, f'{short_name(run.name)}, {healed.strategy.iloc[0]}, n = {healed.n.iloc[0]}')
        said = 'With ten times the tokens and other texts,\nthe gap between ranks is smaller'
        if book: ax.figure.suptitle(said, x=.02, ha='left', fontsize=12)
        label_ends(ax)
