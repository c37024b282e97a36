"""Observation and intervention at one's fingertips: a penalty, a budget, and two components that say the same."""

from __future__ import annotations

import math
from functools import cache

import ipywidgets as ipy
import numpy as np

from mctrace_nb.errors import InputError
from mctrace_nb.lasso import lasso_scores
from mctrace_nb.lasso.circuit import FRACTION
from mctrace_nb.lasso.ranking import node_kinds
from mctrace_nb.planted import twins
from mctrace_nb.plots import Figure, observed
from mctrace_nb.results import Front
from mctrace_nb.search import search
from mctrace_nb.stability import jaccard, jaccard_by_chance
from mctrace_nb.tracing import Trace
from mctrace_nb.widgets.base import Explorer, slider, started, traced

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST = 6  # the largest budget on the slider
ENUMERATED = 5_000  # sets that are run for an exact optimum: a few seconds, once
PAIRS = 128  # prompt pairs of the twins, half of them to look at


class LassoExplorer(Explorer):
    """What a sparse regression takes for important beside what replacing does: CircuitLasso's ranking, single effects, the set of the largest flows
    and the best set of that size.

    trace: whose heads or blocks are ranked (those that `lasso_scores` can rank). Without one the explorer has a small planted model, in which L0H1
    and L0H3 are read by the answer, and a box that plants the confounder: then L0H2 says what L0H1 says, and nobody reads it.
    alpha is the penalty as a share of the smallest that leaves nothing. The best sets of up to six are enumerated once, where that takes at most
    5,000 sets; beyond, guided search finds them, and the words say so. Both happen at the start. With dozens of heads each new penalty takes seconds.
    Other arguments are the values that
    the controls start with.

    Raises InputError for anything but a plain trace, for components that are neither heads nor blocks, or a value that a control does not have.

        >>> explorer = mct.widgets.LassoExplorer(mct.Trace(model, task, "attn_block"), budget=1)
        >>> explorer.parameters
        {'alpha': 0.05, 'budget': 1}
    """

    asks, unit = "what share of the best set's effect has the observed set, in percent?", "percent"

    def __init__(self, trace: Trace | None = None, **start):
        if trace is not None:
            traced(trace, Trace)
            node_kinds(trace)
        self.given = trace
        self.trace, self.flows, self.best = cache(self.trace), cache(self.flows), cache(self.best)
        self.budgets = range(1, 1 + min(MOST, len((trace or self.trace(True)).components)))
        controls = dict(alpha=ipy.SelectionSlider(options=ALPHAS, value=FRACTION, description="alpha (penalty)", continuous_update=False),
                        budget=slider("budget S", self.budgets[:2][-1], 1, self.budgets[-1]))
        if trace is None:
            self.best(False), self.best(True)  # so that the box does not have to wait for them
            controls["confounder"] = ipy.Checkbox(value=False, description="confounder: L0H2 says what L0H1 says", indent=False)
        super().__init__(started(controls, start), self.look)

    def trace(self, confounder: bool | None = None) -> Trace:
        """The trace that is looked at: the given one, or that of the planted model."""
        if self.given is not None:
            return self.given
        planted = twins(confounder)
        return Trace(planted.model, planted.task(PAIRS), "head_output")

    def flows(self, alpha: float, confounder: bool | None = None) -> np.ndarray:
        """`(N,)` what `search(trace, "circuit-lasso", fraction=alpha)` ranks by."""
        return lasso_scores(self.trace(confounder), fraction=alpha)

    def best(self, confounder: bool | None = None) -> Front:
        """The best sets by budget: exact where they can be enumerated, else found by guided search."""
        trace = self.trace(confounder)
        few = sum(math.comb(len(trace.components), b) for b in self.budgets) <= ENUMERATED
        return search(trace, "exhaustive" if few else "guided", self.budgets, heldout=False, progress=False)

    def look(self, alpha: float, budget: int, confounder: bool | None = None) -> tuple[str, Figure, float]:
        """Words on the observed set and the best one, the picture, and the share of the best set's effect that the observed one has, in percent."""
        trace, flow, front = self.trace(confounder), self.flows(alpha, confounder), self.best(confounder)
        best, labels, unit = front[budget], trace.components.labels, trace.metric.unit
        if best.effect <= 0:
            raise InputError(f"no set of {budget} was found with an effect above 0, so there is no share of it; are target and foil swapped?")
        ranked = np.argsort(-flow, kind="stable")
        chosen = tuple(labels[i] for i in sorted(i for i in ranked[:budget] if flow[i] > 0))
        effect = float(trace.effects(list(chosen)).mean()) if chosen else 0.0
        share, common = 100 * effect / best.effect, len(set(chosen) & set(best.components))
        exact = front.method == "exhaustive"
        words = (f"Observed: {', '.join(chosen) or 'nothing'}. Replaced together: {effect:.2f} {unit}. The {'best' if exact else 'best that guided search finds'} of "
                 f"size {budget}: {', '.join(best.components)} with {best.effect:.2f}. So the observed set has {share:.1f} % of it; {common} in common, overlap "
                 f"{jaccard(chosen, best.components):.2f} (two random sets: {jaccard_by_chance(len(labels), budget):.2f}).")
        if (flow > 0).sum() < budget:
            words += f" This penalty leaves a flow to {int((flow > 0).sum())} of {len(labels)} components."
        if confounder:
            one, other = (flow[labels.index(label)] for label in ("L0H1", "L0H2"))
            words += f" Of the twins L0H1, which is read, has a flow of {one:.2f}, and L0H2, which nobody reads, {other:.2f}."
        return words, observed(labels, flow, trace.single_effects()["effect"], chosen, best.components, unit), share
