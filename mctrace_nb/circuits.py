"""Circuit: a graph over components with a strength for every edge, whoever found it. Plain data, with tables, files and scores."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mctrace_nb.errors import InputError

__all__ = ["Circuit", "auroc", "candidates", "recovery", "structural_hamming_distance"]

ANSWER, EMBED = "answer", "embed"
SUFFIXES = (".graphml", ".json")


@dataclass(frozen=True, eq=False)
class Circuit:
    """Strengths of edges between nodes that are numbered in the order of computation.

    nodes: labels as everywhere in the kit, `embed` first and `answer` last. strength: `(n, n)`, not negative, from row to column. allowed:
    `(n, n)` where the order of computation lets an edge be. method: who says so. about: settings and what they cost.

    A strength says how much one node's activity helps to predict (or, of edge attribution, is estimated to move) another; it is not
    the effect of an intervention.

        >>> found = mct.planted.twins(confounder=False)
        >>> circuit = mct.circuit_lasso(mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers))
        >>> circuit.to_frame(0.2).round(2)
          source  target  strength  reach
        0  embed    L0H3      0.94   0.58
        1  embed    L0H1      0.93   0.65
        2   L0H1  answer      0.65   0.65
        3   L0H3  answer      0.58   0.58
    """

    nodes: tuple[str, ...]
    strength: np.ndarray
    allowed: np.ndarray
    method: str
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.nodes)
        if self.strength.shape != (n, n) or self.allowed.shape != (n, n):
            raise InputError(f"{n} nodes need strengths of shape ({n}, {n}), not {self.strength.shape}")
        if not np.isfinite(self.strength).all() or (self.strength < 0).any() or (self.strength[~self.allowed] != 0).any():
            raise InputError("strengths have to be finite, at least 0, and 0 where no edge may be")

    @cached_property
    def reach(self) -> np.ndarray:
        """`(n, n)` of each edge the strength of the weakest link on the strongest way over it to the answer: the edge stays in the circuit
        down to that threshold (see `edges`)."""
        widest = np.zeros(len(self.nodes))
        widest[-1] = np.inf
        for i in reversed(range(len(self.nodes) - 1)):
            widest[i] = np.minimum(self.strength[i], widest).max()
        return np.minimum(self.strength, widest[None])

    @cached_property
    def flow(self) -> np.ndarray:
        """`(n,)` of each node the sum over all ways to the answer of the products of the squared strengths along them; 1 for the answer.

        Squares are shares of variance, and those of a target's sources hardly add up to more than one: otherwise early nodes, which have the most
        ways, would always come first.
        """
        flow = np.zeros(len(self.nodes))
        flow[-1] = 1.0
        for i in reversed(range(len(self.nodes) - 1)):
            flow[i] = self.strength[i] ** 2 @ flow
        return flow

    def edges(self, threshold: float = 0.0) -> set[tuple[str, str]]:
        """Edges at least as strong as a share of the strongest, those left out that no longer lead to the answer."""
        keep = (self.reach > 0) & (self.reach >= threshold * self.strength.max(initial=0.0))
        return {(self.nodes[i], self.nodes[j]) for i, j in zip(*keep.nonzero())}

    def to_frame(self, threshold: float = 0.0):
        """A frame of the edges in the circuit, strongest first: source, target, strength, reach."""
        import pandas as pd

        kept = self.edges(threshold)
        rows = [dict(source=a, target=b, strength=self.strength[i, j], reach=self.reach[i, j])
                for i, a in enumerate(self.nodes) for j, b in enumerate(self.nodes) if (a, b) in kept]
        return pd.DataFrame(rows, columns=["source", "target", "strength", "reach"]).sort_values(
            "strength", ascending=False, kind="stable", ignore_index=True)

    def to_networkx(self, threshold: float = 0.0):
        """A `networkx.DiGraph` of the circuit: strengths and reach on edges, flow on nodes, the method on the graph."""
        import networkx as nx

        graph = nx.DiGraph(method=self.method)
        kept = self.to_frame(threshold)
        ends = {*kept["source"], *kept["target"]}
        graph.add_nodes_from((node, dict(flow=float(flow))) for node, flow in zip(self.nodes, self.flow) if node in ends)
        graph.add_edges_from((row.source, row.target, dict(strength=row.strength, reach=row.reach)) for row in kept.itertuples())
        return graph

    def save(self, path: str | os.PathLike, threshold: float = 0.0) -> Path:
        """Writes the circuit as GraphML or as node-link JSON, by the ending of the path; whole or not at all.

        Raises InputError for another ending.
        """
        import networkx as nx

        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path.name!r} ends in {path.suffix or 'nothing'}; a circuit is written as {' or '.join(SUFFIXES)}")
        part, graph = path.with_name(path.name + ".part"), self.to_networkx(threshold)
        if path.suffix == ".graphml":
            nx.write_graphml(graph, part)
        else:
            part.write_text(json.dumps(nx.node_link_data(graph, edges="edges"), indent=1))
        os.replace(part, path)
        return path

    def figure(self, threshold: float = 0.2, true: set[tuple[str, str]] | None = None, title: str = ""):
        """The circuit from left to right in the order of computation: see `plots.circuit`."""
        from mctrace_nb.plots import circuit  # figures stand above plain data

        return circuit(self, threshold, true, title)


def candidates(circuit: Circuit) -> list[tuple[str, str]]:
    """All edges that the order of computation allows.

        >>> found = mct.planted.twins()
        >>> circuit = mct.circuit_lasso(mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers))
        >>> len(mct.circuits.candidates(circuit))
        54
    """
    return [(circuit.nodes[i], circuit.nodes[j]) for i, j in zip(*circuit.allowed.nonzero())]


def structural_hamming_distance(found: set, true: set) -> int:
    """Edges too many plus edges that are missing. With a known order none can be reversed.

        >>> mct.circuits.structural_hamming_distance({("L0H0", "answer"), ("L0H1", "answer")}, {("L0H0", "answer")})
        1
    """
    return len(found ^ true)


def recovery(circuit: Circuit, true: set[tuple[str, str]], threshold: float) -> dict:
    """How near a circuit is to a planted one: `shd`, `precision`, `recall` at a threshold, `auroc` over all edges that may be (by
    `reach`), and `shd_same_size`, that of as many edges as there are (which nobody knows outside an experiment).

    Raises InputError for true edges that are not allowed, or if there are none, or nothing else.

        >>> found = mct.planted.twins(confounder=False)
        >>> circuit = mct.circuit_lasso(mct.lasso.Seen(found.model, found.prompts(100)[0], found.answers))
        >>> {name: round(score, 2) for name, score in mct.circuits.recovery(circuit, found.edges, threshold=0.2).items()}
        {'shd': 0, 'precision': 1.0, 'recall': 1.0, 'auroc': 1.0, 'shd_same_size': 0, 'edges': 4}
    """
    every, found = candidates(circuit), circuit.edges(threshold)
    strange = true - set(every)
    if strange or not true or len(true) == len(every):
        raise InputError(f"true edges have to be some, not all, of the {len(every)} that are allowed; {len(true)} given, "
                         f"{len(strange)} of them not allowed{f' ({min(strange)})' if strange else ''}")
    number = {name: i for i, name in enumerate(circuit.nodes)}
    scores = np.array([circuit.reach[number[a], number[b]] for a, b in every])
    label = np.array([edge in true for edge in every])
    best = sorted(range(len(every)), key=lambda i: -scores[i])[:len(true)]
    return dict(shd=structural_hamming_distance(found, true), precision=len(found & true) / len(found) if found else float("nan"),
                recall=len(found & true) / len(true), auroc=auroc(scores, label),
                shd_same_size=structural_hamming_distance({every[i] for i in best if scores[i] > 0}, true), edges=len(found))


def auroc(score, truth) -> float:
    """The chance that a row of truth 1 scores higher than one of truth 0; ties count half, and with one kind of row it is nan.

        >>> mct.circuits.auroc([0.9, 0.1, 0.8], [True, False, True])
        1.0
    """
    from scipy.stats import rankdata

    truth = np.asarray(truth) > 0
    ones, zeros = truth.sum(), (~truth).sum()
    if not ones or not zeros:
        return float("nan")
    return float((rankdata(np.asarray(score))[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros))
