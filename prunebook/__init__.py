"""Remove whole layers from language models: measure, prune, heal, evaluate.

`from prunebook import load_model` works for every name below. A module such as `prunebook.model.stack` is imported when
one of its names is first used, so that the command line starts at once."""
__version__ = "0.1.0"

import os as _os
from importlib import import_module as _import
from typing import TYPE_CHECKING

# healing is deterministic, and torch before 2.10 looks at this once, at the first matrix product of a process
_os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

if 'IN_TEST' in _os.environ:
    # `nbdev_test` runs a page on each core, and page after page in one process: one thread a process, and what a page
    # holds, its models above all, goes when the next page starts
    import sys as _sys
    _os.environ.setdefault('OMP_NUM_THREADS', '1')
    if _torch := _sys.modules.get('torch'): _torch.set_num_threads(int(_os.environ['OMP_NUM_THREADS']))
    if _shells := _sys.modules.get('execnb.shell'):
        _start = _shells.CaptureShell.__init__

        def _start_alone(self, *args, **kwargs):
            if last := _shells.InteractiveShell._instance: last.reset()  # IPython keeps all shells until the end
            _start(self, *args, **kwargs)
        _shells.CaptureShell.__init__ = _start_alone

_modules = {
    'core': 'PrunebookError',
    'model.stack': 'Block LayerStack',
    'model.assets': 'ASSETS Asset',
    'model.loading': 'load_model',
    'data.texts': 'load_texts',
    'data.questions': 'load_questions',
    'similarity.distances': 'LayerDistances layer_distances',
    'serving.rules': 'served_by serving_verdict',
    'pruning.strategies': 'Plan STRATEGIES Strategy as_plan choose_layers prune_model',
    'pruning.checkpoint': 'prune_checkpoint save_pruned check_checkpoint',
    'healing.recipes': 'METHODS HealingConfig Method',
    'healing.adapters': 'load_adapter merge_adapter',
    'healing.healing': 'heal heal_checkpoint',
    'healing.teacher': 'write_answers',
    'evaluation.generation': 'lost_answers sample_answers',
    'evaluation.scores': 'Score Scores compare paired_differences',
    'evaluation.losses': 'text_loss',
    'evaluation.choices': 'choice_accuracy',
    'evaluation.tasks': 'TASKS Task evaluate',
    'paper.runs': 'read_run',
    'paper.sweep': 'SweepConfig sweep',
    'serving.stacks': 'export_gguf serving_report',
    'estimates': 'estimate',
    'shrinking': 'Rejected shrink',
    'paper.reproduce': 'reproduce',
    'paper.report': 'report'}
_rooms = 'model data similarity pruning evaluation healing serving paper core estimates shrinking cli'.split()
_home = {name: room for room, names in _modules.items() for name in names.split()}
__all__ = list(_home)


def __getattr__(name):
    if name in _home: return getattr(_import(f'prunebook.{_home[name]}'), name)
    if name in _rooms: return _import(f'prunebook.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__(): return __all__


if TYPE_CHECKING:
    from .core import PrunebookError
    from .model.stack import Block, LayerStack
    from .model.assets import ASSETS, Asset
    from .model.loading import load_model
    from .data.texts import load_texts
    from .data.questions import load_questions
    from .similarity.distances import LayerDistances, layer_distances
    from .serving.rules import served_by, serving_verdict
    from .pruning.strategies import Plan, STRATEGIES, Strategy, as_plan, choose_layers, prune_model
    from .pruning.checkpoint import prune_checkpoint, save_pruned, check_checkpoint
    from .healing.recipes import METHODS, HealingConfig, Method
    from .healing.adapters import load_adapter, merge_adapter
    from .healing.healing import heal, heal_checkpoint
    from .healing.teacher import write_answers
    from .evaluation.generation import lost_answers, sample_answers
    from .evaluation.scores import Score, Scores, compare, paired_differences
    from .evaluation.losses import text_loss
    from .evaluation.choices import choice_accuracy
    from .evaluation.tasks import TASKS, Task, evaluate
    from .paper.runs import read_run
    from .paper.sweep import SweepConfig, sweep
    from .serving.stacks import export_gguf, serving_report
    from .estimates import estimate
    from .shrinking import Rejected, shrink
    from .paper.reproduce import reproduce
    from .paper.report import report
