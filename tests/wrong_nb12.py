"""Wrong answers to the exercises of notebook 12, and what the check must say of each."""

import torch

from mctrace_nb.check.nb12 import _batched, _one_by_one


def wrong_answers():
    yield 1, lambda mask: [i for i, m in enumerate(mask) if m >= 0.5], "never moved"
    yield 1, lambda mask: [i for i, m in enumerate(mask) if m > 0], "never moved"
    yield 1, lambda mask: [i for i, m in enumerate(mask) if m > 0.9], "not for much more"
    yield 1, lambda mask: torch.as_tensor(mask) > 0.5, "not a mask of true and false"
    yield 1, lambda mask: 3, "return a list of numbers"
    yield 1, lambda mask: [i for i, m in enumerate(mask) if m > 0.5][::-1], "above one half are"
    yield 2, lambda *given: _batched(*given, side="right"), "read each prompt at its own last word"
    yield 2, lambda *given: _batched(*given, side="left", hide=True), "shift the learned positions"
    yield 2, lambda *given: _batched(*given, side="left"), "read like words"
    yield 2, lambda *given: -_one_by_one(*given), "the sign is turned"
    yield 2, lambda *given: _one_by_one(*given).mean(), "of each of the"
    yield 2, lambda *given: _one_by_one(*given).flip(0), "what each prompt gives alone"
    yield 3, lambda before, after: (after / before).mean() - 1, "a mean of ratios belongs to the largest"
    yield 3, lambda before, after: (after / before).mean().log(), "the mean of the logarithms"
    yield 3, lambda before, after: (after.mean() / before.mean()).log(), "compare each prompt with itself"
    yield 3, lambda before, after: (after - before).mean(), "in no unit of its own"
    yield 3, lambda before, after: (before / after).log().mean(), "after against before"
    yield 3, lambda before, after: (after / before).log().sum(), "mean over prompts"
    yield 3, lambda before, after: (after / before).log(), "return one number"
