"""What teacher and students are traced on: four behaviours of the branching grammar, as tasks of prompt pairs.

    road     on MON from 3 to 11 by 2 5 7 :              which first move is open? It stands in no prompt: the map is known by heart.
    size     on mon from 3 to 11 by 2 5 7* :          which first move has an allowed size?
    sum      on mon from 3 to 11 by 2 5 7 : +5           where does the move lead? FROM another start, elsewhere.
    arrive   on mon from 3 TO 11 by 2 5 7 : +5 8 -2 6    which move arrives? To another target, another one.

What is written large or starred changes in the counterfactual prompt. The teacher is unsure at the first two, where its gate opens, and sure at the others.
"""

from __future__ import annotations

from random import Random

from mctrace_nb.distill.problems import CHOICES, DAYS, RING, SIZES, Problem, derivation, is_open, last_move, problems, word
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.tasks import Task

__all__ = ["BEHAVIOURS", "behaviour"]

BEHAVIOURS = ("road", "size", "sum", "arrive")
UNSURE = ("road", "size")  # where the grammar forks


def behaviour(name: str, model, n: int = 64, seed: int = 0) -> Task:
    """n prompt pairs to search on and n held-out ones of one behaviour, from problems that no training text holds; each problem occurs once.

    model: a `LanguageModel` of the grammar. Raises InputError for a name or a number that there is not.

        >>> from mctrace_nb.distill import experiment
        >>> teacher, tokenizer = experiment.load_teacher()
        >>> traced = mct.load_model(teacher, tokenizer=tokenizer)
        >>> task = mct.distill.behaviours.behaviour("arrive", traced, n=4)
        >>> task.text(task.search[0].base)
        'on mon from 17 to 15 by 1 2 5 : -2 15 -2 13'
    """
    one_of(name, BEHAVIOURS, "behaviour")
    if n < 2:
        raise InputError(f"n={n!r} is too few prompt pairs; give at least 2")
    rng, found = Random(f"{name}/{seed}"), {}
    for problem in problems(f"behaviours/{name}/{seed}", held_out=True):
        if pair := _PAIRS[name](problem, rng):
            base, counterfactual, target, foil = pair
            found.setdefault(problem, dict(base=base, counterfactual=counterfactual, target=f" {target}", foil=f" {foil}"))
        if len(found) == 2 * n:
            break
    return Task.from_pairs(list(found.values()), model, name=name, heldout=0.5, seed=seed, source="the branching grammar")


def _road(problem: Problem, rng: Random) -> tuple | None:
    """Another day: the target is open then and closed now, the foil the other way round."""
    other = Problem(next(day for day in DAYS if day != problem.day), problem.start, problem.target, problem.sizes)
    now, then = (set(p.free(p.start)) for p in (problem, other))
    if now - then and then - now:
        return problem.prompt, other.prompt, word(rng.choice(sorted(then - now))), word(rng.choice(sorted(now - then)))
    return None


def _size(problem: Problem, rng: Random) -> tuple | None:
    """Another size among those allowed: the target is an open move of the new one, the foil of the old one."""
    i = rng.randrange(CHOICES)
    below, above = (0, *problem.sizes)[i], (*problem.sizes, SIZES[-1] + 1)[i + 1]  # sizes stand in order in every prompt
    others = [size for size in range(below + 1, above) if size != problem.sizes[i]]
    if not others:
        return None
    new = rng.choice(others)
    other = Problem(problem.day, problem.start, problem.target, (*problem.sizes[:i], new, *problem.sizes[i + 1:]))
    now, then = ([move for move in (size, -size) if is_open(problem.day, problem.start, move)] for size in (problem.sizes[i], new))
    if now and then:
        return problem.prompt, other.prompt, word(rng.choice(then)), word(rng.choice(now))
    return None


def _sum(problem: Problem, rng: Random) -> tuple | None:
    """Another start, from which the same move leads elsewhere. It is an open one on both."""
    other = Problem(problem.day, (problem.start + rng.randrange(1, RING)) % RING, problem.target, problem.sizes)
    moves = sorted({*problem.free(problem.start)} & {*other.free(other.start)})
    if moves:
        move = rng.choice(moves)
        return (f"{problem.prompt} {word(move)}", f"{other.prompt} {word(move)}", str((other.start + move) % RING), str((problem.start + move) % RING))
    return None


def _arrive(problem: Problem, rng: Random) -> tuple | None:
    """Another target, at which another last move arrives; both of an allowed size, so that the grammar could go on with either."""
    walk, here = [], problem.start
    for _ in range(2):
        walk.append(rng.choice(problem.free(here)))
        here = (here + walk[-1]) % RING
    other = Problem(problem.day, problem.start, (here + rng.choice(problem.moves)) % RING, problem.sizes)
    answers = [last_move(here, p.target) for p in (other, problem)]
    if answers[0] != answers[1] and set(answers) <= set(problem.moves) and all(is_open(problem.day, here, a) for a in answers):
        text = derivation(problem, walk)
        return f"{problem.prompt} {text}", f"{other.prompt} {text}", word(answers[0]), word(answers[1])
    return None


_PAIRS = {"road": _road, "size": _size, "sum": _sum, "arrive": _arrive}
