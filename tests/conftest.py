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
FAST = {f'test_{o}.py' for o in 'stack pruning criteria budgets packing tasks golden packaging'.split()}

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
def tiny_model():
    "A random Llama of 8 layers. Shared: a test that changes it works on a copy"
    from support.tiny import tiny
    return tiny()

@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory, tiny_model):
    "`tiny_model` as a saved checkpoint. Shared: read it, never write into it"
    from support.tiny import save
    return save(tmp_path_factory.mktemp('tiny')/'model', tiny_model)

@pytest.fixture(scope='session')
def own(tmp_path_factory):
    "A model, the same without a layer, texts and questions of one's own. Shared: read it, never write into it"
    from prunebook import prune_model
    from support.tiny import letter_tokenizer, save, texts, tiny, write_rows
    folder, model = tmp_path_factory.mktemp('own'), tiny(layers=6, max_position_embeddings=1024)
    save(folder/'model', model, letter_tokenizer())
    save(folder/'pruned', prune_model(model, [3]), letter_tokenizer())
    (folder/'texts.txt').write_text('\n'.join(texts(60)))
    (folder/'judge.txt').write_text('\n'.join(texts(12, seed=1)))
    choices = ['same', 'other', 'none']
    write_rows(folder/'mine.jsonl', [dict(question=f'{i} and {i}', choices=choices, answer=i % 3) for i in range(16)])
    return folder

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
