"""The explorer of the gate, and the figures of distillation: they say what the losses compute, and refuse in words."""

import copy

import pandas as pd
import pytest
import torch
from conftest import ROOT

import mctrace_nb as mct
from mctrace_nb.distill import experiment, problems
from mctrace_nb.distill.losses import Objective, entropy, kl, losses, picked, top_k_forward_kl
from mctrace_nb.distill.pairs import Pair, pair
from mctrace_nb.plots import next_words, paired_differences, token_row
from mctrace_nb.widgets import ThresholdExplorer
from mctrace_nb.widgets.distilling import shipped_pair


@pytest.fixture(scope="module")
def made():
    return ThresholdExplorer()


@pytest.fixture
def explorer(made):
    """One explorer for all tests, each beginning with the same controls."""
    for name, value in dict(tau=0.8, text=0, direction="forward KL", k=16).items():
        made.controls[name].value = value
    made.predict.value = False
    return made


@pytest.fixture(scope="module")
def both_say(made):
    """What both models think of what the explorer let the student write: log-probabilities `(B, T, V)`, from the models directly."""
    both, _ = shipped_pair()
    with torch.no_grad():
        return both.student_logp(made.scored.written), both.teacher_logp(made.scored.written)


@pytest.mark.parametrize("tau, k", [(0.8, 16), (0.0, 2), (1.5, 4), (0.3, "all"), (2.5, 8)])
def test_the_words_are_what_the_losses_compute(explorer, both_say, tau, k):
    explorer.controls["tau"].value, explorer.controls["k"].value = tau, k
    student, teacher = both_say
    written = explorer.scored.written
    found = losses(student, teacher, written.tokens, picked(student, written.tokens), written.valid, Objective("eopd", tau=tau, k=None if k == "all" else k))
    said, valid = explorer.words.value, written.valid
    assert f"= {float(found.total):.3f} nats a token" in said and f"and at {100 * found.mean('gate'):.1f} % of all {int(valid.sum())} tokens" in said
    assert f"sampled reverse KL {found.mean('reverse'):.3f} + gated forward KL {found.mean('forward'):.3f}" in said
    every, gate = top_k_forward_kl(student, teacher, None if k == "all" else k), found.gate
    open_, shut = (f"{float(every[at].mean()):.3f} nats" if at.any() else "no token" for at in (gate & valid, ~gate & valid))
    assert f"{open_} where it is open, {shut} where it is shut" in said
    assert f"open at {int((gate & valid)[0].sum())} of {int(valid[0].sum())} tokens of this text" in said
    assert ("this is plain on-policy distillation" in said) == (tau == 2.5)


def test_boxes_show_the_direction_that_was_chosen(explorer, both_say):
    explorer.controls["text"].value = 3
    student, teacher = (x[3] for x in both_say)
    written = explorer.scored.written
    tokens, gate = written.tokens[3], entropy(teacher) > 0.8
    wanted = {"forward KL": top_k_forward_kl(student, teacher, 16), "reverse KL": kl(student, teacher),
              "sampled advantage": picked(teacher, tokens) - picked(student, tokens)}
    pictures = set()
    for direction, values in wanted.items():
        explorer.controls["direction"].value = direction
        pictures.add(explorer.picture.value)
        words = explorer.words_of[3]
        assert len(words) == int(written.valid[3].sum()) and gate.any() and not gate[written.valid[3]].all()
        for word, value, opened in zip(words, values.tolist(), gate.tolist()):
            assert f"{word} {value:.2f}{' (gate open)' if opened else ''}" in explorer.figure.text
    assert len(pictures) == 3 and "tau = 0.80 nats" in explorer.figure.text


def test_only_the_threshold_moves_the_share(explorer):
    shares = []
    for tau in (0.0, 0.4, 0.8, 1.2, 2.5):
        shares.append(explorer.look(tau, 0, "forward KL", 16)[2])
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0 < shares[-2]
    assert len({explorer.look(0.8, text, direction, k)[2] for text in (0, 5) for direction in ("reverse KL", "forward KL") for k in (2, "all")}) == 1


def test_the_guess_is_a_share_of_all_tokens(explorer):
    explorer.controls["tau"].value = 1.0
    explorer.predict.value = True
    assert "Predict:" in explorer.words.value and not explorer.picture.value
    explorer.guess.value = "40"
    assert f"You guessed 40 percent. Measured: {explorer.look(1.0, 0, 'forward KL', 16)[2]:.2f} percent." in explorer.words.value


def test_the_controls_start_where_they_are_told_to():
    mine = ThresholdExplorer(tau=0.83, k=10, text=2, direction="reverse KL", seed=3)
    assert mine.parameters == dict(tau=0.83, text=2, direction="reverse KL", k=10) and "(k = 10)" in mine.words.value
    assert not torch.equal(mine.scored.written.tokens, ThresholdExplorer().scored.written.tokens)


class Letters:
    """A tokenizer of another family: a letter a token."""

    pad_token_id, eos_token_id = 0, 1

    def __call__(self, text):
        return {"input_ids": [self.get_vocab()[letter] for letter in text]}

    def get_vocab(self):
        return {"<pad>": 0, "<end>": 1, **{letter: i + 2 for i, letter in enumerate("abcdefghijklmnopqrst")}}

    def decode(self, ids, **_):
        return "".join(list(self.get_vocab())[i] for i in ids)


def stranger(seed, vocabulary=22, places=64):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                                        max_position_embeddings=places, initializer_range=0.3, pad_token_id=0, eos_token_id=1, bos_token_id=None)).eval()


def test_it_works_on_a_pair_of_one_s_own():
    both, words = pair(stranger(0), stranger(1), Letters()), Letters()
    mine = ThresholdExplorer(both, words, ["abc", "defgh"] * 8, new_tokens=40, tau=2.0)
    assert list(mine.controls["k"].options) == [1, 2, 4, 8, 16, "all"] and mine.controls["tau"].max > 2.5
    lengths = mine.scored.written.valid.sum(1).tolist()
    assert f"of all {sum(lengths)} tokens of 16 texts" in mine.words.value and max(lengths) > 36
    mine.controls["text"].value = lengths.index(max(lengths))
    assert f"The first 36 of {max(lengths)} tokens." in mine.figure.text
    changed = copy.deepcopy(experiment.load_teacher()[0])  # the shipped grammar needs no prompts
    teacher, tokenizer = experiment.load_teacher()
    same = ThresholdExplorer(pair(changed, teacher, tokenizer), tokenizer)
    assert "sampled reverse KL 0.000" in same.words.value or "sampled reverse KL -0.000" in same.words.value
    assert same.prompts == [p.prompt for p in problems.distinct_problems(48, 0)]


def test_what_cannot_be_shown_is_refused_in_words():
    both, words = pair(stranger(0), stranger(1), Letters()), Letters()
    broken = stranger(2)
    broken.lm_head.weight.data.fill_(float("nan"))
    for given, message in (((both.student, words, ["abc"]), "is of a Pair, not of LlamaForCausalLM"), ((both,), "without a tokenizer"),
                           ((None, words), "without its models"), ((both, words), "do not speak the shipped grammar"),
                           ((both, words, "abc"), "is no list of texts"), ((both, words, []), "is no list of texts"),
                           ((both, words, ["abc", ""]), "empty one"), ((both, words, ["abc"], 90), "take 93 places, the student has 64"),
                           ((both, words, ["abc"], 0), "new_tokens=0"), ((pair(stranger(0), broken, words), words, ["abc"]), "not finite")):
        with pytest.raises(mct.InputError, match=message) as refusal:
            ThresholdExplorer(*given)
        assert "\n" not in str(refusal.value)
    for start, message in ((dict(tau=-1), "tau=-1 is not a value"), (dict(k=99), "k=99 is not a value"), (dict(k="some"), "k='some'"),
                           (dict(text=99), "text=99"), (dict(direction="both"), "direction='both'"), (dict(alpha=1), "unknown control 'alpha'")):
        with pytest.raises(mct.InputError, match=message):
            ThresholdExplorer(**start)
    assert isinstance(both, Pair)


def test_figures_say_their_numbers():
    text = next_words({"at a fork": {"teacher": {"+1": 0.5, "-1": 0.3}, "student": {"-1": 0.6}}}).text
    assert "at a fork, teacher: +1 has 0.50; at a fork, student: -1 has 0.60" in text
    text = token_row(["+1", "$x^2$"], [0.1, -0.2], [1.0, 0.2], 0.8, "advantage", 0.2, True).text
    assert "+1 0.10 (gate open), $x^2$ -0.20." in text
    summary = pd.DataFrame([dict(arm="opd", measure="avg", mean=0.2), dict(arm="teacher", measure="avg", mean=0.3),
                            dict(arm="eopd", measure="avg", mean=0.25, less_opd=0.05, less_opd_low=0.01, less_opd_high=0.09)])
    assert "right, eopd +0.050 [+0.010, +0.090]" in paired_differences(summary, {"avg": "right"}, ["eopd"]).text
    for arms, measures in ((["opd"], {"avg": "right"}), (["eopd"], {"pass@8": "Pass@8"})):
        with pytest.raises(mct.InputError, match="there is no difference of"):
            paired_differences(summary, measures, arms)


def test_what_lesson_10_states_beside_its_exercises_and_its_explorer(explorer):
    from mctrace_nb.check import nb10

    assert round(nb10.pass_at_k(16, 3, 8), 2) == 0.9
    assert round(float(nb10.forward_kl_of_top_k(torch.tensor([0.2, 0.3, 0.5]).log(), torch.tensor([0.5, 0.3, 0.2]).log(), 2)), 2) == 0.8
    effects = {frozenset("AB"): 2, frozenset("AC"): 1, frozenset("BC"): 3, **{frozenset(x): 1 for x in "ABC"}, frozenset("ABC"): 4}
    assert [round(x, 2) for x in nb10.survival(effects, "AB")] == [0.67, 0.67]
    share = {tau: explorer.look(tau, 0, "forward KL", 16)[2] for tau in (0.1, 0.6, 0.8)}
    assert share[0.1] - share[0.6] < 2 < share[0.6] - share[0.8]
    found = explorer.scored
    valid, gate = found.written.valid, (found.entropy > 0.8) & found.written.valid
    assert float(found.forward[2][gate].mean()) > 2 * float(found.forward["all"][gate].mean())
    size = found.advantage[valid].abs()
    assert float((size < 0.5).double().mean()) > 0.6 and float((found.advantage[valid] < -5).double().mean()) > 0.05


def test_the_shipped_results_are_those_that_lesson_10_reads():
    """Its prose says no numbers of the experiment, but which differences are there; new results that say otherwise need other words."""
    results, summary = (pd.read_csv(ROOT / "data" / "distill" / f"{name}.csv") for name in ("results", "summary"))
    of = summary.set_index(["arm", "measure"])

    def sign(arm, measure):
        low, high = of.loc[(arm, measure), ["less_opd_low", "less_opd_high"]]
        return 1 if low > 0 else -1 if high < 0 else 0

    assert (sign("eopd", "avg"), sign("eopd_inherited", "avg")) == (-1, 1), "down with one kind of student, up with the other"
    assert all(abs(of.loc[(arm, "avg"), "less_opd"]) < 0.01 and sign(arm, "pass@8") == 0 for arm in ("eopd", "eopd_inherited"))
    asked = ("student_entropy", "high_student", "forward_kl_gated")
    assert [sign("eopd", m) for m in asked] == [1, 1, -1] and [sign("eopd_inherited", m) for m in asked] == [0, 0, -1]
    for arm in ("exact_reverse", "jsd"):
        assert sign(arm, "avg") == sign(arm, "pass@8") == sign(arm, "distinct") == 1
        assert of.loc[(arm, "forward_kl_gated"), "mean"] < of.loc[("eopd", "forward_kl_gated"), "mean"], "closer where the gate is open"
    assert all(sign("forward", measure) == 1 for measure in ("avg", "pass@8", "distinct"))
    assert all(sign(arm, "avg") < 1 for arm in ("eopd", "eopd_full", "ungated")), "where the drawn word stays"
    low, high = of.loc[("opd", "avg"), ["low", "high"]] / of.loc[("teacher", "avg"), "mean"]
    assert low < 0.8 < high, "the condition is met narrowly"
    assert of.loc[("teacher", "student_entropy"), "mean"] < of.loc[("opd", "student_entropy"), "mean"] and sign("eopd", "student_entropy") == 1
    mean = results.groupby("arm").mean(numeric_only=True)
    for start, kind in (("start", ""), ("inherited", "_inherited")):
        assert mean.loc[start, "student_entropy_ungated"] > 0.5 > 0.05 > mean.loc[start, "teacher_entropy_ungated"]
        found = mean.loc[f"opd{kind}"]
        assert found["high_student"] > found["high_teacher"] and found["student_entropy_gated"] > found["teacher_entropy_gated"], "not too sure"
    assert mean.loc["opd", "forward_kl_gated"] > mean.loc["start", "forward_kl_gated"] + 0.05 > mean.loc["eopd", "forward_kl_gated"]
    assert mean.loc["eopd", "reverse_kl_ungated"] > mean.loc["opd", "reverse_kl_ungated"]
