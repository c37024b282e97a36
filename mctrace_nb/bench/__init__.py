"""Benchmarks: numbers measured in one run, each beside its bar. `python -m mctrace_nb bench [speed|search|gpu|seeds|study|lasso|distill] [--quick]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mctrace_nb.bench import distill, gpu, lasso, search, seeds, speed, study

SUITES = {"speed": speed.measure, "search": search.measure, "gpu": gpu.measure, "seeds": seeds.measure, "study": study.measure, "lasso": lasso.measure,
          "distill": distill.measure}
DEFAULT = ("speed", "search", "gpu")  # five models trained, ten thousand runs: for those who ask for it


def row(name: str, value: float, bar: float | None = None, sense: str = "<=") -> dict:
    """One line of `bench.json`. Without a bar the number is only reported."""
    ok = None if bar is None else bool(value <= bar if sense == "<=" else value >= bar)
    return dict(name=name, value=round(float(value), 4), bar=bar, sense=sense, ok=ok)


def main(argv: list[str] | None = None) -> int:
    """Runs the suites, prints a table, writes the file. Exit status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="mctrace_nb bench", description=__doc__.split("\n")[0])
    parser.add_argument("suite", nargs="*", choices=[*SUITES, []], help=f"which suites (default: {', '.join(DEFAULT)})")
    parser.add_argument("--quick", action="store_true", help="little more than a minute: fewer repeats, fewer tasks")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="file to write (default bench.json)")
    options = parser.parse_args(argv)
    rows = []
    for name in options.suite or DEFAULT:
        print(f"\n{name}", flush=True)
        for measured in SUITES[name](options.quick):
            rows.append(row(**measured))
            r = rows[-1]
            bar = "" if r["bar"] is None else f"{r['sense']} {r['bar']:g}  {'ok' if r['ok'] else 'MISSED'}"
            print(f"  {r['name']:<72}{r['value']:>10g}  {bar}", flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    missed = [r["name"] for r in rows if r["ok"] is False]
    print(f"\n{len(rows)} numbers in {options.out}; {len(missed)} bars missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
