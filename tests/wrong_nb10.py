"""Wrong answers to the exercises of notebook 10, and what the check must say of each."""

import math
from math import comb

import numpy as np


def by_floats(n, right, k):
    """Right while factorials fit a float."""
    def choose(a, b):
        return 0.0 if b > a else float(math.factorial(a)) / float(math.factorial(b)) / float(math.factorial(a - b))

    return 1 - choose(n - right, k) / choose(n, k)


def without_a_look_at_the_end(n, right, k):
    """A product whose factors turn negative where there are fewer wrong answers than k."""
    missed = 1.0
    for i in range(k):
        missed *= (n - right - i) / max(1, n - i) if n - right != i else 0.5
    return 1 - missed


def summed(q, log):
    return (q.exp() * log).sum(-1)


def top(student, teacher, k):
    best = teacher.topk(k, -1)
    return best.values, student.gather(-1, best.indices)


def forward(student, teacher, k):
    p, pi = top(student, teacher, k)
    return summed(p.log_softmax(-1), p.log_softmax(-1) - pi)


def renormalised(student, teacher, k):
    p, pi = top(student, teacher, k)
    return summed(p.log_softmax(-1), p.log_softmax(-1) - pi.log_softmax(-1))


def reversed_(student, teacher, k, normal=False):
    p, pi = top(student, teacher, k)
    pi = pi.log_softmax(-1) if normal else pi
    return summed(pi, pi - p.log_softmax(-1))


def raw_teacher(student, teacher, k):
    p, pi = top(student, teacher, k)
    return summed(p, p - pi)


def of_the_student_s_words(student, teacher, k):
    pi, p = top(teacher, student, k)
    return summed(p.log_softmax(-1), p.log_softmax(-1) - pi)


def same(effects, matched):
    return [e for s, e in effects.items() if len(s) == len(matched)]


def both(effects, matched):
    of = same(effects, matched)
    return effects[frozenset(matched)] / max(of), np.mean(of) / max(of)


def wrong_answers():
    yield 1, lambda n, right, k: None, "return one number"
    yield 1, lambda n, right, k: 1 - (1 - right / n) ** k, "with replacement"
    yield 1, lambda n, right, k: comb(right, k) / comb(n, k), "one right answer is enough"
    yield 1, lambda n, right, k: comb(n - right, k) / comb(n, k), "take it from 1"
    yield 1, lambda n, right, k: k * right / n, "counts draws with two right ones twice"
    yield 1, lambda n, right, k: min(1, k * right / n), "counts draws with two right ones twice"
    yield 1, lambda n, right, k: right / n, "Avg@k"
    yield 1, by_floats, "use math.comb"
    yield 1, without_a_look_at_the_end, "of 8 answers with 1 right"
    yield 1, lambda n, right, k: 7.0, "no probability"
    yield 2, lambda student, teacher, k: 1.0, "return a tensor"
    yield 2, lambda *given: forward(*given).mean(), "the mean over tokens comes later"
    yield 2, renormalised, "pays nothing for what it says outside"
    yield 2, raw_teacher, "not renormalised"
    yield 2, reversed_, "this is the other direction"
    yield 2, lambda *given: reversed_(*given, normal=True), "the other direction, with the student renormalised"
    yield 2, of_the_student_s_words, "take the teacher's"
    yield 2, lambda student, teacher, k: summed(teacher, teacher - student), "over the whole vocabulary"
    yield 2, lambda student, teacher, k: forward(student, teacher, k) / math.log(2), "these are bits"
    yield 2, lambda student, teacher, k: forward(student, teacher, k) / k, "a KL is a sum"
    yield 2, lambda *given: -forward(*given), "the sign"
    yield 2, lambda student, teacher, k: forward(student, teacher, k) + 1, "sum q (log q - log pi)"
    yield 3, lambda effects, matched: effects[frozenset(matched)], "return two numbers"
    yield 3, lambda effects, matched: (both(effects, matched)[0], 0.0), "as if any other set did nothing"
    yield 3, lambda effects, matched: (effects[frozenset(matched)] / max(effects.values()), both(effects, matched)[1]), "of any size"
    yield 3, lambda effects, matched: (both(effects, matched)[0], np.mean(list(effects.values())) / max(same(effects, matched))), "sets of all sizes"
    yield 3, lambda effects, matched: (both(effects, matched)[0], np.mean(list(effects.values())) / max(effects.values())), "sets of all sizes"
    yield 3, lambda effects, matched: (both(effects, matched)[0] - both(effects, matched)[1], 0.0), "return both"
    yield 3, lambda effects, matched: (effects[frozenset(matched)], np.mean(same(effects, matched))), "divide it by that of the best set"
    yield 3, lambda effects, matched: (both(effects, matched)[0], np.mean(same(effects, matched))), "divide it by that of the best set"
    yield 3, lambda effects, matched: (effects[frozenset(matched)] / np.mean(same(effects, matched)), 1.0), "the effect against the mean"
    yield 3, lambda effects, matched: (both(effects, matched)[0], np.median(same(effects, matched)) / max(same(effects, matched))), "take the mean"
    yield 3, lambda effects, matched: (both(effects, matched)[0], np.mean([e for s, e in effects.items() if len(s) == len(matched) and s != frozenset(matched)])
                                       / max(same(effects, matched))), "leaves the matched set out"
