"""What lessons 0 to 2 tell, asserted: expected numbers of the exercises, and the sentences that no cell prints."""

import pytest
import torch

import mctrace_nb as mct
from mctrace_nb.check import nb00, nb01, nb02


@pytest.fixture(scope="module")
def traces(tutorial):
    return {name: mct.Trace(tutorial, mct.load_task(name, tutorial, 64, 0), "head_output") for name in ("professions", "binding_operation")}


def test_three_heads_are_found_as_a_set(traces):
    trace = traces["professions"]
    best, ranked = (mct.search(trace, method, [3], progress=False)[3] for method in ("exhaustive", "top-k"))
    assert best.components == ("L0H2", "L0H3", "L1H2") and ranked.components == ("L0H2", "L0H3", "L1H1")
    assert nb00.share_of_total(trace, list(best.components)) == pytest.approx(0.89, abs=0.005)
    assert 1.8 < best.effect / sum(trace.single_effects_of(best.components).values()) < 2
    guided, exact = (mct.search(trace, method, range(1, 9), heldout=False, progress=False) for method in ("guided", "exhaustive"))
    assert [s.effect for s in guided.selections] == pytest.approx([s.effect for s in exact.selections], abs=1e-4)


def test_silencing_is_not_reversing(traces):
    trace = traces["professions"]
    one = {by: trace.again(corruption=by).effects(["L0H3"]).mean().item() for by in ("counterfactual", "zero", "mean", "noise")}
    assert all(abs(one["counterfactual"] / one[by]) > 10 for by in ("zero", "mean", "noise"))
    assert trace.again(corruption="zero").single_effects().set_index("component")["effect"].idxmax() == "L1H1"
    e = trace.examples[0]
    logits = nb01.with_head_replaced(trace.model, e.base, e.counterfactual, 0, 3)
    assert (logits[e.target[0]] - logits[e.foil[0]] - trace.base_values[0]).item() == pytest.approx(1.76, abs=0.005)


def test_gpt2_is_counted():
    config = mct.published_config("gpt2")
    assert [nb01.count(config, kind) for kind in ("head_output", "attn_block", "mlp_output", "mlp_neuron")] == [144, 12, 9216, 36864]


def test_the_four_runs_of_lesson_two(traces):
    trace = traces["professions"]
    best = mct.search(trace, "guided", [2], progress=False)[2]
    assert best.components == ("L0H2", "L0H3") and nb02.total_effect(trace.model, trace.examples[0]) == pytest.approx(5.38, abs=0.005)
    assert nb02.direct_and_indirect(trace.model, trace.examples[0], best) == pytest.approx((0.89, 4.05), abs=0.005)
    assert torch.equal(trace.again(direction="restore").effects(best.components),
                       trace.total_effects() - trace.effects(best.components, reverse=True))


def test_what_the_explorer_of_lesson_two_is_asked_for_is_there(traces):
    trace = traces["professions"]

    def remainders(labels):
        return trace.total_effects() - trace.effects(labels) - trace.effects(labels, reverse=True)

    assert (remainders(["L0H2", "L0H3"]) > trace.effects(["L0H2", "L0H3"], reverse=True)).any()
    assert remainders(["L1H1", "L2H2"]).mean() < -0.05
    assert trace.effects(["L2H2"], reverse=True).mean() > trace.total_effects().mean()


def test_three_heads_take_a_vote(traces):
    """One of three does little, any two do nearly all; the remainder sees nothing of it."""
    vote = traces["binding_operation"]
    for label, others in (("L0H0", ["L0H1", "L0H3"]), ("L0H1", ["L0H0", "L0H3"]), ("L0H3", ["L0H0", "L0H1"])):
        parts = vote.mediation([label])["mean"]
        assert parts["indirect"] < 1.1 and parts["remainder"] < 0.3 and vote.effects(others).mean() > 17
    assert nb02.pair_with_remainder(vote, 1.0) == ["L0H3", "L1H1"]
