"Agreement with the parent and KL, against a naive computation, in `evaluate`, in runs and sweeps, and by command."
import json, math
import pytest, torch
from prunebook import PrunebookError, SweepConfig, compare, evaluate, prune_model, read_run, sweep
from prunebook.cli import main
from prunebook.evaluation.losses import _compare_heads, _tokenize_documents, divergence
from prunebook.evaluation.scores import ParentScore, load_score
from prunebook.evaluation.tasks import DivergenceTask
from prunebook.paper.runs import kept_score
from prunebook.model.stack import LayerStack
from support.tiny import letter_texts, letter_tokenizer, save, texts, tiny, word_tokenizer

WIDE = dict(initializer_range=.3)  # random models whose predictions differ


def naive(model, parent, rows, first=1):
    "(agreeing places, nats) of each row, from the logits of whole rows in float64"
    out = []
    for o in rows:
        ids = torch.tensor([o])
        with torch.no_grad(): q, p = (m(ids).logits[0, first - 1:-1].double() for m in (model, parent))
        logq, logp = q.log_softmax(-1), p.log_softmax(-1)
        out.append((int((q.argmax(-1) == p.argmax(-1)).sum()), float((logp.exp() * (logp - logq)).sum())))
    return zip(*out)


@pytest.mark.parametrize('kind', ['llama', 'gemma2', 'gpt2', 'gemma3_text', 'mixtral'])
@pytest.mark.parametrize('batch_tokens', [1, 10**6])
def test_the_naive_computation(kind, batch_tokens):
    "Documents of unequal length, in one batch and one by one; Gemma 2 caps its logits"
    parent, tok = tiny(kind, layers=4, **WIDE), word_tokenizer()
    small, docs = prune_model(parent, [1, 2]), texts(9)
    found = divergence(small, parent, tok, docs, batch_tokens=batch_tokens, progress=False)
    same, nats = naive(small, parent, tok(docs)['input_ids'])
    a, kl = found['agreement'], found['kl']
    assert a.sums == list(same) and 0 < a.value < 1
    assert kl.sums == pytest.approx(nats, abs=1e-6 * sum(kl.counts), rel=1e-6)
    assert kl.value == pytest.approx(sum(kl.sums) / sum(kl.counts), abs=1e-12)
    assert a.counts == [len(o) - 1 for o in tok(docs)['input_ids']] and a.items == kl.items
    assert a.low < a.value < a.high and kl.low < kl.value < kl.high and a.baseline == 1 / 99


def test_logits_of_a_few_places_at_a_time(monkeypatch):
    "Never more than a chunk of logits, and the same result for every chunk"
    model, parent, seen = tiny(layers=2, **WIDE), tiny(layers=2, seed=1, **WIDE), []
    stacks, x = (LayerStack(model), LayerStack(parent)), torch.randn(50, 32)
    plain = LayerStack.logits

    def watched(self, hidden):
        seen.append(len(hidden))
        return plain(self, hidden)
    monkeypatch.setattr(LayerStack, 'logits', watched)
    with torch.no_grad(): few, all_at_once = (_compare_heads(*stacks, x, x, chunk=c) for c in (700, 10**6))
    assert max(seen[:-2]) == 7 and seen[-2:] == [50, 50]
    assert torch.equal(few[0], all_at_once[0]) and torch.allclose(few[1], all_at_once[1], atol=1e-6)


def test_a_chat_template_does_not_count():
    parent, tok = tiny(layers=3, **WIDE), word_tokenizer()
    tok.chat_template = "{% for m in messages %}w1 w2 {{ m['content'] }} w3{% endfor %}"
    small, docs = prune_model(parent, [1]), [*texts(4), ' ']
    found = divergence(small, parent, tok, docs, progress=False, chat=True)
    toks, first = _tokenize_documents(LayerStack(parent), tok, docs, 512, chat=True)
    rows = toks.ids
    assert first == rows[0].index(tok('w2')['input_ids'][0]) + 1
    same, nats = naive(small, parent, rows, first)
    assert found['agreement'].sums == list(same) and found['agreement'].skipped == [4]
    assert found['kl'].sums == pytest.approx(nats, abs=1e-4) and found['kl'].chat


def test_what_cannot_be_compared():
    model, tok = tiny(layers=2), word_tokenizer()
    with pytest.raises(PrunebookError, match='the parent is the model itself'): divergence(model, model, tok, texts(2))
    other = tiny(layers=2, vocab_size=101)
    with pytest.raises(PrunebookError, match='vocabulary of 99 tokens and the parent one of 101'):
        divergence(model, other, tok, texts(2), progress=False)
    broken = tiny(layers=2)
    with torch.no_grad(): broken.model.norm.weight.fill_(math.nan)
    with pytest.raises(PrunebookError, match='is not a number'):
        divergence(broken, model, tok, texts(2), progress=False)


# evaluate

@pytest.fixture
def pair():
    parent = tiny(layers=4, **WIDE)
    return prune_model(parent, [1, 2]), parent


def test_tasks_share_one_pass(pair, monkeypatch, tmp_path):
    small, parent = pair
    tok, calls = word_tokenizer(), []
    own = [DivergenceTask(f'my_{k}', k, texts(6), scoring=k) for k in ('agreement', 'kl')]
    plain = divergence

    def counted(*args, **kwargs):
        calls.append(args)
        return plain(*args, **kwargs)
    monkeypatch.setattr('prunebook.evaluation.losses.divergence', counted)
    scores = evaluate(small, tok, own, parent=parent, progress=False, save=tmp_path, max_length=9)
    assert len(calls) == 1 and {k: o.task for k, o in scores.items()} == {o.name: o.name for o in own}
    assert max(scores['my_kl'].counts) == 8
    assert load_score(tmp_path/'my_kl.json') == scores['my_kl'] and 'nats/token' in repr(scores['my_kl'])
    assert list(scores.to_frame().metric) == ['agreement', 'kl']


def test_the_parent_is_needed_before_any_work(pair):
    with pytest.raises(PrunebookError, match='the parent is the model itself'):
        evaluate(pair[0], word_tokenizer(), ['kl'], parent=pair[0])


def test_a_paired_comparison(pair):
    small, parent = pair
    tok, docs = word_tokenizer(), texts(8)
    one, two = (divergence(m, parent, tok, docs, progress=False) for m in (small, prune_model(parent, [1])))
    c = compare(one['kl'], two['kl'], resamples=200)
    assert c.difference == pytest.approx(two['kl'].value - one['kl'].value) and c.low <= c.difference <= c.high
    with pytest.raises(PrunebookError, match='not of the same items'): compare(one['kl'], two['agreement'])


# runs

def swept(tmp_path, **kw):
    docs = tmp_path/'docs.txt'
    docs.write_text('\n\n'.join(texts(6)))
    model, tok = tiny(layers=4, **WIDE), word_tokenizer()
    config = SweepConfig(**dict(strategies=['simple'], ns=[1, 2], tasks=['c4', 'agreement', 'kl'],
                                sources=dict.fromkeys(['c4', 'agreement', 'kl'], str(docs))) | kw)
    return model, tok, config, sweep(model, tok, config, tmp_path/'run', progress=False)


def test_a_sweep_keeps_both(tmp_path):
    model, tok, config, table = swept(tmp_path)
    rows = table.set_index(['task', 'n'])
    assert list(rows.loc['agreement'].index) == [0, 1, 2] and rows.loc[('agreement', 0), 'value'] == 1
    assert rows.loc[('kl', 0), 'value'] == 0 and rows.loc[('kl', 2), 'value'] > 0
    docs = (tmp_path/'docs.txt').read_text().split('\n\n')
    want = evaluate(prune_model(model, [1, 2]), tok, ['agreement', 'kl'], sources=config.sources, parent=model,
                    progress=False)
    for k in want:
        assert rows.loc[(k, 2), 'value'] == pytest.approx(want[k].value, rel=1e-6)
        assert rows.loc[(k, 2), 'count'] == len(want[k].sums) <= len(docs)
    read = read_run(tmp_path/'run')
    assert read[read.task == 'kl'].max_length.tolist() == [512] * 3
    assert read[read.task != 'c4'].k.isna().all()


def test_scores_come_back_as_they_were(tmp_path):
    model, tok, config, _ = swept(tmp_path, ns=[2])
    read = read_run(tmp_path/'run')
    for k in ('agreement', 'kl'):
        row = read[(read.task == k) & (read.n == 2)].iloc[0]
        back = kept_score(tmp_path/'run', row)
        assert isinstance(back, ParentScore) and back.scoring == k and back.value == row.value
        assert sum(back.sums) / sum(back.counts) == pytest.approx(back.value)
    again = sweep(model, tok, config, tmp_path/'run', progress=False)
    assert len(again) == 6, 'nothing is computed twice'


# command line

def test_the_command(tmp_path, capsys):
    parent = tiny(layers=4, **WIDE)
    tok = letter_tokenizer()
    one, two = (str(save(tmp_path/k, m, tok)) for k, m in dict(one=prune_model(parent, [1]), two=parent).items())
    docs = tmp_path/'docs.jsonl'
    docs.write_text(''.join(json.dumps(dict(text=o)) + '\n' for o in letter_texts(5)))
    base = ['evaluate', one, '--judge-texts', str(docs), '--no-progress', '--json']
    assert main([*base, '--parent', two]) == 0
    rows = json.loads(capsys.readouterr().out)['scores']
    assert [o['metric'] for o in rows] == ['loss', 'agreement', 'kl'] and rows[2]['value'] > 0
    assert main([*base, '--parent', two, '--tasks', 'kl']) == 0
    assert json.loads(capsys.readouterr().out)['scores'][0]['value'] == pytest.approx(rows[2]['value'])
    assert main([*base, '--tasks', 'agreement']) == 2 and '--parent MODEL' in capsys.readouterr().err
    assert main([*base, '--parent', str(tmp_path/'none')]) == 2
