"""Sparse autoencoders: arithmetic by hand, a planted dictionary, files of others, regressions of features."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mctrace_nb as mct
from mctrace_nb.errors import InputError
from mctrace_nb.sae import autoencoder, features, load
from mctrace_nb.sae.autoencoder import Autoencoder, train_autoencoder

SITE = ("residual", 1)


def by_hand(activation="relu", **more):
    """Two wide, three features: x0, x1 and -x0 - x1, each with its bias."""
    W_enc = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    return Autoencoder(SITE, W_enc, torch.tensor([0.0, -1.0, 0.5]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]),
                       torch.tensor([0.5, 0.0]), activation, **more)


def planted(n=4000, width=16, features=24, seed=0):
    """Activities made of few of 24 directions each, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
    on = torch.rand(n, features, generator=generator) < 2 / features
    return (on * (1 + torch.rand(n, features, generator=generator))) @ directions, directions


# --- the arithmetic -----------------------------------------------------------------------------------------------

def test_encoding_and_decoding_by_hand():
    x = torch.tensor([[2.5, 3.0], [-1.5, 1.0]])  # less b_dec: (2, 3), (-2, 1)
    z = torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 1.5]])
    assert torch.equal(by_hand().encode(x), z)
    assert torch.equal(by_hand().decode(z), torch.tensor([[2.5, 4.0], [-1.0, -1.5]]))
    assert torch.equal(by_hand().reconstruct(x), torch.tensor([[2.5, 4.0], [-1.0, -1.5]]))
    assert torch.equal(by_hand().reconstruct(x, without=torch.tensor([1, 2])), torch.tensor([[2.5, 0.0], [0.5, 0.0]]))
    assert torch.equal(by_hand(subtract=False).encode(x), torch.tensor([[2.5, 2.0, 0.0], [0.0, 0.0, 1.0]]))


def test_topk_keeps_the_largest_and_jumprelu_those_above_the_threshold():
    x = torch.tensor([[2.5, 4.0]])  # before the activation: 2, 3, -5.5
    assert torch.equal(by_hand("topk", k=1).encode(x), torch.tensor([[0.0, 3.0, 0.0]]))
    assert torch.equal(by_hand("topk", k=3).encode(x), torch.tensor([[2.0, 3.0, 0.0]]))  # never one below zero
    thresholds = torch.tensor([2.0, 2.9, 0.0])  # at the threshold is not above it
    assert torch.equal(by_hand("jumprelu", threshold=thresholds).encode(x), torch.tensor([[0.0, 3.0, 0.0]]))


def test_what_is_taken_off_before_is_put_back_after():
    x = torch.tensor([[5.0, 3.0], [7.0, 7.0]])
    centred = by_hand(norm="centre", subtract=False)
    assert torch.equal(centred.encode(x), centred.encode(x + 100))
    assert torch.equal(centred.reconstruct(x + 100), centred.reconstruct(x) + 100)
    assert torch.equal(centred.encode(x)[0], torch.tensor([1.0, 0.0, 0.5]))
    scaled = by_hand(norm="layer_norm", subtract=False)
    assert torch.allclose(scaled.encode(x[:1]), scaled.encode(7 * x[:1] + 2), atol=1e-4)
    assert torch.allclose(scaled.encode(x[:1])[0, 0], torch.tensor(0.5 ** 0.5), atol=1e-4)  # +-1 over an sd of sqrt(2)
    assert torch.allclose(scaled.reconstruct(7 * x[:1] + 2), 7 * scaled.reconstruct(x[:1]) + 2, atol=1e-3)


def test_report_by_hand(monkeypatch):
    x = torch.tensor([[2.5, 3.0], [-1.5, 1.0], [0.5, -1.0]])
    # Features (2, 2, 0), (0, 0, 1.5), (0, 0, 1.5): 4 of 9 active, none dead. Errors (0, -1), (-.5, 2.5), (1.5, .5).
    monkeypatch.setattr("mctrace_nb.sae.autoencoder.CELLS", 3)  # one row at a time
    report = by_hand().report(x)
    assert report["l0"] == pytest.approx(4 / 3) and report["dead"] == 0 and report["tokens"] == 3
    total = float(x.var(0, correction=0).sum()) * 3
    assert report["explained"] == pytest.approx(1 - (1 + 6.5 + 2.5) / total, abs=1e-6)
    assert by_hand().report(x[1:])["dead"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("change, says", [
    (dict(W_enc=torch.zeros(2, 4)), "b_enc is of shape (3,)"), (dict(W_dec=torch.zeros(2, 3)), "W_dec is of shape (2, 3)"),
    (dict(activation="topk"), "k=None"), (dict(activation="topk", k=4), "from 1 to 3"), (dict(activation="jumprelu"), "threshold is missing"),
    (dict(activation="tanh"), "unknown activation"), (dict(norm="centred"), "did you mean 'centre'"),
    (dict(W_enc=torch.zeros(2)), "W_enc has the shape")])
def test_parts_that_do_not_fit_are_refused(change, says):
    from dataclasses import replace
    with pytest.raises(InputError) as error:
        replace(by_hand(), **change)
    assert says in str(error.value)


def test_the_wrong_model_is_refused(tutorial):
    with pytest.raises(InputError, match="width 2, residual of 'tutorial' has 64"):
        by_hand().check(tutorial)
    wide = Autoencoder(("residual", 3), torch.zeros(64, 2), torch.zeros(2), torch.zeros(2, 64), torch.zeros(64))
    with pytest.raises(InputError, match="layer 3, 'tutorial' has 3 layers"):
        wide.check(tutorial)
    neurons = Autoencoder(("mlp_neuron", 0), torch.zeros(256, 2), torch.zeros(2), torch.zeros(2, 256), torch.zeros(256))
    assert neurons.check(tutorial) is neurons
    with pytest.raises(InputError, match="width 3"):
        by_hand().encode(torch.zeros(4, 3))


# --- training -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", [dict(k=3), dict(l1=0.5)])
def test_a_planted_dictionary_is_found(how):
    x, directions = planted()
    sae = train_autoencoder(x, 32, SITE, steps=700, seed=1, **how)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(32), atol=1e-5)
    cosine = (directions @ sae.W_dec.T).amax(1)
    report = sae.report(x)
    # A penalty shrinks what it keeps and lets features share directions; keeping k does neither, but leaves out what is beyond k.
    assert cosine.mean() > (0.95 if "k" in how else 0.88) and report["explained"] > 0.85, (cosine.mean(), report)
    untrained = train_autoencoder(x, 32, SITE, steps=1, seed=1, **how)
    assert (directions @ untrained.W_dec.T).amax(1).mean() < 0.75 and untrained.report(x)["explained"] < 0.6


def test_the_seed_decides_alone():
    x, _ = planted(500)
    one, same, other = (train_autoencoder(x, 8, SITE, k=2, steps=40, seed=seed).W_dec for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.1)
    before = torch.rand(1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    train_autoencoder(x, 8, SITE, k=2, steps=3)
    assert torch.equal(torch.rand(1), before)  # the caller's random numbers stay as they are


def test_units_of_the_activity_do_not_matter():
    x, _ = planted(500)
    one, scaled = (train_autoencoder(y, 8, SITE, l1=0.3, steps=40) for y in (x, 1000 * x + 5))
    assert one.report(x)["explained"] == pytest.approx(scaled.report(1000 * x + 5)["explained"], abs=1e-3)


def test_features_that_never_fire_are_revived(monkeypatch):
    x, _ = planted()
    dead = {}
    for revivals in (8, 0):
        monkeypatch.setattr(autoencoder, "_revive", autoencoder._revive if revivals else lambda *_: 0)
        sae = train_autoencoder(x, 200, SITE, k=3, steps=240, learning_rate=0.03)
        dead[revivals] = sae.report(x)["dead"]
    assert dead[8] < dead[0] - 0.1, dead


@pytest.mark.parametrize("x, how, says", [
    (torch.ones(50, 4), dict(k=1), "same at all tokens"), (torch.randn(50, 4), {}, "give one of them"),
    (torch.randn(50, 4), dict(k=1, l1=1.0), "give one"), (torch.full((50, 4), torch.nan), dict(k=1), "200 values"),
    (torch.randn(50, 4), dict(k=9), "from 1 to 8"), (torch.randn(50, 4), dict(l1=-1.0), "at least 0"),
    (torch.randn(50), dict(k=1), "shape (50,)"), (torch.randn(50, 4), dict(k=1, steps=0), "steps=0")])
def test_training_refuses_what_cannot_be_trained(x, how, says):
    with pytest.raises(InputError) as error:
        train_autoencoder(x, 8, SITE, **how)
    assert says in str(error.value)


# --- files --------------------------------------------------------------------------------------------------------

def written(folder, settings, tensors, name=load.WEIGHTS):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    if settings is not None:
        (folder / load.CFG).write_text(json.dumps(settings))
    return folder


def weights(width=6, features=10, **more):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(W_enc=(width, features), b_enc=(features,), W_dec=(features, width), b_dec=(width,))
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | more


def gpt2_settings(width=6, features=10, **more):  # the keys of gpt2-small-res-jb
    return dict(d_in=width, d_sae=features, model_name="gpt2-small", hook_point="blocks.8.hook_resid_pre", hook_point_layer=8,
                hook_point_head_index=None, dtype="torch.float32", l1_coefficient=8e-05, expansion_factor=32, context_size=128) | more


def test_the_layout_of_the_gpt2_dictionaries(tmp_path):
    tensors = weights(scaling_factor=torch.ones(10))
    sae = load.load_sae(written(tmp_path / "a", gpt2_settings(), tensors))
    assert sae.site == ("residual", 7) and sae.activation == "relu" and sae.subtract and sae.norm == "centre" and sae.features == 10
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    centred = x - x.mean(1, keepdim=True)
    z = torch.relu((centred - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"])
    assert torch.equal(sae.encode(x), z)
    assert torch.allclose(sae.reconstruct(x), z @ tensors["W_dec"] + tensors["b_dec"] + x.mean(1, keepdim=True))
    assert load.load_sae(tmp_path / "a", norm="none").norm == "none"
    later = dict(architecture="topk", d_in=6, d_sae=10, k=2, apply_b_dec_to_input=False, normalize_activations="layer_norm",
                 metadata=dict(hook_name="blocks.3.hook_mlp_out", model_name="gpt2-small"))
    sae = load.load_sae(written(tmp_path / "b", later, weights()))
    assert (sae.site, sae.activation, sae.k, sae.subtract, sae.norm) == (("mlp_block", 3), "topk", 2, False, "layer_norm")
    middle = gpt2_settings(architecture="standard", activation_fn_str="topk", activation_fn_kwargs=dict(k=4),
                           hook_name="blocks.8.hook_resid_post", model_from_pretrained_kwargs=dict(center_writing_weights=False))
    del middle["hook_point"]
    sae = load.load_sae(written(tmp_path / "c", middle, weights()))
    assert (sae.site, sae.activation, sae.k, sae.norm) == (("residual", 8), "topk", 4, "none")
    assert load.load_sae(written(tmp_path / "d", gpt2_settings(model_class_name="AutoModelForCausalLM"), weights())).norm == "none"
    assert load.load_sae(written(tmp_path / "e", gpt2_settings(model_name="gemma-2b"), weights())).norm == "none"  # it has no LayerNorm


def test_the_layout_of_gemma_scope(tmp_path):
    tensors = weights(threshold=torch.full((10,), 0.5))
    written(tmp_path / "g", None, tensors, "params.safetensors")
    sae = load.load_sae(tmp_path / "g" / "params.safetensors", site=("residual", 12))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    before = x @ tensors["W_enc"] + tensors["b_enc"]  # b_dec is not taken off
    assert torch.equal(sae.encode(x), before * (before > 0.5)) and sae.norm == "none"
    lower = {name.replace("W_", "w_"): t for name, t in tensors.items()}
    written(tmp_path / "g", None, lower, "second.safetensors")
    assert torch.equal(load.load_sae(tmp_path / "g" / "second.safetensors", ("residual", 12), dtype="float64").W_enc, tensors["W_enc"].double())


@pytest.mark.slow
def test_the_true_size_of_gpt2(tmp_path):
    folder = written(tmp_path / "a", gpt2_settings(768, 24576), weights(768, 24576))
    sae = load.load_sae(folder)
    x = torch.randn(200, 768)
    assert sae.features == 24576 and sae.report(x)["tokens"] == 200
    coded = features.code(sae, x)
    assert coded.z.shape[0] == 200 and torch.equal(coded.z[:5], sae.encode(x[:5])[:, coded.numbers])


@pytest.mark.parametrize("settings, tensors, says", [
    (gpt2_settings(), dict(W_dec=None), "has no W_dec"), (gpt2_settings(), dict(W_dec=torch.zeros(6, 10)), "W_dec is of shape (6, 10)"),
    (gpt2_settings(architecture="gated"), {}, "unknown architecture of an autoencoder 'gated'"),
    (gpt2_settings(architecture="jumprelu"), {}, "threshold is missing"),
    (gpt2_settings(activation_fn_str="tanh-relu"), {}, "'tanh-relu' is not supported"),
    (gpt2_settings(normalize_activations="expected_average_only_in"), {}, "fold the scale"),
    (gpt2_settings(rescale_acts_by_decoder_norm=True), {}, "rescale_acts_by_decoder_norm=True"),
    (gpt2_settings(hook_head_index=3), {}, "hook_head_index=3"),
    (gpt2_settings(hook_point="blocks.8.attn.hook_z"), {}, "'blocks.8.attn.hook_z' is not supported"),
    (gpt2_settings(hook_point="blocks.0.hook_resid_pre"), {}, "from layer 1 on"),
    (gpt2_settings(hook_point="blocks.2.hook_resid_mid"), {}, "hook_resid_mid"),
    (gpt2_settings(hook_point=None), {}, "no hook_name"), (gpt2_settings(), dict(scaling_factor=torch.full((10,), 2.0)), "scaling factor"),
    (gpt2_settings(architecture="topk"), {}, "k=None")])
def test_folders_that_cannot_be_read_say_why(tmp_path, settings, tensors, says):
    tensors = {k: v for k, v in (weights() | tensors).items() if v is not None}
    with pytest.raises(InputError) as error:
        load.load_sae(written(tmp_path / "a", settings, tensors))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read_say_why(tmp_path):
    def refused(says, *where, **how):
        with pytest.raises(InputError, match=says):
            load.load_sae(*where, **how)

    np.savez(tmp_path / "params.npz", W_enc=np.zeros((2, 3)))
    (tmp_path / "sae.pt").write_bytes(b"x")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\x00")
    written(tmp_path, None, weights(threshold=torch.ones(10)), "good.safetensors")
    written(tmp_path, None, weights(), "relu.safetensors")
    refused("convert it once", tmp_path / "params.npz")
    refused("a pickle can run code", tmp_path / "sae.pt")
    refused("damaged", tmp_path / "bad.safetensors")
    refused("there is no file", tmp_path / "none.safetensors")
    refused("does not say where it is read", tmp_path / "good.safetensors")
    refused("unknown kind of activity", tmp_path / "good.safetensors", site=("resid", 2))
    refused("no threshold", tmp_path / "relu.safetensors", site=("residual", 2))
    refused("unknown dtype", tmp_path / "good.safetensors", dtype="int8")
    refused("has no cfg.json", tmp_path)
    folder = written(tmp_path / "a", gpt2_settings(), weights())
    refused("is not what cfg.json says", folder, site=("residual", 8))
    (folder / load.CFG).write_text("{")
    refused("is not JSON", folder)


@pytest.mark.parametrize("sae", [by_hand(), by_hand("topk", k=2), by_hand("jumprelu", threshold=torch.ones(3), subtract=False),
                                 by_hand(norm="centre"), by_hand(norm="layer_norm", made=dict(seed=3, k=2))])
def test_what_is_written_is_read_back(tmp_path, sae):
    read = load.load_sae(load.save_sae(sae, tmp_path / "here"))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read.encode(x), sae.encode(x)) and torch.equal(read.reconstruct(x), sae.reconstruct(x)) and read.site == sae.site
    assert sae.made.items() <= read.made.items()
    with pytest.raises(InputError, match="already"):
        load.save_sae(sae, tmp_path / "here")


def test_a_norm_after_the_mlp_is_noticed():
    model = mct.models.random_model("gemma2")
    tensors = weights(32, 10)
    hooked = Autoencoder(("mlp_block", 0), *(tensors[n] for n in load.NAMES), made=dict(hook="blocks.0.hook_mlp_out"))
    with pytest.raises(InputError, match="after a norm"):
        hooked.check(model)
    assert Autoencoder(("mlp_block", 0), *(tensors[n] for n in load.NAMES)).check(model)  # one that was trained here
