"""Observation: what components say on prompts, without touching any of them. One forward pass a prompt, no backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.memory import keep_freed_memory
from mctrace_nb.rows import lay_out
from mctrace_nb.sides import batch_rows_for
from mctrace_nb.tasks import Example

__all__ = ["Observed", "SEEN", "moved", "observe"]

# What can be seen of a layer. The first seven are written, `head_pattern` is (queries, keys), `pattern` the attention itself.
SEEN = ("embed", "head_output", "attn_block", "mlp_neuron", "mlp_output", "mlp_block", "residual", "value", "head_pattern", "pattern")
Site = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Observed:
    """Activity on M tokens, one after the other, prompt by prompt, on the model's device.

    activity: of each site (kind, layer) `(M, width)`, or `(M, heads, head width)` for "head_output" and "value"; a pair of such for
    "head_pattern" (queries and keys, after rotation where a family rotates them); `(M, heads, longest prompt)` for "pattern".
    prompt, position: `(M,)` whose token it is, and where it stands. logits: `(n, K)` of the words asked for, after each prompt.
    last: `(n,)` the numbers of the prompts' last tokens.

        >>> seen = mct.observing.observe(model, [e.base for e in task.search], [("residual", 2)])
        >>> seen.prompts, seen.activity["residual", 2][seen.last].shape
        (8, torch.Size([8, 64]))
    """

    activity: dict[Site, torch.Tensor | tuple[torch.Tensor, ...]]
    prompt: torch.Tensor
    position: torch.Tensor
    logits: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def prompts(self) -> int:
        return int(self.prompt[-1]) + 1

    @property
    def last(self) -> torch.Tensor:
        ends = self.prompt[1:] != self.prompt[:-1]
        return torch.cat([ends.nonzero().flatten(), torch.tensor([len(self) - 1], device=ends.device)])


def observe(model: LanguageModel, prompts: Sequence[Sequence[int]], sites: Sequence[Site], words: Sequence[int] = (),
            batch_rows: int | None = None) -> Observed:
    """Runs prompts (token ids, each a sequence of at least one) and records `sites`, pairs of a kind (see `SEEN`) and a layer; the
    token embeddings are ("embed", 0). words: the tokens whose logits after each prompt are wanted.

    Raises InputError for an unknown kind or layer, no prompts or an empty one, a prompt that is too long, values that are not finite.

        >>> seen = mct.observing.observe(model, [e.base for e in task.search], [("residual", 2), ("head_output", 0)])
        >>> seen.activity["residual", 2].shape, seen.activity["head_output", 0].shape
        (torch.Size([120, 64]), torch.Size([120, 4, 16]))
    """
    if not len(prompts) or not all(map(len, prompts)):
        raise InputError(f"observing needs prompts of at least one token each, not {len(prompts)} of which "
                         f"{sum(not len(p) for p in prompts)} are empty")
    for kind, layer in sites:
        one_of(kind, SEEN, "kind of activity")
        if not 0 <= layer < len(model.layers):
            raise InputError(f"layer {layer} is out of range (there are {len(model.layers)}, numbered from 0)")
        if kind == "mlp_neuron" and model.layers[layer].down is None:
            raise InputError(f"{model.name!r}: no MLP neurons were found in this architecture; use mlp_output or mlp_block")
    keep_freed_memory()
    for i, p in enumerate(prompts):
        model.check_length(len(p), f"prompt {i}")
    # The answers are never fed: of one of a single token nothing is, and here they are only there to be left out.
    examples = tuple(Example(tuple(p), tuple(p), (0,), (1,), "", None) for p in prompts)
    rows = lay_out(examples, "base", "all", [0] * len(examples), model.device)
    step = batch_rows or batch_rows_for(model.width, len(rows.ids) / len(examples))
    found: dict[Site, list] = {site: [] for site in sites}
    longest, logits, words = max(map(len, prompts)), [], torch.as_tensor(list(words), dtype=torch.long)
    with Session(model) as session, torch.no_grad():
        for part in np.split(np.arange(len(examples)), range(step, len(examples), step)):
            batch = rows.batch(part)
            said, recorded = session.run(batch, record=list(sites), reads=batch.reads if len(words) else batch.reads[:0])
            logits.append(said[:, words.to(said.device)].to(model.device))
            for site, said in recorded.items():
                found[site].append(_padded(said, longest) if site[0] == "pattern" else said)
    activity = {site: tuple(map(torch.cat, zip(*said))) if isinstance(said[0], tuple) else torch.cat(said) for site, said in found.items()}
    for (kind, layer), said in activity.items():
        if not all(bool(torch.isfinite(x.sum())) for x in (said if isinstance(said, tuple) else (said,))):
            raise InputError(f"{kind} of layer {layer} has values that are not finite; load the model with dtype='float32', or check "
                             "its weights")
    prompt = torch.as_tensor(np.repeat(np.arange(len(prompts)), [len(p) for p in prompts]), device=model.device)
    return Observed(activity, prompt, torch.as_tensor(rows.positions, device=model.device), torch.cat(logits))


def _padded(pattern: torch.Tensor, longest: int) -> torch.Tensor:
    """(m, heads, longest of a batch) -> (m, heads, longest of all)"""
    return torch.nn.functional.pad(pattern, (0, longest - pattern.shape[-1]))


def moved(observed: Observed, layer: int, said: torch.Tensor, head: int) -> torch.Tensor:
    """`(M, w)` what one head would carry of an activity `(M, w)` to every token: its attention pattern times the activity.

    Needs ("pattern", layer) among the observed sites.

        >>> seen = mct.observing.observe(model, [task.search[0].base], [("pattern", 0), ("residual", 0)])
        >>> mct.observing.moved(seen, layer=0, said=seen.activity["residual", 0], head=1).shape
        torch.Size([15, 64])
    """
    pattern = observed.activity["pattern", layer][:, head]  # (M, longest)
    padded = said.new_zeros(observed.prompts, pattern.shape[-1], said.shape[-1])
    padded[observed.prompt, observed.position] = said
    rows = said.new_zeros(observed.prompts, pattern.shape[-1], pattern.shape[-1])
    rows[observed.prompt, observed.position] = pattern.to(said)
    return (rows @ padded)[observed.prompt, observed.position]
