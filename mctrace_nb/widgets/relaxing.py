"""The relaxation at one's fingertips: a soft mask on its landscape, and a mask optimised anew at every move of a slider."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Sequence

import ipywidgets as ipy
import torch

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.landscape import landscape, surface
from mctrace_nb.metrics import TRANSFORMS
from mctrace_nb.plots import Figure, trajectories
from mctrace_nb.plots import landscape as landscape_figure
from mctrace_nb.relax import SCHEDULES, check_relaxable, pgb
from mctrace_nb.results import Front
from mctrace_nb.widgets.base import KEPT, Explorer, menu, slider, started, traced

FOUND = "found"  # a penalty found from the data, which `pgb` calls None
BATCHES = (8, 16, 32, 64, 128)  # prompts a step


def _transforms(trace: Effects) -> list[str]:
    """What the metric allows. Raises InputError if it is no trace, or has no gradient."""
    traced(trace)
    check_relaxable(trace)
    return ["log"] if trace.transform == "log" else list(TRANSFORMS)  # not every metric is a ratio


class RelaxationCube(Explorer):
    """A soft mask of three or four components on the map of two of them: its effect, its slope, and where a descent goes.

    trace: any whose metric has a gradient. among: the labels of the components, all others are kept. Other arguments are the values
    that the controls start with: mask values by label, transform, lambda1, across, up. Raises InputError for a metric without a
    gradient, labels that are not there, fewer than two or more than four of them, or a value that a control does not have.

        >>> explorer = mct.widgets.RelaxationCube(trace, ["L1H2", "L2H1", "L2H2"])
        >>> explorer.parameters
        {'L1H2': 0.5, 'L2H1': 0.5, 'L2H2': 0.0, 'transform': 'inverse', 'across': 'L1H2', 'up': 'L2H1', 'lambda1': 0}
    """

    def __init__(self, trace: Effects, among: Sequence[str], **start):
        transforms = _transforms(trace)
        among = list(dict.fromkeys([among] if isinstance(among, str) else among))
        for label in among:
            trace.components.index(label)
        if not 2 <= len(among) <= 4:
            raise InputError(f"among={among!r} has {len(among)} different labels; give two to four, a slider is made for each")
        self.trace, self.unit = trace, "nats" if trace.metric.relative else trace.metric.unit  # a landscape is on the log scale
        self.asks = f"which effect has this soft mask, in {self.unit}?"
        upwards = next(label for label in among if label != start.get("across", among[0]))
        controls = {label: ipy.FloatSlider(0.5 if label in among[:2] else 0, min=0, max=1, step=0.05, description=label,
                                           continuous_update=False) for label in among}
        controls |= dict(transform=menu("transform", transforms), across=menu("to the right", among), up=menu("upwards", among, upwards),
                         lambda1=ipy.SelectionSlider(options=[0, 0.01, 0.02, 0.05, 0.1, 0.2], description="sparsity, lambda1", continuous_update=False))
        self._over = lru_cache(KEPT)(lambda across, up, fixed: surface(trace, {across: 0, up: 0, **dict(fixed)}, across, up))
        super().__init__(started(controls, start), self.look)

    def look(self, transform: str, across: str, up: str, lambda1: float, **mask: float) -> tuple[str, Figure, float]:
        """Words on effect, rounded effect and gradient; the map; the effect."""
        fixed = tuple((label, value) for label, value in mask.items() if label not in (across, up))
        over = None if across == up else self._over(across, up, fixed)
        seen = landscape(self.trace, mask, across, up, transform, lambda1, over)
        slope = ", ".join(f"{label} {value:+.2g}" for label, value in seen.gradient.items())
        words = (f"This mask has an effect of {seen.effect:.2f} {self.unit}; rounded ({', '.join(seen.kept) or 'nothing'} kept) {seen.rounded:.2f}. "
                 f"The objective is {seen.here:.3g}, its gradient {slope}. A descent in the two entries ends at {across} {seen.path[-1, 0]:.2f}, "
                 f"{up} {seen.path[-1, 1]:.2f}.")
        return words, landscape_figure(seen), seen.effect


class LambdaExplorer(Explorer):
    """PGB-CT optimised anew at every move of a slider: the course of the mask, what it keeps and what that does.

    trace: whose components are relaxed. exact: a front of exhaustive search on it, to compare with. budget: where the run may stop, as
    in `pgb`; None runs all epochs. Other arguments are the values that the controls start with; a penalty "found" is found from the
    data, as in `relax.Settings`. Raises InputError for a metric without a gradient, or a value that a control does not have.

        >>> explorer = mct.widgets.LambdaExplorer(trace, lambda1=0.05, epochs=5)
        >>> explorer.parameters
        {'lambda1': 0.05, 'lambda2': 0.05, 'schedule': 'linear', 'lr': 0.1, 'transform': 'inverse', ...
    """

    asks, unit = "how many components will be kept?", "components"

    def __init__(self, trace: Effects, budget: int | None = None, exact: Front | None = None, **start):
        transforms = _transforms(trace)
        self.trace, self.exact = trace, exact

        def penalty(name):
            options = [FOUND, 0, *(round(m * 10.0 ** e, 6) for e in range(-4, 0) for m in (1, 2, 5)), 1]
            return ipy.SelectionSlider(options=options, value=0.05, description=name, continuous_update=False)

        batches = sorted({*(b for b in BATCHES if b < len(trace)), len(trace)})
        controls = dict(lambda1=penalty("sparsity, lambda1"), lambda2=penalty("binary, lambda2"), schedule=menu("penalties grow", SCHEDULES),
                        lr=ipy.SelectionSlider(options=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5], value=0.1, description="learning rate",
                                               continuous_update=False),
                        transform=menu("transform", transforms), epochs=slider("epochs", 15, 1, 30),
                        batch_size=menu("prompts a step", batches, min(32, len(trace))),
                        seed=slider("seed", 0, 0, 9),
                        budget=ipy.Text("" if budget is None else str(budget), description="stop at budget", placeholder="none: all epochs",
                                        continuous_update=False))
        super().__init__(started(controls, start), self.optimise)

    @staticmethod
    def settings(budget: str, **parameters) -> dict:
        """What the controls say as arguments of `pgb`. Raises InputError for a typed budget that is no whole number."""
        try:
            stop = int(budget) if budget.strip() else None
        except ValueError:
            raise InputError(f"budget {budget.strip()!r} is not a whole number; write one such as 5, or nothing to run all epochs") from None
        return dict(budget=stop, **{name: None if value == FOUND else value for name, value in parameters.items()})

    def optimise(self, **parameters) -> tuple[str, Figure, int]:
        """Words on what is kept, the picture of the course, and how many are kept."""
        with warnings.catch_warnings():  # a budget that was not reached is seen in the picture
            warnings.simplefilter("ignore")
            found = pgb(self.trace, progress=False, **self.settings(**parameters))
        last, kept = found.history[-1], ", ".join(found.components[:12]) or "nothing"
        more = f" and {found.size - 12} more" if found.size > 12 else ""
        best = next((s for s in self.exact.selections if s.size == found.size), None) if self.exact else None
        share = f", {found.effect / best.effect:.0%} of the best {found.size} ({', '.join(best.components)})" if best and best.effect > 0 else ""
        soft = float(self.trace.effects(torch.as_tensor(found.trajectory[-1])).mean())
        words = (f"After {last['epoch']} epochs {found.size} of {len(self.trace.components)} components are kept: {kept}{more}. The soft "
                 f"mask has an effect of {soft:.2f}, rounded it has {found.effect:.2f} "
                 f"{self.trace.metric.unit}{share}; distance from binary {last['violation']:.2f}.")
        if parameters["batch_size"] >= len(self.trace):
            words += " Every step sees all prompts, so the seed changes nothing."
        return words, trajectories(found, self.trace.components.labels), found.size

