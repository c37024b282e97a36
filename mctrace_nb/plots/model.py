"""Figures of the model itself: what is replaced in it and what it then answers, and how a total effect is made up."""

from __future__ import annotations

import re

import numpy as np
import seaborn as sns
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import FOIL, INK, OTHER, TARGET, Figure, canvas_of, side_by_side
from mctrace_nb.results import Front

CELLS = 16  # units of a layer that have a cell each; more are drawn as one bar a layer, with a line where a unit is lit
BAR = 6  # cells that such a bar is wide
HATCH, AFTER = "////", "#6E6E6E"  # of what is replaced, and of what then is answered


def _cells(axis, left: float, layer: int, labels: list[str], chosen: list[str]) -> None:
    """A layer of few units: a cell each, its label in it."""
    for unit, label in enumerate(labels):
        lit = label in chosen
        axis.add_patch(Rectangle((left + unit, layer - 0.42), 0.85, 0.84, fc=AFTER if lit else "#EFEFEF", hatch=HATCH if lit else "",
                                 ec="white" if lit else "#BDBDBD", lw=0 if lit else 0.8))
        if lit or len(labels) <= 8:
            axis.annotate(label.partition(".pattern")[0], (left + unit + 0.425, layer), ha="center", va="center", fontsize=7, color=INK,
                          weight="bold" if lit else "normal", bbox=dict(boxstyle="round,pad=0.15", fc="white", ec="none") if lit else None)


def _strip(axis, left: float, layer: int, labels: list[str], chosen: list[str]) -> None:
    """A layer of many units: one bar, with a line and a name where a unit is lit; neighbours' names stand above one another."""
    axis.add_patch(Rectangle((left, layer - 0.42), BAR - 0.15, 0.84, fc="#EFEFEF", ec="#BDBDBD", lw=0.8))
    for number, unit in enumerate([u for u, label in enumerate(labels) if label in chosen]):
        x = left + (unit + 0.5) / len(labels) * (BAR - 0.15)
        axis.plot([x, x], [layer - 0.42, layer + 0.42], color=AFTER, lw=3, solid_capstyle="butt")
        name = re.sub(r"^L\d+\.?", "", labels[unit])
        axis.annotate(name, (x, layer + (-0.2, 0.2)[number % 2]), ha="center", va="center", fontsize=7, weight="bold", color=INK,
                      bbox=dict(boxstyle="round,pad=0.1", fc="white", ec="none"))


def _grid(axis, components: Components, chosen: list[str]) -> None:
    """The model as a grid: rows layers, from the first on top, columns units; replaced components are hatched and named."""
    left = 0.0
    for kind in components.kinds:
        units = components.units[kind]
        draw, wide = (_cells, units) if units <= CELLS else (_strip, BAR)
        axis.text(left + wide / 2, -0.6, f"{kind}\n{units} a layer", ha="center", va="bottom", fontsize=7.5)
        for layer in range(components.layers):
            draw(axis, left, layer, components.labels[components.slices[kind, layer]], chosen)
        left += max(wide, 2) + 0.6
    axis.set(xlim=(-0.1, left - 0.5), ylim=(components.layers - 0.4, -1.4), xticks=[])
    step = -(-components.layers // 16)
    axis.set_yticks(range(0, components.layers, step), [f"layer {i}" for i in range(0, components.layers, step)], fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)


def _words(token: str) -> str:
    return token.replace("$", r"\$")  # else matplotlib reads formulas


def _answers(axis, frame) -> None:
    """Horizontal bars of each token's probability, before and (hatched) after."""
    colours = [TARGET if a.startswith("target") else FOIL if a == "foil" else OTHER for a in frame["answer"]]
    for shift, column, hatch in ((-0.2, "before", ""), (0.2, "after", HATCH)):
        y = np.arange(len(frame)) + shift
        axis.barh(y, frame[column], height=0.36, color=colours, hatch=hatch, edgecolor="white", lw=0)
        for at, value in zip(y, frame[column]):
            axis.annotate(f"{value:.2f}", (value, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5)
    names = [_words(t) + (f"\n({a})" if a else "") for t, a in zip(frame["token"], frame["answer"])]
    axis.set_yticks(range(len(frame)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="probability as the next token", xlim=(0, 1.12))
    axis.grid(False, axis="y")
    axis.legend(handles=[Patch(fc=AFTER, label="before"), Patch(fc=AFTER, hatch=HATCH, ec="white", lw=0, label="after")],
                frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _budgets(axis, front: Front, budget: int, total: float, unit: str) -> None:
    """Mean effect against budget, the budget at hand ringed, the total effect dashed."""
    axis.plot([s.budget for s in front.selections], [s.effect for s in front.selections], color="#009E73", marker="P", lw=1.6, ms=6)
    axis.scatter([budget], [front[budget].effect], s=160, facecolors="none", edgecolors=INK, lw=1.6, zorder=3)
    axis.axhline(total, color=INK, lw=1, ls="--")
    axis.annotate("total effect", (0.02, total), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
                  fontsize=7.5)
    axis.set(xlabel="budget", ylabel=f"mean effect ({unit})")
    axis.margins(y=0.15)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def replaced(components: Components, chosen, answers, front: Front | None = None, total: float = 0.0, unit: str = "nats") -> Figure:
    """The model as a grid with the replaced components lit, and beside it what it answers on one prompt before and after.

    chosen: labels. answers: the frame of `views.answers`. front, total: a front whose set of this size is shown, in a third panel,
    and the total effect. Raises InputError for a label that the components do not have.

        >>> print(mct.plots.replaced(trace.components, ["L1H2"], mct.answers(trace, ["L1H2"])))
        Grid of the model's 12 components in 3 layers, L1H2 lit; beside it the probability of the next ...
    """
    chosen = [chosen] if isinstance(chosen, str) else list(chosen)
    for label in chosen:
        components.index(label)
    wide = sum(max(2, components.units[k] if components.units[k] <= CELLS else BAR) for k in components.kinds)
    ratios = [max(2.2, 0.5 * wide + 0.9), 3.2] + [2.4] * (front is not None)
    height = min(7.0, max(2.9, 0.4 * components.layers + 1.1, 0.48 * len(answers) + 0.9))
    canvas, axes = side_by_side(ratios, sum(ratios) + 0.6, height)
    _grid(axes[0], components, chosen)
    _answers(axes[1], answers)
    if front is not None:
        _budgets(axes[2], front, len(chosen), total, unit)
    said = ", ".join(f"{r.token}{f' ({r.answer})' if r.answer else ''} from {r.before:.2f} to {r.after:.2f}"
                     for r in answers.itertuples() if r.answer)
    first = " Of longer answers the first token is shown." if answers["token"].str.endswith("...").any() else ""
    points = "" if front is None else (f" Third panel: mean effect against budget, {front[len(chosen)].effect:.2f} {unit} at "
                                       f"{len(chosen)}, total effect {total:.2f}.")
    return Figure(canvas, f"Grid of the model's {len(components)} components in {components.layers} layers, "
                          f"{', '.join(chosen) or 'none'} lit; beside it the probability of the next token before and after these are "
                          f"replaced: {said}.{first}{points}")


def mediation(frame, unit: str = "nats", title: str = "") -> Figure:
    """How direct and indirect effect and the remainder add up to the total effect: the frame of `Trace.mediation`.

    A step each, from nothing to the total, with 95 % intervals of the steps where there are any. Raises InputError for a frame
    without these rows.

        >>> print(mct.plots.mediation(trace.mediation(["L1H2"])))
        Steps from nothing to the total effect of 17.05 nats: direct +7.17, indirect +9.46, remainder +0.42.
    """
    parts = ["direct", "indirect", "remainder"]
    if not {*parts, "total"} <= set(frame.index):
        raise InputError(f"rows {', '.join(map(str, frame.index))}: give the frame of trace.mediation(...), with total, {', '.join(parts)}")
    canvas, (axis,) = canvas_of(6.4, 3.4)
    names = ["direct effect\n(NDE)", "indirect effect\n(NIE)", "remainder\nTE - NDE - NIE", "total effect\n(TE)"]
    start = 0.0
    for x, (name, colour) in enumerate(zip([*parts, "total"], ("#009E73", "#0072B2", "#D55E00", "#7F7F7F"))):
        row, base = frame.loc[name], 0.0 if name == "total" else start
        end = base + row["mean"]
        axis.bar(x, row["mean"], bottom=base, color=colour, width=0.6, hatch="//" if row["mean"] < 0 else "", edgecolor="white")
        if np.isfinite(row["low"]):
            axis.errorbar(x, end, [[row["mean"] - row["low"]], [row["high"] - row["mean"]]], fmt="none", color=INK, lw=1.2, capsize=4)
        top = max(base, end, base + row["high"] if np.isfinite(row["high"]) else end)
        axis.annotate(f"{row['mean']:.2f}" if name == "total" else f"{row['mean']:+.2f}", (x, top), xytext=(0, 4),
                      textcoords="offset points", ha="center", fontsize=9)
        if x:
            axis.plot([x - 0.7, x - 0.3], [start, start], color=INK, lw=0.9, ls=":")
        start = end if name != "total" else start
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xticks(range(4), names, fontsize=9)
    axis.set(ylabel=f"effect ({unit})", title=_words(title))
    axis.title.set_fontsize(9)
    axis.margins(y=0.14)
    axis.grid(False, axis="x")
    words = ", ".join(f"{n} {frame.loc[n, 'mean']:+.2f}" for n in parts)
    return Figure(canvas, f"Steps from nothing to the total effect of {frame.loc['total', 'mean']:.2f} {unit}: {words}.")
