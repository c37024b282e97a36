"""The tutorial model against its grammar, and the facts the lessons rest on."""

import hashlib
import re
import subprocess
import sys
from itertools import combinations
from random import Random

import pytest
import torch
from conftest import ROOT

from mctrace_nb import grammar
from mctrace_nb.models import load_model
from mctrace_nb.search import search
from mctrace_nb.shipped import BUILT_IN
from mctrace_nb.tasks import Task, load_task
from mctrace_nb.tracing import Trace
from mctrace_nb.tutorial import against_ceiling

FOLDER = ROOT / "data" / "tutorial"


# --- the grammar ---

@pytest.mark.parametrize("task", grammar.TASKS)
def test_pairs_are_what_they_say(task, tutorial):
    for held_out in (False, True):
        found = grammar.pairs(task, 40, seed=1, held_out=held_out)
        assert len({(p.base, p.counterfactual) for p in found}) == 40
        for p in found:
            words, other = p.base.split(), p.counterfactual.split()
            differ = [i for i, (a, b) in enumerate(zip(words, other)) if a != b]
            assert len(words) == len(other) and differ == list(range(*p.subject)) and p.target != p.foil
    assert grammar.pairs(task, 10, 0, True) == grammar.pairs(task, 10, 0, True) != grammar.pairs(task, 10, 1, True)


def test_binding_by_hand():
    told = dict(values={"a": "3", "b": "9", "c": "7"}, queries=[("now", "b"), ("next", "a")])
    said = grammar._say_binding(told)
    assert said.prompt == "a 3 b 9 c 7 ; now b" and said.answers == {"9": 1.0} and said.rest == "next a 4 ."
    assert grammar._binding_answer("9", "next") == "0"


def test_coreference_is_bayes():
    said = grammar._say_coreference(dict(occupations=("nurse", "doctor"), verb="met", pronoun="she", reason="was late"))
    assert said.answers["nurse"] == pytest.approx(0.95 / (0.95 + 0.10))


@pytest.mark.parametrize("behaviour", grammar.BEHAVIOURS)
def test_answers_come_as_often_as_the_grammar_says(behaviour):
    """The training text and the stated distribution are the same thing, measured on 4,000 sentences."""
    rng, share, expected = Random(5), 0.0, 0.0
    for _ in range(4000):
        state = rng.getstate()
        said = grammar.draw(behaviour, rng)
        rng.setstate(state)
        words = grammar.sentence(behaviour, rng).split()
        best = max(said.answers, key=said.answers.get)
        share += words[len(said.prompt.split())] == best
        expected += said.answers[best]
    assert share / 4000 == pytest.approx(expected / 4000, abs=0.02)


def test_held_out_combinations_are_never_trained_on():
    rng = Random(0)
    for behaviour in grammar.BEHAVIOURS:
        trained = {grammar.draw(behaviour, rng).key for _ in range(3000)}
        held = {grammar.draw(behaviour, rng, held_out=True).key for _ in range(300)}
        assert held and not trained & held


# --- the model ---

@pytest.mark.parametrize("name", BUILT_IN)
def test_model_is_small_and_its_card_is_true(name):
    weights = (ROOT / "data" / name / "model.safetensors").read_bytes()
    assert len(weights) < 2_000_000
    card = (ROOT / "data" / "README.md").read_text()
    assert hashlib.sha256(weights).hexdigest() in card


@pytest.mark.parametrize("method", ["exact", "greedy", "top-k"])
@pytest.mark.parametrize("task, kind", [("binding_operation", "head_output"), ("professions", "head_output"), ("names", "head_pattern")])
def test_the_card_tells_what_the_searches_find(tutorial, task, kind, method):
    card = (ROOT / "data" / "README.md").read_text().replace("**", "")
    told, = re.findall(rf"^\| `{task}` \| `{kind}` \| {method} \|(.*)\|$", card, re.M)
    trace = Trace(tutorial, load_task(task, tutorial, 64, seed=7), kind)
    found = search(trace, method.replace("exact", "exhaustive"), budgets=range(1, 5), heldout=False)
    assert [float(x) for x in told.split("|")[:4]] == pytest.approx([s.effect for s in found.selections], abs=0.006)


@pytest.mark.parametrize("name", BUILT_IN)
def test_model_meets_its_ceiling(name):
    """On held-out prompts: at least 95 % of the grammar's best answers, KL at most 0.05 nats."""
    lm = load_model(name, device="cpu")
    for row in against_ceiling(lm.model, lm.tokenizer, n=200, seed=11):
        assert row["agreement"] >= 0.95 and row["kl"] <= 0.05, row


@pytest.mark.parametrize("task", grammar.TASKS)
def test_total_effects_are_positive(tutorial, task):
    """Target is what the counterfactual favours, so replacing everything must move towards it."""
    assert Trace(tutorial, load_task(task, tutorial, 32), "attn_block").total_effect().low > 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_greedy_and_top_k_miss_the_optimum_somewhere(name):
    """Honest nonlinearity, on prompts of a seed that played no part in choosing the model."""
    lm = load_model(name, device="cpu")
    trace = Trace(lm, load_task(LESSON[0], lm, 64, seed=101), LESSON[1])
    fronts = {m: [s.effect for s in search(trace, m, budgets=range(1, 5), heldout=False).selections]
              for m in ("exhaustive", "greedy", "top-k")}
    share = {m: min(a / b for a, b in zip(fronts[m], fronts["exhaustive"])) for m in ("greedy", "top-k")}
    assert share["greedy"] < 0.8 and share["top-k"] < 0.8


LESSON = ("binding_operation", "head_output")


def test_published_transform_saturates(tutorial):
    """In a confident behaviour exp(-delta) is flat: PGB-CT as published stops far below what one head can do."""
    trace = Trace(tutorial, load_task("binding", tutorial, 64, seed=101), "head_output")
    exact = search(trace, "exhaustive", budgets=[2], heldout=False)[2].effect
    published = [s.effect for s in search(trace, "pgb-published", budgets=[2], heldout=False).selections]
    in_log_space = [s.effect for s in search(trace, "pgb-published", budgets=[2], heldout=False, transform="log").selections]
    assert max(published, default=0) < 0.6 * exact and max(in_log_space) > 0.9 * exact


def test_task_halves_share_no_combination(tutorial):
    task = load_task("names", tutorial, 64)
    assert len(task.search) == len(task.heldout) == 32
    assert not {e.base for e in task.search} & {e.base for e in task.heldout}
    assert list(task.to_frame().columns) == ["half", "base", "counterfactual", "target", "foil", "group", "cohort"]


def test_occupations_have_the_cohort_of_their_stereotype(tutorial):
    """The one that the base prompt is about, whose answer the grammar favours; other behaviours are about no one."""
    rows = load_task("professions", tutorial, 32).to_frame()
    assert (rows["cohort"] == rows["foil"].str.strip().map({"she": "female", "he": "male"})).all()
    rows = load_task("coreference", tutorial, 32).to_frame()
    assert ((rows["foil"].str.strip().map(grammar.OCCUPATIONS) > 0.5) == (rows["cohort"] == "female")).all()
    assert (rows["base"].str.contains(" she ") == (rows["cohort"] == "female")).all()
    assert set(load_task("facts", tutorial, 8).to_frame()["cohort"]) == {""}


def test_from_pairs_splits_by_group(tutorial):
    pairs = [{key: value for key, value in vars(p).items() if key != "subject"}  # there it is a span, here a text
             for p in grammar.pairs("professions", 40, 0, False)]
    task = Task.from_pairs(pairs, tutorial, heldout=0.5, seed=3)
    assert task.search and task.heldout
    assert not {e.group for e in task.search} & {e.group for e in task.heldout}
    assert task == Task.from_pairs(pairs, tutorial, heldout=0.5, seed=3)


def test_training_refuses_to_overwrite(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mctrace_nb.tutorial", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "--force" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_repeats_itself(tmp_path):
    """Same recipe, same weights, whatever the number of threads."""
    for name, threads in (("one", "1"), ("two", "2")):
        subprocess.run([sys.executable, "-m", "mctrace_nb.tutorial", "--out", tmp_path / name, "--steps", "30"], check=True,
                       capture_output=True, env={**__import__("os").environ, "OMP_NUM_THREADS": threads})
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
