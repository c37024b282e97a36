"""Wrong answers to the exercises of notebook 01, and what the check must say of each."""

from dataclasses import replace

import torch

import mctrace_nb as mct


def by_hook(lm, base, counterfactual, layer, head, heads=1, tokens=slice(None), leave=False, dumb=False, swap=False):
    reads, kept = lm.model.transformer.h[layer].attn.c_proj, {}
    where = slice(head * lm.head_width, (head + 1) * lm.head_width) if heads == 1 else slice(None)

    def keep(module, args):
        kept["said"] = args[0][..., where].clone()

    def put(module, args):
        changed = args[0].clone()
        changed[:, tokens, where] = kept["said"][:, tokens]
        return None if dumb else (changed,)

    for hook, ids in zip((keep, put), (base, counterfactual) if swap else (counterfactual, base)):
        handle = reads.register_forward_pre_hook(hook)
        logits = lm.model(torch.tensor([ids])).logits[0, -1].detach()
        if not leave:
            handle.remove()
    return logits


def wrong_answers():
    def hook(**how):
        return lambda *args: by_hook(*args, **how)

    yield 1, hook(leave=True), "left on the model"
    yield 1, hook(dumb=True), "only if it returns the changed arguments"
    yield 1, hook(heads=0), "every head of layer"
    yield 1, hook(tokens=slice(-1, None)), "at the last token alone"
    yield 1, hook(swap=True), "take its values from the counterfactual prompt"
    yield 1, lambda lm, base, counterfactual, layer, head: by_hook(lm, base, counterfactual, layer, (head + 1) % 4), "reads from"
    yield 1, lambda *args: 0.0, "return the logits"

    def effect(lm, task, kind, value):
        trace = mct.Trace(lm, task, kind)
        return trace.effects(torch.full((len(trace.components),), value)).abs().max().item()

    yield 2, lambda lm, task, kind: 0.0, "pair of numbers"
    yield 2, lambda lm, task, kind: (0.0, 0.0), "do not take them for granted"
    def reduced(reduce):
        def function(lm, task, kind):
            trace = mct.Trace(lm, task, kind)
            same = replace(task, search=tuple(replace(e, counterfactual=e.base) for e in task.search), heldout=())
            n = len(trace.components)
            return tuple(float(reduce(t.effects(torch.full((n,), v)))) for t, v in ((trace, 0.0), (mct.Trace(lm, same, kind), 1.0)))
        return function

    yield 2, reduced(lambda effects: effects.mean().abs()), "the largest size over all prompts"
    yield 2, reduced(lambda effects: effects[0].abs()), "not one prompt"
    yield 2, lambda lm, task, kind: (effect(lm, task, kind, 0.0), effect(lm, task, kind, 1.0)), "counterfactual=e.base"
    yield 2, lambda lm, task, kind: (effect(lm, task, kind, 1.0), 0.0), "a mask of zeros keeps every component"

    units = {"head_output": "num_attention_heads", "mlp_output": "hidden_size"}

    def count(config, kind):
        neurons = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        one = {"attn_block": 1, "mlp_neuron": neurons}.get(kind) or getattr(config, units[kind])
        return config.num_hidden_layers * one

    yield 3, lambda config, kind: count(config, kind) // config.num_hidden_layers, "that is one layer"
    yield 3, lambda config, kind: (config.num_hidden_layers * getattr(config, "num_key_value_heads", 12) if kind == "head_output"
                                   else count(config, kind)), "every query head"
    yield 3, lambda config, kind: (config.num_hidden_layers * config.num_attention_heads * getattr(config, "head_dim", 64)
                                   if kind == "mlp_output" else count(config, kind)), "not the width of the residual stream"
    yield 3, lambda config, kind: (config.num_hidden_layers * 4 * config.hidden_size if kind == "mlp_neuron"
                                   else count(config, kind)), "multiply"
