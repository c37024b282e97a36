"""Whole runs of the analysis with many parameter sets, and runs that are killed. `make test-long`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest

from mctrace_nb.run import analyse

pytestmark = pytest.mark.long

SETS = {
    "patterns": dict(task="coreference", components="head_pattern", budget=3),
    "outputs of the MLP": dict(task="names", components="mlp_output", budget=3, n=16),
    "neurons at the last token": dict(task="facts", components="mlp_neuron", positions="last", budget=1, n=8, methods="top-k,pgb"),
    "blocks of both kinds": dict(task="binding", components="attn_block,mlp_block", budget=2),
    "all kinds of heads": dict(task="professions", components="head_pattern,head_output", budget=2),
    "noise on the subject": dict(task="facts", corruption="noise", positions="subject", budget=2),
    "zero, smallest": dict(task="names", corruption="zero", direction="min", budget=3),
    "mean, largest in size": dict(task="names", corruption="mean", direction="abs", budget=3),
    "accuracy": dict(task="professions", metric="accuracy", budget=2),
    "logit difference": dict(task="professions", metric="logit_diff", budget=2),
    "one component": dict(task="professions", budget=1),
    "the paper's rounding": dict(task="coreference", rounding="paper", schedule="exponential", lr=0.5),
    "float64": dict(task="names", dtype="float64", n=16),
    "how sure": dict(task="binding_operation", budget=2, draws=4),
    "rivals": dict(task="professions", budget=2, methods="guided,attribution,integrated-gradients,shapley,hard-concrete,dcm"),
}


@pytest.mark.parametrize("name", SETS)
def test_analysis_with(name, tmp_path):
    report = analyse({"n": 32, **SETS[name]}, tmp_path / "out", progress=False)
    result = json.loads((report.parent / "result.json").read_text())
    assert result["selection"]["components"] is not None and result["words"] and report.stat().st_size > 50_000
    front = pd.read_csv(report.parent / "front.csv")
    assert front["effect"].notna().all() and (front["size"] <= front["budget"]).all()
    notebook = nbformat.read(report.parent / "analysis.ipynb", as_version=4)
    streams = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not streams, streams


@pytest.mark.parametrize("sign, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("after", [4, 12])
def test_a_killed_run_leaves_nothing_that_looks_whole(sign, status, after, tmp_path):
    run = subprocess.Popen([sys.executable, "-m", "mctrace_nb", "trace", "--out", tmp_path / "above" / "out"],
                           stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(after)
    assert run.poll() is None, "the run was over before it could be killed"
    os.kill(run.pid, sign)
    assert run.wait(30) == status
    if sign == signal.SIGKILL:  # nobody can tidy up, but nothing stands under the run's name
        assert not (tmp_path / "above" / "out").exists()
    else:
        assert not list(tmp_path.iterdir())


def test_the_papers_figures_on_published_data(tmp_path):
    """One parameter makes the figures for another model: a GPT-2 with GPT-2's words, on the data sets that the paper uses."""
    import papermill
    from conftest import ROOT, asset

    model = tmp_path / "model"
    shutil.copytree(asset("models/gpt2-tiny-random/config.json").parent, model)
    for file in asset("tokenizers/gpt2/vocab.json").parent.iterdir():
        shutil.copy(file, model / file.name)
    parameters = dict(model=str(model), n=8, largest=2, data_dir=str(asset("README.md").parent))
    papermill.execute_notebook(str(ROOT / "notebooks/13_paper_figures.ipynb"), str(tmp_path / "out.ipynb"), parameters=parameters,
                               progress_bar=False, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    pictures = [o for c in made.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 9 and any("winobias" in o.data["text/plain"] for o in pictures)
