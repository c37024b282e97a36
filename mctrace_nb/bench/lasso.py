"""CircuitLasso beside edge attribution on planted circuits, on the same cases in one run; recovery of linear systems; a planted shortcut.

Twelve cases are for choosing: one threshold for each method (a share of its strongest edge, from the same list), by the mean distance to the
truth over these. Four more were set aside before anything was chosen, and only their result is reported.
"""

from __future__ import annotations

import time
from typing import Iterator, Sequence

import numpy as np
import torch

from mctrace_nb.circuits import Circuit, auroc, recovery
from mctrace_nb.edges import edge_attribution, passes_alone
from mctrace_nb.lasso import Seen, circuit_lasso
from mctrace_nb.lasso.solve import Moments, fista, largest_penalty
from mctrace_nb.planted import Planted, linear_system, plant

CHOOSING = tuple(range(12))
SET_ASIDE = (100, 101, 102, 103)
PAIRS = 1000
THRESHOLDS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
SYSTEMS = 10
REPEATS = 3


def case(seed: int) -> Planted:
    """Every third model has four layers and a larger circuit."""
    return plant(seed, layers=4, most=9) if seed % 3 == 2 else plant(seed)


def _timed(run, repeats: int):
    """A result and the shortest of some times."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
    return found, min(seconds)


def compared(planted: Planted, pairs: int = PAIRS, repeats: int = REPEATS) -> dict[str, tuple[Circuit, float]]:
    """Circuits and seconds by method, all from the same prompts: `eap`, `eap-ig`, CircuitLasso from what components read (`lasso`), and as
    it was published, from what they write (`lasso, writes`), with attention's way between positions (`lasso, moved`). `passes` is what
    the forward and backward passes of `eap-ig` take by themselves."""
    base, other = planted.prompts(pairs)
    first = planted.says(base) > 0
    words = np.where(first, *planted.answers), np.where(first, *planted.answers[::-1])  # foil, target
    pair = (planted.model, base, other, words[1], words[0])

    def lasso(inputs):
        return lambda: circuit_lasso(Seen(planted.model, base, planted.answers, inputs=inputs))

    found = {"eap": _timed(lambda: edge_attribution(*pair, points=0), repeats), "eap-ig": _timed(lambda: edge_attribution(*pair), repeats)}
    found["passes"] = _timed(lambda: passes_alone(*pair), repeats)
    found["lasso"] = _timed(lasso("reads"), repeats)
    found["lasso, writes"] = _timed(lasso("same"), 1)
    found["lasso, moved"] = _timed(lasso("moved"), 1)
    return found
