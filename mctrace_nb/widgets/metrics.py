"""The same components under another measure: a metric and a corruption picked for one behaviour or several."""

from __future__ import annotations

from typing import Sequence

from mctrace_nb.effects import NO_COUNTERFACTUAL
from mctrace_nb.errors import InputError
from mctrace_nb.metrics import METRICS
from mctrace_nb.plots import Figure, behaviours
from mctrace_nb.plots.effects import short
from mctrace_nb.sides import CORRUPTIONS
from mctrace_nb.tracing import Trace
from mctrace_nb.widgets.base import Explorer, menu, started


class MetricPicker(Explorer):
    """What each component does alone to one behaviour or several, a panel each, by any metric and with values from any corruption.

    traces: one trace or several, which are traced again for each choice. The menu holds their own metrics and those of the package; gaps
    between cohorts are there if the prompts of one of them have two. A behaviour that cannot be traced so is left out, and the words say
    why. Other arguments are the values that the controls start with.

    Raises InputError for what is no trace, or a value that a control does not have.

        >>> explorer = mct.widgets.MetricPicker(trace, metric="prob")
        >>> explorer.parameters
        {'metric': 'prob', 'corruption': 'counterfactual'}
    """

    asks, unit = "how large is the largest single effect of the first behaviour, whatever its sign?", ""

    def __init__(self, traces: Trace | Sequence[Trace], **start):
        self.traces = list(traces) if isinstance(traces, (list, tuple)) else [traces]
        wrong = [t for t in self.traces if not isinstance(t, Trace)]
        if wrong or not self.traces:
            raise InputError(f"{wrong[0]!r} is no trace; give a Trace, or a list of them" if wrong else "no traces given; give at least one")
        own = {t.metric.name: t.metric for t in self.traces}
        twice = [t.metric.name for t in self.traces if t.metric != own[t.metric.name]]
        if twice:
            raise InputError(f"two different metrics are called {twice[0]!r}; give each a name (metrics.from_logits(function, name=...))")
        gaps = any(len({e.cohort for e in t.examples} - {""}) == 2 for t in self.traces)
        fitting = {name: metric for name, metric in METRICS.items() if name != "odds_ratio" and (gaps or not metric.between_cohorts)}
        self.metrics = {**own, **{name: metric for name, metric in fitting.items() if name not in own}}
        names = [t.task.name for t in self.traces]
        self.names = [name if names.count(name) == 1 else f"{name} {i + 1}" for i, name in enumerate(names)]
        controls = dict(metric=menu("metric", self.metrics), corruption=menu("values from", CORRUPTIONS, self.traces[0].corruption))
        super().__init__(started(controls, start), self.measure)

    def measure(self, metric: str, corruption: str) -> tuple[str, Figure, float]:
        """Words on the largest component of each behaviour, the panels, and the size of the first behaviour's largest effect."""
        frames, refused = {}, []
        for name, trace in zip(self.names, self.traces):
            try:
                again = trace.again(metric=self.metrics[metric], corruption=corruption)
                if again.nothing_to_compare:
                    raise InputError(NO_COUNTERFACTUAL)
                frames[name] = again.single_effects()
            except InputError as error:
                refused.append(f"{name} cannot be traced so: {error}.")
        if not frames:
            raise InputError(" ".join(refused))
        unit, said = self.metrics[metric].unit, []
        for name, frame in frames.items():
            best = frame.loc[frame["effect"].abs().idxmax()]
            said.append(f"{name}: {best['component']} {short(best['effect'])}" if best["effect"] else f"{name}: nothing alone moves it")
        words = f"The largest effect alone by {metric} ({unit}), values from {corruption}: {'; '.join(said)}. {' '.join(refused)}".strip()
        return words, behaviours(frames, unit), float(next(iter(frames.values()))["effect"].abs().max())
