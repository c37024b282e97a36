"""Studies: many runs of the analysis notebook, and what they say together."""

from importlib import import_module

from mctrace_nb.study.reading import Study, excerpt, read

_LATER = {"sweep": "driver", "dask_executor": "driver", "run_one": "process"}  # reading a study needs no torch

__all__ = ["Study", "excerpt", "read", *_LATER]


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
