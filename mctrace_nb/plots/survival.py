"""Survival of a teacher's components in its students, with what it has to be compared with."""

from __future__ import annotations

from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import INK, Figure, panels

_REFERENCES = {"teacher": ("the teacher's heads, found by profile", "#0072B2", "o", 0.2), "twin": ("a twin's heads (another seed)", "#E69F00", "D", 0.0),
               "number": ("the teacher's heads, by number", "#009E73", "s", -0.2)}
_TITLES = {"unsure": "where the teacher is unsure", "sure": "where the teacher is sure", "all": "all behaviours"}


def survival(summary, arms: dict[str, str]) -> Figure:
    """Mean survival scores with their intervals, a row per arm of students, a panel per group of behaviours; lines at 0 and 1.

    summary: a row per `arm`, `reference` and `behaviours`, with `mean, low, high, n` (`distill.survey.summary`). arms: what is shown, in
    order, with the words for each. Raises InputError for an arm that the summary does not hold.
    """
    absent = [arm for arm in arms if arm not in set(summary.arm)]
    if absent:
        raise InputError(f"no survival of {', '.join(absent)} in this summary; it has {', '.join(dict.fromkeys(summary.arm))}")
    groups = [group for group in _TITLES if group in set(summary.behaviours)]
    canvas, axes = panels(len(groups), 3.6, 0.52 * len(arms) + 1.4, len(groups))
    said = []
    for axis, group in zip(axes, groups):
        for reference, (words, colour, marker, shift) in _REFERENCES.items():
            some = summary[(summary.behaviours == group) & (summary.reference == reference) & summary.arm.isin(list(arms))]
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
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    canvas.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return Figure(canvas, f"Survival score, mean and 95 % interval over seeds, a row per kind of students, in {len(groups)} panels. Over all behaviours: "
                          f"{'; '.join(said)}.")
