"""The parameters of a notebook: their names and types, what may be said of them before anything runs, and what a run will cost."""

from __future__ import annotations

import ast
import json
from functools import cache, partial
from pathlib import Path
from typing import Iterator

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.shipped import BUILT_IN, shipped
from mctrace_nb.tasks import LOADERS, check_spec, is_file

__all__ = ["filled", "fine_grid", "foresee", "notebook_parameters", "parameter_names", "validate"]

NOTEBOOK = "notebooks/analysis.ipynb"
OWN = (-1.0, "")  # of a setting: what the method has of its own
PATHS = ("model", "task", "keep", "metric", "data_dir", "earlier")  # parameters that may be paths
LEAST = dict(seed=0, budget=1, n=0, epochs=1, batch_size=1, draws=0)


def _whole(value) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(value)
    return int(value)


TYPES = {"int": _whole, "float": float, "str": str, "bool": lambda text: {"true": True, "false": False}[str(text).lower()]}


@cache
def _declared(notebook: Path, changed: int) -> tuple[tuple, ...]:
    """Name, type, default and help of each line of the parameters cell. (papermill's own reader leaves out lines that it cannot parse.)"""
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if "parameters" in c["metadata"].get("tags", [])]
    found = []
    for cell in cells[:1]:
        source = "".join(cell["source"])
        for line in ast.parse(source).body:
            name = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            value = ast.literal_eval(line.value)
            kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else type(value).__name__
            said = source.splitlines()[line.end_lineno - 1].encode()[line.end_col_offset:].decode()  # what is right of the value
            found.append((name.id, kind, value, said.partition("#")[2].strip()))
    return tuple(found)


def notebook_parameters(notebook: str | Path | None = None) -> list[dict]:
    """The parameters of a notebook, by default of the analysis: name, type, default, help. Those of the analysis are the options of `trace`.

    Raises InputError for a notebook without a cell of parameters, or with a line there that is no plain parameter.

        >>> mct.parameters.notebook_parameters()[0]["name"]
        'model'
    """
    place = Path(notebook or shipped(NOTEBOOK))
    form = "write a cell tagged 'parameters' with lines such as: n: int = 64  # prompt pairs"
    try:
        found = _declared(place, place.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"notebook {str(place)!r} cannot be read ({error.strerror}); give the path of an .ipynb file") from None
    except (ValueError, SyntaxError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{place} is no notebook with plain parameters ({str(error).splitlines()[0]}); {form}") from None
    odd = [name for name, kind, *_ in found if kind not in TYPES]
    if odd or not found:
        raise InputError(f"{place} has " + (f"parameters of other types than {', '.join(TYPES)}: {', '.join(odd)}" if odd else "no parameters") + f"; {form}")
    return [dict(zip(("name", "type", "default", "help"), p)) for p in found]


def parameter_names() -> list[str]:
    """The names of the analysis notebook's parameters.

        >>> mct.parameters.parameter_names()[:3]
        ['model', 'task', 'components']
    """
    return [p["name"] for p in notebook_parameters()]


def absolute(value: str, base: Path) -> str:
    """Paths, separated by commas, as absolute ones; what has a name of its own or is not there keeps its form, also `path:name`."""
    if "," in value:
        return ",".join(absolute(part.strip(), base) for part in value.split(","))
    path, colon, name = value.partition(":")
    if path in (*BUILT_IN, *LOADERS):
        return value
    place = base / Path(path).expanduser()
    return str(place.resolve()) + colon + name if path and place.exists() else value


def typed(name: str, value, parameter: dict):
    """The value with its parameter's type. Raises InputError if it is of another."""
    try:
        return TYPES[parameter["type"]](value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise InputError(f"{name}={value!r} is not a valid {parameter['type']}") from None


def filled(parameters: dict, notebook: str | Path | None = None, base: Path | None = None) -> dict:
    """All parameters of a notebook with their types, those left out filled in; paths, relative to `base` (default: where you are), absolute.

    Raises InputError for unknown names (the nearest is named) and wrong types.

        >>> mct.parameters.filled({"task": "names"})["task"]
        'names'
    """
    known = {p["name"]: p for p in notebook_parameters(notebook)}
    for name in parameters:
        one_of(name, known, "parameter")
    values = {name: p["default"] for name, p in known.items()} | {name: typed(name, v, known[name]) for name, v in parameters.items()}
    paths = {name: absolute(values[name], base or Path.cwd()) for name in PATHS if isinstance(values.get(name), str)}
    return values | paths  # the notebook runs in a folder of its own


def fine_grid(text: str) -> dict:
    """Settings of the relaxed search from text: "lambda1=0.01,0.1; seed=0,1" -> {"lambda1": [0.01, 0.1], "seed": [0, 1]}.

    Raises InputError for what cannot be read so, and for settings that there are not.

        >>> mct.parameters.fine_grid("lambda1=0.01,0.1; seed=0,1")
        {'lambda1': [0.01, 0.1], 'seed': [0, 1]}
    """
    from mctrace_nb.relax import settings_grid

    found = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, values = part.partition("=")
        if not equals or not values.strip():
            raise InputError(f"fine={text!r}: {part!r} is not of the form name=value,value; write for example lambda1=0.01,0.1; seed=0,1")
        found[name.strip()] = [_plain_value(v.strip()) for v in values.split(",")]
    try:
        settings_grid(**found)
    except InputError as error:
        raise InputError(f"fine={text!r}: {error}") from None
    return found


def _plain_value(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _tasks(values: dict) -> list[str]:
    return [values["task"], *filter(None, map(str.strip, values["keep"].split(",")))]


def _check_task(spec: str) -> None:
    check_spec(spec)
    if is_file(spec) and not Path(spec).is_file():
        raise InputError(f"task file {spec!r} is not there; give the path of a .csv or .jsonl file, or a task by name")


def _check_columns(values: dict) -> None:
    if values["columns"] and not any(map(is_file, _tasks(values))):
        raise InputError(f"columns={values['columns']!r} is for files, and {values['task']!r} is none; leave it out")


def _check_number(name: str, value: int) -> None:
    if value < LEAST[name]:
        raise InputError(f"{name}={value} is out of range; give at least {LEAST[name]}")
    if name == "draws" and value == 1:
        raise InputError("draws=1 is out of range; agreement needs at least 2 draws of the prompts, or 0 for none")
    if name == "n" and value == 1:
        raise InputError("n=1 is out of range; a single prompt pair cannot be halved, give at least 2, or 0 for all there are")


def _checks(values: dict) -> Iterator[tuple[str, partial]]:
    """What can be known of the analysis's parameters before a model is loaded: the parameter, and what raises InputError."""
    from mctrace_nb.compare import named_methods
    from mctrace_nb.components import BLOCK_KINDS, KINDS
    from mctrace_nb.metrics import ANSWER_RULES, get_metric
    from mctrace_nb.models import DTYPES
    from mctrace_nb.relax import Settings
    from mctrace_nb.report import earlier
    from mctrace_nb.results import SCORE
    from mctrace_nb.rows import POSITIONS
    from mctrace_nb.sides import CACHES, CORRUPTIONS, NOISE_ON

    yield from (("task" if spec == values["task"] else "keep", partial(_check_task, spec)) for spec in _tasks(values))
    yield "columns", partial(_check_columns, values)
    yield "metric", partial(get_metric, values["metric"])
    for name, allowed in (("positions", POSITIONS), ("corruption", CORRUPTIONS), ("answer_rule", ANSWER_RULES),
                          ("noise_on", NOISE_ON), ("cache", CACHES), ("direction", SCORE), ("dtype", DTYPES),
                          ("position_map", ("", *BLOCK_KINDS))):
        yield name, partial(one_of, values[name], allowed, name)
    yield from (("components", partial(one_of, kind.strip(), KINDS, "kind of component")) for kind in values["components"].split(","))
    yield from ((name, partial(_check_number, name, values[name])) for name in LEAST)
    if values["earlier"]:
        yield "earlier", partial(earlier, values["earlier"])
    yield "methods", partial(named_methods, values["methods"], 1, [1])
    for name in ("lambda1", "lambda2", "schedule", "lr", "rounding"):
        if values[name] not in OWN:
            yield name, partial(Settings, **{name: values[name]})
    yield "fine", partial(fine_grid, values["fine"])


def problems(values: dict) -> Iterator[tuple[str, str]]:
    """All that is wrong with the analysis's parameters as far as can be known before a model is loaded: parameter and message."""
    for name, check in _checks(values):
        try:
            check()
        except InputError as error:
            yield name, str(error)


def validate(parameters: dict) -> dict:
    """The analysis's parameters with their types, those left out filled in.

    Raises InputError for unknown names (the nearest is named), wrong types, and values that can be known to be wrong
    before a model is loaded.

        >>> mct.parameters.validate({"task": "names", "budgett": 2})
        Traceback (most recent call last):
            ...
        mctrace_nb.errors.InputError: unknown parameter 'budgett'; did you mean 'budget'? (there are: ...
    """
    values = filled(parameters)
    for _, message in problems(values):
        raise InputError(message)
    return values


def foresee(parameters: dict):
    """The `Cost` of a run with these parameters: its real prompts are counted, but no weight is loaded.

    Raises InputError as `validate` does, and for a model or task that cannot be found.

        >>> mct.parameters.foresee({"task": "names", "n": 16, "budget": 1, "methods": "greedy"}).rows
        {'greedy': 544, 'random': 2560}
    """
    import torch

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
                    device=values["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
