"""Agreement between the sets of several runs: over draws of the prompts (seeds), and between models, tasks or kinds.

Two sets from different models are compared beside a control: two sets from the same model on different draws of the prompts. What
differs less than that is no difference.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import combinations
from typing import Callable, Iterable

import numpy as np
import pandas as pd

from mctrace_nb.components import HEAD_KINDS
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.stability import jaccard, jaccard_by_chance

SEED = "seed"
DRAWN = 2000  # random pairs of sets, for what chance gives layer by layer
Drawn = list[tuple[object, frozenset]]  # the sets of some runs, each with its seed

by_chance = lru_cache(maxsize=None)(jaccard_by_chance)


def labels_of(text: str) -> frozenset:
    """The components of a set as it stands in a front: labels joined by `;`."""
    return frozenset(filter(None, text.split(";")))


def layers_of(chosen: Iterable[str]) -> Counter:
    """How many of some components are in each layer."""
    return Counter((re.match(r"L\d+", label) or [label])[0] for label in chosen)


@lru_cache(maxsize=None)
def _counted(chosen: frozenset) -> Counter:
    return layers_of(chosen)


def by_layer(one: frozenset, other: frozenset) -> float:
    """Jaccard index of two sets of which only the layers are looked at: what the best renaming of units within layers would give."""
    one, other = _counted(one), _counted(other)
    union = (one | other).total()
    return (one & other).total() / union if union else 1.0


@lru_cache(maxsize=None)
def by_layer_by_chance(n: int, layers: int, size: int, other: int, seed: int = 0) -> float:
    """Mean of `by_layer` over random pairs of sets of two sizes, n components spread evenly over layers; nan if they cannot be."""
    if not layers or n % layers:
        return float("nan")
    rng, colours = np.random.default_rng(seed), [n // layers] * layers
    a, b = (rng.multivariate_hypergeometric(colours, k, DRAWN, method="marginals") for k in (size, other))
    union = np.maximum(a, b).sum(1)
    return float(np.where(union, np.minimum(a, b).sum(1) / np.maximum(union, 1), 1).mean())


def within(drawn: Drawn, like: Callable) -> float:
    """Mean likeness of all pairs of runs; nan for fewer than two."""
    pairs = [like(a, b) for (_, a), (_, b) in combinations(drawn, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def across(one: Drawn, other: Drawn, like: Callable) -> float:
    """Mean likeness of a run of one side and a run of the other, on different draws of the prompts as in the control; on the same
    draw only where there is no other."""
    pairs = [like(a, b) for s, a in one for t, b in other if s != t] or [like(a, b) for _, a in one for _, b in other]
    return float(np.mean(pairs))


def share_chosen(sets: Iterable[frozenset]) -> dict[str, float]:
    """In what share of the sets each component is, most often first."""
    sets = list(sets)
    count = Counter(label for s in sets for label in s)
    return {label: count[label] / len(sets) for label in sorted(count, key=lambda x: (-count[x], x))}


def _sizes(drawn: Iterable[frozenset]) -> int:
    return round(float(np.mean([len(s) for s in drawn])))


def _groups(frame: pd.DataFrame, by: list[str]):
    """Pairs of a tuple of values and the rows that have them, in order; all rows under () for no column."""
    return frame.groupby(by, sort=False, dropna=False) if by else [((), frame)]


def inside(study, *without: str) -> list[str]:
    """The columns of `fronts` that hold the axes, without some of them."""
    return ["reported_budget" if a == "budget" else a for a in study.axes if a not in without]


def over_seeds(study, rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Agreement among some rows of `fronts` that are alike in the columns `by`; see `stability`. Those that stand alone are left out."""
    found, candidates = [], study.runs["candidates"]
    for key, group in _groups(rows, by):
        if len(group) > 1:
            drawn, held = list(zip(group[SEED], map(labels_of, group["set"]))), group["effect_heldout"]
            sets, none = [s for _, s in drawn], float("nan")
            some = any(sets)  # to choose nothing again and again is no agreement
            found.append({**dict(zip(by, key)), "seeds": len(group), "jaccard": within(drawn, jaccard) if some else none,
                          "by_chance": by_chance(int(candidates[group["run"].iloc[0]]), _sizes(sets)) if some else none,
                          "same": within(drawn, lambda a, b: float(a == b)) if some else none, "chosen": share_chosen(sets),
                          "effect_heldout": held.mean(), "lowest": held.min(), "highest": held.max()})
    return pd.DataFrame(found)


def stability(study, budget: int | None = None, method: str | None = None) -> pd.DataFrame:
    """A row for each combination of the other axes, method and budget, over runs that differ in the seed alone.

    `seeds`: how many runs; `jaccard`: mean over pairs of them, `by_chance`: for two random sets of their mean size, `same`: share of
    pairs with the very same set (all nan where nothing was ever chosen), `chosen`: a dict of each component's share of the runs, most
    often first; `effect_heldout`: mean, `lowest` and `highest` over the runs. budget, method: by default all.
    Raises InputError where no two runs differ in the seed alone.
    """
    if SEED not in study.axes:
        raise InputError(f"the axes of this study are {', '.join(study.axes) or 'none'}, and agreement over draws of the prompts needs "
                         "several seeds; give `seed: [0, 1, 2]` in the grid")
    rows = study.fronts
    if method:
        rows = rows[rows["method"] == one_of(method, dict.fromkeys(rows["method"]), "method")]
    if budget is not None:
        rows = rows[rows["budget"] == budget]
    found = over_seeds(study, rows, [*inside(study, SEED), "method", "budget"])
    if found.empty:
        raise InputError(f"no two finished runs differ in the seed alone{f' and have a set of budget {budget}' * (budget is not None)}; "
                         "give more seeds in the grid, or another budget")
    return found


def _form(runs: pd.DataFrame) -> set:
    """What decides whether labels of two runs stand for places of the same shape."""
    kinds = ["heads" if set(k.split(",")) <= set(HEAD_KINDS) else k for k in runs["kinds"]]
    return set(zip(runs["layout"], runs["candidates"], kinds))


def areas(study) -> pd.Series:
    """By run, the area under the front of the best known sets as a share of the total effect (as `Front.area`)."""
    rows = study.fronts[study.fronts["method"] != "random"]
    best = rows.assign(score=study.scores(rows)).groupby(["run", "budget"], sort=False)["score"].max()
    totals, found = study.runs["total_effect"].abs(), {}
    for run, scores in best.groupby(level="run", sort=False):
        known = dict(zip(scores.index.get_level_values("budget"), scores))
        curve = np.maximum.accumulate([known.get(b, 0.0) if b else 0.0 for b in range(int(max(known)) + 1)])
        found[run] = float(np.trapezoid(curve) / max(known) / totals[run]) if totals[run] else float("nan")
    return pd.Series(found, dtype=float)


def _side(rows: pd.DataFrame, runs: pd.DataFrame, area: pd.Series) -> dict:
    """Of the runs of one value: mean share of the total effect and the ends of its intervals, and the area under the fronts."""
    of = runs.loc[rows["run"]]
    held = rows["effect_heldout"].notna().to_numpy() & of["total_heldout"].notna().to_numpy()
    total = np.where(held, of["total_heldout"], of["total_effect"])
    total[np.abs(total) < 1e-9] = np.nan
    share = np.where(held, rows["effect_heldout"], rows["effect"]) / total
    ends = np.stack([rows["ci_low"] / total, rows["ci_high"] / total])  # of a negative total the ends change places
    return dict(share=share.mean(), low=np.nanmin(ends) if held.any() else np.nan, high=np.nanmax(ends) if held.any() else np.nan,
                area=area.reindex(rows["run"]).mean())


def between(study, axis: str = "model", budget: int | None = None, method: str | None = None, seed: int = 0) -> pd.DataFrame:
    """A row for each pair of values of an axis (`one`, `other`) and each combination of the other axes, over the seeds.

    `comparable`: whether labels mean places of the same shape (as many layers, heads and components, of a like kind); if not, nothing
    is said about components. `common`, `only_one`, `only_other`: components that more than half of the runs of both sides, or of one
    alone, chose. `jaccard`: mean over pairs of runs, one of each side, on different draws of the prompts; `control`: the same over
    pairs of runs of one side, the mean of both; `by_chance`: for random sets of that size. `layers`, `layers_control`,
    `layers_by_chance`: the same where only layers count (`by_layer`), which is what can be said of models trained apart: there a
    unit's number within its layer is an accident. `share_one`, `low_one`, `high_one`: mean held-out effect as a share of the total
    effect on held-out prompts, and from the lowest to the highest end of the runs' 95 % intervals over prompts (of the total as a
    point); `area_one`: area under the best known front; likewise `_other`.
    budget, method: as in `Study.chosen`. seed: of the random sets of `layers_by_chance`.
    Raises InputError for an axis without two values among finished runs.
    """
    values = study.values(axis)
    if axis == SEED or len(values) < 2:
        raise InputError(f"axis {axis!r} has {len(values)} value(s) among the finished runs; differences need an axis other than the seed with "
                         f"two, such as {', '.join(study.others(SEED, axis)) or 'model in a larger grid'}")
    found, area, runs, rows = study.chosen(budget, method), areas(study), study.runs, []
    found = found.assign(labels=found["set"].map(labels_of))
    rest, column = inside(study, SEED, axis), inside(study, *(a for a in study.axes if a != axis))[0]
    draw = found[SEED] if SEED in found else pd.Series(0, index=found.index)
    for key, group in _groups(found, rest):
        sides = {value: side for value, side in group.groupby(column, sort=False)}
        drawn = {value: list(zip(draw[side.index], side["labels"])) for value, side in sides.items()}
        own = {value: (within(d, jaccard), within(d, by_layer)) for value, d in drawn.items()}
        usual = {value: {x for x, share in share_chosen(s for _, s in d).items() if share > 0.5} for value, d in drawn.items()}
        told = {value: _side(side, runs, area) for value, side in sides.items()}
        form, sizes = ({v: f(v) for v in sides} for f in (lambda v: _form(runs.loc[sides[v]["run"]]), lambda v: _sizes(s for _, s in drawn[v])))
        for one, other in combinations([v for v in values if v in sides], 2):
            row = {**dict(zip(rest, key)), "one": one, "other": other, "comparable": form[one] == form[other] and len(form[one]) == 1}
            if row["comparable"]:
                layout, n, _ = next(iter(form[one]))
                layers = int(layout.split()[0]) if layout else 0
                control = np.array([own[one], own[other]])
                with np.errstate(invalid="ignore"):
                    control = [np.nan if np.isnan(c).all() else np.nanmean(c) for c in control.T]
                row |= dict(common=sorted(usual[one] & usual[other]), only_one=sorted(usual[one] - usual[other]),
                            only_other=sorted(usual[other] - usual[one]),
                            jaccard=across(drawn[one], drawn[other], jaccard), control=control[0],
                            by_chance=by_chance(int(n), sizes[one], sizes[other]),
                            layers=across(drawn[one], drawn[other], by_layer), layers_control=control[1],
                            layers_by_chance=by_layer_by_chance(int(n), layers, sizes[one], sizes[other], seed))
            rows.append(row | {f"{name}_{side}": x for side, v in (("one", one), ("other", other)) for name, x in told[v].items()})
    if not rows:
        raise InputError(f"no two finished runs differ in {axis} and seed alone; give a grid in which everything else is the same")
    agreed = ["common", "only_one", "only_other", "jaccard", "control", "by_chance", "layers", "layers_control", "layers_by_chance"]
    return pd.DataFrame(rows, columns=[*rest, "one", "other", "comparable", *agreed,
                                       *(f"{name}_{side}" for side in ("one", "other") for name in ("share", "low", "high", "area"))])
