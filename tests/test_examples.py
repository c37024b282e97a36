"""Every public name has an example in its docstring, and every example prints what it says."""

import doctest
import inspect
import re
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import matplotlib.pyplot as plt
import pytest

import mctrace_nb as mct

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SLOW = {"mctrace_nb.study.sweep", "mctrace_nb.report.write"}  # notebooks and all figures


def of_room(room: ModuleType, path: str):
    """The functions and classes that a room lists, and those of rooms within it."""
    for name in getattr(room, "__all__", ()):
        thing = getattr(room, name)
        if isinstance(thing, ModuleType):
            yield from of_room(thing, f"{path}.{name}")
        elif (inspect.isclass(thing) or inspect.isroutine(thing) or hasattr(thing, "__wrapped__")) and thing.__module__.startswith("mctrace_nb"):
            yield f"{path}.{name}", thing


@lru_cache
def public() -> dict:
    """Every public function and class once, by the shortest way to it."""
    found = {f"mct.{name}": getattr(mct, name) for name in mct._WHERE}
    for room in mct._ROOMS:
        found |= {path: thing for path, thing in of_room(import_module(f"mctrace_nb.{room}"), f"mctrace_nb.{room}") if thing not in found.values()}
    return found


def example(path: str) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.getdoc(public()[path]) or "", {}, path, None, 0)


@pytest.fixture(scope="module")
def given():
    """What the package's docstring says that examples begin with."""
    lines, names = re.findall(r"^    (\S.*)$", mct.__doc__, re.M), {}
    assert lines[0] == "import mctrace_nb as mct"
    exec("\n".join(lines), names)
    assert {"mct", "model", "task", "trace"} <= set(names)
    return {name: names[name] for name in ("mct", "model", "task", "trace")}


def test_every_room_says_what_is_public():
    for room in mct._ROOMS:
        module = import_module(f"mctrace_nb.{room}")
        assert "__all__" in vars(module), room
        assert all(hasattr(module, name) and not name.startswith("_") for name in module.__all__), room


@pytest.mark.parametrize("path", [pytest.param(p, marks=pytest.mark.slow if p in SLOW else ()) for p in public()])
def test_example(path, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples write where they are
    test = example(path)
    asked = [e for e in test.examples if not e.options.get(doctest.SKIP)]
    assert asked, f"{path} has no example"
    assert any(e.want for e in asked), f"the example of {path} shows nothing"
    test.globs, said = dict(given), []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    plt.close("all")
    assert not said, "".join(said)
