"""All traps at one's fingertips: choose one, see the wrong number beside the right one, why, and what guards against it."""

from __future__ import annotations

from mctrace_nb.errors import InputError
from mctrace_nb.plots import Figure, wrong_and_right
from mctrace_nb.traps import TRAPS, outcome, said, trap
from mctrace_nb.widgets.base import Explorer, menu, started


class TrapPicker(Explorer):
    """The traps of `mctrace_nb.traps.TRAPS`: wrong and right value as bars, the reason and the guard in words, and the list of them all.

    seed: of the prompts. They are run once, on the tutorial model for which they are written, which takes a few seconds. Other
    arguments are the values that the controls start with: trap. Raises InputError for a seed that is no whole number from 0 on, or a
    trap that there is not.

        >>> mct.widgets.TrapPicker().look("train mode")[0][:32]
        'Wrong: 1.28, right: 0.00 (nats).'
    """

    def __init__(self, seed: int = 0, **start):
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed={seed!r} is not a whole number from 0 on; the traps are run on the tutorial model, on prompts of this seed")
        if "trap" in start:
            trap(start["trap"])
        self.outcomes = [outcome(t.name, seed) for t in TRAPS]
        super().__init__(started(dict(trap=menu("trap", [t.name for t in TRAPS])), start), self.look)

    def look(self, trap: str) -> tuple[str, Figure]:
        """Words on the trap and the picture."""
        number = [t.name for t in TRAPS].index(trap)
        chosen, written = TRAPS[number], [tuple(map(said, values)) for values in self.outcomes]
        wrong, right = zip(*self.outcomes)
        words = (f"Wrong: {written[number][0]}, right: {written[number][1]} ({chosen.unit}). {chosen.why} Guard: {chosen.guard}; without it "
                 f"{chosen.test} fails.")
        return words, wrong_and_right([t.name for t in TRAPS], wrong, right, [t.unit for t in TRAPS], written, number)
