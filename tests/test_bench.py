"""The benchmarks measure what they say: the reference does the kit's work, both ways agree, the GPU's table can be made."""

import json

import pytest
import torch
from conftest import ROOT, asset

import mctrace_nb as mct
from mctrace_nb import bench
from mctrace_nb.bench import gpu, large, limit, published_way, shapes, stories
from mctrace_nb.bench import search as quality
from mctrace_nb.search import search
from mctrace_nb.tracing import Trace


@pytest.fixture(scope="module")
def lm():
    lm = shapes.gpt2_small(layers=2, width=64, words=100)
    lm.model.double().requires_grad_(False)
    return lm


@pytest.mark.parametrize("task", [shapes.winobias_shaped(100), shapes.professions_shaped(100)], ids=lambda t: t.name)
def test_every_layout_of_the_reference_does_what_the_kit_does(lm, task):
    trace = Trace(lm, task, "head_output")
    expected = torch.exp(-trace.base_values).mean()
    for name, groups in limit.layouts(lm, trace.side().rows).items():
        for copies in (1, 3):
            found = [group.repeated(copies).forward()[0] * len(group.answers[0]) for group in groups]
            torch.testing.assert_close(sum(found) / len(task.search), expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("kind", ["head_pattern", "mlp_output"])
@pytest.mark.parametrize("task", [shapes.winobias_shaped(100), shapes.professions_shaped(100)], ids=lambda t: t.name)
def test_the_published_way_agrees_in_double_precision(lm, task, kind):
    trace, published = Trace(lm, task, kind), published_way.PublishedWay(lm, task, kind)
    new = torch.full((len(trace.components),), 0.5, dtype=torch.float64, requires_grad=True)
    old = torch.full((2, len(new) // 2), 0.5, dtype=torch.float64, requires_grad=True)
    loss = torch.exp(-trace.effects(new)).mean()
    loss.backward()
    torch.testing.assert_close(published.step(old), loss.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(old.grad.flatten(), new.grad, rtol=1e-10, atol=1e-10)
    assert all(not p.requires_grad for p in lm.model.parameters()) and lm.model.config._attn_implementation == "sdpa"


@pytest.mark.long
def test_the_table_of_the_gpu_can_be_made(monkeypatch):
    """On the CPU, for a small model of each family."""
    for make in (lambda: shapes.gpt2_small(layers=2, width=64, words=100),
                 lambda: gpu._shaped("qwen3", "small Qwen3", vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                     num_key_value_heads=2, head_dim=8, intermediate_size=48, pad_token_id=0, bos_token_id=1, eos_token_id=2)):
        for precision in gpu.PRECISIONS:
            rows = list(gpu.one(make(), precision, repeats=1))
            assert len(rows) == 4 and all(row["value"] > 0 for row in rows)


def test_without_a_gpu_the_table_says_so(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert bench.main(["gpu", "--out", str(tmp_path / "bench.json")]) == 0
    assert "not measured: there is no GPU" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text()) == []


def test_shapes_are_those_of_the_data():
    sizes = [tuple(map(int, x.split("."))) for x in shapes.WINOBIAS.split()]
    assert len(sizes) == 32 and sum(t + f - 1 for _, t, f in sizes) == 262
    assert ROOT.exists()


# --- the quality table -----------------------------------------------------------------------------------------

def frame_of(**effects):
    """One case of two budgets: effects of each method at both."""
    import pandas as pd

    return pd.DataFrame([dict(task="t", kind="k", seed=0, method=method, budget=b, effect=e, forwards=f, backwards=0)
                         for method, (both, f) in effects.items() for b, e in zip((1, 2), both) if e is not None])


def test_bars_are_missed_where_they_should_be():
    good = frame_of(exhaustive=((2.0, 4.0), 90), guided=((2.0, 4.0), 30), greedy=((2.0, 3.0), 20), pgb=((None, 1.0), 5))
    found = {r["name"]: bench.row(**r) for r in quality.bars(good)}
    assert all(r["ok"] is not False for r in found.values()) and found["greedy: share with the optimum"]["value"] == 0.5
    assert found["pgb: smallest share of the optimum"]["value"] == 0, "a budget without a set counts as nothing"
    assert found["guided: rows forwarded and back-propagated / greedy's, at most"]["value"] == 1.5
    bad = frame_of(exhaustive=((2.0, 4.0), 90), guided=((1.9, 2.0), 80), greedy=((2.0, 3.0), 20))
    missed = [r["name"] for r in quality.bars(bad) if bench.row(**r)["ok"] is False]
    assert len(missed) == 4 and any("cases below greedy" in name for name in missed)
    small = frame_of(exhaustive=((0.01, 4.0), 90), guided=((0.0, 4.0), 30), greedy=((0.0, 4.0), 20))
    assert next(quality.bars(small))["value"] == 1, "an optimum of a hundredth of a nat is no case"


def test_the_quality_table_is_measured_and_printed(tutorial, capsys):
    found = quality.quality(tutorial, ["professions"], ["head_output"], [31], [1, 2], ["exhaustive", "guided", "greedy", "attribution"])
    assert set(found["method"]) == {"exhaustive", "guided", "greedy", "attribution", "random"} and set(found["seed"]) == {31}
    said = capsys.readouterr().out
    assert "professions, head_output, 31" in said and "exhaustive (nats)" in said
    assert next(r for r in quality.bars(found) if "share of the cases" in r["name"])["value"] == 1


def test_against_greedy_counts_what_lies_below(tutorial, monkeypatch):
    trace = Trace(tutorial, mct.load_task("professions", tutorial, n=8, seed=31), "mlp_output")
    rows = {r["name"].split(": ")[1]: bench.row(**r) for r in large.against_greedy(trace, "x", 2)}
    assert rows["work of guided / greedy's"]["bar"] == 1 / 12
    assert rows["budgets up to 2 at which guided lies below greedy"]["ok"]
    worse = lambda trace, method, budgets, **more: search(trace, "top-k" if method == "greedy" else "random", budgets, **more)  # noqa: E731
    monkeypatch.setattr(large, "search", worse)
    rows = {r["name"].split(": ")[1]: bench.row(**r) for r in large.against_greedy(trace, "x", 2)}
    assert rows["budgets up to 2 at which guided lies below greedy"]["ok"] is False
    assert [large.bar_of(n) for n in (12, 64, 192, 768)] == [None, 1 / 2, 1 / 12, 1 / 40]


def test_stories_are_measured_or_said_to_be_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MCTRACE_ASSETS", str(tmp_path))
    assert list(stories.measure(True)) == [] and "is not measured" in capsys.readouterr().out
    monkeypatch.undo()
    model = mct.load_model(str(asset("models/stories260K/config.json").parent), device="cpu")
    task = stories.pronouns(model, 16)
    assert len(task.search) == 16 and all(len(e.base) == len(e.counterfactual) for e in task.search)
