"Which code a number was measured with: the commit, and a mark of each module that it times."
import platform, subprocess
from pathlib import Path

import prunebook
from prunebook.core import source_mark

PACKAGE = Path(prunebook.__file__).parent

def measured(*modules):
    "`commit`, with + if the package has changed since, and `code`, a mark of each of `modules`, as evaluation/choices"
    def git(*args): return subprocess.check_output(['git', '-C', PACKAGE, *args], text=True).strip()
    commit = git('rev-parse', '--short=8', 'HEAD') + '+' * bool(git('status', '--porcelain', '.'))
    return dict(commit=commit, code={o: source_mark(PACKAGE/f'{o}.py') for o in modules})

def processor():
    "Its model, where Linux says it"
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    return next((o.split(':')[1].strip() for o in lines if o.startswith('model name')), platform.processor())
