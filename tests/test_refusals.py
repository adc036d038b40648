"""Nothing is refused late: every mistake that needs no measuring is found before the weights are loaded, and before
anything is written. One row is a command line and what the message names; {…} are files of `places`."""
import time
import pytest
from prunebook.cli import main

SECONDS = 1.5  # of the processor, beside imports: reading a question set takes most of them

REFUSED = """
similarity demo --out {out} --until-certain 40               | 40
similarity demo --out {out} --texts {missing}                | missing.jsonl
similarity demo --out {out} --texts {three} --n-texts 64     | 64
similarity demo --out {out} --texts {questions} --column words | words
similarity demo --out {out} --n-texts 0                      | 0
similarity demo --out {out} --max-length 99999               | 99999
similarity demo --out {out} --dtype int7                     | int7
similarity demo --out {full}                                 | full
similarity {missing} --out {out}                             | missing.jsonl
similarity nobody/nothing --out {out}                        | nobody/nothing
similarity ~no-such-user/x --out {out}                       | no such file or folder
similarity demo --out {out} --n-texts -3                     | -3
similarity {questions} --out {out}                           | no .gguf
fly demo {out}                                               | fly
prune demo                                                   | OUT
prune demo {out} --n 40                                      | 40
prune demo {out}                                             | --drop
prune demo {out} --drop 2 --bits 4                            | --bits
prune demo {out} --drop 2 --dtype float16                     | --dtype
prune demo {out} --n 2 --options {{"k":2}}                    | option k
prune demo {out} --n 2 --options {{"n":3}}                    | option n
prune demo {out} --drop 2 --strategy magic                   | magic
prune demo {out} --params 1e9x                               | 1e9x
prune demo {out} --n 2 --options 3                           | 3
prune demo {out} --n 2 --gb 0.1                              | --n
prune demo {out} --speedup 50                                | 50
prune demo {out} --drop 28-31                                | 28-31
prune demo {out} --n 2 --texts {missing}                     | missing.jsonl
prune demo {out} --n 2 --max-length 99999                    | 99999
prune demo {out} --n 2 --distances {folder}                  | distances
prune demo {out} --n 2 --strategy keep_last --options {{"k":40}} | 40
prune demo {out} --n 2 --serve moon                          | moon
prune demo {full} --n 2                                      | full
prune {pickled} {out} --n 2 --strategy best_loss             | Its weights are in pickle
shrink demo {out} --drop 40                                  | 40
shrink demo {out} --data {three}                             | 3 different
shrink demo {out} --data {questions} --column words           | words
shrink demo {out} --gguf q9                                  | q9
shrink demo {out} --n-questions 99999                        | 99999
shrink demo {out} --minutes 0                                | 0
shrink demo {out} --drop 3 --params 1e8                      | drop=
shrink demo {out} --max-added-loss nan                        | nan
shrink demo {out} --min-retention 2                          | 2
shrink demo {out} --min-retention .8 --tasks c4 piqa         | c4
shrink demo ~{out}                                           | ~
shrink demo {full} --dry-run                                 | full
check {missing}                                              | missing.jsonl
check {folder} --serve moon                                  | moon
check {folder} --claims {missing}                           | missing.jsonl
export {missing} {out}.gguf                                  | missing.jsonl
export demo {out}.gguf --type q1                             | q1
export demo {out}.gguf --type q3_k                           | q3_k_m
export demo {out}.bin                                        | out.bin
export demo {folder}/no/x.gguf                               | no
heal demo {out} --texts {missing}                            | missing.jsonl
heal demo {out} --texts {chat}                               | conversation 0
heal demo {out} --judge-texts {missing}                      | missing.jsonl
heal demo {out} --n-judge -1                                 | -1
heal demo {out} --objective distill                          | --teacher
heal demo {out} --objective distill --teacher {missing}      | missing.jsonl
heal demo {out} --prompts {three}                             | --teacher
heal demo {out} --prompts {three} --teacher demo --column words | words
heal demo {out} --prompts {three} --teacher demo --n-texts 2 | --n-texts
heal demo {out} --teacher demo                               | --teacher
heal demo {out} --bits 4 --judge-texts {three}               | --judge-texts
heal demo {out} --method magic                               | magic
heal demo {out} --config {missing}                           | missing.jsonl
heal demo {out} --steps 0                                    | 0
heal demo {out} --minutes 0                                  | 0
heal demo {out} --steps 5 --tokens 9000                      | --steps
heal demo {out} --max-length 99999                           | 99999
heal demo {out} --bits 8                                     | 8
heal demo {out} --options x                                  | x
heal demo {out} --bits 4 --train-bits 16                     | --train-bits
heal demo {full}                                             | full
evaluate demo --tasks {missing}                              | missing.jsonl
evaluate demo --tasks {questions} --n-questions 64           | 64
evaluate demo --tasks {questions}:shots=9                    | shots=9
evaluate demo --tasks c4 --n-texts 99999                     | 99999
evaluate demo --tasks kl                                     | kl
evaluate demo --tasks arc_easy --judge-texts {three}         | --judge-texts
evaluate demo --tasks c4 --column words                      | --column
evaluate demo --tasks c4 --judge-texts {questions} --column words | words
evaluate demo --max-length 0                                 | 0
evaluate demo --max-new-tokens 0                             | max_new_tokens=0
evaluate demo --parent {missing}                             | missing.jsonl
evaluate demo {missing}                                      | missing.jsonl
evaluate demo --save {three}                                 | three.txt
compare {missing} {folder}                                   | missing.jsonl
sweep demo --out {out} --ns 40                               | 40
sweep demo --out {out} --strategies magic                    | magic
sweep demo --out {out} --max-length 99999                    | 99999
sweep demo --out {out} --texts {missing}                     | missing.jsonl
sweep demo --out {out} --tasks poetry                        | poetry
sweep demo --out {out} --texts {three} --n-calibration 64    | 64
sweep demo --out {out} --healed-ns 2 --healing-texts {missing} | missing.jsonl
sweep demo --out {out} --texts {questions} --column words --n-calibration 3 | words
sweep demo --out {out} --judge-texts {questions} --column words | words
sweep demo --out {out} --recipe {missing}                    | missing.jsonl
sweep demo --out {out} --distances {folder}                  | distances
sweep demo --out {out} --healed-ns 2 --bits 4                | 4
sweep demo --out {full}                                      | full
sweep demo --out=                                          | empty
reproduce --out {out} --judge-texts {missing}                | missing.jsonl
reproduce --out {out} --texts {missing} --judge-texts demo   | missing.jsonl
reproduce --out {out} --texts {three}                        | --judge-texts
reproduce --out {out} --texts {questions} --judge-texts demo | "text"
reproduce --out {out} --questions {missing}                  | missing.jsonl
reproduce --out {out} --preset paper --share 2               | share=2
reproduce --out {out} --model {missing}                      | missing.jsonl
reproduce --out {full}                                       | full
report {folder}                                              | run
report {missing}                                             | missing.jsonl
estimate {missing}                                           | missing.jsonl
estimate demo --bits 3                                       | 3
estimate demo --gpu-gb 0                                     | gpu_gb=0
estimate demo --card x9                                      | x9
estimate demo --card l4 --gpu-gb 24                          | 24
estimate demo --batch 0                                      | batch=0
estimate demo --gb 6                                         | --gpu-gb 6
estimate demo --compare --gb 0                               | gb=0
estimate demo --compare --context 0                          | context=0
estimate {missing} --compare                                 | missing.jsonl
assets --fetch poetry                                        | poetry
verify {missing}                                             | missing.jsonl
verify --claim C99                                           | C99
verify --row poetry                                          | poetry
verify --minutes 0                                           | 0
verify --minutes inf                                         | inf
verify --model {missing}                                     | missing.jsonl
"""
ROWS = [tuple(map(str.strip, o.split('|'))) for o in REFUSED.strip().splitlines()]


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "Files of one's own, and one that is not there. Also what is not timed: imports, and the demo in the cache"
    import datasets, pandas, peft, torch, transformers  # noqa: F401
    import prunebook.healing.trainer, prunebook.paper.sweep, prunebook.serving.stacks, prunebook.paper.report  # noqa: F401
    import prunebook.paper.reproduce  # noqa: F401
    from prunebook.model.assets import fetch
    for o in ('demo', 'c4', 'arc_easy'): fetch(o)
    folder = tmp_path_factory.mktemp('places')
    (folder/'three.txt').write_text('One text.\nAnother one.\nA third.\n')
    (folder/'questions.jsonl').write_text('{"question": "1 + 1?", "choices": ["2", "3"], "answer": 0}\n' * 3)
    (folder/'chat.jsonl').write_text('{"prompt": "Who?", "response": ""}\n' * 3)
    for o in ('full', 'empty', 'pickled'): (folder/o).mkdir()
    (folder/'pickled'/'config.json').write_text('{"model_type": "llama", "num_hidden_layers": 4}')
    (folder/'pickled'/'pytorch_model.bin').touch()
    (folder/'full'/'mine').write_text('precious')
    return dict(folder=folder/'empty', full=folder/'full', pickled=folder/'pickled',
                three=folder/'three.txt', missing=folder/'missing.jsonl',
                questions=folder/'questions.jsonl', chat=folder/'chat.jsonl')


@pytest.mark.parametrize('line, named', ROWS, ids=[o[0].replace('{', '').replace('}', '') for o in ROWS])
def test_a_mistake_is_refused_before_the_weights_are_loaded(line, named, places, tmp_path, capsys, monkeypatch):
    def loaded(*args, **kwargs): raise AssertionError('the weights were loaded first')
    monkeypatch.setattr('transformers.AutoModelForCausalLM.from_pretrained', loaded)
    monkeypatch.chdir(tmp_path)
    words, start = [o.format(**places, out=tmp_path/'out') for o in line.split()], time.process_time()
    code, took = main([*words, '--no-progress']), time.process_time() - start
    out, err = capsys.readouterr()
    assert code == 2 and out == '' and err.count('\n') == 1 and named in err, (code, err)
    assert took < SECONDS, took
    assert not list(tmp_path.iterdir()) and not list(places['folder'].iterdir())


@pytest.mark.parametrize('command', ['shrink demo', 'reproduce --out'])
def test_a_launcher_is_refused_where_one_process_writes(command, places, tmp_path, capsys, monkeypatch):
    for k, v in dict(WORLD_SIZE='2', RANK='1').items(): monkeypatch.setenv(k, v)
    start = time.process_time()
    assert main([*command.split(), str(tmp_path/'out'), '--no-progress']) == 2 and time.process_time() - start < SECONDS
    assert 'launcher' in capsys.readouterr().err and not list(tmp_path.iterdir())
