"What the pages on the paper's figures draw. `book` is false for a reader's run: then no title says what is seen."
from prunebook.paper.figures import (
    figure_style, label_ends, name_panel, panels, percent_axis, plot_curves, plot_heatmap, short_name)

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
