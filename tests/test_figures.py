"Figures: colours, words and bytes that stay the same, small models, and text from strangers."
import os
import subprocess
import sys
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from prunebook.claims import open_run
from prunebook.core import PrunebookError
from prunebook.figures import (
    STRATEGY_COLOURS, colours_of, figure_style, first_dominates, one_legend, panels, plot_curves, plot_heatmap,
    plot_heatmaps, plot_history, plot_places, plot_recipe, plot_scores, plot_stack, report_html, rescaled_rows,
    save_figure)
from prunebook.similarity import LayerDistances
from prunebook.stack import Block
from support.made_runs import Made, distances, fill, full


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A small run with losses and answers of both strategies, healed and not"
    made = fill(Made(tmp_path_factory.mktemp('figures')/'run'), ns=[0, 1, 2, 4, 8], tasks=('arc_easy',))
    return open_run(made.root)


def texts_of(figure):
    "Everything that is written in a figure and seen"
    figure.canvas.draw()
    return [o for o in figure.findobj(matplotlib.text.Text) if o.get_visible() and o.get_text().strip()]


def drawn(run):
    "One of each figure"
    table, d = run.table, distances(lambda n: 3)
    yield plot_stack(30, Block(11, 8))
    yield plot_curves(d)
    yield plot_heatmap(d)
    yield plot_scores(table, 'c4', log=True)
    yield plot_scores(table, 'arc_easy', chance=.25)
    yield plot_recipe(table, 'rank')
    yield plot_places(pd.DataFrame(dict(model='m', depth=20, n=[1, 2], start=[9, 8])))
    yield plot_history([dict(step=1, loss=3.), dict(step=2, loss=2.)])


# One style

def test_no_text_is_smaller_than_9_points(run):
    for ax in drawn(run):
        small = {(o.get_text(), o.get_fontsize()) for o in texts_of(ax.figure) if o.get_fontsize() < 9}
        assert not small, small
        assert ax.figure.get_figwidth() <= 7.3, 'wider than a page, so that its text shrinks'


def test_settings_are_left_as_they_were(run):
    before, on = dict(matplotlib.rcParams), plt.isinteractive()
    for _ in drawn(run): pass
    assert dict(matplotlib.rcParams) == before and plt.isinteractive() == on


def test_a_strategy_has_one_colour_whatever_stands_beside_it():
    for names in (['simple'], ['random', 'simple', 'greedy'], ['simple', 'similarity', 'mine']):
        assert colours_of(names)['simple'] == STRATEGY_COLOURS['simple']
    many = colours_of(['similarity', *(f's{i}' for i in range(20))])
    assert len(set(many.values())) == 21


def test_healed_is_solid_and_unhealed_dotted(run):
    ax = plot_scores(run.table, 'c4')
    for box in ax.containers:
        assert box[0].get_linestyle() == (':' if 'unhealed' in box.get_label() else '-')


def test_axes_use_the_words_of_people(run):
    assert plot_scores(run.table, 'arc_easy').get_ylabel() == 'ARC-Easy accuracy'
    assert plot_scores(run.table, 'c4', 'normalized').get_ylabel() == 'C4 loss / log V'
    assert plot_recipe(run.table, 'healing_tokens').get_xlabel() == 'healing tokens'


def test_panels_share_one_legend(run):
    axes = panels(3)
    for ax in axes: plot_scores(run.table, 'c4', ax=ax)
    one_legend(axes)
    assert len(axes) == 3 and len(axes[0].figure.legends[0].get_texts()) == 4
    assert all(ax.get_legend() is None for ax in axes)


# Heat maps

def test_rows_are_rescaled_each_by_itself():
    table = np.array([[0, 4, 9, 9], [0, 0, 2, 5], [0, 0, 0, 3], [0, 0, 0, 0.]])
    rows = rescaled_rows(table)
    np.testing.assert_allclose(rows, [[1, 0, .5], [1, 0, np.nan]])
    np.testing.assert_allclose(rescaled_rows(table, first=False), [[np.nan, 0, 1], [np.nan, 0, np.nan]])


def test_a_first_layer_that_takes_the_scale_gets_a_second_panel():
    d = distances(lambda n: 5)
    assert not first_dominates(d.mean) and len(plot_heatmaps(d)) == 1
    d.mean[0, 1:] = 50
    assert first_dominates(d.mean)
    whole, rest = plot_heatmaps(d)
    assert np.isnan(rest.images[0].get_array()[:, 0].filled(np.nan)).all(), 'its first column is empty'


# What may lie in a table

@pytest.mark.parametrize('depth', [2, 3, 4])
def test_small_models(depth):
    d = distances(lambda n: 0, depth=depth)
    plot_stack(depth, Block(0, 1))
    plot_curves(d)
    if depth > 2: plot_heatmaps(d)


def test_a_table_without_the_rows_is_refused(run):
    with pytest.raises(PrunebookError, match="no rows of it. Its tasks are"): plot_scores(run.table, 'piqa')
    with pytest.raises(PrunebookError, match='no healed rows'): plot_recipe(run.table, 'rank', 'arc_easy')


def test_names_are_no_formulas(run):
    hostile = 'a$\\frac{x$_{^'
    table = run.table.replace({'strategy': {'simple': hostile}, 'task': {'arc_easy': hostile}})
    texts_of(plot_scores(table, hostile).figure)
    texts_of(plot_recipe(table, 'rank').figure)
    texts_of(plot_places(pd.DataFrame(dict(model=hostile, depth=20, n=[1], start=[9]))).figure)


def test_a_page_escapes_everything():
    bad = '<script>alert(1)</script>'
    parts = [(bad, bad, bad), ('t', '', pd.DataFrame({bad: [bad]})), ('p', '', [bad, plot_stack(4, Block(1, 2))])]
    page = report_html(bad, parts)
    assert '<script' not in page and page.count('data:image/png;base64,') == 1


# The same bytes

SCRIPT = '''
import sys
from prunebook.figures import plot_stack, save_figure
from prunebook.stack import Block
ax = plot_stack(8, Block(2, 3))
ax.plot([0, 1], marker='o', label='x')
ax.legend()
for o in sys.argv[1:]: save_figure(ax, o)
'''


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    "In processes with other seeds of hashing, and at another time"
    files = []
    for seed in '012':
        own = [tmp_path/f'{seed}.{kind}' for kind in ('svg', 'png', 'pdf')]
        env = dict(os.environ, PYTHONHASHSEED=seed, SOURCE_DATE_EPOCH=str(int(seed) * 10**8), MPLBACKEND='agg')
        subprocess.run([sys.executable, '-c', SCRIPT, *map(str, own)], check=True, env=env)
        files.append([o.read_bytes() for o in own])
    assert files[0] == files[1] == files[2]


def test_saving_onto_nothing_is_one_clear_line(tmp_path):
    ax = plot_stack(4, Block(1, 2))
    with pytest.raises(PrunebookError, match='cannot write'): save_figure(ax, tmp_path/'no'/'x.png')


@pytest.mark.slow
def test_a_full_run_draws(tmp_path):
    run = open_run(full(tmp_path/'run').root)
    for x in ('healing_tokens', 'rank'): plot_recipe(run.table, x)
    with figure_style(): plot_scores(run.table, 'c4', by='seed')
    assert isinstance(run.distances, LayerDistances)
