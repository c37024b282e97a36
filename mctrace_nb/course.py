"""The course in other forms: copies for students, a source for nbgrader, lectures, and pages that open without Jupyter.

All of them are made from the notebooks as they are committed; nothing is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import nbformat
from nbformat import NotebookNode

from mctrace_nb import check
from mctrace_nb.errors import InputError

# The lessons; other notebooks are for analysts.
LESSON = re.compile(r"(0\d|1[0-2])_\w+")
_CHECK = re.compile(r"print\(mct\.check\.(nb\d\d)\.exercise_(\d)\((\w+)\)\)")
_LINK = re.compile(r"\[([^\]]+)\]\((?!http|#)([\w./]*?)(\.\w+)(?:#[\w-]*)?\)")  # to other pages; what lies elsewhere is not among them
_GRADER = dict(schema_version=3, task=False)


def lessons(folder: str | Path, every: bool = False) -> list[Path]:
    """The lessons of a folder, in order, or every notebook in it. Raises InputError if there are none."""
    found = sorted(p for p in Path(folder).glob("*.ipynb") if every or LESSON.fullmatch(p.stem))
    if not found:
        raise InputError(f"no {'notebook' if every else 'numbered notebook such as 00_start_here.ipynb'} in {folder}; give the folder of the course")
    return found


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _without(notebook: NotebookNode, *unwanted: str) -> NotebookNode:
    """A copy without the cells of these tags."""
    copy = nbformat.from_dict(notebook)
    copy.cells = [nbformat.from_dict(c) for c in notebook.cells if not set(unwanted) & set(tags(c))]
    return copy


def student(notebook: NotebookNode) -> NotebookNode:
    """What a student gets: exercises to fill in, no solutions, no teacher's block, and no results before they are predicted."""
    copy = _without(notebook, "solution", "instructor")
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copy


def graded_source(notebook: NotebookNode) -> NotebookNode:
    """What `nbgrader generate_assignment` starts from: exercises hold their solutions between nbgrader's markers, checks give a point."""
    copy = student(notebook)
    for before, cell in zip(copy.cells, copy.cells[1:]):
        asked = _CHECK.fullmatch(cell.source) if cell.cell_type == "code" else None
        if asked and "exercise" in tags(before):
            name, number, function = asked[1], int(asked[2]), asked[3]
            before.source = check.source(name, number).rstrip()
            before.metadata["nbgrader"] = dict(_GRADER, grade_id=f"{name}-{number}", solution=True, grade=False, locked=False)
            cell.source = f"said = mct.check.{name}.exercise_{number}({function})\nassert said.startswith(\"right\"), said\nprint(said)"
            cell.metadata["nbgrader"] = dict(_GRADER, grade_id=f"{name}-{number}-check", solution=False, grade=True, locked=True, points=1)
    return copy


def page(notebook: NotebookNode, title: str, lecture: bool = False) -> str:
    """One HTML file that opens offline, with every figure and its description. lecture: without exercises, step by step."""
    from nbconvert import HTMLExporter

    copy = _without(notebook, *(("solution", "exercise", "instructor") if lecture else ()))
    copy.metadata.pop("widgets", None)  # saved widget states show nothing without a server
    copy.metadata["title"] = title
    if lecture:
        copy.cells = [c for c in copy.cells if not _CHECK.fullmatch(c.source) and not c.source.startswith("### Exercise")]
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(lambda m: f"[{m[1]}]({m[2]}.html)" if m[3] == ".ipynb" and (LESSON.fullmatch(m[2]) or not lecture) else m[1],
                                    cell.source)
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(Path(__file__).parent / "templates")])
    return exporter.from_notebook_node(copy, resources={"lecture": lecture})[0]


def _heading(notebook: NotebookNode) -> str:
    found = re.search(r"^# (.+)", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    return found[1] if found else "Notebook"


def read(path: Path) -> NotebookNode:
    """A notebook. Raises InputError for a file that is none."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has errors of several kinds, of many lines
        raise InputError(f"{path} is not a notebook that can be read: {str(error).splitlines()[0][:120]}") from None


def _write(folder: str | Path, out: str | Path, suffix: str, make: Callable[[NotebookNode], NotebookNode | str], every: bool = False) -> list[Path]:
    results = {path: make(read(path)) for path in lessons(folder, every)}  # all of them before the first is written
    Path(out).mkdir(parents=True, exist_ok=True)
    made = []
    for path, result in results.items():
        made.append(Path(out) / (path.stem + suffix))
        made[-1].write_text(result if isinstance(result, str) else nbformat.writes(result) + "\n", encoding="utf-8")
    return made


def students(folder: str | Path, out: str | Path) -> list[Path]:
    """Writes `out/student`, copies to hand out, and `out/nbgrader/source/mctrace_nb`, a source for `nbgrader generate_assignment`."""
    return [*_write(folder, Path(out) / "student", ".ipynb", student),
            *_write(folder, Path(out) / "nbgrader" / "source" / "mctrace_nb", ".ipynb", graded_source)]


def lectures(folder: str | Path, out: str | Path) -> list[Path]:
    """Writes `out/slides`: each lesson as a lecture, step by step, without exercises, in one file that needs no network."""
    return _write(folder, Path(out) / "slides", ".html", lambda n: page(n, _heading(n), lecture=True))


def pages(folder: str | Path, out: str | Path) -> list[Path]:
    """Writes `out/pages`: every notebook as one HTML file that needs no network."""
    return _write(folder, Path(out) / "pages", ".html", lambda n: page(n, _heading(n)), every=True)


FORMS = {"student": students, "slides": lectures, "pages": pages}
