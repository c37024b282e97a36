"""The shipped teacher and student, and an experiment that can be stopped."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import ROOT

from mctrace_nb.distill import experiment as E
from mctrace_nb.distill import losses as L
from mctrace_nb.distill import models, problems
from mctrace_nb.distill.__main__ import main
from mctrace_nb.distill.loop import Training
from mctrace_nb.distill.pairs import pair
from mctrace_nb.errors import InputError
from mctrace_nb.models import load_model

SHIPPED = ROOT / "data" / "distill"
SMALL = E.Plan(arms=("opd", "eopd"), inherited=("eopd",), seeds=(0, 1), problems=8, answers=8,
               start=replace(models.STUDENT, width=16, steps=12, poor_steps=4), cut=replace(models.INHERITED, steps=4, poor_steps=4),
               training=Training(steps=3, batch=16, updates=2, every=1))


@pytest.fixture(scope="module")
def shipped_pair():
    teacher, tokenizer = E.load_teacher()
    return pair(E.load_student()[0], teacher, tokenizer), tokenizer


def test_shipped_models_are_small_and_load_like_any_other():
    for name, layers in (("teacher", models.TEACHER.layers), ("student", models.STUDENT.layers)):
        assert (SHIPPED / name / "model.safetensors").stat().st_size < 3e6
        assert len(load_model(SHIPPED / name).tokenizer) == len(models.make_tokenizer())
        card = json.loads((SHIPPED / name / "training.json").read_text())
        assert card["recipe"]["layers"] == layers and card["training_seconds"] < 900


def test_the_teacher_knows_the_grammar(shipped_pair):
    """Its distribution of every next word, on derivations of the grammar for held-out problems."""
    both, tokenizer = shipped_pair
    ids, kls = tokenizer.get_vocab(), []
    asked = problems.distinct_problems(24, seed=9)
    for problem in asked:
        text = problems.derivation(problem, problems.solutions(problem)[0])
        row = torch.tensor([[*tokenizer(f"{problem.prompt} {text}")["input_ids"]]])
        with torch.no_grad():
            logp = both.teacher(row).logits[0, -problems.ANSWER_TOKENS:].double().log_softmax(-1)
        for i in range(problems.ANSWER_TOKENS):
            p = problems.next_words(problem, " ".join(text.split()[:i]))
            kls.append(sum(share * (math.log(share) - float(logp[i, ids[word]])) for word, share in p.items()))
    assert sum(kls) / len(kls) < 0.05


def test_the_gate_opens_where_the_grammar_forks(shipped_pair):
    both, tokenizer = shipped_pair
    found = E.evaluate(both, tokenizer, 0.8, n=32, answers=4)
    assert 0.05 < found["high_teacher"] < 0.4
    teacher = pair(E.load(SHIPPED / "teacher")[0], both.teacher, tokenizer)
    best = E.evaluate(teacher, tokenizer, 0.8, n=32, answers=4)
    assert best["avg"] > 1.5 * found["avg"] > 0 and best["reverse_kl_gated"] == 0
    tau = E.calibrated_tau(both, tokenizer, 80.0)
    written = E.write_rollouts(both.student, [next(E.prompts(tokenizer, 3)) for _ in range(64)], both.end, 8, 0, both.vocabulary)
    share = float((L.entropy(both.teacher_logp(written)) > tau)[written.valid].double().mean())
    assert 0.1 < share < 0.3


@pytest.mark.long
def test_a_stopped_experiment_goes_on(tmp_path, monkeypatch):
    real, ran = E.run, []

    def stopped(name, plan, out):
        if len(ran) == 6:
            raise KeyboardInterrupt
        ran.append(name)
        return real(name, plan, out)
    monkeypatch.setattr(E, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        E.experiment(SMALL, tmp_path)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert len(first) == 6 and not list((tmp_path / "runs").glob(".*"))
    assert not (tmp_path / "results.csv").exists() and len(E.missing(SMALL, tmp_path)) == 5
    monkeypatch.setattr(E, "run", real)
    table = E.experiment(SMALL, tmp_path)
    assert sorted(table.name) == sorted(SMALL.runs()) and all(path.stat().st_mtime_ns == at for path, at in first.items())
    whole = E.experiment(SMALL, tmp_path / "whole", workers=2)  # in one go, by two processes: the same numbers
    same = [c for c in table.columns if c != "seconds"]
    assert table.sort_values("name")[same].reset_index(drop=True).equals(whole.sort_values("name")[same].reset_index(drop=True))
    assert set(E.histories(tmp_path).arm) == {"opd", "eopd", "eopd_inherited"} and (tmp_path / "results.csv").exists()
    found = E.summary(table).set_index(["arm", "measure"])
    opd, eopd = (table[table.arm == arm].sort_values("seed").avg.to_numpy() for arm in ("opd", "eopd"))
    assert found.loc[("eopd", "avg"), "less_opd"] == pytest.approx((eopd - opd).mean()) and found.loc[("opd", "avg"), "mean"] == pytest.approx(opd.mean())
    assert math.isnan(found.loc[("eopd_inherited", "avg"), "less_opd"])  # plain distillation from the same start was not run
    with pytest.raises(InputError, match="holds runs with tau=0.8, not 0.5"):
        E.experiment(replace(SMALL, tau=0.5), tmp_path)
    E.experiment(replace(SMALL, seeds=(0, 1)), tmp_path)  # nothing to do


def test_bad_plans_are_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="opdd"):
        E.Plan(arms=("opdd",))
    with pytest.raises(InputError, match="answers=4"):
        E.Plan(answers=4)
    with pytest.raises(InputError, match="no finished run"):
        E.results(tmp_path)
    (tmp_path / "teacher").mkdir()
    assert main(["models", "--out", str(tmp_path)]) == 2 and "exists already" in capsys.readouterr().err
    assert main(["experiment", "--out", str(tmp_path), "--arms", "nothing"]) == 2 and "arms are" in capsys.readouterr().err


@pytest.mark.long
def test_commands_run(tmp_path, capsys):
    assert main(["models", "--out", str(tmp_path), "--steps", "5"]) == 0 and "teacher: " in capsys.readouterr().out
    assert json.loads((tmp_path / "student" / "training.json").read_text())["held_out"]["avg"] <= 0.2
    done = subprocess.run([sys.executable, "-m", "mctrace_nb.distill", "toy", "--entropies", "9"], capture_output=True, text=True, cwd=ROOT,
                          env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 2 and "between 0 and 4.61" in done.stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_folder_that_lacks_something_is_refused_in_words(name, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(SHIPPED / "student", folder)
    (folder / name).write_text("{")
    if name != "tokenizer_config.json":  # which transformers can do without, and would then guess
        with pytest.raises(InputError, match="m cannot be read .*; write it anew"):
            E.load(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"m holds no {name}; give a folder"):
        E.load(folder)
    with pytest.raises(InputError, match="nowhere holds no config.json, model.safetensors"):
        E.load(tmp_path / "nowhere")


def test_the_data_card_says_what_the_files_say():
    """Every number of its tables: of the recipes, of the models on held-out problems, and of the experiment."""
    card = (ROOT / "data" / "README.md").read_text().split("# Data card: teacher and student for distillation")[1]
    assert f"({len(models.make_tokenizer())} words)" in card
    cells = {row[0]: row[1:] for line in card.splitlines() if line.startswith("|") for row in [[c.strip() for c in line.strip("| ").split("|")]]}
    for i, name in enumerate(("teacher", "student")):
        read = json.loads((SHIPPED / name / "training.json").read_text())
        r, held = read["recipe"], read["held_out"]
        assert cells["architecture"][i] == f"{r['layers']} layer{'s' * (r['layers'] > 1)} x {r['heads']} heads, width {r['width']}"
        poor = f", the last {r['poor_steps']:,} on careless text ({100 * r['careless']:.0f} % of numbers and last moves wrong)"
        assert cells["training"][i] == f"{r['steps']:,} steps of {r['batch']}" + (poor if r["poor_steps"] else "")
        assert cells["on 256 held-out problems, 16 answers each: Avg, Pass@8"][i] == f"{held['avg']:.3f}, {held['pass@8']:.3f}"
        share = float(cells["tokens at which the teacher's entropy is above 0.8 nats"][i].removesuffix(" %"))
        assert share == pytest.approx(100 * held["high_teacher"], abs=0.0501)  # the file has it to four digits
    table, found = (pd.read_csv(SHIPPED / f"{name}.csv") for name in ("results", "summary"))
    own = [arm for arm in set(table.arm) - {"teacher", *E.STARTS} if not arm.endswith(E.INHERITED)]
    assert f"{len(own)} objectives on {table.seed.nunique()} seeds" in card
    share = found.set_index(["arm", "measure"])["mean"]
    for arm, called in (("opd", "students with a start of their own"), ("opd_inherited", "students cut out of it")):
        assert f"{100 * share[arm, 'avg'] / share['teacher', 'avg']:.1f} % of the teacher's Avg for {called}" in card
    fresh = E.summary(table).set_index(["arm", "measure"])
    pd.testing.assert_frame_equal(fresh, found.set_index(["arm", "measure"]), rtol=0, atol=2e-6, check_dtype=False)
    named = [(key, key.strip("`").split("` `"), row) for key, row in cells.items() if "` `" in key]
    assert len(named) >= 3
    for key, (arm, measure), row in named:
        of, text = fresh.loc[(arm, measure)], [f"{x:z.3f}" for x in fresh.loc[(arm, measure)][["mean", "less_opd", "less_opd_low", "less_opd_high"]]]
        assert of.seeds == table.seed.nunique() and row == [text[0], f"{text[1]} [{text[2]}, {text[3]}]"], key
