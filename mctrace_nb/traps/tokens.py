"""Traps of tokens: what is fed to the model is not what one thinks, or stands somewhere else."""

from __future__ import annotations

import torch

import mctrace_nb as mct
from mctrace_nb.traps.byhand import log_odds, replaced_by_place, spaced


def positions_wrong(lm, task, trace):
    e, pad = task.search[0], lm.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * 8 + [*e.base]])
    logits = lm.model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, -1]
    return log_odds(logits, [e]).item()


def positions_right(lm, task, trace):
    return trace.base_values[0].item()


def gap_wrong(lm, task, trace):
    texts = [task.text(e.base) for e in task.search]
    batch = lm.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    logits = lm.model(**batch).logits[:, -1]  # where an answer would go on
    return log_odds(logits, task.search).mean().item()


def gap_right(lm, task, trace):
    return trace.base_values.mean().item()


def bos_wrong(lm, task, trace):
    e = task.search[0]
    target, foil = (lm.tokenizer(task.text(answer))["input_ids"][0] for answer in (e.target, e.foil))
    logits = lm.model(torch.tensor([e.base])).logits[0, -1]
    return (logits[target] - logits[foil]).item()


def bos_right(lm, task, trace):
    return trace.base_values[0].item()


def space_wrong(lm, task, trace):
    e, words = task.search[0], spaced(lm, task)  # the same model, but " he" and "he" are two tokens
    prompt, target, foil = (words.tokenizer(task.text(x))["input_ids"][1:] for x in (e.base, e.target, e.foil))
    logits = words.model(torch.tensor([[1, *prompt]])).logits[0, -1]
    return (logits[target[0]] - logits[foil[0]]).item()


def space_right(lm, task, trace):
    e, words = task.search[0], spaced(lm, task)
    pair = {side: task.text(getattr(e, side)) for side in ("base", "counterfactual", "target", "foil")}
    own = mct.Task.from_pairs([pair], words, heldout=0)
    return mct.Trace(words, own, "head_output").base_values.item()


def lengths_wrong(lm, task, trace):
    base, other = (lm.tokenizer(text)["input_ids"] for text in ("yesterday the nurse said that", "the man said that"))
    he, she = lm.tokenizer.convert_tokens_to_ids(["he", "she"])
    before = lm.model(torch.tensor([base])).logits[0, -1]
    after = replaced_by_place(lm, base, other, [layer.attention for layer in lm.layers])
    return (after[he] - after[she] - (before[he] - before[she])).item()


def lengths_right(lm, task, trace):
    pair = dict(base="yesterday the nurse said that", counterfactual="yesterday the man said that", target="he", foil="she")
    aligned = mct.Task.from_pairs([pair], lm, heldout=0)
    return mct.Trace(lm, aligned, "attn_block").effects(torch.ones(len(lm.layers))).item()
