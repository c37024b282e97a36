"""GPT-2's effects as others published them: cited faithfully, on our pairs, and found again by whoever has the weights."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import asset
from transformers import AutoTokenizer

import mctrace_nb as mct
from mctrace_nb.published import published_effects, published_runs

RUN = "gpt2_unfiltered_dev"


@pytest.mark.parametrize("run", [RUN, "gpt2_filtered_dev"])
def test_heads_are_cited_to_the_last_digit(run):
    source = pd.read_csv(asset(f"published/vig2020_{run}_heads.csv"))
    cited = published_effects(run)
    assert cited["component"].tolist() == [f"L{layer}H{head}" for layer in range(12) for head in range(12)]
    assert cited["indirect_effect"].tolist() == source["mean_indirect_effect"].tolist()
    assert cited["direct_effect"].tolist() == source["mean_direct_effect"].tolist()


def test_runs_are_cited_to_the_last_digit():
    source = pd.read_csv(asset("published/vig2020_summary.csv"), index_col="run")
    source = source[source["model"] == "gpt2"].set_axis(["model", "examples", "total_effect", "indirect_effect", "direct_effect"], axis=1)
    pd.testing.assert_frame_equal(published_runs(), source)


def test_known_facts():
    total, all_heads, direct = published_runs().loc[RUN, ["total_effect", "indirect_effect", "direct_effect"]]
    assert (round(total, 4), round(all_heads, 4), round(direct, 4)) == (0.1146, 0.1042, 0.0193)
    heads = published_effects()
    assert heads["direct_effect"].sub(total).abs().max() < 0.05  # all heads but one stay on the counterfactual prompt
    assert heads["indirect_effect"].sum() == pytest.approx(all_heads, abs=0.02)
    with pytest.raises(mct.InputError, match="did you mean 'gpt2_filtered_dev'"):
        published_effects("gpt2_filtered")


@pytest.mark.parametrize("run", [RUN, "gpt2_filtered_dev"])
def test_means_are_those_of_the_published_examples(run):
    examples = pd.read_csv(asset(f"published/vig2020_{run}_examples.csv"))
    row = published_runs().loc[run]
    assert len(examples) == row["examples"]
    for name, column in (("total_effect", "total_effect"), ("indirect_effect", "indirect_effect_model"), ("direct_effect", "direct_effect_model")):
        assert examples[column].mean() == pytest.approx(row[name], abs=1e-6)
    relative = examples["odds_alt"] / examples["odds_base"] - 1
    assert (relative - examples["total_effect"]).abs().max() < 1e-12
    assert (examples["candidate2_base_prob"] / examples["candidate1_base_prob"] - examples["odds_base"]).abs().max() < 1e-12


def test_our_pairs_are_the_published_ones():
    """Token by token and in the same order: the published file writes a continuation as its tokens with spaces between."""
    tokenizer = AutoTokenizer.from_pretrained(asset("tokenizers/gpt2"))
    data = asset("winobias/pro_stereotyped_type1.txt.dev").parent
    ours = mct.load_task("winobias", SimpleNamespace(tokenizer=tokenizer, name="gpt2"), n=None, heldout=0, data_dir=data).search

    def tokens(ids):
        return " ".join(tokenizer.convert_ids_to_tokens(list(ids))).replace("Ġ", "")

    found = [(tokenizer.decode(e.base), tokenizer.decode(e.counterfactual), tokens(e.foil), tokens(e.target)) for e in ours]
    published = pd.read_csv(asset(f"published/vig2020_{RUN}_examples.csv"), keep_default_na=False)
    assert found == list(published[["base_string1", "base_string2", "candidate1", "candidate2"]].itertuples(index=False, name=None))


def test_the_filter_is_the_one_described():
    everything, kept = (pd.read_csv(asset(f"published/vig2020_gpt2_{name}_dev_examples.csv")) for name in ("unfiltered", "filtered"))
    effects = everything["total_effect"]
    above = everything[effects > effects[effects > 0].quantile(0.25)]
    assert above["base_string1"].tolist() == kept["base_string1"].tolist()


@pytest.mark.network
def test_gpt2_has_the_published_effects():
    """Needs GPT-2's weights, from the cache or the hub, and WinoBias: make test-network."""
    model = mct.load_model("gpt2")
    task = mct.load_task("winobias", model, n=None, heldout=0)
    assert len(task.search) == 160
    trace = mct.Trace(model, task, components="head_pattern", answer_rule="mean")
    run, heads = published_runs().loc[RUN], published_effects(RUN)
    assert torch.expm1(trace.total_effects()).mean().item() == pytest.approx(run["total_effect"], abs=1e-3)
    for name, reverse in (("indirect_effect", False), ("direct_effect", True)):
        together = trace.effects(torch.ones(144), reverse=reverse, scale="relative")
        assert together.mean().item() == pytest.approx(run[name], abs=1e-3)
        singles = trace.effects(torch.eye(144), reverse=reverse, scale="relative").mean(-1)
        torch.testing.assert_close(singles.cpu().double(), torch.tensor(heads[name].to_numpy()), rtol=0, atol=1e-3)
