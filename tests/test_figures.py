"Figures: colours, words and bytes that stay the same, small models, and text from strangers."
import os
import subprocess
import sys
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from prunebook.paper.claims import Unmeasured, open_run
from prunebook.core import PrunebookError
from prunebook.paper.figures import (_colours_of, by_model, each_measured, kept_runs, label_ends, panels,
                                     percent_axis, plot_curves, plot_heatmap, plot_scores, plot_stack, save_figure,
                                     STRATEGY_COLOURS)
from prunebook.similarity.distances import LayerDistances
from prunebook.model.stack import Block
from support import made_runs
from support.made_runs import Made, distances, fill


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


# One style

def test_one_style(run):
    "No text is smaller than 9 points, no figure wider than a page, and settings are left as they were"
    before, on = dict(matplotlib.rcParams), plt.isinteractive()
    for ax in drawn(run):
        small = {(o.get_text(), o.get_fontsize()) for o in texts_of(ax.figure) if o.get_fontsize() < 9}
        assert not small and ax.figure.get_figwidth() <= 7.3, small
    assert dict(matplotlib.rcParams) == before and plt.isinteractive() == on


def test_looks(run):
    "A strategy has one colour whatever is beside it; healed is solid, unhealed dotted"
    for names in (['simple'], ['random', 'simple', 'greedy'], ['simple', 'similarity', 'mine']):
        assert _colours_of(names)['simple'] == STRATEGY_COLOURS['simple']
    assert len(set(_colours_of(['similarity', *(f's{i}' for i in range(20))]).values())) == 21
    for box in plot_scores(run.table, 'c4').containers:
        assert box[0].get_linestyle() == (':' if 'unhealed' in box.get_label() else '-')


def test_names_of_curves():
    "At their ends and apart, instead of a legend"
    axes = panels(3)
    for ax in axes:
        for i in range(4): ax.plot([0, 1 + i % 2], [i, 3 + i / 99], label=f'curve {i}')
        ax.legend()
    label_ends(*axes)
    at = lambda o: o.xyann[1] + 72 / o.figure.dpi * axes[0].transData.transform(o.xy)[1]
    assert len(axes[0].texts) == 4 and np.diff(sorted(map(at, axes[0].texts))).min() > 12.9
    assert len(axes) == 3 and all(ax.get_legend() is None for ax in axes)


@pytest.mark.parametrize('most', [18, 45, 67, 96.7])
def test_ticks_are_whole(most):
    ax = panels(1)[0]
    ax.plot([0, most], [0, 1])
    percent_axis(ax)
    assert all(o == round(o) for o in ax.get_xticks())


# Several models

def named(root, name, ns, parameters):
    "A run of a made model with a name"
    made_runs.MODEL, before = made_runs.MODEL | dict(name=name, parameters=parameters), made_runs.MODEL
    try: return fill(Made(root), ns=ns, tasks=('arc_easy',)).root
    finally: made_runs.MODEL = before


def test_the_kept_runs_are_one_per_model(tmp_path, monkeypatch):
    monkeypatch.delenv('PRUNEBOOK_RUN', raising=False)
    named(tmp_path/'a', 'lab/large', [0, 1], 2000)
    named(tmp_path/'b', 'lab/small', [0, 1], 1000)
    most = named(tmp_path/'c', 'lab/small', [0, 1, 2], 1000)
    (tmp_path/'d').mkdir()  # begun, without results
    assert [(o.name, o.folder.name) for o in kept_runs(tmp_path)] == [('small', 'c'), ('large', 'a')]
    monkeypatch.setenv('PRUNEBOOK_RUN', str(most))
    assert [o.folder for o in kept_runs('nowhere')] == [most]


def test_a_model_that_lacks_rows_is_passed_over(run):
    def load(o):
        if o == 1: raise Unmeasured('No rows.')
        return -o
    assert each_measured([1, 2], load) == [(2, -2)]
    with pytest.raises(Unmeasured, match='No rows'): each_measured([1], load)
    def lacking(o): raise Unmeasured('No rows.')
    assert by_model([run], lacking).data == f'- `{run.name}` ({run.depth} layers): *Not shown: No rows.*'


def test_rows_of_a_heatmap_are_rescaled_each_by_itself():
    table = np.array([[0, 4, 9, 9], [0, 0, 2, 5], [0, 0, 0, 3], [0, 0, 0, 0.]])
    d, rows = LayerDistances(table, np.zeros((4, 4)), 9), lambda ax: np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_allclose(rows(plot_heatmap(d)), [[1, 0, .5], [1, 0, np.nan]])
    np.testing.assert_allclose(rows(plot_heatmap(d, first=False)), [[np.nan, 0, 1], [np.nan, 0, np.nan]])


# What may lie in a table

@pytest.mark.parametrize('depth', [2, 3, 4])
def test_small_models(depth):
    d = distances(lambda n: 0, depth=depth)
    plot_stack(depth, Block(0, 1))
    plot_curves(d)
    if depth > 2: plot_heatmap(d)


def test_strangers_tables(run):
    with pytest.raises(PrunebookError, match="no rows for it. Its tasks are"): plot_scores(run.table, 'piqa')
    hostile = 'a$\\frac{x$_{^'  # no formula
    table = run.table.replace({'strategy': {'simple': hostile}, 'task': {'arc_easy': hostile}})
    texts_of(plot_scores(table, hostile).figure)


# The same bytes

SCRIPT = '''
import sys
from prunebook.paper.figures import plot_stack, save_figure
from prunebook.model.stack import Block
ax = plot_stack(8, Block(2, 3))
ax.plot([0, 1], marker='o', label='x')
ax.legend()
for o in sys.argv[1:]: save_figure(ax, o)
'''


@pytest.mark.thorough
def test_the_same_figure_gives_the_same_bytes(tmp_path):
    "In processes with other seeds of hashing, and at another time"
    files = []
    for seed in '012':
        own = [tmp_path/f'{seed}.{kind}' for kind in ('svg', 'png', 'pdf')]
        env = dict(os.environ, PYTHONHASHSEED=seed, SOURCE_DATE_EPOCH=str(int(seed) * 10**8), MPLBACKEND='agg')
        subprocess.run([sys.executable, '-c', SCRIPT, *map(str, own)], check=True, env=env)
        files.append([o.read_bytes() for o in own])
    assert files[0] == files[1] == files[2]
    ax = plot_stack(4, Block(1, 2))
    with pytest.raises(PrunebookError, match='cannot write'): save_figure(ax, tmp_path/'no'/'x.png')
