"""What a study is: `grid.yaml` checked whole, and spread out into runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Iterator

from mctrace_nb.errors import InputError
from mctrace_nb.parameters import filled, fine_grid, notebook_parameters, problems, typed
from mctrace_nb.study.description import LIMITS, Mistakes, complaints, parsed, schema
from mctrace_nb.study.identity import code_version, name_of

MOST_RUNS = 20_000  # notebooks; what is finer belongs into `fine`
NEEDS_OTHERS = ("columns",)  # parameters that cannot be judged alone


@dataclass(frozen=True)
class Run:
    """One run: `name` of its folder, what differs from other runs (`axes`), all parameters of its notebook, and the line of the grid that it
    comes from."""

    name: str
    axes: dict
    parameters: dict
    line: int = 0


@dataclass(frozen=True)
class Grid:
    """A study as described: its file and text, the notebook (None: the analysis), the version of the code, the axes, limits of a run, and the runs."""

    path: Path
    text: str
    notebook: Path | None
    code: str
    axes: tuple[str, ...]
    limits: dict
    runs: tuple[Run, ...] = field(repr=False)


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _as_text(settings: dict) -> str:
    """The form in which the notebook's parameter `fine` takes settings."""
    return "; ".join(f"{name}={','.join(map(str, _listed(values)))}" for name, values in settings.items())


def _values(data: dict) -> Iterator[tuple[tuple, str, list]]:
    """Each parameter of a document with its place and its values; parts of another form are passed over."""
    blocks = [(("fixed",), data.get("fixed"))] + [(("grid", i) if isinstance(data["grid"], list) else ("grid",), one)
                                                  for i, one in enumerate(_listed(data.get("grid")))]
    for place, block in blocks:
        if isinstance(block, dict):
            yield from (((*place, name), name, _listed(values)) for name, values in block.items())


def _alone(data: dict, notebook: Path | None, base: Path, lines: dict) -> Iterator[tuple[int, str]]:
    """What is wrong with values by themselves, whatever the others are."""
    known = {p["name"]: p for p in notebook_parameters(notebook)}
    fixed = data.get("fixed") if isinstance(data.get("fixed"), dict) else {}
    for place, name, values in _values(data):
        if place[0] == "grid" and name in fixed:
            yield lines[(*place, ":")], f"{name} is fixed as well, in line {lines[('fixed', name, ':')]}; give it in one place"
        for i, value in enumerate(values):
            line = lines.get((*place, i), lines[place])
            if value in values[:i]:
                yield line, f"{name}: {value!r} is given twice"
            try:
                typed(name, value, known[name])
            except (InputError, KeyError):  # the schema says so
                continue
            if notebook is None and name not in NEEDS_OTHERS:
                yield from ((line, message) for about, message in problems(filled({name: value}, None, base)) if about == name)


def _fine(data: dict, notebook: Path | None, lines: dict) -> Iterator[tuple[int, str]]:
    """What is wrong with the fine grid."""
    if notebook is not None:
        yield lines[("fine", ":")], "fine is for the analysis; another notebook has no relaxed search to run it in"
    elif any(name == "fine" for _, name, _ in _values(data)):
        yield lines[("fine", ":")], "fine is given as a parameter as well; give it in one place"
    for name, values in data["fine"].items() if isinstance(data["fine"], dict) else ():
        try:
            fine_grid(_as_text({name: values}))
        except InputError as error:
            yield lines[("fine", name)], f"{name}: {str(error).partition(': ')[2]}"


def read(path: str | Path) -> Grid:
    """Reads and checks a grid. Raises InputError if there is no file, Mistakes for everything wrong in it, all at once."""
    path = Path(path).expanduser().resolve()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"grid {str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}); give the path of a .yaml file") from None
    data, lines, wrong = parsed(text, path)
    named = isinstance(data, dict) and isinstance(data.get("notebook"), str)
    notebook = path.parent / Path(data["notebook"]).expanduser() if named else None
    try:
        wrong += complaints(data, schema(notebook), lines)
    except InputError as error:
        raise Mistakes(path, [*wrong, (lines[("notebook",)], str(error))]) from None
    if not isinstance(data, dict) or "grid" not in data:
        raise Mistakes(path, wrong)
    wrong += _alone(data, notebook, path.parent, lines)
    if "fine" in data:
        said = {line for line, _ in wrong}
        wrong += [(line, message) for line, message in _fine(data, notebook, lines) if line not in said]
    if wrong:
        raise Mistakes(path, wrong)
    grids = _listed(data["grid"])
    count = sum(prod(len(_listed(v)) for v in one.values()) for one in grids)
    if count > MOST_RUNS:
        raise Mistakes(path, [(lines[("grid", ":")], f"{count:,} runs are more than {MOST_RUNS:,} notebooks; settings of the relaxed search "
                                                     "belong into fine, where they are rows of one batch")])
    return _spread(path, text, notebook, data, {**LIMITS, **data.get("limits", {})}, lines)


def _spread(path: Path, text: str, notebook: Path | None, data: dict, limits: dict, lines: dict) -> Grid:
    """Every combination as a run; what can be known to be wrong with any is said of the line that it comes from."""
    everywhere = {**data.get("fixed", {}), **({"fine": _as_text(data["fine"])} if data.get("fine") else {})}
    chosen, wrong, grids = [], [], _listed(data["grid"])
    for number, one in enumerate(grids):
        place = ("grid", number) if isinstance(data["grid"], list) else ("grid",)
        for values in product(*(list(enumerate(_listed(v))) for v in one.values())):
            given = {**everywhere, **{name: value for name, (_, value) in zip(one, values)}}
            full = filled(given, notebook, path.parent)
            where = {name: lines.get((*place, name, i), lines[(*place, name)]) for name, (i, _) in zip(one, values)}
            wrong += [(where.get(name, lines.get(("fixed", name), lines[place])), message)
                      for name, message in (problems(full) if notebook is None else ())]
            chosen.append((given, full, where.get("model", min(where.values()))))
    if wrong:
        raise Mistakes(path, wrong)
    names = list(dict.fromkeys(name for given, *_ in chosen for name in given))
    axes = tuple(name for name in names if len({full[name] for _, full, _ in chosen}) > 1) or tuple(list(grids[0])[:1])
    types, code, runs = {p["name"]: p for p in notebook_parameters(notebook)}, code_version(notebook), {}
    for given, full, line in chosen:
        plain = {name: typed(name, given[name], types[name]) if name in given else full[name] for name in names}
        differ = {name: plain[name] for name in axes}
        run = Run(name_of(differ, plain, full, code), differ, full, line)
        runs.setdefault(run.name, run)  # grids that overlap give the same run once
    return Grid(path, text, notebook, code, axes, limits, tuple(runs.values()))
