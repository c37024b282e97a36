"""The relaxed search at one's fingertips: a mask optimised anew at every move of a slider."""

from __future__ import annotations

import warnings

import ipywidgets as ipy

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.metrics import TRANSFORMS
from mctrace_nb.plots import Figure, trajectories
from mctrace_nb.relax import SCHEDULES, pgb
from mctrace_nb.widgets.base import Explorer, menu, slider, started


class LambdaExplorer(Explorer):
    """PGB-CT optimised anew at every move of a slider: the course of the mask, what it keeps and what that does.

    trace: whose components are relaxed. budget: where the run may stop, as in `pgb`; None runs all epochs. Other arguments are
    the values that the controls start with. Raises InputError for a metric without a gradient, or a value that a control does
    not have.
    """

    def __init__(self, trace: Effects, budget: int | None = None, **start):
        if not trace.metric.differentiable:
            raise InputError(f"metric {trace.metric.name!r} has no gradient to move a mask by (use 'log_odds')")
        self.trace, self.budget = trace, budget

        def penalty(name):
            options = [0, *(round(m * 10.0 ** e, 6) for e in range(-4, 0) for m in (1, 2, 5)), 1]
            return ipy.SelectionSlider(options=options, value=0.05, description=name, continuous_update=False)

        transforms = ["log"] if trace.transform == "log" else list(TRANSFORMS)  # not every metric is a ratio
        controls = dict(lambda1=penalty("sparsity, lambda1"), lambda2=penalty("binary, lambda2"), schedule=menu("penalties grow", SCHEDULES),
                        lr=ipy.SelectionSlider(options=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5], value=0.1, description="learning rate",
                                               continuous_update=False),
                        transform=menu("transform", transforms), epochs=slider("epochs", 15, 1, 40), seed=slider("seed", 0, 0, 9))
        super().__init__(started(controls, start), self.optimise)

    def optimise(self, **settings) -> tuple[str, Figure]:
        """Words on what is kept, and the picture of the course."""
        with warnings.catch_warnings():  # a budget that was not reached is seen in the picture
            warnings.simplefilter("ignore")
            found = pgb(self.trace, self.budget, progress=False, **settings)
        last, kept = found.history[-1], ", ".join(found.components[:12]) or "nothing"
        more = f" and {found.size - 12} more" if found.size > 12 else ""
        words = (f"After {last['epoch']} epochs {found.size} of {len(self.trace.components)} components are kept: {kept}{more}. Relaxed, the "
                 f"mask has an effect of {last['relaxed_effect']:.2f}, rounded {found.effect:.2f} {self.trace.metric.unit}; distance from "
                 f"binary {last['violation']:.2f}.")
        return words, trajectories(found, self.trace.components.labels)
