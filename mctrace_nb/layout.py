"""A loaded language model: where its layers, attention modules, MLPs and projections are, and what cannot be traced."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from mctrace_nb.components import Components
from mctrace_nb.errors import InputError


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

    name: as given to `load_model`; stack: where the model itself keeps its layers; heads, kv_heads (key-value heads, fewer in grouped-query attention), head_width, width,
    neurons: sizes of one layer; context: most tokens of a prompt with its answer, None where the architecture sets no limit.

        >>> len(model.layers), model.heads, model.head_width, model.neurons
        (3, 4, 16, 256)
        >>> model.components("head_output").labels[-1]
        'L2H3'
    """

    name: str
    model: nn.Module
    tokenizer: object
    stack: nn.ModuleList
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
        some = torch.arange(min(64, len(embedding.weight)), device=self.device)
        with torch.no_grad():
            said = embedding(some).float().norm()
            with _fetched(embedding):
                weight = embedding.weight.detach().float()
                # Gemma multiplies its embeddings by the square root of their width inside the module.
                return weight.std() * said.to(weight.device) / weight[:len(some)].norm()

    def check_length(self, tokens: int, what: str) -> None:
        """Raises InputError if `what` (such as "prompt 3") has more tokens, answer included, than the model can read."""
        if self.context is not None and tokens > self.context:
            raise InputError(f"{what} has {tokens} tokens with its answer, {self.name!r} reads at most {self.context}; "
                             "shorten it, or use a model with a longer context")

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


def _find_layers(model: nn.Module) -> tuple[nn.ModuleList, tuple[Layer, ...]]:
    name, count = type(model).__name__, model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count
              and all(_child(block, ("attn", "self_attn", "attention")) is not None for block in m)]
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
    return stacks[0], tuple(layers)


def check_family(config, architecture: type | None) -> None:
    """Raises InputError, naming the family, if its heads cannot be reached; needs no weights."""
    family = type(config).__name__.removesuffix("Config") if architecture is None else architecture.__name__
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{family} is an encoder-decoder; give a causal (decoder-only) language model such as 'gpt2'")
    if architecture is None:
        raise InputError(f"{family} is not a causal language model; give one such as 'gpt2'")
    if not getattr(architecture, "_can_set_attn_implementation", lambda: False)():
        raise InputError(f"{family} does not use transformers' attention registry, so its heads cannot "
                         "be intervened on; choose a model family that does (GPT-2, Llama, Qwen, Gemma, Pythia, ...)")
    # What a recurrent layer remembers of a prompt is not in the keys and values that a trace keeps of it.
    kinds = getattr(config, "layer_types", None) or ()
    if getattr(architecture, "_is_stateful", False) or any("linear" in kind for kind in kinds):
        raise InputError(f"{family} has recurrent layers (Mamba, linear attention), which cannot be traced; "
                         "give a model that has attention in every layer")


@torch.no_grad()
def _check_forward(model: nn.Module, name: str) -> None:
    """One tiny pass through the untouched model: logits of the right shape, finite, and no token seen by earlier ones."""
    family, words = type(model).__name__, model.get_output_embeddings().weight.shape[0]
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.get_input_embeddings().weight.device) % words
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{family} cannot read three tokens ({str(error).splitlines()[0][:120]}); check its config, or use "
                         "another dtype") from error
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

        >>> mine = mct.wrap_model(model.model, model.tokenizer, "mine")
        >>> mine.name, mine.width
        ('mine', 64)
    """
    check_family(model.config, type(model))
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
    (stack, layers), config = _find_layers(model), model.config.get_text_config()
    heads, down = config.num_attention_heads, layers[0].down
    neurons = 0 if down is None else getattr(down, "in_features", None) or down.weight.shape[0]
    return LanguageModel(name, model, tokenizer, stack, layers, heads, getattr(config, "num_key_value_heads", None) or heads,
                         getattr(config, "head_dim", None) or config.hidden_size // heads, config.hidden_size, neurons,
                         getattr(config, "max_position_embeddings", None))
