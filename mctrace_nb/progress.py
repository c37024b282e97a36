"""Progress bars for anything that lasts: shown after two seconds, gone when done, off with TQDM_DISABLE=1."""

from __future__ import annotations

import os

from tqdm.auto import tqdm


def bar(iterable=None, what: str = "", total: int | None = None, show: bool = True) -> tqdm:
    """A tqdm bar. In a notebook tqdm does not look at the environment by itself."""
    off = not show or os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false")
    return tqdm(iterable, desc=what, total=total, delay=2, leave=False, disable=off)
