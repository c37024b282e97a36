"""Linear systems with a planted graph."""

from __future__ import annotations

import numpy as np


def linear_system(nodes: int = 30, density: float = 0.2, samples: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples `(M, n)` of a linear-Gaussian system and its weights `(n, n)`, from row to column, strictly upper triangular: a share `density`
    of them is not zero, of size 0.3 to 1 with random signs; the noise has unit variance.

        >>> samples, weights = mct.planted.linear_system(nodes=5, samples=100)
        >>> samples.shape, weights.shape
        ((100, 5), (5, 5))
    """
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.uniform(0.3, 1.0, (nodes, nodes)) * rng.choice((-1, 1), (nodes, nodes)) * (rng.random((nodes, nodes)) < density), 1)
    x = rng.standard_normal((samples, nodes))
    for node in range(nodes):
        x[:, node] += x @ weights[:, node]  # parents come first
    return x, weights
