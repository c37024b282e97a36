"""Exercises of notebook 02: total, direct and indirect effect from the model's own logits, and a remainder that is not small."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import torch

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, pair, tutorial_trace


def total_effect(lm, example):
    """The total effect of one pair, in nats, from the model's logits alone.

    example: has the token ids `base` and `counterfactual`, and `target` and `foil`, of one token each. The
    effect is the change of the log odds of target against foil from the base to the counterfactual prompt.
    """
    ### BEGIN SOLUTION
    def log_odds(ids):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1]
        return logits[example.target[0]] - logits[example.foil[0]]

    return float(log_odds(example.counterfactual) - log_odds(example.base))
    ### END SOLUTION


def direct_and_indirect(lm, example, chosen):
    """The natural direct and the natural indirect effect of a set on one pair, in nats: a pair of numbers.

    chosen: a Selection. Inside `with chosen.apply(lm, counterfactual=ids):` the model itself, `lm.model`, runs
    with the set's values taken from the prompt `ids`. No Trace is needed.
    """
    ### BEGIN SOLUTION
    def log_odds(prompt, values_from):
        with torch.no_grad(), chosen.apply(lm, counterfactual=values_from):
            logits = lm.model(torch.tensor([prompt])).logits[0, -1]
        return logits[example.target[0]] - logits[example.foil[0]]

    base, other = example.base, example.counterfactual
    untouched = log_odds(base, base)
    return float(log_odds(other, base) - untouched), float(log_odds(base, other) - untouched)
    ### END SOLUTION


def pair_with_remainder(trace, least):
    """Two components whose remainder TE - NDE - NIE, the mean over prompts, is larger in size than `least`.

    Returns their labels, or None if there is no such pair. `trace.components.masks(sets)` makes a mask of each
    set of numbers, `trace.effects(masks, reverse=True)` the direct effects, `(sets, prompts)`.
    """
    ### BEGIN SOLUTION
    sets = list(combinations(range(len(trace.components)), 2))
    masks = trace.components.masks(sets)
    parts = trace.effects(masks, reverse=True) + trace.effects(masks)
    remainder = (trace.total_effects() - parts).mean(-1)
    best = int(remainder.abs().argmax())
    if remainder[best].abs() > least:
        return [trace.components.labels[i] for i in sets[best]]
    ### END SOLUTION


SOLUTIONS = (total_effect, direct_and_indirect, pair_with_remainder)


_trace = partial(tutorial_trace, n=32, seed=4)


@graded
def exercise_1(function) -> str:
    """Tried on pairs of two other tasks."""
    for task in ("facts", "coreference"):
        trace, prob = _trace(task), _trace(task, metric="prob")
        for prompt in (0, 3):
            found, expected = float(function(trace.model, trace.examples[prompt])), float(trace.total_effects()[prompt])
            said = f"the total effect of a pair of {task!r} is {expected:.2f} nats, yours is {found:.2f}; "
            expect(abs(found - float(prob.total_effects()[prompt])) > 1e-3,
                   said + "that is a change of the probability, take log odds: the difference of the two answers' logits")
            expect(abs(found + expected) > 1e-3, said + "the sign is turned: counterfactual minus base, and target minus foil")
            after = expected + float(trace.base_values[prompt])
            expect(abs(found - after) > 1e-3,
                   said + "those are the log odds after the counterfactual prompt; an effect is a change, take off the log odds after "
                          "the base prompt")
            expect(abs(found - expected) < 1e-3, said + "log odds are the target's logit minus the foil's, after the last token")
    return "pairs of two other tasks have the total effects that the trace has."


@graded
def exercise_2(function) -> str:
    """Tried on a set of another task, where direct and indirect effect differ."""
    from mctrace_nb.results import Selection

    for task, labels in (("names", ("L1H2", "L2H1")), ("facts", ("L0H3",))):
        trace = _trace(task)
        chosen = Selection("given", labels, 0.0, kinds=("head_output",))
        for prompt in (1, 4):
            found = function(trace.model, trace.examples[prompt], chosen)
            direct, indirect = map(float, pair(found, "a pair of numbers, direct and indirect"))
            nie, nde = float(trace.effects(labels)[prompt]), float(trace.effects(labels, reverse=True)[prompt])
            total = float(trace.total_effects()[prompt])
            said = (f"for {', '.join(labels)} on a pair of {task!r} the direct effect is {nde:.2f} and the indirect {nie:.2f}, yours are "
                    f"{direct:.2f} and {indirect:.2f}; ")
            expect(max(abs(direct - nie), abs(indirect - nde)) > 1e-3,
                   said + "they have changed places: the indirect effect runs the base prompt with the set's values from the "
                          "counterfactual one")
            expect(abs(direct - (nde - total)) > 1e-3,
                   said + "both effects are changes from the base prompt; yours of the direct effect starts at the counterfactual prompt")
            expect(abs(direct - (total - nie)) > 1e-3 or abs(total - nie - nde) < 1e-3,
                   said + "the direct effect is not what the indirect leaves of the total; run the counterfactual prompt with the set's "
                          "values from the base prompt")
            expect(abs(direct - nde) < 1e-3 and abs(indirect - nie) < 1e-3,
                   said + "indirect: base prompt, values from the counterfactual; direct: counterfactual prompt, values from the base")
    return "sets of two other tasks have the effects that the trace has."


@graded
def exercise_3(function) -> str:
    """Tried where the largest remainder is positive, where it is negative, and where there is none."""
    for trace, least in ((_trace("binding_operation"), 0.9), (_trace("names", metric="log_prob"), 5.0), (_trace("coreference"), 1.0),
                         (_trace("professions"), 0.8)):
        found, expected = function(trace, least), pair_with_remainder(trace, least)
        where = f"{trace.task.name!r}, {trace.metric.name}, least {least}: "
        if expected is None:
            expect(found is None, where + f"no pair has so large a remainder, you return {found!r}; return None then")
            continue
        of = float(trace.mediation(expected)["mean"]["remainder"])
        expect(found is not None,
               where + f"there is such a pair, {' and '.join(expected)} with {of:+.2f}; remainders may be negative, compare their size")
        expect(isinstance(found, (list, tuple)) and len(found) == 2 and all(isinstance(x, str) for x in found),
               where + f"return two labels, not {found!r}")
        has = float(trace.mediation(list(found))["mean"]["remainder"])
        joint = trace.interactions(2).set_index("components")["interaction"]
        strongest = set(joint.abs().idxmax()) == set(found)
        expect(abs(has) > least, where + f"{' and '.join(found)} have a remainder of {has:+.2f}" + (
            "; they have the strongest interaction with each other, but the remainder is the interaction of the two, as one set, "
            "with all the rest" if strongest else "; compute TE - NDE - NIE of every pair, each the mean over prompts"))
    return "the pairs have large remainders, of either sign, and none is returned where there is none."
