"""A selection at work: the model run by itself says what the trace says, and is the same afterwards."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import Words, random_task, tiny_gpt2
from test_families import FAMILIES

import mctrace_nb as mct
from mctrace_nb.apply import apply, continuation, next_tokens
from mctrace_nb.models import wrap_model
from mctrace_nb.results import Selection
from mctrace_nb.search import search
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

PLACES = [(kind, corruption, positions) for kind in ("head_output", "head_pattern", "mlp_neuron", "mlp_block", "residual")
          for corruption in ("counterfactual", "zero") for positions in ("all", "last", "subject")
          if corruption == "counterfactual" or positions == "all"]


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2()


def chosen(trace, count=2):
    labels = trace.components.labels
    return Selection("by hand", (labels[0], labels[-1])[:count], 0.0, **trace.origin)


@pytest.mark.parametrize("kind, corruption, positions", PLACES)
def test_the_next_token_is_the_trace_s(lm, kind, corruption, positions):
    task = random_task(n=4, length=(6, 9), differ=2)
    if positions == "subject":  # a subject may be longer than what differs
        task = replace(task, search=tuple(replace(e, subject=(e.subject[0], len(e.base))) for e in task.search))
    trace = Trace(lm, task, kind, positions=positions, corruption=corruption)
    picked = chosen(trace)
    for e, effect in zip(task.search, trace.effects(list(picked.components))):
        other = e.counterfactual if corruption == "counterfactual" else None
        with torch.no_grad(), picked.apply(lm, other, e.subject):
            logits = lm.model(input_ids=torch.tensor([e.base])).logits[0, -1]
        plain = lm.model(input_ids=torch.tensor([e.base])).logits[0, -1].detach()
        odds = [(x[e.target[0]] - x[e.foil[0]]).item() for x in (logits, plain)]
        assert odds[0] - odds[1] == pytest.approx(effect.item(), abs=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "gpt_neox"])
def test_generation_leaves_the_written_tokens_alone(family):
    """What generate scores step by step, with a cache, is what a trace gives to the written answer in one pass."""
    torch.manual_seed(0)
    lm = wrap_model(FAMILIES[family]().double(), Words(), family)
    lm.model.generation_config.eos_token_id = None
    e = random_task(n=1, length=(8, 8)).search[0]
    for kind in ("head_output", "head_pattern", "mlp_neuron"):
        picked = chosen(Trace(lm, Task("one", (e,)), kind))
        with torch.no_grad(), picked.apply(lm, e.counterfactual):
            ids = torch.tensor([e.base])
            out = lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False,
                                    pad_token_id=0, output_logits=True, return_dict_in_generate=True)
        written = out.sequences[0, 8:].tolist()
        scored = sum(logits[0].double().log_softmax(-1)[token].item() for logits, token in zip(out.logits, written))
        answer = replace(e, target=tuple(written), foil=((written[0] + 1) % 32,))
        trace = Trace(lm, Task("written", (answer,)), kind, metric="log_prob", answer_rule="sum")
        again = trace.base_values + trace.effects(list(picked.components))
        assert scored == pytest.approx(again.item(), abs=1e-5)  # generate gives its logits in float32


def test_everything_replaced_writes_what_the_counterfactual_writes(tutorial):
    task = mct.load_task("professions", tutorial, n=8)
    trace = Trace(tutorial, task, ("attn_block", "mlp_block"))
    everything = Selection("all", tuple(trace.components.labels), 0.0, **trace.origin)
    e = task.search[0]
    mine = next_tokens(tutorial, e.base, everything, e.counterfactual)
    theirs = next_tokens(tutorial, e.counterfactual)
    assert mine["id"].tolist() == theirs["id"].tolist()
    assert mine["probability"].tolist() == pytest.approx(theirs["probability"].tolist(), abs=1e-5)
    assert continuation(tutorial, e.base, everything, e.counterfactual, tokens=1) == continuation(tutorial, e.counterfactual, tokens=1)


def test_a_found_set_changes_what_is_said(tutorial):
    task = mct.load_task("professions", tutorial, n=16)
    trace = Trace(tutorial, task, "head_output")
    best = search(trace, "exhaustive", budgets=[3], progress=False)[3]
    said = mct.speech(trace, best)
    assert list(said["run"]) == ["untouched", "the set replaced", "counterfactual prompt"] * 3
    first = said["next"].str.split(",").str[0].str.split().str[0]
    assert first[0] != first[2] == first[1]
    assert mct.speech(trace.again(corruption="noise"), best).empty


def test_the_model_is_the_same_afterwards_also_after_an_error(lm):
    trace = Trace(lm, random_task(n=1, length=(6, 6)), "head_output")
    e, ids = trace.examples[0], torch.tensor([trace.examples[0].base])
    before = lm.model(input_ids=ids).logits
    with pytest.raises(RuntimeError, match="inside"), chosen(trace).apply(lm, e.counterfactual):
        lm.model(input_ids=ids)
        raise RuntimeError("inside")
    assert torch.equal(lm.model(input_ids=ids).logits, before)
    assert not lm.model._forward_pre_hooks and all(p.requires_grad for p in lm.model.parameters())


def test_what_does_not_fit_is_refused(lm):
    trace = Trace(lm, random_task(n=1, length=(6, 6)), "head_output")
    picked, other = chosen(trace), trace.examples[0].counterfactual
    zero = chosen(trace.again(corruption="zero"))
    for selection, give, message in (
            (Selection("x", ("L0H0",), 0.0), other, "does not say of which kind"), (picked, None, "give counterfactual="),
            (zero, other, "takes no counterfactual"), (chosen(trace.again(corruption="noise")), None, "belongs to the prompts"),
            (chosen(trace.again(corruption="zero", positions="last")), None, "belongs to the prompts"),
            (Selection("x", ("L9H0",), 0.0, kinds=("head_output",)), other, "unknown component 'L9H0'")):
        with pytest.raises(mct.InputError, match=message), apply(selection, lm, give):
            pass
    with picked.apply(lm, other):
        with pytest.raises(mct.InputError, match="the prompt has 5 tokens, its counterfactual 6"):
            lm.model(input_ids=torch.tensor([other[1:]]))
        with pytest.raises(mct.InputError, match="are padded"):
            lm.model(input_ids=torch.tensor([other]), attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]))
        with pytest.raises(mct.InputError, match="in use by another trace"):
            trace.effects(["L0H0"])


def test_selections_remember_where_they_were_found(lm, tmp_path):
    trace = Trace(lm, random_task(), "head_output", corruption="zero", positions="last")
    for method in ("greedy", "pgb"):
        front = search(trace, method, budgets=[2], progress=False)
        for s in type(front).load(front.save(tmp_path / method)).selections:
            assert (s.kinds, s.corruption, s.positions) == (("head_output",), "zero", "last")
    assert math.isfinite(front.selections[0].effect)
