"""What a run will cost, from sizes alone: components, rows, passes, memory, minutes. And a refusal of what cannot fit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache as remembered
from typing import Sequence

import torch

from mctrace_nb import memory
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.models import DTYPES, LanguageModel, skeleton
from mctrace_nb.rows import lay_out
from mctrace_nb.sides import CACHES, NEVER_RUN, corrupted_from
from mctrace_nb.tasks import Task

# Bytes of working memory, fitted to peaks measured on GPT-2 and Llama shapes on the CPU (`bench memory` measures them anew).
# In units of one number for each token and MLP neuron: what a forward pass holds, and what a layer keeps for the backward pass.
FORWARD, BACKWARD = 14.0, 6.4
LOGITS, LOGITS_BACKWARD = 3, 4  # copies of the logits that are read, without and with a gradient
LIBRARIES = 60 << 20  # buffers of the matrix library
SECONDS_A_LAYER = 4e-4  # what a layer costs in a pass over a single row, measured on two cores
ATTAINED = 0.5  # share of the matrix library's speed that a whole model reaches, measured on GPT-2 small
RANDOM_DRAWS, SMALL = 100, 20_000


@dataclass(frozen=True)
class Shape:
    """The rows of a task. n: prompts. answers K: rows a prompt. tokens T: run in every pass; prefix P: run once; reads U:
    logits read a prompt."""

    n: int
    answers: int
    tokens: int
    prefix: int
    reads: int


def rows_of(method: str, components: int, budgets: Sequence[int], n: int, epochs: int = 15) -> int:
    """Rows forwarded and back-propagated by a search (masks x prompts); for pgb at most so many, for it may stop early."""
    last = max(budgets)
    return n * {"exhaustive": sum(math.comb(components, b) for b in budgets),
                "greedy": sum(components - s for s in range(last)), "top-k": components + len(budgets),
                "random": RANDOM_DRAWS * len(budgets), "pgb": 3 * epochs, "pgb-log": 3 * epochs}[method]


@dataclass(frozen=True)
class Cost:
    """components: how many. rows: for each method, masks x prompts forwarded and back-propagated. passes: forward passes of
    all methods together. Bytes: weights; cache (the values to put in); prefix (keys and values of the unchanging tokens);
    forward and backward (working memory); process (what Python and its libraries hold already). minutes: expected."""

    model: str
    components: int
    rows: dict[str, int]
    passes: int
    weights: int
    cache: int
    prefix: int
    forward: int
    backward: int
    process: int
    minutes: float
    device: torch.device
    where: str

    @property
    def run(self) -> int:
        """Bytes that tracing adds to a loaded model on its device."""
        kept = self.cache if self.where == "device" or self.device.type == "cpu" else 0
        return kept + self.prefix + self.forward + self.backward

    @property
    def total(self) -> int:
        """Bytes in use at the peak on the model's device."""
        return self.process + self.weights + self.run

    def __str__(self) -> str:
        size = {name: _size(getattr(self, name)) for name in ("weights", "cache", "prefix", "forward", "backward", "total")}
        return (f"{self.model}: {self.components:,} components; {sum(self.rows.values()):,} rows in about {self.passes:,} forward "
                f"passes ({', '.join(f'{m} {r:,}' for m, r in self.rows.items())}); memory {size['total']} (weights "
                f"{size['weights']}, cache {size['cache']} on {self.where}, prefix {size['prefix']}, working {size['forward']} "
                f"forward and {size['backward']} more backward); about {self.minutes:.1f} minutes on {self.device}")

    __repr__ = __str__

    def check(self, free: int | None = None) -> None:
        """Raises InputError, naming what to change, if tracing needs more memory than there is (`free` bytes)."""
        free = memory.available(self.device) if free is None else free
        if self.run <= free:
            return
        parts = {"cache": self.cache, "forward": self.forward, "backward": self.backward}
        repair = {"cache": ("cache='host' or " if self.device.type != "cpu" else "") + "cache='recompute', positions='last', fewer "
                           "prompts (n) or a kind with fewer values (head_output, mlp_block)",
                  "forward": "a smaller batch_rows or shorter prompts",
                  "backward": "a smaller batch_size, fewer settings at once, or a method without gradients (greedy)"}
        most = max(parts, key=parts.get)
        raise InputError(f"tracing {self.model!r} like this needs about {_size(self.run)}, {_size(parts[most])} of it for the "
                         f"{'cached values' if most == 'cache' else most + ' pass'}, and {_size(free)} are free on {self.device}; "
                         f"use {repair[most]}")


def _size(count: int) -> str:
    return f"{count / 2 ** 30:.1f} GiB" if count >= 2 ** 30 else f"{count / 2 ** 20:.0f} MiB"


def widths(lm: LanguageModel) -> dict[str, int]:
    """Numbers that one layer and token hold in the cache, for each kind."""
    heads, keys = lm.heads * lm.head_width, lm.kv_heads * lm.head_width
    return {"head_pattern": heads + keys, "head_output": heads, "attn_block": lm.width, "mlp_neuron": lm.neurons,
            "mlp_output": lm.width, "mlp_block": lm.width, "residual": lm.width}


def shape_of(task: Task, positions: str = "all", corruption: str = "counterfactual", noise_on: str = "subject",
             split: str = "search") -> Shape:
    """The rows that a trace of a task will lay out."""
    examples = getattr(task, split)
    rows = lay_out(examples, "base", positions, corrupted_from(examples, corruption, noise_on), torch.device("cpu"))
    return Shape(len(examples), *rows.ids.shape[1:], rows.prefix.shape[1], rows.read_valid.shape[1])


def needed(lm: LanguageModel, kinds: Sequence[str], shape: Shape, corruption: str, cache: str, batch_rows: int,
           graph_rows: int = 0) -> dict[str, int]:
    """Bytes of `Cost`: cache, prefix, forward, backward. graph_rows: rows that a gradient is taken through at once."""
    item = 8 if lm.dtype == torch.float64 else lm.dtype.itemsize
    layers, words = len(lm.layers), lm.model.get_output_embeddings().weight.shape[0]
    a_token = sum(widths(lm)[kind] for kind in kinds) * layers * item
    neurons = lm.neurons or 4 * lm.width
    all_rows = shape.n * shape.answers
    once = min(batch_rows, all_rows)
    kept = 0 if corruption in NEVER_RUN else all_rows * shape.tokens * a_token
    reads = batch_rows // shape.answers * shape.reads
    graph_reads = graph_rows // shape.answers * shape.reads
    return dict(
        cache=0 if cache == "recompute" else kept,
        prefix=2 * shape.n * shape.prefix * 2 * lm.kv_heads * lm.head_width * layers * item,
        forward=int(batch_rows * shape.tokens * FORWARD * neurons * item + LOGITS * reads * words * 4
                    + min(kept, once * shape.tokens * a_token) + LIBRARIES * (lm.device.type == "cpu")),
        backward=int(graph_rows * shape.tokens * (BACKWARD * neurons * layers * item + 2 * a_token)
                     + LOGITS_BACKWARD * graph_reads * words * 4))


def batch_rows_for(width: int, longest: int) -> int:
    """Rows of one forward pass: about 2**19 numbers in a residual stream, the fastest measured on two cores."""
    return max(16, min(2048, 2 ** 19 // (longest * width)))


@remembered
def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of the matrix library, measured once in a tenth of a second."""
    a, b = (torch.ones(512, 512, device=device, dtype=dtype) for _ in "ab")
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.1:
        float((a @ b)[0, 0])  # waits for a GPU
        done += 512 ** 3
    return done / (time.perf_counter() - start)


def estimate(model, task: Task | None = None, components: str | Sequence[str] = "head_output", n: int = 64, tokens: int = 16,
             answer_tokens: int = 1, positions: str = "all", corruption: str = "counterfactual", methods: Sequence[str] = ("greedy",),
             budgets: Sequence[int] = range(1, 9), epochs: int = 15, batch_size: int = 32, batch_rows: int | None = None,
             cache: str = "device", dtype: str = "float32", device: str = "cpu") -> Cost:
    """What tracing would cost, before any weight is loaded.

    model: a name or folder, of which only the configuration is read, a configuration, or a loaded model. task: its real
    rows are counted; without one, `n` search prompts of `tokens` tokens, all of them run in every pass, and answers of
    `answer_tokens`. The rest as in `Trace`, `search` and `load_model`. Minutes are good to a factor of two or so.

    Raises InputError for a model without a readable configuration, or an unknown kind, method, cache or dtype.
    """
    one_of(cache, CACHES, "cache")
    lm = model if isinstance(model, LanguageModel) else skeleton(model, DTYPES[one_of(dtype, DTYPES, "dtype")])
    loaded = not lm.model.get_output_embeddings().weight.is_meta
    where = lm.device if loaded else torch.device(device)
    made = lm.components(components)
    if task is None:
        k = 1 if answer_tokens == 1 else 2
        shape = Shape(n, k, tokens + (answer_tokens - 1) * (k == 2), 0, 1 + (k == 2) * 2 * (answer_tokens - 1))
    else:
        shape = shape_of(task, positions, corruption)
    rows_at_once = batch_rows or batch_rows_for(lm.width, shape.tokens + shape.prefix)
    work = {m: rows_of(one_of(m, ("exhaustive", "greedy", "top-k", "random", "pgb", "pgb-log"), "method"), len(made), budgets, shape.n, epochs) for m in methods}
    gradient = any(m.startswith("pgb") for m in methods)
    parts = needed(lm, made.kinds, shape, corruption, cache, rows_at_once,
                   min(batch_size, shape.n) * shape.answers if gradient else 0)
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    inside = sum(p.numel() for layer in lm.layers for p in layer.block.parameters())
    words = lm.model.get_output_embeddings().weight.shape[0]
    total_rows = sum(work.values()) + 2 * shape.n
    passes = math.ceil(total_rows * shape.answers / rows_at_once)
    multiply_adds = total_rows * (shape.answers * shape.tokens * inside + shape.reads * words * lm.width)
    seconds = multiply_adds / (ATTAINED * _speed(where, lm.dtype)) + passes * len(lm.layers) * SECONDS_A_LAYER
    import psutil

    process = psutil.Process().memory_info().rss - (weights if loaded else 0) if where.type == "cpu" else 0
    return Cost(lm.name, len(made), work, passes, weights, process=max(0, process), minutes=seconds / 60, device=where,
                where=cache, **parts)
