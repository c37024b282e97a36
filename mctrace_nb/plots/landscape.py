"""Figures of the relaxation: the objective over two mask values, effects along a mask, the slope that each transform leaves."""

from __future__ import annotations

from typing import Mapping

import matplotlib.patheffects as outline
import numpy as np

from mctrace_nb.landscape import Landscape
from mctrace_nb.plots.base import INK, LINES, Figure, canvas_of, component_style, side_by_side, spread

LOSSES = {"inverse": "mean of 1 / (1 + rho)", "log": "- mean effect / total effect", "raw": "- mean of rho"}
_WRITTEN = dict(fontsize=8, bbox=dict(boxstyle="round,pad=0.2", fc="white", ec="none", alpha=0.85))


def landscape(seen: Landscape) -> Figure:
    """The objective over two mask values with the effects of its corners, the mask, its slope and a descent from there; beside it the
    effect along each entry, a dot where the mask is.

        >>> print(mct.plots.landscape(mct.landscape(trace, {"L1H2": 0.5, "L2H2": 0.5})))
        Map of the inverse objective over the mask values of L1H2 and L2H2: effects at the corners 0.00 ...
    """
    canvas, (axis, beside) = side_by_side([1.15, 1], 9, 3.9)
    colours = axis.contourf(seen.ticks, seen.ticks, seen.objective, levels=14, cmap="cividis")
    canvas.colorbar(colours, ax=axis, label="objective (less is better)")
    ends = seen.effects[[0, 0, -1, -1], [0, -1, 0, -1]]
    for (x, y), effect in zip(((0, 0), (1, 0), (0, 1), (1, 1)), ends):
        axis.annotate(f"{effect:.2f}", (x, y), xytext=(6 - 12 * x, 6 - 12 * y), textcoords="offset points", ha="right" if x else "left",
                      va="top" if y else "bottom", **_WRITTEN)
    edge = [outline.withStroke(linewidth=3.5, foreground="white")]
    axis.plot(*seen.path.T, color="black", marker=".", ms=4, lw=1, path_effects=edge, clip_on=False, zorder=3)
    point, slope = seen.path[0], np.array([seen.gradient[seen.across], seen.gradient[seen.up]])
    size = float(np.hypot(*slope))
    if size > 0:
        axis.annotate("", point - 0.16 * slope / size, point, arrowprops=dict(arrowstyle="-|>", color="#D55E00", lw=2, shrinkA=0, shrinkB=0),
                      annotation_clip=False)
    axis.plot(*point, marker="o", ms=9, mfc="white", mec="black", mew=1.5, clip_on=False, zorder=4)
    axis.plot(*seen.path[-1], marker="s", ms=7, mfc="#56B4E9", mec="black", mew=1, clip_on=False, zorder=4)
    axis.set(xlabel=f"mask of {seen.across} (circle: here, square: end of the descent)", ylabel=f"mask of {seen.up}", xlim=(0, 1), ylim=(0, 1), aspect="equal",
             title=f"{LOSSES[seen.transform]}" + (f" + {seen.lambda1:g} sum m" if seen.lambda1 else ""))
    axis.title.set_fontsize(9)
    axis.grid(False)
    _lines(beside, seen.ticks, seen.slices, seen.unit)
    for name, values in seen.slices.items():
        beside.plot(seen.mask[name], np.interp(seen.mask[name], seen.ticks, values), marker="o", ms=6, mfc="white",
                    mec=component_style(name)[0], mew=1.5, clip_on=False, zorder=4)
    beside.set(xlabel="mask of one entry, the others as they are")
    end = ", ".join(f"{x:.2f}" for x in seen.path[-1])
    return Figure(canvas, f"Map of the {seen.transform} objective over the mask values of {seen.across} and {seen.up}: effects at the corners "
                          f"{ends[0]:.2f} (neither), {ends[1]:.2f} ({seen.across}), {ends[2]:.2f} ({seen.up}), {ends[3]:.2f} {seen.unit} (both); a "
                          f"descent from ({point[0]:.2f}, {point[1]:.2f}) ends at ({end}). Beside it the effect along each entry, from 0 to 1.")


def _lines(axis, ticks: np.ndarray, lines: Mapping[str, np.ndarray], unit: str) -> None:
    """Lines with their names at their right ends; a component keeps its colour and dash, a set is black."""
    top, low = max(map(np.max, lines.values())), min(map(np.min, lines.values()))
    places = spread([values[-1] for values in lines.values()], 0.07 * (top - low or 1), top)
    for (name, values), height in zip(lines.items(), places):
        colour, dash = (INK, "-") if "," in name else component_style(name)
        axis.plot(ticks, values, color=colour, ls=dash, lw=2)
        axis.annotate(name, (1.02, height), fontsize=8, va="center", annotation_clip=False)
    axis.axhline(0, color=INK, lw=0.8)
    axis.set(ylabel=f"effect ({unit})", xlim=(0, 1))


def along(ticks, lines: Mapping[str, np.ndarray], unit: str = "nats") -> Figure:
    """Effects of masks that grow from 0 to 1, a line a name ("L0H0", or "L0H0, L0H3" for a set), with straight lines for comparison.

    ticks: (P,) mask values. lines: (P,) mean effects by name.

        >>> import torch
        >>> ticks = torch.linspace(0, 1, 5)
        >>> print(mct.plots.along(ticks, {"L1H2": trace.effects(ticks[:, None] * trace.components.mask(["L1H2"])).mean(-1)}))
        Line chart of the mean effect (nats) against the mask value, with dotted straight lines between the ...
    """
    ticks, lines = np.asarray(ticks), {name: np.asarray(values) for name, values in lines.items()}
    canvas, (axis,) = canvas_of(6, 3.4)
    for values in lines.values():
        axis.plot([0, 1], values[[0, -1]], color="#9A9A9A", lw=1, ls=":")
    _lines(axis, ticks, lines, unit)
    axis.set(xlabel="mask value m")
    half = ", ".join(f"{name} {np.interp(0.5, ticks, values):.2f} at one half and {values[-1]:.2f} at 1" for name, values in lines.items())
    return Figure(canvas, f"Line chart of the mean effect ({unit}) against the mask value, with dotted straight lines between the ends: {half}.")


def slopes(total: float, effects=None) -> Figure:
    """How strongly each transform still pulls at a prompt with a given effect: the size of its derivative, on a logarithmic axis.

    total: |total effect|, the scale of "log", in nats. effects: (n,) effects of a set on prompts, marked on the axis.

        >>> print(mct.plots.slopes(total=17.0, effects=trace.effects(["L1H2"])))
        Size of the derivative of each transform against the effect on a prompt, logarithmic: inverse falls ...
    """
    effects = None if effects is None else np.asarray(effects)
    top = max(total, 5.0, *(() if effects is None else effects))
    x = np.linspace(-2, top, 100)
    canvas, (axis,) = canvas_of(6.5, 3.4)
    pulls = {"inverse": np.exp(-x), "log": np.full_like(x, 1 / total), "raw": np.exp(x)}
    for (name, y), (colour, _), dash in zip(pulls.items(), LINES, ("-", (0, (5, 1.5)), (0, (2, 1)))):
        axis.plot(x, y, color=colour, ls=dash, lw=2)
        axis.annotate(name, (top, y[-1]), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=colour)
    if effects is not None:
        axis.plot(effects, np.full(len(effects), 0.03), ls="", marker="|", ms=9, color=INK,
                  transform=axis.get_xaxis_transform())
    axis.set(xlabel="effect on a prompt (nats)", ylabel="|derivative of its loss|", yscale="log", xlim=(-2, top))
    marked = "" if effects is None else f" Strokes mark the effects of {len(effects)} prompts, {effects.min():.1f} to {effects.max():.1f} nats."
    return Figure(canvas, f"Size of the derivative of each transform against the effect on a prompt, logarithmic: inverse falls to "
                          f"{np.exp(-top):.0e} at {top:.1f} nats, log stays at {1 / total:.2f}, raw rises to {np.exp(top):.0e}.{marked}")
