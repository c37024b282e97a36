"""Tasks by name. Every entry of `LOADERS` is `load(name, model, n, seed) -> Task`."""

from __future__ import annotations

from mctrace_nb import grammar
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks import tutorial
from mctrace_nb.tasks.task import Example, Task, encode

LOADERS = {name: tutorial.load for name in grammar.TASKS}

__all__ = ["Example", "LOADERS", "Task", "encode", "load_task"]


def load_task(name: str, model, n: int = 64, seed: int = 0) -> Task:
    """A built-in task by name with `n` prompt pairs, half of them held out.

    Raises InputError for an unknown name, `n < 2`, or a model that does not know the task's words.
    """
    one_of(name, LOADERS, "task")
    if not isinstance(n, int) or n < 2:
        raise InputError(f"n={n!r} prompt pairs cannot be halved; give a whole number of at least 2")
    return LOADERS[name](name, model, n, seed)
