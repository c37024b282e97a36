"""Each trap of lesson 12: wrong and right differ, right is what the package says elsewhere, and without its guard a test fails."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap

import nbformat
import pytest
import torch
from conftest import ROOT, random_task, tiny_gpt2
from mutations import MUTATIONS
from test_trace import plain_values
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import mctrace_nb as mct
from mctrace_nb import traps
from mctrace_nb.check import nb12
from mctrace_nb.mixing import Mix
from mctrace_nb.observing import observe
from mctrace_nb.traps import TRAPS, byhand, outcome, place

NAMES = [t.name for t in TRAPS]
LESSON = ROOT / "notebooks" / "12_traps.ipynb"


# --- the guards that no other file tests ---

def test_an_answer_keeps_its_space(tutorial):
    """Of a vocabulary with spaces in its words: the answer is the token that follows the prompt in a text, or nothing is made."""
    task = mct.load_task("professions", tutorial, 8)
    words = byhand.spaced(tutorial, task)
    pair = dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")
    e, = mct.Task.from_pairs([pair], words, heldout=0).search
    assert e.base + e.target == tuple(words.tokenizer("the nurse said that he")["input_ids"])
    assert [words.tokenizer.decode(answer) for answer in (e.target, e.foil)] == [" he", " she"]
    assert words.tokenizer("he")["input_ids"] != [1, *e.target]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_patterns_are_read_under_every_kernel(tutorial, kernel):
    """As the eager kernel returns them."""
    ids = place()[1].search[0].base
    tutorial.model.set_attn_implementation("eager")
    expected = tutorial.model(torch.tensor([ids]), output_attentions=True).attentions
    tutorial.model.set_attn_implementation(kernel)
    seen = observe(tutorial, [ids], [("pattern", layer) for layer in range(3)])
    tutorial.model.set_attn_implementation("sdpa")
    for layer, pattern in enumerate(expected):
        torch.testing.assert_close(seen.activity["pattern", layer].transpose(0, 1), pattern[0], atol=1e-6, rtol=1e-5)


def test_patterns_are_written():
    """All patterns of the other prompt, by an attention function that takes them from a run of it: what no forward hook can do."""
    lm, task = tiny_gpt2(), random_task(n=4, length=(6, 6))
    found = mct.Trace(lm, task, "head_pattern")
    kept, state = {}, {}

    def by_hand(module, query, key, value, attention_mask, **more):
        if state["record"]:
            kept[module] = query, key
        else:
            query, key = kept[module]
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)

    AttentionInterface.register("other_patterns", by_hand)
    lm.model.set_attn_implementation("other_patterns")
    values = []
    with torch.no_grad():
        for e in task.search:
            for state["record"], prompt in ((True, e.counterfactual), (False, e.base)):
                logits = lm.model(torch.tensor([prompt])).logits[0, -1]
            values.append(logits[e.target[0]] - logits[e.foil[0]])
    lm.model.set_attn_implementation("sdpa")
    effects = found.effects(torch.ones(4))
    torch.testing.assert_close(effects, torch.stack(values) - plain_values(found).detach(), rtol=1e-6, atol=1e-6)
    assert effects.abs().max() > 1e-2


def test_gradients_of_masks_are_summed_in_float32():
    """257 tokens add 1 each; no number in bfloat16 is 257."""
    weight = torch.zeros(1, 1, 1, 1, requires_grad=True)
    own, other = torch.zeros(1, 257, 1, 1, dtype=torch.bfloat16), torch.ones(1, 257, 1, 1, dtype=torch.bfloat16)
    Mix.apply(own, other, weight, None).float().sum().backward()
    assert weight.grad.item() == 257


def test_the_first_step_decides_nothing(tutorial):
    """With the steps that are taken when nobody asks for others."""
    _, _, trace = place()
    first = mct.pgb(trace, epochs=1, batch_size=len(trace), progress=False).trajectory[-1]
    assert ((first > 0.3) & (first < 0.7)).all()


# --- wrong and right ---

@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_and_right_differ(name, seed):
    """By a fifth of the larger of them at least, with other prompts too."""
    wrong, right = outcome(name, seed)
    assert abs(wrong - right) > 0.2 * max(abs(wrong), abs(right))


def by_the_stock_model(e, lm):
    logits = lm.model(torch.tensor([e.base])).logits[0, -1]
    return (logits[e.target[0]] - logits[e.foil[0]]).item()


def test_right_is_what_other_ways_say():
    """Where the right way asks the package, here the stock model, another search or arithmetic is asked."""
    lm, task, trace = place()
    alone = [by_the_stock_model(e, lm) for e in task.search]
    right = {name: outcome(name)[1] for name in NAMES}
    for name in ("padding on learned positions", "a BOS before the answer", "the space before an answer"):
        assert right[name] == pytest.approx(alone[0], abs=1e-4)
    assert right["pads between context and answer"] == pytest.approx(sum(alone) / len(alone), abs=1e-4)
    base, other = (lm.tokenizer(f"yesterday the {who} said that")["input_ids"] for who in ("nurse", "man"))
    he, she = lm.tokenizer.convert_tokens_to_ids(["he", "she"])
    before, after = lm.model(torch.tensor([base])).logits[0, -1], byhand.replaced_by_place(lm, base, other, [x.attention for x in lm.layers])
    assert right["prompts of unequal length"] == pytest.approx((after[he] - after[she] - before[he] + before[she]).item(), abs=1e-4)
    assert right["patterns that are not returned"] == pytest.approx(len(lm.layers), abs=1e-5)
    assert right["train mode"] == 0 and right["sums in bfloat16"] == 16 and right["gradients of weights"] == 0
    for kind, name in (("mlp_neuron", "what a neuron is"), ("head_output", "what a head is")):
        effects = {label: trace.again(components=kind).effects([label]).mean().item() for label in ("L0H3", "L0.n10") if
                   label in lm.components(kind).labels}
        assert max(effects.values()) == pytest.approx(right[name], abs=1e-4)
    assert right["what 1 in a mask means"] == pytest.approx(mct.search(trace, "exhaustive", [3], progress=False)[3].effect, abs=1e-4)
    least = trace.again(metric="logit_diff").single_effects()["effect"].min()
    assert right["1/(1 + rho) beyond ratios"] == pytest.approx(-least, abs=1e-4)
    assert right["a learning rate of 0.5 from 0.5"] == len(trace.components) == 12
    assert outcome("half counts as chosen")[0] - right["half counts as chosen"] == 4  # the heads of the last layer cannot matter there
    facts = trace.again(task=mct.load_task("facts", lm, 64, 0))
    assert right["a mean of ratios"] == pytest.approx((1 + facts.effects(["L0H3"], scale="relative")).log().mean().exp().item() - 1, abs=1e-3)


def test_the_loss_beyond_ratios_is_refused():
    _, _, trace = place()
    with pytest.raises(mct.InputError, match="needs a ratio for each prompt"):
        mct.pgb(trace.again(metric="logit_diff"), transform="inverse", progress=False)


@pytest.mark.parametrize("seed", [0, 5])
def test_what_the_lesson_tells(seed):
    """Sentences of the lesson that hold for other prompts too."""
    lm, task, trace = place(seed)
    wrong, right = ({name: outcome(name, seed)[i] for name in NAMES} for i in (0, 1))
    assert wrong["1/(1 + rho) beyond ratios"] < 0 < right["1/(1 + rho) beyond ratios"]
    assert wrong["half counts as chosen"] - right["half counts as chosen"] == 4
    assert 0 < wrong["what 1 in a mask means"] and right["what 1 in a mask means"] > 0.85 * trace.total_effect().mean
    assert wrong["patterns that are not returned"] == wrong["a BOS before the answer"] == 0
    assert wrong["a hook that cannot write the pattern"] < 1e-4 and abs(wrong["what a head is"]) < 0.01
    assert trace.single_effects().set_index("component")["effect"].idxmax() == "L0H3"
    for e in task.search:
        looks = [observe(lm, [prompt], [("pattern", 0)]).activity["pattern", 0][-1, 3].argmax() for prompt in (e.base, e.counterfactual)]
        assert looks[0] == looks[1]
    words = byhand.spaced(lm, task)
    for e in task.search:
        bare = [words.tokenizer(word)["input_ids"][1] for word in ("he", "she")]
        said = words.model(torch.tensor([words.tokenizer(task.text(e.base))["input_ids"]])).logits[0, -1].softmax(-1)
        assert said[bare].sum() < 1e-4
    assert lm.width * 4 == lm.neurons and nb12.effect(torch.ones(2), torch.tensor([4, 0.25])) == 0
    drawn = [mct.load_task("names", lm, 8, seed + i) for i in range(6)]
    assert not {e.base for t in drawn for e in (*t.search, *t.heldout)} & {e.base for e in mct.load_task("names", lm, 64, seed + 100).search}


def test_the_third_neuron():
    """In a model with a gate the activation function gives one half of what enters the down projection."""
    lm = mct.random_model("llama")
    seen = {}
    mlp = lm.layers[0].mlp
    handles = [mlp.act_fn.register_forward_hook(lambda _, __, out: seen.update(gate=out)),
               mlp.up_proj.register_forward_hook(lambda _, __, out: seen.update(up=out)),
               mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.update(neuron=args[0]))]
    lm.model(torch.tensor([[1, 5, 9]]))
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen["gate"] * seen["up"], seen["neuron"])
    assert (seen["gate"] - seen["neuron"]).abs().max() > 0.1 * seen["gate"].abs().max()


def test_models_are_left_as_they_were():
    lm, _, _ = place()
    for name in NAMES:
        outcome(name)
    assert not lm.model.training and lm.model.config._attn_implementation == "sdpa" and lm.tokenizer.padding_side == "right"
    assert not [p for p in lm.model.parameters() if p.grad is not None and p.grad.any()]
    assert not [m for m in lm.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_what_by_hand_refuses_and_finds():
    lm, _, trace = place()
    with pytest.raises(mct.InputError, match="no epoch keeps 1 to 0 components"):
        byhand.best_by_eye([trace], budget=0)
    effect, chosen = byhand.best_by_eye([trace], budget=12)
    assert effect == pytest.approx(trace.heldout.effects(chosen).mean().item(), abs=1e-6)


def test_table_and_names():
    table = traps.table()
    assert table.index.tolist() == NAMES == list(MUTATIONS) and len(set(NAMES)) == 19
    assert table.loc["gradients of weights", "wrong"] == "163,264" and table.loc["what a head is", "wrong"] == "0.00"
    with pytest.raises(mct.InputError, match="unknown trap 'train mood'; did you mean 'train mode'"):
        traps.trap("train mood")


# --- the lesson shows these lines and these numbers ---

def lines(way, name):
    """The lines of a way as a cell shows them."""
    body = textwrap.dedent("".join(inspect.getsourcelines(way)[0][1:])).rstrip()
    return re.sub(r"^return ", f"{name} = ", body, flags=re.M)


@pytest.mark.parametrize("trap", TRAPS, ids=NAMES)
def test_the_lesson_shows_the_lines_and_the_numbers(trap):
    cells = [c for c in nbformat.read(LESSON, as_version=4).cells if c.cell_type == "code"]
    for way, name, value in ((trap.wrong, "wrong", outcome(trap.name)[0]), (trap.right, "right", outcome(trap.name)[1])):
        mine = [c for c in cells if c.source.startswith(lines(way, name) + "\n") and (name == "right" or trap.unit in c.source)]
        shown = rf"(?<![\d.]){re.escape(traps.said(value))}(?!\d)"
        assert mine and all(re.search(shown, "".join(o.get("text", "") for o in c.outputs)) for c in mine), (name, value)


# --- without the guard ---

def copied(tmp_path):
    """The package, its tests and its data in a folder of their own."""
    for name in ("mctrace_nb", "tests", "data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run_there(folder, *tests):
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], cwd=folder, env=environment,
                          capture_output=True, text=True)


@pytest.mark.long
def test_guards_pass_as_they_are(tmp_path):
    done = run_there(copied(tmp_path), *dict.fromkeys(t.test for t in TRAPS))
    assert done.returncode == 0 and "skipped," not in done.stdout, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("trap", TRAPS, ids=NAMES)
def test_without_its_guard_a_test_fails(trap, tmp_path):
    folder, (file, old, new) = copied(tmp_path), MUTATIONS[trap.name]
    path = folder / "mctrace_nb" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    done = run_there(folder, trap.test)
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout
