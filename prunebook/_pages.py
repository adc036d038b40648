"""For `nbdev_test`, which runs a page on each core, and page after page in one process: one thread a process, and what
a page holds, its models above all, goes when the next page starts. Imported in its processes only (`IN_TEST`)."""
import os
import sys

os.environ.setdefault('OMP_NUM_THREADS', '1')
if torch := sys.modules.get('torch'): torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))

if shells := sys.modules.get('execnb.shell'):
    _init = shells.CaptureShell.__init__

    def _init_alone(self, *args, **kwargs):
        last = shells.InteractiveShell._instance  # IPython keeps all shells until the process ends
        if last: last.reset()
        _init(self, *args, **kwargs)

    shells.CaptureShell.__init__ = _init_alone
