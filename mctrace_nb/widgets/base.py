"""What all explorers share: controls, words and a picture made of traits only; a guess that is kept; a computation that waits."""

from __future__ import annotations

import asyncio
import math
import re
from base64 import b64encode
from functools import lru_cache
from html import escape
from typing import Callable, Iterable, Sequence

import ipywidgets as ipy

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.plots import Figure

WAIT = 0.05  # seconds in which a newer request takes the place of an older one
BUSY = '<p role="status" aria-busy="true">computing ...</p>'
KEPT = 64  # pictures
MANY = 200  # entries from which on a name is typed, and not chosen from a list


class Said(str):
    """A sentence that shows as itself, without quotation marks."""

    __repr__ = str.__str__


def beside(guess: float | str, truth: float | str, unit: str = "") -> str:
    """A guess and the truth in one sentence."""
    if isinstance(guess, str) or isinstance(truth, str):
        return f"You guessed {guess}. Measured: {truth}." + (" Right." if guess == truth else "")
    off, of = guess - truth, f" {unit}" if unit else ""
    if abs(off) < 0.005:
        return f"You guessed {guess:g}{of}, and {truth:.2f}{of} was measured."
    return f"You guessed {guess:g}{of}. Measured: {truth:.2f}{of}. The guess is too {'high' if off > 0 else 'low'} by {abs(off):.2f}."


def number(text: str) -> float:
    """A typed number, with a decimal point or comma. Raises InputError for anything else, also for 1,000, which could be either."""
    try:
        found = float("nan" if re.fullmatch(r"\s*-?\d{1,3}(,\d{3})+\s*", text) else text.replace(",", "."))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{text.strip()!r} is not a number; write a guess such as 3.5 or 1200")
    return found


def _alert(message: str) -> str:
    return f'<p role="alert"><b>This does not work:</b> {escape(message)}</p>'


class Explorer:
    """Controls, a line of words and a picture; in a saved notebook the picture with its description remains.

    controls: an ipywidgets control for each parameter of `compute`. compute: a function of the parameters, which are values
    that can be told apart by `==`, to words and a Figure, and, where a subclass `asks` a question, the number that answers it.
    Equal parameters are computed once. In a notebook a computation waits for a moment, and one that is asked for meanwhile
    takes its place. Bad input is said in place of the words and the last picture stays; other errors are raised.

    Where a question is asked, a box lets the learner predict first: the picture then hides until a guess is written, which is kept
    in `guesses` by the parameters (a tuple of name and value) and shown beside the truth.

        >>> import ipywidgets
        >>> def compute(slope):
        ...     return f"a slope of {slope}", mct.plots.lines({"line": ([0, 1], [0, slope])}, "x", "y")
        ...
        >>> explorer = mct.widgets.Explorer({"slope": ipywidgets.IntSlider(3)}, compute)
        >>> explorer.parameters
        {'slope': 3}
    """

    asks = ""
    unit = "nats"

    def __init__(self, controls: dict[str, ipy.Widget], compute: Callable[..., tuple]):
        self.controls, self.compute = controls, lru_cache(KEPT)(compute)
        self.words, self.picture = ipy.HTML(), ipy.HTML()
        self.figure: Figure | None = None
        self.guesses: dict[tuple, float] = {}
        self._waiting: asyncio.TimerHandle | None = None
        for control in controls.values():
            control.style.description_width = "9em"
            control.layout.width = "24em"
            control.observe(self._moved, names="value")
        self.predict = ipy.Checkbox(description="predict first", indent=False, layout=ipy.Layout(width="9em"))
        self.guess = ipy.Text(description="your guess", placeholder="a number, then Enter", continuous_update=False)
        self.predict.observe(self._moved, names="value")
        self.guess.observe(self._guessed, names="value")
        grid = ipy.GridBox(list(controls.values()), layout=ipy.Layout(grid_template_columns="repeat(auto-fit, minmax(24em, 1fr))"))
        self.view = ipy.VBox([grid, *([ipy.HBox([self.predict, self.guess])] if self.asks else []), self.words, self.picture])
        self.refresh()

    @property
    def parameters(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    @property
    def _key(self) -> tuple:
        return tuple(self.parameters.items())

    def _moved(self, _=None) -> None:
        """A control was moved: in a running kernel the work waits until no other message is in front of it."""
        self.words.value = BUSY
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.refresh()
        if self._waiting:
            self._waiting.cancel()
        self._waiting = loop.call_later(WAIT, self.refresh)

    def _guessed(self, _=None) -> None:
        if not self.guess.value.strip():
            return
        try:
            guess = number(self.guess.value)
        except InputError as error:
            self.words.value = _alert(str(error))
            return
        if self.guesses.get(self._key) != guess:  # else the box was set to what is kept
            self.guesses[self._key] = guess
            self._moved()

    def refresh(self) -> None:
        """Computes and shows what the controls ask for."""
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None
        self.guess.value = f"{self.guesses[self._key]:.12g}" if self._key in self.guesses else ""
        if self.predict.value and self._key not in self.guesses:
            self.words.value, self.picture.value = f'<p role="status"><b>Predict:</b> {escape(self.asks)}</p>', ""
            return
        self.words.value = BUSY
        try:
            words, self.figure, *truth = self.compute(**self.parameters)
        except InputError as error:
            self.words.value = _alert(str(error))
            return
        except Exception:
            self.words.value = '<p role="alert"><b>An error occurred</b>; it is written in the log.</p>'
            raise
        if truth and self._key in self.guesses:
            words = f"{beside(self.guesses[self._key], truth[0], self.unit)} {words}"
        self.words.value = f'<p role="status">{escape(words)}</p>'
        self.picture.value = (f'<img style="max-width: 100%; max-height: 36em" alt="{escape(self.figure.text)}" '
                              f'src="data:image/png;base64,{b64encode(self.figure.png).decode()}">')

    def _repr_mimebundle_(self, include=None, exclude=None):
        if self._waiting:  # what is shown now is what the controls say
            self.refresh()
        return _with_view(self.view, *(self.figure._repr_mimebundle_() if self.figure else ({"text/plain": repr(self)}, {})))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"


def _with_view(view: ipy.Widget, data: dict, metadata: dict) -> tuple[dict, dict]:
    shown = view._repr_mimebundle_()
    return {**(shown[0] if isinstance(shown, tuple) else shown), **data}, metadata


class Guess:
    """A question that is answered before a cell is run; the guess is kept and shown beside what the cell measures.

    choices: answers to choose from; without them a number is asked for, in `unit`.

        >>> guess = mct.widgets.Guess("How many nats will the two do together?")
        >>> print(guess.beside(13.98))  # in the cell that measures it
        Measured: 13.98 nats. No guess was written.
    """

    def __init__(self, question: str, choices: Sequence[str] | None = None, unit: str = "nats"):
        self.question, self.choices, self.unit, self.truth = question, choices, "" if choices else unit, None
        self.box = (ipy.Dropdown(options=["", *choices], layout=ipy.Layout(width="auto", max_width="40em")) if choices else
                    ipy.Text(placeholder=f"a number{f' ({unit})' if unit else ''}, then Enter", continuous_update=False))
        self.box.description = "your guess"
        self.answer = ipy.HTML()
        self.box.observe(self._show, names="value")
        self.view = ipy.VBox([ipy.HTML(f"<p><b>Predict:</b> {escape(question)}</p>"), self.box, self.answer])

    @property
    def value(self) -> float | str | None:
        """The guess; None while there is none. Raises InputError for a text that is not a number."""
        return None if not self.box.value.strip() else self.box.value if self.choices else number(self.box.value)

    def beside(self, truth: float | str) -> Said:
        """The guess beside the truth, in words; the box shows them too from now on."""
        self.truth = truth if isinstance(truth, str) else float(truth)
        if self.choices and self.truth not in self.choices:
            raise InputError(f"{truth!r} is not one of the answers ({', '.join(self.choices)})")
        return Said(self._show())

    def _show(self, _=None) -> str:
        try:
            guess = self.value
        except InputError as error:
            self.answer.value = _alert(str(error))
            return str(error)
        if self.truth is None:
            said = f"Kept: {guess}. Run the next cell." if guess is not None else ""
        elif guess is None:
            measured = self.truth if isinstance(self.truth, str) else f"{self.truth:.2f} {self.unit}".strip()
            said = f"Measured: {measured}. No guess was written."
        else:
            said = beside(guess, self.truth, self.unit)
        self.answer.value = f'<p role="status">{escape(said)}</p>'
        return said

    def _repr_mimebundle_(self, include=None, exclude=None):
        return _with_view(self.view, {"text/plain": repr(self)}, {})

    def __repr__(self) -> str:
        return f"Predict: {self.question}" + (f" ({' / '.join(self.choices)})" if self.choices else "")


def traced(trace, kind: type = Effects) -> None:
    """Raises InputError for what is no trace of this kind."""
    if not isinstance(trace, kind):
        raise InputError(f"an explorer is of a {kind.__name__ if kind is not Effects else 'Trace or Desiderata'}, not of {type(trace).__name__}; make "
                         "one with mct.Trace(model, task, ...)")


def menu(name: str, options: Iterable, value=None) -> ipy.Dropdown:
    options = list(options)
    return ipy.Dropdown(options=options, description=name, value=options[0] if value is None else value)


def slider(name: str, value: int, low: int, high: int, step: int = 1) -> ipy.IntSlider:
    return ipy.IntSlider(value, low, high, step, description=name, continuous_update=False)


def pick(name: str, labels: Sequence[str], value: str) -> ipy.Widget:
    """One of the components: from a list, or typed where there are many."""
    if len(labels) <= MANY:
        return menu(name, labels, value)
    return ipy.Combobox(options=list(labels), value=value, description=name, continuous_update=False, ensure_option=True)


def started(controls: dict[str, ipy.Widget], start: dict) -> dict[str, ipy.Widget]:
    """The controls at the values they are to start with. Raises InputError for an unknown control or value."""
    for name, value in start.items():
        if name not in controls:
            raise InputError(f"unknown control {name!r} (there are: {', '.join(controls)})")
        try:
            controls[name].value = value
            kept = controls[name].value == value  # a slider moves what lies beyond its ends, without a word
        except Exception:  # traitlets raises its own error, of several lines
            kept = False
        if not kept:
            raise InputError(f"{name}={value!r} is not a value of this control")
    return controls
