"""Explorers: a pure core, traits that follow the controls, errors in words, and a picture that stays without a kernel."""

import re

import pytest

import mctrace_nb as mct
from mctrace_nb.models import DTYPES, skeleton
from mctrace_nb.published import SIZES, published_config
from mctrace_nb.cost import duration
from mctrace_nb.widgets import CostCalculator, Explorer, Guess


@pytest.fixture
def calculator():
    return CostCalculator(limit=4)


def test_a_control_changes_words_and_picture(calculator):
    words, picture = calculator.words.value, calculator.picture.value
    assert "144 components" in words and "data:image/png;base64," in picture
    calculator.controls["model"].value = "Qwen/Qwen3-1.7B-Base"
    assert "448 components" in calculator.words.value and calculator.picture.value != picture
    assert re.search(r'alt="Stacked bars[^"]{60,}"', calculator.picture.value)
    calculator.controls["model"].value = "gpt2"
    assert calculator.words.value == words and calculator.picture.value == picture


def test_what_it_says_is_what_estimate_says(calculator):
    calculator.controls["kind"].value, calculator.controls["n"].value = "mlp_output", 128
    cost = mct.estimate(published_config("gpt2"), components="mlp_output", n=128, methods="greedy", budgets=range(1, 5))
    assert f"{cost.rows['greedy']:,} rows" in calculator.words.value
    assert f"{(cost.memory.weights + cost.memory.run) / 2 ** 30:.2f} GiB" in calculator.words.value


@pytest.mark.slow
def test_every_value_of_every_menu_and_both_ends_of_every_slider(calculator):
    for control in calculator.controls.values():
        before = control.value
        for value in getattr(control, "options", None) or (control.min, control.max):
            control.value = value
            assert "status" in calculator.words.value and "computing" not in calculator.words.value
        control.value = before


def test_saved_notebooks_keep_picture_and_description(calculator):
    data, metadata = calculator._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(data)
    assert data["text/plain"] == metadata["image/png"]["alt"] == calculator.figure.text


def test_only_sliders_that_wait_and_no_output_widgets(calculator):
    import ipywidgets

    assert all(c.continuous_update is False for c in calculator.controls.values() if isinstance(c, ipywidgets.IntSlider))
    assert not [w for w in calculator.view.children if isinstance(w, ipywidgets.Output)]


def test_start_values_are_checked():
    assert CostCalculator(n=32).controls["n"].value == 32
    with pytest.raises(mct.InputError, match="unknown control 'prompts'"):
        CostCalculator(prompts=3)
    with pytest.raises(mct.InputError, match="'gpt5' is not a value"):
        CostCalculator(model="gpt5")


def test_bad_input_is_said_inside_and_other_errors_are_raised():
    import ipywidgets

    from mctrace_nb.plots import Figure, canvas_of

    calls = []

    def compute(x):
        calls.append(x)
        if x == 2:
            raise mct.InputError("x=2 is <not> allowed")
        return f"{1 / (x - 3):.1f}", Figure(canvas_of()[0], f"A picture of {x}.")

    explorer = Explorer({"x": ipywidgets.IntSlider(1, 0, 9)}, compute)
    explorer.controls["x"].value = 2
    assert "x=2 is &lt;not&gt; allowed" in explorer.words.value and explorer.figure.text == "A picture of 1."
    explorer.controls["x"].value = 1
    assert "-0.5" in explorer.words.value and calls == [1, 2]  # equal parameters are computed once
    with pytest.raises(ZeroDivisionError):
        explorer.controls["x"].value = 3
    assert "An error occurred" in explorer.words.value


def test_durations():
    assert [duration(m) for m in (0, 0.5, 30, 150, 5000, 3e6, 1e12)] == [
        "1 second", "30 seconds", "30 minutes", "2 hours", "3 days", "6 years", "more than a thousand years"]


@pytest.mark.parametrize("name, parameters", [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("Qwen/Qwen3-0.6B-Base", 596_049_920),
                                              ("Qwen/Qwen3-1.7B-Base", 1_720_574_976), ("unsloth/Llama-3.2-1B", 1_235_814_400),
                                              ("unsloth/Llama-3.2-3B", 3_212_749_824)])
def test_published_sizes_give_the_published_number_of_parameters(name, parameters):
    lm = skeleton(published_config(name), DTYPES["bfloat16"])
    assert sum(p.numel() for p in lm.model.parameters()) == parameters and lm.name == name


def test_all_published_sizes_are_tested():
    assert len(SIZES) == 6
    with pytest.raises(mct.InputError, match="did you mean 'gpt2'"):
        published_config("gpt-2")


# --- guesses, and requests that overtake each other ---

class Asking(Explorer):
    asks, unit = "what is twice x?", ""


@pytest.fixture
def asking():
    import ipywidgets

    from mctrace_nb.plots import Figure, canvas_of

    return Asking({"x": ipywidgets.IntSlider(1, 0, 9)}, lambda x: (f"Twice {x}.", Figure(canvas_of()[0], f"A picture of {x}."), 2 * x))


def test_a_prediction_hides_the_picture_until_it_is_made_and_is_kept(asking):
    asking.predict.value = True
    assert "what is twice x?" in asking.words.value and asking.picture.value == ""
    asking.guess.value = "2,5"
    assert "You guessed 2.5. Measured: 2.00. The guess is too high by 0.50. Twice 1." in asking.words.value and "<img" in asking.picture.value
    asking.controls["x"].value = 4
    assert asking.picture.value == "" and asking.guess.value == ""
    asking.guess.value = "eight"
    assert "&#x27;eight&#x27; is not a number" in asking.words.value and asking.picture.value == ""
    asking.guess.value = "8"
    assert "You guessed 8, and 8.00 was measured." in asking.words.value
    asking.controls["x"].value = 1  # what was guessed before stands beside the truth again
    assert "You guessed 2.5" in asking.words.value and asking.guess.value == "2.5"
    for wrong in ("nan", "1,000", "inf"):
        asking.guess.value = wrong
        assert "is not a number" in asking.words.value
    asking.predict.value = False
    asking.controls["x"].value = 5
    asking.guess.value = "8"  # the same number as for 4 before
    assert asking.guesses == {(("x", 1),): 2.5, (("x", 4),): 8.0, (("x", 5),): 8.0}


def test_in_a_running_kernel_a_newer_request_drops_an_older_one():
    import asyncio

    import ipywidgets

    from mctrace_nb.plots import Figure, canvas_of

    calls = []

    def compute(x):
        calls.append(x)
        return f"x is {x}", Figure(canvas_of()[0], f"A picture of {x}.")

    async def moving():
        explorer = Explorer({"x": ipywidgets.IntSlider(1, 0, 9)}, compute)
        for x in (2, 3, 4):
            explorer.controls["x"].value = x
            assert "computing" in explorer.words.value
        await asyncio.sleep(0.2)
        assert "x is 4" in explorer.words.value and calls == [1, 4]
        explorer.controls["x"].value = 7
        assert explorer._repr_mimebundle_()[0]["text/plain"] == "A picture of 7."  # shown at once, not what was there before
        await asyncio.sleep(0.1)
        assert calls == [1, 4, 7]

    asyncio.run(moving())


def test_a_guess_is_kept_and_shown_beside_the_truth():
    guess = Guess("how many nats together?")
    assert guess.value is None and repr(guess.beside(18.08)) == "Measured: 18.08 nats. No guess was written."
    guess.box.value = "2"
    assert guess.value == 2 and "You guessed 2 nats. Measured: 18.08 nats. The guess is too low by 16.08." in guess.answer.value
    guess.box.value = "two"
    assert "is not a number" in guess.answer.value
    with pytest.raises(mct.InputError, match="'two' is not a number"):
        guess.value
    assert guess._repr_mimebundle_()[0]["text/plain"] == "Predict: how many nats together?"


def test_a_guess_among_answers():
    guess = Guess("which?", ["L0H1", "L2H2"])
    guess.box.value = "L0H1"
    assert "Kept: L0H1" in guess.answer.value
    assert guess.beside("L2H2") == "You guessed L0H1. Measured: L2H2."
    guess.box.value = "L2H2"
    assert "Right." in guess.answer.value
    with pytest.raises(mct.InputError, match="'L9H9' is not one of the answers"):
        guess.beside("L9H9")
