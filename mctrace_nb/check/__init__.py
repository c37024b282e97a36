"""Self-checks of the exercises: one file a notebook holds the solution, from which the stub is made, and the check.

    check.nb11.exercise_1(my_function)      # one line: right, or what is misunderstood

A file of this package has a tuple `SOLUTIONS` of functions, the first for exercise 1. In each, the lines that the learner is
to write stand between `### BEGIN SOLUTION` and `### END SOLUTION`; `stub` leaves them out, `solution` shows them. The check
of exercise 1 is the function `exercise_1`, marked by `graded`.
"""

from __future__ import annotations

import inspect
import re
from functools import wraps
from importlib import import_module
from typing import Callable

from mctrace_nb.errors import InputError

_REGION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n?", re.M | re.S)


def __getattr__(name: str):
    if re.fullmatch(r"nb\d\d", name):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class NotYet(Exception):
    """Says what is wrong with a learner's function, and what is misunderstood."""


def expect(condition, misconception: str) -> None:
    """Raises NotYet unless the condition holds."""
    if not condition:
        raise NotYet(misconception)


def graded(check: Callable[[Callable], str]) -> Callable[[Callable], str]:
    """Makes one line of whatever comes of a check: what it returns, NotYet, or an error in the learner's function."""
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
    """A solution as it is written, with its markers. Raises InputError for an exercise that there is not."""
    solutions = import_module(f"{__name__}.{notebook}").SOLUTIONS
    if not 1 <= number <= len(solutions):
        raise InputError(f"{notebook} has no exercise {number}; give 1 to {len(solutions)}")
    return inspect.getsource(solutions[number - 1])


def stub(notebook: str, number: int) -> str:
    """What the learner starts from: the solution with its region replaced by NotImplementedError."""
    return _REGION.sub(r'\1raise NotImplementedError("your lines here")\n', source(notebook, number)).rstrip()


def solution(notebook: str, number: int) -> str:
    """The folded solution of an exercise, as Markdown."""
    return f"<details><summary>Solution</summary>\n\n```python\n{source(notebook, number).rstrip()}\n```\n\n</details>"
