"""The whole experiment: every objective x every seed from the same teacher, one file a run, read back as one table.

A run's file appears whole when the run is done, so that a killed experiment goes on where it was. Each seed has a start of its own (the
student before distillation), prompts and draws of its own; all objectives of one seed share them, so that they can be compared in pairs.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from mctrace_nb.distill import models, problems
from mctrace_nb.distill.losses import ARMS, Objective, calibrate_tau, entropy
from mctrace_nb.distill.loop import Training, distill
from mctrace_nb.distill.measures import over_seeds, paired, right_answers, token_measures
from mctrace_nb.distill.pairs import Pair, pair
from mctrace_nb.distill.rollouts import write_rollouts
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.models import quiet
from mctrace_nb.progress import bar
from mctrace_nb.shipped import shipped

__all__ = ["Plan", "calibrated_tau", "evaluate", "experiment", "load", "load_student", "load_teacher", "prompts", "summary"]

EVALUATION_SEED = 2000  # of held-out problems, the same for every run; sizes and recipes were chosen on seed 1000
FULL = "eopd_full"  # EOPD whose forward KL sees the whole vocabulary
INHERITED = "inherited"  # of students cut out of the teacher; alone: their start
STUDENTS = ("student", "opd", "eopd")  # that come with the package
STARTS = ("start", INHERITED)


@dataclass(frozen=True)
class Plan:
    """What is run. arms: objectives for students with a start of their own; inherited: for students cut out of the teacher. tau: of the
    gate, in nats. problems x answers: size of the final evaluation.

        >>> mct.distill.experiment.Plan(arms=("opd",), inherited=(), seeds=(0,)).runs()
        ['teacher', 'start-0', 'opd-0']
    """

    arms: tuple[str, ...] = (*ARMS, FULL)
    inherited: tuple[str, ...] = ("opd", "eopd")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tau: float = 0.8
    training: Training = field(default_factory=Training)
    start: models.Recipe = models.STUDENT
    cut: models.Recipe = models.INHERITED
    problems: int = 256
    answers: int = 16

    def __post_init__(self):
        unknown = [arm for arm in (*self.arms, *self.inherited) if arm not in (*ARMS, FULL)]
        if unknown or not self.arms or not self.seeds:
            raise InputError(f"arms={self.arms}, seeds={self.seeds}: give at least one of each; arms are {', '.join((*ARMS, FULL))}")
        if self.problems < 1 or self.answers < 8:
            raise InputError(f"problems={self.problems}, answers={self.answers}: give at least one problem, and 8 answers to each for Pass@8")

    def runs(self) -> list[str]:
        """Names of all runs, the references first, then seed by seed."""
        cut = (INHERITED, *(f"{arm}_{INHERITED}" for arm in self.inherited)) if self.inherited else ()
        return ["teacher", *(f"{arm}-{seed}" for seed in self.seeds for arm in ("start", *self.arms, *cut))]

    def objective(self, arm: str) -> Objective:
        name = arm.removesuffix(f"_{INHERITED}")
        return Objective("eopd", tau=self.tau, k=None) if name == FULL else Objective(name, tau=self.tau)


def load(folder) -> tuple:
    """A model of this experiment, in eval mode, and its tokenizer. Raises InputError if a file of either is not there, or cannot be read.

        >>> from mctrace_nb.shipped import shipped
        >>> student, tokenizer = mct.distill.experiment.load(shipped("data/distill/eopd"))
        >>> student.config.n_layer
        2
    """
    lacking = [name for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json") if not (Path(folder) / name).exists()]
    if lacking:
        raise InputError(f"{folder} holds no {', '.join(lacking)}; give a folder that 'python -m mctrace_nb.distill models' or 'experiment' has written")
    try:
        with quiet(bars=False):
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the model in {folder} cannot be read ({str(error).splitlines()[0]}); write it anew") from error


def load_teacher():
    """The shipped teacher and its tokenizer.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> teacher.config.n_layer
        4
    """
    return load(shipped("data/distill/teacher"))


def load_student(name: str = "student"):
    """A shipped student and its tokenizer: "student" before distillation, or what "opd" or "eopd" made of it (seed 0).

        >>> student, tokenizer = mct.distill.experiment.load_student("opd")
        >>> student.config.n_layer
        2
    """
    return load(shipped(f"data/distill/{one_of(name, STUDENTS, 'student')}"))


def prompts(tokenizer, seed: int | str):
    """Endless prompts (token ids) of training problems.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> tokenizer.decode(next(mct.distill.experiment.prompts(tokenizer, seed=0)))
        '<bos> on tue from 11 to 18 by 1 5 7 :'
    """
    for problem in problems.problems(seed):
        yield tokenizer(problem.prompt)["input_ids"]


def evaluate(both: Pair, tokenizer, tau: float, n: int = 256, answers: int = 16, seed: int = EVALUATION_SEED, held_out: bool = True) -> dict:
    """The student of a pair on n problems, `answers` answers each: `right_answers` and `token_measures` on what it wrote.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> both = mct.distill.pairs.pair(mct.distill.experiment.load_student("opd")[0], teacher, tokenizer)
        >>> found = mct.distill.experiment.evaluate(both, tokenizer, tau=0.8, n=8, answers=8)
        >>> round(found["avg"], 1)
        0.1
    """
    asked = problems.distinct_problems(n, seed, held_out)
    generator, found, student, teacher, valid = torch.Generator().manual_seed(seed), [], [], [], []
    for i in range(0, n, 32):
        some = asked[i:i + 32]
        ids = [tokenizer(p.prompt)["input_ids"] for p in some for _ in range(answers)]
        written = write_rollouts(both.student, ids, both.end, problems.ANSWER_TOKENS + 1, generator, both.vocabulary, both.pad)
        said = tokenizer.batch_decode(written.answers(), skip_special_tokens=True)
        walks = [problems.read(p, text)[0] for p, text in zip((p for p in some for _ in range(answers)), said)]
        found += [walks[j:j + answers] for j in range(0, len(walks), answers)]
        with torch.no_grad():
            parts = (both.student_logp(written), both.teacher_logp(written), written.valid)
        for kept, part in zip((student, teacher, valid), parts):
            kept.append(part[written.valid])
    return dict(**right_answers(found), **token_measures(torch.cat(student), torch.cat(teacher), torch.cat(valid), tau))


def calibrated_tau(both: Pair, tokenizer, percentile: float = 80.0, n: int = 512, seed: int = 0) -> float:
    """`calibrate_tau` on what the student writes to n training prompts now.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> both = mct.distill.pairs.pair(mct.distill.experiment.load_student()[0], teacher, tokenizer)
        >>> round(mct.distill.experiment.calibrated_tau(both, tokenizer, n=64), 1)
        1.2
    """
    source = prompts(tokenizer, f"calibrate/{seed}")
    written = write_rollouts(both.student, [next(source) for _ in range(n)], both.end, problems.ANSWER_TOKENS + 1, seed, both.vocabulary, both.pad)
    return calibrate_tau(entropy(both.teacher_logp(written)), written.valid, percentile)


def run(name: str, plan: Plan, out: Path) -> dict:
    """One run, its file and its student's folder written at the end; returns the row."""
    torch.set_num_threads(1)
    begun, (teacher, tokenizer) = time.time(), load_teacher()
    arm, _, number = name.partition("-")
    history: list[dict] = []
    if name == "teacher":
        both = pair(load_teacher()[0], teacher, tokenizer)
    elif arm in STARTS:
        recipe = replace(plan.start if arm == "start" else plan.cut, seed=int(number))
        student, _ = models.pretrain(recipe, "student", None if arm == "start" else models.cut(teacher))
        models.write(out / "students" / name, student, tokenizer, models.card_of(recipe, time.time() - begun, {}))
        both = pair(student, teacher, tokenizer)
    else:
        both = pair(load(out / "students" / f"{INHERITED if arm.endswith(INHERITED) else 'start'}-{number}")[0], teacher, tokenizer)
        history = distill(both, prompts(tokenizer, f"distill/{number}"), plan.objective(arm), plan.training, int(number))
        models.write(out / "students" / name, both.student, tokenizer, dict(arm=arm, seed=int(number), objective=asdict(plan.objective(arm))))
    row = dict(name=name, arm=arm, seed=int(number) if number else None, seconds=round(time.time() - begun, 1),
               **evaluate(both, tokenizer, plan.tau, plan.problems, plan.answers))
    write_whole(out / "runs" / f"{name}.json", dict(row=row, history=history, plan=described(plan)))
    return row


def described(plan: Plan) -> dict:
    return json.loads(json.dumps(asdict(plan)))


def write_whole(path: Path, content: dict) -> None:
    """A JSON file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)


def missing(plan: Plan, out: Path) -> list[str]:
    """Runs whose file is not there. Raises InputError if the folder holds runs of another plan, apart from its arms and seeds."""
    kept = {"training", "tau", "start", "cut", "problems", "answers"}
    wanted = {k: v for k, v in described(plan).items() if k in kept}
    for path in (out / "runs").glob("*.json"):
        there = {k: v for k, v in json.loads(path.read_text())["plan"].items() if k in kept}
        if there != wanted:
            differ = next(k for k in kept if there.get(k) != wanted[k])
            raise InputError(f"{out} holds runs with {differ}={there.get(differ)!r}, not {wanted[differ]!r}; give another folder")
    return [name for name in plan.runs() if not (out / "runs" / f"{name}.json").exists()]


def experiment(plan: Plan, out: Path, workers: int = 1) -> pd.DataFrame:
    """Runs whatever of a plan is missing in a folder, `workers` processes of one thread each; returns and writes `results.csv`.

    Raises InputError for a folder of another plan, or one at which somebody else is at work.

        >>> from mctrace_nb.distill import experiment, loop, models
        >>> training, start = loop.Training(steps=1, batch=8), models.Recipe(layers=2, width=36, steps=1)
        >>> plan = experiment.Plan(("opd",), (), (0,), training=training, start=start, problems=2, answers=8)
        >>> experiment.experiment(plan, "runs")[["arm", "seed"]]
               arm  seed
        0      opd   0.0
        1    start   0.0
        2  teacher   NaN
    """
    out = Path(out)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out} is being worked on by another process; wait for it, or give another folder") from None
    with lock:
        todo = missing(plan, out)
        progress = bar(total=len(todo), what="runs")
        starts = [name for name in todo if name.partition("-")[0] in STARTS]
        for wave in (starts, [name for name in todo if name not in starts]):  # students begin from the starts
            if workers == 1:
                for name in wave:
                    run(name, plan, out)
                    progress.update()
                continue
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
                for done in as_completed([pool.submit(run, name, plan, out) for name in wave]):
                    done.result()
                    progress.update()
        progress.close()
        table = results(out)
        table.round(6).to_csv(out / "results.csv", index=False)
    return table


def end_with_parent() -> None:
    """For worker processes: without it, those of a killed experiment would wait for work forever."""
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def results(out: Path) -> pd.DataFrame:
    """A row per finished run."""
    rows = [json.loads(path.read_text())["row"] for path in sorted((Path(out) / "runs").glob("*.json"))]
    if not rows:
        raise InputError(f"{out} holds no finished run; run python -m mctrace_nb.distill experiment --out {out}")
    return pd.DataFrame(rows)


def histories(out: Path) -> pd.DataFrame:
    """A row per run and logged step."""
    read = [json.loads(path.read_text()) for path in sorted((Path(out) / "runs").glob("*.json"))]
    return pd.DataFrame([dict(arm=r["row"]["arm"], seed=r["row"]["seed"], **row) for r in read for row in r["history"]])


def summary(table: pd.DataFrame, measures=("avg", "pass@8", "distinct", "spread", "student_entropy", "high_student",
                                           "forward_kl_gated", "reverse_kl_gated", "forward_kl_ungated", "reverse_kl_ungated")) -> pd.DataFrame:
    """Means over seeds, with intervals: a row per arm and measure; `less_opd` and its ends: the paired difference to plain OPD of students
    with the same start.

        >>> import pandas as pd
        >>> from mctrace_nb.shipped import shipped
        >>> table = pd.read_csv(shipped("data/distill/results.csv"))
        >>> mct.distill.experiment.summary(table, ["avg"]).iloc[:3, :5].round(2)
                      arm measure  mean   low  high
        0            eopd     avg  0.19  0.17  0.21
        1       eopd_full     avg  0.18  0.16  0.21
        2  eopd_inherited     avg  0.24  0.24  0.25
    """
    rows = []
    for arm, of in table.groupby("arm", sort=False):
        for measure in measures:
            mean = over_seeds(of[measure])
            row = dict(arm=arm, measure=measure, mean=mean.mean, low=mean.low, high=mean.high, seeds=mean.n)
            plain = "opd" + (f"_{INHERITED}" if arm.endswith(INHERITED) else "")
            both = of.merge(table[table.arm == plain], on="seed", suffixes=("", "_opd")) if arm != "teacher" else of.iloc[:0]
            if len(both) and arm != plain:
                gain = paired(both[measure], both[f"{measure}_opd"])
                row |= dict(less_opd=gain.mean, less_opd_low=gain.low, less_opd_high=gain.high)
            rows.append(row)
    return pd.DataFrame(rows)
