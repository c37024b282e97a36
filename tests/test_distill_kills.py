"""An experiment whose process is killed: no worker stays behind, nothing half-written passes for whole, and what was done is not done again."""

import json
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT
from test_distill_experiment import SMALL

from mctrace_nb.distill import experiment as E

CODE = """
import sys
sys.path.insert(0, "tests")
from test_distill_experiment import SMALL
from mctrace_nb.distill.experiment import experiment
experiment(SMALL, sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return numbers(E.experiment(SMALL, tmp_path_factory.mktemp("whole")))


def numbers(table):
    return table.drop(columns="seconds").sort_values("name").reset_index(drop=True)


@pytest.mark.long
@pytest.mark.parametrize("workers, finished, delay", [(1, 1, 0.1), (1, 4, 0.5), (2, 3, 0.3)])
def test_a_killed_experiment_goes_on(workers, finished, delay, tmp_path, undisturbed):
    driver = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path), str(workers)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.time() + 100
    while len(list(tmp_path.glob("runs/*.json"))) < finished and time.time() < until:
        time.sleep(0.02)
    time.sleep(delay)
    relatives = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait(10)
    _, alive = psutil.wait_procs(relatives, 10)
    assert not alive, f"left over: {[p.cmdline() for p in alive]}"
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.json")}
    assert finished <= len(done) < len(SMALL.runs()), "killed too late to learn anything"
    assert all(json.loads(path.read_text())["row"]["name"] == path.stem for path in done)
    if workers == 2:
        subprocess.run([sys.executable, "-c", CODE, str(tmp_path), "2"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert numbers(E.experiment(SMALL, tmp_path)).equals(undisturbed)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
