"""Teacher and student word by word, and what the objectives of distillation differ in."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from mctrace_nb.errors import InputError
from mctrace_nb.plots.base import INK, LINES, Figure, grid_of, panels

SPEAKERS = {"teacher": ("#0072B2", ""), "student": ("#E69F00", "//"), "grammar": ("#9A9A9A", "..")}
OPEN, SHUT = "#D55E00", "#9A9A9A"
IN_ROW, SHOWN = 12, 36  # tokens: in a row, and in a figure


def next_words(cases: Mapping[str, Mapping[str, Mapping[str, float]]], most: int = 8) -> Figure:
    """What may be the next word, a panel a case: bars of probabilities, one colour and hatch a speaker.

    cases: title -> speaker ("teacher", "student", "grammar") -> word -> probability. most: that many words a panel, by the largest
    probability that any speaker gives them.

        >>> print(mct.plots.next_words({"a move": {"teacher": {"two": 0.5, "three": 0.5}, "student": {"two": 0.9, "three": 0.1}}}))
        Probabilities of the next word in 1 places. Most likely: a move, teacher: two has 0.50; a move, student: two has 0.90.
    """
    canvas, axes = panels(len(cases), 3.9, 3.0, 2)
    said = []
    for axis, (title, speakers) in zip(axes, cases.items()):
        largest: dict[str, float] = {}
        for probabilities in speakers.values():
            for word, p in probabilities.items():
                largest[word] = max(p, largest.get(word, 0.0))
        words = sorted(largest, key=largest.get, reverse=True)[:most]
        width = 0.84 / len(speakers)
        for i, (speaker, probabilities) in enumerate(speakers.items()):
            colour, hatch = SPEAKERS[speaker]
            axis.bar(np.arange(len(words)) + (i - (len(speakers) - 1) / 2) * width, [probabilities.get(word, 0.0) for word in words], width=0.92 * width,
                     color=colour, hatch=hatch, edgecolor="white", lw=0.5, label=speaker)
            top = max(probabilities, key=probabilities.get)
            said.append(f"{title}, {speaker}: {top} has {probabilities[top]:.2f}")
        axis.set_xticks(range(len(words)), words)
        axis.set(title=title, ylim=(0, 1.02))
        axis.grid(False, axis="x")
    axes[0].set_ylabel("probability of the next word")
    canvas.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=len(SPEAKERS))
    return Figure(canvas, f"Probabilities of the next word in {len(cases)} places. Most likely: {'; '.join(said)}.")


def token_row(words: Sequence[str], values: Sequence[float], entropies: Sequence[float], tau: float, what: str, limit: float,
              signed: bool = False) -> Figure:
    """Written tokens as boxes, coloured by a value that is printed in them, over bars of the teacher's entropy with tau as a line.

    words, values, entropies: one each a token, in nats; where the entropy is above tau the box has a thick outline and a mark, the bar
    a hatch. limit: the value with the darkest colour. signed: colours on both sides of 0. Up to `SHOWN` tokens are drawn.

        >>> print(mct.plots.token_row(["+", "2"], values=[0.1, 0.4], entropies=[0.2, 1.1], tau=0.8, what="reverse KL", limit=1.0))
        Boxes of written tokens with their reverse KL in nats: + 0.10, 2 0.40 (gate open). Below, the ...
    """
    shown, opened = min(len(words), SHOWN), np.asarray(entropies) > tau
    rows, columns = -(-shown // IN_ROW), min(shown, IN_ROW)
    canvas, axes = grid_of(2 * rows, 1, 0.78 * columns + 1.3, 2.5 * rows + 0.4, height_ratios=[1, 1.6] * rows)
    colours, limit = colormaps["PuOr" if signed else "Blues"], limit or 1.0
    top = 1.12 * max(tau, *entropies[:shown], 0.1)
    for row in range(rows):
        boxes, bars = axes[2 * row, 0], axes[2 * row + 1, 0]
        for x, i in enumerate(range(row * IN_ROW, min(shown, (row + 1) * IN_ROW))):
            share = np.clip(values[i] / limit, -1 if signed else 0, 1)
            colour = colours(0.5 + 0.42 * share if signed else 0.05 + 0.85 * share)
            ink = "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
            boxes.add_patch(Rectangle((x - 0.44, 0.04), 0.88, 0.92, facecolor=colour, edgecolor="black" if opened[i] else "#B5B5B5",
                                      lw=2.6 if opened[i] else 0.8))
            word = words[i] if len(words[i]) < 9 else f"{words[i][:7]}…"
            boxes.text(x, 0.68, word, ha="center", va="center", fontsize=11 if len(word) < 6 else 7.5, color=ink, weight="bold", parse_math=False)
            boxes.text(x, 0.3, f"{values[i]:.2f}".replace("-0.00", "0.00"), ha="center", va="center", fontsize=9, color=ink)
            if opened[i]:
                boxes.plot(x, 1.14, "v", color="black", ms=7, clip_on=False)
            bars.bar(x, entropies[i], width=0.6, color=OPEN if opened[i] else SHUT, hatch="//" if opened[i] else "", edgecolor="white", lw=0.5)
        boxes.set(xlim=(-0.6, columns - 0.4), ylim=(0, 1.25))
        boxes.axis("off")
        bars.axhline(tau, color=INK, lw=1.4, ls=(0, (5, 2)))
        bars.text(columns - 0.42, tau, f" tau\n {tau:.2f}", va="center", ha="left", fontsize=9, color=INK)
        bars.set(xlim=(-0.6, columns - 0.4), ylim=(0, top), ylabel="teacher's\nentropy (nats)")
        bars.set_xticks([])
        bars.grid(False, axis="x")
        if row == 0:
            boxes.set_title(f"{what}, nats a token  (▼ and thick outline: gate open)", fontsize=9, loc="left", color=INK)
    rest = f" The first {shown} of {len(words)} tokens." if shown < len(words) else ""
    told = ", ".join(f"{words[i]} {values[i]:.2f}{' (gate open)' if opened[i] else ''}" for i in range(shown))
    return Figure(canvas, f"Boxes of written tokens with their {what} in nats: {told}. Below, the teacher's entropy as bars and tau = {tau:.2f} nats as a "
                          f"line.{rest}")


def paired_differences(summary, measures: Mapping[str, str], arms: Sequence[str], baseline: str = "OPD") -> Figure:
    """Differences to a baseline with their intervals, a panel a measure, a row an objective; a filled mark where the interval leaves 0 out, a dotted line
    where the teacher stands.

    summary: rows of arm, measure, mean, less_opd, less_opd_low, less_opd_high. measures: column -> title. Raises InputError if an objective has none.

        >>> import pandas as pd
        >>> from mctrace_nb.shipped import shipped
        >>> summary = pd.read_csv(shipped("data/distill/summary.csv"))
        >>> print(mct.plots.paired_differences(summary, {"avg": "right answers"}, ["eopd"]))
        Paired differences to OPD with 95 % intervals: right answers, eopd -0.008 [-0.013, -0.003]. A ...
    """
    table = summary.set_index(["arm", "measure"])
    for arm in arms:
        for measure in measures:
            if (arm, measure) not in table.index or np.isnan(table.loc[(arm, measure), "less_opd"]):
                raise InputError(f"there is no difference of {arm!r} to {baseline} in {measure!r}; give arms and measures of the summary")
    canvas, axes = panels(len(measures), 2.55, 0.36 * len(arms) + 1.2, len(measures))
    said = []
    for axis, (measure, title) in zip(axes, measures.items()):
        for y, arm in enumerate(arms):
            mean, low, high = table.loc[(arm, measure), ["less_opd", "less_opd_low", "less_opd_high"]]
            colour, marker = LINES[y % len(LINES)]
            axis.plot([low, high], [y, y], color=colour, lw=2)
            axis.plot(mean, y, marker, color=colour, mfc=colour if low > 0 or high < 0 else "white", ms=7)
            said.append(f"{title}, {arm} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        axis.axvline(0, color=INK, lw=1)
        if ("teacher", measure) in table.index and ("opd", measure) in table.index:
            axis.axvline(table.loc[("teacher", measure), "mean"] - table.loc[("opd", measure), "mean"], color=INK, lw=1.2, ls=":")
        axis.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms] if axis is axes[0] else [""] * len(arms))
        axis.set(ylim=(len(arms) - 0.4, -0.6))
        axis.set_title(title, fontsize=10)
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(False, axis="y")
    canvas.supxlabel(f"difference to {baseline}, seed by seed (filled: the 95 % interval leaves 0 out; dotted: the teacher)", fontsize=9, color=INK)
    return Figure(canvas, f"Paired differences to {baseline} with 95 % intervals: {'; '.join(said)}. A dotted line is the teacher's place.")
