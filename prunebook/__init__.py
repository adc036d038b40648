"""Remove whole layers from language models: measure, prune, heal, evaluate.

`from prunebook import load_model` works for every name below. A room (a module such as `prunebook.stack`) is imported
when one of its names is first used, so that the command line starts at once. The rooms export more: the building
blocks that the notebooks explain."""
__version__ = "0.0.1"

from importlib import import_module as _import
from typing import TYPE_CHECKING

_rooms = dict(
    core='PrunebookError',
    stack='Block LayerStack',
    assets='ASSETS Asset',
    models='load_model',
    data='load_texts load_questions',
    distances='LayerDistances',
    similarity='layer_distances',
    serving='serving_verdict',
    plans='Plan',
    pruning='STRATEGIES Strategy choose_layers prune_model',
    checkpoint='prune_checkpoint save_pruned check_checkpoint',
    methods='METHODS Method',
    recipes='HealingConfig',
    adapters='load_adapter',
    healing='heal',
    merging='merge_adapter',
    scores='Score compare',
    tasks='TASKS Task',
    evaluation='evaluate choice_accuracy text_loss',
    runs='read_run',
    grids='SweepConfig',
    sweeps='sweep',
    exports='export_gguf',
    deploy='serving_report',
    estimates='estimate',
    reproduction='reproduce',
    reports='report')
_home = {name: room for room, names in _rooms.items() for name in names.split()}
__all__ = list(_home)


def __getattr__(name):
    if name in _home: return getattr(_import(f'prunebook.{_home[name]}'), name)
    if name in _rooms: return _import(f'prunebook.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__(): return __all__


if TYPE_CHECKING:
    from .core import PrunebookError
    from .stack import Block, LayerStack
    from .assets import ASSETS, Asset
    from .models import load_model
    from .data import load_texts, load_questions
    from .distances import LayerDistances
    from .similarity import layer_distances
    from .serving import serving_verdict
    from .plans import Plan
    from .pruning import STRATEGIES, Strategy, choose_layers, prune_model
    from .checkpoint import prune_checkpoint, save_pruned, check_checkpoint
    from .methods import METHODS, Method
    from .recipes import HealingConfig
    from .adapters import load_adapter
    from .healing import heal
    from .merging import merge_adapter
    from .scores import Score, compare
    from .tasks import TASKS, Task
    from .evaluation import evaluate, choice_accuracy, text_loss
    from .runs import read_run
    from .grids import SweepConfig
    from .sweeps import sweep
    from .exports import export_gguf
    from .deploy import serving_report
    from .estimates import estimate
    from .reproduction import reproduce
    from .reports import report
