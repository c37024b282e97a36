"""Guided search where nothing can be enumerated: against greedy at every budget, with what part of its work."""

from __future__ import annotations

from typing import Iterator, Sequence

from mctrace_nb.effects import Effects
from mctrace_nb.grammar import TASKS
from mctrace_nb.layout import LanguageModel
from mctrace_nb.referee import WORTH
from mctrace_nb.search import search
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace

MOST = 24  # the largest budget
TIE = 1e-4  # nats that pass for rounding
SEED = 7  # of the prompts; settings were chosen on others
CASES = ((("mlp_output",), 64, TASKS), (("mlp_neuron",), 32, ("professions", "binding_operation")),
         (("head_output", "mlp_output"), 32, ("names", "binding_operation")), (("head_output", "mlp_neuron"), 32, ("coreference",)),
         (("head_output", "mlp_block"), 64, ("facts", "binding_operation")))


def bar_of(components: int) -> float | None:
    """The largest part of greedy's work that guided search may do, by the number of components."""
    return 1 / 40 if components >= 768 else 1 / 12 if components >= 192 else 1 / 2 if components >= 64 else None


def against_greedy(trace: Effects, name: str, most: int = MOST) -> Iterator[dict]:
    """Both searches up to `most`; prints their effects and gives the smallest ratio, how many budgets lie below greedy, and the work."""
    n = len(trace.components)
    most = min(most, n)
    guided, greedy = (search(trace, m, range(1, most + 1), heldout=False, progress=False) for m in ("guided", "greedy"))
    pairs = [(a.effect, b.effect) for a, b in zip(guided.selections, greedy.selections)]
    ratio = [a / b for a, b in pairs if b > WORTH]
    work = [f.selections[-1].forwards + f.selections[-1].backwards for f in (guided, greedy)]
    print(f"  {name}, {n} components, budgets 1 to {most}: guided / greedy {min(ratio, default=1):.4f} to {max(ratio, default=1):.4f}; work "
          f"{work[0] / work[1]:.4f}; seconds {guided.selections[-1].seconds:.1f} and {greedy.selections[-1].seconds:.1f}", flush=True)
    yield dict(name=f"{name}: budgets up to {most} at which guided lies below greedy", value=sum(a < b - TIE for a, b in pairs), bar=0)
    yield dict(name=f"{name}: largest shortfall (nats)", value=max(0.0, *(b - a for a, b in pairs)))
    yield dict(name=f"{name}: smallest ratio of guided to greedy", value=min(ratio, default=1.0))
    yield dict(name=f"{name}: work of guided / greedy's", value=work[0] / work[1], bar=bar_of(n))


def measure(model: LanguageModel, quick: bool) -> Iterator[dict]:
    """The tutorial model's MLP outputs, neurons, and mixtures with heads."""
    cases: Sequence = ((("mlp_output",), 32, ("professions",)),) if quick else CASES
    for kinds, n, tasks in cases:
        for task in tasks:
            trace = Trace(model, load_task(task, model, n, SEED), kinds)
            yield from against_greedy(trace, f"{task}, {' + '.join(kinds)}", 8 if quick else MOST)
