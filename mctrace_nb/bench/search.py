"""How good: what each method finds against the exact optimum, on every tutorial task, at every budget."""

from __future__ import annotations

from typing import Iterator

from mctrace_nb.grammar import TASKS
from mctrace_nb.models import load_model
from mctrace_nb.search import search
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace

METHODS = ("greedy", "guided", "top-k", "pgb", "pgb-published")
SEED = 7  # prompts that chose neither the model nor any setting
WORTH = 0.05  # budgets whose optimum is smaller than this (nats) are left out of shares


def measure(quick: bool) -> Iterator[dict]:
    """Prints the table of effects and gives, per task and kind, each method's smallest share of the optimum."""
    model = load_model("tutorial", device="cpu")
    budgets = range(1, 5) if quick else range(1, 9)
    cases: dict[str, list[float]] = {method: [] for method in METHODS}
    work: dict[str, float] = dict.fromkeys(METHODS, 0.0)
    for task in TASKS[:1] + TASKS[-1:] if quick else TASKS:
        for kind in ("head_output",) if quick else ("head_output", "head_pattern"):
            trace = Trace(model, load_task(task, model, 64, SEED), kind)
            exact = search(trace, "exhaustive", budgets, heldout=False, progress=False)
            best = [s.effect for s in exact.selections]
            print(f"  {task}, {kind}: total effect {trace.total_effect()}")
            print(f"    {'exact':10}" + "".join(f"{e:9.2f}" for e in best))
            for method in METHODS:
                front = search(trace, method, budgets, heldout=False, progress=False)
                found = {s.budget: s.effect for s in front.selections}
                print(f"    {method:10}" + "".join(f"{found[b]:9.2f}" if b in found else "        -" for b in budgets))
                shares = [found.get(b, 0.0) / e for b, e in zip(budgets, best) if e > WORTH]
                yield dict(name=f"smallest share of the optimum: {task}, {kind}, {method}", value=min(shares, default=1.0))
                cases[method] += shares
                work[method] += front.selections[-1].forwards + front.selections[-1].backwards if front.selections else 0
    yield dict(name="greedy misses the optimum somewhere: its smallest share", value=min(cases["greedy"]), bar=0.8)
    yield dict(name="guided: share of the cases in which it finds the optimum", value=sum(x > 1 - 1e-5 for x in cases["guided"]) / len(cases["guided"]),
               bar=0.98, sense=">=")
    yield dict(name="guided: its smallest share", value=min(cases["guided"]), bar=0.99, sense=">=")
    yield dict(name="guided: rows forwarded and back-propagated / greedy's", value=work["guided"] / work["greedy"], bar=3.0)
