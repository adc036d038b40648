"Every notebook is valid and names the usual kernel, so it opens in Jupyter. `nbdev_test` runs its cells."
from pathlib import Path
import nbformat, pytest

root = Path(__file__).parents[1]
pages = sorted(str(p.relative_to(root)) for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


@pytest.mark.parametrize('page', pages)
def test_opens(page):
    nb = nbformat.read(root/page, as_version=4)
    nbformat.validate(nb)
    assert nb.cells and nb.metadata.kernelspec.name == 'python3'
