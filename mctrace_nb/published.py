"""Effects of GPT-2 as published by others, to compare one's own with: see data/published/README.md."""

from __future__ import annotations

from mctrace_nb.errors import one_of
from mctrace_nb.models import shipped


def published_runs():
    """A frame, indexed by run, with model, examples and the mean total, indirect and direct effect of all heads together.

    Effects are on the relative scale, odds after / odds before - 1. Source: Vig et al. 2020.
    """
    import pandas as pd

    return pd.read_csv(shipped("data/published/runs.csv"), index_col="run")


def published_effects(run: str = "gpt2_unfiltered_dev"):
    """A frame with the mean effect of each head alone: component (`L{layer}H{head}`), layer, indirect_effect, direct_effect.

    run: "gpt2_unfiltered_dev" (160 WinoBias pairs) or "gpt2_filtered_dev" (87). Effects are on the relative scale, those of
    `effects(mask, scale="relative")`, direct ones with `reverse=True`. Raises InputError for another run. Source: Vig et al. 2020.
    """
    import pandas as pd

    table = pd.read_csv(shipped("data/published/heads.csv"))
    found = table[table["run"] == one_of(run, table["run"].unique(), "published run")].reset_index(drop=True)
    labels = [f"L{layer}H{head}" for layer, head in zip(found["layer"], found["head"])]
    return found[["layer", "indirect_effect", "direct_effect"]].assign(component=labels).loc[
        :, ["component", "layer", "indirect_effect", "direct_effect"]]
