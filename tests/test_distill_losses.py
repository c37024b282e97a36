"""Losses of distillation against slow direct computations in float64."""

import math

import pytest
import torch

from mctrace_nb.distill import losses as L
from mctrace_nb.errors import InputError

B, T, V = 3, 4, 7
VALID = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


def drawn(seed=0, scale=2.0, shape=(B, T, V)):
    logits = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.log_softmax(-1)


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(5)
    old = drawn(3)
    tokens = torch.randint(0, V, (B, T), generator=generator)
    return dict(student=drawn(1), teacher=drawn(2), tokens=tokens, old=L.picked(old, tokens), valid=VALID)


def slow(name, student, teacher, tokens, old, valid, tau, alpha, k, clip, beta):
    """Token by token, in plain Python, from the equations."""
    total, count = 0.0, 0
    for b in range(B):
        for t in range(T):
            if not valid[b, t]:
                continue
            count += 1
            pi, p = student[b, t].exp().tolist(), teacher[b, t].exp().tolist()
            y = int(tokens[b, t])
            advantage, ratio = math.log(p[y]) - float(old[b, t]), pi[y] / math.exp(float(old[b, t]))
            clipped = -min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
            best = sorted(range(V), key=lambda v: -p[v])[:k]
            mass = sum(p[v] for v in best)
            forward = sum(p[v] / mass * math.log(p[v] / mass / pi[v]) for v in best)
            m = [beta * a + (1 - beta) * b for a, b in zip(p, pi)]
            total += {"opd": clipped, "forward": forward, "ungated": clipped + alpha * forward,
                      "eopd": clipped + alpha * forward * (-sum(a * math.log(a) for a in p) > tau),
                      "exact_reverse": sum(a * math.log(a / b) for a, b in zip(pi, p)),
                      "jsd": sum(beta * a * math.log(a / c) + (1 - beta) * b * math.log(b / c) for a, b, c in zip(p, pi, m))}[name]
    return total / count


@pytest.mark.parametrize("name", L.ARMS)
def test_every_objective_has_the_value_and_the_gradient_of_its_equation(name, texts):
    how = dict(tau=1.0, alpha=0.7, k=3, clip=0.2, beta=0.3)
    logits = texts["student"].clone().requires_grad_()
    found = L.losses(**{**texts, "student": logits.log_softmax(-1)}, objective=L.Objective(name, **how))
    assert 0 < int((found.entropy[VALID] > 1.0).sum()) < VALID.sum()  # or the gate decides nothing
    assert float(found.total.detach()) == pytest.approx(slow(name, **texts, **how), abs=1e-12)
    found.total.backward()
    step = 1e-6
    for at in [(0, 0, 0), (0, 1, 3), (0, 3, 6), (1, 1, 2), (2, 0, 5), (1, 2, 0), (2, 3, 4)]:
        ends = []
        for sign in (1, -1):
            moved = texts["student"].clone()
            moved[at] += sign * step
            ends.append(slow(name, **{**texts, "student": moved.log_softmax(-1)}, **how))
        assert float(logits.grad[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8), at


def test_the_settings_of_the_paper_are_the_defaults():
    o = L.Objective()
    assert (o.name, o.tau, o.alpha, o.k, o.clip) == ("eopd", 0.8, 1.0, 16, 0.2)


def test_sampled_reverse_kl_converges_to_the_exact_one():
    """At the rollout policy, in the mean over draws: value and gradient."""
    pi, p = drawn(1, 1.0, (1, 1, V)), drawn(2, 1.0, (1, 1, V))
    errors = []
    for n in (400, 40_000):
        tokens = pi[0, 0].exp().multinomial(n, replacement=True, generator=torch.Generator().manual_seed(n))[None]
        logits = pi.clone().requires_grad_()
        logp = logits.log_softmax(-1).expand(1, n, V)
        found = L.losses(logp, p.expand(1, n, V), tokens, L.picked(logp, tokens).detach(), torch.ones(1, n, dtype=torch.bool), L.Objective("opd"))
        found.total.backward()
        exact = pi.clone().requires_grad_()
        value = L.kl(exact.log_softmax(-1), p).mean()
        value.backward()
        errors.append((abs(float(found.total.detach() - value.detach())), float((logits.grad - exact.grad).abs().max())))
    assert errors[0][0] < 0.3 and errors[1][0] < 0.02 and errors[1][1] < 0.02 and float(exact.grad.abs().max()) > 0.1


@pytest.mark.parametrize("advantage, ratio, wanted", [(1.0, 1.5, 0.0), (1.0, 0.5, -0.5), (-1.0, 0.5, 0.0), (-1.0, 1.5, 1.5)])
def test_the_clip_stops_the_gradient_only_where_the_token_has_moved_far_enough(advantage, ratio, wanted):
    """d loss / d log pi: -r A, or 0 beyond the clip in the direction that the advantage asks for."""
    old = torch.tensor([[-2.0]], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    loss = L.clipped_reverse_kl(new, old, old + advantage)
    loss.sum().backward()
    assert float(new.grad) == pytest.approx(wanted)
    assert float(loss.detach()) == pytest.approx(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))


def test_padding_is_not_looked_at_and_closed_gates_count_as_tokens(texts):
    for name in L.ARMS:
        objective = L.Objective(name, tau=1.0, k=3)
        expected = L.losses(**texts, objective=objective)
        spoilt = {key: x.clone() for key, x in texts.items()}
        spoilt["student"][~VALID], spoilt["teacher"][~VALID], spoilt["old"][~VALID] = math.nan, -math.inf, math.nan
        spoilt["tokens"][~VALID] = 10 ** 6
        logp = spoilt["student"].requires_grad_()
        found = L.losses(**{**spoilt, "student": logp}, objective=objective)
        assert float(found.total.detach()) == float(expected.total)
        found.total.backward()
        assert logp.grad.isfinite().all() and not logp.grad[~VALID].any() and logp.grad[VALID].any()
    found = L.losses(**texts, objective=L.Objective("eopd", tau=1.0, k=3))
    opened = L.entropy(texts["teacher"]) > 1.0
    assert torch.equal(L.losses(**texts, objective=L.Objective("ungated")).gate, VALID)
    assert torch.equal(found.gate, opened & VALID) and not found.gate.equal(opened)
    every = L.top_k_forward_kl(texts["student"], texts["teacher"], 3)
    assert float(found.total) == pytest.approx(float((found.reverse.sum() + every[opened & VALID].sum()) / 7))  # all valid tokens, not the gated
    assert found.mean("gate") == pytest.approx(int((opened & VALID).sum()) / 7)


@pytest.mark.parametrize("name", L.ARMS)
def test_gradients_flow_to_the_student_alone(name, texts):
    given = {key: texts[key].clone().requires_grad_() for key in ("student", "teacher", "old")}
    L.losses(**{**texts, **given}, objective=L.Objective(name, tau=1.0)).total.backward()
    assert given["student"].grad.abs().max() > 0 and given["teacher"].grad is None and given["old"].grad is None
    new, old, teacher = (L.picked(x, texts["tokens"]).detach().requires_grad_() for x in (texts["student"], drawn(3), texts["teacher"]))
    L.clipped_reverse_kl(new, old, teacher).sum().backward()
    assert new.grad.abs().max() > 0 and teacher.grad is None and old.grad is None


def test_the_gate_is_hard_and_strict(texts):
    at = float(L.entropy(texts["teacher"])[0, 0])
    for tau, wanted in ((at, False), (at - 1e-9, True)):
        assert bool(L.losses(**texts, objective=L.Objective("eopd", tau=tau)).gate[0, 0]) is wanted


def test_forward_kl_of_the_top_k_is_kl_inside_minus_the_log_of_the_mass_inside():
    pi, p, k = drawn(1), drawn(2), 3
    top = p.topk(k, -1)
    inside = pi.gather(-1, top.indices)
    mass = inside.logsumexp(-1)
    expected = L.kl(top.values.log_softmax(-1), inside - mass[..., None]) - mass
    torch.testing.assert_close(L.top_k_forward_kl(pi, p, k), expected)
    assert float(mass.max()) < -1e-3  # the second term is there
    for k in (None, V, V + 5):
        torch.testing.assert_close(L.top_k_forward_kl(pi, p, k), L.kl(p, pi))


def test_the_teacher_is_no_stationary_point_of_the_top_k_forward_kl():
    p = drawn(2)
    for name in ("exact_reverse", "jsd"):
        logits = p.clone().requires_grad_()
        found = L.losses(logits.log_softmax(-1), p, torch.zeros(B, T, dtype=torch.long), p[..., 0], VALID, L.Objective(name))
        found.total.backward()
        assert abs(float(found.total.detach())) < 1e-12 and float(logits.grad.abs().max()) < 1e-12
    for k, still in ((V, True), (3, False)):
        logits = p.clone().requires_grad_()
        value = L.top_k_forward_kl(logits.log_softmax(-1), p, k)
        best = p.topk(k, -1)
        torch.testing.assert_close(value.detach(), -best.values.logsumexp(-1))  # = -log p(S), known
        value.sum().backward()
        if still:
            assert float(logits.grad.abs().max()) < 1e-12
        else:  # pi - q: the top k are pulled up to mass 1, the others down
            assert (logits.grad.gather(-1, best.indices) < -1e-4).all() and float(value.detach().min()) > 1e-3
            torch.testing.assert_close(logits.grad.gather(-1, best.indices), best.values.exp() - best.values.softmax(-1))
    # reverse KL: the advantage of every token is zero, so is the sampled loss and its gradient
    logits, tokens = p.clone().requires_grad_(), torch.full((B, T), 4)
    found = L.losses(logits.log_softmax(-1), p, tokens, p[..., 4], VALID, L.Objective("opd"))
    found.total.backward()
    assert abs(float(found.total.detach())) < 1e-12 and float(logits.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.3, 0.5, 1 - 1e-6, 1.0])
def test_orientation_of_the_jsd(beta):
    pi, p = drawn(1), drawn(2)
    found = L.generalised_jsd(pi, p, beta)
    if beta in (0.0, 1.0):
        torch.testing.assert_close(found, L.kl(p, pi) if beta == 0 else L.kl(pi, p))
    elif beta == 0.5:
        torch.testing.assert_close(found, L.generalised_jsd(p, pi, beta))
    elif beta in (1e-6, 1 - 1e-6):  # towards either end the loss is that end's KL times the small weight
        small = min(beta, 1 - beta)
        torch.testing.assert_close(found / small, L.kl(p, pi) if beta < 0.5 else L.kl(pi, p), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_jsd_of_trl_on_the_same_logits(beta, monkeypatch):
    """Value and gradient; TRL's loss is a token mean over labels that are not -100."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer", reason="trl is not installed (pip install 'mctrace_nb[trl]')").GKDTrainer
    pi, p = drawn(1), drawn(2)
    found = []
    for loss in (lambda x: gkd.generalized_jsd_loss(x, p, labels=torch.where(VALID, 0, -100), beta=beta),
                 lambda x: L.losses(x.log_softmax(-1), p, torch.zeros_like(VALID, dtype=torch.long), p[..., 0], VALID, L.Objective("jsd", beta=beta)).total):
        logits = pi.clone().requires_grad_()
        value = loss(logits)
        value.backward()
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-14)
    assert float(found[0][0]) > 0.1


def test_tau_from_a_percentile():
    H = torch.arange(1.0, 101.0).reshape(2, 50)
    valid = torch.ones(2, 50, dtype=torch.bool)
    tau = L.calibrate_tau(H, valid, 80)
    assert float((H > tau).double().mean()) == pytest.approx(0.2)
    valid[1] = False  # only the first fifty count
    assert L.calibrate_tau(H, valid, 50) == pytest.approx(25.5)


def nan_at(x, place):
    x = x.clone()
    x[place] = math.nan
    return x


@pytest.mark.parametrize("change, message", [
    (lambda t: t.update(teacher=t["teacher"][..., :5]), "student says 7 words and the teacher 5"),
    (lambda t: t.update(tokens=t["tokens"][:2]), "shapes"),
    (lambda t: t.update(valid=torch.zeros_like(VALID)), "hold no token"),
    (lambda t: t.update(student=nan_at(t["student"], (0, 0, 0))), "student's log-probabilities are not finite at 1 of 7"),
    (lambda t: t.update(teacher=nan_at(t["teacher"], (1, 1, 2))), "teacher's log-probabilities are not finite at 1 of 7"),
    (lambda t: t.update(old=nan_at(t["old"], (0, 1))), "rollout policy's log-probabilities are not finite"),
])
def test_bad_input_is_refused_in_words(change, message, texts):
    change(texts)
    with pytest.raises(InputError, match=message):
        L.losses(**texts)


@pytest.mark.parametrize("bad, message", [(dict(name="eopdd"), "did you mean 'eopd'"), (dict(tau=-1), "tau=-1"), (dict(k=0), "k=0"),
                                          (dict(clip=1), "clip=1"), (dict(beta=2), "beta=2"), (dict(alpha=-1), "alpha=-1")])
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        L.Objective(**bad)


def test_a_gate_that_never_opens_is_said():
    H, valid = torch.full((2, 3), 0.4), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="never opens the gate: its largest entropy is 0.400 nats, tau=0.800"):
        L.check_gate(H, 0.8)
    with pytest.raises(InputError, match="never opens the gate"):
        L.calibrate_tau(H, valid)
    with pytest.raises(InputError, match="entropy is not finite at 1 of 6 tokens"):
        L.check_gate(nan_at(H, (0, 1)), 0.1)
    with pytest.raises(InputError, match="no entropies"):
        L.calibrate_tau(H, ~valid)
    with pytest.raises(InputError, match="percentile=100"):
        L.calibrate_tau(H, valid, 100)
