"What the unpruned model teaches is written once: nothing is lost in a stop, and nothing wrong is learned"
import json, os, shutil
import pytest, torch
from prunebook import PrunebookError, prune_model
from prunebook.cli import main
from prunebook.core import read_json
from prunebook.evaluation import generation
from prunebook.evaluation.generation import _Written, generate_texts, repeats_itself
from prunebook.healing import healing, teacher
from prunebook.healing.recipes import OBJECTIVES
from prunebook.healing.packing import collate, documents, training_rows
from prunebook.data.texts import load_texts, read_answers, split_texts
from prunebook.healing.teacher import answers_to, ready_prompts, top_k_rows, write_answers
from prunebook.healing.trainer import CausalLMLoss
from prunebook.model.loading import load_model, load_tokenizer
from prunebook.model.stack import LayerStack, fingerprint
from prunebook.pruning.checkpoint import PARENT_NOTE
from support.healing import SMALL, run, tiny, tokenizer
from support.tiny import save, texts, write_rows
from test_conversations import CHATS, PAIRS, SPECIAL, tiny_chat
from test_packing import CHATML, family

ASKED = ['Say a.', dict(prompt='Say bc.'), dict(messages=CHATS[1]), dict(question='And d?')]

@pytest.fixture
def chat():
    model, tok = tiny_chat()
    model.generation_config.eos_token_id = tok.eos_token_id
    return model, tok

def kept(file): return [json.loads(o)['messages'] for o in file.read_text().splitlines()]

@pytest.mark.parametrize('temperature', [None, 1.])
def test_answers_go_on_where_they_stopped(chat, temperature, tmp_path, monkeypatch):
    "The same file as without a stop, also when sampled and when the last line is torn; the answers are the model's own"
    model, tok = chat
    def end(*args, **kw): return [o._replace(ended=True) for o in generate_texts(*args, **kw)]
    monkeypatch.setattr(generation, 'generate_texts', end)
    how = dict(max_new_tokens=8, temperature=temperature, batch_tokens=1, progress=False)
    counts = write_answers(model, tok, ASKED, tmp_path/'whole.jsonl', **how)
    talks = kept(tmp_path/'whole.jsonl')
    assert sum(counts.values()) == 4 and counts['kept'] == len(talks) > 0
    calls = []
    def stops(*args, **kw):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return end(*args, **kw)
    monkeypatch.setattr(generation, 'generate_texts', stops)
    with pytest.raises(KeyboardInterrupt): write_answers(model, tok, ASKED, tmp_path/'a.jsonl', **how)
    with pytest.raises(PrunebookError, match='other prompts'):
        write_answers(model, tok, ASKED[:2], tmp_path/'a.jsonl', **how)
    with open(tmp_path/'a.jsonl.unfinished', 'a') as f: f.write('[3, "torn')
    write_answers(model, tok, ASKED, tmp_path/'a.jsonl', **how)
    assert len(calls) == 5 and (tmp_path/'a.jsonl').read_bytes() == (tmp_path/'whole.jsonl').read_bytes()
    assert not (tmp_path/'a.jsonl.unfinished').exists()
    with pytest.raises(PrunebookError, match='a.jsonl is there already'):
        write_answers(model, tok, ASKED, tmp_path/'a.jsonl', **how)
    if temperature is None:
        asked = talks[0][:-1]
        ids = tok(tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True),
                  add_special_tokens=False)['input_ids']
        assert talks[0][-1]['content'] == generate_texts(model, tok, [ids], 8)[0].text

def test_what_would_teach_something_wrong_is_left_out(chat, tmp_path, monkeypatch, caplog):
    said = [_Written('It is a.', 5, True), _Written(' ', 1, True), _Written('It is', 8, False),
            _Written('over and over ' * 9, 9, True)]
    monkeypatch.setattr(teacher, 'write_in_batches', lambda *a, **kw: [([0, 1, 2, 3], said)])
    counts = write_answers(*chat, ASKED, tmp_path/'a.jsonl', progress=False)
    assert counts == dict(kept=1, empty=1, cut_off=1, repeating=1) and '1 of 4 answers kept' in caplog.text
    assert kept(tmp_path/'a.jsonl') == [[
        dict(role='user', content='Say a.'), dict(role='assistant', content='It is a.')]]
    monkeypatch.setattr(teacher, 'write_in_batches', lambda *a, **kw: [([0], said[1:2])])
    with pytest.raises(PrunebookError, match='0 of 1 answers kept.*1 empty'):
        write_answers(*chat, ASKED[:1], tmp_path/'b.jsonl', progress=False)

@pytest.fixture
def talks_to_the_end(monkeypatch, tmp_path):
    "Answers that end, and a cache of one's own. The list holds how many prompts each call was given"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    calls = []
    def end(*args, **kw):
        calls.append(len(args[2]))
        return [o._replace(text=f'It is {i}.', ended=True) for i, o in enumerate(generate_texts(*args, **kw))]
    monkeypatch.setattr(generation, 'generate_texts', end)
    return calls

OWN = dict(messages=[dict(role='user', content='And f?'), dict(role='assistant', content='f ' * 14)])

def test_answers_say_how_they_came_about(chat, tmp_path, talks_to_the_end):
    "Who wrote them, when, with which settings, and which fifth is held out; the user's own stay as they are"
    model, tok = chat
    asked = [*(f'Say {o}.' for o in 'abcdefghijk'), OWN, dict(prompt='g?', response='g')]
    write_answers(model, tok, asked, tmp_path/'a.jsonl', 8, seed=3, progress=False, keep_own=True, source='mine')
    assert sum(talks_to_the_end) == 11, 'what has an answer is not asked'
    rows = [json.loads(o) for o in (tmp_path/'a.jsonl').read_text().splitlines()]
    assert [o['made']['by'] for o in rows] == ['parent'] * 11 + ['user'] * 2
    assert rows[11]['messages'] == OWN['messages'] and rows[12]['messages'][1]['content'] == 'g'
    made = rows[0]['made']
    assert made['parent'] == fingerprint(model)
    assert made['seed'] == 3
    assert made['max_new_tokens'] == 8
    assert made['temperature'] is None
    assert made['prompts'] == 'mine'
    assert len(made['date']) == 10
    chosen, held = read_answers(tmp_path/'a.jsonl', fingerprint(model), tok)
    assert len(held) == 2
    assert len(chosen) == 11
    assert not [o for o in held if o in chosen]
    write_answers(model, tok, asked, tmp_path/'b.jsonl', 8, seed=3, progress=False, keep_own=True, source='mine')
    assert (tmp_path/'a.jsonl').read_bytes() == (tmp_path/'b.jsonl').read_bytes()
    write_answers(model, tok, asked, tmp_path/'c.jsonl', 8, progress=False)
    assert OWN['messages'] not in kept(tmp_path/'c.jsonl'), 'to learn from the model, its own answer'

def test_the_same_prompts_are_answered_once(chat, tmp_path, talks_to_the_end, capsys):
    model, tok = chat
    asked = tmp_path/'prompts.txt'
    asked.write_text(''.join(f'Say {o}.\n' for o in 'abcdefghijkk'))
    file = answers_to(model, tok, str(asked), 8)
    assert 'at most about' in capsys.readouterr().err or os.environ.get('TQDM_DISABLE')
    first = len(talks_to_the_end)
    assert answers_to(model, tok, asked.read_text().splitlines(), 8) == file and len(talks_to_the_end) == first
    assert len(kept(file)) == 11 and answers_to(model, tok, file, 8) == file
    assert answers_to(model, tok, str(asked), 9) != file
    assert answers_to(prune_model(model, [1]), tok, str(asked), 8) != file
    assert json.loads(file.read_text().splitlines()[0])['made']['prompts'] == 'prompts.txt'

def test_questions_of_a_task_are_prompts(chat):
    asked = [o['messages'][0]['content'] for o in ready_prompts('arc_easy', chat[1], n=10)]
    assert len(asked) == 10 and all('\nA. ' in o and not o.endswith('Answer:') for o in asked)
    assert len(ready_prompts('everyday', chat[1], n=12)) == 12

@pytest.mark.parametrize('prompts, says, how', [
    (['a', 'b'] * 9, '2 different prompts', {}), ('gone.txt', 'no such file', {}), ('luck', 'luck', {}),
    ('c4', 'no questions', {}), ([*map(str, range(9)), ' '], 'prompt 9 is', {}), (['a'] * 12, '1 different', {}),
    ([*map(str, range(9)), 'x' * 90], '1 of 10 prompts.*100 positions.*9', dict(window=100))])
def test_prompts_of_no_use(chat, prompts, says, how):
    with pytest.raises(PrunebookError, match=says): ready_prompts(prompts, chat[1], max_new_tokens=8, **how)

def test_answers_need_a_chat_template(chat):
    chat[1].chat_template = None
    with pytest.raises(PrunebookError, match='no chat template'): ready_prompts([*map(str, range(10))], chat[1])

def test_repetition():
    code = '\n'.join(f'    x_{i} = f(x_{i - 1}, {i})' for i in range(40))
    assert not any(map(repeats_itself, ['', 'Paris.', 'no no no', code, ' '.join(map(str, range(200)))]))
    right = '1,000,000,000', '0.333333333333', '1+1+1+1+1+1=6', '[[0,0,0],[0,0,0]]', 'internationalization', \
        '1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1'
    assert not any(map(repeats_itself, right)) and all(map(repeats_itself, ['a' * 12, 'no' * 12, 'ha ' * 12]))
    assert all(map(repeats_itself, ['a b ' * 8, code + '\n' + 'and then the next step is ' * 5, '和' * 40]))

@pytest.mark.parametrize('prompts, says', [
    ([], 'no prompts'), (['a', ' '], 'prompt 1 is'), ([dict(other='x')], 'prompt 0 is'),
    ([dict(messages=[dict(role='assistant', content='x')])], 'asks nothing'), ([dict(messages=['x'])], 'asks nothing'),
    ([dict(messages=[dict(content='x')])], 'a role and a content'), (['a', 3], 'prompt 1 is'), (None, 'a NoneType'),
    ([dict(prompt=5)], 'prompt 0 is'), (dict(prompt='a'), 'prompts is a dict')])
def test_prompts_that_ask_nothing(chat, prompts, says, tmp_path):
    with pytest.raises(PrunebookError, match=says): write_answers(*chat, prompts, tmp_path/'a.jsonl', progress=False)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('wrong', [dict(temperature=0), dict(temperature=-1), dict(temperature='hot'), dict(seed='a'),
                                   dict(max_new_tokens=0), dict(max_new_tokens='9'), dict(batch_tokens=0)], ids=str)
def test_a_refused_call_leaves_no_file(chat, wrong, tmp_path):
    with pytest.raises(PrunebookError, match=f'{next(iter(wrong))}=.*it must be'):
        write_answers(*chat, ASKED, tmp_path/'a.jsonl', **wrong)
    assert not list(tmp_path.iterdir())

def test_a_call_that_wrote_nothing_stands_in_no_way(chat, tmp_path, monkeypatch):
    def stop(*args, **kw): raise KeyboardInterrupt
    for n in (8, 9):
        monkeypatch.setattr(teacher, 'write_in_batches', stop)
        with pytest.raises(KeyboardInterrupt): write_answers(*chat, ASKED, tmp_path/'a.jsonl', n, progress=False)
    monkeypatch.setattr(teacher, 'write_in_batches', lambda *a, **kw: [([0], [_Written('It is a.', 5, True)])])
    write_answers(*chat, [dict(prompt='A?', system='Be brief.')], tmp_path/'a.jsonl', progress=False)
    assert [o['content'] for o in kept(tmp_path/'a.jsonl')[0]] == ['Be brief.', 'A?', 'It is a.']

@pytest.mark.parametrize('packing', ['none', 'packed'])
@pytest.mark.parametrize('k', [99, 8])
def test_top_k_is_the_full_form_when_k_is_the_vocabulary(packing, k, tmp_path):
    model, tok = tiny(), tokenizer()
    small, recipe = prune_model(model, [2, 3]), SMALL.replace(steps=1, packing=packing)
    rows = training_rows(tok, texts(), recipe)
    with_guide, table = top_k_rows(model, rows, k, tmp_path, progress=False)
    found = []
    for rows, guide, name in ((rows, LayerStack(model), 'distill'), (with_guide, table, 'distill_top')):
        batch = collate([rows[i] for i in range(4)], packed=packing != 'none')
        small.requires_grad_(True).zero_grad()
        loss = CausalLMLoss(small, LayerStack(small), guide, OBJECTIVES[name].loss, size=7)(**batch)['loss']
        loss.backward()
        found.append((loss.item(), torch.cat([o.grad.flatten() for o in small.parameters()])))
    (full, grad), (top, other) = found
    if k == 99:
        assert top == pytest.approx(full, abs=1e-5) and torch.allclose(grad, other, atol=1e-5)
    else: assert 0 < top < full, 'the rest as one share can only hide differences'

def test_the_pass_is_paid_once(tmp_path, monkeypatch):
    "Of every recipe and seed, and after a stop only what is missing"
    model, computed = tiny(), []
    likeliest = teacher._likeliest
    def count(*args):
        computed.append(1)
        if len(computed) == 3: raise KeyboardInterrupt
        return likeliest(*args)
    monkeypatch.setattr(teacher, '_likeliest', count)
    recipe = SMALL.replace(steps=10)
    rows = training_rows(tokenizer(), texts(), recipe)
    def passed(seed=0, k=4):
        rows = training_rows(tokenizer(), texts(), recipe.replace(seed=seed))
        return top_k_rows(model, rows, k, tmp_path, progress=False, batch_tokens=50)
    with pytest.raises(KeyboardInterrupt): passed()
    assert len(list(tmp_path.rglob('*.safetensors'))) == 2
    _, table = passed()
    n = len(computed)
    assert len(table.units) == len(set(table.units)) and n == 1 + len(list(tmp_path.rglob('*.safetensors')))
    passed(), passed(seed=1)
    assert len(computed) == n
    whole, fresh = top_k_rows(model, rows, 4, tmp_path/'new', progress=False)
    guide = torch.from_numpy(passed()[0].guide)
    for a, b in zip(table(guide), fresh(torch.from_numpy(whole.guide))): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('kind', ['none', 'packed', 'chunk', 'conversations'])
def test_another_seed_finds_everything_in_the_folder(kind, chat, tmp_path, monkeypatch):
    "In another order, which is that of its seed"
    (model, tok), given, computed = chat if kind == 'conversations' else (tiny(), tokenizer()), texts(), []
    recipe = SMALL.replace(steps=40, packing='packed' if kind == 'conversations' else kind, objective='distill_top')
    if kind == 'conversations': given, recipe = PAIRS * 9, recipe.replace(max_length=200)
    likeliest, made = teacher._likeliest, healing.training_rows
    monkeypatch.setattr(teacher, '_likeliest', lambda *args: computed.append(1) or likeliest(*args))
    monkeypatch.setattr(healing, 'training_rows', lambda *args, **kw: rows.append(made(*args, **kw)) or rows[-1])
    rows, counts = [], []
    for seed in (0, 1):
        healing.heal(prune_model(model, [2]), tok, given, recipe.replace(seed=seed), teacher=model, progress=False,
                     teacher_folder=tmp_path/'kept')
        counts.append(len(computed))
    assert counts[0] == counts[1] > 0 and rows[0].digest != rows[1].digest

def test_the_files_of_a_pass_stay_only_in_a_folder_of_their_own(tmp_path):
    model, recipe = tiny(), SMALL.replace(steps=1, objective='distill_top')
    for own in (None, tmp_path/'kept'):
        run(prune_model(model, [2]), recipe, teacher=model, out=tmp_path/'out', teacher_folder=own, force=True)
        assert not (tmp_path/'out'/'teacher').exists()
        assert bool(list(tmp_path.rglob('[0-9]*.safetensors'))) == bool(own)

def test_a_file_is_no_folder_for_a_teacher(tmp_path, monkeypatch):
    "It is refused before the pass over the texts"
    (tmp_path/'kept').write_text('mine')
    model, recipe = tiny(), SMALL.replace(objective='distill_top')
    monkeypatch.setattr(teacher, '_likeliest', lambda *args: pytest.fail('the teacher was asked'))
    with pytest.raises(PrunebookError, match='kept'):
        run(prune_model(model, [2]), recipe, teacher=model, teacher_folder=tmp_path/'kept')
    assert (tmp_path/'kept').read_text() == 'mine'

def test_heal_learns_from_the_folder_what_it_learns_from_the_teacher(tmp_path):
    model = tiny()
    small, recipe = prune_model(model, [2, 3]), SMALL.replace(dropout=0., teacher_bits=32, objective='distill')
    top, how = recipe.replace(objective='distill_top', top_k=99), dict(teacher=model, teacher_folder=tmp_path/'kept')
    full = run(small, recipe, teacher=model).history
    for recipe in (top, top.replace(batch_tokens=20)):
        for a, b in zip(full, run(small, recipe, **how).history): assert a['loss'] == pytest.approx(b['loss'], abs=1e-5)
    with pytest.raises(PrunebookError, match='smaller than its student'): run(model, top, teacher=small)
    with pytest.raises(PrunebookError, match='as small as this pruned'):
        teacher.load_teacher(small, tokenizer(), str(save(tmp_path/'small', small, tokenizer())))
    packed = tiny()
    LayerStack(packed).layers[0].mlp.up_proj.weight.data = torch.ones(2, 2).to(torch.float8_e4m3fn)
    with pytest.raises(PrunebookError, match='scales'): run(small, top, teacher=packed)
    packed.is_quantized = True
    with pytest.raises(PrunebookError, match='the model is quantised'): run(packed, recipe, teacher=model)

def test_no_answer_is_written_that_could_not_be_used(chat, tmp_path, monkeypatch):
    model, tok = chat
    monkeypatch.setattr(teacher, 'load_teacher', pytest.fail)
    recipe = SMALL.replace(batch_size=2, max_length=120)
    with pytest.raises(PrunebookError, match='1 of 3 prompts leave room for an answer'):
        teacher.self_data(model, tok, model, ['Hi.', *['Say a. ' * 20] * 2], recipe, tmp_path/'answers.jsonl')
    odd = [dict(messages=[dict(role='user', content='Hi.'), dict(role='assistant', content=o)]) for o in ('Yes.', '')]
    write_rows(tmp_path/'odd.jsonl', odd)
    assert len(teacher.self_data(model, tok, model, ['Hi.'], recipe.replace(batch_size=1), tmp_path/'odd.jsonl')) == 1
    with pytest.raises(PrunebookError, match='The answers are in .*odd.jsonl: move that file away'):
        teacher.self_data(model, tok, model, ['Hi.', 'Ho.'], recipe, tmp_path/'odd.jsonl')
    assert (tmp_path/'odd.jsonl').exists()
    tok.chat_template = CHATML.replace("message['content']", "message['content'].split('e')[-1]")
    with pytest.raises(PrunebookError, match='message'):
        teacher.self_data(model, tok, model, ['Hi.', 'Ho.'], recipe, tmp_path/'answers.jsonl')

@pytest.fixture
def folders(chat, tmp_path):
    "A student, its unpruned model, and others that cannot teach it"
    model, tok = chat
    wide = tiny('llama', layers=4, vocab_size=len(tok) + 3, max_position_embeddings=512)
    eom = family(CHATML, '<|begin_of_text|>', '<|im_end|>', SPECIAL.replace('eot', 'eom'))
    made = dict(student=(prune_model(model, [2]), tok), big=(model, tok), other=(model, eom), padded=(wide, tok),
                smaller=(prune_model(model, [1, 2]), tok), same=(prune_model(model, [3]), tok))
    return {k: str(save(tmp_path/'models'/k, *o)) for k, o in made.items()} | dict(missing=str(tmp_path/'missing'))

@pytest.mark.parametrize('prompts, by, says', [
    (['Hi.'], 'big', '1 prompts, fewer than one batch of 2'), (['Hi.', ' '], 'big', 'prompt 1 is'),
    (['Hi.', dict(messages=[dict(content='x')])], 'big', 'prompt 1 is .* a role and a content'),
    (['Say a. ' * 40] * 2, 'big', '0 of 2 prompts leave room'), (PAIRS, 'missing', 'missing'),
    (PAIRS, 'other', 'another tokenizer'), (PAIRS, 'smaller', 'smaller than its student'),
    (PAIRS, 'same', 'as small as this pruned model'), (PAIRS, 'padded', 'padded otherwise'),
    (None, 'other', 'another tokenizer'), (None, 'smaller', 'smaller than its student')])
def test_what_a_teacher_cannot_do_is_said_before_a_weight_is_read(prompts, by, says, folders, tmp_path, monkeypatch):
    for o in (healing, teacher): monkeypatch.setattr(o, 'load_model', pytest.fail)
    recipe = SMALL.replace(batch_size=2, max_length=120, objective='distill_top')
    with pytest.raises(PrunebookError, match=says):
        healing.heal_checkpoint(folders['student'], tmp_path/'out', () if prompts else PAIRS, recipe, progress=False,
                                teacher=folders[by], prompts=prompts)
    assert [o.name for o in tmp_path.iterdir()] == ['models']

ITSELF = ['student', 'student/.', 'link', 'copy', 'record', 'big']

@pytest.mark.parametrize('prompts', [PAIRS, None])
@pytest.mark.parametrize('by', ITSELF)
def test_a_model_is_no_teacher_of_itself(by, prompts, folders, tmp_path, monkeypatch):
    "By its name or another one, as a copy, without the record of its cut, and where nothing was cut"
    monkeypatch.setattr(healing, 'load_model', pytest.fail)
    monkeypatch.setattr(teacher, 'load_model', pytest.fail)
    model = folders['big' if by == 'big' else 'student']
    (tmp_path/'link').symlink_to(folders['student'])
    for o in ('copy', 'record'): shutil.copytree(folders['student'], tmp_path/o)
    if by == 'record':
        model, config = str(tmp_path/'record'), read_json(tmp_path/'record'/'config.json')
        (tmp_path/'record'/'config.json').write_text(json.dumps({k: v for k, v in config.items() if k != 'prunebook'}))
    given = folders.get(by) or str(tmp_path/by if by in ('link', 'copy', 'record') else tmp_path/'models'/by)
    recipe = SMALL.replace(batch_size=2, max_length=120, objective='lm' if prompts else 'distill_top')
    with pytest.raises(PrunebookError, match='is the model itself'):
        healing.heal_checkpoint(model, tmp_path/'out', () if prompts else PAIRS, recipe, progress=False, teacher=given,
                                prompts=prompts)
    words = ['--prompts', write_rows(tmp_path/'p.jsonl', PAIRS)] if prompts else ['--objective', 'distill']
    texts_of = [] if prompts else ['--texts', write_rows(tmp_path/'t.jsonl', PAIRS * 9)]
    words = ['heal', model, tmp_path/'out', '--teacher', given, *words, *texts_of, '--batch-size', 2, '--n-judge', 0]
    assert main([*map(str, words), '--max-length', '120', '--no-progress']) == 2
    assert not list(tmp_path.glob('out*'))

@pytest.mark.parametrize('objective', ['distill', 'distill_top'])
def test_a_pruned_model_is_no_teacher_of_itself_in_memory(objective, folders, monkeypatch):
    "Nor is the unpruned one by its name. That one may teach itself in memory: a sweep heals it as its cuts"
    student, _ = load_model(folders['student'], progress=False)
    big, tok = load_model(folders['big'], progress=False)
    recipe = SMALL.replace(objective=objective, batch_size=2, max_length=120)
    monkeypatch.setattr(healing, '_train', pytest.fail)
    def given(model, teacher, **kw): healing.heal(model, tok, PAIRS * 3, recipe.replace(**kw), teacher=teacher,
                                                  dry_run=True, progress=False)
    for pair in ((student, student), (student, LayerStack(student).copy().model), (student, folders['student']),
                 (big, folders['big'])):
        with pytest.raises(PrunebookError, match='is the model itself|as small as this pruned'): given(*pair)
    given(student, big)
    given(student, folders['big'])
    given(big, big)
    given(student, student, objective='lm')

def test_a_healing_that_untied_the_head_made_no_larger_model():
    model = tiny(tie_word_embeddings=True, vocab_size=1000)
    healed = run(prune_model(model, [2, 3]), SMALL.replace(steps=1, method='head_and_last')).model
    assert healed.num_parameters() > model.num_parameters()
    teacher.load_teacher(healed, tokenizer(), model)
    with pytest.raises(PrunebookError, match='smaller than its student'):
        teacher.load_teacher(healed, tokenizer(), prune_model(model, [0, 1, 2, 3]))

def test_a_head_that_is_padded_otherwise_may_write_answers(folders):
    student, tok = load_model(folders['student'], progress=False)
    teacher.load_teacher(student, tok, folders['padded'], head=False)
    with pytest.raises(PrunebookError, match='padded otherwise'): teacher.load_teacher(student, tok, folders['padded'])

def test_a_named_teacher_in_4_bits_is_loaded_in_4(tmp_path, monkeypatch):
    "Its 16-bit weights may not fit. It teaches as a copy in 4 bits of one that is given"
    pytest.importorskip('bitsandbytes')
    model, recipe, seen = tiny(hidden_size=64), SMALL.replace(objective='distill', teacher_bits=4, dropout=0.), []
    def loaded(*args, **kw): return seen.append(kw['bits']) or load_model(*args, **kw)
    monkeypatch.setattr(teacher, 'load_model', loaded)
    named, given = (run(prune_model(model, [2]), recipe, teacher=o) for o in (str(save(tmp_path/'m', model)), model))
    assert seen == [4]
    for a, b in zip(named.history, given.history): assert a['loss'] == pytest.approx(b['loss'], abs=1e-4)

def test_the_command_writes_the_answers_and_heals(chat, tmp_path, capsys, monkeypatch, caplog):
    "On those that fit into a row"
    model, tok = chat
    save(tmp_path/'big', model, tok)
    save(tmp_path/'other', model, family(CHATML, '<|begin_of_text|>', '<|im_end|>', SPECIAL.replace('eot', 'eom')))
    save(tmp_path/'small', prune_model(model, [2]), tok)
    SMALL.replace(steps=2, batch_size=3, max_length=200).save(tmp_path/'recipe.json')
    for name, n in (('few', 1), ('many', 2)):
        (tmp_path/f'{name}.jsonl').write_text('\n'.join(map(json.dumps, PAIRS * n)))
    def command(prompts, by):
        small, out, asked, big, recipe = (str(tmp_path/o) for o in ('small', 'out', prompts, by, 'recipe.json'))
        return main(['heal', small, out, '--prompts', asked, '--teacher', big, '--config', recipe, '--no-progress',
                     '--allow-empty'])
    said = [_Written('It is a.', 5, True)] * 3 + [_Written(' '.join(map(str, range(80))), 5, True)]
    monkeypatch.setattr(teacher, 'write_in_batches', lambda *a, **kw: [([0, 1, 2, 3], said)])
    for wrong, says in ((('few.jsonl', 'big'), '2 prompts, fewer than one batch of 3'),
                        (('many.jsonl', 'other'), 'another tokenizer')):
        assert command(*wrong) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path/'out').exists()
    assert command('many.jsonl', 'big') == 0 and '1 of 4 answers are left out' in caplog.text
    assert [o[1]['content'] for o in kept(tmp_path/'out'/'answers.jsonl')] == [o.text for o in said]


@pytest.fixture
def cut(chat, tmp_path, monkeypatch):
    "A chat model in `parent`, cut by its answers in `cut`, and the conversations that it answered"
    monkeypatch.setenv('PRUNEBOOK_CACHE', str(tmp_path/'cache'))
    save(tmp_path/'parent', *chat)
    said = [dict(messages=[dict(role='user', content=f'Say {i}.'), dict(role='assistant', content=f'{i} ' * 9)])
            for i in range(20)]
    longest = split_texts(said, 0)[1][0]['messages'][1]  # of those that judge
    longest['content'] *= 3
    write_rows(tmp_path/'talks.jsonl', said)
    assert main(['prune', *map(str, (tmp_path/'parent', tmp_path/'cut')), '--n', '1', '--strategy', 'answers',
                 '--prompts', str(tmp_path/'talks.jsonl'), '--max-new-tokens', '32', '--no-progress']) == 0
    return tmp_path


HEAL = ['--steps', '50', '--batch-size', '1', '--max-length', '32', '--rank', '2', '--no-progress']


def test_a_cut_knows_its_parent_and_learns_the_answers_that_chose_it(cut, caplog, monkeypatch):
    monkeypatch.setattr(teacher, 'write_answers', lambda *a, **kw: pytest.fail('they are there'))
    seen, real = [], healing.heal
    monkeypatch.setattr(healing, 'heal', lambda m, t, texts, **kw: (seen.append(texts), real(m, t, texts, **kw))[1])
    assert main(['heal', str(cut/'cut'), str(cut/'healed'), *HEAL]) == 0
    assert len(seen[0]) == 16  # a fifth judges
    assert 'learns 16 answers of parent' in caplog.text
    asked = read_json(cut/'healed'/'adapter'/'asked.json')
    assert asked['objective'] == 'distill'
    assert asked['teacher'].startswith('parent ')
    tok = load_tokenizer(str(cut/'cut'))
    read, every = (max(len(o.ids) for o in documents(o, tok, 2048)) for o in (seen[0], load_texts(cut/'talks.jsonl')))
    assert asked['max_length'] == every > read > 32  # rows hold also those that judge
    assert asked['steps'] < 50  # each answer three times at most


def test_where_the_parent_is_stays_on_this_machine(cut):
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects
    files = [str(o.relative_to(cut/'cut')) for o in (cut/'cut').rglob('*') if o.is_file()]
    published = [*filter_repo_objects(files, ignore_patterns=DEFAULT_IGNORE_PATTERNS)]
    assert read_json(cut/'cut'/PARENT_NOTE)['parent'] == str(cut/'parent')
    assert 'config.json' in published
    assert not any(str(cut).encode() in (cut/'cut'/o).read_bytes() for o in published)


@pytest.mark.parametrize('fault, says', [
    ('gone', 'is not there'), ('other', 'has other weights now'), ('unknown', 'nobody noted where')])
def test_a_parent_that_is_not_there_is_named_before_anything_is_loaded(fault, says, cut, capsys, monkeypatch):
    monkeypatch.setattr('prunebook.load_model', lambda *a, **kw: pytest.fail('loaded'))
    monkeypatch.setattr(teacher, 'load_model', lambda *a, **kw: pytest.fail('loaded'))
    if fault == 'unknown': shutil.rmtree(cut/'cut'/PARENT_NOTE.parent)
    else: shutil.move(cut/'parent', cut/'elsewhere')
    if fault == 'other':
        model, tok = tiny_chat()
        for o in model.parameters(): o.data.neg_()
        save(cut/'parent', model, tok)
    assert main(['heal', str(cut/'cut'), str(cut/'healed'), *HEAL]) == 2
    err = capsys.readouterr().err
    assert says in err and 'parent' in err
    assert '--teacher MODEL' in err and '--objective lm' in err
    assert not (cut/'healed').exists()


def test_what_is_asked_of_a_healing_by_the_parent_is_refused_before_it_answers(cut, capsys, monkeypatch):
    monkeypatch.setattr(teacher, 'parent_answers', lambda *a, **kw: pytest.fail('it answered'))
    (cut/'full').mkdir()
    (cut/'full'/'mine').touch()
    for args, says in ((['full'], 'is not empty'), (['healed', '--n-texts', '5'], '--n-texts 5')):
        assert main(['heal', str(cut/'cut'), str(cut/args[0]), *args[1:], *HEAL]) == 2
        assert says in capsys.readouterr().err


def test_a_card_that_is_no_record_is_refused_in_words(cut, capsys):
    config = read_json(cut/'cut'/'config.json')
    for odd in ('x', dict(source=['a'], dropped=[0])):
        (cut/'cut'/'config.json').write_text(json.dumps(config | dict(prunebook=odd)))
        with pytest.raises(PrunebookError, match='no record of the model'): teacher.parent_of(cut/'cut')
