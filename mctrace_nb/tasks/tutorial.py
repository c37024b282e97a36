"""The tutorial tasks: prompt pairs of the tutorial grammar. Held-out base prompts never occur in training."""

from __future__ import annotations

from dataclasses import dataclass

from mctrace_nb import grammar
from mctrace_nb.errors import InputError
from mctrace_nb.tasks.datasets import Request
from mctrace_nb.tasks.encode import REQUIRED, Encoder, Reader
from mctrace_nb.tasks.task import Task

SOURCE = "tutorial grammar (mctrace_nb/grammar.py)"


@dataclass(frozen=True)
class Tutorial:
    """A tutorial task, `n` fresh prompt pairs: one part for the search, the share `heldout` held out.

    Base prompts of the held-out part are combinations that never occur in training, and none of them is searched on. Their
    counterfactual prompts may be common ones (`the man said that`), in both parts.
    """

    variants: tuple[tuple[str, ...], ...] = ()
    count: str = "fresh pairs for each seed"

    def load(self, request: Request, model) -> Task:
        name, n = request.name, request.n or 0
        if n < 2:
            raise InputError(f"n={request.n!r} prompt pairs cannot be halved; give a whole number of at least 2")
        unknown = sorted(set(grammar.vocabulary()) - set(model.tokenizer.get_vocab()))
        if unknown:
            raise InputError(f"task {name!r} is made of the tutorial model's words, and {model.name!r} lacks "
                             f"{len(unknown)} of them ({', '.join(unknown[:3])}, ...); use model 'tutorial' or another task")
        encoder = Encoder(model.tokenizer, request.chat, request.aligned)
        kept_out = max(int(n * request.heldout), request.heldout > 0)
        halves = []
        for count, held_out in ((n - kept_out, False), (kept_out, True)):
            try:
                pairs = grammar.pairs(name, count, request.seed, held_out)
            except ValueError as error:
                raise InputError(str(error)) from None
            # What differs between the prompts is the subject.
            halves.append(tuple(encoder.example({key: getattr(pair, key) for key in (*REQUIRED, "group", "cohort")}, i)
                                for i, pair in enumerate(pairs)))
        return Task(name, *halves, SOURCE, request.seed, Reader(model.tokenizer))
