"""On a GPU: what a step of the mask takes, and which part of that is the model's own. Without one the table says so."""

from __future__ import annotations

from typing import Iterator

import torch

from mctrace_nb.bench.limit import layouts, step
from mctrace_nb.bench.shapes import NoWords, gpt2_small, medians, winobias_shaped
from mctrace_nb.layout import LanguageModel
from mctrace_nb.models import wrap_model
from mctrace_nb.relax import Settings, pgb, relax
from mctrace_nb.tracing import Trace


def _shaped(family: str, name: str, **sizes) -> LanguageModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return wrap_model(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)), NoWords(), name)


# Published sizes of Qwen/Qwen3-1.7B-Base and of Llama 3.2 with 1B; the weights are random.
MODELS = {
    "GPT-2 small": gpt2_small,
    "Qwen3-1.7B-shaped": lambda: _shaped("qwen3", "Qwen3-1.7B-shaped", vocab_size=151_936, hidden_size=2048, num_hidden_layers=28,
                                         num_attention_heads=16, num_key_value_heads=8, head_dim=128, intermediate_size=6144),
    "Llama-3.2-1B-shaped": lambda: _shaped("llama", "Llama-3.2-1B-shaped", vocab_size=128_256, hidden_size=2048, num_hidden_layers=16,
                                           num_attention_heads=32, num_key_value_heads=8, head_dim=64, intermediate_size=8192),
}
PRECISIONS = {"float32": (torch.float32, None), "autocast to bfloat16": (torch.float32, "bfloat16"), "bfloat16": (torch.bfloat16, None)}


def one(lm: LanguageModel, precision: str, kind: str = "head_output", repeats: int = 5) -> Iterator[dict]:
    """A step for 32 pairs against the stock model, masks a second, and 15 epochs over 160 pairs, for one model on its device."""
    dtype, autocast = PRECISIONS[precision]
    lm.model.to(dtype).requires_grad_(False)
    words = lm.model.config.vocab_size
    trace = Trace(lm, winobias_shaped(words), kind, autocast=autocast)
    trace.prepare()
    ways, what = layouts(lm, trace.side().rows), f"{lm.name}, {precision}, {kind}"

    def stock(groups):
        with torch.autocast(lm.device.type, torch.bfloat16, enabled=autocast is not None):
            return step(groups)

    best = min(zip(medians(2, *(lambda groups=groups: stock(groups) for groups in ways.values())), ways))[1]
    ours, plain = medians(repeats, lambda: relax(trace, [Settings(seed=None)], 1, 32, progress=False), lambda: stock(ways[best]))
    yield dict(name=f"{what}: milliseconds a step of 32 pairs", value=1000 * ours)
    yield dict(name=f"{what}: a step / the stock model's forward and backward ({best})", value=ours / plain)
    masks = torch.rand(64, len(trace.components))
    yield dict(name=f"{what}: masks x prompts a second", value=64 * len(trace) / medians(repeats, lambda: trace.effects(masks))[0])
    whole = Trace(lm, winobias_shaped(words, 5), kind, autocast=autocast)
    whole.prepare()
    seconds, = medians(1, lambda: pgb(whole, lambda1=0.001, lambda2=0.001, progress=False))
    yield dict(name=f"{what}: seconds for 15 epochs over 160 pairs", value=seconds)


def measure(quick: bool) -> Iterator[dict]:
    """Every model in every precision, where there is a GPU."""
    if not torch.cuda.is_available():
        print("  not measured: there is no GPU")
        return
    print(f"  {torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name, make in list(MODELS.items())[:1 if quick else None]:
        lm = make()
        lm.model.to("cuda")
        for precision in PRECISIONS:
            yield from one(lm, precision, repeats=3 if quick else 7)
        del lm
        torch.cuda.empty_cache()
