"""Explorers of interventions: pick components and a prompt, and see what the model then answers."""

from __future__ import annotations

import re
from functools import cache, cached_property

import ipywidgets as ipy
import pandas as pd

from mctrace_nb.errors import InputError
from mctrace_nb.metrics import METRICS
from mctrace_nb.plots import Figure, mediation, replaced
from mctrace_nb.search import search
from mctrace_nb.sides import CORRUPTIONS
from mctrace_nb.tracing import Trace
from mctrace_nb.views import answers
from mctrace_nb.widgets.base import Explorer, menu, pick, slider, started, traced

MOST = 8  # the largest budget of a set
BY = {"counterfactual": "its value on the counterfactual prompt", "zero": "zero", "mean": "its mean over all base prompts",
      "noise": "its value on the prompt with noise on the subject"}
ADDITIVE = ("log_odds", "logit_diff", "log_prob", "prob", "odds_ratio", "accuracy")  # metrics whose effects can be split into parts


class _OnPrompts(Explorer):
    """An explorer of a single trace, with a slider for its prompts."""

    def __init__(self, trace: Trace, controls: dict, compute, start: dict):
        self.trace = trace
        super().__init__(started(controls, start), compute)

    @property
    def unit(self) -> str:
        return self.trace.metric.unit

    @property
    def asks(self) -> str:
        return f"by how many {self.unit} will the answer move on this prompt?"

    def _prompt(self, number: int) -> str:
        """The prompt that is run: where a trace restores, the counterfactual one."""
        e = self.trace.examples[number]
        run = e.counterfactual if self.trace.direction == "restore" and self.trace.corruption == "counterfactual" else e.base
        return f'prompt {number}, "{self.trace.task.text(run)}"'


def _moved(frame) -> str:
    return ", ".join(f"{r.token} ({r.answer}) from {r.before:.2f} to {r.after:.2f}" for r in frame.itertuples() if r.answer)


class ComponentPicker(_OnPrompts):
    """One component replaced on one prompt, by the values of the other prompt, by zero, a mean or noise: what the model then answers.

    trace: a Trace; its own corruption is what the picture starts with, the others are made when they are asked for. Other arguments
    are the values that the controls start with. Raises InputError for anything but a Trace, or a value that a control does not have.

        >>> explorer = mct.widgets.ComponentPicker(trace, component="L1H2", by="zero")
        >>> explorer.parameters
        {'component': 'L1H2', 'prompt': 0, 'by': 'zero'}
    """

    def __init__(self, trace: Trace, **start):
        traced(trace, Trace)
        labels = trace.components.labels
        controls = dict(component=pick("component", labels, labels[0]), prompt=slider("prompt", 0, 0, len(trace) - 1),
                        by=menu("replaced by", CORRUPTIONS, trace.corruption))
        self._by = cache(lambda by: trace if by == trace.corruption else trace.again(corruption=by))
        super().__init__(trace, controls, self.intervene, start)

    def _value(self, by: str) -> str:
        """What is put in, in words."""
        return "its value on the base prompt, as it was" if self.trace.direction == "restore" else BY[by]

    def intervene(self, component: str, prompt: int, by: str) -> tuple[str, Figure, float]:
        """Words on what moved, the picture, and the effect on this prompt."""
        trace = self._by(by)
        effect = float(trace.effects([component], examples=[prompt])[0])
        frame = answers(trace, [component], prompt)
        words = (f"On {self._prompt(prompt)}, {component} is replaced by {self._value(by)}: effect {effect:.2f} {self.unit}. "
                 f"Probability of {_moved(frame)}.")
        return words, replaced(trace.components, [component], frame), effect


class SetPicker(_OnPrompts):
    """The set that guided search finds for a budget, and what it does to one prompt.

    trace: a Trace with a metric that has a gradient; it is searched once, for all budgets up to 8. Other arguments are the values that
    the controls start with. Raises InputError for anything but a Trace, or a value that a control does not have.

        >>> explorer = mct.widgets.SetPicker(trace, budget=2)
        >>> explorer.parameters
        {'budget': 2, 'prompt': 0}
    """

    def __init__(self, trace: Trace, **start):
        traced(trace, Trace)
        most = min(MOST, len(trace.components))
        controls = dict(budget=slider("budget", min(3, most), 1, most), prompt=slider("prompt", 0, 0, len(trace) - 1))
        super().__init__(trace, controls, self.choose, start)

    @cached_property
    def front(self):
        """Its sets for all budgets."""
        return search(self.trace, "guided", range(1, self.controls["budget"].max + 1), heldout=False, progress=False)

    def choose(self, budget: int, prompt: int) -> tuple[str, Figure, float]:
        """Words on the set, the picture, and the effect on this prompt."""
        found, total = self.front[budget], float(self.trace.total_effects().mean())
        effect = float(self.trace.effects(list(found.components), examples=[prompt])[0])
        frame = answers(self.trace, list(found.components), prompt)
        share = f", {found.effect / total:.0%} of the total effect" if total > 0 else ""
        words = (f"Budget {budget}: {', '.join(found.components)}, mean effect {found.effect:.2f} {self.unit}{share}. "
                 f"On {self._prompt(prompt)}: {effect:.2f} {self.unit}, probability of {_moved(frame)}.")
        return words, replaced(self.trace.components, found.components, frame, self.front, total, self.unit), effect


class EffectBars(_OnPrompts):
    """Total, direct and indirect effect of a set and the remainder, over all prompts or on one, by any metric.

    trace: a Trace whose corruption has a run of its own ("counterfactual" or "noise"). chosen: the labels that the set starts with. Other
    arguments are the values that the controls start with; prompt -1 is the mean over all. Raises InputError for anything but such a
    Trace, or a value that a control does not have.

        >>> explorer = mct.widgets.EffectBars(trace, ["L1H2", "L2H2"])
        >>> explorer.parameters
        {'chosen': 'L1H2, L2H2', 'prompt': -1, 'metric': 'log_odds'}
    """

    asks = "how large will the remainder be?"

    @property
    def unit(self) -> str:
        return self._by(self.controls["metric"].value).metric.unit

    def __init__(self, trace: Trace, chosen, **start):
        traced(trace, Trace)
        metrics = dict.fromkeys([trace.metric.name, *ADDITIVE])
        written = ", ".join([chosen] if isinstance(chosen, str) else chosen)
        controls = dict(chosen=ipy.Text(written, description="set", continuous_update=False, placeholder="labels, such as L0H2, L0H3"),
                        prompt=slider("prompt (-1: all)", -1, -1, len(trace) - 1), metric=menu("metric", metrics))
        self._by = cache(lambda metric: trace if metric == trace.metric.name else trace.again(metric=METRICS[metric]))
        self._measured = cache(lambda chosen, metric: self._by(metric).mediation_by_prompt(list(chosen)))
        super().__init__(trace, controls, self.measure, start)

    def measure(self, chosen: str, prompt: int, metric: str) -> tuple[str, Figure, float]:
        """Words on the parts, their picture, and the remainder."""
        labels = tuple(dict.fromkeys(re.findall(r"[^\s,;]+", chosen)))
        if not labels:
            raise InputError("the set is empty; write labels such as " + ", ".join(self.trace.components.labels[:2]))
        trace = self._by(metric)
        unit = trace.metric.unit
        parts = self._measured(labels, metric)
        if prompt >= 0:
            nan = float("nan")
            frame = pd.DataFrame([dict(effect=k, mean=float(v[prompt]), low=nan, high=nan, n=1) for k, v in parts.items()])
        else:
            frame = pd.DataFrame([dict(effect=k, **vars(trace.estimate(v))) for k, v in parts.items()])
        frame = frame.set_index("effect")
        said, where = frame["mean"], f"the mean of {len(trace)} prompts" if prompt < 0 else self._prompt(prompt)
        words = (f"{', '.join(labels)}, {metric}, {where}: total {said['total']:.2f} {unit} = direct {said['direct']:.2f} + indirect "
                 f"{said['indirect']:.2f} + remainder {said['remainder']:.2f}.")
        return words, mediation(frame, unit, f"{', '.join(labels)}; {metric}, {where}"), float(said["remainder"])
