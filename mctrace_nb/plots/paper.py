"""The figures of the paper (Yan et al. 2026), and of the questions that were asked of it."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from mctrace_nb.plots.base import DASHES, INK, LINES, STYLE, Figure, canvas_of, named, panels
from mctrace_nb.results import Front


def referee(answers) -> Figure:
    """The three answers of `referee.Answers`: relaxed against discrete optimum, how often methods agree with brute force, and the
    transformed objective against the mean effect for the sets of the task in which their ranks differ most.

        >>> answers = mct.referee.ask([mct.Trace(model, task, "attn_block")], budgets=[1])
        >>> print(mct.plots.referee(answers))
        Three panels. Over 1 cases: (1) No fractional mask was found that does much more than the best set: ...
    """
    canvas, (one, two, three) = panels(3)
    cases, agree = answers.worth, answers.agreement()
    for number, (name, column) in enumerate({"best relaxed mask": "relaxed", "started without it, rounded": "untold"}.items()):
        colour, marker = LINES[number]
        one.scatter(cases["optimum"], cases[column], s=22, color=colour, marker=marker, alpha=0.6, lw=0, label=name)
    limit = cases["optimum"].max() * 1.05
    one.plot([0, limit], [0, limit], color=INK, lw=0.8, ls="--")
    one.set(xlabel="exact optimum (nats)", ylabel="relaxed (nats)", title="1  relaxed = discrete?")
    one.legend(frameon=False, fontsize=7)
    for y, (method, row) in enumerate(agree.iterrows()):
        two.barh(y, row["agrees"], color=STYLE.get(method, ("#56B4E9", ""))[0], height=0.65)
        two.annotate(f"{row['agrees']:.0%}", (row["agrees"], y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    two.set_yticks(range(len(agree)), agree.index, fontsize=8)
    two.invert_yaxis()
    two.set(xlabel="agrees with brute force", xlim=(0, 1.15), title="2  finds the best set?")
    row = answers.ranks.loc[answers.ranks["spearman"].idxmin()]
    transformed, mean = answers.clouds[(row["task"], row["kind"], row["prompts"])]
    three.scatter(mean, transformed, s=3, color="#0072B2", alpha=0.35, lw=0)
    three.set(xlabel="mean effect (nats)", ylabel="transformed objective (less is better)", title="3  same ranking?")
    three.set_yscale("log")
    return Figure(canvas, f"Three panels. {answers.words()} The third panel shows all {len(mean):,} subsets of {row['task']}.")


def deviations(frames: Mapping[str, object], unit: str = "nats", label: int = 0) -> Figure:
    """The paper's Fig. 1: joint effects of pairs against the sum of their single effects, a panel a kind.

    frames: by name, frames with `components`, `singles` and `joint`, a row a pair. label: how many pairs at most, those farthest
    from the diagonal, have their names beside them; pairs that lie on it to the eye have none.

        >>> print(mct.plots.deviations({"heads": mct.paper.pairs_and_singles(trace)}))
        Joint effect of pairs against the sum of their single effects, with the diagonal. heads: joint ...
    """
    size = (4.2, 3.8) if label else (3.4, 3.2)
    canvas, axes = panels(len(frames), *size, most=2 if len(frames) == 4 else 3)
    said = []
    for axis, (name, frame) in zip(axes, frames.items()):
        axis.scatter(frame["singles"], frame["joint"], s=12, color="#0072B2", alpha=0.6, lw=0)
        ends = [min(frame["singles"].min(), frame["joint"].min()), max(frame["singles"].max(), frame["joint"].max())]
        axis.plot(ends, ends, color=INK, lw=0.8, ls="--")
        axis.set(title=f"{name}, {len(frame)} pairs", xlabel=f"sum of single effects ({unit})", ylabel=f"joint effect ({unit})")
        off = frame["joint"] - frame["singles"]
        far = frame.loc[off.abs().nlargest(label).index]
        far = far[(far["joint"] - far["singles"]).abs() > 0.05 * np.ptp(ends)].sort_values("joint", ascending=False)
        under, previous = 0, None
        for row in far.itertuples():  # points that lie on each other have their names one under the other
            under = under + 1 if previous is not None and previous - row.joint < 0.1 * np.ptp(ends) else 0
            left, previous = row.singles > np.mean(ends), row.joint
            axis.annotate(" + ".join(row.components), (row.singles, row.joint), xytext=(-28 if left else 28, -13 * under), fontsize=8,
                          textcoords="offset points", ha="right" if left else "left", va="center", bbox=dict(fc="white", ec="none", pad=1),
                          arrowprops=dict(arrowstyle="-", color=INK, lw=0.5, relpos=(float(left), 0.5)))
        said.append(f"{name}: joint minus sum from {off.min():.2f} to {off.max():.2f} {unit}, median size {off.abs().median():.2f}"
                    + (f", farthest {', '.join(' + '.join(pair) for pair in far['components'])}" if len(far) else ""))
    return Figure(canvas, f"Joint effect of pairs against the sum of their single effects, with the diagonal. {'; '.join(said)}.")


def small_multiples(fronts: Mapping[str, Sequence[Front]], sizes: Mapping[str, int], unit: str = "nats") -> Figure:
    """The paper's Figs. 3, 4 and 8 to 15: effect against the number of components for every method, a panel a name.

    sizes: how many components there are under each name.

        >>> print(mct.plots.small_multiples({"names": [mct.search(trace, "greedy", [1, 2])]}, {"names": 12}))
        Effect against the number of components, a panel for each: names: greedy 13.98 at 2.
    """
    canvas, axes = panels(len(fronts))
    said = []
    for axis, (name, every) in zip(axes, fronts.items()):
        for f in every:
            colour, marker = STYLE.get(f.method, ("#56B4E9", "*"))
            exact, x = f.method == "exhaustive", [s.size for s in f.selections]
            if f.method == "random":
                axis.fill_between(x, *zip(*[s.band for s in f.selections]), color=colour, alpha=0.18, lw=0)
            axis.plot(x, [s.effect for s in f.selections], color=colour, marker=marker, ms=7 if exact else 4, lw=3.5 if exact else 1.3,
                      ls=DASHES.get(f.method, "-"), zorder=2 if exact else 2.5, alpha=0.85, label=named(f.method))
        axis.set(title=f"{name} ({sizes[name]:,})", xlabel="components replaced", ylabel=f"effect ({unit})")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        said.append(f"{name}: " + ", ".join(f"{named(f.method)} {f.selections[-1].effect:.2f} at {f.selections[-1].size}" for f in every if f.selections))
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    canvas.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=min(6, len(handles)))
    return Figure(canvas, f"Effect against the number of components, a panel for each: {'; '.join(said)}.")


def work_and_time(summary) -> Figure:
    """The paper's Fig. 5, right: what each method spent, in runs of a prompt and in seconds, on logarithmic axes.

    summary: a frame with `work` and `seconds`, a row a method (`Comparison.summary()`).

        >>> import pandas as pd
        >>> spent = pd.DataFrame({"work": [184, 112], "seconds": [0.2, 0.1]}, index=pd.Index(["greedy", "top-k"], name="method"))
        >>> print(mct.plots.work_and_time(spent))
        Bars of the work and the time of each method: greedy 184 runs and 0.2 seconds, top-k 112 runs and 0.1 seconds.
    """
    canvas, axes = panels(2, 3.8, 0.32 * len(summary) + 1.2)
    for axis, (column, what) in zip(axes, {"work": "runs of a prompt, forward + backward", "seconds": "seconds"}.items()):
        for y, (method, row) in enumerate(summary.iterrows()):
            axis.barh(y, row[column], color=STYLE.get(method, ("#56B4E9", ""))[0], height=0.65)
            axis.annotate(f"{row[column]:,.0f}" if column == "work" else f"{row[column]:.2g}", (row[column], y), xytext=(3, 0),
                          textcoords="offset points", va="center", fontsize=7)
        axis.set_yticks(range(len(summary)), [named(m) for m in summary.index], fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel=what, xscale="log")
        axis.margins(x=0.25)
    words = ", ".join(f"{named(m)} {r['work']:,.0f} runs and {r['seconds']:.2g} seconds" for m, r in summary.iterrows())
    return Figure(canvas, f"Bars of the work and the time of each method: {words}.")


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, title: str = "", logx: bool = False,
          bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None) -> Figure:
    """Named curves `(x, y)` in one style: a colour, a marker and a dash each. bands: lower and upper ends by name.

        >>> print(mct.plots.lines({"rising": ([0, 1, 2], [0.0, 1.0, 4.0])}, x="epoch", y="effect (nats)"))
        effect (nats) against epoch for 1 curves: rising from 0.00 to 4.00.
    """
    canvas, (axis,) = canvas_of(6.8, 3.4)
    dashes = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (5, 1.5, 1, 1.5)), ":", "-")
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        colour, marker = STYLE.get(name, LINES[number % len(LINES)])  # a method keeps its colour
        axis.plot(xs, ys, color=colour, marker=marker, ms=5, lw=1.5, ls=DASHES.get(name, dashes[number % len(dashes)]), label=name)
        if bands and name in bands:
            axis.fill_between(xs, *bands[name], color=colour, alpha=0.15, lw=0)
    axis.set(xlabel=x, ylabel=y, title=title)
    if logx:
        axis.set_xscale("symlog", linthresh=min(v for xs, _ in curves.values() for v in xs if v > 0))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    words = "; ".join(f"{name} from {np.asarray(ys)[0]:.2f} to {np.asarray(ys)[-1]:.2f}" for name, (_, ys) in curves.items() if len(ys))
    return Figure(canvas, f"{title + ': ' if title else ''}{y} against {x} for {len(curves)} curves: {words}.")


def settings(outcomes, known: Front | None = None, unit: str = "nats") -> Figure:
    """Every setting of a relaxed search as a dot, how many components it keeps and what they do; known: a front to compare with.

    outcomes: a frame with `kept` and `rounded`, a row a setting (`mct.outcomes`).

        >>> tried = mct.outcomes(mct.pgb(trace, transform="log", lambda1=[0.01, 0.1], epochs=3))
        >>> print(mct.plots.settings(tried))
        Effect against components kept for 2 settings of the relaxed search: from 3 to 5 components, the ...
    """
    canvas, (axis,) = canvas_of(6.8, 3.4)
    if known:
        axis.plot([s.size for s in known.selections], [s.effect for s in known.selections], color=STYLE[known.method][0], lw=2.2, label=named(known.method))
    places = outcomes.groupby(["kept", outcomes["rounded"].round(6)]).size().reset_index(name="settings")
    colour, marker = STYLE["pgb-published"]
    axis.scatter(places["kept"], places["rounded"], s=24 + 10 * places["settings"], color=colour, marker=marker, edgecolor="white", zorder=3,
                 label="one setting, or several (larger)")
    axis.set(xlabel="components kept", ylabel=f"effect, {unit}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    best = outcomes.loc[outcomes["rounded"].idxmax()]
    empty = int((outcomes["kept"] == 0).sum())
    return Figure(canvas, f"Effect against components kept for {len(outcomes)} settings of the relaxed search: from {outcomes['kept'].min()} to "
                          f"{outcomes['kept'].max()} components, the largest effect {best['rounded']:.2f} with {best['kept']}; {empty} settings keep nothing."
                          + (f" The line is the front of {named(known.method)}." if known else ""))
