"""Explorers for notebooks: a pure core that computes, and a view of it made of traits only."""

from mctrace_nb.widgets.base import Explorer, Guess
from mctrace_nb.widgets.cost import CostCalculator
from mctrace_nb.widgets.metrics import MetricPicker
from mctrace_nb.widgets.relaxing import LambdaExplorer
from mctrace_nb.widgets.rounding import BudgetExplorer

__all__ = ["Explorer", "Guess", "BudgetExplorer", "CostCalculator", "LambdaExplorer", "MetricPicker"]
