"""Pairs of models and what students write: caches, padding, ends of text, and refusals."""

import copy
import inspect
import math
from itertools import islice

import pytest
import torch
from conftest import asset

from mctrace_nb.distill import losses as L
from mctrace_nb.distill.loop import Training, distill, rollout_speed
from mctrace_nb.distill.pairs import answer_logp, pair
from mctrace_nb.distill.rollouts import write_rollouts
from mctrace_nb.errors import InputError

V, END = 12, 3


class Words:
    """A tokenizer that knows its words and its end."""

    pad_token_id = 0

    def __init__(self, words=V, end=END, other=None):
        self.words, self.eos_token_id = {f"w{i}": i for i in range(words)}, end
        if other:
            self.words[other] = self.words.pop(f"w{words - 1}")

    def get_vocab(self):
        return self.words


def small(family="gpt2", seed=0, width=V, dtype=torch.float64, positions=32, **more):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, vocab_size=width, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                  num_key_value_heads=1, head_dim=8, max_position_embeddings=positions, initializer_range=0.4,
                                  pad_token_id=0, bos_token_id=1, eos_token_id=END, **more)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


PROMPTS = [[1, 5, 6, 7], [1, 8], [1, 9, 10, 4, 2, 6]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "opt"])  # the last would read the padding if it were given no mask
def test_rollouts_of_padded_prompts_have_the_probabilities_of_each_alone(family):
    model = small(family)
    found = write_rollouts(model, PROMPTS * 8, END, 6, seed=0, vocabulary=V, pad=9)
    assert torch.equal(found.mask[:, 6:], found.valid) and (found.tokens[~found.valid] == 9).all() and not found.logp[~found.valid].any()
    scored = answer_logp(model, found, V)
    torch.testing.assert_close(L.picked(scored, found.tokens)[found.valid], found.logp[found.valid], rtol=0, atol=1e-10)
    answers = found.answers()
    assert min(map(len, answers)) < 6 == max(map(len, answers))  # some end early and some are cut off
    for i, (prompt, answer) in enumerate(zip(PROMPTS * 8, answers)):
        assert END not in answer[:-1] and (answer[-1] == END or len(answer) == 6)
        alone = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        torch.testing.assert_close(scored[i, :len(answer)], alone, rtol=0, atol=1e-10)


def test_rollouts_follow_the_model_and_the_seed():
    model = small()
    a, b, c = (write_rollouts(model, PROMPTS, END, 6, seed) for seed in (0, 0, 1))
    assert torch.equal(a.tokens, b.tokens) and not torch.equal(a.tokens[:, :1], c.tokens[:, :1])
    n = 4000
    first = write_rollouts(model, [PROMPTS[0]] * n, END, 1, 0).tokens[:, 0]
    p = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1).detach()
    share = torch.bincount(first, minlength=V) / n
    assert float((share - p).abs().max()) < 4 * (0.25 / n) ** 0.5 < float(p.max() - p.min())
    for seed in range(4):  # nothing is written after the end
        one = write_rollouts(model, PROMPTS[:1], END, 20, seed)
        assert one.tokens.shape[1] == int(one.valid.sum()) and (one.tokens[0, -1] == END or one.tokens.shape[1] == 20)
    part = a.part(slice(1, 3))
    assert torch.equal(part.tokens, a.tokens[1:3]) and torch.equal(part.ids, a.ids[1:3])


def test_logits_beyond_the_vocabulary_are_padding():
    student, teacher = small(width=V + 4), small("llama", width=V + 9, seed=1)
    both = pair(student, teacher, Words())
    assert both.vocabulary == V
    found = write_rollouts(student, PROMPTS * 40, both.end, 5, 0, both.vocabulary)
    assert int(found.tokens.max()) < V
    for logp in (both.student_logp(found), both.teacher_logp(found)):
        assert logp.shape == (*found.tokens.shape, V)
        torch.testing.assert_close(logp.exp().sum(-1), torch.ones(logp.shape[:2], dtype=logp.dtype))


def test_what_a_model_says_after_the_end_does_not_matter(monkeypatch):
    model = small()
    expected, forward = write_rollouts(model, PROMPTS * 8, 1, 6, 0), type(model).forward

    def spoilt(self, attention_mask, **more):
        out = forward(self, attention_mask=attention_mask, **more)
        out.logits[attention_mask[:, -1] == 0] = math.nan
        return out
    spoilt.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(model), "forward", spoilt)
    found = write_rollouts(model, PROMPTS * 8, 1, 6, 0)
    assert torch.equal(found.valid, expected.valid) and torch.equal(found.tokens, expected.tokens) and not found.valid.all()


def test_log_probabilities_are_in_float32_at_least():
    model = small(dtype=torch.bfloat16)
    found = write_rollouts(model, PROMPTS, END, 4, 0)
    scored = answer_logp(model, found, V)
    assert found.logp.dtype == scored.dtype == torch.float32
    torch.testing.assert_close(scored.exp().sum(-1), torch.ones(scored.shape[:2]), rtol=0, atol=1e-5)


def test_ends_of_text_are_mapped():
    student, teacher = small(), small(seed=1)
    same, mapped = pair(student, teacher, Words()), pair(student, teacher, Words(), Words(end=7))
    found = write_rollouts(student, PROMPTS * 8, END, 5, 0)
    a, b = same.teacher_logp(found), mapped.teacher_logp(found)
    torch.testing.assert_close(a[..., END], b[..., 7])
    torch.testing.assert_close(a[..., 7], b[..., END])
    others = [i for i in range(V) if i not in (END, 7)]
    torch.testing.assert_close(a[..., others], b[..., others])
    assert not a.requires_grad and mapped.student_logp(found).requires_grad


def test_what_does_not_fit_is_refused():
    student, teacher = small(), small(seed=1)
    for given, message in (((student, student, Words()), "one module"),
                           ((student, teacher, Words(), Words(other="moon")), "2 words differ, 'moon' has id None and 11"),
                           ((student, small(width=9), Words()), "the teacher says 9 words, its tokenizer knows 12"),
                           ((student, teacher, Words(end=None)), "student's end of text is None"),
                           ((student, teacher, Words(), Words(end=40)), "teacher's end of text is 40")):
        with pytest.raises(InputError, match=message):
            pair(*given)
    for given, message in ((([], END, 3, 0), "no prompt"), (([[1], []], END, 3, 0), "empty one"), ((PROMPTS, END, 0, 0), "new_tokens=0")):
        with pytest.raises(InputError, match=message):
            write_rollouts(student, *given)
    for model, given in ((student, (PROMPTS, END, 28, 0)), (small("llama"), (PROMPTS * 2, END, 28, 0))):  # 6 + 28 - 1 tokens are read
        with pytest.raises(InputError, match="33 tokens do not fit into the 32 positions of (GPT2|Llama)"):
            write_rollouts(model, *given)
    assert write_rollouts(student, PROMPTS, -1, 27, 0).tokens.shape == (3, 27)
    long = write_rollouts(small(positions=40), PROMPTS, -1, 28, 0)
    with pytest.raises(InputError, match="33 tokens do not fit"):
        pair(student, teacher, Words()).teacher_logp(long)
    with torch.no_grad():
        student.lm_head.weight[4] = float("nan")
    with pytest.raises(InputError, match="not finite while it writes"):
        write_rollouts(student, PROMPTS, END, 3, 0)


def endless(prompts):
    while True:
        yield from prompts


@pytest.mark.parametrize("name", [*L.ARMS])
def test_distillation_moves_the_student_towards_the_teacher(name):
    start, teacher = small(seed=2, dtype=torch.float32), small("llama", seed=1, dtype=torch.float32)
    before, told = copy.deepcopy(start), copy.deepcopy(teacher.state_dict())
    both = pair(start, teacher, Words())
    how = Training(steps=25, batch=12, updates=2, learning_rate=1e-2, new_tokens=4, every=5)
    history = distill(both, endless(PROMPTS), L.Objective(name, tau=0.5, k=4), how, seed=0)
    assert [row["step"] for row in history] == [0, 5, 10, 15, 20, 24]
    assert all(0 <= row["gate"] <= 1 and row["generation_seconds"] < row["seconds"] for row in history)
    assert all(torch.equal(value, told[key]) for key, value in teacher.state_dict().items())
    found = write_rollouts(before, PROMPTS * 20, END, 4, 1)
    with torch.no_grad():
        far, near = (float(L.token_mean(L.generalised_jsd(answer_logp(m, found, V), both.teacher_logp(found), 0.5), found.valid)) for m in (before, start))
    assert near < 0.8 * far


def test_a_run_is_what_its_settings_say():
    """Two steps of two updates against a loop by hand: which texts, which log-probabilities, which learning rate, gradients cut at norm 1."""
    start, teacher, how = small(seed=2), small(seed=1), Training(steps=2, batch=4, updates=2, learning_rate=0.05, new_tokens=4, every=1)
    hand, objective, asked = copy.deepcopy(start), L.Objective("eopd", tau=0.5, k=4), PROMPTS * 3
    history = distill(pair(start.train(), teacher.train(), Words(end=1)), asked, objective, how, seed=3)
    assert not start.training and not teacher.training
    optimiser, generator, norms, shorter, tokens = torch.optim.AdamW(hand.parameters(), weight_decay=0.01), torch.Generator().manual_seed(3), [], [], 0
    for step in range(2):
        found = write_rollouts(hand, asked[4 * step:4 * step + 4], 1, 4, generator, V)
        tokens += int(found.valid.sum())
        for i in range(2):
            part = found.part(slice(2 * i, 2 * i + 2))
            logp, its = answer_logp(hand, part, V), answer_logp(teacher, part, V).detach()
            result = L.losses(logp, its, part.tokens, part.logp, part.valid, objective)
            if i == 0:
                unsure = L.entropy(its)[part.valid]
                wanted = dict(step=step, loss=result.total, reverse=result.reverse.sum() / part.valid.sum(), tokens=tokens, gate=(unsure > 0.5).double().mean(),
                              forward=result.forward.sum() / part.valid.sum(), teacher_entropy=unsure.mean(), student_entropy=L.entropy(logp)[part.valid].mean())
                assert {key: history[step][key] for key in wanted} == {key: pytest.approx(float(torch.as_tensor(x).detach())) for key, x in wanted.items()}
                shorter.append(not part.valid.all())
            optimiser.zero_grad()
            result.total.backward()
            norms.append(float(torch.cat([p.grad.flatten() for p in hand.parameters()]).norm()))
            for p in hand.parameters():
                p.grad *= min(1.0, 1 / (norms[-1] + 1e-6))
            optimiser.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * (2 * step + i) / 4)) / 2
            optimiser.step()
    assert max(norms) > 1 and any(shorter)
    for mine, theirs in zip(start.parameters(), hand.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_padding_opens_no_gate():
    student, teacher = small(seed=2), small(seed=1)
    both = pair(student, teacher, Words(end=1))
    for seed in range(100):
        found = write_rollouts(student, PROMPTS, 1, 4, torch.Generator().manual_seed(seed), V)
        unsure = L.entropy(both.teacher_logp(found))
        if unsure[found.valid].max() < unsure.max():
            break
    else:
        pytest.fail("no seed to test it with")
    with pytest.raises(InputError, match="never opens the gate"):
        distill(both, PROMPTS, L.Objective("eopd", tau=float(unsure[found.valid].max())), Training(steps=1, batch=3, updates=1, new_tokens=4), seed=seed)


def test_distillation_repeats_itself_and_needs_a_gate_that_opens():
    runs = []
    for _ in range(2):
        student = small(seed=2)
        distill(pair(student, small(seed=1), Words()), endless(PROMPTS), L.Objective("eopd", tau=0.5),
                Training(steps=3, batch=4, updates=2, new_tokens=4), seed=7)
        runs.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(*runs)
    both = pair(small(seed=2), small(seed=1), Words())
    with pytest.raises(InputError, match="never opens the gate"):
        distill(both, endless(PROMPTS), L.Objective("eopd", tau=5.0), Training(steps=3, batch=4, new_tokens=4))
    how = Training(steps=3, batch=4, new_tokens=4)
    for given, at in ((PROMPTS * 3, 2), (iter(PROMPTS), 0)):  # nine prompts: two steps of four
        with pytest.raises(InputError, match=f"ran out at step {at} of 3, 4 a step"):
            distill(both, given, L.Objective("opd"), how)
    with torch.no_grad():
        both.teacher.lm_head.weight[4] = float("nan")
    with pytest.raises(InputError, match="teacher's entropy is not finite"):
        distill(both, endless(PROMPTS), L.Objective("eopd"), how)
    with pytest.raises(InputError, match="batch=10, updates=4"):
        Training(batch=10)


def test_speed_says_what_writing_takes():
    both = pair(small(), small(seed=1), Words())
    before = copy.deepcopy(both.student.state_dict())
    found = rollout_speed(both, PROMPTS, L.Objective(tau=0.5), new_tokens=5, repeats=3)
    assert 0 < found["generation_share"] < 1 and 3 <= found["tokens"] <= 15
    alone = rollout_speed(both, PROMPTS, L.Objective(tau=0.5), new_tokens=5, repeats=1, seed=4)  # of one turn the parts add up
    assert sum(alone[f"{part}_seconds"] for part in ("generation", "scoring", "loss", "update")) == pytest.approx(alone["seconds"])
    assert alone["tokens"] == int(write_rollouts(both.student, PROMPTS, END, 5, 5, V).valid.sum())  # the turn before is to warm up
    assert alone["tokens_per_second"] == pytest.approx(alone["tokens"] / alone["generation_seconds"])
    assert all(torch.equal(value, before[key]) for key, value in both.student.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_student_learns_to_end_from_a_teacher_with_another_end(family):
    """A teacher that is the student with two words for one another is no teacher at all; one that likes its own end teaches to end."""
    start = small(family, seed=2, tie_word_embeddings=False)
    teacher = copy.deepcopy(start)
    with torch.no_grad():
        teacher.lm_head.weight[[END, 7]] = teacher.lm_head.weight[[7, END]]
    found = write_rollouts(start, PROMPTS * 20, END, 6, 0)
    both = pair(start, teacher, Words(), Words(end=7))
    torch.testing.assert_close(both.student_logp(found), both.teacher_logp(found), rtol=0, atol=1e-12)
    assert float((both.student_logp(found) - pair(start, teacher, Words()).teacher_logp(found)).detach().abs().max()) > 1
    before = float((found.tokens == END).sum() / found.valid.sum())
    with torch.no_grad():
        states = teacher(found.ids[:, -6:], output_hidden_states=True).hidden_states[-1].mean((0, 1))
        teacher.lm_head.weight[7] += 3 * states / states.norm()
    history = distill(both, endless(PROMPTS), L.Objective("opd"), Training(steps=15, batch=24, updates=2, learning_rate=3e-2, new_tokens=6, every=14))
    after = write_rollouts(start, PROMPTS * 20, END, 6, 0)
    assert history[0]["loss"] > 0 and float((after.tokens == END).sum() / after.valid.sum()) > 1.5 * before


STORIES = ("Once upon a time", "Tom had a red ball.", "The cat was sad", "One day, Lily went to the park")


@pytest.mark.parametrize("how, name", [("noise", "opd"), ("noise", "eopd"), ("cut", "eopd")])
def test_one_step_on_a_model_of_stories_lowers_the_exact_reverse_kl(how, name):
    """Its student: a copy with noise on its weights, or without its last layer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asset("models/stories260K")
    tokenizer, teacher, student = AutoTokenizer.from_pretrained(folder), *(AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    if how == "cut":
        del student.model.layers[-1]
        student.config.num_hidden_layers -= 1
    else:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in student.parameters():
                p += 0.1 * p.std() * torch.randn(p.shape, generator=generator) if p.ndim > 1 else 0
    both, prompts = pair(student, teacher, tokenizer), endless([tokenizer(text)["input_ids"] for text in STORIES])
    written = write_rollouts(student, list(islice(prompts, 32)), both.end, 16, torch.Generator().manual_seed(0), both.vocabulary, both.pad)

    def exact():
        with torch.no_grad():
            return float(L.token_mean(L.kl(both.student_logp(written), both.teacher_logp(written)), written.valid))
    before = exact()
    history = distill(both, prompts, L.Objective(name), Training(steps=1, batch=32, updates=1, learning_rate=3e-4, new_tokens=16), seed=0)
    assert history[0]["tokens"] == int(written.valid.sum())  # the very same texts
    assert 0.1 < before and exact() < 0.97 * before
