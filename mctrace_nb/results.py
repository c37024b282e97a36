"""Selection and Front: plain data that a search leaves, with tables and files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mctrace_nb.errors import InputError

SCORE = {"max": lambda effect: effect, "min": lambda effect: -effect, "abs": abs}  # how a search ranks effects
SIGNS = {"max": (1,), "min": (-1,), "abs": (1, -1)}  # which ways an optimised search has to look
COLUMNS = ("method", "budget", "size", "effect", "best_up_to", "effect_heldout", "ci_low", "ci_high", "components",
           "forwards", "backwards", "seconds")


@dataclass(frozen=True)
class Selection:
    """A chosen set of components.

    components: labels in the order of the trace. effect: mean over the search prompts (nats for metrics with a
    logarithm). effect_heldout, ci_low, ci_high: mean over the held-out prompts and its 95 % interval. forwards,
    backwards, seconds: what the search had spent when it had this set, smaller budgets of the same front included. band: for the random control, 5th and 95th percentile over the draws.
    history: one dict an epoch; trajectory: the mask after each epoch, `(epochs + 1, N)` (relaxed searches only).
    kinds, corruption, positions: what was replaced, by what, and where, as in the trace.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> best.components, round(best.effect, 2)
        (('L1H2', 'L2H2'), 13.98)
    """

    method: str
    components: tuple[str, ...]
    effect: float
    budget: int | None = None
    effect_heldout: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    band: tuple[float, float] | None = None
    history: list = field(default_factory=list, repr=False)
    trajectory: np.ndarray | None = field(default=None, repr=False, compare=False)
    settings: dict = field(default_factory=dict, repr=False)
    kinds: tuple[str, ...] = ()
    corruption: str = "counterfactual"
    positions: str = "all"

    @property
    def size(self) -> int:
        return len(self.components)

    def __str__(self) -> str:
        held = "" if self.effect_heldout is None else \
            f", held-out {self.effect_heldout:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}]"
        return f"{self.method}: {{{', '.join(self.components)}}} effect {self.effect:.3f}{held}"

    def apply(self, model, counterfactual=None, subject=None):
        """A context in which the model itself runs with these components replaced by their values on the counterfactual prompt
        (text or token ids, as long as the prompt that is run): see `mctrace_nb.apply.apply`."""
        from mctrace_nb.apply import apply  # a selection is plain data and knows no model until it is put to work

        return apply(self, model, counterfactual, subject)


def _json(path: str | os.PathLike) -> Path:
    """The path with `.json` at its end; other dots in the name are part of it."""
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


@dataclass(frozen=True)
class Front:
    """What one method found at each budget: `selections[i]` is its set for the i-th budget.

    A method may leave a budget out (it never got there), or give a smaller set (`size < budget`).

        >>> front = mct.search(trace, "greedy", budgets=[1, 2, 3])
        >>> front.to_frame()[["budget", "effect", "components"]].round(2)
           budget  effect      components
        0       1    9.46            L1H2
        1       2   13.98       L1H2;L2H2
        2       3   17.06  L1H2;L2H1;L2H2
    """

    method: str
    selections: tuple[Selection, ...]
    direction: str = "max"
    settings: dict = field(default_factory=dict)

    def __getitem__(self, budget: int) -> Selection:
        """The selection of a budget. Raises InputError if the method has none."""
        for selection in self.selections:
            if selection.budget == budget:
                return selection
        raise InputError(f"{self.method} has no selection for budget {budget} "
                         f"(it has {', '.join(str(s.budget) for s in self.selections) or 'none'})")

    def score(self, effect: float) -> float:
        """The effect as the search ranks it: larger is better in every direction."""
        return SCORE[self.direction](effect)

    def best_up_to(self) -> list[float]:
        """Running best effect: what one gets who may choose at most that many components, or none at all."""
        best, found = 0.0, []
        for selection in self.selections:
            best = max(best, selection.effect, key=self.score)
            found.append(best)
        return found

    def area(self, total: float, most: int | None = None) -> float:
        """Area under the front as one number: the best effect so far as a share of the total effect, averaged over budgets from
        0 to `most` (default: the largest of the front) along straight lines. Larger is better.

        0 is what nothing gives, 1 what reaches the total effect with the first component and keeps it; a set that does more
        than everything together counts above 1. Sign rule: an effect counts as positive if it goes the way the search looks,
        whatever the sign of the total. The idea is that of the circuit performance ratio of MIB (Mueller et al. 2025, arXiv
        2504.13151), which takes it over all sizes of a circuit. nan for a total effect of 0.
        """
        most = most or max((s.budget for s in self.selections), default=0)
        best = {0: 0.0, **{s.budget: self.score(e) for s, e in zip(self.selections, self.best_up_to())}}
        curve = np.maximum.accumulate([best.get(b, 0.0) for b in range(most + 1)])  # a budget left out has what came before
        return float(np.trapezoid(curve) / most / abs(total)) if most and total else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row a budget; the columns of `front.csv`. `ci_*` belong to `effect_heldout`."""
        rows = []
        for selection, best in zip(self.selections, self.best_up_to()):
            row = {name: getattr(selection, name, None) for name in COLUMNS}
            rows.append({**row, "best_up_to": best, "components": ";".join(selection.components)})
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the whole front as JSON (`.json` is added if missing), whole or not at all."""
        path = _json(path)
        data = asdict(self)
        for selection in data["selections"]:
            if selection["trajectory"] is not None:
                selection["trajectory"] = np.asarray(selection["trajectory"]).round(6).tolist()
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(data, indent=1, default=lambda x: x.tolist() if hasattr(x, "tolist") else list(x)))
        os.replace(part, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Front":
        """Reads a saved front. Raises InputError if the file is not one."""
        path = _json(path)
        try:
            data = json.loads(path.read_text())
            chosen = [Selection(**{**s, "components": tuple(s["components"]), "kinds": tuple(s.get("kinds", ())),
                                   "band": tuple(s["band"]) if s["band"] else None,
                                   "trajectory": None if s["trajectory"] is None else np.array(s["trajectory"])})
                      for s in data.pop("selections")]
            return cls(selections=tuple(chosen), **data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a saved front ({error}); write one with front.save(path)") from None
