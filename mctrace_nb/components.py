"""Components: the index space of everything that can be intervened on. Pure bookkeeping, knows no model.

A *kind* is one family of units. Kinds of the same layer act from the inside out:
`head_pattern` -> `head_output` -> `attn_block`, and `mlp_neuron` -> `mlp_output` -> `mlp_block`; last comes `residual`,
the whole layer's output. Replacing that at every position cuts off all layers below, so it is for single positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Iterable, Sequence

import torch

from mctrace_nb.errors import InputError, one_of

HEAD_KINDS = ("head_pattern", "head_output")
MLP_KINDS = ("mlp_neuron", "mlp_output")
BLOCK_KINDS = ("attn_block", "mlp_block", "residual")
KINDS = ("head_pattern", "head_output", "attn_block", "mlp_neuron", "mlp_output", "mlp_block", "residual")

_LABEL = {
    "head_pattern": "L{}H{}", "head_output": "L{}H{}", "attn_block": "L{}.attn",
    "mlp_neuron": "L{}.n{}", "mlp_output": "L{}.out{}", "mlp_block": "L{}.mlp",
    "residual": "L{}.resid",
}


@dataclass(frozen=True)
class Components:
    """The components of some kinds in a model's layers, numbered layer by layer inside each kind.

    kinds: the kinds, in the order in which their components are numbered.
    layers: number of layers.
    units: units per layer for each kind, e.g. `{"head_output": 12}`; 1 for blocks.

        >>> heads = mct.Components(("head_output",), layers=2, units={"head_output": 3})
        >>> heads.labels
        ['L0H0', 'L0H1', 'L0H2', 'L1H0', 'L1H1', 'L1H2']
        >>> heads.index("L1H0")
        3
    """

    kinds: tuple[str, ...]
    layers: int
    units: dict[str, int]

    def __post_init__(self):
        if not self.kinds:
            raise InputError(f"no kind of component given (there are: {', '.join(KINDS)})")
        for kind in self.kinds:
            one_of(kind, KINDS, "kind of component")
        if len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"a kind is named twice: {', '.join(self.kinds)}")

    @cached_property
    def slices(self) -> dict[tuple[str, int], slice]:
        """Where the units of (kind, layer) lie in a mask: a slice of length `units[kind]`."""
        found, start = {}, 0
        for kind in self.kinds:
            for layer in range(self.layers):
                found[kind, layer] = slice(start, start + self.units[kind])
                start += self.units[kind]
        return found

    @cached_property
    def labels(self) -> list[str]:
        """One label a component, e.g. `L4H2`, `L3.mlp`, `L3.out17`, `L3.n17`.

        Where both kinds of head are mixed, a pattern is told from an output by its ending: `L4H2.pattern`.
        """
        both = set(HEAD_KINDS) <= set(self.kinds)
        return [_LABEL[kind].format(layer, unit) + (".pattern" if both and kind == "head_pattern" else "")
                for kind in self.kinds for layer in range(self.layers) for unit in range(self.units[kind])]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, label: str) -> int:
        """The number of a label. Raises InputError for a label that is not there."""
        if label not in self._index:
            one_of(label, self.labels if len(self) <= 64 else [*self.labels[:3], "...", self.labels[-1]], "component")
        return self._index[label]

    def mask(self, chosen: Iterable[str | int]) -> torch.Tensor:
        """A binary mask `(N,)`, float64: 1 for each chosen label or number. `chosen` may be a single label."""
        mask = torch.zeros(len(self), dtype=torch.float64)
        for item in [chosen] if isinstance(chosen, str) else chosen:
            number = self.index(item) if isinstance(item, str) else int(item)
            if not 0 <= number < len(self):
                raise InputError(f"component {number} is out of range (there are {len(self)}, numbered from 0)")
            mask[number] = 1.0
        return mask

    def masks(self, sets: Sequence[Iterable[int]]) -> torch.Tensor:
        """Binary masks `(R, N)`, float32, a row for each set of component numbers."""
        masks = torch.zeros(len(sets), len(self))
        for row, chosen in enumerate(sets):
            masks[row, list(chosen)] = 1
        return masks

    def in_layer(self, layer: int) -> list[str]:
        """The labels of one layer's components. Raises InputError if there is no such layer."""
        if not 0 <= layer < self.layers:
            raise InputError(f"layer {layer} is out of range (there are {self.layers}, numbered from 0)")
        return [label for label, where in zip(self.labels, self.layer_of()) if where == layer]

    def layer_of(self) -> list[int]:
        """The layer of each component."""
        return [layer for kind in self.kinds for layer in range(self.layers) for _ in range(self.units[kind])]
