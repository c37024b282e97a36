"""One optimisation step of the mask against its limit: the stock model, forwards and backwards once, without hooks.

The reference has the same prompts, cached prefixes, tokens and logits, and no intervention: one forward pass, and one
backward pass to a leaf at the hidden state that enters the first layer. It lies in whatever is fastest here: each prompt in a
padded row, rows of like length together, or all prompts packed into one row.
"""

from __future__ import annotations

from copy import copy
from typing import Iterator

import numpy as np
import torch
from transformers import DynamicCache

from mctrace_nb.bench.shapes import medians, now, small_or_full, winobias_shaped
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import token_log_probs
from mctrace_nb.relax import Settings, relax
from mctrace_nb.rows import Rows
from mctrace_nb.tracing import Trace

KINDS = ("head_output", "head_pattern", "mlp_output", "mlp_neuron")


class Group:
    """Rows that the stock model runs together, each with the tokens of one prompt or several, and nothing of the kit."""

    def __init__(self, lm: LanguageModel, rows: Rows, members: list[list[int]]):
        self.lm, self.members = lm, members
        parts = [[(e, np.arange(rows.start[e], rows.start[e + 1])) for e in row] for row in members]
        width = max(sum(len(t) for _, t in row) for row in parts)
        before = max(sum(len(rows.prefix[e]) for e in row) for row in members)
        self.ids, self.positions = (torch.zeros(len(parts), width, dtype=torch.long) for _ in "ip")
        self.mask = torch.zeros(len(parts), 1, width, before + width, dtype=torch.bool)
        self.mask[..., before] = True  # padding looks at something
        self.past = [[torch.zeros(len(parts), lm.kv_heads, before, lm.head_width, dtype=lm.dtype) for _ in "kv"] for _ in lm.layers]
        reads, self.answers = [], []
        for r, row in enumerate(parts):
            at, behind = 0, 0
            for e, tokens in row:
                n, p, branch = len(tokens), len(rows.prefix[e]), torch.as_tensor(rows.branch[tokens])
                self.ids[r, at:at + n], self.positions[r, at:at + n] = (torch.as_tensor(x[tokens]) for x in (rows.ids, rows.positions))
                sees = (branch[None] == 0) | (branch[None] == branch[:, None])
                self.mask[r, 0, at:at + n] = False
                self.mask[r, 0, at:at + n, before + at:before + at + n] = sees & torch.ones(n, n).tril().bool()
                self.mask[r, 0, at:at + n, behind:behind + p] = True
                cache = DynamicCache()
                with torch.no_grad():
                    ids = torch.tensor([rows.prefix[e]], device=lm.device)
                    lm.model(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
                for mine, layer in zip(self.past, cache.layers):
                    for whole, x in zip(mine, (layer.keys, layer.values)):
                        whole[r, :, behind:behind + p] = x[0]
                self.answers.append((len(reads) + rows.index[e], rows.token[e], rows.token_valid[e]))
                reads += [(r, at + i) for i in rows.read_at[rows.read_start[e]:rows.read_start[e + 1]]]
                at, behind = at + n, behind + p
        self.reads = tuple(torch.tensor(reads).T.to(lm.device))
        self.answers = [torch.as_tensor(np.stack(x)).to(lm.device) for x in zip(*self.answers)]
        self.ids, self.positions, self.mask = (x.to(lm.device) for x in (self.ids, self.positions, self.mask))
        self.past = [[x.to(lm.device) for x in pair] for pair in self.past]

    def repeated(self, copies: int) -> "Group":
        """The same rows so many times over."""
        made = copy(self)
        made.ids, made.positions, made.mask = (x.repeat(copies, *[1] * (x.ndim - 1)) for x in (self.ids, self.positions, self.mask))
        made.past = [[x.repeat(copies, 1, 1, 1) for x in pair] for pair in self.past]
        shift = torch.arange(copies, device=self.ids.device)[:, None]
        made.reads = ((shift * len(self.ids) + self.reads[0]).flatten(), self.reads[1].repeat(copies))
        index, token, valid = (x.repeat(copies, 1, 1) for x in self.answers)
        made.answers = [index + shift.repeat_interleave(len(self.answers[0]), 0)[..., None] * len(self.reads[0]), token, valid]
        return made

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        model, cache = self.lm.model, DynamicCache()
        for layer, pair in enumerate(self.past):
            cache.update(*pair, layer)
        leaf = model.get_input_embeddings()(self.ids).detach().requires_grad_()
        hidden = model.base_model(inputs_embeds=leaf, attention_mask=self.mask, position_ids=self.positions, past_key_values=cache,
                                  use_cache=True).last_hidden_state
        index, token, valid = self.answers
        found = token_log_probs(model.get_output_embeddings()(hidden[self.reads])[None], index, token)[0]
        answers = torch.where(valid, found, 0.0).sum(-1) / valid.sum(-1)
        return torch.exp(-(answers[:, 0] - answers[:, 1])).mean(), leaf


def layouts(lm: LanguageModel, rows: Rows) -> dict[str, list[Group]]:
    """The ways to lay out the same tokens."""
    by_length = np.argsort(np.diff(rows.start), kind="stable").tolist()
    few = [by_length[i:i + 8] for i in range(0, len(by_length), 8)]
    return {"padded": [Group(lm, rows, [[e] for e in by_length])],
            "in 4 lengths": [Group(lm, rows, [[e] for e in part]) for part in few],
            "packed": [Group(lm, rows, [by_length])],
            "packed into 8 rows": [Group(lm, rows, [by_length[i::8] for i in range(8)])]}


def step(groups: list[Group]) -> tuple[float, float]:
    """Seconds of the forward and of the backward passes."""
    there = back = 0.0
    for group in groups:
        start = now()
        loss, _ = group.forward()
        middle = now()
        loss.backward()
        there, back = there + middle - start, back + now() - middle
    return there, back


def measure(quick: bool) -> Iterator[dict]:
    """A step of pgb for four kinds, forward and backward apart, and whether it depends on the number of components."""
    lm = small_or_full(quick)
    task, repeats = winobias_shaped(lm.model.config.vocab_size), 3 if quick else 5
    traces = {kind: Trace(lm, task, kind) for kind in KINDS}
    some = traces[KINDS[0]]
    rows = some.side().rows
    ways = layouts(lm, rows)
    for name, groups in ways.items():  # the same work: the same odds, without an intervention
        loss = sum(float(group.forward()[0].detach()) * len(group.answers[0]) for group in groups) / len(task.search)
        if abs(loss - float(torch.exp(-some.base_values).mean())) > 1e-4 * loss:
            raise AssertionError(f"the reference ({name}) does not compute what the kit does: {loss}")
    took = medians(2 if quick else 3, *(lambda groups=groups: step(groups) for groups in ways.values()))
    best = min(zip(took, ways))[1]
    print("  stock model, seconds a step: " + ", ".join(f"{name} {t:.3f}" for name, t in zip(ways, took)) + f"; {len(rows.ids)} tokens, "
          f"{len(rows.read_at)} logits")
    found, parts = {kind: [] for kind in KINDS}, {"forward": [], "backward": [], "kit forward": [], "kit backward": []}
    for kind, trace in traces.items():
        trace.prepare()
        relax(trace, [Settings(seed=None)], 1, 32, progress=False)
    for _ in range(repeats):
        for kind, trace in traces.items():
            there, back = step(ways[best])
            start = now()
            relax(trace, [Settings(seed=None)], 1, 32, progress=False)
            found[kind].append((now() - start) / (there + back))
            parts["forward"].append(there), parts["backward"].append(back)
        mask = torch.full((len(some.components),), 0.5, requires_grad=True)
        start = now()
        loss = torch.exp(-some.effects(mask)).mean()
        middle = now()
        loss.backward()
        parts["kit forward"].append(middle - start), parts["kit backward"].append(now() - middle)
    middle = {name: float(np.median(x)) for name, x in parts.items()}
    print(f"  seconds, {best}: forward {middle['forward']:.3f}, backward {middle['backward']:.3f}; the kit's forward "
          f"{middle['kit forward']:.3f}, backward {middle['kit backward']:.3f} (head_output)")
    for kind in KINDS:
        yield dict(name=f"a step of pgb / stock forward and backward ({best}): {kind}", value=float(np.median(found[kind])), bar=1.15)
    for way in ("forward", "backward"):
        yield dict(name=f"head_output, the {way} pass alone", value=middle[f"kit {way}"] / middle[way])
    heads, neurons = (float(np.median(found[kind])) for kind in ("head_output", "mlp_neuron"))
    sizes = [len(traces[kind].components) for kind in ("head_output", "mlp_neuron")]
    yield dict(name=f"a step for {sizes[1]:,} neurons / for {sizes[0]} heads", value=neurons / heads, bar=1.3)
