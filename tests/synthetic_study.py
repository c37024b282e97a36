"""Studies written by hand: the folder that a sweep leaves, with sets and effects that are known beforehand."""

import json
from itertools import product
from pathlib import Path

import numpy as np

HEADER = "method,budget,size,effect,best_up_to,effect_heldout,ci_low,ci_high,components,forwards,backwards,seconds"


def write_study(folder: Path, sets, layers=12, heads=12, budget=2, unit="nats", **axes):
    """Writes a finished study over all combinations of the axes.

    sets: a function of a run's axes that gives its fronts by method, a list of `(labels, effect)` for budgets 1, 2, ...; the total
    effect is 10, the held-out effect is a tenth less with an interval of half a nat to either side.
    """
    layers, heads = (f if callable(f) else (lambda f: lambda **_: f)(f) for f in (layers, heads))
    runs = []
    for values in product(*axes.values()):
        at = dict(zip(axes, values))
        name = "-".join(str(v).replace("/", "_") for v in values)
        runs.append(dict(name=name, axes=at))
        write_run(folder / "runs" / name, at, sets(**at), layers(**at), heads(**at), budget, unit)
    (folder / "study.json").write_text(json.dumps(dict(axes=list(axes), code="0.1.0-00000000", runs=runs)))
    return folder


def write_run(place: Path, at: dict, fronts: dict, layers: int, heads: int, budget: int, unit: str):
    place.mkdir(parents=True)
    lines = [HEADER]
    for method, front in fronts.items():
        for b, (labels, effect) in enumerate(front, 1):
            best = max(e for _, e in front[:b])
            lines.append(f"{method},{b},{len(labels)},{effect},{best},{effect * 0.9},{effect * 0.9 - 0.5},{effect * 0.9 + 0.5},{';'.join(labels)},10,0,0.1")
    (place / "front.csv").write_text("\n".join(lines) + "\n")
    method = "exhaustive" if "exhaustive" in fronts else next(iter(fronts))
    labels, effect = fronts[method][budget - 1]
    held = dict(what="total effect", prompts="held-out", effect=9.0)
    result = dict(model=f"LanguageModel('x': GPT2LMHeadModel, {layers} layers x {heads} heads, width 8, ...)", kinds=["head_output"],
                  components=layers * heads, unit=unit, direction="max", budget=budget, total_effect=dict(mean=10.0), evidence=[held],
                  selection=dict(method=method, exact=method == "exhaustive", components=labels, effect=effect, effect_heldout=effect * 0.9,
                                 ci=[effect * 0.9 - 0.5, effect * 0.9 + 0.5]))
    (place / "result.json").write_text(json.dumps(result))
    (place / "analysis.ipynb").write_text("{}")
    (place / "run.json").write_text(json.dumps(dict(name=place.name, status="done", reason="", cell=None, axes=at, parameters=at, seconds=1.5,
                                                    peak_gib=0.5, host="node", started="2026-01-01T00:00:00Z", code="0.1.0-00000000")))


def drawn(layers=12, heads=12, budgets=8, methods=("guided", "greedy", "top-k", "pgb", "random"), **at):
    """Fronts of a run by chance, for tests of size: sets that two seeds have mostly in common, and effects that grow with them."""
    mine = np.random.default_rng([sum(map(ord, f"{at.get('model')}{at.get('task')}"))])
    order, rng = mine.permutation(layers * heads), np.random.default_rng([at.get("seed", 0), *map(ord, f"{at.get('model')}{at.get('task')}")])
    fronts = {}
    for i, method in enumerate(methods):
        swapped = order.copy()
        for place in np.flatnonzero(rng.random(budgets) < 0.2):
            swapped[place] = rng.choice(order[budgets:])
        labels = [f"L{x // heads}H{x % heads}" for x in swapped[:budgets]]
        fronts[method] = [(sorted(labels[:b]), round(9 * (1 - 0.6 ** b) * 0.9 ** i + rng.normal(0, 0.2), 4)) for b in range(1, budgets + 1)]
    return fronts
