"""The one door into a forward pass: record what components say, and mix in what they said elsewhere.

Heads go through transformers' registry of attention functions, so one function serves every family that uses it; MLPs
and blocks go through ordinary module hooks. `Session` is a context manager: inside it the model is in eval mode with
frozen weights, afterwards it is bit for bit what it was before, also after an error or an interrupt.

Mixing is `h = (1 - m) f(g) + m h'` (Yan et al. 2026, the mixture forward pass). For `head_pattern` the same is done to
attention patterns without ever making one: a mixture of patterns applied to the values v is the mixture of
`attention(q, k, v)` and `attention(q', k', v)`, with q', k' cached from the other run.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import nullcontext
from contextvars import ContextVar

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.mixing import Mixture
from mctrace_nb.packing import Packed, Whole
from mctrace_nb.rows import Batch, Rows, prefixes
from mctrace_nb.skipping import note_output, only

KERNELS = ("sdpa", "eager")
_ACTIVE: "weakref.WeakKeyDictionary[nn.Module, tuple[Session, int]]" = weakref.WeakKeyDictionary()
_BUSY: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_RUNNING: ContextVar[Packed | None] = ContextVar("running", default=None)


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
        lies = _RUNNING.get() or Whole(len(query))
        session.passed[layer] = session.passed.get(layer, 0) + 1
        session.keep("head_pattern", layer, tuple(x[0].transpose(0, 1) for x in (query, key)))  # (m, heads, head width)
        session.keep("value", layer, value.transpose(1, 2))
        query, key, value = map(lies.split, (query, key, value))
        session.keep("keys", layer, (key, value))
        keys, values = session.before[layer]
        whole = lies.after(values, value)

        def attend(query, key, keys, values=whole):
            return lies.join(inner(module, query, lies.after(keys, key), values, attention_mask, **kwargs)[0])

        def patterned(query_, key_, keys):  # the same values, attended to by the other run's queries and keys
            return attend(*(lies.heads(x.to(query.device, query.dtype)) for x in (query_, key_)), keys)

        if session.wants("pattern", layer):  # attention over values that say only where they stand is the pattern itself
            places = lies.split(session.places[None, None].expand(1, value.shape[1], -1, -1).to(value))
            session.keep("pattern", layer, attend(query, key, None, places))
        return session.at_attention(layer, attend(query, key, keys), patterned), None

    return attention


def _who_sees_whom(kernel: str):
    def mask(**asked):
        packed = _RUNNING.get()
        return packed.mask(kernel, **asked) if packed else ALL_MASK_ATTENTION_FUNCTIONS[kernel](**asked)

    return mask


for _kernel in KERNELS:
    AttentionInterface.register(f"mctrace_{_kernel}", _through_the_door(_kernel))
    # Without a mask function of the same name, prefixes, answers side by side and sliding windows are silently ignored.
    AttentionMaskInterface.register(f"mctrace_{_kernel}", _who_sees_whom(_kernel))


class Session:
    """Opens a model for recording and mixing; `with Session(lm) as session: session.run(...)`.

    autocast: the dtype (torch.bfloat16, torch.float16) in which matrix products are taken, None for the model's own.
    Raises InputError if the model is open already (nested or concurrent use of one model).
    """

    def __init__(self, lm: LanguageModel, autocast: torch.dtype | None = None):
        self.lm, self.autocast = lm, autocast
        self._clear()

    def _clear(self) -> None:
        self.mixture = self.record = self.noise = self.reads = self.words = self.places = self._read = None
        self.before = [(None, None)] * len(self.lm.layers)  # keys and values of the prefix, a pair a layer
        self.passed: dict[int, int] = {}  # how often each layer came through the door

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
            self._handles.append(model.get_output_embeddings().register_forward_hook(self._two_words))
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

    def wants(self, kind: str, layer: int) -> bool:
        return self.record is not None and (kind, layer) in self.record

    def keep(self, kind: str, layer: int, said) -> None:
        """Records what is said at one place, if it is asked for."""
        if self.wants(kind, layer):
            self.record[kind, layer] = tuple(x.detach() for x in said) if isinstance(said, tuple) else said[0].detach()

    def _site(self, x: torch.Tensor, layer: int, *kinds: str) -> torch.Tensor:
        """Mixes the kinds that live at one place, from the inside out, or records it. x: (1, tokens, ...)."""
        shape = x.shape
        x = x.reshape(1, -1, *shape[2:]) if x.ndim > 2 else x[None]  # OPT's MLP works on (tokens, width)
        for kind in kinds:
            if self.mixture is not None and (kind, layer) in self.mixture.weights:
                value = self.mixture.values[kind, layer]
                x = self.mixture.mix((kind, layer), x, None if value is None else value[None])
            self.keep(kind, layer, x)
        return x.reshape(shape)

    def _hook(self, module: nn.Module, layer: int, *kinds: str) -> None:
        def hook(module, __, output):
            if kinds == ("residual",):
                note_output(module, output)
            if isinstance(output, tuple):
                return (self._site(output[0], layer, *kinds), *output[1:])
            return self._site(output, layer, *kinds)

        self._handles.append(module.register_forward_hook(hook))

    def _neurons(self, layer: int):
        return lambda _, args: (self._site(args[0], layer, "mlp_neuron"), *args[1:])

    def at_attention(self, layer: int, out: torch.Tensor, patterned) -> torch.Tensor:
        """Called by the attention function with the head outputs, (1, m, heads, head width), or the model's own rows."""
        site, mixture = ("head_pattern", layer), self.mixture
        if mixture is not None and site in mixture.weights:
            value, shape = mixture.values[site], out.shape
            out = out.reshape(1, -1, *shape[2:])
            if value is not None:  # None: the pattern is replaced by zeros, which is a head output of zeros
                value = patterned(*value, mixture.prefix and mixture.prefix[layer]).reshape(mixture.copies, -1, *shape[2:])
            out = mixture.mix(site, out, value).reshape(shape)
        return self._site(out, layer, "head_output")

    def _keep_reads(self, _, args):
        if self.reads is None:
            return None
        read = args[0][:, self.reads.to(args[0].device)]
        if self.words is not None:
            self._read, read = read, read[:, :0]
        return (read, *args[1:])

    def _two_words(self, head, _, output):
        """Logits of two words a read instead of the whole vocabulary; what a family does to its logits it does to these."""
        if self.words is None:
            return None
        words, precise = self.words.to(head.weight.device), torch.promote_types(output.dtype, torch.float32)
        logits = (self._read[0][:, None].to(precise) * head.weight[words].to(precise)).sum(-1)
        return (logits if head.bias is None else logits + head.bias[words])[None]

    @property
    def can_pick(self) -> bool:
        """Whether the logits of single words can be computed: the last projection is a plain one, and here."""
        head = self.lm.model.get_output_embeddings()
        return type(head) is nn.Linear and not head.weight.is_meta

    def _add_noise(self, _, __, output):
        self.keep("embed", 0, output)
        return None if self.noise is None else output + self.noise.to(output)

    # --- running ---

    def run(self, batch: Batch, copies: int = 1, prefix: list | None = None, noise: torch.Tensor | None = None,
            mixture: Mixture | None = None, record: list | None = None, reads: torch.Tensor | None = None,
            words: torch.Tensor | None = None, layers: tuple[int, int] | None = None, stream: torch.Tensor | None = None) -> tuple[torch.Tensor, dict]:
        """One forward pass of `copies` copies of a batch, m tokens each.

        prefix: keys and values of all examples, `(n, heads, longest, head width)`, a pair a layer. noise: `(n, longest prompt,
        width)` on the embeddings, by absolute position. record: the (kind, layer) sites to record. reads: numbers of the
        tokens whose logits are wanted, counted over all copies; None for all. words: `(reads, 2)` the only words whose
        logits are wanted.
        layers: first and last + 1 of the layers to run, from the residual `stream` `(1, copies m, width)` that enters the first
        of them; by default all.
        Returns logits `(reads, V or 2)` - or, where layers above are left out, the stream that would enter them - and the
        recorded values `(copies m, ...)`.
        """
        first, last = layers or (0, len(self.lm.layers))
        self.mixture, self.reads, self.words, self.record = mixture, reads, words, dict.fromkeys(record or ())
        self.before = prefix or self.before
        self.noise = None if noise is None else _at(noise, batch.examples[batch.row], batch.positions).repeat(copies, 1)
        ids, positions = batch.ids.repeat(copies)[None], batch.positions.repeat(copies)[None]
        if any(kind == "pattern" for kind, _ in self.record):
            self.places = torch.nn.functional.one_hot(positions[0])  # (m, longest)
        running = _RUNNING.set(Packed(batch, copies))
        try:
            with only(self.lm, first, last, stream) as above, self._precision():
                # A mask of ones, so that no family looks for several prompts in one row by itself.
                logits = self.lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False).logits
            if self.passed != dict.fromkeys(range(first, last), 1):
                raise InputError(f"{type(self.lm.model).__name__} does not call attention once in every layer (calls a layer: {self.passed}), so "
                                 "its heads cannot be told apart; choose another model family")
            return (logits[0] if above is None else above.got), self.record
        finally:
            _RUNNING.reset(running)
            self._clear()

    def _precision(self):
        return torch.autocast(self.lm.device.type, self.autocast) if self.autocast else nullcontext()

    def prefixes(self, rows: Rows, noise: torch.Tensor | None, batch_rows: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Keys and values of the prefixes, a pair `(n, heads, longest, head width)` a layer; None if there is no prefix."""
        if not any(rows.prefix):
            return None
        before, which = prefixes(rows)
        longest, sites, kept = max(map(len, rows.prefix)), [("keys", i) for i in range(len(self.lm.layers))], {}
        noise = None if noise is None else noise[torch.as_tensor(which)]
        for start in range(0, len(which), batch_rows):
            part = which[start:start + batch_rows]
            numbers = range(start, start + len(part))
            batch = before.batch(np.array(numbers))
            _, recorded = self.run(batch, noise=noise, record=sites, reads=batch.reads[:0])
            for site, pair in recorded.items():
                if site not in kept:
                    kept[site] = tuple(x.new_zeros(len(rows), x.shape[1], longest, x.shape[3]) for x in pair)
                for whole, x in zip(kept[site], pair):
                    x = x.unflatten(2, (batch.side_by_side, -1)).transpose(1, 2).flatten(0, 1)  # (B, heads, T, head width)
                    whole[torch.as_tensor(part), :, :batch.width] = x
        return [kept[site] for site in sites]


def _at(values: torch.Tensor, example: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """values (n, C, width) of tokens (m,) by example and position, zero beyond C -> (m, width)."""
    inside = positions < values.shape[1]
    return values[example, positions.clamp(max=values.shape[1] - 1)] * inside[:, None]
