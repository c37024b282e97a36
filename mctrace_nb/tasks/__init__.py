"""Tasks by name: tutorial tasks, published data sets, generated ones, and files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from mctrace_nb import grammar
from mctrace_nb.errors import InputError
from mctrace_nb.tasks import counterfact, minimal_pairs, vig_professions, winobias, winogender
from mctrace_nb.tasks.datasets import DataSet, Loader, Request, parse
from mctrace_nb.tasks.example import Example
from mctrace_nb.tasks.files import SUFFIXES, from_path
from mctrace_nb.tasks.task import Task, build, check_numbers
from mctrace_nb.tasks.tutorial import Tutorial
from mctrace_nb.tasks.variable_binding import VariableBinding

LOADERS: dict[str, Loader] = {
    **{name: Tutorial() for name in grammar.TASKS},
    "winobias": winobias.DATASET,
    "winogender": winogender.DATASET,
    "vig_professions": vig_professions.DATASET,
    "counterfact": counterfact.DATASET,
    "ioi": minimal_pairs.IOI,
    "greater_than": minimal_pairs.GREATER_THAN,
    "variable_binding": VariableBinding(values=True),
    "variable_binding_operation": VariableBinding(values=False),
}

__all__ = ["Example", "LOADERS", "Task", "catalogue", "check_spec", "is_file", "load_task", "raw_pairs"]


def is_file(spec) -> bool:
    """Whether a spec names a file of prompt pairs, by its ending."""
    return Path(str(spec)).suffix.lower() in SUFFIXES


def _check_not_a_path(spec) -> None:
    if str(spec).partition(":")[0] in LOADERS:  # a folder of that name is nobody's task
        return
    if Path(str(spec)).exists() or Path(str(spec)).suffix.lower() in (".tsv", ".txt", ".json", ".xlsx", ".parquet"):
        raise InputError(f"task {str(spec)!r} is neither a task by name nor a .csv or .jsonl file; save the prompt pairs as one of these")


def check_spec(spec: str) -> None:
    """Raises InputError unless `load_task` would know the spec (whether a file is there shows when it is read)."""
    if not is_file(spec):
        _check_not_a_path(spec)
        parse(spec, LOADERS)


def load_task(spec: str | Path, model, n: int | None = 64, seed: int = 0, data_dir: str | Path | None = None,
              heldout: float = 0.5, skip_bad_rows: bool = False, columns: Mapping | str | None = None, aligned: bool = True,
              chat: bool = False) -> Task:
    """A task by name, for example "professions" or "winobias:test:anti", or a file of prompt pairs, "mine.csv".

    n: how many pairs, drawn by the seed; None or 0 takes all there are. Tutorial and generated tasks make `n` fresh pairs
    (at least 2); data sets and files that hold fewer give all and say so in `notes`. heldout: the share held out.
    data_dir: a folder with copies of published files; without one they are downloaded once, verified and kept.
    skip_bad_rows, columns: for files (columns mean nothing for named tasks). skip_bad_rows leaves out rows that cannot be used; of published data they are left
    out always, and counted in `notes`. aligned, chat: as in `Task.from_pairs`.

    Raises InputError for an unknown name or variant, a file that cannot be read or downloaded, rows that cannot be used, or
    a model that does not know the task's words.

        >>> task = mct.load_task("names", model, n=16)
        >>> len(task.search), len(task.heldout), task.text(task.search[0].base)
        (8, 8, 'when Julia and Peter went to the garden , Julia gave a cake to')
    """
    check_numbers(n, heldout)
    if is_file(spec):
        path = Path(spec).expanduser()
        return build(from_path(path, columns), model, path.stem, heldout, seed, path.name, n, skip_bad_rows, aligned, chat,
                     fewer=True)
    check_spec(spec)
    name, variants = parse(spec, LOADERS)
    return LOADERS[name].load(Request(spec, name, variants, n, seed, heldout, data_dir, aligned, chat), model)


def raw_pairs(spec: str, data_dir: str | Path | None = None, seed: int = 0) -> list[dict]:
    """The pairs of a published data set as texts, in the published order, before any tokenizer has left some out.

    Raises InputError as `load_task` does, and for tasks that are generated.
    """
    name, variants = parse(spec, LOADERS)
    if not isinstance(LOADERS[name], DataSet):
        raise InputError(f"task {name!r} is generated for a model and has no published pairs; use load_task")
    return LOADERS[name].raw(variants, seed, data_dir, [])


def catalogue(data_dir: str | Path | None = None) -> list[dict[str, str]]:
    """Every task: name, variants (the first of each set is the default), pairs, licence, source, citation, copy.

    copy tells where the data set's files would be read from, in `data_dir` or the cache. Nothing is downloaded.
    """
    return [dict(name=name, variants=", ".join("|".join(w for w in options if w) for options in loader.variants),
                 pairs=loader.count, **_origin(loader, data_dir)) for name, loader in LOADERS.items()]


def _origin(loader: Loader, data_dir: str | Path | None) -> dict[str, str]:
    if not isinstance(loader, DataSet):
        return dict(licence="MIT, like this package", source="generated here", citation="", copy="none needed")
    source = loader.source
    copies = [source.copy(file, data_dir) for file in source.files]
    here = ", ".join(sorted({str(copy.parent) for copy in copies if copy}))
    some = "" if all(copies) else f" ({sum(map(bool, copies))} of {len(copies)} files)"
    return dict(licence=source.licence, source=source.url, citation=source.citation,
                copy=here + some if here else "not yet downloaded")
