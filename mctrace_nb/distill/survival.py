"""Which components survive distillation? Heads of a reference (the teacher, or a twin that differs only in its seed) are found again in a
student by what they do, and it is measured whether the student's behaviour runs through them.

Numbers of heads mean nothing between models of different origin. So a head is known by its *profile*, the effect of replacing it alone on
each search prompt of each behaviour, as a share of the model's total effect; heads within the same part of the depth are matched by the
correlation of profiles (linear assignment). Only the reference's *carriers* of a behaviour are matched: its smallest exact best set with
nine tenths of the total effect, of at most three heads. What is matched is judged on held-out prompts, against the exact best set of the
same size in the student and the mean over all sets with as many heads in each layer:

    survival = sum (share of partners - mean share of such sets) / sum (1 - mean share of such sets), over behaviours

1: the partners do what the best sets do. 0: any heads of these layers would have done. A student that has never met the teacher has the
task in common with it, so its survival, not 0, is what that of a distilled student has to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from mctrace_nb.counting import mean_effects
from mctrace_nb.distill.behaviours import BEHAVIOURS, behaviour
from mctrace_nb.errors import InputError
from mctrace_nb.tracing import Trace

__all__ = ["Traced", "match", "score", "survival"]

CARRIED, MOST = 0.9, 3  # share of the total effect, and heads


@dataclass(frozen=True)
class Traced:
    """A model traced on several behaviours. traces: by name of the behaviour, all over the same components, one kind of heads.

        >>> from mctrace_nb.shipped import shipped
        >>> student = mct.distill.survival.Traced.of(mct.load_model(shipped("data/distill/student")), n=4)
        >>> sorted(student.traces), student.layers
        (['arrive', 'road', 'size', 'sum'], [0, 0, 0, 0, 1, 1, 1, 1])
    """

    traces: Mapping[str, Trace]
    _known: dict = field(default_factory=dict, repr=False)  # effects of sets, which many comparisons ask for

    @classmethod
    def of(cls, model, n: int = 64, seed: int = 0, components: str = "head_output") -> "Traced":
        """A loaded model on the behaviours of the branching grammar, n search and n held-out prompt pairs each."""
        return cls({name: Trace(model, behaviour(name, model, n, seed), components) for name in BEHAVIOURS})

    @cached_property
    def layers(self) -> list[int]:
        """The layer of each head."""
        return next(iter(self.traces.values())).components.layer_of()

    @cached_property
    def profiles(self) -> np.ndarray:
        """`(N, prompts of all behaviours)`: effect of each head alone on each search prompt, as a share of the mean total effect."""
        return np.concatenate([self.each(name, [(i,) for i in range(len(self.layers))]) / t.scale for name, t in self.traces.items()], 1)

    def each(self, name: str, sets: Sequence[tuple[int, ...]], split: str = "search") -> np.ndarray:
        """`(sets, prompts)`: effects of sets of heads on the prompts of a behaviour."""
        trace = self.traces[name] if split == "search" else self.traces[name].heldout
        return trace.effects(trace.components.masks(sets)).cpu().numpy()

    def means(self, name: str, sets: Sequence[tuple[int, ...]], split: str) -> np.ndarray:
        """`(sets,)`: mean effects on the search or held-out prompts of a behaviour."""
        new = [s for s in dict.fromkeys(sets) if (name, split, s) not in self._known]
        if new:
            trace = self.traces[name] if split == "search" else self.traces[name].heldout
            self._known.update(zip(((name, split, s) for s in new), mean_effects(trace, new, len(new))))
        return np.array([self._known[name, split, s] for s in sets])

    def best(self, name: str, size: int) -> tuple[int, ...]:
        """The exact best set of a size on the search prompts of a behaviour, as numbers of heads."""
        sets = list(combinations(range(len(self.layers)), size))
        return sets[int(np.argmax(self.means(name, sets, "search")))]

    @cached_property
    def carriers(self) -> dict[str, tuple[int, ...]]:
        """Of each behaviour: the smallest of its best sets with `CARRIED` of the total effect on the search prompts; if none of up to `MOST`
        heads has that much, the best set of `MOST`. Raises InputError for a behaviour without a positive total effect."""
        found = {}
        for name, trace in self.traces.items():
            total = float(trace.total_effects().mean())
            if total <= 0:
                raise InputError(f"{trace!r}: the total effect is {total:.3f}, not positive, so that nothing carries it; check the task")
            for size in range(1, min(MOST, len(self.layers)) + 1):
                found[name] = self.best(name, size)
                if self.means(name, [found[name]], "search")[0] >= CARRIED * total:
                    break
        return found


def match(reference: Traced, student: Traced, heads: Sequence[int]) -> dict[int, int]:
    """Heads of a reference -> heads of the student, one to one within each band of depth; as many bands as the shallower one has layers.

    The pairing has the largest sum of correlations of profiles. Where a band holds more of `heads` than the student has there, those
    that fit worst have no partner. Raises InputError if the profiles are of different prompts.

        >>> from mctrace_nb.shipped import shipped
        >>> before, after = (mct.distill.survival.Traced.of(mct.load_model(shipped(f"data/distill/{name}")), n=4) for name in ("student", "opd"))
        >>> mct.distill.survival.match(before, after, heads=[0, 1])
        {0: 0, 1: 1}
    """
    one, other = reference.profiles, student.profiles
    if list(reference.traces) != list(student.traces) or one.shape[1] != other.shape[1]:
        raise InputError(f"reference and student were traced on {list(reference.traces)} and {list(student.traces)}, {one.shape[1]} and "
                         f"{other.shape[1]} prompts; trace both on the same")
    depths = [max(t.layers) + 1 for t in (reference, student)]
    # of 4 layers in 2 bands, 0 and 1 lie in band 0
    mine, its = ([layer * min(depths) // depth for layer in t.layers] for t, depth in zip((reference, student), depths))
    alike, found = correlations(one, other), {}
    for band in range(min(depths)):
        rows, columns = [i for i in heads if mine[i] == band], [j for j in range(len(its)) if its[j] == band]
        for a, b in zip(*linear_sum_assignment(alike[np.ix_(rows, columns)], maximize=True)):
            found[rows[a]] = columns[b]
    return found


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson correlations `(N, M)` of the rows of `(N, P)` and `(M, P)`; a constant row correlates 0 with everything."""
    rows = []
    for x in (one, other):
        x = x - x.mean(1, keepdims=True)
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        rows.append(np.divide(x, norm, out=np.zeros_like(x), where=norm > 1e-12))
    return rows[0] @ rows[1].T


def like(layers: Sequence[int], chosen: Sequence[int]) -> list[tuple[int, ...]]:
    """All sets with as many heads in each layer as `chosen`, itself included: the control of a set."""
    there = [layers[i] for i in chosen]
    choices = [combinations([i for i, x in enumerate(layers) if x == layer], there.count(layer)) for layer in sorted({*there})]
    return [sum(parts, ()) for parts in product(*choices)]


def survival(reference: Traced, student: Traced, matching: Mapping[int, int] | None = None) -> list[dict]:
    """A row per behaviour: does what carries it in the reference carry it in the student?

    matching: which head of the student a head of the reference is, default by `match`. In each row: `size` of the carriers; `matched`, how
    many have a partner; `share`, held-out effect of the partners over that of the student's best set of as many; `random`, the mean share
    of all sets with as many heads in each layer; `overlap`, how many of the partners are in the student's best set, as a share;
    `overlap_random`; `agreement`, the correlation over held-out prompts of the effects of carriers and of partners.

        >>> from mctrace_nb.shipped import shipped
        >>> before, after = (mct.distill.survival.Traced.of(mct.load_model(shipped(f"data/distill/{name}")), n=4) for name in ("student", "opd"))
        >>> rows = mct.distill.survival.survival(before, after)
        >>> rows[0]["behaviour"], rows[0]["size"], rows[0]["matched"]
        ('road', 3, 3)
    """
    rows = []
    for name, carriers in reference.carriers.items():
        pairs = match(reference, student, carriers) if matching is None else {a: matching[a] for a in carriers if a in matching}
        row = dict(behaviour=name, size=len(carriers), matched=len(pairs), share=0.0, random=0.0, overlap=0.0, overlap_random=0.0, agreement=0.0)
        if pairs:  # a cut student may have lost them all: nothing survives then
            partners, best = tuple(sorted(pairs.values())), student.best(name, len(pairs))
            control = like(student.layers, partners)
            effects = student.means(name, [best, partners, *control], "heldout")
            row |= dict(share=float(effects[1] / effects[0]), random=float(effects[2:].mean() / effects[0]),
                        overlap=len({*partners} & {*best}) / len(best),
                        overlap_random=float(np.mean([len({*s} & {*best}) for s in control])) / len(best),
                        agreement=float(correlations(reference.each(name, [carriers], "heldout"), student.each(name, [partners], "heldout"))[0, 0]))
        rows.append(row)
    return rows


def score(rows) -> float:
    """Survival over the behaviours of a frame (or list of rows) of `survival`: a ratio of sums, since a behaviour in which any heads would
    have done has next to nothing to tell. nan where that holds for all of them.

        >>> round(mct.distill.survival.score([dict(share=0.9, random=0.5), dict(share=0.7, random=0.5)]), 2)
        0.6
    """
    gained, possible = sum(row["share"] - row["random"] for row in rows), sum(1 - row["random"] for row in rows)
    return gained / possible if possible > 1e-9 else float("nan")
