"""What a trace really takes, measured beside what was expected, and the pictures of both."""

from __future__ import annotations

import math
import time
import weakref
from functools import cache as remembered
from typing import Sequence

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mctrace_nb.components import KINDS
from mctrace_nb.cost import LIBRARIES, Cost, Memory, estimate, seconds_for
from mctrace_nb.layout import LanguageModel
from mctrace_nb.models import DTYPES, skeleton
from mctrace_nb.plots import INK, LINES, Figure, canvas_of
from mctrace_nb.published import published_config
from mctrace_nb.tracing import Trace

__all__ = ["cost_table", "costs", "fitted", "measure", "measured_and_expected", "memory_bars"]

PARTS = {"weights": "#0072B2", "cache": "#E69F00", "prefix": "#CC79A7", "forward": "#56B4E9", "backward": "#D55E00"}
SAID = {"cache": "cached values", "forward": "forward pass", "backward": "backward pass"}
HATCHES = {"weights": "", "cache": "///", "prefix": "xx", "forward": "...", "backward": "\\\\"}


@remembered
def published_skeleton(model: str, dtype: str) -> LanguageModel:
    """The layout of a model with published sizes, without weights."""
    return skeleton(published_config(model), DTYPES[dtype])


def costs(model: str, n: int = 64, tokens: int = 16, method: str = "greedy", budget: int = 8, dtype: str = "float32",
          cache: str = "device", batch_rows: int = 0) -> dict[str, Cost]:
    """The cost of a run for each kind of component, on the CPU: see `estimate`. model: a name of `published.SIZES`.

    n: search prompts; tokens: of a prompt; budget: the search goes from 1 to it, or to all components there are; batch_rows:
    0 leaves it to the kit. Raises InputError for a model without published sizes.

        >>> mct.sizing.costs("gpt2", n=8, budget=2)["head_output"].rows
        {'greedy': 2296}
    """
    lm = published_skeleton(model, dtype)
    most = {kind: min(budget, len(lm.components(kind))) for kind in KINDS if kind != "residual"}
    return {kind: estimate(lm, components=kind, n=n, tokens=tokens, methods=method, budgets=range(1, last + 1),
                           batch_rows=batch_rows or None, cache=cache, dtype=dtype) for kind, last in most.items()}


def cost_table(models: Sequence[str], **options):
    """A frame of the cost of a run, a row for each model and kind of component: components, rows, memory of the weights and of
    the run beside them in GiB, and minutes on this machine's CPU. options: as for `costs`.

        >>> mct.sizing.cost_table(["gpt2"], n=8, budget=2).iloc[:, :3].round(2)
          model          kind  components
        0  gpt2  head_pattern         144
        1  gpt2   head_output         144
        2  gpt2    attn_block          12
        3  gpt2    mlp_neuron       36864
        4  gpt2    mlp_output        9216
        5  gpt2     mlp_block          12
    """
    import pandas as pd

    return pd.DataFrame([dict(model=model, kind=kind, components=cost.components, rows=sum(cost.rows.values()),
                              weights_gib=cost.memory.weights / 2 ** 30, run_gib=cost.memory.run / 2 ** 30, minutes=cost.minutes)
                         for model in models for kind, cost in costs(model, **options).items()])


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive inside the context; `peak` is the most there were at once."""

    now = peak = 0

    def __init__(self):
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        inputs = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                place = storage.data_ptr()
                if place not in self.seen and place not in inputs:  # not a view of what was there before
                    self.seen.add(place)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, place, storage.nbytes())
        return made

    def _gone(self, place: int, size: int) -> None:
        if place in self.seen:
            self.seen.discard(place)
            self.now -= size


def measure(trace: Trace, masks: Sequence[int] = (8, 32, 128, 256), seed: int = 0):
    """A frame of what so many random soft masks take: model, components, masks, rows (masks x prompts), seconds and mib, the most
    memory that tensors took at once beside the weights and what the trace keeps, and what was expected of both.

    The values to put in are recorded first and not counted. Times vary from run to run; memory does not.

        >>> mct.measure(trace, masks=[8])[["components", "masks", "rows"]]
           components  masks  rows
        0          12      8    64
    """
    import pandas as pd

    trace.prepare()
    shape, lm, n = trace.shape, trace.model, len(trace)
    generator = torch.Generator().manual_seed(seed)
    trace.effects(torch.zeros(1, len(trace.components)))  # the first call of anything is slower
    found = []
    for count in masks:
        drawn = torch.rand(count, len(trace.components), generator=generator)  # soft, so that no two share a layer
        seconds = math.inf
        for _ in range(2):  # the better of two: others may be at work on the machine
            start = time.perf_counter()
            trace.effects(drawn)
            seconds = min(seconds, time.perf_counter() - start)
        with Alive() as alive:
            trace.effects(drawn)
        needed = count * n
        expected = Memory.of(lm, trace.components.kinds, shape, trace.corruption, trace.cache, min(trace.batch_rows, needed))
        beside_tensors = LIBRARIES * (lm.device.type == "cpu")
        found.append(dict(model=f"{len(lm.layers)} layers x {lm.heads} heads", components=len(trace.components), masks=count,
                          rows=count * n, seconds=seconds,
                          expected_seconds=seconds_for(lm, shape, count * n, math.ceil(needed / trace.batch_rows)),
                          mib=alive.peak / 2 ** 20, expected_mib=(expected.forward - beside_tensors) / 2 ** 20))
    return pd.DataFrame(found)


def fitted(measured):
    """A frame of straight lines through the seconds of `measure`, a row a model: milliseconds a row measured and expected, and
    `scan_seconds`, what replacing each component alone would take on as many prompts.

        >>> mct.sizing.fitted(mct.measure(trace, masks=[2, 8])).columns.tolist()
        ['model', 'components', 'ms_a_row', 'expected_ms_a_row', 'scan_seconds']
    """
    import pandas as pd

    found = []
    for name, part in measured.groupby("model", sort=False):
        slope, expected = (np.polyfit(part["rows"], part[column], 1)[0] for column in ("seconds", "expected_seconds"))
        prompts = part["rows"].iloc[0] // part["masks"].iloc[0]
        found.append(dict(model=name, components=part["components"].iloc[0], ms_a_row=1000 * slope,
                          expected_ms_a_row=1000 * expected, scan_seconds=slope * prompts * part["components"].iloc[0]))
    return pd.DataFrame(found)


def measured_and_expected(measured) -> Figure:
    """Seconds and memory against rows from `measure`, a line a model; dashed what was expected.

        >>> print(mct.sizing.measured_and_expected(mct.measure(trace, masks=[2, 8])))
        Two line charts, of seconds and of memory, against 16 to 64 rows; measured and, dashed, expected. ...
    """
    canvas, axes = canvas_of(7.5, 5.2, rows=2, sharex=True)
    for (name, part), (colour, marker) in zip(measured.groupby("model", sort=False), LINES):
        for axis, column in zip(axes, ("seconds", "mib")):
            axis.plot(part["rows"], part[column], color=colour, marker=marker, lw=1.8, label=name)
            axis.plot(part["rows"], part[f"expected_{column}"], color=colour, lw=1.2, ls="--", label="expected")
    axes[0].set(xscale="log", yscale="log", ylabel="seconds")
    axes[1].set(ylim=0, ylabel="MiB at the peak", xlabel="rows: masks x prompts")
    rows = sorted(measured["rows"].unique())
    axes[1].set_xticks(rows, [f"{r:,}" for r in rows], minor=False)
    axes[1].minorticks_off()
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ends = "; ".join(f"{name}: {part['seconds'].iloc[0]:.2f} to {part['seconds'].iloc[-1]:.2f} s, {part['mib'].iloc[0]:.0f} to "
                     f"{part['mib'].iloc[-1]:.0f} MiB" for name, part in measured.groupby("model", sort=False))
    return Figure(canvas, f"Two line charts, of seconds and of memory, against {rows[0]} to {rows[-1]:,} rows; measured and, dashed, "
                          f"expected. {ends}.")


def memory_bars(costs: dict[str, Cost], cap: float = 0, title: str = "") -> Figure:
    """The parts of the memory of a run, a bar for each name; cap: a limit in GiB, drawn as a line (0: none).

        >>> print(mct.sizing.memory_bars(mct.sizing.costs("gpt2", n=8, budget=2), cap=8))
        Stacked bars of the memory of a run, in parts, for head_pattern, head_output, attn_block, ...
    """
    canvas, (axis,) = canvas_of(7.5, 0.42 * len(costs) + 1.5)
    left = np.zeros(len(costs))
    for part, colour in PARTS.items():
        width = np.array([getattr(cost.memory, part) for cost in costs.values()]) / 2 ** 30
        axis.barh(range(len(costs)), width, left=left, color=colour, hatch=HATCHES[part], edgecolor="white", lw=0.5, height=0.7,
                  label=SAID.get(part, part))
        left += width
    if cap:
        axis.axvline(cap, color=INK, ls="--", lw=1.2)
        axis.annotate(f"limit, {cap:g} GiB", (cap, 1.01), xycoords=("data", "axes fraction"), ha="right", va="bottom", fontsize=8)
    axis.set_yticks(range(len(costs)), list(costs))
    axis.set_title(title, loc="left", fontsize=10, pad=16 if cap else 6)  # the limit's name lies between
    axis.set(xlabel="GiB", ylim=(len(costs) - 0.4, -0.6), xlim=(0, 1.05 * max(*left, cap)))
    axis.grid(axis="y", visible=False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    most = max(costs, key=lambda name: left[list(costs).index(name)])
    over = [name for name, total in zip(costs, left) if cap and total > cap]
    fits = f" Above the limit of {cap:g} GiB: {', '.join(over) or 'none'}." if cap else ""
    return Figure(canvas, f"Stacked bars of the memory of a run, in parts, for {', '.join(costs)}: most for {most} with "
                          f"{left.max():.2f} GiB, {getattr(costs[most].memory, 'weights') / 2 ** 30:.2f} of it weights.{fits}")
