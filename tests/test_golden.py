"""Equal to the paper's own code: effects, gradients and optimiser steps on a small random GPT-2, in float64."""

import json

import pytest
import torch
from conftest import asset
from transformers import AutoModelForCausalLM, AutoTokenizer

from mctrace_nb.models import wrap_model
from mctrace_nb.relax import relax, settings_grid
from mctrace_nb.tasks import Example, Task, raw_pairs
from mctrace_nb.tasks.encode import Encoder
from mctrace_nb.tasks.vig_professions import sentences
from mctrace_nb.tracing import Trace

SINGLE = 257
CLOSE = dict(rtol=1e-8, atol=1e-8)


def vector(values):
    return torch.tensor(values, dtype=torch.float64).flatten()


@pytest.fixture(scope="module")
def golden():
    return json.loads(asset("reference/golden_float64.json").read_text())["float64"]


@pytest.fixture(scope="module")
def lm():
    tokenizer = AutoTokenizer.from_pretrained(asset("tokenizers/gpt2"))
    return wrap_model(AutoModelForCausalLM.from_pretrained(asset("models/gpt2-tiny-random"), dtype=torch.float64), tokenizer)


@pytest.fixture(scope="module")
def heads(golden, lm):
    g = golden["attention_winobias_dev"]
    ids = zip(g["ctx_ids_she"], g["ctx_ids_he"], g["cand_ids_male"], g["cand_ids_female"])
    return g, Trace(lm, Task("winobias", tuple(Example(*map(tuple, row)) for row in ids)), "head_pattern")


@pytest.fixture(scope="module")
def outputs(golden, lm):
    g = golden["mlp_professions"]
    ids = [tuple(lm.tokenizer(text)["input_ids"]) for text in g["texts"]]
    he, she = (tuple(lm.tokenizer(word)["input_ids"]) for word in (" he", " she"))
    examples = [Example(base, other, *((she, he) if gender == "male" else (he, she)))
                for base, other, gender in zip(ids[::2], ids[1::2], g["gender"])]
    return g, Trace(lm, Task("professions", tuple(examples)), "mlp_output")


def test_base_probabilities_of_heads(heads):
    g, trace = heads
    expected = vector(g["base_prob_male_cont"]).log() - vector(g["base_prob_female_cont"]).log()
    torch.testing.assert_close(trace.base_values, expected, **CLOSE)


@pytest.mark.parametrize("name", ["z0", "z1", "z0.5", "random_binary", "single_component"])
def test_effects_of_heads(heads, name):
    g, trace = heads
    z = g["masks"][name]["z"]
    mask = torch.full((16,), z, dtype=torch.float64) if isinstance(z, float) else vector(z)
    torch.testing.assert_close(trace.effects(mask, scale="relative"), vector(g["masks"][name]["per_pair"]), **CLOSE)


def output_mask(g, name):
    if name == "random_binary":
        return vector([[int(x) for x in row] for row in g["random_binary_mask_rows_as_01"]])
    if name == "single_component":  # the file does not name it: it is the one that test_single_output finds
        return torch.eye(512, dtype=torch.float64)[SINGLE]
    return torch.full((512,), float(name[1:]), dtype=torch.float64)


@pytest.mark.parametrize("name", ["z0", "z1", "z0.5", "random_binary", "single_component"])
def test_effects_of_mlp_outputs(outputs, name):
    g, trace = outputs
    found = trace.effects(output_mask(g, name), scale="relative")
    torch.testing.assert_close(found, vector(g["masks"][name]["per_pair"]), **CLOSE)


@pytest.mark.slow
def test_single_output(outputs):
    """Of all 512 coordinates exactly one has the published effects."""
    g, trace = outputs
    found = trace.effects(torch.eye(512, dtype=torch.float64), scale="relative")
    off = (found - vector(g["masks"]["single_component"]["per_pair"])).abs().amax(1)
    assert (off < 1e-8).nonzero().flatten().tolist() == [SINGLE] == [trace.components.index("L2.out1")]


def test_base_probabilities_of_mlp_outputs(outputs):
    """The file gives p(he) and p(she) of the first three pairs of its last batch of 32."""
    g, trace = outputs
    he, she = torch.tensor(g["masks"]["z1"]["last_batch_he_she_base"], dtype=torch.float64).log().T
    torch.testing.assert_close(trace.base_values[32:35], he - she, **CLOSE)


@pytest.mark.parametrize("which", ["heads", "outputs"])
def test_gradient_at_one_half(which, request):
    g, trace = request.getfixturevalue(which)
    expected = g["grad_z0.5_first32"]
    mask = torch.full((len(trace.components),), 0.5, dtype=torch.float64, requires_grad=True)
    loss = torch.exp(-trace.effects(mask, examples=torch.arange(32))).mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-8)
    torch.testing.assert_close(mask.grad, vector(expected["dloss_dz"]), **CLOSE)
    assert all(p.grad is None for p in trace.model.model.parameters())


# --- five optimiser steps: they need the pairs that follow the 64 of the golden file, in the published order -------

def winobias_dev(tokenizer):
    encoder = Encoder(tokenizer)
    return [encoder.example(pair) for pair in raw_pairs("winobias:published", asset("winobias"))]


def professions(tokenizer):
    rows = json.loads(asset("professions/professions_male_stereo.json").read_text())
    words = [row for row in rows if len(tokenizer(" " + row[0])["input_ids"]) == 1]
    encoder = Encoder(tokenizer)
    return [encoder.example(pair) for pair in sentences(words, ("said that", "yelled that"))][:160]


def steps(lm, examples, kind, lr):
    """The mask after each of the first five steps, and the loss of each, from epochs of one to five batches."""
    for count in range(1, 6):
        trace = Trace(lm, Task("first", tuple(examples[:32 * count])), kind)
        run, = relax(trace, settings_grid(lr=lr, seed=None), epochs=1, batch_size=32)
        yield torch.as_tensor(run.trajectory[1]), run.history[0]["loss"] * count


@pytest.mark.slow
def test_five_steps_on_heads(heads, lm):
    g, _ = heads
    examples = winobias_dev(lm.tokenizer)
    assert len(examples) == 160
    assert [e.base for e in examples[:64]] == [tuple(ids) for ids in g["ctx_ids_she"]]
    expected, total = g["trajectory_lr0.1_l1_0.05_l2_0.05_epoch0"], 0
    for (mask, loss), step in zip(steps(lm, examples, "head_pattern", 0.1), expected):
        total += step["loss"]
        torch.testing.assert_close(mask, vector(step["z_after"]), **CLOSE)
        assert loss == pytest.approx(total, abs=1e-8)


def test_five_steps_on_mlp_outputs(outputs, lm):
    g, _ = outputs
    examples = professions(lm.tokenizer)
    assert [e.base for e in examples[:32]] == [tuple(lm.tokenizer(t)["input_ids"]) for t in g["texts"][:64:2]]
    expected, total = g["trajectory_lr0.5_l1_0.05_l2_0.05_epoch0"], 0
    for (mask, loss), step in zip(steps(lm, examples, "mlp_output", 0.5), expected):
        total += step["loss"]
        assert mask.sum().item() == pytest.approx(step["z_after_sum"], abs=1e-8)
        torch.testing.assert_close(mask[:8], vector(step["z_after_row0_first8"]), **CLOSE)
        assert loss == pytest.approx(total, abs=1e-8)
