"""How the tokens of a pass lie: one after the other in all that works token by token, as rows of prompts in attention.

A pass runs R copies (one a mask) of a batch of B prompts as one "prompt" of R m tokens, so that no matrix product sees
padding. Only attention needs to know whose token is whose: `Packed` turns queries, keys and values into R B rows (of short
prompts several lie side by side in one), puts the keys and values of the prefix before them, says who may look at whom, and turns the result back.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mctrace_nb.errors import InputError
from mctrace_nb.rows import Batch


class _Reorder(torch.autograd.Function):
    """Rows of x by number; the gradient goes back by number too, instead of by adding up, which is slow."""

    @staticmethod
    def forward(ctx, x, forth, back, real):
        ctx.save_for_backward(back, real)
        return x.index_select(0, forth)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        back, real = ctx.saved_tensors
        found = gradient.index_select(0, back)
        return (found if real is None else found * real.view(-1, *[1] * (found.ndim - 1))), None, None, None


class Whole:
    """Attention as the model itself lays it out: rows of equally many tokens without a prefix (`apply`)."""

    def __init__(self, rows: int):
        self.rows = rows

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def join(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def heads(self, kept: torch.Tensor) -> torch.Tensor:
        """(T, heads, head width) -> (rows, heads, T, head width)"""
        return kept.transpose(0, 1).expand(self.rows, *kept.transpose(0, 1).shape)

    def after(self, prefix: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        return x


class Packed:
    """R copies of a batch in one pass; see the top of this file."""

    def __init__(self, batch: Batch, copies: int):
        self.batch, self.copies = batch, copies
        self.rows, self.width = copies * len(batch) // batch.side_by_side, batch.width * batch.side_by_side
        self.slots, self.places, self.real = batch.slots, batch.places, batch.real
        if copies > 1 and not self.even:
            self.slots, self.places = (self._repeated(x, size) for x, size in ((batch.slots, len(batch.tokens)),
                                                                               (batch.places, len(batch.slots))))
            self.real = batch.real.repeat(copies)

    @property
    def even(self) -> bool:
        return self.batch.slots is None

    def _repeated(self, numbers: torch.Tensor, size: int) -> torch.Tensor:
        shift = torch.arange(self.copies, device=numbers.device) * size
        return (shift[:, None] + numbers).flatten()

    def _rows(self, x: torch.Tensor, copies: int) -> torch.Tensor:
        """(copies m, heads, head width) -> (copies B, heads, T, head width)"""
        if not self.even:
            slots, places = (self.slots, self.places) if copies == self.copies else (self.batch.slots, self.batch.places)
            x = _Reorder.apply(x, slots.to(x.device), places.to(x.device), None)
        return x.unflatten(0, (-1, self.width)).transpose(1, 2)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(1, heads, R m, head width) -> (R B, heads, T, head width)"""
        return self._rows(x[0].transpose(0, 1), self.copies)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """(R B, T, heads, head width) -> (1, R m, heads, head width)"""
        x = x.flatten(0, 1)
        if not self.even:
            x = _Reorder.apply(x, *(i.to(x.device) for i in (self.places, self.slots, self.real)))
        return x[None]

    def heads(self, kept: torch.Tensor) -> torch.Tensor:
        """Values of the batch's tokens, (m, heads, head width), or of R copies -> (R B, heads, T, head width)"""
        if len(kept) == self.copies * len(self.batch.tokens):
            return self._rows(kept, self.copies)
        return self._copied(self._rows(kept, 1))

    def _copied(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (R B, ...)"""
        return x if self.copies == 1 else x.expand(self.copies, *x.shape).flatten(0, 1)

    def after(self, prefix: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        """The prefixes of the batch, (n, heads, longest, head width), each before its prompt in (R B, heads, T, head width)."""
        if prefix is None or not self.batch.prefix:
            return x
        mine, g = prefix[:, :, :self.batch.prefix].index_select(0, self.batch.examples.to(prefix.device)).to(x), self.batch.side_by_side
        mine = mine.unflatten(0, (-1, g)).transpose(1, 2)  # (B / g, heads, g, P, head width)
        x = x.unflatten(2, (g, -1)).unflatten(0, (self.copies, -1))
        return torch.cat([mine.expand(self.copies, *mine.shape), x], -2).flatten(3, 4).flatten(0, 1)

    def mask(self, kernel: str, mask_function, dtype, device, use_vmap: bool = False, **more):
        """The mask of attention (rows, 1, T, P + T) in the form of a kernel, or None; called by transformers, with the family's own
        rule of who may look at whom by position."""
        if use_vmap:
            raise InputError("this family makes attention masks that depend on more than positions; it cannot be traced")
        batch = self.batch
        if batch.allowed is None:
            more.update(batch_size=self.rows, q_length=batch.width, kv_length=batch.width, q_offset=0, kv_offset=0, attention_mask=None)
            return ALL_MASK_ATTENTION_FUNCTIONS[kernel](mask_function=mask_function, dtype=dtype, device=device, **more)
        zero = torch.zeros((), dtype=torch.long, device=batch.query.device)
        mask = mask_function(zero, zero, batch.query[:, None, :, None], batch.key[:, None, None]) & batch.allowed
        if batch.side_by_side > 1:  # prompts in one row do not see each other
            same = torch.eye(batch.side_by_side, dtype=torch.bool, device=mask.device)[:, None, :, None]
            mask = mask.view(-1, 1, len(same), *mask.shape[2:3], 1, mask.shape[3]) & same  # (B / g, 1, g, T, g, P + T)
            mask = mask.flatten(4, 5).flatten(2, 3)
        if kernel == "eager":
            mask = torch.where(mask, torch.zeros((), dtype=dtype, device=mask.device), torch.finfo(dtype).min)
        return self._copied(mask)
