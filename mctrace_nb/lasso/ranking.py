"""CircuitLasso as a method of search: components ranked by what regression says, their sets run like everybody's."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from mctrace_nb.circuits import Circuit
from mctrace_nb.counting import Clock, mean_effects
from mctrace_nb.desiderata import Desiderata
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.lasso.circuit import FRACTION, circuit_lasso, see
from mctrace_nb.nodes import NODES
from mctrace_nb.results import Selection


def node_kinds(trace: Effects) -> tuple[str, ...]:
    """The kinds of node that the components of a trace are, with the blocks beside them. Raises InputError for kinds that are no nodes."""
    kinds = {"head_output" if kind == "head_pattern" else kind for kind in trace.components.kinds}
    if len(kinds) < len(trace.components.kinds) or not kinds <= set(NODES) or {"head_output", "attn_block"} <= kinds:
        raise InputError(f"circuit-lasso ranks heads, attention blocks and MLP blocks, not {'+'.join(trace.components.kinds)}; give the trace "
                         "components='head_output' or one of the blocks, or use method 'attribution'")
    return ("attn_block" if "attn_block" in kinds else "head_output", "mlp_block")


def lasso_scores(trace: Effects, inputs: str = "moved", fraction: float | None = FRACTION) -> np.ndarray:
    """`(N,)` of each component its flow in the circuit of CircuitLasso (`Circuit.flow`): the share of variance that regression sees on all
    ways from it to the answer. Without a sign: it says what goes with the answer, not what replacing it would do. Of desiderata the weighted sum, with what should
    be kept taken off.

        >>> mct.lasso.lasso_scores(trace, inputs="same").round(2)
        array([0.01, 0.01, 0.02, 0.02, 0.  , 0.02, 0.01, 0.01, 0.02, 0.02, 0.03,
               0.01])
    """
    if isinstance(trace, Desiderata):
        return sum((-w if kept else w) * lasso_scores(t, inputs, fraction) for t, kept, w in zip(trace.traces, trace.kept, trace.weights))
    circuit: Circuit = circuit_lasso(see(trace, node_kinds(trace), inputs), fraction, trace.seed)
    flow = dict(zip(circuit.nodes, circuit.flow))
    return np.array([flow[label.removesuffix(".pattern")] for label in trace.components.labels])


def lasso_ranking(trace, budgets, direction, seed, progress, inputs: str = "moved", fraction: float | None = FRACTION) -> Iterator[Selection]:
    """CircuitLasso (arXiv 2606.16939): the components with the largest flow to the answer, whatever the direction. Each prompt is run once,
    and no gradient is taken. The defaults were set on the tutorial model."""
    clock = Clock(trace)
    ranked = np.argsort(-lasso_scores(trace, inputs, fraction), kind="stable")
    for budget in budgets:
        chosen = tuple(ranked[:budget].tolist())
        yield clock.selection("circuit-lasso", chosen, mean_effects(trace, [chosen], 1)[0], budget)
