"""Loading: what is accepted, what is refused with one clear line, and models whose weights lie elsewhere between calls."""

import json
import shutil

import httpx2
import pytest
import torch
import transformers as hf
from conftest import Words, random_task, tiny_gpt2
from huggingface_hub.utils import hf_raise_for_status
from safetensors.torch import load_file, save_file

import mctrace_nb as mct
from mctrace_nb import hub
from mctrace_nb.components import KINDS
from mctrace_nb.models import shipped
from mctrace_nb.tracing import Trace

SIZES = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
             max_position_embeddings=64, initializer_range=0.3)


def tiny_llama(**more):
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "head_dim": 8, **more}))


@pytest.fixture
def folder(tmp_path):
    """A copy of the tutorial model to damage."""
    return shutil.copytree(shipped("data/tutorial"), tmp_path / "model")


def refusal(make) -> str:
    with pytest.raises(mct.InputError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layout ---

def test_layout_of_grouped_query_attention_with_its_own_head_width():
    lm = mct.load_model(tiny_llama(), tokenizer=Words())
    assert (lm.heads, lm.kv_heads, lm.head_width, lm.width, lm.neurons, lm.context) == (4, 2, 8, 16, 24, 64)
    assert [layer.block for layer in lm.layers] == list(lm.model.model.layers)
    assert (tiny_gpt2().kv_heads, tiny_gpt2().context) == (2, 64)


def test_prompts_longer_than_the_context():
    lm = tiny_gpt2()
    lm.check_length(64, "prompt 3")
    assert "prompt 3 has 65 tokens with its answer, 'tiny-gpt2' reads at most 64" in refusal(lambda: lm.check_length(65, "prompt 3"))


def test_a_loaded_model_is_taken_as_it_is():
    model = tiny_llama().double()
    lm = mct.load_model(model, tokenizer=Words())
    assert lm.model is model and lm.dtype == torch.float64
    assert "load_model(model, tokenizer=...)" in refusal(lambda: mct.load_model(model))


def test_a_tokenizer_of_ones_own(tmp_path, tutorial):
    tutorial.model.save_pretrained(tmp_path)
    lm = mct.load_model(tmp_path, tokenizer=tutorial.tokenizer, device="cpu")
    assert lm.tokenizer is tutorial.tokenizer and torch.equal(lm.model.lm_head.weight, tutorial.model.lm_head.weight)


def test_sharded_weights(folder, tutorial):
    (folder / "model.safetensors").unlink()
    tutorial.model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(mct.load_model(folder).model.lm_head.weight, tutorial.model.lm_head.weight)
    next(folder.glob("model-00002*")).unlink()
    assert "No such file" in refusal(lambda: mct.load_model(folder))


# --- folders that cannot be loaded ---

def without(pattern):
    return lambda folder: [p.unlink() for p in folder.glob(pattern)]


def only_bin(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def truncated_at_the_end(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lost(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "h.1.attn" not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_config(**changes):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return change


def fewer_words(folder):
    torch.manual_seed(0)
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2)).save_pretrained(folder)


DAMAGE = {
    "no config": (without("config.json"), "has no config.json"),
    "no weights": (without("*.safetensors"), "has a config.json but no weights"),
    "pickled weights": (only_bin, "weights are in pytorch_model.bin; it has no safetensors weights; convert them"),
    "no tokenizer": (without("tokenizer*"), "comes without its tokenizer"),
    "foreign tokenizer": (fewer_words, "has 174 tokens, the model embeds 100"),
    "truncated": (truncated, "weights file is damaged or incomplete"),
    "truncated at the end": (truncated_at_the_end, "weights file is damaged or incomplete"),
    "lost weights": (lost, "has no weights for 4 parameters (transformer.h.1.attn.c_attn.bias, "),
    "not finite": (not_finite, "numbers that are not finite in float32"),
    "other sizes": (with_config(n_embd=32), "sizes in its config.json are not those of its weights"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    "remote code": (with_config(model_type="own", auto_map={"AutoConfig": "own.Config"}), "needs code of its own"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_says_what_is_wrong(folder, name):
    damage, message = DAMAGE[name]
    damage(folder)
    assert message in refusal(lambda: mct.load_model(folder))


SMALL = dict(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, initializer_range=0.3)
ARCHITECTURES = {
    "encoder": (lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)), "lets tokens look at later ones"),
    "encoder without a causal form": (lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, hidden_dim=24)),
                                      "DistilBert is not a causal language model"),
    "encoder-decoder": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=32, d_model=16, num_layers=1, d_ff=16, num_heads=2)),
                        "is an encoder-decoder; give a causal"),
    "own attention": (lambda: hf.GPTJForCausalLM(hf.GPTJConfig(vocab_size=32, n_embd=8, n_layer=1, n_head=2, rotary_dim=4, bos_token_id=0, eos_token_id=0)),
                      "GPTJForCausalLM does not use transformers' attention registry"),
    "recurrent": (lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1)),
                  "MambaForCausalLM has recurrent layers"),
    "linear attention": (lambda: hf.MiniMaxForCausalLM(hf.MiniMaxConfig(**SMALL, num_local_experts=2, layer_types=["linear_attention"])),
                         "MiniMaxForCausalLM has recurrent layers"),
    "convolution": (lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**{**SMALL, "num_hidden_layers": 2}, num_key_value_heads=2, layer_types=["full_attention", "conv"])),
                    "found 0 stacks of 2 layers with attention"),
    "impossible sizes": (lambda: hf.HeliumForCausalLM(hf.HeliumConfig(**SMALL, num_key_value_heads=2)), "HeliumForCausalLM cannot read three tokens (mat1"),
    "no head": (lambda: hf.GPT2Model(hf.GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2)), "GPT2Model gives no logits"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_are_refused_by_name(tmp_path, name):
    make, message = ARCHITECTURES[name]
    model = make()
    if name != "no head":  # its folder does load: the output projection is tied to the embedding
        model.save_pretrained(tmp_path)
        assert message in refusal(lambda: mct.load_model(tmp_path, tokenizer=Words()))
    if name != "encoder without a causal form":  # a loaded one is known by its pass: see "encoder"
        assert message in refusal(lambda: mct.load_model(model, tokenizer=Words()))


def test_tied_weights_are_not_missing(tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    mct.load_model(tmp_path, tokenizer=Words())


# --- the hub ---

def answer(status, code=None):
    """What the hub's client makes of the hub's answer."""
    url = "https://huggingface.co/org/model/resolve/main/config.json"
    headers = {"X-Error-Code": code} if code else {}
    return lambda *_, **__: hf_raise_for_status(httpx2.Response(status, headers=headers, request=httpx2.Request("HEAD", url)))


def no_network(*_, **__):
    raise httpx2.ConnectError("Name or service not known")


ANSWERS = {
    "gated": (answer(403, "GatedRepo"), "it is gated; accept its terms"),
    "missing": (answer(401, "RepoNotFound"), "there is no such model on the hub, or it is private"),
    "revision": (answer(404, "RevisionNotFound"), "it has no such revision"),
    "no config": (answer(404, "EntryNotFound"), "it has no config.json"),
    "server": (answer(503), "the hub cannot be reached"),
    "no network": (no_network, "the hub cannot be reached"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_hub_answers(monkeypatch, name):
    answered, message = ANSWERS[name]
    monkeypatch.setattr(hub, "get_hf_file_metadata", answered)
    said = refusal(lambda: mct.load_model("org/model", revision="v9"))
    assert said.startswith("cannot load model 'org/model': ") and message in said


def test_an_impossible_name():
    assert "Repo id" in refusal(lambda: mct.load_model("a/b/c/d"))


def test_a_cached_model_needs_no_network(monkeypatch, tmp_path, tutorial):
    """The cache as the hub's client leaves it; revision goes to model and tokenizer; no request is repeated."""
    cache = tmp_path / "models--org--model"
    shutil.copytree(shipped("data/tutorial"), cache / "snapshots" / ("0" * 40))
    for name in ("main", "v1"):
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / name).write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", no_network)
    for revision in (None, "v1"):
        lm = mct.load_model("org/model", revision=revision)
        assert torch.equal(lm.model.lm_head.weight, tutorial.model.lm_head.weight)
    assert "the hub cannot be reached" in refusal(lambda: mct.load_model("org/model", revision="v2"))


# --- placement ---

def test_placement_is_checked(monkeypatch, tmp_path):
    for options, message in ((dict(device="cpu", device_map="auto"), "exclude each other"), (dict(device_map="half"), "device_map='half' is not known"),
                             (dict(offload_folder=tmp_path), "needs device_map"), (dict(revision="v1"), "is a local folder"),
                             (dict(device_map={"": "warp"}), "cannot load model 'tutorial': ")):
        assert message in refusal(lambda: mct.load_model("tutorial", **options))
    monkeypatch.setattr("mctrace_nb.models.find_spec", lambda name: None)
    assert "pip install 'mctrace_nb[placement]'" in refusal(lambda: mct.load_model("tutorial", device_map="auto"))


def halves(kind, inner, layers):
    """A device map with the last layer on disk and everything else in memory."""
    return {**{f"{inner}.{n}": "cpu" for n in kind}, **{f"{inner}.{layers}.{i}": "disk" if i else "cpu" for i in range(2)}, "lm_head": "cpu"}


MODELS = {
    "gpt2": (lambda: tiny_gpt2().model, halves(("wte", "wpe", "ln_f", "drop"), "transformer", "h")),
    "llama": (lambda: tiny_llama().double(), halves(("embed_tokens", "norm", "rotary_emb"), "model", "layers")),
}
PLACES = ("disk", "last layer on disk", "offload folder", "host memory", "auto")


@pytest.fixture(params=[(m, p) for m in MODELS for p in PLACES], ids="-".join)
def placed(request, tmp_path):
    """The same weights twice: plain, and placed by accelerate."""
    from accelerate import cpu_offload

    (make, halved), place = MODELS[request.param[0]], request.param[1]
    make().save_pretrained(tmp_path / "model")
    plain = mct.load_model(tmp_path / "model", dtype="float64", device="cpu", tokenizer=Words())
    if place == "host memory":
        other = mct.load_model(cpu_offload(make().eval(), execution_device="cpu"), tokenizer=Words())
    else:
        device_map = {"disk": {"": "disk"}, "auto": "auto", "offload folder": {"": "disk"}}.get(place, halved)
        other = mct.load_model(tmp_path / "model", dtype="float64", device_map=device_map, tokenizer=Words(),
                               offload_folder=tmp_path / "parts" if place == "offload folder" else None)
    assert other.offloaded == (place != "auto") and other.device.type == "cpu" and other.dtype == torch.float64
    return plain, other


def test_offloaded_models_give_the_same_effects_and_gradients(placed):
    plain, other = placed
    task = random_task(n=4, answers=(1, 3))
    flags = [(n, p.requires_grad, p.is_meta) for n, p in other.model.named_parameters(remove_duplicate=False)]
    logits = other.model(torch.arange(6)[None]).logits.detach()
    for kinds, corruption in ((KINDS, "counterfactual"), ("head_output", "noise"), ("mlp_output", "mean"), ("mlp_block", "zero")):
        found = []
        for lm in (plain, other):
            trace = Trace(lm, task, kinds, corruption=corruption)
            mask = torch.linspace(0, 1, 2 * len(trace.components), dtype=torch.float64).view(2, -1).requires_grad_()
            effects = trace.effects(mask)
            effects.sum().backward()
            found.append((effects.detach(), mask.grad))
        assert found[0][1].abs().max() > 1e-3
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert flags == [(n, p.requires_grad, p.is_meta) for n, p in other.model.named_parameters(remove_duplicate=False)]
    assert all(p.grad is None for p in other.model.parameters())
    assert torch.equal(logits, other.model(torch.arange(6)[None]).logits)
    assert "offloaded" in repr(other) or not other.offloaded


def test_flags_come_back_on_offloaded_models_after_an_error(placed):
    _, other = placed
    before = [p.requires_grad for _, p in other.model.named_parameters(remove_duplicate=False)]
    trace = Trace(other, random_task(), "head_output")

    def stop(*_):
        raise KeyboardInterrupt
    handle = other.layers[1].mlp.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        trace.effects(torch.ones(len(trace.components)))
    handle.remove()
    assert any(before) and before == [p.requires_grad for _, p in other.model.named_parameters(remove_duplicate=False)]
    trace.effects(torch.ones(len(trace.components)))


# --- families that do not mean by a row of tokens what the kit means ---

@pytest.mark.parametrize("family, message", [("diffllama", "does not call attention once in every layer .calls a layer: {0: 2, 1: 2}"),
                                             ("doge", "does not treat its tokens one by one outside of attention")])
def test_families_that_would_be_traced_wrongly_are_refused(family, message):
    """DiffLlama calls attention twice a layer: without the refusal its base values are off by whole nats, and nothing shows it."""
    lm = mct.random_model(family)
    with pytest.raises(mct.InputError, match=message):
        mct.Trace(lm, mct.load_task("professions", lm, n=8), "head_output")
    assert lm.model.config._attn_implementation in ("sdpa", "eager")


def test_packed_prompts_must_give_what_each_gives_alone(monkeypatch):
    """A model in which tokens see their neighbours in the row, as a convolution would: the check notices."""
    from mctrace_nb import contract

    lm = mct.random_model("llama")
    handle = lm.layers[0].mlp.register_forward_hook(lambda _, __, out: out + 0.5 * out.roll(1, 1))
    with pytest.raises(mct.InputError, match="LlamaForCausalLM cannot be traced: packed into one row"):
        mct.Trace(lm, mct.load_task("professions", lm, n=8), "head_output")
    handle.remove()
    mct.Trace(lm, mct.load_task("professions", lm, n=8), "head_output")
    assert lm.model in contract._KEPT
