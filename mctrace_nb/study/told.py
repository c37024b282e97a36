"""What a study says, in words: every number comes from its runs."""

from __future__ import annotations

import pandas as pd

from mctrace_nb.study.agreement import SEED, between, inside, over_seeds
from mctrace_nb.stats import estimate
from mctrace_nb.words import interval_text

NAMED = 4  # so many failures or comparisons are told one by one


def _run_counts(study) -> str:
    counts, failed = study.counts(), study.failures()
    said = f"Of {len(study.runs)} runs {counts['done']} are done, {counts['failed']} failed and {counts['missing']} are missing."
    for row in failed.head(NAMED).itertuples():
        said += f" {row.run} failed{'' if pd.isna(row.cell) else f' in cell {row.cell}'}: {row.reason.rstrip('.')}."
    return said + f" {len(failed) - NAMED} more are in the table of failures." * (len(failed) > NAMED)


def _methods(study) -> str:
    table = study.methods()
    exact, cases = table["exact"].max(), int(table["cases"].max())
    against = "the exact optimum" if exact == 1 else "the best known set" if exact == 0 else \
        "the exact optimum, where it was enumerated, or else the best known set"
    searches = table.drop(["exhaustive", "random"], errors="ignore").sort_values(["best", "fraction"], ascending=False)
    said = []
    for name, row in searches.iterrows():
        of = f" of the {int(row.cases)} in which it has a set" * bool(row.cases < cases)
        said.append(f"{name} in {row.best:.0%}{of}" + f" (at worst {row.smallest:.0%} of that effect)" * bool(row.smallest < 0.995))
    if not said:
        return ""
    return f"In {cases} cases (a run at a budget) each method was measured against {against}. As good as that: {', '.join(said)}."


def label(study, row, *more: str) -> str:
    """A row of a table in words: its values of the axes that vary."""
    return ", ".join(str(row[a]) for a in inside(study, *set(study.axes) - set(study.others(SEED, *more))))


def _draws(study, budget: int | None) -> str:
    table = over_seeds(study, study.chosen(budget), inside(study, SEED)) if SEED in study.axes else pd.DataFrame()
    if table.empty:
        return "No two runs differ in the seed alone, so nothing is known about other draws of the prompts."
    least = table.loc[table["jaccard"].idxmin()]
    where, several = label(study, least), f" on average over {len(table)} combinations" * (len(table) > 1)
    return (f"On different draws of the prompts the best sets agree by a Jaccard index of {table['jaccard'].mean():.2f}{several} (random sets: "
            f"{table['by_chance'].mean():.2f})" + f", least in {where} ({least['jaccard']:.2f})" * bool(where and len(table) > 1) + ".")


def _sides(rows: pd.DataFrame) -> str:
    """What is common and what is not, comparison by comparison."""
    told = []
    for row in rows.to_dict("records"):
        sides = [f"{text} {', '.join(row[key])}" for text, key in
                 (("both", "common"), (f"only {row['one']}", "only_one"), (f"only {row['other']}", "only_other")) if row[key]]
        told.append(f"{row['where']}{': ' if row['where'] else ''}{'; '.join(sides) or 'no component in most runs of either'}")
    return f"Chosen in most runs: {' | '.join(told)}."


def _labels(axis: str, rows: pd.DataFrame, seed: int) -> str:
    """How far components agree between values of the axis, beside the control."""
    said = f"{rows['jaccard'].mean():.2f} between values of {axis} (random sets: {rows['by_chance'].mean():.2f})"
    known = rows[rows["control"].notna()]
    if known.empty:
        return (f"Sets agree by a Jaccard index of {said}. There is no control, for no two runs differ in the seed alone: whether draws of the "
                "prompts differ as much is not known.")
    less = estimate(known["control"] - known["jaccard"], list(known["where"]), seed=seed)
    more = int((known["jaccard"] < known["control"] - 1e-9).sum())
    text = (f"Sets found on different draws agree by a Jaccard index of {said}; the control, draws at one value of {axis}, by "
            f"{known['control'].mean():.2f}. That is {less.mean:.2f}{interval_text(less.low, less.high)} less than the control, and it is less in {more} of "
            f"{len(known)} comparisons.")
    if axis == "model" and known["layers"].notna().any():
        fewer = int((known["layers"] < known["layers_control"] - 1e-9).sum())
        text += (f" In models trained apart a unit's number within its layer is an accident. By layers alone they agree by {known['layers'].mean():.2f}"
                 f" (random sets: {known['layers_by_chance'].mean():.2f}; control: {known['layers_control'].mean():.2f}), less than the control in "
                 f"{fewer} of {len(known)}.")
    return text


def _effects(axis: str, table: pd.DataFrame) -> str:
    known = table[table[["low_one", "low_other"]].notna().all(axis=1)]
    gap = (table["share_one"] - table["share_other"]).abs()
    if gap.isna().all():
        return ""
    widest = table.loc[gap.idxmax()]
    place = f" in {widest['where']}" if widest["where"] else ""
    apart = int(((known["low_one"] > known["high_other"]) | (known["low_other"] > known["high_one"])).sum())
    said = (f"The share of the total effect that the best sets carry differs most{place}: {widest['share_one']:.0%} ({widest['one']}) against "
            f"{widest['share_other']:.0%} ({widest['other']})")
    return said + (f"; intervals lie apart in {apart} of {len(known)} comparisons." if len(known) else ".")


def _changes(study, axis: str, budget: int | None, seed: int) -> str:
    if axis not in study.axes or len(study.values(axis)) < 2:
        return f"There is only one value of {axis} among the finished runs, so nothing to compare."
    table = between(study, axis, budget, seed=seed)
    table = table.assign(where=[label(study, row, axis) for _, row in table.iterrows()])
    alike, said = table[table["comparable"]], []
    if len(alike):
        said += [_labels(axis, alike, seed), _sides(alike) if len(alike) <= NAMED else ""]
    if len(alike) < len(table):
        said.append(f"In {len(table) - len(alike)} of {len(table)} comparisons layers, heads or kinds differ, so labels do not match and only effects and "
                    "fronts are compared.")
    return " ".join(filter(None, [*said, _effects(axis, table)]))


def words(study, axis: str = "model", budget: int | None = None, seed: int = 0) -> str:
    """A paragraph: the runs, the methods, agreement over draws of the prompts, and what differs between the values of an axis.

    budget: by default the one each run reported on. seed: of the intervals, which are over combinations of the other axes.
    """
    if not len(study.done):
        return _run_counts(study)
    return " ".join(filter(None, [_run_counts(study), _methods(study), _draws(study, budget), _changes(study, axis, budget, seed)]))
