"""One run of a study: a process of its own, watched from outside, that leaves a whole folder or none.

`run_one` may be called anywhere: by a thread of this process, by a worker of Dask, MPI or any other executor. It starts
`python -m mctrace_nb.study.child`, which runs the notebook, and watches its time and memory.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import psutil

from mctrace_nb.run import AnalysisFailed, last_started, leave_failure, place
from mctrace_nb.study.identity import code_version

ORDER, OUTCOME, LOG, RECORD = "order.json", "outcome.json", "log.txt", "run.json"
POLL_SECONDS = 0.2
LEAST_FREE = 4 << 20  # bytes on the disk: a run leaves about two megabytes
UNKNOWN_SECONDS = 60  # a temporary folder that says nothing of its owner is left alone for so long
ELSEWHERE_SECONDS = 24 * 3600  # and one of another machine
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Stopped(Exception):
    """The run was stopped from outside; nothing is left of it."""


def run_one(order: dict, stop: threading.Event | None = None) -> dict:
    """Runs a notebook as ordered and leaves its folder; returns what `run.json` says.

    order: name; runs (the folder of all runs); notebook; axes; parameters; code; limits (cell_minutes, run_minutes, memory in bytes or None);
    threads of torch (0: as the machine has them). A run that fails leaves the failed notebook, `error.json` and the reason. Raises Stopped if `stop` is set,
    OSError if the folder cannot be written.

        >>> import os
        >>> from mctrace_nb.shipped import shipped
        >>> order = dict(name="one", runs=os.getcwd(), notebook=str(shipped("notebooks/analysis.ipynb")), axes={}, parameters={}, code="an older version")
        >>> record = mct.study.run_one(order)  # of an order that was written by another version
        >>> record["status"], record["reason"]
        ('failed', '... has other code (...) than the study (an older version); install the same version everywhere')
    """
    runs, name = Path(order["runs"]), order["name"]
    if not runs.is_dir():
        raise FileNotFoundError(f"{socket.gethostname()} does not see {runs}; all machines of a study need the same folder")
    started, at = time.monotonic(), datetime.now(timezone.utc)  # a clock that stands still while the machine sleeps
    part = claimed(runs, name, order)
    try:
        failure, peak = _watched(part, order, stop, started)
        if failure and shutil.disk_usage(runs).free < LEAST_FREE:  # whatever it says, that is why, and no other run would fare better
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        record = dict(name=name, status="failed" if failure else "done", reason=str(failure or ""), cell=failure.cell if failure else None,
                      axes=order["axes"], parameters=order["parameters"], seconds=round(time.monotonic() - started, 2), peak_gib=round(peak / 2 ** 30, 3),
                      host=socket.gethostname(), started=at.isoformat(timespec="seconds"), code=order["code"])
        for file in (ORDER, OUTCOME):
            (part / file).unlink(missing_ok=True)
        if failure:
            leave_failure(part, failure, keep=[LOG])
        with (part / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{'failed: ' + record['reason'] if failure else 'done'} ({record['seconds']:.0f} s, {record['peak_gib']:.2f} GiB at the peak)\n")
        return publish(part, runs / name, record)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # not there any more if all went well


def claimed(runs: Path, name: str, order: dict | None = None) -> Path:
    """A temporary folder that says whose it is, and with what order."""
    part, me = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=runs)), psutil.Process()
    (part / ORDER).write_text(json.dumps({**(order or {}), "host": socket.gethostname(), "pid": me.pid, "created": me.create_time()}))
    return part


def leave_unrun(order: dict, reason: str) -> dict:
    """Records a run as failed that never came to say so itself; returns its record."""
    part = claimed(Path(order["runs"]), order["name"])
    (part / ORDER).unlink()
    leave_failure(part, AnalysisFailed(reason, name="NotRun"))
    record = dict(name=order["name"], status="failed", reason=reason, cell=None, axes=order["axes"], parameters=order["parameters"], seconds=0.0,
                  peak_gib=0.0, host=socket.gethostname(), started=datetime.now(timezone.utc).isoformat(timespec="seconds"), code=order["code"])
    return publish(part, Path(order["runs"]) / order["name"], record)


def publish(part: Path, out: Path, record: dict) -> dict:
    """Gives a finished folder its name. A run that is there already, made by somebody who was thought dead, is not replaced."""
    (part / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    there = recorded(out)
    if there and there["status"] == "done":
        return there
    try:
        place(part, out)
    except OSError:
        there = recorded(out)
        if there and there["status"] == "done":  # between the look and the move
            return there
        raise
    return record


def recorded(folder: Path) -> dict | None:
    """What `run.json` in a folder says; None if it is not there, or damaged."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return record if record["status"] in ("done", "failed") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _watched(part: Path, order: dict, stop: threading.Event | None, started: float) -> tuple[AnalysisFailed | None, int]:
    """Lets the child run to its end, or to a limit; what failed, if anything, and the most memory it held."""
    if (code := code_version(Path(order["notebook"]))) != order["code"]:
        return AnalysisFailed(f"{socket.gethostname()} has other code ({code}) than the study ({order['code']}); "
                              "install the same version everywhere"), 0
    set_already = any(name in os.environ for name in THREADS) or not order["threads"]
    threads = {} if set_already else dict.fromkeys(THREADS, str(order["threads"]))
    with (part / LOG).open("w", encoding="utf-8") as log:
        child = subprocess.Popen([sys.executable, "-m", "mctrace_nb.study.child", str(part)], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **threads})
    limits, peak, reason = order["limits"], 0, ""
    tree: list[psutil.Process] = []
    try:
        while not reason and child.poll() is None:
            tree, held = _tree(child.pid)
            peak = max(peak, held)
            if stop is not None and stop.is_set():
                raise Stopped
            if limits["memory"] and held > limits["memory"]:
                reason = (f"the run took {held / 2 ** 30:.1f} GiB, and its limit is {limits['memory'] / 2 ** 30:.1f}; give a smaller n or batch, or a "
                          "larger memory_gib under limits")
            elif time.monotonic() - started > 60 * limits["run_minutes"]:
                reason = f"the run took longer than {limits['run_minutes']:g} minutes, the limit for a run (run_minutes under limits)"
            else:
                time.sleep(POLL_SECONDS)
    finally:
        _kill([*tree, *_tree(child.pid)[0]])  # also a kernel whose parent died
        child.wait()
    return _judged(part, order, child.returncode, reason), peak


def _judged(part: Path, order: dict, status: int, reason: str) -> AnalysisFailed | None:
    """Why the run failed; None if it did not."""
    cell, source = last_started(part / Path(order["notebook"]).name)
    where = f" (in cell {cell})" if cell else ""
    if reason:
        return AnalysisFailed(reason + where, cell, source, "Limit")
    try:
        said = json.loads((part / OUTCOME).read_text())
    except (OSError, ValueError):  # it did not live to say anything
        how = f"was killed by {signal.Signals(-status).name}, often for want of memory" if status < 0 else f"ended with status {status}; see {LOG}"
        return AnalysisFailed(f"its process {how}{where}", cell, source, "ProcessDied")
    return None if said["status"] == "done" else AnalysisFailed(said["reason"], said["cell"], said["source"], said["name"])


def _tree(pid: int) -> tuple[list[psutil.Process], int]:
    """A process with all its descendants, and the bytes that they hold."""
    try:
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
    except psutil.Error:
        return [], 0
    held = 0
    for process in found:
        try:
            held += process.memory_info().rss
        except psutil.Error:
            continue
    return found, held


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue


def alive(order: dict) -> bool:
    """Whether whoever wrote an order on this machine is still there."""
    try:
        process = psutil.Process(order["pid"])
        return process.create_time() == order["created"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def sweep_up(runs: Path) -> int:
    """Removes temporary folders whose owner is dead; returns how many. Those of other machines are left alone for a day."""
    gone = 0
    for part in runs.glob(".*"):
        if not part.is_dir():
            continue
        try:
            age = time.time() - part.stat().st_mtime
        except OSError:
            continue  # it has just been given its name
        try:
            order = json.loads((part / ORDER).read_text())
            dead = not alive(order) if order["host"] == socket.gethostname() else age > ELSEWHERE_SECONDS
        except (OSError, ValueError, KeyError):
            dead = age > UNKNOWN_SECONDS
        if dead:
            shutil.rmtree(part, ignore_errors=True)
            gone += 1
    return gone
