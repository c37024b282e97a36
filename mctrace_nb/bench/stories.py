"""A real pretrained model: stories260K, whose 40 heads allow an enumeration up to four of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

from mctrace_nb.bench.large import against_greedy
from mctrace_nb.models import load_model
from mctrace_nb.search import search
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

GIRLS = "Lily Sue Amy Lucy Mia Anna Sara Jane Emma Mary Kate Rose".split()
BOYS = "Tim Ben Timmy Max Jack Sam Tom John Bob Joe Peter Mark".split()
STARTS = ("Once upon a time, there was a little {} named {}. One day,", "There was a little {} named {}. One day,",
          "Once there was a little {} named {}. One day,", "Once upon a time, there was a {} named {}. One day,")
KINDS = ("head_output", "mlp_output", "mlp_neuron")


def folder() -> Path:
    """Where the model is looked for: the folder of assets named by MCTRACE_ASSETS."""
    return Path(os.environ.get("MCTRACE_ASSETS", "../shared/assets")) / "models" / "stories260K"


def pronouns(model, n: int | None) -> Task:
    """`n` (None: all) pairs "... a little girl named Lily. One day," -> she and "... a little boy named Tim. One day," -> he, of equal length."""
    pairs = []
    for start in STARTS:
        free = list(BOYS)
        for girl in GIRLS:
            other = start.format("girl", girl)
            length = len(model.tokenizer(other)["input_ids"])
            boy = next((b for b in free if len(model.tokenizer(start.format("boy", b))["input_ids"]) == length), None)
            if boy:
                free.remove(boy)
                pairs.append(dict(base=start.format("boy", boy), counterfactual=other, target="she", foil="he", group=f"{start} {girl}"))
    return Task.from_pairs(pairs, model, name="pronouns", heldout=0, n=n, seed=7)


def measure(quick: bool) -> Iterator[dict]:
    """Heads against the exact optimum (102,090 sets on 16 prompts; `quick`: up to two heads), MLP units against greedy."""
    if not (folder() / "config.json").exists():
        print(f"  stories260K is not measured: it is not in {folder()} (set MCTRACE_ASSETS to a folder that has models/stories260K)")
        return
    model = load_model(str(folder()), device="cpu")
    trace = Trace(model, pronouns(model, 16), "head_output")
    budgets = range(1, 3 if quick else 5)
    exact, guided = (search(trace, m, budgets, heldout=False, progress=False) for m in ("exhaustive", "guided"))
    for best, found in zip(exact.selections, guided.selections):
        print(f"  stories260K, {best.budget} of {len(trace.components)} heads: {', '.join(best.components)} {best.effect:.4f}; guided {found.effect:.4f}")
    yield dict(name="stories260K, 40 heads: smallest share of the exact optimum that guided finds",
               value=min(a.effect / b.effect for a, b in zip(guided.selections, exact.selections)), bar=1 - 1e-5, sense=">=")
    for kind in KINDS[:1] if quick else KINDS:
        yield from against_greedy(trace.again(components=kind), f"stories260K, {kind}", 8 if quick else 24)
