"""The one style of all figures, and the figure that carries its own description."""

from __future__ import annotations

import io
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure as Canvas

# Okabe and Ito's colours; a method keeps its colour and marker everywhere.
STYLE = {
    "exhaustive": ("#000000", "o"), "greedy": ("#0072B2", "s"), "top-k": ("#E69F00", "^"), "pgb": ("#D55E00", "D"),
    "pgb-published": ("#CC79A7", "v"), "guided": ("#009E73", "P"), "random": ("#7F7F7F", "x"),
    "attribution": ("#56B4E9", "<"), "integrated-gradients": ("#8A7600", ">"), "shapley": ("#7A4419", "h"),
    "hard-concrete": ("#4D4D4D", "p"), "dcm": ("#882255", "X"), "circuit-lasso": ("#332288", "*"),
}
DASHES = {"greedy": (0, (5, 1.5)), "top-k": (0, (5, 1.5, 1, 1.5)), "pgb-published": (0, (2, 1)), "random": ":",
          "attribution": (0, (1, 1)), "integrated-gradients": (0, (4, 1, 1, 1, 1, 1)), "shapley": (0, (8, 2)),
          "hard-concrete": (0, (3, 2, 1, 2)), "dcm": (0, (2, 2)), "circuit-lasso": (0, (6, 1, 1, 1, 1, 1, 1, 1))}
LINES = tuple(zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "oDsv^P"))  # for what is no method
INK = "#333333"
TARGET, FOIL, OTHER = "#0072B2", "#E69F00", "#9A9A9A"  # the counterfactual's answer, the base prompt's, and all others
_LAYERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7600", "#7A4419")
_UNITS = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (5, 1.5, 1, 1.5)))


def unit_of(label: str) -> int:
    """The number of a component in its layer, 0 for a whole block."""
    return int(([*re.findall(r"\d+", label), 0, 0])[1])


def component_style(label: str) -> tuple[str, str | tuple]:
    """The colour and dash of a component, the same in all figures: the colour is its layer's, the dash its number's.

        >>> mct.plots.component_style("L1H0"), mct.plots.component_style("L1H1")
        (('#E69F00', '-'), ('#E69F00', (0, (5, 1.5))))
    """
    layer = int(([*re.findall(r"\d+", label), 0])[0])  # a label of its own has no number
    return _LAYERS[layer % len(_LAYERS)], _UNITS[unit_of(label) % len(_UNITS)]


class Figure:
    """A picture with its description: shows as PNG with alt text, prints as the description.

    text: one or two sentences on what it shows. png: the picture's bytes.

        >>> canvas, axes = mct.plots.canvas_of()
        >>> figure = mct.plots.Figure(canvas, "Two empty axes.")
        >>> print(figure)
        Two empty axes.
        >>> figure.save("empty.png").name
        'empty.png'
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


AXES = {"grid.color": "#E3E3E3", "axes.edgecolor": "#9A9A9A", "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
        "ytick.color": INK}


def grid_of(rows: int, columns: int, width: float, height: float, **more):
    """A canvas in the one style with its axes, `(rows, columns)`."""
    with sns.axes_style("whitegrid", AXES):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.subplots(rows, columns, squeeze=False, **more)
    for axis in axes.flat:
        sns.despine(ax=axis)
    return canvas, axes


def canvas_of(width: float = 7.5, height: float = 4, rows: int = 1, **more):
    """Axes one above the other.

        >>> canvas, axes = mct.plots.canvas_of(rows=2)
        >>> len(axes)
        2
    """
    canvas, axes = grid_of(rows, 1, width, height, **more)
    return canvas, axes[:, 0]


def panels(number: int, width: float = 3.4, height: float = 3.2, most: int = 3):
    """Axes side by side, at most three in a row."""
    columns, rows = min(number, most), -(-number // most)
    canvas, axes = grid_of(rows, columns, width * columns + 0.6, height * rows)
    for axis in axes.flat[number:]:
        axis.set_visible(False)
    return canvas, list(axes.flat[:number])


def side_by_side(ratios: Sequence[float], width: float, height: float):
    """Axes beside each other whose widths have these ratios."""
    canvas, axes = grid_of(1, len(ratios), width, height, width_ratios=ratios)
    return canvas, axes[0]


def spread(heights: Sequence[float], gap: float, high: float) -> list[float]:
    """Places for labels beside given heights: in the same order, at least `gap` apart, none above `high`."""
    order = np.argsort(heights, kind="stable")
    places = np.asarray(heights, float)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):  # what stands out at the top is pushed back down
        places[i], high = min(places[i], high), min(places[i], high) - gap
    found = np.empty(len(places))
    found[order] = places
    return found.tolist()


def named(method: str) -> str:
    """The name of a method as figures write it.

        >>> mct.plots.named("exhaustive"), mct.plots.named("greedy")
        ('exact optimum', 'greedy')
    """
    return "exact optimum" if method == "exhaustive" else method
