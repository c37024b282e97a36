"""The one kind of error that means: the input is wrong, here is what and how to repair it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Iterable


class InputError(ValueError):
    """Bad input. Its message is one line with the offending value and the repair; the command line exits with 2.

        >>> trace.effects(["L9H9"])
        Traceback (most recent call last):
            ...
        mctrace_nb.errors.InputError: unknown component 'L9H9' (there are: L0H0, L0H1, L0H2, L0H3, L1H0, ...
    """


def one_of(value, allowed: Iterable[str], what: str):
    """Returns `value` if it is allowed, else raises InputError naming the nearest allowed value and all of them."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = get_close_matches(str(value), allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {what} {value!r}{hint} (there are: {', '.join(map(str, allowed))})")
