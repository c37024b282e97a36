"""`grid.yaml` as text: read safely, each part with its line, and checked against a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.parameters import notebook_parameters

MOST_MISTAKES = 30  # that are printed
LIMITS = {"cell_minutes": 120.0, "run_minutes": 720.0, "memory_gib": None}  # of a run; memory: None for what the estimate allows
JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
KINDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false", "array": "a list",
         "object": "a mapping of names to values"}


class Mistakes(InputError):
    """All that is wrong with a grid, a line each, as `grid.yaml:7: ...`."""

    def __init__(self, path: Path, found: list[tuple[int, str]]):
        self.found = sorted(dict.fromkeys(found))
        shown = [f"{path.name}:{line}: {message}" for line, message in self.found[:MOST_MISTAKES]]
        more = [f"and {len(self.found) - MOST_MISTAKES} more mistakes"] * (len(self.found) > MOST_MISTAKES)
        super().__init__("\n".join(shown + more))


def schema(notebook: str | Path | None = None) -> dict:
    """The JSON schema of `grid.yaml`, made from the notebook's parameters: editors complete and check by it."""
    said = {p["name"]: {"type": JSON_TYPES[p["type"]], "description": p["help"], "default": p["default"]}
            for p in notebook_parameters(notebook) if p["name"] != "out"}

    def values(of: dict) -> dict:
        return {name: {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}], "description": one.get("description", "")}
                for name, one in of.items()}

    grid = {"type": "object", "properties": values(said), "additionalProperties": False, "minProperties": 1}
    setting = {"lambda1": "number", "lambda2": "number", "lr": "number", "init": "number", "seed": "integer", "schedule": "string",
               "transform": "string", "rounding": "string", "penalty": "string", "without": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A study of mctrace_nb", "type": "object",
        "required": ["grid"], "additionalProperties": False,
        "properties": {
            "grid": {"anyOf": [grid, {"type": "array", "items": grid, "minItems": 1}],
                     "description": "parameters and their values; every combination is a run. Several grids are joined"},
            "fixed": {"type": "object", "properties": said, "additionalProperties": False, "description": "parameters that are the same in all runs"},
            "fine": {"type": "object", "properties": values({name: {"type": kind} for name, kind in setting.items()}), "additionalProperties": False,
                     "description": "settings of the relaxed search; every combination is a row of one batch inside each run"},
            "notebook": {"type": "string", "description": "another notebook than the analysis, relative to this file"},
            "limits": {"type": "object", "additionalProperties": False, "description": "of one run",
                       "properties": {name: {"type": "number", "exclusiveMinimum": 0} for name in LIMITS}},
        }}


def _lines(node, path: tuple = ()) -> Iterator[tuple[tuple, int]]:
    """The line on which each part of a YAML document stands, by its path."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value, ":"), key.start_mark.line + 1  # of the key itself
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _lines(value, (*path, i))


def _twice(node, seen: set | None = None) -> Iterator[tuple[int, str]]:
    """Keys that stand twice in one mapping: YAML would keep the last."""
    for child in ([v for _, v in node.value] if isinstance(node, yaml.MappingNode) else node.value if isinstance(node, yaml.SequenceNode) else []):
        yield from _twice(child)
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in keys[:i]:
                yield key.start_mark.line + 1, f"{key.value!r} stands here a second time; give it once, with a list of values"


def parsed(text: str, path: Path):
    """The document's data, the lines of its parts, and mistakes of form. Raises Mistakes if it is no YAML of plain data."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise Mistakes(path, [(1, "the file is empty; write grid: and parameters with their values below it")])
        lines, twice = dict(_lines(node)), list(_twice(node))
        return loader.construct_document(node), lines, twice
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Mistakes(path, [(mark.line + 1 if mark else 1, f"not YAML of plain data: {getattr(error, 'problem', None) or error}")]) from None


def _said(error: ValidationError, lines: dict) -> Iterator[tuple[int, str]]:
    """A schema's complaint in words, with its line."""
    path = tuple(error.absolute_path)
    if error.validator == "anyOf":  # of the alternatives, the one that the document means: a list, or one of them
        wants = 1 if isinstance(error.instance, list) else 0
        inner = [e for e in error.context if e.relative_schema_path[0] == wants]
        for e in inner:
            yield from _said(e, lines)
        return
    line, what = lines.get(path, 1), str(path[-1]) if path else "the file"
    if error.validator == "additionalProperties":
        for name in error.instance:
            if name not in error.schema["properties"]:
                try:
                    one_of(name, error.schema["properties"], "parameter" if path else "key")
                except InputError as unknown:
                    yield lines.get((*path, name, ":"), line), str(unknown)
    elif error.validator == "type":
        name = next((str(p) for p in reversed(path) if isinstance(p, str)), "the file")
        quote = " (put it in quotes if text is meant)" if error.validator_value == "string" else ""
        yield line, f"{name}: {error.instance!r} is not {KINDS[error.validator_value]}{quote}"
    elif error.validator == "required":
        yield line, "there is no grid; write grid: and parameters with their values below it"
    elif error.validator == "exclusiveMinimum":
        yield line, f"{what}: {error.instance} is out of range; give more than {error.validator_value}"
    else:  # empty lists and mappings
        yield line, f"{what}: nothing is given; write at least one value"


def complaints(data, form: dict, lines: dict) -> list[tuple[int, str]]:
    """What a schema says against a document, in words, with lines."""
    return [said for error in Draft202012Validator(form).iter_errors(data) for said in _said(error, lines)]
