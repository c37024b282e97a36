"""The referee's three questions: exact where the answer is known by hand; and the numbers behind the paper's figures."""

from itertools import product

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2
from micro import by_hand, micro

import mctrace_nb as mct
from mctrace_nb.referee import ask, every_set, relaxed_optima, within_budget


@pytest.fixture(scope="module")
def gates():
    return mct.Trace(*micro(), "head_output")


@pytest.fixture(scope="module")
def trace():
    return mct.Trace(tiny_gpt2(layers=2, heads=2), random_task(n=6), "head_output")


def test_every_set_is_every_set(gates):
    masks, effects = every_set(gates)
    assert len({tuple(m) for m in masks}) == 16 and effects.shape == (16, 1)
    np.testing.assert_allclose(effects[:, 0], [by_hand(*m) for m in masks], atol=1e-9)


def test_projection_is_the_nearest_mask_within_the_budget():
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 3, generator=rng) * 3 - 1
    budgets = torch.tensor([0.5, 1.0, 2.0, 3.0] * 5)
    found = within_budget(masks, budgets)
    assert ((found >= 0) & (found <= 1)).all() and (found.sum(1) <= budgets + 1e-5).all()
    grid = torch.tensor(list(product(np.linspace(0, 1, 21), repeat=3)), dtype=torch.float32)
    for mask, budget, near in zip(masks, budgets, found):
        allowed = grid[grid.sum(1) <= budget + 1e-6]
        best = ((allowed - mask) ** 2).sum(1).min()
        assert ((near - mask) ** 2).sum() <= best + 1e-5
    inside = torch.tensor([[0.2, 0.3, 0.0]])
    assert torch.equal(within_budget(inside, torch.tensor([1.0])), inside)


def test_relaxed_optimum_of_the_gates(gates):
    """No mask of sum 1 does more than C or D alone (2), none of sum 2 more than A and B (5); and climbing finds what it can."""
    flat = torch.tensor([[[0.25] * 4], [[0.5] * 4]])
    told = torch.tensor([[[0, 0, 1.0, 0]], [[1.0, 1, 0, 0]]])
    _, known = relaxed_optima(gates, [1, 2], told, steps=20)
    np.testing.assert_allclose(known[:, 0], [2, 5], atol=1e-5)
    masks, found = relaxed_optima(gates, [1, 2], flat, steps=40)
    assert (masks.sum(-1) <= torch.tensor([[1.0], [2.0]]) + 1e-4).all()
    assert found[0, 0] == pytest.approx(2, abs=1e-4) and 2 - 1e-4 <= found[1, 0] <= 5 + 1e-5


def test_three_answers_are_right_on_the_gates(gates):
    answers = ask([gates], range(1, 4))
    assert answers.cases["optimum"].round(6).tolist() == [2, 5, 7] and (answers.cases["guided"].round(6) == answers.cases["optimum"].round(6)).all()
    assert answers.cases["top-k"].round(6).tolist() == [2, 2, 2]
    assert answers.agreement().loc["guided", "agrees"] == 1 and answers.agreement().loc["top-k", "agrees"] == pytest.approx(1 / 3)
    ranks = answers.ranks.iloc[0]  # one prompt: the transform is monotone, so no two sets change places
    assert ranks["spearman"] == pytest.approx(1) and ranks["same_best"] == 1 and ranks["worst_share"] == pytest.approx(1)
    assert answers.table().loc[("2 recovers the best set?", "guided: share of the cases that agree"), "value"] == 1
    assert "guided in 100%" in answers.words() and answers.words() in mct.plots.referee(answers).text


def test_transform_can_change_the_best_set():
    """Two prompts: one set moves one of them far and the other back, another moves both a little. The mean effect prefers the first,
    the transformed objective the second."""
    from mctrace_nb.referee import _ranks

    effects = np.array([[0, 0], [9, -3], [2, 2], [9, -2.5]], dtype=float)
    found = _ranks(effects, np.array([0, 1, 1, 2]), [1, 2])
    assert found["same_best"] == 0.5 and found["worst_budget"] == 1 and found["worst_share"] == pytest.approx(2 / 3)
    assert found["spearman"] < 1 and found["raw_against_log"] > found["spearman"]


def test_what_cannot_be_asked_is_refused(trace, tutorial):
    with pytest.raises(mct.InputError, match="no ratio"):
        ask([trace.again(metric="logit_diff")])
    with pytest.raises(mct.InputError, match=r"192 components have 2\^192 subsets"):
        every_set(mct.Trace(tutorial, mct.load_task("facts", tutorial, n=4), "mlp_output"))


# --- the paper's figures --------------------------------------------------------------------------------------

def test_pairs_and_singles(gates, trace):
    frame = mct.paper.pairs_and_singles(gates).set_index("components")
    assert len(frame) == 6 and frame.loc[[("L0H0", "L0H1")]].round(9).to_numpy().tolist() == [[0, 5]]
    assert frame.loc[[("L0H2", "L0H3")]].round(9).to_numpy().tolist() == [[4, 2]]
    some = mct.paper.pairs_and_singles(trace, most=3, seed=1)
    assert 1 <= len(some) <= 3 and "joint minus sum" in mct.plots.deviations({"x": some}).text


def test_desiderata_front_splits_what_was_sought(tutorial):
    move, keep = (mct.Trace(tutorial, mct.load_task(name, tutorial, n=16, seed=31), "head_output") for name in ("binding", "binding_operation"))
    frame = mct.paper.desiderata_front(mct.Desiderata(move, keep), ["greedy"], [1, 2], progress=False)
    for row in frame.itertuples():
        labels = row.components.split(", ")
        assert row.moved == pytest.approx(move.effects(labels).mean().item(), abs=1e-4)
        assert row.kept == pytest.approx(abs(keep.effects(labels).mean().item()), abs=1e-4)
        assert row.worth == pytest.approx(row.moved - keep.effects(labels).abs().mean().item(), abs=1e-4)


def test_ablations_and_courses_are_runs_of_pgb(trace):
    frame = mct.paper.ablations(trace, [0.01, 0.3], epochs=3)
    assert set(frame["ablation"]) == set(mct.paper.ABLATIONS) and len(frame) == (4 * 2 + 1) * 3, "without a sparsity penalty there is one run"
    full = frame.query("ablation == 'full' and lambda1 == 0.3")
    run = mct.pgb(trace, lambda1=0.3, epochs=3, progress=False)
    assert full["kept"].tolist() == [h["kept"] for h in run.history] and full["effect"].tolist() == pytest.approx([h["effect"] for h in run.history])
    assert set(frame.query("ablation == 'no sparsity penalty'")["lambda1"]) == {0.0}
    assert mct.paper.best_by_size(full, [0, 4])[0] == 0
    course = mct.paper.course(trace, epochs=3, lambda1=0.3)
    assert course["sparsity"].tolist() == pytest.approx([run.trajectory[i].mean() for i in range(4)]) and course["violation"][0] == 0.25
    by = mct.paper.sparsity_by_lambda1(trace, [0.0, 0.3], seeds=[0, 1], epochs=3)
    alone = mct.pgb(trace, lambda1=0.3, epochs=3, seed=[0, 1], progress=False)
    assert by.loc[0.3, "kept"] == np.mean([s.size for s in alone]) and by.loc[0.0, "kept"] >= by.loc[0.3, "kept"]


def test_every_model_has_tasks_that_exist():
    from mctrace_nb.tasks import LOADERS

    for model in ("tutorial", "gpt2"):
        assert {name for value in mct.paper.suited(model).values() for name in value.split(",")} <= set(LOADERS)
