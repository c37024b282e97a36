"""How sure the edges of CircuitLasso are: the same regressions on draws of the prompts."""

from __future__ import annotations

import numpy as np
import torch

from mctrace_nb.errors import InputError
from mctrace_nb.lasso.circuit import FRACTION, Problem, circuit_lasso
from mctrace_nb.lasso.data import Seen
from mctrace_nb.progress import bar


def drawn_rows(problem: Problem, rng: np.random.Generator) -> torch.Tensor:
    """Row numbers of as many prompts as there are, drawn with replacement; all rows of a prompt go together."""
    names, member = problem.prompt.unique(return_inverse=True)
    times = torch.as_tensor(rng.multinomial(len(names), np.full(len(names), 1 / len(names)))).to(member.device)
    return torch.arange(len(member), device=member.device).repeat_interleave(times[member])


def edge_stability(seen: Seen, threshold: float = 0.2, draws: int = 20, fraction: float = FRACTION, seed: int = 0, progress: bool = True):
    """Edges of the circuit, or of any draw's, at a threshold: a frame with source, target, strength on all prompts, low and high (95 % percentile
    bootstrap over prompts), and kept, the share of draws with the edge. Copies of one signal show as edges that come and go together.

    Raises InputError for fewer than 2 draws.

        >>> found = mct.planted.twins(confounder=False)
        >>> seen = mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers)
        >>> mct.lasso.edge_stability(seen, draws=2)[["source", "target", "kept"]]
          source  target  kept
        0  embed    L0H3   1.0
        1  embed    L0H1   1.0
        2   L0H1  answer   1.0
        3   L0H3  answer   1.0
    """
    import pandas as pd

    if draws < 2:
        raise InputError(f"draws={draws} is out of range; give at least 2")
    whole, found = circuit_lasso(seen, fraction), []
    for draw in bar(range(draws), "draws of the prompts", show=progress):
        # The same prompts in every regression of a draw.
        found.append(circuit_lasso(seen, fraction, rows=lambda problem: drawn_rows(problem, np.random.default_rng([seed, draw]))))
    number = {name: i for i, name in enumerate(whole.nodes)}
    kept = [c.edges(threshold) for c in found]
    rows = []
    for edge in whole.edges(threshold).union(*kept):
        at = tuple(number[name] for name in edge)
        low, high = np.percentile([c.strength[at] for c in found], [2.5, 97.5])
        rows.append(dict(source=edge[0], target=edge[1], strength=whole.strength[at], low=low, high=high, kept=np.mean([edge in k for k in kept])))
    frame = pd.DataFrame(rows, columns=["source", "target", "strength", "low", "high", "kept"])
    return frame.sort_values(["kept", "strength", "source", "target"], ascending=[False, False, True, True], ignore_index=True)
