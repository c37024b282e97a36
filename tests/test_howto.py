"""Every block of the how-to pages is run: Python in one room a page, commands as they stand, edits on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HOWTO = ROOT / "notebooks" / "howto"
PAGES = {page.stem: page for page in sorted(HOWTO.glob("*.md"))}
REFUSED = {"own_csv": ["line 2", "old"], "own_metric": ["must return a tensor without the last dimension", "'certain'"],
           "own_model_family": ["does not use transformers' attention registry", "packed into one row"]}
_BLOCK = re.compile(r"^```(python|bash|diff)\n(.*?)^```$", re.M | re.S)
_HUNK = re.compile(r"^@@\n((?:-.*\n)+)((?:\+.*\n)+)", re.M)


def edited(diff, root):
    """Applies edits to a copy of the package: the removed lines must be there once, as the beginning of lines."""
    path = root / re.search(r"^\+\+\+ b/(\S+)$", diff, re.M)[1]
    text, hunks = path.read_text(), _HUNK.findall(diff)
    assert hunks
    for old, new in (["\n".join(line[1:] for line in part.splitlines()) for part in hunk] for hunk in hunks):
        assert text.count("\n" + old) == 1, f"{path.name}: not there, or not once: {old}"
        text = text.replace("\n" + old, "\n" + new)
    path.write_text(text)


def follow(page, command):
    """Does what a page says, in the current folder. command: what to do with the arguments of a `python -m mctrace_nb`."""
    room = {"__name__": "__main__"}
    for number, (language, text) in enumerate(_BLOCK.findall(PAGES[page].read_text(encoding="utf-8")), 1):
        if language == "python" and (named := re.match(r"# file: (\S+)\n", text)):
            Path(named[1]).write_text(text)
        elif language == "python":
            exec(compile(text, f"{page}.md, block {number}", "exec"), room)
        elif language == "bash":
            for line in text.strip().splitlines():
                assert line.startswith("python -m mctrace_nb "), line
                command(line.split()[3:])


def in_short(arguments):
    """The command with all its options checked and its prompts read; a trace is foreseen and not run."""
    from mctrace_nb.__main__ import main

    if arguments[0] == "trace":
        arguments = ["estimate", *arguments[1:arguments.index("--out")]]
    assert main(arguments) == 0, arguments


def in_full(arguments):
    done = subprocess.run([sys.executable, "-m", "mctrace_nb", *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    assert arguments[0] != "trace" or (Path(arguments[arguments.index("--out") + 1]) / "report.html").is_file()


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("tiny", None)


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if "```diff" not in path.read_text(encoding="utf-8")])
@pytest.mark.filterwarnings("ignore:.*the total effect is")
def test_what_a_page_says_is_what_happens(page, empty, capsys):
    """Runs every block; what a page shows to be refused is refused, in the words that it is about."""
    follow(page, in_short)
    said = capsys.readouterr().out
    for words in REFUSED.get(page, ()):
        assert words in said, words


@pytest.mark.long
@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if "```bash" in path.read_text(encoding="utf-8")])
def test_the_commands_of_a_page_leave_their_reports(page, empty):
    follow(page, in_full)


@pytest.mark.slow
def test_a_kind_added_as_described_works(tmp_path):
    """The edits of the page on a copy of the package, then what the page tries, in a process that imports the copy."""
    blocks = _BLOCK.findall(PAGES["own_component_kind"].read_text(encoding="utf-8"))
    shutil.copytree(ROOT / "mctrace_nb", tmp_path / "mctrace_nb", ignore=shutil.ignore_patterns("__pycache__"))
    for beside in ("data", "notebooks"):
        (tmp_path / beside).symlink_to(ROOT / beside)
    for language, text in blocks:
        if language == "diff":
            edited(text, tmp_path)
    code = "import mctrace_nb\n" + "\n".join(text for language, text in blocks if language == "python") + "\nprint(mctrace_nb.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(tmp_path) in done.stdout and ".v" in done.stdout


def test_an_edit_that_does_not_fit_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text("\none = 1\ntwo = 2\n")
    edited("--- a/a.py\n+++ b/a.py\n@@\n-one =\n+uno =\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "\nuno = 1\ntwo = 2\n"
    with pytest.raises(AssertionError, match="not there"):
        edited("--- a/a.py\n+++ b/a.py\n@@\n-one =\n+uno =\n", tmp_path)
