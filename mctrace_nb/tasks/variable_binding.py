"""Arithmetic with two variables, generated here: which part of a model carries the values, which the operation?

The two tasks are made to be used together: `variable_binding` changes a value (value dependence: components that carry
values must move the answer), `variable_binding_operation` changes the operation (operation invariance: they must not).
After Davies, Nadeau, Prakash, Shaham, Bau: Discovering Variable Binding Circuitry with Desiderata, arXiv 2307.03637.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mctrace_nb.errors import InputError
from mctrace_nb.tasks.datasets import Request
from mctrace_nb.tasks.encode import Encoder, Reader
from mctrace_nb.tasks.example import Example
from mctrace_nb.tasks.task import Task

Values = tuple[int, int]
# Sum and difference have two digits, so that an answer tells nothing about the operation.
ALL = [(x, y) for x in range(10, 100) for y in range(10, 100) if x + y <= 99 and x - y >= 10]


def _say(values: Values, operation: str) -> tuple[str, str]:
    """Prompt and answer."""
    x, y = values
    return f"x = {x}, y = {y}. x {operation} y =", f" {x + y if operation == '+' else x - y}"


def _pairs(values: bool, pool: list[Values], seed: int):
    """One pair for each combination of values in the pool; counterfactual values are of the same pool.

    The base prompt depends on the seed and its values alone: it is the same in both tasks.
    """
    for base in pool:
        rng = Random(f"{seed}/{base}")
        operation = rng.choice("+-")
        other, other_operation = base, "-" if operation == "+" else "+"
        if values:
            near = [v for v in pool if (v[0] == base[0]) != (v[1] == base[1])]  # exactly one value differs
            if not near:
                continue
            other, other_operation = rng.choice(near), operation
        (prompt, foil), (counterfactual, target) = _say(base, operation), _say(other, other_operation)
        yield dict(base=prompt, counterfactual=counterfactual, target=target, foil=foil, group="{},{}".format(*base))


@dataclass(frozen=True)
class VariableBinding:
    """`n` fresh pairs; values: whether a value changes or (False) the operation.

    The combinations of values are shared out among the halves before pairs are made, so none is in both, and the two tasks
    of one seed have the same base prompts. Pairs that the tokenizer does not align are passed over.
    """

    values: bool
    variants: tuple[tuple[str, ...], ...] = ()
    count: str = "fresh pairs for each seed, up to 1,260"

    def load(self, request: Request, model) -> Task:
        n, share = request.n or 0, request.heldout
        if n < 2:
            raise InputError(f"n={request.n!r}: {request.name} makes fresh pairs; say how many, at least 2")
        encoder = Encoder(model.tokenizer, request.chat, request.aligned)
        pool = Random(f"variable_binding/{request.seed}").sample(ALL, len(ALL))
        kept_out, cut = max(int(n * share), share > 0), int(len(ALL) * share)
        halves = [self._draw(pool[cut:], n - kept_out, encoder, request), self._draw(pool[:cut], kept_out, encoder, request)]
        source = "generated (mctrace_nb/tasks/variable_binding.py)"
        return Task(request.name, *halves, source, request.seed, Reader(model.tokenizer))

    def _draw(self, pool: list[Values], n: int, encoder: Encoder, request: Request) -> tuple[Example, ...]:
        examples, problem = [], ""
        for pair in _pairs(self.values, pool, request.seed):
            if len(examples) == n:
                break
            try:
                examples.append(encoder.example(pair, len(examples)))
            except InputError as error:
                problem = f"; for example {error}"
        if len(examples) < n:
            raise InputError(f"{request.name}: {n} pairs asked for in one half, {len(examples)} can be made; ask for fewer"
                             + problem)
        return tuple(examples)
