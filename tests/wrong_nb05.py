"""Wrong answers to the exercises of notebook 05, and what the check must say of each."""

import numpy as np
import torch

from mctrace_nb.check.nb05 import best_two_ways, slope, soft_effect


def hooked(lm, example, layer, head, m, whole=False, leave=False, change=True):
    """The solution with parts of it done wrong."""
    place, width, said = lm.layers[layer].attention.c_proj, lm.head_width, []
    here = slice(None) if whole else slice(head * width, (head + 1) * width)

    def mix(module, inputs):
        mixed = inputs[0].clone()
        mixed[..., here] = torch.lerp(mixed[..., here], said[0][..., here], m)
        return (mixed,)

    def odds(tokens, hook):
        handle = place.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = lm.model(torch.tensor([tokens])).logits[0, -1]
        if not leave:
            handle.remove()
        return float(logits[example.target[0]] - logits[example.foil[0]])

    odds(example.counterfactual, lambda module, inputs: said.append(inputs[0]))
    mixed = odds(example.base, mix)
    return mixed - odds(example.base, lambda module, inputs: None) if change else mixed


def wrong_answers():
    yield 1, lambda lm, e, layer, head, m: m * soft_effect(lm, e, layer, head, 1.0), "you took m times the effect"
    yield 1, lambda lm, e, layer, head, m: soft_effect(lm, e, layer, head, 1 - m), "your weights are exchanged"
    yield 1, lambda *a: hooked(*a, whole=True), "all heads of the layer"
    yield 1, lambda *a: hooked(*a, leave=True), "your hook is still there"
    yield 1, lambda *a: hooked(*a, change=False), "not the log odds themselves"
    yield 1, lambda lm, e, layer, head, m: soft_effect(lm, e, layer, (head + 1) % 4, m), "at every token"

    def one_sided(trace, mask, i, step=0.01):
        low, high = mask.clone(), mask.clone()
        high[i] += step
        return float((trace.effects(high).mean() - trace.effects(low).mean()) / step)

    def careless(trace, mask, i, step=0.01, over=0.02):
        ends = mask.repeat(2, 1)
        ends[:, i] = torch.stack([mask[i] - step, mask[i] + step]).clamp(0, 1)
        low, high = trace.effects(ends).mean(-1)
        return float((high - low) / over)

    def in_place(trace, mask, i, step=0.01):
        found = slope(trace, mask, i, step)
        mask[i] += step
        return found

    yield 2, one_sided, "your function raised InputError: mask values must lie in [0, 1]"
    yield 2, careless, "one side is cut off"
    yield 2, lambda *a: careless(*a, over=0.01), "two steps apart, not one"
    yield 2, lambda *a: careless(*a, over=1), "divide the difference"
    yield 2, lambda *a: -slope(*a), "the sign is turned"
    yield 2, in_place, "changed the mask"
    yield 2, lambda trace, mask, i, step=0.01: slope(trace, mask, i), "use the step that is given"
    yield 2, lambda trace, mask, i: trace.effects(mask), "return one number"
    yield 3, lambda e: (int(e.mean(1).argmax()), int(np.exp(-e.mean(1)).argmin())), "you transformed the mean"
    yield 3, lambda e: (int(e.mean(1).argmax()), int(np.exp(-e).mean(1).argmax())), "you took the largest"
    yield 3, lambda e: best_two_ways(e)[::-1], "the largest mean effect is set"
    yield 3, lambda e: int(e.mean(1).argmax()), "return a pair"
    yield 3, lambda e: (int(e.mean(1).argmax()), 1), "by the mean of 1/(1 + rho)"
