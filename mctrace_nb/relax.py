"""PGB-CT: a mask relaxed to [0, 1], optimised by gradient under sparsity and binary penalties, then rounded.

Yan et al. 2026, section 3 (arXiv 2606.03085): minimise over [0, 1]^N by projected Adam
`mean_n 1/(1 + rho_n(m)) + lambda1(t) sum_i m_i + lambda2(t) sum_i m_i (1 - m_i)`, with penalties that grow from epoch to
epoch; after each epoch keep `m > 0.5`, and stop once at most S components are kept. Many settings run as rows of one
batch. Where the published code differs from the paper its choice has a name here (`rounding="paper"`), and so has each part that
can be left out (`WITHOUT`). A penalty of None is found from the data: see `Settings`.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Iterable, Sequence

import numpy as np
import torch

from mctrace_nb.cost import GRADIENT_PROMPTS
from mctrace_nb.counting import finite, mean_gradients
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.metrics import TRANSFORMS, transform_loss
from mctrace_nb.progress import bar
from mctrace_nb.results import Front, Selection

FLOOR = 0.003  # where a path begins, as a part of where it ends
SCHEDULES = {"linear": lambda t, last: t + 1, "exponential": lambda t, last: 2 ** t, "quadratic": lambda t, last: t ** 2,
             "constant": lambda t, last: 1, "path": lambda t, last: FLOOR ** (1 - t / last) if last else 1}  # last: of the epochs t
LINE = (0.0, 0.5, 1.0)  # nothing, halfway (where masks start), everything: where the largest penalty is measured
BINARY = 0.3  # a binary penalty found from the data, as a part of the sparsity penalty found there
WITHOUT = {"sparsity": {"lambda1": 0.0}, "binary": {"lambda2": 0.0}, "transform": {"transform": "raw"},
           "schedule": {"schedule": "constant"}}
ROUNDINGS = {"strict": lambda m: m > 0.5, "paper": lambda m: m >= 0.5}
PENALTIES = ("sum", "mean")
DIRECTIONS = {"max": 1, "min": -1}


@dataclass(frozen=True)
class Settings:
    """One run of PGB-CT; the defaults are the paper's for heads.

    lambda1, lambda2: sparsity and binary penalty. None is found from the data: whatever the schedule, lambda1 then arrives in the
    last epoch at lambda_max, the smallest penalty that to first order pushes every entry down (see `largest_penalty`), and lambda2
    at 0.3 lambda_max; so neither depends on N, on the metric's unit or on the transform. schedule: how they grow with the epoch t:
    linear `t + 1`, exponential `2^t`, quadratic `t^2` (zero at first), constant, or path: geometrically from 0.003 to 1 over the
    epochs, each of which starts from the mask of the one before. lr: Adam's step; the paper uses 0.5 for MLP coordinates, from which
    the first step makes every entry 0 or 1. transform: "inverse" is the paper's, "log" does not saturate, "raw" is none; None is
    the metric's own (see `Metric.transform`). rounding:
    "strict" keeps m > 0.5, "paper" (its code) m >= 0.5, which keeps entries that never moved. penalty: "sum" over
    components (the paper's: grows with N) or "mean". seed: order of the prompts; None for the task's own order.
    """

    lambda1: float | None = 0.05
    lambda2: float | None = 0.05
    schedule: str = "linear"
    lr: float = 0.1
    transform: str | None = None
    rounding: str = "strict"
    penalty: str = "sum"
    direction: str = "max"
    seed: int | None = 0
    init: float = 0.5

    def __post_init__(self):
        for name, allowed in (("schedule", SCHEDULES), ("transform", TRANSFORMS), ("rounding", ROUNDINGS),
                              ("penalty", PENALTIES), ("direction", DIRECTIONS)):
            if name != "transform" or self.transform is not None:
                one_of(getattr(self, name), allowed, name)
        for name, low, high in (("lambda1", 0, None), ("lambda2", 0, None), ("lr", 1e-12, None), ("init", 0, 1)):
            value = getattr(self, name)
            if value is None and name.startswith("lambda"):  # found from the data
                continue
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= low and (high is None or value <= high)):
                raise InputError(f"{name}={value!r} is out of range; give a number of at least {low:g}"
                                 + ("" if high is None else f" and at most {high}"))


@dataclass
class Run:
    """One optimised row. trajectory: masks after each epoch, first the start, `(epochs + 1, N)`. history: one dict an epoch, with
    the rows forwarded and back-propagated by this row alone up to there. line: the fit's gradients `(3, N)` at `LINE`, if a
    penalty was found from them."""

    settings: Settings
    trajectory: list
    history: list
    line: np.ndarray | None = None

    def kept(self, epoch: int) -> np.ndarray:
        """Numbers of the components kept after an epoch (0 is the start)."""
        mask = torch.as_tensor(self.trajectory[epoch])
        return ROUNDINGS[self.settings.rounding](mask).nonzero().flatten().numpy()


def _orders(settings: Sequence[Settings], n: int, epoch: int) -> np.ndarray:
    """The order of the prompts in an epoch: `(n,)` if all rows share it, else `(R, n)`. On the host, where passes are laid out."""
    def order(seed):
        return np.arange(n) if seed is None else np.random.default_rng([seed, epoch]).permutation(n)

    seeds = [s.seed for s in settings]
    return order(seeds[0]) if len(set(seeds)) == 1 else np.stack([order(seed) for seed in seeds])


def check_relaxable(trace: Effects, transforms: Iterable[str] = ()) -> None:
    """Raises InputError for a metric without a gradient, or a transform that does not fit it."""
    if not trace.metric.differentiable:
        raise InputError(f"metric {trace.metric.name!r} has no gradient to move a mask by (use 'log_odds')")
    if trace.transform == "log" and "inverse" in transforms:
        raise InputError(f"transform 'inverse' needs a ratio for each prompt, which {trace.metric.name!r} of {trace!r} is not; "
                         "use transform='log'")


def fit(trace: Effects, effects: torch.Tensor, settings: Settings) -> torch.Tensor:
    """What a row minimises apart from penalties, from effects in nats: a loss for each prompt."""
    return transform_loss(DIRECTIONS[settings.direction] * effects, settings.transform, trace.scale if settings.transform == "log" else 1.0,
                          ratio=trace.transform == "inverse")


def largest_penalty(line: torch.Tensor) -> float:
    """lambda_max as of the lasso: no gradient of the fit, `(3, N)` at `LINE`, is strong enough to raise any entry against it."""
    return max(0.0, -float(line.min()))


def relax(trace: Effects, settings: Sequence[Settings], epochs: int = 15, batch_size: int = 32, budget: int | None = None,
          progress: bool = True) -> list[Run]:
    """Optimises one mask per setting, all of them as rows of one batch; rows that reached the budget drop out.

    budget: a row stops at the end of the first epoch in which it keeps at most that many components; None runs all
    epochs. Raises InputError for a transform that does not fit the metric, or a metric without a gradient.
    """
    for what, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{what}={value!r} must be a whole number of at least 1")
    settings = [replace(s, transform=s.transform or trace.transform) for s in settings]
    check_relaxable(trace, [s.transform for s in settings])
    n, device = len(trace), trace.model.device
    measured = {(s.transform, s.direction): s for s in settings if s.lambda1 is None or s.lambda2 is None}
    trace.check_memory(max(min(batch_size, n) * len(settings), min(GRADIENT_PROMPTS, n) * len(LINE) * bool(measured)))
    dtype = torch.float64 if trace.model.dtype == torch.float64 else torch.float32

    def column(read):
        return torch.tensor([read(s) for s in settings], dtype=dtype, device=device)

    masks = column(lambda s: s.init)[:, None].repeat(1, len(trace.components)).requires_grad_()
    # Adam is elementwise and its step proportional to lr, so one optimiser of step 1, scaled row by row, serves all rows.
    rates = column(lambda s: s.lr)
    points = torch.tensor(LINE, dtype=dtype, device=device)[:, None].expand(-1, len(trace.components))
    lines = {key: mean_gradients(trace, points, "log", of=lambda effects, s=s: fit(trace, effects, s)) for key, s in measured.items()}
    optimiser = torch.optim.Adam([masks], lr=1.0)

    def penalty(s: Settings, name: str) -> float:
        """A penalty before it has grown; one that is found from the data arrives at its largest in the last epoch."""
        if getattr(s, name) is not None:
            return getattr(s, name) * (1.0 if s.penalty == "sum" else 1 / len(trace.components))
        grown = SCHEDULES[s.schedule](epochs - 1, epochs - 1) or 1  # a quadratic one never grows in a single epoch
        return largest_penalty(lines[s.transform, s.direction]) * {"lambda1": 1, "lambda2": BINARY}[name] / grown

    penalties = {name: column(lambda s: penalty(s, name)) for name in ("lambda1", "lambda2")}
    runs = [Run(s, [masks[i].detach().cpu().numpy().copy()], []) for i, s in enumerate(settings)]
    for run in runs:
        if (found := lines.get((run.settings.transform, run.settings.direction))) is not None:
            run.line = found.cpu().numpy()
    active = torch.arange(len(settings), device=device)
    shown = bar(range(epochs), "pgb", show=progress)
    for epoch in shown:
        growth = column(lambda s: SCHEDULES[s.schedule](epoch, epochs - 1))
        lambda1, lambda2 = penalties["lambda1"] * growth, penalties["lambda2"] * growth
        here = [settings[i] for i in active.tolist()]
        orders = _orders(here, n, epoch)
        seen = {name: torch.zeros(len(settings), dtype=dtype, device=device) for name in ("loss", "relaxed_effect")}
        fits = []  # looked at after the epoch: to look at each would make a GPU wait
        for part in np.split(orders, range(batch_size, n, batch_size), -1):
            m = masks[active]
            effects = trace.effects(m, examples=part, scale="log")  # (R, b)
            fitted = torch.stack([fit(trace, effects[i], s).mean() for i, s in enumerate(here)])
            fits.append(fitted.detach())
            loss = fitted + lambda1[active] * m.sum(1) + lambda2[active] * (m * (1 - m)).sum(1)
            optimiser.zero_grad()
            loss.sum().backward()
            before = masks.detach().clone()
            optimiser.step()
            with torch.no_grad():
                masks.copy_((before + (masks - before) * rates[:, None]).clamp_(0, 1))
                seen["loss"][active] += loss.detach() * part.shape[-1] / n
                seen["relaxed_effect"][active] += effects.detach().mean(-1) * part.shape[-1] / n
        finite(torch.stack(fits), trace)
        done = []
        for i in active.tolist():
            m, run = masks[i].detach(), runs[i]
            spent = n * (epoch + 1 + (0 if run.line is None else len(LINE)))
            run.trajectory.append(m.cpu().numpy().copy())
            run.history.append(dict(
                epoch=epoch + 1, kept=int(ROUNDINGS[settings[i].rounding](m).sum()), sparsity=float(m.sum()),
                violation=float((m * (1 - m)).sum()), lambda1=float(lambda1[i]), lambda2=float(lambda2[i]),
                **{name: float(values[i]) for name, values in seen.items()},
                forwards=spent, backwards=spent))
            done.append(budget is not None and run.history[-1]["kept"] <= budget)
        active = active[~torch.tensor(done, device=device)]
        if not len(active):
            break
    shown.close()  # a loop that breaks does not close it
    return runs


def _is_list(value) -> bool:
    return isinstance(value, (list, tuple, range, np.ndarray))


def settings_grid(without: str | None = None, **options) -> list[Settings]:
    """Settings for every combination of the options, each of which may be a list. without: a part of the method that is left out,
    whatever the options say: "sparsity" (lambda1 = 0), "binary" (lambda2 = 0), "transform" (raw), or "schedule" (constant).

    Raises InputError for an option or a part that does not exist.
    """
    for name in options:
        one_of(name, [f.name for f in fields(Settings)] + ["without"], "option of pgb")
    if without is not None:
        options |= WITHOUT[one_of(without, WITHOUT, "part of pgb")]
    lists = [list(value) if _is_list(value) else [value] for value in options.values()]
    return [Settings(**dict(zip(options, combination))) for combination in product(*lists)]


def pgb(trace: Effects, budget: int | None = None, epochs: int = 15, batch_size: int = 32, progress: bool = True,
        **options) -> Selection | list[Selection]:
    """The paper's algorithm. Options are the fields of `Settings` and `without` (see `settings_grid`); where some are lists, all
    combinations are optimised at once and a list of selections is returned.

    A run that has not come down to the budget after the last epoch is returned as it is, with a warning. Held-out effects
    come with `search.report_heldout(trace, selection)`. The Selection's `history` has a dict an epoch (kept, sparsity,
    violation, lambdas, loss, relaxed effect, and `effect` of the rounded set), its `trajectory` the masks `(epochs + 1, N)`.

        >>> found = mct.pgb(trace, budget=3, transform="log", lambda1=0.05, lambda2=0.05)
        >>> found.components, found.trajectory.shape
        (('L1H2', 'L2H1', 'L2H2'), (2, 12))
    """
    if budget is not None and not (isinstance(budget, int) and 1 <= budget <= len(trace.components)):
        raise InputError(f"budget {budget!r} is out of range; give 1 to {len(trace.components)}")
    start, listed = time.perf_counter(), any(map(_is_list, options.values()))
    runs = relax(trace, settings_grid(**options), epochs, batch_size, budget, progress)
    evaluate_epochs(trace, runs)
    found = [selection_at(trace, run, len(run.history), budget, time.perf_counter() - start) for run in runs]
    if budget is not None and any(s.size > budget for s in found):
        warnings.warn(f"pgb still chooses {max(s.size for s in found)} components after {epochs} epochs, more than the budget of "
                      f"{budget}; give larger penalties or more epochs", stacklevel=2)
    return found if listed else found[0]


def evaluate_epochs(trace: Effects, runs: Sequence[Run]) -> None:
    """Adds to each epoch's history the exact `effect` of its rounded set; equal sets are evaluated once."""
    sets = sorted({tuple(run.kept(e)) for run in runs for e in range(1, len(run.trajectory))})
    effect = dict(zip(sets, finite(trace.effects(trace.components.masks(sets)).mean(-1), trace).tolist()))
    for run in runs:
        fresh: set = set()
        for epoch, row in enumerate(run.history, 1):
            fresh.add(tuple(run.kept(epoch)))
            row["effect"] = effect[tuple(run.kept(epoch))]
            row["forwards"] += len(fresh) * len(trace)


def selection_at(trace: Effects, run: Run, epoch: int, budget: int | None, seconds: float) -> Selection:
    """The rounded set after an epoch as a Selection with everything up to there."""
    row = run.history[epoch - 1]
    return Selection("pgb-published",
                     tuple(trace.components.labels[i] for i in run.kept(epoch)), row["effect"], budget,
                     forwards=row["forwards"], backwards=row["backwards"], seconds=seconds,
                     history=run.history[:epoch], trajectory=np.stack(run.trajectory[:epoch + 1]),
                     settings=asdict(run.settings), **trace.origin)


def outcomes(found: Selection | Sequence[Selection], exact: Front | None = None):
    """Runs of `pgb` side by side, a frame with a row each: the settings in which they differ, epochs, how many components are kept, the
    effect of the last epoch's soft mask (in nats for metrics with a logarithm), of the rounded set, the distance from binary, and, given
    a front of exhaustive search, the rounded effect as a share of the best set of that size (nan where there is none).

    Raises InputError for no selection, or one that no relaxed search made.

        >>> runs = mct.pgb(trace, transform="log", lambda1=[0.01, 0.3], epochs=5)
        >>> mct.outcomes(runs)[["lambda1", "kept", "rounded"]].round(2)
           lambda1  kept  rounded
        0     0.01     5    17.19
        1     0.30     1     9.46
    """
    import pandas as pd

    found = [found] if isinstance(found, Selection) else list(found)
    if not found or not all(isinstance(s, Selection) and s.history for s in found):
        raise InputError("outcomes are those of relaxed runs; give what mct.pgb returns, one selection or a list")
    differ = [name for name in found[0].settings if len({s.settings[name] for s in found}) > 1]
    best = {} if exact is None else {s.size: s.effect for s in exact.selections}
    rows = []
    for s in found:
        last = s.history[-1]
        rows.append({**{name: "found" if s.settings[name] is None and name.startswith("lambda") else s.settings[name] for name in differ}, "epochs": last["epoch"],
                     "kept": s.size, "soft": last["relaxed_effect"], "rounded": s.effect, "violation": last["violation"],
                     **({} if exact is None else {"share": s.effect / best[s.size] if best.get(s.size) else float("nan")})})
    return pd.DataFrame(rows)
