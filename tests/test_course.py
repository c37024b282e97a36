"""The course in other forms: student copies, a source for nbgrader, lectures, pages that open offline."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT, apart
from test_browser import CHROMIUM, FLAGS, contrast

import mctrace_nb as mct
from mctrace_nb import check
from mctrace_nb.__main__ import main
from mctrace_nb.course import lectures, lessons, pages, students
from mctrace_nb.exam import exam, misconceptions, questions

NOTEBOOKS = ROOT / "notebooks"
NBGRADER = ("nbgrader", "notebook", "alembic", "mako", "rapidfuzz", "sqlalchemy")  # what it needs beyond the test packages


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    students(NOTEBOOKS, folder)
    return folder


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    lectures(NOTEBOOKS, folder)
    pages(NOTEBOOKS, folder)
    return folder


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def number_of_exercises(path):
    return sum("exercise" in c.metadata.get("tags", []) for c in read(path).cells)


@pytest.mark.parametrize("name", [p.name for p in lessons(NOTEBOOKS)])
def test_students_get_exercises_and_nothing_that_gives_them_away(made, name):
    copy, text = read(made / "student" / name), (made / "student" / name).read_text()
    assert number_of_exercises(made / "student" / name) == number_of_exercises(NOTEBOOKS / name) > 0
    assert "SOLUTION" not in text and "For teachers" not in text and "image/png" not in text
    assert not [c for c in copy.cells if c.cell_type == "code" and (c.outputs or c.execution_count)]
    whole = read(NOTEBOOKS / name)
    left_out = [c for c in whole.cells if set(c.metadata.get("tags", [])) & {"solution", "instructor"}]
    assert [c.source for c in copy.cells] == [c.source for c in whole.cells if c not in left_out]


@pytest.fixture(scope="module")
def nbgrader(tmp_path_factory):
    """nbgrader in a folder of its own, as it would add menus to everybody's JupyterLab; returns the environment to run it in."""
    folder = tmp_path_factory.mktemp("nbgrader")
    return {**os.environ, **apart(folder, *NBGRADER)}


@pytest.mark.slow
def test_nbgrader_makes_an_assignment_of_it(made, nbgrader, tmp_path):
    """nbgrader itself, as a teacher runs it: solutions are cleared, checks are locked and give points."""
    shutil.copytree(made / "nbgrader", tmp_path / "school")
    done = subprocess.run([sys.executable, "-m", "nbgrader", "generate_assignment", "mctrace_nb", "--create"], cwd=tmp_path / "school",
                          capture_output=True, text=True, env=nbgrader)
    assert done.returncode == 0, done.stderr[-3000:]
    for path in lessons(NOTEBOOKS):
        source = (tmp_path / "school" / "source" / "mctrace_nb" / path.name).read_text()
        given = tmp_path / "school" / "release" / "mctrace_nb" / path.name
        cells = [c for c in read(given).cells if "nbgrader" in c.metadata]
        exercises = number_of_exercises(path)
        assert source.count("### BEGIN SOLUTION") == exercises and "SOLUTION" not in given.read_text()
        assert [c.metadata.nbgrader.grade for c in cells] == [False, True] * exercises
        assert all("NotImplementedError" in c.source for c in cells[::2])
        assert all(c.metadata.nbgrader.points == 1 and c.metadata.nbgrader.locked for c in cells[1::2])


def test_a_graded_check_fails_on_the_empty_exercise_and_passes_the_solution(made):
    """The cells that nbgrader runs, run."""
    path = next((made / "nbgrader" / "source" / "mctrace_nb").glob("11_*.ipynb"))
    room = {"mct": mct}
    exec("import torch", room)
    checks = [c for c in read(path).cells if c.metadata.get("nbgrader", {}).get("grade")]
    for i, cell in enumerate(checks, 1):
        name, function = re.search(r"check\.(nb\d\d)\.exercise_\d\((\w+)\)", cell.source).groups()
        exec(check.stub(name, i), room)
        with pytest.raises(AssertionError, match="still empty"):
            exec(cell.source, room)
        exec(check.source(name, i), room)
        exec(cell.source, room)


def test_a_folder_without_lessons_is_refused(tmp_path):
    (tmp_path / "notes.ipynb").write_text("{}")
    with pytest.raises(mct.InputError, match="no numbered notebook"):
        students(tmp_path, tmp_path / "out")
    with pytest.raises(mct.InputError, match="no notebook in"):
        pages(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(mct.InputError, match="notes.ipynb is not a notebook that can be read"):
        (tmp_path / "notes.ipynb").write_text("no JSON")
        pages(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_exercise_and_recall_question_can_be_examined():
    for path in lessons(NOTEBOOKS):
        found = questions(path)
        recalls, exercises = ([q for q in found if q.title.startswith("recall") == recall] for recall in (True, False))
        assert len(exercises) == number_of_exercises(path) and len(recalls) == 5, path.name
        for number, q in enumerate(exercises, 1):
            assert "NotImplementedError" in q.asked and "### BEGIN" not in q.asked and "### BEGIN SOLUTION" in q.marked
            assert q.minutes >= 3 and len(misconceptions(f"nb{q.lesson}", number)) >= 2, q.title
        assert all("details" not in q.asked + q.marked and q.asked.endswith(("?", ".")) for q in recalls)
    said = misconceptions("nb03", 1)
    assert any("you gave the joint effect" in line for line in said) and not any("Tried on" in line or "have their interactions" in line for line in said)


def test_an_exam_is_drawn_within_its_time_and_its_marks_add_up(tmp_path, capsys):
    """The same seed gives the same exam, another one another; students read no answer, markers all of them."""
    texts = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(["course", "exam", str(NOTEBOOKS), "--out", str(tmp_path / name), "--lessons", "01,03,10", "--minutes", "60", "--seed", str(seed)]) == 0
        texts[name] = [(tmp_path / name / "exam" / f"{form}.md").read_text() for form in ("exam", "marking")]
    assert texts["a"] == texts["b"] and texts["a"][0].split("## 1.")[1] != texts["c"][0].split("## 1.")[1]
    whole = exam(NOTEBOOKS, tmp_path / "d")[0].read_text()  # spread over the course
    assert {path.stem[:2] for path in lessons(NOTEBOOKS)} == set(re.findall(r"^## \d+\. Lesson (\d\d)", whole, re.M))
    assert "2 files in" in capsys.readouterr().out
    given, marking = texts["a"]
    heads = re.findall(r"^## \d+\. Lesson (\d\d), (.+): (\d) points, (\d+) minutes$", given, re.M)
    count, points, minutes = map(int, re.search(r"(\d+) questions, (\d+) points, (\d+) minutes", given).groups())
    assert heads == re.findall(r"^## \d+\. Lesson (\d\d), (.+): (\d) points, (\d+) minutes$", marking, re.M) and len(heads) == count
    assert {h[0] for h in heads} == {"01", "03", "10"} and 50 <= minutes <= 60
    assert points == sum(int(h[2]) for h in heads) and minutes == sum(int(h[3]) for h in heads)
    assert "SOLUTION" not in given and marking.count("### BEGIN SOLUTION") == given.count("NotImplementedError") > 0
    for path in (p for p in lessons(NOTEBOOKS) if p.stem[:2] in ("01", "03", "10")):
        for q in questions(path):
            assert q.asked not in given or q.marked in marking
            assert q.marked not in given


def test_an_exam_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(mct.InputError, match="lesson '77'|'77'"):
        exam(NOTEBOOKS, tmp_path, chosen=["77"])
    with pytest.raises(mct.InputError, match="fits into 1 minutes; give at least 3"):
        exam(NOTEBOOKS, tmp_path, minutes=1)
    assert not (tmp_path / "exam").exists()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_show_every_figure_with_its_description_offline(html, scheme, tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 900, "height": 1200})
            requests, complaints = [], []
            page.on("request", lambda r: requests.append(r.url))
            page.on("console", lambda m: complaints.append(m.text))
            page.on("pageerror", lambda e: complaints.append(str(e)))
            page.goto((html / "pages" / f"{path.stem}.html").as_uri())
            figures = [o.data["text/plain"] for c in read(path).cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
            shown = page.eval_on_selector_all("img", "all => all.map(i => [i.alt, i.naturalWidth])")
            assert [alt for alt, _ in shown] == figures and min(width for _, width in shown) > 300, path.name
            levels = page.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(h => +h.tagName[1])")
            assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:])), path.name
            ink, paper = page.evaluate("(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()")
            assert contrast(ink, paper) >= 7 and page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path.name
            for link in page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)"):
                assert link.startswith("http") or (html / "pages" / link.split("#")[0].split("/")[-1]).is_file(), f"{path.name}: {link}"
            assert [r for r in requests if not r.startswith(("file:", "data:"))] == [] and complaints == []
            page.close()
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_lecture_goes_step_by_step(html):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(next((html / "slides").glob("07_*.html")).as_uri())
        visible = "document.querySelectorAll('main > .jp-Cell:not(.later)').length"
        assert page.evaluate(visible) == 1
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(visible) == 5
        page.reload()  # the place is kept
        assert page.evaluate(visible) == 5
        text = page.evaluate("document.body.textContent")
        assert "NotImplementedError" not in text and "For teachers" not in text and "### BEGIN" not in text
        browser.close()


def test_the_teaching_page_has_the_times_of_the_lessons():
    rows = re.findall(r"^\| \[(\d\d) [^\]]+\]\((\S+)\) \| (\d+) \| (\d+) \| \d+ \|$", (NOTEBOOKS / "teaching.md").read_text(), re.M)
    assert [name for _, name, *_ in rows] == [path.name for path in lessons(NOTEBOOKS)]
    for path, (_, _, reading, exercises) in zip(lessons(NOTEBOOKS), rows):
        said = re.search(r"\| Time \| (\d+) minutes", "\n".join(c.source for c in read(path).cells))
        assert (said[1], int(exercises)) == (reading, sum(q.minutes for q in questions(path) if not q.title.startswith("recall"))), path.name


def test_the_reading_path_names_each_work_once_and_our_numbers_are_the_readme_s():
    text = (NOTEBOOKS / "reading.md").read_text()
    works, ours = text.split("## The three papers of the kit")
    links = re.findall(r"\((https://(?:arxiv\.org/abs|doi\.org)/\S+?)\)", works)
    assert len(links) == len(set(links)) == works.count("Take:") == works.count("Open:") == 35
    assert re.findall(r"^## (\d\d) ", works, re.M) == ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13"]
    measured = re.findall(r"(?<![\d.])[+-]?\d+\.\d+(?![\d.])", re.sub(r"\d{4}\.\d{5}", "", ours))
    readme = (ROOT / "README.md").read_text()
    assert len(measured) > 20 and not [number for number in measured if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", readme)]


@pytest.mark.parametrize("page", ["reading.md", "teaching.md", *(f"howto/{p.name}" for p in (NOTEBOOKS / "howto").glob("*.md"))])
def test_links_of_the_pages_lead_somewhere(page):
    path = NOTEBOOKS / page
    for target, anchor in re.findall(r"\]\((?!http)([^)#]+)(?:#([\w-]+))?\)", path.read_text()):
        there = path.parent / target
        assert there.is_file(), f"{page}: {target}"
        heads = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", there.read_text(), re.M)] if anchor else [None]
        assert (anchor or None) in heads, f"{page}: {target}#{anchor}"
