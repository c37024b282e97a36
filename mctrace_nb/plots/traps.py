"""A wrong number and the right one side by side, beside the list of all traps."""

from __future__ import annotations

from textwrap import fill
from typing import Sequence

from mctrace_nb.plots.base import FOIL, INK, TARGET, Figure, side_by_side


def wrong_and_right(names: Sequence[str], wrong: Sequence[float], right: Sequence[float], units: Sequence[str], said: Sequence[tuple[str, str]],
                    shown: int) -> Figure:
    """Left, the wrong and the right value of trap number `shown` as bars; right, all of them as a list, that one marked.

    said: each pair of values as it is written.

        >>> mct.plots.wrong_and_right(["one", "two"], [0, 1], [2, 1.5], ["nats", "nats"], [("0", "2"), ("1", "1.5")], 0)
        Two bars for the trap 'one': the wrong way gives 0, the right one 2 (n...
    """
    canvas, (bars, rows) = side_by_side([1, 2.3], 10.4, 5.2)
    values = wrong[shown], right[shown]
    bars.bar([0, 1], values, width=0.6, color=[FOIL, TARGET], hatch=["//", ""], edgecolor="black", lw=1)
    bars.axhline(0, color=INK, lw=1)
    bars.margins(y=0.16)
    for x, value in enumerate(values):
        bars.annotate(said[shown][x], (x, value), xytext=(0, -4 if value < 0 else 4), textcoords="offset points", ha="center",
                      va="top" if value < 0 else "bottom", fontsize=12, fontweight="bold")
    bars.set_xticks([0, 1], ["wrong", "right"], fontsize=11)
    bars.tick_params(axis="x", length=0)
    bars.set(ylabel=units[shown], xlim=(-0.6, 1.6))
    bars.set_title(fill(names[shown], 26), fontsize=11)
    bars.grid(False, axis="x")
    rows.axis("off")
    rows.set(xlim=(0, 1), ylim=(len(names) - 0.4, -1.5))
    rows.axhspan(shown - 0.5, shown + 0.5, color=TARGET, alpha=0.15)
    columns = ((0.035, "left"), (0.56, "right"), (0.68, "right"), (0.71, "left"))
    for place, (x, align) in zip(("trap", "wrong", "right", "of what"), columns):
        rows.text(x, -1, place, ha=align, va="center", fontsize=9, color=INK)
    for i, (name, pair, unit) in enumerate(zip(names, said, units)):
        for text, (x, align) in zip((name, *pair, unit), columns):
            rows.text(x, i, text, ha=align, va="center", fontsize=9, fontweight="bold" if i == shown else "normal")
    rows.plot([0.015], [shown], ">", color=INK, ms=6)
    return Figure(canvas, f"Two bars for the trap '{names[shown]}': the wrong way gives {said[shown][0]}, the right one {said[shown][1]} "
                          f"({units[shown]}). Beside them a list of {len(names)} traps with both values of each.")
