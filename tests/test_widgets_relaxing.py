"""Explorers of the relaxation: what they say is what the package computes, on the lessons' traces and on others; errors in words."""

import re

import pytest
import torch

import mctrace_nb as mct
from mctrace_nb.widgets import LambdaExplorer, RelaxationCube

PAIR = ["L0H0", "L0H3", "L0H1"]


@pytest.fixture(scope="module")
def trace(tutorial):
    return mct.Trace(tutorial, mct.load_task("binding_operation", tutorial, n=16), "head_output")


@pytest.fixture(scope="module")
def crowd(tutorial):
    return mct.Trace(tutorial, mct.load_task("professions", tutorial, n=8), "mlp_output")


# --- the map of two mask values ---

@pytest.fixture
def cube(trace):
    return RelaxationCube(trace, PAIR)


def masked(trace, **values):
    mask = trace.components.mask([])
    for label, value in values.items():
        mask[trace.components.index(label)] = value
    return mask


def test_the_cube_says_what_the_trace_says(cube, trace):
    cube.controls["L0H0"].value, cube.controls["L0H3"].value, cube.controls["L0H1"].value = 0.7, 0.3, 0.25
    mask = masked(trace, L0H0=0.7, L0H3=0.3, L0H1=0.25).requires_grad_()
    loss = torch.exp(-trace.effects(mask)).mean()
    slope = torch.autograd.grad(loss, mask)[0]
    effect, rounded = trace.effects(mask.detach()).mean(), trace.effects(["L0H0"]).mean()
    assert f"has an effect of {effect:.2f} nats; rounded (L0H0 kept) {rounded:.2f}" in cube.words.value
    assert f"objective is {loss:.3g}, its gradient " + ", ".join(f"{x} {slope[trace.components.index(x)]:+.2g}" for x in PAIR) in cube.words.value


def test_a_mask_value_a_transform_a_price_and_an_axis_change_the_picture(cube):
    seen = {cube.picture.value}
    for name, value in (("L0H1", 0.5), ("transform", "log"), ("lambda1", 0.1), ("up", "L0H1"), ("transform", "raw")):
        cube.controls[name].value = value
        assert 'role="status"' in cube.words.value and cube.picture.value not in seen
        seen.add(cube.picture.value)
    assert re.search(r'alt="Map of the raw objective[^"]{100,}"', cube.picture.value)


def test_the_grid_is_run_once_for_the_same_others(cube, monkeypatch):
    monkeypatch.setattr("mctrace_nb.widgets.relaxing.surface", lambda *args: pytest.fail("run again"))
    for name, value in (("L0H0", 0.2), ("transform", "log"), ("lambda1", 0.05)):
        cube.controls[name].value = value
    with pytest.raises(pytest.fail.Exception):
        cube.controls["L0H1"].value = 0.9


def test_the_soft_effect_is_what_is_asked_for(cube, trace):
    cube.predict.value = True
    cube.guess.value = "9"
    effect = trace.effects(masked(trace, L0H0=0.5, L0H3=0.5)).mean()
    assert f"You guessed 9 nats. Measured: {effect:.2f} nats" in cube.words.value and cube.asks.endswith("in nats?")


def test_the_same_component_on_both_axes_is_refused_in_words(cube):
    picture = cube.picture.value
    cube.controls["up"].value = "L0H0"
    assert 'role="alert"' in cube.words.value and "choose two different ones of L0H0, L0H3, L0H1" in cube.words.value
    assert cube.picture.value == picture


def test_the_cube_on_other_traces(crowd, tutorial):
    cube = RelaxationCube(crowd, ["L0.out3", "L1.out5", "L2.out7", "L2.out63"], transform="log", **{"L2.out7": 0.4})
    mask = crowd.components.mask(["L0.out3", "L1.out5"]) * 0.5 + crowd.components.mask(["L2.out7"]) * 0.4
    assert f"effect of {crowd.effects(mask).mean():.2f} nats" in cube.words.value and "mask of L0.out3" not in cube.words.value
    own = mct.Trace(tutorial, crowd.task, "attn_block", metric="logit_diff")
    assert RelaxationCube(own, ["L0.attn", "L2.attn"]).controls["transform"].options == ("log",)


def test_what_the_cube_cannot_show_is_refused(trace, tutorial):
    for wrong, said in (((trace, ["L0H0"]), "has 1 different labels"), ((trace, "L0H0"), "has 1 different labels"),
                        ((trace, ["L0H0", "L9H9"]), "unknown component 'L9H9'"), ((trace, trace.components.labels[:5]), "has 5 different"),
                        ((trace.again(metric="accuracy"), PAIR), "'accuracy' has no gradient to move a mask by")):
        with pytest.raises(mct.InputError, match=said) as refusal:
            RelaxationCube(*wrong)
        assert "\n" not in str(refusal.value)
    with pytest.raises(mct.InputError, match="L0H0=2 is not a value"):
        RelaxationCube(trace, PAIR, L0H0=2)


# --- the penalties of the relaxed search ---

@pytest.fixture
def explorer(tutorial):
    return LambdaExplorer(mct.Trace(tutorial, mct.load_task("professions", tutorial, n=16), "head_output"), epochs=8)


def test_a_penalty_moved_is_the_search_run_anew(explorer):
    """What it says is what `pgb` finds with the same settings, and another penalty gives another picture."""
    words, picture = explorer.words.value, explorer.picture.value
    explorer.controls["lambda1"].value = 1
    assert explorer.words.value != words and explorer.picture.value != picture
    found = mct.pgb(explorer.trace, progress=False, **explorer.settings(**explorer.parameters))
    assert f"{found.size} of 12 components are kept" in explorer.words.value
    assert f"rounded it has {found.effect:.2f} nats" in explorer.words.value and f"{found.history[-1]['violation']:.2f}" in explorer.words.value
    explorer.controls["lambda1"].value = 0.05
    assert (explorer.words.value, explorer.picture.value) == (words, picture)


def test_equal_settings_are_not_optimised_twice(explorer, monkeypatch):
    explorer.controls["seed"].value = 1
    monkeypatch.setattr("mctrace_nb.widgets.relaxing.pgb", lambda *args, **more: pytest.fail("optimised again"))
    explorer.controls["seed"].value = 0
    explorer.controls["seed"].value = 1


def test_the_explorer_offers_what_the_metric_allows(tutorial):
    task = mct.load_task("professions", tutorial, n=16)
    assert LambdaExplorer(mct.Trace(tutorial, task, "head_output", metric="logit_diff"), epochs=1).controls["transform"].options == ("log",)
    with pytest.raises(mct.InputError, match="'accuracy' has no gradient to move a mask by"):
        LambdaExplorer(mct.Trace(tutorial, task, "head_output", metric="accuracy"))
    with pytest.raises(mct.InputError, match="lambda1=3 is not a value"):
        LambdaExplorer(mct.Trace(tutorial, task, "head_output"), lambda1=3)


def test_the_number_kept_is_what_is_asked_for(explorer):
    explorer.predict.value = True
    assert explorer.picture.value == "" and "how many components will be kept?" in explorer.words.value
    explorer.guess.value = "12"
    size = mct.pgb(explorer.trace, epochs=8, progress=False).size
    assert f"You guessed 12 components. Measured: {size:.2f} components" in explorer.words.value


def test_penalties_found_from_the_data(explorer):
    explorer.controls["lambda1"].value = explorer.controls["lambda2"].value = "found"
    explorer.controls["schedule"].value = "path"
    found = mct.pgb(explorer.trace, epochs=8, lambda1=None, lambda2=None, schedule="path", progress=False)
    assert f"{found.size} of 12 components are kept" in explorer.words.value and f"rounded it has {found.effect:.2f}" in explorer.words.value


@pytest.mark.parametrize("typed, said", [("five", "&#x27;five&#x27; is not a whole number"), ("13", "budget 13 is out of range; give 1 to 12"),
                                         ("0", "budget 0 is out of range")])
def test_a_budget_that_cannot_be_is_refused_in_words(explorer, typed, said):
    picture = explorer.picture.value
    explorer.controls["budget"].value = typed
    assert 'role="alert"' in explorer.words.value and said in explorer.words.value and explorer.picture.value == picture
    explorer.controls["budget"].value = "3"
    assert 'role="status"' in explorer.words.value


def test_a_run_stops_at_the_budget(trace):
    explorer = LambdaExplorer(trace, budget=4, transform="log", lambda1=0.1, epochs=15)
    found = mct.pgb(trace, budget=4, transform="log", lambda1=0.1, progress=False)
    assert f"After {len(found.history)} epochs {found.size} of 12" in explorer.words.value and len(found.history) < 15


def test_what_is_kept_is_compared_with_the_exact_optimum(trace):
    exact = mct.search(trace, "exhaustive", range(1, 13), heldout=False, progress=False)
    explorer = LambdaExplorer(trace, exact=exact, transform="log", lambda1=0.01)
    found = mct.pgb(trace, transform="log", lambda1=0.01, progress=False)
    best = exact[found.size]
    assert f"{found.effect / best.effect:.0%} of the best {found.size} ({', '.join(best.components)})" in explorer.words.value


def test_seeds_matter_only_where_a_step_sees_some_of_the_prompts(explorer):
    assert "the seed changes nothing" in explorer.words.value  # 8 prompts, all in one step


def test_the_lambda_explorer_on_many_components(crowd):
    explorer = LambdaExplorer(crowd, epochs=2, transform="log")
    found = mct.pgb(crowd, epochs=2, transform="log", progress=False)
    assert f"{found.size} of 192 components are kept" in explorer.words.value
