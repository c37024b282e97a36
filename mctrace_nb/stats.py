"""Intervals over prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % percentile bootstrap interval over template groups."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{interval} (n = {self.n})"


def bootstrap(values, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Bootstrap draws of the mean over the last axis: `(draws, ...)` for values `(..., n)`.

    Whole groups are drawn with replacement (prompts of one template are not independent); without groups, prompts.
    """
    values = np.asarray(values, dtype=float)
    names = [g or f"#{i}" for i, g in enumerate(groups or [""] * values.shape[-1])]
    _, member = np.unique(names, return_inverse=True)
    count = member.max() + 1
    rng = np.random.default_rng(seed)
    # times[d, g]: how often group g stands in draw d
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, member]  # (draws, n)
    return np.moveaxis(values @ times.T / times.sum(1), -1, 0)


def estimate(values, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0) -> Estimate:
    """Mean and interval of per-prompt values `(n,)`. One prompt, or one group, has no interval: its ends are nan."""
    values = np.asarray(values, dtype=float)
    if len(values) == 1 or groups and len(set(groups)) == 1 and groups[0]:
        return Estimate(float(values.mean()), float("nan"), float("nan"), len(values))
    low, high = np.percentile(bootstrap(values, groups, draws, seed), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), len(values))
