"""CircuitLasso: the solver against scikit-learn, what is seen of a model, the order of computation, choices and their errors."""

import numpy as np
import pytest
import torch
from conftest import random_task, tiny_gpt2

import mctrace_nb as mct
from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError
from mctrace_nb.lasso import Seen, circuit_lasso, edge_stability, lasso_scores, nonlinear_circuit, penalty_path, see
from mctrace_nb.lasso.circuit import FRACTIONS, choose, held_out_rows, problems, solve
from mctrace_nb.lasso.data import principal
from mctrace_nb.lasso.solve import Moments, fista, largest_penalty, logistic, path
from mctrace_nb.nodes import Nodes
from mctrace_nb.observing import moved, observe
from mctrace_nb.planted import linear_system, twins


def data(rows=300, columns=40, targets=12, seed=0):
    """Correlated regressors and sparse targets, centred, in float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) @ rng.standard_normal((columns, columns)) / columns ** 0.5
    y = x @ (rng.standard_normal((columns, targets)) * (rng.random((columns, targets)) < 0.2)) + rng.standard_normal((rows, targets))
    return tuple(torch.as_tensor(v - v.mean(0)) for v in (x, y))


# --- the solver ---

@pytest.mark.parametrize("shape", [(300, 40), (30, 60)], ids=["more rows", "fewer rows than columns"])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_fista_is_the_lasso_of_scikit_learn(shape, share):
    from sklearn.linear_model import Lasso

    x, y = data(*shape)
    moments = Moments.of(x, y)
    alpha = share * largest_penalty(moments)
    found = fista(moments, alpha, tolerance=1e-10, steps=200_000)
    for q in range(y.shape[1]):
        expected = Lasso(alpha=float(alpha[q]), fit_intercept=False, tol=1e-14, max_iter=1_000_000).fit(x, y[:, q]).coef_
        np.testing.assert_allclose(found[:, q], expected, atol=1e-5)


def test_the_logistic_answer_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    x, y = data(400, 10, 1)
    label = (y[:, 0] + 0.5 > 0).double()
    found, intercept = logistic(x, label, 0.03, tolerance=1e-9, steps=100_000)
    expected = LogisticRegression(l1_ratio=1, C=1 / (0.03 * len(x)), solver="saga", tol=1e-10, max_iter=100_000).fit(x, label)
    np.testing.assert_allclose(found, expected.coef_[0], atol=1e-5)
    np.testing.assert_allclose(intercept, expected.intercept_[0], atol=1e-5)


def test_the_path_starts_from_nothing_and_grows():
    x, y = data()
    moments = Moments.of(x, y)
    found = path(moments, [1.0, 0.5, 0.1, 0.01])
    kept = [int((b != 0).sum()) for b in found]
    assert kept[0] == 0 and kept == sorted(kept) and kept[-1] > 300
    explained = [float(moments.explained(b).sum()) for b in found]
    assert explained == sorted(explained) and 0 < explained[-1] <= float(moments.square.sum())
    np.testing.assert_allclose(moments.explained(found[2]), moments.square - (y - x @ found[2]).square().mean(0), rtol=1e-10)


def test_what_is_not_allowed_stays_zero_and_the_rest_is_the_smaller_lasso():
    x, y = data()
    moments, allowed = Moments.of(x, y), torch.ones(40, 12, dtype=torch.bool)
    allowed[20:, :6] = False
    found = fista(moments, 0.05, allowed, tolerance=1e-9, steps=50_000)
    assert bool((found[20:, :6] == 0).all()) and bool((found[20:, 6:] != 0).any())
    small = fista(Moments.of(x[:, :20], y[:, :6]), 0.05, tolerance=1e-9, steps=50_000)
    torch.testing.assert_close(found[:20, :6], small, atol=1e-6, rtol=0)


def test_columns_that_say_the_same_share_and_constant_ones_get_nothing():
    x, y = data(columns=3, targets=1)
    x = torch.cat([x, x[:, :1], torch.zeros(len(x), 1, dtype=x.dtype)], 1)
    found = fista(Moments.of(x, y), 0.01, tolerance=1e-9, steps=50_000)[:, 0]
    alone = fista(Moments.of(x[:, :3], y), 0.01, tolerance=1e-9, steps=50_000)[:, 0]
    assert found[4] == 0
    torch.testing.assert_close(found[0] + found[3], alone[0], atol=1e-6, rtol=0)  # only their sum is determined


@pytest.mark.parametrize("change, says", [
    (lambda x, y: (x.index_fill(0, torch.tensor([3]), torch.nan), y), "40 values of the regressors are not finite"),
    (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), torch.inf)), "12 values of the targets are not finite"),
    (lambda x, y: (x[:5], y), "not 5 and 300"), (lambda x, y: (x[:0], y[:0]), "not 0 and 0")])
def test_data_that_cannot_be_fitted(change, says):
    with pytest.raises(InputError, match=says):
        Moments.of(*change(*data()))


def test_a_penalty_below_zero_labels_of_one_kind_and_too_few_steps_are_said():
    x, y = data()
    with pytest.raises(InputError, match="alpha=-1.0 is out of range"):
        fista(Moments.of(x, y), -1.0)
    with pytest.raises(InputError, match=r"labels have the values \[1.0\]"):
        logistic(x, torch.ones(len(x), dtype=x.dtype), 0.1)
    with pytest.raises(InputError, match="did not converge in 2 steps"):
        fista(Moments.of(x, y), 1e-4, steps=2)


def test_linear_systems_in_a_known_order_are_recovered():
    from mctrace_nb.bench.lasso import system_auroc

    x, weights = linear_system(samples=4000, seed=1)
    assert np.array_equal(weights, np.triu(weights, 1)) and 0.1 < (weights != 0).sum() / 435 < 0.3
    assert np.abs(weights[weights != 0]).min() >= 0.3 and np.abs(weights).max() <= 1
    residual = x - x @ weights
    assert np.abs(residual.std(0) - 1).max() < 0.06  # the noise is what is left
    assert min(system_auroc(seed) for seed in range(3)) >= 0.98
    assert system_auroc(0, samples=40) < 0.98  # and it takes samples


# --- what is seen ---

@pytest.fixture(scope="module")
def tiny():
    return tiny_gpt2(layers=2, heads=4, width=32)


def prompts_of(n=40, length=6, seed=0):
    return [tuple(row) for row in np.random.default_rng(seed).integers(0, 32, (n, length)).tolist()]


def test_observation_sees_what_hooks_see_and_leaves_the_model_alone(tiny):
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    prompts = [*prompts_of(5, 6), *prompts_of(4, 3, seed=1)]
    seen = observe(tiny, prompts, [("embed", 0), ("residual", 1), ("mlp_block", 0), ("value", 1), ("pattern", 1), ("head_output", 1)], words=[3, 7], batch_rows=4)
    for i, prompt in enumerate(prompts):
        mine = (seen.prompt == i).nonzero().flatten()
        assert seen.position[mine].tolist() == list(range(len(prompt)))
        with torch.no_grad():
            out = tiny.model(torch.tensor([prompt]), output_hidden_states=True)
        torch.testing.assert_close(seen.logits[i], out.logits[0, -1, [3, 7]])
        torch.testing.assert_close(seen.activity["embed", 0][mine], tiny.model.transformer.wte(torch.tensor(prompt)).detach())
    assert seen.last.tolist() == np.cumsum([len(p) for p in prompts]).tolist()[:0] + [int(x) - 1 for x in np.cumsum([len(p) for p in prompts])]
    torch.testing.assert_close(seen.activity["pattern", 1].sum(-1), torch.ones(len(seen), 4, dtype=torch.float64))
    for head in range(4):  # attention's way between positions, applied to what the head reads there, is what the head says
        carried = moved(seen, 1, seen.activity["value", 1][:, head], head)
        torch.testing.assert_close(carried, seen.activity["head_output", 1][:, head])
    assert all(torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
def test_the_pattern_of_every_family_is_what_its_heads_use(family):
    lm = mct.random_model(family, heads=4, width=32)
    prompts = [(1, 5, 9, 20, 7), (1, 30, 2)]
    seen = observe(lm, prompts, [("value", 0), ("pattern", 0), ("head_output", 0)])
    value = seen.activity["value", 0]
    for head in range(4):
        carried = moved(seen, 0, value[:, head * value.shape[1] // 4], head)
        torch.testing.assert_close(carried, seen.activity["head_output", 0][:, head], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prompts, sites, says", [
    ([], [("embed", 0)], "not 0 of which 0 are empty"), ([(1,), ()], [("embed", 0)], "not 2 of which 1 are empty"),
    ([(1, 2)], [("heads", 0)], "unknown kind of activity 'heads'"), ([(1, 2)], [("residual", 2)], "layer 2 is out of range"),
    ([tuple(range(32)) * 3], [("embed", 0)], "prompt 0 has 96 tokens")])
def test_what_cannot_be_observed_is_said(tiny, prompts, sites, says):
    with pytest.raises(InputError, match=says):
        observe(tiny, prompts, sites)


def test_activity_that_is_not_finite_is_said():
    lm = tiny_gpt2()
    lm.model.transformer.h[1].mlp.c_proj.bias.data[0] = torch.inf
    with pytest.raises(InputError, match="mlp_block of layer 1 has values that are not finite"):
        observe(lm, [(1, 2, 3)], [("mlp_block", 0), ("mlp_block", 1)])


def test_nodes_stand_in_the_order_of_computation(tiny):
    nodes = Nodes.of(tiny, ("head_output", "mlp_block"))
    number = {label: i for i, label in enumerate(nodes.labels)}
    assert nodes.labels[0] == EMBED and nodes.labels[-1] == ANSWER and len(nodes) == 12
    allowed = nodes.allowed
    for source, target, may in (("embed", "L0H0", True), ("L0H1", "L0H2", False), ("L0H1", "L0.mlp", True), ("L0.mlp", "L0H1", False),
                                ("L0.mlp", "L1H3", True), ("L1H3", "L0.mlp", False), ("L1.mlp", "answer", True), ("answer", "L1.mlp", False)):
        assert bool(allowed[number[source], number[target]]) == may, (source, target)
    beside = Nodes.of(mct.random_model("gpt_neox"), ("head_output", "mlp_block"))  # attention and MLP read the same stream
    at = {label: i for i, label in enumerate(beside.labels)}
    assert not beside.allowed[at["L0H1"], at["L0.mlp"]] and beside.allowed[at["L0H1"], at["L1.mlp"]]
    with pytest.raises(InputError, match="not both"):
        Nodes.of(tiny, ("head_output", "attn_block"))


def test_blocks_are_turned_scaled_and_freed_of_what_positions_say():
    rng = torch.Generator().manual_seed(0)
    position = torch.arange(6).repeat(200)
    signal = torch.randn(1200, 2, generator=rng) @ torch.randn(2, 5, generator=rng)
    x = torch.stack([signal + 10 * position[:, None], 3.0 * position[:, None] + torch.zeros(1200, 5), torch.zeros(1200, 5)], 1)
    white, constant, dead = principal(x, position, most=8, whiten=True)
    assert constant is None and dead is None and white.shape == (1200, 2)
    torch.testing.assert_close(white.T @ white / 1200, torch.eye(2), atol=1e-4, rtol=0)
    whole = principal(x, position, most=8, whiten=False)[0]
    torch.testing.assert_close(whole.square().mean(0).sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert principal(x, position, most=1, whiten=True)[0].shape == (1200, 1)


@pytest.mark.parametrize("inputs", ["reads", "moved", "same"])
@pytest.mark.parametrize("kinds", [("head_output", "mlp_block"), ("attn_block", "mlp_block"), ("head_output",)], ids="+".join)
def test_edges_follow_the_order_and_runs_repeat(tiny, inputs, kinds):
    found = [circuit_lasso(Seen(tiny, prompts_of(), (3, 5, 7), kinds, inputs)) for _ in range(2)]
    assert np.array_equal(found[0].strength, found[1].strength) and (found[0].strength > 0).any()
    assert not (found[0].strength[~found[0].allowed]).any() and np.isfinite(found[0].strength).all()
    assert found[0].about["forwards"] == 40 and found[0].about["backwards"] == 0


def test_strength_is_the_share_of_a_target_that_a_source_accounts_for():
    """With orthogonal sources and hardly any penalty the squares of the strengths add up to what is explained."""
    seen = see(mct.Trace(twins(False).model, twins(False).task(256), "head_output"))
    answer = problems(seen)[-1]
    moments, (b,) = solve(answer, [1e-4])
    strength = answer.strength(b, moments, len(seen.nodes))[:, -1]
    by_hand = [(answer.x[:, answer.source == node] @ b[answer.source == node].to(answer.x)).square().mean(0).sum().sqrt() for node in range(len(seen.nodes))]
    np.testing.assert_allclose(strength, by_hand, atol=1e-4)
    number = seen.nodes.labels.index
    assert abs(strength[number("L0H1")] ** 2 + strength[number("L0H3")] ** 2 - 1) < 0.05


def test_grouped_keys_and_values_are_read_by_the_right_heads():
    """Of a model with fewer key heads than heads, a head's value block is that of its key head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    lm = mct.wrap_model(LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                                                     num_key_value_heads=2, bos_token_id=1, eos_token_id=2)), None)
    seen = Seen(lm, prompts_of(), (3, 5), ("head_output",))
    blocks = {}
    for block in seen.targets:
        blocks.setdefault(seen.nodes.labels[block.node], []).append(block.columns)
    assert all(len(b) == 3 for b in blocks.values())
    for part in (1, 2):
        same = [torch.equal(blocks[f"L0H{a}"][part], blocks[f"L0H{b}"][part]) for a, b in ((0, 1), (2, 3), (0, 2))]
        assert same == [True, True, False]


# --- choices ---

def test_the_penalty_is_chosen_on_prompts_that_were_not_fitted():
    errors = torch.tensor([[3.0, 3.1, 2.9, 3.0], [1.05, 1.2, 0.9, 1.0], [1.0, 1.1, 1.0, 1.0]])
    assert choose(errors) == 1  # within a standard error of the last, and sparser
    assert choose(errors + torch.tensor([[0.0], [0.5], [0.0]])) == 2
    seen = see(mct.Trace(twins().model, twins().task(64), "head_output"))
    for problem in problems(seen):
        fit, out = held_out_rows(problem, 0)
        assert not set(problem.prompt[fit].tolist()) & set(problem.prompt[out].tolist()) and len(fit) + len(out) == len(problem.x)
    table = penalty_path(seen)
    assert table["edges"].is_monotonic_increasing and list(table["fraction"]) == list(FRACTIONS) and table["chosen"].sum() == 1
    chosen = circuit_lasso(seen, None)
    assert chosen.about["r2"][ANSWER] > 0.9 and chosen.about["fractions"][-1] in FRACTIONS


def test_a_logistic_answer_points_at_the_same_heads():
    p = twins(False)
    seen = Seen(p.model, sum(p.prompts(300), []), p.answers)
    found = circuit_lasso(seen, label="logistic")
    into = dict(zip(found.nodes, found.strength[:, -1]))
    assert set(sorted(into, key=into.get)[-2:]) == {"L0H1", "L0H3"}
    assert np.array_equal(found.strength[:, :-1], circuit_lasso(seen).strength[:, :-1])


def test_draws_of_prompts_say_how_sure_an_edge_is():
    p = twins(False)
    seen = Seen(p.model, sum(p.prompts(60), []), p.answers)
    table = edge_stability(seen, draws=6, progress=False)
    assert p.edges <= set(zip(table["source"], table["target"])) and table["kept"].is_monotonic_decreasing
    sure = table[[edge in p.edges for edge in zip(table["source"], table["target"])]]
    assert (sure["kept"] == 1).all() and (sure["low"] <= sure["high"]).all() and (sure["low"] < sure["high"]).any()
    again = edge_stability(seen, draws=6, progress=False)
    assert table.equals(again) and not table.equals(edge_stability(seen, draws=6, seed=1, progress=False))
    with pytest.raises(InputError, match="draws=1 is out of range"):
        edge_stability(seen, draws=1)


def test_a_network_finds_what_no_line_shows():
    """y is the product of two signs: no linear trace of either, and a plain edge for a small network."""
    p = twins(False)
    seen = Seen(p.model, sum(p.prompts(150), []), p.answers)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 4, generator=rng).sign()
    from mctrace_nb.lasso.circuit import Problem
    from mctrace_nb.lasso.nonlinear import _fitted

    problem = Problem(x, x[:, :1] * x[:, 1:2], torch.arange(4), torch.tensor([5]), torch.tensor([0]), torch.ones(4, 1, dtype=torch.bool), torch.arange(1000))
    moments, (b,) = solve(problem, [0.3])
    strength = _fitted(problem, x, problem.y, 6, 0.02, 16, 300, 0, False)[:, 5]
    assert min(strength[:2]) > 0.6 and max(strength[2:4]) < 0.05 and float(moments.explained(b)[0]) < 0.02
    found = nonlinear_circuit(seen, steps=60, progress=False)
    assert not found.strength[~found.allowed].any() and np.array_equal(found.strength, nonlinear_circuit(seen, steps=60, progress=False).strength)
    with pytest.raises(InputError, match="penalty=0 is out of range"):
        nonlinear_circuit(seen, 0)


def test_what_circuit_lasso_refuses(tiny):
    seen = Seen(tiny, prompts_of(), (3, 5, 7))
    for fraction in (0, 1.5, -0.1):
        with pytest.raises(InputError, match=f"fraction={fraction} is out of range"):
            circuit_lasso(seen, fraction)
    with pytest.raises(InputError, match="needs two words to choose from, not 3"):
        circuit_lasso(seen, label="logistic")
    with pytest.raises(InputError, match="unknown loss of the answer 'hinge'"):
        circuit_lasso(seen, label="hinge")
    with pytest.raises(InputError, match="at least two words"):
        Seen(tiny, prompts_of(), (3,))
    with pytest.raises(InputError, match="unknown way to see inputs 'reading'"):
        Seen(tiny, prompts_of(), (3, 5), inputs="reading")
    with pytest.raises(InputError, match="the 3 prompts are all the same"):
        Seen(tiny, prompts_of(1) * 3, (3, 5))
    with pytest.raises(InputError, match="at least 4, or a fraction"):
        circuit_lasso(Seen(tiny, prompts_of(3), (3, 5)), None)


# --- a method of search ---

def test_circuit_lasso_is_searched_and_compared_like_the_others(tutorial):
    trace = mct.Trace(tutorial, mct.load_task("professions", tutorial, n=32), ["head_output", "mlp_block"])
    front = mct.search(trace, "circuit-lasso", [1, 3], progress=False)
    flow = lasso_scores(trace)
    best = [trace.components.labels[i] for i in np.argsort(-flow)[:3]]
    assert set(front[3].components) == set(best) and front[1].components == (best[0],)
    prompts = {p for e in trace.examples for p in (e.base, e.counterfactual)}
    assert front[1].forwards == len(prompts) + len(trace) and front[3].backwards == 0
    both = mct.compare(trace.again(components="head_pattern"), ["top-k", "circuit-lasso"], budgets=[2], progress=False)
    assert set(both.quality()["method"]) == {"top-k", "circuit-lasso", "random"} and "CircuitLasso" in both.words()
    assert both.figure().png


@pytest.mark.parametrize("kinds", ["mlp_output", "mlp_neuron", ["head_output", "head_pattern"], ["head_output", "attn_block"]], ids=str)
def test_kinds_that_are_no_nodes_are_refused(tutorial, kinds):
    trace = mct.Trace(tutorial, mct.load_task("professions", tutorial, n=8), kinds)
    with pytest.raises(InputError, match="circuit-lasso ranks heads, attention blocks and MLP blocks"):
        mct.search(trace, "circuit-lasso", [1], progress=False)


def test_what_should_be_kept_counts_against_a_component(tutorial):
    move, keep = (mct.Trace(tutorial, mct.load_task(t, tutorial, n=8), "head_output") for t in ("binding", "names"))
    found = lasso_scores(mct.Desiderata(move, keep, [2.0, 0.5]))
    np.testing.assert_allclose(found, 2 * lasso_scores(move) - 0.5 * lasso_scores(keep))


def test_answers_of_several_tokens_and_prompts_of_any_length_are_seen():
    lm = tiny_gpt2()
    trace = mct.Trace(lm, random_task(n=12, answers=(1, 3)), "head_output")
    assert circuit_lasso(trace).about["forwards"] == len({p for e in trace.examples for p in (e.base, e.counterfactual)})
