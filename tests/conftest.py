"""Fixtures that many test files share, and the ranks of the tests: `fast`, everyday (neither mark), `thorough`, `slow`.
No test asks the model hub. What is not there then fails at once, and the same everywhere."""
import os, subprocess
os.environ['HF_HUB_OFFLINE'] = '1'              # read when huggingface_hub is imported
os.environ.setdefault('OMP_NUM_THREADS', '1')  # read when torch is imported: the tests run in several processes
import pytest


def pytest_addoption(parser):
    text = 'also run tests marked slow: minutes of work or gigabytes of disk'
    parser.addoption('--slow', action='store_true', help=text)


# of a test that takes every family, the everyday tests run one of each shape: rotary angles, learned positions, windows
DAILY = {'llama', 'gpt2', 'gemma3_text', 'qwen2_moe', 'mamba'}
FAST = {f'test_{o}.py' for o in 'stack pruning prefixes criteria budgets packing tasks golden packaging'.split()}


def pytest_collection_modifyitems(config, items):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    for o in items:
        kind = getattr(getattr(o, 'callspec', None), 'params', {}).get('kind')
        if isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES and kind not in DAILY: o.add_marker('thorough')
        if o.path.name in FAST and not {'thorough', 'extra', 'slow'} & set(o.keywords): o.add_marker('fast')
        if 'slow' in o.keywords and not config.getoption('--slow'):
            o.add_marker(pytest.mark.skip(reason='slow: run with --slow'))


@pytest.fixture(scope='session')
def demo():
    "The demo model and its tokenizer. Shared: a test that changes the model works on a copy"
    from prunebook import load_model
    return load_model('demo')


@pytest.fixture(scope='session')
def tiny():
    "`tiny(model_type='llama', layers=8, **config)`: a new random model"
    from support.tiny import tiny
    return tiny


@pytest.fixture(scope='session')
def tiny_model(tiny):
    "A random Llama of 8 layers. Shared: a test that changes it works on a copy"
    return tiny()


@pytest.fixture(scope='session')
def tiny_tokenizer():
    "The tokenizer of `tiny_folder`: w0 … w95"
    from support.tiny import word_tokenizer
    return word_tokenizer()


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory, tiny_model, tiny_tokenizer):
    "`tiny_model` as a saved checkpoint. Shared: read it, never write into it"
    from support.tiny import save
    return save(tmp_path_factory.mktemp('tiny')/'model', tiny_model, tiny_tokenizer)


@pytest.fixture
def disk(tmp_path):
    "`disk(kb)` mounts a file system of so many kB; where mounting is not allowed the test is skipped"
    place = tmp_path/'disk'
    place.mkdir()
    def mount(kb):
        made = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kb}k', 'tmpfs', place], capture_output=True)
        if made.returncode: pytest.skip('mounting is not allowed here')
        return place
    mount.change = lambda what: subprocess.run(['mount', '-o', f'remount,{what}', place], check=True)
    yield mount
    subprocess.run(['umount', '-l', place], capture_output=True)
