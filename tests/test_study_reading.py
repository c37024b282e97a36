"""Reading a study back: the table, what is damaged, agreement over draws and between models, words and figures."""

import json
import math
import shutil
import subprocess
import sys
from itertools import combinations, product

import numpy as np
import pytest
import yaml
from conftest import ROOT
from synthetic_study import drawn, write_study

import mctrace_nb as mct
from mctrace_nb.errors import InputError
from mctrace_nb.stability import jaccard, jaccard_by_chance
from mctrace_nb.study import agreement
from mctrace_nb.study.reading import excerpt, read

EXAMPLE = ROOT / "data" / "study"
A, B, C, D = ["L0H0", "L0H1"], ["L0H0", "L1H0"], ["L0H2", "L0H3"], ["L2H2", "L2H3"]


def pair_of(choose):
    """Fronts of one method whose pair is what `choose` gives for a run."""
    def sets(**at):
        labels, effect = choose(**at)
        return {"guided": [(labels[:1], effect / 2), (labels, effect)]}
    return sets


@pytest.fixture
def simple(tmp_path):
    """Two models, three draws: `a` has A, A, B, and `b` always C; effects 8, 8, 6 and 4."""
    return write_study(tmp_path / "s", pair_of(lambda model, seed: ((B if seed == 2 else A, 6 if seed == 2 else 8) if model == "a" else (C, 4))),
                       layers=3, heads=4, model=["a", "b"], seed=[0, 1, 2])


@pytest.fixture(scope="module")
def example():
    return read(EXAMPLE)


def test_the_example_is_what_its_grid_describes():
    grid, plan = yaml.safe_load((EXAMPLE / "grid.yaml").read_text()), json.loads((EXAMPLE / "study.json").read_text())
    described = [dict(zip(part, values)) for part in grid["grid"] for values in product(*part.values())]
    assert [{k: r["axes"][k] for k in d} for r, d in zip(plan["runs"], described)] == described and len(plan["runs"]) == len(described) == 25
    assert plan["axes"] == list(dict.fromkeys(k for part in grid["grid"] for k in part))
    files = [p for p in EXAMPLE.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 300_000
    assert {p.name for p in files} == {"grid.yaml", "study.json", "run.json", "front.csv", "result.json"}
    assert {p.name for p in (EXAMPLE / "runs").iterdir()} == {r["name"] for r in plan["runs"]}
    for path in files:
        assert not any(f'"{root}' in path.read_text() for root in ("/tmp", "/work", "/home", "/Users", "/root")), path
    for run in plan["runs"]:
        parameters = json.loads((EXAMPLE / "runs" / run["name"] / "run.json").read_text())["parameters"]
        assert {k: parameters[k] for k in (*run["axes"], *grid["fixed"])} == {**run["axes"], **grid["fixed"]}


def test_the_table_of_the_example(example):
    assert example.counts() == dict(done=24, failed=1, missing=0) and read().runs.equals(example.runs)
    for row in example.done.itertuples():
        front = example.fronts[(example.fronts["run"] == row.Index) & (example.fronts["method"] == "exhaustive") & (example.fronts["budget"] == 4)]
        assert row.set == front["set"].item() and math.isclose(row.effect_heldout, front["effect_heldout"].item(), rel_tol=1e-5)
        assert row.exact and row.candidates == 12 and row.layout == "3 layers x 4 heads" and row.budget == 4
    failed, = example.failures().itertuples()
    assert failed.cell == 7 and failed.reason.startswith("corruption 'mean' has no meaning for head_pattern") and "-mean-" in failed.run


def test_what_the_notebook_says_of_the_example(example):
    """The numbers behind its prose."""
    for model in ("tutorial", "tutorial-2"):
        part = example.only(model=model, task="binding_operation", components="head_output").fronts
        two = part[part["budget"] == 2].groupby("method")["effect"].mean()
        assert (two[["greedy", "top-k"]] < 0.5 * two["exhaustive"]).all() and two["pgb-published"] == 0
    sure = example.stability(4, "exhaustive").set_index(["model", "task", "components"]).loc[("tutorial", "binding_operation", "head_output")]
    assert sure["same"] < 1 and sure["highest"] - sure["lowest"] < 0.1
    assert sorted(sure["chosen"].values()) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    at = {b: example.between("model", b).set_index(["task", "components"]) for b in range(1, 9)}
    assert all(at[b]["jaccard"].mean() < at[b]["by_chance"].mean() + 0.07 for b in at)
    operation = ("binding_operation", "head_output")
    assert all(at[b].loc[operation, "layers"] == at[b].loc[operation, "layers_control"] == 1 for b in (1, 2, 3)) and at[4].loc[operation, "layers"] < 0.7
    assert min(at[3].loc[operation, ["share_one", "share_other"]]) > 0.995
    assert {x[:2] for x in at[3].loc[operation, "only_one"] + at[3].loc[operation, "only_other"] + at[3].loc[operation, "common"]} == {"L0"}
    jobs = at[2].loc[("professions", "head_output")]
    assert jobs["layers"] == 0 and {x[:2] for x in jobs["only_one"]} == {"L0"} and {x[:2] for x in jobs["only_other"]} == {"L1"}
    assert jobs["low_one"] > jobs["high_other"]
    for task in ("professions", "binding_operation"):
        pattern = at[2].loc[(task, "head_pattern")]
        assert pattern["layers"] == pytest.approx(pattern["layers_control"]) and max(pattern["share_one"], pattern["share_other"]) < 0.2
        assert at[1].loc[(task, "head_pattern"), "layers"] == at[1].loc[(task, "head_pattern"), "layers_control"]
    assert 0.45 < at[4]["layers_by_chance"].iloc[0] < 0.6


def damage(name, text):
    return lambda run: (run / name).write_text(text)


@pytest.mark.parametrize("harm, said", [
    (damage("run.json", '{"status": "do'), "run.json is damaged"), (damage("run.json", "[]"), "run.json is damaged (it has no status"),
    (damage("run.json", '{"status": "odd"}'), "its status is 'odd'"), (lambda r: (r / "run.json").unlink(), "run.json is missing"),
    (damage("front.csv", ""), "front.csv is damaged"), (damage("front.csv", "a,b\n1,2\n"), "it has no method, budget"),
    (damage("front.csv", "\x00\x01"), "front.csv is damaged"), (lambda r: (r / "front.csv").unlink(), "front.csv is missing"),
    (lambda r: (r / "front.csv").write_text((r / "front.csv").read_text().replace("L0H0;L0H1", "L0H0")), "rows are missing or cut off"),
    (lambda r: (r / "front.csv").write_text((r / "front.csv").read_text().replace("guided,2,2,8", "guided,2,2,")), "rows are missing or cut off"),
    (lambda r: (r / "result.json").unlink(), "result.json is missing"), (damage("result.json", '{"budget": 2}'), "result.json is damaged (it has no model"),
    (lambda r: (r / "result.json").write_text((r / "result.json").read_text().replace('"max"', '"up"')), "unknown direction 'up'"),
])
def test_a_damaged_run_has_failed_and_the_others_are_read(simple, harm, said):
    whole = read(simple)
    harm(simple / "runs" / "a-0")
    study = read(simple)
    assert study.counts() == dict(done=5, failed=1, missing=0) and said in study.failures()["reason"].item()
    assert study.failures()["notebook"].item() == "runs/a-0/analysis.ipynb" and "\n" not in study.failures()["reason"].item()
    assert study.runs.loc[["a-1", "b-0"]].equals(whole.runs.loc[["a-1", "b-0"]]) and "a-0" not in set(study.fronts["run"])


def test_missing_failed_and_running(simple):
    shutil.rmtree(simple / "runs" / "a-1")
    (simple / "runs" / ".a-1.x7").mkdir()
    (simple / "runs" / "b-0" / "run.json").write_text(json.dumps(dict(status="failed", reason="out of memory", cell=11, seconds=3.0, peak_gib=2.0)))
    (simple / "runs" / "b-0" / "analysis.failed.ipynb").write_text("{}")
    study = read(simple)
    assert study.counts() == dict(done=4, failed=1, missing=1) and list(study.runs.index) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"]
    assert study.failures().values.tolist() == [["b-0", 11, "out of memory", "runs/b-0/analysis.failed.ipynb"]]
    assert study.runs.loc["a-1", "status"] == "missing" and study.runs.loc["a-1", "notebook"] == "" and study.runs.loc["b-0", "seconds"] == 3
    assert study.words().startswith("Of 6 runs 4 are done, 1 failed and 1 are missing. b-0 failed in cell 11: out of memory. ")
    assert repr(study) == "Study('s': 6 runs over model, seed; 4 done, 1 failed, 1 missing)"


def test_no_study_is_said_in_one_line(tmp_path):
    def refused(place):
        with pytest.raises(InputError) as error:
            read(place)
        assert "\n" not in str(error.value) and "sweep grid.yaml --out" in str(error.value)
        return str(error.value)

    assert "is not there" in refused(tmp_path / "none") and "study.json is missing" in refused(tmp_path)
    for text, said in (("{", "study.json is damaged"), ('{"axes": []}', "it has no runs"), ('{"axes": ["seed"], "runs": [{"name": "x", "axes": {}}]}', "names no 'seed'"),
                       ('{"axes": ["seed"], "runs": [{"axes": {}}]}', "names no 'name'")):
        (tmp_path / "study.json").write_text(text)
        assert said in refused(tmp_path)
    (tmp_path / "study.json").write_text('{"axes": ["model"], "runs": [{"name": "x", "axes": {"model": "m"}}]}')
    empty = read(tmp_path)
    assert empty.counts()["missing"] == 1 and len(empty.fronts) == 0 and empty.words() == "Of 1 runs 0 are done, 0 failed and 1 are missing."
    with pytest.raises(InputError, match="no run of this study is done"):
        mct.plots.study_fronts(empty)


def test_axes_named_like_columns_keep_both(tmp_path):
    study = read(write_study(tmp_path / "s", pair_of(lambda **_: (A, 8)), components=["head_output", "head_pattern"], budget=2, seed=[0]))
    assert list(study.fronts["components"].unique()) == ["head_output", "head_pattern"] and set(study.fronts["set"]) == {"L0H0", "L0H0;L0H1"}
    place = write_study(tmp_path / "t", pair_of(lambda **_: (A, 8)), model=["a"], seed=[0])
    plan = json.loads((place / "study.json").read_text())
    plan["axes"], plan["runs"][0]["axes"]["budget"] = ["model", "budget"], 2
    (place / "study.json").write_text(json.dumps(plan))
    study = read(place)
    assert study.runs["budget"].tolist() == [2] and study.fronts["reported_budget"].tolist() == [2, 2] and study.fronts["budget"].tolist() == [1, 2]
    assert study.chosen()["set"].tolist() == ["L0H0;L0H1"]


def test_one_set_for_each_run(tmp_path):
    sets = {"greedy": [(["L0H0"], 1.0), (A, 5.0)], "guided": [(["L0H1"], 2.0), (B, 4.0)], "random": [(["L1H1"], 9.0), (C, 9.0)]}
    study = read(write_study(tmp_path / "s", lambda model: sets if model == "a" else {**sets, "exhaustive": [(["L0H3"], 2.0), (D, 4.99)]}, model=["a", "b"]))
    assert study.chosen(1)["set"].tolist() == ["L0H1", "L0H3"] and study.chosen()["set"].tolist() == [";".join(A), ";".join(D)]
    assert study.chosen(1, "greedy")["set"].tolist() == ["L0H0"] * 2
    table = study.methods()
    assert table.loc["greedy", ["cases", "best", "exact"]].tolist() == [4, 0.5, 0.5] and table.loc["guided", "smallest"] == pytest.approx(0.8)
    assert table.loc["greedy", "fraction"] == pytest.approx((0.5 + 1 + 0.5 + 5 / 4.99) / 4)
    for wrong in (dict(budget=7), dict(method="psychic")):
        with pytest.raises(InputError):
            study.chosen(**wrong)
    for file in (tmp_path / "s" / "runs").glob("*/result.json"):
        file.write_text(file.read_text().replace('"max"', '"min"'))
    assert read(tmp_path / "s").chosen(2)["method"].tolist() == ["guided", "exhaustive"]


def test_only_a_part(simple):
    study = read(simple).only(model="b", seed=["0", 2])
    assert list(study.runs.index) == ["b-0", "b-2"] == list(dict.fromkeys(study.fronts["run"])) and study.values("seed") == [0, 2]
    for wrong, said in ((dict(modle="a"), "did you mean 'model'"), (dict(model="c"), "unknown model 'c'")):
        with pytest.raises(InputError, match=said):
            study.only(**wrong)


def test_stability_over_draws(simple):
    table = read(simple).stability(2, "guided").set_index("model")
    assert table.loc["a", "jaccard"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3) and table.loc["a", "same"] == pytest.approx(1 / 3)
    assert table.loc["a", "chosen"] == pytest.approx({"L0H0": 1, "L0H1": 2 / 3, "L1H0": 1 / 3}) and list(table.loc["a", "chosen"])[0] == "L0H0"
    assert table.loc["a", ["lowest", "highest", "effect_heldout"]].tolist() == pytest.approx([5.4, 7.2, 6.6])
    assert table.loc["b", ["jaccard", "same"]].tolist() == [1, 1] and table["by_chance"].tolist() == pytest.approx([jaccard_by_chance(12, 2)] * 2)
    assert len(read(simple).stability()) == 4 and (table["seeds"] == 3).all()
    with pytest.raises(InputError, match="have a set of budget 5"):
        read(simple).stability(5)
    with pytest.raises(InputError, match="seed alone"):
        read(simple).only(seed=0).stability()


def test_choosing_nothing_is_no_agreement(tmp_path):
    study = read(write_study(tmp_path / "s", lambda seed: {"pgb-published": [([], 0.0), ([], 0.0)], "greedy": [(["L0H0"], 1.0), (A, 2.0)]}, seed=[0, 1]))
    table = study.stability(2).set_index("method")
    assert np.isnan(table.loc["pgb-published", ["jaccard", "same", "by_chance"]].astype(float)).all() and table.loc["greedy", "jaccard"] == 1


def test_without_an_axis_of_seeds(tmp_path):
    study = read(write_study(tmp_path / "s", pair_of(lambda model: (A, 8) if model == "a" else (B, 8)), model=["a", "b"]))
    with pytest.raises(InputError, match=r"seed: \[0, 1, 2\]"):
        study.stability()
    row, = study.between().to_dict("records")
    assert row["jaccard"] == pytest.approx(1 / 3) and np.isnan(row["control"])
    assert "There is no control" in study.words() and "nothing is known about other draws" in study.words()


def test_between_models_beside_the_control(simple):
    row, = read(simple).between().to_dict("records")
    assert row["comparable"] and (row["common"], row["only_one"], row["only_other"]) == ([], A, C)
    assert row["jaccard"] == 0 and row["control"] == pytest.approx(((1 + 1 / 3 + 1 / 3) / 3 + 1) / 2)
    assert row["layers"] == pytest.approx((4 + 2 / 3) / 6)
    assert row["layers_control"] == pytest.approx((np.mean([1, 1 / 3, 1 / 3]) + 1) / 2)
    assert row["by_chance"] == pytest.approx(jaccard_by_chance(12, 2))
    # held-out effects are nine tenths, the total effect there is 9
    assert [row[k] for k in ("share_one", "low_one", "high_one")] == pytest.approx([6.6 / 9, 4.9 / 9, 7.7 / 9])
    assert [row[k] for k in ("share_other", "low_other", "high_other")] == pytest.approx([3.6 / 9, 3.1 / 9, 4.1 / 9])
    assert row["area_other"] == pytest.approx((0 / 2 + 2 + 4 / 2) / 2 / 10)
    said = read(simple).words()
    assert "by a Jaccard index of 0.00 between values of model (random sets: 0.12); the control, draws at one value of model, by 0.78" in said
    assert "Chosen in most runs: only a L0H0, L0H1; only b L0H2, L0H3." in said and "73% (a) against 40% (b); intervals lie apart in 1 of 1" in said
    with pytest.raises(InputError, match="an axis other than the seed"):
        read(simple).between("seed")
    with pytest.raises(InputError, match="unknown axis 'task'"):
        read(simple).between("task")


def test_models_are_compared_on_different_draws_as_the_control_is(tmp_path):
    """Sets that follow the draw alone: equal on the same draw, disjoint on others, in both models."""
    study = read(write_study(tmp_path / "s", pair_of(lambda model, seed: ((A, C, D)[seed], 8)), model=["a", "b"], seed=[0, 1, 2]))
    row, = study.between().to_dict("records")
    assert row["jaccard"] == row["control"] == 0 and "That is 0.00 less than the control, and it is less in 0 of 1 comparisons." in study.words()
    assert "intervals lie apart in 0 of 1" in study.words()


def test_intervals_that_overlap_do_not_lie_apart_and_fronts_do_not_fall(tmp_path):
    fronts = {"a": [(["L0H0"], 9.0), (A, 8.0)], "b": [(["L0H0"], 3.0), (A, 7.5)]}
    study = read(write_study(tmp_path / "s", lambda model, seed: {"greedy": fronts[model]}, model=["a", "b"], seed=[0, 1]))
    row, = study.between().to_dict("records")
    assert row["low_one"] > row["low_other"] and "80% (a) against 75% (b); intervals lie apart in 0 of 1" in study.words()
    assert row["area_one"] == pytest.approx((9 / 2 + 9) / 2 / 10) and row["area_other"] == pytest.approx((3 / 2 + 5.25) / 2 / 10)


def test_models_of_other_shapes_are_compared_by_effects_alone(tmp_path):
    study = read(write_study(tmp_path / "s", pair_of(lambda model, seed: (A, 8)), heads=lambda model, seed: 16 if model == "c" else 12,
                             model=["a", "b", "c"], seed=[0, 1]))
    table = study.between().set_index(["one", "other"])
    assert table["comparable"].tolist() == [True, False, False] and table.loc[("a", "b"), "jaccard"] == 1
    assert np.isnan(table.loc[("a", "c"), "jaccard"]) and table.loc[("a", "c"), "share_other"] == pytest.approx(0.8)
    assert "In 2 of 3 comparisons layers, heads or kinds differ" in study.words()
    assert "3 comparisons" in mct.plots.study_changes(study.between()).text


def test_what_chance_gives():
    def brute(n, a, b, like):
        return np.mean([like(frozenset(x), frozenset(y)) for x in combinations(range(n), a) for y in combinations(range(n), b)])

    for a, b in ((2, 2), (2, 3), (0, 2), (0, 0), (4, 3)):
        assert jaccard_by_chance(6, a, b) == pytest.approx(brute(6, a, b, jaccard))

    def placed(one, other):
        return agreement.by_layer(*(frozenset(f"L{x // 2}H{x % 2}" for x in s) for s in (one, other)))

    for a, b in ((2, 2), (2, 3)):
        assert agreement.by_layer_by_chance(6, 3, a, b) == pytest.approx(brute(6, a, b, placed), abs=0.02)
    assert np.isnan(agreement.by_layer_by_chance(7, 3, 2, 2)) and np.isnan(agreement.by_layer_by_chance(6, 0, 2, 2))
    assert agreement.by_layer(frozenset(["L1H0", "L1H1", "L2.mlp"]), frozenset(["L1H3", "L10H1", "L2H0"])) == pytest.approx(2 / 4)


def test_an_excerpt_reads_the_same(simple, tmp_path):
    (simple / "runs" / "a-0" / "front.csv").write_text("")
    (simple / "runs" / "a-1" / "run.json").unlink()
    (simple / "runs" / "b-0" / "report.html").write_text("x" * 10_000)
    result = json.loads((simple / "runs" / "b-0" / "result.json").read_text())
    (simple / "runs" / "b-0" / "result.json").write_text(json.dumps({**result, "methods": {}}))
    small = excerpt(simple, tmp_path / "small")
    one, other = read(simple), read(small)
    same = [c for c in one.runs if c != "notebook"]
    assert one.runs.loc[one.done.index, same].equals(other.runs.loc[one.done.index, same]) and one.fronts.equals(other.fronts)
    assert json.loads((small / "runs" / "b-0" / "result.json").read_text()) == result
    assert other.counts() == one.counts() and not list(small.rglob("*.html")) and not list(small.rglob("*.ipynb"))
    with pytest.raises(InputError, match="there already"):
        excerpt(simple, small)


def test_reading_needs_no_torch():
    code = f"import sys; from mctrace_nb.study import read; read({str(EXAMPLE)!r}).methods(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More models and tasks than fit into one picture, 144 heads."""
    return read(write_study(tmp_path_factory.mktemp("large") / "s", drawn, model=[f"org/m{i}" for i in range(8)], task=[f"t{i}" for i in range(7)], seed=[0, 1]))


def test_figures_of_many_runs_say_what_they_leave_out(large):
    fronts = mct.plots.study_fronts(large)
    assert fronts.text.startswith("Effect against budget in 36 panels (the first 6 of 7 values of task and 6 of 8 values of model; study.only(...) chooses others)")
    assert fronts.canvas.get_suptitle().startswith("the first 6 of 7 values of task") and fronts.canvas.axes[0].get_title() == "m0"
    assert "in 6 panels (the first 6 of 7 values of task; " in mct.plots.study_fronts(large.only(model="org/m7"), "model", "task").text
    sure = mct.plots.study_stability(large.stability(), "guided", 4)
    at = large.stability(4, "guided")
    shown = {label.get_text() for label in sure.canvas.axes[0].get_yticklabels()}
    assert {f"{r.model[4:]}, {r.task}" for r in at.nsmallest(10, "jaccard").itertuples()} <= shown and len(shown) == 24
    assert "24 rows (the 24 of 56 rows that agree least" in sure.text and "24 most chosen of" in sure.canvas.axes[1].get_title()
    changes = large.between()
    assert len(changes) == 28 * 7 and mct.plots.study_changes(changes).text.startswith("196 comparisons (the 24 of 196 rows that agree least")


def test_figures_of_one_run_and_of_few(simple):
    one = read(simple).only(model="a", seed=0)
    assert mct.plots.study_fronts(one).text == "Effect against budget in 1 panels, at the largest budget: a: guided 8.00."
    study = read(simple)
    assert "a: guided 7.33; b: guided 4.00" in mct.plots.study_fronts(study).text
    assert "guided 0.78; two random sets 0.12. guided agrees least in a (0.56)" in mct.plots.study_stability(study.stability()).text
    assert "tutorial" not in (said := mct.plots.study_changes(study.between()).text) and "components agree by 0.00 (control 0.78" in said
    with pytest.raises(InputError, match="greedy"):
        mct.plots.study_fronts(study, methods=["greedy"])


def test_no_axis_is_averaged_over_in_silence(example):
    with pytest.raises(InputError, match="components varies too"):
        mct.plots.study_fronts(example, rows="task", columns="model")
    by_kind = mct.plots.study_fronts(example.only(components="head_output"), rows="task", columns="model", methods=["exhaustive", "greedy"])
    assert "in 4 panels" in by_kind.text and "top-k" not in by_kind.text


@pytest.mark.slow
@pytest.mark.parametrize("axes, only", [(dict(model=["a"], seed=[0]), ""), (dict(task=["t", "u"], seed=[0, 1, 2]), "task=t, seed=1")])
def test_the_notebook_reads_what_has_nothing_to_compare(tmp_path, axes, only):
    from test_notebooks import by_papermill

    place = write_study(tmp_path / "s", pair_of(lambda **_: (A, 8)), **axes)
    by_papermill(ROOT / "notebooks" / "study.ipynb", tmp_path, folder=str(place), only=only, seed=5)


@pytest.mark.slow
def test_the_notebook_compares_another_axis_at_another_budget(tmp_path):
    from test_notebooks import by_papermill

    by_papermill(ROOT / "notebooks" / "study.ipynb", tmp_path, axis="task", budget=2, method="guided", rows="task,components", columns="model",
                 methods="guided, greedy", seed=5)


def test_fine_grids_are_read_and_summed_up_over_runs_and_seeds(simple):
    assert read(simple).fine.empty
    for model, kept, share in (("a", 2, 1.0), ("b", 3, 0.5)):
        (simple / "runs" / f"{model}-0" / "fine.csv").write_text(
            "lambda1,seed,epochs,kept,soft,rounded,violation,share\n"
            f"0.1,0,15,{kept},1.0,8.0,0.0,{share}\n0.1,1,15,{kept},1.0,8.0,0.0,{share}\n9.0,0,15,0,0.0,0.0,0.0,\n")
    study = read(simple)
    assert list(study.fine.columns[:3]) == ["model", "seed of the run", "run"] and len(study.fine) == 6
    table = study.settings()
    assert table.loc[0.1].to_dict() == dict(runs=2, kept=2.5, rounded=8.0, share=0.75, smallest=0.5)
    assert table.loc[9.0, "kept"] == 0 and math.isnan(table.loc[9.0, "share"])
    assert len(study.only(model="b").settings()) == 2 and (excerpt(simple, simple.parent / "kept") / "runs" / "a-0" / "fine.csv").is_file()
