"""Desiderata: several traces at once, "move this, keep that", for every search."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Sequence

import numpy as np
import torch

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.sides import Work
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace


class Desiderata(Effects):
    """What a set of components should move, and what it should leave alone (Davies et al. 2023, for variable binding).

    move, keep: traces on one model with the same components. weights: one for each trace, first those of `move`; default 1.
    The effect of a set is `sum_k w_k mean(effect)` over what should move minus `sum_k w_k mean(|effect|)` over what should
    be kept: a kept behaviour counts against the set in whichever direction it moves. `effects` gives the contributions of
    the prompts, all traces one after the other, so that their mean is this sum; searches and intervals work as on a Trace.

    Raises InputError for traces that do not belong together, or weights that are not positive.

        >>> move, keep = (mct.Trace(model, mct.load_task(name, model, n=16), "head_output") for name in ("binding", "binding_operation"))
        >>> both = mct.Desiderata(move, keep)
        >>> print(mct.search(both, "greedy", budgets=[2])[2])
        greedy: {L1H0, L1H3} effect 28.893, held-out 31.564 [25.526, 37.100]
    """

    def __init__(self, move: Trace | Sequence[Trace], keep: Trace | Sequence[Trace] = (), weights: Sequence[float] | None = None):
        moved, kept = ([x] if isinstance(x, Trace) else list(x) for x in (move, keep))
        self.traces, self.kept = [*moved, *kept], [False] * len(moved) + [True] * len(kept)
        if not moved:
            raise InputError("nothing to move; give at least one trace to move, the others to keep")
        first = self.traces[0]
        for other in self.traces[1:]:
            if other.model is not first.model or other.components != first.components:
                raise InputError(f"{other!r} and {first!r} do not share a model and components, so no set belongs to both")
            differ = [name for name in ("split", "corruption", "direction", "positions", "answer_rule")
                      if getattr(other, name) != getattr(first, name)] + ["metric"] * (other.metric.name != first.metric.name)
            if differ:
                raise InputError(f"{other!r} and {first!r} differ in {' and '.join(differ)}, so their effects cannot be weighed "
                                 "against each other")
        self.weights = [1.0] * len(self.traces) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self.traces) or min(self.weights) <= 0:
            raise InputError(f"weights={weights!r} must be {len(self.traces)} positive numbers, one for each trace")
        self.model, self.components, self.metric, self.seed = first.model, first.components, first.metric, first.seed
        self.corruption, self.split, self.direction, self.positions = first.corruption, first.split, first.direction, first.positions
        self.task = self._joined([t.task for t in self.traces])
        self.answer_rule, self.batch_rows = first.answer_rule, first.batch_rows
        sizes = [len(t) for t in self.traces]
        self._start = [sum(sizes[:i]) for i in range(len(sizes))]
        self._factor = [w * sum(sizes) / size for w, size in zip(self.weights, sizes)]
        self.parts = [i * 2 + p for i, t in enumerate(self.traces) for p in (t.parts or [0] * len(t))]

    def _joined(self, tasks: list[Task]) -> Task:
        """All prompts under one name that says what is moved and what is kept."""
        moved, kept = ([t.name for t, k in zip(tasks, self.kept) if k == which] for which in (False, True))
        name = " and ".join(moved) + (f", keeping {' and '.join(kept)}" if kept else "")
        search, heldout = (tuple(e for t in tasks for e in getattr(t, half)) for half in ("search", "heldout"))
        source = "; ".join(dict.fromkeys(t.source for t in tasks if t.source))
        return replace(tasks[0], name=name, search=search, heldout=heldout, source=source, notes=tuple(n for t in tasks for n in t.notes))

    @property
    def transform(self) -> str:
        return "log"  # a kept behaviour that is moved would make the paper's transform grow exponentially

    @cached_property
    def scale(self) -> float:
        """What replacing everything does to the behaviours to move, the unit of the relaxed search's loss."""
        return sum(w * t.scale for t, w, kept in zip(self.traces, self.weights, self.kept) if not kept)

    def __repr__(self) -> str:
        return f"Desiderata(move {self.task.name}: {len(self)} {self.split} prompts, {len(self.components)} components)"

    def __len__(self) -> int:
        return sum(map(len, self.traces))

    @property
    def examples(self) -> tuple:
        return tuple(e for t in self.traces for e in t.examples)

    @property
    def groups(self) -> list[str]:
        """Template groups; groups of the same name in two tasks are drawn together, as they are the same template."""
        return [g or f"{i}:#{j}" for i, t in enumerate(self.traces) for j, g in enumerate(t.groups)]

    @property
    def work(self) -> Work:
        return Work(sum(t.work.forwards for t in self.traces), sum(t.work.backwards for t in self.traces))

    @cached_property
    def heldout(self) -> "Desiderata":
        """The same on the held-out prompts."""
        pairs = list(zip([t.heldout for t in self.traces], self.kept))
        return Desiderata([t for t, k in pairs if not k], [t for t, k in pairs if k], self.weights)

    def check_memory(self, rows: int = 0) -> None:
        for trace in self.traces:
            trace.check_memory(rows)

    def prepare(self) -> None:
        for trace in self.traces:
            trace.prepare()

    def _contribution(self, i: int, effects: torch.Tensor) -> torch.Tensor:
        return (-effects.abs() if self.kept[i] else effects) * self._factor[i]

    def effects(self, masks, examples: torch.Tensor | None = None, reverse: bool = False, scale: str | None = None) -> torch.Tensor:
        """Contributions of the prompts: `(N,)` -> `(n,)` or `(R, N)` -> `(R, n)`; see `Trace.effects`."""
        if examples is None:
            return torch.cat([self._contribution(i, t.effects(masks, None, reverse, scale)) for i, t in enumerate(self.traces)], -1)
        examples = np.asarray(examples.cpu() if isinstance(examples, torch.Tensor) else examples)
        if examples.ndim == 2:  # each mask has its own prompts, and another number of each trace
            return torch.stack([self.effects(m, e, reverse, scale) for m, e in zip(masks, examples)])
        found, places = [], []
        for i, (start, trace) in enumerate(zip(self._start, self.traces)):
            place = ((examples >= start) & (examples < start + len(trace))).nonzero()[0]
            if len(place):
                found.append(self._contribution(i, trace.effects(masks, examples[place] - start, reverse, scale)))
                places.append(place)
        back = torch.as_tensor(np.concatenate(places).argsort()).to(self.model.device, non_blocking=True)
        return torch.cat(found, -1)[..., back]

    def total_effects(self, scale: str | None = None) -> torch.Tensor:
        """Contributions of the prompts to what replacing everything does; what should be kept counts against it."""
        return torch.cat([self._contribution(i, t.total_effects(scale)) for i, t in enumerate(self.traces)])

    def swapped(self, total) -> bool:
        return False  # kept behaviours count against the total, which may well be negative

    def effects_apart(self, chosen) -> dict[str, torch.Tensor]:
        return {", ".join(filter(None, (f"{t.task.name} (to {'keep' if kept else 'move'})", name))): values
                for t, kept in zip(self.traces, self.kept) for name, values in t.effects_apart(chosen).items()}

    def describe(self, chosen) -> str:
        return "; ".join(f"{row.task}, to {row.wish}: {row.effect:.2f} of {row.total_effect:.2f} {self.metric.unit}"
                         for row in self.table(chosen).itertuples())

    def table(self, chosen):
        """A frame of what a set does to each behaviour: task, wish, weight, effect, its interval, and the total effect."""
        import pandas as pd

        rows = []
        for trace, kept, weight in zip(self.traces, self.kept, self.weights):
            e = trace.indirect_effect(chosen)
            rows.append(dict(task=trace.task.name, wish="keep" if kept else "move", weight=weight, effect=e.mean, ci_low=e.low,
                             ci_high=e.high, total_effect=float(trace.total_effects().mean())))
        return pd.DataFrame(rows)
