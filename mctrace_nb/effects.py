"""Everything that follows from effects of masks alone: total, direct, indirect effects, singles, interactions."""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from itertools import combinations
from typing import Iterable, Sequence

import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.metrics import Metric
from mctrace_nb.stats import Estimate, estimate, interval
from mctrace_nb.tasks import Task

NO_COUNTERFACTUAL = ("there are no counterfactual prompts, so nothing can have an effect; trace it with corruption='noise', 'zero' or "
                     "'mean'")


class Effects:
    """What a `Trace` and `Desiderata` (several traces at once) have in common; searches need nothing else.

    A subclass sets `model, task, components, metric, seed, batch_rows, work, corruption, split`, answers `effects`,
    `total_effects` and `len()`, and has `examples`, `heldout`, `groups` and `parts`. The mean over its prompts is what a search moves.
    """

    components: Components
    metric: Metric
    task: Task
    seed: int
    corruption: str
    positions: str
    parts: list[int] | None = None  # prompts averaged apart: the cohorts of a gap, the tasks of desiderata

    @property
    def groups(self) -> list[str]:
        raise NotImplementedError

    def effects(self, masks, examples=None, reverse: bool = False, scale: str | None = None) -> torch.Tensor:
        raise NotImplementedError

    def total_effects(self, scale: str | None = None) -> torch.Tensor:
        raise NotImplementedError

    def prepare(self) -> None:
        raise NotImplementedError

    def check_memory(self, rows: int = 0) -> None:
        raise NotImplementedError

    def estimate(self, values: torch.Tensor) -> Estimate:
        """The mean of per-prompt values `(n,)` with its interval."""
        return estimate(values.detach().cpu(), self.groups, seed=self.seed, parts=self.parts)

    def total_effect(self) -> Estimate:
        """Mean total effect with its interval. Warns if it is not positive where it should be: see `Example`."""
        found = self.estimate(self.total_effects())
        if self.nothing_to_compare:
            warnings.warn(f"{self.task.name}: {NO_COUNTERFACTUAL}", stacklevel=2)
        elif self.swapped(found):
            warnings.warn(f"{self.task.name}: the total effect is {found.mean:.3f}, not positive. The target should be the "
                          "answer that the counterfactual prompt favours; are target and foil swapped?", stacklevel=2)
        return found

    @property
    def nothing_to_compare(self) -> bool:
        """Whether values would be taken from the very prompts that they are put into."""
        return self.corruption == "counterfactual" and all(e.base == e.counterfactual for e in self.examples)

    def swapped(self, total: Estimate) -> bool:
        """Whether a total effect looks as if target and foil had been swapped."""
        return (total.mean <= 0 and self.corruption == "counterfactual" and not self.metric.between_cohorts
                and self.metric.name not in ("kl", "neutrality"))

    @cached_property
    def scale(self) -> float:
        """|mean total effect| on the log scale, the unit of the "log" transform; 1 where the total effect is zero."""
        return abs(float(self.total_effects(scale="log").mean())) or 1.0

    def effects_apart(self, chosen) -> dict[str, torch.Tensor]:
        """Plain effects of a set on each prompt, by what is averaged apart: behaviours, cohorts; else under the name ""."""
        raise NotImplementedError

    def describe(self, chosen) -> str:
        """What a set does to each behaviour, in words, where there are several; else nothing."""
        return ""

    @property
    def origin(self) -> dict:
        """What a selection has to remember of where it was found."""
        return dict(kinds=self.components.kinds, corruption=self.corruption, positions=self.positions)

    @property
    def transform(self) -> str:
        """What the relaxed search minimises when nothing else is asked for: see `metrics.transform_loss`."""
        return self.metric.transform

    # --- causal mediation ---

    def indirect_effect(self, chosen) -> Estimate:
        """NIE: the base prompt with the chosen components' values from the corrupted run."""
        return self.estimate(self.effects(chosen))

    def direct_effect(self, chosen) -> Estimate:
        """NDE: the corrupted run with the chosen components' values from the base run."""
        return self.estimate(self.effects(chosen, reverse=True))

    def outside_effect(self, chosen) -> Estimate:
        """Completeness: everything outside the chosen set replaced. A complete set leaves nothing for the others to do."""
        return self.estimate(self.effects(1 - self.components.mask(chosen)))

    def mediation_by_prompt(self, chosen) -> dict[str, torch.Tensor]:
        """Total, direct, indirect effect and the remainder `TE - NDE - NIE` on each prompt, `(n,)` each."""
        total, direct, indirect = self.total_effects(), self.effects(chosen, reverse=True), self.effects(chosen)
        return dict(total=total, direct=direct, indirect=indirect, remainder=total - direct - indirect)

    def mediation(self, chosen):
        """A frame of total, direct, indirect effect and the remainder, with intervals."""
        import pandas as pd

        rows = self.mediation_by_prompt(chosen)
        return pd.DataFrame([dict(effect=name, **vars(self.estimate(v))) for name, v in rows.items()]).set_index("effect")

    # --- singles and interactions ---

    @cached_property
    def _alone(self) -> torch.Tensor:
        """(N, n) effects of replacing each component alone, run once: notebook and report both show them."""
        n = len(self.components)
        return torch.cat([self.effects(torch.nn.functional.one_hot(part, n)) for part in torch.arange(n).split(1024)])

    def single_effects(self):
        """A frame with the effect of replacing each component alone: component, layer, effect, ci_low, ci_high."""
        return self._frame([(label,) for label in self.components.labels], self._alone, "effect", layer=self.components.layer_of())

    def single_effects_of(self, labels: Sequence[str]) -> dict[str, float]:
        """Mean effect of replacing each of these components alone."""
        if "_alone" in self.__dict__:
            found = self._alone[[self.components.index(label) for label in labels]]
        else:
            found = self.effects(torch.stack([self.components.mask(label) for label in labels]))
        return dict(zip(labels, found.mean(-1).tolist()))

    def interactions(self, k: int = 2, among: Iterable[str | int] | None = None):
        """The Moebius terms `I(K) = sum_{J in K} (-1)^{|K|-|J|} delta(J)` of all sets of `k` components.

        among: labels or numbers to choose from (default all). Returns a frame: components, interaction, ci_low, ci_high.
        Raises InputError if more than 100,000 sets would have to be run.
        """
        pool = list(range(len(self.components))) if among is None else [i for i, x in enumerate(self.components.mask(among)) if x]
        if not 1 <= k <= len(pool):
            raise InputError(f"k={k} is out of range for {len(pool)} components; give 1 to {len(pool)}")
        count = sum(math.comb(len(pool), size) for size in range(k + 1))
        if count > 100_000:
            raise InputError(f"interactions of order {k} among {len(pool)} components need {count:,} masks; "
                             "give a smaller k, or fewer components with among=[...]")
        wanted, terms = self._terms(k, tuple(pool))
        return self._frame([tuple(self.components.labels[i] for i in s) for s in wanted], terms, "interaction")

    def _terms(self, k: int, pool: tuple[int, ...]) -> tuple[list[tuple[int, ...]], torch.Tensor]:
        """The sets of k of a pool and their Moebius terms, (sets, n); the last ones asked for are kept."""
        if getattr(self, "_kept_terms", (None,))[0] != (k, pool):
            sets = [s for size in range(k + 1) for s in combinations(pool, size)]
            number = {s: i for i, s in enumerate(sets)}
            found = self.effects(self.components.masks(sets))
            wanted = [s for s in sets if len(s) == k]
            terms = torch.stack([sum((-1) ** (k - len(j)) * found[number[j]] for size in range(k + 1)
                                     for j in combinations(s, size)) for s in wanted])
            self._kept_terms = (k, pool), wanted, terms
        return self._kept_terms[1:]

    def _frame(self, names: list[tuple], values: torch.Tensor, column: str, **more):
        import pandas as pd

        low, high = interval(values.cpu().numpy(), self.groups, seed=self.seed, parts=self.parts)
        labels = names if len(names[0]) > 1 else [name[0] for name in names]
        return pd.DataFrame({"components" if len(names[0]) > 1 else "component": labels, **more,
                             column: values.mean(-1).cpu().double().numpy(), "ci_low": low, "ci_high": high})
