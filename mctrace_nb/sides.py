"""Both prompts of every pair, ready to run: prefixes computed, and the values recorded that replace others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Iterator, Sequence

import numpy as np
import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.rows import Batch, Rows, chosen_span, lay_out
from mctrace_nb.tasks import Example

CORRUPTIONS = ("counterfactual", "noise", "zero", "mean")
NEVER_RUN = ("zero", "mean")  # corruptions that give values without a corrupted run
NOISE_ON = ("subject", "all")
CACHES = ("device", "host", "recompute")
COUNT = "count"  # beside the totals of sites


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
    everything before the suffix. values: what can be mixed in for each (kind, layer), see `Mixture`, of all the side's tokens or
    of those that interventions act on; made from `source`, the other run, when it is first needed, or every time if it is
    not to be kept. keys: the other run's keys before those, a tensor a layer, where patterns are replaced."""

    rows: Rows
    noise: torch.Tensor | None
    prefix: list | None
    values: dict | None = None
    keys: list | None = None
    source: "Side | None" = None


def one_prefix(base: Rows, other: Rows, first: list[int], corruption: str) -> bool:
    """Whether both runs have the same prefixes: first, where they can differ, is not before a suffix, or there is no other run."""
    same = base.prefix == other.prefix and all(length <= at for length, at in zip(base.prefix_lengths, first))
    return same or corruption in NEVER_RUN


def batch_rows_for(width: int, tokens: float) -> int:
    """Rows of one forward pass, from the tokens that each runs: about 2**19 numbers in a residual stream, the fastest measured
    on two cores."""
    return max(16, min(2048, int(2 ** 19 // (tokens * width))))


def corrupted_from(examples: tuple[Example, ...], corruption: str, noise_on: str = "subject") -> list[int]:
    """For each example the first position at which the base and the corrupted run can differ."""
    if corruption == "counterfactual":
        return [e.first_difference for e in examples]
    if corruption == "noise" and noise_on == "subject":
        return [chosen_span(e, "base", "subject", i)[0] for i, e in enumerate(examples)]
    return [0] * len(examples)


@dataclass(eq=False)
class Sides:
    """Prepares the sides of a trace, each once. part: (first, step), which of the examples are run here: `examples`
    are these alone, `everyone` all.

    Raises InputError for prompts or kinds that cannot be traced so.
    """

    model: LanguageModel
    examples: tuple[Example, ...]
    components: Components
    positions: str
    corruption: str
    noise_sd: float
    noise_on: str
    seed: int
    batch_rows: int | None
    cache: str
    work: Work
    autocast: torch.dtype | None = None
    part: tuple[int, int] = (0, 1)
    _made: dict = field(default_factory=dict)
    _rows: dict = field(default_factory=dict)
    _prefixes: dict = field(default_factory=dict)

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
        first, step = self.part
        self.everyone, self.examples = self.examples, self.examples[first::step]
        self.batch_rows = self.batch_rows or batch_rows_for(self.model.width, len(self.rows(False).ids) / len(self.examples))

    def rows(self, corrupted: bool) -> Rows:
        """The tokens of the base prompts, or of those of the corrupted run."""
        side = "counterfactual" if corrupted and self.corruption == "counterfactual" else "base"
        if side not in self._rows:
            first = corrupted_from(self.examples, self.corruption, self.noise_on)
            self._rows[side] = lay_out(self.examples, side, self.positions, first, self.model.device)
        return self._rows[side]

    def __getitem__(self, reverse: bool) -> Side:
        """The base prompts with the corrupted run's values, or (reverse) the corrupted run with the base's values."""
        if reverse not in self._made:
            if self.corruption in NEVER_RUN and reverse:
                raise InputError(f"corruption {self.corruption!r} has no counterfactual run; "
                                 "direct effects need corruption='counterfactual' or 'noise'")
            with Session(self.model, self.autocast) as session, torch.no_grad():
                mine, other = (self._prepare(session, corrupted) for corrupted in (reverse, not reverse))
            if other.prefix is not None and "head_pattern" in self.components.kinds:
                mine.keys = [keys for keys, _ in other.prefix]
            self._made[reverse] = mine
            mine.source = other
        return self._made[reverse]

    @cached_property
    def one_prefix(self) -> bool:
        """Whether one set of keys and values serves both runs."""
        return one_prefix(self.rows(False), self.rows(True), corrupted_from(self.examples, self.corruption, self.noise_on), self.corruption)

    @cached_property
    def _noise(self) -> torch.Tensor:
        """Noise on the embeddings of subjects or whole prompts, (n, longest prompt, width); one draw per prompt from the seed."""
        first, step = self.part
        longest, numbers = max(len(e.base) for e in self.examples), range(first, len(self.everyone), step)
        scale = self.noise_sd * self.model.embedding_sd
        width = self.model.model.get_input_embeddings().weight.shape[1]  # not always that of the layers
        made = torch.zeros(len(self.examples), longest, width)
        generator = torch.Generator().manual_seed(self.seed)
        for i, e in enumerate(self.everyone):  # all are drawn, so that a prompt's noise does not depend on where it is run
            low, high = e.subject if self.noise_on == "subject" else (0, len(e.base))
            drawn = torch.randn(high - low, width, generator=generator)
            if i in numbers:
                made[numbers.index(i), low:high] = drawn
        return made.to(self.model.device) * scale

    def _prepare(self, session: Session, corrupted: bool) -> Side:
        rows = self.rows(corrupted)
        noise = self._noise if corrupted and self.corruption == "noise" else None
        own = corrupted and not self.one_prefix
        if own not in self._prefixes:
            self._prefixes[own] = session.prefixes(rows, noise, self.batch_rows)
        return Side(rows, noise, self._prefixes[own])

    def _recorded(self, session: Session, other: Side, batch: Batch) -> dict:
        """What the other run says on some examples, as `Mixture` wants it."""
        _, recorded = session.run(batch, prefix=other.prefix, noise=other.noise, record=list(self.components.slices),
                                  reads=batch.reads[:0])  # no logits are needed
        self.work.forwards += len(batch)
        if batch.chosen is None:
            return recorded
        return {site: x if isinstance(x, tuple) else x.index_select(0, batch.chosen.to(x.device)) for site, x in recorded.items()}

    def _record(self, session: Session, other: Side) -> dict:
        """The values that replace: those of the other run, or zero."""
        if self.corruption == "zero":
            return dict.fromkeys(self.components.slices)
        kept = {}
        for batch in self._batches(other):
            for site, said in self._recorded(session, other, batch).items():
                # Into their final place at once: gathering the parts at the end would need twice the memory.
                kept[site] = self._keep(kept.get(site), said, batch, other.rows)
        return kept

    def _batches(self, other: Side) -> Iterator[Batch]:
        for start in range(0, len(self.examples), self.batch_rows):
            yield other.rows.batch(np.arange(start, min(start + self.batch_rows, len(self.examples))))

    def totals(self, session: Session, other: Side) -> dict:
        """What means are made of: the sum of each site's values over all places where they are replaced, (1, ...), and under COUNT how
        many places those are."""
        found = {COUNT: torch.zeros((), dtype=torch.long, device=self.model.device)}
        for batch in self._batches(other):
            found[COUNT] += len(batch.kept)
            for site, said in self._recorded(session, other, batch).items():
                found[site] = found.get(site, 0) + said.sum(0, keepdim=True, dtype=torch.promote_types(said.dtype, torch.float32))
        return found

    def put_means(self, side: Side, totals: dict) -> None:
        """The values of a side that replace others, from `totals` over all prompts."""
        count = int(totals.pop(COUNT))
        side.values, side.source = {site: (total / count).to(self.model.dtype) for site, total in totals.items()}, None

    def _keep(self, kept, said, batch: Batch, rows: Rows):
        """Copies one batch of recorded values into the cache, which is made at the first."""
        if isinstance(said, tuple):
            return tuple(self._put(k, x, batch.tokens, len(rows.ids)) for k, x in zip(kept or (None,) * len(said), said))
        return self._put(kept, said, batch.kept, int(rows.chosen.sum()))

    def _put(self, kept, said: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
        place = torch.device("cpu") if self.cache == "host" else said.device
        if kept is None:  # pinned memory is copied to a GPU while that computes
            kept = torch.empty(size, *said.shape[1:], dtype=said.dtype, device=place, pin_memory=place != said.device)
        kept[places.to(place)] = said.to(place)
        return kept

    def values(self, session: Session, side: Side, batch: Batch, sites: Sequence[tuple[str, int]]) -> dict:
        """The values of some sites to mix into a run of a batch."""
        with torch.no_grad():
            self.keep(session, side)
            if side.values is not None:
                return fetch({site: side.values[site] for site in sites}, batch, self.model.device)
            needed = np.unique(batch.on_host[0])
            few = side.source.rows.batch(needed)
            recorded = self._recorded(session, side.source, few)
            places = [torch.empty(int(numbers.max(initial=-1)) + 1, dtype=torch.long) for numbers in few.on_host[1:]]
            for place, numbers in zip(places, few.on_host[1:]):
                place[numbers] = torch.arange(len(numbers))
            tokens, kept = (place[numbers].to(self.model.device) for place, numbers in zip(places, batch.on_host[1:]))
            return {site: _picked(recorded[site], tokens, kept) for site in sites}

    def keep(self, session: Session, side: Side) -> None:
        """Records a side's values if they are to be kept and are not there yet."""
        if side.values is not None or (self.cache == "recompute" and self.corruption not in NEVER_RUN):
            return
        if self.corruption == "mean":
            self.put_means(side, self.totals(session, side.source))
        else:
            side.values, side.source = self._record(session, side.source), None


def _picked(kept, tokens: torch.Tensor, chosen: torch.Tensor):
    """The rows of cached values that a batch needs; a single row serves all."""
    if kept is None:
        return None
    if isinstance(kept, tuple):
        return tuple(x.index_select(0, tokens.to(x.device)) for x in kept)
    return kept if len(kept) == 1 else kept.index_select(0, chosen.to(kept.device))


class _Arriving(dict):
    """Values on their way to a GPU by a stream of their own; whoever asks for one waits for that one alone."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.stream, self.events = torch.cuda.Stream(device), {}

    def send(self, site, kept, numbers: torch.Tensor):
        staged = torch.empty(len(numbers), *kept.shape[1:], dtype=kept.dtype, pin_memory=True)
        torch.index_select(kept, 0, numbers, out=staged)
        with torch.cuda.stream(self.stream):
            sent = staged.to(self.stream.device, non_blocking=True)
            self.events[site] = self.stream.record_event()
        return sent

    def __getitem__(self, site):
        if site in self.events:
            now = torch.cuda.current_stream(self.stream.device)
            now.wait_event(self.events.pop(site))
            for x in (found if isinstance(found := super().__getitem__(site), tuple) else (found,)):
                x.record_stream(now)
        return super().__getitem__(site)


def fetch(kept: dict, batch: Batch, device: torch.device) -> dict:
    """The cached values of a batch, from where they are kept; all at once, in the order in which layers will ask for them."""
    tokens, chosen = batch.on_host[1:]
    some = next(iter(kept.values()), None)
    host = some is not None and device.type == "cuda" and (some[0] if isinstance(some, tuple) else some).device.type == "cpu"
    if not host:
        return {site: _picked(x, batch.tokens, batch.kept) for site, x in kept.items()}
    arriving = _Arriving(device)
    for site, x in kept.items():
        arriving[site] = (tuple(arriving.send(site, part, torch.as_tensor(tokens)) for part in x) if isinstance(x, tuple)
                          else arriving.send(site, x, torch.as_tensor(chosen)))
    return arriving
