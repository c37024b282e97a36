"""The explorers of interactions and of searches: what they say is what the package computes, on any trace."""

import re

import pytest
import torch

import mctrace_nb as mct
from mctrace_nb.widgets import InteractionExplorer, SearchRace


@pytest.fixture
def trace(tutorial):
    return mct.Trace(tutorial, mct.load_task("binding_operation", tutorial, n=16), "head_output")


@pytest.fixture
def many(tutorial):
    return mct.Trace(tutorial, mct.load_task("facts", tutorial, n=8), "mlp_output")


@pytest.fixture
def explorer(trace):
    return InteractionExplorer(trace, a="L0H0", b="L0H3")


def test_a_pair_is_said_as_the_package_computes_it(explorer, trace):
    joint = float(trace.effects(["L0H0", "L0H3"]).mean())
    alone = sum(trace.single_effects_of(["L0H0", "L0H3"]).values())
    row = trace.interactions(2, among=["L0H0", "L0H3"]).iloc[0]
    said = explorer.words.value
    assert f"do {joint:.2f} [" in said and f"sum to {alone:.2f}." in said
    assert f"{row['interaction']:+.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}], synergy" in said
    assert f"together {joint:.2f} against a sum of {alone:.2f}" in explorer.figure.text


def test_three_components_show_eight_subsets_and_the_term_of_three(explorer, trace):
    picture, names = explorer.picture.value, ["L0H0", "L0H3", "L0H1"]
    explorer.controls["c"].value = "L0H1"
    term = trace.interactions(3, among=names).iloc[0]["interaction"]
    assert explorer.picture.value != picture and len(explorer.figure.canvas.axes[0].get_xticklabels()) == 8
    assert explorer.words.value.count("synergy") == 3 and f"Term of all three, L0H0 and L0H3 and L0H1: {term:+.2f}" in explorer.words.value
    assert "redundancy" in explorer.words.value
    explorer.controls["c"].value = "none"
    assert explorer.picture.value == picture


def test_one_call_runs_all_subsets(trace, monkeypatch):
    calls, run = [], trace.effects
    monkeypatch.setattr(trace, "effects", lambda masks: calls.append(len(masks)) or run(masks))
    InteractionExplorer(trace, c="L1H1")
    assert calls == [8]


def test_redundant_and_additive_pairs_have_their_names(tutorial):
    explorer = InteractionExplorer(mct.Trace(tutorial, mct.load_task("coreference", tutorial, n=16), "head_output"), a="L0H0", b="L1H3")
    assert "redundancy" in explorer.words.value
    explorer.controls["a"].value = "L2H3"
    assert "additive" in explorer.words.value


def test_a_component_picked_twice_is_refused_in_words(explorer):
    picture = explorer.picture.value
    explorer.controls["b"].value = "L0H0"
    assert "L0H0 is picked twice" in explorer.words.value and explorer.picture.value == picture
    explorer.controls["b"].value, explorer.controls["c"].value = "L0H3", "L0H3"
    assert "L0H3 is picked twice" in explorer.words.value


def test_the_joint_effect_is_what_is_guessed(explorer, trace):
    explorer.predict.value = True
    assert "what is their joint effect, in nats?" in explorer.words.value and not explorer.picture.value
    explorer.guess.value = "2"
    assert f"You guessed 2 nats. Measured: {float(trace.effects(['L0H0', 'L0H3']).mean()):.2f} nats." in explorer.words.value


def test_many_components_and_other_metrics(many, trace):
    assert "L0.out0" in InteractionExplorer(many).words.value and len(many.components) == 192
    assert "share" in InteractionExplorer(trace.again(metric="accuracy")).words.value
    with pytest.raises(mct.InputError, match="a='L9H9' is not a value"):
        InteractionExplorer(trace, a="L9H9")
    typed = InteractionExplorer(many.again(components="mlp_neuron"))  # a list of that length is typed into
    typed.controls["b"].value = "L9.n9"
    assert "This does not work" in typed.words.value and "component" in typed.words.value


def test_a_trace_of_one_component_has_no_interaction(tutorial):
    lm = mct.random_model("gpt2", layers=1, heads=1, width=8)
    with pytest.raises(mct.InputError, match="has one component"):
        InteractionExplorer(mct.Trace(lm, mct.load_task("professions", lm, n=4, heldout=0), "head_output"))


# --- the race ---

@pytest.fixture
def racing(trace):
    return SearchRace(trace, methods=("greedy", "top-k", "guided", "random"), most=4)


def test_shares_are_those_of_the_searches(racing, trace):
    exact, greedy = (mct.search(trace, m, range(1, 5), heldout=False, progress=False) for m in ("exhaustive", "greedy"))
    for budget in (1, 2, 3, 4):
        racing.controls["budget"].value = budget
        share = 100 * greedy[budget].effect / exact[budget].effect
        assert f"greedy {share:.0f} %" in racing.words.value and f"with {exact[budget].effect:.2f} nats" in racing.words.value
        assert f"greedy {greedy[budget].effect:.2f} for {greedy[budget].forwards:,} runs" in racing.figure.text
    assert "guided 100 %" in racing.words.value and "random (median draw)" in racing.words.value


def test_a_method_runs_once_for_all_budgets(trace, monkeypatch):
    from mctrace_nb.widgets import searching

    ran, search = [], searching.search
    monkeypatch.setattr(searching, "search", lambda trace, method, *more, **options: ran.append(method) or search(trace, method, *more, **options))
    race = SearchRace(trace, methods=("greedy", "top-k"), most=3, **{"top-k": False})
    assert ran == ["exhaustive", "greedy"] and "top-k" not in race.words.value
    race.controls["top-k"].value = True
    race.controls["budget"].value = 3
    race.controls["budget"].value = 1
    assert ran == ["exhaustive", "greedy", "top-k"] and "top-k 100 %" in race.words.value


def test_the_share_of_greedy_is_guessed(racing):
    racing.predict.value = True
    assert "what share of the optimum does greedy have, in percent?" in racing.words.value
    racing.guess.value = "90"
    assert re.search(r"You guessed 90 %. Measured: \d\d\.\d\d %. The guess is too high", racing.words.value)


def test_a_method_that_is_not_checked_neither_runs_nor_counts(many, trace):
    race = SearchRace(many, methods=("top-k", "greedy"), most=3, greedy=False)
    assert "greedy" not in race.fronts and "by top-k" in race.words.value and "Check greedy to see its share." in race.words.value
    flat = SearchRace(trace.again(metric="accuracy"), methods=("guided", "random"), most=2)
    assert flat.asked == "random" and "<img" in flat.picture.value


def test_what_would_take_long_waits_until_it_is_asked_for(many, monkeypatch):
    monkeypatch.setattr("mctrace_nb.widgets.searching.AT_ONCE", 1000)
    race = SearchRace(many, methods=("greedy", "guided"), most=3)
    assert not race.controls["greedy"].value and race.asked == "guided" and list(race.fronts) == ["guided"]


@pytest.mark.parametrize("wrong", [None, [1], "trace"])
def test_what_is_no_trace_is_refused(wrong):
    from mctrace_nb import widgets

    for make in (InteractionExplorer, SearchRace, widgets.LambdaExplorer, widgets.BudgetExplorer, widgets.ComponentPicker, widgets.SetPicker,
                 lambda x: widgets.EffectBars(x, ["L0H0"]), lambda x: widgets.RelaxationCube(x, ["L0H0", "L0H1"]), widgets.MetricPicker):
        with pytest.raises(mct.InputError, match="an explorer is of a|is no trace"):
            make(wrong)


def test_where_not_all_sets_can_be_tried_the_best_found_stands_in(many):
    race = SearchRace(many, methods=("greedy", "top-k", "random"), most=3)
    assert race.exact is None and "The optimum is not known; the best set found, by " in race.words.value
    assert race.asks == "what share of the best set found does greedy have, in percent?"
    race.controls["greedy"].value = race.controls["top-k"].value = race.controls["random"].value = False
    assert "no method is checked" in race.words.value


def test_a_method_without_a_set_has_none(trace):
    race = SearchRace(trace, methods=("pgb-published", "top-k"), most=2)
    race.fronts["pgb-published"] = mct.Front("pgb-published", race.front("pgb-published").selections[1:])  # as of a run that never got to one
    race.controls["budget"].value = 1
    assert "pgb-published no set of this size" in race.words.value and 'role="status"' in race.words.value


def test_a_metric_without_a_gradient_starts_without_the_methods_that_need_one(trace):
    race = SearchRace(trace.again(metric="accuracy"), most=2)
    assert [name for name, c in race.controls.items() if c.value is False] == ["guided", "pgb", "attribution"]
    assert re.search(r"Shares of it: greedy \d+ %", race.words.value)
    race.controls["guided"].value = True
    assert "has no gradient to search by" in race.words.value


def test_without_a_positive_effect_there_is_no_share(trace):
    away = mct.Metric("away", lambda said: said.answers[..., 1] - said.answers[..., 0], logarithmic=True, of_difference=True)
    race = SearchRace(trace.again(metric=away, components="attn_block"), methods=("greedy",), budget=3)
    assert "no set found has an effect above 0" in race.words.value


def test_what_cannot_race_is_refused(trace):
    for wrong, said in ((dict(methods=("gready",)), "did you mean 'greedy'"), (dict(methods=()), "no method to race"),
                        (dict(most=13), "most=13 is out of range"), (dict(budget=9), "budget=9 is not a value")):
        with pytest.raises(mct.InputError, match=said):
            SearchRace(trace, **{"most": 3, **wrong})


@pytest.mark.parametrize("make", [lambda trace: InteractionExplorer(trace), lambda trace: SearchRace(trace, ("greedy",), most=3)])
def test_saved_notebooks_keep_picture_and_description(trace, make):
    data, metadata = make(trace)._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(data)
    assert data["text/plain"] == metadata["image/png"]["alt"] and len(data["text/plain"]) > 60


def test_the_farthest_pairs_are_labelled(trace):
    from mctrace_nb.paper import pairs_and_singles

    figure = mct.plots.deviations({"here": pairs_and_singles(trace)}, label=3)
    assert {t.get_text() for t in figure.canvas.axes[0].texts} == {"L0H0 + L0H3", "L0H0 + L0H1", "L0H1 + L0H3"}
    assert "farthest" in figure.text and "farthest" not in mct.plots.deviations({"here": pairs_and_singles(trace)}).text


def test_the_name_of_an_interaction_goes_by_the_joint_effect():
    from mctrace_nb.explain import named
    from mctrace_nb.stats import Estimate

    assert [named(Estimate(mean, low, high, 9), joint) for mean, low, high, joint in (
        (1, .5, 2, 3), (-1, -2, -.5, 3), (-1, -2, -.5, -3), (1, -1, 3, 3), (.001, .0005, .002, 3), (1, torch.nan, torch.nan, 3))] == [
        "synergy", "redundancy", "synergy", "additive", "additive", "synergy"]
    assert named(Estimate(-6.01, -7, -5, 9), -0.01) == named(Estimate(-6.01, -7, -5, 9), 0.01) == "redundancy"  # what adds up to 6 is taken back
    assert named(Estimate(5.15, 5, 5.3, 9), 5.0) == "synergy"  # two that alone pull a little the other way
