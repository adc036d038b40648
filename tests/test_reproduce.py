"The main job, shortened: what a run leaves behind. `PRUNEBOOK_RUN` names a finished run; without it one is made."
import json, os, re, subprocess, sys
from pathlib import Path
import pandas as pd, pytest
from prunebook import LayerDistances, PrunebookError, check_checkpoint, reproduce

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    if given := os.environ.get('PRUNEBOOK_RUN'): return Path(given)
    return reproduce(out=tmp_path_factory.mktemp('run')/'run', preset='smoke', progress=False)

def test_table(run):
    t = pd.read_csv(run/'results.csv')
    assert set(t.strategy) == {'none', 'similarity', 'simple'} and set(t.task) == {'c4', 'mmlu'} and set(t.healed) == {False, True}
    assert (t.low <= t.value).all() and (t.value <= t.high).all()
    assert not t.duplicated(['strategy', 'n', 'healed', 'seed', 'task']).any()
    loss = t[(t.task == 'c4') & ~t.healed].set_index(['strategy', 'n']).value
    assert loss['none', 0] < loss['similarity', 2] < loss['simple', 2], 'similarity beats simple before healing'
    layers = t[t.strategy == 'simple'].groupby('n').layers.first()
    assert layers[2] == '27 28', 'the deepest but the last'

def test_healing_lowers_the_loss(run):
    t = pd.read_csv(run/'results.csv').query("task == 'c4' and n == 8").set_index(['strategy', 'healed']).value
    assert t['similarity', True] < t['similarity', False] and t['simple', True] < t['simple', False]

def test_distances_and_best_blocks(run):
    dist, best = LayerDistances.load(run), pd.read_csv(run/'best_blocks.csv')
    assert list(best.columns) == 'n start stop layers distance sem runner_up_start certain'.split()
    assert [dist.best_block(n).start for n in best.n] == list(best.start)

def test_checkpoint_loads_with_plain_transformers(run):
    # in float32: in 16 bits, generating with and without a cache may round apart
    code = ('import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; m, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32", output_loading_info=True); '
            't = AutoTokenizer.from_pretrained(sys.argv[1]); x = t("The capital of", return_tensors="pt"); '
            'out = [m.generate(**x, max_new_tokens=8, do_sample=False, use_cache=c).tolist() for c in (True, False)]; '
            'assert not info["missing_keys"] and not info["unexpected_keys"], info; assert out[0] == out[1]; '
            'assert "prunebook" not in sys.modules; print(len(m.model.layers), m.config.num_hidden_layers)')
    done = subprocess.run([sys.executable, '-c', code, run/'checkpoint'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dropped = json.loads((run/'checkpoint'/'config.json').read_text())['prunebook']['dropped']
    assert done.stdout.split() == [str(30 - len(dropped))] * 2
    assert check_checkpoint(run/'checkpoint') == []

def test_report_is_whole_and_self_contained(run):
    page = (run/'report.html').read_text()
    assert page.count('data:image/png;base64,') == 6 and len(re.findall('<h2>', page)) == 9
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    said = json.loads((run/'run.json').read_text())['continuations']
    assert set(said) == {'original', 'pruned', 'healed'} and len(set(said.values())) == 3

def test_refusals_come_before_any_work(tmp_path):
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'mine').write_text('precious')
    with pytest.raises(PrunebookError, match='not empty'): reproduce(out=tmp_path/'out', preset='smoke')
    with pytest.raises(PrunebookError, match='smoke, quick, full'): reproduce(out=tmp_path/'new', preset='huge')
    (tmp_path/'new.unfinished').mkdir(); (tmp_path/'new.unfinished'/'asked.json').write_text('{"model": "other"}')
    with pytest.raises(PrunebookError, match='other settings'): reproduce(out=tmp_path/'new', preset='smoke')
    assert (tmp_path/'out'/'mine').read_text() == 'precious' and sorted(p.name for p in tmp_path.iterdir()) == ['new.unfinished', 'out']
