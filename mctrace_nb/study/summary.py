"""What a sweep leaves beside its runs: one table, and a summary notebook with a page that opens offline."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from mctrace_nb.run import AnalysisFailed, execute, synced
from mctrace_nb.shipped import shipped
from mctrace_nb.study.grid import Grid
from mctrace_nb.study.process import claimed, recorded

SUMMARY, MADE = "notebooks/study.ipynb", ("study.ipynb", "study.html")
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]*\)")
TOLD = ("status", "reason", "cell", "seconds", "peak_gib", "host", "started")  # of a run of which only its record is known


def table(grid: Grid, out: Path):
    """A frame with a row a run: see `Study.runs`; of another notebook than the analysis, what the records say."""
    import pandas as pd

    from mctrace_nb.study.reading import read

    if grid.notebook is None:
        return read(out).runs
    rows = [{**run.axes, **{name: (recorded(out / "runs" / run.name) or {"status": "missing"}).get(name) for name in TOLD}} for run in grid.runs]
    return pd.DataFrame(rows, index=pd.Index([run.name for run in grid.runs], name="run"))


def summarise(grid: Grid, out: Path) -> str:
    """Writes `study.ipynb`, the summary of all analyses so far, and `study.html`. Returns what went wrong, or nothing."""
    import nbformat

    from mctrace_nb.course import page

    part = claimed(out / "runs", "study")
    try:
        execute(shipped(SUMMARY), part / "study.ipynb", {"folder": str(out)})
        notebook = nbformat.read(part / "study.ipynb", as_version=4)
        notebook.cells = [c for c in notebook.cells if "example" not in c.metadata.get("tags", [])]  # what is said of the kit's own study
        nbformat.write(notebook, part / "study.ipynb")
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(r"\1", cell.source)  # the other notebooks are not here
        (part / "study.html").write_text(page(notebook, f"Study: {out.name}"), encoding="utf-8")
        for name in MADE:
            synced(part / name)
            os.replace(part / name, out / name)
        return ""
    except AnalysisFailed as error:
        return f"the summary could not be made: {error}"
    finally:
        shutil.rmtree(part, ignore_errors=True)
