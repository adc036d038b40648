"""The long runs behind the pages: their settings are valid, and those of the kept runs."""
import json, re
from pathlib import Path
import abilities, choose, evidence, should_you, map as map_tool, pandas as pd, pytest
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
@pytest.mark.extra
def test_the_arms_of_should_you_run_and_go_on(tmp_path, capsys):
    "On the demo, three problems: what is there is not written again, and a broken-off arm goes on where it was"
    pytest.importorskip('llama_cpp_py_sync')
    words, names = ['--smoke', '--work', str(tmp_path), '--dtype', 'float32'], ['q4_k_m', 'cut-2-q3_k_m']
    should_you.main([*words, '--only', *names])
    files = {o: o.read_bytes() for o in tmp_path.glob('*.jsonl')}
    assert len(files) == 2 and all(len(o.splitlines()) == 3 for o in files.values())
    one = tmp_path/'q4_k_m.jsonl'
    one.write_bytes(b''.join(one.read_bytes().splitlines(keepends=True)[:2]))
    should_you.main([*words, '--only', *names])
    assert {o: o.read_bytes() for o in files} == files
    should_you.main([*words, '--speed'])
    should_you.main([*words, '--publish'])
    rows, lines = pd.read_parquet(tmp_path/'should_you.parquet'), pd.read_csv(tmp_path/'should_you.csv')
    assert list(rows) == ['arm', 'task', 'item', 'right', 'written', 'tokens'] and len(rows) == 6
    assert [*lines.arm] == names and (lines.bytes == [(tmp_path/f'{o}.gguf').stat().st_size for o in names]).all()
    assert (lines.kv_bytes_a_token == [2 * 384 * 30, 2 * 384 * 28]).all() and lines.generate_per_second.min() > 0
    assert all(len(o.split()) == 2 for o in lines.prompt_runs)
    capsys.readouterr()
    assert should_you.main([*words, '--verify', '3', '--only', *names]) == 0
    assert capsys.readouterr().out.count('3 of 3 as in the table') == 2
    rows.assign(right=1 - rows.right).to_parquet(tmp_path/'should_you.parquet')  # every verdict a lie
    assert should_you.main([*words, '--verify', '3', '--only', names[0]]) == 1
    assert 'not confirmed' in capsys.readouterr().out
    should_you.main([*words, '--list'])
    assert 'q4_k_m: file, 3 answers' in capsys.readouterr().out

def test_the_arms_of_should_you_are_those_of_the_rules():
    "Eleven, each named in the table of the docstring; answers-2 needs its layers before any work"
    assert len(should_you.ARMS) == 11 and all(o in should_you.__doc__ for o in should_you.ARMS)
    assert sum(o.n > 0 for o in should_you.ARMS.values()) == 6
    with pytest.raises(SystemExit): should_you.main(['--only', 'answers-2', '--work', '/nonexistent'])

@pytest.mark.thorough
@pytest.mark.extra
def test_the_rules_of_choosing_run_and_go_on(tmp_path, capsys):
    "On the demo, a layer, one document and three problems: what is there stays, and one cut has one file"
    pytest.importorskip('llama_cpp_py_sync')
    words = ['--smoke', '--work', str(tmp_path), '--dtype', 'float32']
    choose.main(words)
    files = {o: o.read_bytes() for o in tmp_path.glob('*.json*')}
    plans = {o: json.loads((tmp_path/f'{o}.json').read_text()) for o in choose.RULES}
    assert plans['middle']['layers'] == [14] and {*plans['code']['held_out']} == {'maths', 'code'}
    assert all(len(o['layers']) == 1 for o in plans.values())
    cuts = {' '.join(map(str, o['layers'])) for o in plans.values()}
    assert {o.stem for o in tmp_path.glob('*.jsonl')} == {o.stem for o in tmp_path.glob('*.gguf')} == cuts
    choose.main(words)
    assert {o: o.read_bytes() for o in tmp_path.glob('*.json*')} == files
    choose.main([*words, '--publish'])
    rows = pd.read_parquet(tmp_path/'choose.parquet')
    assert list(rows) == ['layers', 'item', 'right', 'written', 'tokens'] and len(rows) == 3 * len(cuts)
    capsys.readouterr()
    choose.main([*words, '--list'])
    assert 'middle [14]' in capsys.readouterr().out

def test_what_chooses_is_not_what_judges():
    "24 answers of each kind to choose by, 24 others to judge by, and no problem of GSM8K among them"
    for kind in ('maths', 'code'):
        by, judge = ({o['messages'][0]['content'] for o in choose.said(kind, i)} for i in (0, 24))
        assert len(by) == len(judge) == 24
        assert not by & judge
    asked = {o['question'] for o in choose.gsm8k(600)}
    assert len(asked) == 600
    assert not asked & {o['messages'][0]['content'] for o in choose.said('maths', 0, 64)}
    assert not asked & {o['question'] for o in choose.load_questions('gsm8k')[900:]}

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
