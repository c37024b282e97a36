"""What others published: sizes of their models, and effects of GPT-2 to compare one's own with (data/published/README.md)."""

from __future__ import annotations

from mctrace_nb.errors import one_of
from mctrace_nb.shipped import shipped

# From the config.json of each model on the Hugging Face hub; what is left out is the default of the family.
_QWEN3 = dict(family="qwen3", vocab_size=151936, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
              max_position_embeddings=32768, tie_word_embeddings=True)
_LLAMA3 = dict(family="llama", vocab_size=128256, num_key_value_heads=8, intermediate_size=8192, max_position_embeddings=131072,
               tie_word_embeddings=True)
SIZES = {
    "gpt2": dict(family="gpt2"),
    "gpt2-medium": dict(family="gpt2", n_layer=24, n_head=16, n_embd=1024),
    "Qwen/Qwen3-0.6B-Base": dict(_QWEN3, hidden_size=1024, intermediate_size=3072),
    "Qwen/Qwen3-1.7B-Base": dict(_QWEN3, hidden_size=2048, intermediate_size=6144),
    "unsloth/Llama-3.2-1B": dict(_LLAMA3, num_hidden_layers=16, num_attention_heads=32, head_dim=64, hidden_size=2048),
    "unsloth/Llama-3.2-3B": dict(_LLAMA3, num_hidden_layers=28, num_attention_heads=24, head_dim=128, hidden_size=3072),
}


def published_config(name: str):
    """The configuration of a well-known model, from its published sizes: for `estimate`, with no download and no weights.

    name: one of `SIZES`. Returns a transformers config; raises InputError for another name. Source: the models' config.json.

        >>> config = mct.published_config("gpt2")
        >>> config.n_layer, config.n_head
        (12, 12)
    """
    from transformers import AutoConfig

    sizes = dict(SIZES[one_of(name, SIZES, "model with published sizes")])
    return AutoConfig.for_model(sizes.pop("family"), name_or_path=name, **sizes)


def published_runs():
    """A frame, indexed by run, with model, examples and the mean total, indirect and direct effect of all heads together.

    Effects are on the relative scale, odds after / odds before - 1. Source: Vig et al. 2020.

        >>> mct.published_runs().iloc[:, :3].round(3)
                                 model  examples  total_effect
        run
        bergsma_gpt2_filtered     gpt2        20         0.135
        bergsma_gpt2_unfiltered   gpt2        44         0.040
        bls_gpt2_filtered         gpt2        21         0.103
        bls_gpt2_unfiltered       gpt2        44         0.020
        gpt2_filtered_dev         gpt2        87         0.249
        gpt2_filtered_test        gpt2        66         0.225
        gpt2_random_filtered_dev  gpt2        57         0.066
        gpt2_unfiltered_dev       gpt2       160         0.115
        gpt2_unfiltered_test      gpt2       130         0.098
    """
    import pandas as pd

    return pd.read_csv(shipped("data/published/runs.csv"), index_col="run")


def published_effects(run: str = "gpt2_unfiltered_dev"):
    """A frame with the mean effect of each head alone: component (`L{layer}H{head}`), layer, indirect_effect, direct_effect.

    run: "gpt2_unfiltered_dev" (160 WinoBias pairs) or "gpt2_filtered_dev" (87). Effects are on the relative scale, those of
    `effects(mask, scale="relative")`, direct ones with `reverse=True`. Raises InputError for another run. Source: Vig et al. 2020.

        >>> mct.published_effects().nlargest(3, "indirect_effect").round(3)
           component  layer  indirect_effect  direct_effect
        68      L5H8      5            0.031          0.084
        70     L5H10      5            0.022          0.090
        54      L4H6      4            0.019          0.099
    """
    import pandas as pd

    table = pd.read_csv(shipped("data/published/heads.csv"))
    found = table[table["run"] == one_of(run, table["run"].unique(), "published run")].reset_index(drop=True)
    labels = [f"L{layer}H{head}" for layer, head in zip(found["layer"], found["head"])]
    return found[["layer", "indirect_effect", "direct_effect"]].assign(component=labels).loc[
        :, ["component", "layer", "indirect_effect", "direct_effect"]]
