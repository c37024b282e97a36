"""Explorers for notebooks: a pure core that computes, and a view of it made of traits only."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from html import escape
from typing import Callable

import ipywidgets as ipy

from mctrace_nb.components import KINDS
from mctrace_nb.cost import METHODS, duration
from mctrace_nb.errors import InputError
from mctrace_nb.models import DTYPES
from mctrace_nb.plots import Figure
from mctrace_nb.published import SIZES
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


def _count(number: int) -> str:
    return f"{number:,}" if number < 10 ** 12 else f"{number:.0e}"


class CostCalculator(Explorer):
    """What a run on a real model would take, from its published sizes: components, rows, memory and time, with no weights.

    limit: a line in the picture, in GiB. Other arguments are the values that the controls start with: see `costs`.
    Raises InputError for a model whose sizes are not in `published.SIZES`, or a value that a control does not have.
    """

    def __init__(self, limit: float = 8, **start):
        def menu(name, options):
            return ipy.Dropdown(options=list(options), description=name)

        def slider(name, value, low, high, step=1):
            return ipy.IntSlider(value, low, high, step, description=name, continuous_update=False)

        controls = dict(
            model=menu("model", SIZES), kind=menu("kind", [k for k in KINDS if k != "residual"]), method=menu("search", METHODS),
            dtype=menu("numbers", DTYPES), cache=menu("cached values", CACHES), n=slider("prompts", 64, 2, 1024, 2),
            tokens=slider("tokens a prompt", 16, 4, 256, 4), budget=slider("budget", 4, 1, 20),
            batch_rows=slider("rows (0: auto)", 0, 0, 1024, 16))
        controls["method"].value = "greedy"
        for name, value in start.items():
            if name not in controls:
                raise InputError(f"unknown control {name!r} (there are: {', '.join(controls)})")
            try:
                controls[name].value = value
            except Exception:  # traitlets raises its own error, of several lines
                raise InputError(f"{name}={value!r} is not a value of this control") from None
        self.limit = limit
        super().__init__(controls, self.calculate)

    def calculate(self, model: str, kind: str, **options) -> tuple[str, Figure]:
        """Words on one kind, and the picture of all kinds."""
        every = costs(model, **options)
        cost = every[kind]
        rows = sum(cost.rows.values())
        words = (f"{kind}: {len(published_skeleton(model, options['dtype']).layers)} layers, {cost.components:,} components; {_count(rows)} rows in "
                 f"about {_count(cost.passes)} forward passes; about {duration(cost.minutes)} on this machine's CPU; memory "
                 f"{(cost.memory.weights + cost.memory.run) / 2 ** 30:.2f} GiB beside Python itself.")
        return words, memory_bars(every, self.limit, f"{model}, {options['n']} prompts")
