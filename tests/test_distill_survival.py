"""Behaviours of the branching grammar, and which heads survive distillation."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from mctrace_nb.components import Components
from mctrace_nb.distill import experiment, models, problems, survey
from mctrace_nb.distill import survival as S
from mctrace_nb.distill.__main__ import main
from mctrace_nb.distill.behaviours import BEHAVIOURS, behaviour
from mctrace_nb.distill.measures import paired
from mctrace_nb.errors import InputError
from mctrace_nb.models import load_model
from mctrace_nb.plots import carriers as side_by_side
from mctrace_nb.plots import survival as picture

SHIPPED = ROOT / "data" / "distill"


@pytest.fixture(scope="module")
def student():
    return S.Traced.of(load_model(SHIPPED / "student"), n=12)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_pairs_of_a_behaviour_have_the_answers_of_the_grammar(name):
    task = behaviour(name, load_model(SHIPPED / "student"), n=20, seed=3)
    assert len(task.search) == len(task.heldout) == 20
    assert len({e.base for e in (*task.search, *task.heldout)}) == 40
    for e in (*task.search, *task.heldout):
        said = {}
        for side in ("base", "counterfactual"):
            prompt, _, text = task.text(getattr(e, side)).partition(" :")
            words = prompt.split()
            problem = problems.Problem(words[1], int(words[3]), int(words[5]), tuple(map(int, words[7:])))
            said[side] = problems.next_words(problem, text.strip())
            assert side == "counterfactual" or problem.held_out
        target, foil = task.text(e.target).strip(), task.text(e.foil).strip()
        assert target in said["counterfactual"] and target not in said["base"]
        assert foil in said["base"] and foil not in said["counterfactual"]
        unsure = len(said["base"]) > 1 or len(said["counterfactual"]) > 1
        assert not (unsure and name in ("sum", "arrive"))


def test_behaviour_refuses_what_there_is_not():
    with pytest.raises(InputError, match="behaviour='walk'|'walk'"):
        behaviour("walk", None)
    with pytest.raises(InputError, match="n=1 "):
        behaviour("road", None, n=1)


class Fake:
    """A trace whose effects are known: the sum of the weights of what is replaced, the same on search and held-out prompts."""

    def __init__(self, weights, layers, total):
        self.weights, self.total = torch.tensor(weights, dtype=torch.float64), total  # (N, prompts)
        self.components = Components(("head_output",), layers, {"head_output": len(weights) // layers})
        self.heldout, self.scale = self, total

    def __len__(self):
        return self.weights.shape[1]

    def effects(self, masks):
        return masks.double() @ self.weights

    def total_effects(self):
        return torch.full((len(self),), float(self.total), dtype=torch.float64)


def fake(weights, layers=2, total=10.0):
    return S.Traced({"walk": Fake(weights, layers, total)})


def test_survival_by_hand():
    """Reference: head 1 (layer 0) and head 2 (layer 1) carry 6 + 3.5. In the student the like profiles are heads 0 and 3; of them only 0
    carries much, so that with 6 + 1 of the best 6 + 3 the share is 7/9; sets with one head a layer: (6 or 1) + (3 or 1)."""
    reference = fake([[0.1, 0.2, 0.1], [5.0, 6.0, 7.0], [2.5, 4.5, 3.5], [0.2, 0.1, 0.2]])
    assert reference.carriers == {"walk": (1, 2)}
    student = fake([[5.0, 6.0, 7.0], [2.0, 1.0, 0.0], [4.0, 2.0, 3.0], [0.0, 2.0, 1.0]])
    assert S.match(reference, student, (1, 2)) == {1: 0, 2: 3}
    (row,) = S.survival(reference, student)
    assert row["size"] == row["matched"] == 2
    assert row["share"] == pytest.approx(7 / 9) and row["random"] == pytest.approx((9 + 7 + 4 + 2) / 4 / 9)
    assert row["overlap"] == 0.5 and row["overlap_random"] == 0.5
    assert S.score([row]) == pytest.approx((7 - 5.5) / (9 - 5.5))
    # partners named by hand, and a carrier that was cut away
    (row,) = S.survival(reference, student, {1: 0, 2: 2})
    assert row["share"] == 1 and S.score([row]) == 1
    (row,) = S.survival(reference, student, {1: 1})
    assert (row["size"], row["matched"]) == (2, 1) and row["share"] == pytest.approx(1 / 6)
    (row,) = S.survival(reference, student, {})
    assert row["matched"] == 0 and S.score([row]) == 0


def test_score_is_a_ratio_of_sums():
    rows = [dict(share=1.0, random=0.2), dict(share=0.9, random=0.95)]
    assert S.score(rows) == pytest.approx((0.8 - 0.05) / (0.8 + 0.05))
    assert np.isnan(S.score([dict(share=1.0, random=1.0)]))


def test_bands_of_depth():
    """Four layers of one head against two: of the reference only layers 0 and 1 can meet layer 0 of the student."""
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    reference, student = fake(rows, layers=4), fake([rows[2], rows[1]], layers=2)
    assert S.match(reference, student, (1, 2)) == {1: 0, 2: 1}
    assert S.match(reference, student, (0, 1)) in ({0: 0}, {1: 0})  # two heads, one partner
    assert S.match(student, reference, (0, 1))[1] in (2, 3)


def test_like_sets_keep_the_number_of_heads_in_each_layer():
    layers = [0, 0, 0, 1, 1]
    assert sorted(map(sorted, S.like(layers, (1, 3)))) == [[i, j] for i in range(3) for j in (3, 4)]
    assert sorted(map(sorted, S.like(layers, (0, 2)))) == [list(s) for s in combinations(range(3), 2)]


def test_correlations_are_those_of_numpy_and_0_for_a_constant():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(3, 9)), rng.normal(size=(2, 9))
    one[2] = 4.0
    found = S.correlations(one, other)
    assert found[:2] == pytest.approx(np.corrcoef(one[:2], other)[:2, 2:])
    assert (found[2] == 0).all()


def permuted(model, orders):
    """The same function with the heads of each layer in another order: new head i is old head order[i]."""
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    size = model.config.n_embd // model.config.n_head
    for block, order in zip(other.transformer.h, orders):
        index = torch.cat([torch.arange(i * size, (i + 1) * size) for i in order])
        three = torch.cat([index + part * model.config.n_embd for part in range(3)])
        with torch.no_grad():
            block.attn.c_attn.weight.copy_(block.attn.c_attn.weight[:, three].clone())
            block.attn.c_attn.bias.copy_(block.attn.c_attn.bias[three].clone())
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight[index].clone())
    return other.eval()


def test_heads_in_another_order_are_found_again_and_all_survives(student):
    lm = next(iter(student.traces.values())).model
    orders = ((2, 0, 3, 1), (1, 3, 0, 2))
    other = S.Traced.of(load_model(permuted(lm.model, orders), tokenizer=lm.tokenizer), n=12)
    heads = range(len(student.layers))
    assert S.match(student, other, heads) == {4 * layer + old: 4 * layer + order.index(old) for layer, order in enumerate(orders) for old in range(4)}
    rows = S.survival(student, other)
    assert [row["behaviour"] for row in rows] == list(BEHAVIOURS)
    assert all(row["share"] == pytest.approx(1, abs=1e-4) and row["overlap"] == 1 and row["agreement"] > 0.999 for row in rows)
    assert S.score(rows) == pytest.approx(1, abs=1e-3)


def test_other_prompts_cannot_be_matched(student):
    with pytest.raises(InputError, match="traced on"):
        S.match(student, fake([[1.0], [2.0]]), (0,))
    with pytest.raises(InputError, match="not positive"):
        fake([[1.0], [2.0]], total=-1.0).carriers


def test_a_cut_student_is_a_copy_of_the_layers_that_it_keeps():
    teacher, tokenizer = experiment.load_teacher()
    ids = tokenizer("on mon from 3 to 11 by 2 5 7 :", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(models.cut(teacher, (0, 1, 2, 3)).eval()(ids).logits, teacher(ids).logits)
        cut, skipping = models.cut(teacher).eval(), experiment.load_teacher()[0]
        skipping.transformer.h = torch.nn.ModuleList([skipping.transformer.h[i] for i in models.KEPT])
        skipping.config.n_layer = len(models.KEPT)
        assert torch.equal(cut(ids, use_cache=False).logits, skipping(ids, use_cache=False).logits)
        cut.transformer.wte.weight += 1
    assert not torch.equal(cut.transformer.wte.weight, teacher.transformer.wte.weight)


def test_heads_by_number():
    reference, student = SimpleNamespace(layers=[0, 0, 1, 1, 2, 2]), SimpleNamespace(layers=[0, 0, 1, 1])
    assert survey.by_number(reference, student, (0, 2)) == {0: 0, 1: 1, 4: 2, 5: 3}
    with pytest.raises(InputError, match="4 heads, layers \\(0,\\) of its teacher have 2"):
        survey.by_number(reference, student, (0,))


def test_summary_compares_a_student_with_itself_before():
    row = dict(reference="teacher", twin=np.nan, behaviour="sum", random=0.5)
    table = pd.DataFrame([dict(row, arm=arm, seed=seed, share=share)
                          for arm, shares in (("start", (0.5, 0.75)), ("opd", (0.75, 1.25)), ("opd_inherited", (1.0, 1.0)))
                          for seed, share in enumerate(shares)])
    found = survey.summary(table).query("behaviours == 'all'").set_index("arm")
    assert found.loc["start", "mean"] == pytest.approx(0.25) and np.isnan(found.loc["start", "less_start"])
    assert found.loc["opd", "less_start"] == pytest.approx((0.5 + 1.0) / 2)
    assert np.isnan(found.loc["opd_inherited", "less_start"])  # its start is not there


@pytest.mark.slow
def test_a_survey_of_an_experiment(tmp_path, capsys):
    """Two students that differ in nothing are each other's twins, and survive in each other whole."""
    teacher, tokenizer = experiment.load_teacher()
    for name, arm, seed in (("teacher", "teacher", None), ("start-0", "start", 0), ("start-1", "start", 1), ("inherited-0", "inherited", 0),
                            ("opd-0", "opd", 0)):
        experiment.write_whole(tmp_path / "runs" / f"{name}.json", dict(row=dict(name=name, arm=arm, seed=seed)))
        if arm != "teacher":
            model = models.cut(teacher) if arm == "inherited" else experiment.load_student()[0]
            models.write(tmp_path / "students" / name, model, tokenizer, {})
    assert main(["survival", "--out", str(tmp_path), "--prompts", "8"]) == 0
    assert "inherited" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "survival.csv")
    assert {key: len(of) for key, of in table.groupby(["arm", "seed", "reference"])} == dict.fromkeys(
        [*(("start", seed, reference) for seed in (0, 1) for reference in ("teacher", "twin")),
         *(("inherited", 0, reference) for reference in ("teacher", "number")), *(("opd", 0, reference) for reference in ("teacher", "before"))], 4)
    twins = survey.scores(table).query("arm == 'start' and reference == 'twin' and behaviours == 'all'")
    assert list(twins.survival) == pytest.approx([1, 1])
    same = survey.scores(table).query("arm == 'opd' and reference == 'before'")
    assert list(same.survival) == pytest.approx([1, 1, 1])  # this one was never distilled
    figure = picture(survey.summary(table), {"start": "before", "inherited": "cut"})
    assert "before, a twin's heads (another seed): 1.00" in figure.text
    with pytest.raises(InputError, match="no survival of jsd"):
        picture(survey.summary(table), {"jsd": "a mixture"})


def test_figure_of_what_carries_a_behaviour(student):
    figure = side_by_side({"one": student, "same": S.Traced(student.traces)}, "arrive")
    labels = student.traces["arrive"].components.labels
    best = ", ".join(labels[i] for i in student.carriers["arrive"])
    assert f"one: {best}; same: {best}, partners of the teacher's {best}" in figure.text


def test_a_survey_needs_students(tmp_path, capsys):
    experiment.write_whole(tmp_path / "runs" / "teacher.json", dict(row=dict(name="teacher", arm="teacher", seed=None)))
    assert main(["survival", "--out", str(tmp_path)]) == 2
    assert "no finished student" in capsys.readouterr().err


def test_the_shipped_survey_is_whole_and_says_what_lesson_10_says():
    table, results = (pd.read_csv(SHIPPED / f"{name}.csv") for name in ("survival", "results"))
    assert {*zip(table.arm, table.seed)} == {(arm, seed) for arm, seed in zip(results.arm, results.seed) if arm != "teacher"}
    assert json.loads((SHIPPED / "student" / "training.json").read_text())["recipe"]["layers"] == models.STUDENT.layers
    found = survey.summary(table).set_index(["arm", "reference", "behaviours"])
    for arm in ("opd", "eopd"):
        assert found.loc[(arm, "before", "all"), "mean"] == pytest.approx(1, abs=0.005), "its own heads stay the best"
        assert found.loc[(arm, "teacher", "all"), "less_start_low"] < 0 < found.loc[(arm, "teacher", "all"), "less_start_high"]
        low, high = found.loc[(arm, "teacher", "all"), ["low", "high"]]
        assert low < found.loc[(arm, "twin", "all"), "mean"] < high, "a twin's heads do as well"
        assert found.loc[(f"{arm}_inherited", "number", "all"), "mean"] == pytest.approx(1, abs=0.01)
        assert found.loc[(f"{arm}_inherited", "teacher", "unsure"), "mean"] < 0.8 < found.loc[(f"{arm}_inherited", "teacher", "sure"), "mean"]
    scores = survey.scores(table).query("behaviours == 'all' and reference == 'teacher'").set_index("arm").survival
    change = paired(list(scores["eopd"]), list(scores["opd"]))
    assert change.low < 0 < change.high


def test_students_of_one_seed_keep_their_carriers():
    """The figure of lesson 10: what carries `arrive` before carries it after."""
    names = {title: behaviours_of(folder).carriers["arrive"] for title, folder in (("before", "student"), ("OPD", "opd"), ("EOPD", "eopd"))}
    assert len(names["before"]) == 3 and len(set(names.values())) == 1


def behaviours_of(folder):
    return S.Traced.of(load_model(SHIPPED / folder), n=32)
