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
from mctrace_nb.layout import LanguageModel
from mctrace_nb.models import DTYPES, skeleton
from mctrace_nb.rows import SIDES, Rows, lay_out
from mctrace_nb.sides import CACHES, NEVER_RUN, batch_rows_for, corrupted_from, one_prefix
from mctrace_nb.tasks import Task

# Working memory, fitted to peaks measured on GPT-2 and Llama shapes on the CPU. In units of one number for each token and
# MLP neuron: what a forward pass holds, and what each layer keeps for the backward pass.
FORWARD, BACKWARD = 8.0, 6.4
LOGITS, LOGITS_BACKWARD = 1.5, 2.5  # copies of the logits that are read, without and with a gradient
LIBRARIES = 60 << 20  # bytes of the matrix library's own buffers on the CPU
SECONDS_A_LAYER = 4e-4  # what a layer costs in a pass over hardly any tokens, measured on two cores
ATTAINED = 0.6  # share of the matrix library's speed that a whole model reaches, measured on GPT-2 small
RANDOM_DRAWS = 40  # random sets of each size: enough for where nine in ten of them lie
GUIDED_LINE = (0.1, 0.3, 0.5, 0.7, 0.9)  # where guided search takes gradients between nothing and everything
PATH_LINE = 3  # gradients by which "pgb" finds its penalties
PATH_CUTS = 4  # sets of each size that it cuts from the masks of a row
PATH_SWAPS, PATH_BESIDE, PATH_ROUNDS = 4, 4, 4  # sets that it tries in a round of repair: swaps, sets from the sizes beside it; rounds
GRADIENT_MASKS, GRADIENT_PROMPTS = 5, 32  # through so many at once searches take gradients
GRADIENT_AT_ONCE = {"guided": len(GUIDED_LINE), "pgb": GRADIENT_MASKS, "attribution": 1, "integrated-gradients": GRADIENT_MASKS, "hard-concrete": 1,
                    "dcm": 1}  # masks
LINE_STEPS, PERMUTATIONS, L0_EPOCHS = 5, 20, 20  # how far integrated gradients, Shapley values and hard-concrete gates go
METHODS = ("exhaustive", "greedy", "guided", "top-k", "random", "pgb", "pgb-published", "attribution", "integrated-gradients", "shapley",
           "hard-concrete", "dcm", "circuit-lasso")


@dataclass(frozen=True)
class Shape:
    """The rows of a task. n: prompts. Of a prompt, on average: tokens run in every pass, chosen: those that interventions act
    on, reads: logits that are read. prefix: most tokens that are run only once; sides: for how many of the two runs."""

    n: int
    tokens: float
    chosen: float
    prefix: int
    reads: float
    sides: int = 2

    @classmethod
    def of(cls, rows: Rows, one_prefix: bool) -> "Shape":
        n = len(rows)
        return cls(n, len(rows.ids) / n, rows.chosen.sum().item() / n, int(rows.prefix_lengths.max()), len(rows.read_at) / n, 2 - one_prefix)


def guided_pace(most: int, components: int) -> int:
    """What guided search may spend on each budget up to `most`, in rows a prompt: more where greedy search is cheap anyway (fewer than 64
    components), or so dear that this is still less than a twelfth of its work."""
    greedy = most * components - most * (most - 1) // 2
    return 17 if components < 64 or 12 + 17 * most <= greedy / 12 else 14


def guided_rows(most: int, components: int) -> int:
    """What guided search may spend at most, in rows a prompt: for its start, and for each budget up to `most`."""
    return 12 + guided_pace(most, components) * most


def path_rows(epochs: int, budgets: int) -> int:
    """What "pgb" may spend at most with its own settings, in rows a prompt: on gradients, and for each budget on cuts and repair."""
    return 2 * (PATH_LINE + epochs) + budgets * (PATH_CUTS + PATH_LINE + PATH_ROUNDS * (2 + PATH_SWAPS + PATH_BESIDE))


def rows_of(method: str, components: int, budgets: Sequence[int], n: int, epochs: int = 15) -> int:
    """Rows forwarded and back-propagated by a search (masks x prompts); for pgb, pgb-published and guided at most so many, for they
    may stop early. Searches that optimise a mask do it twice where direction "abs" is asked for, which is not counted here."""
    last, each = max(budgets), len(budgets)
    return n * {"exhaustive": sum(math.comb(components, b) for b in budgets),
                "greedy": sum(components - s for s in range(min(last, components))), "guided": guided_rows(last, components), "top-k": components + len(budgets),
                "random": RANDOM_DRAWS * len(budgets), "pgb": path_rows(epochs, len(budgets)), "pgb-published": 3 * epochs,
                "attribution": 2 + each, "integrated-gradients": 2 * LINE_STEPS + each, "shapley": PERMUTATIONS * (components - 1) + 1 + each,
                "hard-concrete": 2 * L0_EPOCHS + each, "dcm": 2 * epochs + each, "circuit-lasso": 2 + each}[method]


def widths(lm: LanguageModel) -> dict[str, int]:
    """Numbers that one layer and token hold in the cache, for each kind."""
    heads, keys = lm.heads * lm.head_width, lm.kv_heads * lm.head_width
    return {"head_pattern": heads + keys, "head_output": heads, "attn_block": lm.width, "mlp_neuron": lm.neurons,
            "mlp_output": lm.width, "mlp_block": lm.width, "residual": lm.width}


def _size(count: int) -> str:
    return f"{count / 2 ** 30:.1f} GiB" if count >= 2 ** 30 else f"{count / 2 ** 20:.0f} MiB"


def duration(minutes: float) -> str:
    """Minutes to one or two digits in the unit that suits them."""
    if minutes > 1000 * 365 * 1440:
        return "more than a thousand years"
    for unit, size in (("years", 365 * 1440), ("days", 1440), ("hours", 60), ("minutes", 1)):
        if minutes >= 2 * size:
            return f"{minutes / size:,.0f} {unit}"
    seconds = max(1, round(60 * minutes))
    return f"{seconds:,} second{'s' * (seconds > 1)}"


@dataclass(frozen=True)
class Memory:
    """Bytes of a run. weights; cache: the values to put in, kept at `where`; prefix: keys and values of the unchanging
    tokens; forward, backward: working memory; process: what Python and its libraries hold already."""

    model: str
    device: torch.device
    where: str
    weights: int
    cache: int
    prefix: int
    forward: int
    backward: int
    process: int

    @classmethod
    def of(cls, lm: LanguageModel, kinds: Sequence[str], shape: Shape, corruption: str, where: str, batch_rows: int,
           graph_rows: int = 0, device: torch.device | None = None) -> "Memory":
        """graph_rows: rows that a gradient is taken through at once. device: where a model that is not loaded yet will be."""
        item, layers, neurons = lm.dtype.itemsize, len(lm.layers), lm.neurons or 4 * lm.width
        words, loaded = lm.model.get_output_embeddings().weight.shape[0], device is None
        device = device or lm.device
        # Of patterns, all tokens are kept; of the others those that interventions act on.
        sizes = {kind: widths(lm)[kind] * layers * item for kind in kinds}
        values = sum(size * (shape.tokens if kind == "head_pattern" else shape.chosen) for kind, size in sizes.items())
        weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
        kept = 0 if corruption in NEVER_RUN else round(shape.n * values)
        # Recorded at once, before it is put into the cache.
        batch = min(shape.n, batch_rows) * shape.tokens * sum(sizes.values()) * (corruption not in NEVER_RUN)
        reads, graph_reads = (rows * shape.reads for rows in (batch_rows, graph_rows))
        process = 0
        if device.type == "cpu":
            import psutil

            process = max(0, psutil.Process().memory_info().rss - weights * loaded)
        return cls(
            lm.name, device, where, weights, process=process,
            cache=0 if where == "recompute" else kept,
            prefix=shape.sides * shape.n * shape.prefix * 2 * lm.kv_heads * lm.head_width * layers * item,
            forward=int(max(batch_rows * shape.tokens * FORWARD * neurons * item, LOGITS * reads * words * 4) + batch
                        + LIBRARIES * (device.type == "cpu")),
            backward=int(graph_rows * shape.tokens * (BACKWARD * neurons * layers * item + 2 * sum(sizes.values()))
                         + LOGITS_BACKWARD * graph_reads * words * 4))

    @property
    def run(self) -> int:
        """What tracing adds to a loaded model on its device."""
        kept = self.cache if self.where == "device" or self.device.type == "cpu" else 0
        return kept + self.prefix + self.forward + self.backward

    @property
    def total(self) -> int:
        """In use at the peak, on the model's device."""
        return self.process + self.weights + self.run

    def __str__(self) -> str:
        return (f"{_size(self.total)} at the peak on {self.device}: process {_size(self.process)}, weights "
                f"{_size(self.weights)}, cached values {_size(self.cache)} ({self.where}), prefix {_size(self.prefix)}, forward "
                f"pass {_size(self.forward)}, backward pass {_size(self.backward)}")

    def check(self, processes: int = 1) -> None:
        """Raises InputError, naming what to change, if tracing a loaded model needs more memory than is free. processes: so many need as
        much on this machine; on a GPU each has one of its own."""
        shared = processes if self.device.type == "cpu" else 1
        free = memory.available(self.device) // shared
        if self.run <= free:
            return
        parts = {"cached values": self.cache, "prefix": self.prefix, "forward pass": self.forward, "backward pass": self.backward}
        elsewhere = "cache='recompute'" if self.device.type == "cpu" else "cache='host' or 'recompute'"
        repair = {"cached values": f"{elsewhere}, positions='last', fewer prompts (n), or a kind with fewer values (head_output, "
                                   "mlp_block)",
                  "prefix": "fewer prompts (n), or shorter ones",
                  "forward pass": "a smaller batch_rows, or shorter prompts",
                  "backward pass": "a smaller batch_size, fewer settings at once, or a method without gradients (greedy)"}
        most = max(parts, key=parts.get)
        raise InputError(f"tracing {self.model!r} like this needs about {_size(self.run)}, {_size(parts[most])} of it for the "
                         f"{most}, and {_size(free)} are free on {self.device}{f' for each of {shared} processes' * (shared > 1)}; use {repair[most]}")


@dataclass(frozen=True)
class Cost:
    """components: how many. rows: for each method, masks x prompts forwarded and back-propagated. passes: forward passes of
    all methods together. minutes: expected, good to a factor of two or so. memory: see `Memory`.

        >>> cost = mct.estimate(model, task, methods=["greedy", "top-k"], budgets=[1, 2])
        >>> cost.components, cost.rows
        (12, {'greedy': 184, 'top-k': 112})
    """

    components: int
    rows: dict[str, int]
    passes: int
    minutes: float
    memory: Memory

    def __str__(self) -> str:
        each = ", ".join(f"{method} {rows:,}" for method, rows in self.rows.items())
        return (f"{self.memory.model}: {self.components:,} components; rows: {each}; about {self.passes:,} forward passes and "
                f"{duration(self.minutes)}; memory {self.memory}")

    __repr__ = __str__


@remembered
def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds a second of the matrix library, measured once in a tenth of a second: its best, for others may be at work."""
    a, b = (torch.ones(512, 512, device=device, dtype=dtype) for _ in "ab")
    best, end = math.inf, time.perf_counter() + 0.1
    while (start := time.perf_counter()) < end or best == math.inf:
        float((a @ b)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 512 ** 3 / best


def seconds_for(lm: LanguageModel, shape: Shape, total: int, passes: int, device: torch.device | None = None, sharing: int = 0) -> float:
    """Expected seconds of so many rows (masks x prompts) in so many forward passes; device: as in `Memory.of`. sharing: how many of
    the rows are of masks that begin at one layer or another, and share what is below it."""
    inside = sum(p.numel() for layer in lm.layers for p in layer.block.parameters())
    words = lm.model.get_output_embeddings().weight.shape[0] if shape.reads > 1 else 2  # log odds of single tokens need no more
    layers = len(lm.layers)
    multiply_adds = (total - sharing * (layers - 1) / (2 * layers)) * shape.tokens * inside + total * shape.reads * words * lm.width
    return multiply_adds / (ATTAINED * _speed(device or lm.device, lm.dtype)) + passes * len(lm.layers) * SECONDS_A_LAYER


def estimate(model, task: Task | None = None, components: str | Sequence[str] = "head_output", n: int = 32, tokens: int = 16,
             answer_tokens: int = 1, positions: str = "all", corruption: str = "counterfactual", noise_on: str = "subject",
             methods: Sequence[str] | str = "greedy", budgets: Sequence[int] | None = None, epochs: int = 15,
             batch_size: int = 32, batch_rows: int | None = None, cache: str = "device", dtype: str = "float32",
             device: str = "cpu") -> Cost:
    """What tracing would cost, before any weight is loaded.

    model: a name or folder, of which only the configuration is read, a configuration, or a loaded model. task: its real
    search prompts are counted; without one, `n` prompts of `tokens` tokens that all differ from the first token on, with
    answers of `answer_tokens`. budgets: by default 1 to 8. The rest is as in `Trace`, `search` and `load_model`; methods: one or several.

    Raises InputError for a model without a readable configuration, an unknown kind, method, cache or dtype, or a budget out of
    range.

        >>> cost = mct.estimate(mct.published_config("gpt2"), components="mlp_neuron", n=64, tokens=20, methods=["pgb"])
        >>> cost.components, cost.rows
        (36864, {'pgb': 26368})
    """
    one_of(cache, CACHES, "cache")
    lm = model if isinstance(model, LanguageModel) else skeleton(model, DTYPES[one_of(dtype, DTYPES, "dtype")])
    later = torch.device(device) if lm.device.type == "meta" else None
    made = lm.components(components)
    budgets = list(range(1, min(8, len(made)) + 1) if budgets is None else budgets)
    if not budgets or not 1 <= min(budgets) <= max(budgets) <= len(made):
        raise InputError(f"budgets={budgets} are out of range; give whole numbers from 1 to {len(made)}")
    for what, value in (("n", n), ("tokens", tokens), ("answer_tokens", answer_tokens)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{what}={value!r} is out of range; give a whole number of at least 1")
    if task is None:
        lm.check_length(tokens + answer_tokens, "a prompt")
        answers = 2 * (answer_tokens - 1)
        shape = Shape(n, tokens + answers, tokens, 0, 1 + answers)
    else:
        first = corrupted_from(task.search, corruption, noise_on)
        base, other = (lay_out(task.search, side, positions, first, torch.device("cpu"))
                       for side in (SIDES if corruption == "counterfactual" else ("base", "base")))
        shape = Shape.of(base, one_prefix(base, other, first, corruption))
    methods = [methods] if isinstance(methods, str) else list(methods)
    work = {m: rows_of(one_of(m, METHODS, "method"), len(made), budgets, shape.n, epochs) for m in methods}
    rows_at_once = batch_rows or batch_rows_for(lm.width, shape.tokens)
    graph_rows = max(min(batch_size, shape.n) * any(m.startswith("pgb") for m in methods),
                     *(GRADIENT_AT_ONCE.get(m, 0) * min(GRADIENT_PROMPTS, shape.n) for m in methods))
    total = sum(work.values()) + 2 * shape.n
    sharing = sum(work.get(m, 0) for m in ("exhaustive", "greedy", "top-k"))
    passes = math.ceil(total / rows_at_once)
    if cache == "recompute" and corruption not in NEVER_RUN:  # every pass records the values of its prompts anew
        total, passes = total + passes * min(shape.n, rows_at_once), 2 * passes
    return Cost(len(made), work, passes, seconds_for(lm, shape, total, passes, later, sharing) / 60,
                Memory.of(lm, made.kinds, shape, corruption, cache, rows_at_once, graph_rows, later))
