"""One trace on several processes: the same numbers as on one, and an honest end when one of them fails or dies."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
import ranks_probe
import torch
from conftest import ROOT, tiny_gpt2

import mctrace_nb as mct

ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")}
# Of the largest number of a question. In float32 the random model's log-probabilities of about -10 are good to 1e-6 each.
EXACT, NEAR, NEAR_AT_RANDOM = 1e-10, 1e-6, 5e-6


def torchrun(ranks, *words):
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *map(str, words)], cwd=ROOT,
                            env={**ALONE, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True)


def differences(one, several, tolerances):
    """Where two sets of answers differ: in a shape, a name, or a number by more than a share of the largest."""
    assert one.keys() == several.keys()
    for question in one:
        tolerance = tolerances[question in ranks_probe.ON_TUTORIAL]
        assert one[question].keys() == several[question].keys(), question
        for name, mine in one[question].items():
            other = several[question][name]
            if not isinstance(mine, torch.Tensor):
                yield from [(question, name, mine, other)] * (mine != other)
                continue
            assert mine.shape == other.shape and mine.dtype == other.dtype, (question, name, mine.shape, other.shape)
            away = (mine.double() - other.double()).nan_to_num().abs().max().item()
            if away > tolerance * max(1, mine.double().nan_to_num().abs().max().item()) or (mine.isnan() != other.isnan()).any():
                yield question, name, away


@pytest.mark.slow
@pytest.mark.parametrize("ranks, dtype, tolerances", [(3, "float64", (EXACT, EXACT)), (2, "float32", (NEAR_AT_RANDOM, NEAR))])
def test_several_processes_answer_like_one(ranks, dtype, tolerances, tmp_path, tutorial):
    """Three ranks share prompts unevenly, and some traces have fewer prompts than there are ranks."""
    lm = tiny_gpt2(layers=3, vocabulary=174, bos_token_id=0, eos_token_id=0)
    lm.model.save_pretrained(tmp_path / "model")
    tutorial.tokenizer.save_pretrained(tmp_path / "model")
    run = torchrun(ranks, ROOT / "tests" / "ranks_probe.py", dtype, tmp_path)
    one = ranks_probe.answers(*(mct.load_model(name, dtype=dtype, device="cpu") for name in (tmp_path / "model", "tutorial")), tmp_path)
    assert run.wait(300) == 0, run.stderr.read()
    several = torch.load(tmp_path / "several.pt")
    assert not list(differences(one, several, tolerances))
    graphs, traces = torch.load(tmp_path / "kept.pt")
    assert 1 <= graphs <= 2 and traces < 12, "ranks keep what nobody can ask for any more"


# --- the whole command ---

FAST = ("--task", "names", "--n", "16", "--budget", "2", "--methods", "greedy,guided,pgb", "--epochs", "2")


def trace_on(ranks, out, *options):
    return torchrun(ranks, "-m", "--", "mctrace_nb", "trace", *options, "--out", out)


@pytest.mark.slow
def test_the_command_leaves_what_one_process_leaves(tmp_path):
    options = [*FAST, "--dtype", "float64", "--metric", "kl", "--keep", "professions"]
    run = trace_on(2, tmp_path / "two" / "new", *options)
    alone = subprocess.run([sys.executable, "-m", "mctrace_nb", "trace", *options, "--out", tmp_path / "one" / "new"], cwd=ROOT, env=ALONE)
    assert run.wait(120) == alone.returncode == 0, run.stderr.read()
    one, two = (tmp_path / name / "new" for name in ("one", "two"))
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()} and len(list(two.parent.iterdir())) == 1
    tables = [pd.read_csv(folder / "front.csv").drop(columns="seconds") for folder in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=EXACT, atol=EXACT)
    assert not list(unlike(*(json.loads((folder / "result.json").read_text()) for folder in (one, two))))
    notebook = nbformat.read(two / "analysis.ipynb", as_version=4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")


def unlike(one, two, where=""):
    """Places in which two results differ by more than rounding, times left out."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
    if isinstance(one, (dict, list)):
        for key in one if isinstance(one, dict) else range(max(len(one), len(two))):
            if key != "seconds":
                yield from unlike(one[key], two[key], f"{where}/{key}")
    elif one != (pytest.approx(two, rel=EXACT, abs=EXACT) if isinstance(one, float) else two):
        yield where, one, two


@pytest.mark.slow
def test_bad_input_on_one_rank_is_one_line_and_leaves_nothing(tmp_path):
    """A function that fails on rank 1 alone: rank 0 says so, with status 2, and torchrun ends with its own."""
    (tmp_path / "mine.py").write_text("import os\n\ndef fails(logits):\n    return logits[..., 0] if os.environ['RANK'] == '0' else None\n")
    run = trace_on(2, tmp_path / "above" / "out", *FAST, "--metric", f"{tmp_path / 'mine.py'}:fails")
    said = run.communicate(timeout=120)[1]
    ours = [line for line in said.splitlines() if line.startswith("mctrace_nb")]
    assert run.returncode == 1 and "exitcode  : 2" in said, said
    assert ours[0].startswith("mctrace_nb trace: metric 'fails' turned logits") and ours[0].endswith("(on rank 1)"), said
    assert ours[1:] == ["mctrace_nb FAILED"], said  # the second is torchrun's
    assert {p.name for p in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def process(run, rank, word):
    """The process of a rank that has a word in its command line, once it is there."""
    for _ in range(300):
        for child in psutil.Process(run.pid).children(recursive=True):
            if child.environ().get("RANK") == rank and any(word in part for part in child.cmdline()):
                return child
        time.sleep(0.1)
    raise AssertionError(f"no process of rank {rank} with {word!r}")


@pytest.mark.slow
@pytest.mark.parametrize("rank, word, sign", [
    ("1", "mctrace_nb", signal.SIGKILL), *(pytest.param(*how, marks=pytest.mark.long) for how in (
        ("0", "ipykernel", signal.SIGKILL), ("0", "mctrace_nb", signal.SIGKILL), (None, "", signal.SIGTERM), (None, "", signal.SIGINT)))])
def test_a_death_ends_all_and_leaves_nothing_that_looks_whole(rank, word, sign, tmp_path):
    """One rank dies, or rank 0's kernel, or torchrun is told to end: status 1, at most the files of a failure, and no process."""
    run = trace_on(2, tmp_path / "above" / "out", "--n", "256", "--draws", "40")
    process(run, "0", "ipykernel")
    time.sleep(6)  # models are loaded and effects are run
    everyone = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid if rank is None else process(run, rank, word).pid, sign)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 1, said
    out = tmp_path / "above" / "out"
    assert {p.name for p in out.iterdir()} == {"error.json", "analysis.failed.ipynb"} if word == "ipykernel" else not out.exists()
    assert rank == "0" or not list(tmp_path.iterdir())  # nobody tidies up after rank 0
    assert not psutil.wait_procs(everyone, timeout=10)[1]


# --- without other processes ---

def test_models_and_functions_that_others_cannot_have_are_refused(tutorial, monkeypatch):
    from mctrace_nb import ranks

    class Team:
        size, rank, here, models = 2, 0, 2, {}

    monkeypatch.setattr(ranks, "_led", Team())
    with pytest.raises(mct.InputError, match="device_map='auto' is for a single process; among 2"):
        mct.load_model("tutorial", device_map="auto")
    with pytest.raises(mct.InputError, match="device='cuda:0' is one for all of 2 processes; give 'cuda'"):
        mct.load_model("tutorial", device="cuda:0")
    with pytest.raises(mct.InputError, match="'tutorial' is on this process alone; save it"):
        mct.Trace(tutorial, mct.load_task("names", tutorial, n=4))
    with pytest.raises(mct.InputError, match="metric='file.py:function'"):
        ranks.packed(mct.metrics.get_metric(lambda logits: logits[..., 0]))


def test_memory_is_shared_by_the_processes_of_a_machine(tutorial, monkeypatch):
    from mctrace_nb import cost

    trace = mct.Trace(tutorial, mct.load_task("names", tutorial, n=16), "mlp_neuron")
    needed = cost.Memory.of(tutorial, trace.components.kinds, trace.shape, trace.corruption, "device", trace.batch_rows).run
    monkeypatch.setattr(cost.memory, "available", lambda device: 3 * needed - 1)
    trace.check_memory()
    trace._runs.here = 2
    trace.check_memory()
    trace._runs.here = 3
    with pytest.raises(mct.InputError, match="free on cpu for each of 3 processes"):
        trace.check_memory()
    rows = []
    monkeypatch.setattr(cost.Memory, "check", lambda self, processes: rows.append((self.backward, processes)))
    trace.check_memory(64)
    trace._runs.processes = 4
    trace.check_memory(64)
    assert rows[0][0] == pytest.approx(4 * rows[1][0], rel=0.01)
