"""Traps of words that mean several things: the number is right, of something else."""

from __future__ import annotations


def neuron_wrong(lm, task, trace):
    outputs = trace.again(components="mlp_output")  # coordinates of what the MLP adds to the residual stream
    return outputs.single_effects()["effect"].max()


def neuron_right(lm, task, trace):
    neurons = trace.again(components="mlp_neuron")  # hidden units, before the down projection
    return neurons.single_effects()["effect"].max()


def head_wrong(lm, task, trace):
    patterns = trace.again(components="head_pattern")
    return patterns.effects(["L0H3"]).mean().item()


def head_right(lm, task, trace):
    outputs = trace.again(components="head_output")
    return outputs.effects(["L0H3"]).mean().item()


def polarity_wrong(lm, task, trace):
    kept = 1 - trace.components.mask(["L0H2", "L0H3", "L1H2"])  # 0: these three are the circuit
    return trace.effects(kept).mean().item()


def polarity_right(lm, task, trace):
    replaced = trace.components.mask(["L0H2", "L0H3", "L1H2"])  # 1: these three are replaced
    return trace.effects(replaced).mean().item()
