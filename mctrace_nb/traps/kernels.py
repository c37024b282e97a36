"""Traps of models and kernels: the model that runs is not in the state, or does not have the precision, that one thinks."""

from __future__ import annotations

from dataclasses import replace

import torch

import mctrace_nb as mct
from mctrace_nb.mixing import Mix
from mctrace_nb.observing import observe
from mctrace_nb.traps.byhand import log_odds, patterns_overwritten


def sdpa_wrong(lm, task, trace):
    ids = torch.tensor([task.search[0].base])
    patterns = lm.model(ids, output_attentions=True).attentions
    return float(sum(pattern[0, 0, -1].sum() for pattern in patterns))  # what the last token pays to all, head 0


def sdpa_right(lm, task, trace):
    sites = [("pattern", layer) for layer in range(len(lm.layers))]
    seen = observe(lm, [task.search[0].base], sites)
    return float(sum(pattern[-1, 0].sum() for pattern in seen.activity.values()))


def hook_wrong(lm, task, trace):
    e = task.search[0]
    before = lm.model(torch.tensor([e.base])).logits[:, -1]
    after = patterns_overwritten(lm, e.base, e.counterfactual)[None]
    return (log_odds(after, [e]) - log_odds(before, [e])).abs().item()


def hook_right(lm, task, trace):
    patterns = trace.again(components="head_pattern")
    return patterns.effects(torch.ones(len(patterns.components)))[0].item()


def train_wrong(lm, task, trace):
    e = task.search[0]
    lm.model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits = lm.model(torch.tensor([e.base] * 17)).logits[:, -1]  # a base prompt, and 16 times the same as counterfactual
    lm.model.eval()
    before, *after = log_odds(logits, [e] * 17)
    return max(abs(one - before) for one in after).item()


def train_right(lm, task, trace):
    same = mct.Task("same", tuple(replace(e, counterfactual=e.base) for e in task.search))
    lm.model.train()
    effects = trace.again(task=same).effects(torch.ones(len(trace.components)))
    lm.model.eval()
    return effects.abs().max().item()


def bf16_wrong(lm, task, trace):
    given = torch.full((4096,), 1 / 256, dtype=torch.bfloat16)  # what each of 4,096 tokens adds to one gradient
    total = torch.zeros((), dtype=torch.bfloat16)
    for one in given:
        total = total + one
    return total.item()


def bf16_right(lm, task, trace):
    mask = torch.zeros(1, 1, 1, 1, requires_grad=True)
    own, other = torch.zeros(1, 4096, 1, 1, dtype=torch.bfloat16), torch.full((1, 4096, 1, 1), 1 / 256, dtype=torch.bfloat16)
    Mix.apply(own, other, mask, None).float().sum().backward()
    return mask.grad.item()
