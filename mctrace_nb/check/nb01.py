"""Exercises of notebook 01: replace a head by hand, prove that nothing replaced is nothing changed, count components."""

from __future__ import annotations

import torch

import mctrace_nb as mct
from mctrace_nb.check import ROUNDING, drifting, expect, graded, hooks, no_hook_left, pair, tutorial_trace


def with_head_replaced(lm, base, counterfactual, layer, head):
    """The logits `(V,)` after the base prompt while one head says what it says on the counterfactual prompt.

    base, counterfactual: token ids of equal length. The model is a GPT-2: the outputs of the heads of a layer
    lie one after the other, `lm.head_width` numbers each, in what `lm.model.transformer.h[layer].attn.c_proj`
    reads. Replace them at every token, and leave no hook behind.
    """
    ### BEGIN SOLUTION
    reads, kept = lm.model.transformer.h[layer].attn.c_proj, {}
    where = slice(head * lm.head_width, (head + 1) * lm.head_width)

    def keep(module, args):
        kept["said"] = args[0][..., where].clone()

    def put(module, args):
        changed = args[0].clone()
        changed[..., where] = kept["said"]
        return (changed,)

    for hook, ids in ((keep, counterfactual), (put, base)):
        with reads.register_forward_pre_hook(hook), torch.no_grad():  # removed where the block ends
            logits = lm.model(torch.tensor([ids])).logits[0, -1]
    return logits
    ### END SOLUTION


def identities(lm, task, kind):
    """Two numbers that must be 0: the largest size of an effect, over all prompts of a task,

    first when nothing is replaced; then when all components of a kind are replaced, but the counterfactual
    prompt is the base prompt itself. `dataclasses.replace` copies a task or an example with something changed;
    a task's prompts are `task.search` and `task.heldout`, and the latter may be `()`.
    """
    ### BEGIN SOLUTION
    from dataclasses import replace

    trace = mct.Trace(lm, task, kind)
    same = replace(task, search=tuple(replace(e, counterfactual=e.base) for e in task.search), heldout=())
    n = len(trace.components)
    nothing, itself = trace.effects(torch.zeros(n)), mct.Trace(lm, same, kind).effects(torch.ones(n))
    return nothing.abs().max().item(), itself.abs().max().item()
    ### END SOLUTION


def count(config, kind):
    """How many components of a kind a model has, from its transformers configuration alone.

    kind: "head_output", "attn_block", "mlp_output" or "mlp_neuron". A configuration has `num_hidden_layers`,
    `num_attention_heads`, `hidden_size`, and where the family states it `intermediate_size`, the neurons of a
    layer; GPT-2 has `n_inner` instead, and None there stands for four times the width.
    """
    ### BEGIN SOLUTION
    neurons = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    units = {"head_output": config.num_attention_heads, "attn_block": 1, "mlp_output": config.hidden_size, "mlp_neuron": neurons}
    return config.num_hidden_layers * units[kind]
    ### END SOLUTION


SOLUTIONS = (with_head_replaced, identities, count)


@graded
def exercise_1(function) -> str:
    """Tried on heads and prompts that the lesson does not show, against a Trace."""
    trace = tutorial_trace("names", seed=5)
    lm, before = trace.model, hooks(trace.model)
    for prompt, layer, head in ((2, 1, 2), (5, 0, 2), (1, 2, 1)):
        e, label = trace.examples[prompt], f"L{layer}H{head}"
        try:
            found = function(lm, list(e.base), list(e.counterfactual), layer, head)
        finally:
            no_hook_left(lm, before, "the next run would still be changed; keep what register_forward_pre_hook returns and call its "
                                     "remove(), or use it in a with block")
        expect(isinstance(found, torch.Tensor) and found.shape[-1:] == (len(lm.tokenizer),) and found.ndim == 1,
               f"return the logits after the last token, shape ({len(lm.tokenizer)},)")
        target, foil = e.target[0], e.foil[0]
        odds, expected = found[target] - found[foil], trace.base_values[prompt] + trace.effects([label])[prompt]
        said = f"with {label} replaced the log odds are {float(expected):.3f}, yours are {float(odds):.3f}: "
        expect(abs(odds - trace.base_values[prompt]) > 1e-4, said + "that is the base prompt as it is; a pre-hook changes what the module "
                                                                     "reads only if it returns the changed arguments, as a tuple")
        all_heads = trace.base_values[prompt] + trace.effects([f"L{layer}H{h}" for h in range(lm.heads)])[prompt]
        expect(abs(odds - all_heads) > 1e-3, said + f"that is every head of layer {layer}; one head is {lm.head_width} of the numbers")
        last = trace.base_values[prompt] + trace.again(positions="last").effects([label])[prompt]
        expect(abs(odds - last) > 1e-4 or abs(last - expected) < 1e-3,
               said + "that is the head at the last token alone; replace it at every token, other heads read the earlier ones")
        expect(abs(odds - expected) < 1e-3,
               said + f"head {head} reads from {head * lm.head_width} up to {(head + 1) * lm.head_width}; take its values from the "
                      "counterfactual prompt and put them into the base prompt")
    return "three heads on three prompts agree with the trace, and no hook is left."


def _changing(lm, task):
    """Makes a model another one once as many passes have run as a trace is made with; returns what makes it the first one again."""
    calls: list = []
    lm.model.get_input_embeddings().register_forward_hook(lambda module, args, output: calls.append(None))
    for _ in range(2):  # the first of a model also tries the model
        calls.clear()
        mct.Trace(lm, task, "attn_block")
    made_with = len(calls)
    lm.model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * (1.3 if len(calls) > made_with else 1.0))
    return calls.clear


@graded
def exercise_2(function) -> str:
    """Tried on a sound model with two kinds, and on one that says something else at every call."""
    lm = mct.load_model("tutorial", device="cpu")
    task = mct.load_task("facts", lm, n=16, seed=2)
    for kind in ("head_output", "mlp_output"):
        found = function(lm, task, kind)
        nothing, itself = map(float, pair(found, "a pair of numbers"))
        expect(nothing < ROUNDING,
               f"where nothing is replaced the effect is 0 exactly, yours is {nothing:.3g}; a mask of zeros keeps every component")
        expect(itself < 1e-4,
               f"where the counterfactual prompt is the base prompt the effect is 0, yours is {itself:.3g}; build another task in which "
               "each example has counterfactual=e.base, and trace that one")
    unsound = drifting(mct.random_model("gpt2", layers=3, seed=1))
    found = function(unsound, mct.load_task("professions", unsound, n=16), "attn_block")
    expect(min(map(float, found)) > 1e-5,
           f"a model that says something else at every call passes neither test, yours gives {found!r}; measure both effects, do not "
           "take them for granted")
    changing = mct.random_model("gpt2", layers=2, seed=1)
    task = mct.load_task("professions", changing, n=16)
    start = _changing(changing, task)
    start()
    largest = max(identities(changing, task, "attn_block"))
    start()
    mine = max(map(float, function(changing, task, "attn_block")))
    expect(abs(mine - largest) < 1e-3 * largest,
           f"on a model that changes on the way the largest effect on any prompt is {largest:.3f}, yours is {mine:.3f}; take the largest size "
           "over all prompts, not the mean, in which effects cancel, and not one prompt")
    return "both effects are 0 on a sound model, and a model that drifts is found out."


@graded
def exercise_3(function) -> str:
    """Tried on GPT-2, and on models in which several heads share their keys and values."""
    for name in ("gpt2", "Qwen/Qwen3-0.6B-Base", "unsloth/Llama-3.2-1B"):
        config = mct.published_config(name)
        for kind in ("head_output", "attn_block", "mlp_output", "mlp_neuron"):
            found, expected = function(config, kind), count(config, kind)
            layers, said = config.num_hidden_layers, f"{name} has {expected:,} of kind {kind}, you count {found!r}; "
            expect(found != expected // layers or kind == "attn_block", said + f"that is one layer, there are {layers}")
            shared = getattr(config, "num_key_value_heads", None)
            expect(kind != "head_output" or found != layers * (shared or -1),
                   said + "that counts heads that keys are made for; every query head has an output of its own, and those are what is "
                          "replaced")
            wide = layers * config.num_attention_heads * (getattr(config, "head_dim", None) or 0)
            expect(kind != "mlp_output" or found != wide or wide == expected,
                   said + "heads times their width is not the width of the residual stream in this model; an MLP writes hidden_size "
                          "numbers")
            expect(found == expected, said + "multiply the units of one layer by the layers")
    return "GPT-2, Qwen3 and Llama are counted right, shared keys and all."
