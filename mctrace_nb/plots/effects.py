"""Figures of effects: one component at a time, pairs, prompts, layers and tokens."""

from __future__ import annotations

from itertools import cycle
from typing import Mapping, Sequence

import numpy as np
import seaborn as sns

from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import INK, LINES, Canvas, Figure, canvas_of


def singles(frame, unit: str = "nats", most: int = 24) -> Figure:
    """Effect of replacing each component alone, with 95 % intervals; the `most` largest in size, in the trace's order.

        >>> print(mct.plots.singles(trace.single_effects()))
        Bar chart of the effect of each component replaced alone; the largest is L1H2 with 9.46 nats.
    """
    shown = frame.loc[frame["effect"].abs().nlargest(most).index].sort_index()
    canvas, (axis,) = canvas_of(max(4.5, 0.38 * len(shown) + 1), 3)
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
    """Pairwise interactions as a map: joint effect minus the sum of the two singles; blue synergy, orange redundancy.

        >>> print(mct.plots.interactions(trace.interactions(2)))
        Map of pairwise interactions among 12 components: the strongest synergy is L2H1 with L2H2 (+0.90 ...
    """
    names = list(dict.fromkeys(name for pair in frame["components"] for name in pair))
    order = {name: i for i, name in enumerate(names)}
    grid = np.full((len(names), len(names)), np.nan)
    for (a, b), value in zip(frame["components"], frame["interaction"]):
        grid[order[b], order[a]] = value
    size = 0.4 * len(names) + 1.4
    canvas, (axis,) = canvas_of(size + 0.8, size)
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

        >>> print(mct.plots.per_prompt({"search prompts": trace.effects(["L1H2"]).numpy()}))
        Effect on each prompt, sorted, with the means as dotted lines. search prompts: median 8.83, from ...
    """
    canvas, (axis,) = canvas_of(6.5, 3)
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
    """The layer x token picture from `views.Sweep.by_role()` or `.by_token(i)`: rows tokens, columns layers.

        >>> print(mct.plots.layer_by_token(mct.sweep(mct.Trace(model, task, "residual")).by_role()))
        Map of the effect at each token (rows) and layer (columns); the largest in size is 17.15 nats at ...
    """
    canvas, (axis,) = canvas_of(max(4.5, 0.32 * frame.shape[1] + 3.2), 0.32 * len(frame) + 1.2)
    digits = 1 if (_largest(frame) or 1) >= 1 else 2
    _diverging_map(axis, frame, f"{what} ({unit})", annot=frame.round(digits) + 0.0 if frame.shape[1] <= 8 else False,
                   fmt=f".{digits}f")
    axis.set(xlabel="layer", ylabel="")
    best = frame.stack().abs().idxmax()
    return Figure(canvas, f"Map of the {what} at each token (rows) and layer (columns); the largest in size is {frame.stack()[best]:.2f} "
                          f"{unit} at {best[0]!r}, layer {best[1]}.")


def _numbers(frame):
    """The number of each head in its layer; missing for components that are no heads."""
    return frame["component"].str.extract(r"^L\d+H(\d+)$")[0]


def heads(frame, column: str = "effect", unit: str = "nats") -> Figure:
    """Every head's value as a map: rows layers, columns heads, for frames with `component` and `layer` such as `single_effects()`.

    Raises InputError for components that are no heads.

        >>> print(mct.plots.heads(trace.single_effects()))
        Map of the effect of 12 heads, rows layers and columns heads; the largest is L1H2 with 9.461 ...
    """
    numbers = _numbers(frame)
    if numbers.isna().any():
        raise InputError(f"{frame['component'][numbers.isna()].iloc[0]!r} is no head; give effects of heads, or use plots.singles")
    grid = frame.assign(head=numbers.astype(int)).pivot(index="layer", columns="head", values=column)
    canvas, (axis,) = canvas_of(0.36 * grid.shape[1] + 2.6, 0.3 * grid.shape[0] + 1.2)
    _diverging_map(axis, grid, f"{column.replace('_', ' ')} ({unit})")
    best, low = frame.loc[frame[column].idxmax()], frame.loc[frame[column].idxmin()]
    return Figure(canvas, f"Map of the {column.replace('_', ' ')} of {len(frame)} heads, rows layers and columns heads; the largest is "
                          f"{best['component']} with {best[column]:.3f} ({unit}), the smallest {low['component']} with {low[column]:.3f}.")


def short(value: float) -> str:
    """A number as it is written in a cell or a sentence, whatever the metric's unit."""
    return f"{value:.2f}".replace("-0.00", "0.00") if abs(value) >= 0.1 or not value else f"{value:.1g}"


def behaviours(frames: Mapping[str, object], unit: str = "nats", most: int = 12) -> Figure:
    """The same components on several behaviours, a panel each, in the order of the mapping.

    frames: by name, frames with `component`, `layer` and `effect` such as `single_effects()`. Heads are shown as maps, rows layers and
    columns heads, each map with a colour scale of its own that ends at its largest effect; other kinds as bars of the `most` largest.

        >>> print(mct.plots.behaviours({"names": trace.single_effects()}))
        Maps of the effect of each head alone on 1 behaviours (nats), each with a colour scale of its own, ...
    """
    maps = all(_numbers(frame).notna().all() for frame in frames.values())
    first = next(iter(frames.values()))
    columns, rows = min(4, len(frames)), -(-len(frames) // 4)
    wide, tall = (_numbers(first).nunique(), first["layer"].nunique()) if maps else (min(most, len(first)), 5)
    canvas = Canvas(figsize=(columns * max(2.3, 0.45 * wide + 0.5) + 1, rows * max(1.7, 0.36 * tall + 0.8)), layout="constrained")
    axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(frames):]:
        axis.set_visible(False)
    said = []
    for number, (axis, (name, frame)) in enumerate(zip(axes, frames.items())):
        best = frame.loc[frame["effect"].abs().idxmax()]
        largest = abs(best["effect"])
        said.append(f"{name} {best['component']} with {short(best['effect'])}" if largest else f"{name} none, all are 0")
        if maps:
            grid = frame.assign(head=_numbers(frame).astype(int)).pivot(index="layer", columns="head", values="effect")
            digits = 1 if largest >= 1 else 2
            written = grid.map(lambda value: "0" if not value else short(value) if largest < 0.1 else f"{round(value, digits) + 0:.{digits}f}")
            sns.heatmap(grid / (largest or 1), ax=axis, cmap=sns.diverging_palette(40, 250, s=90, l=50, as_cmap=True), vmin=-1, vmax=1,
                        annot=written if grid.size <= 48 else False, fmt="", annot_kws={"fontsize": 8}, linewidths=0.5, cbar=False)
            axis.set(xlabel="head", ylabel="layer" if number % 4 == 0 else "")
        else:
            shown = frame.loc[frame["effect"].abs().nlargest(most).index].sort_index()
            axis.bar(range(len(shown)), shown["effect"], color="#56B4E9", width=0.7)
            axis.axhline(0, color=INK, lw=0.8)
            axis.set_xticks(range(len(shown)), shown["component"], rotation=90)
            axis.set(ylabel=f"effect alone ({unit})" if number % 4 == 0 else "")
            axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(name, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.tick_params(axis="y", labelrotation=0)
    if maps:
        bar = canvas.colorbar(axes[0].collections[0], ax=axes[:len(frames)], shrink=0.9, pad=0.01, ticks=[-1, 0, 1])
        bar.set_label("share of the map's largest", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    what = "Maps of the effect of each head alone" if maps else f"Bars of the {min(most, len(first))} largest effects of components alone"
    return Figure(canvas, f"{what} on {len(frames)} behaviours ({unit}), {'each with a colour scale of its own, ' * maps}largest in size: "
                          f"{'; '.join(said)}.")


def preferences(values: Mapping[str, Sequence[float]], cohorts: Sequence[str], what: str = "log odds (nats)") -> Figure:
    """What the model prefers on each prompt, a row for each intervention and a marker for each cohort; 0 is no preference.

    values: by name of the intervention, a value for each prompt `(n,)`. cohorts: the cohort of each prompt.

        >>> people = mct.Trace(model, mct.load_task("professions", model, n=16), "head_output")
        >>> cohorts = [e.cohort for e in people.task.search]
        >>> print(mct.plots.preferences({"untouched": people.base_values}, cohorts))
        Each prompt's log odds (nats) under 1 interventions, by cohort, with means as strokes. untouched: ...
    """
    canvas, (axis,) = canvas_of(7.5, 0.62 * len(values) + 1.1)
    names, said = sorted(set(cohorts)), []
    for y, (name, found) in enumerate(values.items()):
        found, means = np.asarray(found, dtype=float), []
        for number, cohort in enumerate(names):
            colour, marker = LINES[number % len(LINES)]
            inside = found[[c == cohort for c in cohorts]]
            height = y + 0.3 * ((number + 0.5) / len(names) - 0.5) * 2
            axis.plot(inside, [height] * len(inside), marker, color=colour, ms=5, alpha=0.55, label=f"{cohort} ({len(inside)})" if not y else None)
            axis.plot([inside.mean()] * 2, [height - 0.15, height + 0.15], color=INK, lw=2)
            means.append(f"{cohort} {inside.mean():.2f}")
        said.append(f"{name}: {', '.join(means)}, mean size {np.abs(found).mean():.2f}")
    axis.axvline(0, color=INK, lw=1, ls="--")
    axis.set_yticks(range(len(values)), list(values))
    axis.set(xlabel=what, ylim=(len(values) - 0.4, -0.6))
    axis.grid(False, axis="y")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Figure(canvas, f"Each prompt's {what} under {len(values)} interventions, by cohort, with means as strokes. {'; '.join(said)}.")
