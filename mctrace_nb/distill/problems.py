"""A grammar that branches: walks on a ring of numbers, with several valid derivations for each problem and an answer that can be checked.

    from 3 to 11 by 2 5 7 : +5 8 -2 6 +5 11

The walk goes from the first number to the second in `STEPS` moves; every move is one of the given sizes, forwards or backwards, and is
followed by the number it leads to. Which move comes first is open (several walks arrive), so whoever writes such walks is uncertain at
the moves and certain at the numbers. Whether the walk arrives is decided by the early moves already: whoever guesses there fails some
of the time. All walks that arrive are equally likely, so the distribution of every next word is known (`next_words`).

A problem belongs either to the training text or to the held-out problems, decided by a checksum. Nothing here knows torch.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, product
from random import Random
from typing import Iterator, Sequence

from mctrace_nb.errors import InputError

RING = 20  # numbers 0 .. 19; 19 is followed by 0
SIZES = range(1, 10)  # of a move, below half the ring, so that forwards and backwards lead to different numbers
CHOICES = 3  # sizes that a problem allows
STEPS = 3
HELD_OUT_SHARE = 0.2
END = "<eos>"
ANSWER_TOKENS = 2 * STEPS + 1  # of a derivation with its end


@dataclass(frozen=True)
class Problem:
    """Go from `start` to `target` by moves of these sizes."""

    start: int
    target: int
    sizes: tuple[int, ...]

    @property
    def prompt(self) -> str:
        return f"from {self.start} to {self.target} by {' '.join(map(str, self.sizes))} :"

    @property
    def moves(self) -> tuple[int, ...]:
        """What may be done in a step, signed."""
        return tuple(sign * size for size in self.sizes for sign in (1, -1))

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.prompt.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    return ["from", "to", "by", ":", *map(str, range(RING)), *(f"{move:+d}" for size in SIZES for move in (size, -size))]


def solutions(problem: Problem) -> list[tuple[int, ...]]:
    """All walks (signed moves) that arrive."""
    return [walk for walk in product(problem.moves, repeat=STEPS) if (problem.start + sum(walk) - problem.target) % RING == 0]


def derivation(problem: Problem, walk: Sequence[int]) -> str:
    """A walk as words: each move and the number it leads to."""
    here, words = problem.start, []
    for move in walk:
        here = (here + move) % RING
        words += [f"{move:+d}", str(here)]
    return " ".join(words)


def read(problem: Problem, text: str) -> tuple[tuple[int, ...] | None, str]:
    """The walk that a derivation describes, and "" if it solves the problem; else None and what is wrong with it."""
    words, here, walk = text.split(), problem.start, []
    for move, number in zip(words[::2], words[1::2]):
        if move not in {f"{m:+d}" for m in problem.moves}:
            return None, f"{move!r} is no move of this problem"
        here = (here + int(move)) % RING
        if number != str(here):
            return None, f"{move} leads to {here}, not to {number}"
        walk.append(int(move))
    if len(words) != 2 * STEPS:
        return None, f"{len(words)} words, not {2 * STEPS}"
    if here != problem.target:
        return None, f"arrives at {here}, not at {problem.target}"
    return tuple(walk), ""


def next_words(problem: Problem, so_far: str) -> dict[str, float]:
    """The exact distribution of the word after a beginning of a derivation, under the grammar.

    Raises InputError if no walk that arrives begins like this.
    """
    given = so_far.split()
    found: Counter = Counter()
    for walk in solutions(problem):
        words = [*derivation(problem, walk).split(), END]
        if words[:len(given)] == given and len(given) < len(words):
            found[words[len(given)]] += 1
    if not found:
        raise InputError(f"no walk of {problem.prompt!r} begins with {so_far!r}; give the beginning of one that arrives")
    return {word: n / found.total() for word, n in found.items()}


def problems(seed: int | str, held_out: bool = False) -> Iterator[tuple[Problem, tuple[int, ...]]]:
    """Endless problems, each with one walk that solves it, drawn evenly from all of its walks.

    The walk comes first and the target is where it ends: a problem is as likely as it has solutions.
    """
    rng, subsets = Random(f"problems/{held_out}/{seed}"), list(combinations(SIZES, CHOICES))
    while True:
        start, sizes = rng.randrange(RING), rng.choice(subsets)
        walk = tuple(rng.choice((1, -1)) * rng.choice(sizes) for _ in range(STEPS))
        problem = Problem(start, (start + sum(walk)) % RING, sizes)
        if problem.held_out == held_out:
            yield problem, walk


def distinct_problems(n: int, seed: int, held_out: bool = True) -> list[Problem]:
    """n different problems."""
    found: dict[Problem, None] = {}
    for problem, _ in problems(seed, held_out):
        found[problem] = None
        if len(found) == n:
            return list(found)
    raise AssertionError("problems never end")
