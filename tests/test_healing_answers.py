"A healing that leaves a model without answers is seen, and nothing of it is lost"
import json
from prunebook.cli import main
from prunebook.evaluation.generation import _SAMPLE_PROMPTS
from prunebook.healing.recipes import HealingConfig


def test_a_model_that_answers_nothing_gives_exit_code_4(demo, tmp_path, capsys):
    "Chats whose answers are empty teach the demo to end each turn at once; the healed model is written all the same"
    _, tok = demo
    said = [[dict(role='user', content=f'What is {i} + {i}?'), dict(role='assistant', content='')] for i in range(24)]
    rows = [dict(text=tok.apply_chat_template(o, tokenize=False)) for o in said]
    (tmp_path/'chats.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    HealingConfig(steps=8, batch_size=2, max_length=64, learning_rate=1e-2, rank=8).save(tmp_path/'recipe.json')
    words = ['heal', 'demo', str(tmp_path/'out'), '--texts', str(tmp_path/'chats.jsonl'), '--config',
             str(tmp_path/'recipe.json'), '--json', '--no-progress']
    assert main(words) == 4
    out, err = capsys.readouterr()
    found, card = json.loads(out), (tmp_path/'out'/'README.md').read_text()
    assert list(found['answers']) == list(_SAMPLE_PROMPTS) and (tmp_path/'out'/'model.safetensors').exists()
    assert all(o['before'] and not o['after'] for o in found['answers'].values())
    assert 'the model lost its answer' in err and _SAMPLE_PROMPTS[0] in card and '    (nothing)' in card
    assert main(['evaluate', str(tmp_path/'out'), '--tasks', 'c4', '--n-texts', '1', '--no-progress']) == 4
    assert main(['evaluate', str(tmp_path/'out'), '--tasks', 'c4', '--n-texts', '1', '--no-progress',
                 '--allow-empty']) == 0
