"""From masks to what is said: many masks in one pass, and what they have in common run once.

What enters a layer depends only on the mask's entries below it. So masks that agree up to a layer share everything up to
there, and the masks of a pass are a tree over the layers: `Stage`s run a few layers each, for as many distinct masks as
there are by then. A set that begins at layer 7 starts from the base run's residual stream there, greedy's candidates share
their common part, and all subsets of three layers of heads cost little more than their last layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mctrace_nb.components import Components
from mctrace_nb.hooks import Mixture, Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import Said, answer_log_prob, token_log_probs
from mctrace_nb.rows import Batch
from mctrace_nb.sides import Side, Sides
from mctrace_nb.skipping import can_skip

# Multiply-adds that must be saved for one more call of the model to be worth its time, by type of device.
WORTH = {"cpu": 1e8, "cuda": 1e11}


@dataclass
class Stage:
    """Layers first to last - 1, run for U distinct masks. masks: (U,) a mask that stands for each; parent: (U,) the one of the
    stage before that each goes on from."""

    first: int
    last: int
    masks: np.ndarray
    parent: np.ndarray


def alike(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of an array: the first of each kind `(U,)`, and the kind of every row. Kinds are ordered by their rows."""
    rows = np.ascontiguousarray(rows)
    if not rows.shape[1]:
        return np.zeros(1, dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    _, first, kind = np.unique(rows.view([("", "V", rows.itemsize * rows.shape[1])]).ravel(), return_index=True, return_inverse=True)
    return first, kind


def stages(masks: np.ndarray, by_layer: list[np.ndarray], worth: float) -> tuple[list[Stage], np.ndarray]:
    """How to run masks `(R, N)`; by_layer: the columns of each layer; worth: layers that must be saved, times masks, for a stage
    of its own. Gives the stages, and for each mask its place in the last one."""
    found, start, count = [], 0, len(masks)
    kind = parent = np.zeros(count, dtype=np.int64)  # of every mask its kind now, and in the stage before
    first = np.zeros(1, dtype=np.int64)
    for layer, columns in enumerate(by_layer):
        first_here, here = alike(np.concatenate([kind[:, None], masks[:, columns].view(np.int32 if masks.itemsize == 4 else np.int64)], 1))
        if len(first_here) > len(first) and (count - len(first)) * (layer - start) >= worth:
            found.append(Stage(start, layer, first, parent[first]))
            start, parent = layer, kind
        first, kind = first_here, here
    return [*found, Stage(start, len(by_layer), first, parent[first])], kind


@dataclass(eq=False)
class Passes:
    """Runs masks over prompts of a trace. reads_logits: whether the metric wants whole logits. base_logits: (n, V) those of the
    run without intervention, once they are known and wanted."""

    model: LanguageModel
    sides: Sides
    components: Components
    answer_rule: str
    reads_logits: bool
    base_logits: torch.Tensor | None = None

    def __post_init__(self):
        layers = self.components.layer_of()
        self.by_layer = [np.array([i for i, x in enumerate(layers) if x == layer], dtype=np.int64) for layer in range(self.components.layers)]
        self._layer_size = sum(p.numel() for p in self.model.layers[0].block.parameters())

    def order(self, masks: np.ndarray) -> np.ndarray:
        """An order of masks (R, N) in which those that agree in the lower layers stand side by side."""
        first, kind = alike(masks[:, np.concatenate(self.by_layer)])
        return np.argsort(kind, kind="stable")

    def said(self, session: Session, side: Side, masks: torch.Tensor | None, examples: np.ndarray | None,
             at: torch.Tensor | None = None) -> Said:
        """What is said under masks `(R, N)`, leading shape (R, b); None is the run without intervention, R = 1.

        examples: numbers of the prompts, `(b,)` or with each mask's own `(R, b)`; None for all. at: `(R, b)` positions.
        """
        batch = side.rows.batch(examples)
        if masks is None:
            return self._score(self._run(session, side, batch, 1, batch.reads), batch, None)
        if torch.is_grad_enabled() and masks.requires_grad or batch.mask_of is not None:
            mixture = self._mixture(session, side, batch, masks, list(self.components.slices), at)
            copies = 1 if batch.mask_of is not None else len(masks)
            said = self._score(self._run(session, side, batch, copies, batch.reads, mixture), batch, None)
            return said if batch.mask_of is None else said.reshape(len(masks), -1)
        host = masks.cpu().numpy()
        steps, kind = self._steps(host, batch, None if at is None else at.cpu().numpy())
        stream = None
        for step in steps:
            rows = masks[torch.as_tensor(step.masks, device=masks.device)]
            touched = [key for key, where in self.components.slices.items()
                       if step.first <= key[1] < step.last and host[step.masks, where].any()]
            mixture = self._mixture(session, side, batch, rows, touched, None if at is None else at[torch.as_tensor(step.masks)])
            if stream is not None:
                parent = torch.as_tensor(step.parent, device=stream.device)
                stream = stream[0].unflatten(0, (-1, len(batch.tokens))).index_select(0, parent).flatten(0, 1)[None]
            reads = batch.reads if step is steps[-1] else batch.reads[:1]
            stream = self._run(session, side, batch, len(step.masks), reads, mixture, (step.first, step.last), stream)
        return self._score(stream, batch, None if len(step.masks) == len(kind) and (kind == np.arange(len(kind))).all()
                           else torch.as_tensor(kind, device=self.model.device))

    def _steps(self, masks: np.ndarray, batch: Batch, at: np.ndarray | None) -> tuple[list[Stage], np.ndarray]:
        whole = [Stage(0, self.components.layers, np.arange(len(masks)), np.zeros(len(masks), dtype=np.int64))], np.arange(len(masks))
        if len(masks) == 1 or not can_skip(self.model):
            return whole
        worth = WORTH.get(self.model.device.type, 1e11) / (len(batch.tokens) * self._layer_size)
        by_layer = self.by_layer
        if at is not None:  # masks that act at different positions are alike until they act
            _, place = alike(at)
            acts = np.stack([masks[:, columns].any(1) * (place + 1) for columns in by_layer], 1).astype(masks.dtype)
            by_layer = [np.append(columns, masks.shape[1] + i) for i, columns in enumerate(by_layer)]
            masks = np.concatenate([masks, acts], 1)
        return stages(masks, by_layer, worth)

    def _mixture(self, session: Session, side: Side, batch: Batch, masks: torch.Tensor, sites: list, at) -> Mixture | None:
        if not sites:
            return None
        values = self.sides.values(session, side, batch, sites)
        only = None
        if at is not None:
            row, positions = (x if batch.chosen is None else x[batch.chosen] for x in (batch.row, batch.positions))
            only = at.to(positions.device)[:, row] == positions
        return Mixture({key: masks[:, self.components.slices[key]] for key in sites}, values, batch.chosen, side.keys, batch.mask_of, only)

    def _run(self, session: Session, side: Side, batch: Batch, copies: int, reads: torch.Tensor, mixture: Mixture | None = None,
             layers: tuple[int, int] | None = None, stream: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the reads, (copies, u, V), or the stream that comes out below the last layer."""
        last = layers is None or layers[1] == self.components.layers
        if last and copies > 1:
            shift = torch.arange(copies, device=reads.device)[:, None] * len(batch.tokens)
            reads = (shift + reads).flatten()
        out, _ = session.run(batch, copies, side.prefix, side.noise, mixture, None, reads, layers, stream)
        return out.unflatten(0, (copies, -1)) if last else out

    def _score(self, logits: torch.Tensor, batch: Batch, kind: torch.Tensor | None) -> Said:
        """What logits (U, u, V) say of the answers; kind: (R,) which of the U each mask is, None for each its own."""
        answers = answer_log_prob(token_log_probs(logits, batch.index, batch.token), batch.token_valid, self.answer_rule)
        tokens, whole = batch.token[..., 0].expand(len(logits), -1, -1), None
        if self.reads_logits:
            whole = logits[:, batch.first].to(torch.promote_types(logits.dtype, torch.float32))
        base = None if self.base_logits is None else self.base_logits[batch.examples].expand(len(logits), -1, -1)
        said = Said(answers, tokens, whole, base)
        return said if kind is None else said.take(kind)
