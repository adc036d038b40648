"""A GGUF file computes what its folder computes in transformers, or it is not written."""
import resource, subprocess, sys
from shutil import copy
import pytest, torch
from transformers import AutoConfig, AutoModelForImageTextToText
from prunebook import PrunebookError, load_model, prune_checkpoint, prune_model
from prunebook.cli import main
from prunebook.estimates import compare_options, file_gb, model_size
from prunebook.evaluation.generation import generate_texts
from prunebook.model.assets import _check_gguf
from prunebook.serving import gguf
from prunebook.serving.gguf import PLAIN, TYPES, llama_replies, llama_scores, quantize, stored_types, to_gguf
from prunebook.serving.stacks import RUNNERS, export_gguf
from support.checkpoints import edit_json
from support.tiny import SHAPE, _tower, save, texts, tiny, word_tokenizer

pytestmark = [pytest.mark.extra, pytest.mark.skipif(not RUNNERS['llama.cpp'].installed, reason='needs the extra gguf')]

# The export

def test_a_file_of_each_type_is_close_and_reads_back(tmp_path):
    "The demo, two layers deep: the file loads in transformers again, and computes the same"
    folder = prune_checkpoint('demo', tmp_path/'pruned', '1-28', progress=False)
    made = export_gguf(folder, tmp_path/'x.gguf', 'q8_0')
    assert made['difference'] < made['allowed'] and made['mb'] < 45
    assert sorted(o.name for o in tmp_path.iterdir()) == ['pruned', 'x.gguf']
    text = 'The ferry left the island a little before seven.'
    logits = []
    for source in (folder, tmp_path/'x.gguf'):
        model, tok = load_model(str(source), dtype='float32', progress=False)
        with torch.no_grad(): logits.append(model(**tok(text, return_tensors='pt')).logits[0].log_softmax(-1))
    assert (logits[0] - logits[1]).abs().mean() < made['allowed']

def test_a_file_may_be_quantised_in_its_place(tmp_path):
    model = tiny(hidden_size=64, intermediate_size=64)
    file = to_gguf(save(tmp_path/'model', model), tmp_path/'x.gguf', 'f16', tokenizer=False)
    before = file.stat().st_size
    with pytest.raises(PrunebookError, match="type='q5'"): quantize(file, file, 'q5')
    assert quantize(file, file, 'q8_0').stat().st_size < before
    assert sorted(o.name for o in tmp_path.iterdir()) == ['model', 'x.gguf']

def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    "A plain conversion of a Gemma 3 without two layers of a period of six. And what stood at its place stays"
    model = tiny('gemma3_text', layers=12, hidden_size=64, head_dim=16, num_key_value_heads=2, sliding_window=8,
                 initializer_range=.25, query_pre_attn_scalar=16)
    folder = save(tmp_path/'model', prune_model(model, [4, 5]))
    plain = to_gguf(folder, tmp_path/'plain.gguf', 'f32', False, tokenizer=False)
    (tmp_path/'x.gguf').write_text('mine')
    monkeypatch.setattr('prunebook.serving.stacks.to_gguf', lambda folder, out, *a, **kw: copy(plain, out))
    with pytest.raises(PrunebookError, match='does not compute what transformers computes.*Nothing was written'):
        export_gguf(folder, tmp_path/'x.gguf', 'f32', force=True, tokenizer=False)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['model', 'plain.gguf', 'x.gguf']
    assert (tmp_path/'x.gguf').read_text() == 'mine'

# Fewer bits

WIDE = dict(hidden_size=256, intermediate_size=512, num_key_value_heads=2, initializer_range=.06)
BITS = [o for o in TYPES if o not in PLAIN]  # from many to few

def test_each_type_is_smaller_than_the_one_before_and_as_large_as_estimated(tmp_path):
    "In rows of a multiple of 256; q2_k has q3_k in places, as llama.cpp chooses"
    folder = save(tmp_path/'model', tiny('llama', 16, **WIDE))
    file, size = to_gguf(folder, tmp_path/'x.gguf', 'f16', tokenizer=False), model_size(str(folder))
    found = {o: quantize(file, tmp_path/f'{o}.gguf', o).stat().st_size for o in BITS}
    assert list(found.values()) == sorted(found.values(), reverse=True) and len(set(found.values())) == len(BITS)
    assert {o: 1e9 * file_gb(size, o)[0] for o in BITS} == pytest.approx(found, rel=.05)
    _, stored = stored_types(tmp_path/'q2_k.gguf')
    assert list(stored)[:2] == ['q2_k', 'q3_k'] and stored['q2_k'] > .5

@pytest.mark.parametrize('type', ['q2_k', 'q3_k_m', 'q5_k_m', 'q6_k'])
def test_an_export_in_few_bits_says_what_it_holds(type, tmp_path):
    made = export_gguf(save(tmp_path/'model', tiny('llama', 4, **WIDE)), tmp_path/'x.gguf', type, tokenizer=False)
    bits, stored = stored_types(tmp_path/'x.gguf')
    assert made['difference'] <= made['allowed'] and made['bits'] == round(bits, 2)
    assert {k: round(v, 3) for k, v in stored.items() if v >= .001} == made['stored'] and type[:4] in made['stored']

def test_rows_that_are_no_multiple_of_256_fall_back_and_say_so(tmp_path, caplog):
    "The demo, two layers deep: only its down projections, of 1,536 numbers a row, can be q3_k"
    folder = prune_checkpoint('demo', tmp_path/'pruned', '1-28', progress=False)
    made = export_gguf(folder, tmp_path/'x.gguf', 'q2_k')
    assert set(made['stored']) == {'q8_0', 'q4_0', 'q3_k'} and made['bits'] > 5
    assert 'rows have 576 in' in caplog.text
    assert file_gb(model_size(str(folder)), 'q2_k')[0] * 1e3 == pytest.approx(made['mb'], rel=.05)

@pytest.mark.parametrize('type, width, says', [('q2_k', 64, 'f32, f16, bf16, q8_0'), ('q4_k_m', 64, 'rows have 64'),
                                               ('q8_0', 48, 'f32, f16, bf16.'), ('q6_k', 48, 'embeddings have 48')])
def test_a_type_that_the_shapes_do_not_allow(type, width, says, tmp_path, monkeypatch, capsys):
    "Before any work"
    folder = save(tmp_path/'model', tiny('llama', 2, hidden_size=width, intermediate_size=2 * width))
    monkeypatch.setattr('prunebook.serving.stacks.to_gguf', lambda *a, **kw: pytest.fail('it was converted'))
    assert says in refused(capsys, folder, tmp_path/'x.gguf', '--type', type)
    assert [o.name for o in tmp_path.iterdir()] == ['model']

def test_a_file_of_a_type_has_its_own_bytes_in_a_comparison(tmp_path):
    folder = prune_checkpoint('demo', tmp_path/'p', '1-28', progress=False)
    own = quantize(to_gguf(folder, tmp_path/'x.gguf'), tmp_path/'own.gguf', 'q4_k_m')
    table = compare_options(str(own), gb=1)
    assert table.file_gb[0] * 1e9 == pytest.approx(own.stat().st_size, abs=1) and table.type[0] == 'q4_k_m'
    assert set(table[table.dropped == 0].type) == {'q4_k_m', 'q3_k_m', 'q2_k'} and table.bits[0] > 6
    assert model_size(str(own)).parameters == model_size(str(folder)).parameters

# Written answers

@pytest.mark.parametrize('kind, fields', [('llama', {}), ('qwen3', {}), ('gemma3_text', dict(sliding_window=8))])
def test_answers_of_llama_cpp_are_those_of_transformers(kind, fields, tmp_path):
    "Twelve prompts in five sequences, and in one: each answer ends by itself, or at the limit"
    model, tok = tiny(kind, 4, initializer_range=.3, max_position_embeddings=512, **fields), word_tokenizer()
    file = to_gguf(save(tmp_path/'m', model, tok), tmp_path/'x.gguf', 'f32', tokenizer=False)
    asked = texts(10, longest=60) + [' '.join(['w7 w8 w9'] * 50)] * 2  # together more than a batch
    ids = tok(asked)['input_ids']
    free = generate_texts(model, tok, ids, 24)
    end = tok(free[0].text)['input_ids'][5]
    model.generation_config.eos_token_id = end
    want = generate_texts(model, tok, ids, 24)
    assert {o.ended for o in want} == {True, False}
    for n in (5, 1): assert llama_replies(file, tok, asked, 24, n, ends=end) == want
    assert llama_replies(file, tok, [], 24) == []

def test_answers_of_llama_cpp_stop_at_a_text(tmp_path):
    model, tok = tiny('llama', 4, initializer_range=.3), word_tokenizer()
    file = to_gguf(save(tmp_path/'m', model, tok), tmp_path/'x.gguf', 'f32', tokenizer=False)
    asked = texts(6)
    stop = generate_texts(model, tok, tok(asked[:1])['input_ids'], 24)[0].text.split()[4]
    want = generate_texts(model, tok, tok(asked)['input_ids'], 24, stop=[stop])
    got = llama_replies(file, tok, asked, 24, 2, stop=[stop])
    assert [(o.text, o.ended) for o in got] == [(o.text, o.ended) for o in want] and got[0].ended
    assert got[0].tokens == 5 and max(o.tokens for o in got) <= 24

def test_sequences_stand_in_order_so_that_llama_cpp_computes_them_together(tmp_path, monkeypatch):
    "It makes one batch only of sequences whose numbers follow each other. And the places of each one stay in order"
    file = to_gguf(save(tmp_path/'m', tiny('llama', 2), word_tokenizer()), tmp_path/'x.gguf', 'f32', tokenizer=False)
    parts, decode = [], gguf._decode
    monkeypatch.setattr(gguf, '_decode', lambda model, part: (parts.append([*part]), decode(model, part)))
    gguf._reply(str(file), [[3, 4, 5], [6], [7, 8], [9, 3], [4]], 6, [], [], 3, None)
    order = [[(sequence, place) for _, place, sequence, _ in part] for part in parts]
    assert order == [sorted(o) for o in order]
    assert max(len({s for s, _ in o}) for o in order) == 3

def test_an_empty_prompt_has_no_answer(tmp_path):
    file, tok = tmp_path/'x.gguf', word_tokenizer()
    with pytest.raises(PrunebookError, match='prompt 1'): llama_replies(file, tok, ['w3', ''], 4)
    with pytest.raises(PrunebookError, match='sequences=0'): llama_replies(file, tok, [], 4, 0)

# Bad input

def refused(capsys, *args):
    "What the command says, in one line"
    capsys.readouterr()  # what was printed before
    assert main(['export', *map(str, args), '--no-progress']) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    return said

@pytest.mark.parametrize('file, change, says', [
    ('config.json', dict(quantization_config=dict(quant_method='gptq')), 'quantised (gptq)'),
    ('tokenizer_config.json', dict(auto_map=dict(AutoTokenizer='x')), 'auto_map')])
def test_folders_that_cannot_be_exported(file, change, says, tmp_path, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    edit_json(folder/file, **change)
    assert says in refused(capsys, folder, tmp_path/'x.gguf') and not (tmp_path/'x.gguf').exists()

def test_what_is_there_is_never_written(tmp_path, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    (tmp_path/'there.gguf').write_text('mine')
    assert '--force' in refused(capsys, 'lab/hub', tmp_path/'there.gguf')  # before it is downloaded
    assert 'only read' in refused(capsys, folder, folder/'x.gguf')
    assert (tmp_path/'there.gguf').read_text() == 'mine' and not (folder/'x.gguf').exists()

def test_an_architecture_that_the_converter_does_not_know(tmp_path):
    folder = save(tmp_path/'model', tiny('opt', layers=2))
    with pytest.raises(PrunebookError, match='OPTForCausalLM is an architecture that'):
        export_gguf(folder, tmp_path/'x.gguf', tokenizer=False)
    assert [o.name for o in tmp_path.iterdir()] == ['model']

def test_a_full_disk_before_the_work(tmp_path, monkeypatch, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    monkeypatch.setattr('shutil.disk_usage', lambda p: type('usage', (), dict(free=10)))
    assert 'free' in refused(capsys, folder, tmp_path/'x.gguf') and [o.name for o in tmp_path.iterdir()] == ['model']

def test_a_disk_that_is_full_meanwhile(tmp_path):
    "The converter's own write fails, in its own process"
    folder = save(tmp_path/'model', tiny(layers=2, vocab_size=4000))
    code = 'import sys\nfrom prunebook.serving.stacks import export_gguf\nexport_gguf(*sys.argv[1:], tokenizer=False)'
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    done = subprocess.run([sys.executable, '-c', code, folder, tmp_path/'x.gguf'], preexec_fn=limit, text=True,
                          capture_output=True)
    assert 'cannot write' in done.stderr.splitlines()[-1] and 'disk is full' in done.stderr
    assert [o.name for o in tmp_path.iterdir()] == ['model']

def test_what_is_no_gguf_file(tmp_path):
    file = tmp_path/'x.gguf'
    file.write_bytes(b'GGUF' + bytes(100))
    with pytest.raises(PrunebookError, match='cannot load'): llama_scores(file, [3, 4, 5])

def test_the_decoder_of_a_larger_model_is_mended_as_well(tmp_path):
    "Gemma 3 from 4B on: the kinds of layers and the scale stand in text_config"
    src = save(tmp_path/'src', AutoModelForImageTextToText.from_config(AutoConfig.for_model(
        'gemma3', vision_config=_tower, text_config=SHAPE | dict(
            num_hidden_layers=12, hidden_size=64, head_dim=16, num_key_value_heads=2, sliding_window=8,
            query_pre_attn_scalar=64, initializer_range=.25)), dtype=torch.float32))
    folder = prune_checkpoint(src, tmp_path/'out', [4, 5], progress=False)
    made = export_gguf(folder, tmp_path/'x.gguf', 'f16', tokenizer=False)
    assert made['difference'] < .01 and made['same_top'] > .95

def test_a_window_that_is_not_kept_shows_in_the_tokens_beyond_it(tmp_path):
    "64 of 1,064 tokens: a mean over all of them would be within the tolerance"
    folder = save(tmp_path/'m', tiny('mistral', 2, sliding_window=1000, max_position_embeddings=4096,
                                     initializer_range=.3))
    with pytest.raises(PrunebookError, match='full attention there'):
        export_gguf(folder, tmp_path/'x.gguf', 'f16', tokenizer=False)
    assert not (tmp_path/'x.gguf').exists()

def test_without_its_sliding_layers_gemma2_slides_nowhere(tmp_path):
    model = tiny('gemma2', 8, head_dim=8, num_key_value_heads=2, sliding_window=8, query_pre_attn_scalar=8,
                 initializer_range=.3)
    made = export_gguf(save(tmp_path/'m', prune_model(model, [0, 2, 4, 6])), tmp_path/'x.gguf', 'f32', tokenizer=False)
    assert made['difference'] < .001

def test_what_export_mends_transformers_would_not_read_back(tmp_path):
    "The kinds of the layers are in the file, and `load_model` does not pass over them"
    made = tmp_path/'x.gguf'
    model = tiny('gemma3_text', 12, sliding_window=8)
    to_gguf(save(tmp_path/'m', prune_model(model, [4, 5])), made, 'f32', tokenizer=False)
    with pytest.raises(PrunebookError, match='the kind of each layer'):
        _check_gguf(made, AutoConfig.from_pretrained(tmp_path, gguf_file='x.gguf'))
