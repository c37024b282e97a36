"""Wrong answers to the exercises of notebook 06, and what the check must say of each."""

import torch

import mctrace_nb as mct
from mctrace_nb.check.nb06 import loss


def wrong_answers():
    def binary(mask):
        return (mask * (1 - mask)).sum()

    yield 1, lambda e, m, t, a, b: torch.exp(-e.mean()) + (t + 1) * (a * m.sum() + b * binary(m)), "you transformed the mean"
    yield 1, lambda e, m, t, a, b: torch.exp(-e).mean() + t * (a * m.sum() + b * binary(m)), "counted from 0"
    yield 1, lambda e, m, t, a, b: torch.exp(-e).mean() + a * m.sum() + b * binary(m), "grow from epoch to epoch"
    yield 1, lambda e, m, t, a, b: torch.exp(-e).mean() + (t + 1) * (a * m.mean() + b * (m * (1 - m)).mean()), "not means"
    yield 1, lambda e, m, t, a, b: torch.exp(-e).mean() + (t + 1) * (a * m.sum() + b * (m * m).sum()), "0 at 0 and 1, largest at one half"
    yield 1, lambda e, m, t, a, b: torch.exp(-e).mean() + (t + 1) * (a * (m > 0.5).sum() + b * binary(m)), "times the sum of the mask"
    yield 1, lambda e, m, t, a, b: -e.mean(), "without penalties it is the mean of 1/(1 + rho)"
    yield 1, lambda e, *more: torch.exp(-e), "return one number"
    yield 1, loss(torch.zeros(2), torch.zeros(2), 0, 0, 0), "give the function itself"
    yield 2, lambda trace: 0.05, "look for it on each trace anew"
    yield 2, lambda trace: 0.0001, "raise lambda1"
    yield 2, lambda trace: 5.0, "lower lambda1"
    yield 2, lambda trace: -0.1, "would reward"
    yield 2, lambda trace: mct.pgb(trace, transform="log", progress=False), "return one number, the lambda1"
    yield 3, lambda trace: {}, "nothing is kept yet"
    yield 3, lambda trace: dict(epochs=60), "nothing is kept yet"
    yield 3, lambda trace: dict(lambda1=0, lambda2=0), "without a price"
    yield 3, lambda trace: dict(lambda1=None, lambda2=None, schedule="path"), "nothing is kept yet"
    yield 3, lambda trace: dict(transform="log", lambda1=1.0), "nothing is kept yet"
    yield 3, lambda trace: "log", "return a dict"
    yield 3, lambda trace: dict(lambda1=[0.01, 0.02]), "give one value of lambda1"
