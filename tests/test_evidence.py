"""The long runs behind the pages: their settings are valid, and those of the kept runs."""
import re
from pathlib import Path
import abilities, evidence
import map as map_tool
import pandas as pd
import pytest
from prunebook.data.questions import load_questions
from prunebook.data.texts import load_texts
from prunebook.paper.runs import read_record, read_run
from prunebook.paper.sweep import _config_record, _differences

results = Path(__file__).parents[1]/'nbs'/'results'
kept = {o: read_record(results/o)['sweeps'] for o in evidence.SWEEPS if (results/o).exists()}
every = [(model, name) for model, sweeps in kept.items() for name in sweeps if name in evidence.SWEEPS[model]]


@pytest.mark.parametrize('model, name', every)
def test_kept_sweeps_were_made_with_these_settings(model, name):
    assert _differences(kept[model][name]['config'], _config_record(evidence.SWEEPS[model][name])) == []


@pytest.mark.thorough
def test_the_arms_of_abilities_run_and_go_on(tmp_path, capsys):
    "On the demo, two steps each: what is there is not made again"
    words = ['--smoke', '--dtype', 'float32', '--work', str(tmp_path), '--only', 'parent', 'self-top-2']
    abilities.main(words)
    files = {o: o.stat().st_mtime_ns for o in (tmp_path/'scores').rglob('*.json')}
    assert {o.name for o in (tmp_path/'scores'/'self-top-2').iterdir()} == {
        'agreement.json', 'c4.json', 'gsm8k_shots_0.json', 'model.txt'}
    assert [o.name for o in tmp_path.glob('*.json')] == ['self-top-2.json']
    abilities.main(words)
    assert files == {o: o.stat().st_mtime_ns for o in (tmp_path/'scores').rglob('*.json')}
    assert 'share no eight words' in capsys.readouterr().out


def test_new_questions_of_the_map_are_new_and_those_that_judge_afterwards_stay_unused():
    arc, gsm = load_questions('arc_easy'), load_questions('gsm8k')
    said = lambda rows: [o['question'] for o in rows]
    assert len(map_tool.arc()) == 1000
    assert not {*said(map_tool.arc())} & {*said(load_questions('arc_easy', n=500))}
    assert len(map_tool.gsm8k()) == 300
    assert {*said(map_tool.gsm8k())} <= {*said(map_tool.gsm8k(627))}
    assert not {*said(map_tool.gsm8k(627))} & {*said(load_questions('gsm8k', n=400))}
    assert not {*said(map_tool.gsm8k(627))} & {*said(gsm[900:])}
    assert [*map_tool.layers_of('13-16')] == [13, 14, 15, 16]
    assert [*map_tool.layers_of('8')] == [8]
    assert [*map_tool.layers_of('')] == []
    assert len(arc) == 2376


@pytest.mark.thorough
def test_the_pairs_of_the_map_run_and_go_on(tmp_path, capsys):
    "On the demo, a few items each: what is there is not made again"
    words = ['--smoke', '--dtype', 'float32', '--work', str(tmp_path), '--only', 'pairs', 'gsm8k-200']
    map_tool.main(words)
    files = {o: o.stat().st_mtime_ns for o in tmp_path.rglob('*.json')}
    assert len(files) == 3 * 6 + 2
    rows = pd.concat(map_tool.rows_of(o) for o in files)
    assert {*rows.form} == {'letter', 'likelihood', ''}
    assert {*rows[rows.task == 'gsm8k'].layers} == {'13-16', '23-26'}
    map_tool.main(words)
    assert files == {o: o.stat().st_mtime_ns for o in tmp_path.rglob('*.json')}


@pytest.mark.thorough
def test_the_plan_for_one_gpu_in_small_and_again(tmp_path, capsys):
    "Texts that the model writes, and every sweep of the plan; a second start makes nothing anew"
    written = []
    for _ in range(2):
        evidence.main(['demo', '--gpu-plan', '--smoke', '--results', str(tmp_path)])
        written.append((tmp_path/'demo-written.jsonl').read_bytes())
    own = load_texts(evidence.ALL_TEXTS, 'healing')
    assert written[0] == written[1] and len(written[0].splitlines()) == 2 + len(own)
    said = r'heal: .* minutes, evaluate: .* minutes, write: .* minutes together .*; .* GB of memory, .* of disk'
    assert re.search(said, capsys.readouterr().out)
    t, sweeps = read_run(tmp_path/'demo'), evidence.gpu_sweeps('', smoke=True)
    assert set(t.sweep) == set(sweeps) and set(t[t.healed].n) == {0, 4}
    assert len(read_record(tmp_path/'demo')['sweeps']['gpu-1m']['starts']) == 1 and not t.duplicated().any()
