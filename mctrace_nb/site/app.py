"""Two explorers for showing in class, on a page of their own without code: Voila runs the notebook that is made here."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Sequence

import nbformat

from mctrace_nb.errors import InputError

CELLS = [
    ("markdown", "# How a mask comes to a decision, and how it becomes a set\n\n"
                 "Twelve attention heads of the tutorial model. Every move of a control computes anew."),
    ("code", 'import mctrace_nb as mct\n\nlm = mct.load_model("tutorial")\n'
             'trace = mct.Trace(lm, mct.load_task("binding_operation", lm, 64), "head_output")\n'
             'exact = mct.search(trace, "exhaustive", range(1, 13), progress=False)'),
    ("markdown", "## Penalties (lesson 06)"),
    ("code", "mct.widgets.LambdaExplorer(trace, exact=exact, lambda1=0.02, lambda2=0)"),
    ("markdown", "## Rounding and budgets (lesson 07)"),
    ("code", 'heads = mct.Trace(lm, mct.load_task("facts", lm, 64), "head_output")\nmct.widgets.BudgetExplorer(heads, budget=2, rule="top S")'),
]


def write(path: str | Path) -> Path:
    """Writes the notebook of the two explorers, without outputs."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[make[kind](source) for kind, source in CELLS], metadata=kernel), path)
    return path


def serve(path: str | Path, options: Sequence[str] = ()) -> int:
    """Writes the notebook and serves it on this machine until interrupted; options are Voila's. Returns its exit status.

    Raises InputError if Voila is not installed.
    """
    if find_spec("voila") is None:
        raise InputError("Voila is not installed; run make app, or pip install 'mctrace_nb[app]'")
    ours = str(Path(__file__).parent)
    places = os.pathsep.join(filter(None, [ours, os.environ.get("JUPYTER_PATH")]))
    command = [sys.executable, "-m", "voila", str(write(path)), "--template=app", *options]
    try:
        return subprocess.run(command, env={**os.environ, "JUPYTER_PATH": places, "TQDM_DISABLE": "1"}).returncode
    except KeyboardInterrupt:
        return 0
