"""Texts that a model writes itself: batched, with keys and values kept, each token with its log-probability."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor, nn

from mctrace_nb.distill.pairs import call, check_room, places
from mctrace_nb.errors import InputError

__all__ = ["Rollouts", "write_rollouts"]


@dataclass(frozen=True)
class Rollouts:
    """B texts: prompts padded on the left, then up to T written tokens.

    ids, mask: `(B, prompt + T)`, mask true where a token stands. tokens, valid, logp: `(B, T)`, the written tokens, which of them count
    (up to and with the end of text), and their log-probability when they were written. seconds: what writing took.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> prompt = next(mct.distill.experiment.prompts(tokenizer, seed=0))
        >>> said = mct.distill.rollouts.write_rollouts(teacher, [prompt, prompt], tokenizer.eos_token_id, new_tokens=8, seed=0)
        >>> said.ids.shape[1] - len(prompt), len(said.answers())
        (7, 2)
    """

    ids: Tensor
    mask: Tensor
    tokens: Tensor
    valid: Tensor
    logp: Tensor
    seconds: float

    def part(self, rows) -> "Rollouts":
        """Some of the texts: rows is a slice or an index tensor."""
        return Rollouts(self.ids[rows], self.mask[rows], self.tokens[rows], self.valid[rows], self.logp[rows], self.seconds)

    def answers(self) -> list[list[int]]:
        """The written ids of each text, its end included."""
        return [row[keep].tolist() for row, keep in zip(self.tokens, self.valid)]


@torch.no_grad()
def write_rollouts(model: nn.Module, prompts: Sequence[Sequence[int]], end: int, new_tokens: int, seed: int | torch.Generator,
                   vocabulary: int | None = None, pad: int = 0) -> Rollouts:
    """Samples one answer for each prompt (token ids) from the model's full distribution: temperature 1, no truncation, as the
    objective needs it. Stops at `end` or after `new_tokens`.

    Raises InputError for an empty prompt, no prompt, or no new token, for texts longer than the model can read, and for log-probabilities
    that are not finite.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> prompt = next(mct.distill.experiment.prompts(tokenizer, seed=0))
        >>> said = mct.distill.rollouts.write_rollouts(teacher, [prompt, prompt], tokenizer.eos_token_id, new_tokens=8, seed=0)
        >>> said.tokens.shape
        torch.Size([2, 7])
    """
    if not prompts or not all(len(p) for p in prompts):
        raise InputError("there is no prompt, or an empty one, to go on from; give token ids, at least <bos>")
    if new_tokens < 1:
        raise InputError(f"new_tokens={new_tokens!r} leaves the rollouts empty; give at least 1")
    start, device = time.perf_counter(), next(model.parameters()).device
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator(device).manual_seed(seed)
    longest = max(map(len, prompts))
    check_room(model, longest + new_tokens - 1)  # the last token is written and not read
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (longest - len(p)) + [True] * len(p) for p in prompts], device=device)
    fresh, cache = ids, None
    going = torch.ones(len(ids), dtype=torch.bool, device=device)
    tokens, valid, logps = [], [], []
    for _ in range(new_tokens):
        out = call(model, input_ids=fresh, attention_mask=mask.long(), position_ids=places(mask)[:, -fresh.shape[1]:],
                   past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        logits = out.logits[:, -1, :vocabulary]
        logp = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)  # (B, V)
        if not logp.isfinite().all(-1)[going].all():
            raise InputError("the model's log-probabilities are not finite while it writes; lower the learning rate, or use float32")
        drawn = logp.exp().nan_to_num(1.0).multinomial(1, generator=generator)  # (B, 1)
        tokens.append(drawn.squeeze(1).masked_fill(~going, pad))
        logps.append(logp.gather(1, drawn).squeeze(1).masked_fill(~going, 0))
        valid.append(going)
        mask = torch.cat([mask, going.unsqueeze(1)], 1)
        going = going & (tokens[-1] != end)
        fresh = tokens[-1].unsqueeze(1)
        if not going.any():
            break
    written = torch.stack(tokens, 1)
    return Rollouts(torch.cat([ids, written], 1), mask, written, torch.stack(valid, 1), torch.stack(logps, 1), time.perf_counter() - start)
