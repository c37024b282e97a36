"""By what a run is known again: its parameters, the files that it reads, and the code that it runs."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mctrace_nb
from mctrace_nb.parameters import NOTEBOOK, PATHS
from mctrace_nb.shipped import BUILT_IN, shipped

# Rooms that no analysis uses: a change in them leaves finished runs as good as they were.
ELSEWHERE = ("__main__", "bench", "check", "course", "paper", "referee", "sizing", "study", "tutorial", "widgets")
PACKAGES = ("torch", "transformers", "numpy")  # on which numbers depend
SAMPLE = 1 << 16  # bytes from either end of a large file
LONGEST = 100  # characters of a name: with the notebook's own it must fit into a path


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_version(notebook: Path | None = None) -> str:
    """The kit's version and a hash of the code that makes a run's numbers: the kit's, the notebook's cells, versions of torch and others.

    It is read anew at every call: whoever mends the kit in an editor shall not get old results for new."""
    here = Path(__file__).resolve().parent.parent
    rooms = [p for p in sorted(here.rglob("*.py")) if p.relative_to(here).parts[0].removesuffix(".py") not in (*ELSEWHERE, "_shipped")]
    sources = [p.read_text(encoding="utf-8") for p in rooms]
    book = json.loads(Path(notebook or shipped(NOTEBOOK)).read_text(encoding="utf-8"))
    cells = [c["source"] for c in book["cells"] if c["cell_type"] == "code"]
    versions = []
    for package in PACKAGES:
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    return f"{mctrace_nb.__version__}-{_digest(sources, cells, versions)[:8]}"


@cache
def _sampled(path: Path, size: int, changed: int) -> str:
    """A hash of a file as it was last changed; of a large one only the ends and the size are read: weights are gigabytes."""
    with path.open("rb") as file:
        read = file.read(2 * SAMPLE)
        if size > 2 * SAMPLE:
            file.seek(-SAMPLE, 2)
            read = read[:SAMPLE] + file.read()
    return hashlib.sha256(size.to_bytes(8, "big") + read).hexdigest()


def _contents(place: Path) -> str:
    """A hash of what a run reads from a place: a file, a model's folder, or an earlier run; "" if there is nothing."""
    if place.is_dir():
        inside = [place / "result.json"] if (place / "result.json").exists() else sorted(
            p for p in place.glob("*") if p.suffix in (".json", ".safetensors", ".txt", ".model"))
        return _digest([(p.name, _contents(p)) for p in inside])
    return _sampled(place, place.stat().st_size, place.stat().st_mtime_ns) if place.is_file() else ""


def _inputs(parameters: dict) -> list[str]:
    """Hashes of what the parameters name, in order; published data are verified by hashes of their own."""
    paths = [part.partition(":")[0] for name in PATHS if name != "data_dir" and isinstance(parameters.get(name), str)
             for part in parameters[name].split(",")]
    return [_contents(shipped(f"data/{p}") if p in BUILT_IN else Path(p)) for p in paths if p]


def name_of(axes: dict, given: dict, parameters: dict, code: str) -> str:
    """The name of a run's folder: what differs from other runs, readable, and a hash of everything.

    given: parameters as the grid has them, so that a study may move with its files; parameters: with absolute paths, and in full; code: its version.
    """
    words = [re.sub(r"[^\w.+-]+", "_", str(value).rstrip("/").split("/")[-1]).strip("_.") for value in axes.values()]
    defaults = {name: value for name, value in parameters.items() if name not in given}
    digest = _digest(given, defaults, _inputs(parameters), code)[:8]
    return f"{'-'.join(filter(None, words))[:LONGEST]}-{digest}"
