"""Trace: the effect of any mask over components, on any of a task's prompts. Everything else is written on top of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Callable, Sequence

import numpy as np
import torch

from mctrace_nb.components import Components
from mctrace_nb.contract import check_contract
from mctrace_nb.cost import Memory, Shape
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.layout import LanguageModel
from mctrace_nb.memory import keep_freed_memory
from mctrace_nb.metrics import ANSWER_RULES, WITH_LOGITS, Metric, Said, get_metric, next_word, relative
from mctrace_nb.ranks import leading
from mctrace_nb.running import AUTOCAST, Runs
from mctrace_nb.serving import Served
from mctrace_nb.sides import CACHES, CORRUPTIONS, NEVER_RUN, NOISE_ON, Side, Work
from mctrace_nb.tasks import Task

DIRECTIONS = ("replace", "restore")


class Trace(Effects):
    """A model, a task and a kind of component; answers what happens when components are replaced.

    components: a kind or a list of kinds. positions: "all" context positions, "last", or "subject".
    corruption: where the replacing values come from - the "counterfactual" prompt, the base prompt with Gaussian
        "noise" on the embeddings of its subject (`noise_sd` times the standard deviation of the embedding matrix; with
        `noise_on="all"` on every token), "zero", or the "mean" over the replaced positions of all base prompts.
    direction: "replace" runs the base prompt and puts the corrupted run's values in; "restore" runs the corrupted prompt
        and puts the base run's values back (Meng et al. 2022). Then target and foil change places, so that an effect is
        again positive when the values bring their own answer with them.
    metric: a name of `metrics.METRICS`, a Metric, or a function of the logits; answer_rule: "mean" or "sum" of an answer's
        token log-probabilities.
    split: "search" or "heldout" prompts. cache: where the replacing values are kept: on the model's "device", in "host"
        memory, or nowhere ("recompute": they are recorded anew for every batch). batch_rows: rows (prompts, each under one mask) of
        one forward pass. autocast: "bfloat16" or "float16" for the matrix products of a float32 model; masks, their
        gradients and metrics stay in float32.

    Raises InputError for anything that cannot be traced: prompts of unequal length where positions must be aligned,
    a kind without values, a model whose probabilities are not finite.

        >>> trace = mct.Trace(model, task, components="head_output")
        >>> trace.effects(["L1H1", "L2H0"]).shape
        torch.Size([8])
        >>> print(trace.total_effect())
        17.050 [15.584, 18.867] (n = 8)
    """

    def __init__(self, model: LanguageModel, task: Task, components: str | Sequence[str] | Components = "head_pattern",
                 positions: str = "all", corruption: str = "counterfactual", metric: str | Metric | Callable = "log_odds",
                 seed: int = 0, split: str = "search", answer_rule: str = "mean", noise_sd: float = 3.0,
                 noise_on: str = "subject", direction: str = "replace", cache: str = "device",
                 batch_rows: int | None = None, autocast: str | None = None):
        if not isinstance(task, Task) or not isinstance(model, LanguageModel):
            raise InputError(f"Trace(model, task, ...) needs a loaded model and a task, not {type(model).__name__} and "
                             f"{type(task).__name__}; make them with load_model and load_task")
        self.model, self.task, self.positions, self.seed = model, task, positions, seed
        self.components = components if isinstance(components, Components) else model.components(components)
        self.corruption = one_of(corruption, CORRUPTIONS, "corruption")
        self.metric = get_metric(metric)
        self.answer_rule = one_of(answer_rule, ANSWER_RULES, "answer rule")
        self.split = one_of(split, ("search", "heldout"), "split")
        self.direction = one_of(direction, DIRECTIONS, "direction of a trace")
        self.cache = one_of(cache, CACHES, "cache")
        one_of(noise_on, NOISE_ON, "noise_on")
        if autocast is not None:
            one_of(autocast, AUTOCAST, "autocast")
        how = dict(components=self.components, positions=positions, corruption=corruption, metric=self.metric, seed=seed,
                   answer_rule=answer_rule, noise_sd=noise_sd, noise_on=noise_on, direction=direction, cache=cache,
                   batch_rows=batch_rows, autocast=autocast)
        self._same = dict(how, split=split)
        self.examples = getattr(task, split)
        if not self.examples:
            raise InputError(f"task {task.name!r} has no held-out prompts; build it with heldout > 0")
        if direction == "restore":
            self.examples = tuple(replace(e, target=e.foil, foil=e.target) for e in self.examples)
        self._check_words()
        self._check_first_tokens()
        self._contrast = self._cohorts() if self.metric.between_cohorts else None
        check_contract(model)
        keep_freed_memory()
        self.work = Work()
        lengths = [max(len(e.base), len(e.counterfactual)) + max(len(e.target), len(e.foil)) for e in self.examples]
        for i, (e, length) in enumerate(zip(self.examples, lengths)):
            model.check_length(length, e.called(i))
        team = leading()
        how.update(model=model, examples=self.examples, work=self.work)
        self._runs = Runs(**how) if team is None else Served(team, **how)
        self.batch_rows = self._runs.batch_rows
        self.check_memory()
        self.base_values = self._values(None, None)  # (n,), log y(0) for metrics with a logarithm
        bad = (~torch.isfinite(self.base_values)).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"{self.examples[bad[0]].called(bad[0])}: the model gives {self.base_values[bad[0]].item()} "
                             "on the base prompt; its weights or dtype produce numbers that are not finite (try "
                             "dtype='float32')")

    def __repr__(self) -> str:
        return (f"Trace({self.model.name!r}, {self.task.name!r}: {len(self)} {self.split} prompts, {len(self.components)} "
                f"components of {'+'.join(self.components.kinds)}, {self.corruption}, {self.metric.name}"
                + (", restoring)" if self.direction == "restore" else ")"))

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def groups(self) -> list[str]:
        return [e.group for e in self.examples]

    def again(self, model: LanguageModel | None = None, task: Task | None = None, **changes) -> "Trace":
        """The same trace with another model, task, or other options."""
        if model is not None and "components" not in changes:
            changes["components"] = self.components.kinds
        return Trace(model or self.model, task or self.task, **{**self._same, **changes})

    @cached_property
    def heldout(self) -> "Trace":
        """The same trace on the held-out prompts."""
        return self.again(split="heldout")

    @cached_property
    def _with_logits(self) -> "Trace":
        return self.again(metric=WITH_LOGITS)

    def next_token(self, masks, prompt: int) -> torch.Tensor:
        """(R, V) the probability of every token after one prompt, under masks `(R, N)`. Raises InputError for a prompt that there is not."""
        masks = self._as_masks(masks)
        return self._with_logits._values(masks, self._as_examples([prompt], len(masks)), read=next_word)[:, 0]

    def _check_words(self) -> None:
        """Token ids mean something else to another tokenizer: a task is traced with the words it was made for."""
        made, mine = getattr(self.task.text, "tokenizer", None), self.model.tokenizer
        if made is not None and made is not mine and made.get_vocab() != mine.get_vocab():
            raise InputError(f"task {self.task.name!r} was made for a model with other words than {self.model.name!r}; load it "
                             "again with this model")
        most = max(max(*e.base, *e.counterfactual, *e.target, *e.foil) for e in self.examples)
        rows = self.model.model.get_input_embeddings().weight.shape[0]
        if most >= rows:
            raise InputError(f"task {self.task.name!r} holds token {most}, and {self.model.name!r} has {rows:,} tokens, numbered "
                             "from 0; make the task with this model")

    def _check_first_tokens(self) -> None:
        same = [e.called(i) for i, e in enumerate(self.examples) if e.target[0] == e.foil[0]]
        if same and self.metric.first_token:
            raise InputError(f"{', '.join(same[:5])}{f' and {len(same) - 5} more' * (len(same) > 5)}: target and foil begin "
                             f"with the same token, and metric {self.metric.name!r} reads no other; use 'log_odds'")

    def _cohorts(self) -> torch.Tensor:
        """(n,) by which effects are multiplied so that their mean is the gap between the two cohorts."""
        of = [e.cohort for e in self.examples]
        names = sorted(set(of))
        if len(names) != 2 or not all(names) or min(map(of.count, names)) < 2:
            raise InputError(f"metric {self.metric.name!r} compares two cohorts of at least two prompts, and the {self.split} prompts of "
                             f"{self.task.name!r} have {', '.join(f'{of.count(c)} of {c!r}' for c in names)}; give each pair a "
                             "'cohort', and enough of both")
        self.parts = [names.index(c) for c in of]
        size = len(of) / torch.tensor([of.count(c) for c in of], device=self.model.device)
        return size * torch.tensor([1 - 2 * p for p in self.parts], device=self.model.device)

    def side(self, reverse: bool = False) -> Side:
        """The run that is intervened on with the values that are put in, or (reverse) the other way round; of the prompts that this
        process runs."""
        return self._runs.side(reverse)

    @cached_property
    def shape(self) -> Shape:
        """The tokens of the rows that this process runs, for estimates; nothing is run."""
        return Shape.of(self._runs.sides.rows(self.direction == "restore"), self._runs.sides.one_prefix)

    def check_memory(self, rows: int = 0) -> None:
        """Raises InputError if this trace does not fit into memory, with a gradient through so many masks x prompts."""
        Memory.of(self.model, self.components.kinds, self.shape, self.corruption, self.cache, self.batch_rows,
                  -(-rows // self._runs.processes)).check(self._runs.here)

    def prepare(self) -> None:
        """Records the values to put in now, and not at the first effect that is asked for: searches do not pay for it."""
        self._runs.prepare()

    # --- running ---

    def _values(self, masks: torch.Tensor | None, examples: np.ndarray | None, reverse: bool = False,
                at: torch.Tensor | None = None, read: Callable[[Said], torch.Tensor] | None = None) -> torch.Tensor:
        """Metric values, (R, b) or (b,) without masks."""
        values = self._runs.values(masks, examples, reverse, at, read)
        self.work.forwards += values.shape[0] * values.shape[1]
        if values.requires_grad:
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
        masks = masks.to(self.model.device, torch.promote_types(masks.dtype, torch.float32) if masks.is_floating_point() else torch.float32)
        if masks.ndim not in (1, 2) or masks.shape[-1] != n or not len(masks):
            raise InputError(f"mask has shape {tuple(masks.shape)}, this trace has {n} components; give ({n},) or (R, {n})")
        if masks.requires_grad and masks.device.type != "cpu":  # to look would make the GPU wait, in every step of a search
            return masks
        values = masks.detach()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError(f"mask values must lie in [0, 1], found {values.min().item():.3g} to {values.max().item():.3g}")
        return masks

    def _as_examples(self, examples, masks: int) -> np.ndarray:
        """Numbers of prompts as an array on the host, (b,) or (R, b), where passes are laid out."""
        found = np.asarray(examples.cpu() if isinstance(examples, torch.Tensor) else examples)
        if found.ndim not in (1, 2) or not found.size or found.dtype.kind not in "iu" or not 0 <= found.min() <= found.max() < len(self):
            raise InputError(f"examples={examples!r} must be numbers of the trace's {len(self)} prompts, counted from 0: (b,), or (R, b) "
                             "with each mask's own")
        if found.ndim == 2 and len(found) != masks:
            raise InputError(f"examples has {len(found)} rows for {masks} masks; give one row for each, or (b,) for all")
        return found

    def _effect(self, values: torch.Tensor, examples: np.ndarray | None, scale: str | None) -> torch.Tensor:
        """Metric values (..., b) -> effects on a scale; for a gap between cohorts, contributions to it."""
        scale = scale or ("relative" if self.metric.relative else "log")
        one_of(scale, ("log", "relative"), "scale")
        if scale == "relative" and not self.metric.logarithmic:
            raise InputError(f"scale='relative' needs a ratio metric, {self.metric.name!r} has no logarithm")
        which = slice(None) if examples is None else torch.as_tensor(examples).to(values.device, non_blocking=True)
        found = values - self.base_values[which]
        found = relative(found) if scale == "relative" else found
        return found if self._contrast is None else found * self._contrast[which]

    def effects(self, masks, examples: torch.Tensor | None = None, reverse: bool = False, scale: str | None = None,
                at: torch.Tensor | None = None) -> torch.Tensor:
        """Effects of one mask `(N,)` -> `(n,)` or of many `(R, N)` -> `(R, n)`, differentiable in the masks.

        masks: values in [0, 1] (0 keeps a component, 1 replaces it), or component labels. examples: numbers of the
        prompts, `(b,)`, or `(R, b)` with each mask's own. reverse: on the other run, with this run's values.
        scale: "log" gives `value(m) - value(0)` (nats for metrics with a logarithm), "relative" gives rho; the default is
        the metric's own. at: `(R, b)`, the one position (counted from the prompt's first token) at which each mask acts in
        each prompt, for a trace with positions="all"; -1 for none.
        """
        masks = self._as_masks(masks)
        if at is not None and self.positions != "all":
            raise InputError(f"at=... needs a trace with positions='all', this one has {self.positions!r}: what lies before is not run")
        rows = masks if masks.ndim == 2 else masks[None]
        examples = None if examples is None else self._as_examples(examples, len(rows))
        b = len(self) if examples is None else examples.shape[-1]
        if at is not None and at.shape != (len(rows), b):
            raise InputError(f"at has shape {tuple(at.shape)}; give a position for each of {len(rows)} masks and {b} prompts, ({len(rows)}, {b})")
        found = self._effect(self._values(rows, examples, reverse, at), examples, scale)
        return found if masks.ndim == 2 else found[0]

    def effects_apart(self, chosen) -> dict[str, torch.Tensor]:
        found = self.effects(chosen)
        if self._contrast is None:
            return {"": found}
        plain, of = found / self._contrast, [e.cohort for e in self.examples]
        return {name: plain[[i for i, c in enumerate(of) if c == name]] for name in sorted(set(of))}

    def total_effects(self, scale: str | None = None) -> torch.Tensor:
        """Per prompt: the corrupted run against the base run; for "zero" and "mean", all traced components replaced."""
        return self._effect(self._other_values, None, scale)

    @cached_property
    def _other_values(self) -> torch.Tensor:
        """(n,) metric values of the other run; for corruptions without one, of this run with all traced components replaced."""
        if self.corruption in NEVER_RUN:
            return self._values(self._as_masks(torch.ones(1, len(self.components))), None)[0]
        return self._values(None, None, reverse=True)
