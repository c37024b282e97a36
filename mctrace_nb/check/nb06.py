"""Exercises of notebook 06: the loss of the relaxed search, a penalty for a wanted size, a stuck run repaired."""

from __future__ import annotations

from functools import partial

import torch

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, number, tutorial_trace

SIZE, SHARE = 5, 0.9


def loss(effects, mask, t, lambda1, lambda2):
    """What the published method minimises in epoch `t`, counted from 0, with penalties that grow as `t + 1`.

    effects: `(n,)` of the soft mask on each prompt, in nats. mask: `(N,)`. Returns one number.
    """
    ### BEGIN SOLUTION
    fit = torch.exp(-effects).mean()  # 1/(1 + rho), prompt by prompt
    sparsity = lambda1 * (t + 1) * mask.sum()
    binary = lambda2 * (t + 1) * (mask * (1 - mask)).sum()
    return fit + sparsity + binary
    ### END SOLUTION


def price_of_five(trace):
    """A `lambda1` with which `mct.pgb(trace, transform="log", lambda1=...)` keeps exactly 5 components.

    All other settings as they are. `lambda1` may be a list: all of it is then optimised at once.
    """
    ### BEGIN SOLUTION
    prices = [0.001 * 1.5 ** i for i in range(12)]  # 0.001 to 0.09
    found = mct.pgb(trace, transform="log", lambda1=prices, progress=False)
    return next(price for price, selection in zip(prices, found) if selection.size == 5)
    ### END SOLUTION


def repair(trace):
    """Settings of `mct.pgb`, as a dict, with which a run that kept nothing keeps a good set.

    Good: at least one component, at most half of them, and at least 90 % of the effect of the best set of that size.
    """
    ### BEGIN SOLUTION
    return dict(transform="log", lambda1=0.05, lambda2=0.05)
    ### END SOLUTION


SOLUTIONS = (loss, price_of_five, repair)


_trace = partial(tutorial_trace, n=32, seed=3)


@graded
def exercise_1(function) -> str:
    """Compared with the loss that `pgb` reports, epoch by epoch; each epoch is one step on all prompts."""
    trace = _trace("professions")
    for lambda1, lambda2 in ((0.0, 0.0), (0.03, 0.0), (0.0, 0.2), (0.02, 0.05)):
        run = mct.pgb(trace, epochs=4, lambda1=lambda1, lambda2=lambda2, init=0.6, progress=False)
        for t, row in enumerate(run.history):
            mask = torch.as_tensor(run.trajectory[t])
            effects = trace.effects(mask)
            found, real = function(effects, mask, t, lambda1, lambda2), row["loss"]
            found, fit = number(found), float(torch.exp(-effects).mean())
            grown = lambda1 * mask.sum() + lambda2 * (mask * (1 - mask)).sum()

            def near(value):
                return abs(found - float(value)) < 1e-4 * max(1, abs(float(value)))

            said = f"in epoch t = {t} with lambda1 = {lambda1}, lambda2 = {lambda2} the loss is {real:.4f}, yours {found:.4f}; "
            if not lambda1 and not lambda2:
                expect(near(real) or not near(torch.exp(-effects.mean())), said + "you transformed the mean; take 1/(1 + rho) of each prompt first")
                expect(near(real), said + "without penalties it is the mean of 1/(1 + rho) = exp(-effect)")
            expect(near(real) or t or not near(fit), said + "epochs are counted from 0 and the penalties grow as t + 1, so they count from the "
                                                            "first epoch on")
            expect(near(real) or not near(fit + grown), said + "the penalties grow from epoch to epoch, by t + 1")
            expect(near(real) or not near(fit + (t + 1) * grown / len(mask)), said + "the published penalties are sums over the components, not means")
            expect(near(real) or lambda1, said + "the binary penalty is lambda2 times the sum of m (1 - m): 0 at 0 and 1, largest at one half")
            expect(near(real), said + "the sparsity penalty is lambda1 times the sum of the mask")
    return "your loss is the one that pgb reports, in every epoch."


@graded
def exercise_2(function) -> str:
    """Tried on two tasks."""
    for task, seed in (("professions", 3), ("facts", 0)):
        trace = _trace(task, seed=seed)
        price = number(function(trace), "one number, the lambda1")
        expect(price >= 0, f"lambda1 = {price} would reward what it should charge for; give a number above 0")
        size = mct.pgb(trace, transform="log", lambda1=price, progress=False).size
        way = "a component must cost more: raise lambda1" if size > SIZE else "a component must cost less: lower lambda1"
        expect(size == SIZE, f"on {task} lambda1 = {price:.4g} keeps {size}; {way}, and look for it on each trace anew")
    return "five are kept on each of two tasks, each at a price of its own."


@graded
def exercise_3(function) -> str:
    """Tried on two tasks on which the published settings keep nothing."""
    for task in ("binding", "names"):
        trace = _trace(task)
        settings = function(trace)
        expect(isinstance(settings, dict), f"return a dict of settings such as dict(lr=0.05), not {settings!r}")
        lists = [name for name, value in settings.items() if isinstance(value, (list, tuple))]
        expect(not lists, f"give one value of {', '.join(lists)}, not several; the run that you mean is one run")
        found = mct.pgb(trace, **{**settings, "progress": False})
        soft = found.history[-1]["relaxed_effect"]
        expect(found.size, f"on {task} nothing is kept yet, though the soft mask had {soft:.1f} nats; the slope of the fit is gone where the mask "
                           "starts, so look for a transform that keeps one")
        expect(found.size <= len(trace.components) // 2, f"on {task} {found.size} of {len(trace.components)} are kept; without a price whatever does no "
                                                         "harm stays, so let lambda1 be above 0")
        best = mct.search(trace, "exhaustive", [found.size], heldout=False, progress=False)[found.size]
        expect(found.effect >= SHARE * best.effect, f"on {task} {', '.join(found.components)} have {found.effect:.1f} nats, and the best {found.size} have "
                                                    f"{best.effect:.1f}; that is {found.effect / best.effect:.0%}, not yet {SHARE:.0%}")
    return "on both tasks the repaired run keeps a small set with at least 90 % of the best of its size."
