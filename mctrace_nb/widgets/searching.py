"""What acts together, and who finds it: the subsets of two or three components; searches side by side at one budget."""

from __future__ import annotations

import math
from itertools import chain, combinations
from typing import Sequence

import ipywidgets as ipy

from mctrace_nb.compare import AUTO_SETS, NO_GRADIENT
from mctrace_nb.cost import rows_of
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.explain import named, terms_of
from mctrace_nb.plots import Figure, joint, race
from mctrace_nb.results import Front
from mctrace_nb.search import METHODS, search
from mctrace_nb.stats import Estimate
from mctrace_nb.widgets.base import Explorer, pick, slider, started, traced
from mctrace_nb.words import interval_text

NONE = "none"
AT_ONCE = 200_000  # runs of a prompt that a method may need to be run without being asked for
RACERS = ("greedy", "guided", "top-k", "pgb", "attribution", "random")


def _signed(e: Estimate) -> str:
    return f"{e.mean:+.2f}{interval_text(e.low, e.high)}"


class InteractionExplorer(Explorer):
    """Two or three components, and the effect of every subset of them, run exactly on all prompts of the trace.

    trace: with at least two components. Other arguments are the values that the controls start with: a, b and c ("none" for two
    components). Raises InputError for a trace with one component, or a value that a control does not have.

        >>> explorer = mct.widgets.InteractionExplorer(trace, a="L1H2", b="L2H2")
        >>> explorer.parameters
        {'a': 'L1H2', 'b': 'L2H2', 'c': 'none'}
    """

    asks = "what is their joint effect, in nats?"

    def __init__(self, trace: Effects, **start):
        traced(trace)
        labels = trace.components.labels
        if len(labels) < 2:
            raise InputError(f"{trace!r} has one component, and an interaction needs two; trace another kind")
        self.trace, self.unit = trace, trace.metric.unit
        self.asks = f"what is their joint effect, in {self.unit}?"
        controls = dict(a=pick("component", labels, labels[0]), b=pick("another", labels, labels[1]),
                        c=pick("a third", [NONE, *labels], NONE))
        super().__init__(started(controls, start), self.subsets)

    def subsets(self, a: str, b: str, c: str) -> tuple[str, Figure, float]:
        """Words on joint effect, singles and interactions; the picture of all subsets; the joint effect."""
        chosen = [a, b] if c == NONE else [a, b, c]
        twice = next((name for name in chosen if chosen.count(name) > 1), None)
        if twice:
            raise InputError(f"{twice} is picked twice; an interaction is between different components, pick another")
        sets = list(chain.from_iterable(combinations(chosen, size) for size in range(len(chosen) + 1)))
        numbers = [[self.trace.components.index(name) for name in s] for s in sets]
        found = dict(zip(sets, self.trace.effects(self.trace.components.masks(numbers)).double().cpu()))
        terms = terms_of({s: found[s] for s in sets[1:]})
        effects = {s: self.trace.estimate(values) for s, values in found.items()}
        whole = effects[sets[-1]]
        alone = sum(effects[s].mean for s in sets if len(s) == 1)
        said = [f"Together {', '.join(chosen)} do {whole.mean:.2f}{interval_text(whole.low, whole.high)} {self.unit}; their single effects sum "
                f"to {alone:.2f}."]
        for s in sets:
            if len(s) > 1:
                term = self.trace.estimate(terms[s])
                what = "Interaction of" if len(s) == 2 else "Term of all three,"
                said.append(f"{what} {' and '.join(s)}: {_signed(term)}, {named(term, effects[s].mean)}.")
        return " ".join(said), joint(effects, self.unit), whole.mean


class SearchRace(Explorer):
    """Search methods side by side: how far each gets at a budget, and for how much work.

    The exact optimum is there where all sets up to the largest budget can be tried (20,000 sets); else methods are compared with
    the best set that any of those shown found. A method is run once for all budgets, when it is first needed; those that need a
    gradient start unchecked for a metric without one, and so do those that need more than 200,000 runs of a prompt.

    methods: names of `search.METHODS`. most: the largest budget (default 8, or as many as there are components). Other arguments
    are the values that the controls start with: budget, and each method by its name. Raises InputError for a method or budget
    that there is not, or a value that a control does not have.

        >>> explorer = mct.widgets.SearchRace(trace, ("greedy", "top-k"), most=2, budget=2)
        >>> explorer.parameters
        {'budget': 2, 'greedy': True, 'top-k': True}
    """

    unit = "%"

    def __init__(self, trace: Effects, methods: Sequence[str] = RACERS, most: int | None = None, **start):
        traced(trace)
        n = len(trace.components)
        self.most = min(8, n) if most is None else most
        if not (isinstance(self.most, int) and 1 <= self.most <= n):
            raise InputError(f"most={most!r} is out of range; give 1 to {n}")
        names = [one_of(name, METHODS, "method") for name in dict.fromkeys(methods) if name != "exhaustive"]
        if not names:
            raise InputError("no method to race; give at least one, such as 'greedy'")
        self.trace, self.fronts = trace, {}
        self.exact = self.front("exhaustive") if sum(math.comb(n, s) for s in range(1, self.most + 1)) <= AUTO_SETS else None
        budgets = range(1, self.most + 1)
        able = {name: (trace.metric.differentiable or name in NO_GRADIENT) and rows_of(name, n, budgets, len(trace)) <= AT_ONCE for name in names}
        self.asked = "greedy" if able.get("greedy") else next((name for name in names if able[name]), names[0])
        self.asks = f"what share of {'the optimum' if self.exact else 'the best set found'} does {self.asked} have, in percent?"
        controls = dict(budget=slider("budget", min(2, self.most), 1, self.most))
        for name in names:
            controls[name] = ipy.Checkbox(value=able[name], description=name, indent=True)
        super().__init__(started(controls, start), self.race)

    def front(self, method: str) -> Front:
        """The front of a method over all budgets of the slider; run once."""
        if method not in self.fronts:
            self.fronts[method] = search(self.trace, method, range(1, self.most + 1), seed=self.trace.seed, heldout=False, progress=False)
        return self.fronts[method]

    def race(self, budget: int, **shown: bool) -> tuple[str, Figure, float]:
        """Words on who has which share; the picture; the share of the method that is asked for, in percent."""
        fronts = [self.front(name) for name, on in shown.items() if on]
        run = [*([self.exact] if self.exact else []), *fronts]
        if not run:
            raise InputError("no method is checked, so there is nothing to compare; check at least one")
        here = {f.method: s for f in run for s in f.selections if s.budget == budget}
        found = [here["exhaustive"]] if self.exact else [s for s in here.values() if s.method != "random"] or [*here.values()]
        best = max(found, key=lambda s: s.effect, default=None)
        if best is None or best.effect <= 0:
            raise InputError(f"with a budget of {budget} no set found has an effect above 0, so there is no share of it; are target and "
                             "foil swapped?")
        shares = {name: 100 * s.effect / best.effect for name, s in here.items()}
        which = "The exact optimum is" if self.exact else f"The optimum is not known; the best set found, by {best.method}, is"
        said = [f"{name}{' (median draw)' if name == 'random' else ''} {shares[name]:.0f} %" if name in shares else f"{name} no set of this size"
                for name in (f.method for f in fronts)]
        words = (f"Budget {budget}. {which} {', '.join(best.components)} with {best.effect:.2f} {self.trace.metric.unit}."
                 + (f" Shares of it: {', '.join(said)}." if said else ""))
        figure = race(run, budget, self.trace.metric.unit)
        if not shown.get(self.asked):
            return f"{words} Check {self.asked} to see its share.", figure
        return words, figure, shares.get(self.asked, 0.0)
