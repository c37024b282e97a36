"""Searches for the best set of components at each budget: one signature, one result, one count of work.

Every method is `method(trace, budgets, direction, seed, progress, **options) -> list[Selection]` and asks the trace only
for effects of masks, so that methods can be compared on equal terms.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from itertools import combinations
from typing import Callable, Iterable, Iterator

import numpy as np

from mctrace_nb.cost import RANDOM_DRAWS
from mctrace_nb.counting import Clock, mean_effects
from mctrace_nb.effects import NO_COUNTERFACTUAL, Effects
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.guided import guides
from mctrace_nb.lasso.ranking import lasso_ranking
from mctrace_nb.progress import bar
from mctrace_nb.path import front
from mctrace_nb.relax import evaluate_epochs, relax, selection_at, settings_grid
from mctrace_nb.results import SCORE, Front, Selection
from mctrace_nb.rivals import attribution, dcm, hard_concrete, integrated_gradients, shapley

MOST_SETS = 2_000_000


def exhaustive(trace, budgets, direction, seed, progress) -> Iterator[Selection]:
    """Every set of each size: the exact optimum. Raises InputError beyond two million sets."""
    n = len(trace.components)
    count = sum(math.comb(n, s) for s in budgets)
    if count > MOST_SETS:
        fits = max((s for s in range(1, n + 1) if sum(math.comb(n, i) for i in range(1, s + 1)) <= MOST_SETS), default=0)
        raise InputError(f"exhaustive search over {n} components up to budget {max(budgets)} needs {count:,} sets; "
                         f"the limit is {MOST_SETS:,} (budgets up to {fits} fit), or use another method")
    clock = Clock(trace)
    for budget in budgets:
        sets = list(combinations(range(n), budget))
        effects = mean_effects(trace, sets, len(sets), progress, f"exhaustive, {budget} of {n}")
        best = int(np.argmax(SCORE[direction](effects)))
        yield clock.selection("exhaustive", sets[best], effects[best], budget)


def random(trace, budgets, direction, seed, progress, draws: int = RANDOM_DRAWS) -> Iterator[Selection]:
    """Random sets of each size: the control. The selection is the median draw, its `band` the 5th to 95th percentile."""
    n, rng, clock = len(trace.components), np.random.default_rng(seed), Clock(trace)
    for budget in budgets:
        sets = [tuple(rng.choice(n, budget, replace=False)) for _ in range(draws)]
        effects = mean_effects(trace, sets, draws, progress, f"random, {budget} of {n}")
        middle = int(np.argsort(effects)[draws // 2])
        low, high = np.percentile(effects, [5, 95])
        yield clock.selection("random", sets[middle], effects[middle], budget, band=(float(low), float(high)))


def top_k(trace, budgets, direction, seed, progress) -> Iterator[Selection]:
    """The components with the largest single effects, taken together."""
    n, clock = len(trace.components), Clock(trace)
    singles = mean_effects(trace, ((i,) for i in range(n)), n, progress, "single effects")
    ranked = np.argsort(-SCORE[direction](singles), kind="stable").tolist()
    for budget in budgets:
        chosen = tuple(ranked[:budget])
        yield clock.selection("top-k", chosen, mean_effects(trace, [chosen], 1)[0], budget)


def greedy(trace, budgets, direction, seed, progress) -> Iterator[Selection]:
    """Adds the component that helps most, one at a time (Vig et al. 2020; the paper's strongest baseline)."""
    n, chosen, clock = len(trace.components), (), Clock(trace)
    for size in bar(range(1, max(budgets) + 1), "greedy", show=progress):
        candidates = [(*chosen, i) for i in range(n) if i not in chosen]
        effects = mean_effects(trace, candidates, len(candidates))
        best = int(np.argmax(SCORE[direction](effects)))
        chosen = candidates[best]
        if size in budgets:
            yield clock.selection("greedy", chosen, effects[best], size)


PATH = dict(lambda1=None, lambda2=None, schedule="path", transform="log")  # penalties found from the data


def _rows(direction, seed, options: dict, defaults: dict) -> list:
    """Settings of the relaxed searches: those of the user before those of the method; for "abs" one row each way."""
    sides = ("max", "min") if direction == "abs" else (direction,)
    return [s for side in sides for s in settings_grid(**{**defaults, "seed": seed, **options, "direction": side})]


def pgb(trace, budgets, direction, seed, progress, epochs: int = 15, batch_size: int = 32, repair: bool = True,
        **options) -> Iterator[Selection]:
    """PGB-CT as a front in one run: a set of exactly S components at every budget S, and no penalty to tune.

    The penalties rise along a path found from the data (`relax.Settings`); the masks are cut to every size and the best cut is
    repaired by swaps (`mctrace_nb.path`). A row stops, as in the paper, once it keeps at most the smallest budget. repair=False
    leaves the swaps out. Options that are given instead, single or as lists, run as rows of one batch. A Selection's `history` and
    `trajectory` are those of the row that its set was cut from; `settings` says where ("start") and after how many "swaps".
    """
    clock, rows = Clock(trace), _rows(direction, seed, options, PATH)
    runs = relax(trace, rows, epochs, batch_size, min(budgets), progress)
    fronts = front(trace, runs, budgets, repair, progress)
    for budget in budgets:
        best = max((found[budget] for found in fronts), key=lambda found: SCORE[direction](found.effect))
        yield clock.selection("pgb", best.chosen, best.effect, budget, history=best.run.history, trajectory=np.stack(best.run.trajectory),
                              settings={**asdict(best.run.settings), "start": best.start, "swaps": best.swaps})


def published(trace, budgets, direction, seed, progress, epochs: int = 15, batch_size: int = 32,
              **options) -> Iterator[Selection]:
    """PGB-CT as published: at each budget S the set kept at the end of the first epoch that keeps at most S components.

    One run serves all budgets, because the course of the mask does not depend on S. Where several settings are given
    (as lists), the best set by effect on the search prompts. A budget that no run reached is left
    out. Metrics that are no ratios are transformed as they declare (`Metric.transform`).
    """
    start = time.perf_counter()
    runs = relax(trace, _rows(direction, seed, options, {}), epochs, batch_size, min(budgets), progress)
    evaluate_epochs(trace, runs)
    seconds = time.perf_counter() - start
    for budget in budgets:
        reached = [(run, epoch) for run in runs
                   for epoch in [next((h["epoch"] for h in run.history if h["kept"] <= budget), None)] if epoch]
        if reached:
            best = max((selection_at(trace, run, epoch, budget, seconds) for run, epoch in reached),
                       key=lambda s: SCORE[direction](s.effect))
            spent = [run.history[epoch - 1] for run, epoch in reached]
            spent += [run.history[-1] for run in runs if all(run is not r for r, _ in reached)]  # they ran in vain
            yield replace(best, **{name: sum(row[name] for row in spent) for name in ("forwards", "backwards")})


def guided(trace, budgets, direction, seed, progress) -> Iterator[Selection]:
    """Gradients propose, exact effects decide (`mctrace_nb.guided`): one run serves all budgets, and its work, at most 12 + 17 S rows
    a prompt, does not grow with the number of components. Sets of different budgets need not be nested, and since what may be spent
    is shared out among them, another largest budget can give another set of a size."""
    clock = Clock(trace)
    found = guides(trace, max(budgets), direction, progress)
    for budget in budgets:
        best = max((g for g in found if budget in g.best), key=lambda g: SCORE[direction](g.sign * g.known[g.best[budget]]))
        yield clock.selection("guided", best.best[budget], best.sign * best.known[best.best[budget]], budget)


METHODS: dict[str, Callable[..., Iterator[Selection]]] = {
    "exhaustive": exhaustive, "greedy": greedy, "guided": guided, "top-k": top_k, "pgb": pgb, "pgb-published": published,
    "attribution": attribution, "integrated-gradients": integrated_gradients, "shapley": shapley, "hard-concrete": hard_concrete,
    "dcm": dcm, "circuit-lasso": lasso_ranking, "random": random}


def check_budgets(budgets: Iterable[int], n: int) -> list[int]:
    """Sorted budgets. Raises InputError unless they are whole numbers from 1 to the number of components."""
    found = sorted(set([budgets] if isinstance(budgets, (int, np.integer)) else budgets))
    bad = [b for b in found if not isinstance(b, (int, np.integer)) or not 1 <= b <= n]
    if bad or not found:
        raise InputError(f"budget {bad[0] if bad else budgets!r} is out of range; give whole numbers from 1 to {n}")
    return [int(b) for b in found]


def search(trace: Effects, method: str = "greedy", budgets: Iterable[int] | int = range(1, 9), direction: str = "max",
           seed: int = 0, heldout: bool = True, progress: bool = True, **options) -> Front:
    """Runs a method at each budget and reports its sets, also on the held-out prompts with 95 % intervals.

    method: a name in `METHODS`: "exhaustive", "greedy", "guided", "top-k", "pgb", "pgb-published", "random", or one of the rivals in
    `mctrace_nb.rivals`: "attribution", "integrated-gradients", "shapley", "hard-concrete", "dcm"; or "circuit-lasso", which only observes. direction: look for the largest effect
    ("max"), the smallest ("min") or the largest in size ("abs"). options: those of the method (for "pgb" and "pgb-published" the
    fields of `relax.Settings`, without, epochs and batch_size; for "pgb" also repair; for "random" draws; for the rivals their keyword
    arguments). The held-out prompts are never searched on, and their
    runs are not counted as work.

    Raises InputError for an unknown method, direction or option, or a budget out of range.

        >>> front = mct.search(trace, "guided", budgets=range(1, 4))
        >>> print(front[2])
        guided: {L1H2, L2H2} effect 13.980, held-out 14.291 [13.484, 15.234]
    """
    run = METHODS[one_of(method, METHODS, "method")]
    one_of(direction, SCORE, "direction")
    budgets = check_budgets(budgets, len(trace.components))
    if heldout and trace.task.heldout:
        trace.heldout  # what is wrong with those prompts should be known before the search
    if trace.nothing_to_compare:
        raise InputError(f"task {trace.task.name!r}: {NO_COUNTERFACTUAL}")
    try:
        found = tuple(run(trace, budgets, direction, seed, progress, **options))
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise InputError(f"{method}: {str(error).split('() ')[-1]}") from None
    if heldout and trace.task.heldout:
        found = tuple(report_heldout(trace, s) for s in found)
    return Front(method, found, direction, {"seed": seed, **options})


def report_heldout(trace: Effects, selection: Selection) -> Selection:
    """The selection with its mean effect and interval on the held-out prompts."""
    effects = trace.heldout.effects(trace.components.mask(selection.components))
    e = trace.heldout.estimate(effects)
    return replace(selection, effect_heldout=e.mean, ci_low=e.low, ci_high=e.high)
