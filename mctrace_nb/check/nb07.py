"""Exercises of notebook 07: every set a threshold can cut, a repair by swaps, and a gap with seeds."""

from __future__ import annotations

import numpy as np
import torch

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, pair


def threshold_sweep(mask, effect_of):
    """Every set that some threshold cuts from a mask: a list of pairs (set, effect), from small to large.

    mask: a dict of mask values by label. A threshold keeps the labels whose value is above it, and any
    threshold from 0 up may be used. effect_of: a function of a set of labels to its effect. Sets are
    frozensets; each occurs once, the empty one not at all.
    """
    ### BEGIN SOLUTION
    cuts = sorted({0.0, *mask.values()}, reverse=True)
    sets = [frozenset(label for label, value in mask.items() if value > cut) for cut in cuts]
    return [(chosen, effect_of(chosen)) for chosen in dict.fromkeys(sets) if chosen]
    ### END SOLUTION


def repair(trace, chosen):
    """A set repaired by swaps: one member out, another component in, as long as that helps.

    chosen: labels. In each round the swap with the largest mean effect is made, if that is larger
    than the effect of the set as it is. Returns the labels as a set.
    """
    ### BEGIN SOLUTION
    chosen, labels = set(chosen), trace.components.labels
    while True:
        swaps = [chosen - {out} | {new} for out in chosen for new in labels if new not in chosen]
        masks = torch.stack([trace.components.mask(some) for some in (chosen, *swaps)])
        best = int(trace.effects(masks).mean(-1).argmax())
        if best == 0:
            return chosen
        chosen = swaps[best - 1]
    ### END SOLUTION


def share_over_seeds(lm, task, budget, seeds):
    """What share of the exact optimum the top-k set has, on fresh prompts for each seed: (mean, smallest).

    32 prompt pairs a seed, half of them for the search; kind "head_output"; both sets are found, and
    both effects are measured, on the search prompts of that seed.
    """
    ### BEGIN SOLUTION
    shares = []
    for seed in seeds:
        trace = mct.Trace(lm, mct.load_task(task, lm, n=32, seed=seed), "head_output", seed=seed)
        best, found = (mct.search(trace, method, [budget], heldout=False, progress=False)[budget].effect
                       for method in ("exhaustive", "top-k"))
        shares.append(found / best)
    return sum(shares) / len(shares), min(shares)
    ### END SOLUTION


SOLUTIONS = (threshold_sweep, repair, share_over_seeds)

MASKS = ({"a": 0.9, "b": 0.2, "c": 0.9, "d": 0.4, "e": 0.0}, {"p": 0.45, "q": 0.31, "r": 0.02, "s": 0.31}, {"x": 1.0, "y": 0.0})


@graded
def exercise_1(function) -> str:
    """Tried on masks with equal values, with values far below one half, and with zeros; effects that are no sums."""
    for mask in MASKS:
        def effect_of(chosen):
            return len(chosen) ** 2 + 0.1 * len("".join(chosen) * ("a" in chosen))

        found, expected = function(dict(mask), effect_of), threshold_sweep(mask, effect_of)
        expect(isinstance(found, list), f"return a list of pairs (set, effect), not {found!r}")
        found = [pair(f, "a list of pairs (set, effect)") for f in found]
        sets = [set(chosen) for chosen, _ in found]
        seen = f"for the mask {mask} your sets have the sizes {[len(s) for s in sets]}, "
        expect(all(sets), seen + "but a threshold above every value keeps nothing, and nothing is no set to report")
        expect(not any(mask[label] == 0 for s in sets for label in s), seen + "but a value of 0 is above no threshold from 0 up; such a "
                                                                              "component was never asked for")
        tied = [s for s in sets if any((a in s) != (b in s) for a in mask for b in mask if mask[a] == mask[b])]
        expect(not tied, seen + "but entries of equal value go together: no threshold lies between them, only a rule by rank parts them")
        expect(len(sets) == len({frozenset(s) for s in sets}), seen + "and some occur twice; thresholds between the same two values cut the same set")
        expect(len(sets) == len(expected), seen + f"and there are {len(expected)} sets; the values themselves are the places where a set "
                                                  "changes, a fixed grid of thresholds or one half alone passes some of them by")
        expect(sets == [set(s) for s, _ in expected], seen + "expected are the sets from small to large")
        expect(np.allclose([e for _, e in found], [e for _, e in expected]), "the sets are right, their effects are not: ask effect_of for "
                                                                             "each whole set, since effects of members do not add up")
    return "every set that a threshold can cut is there once, with its effect, and entries of equal value stay together."


class _Toy:
    """Effects of pairs of five heads, made up so that the best swap of each round leads to a pair that is not the best of all."""

    EFFECTS = {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 3.0, (0, 3): 2.5, (3, 4): 10.0}

    def __init__(self, order):
        self.components = mct.Components(("head_output",), 1, {"head_output": 5})
        self._by = {frozenset(order[i] for i in pair): value for pair, value in self.EFFECTS.items()}

    def effects(self, masks):
        """(R, 2), the same on both prompts; a set of labels is one mask."""
        masks = torch.as_tensor(masks if isinstance(masks, torch.Tensor) else self.components.mask(masks))
        rows = [self._by.get(frozenset(row.nonzero().flatten().tolist()), 0.0) for row in masks.reshape(-1, 5)]
        return torch.tensor(rows)[:, None].expand(-1, 2).reshape(*masks.shape[:-1], 2)


@graded
def exercise_2(function) -> str:
    """Tried on tasks other than the lesson's, from the worst start, and against every swap of what is returned."""
    lm = mct.load_model("tutorial")
    for task, start in (("facts", ["L0H0", "L2H1", "L2H2"]), ("names", ["L0H0", "L1H0"]), ("coreference", ["L0H0", "L0H2"])):
        trace = mct.Trace(lm, mct.load_task(task, lm, n=16, seed=77), "head_output")
        labels = trace.components.labels
        given = list(start)
        found = function(trace, given)
        expect(isinstance(found, (set, frozenset, list, tuple)) and set(found) <= set(labels), f"return a set of labels, not {found!r}")
        expect(given == start, "the list that was given has changed; work on a copy, as the caller may still need it")
        found = set(found)
        expect(len(found) == len(start), f"from {len(start)} members you made {len(found)}; a swap takes one out for each that comes in, or the "
                                         "budget is not kept")
        effect, before = (float(trace.effects(sorted(s)).mean()) for s in (found, start))
        expect(effect >= before - 1e-6, f"on {task} the set went from {before:.2f} to {effect:.2f} nats; a swap is kept only if it helps")
        swaps = [sorted(found - {out} | {new}) for out in found for new in labels if new not in found]
        effects = trace.effects(torch.stack([trace.components.mask(s) for s in swaps])).mean(-1)
        expect(effects.max() <= effect + 1e-4,
               f"on {task} {', '.join(sorted(found))} has {effect:.2f} nats and one more swap gives {', '.join(swaps[int(effects.argmax())])} with "
               f"{effects.max():.2f}; go on until no swap helps, and try every member against every other component")
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 3, 0, 4, 2)):
        toy = _Toy(order)
        start = [toy.components.labels[order[0]], toy.components.labels[order[1]]]
        found, expected = set(function(toy, list(start))), repair(toy, start)
        expect(found == expected, f"on made-up effects from {', '.join(start)} the largest swap of each round leads to {', '.join(sorted(expected))} and no "
                                  f"further, you return {', '.join(sorted(found))}; a repair begins at the given set and makes the best swap each time, "
                                  "it does not search anew")
    return "no swap is left that helps, on three tasks, and a set that was the best is left alone."


@graded
def exercise_3(function) -> str:
    """Tried on a task where top-k fails for some seeds, and on one where it does not."""
    lm, seeds = mct.load_model("tutorial"), (50, 51, 52)
    for task, budget in (("professions", 2), ("binding_operation", 2)):
        found = function(lm, task, budget, seeds)
        mean, smallest = map(float, pair(found, "a pair of numbers (mean, smallest)"))
        right, least = share_over_seeds(lm, task, budget, seeds)
        expect(0 <= smallest <= mean + 1e-9 <= 1 + 1e-6, f"a share of the optimum lies between 0 and 1 and the smallest is not above the mean, yours are "
                                                        f"{mean:.3f} and {smallest:.3f}; divide the effect found by the optimum on the same prompts")
        said = f"on {task} at budget {budget} you found {mean:.4f} and {smallest:.4f}, expected {right:.4f} and {least:.4f}; "
        expect(abs(smallest - least) < 1e-4, said + "take fresh prompts for each seed (load_task has the seed), and keep the smallest share, since "
                                                    "one good seed proves nothing")
        expect(abs(mean - right) < 1e-4, said + "average the shares seed by seed; a ratio of sums lets seeds with large effects decide")
    return "the mean share and the smallest agree, on prompts drawn anew for each seed."
