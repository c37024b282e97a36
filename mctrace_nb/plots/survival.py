"""What carries a behaviour in a teacher and in its students, and survival scores with what they have to be compared with."""

from __future__ import annotations

from typing import Mapping

from matplotlib.patches import Rectangle

from mctrace_nb.distill.survival import Traced, match
from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import INK, Figure, panels, side_by_side

_REFERENCES = {"teacher": ("the teacher's heads, found by profile", "#0072B2", "o", 0.3), "twin": ("a twin's heads (another seed)", "#E69F00", "D", 0.15),
               "number": ("the teacher's heads, by number", "#009E73", "s", -0.15), "before": ("its own heads from before, by number", "#882255", "^", -0.3)}
_TITLES = {"unsure": "where the teacher is unsure", "sure": "where the teacher is sure", "all": "all behaviours"}


def survival(summary, arms: dict[str, str]) -> Figure:
    """Mean survival scores with their intervals, a row per arm of students, a panel per group of behaviours; lines at 0 and 1.

    summary: a row per `arm`, `reference` and `behaviours`, with `mean, low, high, n` (`distill.survey.summary`). arms: what is shown, in
    order, with the words for each. Raises InputError for an arm that the summary does not hold.

        >>> import pandas as pd
        >>> from mctrace_nb.distill import survey
        >>> from mctrace_nb.shipped import shipped
        >>> table = survey.summary(pd.read_csv(shipped("data/distill/survival.csv")).query("arm == 'opd'"))
        >>> print(mct.plots.survival(table, {"opd": "after OPD"}))
        Survival score, mean and 95 % interval over seeds, a row per kind of students, in 3 panels. Over ...
    """
    absent = [arm for arm in arms if arm not in set(summary.arm)]
    if absent:
        raise InputError(f"no survival of {', '.join(absent)} in this summary; it has {', '.join(dict.fromkeys(summary.arm))}")
    groups = [group for group in _TITLES if group in set(summary.behaviours)]
    canvas, axes = panels(len(groups), 3.6, 0.62 * len(arms) + 1.4, len(groups))
    said = []
    for axis, group in zip(axes, groups):
        for reference, (words, colour, marker, shift) in _REFERENCES.items():
            some = summary[(summary.behaviours == group) & (summary.reference == reference) & summary.arm.isin(list(arms))]
            if some.empty:
                continue
            rows = [len(arms) - 1 - list(arms).index(arm) + shift for arm in some.arm]
            axis.errorbar(some["mean"], rows, xerr=[some["mean"] - some.low, some.high - some["mean"]], fmt=marker, color=colour, ms=6,
                          mfc="white" if reference == "twin" else colour, capsize=2.5, lw=1.4, label=words)
            if group == "all":
                said += [f"{arms[arm]}, {words}: {mean:.2f} [{low:.2f}, {high:.2f}]" for arm, mean, low, high in zip(some.arm, some["mean"], some.low, some.high)]
        for at in (0, 1):
            axis.axvline(at, color=INK, lw=1, ls=(0, (4, 2)) if at == 0 else "-", zorder=0)
        axis.set(title=_TITLES[group], ylim=(-0.6, len(arms) - 0.4), xlabel="0 any heads of these layers, 1 best set")
        axis.set_yticks(range(len(arms)), list(arms.values())[::-1] if axis is axes[0] else [])
        axis.grid(False, axis="y")
    canvas.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return Figure(canvas, f"Survival score, mean and 95 % interval over seeds, a row per kind of students, in {len(groups)} panels. Over all behaviours: "
                          f"{'; '.join(said)}.")


def carriers(models: Mapping[str, Traced], name: str) -> Figure:
    """Teacher and students side by side on one behaviour: a square a head with its effect alone, as a share of the model's total effect.

    models: the teacher first. Framed: what carries the behaviour in this model (the smallest best set with nine tenths of the total effect,
    at most three heads). A triangle: the partner of a head that carries it in the teacher, found by profile.

        >>> from mctrace_nb.distill import experiment, survival
        >>> from mctrace_nb.shipped import shipped
        >>> student = survival.Traced.of(mct.load_model(shipped("data/distill/student")), n=8)
        >>> print(mct.plots.carriers({"before": student}, "arrive"))
        Effect of each head alone on 'arrive' as a share of the total effect, a map a model, rows layers ...
    """
    teacher = next(iter(models.values()))
    rows = [t.layers.count(0) for t in models.values()]
    canvas, axes = side_by_side(rows, 0.62 * sum(rows) + 1.6, 0.5 * max(max(t.layers) + 1 for t in models.values()) + 1.5)
    said = []
    for axis, (title, traced) in zip(axes, models.items()):
        shares = traced.each(name, [(i,) for i in range(len(traced.layers))]).mean(1) / traced.traces[name].scale
        width, best = traced.layers.count(0), traced.carriers[name]
        partners = () if traced is teacher else match(teacher, traced, teacher.carriers[name]).values()
        axis.imshow(shares.reshape(-1, width), cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        for i, share in enumerate(shares):
            y, x = divmod(i, width)
            ink = "white" if share > 0.55 else INK
            axis.text(x, y, f"{share:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=8, color=ink)
            if i in best:
                axis.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, lw=2.2, ec="#D55E00"))
            if i in partners:
                axis.plot(x - 0.32, y + 0.3, "^", color=ink, ms=5)
        axis.set(title=title, xticks=range(width), yticks=range(len(shares) // width))
        axis.set_xticklabels([f"H{x}" for x in range(width)], fontsize=8)
        axis.set_yticklabels([f"L{y}" for y in range(len(shares) // width)], fontsize=8)
        axis.grid(False)
        labels = traced.traces[name].components.labels
        said.append(f"{title}: {', '.join(labels[i] for i in best)}"
                    + (f", partners of the teacher's {', '.join(labels[i] for i in sorted(partners))}" if partners else ""))
    return Figure(canvas, f"Effect of each head alone on {name!r} as a share of the total effect, a map a model, rows layers and columns heads. "
                          f"Carried by, {'; '.join(said)}.")
