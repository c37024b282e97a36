"""Observation beside intervention: strengths and effects, draw by draw, component by component, budget by budget."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np

from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import DASHES, INK, STYLE, Figure, canvas_of, named, panels
from mctrace_nb.results import Front
from mctrace_nb.stability import jaccard, jaccard_by_chance

STRENGTH, EFFECT = STYLE["circuit-lasso"][0], "#56B4E9"
_PAIR = (("#0072B2", "o", -0.16), ("#D55E00", "D", 0.16))


def draws(frame, read: str, unread: str) -> Figure:
    """The strengths that regression gives two components, on several draws of prompts; a line joins the two of a draw.

    frame: a row a draw, with `prompts` (how many) and a column for each of the two labels. read: the one that is read by others.

        >>> import pandas as pd
        >>> print(mct.plots.draws(pd.DataFrame({"prompts": [100, 100], "L0H1": [0.5, 0.4], "L0H2": [0.3, 0.5]}), "L0H1", "L0H2"))
        Strengths into the answer of L0H1, which is read, and L0H2, which says the same and is not, a line ...
    """
    sizes = sorted(frame["prompts"].unique())
    canvas, (axis,) = canvas_of(max(5.0, 1.5 * len(sizes) + 1.5), 3.4)
    said = []
    for x, size in enumerate(sizes):
        mine = frame[frame["prompts"] == size]
        for one, other in zip(mine[read], mine[unread]):
            axis.plot([x + _PAIR[0][2], x + _PAIR[1][2]], [one, other], color="#B5B5B5", lw=0.9, zorder=1)
        for name, words, (colour, marker, shift) in zip((read, unread), ("is read", "is not read"), _PAIR):
            axis.plot([x + shift] * len(mine), mine[name], ls="", color=colour, marker=marker, mfc="white" if name == unread else colour, ms=6,
                      label=None if x else f"{name}, {words}")
        said.append(f"{int((mine[read] > mine[unread]).sum())} of {len(mine)} draws of {size} prompts")
    axis.set_xticks(range(len(sizes)), [f"{size} prompts" for size in sizes])
    axis.set(ylabel="strength into the answer", xlim=(-0.5, len(sizes) - 0.5), ylim=(-0.03, None))
    axis.grid(False, axis="x")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Figure(canvas, f"Strengths into the answer of {read}, which is read, and {unread}, which says the same and is not, a line a draw of prompts. "
                          f"The one that is read has more in {', in '.join(said)}.")


def observed(labels: Sequence[str], flow: Sequence[float], effect: Sequence[float], chosen: Sequence[str], best: Sequence[str],
             unit: str = "nats", most: int = 16) -> Figure:
    """Flow by observation and effect by intervention of each component side by side, both as shares of their largest; marks over
    the observed set and over the best set.

    flow, effect: `(N,)`; effects below zero are drawn below zero. most: that many components with the largest of either, and all that
    are in a set.

        >>> print(mct.plots.observed(["L0H1", "L0H2"], flow=[0.5, 0.4], effect=[3.0, 0.0], chosen=["L0H1"], best=["L0H1"]))
        Bars for each component: flow by observation, largest for L0H1, beside the effect of replacing it ...
    """
    flow, effect = np.asarray(flow, dtype=float), np.asarray(effect, dtype=float)
    shares = [values / (np.abs(values).max() or 1.0) for values in (flow, effect)]
    order = np.argsort(-np.maximum(shares[0], np.abs(shares[1])), kind="stable")[:most].tolist()
    shown = [i for i, label in enumerate(labels) if i in order or label in chosen or label in best]
    canvas, (axis,) = canvas_of(max(6.0, 0.5 * len(shown) + 2.4), 3.5)
    for shift, values, colour, hatch, name in ((-0.2, shares[0], STRENGTH, "//", "flow (observed)"), (0.2, shares[1], EFFECT, "", "effect alone (intervened)")):
        axis.bar(np.arange(len(shown)) + shift, values[shown], width=0.38, color=colour, hatch=hatch, edgecolor="white", lw=0.5, label=name)
    for height, members, marker, colour, name in ((1.1, chosen, "v", STRENGTH, "observed set"), (1.24, best, "o", "black", "best set")):
        axis.plot([x for x, i in enumerate(shown) if labels[i] in members], [height] * sum(labels[i] in members for i in shown), marker, color=colour,
                  ms=8, ls="", label=name)
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xticks(range(len(shown)), [labels[i] for i in shown], rotation=60 if len(shown) > 8 else 0, fontsize=8)
    lowest = min(-0.03, 1.15 * shares[1][shown].min())
    axis.set(ylabel="share of the largest", ylim=(lowest, 1.33), xlim=(-0.6, len(shown) - 0.4))
    axis.set_yticks([x for x in np.linspace(-1, 1, 9) if x >= lowest])
    axis.grid(False, axis="x")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    rest = f" (the {len(shown)} of {len(labels)} that matter here)" if len(shown) < len(labels) else ""
    top, alone = labels[int(flow.argmax())], labels[int(np.abs(effect).argmax())]
    return Figure(canvas, f"Bars for each component{rest}: flow by observation, largest for {top}, beside the effect of replacing it alone, largest for "
                          f"{alone} ({effect[int(np.abs(effect).argmax())]:.2f} {unit}). Marked: the observed set, {', '.join(chosen) or 'nothing'}, and the "
                          f"best set, {', '.join(best)}.")


def overlaps(cases: Mapping[str, Sequence[Front]], components: Mapping[str, int], most: int = 2) -> Figure:
    """Overlap (Jaccard index) with the exact best set against budget, a panel a case, `most` panels in a row; a dotted line is what two random sets
    have in common on average.

    cases: fronts by title, one of them of method "exhaustive". components: how many there are, by title. Raises InputError without the exact front.

        >>> fronts = [mct.search(trace, method, [1, 2]) for method in ("exhaustive", "greedy")]
        >>> print(mct.plots.overlaps({"names": fronts}, {"names": 12}))
        Overlap (Jaccard index) with the exact best set against budget in 1 cases. names, greedy: 1.00, 1.00.
    """
    canvas, axes = panels(len(cases), 3.9, 2.9, most)
    said = []
    for number, (axis, (title, fronts)) in enumerate(zip(axes, cases.items())):
        exact = [f for f in fronts if f.method == "exhaustive"]
        if not exact:
            raise InputError(f"{title!r} has no exact front to compare with; add one of method 'exhaustive'")
        best = {s.budget: s.components for s in exact[0].selections}
        axis.plot(list(best), [jaccard_by_chance(components[title], b) for b in best], color=INK, lw=1, ls=":", label="two random sets, on average")
        for f in (f for f in fronts if f.method != "exhaustive"):
            colour, marker = STYLE.get(f.method, (EFFECT, "*"))
            shares = [jaccard(s.components, best[s.budget]) for s in f.selections]
            axis.plot([s.budget for s in f.selections], shares, color=colour, marker=marker, ls=DASHES.get(f.method, "-"), ms=9 if marker == "*" else 6,
                      lw=1.8, label=named(f.method), clip_on=False, zorder=3)
            said.append(f"{title}, {f.method}: {', '.join(f'{x:.2f}' for x in shares)}")
        axis.set(title=title, ylim=(-0.05, 1.08), xlabel="budget")
        axis.set_xticks(list(best))
        if number % most == 0:
            axis.set_ylabel("overlap with the best set")
    canvas.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return Figure(canvas, f"Overlap (Jaccard index) with the exact best set against budget in {len(cases)} cases. {'; '.join(said)}.")
