"""`grid.yaml`: what is understood, and that everything wrong in it is said at once, each with its line."""

import json
import shutil

import pytest
import torch
from conftest import ROOT
from jsonschema import Draft202012Validator
from toy_study import toy, toy_grid

from mctrace_nb.errors import InputError
from mctrace_nb.parameters import fine_grid, notebook_parameters
from mctrace_nb.study import identity
from mctrace_nb.study.costs import Forecast, forecast
from mctrace_nb.study.description import Mistakes, schema
from mctrace_nb.study.grid import read

GOOD = """
grid:
  model: [tutorial, tutorial-2]
  task: [names, professions]
  seed: [0, 1, 2]
fixed: {n: 16, budget: 2}
fine:
  lambda1: [0.01, 0.1]
  seed: [0, 1]
limits: {run_minutes: 5}
"""


def grid(folder, text):
    (folder / "grid.yaml").write_text(text)
    return read(folder / "grid.yaml")


def test_every_combination_is_a_run(tmp_path):
    found = grid(tmp_path, GOOD)
    assert found.axes == ("model", "task", "seed") and len(found.runs) == 12 == len({r.name for r in found.runs})
    first, last = found.runs[0], found.runs[-1]
    assert first.axes == dict(model="tutorial", task="names", seed=0) and first.name.startswith("tutorial-names-0-")
    assert last.parameters["seed"] == 2 and last.parameters["n"] == 16 and last.parameters["components"] == "head_output"
    assert fine_grid(first.parameters["fine"]) == dict(lambda1=[0.01, 0.1], seed=[0, 1])
    assert found.limits == dict(cell_minutes=120.0, run_minutes=5, memory_gib=None)


def test_several_grids_are_joined_and_what_they_share_is_run_once(tmp_path):
    found = grid(tmp_path, "grid:\n  - {task: [names, facts], seed: [0, 1]}\n  - {task: facts, corruption: [zero, counterfactual], seed: 0}\n")
    assert [tuple(r.axes.values()) for r in found.runs] == [
        ("names", 0, "counterfactual"), ("names", 1, "counterfactual"), ("facts", 0, "counterfactual"), ("facts", 1, "counterfactual"), ("facts", 0, "zero")]


WRONG = {
    "names and types": ("""
grid:
  task: [names, nams]
  components: [head_output, head_patern]
  seed: [0, 1, 1]
  buget: [3]
fixed:
  n: many
  seed: 3
  metric: odds
fine:
  lambda1: [0.1, -3]
  lr: fast
limits: {cell_minutes: 0}
grid2: 3
""", {3: "did you mean 'names'", 4: "did you mean 'head_pattern'", 5: "seed is fixed as well, in line 9", 6: "did you mean 'budget'", 8: "n: 'many' is not a whole number",
      10: "unknown metric 'odds'", 12: "lambda1=-3 is out of range", 13: "lr: 'fast' is not a number", 14: "cell_minutes: 0 is out of range",
      15: "did you mean 'grid'"}),
    "a value twice, a key twice": ("grid:\n  seed: [0, 1, 1]\n  task: names\n  task: facts\n", {2: "seed: 1 is given twice", 4: "'task' stands here a second time"}),
    "only together": ("grid:\n  task: [names]\n  columns:\n    - ''\n    - base=prompt\n", {5: "is for files"}),
    "in the second grid": ("grid:\n  - task: names\n  - task: facts\n    corruption:\n      - zero\n      - noize\n", {6: "did you mean 'noise'"}),
    "no grid": ("fixed: {n: 3}\n", {1: "there is no grid"}),
    "empty": ("", {1: "the file is empty"}),
    "no values": ("grid:\n  seed: []\n", {2: "nothing is given"}),
    "a word": ("grid: all\n", {1: "grid: 'all' is not a mapping"}),
    "text that YAML takes for something else": ("grid:\n  task: [names, no]\n", {2: "task: False is not text (put it in quotes if text is meant)"}),
    "no YAML": ("grid:\n  seed: [0, 1\n", {3: "not YAML of plain data"}),
    "not plain data": ("grid:\n  seed: !!python/object/apply:os.system ['true']\n", {2: "not YAML of plain data"}),
    "too many": ("grid:\n  seed: [%s]\n  n: [%s]\n" % (",".join(map(str, range(200))), ",".join(map(str, range(2, 203)))), {1: "40,200 runs are more than 20,000"}),
    "no such notebook": ("grid: {seed: 1}\nnotebook: mine.ipynb\n", {2: "cannot be read"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_everything_wrong_is_said_at_once_with_its_line(name, tmp_path):
    text, expected = WRONG[name]
    with pytest.raises(Mistakes) as caught:
        grid(tmp_path, text)
    said = {}
    for line, message in caught.value.found:
        said.setdefault(line, []).append(message)
    assert set(said) == set(expected), said
    for line, words in expected.items():
        assert any(words in message for message in said[line]), (line, said[line])


def test_what_only_the_models_sizes_tell_has_its_line_too(tmp_path):
    (tmp_path / "grid.yaml").write_text("grid:\n  model: [tutorial, ./nowhere]\n  budget: [2, 13]\n")
    with pytest.raises(Mistakes) as caught:
        forecast(read(tmp_path / "grid.yaml"), progress=False)
    assert "budget 13 is out of range" in str(caught.value) and "no config.json" in str(caught.value) and {line for line, _ in caught.value.found} == {2}


def test_schema_is_valid_and_agrees_with_the_parameters():
    form = schema()
    Draft202012Validator.check_schema(form)
    assert set(form["properties"]["fixed"]["properties"]) == {p["name"] for p in notebook_parameters()} - {"out"}
    check = Draft202012Validator(form)
    assert check.is_valid(dict(grid=dict(seed=[0, 1], model="gpt2"))) and not check.is_valid(dict(grid=dict(seed=["a"])))


def test_check_and_schema_by_the_command_line(tmp_path, capsys):
    from mctrace_nb.__main__ import main

    (tmp_path / "grid.yaml").write_text(GOOD)
    assert main(["sweep", "--check", str(tmp_path / "grid.yaml")]) == 0
    said = capsys.readouterr().out
    assert "grid.yaml: 12 runs, about" in said and "GiB a run" in said
    (tmp_path / "grid.yaml").write_text("grid:\n  tsak: names\nfixed:\n  n: x\n")
    assert main(["sweep", "--check", str(tmp_path / "grid.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("grid.yaml:2: unknown parameter 'tsak'; did you mean 'task'") and "\ngrid.yaml:4: n: 'x' is not a whole number" in said
    assert main(["sweep", "--schema"]) == 0 and json.loads(capsys.readouterr().out) == schema()
    assert [p.name for p in tmp_path.iterdir()] == ["grid.yaml"]


@pytest.mark.parametrize("options, message", [
    ([], "no grid is given"), (["grid.yaml"], "--out is missing"), (["grid.yaml", "--out", "x", "--wrokers", "2"], "did you mean '--workers'"),
    (["grid.yaml", "--out", "x", "--workers", "0"], "--workers 0 is out of range"), (["grid.yaml", "--out", "x", "--memory", "-1"], "--memory -1.0 is out of range"),
    (["nowhere.yaml", "--out", "x"], "cannot be read"), (["grid.yaml", "--out", "x", "--dask", "tcp://h:1", "--workers", "2"], "leave them out")])
def test_bad_options_exit_2_with_one_line(options, message, tmp_path, capsys, monkeypatch):
    from mctrace_nb.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


# --- by what a run is known again ---

def test_names_change_with_what_a_run_reads_and_with_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "mine.csv").write_text("base,counterfactual,target,foil\nthe nurse said that,the man said that,he,she\n")
    text = "grid:\n  task: [mine.csv]\n  seed: [0, 1]\n"

    def names():
        return [r.name for r in grid(tmp_path, text).runs]

    first = names()
    assert first[0].startswith("0-") and names() == first
    moved = shutil.copytree(tmp_path, tmp_path.parent / "moved")
    assert [r.name for r in read(moved / "grid.yaml").runs] == first, "a study may move with its files"
    with (tmp_path / "mine.csv").open("a") as file:
        file.write("the dancer said that,the man said that,he,she\n")
    changed = names()
    assert not set(changed) & set(first), "other prompts are another run"
    text = text + "fixed: {n: 8}\n"
    assert not set(names()) & set(changed), "other parameters are another run"
    monkeypatch.setattr("mctrace_nb.study.grid.code_version", lambda notebook=None: "0.1.0-other")
    assert not set(names()) & set(changed), "other code is another run"


def test_code_is_what_makes_the_numbers(tmp_path, monkeypatch):
    """A change in a search is another version; one in a widget, in a notebook's prose or its outputs is not."""
    package = shutil.copytree(ROOT / "mctrace_nb", tmp_path / "mctrace_nb", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = shutil.copy(ROOT / "notebooks" / "analysis.ipynb", tmp_path / "analysis.ipynb")
    monkeypatch.setattr(identity, "__file__", str(package / "study" / "identity.py"))

    def version():
        return identity.code_version(tmp_path / "analysis.ipynb")

    def changed(path, old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    first = version()
    changed(package / "widgets" / "base.py", "import", "import  ")
    changed(package / "study" / "driver.py", "import", "import  ")
    changed(tmp_path / "analysis.ipynb", "from parameters to a report", "from parameters to another report")
    assert version() == first and notebook
    changed(package / "guided.py", "import", "import  ")
    second = version()
    assert second != first
    changed(tmp_path / "analysis.ipynb", "mct.compare(trace", "mct.compare( trace")
    assert version() != second


def test_a_models_weights_are_part_of_a_run(tmp_path):
    shutil.copytree(ROOT / "data" / "tutorial", tmp_path / "model")
    text = "grid:\n  model: [model]\n  seed: [0]\n"
    first = grid(tmp_path, text).runs[0].name
    weights = bytearray((tmp_path / "model" / "model.safetensors").read_bytes())
    weights[-7] ^= 1
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    assert grid(tmp_path, text).runs[0].name != first


# --- other notebooks, and what fits ---

def test_another_notebook_has_its_own_parameters(tmp_path):
    found = read(toy_grid(tmp_path, how=["ok", "raise"], number=[1, 2]))
    assert found.notebook == tmp_path / "toy.ipynb" and found.axes == ("how", "number") and found.runs[0].parameters["seconds"] == 0.0
    with pytest.raises(Mistakes, match="did you mean 'number'"):
        read(toy_grid(tmp_path, numbr=[1]))
    toy(tmp_path)
    text = (tmp_path / "toy.ipynb").read_text()
    (tmp_path / "toy.ipynb").write_text(text.replace("number: int = 0", "number: list = [0]"))
    with pytest.raises(InputError, match="other types than int, float, str, bool: number"):
        read(toy_grid_again(tmp_path))
    (tmp_path / "toy.ipynb").write_text(text.replace("number: int = 0", "number: int = how"))
    with pytest.raises(InputError, match="no notebook with plain parameters"):
        read(toy_grid_again(tmp_path))


def toy_grid_again(folder):
    (folder / "grid.yaml").write_text("grid: {how: ok}\nnotebook: toy.ipynb\n")
    return folder / "grid.yaml"


def test_runs_fit_side_by_side_as_far_as_their_estimates_allow():
    class Cost:
        minutes = 1.0

        class memory:
            total, device = 2 << 30, torch.device("cpu")

    beside = Forecast({}, 0, 1)
    assert not beside.costs
    seen = Forecast(dict.fromkeys("abc", Cost), 5 << 30, 3)
    assert seen.fits("a", ["b"]) and not seen.fits("a", ["b", "c"])
    assert seen.limit("a") >= 1.5 * seen.bytes("a") and Forecast(dict.fromkeys("abc", Cost), 90 << 30, 3).limit("a") == 30 << 30
    Cost.memory.device = torch.device("cuda")
    assert seen.limit("a") is None, "what a GPU holds says nothing about the host"
    assert seen.total() == pytest.approx(3 * seen.minutes("a") / 2), "three workers, but memory for two runs"
