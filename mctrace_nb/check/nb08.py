"""Exercises of notebook 08: a metric of one's own, noise on the subject alone, and a set that moves one thing and not another."""

from __future__ import annotations

from itertools import combinations

import torch

import mctrace_nb as mct
from mctrace_nb.check import expect, graded, pair
from mctrace_nb.errors import InputError


def entropy(logits):
    """How undecided the model is about the next token, in nats, whatever the answers are: logits (..., V) -> (...).

    The entropy of the distribution over all V tokens, `- sum p log p`; 0 where one token has all of it.
    """
    ### BEGIN SOLUTION
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
    ### END SOLUTION


def subject_restored(lm, task, noise_on):
    """At which layer the clean state of the last subject token gives back most of a spoiled answer, and what share: (layer, share).

    noise_on: "subject" or "all" tokens of the base prompt are blurred. The whole state of one layer ("residual") is restored
    at that token alone; the answer is measured by "log_prob". The share is of the total effect.
    """
    ### BEGIN SOLUTION
    trace = mct.Trace(lm, task, "residual", corruption="noise", noise_on=noise_on, direction="restore", metric="log_prob")
    row = mct.sweep(trace, progress=False).by_role().loc["last subject token"]
    return int(row.idxmax()), float(row.max() / trace.total_effect().mean)
    ### END SOLUTION


def move_and_keep(move, keep, most, limit):
    """The labels of the best set of 1 to `most` components: the largest mean effect on one trace, with a limit on another.

    move, keep: traces with the same components. limit: how many nats the set may move a prompt of `keep` on average, in
    either direction. Every set is tried; None if no set keeps the limit.
    """
    ### BEGIN SOLUTION
    sets = [s for size in range(1, most + 1) for s in combinations(range(len(move.components)), size)]
    masks = move.components.masks(sets)
    moved, kept = move.effects(masks).mean(-1), keep.effects(masks).abs().mean(-1)
    if not (kept <= limit).any():
        return None
    moved[kept > limit] = -torch.inf
    return [move.components.labels[i] for i in sets[int(moved.argmax())]]
    ### END SOLUTION


SOLUTIONS = (entropy, subject_restored, move_and_keep)


@graded
def exercise_1(function) -> str:
    """Tried on distributions known by hand, and as a metric on prompts other than the lesson's."""
    known = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]], [[2.0, 2.0, -60.0, -60.0], [1.0, 2.0, 3.0, 4.0]]])
    found = function(known.clone())
    expect(isinstance(found, torch.Tensor) and found.shape == known.shape[:-1],
           f"logits of shape {tuple(known.shape)} must become a tensor of shape {tuple(known.shape[:-1])}, yours is "
           f"{tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__}; one number a prompt, so sum over the last "
           "dimension only, and take no mean over prompts")
    expected = entropy(known)
    expect(bool(torch.isfinite(found).all()), "where a token has all of the probability yours is not finite; 0 log 0 is 0, and log_softmax "
                                              "keeps it so")
    uniform, sure = float(found[0, 0]), float(found[0, 1])
    expect(abs(sure) < 1e-3, f"where one token has all of the probability the entropy is 0, yours is {sure:.2f}; logits are no probabilities, "
                             "normalise them with a softmax over the last dimension")
    expect(uniform > 0, f"for four equally likely tokens yours is {uniform:.2f}; an entropy is never negative, mind the minus sign")
    expect(abs(uniform - 2) > 1e-3, "for four equally likely tokens yours is 2, which is in bits; use the natural logarithm, 1.39 nats")
    expect(torch.allclose(found.to(expected), expected, atol=1e-4), f"for logits 1, 2, 3, 4 the entropy is {float(expected[1, 1]):.3f} nats, yours is "
                                                      f"{float(found[1, 1]):.3f}; all tokens count, not the likeliest alone")
    lm = mct.load_model("tutorial")
    for task in ("names", "professions"):
        trace = mct.Trace(lm, mct.load_task(task, lm, n=16, seed=9), "head_output", metric=entropy)
        try:
            own = trace.again(metric=function).single_effects()
        except InputError as error:
            expect(False, str(error))
        largest = float((own["effect"] - trace.single_effects()["effect"]).abs().max())
        expect(largest < 1e-3, f"as a metric on {task} it is off by {largest:.3f} nats; the logits there have other leading dimensions")
    return "0 where the model is sure, log V where all is open, and it works as a metric of a trace."


@graded
def exercise_2(function) -> str:
    """Tried on tasks where the best layer is not the first, and with both kinds of noise."""
    lm = mct.load_model("tutorial")
    for name, noise_on in (("professions", "all"), ("names", "all"), ("facts", "subject")):
        task = mct.load_task(name, lm, n=32, seed=5)
        found, expected = function(lm, task, noise_on), subject_restored(lm, task, noise_on)
        found = pair(found, "a pair (layer, share)")
        layer, share = int(found[0]), float(found[1])
        said = (f"on {name} with noise on {noise_on} yours are layer {layer} and a share of {share:.2f}, expected {expected[0]} and "
                f"{expected[1]:.2f}; ")
        other = subject_restored(lm, task, "all" if noise_on == "subject" else "subject")
        typical = {1.0: "a share of 1 is what the last token gives back, from where nothing follows; take the row of the last subject token",
                   0.0: "the last layer's state at the subject is read by no later token; take the layer that gives back most",
                   other[1]: "that is what the other kind of noise gives; hand noise_on to the trace"}
        for value, misconception in typical.items():
            expect(abs(share - value) > 0.01 or abs(share - expected[1]) < 0.01, said + misconception)
        expect(share <= 1.5, said + "a share is of the total effect; divide the nats by it")
        expect(layer == expected[0] and abs(share - expected[1]) < 0.01,
               said + "run the blurred prompt and put clean states back (direction='restore'), one layer at a time, at the last subject token, "
                      "and measure by log_prob")
    return "layer and share agree, whether the subject alone is blurred or every token."


@graded
def exercise_3(function) -> str:
    """Tried on pairs of tasks other than the lesson's, with limits that bind and limits that do not."""
    lm = mct.load_model("tutorial")
    traces = {name: mct.Trace(lm, mct.load_task(name, lm, n=16, seed=8), "head_output")
              for name in ("names", "facts", "binding", "binding_operation")}
    for moved, kept, most, limit in (("binding_operation", "binding", 2, 0.5), ("facts", "names", 3, 0.1), ("facts", "binding", 2, 3.0),
                                     ("facts", "names", 3, 100.0), ("facts", "names", 2, 0.0)):
        move, keep = traces[moved], traces[kept]
        found, expected = function(move, keep, most, limit), move_and_keep(move, keep, most, limit)
        if expected is None:
            expect(found is None, f"no set moves {kept} by nothing at all, so with a limit of 0 there is none to return, and you return {found!r}; "
                                  "return None then")
            continue
        expect(isinstance(found, (list, tuple, set, frozenset)) and len(found) and set(found) <= set(move.components.labels),
               f"return the labels of a set that is not empty, not {found!r}")
        found = sorted(found)
        asked = f"to move {moved} and keep {kept} within {limit:g} nats with at most {most} heads you chose {', '.join(found)}, "
        expect(len(found) <= most, asked + "which are too many")
        side = keep.effects(found)
        expect(float(side.abs().mean()) <= limit + 1e-4,
               asked + f"which moves a prompt of {kept} by {float(side.abs().mean()):.2f} nats on average; "
               + ("prompts that move one way must not cancel those that move the other way, take the size of each effect"
                  if abs(float(side.mean())) <= limit else "a set over the limit is out, however much it moves"))
        effect, best = (float(move.effects(sorted(s)).mean()) for s in (found, expected))
        expect(effect > best - 1e-3, asked + f"with {effect:.2f} nats; {', '.join(expected)} stays within the limit and has {best:.2f}, so try "
                                             f"every set of 1 to {most}, rank them by what they move, and use the limit only to shut sets out")
    return "the best set within every limit, found among all."
