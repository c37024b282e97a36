"""How fast, how large: each number is a ratio measured in one run, or what a person waits for."""

from __future__ import annotations

from typing import Iterator

from mctrace_nb.bench import explorers, layers, limit, many, published_way, room, startup


def measure(quick: bool) -> Iterator[dict]:
    """All of it; `quick` takes small models and few repeats, and says less."""
    for part in (startup, many, limit, published_way, layers, room, explorers):
        yield from part.measure(quick)
