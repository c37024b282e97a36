"""Entropy-aware on-policy distillation (Jin et al., arXiv 2603.07079) at a size at which it can be watched."""

from importlib import import_module

__all__ = ["behaviours", "experiment", "loop", "losses", "measures", "models", "pairs", "problems", "rollouts", "survey", "survival", "toy"]


def __getattr__(name: str):
    if name in __all__:  # when first used: each needs torch
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
