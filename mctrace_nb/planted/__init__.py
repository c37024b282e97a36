"""Models whose circuit is known because it was put there: GPT-2s with weights set by hand, and linear systems with a planted graph.

Every residual dimension has an owner: the token, the position, each component, and two that carry a large constant, so that a layer norm
hardly changes anything. Tokens and planted components say three bits, +1 or -1, in random directions of their slot of six dimensions. A planted
component reads its parents and, a little, everybody else, as trained weights do; all others are decoys with random weights that read everything, are
as active as the rest, and are hardly heard on the way to the answer. The edges that carry what differs between prompts are the truth; positions
do not.
"""

from mctrace_nb.planted.drawing import copies, plant, readers, twins
from mctrace_nb.planted.linear import linear_system
from mctrace_nb.planted.parts import Part, Planted
from mctrace_nb.planted.weights import build, cut

__all__ = ["Part", "Planted", "build", "copies", "cut", "linear_system", "plant", "readers", "twins"]
