"""Traps of masks and optimisation: the descent does something else than one reads in its formula."""

from __future__ import annotations

import torch

import mctrace_nb as mct


def pole_wrong(lm, task, trace):
    lead = trace.again(metric="logit_diff")
    effects = -lead.effects(torch.eye(len(lead.components)))  # on the lead of the base prompt's own answer, each head alone
    loss = (1 / (1 + effects)).mean(-1)
    return effects[loss.argmin()].mean().item()


def pole_right(lm, task, trace):
    lead = trace.again(metric="logit_diff")
    best = mct.search(lead, "exhaustive", [1], direction="min", heldout=False, progress=False)[1]
    return -best.effect


def lr_wrong(lm, task, trace):
    mask = torch.full((len(trace.components),), 0.5, requires_grad=True)
    adam = torch.optim.Adam([mask], lr=0.5)
    (torch.exp(-trace.effects(mask)).mean() + 0.05 * mask.sum()).backward()
    adam.step()
    return int(((mask > 0.01) & (mask < 0.99)).sum())


def lr_right(lm, task, trace):
    run = mct.pgb(trace, epochs=1, batch_size=len(trace), progress=False)
    mask = run.trajectory[-1]
    return int(((mask > 0.01) & (mask < 0.99)).sum())


def half_wrong(lm, task, trace):
    subject = trace.again(positions="subject")
    run = mct.pgb(subject, transform="log", lambda1=0.0, lambda2=0.05, progress=False)
    return int((run.trajectory[-1] >= 0.5).sum())


def half_right(lm, task, trace):
    subject = trace.again(positions="subject")
    run = mct.pgb(subject, transform="log", lambda1=0.0, lambda2=0.05, progress=False)
    return run.size


def gradients_wrong(lm, task, trace):
    mask, ids = torch.full((lm.width,), 0.5, requires_grad=True), torch.tensor([task.search[0].base])
    handle = lm.layers[0].mlp.register_forward_hook(lambda _, __, output: output * mask)
    lm.model(ids).logits[0, -1].max().backward()
    handle.remove()
    held = sum(p.grad.numel() for p in lm.model.parameters() if p.grad is not None)
    lm.model.zero_grad()
    return held


def gradients_right(lm, task, trace):
    mask = torch.full((len(trace.components),), 0.5, requires_grad=True)
    trace.effects(mask).mean().backward()
    return sum(p.grad.numel() for p in lm.model.parameters() if p.grad is not None)
