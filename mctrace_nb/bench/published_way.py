"""The same algorithm written in the published way, tidied, to measure what is saved.

Every step runs the counterfactual prompts, the base prompts and the mixture anew, each answer in a pass of its own over whole
prompts in padded rows, computes the logits of every token, and takes the gradient of every weight. Unlike the published code it
uses the fast attention kernel, no loop over rows and no anomaly detection.
"""

from __future__ import annotations

from typing import Iterator

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace_nb.bench.shapes import medians, professions_shaped, small_or_full, winobias_shaped
from mctrace_nb.layout import LanguageModel
from mctrace_nb.relax import Settings, relax
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

NAME = "mctrace_published_way"


def _as_long(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """x with as many tokens as another: the prompts' values are the same in both lists of rows, which may differ in width."""
    length = other.shape[-2]
    return torch.nn.functional.pad(x, (0, 0, 0, max(0, length - x.shape[-2])))[..., :length, :]


def _attention(module, query, key, value, attention_mask, **kwargs):
    inner, run = ALL_ATTENTION_FUNCTIONS["sdpa"], PublishedWay.running
    if run.store is not None:
        run.store.append((query.detach(), key.detach()))
    out, _ = inner(module, query, key, value, attention_mask, **kwargs)
    if run.mask is None or run.kind != "head_pattern":
        return out, None
    q, k = (_as_long(x, query) for x in run.other[module.layer_idx])
    other, _ = inner(module, q, k, value, attention_mask, **kwargs)
    weight = run.mask[module.layer_idx][None, None, :, None] * run.context[:, :query.shape[2], None, None]
    return torch.lerp(out, other, weight), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


class PublishedWay:
    """Heads by pattern, or MLP outputs, of a GPT-2; `step(mask)` gives the loss and leaves gradients. tokens: processed a step."""

    running: "PublishedWay"

    def __init__(self, lm: LanguageModel, task: Task, kind: str):
        self.lm, self.kind, self.tokens, self.store, self.mask, self.other = lm, kind, 0, None, None, []
        pairs = task.search
        single = all(len(e.target) == len(e.foil) == 1 for e in pairs)  # then one pass serves both answers
        answers = [[e.target for e in pairs]] if single else [[e.target for e in pairs], [e.foil for e in pairs]]
        fed = [[() if single else a for a in side] for side in answers]
        self.rows, self.cf = ([self._padded([(*getattr(e, prompt), *a) for e, a in zip(pairs, side)]) for side in fed]
                              for prompt in ("base", "counterfactual"))
        self.lengths = torch.tensor([len(e.base) for e in pairs])
        self.context = (torch.arange(max(len(r[0]) for r in self.rows)) < self.lengths[:, None]).float()
        self.pairs, self.single = pairs, single

    def _padded(self, rows: list) -> torch.Tensor:
        made = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, ids in zip(made, rows):
            row[:len(ids)] = torch.tensor(ids)
        return made

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        self.tokens += ids.numel()
        return self.lm.model(ids, use_cache=False).logits

    def _scores(self) -> torch.Tensor:
        """(n,) log odds of target against foil."""
        said = []
        for row, side in zip(self.rows, ("target", "foil")):
            logp = self._run(row).log_softmax(-1)
            if self.single:
                last = logp[range(len(logp)), self.lengths - 1]
                return (last[range(len(last)), [e.target[0] for e in self.pairs]] - last[range(len(last)), [e.foil[0] for e in self.pairs]])
            picked = logp[:, :-1].gather(-1, row[:, 1:, None])[..., 0]
            count = torch.tensor([len(getattr(e, side)) for e in self.pairs])
            at = torch.arange(picked.shape[1])
            inside = (at >= self.lengths[:, None] - 1) & (at < (self.lengths + count)[:, None] - 1)
            said.append((picked * inside).sum(1) / count)
        return said[0] - said[1]

    def step(self, mask: torch.Tensor) -> torch.Tensor:
        """mask: (layers, units), a leaf that is given its gradient."""
        PublishedWay.running, self.tokens = self, 0
        model, handles = self.lm.model, []
        model.requires_grad_(True)
        model.zero_grad()
        model.set_attn_implementation(NAME)
        try:
            with torch.no_grad():
                for row in reversed(self.cf):  # as published, with each answer behind them; what is put in are the prompts' values
                    self.store, kept = [], []
                    if self.kind == "mlp_output":
                        handles = [layer.mlp.register_forward_hook(lambda _, __, out: kept.append(out)) for layer in self.lm.layers]
                    self._run(row)
                    self.other, self.store = (kept or self.store), None
                    for handle in handles:
                        handle.remove()
                base = self._scores()
            self.mask = mask
            if self.kind == "mlp_output":
                handles = [layer.mlp.register_forward_hook(lambda _, __, out, i=i: torch.lerp(
                    out, _as_long(self.other[i], out), mask[i] * self.context[:, :out.shape[1], None])) for i, layer in enumerate(self.lm.layers)]
            loss = torch.exp(-(self._scores() - base)).mean()
            loss.backward()
            return loss.detach()
        finally:
            self.mask = None
            for handle in handles:
                handle.remove()
            model.set_attn_implementation("sdpa")
            model.requires_grad_(False)

    def plain(self) -> None:
        """The forward and backward passes alone, by the stock model."""
        model = self.lm.model
        model.requires_grad_(True)
        model.zero_grad()
        with torch.no_grad():
            for row in (*self.cf, *self.rows):
                model(row, use_cache=False)
        sum(model(row, use_cache=False).logits.log_softmax(-1)[..., 0].mean() for row in self.rows).backward()
        model.requires_grad_(False)


def measure(quick: bool) -> Iterator[dict]:
    """Steps of both, for attention patterns on WinoBias shapes and MLP outputs on Professions shapes."""
    lm = small_or_full(quick)
    words = lm.model.config.vocab_size
    for task, kind, what, bar in ((winobias_shaped(words), "head_pattern", "heads on WinoBias shapes", 8.0),
                                  (professions_shaped(words), "mlp_output", "MLP outputs on Professions shapes", 3.2)):
        published, trace = PublishedWay(lm, task, kind), Trace(lm, task, kind)
        units = len(trace.components) // len(lm.layers)
        old = torch.full((len(lm.layers), units), 0.5, requires_grad=True)
        new = torch.full((len(trace.components),), 0.5, requires_grad=True)
        loss = torch.exp(-trace.effects(new)).mean()
        loss.backward()
        apart = abs(float(published.step(old) - loss.detach())), float((old.grad.flatten() - new.grad).abs().max() / new.grad.abs().max())
        yield dict(name=f"{what}: loss and gradient of both ways differ by (relative)", value=max(apart), bar=1e-4)
        slow, plain, fast = medians(2 if quick else 5, lambda: published.step(old), published.plain,
                                    lambda: relax(trace, [Settings(seed=None)], 1, 32, progress=False))
        print(f"  {what}: {slow:.2f} s and {published.tokens:,} tokens a step in the published way, {fast:.3f} s and "
              f"{len(trace.side().rows.ids):,} tokens here")
        yield dict(name=f"{what}: the published way, tidied / its plain forwards and backwards", value=slow / plain, bar=1.2)
        yield dict(name=f"{what}: the published way / a step of pgb", value=slow / fast, bar=bar, sense=">=")
