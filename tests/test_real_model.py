"""A real pretrained Llama: the kit must find what is known to be there."""

import pytest
import torch
from conftest import asset

import mctrace_nb as mct
from mctrace_nb.bench.stories import pronouns


@pytest.fixture(scope="module")
def trace():
    model = mct.load_model(str(asset("models/stories260K/config.json").parent), device="cpu")
    return mct.Trace(model, pronouns(model, None), "head_output")


def test_begins_with_bos_once_and_pairs_are_many(trace):
    assert len(trace) >= 20
    for e in trace.examples:
        assert e.base[0] == 1 and 1 not in e.base[1:] and len(e.base) == len(e.counterfactual)


def test_total_effect(trace):
    assert 5 <= trace.total_effect().mean <= 11


def test_one_head_carries_most_and_shares_do_not_add_up(trace):
    effects, total = trace.effects(torch.eye(len(trace.components))), trace.total_effects()
    best = effects.argmax(0)
    known = trace.components.index("L4H2")
    share = effects[known] / total
    assert (best == known).float().mean() >= 0.9
    assert ((share > 0.4) & (share < 0.75)).float().mean() >= 0.9
    assert (effects.sum(0) - total).abs().median() > 0.5


def test_observation_alone_ranks_the_known_heads_among_the_first(trace):
    """One pass a prompt, two for the sets, and no gradient: the two heads that carry most are among the first three of CircuitLasso."""
    front = mct.search(trace, "circuit-lasso", [1, 3], progress=False)
    assert "L4H2" in front[3].components and front[3].effect > 0.9 * trace.total_effect().mean
    assert front[3].forwards == 4 * len(trace) and front[3].backwards == 0
