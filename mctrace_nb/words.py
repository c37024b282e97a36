"""What was found, in words: a paragraph on a comparison, in which every number comes from the runs themselves."""

from __future__ import annotations

import math

from mctrace_nb.effects import Effects
from mctrace_nb.stats import Estimate

SPOKEN = {"greedy": "Greedy search", "guided": "Guided search", "top-k": "Ranking single effects (top-k)", "pgb": "The relaxed mask with penalties from the data (pgb)",
          "pgb-published": "The relaxation as published (pgb-published)",
          "attribution": "Attribution patching", "integrated-gradients": "Ranking by integrated gradients",
          "shapley": "Ranking sampled Shapley values", "hard-concrete": "L0 regularisation (hard-concrete gates)",
          "dcm": "Component masking by the raw effect (dcm)", "circuit-lasso": "Ranking by CircuitLasso, which only observes,"}
FEW = 8  # with fewer independent prompts an interval is hardly more than their range


def interval_text(low: float, high: float) -> str:
    """" [low, high]", or nothing where there is no interval."""
    return "" if low is None or math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _spans_zero(low: float | None, high: float | None) -> bool:
    return low is not None and not math.isnan(low) and low <= 0 <= high


def _independent(trace: Effects) -> int:
    """How many prompts can be drawn independently of each other: template groups, and prompts without one."""
    return len({g or f"#{i}" for i, g in enumerate(trace.groups)})


def cautions(comparison) -> list[str]:
    """What a reader must know before the numbers."""
    trace, best, total, said = comparison.trace, comparison.best, comparison.trace.total_effect(), []
    if trace.swapped(total):
        said.append("Beware: the total effect is not positive, so target and foil may be swapped, and what follows would mean little.")
    elif _spans_zero(total.low, total.high):
        said.append("Beware: the interval of the total effect holds 0, so it is not sure that there is anything to explain.")
    few = [f"{_independent(t)} {name}" for name, t in (("to search on", trace), *((("held out", trace.heldout),) if trace.task.heldout else ()))
           if _independent(t) < FEW]
    if few:
        said.append(f"Beware: there are only {' and '.join(few)} independent prompts (template groups), and an interval over so few "
                    "says little.")
    held = best.effect_heldout
    if held is not None and best.effect * held < 0:
        said.append(f"Beware: on held-out prompts the set's effect has the opposite sign ({held:.2f}), so it does not hold beyond the "
                    "prompts it was chosen on.")
    elif held is not None and _spans_zero(best.ci_low, best.ci_high):
        said.append("Beware: on held-out prompts the interval of the set's effect holds 0.")
    return said


def _total(trace: Effects, total: Estimate) -> str:
    moved = f"{total.mean:.2f} {trace.metric.unit}{interval_text(total.low, total.high)}"
    if trace.direction == "restore":
        return f"On {len(trace)} search prompts of {trace.task.name} the whole base run moves the corrupted one ({trace.corruption}) by {moved}."
    what = "the whole counterfactual moves the behaviour by" if trace.corruption == "counterfactual" else \
        f"the total effect of corruption {trace.corruption!r} is"
    return f"On {len(trace)} search prompts of {trace.task.name} {what} {moved}."


def paragraph(comparison) -> str:
    """The total effect, the best set, what stands behind it, and how the other methods did."""
    trace, best, unit = comparison.trace, comparison.best, comparison.trace.metric.unit
    total = trace.total_effect()
    said = [*cautions(comparison), _total(trace, total)]
    same = [s.method for s in comparison.selections if s.components == best.components and s.method != "random"] or [best.method]
    which = "The exact best set" if comparison.exact else f"Not all sets were tried; the best found (by {' and '.join(same)})"
    share = f", {best.effect / total.mean:.0%} of the total effect" * (
        best.effect * total.mean > 0 and not _spans_zero(total.low, total.high))
    parts = trace.describe(best.components)
    said.append(f"{which} of {best.size} component{'s' * (best.size != 1)} is {', '.join(best.components) or 'none'}, with an effect "
                f"of {best.effect:.2f} {unit}{f' ({parts})' if parts else share}.")
    if best.effect_heldout is not None:
        said.append(f"On {len(trace.heldout)} held-out prompts the same set moves it by {best.effect_heldout:.2f}"
                    f"{interval_text(best.ci_low, best.ci_high)}.")
    said += _behind(comparison)
    said += _methods(comparison, same)
    if best.size >= 2:
        alone = sum(trace.single_effects_of(best.components).values())
        more = best.effect - alone
        kind = "as much as" if abs(more) < 0.005 else "more than" if abs(best.effect) > abs(alone) else "less than"
        said.append(f"Replaced one at a time the {best.size} components sum to {alone:.2f}: together they do {kind} that "
                    f"(joint effect minus sum: {more:+.2f} {unit}).")
    said.append(comparison.missed())
    return " ".join(filter(None, said))


def _behind(comparison) -> list[str]:
    """Chance and completeness, on held-out prompts where there are some."""
    frame, said = comparison.evidence, []
    rows = frame[frame["prompts"] == frame["prompts"].iloc[-1]].set_index("what")
    if "random sets of its size" in rows.index:
        chance = rows.loc["random sets of its size"]
        said.append(f"Of other sets of that size, drawn at random, nine in ten lie there between {chance['ci_low']:.2f} and "
                    f"{chance['ci_high']:.2f}, and {chance['beaten_by']:.0%} do at least as much.")
    if comparison.best.size < len(comparison.trace.components):
        said.append(f"Everything outside the set, replaced without it, moves it by {rows.loc['everything outside it', 'effect']:.2f}: "
                    "the nearer to nothing, the more complete the set.")
    return said


def _methods(comparison, same: list[str]) -> list[str]:
    """What the other methods reached, and for how much work."""
    best, exact, said = comparison.best, comparison.exact, []
    for s in comparison.selections:
        if s.method in ("exhaustive", "random") or (not exact and s.method in same):
            continue
        name, share = SPOKEN.get(s.method, s.method), comparison.share(s.effect)
        if not s.size:
            said.append(f"{name} chose nothing: its penalties pushed every mask value below one half (try a smaller lambda1).")
            continue
        smaller = f" with {s.size} component{'s' * (s.size != 1)}" if s.size < comparison.budget else ""
        front = comparison.front(s.method).selections
        once = len(front) > 1 and front[0].forwards == front[-1].forwards > 0
        said.append(f"{name} reaches {s.effect:.2f}{f', {share} of that' if share else ''}{smaller}, for "
                    f"{s.forwards + s.backwards:,} runs of a prompt{f', all budgets up to {front[-1].budget} included' * once}"
                    + (f" (the enumeration: {best.forwards + best.backwards:,})." if exact else "."))
    missing = [SPOKEN.get(f.method, f.method) for f in comparison.fronts if all(s.budget != comparison.budget for s in f.selections)]
    if missing:
        said.append(f"{' and '.join(missing)} never came down to so few components, and so has no set to offer.")
    return said
