"""Memory, at the peak of a process of its own, above what it holds with the model loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Iterator

CLEAR = Path("/proc/self/clear_refs")


def _held(what: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(what))
    return int(line.split()[1]) * 1024


def probe(kind: str, tokens: int, n: int, cache: str, gradient: bool) -> int:
    """Bytes at the peak of one trace with one mask, above the loaded model; to be called in a fresh process."""
    import torch

    from mctrace_nb.bench.shapes import gpt2_small, long_prompts
    from mctrace_nb.tracing import Trace

    lm = gpt2_small(layers=4, width=256, words=1000, context=4096)
    lm.model(torch.zeros(1, 8, dtype=torch.long))  # the matrix library's own buffers
    loaded = _held("VmRSS")
    CLEAR.write_text("5")
    trace = Trace(lm, long_prompts(tokens, 1000, n), kind, cache=cache, batch_rows=2)
    mask = torch.full((len(trace.components),), 0.5, requires_grad=gradient)
    effects = trace.effects(mask)
    if gradient:
        effects.mean().backward()
    if any(p.grad is not None for p in lm.model.parameters()):
        raise AssertionError("a weight was given a gradient")
    return _held("VmHWM") - loaded


def peak(*arguments) -> int:
    """`probe` in a child process."""
    made = subprocess.run([sys.executable, "-m", "mctrace_nb.bench.room", *map(str, arguments)], capture_output=True, text=True, check=True)
    return int(made.stdout.split()[-1])


def _tensors(n: int) -> int:
    """Bytes of tensors alive at the peak, beside the model."""
    import torch

    from mctrace_nb.bench.shapes import gpt2_small, long_prompts
    from mctrace_nb.sizing import Alive
    from mctrace_nb.tracing import Trace

    lm = gpt2_small(layers=2, width=64, words=1000)
    with Alive() as alive:
        trace = Trace(lm, long_prompts(256, 1000, n), "mlp_neuron", cache="recompute", batch_rows=2)
        trace.effects(torch.full((len(trace.components),), 0.5))
    return alive.peak


def measure(quick: bool) -> Iterator[dict]:
    """Growth with the length of prompts for attention patterns, and with the number of prompts for each place of the cache."""
    if not CLEAR.exists():
        print("  peaks of memory are read from Linux's /proc; not measured here")
        return
    for gradient, what in ((False, "forward"), (True, "forward and backward"))[quick:]:
        short, long = (min(peak("head_pattern", tokens, 2, "device", int(gradient)) for _ in range(1 if quick else 3)) for tokens in (1024, 2048))
        print(f"  head_pattern, {what}: {short / 2 ** 20:.0f} MiB for 1,024 tokens, {long / 2 ** 20:.0f} MiB for 2,048")
        yield dict(name=f"head_pattern, {what}: peak memory of 2,048 tokens / of 1,024", value=long / short, bar=2.3)
    for cache, bar in (() if quick else (("recompute", 1.5), ("device", None))):  # what grows is the allocator's: it leaves gaps
        few, many = (peak("mlp_neuron", 256, n, cache, 0) for n in (16, 128))
        print(f"  mlp_neuron, cache={cache!r}: {few / 2 ** 20:.0f} MiB for 16 prompts, {many / 2 ** 20:.0f} MiB for 128")
        yield dict(name=f"cache={cache!r}: peak memory of 128 prompts / of 16", value=many / few, bar=bar)
    yield dict(name="cache='recompute': tensors alive at the peak, 32 prompts / 8", value=_tensors(32) / _tensors(8), bar=1.05)


if __name__ == "__main__":
    kind, tokens, n, cache, gradient = sys.argv[1:]
    print(probe(kind, int(tokens), int(n), cache, gradient == "1"))
