"""Loading a model, and knowing where its layers, attention modules, MLPs and projections are."""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.hub import check_folder, only_cached, reason

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

    name: as given to `load_model`; heads, kv_heads (key-value heads, fewer in grouped-query attention), head_width, width,
    neurons: sizes of one layer; context: most tokens of a prompt with its answer, None where the architecture sets no limit.
    """

    name: str
    model: nn.Module
    tokenizer: object
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_width: int
    width: int
    neurons: int
    context: int | None

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the inputs go. Offloaded weights are on the meta device between calls; accelerate knows where they run."""
        embedding = self.model.get_input_embeddings()
        placed = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
        return embedding.weight.device if placed is None else torch.empty(0, device=placed).device

    @property
    def offloaded(self) -> bool:
        """Whether some weights are fetched from the host's memory or from disk in every forward pass."""
        return _is_offloaded(self.model)

    @property
    def embedding_sd(self) -> torch.Tensor:
        """Standard deviation of the token embeddings in float32, a scalar: the unit of `noise_sd`."""
        embedding = self.model.get_input_embeddings()
        with _fetched(embedding):
            return embedding.weight.detach().float().std()

    def check_length(self, tokens: int, what: str) -> None:
        """Raises InputError if `what` (such as "prompt 3") has more tokens, answer included, than the model can read."""
        if self.context is not None and tokens > self.context:
            raise InputError(f"{what} has {tokens} tokens with its answer, {self.name!r} reads at most {self.context}; "
                             "shorten it, or use a model with a longer context")

    def components(self, kinds: str | tuple | list) -> Components:
        """The index space of one kind or several."""
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        units = {"head_pattern": self.heads, "head_output": self.heads, "attn_block": 1,
                 "mlp_neuron": self.neurons, "mlp_output": self.width, "mlp_block": 1}
        return Components(kinds, len(self.layers), units)

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return (f"LanguageModel({self.name!r}: {type(self.model).__name__}, {len(self.layers)} layers x {self.heads} "
                f"heads, width {self.width}, {self.neurons} neurons a layer, {size:,} parameters, "
                f"{str(self.dtype).removeprefix('torch.')} on {self.device}{', offloaded' if self.offloaded else ''})")


def _is_offloaded(model: nn.Module) -> bool:
    return any(p.is_meta for p in model.parameters())


def _fetched(module: nn.Module):
    """A context in which a module's own weights are present even if they are offloaded."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


# --- finding the layout, and refusing what cannot be traced ---

def _child(module: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(module, n) for n in names if isinstance(getattr(module, n, None), nn.Module)), None)


def _find_layers(model: nn.Module) -> tuple[Layer, ...]:
    name, count = type(model).__name__, model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count
              and _child(m[0], ("attn", "self_attn", "attention")) is not None]
    if len(stacks) != 1:
        raise InputError(f"{name}: found {len(stacks)} stacks of {count} layers with attention, "
                         "expected one; this architecture is not supported")
    layers = []
    for number, block in enumerate(stacks[0]):
        mlp = _child(block, ("mlp", "feed_forward", "fc2"))
        if mlp is None:
            raise InputError(f"{name}: layer {number} has no MLP under a known name; this architecture is not supported")
        down = mlp if mlp is getattr(block, "fc2", None) else _child(mlp, ("c_proj", "down_proj", "dense_4h_to_h", "fc2"))
        layers.append(Layer(block, _child(block, ("attn", "self_attn", "attention")), mlp, down))
    return tuple(layers)


def _check_family(config, architecture: type | None) -> None:
    """Raises InputError, naming the family, if its heads cannot be reached; needs no weights."""
    family = type(config).__name__.removesuffix("Config") if architecture is None else architecture.__name__
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{family} is an encoder-decoder; give a causal (decoder-only) language model such as 'gpt2'")
    if architecture is None:
        raise InputError(f"{family} is not a causal language model; give one such as 'gpt2'")
    if not getattr(architecture, "_can_set_attn_implementation", lambda: False)():
        raise InputError(f"{family} does not use transformers' attention registry, so its heads cannot "
                         "be intervened on; choose a model family that does (GPT-2, Llama, Qwen, Gemma, Pythia, ...)")


@torch.no_grad()
def _check_forward(model: nn.Module, name: str) -> None:
    """One tiny pass through the untouched model: logits of the right shape, finite, and no token seen by earlier ones."""
    family, words = type(model).__name__, model.get_output_embeddings().weight.shape[0]
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.get_input_embeddings().weight.device) % words
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    if logits.shape != (2, 3, words):
        raise InputError(f"{family} gives logits of shape {tuple(logits.shape)} for 2 x 3 tokens, expected (2, 3, {words}); "
                         "give a causal language model")
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"{name!r} gives numbers that are not finite in {str(logits.dtype).removeprefix('torch.')}; "
                         "load it with dtype='float32', or check its weights")
    ahead = (logits[0, :-1] - logits[1, :-1]).abs().max()  # zero up to rounding in a causal model
    if ahead > logits.abs().max() * torch.finfo(logits.dtype).eps ** 0.5:
        raise InputError(f"{family} lets tokens look at later ones (an encoder?); give a causal language model such as 'gpt2'")


def wrap_model(model: nn.Module, tokenizer, name: str = "model") -> LanguageModel:
    """A LanguageModel from a loaded Hugging Face causal LM and its tokenizer; `load_model` of a model does the same.

    Raises InputError if the architecture does not go through transformers' attention registry, is not causal, or gives
    numbers that are not finite.
    """
    _check_family(model.config, type(model))
    if model.get_output_embeddings() is None:
        raise InputError(f"{type(model).__name__} gives no logits; load it with AutoModelForCausalLM")
    # Added tokens are not counted: text-only variants of larger models have some that no text is turned into.
    known, rows = getattr(tokenizer, "vocab_size", 0), model.get_input_embeddings().weight.shape[0]
    if known > rows:
        raise InputError(f"the tokenizer of {name!r} has {known:,} tokens, the model embeds {rows:,}; "
                         "give the tokenizer that belongs to it")
    model.eval()
    if not _is_offloaded(model):  # there a pass may take minutes
        _check_forward(model, name)
    layers, config = _find_layers(model), model.config.get_text_config()
    heads, down = config.num_attention_heads, layers[0].down
    neurons = 0 if down is None else getattr(down, "in_features", None) or down.weight.shape[0]
    return LanguageModel(name, model, tokenizer, layers, heads, getattr(config, "num_key_value_heads", None) or heads,
                         getattr(config, "head_dim", None) or config.hidden_size // heads, config.hidden_size, neurons,
                         getattr(config, "max_position_embeddings", None))


# --- loading ---

def shipped(path: str) -> Path:
    """A file of the project: beside the package in a checkout, inside it in an installed wheel.

    Raises InputError if it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "_shipped", here.parent):
        if (root / path).exists():
            return root / path
    raise InputError(f"{path} is missing from this installation of mctrace_nb; install it again")


def _check_placement(device, device_map, offload_folder) -> None:
    if device_map is None:
        if offload_folder is not None:
            raise InputError(f"offload_folder={str(offload_folder)!r} needs device_map='auto' or a dict")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); "
                             "use device='cpu'") from None
    elif device is not None:
        raise InputError(f"device={device!r} and device_map={device_map!r} exclude each other; give one")
    elif device_map != "auto" and not isinstance(device_map, dict):
        raise InputError(f"device_map={device_map!r} is not known; give 'auto', or a dict from modules to devices")
    elif find_spec("accelerate") is None:
        raise InputError("device_map needs the package accelerate; run pip install 'mctrace_nb[placement]'")


@contextmanager
def _quiet(bars: bool):
    """No remarks by transformers while it loads: what matters of them is raised here. bars: keep its progress bars."""
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _load_tokenizer(place, **where):
    tokenizer = AutoTokenizer.from_pretrained(place, **where)
    if len(tokenizer) == len(tokenizer.get_added_vocab()):  # made from nothing where there are no files of a tokenizer
        raise InputError(f"model {str(place)!r} comes without its tokenizer; write it there with "
                         "tokenizer.save_pretrained(folder), or give tokenizer=")
    return tokenizer


def load_model(name: str | os.PathLike | nn.Module, dtype: str = "float32", device: str | None = None,
               revision: str | None = None, device_map: str | dict | None = None,
               offload_folder: str | os.PathLike | None = None, tokenizer=None) -> LanguageModel:
    """Loads `"tutorial"`, a local folder in Hugging Face format, or a hub id; or takes a loaded model with its tokenizer.

    dtype: float32 (default), float64, bfloat16 or float16. device: e.g. "cpu", "cuda"; default the fastest there is.
    revision: a branch, tag or commit on the hub, of model and tokenizer. device_map: "auto" or a dict from modules to
    devices, for models larger than one device; parts on "cpu" beside a GPU, or on "disk", are fetched in every forward pass
    (needs accelerate). offload_folder: where parts on "disk" are written if need be; default a temporary folder.
    tokenizer: instead of the model's own. A loaded model is taken as it is: only `tokenizer` matters then.

    Only safetensors weights are read and no remote code is run. Raises InputError if the model cannot be loaded.
    """
    if isinstance(name, nn.Module):
        if tokenizer is None:
            raise InputError("a loaded model needs its tokenizer; call load_model(model, tokenizer=...)")
        return wrap_model(name, tokenizer, getattr(name, "name_or_path", "") or "model")
    if not Path(name).exists() and name != "tutorial" and get_close_matches(str(name), ["tutorial"], 1, 0.8):
        raise InputError(f"unknown model {str(name)!r}; did you mean 'tutorial'?")
    torch_dtype = DTYPES[one_of(str(dtype).removeprefix("torch."), DTYPES, "dtype")]
    if device_map is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_placement(device, device_map, offload_folder)
    place = shipped("data/tutorial") if str(name) == "tutorial" else Path(name).expanduser()
    local = place.is_dir() or str(name).startswith((".", "/", "~"))
    if local:
        check_folder(place)
        if revision is not None:
            raise InputError(f"revision={revision!r} is for models from the hub, {str(name)!r} is a local folder")
    folder = TemporaryDirectory(prefix="mctrace-") if device_map is not None and offload_folder is None else None
    placing = {} if device_map is None else dict(device_map=device_map, offload_folder=offload_folder or folder.name)
    place = place if local else str(name)
    with _quiet(bars=not local):
        try:
            where = dict(revision=revision, trust_remote_code=False,
                         local_files_only=local or only_cached(place, revision))
            config = AutoConfig.from_pretrained(place, **where)
            _check_family(config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
            tokenizer = tokenizer or _load_tokenizer(place, **where)
            model, found = AutoModelForCausalLM.from_pretrained(place, dtype=torch_dtype, use_safetensors=True,
                                                                output_loading_info=True, **placing, **where)
        except InputError:
            raise
        except Exception as error:  # whatever fails here, it is this model that cannot be loaded
            raise InputError(f"cannot load model {str(name)!r}: {reason(error)} (give 'tutorial', a local folder, or a hub id "
                             "that can be downloaded or is in the cache)") from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would leave them random
        raise InputError(f"model {str(name)!r} has no weights for {len(missing)} parameters ({', '.join(missing[:3])}"
                         f"{', ...' if len(missing) > 3 else ''}); its weights and its config.json do not belong together")
    if folder is not None:
        weakref.finalize(model, folder.cleanup)
    return wrap_model(model if placing else model.to(device), tokenizer, str(name))
