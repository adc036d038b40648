"JupyterLab from the clone: every notebook opens through the server, and runs from top to bottom in a fresh kernel."
import json, os, re, secrets, shutil, socket, subprocess, sys, time
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request, urlopen
import nbformat, pytest
from nbclient import NotebookClient

root = Path(__file__).parents[1]
pages = sorted(str(p.relative_to(root)) for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "A copy of the files that git has, or will have: running a page exports its module, and that must not happen here"
    to = tmp_path_factory.mktemp('clone')
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=root, capture_output=True, text=True,
                            check=True)
    for f in listed.stdout.splitlines():
        if not (root/f).exists(): continue
        (to/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/f, to/f, follow_symlinks=False)
    return to


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def server(clone):
    "Asks a server that is started in the clone, as `jupyter lab` starts it"
    port, token = free_port(), secrets.token_hex(8)
    env = os.environ | dict(JUPYTER_TOKEN=token, JUPYTER_CONFIG_DIR=str(clone.parent/'config'),
                            JUPYTER_RUNTIME_DIR=str(clone.parent/'runtime'))
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}',
               '--ServerApp.port_retries=0', '--ip=127.0.0.1']
    p = subprocess.Popen(command, cwd=clone, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path):
        asked = Request(f'http://127.0.0.1:{port}/{path}', headers=dict(Authorization=f'token {token}'))
        with urlopen(asked, timeout=30) as r: return r.read()
    try:
        wait_for(get, p)
        yield get
    finally:
        p.terminate()
        p.wait(30)


def wait_for(get, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try: return get('api/status')
        except (URLError, ConnectionError):
            assert process.poll() is None, 'the server stopped'
            time.sleep(.25)


@pytest.mark.slow
def test_lab_answers(server): assert b'jupyter' in server('lab').lower()


@pytest.mark.slow
@pytest.mark.parametrize('page', pages)
def test_opens(server, page):
    o = json.loads(server(f'api/contents/{quote(page)}?type=notebook'))
    assert o['type'] == 'notebook' and len(o['content']['cells']) > 3
    assert o['content']['metadata']['kernelspec']['name'] == 'python3'


@pytest.mark.slow
@pytest.mark.parametrize('page', pages)
def test_runs_from_top_to_bottom(clone, page):
    "All cells but those that are marked as slow: they take minutes, and rewrite the kept results"
    nb = nbformat.read(clone/page, as_version=4)
    nb.cells = [c for c in nb.cells if not re.search(r'^#\| *(slow|gpu)\b', c.source, re.M)]
    resources = dict(metadata=dict(path=str((clone/page).parent)))
    NotebookClient(nb, timeout=600, kernel_name='python3', resources=resources).execute()
