"""The mixture forward pass written as slowly and plainly as it can be: one prompt, one answer, one mask at a time, every token
run anew, attention patterns materialised. Nothing of the kit is used but the places of a model's layers."""

import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

RUN = None


def _attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * (scores / softcap).tanh() if softcap else scores
    pattern = (scores + attention_mask[..., :key.shape[2]]).softmax(-1)  # (1, heads, T, T)
    pattern = RUN.at(("head_pattern", module.layer_idx), pattern.transpose(1, 2)).transpose(1, 2)
    out = (pattern @ value).transpose(1, 2)
    return RUN.at(("head_output", module.layer_idx), out).contiguous(), pattern


AttentionInterface.register("mctrace_slow", _attention)
AttentionMaskInterface.register("mctrace_slow", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


class Run:
    """One pass over one prompt. values: (kind, layer) -> what is put in, (T', ...), with weights and positions; or recording."""

    def __init__(self, lm, weights=None, values=None, span=(0, 0), noise=None):
        self.lm, self.weights, self.values, self.span, self.noise = lm, weights, values, span, noise
        self.said = {}

    def at(self, site, x):
        """x: (1, T, units, ...)"""
        self.said[site] = x.detach()[0]
        if self.weights is None or site not in self.weights:
            return x
        low, high = self.span
        mixed, weight = x.clone(), self.weights[site]
        for position in range(low, high):
            for unit in range(len(weight)):
                here = x[0, position, unit]
                other = torch.zeros_like(here)
                if self.values is not None:
                    value = self.values[site][position, unit]
                    other = other.clone()
                    if value.ndim:
                        other[:len(value)] = value  # a pattern of the prompt alone is shorter
                    else:
                        other = value
                mixed[0, position, unit] = (1 - weight[unit]) * here + weight[unit] * other
        return mixed

    def logits(self, ids):
        global RUN
        RUN, lm = self, self.lm
        before, handles = lm.model.config._attn_implementation, []

        def whole(site):  # a block is one unit
            def hook(_, __, out):
                x = out[0] if isinstance(out, tuple) else out
                shape = x.shape
                mixed = self.at(site, x.reshape(1, -1, 1, shape[-1])).reshape(shape)
                return (mixed, *out[1:]) if isinstance(out, tuple) else mixed
            return hook

        def each(site):
            def hook(_, __, out):
                return self.at(site, out.reshape(1, -1, out.shape[-1])).reshape(out.shape)
            return hook

        def neurons(site):
            return lambda _, args: (self.at(site, args[0].reshape(1, -1, args[0].shape[-1])).reshape(args[0].shape),)

        for i, layer in enumerate(lm.layers):
            handles.append(layer.attention.register_forward_hook(whole(("attn_block", i))))
            handles.append(layer.mlp.register_forward_hook(each(("mlp_output", i))))
            handles.append(layer.mlp.register_forward_hook(whole(("mlp_block", i))))
            handles.append(layer.block.register_forward_hook(whole(("residual", i))))
            if layer.down is not None:
                handles.append(layer.down.register_forward_pre_hook(neurons(("mlp_neuron", i))))
        if self.noise is not None:
            add = torch.nn.functional.pad(self.noise, (0, 0, 0, len(ids)))[:len(ids)]
            handles.append(lm.model.get_input_embeddings().register_forward_hook(lambda _, __, out: out + add))
        lm.model.set_attn_implementation("mctrace_slow")
        try:
            return lm.model(torch.tensor([ids])).logits[0]
        finally:
            lm.model.set_attn_implementation(before)
            for handle in handles:
                handle.remove()


def slow_effects(trace, mask, noise=None):
    """(n,) log odds under one mask less those without, for corruption "counterfactual", "noise" or "zero"."""
    lm, found = trace.model, []
    weights = {key: mask[where] for key, where in trace.components.slices.items()}
    for i, e in enumerate(trace.examples):
        span = {"all": (0, len(e.base)), "last": (len(e.base) - 1, len(e.base)), "subject": e.subject}[trace.positions]
        values = None
        if trace.corruption != "zero":
            source = Run(lm, noise=None if noise is None else noise[i])
            source.logits(e.counterfactual if trace.corruption == "counterfactual" else e.base)
            values = source.said
        odds = []
        for intervened in (True, False):
            scores = []
            for answer in (e.target, e.foil):
                run = Run(lm, weights if intervened else None, values, span)
                logp = run.logits((*e.base, *answer)).log_softmax(-1)
                scores.append(sum(logp[len(e.base) - 1 + j, t] for j, t in enumerate(answer)) / len(answer))
            odds.append(scores[0] - scores[1])
        found.append(odds[0] - odds[1])
    return torch.stack(found)
