"""What a study will take: minutes and memory of each run, from estimates that load no weights; and which runs fit side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Iterable

import torch

from mctrace_nb import memory
from mctrace_nb.cost import Cost, duration
from mctrace_nb.errors import InputError
from mctrace_nb.parameters import foresee
from mctrace_nb.progress import bar
from mctrace_nb.study.description import Mistakes
from mctrace_nb.study.grid import Grid, Run

SECONDS_BESIDE = 12.0  # of a run beside its passes: two processes started, a model loaded, figures drawn; measured on the tutorial model
BYTES_BESIDE = 300 << 20  # of a run beside its kernel's estimate: the process that runs the notebook, figures
UNKNOWN_BYTES = 1 << 30  # of a run of another notebook, of which nothing is known
SPARE = 0.9  # of the free memory that runs may take together
SLACK = 1.5  # an estimate may be wrong by so much before a run is ended


@dataclass(frozen=True)
class Forecast:
    """costs: of each run by name, None where nothing is known (another notebook). room: bytes that all runs together may take on the device that
    they run on; workers: how many run at once."""

    costs: dict[str, Cost | None]
    room: int
    workers: int

    def minutes(self, name: str) -> float:
        """Expected minutes of a run."""
        cost = self.costs[name]
        return SECONDS_BESIDE / 60 + (cost.minutes if cost else 0)

    def bytes(self, name: str) -> int:
        """Expected bytes of a run at its peak."""
        cost = self.costs[name]
        return BYTES_BESIDE + (cost.memory.total if cost else UNKNOWN_BYTES)

    def fits(self, name: str, beside: Iterable[str] = ()) -> bool:
        """Whether a run may start beside others."""
        return self.bytes(name) + sum(map(self.bytes, beside)) <= self.room

    def limit(self, name: str) -> int | None:
        """The most bytes of the host's memory that a run may take: its share of the room, or its estimate with some slack; None where it is
        another device's memory that counts."""
        cost = self.costs[name]
        if cost and cost.memory.device.type != "cpu":
            return None
        return max(self.room // self.workers, round(SLACK * self.bytes(name)))

    @cached_property
    def largest(self) -> str:
        return max(self.costs, key=self.bytes)

    def total(self, names: Iterable[str] | None = None) -> float:
        """Expected minutes of some runs, by default all, with all workers."""
        names = list(self.costs if names is None else names)
        at_once = max(1, min(self.workers, self.room // max(self.bytes(self.largest), 1)))
        return max(sum(map(self.minutes, names)) / at_once, max(map(self.minutes, names), default=0))

    def __str__(self) -> str:
        known = [c for c in self.costs.values() if c]
        most = self.bytes(self.largest) / 2 ** 30
        return (f"{len(self.costs):,} runs, about {duration(self.total())} with {self.workers} at once"
                + ("" if known else " (nothing is known of what another notebook takes)")
                + f"; at most {most:.1f} GiB a run ({self.largest}), {self.room / 2 ** 30:.1f} GiB may be taken")


def forecast(grid: Grid, memory_gib: float | None = None, workers: int = 1, progress: bool = True) -> Forecast:
    """Estimates all runs; those that differ only in their seed cost the same.

    Raises Mistakes for runs that cannot be estimated, for they cannot be run: a model or a task that is not found, a budget out of range.
    """
    found, seen, wrong = {}, {}, []
    for run in bar(grid.runs, "estimating", show=progress):
        if grid.notebook is not None:
            found[run.name] = None
            continue
        key = json.dumps({name: value for name, value in run.parameters.items() if name != "seed"})
        if key not in seen:
            try:
                seen[key] = foresee(run.parameters)
            except InputError as error:
                seen[key] = None
                wrong.append((run.line, f"{', '.join(f'{k}={v}' for k, v in run.axes.items() if k != 'seed')}: {error}"))
        found[run.name] = seen[key]
    if wrong:
        raise Mistakes(grid.path, wrong)
    device = next((c.memory.device for c in found.values() if c), torch.device("cpu"))
    room = int(memory_gib * 2 ** 30) if memory_gib else int(SPARE * memory.available(device))
    return Forecast(found, room, workers)


def limit_of(grid: Grid, run: Run, seen: Forecast | None) -> float | None:
    """Bytes at which a run is ended: as the grid says, or as the forecast allows; None for no limit."""
    given = grid.limits["memory_gib"]
    return given * 2 ** 30 if given else seen.limit(run.name) if seen else None
