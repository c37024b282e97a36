"""One run of `notebooks/analysis.ipynb` by papermill: checked before, whole or not at all afterwards."""

from __future__ import annotations

import ast
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Iterable

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.shipped import BUILT_IN, shipped
from mctrace_nb.tasks import LOADERS, check_spec, is_file

NOTEBOOK = "notebooks/analysis.ipynb"
OWN = (-1.0, "")  # of a setting: what the method has of its own
MARKS = ("analysis.ipynb", "result.json")  # by these a folder is known as an earlier run
QUIET = ["--log-level=ERROR"]  # kernels warn at every start about a transport that never leaves the machine


def _whole(value) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(value)
    return int(value)


TYPES = {"int": _whole, "float": float, "str": str, "bool": lambda text: {"true": True, "false": False}[str(text).lower()]}
PATHS = ("model", "task", "keep", "metric", "data_dir", "earlier")  # parameters that may be paths


def _absolute(value: str) -> str:
    """Paths, separated by commas, as absolute ones; what has a name of its own or is not there keeps its form, also `path:name`."""
    if "," in value:
        return ",".join(_absolute(part.strip()) for part in value.split(","))
    path, colon, name = value.partition(":")
    if path in (*BUILT_IN, *LOADERS):
        return value
    place = Path(path).expanduser()
    return str(place.resolve()) + colon + name if path and place.exists() else value


class AnalysisFailed(RuntimeError):
    """The notebook raised an error that is not bad input; `folder` holds what is left to look at."""

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


def notebook_parameters() -> list[dict]:
    """The parameters of the analysis notebook: name, type, default, help. They are the options of `trace`."""
    from papermill import inspect_notebook

    found = inspect_notebook(str(shipped(NOTEBOOK))).values()
    return [dict(name=p["name"], type=p["inferred_type_name"], default=ast.literal_eval(p["default"]), help=p["help"])
            for p in found]


def parameter_names() -> list[str]:
    """The names of the analysis notebook's parameters."""
    return [p["name"] for p in notebook_parameters()]


def validate(parameters: dict) -> dict:
    """The parameters with their types, those left out filled in.

    Raises InputError for unknown names (the nearest is named), wrong types, and values that can be known to be wrong
    before a model is loaded.
    """
    from mctrace_nb.compare import named_methods
    from mctrace_nb.components import BLOCK_KINDS, KINDS
    from mctrace_nb.metrics import ANSWER_RULES, get_metric
    from mctrace_nb.models import DTYPES
    from mctrace_nb.relax import Settings
    from mctrace_nb.report import earlier
    from mctrace_nb.results import SCORE
    from mctrace_nb.rows import POSITIONS
    from mctrace_nb.sides import CACHES, CORRUPTIONS, NOISE_ON

    known = {p["name"]: p for p in notebook_parameters()}
    for name in parameters:
        one_of(name, known, "parameter")
    values = {name: p["default"] for name, p in known.items()}
    for name, value in parameters.items():
        try:
            values[name] = TYPES[known[name]["type"]](value)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{name}={value!r} is not a valid {known[name]['type']}") from None
    for name in PATHS:  # the notebook runs in a folder of its own
        values[name] = _absolute(values[name])
    specs = [values["task"], *filter(None, map(str.strip, values["keep"].split(",")))]
    for spec in specs:
        check_spec(spec)
        if is_file(spec) and not Path(spec).is_file():
            raise InputError(f"task file {spec!r} is not there; give the path of a .csv or .jsonl file, or a task by name")
    if values["columns"] and not any(map(is_file, specs)):
        raise InputError(f"columns={values['columns']!r} is for files, and {values['task']!r} is none; leave it out")
    get_metric(values["metric"])
    for name, allowed in (("positions", POSITIONS), ("corruption", CORRUPTIONS), ("answer_rule", ANSWER_RULES),
                          ("noise_on", NOISE_ON), ("cache", CACHES), ("direction", SCORE), ("dtype", DTYPES),
                          ("position_map", ("", *BLOCK_KINDS))):
        one_of(values[name], allowed, name)
    for kind in values["components"].split(","):
        one_of(kind.strip(), KINDS, "kind of component")
    for name, least in (("seed", 0), ("budget", 1), ("n", 0), ("epochs", 1), ("batch_size", 1), ("draws", 0)):
        if values[name] < least:
            raise InputError(f"{name}={values[name]} is out of range; give at least {least}")
    if values["earlier"]:
        earlier(values["earlier"])
    if values["draws"] == 1:
        raise InputError("draws=1 is out of range; agreement needs at least 2 draws of the prompts, or 0 for none")
    if values["n"] == 1:
        raise InputError("n=1 is out of range; a single prompt pair cannot be halved, give at least 2, or 0 for all there are")
    named_methods(values["methods"], 1, [1])
    Settings(**{name: values[name] for name in ("lambda1", "lambda2", "schedule", "lr", "rounding") if values[name] not in OWN})
    return values


def foresee(parameters: dict):
    """The `Cost` of a run with these parameters: its real prompts are counted, but no weight is loaded.

    Raises InputError as `validate` does, and for a model or task that cannot be found.
    """
    from mctrace_nb.compare import budgets_of, named_methods
    from mctrace_nb.cost import estimate
    from mctrace_nb.models import DTYPES, skeleton
    from mctrace_nb.tasks import load_task

    values = validate(parameters)
    lm = skeleton(values["model"], DTYPES[values["dtype"]], tokenizer=True)
    task = load_task(values["task"], lm, n=values["n"], seed=values["seed"], data_dir=values["data_dir"] or None,
                     columns=values["columns"] or None, skip_bad_rows=values["skip_bad_rows"],
                     aligned=values["positions"] != "last", chat=values["chat"])
    kinds = values["components"].replace(" ", "").split(",")
    n = len(lm.components(kinds))
    budgets = budgets_of(values["budget"], n)
    return estimate(lm, task, kinds, positions=values["positions"], corruption=values["corruption"],
                    noise_on=values["noise_on"], methods=named_methods(values["methods"], n, budgets), budgets=budgets,
                    epochs=values["epochs"], batch_size=values["batch_size"], cache=values["cache"],
                    device=values["device"] or "cpu")


def check_out(out: Path, force: bool) -> None:
    """Raises InputError unless the folder can be made or replaced. Only an empty folder or an earlier run is replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if Path.cwd().is_relative_to(out):
        raise InputError(f"--out {out} is where you are, or above it; give a new folder, for example runs/first")
    if out.is_dir() and any(out.iterdir()):
        if not any((out / name).exists() for name in (*MARKS, "error.json")):
            raise InputError(f"--out {out} holds files that are not of an earlier run; give another folder")
        if not force:
            raise InputError(f"--out {out} is not empty; use --force to replace it, or another folder")
    above = next(p for p in out.parents if p.exists())
    if not os.access(above, os.W_OK) or not above.is_dir():
        raise InputError(f"--out {out}: no permission to write in {above}; choose another folder")


def analyse(parameters: dict, out: str | Path, force: bool = False, progress: bool = True) -> Path:
    """Runs the analysis notebook with the parameters and leaves its files in `out`; returns the report's path.

    Everything is made in a temporary folder beside `out` and moved there at the end. Raises InputError for bad input
    (nothing is left), AnalysisFailed if the notebook fails otherwise (`analysis.failed.ipynb` and `error.json` are left).
    """
    out = Path(out).expanduser().resolve()
    check_out(out, force)
    values = validate(parameters)
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    made_above = [p for p in out.parents if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # the kernel's bars would be saved into the notebook; papermill shows its own
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        try:
            papermill.execute_notebook(str(shipped(NOTEBOOK)), str(part / "analysis.ipynb"),
                                       parameters={**values, "out": "."}, cwd=str(part), progress_bar=progress,
                                       kernel_name="python3", extra_arguments=QUIET)
        except PapermillExecutionError as error:
            if error.ename == "InputError":
                raise InputError(error.evalue) from None
            _leave_failure(part, error)
            _place(part, out)
            raise AnalysisFailed(f"cell {error.exec_count} failed with {error.ename}: {error.evalue}", out) from None
        except DeadKernelError as error:
            _leave_failure(part, error)
            _place(part, out)
            raise AnalysisFailed("the kernel died, most likely for want of memory; give a smaller n or model", out) from None
        _place(part, out)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if not isinstance(error, AnalysisFailed):
            for folder in made_above:  # parents that exist only because of us
                if folder.exists() and not any(folder.iterdir()):
                    folder.rmdir()
        raise
    finally:
        os.environ.pop("TQDM_DISABLE") if before is None else os.environ.__setitem__("TQDM_DISABLE", before)
    return out / "report.html"


def _leave_failure(part: Path, error) -> None:
    """Keeps only the failed notebook and what went wrong."""
    for path in part.iterdir():
        if path.name != "analysis.ipynb":
            path.unlink()
    (part / "analysis.ipynb").rename(part / "analysis.failed.ipynb")
    said = dict(cell=getattr(error, "exec_count", None), error=getattr(error, "ename", type(error).__name__),
                message=getattr(error, "evalue", str(error)), source=getattr(error, "source", None))
    (part / "error.json").write_text(json.dumps(said, indent=1) + "\n")


def _place(part: Path, out: Path) -> None:
    """Moves a finished folder to its place, replacing what is there."""
    import nbformat

    for path in part.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.papermill.update(input_path=NOTEBOOK, output_path=path.name)  # not the temporary folder
        nbformat.write(notebook, path)
    part.chmod(0o755)  # temporary folders are private
    if out.exists():  # set aside first, so that there is never half a folder under the name
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / "old"
        os.replace(out, aside)
        os.replace(part, out)
        shutil.rmtree(aside.parent)
    else:
        os.replace(part, out)


def execute_notebooks(places: Iterable[str | Path]) -> list[Path]:
    """Runs notebooks, or all of a folder, with their own defaults and saves them with their outputs; widgets keep their picture.

    Raises InputError for a place without a notebook.
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
