"""A study's folder: one owner at a time, what is done, failed or missing in it, and its files written whole."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Iterator

from filelock import FileLock, Timeout

from mctrace_nb.errors import InputError
from mctrace_nb.run import check_writable, synced
from mctrace_nb.study.grid import Grid, Run
from mctrace_nb.study.process import recorded, sweep_up

MANIFEST, LOCK, OWNER = "study.json", ".lock", ".owner"
NEEDED = ("front.csv", "result.json")  # without which a finished analysis is no longer one


def write_whole(path: Path, text: str) -> None:
    """Writes a file under a temporary name, waits until it is on the disk, and gives it its name."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    synced(part)
    os.replace(part, path)
    synced(path.parent)


@dataclass(frozen=True)
class State:
    """Runs of a grid by what there is of them. strangers: finished runs in the folder that the grid does not hold (any more)."""

    done: tuple[Run, ...]
    failed: tuple[Run, ...]
    missing: tuple[Run, ...]
    strangers: tuple[str, ...]

    def todo(self, retry_failed: bool) -> list[Run]:
        """What is to be run now, in the order of the grid within each part."""
        return [*(self.failed if retry_failed else ()), *self.missing]


def state_of(grid: Grid, out: Path) -> State:
    """Looks which runs are there. A finished run whose data were deleted is missing again."""
    found: dict[str, list[Run]] = {"done": [], "failed": [], "missing": []}
    for run in grid.runs:
        folder = out / "runs" / run.name
        record = recorded(folder)
        whole = record and (record["status"] == "failed" or grid.notebook is not None or all((folder / name).exists() for name in NEEDED))
        found[record["status"] if whole else "missing"].append(run)
    names = {run.name for run in grid.runs}
    strangers = tuple(sorted(p.name for p in (out / "runs").glob("[!.]*") if p.is_dir() and p.name not in names))
    return State(*(tuple(found[status]) for status in ("done", "failed", "missing")), strangers)


def check_folder(out: Path) -> None:
    """Raises InputError unless a study can be made or continued there; nothing is created."""
    if out.is_dir() and any(p.name not in (LOCK, OWNER) for p in out.iterdir()) and not (out / MANIFEST).exists():
        raise InputError(f"--out {out} holds files that are not of a study; give another folder")
    check_writable(out)


@contextmanager
def owned(grid: Grid, out: Path) -> Iterator[State]:
    """The folder with the grid's description in it, for one process at a time; what the dead have left is swept up.

    Raises InputError if somebody else is at work there. The lock goes with its owner, however that ends.
    """
    check_folder(out)
    made = [p for p in (out, *out.parents) if not p.exists()]
    (out / "runs").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            owner = json.loads((out / OWNER).read_text())
            who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise InputError(f"{out} is being worked on ({who}); wait for it, or stop it, or give another folder") from None
    try:
        write_whole(out / OWNER, json.dumps(dict(pid=os.getpid(), host=socket.gethostname(), since=datetime.now().isoformat(" ", "seconds"))))
        write_whole(out / "grid.yaml", grid.text)
        write_whole(out / MANIFEST, json.dumps(dict(axes=grid.axes, code=grid.code, runs=[dict(name=r.name, axes=r.axes) for r in grid.runs]),
                                               indent=1) + "\n")
        sweep_up(out / "runs")
        yield state_of(grid, out)
    finally:
        sweep_up(out / "runs")
        (out / OWNER).unlink(missing_ok=True)
        lock.release()
        for folder in made:  # nothing was run
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
