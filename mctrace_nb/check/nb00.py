"""Exercise of notebook 00: how much of a behaviour a set of components carries."""

from __future__ import annotations

from mctrace_nb.check import expect, graded, tutorial_trace


def share_of_total(trace, labels):
    """The mean effect of replacing these components together, as a share of the mean total effect.

    `trace.effects(labels)` and `trace.total_effects()` have one number a prompt. Returns one number: 0 for a
    set that does nothing, 1 for a set that does as much as the whole counterfactual prompt.
    """
    ### BEGIN SOLUTION
    return float(trace.effects(labels).mean() / trace.total_effects().mean())
    ### END SOLUTION


SOLUTIONS = (share_of_total,)


@graded
def exercise_1(function) -> str:
    """Tried on sets of another task: one head, two heads that do more together than one at a time, and all heads."""
    trace = tutorial_trace("facts", n=32, seed=3)
    for labels in (["L0H3", "L1H3"], ["L1H3"], trace.components.labels):
        found, expected = function(trace, labels), share_of_total(trace, labels)
        try:
            found = float(found)
        except (TypeError, ValueError):
            expect(False, f"return one number, not {type(found).__name__} of several; take the mean over prompts")
        effects, total = trace.effects(labels), trace.total_effects()
        singles = sum(trace.single_effects_of(labels).values()) / float(total.mean())
        said = f"for {', '.join(labels[:3])}{' ...' if len(labels) > 3 else ''} the share is {expected:.3f}, yours is {found:.3f}; "
        near = 1e-3 * max(1, abs(expected))
        expect(abs(found - float(effects.mean())) > near, said + "that is the effect in nats, divide it by the total effect")
        expect(len(labels) == 1 or abs(found - singles) > near, said + "effects of one component at a time do not add up to the joint "
                                                                       "effect, give all the labels to trace.effects at once")
        expect(abs(found - float((effects / total).mean())) > near or abs(float((effects / total).mean()) - expected) < near,
               said + "that is the mean of the prompts' own shares, in which a prompt with a small total weighs as much as one with a "
                      "large total; divide the means")
        expect(abs(found - 100 * expected) > 100 * near, said + "give a share, not a percentage")
        expect(abs(found - expected) < near, said + "divide the mean of trace.effects(labels) by the mean of trace.total_effects()")
    return "one head, a pair and all heads of another task have the shares that they should."
