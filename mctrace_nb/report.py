"""What a run leaves in its folder: `front.csv`, `result.json`, figures as PNG, and `report.html`, which opens offline."""

from __future__ import annotations

import base64
import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from mctrace_nb import plots
from mctrace_nb.compare import Comparison

PACKAGES = ("mctrace_nb", "torch", "transformers", "numpy", "pandas", "papermill")
MOST_PAIRS = 16  # the interaction map covers all pairs up to so many components, else those of the selections
SIGN_RULE = "effect = value(with the set replaced) - value(base); target is the answer the counterfactual prompt favours"


@dataclass(frozen=True)
class Section:
    """A figure with its heading and how to read it; `name` is also the name of its PNG."""

    name: str
    heading: str
    figure: plots.Figure
    reading: str


def versions() -> dict:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def pool_for_interactions(comparison: Comparison) -> list[str]:
    """All components if they are few, else those that any method chose, up to 16."""
    labels = comparison.trace.components.labels
    if len(labels) <= MOST_PAIRS:
        return labels
    chosen = [label for s in comparison.selections if s.method != "random" for label in s.components]
    return list(dict.fromkeys(chosen))[:MOST_PAIRS]


def sections(comparison: Comparison) -> list[Section]:
    """The figures of a report, in reading order."""
    trace, unit = comparison.trace, comparison.trace.metric.unit
    made = [
        Section("front", "How far each method gets",
                plots.front(comparison.fronts, unit, trace.total_effect().mean),
                "Each line is a method; higher is better. "
                + ("Every set was tried: the broad black line is the exact optimum and nothing can lie above it. "
                   if comparison.exact else "There are too many sets to try them all, so the optimum is not known. ")
                + "Open circles repeat the first method's sets on prompts that no search saw. The grey band holds nine in ten "
                "random sets. An effect of 1 nat multiplies the odds by 2.7, one of 4.6 by 100."),
        Section("selection", f"Which components, at budget {comparison.budget}",
                plots.selection_map(comparison.selections, trace.components.labels),
                "A filled square is a chosen component (L0H2 is head 2 of layer 0, both counted from zero); the number is "
                "the joint effect. For random sets the median draw is shown."),
        Section("singles", "Each component alone",
                plots.singles(trace.single_effects(), unit),
                "What top-k sees: the effect of one replacement at a time, with 95 % intervals over prompts. Bars need "
                "not add up to a joint effect."),
    ]
    pool = pool_for_interactions(comparison)
    if len(pool) >= 2:
        made.append(Section("interactions", "Pairs: together against one at a time",
                            plots.interactions(trace.interactions(2, pool), unit),
                            "Joint effect of a pair minus the sum of its two single effects. Positive (blue): the pair does "
                            "more together. Negative (orange): each does what the other does already."))
    for method in ("pgb", "pgb-log"):
        front = comparison.front(method)
        course = next((s for s in front.selections if s.budget == comparison.budget), None) if front else None
        if course is not None and course.trajectory is not None:
            how = "the published transform 1/(1 + rho)" if method == "pgb" else "the transform -effect / total effect"
            made.append(Section(f"trajectory_{method.replace('-', '_')}", f"How {method} got there",
                                plots.trajectories(course, trace.components.labels),
                                f"The relaxed mask under {how}, until the end of the first epoch that chooses at most "
                                f"{comparison.budget}: there it stops. Lines above one half are the chosen components."))
    return made


def result(comparison: Comparison, parameters: dict) -> dict:
    """The contents of `result.json`."""
    trace, best = comparison.trace, comparison.best
    total = trace.total_effect()
    return dict(
        parameters=parameters, versions=versions(), model=repr(trace.model), task=trace.task.name,
        source=trace.task.source, dtype=str(trace.model.dtype).removeprefix("torch."), device=str(trace.model.device),
        seed=parameters.get("seed"), kinds=list(trace.components.kinds), components=len(trace.components),
        split={"search": len(trace.task.search), "heldout": len(trace.task.heldout)}, sign_rule=SIGN_RULE,
        metric=trace.metric.name, unit=trace.metric.unit, answer_rule=trace.answer_rule,
        total_effect=vars(total), direction=comparison.fronts[0].direction, budget=comparison.budget,
        selection=dict(method=best.method, exact=comparison.exact is not None, components=list(best.components),
                       effect=best.effect, effect_heldout=best.effect_heldout, ci=[best.ci_low, best.ci_high]),
        methods={s.method: dict(components=list(s.components), effect=s.effect, band=s.band, forwards=s.forwards,
                                backwards=s.backwards, settings=s.settings) for s in comparison.selections},
        words=comparison.words())


def html(comparison: Comparison, parts: list[Section], parameters: dict) -> str:
    """The report as one self-contained page: no request leaves it."""
    model = "the tutorial model" if comparison.trace.model.name == "tutorial" else comparison.trace.model.name
    environment = Environment(loader=PackageLoader("mctrace_nb", "templates"), autoescape=select_autoescape(["html"]))
    figures = [dict(name=p.name, heading=p.heading, reading=p.reading, alt=p.figure.text,
                    data=base64.b64encode(p.figure.png).decode()) for p in parts]
    trace = comparison.trace
    pairs = trace.task.to_frame().head(3)[["base", "counterfactual", "target", "foil"]].to_dict("records")
    table = comparison.table().reset_index()
    facts = {"model": repr(trace.model), "task": f"{trace.task.name} ({trace.task.source or 'your own prompts'})",
             "prompts": f"{len(trace.task.search)} for the search, {len(trace.task.heldout)} held out",
             "components": f"{len(trace.components)} of kind {', '.join(trace.components.kinds)}",
             "values from": trace.corruption, "positions": trace.positions,
             "metric": f"{trace.metric.name}, effects in {trace.metric.unit}", "sign": SIGN_RULE}
    return environment.get_template("report.html").render(
        title=f"Which components carry “{trace.task.name}” in {model}?", words=comparison.words(),
        figures=figures, columns=list(table.columns), rows=table.values.tolist(), pairs=pairs, facts=facts,
        parameters=parameters, versions=versions())


def write(out: str | Path, comparison: Comparison, parameters: dict | None = None) -> Path:
    """Writes all files of a run into `out` (made if missing); returns the path of the report."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    parameters, parts = dict(parameters or {}), sections(comparison)
    comparison.to_frame().to_csv(out / "front.csv", index=False)
    (out / "result.json").write_text(json.dumps(result(comparison, parameters), indent=1) + "\n")
    for part in parts:
        part.figure.save(out / f"{part.name}.png")
    report = out / "report.html"
    report.write_text(html(comparison, parts, parameters), encoding="utf-8")
    return report
