"""A sweep on a real Dask scheduler with two workers, all processes of their own on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ROOT
from toy_study import records, toy_grid

from mctrace_nb.errors import InputError
from mctrace_nb.study.driver import dask_executor


@contextmanager
def cluster(folder, workers=2):
    """Starts a scheduler and workers; gives the address and the workers' processes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))}
    dask, here = [sys.executable, "-m"], dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    started = [subprocess.Popen([*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                 "--scheduler-file", str(folder / "scheduler.json")], **here)]
    try:
        while not (folder / "scheduler.json").exists():
            time.sleep(0.1)
        address = json.loads((folder / "scheduler.json").read_text())["address"]
        for _ in range(workers):
            started.append(subprocess.Popen([*dask, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                                             "--host", "127.0.0.1", "--local-directory", str(folder)], **here))
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path):
    grid, out = toy_grid(tmp_path, how=["ok", "raise"], number=[0, 1, 2], fixed=dict(seconds=1.0)), tmp_path / "out"
    with cluster(tmp_path) as (address, workers):
        sweep = subprocess.Popen([sys.executable, "-m", "mctrace_nb", "sweep", str(grid), "--out", str(out), "--dask", address],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list((out / "runs").glob("[!.]*")):  # the first has landed, and others are in flight
            time.sleep(0.05)
            assert sweep.poll() is None
        os.kill(workers[0].pid, signal.SIGKILL)
        said, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 1 and "3 done, 3 failed" in said, errors
    found = records(out)
    assert len(found) == 6 and all(r["status"] == ("done" if r["axes"]["how"] == "ok" else "failed") for r in found.values())
    assert all("ZeroDivisionError" in r["reason"] for r in found.values() if r["status"] == "failed")
    assert not list((out / "runs").glob(".*"))


def test_no_scheduler_is_said_in_one_line():
    with pytest.raises(InputError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        with dask_executor("tcp://127.0.0.1:9", seconds=1):
            pass


@pytest.mark.slow
def test_many_runs_are_handed_over_and_taken_back(tmp_path):
    """The driver alone, through Dask's executor: 300 orders that do nothing."""
    from mctrace_nb.study.driver import Driver

    with cluster(tmp_path) as (address, _):
        told = []
        with dask_executor(address) as executor:
            assert Driver(executor, nothing).run([dict(name=str(i)) for i in range(300)], told.append) == ""
    assert sorted(int(r["name"]) for r in told) == list(range(300))


def nothing(order):
    return dict(name=order["name"], status="done")
