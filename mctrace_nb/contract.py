"""Whether a family means by a row of tokens what the kit means: tried once on every model, before anything is traced."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from mctrace_nb.errors import InputError
from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.rows import lay_out
from mctrace_nb.tasks import Example

_KEPT: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
# Unequal lengths, prefixes of two and three tokens, answers of one and two.
PROBES = (Example((0, 1, 2, 3), (0, 1, 3, 2), (1, 2), (2, 0)), Example((2, 0, 3, 1, 0), (2, 0, 3, 2, 0), (3,), (1, 1)))


@torch.no_grad()
def check_contract(lm: LanguageModel) -> None:
    """Two short prompts packed into one row behind their prefixes, with both answers beside each other, must give the logits that
    the model gives to each alone.

    Raises InputError, naming the family, where they do not: then something but attention looks at other tokens, or attention
    is called in a way of its own. Not tried where weights are fetched in every pass, which may take minutes; in half
    precision only that the pass can be made.
    """
    if lm.model in _KEPT or lm.offloaded:
        return
    family = type(lm.model).__name__
    try:
        with Session(lm) as session:
            rows = lay_out(PROBES, "base", "all", [e.first_difference for e in PROBES], lm.device)
            batch = rows.batch()
            logits, _ = session.run(batch, prefix=session.prefixes(rows, None, len(PROBES)))
            alone = []  # in the session too, where no dropout is
            for i, e in enumerate(PROBES):
                for token in range(rows.start[i], rows.start[i + 1]):
                    answer = ((), e.target, e.foil)[rows.branch[token]]
                    ids = (*e.base, *answer)[:rows.positions[token] + 1]
                    ids = torch.tensor([ids], device=lm.device)
                    alone.append(lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1])
    except InputError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{family} cannot be traced, because it does not treat its tokens one by one outside of attention "
                         f"({str(error).splitlines()[0][:120]}); choose another model family") from error
    alone = torch.stack(alone)
    if not bool(torch.isfinite(alone).all()):
        return  # its weights are what is wrong with it
    exact, apart = torch.finfo(logits.dtype).eps < 1e-5, float((logits - alone).abs().max() / alone.abs().max().clamp(min=1e-6))
    if exact and not apart < 1e-3:
        raise InputError(f"{family} cannot be traced: packed into one row, two prompts give logits that differ by {apart:.2g} of their size "
                         "from those of each alone; choose another model family")
    _KEPT.add(lm.model)
