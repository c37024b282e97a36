"""Exercises of notebook 10: Pass@k without luck, a forward KL of the top k, and survival beside random sets."""

from __future__ import annotations

import math
from itertools import combinations
from math import comb

import numpy as np
import torch

from mctrace_nb.check import expect, graded, number, pair


def pass_at_k(n, right, k):
    """The probability that k of n written answers, drawn without replacement, hold a right one.

    n: how many answers were written, `right` of them right; k <= n. Returns a number.
    """
    ### BEGIN SOLUTION
    return 1 - comb(n - right, k) / comb(n, k)
    ### END SOLUTION


def forward_kl_of_top_k(student, teacher, k):
    """The forward KL that entropy-aware distillation adds where the teacher is unsure.

    student, teacher: log-probabilities `(..., V)`. The teacher's k most likely words, renormalised to a sum
    of 1, against what the student, as it is, says of these words. Returns nats `(...)`.
    """
    ### BEGIN SOLUTION
    top = teacher.topk(k, -1)
    q = top.values.log_softmax(-1)
    return (q.exp() * (q - student.gather(-1, top.indices))).sum(-1)
    ### END SOLUTION


def survival(effects, matched):
    """Whether a student's behaviour runs through the heads that were matched to its teacher's.

    effects: dict from a frozenset of heads to the effect of replacing them together, for all sets of the
    student's heads with at least one member. matched: the heads in question. Returns two numbers: the
    effect of the matched set as a share of that of the best set of its size, and the control, the mean
    share of all sets of that size.
    """
    ### BEGIN SOLUTION
    same_size = [effect for heads, effect in effects.items() if len(heads) == len(matched)]
    best = max(same_size)
    return effects[frozenset(matched)] / best, sum(same_size) / len(same_size) / best
    ### END SOLUTION


SOLUTIONS = (pass_at_k, forward_kl_of_top_k, survival)


@graded
def exercise_1(function) -> str:
    """Tried on every number of right answers, on k larger than the number of wrong ones, and on numbers whose factorials overflow."""
    for n, right, k in ((8, 2, 4), (8, 1, 8), (16, 3, 8), (5, 0, 3), (6, 5, 2), (4, 4, 4), (16, 9, 8)):
        found, true = number(function(n, right, k)), 1 - comb(n - right, k) / comb(n, k)
        said = f"of {n} answers with {right} right, {k} hold a right one with probability {true:.3f}, yours says {found:.3f}"
        if abs(found - true) > 1e-6:
            expect(abs(found - (1 - (1 - right / n) ** k)) > 1e-6, f"{said}: k draws from the same {n} answers with replacement, which may draw one wrong answer "
                                                                  "twice; that is too low on average, so draw without replacement")
            expect(abs(found - comb(right, k) / comb(n, k)) > 1e-6, f"{said}: the probability that all {k} are right; one right answer is enough")
            expect(abs(found - comb(n - right, k) / comb(n, k)) > 1e-6, f"{said}: the probability that all {k} are wrong; take it from 1")
            expect(abs(found - min(1, k * right / n)) > 1e-6 and abs(found - k * right / n) > 1e-6,
                   f"{said}: {k} times the share of right answers, which counts draws with two right ones twice")
            expect(abs(found - right / n) > 1e-6, f"{said}: the share of right answers, Avg@k, which does not depend on k")
            expect(0 <= found <= 1 + 1e-9, f"{said}, and that is no probability")
            expect(False, f"{said}; count the draws without a right one, of all draws")
    try:
        found = number(function(5000, 3, 100))
    except (OverflowError, ValueError) as error:
        expect(False, f"with 5000 answers your function raised {type(error).__name__}: factorials of this size fit no float; use math.comb, whose integers have no end")
    expect(math.isfinite(found) and abs(found - (1 - comb(4997, 100) / comb(5000, 100))) < 1e-6,
           f"of 5000 answers with 3 right, 100 hold a right one with probability {1 - comb(4997, 100) / comb(5000, 100):.4f}, yours says {found:.4f}")
    return "the estimate is that of all draws without replacement, also where wrong answers run out and where factorials overflow."


def _tried(function, student, teacher, k: int) -> torch.Tensor:
    """What a learner's function returns, as `(...)` in double precision."""
    found = function(student.clone(), teacher.clone(), k)
    expect(isinstance(found, (torch.Tensor, np.ndarray)), f"return a tensor of nats, one a token, not {type(found).__name__}")
    found = torch.as_tensor(found).detach().double()
    expect(found.shape == student.shape[:-1], f"for log-probabilities of shape {tuple(student.shape)} return nats of shape {tuple(student.shape[:-1])}, a number a "
                                              f"token, not {tuple(found.shape)}; the mean over tokens comes later, since it is over all tokens, also the ungated")
    return found


@graded
def exercise_2(function) -> str:
    """Tried on texts of several tokens, on k from 1 to the whole vocabulary, and on its gradient."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = (1.5 * torch.randn(2, 3, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    student, teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    for k in (3, 1, 5, 9):
        found = _tried(function, student, teacher, k)
        top = teacher.topk(k, -1)
        p, q, pi = top.values, top.values.log_softmax(-1), student.gather(-1, top.indices)
        mine = student.topk(k, -1)
        wrong = {
            "your student is renormalised over the top k as well; then it pays nothing for what it says outside, and need not come back": (q, pi.log_softmax(-1)),
            "your teacher is not renormalised: its top k have to sum to 1 before they are compared": (p, pi),
            "this is the other direction: the student's words are weighted by the student, so that it need not say what the teacher says; weight by the "
            "teacher": (pi, q),
            "this is the other direction, with the student renormalised; weight by the teacher": (pi.log_softmax(-1), q),
            "these are the student's k most likely words; what the student never says is what it is to learn, so take the teacher's":
                (teacher.gather(-1, mine.indices).log_softmax(-1), mine.values),
            "this is the KL over the whole vocabulary, which hardly depends on k; take the teacher's k most likely words": (teacher, student),
        }
        true = (q.exp() * (q - pi)).sum(-1)
        if (found - true).abs().max() < 1e-4:
            continue
        said = f"for k = {k} the first token has {true[0, 0]:.3f} nats, yours {found[0, 0]:.3f}"
        for misconception, (a, b) in wrong.items():
            expect((found - (a.exp() * (a - b)).sum(-1)).abs().max() > 1e-4, f"{said}: {misconception}")
        expect((found - true / math.log(2)).abs().max() > 1e-4, f"{said}: these are bits; use the natural logarithm")
        expect((found - true / k).abs().max() > 1e-4, f"{said}: a mean over the k words; a KL is a sum, weighted by q")
        expect((found + true).abs().max() > 1e-4, f"{said}: the sign is turned round; it is q log(q / pi)")
        expect(False, f"{said}; sum q (log q - log pi) over the teacher's k most likely words, q renormalised over them")
    return "the teacher is renormalised over its top k, the student is not, and each token has its own number."


def _effects(heads: str, seed: int) -> dict:
    """Effects of all sets, with members that help and hinder each other; larger sets mostly have larger effects."""
    rng, found = np.random.default_rng(seed), {}
    alone = dict(zip(heads, rng.uniform(0.1, 1.0, len(heads))))
    for size in range(1, len(heads) + 1):
        for members in combinations(heads, size):
            found[frozenset(members)] = float(sum(alone[m] for m in members) * rng.uniform(0.6, 1.3))
    return found


@graded
def exercise_3(function) -> str:
    """Tried on students of four and six heads, on sets of one to all, and on a set that is the best one."""
    for heads, seed, matched in (("ABCD", 0, "BC"), ("ABCDEF", 1, "ACF"), ("ABCDEF", 2, "D"), ("ABCD", 3, "ABD"), ("ABCDEF", 4, "AB"), ("ABCD", 5, "ABCD")):
        effects = _effects(heads, seed)
        share, control = (number(x, "numbers") for x in pair(function(dict(effects), list(matched)), "two numbers, the share and its control"))
        same = [effect for members, effect in effects.items() if len(members) == len(matched)]
        mine, best, mean, top = effects[frozenset(matched)], max(same), float(np.mean(same)), max(effects.values())
        said = f"of {len(heads)} heads the set {', '.join(matched)} has {mine / best:.3f} of the best of its size, and all sets of its size {mean / best:.3f} on average"
        if abs(share - mine / best) > 1e-6:
            expect(abs(share - mine / top) > 1e-6, f"{said}; you say {share:.3f}, a share of the best set of any size: larger sets do more whatever is in them, so "
                                                   "compare with sets of the same size")
            expect(abs(share - (mine - mean) / best) > 1e-6, f"{said}; you say {share:.3f}, the difference of the two; return both, the reader takes it")
            expect(abs(share - mine) > 1e-6, f"{said}; you say {share:.3f}, an effect; divide it by that of the best set")
            expect(abs(share - mine / mean) > 1e-6, f"{said}; you say {share:.3f}, the effect against the mean; the best set of that size is the measure")
            expect(False, f"{said}; you say {share:.3f} for the first")
        if abs(control - mean / best) > 1e-6:
            others = [effect for members, effect in effects.items() if len(members) == len(matched) and members != frozenset(matched)]
            expect(abs(control) > 1e-9, f"{said}; your control is 0, as if any other set did nothing: sets drawn at random also have effects, and a share means "
                                        "something only beside theirs")
            expect(abs(control - np.mean(list(effects.values())) / best) > 1e-6, f"{said}; your control is over sets of all sizes; take those of the same size")
            expect(abs(control - np.mean(list(effects.values())) / top) > 1e-6, f"{said}; your control is over sets of all sizes; take those of the same size")
            expect(not others or abs(control - np.mean(others) / best) > 1e-6, f"{said}; your control leaves the matched set out; a random draw can be that set too")
            expect(abs(control - mean) > 1e-6, f"{said}; your control {control:.3f} is an effect; divide it by that of the best set")
            expect(abs(control - float(np.median(same)) / best) > 1e-6, f"{said}; your control is a median; take the mean")
            expect(False, f"{said}; you say {control:.3f} for the second")
    return "a share of the best set of the same size, beside what any set of that size would have had."
