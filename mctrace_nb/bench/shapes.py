"""What the benchmarks run on: random models of well-known sizes, and random tokens in the shapes of published data sets."""

from __future__ import annotations

import statistics
import time
from random import Random
from typing import Callable

import torch

from mctrace_nb.layout import LanguageModel
from mctrace_nb.models import wrap_model
from mctrace_nb.tasks import Example, Task

# Tokens of prompt, target and foil in the first 32 pairs of WinoBias (type 1, dev) by GPT-2's tokenizer; the last token of the
# prompt, the pronoun, is the one that differs.
WINOBIAS = ("12.3.4 9.2.8 10.3.3 11.3.5 10.6.3 12.4.5 7.4.3 11.6.4 7.4.3 11.7.4 10.4.5 7.7.9 8.3.5 12.3.5 10.4.3 9.3.3 "
            "10.6.6 7.5.4 10.5.5 7.3.4 11.7.3 12.6.3 9.6.5 11.4.3 10.7.7 9.4.3 10.5.3 7.3.4 7.6.9 7.3.7 7.4.7 7.4.5")


class NoWords:
    """The tokenizer of models that only read token ids."""

    vocab_size = 0

    def get_vocab(self) -> dict:
        return {}


def gpt2_small(layers: int = 12, width: int = 768, words: int = 50257, context: int = 1024) -> LanguageModel:
    """GPT-2 small with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=words, n_positions=context, bos_token_id=0, eos_token_id=0)
    return wrap_model(GPT2LMHeadModel(config), NoWords(), "random GPT-2 small")


def small_or_full(quick: bool) -> LanguageModel:
    """GPT-2 small, or for a quick look one of 2 layers and fewer words; frozen, as inside a trace."""
    lm = gpt2_small(layers=2, words=10_000) if quick else gpt2_small()
    lm.model.requires_grad_(False)
    return lm


def _pair(random: Random, words: int, length: int, differs: int, target: int, foil: int) -> Example:
    base = [random.randrange(words) for _ in range(length)]
    other = [*base[:differs], (base[differs] + 1) % words, *base[differs + 1:]]
    return Example(tuple(base), tuple(other), *(tuple(random.randrange(words) for _ in range(n)) for n in (target, foil)))


def winobias_shaped(words: int = 50257, times: int = 1) -> Task:
    """32 pairs of random tokens as long as those of WinoBias, or so many times as many."""
    random = Random(0)
    sizes = [map(int, x.split(".")) for x in times * WINOBIAS.split()]
    return Task("WinoBias-shaped", tuple(_pair(random, words, n, n - 1, a, b) for n, a, b in sizes))


def professions_shaped(words: int = 50257, n: int = 32) -> Task:
    """Pairs of random tokens as long as "The nurse said that" / " he" / " she"."""
    random = Random(0)
    return Task("Professions-shaped", tuple(_pair(random, words, 5 if i % 4 == 0 else 4, 1, 1, 1) for i in range(n)))


def long_prompts(tokens: int, words: int, n: int = 2) -> Task:
    """Pairs of long prompts that differ from the first token on."""
    random = Random(0)
    return Task(f"{tokens} tokens", tuple(_pair(random, words, tokens, 0, 1, 1) for _ in range(n)))


def now() -> float:
    """Seconds, after a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def medians(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """Median seconds of each call, taken in turns so that a busy moment of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for run, took in zip(runs, times):
            start = now()
            run()
            took.append(now() - start)
    return [statistics.median(t) for t in times]
