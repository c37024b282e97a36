"""A study read back from its folder: one table of runs, all fronts, and what did not work.

    FOLDER/grid.yaml, study.json      what was to be run
    FOLDER/runs/NAME/run.json         how a run went, beside the files that `trace --out` leaves
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.results import COLUMNS, SCORE
from mctrace_nb.shipped import shipped

NOTEBOOKS = {"done": "analysis.ipynb", "failed": "analysis.failed.ipynb"}
# What is read of a run's result.json: an excerpt keeps no more.
READ = ("model", "kinds", "components", "unit", "direction", "budget", "total_effect", "evidence", "selection")
OUTCOMES = ("epochs", "kept", "soft", "rounded", "violation", "share")  # columns of fine.csv that are no settings
CONTROL = "random"  # a method that is a control and no finding
TYPES = {"method": str, "components": str, **dict.fromkeys(("effect", "best_up_to", "effect_heldout", "ci_low", "ci_high", "seconds"), float)}
SAME = 1e-5  # of an effect, or nats: what passes for rounding


@dataclass(frozen=True)
class Study:
    """All runs of a study.

    axes: the parameters that differ between runs. runs: a frame, a row a run of the grid (index `run`, its name): the axes, `status`
    (done, failed, missing), `reason` and `cell` of a failure, `seconds`, `peak_gib`, the reported `budget`, and of the best set at that
    budget its `method`, whether it is `exact`, its components as `set` (labels joined by `;`), `effect`, `effect_heldout`, `ci_low`,
    `ci_high` (as in front.csv), the `total_effect` on search prompts and `total_heldout`, their `unit`, the `direction` of the search,
    how many `candidates` there were to choose from, `kinds` and `layout` (layers x heads), and the `notebook` within the folder.
    fronts: every front.csv, one under the other: the axes, `run`, and the columns of front.csv with `components` as `set`.
    An axis `budget` is `reported_budget` in the fronts. code: the version that was to run it.

        >>> mct.study.read().counts()
        {'done': 24, 'failed': 1, 'missing': 0}
    """

    folder: Path
    axes: tuple[str, ...]
    runs: pd.DataFrame
    fronts: pd.DataFrame
    code: str = ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.counts().items() if n)
        return f"Study({self.folder.name!r}: {len(self.runs)} runs over {', '.join(self.axes) or 'no axis'}; {counts})"

    def counts(self) -> dict[str, int]:
        """How many runs there are of each status."""
        return {status: int((self.runs["status"] == status).sum()) for status in ("done", "failed", "missing")}

    @property
    def done(self) -> pd.DataFrame:
        """The rows of `runs` that have results."""
        return self.runs[self.runs["status"] == "done"]

    def values(self, axis: str) -> list:
        """The values of an axis among the finished runs, in the order of the grid. Raises InputError for an unknown axis."""
        return list(dict.fromkeys(self.done[one_of(axis, self.axes, "axis")]))

    def others(self, *without: str) -> list[str]:
        """The axes of which the finished runs have several values, without those named."""
        return [a for a in self.axes if a not in without and len(self.values(a)) > 1]

    def only(self, **values) -> "Study":
        """The part of the study in which each named axis has the given value, or one of a list of them.

        Values may be given as text. Raises InputError for an axis or a value that there is not.
        """
        kept = pd.Series(True, index=self.runs.index)
        for axis, wanted in values.items():
            there = self.runs[one_of(axis, self.axes, "axis")].astype(str)
            wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
            kept &= there.isin([one_of(str(v), dict.fromkeys(there), axis) for v in wanted])
        return Study(self.folder, self.axes, self.runs[kept], self.fronts[self.fronts["run"].isin(self.runs.index[kept])], self.code)

    def failures(self) -> pd.DataFrame:
        """A row a failed run: its name, the number of the failing cell, the reason, and the notebook to look at."""
        failed = self.runs[self.runs["status"] == "failed"]
        return failed[["cell", "reason", "notebook"]].reset_index()

    def chosen(self, budget: int | None = None, method: str | None = None) -> pd.DataFrame:
        """The rows of `fronts` with one set for each finished run. budget: by default the one each run reported on. method: by default
        the exact optimum where it is known, else the set with the best effect on the search prompts.

        Raises InputError if no run has such a set.
        """
        of = self.done
        at = self.fronts["run"].map(of["budget"]) if budget is None else budget
        found = self.fronts[self.fronts["budget"] == at]
        if method:
            found = found[found["method"] == one_of(method, self.methods().index, "method")]
        elif len(found):
            score = self.scores(found) + np.where(found["method"] == "exhaustive", np.inf, 0) - np.where(found["method"] == CONTROL, 1e12, 0)
            found = found.loc[score.groupby(found["run"], sort=False).idxmax()]
        if found.empty:
            raise InputError(f"no run has a set of budget {budget}{f' by {method}' * bool(method)}; the fronts hold budgets "
                             f"{', '.join(map(str, sorted(set(self.fronts['budget'])))) or 'of no run'}")
        return found

    def scores(self, rows: pd.DataFrame) -> pd.Series:
        """The effects of some rows of `fronts` as their searches ranked them: larger is better."""
        parts = [SCORE[d](rows["effect"][where]) for d, where in rows.groupby(rows["run"].map(self.runs["direction"])).groups.items()]
        return pd.concat(parts).reindex(rows.index) if parts else rows["effect"]

    @cached_property
    def fine(self) -> pd.DataFrame:
        """The fine grids of all finished runs, one under the other: the axes, `run`, and the columns of fine.csv; empty if there were none."""
        paths = {run: self.folder / "runs" / run / "fine.csv" for run in self.done.index}
        found = {run: pd.read_csv(path) for run, path in paths.items() if path.is_file()}
        if not found:
            return pd.DataFrame(columns=[*self.axes, "run"])
        stacked = pd.concat(found, names=["run"]).reset_index(level="run").reset_index(drop=True)
        stacked = stacked if "share" in stacked else stacked.assign(share=np.nan)  # no optimum was known in any run
        axes = self.runs.loc[stacked["run"], list(self.axes)].rename(columns={a: f"{a} of the run" for a in self.axes if a in stacked})
        return pd.concat([axes.reset_index(drop=True), stacked], axis=1)

    def settings(self) -> pd.DataFrame:
        """A row a setting of the fine grids, over all runs and their seeds: how many `runs`, how many components it keeps and what they do on average, and the
        mean and smallest `share` of the exact optimum of the size kept (nan where it is not known), empty sets left out."""
        by = [c for c in self.fine.columns[len(self.axes) + 1:] if c not in (*OUTCOMES, "seed")] or ["epochs"]
        grouped = self.fine.groupby(by, sort=False, dropna=False)
        return pd.DataFrame({"runs": grouped["run"].nunique(), "kept": grouped["kept"].mean(), "rounded": grouped["rounded"].mean(),
                             "share": grouped["share"].mean(), "smallest": grouped["share"].min()})

    def methods(self) -> pd.DataFrame:
        """A row a method, over all runs and budgets: in how many `runs` it is, in how many `cases` (a run at a budget) it has a set, in what
        share of them that is as good as the best known (`best`), and its mean and smallest `fraction` of the best known effect.

        The best known is the exact optimum where it was enumerated (`exact`: in what share of the cases), else the best of all methods.
        """
        rows = self.fronts.assign(score=self.scores(self.fronts))
        case = [rows["run"], rows["budget"]]
        exact = rows["score"].where(rows["method"] == "exhaustive").groupby(case).transform("max")
        top = exact.fillna(rows["score"].where(rows["method"] != CONTROL).groupby(case).transform("max"))
        rows = rows.assign(exact=exact.notna(), fraction=(rows["score"] / top).where(top > 1e-9),
                           best=(top - rows["score"]) <= SAME * np.maximum(1, top.abs()))
        grouped = rows.groupby("method", sort=False)
        return pd.DataFrame({"runs": grouped["run"].nunique(), "cases": grouped.size(), "best": grouped["best"].mean(),
                             "fraction": grouped["fraction"].mean(), "smallest": grouped["fraction"].min(), "exact": grouped["exact"].mean()})

    def stability(self, budget: int | None = None, method: str | None = None) -> pd.DataFrame:
        """Agreement between runs that differ in nothing but the seed: see `agreement.stability`."""
        from mctrace_nb.study import agreement  # it needs torch, which reading does not

        return agreement.stability(self, budget, method)

    def between(self, axis: str = "model", budget: int | None = None, method: str | None = None, seed: int = 0) -> pd.DataFrame:
        """What differs between the values of an axis, everything else equal: see `agreement.between`."""
        from mctrace_nb.study import agreement

        return agreement.between(self, axis, budget, method, seed)

    def words(self, axis: str = "model", budget: int | None = None, seed: int = 0) -> str:
        """What the runs say together, in a paragraph: see `told.words`."""
        from mctrace_nb.study import told

        return told.words(self, axis, budget, seed)


def _load(path: Path, need: tuple[str, ...]) -> dict:
    """A JSON object with these keys; ValueError says in one line what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged ({' '.join(str(error).split())[:100]})") from None
    lacking = [key for key in need if key not in data] if isinstance(data, dict) else need
    if lacking:
        raise ValueError(f"{path.name} is damaged (it has no {', '.join(lacking)})")
    return data


def _front(path: Path) -> pd.DataFrame:
    """A front.csv; ValueError says in one line what is wrong with it."""
    try:
        front = pd.read_csv(path, dtype=TYPES).fillna({"components": ""})
        lacking = [c for c in COLUMNS if c not in front]
        whole = not lacking and len(front) and not front[["method", "budget", "size", "effect"]].isna().any(axis=None)
        if not whole or any(len(s.split(";")) * bool(s) != n for s, n in zip(front["components"], front["size"])):
            raise ValueError(f"it has no {', '.join(lacking)}" if lacking else "rows are missing or cut off")
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is damaged ({' '.join(str(error).split())[:100]})") from None
    return front[list(COLUMNS)].rename(columns={"components": "set"})


def _outcome(result: dict) -> dict:
    """What the table of runs says of a result.json; ValueError if it cannot be understood."""
    try:
        best, held = result["selection"], [e["effect"] for e in result["evidence"] if (e["what"], e["prompts"]) == ("total effect", "held-out")]
        layout = re.search(r"\d+ layers x \d+ heads", result["model"])
        return dict(budget=int(result["budget"]), method=best["method"], exact=bool(best["exact"]), set=";".join(best["components"]),
                    effect=best["effect"], effect_heldout=best["effect_heldout"], ci_low=best["ci"][0], ci_high=best["ci"][1],
                    total_effect=result["total_effect"]["mean"], total_heldout=held[0] if held else None, unit=result["unit"],
                    direction=one_of(result["direction"], SCORE, "direction"), candidates=int(result["components"]),
                    kinds=",".join(result["kinds"]), layout=layout[0] if layout else "")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"result.json is damaged ({type(error).__name__}: {error})") from None


EMPTY = dict(status="missing", reason="", cell=None, seconds=None, peak_gib=None, budget=None, method="", exact=False, set="", effect=None,
             effect_heldout=None, ci_low=None, ci_high=None, total_effect=None, total_heldout=None, unit="", direction="", candidates=None,
             kinds="", layout="", notebook="")


def _run(folder: Path) -> tuple[dict, pd.DataFrame | None]:
    """A run's row of the table and its front, None unless it is done. A run with a damaged file has failed, for that reason."""
    if not folder.is_dir():
        return EMPTY, None
    row, front = dict(EMPTY, status="failed"), None
    try:
        run = _load(folder / "run.json", ("status",))
        row |= dict(reason=str(run.get("reason") or ""), cell=run.get("cell"), seconds=run.get("seconds"), peak_gib=run.get("peak_gib"))
        if run["status"] == "done":
            row |= _outcome(_load(folder / "result.json", READ))
            front, row["status"] = _front(folder / "front.csv"), "done"
        elif run["status"] != "failed":
            raise ValueError(f"run.json is damaged (its status is {run['status']!r})")
    except ValueError as error:
        row = dict(EMPTY, status="failed", reason=str(error), seconds=row["seconds"], peak_gib=row["peak_gib"])
    notebook = next((n for n in (NOTEBOOKS[row["status"]], *NOTEBOOKS.values()) if (folder / n).is_file()), "")
    return row | dict(notebook=f"runs/{folder.name}/{notebook}" if notebook else ""), front


def read(folder: str | Path = "") -> Study:
    """The study of a folder; without one, the example that comes with the kit.

    Runs without a folder are missing; a run of which a file is damaged counts as failed, and its reason names the file. Raises
    InputError if the folder is no study.

        >>> mct.study.read().axes
        ('model', 'task', 'components', 'seed', 'corruption')
    """
    folder = Path(folder).expanduser() if folder else shipped("data/study")
    if not folder.is_dir():
        raise InputError(f"the folder of a study {str(folder)!r} is not there; give what `sweep grid.yaml --out` made")
    try:
        plan = _load(folder / "study.json", ("axes", "runs"))
        axes, planned = tuple(plan["axes"]), {r["name"]: {a: r["axes"][a] for a in plan["axes"]} for r in plan["runs"]}
    except (ValueError, KeyError, TypeError) as error:
        said = f"study.json names no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{str(folder)!r} is no study that can be read: {said}; give what `sweep grid.yaml --out` made") from None
    found = {name: _run(folder / "runs" / name) for name in planned}
    rows = [{**planned[name], **{k: v for k, v in row.items() if k not in planned[name]}} for name, (row, _) in found.items()]
    runs = pd.DataFrame(rows, index=pd.Index(found, name="run"), columns=[*axes, *(c for c in EMPTY if c not in axes)])
    runs = runs.astype({c: float for c, v in EMPTY.items() if v is None and c not in axes})
    runs["cell"] = runs["cell"].astype("Int64")
    fronts = {name: front for name, (_, front) in found.items() if front is not None}
    inside = {"budget": "reported_budget"}  # an axis of the same name as a column of the fronts
    if fronts:
        stacked = pd.concat(fronts, names=["run"]).reset_index(level="run").reset_index(drop=True)
        stacked = pd.concat([runs.loc[stacked["run"], list(axes)].rename(columns=inside).reset_index(drop=True), stacked], axis=1)
    else:
        stacked = pd.DataFrame(columns=[*(inside.get(a, a) for a in axes), "run", *("set" if c == "components" else c for c in COLUMNS)])
    return Study(folder, axes, runs, stacked, str(plan.get("code", "")))


def excerpt(folder: str | Path, out: str | Path) -> Path:
    """Copies of a study what reading it needs: no notebooks, no pictures, numbers to six digits. For keeping it and passing it on.

    Raises InputError as `read` does, or if `out` is there already.

        >>> mct.study.excerpt(mct.study.read().folder, "small").name
        'small'
    """
    study, out = read(folder), Path(out).expanduser()
    if out.exists():
        raise InputError(f"{str(out)!r} is there already; give a new folder")
    out.mkdir(parents=True)
    for name, status in study.runs["status"].items():
        source, target = study.folder / "runs" / name, out / "runs" / name
        if status != "missing":
            target.mkdir(parents=True)
        if (source / "run.json").is_file():
            record = json.loads((source / "run.json").read_text(encoding="utf-8"))
            record = {key: value for key, value in record.items() if key not in ("host", "started")}  # nobody else's business
            (target / "run.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
        if status == "done":
            result = json.loads((source / "result.json").read_text(encoding="utf-8"))
            (target / "result.json").write_text(json.dumps({key: result[key] for key in READ}) + "\n", encoding="utf-8")
            if (source / "fine.csv").is_file():
                shutil.copy(source / "fine.csv", target)
            pd.read_csv(source / "front.csv").to_csv(target / "front.csv", index=False, float_format="%.6g")
    for file in (f for f in ("grid.yaml", "study.json") if (study.folder / f).is_file()):
        shutil.copy(study.folder / file, out / file)
    return out
