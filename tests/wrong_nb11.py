"""Wrong answers to the exercises of notebook 11, and what the check must say of each."""

import torch

import mctrace_nb as mct


def wrong_answers():
    def trace(lm, task):
        return mct.Trace(lm, task, ("attn_block", "mlp_block"))

    def deviations(lm, task):
        t = trace(lm, task)
        return t.effects(torch.zeros(len(t.components))), t.effects(torch.ones(len(t.components))) - t.total_effects()

    yield 1, lambda lm, task: 0, "pair of numbers"
    yield 1, lambda lm, task: (0.0, 0.0), "no component is on"
    yield 1, lambda lm, task: (0.0, trace(lm, task).total_effects().abs().max().item()), "compare with the total effect"
    yield 1, lambda lm, task: tuple(abs(d.mean().item()) for d in deviations(lm, task)), "cancel"
    yield 1, lambda lm, task: (0.0, deviations(lm, task)[1].abs().max().item()), "do not take it for granted"
    yield 1, lambda lm: 0, "your function raised TypeError"
    yield 1, (0.0, 0.0), "give the function itself"
    yield 2, lambda config, limit: None, "return a dict"
    yield 2, lambda config, limit: dict(cache="device", batch_rows=16), "16 rows at once, but"
    yield 2, lambda config, limit: dict(cache="device", batch_rows=256), "smaller batches leave the cached"
    yield 2, lambda config, limit: dict(cache="recompute", batch_rows=16), "runs the other prompt again"
