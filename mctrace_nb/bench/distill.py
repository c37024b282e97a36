"""What a batch of on-policy distillation costs, on the shipped teacher and student, and how much of it is writing."""

from __future__ import annotations

import copy
from itertools import islice
from types import SimpleNamespace
from typing import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from mctrace_nb.distill import experiment, models
from mctrace_nb.distill.losses import Objective
from mctrace_nb.distill.loop import rollout_speed
from mctrace_nb.distill.pairs import Pair, pair, places
from mctrace_nb.distill.problems import ANSWER_TOKENS
from mctrace_nb.distill.rollouts import write_rollouts

BATCHES = (32, 128)  # the second is the paper's
LONG = 128  # words of a longer text


class Forgetful(nn.Module):
    """A model that reads the whole text anew at every word: what it keeps from one word to the next are the words themselves."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Tensor | None = None):
        ids = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], 1)
        out = self.model(input_ids=ids, attention_mask=attention_mask, position_ids=places(attention_mask), use_cache=False, logits_to_keep=1)
        return SimpleNamespace(logits=out.logits, past_key_values=ids)


def in_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each way, `(rounds,)`: the ways take turns, so that whatever else the machine does hits all of them. One more, to warm up."""
    found = [[way() for way in ways.values()] for _ in range(rounds + 1)][1:]
    return dict(zip(ways, np.array(found).T))


def same_words(model: nn.Module, prompts: list, end: int, new_tokens: int, vocabulary: int) -> None:
    """Asserts, in double precision, that a model writes the same with and without keys and values kept."""
    exact = copy.deepcopy(model).double()
    kept, anew = (write_rollouts(m, prompts, end, new_tokens, 0, vocabulary) for m in (exact, Forgetful(exact)))
    assert torch.equal(kept.tokens, anew.tokens) and torch.allclose(kept.logp, anew.logp, atol=1e-9), "keys and values kept change the text"


def without_the_cache(model: nn.Module, prompts: list, end: int, new_tokens: int, vocabulary: int, rounds: int) -> float:
    """Time of writing with keys and values kept over that of writing without."""
    same_words(model, prompts[:8], end, new_tokens, vocabulary)
    seconds = in_turns({name: lambda m=m: write_rollouts(m, prompts, end, new_tokens, 0, vocabulary).seconds
                        for name, m in (("kept", model), ("anew", Forgetful(model)))}, rounds)
    return float(np.median(seconds["kept"] / seconds["anew"]))


def the_pair() -> tuple[Pair, list[list[int]]]:
    """The shipped pair, and prompts for the largest batch."""
    teacher, tokenizer = experiment.load_teacher()
    both = pair(experiment.load_student()[0], teacher, tokenizer)
    return both, list(islice(experiment.prompts(tokenizer, 0), max(BATCHES)))


def measure(quick: bool) -> Iterator[dict]:
    """All of it; `quick`: a few turns in place of thirty, and shorter long texts."""
    rounds, long = (3, LONG // 4) if quick else (30, LONG)
    both, prompts = the_pair()
    speeds = {batch: rollout_speed(both, prompts[:batch], Objective(), ANSWER_TOKENS, rounds) for batch in BATCHES}
    for batch, found in speeds.items():
        yield dict(name=f"batch of {batch} texts: milliseconds, an update included", value=1000 * found["seconds"])
        for part, called in (("generation", "writing"), ("scoring", "scoring by the teacher"), ("loss", "loss and backward pass"), ("update", "update")):
            yield dict(name=f"batch of {batch} texts: share of {called}", value=found[f"{part}_seconds"] / found["seconds"])
        yield dict(name=f"batch of {batch} texts: tokens a second while writing", value=found["tokens_per_second"])
    few, many = (speeds[batch] for batch in BATCHES)
    yield dict(name=f"tokens a second in all, batches of {BATCHES[1]} / of {BATCHES[0]}", value=many["tokens"] / many["seconds"] / (few["tokens"] / few["seconds"]), bar=1.0,
               sense=">=")
    seconds = in_turns({name: lambda name=name: rollout_speed(both, prompts, Objective(name), ANSWER_TOKENS, 1)["seconds"] for name in ("opd", "eopd")},
                       rounds)
    yield dict(name="seconds per batch, entropy-aware / plain on-policy distillation", value=np.median(seconds["eopd"] / seconds["opd"]), bar=1.2)
    yield dict(name=f"writing {ANSWER_TOKENS} words, keys and values kept / all read anew",
               value=without_the_cache(both.student, prompts, both.end, ANSWER_TOKENS, both.vocabulary, rounds), bar=0.8)
    teacher = models.TEACHER
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        longer = GPT2LMHeadModel(GPT2Config(vocab_size=both.vocabulary, n_positions=2 * LONG, n_embd=teacher.width, n_layer=teacher.layers,
                                            n_head=teacher.heads, bos_token_id=None, eos_token_id=None)).eval()
    # no word has the number -1: nothing ends early
    yield dict(name=f"writing {long} words, the same (random weights of the teacher's size, 32 texts)",
               value=without_the_cache(longer, prompts[:32], -1, long, both.vocabulary, max(3, rounds // 6)), bar=0.4)
