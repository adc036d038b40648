__version__: str
from .core import PrunebookError as PrunebookError
from .model.stack import Block as Block, LayerStack as LayerStack
from .model.assets import ASSETS as ASSETS, Asset as Asset
from .model.loading import load_model as load_model
from .data.texts import load_texts as load_texts
from .data.questions import load_questions as load_questions
from .similarity.distances import LayerDistances as LayerDistances, layer_distances as layer_distances
from .serving.rules import served_by as served_by, serving_verdict as serving_verdict
from .pruning.strategies import Plan as Plan, STRATEGIES as STRATEGIES, Strategy as Strategy, as_plan as as_plan, choose_layers as choose_layers, prune_model as prune_model
from .pruning.checkpoint import prune_checkpoint as prune_checkpoint, save_pruned as save_pruned, check_checkpoint as check_checkpoint
from .healing.recipes import METHODS as METHODS, HealingConfig as HealingConfig, Method as Method
from .healing.adapters import load_adapter as load_adapter, merge_adapter as merge_adapter
from .healing.healing import heal as heal, heal_checkpoint as heal_checkpoint
from .healing.teacher import write_answers as write_answers
from .evaluation.generation import lost_answers as lost_answers, sample_answers as sample_answers
from .evaluation.scores import Score as Score, Scores as Scores, compare as compare, paired_differences as paired_differences
from .evaluation.losses import text_loss as text_loss
from .evaluation.choices import choice_accuracy as choice_accuracy
from .evaluation.tasks import TASKS as TASKS, Task as Task, evaluate as evaluate
from .paper.runs import read_run as read_run
from .paper.sweep import SweepConfig as SweepConfig, sweep as sweep
from .serving.stacks import export_gguf as export_gguf, serving_report as serving_report
from .estimates import estimate as estimate
from .shrinking import (Budget as Budget, Effort as Effort, Gates as Gates, Reading as Reading, Rejected as Rejected,
                        shrink as shrink)
from .paper.reproduce import reproduce as reproduce
from .paper.report import report as report
