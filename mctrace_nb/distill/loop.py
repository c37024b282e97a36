"""On-policy distillation: the student writes, the teacher judges every token, the student is moved, and writes again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Iterator, Sequence

import torch

from mctrace_nb.distill.losses import Objective, check_gate, entropy, losses
from mctrace_nb.distill.pairs import Pair
from mctrace_nb.distill.rollouts import Rollouts, write_rollouts
from mctrace_nb.errors import InputError
from mctrace_nb.progress import bar


@dataclass(frozen=True)
class Training:
    """How long and how fast. Each step writes one answer to each of `batch` prompts and takes `updates` optimiser steps, each on its
    share of them (the paper: 128 and 4); the learning rate falls to zero along a cosine, as in the paper."""

    steps: int = 200
    batch: int = 128
    updates: int = 4
    learning_rate: float = 1e-3
    new_tokens: int = 8
    every: int = 10  # steps between rows of the history

    def __post_init__(self):
        if min(self.steps, self.batch, self.updates, self.new_tokens, self.every) < 1 or self.batch % self.updates:
            raise InputError(f"steps={self.steps}, batch={self.batch}, updates={self.updates}, new_tokens={self.new_tokens}, "
                             f"every={self.every}: give at least 1 of each, and a batch that is a multiple of updates")


def distill(pair: Pair, prompts: Iterator[Sequence[int]], objective: Objective, training: Training, seed: int = 0) -> list[dict]:
    """Trains `pair.student` in place on its own answers to prompts (token ids, drawn in order); the teacher stays as it is.

    Returns a history, a row every few steps: step, loss, reverse, forward, gate (share of tokens), teacher_entropy, student_entropy (both
    at the tokens just written, before the updates), tokens (so far), seconds and generation_seconds (so far).

    Raises InputError if a gated objective finds the gate shut at every token of the first batch, and as `losses` does. The student is
    left in eval mode, in which it is also trained: under dropout the ratio to the rollout policy would not start at 1.
    """
    student, share = pair.student.eval(), training.batch // training.updates
    pair.teacher.eval()
    generator = torch.Generator(next(student.parameters()).device).manual_seed(seed)
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=training.learning_rate, weight_decay=0.01)
    total = training.steps * training.updates
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: (1 + math.cos(math.pi * i / total)) / 2)
    history, start, writing, tokens = [], time.perf_counter(), 0.0, 0
    progress = bar(range(training.steps), f"distilling: {objective.name}")
    for step in progress:
        batch = [next(prompts) for _ in range(training.batch)]
        rollouts = write_rollouts(student, batch, pair.end, training.new_tokens, generator, pair.vocabulary, pair.pad)
        writing, tokens = writing + rollouts.seconds, tokens + int(rollouts.valid.sum())
        teacher = pair.teacher_logp(rollouts)
        if step == 0 and objective.name == "eopd":
            check_gate(entropy(teacher)[rollouts.valid], objective.tau)
        row = None
        for i in range(0, training.batch, share):
            some = slice(i, i + share)
            part = rollouts.part(some)
            logp = pair.student_logp(part)
            found = losses(logp, teacher[some], part.tokens, part.logp, part.valid, objective)
            optimiser.zero_grad(set_to_none=True)
            found.total.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if row is None:
                row = dict(loss=float(found.total.detach()), reverse=found.mean("reverse"), forward=found.mean("forward"),
                           teacher_entropy=found.mean("entropy"), student_entropy=float(entropy(logp.detach())[part.valid].mean()),
                           gate=float((found.entropy > objective.tau)[part.valid].double().mean()))
        if step % training.every == 0 or step == training.steps - 1:
            history.append(dict(step=step, **row, tokens=tokens, seconds=time.perf_counter() - start, generation_seconds=writing))
            progress.set_postfix(loss=f"{row['loss']:.3f}")
    return history


def rollout_speed(pair: Pair, prompts: Sequence[Sequence[int]], objective: Objective, new_tokens: int, repeats: int = 5,
                  seed: int = 0) -> dict:
    """Seconds for one batch of distillation (writing, scoring by both, loss, backward pass; no update), the share of it that writing
    takes, and written tokens a second while writing. The median of `repeats`, after one to warm up; the student is not changed."""
    rows = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        rollouts: Rollouts = write_rollouts(pair.student, prompts, pair.end, new_tokens, seed + i, pair.vocabulary, pair.pad)
        teacher, logp = pair.teacher_logp(rollouts), pair.student_logp(rollouts)
        losses(logp, teacher, rollouts.tokens, rollouts.logp, rollouts.valid, objective).total.backward()
        pair.student.zero_grad(set_to_none=True)
        rows.append((time.perf_counter() - start, rollouts.seconds, int(rollouts.valid.sum())))
    seconds, writing, tokens = (torch.tensor(column, dtype=torch.double).median().item() for column in zip(*rows[1:]))
    return dict(seconds=seconds, generation_seconds=writing, generation_share=writing / seconds, tokens=int(tokens),
                tokens_per_second=tokens / writing)
