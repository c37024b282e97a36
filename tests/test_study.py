"""Sweeps: what a run leaves however it ends, what is run again and what is not, one owner, any executor."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from toy_study import records, toy_grid

from mctrace_nb.study.costs import Forecast
from mctrace_nb.study.driver import Driver, sweep
from mctrace_nb.study.folder import owned, state_of
from mctrace_nb.study.grid import read
from mctrace_nb.study.process import publish, recorded, sweep_up


def written(order, stop=None):
    """A run that needs no notebook: it fails if asked to, and otherwise leaves its number."""
    how = order["parameters"]["how"]
    if how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how == "lost":
        raise RuntimeError("the worker went away\nin a cloud")
    time.sleep(order["parameters"]["seconds"])
    part = Path(tempfile.mkdtemp(prefix=f".{order['name']}.", dir=order["runs"]))
    (part / "result.json").write_text(str(order["parameters"]["number"]))
    return publish(part, Path(order["runs"]) / order["name"], dict(
        name=order["name"], status="failed" if how == "raise" else "done", reason="asked to" * (how == "raise"), cell=None, axes=order["axes"],
        parameters=order["parameters"], seconds=0.1, peak_gib=0.1, host="here", started=str(time.time()), code=order["code"]))


def quick(grid, out, **more):
    return sweep(grid, out, **{"workers": 2, "progress": False, "job": written, **more})


# --- what is run ---

def test_only_what_is_missing_or_changed_is_run(tmp_path):
    grid, out = toy_grid(tmp_path, number=[0, 1, 2]), tmp_path / "out"
    assert (lambda s: (s.done, s.failed, s.missing))(quick(grid, out)) == (3, 0, 0)
    first = records(out)
    assert quick(grid, out).done == 3 and records(out) == first, "nothing was missing"
    grid = toy_grid(tmp_path, number=[0, 1, 2, 3])
    assert quick(grid, out).done == 4 and {n: r for n, r in records(out).items() if n in first} == first
    gone = next(iter(first))
    (out / "runs" / gone / "run.json").unlink()
    assert state_of(read(grid), out).missing[0].name == gone and quick(grid, out).done == 4
    assert {n: r for n, r in records(out).items() if n in first and n != gone} == {n: r for n, r in first.items() if n != gone}
    notebook = (tmp_path / "toy.ipynb").read_text()
    (tmp_path / "toy.ipynb").write_text(notebook.replace("print(number)", "print(-number)"))
    state = state_of(read(tmp_path / "grid.yaml"), out)
    assert len(state.missing) == 4 and len(state.strangers) == 4, "other code, and the old runs are left where they are"


def test_failed_runs_do_not_stop_the_others_and_are_run_again_when_asked(tmp_path):
    grid, out = toy_grid(tmp_path, how=["raise", "ok", "lost"], number=[0, 1]), tmp_path / "out"
    swept = quick(grid, out)
    assert (swept.done, swept.failed, swept.missing) == (2, 4, 0)
    first = records(out)
    reasons = {r["axes"]["how"]: r["reason"] for r in first.values()}
    assert reasons == {"raise": "asked to", "ok": "", "lost": "its worker was lost (RuntimeError: the worker went away)"}
    assert quick(grid, out).failed == 4 and records(out) == first, "failures are kept"
    again = quick(grid, out, retry_failed=True, job=mended)
    assert (again.done, again.failed) == (6, 0) and {n for n, r in records(out).items() if r == first[n]} == {n for n in first if n.startswith("ok")}
    assert not list((out / "runs").glob(".*"))


def mended(order, stop=None):
    return written({**order, "parameters": {**order["parameters"], "how": "ok"}})


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    out = tmp_path / "out"
    swept = quick(toy_grid(tmp_path, how=["ok", "raise"], number=list(range(6)), fixed=dict(seconds=0.05)), out, fail_fast=True, workers=1)
    assert swept.done == 6 and swept.failed == 1 and swept.missing == 5 and "first failure (raise-0-" in swept.stopped


def test_a_full_disk_stops_the_sweep_and_says_so(tmp_path):
    swept = quick(toy_grid(tmp_path, how=["ok", "full"], number=[0, 1, 2]), tmp_path / "out", workers=1)
    assert swept.done == 3 and swept.failed == 0 and swept.missing == 3
    assert "No space left on device" in swept.stopped and "finished runs are kept" in swept.stopped


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_will_do(pool, tmp_path):
    with pool(2) as executor:
        assert quick(toy_grid(tmp_path, number=list(range(5))), tmp_path / "out", executor=executor, workers=None).done == 5
        assert executor.submit(abs, -1).result() == 1, "it is not ours to shut down"


def test_a_broken_pool_is_told_of_each_run(tmp_path):
    with ProcessPoolExecutor(1) as executor:
        swept = quick(toy_grid(tmp_path, number=[0, 1]), tmp_path / "out", executor=executor, job=dies)
    assert swept.failed == 2 and all("its worker was lost (BrokenProcessPool" in r["reason"] for r in records(tmp_path / "out").values())


def dies(order):
    os.kill(os.getpid(), 9)


def test_no_more_at_once_than_workers_and_memory_allow():
    now, most, lock = set(), [], threading.Lock()

    def job(order):
        with lock:
            now.add(order["name"])
            most.append(frozenset(now))
        time.sleep(0.03)
        with lock:
            now.discard(order["name"])
        return dict(name=order["name"], status="done")

    orders, told = [dict(name=n) for n in "abcdABCD"], []
    with ThreadPoolExecutor(8) as pool:  # no two large ones side by side
        driver = Driver(pool, job, 3, lambda name, flying: name.islower() or not any(n.isupper() for n in flying))
        assert driver.run(orders, told.append) == "" and len(told) == 8
    assert max(map(len, most)) == 3 and max(sum(n.isupper() for n in at_once) for at_once in most) == 1


def test_the_longest_runs_start_first(tmp_path, monkeypatch):
    monkeypatch.setattr(Forecast, "minutes", lambda self, name: float(name.partition("-")[0]))
    quick(toy_grid(tmp_path, number=[1, 3, 2, 9]), tmp_path / "out", workers=1)
    assert [r["axes"]["number"] for r in sorted(records(tmp_path / "out").values(), key=lambda r: float(r["started"]))] == [9, 3, 2, 1]


def test_a_run_that_fits_nowhere_is_refused_with_its_numbers(tmp_path):
    swept = quick(toy_grid(tmp_path, number=[0, 1]), tmp_path / "out", memory_gib=0.5)
    assert swept.failed == 2 and all("it needs about 1.3 GiB, and 0.5 may be taken" in r["reason"] for r in records(tmp_path / "out").values())


# --- one owner ---

def test_two_drivers_do_not_meet(tmp_path, capsys):
    from mctrace_nb.__main__ import main

    grid, out = read(toy_grid(tmp_path, number=[0])), tmp_path / "out"
    with owned(grid, out):
        assert main(["sweep", str(grid.path), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"is being worked on (process {os.getpid()} on " in said and said.count("\n") == 1
    assert quick(grid, out).done == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys, monkeypatch):
    from mctrace_nb.__main__ import main

    grid, thesis = toy_grid(tmp_path, number=[0]), tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for out, message in ((thesis, "holds files that are not of a study"), (tmp_path / "file", "is a file")):
        assert main(["sweep", str(grid), "--out", str(out)]) == 2 and message in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    assert main(["sweep", str(grid), "--out", str(tmp_path / "shut" / "out")]) == 2 and "no permission to write" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "grid.yaml", "thesis", "toy.ipynb"]


def test_what_the_dead_left_is_swept_up_and_what_the_living_make_is_not(tmp_path):
    import psutil

    me, gone = psutil.Process(), subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = dict(host=socket.gethostname())
    for name, order in dict(alive=dict(here, pid=me.pid, created=me.create_time()), reused=dict(here, pid=me.pid, created=1.0),
                            dead=dict(here, pid=gone.pid, created=time.time()), far=dict(host="elsewhere", pid=1, created=1.0)).items():
        (tmp_path / f".{name}.x").mkdir()
        (tmp_path / f".{name}.x" / "order.json").write_text(json.dumps(order))
    (tmp_path / ".new.x").mkdir()
    (tmp_path / ".old.x").mkdir()
    os.utime(tmp_path / ".old.x", (1, 1))
    (tmp_path / "finished").mkdir()
    assert sweep_up(tmp_path) == 3
    assert {p.name for p in tmp_path.iterdir()} == {".alive.x", ".far.x", ".new.x", "finished"}


def test_a_finished_run_is_never_replaced(tmp_path):
    record = dict(name="a", status="done", started="first")
    for started in ("first", "second"):
        (tmp_path / ".a.x").mkdir()
        assert publish(tmp_path / ".a.x", tmp_path / "a", {**record, "started": started})["started"] == "first"
    assert recorded(tmp_path / "a") == record
    (tmp_path / "a" / "run.json").write_text('{"status": "do')
    assert recorded(tmp_path / "a") is None, "half a record is none"


# --- real kernels ---

@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """One sweep with every way to end."""
    folder = tmp_path_factory.mktemp("ends")
    grid = toy_grid(folder, limits=dict(cell_minutes=0.2, memory_gib=0.5), how=["ok", "raise", "hang", "leak", "callback", "captured", "die"])
    done = subprocess.run([sys.executable, "-m", "mctrace_nb", "sweep", str(grid), "--out", str(folder / "out"), "--workers", "2"],
                          capture_output=True, text=True)
    return folder / "out", done


EXPECTED = {
    "raise": (4, "cell 4 failed with ZeroDivisionError: the lever broke"), "hang": (4, "cell 4 took longer than 0.2 minutes, the limit for a cell"),
    "leak": (4, "and its limit is 0.5"), "callback": (4, "cell 4 failed with ZeroDivisionError: the lever broke"),
    "captured": (None, "a widget caught ZeroDivisionError: the lever broke"), "die": (4, "the kernel died in cell 4")}


@pytest.mark.slow
def test_each_run_says_how_it_ended(ends):
    out, done = ends
    assert done.returncode == 1 and "1 done, 6 failed" in done.stdout and "--retry-failed" in done.stderr
    found = {r["axes"]["how"]: r for r in records(out).values()}
    assert found["ok"]["status"] == "done" and found["ok"]["peak_gib"] > 0.05 and found["ok"]["seconds"] > 0.5
    for how, (cell, reason) in EXPECTED.items():
        assert found[how]["status"] == "failed" and found[how]["cell"] == cell and reason in found[how]["reason"], found[how]


@pytest.mark.slow
def test_each_run_leaves_a_whole_folder(ends):
    out, _ = ends
    for name, record in records(out).items():
        left = {p.name for p in (out / "runs" / name).iterdir()}
        book = "toy.ipynb" if record["status"] == "done" else "toy.failed.ipynb"
        assert left == {book, "log.txt", "run.json", *(["result.json"] if record["status"] == "done" else ["error.json"])}, (name, left)
        nbformat.validate(nbformat.read(out / "runs" / name / book, as_version=4))
        log = (out / "runs" / name / "log.txt").read_text().splitlines()
        assert "cell 1 of 5: how: str" in log[0] and log[-1].startswith("done (" if record["status"] == "done" else f"failed: {record['reason']}")
    assert not list((out / "runs").glob(".*")), "nothing temporary is left"


@pytest.mark.slow
def test_a_log_has_one_line_a_run(ends):
    _, done = ends
    lines = [line for line in done.stderr.splitlines() if line[2:3] == ":"]
    assert [line.split("[")[1].split("]")[0] for line in lines] == [f"{i}/7" for i in range(1, 8)] and "%|" not in done.stderr
    assert all("left" in line for line in lines[:-1])


@pytest.mark.slow
def test_a_run_has_its_limit_of_time(tmp_path):
    swept = sweep(toy_grid(tmp_path, limits=dict(run_minutes=0.3), how=["hang", "ok"]), tmp_path / "out", workers=2, progress=False)
    record = next(r for r in records(tmp_path / "out").values() if r["status"] == "failed")
    assert (swept.done, swept.failed) == (1, 1) and record["cell"] == 4 and record["seconds"] < 60
    assert record["reason"] == "the run took longer than 0.3 minutes, the limit for a run (run_minutes under limits) (in cell 4)"


@pytest.mark.long
def test_a_real_disk_that_is_full(tmp_path):
    """A sweep on a file system of 112 kilobytes, mounted for this process alone; a run leaves 20 or so."""
    disk, grid = tmp_path / "disk", toy_grid(tmp_path, number=list(range(12)))
    disk.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system")
    fill = f"mount -t tmpfs -o size=112k none {disk} && mkdir {disk}/out"
    look = f"ls -A {disk}/out/runs; cat {disk}/out/runs/*/run.json | grep -c done"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f"{fill}; {sys.executable} -m mctrace_nb sweep {grid} --out {disk}/out --workers 1; echo status $?; {look}"],
                          capture_output=True, text=True)
    assert "status 1" in done.stdout and "No space left on device" in done.stderr and "go on with" in done.stderr, done.stderr
    left = done.stdout.partition("status 1\n")[2].splitlines()
    assert not [line for line in left if line.startswith(".")], "nothing half-written is left"
    assert 1 <= int(left[-1]) == len(left) - 1 < 12, "and whatever has a name is done"


@pytest.mark.slow
def test_a_study_of_analyses_ends_with_a_summary(tmp_path):
    """Two real analyses with a fine grid, one of which cannot be made; then the same again, which finds nothing to do."""
    (tmp_path / "grid.yaml").write_text("grid: {components: [head_output, head_pattern]}\nfixed: {task: names, corruption: mean, n: 8, budget: 2, methods: greedy}\n"
                                        "fine: {lambda1: [0.0, 0.1], seed: [0, 1]}\n")
    out = tmp_path / "out"
    swept = sweep(tmp_path / "grid.yaml", out, workers=2, progress=False)
    assert (swept.done, swept.failed, swept.stopped) == (1, 1, "")
    assert {p.name for p in out.iterdir()} == {".lock", "grid.yaml", "study.json", "runs", "table.csv", "study.ipynb", "study.html"}
    table = pd.read_csv(out / "table.csv", index_col="run")
    assert dict(table["status"].value_counts()) == dict(done=1, failed=1) and "has no meaning for head_pattern" in table["reason"].dropna().iloc[0]
    assert len(pd.read_csv(next((out / "runs").glob("head_output*")) / "fine.csv")) == 4
    book = nbformat.read(out / "study.ipynb", as_version=4)
    said = "".join(str(c.get("outputs", "")) for c in book.cells)
    assert "1 done, 1 failed" in said and "has no meaning for head_pattern" in said and "lambda1" in said
    assert not any("xample" in c.source for c in book.cells if c.cell_type == "markdown" and "that comes with the kit" not in c.source)
    page = (out / "study.html").read_text()
    assert page.count("data:image/png") >= 1 and not re.findall(r'(?:src|href)="(?!data:|#|https?://)', page)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".ipynb", ".html")}
    assert sweep(tmp_path / "grid.yaml", out, progress=False).failed == 1
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps, "nothing was run again"
