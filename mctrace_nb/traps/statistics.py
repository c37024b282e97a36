"""Traps of statistics: every single number is right, and the one that is reported is not."""

from __future__ import annotations

import torch

import mctrace_nb as mct
from mctrace_nb.traps.byhand import best_by_eye


def ratios_wrong(lm, task, trace):
    facts = trace.again(task=mct.load_task("facts", lm, 64, task.seed))
    effects = facts.effects(["L0H3"])
    return torch.expm1(effects).mean().item()


def ratios_right(lm, task, trace):
    facts = trace.again(task=mct.load_task("facts", lm, 64, task.seed))
    effects = facts.effects(["L0H3"])
    return torch.expm1(effects.mean()).item()


def heldout_wrong(lm, task, trace):
    few = mct.Trace(lm, mct.load_task("names", lm, 8, task.seed), "mlp_output")
    found = mct.search(few, "attribution", [8], progress=False)[8]
    return found.effect


def heldout_right(lm, task, trace):
    few = mct.Trace(lm, mct.load_task("names", lm, 8, task.seed), "mlp_output")
    found = mct.search(few, "attribution", [8], progress=False)[8]
    return found.effect_heldout


def epoch_wrong(lm, task, trace):
    draws = [mct.load_task("names", lm, 8, task.seed + i) for i in range(6)]
    effect, chosen = best_by_eye([mct.Trace(lm, draw, "mlp_output") for draw in draws])
    return effect


def epoch_right(lm, task, trace):
    draws = [mct.load_task("names", lm, 8, task.seed + i) for i in range(6)]
    effect, chosen = best_by_eye([mct.Trace(lm, draw, "mlp_output") for draw in draws])
    fresh = mct.Trace(lm, mct.load_task("names", lm, 64, task.seed + 100), "mlp_output")
    return fresh.effects(chosen).mean().item()
