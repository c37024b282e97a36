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
from mctrace_nb.explain import Explanation, explain, missed
from mctrace_nb.plots import Figure, front as drawn_front
from mctrace_nb.views import evidence
from mctrace_nb.words import interval_text, paragraph

AUTO = ("exhaustive", "guided", "greedy", "top-k", "pgb", "pgb-published", "random")
SAME = 1e-5  # of an effect, or nats: what passes for rounding
AUTO_SETS = 20_000  # "auto" enumerates up to so many sets
NO_GRADIENT = ("exhaustive", "greedy", "top-k", "random", "shapley", "circuit-lasso")
PGB_OPTIONS = ("lambda1", "lambda2", "schedule", "lr", "epochs", "batch_size", "rounding", "penalty", "transform", "without")


def named_methods(methods: str | Sequence[str], n: int, budgets: Sequence[int]) -> list[str]:
    """Method names from "auto" or a comma-separated list. "auto" leaves the enumeration out where it is too large; random sets,
    the control, are always among them."""
    if methods == "auto":
        fits = sum(math.comb(n, b) for b in budgets) <= AUTO_SETS
        return [m for m in AUTO if fits or m != "exhaustive"]
    names = [m.strip() for m in methods.split(",")] if isinstance(methods, str) else list(methods)
    return [one_of(name, METHODS, "method") for name in dict.fromkeys([*names, "random"])]


@dataclass(frozen=True)
class Comparison:
    """Fronts of several methods on one trace; `budget` is the one reported on. others: sets from elsewhere, by name.

        >>> compared = mct.compare(trace, "exhaustive,greedy", budgets=[1, 2], budget=2)
        >>> compared.quality()[["method", "budget", "effect", "fraction"]].round(2)
               method  budget  effect  fraction
        0  exhaustive       1    9.46      1.00
        1  exhaustive       2   13.98      1.00
        2      greedy       1    9.46      1.00
        3      greedy       2   13.98      1.00
        4      random       1    0.34      0.04
        5      random       2    0.72      0.05
    """

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

    @cached_property
    def explanation(self) -> Explanation | None:
        """The best selection's joint effect taken apart; None for an empty set."""
        return explain(self.trace, self.best) if self.best.size else None

    def missed(self) -> str:
        """What greedy search missed of the best set, in a sentence; "" where it was not run or its set is the best one."""
        greedy = self.front("greedy")
        return missed(self.trace, self.best, greedy, self.explanation) if greedy and self.best.size and self.best.method != "greedy" else ""

    def best_known(self, budget: int) -> Selection | None:
        """The exact optimum of a budget if it was enumerated, else the best that any method found; None if none has a set."""
        found = [s for f in self.fronts for s in f.selections if s.budget == budget and s.method != "random"]
        exact = [s for s in found if s.method == "exhaustive"]
        return max(exact or found, key=lambda s: self.fronts[0].score(s.effect), default=None)

    def quality(self) -> pd.DataFrame:
        """Every method at every budget: effect, fraction of the best known and gap to it, forwards, backwards, seconds.

        `best` says what the best known is: "optimum" where every set was tried, else the method that found it. A fraction is
        nan where the best known is not above zero in the direction of the search.
        """
        rows = []
        for f in self.fronts:
            for s in f.selections:
                best = self.best_known(s.budget)
                top = f.score(best.effect) if best else float("nan")
                rows.append({"method": f.method, "budget": s.budget, "effect": s.effect,
                             "fraction": f.score(s.effect) / top if top > 1e-9 else float("nan"), "gap": top - f.score(s.effect),
                             "best": "" if best is None else "optimum" if best.method == "exhaustive" else best.method,
                             "forwards": s.forwards, "backwards": s.backwards, "seconds": round(s.seconds, 3)})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """A row a method over all budgets: area under its front (`Front.area`), in how many budgets it has the best known set's effect,
        its smallest fraction of that, and its work."""
        quality, total = self.quality(), self.trace.total_effect().mean
        most, rows = int(quality["budget"].max()), []
        for f in self.fronts:
            mine = quality[quality["method"] == f.method]
            reached = (mine["fraction"] > 1 - SAME) | (mine["gap"].abs() < SAME)
            rows.append({"method": f.method, "area": f.area(total, most), "budgets": len(mine), "best": int(reached.sum()),
                         "worst fraction": mine["fraction"].min(), "work": int((mine["forwards"] + mine["backwards"]).max()) if len(mine) else 0,
                         "seconds": mine["seconds"].max()})
        return pd.DataFrame(rows).set_index("method")

    def figure(self) -> Figure:
        """Effect against budget for every method, with the total effect and the band of random sets."""
        return drawn_front(self.fronts, self.trace.metric.unit, self.trace.total_effect().mean)

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


def compare(trace: Effects, methods: str | Sequence[str] = "auto", budgets: Iterable[int] | int | None = None, budget: int | None = None,
            direction: str = "max", seed: int = 0, progress: bool = True, others: dict[str, Selection] | None = None,
            **pgb_options) -> Comparison:
    """Runs several methods at the same budgets and collects their fronts: tables, figure, words.

    methods: "auto" (those of `AUTO`; the enumeration only up to 20,000 sets) or names; random sets of the same size always run too.
    budgets: of the fronts, by default 1 to 8, or to twice the budget if that is more; budget: the one reported on, by
    default the largest of `budgets`, or 4. others: sets found elsewhere, by name, to be measured here too. pgb_options:
    settings of the relaxed searches.
    Raises InputError for unknown methods or options, or a budget out of range.

        >>> compared = mct.compare(trace, "exhaustive,greedy", budgets=[1, 2], budget=2)
        >>> print(compared.best)
        exhaustive: {L1H2, L2H2} effect 13.980, held-out 14.291 [13.484, 15.234]
    """
    n = len(trace.components)
    if budgets is None:
        budget = min(4, n) if budget is None else budget
        budgets = budgets_of(budget, n)
    else:
        budgets = check_budgets(budgets, n)
        budget = budgets[-1] if budget is None else budget
        budgets = check_budgets([*budgets, budget], n)
    for name in pgb_options:
        one_of(name, PGB_OPTIONS, "option of the relaxed searches")
    fronts = []
    for method in named_methods(methods, n, budgets):
        options = dict(pgb_options) if method.startswith("pgb") else {}
        if methods == "auto" and method not in NO_GRADIENT and not trace.metric.differentiable:
            continue  # named by the user, it says itself why it cannot run
        try:
            fronts.append(search(trace, method, budgets, direction, seed, progress=progress, **options))
        except InputError as error:  # of a metric of the user's own it shows only now whether it has a gradient
            if methods != "auto" or "no gradient" not in str(error):
                raise
    asked = [f for f in fronts if f.method != "random"] or fronts
    if not any(s.budget == budget for f in asked for s in f.selections):
        raise InputError(f"{', '.join(f.method for f in asked)} found no set for budget {budget}; name more methods, or give "
                         "another budget")
    return Comparison(trace, tuple(fronts), budget, dict(others or {}))
