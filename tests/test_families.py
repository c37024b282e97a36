"""One door for all families: on a tiny random model of each, the trace equals the stock model and substitution by hand."""

import pytest
import torch
import transformers as hf
from conftest import Words, random_task
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from mctrace_nb.components import KINDS
from mctrace_nb.models import wrap_model
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

SIZES = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
             max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GROUPED = dict(SIZES, num_key_value_heads=2)
WINDOW = dict(GROUPED, head_dim=8, sliding_window=4, query_pre_attn_scalar=8)
FAMILIES = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=8)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**WINDOW)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**WINDOW, layer_types=["sliding_attention", "full_attention"])),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**GROUPED)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**GROUPED)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24,
                                                  max_position_embeddings=64, init_std=0.3, word_embed_proj_dim=16)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=2, num_experts_per_tok=1)),
}
WITHOUT_NEURONS = {"mixtral"}  # its experts have no one place where the neurons of a token are
SINGLE_PRECISION = {"mixtral"}  # its kernel for experts knows no float64


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    torch.manual_seed(0)
    model = FAMILIES[request.param]()
    return wrap_model(model if request.param in SINGLE_PRECISION else model.double(), Words(), request.param)


SOFTMAX_IN_SINGLE = {"gemma2"}  # its own eager kernel, the only one with a soft cap, takes the softmax in float32


def near(lm):
    if lm.dtype == torch.float32:
        return dict(rtol=1e-4, atol=1e-4)
    return dict(rtol=1e-6, atol=1e-6) if lm.name in SOFTMAX_IN_SINGLE else dict(rtol=1e-10, atol=1e-10)


def kinds_of(lm):
    return [k for k in KINDS if k != "mlp_neuron" or lm.name not in WITHOUT_NEURONS]


@pytest.fixture(scope="module")
def task():
    """Prompts of different lengths (longer than the sliding windows) and answers of one to three tokens."""
    return random_task(n=5, length=(6, 12), answers=(1, 3))


def stock_values(lm, task, side):
    """The metric by the stock model, each prompt and answer alone."""
    found = []
    for e in task.search:
        prompt, scores = getattr(e, side), []
        for answer in (e.target, e.foil):
            logits = lm.model(torch.tensor([[*prompt, *answer]])).logits[0]
            logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            scores.append(sum(logp[len(prompt) - 1 + i, t] for i, t in enumerate(answer)) / len(answer))
        found.append(scores[0] - scores[1])
    return torch.stack(found).detach()


def test_layout(lm):
    assert (len(lm.layers), lm.heads, lm.width, lm.neurons) == (2, 4, 16, 0 if lm.name in WITHOUT_NEURONS else
                                                                64 if lm.name == "gpt2" else 24)
    assert lm.head_width == (8 if lm.name in ("qwen3", "gemma2", "gemma3") else 4)
    assert lm.kv_heads == (4 if lm.name in ("gpt2", "gpt_neox", "opt") else 2) and lm.context == 64
    assert all({layer.attention, layer.mlp} <= set(layer.block.modules()) for layer in lm.layers)


def test_both_runs_equal_the_stock_model(lm, task):
    trace = Trace(lm, task, "head_output")
    torch.testing.assert_close(trace.base_values, stock_values(lm, task, "base"), **near(lm))
    torch.testing.assert_close(trace.base_values + trace.total_effects(), stock_values(lm, task, "counterfactual"), **near(lm))


def test_every_kind_batched_equals_alone_and_zero_is_nothing(lm, task):
    for kind in kinds_of(lm):
        trace = Trace(lm, task, kind)
        n = len(trace.components)
        mask = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        alone = torch.cat([Trace(lm, Task("one", (e,)), kind).effects(mask) for e in task.search])
        torch.testing.assert_close(trace.effects(mask), alone, **near(lm), msg=kind)
        assert trace.effects(torch.zeros(n)).abs().max() == 0 and trace.effects(torch.ones(n)).abs().max() > 1e-3, kind


def test_all_heads_and_mlps_are_the_whole_model(lm, task):
    """With everything replaced, what differs is only the embedding of the differing token: nothing after it sees it."""
    single = random_task(n=5, length=(6, 12), answers=(1, 1))
    examples = tuple(e for e in single.search if e.base[-1] == e.counterfactual[-1])
    trace = Trace(lm, Task("last tokens equal", examples), ("attn_block", "mlp_block"))
    torch.testing.assert_close(trace.effects(torch.ones(4)), trace.total_effects(), **near(lm))


# --- the same substitution done by hand: eager attention, one prompt, no cache, no hooks of ours ---

STORE: dict = {}


def by_hand(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * (scores / softcap).tanh() if softcap else scores
    weights = (scores + attention_mask[..., :key.shape[2]]).softmax(-1)
    out = (weights @ value).transpose(1, 2).contiguous()
    kind, layer, head, rows = STORE["what"]
    if module.layer_idx == layer:
        if STORE["mode"] == "record":
            STORE["weights"], STORE["out"] = weights[:, head], out[:, :, head]
        elif kind == "head_output":
            out[:, rows, head] = STORE["out"][:, rows]
        else:
            out[:, rows, head] = (STORE["weights"] @ value[:, head])[:, rows]
    return out, weights


AttentionInterface.register("by_hand", by_hand)
AttentionMaskInterface.register("by_hand", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("kind", ["head_output", "head_pattern"])
def test_replacing_one_head_equals_substitution_by_hand(lm, kind, positions):
    single = random_task(n=3, length=(6, 12), answers=(1, 1))
    trace = Trace(lm, single, kind, positions=positions)
    rows = slice(None) if positions == "all" else slice(-1, None)
    found = trace.effects(torch.eye(len(trace.components)))
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("by_hand")
    try:
        for number, label in enumerate(trace.components.labels):
            for i, e in enumerate(single.search):
                STORE.update(what=(kind, number // lm.heads, number % lm.heads, rows), mode="record")
                lm.model(torch.tensor([e.counterfactual]))
                STORE["mode"] = "replace"
                logits = lm.model(torch.tensor([e.base])).logits[0, -1].detach()
                expected = logits[e.target[0]] - logits[e.foil[0]] - trace.base_values[i]
                torch.testing.assert_close(found[number, i], expected, **near(lm), msg=f"{label}, prompt {i}")
    finally:
        lm.model.set_attn_implementation(before)


def test_gradients_flow_to_the_mask_alone(lm, task):
    trace = Trace(lm, task, "head_pattern")
    mask = torch.full((len(trace.components),), 0.5, dtype=torch.float64, requires_grad=True)
    trace.effects(mask).mean().backward()
    assert mask.grad.abs().min() > 0 and all(p.grad is None for p in lm.model.parameters())


NORM_IN_DOUBLE = {"gpt2", "gpt_neox", "opt"}  # all others take their norms in float32 whatever the model's dtype


@pytest.mark.parametrize("kind", ["head_output", "head_pattern"])
def test_gradients_equal_finite_differences(lm, task, kind):
    """Central differences of fourth order. The largest gradients are 0.05 to 0.8; what is allowed is their own rounding."""
    trace = Trace(lm, task, kind)
    n = len(trace.components)
    mask = torch.linspace(0.2, 0.8, n, dtype=torch.float64).requires_grad_()
    trace.effects(mask).mean().backward()
    step, allowed = (1e-6, 1e-8) if lm.name in NORM_IN_DOUBLE else (5e-3, 2e-4)
    steps = torch.cat([times * step * torch.eye(n, dtype=torch.float64) for times in (1, -1, 2, -2)])
    up, down, up2, down2 = trace.effects(mask.detach() + steps).mean(-1).double().split(n)
    torch.testing.assert_close((8 * (up - down) - (up2 - down2)) / (12 * step), mask.grad, rtol=0, atol=allowed)


ROUTED = {"mixtral"}  # rounding sends some tokens to another expert, which is a jump in what the model says


@pytest.mark.parametrize("kind", ["head_output", "head_pattern"])
def test_half_precision_stays_near(lm, task, kind):
    """bfloat16 keeps three digits of each number: the effects of all single heads, taken together as one vector, come out
    within 0.2 of its norm, where those of a neighbouring head are more than its whole norm away. The metric is float32."""
    exact = Trace(lm, task, kind).effects(torch.eye(8))
    dtype, weights = lm.dtype, {name: x.clone() for name, x in lm.model.state_dict().items()}
    lm.model.bfloat16()
    try:
        trace = Trace(lm, task, kind)
        rough = trace.effects(torch.eye(8))
        stock = stock_values(lm, task, "base")
    finally:
        lm.model.to(dtype).load_state_dict(weights)
    assert trace.base_values.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(trace.base_values, stock, rtol=0, atol=0.05)
    if lm.name not in ROUTED:
        assert (rough - exact).norm() < 0.2 * exact.norm() < 0.2 * (rough.roll(1, 0) - exact).norm()
