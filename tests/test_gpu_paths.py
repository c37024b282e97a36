"""What a GPU needs, tested without one: no step of a search waits for the device, and precision is kept where it matters."""

import sys

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mctrace_nb as mct
from mctrace_nb import sides
from mctrace_nb.components import KINDS
from mctrace_nb.relax import Settings, relax
from mctrace_nb.tracing import Trace

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item", "unique_dim", "_unique2"}


class Waits(TorchDispatchMode):
    """Counts the operations for whose result the host would have to wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        by_mask = name in ("index", "index_put", "index_put_") and any(x.dtype == torch.bool for x in tree_leaves(args[1]) if x is not None)
        if name in WAITS or by_mask:
            frame, path = sys._getframe(1), []
            while frame:
                path.append(frame.f_code.co_filename)
                frame = frame.f_back
            if not any("torch/optim" in p for p in path):  # Adam's count of steps is on the host
                self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def lm():
    return tiny_gpt2(dtype=torch.float32)


@pytest.fixture(scope="module")
def task():
    return random_task(n=12, answers=(1, 3))


@pytest.mark.parametrize("kinds", [*((k,) for k in KINDS), ("head_pattern", "head_output", "mlp_neuron")])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("corruption", ["counterfactual", "noise"])
def test_more_steps_do_not_mean_more_waiting(lm, task, kinds, seeds, corruption, monkeypatch):
    """Values are looked at once an epoch, however many steps it has."""
    trace = Trace(lm, task, kinds, corruption=corruption)
    trace.prepare(), trace.scale
    monkeypatch.setattr(Trace, "_as_masks", lambda self, masks: masks)  # on a GPU it does not look either
    counts = []
    for batch_size in (12, 2):
        with Waits() as waits:
            relax(trace, [Settings(seed=s) for s in seeds], 1, batch_size, progress=False)
        counts.append(sorted(waits.found))
    assert counts[0] == counts[1] and len(counts[0]) < 60


def test_the_counter_of_waits_counts(lm, task):
    x = torch.arange(4.0)
    with Waits() as waits:
        x[x > 1], float(x[0]), x.nonzero(), bool((x > 0).any())
    assert len(waits.found) == 4


def test_looking_at_every_loss_would_be_noticed(lm, task, monkeypatch):
    import mctrace_nb.relax as room

    trace = Trace(lm, task, "head_output")
    trace.prepare(), trace.scale
    loss = room.transform_loss
    monkeypatch.setattr(room, "transform_loss", lambda *args, **more: loss(*args, **more) if bool(torch.isfinite(args[0]).all()) else None)
    counts = []
    for batch_size in (12, 2):
        with Waits() as waits:
            relax(trace, [Settings()], 1, batch_size, progress=False)
        counts.append(len(waits.found))
    assert counts[1] > counts[0]


@pytest.mark.parametrize("kind", ["head_pattern", "head_output", "mlp_neuron"])
def test_autocast_keeps_masks_and_metrics_in_single_precision(lm, task, kind):
    exact, rough = Trace(lm, task, kind), Trace(lm, task, kind, autocast="bfloat16")
    mask = torch.full((len(exact.components),), 0.5, requires_grad=True)
    effects = rough.effects(mask)
    effects.mean().backward()
    got = mask.grad.clone()
    mask.grad = None
    exact.effects(mask).mean().backward()
    assert effects.dtype == got.dtype == torch.float32 and rough.base_values.dtype == torch.float32
    assert rough.side().values[kind, 0][0].dtype in (torch.bfloat16, torch.float32)
    torch.testing.assert_close(effects, exact.effects(mask), rtol=0, atol=0.2)
    assert (got - mask.grad).norm() < 0.2 * mask.grad.norm()
    assert lm.dtype == torch.float32
    with pytest.raises(mct.InputError, match="unknown autocast 'int8'"):
        Trace(lm, task, kind, autocast="int8")


def test_the_gradient_of_the_mask_is_summed_in_its_own_precision():
    """Each of 4,096 tokens adds 1/256 in bfloat16, which alone stops growing at 1."""
    from mctrace_nb.mixing import Mix

    weight = torch.zeros(1, 1, 1, 1, requires_grad=True)
    x, other = torch.zeros(1, 4096, 1, 1, dtype=torch.bfloat16), torch.full((1, 4096, 1, 1), 1 / 256, dtype=torch.bfloat16)
    Mix.apply(x, other, weight, None).sum(dtype=torch.float32).backward()
    assert weight.grad.item() == 16


def test_values_on_their_way_to_a_gpu_are_waited_for(monkeypatch):
    """The stream of copies, played by stand-ins: each value is sent once, and its own event is waited for when it is asked for."""
    log = []

    class Stream:
        def __init__(self, device):
            self.device = torch.device("cpu")

        def record_event(self):
            log.append("sent")
            return f"event {len(log)}"

        def wait_event(self, event):
            log.append(f"waited for {event}")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(device))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **more: empty(*size, **more))
    lm, task = tiny_gpt2(), random_task(n=5, answers=(1, 3))
    trace = Trace(lm, task, ("head_pattern", "mlp_output"), cache="host")
    trace.prepare()
    batch = trace.side().rows.batch(np.array([3, 1]))
    found = sides.fetch(trace.side().values, batch, torch.device("cuda"))
    assert log == ["sent"] * 6  # queries and keys, and outputs, of two layers
    plain = sides.fetch(trace.side().values, batch, torch.device("cpu"))
    for site in plain:
        for got, expected in zip(found[site] if isinstance(found[site], tuple) else [found[site]],
                                 plain[site] if isinstance(plain[site], tuple) else [plain[site]]):
            assert torch.equal(got, expected)
    assert sum(x.startswith("waited") for x in log) == 4
