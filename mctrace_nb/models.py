"""Loading a model: the tutorial's, a local folder, from the hub, or one that is loaded already."""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.hub import check_folder, only_cached, reason
from mctrace_nb.layout import LanguageModel, check_family, wrap_model
from mctrace_nb.ranks import leading
from mctrace_nb.shipped import BUILT_IN, shipped

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
def quiet(bars: bool):
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


def _find(name: str | os.PathLike, revision: str | None) -> tuple[str | Path, bool]:
    """Where a model is, and whether that is a local folder."""
    built_in = str(name) in BUILT_IN
    near = [] if built_in or Path(name).exists() else get_close_matches(str(name), BUILT_IN, 1, 0.8)
    if near:
        raise InputError(f"unknown model {str(name)!r}; did you mean {near[0]!r}?")
    place = shipped(f"data/{name}") if built_in else Path(name).expanduser()
    local = place.is_dir() or str(name).startswith((".", "/", "~"))
    if local and revision is not None:
        raise InputError(f"revision={revision!r} is for models from the hub, {str(name)!r} is a local folder")
    return (place if local else str(name)), local


@contextmanager
def _explained(name):
    """Turns whatever goes wrong while a model is loaded into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever fails here, it is this model that cannot be loaded
        raise InputError(f"cannot load model {str(name)!r}: {reason(error)} (give 'tutorial', a local folder, or a hub id "
                         "that can be downloaded or is in the cache)") from error


def _config(place: str | Path, local: bool, revision: str | None):
    """The configuration of a family that can be traced, and the options with which the rest is to be loaded."""
    if local:
        check_folder(place, weights=False)
    where = dict(revision=revision, trust_remote_code=False, local_files_only=local or only_cached(place, revision))
    config = AutoConfig.from_pretrained(place, **where)
    check_family(config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
    return config, where


def skeleton(model, dtype: torch.dtype, tokenizer: bool = False) -> LanguageModel:
    """The layout of a model without its weights, from its configuration alone: a name as for `load_model`, or a config.
    tokenizer: whether to load that, which a name is needed for.

    Raises InputError if there is no configuration, or the family cannot be traced.
    """
    named = isinstance(model, (str, os.PathLike))
    name = str(model) if named else getattr(model, "name_or_path", "") or type(model).__name__
    with quiet(bars=False), _explained(name):
        config, words = model, None
        if named:
            place, local = _find(model, None)
            config, where = _config(place, local, None)
            words = _load_tokenizer(place, **where) if tokenizer else None
        check_family(config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
        with torch.device("meta"):
            return wrap_model(AutoModelForCausalLM.from_config(config, dtype=dtype), words, name)


def random_model(family: str = "gpt2", layers: int = 2, heads: int = 4, width: int = 32, seed: int = 0,
                 tokenizer=None) -> LanguageModel:
    """A small model with random weights, made on the spot: to try a family, or to measure what sizes cost.

    family: the `model_type` of a configuration ("gpt2", "llama", "qwen3", "gpt_neox", ...). width: of the residual stream, a
    multiple of twice the heads; MLPs have four times as many neurons. tokenizer: default the tutorial's, so that its tasks can be read.

    Raises InputError for an unknown family, sizes that do not fit together, or a family that cannot be traced.

        >>> small = mct.random_model("llama", layers=2, heads=4, width=32)
        >>> small.components("head_output").labels[:3]
        ['L0H0', 'L0H1', 'L0H2']
    """
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = get_close_matches(str(family), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, 1)
        raise InputError(f"unknown family {family!r}{f'; did you mean {near[0]!r}?' if near else ''} (give the model_type of a "
                         "causal language model, such as 'gpt2', 'llama' or 'qwen3')")
    if min(layers, heads, width) < 1 or width % (2 * heads):
        raise InputError(f"layers={layers}, heads={heads}, width={width}: give at least 1 of each, and a width that is a multiple "
                         f"of twice the heads, such as {2 * heads * max(1, width // (2 * max(1, heads)))}")
    with quiet(bars=False):
        tokenizer = tokenizer or _load_tokenizer(shipped("data/tutorial"))
        sizes = dict(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                     num_key_value_heads=heads, head_dim=width // heads, intermediate_size=4 * width, max_position_embeddings=64,
                     pad_token_id=0, bos_token_id=1, eos_token_id=2)
        try:
            config = AutoConfig.for_model(family, **sizes)
            check_family(config, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
                torch.manual_seed(seed)
                return wrap_model(AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer, f"random {family}")
        except InputError:
            raise
        except Exception as error:  # some families ask for more sizes than these
            raise InputError(f"cannot make a small model of family {family!r} ({reason(error)}); make it by hand and give it to "
                             "wrap_model") from error


def load_model(name: str | os.PathLike | nn.Module, dtype: str = "float32", device: str | None = None,
               revision: str | None = None, device_map: str | dict | None = None,
               offload_folder: str | os.PathLike | None = None, tokenizer=None) -> LanguageModel:
    """Loads `"tutorial"` or `"tutorial-2"`, a local folder in Hugging Face format, or a hub id; or takes a loaded model with its tokenizer.

    dtype: float32 (default), float64, bfloat16 or float16. device: e.g. "cpu", "cuda"; default the fastest there is.
    revision: a branch, tag or commit on the hub, of model and tokenizer. device_map: "auto" or a dict from modules to
    devices, for models larger than one device; parts on "cpu" beside a GPU, or on "disk", are fetched in every forward pass
    (needs accelerate). offload_folder: where parts on "disk" are written if need be; default a temporary folder.
    tokenizer: instead of the model's own. A loaded model is taken as it is: only `tokenizer` matters then.

    Only safetensors weights are read and no remote code is run. Where this process leads others (`join_ranks`), all of them load the
    model, each on its own device: "cuda" is that of its local rank. Raises InputError if the model cannot be loaded.

        >>> model = mct.load_model("tutorial")
        >>> model.name, len(model.layers), model.heads
        ('tutorial', 3, 4)
    """
    if isinstance(name, nn.Module):
        if tokenizer is None:
            raise InputError("a loaded model needs its tokenizer; call load_model(model, tokenizer=...)")
        return wrap_model(name, tokenizer, getattr(name, "name_or_path", "") or "model")
    how = dict(name=str(name), dtype=dtype, device=device, revision=revision, device_map=device_map, offload_folder=offload_folder)
    team = leading()
    if team is None:
        return _loaded(**how, tokenizer=tokenizer)
    if device_map is not None:
        raise InputError(f"device_map={device_map!r} is for a single process; among {team.size} each has the whole model on a device "
                         "of its own")
    if device is not None and ":" in device:
        raise InputError(f"device={device!r} is one for all of {team.size} processes; give 'cuda', and each takes that of its local rank")
    number = next(team.numbers)
    team.order("model", number=number, **how)
    model, _ = team.tried(lambda: (_loaded(**how, tokenizer=tokenizer), None))
    team.models[model] = number
    weakref.finalize(model, team.forget, "model", number)
    return model


def _loaded(name: str, dtype: str, device: str | None, revision: str | None, device_map: str | dict | None,
            offload_folder: str | os.PathLike | None, tokenizer) -> LanguageModel:
    """What `load_model` loads in this process."""
    place, local = _find(name, revision)
    torch_dtype = DTYPES[one_of(str(dtype).removeprefix("torch."), DTYPES, "dtype")]
    if device_map is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_placement(device, device_map, offload_folder)
    folder = TemporaryDirectory(prefix="mctrace-") if device_map is not None and offload_folder is None else None
    placing = {} if device_map is None else dict(device_map=device_map, offload_folder=offload_folder or folder.name)
    with quiet(bars=not local), _explained(name):
        _, where = _config(place, local, revision)
        if local:
            check_folder(place)
        tokenizer = tokenizer or _load_tokenizer(place, **where)
        model, found = AutoModelForCausalLM.from_pretrained(place, dtype=torch_dtype, use_safetensors=True,
                                                            output_loading_info=True, **placing, **where)
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would leave them random
        raise InputError(f"model {str(name)!r} has no weights for {len(missing)} parameters ({', '.join(missing[:3])}"
                         f"{', ...' if len(missing) > 3 else ''}); its weights and its config.json do not belong together")
    if folder is not None:
        weakref.finalize(model, folder.cleanup)
    return wrap_model(model if placing else model.to(device), tokenizer, str(name))
