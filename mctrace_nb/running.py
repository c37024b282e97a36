"""Runs: prompts of one trace on one process, ready to be run under any masks."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import Metric, Said, whole_logits
from mctrace_nb.passes import Host, Passes
from mctrace_nb.sides import Side, Sides, Work
from mctrace_nb.tasks import Example

FEW_TOKENS = 32  # fewer in a pass take hardly less time, measured on two cores
AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Runs:
    """Some prompts of a trace and what was recorded of them: the only place where prompts are run under masks.

    examples: all prompts of the trace; part: (first, step), which of them are run here. work: counts the rows run to record values and
    base logits, not those that are asked for. The rest is as in `Trace`.

    Raises InputError for prompts or kinds that cannot be traced so.
    """

    processes = here = 1  # how many share the prompts, and how many of these are on this machine

    def __init__(self, model: LanguageModel, examples: tuple[Example, ...], components: Components, positions: str, corruption: str,
                 metric: Metric, seed: int, answer_rule: str, noise_sd: float, noise_on: str, direction: str, cache: str,
                 batch_rows: int | None, autocast: str | None, work: Work, part: tuple[int, int] = (0, 1)):
        self.model, self.components, self.metric, self.work = model, components, metric, work
        self.restore, self.autocast = direction == "restore", autocast and AUTOCAST[autocast]
        self.sides = Sides(model, examples, components, positions, corruption, noise_sd, noise_on, seed, batch_rows, cache, work,
                           self.autocast, part)
        self.batch_rows = self.sides.batch_rows
        self.passes = Passes(model, self.sides, components, answer_rule, metric.reads_logits,
                             metric.of_difference and all(len(e.target) == len(e.foil) == 1 for e in self.sides.examples))

    def __len__(self) -> int:
        return len(self.sides.examples)

    def side(self, reverse: bool = False) -> Side:
        """The run that is intervened on with the values that are put in, or (reverse) the other way round."""
        return self.sides[reverse != self.restore]

    def prepare(self, reverse: bool = False) -> None:
        """Records the values to put in now, and not at the first run that needs them."""
        side = self.side(reverse)
        with Session(self.model, self.autocast) as session, torch.no_grad():
            self.sides.keep(session, side)

    def totals(self, reverse: bool = False) -> dict | None:
        """For corruption "mean" and values not yet recorded: see `Sides.totals`."""
        side = self.side(reverse)
        with Session(self.model, self.autocast) as session, torch.no_grad():
            return self.sides.totals(session, side.source) if side.values is None else None

    def values(self, masks: torch.Tensor | None, examples: np.ndarray | None = None, reverse: bool = False, at: torch.Tensor | None = None,
               read: Callable[[Said], torch.Tensor] | None = None) -> torch.Tensor:
        """What `read` (by default the metric) makes of what is said, (R, b) under masks `(R, N)`, or (1, b) without any, in as many
        forward passes as `batch_rows` asks for; with a gradient where the masks have one and gradients are wanted.

        examples: numbers of prompts, counted here, `(b,)`, or `(R, b)` with each mask's own; None for all. reverse, at: as in
        `Trace.effects`. Raises InputError for a metric without a gradient, if one is wanted.
        """
        if read is None and self.metric.reads_base and self.passes.base_logits is None:
            self.passes.base_logits = self.values(None, read=whole_logits)[0]
            self.work.forwards += len(self)
        side, total = self.side(reverse), 1 if masks is None else len(masks)
        b = len(self) if examples is None else examples.shape[-1]
        needs_gradient = masks is not None and masks.requires_grad and torch.is_grad_enabled()
        many = masks is not None and not needs_gradient and (examples is None or examples.ndim == 1)
        # Masks share more than prompts do, so prompts are cut first; but passes over hardly any tokens are slow.
        prompts = max(self.batch_rows // total, math.ceil(FEW_TOKENS * len(self) / len(side.rows.ids))) if many else self.batch_rows
        cuts = math.ceil(b / min(b, prompts, self.batch_rows))
        parts = [examples] if cuts == 1 else np.array_split(np.arange(len(self)) if examples is None else examples, cuts, -1)
        positions = [at] * cuts if at is None or cuts == 1 else at.tensor_split(cuts, 1)
        host = Host(masks, self.components, at) if many else None
        with Session(self.model, self.autocast) as session, torch.set_grad_enabled(needs_gradient):
            values, start = None, 0
            for part, where in zip(parts, positions):
                found = self.passes.values(session, side, masks, part, self.batch_rows, read or self.metric.value, where, host)
                if cuts == 1 or needs_gradient:
                    values = found if values is None else torch.cat([values, found], 1)
                    continue
                if values is None:  # at once: many small results between large ones that are freed would split up the memory
                    values = found.new_empty(total, b, *found.shape[2:])
                values[:, start:start + found.shape[1]] = found
                start += found.shape[1]
        if needs_gradient and not values.requires_grad:
            raise InputError(f"metric {self.metric.name!r} has no gradient; relaxed searches need one (of a function of your own say so "
                             "with metrics.from_logits(function, differentiable=False))")
        return values
