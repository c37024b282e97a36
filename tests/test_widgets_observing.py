"""The explorer of observation beside intervention, and its figures: they say what the package computes, and refuse in words."""

import numpy as np
import pytest

import mctrace_nb as mct
from mctrace_nb.lasso import lasso_scores
from mctrace_nb.planted import twins
from mctrace_nb.plots import draws, observed, overlaps
from mctrace_nb.stability import jaccard
from mctrace_nb.widgets import LassoExplorer


@pytest.fixture(scope="module")
def made():
    return LassoExplorer()


@pytest.fixture
def explorer(made):
    """One explorer for all tests, each beginning with the same controls."""
    for name, value in dict(alpha=0.05, budget=2, confounder=False).items():
        made.controls[name].value = value
    made.predict.value = False
    return made


def by_hand(confounder, budget, alpha):
    planted = twins(confounder)
    trace = mct.Trace(planted.model, planted.task(128), "head_output")
    fronts = [mct.search(trace, "circuit-lasso", [budget], heldout=False, fraction=alpha), mct.search(trace, "exhaustive", [budget], heldout=False, progress=False)]
    return trace, *(f[budget] for f in fronts)


@pytest.mark.parametrize("confounder, budget, alpha", [(False, 2, 0.05), (True, 2, 0.05), (True, 1, 0.2), (True, 3, 0.01)])
def test_the_words_are_what_the_searches_find(explorer, confounder, budget, alpha):
    for name, value in dict(confounder=confounder, budget=budget, alpha=alpha).items():
        explorer.controls[name].value = value
    trace, seen, best = by_hand(confounder, budget, alpha)
    said = explorer.words.value
    assert f"Observed: {', '.join(seen.components)}. Replaced together: {seen.effect:.2f} nats." in said
    assert f"The best of size {budget}: {', '.join(best.components)} with {best.effect:.2f}." in said
    assert f"{100 * seen.effect / best.effect:.1f} % of it" in said and f"overlap {jaccard(seen.components, best.components):.2f}" in said
    assert ("Of the twins L0H1, which is read, has a flow of" in said) == confounder


def test_the_confounder_changes_what_is_observed_and_not_what_is_best(explorer):
    picture = explorer.picture.value
    assert "100.0 % of it" in explorer.words.value
    explorer.controls["confounder"].value = True
    assert explorer.picture.value != picture and "best set, L0H1, L0H3" in explorer.figure.text and "observed set, L0H2, L0H3" in explorer.figure.text
    flows = dict(zip(explorer.trace(True).components.labels, explorer.flows(0.05, True)))
    assert f"a flow of {flows['L0H1']:.2f}, and L0H2, which nobody reads, {flows['L0H2']:.2f}" in explorer.words.value


def test_the_guess_is_a_share_in_percent(explorer):
    explorer.controls["confounder"].value = True
    explorer.predict.value = True
    assert "Predict:" in explorer.words.value and not explorer.picture.value
    explorer.guess.value = "90"
    _, seen, best = by_hand(True, 2, 0.05)
    assert f"You guessed 90 percent. Measured: {100 * seen.effect / best.effect:.2f} percent." in explorer.words.value


@pytest.mark.parametrize("kind", ["head_output", "head_pattern", "attn_block"])
def test_it_works_on_a_trace_of_one_s_own(tutorial, kind):
    trace = mct.Trace(tutorial, mct.load_task("professions", tutorial, n=16), kind)
    mine = LassoExplorer(trace, alpha=0.1, budget=2)
    assert "confounder" not in mine.controls and mine.controls["budget"].max == min(6, len(trace.components))
    ranked = np.argsort(-lasso_scores(trace, fraction=0.1), kind="stable")[:2]
    chosen = [trace.components.labels[i] for i in sorted(ranked)]
    assert f"Observed: {', '.join(chosen)}. Replaced together: {float(trace.effects(chosen).mean()):.2f} nats" in mine.words.value
    with pytest.raises(mct.InputError, match="unknown control 'confounder'"):
        LassoExplorer(trace, confounder=True)


def test_many_heads_are_searched_by_gradients_and_the_words_say_so():
    lm = mct.random_model("gpt2", layers=3, heads=8, width=32)
    trace = mct.Trace(lm, mct.load_task("professions", lm, n=8), "head_output")
    mine = LassoExplorer(trace, alpha=0.5)
    best = mct.search(trace, "guided", range(1, 7), heldout=False, progress=False)[2]
    assert f"The best that guided search finds of size 2: {', '.join(best.components)} with {best.effect:.2f}" in mine.words.value
    assert len(trace.components) == 24 and "that matter here" in mine.figure.text


def test_a_penalty_can_leave_fewer_than_the_budget(explorer, monkeypatch):
    monkeypatch.setattr(explorer, "flows", lambda alpha, confounder: np.array([0, 0, 0, 1.0, 0, 0, 0, 0]))
    words, figure, share = explorer.look(0.5, 3, False)
    assert words.startswith("Observed: L0H3.") and "leaves a flow to 1 of 8 components" in words and share < 100
    monkeypatch.setattr(explorer, "flows", lambda alpha, confounder: np.zeros(8))
    words, figure, share = explorer.look(0.5, 3, False)
    assert words.startswith("Observed: nothing. Replaced together: 0.00") and share == 0 and "observed set, nothing" in figure.text


def test_what_cannot_be_shown_is_refused_in_words(tutorial, explorer):
    task = mct.load_task("professions", tutorial, n=8)
    with pytest.raises(mct.InputError, match="ranks heads, attention blocks and MLP blocks, not mlp_output"):
        LassoExplorer(mct.Trace(tutorial, task, "mlp_output"))
    with pytest.raises(mct.InputError, match="is of a Trace, not of LanguageModel"):
        LassoExplorer(tutorial)
    with pytest.raises(mct.InputError, match="alpha=3 is not a value of this control"):
        LassoExplorer(alpha=3)
    swapped = mct.Task.from_pairs([dict(base="the man said that", counterfactual="the woman said that", target="he", foil="she"),
                                   dict(base="the man hoped that", counterfactual="the woman hoped that", target="he", foil="she")], tutorial, heldout=0)
    mine = LassoExplorer(mct.Trace(tutorial, swapped, "attn_block"), budget=3)
    assert 'role="alert"' in mine.words.value and "are target and foil swapped?" in mine.words.value


def test_what_lesson_9_states_beside_its_exercises_and_its_explorer(explorer):
    from mctrace_nb.check import nb09
    from mctrace_nb.planted import linear_system

    x, weights = linear_system(12, 0.3, 2000, seed=1)
    assert np.count_nonzero(weights) == 26 and nb09.planted_edges(x, 26) == set(zip(*weights.nonzero()))
    x, weights = linear_system(12, 0.3, 20_000, seed=8)
    slope = np.cov(x[:, 7], x[:, 10])[0, 1] / x[:, 7].var()
    assert [round(float(v), 2) for v in (nb09.effect_from_samples(x, 7, 10), slope, weights[7, 10])] == [-1.57, -1.99, -0.96]
    assert nb09.heard(explorer.trace(True), ["L0H1", "L0H2"]) == {"L0H1"}
    words, figure, share = explorer.look(0.05, 3, True)  # both twins are in, so the right one is
    assert "Observed: L0H1, L0H2, L0H3." in words and share > 99
    singles = [explorer.trace(on).single_effects()["effect"].round(1).tolist() for on in (False, True)]
    assert all(abs(a - b) < 0.2 for a, b in zip(*singles)), "the interventions hardly change"


def test_figures_say_their_numbers():
    import pandas as pd

    frame = pd.DataFrame([dict(prompts=8, a=0.5, b=0.1), dict(prompts=8, a=0.2, b=0.4), dict(prompts=32, a=0.3, b=0.2)])
    assert "more in 1 of 2 draws of 8 prompts, in 1 of 1 draws of 32 prompts" in draws(frame, "a", "b").text
    text = observed(["a", "b", "c"], [0, 2, 1], [1.5, -3, 0], ["b"], ["a"]).text
    assert "largest for b, beside" in text and "largest for b (-3.00 nats)" in text and "observed set, b, and the best set, a" in text
    trace, seen, best = by_hand(True, 2, 0.05)
    fronts = [mct.Front("circuit-lasso", (seen,)), mct.Front("exhaustive", (best,))]
    assert "twins, circuit-lasso: 0.33" in overlaps({"twins": fronts}, {"twins": 8}).text
    with pytest.raises(mct.InputError, match="no exact front"):
        overlaps({"twins": fronts[:1]}, {"twins": 8})
