"""Nothing is refused late: every mistake that needs no measuring is found before the weights are loaded, and before
anything is written. A row of REFUSED is a command line and what the message names; of UNUSED, a beginning, and options
that change nothing there, each of which the message names first; {…} are files of `places`, and '' is an empty word."""
import time
from types import SimpleNamespace
import numpy as np, pytest, prunebook as pb
from prunebook.cli import main
from prunebook.core import PrunebookError, new_folder, work_folder
from prunebook.evaluation.losses import LossMap
from prunebook.evaluation.tasks import ChoiceTask
from prunebook.healing.adapters import merge_adapter
from prunebook.healing.packing import training_rows
from prunebook.healing.teacher import top_k_rows, write_answers
from prunebook.paper.runs import Run, model_record
from prunebook.pruning.checkpoint import write_model
from support.healing import SMALL, run, texts, tiny, tokenizer

SECONDS = 1.5  # of the processor, beside imports: reading a question set takes most of them

REFUSED = """
similarity demo --out {out} --until-certain 40               | ns=[40]
similarity demo --out {out} --texts {missing}                | missing.jsonl
similarity demo --out {out} --texts {three} --n-texts 64     | n=64
similarity demo --out {out} --texts {questions} --column words | column 'words'
similarity demo --out {out} --n-texts 0                      | n_texts=0
similarity demo --out {out} --max-length 99999               | 99999
similarity demo --out {out} --dtype int7                     | int7
similarity demo --out {out} --bits 32 --dtype bfloat16       | bfloat16
similarity demo --out {full}                                 | full
similarity {missing} --out {out}                             | missing.jsonl
similarity nobody/nothing --out {out}                        | nobody/nothing
similarity ~no-such-user/x --out {out}                       | no such file or folder
similarity demo --out {out} --n-texts -3                     | n_texts=-3
similarity {questions} --out {out}                           | no .gguf
fly demo {out}                                               | 'fly'
prune demo                                                   | required: OUT
prune demo {out} --n 40                                      | n=40
prune demo {out}                                             | --drop, --n
prune demo {out} --drop 2 --bits 16                          | --dtype
prune demo {out} --n 2 --bits 32 --dtype float16             | float16
prune demo {out} --drop 2 --options {{"seed":2}} --in-memory | --options
prune demo {out} --n 2 --strategy texts --max-length 64 --options {{"max_length":9}} | --max-length
prune demo {out} --n 2 --options {{"k":2}}                   | option k
prune demo {out} --n 2 --options {{"n":3}}                   | option n
prune demo {out} --drop 2 --strategy magic                   | magic
prune demo {out} --params 1e9x                               | 1e9x
prune demo {out} --n 2 --options 3                           | options=3
prune demo {out} --n 2 --gb 0.1                              | one of --drop, --n
prune demo {out} --speedup 50                                | speedup=50
prune demo {out} --drop 28-31                                | 28-31
prune demo {out} --n 2 --texts {missing}                     | missing.jsonl
prune demo {out} --n 2 --max-length 99999                    | 99999
prune demo {out} --n 2 --distances {folder}                  | distances.safetensors
prune demo {out} --n 2 --strategy keep_last --options {{"k":40}} | k=40
prune demo {out} --n 2 --serve moon                          | moon
prune demo {full} --n 2                                      | full
prune {pickled} {out} --n 2 --strategy best_loss             | Its weights are in pickle
shrink demo {out} --drop 40                                  | drop='40'
shrink demo {out} --drop 1.0                                 | --drop 1
shrink demo {out} --data {three}                             | 3 different
shrink demo {out} --data {questions} --column words          | column 'words'
shrink demo {out} --gguf q9                                  | gguf='q9'
shrink demo {out} --n-questions 99999                        | 99999
shrink demo {out} --minutes 0                                | minutes=0.0
shrink demo {out} --drop 3 --params 1e8                      | drop=
shrink demo {out} --max-added-loss nan                       | max_added_loss=nan
shrink demo {out} --min-retention 2                          | min_retention=2.0
shrink demo {out} --min-retention .8 --tasks c4 piqa         | min_retention=0.8: c4
shrink demo {out} --tasks c4 piqa                            | min_retention=0.8: c4
shrink demo {out} --min-retention 0 --strict                 | --strict
shrink demo ~{out}                                           | replaced the ~
shrink demo {full} --dry-run                                 | full
check {missing}                                              | missing.jsonl
check {folder} --serve moon                                  | moon
check {folder} --claims {missing}                            | missing.jsonl
check {folder} --serve vllm --minutes 5 --model demo         | --minutes, --model
check {folder} --files-only --claims {missing}               | --files-only
export {missing} {out}.gguf                                  | missing.jsonl
export demo {out}.gguf --type q1                             | type='q1'
export demo {out}.gguf --type q3_k                           | q3_k_m
export demo {out}.bin                                        | out.bin
export demo {folder}/no/x.gguf                               | empty/no:
heal demo {out} --texts {missing}                            | missing.jsonl
heal demo {out} --texts {chat}                               | conversation 0
heal demo {out} --judge-texts {missing}                      | missing.jsonl
heal demo {out} --n-judge -1                                 | n_judge=-1
heal demo {out} --objective distill                          | --teacher
heal demo {out} --objective distill --teacher {missing}      | missing.jsonl
heal demo {out} --prompts {three}                            | --teacher
heal demo {out} --prompts {three} --teacher demo --n-texts 2 | --n-texts
heal demo {out} --method magic                               | magic
heal demo {out} --config {missing}                           | missing.jsonl
heal demo {out} --steps 0                                    | steps=0
heal demo {out} --minutes 0                                  | minutes=0.0
heal demo {out} --steps 5 --tokens 9000                      | --steps
heal demo {out} --max-length 99999                           | 99999
heal demo {out} --bits 8                                     | bits=8
heal demo {out} --bits 16 --dtype float32                    | float32
heal demo {out} --options x                                  | 'x'
heal demo {out} --bits 4 --train-bits 16                     | --train-bits
heal demo {full} --objective lm                              | full
evaluate demo --tasks {missing}                              | missing.jsonl
evaluate demo --tasks {questions} --n-questions 64           | n=64
evaluate demo --tasks {questions}:shots=9                    | shots=9
evaluate demo --tasks c4 --n-texts 99999                     | 99999
evaluate demo --tasks kl                                     | --parent
evaluate demo --tasks arc_easy --judge-texts {missing}       | missing.jsonl
evaluate demo --tasks arc_easy --judge-texts {questions}     | "text"
evaluate demo --tasks arc_easy --judge-texts {three} --n-texts 9 | n=9
evaluate demo --bits 16 --dtype float16                      | float16
evaluate demo --bits 3                                       | bits=3
evaluate demo --tasks c4 --judge-texts {questions} --column words | column 'words'
evaluate demo --max-length 0                                 | max_length=0
evaluate demo --max-length 99999                               | 99999
evaluate demo --max-new-tokens 0                             | max_new_tokens=0
evaluate demo --parent {missing}                             | missing.jsonl
evaluate demo {missing}                                      | missing.jsonl
evaluate demo --save {three}                                 | three.txt
compare {missing} {folder}                                   | missing.jsonl
sweep demo --out {out} --ns 40                               | ns [40]
sweep demo --out {out} --strategies magic                    | magic
sweep demo --out {out} --max-length 99999                    | 99999
sweep demo --out {out} --texts {missing}                     | missing.jsonl
sweep demo --out {out} --tasks poetry                        | poetry
sweep demo --out {out} --texts {three} --n-calibration 64    | n=64
sweep demo --out {out} --healed-ns 2 --healing-texts {missing} | missing.jsonl
sweep demo --out {out} --texts {questions} --column words --n-calibration 3 | column 'words'
sweep demo --out {out} --judge-texts {questions} --column words | column 'words'
sweep demo --out {out} --recipe {missing}                    | missing.jsonl
sweep demo --out {out} --distances {folder}                  | distances.safetensors
sweep demo --out {out} --bits 16 --dtype float32             | float32
sweep demo --out {out} --tasks {questions} --judge-texts {missing} | missing.jsonl
sweep demo --out {full}                                      | full
sweep demo --out=                                            | out=''
reproduce --out {out} --judge-texts {missing}                | missing.jsonl
reproduce --out {out} --texts {missing} --judge-texts demo   | missing.jsonl
reproduce --out {out} --texts {three}                        | --judge-texts
reproduce --out {out} --texts {questions} --judge-texts demo | "text"
reproduce --out {out} --questions {missing}                  | missing.jsonl
reproduce --out {out} --preset paper --share 2               | share=2
reproduce --out {out} --bits 16 --dtype float16              | float16
reproduce --out {out} --bits 3                               | bits=3
reproduce --out {out} --preset paper --only figure1 --ns 2   | ns=[2]
reproduce --out {out} --preset paper --only figure4 --questions arc_easy | questions=
reproduce --out {out} --preset paper --only figure4 --bits 4 | bits=4
reproduce --out {out} --model {missing}                      | missing.jsonl
reproduce --out {full}                                       | full
report {folder}                                              | run.json
report {missing}                                             | missing.jsonl
estimate {missing}                                           | missing.jsonl
estimate demo --bits 3                                       | bits=3
estimate demo --bits 16 --dtype float16                      | float16
estimate demo --gpu-gb 0                                     | gpu_gb=0
estimate demo --card x9                                      | card='x9'
estimate demo --card l4 --gpu-gb 24                          | gpu_gb=24.0
estimate demo --batch 0                                      | batch=0
estimate demo --gb 6                                         | --gpu-gb 6
estimate demo --compare --gb 0                               | gb=0
estimate demo --compare --context 0                          | context=0
estimate {missing} --compare                                 | missing.jsonl
assets --fetch poetry                                        | poetry
verify {missing}                                             | missing.jsonl
similarity demo --out ''                                     | out=''
prune demo '' --drop 2                                       | out=''
export demo ''                                               | out=''
heal demo '' --objective lm                                  | out=''
shrink demo ''                                               | out=''
evaluate demo --tasks c4 --save ''                           | save=''
evaluate demo demo --tasks c4 --save ''                      | save=''
reproduce --out ''                                           | out=''
reproduce --preset paper --out ''                            | out=''
report x --out ''                                            | out=''
heal demo x --objective distill_top --teacher demo --teacher-folder '' | heal: folder=''
verify --claim C99                                           | 'C99'
verify --row poetry                                          | poetry
verify --minutes 0                                           | minutes=0.0
verify --minutes inf                                         | minutes=inf
verify --model {missing}                                     | missing.jsonl
"""
UNUSED = """
similarity demo --out {out} | --tolerance .1 | --column words
similarity demo --out {out} --texts {three} | --column words
prune demo {out} --drop 2 | --bits 4 | --dtype float16 | --texts {three} | --n-texts 4 | --column words
prune demo {out} --drop 2 | --max-length 64 | --batch-tokens 64 | --device-map cpu | --distances {folder}
prune demo {out} --drop 2 | --distances {missing} | --options {{"k":2}} | --prompts everyday | --max-new-tokens 9
prune demo {out} --drop 2 --in-memory | --texts {three} | --n-texts 4 | --column words | --max-length 64
prune demo {out} --drop 2 --in-memory | --batch-tokens 64
prune demo {out} --n 2 --strategy simple | --texts {three} | --n-texts 4 | --column words | --max-length 64
prune demo {out} --n 2 --strategy simple | --batch-tokens 64 | --bits 4 | --dtype float16 | --device-map cpu
prune demo {out} --n 2 --strategy simple | --distances {folder} | --max-new-tokens 9
prune demo {out} --params 1e8 --strategy middle | --n-texts 4 | --bits 4
prune demo {out} --n 2 --distances {folder} | --texts {three} | --n-texts 4 | --column words | --max-length 64
prune demo {out} --n 2 --distances {folder} | --batch-tokens 64 | --bits 4 | --dtype float16 | --device-map cpu
prune demo {out} --n 2 | --prompts everyday | --column words
prune demo {out} --n 2 --strategy texts | --prompts everyday | --batch-tokens 64 | --distances {folder}
prune demo {out} --n 2 --strategy answers | --texts {three} | --n-texts 4 | --column words | --max-length 64
prune demo {out} --n 2 --strategy answers | --batch-tokens 64 | --distances {folder}
prune demo {out} --n 2 --strategy best_loss | --distances {folder}
shrink demo {out} | --column words
shrink demo {out} --tasks c4 | --n-questions 5
check {folder} | --minutes 5 | --model demo
heal demo {out} --prompts {three} --teacher demo | --column words
heal demo {out} | --teacher demo | --column words | --teacher-folder {folder} | --near 2 | --top-k 4
heal demo {out} --objective lm | --teacher-bits 4 | --loss-on all
heal demo {out} --bits 4 | --judge-texts {three} | --n-judge 5
heal demo {out} --n-judge 0 | --judge-texts {three}
heal demo {out} --texts {questions} --column question | --n-judge 5
heal demo {out} --config distill --teacher demo | --teacher-folder {folder}
heal demo {out} --adapt after_cut | --near 2
heal demo {out} --objective distill --teacher demo | --top-k 4
heal demo {out} --method head_and_last | --rank 4 | --alpha 4 | --dropout 0.1 | --targets mlp.up_proj
heal demo {out} --method head_and_last | --adapt near_cut | --near 2
evaluate demo --tasks c4 | --column words | --n-questions 5 | --chat
evaluate demo --tasks c4 --judge-texts {three} | --column words
evaluate demo --tasks arc_easy | --n-texts 5 | --max-length 64
evaluate demo | --max-new-tokens 9
evaluate demo --tasks {questions} | --n-texts 5
evaluate demo --tasks kl --parent demo | --n-questions 5
sweep demo --out {out} --healed-ns 2 | --bits 4
sweep demo --out {out} | --gpus-per-task 1 | --recipe {recipe} | --healing-texts demo | --seeds 1 2 | --n-search 5
sweep demo --out {out} | --n-questions 5 | --scoring {{"shots":1}} | --column words
sweep demo --out {out} --strategies simple | --n-calibration 5 | --texts {three}
sweep demo --out {out} --tasks arc_easy | --n-texts 5 | --memory 2
estimate demo | --near 2
estimate demo --objective distill | --top-k 8
"""
ROWS = [tuple(map(str.strip, o.split('|'))) for o in REFUSED.strip().splitlines()]
for begin, *more in (map(str.strip, o.split('|')) for o in UNUSED.strip().splitlines()):
    ROWS += [(f'{begin} {o}', f'prunebook {begin.split()[0]}: {o.split()[0]}') for o in more]

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
    prunebook.HealingConfig().save(folder/'recipe.json')
    return dict(recipe=folder/'recipe.json', folder=folder/'empty', full=folder/'full', pickled=folder/'pickled',
                three=folder/'three.txt', missing=folder/'missing.jsonl',
                questions=folder/'questions.jsonl', chat=folder/'chat.jsonl')

@pytest.mark.parametrize('line, named', ROWS, ids=[o[0].replace('{', '').replace('}', '') for o in ROWS])
def test_a_mistake_is_refused_before_the_weights_are_loaded(line, named, places, tmp_path, capsys, monkeypatch):
    def loaded(*args, **kwargs): raise AssertionError('the weights were loaded first')
    monkeypatch.setattr('transformers.AutoModelForCausalLM.from_pretrained', loaded)
    monkeypatch.chdir(tmp_path)
    words, start = [o.format(**places, out=tmp_path/'out').strip("'") for o in line.split()], time.process_time()
    code, took = main([*words, '--no-progress']), time.process_time() - start
    out, err = capsys.readouterr()
    assert (code, out, err.count('\n')) == (2, '', 1), err
    assert named in err, err
    assert took < SECONDS, took
    assert not list(tmp_path.iterdir()) and not list(places['folder'].iterdir())

@pytest.mark.parametrize('command', ['shrink demo', 'reproduce --out'])
def test_a_launcher_is_refused_where_one_process_writes(command, places, tmp_path, capsys, monkeypatch):
    for k, v in dict(WORLD_SIZE='2', RANK='1').items(): monkeypatch.setenv(k, v)
    start = time.process_time()
    assert main([*command.split(), str(tmp_path/'out'), '--no-progress']) == 2 and time.process_time() - start < SECONDS
    assert 'launcher' in capsys.readouterr().err and not list(tmp_path.iterdir())

# A place that is empty, as of a shell's variable that is not set, would be the folder that one is in

def entered(context):
    with context: pass

FUNCTIONS = dict(
    new_folder=lambda o: entered(new_folder('')), work_folder=lambda o: entered(work_folder('', {})),
    resumed=lambda o: entered(work_folder('', {}, True, keep=True)),
    run=lambda o: entered(Run('', model_record(o.small))),
    distances=lambda o: pb.LayerDistances(np.ones((7, 7)), np.ones((7, 7)), 2).save(''),
    losses=lambda o: LossMap(np.ones((3, 3)), np.ones((3, 3, 1)), [1]).save(''),
    scores=lambda o: pb.evaluate(o.small, tokenizer(), o.tasks, progress=False).save(''),
    evaluate=lambda o: pb.evaluate(o.small, tokenizer(), o.tasks, save='', progress=False),
    heal=lambda o: run(o.small, out=''), heal_again=lambda o: run(o.small, out='', resume=True),
    teacher_folder=lambda o: run(o.small, teacher=o.model, objective='distill_top', teacher_folder=''),
    teacher=lambda o: top_k_rows(o.model, training_rows(tokenizer(), texts(), SMALL), 3, '', progress=False),
    answers=lambda o: write_answers(o.model, tokenizer(), ['w1'], '', progress=False),
    checkpoint=lambda o: pb.heal_checkpoint(o.folder, '', texts(), SMALL, progress=False),
    merged=lambda o: merge_adapter(o.folder, o.folder, ''), prune=lambda o: pb.prune_checkpoint(o.folder, '', [1]),
    save=lambda o: pb.save_pruned(o.small, tokenizer(), ''), write=lambda o: write_model(o.small, tokenizer(), ''),
    result=lambda o: o.healed.save(tokenizer(), ''), written=lambda o: o.healed.write(tokenizer(), ''),
    sweep=lambda o: pb.sweep(o.small, tokenizer(), pb.SweepConfig(tasks=['c4']), '', progress=False),
    reproduce=lambda o: pb.reproduce(o.folder, '', progress=False), report=lambda o: pb.report(o.folder, ''),
    shrink=lambda o: pb.shrink(o.folder, '', progress=False))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A model, the same without two layers, that one healed and in a folder, and a task"
    folder = tmp_path_factory.mktemp('made')/'small'
    model = tiny()
    small = pb.prune_model(model, [2, 3])
    pb.save_pruned(small, tokenizer(), folder)
    task = ChoiceTask('mine', 'Mine', [dict(question='w1', choices=['w2', 'w3'], answer=0)])
    return SimpleNamespace(model=model, small=small, folder=str(folder), tasks=[task],
                           healed=run(small, SMALL.replace(steps=1)))

@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_with_an_empty_place_is_refused(name, made, tmp_path, monkeypatch):
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setattr('prunebook.healing.healing._train', pytest.fail)
    with pytest.raises(PrunebookError, match='mpty'): FUNCTIONS[name](made)
    assert [o.name for o in tmp_path.rglob('*')] == ['here']
