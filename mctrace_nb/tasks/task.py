"""Task and Example: prompt pairs as token ids, checked once and never re-tokenised."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from random import Random
from typing import Iterable, Mapping

from mctrace_nb.errors import InputError


@dataclass(frozen=True)
class Example:
    """One prompt pair in token ids.

    target is the answer that the counterfactual prompt favours, foil the one the base prompt favours. subject: first
    and last + 1 token of the span that noise or `positions="subject"` act on. group: prompts of one template share it.
    """

    base: tuple[int, ...]
    counterfactual: tuple[int, ...]
    target: tuple[int, ...]
    foil: tuple[int, ...]
    group: str = ""
    subject: tuple[int, int] | None = None
    cohort: str = ""
    number: int | None = field(default=None, compare=False)  # its place in what the user gave

    def called(self, place: int) -> str:
        """How errors name it: by the user's numbering where that is known, else by its place in its half."""
        return f"prompt {place if self.number is None else self.number}"

    @property
    def first_difference(self) -> int:
        """Index of the first token in which the prompts differ; the length of the shorter one if there is none."""
        pairs = zip(self.base, self.counterfactual)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.base), len(self.counterfactual)))


@dataclass(frozen=True)
class Task:
    """Prompt pairs for searching (`search`) and, kept apart, for reporting (`heldout`).

    name, source: what it is and where it comes from; text: decodes token ids for display.
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
        return f"Task({self.name!r}: {len(self.search)} search + {len(self.heldout)} held-out prompt pairs)"

    def to_frame(self):
        """A table of the prompt pairs: half, base, counterfactual, target, foil, group."""
        import pandas as pd

        rows = [dict(half=half, base=self.text(e.base), counterfactual=self.text(e.counterfactual),
                     target=self.text(e.target), foil=self.text(e.foil), group=e.group)
                for half, examples in (("search", self.search), ("heldout", self.heldout)) for e in examples]
        return pd.DataFrame(rows)

    @classmethod
    def from_pairs(cls, pairs: Iterable[Mapping], model, name: str = "pairs", heldout: float = 0.5, seed: int = 0,
                   source: str = "") -> "Task":
        """A task from mappings with `base, counterfactual, target, foil` and optionally `group`.

        The pairs are split by group into search and held-out halves (`heldout` is the share held out; groups are never
        divided; without groups every pair is its own). All bad rows are reported at once in one InputError.
        """
        pairs = list(pairs)
        if not pairs:
            raise InputError("no prompt pairs given; give a list of {base, counterfactual, target, foil}")
        if not 0 <= heldout < 1:
            raise InputError(f"heldout={heldout} must lie in [0, 1)")
        examples, problems = [], []
        for number, pair in enumerate(pairs):
            try:
                examples.append(encode(pair, model.tokenizer, number))
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("; ".join(problems))
        # Equal pairs belong together even without a group, or the same prompt would be searched on and held out.
        own = [e.group or f"#{e.base}{e.counterfactual}" for e in examples]
        groups = sorted(set(own))
        Random(seed).shuffle(groups)
        if heldout and len(groups) < 2:
            what = "one pair" if len(pairs) == 1 else f"{len(pairs)} pairs of one group (or all the same)"
            raise InputError(f"{what} cannot be split into search and held-out prompts; give more, or heldout=0")
        count = min(max(round(heldout * len(groups)), heldout > 0), len(groups) - 1)  # neither half is left empty
        kept_out = set(groups[len(groups) - count:])
        halves = [[], []]
        for group, e in zip(own, examples):
            halves[group in kept_out].append(e)
        return cls(name, tuple(halves[0]), tuple(halves[1]), source, seed, reader(model.tokenizer))


def reader(tokenizer):
    """A function that writes token ids as text, without the tokenizer's special tokens."""
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def _group(value) -> str:
    """A group as text; None and NaN (an empty cell of a table) are no group, 0 is one."""
    return "" if value is None or value != value else str(value)


def _span(ids: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int] | None:
    """The differing span of two equally long prompts."""
    differ = [i for i, (a, b) in enumerate(zip(ids, other)) if a != b]
    return (differ[0], differ[-1] + 1) if differ and len(ids) == len(other) else None


def encode(pair: Mapping, tokenizer, number: int = 0) -> Example:
    """Tokenises one pair; answers are cut out of the tokens of prompt + answer, so spaces and prefixes come out right.

    Raises InputError naming the prompt's number and the repair.
    """
    missing = [key for key in ("base", "counterfactual", "target", "foil") if not pair.get(key)]
    if missing:
        raise InputError(f"prompt {number}: {', '.join(missing)} is missing or empty; give base, counterfactual, "
                         "target and foil")
    base = tuple(tokenizer(pair["base"])["input_ids"])
    counterfactual = tuple(tokenizer(pair["counterfactual"])["input_ids"])
    for side, ids in (("base", base), ("counterfactual", counterfactual)):
        if not ids:
            raise InputError(f"prompt {number}: {side} {pair[side]!r} gives no tokens; write at least one word")
        _check_known(ids, pair[side], tokenizer, number)
    if base == counterfactual:
        raise InputError(f"prompt {number}: base and counterfactual are the same, {pair['base']!r}; change what the behaviour "
                         "depends on")
    answers = {side: _encode_answer(pair["base"], base, pair[side], tokenizer, number, side)
               for side in ("target", "foil")}
    if answers["target"] == answers["foil"]:
        raise InputError(f"prompt {number}: target and foil are the same answer {pair['target']!r}; "
                         "they must differ")
    return Example(base, counterfactual, group=_group(pair.get("group")), subject=_span(base, counterfactual),
                   number=number, **answers)


def _encode_answer(prompt: str, ids: tuple[int, ...], answer: str, tokenizer, number: int, side: str):
    # A word after a word needs its space: " she" and "she" are different tokens for most tokenizers.
    glue = " " if answer[0].isalnum() and not prompt[-1].isspace() else ""
    whole = tuple(tokenizer(prompt + glue + answer)["input_ids"])
    if whole[:len(ids)] != ids:
        raise InputError(f"prompt {number}: {side} {answer!r} changes the tokens of the prompt before it; "
                         "start the answer with a space, or end the prompt without one")
    if len(whole) == len(ids):
        raise InputError(f"prompt {number}: {side} {answer!r} gives no tokens; write an answer that the tokenizer knows")
    _check_known(whole, prompt + glue + answer, tokenizer, number)
    return whole[len(ids):]


def _check_known(ids: tuple[int, ...], text: str, tokenizer, number: int) -> None:
    unknown = tokenizer.unk_token_id  # GPT-2's is its end-of-text token, which no text is turned into
    if unknown is not None and unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id) and unknown in ids:
        words = tokenizer.get_vocab()
        odd = next((w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]), text)
        near = get_close_matches(odd.lower(), words, 1)
        raise InputError(f"prompt {number}: {text!r} holds {odd!r}, which the tokenizer does not know"
                         + (f"; did you mean {near[0]!r}?" if near else "")
                         + " (its words: sorted(model.tokenizer.get_vocab()))")
