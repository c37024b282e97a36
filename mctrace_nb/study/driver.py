"""Runs what is missing of a study: by processes here, or by any executor of `concurrent.futures`."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Callable, Iterable, Iterator

from mctrace_nb.errors import InputError
from mctrace_nb.parameters import NOTEBOOK
from mctrace_nb.shipped import BUILT_IN, shipped
from mctrace_nb.study.costs import forecast, limit_of
from mctrace_nb.study.folder import check_folder, owned, state_of, write_whole
from mctrace_nb.study.grid import Grid, Run, read
from mctrace_nb.study.process import leave_unrun, run_one
from mctrace_nb.study.summary import summarise, table
from mctrace_nb.study.telling import Teller

NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM)  # no run could leave its folder


@dataclass
class Swept:
    """How a sweep ended: runs done now and before, failed, still missing; stopped: why it ended early, if it did."""

    out: Path
    done: int
    failed: int
    missing: int
    stopped: str = ""

    def __str__(self) -> str:
        parts = [f"{self.done} done", f"{self.failed} failed"] + [f"{self.missing} missing"] * bool(self.missing)
        return f"{', '.join(parts)}{'; ' + self.stopped if self.stopped else ''}"


def order_for(run: Run, grid: Grid, out: Path, memory: float | None, threads: int) -> dict:
    """What `run_one` needs, as plain data that travels to other machines. memory: bytes at which the run is ended; threads: of torch."""
    return dict(name=run.name, runs=str(out / "runs"), notebook=str(grid.notebook or shipped(NOTEBOOK)), axes=run.axes, parameters=run.parameters,
                code=grid.code, threads=threads, limits={**grid.limits, "memory": memory})


@dataclass
class Driver:
    """Hands orders to an executor and takes records back. fits: whether an order may start beside those in flight."""

    executor: Executor
    job: Callable[[dict], dict]
    most: float = float("inf")  # orders in flight
    fits: Callable[[str, Iterable[str]], bool] = lambda name, flying: True
    stop: threading.Event = field(default_factory=threading.Event)
    flying: dict = field(default_factory=dict)

    def run(self, orders: Iterable[dict], tell: Callable[[dict], None], fail_fast: bool = False) -> str:
        """Runs all orders; returns "" or why it ended early. Raises OSError if runs cannot be written, KeyboardInterrupt as it comes;
        then and with `fail_fast` nothing new is started, and what is in flight here is stopped."""
        waiting, arrived = deque(orders), SimpleQueue()
        try:
            while waiting or self.flying:
                while waiting and len(self.flying) < self.most and self.fits(waiting[0]["name"], [o["name"] for o in self.flying.values()]):
                    future = self.executor.submit(self.job, waiting[0])
                    self.flying[future] = waiting.popleft()
                    future.add_done_callback(arrived.put)
                record = self._landed(arrived.get())
                tell(record)
                if fail_fast and record["status"] == "failed":
                    return f"stopped at the first failure ({record['name']})"
            return ""
        finally:
            self.stop.set()
            for future in self.flying:
                future.cancel()

    def _landed(self, future: Future) -> dict:
        order = self.flying.pop(future)
        try:
            return future.result()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            return self._lost(order, error)
        except Exception as error:  # the executor's own: a broken pool, a worker killed too often
            return self._lost(order, error)

    @staticmethod
    def _lost(order: dict, error: Exception) -> dict:
        said = str(error).splitlines() or ["no reason given"]
        return leave_unrun(order, f"its worker was lost ({type(error).__name__}: {said[0]})")


def fetch_models(runs: Iterable[Run]) -> None:
    """Downloads each model of the hub once, before many runs would ask for it at the same moment. What fails here, runs will say."""
    from huggingface_hub import snapshot_download

    from mctrace_nb.hub import only_cached

    for name, revision in dict.fromkeys((r.parameters.get("model", "tutorial"), r.parameters.get("revision") or None) for r in runs):
        if name not in BUILT_IN and not Path(name).exists():
            with suppress(Exception):
                if not only_cached(name, revision):
                    snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])


@contextmanager
def dask_executor(address: str, seconds: float = 20) -> Iterator[Executor]:
    """An executor on the workers of a Dask scheduler. Raises InputError if none answers in so many seconds, or Dask is not installed.

        >>> from distributed import LocalCluster
        >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        ...     with mct.study.dask_executor(cluster.scheduler_address) as executor:
        ...         executor.submit(pow, 2, 5).result()
        32
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--dask needs the package distributed; run pip install 'mctrace_nb[cluster]'") from None
    try:
        client = Client(address, timeout=seconds)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"no Dask scheduler answers at {address!r} ({str(error).splitlines()[0]}); start one with `dask scheduler`, and give the "
                         "address that it prints") from None
    with client:
        yield client.get_executor(pure=False)


def workers_of(given: int | None) -> int:
    """How many runs at once on this machine: by default half its cores, for a run has use for two threads."""
    return given or max(1, (os.cpu_count() or 1) // 2)


def sweep(grid: str | Path | Grid, out: str | Path, workers: int | None = None, executor: Executor | None = None, retry_failed: bool = False,
          fail_fast: bool = False, memory_gib: float | None = None, progress: bool = True, job: Callable[..., dict] = run_one) -> Swept:
    """Runs every run of a grid that is not in the folder yet; may be stopped and started again at any time.

    workers: runs at once on this machine (default: half the cores), as far as the estimates of their memory allow; memory_gib: what all of
    them may take (default: nine tenths of what is free). executor: instead of processes here, anything that offers
    `concurrent.futures.Executor` and sees the same folder. retry_failed: run failed runs again. fail_fast: stop at the first failure.
    job: what an order is given to; another one than `run_one` for simulations.

    Raises InputError for a bad grid or folder (nothing is created) and KeyboardInterrupt as it comes (finished runs are kept).

        >>> import nbformat, yaml
        >>> cells = [nbformat.v4.new_code_cell("number: int = 1", metadata={"tags": ["parameters"]})]
        >>> nbformat.write(nbformat.v4.new_notebook(cells=cells), "toy.ipynb")
        >>> with open("grid.yaml", "w") as file:
        ...     yaml.safe_dump(dict(grid=dict(number=[2]), notebook="toy.ipynb"), file)
        ...
        >>> mct.study.sweep("grid.yaml", "study", workers=1).done
        1
    """
    grid, out = grid if isinstance(grid, Grid) else read(grid), Path(out).expanduser().resolve()
    check_folder(out)
    workers = workers_of(workers)
    seen = forecast(grid, memory_gib, workers, progress)
    with owned(grid, out) as state:
        todo = sorted(state.todo(retry_failed), key=lambda run: -seen.minutes(run.name))  # the longest first, lest all wait for one at the end
        fetch_models(todo)
        teller, stop = Teller([run.name for run in todo], seen, progress), threading.Event()
        # What runs elsewhere has the memory of elsewhere.
        threads = 0 if executor else max(1, (os.cpu_count() or 1) // workers)
        orders = [order_for(run, grid, out, limit_of(grid, run, None if executor else seen), threads) for run in todo]
        driver = Driver(executor, job) if executor else Driver(ThreadPoolExecutor(workers), partial(job, stop=stop), workers, seen.fits, stop)
        why = ""
        try:
            if not executor:
                for order in [o for o in orders if not seen.fits(o["name"])]:
                    orders.remove(order)
                    teller(leave_unrun(order, f"it needs about {seen.bytes(order['name']) / 2 ** 30:.1f} GiB, and {seen.room / 2 ** 30:.1f} may be taken; "
                                              "give a smaller n or batch_size, cache: host, or more with --memory"))
            why = driver.run(orders, teller, fail_fast)
        except OSError as error:
            why = f"{out} cannot be written ({error.strerror}); mend that and start again, finished runs are kept"
        finally:
            if not executor:
                driver.executor.shutdown(wait=True, cancel_futures=True)
            teller.close()
            try:
                write_whole(out / "table.csv", table(grid, out).to_csv())
            except OSError as error:  # most likely what has ended the sweep
                why = why or f"{out} cannot be written ({error.strerror})"
        after = state_of(grid, out)
        if after.done and grid.notebook is None and not why and (todo or not (out / "study.html").exists()):
            why = summarise(grid, out)
        return Swept(out, len(after.done), len(after.failed), len(after.missing), why)
