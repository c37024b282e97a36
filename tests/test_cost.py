"""What a run costs: counted like the work itself, measured against real peaks, refused where it cannot fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Words, random_task, tiny_gpt2
from test_families import FAMILIES

import mctrace_nb as mct
from mctrace_nb import cost, memory
from mctrace_nb.models import wrap_model
from mctrace_nb.search import METHODS, search
from mctrace_nb.tracing import Trace


def test_every_search_does_the_work_that_was_foretold():
    lm, task = tiny_gpt2(), random_task(n=4)
    assert set(cost.METHODS) == set(METHODS)
    for method in METHODS:
        trace = Trace(lm, task, "head_output")
        options = dict(epochs=3, lambda1=1e-6, lambda2=0.0) if method.startswith("pgb") else dict(epochs=3) if method == "dcm" else {}
        front = search(trace, method, budgets=[1, 2, 3], heldout=False, progress=False, **options)
        trace.prepare(), trace.scale
        foretold = cost.rows_of(method, 4, [1, 2, 3], len(task.search), epochs=3)
        spent = front.selections[-1].forwards + front.selections[-1].backwards if front.selections else trace.work.forwards + trace.work.backwards
        assert spent <= foretold + 2 * len(trace), method
        if not method.startswith(("pgb", "guided")):
            assert spent == foretold, method


@pytest.mark.parametrize("family", FAMILIES)
def test_the_skeleton_of_a_config_is_the_model(family):
    """From the configuration alone: the same components, weights and cache as of the loaded model."""
    model = FAMILIES[family]()
    lm, task = wrap_model(model, Words(), family), random_task(n=3, answers=(1, 2))
    here, there = mct.estimate(lm, task, "head_pattern"), mct.estimate(model.config, task, "head_pattern")
    assert (here.components, here.rows, here.passes) == (there.components, there.rows, there.passes)
    for part in ("weights", "cache", "prefix", "forward", "backward"):
        assert getattr(here.memory, part) == getattr(there.memory, part), part
    trace = Trace(lm, task, "head_pattern")
    trace.prepare()
    kept = sum(x.numel() * x.element_size() for pair in trace.side().values.values() for x in pair)
    assert kept == here.memory.cache


@pytest.mark.parametrize("kind", ["head_output", "attn_block", "mlp_neuron", "mlp_output", "mlp_block", "residual"])
def test_the_cache_is_counted_to_the_byte(kind):
    lm, task = tiny_gpt2(), random_task(n=4, answers=(1, 3))
    trace = Trace(lm, task, kind)
    trace.prepare()
    assert sum(x.numel() * 8 for x in trace.side().values.values()) == mct.estimate(lm, task, kind).memory.cache
    assert mct.estimate(lm, task, kind, cache="recompute").memory.cache == 0 == mct.estimate(lm, task, kind, corruption="zero").memory.cache


def test_the_command_line_foretells_what_the_run_will_do(capsys):
    from mctrace_nb.__main__ import main

    assert main(["estimate", "--task", "names", "--n", "16", "--methods", "greedy,top-k", "--budget", "2"]) == 0
    said = capsys.readouterr().out
    trace = Trace(mct.load_model("tutorial"), mct.load_task("names", mct.load_model("tutorial"), n=16), "head_output")
    spent = [search(trace, m, budgets=range(1, 9), heldout=False, progress=False).selections[-1].forwards for m in ("greedy", "top-k", "random")]
    assert f"12 components; rows: greedy {spent[0]:,}, top-k {spent[1]:,}, random {spent[2]:,};" in said
    assert main(["estimate", "--task", "nams"]) == 2 and "did you mean 'names'" in capsys.readouterr().err


def test_numbers_of_gpt2_small_from_its_config():
    from transformers import GPT2Config

    found = mct.estimate(GPT2Config(), n=64, tokens=10, budgets=range(1, 5))
    assert found.components == 144 and found.rows == {"greedy": 64 * (144 + 143 + 142 + 141)}
    assert found.memory.weights == 4 * 124_439_808 and found.memory.cache == 64 * 10 * 12 * 768 * 4
    assert "144 components" in str(found) and found.minutes > 0


RUNS = [("gpt2", "head_output", "pgb-published", "device", "1"), ("gpt2", "head_pattern", "pgb-published", "device", "4"),
        ("gpt2", "mlp_neuron", "pgb", "device", "1"), ("gpt2", "head_output", "guided", "device", "4"),
        ("gpt2", "mlp_neuron", "greedy", "device", "1"), ("llama", "head_output", "greedy", "device", "4"),
        ("llama", "mlp_neuron", "pgb-published", "device", "1"), ("llama", "mlp_neuron", "greedy", "recompute", "4")]
LONGER = RUNS[2:4]  # half a minute and more each


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc")
@pytest.mark.parametrize("run", [pytest.param(run, marks=pytest.mark.long if run in LONGER else (), id="-".join(run)) for run in RUNS])
def test_the_peak_of_a_run_is_near_its_estimate(run):
    made = subprocess.run([sys.executable, ROOT / "tests" / "memory_probe.py", *run], capture_output=True, text=True, check=True)
    assert 0.6 <= float(made.stdout.split()[-1]) <= 1.3, made.stdout


@pytest.mark.parametrize("options, free, message", [
    (dict(components="mlp_neuron"), 120 << 20, "cached values, and 120 MiB are free on cpu; use cache='recompute', positions='last'"),
    (dict(batch_rows=100_000), 1 << 30, "for the forward pass, .* use a smaller batch_rows"),
])
def test_what_cannot_fit_is_refused_before_it_runs(monkeypatch, options, free, message):
    lm, task = tiny_gpt2(dtype=torch.float32), random_task(n=200, length=(40, 40))
    monkeypatch.setattr(cost, "LIBRARIES", 0)
    if "batch_rows" not in options:  # so that the cache is what does not fit
        options = {**options, "batch_rows": 16}
        lm = tiny_gpt2(width=256, heads=4, layers=4, dtype=torch.float32)
    monkeypatch.setattr(memory, "available", lambda device: free)
    with pytest.raises(mct.InputError, match=message):
        Trace(lm, task, **options)


def test_a_gradient_that_cannot_fit_is_refused(monkeypatch):
    trace = Trace(tiny_gpt2(layers=4), random_task(n=40, length=(40, 40)), "head_output")
    monkeypatch.setattr(memory, "available", lambda device: 400 << 20)
    trace.check_memory()
    with pytest.raises(mct.InputError, match="backward pass, .* use a smaller batch_size, fewer settings at once"):
        mct.pgb(trace, lambda1=[0.01 * i for i in range(200)])


def test_free_memory_is_within_the_machine():
    assert 0 < memory.available(torch.device("cpu")) < 1 << 44


def test_estimate_refuses_what_it_does_not_know():
    for options, message in ((dict(cache="disk"), "unknown cache 'disk'"), (dict(methods="gredy"), "did you mean 'greedy'"),
                             (dict(components="heads"), "unknown kind"), (dict(dtype="int8"), "unknown dtype"),
                             (dict(budgets=[13]), "out of range; give whole numbers from 1 to 12")):
        with pytest.raises(mct.InputError, match=message):
            mct.estimate("tutorial", **options)
    with pytest.raises(mct.InputError, match="no config.json"):
        mct.estimate("/nowhere/model")


def test_what_cannot_fit_is_refused_before_anything_is_run(monkeypatch):
    lm, task = tiny_gpt2(), random_task(n=6)
    Trace(lm, task, "head_output")  # the model's contract is checked once
    monkeypatch.setattr(memory, "available", lambda device: 0)
    monkeypatch.setattr("mctrace_nb.hooks.Session.run", lambda *args, **more: pytest.fail("ran before it was refused"))
    with pytest.raises(mct.InputError, match="are free on cpu"):
        Trace(lm, task, "head_output")


@pytest.mark.parametrize("corruption, positions, prefixes", [("counterfactual", "all", 1), ("zero", "last", 1), ("counterfactual", "last", 2)])
def test_a_prefix_that_serves_both_runs_is_computed_once(monkeypatch, corruption, positions, prefixes):
    from mctrace_nb.hooks import Session

    calls, run = [], Session.prefixes
    monkeypatch.setattr(Session, "prefixes", lambda self, *args: (calls.append(1), run(self, *args))[1])
    lm, task = tiny_gpt2(), random_task(n=4, length=(6, 6))
    trace = Trace(lm, task, "head_output", corruption=corruption, positions=positions)
    trace.total_effects()
    assert len(calls) - 1 == prefixes  # one more was run to check the model's contract
    size = sum({x.data_ptr(): 8 * x.numel() for side in trace._runs.sides._made.values() for pair in side.prefix for x in pair}.values())
    expected = mct.estimate(lm, task, "head_output", corruption=corruption, positions=positions).memory.prefix
    assert size == expected if prefixes == 1 else size <= expected
