"""How good: every method at every budget against the exact optimum, where there is one, and against greedy search elsewhere.

Nothing was tuned on what is reported here: settings were chosen on prompts of seeds 100 to 105 of the shipped model.
"""

from __future__ import annotations

import math
from typing import Iterable, Iterator

import numpy as np

from mctrace_nb.bench import large, stories
from mctrace_nb.compare import SAME, compare
from mctrace_nb.grammar import TASKS
from mctrace_nb.layout import LanguageModel
from mctrace_nb.models import load_model
from mctrace_nb.referee import WORTH, ask, tutorial_traces

RIVALS = ("attribution", "integrated-gradients", "shapley", "hard-concrete", "dcm")
METHODS = ("exhaustive", "guided", "greedy", "top-k", "pgb", "pgb-published", *RIVALS, "random")
KINDS = ("head_output", "head_pattern")
SEEDS = (7, 31)  # of the prompts


def quality(model: LanguageModel, tasks: Iterable[str], kinds: Iterable[str], seeds: Iterable[int], budgets: Iterable[int],
            methods: Iterable[str] = METHODS):
    """A frame of `Comparison.quality` for all tasks, kinds and seeds, with these as further columns; prints each as a table."""
    import pandas as pd

    found = []
    for trace in tutorial_traces(model, tasks, kinds, seeds):
        frame = compare(trace, list(methods), budgets, progress=False).quality()
        name = dict(task=trace.task.name, kind=trace.components.kinds[0], seed=trace.task.seed)
        found.append(frame.assign(**name))
        show(", ".join(map(str, name.values())), frame)
    return pd.concat(found, ignore_index=True)


def show(title: str, frame) -> None:
    """Prints one comparison: the optimum's effects, each method's fraction of them, its work and seconds."""
    budgets = sorted(frame["budget"].unique())
    by = {method: f.set_index("budget") for method, f in frame.groupby("method", sort=False)}
    print(f"  {title}")
    print(f"    {'budget':21}{''.join(f'{b:8}' for b in budgets)}{'forwards':>11}{'backwards':>11}{'seconds':>9}")
    for method, f in by.items():
        column = "effect" if method == "exhaustive" else "fraction"
        cells = "".join(f"{f[column][b]:8.{2 if column == 'effect' else 3}f}" if b in f.index else "       -" for b in budgets)
        print(f"    {method + (' (nats)' if column == 'effect' else ''):21}{cells}{f['forwards'].max():11,}{f['backwards'].max():11,}{f['seconds'].max():9.2f}")
    print(flush=True)


def bars(frame, name: str = "", judged: bool = True) -> Iterator[dict]:
    """The summary of a frame of `quality` against what is asked of guided search, and a line for every method. judged: False for a part
    of the cases, of which only the whole has a bar."""
    optimum = frame.query("method == 'exhaustive'").set_index(["task", "kind", "seed", "budget"])["effect"]
    worth = optimum[optimum > WORTH]
    effect = {m: f.set_index(["task", "kind", "seed", "budget"])["effect"].reindex(worth.index).fillna(0) for m, f in frame.groupby("method")}
    share = {m: e / worth for m, e in effect.items()}
    work = {m: f.assign(work=f["forwards"] + f["backwards"]).groupby(["task", "kind", "seed"])["work"].max() for m, f in frame.groupby("method")}
    head = f"{name}: " if name else ""
    yield dict(name=f"{head}cases (task, kind, prompts, budget) with an optimum above {WORTH} nats", value=len(worth))
    yield dict(name=f"{head}guided: share of the cases in which it has the exact optimum", value=_exact(share["guided"]), bar=0.98 if judged else None,
               sense=">=")
    yield dict(name=f"{head}guided: smallest share of the optimum", value=share["guided"].min(), bar=0.99, sense=">=")
    yield dict(name=f"{head}guided: cases below greedy", value=int((effect["guided"] < effect["greedy"] * (1 - SAME)).sum()), bar=0)
    yield dict(name=f"{head}guided: rows forwarded and back-propagated / greedy's, at most", value=(work["guided"] / work["greedy"]).max(), bar=3.0)
    for method in sorted(set(share) - {"exhaustive", "guided"}, key=lambda m: -_exact(share[m])):
        yield dict(name=f"{head}{method}: share with the optimum", value=_exact(share[method]))
        yield dict(name=f"{head}{method}: mean share of the optimum", value=share[method].mean())
        yield dict(name=f"{head}{method}: smallest share of the optimum", value=share[method].min())
        if method in work:
            yield dict(name=f"{head}{method}: work / greedy's, mean", value=float(np.mean(work[method] / work["greedy"].reindex(work[method].index))))


def _exact(share) -> float:
    return float((share > 1 - SAME).mean())


def measure(quick: bool) -> Iterator[dict]:
    """Prints the tables and gives their summaries; `quick`: two tasks, one kind, one seed, budgets up to four."""
    model = load_model("tutorial", device="cpu")
    tasks = TASKS[:1] + TASKS[-1:] if quick else TASKS
    found = quality(model, tasks, KINDS[:1] if quick else KINDS, SEEDS[:1] if quick else SEEDS, range(1, 5 if quick else 9))
    yield from bars(found)
    greedy = found.query("method == 'greedy'")["fraction"]
    yield dict(name="greedy misses the optimum somewhere: its smallest share", value=greedy.min(), bar=0.8)
    answers = ask(tutorial_traces(model, tasks[-1:] if quick else tasks, KINDS[:1] if quick else KINDS, SEEDS[:1], 64), range(1, 5 if quick else 9))
    print(f"  a referee's three questions. {answers.words()}\n{answers.table().round(4).to_string()}\n", flush=True)
    for (question, what), value in answers.table()["value"].items():
        if not math.isnan(value):
            yield dict(name=f"referee: {question} {what}", value=value)
    yield from large.measure(model, quick)
    yield from stories.measure(quick)
