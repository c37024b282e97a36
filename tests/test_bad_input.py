"""Bad input gives one clear line with the offending value and the repair."""

import pytest
import torch
from conftest import random_task, tiny_gpt2

import mctrace_nb as mct
from mctrace_nb.errors import InputError
from mctrace_nb.models import wrap_model
from mctrace_nb.relax import Settings, pgb
from mctrace_nb.search import search
from mctrace_nb.tasks import Example, Task, load_task
from mctrace_nb.tracing import Trace


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2()


@pytest.fixture(scope="module")
def trace(lm):
    return Trace(lm, random_task(), "head_output")


UNEQUAL = Task("unequal", (Example((1, 2, 3), (1, 2, 4), (5,), (6,)), Example((1, 2, 3), (1, 2, 4, 5), (5,), (6,))))
CASES = {
    "kind": (lambda lm: Trace(lm, random_task(), "head_outputs"), "unknown kind of component 'head_outputs'; did you mean 'head_output'"),
    "kind twice": (lambda lm: Trace(lm, random_task(), ["mlp_block"] * 2), "named twice"),
    "no kind": (lambda lm: Trace(lm, random_task(), []), "no kind"),
    "positions": (lambda lm: Trace(lm, random_task(), positions="first"), "unknown positions 'first'"),
    "corruption": (lambda lm: Trace(lm, random_task(), corruption="zeros"), "did you mean 'zero'"),
    "metric": (lambda lm: Trace(lm, random_task(), metric="odds"), "unknown metric 'odds'"),
    "split": (lambda lm: Trace(lm, random_task(), split="test"), "unknown split 'test'"),
    "no held-out": (lambda lm: Trace(lm, Task("t", random_task().search)).heldout, "no held-out prompts"),
    "empty task": (lambda lm: Task("t", ()), "no prompt pairs"),
    "lengths": (lambda lm: Trace(lm, UNEQUAL), "prompt 1: base has 3 tokens, counterfactual 4"),
    "lengths repair": (lambda lm: Trace(lm, UNEQUAL), r"components='head_output', positions='last'"),
    "mean of patterns": (lambda lm: Trace(lm, random_task(), "head_pattern", corruption="mean"), "use head_output"),
    "no subject": (lambda lm: Trace(lm, UNEQUAL, positions="subject", corruption="noise"), "no subject span"),
    "reverse of zero": (lambda lm: Trace(lm, random_task(), corruption="zero").direct_effect(["L0H0"]), "no counterfactual run"),
    "answer rule": (lambda lm: Trace(lm, random_task(), answer_rule="product"), "unknown answer rule"),
}


@pytest.mark.parametrize("name", CASES)
def test_trace_refuses(lm, name):
    make, message = CASES[name]
    with pytest.raises(InputError, match=message) as caught:
        make(lm)
    assert "\n" not in str(caught.value)


def test_unequal_lengths_work_where_they_can(lm):
    trace = Trace(lm, UNEQUAL, "head_output", positions="last")
    alone = Trace(lm, Task("one", (UNEQUAL.search[1],)), "head_output", positions="last")
    torch.testing.assert_close(trace.effects(torch.ones(4))[1], alone.effects(torch.ones(4))[0])
    with pytest.raises(InputError, match="equal lengths"):
        Trace(lm, UNEQUAL, "head_pattern", positions="last")


MASKS = {"shape": (torch.ones(5), r"shape \(5,\), this trace has 4"), "range": (torch.full((4,), 1.5), "must lie in"),
         "nan": (torch.full((4,), float("nan")), "must lie in"), "label": (["L0H9"], "did you mean 'L0H")}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_checked(trace, name):
    mask, message = MASKS[name]
    with pytest.raises(InputError, match=message):
        trace.effects(mask)


def test_nan_model_is_refused():
    lm = tiny_gpt2()
    lm.model.transformer.ln_f.weight.data[0] = float("nan")
    with pytest.raises(InputError, match="prompt 0: the model gives nan"):
        Trace(lm, random_task(), "head_output")


def test_numbers_that_are_not_finite_win_no_search(lm):
    trace = Trace(lm, random_task(), "head_output")
    trace.prepare()
    trace.side().values["head_output", 0][0, 0] = float("nan")
    for method in ("exhaustive", "greedy", "top-k", "pgb", "pgb-published"):
        with pytest.raises(InputError, match="gives nan, not a finite number"):
            search(trace, method, budgets=[1])


def test_large_orders_are_counted_before_they_are_made(lm):
    with pytest.raises(InputError, match="need 8,001 masks|need [0-9,]+ masks"):
        Trace(lm, random_task(), "mlp_neuron").interactions(k=6)


SEARCHES = {
    "method": (dict(method="gready"), "did you mean 'greedy'"), "direction": (dict(direction="up"), "unknown direction"),
    "budget 0": (dict(budgets=[0]), "budget 0 is out of range; give whole numbers from 1 to 4"),
    "budget 5": (dict(budgets=range(1, 6)), "budget 5 is out of range"), "no budget": (dict(budgets=[]), "out of range"),
    "option": (dict(method="greedy", draws=3), "unexpected keyword argument 'draws'"),
    "pgb option": (dict(method="pgb", lamda1=3), "did you mean 'lambda1'"),
    "pgb's parts": (dict(method="pgb", without="binaries"), "unknown part of pgb 'binaries'; did you mean 'binary'"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_search_refuses(trace, name):
    options, message = SEARCHES[name]
    with pytest.raises(InputError, match=message):
        search(trace, **{"budgets": [1], **options})


def test_exhaustive_refuses_what_it_cannot_enumerate(lm):
    trace = Trace(lm, random_task(), "mlp_neuron")
    with pytest.raises(InputError, match="sets; the limit is 2,000,000"):
        search(trace, "exhaustive", budgets=range(1, 9))


def test_relaxed_search_refuses(lm, trace):
    for bad, message in ((dict(schedule="cubic"), "unknown schedule"), (dict(lambda1=-1), "lambda1=-1 is out of range"),
                         (dict(lr=0), "lr=0"), (dict(transform="exp"), "unknown transform")):
        with pytest.raises(InputError, match=message):
            Settings(**bad)
    with pytest.raises(InputError, match="needs a ratio for each prompt, which 'logit_diff' of .* is not; use transform='log'"):
        pgb(Trace(lm, random_task(), metric="logit_diff"), transform="inverse")
    with pytest.raises(InputError, match="has no gradient"):
        pgb(Trace(lm, random_task(), metric="accuracy"))
    with pytest.raises(InputError, match="epochs=0"):
        pgb(trace, epochs=0)
    with pytest.warns(UserWarning, match="still chooses 4 components after 1 epochs, more than the budget of 1"):
        pgb(trace, budget=1, epochs=1, lambda1=0.0, lambda2=0.0, init=0.9, lr=1e-6)
    with pytest.raises(InputError, match="budget 9"):
        pgb(trace, budget=9)
    with pytest.raises(InputError, match="no logarithm"):
        Trace(lm, random_task(), metric="logit_diff").effects(torch.ones(4), scale="relative")


PAIRS = {
    "empty list": ([], "no prompt pairs"),
    "missing": ([{"base": "a 1 ; now", "target": "1", "foil": "2"}], "counterfactual is missing or empty"),
    "unknown word": ([dict(base="the nurse said zzz", counterfactual="the man said that", target="he", foil="she")], "holds .zzz., which the tokenizer does not know"),
    "same answers": ([dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="he")], "same answer"),
    "unknown word in the counterfactual": ([dict(base="the nurse said that", counterfactual="the zzz said that", target="he",
                                                 foil="she")], "'the zzz said that' holds 'zzz'"),
    "capital": ([dict(base="The nurse said that", counterfactual="the man said that", target="he", foil="she")], "did you mean 'the'"),
    "same prompts": ([dict(base="the man said that", counterfactual="the man said that", target="he", foil="she")], "are the same"),
    "one pair": ([dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")], "one pair cannot be split"),
    "one group": ([dict(base=f"the {who} said that", counterfactual="the man said that", target="he", foil="she", group=0)
                   for who in ("nurse", "dancer")],
                  "2 pairs of one group .or all the same. cannot be split"),
    "empty answer": ([dict(base="the nurse said that", counterfactual="the man said that", target=" ", foil="he")], "gives no tokens"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_checked(tutorial, name):
    pairs, message = PAIRS[name]
    with pytest.raises(InputError, match=message):
        Task.from_pairs(pairs, tutorial)


def test_all_bad_pairs_are_reported_at_once(tutorial):
    with pytest.raises(InputError, match="prompt 0: .*prompt 2: "):
        Task.from_pairs([PAIRS["same answers"][0][0], dict(base="the nurse said that", counterfactual="the man said that",
                         target="he", foil="she"), PAIRS["missing"][0][0]], tutorial)


def test_groups_are_never_divided(tutorial):
    """Group 0 is a group, and an empty cell of a table is none."""
    pair = dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")
    subjects = "nurse secretary dancer librarian teacher tailor cleaner florist baker writer cashier painter".split()
    several = [{**pair, "base": f"the {who} said that"} for who in subjects]
    task = Task.from_pairs([{**p, "group": i % 2} for i, p in enumerate(several)], tutorial)
    assert {e.group for e in task.search} != {e.group for e in task.heldout} and len(task.search) == 6
    loose = Task.from_pairs([{**p, "group": float("nan")} for p in several], tutorial, heldout=0.9)
    assert len(loose.search) == 1 and len(loose.heldout) == 11
    doubled = Task.from_pairs(several + [{**p, "target": "that"} for p in several], tutorial)  # equal prompts stay together
    assert not {e.base for e in doubled.search} & {e.base for e in doubled.heldout}


def test_errors_name_the_users_own_pair(tutorial):
    pair = dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")
    subjects = "nurse secretary dancer librarian teacher tailor cleaner".split()
    pairs = [{**pair, "base": f"the {who} said that"} for who in subjects] + [{**pair, "counterfactual": "yesterday the man said that"}]
    for seed in range(4):
        task = Task.from_pairs(pairs, tutorial, seed=seed, aligned=False)
        with pytest.raises(InputError, match="prompt 7: base has 5 tokens, counterfactual 6"):
            Trace(tutorial, task, "head_output"), Trace(tutorial, task, "head_output", split="heldout")


def test_tasks_and_models_are_checked(tutorial, lm, tmp_path):
    for make, message in (
            (lambda: load_task("profesions", tutorial), "did you mean 'professions'"),
            (lambda: load_task("names", tutorial, n=1), "n=1"),
            (lambda: load_task("facts", tutorial, n=10 ** 5), "ask for fewer"),
            (lambda: load_task("names", lm), "use model 'tutorial'"),
            (lambda: mct.load_model(str(tmp_path)), "no config.json"),
            (lambda: mct.load_model("tutoral"), "did you mean 'tutorial'"),
            (lambda: Trace(tutorial, "professions"), "not LanguageModel and str"),
            (lambda: mct.load_model("tutorial", dtype="int8"), "unknown dtype"),
            (lambda: mct.load_model("tutorial", device="warp"), "cannot be used here")):
        with pytest.raises(InputError, match=message):
            make()


def test_models_that_cannot_be_loaded_say_why(tutorial, tmp_path, monkeypatch):
    import shutil

    from mctrace_nb.models import shipped

    shutil.copytree(shipped("data/tutorial"), tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(InputError, match="no safetensors weights; convert them"):
        mct.load_model(str(tmp_path / "bin"))
    shutil.copytree(shipped("data/tutorial"), tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(InputError, match="cannot load model") as caught:
        mct.load_model(str(tmp_path / "odd"))
    assert "\n" not in str(caught.value)
    copy = shutil.copytree(shipped("data/tutorial"), tmp_path / "copy")
    assert torch.equal(mct.load_model(copy).model.lm_head.weight, tutorial.model.lm_head.weight)


def test_a_family_outside_the_registry_is_refused_by_name():
    from transformers import GPTJConfig, GPTJForCausalLM

    model = GPTJForCausalLM(GPTJConfig(vocab_size=8, n_embd=8, n_layer=1, n_head=2, rotary_dim=4))
    with pytest.raises(InputError, match="GPTJForCausalLM does not use transformers' attention registry"):
        wrap_model(model, None)


@pytest.mark.parametrize("examples, message", [([], "must be numbers of the trace's 5 prompts"), ([-1], "must be numbers"), ([5], "must be numbers"),
                                               ([0.5], "must be numbers"), ([True, False], "must be numbers"),
                                               ([[0, 1], [1, 2], [2, 3]], "examples has 3 rows for 2 masks")])
def test_numbers_of_prompts_are_checked(lm, examples, message):
    with pytest.raises(InputError, match=message):
        Trace(lm, random_task(), "head_output").effects(torch.rand(2, 4), examples=examples)


def test_positions_of_masks_are_checked(lm):
    trace = Trace(lm, random_task(), "residual")
    for at in (torch.tensor([3, 3]), torch.full((1, 5), 3), torch.full((2, 4), 3)):
        with pytest.raises(InputError, match=r"give a position for each of 2 masks and 5 prompts, \(2, 5\)"):
            trace.effects(torch.eye(2), at=at)
    with pytest.raises(InputError, match="at has shape"):
        trace.effects(torch.eye(2), examples=[3, 4], at=torch.full((2, 5), 3))
    with pytest.raises(InputError, match=r"mask has shape \(0, 2\)"):
        trace.effects(torch.zeros(0, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masks_of_half_precision_are_taken(lm, dtype):
    trace = Trace(lm, random_task(), "head_output")
    torch.testing.assert_close(trace.effects(torch.eye(4, dtype=dtype)), trace.effects(torch.eye(4)))


def test_a_second_derivative_is_refused(lm):
    """The kit's own backward passes give first derivatives; torch says so, rather than giving wrong second ones."""
    trace = Trace(lm, random_task(), "mlp_block", corruption="zero")
    mask = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(trace.effects(mask).mean(), mask, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), mask)
