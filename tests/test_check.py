"""Exercises: every stub fails its check, every solution passes, and the notebooks hold what is generated from them."""

from importlib import import_module

import nbformat
import pytest
from conftest import ROOT
from right_answers import right_answers

import mctrace_nb as mct
from mctrace_nb import check

NOTEBOOKS = {p.stem: p for p in sorted((ROOT / "mctrace_nb" / "check").glob("nb*.py"))}
EXERCISES = [(name, i + 1) for name in NOTEBOOKS for i in range(len(import_module(f"mctrace_nb.check.{name}").SOLUTIONS))]


def checks(name, number):
    return getattr(getattr(check, name), f"exercise_{number}")


@pytest.mark.parametrize("name, number", EXERCISES)
def test_stub_fails_and_solution_passes(name, number):
    solution = getattr(check, name).SOLUTIONS[number - 1]
    room = {}
    exec(check.stub(name, number), room)
    said = checks(name, number)(room[solution.__name__])
    assert said.startswith("not yet: the function is still empty") and "\n" not in said
    assert checks(name, number)(solution).startswith("right: ")


@pytest.mark.parametrize("name, number", EXERCISES)
def test_notebook_holds_the_stub_and_the_solution(name, number):
    path, = (ROOT / "notebooks").glob(f"{name[2:]}_*.ipynb")
    sources = [c.source for c in nbformat.read(path, as_version=4).cells]
    stub, solution = check.stub(name, number), check.solution(name, number)
    assert stub in sources and solution in sources
    assert "SOLUTION" not in stub and "NotImplementedError" not in solution and solution.count("### ") == 2


WRONG = [(name, *case) for name in NOTEBOOKS for case in import_module(f"wrong_{name}").wrong_answers()]


@pytest.mark.parametrize("name, number, answer, said", WRONG)
def test_misconceptions_are_named(name, number, answer, said):
    line = checks(name, number)(answer)
    assert line.startswith("not yet: ") and said in line and "\n" not in line


@pytest.mark.parametrize("name, number, answer", list(right_answers()))
def test_right_answers_in_other_forms_are_right(name, number, answer):
    assert checks(name, number)(answer).startswith("right: ")


def test_every_exercise_knows_two_misconceptions():
    for exercise in EXERCISES:
        assert sum(case[:2] == exercise for case in WRONG) >= 2, exercise


def test_what_does_not_exist_is_refused():
    with pytest.raises(mct.InputError, match="has no exercise 3"):
        check.stub("nb11", 3)
    with pytest.raises(AttributeError):
        check.nb1


@pytest.mark.parametrize("wrong, said", [(dict(family="gpt-2"), "did you mean 'gpt2'"), (dict(family="gptj"), "attention registry"),
                                         (dict(width=30), "multiple of twice the heads"), (dict(layers=0), "at least 1"),
                                         (dict(family="mamba"), "recurrent")])
def test_random_models_that_cannot_be(wrong, said):
    with pytest.raises(mct.InputError, match=said) as refusal:
        mct.random_model(**wrong)
    assert "\n" not in str(refusal.value)


def test_random_models_differ_by_seed_alone():
    import torch

    a, b, c = (mct.random_model("llama", layers=3, heads=2, width=16, seed=s).model.get_input_embeddings().weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_measured_memory_is_what_tensors_take():
    """By hand: the largest of what is alive, and nothing left when it is over."""
    import torch

    from mctrace_nb.sizing import Alive

    with Alive() as alive:
        kept = torch.ones(1000)
        torch.ones(3000).view(30, 100)
        kept += 1
    assert (alive.peak, alive.now) == (16_000, 4_000)
