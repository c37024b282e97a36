"""What stands behind a set: restoring, layers x tokens, completeness, controls, transfer; and metrics that compare."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Words, random_task, tiny_gpt2
from test_families import FAMILIES

import mctrace_nb as mct
from mctrace_nb import metrics
from mctrace_nb.components import KINDS
from mctrace_nb.models import wrap_model
from mctrace_nb.tasks import Example, Task
from mctrace_nb.tracing import Trace
from mctrace_nb.views import random_sets, roles, sweep

NEAR = dict(rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def task():
    return random_task(n=5, length=(6, 9), differ=2)


# --- restoring ---

@pytest.mark.parametrize("corruption", ["counterfactual", "noise"])
def test_restoring_is_the_direct_effect_seen_from_the_other_end(lm, task, corruption):
    """The corrupted run with the base's values: value(restored) - value(corrupted), target and foil in each other's place."""
    forth = Trace(lm, task, "head_output", corruption=corruption)
    back = Trace(lm, task, "head_output", corruption=corruption, direction="restore")
    mask = torch.rand(4, dtype=torch.float64)
    corrupted = forth.base_values + forth.total_effects()
    restored = forth.base_values + forth.effects(mask, reverse=True)
    torch.testing.assert_close(back.base_values, -corrupted, **NEAR)
    torch.testing.assert_close(back.effects(mask), corrupted - restored, **NEAR)
    torch.testing.assert_close(back.total_effects(), forth.total_effects(), **NEAR)
    assert back.effects(torch.zeros(4)).abs().max() == 0 and back.heldout.direction == "restore"


def test_restoring_needs_a_corrupted_run(lm, task):
    with pytest.raises(mct.InputError, match="has no counterfactual run"):
        Trace(lm, task, "head_output", corruption="zero", direction="restore")
    with pytest.raises(mct.InputError, match="unknown direction of a trace 'back'"):
        Trace(lm, task, "head_output", direction="back")


def test_noise_on_all_tokens_moves_more_than_the_subject(lm, task):
    subject, everything = (Trace(lm, task, "residual", corruption="noise", noise_on=where) for where in ("subject", "all"))
    assert not any(everything.side(True).rows.prefix) and any(subject.side(True).rows.prefix)
    noise = everything.side(True).noise
    assert all((noise[i, :len(e.base)].abs().sum(-1) > 0).all() for i, e in enumerate(everything.examples))
    scale = lm.model.get_input_embeddings().weight.float().std() * 3
    filled = torch.cat([noise[i, :len(e.base)].flatten() for i, e in enumerate(everything.examples)])
    assert filled.std().item() == pytest.approx(scale.item(), rel=0.15)


# --- layers x tokens ---

def test_sweep_equals_substitution_by_hand(lm, task):
    """One layer's output at one token taken from the other prompt, by a plain hook on the stock model."""
    trace = Trace(lm, task, "residual")
    found = sweep(trace, progress=False)
    for n, e in enumerate(task.search):
        for layer, module in enumerate(lm.layers):
            kept = []
            handle = module.block.register_forward_hook(lambda m, a, o: kept.append(o[0] if isinstance(o, tuple) else o))
            lm.model(torch.tensor([e.counterfactual]))
            handle.remove()
            for position in range(len(e.base)):
                def put(m, a, o, position=position):
                    x = (o[0] if isinstance(o, tuple) else o).clone()
                    x[0, position] = kept[0][0, position]
                    return (x, *o[1:]) if isinstance(o, tuple) else x
                handle = module.block.register_forward_hook(put)
                logits = lm.model(torch.tensor([e.base])).logits[0, -1].detach()
                handle.remove()
                expected = (logits[e.target[0]] - logits[e.foil[0]] - trace.base_values[n]).item()
                assert found.effects[layer, position, n] == pytest.approx(expected, abs=1e-9)
        assert np.isnan(found.effects[:, len(e.base):, n]).all()


def test_a_window_replaces_neighbouring_layers_together(lm, task):
    trace = Trace(lm, task, "mlp_block")
    wide = sweep(trace, window=2, progress=False)
    at = torch.tensor([[len(e.base) - 1 for e in task.search]])
    torch.testing.assert_close(torch.as_tensor(wide.effects[1, :, :]).gather(0, at)[0], trace.effects(torch.ones(1, 2), at=at)[0])
    deep = Trace(tiny_gpt2(layers=6), task, "attn_block")
    found = sweep(deep, window=4, progress=False)
    for layer, inside in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5])):
        mask = deep.components.masks([inside])
        torch.testing.assert_close(torch.as_tensor(found.effects[layer]).gather(0, at)[0], deep.effects(mask, at=at)[0])


def test_the_last_layer_at_the_last_token_is_everything(lm, task):
    found = sweep(Trace(lm, task, "residual", corruption="noise", direction="restore"), progress=False)
    table, total = found.by_role(), found.trace.total_effects().mean().item()
    assert table.loc["last token", 1] == pytest.approx(total, abs=1e-9)
    assert set(table.index) <= set(mct.views.ROLES) and (table.loc["earlier tokens"] == 0).all()
    assert found.by_token(0).shape == (len(task.search[0].base), 2)


def test_roles_by_hand():
    e = Example((1, 2, 3, 4, 5, 6, 7, 8), (1, 9, 9, 9, 5, 6, 7, 8), (1,), (2,), subject=(1, 4))
    assert roles(e) == ["earlier tokens", "first subject token", "middle subject tokens", "last subject token",
                        "first token after it", "further tokens", "further tokens", "last token"]
    assert roles(Example((1, 2), (1, 3), (1,), (2,), subject=(1, 2)))[-1] == "last token"


def test_single_positions_need_a_trace_of_all(lm, task):
    trace = Trace(lm, task, "residual", positions="last")
    with pytest.raises(mct.InputError, match="needs a trace with positions='all'"):
        trace.effects(torch.ones(2), at=torch.zeros(1, len(trace), dtype=torch.long))


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_in_units_of_what_the_embedding_gives(family):
    """Gemma multiplies its embeddings inside the module, so the matrix alone would be the wrong yardstick."""
    lm = wrap_model(FAMILIES[family](), Words(), family)
    said = lm.model.get_input_embeddings()(torch.arange(32)).detach().float().std()
    assert lm.embedding_sd.item() == pytest.approx(said.item(), rel=1e-3)


def test_noise_where_embeddings_are_narrower_than_layers():
    from transformers import OPTConfig, OPTForCausalLM

    model = OPTForCausalLM(OPTConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24,
                                     max_position_embeddings=64, init_std=0.3, word_embed_proj_dim=8))
    trace = Trace(wrap_model(model, Words(), "narrow"), random_task(n=2), "head_output", corruption="noise")
    assert trace.total_effects().abs().min() > 0


def test_means_of_half_precision_do_not_overflow():
    lm = tiny_gpt2(dtype=torch.float32)
    for layer in lm.layers:
        layer.mlp.c_proj.bias.data += 200
    task = random_task(n=64, length=(9, 9))
    lm.model.to(torch.bfloat16)
    trace = Trace(lm, task, "mlp_block", corruption="mean")
    trace.prepare()
    mean = trace.side().values["mlp_block", 0]
    assert mean.dtype == torch.bfloat16 and mean.float().mean().item() == pytest.approx(200, rel=0.02)


def test_sweep_refuses_what_has_no_positions(lm, task):
    for trace in (Trace(lm, task, "head_output"), Trace(lm, task, "residual", positions="last")):
        with pytest.raises(mct.InputError, match="needs a trace of one of attn_block"):
            sweep(trace)
    with pytest.raises(mct.InputError, match="window=0"):
        sweep(Trace(lm, task, "residual"), window=0)


# --- evidence ---

def test_evidence_by_hand(lm, task):
    trace = Trace(lm, task, "head_output")
    best = mct.search(trace, "exhaustive", budgets=[2], progress=False)[2]
    table = mct.evidence(trace, best).set_index(["prompts", "what"])["effect"]
    outside = [x for x in trace.components.labels if x not in best.components]
    for where, t in (("search", trace), ("held-out", trace.heldout)):
        assert table[where, "the set"] == pytest.approx(t.effects(list(best.components)).mean().item(), abs=1e-6)
        assert table[where, "everything outside it"] == pytest.approx(t.effects(outside).mean().item(), abs=1e-6)
        assert table[where, "total effect"] == pytest.approx(t.total_effects().mean().item(), abs=1e-6)
    every = [trace.effects([a, b]).mean().item() for i, a in enumerate(trace.components.labels) for b in trace.components.labels[:i]]
    drawn = random_sets(trace, 2, draws=200, other_than=best.components)
    assert sorted(drawn) == pytest.approx(sorted(every)[:-1], abs=1e-6)  # all sets but the best itself, each once
    chance = mct.evidence(trace, best).set_index(["prompts", "what"])["beaten_by"]["search", "random sets of its size"]
    assert chance == 0  # the best of all is beaten by none
    few = random_sets(trace.again(components="mlp_output"), 3, draws=20)
    assert len(few) == 20 == len(np.unique(few.round(9)))


def test_the_control_looks_the_way_the_search_looked(lm, task):
    """A set found for the smallest effect is beaten by sets with a smaller one, not by those with a larger one."""
    trace = Trace(lm, task, "head_output")
    lowest = mct.search(trace, "exhaustive", budgets=[2], direction="min", progress=False)[2]
    for direction, share in (("min", 0.0), ("max", 1.0)):
        rows = mct.evidence(trace, lowest, direction=direction).set_index(["prompts", "what"])
        assert rows.loc[("search", "random sets of its size"), "beaten_by"] == share
    assert mct.compare(trace, "exhaustive,greedy", budget=2, direction="min").evidence["beaten_by"].dropna().iloc[0] == 0
    found = mct.compare(trace, "random,top-k", budget=2)
    assert found.best.method == "top-k" and mct.compare(trace, "random", budget=2).best.method == "random"


def test_effects_apart_are_plain_effects(lm, task):
    both = cohorts(task)
    apart = Trace(lm, both, "head_output", metric="log_odds_gap").effects_apart(["L0H0"])
    plain = Trace(lm, both, "head_output").effects(["L0H0"])
    for name, values in apart.items():
        torch.testing.assert_close(values, plain[[i for i, e in enumerate(both.search) if e.cohort == name]])
    trace, other = Trace(lm, task, "head_output"), Trace(lm, random_task(n=3, seed=5), "head_output")
    wish = mct.Desiderata(trace, other, weights=[2, 3]).effects_apart(["L0H0"])
    torch.testing.assert_close(wish["random (to keep)"], other.effects(["L0H0"]))


def test_one_group_has_no_interval_anywhere(lm, task):
    alike = Task("alike", tuple(replace(e, group="one") for e in task.search))
    trace = Trace(lm, alike, "head_output")
    assert np.isnan(trace.total_effect().low) and trace.single_effects()[["ci_low", "ci_high"]].isna().all(axis=None)


def test_a_function_without_a_gradient_is_told_so(lm, task):
    trace = Trace(lm, task, "head_output", metric=lambda logits: (logits.argmax(-1) == 3).double())
    with pytest.raises(mct.InputError, match="has no gradient; relaxed searches need one"):
        mct.pgb(trace)
    assert [f.method for f in mct.compare(trace, budget=1).fronts] == ["exhaustive", "greedy", "top-k", "random"]


def test_transfer_measures_the_same_set_elsewhere(lm, task):
    here, there = Trace(lm, task, "head_output"), Trace(lm, random_task(n=4, seed=9), "head_output")
    best = mct.search(here, "greedy", budgets=[1], progress=False)[1]
    table = mct.transfer([best], [here, there])
    assert table["effect"].tolist() == pytest.approx([t.effects(list(best.components)).mean().item() for t in (here, there)], abs=1e-6)
    smaller = Trace(tiny_gpt2(layers=1), task, "head_output")
    with pytest.raises(mct.InputError, match="unknown component 'L1"):
        mct.transfer([mct.Selection("x", ("L1H1",), 0.0, kinds=("head_output",))], [smaller])
    with pytest.raises(mct.InputError, match="is of kind head_output"):
        mct.transfer([best], [Trace(lm, task, "head_pattern")])


# --- metrics that compare ---

def cohorts(task):
    examples = [replace(e, cohort="ab"[i % 3 == 0]) for i, e in enumerate(task.search)]
    return Task("cohorts", tuple(examples), tuple(examples))


@pytest.mark.parametrize("name", ["log_odds", "accuracy", "neutrality"])
def test_a_gap_is_the_difference_of_the_cohorts_means(lm, task, name):
    both = cohorts(task)
    plain, apart = Trace(lm, both, "head_output", metric=name), Trace(lm, both, "head_output", metric=f"{name}_gap")
    mask = torch.rand(3, 4, dtype=torch.float64)
    effects, first = plain.effects(mask), torch.tensor([e.cohort == "a" for e in both.search])
    torch.testing.assert_close(apart.effects(mask).mean(-1), effects[:, first].mean(-1) - effects[:, ~first].mean(-1))
    interval = apart.indirect_effect(mask[0])
    assert np.isnan(interval.low) or interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9


def test_a_gap_s_interval_does_not_depend_on_what_both_cohorts_share():
    """Values of 100 in one cohort and 90 in the other are a gap of 10 for sure, however many are drawn of each."""
    weight, part = np.array([1.0] * 6 + [-1.0] * 4) * np.array([10 / 6] * 6 + [10 / 4] * 4), [0] * 6 + [1] * 4
    found = mct.stats.estimate(weight * np.array([100.0] * 6 + [90.0] * 4), parts=part)
    assert (found.mean, found.low, found.high) == pytest.approx((10, 10, 10))


def test_a_gap_needs_two_cohorts(lm, task):
    with pytest.raises(mct.InputError, match="two cohorts of at least two prompts, and the search prompts of 'random' have 5 of ''"):
        Trace(lm, task, "head_output", metric="log_odds_gap")
    with pytest.raises(mct.InputError, match="needs a ratio"):
        mct.pgb(Trace(lm, cohorts(task), "head_output", metric="log_odds_gap"), transform="inverse")


def test_a_cohort_of_one_is_refused_and_of_one_group_has_no_interval(lm, task):
    alone = Task("alone", tuple(replace(e, cohort="ab"[i == 0]) for i, e in enumerate(task.search)))
    with pytest.raises(mct.InputError, match="4 of 'a', 1 of 'b'"):
        Trace(lm, alone, "head_output", metric="log_odds_gap")
    assert np.isnan(mct.stats.estimate([1.0, 2.0, 3.0, 4.0], groups=["x", "y", "z", "z"], parts=[0, 0, 1, 1]).low)


def test_neutrality_knows_no_target(lm, task):
    swapped = Task("swapped", tuple(Example(e.base, e.counterfactual, e.foil, e.target, e.group, e.subject) for e in task.search))
    mask = torch.rand(4, dtype=torch.float64)
    one, other = (Trace(lm, t, "head_output", metric="neutrality").effects(mask) for t in (task, swapped))
    torch.testing.assert_close(one, other)


def test_kl_is_measured_from_the_untouched_run(lm, task):
    trace = Trace(lm, task, "head_output", metric="kl")
    assert trace.effects(torch.zeros(4)).abs().max() == 0
    total = trace.total_effects()
    for i, e in enumerate(task.search):
        base, other = (lm.model(torch.tensor([x])).logits[0, -1].log_softmax(-1) for x in (e.base, e.counterfactual))
        assert total[i].item() == pytest.approx((base.exp() * (base - other)).sum().item(), abs=1e-9)
    some = torch.tensor([3, 1])
    mask = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(trace.effects(mask, examples=some), trace.effects(mask)[some], **NEAR)
    torch.testing.assert_close(trace.again(batch_rows=2).effects(mask), trace.effects(mask), **NEAR)


def test_odds_ratio_is_relative_everywhere(lm, task):
    mask = torch.rand(4, dtype=torch.float64)
    nats, ratio = Trace(lm, task, "head_output"), Trace(lm, task, "head_output", metric="odds_ratio")
    torch.testing.assert_close(ratio.effects(mask), torch.expm1(nats.effects(mask)))
    torch.testing.assert_close(ratio.total_effects(), torch.expm1(nats.total_effects()))
    assert ratio.scale == pytest.approx(nats.scale)
    courses = [mct.pgb(t, epochs=2).trajectory for t in (nats, ratio)]
    np.testing.assert_allclose(*courses)  # the same loss, whatever scale is reported
    with pytest.raises(mct.InputError, match="has no logarithm"):
        Trace(lm, task, "head_output", metric="prob").effects(mask, scale="relative")


def test_a_function_of_logits_is_a_metric(lm, task, tmp_path):
    mask = torch.rand(4, dtype=torch.float64)
    own = Trace(lm, task, "head_output", metric=lambda logits: logits[..., 3] - logits.mean(-1))
    e, plain = task.search[0], lm.model(torch.tensor([task.search[0].base])).logits[0, -1]
    assert own.base_values[0].item() == pytest.approx((plain[3] - plain.mean()).item(), abs=1e-9)
    file = tmp_path / "mine.py"
    file.write_text("def margin(logits):\n    return logits[..., 3] - logits.mean(-1)\n\nwidth = 3\n")
    named = Trace(lm, task, "head_output", metric=f"{file}:margin")
    torch.testing.assert_close(named.effects(mask), own.effects(mask))
    assert named.metric.name == "margin" and e is task.search[0]
    for bad, message in ((f"{file}:width", "has no function 'width'"), (f"{tmp_path}/no.py:f", "there is no file"),
                         (lambda logits: logits, "must return a tensor without the last dimension")):
        with pytest.raises(mct.InputError, match=message):
            Trace(lm, task, "head_output", metric=bad)
    with pytest.raises(mct.InputError, match="failed on logits of shape .* with IndexError"):
        Trace(lm, task, "head_output", metric=lambda logits: logits[..., 99])
    file.write_text("1 / 0\n")
    with pytest.raises(mct.InputError, match="cannot be run .ZeroDivisionError"):
        metrics.get_metric(f"{file}:margin")


def test_metrics_of_one_token_refuse_answers_that_begin_alike(lm):
    alike = Task("alike", (Example((1, 2, 3), (1, 4, 3), (5, 6), (5, 7), number=7),))
    assert torch.isfinite(Trace(lm, alike, "head_output").base_values).all()
    for metric in ("accuracy", "logit_diff"):
        with pytest.raises(mct.InputError, match="prompt 7: target and foil begin with the same token"):
            Trace(lm, alike, "head_output", metric=metric)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_every_metric_leaves_the_untouched_model_at_zero(lm, task, metric):
    trace = Trace(lm, cohorts(task), "mlp_output", metric=metric)
    assert trace.effects(torch.zeros(len(trace.components))).abs().max() == 0


def test_a_task_belongs_to_the_words_it_was_made_for(lm, tutorial):
    made = mct.load_task("names", tutorial, n=4)
    with pytest.raises(mct.InputError, match="was made for a model with other words"):
        Trace(lm, made, "head_output")
    assert len(Trace(mct.load_model("tutorial"), made, "head_output")) == 2  # the same words, loaded again
    with pytest.raises(mct.InputError, match="holds token 40, and 'tiny-gpt2' has 32 tokens"):
        Trace(lm, Task("beyond", (Example((1, 2), (1, 40), (3,), (4,)),)), "head_output")


def test_data_without_counterfactual_prompts_say_so(lm, task):
    same = Task("same", tuple(replace(e, counterfactual=e.base) for e in task.search))
    with pytest.warns(UserWarning, match="there are no counterfactual prompts"):
        Trace(lm, same, "head_output").total_effect()
    with pytest.raises(mct.InputError, match="there are no counterfactual prompts, so nothing can have an effect"):
        mct.search(Trace(lm, same, "head_output"), "greedy", budgets=[1])


def test_words_warn_before_the_numbers(lm, task):
    """Few prompts, a total that may be nothing, a set that does the opposite elsewhere: said first, and no share is given."""
    said = mct.compare(Trace(lm, task, "head_output"), "greedy,top-k", budget=1).words()
    assert said.startswith("Beware: ") and "independent prompts" in said
    trace = Trace(lm, task, "head_output")
    held, total = mct.search(trace, "greedy", budgets=[1], progress=False)[1], trace.total_effect()
    assert ("opposite sign" in said) == (held.effect * held.effect_heldout < 0)
    if total.low <= 0 <= total.high:
        assert "holds 0, so it is not sure" in said and "of the total effect" not in said.replace("interval of the total effect", "")


def test_known_keeps_what_the_model_says_by_itself(lm, task):
    examples = []
    for i, e in enumerate(task.search):
        best = lm.model(torch.tensor([e.base])).logits[0, -1].argmax().item()
        foil = best if i % 2 else (best + 1) % 32
        examples.append(Example(e.base, e.counterfactual, ((foil + 3) % 32,), (foil,), number=i))
    kept = mct.known(lm, Task("mixed", tuple(examples), tuple(examples)))
    assert [e.number for e in kept.search] == [1, 3] == [e.number for e in kept.heldout]
    assert kept.notes == ("4 of 10 pairs kept: the model knows their base answer",)
    with pytest.raises(mct.InputError, match="gives the expected answer on 0 of 3 base prompts"):
        mct.known(lm, Task("unknown", tuple(examples[::2])))


# --- where values are kept ---

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corruption", ["counterfactual", "noise", "zero"])
def test_it_does_not_matter_where_values_are_kept(lm, kind, corruption):
    trace = Trace(lm, random_task(n=4, answers=(1, 2)), kind, corruption=corruption)
    n, orders = len(trace.components), torch.tensor([[3, 1], [0, 3]])
    masks = torch.rand(2, n, dtype=torch.float64)
    for cache in ("host", "recompute"):
        other = trace.again(cache=cache)
        torch.testing.assert_close(other.effects(masks), trace.effects(masks), **NEAR)
        torch.testing.assert_close(other.effects(masks, examples=orders), trace.effects(masks, examples=orders), **NEAR)
        torch.testing.assert_close(other.effects(masks[0], reverse=True) if corruption != "zero" else other.effects(masks[0]),
                                   trace.effects(masks[0], reverse=True) if corruption != "zero" else trace.effects(masks[0]), **NEAR)
    again = trace.again(cache="recompute")
    mask = torch.full((n,), 0.5, dtype=torch.float64, requires_grad=True)
    again.effects(mask, examples=orders[0]).mean().backward()
    assert again.side().values is None or corruption == "zero"
    assert mask.grad.abs().sum() > 0


def test_one_position_with_a_gradient_and_with_prompts_of_its_own(lm):
    """`at` acts wherever effects are asked for."""
    task = random_task(n=4, length=(6, 6), answers=(1, 2))
    trace = Trace(lm, task, "residual")
    masks, at = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64), torch.tensor([[5, 4, 3, 5], [4, 4, 5, 5]])
    plain = trace.effects(masks, at=at)
    torch.testing.assert_close(trace.effects(masks.clone().requires_grad_(), at=at).detach(), plain, **NEAR)
    own = np.array([[3, 0], [1, 2]])
    found = trace.effects(masks, examples=own, at=at.gather(1, torch.as_tensor(own)))
    torch.testing.assert_close(found, plain.gather(1, torch.as_tensor(own)), **NEAR)
