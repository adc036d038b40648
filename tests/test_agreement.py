"Agreement with the parent and KL, against a naive computation, in `evaluate`, in runs and sweeps."
import pytest, torch
from prunebook import PrunebookError, SweepConfig, evaluate, prune_model, read_run, sweep
from prunebook.evaluation.losses import divergence
from prunebook.evaluation.tasks import TASKS
from support.tiny import texts, tiny, word_tokenizer

WIDE = dict(initializer_range=.3)  # random models whose predictions differ

def naive(model, parent, rows):
    "(agreeing places, nats) of each row, from the logits of whole rows in float64"
    out = []
    for o in rows:
        ids = torch.tensor([o])
        with torch.no_grad(): q, p = (m(ids).logits[0, :-1].double() for m in (model, parent))
        logq, logp = q.log_softmax(-1), p.log_softmax(-1)
        out.append((int((q.argmax(-1) == p.argmax(-1)).sum()), float((logp.exp() * (logp - logq)).sum())))
    return zip(*out)

@pytest.mark.parametrize('kind', ['llama', 'gemma2', 'gpt2', 'gemma3_text', 'mixtral'])
@pytest.mark.parametrize('batch_tokens', [1, 10**6])
def test_the_naive_computation(kind, batch_tokens):
    "Documents of unequal length, in one batch and one by one; Gemma 2 caps its logits"
    parent, tok = tiny(kind, layers=4, **WIDE), word_tokenizer()
    small, docs = prune_model(parent, [1, 2]), texts(9)
    found = divergence(small, tok, parent, docs, batch_tokens=batch_tokens, progress=False)
    same, nats = naive(small, parent, tok(docs)['input_ids'])
    a, kl = found['agreement'], found['kl']
    assert a.sums == list(same) and 0 < a.value < 1
    assert kl.sums == pytest.approx(nats, abs=1e-6 * sum(kl.counts), rel=1e-6)
    assert kl.value == pytest.approx(sum(kl.sums) / sum(kl.counts), abs=1e-12)
    assert a.counts == [len(o) - 1 for o in tok(docs)['input_ids']] and a.items == kl.items
    assert a.low < a.value < a.high
    assert kl.low < kl.value < kl.high
    assert a.baseline == 1 / 99

def test_another_vocabulary():
    with pytest.raises(PrunebookError, match='vocabulary of 99 tokens and the parent one of 101'):
        divergence(tiny(layers=2), word_tokenizer(), tiny(layers=2, vocab_size=101), texts(2), progress=False)

@pytest.mark.parametrize('name', ['agreement', 'kl'])
def test_a_task_of_two_models_needs_both(name):
    with pytest.raises(PrunebookError, match=f'{name}.*parent='): TASKS[name].score(tiny(), word_tokenizer(), texts())

def test_a_sweep_keeps_both(tmp_path):
    docs = tmp_path/'docs.txt'
    docs.write_text('\n\n'.join(texts(6)))
    model, tok, tasks = tiny(layers=4, **WIDE), word_tokenizer(), ['c4', 'agreement', 'kl']
    config = SweepConfig(strategies=['simple'], ns=[1, 2], tasks=tasks, sources=dict.fromkeys(tasks, str(docs)))
    rows = sweep(model, tok, config, tmp_path/'run', progress=False).set_index(['task', 'n'])
    assert list(rows.loc['agreement'].index) == [0, 1, 2] and rows.loc[('agreement', 0), 'value'] == 1
    assert rows.loc[('kl', 0), 'value'] == 0 and rows.loc[('kl', 2), 'value'] > 0
    want = evaluate(prune_model(model, [1, 2]), tok, ['agreement', 'kl'], sources=config.sources, parent=model,
                    progress=False)
    for k in want:
        assert rows.loc[(k, 2), 'value'] == pytest.approx(want[k].value, rel=1e-6)
        assert rows.loc[(k, 2), 'count'] == len(want[k].sums) <= 6
    read = read_run(tmp_path/'run')
    assert read[read.task == 'kl'].max_length.tolist() == [512] * 3
    assert read[read.task != 'c4'].k.isna().all()
