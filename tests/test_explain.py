"""Why a set does what it does: exact on the micro-model, true to brute force elsewhere; and how sure a set is."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2
from micro import micro

import mctrace_nb as mct
from mctrace_nb.explain import missed
from mctrace_nb.results import Front, Selection
from mctrace_nb.stability import jaccard, jaccard_by_chance, resampled

A, B, C, D = "L0H0", "L0H1", "L0H2", "L0H3"


def chosen(trace, *labels, method="exhaustive"):
    effect = trace.effects(list(labels)).mean().item()
    return Selection(method, tuple(labels), effect, len(labels))


@pytest.fixture(scope="module")
def gates():
    return mct.Trace(*micro(), "head_output")


@pytest.fixture(scope="module")
def trace():
    return mct.Trace(tiny_gpt2(layers=3, heads=2), random_task(n=8), "head_output")


def test_planted_gates_by_order(gates):
    """7 = (0 + 0 + 2 + 2) + (5 of the AND - 2 of the OR) + nothing more."""
    why = mct.explain(gates, chosen(gates, A, B, C, D))
    orders = why.orders()
    assert orders["effect"].round(9).tolist() == [4, 3, 0, 0] and orders["subsets"].tolist() == [4, 6, 4, 1]
    np.testing.assert_allclose(orders["share"], [4 / 7, 3 / 7, 0, 0], atol=1e-12)
    pairs = why.pairs().set_index("components")
    assert pairs.loc[[(A, B)], ["joint", "singles", "interaction"]].to_numpy().round(9).tolist() == [[5, 0, 5]]
    assert pairs.loc[[(C, D)], ["joint", "singles", "interaction"]].to_numpy().round(9).tolist() == [[2, 4, -2]]
    assert pairs.loc[[(A, B)], "name"].item() == "synergy" and pairs.loc[[(C, D)], "name"].item() == "redundancy"
    assert set(pairs.drop([(A, B), (C, D)])["name"]) == {"additive"}
    assert f"Strongest synergy: {A} and {B} do more together, 5.00 against 0.00" in why.words()
    assert f"Strongest redundancy: {C} and {D} do in part the same, 2.00 against 4.00" in why.words()


def test_additive_set_is_called_additive(gates):
    assert "their effects add up" in mct.explain(gates, chosen(gates, A, C)).words()
    assert "a single component" in mct.explain(gates, chosen(gates, C)).words()


def test_what_greedy_missed(gates):
    """With two components greedy takes C and then nothing helps; the pair A, B is worth 5."""
    best, greedy = mct.search(gates, "exhaustive", [2], heldout=False)[2], mct.search(gates, "greedy", [1, 2], heldout=False)
    said = missed(gates, best, greedy)
    assert best.components == (A, B) and greedy[2].effect == pytest.approx(2)
    assert "reaches 2.00 of 5.00 nats (40%)" in said and f"{A} and {B} do 5.00 together and 0.00 one at a time (interaction +5.00)" in said
    same = missed(gates, greedy[1], greedy)
    assert same == "Greedy search missed nothing: it found the same 1 component."


def test_terms_sum_to_the_joint_effect_on_every_prompt(trace):
    every = chosen(trace, *trace.components.labels)
    why = mct.explain(trace, every)
    np.testing.assert_allclose(np.sum(list(why.terms.values()), 0), trace.effects(torch.ones(6)), atol=1e-9)
    for pair in combinations(trace.components.labels, 2):
        by_trace = trace.interactions(2, pair)["interaction"].item()
        assert why.terms[pair].mean() == pytest.approx(by_trace, abs=1e-9)
    assert why.orders()["share"].sum() == pytest.approx(1)
    assert why.orders().query("order == '6'")["ci_low"].item() <= why.terms[every.components].mean()


def test_large_sets_are_taken_apart_to_order_three(tutorial):
    trace = mct.Trace(tutorial, mct.load_task("professions", tutorial, n=8, seed=31), "head_output")
    why = mct.explain(trace, chosen(trace, *trace.components.labels))  # 12 members
    assert not why.complete and list(why.orders().index) == ["1", "2", "3", "higher"]
    assert why.orders()["effect"].sum() == pytest.approx(why.joint.mean(), abs=1e-5)
    assert why.orders()["subsets"].sum() == 2 ** 12 - 1


def test_sign_of_synergy_follows_the_joint_effect(trace):
    """With target and foil exchanged every effect changes its sign, and what is called synergy stays."""
    swapped = replace(trace.task, **{half: tuple(replace(e, target=e.foil, foil=e.target) for e in getattr(trace.task, half)) for half in ("search", "heldout")})
    labels = trace.components.labels[:4]
    here, there = (mct.explain(t, chosen(t, *labels)).pairs() for t in (trace, trace.again(task=swapped)))
    np.testing.assert_allclose(here["interaction"], -there["interaction"], atol=1e-9)
    assert here["name"].tolist() == there["name"].tolist() and len(set(here["name"])) > 1


def test_nothing_to_explain_is_refused(trace):
    with pytest.raises(mct.InputError, match="empty, so there is nothing to explain"):
        mct.explain(trace, Selection("pgb", (), 0.0, 2))


# --- how sure -------------------------------------------------------------------------------------------------

def test_jaccard_by_hand_and_by_chance():
    assert jaccard("ab", "bc") == 1 / 3 and jaccard("", "") == 1 and jaccard("a", "b") == 0
    pairs = [set(p) for p in combinations(range(5), 2)]
    by_hand = np.mean([jaccard(a, b) for a in pairs for b in pairs])
    assert jaccard_by_chance(5, 2) == pytest.approx(by_hand) and jaccard_by_chance(4, 4) == 1
    assert jaccard_by_chance(6, 4) == pytest.approx(np.mean([jaccard(a, b) for a in combinations(range(6), 4) for b in combinations(range(6), 4)]))


def test_draws_are_of_whole_groups_and_leave_heldout_prompts_alone(trace):
    rng, seen = np.random.default_rng(0), set()
    by_group = {g: [e for e in trace.examples if e.group == g] for g in trace.groups}
    for _ in range(10):
        drawn = resampled(trace, rng)
        assert drawn.task.heldout == trace.task.heldout
        for g, members in by_group.items():
            counts = {drawn.examples.count(e) for e in members}
            assert len(counts) == 1, "members of a group are drawn together"
            seen |= counts
    assert len(seen) > 2


def test_stability_of_what_is_certain_and_of_what_is_not(tutorial):
    """Two heads carry `binding`: every draw finds them. Which fifth head helps by a hundredth is chance."""
    trace = mct.Trace(tutorial, mct.load_task("binding", tutorial, n=32, seed=31), "head_output")
    found = mct.stability(trace, "greedy", [2, 8], draws=8, progress=False)
    frame = found.to_frame()
    assert frame.loc[2, "jaccard"] == frame.loc[2, "same"] == 1 and frame.loc[8, "same"] < 1
    assert frame.loc[2, "by_chance"] < 0.2 and (frame["draws"] == 8).all()
    shares = found.frequencies(2)
    assert shares["in_full"].all() and (shares["share"] == 1).all() and "no other component was ever chosen" in found.words(2)
    assert found.frequencies(8)["share"].sum() == pytest.approx(8)
    assert "Jaccard index 1.00 between draws" in mct.plots.frequencies(found).text
    again = mct.stability(trace, "greedy", [2, 8], draws=8, progress=False)
    assert again.to_frame().equals(frame)


def test_stability_of_desiderata_and_gaps(tutorial):
    move, keep = (mct.Trace(tutorial, mct.load_task(name, tutorial, n=16, seed=31), "head_output") for name in ("binding", "binding_operation"))
    found = mct.stability(mct.Desiderata(move, keep), "greedy", [1], draws=3, progress=False)
    assert len(found.draws) == 3 and found.to_frame()["jaccard"].notna().all()
    with pytest.raises(mct.InputError, match="draws=1 is out of range"):
        mct.stability(move, draws=1)
    one = mct.Trace(*micro(), "head_output")
    with pytest.raises(mct.InputError, match="one template group"):
        mct.stability(one)


# --- one number for a front -----------------------------------------------------------------------------------

def front(*effects, direction="max"):
    return Front("greedy", tuple(Selection("greedy", ("x",) * b, e, b) for b, e in effects), direction)


def test_area_by_hand():
    assert front((1, 10.0), (2, 10.0)).area(10) == pytest.approx((5 + 10) / 2 / 10)
    assert front((1, 4.0), (2, 2.0)).area(4) == pytest.approx((2 + 4) / 2 / 4), "the best so far counts"
    assert front((2, 4.0)).area(4) == pytest.approx((0 + 2) / 2 / 4), "a budget left out has what came before"
    assert front((1, 4.0)).area(4, most=3) == pytest.approx((2 + 4 + 4) / 3 / 4)
    assert front((1, -4.0), direction="min").area(8) == pytest.approx(0.25)
    assert front((1, -4.0)).area(8) == 0 and np.isnan(front().area(8)) and np.isnan(front((1, 1.0)).area(0))


def test_comparison_measures_everything_against_the_best_known(trace):
    c = mct.compare(trace, "exhaustive,greedy,top-k", range(1, 5), progress=False)
    quality, summary = c.quality(), c.summary()
    assert c.budget == 4 and set(quality["method"]) == {"exhaustive", "greedy", "top-k", "random"}
    assert (quality.query("method == 'exhaustive'")["fraction"] == 1).all() and (quality["best"] == "optimum").all()
    assert (quality["gap"] >= -1e-9).all() and (quality["fraction"] <= 1 + 1e-9).all()
    assert summary.loc["exhaustive", "best"] == 4 and summary["area"].idxmax() == "exhaustive"
    total = trace.total_effect().mean
    assert summary.loc["greedy", "area"] == pytest.approx(c.front("greedy").area(total, 4))
    unknown = mct.compare(trace, "greedy,top-k", range(1, 3), progress=False).quality()
    assert set(unknown["best"]) <= {"greedy", "top-k"} and (unknown.groupby("budget")["gap"].min() <= 1e-12).all()
    assert "Greedy search" in mct.compare(trace, "exhaustive,greedy", [3], progress=False).words()
