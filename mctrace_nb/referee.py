"""Three questions that a public review asked of the published method, answered where every subset can be run.

1. Does the relaxed optimum coincide with the discrete one? The largest mean effect over masks in [0, 1]^N with
   `sum m <= S` is looked for by projected gradient from three starts, the exact discrete optimum among them, and
   compared with that optimum: what it gains, how far from binary it is, and what is left after rounding to its top S. The
   other two starts alone show whether the relaxation finds the optimum without being told.
2. Does a search recover the brute-force set? How often each method's set has the exact optimum's effect.
3. Does the metric transformation change the ranking of sets? Rank correlation over all subsets between the transformed
   objective and the mean raw effects, and what it costs to choose the best set by the one instead of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Iterable, Sequence

import numpy as np
import torch

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.search import check_budgets, search

__all__ = ["Answers", "ask", "every_set", "relaxed_optima", "tutorial_traces"]

MOST = 14  # components whose 2^N subsets are run
WORTH = 0.05  # nats; budgets whose optimum is smaller are left out, as a share of it means little
SAME = 1e-4  # nats that pass for rounding
METHODS = ("guided", "pgb", "pgb-published", "greedy", "top-k")


def every_set(trace: Effects) -> tuple[np.ndarray, np.ndarray]:
    """All subsets and what they do: masks `(2^N, N)` of 0 and 1, effects `(2^N, n)` in nats. Raises InputError beyond 14 components.

        >>> masks, effects = mct.referee.every_set(mct.Trace(model, task, "attn_block"))
        >>> masks.shape, effects.shape
        ((8, 3), (8, 8))
    """
    n = len(trace.components)
    if n > MOST:
        raise InputError(f"{n} components have 2^{n} subsets; all of them are run only up to {MOST} components")
    masks = ((np.arange(2 ** n)[:, None] >> np.arange(n)) & 1).astype(np.float32)
    found = [trace.effects(part, scale="log").double().cpu().numpy() for part in torch.as_tensor(masks).split(4096)]
    return masks, np.concatenate(found)


def within_budget(masks: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """The nearest masks in [0, 1]^N with `sum m <= S`: (R, N), (R,) -> (R, N). What is too much is taken from all entries alike."""
    low, high = torch.zeros_like(budgets), masks.amax(1).clamp(min=0) + 1
    over = masks.clamp(0, 1).sum(1) > budgets
    for _ in range(50):
        middle = (low + high) / 2
        more = (masks - middle[:, None]).clamp(0, 1).sum(1) > budgets
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (masks - torch.where(over, high, 0.0)[:, None]).clamp(0, 1)


def relaxed_optima(trace: Effects, budgets: Sequence[int], starts: torch.Tensor, steps: int = 40,
                   lr: float = 0.05) -> tuple[torch.Tensor, np.ndarray]:
    """The best masks found in [0, 1]^N with `sum m <= S`, (B, K, N), and their mean effects, (B, K).

    starts: (B, K, N) masks for each budget, from each of which projected Adam climbs the mean effect; the best mask that it
    passed is kept, so that the result is never below the start. It is a lower bound of the relaxed optimum.

        >>> import torch
        >>> blocks = mct.Trace(model, task, "attn_block")
        >>> masks, effects = mct.referee.relaxed_optima(blocks, budgets=[1], starts=torch.full((1, 1, 3), 0.3), steps=5)
        >>> masks.shape, effects.round(2)
        (torch.Size([1, 1, 3]), array([[5.85]]))
    """
    b, k, n = starts.shape
    limits = torch.tensor(budgets, dtype=starts.dtype).repeat_interleave(k)
    masks = within_budget(starts.reshape(-1, n), limits)
    leaf = masks.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=lr)
    best, top = masks.clone(), torch.full((b * k,), -torch.inf, dtype=torch.float64)
    for _ in range(steps + 1):
        effects = trace.effects(leaf, scale="log").mean(-1)
        leaf.grad = -torch.autograd.grad(effects.sum(), leaf)[0]
        better = effects.double() > top
        best[better], top[better] = leaf.detach()[better], effects.detach().double()[better]
        adam.step()
        with torch.no_grad():
            leaf.copy_(within_budget(leaf, limits))
    return best.reshape(b, k, n), top.reshape(b, k).numpy()


def _cases(trace: Effects, budgets: Sequence[int], seed: int, masks: np.ndarray, mean: np.ndarray) -> list[dict]:
    """Questions 1 and 2: a row a budget."""
    n, sizes = masks.shape[1], masks.sum(1)
    best = [np.flatnonzero(sizes == s)[mean[sizes == s].argmax()] for s in budgets]
    rng = torch.Generator().manual_seed(seed)
    starts = torch.stack([torch.stack([torch.as_tensor(masks[i]), torch.full((n,), s / n), torch.rand(n, generator=rng)])
                          for i, s in zip(best, budgets)])
    relaxed, value = relaxed_optima(trace, budgets, starts)
    rows = []
    for i, s, m, v in zip(best, budgets, relaxed, value):
        tops = [torch.argsort(-x, stable=True)[:s].tolist() for x in m]
        rounded = [mean[sum(1 << j for j in top)] for top in tops]
        rows.append(dict(budget=s, optimum=mean[i], relaxed=v.max(), violation=float((m[v.argmax()] * (1 - m[v.argmax()])).sum()),
                         rounded=rounded[v.argmax()], untold=rounded[1 + v[1:].argmax()]))
    for method in METHODS:
        found = {s.budget: s.effect for s in search(trace, method, budgets, seed=seed, heldout=False, progress=False).selections}
        for row in rows:
            row[method] = found.get(row["budget"], 0.0)
    for row in rows:  # what a random set of the size reaches half of the time
        row["random"] = float(np.median(mean[sizes == row["budget"]]))
    return rows


def _ranks(effects: np.ndarray, sizes: np.ndarray, budgets: Sequence[int]) -> dict:
    """Question 3: rank correlations of `mean_n 1/(1 + rho_n)`, smaller is better, over all sets, and the loss by choosing with it."""
    from scipy.stats import spearmanr

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return spearmanr(a, b)[0] if np.ptp(a) and np.ptp(b) else np.nan  # nothing to rank where all are the same

    transformed, mean, raw = -np.exp(-effects).mean(1), effects.mean(1), np.expm1(effects).mean(1)
    upper = mean >= np.quantile(mean, 0.9)
    chosen = {s: np.flatnonzero(sizes == s)[transformed[sizes == s].argmax()] for s in budgets}
    share = {s: mean[i] / mean[sizes == s].max() for s, i in chosen.items() if mean[sizes == s].max() > WORTH}
    worst = min(share, key=share.get, default=0)
    return dict(spearman=alike(transformed, mean), spearman_raw=alike(transformed, raw),
                spearman_upper=alike(transformed[upper], mean[upper]), raw_against_log=alike(raw, mean),
                same_best=float(np.mean([x > 1 - SAME for x in share.values()])) if share else np.nan, worst_share=share.get(worst, np.nan),
                worst_budget=worst)


@dataclass(frozen=True)
class Answers:
    """cases: a frame, a row a task, kind, seed of the prompts and budget: optimum, relaxed optimum, its distance from binary, its
    effect when rounded, that of the relaxation which was not told the optimum (`untold`), and the effect of each method. ranks: a row
    a task, kind and seed. clouds: for each of those the transformed objective and the mean effect of every subset, (2^N,) each.

        >>> import pandas as pd
        >>> answers = mct.referee.Answers(pd.DataFrame({"budget": [1, 2], "optimum": [0.0, 9.5]}), ranks=None, clouds={})
        >>> answers.worth  # cases in which there is something to find
           budget  optimum
        1       2      9.5
    """

    cases: object
    ranks: object
    clouds: dict[tuple, tuple[np.ndarray, np.ndarray]]

    @property
    def worth(self):
        """The cases whose optimum exceeds 0.05 nats."""
        return self.cases[self.cases["optimum"] > WORTH]

    def agreement(self):
        """A frame, a row a method: share of the cases in which its set has the optimum's effect, mean and smallest share of that."""
        import pandas as pd

        rows = {}
        for method in (*METHODS, "random"):
            share = self.worth[method] / self.worth["optimum"]
            rows[method] = dict(agrees=((self.worth["optimum"] - self.worth[method]) < SAME * self.worth["optimum"].clip(lower=1)).mean(),
                                mean_share=share.mean(), worst_share=share.min())
        return pd.DataFrame(rows).T.rename_axis("method")

    def table(self):
        """The three answers as one frame: question, measured, value."""
        import pandas as pd

        cases, ranks, agree = self.worth, self.ranks, self.agreement()
        gain = cases["relaxed"] / cases["optimum"] - 1
        inside, rounded, untold = cases["violation"] > 0.01, cases["rounded"] / cases["optimum"], cases["untold"] / cases["optimum"]
        q1, q2, q3 = "1 relaxed optimum = discrete?", "2 recovers the best set?", "3 transform keeps the ranking?"
        rows = [(q1, "cases (task, kind, prompts, budget)", len(cases)), (q1, "share in which the relaxed optimum is not binary", inside.mean()),
                (q1, "what it gains over the discrete one: mean", gain.mean()), (q1, "what it gains: largest", gain.max()),
                (q1, "share of the optimum after rounding: mean", rounded.mean()), (q1, "after rounding: smallest", rounded.min()),
                (q1, "share of the optimum, relaxed without being told it, rounded: mean", untold.mean()), (q1, "the same: smallest", untold.min())]
        rows += [(q2, f"{method}: share of the cases that agree", agree.loc[method, "agrees"]) for method in agree.index]
        rows += [(q3, "rank correlation with the mean effect: mean", ranks["spearman"].mean()), (q3, "smallest", ranks["spearman"].min()),
                 (q3, "among the tenth of sets with the largest effects: smallest", ranks["spearman_upper"].min()),
                 (q3, "rank correlation with the mean raw effect rho: smallest", ranks["spearman_raw"].min()),
                 (q3, "share of budgets with the same best set", ranks["same_best"].mean()),
                 (q3, "smallest share of the optimum if sets are chosen by it", ranks["worst_share"].min())]
        return pd.DataFrame(rows, columns=["question", "measured", "value"]).set_index(["question", "measured"])

    def words(self) -> str:
        """The three answers in words, with their numbers."""
        cases, ranks, agree = self.worth, self.ranks, self.agreement()
        gain, untold = cases["relaxed"] / cases["optimum"] - 1, cases["untold"] / cases["optimum"]
        breaks = ranks.loc[ranks["worst_share"].idxmin()]
        return (f"Over {len(cases)} cases: (1) No fractional mask was found that does much more than the best set: at most {gain.max():.1%} more, and "
                f"the best relaxed mask is binary in {(cases['violation'] <= 0.01).mean():.0%}. But from starts that do not know it the relaxation, "
                f"rounded, has {untold.mean():.0%} of the optimum on average and {untold.min():.0%} at worst. "
                f"(2) The brute-force set's effect is reached by {', '.join(f'{m} in {a:.0%}' for m, a in agree['agrees'].items())}. (3) The "
                f"transformed objective ranks all subsets as the mean effect does with a correlation of {ranks['spearman'].min():.3f} to "
                f"{ranks['spearman'].max():.3f}, but among the tenth of the sets with the largest effects down to {ranks['spearman_upper'].min():.2f}; the set it "
                f"ranks first is the best one in {ranks['same_best'].mean():.0%} of the budgets, and at worst ({breaks['task']}, budget "
                f"{breaks['worst_budget']:.0f}) has {breaks['worst_share']:.0%} of the optimum.")


def ask(traces: Iterable[Effects], budgets: Iterable[int] = range(1, 9), seed: int = 0) -> Answers:
    """Puts the three questions to traces of at most 14 components each, with a ratio metric.

    Raises InputError for a trace with more components, or a metric that is no ratio (it has no transform to ask about).

        >>> answers = mct.referee.ask([mct.Trace(model, task, "attn_block")], budgets=[1])
        >>> answers.cases[["optimum", "untold", "greedy"]].round(2)
           optimum  untold  greedy
        0     9.55    0.83    9.55
    """
    import pandas as pd

    cases, ranks, clouds = [], [], {}
    for trace in traces:
        if trace.transform != "inverse":
            raise InputError(f"metric {trace.metric.name!r} of {trace!r} is no ratio, so the published transform does not apply; use 'log_odds'")
        wanted = check_budgets([b for b in budgets if b <= len(trace.components)], len(trace.components))
        name = dict(task=trace.task.name, kind=" + ".join(trace.components.kinds), prompts=trace.task.seed)
        masks, effects = every_set(trace)
        cases += [{**name, **row} for row in _cases(trace, wanted, seed, masks, effects.mean(1))]
        ranks.append({**name, **_ranks(effects, masks.sum(1), wanted)})
        clouds[tuple(name.values())] = np.exp(-effects).mean(1), effects.mean(1)
    return Answers(pd.DataFrame(cases), pd.DataFrame(ranks), clouds)


def tutorial_traces(model, tasks: Iterable[str], kinds: Iterable[str] = ("head_output",), seeds: Iterable[int] = (0,), n: int = 64):
    """Traces of all combinations, one after the other.

        >>> [len(trace.components) for trace in mct.referee.tutorial_traces(model, ["names"], ["head_output", "attn_block"], n=16)]
        [12, 3]
    """
    from mctrace_nb.tasks import load_task
    from mctrace_nb.tracing import Trace

    for task, kind, seed in product(tasks, kinds, seeds):
        yield Trace(model, load_task(task, model, n, seed), kind)
