"""Wrong answers to the exercises of notebook 02, and what the check must say of each."""

from itertools import combinations

import torch

from mctrace_nb.check import nb02


def logits(lm, ids, chosen=None, values_from=None):
    with torch.no_grad():
        if chosen is None:
            return lm.model(torch.tensor([ids])).logits[0, -1]
        with chosen.apply(lm, counterfactual=values_from):
            return lm.model(torch.tensor([ids])).logits[0, -1]


def odds(e, found):
    return float(found[e.target[0]] - found[e.foil[0]])


def wrong_answers():
    def prob(lm, e):
        return float(logits(lm, e.counterfactual).softmax(-1)[e.target[0]] - logits(lm, e.base).softmax(-1)[e.target[0]])

    yield 1, prob, "change of the probability"
    yield 1, lambda lm, e: odds(e, logits(lm, e.base)) - odds(e, logits(lm, e.counterfactual)), "the sign is turned"
    yield 1, lambda lm, e: odds(e, logits(lm, e.counterfactual)), "an effect is a change"
    yield 1, lambda lm, e: float((logits(lm, e.counterfactual) - logits(lm, e.base))[e.target[0]]), "minus the foil's"

    def parts(lm, e, chosen):
        base = odds(e, logits(lm, e.base))
        total = odds(e, logits(lm, e.counterfactual)) - base
        direct = odds(e, logits(lm, e.counterfactual, chosen, e.base)) - base
        return total, direct, odds(e, logits(lm, e.base, chosen, e.counterfactual)) - base

    yield 2, lambda *args: parts(*args)[1], "return a pair of numbers"
    yield 2, lambda *args: parts(*args)[:0:-1], "changed places"
    yield 2, lambda *args: (parts(*args)[1] - parts(*args)[0], parts(*args)[2]), "starts at the counterfactual prompt"
    yield 2, lambda *args: (parts(*args)[0] - parts(*args)[2], parts(*args)[2]), "not what the indirect leaves"
    yield 2, lambda *args: (parts(*args)[1], 0.0), "values from the counterfactual; direct"

    def best(value):
        def function(trace, least):
            sets = list(combinations(range(len(trace.components)), 2))
            found = value(trace, trace.components.masks(sets)).mean(-1)
            return [trace.components.labels[i] for i in sets[int(found.argmax())]] if found.max() > least else None
        return function

    def remainder(trace, masks):
        return trace.total_effects() - trace.effects(masks, reverse=True) - trace.effects(masks)

    def sizes(reduce):
        def function(trace, least):
            sets = list(combinations(range(len(trace.components)), 2))
            found = reduce(remainder(trace, trace.components.masks(sets)))
            return [trace.components.labels[i] for i in sets[int(found.argmax())]] if found.max() > least else None
        return function

    yield 3, best(remainder), "compare their size"
    yield 3, best(lambda trace, masks: trace.effects(masks)), "of every pair"
    yield 3, lambda trace, least: list(trace.interactions(2).set_index("components")["interaction"].abs().idxmax()), "with all the rest"
    yield 3, lambda trace, least: nb02.pair_with_remainder(trace, 0.0), "return None then"
    yield 3, lambda trace, least: (0, 1), "return two labels"
    yield 3, sizes(lambda values: values[..., 0].abs()), "None then"
    yield 3, sizes(lambda values: values.abs().mean(-1)), "None then"
