"""One run of `notebooks/analysis.ipynb` by papermill: checked before, whole or not at all afterwards."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Iterable

from mctrace_nb.errors import InputError
from mctrace_nb.parameters import NOTEBOOK, validate
from mctrace_nb.shipped import shipped

__all__ = ["AnalysisFailed", "analyse", "execute_notebooks"]

MARKS = ("analysis.ipynb", "result.json")  # by these a folder is known as an earlier run
QUIET = ["--log-level=ERROR"]  # kernels warn at every start about a transport that never leaves the machine
START_SECONDS = 300  # a kernel that has not answered by then never will, however busy the machine


class AnalysisFailed(RuntimeError):
    """A notebook did not come to its end. cell: the number of the code cell it stopped in, if known, and its source; name: of the error;
    said: the error's own message; folder: what is left to look at, if anything is kept.

        >>> failed = mct.run.AnalysisFailed("cell 3 raised KeyError", cell=3, name="KeyError")
        >>> str(failed), failed.cell
        ('cell 3 raised KeyError', 3)
    """

    def __init__(self, message: str, cell: int | None = None, source: str = "", name: str = "", said: str = ""):
        super().__init__(message)
        self.cell, self.source, self.name, self.said, self.folder = cell, source, name, said, None


def check_out(out: Path, force: bool) -> None:
    """Raises InputError unless the folder can be made or replaced. Only an empty folder or an earlier run is replaced."""
    if Path.cwd().is_relative_to(out):
        raise InputError(f"--out {out} is where you are, or above it; give a new folder, for example runs/first")
    if out.is_dir() and any(out.iterdir()):
        if not any((out / name).exists() for name in (*MARKS, "error.json")):
            raise InputError(f"--out {out} holds files that are not of an earlier run; give another folder")
        if not force:
            raise InputError(f"--out {out} is not empty; use --force to replace it, or another folder")
    check_writable(out)


def check_writable(out: Path) -> None:
    """Raises InputError if there is no folder and none can be made."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    above = next(p for p in (out, *out.parents) if p.exists())
    if not os.access(above, os.W_OK) or not above.is_dir():
        raise InputError(f"--out {out}: no permission to write in {above}; choose another folder")


def analyse(parameters: dict, out: str | Path, force: bool = False, progress: bool = True) -> Path:
    """Runs the analysis notebook with the parameters and leaves its files in `out`; returns the report's path.

    Everything is made in a temporary folder beside `out` and moved there at the end. Raises InputError for bad input
    (nothing is left), AnalysisFailed if the notebook fails otherwise (`analysis.failed.ipynb` and `error.json` are left).

        >>> mct.run.analyse(dict(task="names", budget=2), "first").name  # doctest: +SKIP
        'report.html'
        >>> mct.run.analyse(dict(task="names", budgett=2), "runs/first")
        Traceback (most recent call last):
            ...
        mctrace_nb.errors.InputError: unknown parameter 'budgett'; did you mean 'budget'? (there are: ...
    """
    out = Path(out).expanduser().resolve()
    check_out(out, force)
    values = validate(parameters)
    made_above = [p for p in out.parents if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        try:
            execute(shipped(NOTEBOOK), part / "analysis.ipynb", {**values, "out": "."}, progress=progress)
        except AnalysisFailed as error:
            if error.name == "InputError":
                raise InputError(error.said) from None
            leave_failure(part, error)
            place(part, out)
            error.folder = out
            raise
        place(part, out)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if not isinstance(error, AnalysisFailed):
            for folder in made_above:  # parents that exist only because of us
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        raise
    return out / "report.html"


def execute(notebook: str | Path, made: Path, parameters: dict, cell_seconds: float | None = None, progress: bool = False,
            log: bool = False) -> None:
    """Runs a notebook by papermill in the folder of `made`, which becomes the executed notebook.

    log: to papermill's logger. Raises AnalysisFailed if a cell failed, took longer than `cell_seconds`, or raised an error where nobody was
    told, as in a widget's callback; or if the kernel died.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # the kernel's bars would be saved into the notebook; papermill shows its own
    try:
        papermill.execute_notebook(str(notebook), str(made), parameters=parameters, cwd=str(made.parent), progress_bar=progress, log_output=log,
                                   kernel_name="python3", language="python", start_timeout=START_SECONDS, execution_timeout=cell_seconds, extra_arguments=QUIET)
    except PapermillExecutionError as error:
        raise AnalysisFailed(f"cell {error.exec_count} failed with {error.ename}: {error.evalue}", error.exec_count, error.source,
                             error.ename, error.evalue) from None
    except CellTimeoutError:
        cell, source = last_started(made)
        raise AnalysisFailed(f"cell {cell} took longer than {cell_seconds / 60:g} minutes, the limit for a cell", cell, source,
                             "CellTimeoutError") from None
    except DeadKernelError:
        cell, source = last_started(made)
        raise AnalysisFailed(f"the kernel died in cell {cell}, most likely for want of memory; give a smaller n or model", cell, source,
                             "DeadKernelError") from None
    finally:
        os.environ.pop("TQDM_DISABLE") if before is None else os.environ.__setitem__("TQDM_DISABLE", before)
    _finish(made)


def last_started(made: Path) -> tuple[int | None, str]:
    """Number among the code cells, and source, of the cell that was at work when a run ended; (None, "") if none or nothing readable."""
    import nbformat

    try:
        cells = [c for c in nbformat.read(made, as_version=4).cells if c.cell_type == "code"]
    except (OSError, ValueError, KeyError):
        return None, ""
    begun = [(i, c.source) for i, c in enumerate(cells, 1) if c.metadata.get("papermill", {}).get("start_time")]
    return begun[-1] if begun else (None, "")


def _finish(made: Path) -> None:
    """Takes out of an executed notebook what belongs to the run's folder or to live widgets. Raises AnalysisFailed for an error that
    was shown in a widget and stopped nothing."""
    import nbformat

    notebook = nbformat.read(made, as_version=4)
    notebook.metadata.papermill.update(input_path=f"notebooks/{made.name}", output_path=made.name)  # not the temporary folder
    states = notebook.metadata.pop("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    shown = [o for state in states.values() for o in state.get("state", {}).get("outputs", []) if o.get("output_type") == "error"]
    nbformat.write(notebook, made)
    if shown:
        raise AnalysisFailed(f"a widget caught {shown[0]['ename']}: {shown[0]['evalue']}", name=shown[0]["ename"])


def leave_failure(part: Path, error: AnalysisFailed, keep: Iterable[str] = ()) -> None:
    """Keeps only the failed notebook, renamed, and what went wrong; and files named in `keep`."""
    for path in part.iterdir():
        if path.suffix == ".ipynb" and not path.stem.endswith(".failed"):
            path.rename(path.with_suffix(".failed.ipynb"))
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()
    said = dict(cell=error.cell, error=error.name, message=str(error), source=error.source)
    (part / "error.json").write_text(json.dumps(said, indent=1) + "\n")


def synced(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders, and keeps their names by itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place(part: Path, out: Path) -> None:
    """Moves a finished folder to its place, replacing what is there. Its files are on the disk before the name is."""
    for path in (*part.rglob("*"), part):
        synced(path)
    part.chmod(0o755)  # temporary folders are private
    if out.exists():  # set aside first, so that there is never half a folder under the name
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / "old"
        os.replace(out, aside)
        os.replace(part, out)
        shutil.rmtree(aside.parent)
    else:
        os.replace(part, out)
    synced(out.parent)


def execute_notebooks(places: Iterable[str | Path]) -> list[Path]:
    """Runs notebooks, or all of a folder, with their own defaults and saves them with their outputs; widgets keep their picture.

    Raises InputError for a place without a notebook.

        >>> import nbformat
        >>> nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), "sum.ipynb")
        >>> done = mct.run.execute_notebooks(["sum.ipynb"])
        running sum.ipynb ... s
    """
    import nbformat
    from nbclient import NotebookClient

    os.environ["TQDM_DISABLE"] = "1"
    done = [path for place in map(Path, places) for path in ([place] if place.suffix == ".ipynb" else sorted(place.glob("*.ipynb"))) or [place]]
    for path in done:
        if not path.is_file():
            raise InputError(f"{path} is no notebook and holds none; give a notebook or a folder of notebooks")
    for path in done:
        print(f"running {path} ", end="", flush=True)
        start, notebook = time.perf_counter(), nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, kernel_name="python3", extra_arguments=QUIET, resources={"metadata": {"path": str(path.parent)}},
                       record_timing=False).execute()
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                # JupyterLab prefers a widget's live view, and without a kernel shows "model not found" instead of it.
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        nbformat.write(notebook, path)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return done
