"""The landscape of two mask values: corners, slopes and descents against the trace itself."""

import numpy as np
import pytest
import torch

import mctrace_nb as mct
from mctrace_nb.landscape import STEP, landscape, surface

MASK = {"L0H0": 0.4, "L0H3": 0.6, "L1H1": 0.2}


@pytest.fixture(scope="module")
def trace(tutorial):
    return mct.Trace(tutorial, mct.load_task("binding_operation", tutorial, n=16), "head_output")


def losses(trace, transform, effects):
    return {"inverse": torch.exp(-effects), "log": -effects / trace.scale, "raw": -torch.expm1(effects)}[transform].mean(-1)


def point(trace, **changed):
    mask = trace.components.mask([])
    for label, value in {**MASK, **changed}.items():
        mask[trace.components.index(label)] = value
    return mask


@pytest.mark.parametrize("transform", ["inverse", "log", "raw"])
def test_map_slope_and_slices_are_those_of_the_trace(trace, transform):
    seen = landscape(trace, MASK, "L1H1", "L0H3", transform, lambda1=0.1)
    assert seen.effects.shape == seen.objective.shape == (15, 15)
    for i, j in ((0, 0), (14, 0), (3, 11), (14, 14)):  # rows upwards
        mask = point(trace, L1H1=seen.ticks[j], L0H3=seen.ticks[i])
        effects = trace.effects(mask)
        assert seen.effects[i, j] == pytest.approx(float(effects.mean()), abs=1e-4)
        assert seen.objective[i, j] == pytest.approx(float(losses(trace, transform, effects) + 0.1 * mask.sum()), rel=1e-4, abs=1e-5)
    for label, slope in seen.gradient.items():
        ends = [point(trace, **{label: MASK[label] + h}) for h in (-0.01, 0.01)]
        low, high = (float(losses(trace, transform, trace.effects(m)) + 0.1 * m.sum()) for m in ends)
        assert slope == pytest.approx((high - low) / 0.02, rel=0.02, abs=1e-3)
    for label, values in seen.slices.items():
        assert values[-1] == pytest.approx(float(trace.effects(point(trace, **{label: 1.0})).mean()), abs=1e-4)
    assert seen.kept == ["L0H3"] and seen.rounded == pytest.approx(float(trace.effects(["L0H3"]).mean()), abs=1e-4)


def test_a_descent_takes_projected_steps_in_the_two_entries_alone(trace):
    seen = landscape(trace, MASK, transform="inverse")
    slope = np.array([seen.gradient["L0H0"], seen.gradient["L0H3"]])
    assert np.allclose(seen.path[0], [0.4, 0.6]) and np.allclose(seen.path[1], np.clip([0.4, 0.6] - STEP * slope, 0, 1), atol=1e-6)
    ends = [float(losses(trace, "inverse", trace.effects(point(trace, L0H0=x, L0H3=y)))) for x, y in seen.path[[0, -1]]]
    assert ends[1] < ends[0] and 0 <= seen.path.min() and seen.path.max() <= 1


def test_a_surface_that_is_known_is_not_run_again(trace):
    over = surface(trace, MASK, "L0H0", "L0H3")
    before = trace.work.forwards
    known = landscape(trace, MASK, transform="log", over=over)
    spent = trace.work.forwards - before
    anew = landscape(trace, MASK, transform="log")
    assert np.array_equal(known.objective, anew.objective) and spent < trace.work.forwards - before - spent


@pytest.mark.parametrize("wrong, said", [(dict(mask={"L0H0": 1}), "needs two mask entries"), (dict(mask={**MASK, "L9H9": 0}), "unknown component"),
                                         (dict(across="L0H0", up="L0H0"), "choose two different ones"), (dict(up="L2H2"), "choose two different"),
                                         (dict(mask={**MASK, "L0H0": 1.5}), r"must lie in \[0, 1\]"), (dict(transform="tanh"), "unknown transform")])
def test_what_cannot_be_drawn_is_refused(trace, wrong, said):
    with pytest.raises(mct.InputError, match=said):
        landscape(trace, **{"mask": MASK, **wrong})


def test_metrics_that_are_no_ratio_or_have_no_gradient(trace):
    assert landscape(trace.again(metric="prob"), MASK).transform == "log"
    with pytest.raises(mct.InputError, match="which 'prob' of Trace.*is not; use transform='log'"):
        landscape(trace.again(metric="prob"), MASK, transform="inverse")
    with pytest.raises(mct.InputError, match="'accuracy' has no gradient"):
        landscape(trace.again(metric="accuracy"), MASK)


def test_figures_say_their_numbers(trace):
    seen = landscape(trace, MASK)
    said = mct.plots.landscape(seen).text
    assert f"{seen.effects[-1, -1]:.2f} nats (both)" in said and "a descent from (0.40, 0.60)" in said
    line = mct.plots.along(seen.ticks, {"L0H0": seen.slices["L0H0"], "L0H0, L0H3": seen.slices["L0H3"]})
    assert f"L0H0, L0H3 {np.interp(0.5, seen.ticks, seen.slices['L0H3']):.2f} at one half" in line.text
    assert "inverse falls to 2e-09 at 20.0 nats, log stays at 0.05" in mct.plots.slopes(20, trace.effects(["L0H0"])).text


def test_a_course_names_what_has_not_decided(trace):
    run = mct.pgb(trace, epochs=15, progress=False)
    last = run.trajectory[-1]
    between = [x for x, m in zip(trace.components.labels, last) if 0.1 < m < 0.9 and x not in run.components]
    said = mct.plots.trajectories(run, trace.components.labels).text
    assert 0 < len(between) <= 6 and "between 0.1 and 0.9 and not chosen" in said and all(x in said.split("not chosen: ")[1] for x in between)
    assert "dropped" not in said
    run = mct.pgb(trace, transform="log", progress=False)
    once = [x for x, course in zip(trace.components.labels, run.trajectory.T) if course[1:].max() > 0.5 and x not in run.components]
    assert once and f"once above one half and dropped: {', '.join(once)}" in mct.plots.trajectories(run, trace.components.labels).text


def test_outcomes_stand_beside_the_best_of_their_size(trace):
    runs = mct.pgb(trace, transform="log", lambda1=[0.01, 0.05, 5.0, None], epochs=8, progress=False)
    exact = mct.search(trace, "exhaustive", range(1, 13), heldout=False, progress=False)
    frame = mct.outcomes(runs, exact)
    assert list(frame["lambda1"]) == [0.01, 0.05, 5.0, "found"] and "lambda2" not in frame and (frame["epochs"] == 8).all()
    assert list(frame["kept"]) == [r.size for r in runs] and np.isnan(frame["share"][2]) and "share" not in mct.outcomes(runs)
    assert frame["share"][0] == pytest.approx(runs[0].effect / exact[runs[0].size].effect) and frame["share"][0] <= 1 + 1e-6
