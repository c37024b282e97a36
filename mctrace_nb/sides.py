"""Both prompts of every pair, ready to run: prefixes computed, and the values recorded that replace others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.models import LanguageModel
from mctrace_nb.rows import Rows, chosen_span, lay_out
from mctrace_nb.tasks import Example

CORRUPTIONS = ("counterfactual", "noise", "zero", "mean")
NEVER_RUN = ("zero", "mean")  # corruptions that give values without a corrupted run


@dataclass
class Work:
    """Example rows forwarded and back-propagated (masks x prompts), the same count for every method."""

    forwards: int = 0
    backwards: int = 0

    def copy(self) -> "Work":
        return Work(self.forwards, self.backwards)

    def since(self, earlier: "Work") -> "Work":
        return Work(self.forwards - earlier.forwards, self.backwards - earlier.backwards)

    def __str__(self) -> str:
        return f"{self.forwards:,} rows forwarded, {self.backwards:,} back-propagated"


@dataclass
class Side:
    """One prompt of every pair. noise: (n, longest prompt, width) on its embeddings, or None. prefix: keys and values of
    everything before the suffix. values: what can be mixed in, `(n, K, T, ...)` for each (kind, layer), None for zero."""

    rows: Rows
    noise: torch.Tensor | None
    prefix: list | None
    values: dict


@dataclass(frozen=True, eq=False)
class Sides:
    """Prepares the sides of a trace, each once. Raises InputError for prompts or kinds that cannot be traced so."""

    model: LanguageModel
    examples: tuple[Example, ...]
    components: Components
    positions: str
    corruption: str
    noise_sd: float
    seed: int
    batch_rows: int
    work: Work
    _made: dict = field(default_factory=dict)

    def __post_init__(self):
        kinds = self.components.kinds
        if "mlp_neuron" in kinds and self.model.layers[0].down is None:
            raise InputError(f"{self.model.name!r}: no MLP neurons were found in this architecture; "
                             "use mlp_output or mlp_block")
        if self.corruption == "mean" and "head_pattern" in kinds:
            raise InputError("corruption 'mean' has no meaning for head_pattern (the mean of patterns is not a pattern "
                             "of means); use head_output")
        aligned_at_end = self.positions == "last" and "head_pattern" not in kinds
        for number, e in enumerate(self.examples):
            if self.corruption == "counterfactual" and len(e.base) != len(e.counterfactual) and not aligned_at_end:
                raise InputError(f"{e.called(number)}: base has {len(e.base)} tokens, counterfactual "
                                 f"{len(e.counterfactual)}; {' and '.join(kinds)} at positions={self.positions!r} needs "
                                 "equal lengths (use components='head_output', positions='last')")

    def __getitem__(self, reverse: bool) -> Side:
        """The base prompts with the corrupted run's values, or (reverse) the corrupted run with the base's values."""
        if reverse not in self._made:
            if self.corruption in NEVER_RUN and reverse:
                raise InputError(f"corruption {self.corruption!r} has no counterfactual run; "
                                 "direct effects need corruption='counterfactual' or 'noise'")
            with Session(self.model) as session, torch.no_grad():
                mine, other = (self._prepare(session, corrupted) for corrupted in (reverse, not reverse))
                mine.values = self._record(session, other)
            self._made[reverse] = mine
        return self._made[reverse]

    def _corrupted_from(self) -> list[int]:
        """For each example the first position at which the base and the corrupted run can differ."""
        if self.corruption == "counterfactual":
            return [e.first_difference for e in self.examples]
        if self.corruption == "noise":
            return [chosen_span(e, "base", "subject", i)[0] for i, e in enumerate(self.examples)]
        return [0] * len(self.examples)

    def _noise(self) -> torch.Tensor:
        """Noise on the subjects' embeddings, (n, longest prompt, width); one draw per prompt from the seed."""
        longest = max(len(e.base) for e in self.examples)
        scale = self.noise_sd * self.model.embedding_sd
        made = torch.zeros(len(self.examples), longest, self.model.width)
        generator = torch.Generator().manual_seed(self.seed)
        for i, e in enumerate(self.examples):
            first, last = e.subject
            made[i, first:last] = torch.randn(last - first, self.model.width, generator=generator)
        return made.to(self.model.device) * scale

    def _prepare(self, session: Session, corrupted: bool) -> Side:
        paired = corrupted and self.corruption == "counterfactual"
        rows = lay_out(self.examples, "counterfactual" if paired else "base", self.positions, self._corrupted_from(),
                       self.model.device)
        noise = self._noise() if corrupted and self.corruption == "noise" else None
        return Side(rows, noise, session.prefix(rows, noise, self.batch_rows), {})

    def _record(self, session: Session, other: Side) -> dict:
        """The values that replace: those of the other run, zero, or means."""
        sites = list(self.components.slices)
        if self.corruption == "zero":
            return dict.fromkeys(sites)
        parts, rows = [], other.rows
        step = max(1, self.batch_rows // rows.ids.shape[1])
        for examples in torch.arange(len(self.examples), device=self.model.device).split(step):
            nothing = examples[:1] * 0  # one logit has to be read
            _, recorded = session.run(rows.take(examples), examples, prefix=other.prefix, noise=other.noise, record=sites,
                                      reads=(nothing, nothing))
            self.work.forwards += len(examples)
            parts.append(recorded)
        joined = {site: tuple(map(torch.cat, zip(*[p[site] for p in parts]))) if isinstance(parts[0][site], tuple)
                  else torch.cat([p[site] for p in parts]) for site in sites}
        if self.corruption == "mean":
            inside = rows.chosen[:, 0]  # (n, T)
            return {site: x[:, 0][inside.to(x.device)].mean(0).expand(len(x), 1, 1, *x.shape[3:]) for site, x in joined.items()}
        return joined
