"""From a mask to a set at one's fingertips: a budget, a rule to round by, and what the rounding has cost."""

from __future__ import annotations

import math
from functools import cache

import ipywidgets as ipy
import numpy as np

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.path import Exact, Found, repaired, top
from mctrace_nb.plots import Figure, rounding
from mctrace_nb.relax import Run, check_relaxable, relax, settings_grid
from mctrace_nb.results import Selection
from mctrace_nb.search import search
from mctrace_nb.widgets.base import Explorer, menu, slider, started, traced
from mctrace_nb.words import interval_text

RULES = ("threshold", "top S", "top S, repaired by swaps")
MOST = 8  # the largest budget on the slider
ENUMERATED = 5_000  # sets that are run for an exact optimum: a few seconds, once
EPOCHS = 12


def reachable(mask: np.ndarray, budget: int) -> int:
    """The size of the largest set of at most `budget` components that any threshold cuts from a mask `(N,)`; equal values go together."""
    sizes = [int((mask >= value).sum()) for value in set(mask.tolist())]
    return max((size for size in sizes if size <= budget), default=0)


class BudgetExplorer(Explorer):
    """A relaxed mask cut to a set: by a threshold, to the S largest entries, or so and repaired by swaps; beside it the exact optimum.

    trace: whose components are relaxed, in 12 epochs, with the loss in log space and equal penalties for sparsity and for
    entries that are not binary, each a mean over components, so the same for 12 and for 192; a mask is optimised once for each penalty.
    At a budget S a threshold has the largest set that any threshold cuts from the mask with no more than S members. The exact optimum is known up to the budget up
    to which there are at most 5,000 sets, and is enumerated once, which may take a few seconds; beyond, a set is compared with the best
    that the rules find at its size, and the words say so. Other arguments are the values that the controls start with.

    Raises InputError for a metric without a gradient, or a value that a control does not have.

        >>> explorer = mct.widgets.BudgetExplorer(mct.Trace(model, task, "attn_block"), budget=2)
        >>> explorer.parameters
        {'budget': 2, 'rule': 'top S', 'threshold': 0.5, 'penalty': 0.1, 'exact': True}
    """

    asks, unit = "what share of the optimum remains after rounding, in percent?", "percent"

    def __init__(self, trace: Effects, **start):
        traced(trace)
        check_relaxable(trace)
        self.trace, self.known = trace, Exact(trace)
        self.budgets = tuple(range(1, min(MOST, len(trace.components)) + 1))
        self.mask, self._rounded, self.exact = cache(self.mask), cache(self._rounded), cache(self.exact)
        controls = dict(budget=slider("budget S", self.budgets[:2][-1], 1, self.budgets[-1]), rule=menu("rounding rule", RULES, "top S"),
                        threshold=ipy.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", continuous_update=False),
                        penalty=ipy.SelectionSlider(options=[0.03, 0.1, 0.3, 1, 3], value=0.1, description="penalties",
                                                    continuous_update=False),
                        exact=ipy.Checkbox(value=True, description="exact optimum", indent=False))
        super().__init__(started(controls, start), self.cut)

    def mask(self, penalty: float) -> Run:
        """The relaxed run with these penalties, sparsity and binary alike."""
        settings = settings_grid(lambda1=penalty, lambda2=penalty, seed=self.trace.seed, penalty="mean", transform="log")
        return relax(self.trace, settings, EPOCHS, progress=False)[0]

    def rounded(self, penalty: float, size: int) -> dict[str, dict[int, tuple]]:
        """The set, as component numbers, that each rule cuts from the mask at each budget of the slider, or at a size beyond them."""
        return self._rounded(penalty, self.budgets if size in self.budgets else (size,))

    def _rounded(self, penalty: float, sizes: tuple[int, ...]) -> dict[str, dict[int, tuple]]:
        run = self.mask(penalty)
        mask = run.trajectory[-1]
        sets = {size: top(mask, size) for size in sizes}
        fitting = {size: top(mask, reachable(mask, size)) for size in sizes}  # equal values stay or go together
        self.known.run([*sets.values(), *fitting.values()])
        found = repaired(self.known, {size: Found(s, self.known.known[s], run, "mask") for size, s in sets.items()}, "max")
        return dict(zip(RULES, (fitting, sets, {size: f.chosen for size, f in found.items()})))

    def exact(self) -> dict[int, Selection]:
        """The exact optimum by budget, as far as it can be enumerated."""
        n = len(self.trace.components)
        budgets = [s for s in range(1, n + 1) if sum(math.comb(n, k) for k in range(1, s + 1)) <= ENUMERATED]
        return {s.budget: s for s in search(self.trace, "exhaustive", budgets, heldout=False, progress=False).selections} if budgets else {}

    def gaps(self, budget: int, penalty: float = 0.1):
        """A frame of what each rule loses against the exact optimum at a budget: rule, kept, effect and gap on the search prompts, and on
        the held-out prompts the gap between the same two sets, prompt by prompt, with its 95 % interval.

        Raises InputError where the optimum is not known, or nothing is held out.
        """
        import pandas as pd

        if budget not in self.exact() or not self.trace.task.heldout:
            raise InputError(f"budget {budget}: a gap to the optimum needs one that can be enumerated, and held-out prompts")
        best, held, rows = self.exact()[budget], self.trace.heldout, []
        for rule, sets in self.rounded(penalty, budget).items():
            mask = self.trace.components.masks([sets[budget]])[0]
            e = held.estimate(held.effects(best.components) - held.effects(mask))
            effect, kept = self.known.known[sets[budget]], ", ".join(self.trace.components.labels[i] for i in sets[budget])
            rows.append(dict(rule=rule, kept=kept or "nothing", effect=effect, gap=best.effect - effect, gap_heldout=e.mean, ci_low=e.low,
                             ci_high=e.high))
        return pd.DataFrame(rows)

    def cut(self, budget: int, rule: str, threshold: float, penalty: float, exact: bool) -> tuple[str, Figure, float]:
        """Words on the set and on what it lost, the picture, and the share of the optimum that remains, in percent."""
        mask, fronts = self.mask(penalty).trajectory[-1], self.rounded(penalty, budget)
        by_threshold = rule == RULES[0]
        kept = tuple(np.flatnonzero(mask > threshold).tolist()) if by_threshold else fronts[rule][budget]
        self.known.run([kept])
        effect, at = float(self.known.known[kept]), max(budget, len(kept))
        optimum = {b: s.effect for b, s in self.exact().items()} if exact else {}
        if at not in (*self.budgets, *optimum):
            raise InputError(f"the threshold keeps {at} components, and of more than {self.budgets[-1]} here no better set is known to compare "
                             "with; raise the threshold or the penalties")
        best = optimum.get(at) or max(float(self.known.known[sets[at]]) for sets in self.rounded(penalty, at).values())
        if best <= 0:
            raise InputError(f"no set of {at} that is known has an effect above 0, so there is no share of it; are target and foil swapped?")
        share = 100 * effect / best
        heldout = None
        if self.trace.task.heldout:
            held = self.trace.heldout
            heldout = held.estimate(held.effects(self.trace.components.masks([kept]))[0])
        found = {b: float(self.known.known[fronts[rule][b]]) for b in self.budgets}
        labels, unit = self.trace.components.labels, self.trace.metric.unit
        names = ", ".join(labels[i] for i in kept[:12]) + (f" and {len(kept) - 12} more" if len(kept) > 12 else "")
        than = f"the best {at} have" if at in optimum else f"the best {at} that these rules find have"
        words = (f"Kept: {names or 'nothing'}. Effect {effect:.2f} of {best:.2f} {unit} that {than}: {share:.1f} % remains, "
                 f"{best - effect:.2f} {unit} are lost.")
        if by_threshold and len(kept) != budget:
            words += (f" The threshold keeps {len(kept)}, {'over' if len(kept) > budget else 'below'} the budget of {budget}; with some threshold "
                      f"{reachable(mask, budget)} are the most that fit.")
        if exact and at not in optimum:
            sets = math.comb(len(labels), at)
            words += (f" The exact optimum is not known: {len(labels)} components have "
                      f"{f'{sets:,}' if sets < 1e12 else f'about 10^{math.log10(sets):.0f}'} sets of {at}.")
        if heldout is not None:
            words += f" On held-out prompts {heldout.mean:.2f}{interval_text(heldout.low, heldout.high)} {unit}."
        figure = rounding(mask, labels, kept, effect, found, optimum, budget, threshold if by_threshold else None, heldout, unit)
        return words, figure, share
