"""How long one waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
from typing import Iterator

from mctrace_nb.bench.shapes import medians

LOADED = "import sys, mctrace_nb; sys.exit(sum(name in sys.modules for name in ('torch', 'transformers')))"


def measure(quick: bool) -> Iterator[dict]:
    """Importing the package, and the first help text, each in a fresh process less what an empty one takes."""
    def run(*arguments):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    nothing, imported, helped = medians(3 if quick else 7, run("-c", "pass"), run("-c", LOADED), run("-m", "mctrace_nb", "--help"))
    yield dict(name="import mctrace_nb, seconds (without torch or transformers)", value=imported - nothing, bar=0.3)
    yield dict(name="python -m mctrace_nb --help, seconds, Python's own start included", value=helped, bar=0.5)
