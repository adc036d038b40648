"""Take whole layers out of language models: measure, prune, heal, evaluate.

`from prunebook import load_model` works for every public name. Modules load when a name is first used, so that the
command line starts at once. The names come from nbdev's index of the notebooks."""
__version__ = "0.0.1"

from importlib import import_module as _import
from typing import TYPE_CHECKING
from ._modidx import d as _index

_home = {path.split('.')[-1]: mod for mod, syms in _index['syms'].items() if not mod.endswith('__main__')
         for path in syms if path.count('.') == mod.count('.') + 1 and not path.split('.')[-1].startswith('_')}
__all__ = sorted(_home)

def __getattr__(name):
    if name in _home: return getattr(_import(_home[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def __dir__(): return __all__

if TYPE_CHECKING:
    from .stack import *
    from .data import *
    from .similarity import *
    from .pruning import *
    from .healing import *
    from .evaluation import *
    from .sweep import *
    from .figures import *
