"""Figures of what acts together: the subsets of a few components, and methods that search for a set."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mctrace_nb.plots.base import DASHES, INK, STYLE, Figure, canvas_of, named, panels
from mctrace_nb.results import Front
from mctrace_nb.stats import Estimate


def joint(effects: Mapping[tuple[str, ...], Estimate], unit: str = "nats") -> Figure:
    """The effect of every subset of a few components with its 95 % interval, and for sets of two and more what their members' single
    effects sum to.

    effects: by set of labels, smaller sets first.

        >>> sets = [("L1H2",), ("L2H2",), ("L1H2", "L2H2")]
        >>> print(mct.plots.joint({s: trace.indirect_effect(s) for s in sets}))
        Bar chart of the effect (nats) of each subset of components, with 95 % intervals: L1H2 9.46, L2H2 ...
    """
    canvas, (axis,) = canvas_of(max(5.0, 0.85 * len(effects) + 1.4), 3.4)
    said = []
    for x, (members, e) in enumerate(effects.items()):
        many = len(members) > 1
        axis.bar(x, e.mean, color="#0072B2" if many else "#56B4E9", width=0.6)
        axis.errorbar(x, e.mean, [[max(0.0, e.mean - e.low)], [max(0.0, e.high - e.mean)]], fmt="none", color=INK, lw=1, capsize=3)
        axis.annotate(f"{e.mean:.2f}".replace("-0.00", "0.00"), (x, max(0.0, e.mean, e.high)), xytext=(0, 4), textcoords="offset points",
                      ha="center", fontsize=8)
        if many:
            alone = sum(effects[(name,)].mean for name in members)
            axis.plot([x - 0.3, x + 0.3], [alone, alone], color="white", lw=3.5, zorder=3)  # so that the dashes are seen on the bar
            axis.plot([x - 0.3, x + 0.42], [alone, alone], color=INK, lw=1.5, ls=(0, (3, 1.5)), marker="D", mfc="white", mec=INK, ms=6,
                      markevery=[1], zorder=3.1, label=None if said else "sum of the single effects")
            said.append(f"{' and '.join(members)} together {e.mean:.2f} against a sum of {alone:.2f}")
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xticks(range(len(effects)), ["\n".join(members) or "nothing" for members in effects], fontsize=9)
    axis.set(ylabel=f"effect ({unit})")
    axis.margins(y=0.14)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    singles = ", ".join(f"{members[0]} {e.mean:.2f}" for members, e in effects.items() if len(members) == 1)
    return Figure(canvas, f"Bar chart of the effect ({unit}) of each subset of components, with 95 % intervals: {singles} alone; "
                          f"{'; '.join(said)}.")


def race(fronts: Sequence[Front], budget: int, unit: str = "nats") -> Figure:
    """How far methods get: on the left their fronts, with a budget marked; on the right, at this budget, effect against work.

    Work is counted in runs of a prompt, forward and backward, up to the set of this budget; of a method that finds all
    budgets in one run, of that run.

        >>> print(mct.plots.race([mct.search(trace, method, [1, 2]) for method in ("greedy", "top-k")], budget=2))
        Left: mean effect (nats) against budget for 2 methods. Right: effect against work at budget 2: ...
    """
    canvas, (left, right) = panels(2, 4.4, 3.6)
    here = []
    for number, f in enumerate(fronts):  # each smaller than the one before, so that those that find the same are seen
        colour, marker = STYLE.get(f.method, ("#56B4E9", "*"))
        exact, x = f.method == "exhaustive", [s.budget for s in f.selections]
        size, width = (9, 5) if exact else (max(3, 7 - 0.7 * number), max(1, 3 - 0.4 * number))
        if f.method == "random" and f.selections:
            left.fill_between(x, *zip(*[s.band for s in f.selections]), color=colour, alpha=0.18, lw=0)
        left.plot(x, [s.effect for s in f.selections], color=colour, marker=marker, ms=size, lw=width,
                  ls=DASHES.get(f.method, "-"), zorder=2 if exact else 2.5, alpha=0.85, label=named(f.method))
        here += [s for s in f.selections if s.budget == budget]
    left.axvline(budget, color=INK, lw=1, ls=":")
    left.set(xlabel="budget: components replaced together", ylabel=f"mean effect ({unit})", title="all budgets")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=min(7, len(fronts)))
    here.sort(key=lambda s: s.forwards + s.backwards)
    points = np.array([[np.log10(s.forwards + s.backwards), s.effect] for s in here]).reshape(-1, 2)
    apart = np.ptp(points, 0) * (0.35, 0.2) + 1e-9 if here else None  # nearer than this, names would lie on each other
    places: list[int] = []
    for s, point in zip(here, points):
        colour, marker = STYLE.get(s.method, ("#56B4E9", "*"))
        near = [place for place, other in zip(places, points) if (np.abs(other - point) < apart).all()]
        places.append(next(place for place in range(len(here)) if place not in near))
        right.scatter(s.forwards + s.backwards, s.effect, color=colour, marker=marker, s=60, zorder=3)
        right.annotate(named(s.method), (s.forwards + s.backwards, s.effect), textcoords="offset points", ha="center", va="center",
                       xytext=(0, (13 + 11 * (places[-1] // 2)) * (-1) ** places[-1]), fontsize=8)
    right.set(xlabel="work: runs of a prompt", xscale="log", title=f"budget {budget}")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    right.xaxis.set_minor_locator(NullLocator())
    right.margins(x=0.2, y=0.22)
    words = ", ".join(f"{named(s.method)} {s.effect:.2f} for {s.forwards + s.backwards:,} runs" for s in here)
    return Figure(canvas, f"Left: mean effect ({unit}) against budget for {len(fronts)} methods. Right: effect against work at budget "
                          f"{budget}: {words}.")
