"""Trace: the effect of any mask over components, on any of a task's prompts. Everything else is written on top of it."""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from itertools import combinations
from typing import Iterable, Sequence

import torch

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.hooks import Mixture, Session
from mctrace_nb.metrics import Metric, answer_log_prob, get_metric, relative
from mctrace_nb.memory import keep_freed_memory
from mctrace_nb.models import LanguageModel
from mctrace_nb.sides import CORRUPTIONS, NEVER_RUN, Side, Sides, Work
from mctrace_nb.stats import Estimate, bootstrap, estimate
from mctrace_nb.tasks import Task


class Trace:
    """A model, a task and a kind of component; answers what happens when components are replaced.

    components: a kind or a list of kinds. positions: "all" context positions, "last", or "subject".
    corruption: where the replacing values come from - the "counterfactual" prompt, the base prompt with Gaussian
        "noise" on the embeddings of its subject (`noise_sd` times the standard deviation of the embedding matrix),
        "zero", or the "mean" over the replaced positions of all base prompts.
    metric: a name of `metrics.METRICS` or a Metric; answer_rule: "mean" or "sum" of an answer's token log-probabilities.
    split: "search" or "heldout" prompts. batch_rows: rows of one forward pass.

    Raises InputError for anything that cannot be traced: prompts of unequal length where positions must be aligned,
    a kind without values, a model whose probabilities are not finite.
    """

    def __init__(self, model: LanguageModel, task: Task, components: str | Sequence[str] | Components = "head_pattern",
                 positions: str = "all", corruption: str = "counterfactual", metric: str | Metric = "log_odds",
                 seed: int = 0, split: str = "search", answer_rule: str = "mean", noise_sd: float = 3.0,
                 batch_rows: int | None = None):
        if not isinstance(task, Task) or not isinstance(model, LanguageModel):
            raise InputError(f"Trace(model, task, ...) needs a loaded model and a task, not {type(model).__name__} and "
                             f"{type(task).__name__}; make them with load_model and load_task")
        self.model, self.task, self.positions, self.seed = model, task, positions, seed
        self.components = components if isinstance(components, Components) else model.components(components)
        self.corruption = one_of(corruption, CORRUPTIONS, "corruption")
        self.metric, self.answer_rule, self.noise_sd = get_metric(metric), answer_rule, noise_sd
        self.split = one_of(split, ("search", "heldout"), "split")
        self.examples = getattr(task, split)
        if not self.examples:
            raise InputError(f"task {task.name!r} has no held-out prompts; build it with heldout > 0")
        keep_freed_memory()
        self.work = Work()
        longest = max(len(e.base) + max(len(e.target), len(e.foil)) for e in self.examples)
        # About 2**19 numbers in a residual stream: the fastest measured on two cores, and small enough for a laptop.
        self.batch_rows = batch_rows or max(16, min(2048, 2 ** 19 // (longest * model.width)))
        self._sides = Sides(model, self.examples, self.components, positions, corruption, noise_sd, seed, self.batch_rows,
                            self.work)
        self.base_values = self._values(None, None)  # (n,), log y(0) for metrics with a logarithm
        bad = (~torch.isfinite(self.base_values)).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"{self.examples[bad[0]].called(bad[0])}: the model gives {self.base_values[bad[0]].item()} on the base prompt; "
                             "its weights or dtype produce numbers that are not finite (try dtype='float32')")

    def __repr__(self) -> str:
        return (f"Trace({self.model.name!r}, {self.task.name!r}: {len(self)} {self.split} prompts, {len(self.components)} "
                f"components of {'+'.join(self.components.kinds)}, {self.corruption}, {self.metric.name})")

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def groups(self) -> list[str]:
        return [e.group for e in self.examples]

    @cached_property
    def heldout(self) -> "Trace":
        """The same trace on the held-out prompts."""
        return Trace(self.model, self.task, self.components, self.positions, self.corruption, self.metric, self.seed,
                     "heldout", self.answer_rule, self.noise_sd, self.batch_rows)

    def side(self, reverse: bool = False) -> Side:
        """The base prompts with the corrupted run's values, or (reverse) the corrupted run with the base's values."""
        return self._sides[reverse]

    # --- running ---

    def _weights(self, masks: torch.Tensor) -> dict:
        """(R, N) -> the weights of each touched (kind, layer), (R, units)."""
        return {key: masks[:, where] for key, where in self.components.slices.items()}

    def _run(self, session: Session, masks: torch.Tensor | None, examples: torch.Tensor | None,
             reverse: bool) -> torch.Tensor:
        """Metric values (R, b) in one forward pass; `masks` None is the run without intervention, R = 1."""
        side = self._sides[reverse]
        numbers = torch.arange(len(self), device=self.model.device) if examples is None else examples
        rows = side.rows.take(numbers) if examples is not None else side.rows
        count = 1 if masks is None else len(masks)
        b, k = rows.ids.shape[-3:-1]
        shape = (count, b)
        needed = rows.read_valid.expand(*shape, -1)  # (R, b, U)
        first_row = (torch.arange(count * b, device=needed.device) * k).view(*shape, 1)
        reads = ((first_row + rows.read_row)[needed], rows.read_at.expand(*shape, -1)[needed])
        mixture = None if masks is None else Mixture(self._weights(masks), side.values, rows, examples)
        logits, _ = session.run(rows, numbers, count, side.prefix, side.noise, mixture, reads=reads)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (M, V)
        number = (needed.flatten().cumsum(0) - 1).view(*shape, -1)  # which of the M reads
        where = number.gather(-1, rows.index.expand(*shape, -1, -1).flatten(-2)).view(*shape, *rows.index.shape[-2:])
        token = rows.token.expand(*shape, -1, -1)
        log_prob = logits[where, token] - logits.logsumexp(-1)[where]  # (R, b, 2, L)
        answers = answer_log_prob(log_prob, rows.token_valid.expand(*shape, -1, -1), self.answer_rule)
        return self.metric.value(answers, logits[number[..., 0]] if self.metric.reads_logits else None, token[..., 0])

    def _values(self, masks: torch.Tensor | None, examples: torch.Tensor | None, reverse: bool = False) -> torch.Tensor:
        """Metric values, (R, b) or (b,) without masks, in as many forward passes as `batch_rows` asks for."""
        rows = self.side(reverse).rows
        total = 1 if masks is None else len(masks)
        b = len(self) if examples is None else examples.shape[-1]
        step = max(1, self.batch_rows // rows.ids.shape[1])
        if step < b:  # not even one mask fits: cut the examples
            everything = torch.arange(len(self), device=self.model.device) if examples is None else examples
            parts = [self._values(masks, part, reverse) for part in everything.split(step, -1)]
            return torch.cat(parts, -1)
        together = max(1, self.batch_rows // (b * rows.ids.shape[1]))
        needs_gradient = masks is not None and masks.requires_grad and torch.is_grad_enabled()
        with Session(self.model) as session, torch.set_grad_enabled(needs_gradient):
            found = []
            for start in range(0, total, together):
                part = slice(start, start + together)
                shared = examples if examples is None or examples.ndim == 1 else examples[part]
                found.append(self._run(session, None if masks is None else masks[part], shared, reverse))
        self.work.forwards += total * b
        values = torch.cat(found)
        if needs_gradient:
            values.register_hook(self._count_backwards)
        return values if masks is not None else values[0]

    def _count_backwards(self, gradient: torch.Tensor) -> None:
        self.work.backwards += gradient.numel()

    def _as_masks(self, masks) -> torch.Tensor:
        """Masks given as a tensor, an array, or labels -> a floating tensor on the model's device."""
        n = len(self.components)
        if isinstance(masks, str) or (isinstance(masks, (list, tuple)) and all(isinstance(x, str) for x in masks)):
            masks = self.components.mask(masks)
        masks = torch.as_tensor(masks)
        masks = masks.to(self.model.device, masks.dtype if masks.is_floating_point() else torch.float32)
        if masks.ndim not in (1, 2) or masks.shape[-1] != n:
            raise InputError(f"mask has shape {tuple(masks.shape)}, this trace has {n} components; give ({n},) or (R, {n})")
        values = masks.detach()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError(f"mask values must lie in [0, 1], found {values.min().item():.3g} to {values.max().item():.3g}")
        return masks

    def effects(self, masks, examples: torch.Tensor | None = None, reverse: bool = False,
                scale: str = "log") -> torch.Tensor:
        """Effects of one mask `(N,)` -> `(n,)` or of many `(R, N)` -> `(R, n)`, differentiable in the masks.

        masks: values in [0, 1] (0 keeps a component, 1 replaces it), or component labels. examples: numbers of the
        prompts, `(b,)`, or `(R, b)` with each mask's own. reverse: on the corrupted run, with values of the base run.
        scale: "log" gives `value(m) - value(0)` (nats for metrics with a logarithm), "relative" gives rho.
        """
        masks = self._as_masks(masks)
        one_of(scale, ("log", "relative"), "scale")
        if scale == "relative" and not self.metric.logarithmic:
            raise InputError(f"scale='relative' needs a ratio metric, {self.metric.name!r} has no logarithm")
        if examples is not None:
            examples = torch.as_tensor(examples, device=self.model.device)
        rows = masks if masks.ndim == 2 else masks[None]
        base = self.base_values if examples is None else self.base_values[examples]
        found = self._values(rows, examples, reverse) - base
        found = relative(found) if scale == "relative" else found
        return found if masks.ndim == 2 else found[0]

    # --- causal mediation ---

    def total_effects(self) -> torch.Tensor:
        """Per prompt: the corrupted run against the base run; for "zero" and "mean", all traced components replaced."""
        if self.corruption in NEVER_RUN:
            return self.effects(torch.ones(len(self.components)))
        return self._values(None, None, reverse=True) - self.base_values

    def total_effect(self) -> Estimate:
        """Mean total effect with its interval. Warns if it is not positive where it should be: see `Example`."""
        found = estimate(self.total_effects().detach().cpu(), self.groups, seed=self.seed)
        if found.mean <= 0 and self.corruption == "counterfactual":
            warnings.warn(f"{self.task.name}: the total effect is {found.mean:.3f}, not positive. The target should be the "
                          "answer that the counterfactual prompt favours; are target and foil swapped?", stacklevel=2)
        return found

    @cached_property
    def scale(self) -> float:
        """|mean total effect|, the unit of the "log" transform; 1 where the total effect is zero."""
        return abs(float(self.total_effects().mean())) or 1.0

    def indirect_effect(self, chosen) -> Estimate:
        """NIE: the base prompt with the chosen components' values from the corrupted run."""
        return estimate(self.effects(chosen).detach().cpu(), self.groups, seed=self.seed)

    def direct_effect(self, chosen) -> Estimate:
        """NDE: the corrupted run with the chosen components' values from the base run."""
        return estimate(self.effects(chosen, reverse=True).detach().cpu(), self.groups, seed=self.seed)

    def mediation(self, chosen):
        """A frame of total, direct, indirect effect and the remainder `TE - NDE - NIE`, with intervals."""
        import pandas as pd

        total, direct = self.total_effects(), self.effects(chosen, reverse=True)
        indirect = self.effects(chosen)
        rows = dict(total=total, direct=direct, indirect=indirect, remainder=total - direct - indirect)
        return pd.DataFrame([dict(effect=name, **vars(estimate(v.detach().cpu(), self.groups, seed=self.seed)))
                             for name, v in rows.items()]).set_index("effect")

    # --- singles and interactions ---

    def single_effects(self):
        """A frame with the effect of replacing each component alone: component, layer, effect, ci_low, ci_high."""
        n = len(self.components)
        found = torch.cat([self.effects(torch.nn.functional.one_hot(part, n)) for part in torch.arange(n).split(256)])
        return self._frame([(label,) for label in self.components.labels], found, "effect",
                           layer=self.components.layer_of())

    def single_effects_of(self, labels: Sequence[str]) -> dict[str, float]:
        """Mean effect of replacing each of these components alone."""
        masks = torch.stack([self.components.mask(label) for label in labels])
        return dict(zip(labels, self.effects(masks).mean(-1).tolist()))

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
        sets = [s for size in range(k + 1) for s in combinations(pool, size)]
        number = {s: i for i, s in enumerate(sets)}
        found = self.effects(self.components.masks(sets))
        wanted = [s for s in sets if len(s) == k]
        terms = torch.stack([sum((-1) ** (k - len(j)) * found[number[j]] for size in range(k + 1)
                                 for j in combinations(s, size)) for s in wanted])
        return self._frame([tuple(self.components.labels[i] for i in s) for s in wanted], terms, "interaction")

    def _frame(self, names: list[tuple], values: torch.Tensor, column: str, **more):
        import pandas as pd

        draws = bootstrap(values.cpu().numpy(), self.groups, seed=self.seed)  # (draws, sets)
        low, high = torch.quantile(torch.as_tensor(draws), torch.tensor([.025, .975], dtype=torch.float64), dim=0)
        labels = names if len(names[0]) > 1 else [name[0] for name in names]
        return pd.DataFrame({"components" if len(names[0]) > 1 else "component": labels, **more,
                             column: values.mean(-1).cpu().numpy(), "ci_low": low.numpy(), "ci_high": high.numpy()})
