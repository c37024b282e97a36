"""Intervals over prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

__all__ = ["Estimate", "bootstrap", "estimate", "interval"]


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % percentile bootstrap interval over template groups.

        >>> found = mct.stats.estimate([1.0, 2.0, 4.5])
        >>> found.mean, found.n
        (2.5, 3)
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{interval} (n = {self.n})"


def bootstrap(values, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0,
              parts: Sequence[int] | None = None) -> np.ndarray:
    """Bootstrap draws of the mean over the last axis: `(draws, ...)` for values `(..., n)`.

    Whole groups are drawn with replacement (prompts of one template are not independent); without groups, prompts.
    parts: prompts of different parts (cohorts, tasks) are averaged apart, and every part keeps its share of the whole, or
    the chance number of prompts drawn from each would pass for uncertainty. A draw that misses a part is nan.

        >>> mct.stats.bootstrap([1.0, 2.0, 4.0], draws=5).round(2)
        array([2.33, 4.  , 1.33, 2.33, 1.67])
    """
    values = np.asarray(values, dtype=float)
    names = [g or f"#{i}" for i, g in enumerate(groups or [""] * values.shape[-1])]
    _, member = np.unique(names, return_inverse=True)
    count = member.max() + 1
    rng = np.random.default_rng(seed)
    # times[d, g]: how often group g stands in draw d
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, member]  # (draws, n)
    parts = np.zeros(values.shape[-1]) if parts is None else np.asarray(parts)
    found = 0
    for part in np.unique(parts):
        inside = parts == part
        drawn = times[:, inside]
        with np.errstate(invalid="ignore", divide="ignore"):
            found = found + inside.mean() * (values[..., inside] @ drawn.T / drawn.sum(1))
    return np.moveaxis(found, -1, 0)


def interval(values, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0,
             parts: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile interval of means over the last axis, each of shape (...); arguments as in `bootstrap`.

    One prompt, or one group, has no interval, neither in the whole nor in a part: then the ends are nan.

        >>> low, high = mct.stats.interval([1.0, 2.0, 4.0, 8.0])
        >>> float(low), float(high)
        (1.5, 6.5)
    """
    values = np.asarray(values, dtype=float)
    if _too_few(values.shape[-1], groups, parts):
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing
    low, high = np.nanpercentile(bootstrap(values, groups, draws, seed, parts), [2.5, 97.5], axis=0)
    return low, high


def _too_few(n: int, groups: Sequence[str] | None, parts: Sequence[int] | None) -> bool:
    """Whether the whole, or one of its parts, consists of one prompt or one group."""
    names = [g or f"#{i}" for i, g in enumerate(groups or [""] * n)]
    return any(len({g for g, other in zip(names, parts or [0] * n) if other == part}) < 2 for part in set(parts or [0]))


def estimate(values, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0,
             parts: Sequence[int] | None = None) -> Estimate:
    """Mean and interval of per-prompt values `(n,)`; groups, draws, seed and parts as in `bootstrap`.

        >>> print(mct.stats.estimate([1.0, 2.0, 4.0, 8.0], groups=["a", "a", "b", "c"]))
        3.750 [1.500, 8.000] (n = 4)
    """
    values = np.asarray(values, dtype=float)
    low, high = interval(values, groups, draws, seed, parts)
    return Estimate(float(values.mean()), float(low), float(high), len(values))
