"""A circuit drawn from left to right in the order of computation: the stronger an edge, the wider."""

from __future__ import annotations

import re

import seaborn as sns
from matplotlib.patches import FancyArrowPatch

from mctrace_nb.circuits import ANSWER, EMBED, Circuit
from mctrace_nb.plots.base import INK, OTHER, TARGET, Figure, canvas_of

WIDEST = 5.0  # points
SHOWN = 80  # edges; more are a tangle


def _place(label: str, last: int) -> tuple[float, float]:
    """Where a node stands: the layers are columns, the heads one above the other, the MLP of a layer to the right and below."""
    if label in (EMBED, ANSWER):
        return (-1.0, 0.5) if label == EMBED else (last + 1.2, 0.5)
    layer, unit = re.match(r"L(\d+)(?:H(\d+))?", label).groups()
    if unit is not None:
        return float(layer), 1.0 + int(unit)
    return (float(layer), 1.0) if label.endswith(".attn") else (int(layer) + 0.5, 0.0)


def circuit(found: Circuit, threshold: float = 0.2, true: set[tuple[str, str]] | None = None, title: str = "") -> Figure:
    """The edges of a circuit at a threshold (a share of the strongest, see `Circuit.edges`), at most the `SHOWN` strongest; the width of an edge is
    its strength. true: the planted edges, if they are known: edges that are not among them are dashed, missing ones dotted.

        >>> print(mct.plots.circuit(mct.circuit_lasso(trace), threshold=0.2))
        Circuit by circuit-lasso, layers from left to right, width by strength: 14 edges of at least 20% of ...
    """
    frame = found.to_frame(threshold)
    kept, more = frame.head(SHOWN), max(0, len(frame) - SHOWN)
    last = max((int(label[1:].split("H")[0].split(".")[0]) for label in found.nodes if label not in (EMBED, ANSWER)), default=0)
    place = {label: _place(label, last) for label in found.nodes}
    highest = max(y for _, y in place.values())
    canvas, (axis,) = canvas_of(min(14.0, 3.0 + 2.0 * (last + 1)), min(9.0, 1.8 + 0.55 * highest))
    right, missing = kept, set()
    if true is not None:
        right, missing = kept[[(r.source, r.target) in true for r in kept.itertuples()]], true - found.edges(threshold)
    strongest = frame["strength"].max() if len(frame) else 1.0
    for row in kept.itertuples():
        ours = true is None or (row.source, row.target) in true
        _arrow(axis, place[row.source], place[row.target], TARGET if ours else "#D55E00", max(0.6, WIDEST * row.strength / strongest), "-" if ours else (0, (3, 1.5)))
    for source, target in missing:
        _arrow(axis, place[source], place[target], INK, 1.2, ":")
    used = {EMBED, ANSWER, *kept["source"], *kept["target"], *(node for edge in missing for node in edge)}
    for label, (x, y) in place.items():
        axis.annotate(label, (x, y), ha="center", va="center", fontsize=8, color=INK if label in used else OTHER, weight="bold" if label in used else "normal",
                      bbox=dict(boxstyle="round,pad=0.25", fc="white", ec=INK if label in used else "#D0D0D0", lw=0.8))
    axis.set(xlim=(-1.5, last + 1.8), ylim=(-0.7, highest + 0.7), xticks=[i + 0.25 for i in range(last + 1)], yticks=[], title=title)
    axis.set_xticklabels([f"layer {i}" for i in range(last + 1)])
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    return Figure(canvas, _described(found, frame, more, None if true is None else (len(right), len(frame) - len(right), len(missing)), threshold))


def _arrow(axis, start, end, colour, width, dash) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=13, shrinkB=13, color=colour, lw=width, ls=dash, alpha=0.75,
                                   connectionstyle="arc3,rad=0.12"))


def _described(found: Circuit, frame, more: int, against, threshold: float) -> str:
    strongest = "; ".join(f"{r.source} to {r.target} {r.strength:.2f}" for r in frame.head(5).itertuples())
    text = f"Circuit by {found.method}, layers from left to right, width by strength: {len(frame)} edges of at least {threshold:.0%} of the strongest"
    text += f", {more} of them not drawn" * bool(more) + (f". Strongest: {strongest}." if strongest else ".")
    if against is not None:
        text += f" Of the planted edges {against[0]} are found and {against[2]} missing (dotted); {against[1]} are not planted (dashed)."
    return text
