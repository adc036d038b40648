"""Take whole layers out of language models: measure, prune, heal, evaluate.

`from prunebook import load_model` works for every name below. A room is imported when one of its names is first
used, so that the command line starts at once. The rooms export more: their building blocks, which the notebooks explain."""
__version__ = "0.0.1"

import sys as _sys
from importlib import import_module as _import
from types import ModuleType as _Module
from typing import TYPE_CHECKING

_rooms = dict(
    stack='PrunebookError Block LayerStack',
    data='ASSETS load_model load_texts load_questions tokenize batches cache_dir',
    similarity='layer_distances LayerDistances Certain',
    pruning='STRATEGIES Plan choose_layers parse_layers prune_model save_pruned prune_checkpoint check_checkpoint export_plan',
    healing='HealingConfig HealingResult heal load_adapter',
    evaluation='evaluate text_loss c4_loss choice_accuracy compare Score LossScore',
    sweep='SweepConfig sweep read_run kept_score LossMap loss_map judge_distances critical_fraction',
    claims='Finding RunFolder open_run judge_claims findings_table',
    figures='plot_stack plot_curves plot_heatmap plot_scores plot_recipe plot_places plot_history report_html',
    estimate='estimate model_size',
    report='report',
    cli='reproduce')
_home = {name: room for room, names in _rooms.items() for name in names.split()}
__all__ = list(_home)

def __getattr__(name):
    if name in _home: return getattr(_import(f'prunebook.{_home[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def __dir__(): return __all__

class _Package(_Module):
    "Python announces an imported room as an attribute here; `sweep` is the function all the same, as if it had been imported by name"
    def __setattr__(self, name, value):
        if not (name in _home and isinstance(value, _Module)): super().__setattr__(name, value)

_sys.modules[__name__].__class__ = _Package

if TYPE_CHECKING:
    from .stack import *
    from .data import *
    from .similarity import *
    from .pruning import *
    from .healing import *
    from .evaluation import *
    from .sweep import *
    from .figures import *
    from .estimate import *
    from .cli import *
