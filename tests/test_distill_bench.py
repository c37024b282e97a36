"""The benchmark of distillation: both ways of writing give one text, and every number is there."""

import copy

import pytest
import torch

from mctrace_nb import bench
from mctrace_nb.bench import distill as D
from mctrace_nb.distill.rollouts import write_rollouts


def test_reading_anew_writes_the_same_and_a_difference_is_noticed(monkeypatch):
    both, prompts = D.the_pair()
    D.same_words(both.student, [prompts[0], prompts[1][3:]], both.end, 5, both.vocabulary)  # one of them padded
    reads, forward = [], type(both.student).forward
    monkeypatch.setattr(type(both.student), "forward", lambda self, input_ids, **more: reads.append(input_ids.shape[1]) or forward(self, input_ids, **more))
    write_rollouts(D.Forgetful(both.student), prompts[:2], -1, 4, 0, both.vocabulary)
    assert reads == [len(prompts[0]) + i for i in range(4)]  # really without anything kept
    monkeypatch.setattr(D, "places", lambda mask: torch.zeros_like(mask))
    with pytest.raises(AssertionError, match="change the text"):
        D.same_words(both.student, prompts[:8], both.end, 5, both.vocabulary)


def test_every_number_is_measured(monkeypatch):
    monkeypatch.setattr(D, "BATCHES", (2, 4))
    monkeypatch.setattr(D, "LONG", 16)
    before = copy.deepcopy(torch.get_rng_state())
    rows = [bench.row(**found) for found in D.measure(quick=True)]
    assert torch.equal(before, torch.get_rng_state())
    assert len(rows) == len({r["name"] for r in rows}) == 16 and all(r["value"] > 0 for r in rows) and sum(r["bar"] is not None for r in rows) == 4
    for batch in (2, 4):
        shares = [r["value"] for r in rows if r["name"].startswith(f"batch of {batch} texts: share")]
        assert len(shares) == 4 and 0.8 < sum(shares) < 1.2  # of medians, one by one


def test_ways_take_turns():
    called = []
    found = D.in_turns({"a": lambda: called.append("a") or len(called), "b": lambda: called.append("b") or len(called)}, 2)
    assert called == list("ababab") and found["a"].tolist() == [3, 5] and found["b"].tolist() == [4, 6]
