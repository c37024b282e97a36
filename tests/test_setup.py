"""The project's own files agree with each other, and an installed wheel can trace away from the checkout."""

import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def pinned(lines):
    found = [line.strip().split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


CONSTRAINTS = pinned((ROOT / "constraints.txt").read_text().splitlines())


def test_constraints_satisfy_the_project():
    for r in NEEDED:
        assert r.specifier.contains(CONSTRAINTS[canonicalize_name(r.name)]), r
    assert CONSTRAINTS["torch"] == "2.13.0" and CONSTRAINTS["transformers"].startswith("5.23.")


def test_environment_names_the_same_versions():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    versions = pinned(next(x["pip"] for x in listed if isinstance(x, dict)))
    assert versions == {canonicalize_name(r.name): CONSTRAINTS[canonicalize_name(r.name)] for r in NEEDED}


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version
    for r in NEEDED:
        assert version(r.name).split("+")[0] == CONSTRAINTS[canonicalize_name(r.name)], r.name


def test_constraints_hold_the_whole_closure():
    """Every package that the project pulls in, directly or not, has its version there."""
    from importlib.metadata import PackageNotFoundError, requires
    seen, todo = set(), [r.name for r in NEEDED]
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            more = requires(name) or []
        except PackageNotFoundError:
            continue  # for another platform
        assert name in CONSTRAINTS, f"{name} has no version in constraints.txt"
        todo += [q.name for q in map(Requirement, more) if q.marker is None or q.marker.evaluate({"extra": ""})]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    import mctrace_nb
    assert citation["version"] == PROJECT["version"] == mctrace_nb.__version__
    assert len(citation["references"]) == 3


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.M))
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert {"install", "trace", "test", "test-quick", "test-long", "notebooks", "lab", "bench"} <= targets
    for target in targets:
        assert f"make {target} " in shown, target


def test_top_level_is_what_was_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked.stdout.split() if "/" in name}
    assert folders <= {"notebooks", "mctrace_nb", "data", "tests", ".ci"}


def test_rooms_import_only_from_lower_floors():
    """The drawing of the rooms: who may import whom."""
    floor = {"errors": 0, "memory": 0, "hub": 1, "shipped": 1, "progress": 0, "ranks": 1, "metrics": 1, "components": 1, "results": 1, "grammar": 1, "stats": 1, "tutorial": 2, "layout": 2, "models": 2, "published": 2,
             "preflight": 3, "tasks": 2, "rows": 3, "mixing": 3, "packing": 3, "skipping": 3, "hooks": 3, "sides": 3, "passes": 3, "contract": 3, "running": 3, "serving": 3, "cost": 3, "effects": 3, "tracing": 4, "apply": 4, "desiderata": 5, "views": 5, "circuits": 1, "nodes": 3, "observing": 4, "lasso": 5, "edges": 5, "planted": 5, "sae": 5, "relax": 5, "landscape": 5, "counting": 5, "path": 5, "guided": 5, "rivals": 5, "distill": 5, "search": 6, "explain": 7, "stability": 7, "words": 7, "compare": 7,
             "plots": 7, "paper": 8, "referee": 8, "report": 8, "sizing": 8, "traps": 8, "widgets": 8, "check": 8, "bench": 9, "parameters": 8, "run": 9, "course": 9, "exam": 9, "site": 9, "study": 9, "__main__": 10}
    order = ["layout", "models", "published", "tasks", "tutorial", "rows", "mixing", "packing", "skipping", "hooks", "sides", "passes", "contract", "running", "serving", "cost", "effects", "counting", "desiderata", "relax", "landscape", "path", "guided", "lasso", "edges", "planted", "rivals", "sae", "distill", "sizing", "traps", "widgets", "check", "words", "explain", "stability", "plots", "compare", "report", "parameters", "run", "course", "exam", "site", "study", "bench"]  # inside one floor, in this order
    for path in (ROOT / "mctrace_nb").rglob("*.py"):
        room = path.relative_to(ROOT / "mctrace_nb").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in re.findall(r"^(?:from|import) mctrace_nb\.?(\w*)", path.read_text(), re.M):
            for name in ([other] if other else re.findall(r"^from mctrace_nb import (\w+)", path.read_text(), re.M)):
                assert name == room or floor[name] < floor[room] or (
                    floor[name] == floor[room] and name in order and order.index(name) < order.index(room)), f"{room} imports {name}"


def test_files_stay_small():
    for path in (ROOT / "mctrace_nb").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, f"{path.name}: look for the second idea in it"


def test_import_is_lazy():
    code = "import sys, mctrace_nb; assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_public_names_are_the_same_in_whatever_order_they_are_first_used():
    """Importing the room `search` must not put the room where the function is expected."""
    code = """
import random, sys, types
import mctrace_nb as mct
names = [n for n in mct.__all__ if n in mct._WHERE]
random.Random(int(sys.argv[1])).shuffle(names)
for _ in range(2):
    for name in names:
        assert not isinstance(getattr(mct, name), types.ModuleType), name
import mctrace_nb.search, mctrace_nb.compare
assert callable(mct.search) and callable(mct.compare) and callable(mctrace_nb.search)
"""
    for seed in "012":
        subprocess.run([sys.executable, "-c", code, seed], check=True)


@pytest.mark.slow
def test_trace_from_a_wheel_installed_elsewhere(tmp_path):
    """The wheel carries the tutorial model and the analysis notebook; nothing of the checkout is in reach."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    wheel, = tmp_path.glob("mctrace_nb-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    # The dependencies are those of this environment: a path file makes them visible without copying gigabytes.
    site = next((tmp_path / "env" / "lib").glob("python3*/site-packages"))
    here = Path(next(p for p in sys.path if p.endswith("site-packages")))
    (site / "dependencies.pth").write_text(f"{here}\n")
    where = subprocess.run([python, "-c", "import mctrace_nb; print(mctrace_nb.__file__)"], cwd=tmp_path, check=True,
                           capture_output=True, text=True).stdout
    assert str(tmp_path) in where
    done = subprocess.run([python, "-m", "mctrace_nb", "trace", "--task", "names", "--n", "8", "--budget", "2", "--methods",
                           "exhaustive,greedy", "--out", "here"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "here" / "result.json").read_text())["components"] == 12
