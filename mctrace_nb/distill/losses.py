"""The losses of entropy-aware on-policy distillation (Jin et al., arXiv 2603.07079, equations 9 and 10) and of its rivals.

Everything here is a plain function of log-probabilities: student and teacher `(B, T, V)` over one vocabulary at the T answer positions of
B texts that the student wrote, the tokens it wrote `(B, T)`, and `valid` `(B, T)`, true up to and with the end of text. All in nats.

    clipped reverse KL   -min(r A, clip(r, 1 - c, 1 + c) A),  r = pi(y) / pi_old(y),  A = log p(y) - log pi_old(y), a constant
    forward KL           sum over the teacher's top k of q log(q / pi), q the teacher renormalised over them, pi over all words
    EOPD                 reverse KL + alpha * [H(p) > tau] * forward KL, summed, divided by the number of all valid tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace_nb.errors import InputError, one_of

__all__ = ["Losses", "Objective", "calibrate_tau", "clipped_reverse_kl", "entropy", "generalised_jsd", "kl", "losses", "picked", "top_k_forward_kl"]

# What each objective adds up: a form of reverse KL on every token, and forward KL on no, gated or all tokens.
ARMS = {
    "opd": ("clipped", "none"),             # on-policy distillation: reverse KL alone
    "eopd": ("clipped", "gated"),           # the paper's
    "ungated": ("clipped", "all"),          # the sum without the gate
    "forward": ("none", "all"),             # forward KL alone, on the student's own texts
    "exact_reverse": ("exact", "none"),     # reverse KL over the vocabulary in place of the sampled token
    "jsd": ("jsd", "none"),                 # a fixed mixture of both directions
}


@dataclass(frozen=True)
class Objective:
    """One objective by name, with the paper's settings.

    tau: the gate opens where the teacher's entropy is above it, in nats. alpha: weight of the forward KL beside a reverse one. k: words of
    the teacher's distribution that the forward KL sees (None: all). clip: how far the ratio to the rollout policy may move. beta: of the
    generalised JSD, 0 is forward and 1 reverse KL.

    Raises InputError for an unknown name or a value out of range.

        >>> mct.distill.losses.Objective("eopd", tau=0.5)
        Objective(name='eopd', tau=0.5, alpha=1.0, k=16, clip=0.2, beta=0.5)
    """

    name: str = "eopd"
    tau: float = 0.8
    alpha: float = 1.0
    k: int | None = 16
    clip: float = 0.2
    beta: float = 0.5

    def __post_init__(self):
        one_of(self.name, ARMS, "objective")
        for name, ok, wanted in (("tau", self.tau >= 0, "at least 0"), ("alpha", self.alpha >= 0, "at least 0"),
                                 ("k", self.k is None or self.k >= 1, "at least 1, or None for all words"),
                                 ("clip", 0 < self.clip < 1, "between 0 and 1"), ("beta", 0 <= self.beta <= 1, "from 0 to 1")):
            if not ok:
                raise InputError(f"{name}={getattr(self, name)!r} is out of range; give a value {wanted}")


@dataclass(frozen=True)
class Losses:
    """`total` is the token mean that is to be minimised; the others, `(B, T)`, say what it is made of (0 outside valid tokens): either KL
    without its weight, forward 0 where the gate is shut; whether the gate is open; the teacher's entropy.

        >>> import torch
        >>> logp, tokens, valid = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[0]]), torch.tensor([[True]])
        >>> found = mct.distill.losses.losses(logp, logp, tokens, mct.distill.losses.picked(logp, tokens), valid)
        >>> found.entropy.round(decimals=2), found.gate
        (tensor([[0.6900]]), tensor([[False]]))
    """

    total: Tensor
    reverse: Tensor
    forward: Tensor
    gate: Tensor
    entropy: Tensor
    valid: Tensor

    def mean(self, part: str) -> float:
        """Token mean of a part over all valid tokens: of `gate` the share of tokens at which it is open."""
        return float(token_mean(getattr(self, part).detach().to(self.total.dtype), self.valid))


def entropy(logp: Tensor) -> Tensor:
    """`(..., V)` -> `(...)`: entropy in nats.

        >>> import torch
        >>> mct.distill.losses.entropy(torch.tensor([0.5, 0.5]).log()).round(decimals=2)
        tensor(0.6900)
    """
    return -(logp.exp() * logp).sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities `(..., V)` -> `(...)`.

        >>> import torch
        >>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
        >>> mct.distill.losses.kl(p, q).round(decimals=2)
        tensor(0.5100)
    """
    return (p.exp() * (p - q)).sum(-1)


def picked(logp: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of one word each: `(..., V)`, `(...)` -> `(...)`.

        >>> import torch
        >>> mct.distill.losses.picked(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([1])).exp()
        tensor([0.1000])
    """
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def clipped_reverse_kl(new: Tensor, old: Tensor, teacher: Tensor, clip: float = 0.2) -> Tensor:
    """The sampled-token surrogate from log-probabilities of the written tokens, each `(B, T)`: under the student that is trained, the
    student that wrote, and the teacher. Its mean over texts is minus the mean advantage at new = old: the reverse KL; its gradient
    there is that of the reverse KL. No baseline, no whitening.

        >>> import torch
        >>> new, teacher = torch.tensor([[-1.0]]), torch.tensor([[-3.0]])
        >>> mct.distill.losses.clipped_reverse_kl(new, new, teacher)
        tensor([[2.]])
    """
    advantage = (teacher - old).detach()
    ratio = (new - old.detach()).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def top_k_forward_kl(student: Tensor, teacher: Tensor, k: int | None) -> Tensor:
    """Forward KL of the teacher's renormalised top k against the student's log-probabilities over all words, `(..., V)` -> `(...)`.

    Equal to KL(q || pi(. | S)) - log pi(S), S being the top k: a student equal to the teacher still pays -log p(S), and is still pulled
    towards S. The teacher is no stationary point unless k covers the vocabulary.

        >>> import torch
        >>> student, teacher = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.5, 0.4, 0.1]).log()
        >>> mct.distill.losses.top_k_forward_kl(student, teacher, k=2).round(decimals=2)
        tensor(0.3100)
    """
    if k is None or k >= teacher.shape[-1]:
        return kl(teacher, student)
    top = teacher.topk(k, -1)
    return kl(top.values.log_softmax(-1), student.gather(-1, top.indices))


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(pi || m), m = beta p + (1 - beta) pi; p the teacher, pi the student. `(..., V)` -> `(...)`.

    The ends are limits: beta = 0 is the forward KL(p || pi), beta = 1 the reverse KL(pi || p) (Agarwal et al. 2023, as in TRL).

        >>> import torch
        >>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
        >>> mct.distill.losses.generalised_jsd(q, p, beta=0.5).round(decimals=2)
        tensor(0.1000)
    """
    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def token_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over all valid tokens of all texts, also over those at which a gate is shut."""
    return values.masked_fill(~valid, 0).sum() / valid.sum()


def check(student: Tensor, teacher: Tensor, tokens: Tensor, old: Tensor, valid: Tensor) -> None:
    """Raises InputError for shapes that do not fit, rollouts without a token, or numbers that are none."""
    if student.shape[-1] != teacher.shape[-1]:
        raise InputError(f"the student says {student.shape[-1]} words and the teacher {teacher.shape[-1]}; both need one vocabulary")
    shapes = [tuple(x.shape) for x in (student[..., 0], teacher[..., 0], tokens, old, valid)]
    if len(set(shapes)) > 1:
        raise InputError(f"student, teacher, tokens, old and valid are of shapes {shapes}; give the same texts and tokens for all")
    if not valid.any():
        raise InputError("the rollouts hold no token; raise the number of new tokens, or give prompts to which the student says something")
    for name, values in (("student's", student), ("teacher's", teacher), ("rollout policy's", old.unsqueeze(-1))):
        bad = int((~values.detach().isfinite().all(-1) & valid).sum())
        if bad:
            raise InputError(f"the {name} log-probabilities are not finite at {bad} of {int(valid.sum())} tokens; lower the learning rate, "
                             "or use float32, or cut off words that are never said (-inf)")


def losses(student: Tensor, teacher: Tensor, tokens: Tensor, old: Tensor, valid: Tensor, objective: Objective = Objective()) -> Losses:
    """An objective on texts that the student wrote. student, teacher: log-probabilities `(B, T, V)`; old: `(B, T)`, of the written
    tokens when they were written; gradients flow to `student` alone. Whatever stands outside `valid` is not looked at.

    Raises InputError as `check` does.

        >>> from mctrace_nb.distill import losses
        >>> import torch
        >>> student, teacher = (torch.tensor([[p]]).log() for p in ([0.9, 0.1], [0.5, 0.5]))
        >>> tokens, valid = torch.tensor([[0]]), torch.tensor([[True]])
        >>> found = losses.losses(student, teacher, tokens, losses.picked(student, tokens), valid, losses.Objective("forward", k=None))
        >>> found.total.round(decimals=2)
        tensor(0.5100)
    """
    check(student, teacher, tokens, old, valid)
    # padding may hold anything, also what is not a number, and 0 * nan is nan in the backward pass
    student, teacher = (x.masked_fill(~valid.unsqueeze(-1), 0) for x in (student, teacher.detach()))
    tokens, old = tokens.masked_fill(~valid, 0), old.masked_fill(~valid, 0)
    reverse_form, forward_form = ARMS[objective.name]
    unsure = entropy(teacher).masked_fill(~valid, 0)
    gate = valid & {"none": torch.zeros_like(valid), "all": torch.ones_like(valid), "gated": unsure > objective.tau}[forward_form]
    if reverse_form == "clipped":
        reverse = clipped_reverse_kl(picked(student, tokens), old, picked(teacher, tokens), objective.clip)
    elif reverse_form == "exact":
        reverse = kl(student, teacher)
    elif reverse_form == "jsd":
        reverse = generalised_jsd(student, teacher, objective.beta)
    else:
        reverse = torch.zeros_like(unsure)
    forward = top_k_forward_kl(student, teacher, objective.k) if forward_form != "none" else torch.zeros_like(unsure)
    reverse, forward = reverse.masked_fill(~valid, 0), forward.masked_fill(~gate, 0)
    weight = 1.0 if objective.name == "forward" else objective.alpha
    return Losses(token_mean(reverse + weight * forward, valid), reverse, forward, gate, unsure, valid)


def calibrate_tau(entropies: Tensor, valid: Tensor, percentile: float = 80.0) -> float:
    """The threshold above which `100 - percentile` per cent of the teacher's entropies on student rollouts lie.

    For other pairs than the paper's, to which 0.8 nats may be much or little. Raises InputError for a percentile out of range, no valid
    token, or a percentile that is also the largest entropy: above it, the gate would never open.

        >>> import torch
        >>> mct.distill.losses.calibrate_tau(torch.arange(11.0), torch.ones(11, dtype=torch.bool), percentile=80)
        8.0
    """
    if not 0 <= percentile < 100:
        raise InputError(f"percentile={percentile!r} is out of range; give one from 0 to below 100")
    found = entropies[valid].double()
    if not len(found):
        raise InputError("no entropies of valid tokens to calibrate on; give rollouts that hold a token")
    tau = float(found.quantile(percentile / 100))
    check_gate(found, tau)
    return tau


def check_gate(entropies: Tensor, tau: float) -> None:
    """Raises InputError if no entropy is above tau: the objective would be plain on-policy distillation under another name; or if one is
    not a number."""
    bad = int((~entropies.isfinite()).sum())
    if bad:
        raise InputError(f"the teacher's entropy is not finite at {bad} of {entropies.numel()} tokens; use float32, or another teacher")
    top = float(entropies.max())
    if not top > tau:
        raise InputError(f"the teacher never opens the gate: its largest entropy is {top:.3f} nats, tau={tau:.3f}; lower tau "
                         "(calibrate_tau with a lower percentile), or use the objective 'opd'")
