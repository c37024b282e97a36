"""CircuitLasso: sparse regression between what components say, as an observational rival of intervention (arXiv 2606.16939)."""

from mctrace_nb.lasso.circuit import circuit_lasso, penalty_path, see
from mctrace_nb.lasso.data import Seen
from mctrace_nb.lasso.nonlinear import nonlinear_circuit
from mctrace_nb.lasso.ranking import lasso_scores
from mctrace_nb.lasso.stability import edge_stability

__all__ = ["Seen", "circuit_lasso", "edge_stability", "lasso_scores", "nonlinear_circuit", "penalty_path", "see"]
