"""The quality table on five other training runs of the tutorial model: the shipped one was chosen, these were not.

Each is trained with the same recipe and another seed, about eleven minutes on one core, and kept in `build/seeds`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

from mctrace_nb.bench.search import bars, quality
from mctrace_nb.grammar import TASKS
from mctrace_nb.models import load_model

TRAINED = (1, 2, 3, 4, 5)
FOLDER = Path("build/seeds")
PROMPTS = (7,)
METHODS = ("exhaustive", "guided", "greedy", "top-k", "pgb", "pgb-published", "random")


def trained(seed: int):
    """The tutorial model of a training seed, trained now if it is not there."""
    folder = FOLDER / str(seed)
    if not folder.exists():
        from mctrace_nb.tutorial import Recipe, train, write

        start = time.time()
        write(folder, Recipe(seed=seed), *train(Recipe(seed=seed)), time.time() - start)
    return load_model(str(folder), device="cpu")


def measure(quick: bool) -> Iterator[dict]:
    """Tables and summaries, one for each training seed and one for all; `quick`: the first seed, one task and kind."""
    import pandas as pd

    every = []
    for seed in TRAINED[:1] if quick else TRAINED:
        found = quality(trained(seed), TASKS[:1] if quick else TASKS, ("head_output",) if quick else ("head_output", "head_pattern"), PROMPTS,
                        range(1, 9), METHODS)
        every.append(found.assign(kind=found["kind"] + f" of model {seed}"))
        yield from bars(found, f"trained with seed {seed}", judged=False)
    yield from bars(pd.concat(every), f"all {len(every)} training runs")
