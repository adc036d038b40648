"Loading a model: names, folders, GGUF files, tokenizers that do not fit, and what a stranger's files may not do."
import json, os, re, traceback
import gguf, numpy as np, pytest, torch
from prunebook import PrunebookError, heal_checkpoint, load_model, prune_model, reproduce, save_pruned
from prunebook.cli import main
from prunebook.estimates import model_size
from prunebook.model import loading as models
from prunebook.model.loading import find_model, load_config, load_tokenizer, own_type
from prunebook.model.stack import LayerStack
from prunebook.pruning.checkpoint import check_checkpoint, checkpoint_folder
from support import architectures
from support.assets import tiny_gguf
from support.checkpoints import Bomb
from support.tiny import save, tiny, word_tokenizer

TOKEN = 'hf_' + 'aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bD2fG4h'

# types

@pytest.mark.parametrize('slow, dtype', [(True, torch.float32), (False, torch.bfloat16)])
def test_a_cpu_without_16_bit_arithmetic_computes_in_32(slow, dtype, monkeypatch):
    "Unless asked otherwise; and the model is saved in the checkpoint's type"
    monkeypatch.setattr(models, 'slow_in_16_bits', lambda device='cpu': slow)
    model, _ = load_model('demo')
    assert model.dtype == dtype and model.config.dtype == own_type(model).dtype == torch.bfloat16
    assert load_model('demo', dtype='bfloat16')[0].dtype == load_model('demo', torch_dtype='bfloat16')[0].dtype \
        == torch.bfloat16

CONTRADICTIONS = [(dict(dtype='float16', bits=16), 'bits=16.*bfloat16'), (dict(dtype='bfloat16', bits=32), 'float32'),
                  (dict(bits=16), "dtype='bfloat16'"), (dict(bits=32), "dtype='float32'"), (dict(bits=3), 'None, 4, 8'),
                  (dict(bits=4, quantization_config=dict(load_in_8bit=True)), 'bits=4.*quantization_config'),
                  (dict(dtype='float32', torch_dtype='float16'), 'float32.*float16'),
                  (dict(torch_dtype='int7'), 'int7')]

@pytest.mark.parametrize('given, says', CONTRADICTIONS)
def test_types_that_contradict_each_other_are_refused(given, says, monkeypatch):
    def loaded(*args, **kwargs): raise AssertionError('the weights were loaded first')
    monkeypatch.setattr('transformers.AutoModelForCausalLM.from_pretrained', loaded)
    with pytest.raises(PrunebookError, match=says): load_model('demo', **given)

@pytest.mark.parametrize('bits', [16, 32])
def test_healing_and_reproducing_know_these_bits_too(bits, tmp_path):
    "As those of a recipe, and not beside another type"
    other = {16: 'float16', 32: 'bfloat16'}[bits]
    with pytest.raises(PrunebookError, match=f'bits={bits}.*{other}'):
        reproduce(out=tmp_path/'run', bits=bits, dtype=other, progress=False)
    with pytest.raises(PrunebookError, match=f'bits={bits}'): heal_checkpoint('demo', tmp_path/'out', ['x'], bits=bits)
    with pytest.raises(PrunebookError, match='bits=3.*4, 16 or 32'): reproduce(out=tmp_path/'run', bits=3)
    assert not list(tmp_path.iterdir())

# names

ASKS = dict(find_model=find_model, load_config=load_config, load_tokenizer=load_tokenizer, load_model=load_model,
            model_size=model_size, checkpoint_folder=checkpoint_folder)

@pytest.mark.parametrize('ask', ASKS)
def test_a_folder_does_not_hide_a_model_of_the_hub(ask, tmp_path, monkeypatch):
    "Of the organisation's name, as downloads leave it. What is there, and what can be no id, is not asked for"
    asked = []
    def gives_none(name, **how):
        asked.append(name)
        raise PrunebookError('the hub gives none')
    monkeypatch.setattr(models, '_check_hub', gives_none)
    monkeypatch.chdir(tmp_path)
    (tmp_path/'Qwen'/'here').mkdir(parents=True)
    (tmp_path/'Qwen'/'weights.bin').touch()
    for name in ('Qwen/Qwen2.5-0.5B', 'Qwen/Qwen2.5-0.5B-GGUF/q8.gguf'):
        with pytest.raises(PrunebookError, match='the hub gives none'): ASKS[ask](name)
    assert asked == ['Qwen/Qwen2.5-0.5B', 'Qwen/Qwen2.5-0.5B-GGUF']
    for name, says in (('Qwen/two words', 'no such file or folder'), ('Qwen/-x', 'no such file or folder'),
                       ('./Qwen/x', 'no such file or folder'), ('Qwen/here/x', 'no such file or folder'),
                       ('Qwen/here/x.gguf', 'no such file or folder'), ('Qwen/weights.bin', 'a file, but no .gguf')):
        with pytest.raises(PrunebookError, match=says): ASKS[ask](name)
    assert len(asked) == 2 and find_model('Qwen/here') == ('Qwen/here', None)

@pytest.mark.parametrize('ask', [o for o in ASKS if o != 'checkpoint_folder'])
def test_options_that_would_change_nothing_are_refused(ask):
    "Such as a misspelt revision, with which another one would be read"
    with pytest.raises(PrunebookError, match='revison'): ASKS[ask]('demo', revison='main')

def test_what_is_exact_stays_exact_in_the_own_type(monkeypatch):
    "What transformers keeps in float32, and rotary frequencies, which no file holds"
    model = tiny()
    model.config.dtype, rotary = torch.bfloat16, LayerStack(model).decoder.rotary_emb
    monkeypatch.setattr(model, '_keep_in_fp32_modules_strict', {'up_proj.weight'})
    before = rotary.inv_freq.clone()
    types = {k: o.dtype for k, o in own_type(model).state_dict().items()}
    assert {k: torch.float32 if 'up_proj' in k else torch.bfloat16 for k in types} == types
    assert torch.equal(rotary.inv_freq, before)
    model = architectures.tiny('lfm2_moe')  # its class makes these in float32, and says so nowhere else
    model.config.dtype = torch.bfloat16
    types = {k: o.dtype for k, o in own_type(model).state_dict().items()}
    assert {k for k, o in types.items() if o == torch.float32} == {k for k in types if 'expert_bias' in k} != set()

def test_a_folder_of_quantised_weights_is_loaded_on_a_slow_cpu(tmp_path, monkeypatch):
    pytest.importorskip('bitsandbytes')
    save(tmp_path/'m', tiny(hidden_size=64), word_tokenizer())
    model, tok = load_model(tmp_path/'m', bits=4)
    save(tmp_path/'four', model, tok)
    monkeypatch.setattr(models, 'slow_in_16_bits', lambda device='cpu': True)
    assert load_model(tmp_path/'four')[0].is_loaded_in_4bit

# GGUF

def test_a_gguf_file_is_an_ordinary_model(tmp_path):
    model, tok = load_model(tiny_gguf(tmp_path/'m.gguf'))
    assert model.config._attn_implementation
    assert not model.training
    assert tok('ab')['input_ids'] == [94]
    assert model.config.tie_word_embeddings and not hasattr(model, 'quantization_method')
    before = model(torch.tensor([[5, 6, 7]])).logits
    model.save_pretrained(tmp_path/'saved')
    tok.save_pretrained(tmp_path/'saved')
    again, _ = load_model(str(tmp_path/'saved'), dtype=model.dtype)
    assert torch.equal(again(torch.tensor([[5, 6, 7]])).logits, before)
    save_pruned(prune_model(model, [1]), tok, tmp_path/'beside')  # the file, which is all that is read
    LayerStack(again).cut([1])
    again.save_pretrained(tmp_path/'small')
    assert json.loads((tmp_path/'small'/'config.json').read_text())['num_hidden_layers'] == 1
    wide, ids = load_model(str(tmp_path/'m.gguf'), dtype='float32')[0], torch.tensor([[5, 6, 7]])
    wide(ids, labels=ids).loss.backward()
    assert wide.dtype == torch.float32 and all(p.grad is not None for p in wide.parameters())
    with pytest.raises(PrunebookError, match='bits=4'): load_model(str(tmp_path/'m.gguf'), bits=4)

def test_what_needs_a_checkpoint_says_how_a_gguf_file_becomes_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_gguf(tmp_path/'m.gguf')
    for o in ('prune m.gguf out --drop 1', 'shrink m.gguf out', 'export m.gguf x.gguf'):
        assert main(o.split()) == 2 and (said := capsys.readouterr().err).count('save_pretrained') == 2
    exec(re.search(r'model, tok = .*(?=\. Then)', said)[0].replace('FOLDER', '"whole"'), dict(load_model=load_model))
    assert main(['prune', 'whole', 'out', '--drop', '1', '--no-progress']) == 0 and check_checkpoint('out') == []
    capsys.readouterr()
    assert main(['prune', '--help']) == 0 and '.gguf' not in capsys.readouterr().out

@pytest.mark.parametrize('output, tied', [('same', True), ('other', False)])
def test_a_matrix_stored_twice_is_tied_again_if_it_is_the_same(output, tied, tmp_path):
    model, _ = load_model(tiny_gguf(tmp_path/'m.gguf', output=output))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings == tied
    model.save_pretrained(tmp_path/'saved')
    from safetensors import safe_open
    with safe_open(tmp_path/'saved'/'model.safetensors', 'pt') as f: assert ('lm_head.weight' in f.keys()) != tied

@pytest.mark.parametrize('made, says', [
    (dict(architecture='nothing'), 'cannot read this GGUF file'), (dict(tokenizer=False), 'cannot read this GGUF file'),
    (dict(without=['output_norm']), 'weights are missing')])
def test_gguf_files_that_cannot_be_read(made, says, tmp_path):
    with pytest.raises(PrunebookError, match=says) as e: load_model(str(tiny_gguf(tmp_path/'m.gguf', **made)))
    assert '\n' not in str(e.value) and e.value.__cause__ is None

# weights and tokenizers

def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    "transformers would fill them with random numbers"
    config = json.loads((save(tmp_path/'m', tiny(layers=2))/'config.json').read_text())
    (tmp_path/'m'/'config.json').write_text(json.dumps(config | dict(num_hidden_layers=3)))
    with pytest.raises(PrunebookError, match=r'such as model\.layers\.2'): load_model(str(tmp_path/'m'))

def test_a_folder_with_the_tokenizer_of_another_model_is_refused(tmp_path):
    save(tmp_path/'m', tiny(vocab_size=4000), word_tokenizer())
    with pytest.raises(PrunebookError, match='has 99 tokens and the model 4,000'): load_model(str(tmp_path/'m'))
    save(tmp_path/'n', tiny(vocab_size=50), word_tokenizer())
    with pytest.raises(PrunebookError, match='has 99 tokens and the model only 50'): load_model(str(tmp_path/'n'))

def test_a_token_to_pad_with_that_has_no_row_is_replaced(tmp_path):
    tok = word_tokenizer()
    tok.add_special_tokens(dict(pad_token='[PAD]'))
    save(tmp_path/'m', tiny(), tok)
    assert load_model(str(tmp_path/'m'))[1].pad_token_id == tok.eos_token_id

# strangers

REMOTE = dict(model_type='evil', architectures=['Evil'], num_hidden_layers=6,
              auto_map=dict(AutoConfig='evil.Config', AutoModelForCausalLM='evil.Evil'))

def test_code_of_a_model_is_run_only_when_asked_and_said(tmp_path, monkeypatch, caplog):
    (tmp_path/'m').mkdir()
    (tmp_path/'m'/'config.json').write_text(json.dumps(REMOTE))
    (tmp_path/'m'/'evil.py').write_text(f"open({str(tmp_path/'pwned')!r}, 'w')\nraise ImportError('ran')\n")
    monkeypatch.setattr('builtins.input', lambda *a: 'y')  # a terminal, or `yes |`, that agrees to everything
    with pytest.raises(PrunebookError): load_model(str(tmp_path/'m'))
    assert not (tmp_path/'pwned').exists() and 'will be run' not in caplog.text
    with pytest.raises(PrunebookError): load_model(str(tmp_path/'m'), trust_remote_code=True)
    assert 'will be run' in caplog.text and (tmp_path/'pwned').exists()

def test_pickles_run_nothing(tmp_path):
    save(tmp_path/'m', tiny(), word_tokenizer())
    (tmp_path/'m'/'model.safetensors').unlink()
    torch.save({'model.norm.weight': Bomb(str(tmp_path/'pwned'))}, tmp_path/'m'/'pytorch_model.bin')
    with pytest.raises(PrunebookError): load_model(str(tmp_path/'m'))
    assert not (tmp_path/'pwned').exists()

@pytest.mark.parametrize('secret', [TOKEN, 'a-token-of-no-form'])
def test_a_token_in_an_upstream_message_stays_inside(secret, monkeypatch):
    import transformers
    def fail(*args, **kw):
        raise OSError(f'401 Client Error: token {kw.get("token") or os.environ["HF_TOKEN"]} is not allowed\nmore')
    monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', fail)
    monkeypatch.setattr('huggingface_hub.HfApi.model_info', lambda *args, **kw: None)  # the hub answers
    with pytest.raises(PrunebookError, match='401') as e: load_model('org/gated', token=secret)
    assert secret not in ''.join(traceback.format_exception(e.value)), 'nor in the traceback'
    monkeypatch.setenv('HF_TOKEN', secret)
    with pytest.raises(PrunebookError, match='401') as e: load_model('org/gated')
    assert secret not in ''.join(traceback.format_exception(e.value))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.HfApi.model_info', fail)  # nor does it in the first question to the hub
    with pytest.raises(PrunebookError, match='401') as e: load_model('org/gated', token=secret)
    assert secret not in ''.join(traceback.format_exception(e.value))

def test_silent_without_progress(capfd):
    load_model('demo', progress=False)
    assert capfd.readouterr() == ('', '')

def test_a_gguf_file_is_read_without_a_bar(tmp_path, capfd):
    load_model(tiny_gguf(tmp_path/'m.gguf'), progress=False)
    assert capfd.readouterr() == ('', '')

@pytest.mark.parametrize('extra, says', [
    (lambda w: w.add_tensor('rope_freqs.weight', np.full(2, 8, np.float32)), 'a table of rotary frequencies'),
    (lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(8.)),
     'scaled rotary angles'),
    (lambda w: w.add_array('llama.attention.sliding_window_pattern', [True, False]), 'the kind of each layer')])
def test_what_transformers_would_pass_over_in_a_gguf_file_is_refused(extra, says, tmp_path, monkeypatch):
    class Writer(gguf.GGUFWriter):
        def __init__(self, *args, **kw):
            super().__init__(*args, **kw)
            extra(self)
    with monkeypatch.context() as m:
        m.setattr(gguf, 'GGUFWriter', Writer)
        file = tiny_gguf(tmp_path/'x.gguf')
    with pytest.raises(PrunebookError, match=f'transformers would pass over {says}'): load_model(str(file))
