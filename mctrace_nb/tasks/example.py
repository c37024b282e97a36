"""Example: one prompt pair in token ids."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """One prompt pair in token ids.

    target is the answer that the counterfactual prompt favours, foil the one the base prompt favours. subject: first
    and last + 1 token of the span that noise or `positions="subject"` act on. group: prompts of one template share it.
    cohort: the population that the prompt is about, for example "female" for a profession of that stereotype.

        >>> example = mct.Example(base=(5, 6), counterfactual=(7, 6), target=(8,), foil=(9,))
        >>> example.first_difference
        0
    """

    base: tuple[int, ...]
    counterfactual: tuple[int, ...]
    target: tuple[int, ...]
    foil: tuple[int, ...]
    group: str = ""
    subject: tuple[int, int] | None = None
    number: int | None = field(default=None, compare=False)  # its place in what the user gave
    cohort: str = ""
    unit: str = field(default="prompt", compare=False)  # what `number` counts: prompts of a list, lines of a file

    def called(self, place: int) -> str:
        """How errors name it: by the user's numbering where that is known, else by its place in its half."""
        return f"prompt {place}" if self.number is None else f"{self.unit} {self.number}"

    @property
    def first_difference(self) -> int:
        """Index of the first token in which the prompts differ; the length of the shorter one if there is none."""
        pairs = zip(self.base, self.counterfactual)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.base), len(self.counterfactual)))
