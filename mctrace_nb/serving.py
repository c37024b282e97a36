"""One trace on several processes: each runs every so-manieth prompt, rank 0 asks and adds up.

Rank 0 has the trace, the searches and the notebook. Each of its questions is an order to all ranks, itself included: they run
their prompts under the same masks, and the sum of what they find, zero for the prompts of others, is the answer.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import weakref
from dataclasses import replace
from typing import Callable

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from mctrace_nb import ranks
from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import Said
from mctrace_nb.memory import keep_freed_memory
from mctrace_nb.models import load_model
from mctrace_nb.ranks import Lost, PartFailed, Team
from mctrace_nb.running import Runs
from mctrace_nb.sides import Side, Work
from mctrace_nb.tasks import Example

LINGER = 20  # seconds in which rank 0 may still say what went wrong, before the launcher hears of it from another rank


class Part:
    """One rank's part of a trace: of its `n` prompts those numbered rank, rank + size, ...; none where there are more ranks than prompts.

    All ranks call the same methods with the same arguments, and stay in step: see `Team`.
    """

    def __init__(self, team: Team, model: LanguageModel, examples: tuple[Example, ...], metric: bytes, how: dict):
        self.team, self.model, self.n, self.corruption = team, model, len(examples), how["corruption"]
        self.work, self.graphs = Work(), {}
        self.runs = Runs(model, examples, **how, metric=pickle.loads(metric), work=self.work,
                         part=(team.rank, team.size)) if team.rank < self.n else None

    def _tried(self, part: Callable) -> tuple[object, list]:
        """Like `Team.tried`; the notes give the rows that each rank ran to record values, and what else a part has to say."""
        def own():
            before = self.work.forwards
            found, note = part()
            return found, (self.work.forwards - before, note)

        return self.team.tried(own)

    def prepare(self, reverse: bool) -> int:
        """Records the values to put in; means are taken over the prompts of all ranks. Gives the rows that were run for it."""
        mean = self.corruption == "mean"

        def part():
            found = None if self.runs is None else self.runs.totals(reverse) if mean else self.runs.prepare(reverse)
            return found, found and {site: (x.shape, x.dtype) for site, x in found.items()}

        found, notes = self._tried(part)
        sizes = next((note for _, note in notes if note), {})  # a rank without prompts does not know them
        found = {site: self.team.summed(found[site] if found else torch.zeros(shape, dtype=dtype, device=self.model.device))
                 for site, (shape, dtype) in sizes.items()}
        if found and self.runs is not None:
            self.runs.sides.put_means(self.runs.side(reverse), found)
        return sum(rows for rows, _ in notes)

    def _mine(self, examples: np.ndarray | None) -> tuple[np.ndarray | None, tuple | None]:
        """The prompts that are run here, as `Runs` counts them, and where in (R, b) they were asked for; None: none of them was."""
        rank, size = self.team.rank, self.team.size
        if examples is None:
            return None, (slice(None), slice(rank, None, size)) if rank < self.n else None
        mine = examples % size == rank
        numbers, where = examples[mine] // size, tuple(torch.as_tensor(i, device=self.model.device) for i in mine.nonzero())
        if examples.ndim == 1:
            where = (slice(None), *where)
        return numbers, where if len(numbers) else None

    def values(self, masks: torch.Tensor | None, examples: np.ndarray | None, reverse: bool, at: torch.Tensor | None,
               read: Callable[[Said], torch.Tensor] | None, call: int | None) -> tuple[torch.Tensor, int]:
        """What `Runs.values` of a single process would give, (R, b), on every rank, and the rows that were run to record values.

        call: a number under which `backward` can ask for the gradient, None if it will not."""
        size = self.n if examples is None else examples.shape[-1]
        if examples is not None and len(examples) == 1:
            examples = examples.reshape(-1)  # (b,): one mask's own prompts are all there are
        numbers, where = self._mine(examples)
        leaf = masks if call is None else masks.detach().requires_grad_()

        def part():
            if where is None:
                return None, None
            place = None if at is None else at[where]
            with torch.set_grad_enabled(call is not None):
                if examples is None or examples.ndim == 1:
                    found = self.runs.values(leaf, numbers, reverse, place, read)
                    return found, (found.shape[2:], found.dtype)
                # Of each mask another number of prompts is here, so each of its prompts is asked for by itself.
                found = self.runs.values(leaf[where[0]], numbers[:, None], reverse, None if place is None else place[:, None], read)[:, 0]
            return found, (found.shape[1:], found.dtype)

        found, notes = self._tried(part)
        if call is not None:
            self.graphs[call] = found, leaf, where
        more, dtype = next(note for _, note in notes if note)
        whole = torch.zeros(1 if masks is None else len(masks), size, *more, dtype=dtype, device=self.model.device)
        if found is not None:
            whole[where] = found.detach()
        return self.team.summed(whole), sum(rows for rows, _ in notes)

    def backward(self, gradient: torch.Tensor, call: int) -> torch.Tensor:
        """The gradient in the masks of an earlier call, (R, N), from that in its values, (R, b); once for each call."""
        def part():
            if call not in self.graphs:
                raise RuntimeError("on several processes a gradient can be taken but once, also with retain_graph=True")
            found, leaf, where = self.graphs.pop(call)
            return torch.zeros_like(leaf) if found is None else torch.autograd.grad(found, leaf, gradient[where])[0], None

        return self.team.summed(self._tried(part)[0].contiguous())


class Served:
    """`Runs` of a trace whose prompts lie on all ranks; rank 0 has it. The same questions give the same answers."""

    def __init__(self, team: Team, model: LanguageModel, examples: tuple[Example, ...], metric, work: Work, **how):
        if model not in team.models:
            raise InputError(f"model {model.name!r} is on this process alone; save it into a folder and load it with load_model, which "
                             "loads it on all of them")
        self.team, self.work, self.number, self._prepared = team, work, next(team.numbers), set()
        self.processes, self.here = team.size, team.here
        metric = ranks.packed(metric)
        examples = tuple(replace(e, number=i) if e.number is None else e for i, e in enumerate(examples))  # errors name them so
        weakref.finalize(self, team.forget, "trace", self.number)
        team.order("trace", trace=self.number, model=team.models[model], examples=examples, metric=metric, options=how)
        self.part, _ = team.tried(lambda: (Part(team, model, examples, metric, how), None))
        self.sides, self.passes, self.batch_rows = self.part.runs.sides, self.part.runs.passes, self.part.runs.batch_rows

    def side(self, reverse: bool = False) -> Side:
        """That of rank 0's own prompts."""
        return self.part.runs.side(reverse)

    def prepare(self, reverse: bool = False) -> None:
        """Records the values to put in, on all ranks at once."""
        if reverse not in self._prepared:
            self.team.order("prepare", trace=self.number, reverse=reverse)
            self.work.forwards += self.part.prepare(reverse)
            self._prepared.add(reverse)

    def values(self, masks: torch.Tensor | None, examples: np.ndarray | None = None, reverse: bool = False, at: torch.Tensor | None = None,
               read: Callable[[Said], torch.Tensor] | None = None) -> torch.Tensor:
        """As in `Runs`; the rows that all ranks run to record values are counted here."""
        if masks is not None:
            self.prepare(reverse)
            if masks.requires_grad and torch.is_grad_enabled():
                return _Through.apply(masks, self, examples, reverse, at)
        return self.ask(masks, examples, reverse, at, read)

    def ask(self, masks, examples, reverse, at, read=None, call: int | None = None) -> torch.Tensor:
        """The order behind `values`; masks without a gradient."""
        shape = None if masks is None else (masks.shape, masks.dtype)
        self.team.order("values", trace=self.number, masks=shape, examples=examples, reverse=reverse, at=None if at is None else at.cpu(),
                        read=read, call=call)
        if masks is not None:
            masks = self.team.shared(masks.contiguous())
        found, recorded = self.part.values(masks, examples, reverse, at, read, call)
        self.work.forwards += recorded
        return found

    def back(self, gradient: torch.Tensor, call: int) -> torch.Tensor:
        self.team.order("backward", trace=self.number, gradient=(gradient.shape, gradient.dtype), call=call)
        return self.part.backward(self.team.shared(gradient.contiguous()), call)

    def drop(self, call: int) -> None:
        """Nobody can ask for this gradient any more."""
        if self.part.graphs.pop(call, None):
            self.team.forget("graph", self.number, call)


class _Call:
    """Lives as long as the graph of a call."""


class _Through(torch.autograd.Function):
    """Values on all ranks with a gradient: each goes back through its own prompts."""

    @staticmethod
    def forward(ctx, masks, served, examples, reverse, at):
        ctx.served, ctx.number, ctx.call = served, next(served.team.numbers), _Call()
        found = served.ask(masks.detach(), examples, reverse, at, call=ctx.number)
        weakref.finalize(ctx.call, served.drop, ctx.number)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return ctx.served.back(gradient, ctx.number), None, None, None, None


def serve(team: Team) -> None:
    """Does what rank 0 orders until it has ended. Raises Lost if it ended without a word."""
    keep_freed_memory()
    models, parts = {}, {}

    def received(like, model: LanguageModel):
        return None if like is None else team.shared(torch.empty(like[0], dtype=like[1], device=model.device))

    def load(number: int, **how) -> None:  # rank 0 alone reads text
        models[number], _ = team.tried(lambda: (load_model(**how, tokenizer=object()), None))

    def trace(trace: int, model: int, examples, metric: bytes, options: dict) -> None:
        parts[trace], _ = team.tried(lambda: (Part(team, models[model], examples, metric, options), None))

    def values(trace: int, masks, at, **how) -> None:
        part = parts[trace]
        part.values(received(masks, part.model), at=None if at is None else at.to(part.model.device), **how)

    def backward(trace: int, gradient, call: int) -> None:
        parts[trace].backward(received(gradient, parts[trace].model), call)

    does = dict(model=load, trace=trace, prepare=lambda trace, reverse: parts[trace].prepare(reverse), values=values, backward=backward)
    while True:
        what, how, gone = team.heard()
        for kind, number, *call in gone:
            if kind != "graph":
                (models if kind == "model" else parts).pop(number, None)
            elif number in parts:
                parts[number].graphs.pop(*call, None)
        if what == "stop":
            return
        try:
            does[what](**how)
        except PartFailed:  # rank 0 says so
            pass


def join_ranks() -> bool:
    """Puts the processes that torchrun started together: from here on rank 0 traces with the help of all.

    Returns True in rank 0, and where there is but one process; the other ranks help until rank 0 has ended, and then get False.
    Models must be loaded by `load_model` afterwards, from a path that is the same for all. What rank 0 does with them goes on as on one
    process: prompts are shared out, effects and gradients are summed. Exits with status 1 where rank 0 dies. Raises `ranks.Lost` where
    the processes do not find each other.

        >>> mct.join_ranks()  # one process: nothing to join
        True
    """
    if ranks.my_rank() is None:
        return True
    if ranks.my_rank() == 0:
        ranks.lead(Team())
        return True
    for number in (signal.SIGINT, signal.SIGTERM):  # a handler of Python's would have to wait until rank 0 says something
        signal.signal(number, signal.SIG_DFL)
    try:
        team = Team()
        serve(team)
        team.leave()
    except Lost as error:
        time.sleep(LINGER)
        print(f"mctrace_nb: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # nothing here is worth tidying up, and connections that are broken might not close
    return False
