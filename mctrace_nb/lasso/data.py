"""What is regressed on what: the activity of components as blocks of columns, in the order of computation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Sequence

import torch

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.layout import LanguageModel
from mctrace_nb.nodes import Nodes
from mctrace_nb.observing import Site, moved, observe

INPUTS = ("reads", "moved", "same")
FAINT = 1e-3  # of its mean square: what varies less between prompts carries nothing (layer norms make everything vary a little)
SHARE = 1e-4  # of a block's variance: directions with less are left out


def sites(model: LanguageModel, nodes: Nodes, inputs: str) -> list[Site]:
    """What has to be recorded."""
    one_of(inputs, INPUTS, "way to see inputs")
    layers, kinds = range(len(model.layers)), set(nodes.kinds) - {EMBED, ANSWER}
    if inputs == "reads":
        kinds |= {"head_pattern", "value"} if kinds & {"head_output", "attn_block"} else set()
        kinds |= {"mlp_neuron"} if "mlp_block" in kinds and model.layers[0].down is not None else set()
    if inputs == "moved" and "head_output" in kinds:
        kinds |= {"pattern"}
    return [(EMBED, 0), *((kind, layer) for layer in layers for kind in sorted(kinds))]


@dataclass(frozen=True, eq=False)
class Block:
    """Columns `(M, r)` that belong to one node."""

    node: int
    columns: torch.Tensor


def by_position(x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """x `(M, ...)` without the mean of its position: what is the same in every prompt cannot tell one from the other."""
    count = torch.bincount(position).clamp(min=1).to(x)
    sums = x.new_zeros(len(count), *x.shape[1:]).index_add_(0, position, x)
    return x - (sums / count.view(-1, *[1] * (x.ndim - 1)))[position]


def principal(x: torch.Tensor, position: torch.Tensor, most: int, whiten: bool) -> list[torch.Tensor | None]:
    """Of activity `(M, units, w)` the principal directions of each unit, `(M, r)`: at most `most`, each of unit variance (whiten) or all
    together of unit variance; None where the activity hardly varies between prompts.

    Lengths of activity mean nothing across components, and no direction of a head is marked, so every block is turned and scaled like this.
    """
    units, size = x.transpose(0, 1), x.square().mean(0).sum(1)
    centred = by_position(x, position).transpose(0, 1)  # (units, M, w)
    covariance = (centred.transpose(1, 2) @ centred / centred.shape[1]).double()
    variance = covariance.diagonal(dim1=1, dim2=2).sum(1)
    values, vectors = torch.linalg.eigh(covariance)
    found = []
    for unit in range(len(units)):
        if float(variance[unit]) <= FAINT * float(size[unit]):
            found.append(None)
            continue
        value, vector = values[unit].flip(0)[:most], vectors[unit].flip(1)[:, :most]
        keep = value > SHARE * variance[unit]
        scale = value[keep].sqrt() if whiten else variance[unit].sqrt()
        found.append(centred[unit] @ (vector[:, keep] / scale).to(centred))
    return found


class Seen:
    """Activity of a model's components on prompts, as blocks: who may be heard (`writes`), and what each heard (`targets`).

    prompts: token ids. words: the answers, at least two tokens whose logits after each prompt are the label node. kinds: of
    the nodes. inputs: what a target is seen by, "reads" (queries, keys, values, neurons), "moved" (what attention brings), or "same" (what is
    written at the token). most: principal directions of a block, at most. Raises InputError for an unknown kind or way, fewer than two words,
    or prompts that do not differ.

        >>> found = mct.planted.twins()
        >>> seen = mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers)
        >>> [found.model.name, len(seen.writes), len(seen.targets)]
        ['planted-0', 11, 20]
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], words: Sequence[int],
                 kinds: Sequence[str] = ("head_output", "mlp_block"), inputs: str = "reads", most: int = 8):
        self.model, self.nodes, self.inputs, self.most = model, Nodes.of(model, kinds), inputs, most
        if len(words) < 2:
            raise InputError(f"the answer needs at least two words to choose from, not {len(words)}; give target and foil")
        self.observed = observe(model, prompts, sites(model, self.nodes, inputs), words)
        self.rows = self._varying(prompts)
        self.position = self.observed.position[self.rows]
        self.prompt = self.observed.prompt[self.rows]

    def _varying(self, prompts) -> torch.Tensor:
        """Numbers of the tokens up to which not all prompts are the same."""
        first = next((i for i in range(min(map(len, prompts))) if len({p[i] for p in prompts}) > 1), None)
        if first is None and len(set(map(tuple, prompts))) == 1:
            raise InputError(f"the {len(prompts)} prompts are all the same; observation needs prompts that differ")
        return (self.observed.position >= (first or 0)).nonzero().flatten()

    def _units(self, kind: str, layer: int, rows: torch.Tensor, of: int | None = None) -> torch.Tensor:
        """(rows, units, w) what is said at a site, in float32; of: which of a pair."""
        said = self.observed.activity[kind, layer]
        said = (said if of is None else said[of])[rows].float()
        return said if said.ndim == 3 else said[:, None]

    @cached_property
    def writes(self) -> list[Block]:
        """Regressors: whitened blocks of what each node but the answer writes, on the tokens in `rows`."""
        return self._written(self.rows, whiten=True)

    @cached_property
    def last_writes(self) -> list[Block]:
        """The same on the prompts' last tokens, for the label node."""
        return self._written(self.observed.last, whiten=True)

    def _written(self, rows: torch.Tensor, whiten: bool) -> list[Block]:
        found, nodes, position = {}, self.nodes, self.observed.position[rows]
        for kind, layer in dict.fromkeys(zip(nodes.kinds[:-1], nodes.layers)):
            found[kind, layer] = principal(self._units(kind, layer, rows), position, self.most, whiten)
        blocks = (Block(i, found[key][unit]) for i, (*key, unit) in enumerate(zip(nodes.kinds[:-1], nodes.layers, nodes.units))
                  for key in [tuple(key)])
        return [block for block in blocks if block.columns is not None]

    @cached_property
    def targets(self) -> list[Block]:
        """What each component is predicted by: all that it reads (queries, keys, values, neurons), or what it writes. Each block has unit
        variance in all; a head has up to three."""
        nodes, found = self.nodes, []
        if self.inputs != "reads":
            return [block for block in self._written(self.rows, whiten=False) if nodes.kinds[block.node] != EMBED]
        for kind, layer in dict.fromkeys(zip(nodes.kinds[1:-1], nodes.layers[1:])):
            mine = [i for i in range(len(nodes)) if (nodes.kinds[i], nodes.layers[i]) == (kind, layer)]
            for part in self._read(kind, layer):
                columns = principal(part, self.position, self.most, whiten=False)
                # Some families repeat their keys and values before attention, some leave it to the kernel.
                found += [Block(i, columns[nodes.units[i] * len(columns) // len(mine)]) for i in mine]
        return [block for block in found if block.columns is not None]

    def _read(self, kind: str, layer: int) -> list[torch.Tensor]:
        """(rows, units, w) each of what the nodes of a layer read."""
        if kind == "mlp_block":
            return [self._units("mlp_neuron" if ("mlp_neuron", layer) in self.observed.activity else kind, layer, self.rows)]
        parts = [self._units("head_pattern", layer, self.rows, 0), self._units("head_pattern", layer, self.rows, 1), self._units("value", layer, self.rows)]
        return parts if kind == "head_output" else [part.flatten(1)[:, None] for part in parts]

    @cached_property
    def answer(self) -> torch.Tensor | None:
        """`(n, r)` logits of the answers without their mean over these, centred by position, of unit variance in all; None if they do not
        vary."""
        logits = self.observed.logits.float()
        return principal((logits - logits.mean(1, keepdim=True))[:, None], self.observed.position[self.observed.last], self.most, False)[0]

    def carried(self, head: int) -> list[Block]:
        """The regressors of one head where inputs are "moved": what its attention would bring it of every block."""
        layer, unit = self.nodes.layers[head], self.nodes.units[head]
        found = []
        for block in self.writes:
            whole = block.columns.new_zeros(len(self.observed), block.columns.shape[1])
            whole[self.rows] = block.columns
            found.append(Block(block.node, moved(self.observed, layer, whole, unit)[self.rows]))
        return found
