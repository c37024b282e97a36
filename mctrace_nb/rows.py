"""Prompts laid out as tokens: what is computed once, what every run repeats, and which logits are read.

Each prompt is cut in two. The *prefix* is everything before the first position at which any run can differ; its keys
and values are computed once. The *suffix* is what every run computes: the rest of the prompt, then the target, then the
foil, in one row. Both answers look back at the prompt and neither at the other (`Batch.allowed`), so the prompt is run once
for both. The last token of an answer is never fed, only read.

The suffixes of all prompts lie one after the other without padding, in the order of the examples. A `Batch` is a choice of
examples, ready to run: everything in it is made on the host, so that a pass on a GPU never waits for an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks import Example

POSITIONS = ("all", "last", "subject")
SIDES = ("base", "counterfactual")
SHORT = 32  # attention to fewer tokens at once is mostly overhead, measured on two cores


def chosen_span(example: Example, side: str, positions: str, number: int = 0) -> tuple[int, int]:
    """First and last + 1 context token on which interventions act."""
    length = len(getattr(example, side))
    if positions == "subject":
        if example.subject is None:
            raise InputError(f"{example.called(number)}: no subject span is known, because the prompts differ in length or not "
                             "at all; positions='subject' and corruption='noise' need one (give Example a subject)")
        return example.subject
    return (0, length) if positions == "all" else (length - 1, length)


def first_needed(corrupted_from: int, span: tuple[int, int], prompt: tuple[int, ...]) -> int:
    """Where the suffix begins: nothing before it can differ, and the last prompt token's logits are always read."""
    return min(max(corrupted_from, span[0]), len(prompt) - 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples of one side, ready to run; B examples with m suffix tokens together, at most T each.

    tokens: (m,) where they stand in the side's tokens. ids, positions: (m,). row: (m,) which of the B each belongs to.
    chosen: (c,) which of the m tokens interventions act on, None for all; kept: (c,) where those stand among the side's
    chosen tokens. mask_of: (m,) which mask each token runs under, where the masks have examples of their own, else None.
    examples: (B,). width T; side_by_side: how many prompts share a row in attention, where they are short; prefix P: the most
    tokens before a suffix. slots: (B T,) the token in each place of a padded row, a row's first token where there is none, and
    real: which places have one; places: (m,) the place of each token; all three None where no row needs padding.
    query, key: (B, T) and (B, P + T) positions, and allowed: (B, 1, T, P + T) which keys exist for a query, None where the
    model's own causal mask says it all. reads: (u,) the tokens whose logits are needed; first: (B,) which read is that of
    the token after the prompt; index, token, token_valid: (B, 2, L) for each token of target and foil the read it comes
    from and its id. on_host: examples, tokens and kept once more, as arrays.
    """

    tokens: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    row: torch.Tensor
    chosen: torch.Tensor | None
    kept: torch.Tensor
    mask_of: torch.Tensor | None
    examples: torch.Tensor
    width: int
    side_by_side: int
    slots: torch.Tensor | None
    real: torch.Tensor | None
    places: torch.Tensor | None
    prefix: int
    query: torch.Tensor | None
    key: torch.Tensor | None
    allowed: torch.Tensor | None
    reads: torch.Tensor
    first: torch.Tensor
    index: torch.Tensor
    token: torch.Tensor
    token_valid: torch.Tensor
    on_host: tuple[np.ndarray, np.ndarray, np.ndarray]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, eq=False)
class Rows:
    """One side of a task on the host, n examples with M suffix tokens together.

    prefix: the tokens before each suffix. start: (n + 1,) where each suffix begins. ids, positions, branch, chosen: (M,) of
    each token its id, its absolute position, whether it belongs to the prompt (0), target (1) or foil (2), and whether
    interventions act on it. read_start: (n + 1,), read_at: tokens of an example, counted from its first, whose logits are
    needed. index, token, token_valid: (n, 2, L), see `Batch`; reads counted from the example's first.
    """

    prefix: list[tuple[int, ...]]
    start: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    chosen: np.ndarray
    read_start: np.ndarray
    read_at: np.ndarray
    index: np.ndarray
    token: np.ndarray
    token_valid: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        return len(self.prefix)

    def batch(self, examples: np.ndarray | None = None) -> Batch:
        """The examples of these numbers, `(B,)`, or `(R, b)` where each of R masks has its own; None for all."""
        return self._everything if examples is None else self._batch(examples)

    @cached_property
    def _everything(self) -> Batch:
        return self._batch(np.arange(len(self)))

    @cached_property
    def prefix_lengths(self) -> np.ndarray:
        return np.array([len(p) for p in self.prefix])

    @cached_property
    def _number(self) -> np.ndarray:
        """(M,) of each chosen token its number among them."""
        return np.cumsum(self.chosen) - 1

    def _batch(self, examples: np.ndarray) -> Batch:
        masks, examples = (len(examples) if examples.ndim == 2 else None), examples.reshape(-1)
        lengths, reads = np.diff(self.start)[examples], np.diff(self.read_start)[examples]
        tokens, local = _ranges(self.start[examples], lengths)
        offset, width = np.cumsum(lengths) - lengths, int(lengths.max())
        row = np.repeat(np.arange(len(examples)), lengths)
        chosen = self.chosen[tokens]
        read, _ = _ranges(self.read_start[examples], reads)
        first = np.cumsum(reads) - reads
        at = np.arange(width)
        real = at < lengths[:, None]  # (B, T)
        slots = offset[:, None] + np.where(real, at, 0)
        even = bool(real.all())
        prefix = self.prefix_lengths[examples]
        side_by_side = next(g for g in (8, 4, 2, 1) if g == 1 or g * width <= SHORT and len(examples) % g == 0)
        plain = side_by_side == 1 and not prefix.any() and not self.branch[tokens].any()
        query = key = allowed = None
        if not plain:
            query, branch = self.positions[tokens][slots], self.branch[tokens][slots]
            before = np.arange(prefix.max())
            exists = np.concatenate([before < prefix[:, None], real], 1)  # (B, P + T)
            key = np.concatenate([np.broadcast_to(before, (len(examples), len(before))), query], 1)
            of = np.concatenate([np.zeros((len(examples), len(before)), branch.dtype), branch], 1)
            allowed = (exists[:, None] & ((of[:, None] == 0) | (of[:, None] == branch[:, :, None])))[:, None]

        def put(x):
            return None if x is None else torch.as_tensor(np.ascontiguousarray(x)).to(self.device, non_blocking=True)

        return Batch(
            put(tokens), put(self.ids[tokens]), put(self.positions[tokens]), put(row),
            None if chosen.all() else put(chosen.nonzero()[0]), put(self._number[tokens[chosen]]),
            None if masks is None else put(row // (len(examples) // masks)), put(examples), width, side_by_side,
            None if even else put(slots.reshape(-1)), None if even else put(real.reshape(-1)),
            None if even else put(row * width + local), int(prefix.max()), put(query), put(key), put(allowed),
            put(np.repeat(offset, reads) + self.read_at[read]), put(first),
            put(first[:, None, None] + self.index[examples]), put(self.token[examples]), put(self.token_valid[examples]),
            (examples, tokens, self._number[tokens[chosen]]))


def _ranges(start: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers start[i], start[i] + 1, ... of each range one after the other, and each counted from its range's start."""
    local = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(start, lengths) + local, local


def lay_out(examples: tuple[Example, ...], side: str, positions: str, corrupted_from: list[int],
            device: torch.device) -> Rows:
    """Lays out one side ("base" or "counterfactual") of the examples.

    corrupted_from: for each example the first position at which base and corrupted run can differ.
    """
    one_of(positions, POSITIONS, "positions")
    prompts = [getattr(e, side) for e in examples]
    spans = [chosen_span(e, side, positions, i) for i, e in enumerate(examples)]
    starts = [first_needed(c, span, p) for c, span, p in zip(corrupted_from, spans, prompts)]
    most = max(len(answer) for e in examples for answer in (e.target, e.foil))
    index, token = (np.zeros((len(examples), 2, most), dtype=np.int64) for _ in "it")
    valid = np.zeros((len(examples), 2, most), dtype=bool)
    ids, places, branch, chosen, reads = [], [], [], [], []
    for i, (e, prompt, start, (low, high)) in enumerate(zip(examples, prompts, starts, spans)):
        rest = len(prompt) - start
        ids.append([*prompt[start:], *e.target[:-1], *e.foil[:-1]])
        places.append([*range(start, len(prompt)), *(len(prompt) + j for a in (e.target, e.foil) for j in range(len(a) - 1))])
        branch.append([0] * rest + [1] * (len(e.target) - 1) + [2] * (len(e.foil) - 1))
        chosen.append([low <= p < high and b == 0 for p, b in zip(places[-1], branch[-1])])
        reads.append([*range(rest - 1, len(ids[-1]))])  # from the prompt's last token on, every one is needed
        for row, answer in enumerate((e.target, e.foil)):
            token[i, row, :len(answer)], valid[i, row, :len(answer)] = answer, True
            index[i, row, 1:len(answer)] = np.arange(1, len(answer)) + row * (len(e.target) - 1)
    flat = [np.array([x for part in parts for x in part]) for parts in (ids, places, branch, chosen, reads)]
    start, read_start = (np.cumsum([0, *map(len, parts)]) for parts in (ids, reads))
    return Rows([p[:s] for p, s in zip(prompts, starts)], start, *flat[:4], read_start, flat[4], index, token, valid, device)


def prefixes(rows: Rows) -> tuple[Rows, np.ndarray]:
    """The prefixes themselves as rows to run, and the numbers of the examples that have one."""
    which = np.array([i for i, p in enumerate(rows.prefix) if p], dtype=np.int64)
    parts = [rows.prefix[i] for i in which]
    start, count = np.cumsum([0, *map(len, parts)]), len(parts)
    ids = np.array([x for p in parts for x in p], dtype=np.int64)
    nothing = np.zeros((count, 2, 1), dtype=np.int64)
    return Rows([()] * count, start, ids, _ranges(0 * start[:-1], np.diff(start))[0], 0 * ids, ids >= 0,
                np.arange(count + 1), np.zeros(count, dtype=np.int64), nothing, nothing, nothing > 0, rows.device), which
