"""Running some of a model's layers only: the others are skipped, and the stream that enters is one that is known already."""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import torch
from torch import nn

from mctrace_nb.layout import LanguageModel

_IN_TUPLES: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()  # how a layer returns its output


def note_output(block: nn.Module, output) -> None:
    """Remembers whether a layer returns its output alone or as the first of a tuple, as older families do."""
    _IN_TUPLES[block] = isinstance(output, tuple)


class _Skipped(nn.Module):
    """Stands in a layer's place where the layer is not needed: hands on what it gets, or the stream that is known already."""

    def __init__(self, block: nn.Module, stream: torch.Tensor | None):
        super().__init__()
        self.__dict__.update(block=block, stream=stream, got=None)  # the block is not to be a part of this module

    def __getattr__(self, name):  # some families ask their layers what kind of attention they have
        return getattr(self.__dict__["block"], name)

    def forward(self, hidden_states, *_, **__):
        self.__dict__["got"] = hidden_states
        handed_on = hidden_states if self.stream is None else self.stream
        return (handed_on,) if _IN_TUPLES[self.block] else handed_on


def can_skip(lm: LanguageModel) -> bool:
    """Whether layers can be skipped: a whole pass has shown how they return their outputs, and none borrows another's keys."""
    shared = getattr(lm.model.config.get_text_config(), "num_kv_shared_layers", 0)
    return not shared and all(layer.block in _IN_TUPLES for layer in lm.layers)


@contextmanager
def only(lm: LanguageModel, first: int, last: int, stream: torch.Tensor | None):
    """Inside, the model runs its layers from `first` to `last` - 1 alone, on a residual stream if first > 0. Gives what stands in
    the place of layer `last`, whose `got` is the stream that comes out; None where the last layer is run."""
    blocks = [layer.block for layer in lm.layers]
    try:
        for i in (*range(first), *range(last, len(blocks))):
            lm.stack[i] = _Skipped(blocks[i], stream if i == first - 1 else None)
        yield lm.stack[last] if last < len(blocks) else None
    finally:
        for i, block in enumerate(blocks):
            if lm.stack[i] is not block:
                lm.stack[i] = block
