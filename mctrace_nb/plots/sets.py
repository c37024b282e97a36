"""Figures of sets: how far methods get, what they chose, how a mask got there."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from mctrace_nb.plots.base import DASHES, INK, STYLE, Figure, canvas_of, component_style, named, spread
from mctrace_nb.results import Front, Selection


def front(fronts: Sequence[Front], unit: str = "nats", total: float | None = None, title: str = "") -> Figure:
    """Effect against budget, a line a method; the held-out interval of the first; the band of the random control.

    total: the total effect, drawn as a dashed line.

        >>> print(mct.plots.front([mct.search(trace, "greedy", [1, 2])], total=17.05))
        Line chart of mean effect (nats) against budget for 1 methods: greedy reaches 13.98 at 2.
    """
    canvas, (axis,) = canvas_of()
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
                  label=named(f.method), zorder=2 if exact else 2.5, ls=DASHES.get(f.method, "-"), alpha=0.85)
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

        >>> chosen = [mct.search(trace, method, [2])[2] for method in ("greedy", "top-k")]
        >>> print(mct.plots.selection_map(chosen, trace.components.labels))
        Grid of the components that each method chose: greedy chose L1H2, L2H2; top-k chose L1H2, L2H2.
    """
    chosen = [label for label in labels if any(label in s.components for s in selections)]
    canvas, (axis,) = canvas_of(max(4, 0.55 * len(chosen) + 1.8), 0.42 * len(selections) + 1.1)
    for y, s in enumerate(selections):
        colour = STYLE.get(s.method, ("#56B4E9", "*"))[0]
        for x, label in enumerate(chosen):
            inside = label in s.components
            axis.scatter(x, y, s=150, marker="s", color=colour if inside else "#EDEDED", lw=0)
            if inside:
                axis.scatter(x, y, s=18, marker="o", color="white", lw=0)
    axis.set_xticks(range(len(chosen)), chosen, rotation=60 if len(chosen) > 8 else 0, fontsize=8)
    axis.set_yticks(range(len(selections)), [f"{named(s.method)}  {s.effect:.2f}" for s in selections], fontsize=9)
    axis.set(ylim=(len(selections) - 0.4, -0.6), xlim=(-0.6, len(chosen) - 0.4))
    axis.grid(False)
    words = "; ".join(f"{named(s.method)} chose {', '.join(s.components) or 'nothing'}" for s in selections)
    return Figure(canvas, f"Grid of the components that each method chose: {words}.")


def trajectories(selection: Selection, labels: Sequence[str], most: int = 40) -> Figure:
    """The relaxed mask after each epoch, a line a component, with the penalties' growth under it.

        >>> found = mct.pgb(trace, transform="log", epochs=3)
        >>> print(mct.plots.trajectories(found, trace.components.labels))
        Mask values over 3 epochs for 12 components; chosen: L1H2, L2H1, L2H2. Below, the penalties grow with the epoch.
    """
    path = np.asarray(selection.trajectory)  # (epochs + 1, N)
    canvas, (axis, below) = canvas_of(7, 4.8, rows=2, sharex=True, height_ratios=[3, 1])
    chosen = set(selection.components)
    moving = sorted(range(path.shape[1]), key=lambda i: (labels[i] not in chosen, -np.ptp(path[:, i])))[:most]
    between = [i for i in moving if labels[i] not in chosen and 0.1 < path[-1, i] < 0.9]
    between = between if len(between) <= 6 else []  # a crowd that has not decided has no names
    for i in reversed(moving):
        inside, named_too = labels[i] in chosen, i in between
        colour, dash = component_style(labels[i]) if inside or named_too else ("#B5B5B5", "-")
        axis.plot(path[:, i], color=colour, ls=dash, lw=2 if inside else 1, zorder=2 + inside + named_too)
    kept = [i for i in moving if labels[i] in chosen or i in between]
    for i, height in zip(kept, spread(path[-1, kept], 0.055, 1.02)):
        axis.annotate(f"({labels[i]})" if i in between else labels[i], ((len(path) - 1) * 1.015, height), fontsize=8, va="center",
                      annotation_clip=False, bbox={"fc": "white", "ec": "none", "pad": 0.5})
    # One that was above one half after a step and is dropped: its name where it falls below.
    turned = [i for i in moving if labels[i] not in chosen and i not in between and path[1:, i].max() > 0.5]
    for i in turned if len(turned) <= 4 else []:
        last = int(np.flatnonzero(path[:, i] > 0.5)[-1])
        axis.annotate(labels[i], (last, path[last, i]), xytext=(5, 1), textcoords="offset points", fontsize=8, color="#666666", va="bottom")
    axis.axhline(0.5, color=INK, lw=0.8, ls="--")
    axis.set(ylabel="mask value", ylim=(-0.04, 1.04))
    epochs = [row["epoch"] for row in selection.history]
    for name, colour, style, width in (("lambda1", "#0072B2", "-", 3), ("lambda2", "#E69F00", "--", 1.5)):  # often the same
        below.plot(epochs, [row[name] for row in selection.history], color=colour, ls=style, lw=width, label=name)
    below.set(xlabel="epoch", ylabel="penalty")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(frameon=False, fontsize=8)
    undecided = f"; between 0.1 and 0.9 and not chosen: {', '.join(labels[i] for i in between)}" if between else ""
    undecided += f"; once above one half and dropped: {', '.join(labels[i] for i in turned[:8])}" if turned else ""
    return Figure(canvas, f"Mask values over {len(path) - 1} epochs for {len(moving)} components; chosen: "
                          f"{', '.join(selection.components) or 'none'}{undecided}. Below, the penalties grow with the epoch.")


def orders(explanation) -> Figure:
    """A joint effect taken apart (`explain.Explanation`): what each order adds, step by step, from nothing to the joint effect.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> print(mct.plots.orders(mct.explain(trace, best)))
        Steps from nothing to the joint effect of L1H2, L2H2, 13.98 nats: singles +13.94, pairs +0.04.
    """
    frame, unit, joint = explanation.orders(), explanation.trace.metric.unit, float(explanation.joint.mean())
    canvas, (axis,) = canvas_of(max(4.5, 0.9 * len(frame) + 2.2), 3.2)
    ends = frame["effect"].cumsum().to_numpy()
    starts = ends - frame["effect"].to_numpy()
    for x, (start, end) in enumerate(zip(starts, ends)):
        up = end >= start
        axis.bar(x, end - start, bottom=start, color="#0072B2" if up else "#D55E00", width=0.6, hatch="" if up else "//", edgecolor="white")
        axis.annotate(f"{end - start:+.2f}", (x, max(start, end)), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
        if x:
            axis.plot([x - 1 + 0.3, x - 0.3], [start, start], color=INK, lw=0.8, ls=":")
    axis.bar(len(frame), joint, color="#7F7F7F", width=0.6)
    axis.annotate(f"{joint:.2f}", (len(frame), max(0, joint)), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
    axis.axhline(0, color=INK, lw=0.8)
    names = {"1": "singles", "2": "pairs", "3": "triples", "higher": "higher orders"}
    axis.set_xticks(range(len(frame) + 1), [*(names.get(o, f"order {o}") for o in frame.index), "joint effect"], fontsize=9)
    axis.set(ylabel=f"effect ({unit})")
    axis.margins(y=0.12)
    words = ", ".join(f"{names.get(o, f'order {o}')} {v:+.2f}" for o, v in frame["effect"].items())
    return Figure(canvas, f"Steps from nothing to the joint effect of {', '.join(explanation.selection.components)}, {joint:.2f} {unit}: {words}.")


def frequencies(stability, most: int = 30) -> Figure:
    """How often each component was chosen on draws of the prompts (`stability.Stability`): rows budgets, columns components; a dot marks
    the set on all prompts.

        >>> print(mct.plots.frequencies(mct.stability(trace, "greedy", [1, 2], draws=4)))
        Map of how often each component was chosen by greedy on 4 draws of the prompts, dots mark the set ...
    """
    frames = {s.budget: stability.frequencies(s.budget).set_index("component") for s in stability.full.selections}
    weight = {label: sum(f["share"].get(label, 0.0) for f in frames.values()) for label in stability.labels}
    shown = sorted(sorted(weight, key=weight.get, reverse=True)[:most], key=stability.labels.index)
    shown = [label for label in shown if any(label in f.index for f in frames.values())]
    grid = np.array([[f["share"].get(label, 0.0) for label in shown] for f in frames.values()])
    canvas, (axis,) = canvas_of(max(4.5, 0.45 * len(shown) + 2.2), 0.35 * len(frames) + 1.3)
    picture = axis.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for y, f in enumerate(frames.values()):
        for x, label in enumerate(shown):
            if label in f.index and f["in_full"][label]:
                axis.scatter(x, y, s=16, color="black" if grid[y, x] > 0.5 else "white", lw=0)
    axis.set_xticks(range(len(shown)), shown, rotation=60 if len(shown) > 8 else 0, fontsize=8)
    axis.set_yticks(range(len(frames)), list(frames))
    axis.set(ylabel="budget")
    axis.grid(False)
    canvas.colorbar(picture, ax=axis, label="share of draws", shrink=0.9)
    table = stability.to_frame()
    words = "; ".join(f"budget {b}: Jaccard index {table['jaccard'][b]:.2f} between draws, the same set in {table['same'][b]:.0%}" for b in frames)
    return Figure(canvas, f"Map of how often each component was chosen by {stability.full.method} on {len(stability.draws)} draws of the prompts, "
                          f"dots mark the set on all prompts. {words}.")
