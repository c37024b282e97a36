"""Planted parts and decoys written into the weights of a GPT-2."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.layout import wrap_model
from mctrace_nb.planted.parts import BITS, LENGTH, TOKENS, Part, Planted

SLOT = 6  # residual dimensions of a component
CARRIER = 30.0
LEAK = 0.03  # of the weights on parents: what planted components read of everybody else
SHARP = 10.0  # difference of attention scores between the token that is looked at and the others


def _slots(layers: int, heads: int) -> dict[str, slice]:
    """The residual dimensions of each node."""
    names = [EMBED, *(name for layer in range(layers) for name in (*(f"L{layer}H{h}" for h in range(heads)), f"L{layer}.mlp"))]
    return {name: slice(SLOT * i, SLOT * i + SLOT) for i, name in enumerate(names)}


class _Weights:
    """Where everything lies in the residual stream, and how it is written into a GPT-2."""

    def __init__(self, layers: int, heads: int, seed: int):
        self.layers, self.heads = layers, heads
        self.slot = _slots(layers, heads)
        self.place = slice(SLOT * len(self.slot), SLOT * len(self.slot) + LENGTH)
        need = self.place.stop + 2
        self.width = math.ceil(need / (4 * heads)) * 4 * heads  # head width a multiple of four
        self.head_width = self.width // heads
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=TOKENS + 2, n_positions=LENGTH + 1,  # an answer has its place too
                            n_embd=self.width, n_layer=layers, n_head=heads,
                            activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
                            bos_token_id=None, eos_token_id=None)
        self.model = GPT2LMHeadModel(config).eval()
        self.random = torch.Generator().manual_seed(seed)
        self.frame = {name: torch.linalg.qr(self.noise(SLOT, SLOT)).Q[:BITS] for name in self.slot}  # where the bits are: (bits, slot)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.zero_()
            body = self.model.transformer
            bits = torch.tensor([[1.0 if token >> i & 1 else -1.0 for i in range(BITS)] for token in range(TOKENS)])
            body.wte.weight[:TOKENS, self.slot[EMBED]] = bits @ self.frame[EMBED]
            body.wpe.weight[:LENGTH, self.place] = torch.eye(LENGTH)
            body.wpe.weight[:, -2], body.wpe.weight[:, -1] = CARRIER, -CARRIER
            self.gain = CARRIER * math.sqrt(2 / self.width)  # the standard deviation of the stream, nearly
            for norm in (body.ln_f, *(n for block in body.h for n in (block.ln_1, block.ln_2))):
                norm.weight.fill_(self.gain)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random)

    def bits(self, weight: torch.Tensor, name: str, matrix: torch.Tensor) -> None:
        """Lets columns of a weight `(width, n)` read somebody's bits through a matrix `(bits, n)`."""
        self.read(weight, self.slot[name], self.frame[name].T @ matrix)

    def read(self, weight: torch.Tensor, where: slice, matrix: torch.Tensor) -> None:
        """Lets columns of a weight `(width, n)` read dimensions through a matrix `(dimensions, n)`, blind to the mean that layer norm takes away."""
        weight[where] += matrix
        weight[-2:] -= matrix.sum(0) / 2

    def head(self, layer: int, head: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, slice]:
        attention, w = self.model.transformer.h[layer].attn, self.head_width
        columns = [slice(i * self.width + head * w, i * self.width + (head + 1) * w) for i in range(3)]
        weight = attention.c_attn.weight
        return weight[:, columns[0]], weight[:, columns[1]], weight[:, columns[2]], slice(head * w, (head + 1) * w)

    def leak(self, weight: torch.Tensor, name: str) -> None:
        """Lets columns of a weight read a little of everything said before, as trained weights do."""
        for slot in self.before(name):
            self.read(weight, slot, self.noise(SLOT, weight.shape[1]) * LEAK)

    def before(self, name: str) -> list[slice]:
        """The slots of all that speak before a node."""
        if name == ANSWER:
            return list(self.slot.values())
        layer, mlp = int(name[1]), name.endswith(".mlp")
        return [slot for other, slot in self.slot.items() if other == EMBED or int(other[1]) < layer or (mlp and other.startswith(f"L{layer}H"))]

    def turned(self, part: Part) -> torch.Tensor:
        """(bits, slot) how a part's bits are written."""
        matrix = torch.zeros(BITS, BITS)
        for to, (of, sign) in enumerate(part.turn):
            matrix[of, to] = sign
        return matrix @ self.frame[part.name]


def _plant_head(to: _Weights, layer: int, head: int, part: Part) -> None:
    query, key, value, columns = to.head(layer, head)
    scale = math.sqrt(to.head_width)
    if part.look == "match":  # the scores of equal bits and of one different bit differ by 2
        to.bits(query, part.asks, torch.eye(BITS, to.head_width) * SHARP / 2 * scale)
        to.bits(key, EMBED, torch.eye(BITS, to.head_width))
    else:
        wanted = torch.zeros(LENGTH, to.head_width)
        for position in range(LENGTH):
            wanted[position, part.at if part.look == "fixed" else max(0, position - 1)] = SHARP * scale
        to.read(query, to.place, wanted)
        to.read(key, to.place, torch.eye(LENGTH, to.head_width))
    attention = to.model.transformer.h[layer].attn
    for parent in part.reads:
        to.bits(value, parent, torch.eye(BITS, to.head_width))
    to.leak(value[:, :BITS], part.name)
    attention.c_proj.weight[columns.start:columns.start + BITS, to.slot[part.name]] = to.turned(part)


def _plant_mlp(to: _Weights, layer: int, part: Part) -> None:
    mlp, eye, turn = to.model.transformer.h[layer].mlp, torch.eye(BITS), to.turned(part)
    (a, b), out = part.reads, mlp.c_proj.weight
    signs = {"and": [1], "or": [-1], "same": [1, -1], "sum": [1, -1]}[part.gate]
    for i, sign in enumerate(signs):  # neurons of a + b and of -(a + b)
        neurons = slice(BITS * i, BITS * i + BITS)
        for parent in (a, b):
            to.bits(mlp.c_fc.weight[:, neurons], parent, sign * eye)
        to.leak(mlp.c_fc.weight[:, neurons], part.name)
        out[neurons, to.slot[part.name]] = turn * {"and": 1.0, "or": -1.0, "same": 1.0, "sum": 0.5 * sign}[part.gate]
    mlp.c_proj.bias[to.slot[part.name]] = turn.sum(0) * {"and": -1.0, "or": 1.0, "same": -1.0, "sum": 0.0}[part.gate]


def _decoy(to: _Weights, layer: int, head: int | None, name: str) -> None:
    """Random weights that read the tokens and all earlier slots, as strongly as a planted component, and write into the own slot."""
    before = to.before(name)
    if head is None:
        mlp = to.model.transformer.h[layer].mlp
        neurons = mlp.c_fc.weight.shape[1] // 4
        for slot in before:
            to.read(mlp.c_fc.weight[:, :neurons], slot, to.noise(SLOT, neurons) / math.sqrt(BITS * len(before)))
        mlp.c_proj.weight[:neurons, to.slot[name]] = to.noise(neurons, SLOT) * math.sqrt(1 / neurons)
        return
    query, key, value, columns = to.head(layer, head)
    for slot in before:
        for part in (query, key, value):
            to.read(part, slot, to.noise(SLOT, to.head_width) / math.sqrt(BITS * len(before)))
    for part in (query, key):
        to.read(part, to.place, to.noise(LENGTH, to.head_width))
    to.model.transformer.h[layer].attn.c_proj.weight[columns, to.slot[name]] = to.noise(to.head_width, SLOT) / math.sqrt(2 * to.head_width)


def build(parts: dict[str, Part], ends: tuple[str, ...], layers: int, heads: int, seed: int) -> Planted:
    """Writes planted parts, and decoys for everything else, into a GPT-2.

        >>> found = mct.planted.twins()
        >>> again = mct.planted.build(found.parts, found.ends, layers=2, heads=4, seed=1)
        >>> again.edges == found.edges
        True
    """
    to = _Weights(layers, heads, seed)
    with torch.no_grad():
        for layer in range(layers):
            for head in [*range(heads), None]:
                name = f"L{layer}.mlp" if head is None else f"L{layer}H{head}"
                if name not in parts:
                    _decoy(to, layer, head, name)
                elif head is None:
                    _plant_mlp(to, layer, parts[name])
                else:
                    _plant_head(to, layer, head, parts[name])
        score = torch.zeros(BITS, 1)
        score[:, 0] = torch.tensor([2.0, 1.0, 0.5])  # the sign is never in doubt
        for end in ends:
            for word, sign in ((TOKENS, 0.5), (TOKENS + 1, -0.5)):
                to.bits(to.model.lm_head.weight.T[:, word:word + 1], end, sign * score)
        to.leak(to.model.lm_head.weight.T[:, TOKENS:TOKENS + 1], ANSWER)
    return Planted(wrap_model(to.model, None, f"planted-{seed}"), parts, ends, seed)


def cut(planted: Planted, source: str, target: str) -> Planted:
    """A copy in which the reader of one edge hears zeros from the source: its weights on that slot are taken away.

        >>> found = mct.planted.twins()
        >>> without = mct.planted.cut(found, "L0H1", "answer")
        >>> without.model is found.model
        False
    """
    slot = _slots(len(planted.model.layers), planted.model.heads)[source]
    model = copy.deepcopy(planted.model.model)
    with torch.no_grad():
        if target == ANSWER:
            model.lm_head.weight[:, slot] = 0
        elif target.endswith(".mlp"):
            model.transformer.h[int(target[1])].mlp.c_fc.weight[slot] = 0
        else:
            width, head = planted.model.head_width, int(target.split("H")[1])
            weight = model.transformer.h[int(target[1])].attn.c_attn.weight
            weight[slot].view(BITS, 3, -1, width)[:, :, head] = 0
    return replace(planted, model=replace(planted.model, model=model))
