"""The process in which one notebook of a study runs: `python -m mctrace_nb.study.child FOLDER`. It dies with whoever started it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from mctrace_nb.run import AnalysisFailed, execute
from mctrace_nb.study.process import ORDER, OUTCOME, alive


def _die_with(order: dict) -> None:
    """Ends this process and its kernel as soon as its parent is gone: nobody would take what they make."""
    while alive(order):
        time.sleep(0.3)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)


class CellLines(logging.Filter):
    """Makes papermill's log into one line a code cell."""

    def __init__(self, notebook: Path):
        super().__init__()
        self.cells = []
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            self.cells.append("".join(cell["source"]) if cell["cell_type"] == "code" else None)
            if "parameters" in cell["metadata"].get("tags", []):
                self.cells.append("the parameters of this run")  # the cell that papermill puts in

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage().rstrip("-").split()
        if words[:2] != ["Executing", "Cell"]:
            return record.levelno >= logging.WARNING
        number = int(words[2])
        if self.cells[number - 1] is None:
            return False
        code = [c for c in self.cells if c is not None]
        record.msg = f"cell {sum(c is not None for c in self.cells[:number])} of {len(code)}: {self.cells[number - 1].splitlines()[0][:80]}"
        record.args = ()
        return True


def main(part: Path) -> int:
    order = json.loads((part / ORDER).read_text())
    threading.Thread(target=_die_with, args=(order,), daemon=True).start()
    notebook, parameters = Path(order["notebook"]), order["parameters"]
    lines = logging.StreamHandler(sys.stdout)
    lines.addFilter(CellLines(notebook))
    logging.basicConfig(handlers=[lines], level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    said = dict(status="done")
    try:
        execute(notebook, part / notebook.name, {**parameters, "out": "."} if "out" in parameters else parameters,
                60 * order["limits"]["cell_minutes"], log=True)
    except AnalysisFailed as error:
        said = dict(status="failed", reason=error.said if error.name == "InputError" else str(error), cell=error.cell, name=error.name, source=error.source)
    except Exception as error:  # of papermill or the disk; whatever it is, the run has failed
        said = dict(status="failed", reason=f"{type(error).__name__}: {error}", cell=None, name=type(error).__name__, source="")
    (part / OUTCOME).write_text(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
