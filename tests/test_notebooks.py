"""Every committed notebook: executed, without holes, described, short; and it runs by papermill."""

import ast
import re

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_every_cell_was_executed_in_order_without_error(notebook):
    """nbval compares nothing where execution_count is null."""
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [o for c in code_cells(notebook) for o in c.outputs if o.output_type == "error"]


def test_no_warnings_or_bars_are_stored(notebook):
    for cell in code_cells(notebook):
        assert not [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"], cell.outputs
        assert not re.search(r"\d+%\|", str([o.get("text", o.get("data", {}).get("text/plain")) for o in cell.outputs]))
        assert not [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


def test_parameters_are_tagged_typed_and_described(notebook):
    cell, = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert cell is code_cells(notebook)[1], "parameters come second, after the imports"
    lines = cell.source.splitlines()
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(cell.source).body)
    assert all(re.search(r"  # .{10,}", line) for line in lines), "each parameter is described"


def test_every_picture_is_described(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.data["text/plain"]) > 40 and not output.data["text/plain"].startswith("<")
                assert output.metadata["image/png"]["alt"] == output.data["text/plain"]


def test_cells_are_short_and_there_are_more_words_than_code(notebook):
    lengths = sorted(len(c.source.splitlines()) for c in code_cells(notebook) if "parameters" not in c.metadata.get("tags", []))
    assert lengths[len(lengths) // 2] <= 6 and lengths[int(0.9 * len(lengths))] <= 15 and lengths[-1] <= 30
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    assert words >= sum(len(c.source.split()) for c in code_cells(notebook) if "parameters" not in c.metadata.get("tags", []))


LESSONS = [p for p in NOTEBOOKS if re.match(r"(0\d|1[012])_", p.stem)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_has_all_its_parts(path):
    """Claim, prediction, explorer, exercises, limits, recall, references, what would settle it, and the teacher's block."""
    notebook = nbformat.read(path, as_version=4)
    prose = [c for c in notebook.cells if c.cell_type == "markdown"]
    text, code = "\n\n".join(c.source for c in prose), "\n".join(c.source for c in code_cells(notebook))
    first = prose[0].source
    assert all(f"**{word}.**" in first for word in ("Claim", "Evidence", "Control"))
    assert re.search(r"\| Time \| \d+ minutes .*\n\| Before \|.*\n\| Runs \|", first)
    assert "mct.preflight()" in code_cells(notebook)[0].source and re.search(r"^quick: bool = False  #", code_cells(notebook)[1].source, re.M)
    assert code.count("mct.widgets.Guess(") >= 1 and code.count(".beside(") == code.count("mct.widgets.Guess(")
    explorers = [c for c in code_cells(notebook) if re.search(r"mct\.widgets\.(?!Guess)[A-Z]\w+\(", c.source)]
    assert explorers and all("image/png" in c.outputs[-1].get("data", {}) for c in explorers), "an explorer with its saved picture"
    exercises = [c for c in code_cells(notebook) if "exercise" in c.metadata.get("tags", [])]
    assert (1 if path.stem.startswith("00") else 2) <= len(exercises) <= 3 and all("NotImplementedError" in c.source for c in exercises)
    assert [c.metadata["tags"] for c in prose if c.metadata.get("tags") == ["solution"]] == [["solution"]] * len(exercises)
    for heading in ("### Limits", "### Recall", "### Terms", "### References"):
        assert text.count(f"{heading}\n") == 1, heading
    recall = text.split("### Recall\n")[1].split("### Terms\n")[0]
    assert recall.count("<details><summary>Answer</summary>") == 5 and len(re.findall(r"^[1-5]\. .*\?", recall, re.M)) == 5
    last, teacher = prose[-2].source, prose[-1]
    lines = [line for line in last.strip().splitlines() if line][-4:]
    for line, word in zip(lines, ("Claim", "Premise that bears the load", "What would settle it", "Settled here by")):
        assert line.startswith(f"- **{word}.** "), line
    assert teacher.metadata["tags"] == ["instructor"] and teacher.source.startswith("**For teachers.**")


def test_nothing_remote_and_headings_in_order(notebook):
    text = "\n".join(c.source for c in notebook.cells)
    assert "%pip" not in text and not re.search(r"!\[[^\]]*\]\(http", text) and "<img" not in text
    assert "$" not in "".join(c.source for c in notebook.cells if c.cell_type == "markdown"), "formulas are plain text: pages open offline"
    levels = [len(m) for c in notebook.cells if c.cell_type == "markdown" for m in re.findall(r"^(#+) ", c.source, re.M)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:])) and levels.count(1) == 1


def by_papermill(path, tmp_path, **parameters):
    """Runs a notebook to its end in a folder of its own; no cell may write a warning."""
    import papermill

    made = papermill.execute_notebook(str(path), str(tmp_path / path.name), parameters=parameters, cwd=str(tmp_path), progress_bar=False,
                                      kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    assert not [o for c in code_cells(made) for o in c.outputs if o.output_type == "stream" and o.name == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_lessons_run_by_papermill_in_quick_mode(path, tmp_path):
    by_papermill(path, tmp_path, quick=True)


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run_by_papermill_on_other_prompts(path, tmp_path):
    """In full, as papermill runs them, with another draw of the prompts: nothing in a lesson depends on the seed that is shown."""
    by_papermill(path, tmp_path, seed=5)
