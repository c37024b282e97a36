"""The benchmarks measure what they say: the reference does the kit's work, both ways agree, the GPU's table can be made."""

import json

import pytest
import torch
from conftest import ROOT

from mctrace_nb import bench
from mctrace_nb.bench import gpu, limit, published_way, shapes
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
