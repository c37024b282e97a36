"""Wrong answers to the exercises of notebook 04, and what the check must say of each."""

import math

import mctrace_nb as mct
from mctrace_nb.check.nb04 import first_failure, greedy, work


def wrong_answers():
    def alone(trace):
        return trace.single_effects_of(trace.components.labels)

    def found(trace, method, budget, direction="max"):
        return list(mct.search(trace, method, range(1, budget + 1), direction, heldout=False, progress=False)[budget].components)

    yield 1, lambda t, budget, direction: sorted(alone(t), key=alone(t).get, reverse=True)[:budget], "ranking of single effects"
    yield 1, lambda t, budget, direction: [max(alone(t), key=alone(t).get)] * budget, "names a component twice"
    yield 1, lambda t, budget, direction: greedy(t, budget, "max"), "look at the direction"
    yield 1, lambda t, budget, direction: found(t, "exhaustive", budget, direction), "is better than greedy's"
    yield 1, lambda t, budget, direction: greedy(t, min(budget, 3), direction), "go on to the budget"
    yield 1, lambda t, budget, direction: greedy(t, budget, direction)[::-1], "the order is not"
    yield 1, lambda t, budget, direction: ", ".join(greedy(t, budget, direction)), "return the labels as a list"

    def worst(trace, most):
        fronts = [mct.search(trace, m, range(1, most + 1), heldout=False, progress=False) for m in ("greedy", "exhaustive")]
        share, budget = min((g.effect / e.effect, g.budget) for g, e in zip(*(f.selections for f in fronts)))
        return (budget, share) if share < 0.99 else None

    yield 2, worst, "the first at which it fails"
    yield 2, lambda t, most: (2, 0.4), "the share at budget 2"
    yield 2, lambda t, most: None, "falls short at some budget"
    yield 2, lambda t, most: (first_failure(t, most) or (most, 1.0)), "return None"
    yield 2, lambda t, most: (first_failure(t, most)[0], 1 / first_failure(t, most)[1]), "divide greedy's effect by the optimum's"
    yield 2, lambda t, most: (1, 1.0), "has the optimum at budget 1"

    yield 3, lambda n, budget, prompts: tuple(x // prompts for x in work(n, budget, prompts)), "you counted masks"
    yield 3, lambda n, budget, prompts: (prompts * n * budget, work(n, budget, prompts)[1]), "one candidate less"
    yield 3, lambda n, budget, prompts: (prompts * n, work(n, budget, prompts)[1]), "every size is a step"
    yield 3, lambda n, budget, prompts: (work(n, budget, prompts)[0], prompts * math.comb(n, budget)), "smaller budgets are searched too"
    yield 3, lambda n, budget, prompts: (work(n, budget, prompts)[0], prompts * 2 ** n), "you counted all subsets"
    yield 3, lambda n, budget, prompts: work(n, budget, prompts)[0], "return a pair"
