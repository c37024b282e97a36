"""What a run leaves in its folder: `front.csv`, `result.json`, figures as PNG, and `report.html`, which opens offline."""

from __future__ import annotations

import base64
import json
import platform
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from mctrace_nb import plots
from mctrace_nb.compare import Comparison
from mctrace_nb.errors import InputError
from mctrace_nb.results import Selection
from mctrace_nb.shipped import BUILT_IN
from mctrace_nb.stability import Stability
from mctrace_nb.tracing import Trace
from mctrace_nb.views import speech, sweep

__all__ = ["Section", "earlier", "html", "per_prompt", "pool_for_interactions", "position_map", "sections", "write"]

PACKAGES = ("mctrace_nb", "torch", "transformers", "numpy", "pandas", "papermill")
MOST_PAIRS = 16  # the interaction map covers all pairs up to so many components, else those of the selections
SIGN_RULES = {"replace": "effect = value(with the set replaced) - value(base); target is the answer the counterfactual prompt favours",
              "restore": "effect = value(with the set restored) - value(corrupted); the base prompt's own answer counts as target"}
BETTER = {"max": "higher is better", "min": "lower is better", "abs": "farther from zero is better"}
NATS = {"log_odds": "An effect of 1 nat multiplies the odds by 2.7, one of 4.6 by 100.",
        "log_prob": "An effect of 1 nat multiplies the probability by 2.7, one of 4.6 by 100."}
VALUES_FROM = {"counterfactual": "the counterfactual prompt", "noise": "the same prompt with noise on its tokens",
               "zero": "nowhere (they are set to zero)", "mean": "the mean over all base prompts"}


@dataclass(frozen=True)
class Section:
    """A figure with its heading and how to read it; `name` is also the name of its PNG.

        >>> figure = mct.plots.singles(trace.single_effects())
        >>> mct.report.Section("singles", "One at a time", figure, "Each bar is one head.").heading
        'One at a time'
    """

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
    """All components if they are few, else those that any method chose, up to 16.

        >>> len(mct.report.pool_for_interactions(mct.compare(trace, "greedy", budgets=[1, 2], budget=2)))
        12
    """
    labels = comparison.trace.components.labels
    if len(labels) <= MOST_PAIRS:
        return labels
    chosen = [label for s in comparison.selections if s.method != "random" for label in s.components]
    return list(dict.fromkeys(chosen))[:MOST_PAIRS]


def per_prompt(comparison: Comparison) -> plots.Figure:
    """The best selection's effect on each prompt of both halves.

        >>> print(mct.report.per_prompt(mct.compare(trace, "greedy", budgets=[1, 2], budget=2)))
        Effect on each prompt, sorted, with the means as dotted lines. search prompts: median 13.29, from ...
    """
    trace, chosen = comparison.trace, comparison.best.components
    halves = {"search prompts": trace, **({"held-out prompts": trace.heldout} if trace.task.heldout else {})}
    return plots.per_prompt({f"{half}{f': {name}' if name else ''}": values.cpu().numpy() for half, t in halves.items()
                             for name, values in t.effects_apart(list(chosen)).items()}, trace.metric.unit)


def _spoken(kind: str) -> str:
    return "the residual stream" if kind == "residual" else f"the {kind.replace('_', ' ')}"


def position_map(trace, kind: str) -> plots.Figure:
    """The layer x token picture of one kind of block, averaged over prompts; of desiderata, for the first behaviour.

        >>> print(mct.report.position_map(trace, "residual"))
        Map of the effect of the residual stream at each token (rows) and layer (columns); the largest in ...
    """
    one = trace if isinstance(trace, Trace) else trace.traces[0]
    found = sweep(one.again(components=kind, positions="all"))
    return plots.layer_by_token(found.by_role(), f"effect of {_spoken(kind)}", trace.metric.unit)


def sections(comparison: Comparison, positions_of: str = "", sure: Stability | None = None, tried=None) -> list[Section]:
    """The figures of a report, in reading order. positions_of: the kind of block for the layer x token picture, if any; sure: the search
    repeated on draws of the prompts, if it was; tried: a frame of `outcomes` of a fine grid of settings, if there was one.

        >>> compared = mct.compare(trace, "greedy", budgets=[1, 2], budget=2)
        >>> [part.name for part in mct.report.sections(compared)]
        ['front', 'selection', 'why', 'prompts', 'singles', 'interactions']
    """
    trace, unit = comparison.trace, comparison.trace.metric.unit
    drawn = comparison.front("random") is not None
    made = [
        Section("front", "How far each method gets",
                comparison.figure(),
                f"Each line is a method; {BETTER[comparison.fronts[0].direction]}. "
                + ("Every set was tried: the broad black line is the exact optimum and nothing can lie beyond it. "
                   if comparison.exact else "There are too many sets to try them all, so the optimum is not known. ")
                + ("Open circles repeat the first method's sets on prompts that no search saw. " if trace.task.heldout else "")
                + ("The grey band holds nine in ten random sets. " if drawn else "") + NATS.get(trace.metric.name, "")),
        Section("selection", f"Which components, at budget {comparison.budget}",
                plots.selection_map(comparison.selections, trace.components.labels),
                "A filled square is a chosen component (L0H2 is head 2 of layer 0, both counted from zero); the number is "
                "the joint effect." + " For random sets the median draw is shown." * drawn),
        *([Section("why", "Why: what the members do together", plots.orders(comparison.explanation),
                   "The best set's joint effect as the sum of what its members do alone, what pairs of them add, triples, and so on. "
                   + comparison.explanation.words())] if comparison.best.size > 1 else []),
        *([Section("stability", "How sure: the same search on draws of the prompts", plots.frequencies(sure),
                   f"{sure.words(comparison.budget)} Each row is a budget; a dot marks the set on all prompts.")] if sure else []),
        Section("prompts", "On each prompt", per_prompt(comparison),
                "The best set's effect on every single prompt. A line that stays near zero for long, or below it, means that the "
                "mean speaks for some prompts only."),
        Section("singles", "Each component alone", plots.singles(trace.single_effects(), unit),
                "What top-k sees: the effect of one replacement at a time, with 95 % intervals over prompts. Bars need "
                "not add up to a joint effect."),
    ]
    pool = pool_for_interactions(comparison)
    if len(pool) >= 2:
        made.append(Section("interactions", "Pairs: together against one at a time",
                            plots.interactions(trace.interactions(2, pool), unit),
                            "Joint effect of a pair minus the sum of its two single effects. Positive (blue): the pair does "
                            "more together. Negative (orange): each does what the other does already."))
    if positions_of:
        made.append(Section("positions", "Where: layer by layer, token by token", position_map(trace, positions_of),
                            f"The effect of {_spoken(positions_of)} of one layer at one token at a time, averaged over the prompts and "
                            "over the tokens of one role. The subject is what differs between the two prompts, or what noise acts on."))
    for method in ("pgb", "pgb-published"):
        front = comparison.front(method)
        course = next((s for s in front.selections if s.budget == comparison.budget), None) if front else None
        if course is not None and course.trajectory is not None:
            how = {"inverse": "the published transform 1/(1 + rho)", "log": "the transform -effect / total effect",
                   "raw": "no transform"}[course.settings["transform"]]
            end = (f"The chosen set, in colour, was cut to {comparison.budget} from the row that this shows ({course.settings['start']}), "
                   f"and repaired by swaps ({course.settings['swaps']})." if method == "pgb" else
                   f"It stops at the end of the first epoch that chooses at most {comparison.budget}. Lines above one half are the "
                   "chosen components.")
            made.append(Section(f"trajectory_{method.replace('-', '_')}", f"How {method} got there",
                                plots.trajectories(course, trace.components.labels),
                                f"The relaxed mask under {how}, while the penalties rise. {end}"))
    if tried is not None:
        made.append(Section("fine", f"{len(tried)} settings of the relaxed search", plots.settings(tried, comparison.front("exhaustive"), unit),
                            "The published method with every combination of the settings asked for, each to its last epoch: how many "
                            "components it then keeps, and what they do. The table is fine.csv."))
    return made


def result(comparison: Comparison, parameters: dict) -> dict:
    """The contents of `result.json`."""
    trace, best = comparison.trace, comparison.best
    total = trace.total_effect()
    return dict(
        parameters=parameters, versions=versions(), model=repr(trace.model), task=trace.task.name,
        source=trace.task.source, dtype=str(trace.model.dtype).removeprefix("torch."), device=str(trace.model.device),
        seed=parameters.get("seed"), kinds=list(trace.components.kinds), components=len(trace.components),
        split={"search": len(trace.task.search), "heldout": len(trace.task.heldout)}, sign_rule=SIGN_RULES[trace.direction],
        metric=trace.metric.name, unit=trace.metric.unit, answer_rule=trace.answer_rule,
        notes=list(trace.task.notes), evidence=json.loads(comparison.evidence.to_json(orient="records")),
        total_effect=vars(total), direction=comparison.fronts[0].direction, budget=comparison.budget,
        selection=dict(method=best.method, exact=comparison.exact is not None, components=list(best.components),
                       effect=best.effect, effect_heldout=best.effect_heldout, ci=[best.ci_low, best.ci_high]),
        over_all_budgets=json.loads(comparison.summary().reset_index().to_json(orient="records")),
        why=comparison.explanation.words() if best.size else "",
        methods={s.method: dict(components=list(s.components), effect=s.effect, band=s.band, forwards=s.forwards,
                                backwards=s.backwards, settings=s.settings) for s in comparison.selections},
        words=comparison.words())


def _plain(data):
    """The same with None for nan, which JSON does not know."""
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and data != data else data


def earlier(folder: str | Path) -> dict[str, Selection]:
    """The best set of an earlier run, under "the set of" and the name of its folder, to be measured elsewhere: for `compare(others=...)`.

    Raises InputError if the folder holds no `result.json` of a run.

        >>> folder = next(path for path in sorted((mct.study.read().folder / "runs").iterdir()) if (path / "result.json").exists())
        >>> [selection.components for selection in mct.report.earlier(folder).values()]
        [('L0H0', 'L0H1', 'L0H2', 'L0H3')]
    """
    path = Path(folder) / "result.json"
    try:
        run = json.loads(path.read_text())
        chosen = run["selection"]
        return {f"the set of {Path(folder).name}": Selection(chosen["method"], tuple(chosen["components"]), chosen["effect"],
                                                           run["budget"], kinds=tuple(run["kinds"]))}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not the result of a run; give the folder that an earlier `trace --out` made") from None


def _halves(trace) -> str:
    """How many prompts there are for what, by group and cohort where the data have them."""
    said = []
    for half, t in (("for the search", trace), *((("held out", trace.heldout),) if trace.task.heldout else ())):
        groups, cohorts = {e.group for e in t.examples if e.group}, Counter(e.cohort for e in t.examples if e.cohort)
        more = [f"{len(groups)} template groups"] * bool(groups) + [f"{count} {name}" for name, count in sorted(cohorts.items())]
        said.append(f"{len(t)} {half}" + (f" ({', '.join(more)})" if more else ""))
    return ", ".join(said) + (". Groups are never divided between the two." if any(e.group for e in trace.examples) else "")


def how(trace) -> str:
    """What was run and what was put in, in two sentences."""
    if trace.direction == "restore":
        return (f"The model runs with {VALUES_FROM[trace.corruption]}, and chosen components are given back the values that they "
                "have in the base prompt. The effect is how far that brings back the base prompt's own answer.")
    return (f"The model runs on the base prompt, and chosen components are given values from {VALUES_FROM[trace.corruption]}. "
            "The effect is how far that moves the model from the foil, the base prompt's answer, to the target.")


def _written(summary) -> dict:
    """The summary over all budgets as a head and rows of text."""
    digits = {"area": "{:.2f}", "worst fraction": "{:.3f}", "work": "{:,}", "seconds": "{:.1f}"}
    rows = [[method, *("" if value != value else digits.get(name, "{}").format(value) for name, value in row.items())]
            for method, row in summary.astype(object).iterrows()]
    return dict(head=["method", *summary.columns], rows=rows)


def html(comparison: Comparison, parts: list[Section], parameters: dict) -> str:
    """The report as one self-contained page: no request leaves it.

        >>> compared = mct.compare(trace, "greedy", budgets=[1, 2], budget=2)
        >>> page = mct.report.html(compared, parts=[], parameters={})
        >>> page[:15]
        '<!doctype html>'
    """
    name = comparison.trace.model.name
    model = f"the tutorial model{name.removeprefix('tutorial')}" if name in BUILT_IN else Path(name).name if Path(name).is_absolute() else name
    environment = Environment(loader=PackageLoader("mctrace_nb", "templates"), autoescape=select_autoescape(["html"]))
    figures = [dict(name=p.name, heading=p.heading, reading=p.reading, alt=p.figure.text,
                    data=base64.b64encode(p.figure.png).decode()) for p in parts]
    trace = comparison.trace
    alike = all(e.base == e.counterfactual for e in trace.examples)
    columns = ["base", *["counterfactual"] * (not alike), "target", "foil"]
    pairs = trace.task.to_frame().head(3)[columns].values.tolist()
    table, behind = comparison.table().reset_index(), comparison.evidence.copy()
    behind["beaten_by"] = [f"{x:.0%}" if x == x else "" for x in behind.get("beaten_by", [float("nan")] * len(behind))]
    behind[["effect", "ci_low", "ci_high"]] = behind[["effect", "ci_low", "ci_high"]].map(lambda x: f"{x:.2f}" if x == x else "")
    said = speech(trace, comparison.best) if isinstance(trace, Trace) and trace.direction == "replace" else None
    facts = {"model": repr(trace.model), "task": f"{trace.task.name} ({trace.task.source or 'your own prompts'})",
             "prompts": _halves(trace),
             "components": f"{len(trace.components)} of kind {', '.join(trace.components.kinds)}",
             "values from": ("the clean run, into one of corruption " * (trace.direction == "restore")) + trace.corruption,
             "positions": trace.positions,
             "metric": f"{trace.metric.name}, effects in {trace.metric.unit}; answers of several tokens by the {trace.answer_rule} of "
                       "their log-probabilities", "sign": SIGN_RULES[trace.direction],
             **({"notes": " ".join(trace.task.notes)} if trace.task.notes else {})}
    return environment.get_template("report.html").render(
        title=f"Which components carry “{trace.task.name}” in {model}?", words=comparison.words(),
        how=how(trace), figures=figures, columns=list(table.columns), rows=table.values.tolist(), pairs=pairs, pair_columns=columns,
        evidence=behind.to_dict("records"), speech=[] if said is None else said.to_dict("records"), facts=facts,
        quality=_written(comparison.summary()), exact=comparison.exact is not None, parameters=parameters, versions=versions())


def write(out: str | Path, comparison: Comparison, parameters: dict | None = None, positions_of: str = "", sure: Stability | None = None,
          tried=None) -> Path:
    """Writes all files of a run into `out` (made if missing); returns the path of the report. positions_of, sure, tried: see `sections`.

        >>> compared = mct.compare(trace, "greedy,top-k", budgets=[1, 2], budget=2)
        >>> mct.report.write("first", compared).name
        'report.html'
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    parameters, parts = dict(parameters or {}), sections(comparison, positions_of, sure, tried)
    if tried is not None:
        tried.to_csv(out / "fine.csv", index=False)
    comparison.to_frame().to_csv(out / "front.csv", index=False)
    (out / "result.json").write_text(json.dumps(_plain(result(comparison, parameters)), indent=1, allow_nan=False) + "\n")
    for part in parts:
        part.figure.save(out / f"{part.name}.png")
    report = out / "report.html"
    report.write_text(html(comparison, parts, parameters), encoding="utf-8")
    return report
