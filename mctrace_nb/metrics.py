"""Metrics: pure tensor functions from what a run says to one number per example.

Every metric returns a *value*; the effect of an intervention is always `value(m) - value(0)`. A metric with a logarithm
returns log y, so that its effect is `log y(m) - log y(0)`, in nats (DESIGN: effects are in nats by default).
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass, replace
from typing import Callable

import torch
from torch.autograd.function import once_differentiable

from mctrace_nb.errors import InputError, one_of

__all__ = ["METRICS", "Metric", "Said", "from_logits", "gap", "get_metric", "next_word"]


@dataclass(frozen=True)
class Said:
    """What a run says about some prompts, with any leading shape (...).

    answers: (..., 2) log p(target) and log p(foil), whole answers under the scoring rule. tokens: (..., 2) the first token
    of each. logits: (..., V) of the token after the prompt; base: (..., V) the same of the run without intervention. Both
    are None unless the metric asks for them, which saves memory.

        >>> import torch
        >>> said = mct.metrics.Said(answers=torch.tensor([[-1.0, -2.0]]), tokens=torch.tensor([[3, 4]]))
        >>> mct.metrics.get_metric("log_odds").value(said)
        tensor([1.])
    """

    answers: torch.Tensor
    tokens: torch.Tensor
    logits: torch.Tensor | None = None
    base: torch.Tensor | None = None

    def reshape(self, *shape: int) -> "Said":
        """The leading shape (1, R b) as another."""
        return Said(*(None if x is None else x.reshape(*shape, *x.shape[2:]) for x in (self.answers, self.tokens, self.logits, self.base)))


@dataclass(frozen=True)
class Metric:
    """value(Said) -> (...,). See `from_logits` for a metric of your own.

    logarithmic: the value is the logarithm of a positive quantity, so `1 + rho = exp(effect)`; relative: effects are given
    as rho by default. reads_logits, reads_base: whether `value` looks at these. first_token: it looks at the first token of
    each answer only, so the two must differ there. between_cohorts: what counts is the difference of the mean between the
    two cohorts of the task. of_difference: it looks at nothing but the difference of the answers' log-probabilities.

        >>> metric = mct.Metric("lead", lambda said: said.answers[..., 0] - said.answers[..., 1], logarithmic=True)
        >>> print(mct.Trace(model, task, "head_output", metric=metric).total_effect())
        17.050 [15.584, 18.867] (n = 8)
    """

    name: str
    value: Callable[[Said], torch.Tensor]
    logarithmic: bool = False
    differentiable: bool = True
    relative: bool = False
    reads_logits: bool = False
    reads_base: bool = False
    first_token: bool = False
    between_cohorts: bool = False
    of_difference: bool = False
    unit: str = "nats"

    @property
    def transform(self) -> str:
        """The declared transform: what the relaxed search minimises when nothing else is asked for. See `transform_loss`."""
        return "inverse" if self.logarithmic and not self.between_cohorts else "log"


def _log_odds(said: Said) -> torch.Tensor:
    return said.answers[..., 0] - said.answers[..., 1]


def _log_prob(said: Said) -> torch.Tensor:
    return said.answers[..., 0]


def _prob(said: Said) -> torch.Tensor:
    return said.answers[..., 0].exp()


def _neutrality(said: Said) -> torch.Tensor:
    return -_log_odds(said).abs()


def _logit_diff(said: Said) -> torch.Tensor:
    pair = said.logits.gather(-1, said.tokens)
    return pair[..., 0] - pair[..., 1]


def _accuracy(said: Said) -> torch.Tensor:
    return (said.logits.argmax(-1) == said.tokens[..., 0]).to(said.answers.dtype)


def _kl(said: Said) -> torch.Tensor:
    base, run = said.base.log_softmax(-1), said.logits.log_softmax(-1)
    return (base.exp() * (base - run)).sum(-1)


def whole_logits(said: Said) -> torch.Tensor:
    """(..., V) of the word after the prompt, for those who read more than a metric's one number."""
    return said.logits


def next_word(said: Said) -> torch.Tensor:
    """(..., V) the probability of every word after the prompt.

        >>> import torch
        >>> said = mct.metrics.Said(answers=torch.zeros(1, 2), tokens=torch.tensor([[0, 1]]), logits=torch.tensor([[0.0, 1.1]]))
        >>> mct.metrics.next_word(said).round(decimals=2)
        tensor([[0.2500, 0.7500]])
    """
    return said.logits.softmax(-1)


_LOG_ODDS = Metric("log_odds", _log_odds, logarithmic=True, of_difference=True)
_ACCURACY = Metric("accuracy", _accuracy, differentiable=False, reads_logits=True, first_token=True, unit="share")
# For `Trace.next_token`, which reads `next_word`.
WITH_LOGITS = Metric("with_logits", _log_prob, logarithmic=True, reads_logits=True)
# The same whichever answer is called target: an intervention does well that makes the model prefer neither.
_NEUTRALITY = Metric("neutrality", _neutrality, of_difference=True)


def gap(metric: str | Metric) -> Metric:
    """A fairness gap: the metric's mean over the task's first cohort minus that over its second (in alphabetical order).

    Its effect is by how much an intervention widens the gap; search for "min" or "abs" to close it. Each prompt's effect is
    its contribution, so that the mean over prompts is the change of the gap.

        >>> people = mct.load_task("professions", model, n=16)
        >>> gap = mct.Trace(model, people, "head_output", metric=mct.metrics.gap("log_odds"))
        >>> print(gap.total_effect())
        -0.034 [-0.785, 0.579] (n = 8)
    """
    metric = get_metric(metric)
    return replace(metric, name=f"{metric.name}_gap", between_cohorts=True)


def from_logits(function: Callable[[torch.Tensor], torch.Tensor], name: str = "", differentiable: bool = True,
                unit: str = "units") -> Metric:
    """A metric from any function of the logits after the prompt: (..., V) -> (...,). Effects are differences of its values.

        >>> first = mct.metrics.from_logits(lambda logits: logits[..., 11] - logits.mean(-1), name="word 11")
        >>> print(mct.Trace(model, task, "head_output", metric=first).total_effect())
        0.868 [-0.486, 2.213] (n = 8)
    """
    name = name or getattr(function, "__name__", "own")
    return Metric(name, _OfLogits(function, name), differentiable=differentiable, reads_logits=True, unit=unit)


@dataclass(frozen=True)
class _OfLogits:
    """The value of a metric of the user's own. No closure, for metrics are sent to other processes."""

    function: Callable[[torch.Tensor], torch.Tensor]
    name: str

    def __call__(self, said: Said) -> torch.Tensor:
        try:
            found = self.function(said.logits)
        except Exception as error:  # whatever the user's function raises
            raise InputError(f"metric {self.name!r} failed on logits of shape {tuple(said.logits.shape)} with {type(error).__name__}: "
                             f"{error}") from error
        if not isinstance(found, torch.Tensor) or found.shape != said.logits.shape[:-1]:
            raise InputError(f"metric {self.name!r} turned logits of shape {tuple(said.logits.shape)} into "
                             f"{tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__}; "
                             "it must return a tensor without the last dimension")
        return found.to(torch.promote_types(found.dtype, torch.float32))


def get_metric(name: str | Metric | Callable) -> Metric:
    """A metric by name, the Metric itself, or one made from a function of logits, also as "file.py:function".

    Raises InputError for an unknown name, or a file without that function.

        >>> metric = mct.metrics.get_metric("kl")
        >>> metric.name, metric.unit
        ('kl', 'nats')
    """
    if isinstance(name, Metric):
        return name
    if callable(name):
        return from_logits(name)
    return from_logits(_FromFile(name)) if ".py:" in name else METRICS[one_of(name, METRICS, "metric")]


class _FromFile:
    """The function named by "file.py:function", from a file that the user wrote and named. Another process reads the file itself."""

    def __init__(self, spec: str):
        path, _, self.__name__ = spec.rpartition(":")
        try:
            self.spec, self.function = spec, runpy.run_path(path).get(self.__name__)
        except OSError:
            raise InputError(f"metric {spec!r}: there is no file {path!r}") from None
        except Exception as error:  # whatever the user's file raises
            raise InputError(f"metric {spec!r}: {path!r} cannot be run ({type(error).__name__}: {error})") from None
        if not callable(self.function):
            raise InputError(f"metric {spec!r}: {path!r} has no function {self.__name__!r}")

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return self.function(logits)

    def __reduce__(self):
        return _FromFile, (self.spec,)


METRICS = {m.name: m for m in (
    _LOG_ODDS,
    replace(_LOG_ODDS, name="odds_ratio", relative=True, unit="relative change of the odds"),
    Metric("log_prob", _log_prob, logarithmic=True),
    Metric("prob", _prob, unit="probability"),
    Metric("logit_diff", _logit_diff, reads_logits=True, first_token=True, unit="logits"),
    Metric("kl", _kl, reads_logits=True, reads_base=True),
    _ACCURACY,
    _NEUTRALITY,
    *map(gap, (_LOG_ODDS, _ACCURACY, _NEUTRALITY)),
)}

class _LogProbs(torch.autograd.Function):
    """Of autograd's own: one pass over the logits on the way back, and not one for the sum and one for the picked tokens."""

    @staticmethod
    def forward(ctx, logits, index, token):
        total, flat = logits.logsumexp(-1), index * logits.shape[-1] + token
        ctx.save_for_backward(logits, total, index, flat)
        return logits.flatten(1).index_select(1, flat) - total.index_select(1, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        logits, total, index, flat = ctx.saved_tensors
        sums = torch.zeros_like(total).index_add_(1, index, gradient)
        found = (logits - total[..., None]).exp_().mul_(-sums[..., None])
        found.flatten(1).index_add_(1, flat, gradient)
        return found, None, None


def token_log_probs(logits: torch.Tensor, index: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """log p of tokens: logits (R, u, V), for each token the read it comes from and its id, (...) -> (R, ...), in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).contiguous()
    return _LogProbs.apply(logits, index.flatten(), token.flatten()).unflatten(1, index.shape)


ANSWER_RULES = ("mean", "sum")


def answer_log_prob(token_log_probs: torch.Tensor, valid: torch.Tensor, rule: str = "mean") -> torch.Tensor:
    """Scores answers of several tokens: (..., L) token log-probabilities and which of them count -> (...,).

    rule "mean" gives the mean token log-probability (exp of it is the geometric mean: the paper's score), "sum" the
    log-probability of the whole answer.
    """
    one_of(rule, ANSWER_RULES, "answer rule")
    total = torch.where(valid, token_log_probs, 0.0).sum(-1)
    return total / valid.sum(-1) if rule == "mean" else total


def relative(effect: torch.Tensor) -> torch.Tensor:
    """rho = y(m)/y(0) - 1 from an effect in nats (`scale="relative"`)."""
    return torch.expm1(effect)


# --- transforms: what the relaxed search minimises -------------------------------------------------------------

TRANSFORMS = ("inverse", "log", "raw")


def transform_loss(effect: torch.Tensor, transform: str, scale: float, ratio: bool = True) -> torch.Tensor:
    """Loss per example from effects on the "log" scale, smaller when the effect is larger.

    "inverse": the paper's `1/(1 + rho) = exp(-effect)` (its section on the metric transformation), in log space. It is
        right for ratios only: for other metrics it has a pole at rho = -1. It saturates: beyond about 5 nats it and its
        gradient vanish.
    "log": `-effect / scale` with `scale` the absolute total effect; linear, never saturates, right for every metric.
    "raw": no transform, to see what one is for: `-rho = 1 - exp(effect)` where the metric is a ratio, else `-effect`.
        It has no bound: the prompt that moves most decides, and beyond 88 nats float32 overflows.
    """
    if one_of(transform, TRANSFORMS, "transform") == "raw":
        return -torch.expm1(effect) if ratio else -effect
    return torch.exp(-effect) if transform == "inverse" else -effect / scale
