"""A sweep on a real Dask scheduler with two workers, all processes of their own on loopback."""

import os
import signal
import subprocess
import sys
import time

import pytest
from toy_study import records, toy_grid

from mctrace_nb.bench.study import RUNS, cluster, measure
from mctrace_nb.errors import InputError
from mctrace_nb.study.driver import dask_executor


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path):
    grid, out = toy_grid(tmp_path, how=["ok", "raise"], number=[0, 1], fixed=dict(seconds=0.5)), tmp_path / "out"
    with cluster(tmp_path) as (address, workers):
        sweep = subprocess.Popen([sys.executable, "-m", "mctrace_nb", "sweep", str(grid), "--out", str(out), "--dask", address],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list((out / "runs").glob("[!.]*")):  # the first has landed, and others are in flight
            time.sleep(0.05)
            assert sweep.poll() is None
        os.kill(workers[0].pid, signal.SIGKILL)
        said, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 1 and "2 done, 2 failed" in said, errors
    found = records(out)
    assert len(found) == 4 and all(r["status"] == ("done" if r["axes"]["how"] == "ok" else "failed") for r in found.values())
    assert all("ZeroDivisionError" in r["reason"] for r in found.values() if r["status"] == "failed")
    assert not list((out / "runs").glob(".*"))


def test_no_scheduler_is_said_in_one_line():
    with pytest.raises(InputError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        with dask_executor("tcp://127.0.0.1:9", seconds=1):
            pass


@pytest.mark.long
def test_ten_thousand_runs_that_sleep():
    """Through two Dask workers, with real folders; what they take is printed by `bench study`."""
    found = {r["name"]: r for r in measure(quick=False)}
    assert next(iter(found.values()))["value"] == RUNS == 10_000
