"""Exercises of notebook 09: a planted graph from samples, an effect from samples, and the twin that is read."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, number
from mctrace_nb.planted import linear_system, twins


def planted_edges(x, count):
    """The `count` strongest edges of a linear system, from samples.

    x: samples `(M, n)`, the columns in the order of computation, in whatever units. The strength of an
    edge from i to j, with i before j: the size of the coefficient of i where j is regressed on all that
    come before j, if every column had unit variance. Returns a set of pairs (i, j).
    """
    ### BEGIN SOLUTION
    z = (x - x.mean(0)) / x.std(0)
    strength = {}
    for j in range(1, z.shape[1]):
        coefficients = np.linalg.lstsq(z[:, :j], z[:, j], rcond=None)[0]
        strength.update({(i, j): abs(coefficients[i]) for i in range(j)})
    return set(sorted(strength, key=strength.get)[len(strength) - count:])
    ### END SOLUTION


def effect_from_samples(x, source, target):
    """What raising one node by 1 does to a later one, on all ways, from samples alone.

    x: samples `(M, n)` of a linear system, the columns in the order of computation; every common cause
    is among the columns. source, target: column numbers, the source first. Returns a number.
    """
    ### BEGIN SOLUTION
    centred = x - x.mean(0)
    coefficients = np.linalg.lstsq(centred[:, :source + 1], centred[:, target], rcond=None)[0]
    return float(coefficients[source])
    ### END SOLUTION


def heard(trace, labels):
    """Which of some components, that say nearly the same, the answer hears.

    A component is heard if replacing it alone has at least a tenth of the total effect, on average
    over the prompts. Returns a set of labels.
    """
    ### BEGIN SOLUTION
    least = 0.1 * trace.total_effects().mean()
    return {label for label in labels if trace.effects([label]).mean() >= least}
    ### END SOLUTION


SOLUTIONS = (planted_edges, effect_from_samples, heard)


def _edges(found) -> set:
    expect(isinstance(found, (set, frozenset, list, tuple)) and all(getattr(e, "__len__", lambda: 0)() == 2 for e in found),
           f"return a set of pairs (i, j), not {type(found).__name__}")
    return {(int(i), int(j)) for i, j in found}


def _ranked(strength: np.ndarray, count: int) -> set:
    """The strongest edges in the right order of a matrix `(n, n)`."""
    pairs = [(i, j) for j in range(len(strength)) for i in range(j)]
    return set(sorted(pairs, key=lambda e: strength[e])[len(pairs) - count:])


@graded
def exercise_1(function) -> str:
    """Tried on systems whose columns have units of very different size."""
    for nodes, seed in ((12, 0), (12, 5), (8, 2)):
        x, weights = linear_system(nodes, 0.3, 2000, seed)
        true = {(int(i), int(j)) for i, j in zip(*weights.nonzero())}
        found = _edges(function(x.copy(), len(true)))
        back = sum(i >= j for i, j in found)
        expect(not back, f"{back} of your edges lead from a later node to an earlier one; the columns stand in the order of computation, so nothing but "
                         "earlier columns can be a source")
        correlation, inverse = np.corrcoef(x.T), np.linalg.inv(np.corrcoef(x.T))
        expect(found != _ranked(abs(correlation), len(true)), "these are the pairs that correlate most; a correlation also comes from a way over a third node "
                                                             "and from a common cause, so regress each node on all earlier ones together")
        expect(found != _ranked(abs(inverse / inverse.diagonal()), len(true)), "these are the strongest where each node is regressed on all others; two "
                                                                             "causes of one node then seem linked, so regress on earlier columns only")
        expect(len(found) == len(true), f"{len(true)} edges were asked for, you gave {len(found)}")
        scaled = x * 10.0 ** np.random.default_rng(seed).uniform(-2, 2, nodes)
        wrong = len(_edges(function(scaled, len(true))) ^ true)
        expect(wrong == 0 or found != true, f"with the columns in other units {wrong} edges change; coefficients carry units, so standardise the columns first")
        expect(found == true, f"on a system of {nodes} nodes {len(found - true)} of your {len(true)} edges are not planted; no penalty is needed with this many samples, "
                              "and a large one shrinks true edges to nothing")
    return "all planted edges are found, in any units, and none that merely correlates."


@graded
def exercise_2(function) -> str:
    """Tried on pairs that have common causes as well as ways over other nodes."""
    for seed, source, target in ((2, 3, 7), (1, 5, 11), (2, 3, 9)):
        x, weights = linear_system(12, 0.3, 20_000, seed)
        effect = np.linalg.inv(np.eye(12) - weights)[source, target]
        rng = np.random.default_rng(seed)
        x = x + rng.uniform(5, 20, 12) * rng.choice((-1, 1), 12)  # the system's zero is not the samples' mean
        found, centred = number(function(x.copy(), source, target)), x - x.mean(0)
        alone = centred[:, source] @ centred[:, target] / (centred[:, source] @ centred[:, source])
        direct = np.linalg.lstsq(centred[:, :target], centred[:, target], rcond=None)[0][source]
        said = f"the effect of {source} on {target} is {effect:.2f}, yours is {found:.2f}"
        if abs(found - effect) > 0.1:
            expect(abs(found - alone) > 0.02, f"{said}: the slope on the source alone, which counts common causes as effects; put all nodes before the source "
                                              "into the regression")
            expect(abs(found - direct) > 0.02, f"{said}: the coefficient among all earlier nodes, which is the edge alone and leaves out every way over nodes "
                                               "between; leave out the nodes after the source")
            expect(abs(found - np.corrcoef(x[:, source], x[:, target])[0, 1]) > 0.02, f"{said}: the correlation, which has no unit and counts common causes")
            expect(False, f"{said}; regress the target on the source and on all nodes before the source, each without its mean")
    return "common causes are held fixed and ways over other nodes are not: under these conditions a coefficient is an effect."


@lru_cache(8)
def _pair(model_seed: int, prompt_seed: int):
    """A trace of the twins on prompts that no lesson shows."""
    planted = twins(True, model_seed)
    return mct.Trace(planted.model, planted.task(64, prompt_seed), "head_output")


@graded
def exercise_3(function) -> str:
    """Tried on twins with other weights and prompts, on heads that are both read, and on heads that nobody reads."""
    def tried(trace, labels) -> set:
        found = function(trace, list(labels))
        expect(isinstance(found, (set, frozenset, list, tuple)), f"return a set of labels, not {type(found).__name__}")
        return set(found)

    for seeds in ((1, 11), (2, 12), (0, 13), (3, 14)):
        trace = _pair(*seeds)
        found = tried(trace, ("L0H1", "L0H2"))
        expect(found != {"L0H1", "L0H2"}, "you say that both twins are heard, but replacing L0H2 alone moves nothing; the two together move the answer even if "
                                          "one is heard, so replace each alone")
        expect("L0H2" not in found, "you say that L0H2 is heard, but replacing it alone moves nothing; a strength says that it goes with the answer, not that "
                                    "anything reads it")
        expect(found == {"L0H1"}, f"L0H1 is heard (replacing it alone moves the answer), yours says {sorted(map(str, found)) or 'nobody'}")
    both = tried(_pair(1, 11), ("L0H1", "L0H3"))
    expect(both == {"L0H1", "L0H3"}, f"of L0H1 and L0H3 both are heard, yours says {sorted(map(str, both)) or 'nobody'}; do not stop at the strongest, apply the "
                                     "threshold to each")
    none = tried(_pair(1, 11), ("L0H0", "L0H2"))
    expect(not none, f"of L0H0 and L0H2 nobody is heard, yours says {sorted(map(str, none))}; the largest of two small effects is still small, compare with a "
                     "tenth of the total effect")
    return "the read twin is found on every draw, and a twin that nobody reads is left out."

