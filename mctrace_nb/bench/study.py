"""What a study costs beside its analyses: thousands of runs that only sleep, through two Dask workers, and what large studies would take.

Everything else is real: the driver, the scheduler and its workers as processes of their own, folders written whole and waited for.
"""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

import nbformat

from mctrace_nb.cost import duration, estimate
from mctrace_nb.published import SIZES, published_config
from mctrace_nb.study.costs import SECONDS_BESIDE
from mctrace_nb.study.driver import dask_executor, sweep
from mctrace_nb.study.folder import state_of
from mctrace_nb.study.grid import read
from mctrace_nb.study.process import LOG, claimed, publish, run_one

RUNS, SLEEP = 10_000, 0.01  # seconds
FILES = dict.fromkeys(("analysis.ipynb", "report.html"), 400_000) | {"front.csv": 8_000, "result.json": 8_000, LOG: 2_000}  # bytes, as an analysis leaves
WORKERS = (1, 16, 256)
MODELS, TASKS, SEEDS = 20, 10, 5  # the study on paper; its models are those of published sizes, in turn
ANALYSIS = dict(n=64, tokens=20, methods=("guided", "top-k", "random"), budgets=range(1, 9))  # 128 pairs as long as WinoBias's, half of them held out
HUB_GIB, DISK_GIB = 0.1, 2.0  # a second: a download from the hub; reading or writing a shared file system
RUN_GIB = 0.002  # what a run leaves


def sleeping(order: dict, stop=None) -> dict:
    """A run that does nothing for a while and leaves files as large as an analysis does."""
    time.sleep(order["parameters"]["seconds"])
    part = claimed(Path(order["runs"]), order["name"])
    for name, size in FILES.items():
        (part / name).write_bytes(b"x" * size)
    (part / "order.json").unlink()
    return publish(part, Path(order["runs"]) / order["name"], dict(
        name=order["name"], status="done", reason="", cell=None, axes=order["axes"], parameters=order["parameters"],
        seconds=order["parameters"]["seconds"], peak_gib=0.0, host="here", started="", code=order["code"]))


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a Dask scheduler, and its workers, of one thread each; all processes of their own on loopback."""
    module, quiet = [sys.executable, "-m"], dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    known = folder / "scheduler.json"
    started = [subprocess.Popen([*module, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                 "--scheduler-file", str(known)], **quiet)]
    try:
        while not known.exists():
            time.sleep(0.1)
        address = json.loads(known.read_text())["address"]
        started += [subprocess.Popen([*module, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                                      "--local-directory", str(folder)], **quiet) for _ in range(workers)]
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _grid(folder: Path, **axes) -> Path:
    cells = [nbformat.v4.new_code_cell("number: int = 0  # which of many\nseconds: float = 0.0  # that it takes", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import time\n\ntime.sleep(seconds)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "sleep.ipynb")
    (folder / "grid.yaml").write_text(json.dumps(dict(grid=axes, notebook="sleep.ipynb")))
    return folder / "grid.yaml"


def last_end(seconds: Sequence[float], workers: int) -> float:
    """When the last of some runs ends, the longest handed out first to whichever worker is free."""
    free = [0.0] * workers
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def on_paper(beside: float, driver: float) -> str:
    """What a study of real models would take on the CPU, from estimates of its runs and measured seconds: beside a run's passes, and in the driver."""
    costs = [estimate(published_config(name), **ANALYSIS) for name in SIZES]
    costs = [costs[i % len(costs)] for i in range(MODELS)]
    each, runs = TASKS * SEEDS, MODELS * TASKS * SEEDS
    total, longest = sum(60 * c.minutes + beside for c in costs) * each, max(60 * c.minutes for c in costs) + beside
    weights = [c.memory.weights / 2 ** 30 for c in costs]
    lines = [f"{runs:,} runs: {duration(total / 60)} of work on two cores each, a run {total / runs / 60:.0f} minutes on average and {longest / 60:.0f} at most, "
             f"{sum(weights):.0f} GiB of weights", "  workers  all runs  driver busy  file system busy  downloads once  downloads by every worker"]
    for workers in WORKERS:
        wall = last_end([60 * c.minutes + beside for c in costs for _ in range(each)], workers)
        read = each * sum(weights) + runs * RUN_GIB  # every run reads its model's weights
        apart = min(workers, each) * sum(weights)
        lines.append(f"  {workers:>7}  {duration(wall / 60):>8}  {driver * runs / wall:>11.4%}  {read / DISK_GIB / wall:>16.2%}  "
                     f"{duration(sum(weights) / HUB_GIB / 60):>14}  {duration(apart / HUB_GIB / 60):>25}")
    return "\n".join([*lines, f"  the driver would be the limit at {total / runs / driver:,.0f} workers, the file system at "
                              f"{total * DISK_GIB / (each * sum(weights)):,.0f}"])


def measure(quick: bool) -> Iterator[dict]:
    """Overhead of a run in the driver, in Dask, on the disk, and of its processes; `quick`: 500 runs in place of 10,000."""
    number = 500 if quick else RUNS
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        grid = read(_grid(folder, number=list(range(number)), seconds=[SLEEP]))
        with cluster(folder) as (address, _), dask_executor(address) as executor:
            start = time.perf_counter()
            swept = sweep(grid, folder / "out", executor=executor, progress=False, job=sleeping)
            took = time.perf_counter() - start
        yield dict(name=f"{number:,} runs of {1000 * SLEEP:g} ms through two Dask workers: done", value=swept.done, bar=number, sense=">=")
        through = took / number
        yield dict(name="milliseconds a run beside its sleep, driver, scheduler and files together", value=1000 * (through - SLEEP / 2))
        start = time.perf_counter()
        state_of(grid, folder / "out")
        yield dict(name=f"seconds to see what is done of {number:,} runs", value=time.perf_counter() - start)
        start = time.perf_counter()
        again = sweep(grid, folder / "out", progress=False, job=sleeping)
        yield dict(name=f"seconds to find that nothing of {number:,} runs is missing, table included", value=time.perf_counter() - start)
        assert again.done == number
        orders = [dict(name=f"again{i}", runs=str(folder / "out" / "runs"), axes={}, parameters=dict(seconds=0.0), code="") for i in range(50)]
        start = time.perf_counter()
        for order in orders:
            sleeping(order)
        writing = (time.perf_counter() - start) / len(orders)
        yield dict(name="milliseconds to write a run's files and wait for the disk", value=1000 * writing)
        small = read(_grid(folder, number=[0, 1, 2], seconds=[0.0]))
        start = time.perf_counter()
        sweep(small, folder / "small", workers=1, progress=False, job=run_one)
        processes = (time.perf_counter() - start) / 3
        yield dict(name="seconds of a run's two processes, without a model", value=processes)
        print(on_paper(SECONDS_BESIDE, through))
