"""What sharing the lower layers saves: the effects of all single heads, and a step of greedy search.

At best sum(l + 1) / 12 N = 0.55 of the layers' work is left of N masks of one head in each of 12 layers. Answers of one token need
the logits of two words; answers of several need whole rows of logits to be scored, a third of a forward pass of GPT-2
small, which no two masks can share.
"""

from __future__ import annotations

from typing import Iterator
from unittest.mock import patch

import torch

from mctrace_nb import passes
from mctrace_nb.bench.limit import layouts
from mctrace_nb.bench.shapes import gpt2_small, medians, professions_shaped, winobias_shaped
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace


def measure(quick: bool) -> Iterator[dict]:
    """All single heads of a 12-layer model against that many forward passes of the stock model on the same rows, in batches as
    large; and against the kit's own passes from the first layer to the last."""
    words = 2_000 if quick else 50_257
    lm = gpt2_small(width=256 if quick else 768, words=words)
    shapes = ((professions_shaped(words, 8), "answers of one token", 0.6), (winobias_shaped(words), "of several", None))
    for task, what, bar in shapes[:1] if quick else shapes:
        trace = Trace(lm, Task(task.name, task.search[:8]), "head_output")
        trace.prepare()
        n = len(trace.components)
        singles, chosen = torch.eye(n), torch.zeros(n)
        chosen[torch.randperm(n, generator=torch.Generator().manual_seed(0))[:7]] = 1
        at_once = max(1, trace.batch_rows // len(trace))
        passes_needed = n / at_once
        with torch.no_grad():
            ways = {name: [group.repeated(at_once) for group in groups] for name, groups in layouts(lm, trace.side().rows).items()}
            stock = min(medians(2, *(lambda groups=groups: [group.forward() for group in groups] for groups in ways.values())))

        def unshared(masks):
            with patch.object(passes, "can_skip", lambda lm: False):
                return trace.effects(masks)

        apart = float((unshared(singles) - trace.effects(singles)).abs().max())
        shared, whole, greedy, greedy_whole = medians(
            2 if quick or bar is None else 5, lambda: trace.effects(singles), lambda: unshared(singles),
            lambda: trace.effects(torch.maximum(singles, chosen)), lambda: unshared(torch.maximum(singles, chosen)))
        yield dict(name=f"all {n} single heads, {what} / so many forwards of the stock model", value=shared / (stock * passes_needed),
                   bar=None if quick else bar)  # in a small model passes over few tokens weigh more
        yield dict(name=f"all {n} single heads, {what} / the kit's whole forwards", value=shared / whole)
        yield dict(name=f"a step of greedy, 7 heads chosen, {what} / the kit's whole forwards", value=greedy / greedy_whole)
        yield dict(name=f"all {n} single heads, {what}: largest difference in nats", value=apart, bar=1e-4)
