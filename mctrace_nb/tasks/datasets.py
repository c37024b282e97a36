"""What all tasks by name have in common: variants, where they come from, and how they become a Task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks.files import Record
from mctrace_nb.tasks.sources import Source
from mctrace_nb.tasks.task import Task, build

Read = Callable[[str], Path]  # the name of one of the data set's files -> the path of the copy to read


@dataclass(frozen=True)
class Request:
    """What the user asked for: the spec as written, one variant of each set, and the options of `load_task`."""

    spec: str
    name: str
    variants: tuple[str, ...]
    n: int | None
    seed: int
    heldout: float
    data_dir: str | Path | None
    aligned: bool
    chat: bool


class Loader(Protocol):
    """An entry of LOADERS. variants: sets of words of which a spec names one each, the first being the default.

    count: how many pairs there are, in words.
    """

    variants: tuple[tuple[str, ...], ...]
    count: str

    def load(self, request: Request, model) -> Task: ...


@dataclass(frozen=True)
class DataSet:
    """A published data set. pairs(read, variants, seed) gives its raw pairs in the published order.

    spaced: whether an answer that begins with a letter or digit gets a space before it.
    """

    source: Source
    pairs: Callable[[Read, tuple[str, ...], int], list[dict]]
    count: str
    variants: tuple[tuple[str, ...], ...] = ()
    spaced: bool = True

    def raw(self, variants: tuple[str, ...], seed: int, data_dir: str | Path | None, notes: list[str]) -> list[dict]:
        """The pairs as texts, before any tokenizer. Raises InputError if a file is missing or of another format."""
        try:
            return self.pairs(lambda file: self.source.fetch(file, data_dir, notes), variants, seed)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a file of {self.source.folders[0]} is not in the published format ({type(error).__name__}: "
                             f"{error}); compare your copy with {self.source.url}") from None

    def load(self, request: Request, model) -> Task:
        """Pairs that the tokenizer does not align are left out and counted in the notes."""
        notes: list[str] = []
        pairs = self.raw(request.variants, request.seed, request.data_dir, notes)
        records = [Record(i, pair) for i, pair in enumerate(pairs)]
        return build(records, model, request.spec, request.heldout, request.seed, self.source.url, request.n, True,
                     request.aligned, request.chat, self.spaced, notes, fewer=True)


def parse(spec: str, loaders) -> tuple[str, tuple[str, ...]]:
    """A spec such as "winobias:test:anti" as its name and one variant of each set; variants in any order.

    Raises InputError for an unknown name or variant (the nearest is named), and for two variants of one set.
    """
    name, *words = str(spec).split(":")
    one_of(name, loaders, "task")
    sets = loaders[name].variants
    if words and not sets:
        raise InputError(f"task {name!r} has no variants, but {spec!r} asks for {words[0]!r}; write {name!r}")
    chosen = [options[0] for options in sets]
    named: set[int] = set()
    for word in words:
        one_of(word, [w for options in sets for w in options if w], f"variant of {name}")
        place = next(i for i, options in enumerate(sets) if word in options)
        if place in named:
            raise InputError(f"{spec!r} asks for {chosen[place]!r} and {word!r}; choose one of "
                             f"{', '.join(filter(None, sets[place]))}")
        named.add(place)
        chosen[place] = word
    return name, tuple(chosen)
