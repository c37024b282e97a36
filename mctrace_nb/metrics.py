"""Metrics: pure tensor functions from what a run says to one number per example.

Every metric returns a *value*; the effect of an intervention is always `value(m) - value(0)`. A metric with a logarithm
returns log y, so that its effect is `log y(m) - log y(0)`, in nats (DESIGN: effects are in nats by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch

from mctrace_nb.errors import InputError, one_of


@dataclass(frozen=True)
class Metric:
    """value(answers, logits, tokens) -> (...,): `answers` (..., 2) are log p(target), log p(foil); `logits` (..., V) are those
    of the first answer token, and `tokens` (..., 2) the first token of each answer.

    reads_logits: whether `value` looks at `logits`; else it is given None, which saves memory.
    logarithmic: the value is the logarithm of a positive quantity, so `1 + rho = exp(effect)`.
    """

    name: str
    value: Callable[..., torch.Tensor]
    logarithmic: bool
    differentiable: bool = True
    reads_logits: bool = False
    unit: str = "nats"


def _log_odds(answers, logits, tokens):
    return answers[..., 0] - answers[..., 1]


def _log_prob(answers, logits, tokens):
    return answers[..., 0]


def _logit_diff(answers, logits, tokens):
    pair = logits.gather(-1, tokens)
    return pair[..., 0] - pair[..., 1]


def _accuracy(answers, logits, tokens):
    return (logits.argmax(-1) == tokens[..., 0]).to(answers.dtype)


METRICS = {m.name: m for m in (
    Metric("log_odds", _log_odds, logarithmic=True),
    Metric("log_prob", _log_prob, logarithmic=True),
    Metric("logit_diff", _logit_diff, logarithmic=False, reads_logits=True, unit="logits"),
    Metric("accuracy", _accuracy, logarithmic=False, differentiable=False, reads_logits=True, unit="share"),
)}


def get_metric(name: str | Metric) -> Metric:
    """A metric by name, or the Metric itself. Raises InputError for an unknown name."""
    return name if isinstance(name, Metric) else METRICS[one_of(name, METRICS, "metric")]


def answer_log_prob(token_log_probs: torch.Tensor, valid: torch.Tensor, rule: str = "mean") -> torch.Tensor:
    """Scores answers of several tokens: (..., L) token log-probabilities and which of them count -> (...,).

    rule "mean" gives the mean token log-probability (exp of it is the geometric mean: the paper's score), "sum" the
    log-probability of the whole answer.
    """
    one_of(rule, ("mean", "sum"), "answer rule")
    total = torch.where(valid, token_log_probs, 0.0).sum(-1)
    return total / valid.sum(-1) if rule == "mean" else total


def relative(effect: torch.Tensor) -> torch.Tensor:
    """rho = y(m)/y(0) - 1 from an effect in nats (`scale="relative"`)."""
    return torch.expm1(effect)


# --- transforms: what the relaxed search minimises -------------------------------------------------------------

TRANSFORMS = ("inverse", "log")


def transform_loss(effect: torch.Tensor, transform: str, metric: Metric, scale: float) -> torch.Tensor:
    """Loss per example, smaller when the effect is larger.

    "inverse": the paper's `1/(1 + rho) = exp(-effect)` (its section on the metric transformation), in log space. It is
        right for ratios only: for other metrics it has a pole at rho = -1, and InputError is raised. It saturates:
        beyond about 5 nats it and its gradient vanish.
    "log": `-effect / scale` with `scale` the absolute total effect; linear, never saturates, right for every metric.
    """
    if transform == "inverse":
        if not metric.logarithmic:
            raise InputError(f"transform 'inverse' needs a ratio metric, {metric.name!r} has no logarithm; "
                             "use transform='log'")
        return torch.exp(-effect)
    one_of(transform, TRANSFORMS, "transform")
    return -effect / scale
