"""Components as the nodes of a graph, in the order of computation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Sequence

import torch

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.layout import LanguageModel

NODES = ("head_output", "attn_block", "mlp_block")


@dataclass(frozen=True)
class Nodes:
    """The components as nodes: labels, their kind, layer and unit, and the step of computation at which each speaks."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    units: tuple[int, ...]
    step: tuple[int, ...]

    @classmethod
    def of(cls, model: LanguageModel, kinds: Sequence[str]) -> "Nodes":
        kinds = [one_of(kind, NODES, "kind of node") for kind in kinds]
        if {"head_output", "attn_block"} <= set(kinds) or not kinds:
            raise InputError(f"nodes={tuple(kinds)!r}: give heads (head_output) or whole attention blocks (attn_block), not both")
        rows = [(EMBED, EMBED, 0, 0, 0)]
        for kind in kinds:
            parts = model.components(kind)
            for layer in range(parts.layers):
                for unit, label in enumerate(parts.in_layer(layer)):
                    rows.append((label, kind, layer, unit, 1 + 2 * layer + (kind == "mlp_block" and not side_by_side(model))))
        rows.sort(key=lambda row: row[4])  # stable: heads by number
        return cls(*zip(*rows, (ANSWER, ANSWER, 0, 0, 2 * len(model.layers) + 1)))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def allowed(self) -> torch.Tensor:
        """`(n, n)` whether an edge may lead from row to column: what speaks earlier may be heard."""
        step = torch.tensor(self.step)
        return step[:, None] < step[None]


def side_by_side(model: LanguageModel) -> bool:
    """Whether attention and MLP of a layer read the same stream (GPT-NeoX, GPT-J, Phi, Falcon), so that neither hears the other."""
    config = model.model.config.get_text_config()
    said = getattr(config, "use_parallel_residual", getattr(config, "parallel_attn", None))
    return bool(said) if said is not None else config.model_type in ("gptj", "phi", "codegen", "cohere", "cohere2")
