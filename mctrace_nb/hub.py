"""Why a model cannot be loaded: what the hub says, and what a folder lacks."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from mctrace_nb.errors import InputError

CONVERT = "it has no safetensors weights; convert them with model.save_pretrained(folder), which writes safetensors"
BY_TYPE = (  # a gated repository is a kind of one that is not found, so it comes first
    (GatedRepoError, "it is gated; accept its terms on the hub and log in with `hf auth login`"),
    (RepositoryNotFoundError, "there is no such model on the hub, or it is private (then log in with `hf auth login`)"),
    (RevisionNotFoundError, "it has no such revision; give a branch, tag or commit that its page on the hub lists"),
    (RemoteEntryNotFoundError, "it has no config.json, so it is not a model in Hugging Face format"),
)
BY_TEXT = {
    "couldn't connect": "it is not wholly in the local cache and the hub cannot be reached",
    "trust_remote_code": "it needs code of its own to be run, which is never done here",
    "named model.safetensors": CONVERT,
    "deserializing header": "its weights file is damaged or incomplete; download it again",
    "ignore_mismatched_sizes": "the sizes in its config.json are not those of its weights",
}


def reason(error: BaseException) -> str:
    """Why a model could not be loaded, in one line."""
    cause = error
    while cause is not None:  # transformers wraps what the hub's client raises
        for kind, why in BY_TYPE:
            if isinstance(cause, kind):
                return why
        cause = cause.__cause__
    said = " ".join(str(error).split())
    return next((why for sign, why in BY_TEXT.items() if sign in said), f"{type(error).__name__}: {said[:200]}")


def only_cached(name: str, revision: str | None) -> bool:
    """Asks the hub once whether it has the model; returns whether the local cache must do.

    The client asks for each file in turn and repeats itself for most of a minute where there is no network. Raises what
    the hub's client raises if the model is neither there nor in the cache.
    """
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
    except Exception as error:  # the errors of a missing network have no public type in common
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return True
        if isinstance(error, tuple(kind for kind, _ in BY_TYPE)) or isinstance(error, ValueError):
            raise
        raise OSError(f"couldn't connect: {error}") from error
    return False


def check_folder(folder: Path, weights: bool = True) -> None:
    """Raises InputError if a local folder lacks a config or (if they are needed) safetensors weights."""
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {str(folder)!r} has no config.json; give a folder in Hugging Face format")
    if weights and not any(folder.glob("*.safetensors")):
        other = next((p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack")), None)
        raise InputError(f"cannot load model {str(folder)!r}: " + (f"its weights are in {other}; {CONVERT}" if other else
                         "it has a config.json but no weights; put its model.safetensors there"))
