"""Published sparse autoencoders from safetensors files, in the layouts of SAELens and of Gemma Scope; what is trained here is kept in the first.

SAELens: a folder with `cfg.json` and `sae_weights.safetensors` (W_enc (d, D), b_enc, W_dec (D, d), b_dec, threshold for JumpReLU); the
settings lie flat (before version 6, the oldest with `hook_point` for `hook_name`) or with the origin under `metadata`. Gemma Scope: the same
tensors alone, JumpReLU, b_dec not taken off the input; it is published as npz (here refused: convert it) and says nothing of its site.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.observing import SEEN, Site
from mctrace_nb.sae.autoencoder import Autoencoder

CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
ARCHITECTURES = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
HOOKS = {"hook_resid_post": "residual", "hook_mlp_out": "mlp_block", "hook_attn_out": "attn_block", "mlp.hook_post": "mlp_neuron"}
UNHOOKED = {kind: hook for hook, kind in HOOKS.items()}
LAYER_NORM = ("gpt2", "pythia", "gpt-neo", "gpt-j", "opt-")  # families in which TransformerLens centres what is written to the residual stream
CONVERT = ("convert it once: safetensors.torch.save_file({k: torch.from_numpy(v) for k, v in numpy.load('params.npz').items()}, "
           "'gemma_scope.safetensors')")


def site_of(hook: str) -> Site:
    """The site at which a hook point of TransformerLens is seen here.

    `blocks.l.hook_resid_post` is ("residual", l), `hook_resid_pre` of l the residual of l - 1, `hook_mlp_out` the "mlp_block", `hook_attn_out`
    the "attn_block", `mlp.hook_post` the "mlp_neuron". Raises InputError for others: `hook_resid_pre` of layer 0 (embeddings with their positions),
    `hook_resid_mid`, `hook_z`, norms and patterns are not seen.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(hook))
    layer, point = (int(found[1]), found[2]) if found else (0, "")
    if point == "hook_resid_pre" and layer > 0:
        return "residual", layer - 1
    if point not in HOOKS:
        raise InputError(f"hook point {str(hook)!r} is not supported; an autoencoder is read at blocks.N.X with X one of {', '.join(HOOKS)}, or "
                         "hook_resid_pre from layer 1 on")
    return HOOKS[point], layer


def load_sae(place: str | Path, site: Site | None = None, norm: str | None = None, dtype: str = "float32", device: str = "cpu") -> Autoencoder:
    """Loads a folder in the layout of SAELens, or a single safetensors file of a JumpReLU autoencoder in that of Gemma Scope.

    site: (kind, layer); a folder says its own, a single file does not. norm: what is done to activities first (`autoencoder.NORMS`); by default
    what the settings say: dictionaries of models with LayerNorm that were trained on TransformerLens's activities expect them centred
    (its `center_writing_weights`). `check(model)` compares it with a model.

    Raises InputError for files that are missing, damaged or no safetensors, tensors that are missing or do not fit together, an architecture,
    setting or hook point that is not supported.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
        >>> mct.sae.load_sae(mct.sae.save_sae(sae, "mine")).site
        ('residual', 2)
    """
    one_of(dtype, DTYPES, "dtype")
    place = Path(place).expanduser()
    if place.is_dir():
        settings, tensors = _settings(place / CFG), _tensors(place / WEIGHTS)
        how = _understood(settings)
        if site is not None and site != how["site"]:
            raise InputError(f"site={site!r} is not what {CFG} says, {how['site']!r}; leave it out")
    else:
        tensors = _tensors(place)
        if site is None:
            raise InputError(f"{place.name!r} does not say where it is read; give site=, such as ('residual', 12) for layer_12 of "
                             "gemma-scope-2b-pt-res")
        one_of(site[0], SEEN, "kind of activity")
        if "threshold" not in tensors:
            raise InputError(f"{place.name!r} has no threshold, so its activation is not known; give a folder with {CFG} and {WEIGHTS}")
        how = dict(site=site, activation="jumprelu", subtract=False, made=dict(hook=_hook(site)))
    if norm is not None:
        how["norm"] = norm
    named = {name: tensors[name].to(device, DTYPES[dtype]) for name in NAMES}
    threshold = tensors["threshold"].to(device, DTYPES[dtype]) if how["activation"] == "jumprelu" and "threshold" in tensors else None
    return Autoencoder(**how, **named, threshold=threshold)


def save_sae(sae: Autoencoder, folder: str | Path) -> Path:
    """Writes an autoencoder in the layout of SAELens (version 6) and returns the folder; `load_sae` reads the same one back, bit for bit.

    Raises InputError for a site without a hook point of its own, or a folder that has one already.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
        >>> sorted(path.name for path in mct.sae.save_sae(sae, "mine").iterdir())
        ['cfg.json', 'sae_weights.safetensors']
    """
    folder = Path(folder)
    if (folder / CFG).exists() or (folder / WEIGHTS).exists():
        raise InputError(f"{str(folder)!r} has an autoencoder already; give another folder")
    hook = _hook(sae.site)
    if hook is None:
        raise InputError(f"an autoencoder of {sae.site[0]!r} has no hook point to be written under; those that have: {', '.join(UNHOOKED)}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(sae, name).detach().cpu().contiguous() for name in NAMES}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold.detach().cpu().contiguous()
    written = dict(architecture={v: k for k, v in ARCHITECTURES.items()}[sae.activation], d_in=sae.width, d_sae=sae.features,
                   dtype=str(sae.W_enc.dtype).removeprefix("torch."), apply_b_dec_to_input=sae.subtract,
                   normalize_activations="layer_norm" if sae.norm == "layer_norm" else "none", reshape_activations="none",
                   metadata=dict(hook_name=hook, model_from_pretrained_kwargs=dict(center_writing_weights=sae.norm == "centre"),
                                 model_name=sae.made.get("model", ""),
                                 mctrace_nb={k: v for k, v in sae.made.items() if k not in ("model", "hook")}))
    if sae.activation == "topk":
        written["k"] = sae.k
    save_file(tensors, folder / WEIGHTS)
    (folder / CFG).write_text(json.dumps(written, indent=1) + "\n")
    return folder


def _hook(site: Site) -> str | None:
    point = UNHOOKED.get(site[0])
    return point and f"blocks.{site[1]}.{point}"


def _settings(path: Path) -> dict:
    """`cfg.json`, flat: what SAELens 6 puts under metadata beside the rest."""
    if not path.is_file():
        raise InputError(f"{str(path.parent)!r} has no {path.name}; give a folder in the layout of SAELens, or a safetensors file with site=")
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not JSON ({error}); download it again") from None
    if not isinstance(read, dict):
        raise InputError(f"{str(path)!r} holds no settings; download it again")
    return {**(read.get("metadata") or {}), **read}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, the four that every autoencoder needs among them."""
    if path.suffix == ".npz":
        raise InputError(f"{path.name!r} is an npz file, only safetensors are read; {CONVERT}")
    if path.suffix != ".safetensors":
        raise InputError(f"{path.name!r} is not a safetensors file, and no other kind is read (a pickle can run code); look for {WEIGHTS}")
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; a folder in the layout of SAELens has {CFG} and {WEIGHTS}")
    try:
        tensors = {re.sub("^w_", "W_", name): tensor for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{str(path)!r} is damaged or incomplete ({error}); download it again") from None
    missing = [name for name in NAMES if name not in tensors]
    if missing:
        raise InputError(f"{path.name!r} has no {', '.join(missing)} (it has: {', '.join(sorted(tensors))}); gated autoencoders and "
                         "transcoders are not supported")
    scale = tensors.get("scaling_factor")
    if scale is not None and not torch.allclose(scale, torch.ones_like(scale)):
        raise InputError(f"{path.name!r} has a scaling factor other than 1, which is not supported; fold it into W_dec first")
    return tensors


def _understood(settings: dict) -> dict:
    """What settings of SAELens say, in the words of `Autoencoder`; refuses what it cannot say."""
    architecture = one_of(settings.get("architecture", "standard"), ARCHITECTURES, "architecture of an autoencoder")
    function = settings.get("activation_fn_str", settings.get("activation_fn", "relu"))
    if function not in ("relu", "topk"):
        raise InputError(f"activation function {function!r} is not supported; there are relu, topk and the architecture jumprelu")
    activation = "topk" if function == "topk" else ARCHITECTURES[architecture]
    normalize = settings.get("normalize_activations") or "none"
    if normalize not in ("none", "layer_norm"):
        raise InputError(f"normalize_activations={normalize!r} is not supported; fold the scale into the weights first (SAELens: "
                         "fold_activation_norm_scaling_factor), then it is 'none'")
    for name, allowed in (("rescale_acts_by_decoder_norm", (False,)), ("finetuning_scaling_factor", (False,)), ("reshape_activations", ("none",)),
                          ("hook_head_index", (None,)), ("hook_point_head_index", (None,))):
        if settings.get(name, allowed[0]) not in (*allowed, None):
            raise InputError(f"{name}={settings[name]!r} is not supported; only {allowed[0]!r} is")
    hook = settings.get("hook_name", settings.get("hook_point"))
    if hook is None:
        raise InputError(f"{CFG} has no hook_name, so where the autoencoder is read is not known; add it, such as 'blocks.8.hook_resid_pre'")
    made = settings.get("mctrace_nb") or dict(hook=hook)
    name = settings.get("model_name") or ""
    hooked = settings.get("model_class_name", "HookedTransformer") == "HookedTransformer"
    centred = (settings.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights", hooked and name.startswith(LAYER_NORM))
    norm = "layer_norm" if normalize == "layer_norm" else "centre" if centred else "none"
    k = settings.get("k", (settings.get("activation_fn_kwargs") or {}).get("k"))
    return dict(site=site_of(hook), activation=activation, k=k if activation == "topk" else None, norm=norm,
                subtract=bool(settings.get("apply_b_dec_to_input", True)), made={**made, **({"model": name} if name else {})})
