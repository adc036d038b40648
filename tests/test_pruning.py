"Which layers, and cuts in memory: the right layers, a sound model, and its argument as it was."
import re, subprocess, sys
from dataclasses import replace
from itertools import combinations
import numpy as np, pytest, torch
from transformers import AutoModelForCausalLM
from support import architectures
from support.tiny import save, tiny, word_tokenizer
from test_conversations import tiny_chat
from prunebook.pruning.checkpoint import save_pruned
from prunebook.core import PrunebookError
from prunebook.data.texts import answer_row
from prunebook.evaluation.losses import CutLosses, answer_cut_losses, loss_map, text_cut_losses, text_loss
from prunebook.pruning.budget import LayerSizes
from prunebook.model.configs import check_quantization
from prunebook.pruning.strategies import STRATEGIES, Plan, as_plan, choose_layers, prune_model
from prunebook.similarity.distances import LayerDistances
from prunebook.model.stack import Block, LayerStack, fingerprint

ids = torch.arange(3, 15)[None]

def table(depth=10, best=3):
    "Distances whose best block of two layers is known"
    d = np.full((depth + 1, depth + 1), .9)
    for i in range(depth): d[i, i+1] = .1 + .01 * ((i * 7) % depth)
    d[best, best+2] = .2
    return LayerDistances(d, np.zeros_like(d), 10)

# strategies

def test_strategies_by_hand():
    def pick(s, n=2, **kw): return choose_layers(s, n=n, depth=10, **kw).layers
    assert pick('keep_last', k=0) == (8, 9) and pick('keep_last', k=3) == (5, 6)
    assert pick('similarity', distances=table()) == (3, 4)
    assert pick('block_influence', n=3, distances=table()) == (0, 3, 6)
    assert choose_layers([7, 2], depth=10).layers == choose_layers(Block(2, 6), depth=10).layers[::5] == (2, 7)
    assert {pick('random', seed=s) for s in range(200)} == {(i, i + 1) for i in range(9)}
    assert pick('simple', n=9) == tuple(range(9))
    assert pick('middle', n=3) == (3, 4, 5)  # three before it and four behind

def test_a_plan_leaves_a_layer():
    with pytest.raises(PrunebookError, match='all 4 layers'): Plan(range(4), 4)

def test_the_record_names_no_folder():
    model = tiny(layers=4)
    model.config._name_or_path = '/home/somebody/private/mine'
    assert prune_model(model, [1]).config.prunebook['source'] == 'mine'

def test_searches_find_the_result_of_trying_everything():
    model = tiny(layers=6)
    with torch.no_grad():
        target = model(ids).logits
        def loss(m): return float((m(ids).logits - target).square().mean())
        by_hand = {s: loss(prune_model(model, range(s, s + 2))) for s in range(5)}
        best = choose_layers('best_loss', n=2, model=model, loss=loss, progress=False)
        greedy = choose_layers('greedy', n=3, model=model, loss=loss, progress=False)
        keep = list(range(6))
        for i, value in zip(greedy.details['order'], greedy.details['losses']):
            tried = {o: loss(prune_model(model, [j for j in range(6) if j not in keep or j == o])) for o in keep}
            assert i == min(tried, key=tried.get)
            assert value == pytest.approx(tried[i])
            keep.remove(i)
    assert best.layers[0] == min(by_hand, key=by_hand.get)
    assert best.details['losses'] == pytest.approx(list(by_hand.values()))
    assert len(LayerStack(model)) == 6

@pytest.mark.parametrize('how, says', [
    (dict(n=.25), 'share=0.25'), (dict(n=10), 'from 1 to 9'), (dict(strategy='luck'), 'There are similarity'),
    (dict(strategy='block_influence'), 'needs distances'), (dict(strategy=[3, 30]), '0 to 9'),
    (dict(shrae=.2, depth=None), 'no option shrae'),
    (dict(strategy='block_influence', distances=replace(table(), info=dict(measure='norm'))), "'norm' does not"),
    (dict(strategy=[3], n=2), 'n=2'), (dict(share=.2), 'share=0.2'), (dict(n=None, share=1.5), 'share=1.5'),
    (dict(depth=None), 'number of layers is not known'), (dict(distances=table(7)), '7 layers and the model has 10')])
def test_choices_that_cannot_be_made(how, says):
    with pytest.raises(PrunebookError, match=says): choose_layers(**dict(strategy='simple', n=2, depth=10) | how)

@pytest.mark.parametrize('depth', [2, 3, 8, 24, 30, 49, 126])
def test_a_share_of_less_than_a_layer_or_of_all_says_which_shares_are_allowed(depth):
    "The least and the most that the message names drop one layer, and all but one"
    for share, n in ((.4 / depth, 1), (1e-9, 1), ((depth - .4) / depth, depth - 1)):
        with pytest.raises(PrunebookError, match=f'^share={share}: .*{depth} layers') as e:
            choose_layers('simple', share=share, depth=depth)
        least, most = map(float, re.search(r'from ([.\d]+) to ([.\d]+)', str(e.value)).groups())
        assert len(choose_layers('simple', share=least, depth=depth)) == 1
        assert len(choose_layers('simple', share=most, depth=depth)) == depth - 1
        with pytest.raises(PrunebookError): choose_layers('simple', share=least - 1e-3, depth=depth)

def test_equal_plans_are_one_key_of_a_dict():
    a, b = (choose_layers('block_influence', 3, distances=table()) for _ in range(2))
    c = replace(a, details=a.details | dict(order=[6, 3, 0]))
    assert a == b
    assert hash(a) == hash(b)
    assert {a: 1}[b] == 1
    assert a != c and {a: 1, c: 2} == {c: 2, b: 1}
    assert len({choose_layers([i], depth=4) for i in (0, 1, 1)}) == 2
    assert hash(as_plan(np.array([1]), 4)) == hash(as_plan('1', 4))
    assert len({*STRATEGIES.values()}) == len(STRATEGIES)

def test_the_last_layer_has_a_name():
    assert as_plan('2-3', 4) == as_plan('2:4', 4) == as_plan([2, 3], 4)

def test_distances_and_a_model_belong_together(tiny_model, tmp_path):
    "Also as saved, beside the model as reloaded; the depth alone tells distances of a version without a fingerprint"
    models, own, other = [tiny_model, tiny(seed=1)], table(8), table(8)
    for o, model in zip((own, other), models): o.info['model_fingerprint'] = fingerprint(model)
    says = '.*'.join(o.info['model_fingerprint'] for o in (other, own))
    saved = own.load(own.save(tmp_path)), AutoModelForCausalLM.from_pretrained(save(tmp_path/'m', tiny_model))
    sound = [(own, tiny_model), saved, (table(8), tiny_model), (other, models[1])]
    for strategy in ('similarity', 'block_influence', 'middle', 'greedy'):
        for how in (dict(n=2), dict(share=.25), dict(params=7e4)):
            given = dict(strategy=strategy, loss=lambda m: 1., progress=False) | how
            for more in ({}, dict(depth=8)):
                with pytest.raises(PrunebookError, match=says):
                    choose_layers(distances=other, model=tiny_model, **given, **more)
            plan, *same = [choose_layers(distances=d, model=m, **given) for d, m in sound]
            assert same == [plan] * 3
    prune_model(tiny_model, plan)  # it stays as it was
    own.check_model(tiny_model)
    with pytest.raises(PrunebookError, match='10 layers and the model has 8'): table().check_model(tiny_model)

def test_distances_alone_need_no_model():
    other = table(8)
    other.info['model_fingerprint'] = '0' * 16
    assert choose_layers('similarity', 2, distances=other).layers == (3, 4)
    assert choose_layers('similarity', 2, distances=other, depth=8).layers == (3, 4)

def test_distances_are_compared_once(tiny_model, monkeypatch):
    "A fingerprint reads all weights, which may be offloaded"
    own, seen = table(8), []
    own.info['model_fingerprint'] = fingerprint(tiny_model)
    monkeypatch.setattr(LayerDistances, 'check_model', lambda self, model: seen.append(model))
    sizes = LayerSizes((10, 90) * 4, (10, 90) * 4, (10, 90) * 4, 0, 0, 0)
    choose_layers('block_influence', params=150, distances=own, model=tiny_model, sizes=sizes)
    assert seen == [tiny_model]

# by the answers

DEPTH, CALM = 6, dict(progress=False)

@pytest.fixture(scope='module')
def chat():
    "A random model whose layers matter, its tokenizer, and eight answers"
    tok = tiny_chat()[1]
    model = tiny('llama', DEPTH, initializer_range=.3, vocab_size=len(tok), max_position_embeddings=256)
    said = ['a', 'It is 4.', 'Yes, of course.', 'No.', 'Perhaps so.', 'Green, and blue.', 'x = 3', 'Good bye.']
    return model, tok, [talk(f'Question {i}?', o) for i, o in enumerate(said)]

def talk(asked, said): return dict(messages=[dict(role='user', content=asked), dict(role='assistant', content=said)])

def without(*cut): return [i for i in range(DEPTH) if i not in cut]

def added(model, tok, cut, rows):
    "What a really pruned model loses on the tokens of answers, one by one"
    def loss(m): return text_loss(m, tok, rows, loss_on='assistant', **CALM).value
    return loss(prune_model(model, cut)) - loss(model)

def test_the_loss_of_a_cut_is_that_of_a_pruned_model_on_the_tokens_of_answers(chat):
    model, tok, rows = chat
    cuts = [cut for n in (1, 2, 3) for cut in combinations(range(DEPTH), n)]
    found = answer_cut_losses(model, tok, rows, **CALM)([without(*o) for o in cuts], len(rows))
    assert found == pytest.approx([added(model, tok, o, rows) for o in cuts], abs=1e-4)
    text = tok.apply_chat_template(rows[1]['messages'], tokenize=False)
    ids = torch.tensor([tok(text, add_special_tokens=False)['input_ids']])
    start = len(tok(text[:text.index('It is 4.')], add_special_tokens=False)['input_ids'])
    with torch.no_grad(): logp = model(ids).logits[0, start - 1:-1].log_softmax(-1)
    own = text_loss(model, tok, rows[1:2], loss_on='assistant', **CALM)
    assert own.sums[0] == pytest.approx(-float(logp.gather(1, ids[0, start:, None]).sum()), rel=1e-4)
    whole = loss_map(model, tok, rows, loss_on='assistant', **CALM)
    assert whole.loss[2, 4] - whole.loss[0, 0] == pytest.approx(added(model, tok, (2, 3), rows), abs=1e-4)

@pytest.mark.parametrize('n', [1, 2, 3, 5])
def test_a_full_beam_is_brute_force(n, chat):
    model, tok, rows = chat
    plan = choose_layers('answers', n, model=model, tokenizer=tok, answers=rows, beam=99, **CALM)
    by_hand = {cut: added(model, tok, cut, rows) for cut in combinations(range(DEPTH), n)}
    assert plan.layers == min(by_hand, key=by_hand.get)
    assert plan.details['loss'] == pytest.approx(by_hand[plan.layers], abs=1e-4)
    for cut, loss in plan.details['candidates']: assert loss == pytest.approx(by_hand[tuple(cut)], abs=1e-4)
    again = choose_layers('answers', n, model=model, tokenizer=tok, answers=rows, beam=99, **CALM)
    assert again == plan

def test_the_search_holds_blocks_beside_single_layers():
    "One layer at a time would never drop the pair 2, 3, which costs nothing together and much alone"
    def losses(keeps, k):
        cuts = [tuple(sorted(set(range(DEPTH)) - set(o))) for o in keeps]
        return [0. if o == (2, 3) else sum({0: .1, 5: .2}.get(i, 1.) for i in o) for o in cuts]
    assert choose_layers('answers', 1, depth=DEPTH, losses=losses, beam=1).layers == (0,)
    assert choose_layers('answers', 2, depth=DEPTH, losses=losses, beam=1).layers == (2, 3)
    narrow = choose_layers('answers', 2, depth=DEPTH, losses=lambda keeps, k: [o[0] for o in keeps], beam=2)
    assert narrow.details['screened'] == 6 + 11 and narrow.details['judged'] == 2 + 2

def test_few_documents_screen_and_more_judge():
    "A cut that is best on few and not on more is not taken; what was measured is not measured again"
    asked = []
    def losses(keeps, k):
        asked.append((k, len(keeps)))
        return [(0 if 0 not in o else 1 if 1 not in o else 2) if k == 3 else 1 not in o and -1 or 0 for o in keeps]
    plan = choose_layers('answers', 1, depth=16, losses=losses, screen=3, judge=9)
    assert plan.layers == (1,) and asked == [(3, 16), (9, 2)]
    many = choose_layers('answers', 1, depth=40, losses=lambda keeps, k: [o[0] for o in keeps])
    assert many.details['judged'] == 5  # the best eighth

def test_documents_are_measured_once(chat, monkeypatch):
    model, tok, rows = chat
    losses, ran, real = answer_cut_losses(model, tok, rows, **CALM), [], CutLosses._measure
    def counted(self, keeps, texts):
        ran.append((len(keeps), len(texts)))
        return real(self, keeps, texts)
    monkeypatch.setattr(CutLosses, '_measure', counted)
    few = losses([without(1), without(2)], 3)
    more = losses([without(1), without(3)], 8)
    assert ran == [(3, 3), (2, 5), (1, 8)] or ran == [(3, 3), (1, 8), (2, 5)]
    assert losses([without(1), without(2)], 3) == few
    assert losses([without(1)], 8) == more[:1]
    assert len(ran) == 3
    assert losses([without(2)], 99) == pytest.approx([added(model, tok, (2,), rows)], abs=1e-4)

def test_texts_are_searched_alike(chat):
    "So the search and what it reads can be told apart"
    model, tok, rows = chat
    texts = ['Some words that are no answer.', 'And others, of another kind.', 'The end']
    plan = choose_layers('texts', 2, model=model, tokenizer=tok, texts=texts, beam=99, max_length=20, **CALM)
    def loss(m): return text_loss(m, tok, texts, 20, **CALM).value
    by_hand = {cut: loss(prune_model(model, cut)) - loss(model) for cut in combinations(range(DEPTH), 2)}
    assert plan.layers == min(by_hand, key=by_hand.get) and plan.strategy == 'texts'
    handed = text_cut_losses(model, tok, texts, 20, **CALM)
    assert choose_layers('texts', 2, depth=DEPTH, losses=handed, beam=99).layers == plan.layers

def test_answers_by_budget_and_what_may_go(chat):
    model, tok, rows = chat
    how = dict(model=model, tokenizer=tok, answers=rows, beam=99, **CALM)
    free = choose_layers('answers', 2, **how)
    params = prune_model(model, [0, 1]).num_parameters()
    assert choose_layers('answers', params=params, **how).layers == free.layers
    fits = lambda keep: free.layers[0] in keep
    held = choose_layers('answers', 2, allowed=fits, **how)
    by_hand = {cut: added(model, tok, cut, rows) for cut in combinations(range(DEPTH), 2) if fits(without(*cut))}
    assert held.layers == min(by_hand, key=by_hand.get)
    told = held.details['allowed']
    assert tuple(told['unrestricted']) == free.layers and told['loss']['chosen'] == held.details['loss']
    assert told['loss']['unrestricted'] == pytest.approx(free.details['loss'])
    with pytest.raises(PrunebookError, match='n=2: no block'): choose_layers('answers', 2, allowed=lambda k: 0, **how)

def test_what_is_wrong_with_answers_is_said_before_anything_is_measured(chat, monkeypatch):
    model, tok, rows = chat
    monkeypatch.setattr(CutLosses, '__call__', pytest.fail)
    def refused(says, n=2, tok=tok, **kw):
        with pytest.raises(PrunebookError, match=says):
            choose_layers('answers', n, **dict(model=model, tokenizer=tok, answers=rows, **CALM) | kw)
    written = dict(by='parent', parent='0123456789abcdef', model='other')
    refused('other with the fingerprint 0123456789abcdef', answers=[answer_row(rows[0]['messages'], **written)])
    own = answer_row(rows[0]['messages'], by='parent', parent=fingerprint(model))
    refused('answer 1 was edited', answers=[rows[2], own | dict(messages=rows[1]['messages'])])
    refused('1 of 2 answers have.*more than 256', answers=[rows[0], talk('Why?', 'Because. ' * 60)])
    refused('answer 0 .*no answer|answer 0 is', answers=['a text'])
    refused('does not end with an answer', answers=[dict(messages=rows[0]['messages'][:1])])
    refused('another chat template', answers=[answer_row(rows[0]['messages'], by='user', template='x')])
    refused('n=6', n=6)
    refused('needs answers', answers=None)
    refused('no option', max_length=5)
    refused('beam=0', beam=0)
    bare = tiny_chat()[1]
    bare.chat_template = None
    refused('chat template', tok=bare)

def test_the_rows_of_searches_need_no_later_room():
    code = """import sys
from prunebook import STRATEGIES
assert {'answers', 'texts'} <= {*STRATEGIES} and STRATEGIES['answers'].needs == ('model', 'tokenizer', 'answers')
assert not [o for o in sys.modules if o.startswith(('prunebook.evaluation', 'prunebook.healing'))]"""
    subprocess.run([sys.executable, '-c', code], check=True)

def test_layers_that_share_keys_and_values_are_measured_one_by_one():
    kinds = ['sliding_attention', 'full_attention'] * 4
    model = architectures.tiny('gemma4_text', num_kv_shared_layers=4, layer_types=kinds)
    losses = text_cut_losses(model, word_tokenizer(), ['w1 w2 w3 w4', 'w5 w6 w7'], **CALM)
    found = losses([[i for i in range(8) if i != l] for l in range(8)], 2)
    with LayerStack(model).view([*range(5), 6, 7]) as small: alone = text_loss(small, word_tokenizer(), losses.texts)
    assert found[5] == pytest.approx(alone.value - text_loss(model, word_tokenizer(), losses.texts).value, abs=1e-5)
    assert found[2:4] == [float('inf')] * 2, 'the layers whose keys and values others need'

# cuts in memory

def test_pruning_leaves_its_argument():
    model = tiny(layers=6, tie_word_embeddings=True)
    before, logits = model.config.to_json_string(), model(ids).logits
    a, b = prune_model(model, [1, 2]), prune_model(model, Block(3, 2))
    assert model.config.to_json_string() == before and torch.equal(model(ids).logits, logits)
    assert len(LayerStack(model)) == 6
    assert {p.data_ptr() for p in a.parameters()} < {p.data_ptr() for p in model.parameters()}
    assert not {id(m) for m in a.modules()} & {id(m) for m in model.modules()}
    assert a.get_input_embeddings().weight is a.lm_head.weight, 'tied weights stay tied'
    assert not torch.equal(a(ids).logits, b(ids).logits)
    c = prune_model(model, '1-2', inplace=True)
    assert c is model
    assert len(LayerStack(model)) == 4
    assert torch.equal(model(ids).logits, a(ids).logits)

def test_an_adapter_on_the_model_cannot_be_cut():
    from peft import LoraConfig, get_peft_model
    with pytest.raises(PrunebookError, match='adapter'):
        prune_model(get_peft_model(tiny(layers=2), LoraConfig(target_modules=['q_proj'])), [1])

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_types_and_generation_settings_survive(tmp_path, dtype):
    model = tiny(dtype=dtype)
    model.generation_config.temperature, model.generation_config.do_sample = .5, True
    save_pruned(prune_model(model, [2, 4]), word_tokenizer(), tmp_path/'out')
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'out')
    assert again.dtype == dtype and again.generation_config.temperature == .5

def test_four_bits(tmp_path):
    pytest.importorskip('bitsandbytes')
    from prunebook.model.loading import quantization
    save(tmp_path/'source', tiny(layers=6, hidden_size=64, head_dim=16))
    how = dict(quantization_config=quantization(4), device_map='cpu')
    model = AutoModelForCausalLM.from_pretrained(tmp_path/'source', **how)
    with LayerStack(model).view([0, 2, 5]) as view: want = view(ids).logits
    pruned = prune_model(model, [1, 3, 4])
    assert torch.equal(pruned(ids).logits, want)
    pruned.save_pretrained(tmp_path/'small')
    again = AutoModelForCausalLM.from_pretrained(tmp_path/'small', device_map='cpu')
    assert torch.allclose(again(ids).logits, want, atol=1e-5)

# quantised layers that are treated in a special way

names = [f'model.layers.{i}.mlp.{o}' for i in range(20) for o in ('gate', 'up')] + ['model.embed', 'lm_head']

@pytest.mark.parametrize('config', [
    dict(quant_method='gptq', dynamic={r'-:.*\.(?:1[0-9])\..*': {}}),
    dict(quant_method='compressed-tensors', config_groups=dict(a=dict(targets=[r're:.*[02468]\.mlp\.up']))),
    dict(quant_method='fp8', modules_to_not_convert=['model.layers.(0|1).mlp'])])
def test_patterns_for_single_layers_are_refused(config):
    with pytest.raises(PrunebookError, match='single layers'): check_quantization(config, names, 'model.layers')
    model = tiny(layers=20)
    model.config.quantization_config = config
    with pytest.raises(PrunebookError, match='single layers'): prune_model(model, [1])

def test_a_hostile_pattern_ends():
    for pattern in ('re:(a|aa|b*a)+$', 're:('):
        with pytest.raises(PrunebookError, match='unusable'):
            check_quantization(dict(ignore=[pattern]), ['model.layers.0.' + 'a' * 60 + '!'], 'model.layers')

@pytest.mark.parametrize('strategy', ['best_loss', 'greedy'])
def test_a_loss_that_is_not_a_number_is_not_the_smallest(strategy):
    losses = iter([float('nan'), 1., .5, 2.])
    with pytest.raises(PrunebookError, match='not a number'):
        choose_layers(strategy, 1, model=tiny(layers=4), loss=lambda model: next(losses), progress=False)

# layers that share keys and values: the last four of eight have none of their own, and read those of layers 2 and 3

@pytest.fixture(scope='module')
def sharing():
    "A random Gemma 4. Shared: a test that changes it works on a copy"
    kinds = ['sliding_attention', 'sliding_attention', 'full_attention'] * 2 + ['sliding_attention', 'full_attention']
    return architectures.tiny('gemma4_text', num_kv_shared_layers=4, layer_types=kinds)

@torch.no_grad()
def runs(model, keep):
    "Does it, without the other layers?"
    with LayerStack(model).view(keep) as small:
        try: return small(ids).logits.isfinite().all().item()
        except (KeyError, ValueError, AttributeError): return False

@pytest.mark.parametrize('strategy', ['best_loss', 'greedy'])
@pytest.mark.parametrize('error', [o('x') for o in (KeyError, ValueError, IndexError, RuntimeError, PrunebookError)])
def test_an_error_of_your_loss_is_yours(strategy, error, sharing):
    def loss(model): raise error
    with pytest.raises(type(error)) as e: choose_layers(strategy, 2, model=sharing, loss=loss, progress=False)
    assert e.value is error

@pytest.mark.parametrize('strategy', ['best_loss', 'greedy'])
def test_an_error_of_your_loss_at_some_cuts_is_yours(strategy, sharing):
    losses = iter([1., 2.])
    def loss(model): return next(losses, None) or {}['third']
    with pytest.raises(KeyError, match='third'): choose_layers(strategy, 2, model=sharing, loss=loss, progress=False)

def test_the_loss_is_infinite_where_a_layer_needs_one_that_is_gone(sharing):
    tried = []
    def loss(model): return float(tried.append(model.config.num_hidden_layers) or 1)
    for n in (1, 2, 3, 4):
        losses = choose_layers('best_loss', n, model=sharing, loss=loss, progress=False).details['losses']
        can = [runs(sharing, [i for i in range(8) if not o <= i < o + n]) for o in range(9 - n)]
        assert [o < float('inf') for o in losses] == can
        assert tried == [8 - n] * sum(can)
        tried.clear()
    plan = choose_layers('greedy', 7, model=sharing, loss=lambda model: 1., progress=False)
    gone = [plan.details['order'][:n] for n in range(1, 8)]
    assert all(runs(sharing, [i for i in range(8) if i not in o]) for o in gone)
    assert len(LayerStack(sharing)) == 8 and runs(sharing, range(8))

@pytest.mark.parametrize('strategy', ['best_loss', 'greedy'])
def test_where_every_loss_is_infinite_there_is_no_plan(strategy, sharing, tiny_model):
    for model in (sharing, tiny_model):
        with pytest.raises(PrunebookError, match='infinite'):
            choose_layers(strategy, 2, model=model, loss=lambda m: float('inf'), progress=False)
    def only(keep): return keep == [0, 1, 4, 5, 6, 7]  # without the two that the others read
    with pytest.raises(PrunebookError, match='only.* 2, none can go.*infinite'):
        choose_layers(strategy, 2, model=sharing, loss=lambda m: 1., allowed=only, progress=False)

def test_offloaded_weights_are_not_copied():
    from accelerate import cpu_offload
    model = tiny(layers=4)
    want = prune_model(model, [1])(ids).logits
    cpu_offload(model, execution_device=torch.device('cpu'))
    place = lambda m: m.model.layers[0].mlp.up_proj._hf_hook.weights_map['weight'].data_ptr()
    small = prune_model(model, [1])
    assert place(small) == place(model) and torch.equal(small(ids).logits, want)

def test_a_depth_that_is_not_the_models_is_refused(tiny_model):
    with pytest.raises(PrunebookError, match='depth gives 6 layers and the model has 8'):
        choose_layers('best_loss', 2, depth=6, model=tiny_model, loss=lambda m: 0.)
