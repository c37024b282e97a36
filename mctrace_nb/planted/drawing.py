"""Planted circuits: drawn at random until every edge matters, and a small one with a confounder."""

from __future__ import annotations

from random import Random

import numpy as np

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError
from mctrace_nb.lasso import Seen
from mctrace_nb.nodes import Nodes
from mctrace_nb.planted.parts import BITS, LENGTH, TOKENS, Part, Planted
from mctrace_nb.planted.weights import build, cut

MATTERS = 0.1  # of the answer's standard deviation
SAME = 0.8  # share of one node's variance that another explains
GATES = ("and", "or", "same", "sum")
LOOKS = ("fixed", "previous", "match")


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
    say the same (`SAME`): copies cannot be told apart by observation, which is shown elsewhere. Raises InputError for a seed that draws no such circuit.

        >>> found = mct.planted.plant(seed=5, layers=2, most=4)
        >>> len(found.edges), found.answers
        (7, (8, 9))
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
    """All edges into planted nodes and the answer.

        >>> mct.planted.readers(mct.planted.twins())[:3]
        [('embed', 'L0H1'), ('embed', 'L0H2'), ('embed', 'L0H3')]
    """
    nodes = Nodes.of(planted.model, ("head_output", "mlp_block"))
    return [(nodes.labels[i], nodes.labels[j]) for i, j in nodes.allowed.nonzero().tolist() if nodes.labels[j] in (*planted.parts, ANSWER)]


def copies(planted: Planted, prompts) -> list[tuple[str, str]]:
    """Pairs of planted nodes (tokens included) of which one says, on all tokens or on the last, nearly what the other says.

    prompts: rows of token ids, such as one side of `planted.prompts()`.

        >>> found = mct.planted.twins(confounder=True)
        >>> mct.planted.copies(found, found.prompts(64)[0])
        [('L0H1', 'L0H2')]
    """
    seen = Seen(planted.model, [tuple(map(int, row)) for row in prompts], planted.answers, inputs="same")
    names, found = {EMBED, *planted.parts}, {}
    for blocks in (seen.writes, seen.last_writes):
        mine = [b for b in blocks if seen.nodes.labels[b.node] in names]
        for i, one in enumerate(mine):
            for other in mine[i + 1:]:
                shared = (one.columns.T @ other.columns / len(one.columns)).square().sum() / min(one.columns.shape[1], other.columns.shape[1])
                if shared > SAME:
                    found[seen.nodes.labels[one.node], seen.nodes.labels[other.node]] = shared
    return list(found)


def twins(confounder: bool = True, seed: int = 0) -> Planted:
    """A small model for a lesson: `L0H1` carries the token at position 2 and `L0H3` the one before last to the last position, where the answer
    reads both. confounder: `L0H2` then carries the same token as `L0H1`, and nobody reads it; otherwise it is a decoy like the others. What
    the twins say has a common cause, so observation cannot tell which of them is read; replacing one of them can.

        >>> found = mct.planted.twins()
        >>> sorted(found.edges)
        [('L0H1', 'answer'), ('L0H3', 'answer'), ('embed', 'L0H1'), ('embed', 'L0H3')]
    """
    straight = [(bit, 1) for bit in range(BITS)]
    parts = {name: Part(name, [EMBED], look, at=2, turn=straight) for name, look in (("L0H1", "fixed"), ("L0H2", "fixed"), ("L0H3", "previous"))}
    if not confounder:
        del parts["L0H2"]
    return build(parts, ("L0H1", "L0H3"), layers=2, heads=4, seed=seed)
