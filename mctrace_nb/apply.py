"""A selection at work: the model itself runs, speaks and generates with the chosen components replaced."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Sequence

import torch

from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.mixing import Mixture
from mctrace_nb.results import Selection
from mctrace_nb.tasks.encode import Encoder


def applicable(selection: Selection) -> bool:
    """Whether a selection can be applied outside its trace: noise and means belong to the prompts of the trace, and where zeros
    are put at some positions only, it is not known which those are in another text."""
    return selection.corruption == "counterfactual" or (selection.corruption == "zero" and selection.positions == "all")


def _token_ids(lm: LanguageModel, prompt: str | Sequence[int]) -> torch.Tensor:
    """A prompt as `(1, T)` token ids on the model's device."""
    ids = lm.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    if isinstance(prompt, str):
        wrong = Encoder(lm.tokenizer).unreadable("prompt", prompt, tuple(ids))
        if wrong:
            raise InputError(wrong[0])
    elif not ids:
        raise InputError("the prompt has no tokens; give at least one")
    return torch.tensor([ids], device=lm.device)


@contextmanager
def apply(selection: Selection, lm: LanguageModel, counterfactual: str | Sequence[int] | None = None,
          subject: tuple[int, int] | None = None) -> Iterator[LanguageModel]:
    """Inside the context `lm.model` runs with the selection's components replaced, in every call, `generate` included.

    counterfactual: the prompt (text or token ids) that the values come from, for selections of that corruption. A prompt
    run inside must have as many tokens, without padding; its components are replaced at the selection's positions, and
    tokens generated after it are left alone. subject: first and last + 1 token for a selection at positions="subject", by
    default from the first to the last token in which the two prompts differ. A selection of corruption "zero" is replaced
    at every token, generated ones included, and takes any prompt. A selection may be applied to another model that has
    components of these names. The model is open to nothing else meanwhile, and afterwards bit for bit what it was.

    `generate` needs its cache and reads the prompt in one piece (no `use_cache=False`, no `prefill_chunk_size`).

    Raises InputError for a selection without kinds (it was not made by a search) or with components that the model lacks,
    for noise and means (they belong to the prompts of a trace), and inside for a prompt that does not fit.
    """
    if not selection.kinds:
        raise InputError(f"{selection.method}: this selection does not say of which kind its components are; make it by a "
                         "search, or give Selection(kinds=...)")
    if not applicable(selection):
        raise InputError(f"a selection with corruption {selection.corruption!r} at positions={selection.positions!r} belongs to the "
                         "prompts of its trace; search with corruption='counterfactual', or 'zero' at positions='all', to apply it")
    if (counterfactual is None) != (selection.corruption == "zero"):
        raise InputError("give counterfactual=..., the prompt that the values come from" if counterfactual is None else
                         "corruption 'zero' takes no counterfactual prompt; leave it out")
    components = lm.components(selection.kinds)
    mask = components.mask(selection.components).float()
    weights = {key: mask[where][None].to(lm.device) for key, where in components.slices.items() if mask[where].any()}
    other = None if counterfactual is None else _token_ids(lm, counterfactual)
    with Session(lm) as session:
        values = dict.fromkeys(weights) if other is None else _recorded(session, weights, other)

        def before(_, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None)
            if ids is None:
                raise InputError("inside apply() the model takes input_ids, not embeddings")
            cache = kwargs.get("past_key_values")
            first = cache is None or cache.get_seq_length() == 0
            session.mixture = None
            if other is None or first:
                chosen = _chosen(ids, kwargs.get("attention_mask"), other, selection.positions, subject)
                at = chosen.nonzero()  # (c, 2): row and token
                put = {site: x if x is None or isinstance(x, tuple) else x[at[:, 1].to(x.device)] for site, x in values.items()}
                session.mixture = Mixture(weights, put, at[:, 0] * ids.shape[1] + at[:, 1])

        handle = lm.model.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield lm
        finally:
            handle.remove()


def _recorded(session: Session, sites: dict, ids: torch.Tensor) -> dict:
    """What the components say on one prompt, `(T, ...)` for each (kind, layer)."""
    session.record = dict.fromkeys(sites)
    with torch.no_grad():
        session.lm.model(input_ids=ids)
    found, session.record = session.record, None
    return found


def _chosen(ids: torch.Tensor, attention_mask, other: torch.Tensor | None, positions: str,
            subject: tuple[int, int] | None) -> torch.Tensor:
    """(B, T): where components are replaced in a forward pass over a whole prompt."""
    if other is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if ids.shape[1] != other.shape[1]:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, its counterfactual {other.shape[1]}; values are put where they "
                         "come from, so give prompts of equal length")
    if attention_mask is not None and not bool(attention_mask.bool().all()):
        raise InputError("the prompts inside apply() are padded; run prompts of one length at a time")
    at = torch.arange(ids.shape[1], device=ids.device)
    if positions == "last":
        return (at == ids.shape[1] - 1).expand(ids.shape)
    if positions == "subject" and subject is not None:
        return ((at >= subject[0]) & (at < subject[1])).expand(ids.shape)
    if positions == "subject":
        differ = (ids != other).int()
        return (differ.cummax(1).values & differ.flip(1).cummax(1).values.flip(1)).bool()
    return torch.ones_like(ids, dtype=torch.bool)


def next_tokens(lm: LanguageModel, prompt: str | Sequence[int], selection: Selection | None = None,
                counterfactual: str | Sequence[int] | None = None, subject: tuple[int, int] | None = None, top: int = 5):
    """A frame of the most likely next tokens after a prompt: token, id, probability; with a selection applied, if given.

    counterfactual, subject: as in `apply`. top: rows. Raises InputError for an empty prompt, an unknown word, or a selection that cannot be applied so (see `apply`).

        >>> mct.next_tokens(model, "the nurse said that", top=2).round(3)
          token   id  probability
        0   she  139        0.927
        1    he   84        0.072
    """
    import pandas as pd

    ids = _token_ids(lm, prompt)
    logits = _with(selection, lm, (counterfactual, subject), lambda: lm.model(input_ids=ids).logits[0, -1].float())
    best = logits.softmax(-1).topk(min(top, len(logits)))
    return pd.DataFrame([dict(token=lm.tokenizer.decode([i]), id=i, probability=p)
                         for p, i in zip(best.values.tolist(), best.indices.tolist())])


def continuation(lm: LanguageModel, prompt: str | Sequence[int], selection: Selection | None = None,
                 counterfactual: str | Sequence[int] | None = None, subject: tuple[int, int] | None = None,
                 tokens: int = 20) -> str:
    """What the model writes after a prompt, greedily, up to so many tokens; with a selection applied, if given.

    Raises InputError as `next_tokens` does.

        >>> mct.continuation(model, "the nurse said that", tokens=4)
        'she was happy .'
    """
    ids = _token_ids(lm, prompt)
    end = lm.tokenizer.eos_token_id
    made = _with(selection, lm, (counterfactual, subject), lambda: lm.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
        pad_token_id=0 if end is None else end))
    return lm.tokenizer.decode(made[0, ids.shape[1]:].tolist(), skip_special_tokens=True)


def _with(selection: Selection | None, lm: LanguageModel, values_from: tuple, run):
    with torch.no_grad():
        if selection is None:
            return run()
        with apply(selection, lm, *values_from):
            return run()
