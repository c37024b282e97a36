"""Exercises of notebook 04: greedy search, the first budget at which it fails, and what a search costs."""

from __future__ import annotations

import math
from functools import partial

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, pair, tutorial_trace


def greedy(trace, budget, direction):
    """The labels that greedy search takes, in the order in which it takes them.

    One component at a time: the one that, together with those already taken, gives the largest mean effect (direction "max")
    or the smallest ("min"), until there are `budget`.
    """
    ### BEGIN SOLUTION
    best, chosen = {"max": max, "min": min}[direction], []
    while len(chosen) < budget:
        left = [label for label in trace.components.labels if label not in chosen]
        chosen.append(best(left, key=lambda label: float(trace.effects([*chosen, label]).mean())))
    return chosen
    ### END SOLUTION


def first_failure(trace, most):
    """The smallest budget up to `most` at which greedy search has less than 99 % of the exact optimum, and the share it has there.

    A pair of a whole number and a number from 0 to 1; None if there is no such budget.
    """
    ### BEGIN SOLUTION
    exact, found = (mct.search(trace, method, range(1, most + 1), heldout=False, progress=False)
                    for method in ("exhaustive", "greedy"))
    for budget in range(1, most + 1):
        share = found[budget].effect / exact[budget].effect
        if share < 0.99:
            return budget, share
    return None
    ### END SOLUTION


def work(components, budget, prompts):
    """How many runs of a prompt two searches need for all budgets from 1 to `budget`: a pair, of greedy and of exhaustive search.

    A run is one prompt under one mask. Nothing is run here.
    """
    ### BEGIN SOLUTION
    taken = range(budget)
    return (prompts * sum(components - already for already in taken),
            prompts * sum(math.comb(components, size + 1) for size in taken))
    ### END SOLUTION


SOLUTIONS = (greedy, first_failure, work)


_trace = partial(tutorial_trace, seed=31)


@graded
def exercise_1(function) -> str:
    """Tried on three tasks, kinds of heads and directions, against `search`."""
    for trace, direction in ((_trace("binding_operation"), "max"), (_trace("professions"), "max"), (_trace("names", "head_pattern"), "max"),
                             (_trace("professions", "head_pattern"), "min")):
        front = mct.search(trace, "greedy", range(1, 5), direction, heldout=False, progress=False)
        where = f"on {trace.task.name} with direction {direction!r}"
        for budget in (2, 4):
            found, right = function(trace, budget, direction), front[budget]
            expect(isinstance(found, (list, tuple)) and all(isinstance(x, str) for x in found), f"return the labels as a list, not {found!r}")
            expect(len(found) == len(set(found)), f"{where} {', '.join(found)} names a component twice; leave out those already taken")
            expect(len(found) == budget, f"{where} a budget of {budget} gives {len(found)} components; go on to the budget, also where the effect "
                                         "no longer grows")
            if set(found) == set(right.components):
                continue
            score = 1 if direction == "max" else -1
            ranked = mct.search(trace, "top-k", budget, direction, heldout=False, progress=False)[budget]
            expect(set(found) != set(ranked.components), f"{where} this is the ranking of single effects; try each candidate together with those "
                                                         "already taken")
            other = mct.search(trace, "greedy", budget, "max" if score < 0 else "min", heldout=False, progress=False)[budget]
            expect(set(found) != set(other.components), f"{where} this goes the other way; look at the direction")
            effect = float(trace.effects(list(found)).mean())
            expect(score * effect <= score * right.effect + 1e-6, f"{where} this set ({effect:.2f}) is better than greedy's ({right.effect:.2f}), so "
                                                                  "it is another search; take one component at a time and never take one back")
            expect(False, f"{where} greedy search takes {', '.join(right.components)}, yours {', '.join(found)}")
        steps = [set(front[size].components) - set(front[size - 1].components if size > 1 else ()) for size in range(1, 5)]
        expect([{x} for x in found] == steps, f"{where} the set is right, and the order is not: give the labels as they were taken")
    return "the same sets as mct.search(..., 'greedy'), in both directions."


@graded
def exercise_2(function) -> str:
    """Tried where greedy search fails at a budget, where it fails worse later, and where it does not fail."""
    away = mct.Metric("log_odds_of_the_foil", lambda said: said.answers[..., 1] - said.answers[..., 0], logarithmic=True, of_difference=True)
    for trace, most in ((_trace("binding_operation"), 3), (_trace("professions", "head_pattern", seed=3, metric=away), 4),
                        (_trace("coreference"), 3)):
        found, right = function(trace, most), first_failure(trace, most)
        where = f"on {trace.task.name} ({trace.components.kinds[0]}, {trace.metric.name}) up to {most}"
        if right is None:
            expect(found is None, f"on {trace.task.name} greedy search has the optimum at each budget up to {most}; return None, not {found!r}")
            continue
        expect(found is not None, f"{where} greedy search falls short at some budget; compare it with every set of the same size")
        found = pair(found, "a budget and a share")
        budget, share = found
        expect(not 1 < abs(share) <= 100, f"{where} your share is {share:.2f}; divide greedy's effect by the optimum's, and not by 100")
        expect(budget >= right[0], f"{where} greedy search has the optimum at budget {budget}; its set may be another one of the same effect")
        expect(budget == right[0], f"{where} you gave budget {budget}; the first at which it fails is {right[0]}, however much worse it fails later")
        expect(abs(share - right[1]) < 1e-3, f"{where} the share at budget {budget} is {right[1]:.3f}, yours is {share:.3f}; take the effects at that "
                                             "budget, not the single effects or the total effect")
    return "the first failure, not the worst one, and None where there is none."


@graded
def exercise_3(function) -> str:
    """Compared with the counter of real searches, and with numbers too large to run."""
    for task, kind, most in (("names", "head_output", 3), ("facts", ("attn_block", "mlp_block"), 4)):
        trace = _trace(task, kind)
        n, prompts = len(trace.components), len(trace)
        counted = [mct.search(trace, method, range(1, most + 1), heldout=False, progress=False)[most].forwards
                   for method in ("greedy", "exhaustive")]
        found = function(n, most, prompts)
        found = pair(found, "a pair of numbers")
        where, (by_greedy, by_all) = f"for {n} components, budget {most}, {prompts} prompts", found
        expect((by_greedy, by_all) != tuple(c // prompts for c in counted), f"{where} you counted masks; each is run on every prompt")
        expect(by_greedy != prompts * n * most, f"{where} greedy search does not try again what it has taken: each step has one candidate less")
        expect(by_greedy != prompts * n, f"{where} you counted the first step of greedy search; every size is a step")
        expect(by_greedy == counted[0], f"{where} the counter says {counted[0]:,} for greedy search, you {by_greedy:,}")
        expect(by_all != prompts * math.comb(n, most), f"{where} you counted the sets of size {most}; smaller budgets are searched too")
        expect(by_all not in (prompts * 2 ** n, prompts * (2 ** n - 1)), f"{where} you counted all subsets; only sizes up to the budget are run")
        expect(by_all == counted[1], f"{where} the counter says {counted[1]:,} for exhaustive search, you {by_all:,}")
    expect(tuple(function(144, 10, 32)) == work(144, 10, 32), "for 144 heads and budget 10 the numbers are whole and exact; use math.comb, no floats")
    return "the formula and the counter agree, and nothing had to be run."
