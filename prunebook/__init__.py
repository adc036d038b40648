"""Remove whole layers from language models: measure, prune, heal, evaluate.

`from prunebook import load_model` works for every name in `__init__.pyi`. A module such as `prunebook.model.stack` is
imported when one of its names is first used, so that the command line starts at once."""
__version__ = "0.1.0"

import ast as _ast
import os as _os
from importlib import import_module as _import
from pathlib import Path as _Path

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
            if last := _shells.InteractiveShell._instance: last.reset()  # pyright: ignore[reportOptionalMemberAccess]  # IPython keeps all shells until the end
            _start(self, *args, **kwargs)
        _shells.CaptureShell.__init__ = _start_alone

# the public names, a line a module, where type checkers look for them as well
_stub = _ast.parse(_Path(__file__).with_suffix('.pyi').read_text(encoding='utf-8'))
_rooms = 'model data similarity pruning evaluation healing serving paper core estimates shrinking cli'.split()
_home = {o.name: line.module for line in _stub.body if isinstance(line, _ast.ImportFrom) for o in line.names}
__all__ = list(_home)


def __getattr__(name):
    if name in _home: return getattr(_import(f'prunebook.{_home[name]}'), name)
    if name in _rooms: return _import(f'prunebook.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__(): return __all__
