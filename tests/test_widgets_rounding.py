"""Explorers of rounding and of metrics: they say what the package computes, on any trace, and refuse in words."""

import re

import pytest
import torch

import mctrace_nb as mct
from mctrace_nb.path import top
from mctrace_nb.plots import behaviours, rounding
from mctrace_nb.relax import relax, settings_grid
from mctrace_nb.widgets import BudgetExplorer, MetricPicker
from mctrace_nb.widgets.rounding import reachable


def traced(tutorial, task, kind="head_output", n=16, **more):
    return mct.Trace(tutorial, mct.load_task(task, tutorial, n=n), kind, **more)


# --- a mask cut to a set ---

@pytest.fixture(scope="module")
def budgets(tutorial):
    return BudgetExplorer(traced(tutorial, "facts"))


@pytest.fixture
def explorer(budgets):
    """One explorer for all tests, since it enumerates every set once; each test begins with the same controls."""
    for name, value in dict(budget=2, rule="top S", threshold=0.5, penalty=0.1, exact=True).items():
        budgets.controls[name].value = value
    budgets.predict.value = False
    return budgets


def test_the_mask_is_the_relaxed_search_s_and_top_s_its_largest_entries(explorer):
    run, = relax(explorer.trace, settings_grid(lambda1=0.1, lambda2=0.1, penalty="mean", transform="log"), 12, progress=False)
    labels = explorer.trace.components.labels
    chosen = [labels[i] for i in top(run.trajectory[-1], 2)]
    exact = mct.search(explorer.trace, "exhaustive", [2], progress=False)[2]
    effect = float(explorer.trace.effects(chosen).mean())
    assert f"Kept: {', '.join(chosen)}. Effect {effect:.2f} of {exact.effect:.2f} nats that the best 2 have" in explorer.words.value
    assert f"{100 * effect / exact.effect:.1f} % remains, {exact.effect - effect:.2f} nats are lost" in explorer.words.value
    held = explorer.trace.heldout.indirect_effect(chosen)
    assert f"On held-out prompts {held.mean:.2f} [{held.low:.2f}, {held.high:.2f}] nats." in explorer.words.value


def test_repair_never_loses_and_shows_in_the_picture(explorer):
    words, picture, share = explorer.words.value, explorer.picture.value, explorer.compute(**explorer.parameters)[2]
    explorer.controls["rule"].value = "top S, repaired by swaps"
    assert explorer.words.value != words and explorer.picture.value != picture
    assert share < 60 and explorer.compute(**explorer.parameters)[2] == pytest.approx(100, abs=0.1)
    for budget in range(1, 9):
        cut, repaired = (explorer.rounded(0.1, budget)[rule][budget] for rule in ("top S", "top S, repaired by swaps"))
        known = explorer.known.known
        assert known[cut] - 1e-6 <= known[repaired] <= explorer.exact()[budget].effect + 1e-4 and len(cut) == len(repaired) == budget


def test_gaps_are_between_the_same_two_sets(explorer):
    """On held-out prompts the gap is taken prompt by prompt, so that what both sets share does not pass for uncertainty."""
    table = explorer.gaps(2).set_index("rule")
    assert table.loc["top S, repaired by swaps", "gap"] == pytest.approx(0, abs=1e-4) and table.loc["threshold", "kept"] == "nothing"
    row, best = table.loc["top S"], explorer.exact()[2]
    held = explorer.trace.heldout
    difference = held.effects(best.components) - held.effects(row["kept"].split(", "))
    e = held.estimate(difference)
    assert row["gap"] == pytest.approx(best.effect - row["effect"]) and row[["gap_heldout", "ci_low", "ci_high"]].tolist() == pytest.approx([e.mean, e.low, e.high])


def test_a_threshold_can_miss_the_budget(explorer):
    explorer.controls["rule"].value = "threshold"
    mask = explorer.mask(0.1).trajectory[-1]
    kept = int((mask > 0.5).sum())
    assert kept > 2 and f"The threshold keeps {kept}, over the budget of 2" in explorer.words.value
    assert f"with some threshold {reachable(mask, 2)} are the most that fit" in explorer.words.value
    explorer.controls["budget"].value = kept
    assert "The threshold keeps" not in explorer.words.value
    explorer.controls["penalty"].value = 3
    assert re.search(r"Kept: .*The threshold keeps \d, (over|below) the budget of|Kept: (L\dH\d,? ?)+\. Effect", explorer.words.value)


def test_equal_entries_go_together():
    import numpy as np

    mask = np.array([1.0, 1.0, 0.4, 0.4, 0.0])
    assert [reachable(mask, s) for s in range(1, 6)] == [0, 2, 2, 4, 5]


def test_the_guess_is_a_share_in_percent(explorer):
    explorer.predict.value = True
    assert "what share of the optimum remains" in explorer.words.value and explorer.picture.value == ""
    explorer.guess.value = "90"
    share = explorer.compute(**explorer.parameters)[2]
    assert f"You guessed 90 percent. Measured: {share:.2f} percent." in explorer.words.value


def test_equal_settings_are_not_relaxed_or_enumerated_twice(explorer, monkeypatch):
    for name in ("relax", "search"):
        monkeypatch.setattr(f"mctrace_nb.widgets.rounding.{name}", lambda *args, **more: pytest.fail("computed again"))
    for rule in explorer.controls["rule"].options:
        explorer.controls["rule"].value = rule
        explorer.controls["budget"].value = 5
    assert "Effect" in explorer.words.value


def test_every_control_at_both_ends(explorer):
    for name, control in explorer.controls.items():
        before = control.value
        for value in getattr(control, "options", None) or (getattr(control, "min", False), getattr(control, "max", True)):
            control.value = value
            assert 'role="status"' in explorer.words.value and "computing" not in explorer.words.value, (name, value)
        control.value = before
    assert not [c for c in explorer.controls.values() if getattr(c, "continuous_update", False)]


def test_what_cannot_be_enumerated_is_said(tutorial):
    wide = BudgetExplorer(traced(tutorial, "facts", "mlp_output"), budget=4)
    assert "The exact optimum is not known: 192 components have 54,870,480 sets of 4." in wide.words.value
    assert "that the best 4 that these rules find have" in wide.words.value
    wide.controls["exact"].value = False
    assert "not known" not in wide.words.value
    with pytest.raises(mct.InputError, match="budget 4: a gap to the optimum needs one that can be enumerated"):
        wide.gaps(4)
    wide.controls["rule"].value = "threshold"
    kept = int((wide.mask(0.1).trajectory[-1] > 0.5).sum())
    assert kept > 8 and f"the threshold keeps {kept} components, and of more than 8 here no better set is known" in wide.words.value


def test_other_traces_are_rounded_too(tutorial):
    both = mct.Desiderata(traced(tutorial, "binding"), traced(tutorial, "binding_operation"))
    assert re.search(r"Effect \d+\.\d\d of \d+\.\d\d nats", BudgetExplorer(both, exact=False).words.value)
    blocks = BudgetExplorer(traced(tutorial, "professions", "attn_block", metric="logit_diff"), budget=3)
    assert blocks.controls["budget"].max == 3 and "100.0 % remains" in blocks.words.value and "logits" in blocks.words.value
    alone = mct.load_task("professions", tutorial, n=8, heldout=0)
    assert "held-out" not in BudgetExplorer(mct.Trace(tutorial, alone, "head_output"), exact=False).words.value


def test_without_a_positive_effect_there_is_no_share(tutorial):
    away = mct.Metric("away", lambda said: said.answers[..., 1] - said.answers[..., 0], logarithmic=True, of_difference=True)
    assert "no set of 2 that is known has an effect above 0" in BudgetExplorer(traced(tutorial, "professions", "attn_block", metric=away)).words.value


def test_two_metrics_of_one_name_are_refused(tutorial):
    own = [mct.metrics.from_logits(lambda logits, i=i: logits[..., i], name="own") for i in (1, 2)]
    with pytest.raises(mct.InputError, match="two different metrics are called 'own'"):
        MetricPicker([traced(tutorial, "facts", metric=m) for m in own])


def test_rounding_refuses_in_words(tutorial):
    with pytest.raises(mct.InputError, match="'accuracy' has no gradient to move a mask by"):
        BudgetExplorer(traced(tutorial, "facts", metric="accuracy"))
    with pytest.raises(mct.InputError, match="'bottom S' is not a value"):
        BudgetExplorer(traced(tutorial, "facts"), exact=False, rule="bottom S")


def test_the_picture_of_a_rounding_describes_itself():
    figure = rounding([0.2, 0.9, 0.0], ["L0H0", "L0H1", "L0H2"], (1,), 3.0, {1: 3.0, 2: 3.5}, {1: 4.0, 2: 5.0}, 1)
    assert "kept: L0H1." in figure.text and "3.00, 3.50 for budgets 1 to 2, below the exact optimum, 4.00, 5.00" in figure.text
    assert "kept: nothing" in rounding([0.2, 0.1], ["L0H0", "L0H1"], (), 0.0, {1: 0.0}, threshold=0.5).text


# --- the same components by another measure ---

@pytest.fixture
def picker(tutorial):
    return MetricPicker([traced(tutorial, name) for name in ("professions", "coreference", "facts")])


def test_a_metric_picked_is_the_task_traced_again(picker):
    picture = picker.picture.value
    picker.controls["metric"].value = "accuracy"
    assert picker.picture.value != picture and "facts: nothing alone moves it" in picker.words.value
    picker.controls["metric"].value, picker.controls["corruption"].value = "kl", "zero"
    for trace in picker.traces:
        frame = trace.again(metric="kl", corruption="zero").single_effects().set_index("component")["effect"]
        best = re.search(rf"{trace.task.name}: (\w+) (\d[\d.]*\d)", picker.words.value)
        assert best[1] == frame.abs().idxmax() and float(best[2]) == pytest.approx(frame.abs().max(), abs=0.006)
    assert picker.compute("kl", "zero")[2] == pytest.approx(picker.traces[0].again(metric="kl", corruption="zero").single_effects()["effect"].max())


def test_gaps_are_offered_where_there_are_cohorts(picker, tutorial):
    assert "log_odds_gap" in picker.controls["metric"].options and "odds_ratio" not in picker.controls["metric"].options
    picker.controls["metric"].value = "log_odds_gap"
    assert "professions: L" in picker.words.value and "facts cannot be traced so: metric &#x27;log_odds_gap&#x27; compares two cohorts" in picker.words.value
    assert "on 2 behaviours" in picker.figure.text
    assert not [m for m in MetricPicker(traced(tutorial, "facts")).controls["metric"].options if m.endswith("gap")]


def test_what_cannot_be_traced_is_said(tutorial):
    picker = MetricPicker(traced(tutorial, "facts", "head_pattern"))
    picture = picker.picture.value
    picker.controls["corruption"].value = "mean"
    assert "This does not work" in picker.words.value and "has no meaning for head_pattern" in picker.words.value and picker.picture.value == picture
    with pytest.raises(mct.InputError, match="no traces given"):
        MetricPicker([])
    with pytest.raises(mct.InputError, match="'facts' is no trace"):
        MetricPicker(["facts"])
    with pytest.raises(mct.InputError, match="metric='accuracy_gap' is not a value"):
        MetricPicker(traced(tutorial, "facts"), metric="accuracy_gap")


def test_own_metrics_and_other_kinds(tutorial):
    def entropy(logits):
        return torch.distributions.Categorical(logits=logits).entropy()

    picker = MetricPicker([traced(tutorial, "facts", "mlp_output", metric=entropy)] * 2)
    assert picker.controls["metric"].value == "entropy" and picker.names == ["facts 1", "facts 2"]
    assert picker.figure.text.startswith("Bars of the 12 largest effects of components alone on 2 behaviours (units)")


def test_maps_have_a_scale_each_and_say_so(tutorial):
    frames = {name: traced(tutorial, name).single_effects() for name in ("professions", "binding")}
    figure = behaviours(frames)
    assert "each with a colour scale of its own" in figure.text
    for name, frame in frames.items():
        best = frame.loc[frame["effect"].idxmax()]
        assert f"{name} {best['component']} with {best['effect']:.2f}" in figure.text
    five = behaviours({f"{i}": frames["binding"] for i in range(5)})
    assert "on 5 behaviours" in five.text and five.png


# --- the numbers that stand in lesson 07 beside its exercises ---

def test_the_numbers_of_the_lesson(tutorial):
    from mctrace_nb.check import nb07

    operation, facts = (mct.Trace(tutorial, mct.load_task(name, tutorial, 64, 31), "head_output", seed=31) for name in ("binding_operation", "facts"))
    run = mct.pgb(operation, transform="log", lambda1=0.1, lambda2=0.1, penalty="mean", epochs=12, seed=31, progress=False)
    mask = dict(zip(operation.components.labels, run.trajectory[-1].tolist()))
    assert [len(chosen) for chosen, _ in nb07.threshold_sweep(mask, lambda chosen: float(operation.effects(sorted(chosen)).mean()))] == [3, 4]
    assert nb07.repair(facts, ["L0H0", "L0H1"]) == {"L0H1", "L1H3"}
    assert nb07.share_over_seeds(tutorial, "coreference", 2, range(5)) == pytest.approx((0.93, 0.82), abs=0.005)
    explorer = BudgetExplorer(facts)
    cut, exact = (mct.search(operation, method, range(1, 7), heldout=False, progress=False, **more) for method, more in
                  (("pgb", dict(repair=False, seed=31)), ("exhaustive", {})))  # "they lie on the optimum"
    assert all(c.effect > e.effect - 0.01 for c, e in zip(cut.selections, exact.selections))
    explorer.controls["rule"].value, explorer.controls["penalty"].value = "threshold", 3
    assert "Kept: nothing" in explorer.words.value  # "until they leave none"
    for budget in range(1, 9):  # "the repair closes the gap at every budget, from the same mask"
        assert explorer.gaps(budget).set_index("rule").loc["top S, repaired by swaps", "gap"] < 0.001


# --- the numbers of lesson 08 that no cell prints ---

def test_the_numbers_beside_the_exercises_on_metrics(tutorial):
    from mctrace_nb.check import nb08

    def task(name):
        return mct.load_task(name, tutorial, 64, 0)

    value, operation = (mct.Trace(tutorial, task(name), "head_output") for name in ("binding", "binding_operation"))
    undecided = value.again(metric=nb08.entropy).single_effects().set_index("component")["effect"]
    assert undecided.nlargest(2).index.tolist() == ["L1H0", "L1H3"] and undecided["L1H0"] == pytest.approx(0.50, abs=0.005)
    assert value.single_effects().set_index("component")["effect"].nlargest(2).index.tolist() == ["L1H3", "L1H0"]
    assert nb08.subject_restored(tutorial, task("facts"), "subject") == (0, pytest.approx(0.98, abs=0.006))
    assert nb08.subject_restored(tutorial, task("facts"), "all") == (0, pytest.approx(0.15, abs=0.005))
    assert nb08.subject_restored(tutorial, task("names"), "all")[0] == 1
    assert nb08.move_and_keep(operation, value, 2, 0.1) == ["L0H0", "L0H1"]
    assert nb08.move_and_keep(operation, value, 2, 1) == ["L0H0", "L0H3"]


def test_preferences_are_shown_by_cohort():
    from mctrace_nb.plots import preferences

    figure = preferences({"before": [-2.0, -4.0, -1.0], "after": [1.0, 1.0, -1.0]}, ["a", "a", "b"])
    assert "before: a -3.00, b -1.00, mean size 2.33; after: a 1.00, b -1.00, mean size 1.00" in figure.text and figure.png
