"""The first line of every notebook: is everything here that the cells below need?"""

from __future__ import annotations

import importlib.util

from mctrace_nb.errors import InputError

NEEDED = ("torch", "transformers", "seaborn", "ipywidgets", "papermill")


def preflight() -> str:
    """Checks the packages and the tutorial model; returns one line. Raises InputError naming the repair.

        >>> mct.preflight()
        'ready: packages and tutorial model found'
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"missing packages: {', '.join(missing)}; run `make install`, or pip install {' '.join(missing)}")
    from mctrace_nb.shipped import shipped

    shipped("data/tutorial/config.json")
    return "ready: packages and tutorial model found"
