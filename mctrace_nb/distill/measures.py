"""What distillation is judged by: how often answers are right, how many different right ones there are, how sure the student is, and
how far from the teacher, where the teacher is sure and where it is not."""

from __future__ import annotations

from typing import Hashable, Sequence

import numpy as np
from scipy.special import betaln
from scipy.stats import t as student_t
from torch import Tensor

from mctrace_nb.distill.losses import entropy, kl, top_k_forward_kl
from mctrace_nb.errors import InputError
from mctrace_nb.stats import Estimate

__all__ = ["over_seeds", "paired", "pass_at_k", "right_answers", "token_measures"]


def pass_at_k(n, correct, k: int) -> np.ndarray:
    """Probability that k answers, drawn without replacement from n of which `correct` are right, hold a right one:
    1 - C(n - c, k) / C(n, k), the unbiased estimator of Pass@k (Chen et al. 2021). n and correct broadcast.

    Raises InputError unless 1 <= k <= n and 0 <= correct <= n.

        >>> mct.distill.measures.pass_at_k(n=4, correct=[0, 1, 2], k=2).round(2)
        array([0.  , 0.5 , 0.83])
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(correct))
    if not (1 <= k <= n.min() and (c >= 0).all() and (c <= n).all()):
        raise InputError(f"k={k!r} with n={n.min()} answers, {c.min()} to {c.max()} of them right, does not fit; it takes 1 <= k <= n and "
                         "0 <= right <= n")
    left = np.maximum(n - c, k)  # fewer wrong ones than k: none of the draws is all wrong, set below
    # C(a, k) / C(n, k) through logarithms of beta functions: factorials of large n overflow
    log_share = (betaln(n - k + 1, k + 1) + np.log(n + 1)) - (betaln(left - k + 1, k + 1) + np.log(left + 1))
    return np.where(n - c < k, 1.0, 1 - np.exp(log_share))


def right_answers(found: Sequence[Sequence[Hashable | None]], ks: Sequence[int] = (1, 2, 4, 8)) -> dict:
    """Summary of answers, for each problem n of them, None where wrong, else the solution. Raises InputError if there are none, or not
    equally many.

    `avg`: share of right answers (Avg@k for any k, in expectation); `pass@k`; `distinct`: different solutions a problem; `spread`: pairs
    of right answers to one problem that differ, as a share (nan if no problem has two).

        >>> found = mct.distill.measures.right_answers([["a", None, "b", None]], ks=[2])
        >>> {name: round(value, 2) for name, value in found.items()}
        {'avg': 0.5, 'pass@2': 0.83, 'distinct': 2.0, 'spread': 1.0}
    """
    n = {len(row) for row in found}
    if len(n) != 1 or 0 in n:
        raise InputError(f"problems have {sorted(n)} answers; give the same number, at least one, for each")
    n = n.pop()
    right = np.array([sum(a is not None for a in row) for row in found])
    differ = pairs = 0
    for row in found:
        good = [a for a in row if a is not None]
        same = sum(good.count(a) * (good.count(a) - 1) for a in set(good))
        pairs += len(good) * (len(good) - 1)
        differ += len(good) * (len(good) - 1) - same
    return dict(avg=float((right / n).mean()), **{f"pass@{k}": float(pass_at_k(n, right, k).mean()) for k in ks if k <= n},
                distinct=float(np.mean([len({a for a in row if a is not None}) for row in found])),
                spread=differ / pairs if pairs else float("nan"))


def token_measures(student: Tensor, teacher: Tensor, valid: Tensor, tau: float, k: int | None = 16) -> dict:
    """Entropies and divergences (nats, full vocabulary unless named top_k) of log-probabilities `(B, T, V)` over valid tokens.

    *Gated* tokens are those at which the teacher's entropy is above tau. `high_*`: share of tokens at which that model's entropy is.
    A mean over no tokens is nan. Raises InputError if no token is valid.

        >>> import torch
        >>> logp = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log()
        >>> found = mct.distill.measures.token_measures(logp, logp, torch.ones(1, 2, dtype=torch.bool), tau=0.5)
        >>> round(found["high_teacher"], 2)
        0.5
    """
    student, teacher = student.detach()[valid].double(), teacher.detach()[valid].double()  # (tokens, V)
    if not len(student):
        raise InputError("there is no valid token to measure; give rollouts that hold one")
    mine, its = entropy(student), entropy(teacher)
    gate, forward, reverse = its > tau, kl(teacher, student), kl(student, teacher)
    of = dict(gated=gate, ungated=~gate)
    return dict(tokens=len(student), student_entropy=float(mine.mean()), teacher_entropy=float(its.mean()),
                high_student=float((mine > tau).double().mean()), high_teacher=float(gate.double().mean()),
                **{f"student_entropy_{name}": float(mine[at].mean()) for name, at in of.items()},
                **{f"teacher_entropy_{name}": float(its[at].mean()) for name, at in of.items()},
                **{f"forward_kl_{name}": float(forward[at].mean()) for name, at in of.items()},
                **{f"reverse_kl_{name}": float(reverse[at].mean()) for name, at in of.items()},
                top_k_forward_kl=float(top_k_forward_kl(student, teacher, k).mean()),
                top_1_agreement=float((student.argmax(-1) == teacher.argmax(-1)).double().mean()))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one number per seed with its 95 % interval by Student's t: of five seeds a bootstrap would be too narrow.

    One seed has no interval: its ends are nan. Raises InputError without a seed.

        >>> print(mct.distill.measures.over_seeds([0.2, 0.3, 0.25]))
        0.250 [0.126, 0.374] (n = 3)
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise InputError("there is no seed to average over")
    half = np.nan
    if len(values) > 1:
        half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half), len(values))


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a - b over seeds that both were run with, in the same order, with its interval. Raises InputError for lists of different lengths.

        >>> print(mct.distill.measures.paired([0.2, 0.3, 0.25], [0.1, 0.25, 0.2]))
        0.067 [-0.005, 0.138] (n = 3)
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} seeds cannot be paired; give the same seeds of both")
    return over_seeds(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
