"""Multi-component causal tracing of language models: which set of heads and MLP units moves a behaviour most?

    import mctrace_nb as mct

    model = mct.load_model("tutorial", device="cpu")
    task = mct.load_task("names", model, n=16)
    trace = mct.Trace(model, task, components="head_output")

The examples of all public names begin with these lines. What they print is tested, up to the last digit shown.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_WHERE = {
    "load_model": "models", "random_model": "models", "wrap_model": "models", "LanguageModel": "models",
    "Task": "tasks", "Example": "tasks", "load_task": "tasks",
    "published_config": "published", "published_effects": "published", "published_runs": "published",
    "measure": "sizing", "Desiderata": "desiderata", "known": "views", "estimate": "cost", "Cost": "cost",
    "sweep": "views", "evidence": "views", "transfer": "views", "speech": "views", "answers": "views",
    "next_tokens": "apply", "continuation": "apply",
    "join_ranks": "serving", "Components": "components", "Trace": "tracing", "Metric": "metrics",
    "explain": "explain", "Explanation": "explain", "stability": "stability", "Stability": "stability",
    "Selection": "results", "Front": "results", "InputError": "errors",
    "circuit_lasso": "lasso", "Circuit": "circuits", "edge_attribution": "edges",
    "search": "search", "pgb": "relax", "landscape": "landscape", "outcomes": "relax", "compare": "compare", "Comparison": "compare", "preflight": "preflight",
}
_ROOMS = ("check", "circuits", "distill", "grammar", "lasso", "metrics", "observing", "paper", "parameters", "planted", "plots", "referee", "report", "run", "sae", "sizing", "stats", "study", "traps", "widgets")

__all__ = [*_WHERE, *_ROOMS, "__version__"]


def __getattr__(name: str):
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)


class _Package(ModuleType):
    """`mct.search` and `mct.compare` are functions that live in rooms of the same name. Importing a room would bind the
    room itself to that name; here the function is bound instead, in whatever order things are first used."""

    def __setattr__(self, name, value):
        super().__setattr__(name, getattr(value, name) if name in _WHERE and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
