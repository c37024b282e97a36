"""Figures: one style, safe for colour-blind readers, each with a sentence that says what it shows."""

from __future__ import annotations

import io
import os
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from mctrace_nb.errors import InputError
from mctrace_nb.results import Front, Selection

# Okabe and Ito's colours; a method keeps its colour and marker everywhere.
STYLE = {
    "exhaustive": ("#000000", "o"), "greedy": ("#0072B2", "s"), "top-k": ("#E69F00", "^"), "pgb": ("#D55E00", "D"),
    "pgb-published": ("#CC79A7", "v"), "guided": ("#009E73", "P"), "random": ("#7F7F7F", "x"),
}
DASHES = {"greedy": (0, (5, 1.5)), "top-k": (0, (5, 1.5, 1, 1.5)), "pgb-published": (0, (2, 1)), "random": ":"}
LINES = tuple(zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "oDsv^P"))  # for what is no method
INK = "#333333"


class Figure:
    """A picture with its description: shows as PNG with alt text, prints as the description.

    text: one or two sentences on what it shows. png: the picture's bytes.
    """

    def __init__(self, canvas: Canvas, text: str):
        self.canvas, self.text = canvas, " ".join(text.split())

    @cached_property
    def png(self) -> bytes:
        with io.BytesIO() as buffer:
            self.canvas.savefig(buffer, format="png", dpi=144, bbox_inches="tight", facecolor="white",
                                metadata={"Software": None, "Description": self.text})
            return buffer.getvalue()

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the PNG."""
        path = Path(path)
        path.write_bytes(self.png)
        return path

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": self.png, "text/plain": self.text}, {"image/png": {"alt": self.text}}

    def __repr__(self) -> str:
        return self.text


def _canvas(width: float = 7.5, height: float = 4, rows: int = 1, **more):
    with sns.axes_style("whitegrid", {"grid.color": "#E3E3E3", "axes.edgecolor": "#9A9A9A", "text.color": INK,
                                      "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.subplots(rows, squeeze=False, **more)[:, 0]
    for axis in axes:
        sns.despine(ax=axis)
    return canvas, axes


def front(fronts: Sequence[Front], unit: str = "nats", total: float | None = None, title: str = "") -> Figure:
    """Effect against budget, a line a method; the held-out interval of the first; the band of the random control.

    total: the total effect, drawn as a dashed line.
    """
    canvas, (axis,) = _canvas()
    for number, f in enumerate(fronts):
        colour, marker = STYLE.get(f.method, ("#56B4E9", "*"))
        budgets = [s.budget for s in f.selections]
        effects = [s.effect for s in f.selections]
        if all(s.band for s in f.selections) and f.selections:
            low, high = zip(*[s.band for s in f.selections])
            axis.fill_between(budgets, low, high, color=colour, alpha=0.18, lw=0)
        exact = f.method == "exhaustive"
        # The optimum is a broad line beneath; those that reach it lie on it, each with its own dash and a smaller marker.
        axis.plot(budgets, effects, color=colour, marker=marker, lw=4.5 if exact else 1.6, ms=9 if exact else 7 - number / 2,
                  label=_named(f.method), zorder=2 if exact else 2.5, ls=DASHES.get(f.method, "-"), alpha=0.85)
        if number == 0 and all(s.ci_low is not None for s in f.selections):
            held = np.array([[s.effect_heldout, s.ci_low, s.ci_high] for s in f.selections]).T
            axis.errorbar(np.array(budgets) + 0.08, held[0], [held[0] - held[1], held[2] - held[0]], color=colour,
                          fmt="o", mfc="white", ms=4, lw=1, capsize=2, label="held-out prompts, 95 %", zorder=3.2)
    if total is not None:
        axis.axhline(total, color=INK, lw=1, ls="--")
        axis.annotate("total effect", (0.01, total), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axis.set(xlabel="budget: components replaced together", ylabel=f"mean effect ({unit})", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # never over a line
    ends = "; ".join(f"{'the exact optimum' if f.method == 'exhaustive' else f.method} reaches "
                     f"{f.selections[-1].effect:.2f} at {f.selections[-1].budget}" for f in fronts if f.selections)
    return Figure(canvas, f"Line chart of mean effect ({unit}) against budget for {len(fronts)} methods: {ends}.")


def selection_map(selections: Sequence[Selection], labels: Sequence[str]) -> Figure:
    """Which components each method chose: a row a method, a column for each component that any of them chose.

    labels: all labels in the order of the trace.
    """
    chosen = [label for label in labels if any(label in s.components for s in selections)]
    canvas, (axis,) = _canvas(max(4, 0.55 * len(chosen) + 1.8), 0.42 * len(selections) + 1.1)
    for y, s in enumerate(selections):
        colour = STYLE.get(s.method, ("#56B4E9", "*"))[0]
        for x, label in enumerate(chosen):
            inside = label in s.components
            axis.scatter(x, y, s=150, marker="s", color=colour if inside else "#EDEDED", lw=0)
            if inside:
                axis.scatter(x, y, s=18, marker="o", color="white", lw=0)
    axis.set_xticks(range(len(chosen)), chosen, rotation=60 if len(chosen) > 8 else 0, fontsize=8)
    axis.set_yticks(range(len(selections)), [f"{_named(s.method)}  {s.effect:.2f}" for s in selections], fontsize=9)
    axis.set(ylim=(len(selections) - 0.4, -0.6), xlim=(-0.6, len(chosen) - 0.4))
    axis.grid(False)
    words = "; ".join(f"{_named(s.method)} chose {', '.join(s.components) or 'nothing'}" for s in selections)
    return Figure(canvas, f"Grid of the components that each method chose: {words}.")


def _named(method: str) -> str:
    return "exact optimum" if method == "exhaustive" else method


def singles(frame, unit: str = "nats", most: int = 24) -> Figure:
    """Effect of replacing each component alone, with 95 % intervals; the `most` largest in size, in the trace's order."""
    shown = frame.loc[frame["effect"].abs().nlargest(most).index].sort_index()
    canvas, (axis,) = _canvas(max(4.5, 0.38 * len(shown) + 1), 3)
    x = np.arange(len(shown))
    axis.bar(x, shown["effect"], color="#56B4E9", width=0.7)
    axis.errorbar(x, shown["effect"], [shown["effect"] - shown["ci_low"], shown["ci_high"] - shown["effect"]],
                  fmt="none", color=INK, lw=1, capsize=2)
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xticks(x, shown["component"], rotation=60 if len(shown) > 8 else 0, fontsize=8)
    axis.set(ylabel=f"effect alone ({unit})")
    best = shown.loc[shown["effect"].idxmax()]
    rest = f" (the {len(shown)} largest of {len(frame)})" if len(shown) < len(frame) else ""
    return Figure(canvas, f"Bar chart of the effect of each component replaced alone{rest}; the largest is "
                          f"{best['component']} with {best['effect']:.2f} {unit}.")


def _largest(grid) -> float:
    return np.nanmax(np.abs(np.asarray(grid)))


def _diverging_map(axis, grid, label: str, shrink: float = 0.8, **more) -> None:
    """A heat map whose colours say on which side of zero a value lies, blue above and orange below, and how far."""
    limit = _largest(grid) or 1.0
    sns.heatmap(grid, ax=axis, cmap=sns.diverging_palette(40, 250, s=90, l=50, as_cmap=True), vmin=-limit, vmax=limit,
                annot_kws={"fontsize": 7}, linewidths=0.5, cbar_kws={"label": label, "shrink": shrink}, **more)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="y", labelrotation=0)
    axis.grid(False)


def interactions(frame, unit: str = "nats") -> Figure:
    """Pairwise interactions as a map: joint effect minus the sum of the two singles; blue synergy, orange redundancy."""
    names = list(dict.fromkeys(name for pair in frame["components"] for name in pair))
    order = {name: i for i, name in enumerate(names)}
    grid = np.full((len(names), len(names)), np.nan)
    for (a, b), value in zip(frame["components"], frame["interaction"]):
        grid[order[b], order[a]] = value
    size = 0.4 * len(names) + 1.4
    canvas, (axis,) = _canvas(size + 0.8, size)
    written = np.vectorize(lambda v: f"{v:.1f}".replace("-0.0", "0.0"))(grid) if len(names) <= 14 else False
    with np.errstate(invalid="ignore"):
        _diverging_map(axis, grid, f"interaction ({unit})", 0.7, annot=written, fmt="", xticklabels=names, yticklabels=names,
                       square=True)
    top, low = frame.loc[frame["interaction"].idxmax()], frame.loc[frame["interaction"].idxmin()]
    return Figure(canvas, f"Map of pairwise interactions among {len(names)} components: the strongest synergy is "
                          f"{' with '.join(top['components'])} ({top['interaction']:+.2f} {unit}), the strongest "
                          f"redundancy {' with '.join(low['components'])} ({low['interaction']:+.2f}).")


def per_prompt(halves: dict[str, np.ndarray], unit: str = "nats") -> Figure:
    """The effect on each single prompt, from the smallest to the largest: a mean can hide prompts that do not move at all.

    halves: effects `(n,)` by name, such as {"search prompts": ..., "held-out prompts": ...}.
    """
    canvas, (axis,) = _canvas(6.5, 3)
    for (name, values), (colour, marker) in zip(halves.items(), cycle(LINES)):
        axis.plot((np.arange(len(values)) + 0.5) / len(values), np.sort(values), color=colour, marker=marker, ms=4, lw=1, label=name)
        axis.axhline(values.mean(), color=colour, lw=1, ls=":")
    axis.axhline(0, color=INK, lw=0.8)
    axis.set(xlabel="share of the prompts", ylabel=f"effect on a prompt ({unit})", xlim=(0, 1))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    words = "; ".join(f"{name}: median {np.median(v):.2f}, from {v.min():.2f} to {v.max():.2f}, {np.mean(v <= 0):.0%} not above 0"
                      for name, v in halves.items())
    return Figure(canvas, f"Effect on each prompt, sorted, with the means as dotted lines. {words}.")


def layer_by_token(frame, what: str = "effect", unit: str = "nats") -> Figure:
    """The layer x token picture from `views.Sweep.by_role()` or `.by_token(i)`: rows tokens, columns layers."""
    canvas, (axis,) = _canvas(max(4.5, 0.32 * frame.shape[1] + 3.2), 0.32 * len(frame) + 1.2)
    digits = 1 if (_largest(frame) or 1) >= 1 else 2
    _diverging_map(axis, frame, f"{what} ({unit})", annot=frame.round(digits) + 0.0 if frame.shape[1] <= 8 else False,
                   fmt=f".{digits}f")
    axis.set(xlabel="layer", ylabel="")
    best = frame.stack().abs().idxmax()
    return Figure(canvas, f"Map of the {what} at each token (rows) and layer (columns); the largest in size is {frame.stack()[best]:.2f} "
                          f"{unit} at {best[0]!r}, layer {best[1]}.")


def heads(frame, column: str = "effect", unit: str = "nats") -> Figure:
    """Every head's value as a map: rows layers, columns heads, for frames with `component` and `layer` such as `single_effects()`.

    Raises InputError for components that are no heads.
    """
    numbers = frame["component"].str.extract(r"^L\d+H(\d+)")[0]
    if numbers.isna().any():
        raise InputError(f"{frame['component'][numbers.isna()].iloc[0]!r} is no head; give effects of heads, or use plots.singles")
    grid = frame.assign(head=numbers.astype(int)).pivot(index="layer", columns="head", values=column)
    canvas, (axis,) = _canvas(0.36 * grid.shape[1] + 2.6, 0.3 * grid.shape[0] + 1.2)
    _diverging_map(axis, grid, f"{column.replace('_', ' ')} ({unit})")
    best, low = frame.loc[frame[column].idxmax()], frame.loc[frame[column].idxmin()]
    return Figure(canvas, f"Map of the {column.replace('_', ' ')} of {len(frame)} heads, rows layers and columns heads; the largest is "
                          f"{best['component']} with {best[column]:.3f} ({unit}), the smallest {low['component']} with {low[column]:.3f}.")


def trajectories(selection: Selection, labels: Sequence[str], most: int = 40) -> Figure:
    """The relaxed mask after each epoch, a line a component, with the penalties' growth under it."""
    path = np.asarray(selection.trajectory)  # (epochs + 1, N)
    canvas, (axis, below) = _canvas(7, 4.8, rows=2, sharex=True, height_ratios=[3, 1])
    chosen = set(selection.components)
    moving = sorted(range(path.shape[1]), key=lambda i: (labels[i] not in chosen, -np.ptp(path[:, i])))[:most]
    for i in reversed(moving):
        inside = labels[i] in chosen
        axis.plot(path[:, i], color=STYLE["pgb"][0] if inside else "#B5B5B5", lw=2 if inside else 1, zorder=2 + inside)
        if inside:
            axis.annotate(labels[i], (len(path) - 1, path[-1, i]), xytext=(4, 0), textcoords="offset points", fontsize=8,
                          va="center")
    axis.axhline(0.5, color=INK, lw=0.8, ls="--")
    axis.set(ylabel="mask value", ylim=(-0.04, 1.04))
    epochs = [row["epoch"] for row in selection.history]
    for name, colour, style in (("lambda1", "#0072B2", "-"), ("lambda2", "#009E73", "--")):
        below.plot(epochs, [row[name] for row in selection.history], color=colour, ls=style, label=name)
    below.set(xlabel="epoch", ylabel="penalty")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(frameon=False, fontsize=8)
    return Figure(canvas, f"Mask values over {len(path) - 1} epochs for {len(moving)} components; chosen: "
                          f"{', '.join(selection.components) or 'none'}. Below, the penalties grow with the epoch.")
