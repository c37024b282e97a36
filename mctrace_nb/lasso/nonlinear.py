"""The non-linear variant of CircuitLasso: a small network for each target, with a penalty on all that a source says to it.

    min  1/2 mean ||y - V' relu(sum_i W_i' x_i + b) - c||^2 + penalty (sum_i ||W_i||_F + ||V||_F^2 / 2)

The paper (arXiv 2606.16939, appendix B) names no model class; groups of first-layer weights as in NOTEARS-MLP (Zheng et al. 2020, arXiv 1909.13189)
are our choice. Sources without an edge have weights that are exactly zero.
"""

from __future__ import annotations

import numpy as np
import torch

from mctrace_nb.circuits import Circuit
from mctrace_nb.errors import InputError
from mctrace_nb.lasso.circuit import Problem, problems
from mctrace_nb.lasso.data import Seen
from mctrace_nb.progress import bar

HIDDEN, STEPS, LEARNING_RATE = 16, 400, 0.02
PENALTY = 0.02
ROWS = 2048  # more tokens say little new


def nonlinear_circuit(seen: Seen, penalty: float = PENALTY, hidden: int = HIDDEN, steps: int = STEPS, seed: int = 0, progress: bool = True) -> Circuit:
    """The circuit of what was seen, by networks of `hidden` units instead of linear regressions.

    A strength is the root mean square change of a prediction when a source says its mean, as a share of the target's standard deviation.
    Raises InputError for a penalty that is not above 0.

        >>> seen = mct.lasso.see(trace, kinds=["head_output"])
        >>> circuit = mct.lasso.nonlinear_circuit(seen, hidden=4, steps=20)
        >>> circuit.strength.shape
        (14, 14)
    """
    if not penalty > 0:
        raise InputError(f"penalty={penalty} is out of range; give one above 0, such as {PENALTY}")
    n = len(seen.nodes)
    strength = np.zeros((n, n))
    for number, problem in enumerate(problems(seen)):
        rng = np.random.default_rng([seed, number])
        rows = torch.as_tensor(np.sort(rng.permutation(len(problem.x))[:ROWS])).to(problem.x.device)
        strength = np.maximum(strength, _fitted(problem, problem.x[rows], problem.y[rows], n, penalty, hidden, steps, seed, progress))
    about = dict(penalty=penalty, inputs=seen.inputs, forwards=seen.observed.prompts, backwards=0)
    return Circuit(seen.nodes.labels, strength * seen.nodes.allowed.numpy(), seen.nodes.allowed.numpy(), "circuit-lasso, non-linear", about)


def _fitted(problem: Problem, x: torch.Tensor, y: torch.Tensor, n: int, penalty: float, hidden: int, steps: int, seed: int, progress: bool) -> np.ndarray:
    """Strengths `(n, n)` of one problem's edges: all target blocks at once, by Adam with a proximal step for the groups."""
    blocks, columns = int(problem.block.max()) + 1, torch.bincount(problem.block)
    generator = torch.Generator().manual_seed(seed)
    # A target's columns, padded to the widest of all blocks.
    wide = torch.zeros(blocks, len(x), int(columns.max()), device=x.device)
    for i in range(blocks):
        wide[i, :, :columns[i]] = y[:, (problem.block == i).to(y.device)]
    allowed = torch.stack([problem.allowed[:, (problem.block == i).nonzero()[0, 0]] for i in range(blocks)]).to(x)[:, :, None]  # (J, P, 1)
    group = torch.nn.functional.one_hot(problem.source, n).to(x)  # (P, n)

    def drawn(*shape):
        return (torch.randn(*shape, generator=generator) / shape[-2] ** 0.5).to(x.device).requires_grad_()

    w, b = drawn(blocks, x.shape[1], hidden), torch.zeros(blocks, 1, hidden, device=x.device, requires_grad=True)
    v, c = drawn(blocks, hidden, wide.shape[2]), torch.zeros(blocks, 1, wide.shape[2], device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([w, b, v, c], lr=LEARNING_RATE)
    with torch.enable_grad():
        for step in bar(range(steps), "networks", show=progress):
            for g in optimiser.param_groups:
                g["lr"] = LEARNING_RATE * (1 - step / steps)
            said = torch.relu(x @ (w * allowed) + b) @ v + c
            loss = (said - wide).square().sum(2).mean(1).sum() / 2 + penalty * v.square().sum() / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():  # the groups shrink by as much as a gradient step would take
                size = torch.einsum("jph,pn->jn", w.square(), group).sqrt()
                keep = (1 - optimiser.param_groups[0]["lr"] * penalty / size.clamp(min=1e-12)).clamp(min=0)
                w *= torch.einsum("jn,pn->jp", keep, group)[:, :, None]
    found = np.zeros((n, n))
    with torch.no_grad():
        inside = x @ (w * allowed) + b
        said = torch.relu(inside) @ v
        for node in problem.source.unique().tolist():
            mine = (problem.source == node).to(x.device)
            without = torch.relu(inside - x[:, mine] @ (w * allowed)[:, mine]) @ v
            change = (said - without).square().sum(2).mean(1).sqrt()
            for target, size in zip(problem.node_of_block, change.tolist()):
                found[node, target] = max(found[node, target], size)
    return found
