"""Loading a model, and knowing where its layers, attention modules, MLPs and projections are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError, one_of

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Layer:
    """The modules of one layer that interventions need."""

    block: nn.Module  # the whole layer: its output is the residual stream
    attention: nn.Module
    mlp: nn.Module  # its output is added to the residual stream
    down: nn.Module | None  # the MLP's last projection: its input are the neurons


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer and its layout.

    name: as given to `load_model`; heads, head_width, width, neurons: sizes of one layer.
    """

    name: str
    model: nn.Module
    tokenizer: object
    layers: tuple[Layer, ...]
    heads: int
    head_width: int
    width: int
    neurons: int

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def components(self, kinds: str | tuple | list) -> Components:
        """The index space of one kind or several."""
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        units = {"head_pattern": self.heads, "head_output": self.heads, "attn_block": 1,
                 "mlp_neuron": self.neurons, "mlp_output": self.width, "mlp_block": 1, "residual": 1}
        return Components(kinds, len(self.layers), units)

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return (f"LanguageModel({self.name!r}: {type(self.model).__name__}, {len(self.layers)} layers x {self.heads} "
                f"heads, width {self.width}, {self.neurons} neurons a layer, {size:,} parameters, "
                f"{str(self.dtype).removeprefix('torch.')} on {self.device})")


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(module, n) for n in names if isinstance(getattr(module, n, None), nn.Module)), None)


def _find_layers(model: nn.Module) -> tuple[Layer, ...]:
    count = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count
              and _child(m[0], ("attn", "self_attn", "attention")) is not None]
    if len(stacks) != 1:
        raise InputError(f"{type(model).__name__}: found {len(stacks)} stacks of {count} layers with attention, "
                         "expected one; this architecture is not supported")
    layers = []
    for block in stacks[0]:
        mlp = _child(block, ("mlp", "feed_forward", "fc2"))
        down = mlp if mlp is getattr(block, "fc2", None) else _child(mlp, ("c_proj", "down_proj", "dense_4h_to_h", "fc2"))
        layers.append(Layer(block, _child(block, ("attn", "self_attn", "attention")), mlp, down))
    return tuple(layers)


def wrap_model(model: nn.Module, tokenizer, name: str = "model") -> LanguageModel:
    """A LanguageModel from a loaded Hugging Face causal LM and its tokenizer.

    Raises InputError if the architecture does not go through transformers' attention registry.
    """
    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        raise InputError(f"{type(model).__name__} does not use transformers' attention registry, so its heads cannot "
                         "be intervened on; choose a model family that does (GPT-2, Llama, Qwen, Gemma, Pythia, ...)")
    config = model.config.get_text_config()
    heads, layers = config.num_attention_heads, _find_layers(model)
    down = layers[0].down
    neurons = 0 if down is None else getattr(down, "in_features", None) or down.weight.shape[0]
    return LanguageModel(name, model.eval(), tokenizer, layers, heads,
                         getattr(config, "head_dim", None) or config.hidden_size // heads, config.hidden_size, neurons)


def shipped(path: str) -> Path:
    """A file of the project: beside the package in a checkout, inside it in an installed wheel.

    Raises InputError if it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "_shipped", here.parent):
        if (root / path).exists():
            return root / path
    raise InputError(f"{path} is missing from this installation of mctrace_nb; install it again")


_REASONS = {
    "couldn't connect": "it is not in the local cache and the hub cannot be reached",
    "gated repo": "it is gated; accept its terms on the hub and log in with `hf auth login`",
    "not a valid model identifier": "there is no such model on the hub, or it is private",
    "safetensors": "it has no safetensors weights; convert them with model.save_pretrained(folder), which writes safetensors",
    "trust_remote_code": "it needs code of its own to be run, which is never done here",
}


def _reason(error: Exception) -> str:
    """Why a model could not be loaded, in one line."""
    said = " ".join(str(error).split())
    return next((reason for sign, reason in _REASONS.items() if sign in said), said[:200])


def load_model(name: str | os.PathLike, dtype: str = "float32", device: str | None = None,
               revision: str | None = None) -> LanguageModel:
    """Loads `"tutorial"`, a local folder in Hugging Face format, or a hub id.

    dtype: float32 (default), float64, bfloat16 or float16. device: e.g. "cpu", "cuda"; default the fastest there is.
    Only safetensors weights are read and no remote code is run. Raises InputError if the model cannot be loaded.
    """
    if not Path(name).exists() and name != "tutorial" and get_close_matches(str(name), ["tutorial"], 1, 0.8):
        raise InputError(f"unknown model {str(name)!r}; did you mean 'tutorial'?")
    torch_dtype = DTYPES[one_of(str(dtype).removeprefix("torch."), DTYPES, "dtype")]
    place = shipped("data/tutorial") if str(name) == "tutorial" else name
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
                         "use device='cpu'") from None
    looks_local = Path(place).is_dir() or str(place).startswith((".", "/", "~"))
    if looks_local and not (Path(place) / "config.json").is_file():
        raise InputError(f"model folder {str(place)!r} has no config.json; give a folder in Hugging Face format")
    shown = logging.is_progress_bar_enabled()
    if Path(place).is_dir():  # quickly read: a bar would only leave a trace in every notebook
        logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(place, revision=revision, dtype=torch_dtype,
                                                     use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"cannot load model {str(name)!r}: {_reason(error)} (give 'tutorial', a local folder, or a hub id "
                         "that can be downloaded or is in the cache)") from None
    finally:
        if shown:
            logging.enable_progress_bar()
    return wrap_model(model.to(device), tokenizer, str(name))
