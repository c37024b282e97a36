"""The command line: what it leaves behind when it works, and that it leaves nothing when it does not."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import ROOT

from mctrace_nb.errors import InputError
from mctrace_nb.results import COLUMNS
from mctrace_nb.parameters import notebook_parameters, parameter_names, validate
from mctrace_nb.run import AnalysisFailed, analyse

FAST = ["--n", "8", "--budget", "2", "--methods", "exhaustive,greedy,pgb,pgb-published,random", "--epochs", "3", "--draws", "2"]


def mctrace(*words, cwd=ROOT, **more):
    return subprocess.run([sys.executable, "-m", "mctrace_nb", *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          **more)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    out = tmp_path_factory.mktemp("traces") / "new" / "names"
    done = mctrace("trace", "--task", "names", *FAST, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_trace_leaves_the_named_files(traced):
    left = {p.name for p in traced.iterdir()}
    assert {"analysis.ipynb", "report.html", "front.csv", "result.json", "front.png", "selection.png", "singles.png",
            "interactions.png"} <= left
    assert not [p for p in traced.parent.iterdir() if p != traced], "something temporary was left"


@pytest.mark.slow
def test_front_csv_and_result_agree(traced):
    front, result = pd.read_csv(traced / "front.csv"), json.loads((traced / "result.json").read_text())
    assert tuple(front.columns) == COLUMNS
    exact = front[(front.method == "exhaustive") & (front.budget == 2)].iloc[0]
    assert result["selection"]["components"] == exact.components.split(";") and result["selection"]["exact"]
    assert result["selection"]["effect"] == pytest.approx(exact.effect)
    assert (front.effect <= front.budget.map(front[front.method == "exhaustive"].set_index("budget").effect) + 1e-4).all()
    assert set(result["parameters"]) == set(parameter_names()) and result["parameters"]["task"] == "names"
    assert {"torch", "transformers", "python"} <= set(result["versions"])
    assert {"seed", "dtype", "device", "split", "sign_rule", "total_effect", "metric"} <= set(result)


@pytest.mark.slow
def test_report_stands_alone(traced):
    page = (traced / "report.html").read_text(encoding="utf-8")
    result = json.loads((traced / "result.json").read_text())
    assert result["selection"]["components"][0] in page and "names" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "@import" not in page and "<script" not in page
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]*)"', page)
    assert len(pictures) >= 4 and all(len(alt) > 40 for alt in pictures)


@pytest.mark.slow
def test_executed_notebook_has_no_path_of_the_run(traced):
    text = (traced / "analysis.ipynb").read_text()
    assert str(traced.parent) not in text
    notebook = nbformat.reads(text, as_version=4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")


@pytest.mark.slow
def test_second_run_needs_force_and_gives_the_same_numbers(traced):
    refused = mctrace("trace", "--task", "names", *FAST, "--out", traced)
    assert refused.returncode == 2 and "--force" in refused.stderr
    before = pd.read_csv(traced / "front.csv").drop(columns="seconds")
    assert mctrace("trace", "--task", "names", *FAST, "--out", traced, "--force").returncode == 0
    pd.testing.assert_frame_equal(before, pd.read_csv(traced / "front.csv").drop(columns="seconds"))


BAD = {
    "unknown option": (["--taks", "names"], "did you mean '--task'"),
    "unknown task": (["--task", "nams"], "did you mean 'names'"),
    "unknown kind": (["--components", "head_outputs"], "did you mean 'head_output'"),
    "unknown method": (["--methods", "greedy,best"], "unknown method 'best'"),
    "unknown metric": (["--metric", "odds"], "unknown metric 'odds'"),
    "not a number": (["--budget", "four"], "budget='four' is not a valid int"),
    "budget 0": (["--budget", "0"], "budget=0 is out of range"),
    "half a component": (["--budget", "2.5"], "budget='2.5' is not a valid int"),
    "seed": (["--seed", "-1"], "seed=-1 is out of range"),
    "infinite": (["--lambda1", "inf"], "lambda1=inf is out of range"),
    "negative": (["--lambda1", "-2"], "lambda1=-2.0 is out of range"),
    "one draw": (["--draws", "1"], "draws=1 is out of range"),
    "n 1": (["--n", "1"], "n=1 is out of range"),
    "lambda": (["--lambda2", "-0.5"], "lambda2=-0.5 is out of range"),
    "stray word": (["names"], "unknown option 'names'"),
    "no such file": (["--task", "no/such/pairs.csv"], "task file 'no/such/pairs.csv' is not there"),
    "variant": (["--task", "winobias:tpye2"], "did you mean 'type2'"),
    "kept task": (["--keep", "facts, nams"], "did you mean 'names'"),
    "metric file": (["--metric", "mine.py:margin"], "there is no file 'mine.py'"),
    "switch": (["--restore", "maybe"], "restore='maybe' is not a valid bool"),
    "cache": (["--cache", "disk"], "unknown cache 'disk'"),
    "map": (["--position-map", "heads"], "unknown position_map 'heads'"),
    "earlier": (["--earlier", "no/such/run"], "is not the result of a run"),
    "answer rule": (["--answer-rule", "max"], "unknown answer_rule 'max'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_exit_2_with_one_line_and_nothing_left(name, tmp_path, capsys):
    from mctrace_nb.__main__ import main

    options, message = BAD[name]
    assert main(["trace", *options, "--out", str(tmp_path / "above" / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("options, message", [
    (["--model", "/no/such/folder"], "no config.json"), (["--budget", "13"], "budget 13 is out of range; give whole numbers from 1 to 12"),
    (["--components", "head_pattern", "--corruption", "mean"], "use head_output")])
def test_bad_input_known_only_in_the_kernel_leaves_nothing(options, message, tmp_path):
    done = mctrace("trace", "--n", "8", *options, "--out", tmp_path / "above" / "out")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert not list(tmp_path.iterdir())


OWN = [("first", "second", "right", "wrong", "kind")] + [
    (f"the {woman} said that", f"the {man} said that", "he", "she", woman)
    for woman, man in (("nurse", "man"), ("dancer", "man"), ("secretary", "man"), ("librarian", "man"))]


@pytest.mark.slow
def test_own_file_with_everything_asked_for(tmp_path):
    """A csv with columns and a row of its own making, a metric from a file, all by the command line."""
    import csv

    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([*OWN, ("the nurse said that", "the nurse said that", "he", "she", "same")])
    (tmp_path / "margin.py").write_text("def margin(logits):\n    return logits.amax(-1) - logits.mean(-1)\n")
    columns = "base=first,counterfactual=second,target=right,foil=wrong,group=kind"
    options = ["--task", tmp_path / "mine.csv", "--columns", columns, "--n", "0", "--methods", "greedy,top-k", "--budget", "1"]
    refused = mctrace("trace", *options, "--out", tmp_path / "out")
    assert refused.returncode == 2 and "line 6: base and counterfactual are the same" in refused.stderr.splitlines()[-1]
    done = mctrace("trace", *options, "--skip-bad-rows", "--metric", f"{tmp_path / 'margin.py'}:margin", "--corruption", "noise",
                   "--restore", "--position-map", "residual", "--cache", "recompute", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["split"] == {"search": 2, "heldout": 2} and "1 of 5 rows left out: line 6" in result["notes"][0]
    assert result["metric"] == "margin" and result["parameters"]["restore"] is True
    assert {row["what"] for row in result["evidence"]} >= {"the set", "everything outside it", "random sets of its size"}
    assert (tmp_path / "out" / "positions.png").stat().st_size > 5000
    assert "given back the values" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.long
def test_desiderata_by_the_command_line(tmp_path):
    done = mctrace("trace", "--task", "binding", "--keep", "binding_operation", "--n", "16", "--budget", "2", "--methods",
                   "exhaustive,greedy", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["task"] == "binding, keeping binding_operation" and "binding_operation, to keep" in result["words"]
    again = mctrace("trace", "--task", "facts", "--n", "16", "--budget", "1", "--methods", "greedy", "--earlier", tmp_path / "out",
                    "--out", tmp_path / "second")
    assert again.returncode == 0, again.stderr
    carried = [row for row in json.loads((tmp_path / "second" / "result.json").read_text())["evidence"] if row["what"] == "the set of out"]
    assert [row["prompts"] for row in carried] == ["search", "held-out"]


def test_out_must_be_writable(tmp_path, capsys, monkeypatch):
    from mctrace_nb.__main__ import main

    (tmp_path / "file").write_text("")
    assert main(["trace", "--out", str(tmp_path / "file")]) == 2 and "is a file" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    assert main(["trace", "--out", str(tmp_path / "shut" / "out")]) == 2 and "no permission" in capsys.readouterr().err


def test_only_earlier_runs_are_replaced(tmp_path, capsys, monkeypatch):
    from mctrace_nb.__main__ import main

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert main(["trace", "--out", str(tmp_path / "thesis"), "--force"]) == 2
    assert "not of an earlier run" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "thesis")
    for here in (".", ".."):
        assert main(["trace", "--out", here, "--force"]) == 2 and "where you are" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["thesis", "chapter.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("cell, message, name", [
    ("raise RuntimeError('the disk is on fire')", "cell 4 failed with RuntimeError: the disk is on fire", "RuntimeError"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel died", "DeadKernelError")])
def test_failed_analysis_leaves_notebook_and_reason(cell, message, name, tmp_path, monkeypatch):
    """A failure that is not bad input: exit status 1, the failing cell named."""
    import mctrace_nb.run as run

    source = nbformat.read(ROOT / run.NOTEBOOK, as_version=4)
    source.cells[4].source = cell
    nbformat.write(source, tmp_path / "broken.ipynb")
    monkeypatch.setattr("mctrace_nb.run.shipped", lambda path: tmp_path / "broken.ipynb")
    with pytest.raises(AnalysisFailed, match=message):
        analyse({"n": 8}, tmp_path / "out", progress=False)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"analysis.failed.ipynb", "error.json"}
    assert json.loads((tmp_path / "out" / "error.json").read_text())["error"] == name


def test_parameters_are_typed_and_described():
    for p in notebook_parameters():
        assert p["type"] in ("int", "float", "str", "bool") and len(p["help"]) > 10, p
    assert validate({})["budget"] == 2
    with pytest.raises(InputError, match="did you mean 'lambda1'"):
        validate({"lamda1": 1})


def test_help_is_quick_and_lists_commands():
    done = mctrace("--help")
    assert done.returncode == 0 and all(c in done.stdout for c in ("trace", "bench", "tutorial"))
    assert mctrace().returncode == 2
    wrong = mctrace("trase")
    assert wrong.returncode == 2 and "did you mean 'trace'" in wrong.stderr
