"""Exact arithmetic on the micro-model: a planted AND pair (A, B) and a planted OR pair (C, D)."""

from itertools import product

import pytest
import torch
from micro import by_hand, micro

from mctrace_nb.errors import InputError
from mctrace_nb.relax import pgb
from mctrace_nb.search import search
from mctrace_nb.tracing import Trace

A, B, C, D = "L0H0", "L0H1", "L0H2", "L0H3"


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def trace(request):
    lm, task = micro()
    lm.model.set_attn_implementation(request.param)
    return Trace(lm, task, "head_output")


def test_every_subset_and_soft_masks_are_what_arithmetic_says(trace):
    masks = torch.tensor(list(product([0, 0.25, 0.75, 1], repeat=4)), dtype=torch.float64)
    expected = torch.tensor([by_hand(*m) for m in masks.tolist()], dtype=torch.float64)
    torch.testing.assert_close(trace.effects(masks)[:, 0], expected, rtol=0, atol=1e-12)


def test_planted_interactions(trace):
    pairs = trace.interactions(k=2).set_index("components")["interaction"].round(12)
    assert pairs[(A, B)] == 5 and pairs[(C, D)] == -2
    assert (pairs.drop([(A, B), (C, D)]) == 0).all()
    assert (trace.interactions(k=3)["interaction"].abs() < 1e-12).all()


def test_total_direct_and_indirect_effects(trace):
    assert trace.total_effect().mean == pytest.approx(7, abs=1e-12)
    assert trace.indirect_effect([A]).mean == pytest.approx(0, abs=1e-12)
    assert trace.direct_effect([A]).mean == pytest.approx(2, abs=1e-12)  # without A the AND is lost
    assert trace.mediation([A, B])["mean"].round(12).to_dict() == dict(total=7, direct=2, indirect=5, remainder=0)
    assert trace.mediation([C])["mean"].round(12).to_dict() == dict(total=7, direct=7, indirect=2, remainder=-2)


def test_swapped_answers_are_noticed():
    lm, task = micro()
    e = task.search[0]
    swapped = type(task)("swapped", (type(e)(e.base, e.counterfactual, e.foil, e.target),))
    with pytest.warns(UserWarning, match="are target and foil swapped"):
        assert Trace(lm, swapped, "head_output").total_effect().mean == pytest.approx(-7)


def test_effect_of_a_layer(trace):
    assert trace.indirect_effect(trace.components.in_layer(0)).mean == pytest.approx(7)
    with pytest.raises(InputError, match="layer 1 is out of range"):
        trace.components.in_layer(1)


def test_neurons_are_the_gates():
    lm, task = micro()
    trace = Trace(lm, task, "mlp_neuron")
    assert trace.components.labels == ["L0.n0", "L0.n1"]
    assert trace.effects(torch.eye(2))[:, 0].tolist() == pytest.approx([5, -2])


def test_zero_corruption_acts_on_the_counterfactual_prompt():
    lm, task = micro()
    e = task.search[0]
    turned = type(task)("turned", (type(e)(e.counterfactual, e.base, e.target, e.foil),))
    trace = Trace(lm, turned, "head_output", corruption="zero")
    assert trace.effects([A])[0].item() == pytest.approx(-5) and trace.effects([C])[0].item() == pytest.approx(0)
    patterns = Trace(lm, turned, "head_pattern", corruption="zero")
    torch.testing.assert_close(patterns.effects(torch.eye(4)), trace.effects(torch.eye(4)))


def test_patterns_that_never_change_have_no_effect():
    lm, task = micro()
    assert Trace(lm, task, "head_pattern").effects(torch.ones(4)).abs().max() == 0


def test_searches_find_what_can_be_worked_out(trace):
    def effects(method, **options):
        return [s.effect for s in search(trace, method, budgets=range(1, 5), **options).selections]

    exact = search(trace, "exhaustive", budgets=range(1, 5))
    assert [round(s.effect, 9) for s in exact.selections] == [2, 5, 7, 7]
    assert exact[2].components == (A, B)
    assert [round(x, 9) for x in effects("greedy")] == [2, 2, 7, 7]  # at 2 it holds one half of each gate
    assert [round(x, 9) for x in effects("top-k")] == [2, 2, 2, 7]
    assert [round(x, 9) for x in effects("exhaustive", direction="min")] == [0, 2, 2, 7]
    assert exact.best_up_to() == pytest.approx([2, 5, 7, 7])


def test_work_of_each_search_on_a_fresh_trace():
    lm, task = micro()
    for method, expected in (("exhaustive", [4, 10, 14, 15]), ("greedy", [4, 7, 9, 10]), ("top-k", [5, 6, 7, 8])):
        trace = Trace(lm, task, "head_output")
        assert [s.forwards for s in search(trace, method, budgets=range(1, 5)).selections] == expected


def test_gradient_of_the_soft_mask(trace):
    mask = torch.tensor([0.75, 0.75, 0.25, 0.25], dtype=torch.float64, requires_grad=True)
    trace.effects(mask).sum().backward()
    torch.testing.assert_close(mask.grad, torch.tensor([5.0, 5, 2, 2], dtype=torch.float64))


def test_pgb_finds_the_and_and_loses_the_or():
    """From 0.6 either half of the OR is redundant given the other, so neither has a gradient: penalties drop both."""
    lm, task = micro()
    trace = Trace(lm, task, "head_output")
    found = pgb(trace, budget=3, init=0.6, lambda1=0.02, lambda2=0.02, transform="log")
    assert found.components == (A, B) and found.effect == pytest.approx(5)
    assert found.trajectory.shape == (len(found.history) + 1, 4) and (found.trajectory[0] == 0.6).all()
