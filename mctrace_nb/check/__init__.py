"""Self-checks of the exercises: one file a notebook holds the solution, from which the stub is made, and the check.

    check.nb11.exercise_1(my_function)      # one line: right, or what is misunderstood

A file of this package has a tuple `SOLUTIONS` of functions, the first for exercise 1. In each, the lines that the learner is
to write stand between `### BEGIN SOLUTION` and `### END SOLUTION`; `stub` leaves them out, `solution` shows them. The check
of exercise 1 is the function `exercise_1`, marked by `graded`.
"""

from __future__ import annotations

import inspect
import re
from functools import lru_cache, wraps
from importlib import import_module
from typing import Callable

from mctrace_nb.contract import check_contract
from mctrace_nb.errors import InputError

__all__ = ["NotYet", "expect", "graded", "number", "pair", "solution", "source", "stub", "tutorial_trace"]

ROUNDING = 1e-5  # nats that one prompt at a time may differ from all at once
_REGION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.M | re.S)


def __getattr__(name: str):
    if re.fullmatch(r"nb\d\d", name):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class NotYet(Exception):
    """Says what is wrong with a learner's function, and what is misunderstood.

        >>> raise mct.check.NotYet("heads are counted from 0")
        Traceback (most recent call last):
            ...
        mctrace_nb.check.NotYet: heads are counted from 0
    """


def expect(condition, misconception: str) -> None:
    """Raises NotYet unless the condition holds.

        >>> mct.check.expect(abs(0.1 + 0.2 - 0.3) < mct.check.ROUNDING, "sums of floats are rounded")
        >>> mct.check.expect(0.1 + 0.2 == 0.3, "sums of floats are rounded")
        Traceback (most recent call last):
            ...
        mctrace_nb.check.NotYet: sums of floats are rounded
    """
    if not condition:
        raise NotYet(misconception)


def pair(found, what: str) -> tuple:
    """The two things that a learner returned, in whatever holds two: a tuple, a list, an array. what: what they should be.

        >>> mct.check.pair([1.5, 2.0], "the total and the direct effect")
        (1.5, 2.0)
    """
    two = isinstance(found, (tuple, list)) or getattr(found, "ndim", 0) == 1
    expect(two and len(found) == 2, f"return {what}, not {found!r}")
    return tuple(found)


def number(found, what: str = "one number") -> float:
    """The number that a learner returned, of Python, NumPy or torch. what: what it should be.

        >>> import torch
        >>> mct.check.number(torch.tensor(2.5))
        2.5
    """
    one = (isinstance(found, (int, float)) and not isinstance(found, bool)) or getattr(found, "ndim", 1) == 0
    expect(one, f"return {what}, not {type(found).__name__}")
    return float(found)


def hooks(lm) -> int:
    """How many forward hooks there are on a model."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in lm.model.modules())


def no_hook_left(lm, before: int, misconception: str) -> None:
    """Takes away what a learner left on the model, and says so."""
    if left := hooks(lm) - before:
        for module in lm.model.modules():
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
        raise NotYet(f"{left} hook{'s' * (left > 1)} left on the model (taken away now): {misconception}")


@lru_cache(16)
def tutorial_trace(task: str, kind: str | tuple[str, ...] = "head_output", n: int = 16, seed: int = 0, **options):
    """A trace of the tutorial model, on prompts that no lesson shows. options: those of `Trace`.

        >>> len(mct.check.tutorial_trace("names", n=8).task.search)
        4
    """
    import mctrace_nb as mct

    lm = mct.load_model("tutorial", device="cpu")
    return mct.Trace(lm, mct.load_task(task, lm, n=n, seed=seed), kind, **options)


def drifting(lm):
    """A model that says something else at every call: each call makes the embeddings a little larger."""
    check_contract(lm)  # the kit looks once, while it is still sound
    calls = []

    def grow(module, args, output):
        calls.append(None)
        return output * (1 + 0.02 * len(calls))

    lm.model.get_input_embeddings().register_forward_hook(grow)
    return lm


def graded(check: Callable[[Callable], str]) -> Callable[[Callable], str]:
    """Makes one line of whatever comes of a check: what it returns, NotYet, or an error in the learner's function.

        >>> check = mct.check.graded(lambda function: f"{function(2)} is twice 2")
        >>> check(lambda x: 2 * x), check(None)
        ('right: 4 is twice 2', 'not yet: give the function itself, not what it returns (None)')
    """
    @wraps(check)
    def one_line(function) -> str:
        if not callable(function):
            return f"not yet: give the function itself, not what it returns ({function!r})"
        try:
            return f"right: {check(function)}"
        except NotImplementedError:
            return "not yet: the function is still empty; write your lines in place of the one that raises NotImplementedError"
        except NotYet as wrong:
            return f"not yet: {wrong}"
        except Exception as error:  # whatever a learner's function raises
            return f"not yet: your function raised {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return one_line


def source(notebook: str, number: int) -> str:
    """A solution as it is written, with its markers. Raises InputError for an exercise that there is not.

        >>> print(mct.check.source("nb00", 1).splitlines()[0])
        def share_of_total(trace, labels):
    """
    solutions = import_module(f"{__name__}.{notebook}").SOLUTIONS
    if not 1 <= number <= len(solutions):
        raise InputError(f"{notebook} has no exercise {number}; give 1 to {len(solutions)}")
    return inspect.getsource(solutions[number - 1])


def stub(notebook: str, number: int) -> str:
    """What the learner starts from: the solution with its region replaced by NotImplementedError.

        >>> print(mct.check.stub("nb00", 1).splitlines()[-1])
            raise NotImplementedError("your lines here")
    """
    return _REGION.sub(r'\1raise NotImplementedError("your lines here")\n', source(notebook, number)).rstrip()


def solution(notebook: str, number: int) -> str:
    """The folded solution of an exercise, as Markdown.

        >>> print(mct.check.solution("nb00", 1).splitlines()[0])
        <details><summary>Solution</summary>
    """
    return f"<details><summary>Solution</summary>\n\n```python\n{source(notebook, number).rstrip()}\n```\n\n</details>"
