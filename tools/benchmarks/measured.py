"Which code a number was measured with: the commit, and a mark of each module that it times."
import platform, subprocess
from pathlib import Path

import prunebook
from prunebook.core import source_mark

PACKAGE = Path(prunebook.__file__).parent

def measured(*modules):
    "`commit`, with + if files have changed since, and `code`, a mark of each of `modules`, such as evaluation/choices"
    git = ['git', '-C', PACKAGE.parent, 'describe', '--always', '--abbrev=8', '--exclude=*', '--dirty=+']
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return dict(commit=commit, code={o: source_mark(PACKAGE/f'{o}.py') for o in modules})

def processor():
    "Its model, where Linux says it"
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    return next((o.split(':')[1].strip() for o in lines if o.startswith('model name')), platform.processor())
