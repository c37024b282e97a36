"""Both prompts of every pair, ready to run: prefixes computed, and the values recorded that replace others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.rows import Rows, chosen_span, lay_out
from mctrace_nb.tasks import Example

CORRUPTIONS = ("counterfactual", "noise", "zero", "mean")
NEVER_RUN = ("zero", "mean")  # corruptions that give values without a corrupted run
NOISE_ON = ("subject", "all")
CACHES = ("device", "host", "recompute")


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
    everything before the suffix. values: what can be mixed in, `(n, K, T, ...)` for each (kind, layer), None for zero; made
    from `source`, the other run, when it is first needed, or every time if it is not to be kept."""

    rows: Rows
    noise: torch.Tensor | None
    prefix: list | None
    values: dict | None = None
    source: "Side | None" = None


def corrupted_from(examples: tuple[Example, ...], corruption: str, noise_on: str = "subject") -> list[int]:
    """For each example the first position at which the base and the corrupted run can differ."""
    if corruption == "counterfactual":
        return [e.first_difference for e in examples]
    if corruption == "noise" and noise_on == "subject":
        return [chosen_span(e, "base", "subject", i)[0] for i, e in enumerate(examples)]
    return [0] * len(examples)


@dataclass(frozen=True, eq=False)
class Sides:
    """Prepares the sides of a trace, each once. Raises InputError for prompts or kinds that cannot be traced so."""

    model: LanguageModel
    examples: tuple[Example, ...]
    components: Components
    positions: str
    corruption: str
    noise_sd: float
    noise_on: str
    seed: int
    batch_rows: int
    cache: str
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
        uneven = [f"{e.called(i)}: base has {len(e.base)} tokens, counterfactual {len(e.counterfactual)}"
                  for i, e in enumerate(self.examples) if len(e.base) != len(e.counterfactual)]
        if self.corruption == "counterfactual" and uneven and not aligned_at_end:
            more = f"; and {len(uneven) - 5} more" * (len(uneven) > 5)
            raise InputError(f"{'; '.join(uneven[:5])}{more}; {' and '.join(kinds)} at positions={self.positions!r} needs equal "
                             "lengths (use components='head_output', positions='last')")

    def __getitem__(self, reverse: bool) -> Side:
        """The base prompts with the corrupted run's values, or (reverse) the corrupted run with the base's values."""
        if reverse not in self._made:
            if self.corruption in NEVER_RUN and reverse:
                raise InputError(f"corruption {self.corruption!r} has no counterfactual run; "
                                 "direct effects need corruption='counterfactual' or 'noise'")
            with Session(self.model) as session, torch.no_grad():
                mine, mine.source = (self._prepare(session, corrupted) for corrupted in (reverse, not reverse))
            self._made[reverse] = mine
        return self._made[reverse]

    def _noise(self) -> torch.Tensor:
        """Noise on the embeddings of subjects or whole prompts, (n, longest prompt, width); one draw per prompt from the seed."""
        longest = max(len(e.base) for e in self.examples)
        scale = self.noise_sd * self.model.embedding_sd
        width = self.model.model.get_input_embeddings().weight.shape[1]  # not always that of the layers
        made = torch.zeros(len(self.examples), longest, width)
        generator = torch.Generator().manual_seed(self.seed)
        for i, e in enumerate(self.examples):
            first, last = e.subject if self.noise_on == "subject" else (0, len(e.base))
            made[i, first:last] = torch.randn(last - first, width, generator=generator)
        return made.to(self.model.device) * scale

    def _prepare(self, session: Session, corrupted: bool) -> Side:
        paired = corrupted and self.corruption == "counterfactual"
        rows = lay_out(self.examples, "counterfactual" if paired else "base", self.positions,
                       corrupted_from(self.examples, self.corruption, self.noise_on),
                       self.model.device)
        noise = self._noise() if corrupted and self.corruption == "noise" else None
        return Side(rows, noise, session.prefix(rows, noise, self.batch_rows))

    def _rows_recorded(self, session: Session, other: Side, examples: torch.Tensor) -> dict:
        """What the other run's components say on some examples, `(b, K, T, ...)` for each (kind, layer)."""
        nothing = examples[:1] * 0  # one logit has to be read
        _, recorded = session.run(other.rows.take(examples), examples, prefix=other.prefix, noise=other.noise,
                                  record=list(self.components.slices), reads=(nothing, nothing))
        self.work.forwards += len(examples)
        return recorded

    def _record(self, session: Session, other: Side) -> dict:
        """The values that replace: those of the other run, zero, or means."""
        sites, rows = list(self.components.slices), other.rows
        if self.corruption == "zero":
            return dict.fromkeys(sites)
        step, kept, count = max(1, self.batch_rows // rows.ids.shape[1]), {}, 0
        for examples in torch.arange(len(self.examples), device=self.model.device).split(step):
            recorded = self._rows_recorded(session, other, examples)
            inside = rows.chosen[examples, 0]  # (b, T)
            count += inside.sum()
            for site in sites:  # into their final place at once: gathering the parts at the end would need twice the memory
                if self.corruption == "mean":
                    values = recorded[site][:, 0][inside.to(recorded[site].device)]
                    kept[site] = kept.get(site, 0) + values.sum(0, dtype=torch.promote_types(values.dtype, torch.float32))
                else:
                    kept[site] = self._keep(kept.get(site), recorded[site], examples)
        if self.corruption == "mean":
            return {site: (total / count.to(total.device)).to(self.model.dtype).expand(len(self.examples), 1, 1, *total.shape)
                    for site, total in kept.items()}
        return kept

    def _keep(self, kept, recorded, examples: torch.Tensor):
        """Copies one batch of recorded values into the cache `(n, K, T, ...)`, which is made at the first."""
        if isinstance(recorded, tuple):
            return tuple(self._keep(k, r, examples) for k, r in zip(kept or (None,) * len(recorded), recorded))
        place = "cpu" if self.cache == "host" else recorded.device
        if kept is None:
            kept = torch.empty(len(self.examples), *recorded.shape[1:], dtype=recorded.dtype, device=place)
        kept[examples.to(place)] = recorded.to(place)
        return kept

    def values(self, session: Session, side: Side, examples: torch.Tensor | None) -> tuple[dict, torch.Tensor | None]:
        """The values to mix into a run of some examples, and the examples' places in them."""
        with torch.no_grad():
            self.keep(session, side)
            if side.values is not None:
                return side.values, examples
            numbers = torch.arange(len(self.examples), device=self.model.device) if examples is None else examples
            needed, where = numbers.unique(return_inverse=True)  # where: the shape of `numbers`
            return self._rows_recorded(session, side.source, needed), where

    def keep(self, session: Session, side: Side) -> None:
        """Records a side's values if they are to be kept and are not there yet."""
        if side.values is None and (self.cache != "recompute" or self.corruption in NEVER_RUN):
            side.values, side.source = self._record(session, side.source), None
