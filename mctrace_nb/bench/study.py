"""What a study costs beside its analyses: thousands of runs that only sleep, through two Dask workers, and what large studies would take.

Everything else is real: the driver, the scheduler and its workers as processes of their own, folders written whole and waited for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import nbformat

from mctrace_nb.cost import duration
from mctrace_nb.study.driver import dask_executor, sweep
from mctrace_nb.study.folder import state_of
from mctrace_nb.study.grid import read
from mctrace_nb.study.process import LOG, claimed, publish, run_one

RUNS, SLEEP = 10_000, 0.01  # seconds
FILES = dict.fromkeys(("analysis.ipynb", "report.html"), 400_000) | {"front.csv": 8_000, "result.json": 8_000, LOG: 2_000}  # bytes, as an analysis leaves
WORKERS = (1, 16, 256)
# A study of real models: 20 models of GPT-2 small's cost on average, 10 tasks, 5 seeds.
MODELS, TASKS, SEEDS = 20, 10, 5
ANALYSIS_MINUTES = 12.0  # guided, greedy and top-k on 144 heads, 64 pairs as long as WinoBias's, two cores
MODEL_GIB, RUN_MIB = 3.0, 2.0  # weights of a model on average; what a run leaves
NETWORK_GIB, DISK_MIB = 0.1, 200.0  # a second: a download from the hub; a shared file system, writing


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
def cluster(folder: Path, workers: int = 2) -> Iterator[str]:
    """The address of a Dask scheduler with so many workers of one thread, all processes of their own on loopback."""
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
        yield address
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


def on_paper(start: float, driver: float, writing: float) -> str:
    """What a study of real models would take, from measured constants in seconds: a run's processes, the driver's part, its files."""
    runs = MODELS * TASKS * SEEDS
    alone = 60 * ANALYSIS_MINUTES + start
    lines = [f"{runs:,} runs of {ANALYSIS_MINUTES:g} minutes each and {start:.0f} s beside, by workers:"]
    for workers in WORKERS:
        waves = -(-runs // workers)
        fetch = MODELS * MODEL_GIB / NETWORK_GIB
        lines.append(f"  {workers:>4}: {duration(waves * alone / 60):>12} for the runs; the driver is busy {100 * min(1, driver * min(workers, runs) / alone):.2g} % of that, "
                     f"the file system {100 * min(1, RUN_MIB / DISK_MIB * min(workers, runs) / alone):.2g} %; models are fetched once, in {fetch / 60:.0f} minutes "
                     f"(each worker for itself: {workers * min(MODELS, waves) * MODEL_GIB / NETWORK_GIB / 60:,.0f})")
    lines.append(f"  the driver would be the limit at {alone / driver:,.0f} workers, files at {alone / max(writing, RUN_MIB / DISK_MIB):,.0f}")
    return "\n".join(lines)


def measure(quick: bool) -> Iterator[dict]:
    """Overhead of a run in the driver, in Dask, on the disk, and of its processes; `quick`: 500 runs in place of 10,000."""
    number = 500 if quick else RUNS
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        grid = read(_grid(folder, number=list(range(number)), seconds=[SLEEP]))
        with cluster(folder) as address, dask_executor(address) as executor:
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
        orders = [dict(name=f"a{i}", runs=str(folder / "out" / "runs"), axes={}, parameters=dict(seconds=0.0), code="") for i in range(50)]
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
        print(on_paper(processes + 10, max(through - writing / 2 - SLEEP / 2, 1e-4), writing))
        os.sync()
