"""Figures describe themselves truthfully; intervals cover; components and metrics keep their books."""

import numpy as np
import pandas as pd
import pytest
import torch

from mctrace_nb import plots
from mctrace_nb.components import KINDS, Components
from mctrace_nb.errors import InputError
from mctrace_nb.metrics import METRICS, Said, answer_log_prob, gap, get_metric, transform_loss
from mctrace_nb.results import Front, Selection
from mctrace_nb.stats import bootstrap, estimate

UNITS = {"head_pattern": 2, "head_output": 2, "attn_block": 1, "mlp_neuron": 4, "mlp_output": 3, "mlp_block": 1, "residual": 1}


def test_labels_and_slices_fit_together():
    c = Components(KINDS, 2, UNITS)
    assert len(c) == 2 * (2 + 2 + 1 + 4 + 3 + 1 + 1) == len(set(c.labels))
    assert c.labels[c.slices["head_pattern", 1]] == ["L1H0.pattern", "L1H1.pattern"]
    assert c.labels[c.slices["mlp_neuron", 0]] == ["L0.n0", "L0.n1", "L0.n2", "L0.n3"]
    assert c.mask(["L1.mlp", 0]).nonzero().flatten().tolist() == [0, c.index("L1.mlp")]
    assert Components(("head_output",), 2, UNITS).labels == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert [c.layer_of()[c.index(x)] for x in ("L0.attn", "L1.out2")] == [0, 1]


def test_metrics_by_hand():
    answers = torch.tensor([[0.6, 0.2]]).log()
    logits, tokens = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[1, 0]])
    said = Said(answers, tokens, logits, torch.tensor([[0.0, 0.0, 0.0]]))
    values = {name: m.value(said).item() for name, m in METRICS.items() if not m.between_cohorts}
    from_uniform = logits.logsumexp(-1).item() - logits.mean().item() - np.log(3)
    assert values == pytest.approx(dict(log_odds=np.log(3), odds_ratio=np.log(3), log_prob=np.log(.6), prob=.6, logit_diff=2.0,
                                        kl=from_uniform, accuracy=1.0, neutrality=-np.log(3)))
    several, valid = torch.tensor([-1.0, -2.0, -9.0]), torch.tensor([True, True, False])
    assert answer_log_prob(several, valid, "mean").item() == -1.5 and answer_log_prob(several, valid, "sum").item() == -3


def test_transforms():
    effect = torch.tensor([0.0, 2.0])
    rho = torch.expm1(effect)
    torch.testing.assert_close(transform_loss(effect, "inverse", 1.0), 1 / (1 + rho))
    assert transform_loss(effect, "log", 4.0).tolist() == [0, -0.5]
    assert (get_metric("log_odds").transform, get_metric("logit_diff").transform, gap("log_odds").transform) == ("inverse", "log", "log")


def test_intervals_cover_about_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        e = estimate(rng.normal(1, 1, 40), draws=400, seed=int(rng.integers(1e9)))
        inside += e.low <= 1 <= e.high
    assert 0.89 <= inside / 300 <= 0.98


def test_groups_are_drawn_whole():
    """Forty copies of two prompts are two observations, not eighty."""
    values, groups = np.repeat([0.0, 1.0], 40), ["a"] * 40 + ["b"] * 40
    draws = bootstrap(values, groups, 2000)
    assert set(np.round(draws, 6)) <= {0.0, 0.5, 1.0} and np.mean(draws == 0.5) == pytest.approx(0.5, abs=0.05)
    assert bootstrap(np.ones((3, 4)), None, 7).shape == (7, 3)


@pytest.fixture
def fronts():
    history = [dict(epoch=e, lambda1=.05 * e, lambda2=.05 * e, kept=1) for e in (1, 2)]
    course = np.array([[.5, .5], [.6, .3], [.9, 0]])
    return [Front("exhaustive", tuple(Selection("exhaustive", c, e, i + 1, e, e - .1, e + .1) for i, (c, e) in
                                      enumerate([(("a",), 1.), (("a", "b"), 3.)]))),
            Front("pgb", (Selection("pgb", ("a",), 1., 1, history=history, trajectory=course),)),
            Front("random", (Selection("random", ("b",), .5, 1, band=(.2, .8)),))]


def test_figures_say_what_they_show(fronts, tmp_path):
    figure = plots.front(fronts, total=3.5)
    assert "exact optimum reaches 3.00 at 2" in figure.text
    data, metadata = figure._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["alt"] == data["text/plain"] == repr(figure)
    assert figure.save(tmp_path / "f.png").read_bytes() == figure.png
    assert "pgb chose a" in plots.selection_map([f.selections[0] for f in fronts], ["a", "b"]).text
    assert "chosen: a" in plots.trajectories(fronts[1].selections[0], ["a", "b"]).text
    pairs = pd.DataFrame(dict(components=[("a", "b"), ("a", "c"), ("b", "c")], interaction=[1., -2., 0.]))
    assert "synergy is a with b (+1.00" in plots.interactions(pairs).text and "redundancy a with c (-2.00)" in plots.interactions(pairs).text
    alone = pd.DataFrame(dict(component=list("abc"), effect=[.1, .9, -.3], ci_low=[0, .8, -.4], ci_high=[.2, 1., -.2]))
    assert "the largest is b with 0.90" in plots.singles(alone).text


def test_colours_differ_for_colour_blind_readers():
    """Okabe and Ito's palette, one marker a method: nothing is told by colour alone."""
    colours, markers = zip(*plots.STYLE.values())
    assert len(set(colours)) == len(set(markers)) == len(plots.STYLE)
