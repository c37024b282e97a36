"""The lasso of many targets at once: FISTA on moments that are computed once, so that a path of penalties costs little more than one.

    min_B  1/(2M) ||Y - X B||_F^2 + sum_q alpha_q ||B_q||_1        (CircuitLasso, arXiv 2606.16939, section 3.2, with 1/(2M) as scikit-learn has it)

with B `(P, Q)`: P regressors, Q targets. Targets do not see each other, so one run serves them all, and `allowed` forbids entries (those that
would go against the order of computation). Everything is matrix products, on whatever device the data are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch

from mctrace_nb.errors import InputError

STEPS = 5000
TOLERANCE = 1e-6  # of the largest penalty that matters: how far a solution may be from its optimality conditions
CHECK = 20  # steps between two looks at them


@dataclass(frozen=True, eq=False)
class Moments:
    """What a squared loss needs to know of centred data: gram `X'X/M (P, P)`, cross `X'Y/M (P, Q)`, square `Y'Y/M (Q,)`."""

    gram: torch.Tensor
    cross: torch.Tensor
    square: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor) -> "Moments":
        """Of x `(M, P)` and y `(M, Q)`. Raises InputError for data that are not finite, or no rows."""
        check(x, y)
        return cls(x.T @ x / len(x), x.T @ y / len(x), (y * y).mean(0))

    def explained(self, b: torch.Tensor) -> torch.Tensor:
        """`(Q,)` how much of the targets' second moment `Y'Y/M` the predictions X B take away; below zero where they add to it."""
        return 2 * (b * self.cross).sum(0) - (b * (self.gram @ b)).sum(0)


def check(x: torch.Tensor, y: torch.Tensor) -> None:
    if not len(x) or len(x) != len(y):
        raise InputError(f"the lasso needs as many rows of regressors as of targets, and at least one, not {len(x)} and {len(y)}")
    for name, value in (("regressors", x), ("targets", y)):
        if not bool(torch.isfinite(value.sum())):
            raise InputError(f"{(~torch.isfinite(value)).sum().item()} values of the {name} are not finite; take out those rows, or load the model with dtype='float32'")


def largest_penalty(moments: Moments, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """`(Q,)` the smallest alpha of each target at which every coefficient is zero: max |X'y| / M over what is allowed."""
    cross = moments.cross.abs()
    return (cross if allowed is None else cross * allowed).amax(0) if len(cross) else cross.new_zeros(cross.shape[1])


def curvature(gram: torch.Tensor) -> float:
    """The largest eigenvalue of a gram matrix: one over the step of FISTA."""
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0)) if len(gram) else 0.0


def descend(gradient: Callable[[torch.Tensor], torch.Tensor], lipschitz: float, alpha: torch.Tensor, start: torch.Tensor,
            allowed: torch.Tensor | None = None, steps: int = STEPS, tolerance: float = TOLERANCE, unit: torch.Tensor | None = None) -> torch.Tensor:
    """FISTA (Beck and Teboulle 2009) for a smooth loss with this gradient plus `sum alpha |b|`: b `(P, Q)` from `start`.

    lipschitz: of the gradient. alpha: `(Q,)` or `(P, Q)`, zero for what is not penalised. unit: `(Q,)` what the violation of the
    optimality conditions is compared with, by default the largest gradient at zero. Momentum is dropped in every column whose step goes
    against it (O'Donoghue and Candes 2015). Raises InputError if `steps` do not suffice.
    """
    if not start.numel() or lipschitz <= 0:
        return torch.zeros_like(start)
    free = 1.0 if allowed is None else allowed.to(start)
    if unit is None:
        unit = (gradient(torch.zeros_like(start)) * free).abs().amax(0)
    unit = unit.clamp(min=torch.finfo(start.dtype).tiny)
    alpha = alpha.expand_as(start)
    b = start * free  # never in place: the start may be a solution that somebody keeps
    ahead, age = b, torch.ones(b.shape[1], dtype=b.dtype, device=b.device)
    for step in range(steps):
        slope = gradient(ahead) * free
        if step % CHECK == 0 and bool((_violation(ahead, slope, alpha).amax(0) <= tolerance * unit).all()):
            return ahead
        new = _shrink(ahead - slope / lipschitz, alpha / lipschitz)
        against = ((ahead - new) * (new - b)).sum(0) > 0
        older = torch.where(against, torch.ones_like(age), age)
        age = (1 + (1 + 4 * older ** 2).sqrt()) / 2
        ahead, b = new + ((older - 1) / age) * (new - b), new
    worst = (_violation(ahead, gradient(ahead) * free, alpha).amax(0) / unit).max().item()
    if worst > 100 * tolerance:
        raise InputError(f"the lasso did not converge in {steps} steps (its conditions are off by {worst:.1e}, {tolerance:.0e} is asked for); "
                         "give a larger penalty, more steps, or fewer regressors that say the same")
    return ahead


def _shrink(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return x.sign() * (x.abs() - by).clamp(min=0)


def _violation(b: torch.Tensor, slope: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """How far each entry is from the optimality conditions of the lasso."""
    return torch.where(b != 0, (slope + alpha * b.sign()).abs(), (slope.abs() - alpha).clamp(min=0))


def fista(moments: Moments, alpha: torch.Tensor | float, allowed: torch.Tensor | None = None, start: torch.Tensor | None = None,
          steps: int = STEPS, tolerance: float = TOLERANCE, lipschitz: float | None = None) -> torch.Tensor:
    """`(P, Q)` the solution of the lasso for a squared loss, all targets in one run.

    alpha: one penalty, or `(Q,)` one a target. allowed: `(P, Q)`, False where a coefficient has to be zero. start: a solution nearby, such as
    that of the next larger penalty.
    """
    alpha = torch.as_tensor(alpha).to(moments.cross)
    if bool((alpha < 0).any()):
        raise InputError(f"alpha={alpha.min().item()} is out of range; give a penalty of at least 0")
    return descend(lambda b: moments.gram @ b - moments.cross, curvature(moments.gram) if lipschitz is None else lipschitz, alpha,
                   torch.zeros_like(moments.cross) if start is None else start, allowed, steps, tolerance, largest_penalty(moments, allowed))


def logistic(x: torch.Tensor, y: torch.Tensor, alpha: float, steps: int = STEPS, tolerance: float = TOLERANCE) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients `(P,)` and the intercept, a scalar, of the l1-penalised logistic regression of y `(M,)`, zeros and ones, on x `(M, P)`:
    `mean log loss + alpha ||b||_1` (the label node of a classification, arXiv 2606.16939, section 3.3). The intercept is not penalised.

    Raises InputError for labels that are not both 0 and 1, or data that are not finite.
    """
    check(x, y[:, None])
    if set(y.unique().tolist()) != {0.0, 1.0}:
        raise InputError(f"labels have the values {y.unique().tolist()[:4]}; give zeros and ones, and some of both")
    with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    penalty = torch.full((len(with_one.T), 1), alpha, dtype=x.dtype, device=x.device)
    penalty[-1] = 0
    start = torch.zeros_like(penalty)
    start[-1] = torch.logit(y.mean())

    def gradient(b):
        return with_one.T @ (torch.sigmoid(with_one @ b) - y[:, None]) / len(x)

    found = descend(gradient, curvature(with_one.T @ with_one / len(x)) / 4, penalty, start, None, steps, tolerance)[:, 0]
    return found[:-1], found[-1]


def path(moments: Moments, fractions: list[float], allowed: torch.Tensor | None = None, unit: torch.Tensor | None = None,
         **how) -> list[torch.Tensor]:
    """Solutions `(P, Q)` for penalties that are fractions of `unit` `(Q,)` (default `largest_penalty`), each started from the one before;
    give fractions from large to small."""
    unit, lipschitz, found = largest_penalty(moments, allowed) if unit is None else unit, curvature(moments.gram), []
    for fraction in fractions:
        found.append(fista(moments, fraction * unit, allowed, found[-1] if found else None, lipschitz=lipschitz, **how))
    return found
