"""How fast: the enumeration of all subsets, and many masks at once against one at a time."""

from __future__ import annotations

import statistics
import time
from itertools import combinations
from typing import Iterator

import torch

from mctrace_nb.grammar import BEHAVIOURS
from mctrace_nb.models import load_model
from mctrace_nb.search import mean_effects
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace


def seconds(run, repeats: int = 1) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(quick: bool) -> Iterator[dict]:
    """All 4,096 subsets of the tutorial heads on 32 prompts, per behaviour; 64 masks together against one by one."""
    model = load_model("tutorial", device="cpu")
    traces = {b: Trace(model, load_task(b, model, 64), "head_output") for b in (BEHAVIOURS[-1:] if quick else BEHAVIOURS)}
    n = 12
    every = [s for size in range(n + 1) for s in combinations(range(n), size)]
    slowest = 0.0
    for behaviour, trace in traces.items():
        took = seconds(lambda: mean_effects(trace, every, len(every)))
        slowest = max(slowest, took)
        yield dict(name=f"seconds for all {len(every):,} subsets x 32 prompts, {behaviour}", value=took)
    yield dict(name="seconds for all subsets, slowest behaviour (two cores)", value=slowest, bar=20.0)
    trace = next(iter(traces.values()))
    masks = torch.rand(64, n, generator=torch.Generator().manual_seed(0)).round()
    one = torch.tensor([0])
    repeats = 3 if quick else 7
    together = seconds(lambda: trace.effects(masks, examples=one), repeats)
    apart = seconds(lambda: [trace.effects(m, examples=one) for m in masks], repeats)
    yield dict(name="64 masks x 1 prompt: one by one / together", value=apart / together)
