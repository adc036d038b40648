"A start of several processes; and FSDP on CPUs, which accelerate takes for accelerators only."
import os, socket, subprocess, sys
from pathlib import Path
from accelerate import state
from accelerate.utils import DistributedType

CONFIG = Path(__file__).parents[2]/'nbs'/'practice'/'fsdp.yaml'

def allow_cpu():
    "From now on accelerate divides models among CPU processes too, over gloo"
    old = state.AcceleratorState.__init__
    def init(self, *args, fsdp_plugin=None, **kw):
        old(self, *args, fsdp_plugin=fsdp_plugin, **kw)
        if fsdp_plugin is None or self.distributed_type != DistributedType.MULTI_CPU: return
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        if self._mixed_precision != 'no': fsdp_plugin.set_mixed_precision(self._mixed_precision)
    state.AcceleratorState.__init__ = init

def launch(script, *args, how=('--config_file', CONFIG)):
    "Run the Python file `script` in two processes, with the configuration of the docs or other options of accelerate"
    env = os.environ | dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    options = [*how, '--num_processes', 2, '--main_process_port', port]
    command = [sys.executable, '-m', 'accelerate.commands.launch', *options, script, *args]
    return subprocess.run([str(o) for o in command], env=env, capture_output=True, text=True, timeout=600)
