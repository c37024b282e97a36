"""A front in one run from relaxed masks: cut to every size, run exactly, repaired by swaps.

A path of rising penalties (`relax.Settings` with penalties of None) orders the components: the weakest leave first. At each size S
the candidates are the S largest entries of the mask after each epoch, and of the gradients on the straight line from nothing to
everything that lambda_max was measured with: where the path begins, to first order (as the lasso's first entries are those with
the largest gradients). They are run exactly, and the best is repaired: the gradient at the set proposes members to leave and others
to come in, sets of the sizes beside it propose themselves with one component more or less, and exact effects decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from mctrace_nb.cost import PATH_BESIDE, PATH_CUTS, PATH_ROUNDS, PATH_SWAPS
from mctrace_nb.counting import mean_effects, mean_gradients
from mctrace_nb.effects import Effects
from mctrace_nb.relax import DIRECTIONS, Run

POINTS = ("nothing", "halfway", "everything")  # relax.LINE in words
Set = tuple[int, ...]  # component numbers, rising


@dataclass(frozen=True)
class Found:
    """A set of one size, its exact mean effect, the row and place that it was cut from, and how many swaps it is away from that."""

    chosen: Set
    effect: float
    run: Run
    start: str
    swaps: int = 0


def top(values: np.ndarray, size: int) -> Set:
    """The numbers of the `size` largest of `(N,)` values; of equal ones the first."""
    return tuple(sorted(np.argsort(-values, kind="stable")[:size].tolist()))


def cuts(run: Run, size: int) -> dict[Set, str]:
    """Sets of one size from a row, and where each is from: at most PATH_CUTS of its masks, from the epochs that kept most nearly
    so many components, and one from each point of its line."""
    found: dict[Set, str] = {}
    for row in sorted(run.history, key=lambda row: (abs(row["kept"] - size), row["epoch"])):
        if len(found) < PATH_CUTS:
            found.setdefault(top(run.trajectory[row["epoch"]], size), f"epoch {row['epoch']}")
    for point, gradient in zip(POINTS, () if run.line is None else run.line):
        found.setdefault(top(-gradient, size), f"gradient at {point}")
    return found


def swapped(chosen: Set, slope: np.ndarray) -> list[Set]:
    """The sets one swap away that the slope `(N,)` of the effect at the set makes most of: the two members worth least (one, if
    there is but one) against the others that promise most, PATH_SWAPS sets at most."""
    leaving = sorted(chosen, key=lambda i: slope[i])[:2]
    coming = [i for i in np.argsort(-slope, kind="stable").tolist() if i not in chosen][:PATH_SWAPS // len(leaving)]
    return [tuple(sorted({*chosen, i} - {j})) for j in leaving for i in coming]


def neighbours(size: int, found: dict[int, "Found"], slopes: dict[int, np.ndarray]) -> list[Set]:
    """Sets of a size one component away from those of the sizes beside it, where the slopes at these are at hand: the two others
    that promise most added, the two members worth least taken away."""
    sets = []
    if size - 1 in slopes:
        chosen, slope = found[size - 1].chosen, slopes[size - 1]
        sets += [tuple(sorted((*chosen, i))) for i in np.argsort(-slope, kind="stable").tolist() if i not in chosen][:PATH_BESIDE // 2]
    if size + 1 in slopes:
        chosen, slope = found[size + 1].chosen, slopes[size + 1]
        sets += [tuple(i for i in chosen if i != j) for j in sorted(chosen, key=lambda i: slope[i])[:PATH_BESIDE // 2]]
    return sets


class Exact:
    """Mean effects of sets, each of which is run once."""

    def __init__(self, trace: Effects, progress: bool = False):
        self.trace, self.progress, self.known = trace, progress, {}

    def run(self, sets: Sequence[Set]) -> None:
        if new := [s for s in dict.fromkeys(sets) if s not in self.known]:
            self.known.update(zip(new, mean_effects(self.trace, new, len(new), self.progress).tolist()))


def repaired(exact: Exact, found: dict[int, Found], direction: str) -> dict[int, Found]:
    """The sets of all sizes after at most PATH_ROUNDS changes each, all sizes in one batch; a set changes only for a better one."""
    trace, sign, found, unsettled = exact.trace, DIRECTIONS[direction], dict(found), list(found)
    for _ in range(PATH_ROUNDS):
        masks = trace.components.masks([found[size].chosen for size in unsettled])
        slopes = dict(zip(unsettled, sign * mean_gradients(trace, masks, "log").cpu().numpy()))
        tried = {size: neighbours(size, found, slopes) + (swapped(found[size].chosen, slopes[size]) if size in slopes else [])
                 for size in found}
        exact.run([s for sets in tried.values() for s in sets])
        unsettled = []
        for size, sets in tried.items():
            best = max(sets, key=lambda s: sign * exact.known[s], default=found[size].chosen)  # nothing to change: the whole model
            if sign * exact.known[best] > sign * found[size].effect:
                found[size] = replace(found[size], chosen=best, effect=exact.known[best], swaps=found[size].swaps + 1)
                unsettled.append(size)
        if not unsettled:
            break
    return found


def front(trace: Effects, runs: Sequence[Run], budgets: Sequence[int], repair: bool, progress: bool) -> list[dict[int, Found]]:
    """For each direction among the rows, the best set of exactly each size."""
    exact, fronts = Exact(trace, progress), []
    pool = [(run, size, cuts(run, size)) for run in runs for size in budgets]
    exact.run([s for _, _, sets in pool for s in sets])
    for direction in dict.fromkeys(run.settings.direction for run in runs):
        found: dict[int, Found] = {}
        for run, size, sets in pool:
            for chosen, start in sets.items() if run.settings.direction == direction else ():
                effect = exact.known[chosen]
                if size not in found or DIRECTIONS[direction] * effect > DIRECTIONS[direction] * found[size].effect:
                    found[size] = Found(chosen, effect, run, start)
        fronts.append(repaired(exact, found, direction) if repair else found)
    return fronts
