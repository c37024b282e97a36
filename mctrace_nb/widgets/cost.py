"""What a run would take, by sliders."""

from __future__ import annotations

from mctrace_nb.components import KINDS
from mctrace_nb.cost import METHODS, duration
from mctrace_nb.models import DTYPES
from mctrace_nb.plots import Figure
from mctrace_nb.published import SIZES
from mctrace_nb.sides import CACHES
from mctrace_nb.sizing import costs, memory_bars, published_skeleton
from mctrace_nb.widgets.base import Explorer, menu, slider, started


def _count(number: int) -> str:
    return f"{number:,}" if number < 10 ** 12 else f"{number:.0e}"


class CostCalculator(Explorer):
    """What a run on a real model would take, from its published sizes: components, rows, memory and time, with no weights.

    limit: a line in the picture, in GiB. Other arguments are the values that the controls start with: see `costs`.
    Raises InputError for a model whose sizes are not in `published.SIZES`, or a value that a control does not have.

        >>> explorer = mct.widgets.CostCalculator(limit=8, model="gpt2")
        >>> explorer.parameters
        {'model': 'gpt2', 'kind': 'head_pattern', 'method': 'greedy', 'dtype': 'float32', 'cache': ...
    """

    def __init__(self, limit: float = 8, **start):
        controls = dict(
            model=menu("model", SIZES), kind=menu("kind", [k for k in KINDS if k != "residual"]), method=menu("search", METHODS),
            dtype=menu("numbers", DTYPES), cache=menu("cached values", CACHES), n=slider("prompts", 64, 2, 1024, 2),
            tokens=slider("tokens a prompt", 16, 4, 256, 4), budget=slider("budget", 4, 1, 20),
            batch_rows=slider("rows (0: auto)", 0, 0, 1024, 16))
        controls["method"].value = "greedy"
        self.limit = limit
        super().__init__(started(controls, start), self.calculate)

    def calculate(self, model: str, kind: str, **options) -> tuple[str, Figure]:
        """Words on one kind, and the picture of all kinds."""
        every = costs(model, **options)
        cost = every[kind]
        rows = sum(cost.rows.values())
        words = (f"{kind}: {len(published_skeleton(model, options['dtype']).layers)} layers, {cost.components:,} components; {_count(rows)} rows in "
                 f"about {_count(cost.passes)} forward passes; about {duration(cost.minutes)} on this machine's CPU; memory "
                 f"{(cost.memory.weights + cost.memory.run) / 2 ** 30:.2f} GiB beside Python itself.")
        return words, memory_bars(every, self.limit, f"{model}, {options['n']} prompts")
