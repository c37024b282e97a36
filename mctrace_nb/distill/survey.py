"""Survival in all students of an experiment: of the teacher's heads, of a twin's, and of its own from before distillation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mctrace_nb.distill.behaviours import UNSURE
from mctrace_nb.distill.experiment import INHERITED, STARTS, load_teacher, results
from mctrace_nb.distill.measures import over_seeds, paired
from mctrace_nb.distill.models import KEPT
from mctrace_nb.distill.survival import Traced, score, survival
from mctrace_nb.errors import InputError
from mctrace_nb.models import load_model
from mctrace_nb.progress import bar

__all__ = ["scores", "summary"]

GROUPS = {"all": lambda behaviour: True, "unsure": lambda behaviour: behaviour in UNSURE, "sure": lambda behaviour: behaviour not in UNSURE}


def by_number(reference: Traced, student: Traced, kept: tuple[int, ...] = KEPT) -> dict[int, int]:
    """Heads of a teacher -> heads of a student made of its layers `kept`: those with the same number in a layer that was kept."""
    heads = reference.layers.count(0)
    if len(student.layers) != heads * len(kept):
        raise InputError(f"the student has {len(student.layers)} heads, layers {kept} of its teacher have {heads * len(kept)}; is it cut out of it?")
    return {layer * heads + i: place * heads + i for place, layer in enumerate(kept) for i in range(heads)}


def survey(out: Path, n: int = 64, seed: int = 0) -> pd.DataFrame:
    """Rows of `survival` for every finished student of a folder, with `arm`, `seed`, and `reference`: "teacher" (matched by profile),
    "twin" (the same arm with another seed, `twin`), "before" (itself before distillation, heads by number), and for students cut out of the
    teacher "number" (the teacher, by number).

    n: search and held-out prompt pairs a behaviour. Raises InputError if there is no finished student.
    """
    table = results(out)
    students = table[table.arm != "teacher"]
    if students.empty:
        raise InputError(f"{out} holds no finished student; run python -m mctrace_nb.distill experiment --out {out}")
    model, tokenizer = load_teacher()
    teacher = Traced.of(load_model(model, tokenizer=tokenizer), n, seed)
    rows, starts, arms = [], {}, dict(list(students.groupby("arm", sort=False)))
    with bar(total=len(students), what="tracing students") as progress:
        for arm in sorted(arms, key=lambda arm: arm not in STARTS):  # where the others begin, first
            traced = {int(number): Traced.of(load_model(Path(out) / "students" / name), n, seed) for number, name in zip(arms[arm].seed, arms[arm]["name"])}
            cut = arm.endswith(INHERITED)
            if arm in STARTS:
                starts[cut] = traced
            for number, student in traced.items():
                pairs = [("teacher", None, survival(teacher, student))]
                pairs += [("twin", twin, survival(other, student)) for twin, other in traced.items() if twin != number]
                if cut:
                    pairs.append(("number", None, survival(teacher, student, by_number(teacher, student))))
                if arm not in STARTS and number in starts.get(cut, ()):
                    pairs.append(("before", None, survival(starts[cut][number], student, {i: i for i in range(len(student.layers))})))
                rows += [dict(arm=arm, seed=number, reference=reference, twin=twin, **row) for reference, twin, found in pairs for row in found]
                progress.update()
    return pd.DataFrame(rows)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """One survival score per arm, seed, reference and group of behaviours (all, those at which the teacher is unsure, those at which it is
    sure); twins of one student are put together.

        >>> import pandas as pd
        >>> from mctrace_nb.shipped import shipped
        >>> table = pd.read_csv(shipped("data/distill/survival.csv")).query("arm == 'inherited'")
        >>> mct.distill.survey.scores(table).head(2).round(2)
                 arm  seed reference behaviours  survival
        0  inherited     0   teacher        all      0.78
        1  inherited     0   teacher     unsure      0.60
    """
    rows = [dict(arm=arm, seed=seed, reference=reference, behaviours=group, survival=score(some.to_dict("records")))
            for (arm, seed, reference), of in table.groupby(["arm", "seed", "reference"], sort=False)
            for group, holds in GROUPS.items() if len(some := of[of.behaviour.map(holds)])]
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score over seeds with its 95 % interval, a row per arm, reference and group of behaviours; `less_start` and its ends: the paired
    difference to the same students before distillation.

        >>> import pandas as pd
        >>> from mctrace_nb.shipped import shipped
        >>> table = pd.read_csv(shipped("data/distill/survival.csv")).query("arm == 'inherited'")
        >>> mct.distill.survey.summary(table).iloc[:2, :6].round(2)
                 arm reference behaviours  mean   low  high
        0  inherited   teacher        all  0.79  0.76  0.82
        1  inherited   teacher     unsure  0.63  0.58  0.67
    """
    rows, found = [], scores(table)
    for (arm, reference, group), of in found.groupby(["arm", "reference", "behaviours"], sort=False):
        start = INHERITED if arm.endswith(INHERITED) else "start"
        before = found[(found.arm == start) & (found.reference == reference) & (found.behaviours == group)].set_index("seed").survival
        mean = over_seeds(of.survival)
        row = dict(arm=arm, reference=reference, behaviours=group, mean=mean.mean, low=mean.low, high=mean.high, n=mean.n)
        if arm not in STARTS and set(of.seed) <= set(before.index):
            change = paired(of.survival, before[of.seed])
            row |= dict(less_start=change.mean, less_start_low=change.low, less_start_high=change.high)
        rows.append(row)
    return pd.DataFrame(rows)
