"""Searches from the literature, for comparison: scores that are ranked, and masks that are optimised.

Attribution patching, integrated gradients and Shapley values give every component a score and take the best together;
hard-concrete gates and desiderata-based component masking optimise a mask once and take its largest entries. Whatever proposed a set,
the effect reported is the exact one, and gradients, sampled sets and these last runs count as work alike. Direction "abs" ranks scores by
size, and optimises a mask each way, of whose two sets at a budget the one with the larger effect is taken.
"""

from __future__ import annotations

import math
from typing import Callable, Iterator, Sequence

import numpy as np
import torch

from mctrace_nb.cost import GRADIENT_PROMPTS, L0_EPOCHS, LINE_STEPS, PERMUTATIONS
from mctrace_nb.counting import Clock, check_gradients, mean_effects, mean_gradients
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.progress import bar
from mctrace_nb.results import SCORE, SIGNS, Selection

STRETCH = (-0.1, 1.1)  # of the hard-concrete gate, and its temperature (Louizos et al. 2018, section 4)
TEMPERATURE = 2 / 3


def _whole(**options) -> None:
    for name, value in options.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name}={value!r} must be a whole number of at least 1")


def _number(**options) -> None:
    for name, value in options.items():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InputError(f"{name}={value!r} is out of range; give a number of at least 0")


def _line(trace: Effects, shares: Sequence[float]) -> torch.Tensor:
    """Masks `(R, N)` that replace everything by the same share."""
    dtype = torch.float64 if trace.model.dtype == torch.float64 else torch.float32
    return torch.tensor(shares, dtype=dtype, device=trace.model.device)[:, None].repeat(1, len(trace.components))


def _selections(clock: Clock, method: str, rankings: Sequence[np.ndarray], budgets: Sequence[int], direction: str) -> Iterator[Selection]:
    """At each budget S the first S of a ranking, or of several the one whose set has the best exact effect."""
    for budget in budgets:
        sets = [tuple(ranked[:budget].tolist()) for ranked in rankings]
        effects = mean_effects(clock.trace, sets, len(sets))
        best = int(np.argmax(SCORE[direction](effects)))
        yield clock.selection(method, sets[best], effects[best], budget)


def _top(clock: Clock, method: str, scores: np.ndarray, budgets: Sequence[int], direction: str) -> Iterator[Selection]:
    return _selections(clock, method, [np.argsort(-SCORE[direction](scores), kind="stable")], budgets, direction)


# --- scores ------------------------------------------------------------------------------------------------------

def attribution_scores(trace: Effects) -> np.ndarray:
    """`(N,)` first-order estimates of the single effects, in the metric's units: the gradient of the mean effect where nothing is replaced.

    Attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348), for nodes. Raises InputError for a metric without a gradient.
    """
    check_gradients(trace)
    return mean_gradients(trace, _line(trace, [0.0]))[0].cpu().numpy()


def integrated_gradient_scores(trace: Effects, steps: int = LINE_STEPS) -> np.ndarray:
    """`(N,)` mean gradients of the mean effect on the straight line of masks from nothing to everything, at the midpoints of `steps` equal
    parts. They sum to the effect of replacing everything as the steps grow.

    In the manner of EAP-IG (Hanna et al. 2024, arXiv 2403.17806), which goes along a line of inputs and scores edges: here it is the
    masks that are interpolated. Raises InputError for a metric without a gradient, or steps that are no whole number of at least 1.
    """
    _whole(steps=steps)
    check_gradients(trace, steps)
    return mean_gradients(trace, _line(trace, [(i + 0.5) / steps for i in range(steps)])).mean(0).cpu().numpy()


def shapley_values(trace: Effects, permutations: int = PERMUTATIONS, seed: int = 0, progress: bool = False) -> np.ndarray:
    """`(N,)` Shapley values of the mean effect, in its units, sampled (Castro et al. 2009): what a component adds to those before it, exactly,
    on average over random orders. They sum to the effect of replacing everything, whatever the number of permutations.

    Every second permutation is the one before it reversed, which takes away the noise of pairs. Each costs N - 1 masks. Raises
    InputError for permutations that are no whole number of at least 1.
    """
    _whole(permutations=permutations)
    n, rng = len(trace.components), np.random.default_rng(seed)
    orders = [order for _ in range(0, permutations, 2) for drawn in [rng.permutation(n)] for order in (drawn, drawn[::-1])][:permutations]
    # Nothing has effect 0 and everything the same in each order: only what lies between is run again.
    sets = (tuple(order[:size].tolist()) for order in orders for size in range(1, n))
    between = mean_effects(trace, sets, permutations * (n - 1), progress, "Shapley values").reshape(permutations, n - 1) if n > 1 else \
        np.zeros((permutations, 0))
    everything = mean_effects(trace, [tuple(range(n))], 1)[0]
    added = np.diff(between, axis=1, prepend=0.0, append=everything)
    return np.mean([row[np.argsort(order)] for row, order in zip(added, orders)], 0)


def attribution(trace, budgets, direction, seed, progress) -> Iterator[Selection]:
    """The components with the largest first-order effects: `attribution_scores`. Two rows a prompt, whatever the number of components;
    blind to components that do nothing alone."""
    check_gradients(trace)
    clock = Clock(trace)
    yield from _top(clock, "attribution", attribution_scores(trace), budgets, direction)


def integrated_gradients(trace, budgets, direction, seed, progress, steps: int = LINE_STEPS) -> Iterator[Selection]:
    """The components with the largest mean gradients between nothing and everything: `integrated_gradient_scores`."""
    check_gradients(trace, steps)
    clock = Clock(trace)
    yield from _top(clock, "integrated-gradients", integrated_gradient_scores(trace, steps), budgets, direction)


def shapley(trace, budgets, direction, seed, progress, permutations: int = PERMUTATIONS) -> Iterator[Selection]:
    """The components with the largest sampled Shapley values: `shapley_values`. Needs no gradient, and `permutations` (N - 1) masks."""
    clock = Clock(trace)
    yield from _top(clock, "shapley", shapley_values(trace, permutations, seed, progress), budgets, direction)


# --- optimised masks ---------------------------------------------------------------------------------------------

def _descend(trace: Effects, parameters: torch.Tensor, signs: Sequence[int], gates: Callable, penalty: Callable, unit: float, scale: str,
             lr: float, epochs: int, seed: int, progress: bool) -> Iterator[torch.Tensor]:
    """Adam on `(R, N)` parameters for `-sign * mean effect of gates(parameters) / unit + penalty(parameters)`, row by row, in batches of
    prompts; what `gates` calls noise is the same for all rows. Yields the parameters after each step, which may be changed in place."""
    parameters.requires_grad_()
    optimiser = torch.optim.Adam([parameters], lr=lr)
    sign = torch.tensor(signs, dtype=parameters.dtype, device=parameters.device)[:, None]
    for epoch in bar(range(epochs), "mask", show=progress):
        order = np.random.default_rng([seed, epoch]).permutation(len(trace))
        for part in np.split(order, range(GRADIENT_PROMPTS, len(order), GRADIENT_PROMPTS)):
            masks = gates(parameters)
            gradients = mean_gradients(trace, masks, scale, part)
            optimiser.zero_grad()
            # The product has the gradient of the mean effect, though not its value.
            (penalty(parameters).sum() - (sign * gradients * masks).sum() / unit).backward()
            optimiser.step()
            yield parameters.data


def hard_concrete_gates(log_alpha: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Gates in [0, 1] from log alpha and uniform noise in (0, 1), of one shape or broadcast (Louizos et al. 2018, equation 11)."""
    low, high = STRETCH
    return (torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE) * (high - low) + low).clamp(0, 1)


def expected_l0(log_alpha: torch.Tensor) -> torch.Tensor:
    """The probability that each gate is not zero (Louizos et al. 2018, equation 12)."""
    low, high = STRETCH
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-low / high))


def hard_concrete(trace, budgets, direction, seed, progress, epochs: int = L0_EPOCHS, lambda0: float = 0.03,
                  lr: float = 0.1) -> Iterator[Selection]:
    """L0 regularisation with hard-concrete gates (Louizos, Welling and Kingma 2018, arXiv 1712.01312; for circuits Cao et al. 2021,
    De Cao et al. 2022): Adam on log alpha for `-mean effect / total effect + lambda0 * expected number of open gates`, from
    log alpha = 0. One run serves all budgets: at S the S largest log alpha. The defaults were set on the tutorial model; on it
    more epochs or larger steps did no better."""
    _whole(epochs=epochs)
    _number(lambda0=lambda0, lr=lr)
    check_gradients(trace, len(SIGNS[direction]))
    unit = trace.scale  # a fact of the task, known to everybody who compares, like the values that are put in
    clock, rng = Clock(trace), np.random.default_rng(seed)
    log_alpha = _line(trace, [0.0] * len(SIGNS[direction]))

    def gates(parameters):
        noise = torch.as_tensor(rng.uniform(1e-6, 1 - 1e-6, parameters.shape[1]))  # drawn on the host: the same on every device
        return hard_concrete_gates(parameters, noise.to(parameters))

    for log_alpha in _descend(trace, log_alpha, SIGNS[direction], gates, lambda p: lambda0 * expected_l0(p), unit, "log", lr, epochs, seed,
                              progress):
        pass
    yield from _selections(clock, "hard-concrete", np.argsort(-log_alpha.cpu().numpy(), kind="stable"), budgets, direction)


def dcm(trace, budgets, direction, seed, progress, epochs: int = 15, lambda1: float = 1.0, lr: float = 0.1) -> Iterator[Selection]:
    """Desiderata-based component masking (Davies et al. 2023, arXiv 2307.03637; what arXiv 2606.03085 compares with): projected Adam for
    `-mean raw effect + lambda1 * sum of the mask` on [0, 1]^N. Raw is the relative change rho of a ratio, and the difference for other metrics.

    As published: the raw effect, the one penalty, the clamping. Of this package: the start at 0.5, the step and the epochs of "pgb"; a
    penalty set on the tutorial model (it is in units of the raw effect, and fits no other metric by itself); and at budget S the S largest
    entries, where the authors round and vary the penalty. Entries that end equal (most lie at 0 or 1) are told apart by their mean over
    the run. Raises InputError where a ratio is too large for its dtype.
    """
    _whole(epochs=epochs)
    _number(lambda1=lambda1, lr=lr)
    check_gradients(trace, len(SIGNS[direction]))
    clock, masks, total = Clock(trace), _line(trace, [0.5] * len(SIGNS[direction])), 0
    ratio = trace.metric.logarithmic
    try:
        for masks in _descend(trace, masks, SIGNS[direction], lambda p: p * 1, lambda p: lambda1 * p, 1.0, "relative" if ratio else "log",
                              lr, epochs, seed, progress):
            total = total + masks.clamp_(0, 1)
    except InputError as error:
        if not ratio or "not a finite number" not in str(error):
            raise
        raise InputError(f"{error}, or method 'pgb': 'dcm' optimises ratios as they are, which grow exponentially") from None
    rankings = [np.lexsort((-mean, -mask)) for mask, mean in zip(masks.cpu().numpy(), total.cpu().numpy())]  # stable; last key first
    yield from _selections(clock, "dcm", rankings, budgets, direction)
