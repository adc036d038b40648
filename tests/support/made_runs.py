"Run folders of made scores, written by the library's own writer, with a truth that is known."
import json, math
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
import numpy as np
from prunebook.evaluation.scores import LossScore, Score, ratio_interval, wilson
from prunebook.healing.recipes import HealingConfig
from prunebook.paper.runs import _EMPTY, Run
from prunebook.similarity.distances import LayerDistances
from prunebook.paper.sweep import SweepConfig

DEPTH, x = 20, np.array([0, 1, 2, 3, 4, 6, 8, 10, 12, 14])
MODEL = dict(fingerprint='f00d', name='made/model', depth=DEPTH, parameters=1000, layer_parameters=[40] * DEPTH)
PLATEAU = np.where(x < 6, .8, np.maximum(.25, .8 - .14 * (x - 5)))

def distances(best, depth=DEPTH):
    "Distances whose best block of each size is `best(n)` by a clear margin; the last layer is far from everything"
    mean = np.zeros((depth + 1, depth + 1))
    for n in range(1, depth + 1):
        for l in range(depth - n + 1):
            mean[l, l + n] = mean[l + n, l] = .5 if l + n == depth else .1 + .01 * abs(l - best(n))
    return LayerDistances(mean, np.full_like(mean, .01 / math.sqrt(200)), 200, info=dict(model='made/model'))

class Made:
    "A run folder of made scores. `root` is its path; asking for it writes what was added since"
    def __init__(self, root):
        self._root, self.sweeps, self.scores, self.dirty = Path(root), {}, {}, True

    def config(self, name, **kw):
        "Begin a sweep: fields of `SweepConfig`; `healing` is a dict of changes to a short recipe"
        recipe = HealingConfig(**dict(steps=10, batch_size=4, max_length=64) | kw.pop('healing', {}))
        config = json.loads(json.dumps(asdict(SweepConfig(healing=recipe, **kw)), default=str))
        own = dict(config=config, dtype='torch.float32', plans={}, starts=[], healing={}, items={})
        self.sweeps[name] = dict(_EMPTY) | own
        self.dirty = True
        return self

    def add(self, sweep, score, strategy, n, healed=False, seed=0):
        "A score of a sweep that was begun"
        self.scores[sweep, strategy, int(n), bool(healed), int(seed), score.task] = score
        self.dirty = True
        return self

    def write(self):
        "Write the folder anew"
        for name in ('run.json', 'results.csv', 'items.parquet'): (self._root/name).unlink(missing_ok=True)
        with Run(self._root, MODEL) as run:
            for name, record in self.sweeps.items(): run.note(name, **record)
            run.add_all([(k, s, range(k[2])) for k, s in self.scores.items()])
        self.dirty = False
        return self

    @property
    def root(self):
        if self.dirty: self.write()
        return self._root

def choice(p, task='quiz', n=600, scoring='likelihood', choices=4):
    "Questions of differing difficulty, the same for all models"
    right = np.random.default_rng(0).permutation(n) / n < p
    answers = [i % choices for i in range(n)]
    picked = [a if r else (a + 1) % choices for a, r in zip(answers, right)]
    k, chance = int(right.sum()), 0. if scoring == 'generated' else 1 / choices
    return Score(task, k / n, k, n, *wilson(k, n), picked, answers, scoring, chance, chance)

def loss(v, seed=0, n=40):
    "Documents of differing difficulty, the same for all models"
    r = np.random.default_rng(7)
    counts, hard = r.integers(50, 200, n), r.normal(0, .3, n)
    sums = counts * (v + hard + np.random.default_rng(seed).normal(0, .01, n))
    value, low, high = map(float, ratio_interval(sums, counts))
    return LossScore('c4', value, low, high, n, sums.tolist(), counts.tolist(), list(range(n)), [], 1000,
                     vocab=32000)

def fill(made, sweep='main', healed=lambda n: 3 + .05 * n, healed_simple=None, tasks=('quiz',), ns=x):
    "A sweep of both strategies, healed and not"
    made.config(sweep)
    for n, p in zip(map(int, ns), PLATEAU):
        for s in ('similarity', 'simple') if n else ('none',):
            for t in tasks: made.add(sweep, choice(p, t), s, n)
            made.add(sweep, loss(3 + (1.5 if s == 'simple' else .1) * n, seed=n), s, n)
            mended = healed_simple if healed_simple and s == 'simple' else healed
            if n: made.add(sweep, loss(mended(n), seed=n), s, n, True)
    return made

def fill_paper(made, ns=(1, 2, 4, 8, 12, 16)):
    "The sweeps of the preset paper, up to four fifths of the layers, of a model that knows MMLU and BoolQ"
    def scores(n, cost):
        p = max(.3, .8 - cost * n)
        yes = choice(max(.5, p), 'boolq', 300, 'letter', 2)
        yes = replace(yes, logprobs=[[float(i == o) - 1 for i in (0, 1)] for o in yes.picked])
        return loss(3 + 2 * cost * n, seed=n), replace(choice(p, 'mmlu', 300, 'letter'), shots=5), yes
    both, one = dict(similarity=.03, simple=.05), dict(similarity=.03)
    made.config('main').config('seeds', seeds=[1, 2]).config('rank-2', healing=dict(rank=2)).config('shots')
    for sweep, strategies, seeds in (('main', both, [0]), ('seeds', one, [1, 2]), ('rank-2', one, [0])):
        for n, (s, cost), seed, healed in product((0, *ns), strategies.items(), seeds, (False, True)):
            if not healed and sweep != 'main': continue
            for o in scores(n, cost * (1 - .2 * healed) + .001 * seed):
                made.add(sweep, o, s if n else 'none', n, healed, seed)
    for n in (0, *ns):
        for name, shots in (('mmlu:shots=0', 0), ('mmlu:seed=1', 5)):
            score = replace(scores(n, .03)[1], task=name, shots=shots)
            made.add('shots', score, 'similarity' if n else 'none', n)
    return made
