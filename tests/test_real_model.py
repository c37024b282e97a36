"""A real pretrained Llama: the kit must find what is known to be there."""

import pytest
import torch
from conftest import asset

import mctrace_nb as mct

GIRLS, BOYS = "Lily Sue Amy Lucy Mia Anna Sara Jane Emma Mary Kate Rose".split(), "Tim Ben Timmy Max Jack Sam Tom John Bob Joe Peter Mark".split()
STARTS = ("Once upon a time, there was a little {} named {}. One day,", "There was a little {} named {}. One day,",
          "Once there was a little {} named {}. One day,", "Once upon a time, there was a {} named {}. One day,",
          "There once was a little {} named {}. Every day,")


@pytest.fixture(scope="module")
def trace():
    model = mct.load_model(str(asset("models/stories260K/config.json").parent), device="cpu")
    pairs = []
    for start in STARTS:
        free = list(BOYS)
        for girl in GIRLS:
            other = start.format("girl", girl)
            length = len(model.tokenizer(other)["input_ids"])
            boy = next((b for b in free if len(model.tokenizer(start.format("boy", b))["input_ids"]) == length), None)
            if boy:
                free.remove(boy)
                pairs.append(dict(base=start.format("boy", boy), counterfactual=other, target="she", foil="he", group=start))
    return mct.Trace(model, mct.Task.from_pairs(pairs, model, name="pronouns", heldout=0), "head_output")


def test_begins_with_bos_once_and_pairs_are_many(trace):
    assert len(trace) >= 20
    for e in trace.examples:
        assert e.base[0] == 1 and 1 not in e.base[1:] and len(e.base) == len(e.counterfactual)


def test_total_effect(trace):
    assert 5 <= trace.total_effect().mean <= 11


def test_one_head_carries_most_and_shares_do_not_add_up(trace):
    effects, total = trace.effects(torch.eye(len(trace.components))), trace.total_effects()
    best = effects.argmax(0)
    known = trace.components.index("L4H2")
    share = effects[known] / total
    assert (best == known).float().mean() >= 0.9
    assert ((share > 0.4) & (share < 0.75)).float().mean() >= 0.9
    assert (effects.sum(0) - total).abs().median() > 0.5
