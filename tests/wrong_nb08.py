"""Wrong answers to the exercises of notebook 08, and what the check must say of each."""

from itertools import combinations

import torch

import mctrace_nb as mct
from mctrace_nb.check import nb08


def wrong_answers():
    def plain(logits):
        p = logits.softmax(-1)
        return -(p * p.log()).sum(-1)

    def likeliest(logits):
        return -logits.log_softmax(-1).amax(-1)

    def right(logits):
        return torch.distributions.Categorical(logits=logits).entropy()

    yield 1, lambda logits: right(logits).mean(), "take no mean over prompts"
    yield 1, lambda logits: 1.0, "must become a tensor"
    yield 1, lambda logits: plain(logits * 10), "not finite"
    yield 1, lambda logits: -(logits.softmax(1) * logits.log_softmax(1)).sum(-1), "softmax over the last dimension"
    yield 1, lambda logits: -right(logits), "minus sign"
    yield 1, lambda logits: right(logits) / 0.6931472, "in bits"
    yield 1, likeliest, "not the likeliest alone"

    def sweep(lm, task, noise_on, **more):
        options = dict(corruption="noise", noise_on=noise_on, direction="restore", metric="log_prob", **more)
        trace = mct.Trace(lm, task, **{"components": "residual", **options})
        return trace.total_effect().mean, mct.sweep(trace, progress=False).by_role()

    def answer(total, row):
        return int(row.idxmax()), float(row.max() / total)

    def of(role, lm, task, noise_on, **more):
        total, rows = sweep(lm, task, noise_on, **more)
        return answer(total, rows.loc[role])

    def in_nats(lm, task, noise_on):
        return answer(1.0, sweep(lm, task, noise_on)[1].loc["last subject token"])

    def last_layer(lm, task, noise_on):
        total, rows = sweep(lm, task, noise_on)
        return 2, float(rows.loc["last subject token"].iloc[-1] / total)

    yield 2, lambda lm, task, noise_on: 0, "pair (layer, share)"
    yield 2, lambda lm, task, noise_on: of("last subject token", lm, task, "subject"), "hand noise_on to the trace"
    yield 2, lambda lm, task, noise_on: of("last token", lm, task, noise_on), "the row of the last subject token"
    yield 2, in_nats, "divide the nats"
    yield 2, last_layer, "read by no later token"
    yield 2, lambda lm, task, noise_on: of("last subject token", lm, task, noise_on, components="attn_block"), "put clean states back"

    def chosen(move, keep, most, limit, rank, sizes=None):
        sets = [s for size in sizes or range(1, most + 1) for s in combinations(range(len(move.components)), size)]
        masks = move.components.masks(sets)
        value = rank(move.effects(masks).mean(-1), keep.effects(masks), limit)
        return [move.components.labels[i] for i in sets[int(value.argmax())]]

    def cancelling(moved, kept, limit):
        return moved.masked_fill(kept.mean(-1) > limit, -torch.inf)

    def within(moved, kept, limit):
        return moved.masked_fill(kept.abs().mean(-1) > limit, -torch.inf)

    yield 3, lambda move, keep, most, limit: 2, "labels of a set"
    yield 3, lambda move, keep, most, limit: nb08.move_and_keep(move, keep, most, max(limit, 0.01)) or ["L0H0"], "return None then"
    yield 3, lambda *args: chosen(*args, cancelling), "must not cancel"
    yield 3, lambda *args: chosen(*args, lambda moved, kept, limit: moved), "over the limit is out"
    yield 3, lambda *args: chosen(*args, lambda moved, kept, limit: within(-kept.abs().mean(-1), kept, limit)), "shut sets out"
    yield 3, lambda *args: chosen(*args, within, sizes=[1]), "try every set of 1 to"
    yield 3, lambda move, keep, most, limit: move.components.labels, "too many"
