"""The long runs behind the pages: their settings are valid, and those of the kept runs."""
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
import pytest
from prunebook.paper.sweep import _config_record, differences

root = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location('evidence', root/'tools'/'evidence.py')
evidence = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evidence)
every = [(model, name) for model, sweeps in evidence.SWEEPS.items() for name in sweeps]


@pytest.mark.parametrize('model, name', every)
def test_kept_sweeps_were_made_with_these_settings(model, name):
    config = evidence.SWEEPS[model][name]
    assert json.loads(json.dumps(asdict(config)))['tasks']
    file = root/'nbs'/'results'/model/'run.json'
    kept = json.loads(file.read_text())['sweeps'].get(name) if file.exists() else None
    if kept: assert differences(kept['config'], _config_record(config)) == []
