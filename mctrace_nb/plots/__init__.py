"""Figures: one style, safe for colour-blind readers, each with a sentence that says what it shows."""

from mctrace_nb.plots.base import DASHES, FOIL, INK, LINES, OTHER, STYLE, TARGET, Canvas, Figure, canvas_of, component_style, named
from mctrace_nb.plots.effects import behaviours, heads, interactions, layer_by_token, per_prompt, preferences, singles
from mctrace_nb.plots.paper import deviations, lines, referee, small_multiples, work_and_time
from mctrace_nb.plots.rounding import rounding
from mctrace_nb.plots.sets import front, frequencies, orders, selection_map, trajectories

__all__ = ["DASHES", "FOIL", "INK", "LINES", "OTHER", "STYLE", "TARGET", "Canvas", "Figure", "canvas_of", "component_style", "named",
           "behaviours", "heads", "interactions", "preferences", "rounding",
           "layer_by_token", "per_prompt", "singles", "front", "frequencies", "orders",
           "selection_map", "trajectories", "deviations", "lines", "referee", "small_multiples", "work_and_time"]
