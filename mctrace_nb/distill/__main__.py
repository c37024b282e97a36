"""The command line: `python -m mctrace_nb.distill models | experiment | survival | toy`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from mctrace_nb.errors import InputError


def _models(options) -> None:
    """Trains teacher and student into a folder."""
    from mctrace_nb.distill import experiment, models
    from mctrace_nb.distill.pairs import pair

    kept = ("avg", "pass@8", "distinct", "teacher_entropy", "high_teacher")
    for name, recipe in (("teacher", models.TEACHER), ("student", models.STUDENT)):
        folder = options.out / name
        if folder.exists() and not options.force:
            raise InputError(f"{folder} exists already; use --force to replace it")
    for name, recipe in (("teacher", models.TEACHER), ("student", models.STUDENT)):
        begun, folder = time.time(), options.out / name
        model, tokenizer = models.pretrain(replace(recipe, steps=options.steps or recipe.steps), name)
        seconds = time.time() - begun
        models.write(folder, model, tokenizer, {})
        teacher = experiment.load(options.out / "teacher")[0]
        found = experiment.evaluate(pair(model, teacher, tokenizer), tokenizer, 0.8)
        quality = {key: round(found[key], 4) for key in kept}
        models.write(folder, model, tokenizer, models.card_of(recipe, seconds, quality))
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {seconds:.0f} s, "
              + ", ".join(f"{key} {value:.3f}" for key, value in quality.items()), flush=True)


def _experiment(options) -> None:
    """Runs every objective on every seed; goes on where it was stopped."""
    from mctrace_nb.distill import experiment as e

    given = {name: tuple(value) for name, value in (("arms", options.arms), ("seeds", options.seeds)) if value}
    plan = e.Plan(**given, tau=options.tau)
    if options.steps:
        plan = replace(plan, training=replace(plan.training, steps=options.steps))
    table = e.experiment(plan, options.out, options.workers)
    found = e.summary(table)
    found.round(6).to_csv(options.out / "summary.csv", index=False)
    wide = found.pivot(index="arm", columns="measure", values="mean")[["avg", "pass@8", "distinct", "student_entropy", "forward_kl_gated",
                                                                     "reverse_kl_gated"]]
    print(wide.loc[table.arm.drop_duplicates()].round(3).to_string())
    print(f"done: {options.out / 'results.csv'}, {options.out / 'summary.csv'}")


def _survival(options) -> None:
    """Traces teacher and students of an experiment: which heads survive? Writes survival.csv beside its results."""
    from mctrace_nb.distill import survey

    table = survey.survey(options.out, options.prompts)
    table.round(6).to_csv(options.out / "survival.csv", index=False)
    found = survey.summary(table)
    found["survival"] = [f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples()]
    print(found.pivot(index=["arm", "reference"], columns="behaviours", values="survival").to_string())
    print(f"done: {options.out / 'survival.csv'}")


def _toy(options) -> None:
    """The paper's toy experiment: prints what a student does under a sure and an unsure teacher."""
    from mctrace_nb.distill.measures import over_seeds
    from mctrace_nb.distill.toy import METHODS, toy

    for target in options.entropies:
        for method in METHODS:
            found = toy(target, method, seed=options.seed)
            print(f"teacher {target} nats, {method:9}" + "".join(
                f"  {name} {over_seeds(found[name])}" for name in ("top_1_changes", "student_entropy", "forward_kl", "covered")), flush=True)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mctrace_nb.distill", allow_abbrev=False,
                                     description="Entropy-aware on-policy distillation on a grammar that branches.")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {f.__name__[1:]: commands.add_parser(f.__name__[1:], help=f.__doc__, description=f.__doc__, allow_abbrev=False)
            for f in (_models, _experiment, _survival, _toy)}
    for name in ("models", "experiment", "survival"):
        made[name].add_argument("--out", type=Path, required=True, metavar="FOLDER")
    for name in ("models", "experiment"):
        made[name].add_argument("--steps", type=int, help="instead of the recipe's, to try it out")
    made["models"].add_argument("--force", action="store_true", help="replace what is there")
    made["experiment"].add_argument("--arms", nargs="+", metavar="NAME", help="default: all")
    made["experiment"].add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2 3 4")
    made["experiment"].add_argument("--tau", type=float, default=0.8, help="where the gate opens, nats (default 0.8)")
    made["experiment"].add_argument("--workers", type=int, default=1, help="processes, of one thread each (default 1)")
    made["survival"].add_argument("--prompts", type=int, default=64, help="prompt pairs to search on and to report, of each behaviour (default 64)")
    made["toy"].add_argument("--entropies", nargs="+", type=float, default=[0.3, 3.5], metavar="NATS")
    made["toy"].add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        {"models": _models, "experiment": _experiment, "survival": _survival, "toy": _toy}[options.command](options)
    except InputError as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog} {options.command}: interrupted; what is done is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
