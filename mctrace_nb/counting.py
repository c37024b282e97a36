"""What every search shares: exact effects of sets, gradients in masks, and the count of what it has spent."""

from __future__ import annotations

import time
from itertools import islice
from typing import Callable, Iterable

import numpy as np
import torch

from mctrace_nb.cost import GRADIENT_MASKS, GRADIENT_PROMPTS
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.progress import bar
from mctrace_nb.results import Selection

MASK_NUMBERS = 1 << 24  # in the masks of one call


def finite(values: torch.Tensor, trace: Effects) -> torch.Tensor:
    """The values themselves. Raises InputError if one is not a number: it would win every comparison."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{trace!r}: an intervention gives {values[~torch.isfinite(values)][0].item()}, not a finite number; "
                         f"use dtype='float32' or 'float64' (this is {trace.model.dtype})")
    return values


def mean_effects(trace: Effects, sets: Iterable[tuple[int, ...]], total: int, progress: bool = False,
                 what: str = "sets") -> np.ndarray:
    """Mean effect of each set of component numbers, `(total,)`; as many at once as their masks have room for, since sets that agree
    in the lower layers share them."""
    step = max(1, min(4096, MASK_NUMBERS // len(trace.components)))
    found, sets = [], iter(sets)
    with bar(what=what, total=total, show=progress) as shown:
        while part := list(islice(sets, step)):
            found.append(finite(trace.effects(trace.components.masks(part)).mean(-1), trace).cpu().numpy())
            shown.update(len(part))
    return np.concatenate(found)


def check_gradients(trace: Effects, masks: int = 1) -> None:
    """Raises InputError if the metric has no gradient, or if gradients of so many masks would not fit into memory."""
    if not trace.metric.differentiable:
        raise InputError(f"metric {trace.metric.name!r} has no gradient to search by; use 'log_odds', or method 'greedy'")
    trace.check_memory(min(GRADIENT_PROMPTS, len(trace)) * min(GRADIENT_MASKS, masks))


def mean_gradients(trace: Effects, masks: torch.Tensor, scale: str | None = None, examples: np.ndarray | None = None,
                   of: Callable[[torch.Tensor], torch.Tensor] = lambda effects: effects) -> torch.Tensor:
    """Gradients `(R, N)` of the mean effects of masks `(R, N)`, through so few masks and prompts at once that memory does not grow with
    their numbers.

    scale: of the effects, as in `Trace.effects`. examples: numbers of the prompts, `(b,)`, by default all. of: what the mean is taken
    of, a function of the effects prompt by prompt. Raises InputError where a gradient is not finite.
    """
    examples = np.arange(len(trace)) if examples is None else examples
    parts, found = np.array_split(examples, -(-len(examples) // GRADIENT_PROMPTS)), []
    for some in masks.split(GRADIENT_MASKS):
        leaf = some.detach().clone().requires_grad_()
        # Of the masks alone: `backward` would also leave gradients on weights that are not frozen.
        found.append(sum(torch.autograd.grad(of(trace.effects(leaf, examples=part, scale=scale)).sum(), leaf)[0] for part in parts))
    return finite(torch.cat(found) / len(examples), trace)


class Clock:
    """Work and seconds since the start of a search."""

    def __init__(self, trace: Effects):
        trace.prepare()
        self.trace, self.work, self.start = trace, trace.work.copy(), time.perf_counter()

    def selection(self, method: str, chosen: Iterable[int], effect: float, budget: int, **more) -> Selection:
        work = self.trace.work.since(self.work)
        labels = tuple(self.trace.components.labels[i] for i in sorted(chosen))
        return Selection(method, labels, float(effect), budget, forwards=work.forwards, backwards=work.backwards,
                         seconds=time.perf_counter() - self.start, **self.trace.origin, **more)
