"""How sure a selection is: the same search on other draws of the prompts, with other seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Iterable

import numpy as np

from mctrace_nb.desiderata import Desiderata
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.progress import bar
from mctrace_nb.results import Front, Selection
from mctrace_nb.search import check_budgets, search

TRIES = 100


def jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    """Size of the intersection over size of the union; two empty sets are the same."""
    one, other = set(one), set(other)
    return len(one & other) / len(one | other) if one | other else 1.0


def jaccard_by_chance(n: int, size: int, other: int | None = None) -> float:
    """Expected Jaccard index of two independent random sets of a size (or of two sizes) out of n components."""
    other = size if other is None else other
    if size == other == 0:
        return 1.0
    common = range(max(0, size + other - n), min(size, other) + 1)
    return sum(math.comb(size, k) * math.comb(n - size, other - k) * k / (size + other - k) for k in common) / math.comb(n, other)


def resampled(trace: Effects, rng: np.random.Generator) -> Effects:
    """The same trace on as many search prompts as groups drawn with replacement hold: one bootstrap draw."""
    if isinstance(trace, Desiderata):
        drawn = [resampled(t, rng) for t in trace.traces]
        moved, kept = ([t for t, k in zip(drawn, trace.kept) if k == which] for which in (False, True))
        return Desiderata(moved, kept, trace.weights)
    names = [g or f"#{i}" for i, g in enumerate(trace.groups)]
    groups = sorted(set(names))
    for _ in range(TRIES):  # a draw may lack one of the cohorts that a gap compares
        drawn = rng.choice(len(groups), len(groups))
        chosen = [e for g in drawn for e, name in zip(trace.examples, names) if name == groups[g]]
        try:
            return trace.again(task=replace(trace.task, **{trace.split: tuple(chosen)}))
        except InputError as error:
            refusal = error
    raise refusal


@dataclass(frozen=True)
class Stability:
    """Fronts of one method on draws of the prompts, beside its front on the prompts themselves.

        >>> sure = mct.stability(trace, "greedy", [1, 2], draws=4)
        >>> print(sure.words(2))
        On 4 draws of the prompts greedy chose this very set in 100%; two draws agree by a Jaccard index of ...
    """

    labels: tuple[str, ...]
    full: Front
    draws: tuple[Front, ...]

    def _at(self, budget: int) -> list[Selection]:
        return [s for f in self.draws for s in f.selections if s.budget == budget]

    def to_frame(self):
        """A row a budget: mean Jaccard index between draws (`jaccard`), with the set on all prompts (`with_full`), what two
        random sets of that size would have (`by_chance`), the share of draws with the very same set (`same`), and their number."""
        import pandas as pd

        rows = []
        for s in self.full.selections:
            found = [set(d.components) for d in self._at(s.budget)]
            rows.append(dict(budget=s.budget, jaccard=np.mean([jaccard(a, b) for a, b in combinations(found, 2)] or [np.nan]),
                             with_full=np.mean([jaccard(a, s.components) for a in found] or [np.nan]),
                             by_chance=jaccard_by_chance(len(self.labels), s.size) if s.size else np.nan,
                             same=np.mean([a == set(s.components) for a in found] or [np.nan]), draws=len(found)))
        return pd.DataFrame(rows).set_index("budget")

    def frequencies(self, budget: int):
        """A frame of how often each component was chosen at a budget, most often first: component, share of draws, and whether it is
        in the set on all prompts. Those never chosen are left out. Raises InputError for a budget without a set."""
        import pandas as pd

        full, found = self.full[budget], self._at(budget)
        share = {label: np.mean([label in s.components for s in found]) for label in self.labels}
        rows = [dict(component=label, share=share[label], in_full=label in full.components) for label in self.labels
                if share[label] > 0 or label in full.components]
        return pd.DataFrame(rows).sort_values("share", ascending=False, kind="stable", ignore_index=True)

    def words(self, budget: int) -> str:
        """How sure the set of a budget is, in a sentence. Raises InputError for a budget without a set."""
        row, kept = self.to_frame().loc[budget], self.frequencies(budget)
        always = [f"{r.component} ({r.share:.0%})" for r in kept[kept["in_full"]].itertuples()]
        rivals = [f"{r.component} ({r.share:.0%})" for r in kept[~kept["in_full"]].head(3).itertuples()]
        return (f"On {row.draws:.0f} draws of the prompts {self.full.method} chose this very set in {row.same:.0%}; two draws agree by a Jaccard "
                f"index of {row.jaccard:.2f} (random sets: {row.by_chance:.2f}). Chosen how often: {', '.join(always)}"
                + (f"; most frequent others: {', '.join(rivals)}." if rivals else "; no other component was ever chosen."))


def stability(trace: Effects, method: str = "guided", budgets: Iterable[int] | int = range(1, 9), draws: int = 20, seed: int = 0,
              direction: str = "max", progress: bool = True, **options) -> Stability:
    """Runs a search on `draws` bootstrap draws of the search prompts (whole template groups), each with a seed of its own.

    Options are those of `search`. The held-out prompts are left alone. Raises InputError as `search` does, or for fewer than two
    draws or fewer than two groups.

        >>> sure = mct.stability(trace, "greedy", [1, 2], draws=4)
        >>> sure.to_frame().round(2)
                jaccard  with_full  by_chance  same  draws
        budget
        1           1.0        1.0       0.08   1.0      4
        2           1.0        1.0       0.12   1.0      4
    """
    if not isinstance(draws, int) or draws < 2:
        raise InputError(f"draws={draws!r} is out of range; give at least 2, of which agreement can be told")
    if len({g or i for i, g in enumerate(trace.groups)}) < 2:
        raise InputError("all prompts are of one template group, so no draw differs from another; give prompts of several groups")
    budgets = check_budgets(budgets, len(trace.components))
    how = dict(direction=direction, heldout=False, progress=False, **options)
    full = search(trace, method, budgets, seed=seed, **how)
    fronts = [search(resampled(trace, np.random.default_rng([seed, i])), method, budgets, seed=seed + i, **how)
              for i in bar(range(1, draws + 1), f"{method} on draws of the prompts", show=progress)]
    return Stability(tuple(trace.components.labels), full, tuple(fronts))
