"""Figures: one style, safe for colour-blind readers, each with a sentence that says what it shows."""

from mctrace_nb.plots.base import DASHES, FOIL, INK, LINES, OTHER, STYLE, TARGET, Canvas, canvas_of, component_style, Figure, named
from mctrace_nb.plots.circuit import circuit
from mctrace_nb.plots.distilling import next_words, paired_differences, token_row
from mctrace_nb.plots.effects import behaviours, heads, interactions, layer_by_token, per_prompt, preferences, singles
from mctrace_nb.plots.joint import joint, race
from mctrace_nb.plots.landscape import along, landscape, slopes
from mctrace_nb.plots.model import mediation, replaced
from mctrace_nb.plots.observing import draws, observed, overlaps
from mctrace_nb.plots.paper import deviations, lines, referee, settings, small_multiples, work_and_time
from mctrace_nb.plots.rounding import rounding
from mctrace_nb.plots.sets import frequencies, front, orders, selection_map, trajectories
from mctrace_nb.plots.study import study_changes, study_fronts, study_stability
from mctrace_nb.plots.survival import carriers, survival
from mctrace_nb.plots.traps import wrong_and_right

__all__ = [
    "DASHES", "FOIL", "INK", "LINES", "OTHER", "STYLE", "TARGET", "Canvas", "canvas_of", "component_style", "Figure", "named", "circuit",
    "behaviours", "heads", "interactions", "layer_by_token", "per_prompt", "preferences", "singles", "joint", "race", "along",
    "landscape", "slopes", "mediation", "replaced", "deviations", "lines", "referee", "settings", "small_multiples", "work_and_time", "rounding",
    "draws", "observed", "overlaps", "next_words", "paired_differences", "token_row",
    "frequencies", "front", "orders", "selection_map", "trajectories",
    "study_changes", "study_fronts", "study_stability", "carriers", "survival", "wrong_and_right",
]
