"""From masks to what is said: many masks in one pass, and what they have in common run once.

What enters a layer depends only on the mask's entries below it. So masks that agree up to a layer share everything up to
there, and masks are a tree over the layers: each stage runs a few layers, for as many distinct masks as there are by
then. A set that begins at layer 7 starts from the base run's residual stream there, greedy's candidates share
their common part, and all subsets of three layers of heads cost little more than their last layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Iterator

import numpy as np
import torch

from mctrace_nb.components import Components
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import Said, answer_log_prob, token_log_probs
from mctrace_nb.mixing import Mixture
from mctrace_nb.rows import Batch
from mctrace_nb.sides import Side, Sides
from mctrace_nb.skipping import can_skip

# Multiply-adds that must be saved for one more call of the model to be worth its time, by type of device.
WORTH = {"cpu": 1e8, "cuda": 1e11}


def alike(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of an array: the first of each kind `(U,)`, and the kind of every row. Kinds are ordered by their rows."""
    rows = np.ascontiguousarray(rows)
    if not rows.shape[1]:
        return np.zeros(1, dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    _, first, kind = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), return_index=True, return_inverse=True)
    return first, kind


class Host:
    """Masks (R, N) on the host, for telling which are alike: only the columns in which they differ are looked at. touched: for each
    (kind, layer) which masks act there; kind: (R,) equal for equal masks; order: one in which masks that agree in the lower
    layers stand side by side. at: `(R, b)` positions, where masks act at one position each."""

    def __init__(self, masks: torch.Tensor, components: Components, at: torch.Tensor | None):
        host, slices = masks.detach().cpu().numpy(), components.slices
        differ = (host != host[0]).any(0)
        self.touched = {key: host[:, where].any(1) for key, where in slices.items()}
        place = None if at is None else alike(at.cpu().numpy())[1] + 1
        self.by_layer = []
        for layer in range(components.layers):
            where = [slices[key] for key in slices if key[1] == layer]
            columns = np.concatenate([w.start + np.flatnonzero(differ[w]) for w in where])
            mine = host[:, columns].view(f"i{host.itemsize}")
            if place is not None:  # masks that act at different positions are alike until they act
                acts = np.any([self.touched[key] for key in slices if key[1] == layer], 0)
                mine = np.concatenate([mine, (acts * place).astype(mine.dtype)[:, None]], 1)
            self.by_layer.append(mine)
        self.kind = alike(np.concatenate(self.by_layer, 1))[1]
        self.order = np.argsort(self.kind, kind="stable")

    def stage(self, members: np.ndarray, start: int, kind: np.ndarray, worth: float) -> tuple[int, np.ndarray, np.ndarray]:
        """Layers that some masks run together from `start` on. kind: what tells the members apart already; worth: how much, in masks
        times layers, sharing must save for a pass of its own.

        Gives the layer before which to stop, a member `(U,)` that stands for each kind there is by then, and the kind of every member.
        """
        first, kind = np.unique(kind, return_index=True, return_inverse=True)[1:]
        distinct = len(np.unique(self.kind[members]))
        for layer in range(start, len(self.by_layer)):
            first_here, here = alike(np.concatenate([kind[:, None], self.by_layer[layer][members]], 1))
            if layer > start and len(first_here) > len(first) and (distinct - len(first)) * (layer - start) >= worth:
                return layer, first, kind
            first, kind = first_here, here
        return len(self.by_layer), first, kind


@dataclass(eq=False)
class Passes:
    """Runs masks over prompts of a trace. reads_logits: whether the metric wants whole logits. two_words: whether it is enough to
    know the logits of two tokens, because the answers are single ones and only their difference matters. base_logits: (n, V)
    those of the run without intervention, once they are known and wanted."""

    model: LanguageModel
    sides: Sides
    components: Components
    answer_rule: str
    reads_logits: bool
    two_words: bool
    base_logits: torch.Tensor | None = None

    def __post_init__(self):
        size = sum(p.numel() for p in self.model.layers[0].block.parameters())
        self.worth = WORTH.get(self.model.device.type, WORTH["cuda"]) / size  # in layers times tokens

    def values(self, session: Session, side: Side, masks: torch.Tensor | None, examples: np.ndarray | None, rows: int,
               read: Callable[[Said], torch.Tensor], at: torch.Tensor | None = None, host: Host | None = None) -> torch.Tensor:
        """What `read` makes of what is said under masks `(R, N)`: (R, b); None is the run without intervention, R = 1.

        examples: numbers of the prompts, `(b,)` or with each mask's own `(R, b)`; None for all. rows: masks x prompts in one
        forward pass. at: `(R, b)` positions. host: the masks on the host, where they may share layers.
        """
        batch = side.rows.batch(None if examples is None or examples.ndim == 2 else examples)
        if masks is None:
            return read(self._score(session, self._run(session, side, batch, 1), batch))
        own = examples is not None and examples.ndim == 2
        step = max(1, rows // (examples.shape[1] if own else len(batch)))
        if host is None:
            return torch.cat([self._apart(session, side, masks[few], examples[few] if own else batch, read, None if at is None else at[few])
                              for few in (slice(i, i + step) for i in range(0, len(masks), step))])
        tree, found = _Tree(self, session, side, batch, masks, at, host, step, read), None
        for members, values in tree.grow(host.order, 0, np.zeros(len(masks), dtype=np.int64), None):
            found = values.new_empty(len(masks), *values.shape[1:]) if found is None else found
            found[members] = values
        return found

    def _apart(self, session: Session, side: Side, masks: torch.Tensor, of: Batch | np.ndarray, read, at) -> torch.Tensor:
        """Masks that share nothing: each from the first layer to the last, on a batch or (R, b) on prompts of its own."""
        own = isinstance(of, np.ndarray)
        batch = side.rows.batch(of) if own else of
        mixture = self._mixture(session, side, batch, masks, list(self.components.slices), at)
        said = self._score(session, self._run(session, side, batch, 1 if own else len(masks), mixture), batch)
        return read(said.reshape(len(masks), -1) if own else said)

    def _mixture(self, session: Session, side: Side, batch: Batch, masks: torch.Tensor, sites: list, at) -> Mixture | None:
        if not sites:
            return None
        values = self.sides.values(session, side, batch, sites)
        only = None
        if at is not None:
            row, positions = (x if batch.chosen is None else x[batch.chosen] for x in (batch.row, batch.positions))
            at = at.to(positions.device) if batch.mask_of is None else at.to(positions.device).reshape(1, -1)
            only = at[:, row] == positions
        return Mixture({key: masks[:, self.components.slices[key]] for key in sites}, values, batch.chosen, side.keys, batch.mask_of, only)

    def _run(self, session: Session, side: Side, batch: Batch, copies: int, mixture: Mixture | None = None,
             layers: tuple[int, int] | None = None, stream: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of the reads, (copies, u, V or 2), or the stream that comes out below the last layer."""
        last = layers is None or layers[1] == self.components.layers
        reads, words = batch.reads if last else batch.reads[:0], None
        if last and copies > 1:
            reads = (torch.arange(copies, device=reads.device)[:, None] * len(batch.tokens) + reads).flatten()
        if last and self._picks(session):
            words = batch.token[..., 0].repeat(copies, 1)
        out, _ = session.run(batch, copies, side.prefix, side.noise, mixture, None, reads, words, layers, stream)
        return out.unflatten(0, (copies, -1)) if last else out

    def _picks(self, session: Session) -> bool:
        return self.two_words and session.can_pick

    def _score(self, session: Session, logits: torch.Tensor, batch: Batch) -> Said:
        """What logits (U, u, V) say of the answers, or those of the two answers alone (U, B, 2)."""
        precise = torch.promote_types(logits.dtype, torch.float32)
        tokens, whole = batch.token[..., 0].expand(len(logits), -1, -1), None
        if self._picks(session):
            return Said(logits.to(precise), tokens)
        answers = answer_log_prob(token_log_probs(logits, batch.index, batch.token), batch.token_valid, self.answer_rule)
        if self.reads_logits:
            whole = logits[:, batch.first].to(precise)
        base = None if self.base_logits is None else self.base_logits[batch.examples].expand(len(logits), -1, -1)
        return Said(answers, tokens, whole, base)


class _Tree:
    """Masks over one batch that share what they can, without a gradient. step: masks in one forward pass at most."""

    def __init__(self, passes: Passes, session: Session, side: Side, batch: Batch, masks: torch.Tensor, at: torch.Tensor | None,
                 host: Host, step: int, read):
        self.passes, self.session, self.side, self.batch, self.step, self.read = passes, session, side, batch, step, read
        self.masks, self.at, self.host, self.layers = masks, at, host, passes.components.layers
        self.worth = passes.worth / len(batch.tokens) if can_skip(passes.model) else math.inf

    def grow(self, members: np.ndarray, layer: int, parent: np.ndarray, stream: torch.Tensor | None) -> Iterator[tuple]:
        """Runs some masks from a layer on; parent: for each the copy in `stream` that it goes on from. Gives numbers of masks, and
        the values of each."""
        last, some, kind = self.host.stage(members, layer, parent, self.worth)
        parts = math.ceil(len(some) / self.step)
        if parts > 1:
            for part in np.array_split(np.arange(len(members)), parts):
                yield from self.grow(members[part], layer, parent[part], stream)
            return
        out = self._stage(members[some], layer, last, parent[some], stream)
        if last < self.layers:
            yield from self.grow(members, last, kind, out)
        else:
            values = self.read(self.passes._score(self.session, out, self.batch))
            members, kind = (torch.as_tensor(x, device=values.device) for x in (members, kind))
            yield members, values[kind]

    def _stage(self, masks: np.ndarray, first: int, last: int, parent: np.ndarray, stream: torch.Tensor | None) -> torch.Tensor:
        where = torch.as_tensor(masks)
        touched = [key for key, acts in self.host.touched.items() if first <= key[1] < last and acts[masks].any()]
        mixture = self.passes._mixture(self.session, self.side, self.batch, self.masks[where.to(self.masks.device)], touched,
                                       None if self.at is None else self.at[where.to(self.at.device)])
        if stream is not None:
            copies = stream[0].unflatten(0, (-1, len(self.batch.tokens)))
            stream = copies.index_select(0, torch.as_tensor(parent, device=stream.device)).flatten(0, 1)[None]
        return self.passes._run(self.session, self.side, self.batch, len(masks), mixture, (first, last), stream)
