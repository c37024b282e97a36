"""Methods side by side under the same budgets and the same count of work, and what was found, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Iterable, Sequence

import pandas as pd

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.results import Front, Selection
from mctrace_nb.search import METHODS, check_budgets, search
from mctrace_nb.effects import Effects
from mctrace_nb.views import evidence
from mctrace_nb.words import interval_text, paragraph

AUTO = ("exhaustive", "greedy", "top-k", "pgb", "pgb-published", "random")
AUTO_SETS = 20_000  # "auto" enumerates up to so many sets
PGB_OPTIONS = ("lambda1", "lambda2", "schedule", "lr", "epochs", "batch_size", "rounding", "penalty")


def named_methods(methods: str | Sequence[str], n: int, budgets: Sequence[int]) -> list[str]:
    """Method names from "auto" or a comma-separated list. "auto" leaves the enumeration out where it is too large."""
    if methods == "auto":
        fits = sum(math.comb(n, b) for b in budgets) <= AUTO_SETS
        return [m for m in AUTO if fits or m != "exhaustive"]
    names = [m.strip() for m in methods.split(",")] if isinstance(methods, str) else list(methods)
    return [one_of(name, METHODS, "method") for name in names]


@dataclass(frozen=True)
class Comparison:
    """Fronts of several methods on one trace; `budget` is the one reported on. others: sets from elsewhere, by name."""

    trace: Effects
    fronts: tuple[Front, ...]
    budget: int
    others: dict[str, Selection] = field(default_factory=dict)

    def front(self, method: str) -> Front | None:
        return next((f for f in self.fronts if f.method == method), None)

    @property
    def selections(self) -> list[Selection]:
        """Each method's selection at the reported budget."""
        return [s for f in self.fronts for s in f.selections if s.budget == self.budget]

    @property
    def exact(self) -> Selection | None:
        """The exact optimum at the reported budget, if it was enumerated."""
        return next((s for s in self.selections if s.method == "exhaustive"), None)

    @property
    def best(self) -> Selection:
        """The exact optimum if it is known, else the best selection at the reported budget on the search prompts."""
        found = [s for s in self.selections if s.method != "random"] or self.selections  # a control is no finding
        return self.exact or max(found, key=lambda s: self.fronts[0].score(s.effect))

    @cached_property
    def evidence(self) -> pd.DataFrame:
        """What stands behind the best selection: see `views.evidence`."""
        return evidence(self.trace, self.best, seed=self.trace.seed, others=self.others, direction=self.fronts[0].direction)

    def share(self, effect: float) -> str:
        """An effect as a share of the best one, "" where a share would mean nothing (a side that is not positive)."""
        score, best = self.fronts[0].score(effect), self.fronts[0].score(self.best.effect)
        return f"{score / best:.0%}" if score >= 0 and best > 1e-9 else ""

    def to_frame(self) -> pd.DataFrame:
        """All fronts, one under the other: the contents of `front.csv`."""
        return pd.concat([f.to_frame() for f in self.fronts if f.selections], ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Methods at the reported budget: set, effect, share of the exact optimum, held-out effect, work."""
        rows = []
        for s in self.selections:
            held = "" if s.effect_heldout is None else f"{s.effect_heldout:.2f}{interval_text(s.ci_low, s.ci_high)}"
            rows.append({"method": "random (median draw)" if s.method == "random" else s.method,
                         "components": ", ".join(s.components) or "none", "effect": f"{s.effect:.2f}",
                         **({"of optimum": self.share(s.effect)} if self.exact else {}), "held-out, 95 %": held,
                         "forwards": s.forwards, "backwards": s.backwards})
        return pd.DataFrame(rows).set_index("method")

    def words(self) -> str:
        """A paragraph on what was found, every number from the runs themselves, and on what to beware of."""
        return self._words

    @cached_property
    def _words(self) -> str:
        return paragraph(self)


def budgets_of(budget: int, n: int) -> list[int]:
    """The budgets of a front that reports on one of them: 1 to 8, or to twice the budget if that is more."""
    check_budgets([budget], n)
    return check_budgets(range(1, min(n, max(8, 2 * budget)) + 1), n)


def compare(trace: Effects, methods: str | Sequence[str] = "auto", budget: int = 4, budgets: Iterable[int] | None = None,
            direction: str = "max", seed: int = 0, progress: bool = True, others: dict[str, Selection] | None = None,
            **pgb_options) -> Comparison:
    """Runs several methods at the same budgets and collects their fronts.

    methods: "auto" (all; the enumeration only up to 20,000 sets) or names. budget: the one reported on; budgets: the
    front's, by default 1 to 8, or to twice the budget if that is more. others: sets found elsewhere, by name, to be measured here
    too. pgb_options: settings of the relaxed searches.
    Raises InputError for unknown methods or options, or a budget out of range.
    """
    n = len(trace.components)
    budgets = budgets_of(budget, n) if budgets is None else check_budgets([*budgets, budget], n)
    for name in pgb_options:
        one_of(name, PGB_OPTIONS, "option of the relaxed searches")
    fronts = []
    for method in named_methods(methods, n, budgets):
        options = dict(pgb_options) if method.startswith("pgb") else {}
        if methods == "auto" and method.startswith("pgb") and not trace.metric.differentiable:
            continue  # named by the user, it says itself why it cannot run
        try:
            fronts.append(search(trace, method, budgets, direction, seed, progress=progress, **options))
        except InputError as error:  # of a metric of the user's own it shows only now whether it has a gradient
            if methods != "auto" or "no gradient" not in str(error):
                raise
    if not any(s.budget == budget for f in fronts for s in f.selections):
        raise InputError(f"{', '.join(f.method for f in fronts)} found no set for budget {budget}; name more methods, or give "
                         "another budget")
    return Comparison(trace, tuple(fronts), budget, dict(others or {}))
