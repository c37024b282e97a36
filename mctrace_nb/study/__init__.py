"""Studies: many runs of the analysis notebook, and what they say together."""

from mctrace_nb.study.reading import Study, read

__all__ = ["Study", "read"]
