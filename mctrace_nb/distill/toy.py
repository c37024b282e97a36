"""The paper's toy (section 3): one distribution to learn, once from a teacher that is sure and once from one that is not.

The student is a row of logits. At every step it draws one word, and is moved by the sampled reverse KL: with a teacher of high entropy its
favourite word keeps changing, and other words are forgotten. Sizes are not given in the paper; these are our own: 100 words, a step a
word, Adam at 0.05. Many seeds run side by side as rows of one tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mctrace_nb.distill.losses import Objective, clipped_reverse_kl, entropy, kl, picked, top_k_forward_kl
from mctrace_nb.errors import InputError, one_of

__all__ = ["METHODS", "teacher_of", "toy"]

METHODS = ("opd", "forward", "ungated", "eopd")


def teacher_of(target: float, words: int, seeds: int, seed: int = 0) -> Tensor:
    """Log-probabilities `(seeds, words)` of Gaussian logits, each row at the temperature at which its entropy is `target` nats.

    Raises InputError for an entropy that no distribution over so many words has.

        >>> import torch
        >>> logp = mct.distill.toy.teacher_of(2.0, words=20, seeds=3)
        >>> -(logp.exp() * logp).sum(-1).round(decimals=2)
        tensor([2., 2., 2.], dtype=torch.float64)
    """
    highest = torch.tensor(float(words)).log().item()
    if not 0 < target < highest:
        raise InputError(f"no teacher over {words} words has an entropy of {target!r} nats; give one between 0 and {highest:.2f}")
    logits = torch.randn(seeds, words, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (torch.full((seeds, 1), end, dtype=torch.float64) for end in (-14.0, 14.0))  # of the logarithm of the inverse temperature
    for _ in range(80):  # entropy falls as the inverse temperature rises
        middle = (low + high) / 2
        above = entropy((logits * middle.exp()).log_softmax(-1)).unsqueeze(-1) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (logits * low.exp()).log_softmax(-1)


def toy(target: float, method: str = "opd", words: int = 100, steps: int = 1000, seeds: int = 20, seed: int = 0,
        learning_rate: float = 0.05, tau: float = 0.8, k: int = 16, every: int = 50) -> dict:
    """Trains `seeds` students for one teacher entropy (nats). method: one of `METHODS`.

    Returns `top_1_changes`, a list with a number a seed: how often the favourite word changed in all steps; `top_10_change`: mean share of the ten
    favourites that are others after a step; at the end, per seed, `student_entropy`, `forward_kl`, `reverse_kl`, `covered` (share of the
    teacher's k favourites that the student gives at least half of the teacher's probability); and `history`, a row every few steps with
    the mean student entropy, both divergences, and the share of steps since the last row in which the favourite changed.

    Raises InputError for an unknown method, a size out of range, or an entropy that no teacher has.

        >>> found = mct.distill.toy.toy(2.0, words=20, steps=20, seeds=3, every=10)
        >>> len(found["top_1_changes"]), len(found["history"])
        (3, 2)
    """
    one_of(method, METHODS, "method")
    if min(steps, seeds, every, k) < 1 or words < max(11, k):
        raise InputError(f"steps={steps}, seeds={seeds}, every={every}, words={words}, k={k}: give at least 1 of each, and 11 words or more, not "
                         "fewer than k")
    objective = Objective(method, tau=tau, k=k)
    teacher = teacher_of(target, words, seeds, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    logits = torch.randn(seeds, words, generator=generator, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=learning_rate)
    open_gate = {"opd": 0.0, "forward": 1.0, "ungated": 1.0, "eopd": (entropy(teacher) > objective.tau).double()}[method]
    favourite = logits.detach().argmax(-1)
    tens = _top_10(logits.detach())
    changes, moved, recent, history = torch.zeros(seeds), torch.zeros(seeds), 0.0, []
    for step in range(steps):
        logp = logits.log_softmax(-1)
        drawn = logp.detach().exp().multinomial(1, generator=generator).squeeze(-1)  # (seeds,)
        mine = picked(logp, drawn)
        loss = open_gate * top_k_forward_kl(logp, teacher, k)
        if method != "forward":
            loss = loss + clipped_reverse_kl(mine, mine.detach(), picked(teacher, drawn), objective.clip)
        optimiser.zero_grad()
        loss.sum().backward()  # rows do not meet: Adam scales each number by itself
        optimiser.step()
        now, now_tens = logits.detach().argmax(-1), _top_10(logits.detach())
        changes += now != favourite
        recent += float((now != favourite).double().mean())
        moved += 1 - (now_tens & tens).sum(-1) / 10
        favourite, tens = now, now_tens
        if (step + 1) % every == 0 or step + 1 == steps:
            logp = logits.detach().log_softmax(-1)
            history.append(dict(step=step + 1, student_entropy=float(entropy(logp).mean()), forward_kl=float(kl(teacher, logp).mean()),
                                reverse_kl=float(kl(logp, teacher).mean()), change_rate=recent / ((step % every) + 1)))
            recent = 0.0
    logp = logits.detach().log_softmax(-1)
    best = teacher.topk(k, -1)
    covered = (logp.gather(-1, best.indices).exp() >= 0.5 * best.values.exp()).double().mean(-1)
    return dict(top_1_changes=changes.tolist(), top_10_change=(moved / steps).tolist(), student_entropy=entropy(logp).tolist(),
                forward_kl=kl(teacher, logp).tolist(), reverse_kl=kl(logp, teacher).tolist(), covered=covered.tolist(), history=history)


def _top_10(logits: Tensor) -> Tensor:
    """Which words are the ten favourites: `(seeds, words)`, true or false."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(10, -1).indices, True)
