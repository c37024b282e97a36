"""Exercises of notebook 12: three functions with a bug each, to be written without it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from mctrace_nb.check import expect, graded, number, tutorial_trace

NEAR = 1e-4


def choose(mask):
    """The numbers of the components that a relaxed mask `(N,)`, started at one half, has chosen: a rising list.

    An entry that no step has moved is not chosen.
    """
    ### BEGIN SOLUTION
    return [i for i, value in enumerate(mask) if value > 0.5]
    ### END SOLUTION


def scores(lm, prompts, answers):
    """The log odds of target against foil after each prompt, `(n,)`, all prompts in one batch.

    prompts: lists of token ids, of unequal length. answers: a pair of token ids (target, foil) for
    each. The model is `lm.model`, and `lm.tokenizer.pad_token_id` fills places.
    """
    ### BEGIN SOLUTION
    longest = max(map(len, prompts))
    ids = torch.tensor([[*p] + [lm.tokenizer.pad_token_id] * (longest - len(p)) for p in prompts])
    logits = lm.model(ids).logits  # pads come after the words, and no word looks ahead
    last = torch.stack([logits[i, len(p) - 1] for i, p in enumerate(prompts)])
    return torch.stack([row[target] - row[foil] for row, (target, foil) in zip(last, answers)])
    ### END SOLUTION


def effect(before, after):
    """The mean effect in nats of an intervention, from the odds of each prompt before and after it, `(n,)` each."""
    ### BEGIN SOLUTION
    return float(torch.log(after / before).mean())
    ### END SOLUTION


SOLUTIONS = (choose, scores, effect)


@graded
def exercise_1(function) -> str:
    """Tried on masks with entries at, just above and just below one half, at both ends, and on one that never moved."""
    masks = [[0.5, 0.9, 0.1, 0.5, 1.0, 0.0], [0.5] * 5, [0.5001, 0.4999, 0.6, 0.4], [1.0, 1.0], [0.0, 0.2]]
    for mask in masks:
        expected = choose(mask)
        for given in (torch.tensor(mask), np.array(mask)):
            found = function(given)
            expect(isinstance(found, (list, tuple)) or getattr(found, "ndim", 0) == 1, f"return a list of numbers, not {type(found).__name__}")
            found = [int(i) for i in found] if all(float(i) == int(i) for i in found) else list(found)
            asked = f"from {mask} you chose {found}; "
            expect(found == expected or not isinstance(function(given), torch.Tensor) or function(given).dtype != torch.bool,
                   "return numbers of components, not a mask of true and false")
            untouched = [i for i, value in enumerate(mask) if value == 0.5]
            expect(not set(untouched) & set(found), asked + "entries at exactly one half were never moved, nothing speaks for them")
            expect(set(expected) <= set(found), asked + f"above one half are {expected}; ask for more than one half, not for much more")
            expect(found == expected, asked + f"above one half are {expected}")
    return "what was moved above one half is chosen, and what was never moved is not."


@graded
def exercise_2(function) -> str:
    """Compared with one prompt at a time, on the prompts of two tasks, which are of several lengths."""
    for name in ("professions", "facts"):
        trace = tutorial_trace(name, n=24, seed=4)
        lm, prompts = trace.model, [list(e.base) for e in trace.examples]
        answers = [(e.target[0], e.foil[0]) for e in trace.examples]
        with torch.no_grad():
            found = function(lm, prompts, answers)
            expect(isinstance(found, (torch.Tensor, np.ndarray, list, tuple)) and np.shape(found) == (len(prompts),),
                   f"return the log odds of each of the {len(prompts)} prompts")
            found = torch.as_tensor(found, dtype=torch.float32)
            alone = _one_by_one(lm, prompts, answers)
            worst = float((found - alone).abs().max())
            said = f"on {name} you are up to {worst:.2f} nats away from what each prompt gives alone: "

            def near(values):
                return float((found - values).abs().max()) < NEAR

            ways = {"the last column is a pad for all but the longest prompts; read each prompt at its own last word": dict(side="right"),
                    "pads on the left shift the learned positions; give position_ids, or pad on the right": dict(side="left", hide=True),
                    "pads on the left are read like words; give an attention_mask and position_ids, or pad on the right": dict(side="left")}
            for misconception, way in ways.items():
                expect(near(alone) or not near(_batched(lm, prompts, answers, **way)), said + misconception)
            expect(near(alone) or not near(-alone), "the sign is turned: log odds are of the target against the foil")
            expect(near(alone), said + "a batch must give what each prompt gives alone")
    return "in a batch each prompt gives what it gives alone."


def _one_by_one(lm, prompts, answers) -> torch.Tensor:
    logits = [lm.model(torch.tensor([p])).logits[0, -1] for p in prompts]
    return torch.stack([row[target] - row[foil] for row, (target, foil) in zip(logits, answers)])


def _batched(lm, prompts, answers, side: str, hide: bool = False) -> torch.Tensor:
    """The careless batch: the last column, with pads on a side, hidden from attention or not, and no positions."""
    longest, pad = max(map(len, prompts)), lm.tokenizer.pad_token_id
    ids = torch.tensor([[*p, *[pad] * (longest - len(p))] if side == "right" else [*[pad] * (longest - len(p)), *p] for p in prompts])
    logits = lm.model(ids, attention_mask=(ids != pad).long() if hide else None).logits[:, -1]
    return torch.stack([row[target] - row[foil] for row, (target, foil) in zip(logits, answers)])


@graded
def exercise_3(function) -> str:
    """Tried on odds with an outlier, on odds that rise and fall alike, and both ways round."""
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, 40, generator=generator, dtype=torch.float64)
    for spread in (0.3, 2.0):
        before, after = draw().exp(), (spread * draw() + 0.5).exp()
        for one, other in ((before, after), (after, before)):
            found, ratios = number(function(one, other)), other / one
            real = float(ratios.log().mean())
            said = f"the mean effect is {real:.3f} nats, yours {found:.3f}; "

            def near(value):
                return math.isclose(found, float(value), rel_tol=1e-6, abs_tol=1e-9)

            expect(near(real) or not (near(ratios.mean() - 1) or near(ratios.mean())), said + "a mean of ratios belongs to the largest of them; "
                   "take the logarithm of each first")
            expect(near(real) or not near(ratios.mean().log()), said + "you took the logarithm of the mean; take the mean of the logarithms")
            of_means = other.mean() / one.mean()
            expect(near(real) or not (near(of_means.log()) or near(of_means - 1) or near(of_means)), said + "a ratio of means belongs to the prompts "
                   "with the largest odds; compare each prompt with itself")
            expect(near(real) or not near((other - one).mean()), said + "a difference of odds is in no unit of its own; effects are "
                   "logarithms of ratios")
            expect(near(real) or not near(-real), said + "the sign is turned: after against before")
            expect(near(real), said + "it is the mean over prompts of log(after / before)")
    return "there and back again give the same effect with opposite signs, and no single prompt decides."
