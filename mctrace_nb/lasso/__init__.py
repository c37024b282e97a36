"""CircuitLasso: sparse regression between what components say, as an observational rival of intervention (arXiv 2606.16939)."""

from mctrace_nb.lasso.circuit import circuit_lasso, see
from mctrace_nb.lasso.data import Seen
from mctrace_nb.lasso.ranking import lasso_scores

__all__ = ["Seen", "circuit_lasso", "lasso_scores", "see"]
