"""The explorer of traps: what it says is what the traps give, and bad input is refused in words."""

import pytest

import mctrace_nb as mct
from mctrace_nb.traps import TRAPS, outcome, said
from mctrace_nb.widgets import TrapPicker


@pytest.fixture(scope="module")
def picker():
    return TrapPicker()


@pytest.mark.parametrize("trap", TRAPS, ids=[t.name for t in TRAPS])
def test_every_trap_is_shown_as_it_is(picker, trap):
    before = picker.figure.png
    picker.controls["trap"].value = trap.name
    wrong, right = map(said, outcome(trap.name))
    assert f"Wrong: {wrong}, right: {right} ({trap.unit}). " in picker.words.value.replace("&lt;", "<").replace("&gt;", ">")
    assert trap.test.split("::")[1].split("[")[0] in picker.words.value
    assert f"'{trap.name}': the wrong way gives {wrong}, the right one {right}" in picker.figure.text
    assert picker.figure.png != before or trap is TRAPS[0]


def test_start_and_other_prompts():
    picker = TrapPicker(seed=5, trap="train mode")
    assert picker.parameters == {"trap": "train mode"} and said(outcome("train mode", 5)[0]) in picker.words.value
    assert picker.outcomes != TrapPicker().outcomes


@pytest.mark.parametrize("given, message", [(dict(seed=-1), "seed=-1 is not a whole number"), (dict(seed=True), "seed=True"),
                                            (dict(trap="train mood"), "did you mean 'train mode'"), (dict(task="names"), "unknown control 'task'")])
def test_bad_input_is_refused_in_words(given, message):
    with pytest.raises(mct.InputError, match=message) as refusal:
        TrapPicker(**given)
    assert "\n" not in str(refusal.value)
