"""Explorers for notebooks: a pure core that computes, and a view of it made of traits only."""

from __future__ import annotations

import warnings
from base64 import b64encode
from functools import cache
from html import escape
from typing import Callable

import ipywidgets as ipy

from mctrace_nb.components import KINDS
from mctrace_nb.cost import METHODS, duration
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.metrics import TRANSFORMS
from mctrace_nb.models import DTYPES
from mctrace_nb.plots import Figure, trajectories
from mctrace_nb.published import SIZES
from mctrace_nb.relax import SCHEDULES, pgb
from mctrace_nb.sides import CACHES
from mctrace_nb.sizing import costs, memory_bars, published_skeleton


class Explorer:
    """Controls, a line of words and a picture; in a saved notebook the picture with its description remains.

    controls: an ipywidgets control for each parameter of `compute`. compute: a function of the parameters, which are values
    that can be told apart by `==`, to a pair of words and a Figure. Equal parameters are computed once. Bad input is said in
    place of the words and the last picture stays; other errors are raised.
    """

    def __init__(self, controls: dict[str, ipy.Widget], compute: Callable[..., tuple[str, Figure]]):
        self.controls, self.compute = controls, cache(compute)
        self.words, self.picture = ipy.HTML(), ipy.HTML()
        self.figure: Figure | None = None
        for control in controls.values():
            control.style.description_width = "9em"
            control.layout.width = "24em"
            control.observe(self.refresh, names="value")
        self.view = ipy.VBox([ipy.GridBox(list(controls.values()), layout=ipy.Layout(
            grid_template_columns="repeat(auto-fit, minmax(24em, 1fr))")), self.words, self.picture])
        self.refresh()

    @property
    def parameters(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self, _=None) -> None:
        """Computes and shows what the controls ask for."""
        self.words.value = '<p role="status">computing ...</p>'
        try:
            words, self.figure = self.compute(**self.parameters)
        except InputError as error:
            self.words.value = f'<p role="alert"><b>This does not work:</b> {escape(str(error))}</p>'
            return
        except Exception:
            self.words.value = '<p role="alert"><b>An error occurred</b>; it is written in the log.</p>'
            raise
        self.words.value = f'<p role="status">{escape(words)}</p>'
        self.picture.value = (f'<img style="max-width: 100%; height: auto" alt="{escape(self.figure.text)}" '
                              f'src="data:image/png;base64,{b64encode(self.figure.png).decode()}">')

    def _repr_mimebundle_(self, include=None, exclude=None):
        view = self.view._repr_mimebundle_(include=include, exclude=exclude)
        view = view[0] if isinstance(view, tuple) else view
        data, metadata = self.figure._repr_mimebundle_() if self.figure else ({"text/plain": repr(self)}, {})
        return {**view, **data}, metadata

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"


def menu(name: str, options) -> ipy.Dropdown:
    return ipy.Dropdown(options=list(options), description=name)


def slider(name: str, value: int, low: int, high: int, step: int = 1) -> ipy.IntSlider:
    return ipy.IntSlider(value, low, high, step, description=name, continuous_update=False)


def _started(controls: dict[str, ipy.Widget], start: dict) -> dict[str, ipy.Widget]:
    """The controls at the values they are to start with. Raises InputError for an unknown control or value."""
    for name, value in start.items():
        if name not in controls:
            raise InputError(f"unknown control {name!r} (there are: {', '.join(controls)})")
        try:
            controls[name].value = value
        except Exception:  # traitlets raises its own error, of several lines
            raise InputError(f"{name}={value!r} is not a value of this control") from None
    return controls


def _count(number: int) -> str:
    return f"{number:,}" if number < 10 ** 12 else f"{number:.0e}"


class CostCalculator(Explorer):
    """What a run on a real model would take, from its published sizes: components, rows, memory and time, with no weights.

    limit: a line in the picture, in GiB. Other arguments are the values that the controls start with: see `costs`.
    Raises InputError for a model whose sizes are not in `published.SIZES`, or a value that a control does not have.
    """

    def __init__(self, limit: float = 8, **start):
        controls = dict(
            model=menu("model", SIZES), kind=menu("kind", [k for k in KINDS if k != "residual"]), method=menu("search", METHODS),
            dtype=menu("numbers", DTYPES), cache=menu("cached values", CACHES), n=slider("prompts", 64, 2, 1024, 2),
            tokens=slider("tokens a prompt", 16, 4, 256, 4), budget=slider("budget", 4, 1, 20),
            batch_rows=slider("rows (0: auto)", 0, 0, 1024, 16))
        controls["method"].value = "greedy"
        self.limit = limit
        super().__init__(_started(controls, start), self.calculate)

    def calculate(self, model: str, kind: str, **options) -> tuple[str, Figure]:
        """Words on one kind, and the picture of all kinds."""
        every = costs(model, **options)
        cost = every[kind]
        rows = sum(cost.rows.values())
        words = (f"{kind}: {len(published_skeleton(model, options['dtype']).layers)} layers, {cost.components:,} components; {_count(rows)} rows in "
                 f"about {_count(cost.passes)} forward passes; about {duration(cost.minutes)} on this machine's CPU; memory "
                 f"{(cost.memory.weights + cost.memory.run) / 2 ** 30:.2f} GiB beside Python itself.")
        return words, memory_bars(every, self.limit, f"{model}, {options['n']} prompts")


class LambdaExplorer(Explorer):
    """PGB-CT optimised anew at every move of a slider: the course of the mask, what it keeps and what that does.

    trace: whose components are relaxed. budget: where the run may stop, as in `pgb`; None runs all epochs. Other arguments are
    the values that the controls start with. Raises InputError for a metric without a gradient, or a value that a control does
    not have.
    """

    def __init__(self, trace: Effects, budget: int | None = None, **start):
        if not trace.metric.differentiable:
            raise InputError(f"metric {trace.metric.name!r} has no gradient to move a mask by (use 'log_odds')")
        self.trace, self.budget = trace, budget

        def penalty(name):
            options = [0, *(round(m * 10.0 ** e, 6) for e in range(-4, 0) for m in (1, 2, 5)), 1]
            return ipy.SelectionSlider(options=options, value=0.05, description=name, continuous_update=False)

        transforms = ["log"] if trace.transform == "log" else list(TRANSFORMS)  # not every metric is a ratio
        controls = dict(lambda1=penalty("sparsity, lambda1"), lambda2=penalty("binary, lambda2"), schedule=menu("penalties grow", SCHEDULES),
                        lr=ipy.SelectionSlider(options=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5], value=0.1, description="learning rate",
                                               continuous_update=False),
                        transform=menu("transform", transforms), epochs=slider("epochs", 15, 1, 40), seed=slider("seed", 0, 0, 9))
        super().__init__(_started(controls, start), self.optimise)

    def optimise(self, **settings) -> tuple[str, Figure]:
        """Words on what is kept, and the picture of the course."""
        with warnings.catch_warnings():  # a budget that was not reached is seen in the picture
            warnings.simplefilter("ignore")
            found = pgb(self.trace, self.budget, progress=False, **settings)
        last, kept = found.history[-1], ", ".join(found.components[:12]) or "nothing"
        more = f" and {found.size - 12} more" if found.size > 12 else ""
        words = (f"After {last['epoch']} epochs {found.size} of {len(self.trace.components)} components are kept: {kept}{more}. Relaxed, the "
                 f"mask has an effect of {last['relaxed_effect']:.2f}, rounded {found.effect:.2f} {self.trace.metric.unit}; distance from "
                 f"binary {last['violation']:.2f}.")
        return words, trajectories(found, self.trace.components.labels)
