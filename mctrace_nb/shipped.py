"""Where the project's own files are. Apart from `models`, so that a command's options are known without loading transformers."""

from __future__ import annotations

from pathlib import Path

from mctrace_nb.errors import InputError

BUILT_IN = ("tutorial", "tutorial-2")  # models in `data/`: one recipe, trained from two seeds


def shipped(path: str) -> Path:
    """A file of the project: beside the package in a checkout, inside it in an installed wheel.

    Raises InputError if it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "_shipped", here.parent):
        if (root / path).exists():
            return root / path
    raise InputError(f"{path} is missing from this installation of mctrace_nb; install it again")
