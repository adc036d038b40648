"Documents and conversations end in packed rows as they did in the model's own training"
import numpy as np, pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from prunebook.healing.recipes import HealingConfig
from prunebook.healing.packing import _document_end, collate, training_rows

CHATML = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
LLAMA_3 = """\
{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}\
{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}\
{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + \
' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}\
{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
PHI_3 = """\
{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}"""
# name: template, BOS (in front of every text if it is capital), EOS, other special tokens, end of a chat, of a document
FAMILIES = dict(
    qwen=(CHATML, None, '<|im_end|>', '<|endoftext|> <|im_start|>', '<|im_end|>\n', '<|endoftext|>'),
    qwen_base=(CHATML, None, '<|endoftext|>', '<|im_start|> <|im_end|>', '<|im_end|>\n', '<|endoftext|>'),
    smollm=(CHATML, '<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|im_end|>\n', '<|endoftext|>'),
    llama_3=(LLAMA_3, '<|BEGIN_OF_TEXT|>', '<|eot_id|>', '<|end_of_text|> <|start_header_id|> <|end_header_id|>',
             '<|eot_id|>', '<|end_of_text|>'),
    gemma=(GEMMA, '<BOS>', '<eos>', '<start_of_turn> <end_of_turn>', '<end_of_turn>\n', '<eos>'),
    gemma_gguf=(GEMMA, '<BOS>', '<end_of_turn>', '<start_of_turn> <eos>', '<end_of_turn>\n', '<eos>'),
    mistral=(MISTRAL, '<S>', '</s>', '', '</s>', '</s>'),
    phi_3=(PHI_3, None, '<|endoftext|>', '<|user|> <|assistant|> <|end|> </s>', '<|end|>\n<|endoftext|>',
           '<|endoftext|>'))
CHAT = [dict(role='user', content='What is 2 + 2?'), dict(role='assistant', content='It is 4.')]
RECIPE = HealingConfig(steps=1, warmup=0, batch_size=1, max_length=16, packing='packed')

def family(template, bos, eos, others, *_):
    "A tokenizer of single letters with a family's template and special tokens"
    adds = bos is not None and bos.isupper()
    bos = bos.lower() if adds else bos
    special = list(filter(None, [bos, eos, *others.split()]))
    letters = ['<unk>', *map(chr, range(32, 127)), '\n']
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*letters, *special])}, unk_token='<unk>'))
    t.pre_tokenizer, t.decoder = pre_tokenizers.Split(Regex('.|\n'), 'isolated'), decoders.Fuse()
    if adds: t.post_processor = processors.TemplateProcessing(
        single=f'{bos} $A', special_tokens=[(bos, t.token_to_id(bos))])
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token=bos, eos_token=eos, unk_token='<unk>',
                                   chat_template=template, additional_special_tokens=special)

def packed(tok, text, packing='packed'):
    "A text as it comes out of the rows, with what was put after it"
    rows = training_rows(tok, [text] * 2, RECIPE.replace(packing=packing, max_length=len(tok(text)['input_ids']) + 3))
    return rows.flat[:len(rows.flat) // 2].tolist()

@pytest.mark.parametrize('given', FAMILIES.values(), ids=FAMILIES)
def test_a_conversation_ends_as_its_template_ends_it(given):
    tok, chat_end = family(*given), given[4]
    text = tok.apply_chat_template(CHAT, tokenize=False)
    bos = tok.decode(tok('')['input_ids'])  # one, also where the template writes it as well
    want = bos + text.removeprefix(bos)
    assert text.endswith(f'It is 4.{chat_end}')
    mark = chat_end.split('>')[0] + '>'
    unfinished = text[:-len(chat_end)] + mark
    for o in (text, text.rstrip(), text + '\n ', unfinished):  # whole, from a file of lines, cut after the turn
        assert tok.decode(packed(tok, o)) == want, o

@pytest.mark.parametrize('given', FAMILIES.values(), ids=FAMILIES)
def test_a_document_ends_as_in_pre_training(given):
    tok, end = family(*given), given[5]
    assert tok.convert_ids_to_tokens(_document_end(tok)) == end
    for o in ('The cat sat.', 'The cat sat.\n', f'The cat sat.{end}'):
        want = tok(o)['input_ids']
        assert packed(tok, o) == want + [_document_end(tok)] * (want[-1] != _document_end(tok))
    assert packed(tok, 'The cat sat.', 'chunk')[-1] == tok.eos_token_id

def test_only_pads_are_masked():
    """Also where a row holds several documents, for models that take no positions. Where attention runs by document,
    the pads are a single one"""
    row = lambda *pos: dict(ids=np.arange(len(pos)) + 5, pos=np.array(pos))
    rows = [row(0, 1, 2, 0, 1), row(0, 1)]
    assert collate(rows, packed=True)['position_ids'].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    batch = collate(rows)
    assert batch['attention_mask'].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch['labels'].tolist() == [[-100, 6, 7, -100, 9], [-100, 6, *[-100] * 3]]
