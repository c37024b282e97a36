"""What every search shares: exact effects of sets, and the count of what it has spent."""

from __future__ import annotations

import time
from itertools import islice
from typing import Iterable

import numpy as np

from mctrace_nb.effects import Effects
from mctrace_nb.progress import bar
from mctrace_nb.relax import finite
from mctrace_nb.results import Selection

MASK_NUMBERS = 1 << 24  # in the masks of one call


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
