"""Rival searches: their scores against exact patching on models worked out by hand, axioms, counted work, refusals."""

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2
from micro import micro

from mctrace_nb import cost, rivals
from mctrace_nb.counting import mean_gradients
from mctrace_nb.desiderata import Desiderata
from mctrace_nb.errors import InputError
from mctrace_nb.search import search
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

RIVALS = ("attribution", "integrated-gradients", "shapley", "hard-concrete", "dcm")
A, B, C, D = "L0H0", "L0H1", "L0H2", "L0H3"


@pytest.fixture(scope="module")
def gates():
    """The micro-model: A and B are an AND of worth 5, C and D an OR of worth 2."""
    return Trace(*micro(), "head_output")


@pytest.fixture(scope="module")
def trace():
    return Trace(tiny_gpt2(layers=3, heads=2), random_task(n=6), "head_output")


def all_replaced(trace):
    return trace.effects(torch.ones(len(trace.components))).mean().item()


# --- scores by hand --------------------------------------------------------------------------------------------

def test_attribution_sees_no_pair_that_acts_only_together(gates):
    assert rivals.attribution_scores(gates).tolist() == [0, 0, 2, 2]
    pair = search(gates, "attribution", 2).selections[0]
    assert pair.components == (C, D) and pair.effect == pytest.approx(2) and search(gates, "exhaustive", 2).selections[0].effect == pytest.approx(5)


def test_attribution_of_a_linear_model_is_the_single_effects():
    trace = Trace(*micro(), "mlp_neuron")
    np.testing.assert_allclose(rivals.attribution_scores(trace), [5, -2], atol=1e-12)
    np.testing.assert_allclose(rivals.attribution_scores(trace), trace.single_effects()["effect"], atol=1e-12)


@pytest.mark.parametrize("steps, expected", [(1, [0, 0, 2, 2]), (4, [2.5, 2.5, 1, 1]), (5, [2, 2, 1.2, 1.2])])
def test_integrated_gradients_by_hand(gates, steps, expected):
    """Below one half A and B have slope 0 and C and D slope 2, above it 5 and 0; at the kink torch takes the slope from below."""
    np.testing.assert_allclose(rivals.integrated_gradient_scores(gates, steps), expected, atol=1e-12)


def test_integrated_gradients_find_the_pair(gates):
    assert search(gates, "integrated-gradients", 2).selections[0].components == (A, B)


@pytest.mark.parametrize("permutations", [2, 20])
def test_shapley_values_by_hand(gates, permutations):
    """An order and its reverse give each half of a pair its part."""
    np.testing.assert_allclose(rivals.shapley_values(gates, permutations), [2.5, 2.5, 1, 1], atol=1e-12)


def test_one_order_gives_a_pair_to_one_of_its_halves(gates):
    a, b, c, d = rivals.shapley_values(gates, 1, seed=0).round(9)
    assert {a, b} == {0, 5} and {c, d} == {0, 2}


def test_shapley_values_are_the_mean_over_all_orders():
    """Against the definition, as a weighted sum over all sets."""
    from itertools import combinations
    from math import comb

    trace = Trace(tiny_gpt2(), random_task(n=3), "head_output")
    n = len(trace.components)
    value = {s: trace.effects(trace.components.masks([s])).mean().item() for size in range(n + 1) for s in combinations(range(n), size)}
    exact = [sum((value[tuple(sorted((*s, i)))] - value[s]) / (n * comb(n - 1, len(s))) for s in value if i not in s) for i in range(n)]
    found = rivals.shapley_values(trace, 400)
    spread = max(value.values()) - min(value.values())
    np.testing.assert_allclose(found, exact, atol=0.1 * spread)
    assert np.abs(found - exact).max() > 1e-12 and np.corrcoef(found, exact)[0, 1] > 0.98


@pytest.mark.parametrize("permutations", [1, 2, 3, 7])
def test_shapley_values_sum_to_the_whole(trace, permutations):
    assert rivals.shapley_values(trace, permutations, seed=permutations).sum() == pytest.approx(all_replaced(trace), abs=1e-10)


def test_integrated_gradients_sum_to_the_whole_as_steps_grow(trace):
    errors = [abs(rivals.integrated_gradient_scores(trace, steps).sum() - all_replaced(trace)) for steps in (2, 10, 50)]
    assert errors[0] > 5 * errors[1] > 50 * errors[2] and errors[2] < 1e-3 * abs(all_replaced(trace))


@pytest.mark.parametrize("score", [rivals.attribution_scores, rivals.integrated_gradient_scores, rivals.shapley_values])
def test_nothing_changed_scores_nothing(score):
    lm, task = micro()
    pair = task.search[0]
    same = Trace(lm, Task("same", (type(pair)(pair.base, pair.base, pair.target, pair.foil),)), "head_output")
    assert score(same).tolist() == [0, 0, 0, 0]


# --- gradients and gates ---------------------------------------------------------------------------------------

def test_gradients_in_parts_are_the_gradients(monkeypatch, trace):
    masks = torch.rand(7, len(trace.components), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = masks.clone().requires_grad_()
    trace.effects(leaf).mean(-1).sum().backward()
    monkeypatch.setattr("mctrace_nb.counting.GRADIENT_PROMPTS", 4)
    torch.testing.assert_close(mean_gradients(trace, masks), leaf.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(mean_gradients(trace, masks[3:4])[0], leaf.grad[3], rtol=0, atol=1e-10)


def test_hard_concrete_gates_by_hand():
    """The gate is closed, or open, with the chance that its formula says; uniform 1/2 is the deterministic gate of temperature 2/3."""
    log_alpha = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    uniform = ((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)[:, None]
    gates = rivals.hard_concrete_gates(log_alpha, uniform)
    torch.testing.assert_close((gates > 0).double().mean(0), rivals.expected_l0(log_alpha), rtol=0, atol=1e-4)
    assert gates.min() == 0 and gates.max() == 1
    assert rivals.hard_concrete_gates(torch.zeros(1), torch.tensor([0.5])).item() == pytest.approx(0.5)
    assert rivals.expected_l0(torch.zeros(1)).item() == pytest.approx(1 / (1 + 11 ** (-2 / 3)), abs=1e-6)


def test_one_step_of_dcm_by_hand(gates):
    """From one half C and D have slope 2 in log odds, and e^2 times that in the odds; A and B are at their kink, and only pay the penalty."""
    front = search(gates, "dcm", range(1, 5), epochs=1, lambda1=0.1)
    assert front[2].components == (C, D) and front[2].effect == pytest.approx(2)
    slope = mean_gradients(gates, torch.full((1, 4), 0.5, dtype=torch.float64), "relative")[0]
    torch.testing.assert_close(slope, torch.tensor([0, 0, 2, 2], dtype=torch.float64) * torch.e ** 2)
    # With a start at its kink no penalty and no number of steps finds the pair.
    assert search(gates, "dcm", 2, epochs=30, lambda1=0.0)[2].components == (C, D)


def test_dcm_refuses_ratios_that_overflow():
    lm, task = micro()
    lm.model.lm_head.weight.data *= 1000
    with pytest.raises(InputError, match="not a finite number; .* or method 'pgb-log': 'dcm' optimises ratios"):
        search(Trace(lm, task, "head_output"), "dcm", 2)
    assert search(Trace(lm, task, "head_output", metric="logit_diff"), "dcm", 2)[2].size == 2


# --- what holds for all ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("direction", ["max", "min", "abs"])
@pytest.mark.parametrize("method", RIVALS)
def test_sets_have_exactly_the_size_and_effect_that_they_say(trace, method, direction):
    for s in search(trace, method, range(1, 7), direction=direction).selections:
        assert s.method == method and s.size == s.budget
        assert s.effect == pytest.approx(trace.effects(list(s.components)).mean().item(), abs=1e-10)


@pytest.mark.parametrize("method", ["hard-concrete", "dcm"])
def test_both_ways_is_the_better_of_each_way(trace, method):
    fronts = [search(trace, method, range(1, 7), direction=d, seed=4, epochs=6) for d in ("abs", "max", "min")]
    for both, up, down in zip(*(f.selections for f in fronts)):
        assert abs(both.effect) == pytest.approx(max(abs(up.effect), abs(down.effect)), abs=1e-10)
        assert both.backwards == up.backwards + down.backwards


@pytest.mark.parametrize("method, forwards, backwards", [
    ("attribution", 1, 1), ("integrated-gradients", 5, 5), ("shapley", 20 * 5 + 1, 0),
    ("hard-concrete", cost.L0_EPOCHS, cost.L0_EPOCHS), ("dcm", 15, 15)])
def test_work_is_counted_exactly(method, forwards, backwards):
    """masks x prompts, and one exact evaluation a budget."""
    trace = Trace(tiny_gpt2(layers=3, heads=2), random_task(n=6), "head_output")
    for number, s in enumerate(search(trace, method, [1, 3, 4]).selections, 1):
        assert (s.forwards, s.backwards) == (6 * (forwards + number), 6 * backwards)


@pytest.mark.parametrize("method", RIVALS)
def test_the_model_is_left_as_it_was(method):
    trace = Trace(tiny_gpt2(), random_task(n=4), "head_output")
    before = {name: x.clone() for name, x in trace.model.model.state_dict().items()}
    untouched = trace.effects(torch.zeros(4))
    search(trace, method, 2)
    assert all(torch.equal(x, before[name]) for name, x in trace.model.model.state_dict().items())
    assert all(p.grad is None for p in trace.model.model.parameters()) and torch.equal(trace.effects(torch.zeros(4)), untouched)


@pytest.mark.parametrize("method", RIVALS)
def test_desiderata_are_searched_too(method):
    lm = tiny_gpt2()
    wish = Desiderata(Trace(lm, random_task(n=4), "head_output"), Trace(lm, random_task(n=3, seed=1), "head_output"))
    s = search(wish, method, 2, heldout=False).selections[0]
    assert s.size == 2 and s.effect == pytest.approx(wish.effects(list(s.components)).mean().item(), abs=1e-10)


@pytest.mark.parametrize("method", [m for m in RIVALS if m != "shapley"])
def test_without_a_gradient_it_says_so(method):
    trace = Trace(tiny_gpt2(), random_task(n=4), "head_output", metric="accuracy")
    with pytest.raises(InputError, match="metric 'accuracy' has no gradient to search by; use 'log_odds', or method 'greedy'"):
        search(trace, method, 2)
    assert search(trace, "shapley", 2)[2].size == 2


def test_seeds_decide_what_is_drawn(trace):
    values = [rivals.shapley_values(trace, 2, seed).tolist() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("method, options, message", [
    ("integrated-gradients", dict(steps=0), "steps=0 must be a whole number"),
    ("shapley", dict(permutations=1.5), "permutations=1.5 must be a whole number"), ("dcm", dict(epochs=0), "epochs=0 must be"),
    ("hard-concrete", dict(lambda0=-1), "lambda0=-1 is out of range"), ("dcm", dict(lr=float("nan")), "lr=nan is out of range"),
    ("attribution", dict(steps=3), "attribution: got an unexpected keyword argument 'steps'")])
def test_bad_options_are_refused(trace, method, options, message):
    with pytest.raises(InputError, match=message):
        search(trace, method, 2, **options)
