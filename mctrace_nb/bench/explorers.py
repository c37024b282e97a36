"""What a learner waits for: each explorer of the course, from a control that is released to its picture."""

from __future__ import annotations

import time
from typing import Iterator

from mctrace_nb import widgets
from mctrace_nb.models import load_model
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace


def _explorers(lm) -> dict[str, widgets.Explorer]:
    """As the lessons show them, on 32 search prompts."""
    def trace(task):
        return Trace(lm, load_task(task, lm, 64), "head_output")

    professions, operation = trace("professions"), trace("binding_operation")
    made = (widgets.SetPicker(professions), widgets.ComponentPicker(professions), widgets.EffectBars(professions, ["L0H2", "L0H3"]),
            widgets.InteractionExplorer(operation), widgets.SearchRace(operation, most=5), widgets.RelaxationCube(operation, ["L0H0", "L0H1", "L0H3"]),
            widgets.LambdaExplorer(operation), widgets.BudgetExplorer(operation),
            widgets.MetricPicker([professions, trace("coreference"), trace("facts"), trace("binding")]))
    return {type(explorer).__name__: explorer for explorer in made}


def _others(control) -> list:
    """Some values that a control does not have now: of a list the second and the last, of a range both ends, of a box its opposite."""
    if isinstance(control.value, bool):
        return [not control.value]
    values = list(control.options[1::max(1, len(control.options) - 2)]) if getattr(control, "options", None) else \
        [control.min, control.max] if hasattr(control, "max") else []
    return [v for v in values if v != control.value]


def slowest(explorer: widgets.Explorer) -> tuple[float, str]:
    """Seconds of the slowest move of one control to a value whose picture is not yet known, and which control that was."""
    took = []
    for name, control in explorer.controls.items():
        before = control.value
        for value in _others(control):
            start = time.perf_counter()
            control.value = value
            took.append((time.perf_counter() - start, name))
            control.value = before
    return max(took)


def measure(quick: bool) -> Iterator[dict]:
    """The slowest first move of every explorer; `quick` leaves nothing out."""
    for name, explorer in _explorers(load_model("tutorial", device="cpu")).items():
        seconds, control = slowest(explorer)
        yield dict(name=f"{name}: seconds from a control released to its picture, slowest ({control})", value=seconds, bar=1.0)
