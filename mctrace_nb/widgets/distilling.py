"""Where is the teacher unsure, and what does that cost: the gate of entropy-aware distillation, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping, Sequence

import ipywidgets as ipy
import numpy as np
import torch

from mctrace_nb.distill.losses import Objective, check, clipped_reverse_kl, entropy, kl, picked, top_k_forward_kl
from mctrace_nb.distill.pairs import Pair, pair
from mctrace_nb.distill.rollouts import Rollouts, write_rollouts
from mctrace_nb.errors import InputError
from mctrace_nb.plots import Figure, token_row
from mctrace_nb.widgets.base import Explorer, menu, started

DIRECTIONS = ("forward KL", "reverse KL", "sampled advantage")
KS = (1, 2, 4, 8, 16, 32)
ALL = "all"
TEXTS = 48  # of the grammar, where no prompts are given


@dataclass(frozen=True)
class Scored:
    """Texts that a student wrote, `(B, T)` each: the teacher's entropy, KL over the vocabulary from student to teacher (reverse), the advantage of the
    written token, the loss of plain distillation on it, and the forward KL by k. In nats."""

    written: Rollouts
    entropy: torch.Tensor
    reverse: torch.Tensor
    advantage: torch.Tensor
    loss: torch.Tensor
    forward: Mapping[int | str, torch.Tensor]


def scored(both: Pair, prompts: Sequence[Sequence[int]], new_tokens: int, seed: int, ks: Sequence[int | str]) -> Scored:
    """Lets the student answer prompts (token ids), once each, and has both score what it wrote."""
    written = write_rollouts(both.student, prompts, both.end, new_tokens, seed, both.vocabulary, both.pad)
    with torch.no_grad():
        student, teacher = both.student_logp(written), both.teacher_logp(written)
    check(student, teacher, written.tokens, written.logp, written.valid)
    mine, its = picked(student, written.tokens), picked(teacher, written.tokens)
    return Scored(written, entropy(teacher), kl(student, teacher), its - mine, clipped_reverse_kl(mine, mine, its),
                  {k: top_k_forward_kl(student, teacher, None if k == ALL else k) for k in ks})


def shipped_pair() -> tuple[Pair, object]:
    """The shipped student and teacher, and their tokenizer."""
    from mctrace_nb.models import load_model  # transformers takes seconds to load, and most explorers need no model
    from mctrace_nb.shipped import shipped

    student, teacher = (load_model(shipped(f"data/distill/{name}"), device="cpu") for name in ("student", "teacher"))
    return pair(student.model, teacher.model, student.tokenizer, teacher.tokenizer), student.tokenizer


class ThresholdExplorer(Explorer):
    """Tokens that a student wrote, coloured by how far it is from the teacher there, and the gate that opens where the teacher is unsure.

    both: a pair made by `mctrace_nb.distill.pairs.pair`, with the student's tokenizer; without one the shipped teacher and student. prompts: texts that
    the student goes on from, once each, with up to `new_tokens` tokens; a pair that speaks the shipped grammar needs none, any other does. Both models run
    once, at the start; a move of a control computes nothing but means. k is how many of the teacher's words the forward KL sees. Other arguments are the
    values that the controls start with.

    Raises InputError for what is no pair, a pair without a tokenizer or prompts, prompts for which the models have no room, log-probabilities that are not
    finite, or a value that a control does not have.

        >>> explorer = mct.widgets.ThresholdExplorer(new_tokens=4)
        >>> explorer.parameters
        {'tau': 0.8, 'text': 0, 'direction': 'forward KL', 'k': 16}
    """

    asks, unit = "on what share of all tokens does the gate open at this tau, in percent?", "percent"

    def __init__(self, both: Pair | None = None, tokenizer=None, prompts: Sequence[str] | None = None, new_tokens: int = 16, seed: int = 0, **start):
        if both is None:
            if tokenizer is not None:
                raise InputError("a tokenizer came without its models; give both, a pair made by mctrace_nb.distill.pairs.pair")
            both, tokenizer = shipped_pair()
        if not isinstance(both, Pair):
            raise InputError(f"an explorer of distillation is of a Pair, not of {type(both).__name__}; make one with mctrace_nb.distill.pairs.pair("
                             "student, teacher, tokenizer)")
        if tokenizer is None:
            raise InputError("both came without a tokenizer; give the student's")
        self.prompts = _prompts(tokenizer, prompts)
        ids = [list(tokenizer(prompt)["input_ids"]) for prompt in self.prompts]
        _room(both, ids, new_tokens)
        ks = [k for k in sorted({*KS, *([start["k"]] if isinstance(start.get("k"), int) and start["k"] > 0 else [])}) if k < both.vocabulary] + [ALL]
        self.scored = scored(both, ids, new_tokens, seed, ks)
        self.words_of = [[tokenizer.decode([token]).strip() or "␣" for token in answer] for answer in self.scored.written.answers()]
        valid = self.scored.written.valid
        highest = max(2.5, math.ceil(10 * float(self.scored.entropy[valid].max())) / 10)
        controls = dict(
            tau=ipy.FloatSlider(value=Objective().tau, min=0, max=highest, step=0.05, description="tau (nats)", continuous_update=False),
            text=menu("text", [(f"{i + 1}: {prompt[:60]}", i) for i, prompt in enumerate(self.prompts)], 0),
            direction=menu("show", DIRECTIONS), k=menu("k of the forward KL", ks, 16 if 16 in ks else ks[-1]))
        super().__init__(started(controls, start), self.look)

    def values(self, direction: str, k: int | str) -> torch.Tensor:
        """`(B, T)` what is shown in the boxes."""
        return {"forward KL": self.scored.forward[k], "reverse KL": self.scored.reverse, "sampled advantage": self.scored.advantage}[direction]

    def look(self, tau: float, text: int, direction: str, k: int | str) -> tuple[str, Figure, float]:
        """Words on the gate and the loss, the picture of one text, and the share of all tokens at which the gate is open, in percent."""
        found, valid = self.scored, self.scored.written.valid
        opened, here = found.entropy[valid] > tau, valid[text]
        forward, reverse, share = found.forward[k][valid], float(found.loss[valid].mean()), 100 * float(opened.double().mean())
        added = float((forward * opened).mean())
        mine = int((found.entropy[text][here] > tau).sum())
        words = (f"The gate is open at {mine} of {int(here.sum())} tokens of this text, and at {share:.1f} % of all {len(opened)} tokens of "
                 f"{len(self.prompts)} texts. Forward KL (k = {k}), mean over all texts: {_mean(forward[opened])} where it is open, {_mean(forward[~opened])} "
                 f"where it is shut. Loss: sampled reverse KL {reverse:.3f} + gated forward KL {added:.3f} = {reverse + added:.3f} nats a token.")
        if not opened.any():
            words += " Nothing is added: this is plain on-policy distillation."
        values = self.values(direction, k)
        limit = float(np.quantile(np.abs(values[valid].double().numpy(force=True)), 0.95))
        what = {"forward KL": f"forward KL (k = {k})", "sampled advantage": "advantage of the written token"}.get(direction, direction)
        return words, token_row(self.words_of[text], values[text][here].tolist(), found.entropy[text][here].tolist(), tau, what, limit,
                                direction == "sampled advantage"), share


def _mean(values: torch.Tensor) -> str:
    return f"{float(values.mean()):.3f} nats" if len(values) else "no token"


def _prompts(tokenizer, prompts: Sequence[str] | None) -> list[str]:
    """The given prompts, or held-out problems of the grammar for a pair that speaks it."""
    if prompts is None:
        from mctrace_nb.distill import models, problems

        if tokenizer.get_vocab() != models.make_tokenizer().get_vocab():
            raise InputError("these models do not speak the shipped grammar, so there are no prompts for them; give prompts=[...], a text each")
        return [problem.prompt for problem in problems.distinct_problems(TEXTS, 0)]
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"prompts={prompts!r:.60} is no list of texts; give at least one, such as ['on mon from 3 to 11 by 2 5 7 :']")
    return list(prompts)


def _room(both: Pair, ids: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Raises InputError if a prompt and what is written to it are longer than one of the models can read."""
    longest = max(map(len, ids)) + new_tokens
    for who, model in (("student", both.student), ("teacher", both.teacher)):
        places = getattr(model.config, "max_position_embeddings", None)
        if places and longest > places:
            raise InputError(f"the longest prompt and new_tokens={new_tokens} take {longest} places, the {who} has {places}; give shorter prompts or fewer "
                             "new tokens")
