"""From a mask to a set: the mask as sorted bars with its cut, and beside it what the cut costs at every budget."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from mctrace_nb.plots.base import INK, STYLE, Figure, component_style, side_by_side, unit_of
from mctrace_nb.stats import Estimate

HATCHES = ("", "//", "\\\\", "xx")  # of the bars, by the component's number in its layer


def rounding(mask: Sequence[float], labels: Sequence[str], kept: Sequence[int], effect: float, found: Mapping[int, float],
             exact: Mapping[int, float] | None = None, budget: int = 1, threshold: float | None = None, heldout: Estimate | None = None,
             unit: str = "nats", most: int = 16) -> Figure:
    """Left, the `most` largest values of a mask `(N,)` and all that are kept; right, mean effects by budget.

    kept: numbers of the components in the set, whose mean effect is `effect`. found, exact: the effect under the rounding rule, and
    of the best set, by budget; the gap between them is shaded. threshold: where a threshold cuts; without one the cut is after the
    largest values. heldout: the set's effect on held-out prompts.

        >>> print(mct.plots.rounding([0.9, 0.4, 0.1], ["L0H0", "L0H1", "L0H2"], kept=[0], effect=2.0, found={1: 2.0}, exact={1: 2.5}))
        Left, the values of a relaxed mask as sorted bars; kept: L0H0. Right, mean effect against budget ...
    """
    mask, inside = np.asarray(mask, dtype=float), set(kept)
    order = np.argsort(-mask, kind="stable").tolist()
    shown = order[:most] + [i for i in order[most:] if i in inside]
    canvas, (left, right) = side_by_side([1.15, 1], 9.6, 3.7)
    for axis in (left, right):
        axis.grid(False, axis="x")
    for x, i in enumerate(shown):
        left.bar(x, mask[i], width=0.75, color=component_style(labels[i])[0], hatch=HATCHES[unit_of(labels[i]) % len(HATCHES)], alpha=1 if i in inside else 0.35,
                 edgecolor="black" if i in inside else "white", lw=1.8 if i in inside else 0.5)
    marks = [x for x, i in enumerate(shown) if i in inside]
    left.plot(marks, [1.09] * len(marks), "v", color=INK, ms=7, ls="", clip_on=False, label="kept")
    if threshold is None:
        left.axvline(len(kept) - 0.5, color=INK, lw=1.4, ls="--", label="cut")
    else:
        left.axhline(threshold, color=INK, lw=1.4, ls="--", label="threshold")
    left.set_xticks(range(len(shown)), [labels[i] for i in shown], rotation=60, fontsize=8)
    left.set(ylabel="mask value", ylim=(0, 1.15), xlim=(-0.7, len(shown) - 0.3))
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    budgets, colour = sorted(found), STYLE["pgb"][0]
    both = [b for b in budgets if exact and b in exact]
    if both:
        right.plot(both, [exact[b] for b in both], color="black", marker="o", ms=8, lw=3.5, alpha=0.85, label="exact optimum")
        right.fill_between(both, [found[b] for b in both], [exact[b] for b in both], color="#7F7F7F", alpha=0.3, lw=0, label="gap")
    right.plot(budgets, [found[b] for b in budgets], color=colour, marker="D", ms=5, lw=1.6, label="by this rule")
    right.axvline(budget, color=INK, lw=1, ls=":")
    right.plot([len(kept)], [effect], marker="s", ms=13, mfc="none", mec=INK, mew=1.8, ls="", label="this set")
    if heldout is not None:
        right.errorbar([len(kept) + 0.18], [heldout.mean], [[heldout.mean - heldout.low], [heldout.high - heldout.mean]], color="#0072B2", fmt="o",
                       mfc="white", ms=5, lw=1.4, capsize=3, label="held-out, 95 %", zorder=4)
    right.set(xlabel="budget: components replaced together", ylabel=f"mean effect ({unit})")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    rest = f" (the {len(shown)} of {len(mask)} that matter here)" if len(shown) < len(mask) else ""
    words = (f"Left, the values of a relaxed mask as sorted bars{rest}; kept: {', '.join(labels[i] for i in order if i in inside) or 'nothing'}. Right, "
             f"mean effect against budget under this rule, {', '.join(f'{found[b]:.2f}' for b in budgets)} for budgets {budgets[0]} to {budgets[-1]}")
    best = f", below the exact optimum, {', '.join(f'{exact[b]:.2f}' for b in both)}" if both else ""
    return Figure(canvas, f"{words}{best} {unit}; this set has {effect:.2f}.")
