"""The objective of the relaxation over two mask values, the others fixed: its corners, its slope, and where descent goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy as np
import torch

from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.relax import Settings, check_relaxable, fit

POINTS = 15  # along each side of the map
STEPS = 25  # of a descent
STEP = 0.1  # times the gradient
STILL = 1e-4  # a step in which no entry moves by more is the last


@dataclass(frozen=True)
class Landscape:
    """Seen at a soft mask. mask: its entries by label, all others are 0. across, up: the two that span the map. ticks: (P,) their
    values. effects, objective: (P, P) mean effect and what is minimised, rows by `up`. here: the objective at the mask, `effect` the
    effect there, `rounded` that of the set of its entries above one half. gradient: of the objective, by label. path: (K + 1, 2) what
    projected gradient steps in the two entries would do, (across, up). slices: (P,) the effect along each entry, by label.
    """

    mask: dict[str, float]
    across: str
    up: str
    transform: str
    lambda1: float
    unit: str
    ticks: np.ndarray
    effects: np.ndarray
    objective: np.ndarray
    here: float
    effect: float
    rounded: float
    gradient: dict[str, float]
    path: np.ndarray
    slices: dict[str, np.ndarray]

    @property
    def kept(self) -> list[str]:
        """The labels of the entries above one half."""
        return [label for label, value in self.mask.items() if value > 0.5]


def surface(trace: Effects, mask: Mapping[str, float], across: str, up: str, points: int = POINTS) -> torch.Tensor:
    """Effects, (P, P, n), over a grid of the values of two entries, rows by `up`; the other entries as in the mask, or 0."""
    ticks = torch.linspace(0, 1, points, dtype=torch.float64)
    masks = _mask(trace, mask).repeat(points * points, 1)
    masks[:, trace.components.index(up)] = ticks.repeat_interleave(points)
    masks[:, trace.components.index(across)] = ticks.repeat(points)
    return trace.effects(masks, scale="log").reshape(points, points, -1)


def _mask(trace: Effects, mask: Mapping[str, float]) -> torch.Tensor:
    """Entries by label -> (N,) float64."""
    found = torch.zeros(len(trace.components), dtype=torch.float64)
    for label, value in mask.items():
        found[trace.components.index(label)] = value
    return found


def landscape(trace: Effects, mask: Mapping[str, float], across: str | None = None, up: str | None = None, transform: str | None = None,
              lambda1: float = 0.0, over: torch.Tensor | None = None) -> Landscape:
    """The transformed objective `mean_n fit(delta_n(m)) + lambda1 sum m` seen at a soft mask (see `metrics.transform_loss`).

    mask: values in [0, 1] by label, at least two; the entries that are not named are 0. across, up: which of them span the map, by
    default the first two. transform: the metric's own by default. over: what `surface` gave for the same others, if it is known.
    Raises InputError for fewer than two entries, twice the same, or a metric without a gradient.

        >>> seen = mct.landscape(trace, {"L1H2": 0.5, "L2H2": 0.5})
        >>> seen.objective.shape, seen.path[-1].round(2)
        ((15, 15), array([0.54, 0.52]))
    """
    names = list(mask)
    if len(names) < 2:
        raise InputError(f"a map needs two mask entries, {names!r} are given; name at least two, such as {{'L0H0': 0.5, 'L0H3': 0.5}}")
    across = names[0] if across is None else across
    up = next(name for name in names if name != across) if up is None else up
    if across == up or not {across, up} <= set(names):
        raise InputError(f"the map is spanned by {across!r} and {up!r}; choose two different ones of {', '.join(names)}")
    settings = Settings(transform=transform or trace.transform)
    check_relaxable(trace, [settings.transform])

    def objective(effects: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:  # (..., n), (..., N) -> (...)
        return fit(trace, effects, settings).mean(-1) + lambda1 * masks.sum(-1)

    def slope(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        leaf = at.detach().clone().requires_grad_()
        effects = trace.effects(leaf, scale="log")
        loss = objective(effects, leaf)
        return torch.autograd.grad(loss, leaf)[0], loss.detach(), effects.detach()

    point, both = _mask(trace, mask), [trace.components.index(name) for name in (across, up)]
    over = surface(trace, mask, across, up) if over is None else over
    points = len(over)
    ticks = torch.linspace(0, 1, points, dtype=torch.float64)
    price = lambda1 * (point.sum() - point[both].sum() + ticks[:, None] + ticks)
    gradient, here, effects = slope(point)
    path, at = [point[both]], point
    for _ in range(STEPS):
        to = at.clone()
        to[both] = (at[both] - STEP * (gradient if len(path) == 1 else slope(at)[0])[both].to(at)).clamp(0, 1)
        if float((to - at).abs().max()) < STILL:
            break
        path.append(to[both])
        at = to
    lines = point.repeat(len(names) * points + 1, 1)
    for k, name in enumerate(names):
        lines[k * points:(k + 1) * points, trace.components.index(name)] = ticks
    lines[-1] = (point > 0.5).to(point)
    along = trace.effects(lines, scale="log").mean(-1).cpu().numpy()
    return Landscape(dict(mask), across, up, settings.transform, lambda1, "nats" if trace.metric.relative else trace.metric.unit, ticks.numpy(), over.mean(-1).cpu().numpy(),
                     (fit(trace, over, settings).mean(-1).cpu() + price).numpy(), float(here), float(effects.mean()), float(along[-1]),
                     {name: float(gradient[trace.components.index(name)]) for name in names}, torch.stack(path).numpy(),
                     {name: along[k * points:(k + 1) * points] for k, name in enumerate(names)})
