"""Figures of a study: fronts in small multiples, agreement over draws of the prompts, what differs between models."""

from __future__ import annotations

from pathlib import PurePath
from typing import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.plots.base import DASHES, INK, LINES, STYLE, Figure, grid_of, named, side_by_side

MOST_PANELS = (6, 6)  # rows and columns of small multiples
MOST_ROWS = 24  # of a figure with a row for each combination
MOST_COMPONENTS = 24
NOTE = dict(xytext=(3, -3), textcoords="offset points", fontsize=7, va="top", color=INK)


def _short(value) -> str:
    """A model's folder or hub name without what stands before it."""
    return PurePath(value).name if isinstance(value, str) and "/" in value else str(value)


def _labels(frame, names: Sequence[str]) -> list[str]:
    return [", ".join(_short(v) for v in values) for values in frame[list(names)].itertuples(index=False, name=None)]


def _varying(frame, names: Sequence[str]) -> list[str]:
    """Of some columns those with several values, or all of them if none has."""
    return [a for a in names if frame[a].nunique(dropna=False) > 1] or list(names)


def _draw_panel(axis, fronts, methods: Sequence[str], totals, budgets: int) -> str:
    """One panel: a line a method, its mean over runs, with a band from the lowest to the highest; what it shows, in words."""
    highest, said = 0.0, []
    for method in methods:
        by = fronts[fronts["method"] == method].groupby("budget")["effect"]
        if not len(by):
            continue
        mean, low, high, exact = by.mean(), by.min(), by.max(), method == "exhaustive"
        colour, marker = STYLE.get(method, ("#56B4E9", "*"))
        axis.fill_between(mean.index, 0 if exact else low, mean if exact else high, color=colour, alpha=0.06 if exact else 0.2, lw=0)
        axis.plot(mean.index, mean, color=colour, marker=marker, lw=3.5 if exact else 1.2, ms=6 if exact else 3.5, alpha=0.85,
                  ls=DASHES.get(method, "-"), zorder=2 if exact else 2.5, label=named(method))
        highest = max(highest, float(mean.abs().max()))
        said.append(f"{named(method)} {mean.iloc[-1]:.2f}")
    total = float(totals.mean())
    if abs(total) <= 1.6 * highest:
        axis.axhline(total, color=INK, lw=0.9, ls="--")
    axis.annotate(f"total effect {total:.1f}", (0, 1), xycoords="axes fraction", **NOTE)  # also where the line would lie far above
    axis.set_xlim(0.6, budgets + 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axis.tick_params(labelsize=7)
    return ", ".join(said)


def study_fronts(study, rows: str = "", columns: str = "", methods: Sequence[str] = ()) -> Figure:
    """Effect against budget for every run of a `study.Study` in small multiples: a panel for each row and column, a line a method, its
    mean over seeds with a band from the lowest to the highest, the exact optimum in black where it is known.

    rows, columns: axes, several of them joined by commas; by default columns are models and rows all else that varies but the seed.
    methods: those to draw, by default all. At most six rows and six columns are drawn, and the title says what was left out:
    `study.only(task=...)` chooses others. Raises InputError for an axis that is not there, or one that varies and is in neither.

        >>> print(mct.plots.study_fronts(mct.study.read().only(seed=0)))
        Effect against budget in 8 panels, at the largest budget: tutorial, professions, head_output: exact ...
    """
    vary = study.others("seed")
    down, across = ([one_of(a.strip(), study.axes, "axis") for a in text.split(",") if a.strip()] for text in (rows, columns))
    across = across or [a for a in ("model", *vary, *study.axes) if a in study.axes and a not in (*down, "seed")][:1]
    down = down or [a for a in vary if a not in across]
    lost = [a for a in vary if a not in across + down]
    if lost or not len(study.done):
        raise InputError(f"{', '.join(lost)} varies too: put it into rows or columns, or choose one value with study.only({lost[0]}=...)" if lost else
                         "no run of this study is done, so there are no fronts to draw")
    inside = {a: "reported_budget" if a == "budget" else a for a in study.axes}
    at = [_labels(study.fronts, [inside[a] for a in which]) for which in (down, across)]
    fronts, totals = study.fronts.assign(row=at[0], column=at[1]), study.runs["total_effect"]
    every = [list(dict.fromkeys(fronts[name])) for name in ("row", "column")]
    shown = [values[:most] for values, most in zip(every, MOST_PANELS)]
    there = list(dict.fromkeys(fronts["method"]))
    chosen = [one_of(m, there, "method") for m in methods] or there
    canvas, axes = grid_of(len(shown[0]), len(shown[1]), 2.1 * len(shown[1]) + 1.2, 1.75 * len(shown[0]) + 0.9, sharey="row")
    told, budgets = [], int(fronts["budget"].max())
    for y, row in enumerate(shown[0]):
        for x, column in enumerate(shown[1]):
            part, axis = fronts[(fronts["row"] == row) & (fronts["column"] == column)], axes[y, x]
            if len(part):
                told.append(f"{', '.join(filter(None, (column, row)))}: " + _draw_panel(axis, part, chosen, totals[part["run"].unique()], budgets))
            else:
                axis.annotate("no finished run", (0, 1), xycoords="axes fraction", **NOTE)
            if not y:
                axis.set_title(column, fontsize=9)
        unit = study.runs.loc[fronts.loc[fronts["row"] == row, "run"].iloc[0], "unit"]
        axes[y, 0].set_ylabel("\n".join([*row.split(", "), f"effect ({unit})"]), fontsize=8)
        axes[y, 0].margins(y=0.18)
    for axis in axes[-1]:
        axis.set_xlabel("budget", fontsize=8)
    left_out = [f"{len(s)} of {len(e)} values of {', '.join(which)}" for s, e, which in zip(shown, every, (down, across)) if len(s) < len(e)]
    title = f"the first {' and '.join(left_out)}; study.only(...) chooses others" if left_out else ""
    canvas.suptitle(title, fontsize=9)
    handles = {text: h for axis in axes.flat for h, text in zip(*axis.get_legend_handles_labels())}
    canvas.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=min(4, len(handles)))
    more = f"; and {len(told) - 8} more panels" * (len(told) > 8)
    return Figure(canvas, f"Effect against budget in {len(told)} panels{f' ({title})' * bool(title)}, at the largest budget: "
                          f"{'; '.join(told[:8])}{more}.")


def _capped(frame, worst) -> tuple[object, str]:
    """The rows that matter most, in their order, and a title that says what was left out."""
    if len(frame) <= MOST_ROWS:
        return frame, ""
    return frame.loc[worst.nlargest(MOST_ROWS).index.sort_values()], f"the {MOST_ROWS} of {len(frame)} rows that agree least; study.only(...) chooses others"


def study_stability(table, method: str = "", budget: int = 0) -> Figure:
    """Agreement over draws of the prompts, from `Study.stability()`: a row for each combination of the other axes. Left: the mean Jaccard
    index of each method's sets at one budget, with what chance gives. Right: how often one method chose each component.

    method: of the right panel, by default the first of the table. budget: by default the largest. Raises InputError if they are not there.

        >>> print(mct.plots.study_stability(mct.study.read().stability()))
        Mean Jaccard index between draws of the prompts at budget 8, 8 rows. On average: exact optimum ...
    """
    budget = int(budget) or int(table["budget"].max())
    method = one_of(method or table["method"].iloc[0], dict.fromkeys(table["method"]), "method")
    axes = list(table.columns[:list(table.columns).index("method")])
    at = table[table["budget"] == budget]
    if not (at["method"] == method).any():
        raise InputError(f"{method} has no sets at budget {budget} to compare; there are budgets {', '.join(map(str, sorted(set(table['budget']))))}")
    vary = _varying(at, axes)
    at = at.assign(label=_labels(at, vary))
    rows, title = _capped(at[at["method"] == method].reset_index(drop=True), 1 - at.loc[at["method"] == method, "jaccard"].reset_index(drop=True))
    labels, methods = list(rows["label"]), [m for m in dict.fromkeys(at["method"])]
    weight = {c: sum(d.get(c, 0) for d in rows["chosen"]) for d in rows["chosen"] for c in d}
    components = sorted(sorted(weight, key=weight.get, reverse=True)[:MOST_COMPONENTS], key=_place)
    canvas, (left, right) = side_by_side([4, max(2.5, 0.32 * len(components))], 6.4 + 0.3 * len(components), 0.42 * len(labels) + 1.9)
    for y, label in enumerate(labels):
        mine = at[at["label"] == label].set_index("method")
        left.plot([rows["by_chance"].iloc[y]] * 2, [y - 0.4, y + 0.4], color=INK, lw=1.5)
        for i, m in enumerate(m for m in methods if m in mine.index):
            colour, marker = STYLE.get(m, ("#56B4E9", "*"))
            left.plot(mine["jaccard"][m], y - 0.32 + 0.64 * (i + 0.5) / len(methods), color=colour, marker=marker, ms=5, ls="", alpha=0.9, clip_on=False)
    left.set_yticks(range(len(labels)), labels, fontsize=8)
    left.set(xlim=(-0.03, 1.03), ylim=(len(labels) - 0.5, -0.5), xlabel=f"mean Jaccard index between draws, budget {budget}")
    grid = np.array([[d.get(c, 0.0) for c in components] for d in rows["chosen"]]).reshape(len(labels), len(components))
    picture = right.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    right.set_xticks(range(len(components)), components, rotation=60, fontsize=8)
    right.set_yticks(range(len(labels)), [""] * len(labels))
    dropped = f", {len(components)} most chosen of {len(weight)}" * (len(components) < len(weight))
    right.set_title(f"chosen by {named(method)}{dropped}", fontsize=9)
    right.grid(False)
    for y in range(1, len(labels)):
        right.axhline(y - 0.5, color="white", lw=1.5)
    canvas.colorbar(picture, ax=right, label="share of draws", shrink=0.9)
    canvas.suptitle(title, fontsize=9)
    handles = [Line2D([], [], color=STYLE.get(m, ("#56B4E9", "*"))[0], marker=STYLE.get(m, ("", "*"))[1], ls="", label=named(m)) for m in methods]
    canvas.legend(handles=[*handles, Line2D([], [], color=INK, marker="|", ms=10, mew=1.5, ls="", label="two random sets")], frameon=False, fontsize=8,
                  loc="outside lower center", ncols=4)
    means = at.groupby("method", sort=False)["jaccard"].mean()
    least = rows.loc[rows["jaccard"].idxmin()]
    return Figure(canvas, f"Mean Jaccard index between draws of the prompts at budget {budget}, {len(labels)} rows{f' ({title})' * bool(title)}. "
                          f"On average: {', '.join(f'{named(m)} {v:.2f}' for m, v in means.items())}; two random sets "
                          f"{at['by_chance'].mean():.2f}. {named(method)} agrees least in {least['label'] or 'the one row'} ({least['jaccard']:.2f}). Beside it, how often {named(method)} chose each component.")


def _place(label: str) -> tuple:
    """A key that orders labels by layer and number."""
    numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in label).split()]
    return numbers, label


def study_changes(table) -> Figure:
    """What differs between models (or tasks, or kinds), from `Study.between()`: a row for each comparison. Left: the Jaccard index of sets
    on both sides, a line from it to the control (draws on one side), and what chance gives. Middle: the same by layers alone. Right: the
    share of the total effect that the sets carry, with intervals.

        >>> print(mct.plots.study_changes(mct.study.read().between("model")))
        4 comparisons, Jaccard indices on average: components agree by 0.22 (control 0.93, random sets ...
    """
    axes = list(table.columns[:list(table.columns).index("one")])
    pairs = len(table[["one", "other"]].drop_duplicates()) > 1
    table = table.assign(label=_labels(table, _varying(table, axes))).reset_index(drop=True)
    if pairs:
        table["label"] += [f": {_short(one)} / {_short(other)}" for one, other in zip(table["one"], table["other"])]
    rows, title = _capped(table, (table["control"] - table["jaccard"]).fillna(-2))
    sides = [_short(table[s].iloc[0]) if not pairs else text for s, text in (("one", "the first named"), ("other", "the second named"))]
    canvas, panels = side_by_side([1, 1, 1], 11, 0.42 * len(rows) + 1.9)
    for axis, (value, control, chance, what) in zip(panels, (("jaccard", "control", "by_chance", "Jaccard index of components"),
                                                           ("layers", "layers_control", "layers_by_chance", "the same, by layers alone"))):
        for y, row in enumerate(rows.to_dict("records")):
            axis.plot([row[value], row[control]], [y, y], color="#9A9A9A", lw=1.5, zorder=1)
            axis.plot(row[chance], y, color=INK, marker="|", ms=13, mew=1.5)
            axis.plot(row[control], y, color="#009E73", marker="D", mfc="white", ms=8, mew=1.5, clip_on=False)
            axis.plot(row[value], y, color="#D55E00", marker="o", ms=6, clip_on=False)
            if not row["comparable"]:
                axis.annotate("labels do not match", (0.02, y), fontsize=7, va="center", color=INK)
        axis.set(xlim=(-0.05, 1.05), xlabel=what)
    for y, row in enumerate(rows.to_dict("records")):
        for side, shift, (colour, marker) in (("one", -0.15, LINES[0]), ("other", 0.15, LINES[4])):
            low, high = row[f"low_{side}"], row[f"high_{side}"]
            panels[2].plot([low, high], [y + shift] * 2, color=colour, lw=1.5)
            panels[2].plot(row[f"share_{side}"], y + shift, color=colour, marker=marker, ms=6, ls="")
    panels[2].axvline(1, color=INK, lw=0.8, ls="--")
    panels[2].set(xlabel="share of the total effect, held out", xlim=(min(0, panels[2].get_xlim()[0]), None))
    for axis in panels:
        axis.set_yticks(range(len(rows)), list(rows["label"]) if axis is panels[0] else [""] * len(rows), fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
    canvas.suptitle(title, fontsize=9)
    marks = [("between the two sides", "#D55E00", "o", "#D55E00"), ("control: draws on one side", "#009E73", "D", "white"), ("random sets", INK, "|", INK),
             (sides[0], LINES[0][0], LINES[0][1], LINES[0][0]), (sides[1], LINES[4][0], LINES[4][1], LINES[4][0])]
    canvas.legend(handles=[Line2D([], [], color=c, marker=m, mfc=f, mew=1.5, ls="", label=text) for text, c, m, f in marks], frameon=False, fontsize=8,
                  loc="outside lower center", ncols=5)
    alike, mean = table[table["comparable"]], table.mean(numeric_only=True)
    said = (f"components agree by {mean['jaccard']:.2f} (control {mean['control']:.2f}, random sets {mean['by_chance']:.2f}), by layers alone "
            f"{mean['layers']:.2f} (control {mean['layers_control']:.2f}, random sets {mean['layers_by_chance']:.2f})") if len(alike) else "labels do not match"
    return Figure(canvas, f"{len(table)} comparisons{f' ({title})' * bool(title)}, Jaccard indices on average: {said}. "
                          f"Share of the total effect: {sides[0]} {mean['share_one']:.0%}, {sides[1]} {mean['share_other']:.0%}.")
