"""Run as a script: the peak memory of one run divided by its estimate. Arguments: family, kind, method, cache, answer tokens."""

import sys
from random import Random

import torch
from conftest import Words
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import mctrace_nb as mct
from mctrace_nb.tasks import Example, Task


def peak() -> int:
    """Most bytes held since `forget`, from the kernel's own account."""
    line = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def pairs(n: int, tokens: int, answer: int) -> Task:
    random, examples = Random(0), []
    for _ in range(n):
        base = [random.randrange(1000) for _ in range(tokens)]
        target, foil = (tuple(random.randrange(1000) for _ in range(answer)) for _ in "ab")
        examples.append(Example(tuple(base), (base[0], base[1] + 1, *base[2:]), target, foil))
    return Task("sizes", tuple(examples))


family, kind, method, cache, answer = sys.argv[1:]
config = (GPT2Config(n_layer=6, n_embd=384, n_head=6, vocab_size=20_000) if family == "gpt2" else
          LlamaConfig(vocab_size=16_000, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2,
                      intermediate_size=1024))
torch.manual_seed(0)
task = pairs(48, 24, int(answer))
estimate = mct.estimate(config, task, kind, methods=method, cache=cache)  # before there is any weight
lm = mct.wrap_model(AutoModelForCausalLM.from_config(config), Words(), family)
forget()
trace = mct.Trace(lm, task, kind, cache=cache)
if method == "pgb-published":
    mct.pgb(trace, epochs=1, lambda1=1e-6, progress=False)
elif method in ("pgb", "guided"):
    mct.search(trace, method, range(1, 7), progress=False)
else:
    trace.effects(torch.rand(6, len(trace.components)))
print(peak() / estimate.memory.total)
