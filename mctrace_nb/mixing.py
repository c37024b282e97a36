"""Mixing what a component says with what it said elsewhere: `h = (1 - m) f(g) + m h'` (Yan et al. 2026, the mixture forward pass)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable


class Mix(torch.autograd.Function):
    """lerp of x towards `other` by weights, on some tokens or all; the gradient of the weights is summed in their own precision.

    x: (R, m, units, size). other: (R or 1, c or 1, units, size), or a scalar. weight: (R, c or 1, units, 1). chosen: (c,) of the
    m tokens, or None for all. (Yan et al. 2026, the mixture forward pass; exact at 0 and 1.)
    """

    @staticmethod
    def forward(ctx, x, other, weight, chosen):
        part = x if chosen is None else x.index_select(1, chosen)
        ctx.save_for_backward(part, other, weight, chosen)
        mixed = torch.lerp(part, other, weight.to(x.dtype))
        return mixed if chosen is None else x.index_copy(1, chosen, mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        part, other, weight, chosen = ctx.saved_tensors
        here = gradient if chosen is None else gradient.index_select(1, chosen)
        to_x = to_other = to_weight = None
        if ctx.needs_input_grad[2]:
            product = (other - part).mul_(here)
            along = [i for i in range(product.ndim) if weight.shape[i] == 1 and product.shape[i] > 1]
            to_weight = product.sum(along, keepdim=True, dtype=weight.dtype) if along else product.to(weight.dtype)
        if ctx.needs_input_grad[0]:
            kept = here * (1 - weight).to(here.dtype)
            to_x = kept if chosen is None else gradient.index_copy(1, chosen, kept)
        if ctx.needs_input_grad[1]:  # the other run's pattern looks at this run's values
            to_other = (here * weight.to(here.dtype)).sum_to_size(other.shape)
        return to_x, to_other, to_weight, None


@dataclass
class Mixture:
    """What to mix into a pass of R masks over m tokens.

    weights: `(R, units)` for each (kind, layer) touched. values: for the same keys what is put in, one row for each token
    that interventions act on, `(c, ...)` or one row for all, and for `head_pattern` the queries and keys of all tokens, `(m,
    heads, head width)`; None stands for zero. prefix: the other run's keys before those, one a layer, None where there is no
    prefix. chosen: `(c,)` numbers of the m tokens, None for all. mask_of: `(m,)` the mask of each token where masks have
    tokens of their own. only: `(R, c)` which of the chosen tokens each mask acts on, None for all.
    """

    weights: dict[tuple[str, int], torch.Tensor]
    values: dict[tuple[str, int], object]
    chosen: torch.Tensor | None = None
    prefix: list[torch.Tensor] | None = None
    mask_of: torch.Tensor | None = None
    only: torch.Tensor | None = None

    @property
    def copies(self) -> int:
        return 1 if self.mask_of is not None else len(next(iter(self.weights.values())))

    def mix(self, key: tuple[str, int], x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """x, (1, R m, ...), mixed with `other`, (R or 1, m, c or 1, ...): of all tokens or of those that interventions act on."""
        weight = self.weights[key].to(x.device)  # layers may lie on several devices
        chosen = None if self.chosen is None else self.chosen.to(x.device)
        if self.mask_of is not None:
            of = self.mask_of if self.chosen is None else self.mask_of[self.chosen]
            weight = weight.index_select(0, of.to(x.device))[None]  # (1, c, units)
        else:
            weight = weight[:, None]  # (R, 1, units)
        if self.only is not None:
            weight = weight * self.only.to(weight)[..., None]
        units = weight.shape[-1]
        shaped = x.reshape(self.copies, -1, units, x[0, 0].numel() // units)
        if other is None:
            other = x.new_zeros(())
        else:
            other = other.to(x.device, x.dtype).reshape(*other.shape[:2], *shaped.shape[2:])
            if chosen is not None and other.shape[1] == shaped.shape[1] > 1:
                other = other.index_select(1, chosen)
        return Mix.apply(shaped, other, weight[..., None], chosen).reshape(x.shape)
