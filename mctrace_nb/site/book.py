"""The book's source: the project's own pages in the order in which they are read, and what a page needs that a notebook does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mctrace_nb.course import heading, lessons, read, tags
from mctrace_nb.site.api import reference

EXPLORER = re.compile(r"\b(?:mct\.widgets\.(?!Guess\b)[A-Z]\w+\()")
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)")
LIVE = "{.live}\nThis is the saved picture of an explorer. In JupyterLab (`make lab`) it has controls, and the picture follows them."
BOX = "{.live}\nIn JupyterLab (`make lab`) there is a box here to write the guess in, before the next cell tells."


def chapters(root: Path) -> dict[str, list[str]]:
    """The pages below the README, by the heading under which the contents list them: paths from `root`, in order."""
    notebooks = root / "notebooks"
    course = lessons(notebooks)
    others = [p for p in lessons(notebooks, every=True) if p not in course]
    others.sort(key=lambda p: (p.stem[0].isdigit(), p.stem))  # analysis and study before figures made with them
    parts = {"The course": course, "Analyses": others,
             "Guides": [*sorted(notebooks.glob("*.md")), *sorted(notebooks.glob("howto/*.md"))],
             "Data": sorted((root / "data").rglob("README.md"))}
    return {part: [p.relative_to(root).as_posix() for p in pages] for part, pages in parts.items() if pages}


def _entry(page: str, root: Path) -> str:
    """A page in the contents: a notebook by its number and the first half of its title, others by their title."""
    name = page.rsplit(".", 1)[0]
    if not page.endswith(".ipynb"):
        return name
    number = re.match(r"(\d\d)_|", Path(page).name)[1]
    return f"{number + ' ' if number else ''}{heading(read(root / page)).split(':')[0].split(',')[0]} <{name}>"


def _contents(parts: dict[str, list[str]], root: Path) -> str:
    lines = []
    for caption, pages in parts.items():
        lines += ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *(_entry(page, root) for page in pages), "```"]
    return "\n".join(lines) + "\n"


def _linked(text: str, page: Path, root: Path, source: Path) -> str:
    """The text with links to the README leading to the first page; files that are no pages go along with the page that links to them."""
    def one(found: re.Match) -> str:
        target = (page.parent / found[2]).resolve()
        if target == root / "README.md":
            return found[1] + found[2].removesuffix("README.md") + "index.md"
        if target.is_file() and target.suffix not in (".ipynb", ".md"):
            copy = source / target.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, copy)
        return found[0]

    return _LINK.sub(one, text)


def _notebook(path: Path, root: Path, source: Path) -> tuple[NotebookNode, list[str]]:
    """A notebook as a page, and the description of each of its pictures in order."""
    notebook, alts, cells = read(path), [], []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = _linked(cell.source, path, root, source)
            if "instructor" in tags(cell):
                cell.source = f"<details><summary>For teachers</summary>\n\n{cell.source.removeprefix('**For teachers.** ')}\n\n</details>"
        elif cell.cell_type == "code":
            pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
            alts += [o.metadata.get("image/png", {}).get("alt", "") for o in pictures]
            if pictures and EXPLORER.search(cell.source):
                cells.append(nbformat.v4.new_markdown_cell(LIVE))
            elif "mct.widgets.Guess(" in cell.source:
                cells.append(nbformat.v4.new_markdown_cell(BOX))
    notebook.cells = cells
    return notebook, alts


def write(root: Path, source: Path) -> dict[str, list[str]]:
    """Writes the source to the folder `source`; returns the descriptions of the pictures of each notebook, by page."""
    root, parts, alts = root.resolve(), chapters(root), {}
    for name in (page for pages in parts.values() for page in pages):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".ipynb"):
            notebook, alts[name.removesuffix(".ipynb")] = _notebook(root / name, root, source)
            nbformat.write(notebook, source / name)
        else:
            (source / name).write_text(_linked((root / name).read_text(encoding="utf-8"), root / name, root, source), encoding="utf-8")
    readme = _linked((root / "README.md").read_text(encoding="utf-8"), root / "README.md", root, source)
    (source / "index.md").write_text(readme + _contents({**parts, "Reference": ["api/index.md"]}, root), encoding="utf-8")
    for name, text in reference().items():
        (source / "api").mkdir(exist_ok=True)
        (source / "api" / f"{name}.md").write_text(text, encoding="utf-8")
    return alts


def descriptions(tree, alts: list[str]) -> None:
    """Gives each picture that a notebook made the description that is saved with it. Raises ValueError if their numbers differ."""
    from docutils import nodes

    outputs = [node for node in tree.findall(nodes.container) if "cell_output" in node["classes"]]
    for image, alt in zip([image for output in outputs for image in output.findall(nodes.image)], alts, strict=True):
        image["alt"] = alt
