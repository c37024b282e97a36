"""Models whose circuit is known because it was put there: GPT-2s with weights set by hand, and linear systems with a planted graph.

Every residual dimension has an owner: the token, the position, each component, and two that carry a large constant, so that a layer norm
hardly changes anything. Tokens and planted components say three bits, +1 or -1, in random directions of their slot of six dimensions. A planted
component reads its parents and, a little, everybody else, as trained weights do; all others are decoys with random weights that read everything, are
as active as the rest, and are hardly heard on the way to the answer. The edges that carry what differs between prompts are the truth; positions
do not.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError
from mctrace_nb.lasso.data import Seen
from mctrace_nb.layout import LanguageModel, wrap_model
from mctrace_nb.nodes import Nodes

BITS = 3
SLOT = 6
TOKENS = 2 ** BITS  # a token for every pattern of bits; two more are the answers
LENGTH = 8
CARRIER = 30.0
LEAK = 0.03  # of the weights on parents: what planted components read of everybody else
SHARP = 10.0  # difference of attention scores between the token that is looked at and the others
MATTERS = 0.1
SAME = 0.8  # share of one node's variance that another explains
GATES = ("and", "or", "same", "sum")
LOOKS = ("fixed", "previous", "match")


@dataclass
class Part:
    """A planted component: what it does with which parents. look, at: where a head looks; asks: whose bits a head with look="match"
    takes to the place with these bits; gate: what an MLP makes of its two parents; turn: permutation and signs of the bits it writes."""

    name: str
    reads: list[str]
    look: str = ""
    at: int = 0
    asks: str = ""
    gate: str = ""
    turn: list[tuple[int, int]] = field(default_factory=list)

    @property
    def parents(self) -> set[str]:
        """Nodes that it hears: of a head with look="match" also whom it asks with, and the tokens that it compares."""
        return {*self.reads, *({self.asks, EMBED} if self.asks else ())}


@dataclass(frozen=True)
class Planted:
    """A model with its circuit. parts: planted components by name. ends: what the answer reads. edges: the truth."""

    model: LanguageModel
    parts: dict[str, Part]
    ends: tuple[str, ...]
    seed: int

    @property
    def edges(self) -> set[tuple[str, str]]:
        return {(parent, part.name) for part in self.parts.values() for parent in part.parents} | {(end, ANSWER) for end in self.ends}

    @property
    def answers(self) -> tuple[int, int]:
        """The two words the model chooses from."""
        return TOKENS, TOKENS + 1

    def prompts(self, n: int, seed: int = 0) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """n pairs of random prompts; the counterfactual's answer is the other one. Raises InputError if there are none."""
        rng, found = np.random.default_rng([seed, self.seed]), ([], [])
        for _ in range(50):
            drawn = rng.integers(0, TOKENS, (4 * n, LENGTH))
            said = self.says(drawn)
            for side, rows in zip(found, (drawn[said > 0], drawn[said < 0])):
                side += [tuple(map(int, row)) for row in rows]
            if min(map(len, found)) >= n:
                first = rng.integers(0, 2, n)
                return tuple([found[s ^ w][i] for i, s in enumerate(first)] for w in (0, 1))
        raise InputError(f"planted model {self.seed} hardly ever gives one of its two answers")

    @torch.no_grad()
    def says(self, prompts) -> np.ndarray:
        """`(n,)` logit of the first answer minus that of the second."""
        logits = self.model.model(input_ids=torch.as_tensor(np.asarray(prompts)), use_cache=False).logits[:, -1]
        return (logits[:, self.answers[0]] - logits[:, self.answers[1]]).numpy()


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
        config = GPT2Config(vocab_size=TOKENS + 2, n_positions=LENGTH, n_embd=self.width, n_layer=layers, n_head=heads,
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
            body.wpe.weight[:, self.place] = torch.eye(LENGTH)
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
    """Writes planted parts, and decoys for everything else, into a GPT-2."""
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


def _drawn(rng: Random, layers: int, heads: int, most: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    """A random circuit, from the answer down: every part is read by somebody."""
    parts: dict[str, Part] = {}

    def speakers(layer: int, mlp: bool) -> list[str]:
        """Who has spoken before a head (or the MLP) of a layer; the tokens count as often as two components."""
        earlier = [f"L{low}{unit}" for low in range(layer) for unit in (*(f"H{h}" for h in range(heads)), ".mlp")]
        return earlier + [f"L{layer}H{h}" for h in range(heads)] * mlp

    def pick(layer: int, mlp: bool, besides: tuple[str, ...] = ()) -> str:
        known = [name for name in speakers(layer, mlp) if name in parts and name not in besides]
        fresh = [name for name in speakers(layer, mlp) if name not in parts]
        kind = rng.random()
        if known and kind < 0.3:
            return rng.choice(known)
        if fresh and kind < 0.8 and len(parts) < most:
            return add(rng.choice(fresh))
        return rng.choice(known) if EMBED in besides and known else EMBED

    def add(name: str) -> str:
        layer, mlp = int(name[1]), name.endswith(".mlp")
        turn = [(of, rng.choice((1, -1))) for of in rng.sample(range(BITS), BITS)]
        parts[name] = part = Part(name, [], turn=turn)
        if mlp:
            part.gate = rng.choice(GATES)
            first = pick(layer, True)
            part.reads = [first, pick(layer, True, (first,))]
        else:
            part.look = rng.choice(LOOKS)
            part.at = rng.randrange(LENGTH - 1)
            part.reads = [pick(layer, False)]
            if part.look == "match":
                part.asks = pick(layer, False)
        return name

    last = [f"L{layers - 1}.mlp", f"L{layers - 1}H{rng.randrange(heads)}"]
    ends = tuple(add(name) for name in rng.sample(last, rng.choice((1, 2))))
    return parts, ends


def plant(seed: int, layers: int = 3, heads: int = 4, most: int = 7) -> Planted:
    """The planted model of a seed: a random circuit of at most about `most` components among `layers * (heads + 1)`.

    Circuits are drawn until, on random prompts, each edge matters and no other does (cutting it, so that the reader hears zeros, changes
    the log odds by at least `MATTERS` of their standard deviation, and every other edge by less than half as much), and no two planted nodes
    say the same (`SAME`): copies cannot be told apart by observation, which is shown elsewhere.
    """
    rng = Random(f"planted/{seed}")
    for _ in range(1000):
        parts, ends = _drawn(rng, layers, heads, most)
        if any(len(set(p.reads)) < len(p.reads) for p in parts.values()) or len(parts) < 4:
            continue
        made = build(parts, ends, layers, heads, seed)
        drawn = np.random.default_rng([1, seed]).integers(0, TOKENS, (256, LENGTH))
        said = made.says(drawn)
        if min((said > 0).mean(), (said < 0).mean()) < 0.2 or copies(made, drawn):
            continue
        effect = {edge: np.sqrt(np.mean((cut(made, *edge).says(drawn) - said) ** 2)) / said.std() for edge in readers(made)}
        weakest = min(effect[edge] for edge in made.edges)
        if weakest >= MATTERS and weakest > 2 * max(size for edge, size in effect.items() if edge not in made.edges):
            return made
    raise InputError(f"no circuit in which every edge matters was drawn for seed {seed}; give another seed")


def readers(planted: Planted) -> list[tuple[str, str]]:
    """All edges into planted nodes and the answer."""
    nodes = Nodes.of(planted.model, ("head_output", "mlp_block"))
    return [(nodes.labels[i], nodes.labels[j]) for i, j in nodes.allowed.nonzero().tolist() if nodes.labels[j] in (*planted.parts, ANSWER)]


def copies(planted: Planted, prompts) -> list[tuple[str, str]]:
    """Pairs of planted nodes (tokens included) of which one says, on all tokens or on the last, nearly what the other says."""
    seen = Seen(planted.model, [tuple(map(int, row)) for row in prompts], planted.answers, inputs="same")
    names, found = {EMBED, *planted.parts}, []
    for blocks in (seen.writes, seen.last_writes):
        mine = [b for b in blocks if seen.nodes.labels[b.node] in names]
        for i, one in enumerate(mine):
            for other in mine[i + 1:]:
                shared = (one.columns.T @ other.columns / len(one.columns)).square().sum() / min(one.columns.shape[1], other.columns.shape[1])
                if shared > SAME:
                    found.append((seen.nodes.labels[one.node], seen.nodes.labels[other.node]))
    return found


def cut(planted: Planted, source: str, target: str) -> Planted:
    """A copy in which the reader of one edge hears zeros from the source: its weights on that slot are taken away."""
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


def linear_system(nodes: int = 30, density: float = 0.2, samples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples `(M, n)` of a linear-Gaussian system and its weights `(n, n)`, from row to column, strictly upper triangular: a share `density`
    of them is not zero, of size 0.3 to 1 with random signs; the noise has unit variance."""
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.uniform(0.3, 1.0, (nodes, nodes)) * rng.choice((-1, 1), (nodes, nodes)) * (rng.random((nodes, nodes)) < density), 1)
    x = rng.standard_normal((samples, nodes))
    for node in range(nodes):
        x[:, node] += x @ weights[:, node]  # parents come first
    return x, weights
