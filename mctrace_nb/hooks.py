"""The one door into a forward pass: record what components say, and mix in what they said elsewhere.

Heads go through transformers' registry of attention functions, so one function serves every family that uses it; MLPs
and blocks go through ordinary module hooks. `Session` is a context manager: inside it the model is in eval mode with
frozen weights, afterwards it is bit for bit what it was before, also after an error or an interrupt.

Mixing is `h = (1 - m) f(g) + m h'` (Yan et al. 2026, the mixture forward pass) with `torch.lerp`, exact at 0 and 1.
For `head_pattern` the same is done to attention patterns without ever making one: a mixture of patterns applied to the
values v is the mixture of `attention(q, k, v)` and `attention(q', k', v)`, with q', k' cached from the other run.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.rows import Rows

KERNELS = ("sdpa", "eager")
_ACTIVE: "weakref.WeakKeyDictionary[nn.Module, tuple[Session, int]]" = weakref.WeakKeyDictionary()
_BUSY: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@dataclass
class Mixture:
    """What to mix into a run of R masks.

    weights: `(R, units)` for each (kind, layer) touched. values: for the same keys the other run's values
    `(n, K, T, ...)`, broadcastable; `None` stands for zero. rows: the run's examples, `take`n as `(b,)` or `(R, b)`;
    examples: their numbers, or None for all of them in order.
    """

    weights: dict[tuple[str, int], torch.Tensor]
    values: dict[tuple[str, int], object]
    rows: Rows
    examples: torch.Tensor | None
    everywhere: bool = field(init=False)

    def __post_init__(self):
        self.everywhere = bool(self.rows.chosen.all())

    def _pick(self, cached: torch.Tensor) -> torch.Tensor:
        """(n, K, T, ...) -> (1 or R, b, K, T, ...)"""
        if self.examples is None:
            return cached[None]
        picked = cached[self.examples.to(cached.device)]
        return picked if self.examples.ndim == 2 else picked[None]

    def value(self, key: tuple[str, int]):
        """The other run's value (for `head_pattern` its queries and keys) for the run's examples."""
        cached = self.values[key]
        if isinstance(cached, tuple):
            return tuple(map(self._pick, cached))
        return None if cached is None else self._pick(cached)

    def mix(self, key: tuple[str, int], x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """lerp of the run's x `(R b K, T, units, ...)` towards `other`, broadcastable to `(R, b, K, T, units, ...)`."""
        weight = self.weights[key].to(x.device, x.dtype)  # (R, units); layers may lie on several devices
        count, (b, k, t) = len(weight), self.rows.ids.shape[-3:]
        weight = weight.view(count, 1, 1, 1, -1)
        if not self.everywhere:
            weight = weight * self.rows.chosen.view(-1, b, k, t, 1).to(x.device)
        shaped = x.reshape(count, b, k, t, *x.shape[2:])
        weight = weight.reshape(*weight.shape, *[1] * (shaped.ndim - weight.ndim))
        other = x.new_zeros(()) if other is None else other.to(x.device, x.dtype)
        return torch.lerp(shaped, other, weight).reshape(x.shape)


def _kernel_of(model: nn.Module) -> str:
    kernel = model.config._attn_implementation
    if kernel not in KERNELS:
        raise InputError(f"attention kernel {kernel!r} is not supported; load the model with "
                         f"attn_implementation={' or '.join(map(repr, KERNELS))}")
    return kernel


def _through_the_door(kernel: str):
    def attention(module, query, key, value, attention_mask, **kwargs):
        session, layer = _ACTIVE[module]
        if kernel == "eager":  # each family brings its own eager function
            inner = sys.modules[type(module).__module__].eager_attention_forward
        else:
            inner = ALL_ATTENTION_FUNCTIONS[kernel]
        out, weights = inner(module, query, key, value, attention_mask, **kwargs)

        def patterned(other_query, other_key):  # the same values, attended to by the other run's queries and keys
            return inner(module, other_query, other_key, value, attention_mask, **kwargs)[0]

        return session.at_attention(layer, out, query, key, patterned), weights

    return attention


for _kernel in KERNELS:
    AttentionInterface.register(f"mctrace_{_kernel}", _through_the_door(_kernel))
    # Without a mask function of the same name, padding, sliding windows and a cached prefix are silently ignored.
    AttentionMaskInterface.register(f"mctrace_{_kernel}", ALL_MASK_ATTENTION_FUNCTIONS[_kernel])


class Session:
    """Opens a model for recording and mixing; `with Session(lm) as session: session.run(...)`.

    Raises InputError if the model is open already (nested or concurrent use of one model).
    """

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.record: dict | None = None
        self.mixture: Mixture | None = None
        self.noise: torch.Tensor | None = None
        self.reads: tuple | None = None
        self._shape = (0, 0)  # rows and tokens of the forward pass under way

    def __enter__(self) -> "Session":
        model = self.lm.model
        if model in _BUSY:
            raise InputError("this model is in use by another trace already; finish that call first "
                             "(one model serves one call at a time)")
        self._kernel = _kernel_of(model)
        _BUSY.add(model)
        self._training = [m for m in model.modules() if m.training]
        # By name, because accelerate makes the parameters of offloaded parts anew in every forward pass.
        self._trainable = [(m, n) for m in model.modules() for n, p in m.named_parameters(recurse=False) if p.requires_grad]
        self._handles = []
        try:
            for module in self._training:
                module.training = False
            for module, parameter in self._trainable:
                getattr(module, parameter).requires_grad_(False)
            model.set_attn_implementation(f"mctrace_{self._kernel}")
            for number, layer in enumerate(self.lm.layers):
                _ACTIVE[layer.attention] = (self, number)
                self._hook(layer.attention, number, "attn_block")
                self._hook(layer.mlp, number, "mlp_output", "mlp_block")
                self._hook(layer.block, number, "residual")
                if layer.down is not None:
                    self._handles.append(layer.down.register_forward_pre_hook(self._neurons(number)))
            self._handles.append(model.get_output_embeddings().register_forward_pre_hook(self._keep_reads))
            self._handles.append(model.get_input_embeddings().register_forward_hook(self._add_noise))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        for layer in self.lm.layers:
            _ACTIVE.pop(layer.attention, None)
        self.lm.model.set_attn_implementation(self._kernel)
        for module, parameter in self._trainable:
            getattr(module, parameter).requires_grad_(True)
        for module in self._training:
            module.training = True
        _BUSY.discard(self.lm.model)

    # --- what happens inside the forward pass ---

    def _site(self, x: torch.Tensor, layer: int, *kinds: str) -> torch.Tensor:
        """Mixes the kinds that live at one place, from the inside out, or records it."""
        flat = x.ndim == 2  # OPT's MLP works on all tokens of all rows at once
        x = x.unflatten(0, self._shape) if flat else x
        for kind in kinds:
            key = (kind, layer)
            if self.mixture is not None and key in self.mixture.weights:
                x = self.mixture.mix(key, x, self.mixture.value(key))
            if self.record is not None and key in self.record:
                self.record[key] = x.detach()
        return x.flatten(0, 1) if flat else x

    def _hook(self, module: nn.Module, layer: int, *kinds: str) -> None:
        def hook(_, __, output):
            if isinstance(output, tuple):
                return (self._site(output[0], layer, *kinds), *output[1:])
            return self._site(output, layer, *kinds)

        self._handles.append(module.register_forward_hook(hook))

    def _neurons(self, layer: int):
        return lambda _, args: (self._site(args[0], layer, "mlp_neuron"), *args[1:])

    def at_attention(self, layer: int, out, query, key, patterned):
        """Called by the attention function with the head outputs `(rows, T, heads, head width)`."""
        site = ("head_pattern", layer)
        if self.record is not None and site in self.record:
            self.record[site] = (query.detach(), key.detach())
        if self.mixture is not None and site in self.mixture.weights:
            other = self.mixture.value(site)
            if other is not None:  # None: the pattern is replaced by zeros, which is a head output of zeros
                count = len(self.mixture.weights[site])
                shape = self.mixture.rows.ids.shape[-3:]  # (b, K, T)
                q, k = (x.to(out).expand(count, *shape[:2], *x.shape[3:]).flatten(0, 2) for x in other)
                other = patterned(q, k).reshape(count, *shape, *out.shape[2:])
            out = self.mixture.mix(site, out, other)
        return self._site(out, layer, "head_output")

    def _keep_reads(self, _, args):
        if self.reads is None:
            return None
        at = tuple(x.to(args[0].device) for x in self.reads)
        return (args[0][at].unsqueeze(0), *args[1:])  # (1, M, width): only these logits are computed

    def _add_noise(self, _, __, output):
        return None if self.noise is None else output + self.noise.to(output)

    # --- running ---

    def prefix(self, rows: Rows, noise: torch.Tensor | None, batch_rows: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Keys and values of the prefix, a pair `(n, heads, P, head width)` a layer; None if there is no prefix.

        noise: (n, longest prompt, width) added to the embeddings, by absolute position.
        """
        if not rows.prefix.shape[1]:
            return None
        # Padding on the left would leave rows that attend to nothing, which some kernels answer with nan. So the prefix is
        # run with its padding on the right, where no token looks, and its keys and values are turned afterwards.
        p = rows.prefix.shape[1]
        at, padding = torch.arange(p, device=rows.prefix.device), (~rows.prefix_valid).sum(1, keepdim=True)  # (P,), (n, 1)
        ids, turned = rows.prefix.gather(1, (at + padding) % p), (at - padding) % p  # (n, P)
        parts = []
        for part in torch.arange(len(ids), device=ids.device).split(batch_rows):
            positions = at.expand(len(part), -1)
            self.noise = None if noise is None else _at(noise[part], positions)
            self.reads, self._shape = (part[:1] * 0, part[:1] * 0), (len(part), p)  # no logits are needed
            cache = DynamicCache()
            self.lm.model(input_ids=ids[part], attention_mask=torch.ones_like(positions), position_ids=positions,
                          past_key_values=cache, use_cache=True)
            where = turned[part][:, None, :, None]
            parts.append([tuple(x.gather(2, where.to(x.device).expand_as(x)) for x in (layer.keys, layer.values))
                          for layer in cache.layers])
        return [tuple(map(torch.cat, zip(*layer))) for layer in zip(*parts)]

    def run(self, rows: Rows, examples: torch.Tensor, masks: int = 1, prefix: list | None = None,
            noise: torch.Tensor | None = None, mixture: Mixture | None = None, record: list | None = None,
            reads: tuple | None = None) -> tuple[torch.Tensor, dict]:
        """One forward pass of `masks` copies of some examples.

        rows: `take`n examples, shapes `(b, K, T)` shared by all masks or `(R, b, K, T)`; examples: their numbers.
        record: the (kind, layer) sites to record. reads: `(row, token)` index tensors of the logits wanted.
        Returns logits `(M, V)` at the reads, or `(R b K, T, V)` without, and the recorded values `(b, K, T, ...)`.
        """
        self.mixture, self.reads = mixture, reads
        self.record = dict.fromkeys(record or ())
        b, k, t = rows.ids.shape[-3:]

        def spread(x: torch.Tensor, per_row: bool = True) -> torch.Tensor:
            """(b, K, ...) or (R, b, K, ...) -> (R b K, ...); without a K dimension it is added."""
            x = x if examples.ndim == 2 else x.expand(masks, *x.shape)
            x = x if per_row else x.unsqueeze(2).expand(-1, -1, k, *x.shape[2:])
            return x.flatten(0, 2)

        positions = spread(rows.positions)
        self.noise = None if noise is None else _at(spread(noise[examples], per_row=False), positions)
        self._shape = positions.shape
        # Padding at the end needs no mask: no token looks ahead, and every row has something to attend to.
        valid, cache = torch.ones_like(positions), None
        if prefix is not None:
            cache = DynamicCache()
            for layer, pair in enumerate(prefix):
                cache.update(*(spread(x[examples.to(x.device)], per_row=False) for x in pair), layer)
            valid = torch.cat([spread(rows.prefix_valid, per_row=False).to(valid), valid], 1)
        logits = self.lm.model(input_ids=spread(rows.ids), attention_mask=valid, position_ids=positions,
                               past_key_values=cache, use_cache=cache is not None).logits
        recorded = {site: tuple(x.unflatten(0, (b, k)) for x in value) if isinstance(value, tuple)
                    else value.unflatten(0, (b, k)) for site, value in self.record.items()}
        self.mixture = self.record = self.noise = self.reads = None
        return (logits if reads is None else logits[0]), recorded


def _at(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """values (rows, C, width) at positions (rows, T), zero beyond C -> (rows, T, width)."""
    inside = positions < values.shape[1]
    index = positions.clamp(max=values.shape[1] - 1).unsqueeze(-1).expand(*positions.shape, values.shape[-1])
    return values.gather(1, index) * inside.unsqueeze(-1)
