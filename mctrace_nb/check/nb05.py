"""Exercises of notebook 05: a soft intervention by hand, a gradient checked by differences, a transform that moves the optimum."""

from __future__ import annotations

import numpy as np
import torch

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, hooks, no_hook_left, number, pair


def soft_effect(lm, example, layer, head, m):
    """The effect on one prompt, in nats, when one head says `(1 - m)` of its own output and `m` of the other.

    lm: the tutorial model. example: one of `trace.examples`, with token ids `base` and `counterfactual`
    and answers `target` and `foil` of one token each. The model must be as before afterwards.
    """
    ### BEGIN SOLUTION
    place = lm.layers[layer].attention.c_proj  # it reads what the heads of a layer say, side by side
    here = slice(head * lm.head_width, (head + 1) * lm.head_width)
    said = []

    def keep(module, inputs):
        said.append(inputs[0])

    def mix(module, inputs):
        mixed = inputs[0].clone()
        mixed[..., here] = torch.lerp(mixed[..., here], said[0][..., here], m)
        return (mixed,)

    def log_odds(tokens, hook):
        with torch.no_grad(), place.register_forward_pre_hook(hook):
            logits = lm.model(torch.tensor([tokens])).logits[0, -1]
        return float(logits[example.target[0]] - logits[example.foil[0]])

    log_odds(example.counterfactual, keep)
    return log_odds(example.base, mix) - log_odds(example.base, keep)
    ### END SOLUTION


def slope(trace, mask, i, step=0.01):
    """The derivative of the mean effect in entry `i` of a mask `(N,)`, from two effects and without autograd.

    Take the values `step` to both sides of the entry, as far as they lie in [0, 1].
    """
    ### BEGIN SOLUTION
    ends = mask.repeat(2, 1)
    ends[:, i] = torch.stack([mask[i] - step, mask[i] + step]).clamp(0, 1)
    low, high = trace.effects(ends).mean(-1)
    return float((high - low) / (ends[1, i] - ends[0, i]))
    ### END SOLUTION


def best_two_ways(effects):
    """Numbers of the best set by the mean effect, and by the mean of `1/(1 + rho)`.

    effects: an array `(sets, prompts)`, in nats. Returns a pair of whole numbers.
    """
    ### BEGIN SOLUTION
    by_effect = effects.mean(axis=1).argmax()
    by_transform = np.exp(-effects).mean(axis=1).argmin()  # less is better
    return int(by_effect), int(by_transform)
    ### END SOLUTION


SOLUTIONS = (soft_effect, slope, best_two_ways)


@graded
def exercise_1(function) -> str:
    """Tried on two heads of another task, at four weights."""
    lm = mct.load_model("tutorial", device="cpu")
    trace = mct.Trace(lm, mct.load_task("names", lm, n=8, seed=3), "head_output")
    for layer, head in ((1, 2), (2, 1)):
        label, before = f"L{layer}H{head}", hooks(lm)
        row = torch.tensor([trace.components.index(x) for x in trace.components.in_layer(layer)])
        one = trace.components.mask([label]).float()
        for at, m in ((1, 0.0), (1, 1.0), (2, 0.3), (3, 0.7)):
            found = float(function(lm, trace.examples[at], layer, head, m))
            no_hook_left(lm, before, "your hook is still there after the call, and the next run would be mixed too; remove it, or use `with`")
            real, full = (float(trace.effects(x * one, examples=[at])[0]) for x in (m, 1.0))
            all_heads = float(trace.effects(torch.zeros(len(one)).index_fill(0, row, m), examples=[at])[0])
            turned = float(trace.effects((1 - m) * one, examples=[at])[0])

            def near(value):
                return abs(found - value) < 1e-3 * max(1, abs(value))

            said = f"for {label} at m = {m} the trace says {real:.3f} nats, you {found:.3f}; "
            expect(near(real) or m or near(turned), said + "at m = 0 nothing is replaced, and an effect is the change against the base prompt, "
                                                         "not the log odds themselves")
            expect(near(real) or not near(turned), said + "your weights are exchanged: m = 1 is the counterfactual's output, 0 the head's own")
            expect(near(real) or not near(m * full), said + "you took m times the effect; mix what the head says, and let the model run on from "
                                                           "there: effects are not linear in m")
            expect(near(real) or not near(all_heads), said + "that is what all heads of the layer do; of its input only "
                                                            f"{lm.head_width} of {lm.width} numbers belong to the head")
            expect(near(real), said + "take the head's output at every token, from the counterfactual prompt of the same example")
    return "your hook and the trace agree at every weight, and the model is as before."


@graded
def exercise_2(function) -> str:
    """Tried inside the cube and on its faces, against autograd."""
    lm = mct.load_model("tutorial", device="cpu")
    trace = mct.Trace(lm, mct.load_task("binding", lm, n=16, seed=3), "head_output")
    start = torch.linspace(0.1, 0.6, len(trace.components))
    for label, value in (("L1H0", None), ("L1H3", None), ("L1H3", 0.0), ("L1H0", 1.0)):
        i, mask = trace.components.index(label), start.clone()
        if value is not None:
            mask[i] = value
        leaf, before = mask.clone().requires_grad_(), mask.clone()
        real = float(torch.autograd.grad(trace.effects(leaf).mean(), leaf)[0][i])
        found = function(trace, mask, i)
        found = number(found, "one number; the mean is over the prompts")
        expect(torch.equal(mask, before), "your function has changed the mask that it was given; work on a copy")

        def near(value):
            return abs(found - value) < 0.03 * abs(value)

        said = f"for {label} at {mask[i]:.2f} autograd says {real:.2f}, you {found:.2f}; "
        expect(near(real) or not near(-real), said + "the sign is turned: the higher mask value comes first")
        expect(near(real) or not near(0.02 * real) and not near(0.01 * real), said + "divide the difference by the distance of the two mask values")
        expect(near(real) or not near(2 * real), said + "the two values lie two steps apart, not one")
        expect(near(real) or not near(real / 2), said + "at the end of [0, 1] one side is cut off, and the two values lie one step apart, not two")
        expect(near(real) or not near(len(trace) * real), said + "take the mean over the prompts, not the sum")
        expect(near(real), said + "change entry i alone, by a small step to both sides")
    i, mask = trace.components.index("L1H3"), start
    wide, coarse = float(function(trace, mask.clone(), i, 0.4)), slope(trace, mask, i, 0.4)
    expect(abs(wide - coarse) < 0.01 * abs(coarse), f"with a step of 0.4 the difference at {mask[i]:.2f} is {coarse:.2f}, you say {wide:.2f}; use the "
                                                    "step that is given, to both sides, and no autograd")
    return "differences and autograd agree inside the cube and on its faces."


@graded
def exercise_3(function) -> str:
    """Tried on random effects, on sets with prompts that lag, and with prompts that move the wrong way."""
    rng = np.random.default_rng(3)
    lags = np.array([[9.0, 9.0, 9.0, 0.5], [6.0, 6.0, 6.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
    wrong_way = np.array([[5.0, 5.0, 5.0, -3.0], [0.5, 0.4, 0.6, 0.5], [2.0, 2.0, 2.0, 1.0]])
    for effects in (lags, wrong_way, rng.normal(3, 2, (40, 16))):
        found, right = function(effects.copy()), best_two_ways(effects)
        found = tuple(map(int, pair(found, "a pair of numbers")))
        expect(found[0] == right[0], f"the largest mean effect is set {right[0]}'s, {effects[right[0]].mean():.2f} nats; you chose set {found[0]}")
        expect(found[1] == right[1] or found[1] != np.exp(-effects).mean(axis=1).argmax(), "1/(1 + rho) is a loss: the set with the smallest is best, "
                                                                                          "you took the largest")
        expect(found[1] == right[1] or found[1] != found[0], "you transformed the mean, which ranks sets as the mean does; transform the effect of "
                                                             "each prompt, then take the mean")
        expect(found[1] == right[1], f"by the mean of 1/(1 + rho) = exp(-effect) set {right[1]} is best; you chose set {found[1]}")
    return "a set with one prompt left behind wins by its mean and loses by the transform."
