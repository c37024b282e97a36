"""Invariants of the trace: what must hold for every model, task, kind and mask."""

import pytest
import torch
from conftest import random_task, tiny_gpt2

from mctrace_nb.components import KINDS
from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.tasks import Example, Task
from mctrace_nb.tracing import Trace

EXACT = dict(rtol=0, atol=0)
NEAR = dict(rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def task():
    return random_task(answers=(1, 3))


def logits_under(trace, mask, reverse=False):
    """Logits of all suffix tokens, (tokens, V); mask None is the run without intervention."""
    side = trace.side(reverse)
    batch = side.rows.batch()
    with Session(trace.model) as session, torch.no_grad():
        mixture = None if mask is None else trace._runs.passes._mixture(session, side, batch, mask[None], list(trace.components.slices), None)
        return session.run(batch, 1, side.prefix, side.noise, mixture)[0]


def plain_values(trace, side="base"):
    """The metric by the stock model on each prompt and answer alone: no padding, no prefix, no hooks."""
    found = []
    for e in trace.examples:
        scores = []
        for answer in (e.target, e.foil):
            ids = torch.tensor([[*getattr(e, side), *answer]])
            logp = trace.model.model(ids).logits[0].log_softmax(-1)
            at = range(len(getattr(e, side)) - 1, ids.shape[1] - 1)
            scores.append(torch.stack([logp[i, t] for i, t in zip(at, answer)]).mean())
        found.append(scores[0] - scores[1])
    return torch.stack(found)


@pytest.mark.parametrize("answers", [(1, 1), (1, 4)])
def test_padded_batches_equal_single_prompts(lm, answers):
    """Prefixes and suffixes are padded on the right; neither may change a number."""
    trace = Trace(lm, random_task(n=7, length=(3, 12), answers=answers), "head_output")
    with torch.no_grad():
        torch.testing.assert_close(trace.base_values, plain_values(trace), **NEAR)
        torch.testing.assert_close(trace.base_values + trace.total_effects(), plain_values(trace, "counterfactual"), **NEAR)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_prompts_with_a_mask_equal_single_prompts(lm, kind):
    task = random_task(n=6, length=(3, 12), answers=(1, 3))
    trace = Trace(lm, task, kind)
    mask = torch.rand(len(trace.components), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = [Trace(lm, Task("one", (e,)), kind).effects(mask)[0] for e in task.search]
    torch.testing.assert_close(trace.effects(mask), torch.stack(alone), **NEAR)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_prompts_have_no_effect(lm, kind):
    trace = Trace(lm, random_task(differ=0, answers=(1, 2)), kind)
    for mask in (torch.ones(len(trace.components)), torch.rand(len(trace.components))):
        assert trace.effects(mask).abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corruption", ["counterfactual", "noise", "zero"])
def test_mask_zero_gives_the_base_logits_to_the_bit(lm, task, kind, corruption):
    trace = Trace(lm, task, kind, corruption=corruption)
    nothing = torch.zeros(len(trace.components), dtype=torch.float64)
    assert trace.effects(nothing).abs().max() == 0
    torch.testing.assert_close(logits_under(trace, nothing), logits_under(trace, None), **EXACT)


EVERYTHING = [("attn_block", "mlp_block"), ("head_output", "mlp_output"), ("head_output", "mlp_neuron")]


@pytest.mark.parametrize("kinds", [*EVERYTHING, ("head_pattern", "mlp_output")])
def test_ones_over_everything_give_the_counterfactual_run_where_they_must(lm, kinds):
    """Not at the differing token (its embedding stays), not for patterns (values stay), not at later answer tokens."""
    trace = Trace(lm, random_task(n=6, answers=(2, 2)), kinds)
    rows = trace.side().rows
    mixed = logits_under(trace, torch.ones(len(trace.components), dtype=torch.float64))
    counterfactual = logits_under(trace, None, reverse=True)
    same_token = torch.as_tensor(rows.ids == trace.side(True).rows.ids)
    context = torch.as_tensor(rows.chosen)
    equal = (mixed - counterfactual).abs().amax(-1) < 1e-10
    if kinds in EVERYTHING:
        assert (context & same_token).any() and equal[context & same_token].all()
    else:
        assert not equal[context & same_token].all()
    assert not equal[context & ~same_token].any()
    answer = torch.as_tensor(rows.branch > 0)
    assert answer.any() and not equal[answer].any()


# The mean of patterns is refused by name: see test_bad_input.
POSSIBLE = [(k, c) for k in KINDS for c in ("counterfactual", "noise", "zero", "mean") if (k, c) != ("head_pattern", "mean")]


@pytest.mark.parametrize("kind, corruption", POSSIBLE)
@pytest.mark.parametrize("positions", ["all", "last", "subject"])
def test_prefix_changes_nothing(lm, task, kind, corruption, positions, monkeypatch):
    """Starting at the first position that can differ equals running every prompt from its first token."""
    found = []
    for start_at_zero in (False, True):
        if start_at_zero:
            import mctrace_nb.rows as rows
            monkeypatch.setattr(rows, "first_needed", lambda *_: 0)
        trace = Trace(lm, task, kind, positions=positions, corruption=corruption)
        assert (trace.side().prefix is None) == (start_at_zero or (corruption in ("zero", "mean") and positions == "all"))
        mask = torch.linspace(0, 1, len(trace.components), dtype=torch.float64)
        found.append(torch.stack([trace.effects(mask), *([] if corruption in ("zero", "mean") else
                                                         [trace.effects(mask, reverse=True)])]))
    torch.testing.assert_close(*found, **NEAR)


def test_subject_before_the_difference(lm):
    """Where the subject lies wholly before the first difference, nothing there differs and nothing can move."""
    e = Example((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7, 6), (8, 9, 10), (11, 12, 13), subject=(1, 2))
    other = Example((1, 2, 3, 9, 5, 6), (1, 2, 3, 4, 5, 6), (8,), (11,), subject=(3, 4))
    for examples in ((e,), (e, other)):
        trace = Trace(lm, Task("t", examples), "attn_block", positions="subject")
        assert trace.effects(torch.ones(2))[0] == 0


@pytest.mark.parametrize("kind", [*KINDS, ("head_pattern", "head_output", "attn_block", "mlp_neuron", "mlp_output", "mlp_block")])
def test_many_masks_equal_one_at_a_time(lm, task, kind):
    trace = Trace(lm, task, kind, batch_rows=12)
    masks = torch.rand(7, len(trace.components), dtype=torch.float64)
    single = torch.stack([trace.effects(m) for m in masks])
    torch.testing.assert_close(trace.effects(masks), single, **NEAR)
    few = Trace(lm, task, kind, batch_rows=3)  # not even one mask fits: the prompts are cut
    torch.testing.assert_close(few.effects(masks), single, **NEAR)


def test_each_mask_can_have_its_own_prompts(lm, task):
    trace = Trace(lm, task, ("head_pattern", "mlp_neuron"))
    masks = torch.rand(3, len(trace.components), dtype=torch.float64)
    own = torch.tensor([[0, 3], [4, 1], [2, 2]])
    whole = trace.effects(masks)
    torch.testing.assert_close(trace.effects(masks, examples=own), whole.gather(1, own), **NEAR)
    torch.testing.assert_close(trace.effects(masks, examples=own[1]), whole[:, own[1]], **NEAR)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corruption", ["counterfactual", "noise", "zero"])
def test_gradients_equal_finite_differences(lm, task, kind, corruption):
    trace = Trace(lm, task, kind, corruption=corruption)
    start = torch.rand(len(trace.components), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * .8 + .1
    mask = start.clone().requires_grad_()
    trace.effects(mask).mean().backward()
    for i in range(0, len(mask), max(1, len(mask) // 5)):
        step = torch.zeros_like(start)
        step[i] = 1e-5
        slope = (trace.effects(start + step) - trace.effects(start - step)).mean() / 2e-5
        assert mask.grad[i].item() == pytest.approx(slope.item(), abs=1e-7)


def test_soft_masks_lie_between(lm, task):
    trace = Trace(lm, task, "head_output")
    ends = [logits_under(trace, torch.full((4,), float(x), dtype=torch.float64)) for x in (0, 1e-6, 1)]
    assert 0 < (ends[1] - ends[0]).abs().max() < 1e-4 < (ends[2] - ends[0]).abs().max()


def test_total_effect_is_direct_plus_indirect_plus_remainder(lm, task):
    trace = Trace(lm, task, "head_output")
    frame = trace.mediation(["L0H1", "L1H0"])["mean"]
    assert frame["total"] == pytest.approx(frame["direct"] + frame["indirect"] + frame["remainder"], abs=1e-12)
    with torch.no_grad():
        by_hand = (plain_values(trace, "counterfactual") - plain_values(trace)).mean().item()
    assert frame["total"] == pytest.approx(by_hand)
    assert abs(frame["remainder"]) > 1e-6
    nothing = trace.mediation([])["mean"]
    assert nothing["indirect"] == 0 and nothing["direct"] == pytest.approx(nothing["total"], abs=1e-12)


def test_interactions_are_moebius_terms(lm, task):
    trace = Trace(lm, task, "head_output")
    pairs = trace.interactions(k=2)
    singles = trace.single_effects().set_index("component")["effect"]
    for names, value in zip(pairs["components"], pairs["interaction"]):
        joint = trace.effects(list(names)).mean().item()
        assert value == pytest.approx(joint - sum(singles[n] for n in names), abs=1e-10)
    everything = sum(trace.interactions(k=k)["interaction"].sum() for k in range(1, 5))
    assert everything == pytest.approx(trace.effects(torch.ones(4)).mean().item(), abs=1e-9)


def snapshot(lm):
    return ({k: v.clone() for k, v in lm.model.state_dict().items()}, lm.model.config.to_dict(),
            lm.model.config._attn_implementation, [m.training for m in lm.model.modules()],
            [p.requires_grad for p in lm.model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()],
            lm.model(torch.arange(8)[None]).logits.detach().clone())


@pytest.mark.parametrize("end", ["success", "exception", "interrupt"])
@pytest.mark.parametrize("training", [False, True])
def test_model_is_bit_identical_afterwards(task, end, training):
    lm = tiny_gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    lm.model.train(training)
    next(lm.model.parameters()).requires_grad_(False)
    before = snapshot(lm)
    trace = Trace(lm, task, KINDS)
    error = {"exception": RuntimeError, "interrupt": KeyboardInterrupt}.get(end)
    if error:
        def stop(*_):
            raise error("in the middle")
        handle = lm.layers[1].mlp.register_forward_hook(stop)
        with pytest.raises(error):
            trace.effects(torch.ones(len(trace.components)))
        handle.remove()
    else:
        trace.effects(torch.full((len(trace.components),), .5, requires_grad=True)).sum().backward()
    after = snapshot(lm)
    assert before[1:6] == after[1:6]
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert torch.equal(before[6], after[6])
    assert all(p.grad is None for p in lm.model.parameters())
    trace.effects(torch.ones(len(trace.components)))  # and it can be used again


def test_dropout_is_off_during_a_trace(task):
    lm = tiny_gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    lm.model.train()
    trace = Trace(lm, random_task(differ=0), "head_output")
    assert trace.effects(torch.ones(4)).abs().max() == 0


def test_one_model_serves_one_call_at_a_time(lm, task):
    trace = Trace(lm, task, "head_output")
    with Session(lm), pytest.raises(InputError, match="in use"):
        trace.effects(torch.ones(4))
    trace.effects(torch.ones(4))


def test_work_counts_rows(lm, task):
    trace = Trace(lm, task, "head_output")
    trace.prepare(), trace.scale
    before = trace.work.copy()
    trace.effects(torch.rand(3, 4))
    assert trace.work.since(before).forwards == 3 * 5 and trace.work.since(before).backwards == 0
    before = trace.work.copy()
    trace.effects(torch.rand(2, 4, requires_grad=True), examples=[0, 1]).sum().backward()
    assert (trace.work.since(before).forwards, trace.work.since(before).backwards) == (4, 4)


def test_mean_replaces_by_the_mean_over_positions_and_prompts(lm):
    """Checked against a mean taken by hand from the stock model."""
    task = random_task(n=3, length=(4, 4))
    trace = Trace(lm, task, "mlp_block", corruption="mean", positions="all")
    seen = []
    handle = lm.layers[0].mlp.register_forward_hook(lambda m, i, o: seen.append(o))
    for e in task.search:
        lm.model(torch.tensor([e.base]))
    handle.remove()
    by_hand = torch.cat(seen).flatten(0, 1).mean(0)
    trace.prepare()
    torch.testing.assert_close(trace.side().values["mlp_block", 0][0], by_hand, **NEAR)


def test_noise_acts_on_the_subject_alone_and_is_reproducible(lm, task):
    one, two, other = (Trace(lm, task, "head_output", corruption="noise", seed=s) for s in (0, 0, 1))
    mask = torch.ones(4)
    assert torch.equal(one.effects(mask), two.effects(mask)) and not torch.equal(one.effects(mask), other.effects(mask))
    noise = one.side(True).noise
    for row, e in zip(noise, task.search):
        touched = row.abs().sum(-1).nonzero().flatten().tolist()
        assert touched == list(range(*e.subject))


def test_guard_mask_function_is_registered(lm, monkeypatch):
    """Without a mask function under the door's own name padding is ignored: removing it must be noticed."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    task = random_task(n=7, length=(3, 12), answers=(1, 4))
    right = Trace(lm, task, "head_output").base_values
    monkeypatch.delitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "mctrace_sdpa")
    try:
        wrong = Trace(lm, task, "head_output").base_values
    except KeyError as error:
        assert "mctrace_sdpa" in str(error)  # transformers itself noticed
    else:
        assert (wrong - right).abs().max() > 1e-3
