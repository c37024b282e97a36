"""What the kit computes fast is what a slow and plain implementation of the mixture forward pass computes."""

import pytest
import torch
from conftest import Words, random_task
from slow import slow_effects
from test_families import FAMILIES, kinds_of, near

from mctrace_nb import hooks, passes
from mctrace_nb.models import wrap_model
from mctrace_nb.tracing import Trace

MIXTURE = ("head_pattern", "head_output", "attn_block", "mlp_output", "mlp_block")


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    torch.manual_seed(0)
    model = FAMILIES[request.param]()
    return wrap_model(model if request.param == "mixtral" else model.double(), Words(), request.param)


def some_masks(n, dtype, seed=0):
    """Soft masks, and binary ones that begin at different layers."""
    soft, hard = (torch.rand(2, n, dtype=dtype, generator=torch.Generator().manual_seed(seed + i)) for i in (0, 1))
    late = hard.round()
    late[:, :n // 2] = 0
    return torch.cat([soft, hard.round(), late])


@pytest.mark.slow
@pytest.mark.parametrize("answers", [(1, 1), (1, 3)])
def test_every_family_and_kind(lm, answers):
    """Prompts of like length share a row in attention (four of them), of unlike length they are padded; windows slide over both."""
    task = random_task(n=4, length=(7, 7) if answers == (1, 1) else (5, 9), answers=answers)
    for kind in (*kinds_of(lm), MIXTURE):
        trace = Trace(lm, task, kind)
        masks = some_masks(len(trace.components), lm.dtype)
        if len(trace.components) > 16:  # the slow way takes its time
            masks = masks[[0, 4]]
        with torch.no_grad():
            slow = torch.stack([slow_effects(trace, m) for m in masks])
        torch.testing.assert_close(trace.effects(masks), slow, **near(lm), msg=f"{kind}")
    if answers == (1, 1):
        assert trace.side().rows.batch().side_by_side == 4


@pytest.mark.parametrize("positions", ["all", "last", "subject"])
@pytest.mark.parametrize("corruption", ["counterfactual", "noise", "zero"])
def test_every_corruption_and_position(corruption, positions):
    torch.manual_seed(0)
    lm, task = wrap_model(FAMILIES["qwen3"]().double(), Words(), "qwen3"), random_task(n=4, length=(5, 9), answers=(1, 3), differ=2)
    trace = Trace(lm, task, MIXTURE, positions=positions, corruption=corruption)
    masks = some_masks(len(trace.components), lm.dtype)[[0, 2, 4]]
    noise = trace.side(True).noise if corruption == "noise" else None
    with torch.no_grad():
        slow = torch.stack([slow_effects(trace, m, noise) for m in masks])
    torch.testing.assert_close(trace.effects(masks), slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["head_pattern", "head_output", "mlp_output"])
def test_gradients(kind):
    torch.manual_seed(0)
    lm, task = wrap_model(FAMILIES["gpt2"]().double(), Words(), "gpt2"), random_task(n=4, length=(5, 9), answers=(1, 3))
    trace = Trace(lm, task, kind)
    mask = torch.linspace(0.1, 0.9, len(trace.components), dtype=torch.float64).requires_grad_()
    lm.model.requires_grad_(False)
    (slow,) = torch.autograd.grad(slow_effects(trace, mask).mean(), mask)
    (fast,) = torch.autograd.grad(trace.effects(mask).mean(), mask)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_sharing_layers_changes_nothing(lm, monkeypatch):
    """The same masks with a stage for every layer, and each from the first layer to the last."""
    task = random_task(n=4, length=(5, 9), answers=(1, 2))
    trace = Trace(lm, task, MIXTURE, batch_rows=12)
    masks = torch.cat([some_masks(len(trace.components), lm.dtype), torch.eye(len(trace.components), dtype=lm.dtype)])
    shared = trace.effects(masks)
    calls = []
    run = hooks.Session.run
    monkeypatch.setattr(hooks.Session, "run", lambda self, *args, **more: (calls.append(args[8] if len(args) > 8 else None), run(self, *args, **more))[1])
    trace.effects(masks)
    assert (0, 1) in calls and (1, 2) in calls, "no stage of its own for each layer"
    monkeypatch.setattr(passes, "can_skip", lambda lm: False)
    torch.testing.assert_close(trace.effects(masks), shared, **near(lm))


def test_two_words_say_what_the_whole_vocabulary_says(lm, monkeypatch):
    """Soft caps and scales of logits act on them too."""
    task = random_task(n=4, answers=(1, 1))
    trace = Trace(lm, task, "head_output")
    assert trace._runs.passes.two_words
    masks = some_masks(len(trace.components), lm.dtype)
    few = trace.effects(masks)
    monkeypatch.setattr(hooks.Session, "can_pick", False)
    whole = Trace(lm, task, "head_output")
    torch.testing.assert_close(whole.effects(masks), few, **near(lm))
    torch.testing.assert_close(whole.base_values, trace.base_values, **near(lm))
    assert not Trace(lm, task, "head_output", metric="log_prob")._runs.passes.two_words


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_layers_are_back_in_their_places_after_an_error(lm, error):
    trace = Trace(lm, random_task(n=4), "head_output")
    before = list(lm.stack)

    def stop(*_):
        raise error("in the middle")

    handle = lm.layers[1].mlp.register_forward_hook(stop)
    with pytest.raises(error):
        trace.effects(torch.eye(len(trace.components)))
    handle.remove()
    assert all(a is b for a, b in zip(before, lm.stack)) and len(before) == len(lm.stack)
    assert trace.effects(torch.eye(len(trace.components))).abs().max() > 0
