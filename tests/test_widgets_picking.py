"""Explorers of interventions: what they say is what the package computes, on heads and on hundreds of components."""

import re

import pytest
import torch
from conftest import random_task, tiny_gpt2

import mctrace_nb as mct
from mctrace_nb.widgets import ComponentPicker, EffectBars, SetPicker


@pytest.fixture(scope="module")
def task(tutorial):
    return mct.load_task("professions", tutorial, n=32)


@pytest.fixture(scope="module")
def trace(tutorial, task):
    return mct.Trace(tutorial, task, "head_output")


@pytest.fixture(scope="module")
def wide(tutorial, task):
    return mct.Trace(tutorial, task, "mlp_output")


# --- what the model says next ---

@pytest.mark.parametrize("corruption", ["counterfactual", "zero"])
def test_answers_are_what_the_model_itself_says(trace, corruption):
    """Against a selection applied to the model, outside of any trace."""
    from mctrace_nb.results import Selection

    trace = trace.again(corruption=corruption)
    labels, e = ["L0H2", "L1H2"], trace.examples[3]
    frame = mct.answers(trace, labels, 3)
    chosen = Selection("own", tuple(labels), 0.0, kinds=trace.components.kinds, corruption=corruption)
    other = e.counterfactual if corruption == "counterfactual" else None
    for column, put in (("before", ()), ("after", (chosen, other))):
        said = mct.next_tokens(trace.model, e.base, *put, top=174).set_index("token")["probability"]
        for row in frame.itertuples():
            assert getattr(row, column) == pytest.approx(said[row.token], abs=1e-5)
    assert frame["answer"].tolist() == ["target", "foil", "", ""] and len(mct.answers(trace, labels, 3, top=6)) == 6


@pytest.mark.parametrize("corruption", ["counterfactual", "zero", "mean", "noise"])
def test_answers_agree_with_effects_for_every_corruption(trace, corruption):
    trace = trace.again(corruption=corruption)
    for prompt in (0, 5):
        frame = mct.answers(trace, "L0H3", prompt).set_index("answer")
        odds = torch.tensor(frame.loc[["target", "foil"], ["before", "after"]].to_numpy()).log()  # (answer, when)
        effect = (odds[0] - odds[1]).diff().item()
        assert effect == pytest.approx(trace.effects(["L0H3"])[prompt].item(), abs=1e-3)


def test_answers_of_several_tokens_show_their_first_and_say_so():
    trace = mct.Trace(tiny_gpt2(), random_task(answers=(2, 3)), "head_output")
    frame = mct.answers(trace, "L1H0", 1)
    assert all(token.endswith("...") for token in frame["token"][:2])
    assert "first token is shown" in mct.plots.replaced(trace.components, "L1H0", frame).text


def test_answers_refuse_what_is_not_there(trace):
    with pytest.raises(mct.InputError, match="L9H9"):
        mct.answers(trace, "L9H9")
    with pytest.raises(mct.InputError, match="must be numbers of the trace's"):
        mct.answers(trace, "L0H0", 999)


# --- figures ---

def test_the_grid_holds_every_component_and_lights_the_chosen(trace, wide):
    frame = mct.answers(trace, ["L0H2"])
    figure = mct.plots.replaced(trace.components, "L0H2", frame)
    cells = figure.canvas.axes[0].patches
    assert len(cells) == 12 and sum(bool(cell.get_hatch()) for cell in cells) == 1
    written = {text.get_text() for text in figure.canvas.axes[0].texts}
    assert set(trace.components.labels) <= written and "L0H2 lit" in figure.text
    figure = mct.plots.replaced(wide.components, ["L1.out3", "L1.out4"], frame)
    assert len(figure.canvas.axes[0].patches) == 3 and {"out3", "out4"} <= {text.get_text() for text in figure.canvas.axes[0].texts}
    with pytest.raises(mct.InputError, match="unknown component"):
        mct.plots.replaced(trace.components, ["L7H7"], frame)


def test_steps_of_mediation_end_at_the_total(trace):
    frame = trace.mediation(["L0H2", "L0H3"])
    figure = mct.plots.mediation(frame, "nats")
    *parts, total = figure.canvas.axes[0].patches
    assert [bar.get_height() for bar in parts] == pytest.approx(frame.loc[["direct", "indirect", "remainder"], "mean"].tolist())
    assert parts[-1].get_y() + parts[-1].get_height() == pytest.approx(total.get_height(), abs=1e-5)
    assert f"total effect of {frame.loc['total', 'mean']:.2f} nats" in figure.text
    with pytest.raises(mct.InputError, match="give the frame of trace.mediation"):
        mct.plots.mediation(frame.drop("total"))


# --- one component ---

def test_a_component_picked_is_that_component_replaced(trace):
    explorer = ComponentPicker(trace, component="L0H3", prompt=2)
    effect = trace.effects(["L0H3"], examples=[2]).item()
    assert f"effect {effect:.2f} nats" in explorer.words.value and f"prompt 2, &quot;{trace.task.text(trace.examples[2].base)}" in explorer.words.value
    picture = explorer.picture.value
    explorer.controls["component"].value = "L1H2"
    assert f"effect {trace.effects(['L1H2'], examples=[2]).item():.2f} nats" in explorer.words.value and explorer.picture.value != picture


def test_it_is_replaced_by_whatever_is_asked_for(trace):
    explorer = ComponentPicker(trace, component="L0H3")
    for by in ("zero", "mean", "noise", "counterfactual"):
        explorer.controls["by"].value = by
        effect = trace.again(corruption=by).effects(["L0H3"], examples=[0]).item()
        assert f"effect {effect:.2f} nats" in explorer.words.value
    assert explorer._by("zero") is explorer._by("zero")


def test_a_guess_is_kept_beside_the_effect(trace):
    explorer = ComponentPicker(trace, component="L0H3")
    explorer.predict.value = True
    assert "by how many nats" in explorer.words.value and explorer.picture.value == ""
    explorer.guess.value = "1"
    assert f"You guessed 1 nats. Measured: {trace.effects(['L0H3'], examples=[0]).item():.2f} nats" in explorer.words.value


def test_it_works_on_hundreds_of_components_and_other_metrics(tutorial, task, wide):
    explorer = ComponentPicker(wide.again(metric="prob"))
    explorer.controls["component"].value = "L1.out41"
    effect = wide.again(metric="prob").effects(["L1.out41"], examples=[0]).item()
    assert f"effect {effect:.2f} probability" in explorer.words.value
    many = ComponentPicker(mct.Trace(tutorial, task, "mlp_neuron"))
    many.controls["component"].value = "L2.n255"
    assert "L2.n255 is replaced" in many.words.value and "768 components" in many.picture.value


def test_what_cannot_be_put_in_is_said(tutorial, task):
    explorer = ComponentPicker(mct.Trace(tutorial, task, "head_pattern"))
    explorer.controls["by"].value = "mean"
    assert "This does not work" in explorer.words.value and "mean" in explorer.words.value
    with pytest.raises(mct.InputError, match="component='L9H9' is not a value"):
        ComponentPicker(mct.Trace(tutorial, task, "head_output"), component="L9H9")


def test_only_a_trace_has_prompts_to_show(trace):
    for explorer in (ComponentPicker, SetPicker, lambda both: EffectBars(both, "L0H0")):
        with pytest.raises(mct.InputError, match="an explorer is of a Trace, not of Desiderata"):
            explorer(mct.Desiderata(trace))


# --- sets ---

@pytest.mark.parametrize("which", ["trace", "wide"])
def test_the_set_of_a_budget_is_that_of_guided_search(request, which):
    trace = request.getfixturevalue(which)
    explorer, front = SetPicker(trace, prompt=1), mct.search(trace, "guided", range(1, 9), heldout=False, progress=False)
    total = trace.total_effects().mean().item()
    for budget in (3, 8):
        explorer.controls["budget"].value = budget
        found = front[budget]
        assert f"Budget {budget}: {', '.join(found.components)}, mean effect {found.effect:.2f} nats" in explorer.words.value
        assert f"{found.effect / total:.0%} of the total effect" in explorer.words.value
        assert f"{trace.effects(list(found.components), examples=[1]).item():.2f} nats, probability" in explorer.words.value
    assert "Third panel" in explorer.figure.text


def test_one_search_serves_all_budgets(trace, monkeypatch):
    explorer = SetPicker(trace)
    monkeypatch.setattr("mctrace_nb.widgets.picking.search", lambda *args, **more: pytest.fail("searched again"))
    explorer.controls["budget"].value = 6
    assert "Budget 6" in explorer.words.value


def test_few_components_and_metrics_without_a_gradient(tutorial, task):
    assert SetPicker(mct.Trace(tutorial, task, "mlp_block")).controls["budget"].max == 3
    assert "This does not work" in SetPicker(mct.Trace(tutorial, task, "head_output", metric="accuracy")).words.value


# --- mediation ---

def parts(explorer):
    return [float(x) for x in re.search(r"total (\S+) .* = direct (\S+) \+ indirect (\S+) \+ remainder (\S+)\.</p>", explorer.words.value).groups()]


@pytest.mark.parametrize("metric", ["log_odds", "logit_diff", "log_prob", "prob", "odds_ratio", "accuracy"])
def test_the_bars_are_those_of_mediation(trace, metric):
    explorer = EffectBars(trace, ["L0H2", "L0H3"], metric=metric)
    frame = trace.again(metric=metric).mediation(["L0H2", "L0H3"])["mean"]
    assert parts(explorer) == pytest.approx(frame[["total", "direct", "indirect", "remainder"]].tolist(), abs=0.006)
    assert explorer.unit == trace.again(metric=metric).metric.unit


def test_one_prompt_at_a_time(trace):
    explorer = EffectBars(trace, ["L0H2"], prompt=4)
    total, nie = trace.total_effects()[4].item(), trace.effects(["L0H2"])[4].item()
    nde = trace.effects(["L0H2"], reverse=True)[4].item()
    assert parts(explorer) == pytest.approx([total, nde, nie, total - nde - nie], abs=0.006)
    assert explorer.measure("L0H2", 4, "log_odds")[2] == pytest.approx(total - nde - nie, abs=1e-5)


def test_sets_are_typed_and_bad_labels_said(trace, wide):
    explorer = EffectBars(trace, "L0H2")
    explorer.controls["chosen"].value = "L0H2; L1H1 L1H1"
    assert "L0H2, L1H1, log_odds" in explorer.words.value
    explorer.controls["chosen"].value = "L0H9"
    assert "unknown component" in explorer.words.value
    explorer.controls["chosen"].value = " , "
    assert "the set is empty; write labels such as L0H0, L0H1" in explorer.words.value
    assert "L1.out2, log_odds" in EffectBars(wide, ["L1.out2"]).words.value


def test_where_nothing_can_be_reversed_it_is_said(trace):
    assert "has no counterfactual run" in EffectBars(trace.again(corruption="zero"), "L0H2").words.value


def test_own_metrics_and_gaps_come_with_the_trace(trace):
    explorer = EffectBars(trace.again(metric="kl"), "L0H2")
    assert explorer.controls["metric"].options[0] == "kl" and "L0H2, kl" in explorer.words.value
