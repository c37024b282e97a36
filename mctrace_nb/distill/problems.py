"""A grammar that branches: walks on a ring of numbers, with several valid derivations for each problem and an answer that can be checked.

    on tue from 3 to 11 by 2 5 7 : +5 8 -2 6 +5 11

The walk goes from the first number to the second in `STEPS` moves, each followed by the number it leads to. Moves have one of the given
sizes, forwards or backwards. Some roads are closed, other ones each day: which, stands in no prompt and has to be known by heart
(`is_open`). All moves but the last are free: whoever writes draws them evenly from the open roads, without looking ahead, and is uncertain
there. The last move is the one that arrives, whatever it takes: if that is none of the given sizes, or a closed road, the derivation is
wrong. So numbers and last moves are certain, whether a derivation is right is decided by the free moves, and to try again helps only
those who then move otherwise. The probability of every next word (`next_words`) and of a right derivation (`success`) is known exactly.

A problem belongs either to the training text or to the held-out problems, decided by a checksum. Nothing here knows torch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from random import Random
from typing import Iterator, Sequence

from mctrace_nb.errors import InputError

__all__ = ["ANSWER_TOKENS", "Problem", "derivation", "distinct_problems", "next_words", "problems", "read", "solutions", "success", "texts"]

RING = 20  # numbers 0 .. 19; 19 is followed by 0
SIZES = range(1, 10)  # of a move, below half the ring, so that forwards and backwards lead to different numbers
CHOICES = 3  # sizes that a problem allows
STEPS = 3  # the last one included
DAYS = ("mon", "tue")
CLOSED_SHARE = 0.4  # of the roads, each day
HELD_OUT_SHARE = 0.2
END = "<eos>"
ANSWER_TOKENS = 2 * STEPS + 1  # of a derivation with its end


@dataclass(frozen=True)
class Problem:
    """Go from `start` to `target` by moves of these sizes, on this day.

        >>> problem = mct.distill.problems.distinct_problems(1, seed=0)[0]
        >>> problem.prompt, problem.held_out
        ('on tue from 4 to 9 by 1 4 5 :', True)
    """

    day: str
    start: int
    target: int
    sizes: tuple[int, ...]

    @property
    def prompt(self) -> str:
        return f"on {self.day} from {self.start} to {self.target} by {' '.join(map(str, self.sizes))} :"

    @property
    def moves(self) -> tuple[int, ...]:
        """What has an allowed size, signed."""
        return tuple(sign * size for size in self.sizes for sign in (1, -1))

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.prompt.encode()) % 1000 < 1000 * HELD_OUT_SHARE

    def free(self, here: int) -> tuple[int, ...]:
        """Moves among which a free one is drawn at a number: those on open roads, or all if there is none."""
        return tuple(move for move in self.moves if is_open(self.day, here, move)) or self.moves


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    return ["on", *DAYS, "from", "to", "by", ":", *map(str, range(RING)), *map(word, range(-RING // 2 + 1, RING // 2 + 1))]


def word(move: int) -> str:
    return f"{move:+d}"


@lru_cache(None)
def is_open(day: str, here: int, move: int) -> bool:
    """The map: a checksum decides, so that it needs no file and never moves."""
    return zlib.crc32(f"{day} {here} {move}".encode()) % 1000 >= 1000 * CLOSED_SHARE


def last_move(here: int, target: int) -> int:
    """The move that arrives, forwards or backwards, whichever is shorter."""
    ahead = (target - here) % RING
    return ahead if ahead <= RING // 2 else ahead - RING


def _beginnings(problem: Problem) -> list[tuple[int, tuple[int, ...], float]]:
    """Where each choice of free moves leads, the choice, and its probability."""
    found = [(problem.start, (), 1.0)]
    for _ in range(STEPS - 1):
        found = [((here + move) % RING, (*walk, move), p / len(problem.free(here))) for here, walk, p in found for move in problem.free(here)]
    return found


def _right(problem: Problem) -> list[tuple[tuple[int, ...], float]]:
    """All right walks of the grammar, with their probabilities."""
    whole = [((*walk, last_move(here, problem.target)), p) for here, walk, p in _beginnings(problem)]
    return [(walk, p) for walk, p in whole if not fault(problem, walk)]


def solutions(problem: Problem) -> list[tuple[int, ...]]:
    """All right walks, as signed moves.

        >>> problem = next(mct.distill.problems.problems(seed=0))
        >>> mct.distill.problems.solutions(problem)
        [(1, 5, 1), (7, 5, -5), (7, -5, 5)]
    """
    return [walk for walk, _ in _right(problem)]


def success(problem: Problem) -> float:
    """The probability that a derivation of the grammar is right: the Avg@k of whoever writes exactly like it.

        >>> round(mct.distill.problems.success(next(mct.distill.problems.problems(seed=0))), 2)
        0.25
    """
    return sum(p for _, p in _right(problem))


def derivation(problem: Problem, walk: Sequence[int]) -> str:
    """A walk as words: each move and the number it leads to.

        >>> problem = next(mct.distill.problems.problems(seed=0))
        >>> mct.distill.problems.derivation(problem, mct.distill.problems.solutions(problem)[0])
        '+1 12 +5 17 +1 18'
    """
    here, words = problem.start, []
    for move in walk:
        here = (here + move) % RING
        words += [word(move), str(here)]
    return " ".join(words)


def fault(problem: Problem, walk: Sequence[int]) -> str:
    """What is wrong with the moves of a walk that arrives; "" if nothing is."""
    here = problem.start
    for move in walk:
        if move not in problem.moves:
            return f"{word(move)} is no move of this problem"
        if not is_open(problem.day, here, move):
            return f"{word(move)} from {here} is closed on {problem.day}"
        here = (here + move) % RING
    return ""


def read(problem: Problem, text: str) -> tuple[tuple[int, ...] | None, str]:
    """The walk that a derivation describes, and "" if it solves the problem; else None and what is wrong with it.

        >>> problem = next(mct.distill.problems.problems(seed=0))
        >>> mct.distill.problems.read(problem, "+1 12 +5 17 +1 18"), mct.distill.problems.read(problem, "+1 12")
        (((1, 5, 1), ''), (None, '2 words, not 6'))
    """
    words, here, walk = text.split(), problem.start, []
    for move, number in zip(words[::2], words[1::2]):
        if move[0] not in "+-":
            return None, f"{move!r} is no move"
        wrong = fault(Problem(problem.day, here, problem.target, problem.sizes), [int(move)])
        if wrong:
            return None, wrong
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

    Raises InputError if no derivation of the grammar begins like this.

        >>> problem = next(mct.distill.problems.problems(seed=0))
        >>> mct.distill.problems.next_words(problem, "")
        {'+1': 0.25, '+5': 0.25, '-5': 0.25, '+7': 0.25}
    """
    given, here = so_far.split(), problem.start
    for i, said in enumerate([*given, None]):
        if i == 2 * STEPS:
            can = [END]
        elif i % 2:
            can = [str(here := (here + int(given[i - 1])) % RING)]
        else:
            can = [word(move) for move in (problem.free(here) if i < 2 * STEPS - 2 else [last_move(here, problem.target)])]
        if said is None:
            return {w: 1 / len(can) for w in can}
        if said not in can:
            break
    raise InputError(f"no derivation of {problem.prompt!r} begins with {so_far!r}; give the beginning of one")


def problems(seed: int | str, held_out: bool = False) -> Iterator[Problem]:
    """Endless problems that can be solved, each with the same probability.

        >>> next(mct.distill.problems.problems(seed=0)).prompt
        'on tue from 11 to 18 by 1 5 7 :'
    """
    rng, subsets = Random(f"problems/{held_out}/{seed}"), list(combinations(SIZES, CHOICES))
    while True:
        problem = Problem(rng.choice(DAYS), rng.randrange(RING), rng.randrange(RING), rng.choice(subsets))
        if problem.held_out == held_out and _right(problem):
            yield problem


def texts(seed: int | str, careless: float = 0.0) -> Iterator[tuple[Problem, str]]:
    """Endless training problems with a derivation of the grammar each; or poorer ones, of which a student becomes poor.

    careless: probability with which a number or a last move is replaced by any one, after which the walk goes on from what stands
    there.

        >>> problem, text = next(mct.distill.problems.texts(seed=0))
        >>> problem.prompt, text
        ('on tue from 11 to 18 by 1 5 7 :', '+5 16 +5 1 -3 18')
    """
    rng = Random(f"texts/{seed}")
    for problem in problems(seed):
        here, words = problem.start, []
        for step in range(STEPS):
            if step < STEPS - 1:
                move = rng.choice(problem.free(here))
            else:
                move = rng.randrange(-RING // 2 + 1, RING // 2 + 1) if rng.random() < careless else last_move(here, problem.target)
            here = rng.randrange(RING) if rng.random() < careless else (here + move) % RING
            words += [word(move), str(here)]
        yield problem, " ".join(words)


def distinct_problems(n: int, seed: int, held_out: bool = True) -> list[Problem]:
    """n different problems.

        >>> len(mct.distill.problems.distinct_problems(5, seed=0))
        5
    """
    found: dict[Problem, None] = {}
    for problem in problems(seed, held_out):
        found[problem] = None
        if len(found) == n:
            return list(found)
    raise AssertionError("problems never end")
