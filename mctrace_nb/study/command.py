"""`python -m mctrace_nb sweep grid.yaml --out FOLDER`: check, plan and run a study. Exit status 0 all done, 1 some failed, 2 bad input."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.study.description import Mistakes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mctrace_nb sweep", allow_abbrev=False, description="Run the analysis notebook for every combination of "
                                     "parameters in a file. Start it again with the same folder, and it goes on where it was.")
    parser.add_argument("grid", nargs="?", metavar="GRID.YAML", help="grid: parameters and their values; fixed: the same in all runs; fine: settings "
                        "of the relaxed search, all inside each run; limits: of a run")
    parser.add_argument("--out", metavar="FOLDER", help="where the study is, or goes")
    parser.add_argument("--check", action="store_true", help="say what is wrong with the grid, or how many runs it has and what they will take")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what there is of each in the folder; run nothing")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a grid, for editors")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at once on this machine (default: half its cores), as far as memory allows")
    parser.add_argument("--memory", type=float, metavar="GIB", help="what all runs together may take (default: nine tenths of what is free)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on the workers of this Dask scheduler, for example tcp://host:8786")
    parser.add_argument("--retry-failed", action="store_true", help="run failed runs again")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    return parser


def _options(argv: list[str]) -> argparse.Namespace:
    """The options given. Raises InputError for what does not go together."""
    parser = _parser()

    def refuse(message: str):
        raise InputError(message)

    parser.error = refuse
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        one_of(unknown[0].split("=")[0], [o for action in parser._actions for o in action.option_strings if o.startswith("--")], "option")
        raise InputError(f"option {unknown[0]!r} is not understood; write --name value")
    if given.schema:
        return given
    if not given.grid:
        raise InputError("no grid is given; write for example: sweep grid.yaml --out runs/grid")
    if not given.out and not given.check:
        raise InputError(f"--out is missing; write for example: sweep {shlex.quote(given.grid)} --out runs/grid")
    for name, value in (("workers", given.workers), ("memory", given.memory)):
        if value is not None and not value > 0:
            raise InputError(f"--{name} {value} is out of range; give more than 0")
    if given.dask and (given.workers or given.memory):
        raise InputError("--workers and --memory are of this machine, and with --dask runs are elsewhere; leave them out")
    return given


def _check(given: argparse.Namespace) -> int:
    from mctrace_nb.study.costs import forecast
    from mctrace_nb.study.driver import workers_of
    from mctrace_nb.study.grid import read

    grid = read(given.grid)
    print(f"{grid.path.name}: {forecast(grid, given.memory, workers_of(given.workers))}")
    return 0


def _dry_run(given: argparse.Namespace) -> int:
    from mctrace_nb.study.folder import check_folder, state_of
    from mctrace_nb.study.grid import read

    grid, out = read(given.grid), Path(given.out).expanduser().resolve()
    check_folder(out)
    state = state_of(grid, out)
    todo = {run.name for run in state.todo(given.retry_failed)}
    for status in ("done", "failed", "missing"):
        for run in getattr(state, status):
            print(f"{'to run' if run.name in todo else status:8}{run.name}" + f"  ({status})" * (run.name in todo and status == "failed"))
    print(f"{len(todo)} of {len(grid.runs)} runs would be run" + (f"; {len(state.strangers)} finished runs are not of this grid and are left where they are"
                                                                 if state.strangers else ""))
    return 0


def _sweep(given: argparse.Namespace) -> int:
    from mctrace_nb.study.driver import dask_executor, sweep
    from mctrace_nb.study.grid import read

    again = f"go on with: python -m mctrace_nb sweep {shlex.quote(given.grid)} --out {shlex.quote(given.out)}"
    grid = read(given.grid)
    for name in ("SIGTERM", "SIGHUP"):  # a terminated sweep, or one whose terminal is closed, ends like an interrupted one; not under nohup
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        with dask_executor(given.dask) if given.dask else nullcontext() as executor:
            swept = sweep(grid, given.out, given.workers, executor, given.retry_failed, given.fail_fast, given.memory)
    except KeyboardInterrupt:
        print(f"mctrace_nb sweep: interrupted; finished runs are kept, {again}", file=sys.stderr)
        return 130
    page = swept.out / "study.html"
    print(f"{swept}: {f'open {page}' if page.exists() else swept.out}")
    if swept.stopped:
        print(f"mctrace_nb sweep: {swept.stopped}; {again}", file=sys.stderr)
    elif swept.failed:
        print(f"mctrace_nb sweep: {swept.failed} run{'s' * (swept.failed > 1)} failed (see table.csv); once mended, {again} --retry-failed", file=sys.stderr)
    return 1 if swept.failed or swept.missing else 0


def main(argv: list[str]) -> int:
    try:
        given = _options(argv)
        if given.schema:
            from mctrace_nb.study.description import schema

            print(json.dumps(schema(), indent=1))
            return 0
        return _check(given) if given.check else _dry_run(given) if given.dry_run else _sweep(given)
    except Mistakes as error:  # a line each, in the form that editors know
        print(error, file=sys.stderr)
    except InputError as error:
        print(f"mctrace_nb sweep: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
