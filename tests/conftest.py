"Slow tests run only with --slow: `pytest --slow`. No test asks the model hub: what is not there then fails at once, and the same everywhere."
import os
os.environ['HF_HUB_OFFLINE'] = '1'  # read when huggingface_hub is imported
import pytest

def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='also run tests marked slow: minutes of work or gigabytes of disk')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'): return
    for o in items:
        if 'slow' in o.keywords: o.add_marker(pytest.mark.skip(reason='slow: run with --slow'))
