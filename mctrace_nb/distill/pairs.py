"""Student and teacher as a pair: do they share a vocabulary, how does either say that it is done, and what do both think of a text."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mctrace_nb.errors import InputError

__all__ = ["Pair", "pair"]


@dataclass(frozen=True)
class Pair:
    """Two causal LMs over one vocabulary, made by `pair`. vocabulary: number of words; what a model's logits hold beyond is padding.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> both = mct.distill.pairs.pair(mct.distill.experiment.load_student()[0], teacher, tokenizer)
        >>> both.end == both.teacher_end
        True
    """

    student: nn.Module
    teacher: nn.Module
    vocabulary: int
    end: int  # the student's end of text
    teacher_end: int
    pad: int

    def teacher_logp(self, rollouts) -> Tensor:
        """The teacher's log-probabilities `(B, T, V)` of what the student may say, without gradient.

        Where the two end texts by different words, the teacher's end stands in the student's place and the other way round: a student
        that could not be told to end would write until it is cut off.
        """
        with torch.no_grad():
            logp = answer_logp(self.teacher, rollouts, self.vocabulary)
        if self.end != self.teacher_end:
            order = torch.arange(self.vocabulary, device=logp.device)
            order[[self.end, self.teacher_end]] = order[[self.teacher_end, self.end]]
            logp = logp[..., order]
        return logp

    def student_logp(self, rollouts) -> Tensor:
        """The student's log-probabilities `(B, T, V)`, with gradient where it is enabled."""
        return answer_logp(self.student, rollouts, self.vocabulary)


def pair(student: nn.Module, teacher: nn.Module, student_tokenizer, teacher_tokenizer=None) -> Pair:
    """Checks that two Hugging Face causal LMs can be distilled into one another. teacher_tokenizer: default the student's.

    Raises InputError if they do not share every word with its id, if their logits do not cover the words, if one of them has no end of
    text, or if teacher and student are one and the same module.

        >>> teacher, tokenizer = mct.distill.experiment.load_teacher()
        >>> both = mct.distill.pairs.pair(mct.distill.experiment.load_student()[0], teacher, tokenizer)
        >>> both.vocabulary
        51
    """
    if student is teacher:
        raise InputError("student and teacher are one module, which would change while it teaches; load it twice")
    mine, its = student_tokenizer.get_vocab(), (teacher_tokenizer or student_tokenizer).get_vocab()
    if mine != its:
        differ = sorted(word for word in {*mine, *its} if mine.get(word) != its.get(word))
        word = differ[0]
        raise InputError(f"student and teacher do not share a vocabulary: {len(differ)} words differ, {word!r} has id {mine.get(word)} and "
                         f"{its.get(word)}; give two models of one family")
    vocabulary = max(mine.values()) + 1
    for who, model in (("student", student), ("teacher", teacher)):
        said = model.get_output_embeddings().weight.shape[0]
        if said < vocabulary:
            raise InputError(f"the {who} says {said} words, its tokenizer knows {vocabulary}; model and tokenizer do not belong together")
    ends = [t.eos_token_id for t in (student_tokenizer, teacher_tokenizer or student_tokenizer)]
    for who, end in zip(("student", "teacher"), ends):
        if end is None or not 0 <= end < vocabulary:
            raise InputError(f"the {who}'s end of text is {end!r}, which is no word of the shared vocabulary; set tokenizer.eos_token")
    pad = student_tokenizer.pad_token_id
    return Pair(student, teacher, vocabulary, ends[0], ends[1], ends[0] if pad is None else pad)


def places(mask: Tensor) -> Tensor:
    """Positions `(B, L)` of tokens under a mask: the first token of a text padded on the left is at 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def call(model: nn.Module, **given):
    """A forward pass with those arguments that this family knows."""
    known = inspect.signature(model.forward).parameters
    return model(**{name: value for name, value in given.items() if name in known})


def check_room(model: nn.Module, tokens: int) -> None:
    """Raises InputError if a text of so many tokens has more than the model has positions for."""
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and tokens > room:
        raise InputError(f"{tokens} tokens do not fit into the {room} positions of {type(model).__name__}; give shorter prompts, or fewer new tokens")


def answer_logp(model: nn.Module, rollouts, vocabulary: int) -> Tensor:
    """Log-probabilities `(B, T, V)` before each answer token of rollouts (`rollouts.Rollouts`). In float32 at least.

    Raises InputError if the texts are longer than the model can read.
    """
    length = rollouts.tokens.shape[1]
    mask = rollouts.mask[:, :-1]
    check_room(model, mask.shape[1])
    logits = call(model, input_ids=rollouts.ids[:, :-1], attention_mask=mask.long(), position_ids=places(mask), use_cache=False,
                  logits_to_keep=length).logits
    logits = logits[:, -length:, :vocabulary]
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
