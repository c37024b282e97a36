"""Each trap twice: with its guard taken away the number is wrong or the message gone, with the guard it is right."""

import pytest
import torch
import transformers as hf
from conftest import Words, asset, random_task, tiny_gpt2
from test_trace import plain_values
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import mctrace_nb as mct
from mctrace_nb import hooks
from mctrace_nb.models import wrap_model
from mctrace_nb.sides import Sides
from mctrace_nb.tasks import Example, Task
from mctrace_nb.tasks.encode import Encoder
from mctrace_nb.tracing import Trace

NEAR = dict(rtol=1e-6, atol=1e-6)
UNEVEN = random_task(n=7, length=(3, 12), answers=(1, 4))  # so that prefixes and suffixes are padded


def tiny_mistral(kernel="sdpa"):
    """Float64 weights and a sliding window shorter than the prompts."""
    torch.manual_seed(0)
    config = hf.MistralConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                              intermediate_size=24, max_position_embeddings=64, initializer_range=0.3, sliding_window=4,
                              attn_implementation=kernel)
    return wrap_model(hf.MistralForCausalLM(config).double(), Words(), "tiny-mistral")


def off(one, other) -> float:
    return (one - other).abs().max().item()


# --- attention masks, positions, padding ---

@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_mistral])
def test_padding_windows_and_prefixes_need_a_mask_function(monkeypatch, make, kernel):
    lm = make()
    lm.model.set_attn_implementation(kernel)
    trace = Trace(lm, UNEVEN, "head_output")
    right = plain_values(trace)
    torch.testing.assert_close(trace.base_values, right, **NEAR)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, f"mctrace_{kernel}", lambda *_, **__: None)
    assert off(Trace(lm, UNEVEN, "head_output").base_values, right) > 1e-2


@pytest.mark.parametrize("kind", ["head_output", "head_pattern"])
def test_both_kernels_give_the_same_effects(kind):
    mask = torch.linspace(0, 1, 8, dtype=torch.float64)
    one, other = (Trace(tiny_mistral(kernel), UNEVEN, kind).effects(mask) for kernel in ("sdpa", "eager"))
    torch.testing.assert_close(one, other, **NEAR)


def test_an_unknown_kernel_is_refused(monkeypatch):
    """With another kernel the masks would be of another form: see the first test for what that does."""
    lm = tiny_mistral()
    monkeypatch.setattr(lm.model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(mct.InputError, match="attention kernel 'flash_attention_2' is not supported"):
        Trace(lm, UNEVEN, "head_output")


def test_learned_positions_are_given(monkeypatch):
    """GPT-2 counts padding as text if nobody tells it the positions."""
    lm = tiny_gpt2()
    trace = Trace(lm, UNEVEN, "head_output")
    right, forward = plain_values(trace), lm.model.forward
    torch.testing.assert_close(trace.base_values, right, **NEAR)
    monkeypatch.setattr(lm.model, "forward", lambda *args, position_ids=None, **more: forward(*args, **more))
    assert off(Trace(lm, UNEVEN, "head_output").base_values, right) > 1e-2


def test_the_side_on_which_a_tokenizer_pads_does_not_matter(monkeypatch):
    lm = mct.load_model("tutorial", device="cpu")
    pairs = [dict(base=f"{start}the nurse said that", counterfactual=f"{start}the man said that", target="he", foil="she")
             for start in ("", "yesterday ")]
    values = []
    for side in ("right", "left"):
        lm.tokenizer.padding_side = side
        trace = Trace(lm, Task.from_pairs(pairs, lm, heldout=0), "head_output")
        values.append(trace.effects(torch.ones(12)))
    assert torch.equal(*values)
    # What a batch by the tokenizer reads at its last column depends on the side, and is right on neither without positions.
    he, she = (e[0] for e in (trace.examples[0].target, trace.examples[0].foil))
    naive = []
    for side in ("right", "left"):
        lm.tokenizer.padding_side = side
        batch = lm.tokenizer([p["base"] for p in pairs], return_tensors="pt", padding=True)
        logits = lm.model(**batch).logits[:, -1]
        naive.append((logits[:, he] - logits[:, she]).detach())
    assert all(off(x, trace.base_values) > 1e-2 for x in naive)


# --- tokens ---

def answer_alone(self, side, answer, prompt, ids, problems):
    """The guard taken away: an answer tokenised by itself."""
    return tuple(self.tokenizer(answer)["input_ids"])


def gpt2_words():
    tokenizer = hf.AutoTokenizer.from_pretrained(asset("tokenizers/gpt2"))
    torch.manual_seed(0)
    return wrap_model(hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=8, n_layer=1, n_head=2)), tokenizer, "gpt2-words")


def test_an_answer_keeps_the_space_before_it(monkeypatch):
    lm = gpt2_words()
    pair = dict(base="The nurse said that", counterfactual="The man said that", target="he", foil="she")
    right = Task.from_pairs([pair], lm, heldout=0).search[0]
    assert (lm.tokenizer.decode(right.target), lm.tokenizer.decode(right.foil)) == (" he", " she")
    monkeypatch.setattr(Encoder, "_answer", answer_alone)
    wrong = Task.from_pairs([pair], lm, heldout=0).search[0]
    assert lm.tokenizer.decode(wrong.foil) == "she" and wrong.foil != right.foil
    assert off(Trace(lm, Task("wrong", (wrong,))).base_values, Trace(lm, Task("right", (right,))).base_values) > 1e-3


@pytest.mark.parametrize("name", ["tutorial", "stories260K"])
def test_a_tokenizer_sets_its_first_token_once(monkeypatch, name):
    """Before the prompt, never before the answer."""
    lm = mct.load_model("tutorial" if name == "tutorial" else asset("models/stories260K/config.json").parent, device="cpu")
    first = lm.tokenizer.bos_token_id
    pair = dict(base="the man said that", counterfactual="the woman said that", target="she", foil="he")
    right = Task.from_pairs([pair], lm, heldout=0, aligned=False).search[0]
    assert right.base[0] == right.counterfactual[0] == first
    assert first not in right.base[1:] + right.counterfactual[1:] + right.target + right.foil
    monkeypatch.setattr(Encoder, "_answer", answer_alone)
    wrong = Task.from_pairs([pair], lm, heldout=0, aligned=False).search[0]
    assert wrong.target[0] == wrong.foil[0] == first
    values = [Trace(lm, Task("one", (e,)), "head_output", positions="last").base_values for e in (right, wrong)]
    assert off(*values) > 1e-2


def test_a_wrong_row_is_refused_with_its_number(monkeypatch, tutorial):
    good = [dict(base=f"the {who} said that", counterfactual="the man said that", target="he", foil="she")
            for who in ("nurse", "secretary", "dancer")]
    rows = [*good, dict(good[0], base="the astronaut said that")]
    with pytest.raises(mct.InputError, match="^prompt 3: base 'the astronaut said that' holds 'astronaut'"):
        Task.from_pairs(rows, tutorial)
    monkeypatch.setattr(Encoder, "unreadable", lambda *_: [])
    silent = Task.from_pairs(rows, tutorial, heldout=0)
    assert tutorial.tokenizer.unk_token_id in silent.search[3].base


def test_prompts_of_unequal_length_are_refused(monkeypatch):
    """Without the refusal each head would be given what another word said, and nothing would show it."""
    lm = tiny_gpt2()
    task = Task("unequal", (Example((1, 2, 3, 4, 5), (1, 7, 3, 4, 5), (5,), (6,)), Example((1, 2, 3), (1, 9, 2, 3), (5,), (6,))))
    with pytest.raises(mct.InputError, match="^prompt 1: base has 3 tokens, counterfactual 4"):
        Trace(lm, task, "head_output")
    monkeypatch.setattr(Sides, "__post_init__", lambda self: None)
    assert torch.isfinite(Trace(lm, task, "head_output", batch_rows=8).effects(torch.ones(4))).all()


# --- the model's state, in a trace and afterwards ---

def enter_and(monkeypatch, undo):
    """Takes one guard away: `undo(model)` is called right after a session has prepared the model."""
    enter = hooks.Session.__enter__

    def entered(self):
        session = enter(self)
        undo(self.lm.model)
        return session
    monkeypatch.setattr(hooks.Session, "__enter__", entered)


def test_dropout_is_off_in_a_trace(monkeypatch):
    lm = tiny_gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    lm.model.train()
    same = random_task(differ=0)
    assert Trace(lm, same, "head_output").effects(torch.ones(4)).abs().max() == 0
    enter_and(monkeypatch, lambda model: model.train())
    assert Trace(lm, same, "head_output").effects(torch.ones(4)).abs().max() > 1e-2


def test_weights_gather_no_gradients(monkeypatch):
    lm = tiny_gpt2()

    def gradients():
        Trace(lm, random_task(), "head_output").effects(torch.full((4,), 0.5, requires_grad=True)).sum().backward()
        return [p for p in lm.model.parameters() if p.grad is not None]
    assert not gradients()
    enter_and(monkeypatch, lambda model: model.requires_grad_(True))
    assert gradients()


def test_metrics_of_a_half_precision_model_are_float32(monkeypatch):
    lm = tiny_gpt2(dtype=torch.bfloat16)
    trace = Trace(lm, UNEVEN, "head_output")
    exact = trace.base_values
    assert exact.dtype == trace.effects(torch.ones(4)).dtype == torch.float32
    monkeypatch.setattr(torch, "promote_types", lambda one, other: one)
    rough = Trace(lm, UNEVEN, "head_output").base_values
    assert rough.dtype == torch.bfloat16 and off(rough.float(), exact) > 1e-3


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_given_back_as_it_was(monkeypatch, end):
    """Kernel, train mode, what is trainable, hooks; test_trace compares weights and logits too, for whole traces."""
    lm = tiny_gpt2()
    lm.model.train()

    def state():
        return (lm.model.config._attn_implementation, [m.training for m in lm.model.modules()],
                [p.requires_grad for p in lm.model.parameters()],
                [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()])

    def open_and_close():
        try:
            with hooks.Session(lm):
                if end is not None:
                    raise end("in the middle")
        except (RuntimeError, KeyboardInterrupt):
            pass

    before = state()
    open_and_close()
    assert state() == before
    monkeypatch.setattr(hooks.Session, "__exit__", lambda self, *error: hooks._BUSY.discard(self.lm.model))
    open_and_close()
    assert all(now != then for now, then in zip(state(), before))
