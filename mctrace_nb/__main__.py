"""The command line: `python -m mctrace_nb trace ...`. Exit status 0 done, 2 bad input, 1 the analysis failed."""

from __future__ import annotations

import argparse
import os
import signal
import sys


class _OneLine(argparse.ArgumentParser):
    def error(self, message: str):
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def _analysis_options(command: str, description: str) -> tuple[_OneLine, dict]:
    """A parser with an option for each parameter of the analysis notebook, and those parameters by option."""
    from mctrace_nb.parameters import notebook_parameters

    parser = _OneLine(prog=f"mctrace_nb {command}", allow_abbrev=False, description=description)
    options_of = {f"--{p['name'].replace('_', '-')}": p for p in notebook_parameters() if p["name"] != "out"}
    for option, p in options_of.items():
        switch = dict(nargs="?", const="true") if p["type"] == "bool" else {}  # --known or --known false
        parser.add_argument(option, dest=p["name"], metavar=p["type"].upper(), default=argparse.SUPPRESS, **switch,
                            help=f"{p['help']} (default {p['default']!r})".replace("%", "%%"))
    return parser, options_of


def _parsed(parser: _OneLine, options_of: dict, argv: list[str]) -> dict:
    """The options given, by name. Raises InputError for an option that there is not."""
    from mctrace_nb.errors import InputError, one_of

    options, unknown = parser.parse_known_args(argv)
    if unknown:
        one_of(unknown[0].split("=")[0], options_of, "option")
        raise InputError(f"option {unknown[0]!r} is not understood; write --name value")
    return vars(options)


def _refused(prog: str, error: Exception) -> int:
    print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _trace(argv: list[str]) -> int:
    rank = None
    if "RANK" in os.environ:  # else there is one process, and no need to import torch for its options
        from mctrace_nb.ranks import LEADS, my_rank

        rank = my_rank()
    if rank and not {"-h", "--help"} & set(argv):  # the first of several processes does all that is seen
        from mctrace_nb.serving import join_ranks

        join_ranks()
        return 0
    if rank == 0:
        os.environ[LEADS] = "yes"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a terminated run tidies up like an interrupted one
    try:
        return _run_trace(argv)
    except KeyboardInterrupt:
        print("mctrace_nb trace: interrupted; nothing was left behind", file=sys.stderr)
        return 130


def _run_trace(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.run import AnalysisFailed, analyse

    parser, options_of = _analysis_options("trace", "Trace a behaviour of a model and leave a report that opens offline.")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the report and the data go")
    parser.add_argument("--force", action="store_true", help="replace the folder if it is not empty")
    try:
        given = _parsed(parser, {**options_of, "--out": None, "--force": None}, argv)
        out, force = given.pop("out"), given.pop("force")
        report = analyse(given, out, force)
    except InputError as error:
        return _refused(parser.prog, error)
    except AnalysisFailed as error:
        print(f"{parser.prog}: {error} (see {error.folder / 'analysis.failed.ipynb'} and error.json)", file=sys.stderr)
        return 1
    print(f"done: open {report}")
    return 0


def _estimate(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.parameters import foresee

    parser, options_of = _analysis_options("estimate", "What a trace with these options would cost; no weights are loaded.")
    try:
        print(foresee(_parsed(parser, options_of, argv)))
    except InputError as error:
        return _refused(parser.prog, error)
    return 0


def _tutorial(argv: list[str]) -> int:
    from mctrace_nb.tutorial import main

    return main(argv)


def _sweep(argv: list[str]) -> int:
    from mctrace_nb.study.command import main

    return main(argv)


def _bench(argv: list[str]) -> int:
    from mctrace_nb.bench import main

    return main(argv)


def _notebooks(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.run import execute_notebooks

    parser = _OneLine(prog="mctrace_nb notebooks", description="Execute notebooks, or all of a folder, and save their outputs.")
    parser.add_argument("places", nargs="*", default=["notebooks"], metavar="FOLDER or NOTEBOOK")
    try:
        done = execute_notebooks(parser.parse_args(argv).places)
    except InputError as error:
        return _refused(parser.prog, error)
    print(f"{len(done)} notebooks executed")
    return 0


def _course(argv: list[str]) -> int:
    from mctrace_nb.course import FORMS
    from mctrace_nb.errors import InputError
    from mctrace_nb.exam import exam

    parser = _OneLine(prog="mctrace_nb course", description="Make the notebooks into student copies, slides, pages, or an exam; nothing is run.")
    parser.add_argument("form", choices=[*FORMS, "exam"])
    parser.add_argument("folder", nargs="?", default="notebooks")
    parser.add_argument("--out", default="build", metavar="FOLDER")
    asked = parser.add_argument_group("exam")
    asked.add_argument("--seed", type=int, default=0, help="another seed draws other questions (default 0)")
    asked.add_argument("--lessons", default="", metavar="01,03", help="the lessons to draw from (default all)")
    asked.add_argument("--minutes", type=int, default=90, help="how long it may take (default 90)")
    given = parser.parse_args(argv)
    try:
        if given.form == "exam":
            made = exam(given.folder, given.out, given.seed, [x.strip() for x in given.lessons.split(",") if x.strip()], given.minutes)
        else:
            made = FORMS[given.form](given.folder, given.out)
    except InputError as error:
        return _refused(parser.prog, error)
    for folder in dict.fromkeys(path.parent for path in made):
        print(f"{sum(path.parent == folder for path in made)} files in {folder}")
    return 0


def _site(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.site import SiteFailed, build

    parser = _OneLine(prog="mctrace_nb site", description="Make the book of the project, which opens offline; nothing is run.")
    parser.add_argument("--out", default="build/site", metavar="FOLDER")
    try:
        made = build(parser.parse_args(argv).out)
    except InputError as error:
        return _refused(parser.prog, error)
    except SiteFailed as error:
        print(*error.args, f"{parser.prog}: {len(error.args)} faults; nothing was written", sep="\n", file=sys.stderr)
        return 1
    print(f"done: open {made}")
    return 0


def _app(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.site.app import serve

    try:
        return serve("build/app/explore.ipynb", argv)
    except InputError as error:
        return _refused("mctrace_nb app", error)


def _tasks(argv: list[str]) -> int:
    from mctrace_nb.errors import InputError
    from mctrace_nb.tasks import catalogue

    parser = _OneLine(prog="mctrace_nb tasks", description="List every task: where it comes from and where its copy is.")
    parser.add_argument("--data-dir", metavar="FOLDER", help="a folder with copies of published data")
    try:
        listed = catalogue(parser.parse_args(argv).data_dir)
    except InputError as error:
        return _refused(parser.prog, error)
    print("Variants are added after colons, the first of each set being the default: winobias:test:anti\n")
    for entry in listed:
        print(entry.pop("name"))
        for what, said in entry.items():
            if said:
                print(f"  {what:9}{said}")
    return 0


COMMANDS = {"trace": (_trace, "trace a behaviour and leave a report"),
            "estimate": (_estimate, "what a trace would cost in time and memory, before it is started"),
            "sweep": (_sweep, "a study: many traces, in parallel, that may be stopped and go on"),
            "bench": (_bench, "measure speed and quality, write bench.json"),
            "notebooks": (_notebooks, "execute all notebooks and save their outputs"),
            "course": (_course, "student copies, slides, pages, or an exam, of the notebooks"),
            "site": (_site, "the book of the project, which opens offline"),
            "app": (_app, "two explorers on a page of their own; options are Voila's, such as --port"),
            "tasks": (_tasks, "list every task, its source and licence"),
            "tutorial": (_tutorial, "train the tutorial model anew")}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m mctrace_nb COMMAND [options]\n\n"
              + "\n".join(f"  {name:11}{what}" for name, (_, what) in COMMANDS.items())
              + "\n\nEach command explains itself with --help.")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        from mctrace_nb.errors import InputError, one_of

        try:
            one_of(argv[0], COMMANDS, "command")
        except InputError as error:
            print(f"mctrace_nb: {error}", file=sys.stderr)
        return 2
    return COMMANDS[argv[0]][0](argv[1:])


if __name__ == "__main__":
    sys.exit(main())
