"""Wrong answers to the exercises of notebook 07, and what the check must say of each."""

import mctrace_nb as mct


def wrong_answers():
    def above(mask, cut):
        return frozenset(label for label, value in mask.items() if value > cut)

    def ranked(mask, effect_of):
        order = sorted(mask, key=mask.get, reverse=True)
        return [(frozenset(order[:s]), effect_of(frozenset(order[:s]))) for s in range(1, len([v for v in mask.values() if v]) + 1)]

    def grid(mask, effect_of, cuts=(0.9, 0.5, 0.1)):
        sets = dict.fromkeys(above(mask, cut) for cut in cuts)
        return [(s, effect_of(s)) for s in sets if s]

    def sums(mask, effect_of):
        return [(s, sum(effect_of(frozenset([x])) for x in s)) for s in dict.fromkeys(above(mask, c) for c in sorted({0.0, *mask.values()})[::-1]) if s]

    def values(mask):
        return sorted({0.0, *mask.values()}, reverse=True)

    yield 1, lambda mask, effect_of: {0.5: 1.0}, "list of pairs"
    yield 1, ranked, "equal value go together"
    yield 1, grid, "passes some of them by"
    yield 1, sums, "do not add up"
    yield 1, lambda mask, effect_of: [(above(mask, c), effect_of(above(mask, c))) for c in values(mask)], "keeps nothing"
    yield 1, lambda mask, effect_of: [(above(mask, c - 1e-9), effect_of(above(mask, c - 1e-9))) for c in values(mask)], "above no threshold from 0 up"
    yield 1, lambda mask, effect_of: [(above(mask, c), 0.0) for c in (0.89, 0.8, 0.3, 0.1)], "some occur twice"
    yield 1, lambda mask, effect_of: [(above(mask, c), effect_of(above(mask, c))) for c in values(mask)[::-1] if above(mask, c)], "from small to large"

    def effect(trace, some):
        return float(trace.effects(sorted(some)).mean())

    def once(trace, chosen):
        sets = [set(chosen) - {out} | {new} for out in chosen for new in trace.components.labels if new not in chosen]
        return max([set(chosen), *sets], key=lambda s: effect(trace, s))

    def always(trace, chosen):
        sets = [set(chosen) - {out} | {new} for out in chosen for new in trace.components.labels if new not in chosen]
        return min(sets, key=lambda s: effect(trace, s))

    def grow(trace, chosen):
        return set(chosen) | set(trace.components.labels[:4])

    def in_place(trace, chosen):
        chosen[:] = sorted(once(trace, chosen))
        return set(chosen)

    yield 2, lambda trace, chosen: 3, "set of labels"
    yield 2, lambda trace, chosen: set(chosen), "go on until no swap helps"
    yield 2, once, "go on until no swap helps"
    yield 2, always, "kept only if it helps"
    yield 2, grow, "budget is not kept"
    yield 2, in_place, "work on a copy"

    def anew(trace, chosen):
        from itertools import combinations
        return max(combinations(trace.components.labels, len(chosen)), key=lambda s: effect(trace, s))

    def first_that_helps(trace, chosen):
        chosen = set(chosen)
        while True:
            sets = [chosen - {out} | {new} for out in sorted(chosen) for new in trace.components.labels if new not in chosen]
            better = next((s for s in sets if effect(trace, s) > effect(trace, chosen) + 1e-6), None)
            if better is None:
                return chosen
            chosen = better

    yield 2, anew, "does not search anew"
    yield 2, first_that_helps, "makes the best swap each time"

    def effects(lm, task, budget, seeds, fixed=None):
        for seed in seeds:
            trace = mct.Trace(lm, mct.load_task(task, lm, n=32, seed=seed if fixed is None else fixed), "head_output")
            yield [mct.search(trace, m, [budget], heldout=False, progress=False)[budget].effect for m in ("top-k", "exhaustive")]

    def ratio_of_sums(lm, task, budget, seeds):
        pairs = list(effects(lm, task, budget, seeds))
        return sum(f for f, _ in pairs) / sum(b for _, b in pairs), min(f / b for f, b in pairs)

    def same_prompts(lm, task, budget, seeds):
        shares = [f / b for f, b in effects(lm, task, budget, seeds, fixed=0)]
        return sum(shares) / len(shares), min(shares)

    def in_nats(lm, task, budget, seeds):
        found = [f for f, _ in effects(lm, task, budget, seeds)]
        return sum(found) / len(found), min(found)

    def largest(lm, task, budget, seeds):
        shares = [f / b for f, b in effects(lm, task, budget, seeds)]
        return sum(shares) / len(shares), shares[0]

    yield 3, lambda lm, task, budget, seeds: 0.9, "pair of numbers"
    yield 3, in_nats, "divide the effect found by the optimum"
    yield 3, same_prompts, "fresh prompts for each seed"
    yield 3, ratio_of_sums, "ratio of sums"
    yield 3, largest, "the smallest"
