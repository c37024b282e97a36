"""Prompt pairs as they come, from lists, frames, .jsonl and .csv files, as records with the user's numbering."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Iterable, Mapping

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks.encode import REQUIRED

COLUMNS = (*REQUIRED, "group", "cohort", "subject")
SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Record:
    """What the user wrote in one place: `unit number` ("line 7"), its fields, or the problem with reading them."""

    number: int
    fields: Mapping
    unit: str = "prompt"
    problem: str = ""


def from_rows(pairs: Iterable[Mapping], columns: Mapping | str | None) -> list[Record]:
    """Records of a list of mappings or of a pandas frame, numbered from 0. Raises InputError for unknown columns."""
    if hasattr(pairs, "to_dict"):
        pairs = pairs.astype(object).where(pairs.notna(), None).to_dict("records")  # every kind of empty cell is None
    pairs = list(pairs)
    odd = next((i for i, pair in enumerate(pairs) if not isinstance(pair, Mapping)), None)
    if odd is not None:
        raise InputError(f"prompt {odd} is {pairs[odd]!r}, not a mapping; give {{base, counterfactual, target, foil}}")
    return _mapped([Record(i, dict(pair)) for i, pair in enumerate(pairs)], columns, "the prompt pairs")


def from_path(path: Path, columns: Mapping | str | None) -> list[Record]:
    """Records of a .csv (with a header) or .jsonl file in UTF-8, numbered by line. Raises InputError naming the repair."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"file {str(path)!r} is neither .csv nor .jsonl; save the prompt pairs as one of these")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give a .csv or .jsonl file in it")
    if not path.is_file():
        raise InputError(f"file {str(path)!r} is not there; give the path of a .csv or .jsonl file")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        line = error.object[:error.start].count(b"\n") + 1
        raise InputError(f"file {str(path)!r}, line {line}: not UTF-8; save the file in UTF-8") from None
    records = (_csv if path.suffix.lower() == ".csv" else _jsonl)(text, path)
    if not records:
        raise InputError(f"file {str(path)!r} holds no prompt pairs; give one a line")
    return _mapped(records, columns, repr(str(path)))


def _jsonl(text: str, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: texts may hold other line separators
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            problem = "" if isinstance(fields, dict) else f"{line.strip()[:40]!r} is not an object; write {{\"base\": ...}}"
        except json.JSONDecodeError as error:
            problem = f"broken JSON at character {error.colno} ({error.msg}); write one object a line"
        records.append(Record(number, {} if problem else fields, "line", problem))
    return records


def _csv(text: str, path: Path) -> list[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, records, begins = None, [], 1
    try:
        for cells in reader:
            begins, number = reader.line_num + 1, begins  # a cell may hold line breaks: the row's first line counts
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                for mark, name in ((";", "semicolons"), ("\t", "tabs")):
                    if len(header) == 1 and mark in header[0]:
                        raise InputError(f"file {str(path)!r} is separated by {name}; save it with commas")
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise InputError(f"file {str(path)!r} has two columns {twice!r}; rename one")
                continue
            problem = "" if len(cells) == len(header) else (
                f"{len(cells)} cells where the header has {len(header)}; quote cells that hold a comma")
            records.append(Record(number, {} if problem else dict(zip(header, cells)), "line", problem))
    except csv.Error as error:
        raise InputError(f"file {str(path)!r}, line {begins}: {error}; close every quote, and write a quote inside a quoted "
                         'cell twice ("")') from None
    return records


def _mapping(columns: Mapping | str | None) -> dict[str, str]:
    """{our name: theirs} from a mapping or from the command line's `base=prompt,foil=wrong`."""
    if isinstance(columns, str):
        parts = [part.partition("=") for part in columns.split(",") if part.strip()]
        odd = next((name for name, equals, theirs in parts if not (equals and theirs.strip())), None)
        if odd is not None:
            raise InputError(f"columns={columns!r} is not understood at {odd!r}; write base=prompt,foil=wrong")
        columns = {name.strip(): theirs.strip() for name, _, theirs in parts}
    for name in columns or {}:
        one_of(name, COLUMNS, "name on the left side of columns")
    return dict(columns or {})


def _mapped(records: list[Record], columns: Mapping | str | None, where: str) -> list[Record]:
    """The records under our names. Raises InputError for a column that is neither ours nor mapped to one of ours."""
    columns = _mapping(columns)
    there = list(dict.fromkeys(str(name) for record in records for name in record.fields))
    if not there:  # no rows: reported by whoever needs some
        return records
    for theirs in columns.values():
        one_of(theirs, there, f"column of {where}")
    ours = {theirs: name for name, theirs in columns.items()}
    wrong = []
    for name in there:
        if name in columns and name not in ours:
            wrong.append(f"{name!r} is a column of {where}, but columns says that the {name} is in {columns[name]!r}; remove one of "
                         "the two")
        elif name not in COLUMNS and name not in ours:
            free = [c for c in COLUMNS if c not in there and c not in columns]
            near = get_close_matches(name.lower(), free, 1)
            likely = (near or free or COLUMNS)[0]
            wrong.append(f"unknown column {name!r} in {where}" + (f"; did you mean {near[0]!r}?" if near else "")
                         + f" (known: {', '.join(COLUMNS)}); remove it, or if it holds the {likely}, say columns={{{likely!r}: {name!r}}} "
                           f"(--columns {likely}={name})")
    if wrong:
        raise InputError("; ".join(wrong))
    lacking = [name for name in ("base", "target", "foil") if name not in there and name not in columns]
    if lacking:
        raise InputError(f"{where} has no column {', '.join(lacking)} (it has {', '.join(there)}); add what is missing, or say "
                         "which column holds it with columns={ours: yours} (--columns ours=yours)")
    return [replace(r, fields={ours.get(str(key), str(key)): value for key, value in r.fields.items()}) for r in records]
