"""On-policy distillation: the student writes, the teacher judges every token, the student is moved, and writes again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import Iterable, Sequence

import torch

from mctrace_nb.distill.losses import ARMS, Objective, check_gate, entropy, losses
from mctrace_nb.distill.pairs import Pair
from mctrace_nb.distill.rollouts import write_rollouts
from mctrace_nb.errors import InputError
from mctrace_nb.progress import bar

__all__ = ["Training", "distill", "rollout_speed"]


@dataclass(frozen=True)
class Training:
    """How long and how fast. Each step writes one answer to each of `batch` prompts and takes `updates` optimiser steps, each on its
    share of them (the paper: 128 and 4); the learning rate falls to zero along a cosine, as in the paper.

        >>> mct.distill.loop.Training(steps=10).updates
        4
    """

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


def distill(pair: Pair, prompts: Iterable[Sequence[int]], objective: Objective, training: Training, seed: int = 0) -> list[dict]:
    """Trains `pair.student` in place on its own answers to prompts (token ids, drawn in order); the teacher stays as it is.

    Returns a history, a row every few steps: step; loss, reverse, forward, gate (share of tokens at which the teacher's entropy is above
    tau, whatever the objective), teacher_entropy and student_entropy, all on the step's first share of texts, before its first update;
    tokens, seconds and generation_seconds (so far).

    Raises InputError if a gated objective finds the gate shut at every token of the first batch, if the prompts run out, and as
    `write_rollouts` and `losses` do. The student is left in eval mode, in which it is also trained: under dropout the ratio to the rollout
    policy would not start at 1.

        >>> from mctrace_nb.distill import experiment, losses, loop, pairs
        >>> teacher, tokenizer = experiment.load_teacher()
        >>> both = pairs.pair(experiment.load_student()[0], teacher, tokenizer)
        >>> history = loop.distill(both, experiment.prompts(tokenizer, 0), losses.Objective("eopd"), loop.Training(steps=2, batch=32, every=1))
        >>> [round(row["gate"], 1) for row in history]
        [0.3, 0.2]
    """
    student, share = pair.student.eval(), training.batch // training.updates
    pair.teacher.eval()
    generator = torch.Generator(next(student.parameters()).device).manual_seed(seed)
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=training.learning_rate, weight_decay=0.01)
    total = training.steps * training.updates
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: (1 + math.cos(math.pi * i / total)) / 2)
    prompts, history, start, writing, tokens = iter(prompts), [], time.perf_counter(), 0.0, 0
    progress = bar(range(training.steps), f"distilling: {objective.name}")
    for step in progress:
        batch = list(islice(prompts, training.batch))
        if len(batch) < training.batch:
            raise InputError(f"the prompts ran out at step {step} of {training.steps}, {training.batch} a step; give more, or repeat them")
        rollouts = write_rollouts(student, batch, pair.end, training.new_tokens, generator, pair.vocabulary, pair.pad)
        writing, tokens = writing + rollouts.seconds, tokens + int(rollouts.valid.sum())
        teacher = pair.teacher_logp(rollouts)
        if step == 0 and ARMS[objective.name][1] == "gated":
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
    """Seconds for one batch of distillation taken whole, the median of `repeats` after one to warm up: `generation_seconds` (writing),
    `scoring_seconds` (by the teacher), `loss_seconds` (the student's pass over the texts, loss, backward pass), `update_seconds`, and all
    together, `seconds`; the share of writing, the tokens written, and how many a second while writing. The student is not changed: the
    learning rate is 0.

        >>> from mctrace_nb.distill import experiment, losses, loop, pairs
        >>> teacher, tokenizer = experiment.load_teacher()
        >>> both = pairs.pair(experiment.load_student()[0], teacher, tokenizer)
        >>> ids = experiment.prompts(tokenizer, 0)
        >>> speed = loop.rollout_speed(both, [next(ids) for _ in range(4)], losses.Objective("opd"), new_tokens=4, repeats=1)
        >>> sorted(speed)[:3]
        ['generation_seconds', 'generation_share', 'loss_seconds']
    """
    optimiser, rows = torch.optim.AdamW(pair.student.parameters(), lr=0.0), []
    for i in range(repeats + 1):
        rollouts = write_rollouts(pair.student, prompts, pair.end, new_tokens, seed + i, pair.vocabulary, pair.pad)
        at = [time.perf_counter()]
        teacher = pair.teacher_logp(rollouts)
        at.append(time.perf_counter())
        losses(pair.student_logp(rollouts), teacher, rollouts.tokens, rollouts.logp, rollouts.valid, objective).total.backward()
        at.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(pair.student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        at.append(time.perf_counter())
        parts = [rollouts.seconds, *(b - a for a, b in zip(at, at[1:]))]
        rows.append([sum(parts), *parts, parts[0] / sum(parts), int(rollouts.valid.sum()), int(rollouts.valid.sum()) / parts[0]])
    names = ("seconds", "generation_seconds", "scoring_seconds", "loss_seconds", "update_seconds", "generation_share", "tokens",
             "tokens_per_second")
    return dict(zip(names, torch.tensor(rows[1:], dtype=torch.double).median(0).values.tolist()))
