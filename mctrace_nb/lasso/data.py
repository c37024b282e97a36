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
from mctrace_nb.observing import Observed, Site, moved, observe

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
    """x `(M, w)` without the mean of its position: what is the same in every prompt cannot tell one from the other."""
    count = torch.bincount(position).clamp(min=1).to(x)
    sums = x.new_zeros(len(count), x.shape[1]).index_add_(0, position, x)
    return x - (sums / count[:, None])[position]


def directions(x: torch.Tensor, position: torch.Tensor, most: int, whiten: bool) -> torch.Tensor | None:
    """`(M, r)` the principal directions of an activity `(M, w)`, at most `most`, each of unit variance (whiten) or all together of unit
    variance; None where the activity hardly varies between prompts.

    Lengths of activity mean nothing across components, and no direction of a head is marked, so every block is turned and scaled like this.
    """
    centred = by_position(x, position)
    variance = centred.square().sum(1).mean()
    if float(variance) <= FAINT * float(x.square().sum(1).mean()):
        return None
    values, vectors = torch.linalg.eigh((centred.T @ centred / len(x)).double())
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    keep = values > SHARE * variance
    scale = values[keep].sqrt() if whiten else variance.double().sqrt()
    return centred @ (vectors[:, keep] / scale).to(centred)


class Seen:
    """Activity of a model's components on prompts, as blocks: who may be heard (`writes`), and what each heard (`targets`).

    prompts: token ids. words: the answers, tokens whose logits after each prompt are the label node. directions: most principal
    directions of a block. Raises InputError for an unknown kind or way, or prompts that do not differ.
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

    def _said(self, node: int) -> torch.Tensor:
        """(M, w) what a node writes, on all tokens."""
        kind, layer, unit = (getattr(self.nodes, name)[node] for name in ("kinds", "layers", "units"))
        said = self.observed.activity[kind, layer]
        return said[:, unit] if kind == "head_output" else said

    @cached_property
    def writes(self) -> list[Block]:
        """Regressors: whitened blocks of what each node but the answer writes, on the tokens in `rows`."""
        return self._blocks(self.rows)

    @cached_property
    def last_writes(self) -> list[Block]:
        """The same on the prompts' last tokens, for the label node."""
        return self._blocks(self.observed.last)

    def _blocks(self, rows: torch.Tensor) -> list[Block]:
        found = ((node, directions(self._said(node)[rows].float(), self.observed.position[rows], self.most, whiten=True))
                 for node in range(len(self.nodes) - 1))
        return [Block(node, columns) for node, columns in found if columns is not None]

    @cached_property
    def targets(self) -> list[Block]:
        """What each component is predicted by: all that it reads (queries, keys, values, neurons), or what it writes. Each block has unit
        variance in all; a head has up to three."""
        found = []
        for node, kind in enumerate(self.nodes.kinds):
            for part in ([] if kind in (EMBED, ANSWER) else self._heard(node)):
                columns = directions(part[self.rows].float(), self.position, self.most, whiten=False)
                if columns is not None:
                    found.append(Block(node, columns))
        return found

    def _heard(self, node: int) -> list[torch.Tensor]:
        kind, layer, unit = (getattr(self.nodes, name)[node] for name in ("kinds", "layers", "units"))
        activity = self.observed.activity
        if self.inputs != "reads" or (kind == "mlp_block" and ("mlp_neuron", layer) not in activity):
            return [self._said(node)]
        if kind == "mlp_block":
            return [activity["mlp_neuron", layer]]
        query, key = activity["head_pattern", layer]
        value = activity["value", layer]
        if kind == "attn_block":
            return [query.flatten(1), key.flatten(1), value.flatten(1)]
        # Some families repeat their keys and values before attention, some leave it to the kernel.
        return [x[:, unit // (self.model.heads // x.shape[1])] for x in (query, key, value)]

    @cached_property
    def answer(self) -> torch.Tensor | None:
        """`(n, K)` logits of the answers without their mean, centred by position, of unit variance in all; None if they do not vary."""
        logits = self.observed.logits.float()
        return directions(logits - logits.mean(1, keepdim=True), self.observed.position[self.observed.last], self.most, whiten=False)

    def carried(self, head: int) -> list[Block]:
        """The regressors of one head where inputs are "moved": what its attention would bring it of every block."""
        layer, unit = self.nodes.layers[head], self.nodes.units[head]
        found = []
        for block in self.writes:
            whole = block.columns.new_zeros(len(self.observed), block.columns.shape[1])
            whole[self.rows] = block.columns
            found.append(Block(block.node, moved(self.observed, layer, whole, unit)[self.rows]))
        return found
