"""Sweeps that are killed: at any moment, whoever is hit, nothing finished is lost or run twice, and nothing half-written passes for whole."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
from conftest import ROOT
from toy_study import records, toy_grid

RUNS = 5


def start(grid, out, *options):
    return subprocess.Popen([sys.executable, "-m", "mctrace_nb", "sweep", str(grid), "--out", str(out), "--workers", "2", *options], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # tests in the background ignore it


def family(driver):
    """The driver's descendants, by what they are."""
    found = {"driver": [psutil.Process(driver.pid)], "child": [], "kernel": []}
    for process in found["driver"][0].children(recursive=True):
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for kind, word in (("child", "mctrace_nb.study.child"), ("kernel", "ipykernel_launcher")):
            if word in words:
                found[kind].append(process)
    return found


def check_whole(out):
    """Whatever has a run's name in the folder is a whole run."""
    for run in (out / "runs").glob("[!.]*"):
        record = json.loads((run / "run.json").read_text())
        assert record["status"] in ("done", "failed") and (run / "log.txt").exists()
        if record["status"] == "done":
            assert (run / "result.json").read_text() == str(record["axes"]["number"])
            book = nbformat.read(run / "toy.ipynb", as_version=4)
            assert all(c.metadata.papermill.status == "completed" for c in book.cells), run
        else:
            assert (run / "error.json").exists() and record["reason"]


def kill_once(folder, victim, delay):
    """A sweep whose victim is killed after a while (from when there is one); then started again until all is done."""
    grid, out = toy_grid(folder, number=list(range(RUNS)), fixed=dict(seconds=0.3)), folder / "out"
    driver = start(grid, out)
    time.sleep(delay)
    until = time.time() + 20
    while not (hit := family(driver)[victim]) and time.time() < until and driver.poll() is None:
        time.sleep(0.01)
    relatives = [p for kind in family(driver).values() for p in kind] if driver.poll() is None else []
    if hit:
        hit[0].kill()
    if victim == "driver":
        driver.wait(10)
        _, alive = psutil.wait_procs(relatives, 5)
        assert not alive, f"left over: {[p.cmdline() for p in alive]}"
    driver.communicate(timeout=120)
    check_whole(out)
    before = {name: record for name, record in records(out).items() if record["status"] == "done"}
    lost = [r for r in records(out).values() if r["status"] == "failed"]
    assert all(re.search("killed by SIGKILL|[Kk]ernel died", r["reason"]) for r in lost), lost
    assert len(lost) <= 1, "only the run that was hit"
    again = start(grid, out, "--retry-failed")
    said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    after = records(out)
    assert len(after) == RUNS and all(r["status"] == "done" for r in after.values())
    assert {name: after[name] for name in before} == before, "nothing finished was run twice"
    check_whole(out)
    assert not list((out / "runs").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("victim, delay", [pytest.param("driver", 6.3, marks=pytest.mark.long), ("kernel", 5.1)])
def test_a_killed_sweep_goes_on(victim, delay, tmp_path):
    kill_once(tmp_path, victim, delay)


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_a_sweep_killed_at_any_moment_goes_on(number, tmp_path):
    rng = random.Random(number)
    kill_once(tmp_path, ("driver", "child", "kernel")[number % 3], rng.uniform(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_an_interrupted_sweep_stops_cleanly_and_says_how_to_go_on(sign, tmp_path):
    grid, out = toy_grid(tmp_path, number=list(range(RUNS)), fixed=dict(seconds=1.0)), tmp_path / "out"
    driver = start(grid, out)
    while not list((out / "runs").glob("[!.]*")):  # the first has landed
        time.sleep(0.05)
    relatives = [p for kind in family(driver).values() for p in kind]
    driver.send_signal(sign)
    _, err = driver.communicate(timeout=20)
    assert driver.returncode == 130 and f"go on with: python -m mctrace_nb sweep {grid} --out {out}" in err, err
    assert not psutil.wait_procs(relatives, 5)[1] and not list((out / "runs").glob(".*"))
    check_whole(out)
    assert 1 <= len(records(out)) < RUNS


def told(path, folder):
    """A file of a run as it is apart from times and from the place where it was made."""
    if path.suffix == ".ipynb":
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            cell.metadata.pop("papermill", None)
            cell.metadata.pop("execution", None)
        book.metadata.pop("papermill")
        return [(c.cell_type, c.source, c.get("outputs")) for c in book.cells]
    if path.name == "front.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name == "run.json":
        record = json.loads(path.read_text())
        return {k: v for k, v in record.items() if k not in ("seconds", "peak_gib", "started")}
    if path.suffix == ".txt":  # not what kernels say while they are shut down
        return re.findall(r"cell \d+ of .*|^done", path.read_text(), re.M)
    if path.suffix in (".json", ".html"):
        text = re.sub(r'"seconds": [\d.e-]+', "", path.read_text())
        return re.sub(r"<td>[\d.]+</td></tr>", "", re.sub(r"<td>\d+\.\d</td>\s*</tr>", "</tr>", text))
    return path.read_bytes()


@pytest.mark.long
def test_a_resumed_study_equals_one_that_was_not_interrupted(tmp_path):
    """File by file, times aside: two real analyses, once in one go, once with the driver killed."""
    (tmp_path / "grid.yaml").write_text("grid: {task: [names, facts]}\nfixed: {n: 8, budget: 2, methods: 'exhaustive,greedy'}\n")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    first = start(tmp_path / "grid.yaml", whole)
    assert first.communicate(timeout=200) and first.returncode == 0
    broken = start(tmp_path / "grid.yaml", resumed)
    while not family(broken)["kernel"]:
        time.sleep(0.05)
    time.sleep(6)
    os.kill(broken.pid, signal.SIGKILL)
    broken.communicate()
    time.sleep(1)
    again = start(tmp_path / "grid.yaml", resumed)
    assert again.communicate(timeout=200) and again.returncode == 0
    names = [{str(p.relative_to(out)) for p in (out / "runs").rglob("*")} for out in (whole, resumed)]
    assert names[0] == names[1] and len(names[0]) > 16
    for name in sorted(names[0]):
        if (whole / name).is_file():
            assert told(whole / name, whole) == told(resumed / name, resumed), name
