"""A notebook that does whatever a test asks of it, and grids of it: studies without models."""

import json

import nbformat
import yaml

CELLS = ['''how: str = "ok"  # what becomes of this run
number: int = 0  # which of several
seconds: float = 0.0  # that it takes
out: str = ""  # folder of the run''', '''import time

time.sleep(seconds)''', '''import ipywidgets


def fall(*_):
    raise ZeroDivisionError("the lever broke")


if how == "raise":
    fall()
elif how == "hang":
    time.sleep(600)
elif how == "leak":
    held = []
    while True:
        held.append(bytearray(b"x" * 20_000_000))
        time.sleep(0.01)
elif how == "callback":
    button = ipywidgets.Button()
    button.on_click(fall)
    button.click()
elif how == "captured":
    shown = ipywidgets.Output()
    with shown:
        fall()
elif how == "die":
    import os

    os.kill(os.getpid(), 9)''', '''import pathlib

pathlib.Path(out, "result.json").write_text(str(number))
print(number)''']


def toy(folder):
    """The notebook, written into a folder."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A toy"), *map(nbformat.v4.new_code_cell, CELLS)])
    book.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(book, folder / "toy.ipynb")
    return folder / "toy.ipynb"


def toy_grid(folder, limits=None, fixed=None, **axes):
    """A grid over the toy's parameters; returns its path."""
    toy(folder)
    data = dict(grid=axes, fixed=fixed or {}, notebook="toy.ipynb", limits=limits or {})
    (folder / "grid.yaml").write_text(yaml.safe_dump({k: v for k, v in data.items() if v}, sort_keys=False))
    return folder / "grid.yaml"


def records(out):
    """What each run's record says, by name."""
    return {p.parent.name: json.loads(p.read_text()) for p in sorted((out / "runs").glob("*/run.json"))}
