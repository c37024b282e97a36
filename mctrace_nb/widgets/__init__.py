"""Explorers for notebooks: a pure core that computes, and a view of it made of traits only."""

from mctrace_nb.widgets.base import Explorer, Guess
from mctrace_nb.widgets.cost import CostCalculator
from mctrace_nb.widgets.distilling import ThresholdExplorer
from mctrace_nb.widgets.metrics import MetricPicker
from mctrace_nb.widgets.observing import LassoExplorer
from mctrace_nb.widgets.picking import ComponentPicker, EffectBars, SetPicker
from mctrace_nb.widgets.relaxing import LambdaExplorer, RelaxationCube
from mctrace_nb.widgets.rounding import BudgetExplorer
from mctrace_nb.widgets.searching import InteractionExplorer, SearchRace
from mctrace_nb.widgets.traps import TrapPicker

__all__ = [
    "Explorer", "Guess", "CostCalculator", "MetricPicker", "ComponentPicker", "EffectBars", "SetPicker", "LambdaExplorer",
    "RelaxationCube", "BudgetExplorer", "InteractionExplorer", "SearchRace", "LassoExplorer", "ThresholdExplorer", "TrapPicker",
]
