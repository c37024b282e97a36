"""Many masks at once on the tutorial model, and how long a learner waits for a slider."""

from __future__ import annotations

from itertools import combinations
from typing import Iterator

import torch

from mctrace_nb.bench.limit import layouts, step
from mctrace_nb.bench.shapes import medians
from mctrace_nb.grammar import BEHAVIOURS
from mctrace_nb.models import load_model
from mctrace_nb.relax import relax, settings_grid
from mctrace_nb.search import mean_effects
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace
from mctrace_nb.widgets import LambdaExplorer


def measure(quick: bool) -> Iterator[dict]:
    """Masks together against one by one and against the stock model; all subsets; 16 settings at once; a slider."""
    lm, repeats = load_model("tutorial", device="cpu"), 3 if quick else 7
    traces = {b: Trace(lm, load_task(b, lm, 64), "head_output") for b in (BEHAVIOURS[1:2] if quick else BEHAVIOURS)}
    n, generator = len(lm.layers) * lm.heads, torch.Generator().manual_seed(0)
    every = [s for size in range(n + 1) for s in combinations(range(n), size)]
    took = {b: medians(1, lambda trace=trace: mean_effects(trace, every, len(every)))[0] for b, trace in traces.items()}
    slowest = max(took, key=took.get)
    yield dict(name=f"seconds for all {len(every):,} subsets x 32 prompts, slowest task ({slowest})", value=took[slowest], bar=10.0)

    trace = traces[slowest]
    rows, masks, one = trace.side().rows, torch.rand(64, n, generator=generator), [0]
    together, apart = medians(repeats, lambda: trace.effects(masks.round(), examples=one), lambda: [trace.effects(m, examples=one) for m in masks.round()])
    yield dict(name="64 masks x 1 prompt: one by one / together", value=apart / together, bar=10.0, sense=">=")
    with torch.no_grad():
        ways = {name: [group.repeated(64) for group in groups] for name, groups in layouts(lm, rows).items()}
        stock = medians(repeats, *(lambda groups=groups: [group.forward() for group in groups] for groups in ways.values()))
        best = min(zip(stock, ways))[1]
        soft, binary, plain = medians(repeats, lambda: trace.effects(masks), lambda: trace.effects(masks.round()),
                                      lambda: [group.forward() for group in ways[best]])
    yield dict(name=f"64 soft masks x 32 prompts / the stock model's forward pass on those rows ({best})", value=soft / plain, bar=1.15)
    yield dict(name="64 binary masks x 32 prompts / the same", value=binary / plain)

    settings = settings_grid(lambda1=[0.0, 1e-3, 0.01, 0.1], lambda2=[0.0, 0.01], seed=[0, 1])
    ways = {name: [group.repeated(16) for group in groups] for name, groups in layouts(lm, rows).items()}
    best = min(zip(medians(repeats, *(lambda groups=groups: step(groups) for groups in ways.values())), ways))[1]
    ours, plain = medians(repeats, lambda: relax(trace, settings, 1, 32, progress=False), lambda: step(ways[best]))
    yield dict(name=f"16 settings x 32 pairs, a step / the stock model's forward and backward on those rows ({best})", value=ours / plain, bar=1.1)
    four = Trace(lm, load_task(slowest, lm, 8), "head_output")
    ours, apart = medians(repeats, lambda: relax(four, settings, 1, 4, progress=False),
                          lambda: [relax(four, [s], 1, 4, progress=False) for s in settings])
    yield dict(name="16 settings x 4 pairs: one by one / together", value=apart / ours, bar=4.0, sense=">=")

    explorer, moves = LambdaExplorer(trace), iter([0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.1, 0.2, 0.5])
    name = "a slider released: seconds to optimise anew over 15 epochs and draw"
    yield dict(name=name, value=medians(repeats, lambda: explorer.controls["lambda1"].set_trait("value", next(moves)))[0], bar=1.0)
    again = iter([0.01, 0.02] * 10)
    yield dict(name="the same from the cache", value=medians(repeats, lambda: explorer.controls["lambda1"].set_trait("value", next(again)))[0], bar=0.3)
