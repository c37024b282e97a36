"""What the figures of the paper show (Yan et al. 2026, arXiv 2606.03085), measured on any model, task and kind.

Each function gives plain numbers; `mctrace_nb.plots` draws them, and `notebooks/13_paper_figures.ipynb` puts both together.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Iterable, Sequence

import numpy as np

from mctrace_nb.desiderata import Desiderata
from mctrace_nb.effects import Effects
from mctrace_nb.relax import Settings, evaluate_epochs, relax, settings_grid
from mctrace_nb.search import search
from mctrace_nb.shipped import BUILT_IN
from mctrace_nb.tracing import Trace

__all__ = ["ablations", "best_by_size", "course", "desiderata_front", "pairs_and_singles", "sparsity_by_lambda1", "suited"]

ABLATIONS = {"full": None, "no sparsity penalty": "sparsity", "no binary penalty": "binary", "no transform": "transform", "no schedule": "schedule"}


def pairs_and_singles(trace: Effects, most: int = 300, seed: int = 0):
    """Fig. 1: for pairs of components, `singles` (the sum of their two effects alone) and `joint`. All pairs, or `most` drawn at
    random. A frame: components, singles, joint.

        >>> mct.paper.pairs_and_singles(trace).nlargest(2, "joint").round(2)
              components  singles  joint
        54  (L1H2, L2H2)    13.94  13.98
        53  (L1H2, L2H1)    13.00  13.40
    """
    import pandas as pd

    n, rng = len(trace.components), np.random.default_rng(seed)
    if math.comb(n, 2) <= most:
        pairs = list(combinations(range(n), 2))
    else:
        pairs = sorted({tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(most)})
    alone = sorted({i for pair in pairs for i in pair})
    effects = trace.effects(trace.components.masks([[i] for i in alone] + [list(p) for p in pairs])).mean(-1).tolist()
    single = dict(zip(alone, effects))
    labels = trace.components.labels
    return pd.DataFrame([dict(components=(labels[a], labels[b]), singles=single[a] + single[b], joint=joint)
                         for (a, b), joint in zip(pairs, effects[len(alone):])])


def desiderata_front(wish: Desiderata, methods: Sequence[str], budgets: Iterable[int], seed: int = 0, progress: bool = True):
    """Figs. 6 and 19: what each method's set at each budget does to the behaviour to move and to the one to keep.

    A frame: method, budget, components, moved, kept (mean effects, kept in size), worth (what the search maximised).

        >>> move, keep = (mct.Trace(model, mct.load_task(name, model, n=16), "head_output") for name in ("binding", "binding_operation"))
        >>> mct.paper.desiderata_front(mct.Desiderata(move, keep), ["greedy"], [1, 2])[["budget", "moved", "kept"]].round(2)
           budget  moved  kept
        0       1  14.09   0.0
        1       2  28.89   0.0
    """
    import pandas as pd

    rows = []
    for method in methods:
        for s in search(wish, method, budgets, seed=seed, heldout=False, progress=progress).selections:
            does = wish.table(list(s.components)).groupby("wish")["effect"]
            size = {name: float(effects.abs().sum() if name == "keep" else effects.sum()) for name, effects in does}
            rows.append(dict(method=method, budget=s.budget, components=", ".join(s.components), moved=size["move"], kept=size["keep"],
                             worth=s.effect))
    return pd.DataFrame(rows)


def ablations(trace: Trace, lambda1: Sequence[float], epochs: int = 15, seed: int = 0, names: Iterable[str] = ABLATIONS, **options):
    """Fig. 7: the published relaxation and the same without one of its parts, for several lambda1 at once.

    A frame, a row an ablation, lambda1 and epoch: kept (components above one half), violation (sum of m (1 - m)), relaxed_effect
    (of the mask, over the epoch) and effect (of the rounded set).

        >>> mct.paper.ablations(trace, lambda1=[0.05], epochs=2, names=["full", "no transform"])[["ablation", "epoch", "kept"]]
               ablation  epoch  kept
        0          full      1     0
        1          full      2     0
        2  no transform      1     8
        3  no transform      2     8
    """
    import pandas as pd

    rows = []
    for name in names:
        grid = settings_grid(**{"lambda1": list(lambda1), "seed": seed, **options, "without": ABLATIONS[name]})
        runs = relax(trace, grid, epochs, progress=False)
        evaluate_epochs(trace, runs)
        rows += [dict(ablation=name, lambda1=run.settings.lambda1, **{k: row[k] for k in ("epoch", "kept", "violation", "relaxed_effect", "effect")})
                 for run in runs for row in run.history]
    return pd.DataFrame(rows)


def best_by_size(frame, sizes: Iterable[int]):
    """Of rows with `kept` and `effect`: the best effect with at most so many components, (sizes,); 0 for none.

        >>> import pandas as pd
        >>> mct.paper.best_by_size(pd.DataFrame({"kept": [1, 3], "effect": [2.0, 5.0]}), sizes=[1, 2, 3])
        [2.0, 2.0, 5.0]
    """
    return [max([0.0, *frame.loc[(frame["kept"] <= size) & (frame["kept"] > 0), "effect"]]) for size in sizes]


def course(trace: Trace, epochs: int = 15, seed: int = 0, **options):
    """Figs. 16 and 17: how sparse and how binary the published relaxation's mask is after each epoch.

    A frame, a row an epoch (0 is the start): sparsity (mean of m) and violation (mean of m (1 - m), at most 0.25).

        >>> mct.paper.course(trace, epochs=2).round(2)
               sparsity  violation
        epoch
        0          0.50       0.25
        1          0.40       0.24
        2          0.31       0.21
    """
    import pandas as pd

    run, = relax(trace, [Settings(**{"seed": seed, **options})], epochs, progress=False)
    masks = np.stack(run.trajectory).astype(float)
    return pd.DataFrame(dict(sparsity=masks.mean(1), violation=(masks * (1 - masks)).mean(1))).rename_axis("epoch")


def sparsity_by_lambda1(trace: Trace, lambda1: Sequence[float], seeds: Sequence[int] = (0, 1, 2), epochs: int = 15, **options):
    """Fig. 18: how many components the published relaxation keeps after all epochs, for each lambda1, over seeds.

    A frame, a row a lambda1: kept, low, high (mean, smallest and largest over seeds) and effect (mean, of the rounded sets).

        >>> mct.paper.sparsity_by_lambda1(trace, lambda1=[0.01, 0.5], seeds=[0, 1], epochs=3, transform="log").round(2)
                 kept  low  high  effect
        lambda1
        0.01      5.0    5     5   17.19
        0.50      0.0    0     0    0.00
    """
    import pandas as pd

    grid = settings_grid(lambda1=list(lambda1), seed=list(seeds), **options)
    runs = relax(trace, grid, epochs, progress=False)
    evaluate_epochs(trace, runs)
    frame = pd.DataFrame([dict(lambda1=run.settings.lambda1, kept=run.history[-1]["kept"], effect=run.history[-1]["effect"]) for run in runs])
    by = frame.groupby("lambda1")
    return pd.DataFrame(dict(kept=by["kept"].mean(), low=by["kept"].min(), high=by["kept"].max(), effect=by["effect"].mean()))


def suited(model: str) -> dict[str, str]:
    """Tasks that suit a model, by what they are for: the tutorial's for its model, published data sets for any other.

        >>> mct.paper.suited("tutorial")["tasks"]
        'professions,binding_operation'
    """
    if model in BUILT_IN:
        return dict(tasks="professions,binding_operation", mlp_task="professions", fact_task="facts", move="binding", keep="binding_operation")
    return dict(tasks="winobias,winogender", mlp_task="vig_professions", fact_task="counterfact", move="variable_binding",
                keep="variable_binding_operation")
