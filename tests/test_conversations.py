"Conversations: only what the assistant says is learned, none is cut, and what cannot be learned from is refused"
import json
import numpy as np, pytest, torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from prunebook import PrunebookError, evaluate, paired_differences, prune_model, sample_answers
from prunebook.cli import main
from prunebook.data.texts import as_texts, render_chat, render_conversation
from prunebook.evaluation.choices import chat_prompt, choice_accuracy
from prunebook.evaluation.generation import encode_prompts
from prunebook.healing.packing import collate, documents, training_rows
from prunebook.healing.healing import _warn_plain, heal, heal_checkpoint
from prunebook.healing.trainer import CausalLMLoss
from prunebook.model.stack import LayerStack
from support.healing import SMALL
from support.tiny import letter_tokenizer, questions, save, tiny, write_rows
from test_packing import CHATML, FAMILIES, family

CHATS = [[dict(role='user', content='What is 2 + 2?'), dict(role='assistant', content='It is 4.')],
         [dict(role='user', content='Say "hello".'), dict(role='assistant', content='Hello.'),
          dict(role='user', content='And now?'), dict(role='assistant', content='Good bye, and thank you.')]]
PAIRS = [dict(prompt=o[0]['content'], response=o[1]['content']) for o in CHATS]
RECIPE = SMALL.replace(steps=2, batch_size=2, max_length=200, packing='packed')
SPECIAL = '<|endoftext|> <|im_start|> <|start_header_id|> <|end_header_id|> <start_of_turn> <end_of_turn> <|eot_id|>'

def tiny_chat(template=CHATML):
    "A random model and a tokenizer of single letters with a chat template"
    tok = family(template, '<|begin_of_text|>', '<|im_end|>', SPECIAL)
    tok.pad_token = '<|endoftext|>'
    torch.manual_seed(0)
    return tiny('llama', layers=4, vocab_size=len(tok), max_position_embeddings=512), tok

def said(tok, talk): return tok.decode([i for i, o in zip(talk.ids, talk.learn) if o])

@pytest.mark.parametrize('given', FAMILIES.values(), ids=FAMILIES)
def test_the_answers_and_the_ends_of_their_turns_are_learned(given):
    tok = family(*given)
    for chat in CHATS:
        talk = render_conversation(tok, chat)
        assert talk.text == tok.apply_chat_template(chat, tokenize=False)
        assert talk.ids == tok(talk.text, add_special_tokens=False)['input_ids']
        got, end = said(tok, talk), given[4].removesuffix('<|endoftext|>' if 'phi_3' in tok.chat_template else '')
        for m in chat: assert (m['content'] in got) == (m['role'] == 'assistant')
        assert got.startswith(chat[1]['content'] + end.split('>')[0]) and got.endswith(given[4])
        assert 'user' not in got and '[INST]' not in got, 'the turn of the user is opened by the user'
        assert all(render_conversation(tok, chat, 'all').learn)

@pytest.mark.parametrize('kind', ['pairs', 'dataset', 'jsonl', 'parquet'])
def test_every_form_is_the_same_conversation(kind, tmp_path):
    _, tok = tiny_chat()
    rows, file = PAIRS, tmp_path/f'a.{kind}'
    if kind == 'jsonl': file.write_text('\n'.join(map(json.dumps, PAIRS)))
    if kind == 'parquet': Dataset.from_list(PAIRS).to_parquet(file)
    if kind == 'dataset': rows = Dataset.from_list(PAIRS)
    for loss_on in ('assistant', 'all'):
        found = documents(file if file.exists() else rows, tok, 100, loss_on)
        assert found == [render_conversation(tok, o[:2], loss_on) for o in CHATS]

def test_a_system_key_is_the_first_message():
    _, tok = tiny_chat()
    lead = dict(role='system', content='Be brief.')
    want = documents([dict(messages=[lead, *CHATS[0]])], tok, 100)
    for row in (PAIRS[0], dict(messages=CHATS[0]), dict(messages=[lead, *CHATS[0]])):
        assert documents([row | dict(system='Be brief.')], tok, 100) == want
    assert documents([PAIRS[0] | dict(system=None)], tok, 100) == documents(PAIRS[:1], tok, 100)
    with pytest.raises(PrunebookError, match='message 0 is'): documents([PAIRS[0] | dict(system=['x'])], tok, 100)

def test_no_conversation_is_cut_and_texts_stay_whole():
    _, tok = tiny_chat()
    docs = documents([dict(messages=o) for o in CHATS] * 5 + ['The cat sat on the mat. ' * 9] * 8, tok, 200)
    rows = training_rows(tok, docs, RECIPE)
    begins = np.flatnonzero(rows.pos == 0)
    parts = [(rows.flat[a:b].tolist(), rows.learn[a:b].tolist()) for a, b in zip(begins, [*begins[1:], len(rows.flat)])]
    for o in docs[:10]: assert (list(o.ids), list(o.learn)) in parts
    assert rows.lengths.max() <= 200 and len(rows.lengths) - (rows.lengths == 200).sum() < 10, 'some share a row'
    batch = collate([rows[i] for i in range(2)], packed=True)
    assert (batch['labels'] != -100).any(1).all()

@pytest.mark.parametrize('packing', ['none', 'packed'])
@pytest.mark.parametrize('share', [.1, .5, .8])
def test_plain_texts_get_their_share_of_the_tokens(packing, share):
    "However many of them there are, and each kind is passed over on its own"
    _, tok = tiny_chat()
    text = 'The cat sat on the mat. ' * 3
    docs = documents([dict(messages=o) for o in CHATS] * 3 + [text] * 40, tok, 200, plain_share=share)
    recipe = RECIPE.replace(steps=300, packing=packing, plain_share=share)
    rows = training_rows(tok, docs, recipe)
    plain, tokens = np.array([rows.learn[a:b].all() for a, b in zip(rows.ends, rows.ends[1:])]), rows.lengths
    drawn = rows.order
    assert tokens[drawn][plain[drawn]].sum() / tokens[drawn].sum() == pytest.approx(share, abs=.01)
    for kind in (plain, ~plain):
        times = np.bincount(drawn, minlength=len(plain))[kind]
        assert times.max() - times.min() <= 1
    assert len({plain[o] for o in drawn[:20]}) == 2, 'not shuffled together'

def test_a_small_share_may_be_no_row():
    _, tok = tiny_chat()
    docs = documents([*PAIRS * 9, 'The cat sat on the mat. ' * 9], tok, 200, plain_share=.01)
    assert 0 not in training_rows(tok, docs, RECIPE.replace(plain_share=.01)).order

def test_a_share_needs_both_kinds(tmp_path):
    model, tok = tiny_chat()
    with pytest.raises(PrunebookError, match='do not fill one row of 200'):  # they would be left out in silence
        heal(model, tok, [*PAIRS * 9, 'A text.'], RECIPE, dry_run=True)
    recipe = RECIPE.replace(plain_share=.2)
    for given, says in ((PAIRS * 9, '0 plain texts and 18 conv'), (['A text.'] * 40, '40 plain texts and 0 conv'),
                        ([*PAIRS * 9, 'A text.'], 'do not fill one row of 200 tokens')):
        with pytest.raises(PrunebookError, match=f'plain_share=0.2: .*{says}'):
            heal(model, tok, given, recipe, dry_run=True)
    with pytest.raises(PrunebookError, match='plain_share=1.5: .*0.25'): recipe.replace(plain_share=1.5)
    with pytest.raises(PrunebookError, match='plain_share=0.2: .*answers'):  # before the folder is looked at
        heal_checkpoint(str(tmp_path), tmp_path/'out', (), recipe, teacher='x', prompts=['Hello?'])
    assert not (tmp_path/'out').exists()

def test_of_several_templates_the_default_counts():
    _, tok = tiny_chat()
    want = render_conversation(tok, CHATS[0])
    tok.chat_template = dict(default=CHATML, tool_use='{{ raise_exception("no tools") }}')
    assert render_conversation(tok, CHATS[0]) == want

MARKED = CHATML.replace("{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}", """\
{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}\
{{ message['content'] + '<|im_end|>' + '\n' }}{% endgeneration %}{% else %}\
{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}""")
LEARNED = ['It is 4.<|im_end|>\n', 'Hello.<|im_end|>\nGood bye, and thank you.<|im_end|>\n']

@pytest.mark.parametrize('template', [CHATML, MARKED], ids=['found', 'marked'])
def test_labels_and_loss_are_those_of_trl(template):
    "TRL 1.16 with assistant_only_loss and the marked template learned these on the same model, with this loss"
    model, tok = tiny_chat(template)
    talks = [render_conversation(tok, o) for o in CHATS]
    assert [said(tok, o) for o in talks] == LEARNED
    batch = collate([dict(ids=np.array(o.ids), pos=np.arange(len(o.ids)), learn=np.array(o.learn)) for o in talks])
    with torch.no_grad(): loss = CausalLMLoss(model, LayerStack(model))(**batch)['loss'].item()
    assert loss == pytest.approx(TRL_LOSS, abs=1e-5)

TRL_LOSS = 4.629989147186279

user, empty = CHATS[0][0], dict(role='assistant', content=' ')
BAD = dict(
    empty=([dict(messages=[user, empty])], 'message 1: the answer of the assistant is empty'),
    no_answer=([dict(messages=CHATS[1][:3])], 'does not end with an answer'),
    role=([dict(messages=[dict(role='tool', content='x'), *CHATS[0]])], 'Conversation roles must alternate'),
    content=([dict(messages=[dict(role='user'), *CHATS[0]])], 'message 0 is'),
    mixed=([dict(messages=CHATS[0]), PAIRS[0]], 'row 0 has messages and row 1 has a prompt'),
    few=(PAIRS[:1], '1 texts, or answers to prompts, make 1 rows of 200 tokens, fewer than one batch of 2'),
    unknown=([PAIRS[0], dict(question='x')], "text 1: .*'question'.*messages"),
    long=([*PAIRS, dict(prompt='x', response='y' * 300)], r'1 of the 3 texts are conversations of more than'))

@pytest.mark.parametrize('rows, says', BAD.values(), ids=BAD)
def test_refused_before_any_training(rows, says):
    strict = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('Conversation roles must alternate') }}"
    model, tok = tiny_chat(strict + '{% endif %}' + CHATML)
    with pytest.raises(PrunebookError, match=says): heal(prune_model(model, [2]), tok, rows, RECIPE, progress=False)

def test_a_template_that_changes_earlier_turns_is_refused():
    "As those do that leave out what was thought in all answers but the last"
    changing = CHATML.replace("message['content'] + '<|im_end|>'",
                              "(message['content'] if loop.last or message['role'] == 'user' else '…') + '<|im_end|>'")
    _, tok = tiny_chat(changing)
    assert said(tok, render_conversation(tok, CHATS[0])).startswith('It is 4.')
    says = 'conversation 0: the template renders message 1 differently.*--loss-on all'
    with pytest.raises(PrunebookError, match=says): documents([dict(messages=CHATS[1])], tok, 200)
    tok.chat_template = None
    with pytest.raises(PrunebookError, match='no chat template'): documents(PAIRS, tok, 200)

def test_plain_texts_for_a_model_that_chats_are_warned_of_once(caplog):
    model, tok = tiny_chat()
    _warn_plain.cache_clear()
    heal(model, tok, ['A plain text of some length.'] * 40, RECIPE, teacher=model, objective='distill', dry_run=True)
    for rows, warned in ((PAIRS * 9, 0), (['A plain text of some length.'] * 40, 1), (['Another plain text.'] * 40, 1)):
        heal(model, tok, rows, RECIPE, dry_run=True)
        assert caplog.text.count('written answers') == warned
    assert '(--teacher MODEL --prompts FILE --objective distill_top --max-length 512)' in caplog.text
    _warn_plain.cache_clear()
    for talks, plain, warned in ((9, 9, 1), (1, 40, 2)):  # by the letters of both
        heal(model, tok, PAIRS * talks + ['A plain text of some length.'] * plain, RECIPE, dry_run=True)
        assert caplog.text.count('written answers') == warned
    for share, warned in ((.2, 2), (.8, 3)):  # by their share, if it is given
        heal(model, tok, PAIRS * 9 + ['A plain text of some length.'] * 40, RECIPE, plain_share=share, dry_run=True)
        assert caplog.text.count('written answers') == warned
        _warn_plain.cache_clear()
    heal(model, tok, ['A plain text of some length.'] * 40, RECIPE, dry_run=True, warn=False)  # as a sweep does
    assert caplog.text.count('written answers') == 3
    tok.chat_template = None
    _warn_plain.cache_clear()
    heal(model, tok, ['A plain text of some length.'] * 40, RECIPE, dry_run=True)
    assert caplog.text.count('written answers') == 3

def test_a_template_that_reads_only_lists_of_parts(monkeypatch):
    "SmolVLM's and LLaVA's: the text of a message would vanish"
    tok = letter_tokenizer()
    tok.chat_template = ("{% for m in messages %}[{{ m['role'] }}]{% for c in m['content'] %}"
                         "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
                         "{% if add_generation_prompt %}[assistant]{% endif %}")
    assert chat_prompt(tok, 'What is two?') == '[user]What is two?</s>[assistant]'
    [doc] = documents([dict(prompt='What is two?', response='A number.')], tok, 99)
    assert tok.decode([i for i, o in zip(doc.ids, doc.learn) if o]).startswith('A number.')

# the lines of Qwen3's template that write an answer, and that begin one
QWEN_3 = """\
{%- for message in messages %}
    {%- set content, reasoning_content = message.content, '' %}
    {%- if '</think>' in content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set reasoning_content = message.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content + '\\n</think>\\n\\n' + content }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
NO_THOUGHT = '<think>\n\n</think>\n\n'

def test_no_model_is_asked_with_thinking_on(monkeypatch):
    "By no function that asks, unless it is told to"
    model, tok = tiny_chat(QWEN_3)
    model = tiny('llama', layers=4, vocab_size=len(tok), max_position_embeddings=2048)
    rendered, real = [], type(tok).apply_chat_template
    def noted(self, *args, **kw):
        rendered.append(real(self, *args, **kw))
        return rendered[-1]
    monkeypatch.setattr(type(tok), 'apply_chat_template', noted)
    sums, run = [dict(question='1 + 1 =', answer='2')], dict(chat=True, progress=False)
    ask = dict(chat_prompt=lambda **kw: chat_prompt(tok, 'Why?', **kw),
               messages=lambda **kw: chat_prompt(tok, CHATS[1][:3], **kw),
               choices=lambda **kw: choice_accuracy(model, tok, questions(1), **run, **kw),
               likelihood=lambda **kw: evaluate(model, tok, questions(1), **run, **kw),
               written=lambda **kw: evaluate(model, tok, sums, max_new_tokens=2, **run, **kw),
               prompts=lambda **kw: encode_prompts(LayerStack(model), tok, ['Why?'], 2, **kw))
    for k, f in ask.items():
        for on in (False, True):
            rendered.clear()
            f(**dict(thinking=True) if on else {})
            asked = [o for o in rendered if not o.endswith('<|im_end|>\n')]
            assert asked and all(o.endswith('assistant\n' if on else NO_THOUGHT) for o in asked), (k, on)
    rendered.clear()
    sample_answers(model, tok, ['Why?'], 2)
    assert rendered and all(o.endswith(NO_THOUGHT) for o in rendered)

def test_a_score_says_whether_thinking_was_on(tmp_path):
    "And scores of both ways are neither paired nor kept in one folder; a template without the switch has no way"
    model, tok = tiny_chat(QWEN_3)
    run = dict(tasks=questions(2), chat=True, progress=False)
    off, on = (evaluate(model, tok, **run, thinking=o, save=tmp_path/str(o)) for o in (False, True))
    assert (off['own'].thinking, on['own'].thinking) == (False, True)
    with pytest.raises(PrunebookError, match='thinking'): paired_differences(off, on)
    with pytest.raises(PrunebookError, match='thinking False'):
        evaluate(model, tok, **run, thinking=True, save=tmp_path/'False')
    assert evaluate(model, tok, questions(2), progress=False)['own'].thinking is None
    tok.chat_template = CHATML
    assert evaluate(model, tok, **run)['own'].thinking is None
    for kw, says in ((dict(chat=True), 'enable_thinking'), (dict(chat=False), 'chat=True')):
        with pytest.raises(PrunebookError, match=says): evaluate(model, tok, **run | kw, thinking=True)

def test_thinking_on_the_command_line(tmp_path, capsys):
    file, model, plain = str(write_rows(tmp_path/'q.jsonl', questions(2))), tmp_path/'qwen', tmp_path/'plain'
    save(model, *tiny_chat(QWEN_3))
    save(plain, *tiny_chat())
    words = ['--tasks', file, '--save', str(tmp_path/'s'), '--allow-empty', '--no-progress', '--thinking']
    for given, says in (([str(model)], '--chat'), ([str(plain), '--chat'], 'enable_thinking')):
        assert main(['evaluate', *given, *words]) == 2 and says in capsys.readouterr().err
    assert main(['evaluate', str(model), *words, '--chat']) == 0
    [kept] = (tmp_path/'s').glob('*.json')
    assert json.loads(kept.read_text())['thinking'] is True

@pytest.mark.parametrize('given', FAMILIES.values(), ids=FAMILIES)
def test_templates_without_the_switch_are_given_nothing(given, monkeypatch):
    tok, real, told = family(*given), PreTrainedTokenizerFast.apply_chat_template, []
    def noted(self, *args, **kw):
        told.append(kw)
        return real(self, *args, **kw)
    want = [tok.apply_chat_template(o[:1], tokenize=False, add_generation_prompt=True) for o in CHATS]
    monkeypatch.setattr(PreTrainedTokenizerFast, 'apply_chat_template', noted)
    assert [chat_prompt(tok, o[:1]) for o in CHATS] == want
    assert told and not any('enable_thinking' in o for o in told)

def test_what_is_learned_of_a_model_that_may_think():
    "The answer behind the empty thought that it is asked with; thoughts in an answer are learned with it"
    _, tok = tiny_chat(QWEN_3)
    talk = render_conversation(tok, CHATS[0])
    assert said(tok, talk) == 'It is 4.<|im_end|>\n'
    assert talk.text.startswith(chat_prompt(tok, CHATS[0][:1]))
    thought = [CHATS[0][0], dict(role='assistant', content='<think>\nTwo and two.\n</think>\n\nIt is 4.')]
    talk = render_conversation(tok, thought)
    assert said(tok, talk) == thought[1]['content'] + '<|im_end|>\n'
    assert talk.text.startswith(chat_prompt(tok, CHATS[0][:1], thinking=True))
    tok.chat_template = "{{ '/think' if enable_thinking else '/no_think' }}" + CHATML
    for chat, mode in ((CHATS[0], '/no_think'), (thought, '/think')):
        assert as_texts([dict(messages=chat)], tok)[0].startswith(mode)
        assert render_conversation(tok, chat).text.startswith(mode)
    assert render_chat(tok, CHATS[0], enable_thinking=True).startswith('/think')
