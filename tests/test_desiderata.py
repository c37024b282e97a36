"""Move this, keep that: exact arithmetic on the parts, every search, and the tutorial's two wishes."""

import pytest
import torch
from conftest import random_task, tiny_gpt2

import mctrace_nb as mct
from mctrace_nb.desiderata import Desiderata
from mctrace_nb.search import METHODS, search
from mctrace_nb.tracing import Trace


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def both(lm):
    return Trace(lm, random_task(n=4, seed=1), "head_output"), Trace(lm, random_task(n=6, seed=2), "head_output")


def test_the_mean_is_what_is_moved_minus_the_size_of_what_should_be_kept(both):
    move, keep = both
    wish = Desiderata(move, keep, weights=[2.0, 0.5])
    masks = torch.rand(3, 4, dtype=torch.float64)
    expected = 2 * move.effects(masks).mean(-1) - 0.5 * keep.effects(masks).abs().mean(-1)
    torch.testing.assert_close(wish.effects(masks).mean(-1), expected)
    assert len(wish) == 10 and wish.effects(masks[0]).shape == (10,)


def test_any_prompts_in_any_order_keep_their_places(both):
    wish = Desiderata(*both)
    mask = torch.rand(4, dtype=torch.float64)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))[:7]
    torch.testing.assert_close(wish.effects(mask, examples=order), wish.effects(mask)[order])
    masks, orders = torch.rand(2, 4, dtype=torch.float64), torch.stack([order, order.flip(0)])
    torch.testing.assert_close(wish.effects(masks, examples=orders),
                               torch.stack([wish.effects(m)[o] for m, o in zip(masks, orders)]))


def test_gradients_are_those_of_the_parts(both):
    mask = torch.full((4,), 0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: Desiderata(*both).effects(m).mean(), (mask,), check_undefined_grad=False)


@pytest.mark.parametrize("method", METHODS)
def test_every_search_takes_them(both, method):
    options = dict(lambda1=[0.05, 0.5], lambda2=0.1) if method.startswith("pgb") else {}
    front = search(Desiderata(*both), method, budgets=[1, 2], progress=False, **options)
    assert front.selections and all(s.effect_heldout is not None for s in front.selections)
    best = search(Desiderata(*both), "exhaustive", budgets=[1, 2], progress=False)
    for s in front.selections:
        assert s.effect <= max(b.effect for b in best.selections[:s.size]) + 1e-9


def test_work_is_that_of_the_parts(both):
    wish = Desiderata(*both)
    wish.prepare()
    before = wish.work
    wish.effects(torch.rand(3, 4))
    assert wish.work.since(before).forwards == 3 * 10


@pytest.mark.parametrize("bad, message", [
    (lambda lm, a, b: Desiderata([]), "nothing to move"),
    (lambda lm, a, b: Desiderata(a, b, weights=[1.0]), "must be 2 positive numbers"),
    (lambda lm, a, b: Desiderata(a, b, weights=[1.0, 0.0]), "must be 2 positive numbers"),
    (lambda lm, a, b: Desiderata(a, Trace(lm, random_task(), "head_pattern")), "do not share a model and components"),
    (lambda lm, a, b: Desiderata(a, Trace(lm, random_task(), "mlp_block")), "do not share a model and components"),
    (lambda lm, a, b: Desiderata(a, b.again(corruption="noise", positions="last")), "differ in corruption and positions"),
    (lambda lm, a, b: Desiderata(a, Trace(lm, random_task(), "head_output", metric="log_prob")), "differ in metric"),
])
def test_what_does_not_belong_together_is_refused(lm, both, bad, message):
    with pytest.raises(mct.InputError, match=message):
        bad(lm, *both)


def test_the_published_transform_is_refused_because_it_would_explode(both):
    with pytest.raises(mct.InputError, match="needs a ratio for each prompt"):
        mct.pgb(Desiderata(*both), transform="inverse")


@pytest.mark.slow
def test_operands_move_while_the_operation_is_kept(tutorial):
    """The two wishes of variable binding on the tutorial model: the exact best pair moves one and hardly the other."""
    move, keep = (Trace(tutorial, mct.load_task(name, tutorial, n=32), "head_output") for name in ("binding", "binding_operation"))
    wish = Desiderata(move, keep)
    exact = search(wish, "exhaustive", budgets=[2], progress=False)[2]
    table = wish.table(exact.components).set_index("wish")
    assert table.loc["move", "effect"] > 0.9 * table.loc["move", "total_effect"]
    assert abs(table.loc["keep", "effect"]) < 0.05 * table.loc["keep", "total_effect"]
    everything = wish.table(move.components.labels).set_index("wish")
    assert everything.loc["keep", "effect"] > 10  # without the second wish, all heads together would move both
    assert "to keep" in wish.describe(exact.components) and mct.compare(wish, "exhaustive,greedy", budget=2).words().count("to keep") == 1
