"""Shared fixtures: tiny models made on the spot, the tutorial model, and the assets that others wrote."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mctrace_nb as mct
from mctrace_nb import passes
from mctrace_nb.models import wrap_model
from mctrace_nb.tasks import Example, Task

os.environ["TQDM_DISABLE"] = "1"  # bars would be compared as outputs of notebooks
passes.WORTH["cpu"] = 0.0  # masks share whatever layers they can, however small the model
ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(max(1, torch.get_num_threads() if "PYTEST_XDIST_WORKER" not in os.environ else 1))


def asset(path: str) -> Path:
    """A file of the assets; without it the test is skipped, and fails where MCTRACE_ASSETS promises them."""
    promised = os.environ.get("MCTRACE_ASSETS")
    found = Path(promised or ROOT.parent / "shared" / "assets") / path
    if not found.exists():
        message = f"asset {path} is not there (set MCTRACE_ASSETS to the folder of assets)"
        pytest.fail(message) if promised else pytest.skip(f"assets: {message}")
    return found


def apart(folder: Path, *names: str) -> dict[str, str]:
    """Installs packages at their pinned versions in a folder of their own; returns what the environment needs to find them."""
    pinned = [p for p in (ROOT / "constraints.txt").read_text().split() if p.split("==")[0] in names]
    assert len(pinned) == len(names)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *pinned], check=True)
    return {"PYTHONPATH": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port: int) -> None:
    """Until somebody listens on a port of this machine; a minute at most."""
    for _ in range(300):
        with socket.socket() as try_it:
            if not try_it.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.2)


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "assets:" in str(r.longrepr)]
    terminalreporter.write_line(f"asset tests skipped: {len(skipped)}")


@pytest.fixture(scope="session")
def tutorial():
    return mct.load_model("tutorial", device="cpu")


class Words:
    """A tokenizer without words for models made on the spot: ids in, ids out."""

    unk_token_id = bos_token_id = eos_token_id = None

    def __call__(self, text):
        return {"input_ids": [int(x) for x in text.split()]}

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(map(str, ids))

    def get_vocab(self):
        return {}


def tiny_gpt2(layers=2, heads=2, width=16, vocabulary=32, seed=0, dtype=torch.float64, **more):
    """A random GPT-2 with weights large enough for interventions to matter."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=width, n_layer=layers, n_head=heads,
                        initializer_range=0.3, **more)
    return wrap_model(GPT2LMHeadModel(config).to(dtype), Words(), "tiny-gpt2")


def random_task(n=5, length=(5, 9), answers=(1, 1), vocabulary=32, seed=0, differ=1):
    """Pairs of random tokens that differ in `differ` places, with answers of the given lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, size=()):
        return torch.randint(low, high, size, generator=generator)

    examples = []
    for i in range(n + 3):
        base = draw(0, vocabulary, (int(draw(length[0], length[1] + 1)),)).tolist()
        other = list(base)
        start = int(draw(1, len(base) - differ + 1)) if differ else 0
        for j in range(start, start + differ):
            other[j] = (other[j] + 1 + int(draw(0, vocabulary - 1))) % vocabulary
        target, foil = (tuple(draw(0, vocabulary, (int(draw(answers[0], answers[1] + 1)),)).tolist()) for _ in "ab")
        if target == foil:
            foil = ((foil[0] + 1) % vocabulary, *foil[1:])
        examples.append(Example(tuple(base), tuple(other), target, foil, f"g{i % 3}",
                                (start, start + differ) if differ else (1, 2)))
    return Task("random", tuple(examples[:n]), tuple(examples[n:]))
