"""Exercises of notebook 03: an interaction, the most redundant pair, and a ranking that misses the best pair."""

from __future__ import annotations

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, number


def interaction(trace, a, b):
    """The interaction of the components `a` and `b` in the trace's unit, averaged over its prompts; a number.

    From `trace.effects` of sets of labels, such as `["L0H0", "L0H3"]`.
    """
    ### BEGIN SOLUTION
    together, first, second = (trace.effects(chosen).mean() for chosen in ([a, b], [a], [b]))
    return float(together - first - second)
    ### END SOLUTION


def most_redundant(trace):
    """The two labels, in any order, whose joint effect falls farthest below the sum of their two effects alone."""
    ### BEGIN SOLUTION
    pairs = trace.interactions(2)
    return pairs.loc[pairs["interaction"].idxmin(), "components"]
    ### END SOLUTION


def missed(trace):
    """What a ranking of single effects misses at a budget of two: the best pair, the pair of the two largest single effects, and
    the share of the best pair's effect that the second pair has.

    Pairs are tuples of labels, in any order.
    """
    ### BEGIN SOLUTION
    from itertools import combinations

    labels = trace.components.labels
    singles = trace.single_effects_of(labels)
    ranked = tuple(sorted(labels, key=singles.get, reverse=True)[:2])
    effect = {pair: float(trace.effects(list(pair)).mean()) for pair in combinations(labels, 2)}
    best = max(effect, key=effect.get)
    return best, ranked, float(trace.effects(list(ranked)).mean()) / effect[best]
    ### END SOLUTION


SOLUTIONS = (interaction, most_redundant, missed)


def _traces(*tasks, components="head_output", seed=23, n=12, **options):
    lm = mct.load_model("tutorial")
    for task in tasks:
        yield mct.Trace(lm, mct.load_task(task, lm, n=n, seed=seed, heldout=0), components, **options)


def _pair(found, what: str) -> set:
    expect(isinstance(found, (tuple, list, set, frozenset)) and len(found) == 2 and all(isinstance(x, str) for x in found),
           f"give {what} as two labels, such as ('L0H0', 'L0H3'), not {found!r}")
    return set(found)


@graded
def exercise_1(function) -> str:
    """Tried on a synergy, a redundancy and a pair that adds up."""
    facts, coreference, names = _traces("facts", "coreference", "names")
    for trace, a, b in ((facts, "L1H0", "L1H3"), (coreference, "L0H0", "L1H3"), (names, "L1H2", "L2H2")):
        found, right = function(trace, a, b), interaction(trace, a, b)
        found, where = number(found, "one number, the mean over prompts"), f"for {a} and {b} on {trace.task.name}"
        joint, alone = float(trace.effects([a, b]).mean()), list(trace.single_effects_of([a, b]).values())

        def near(other: float) -> bool:
            return abs(found - other) < 1e-3

        expect(not near(joint), f"{where} you gave the joint effect, {joint:.2f}; take away what the two do one at a time")
        expect(not near(-right) or abs(right) < 1e-3, f"{where} the sign is turned round: synergy is positive, so it is joint minus singles")
        expect(not near(joint - max(alone)) and not near(joint - min(alone)),
               f"{where} you took away one of the two single effects, {found:.2f}; both count")
        expect(not near(joint - sum(alone) / 2), f"{where} you took away the mean of the two single effects; if they added up, the joint effect "
                                                 "would be their sum")
        expect(near(right), f"{where} the interaction is {right:.3f}, yours is {found:.3f}")
    return "a synergy, a redundancy and a pair that adds up have their interactions."


@graded
def exercise_2(function) -> str:
    """Tried where the strongest interaction is a synergy, and the weakest pair is not the most redundant one."""
    for trace in _traces("coreference", "facts", "binding"):
        found, pairs = _pair(function(trace), "the pair"), trace.interactions(2)
        singles = trace.single_effects_of(trace.components.labels)
        joint = [value + singles[a] + singles[b] for value, (a, b) in zip(pairs["interaction"], pairs["components"])]
        of, where = pairs.set_index("components")["interaction"], f"on {trace.task.name}"
        expect(len(found) == 2, f"{where} you named one component twice")
        size, low = of.abs().idxmax(), of.idxmin()
        if found != set(low):
            expect(found != set(of.idxmax()), f"{where} {' and '.join(of.idxmax())} have the strongest synergy; a redundant pair does less "
                                              "together")
            expect(found != set(size), f"{where} {' and '.join(size)} have the interaction that is largest in size; its sign says which kind "
                                       "it is")
            least = pairs["components"][min(range(len(joint)), key=joint.__getitem__)]
            expect(found != set(least), f"{where} {' and '.join(least)} have the smallest joint effect; two components that do nothing are "
                                        "not redundant")
            near = of.iloc[of.abs().argmin()]
            mine = next((value for pair, value in of.items() if set(pair) == found), None)
            expect(mine is not None, f"{where} {', '.join(sorted(found))} is no pair of this trace")
            expect(abs(mine) > abs(near) + 1e-9, f"{where} your pair has the interaction nearest to 0: it adds up, and shares nothing")
            expect(False, f"{where} {' and '.join(low)} have {of.min():.3f}, and your pair {mine:.3f}")
    return "the most negative interaction is found on three tasks."


@graded
def exercise_3(function) -> str:
    """Tried where the ranking is wrong, where it is right, and with other prompts."""
    for trace in _traces("professions", "names", "binding_operation", seed=29):
        found, (best, ranked, share) = function(trace), missed(trace)
        where = f"on {trace.task.name}"
        expect(isinstance(found, (tuple, list)) and len(found) == 3, f"return three things: two pairs and a share, not {found!r}")
        mine, second, part = _pair(found[0], "the best pair"), _pair(found[1], "the pair of the best singles"), float(found[2])
        expect((mine, second) != (set(ranked), set(best)) or mine == second, f"{where} the two pairs have changed places; the best pair comes first")
        expect(mine == set(best) or mine != set(ranked), f"{where} the best pair is not the pair of the best singles; run all pairs together, do "
                                                         "not add up their single effects")
        expect(mine == set(best), f"{where} the best pair is {' and '.join(best)}; take the largest joint effect, not the largest interaction")
        expect(second == set(ranked), f"{where} the two largest single effects are those of {' and '.join(ranked)}")
        expect(abs(part * share - 1) > 1e-3 or abs(share - 1) < 1e-3, f"{where} your share is {part:.2f}: it is turned round, the best pair's "
                                                                      "effect goes below the line")
        singles = trace.single_effects_of(ranked)
        added = sum(singles.values()) / float(trace.effects(list(best)).mean())
        expect(abs(part - added) > 1e-3 or abs(added - share) < 1e-3, f"{where} the ranked pair's effect is its joint effect, not the sum of "
                                                                      "its two singles")
        expect(abs(part - share) < 1e-3, f"{where} the share is {share:.3f}, yours is {part:.3f}")
    return "both pairs and the share are right, where the ranking is wrong and where it is right."
