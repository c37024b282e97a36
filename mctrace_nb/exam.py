"""An exam and its marking scheme, made of the exercises and recall questions of the lessons; nothing is run."""

from __future__ import annotations

import ast
import inspect
import random
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Iterable

from mctrace_nb import check
from mctrace_nb.course import lessons, read
from mctrace_nb.errors import InputError, one_of

POINTS = {"easy": 4, "medium": 6, "hard": 8}  # of an exercise, by what its heading says
SHARE = 2 / 3  # of the time, for exercises; recall questions fill the rest
_HEADING = re.compile(r"^### Exercise (\d): (.+?) \((?:(\w+), (\d+) minutes|(\d+) minutes, (\w+))\)\n(.*?)(?=\n<details>|\Z)", re.M | re.S)
_RECALL = re.compile(r"^\d+\. (.+)\n+<details><summary>Answer</summary>(.+)</details>", re.M)
_UNNAMED = re.compile(r"\b(you|yours)( is| are| say)?$")  # a difference of numbers, without a name for the error


@dataclass(frozen=True)
class Question:
    """One question. lesson: its two digits; title: where it is from; asked, marked: Markdown, for the student and for the marker."""

    lesson: str
    title: str
    asked: str
    marked: str
    minutes: int
    points: int


def misconceptions(notebook: str, number: int) -> list[str]:
    """What the check of an exercise says to wrong answers, in the order in which it looks; numbers that it fills in are dots."""
    tree = ast.parse(inspect.getsource(getattr(import_module(f"mctrace_nb.check.{notebook}"), f"exercise_{number}")))
    found, inside = [], {n for j in ast.walk(tree) if isinstance(j, ast.JoinedStr) for n in ast.walk(j) if n is not j}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Return, ast.Expr)) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):  # praise, or a docstring
            inside |= set(ast.walk(node.value))
    for node in sorted((n for n in ast.walk(tree) if n not in inside and isinstance(n, (ast.Constant, ast.JoinedStr))),
                       key=lambda n: (n.lineno, n.col_offset)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        said = "".join(p.value if isinstance(p, ast.Constant) and isinstance(p.value, str) else "..." for p in parts).strip(" :;,.")
        if len(set(said.split()) - {"..."}) > 4 and not _UNNAMED.search(said) and said not in found:
            found.append(said)
    return found


def questions(path: Path) -> list[Question]:
    """All exercises of one lesson, then its recall questions."""
    text, name = [c.source for c in read(path).cells if c.cell_type == "markdown"], f"nb{path.stem[:2]}"
    found = []
    for cell in text:
        if heading := _HEADING.search(cell):
            number, title, level, minutes = int(heading[1]), heading[2], heading[3] or heading[6], int(heading[4] or heading[5])
            points = POINTS[level]
            wrong = "\n".join(f"- {said}" for said in misconceptions(name, number))
            found.append(Question(
                path.stem[:2], f"{title} ({level})", f"{heading[7].strip()}\n\n```python\n{check.stub(name, number)}\n```",
                f"**{points} points**: `mct.check.{name}.exercise_{number}` says `right`. **{points // 2} points**: the function runs, and one of the errors below "
                f"is all that is wrong with it. **0 points**: anything else.\n\nErrors that the check tells apart:\n\n{wrong}\n\nA solution:\n\n"
                f"```python\n{check.source(name, number).rstrip()}\n```", minutes, points))
    for number, (asked, answer) in enumerate(_RECALL.findall("\n\n".join(text)), 1):
        found.append(Question(path.stem[:2], f"recall {number}", asked.strip(),
                              f"**2 points** for the thought, in whatever words; **1 point** for the answer without its reason.\n\n{answer.strip()}", points=2, minutes=3))
    return found


def draw(pool: list[Question], minutes: int, seed: int) -> list[Question]:
    """Questions for so many minutes: exercises for two thirds of them, recall questions for the rest, spread over the lessons.

    Raises InputError if no question is short enough.
    """
    rng, taken = random.Random(seed), []
    pool = rng.sample(pool, len(pool))
    for recall, limit in ((False, minutes * SHARE), (True, minutes)):
        rest = [q for q in pool if q.title.startswith("recall") == recall]
        while rest:
            rest.sort(key=lambda q: sum(q.lesson == t.lesson for t in taken))  # stable: equal ones stay as they were drawn
            question = rest.pop(0)
            if sum(t.minutes for t in taken) + question.minutes <= limit:
                taken.append(question)
    if not taken:
        raise InputError(f"no question of these lessons fits into {minutes} minutes; give at least {min(q.minutes for q in pool)}")
    return sorted(taken, key=lambda q: (q.lesson, pool.index(q)))


def exam(folder: str | Path, out: str | Path, seed: int = 0, chosen: Iterable[str] = (), minutes: int = 90) -> list[Path]:
    """Writes `out/exam/exam.md` and `out/exam/marking.md`.

    chosen: lessons by their two digits, all by default; minutes: for the whole exam; the same seed draws the same questions.
    Raises InputError for a lesson that there is not, or if nothing fits into the time.
    """
    paths = {path.stem[:2]: path for path in lessons(folder)}
    pool = [q for lesson in chosen or paths for q in questions(paths[one_of(lesson, tuple(paths), "lesson")])]
    taken = draw(pool, minutes, seed)
    total, spent = sum(q.points for q in taken), sum(q.minutes for q in taken)
    about = f"{len(taken)} questions, {total} points, {spent} minutes; lessons {', '.join(sorted({q.lesson for q in taken}))}; seed {seed}."
    aids = ("Aids: the notebooks of the course as handed out (`make student`), and a kernel. Functions are looked at by checks on prompts "
            "and models that no lesson shows, so a number copied from a lesson earns nothing.")
    written = {"exam.md": ["# Exam", about, aids], "marking.md": ["# Marking scheme", about]}
    for number, q in enumerate(taken, 1):
        head = f"## {number}. Lesson {q.lesson}, {q.title}: {q.points} points, {q.minutes} minutes"
        written["exam.md"] += [head, q.asked]
        written["marking.md"] += [head, q.asked.split("\n\n```")[0], q.marked]
    place = Path(out) / "exam"
    place.mkdir(parents=True, exist_ok=True)
    for name, parts in written.items():
        (place / name).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [place / name for name in written]
