"""Features as units: regressions between sites, label nodes, labels in words, and a shortcut removed."""

import numpy as np
import pandas as pd
import pytest
import torch

from mctrace_nb.errors import InputError
from mctrace_nb.observing import observe
from mctrace_nb.sae import autoencoder, features, shortcut
from mctrace_nb.sae.autoencoder import Autoencoder
from mctrace_nb.sae.fidelity import fidelity


def coded(z, site=("residual", 0), numbers=None):
    z = torch.as_tensor(z)
    return features.Coded(site, z, torch.arange(z.shape[1]) if numbers is None else torch.tensor(numbers), (z != 0).double().mean(0))


def planted(n=3000, seed=0):
    """Five upstream features; downstream 0 is the first less twice the third, 1 the second, 2 and 3 nothing of them."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.relu(torch.randn(n, 5, generator=generator))
    own = torch.relu(torch.randn(n, 4, generator=generator))
    down = torch.stack([up[:, 0] - 2 * up[:, 2] + 0.1 * own[:, 0], up[:, 1] + 0.1 * own[:, 1], own[:, 2], own[:, 3]], 1)
    return coded(up, numbers=[3, 5, 8, 9, 11]), coded(down, ("mlp_block", 1), [0, 2, 4, 6])


def identity(width=64, site=("residual", 1)):
    """An autoencoder that loses nothing: each coordinate and its negative."""
    eye = torch.eye(width)
    return Autoencoder(site, torch.cat([eye, -eye], 1), torch.zeros(2 * width), torch.cat([eye, -eye]), torch.zeros(width))


@pytest.fixture(scope="module")
def small(tutorial):
    return shortcut.dictionary(tutorial, ("residual", 2), 128, 4, steps=400)


# --- which features ------------------------------------------------------------------------------------------------

def test_only_features_that_are_active_often_enough_are_kept(monkeypatch):
    x = torch.zeros(200, 4)
    x[:, 0] = torch.arange(200.0) + 1  # always active
    x[:2, 1] = 1.0  # on 1 % of the tokens
    x[0, 2] = 1.0  # on half of that
    x[:, 3] = 7.0  # always the same
    whole = features.code(identity(4), x)
    assert whole.numbers.tolist() == [0, 1] and whole.share.tolist() == [1.0, 0.01] and whole.names == ["L1.resid.f0", "L1.resid.f1"]
    assert torch.equal(whole.z, x[:, :2])
    assert features.code(identity(4), x, at_least=0).numbers.tolist() == [0, 1, 2]
    monkeypatch.setattr(autoencoder, "CELLS", 24)  # three rows at a time
    assert torch.equal(features.code(identity(4), x).z, whole.z)
    assert features.code(identity(4), x).at(torch.tensor([0, 5])).share.tolist() == [1.0, 0.5]
    for bad, at_least, says in ((x, 1.5, "at_least=1.5"), (x[:, [3, 3, 3, 3]], 0.01, "none of 8 features"), (x / 0, 0.01, "not finite"),
                                (x[:0], 0.01, "0 activities")):
        with pytest.raises(InputError, match=says):
            features.code(identity(4), bad, at_least)
    assert features.feature_name(("mlp_block", 1), 3) == "L1.mlp.f3"


# --- regressions ---------------------------------------------------------------------------------------------------

def test_links_that_were_planted_are_found_and_no_others():
    links = features.link(*planted(), alpha=0.1)
    assert set(zip(links.edges.source, links.edges.target)) == {("L0.resid.f3", "L1.mlp.f0"), ("L0.resid.f8", "L1.mlp.f0"),
                                                                ("L0.resid.f5", "L1.mlp.f2")}
    weight = links.edges.set_index(["source", "target"]).weight
    assert weight["L0.resid.f3", "L1.mlp.f0"] > 0 > weight["L0.resid.f8", "L1.mlp.f0"]
    assert (np.diff(links.edges.weight.abs()) <= 0).all()
    assert links.explained["L1.mlp.f0"] > 0.9 and links.explained["L1.mlp.f4"] == 0
    assert len(features.link(*planted(), alpha=1.0).edges) == 0  # no correlation is above one


def test_a_single_regressor_by_hand():
    """One standardised regressor: the weight is the correlation, less alpha."""
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    y = torch.tensor([[1.0], [0.0], [3.0], [4.0]])
    correlation = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    links = features.link(coded(x), coded(y, ("residual", 1)), alpha=0.2)
    assert links.edges.weight[0] == pytest.approx(correlation - 0.2, abs=1e-6)
    assert links.explained.iloc[0] == pytest.approx(correlation ** 2 - 0.04, abs=1e-6)  # 2 b r - b^2


@pytest.mark.parametrize("chunk, cells", [(1, 2 ** 24), (3, 2 ** 24), (256, 50)])
def test_chunks_change_nothing(monkeypatch, chunk, cells):
    up, down = planted(500)
    whole = features.link(up, down, 0.05)
    monkeypatch.setattr(features, "CELLS", cells)  # ten rows at a time
    parts = features.link(up, down, 0.05, chunk)
    pd.testing.assert_frame_equal(parts.edges, whole.edges, atol=1e-6)
    pd.testing.assert_series_equal(parts.explained, whole.explained, atol=1e-6)


def test_features_that_do_not_vary_get_no_links():
    up, down = planted(300)
    still = coded(torch.cat([up.z, torch.full((300, 1), 1e4)], 1))
    links = features.link(still, down)
    assert "L0.resid.f5" not in set(links.edges.source) and np.isfinite(links.edges.weight).all()
    links = features.link(up, coded(torch.full((300, 1), 3.0), ("residual", 1)))
    assert len(links.edges) == 0 and links.explained.iloc[0] == 0
    for other, how, says in ((coded(down.z[:-1]), {}, "300 rows upstream and 299"), (down, dict(alpha=0), "alpha=0"),
                             (down, dict(chunk=0), "chunk=0")):
        with pytest.raises(InputError, match=says):
            features.link(up, other, **how)


def test_edges_become_a_graph():
    networkx = pytest.importorskip("networkx")
    links = features.link(*planted(), alpha=0.1)
    graph = networkx.from_pandas_edgelist(links.edges, edge_attr="weight", create_using=networkx.DiGraph)
    assert graph.number_of_edges() == 3 and graph["L0.resid.f5"]["L1.mlp.f2"]["weight"] > 0.85


# --- the label node ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", features.LOSSES)
def test_the_label_node_finds_what_the_label_depends_on(loss):
    up, _ = planted()
    score = 2 * up.z[:, 1] - up.z[:, 3]
    y = (score > score.mean()).double() if loss == "logistic" else 10 * score.double() + 100
    node = features.label_node(up, y, loss, fraction=0.1)
    assert node.chosen.tolist() == [1, 3] and node.weight[1] > 0 > node.weight[3]
    assert not len(features.label_node(up, y, loss, fraction=1.0).chosen)
    assert len(features.label_node(up, y, loss, fraction=0.95).chosen) == 1
    if loss == "squared":
        again = features.label_node(up, y / 1000, loss, fraction=0.1)  # the label's unit does not matter
        assert torch.allclose(node.weight, again.weight) and node.intercept == pytest.approx(float(y.mean()))


def test_rankings_by_hand():
    node = features.LabelNode(["a", "b", "c"], torch.tensor([0.5, -2.0, 0.0]).double(), torch.tensor([9.0, 9.0, 9.0]).double(),
                              torch.tensor([1.0, 4.0, 1.0]).double(), 0.0, "squared", 0.1)
    whole = node.ranking()
    assert whole.feature.tolist() == ["b", "a", "c"] and whole.score.tolist() == [2.0, 0.5, 0.0] and whole.weight.tolist() == [-2.0, 0.5, 0.0]
    one = node.ranking(torch.tensor([3.0, 2.0, 50.0]))  # .5 * 3 / 1, 2 * 2 / 4, 0
    assert one.feature.tolist() == ["a", "b", "c"] and one.score.tolist() == [1.5, 1.0, 0.0]
    assert node.ranking(torch.zeros(3)).score.tolist() == [0, 0, 0]
    assert node.chosen.tolist() == [1, 0]
    with pytest.raises(InputError, match="3 features of one prompt"):
        node.ranking(torch.zeros(2, 3))


@pytest.mark.parametrize("y, how, says", [
    (np.zeros(9), {}, "9 labels for 300 rows"), (np.zeros(300), {}, "all 300 labels are 0.0"), (np.arange(300), {}, "zeros and ones"),
    (np.arange(300) % 2, dict(fraction=0), "fraction=0"), (np.arange(300) % 2, dict(loss="hinge"), "unknown loss"),
    (np.full(300, np.nan), dict(loss="squared"), "all 300 labels are nan")])
def test_labels_that_cannot_be_regressed(y, how, says):
    with pytest.raises(InputError, match=says):
        features.label_node(planted(300)[0], y, **how)


# --- in words ------------------------------------------------------------------------------------------------------

def test_features_are_described_by_where_they_are_most_active(tutorial):
    texts = ["the nurse said that", "yesterday the pilot said that", "the nurse thought that", "the nurse said that"]
    prompts = [tutorial.tokenizer(text)["input_ids"] for text in texts]
    seen = observe(tutorial, prompts, [("residual", 0)])
    z = torch.zeros(len(seen), 2)
    z[2, 0], z[8, 0], z[13, 0], z[18, 0] = 3.0, 1.0, 2.0, 3.0  # nurse, pilot, nurse, and the first text once more
    z[3, 1], z[4, 1] = 2.0, 1.0  # said and that of the same prompt
    told = features.describe(tutorial, prompts, seen, coded(z), top=2)
    assert told.feature.tolist() == ["L0.resid.f0", "L0.resid.f1"] and told.words.tolist() == ["nurse", "said"]
    assert told.prompts[0] == ("<bos> the [nurse] said that", "<bos> the [nurse] thought that")
    assert told.prompts[1] == ("<bos> the nurse [said] that",) and told.share[0] == pytest.approx(4 / len(seen))
    assert features.describe(tutorial, prompts, seen, coded(z), ["L0.resid.f0"], top=3).words[0] == "nurse, pilot"
    assert features._marked([" the", " nurse", "s"], 1) == "the [nurse]s"  # tokens that bring their space
    with pytest.raises(InputError, match="unknown feature 'L0.resid.f9'"):
        features.describe(tutorial, prompts, seen, coded(z), ["L0.resid.f9"])
    with pytest.raises(InputError, match="give what was observed"):
        features.describe(tutorial, prompts, seen, coded(z[1:]))


# --- in the model --------------------------------------------------------------------------------------------------

def test_a_perfect_reconstruction_changes_nothing_and_a_blank_one_everything(tutorial):
    texts = ["the nurse said that", "yesterday the pilot said that", "a 1 b 2 c 3 ; next b"]
    prompts = [tutorial.tokenizer(text)["input_ids"] for text in texts]
    perfect = fidelity(tutorial, identity(), prompts)
    assert perfect["kl"] < 1e-9 and perfect["same_word"] == 1 and perfect["recovered"] > 1 - 1e-9 and perfect["kl_mean"] > 1
    activity = observe(tutorial, prompts, [("residual", 1)]).activity["residual", 1]
    blank = Autoencoder(("residual", 1), torch.zeros(64, 1), torch.zeros(1), torch.zeros(1, 64), activity.mean(0))  # says the mean, always
    said = fidelity(tutorial, blank, prompts)
    assert said["kl"] == pytest.approx(said["kl_mean"], rel=1e-4) and abs(said["recovered"]) < 1e-4
    with pytest.raises(InputError, match="layer 5"):
        fidelity(tutorial, identity(site=("residual", 5)), prompts)


def test_fidelity_is_told_at_the_last_token_of_each_prompt(tutorial, small):
    """After the last layer the rest of the model is one norm and one product, taken here by hand."""
    prompts = [tutorial.tokenizer(text)["input_ids"] for text in ("the nurse said that", "yesterday the pilot said that he")]
    seen = observe(tutorial, prompts, [("residual", 2)])
    last = seen.activity["residual", 2][seen.last]
    with torch.no_grad():
        p, q = (tutorial.model.lm_head(tutorial.model.transformer.ln_f(x)).double().log_softmax(-1) for x in (last, small.reconstruct(last)))
    said = fidelity(tutorial, small, prompts)
    assert said["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3) and said["kl"] > 1e-4


def test_a_dictionary_of_the_tutorial_model(tutorial, small):
    held_out = shortcut.corpus(tutorial, 100, seed=1)
    report = small.report(observe(tutorial, held_out, [small.site]).activity[small.site])
    assert report["explained"] > 0.93 and report["l0"] <= 4 and report["dead"] < 0.1, report
    prompts = [tutorial.tokenizer(f"the {who} said that")["input_ids"] for who in ("nurse", "pilot", "baker", "cook")]
    kept = fidelity(tutorial, small, prompts)
    assert kept["recovered"] > 0.9 and kept["same_word"] == 1, kept


# --- a shortcut ----------------------------------------------------------------------------------------------------

def test_sets_hold_what_they_promise():
    for setting in shortcut.SETTINGS:
        sets = shortcut.sentences(setting, seed=1, n=40)
        assert (sets["ambiguous"].label == sets["ambiguous"].gender).all() and len(sets["ambiguous"].texts) == 40
        for name in ("oracle", "balanced"):
            assert np.unique(2 * sets[name].label + sets[name].gender, return_counts=True)[1].tolist() == [10] * 4
        assert not sets["probe"].label.any() and sets["probe"].gender.mean() == 0.5  # the probe cannot teach the label
        assert len({len(text.split()) for said in sets.values() for text in said.texts}) == 1  # no position tells the label
        for text, label in zip(sets["balanced"].texts, sets["balanced"].label):
            assert ("after the meeting" in text) == label
        assert sets["balanced"].texts != sets["oracle"].texts and shortcut.sentences(setting, 1, 40)["probe"].texts == sets["probe"].texts
    for text, gender in zip(sets["balanced"].texts, sets["balanced"].gender):
        assert (shortcut.grammar.OCCUPATIONS[text.split()[4]] > 0.5) == gender
    with pytest.raises(InputError, match="multiple of 20"):
        shortcut.sentences("people", n=50)
    with pytest.raises(InputError, match="did you mean 'people'"):
        shortcut.sentences("peopl")


def test_auroc_by_hand():
    assert shortcut.auroc([1, 2, 3, 4], [0, 1, 0, 1]) == 0.75 and shortcut.auroc([1, 1, 1], [0, 1, 0]) == 0.5
    assert np.isnan(shortcut.auroc([1, 2], [1, 1]))
    score, truth = np.random.default_rng(0).normal(size=50), np.random.default_rng(1).integers(0, 2, 50)
    pairs = [(a > b) + (a == b) / 2 for a in score[truth == 1] for b in score[truth == 0]]
    assert shortcut.auroc(score, truth) == pytest.approx(np.mean(pairs))


def test_the_classifier_is_at_the_optimum_of_its_loss():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + 4
    y = (x[:, 0] + torch.randn(200, generator=generator) > 4).long()
    odds = shortcut.classifier(x, y.numpy())(x)
    p = 1 / (1 + np.exp(-odds))
    scale = float(x.std(0).pow(2).mean().sqrt())
    inside = np.column_stack([(x.numpy() - x.numpy().mean(0)) / scale, np.ones(200)])
    b = np.linalg.lstsq(inside, odds, rcond=None)[0]
    assert np.abs(inside.T @ (p - y.numpy()) / 200 + 1e-3 * b).max() < 1e-6
    assert ((odds > 0) == y.numpy()).mean() > 0.7


def test_the_shortcut_is_removed_where_it_is_a_feature_of_its_own(tutorial, small, monkeypatch):
    trained_on, classifier = [], shortcut.classifier
    monkeypatch.setattr(shortcut, "classifier", lambda x, y: trained_on.append(x) or classifier(x, y))
    run = shortcut.remove(tutorial, small, "people", seed=0, n=200)
    by = run.accuracy.set_index("way")
    assert by.accuracy["original"] <= 0.75 and by.worst_group["original"] <= 0.1 and by.gender["original"] >= 0.75  # it is fooled
    assert by.accuracy["oracle"] >= 0.95 and by.accuracy["retrained"] >= 0.9 and by.worst_group["retrained"] >= 0.8
    assert by.accuracy["random retrained"] <= by.accuracy["retrained"] - 0.2 and by.removed["random zeroed"] == by.removed["zeroed"]
    assert by.accuracy["zeroed"] > by.accuracy["original"] + 0.1 and abs(by.gender["retrained"] - 0.5) < 0.1
    removed = run.ranking[run.ranking.removed]
    assert (abs(removed.gender_auroc - 0.5) > shortcut.FAR).all() and len(removed) == by.removed["zeroed"] < len(run.ranking) < run.active
    assert by["read"]["retrained"] == by["read"]["by correlation"] == len(run.ranking) and by["read"]["every gender-like"] == run.active
    assert run.node.names[run.node.chosen[0]] == run.ranking.feature[0]
    assert torch.equal(trained_on[0], trained_on[1]) and not torch.allclose(trained_on[0], trained_on[2])  # only retraining changes what is learned


@pytest.mark.long
def test_the_shortcut_stays_where_gender_is_spread_over_everything(tutorial):
    """At the last word the model is about to say he or she: features that say nothing of gender alone still tell it together."""
    sae = shortcut.dictionary(tutorial)
    by = shortcut.remove(tutorial, sae, "last_word", seed=0, n=200).accuracy.set_index("way")
    assert by.accuracy["original"] <= 0.6 and by.accuracy["oracle"] >= 0.85
    assert by.removed["zeroed"] > 0 and by.accuracy["zeroed"] <= 0.6 and by.accuracy["retrained"] <= 0.6
    assert by.accuracy["by correlation"] <= 0.65 and by.accuracy["every gender-like"] <= 0.65


@pytest.mark.long
def test_the_shortcut_over_seeds(tutorial):
    found = shortcut.measure(tutorial)
    by = found.set_index("way")
    assert by.accuracy["original"] <= 0.75 and by.accuracy["oracle"] >= 0.9 and (found.seeds == 5).all()
    assert by.accuracy["retrained"] >= 0.85 and by.accuracy_low["retrained"] > by.accuracy_high["random retrained"] + 0.1
    assert by.accuracy["retrained"] > by.accuracy["zeroed"] > by.accuracy["random zeroed"] + 0.1
    assert 5 < by.removed["retrained"] < by["read"]["retrained"] < by["read"]["every gender-like"] / 2


def test_measuring_gives_a_row_a_way(tutorial):
    found = shortcut.measure(tutorial, [0, 1], n=40, features=16, k=2, steps=20)
    assert found.way.tolist()[:3] == ["original", "zeroed", "retrained"] and len(found) == 8 and (found.seeds == 2).all()
    assert ((found.accuracy_low <= found.accuracy) & (found.accuracy <= found.accuracy_high)).all()
    with pytest.raises(InputError, match="at least one seed"):
        shortcut.measure(tutorial, [])
