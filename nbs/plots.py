"What the pages of the findings draw. What they compute, and explain, stands on the pages."
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from prunebook.paper.figures import (
    STRATEGY_COLOURS, accuracy_axis, draw_points, figure_style, label_ends, name_panel, panels)

def draw_ask(added, text, letter):
    "The loss that cuts add, and the accuracy above chance that they keep where answers are scored and letters picked"
    with figure_style():
        top, low = panels(2, columns=1, height=2.3, width=5.6, height_ratios=(1, 1.5), sharex=True)
        top.fill_between(added.n, added.low, added.high, color='#0072B2', alpha=.15, lw=0)
        top.plot(added.n, added.value, 'o:', color='#0072B2', mfc='white')
        top.set(ylim=(0, .55), ylabel='added loss\n(nats per token)', title='The loss rises by up to 0.44 nats')
        for o, label, color in ((text, 'score each answer', '#009E73'), (letter, 'pick a letter', '#b45f06')):
            low.fill_between(o.n, 100 * o.low, 100 * o.high, color=color, alpha=.13, lw=0)
            low.plot(o.n, 100 * o.value, 'o:', color=color, mfc='white')
            low.annotate(label, (o.n.iloc[-1], 100 * o.value.iloc[-1]), (7, 0), textcoords='offset points',
                         va='center', color=color)
        low.axhline(0, color='0.5', lw=1, ls=':')
        low.text(0, 2, 'chance', color='0.4', fontsize=9)
        low.set(ylim=(-16, 115), xlim=(-.3, 11.5), xticks=range(0, 9, 2), xlabel='layers dropped, of 28',
                ylabel='accuracy above\nchance, kept (%)', title='Scored answers mostly stay, letters fall to chance')

def draw_tests(kept):
    "The accuracy above chance, in %, that one cut keeps on each test"
    with figure_style():
        (ax,) = panels(1, height=2.9, width=5.6)
        ax.barh(range(len(kept)), kept.value, color='#0072B2', height=.62, capsize=3,
                xerr=[kept.value - kept.low, kept.high - kept.value], error_kw=dict(ecolor='0.25', lw=1))
        ax.set_yticks(range(len(kept)), kept.index)
        ax.axvline(100, color='0.5', ls='--', lw=.9)
        ax.axvline(0, color='0.5', lw=.9)
        ax.set(xlabel='accuracy above chance, kept (%)')
        ax.figure.suptitle('The same cut keeps 96 % on one test, 5 % on another', x=.02, ha='left', fontsize=12)

def draw_letters(own):
    "Three measures of the letters by the layers dropped, and below, the probability that the answer is a letter"
    with figure_style():
        axes = top, low = panels(2, columns=1, height=2.4, width=5.6, sharex=True)
        for name, color in dict(AUC='#6a3d9a', calibrated='#b45f06', accuracy='#0072B2').items():
            rows = own[own.measure == name]
            draw_points(top, rows.n, rows, False, color=color, label=name)
        top.hlines((.25, .5), 0, rows.n.max(), color='0.5', ls='--', lw=.9, zorder=0)
        rows = own[own.measure == 'a letter']
        draw_points(low, rows.n, rows, False, color='0.3')
        for ax, title in zip(axes, ('Picking the right letter fails first …', '… answering with a letter, later')):
            accuracy_axis(ax)
            ax.label_outer()
            name_panel(ax, title)
        top.set(ylim=(.15, .85), ylabel='accuracy or AUC')
        low.set(ylim=(0, 1.05), ylabel='probability of a letter', xlabel='layers dropped, of 28')
        label_ends(top)

def draw_layers(found):
    "What each layer's removal costs: a panel each for the loss, answers by likelihood and answers by letter"
    looks = (('#0072B2', 'nats', (0, 1.3), 'The loss rises most without the first two and the last layer'),
             ('#009E73', 'points lost', (-14, 40), 'Answers by likelihood need the first two for sure'),
             ('#b45f06', 'points lost', (-14, 40), 'By letter, layers 3 to 12 cost more (chosen by looking)'))
    with figure_style():
        _, axes = plt.subplots(3, 1, figsize=(5.6, 5.4), sharex=True, layout='constrained')
        for ax, (value, draws), (color, unit, ylim, title) in zip(axes, found.values(), looks):
            ax.bar(range(28), value, color=color)
            ax.vlines(range(28), *np.quantile(draws, [.025, .975], axis=0), color='0.25', lw=1)
            ax.axhline(0, color='0.4', lw=.8)
            ax.set_title(title, loc='left')
            ax.set(ylim=ylim, ylabel=unit)
        axes[2].axvspan(2.5, 12.5, color='0.92', zorder=0)
        axes[2].set(xlabel='layer removed', xticks=range(0, 28, 3))

def draw_disagree(shares, cuts):
    "What two cuts keep of the unpruned model by each measure, after healing with each seed"
    with figure_style():
        (ax,) = panels(1, height=3.6, width=5.6)
        for seed, found in shares.items():
            for i, (s, name) in enumerate(cuts.items()):
                draws = np.stack([o[:, i] for o in found])
                if seed: ax.plot(draws[:, 0], lw=.7, color=STRATEGY_COLOURS[s])
                else:
                    low, high = np.quantile(draws[:, 1:], [.025, .975], axis=1)
                    draw_points(ax, range(len(found)), pd.DataFrame(dict(value=draws[:, 0], low=low, high=high)),
                                color=STRATEGY_COLOURS[s], label=f'without\n{name}', ms=6, lw=2, capsize=3)
        ax.axhline(100, color='0.5', ls='--', lw=.9, zorder=0)
        ax.text(5.4, 101.5, 'unpruned', ha='right', color='0.4')
        ax.set(xlim=(-.3, 5.4), ylim=(30, 125), ylabel='kept of the unpruned model (%)',
               title='By loss one cut is better, by letter the other')
        ax.set_xticks(range(5), ['loss', 'ARC-Easy,\nlikelihood', 'ARC-Easy,\nletter', 'MMLU,\nletter', 'BoolQ,\nAUC'])
        label_ends(ax)

def draw_regrets(found, models, columns):
    "The regret of the angle, the middle and the median block by the layers dropped, a panel for each model"
    looks = {'median block': ('0.5', 1.2, 4),
             'similarity': (STRATEGY_COLOURS['similarity'], 2.2, 6.5), 'middle': (STRATEGY_COLOURS['middle'], 2.2, 4)}
    with figure_style():
        axes = panels(len(models), columns=1, height=2.1, width=5.6, sharex=True)
        for ax, (title, (losses, _, ns)), top in zip(axes, models.items(), (4.8, 8.8, 4.8)):
            for rule, (color, lw, ms) in looks.items():
                own = found[title][..., columns.index(rule)]
                low, high = np.quantile(own[:, 1:], [.025, .975], axis=1)
                rows = pd.DataFrame(dict(value=own[:, 0], low=low, high=high), index=ns).query('value < @top')
                draw_points(ax, rows.index, rows, False, color=color, lw=lw, ms=ms,
                            label='angle' if rule == 'similarity' else rule)
            ax.axhline(0, color='0.5', ls='--', lw=.9, zorder=0)
            ax.set(title=f'{title}, {losses.depth} layers', xticks=range(0, 16, 2), xlim=(0, 19.5),
                   ylim=(-.12 * top, top))
        axes[-1].text(19.4, .1, 'best block', ha='right', color='0.4')
        axes[-1].set_xlabel('layers dropped')
        axes[0].figure.supylabel('regret (nats per token)', fontsize=11)
        axes[0].figure.suptitle('Angle or middle: which is better changes with the size', x=.02, ha='left', fontsize=12)
        label_ends(*axes)

def draw_record(ours, shown):
    "The accuracy that our cuts keep, healed and not, by the layers removed, and below, what others published"
    with figure_style():
        top, below = panels(2, columns=1, height=2.4, width=5.6, sharey=True, sharex=True)
        for healed, part in ours.groupby('healed'):
            draw_points(top, 100 * part.fraction, part, healed, color=STRATEGY_COLOURS['similarity'],
                        label='healed' if healed else 'not healed')
        for model, color in (('Llama-2-7B', '#D55E00'), ('Llama-3-8B', '0.4'), ('Gemma-3-270M', '#DE8F05')):
            part = shown[shown.model == model].sort_values('retained')
            below.plot(100 * part.fraction, part.retained, 's', mfc='none', color=color, ms=7)
            for o in part[part.method.str.contains('UIDL')].itertuples():
                below.plot(100 * o.fraction, o.retained, 's', color=color, ms=7)
                below.annotate('the original paper', (100 * o.fraction, o.retained), (10, 0), va='center', color=color,
                               textcoords='offset points')
            low = model == 'Gemma-3-270M'
            at = 100 * part.fraction.iloc[0], part.retained.min() if low else part.retained.max()
            below.annotate(model, at, (0, -17 if low else 10), textcoords='offset points', color=color,
                           ha={'Llama-2-7B': 'left', 'Llama-3-8B': 'right'}.get(model, 'center'))
        for ax in (top, below): ax.set(ylabel='accuracy kept (%)', ylim=(50, 104), xlim=(0, 52))
        top.set(title='Ours: from eight of 30 layers on, healing brings much back')
        below.set(xlabel='layers removed (%)', title='Published, on other tasks')
        label_ends(top)

def draw_cuts(against, layers, published):
    "What each cut adds to the loss, with the layers that it takes; squares are published"
    with figure_style():
        (ax,) = panels(1, height=3.2, width=5.6)
        order = sorted(against, key=lambda k: -against[k][0].difference)
        for y, k in enumerate(order):
            a, others = against[k][0], f'published: {k}' in published
            color = STRATEGY_COLOURS['best_loss' if k == 'best block' else 'similarity'] if not others else '0.35'
            ax.errorbar(a.difference, y, xerr=[[a.difference - a.low], [a.high - a.difference]], capsize=3, ms=7,
                        fmt='s' if others else 'o', color=color, mfc='white')
        ax.set_yticks(range(len(order)), [f'{k}: {layers[k]}' for k in order])
        ax.set(xlim=(0, None), xlabel='added loss (nats per token)')
        said = 'The block that the loss picks beats every published cut'
        ax.figure.suptitle(said, x=.02, ha='left', fontsize=12)

def draw_half(alone, together):
    "The added loss per millisecond of each layer, attention and MLP removed alone, and below, that of sets of them"
    with figure_style():
        top, below = panels(2, columns=1, height=2.5, width=5.6)
        for (part, y), color in zip(alone.items(), ('0.35', '#0072B2', '#D55E00')):
            top.plot(range(1, len(y) + 1), np.sort(y), lw=1.8, color=color)
            top.annotate({'layer': 'whole layer', 'mlp': 'MLP'}.get(part, part), (1, y.min()), (-5, 0), ha='right',
                         va='center', textcoords='offset points', color=color)
        top.set(yscale='log', yticks=(.01, .1, 1, 10), xlim=(-18, 31), xticks=(1, 10, 20, 30),
                xlabel='parts, from the cheapest to the dearest', ylabel='added loss per ms saved')
        top.yaxis.set_major_formatter('{x:g}')
        top.set_title('Alone, attention is the cheapest part', loc='left')
        for (label, draws), color in zip(together.items(), ['#0072B2', '0.35', '#009E73']):
            low, high = np.quantile(draws[1:], [.025, .975], axis=0)
            below.errorbar((10, 20, 30), draws[0], [draws[0] - low, high - draws[0]], fmt='o:', mfc='white',
                           color=color)
            below.annotate(label, (30, draws[0][-1]), (7, 0), textcoords='offset points', va='center', color=color)
        below.set(xlim=(8, 44), xticks=(10, 20, 30), ylim=(0, 4.5), xlabel='time of the layers saved (%)',
                  ylabel='added loss (nats per token)')
        below.set_title('Together, it is dearer from 20 % on', loc='left')

def draw_repairs(repairs, cuts, order):
    "What each method changes of the loss of a cut, a panel a cut; arrows lie beyond the axis"
    with figure_style():
        axes = panels(3, columns=3, sharex=True, sharey=True)
        axes[0].figure.set_size_inches(5.6, 2.6)  # narrow, so that its text can be read on a phone
        for ax, cut in zip(axes, cuts):
            for o in repairs[(repairs.cut == cut) & repairs.method.isin(order)].itertuples():
                i = order.index(o.method)
                error = [[o.change - o.change_low], [o.change_high - o.change]] if o.change < 1 else None
                ax.errorbar(min(o.change, 1), i, xerr=error, fmt='o' if o.change < 1 else '>', ms=7, capsize=3,
                            color='#0072B2')
                if o.change > 1: ax.annotate(f'+{o.change:.1f}', (1, i), (-5, 9), textcoords='offset points',
                                             ha='right', bbox=dict(fc='white', ec='none', pad=.5))
            ax.axvline(0, color='0.5', lw=.9)
            ax.set(title=f'without {cut}', xlabel='change (nats)')
        axes[0].set_yticks(range(len(order)), order)
        axes[0].figure.suptitle('The constant repairs one cut, the linear map ruins the others', x=.02, ha='left',
                                fontsize=12)
