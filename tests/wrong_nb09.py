"""Wrong answers to the exercises of notebook 09, and what the check must say of each."""

import numpy as np

import mctrace_nb as mct


def strongest(strength, count, order=True):
    pairs = [(i, j) for j in range(len(strength)) for i in range(len(strength)) if (i < j if order else i != j)]
    return set(sorted(pairs, key=lambda e: strength[e])[len(pairs) - count:])


def regressed(x, penalty=0.0, scale=True):
    """(n, n) sizes of the coefficients of each column on all before it; penalty: by what each is made smaller."""
    z = (x - x.mean(0)) / (x.std(0) if scale else 1)
    found = np.zeros((z.shape[1],) * 2)
    for j in range(1, len(found)):
        found[:j, j] = np.maximum(0, abs(np.linalg.lstsq(z[:, :j], z[:, j], rcond=None)[0]) - penalty)
    return found


def everywhere(x):
    inverse = np.linalg.inv(np.corrcoef(x.T))
    return abs(inverse / inverse.diagonal())


def slope(x, columns, of, target):
    z = x - x.mean(0)
    return np.linalg.lstsq(z[:, columns], z[:, target], rcond=None)[0][columns.index(of)]


def lasso(trace, labels):
    circuit = mct.circuit_lasso(trace).to_frame().query("target == 'answer'").set_index("source")["strength"]
    return {label for label in labels if circuit.get(label, 0) > 0.03}


def largest(trace, labels):
    return {max(labels, key=lambda label: trace.effects([label]).mean())}


def wrong_answers():
    yield 1, lambda x, count: None, "return a set of pairs"
    yield 1, lambda x, count: strongest(abs(np.corrcoef(x.T)), count), "correlate most"
    yield 1, lambda x, count: strongest(everywhere(x), count, order=False), "from a later node to an earlier one"
    yield 1, lambda x, count: strongest(everywhere(x), count), "two causes of one node then seem linked"
    yield 1, lambda x, count: strongest(regressed(x, scale=False), count), "standardise"
    yield 1, lambda x, count: strongest(regressed(x, penalty=0.5), count), "a large one shrinks true edges"
    yield 1, lambda x, count: strongest(regressed(x), count - 1), "edges were asked for"
    yield 2, lambda x, source, target: slope(x, [source], source, target), "on the source alone"
    yield 2, lambda x, source, target: slope(x, list(range(target)), source, target), "the edge alone"
    yield 2, lambda x, source, target: np.corrcoef(x[:, source], x[:, target])[0, 1], "the correlation, which has no unit"
    yield 2, lambda x, source, target: np.linalg.lstsq(x[:, :source + 1], x[:, target], rcond=None)[0][source], "each without its mean"
    yield 2, lambda x, source, target: None, "return one number"
    yield 3, lasso, "nothing"
    yield 3, lambda trace, labels: set(labels) if trace.effects(labels).mean() > 0.3 else set(), "replace each alone"
    yield 3, largest, "do not stop at the strongest"
    yield 3, lambda trace, labels: {label for label in labels if trace.effects([label]).mean() != 0}, "you say that both twins are heard"
    yield 3, lambda trace, labels: {label for label in labels if trace.effects([label]).mean() > 100}, "yours says nobody"
    yield 3, lambda trace, labels: set(labels) & {"L0H1"} or {labels[0]}, "do not stop at the strongest"
    yield 3, lambda trace, labels: set(labels) - {"L0H2"}, "the largest of two small effects"
