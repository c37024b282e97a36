"""From the texts of a prompt pair to token ids: the only place where prompts and answers are tokenised."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Mapping
from unicodedata import east_asian_width

from mctrace_nb.errors import InputError
from mctrace_nb.tasks.example import Example

PROMPTS, ANSWERS = ("base", "counterfactual"), ("target", "foil")
REQUIRED = (*PROMPTS, *ANSWERS)


class Reader:
    """Writes token ids as text: `reader(ids)` without special tokens, `reader.pieces(ids)` each token as it is."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def pieces(self, ids) -> list[str]:
        named = getattr(self.tokenizer, "convert_ids_to_tokens", lambda ids: [self.tokenizer.decode([i]) for i in ids])
        return named(list(ids))


def absent(value) -> bool:
    """None, an empty text, and NaN (an empty cell of a table) are no value; 0 is one."""
    return value is None or value == "" or value != value


class Encoder:
    """Turns prompt pairs into Examples and says everything that is wrong with a pair.

    chat: each prompt becomes the user's message under the tokenizer's chat template, with the generation prompt; the
    template holds the special tokens, so none are added again. aligned: prompts must agree token by token but for what
    differs. spaced: an answer that begins with a letter or digit gets a space before it where the prompt ends without
    one (never in a chat, nor before Chinese, Japanese or Korean characters).

    Raises InputError for chat without a chat template.
    """

    def __init__(self, tokenizer, chat: bool = False, aligned: bool = True, spaced: bool = True):
        if chat and not getattr(tokenizer, "chat_template", None):
            raise InputError("chat=True needs a tokenizer with a chat template, and this model's has none; use chat=False "
                             "or an instruction-tuned model")
        self.tokenizer, self.chat, self.aligned, self.spaced = tokenizer, chat, aligned, spaced
        self.options = dict(add_special_tokens=False) if chat else {}
        self.known: dict[str, tuple[int, ...]] = {}  # many pairs share a prompt

    def example(self, pair: Mapping, number: int = 0, unit: str = "prompt", required: tuple[str, ...] = REQUIRED) -> Example:
        """One pair as an Example; without a counterfactual (data for `corruption="noise"`) it repeats the base prompt.

        Raises one InputError with all that is wrong, each naming the pair (`prompt 3: ...`) and the repair.
        """
        problems: list[str] = []
        lacking = [key for key in required if absent(pair.get(key))]
        if lacking:
            problems.append(f"{', '.join(lacking)} is missing or empty; give {', '.join(required[:-1])} and {required[-1]}")
        problems += [f"{key} is {pair[key]!r}, not text; put it in quotes" for key in (*REQUIRED, "subject")
                     if not absent(pair.get(key)) and not isinstance(pair[key], str)]
        if problems:
            raise _all(problems, unit, number)
        prompts = {side: self._prompt(pair[side]) for side in PROMPTS if not absent(pair.get(side))}
        ids = {side: self._ids(prompt) for side, prompt in prompts.items()}
        for side in prompts:
            problems += self.unreadable(side, pair[side], ids[side])
        if "counterfactual" not in ids:
            ids["counterfactual"] = ids["base"]
        elif not problems:
            problems += self._misaligned(pair["base"], **ids)
        # A blank after an answer would be a token of its own that nobody meant.
        answers = {side: self._answer(side, pair[side].rstrip() or pair[side], prompts["base"], ids["base"], problems) for side in ANSWERS}
        if answers["target"] and answers["target"] == answers["foil"]:
            problems.append(f"target and foil are the same answer {pair['target']!r}; they must differ")
        subject = _differing(**ids)
        if not absent(pair.get("subject")):
            subject = self._subject(pair["subject"], pair["base"], prompts["base"], problems)
        if problems:
            raise _all(problems, unit, number)
        return Example(**ids, **answers, group=_named(pair.get("group")), subject=subject, number=number,
                       cohort=_named(pair.get("cohort")), unit=unit)

    def _prompt(self, text: str) -> str:
        if not self.chat:
            return text
        return self.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                                  tokenize=False)

    def _ids(self, text: str) -> tuple[int, ...]:
        if text not in self.known:
            self.known[text] = tuple(self.tokenizer(text, **self.options)["input_ids"])
        return self.known[text]

    def unreadable(self, side: str, text: str, ids: tuple[int, ...]) -> list[str]:
        """What keeps the tokenizer from reading a text: no tokens, or words that it does not know."""
        tokenizer = self.tokenizer
        if not ids:
            return [f"{side} {text!r} gives no tokens; write at least one word"]
        unknown = tokenizer.unk_token_id  # GPT-2's is its end-of-text token, which no text is turned into
        if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) or unknown not in ids:
            return []
        odd = next((w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]), text)
        near = get_close_matches(odd.lower(), tokenizer.get_vocab(), 1)
        return [f"{side} {text!r} holds {odd!r}, which the tokenizer does not know"
                + (f"; did you mean {near[0]!r}?" if near else "") + " (its words: sorted(model.tokenizer.get_vocab()))"]

    def _misaligned(self, text: str, base: tuple[int, ...], counterfactual: tuple[int, ...]) -> list[str]:
        if base == counterfactual:
            return [f"base and counterfactual are the same, {text!r}; change what the behaviour depends on"]
        knob = "or trace at positions='last' (in Python with aligned=False too)"
        if self.aligned and len(base) != len(counterfactual):
            return [f"base has {len(base)} tokens, counterfactual {len(counterfactual)}; give prompts of equal length in "
                    f"tokens, {knob}"]
        moved = _shifted(base, counterfactual) if self.aligned else None
        if moved is None:
            return []
        first, second, size = moved
        run = self.tokenizer.decode(list(base[first:first + size])).strip()
        return [f"{run!r} stands at token {first} of base and at token {second} of counterfactual, so the prompts are not "
                f"aligned token by token; change words for words of as many tokens, {knob}"]

    def _answer(self, side: str, answer: str, prompt: str, ids: tuple[int, ...], problems: list[str]) -> tuple[int, ...]:
        """The answer's ids, cut out of the tokens of prompt + answer, so that spaces and prefixes come out right."""
        # A word after a word needs its space: " she" and "she" are different tokens for most tokenizers.
        parted = self.spaced and not self.chat and answer[0].isalnum() and east_asian_width(answer[0]) not in "WF"
        whole = self._ids(prompt + (" " if parted and not prompt[-1].isspace() else "") + answer)
        if whole[:len(ids)] != ids:
            problems.append(f"{side} {answer!r} changes the tokens of the prompt before it; start the answer with a space, "
                            "or end the prompt without one")
            return ()
        said = whole[len(ids):]
        problems += self.unreadable(side, answer, said)
        return said

    def _subject(self, subject: str, text: str, prompt: str, problems: list[str]) -> tuple[int, int] | None:
        """The tokens that any character of the subject lies in; the subject as a whole word goes before other places."""
        if not getattr(self.tokenizer, "is_fast", False):
            problems.append(f"subject {subject!r} cannot be found, because the tokenizer tells no character positions; leave "
                            "the subject out")
            return None
        subject = subject.strip()
        if not subject or subject not in text or subject not in prompt:
            problems.append(f"subject {subject!r} does not stand in base {text!r}; write it as it stands there")
            return None
        start = prompt.index(text) if text in prompt else 0  # a chat template may strip the message
        word = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt[start:])
        first = start + word.start() if word else prompt.index(subject, start)
        offsets = self.tokenizer(prompt, return_offsets_mapping=True, **self.options)["offset_mapping"]
        inside = [i for i, (a, b) in enumerate(offsets) if max(a, first) < min(b, first + len(subject))]
        return (inside[0], inside[-1] + 1)


def _all(problems: list[str], unit: str, number: int) -> InputError:
    return InputError("; ".join(f"{unit} {number}: {problem}" for problem in problems))


def _named(value) -> str:
    return "" if absent(value) else str(value)


def _differing(base: tuple[int, ...], counterfactual: tuple[int, ...]) -> tuple[int, int] | None:
    """The differing span of two equally long prompts."""
    differ = [i for i, (a, b) in enumerate(zip(base, counterfactual)) if a != b]
    return (differ[0], differ[-1] + 1) if differ and len(base) == len(counterfactual) else None


def _shifted(base: tuple[int, ...], counterfactual: tuple[int, ...]) -> tuple[int, int, int] | None:
    """A run of two or more tokens that stands a few places off in the other prompt: (place in base, in counterfactual, length).

    That is what a word of more tokens does to all that follows it. Only a shift that explains more than leaving the tokens in their
    places; two phrases of equal length that changed places are aligned, for what lies between them has not moved.
    """
    start, stop = _differing(base, counterfactual)
    ours, theirs = base[start:stop], counterfactual[start:stop]
    in_place = sum(a == b for a, b in zip(ours, theirs))
    for by in (1, -1, 2, -2, 3, -3):
        if abs(by) == 3 and in_place:  # the same two digits three places on, with the sign between them in its place, are chance
            continue
        run = 0
        for i in range(max(0, by), len(ours) + min(0, by) + 1):
            if i < len(ours) + min(0, by) and ours[i] == theirs[i - by]:
                run += 1
                continue
            first, second = i - run, i - run - by
            swapped = ours[second:second + run] == theirs[first:first + run]
            if run >= 2 and run > in_place and not swapped:
                return start + first, start + second, run
            run = 0
    return None
