"""Prompts laid out as tensors: what is computed once, what every run repeats, and which logits are read.

Each prompt is cut in two. The *prefix* is everything before the first position at which any run can differ; its keys
and values are computed once (padded on the left). The *suffix* is what every run computes (padded on the right): the
rest of the prompt, then the answer. Rows are `(examples n, K, tokens T)`: `K = 1` when all answers are single tokens,
because then both are read from one row; otherwise row 0 ends in the target and row 1 in the foil. The last token of an
answer is never fed, only read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks import Example

POSITIONS = ("all", "last", "subject")
SIDES = ("base", "counterfactual")


@dataclass(frozen=True)
class Rows:
    """One side of a task as tensors; the first dimension of each is the example.

    prefix, prefix_valid: (n, P) ids and which are not padding. ids, valid, positions: (n, K, T) suffix ids, which are
    not padding, absolute position ids. chosen: (n, K, T) where interventions act. read_row, read_at, read_valid:
    (n, U) the logits that are needed, `read 0` being the first answer token's. index, token, token_valid: (n, 2, L) for
    each token of target and foil the read it comes from and its id.
    """

    prefix: torch.Tensor
    prefix_valid: torch.Tensor
    ids: torch.Tensor
    valid: torch.Tensor
    positions: torch.Tensor
    chosen: torch.Tensor
    read_row: torch.Tensor
    read_at: torch.Tensor
    read_valid: torch.Tensor
    index: torch.Tensor
    token: torch.Tensor
    token_valid: torch.Tensor

    def take(self, examples: torch.Tensor) -> "Rows":
        """The rows of some examples, `(b,)` or `(R, b)`; every field gains that leading shape."""
        return Rows(**{f.name: getattr(self, f.name)[examples] for f in fields(self)})


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


def lay_out(examples: tuple[Example, ...], side: str, positions: str, corrupted_from: list[int],
            device: torch.device) -> Rows:
    """Lays out one side ("base" or "counterfactual") of the examples.

    corrupted_from: for each example the first position at which base and corrupted run can differ.
    """
    one_of(positions, POSITIONS, "positions")
    n = len(examples)
    prompts = [getattr(e, side) for e in examples]
    spans = [chosen_span(e, side, positions, i) for i, e in enumerate(examples)]
    starts = [first_needed(c, span, p) for c, span, p in zip(corrupted_from, spans, prompts)]
    answers = [(e.target, e.foil) for e in examples]
    most = max(len(a) for pair in answers for a in pair)
    k = 1 if most == 1 else 2
    suffixes = [[prompt[start:] + (pair[row][:-1] if k == 2 else ()) for row in range(k)]
                for prompt, start, pair in zip(prompts, starts, answers)]
    p, t = max(starts), max(len(s) for rows in suffixes for s in rows)
    reads = 1 + max(sum(len(a) - 1 for a in pair) for pair in answers)

    def empty(*shape, dtype=torch.long):
        return torch.zeros(n, *shape, dtype=dtype)

    rows = Rows(empty(p), empty(p, dtype=torch.bool), empty(k, t), empty(k, t, dtype=torch.bool), empty(k, t),
                empty(k, t, dtype=torch.bool), empty(reads), empty(reads), empty(reads, dtype=torch.bool),
                empty(2, most), empty(2, most), empty(2, most, dtype=torch.bool))
    for i, (prompt, start, pair, span) in enumerate(zip(prompts, starts, answers, spans)):
        rows.prefix[i, p - start:] = torch.tensor(prompt[:start], dtype=torch.long)
        rows.prefix_valid[i, p - start:] = True
        rows.positions[i] = torch.arange(start, start + t).clamp(max=start + max(map(len, suffixes[i])) - 1)
        rows.chosen[i, :, max(span[0] - start, 0):max(span[1] - start, 0)] = True
        for row, ids in enumerate(suffixes[i]):
            rows.ids[i, row, :len(ids)] = torch.tensor(ids)
            rows.valid[i, row, :len(ids)] = True
        last = len(prompt) - 1 - start
        where = [(0, last)]  # logits after the prompt serve the first token of both answers
        for row, answer in enumerate(pair):
            for j, token in enumerate(answer):
                if j:
                    where.append((row, last + j))
                rows.index[i, row, j] = len(where) - 1 if j else 0
                rows.token[i, row, j] = token
                rows.token_valid[i, row, j] = True
        for u, (row, at) in enumerate(where):
            rows.read_row[i, u], rows.read_at[i, u], rows.read_valid[i, u] = row, at, True
    return Rows(**{f.name: getattr(rows, f.name).to(device) for f in fields(rows)})
