"""Task: prompt pairs as token ids, checked once and never re-tokenised."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from random import Random
from typing import Iterable, Mapping

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks.encode import REQUIRED, Encoder, Reader, absent
from mctrace_nb.tasks.example import Example
from mctrace_nb.tasks.files import Record, from_path, from_rows
from mctrace_nb.tasks.table import TokenTable


@dataclass(frozen=True)
class Task:
    """Prompt pairs for searching (`search`) and, kept apart, for reporting (`heldout`).

    name, source: what it is and where it comes from; notes: what a reader of results should know about the data, such
    as rows that were left out; text: a Reader that decodes token ids for display.

        >>> task.tokens(0)
         position   base counterfactual differs    role
                0  <bos>          <bos>          prompt
                1   when           when          prompt
                2  Julia          Julia          prompt
                3    and            and          prompt
                4  Peter          Peter          prompt
                5   went           went          prompt
                6     to             to          prompt
                7    the            the          prompt
                8 garden         garden          prompt
                9      ,              ,          prompt
               10  Julia          Peter       ≠ subject
               11   gave           gave          prompt
               12      a              a          prompt
               13   cake           cake          prompt
               14     to             to          prompt
               15  Peter          Julia       ≠  answer
        >>> mine = mct.Task.from_pairs([dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she"),
        ...                             dict(base="the pilot said that", counterfactual="the woman said that", target="she", foil="he")], model)
        >>> len(mine.search), len(mine.heldout)
        (1, 1)
    """

    name: str
    search: tuple[Example, ...]
    heldout: tuple[Example, ...] = ()
    source: str = ""
    seed: int = 0
    text: object = field(default=str, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.search:
            raise InputError(f"task {self.name!r} has no prompt pairs to search on; give at least one")

    def __repr__(self) -> str:
        notes = f"; {len(self.notes)} note{'s' * (len(self.notes) > 1)}, see .notes" if self.notes else ""
        return f"Task({self.name!r}: {len(self.search)} search + {len(self.heldout)} held-out prompt pairs{notes})"

    def to_frame(self):
        """A table of the prompt pairs: half, base, counterfactual, target, foil, group, cohort."""
        import pandas as pd

        rows = [dict(half=half, base=self.text(e.base), counterfactual=self.text(e.counterfactual),
                     target=self.text(e.target), foil=self.text(e.foil), group=e.group, cohort=e.cohort)
                for half, examples in (("search", self.search), ("heldout", self.heldout)) for e in examples]
        return pd.DataFrame(rows)

    def tokens(self, i: int, half: str = "search") -> TokenTable:
        """The tokens of pair `i` of a half ("search" or "heldout") as a table, special tokens and all.

        Raises InputError if there is no such pair.
        """
        examples = getattr(self, one_of(half, ("search", "heldout"), "half"))
        if not 0 <= i < len(examples):
            raise InputError(f"i={i} is out of range; the {half} half has {len(examples)} prompt pairs, numbered from 0")
        return TokenTable(examples[i], getattr(self.text, "pieces", lambda ids: [str(x) for x in ids]))

    @classmethod
    def from_pairs(cls, pairs: Iterable[Mapping], model, name: str = "pairs", heldout: float = 0.5, seed: int = 0,
                   source: str = "", n: int | None = None, columns: Mapping | str | None = None,
                   skip_bad_rows: bool = False, aligned: bool = True, chat: bool = False) -> "Task":
        """A task from a list of mappings, or a frame, with `base, counterfactual, target, foil`.

        Optional: `group`, `cohort`, and `subject`, the text in the base prompt that noise acts on; where every pair has a
        subject, `counterfactual` may be left out altogether (for `corruption="noise"`).

        heldout: the share of the pairs that is held out, split by group with the seed; groups are never divided, and
        without groups every pair is its own. n: draws so many of the pairs with the seed (default all). columns: our
        names to yours, {"base": "prompt"}. skip_bad_rows: leaves out what cannot be used and says so in `notes`.
        aligned: prompts must agree token by token; False for prompts of different length (positions="last").
        chat: each base and counterfactual is the user's message under the tokenizer's chat template.

        Raises one InputError with what is wrong with the pairs, the first ten in full.
        """
        return build(from_rows(pairs, columns), model, name, heldout, seed, source, n, skip_bad_rows, aligned, chat)

    @classmethod
    def from_file(cls, path: str | Path, model, name: str = "", heldout: float = 0.5, seed: int = 0, source: str = "",
                  n: int | None = None, columns: Mapping | str | None = None, skip_bad_rows: bool = False,
                  aligned: bool = True, chat: bool = False) -> "Task":
        """A task from a `.csv` (with a header) or `.jsonl` file in UTF-8; as `from_pairs`, with problems named by line."""
        path = Path(path).expanduser()
        return build(from_path(path, columns), model, name or path.stem, heldout, seed, source or path.name, n,
                     skip_bad_rows, aligned, chat)


def check_numbers(n, heldout) -> None:
    """Raises InputError unless `n` is a number of pairs (None: all) and `heldout` a share."""
    if n is not None and (isinstance(n, bool) or not isinstance(n, Integral) or n < 0):
        raise InputError(f"n={n!r} is not a number of prompt pairs; give a whole number, or None for all")
    if not isinstance(heldout, Real) or not 0 <= heldout < 1:
        raise InputError(f"heldout={heldout!r} must lie in [0, 1)")


def _first(problems: list[str], most: int) -> str:
    """A file with one mistake in every line would fill the screen with it."""
    return "; ".join(problems[:most]) + (f"; and {len(problems) - most} more" if len(problems) > most else "")


def build(records: list[Record], model, name: str, heldout: float, seed: int, source: str, n: int | None, skip: bool,
          aligned: bool, chat: bool, spaced: bool = True, notes: Iterable[str] = (), fewer: bool = False) -> Task:
    """Checks, draws and splits: every task from pairs is made here. fewer: if there are less than n, all are taken."""
    check_numbers(n, heldout)
    if not records:
        raise InputError("no prompt pairs given; give a list of {base, counterfactual, target, foil}")
    notes = list(notes)
    examples, problems = _encoded(records, Encoder(model.tokenizer, chat, aligned, spaced))
    if problems and not skip:
        raise InputError((f"{len(problems)} of {len(records)} prompt pairs cannot be used: " if len(problems) > 1 else "")
                         + _first(problems, 10))
    if problems:
        notes.append(f"{len(problems)} of {len(records)} rows left out: {_first([p[:200] for p in problems], 3)}")
    if not examples:
        raise InputError(f"no prompt pair can be used: {notes[-1]}")
    if n and n > len(examples):
        if not fewer:
            raise InputError(f"n={n} prompt pairs asked for, {len(examples)} can be used; ask for fewer")
        notes.append(f"n={n} asked for; there are {len(examples)} usable pairs, all are taken")
    elif n:
        examples = [examples[i] for i in sorted(Random(seed).sample(range(len(examples)), n))]
    alike = [e for e in examples if e.target[0] == e.foil[0]]
    if alike:
        notes.append(f"target and foil begin with the same token in {len(alike)} of {len(examples)} pairs "
                     f"({alike[0].unit} {', '.join(str(e.number) for e in alike)})")
    try:
        search, kept_out = _split(examples, heldout, seed)
    except InputError as error:  # too few pairs, perhaps because rows were left out
        raise InputError("; ".join([str(error), *notes])) from None
    return Task(name, search, kept_out, source, seed, Reader(model.tokenizer), tuple(notes))


def _encoded(records: list[Record], encoder: Encoder) -> tuple[list[Example], list[str]]:
    """The usable examples, and one text for each record that cannot be used, duplicates among them."""
    has = {key for record in records for key, value in record.fields.items() if not absent(value)}
    noise_only = "subject" in has and "counterfactual" not in has
    required = ("base", "target", "foil", "subject") if noise_only else REQUIRED
    examples, problems, first = [], [], {}
    for record in records:
        where = f"{record.unit} {record.number}"
        if record.problem:
            problems.append(f"{where}: {record.problem}")
            continue
        try:
            e = encoder.example(record.fields, record.number, record.unit, required)
        except InputError as error:
            problems.append(str(error))
            continue
        same = first.setdefault((e.base, e.counterfactual, e.target, e.foil), where)
        if same != where:
            problems.append(f"{where}: the same pair as {same}; remove one")
        else:
            examples.append(e)
    return examples, problems


def _split(examples: list[Example], heldout: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    # Pairs with one base prompt belong together even without a group, and so do a pair and its mirror image: else the same
    # prompt would be searched on and held out. (Many pairs may share a counterfactual prompt.)
    bases, root = {e.base for e in examples}, {}

    def first(prompt):
        while root.get(prompt, prompt) != prompt:
            prompt = root[prompt]
        return prompt

    for e in examples:
        if e.counterfactual in bases:
            root[first(e.base)] = first(e.counterfactual)
    own = [e.group or f"#{first(e.base)}" for e in examples]
    groups = sorted(set(own))
    Random(seed).shuffle(groups)
    if heldout and len(groups) < 2:
        what = "one pair" if len(examples) == 1 else f"{len(examples)} pairs of one group (or all the same)"
        raise InputError(f"{what} cannot be split into search and held-out prompts; give more (in Python also heldout=0)")
    count = min(max(round(heldout * len(groups)), heldout > 0), len(groups) - 1)  # neither half is left empty
    kept_out = set(groups[len(groups) - count:])
    halves = [[], []]
    for group, e in zip(own, examples):
        halves[group in kept_out].append(e)
    return tuple(halves[0]), tuple(halves[1])
