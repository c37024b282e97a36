"""The tutorial tasks: prompt pairs of the tutorial grammar. Held-out base prompts never occur in training."""

from __future__ import annotations

from mctrace_nb import grammar
from mctrace_nb.errors import InputError
from mctrace_nb.tasks.task import Task, encode, reader

SOURCE = "tutorial grammar (mctrace_nb/grammar.py)"


def load(name: str, model, n: int, seed: int) -> Task:
    """`n` fresh prompt pairs of a tutorial task: half for the search, half held out.

    Base prompts of the held-out half are combinations that never occur in training, and none of them is searched on. Their
    counterfactual prompts may be common ones (`the man said that`), in both halves.
    """
    words = set(model.tokenizer.get_vocab())
    unknown = sorted(set(grammar.vocabulary()) - words)
    if unknown:
        raise InputError(f"task {name!r} is made of the tutorial model's words, and {model.name!r} lacks "
                         f"{len(unknown)} of them ({', '.join(unknown[:3])}, ...); use model 'tutorial' or another task")
    halves = [[], []]
    for held_out in (False, True):
        count = n // 2 if held_out else n - n // 2
        try:
            pairs = grammar.pairs(name, count, seed, held_out)
        except ValueError as error:
            raise InputError(str(error)) from None
        halves[held_out] = tuple(encode(vars(pair), model.tokenizer, i) for i, pair in enumerate(pairs))
    return Task(name, halves[0], halves[1], SOURCE, seed, reader(model.tokenizer))
