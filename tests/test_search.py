"""Searches: exact against brute force, counted work, directions, fronts and their files."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import micro

from mctrace_nb.compare import compare, named_methods
from mctrace_nb.errors import InputError
from mctrace_nb import path
from mctrace_nb.cost import guided_pace, guided_rows
from mctrace_nb.counting import mean_gradients
from mctrace_nb.metrics import transform_loss
from mctrace_nb.relax import BINARY, LINE, SCHEDULES, Settings, fit, largest_penalty, pgb, relax, settings_grid
from mctrace_nb.results import COLUMNS, Front, Selection
from mctrace_nb.search import METHODS, SCORE, search
from mctrace_nb.tracing import Trace


@pytest.fixture(scope="module")
def trace():
    return Trace(tiny_gpt2(layers=3, heads=2), random_task(n=6), "head_output")


@pytest.fixture(scope="module")
def every_set(trace):
    n = len(trace.components)
    return {s: trace.effects([trace.components.labels[i] for i in s]).mean().item()
            for size in range(n + 1) for s in combinations(range(n), size)}


@pytest.mark.parametrize("direction", SCORE)
def test_exhaustive_is_the_optimum(trace, every_set, direction):
    front = search(trace, "exhaustive", budgets=range(1, 7), direction=direction)
    for s in front.selections:
        best = max((e for k, e in every_set.items() if len(k) == s.budget), key=SCORE[direction])
        assert s.effect == pytest.approx(best, abs=1e-10) and s.size == s.budget


@pytest.mark.parametrize("direction", SCORE)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "exhaustive"])
def test_no_method_beats_the_optimum_and_each_reports_its_own_effect(trace, every_set, method, direction):
    front = search(trace, method, budgets=range(1, 7), direction=direction)
    for s in front.selections:
        best = max((SCORE[direction](e) for k, e in every_set.items() if len(k) == s.size))
        assert SCORE[direction](s.effect) <= best + 1e-10 and s.size <= s.budget
        numbers = tuple(trace.components.index(x) for x in s.components)
        assert s.effect == pytest.approx(every_set[numbers], abs=1e-10)
        held = Trace(trace.model, trace.task, "head_output", split="heldout").effects(trace.components.mask(s.components))
        assert s.effect_heldout == pytest.approx(held.mean().item()) and s.ci_low <= s.effect_heldout <= s.ci_high


def test_greedy_by_hand(trace, every_set):
    chosen = ()
    for s in search(trace, "greedy", budgets=range(1, 5)).selections:
        chosen = max((tuple(sorted((*chosen, i))) for i in range(6) if i not in chosen), key=every_set.get)
        assert s.components == tuple(trace.components.labels[i] for i in chosen)


def test_searches_repeat_themselves(trace):
    for method in METHODS:
        one, two = (search(trace, method, budgets=[2, 3], seed=3) for _ in range(2))
        assert [s.components for s in one.selections] == [s.components for s in two.selections]


def test_random_band_against_all_sets(trace, every_set):
    """With many draws the band is that of all sets of the size, and the seed decides the draws."""
    pairs = [e for k, e in every_set.items() if len(k) == 2]
    s = search(trace, "random", budgets=[2], draws=3000).selections[0]
    # 15 sets: the percentiles fall on one of them, or on a neighbour
    assert sum(e < s.band[0] - 1e-9 for e in pairs) <= 1 and sum(e > s.band[1] + 1e-9 for e in pairs) <= 1
    assert s.band[1] > s.band[0] and s.forwards == 3000 * len(trace)
    few = [search(trace, "random", budgets=[2], draws=5, seed=seed).selections[0].band for seed in range(6)]
    assert len(set(few)) > 1


def test_work_is_counted_alike(trace):
    n, prompts = len(trace.components), len(trace)
    exhaustive, greedy, top = (search(trace, m, budgets=[1, 2]).selections[-1] for m in ("exhaustive", "greedy", "top-k"))
    assert exhaustive.forwards == (n + n * (n - 1) / 2) * prompts
    assert greedy.forwards == (n + n - 1) * prompts
    assert top.forwards == (n + 2) * prompts
    assert exhaustive.backwards == greedy.backwards == top.backwards == 0
    relaxed = pgb(trace, epochs=4)
    assert relaxed.backwards == 4 * prompts and relaxed.forwards >= 4 * prompts


# --- the relaxed search ---------------------------------------------------------------------------------------

def one_run_by_hand(trace, s: Settings, epochs, batch):
    """The algorithm as the paper states it, one mask, written out plainly."""
    mask = torch.full((len(trace.components),), s.init, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([mask], lr=s.lr)
    course = [mask.detach().numpy().copy()]
    for epoch in range(epochs):
        grow = {"linear": epoch + 1, "exponential": 2 ** epoch, "quadratic": epoch ** 2, "constant": 1,
                "path": 0.003 ** ((epochs - 1 - epoch) / (epochs - 1))}[s.schedule]
        order = np.random.default_rng([s.seed, epoch]).permutation(len(trace))
        for part in np.split(order, range(batch, len(trace), batch)):
            effect = trace.effects(mask, examples=torch.as_tensor(part))
            fit = {"inverse": torch.exp(-effect), "log": -effect / trace.scale, "raw": 1 - torch.exp(effect)}[s.transform]
            loss = fit.mean() + grow * (s.lambda1 * mask.sum() + s.lambda2 * (mask * (1 - mask)).sum())
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        course.append(mask.detach().numpy().copy())
    return np.stack(course)


def test_many_settings_at_once_equal_one_at_a_time(trace):
    grid = [Settings(lambda1=a, lambda2=b, schedule=c, transform=t, lr=lr, seed=seed) for a, b, c, t, lr, seed in
            [(.05, .05, "linear", "inverse", .1, 0), (0., .2, "exponential", "log", .1, 0), (.1, 0., "quadratic", "log", .5, 1),
             (.02, .1, "constant", "inverse", .05, 2), (.4, .1, "path", "log", .2, 0), (.1, .1, "linear", "raw", .1, 3)]]
    for run, s in zip(relax(trace, grid, epochs=3, batch_size=4), grid):
        np.testing.assert_allclose(np.stack(run.trajectory), one_run_by_hand(trace, s, 3, 4), atol=1e-10)


def test_stop_is_tested_after_each_epoch(trace):
    grid = settings_grid(lambda1=[0.01, 0.5], seed=0)
    slow, fast = relax(trace, grid, epochs=8, budget=2)
    assert fast.history[-1]["kept"] <= 2 < min([h["kept"] for h in fast.history[:-1]], default=3)
    assert len(fast.history) <= len(slow.history)


def test_settings_grid_takes_all_combinations():
    assert len(settings_grid(lambda1=[0, .1], lambda2=[.1, .2, .3], seed=range(2), lr=.2)) == 12


def test_rounding_by_name():
    half = torch.tensor([0.5, 0.51])
    from mctrace_nb.relax import ROUNDINGS
    assert ROUNDINGS["strict"](half).tolist() == [False, True] and ROUNDINGS["paper"](half).tolist() == [True, True]
    assert [SCHEDULES["quadratic"](t, 2) for t in range(3)] == [0, 1, 4]
    assert [SCHEDULES["path"](t, 2) for t in range(3)] == pytest.approx([0.003, 0.003 ** 0.5, 1]) and SCHEDULES["path"](0, 0) == 1


def test_the_published_front_is_one_run(trace):
    before = trace.work.copy()
    front = search(trace, "pgb-published", budgets=range(1, 7), epochs=6, heldout=False, transform="log")
    assert all(s.history[-1]["kept"] == s.size <= s.budget for s in front.selections)
    assert trace.work.since(before).backwards <= 6 * len(trace)


def test_runs_in_vain_are_counted(trace):
    """Settings that never reach the budget have cost their rows all the same."""
    alone = search(trace, "pgb-published", budgets=[2], lambda1=0.3, epochs=6)[2]
    both = search(trace, "pgb-published", budgets=[2], lambda1=[0.0, 0.3], lambda2=0.0, epochs=6)[2]
    assert both.backwards == alone.backwards + 6 * len(trace) and both.forwards > alone.forwards + 6 * len(trace)


# --- a front in one run ---------------------------------------------------------------------------------------

FOUND = dict(lambda1=None, lambda2=None, schedule="path", transform="log")


def slopes_by_hand(trace, mask, step=1e-5):
    """Central differences of the mean effect."""
    near = torch.tensor(mask, dtype=torch.float64) + step * torch.stack([torch.eye(6), -torch.eye(6)]).double()
    up, down = trace.effects(near.flatten(0, 1).clamp(0, 1)).mean(-1).reshape(2, 6)
    return ((up - down) / (near.clamp(0, 1)[0] - near.clamp(0, 1)[1]).diagonal()).numpy()


def test_gradients_and_the_largest_penalty_by_hand(trace):
    """lambda_max is the largest slope of the fit at nothing, halfway and everything."""
    line = torch.tensor(LINE, dtype=torch.float64)[:, None].expand(-1, 6)
    slopes = np.stack([slopes_by_hand(trace, row) for row in line.tolist()]) / trace.scale
    fitted = mean_gradients(trace, line, "log", of=lambda effects: fit(trace, effects, Settings(transform="log")))
    np.testing.assert_allclose(-fitted, slopes, atol=1e-4)
    run, = relax(trace, settings_grid(**FOUND), epochs=3)
    assert max(row["lambda1"] for row in run.history) == run.history[-1]["lambda1"] == pytest.approx(slopes.max(), abs=1e-4)
    assert [row["lambda2"] for row in run.history] == pytest.approx([BINARY * row["lambda1"] for row in run.history])
    assert largest_penalty(torch.tensor([[0.5, 2.0]])) == 0  # where nothing helps, nothing has to be held down


def test_a_path_is_the_plain_loop_with_the_penalties_it_found(trace):
    """One loop serves both, and every schedule arrives at the same penalty, whatever the number of components that are averaged."""
    for schedule in ("path", "linear", "constant"):
        for penalty in ("sum", "mean"):
            run, = relax(trace, settings_grid(**{**FOUND, "schedule": schedule, "penalty": penalty}), epochs=4, batch_size=4)
            grown = {"path": 1, "linear": 4, "constant": 1}[schedule]
            last = run.history[-1]["lambda1"]
            assert last == pytest.approx(max(0, -run.line.min()))
            fixed = Settings(lambda1=last / grown, lambda2=BINARY * last / grown, schedule=schedule, transform="log")
            np.testing.assert_allclose(np.stack(run.trajectory), one_run_by_hand(trace, fixed, 4, 4), atol=1e-10)


def test_found_penalties_follow_the_unit(trace):
    """A metric in other units, or more of the same prompts, and the mask takes the same course."""
    grid = settings_grid(**{**FOUND, "transform": ["log", "inverse", "raw"]})
    together = relax(trace, grid, epochs=3, batch_size=4)
    for run, s in zip(together, grid):
        alone, = relax(trace, [s], epochs=3, batch_size=4)
        np.testing.assert_allclose(run.trajectory, alone.trajectory, atol=1e-10)
        assert run.history[-1]["forwards"] == alone.history[-1]["forwards"] == (3 + len(LINE)) * len(trace)
    thousandfold = [Trace(trace.model, trace.task, "head_output", metric=lambda x, k=k: k * (x[..., 3] - x[..., 5])) for k in (1, 1000)]
    one, other = (relax(t, settings_grid(**{**FOUND, "transform": "raw"}), epochs=3)[0] for t in thousandfold)
    np.testing.assert_allclose(one.trajectory, other.trajectory, atol=1e-5)  # but for Adam's epsilon
    assert other.history[-1]["lambda1"] == pytest.approx(1000 * one.history[-1]["lambda1"])


@pytest.mark.parametrize("part, name, value", [("sparsity", "lambda1", 0.0), ("binary", "lambda2", 0.0), ("transform", "transform", "raw"),
                                               ("schedule", "schedule", "constant")])
def test_what_is_left_out_and_nothing_else(trace, part, name, value):
    whole, less = settings_grid(**FOUND), settings_grid(**FOUND, without=part)
    assert [vars(s) for s in less] == [{**vars(s), name: value} for s in whole] != [vars(s) for s in whole]
    one, other = relax(trace, whole, epochs=2), relax(trace, less, epochs=2)
    assert not np.allclose(one[0].trajectory[2], other[0].trajectory[2])
    for penalty in ("lambda1", "lambda2"):
        same = [row[penalty] for row in one[0].history] == [row[penalty] for row in other[0].history]
        assert same == (part not in ("transform", "schedule") and penalty != name)
    assert pgb(trace, epochs=2, without=part).settings[name] == value
    assert search(trace, "pgb", [2], epochs=2, without=part)[2].settings[name] == value
    with pytest.raises(InputError, match=f"unknown part of pgb '{part[:-1]}'; did you mean '{part}'"):
        pgb(trace, without=part[:-1])


def test_raw_by_hand_and_refused_where_it_overflows():
    assert transform_loss(torch.tensor([2.0]), "raw", 5.0, ratio=False).item() == -2
    assert transform_loss(torch.tensor([2.0]), "raw", 5.0).item() == pytest.approx(1 - np.exp(2))
    lm, task = micro()
    lm.model.lm_head.weight.data *= 1000  # thousands of nats
    with pytest.raises(InputError, match="not a finite number"):
        pgb(Trace(lm, task, "head_output"), without="transform", progress=False)


def test_cuts_by_hand():
    """The largest entries of the masks that keep most nearly so many, ties to the first; then of the gradients of the line."""
    assert path.top(np.array([.2, .9, .9, .1, .9]), 2) == (1, 2)
    course = [np.full(4, .5), [.9, .8, .7, .6], [.9, .2, .8, .1], [.1, .2, .3, .9]]
    run = path.Run(Settings(), list(map(np.array, course)), [dict(epoch=e, kept=k) for e, k in ((1, 4), (2, 2), (3, 1))],
                   np.array([[-1., -3., 0., -2.], [0., -1., -2., 0.], [0., -1., -2., 0.]]))
    assert path.cuts(run, 2) == {(0, 2): "epoch 2", (2, 3): "epoch 3", (0, 1): "epoch 1", (1, 3): "gradient at nothing",
                                 (1, 2): "gradient at halfway"}
    many = [np.random.default_rng(i).random(9) for i in range(20)]
    run = path.Run(Settings(), many, [dict(epoch=e, kept=e) for e in range(1, 20)])
    assert list(path.cuts(run, 3).values()) == ["epoch 3", "epoch 2", "epoch 4", "epoch 1"]


def test_swaps_by_hand():
    slope = np.array([5., 1., 4., 3., 2.])
    assert set(path.swapped((0, 1, 2), slope)) == {(0, 2, 3), (0, 2, 4), (0, 1, 3), (0, 1, 4)}  # 1 or 2 out, 3 or 4 in
    assert path.swapped((1,), slope) == [(0,), (2,), (3,), (4,)] and path.swapped((0, 1, 2, 3, 4), slope) == []
    found = {2: path.Found((0, 1), 0., None, ""), 4: path.Found((0, 1, 2, 3), 0., None, "")}
    assert path.neighbours(3, found, {2: slope, 4: slope}) == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (0, 1, 2)]
    assert path.neighbours(3, found, {}) == path.neighbours(6, found, {2: slope, 4: slope}) == []


@pytest.mark.parametrize("direction", SCORE)
def test_repair_only_helps_and_ends(trace, every_set, direction):
    """From the worst set of each size: never worse than before, exact, of the same size, and within the rounds."""
    sign = -1 if direction == "min" else 1
    worst = {size: min((s for s in every_set if len(s) == size), key=lambda s: sign * every_set[s]) for size in range(1, 7)}
    exact = path.Exact(trace)
    exact.run(worst.values())
    before = {size: path.Found(s, exact.known[s], None, "here") for size, s in worst.items()}
    after = path.repaired(exact, before, "min" if direction == "min" else "max")
    for size, found in after.items():
        assert len(found.chosen) == size and found.effect == pytest.approx(every_set[found.chosen], abs=1e-10)
        assert sign * found.effect >= sign * before[size].effect and 0 <= found.swaps <= path.PATH_ROUNDS
    assert sum(found.swaps for found in after.values()) > 0
    plain, mended = (search(trace, "pgb", range(1, 7), direction, repair=repair, epochs=3) for repair in (False, True))
    for one, other in zip(plain.selections, mended.selections):
        assert SCORE[direction](other.effect) >= SCORE[direction](one.effect) and one.settings["swaps"] == 0
        assert one.size == other.size == one.budget and other.backwards > one.backwards


def test_the_front_needs_no_tuning_and_counts_its_work(trace):
    fresh = Trace(trace.model, trace.task, "head_output")
    fresh.prepare()
    before = fresh.work.copy()
    front = search(fresh, "pgb", range(1, 7), heldout=False)
    assert [s.size for s in front.selections] == list(range(1, 7))
    spent = fresh.work.since(before)
    assert (front[6].forwards, front[6].backwards) == (spent.forwards, spent.backwards)
    row = front[6]
    assert len(row.trajectory) == len(row.history) + 1 and row.history[-1]["lambda1"] > 0 and row.settings["lambda1"] is None
    two = search(trace, "pgb", [2], lambda1=[0.0, 0.3], transform=["log", "inverse"], epochs=2, heldout=False, repair=False)[2]
    assert two.backwards == (4 * 2 + 2 * len(LINE)) * len(trace)  # lambda2 is still found, once for each transform


@pytest.mark.parametrize("task, kind", [("professions", "head_output"), ("binding_operation", "head_output"), ("names", "head_pattern")])
def test_pgb_is_at_least_as_good_as_greedy_without_tuning(tutorial, task, kind):
    """On prompts that no setting was chosen on."""
    import mctrace_nb as mct

    trace = Trace(tutorial, mct.load_task(task, tutorial, n=64, seed=31), kind)
    greedy, found = (search(trace, m, range(1, 9), heldout=False, progress=False) for m in ("greedy", "pgb"))
    for plain, best in zip(greedy.selections, found.selections):
        assert best.size == best.budget and best.effect >= 0.99 * plain.effect


# --- fronts and files -----------------------------------------------------------------------------------------

def test_front_frame_and_file(trace, tmp_path):
    front = search(trace, "pgb", budgets=range(1, 7))
    frame = front.to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert (frame["size"] == frame["components"].map(lambda c: len([x for x in c.split(";") if x]))).all()
    dotted = search(trace, "pgb", budgets=[6], lambda1=np.array([0.05]), seed=0)
    assert dotted.save(tmp_path / "front_0.05").name == "front_0.05.json" != dotted.save(tmp_path / "front_0.1").name
    loaded = Front.load(front.save(tmp_path / "front"))
    assert loaded.to_frame().equals(frame) and json.loads((tmp_path / "front.json").read_text())["method"] == "pgb"
    np.testing.assert_allclose(loaded.selections[0].trajectory, front.selections[0].trajectory, atol=1e-6)


@given(effects=st.lists(st.floats(-5, 5), min_size=1, max_size=8), direction=st.sampled_from(sorted(SCORE)))
@settings(max_examples=60, deadline=None)
def test_best_up_to_never_falls(effects, direction):
    front = Front("greedy", tuple(Selection("greedy", (), e, i + 1) for i, e in enumerate(effects)), direction)
    best = [front.score(e) for e in front.best_up_to()]
    assert best == sorted(best) and best[-1] == max(0, *map(front.score, effects))


def test_damaged_front_is_refused(tmp_path):
    (tmp_path / "front.json").write_text('{"method": "greedy"}')
    with pytest.raises(InputError, match="not a saved front"):
        Front.load(tmp_path / "front.json")


# --- comparison -----------------------------------------------------------------------------------------------

def test_comparison_says_what_the_numbers_say(trace):
    c = compare(trace, budget=2)
    assert c.exact is c.best and c.best.effect == pytest.approx(max(s.effect for s in c.selections))
    words = c.words()
    assert f"effect of {c.best.effect:.2f}" in words and ", ".join(c.best.components) in words
    assert list(c.to_frame()["method"].unique()) == [f.method for f in c.fronts if f.selections]
    assert "of optimum" in c.table().columns


@pytest.mark.parametrize("direction", SCORE)
def test_comparison_in_every_direction(trace, direction):
    c = compare(trace, budget=2, direction=direction)
    shares = [x for x in c.table()["of optimum"] if x]
    assert shares[0] in ("100%", "") and all(0 <= int(x[:-1]) <= 100 for x in shares), shares
    singles = sum(trace.single_effects_of(c.best.components).values())
    more = "more than" if abs(c.best.effect) > abs(singles) else "less than"
    assert abs(c.best.effect - singles) < 0.005 or f"do {more} that" in c.words()


def test_comparison_without_a_set_is_refused(trace):
    with pytest.raises(InputError, match="pgb-published found no set for budget 2"):
        compare(trace, "pgb-published", budget=2, lambda1=0.0, lambda2=0.0, epochs=1)
    difference = Trace(trace.model, trace.task, "head_output", metric="logit_diff")
    declared = compare(difference, "pgb-published", budget=2, lambda1=1.0).front("pgb-published").selections[0]
    assert declared.method == "pgb-published" and declared.settings["transform"] == "log"
    assert [f.method for f in compare(difference, budget=2).fronts] == ["exhaustive", "guided", "greedy", "top-k", "pgb", "pgb-published", "random"]


def test_auto_leaves_out_what_cannot_be_enumerated():
    assert "exhaustive" in named_methods("auto", 12, range(1, 9))
    assert "exhaustive" not in named_methods("auto", 192, range(1, 9))
    assert named_methods("greedy, top-k", 12, [1]) == ["greedy", "top-k", "random"]  # the control is always there


@pytest.mark.parametrize("task", ["professions", "binding_operation"])
@pytest.mark.parametrize("kind", ["head_output", "head_pattern"])
def test_guided_finds_the_optimum_without_enumerating(tutorial, task, kind):
    """On prompts that nothing was tuned on; on binding_operation greedy falls to less than half of it."""
    import mctrace_nb as mct

    trace = Trace(tutorial, mct.load_task(task, tutorial, n=64, seed=31), kind)
    exact, greedy, guided = (search(trace, m, range(1, 9), heldout=False, progress=False) for m in ("exhaustive", "greedy", "guided"))
    for best, plain, found in zip(exact.selections, greedy.selections, guided.selections):
        assert found.size == found.budget and found.effect == pytest.approx(best.effect, abs=1e-4)
        assert found.effect >= plain.effect - 1e-4
    work = [f.selections[-1].forwards + f.selections[-1].backwards for f in (guided, greedy)]
    assert work[0] <= 3 * work[1] and work[0] <= len(trace) * guided_rows(8, 12)


@pytest.mark.parametrize("kinds, most, share", [("mlp_output", 24, 12), (["head_output", "mlp_output"], 24, 12), ("mlp_neuron", 8, 40)])
def test_guided_work_does_not_grow_with_the_number_of_components(tutorial, kinds, most, share):
    """192, 204 and 768 components: at least what greedy finds at every budget, with a small part of its work."""
    import mctrace_nb as mct

    trace = Trace(tutorial, mct.load_task("professions", tutorial, n=32, seed=201), kinds)
    guided, greedy = (search(trace, m, range(1, most + 1), heldout=False, progress=False) for m in ("guided", "greedy"))
    assert [a.budget for a in guided.selections if a.effect < greedy[a.budget].effect - 1e-4] == []
    work = [f.selections[-1].forwards + f.selections[-1].backwards for f in (guided, greedy)]
    assert work[0] <= work[1] / share


def test_guided_goes_both_ways_and_needs_a_gradient(tutorial):
    import mctrace_nb as mct

    trace = Trace(tutorial, mct.load_task("coreference", tutorial, n=32, seed=31), "head_pattern")
    for direction in ("min", "abs"):
        exact, guided = (search(trace, m, range(1, 4), direction=direction, heldout=False, progress=False) for m in ("exhaustive", "guided"))
        for best, found in zip(exact.selections, guided.selections):
            assert SCORE[direction](found.effect) == pytest.approx(SCORE[direction](best.effect), abs=1e-3)
    with pytest.raises(mct.InputError, match="no gradient to search by; use 'log_odds', or method 'greedy'"):
        search(trace.again(metric="accuracy"), "guided", [1])


def test_guided_serves_desiderata(tutorial):
    """Prompts of several traces at once, of different numbers; a kept behaviour counts against a set."""
    import mctrace_nb as mct

    move, keep = (Trace(tutorial, mct.load_task(task, tutorial, n=n, seed=201), "head_output")
                  for task, n in (("professions", 48), ("names", 24)))
    both = mct.Desiderata(move, keep)
    exact, guided = (search(both, m, range(1, 5), heldout=False, progress=False) for m in ("exhaustive", "guided"))
    for best, found in zip(exact.selections, guided.selections):
        assert found.effect == pytest.approx(best.effect, abs=1e-4)


def test_what_guided_search_may_spend():
    """At most three times greedy's work for 12 components, half of it from 64 on, a twelfth at 192, a fortieth from 768 on."""
    for components, budgets, share in ((12, [8], 3), (64, range(2, 25), 1 / 2), (100, range(2, 25), 1 / 2), (192, [8, 24], 1 / 12),
                                       (320, [24], 1 / 12), (768, [8, 24], 1 / 40), (3072, [8, 24], 1 / 40)):
        for most in budgets:
            greedy = sum(components - size for size in range(most))
            assert guided_rows(most, components) <= share * greedy, (components, most)
    assert guided_pace(24, 192) < guided_pace(24, 768) == guided_pace(8, 12)
