"""A planted circuit: its parts, its prompts, and which edges are the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from mctrace_nb.circuits import ANSWER, EMBED
from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.tasks import Example, Task

BITS = 3
TOKENS = 2 ** BITS  # a token for every pattern of bits; two more are the answers
LENGTH = 8  # of a prompt, in tokens


@dataclass
class Part:
    """A planted component: what it does with which parents. look, at: where a head looks; asks: whose bits a head with look="match"
    takes to the place with these bits; gate: what an MLP makes of its two parents; turn: permutation and signs of the bits it writes.

        >>> found = mct.planted.twins()
        >>> found.parts["L0H1"].parents
        {'embed'}
    """

    name: str
    reads: list[str]
    look: str = ""
    at: int = 0
    asks: str = ""
    gate: str = ""
    turn: list[tuple[int, int]] = field(default_factory=list)

    @property
    def parents(self) -> set[str]:
        """Nodes that it hears: of a head with look="match" also whom it asks with, and the tokens that it compares."""
        return {*self.reads, *({self.asks, EMBED} if self.asks else ())}


@dataclass(frozen=True)
class Planted:
    """A model with its circuit. parts: planted components by name. ends: what the answer reads. seed: of its weights. edges: the truth.

        >>> found = mct.planted.twins()
        >>> base, counterfactual = found.prompts(10)
        >>> len(base), sorted(found.parts), len(found.task(10).search)
        (10, ['L0H1', 'L0H2', 'L0H3'], 5)
    """

    model: LanguageModel
    parts: dict[str, Part]
    ends: tuple[str, ...]
    seed: int

    @property
    def edges(self) -> set[tuple[str, str]]:
        """The edges on the way to the answer."""
        found, heard = {(end, ANSWER) for end in self.ends}, list(self.ends)
        for name in heard:  # grows while it is read
            if name in self.parts:
                found |= {(parent, name) for parent in self.parts[name].parents}
                heard += [parent for parent in sorted(self.parts[name].parents) if parent not in heard]
        return found

    def task(self, n: int = 64, seed: int = 0) -> Task:
        """n prompt pairs to trace, half of them held out."""
        pairs = self.prompts(n, seed)
        first = self.says(pairs[0]) > 0
        words = [self.answers if s else self.answers[::-1] for s in first]  # foil, target
        examples = tuple(Example(base, other, (target,), (foil,), "", None) for base, other, (foil, target) in zip(*pairs, words))
        return Task(self.model.name, examples[:n // 2], examples[n // 2:])

    @property
    def answers(self) -> tuple[int, int]:
        """The two words the model chooses from."""
        return TOKENS, TOKENS + 1

    def prompts(self, n: int, seed: int = 0) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """n pairs of random prompts; the counterfactual's answer is the other one. Raises InputError if there are none."""
        rng, found = np.random.default_rng([seed, self.seed]), ([], [])
        for _ in range(50):
            drawn = rng.integers(0, TOKENS, (4 * n, LENGTH))
            said = self.says(drawn)
            for side, rows in zip(found, (drawn[said > 0], drawn[said < 0])):
                side += [tuple(map(int, row)) for row in rows]
            if min(map(len, found)) >= n:
                first = rng.integers(0, 2, n)
                return tuple([found[s ^ w][i] for i, s in enumerate(first)] for w in (0, 1))
        raise InputError(f"planted model {self.seed} hardly ever gives one of its two answers")

    @torch.no_grad()
    def says(self, prompts) -> np.ndarray:
        """`(n,)` logit of the first answer minus that of the second."""
        logits = self.model.model(input_ids=torch.as_tensor(np.asarray(prompts)), use_cache=False).logits[:, -1]
        return (logits[:, self.answers[0]] - logits[:, self.answers[1]]).numpy()
