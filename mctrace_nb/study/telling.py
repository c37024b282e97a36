"""What a sweep says while it runs: a bar in a terminal or a notebook, one line a run in a log."""

from __future__ import annotations

import sys
import time

from tqdm.auto import tqdm

from mctrace_nb.cost import duration
from mctrace_nb.study.costs import Forecast


class Teller:
    """Tells of each run as it lands, and how long the rest will take. names: of the runs to come; forecast: what they were expected to take."""

    def __init__(self, names: list[str], forecast: Forecast, show: bool = True):
        self.left, self.forecast, self.count, self.failed = set(names), forecast, len(names), 0
        self.begun, self.expected = time.monotonic(), 0.0  # minutes that the runs so far were expected to take
        live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.show = show
        self.bar = tqdm(total=self.count, desc="runs", unit="run", leave=False) if show and live and names else None

    def __call__(self, record: dict) -> None:
        self.left.discard(record["name"])
        self.failed += record["status"] == "failed"
        self.expected += self.forecast.minutes(record["name"])
        line = f"{record['name']}: " + (f"done in {record['seconds']:.0f} s" if record["status"] == "done" else f"failed: {record['reason']}")
        if self.bar is not None:
            if record["status"] == "failed":
                self.bar.write(line, file=sys.stderr)
            self.bar.update()
            self.bar.set_postfix_str(f"{self.failed} failed, about {self.remaining()} left")
        elif self.show:
            number = self.count - len(self.left)
            rest = f"; about {self.remaining()} left" if self.left else ""
            print(f"{time.strftime('%H:%M:%S')} [{number}/{self.count}] {line}{rest}", file=sys.stderr, flush=True)

    def remaining(self) -> str:
        """The rest as expected, in the pace measured so far."""
        pace = (time.monotonic() - self.begun) / 60 / max(self.expected, 1e-9)
        return duration(pace * sum(map(self.forecast.minutes, self.left)))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
