"""Every block of the how-to pages is run: Python in one room a page, commands as they stand, edits on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

HOWTO = ROOT / "notebooks" / "howto"
_BLOCK = re.compile(r"^```(python|bash|diff)\n(.*?)^```$", re.M | re.S)
_HUNK = re.compile(r"^@@\n((?:-.*\n)+)((?:\+.*\n)+)", re.M)
QUICK = {"trace": "--draws 2"}  # added to the commands of a page
RUNNER = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, ".")
room = {"__name__": "__main__"}
for number, path in enumerate(sys.argv[1:], 1):
    exec(compile(open(path, encoding="utf-8").read(), f"Python block {number}", "exec"), room)
"""


def edited(diff, root):
    """Applies edits to a copy of the package: the removed lines must be there once, as the beginning of lines."""
    path = root / re.search(r"^\+\+\+ b/(\S+)$", diff, re.M)[1]
    text = path.read_text()
    for hunk in _HUNK.finditer(diff):
        old, new = ("\n".join(line[1:] for line in part.splitlines()) for part in hunk.groups())
        assert text.count("\n" + old) == 1, f"{path.name}: not there, or not once: {old}"
        text = text.replace("\n" + old, "\n" + new)
    path.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(HOWTO.glob("*.md")), ids=lambda p: p.stem)
def test_what_a_page_says_is_what_happens(page, tmp_path):
    blocks, package, work = _BLOCK.findall(page.read_text(encoding="utf-8")), ROOT, tmp_path / "work"
    work.mkdir()
    if any(language == "diff" for language, _ in blocks):
        package = tmp_path / "copy"
        shutil.copytree(ROOT / "mctrace_nb", package / "mctrace_nb", ignore=shutil.ignore_patterns("__pycache__"))
        for beside in ("data", "notebooks"):
            (package / beside).symlink_to(ROOT / beside)
        for _, diff in (b for b in blocks if b[0] == "diff"):
            edited(diff, package)
    environment, waiting = {**os.environ, "PYTHONPATH": str(package), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}, []

    def run(arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

    (tmp_path / "runner.py").write_text(RUNNER)
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            if named := re.match(r"# file: (\S+)\n", text):
                (work / named[1]).write_text(text)
            else:
                waiting.append(tmp_path / f"{number}.py")
                waiting[-1].write_text(text)
        elif language == "bash":
            assert text.strip().splitlines()
            for command in text.strip().splitlines():
                assert command.startswith("python -m mctrace_nb "), command
                if waiting:  # what the page made before
                    run([tmp_path / "runner.py", *waiting])
                    waiting = waiting if "mymodel" in text else []
                run([*command.split()[1:], *QUICK.get(command.split()[3], "").split()])
    if waiting:
        run([tmp_path / "runner.py", *waiting])


def test_an_edit_that_does_not_fit_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text("\none = 1\ntwo = 2\n")
    edited("--- a/a.py\n+++ b/a.py\n@@\n-one =\n+uno =\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "\nuno = 1\ntwo = 2\n"
    with pytest.raises(AssertionError, match="not there"):
        edited("--- a/a.py\n+++ b/a.py\n@@\n-one =\n+uno =\n", tmp_path)
