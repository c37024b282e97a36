"""Wrong answers to the exercises of notebook 03, and what the check must say of each."""

from itertools import combinations

from mctrace_nb.check.nb03 import interaction, missed


def wrong_answers():
    def joint(trace, *labels):
        return float(trace.effects(list(labels)).mean())

    def alone(trace):
        return trace.single_effects_of(trace.components.labels)

    yield 1, lambda t, a, b: joint(t, a, b), "you gave the joint effect"
    yield 1, lambda t, a, b: joint(t, a) + joint(t, b) - joint(t, a, b), "the sign is turned round"
    yield 1, lambda t, a, b: joint(t, a, b) - max(joint(t, a), joint(t, b)), "both count"
    yield 1, lambda t, a, b: joint(t, a, b) - (joint(t, a) + joint(t, b)) / 2, "would be their sum"
    yield 1, lambda t, a, b: t.effects([a, b]) - t.effects([a]) - t.effects([b]), "return one number"
    yield 1, lambda t, a, b: interaction(t, a, b) + 1, "yours is"

    def pair(trace, key):
        return max(combinations(trace.components.labels, 2), key=lambda p: key(trace, *p))

    def by_frame(pick):
        def wrong(trace):
            frame = trace.interactions(2)
            return frame["components"][pick(frame["interaction"])]
        return wrong

    yield 2, lambda t: "L0H0", "as two labels"
    yield 2, by_frame(lambda values: values.idxmax()), "strongest synergy"
    yield 2, by_frame(lambda values: values.abs().idxmin()), "nearest to 0"
    yield 2, lambda t: pair(t, lambda t, a, b: -joint(t, a, b)), "smallest joint effect"
    yield 2, lambda t: ("L0H0", "L0H0"), "one component twice"

    yield 3, lambda t: missed(t)[:2], "return three things"
    yield 3, lambda t: (missed(t)[1], missed(t)[1], 1.0), "run all pairs together"
    yield 3, lambda t: (missed(t)[1], missed(t)[0], missed(t)[2]), "the two pairs have changed places"
    yield 3, lambda t: (*missed(t)[:2], 1 / missed(t)[2]), "it is turned round"
    yield 3, lambda t: (*missed(t)[:2], sum(alone(t)[x] for x in missed(t)[1]) / joint(t, *missed(t)[0])), "not the sum of its two singles"
    yield 3, lambda t: (by_frame(lambda values: values.idxmax())(t), *missed(t)[1:]), "not the largest interaction"
