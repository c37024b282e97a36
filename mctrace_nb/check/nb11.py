"""Exercises of notebook 11: the contract of a new family, and a run under a memory limit."""

from __future__ import annotations

import torch

import mctrace_nb as mct
from mctrace_nb.check import ROUNDING, drifting, expect, graded, pair
from mctrace_nb.contract import check_contract


def violations(lm, task):
    """How far a model is from two contracts: the largest deviation on any prompt, in nats, of each.

    With `attn_block` and `mlp_block` as components. First: replacing nothing has no effect. Second:
    replacing everything has the total effect, prompt by prompt. Returns a pair of numbers.
    """
    ### BEGIN SOLUTION
    trace = mct.Trace(lm, task, ("attn_block", "mlp_block"))
    n = len(trace.components)
    nothing, everything = trace.effects(torch.zeros(n)), trace.effects(torch.ones(n))
    return nothing.abs().max().item(), (everything - trace.total_effects()).abs().max().item()
    ### END SOLUTION


def fitting(config, limit):
    """The `cache` and `batch_rows` with which 512 prompts of 64 tokens fit into `limit` GiB.

    Weights included; kind "mlp_neuron", method "greedy". Keep values on the "device" if they fit
    there with 16 rows at once, else "recompute" them. Then as many rows at once as fit, of 16, 32,
    64, 128 and 256.
    """
    ### BEGIN SOLUTION
    for cache in ("device", "recompute"):
        for batch_rows in (256, 128, 64, 32, 16):
            cost = mct.estimate(config, components="mlp_neuron", n=512, tokens=64, cache=cache, batch_rows=batch_rows)
            if cost.memory.weights + cost.memory.run <= limit * 2 ** 30:
                return dict(cache=cache, batch_rows=batch_rows)
    ### END SOLUTION


SOLUTIONS = (violations, fitting)


def _leaking(lm):
    """A model in which a token hears of the one before it by another way than attention, as in token-shift and convolutions."""
    check_contract(lm)
    for layer in lm.layers:
        layer.block.register_forward_hook(lambda module, args, output: output + 0.5 * output.roll(1, 1))
    return lm


@graded
def exercise_1(function) -> str:
    """Tried on a sound model, on one where tokens hear of each other past attention, and on one that differs at every call."""
    sound, leaking, unsound = (mct.random_model("llama", layers=3, seed=1) for _ in range(3))
    task = mct.load_task("professions", sound, n=16, heldout=0)
    found = function(sound, task)
    nothing, everything = map(float, pair(found, "a pair of numbers"))
    expect(nothing < ROUNDING, f"on a sound model the first number is 0 exactly, yours is {nothing:.3g}; a mask of zeros replaces nothing")
    expect(abs(everything) < 1e-4, f"on a sound model the second number is near 0, yours is {everything:.3g}; compare with the total "
                                   "effect, which is not zero, and replace attention and MLP blocks together")
    expected, got = violations(_leaking(leaking), task)[1], float(function(leaking, task)[1])
    expect(got > 1e-6, f"where tokens hear of each other past attention the second number must be above 0, yours is {got:.3g}; a mask "
                       "of zeros tells nothing about ways that no component is on")
    expect(abs(got - expected) < 1e-5, f"where tokens hear of each other past attention the largest deviation is {expected:.4f}, yours "
                                       f"is {got:.4f}; a mean lets deviations of opposite sign cancel, take the largest in size")
    drifts = float(function(drifting(unsound), task)[0])
    expect(drifts > 1e-4, f"a model that says something else at every call breaks the first contract, yours gives {drifts:.3g}; measure "
                          "what a mask of zeros does, do not take it for granted")
    return "a sound model passes; a leak past attention and a model that drifts are found."


@graded
def exercise_2(function) -> str:
    """Tried on small and large limits: everything fits, smaller batches are needed, values must be recomputed."""
    config = mct.published_config("gpt2")
    for limit in (12, 6, 5, 1):
        found, expected = function(config, limit), fitting(config, limit)
        expect(isinstance(found, dict) and set(found) == {"cache", "batch_rows"},
               f"return a dict with cache and batch_rows, not {found!r}")
        needed = mct.estimate(config, components="mlp_neuron", n=512, tokens=64, **found).memory
        total = (needed.weights + needed.run) / 2 ** 30
        asked = f"for a limit of {limit} GiB you chose {found['cache']!r} with {found['batch_rows']} rows at once, "
        expect(total <= limit, asked + f"which needs {total:.2f}; weights and run count together, and smaller batches leave the cached "
                                       "values of all prompts where they are")
        expect(found["cache"] == expected["cache"], asked + "but the values fit on the device with fewer rows at once; recomputing "
                                                           "runs the other prompt again in every pass")
        expect(found["batch_rows"] == expected["batch_rows"], asked + f"but {expected['batch_rows']} fit as well; small batches mean "
                                                                      "more passes")
    return "each limit is kept, values stay on the device where they can, and batches are as large as fit."
