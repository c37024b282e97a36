"""Why a set does what it does: its joint effect taken apart into what one, two, three ... of its members do together.

The joint effect of a set H is the sum of the Moebius terms of all its subsets (Harsanyi 1963),
`delta(H) = sum_{K in H} I(K)` with `I(K) = delta(K) - sum_{J in K, J != K} I(J)`: a term of one member is its single effect,
a term of two their interaction, and so on. An interaction is synergy if the two do more together,
and redundancy if they do less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.results import SCORE, Front, Selection
from mctrace_nb.stats import Estimate

ALL_ORDERS = 10  # members of a set whose every subset is run; of larger sets the orders up to three
ORDERS = 3
SMALL = 0.005  # nats that are called nothing


def named(term: Estimate, joint: float) -> str:
    """The name of a set's own term beside its joint effect: "synergy" if the set does more together, so lies farther from 0, than without
    the term, "redundancy" if less, "additive" where the term is nothing or its interval holds 0."""
    if abs(term.mean) < SMALL or term.low * term.high <= 0:
        return "additive"
    return "synergy" if abs(joint) > abs(joint - term.mean) else "redundancy"


def terms_of(effects: dict) -> dict:
    """The Moebius term of each set of labels from the effects of all sets up to some size, `(n,)` each, smaller sets first."""
    terms: dict = {}
    for s, effect in effects.items():
        terms[s] = effect - sum(terms[j] for order in range(1, len(s)) for j in combinations(s, order))
    return terms


@dataclass(frozen=True)
class Explanation:
    """A set's joint effect by order. terms: the Moebius term of each of its subsets on each prompt, `(n,)`, by labels.

        >>> why = mct.explain(trace, mct.search(trace, "guided", budgets=[2])[2])
        >>> why.complete, why.pairs().round(2)
        (True,      components  joint  singles  interaction  ci_low  ci_high      name
        0  (L1H2, L2H2)  13.98    13.94         0.04   -0.98     1.02  additive)
    """

    trace: Effects
    selection: Selection
    terms: dict[tuple[str, ...], np.ndarray]

    @property
    def complete(self) -> bool:
        """Whether the terms of all orders are there, so that they sum to the joint effect."""
        return max(map(len, self.terms)) == self.selection.size

    @cached_property
    def joint(self) -> np.ndarray:
        """(n,) the effect of the whole set on each prompt."""
        return self.trace.effects(list(self.selection.components)).double().cpu().numpy()

    def _row(self, values: np.ndarray) -> dict:
        e = self.trace.estimate(torch.as_tensor(values))
        return dict(effect=e.mean, ci_low=e.low, ci_high=e.high)

    def orders(self):
        """A frame, a row an order: how many subsets, the sum of their terms with its interval, and its share of the joint effect.

        Where not all orders were run, the last row, `higher`, is what the others leave over. Shares may be negative, or
        above one: synergy of one order is often taken back by redundancy of the next. They are nan for a joint effect of 0.
        """
        import pandas as pd

        rows = []
        for order in range(1, max(map(len, self.terms)) + 1):
            found = [v for k, v in self.terms.items() if len(k) == order]
            rows.append(dict(order=str(order), subsets=len(found), **self._row(np.sum(found, 0))))
        if not self.complete:
            rows.append(dict(order="higher", subsets=2 ** self.selection.size - 1 - len(self.terms),
                             **self._row(self.joint - np.sum(list(self.terms.values()), 0))))
        total = self.joint.mean()
        return pd.DataFrame([{**row, "share": row["effect"] / total if total else np.nan} for row in rows]).set_index("order")

    def pairs(self):
        """A frame of all pairs, the strongest first: components, joint effect, sum of singles, interaction with its interval, and
        its name (see `named`)."""
        import pandas as pd

        rows = []
        for pair in (k for k in self.terms if len(k) == 2):
            e = self.trace.estimate(torch.as_tensor(self.terms[pair]))
            alone = sum(self.terms[(name,)].mean() for name in pair)
            rows.append(dict(components=pair, joint=alone + e.mean, singles=alone, interaction=e.mean, ci_low=e.low,
                             ci_high=e.high, name=named(e, alone + e.mean)))
        frame = pd.DataFrame(rows, columns=["components", "joint", "singles", "interaction", "ci_low", "ci_high", "name"])
        return frame.sort_values("interaction", key=abs, ascending=False, kind="stable", ignore_index=True)

    def words(self) -> str:
        """What the set does by order, and its strongest synergy and redundancy."""
        unit, total = self.trace.metric.unit, self.joint.mean()
        if self.selection.size == 1:
            return f"The set is a single component, with an effect of {total:.2f} {unit}: there is nothing to take apart."
        parts = [f"{'the rest' if order == 'higher' else _ORDER.get(order, f'terms of {order}')} {row.effect:+.2f}"
                 + (f" ({row.share:.0%})" if abs(total) > SMALL else "") for order, row in self.orders().iterrows()]
        said, pairs = [f"Of the joint effect of {total:.2f} {unit}, {', '.join(parts)}."], self.pairs()
        for name in ("synergy", "redundancy"):
            found = pairs[pairs["name"] == name]
            if len(found):
                best = found.iloc[0]
                what = "do more together" if name == "synergy" else "do in part the same"
                said.append(f"Strongest {name}: {' and '.join(best.components)} {what}, {best.joint:.2f} against {best.singles:.2f} one at a "
                            f"time ({best.interaction:+.2f} [{best.ci_low:.2f}, {best.ci_high:.2f}]).")
        threes = {k: v.mean() for k, v in self.terms.items() if len(k) == 3}
        most = max(threes, key=lambda k: abs(threes[k]), default=None)
        if most and abs(threes[most]) > SMALL:
            how = "the pairs among them do in part the same" if threes[most] * total < 0 else "which no pair among them shows"
            said.append(f"Largest term of three: {', '.join(most)} ({threes[most]:+.2f}), {how}.")
        if len(said) == 1:
            said.append("No pair or triple of its members interacts beyond chance: their effects add up.")
        return " ".join(said)


_ORDER = {"1": "single effects make", "2": "pairs", "3": "triples"}


def explain(trace: Effects, selection: Selection) -> Explanation:
    """Takes a selection's joint effect apart (see `Explanation`): all subsets of up to ten members, else those of up to three.

    Raises InputError for an empty selection, or components that the trace does not have.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> mct.explain(trace, best).orders().round(2)
               subsets  effect  ci_low  ci_high  share
        order
        1            2   13.94   12.25    15.71    1.0
        2            1    0.04   -0.98     1.02    0.0
    """
    if not selection.size:
        raise InputError("the selection is empty, so there is nothing to explain; give a set of at least one component")
    most = selection.size if selection.size <= ALL_ORDERS else ORDERS
    sets = [s for order in range(1, most + 1) for s in combinations(selection.components, order)]
    numbers = [[trace.components.index(name) for name in s] for s in sets]
    effects = np.concatenate([trace.effects(part).cpu().numpy() for part in trace.components.masks(numbers).split(4096)])
    return Explanation(trace, selection, terms_of(dict(zip(sets, effects))))


def missed(trace: Effects, best: Selection, greedy: Front, why: Explanation | None = None) -> str:
    """What greedy search missed at the budget of `best`, as a sentence with its numbers.

    greedy: its front, with that budget. why: the explanation of `best`, if it is at hand. Raises InputError if it has no such budget.
    """
    other, unit, score = greedy[best.budget or best.size], trace.metric.unit, SCORE[greedy.direction]
    if set(other.components) == set(best.components):
        return f"Greedy search missed nothing: it found the same {best.size} component{'s' * (best.size != 1)}."
    if score(other.effect) >= score(best.effect) - SMALL:
        return (f"Greedy search missed nothing: its other set ({', '.join(other.components)}) does as much, {other.effect:.2f} "
                f"against {best.effect:.2f} {unit}.")
    left = [c for c in best.components if c not in other.components]
    taken = [c for c in other.components if c not in best.components]
    alone = trace.single_effects_of([*left, *taken])
    share = f" ({score(other.effect) / score(best.effect):.0%})" if score(other.effect) > 0 else ""
    said = (f"Greedy search reaches {other.effect:.2f} of {best.effect:.2f} {unit}{share}. It missed {' and '.join(left)}"
            f" (alone {', '.join(f'{alone[c]:.2f}' for c in left)})")
    if taken:
        said += f" and took {' and '.join(taken)} (alone {', '.join(f'{alone[c]:.2f}' for c in taken)})"
    pairs = [row for row in (why or explain(trace, best)).pairs().itertuples() if set(row.components) & set(left) and row.name == "synergy"]
    if not pairs:
        return f"{said}: one step at a time it never came to a place from which that set is one step away."
    a, b = pairs[0].components
    return (f"{said}. What it could not see one step at a time: {a} and {b} do {pairs[0].joint:.2f} together and {pairs[0].singles:.2f} one at a "
            f"time (interaction {pairs[0].interaction:+.2f}).")
