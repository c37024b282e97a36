"""What a model says when the reconstruction of an autoencoder is put in place of the activity it was trained on."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from mctrace_nb.hooks import Session
from mctrace_nb.layout import LanguageModel
from mctrace_nb.mixing import Mixture
from mctrace_nb.observing import observe
from mctrace_nb.rows import lay_out
from mctrace_nb.sae.autoencoder import Autoencoder
from mctrace_nb.sides import batch_rows_for
from mctrace_nb.tasks import Example


def fidelity(model: LanguageModel, sae: Autoencoder, prompts: Sequence[Sequence[int]]) -> dict:
    """Puts the reconstruction in place of the activity at every token of prompts (token ids), and looks at the next word after each prompt.

    kl: mean divergence in nats of what the model then says from what it says by itself; kl_mean: the same with the mean activity in place;
    recovered: 1 - kl / kl_mean; same_word: share of prompts with the same most likely word. Raises InputError as `observe` does, or if the model
    has no such site.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(64), torch.zeros(64), torch.eye(64), torch.zeros(64))
        >>> found = mct.sae.fidelity(model, sae, [e.base for e in task.search])  # of one that loses all that is below zero
        >>> sorted(found), round(found["same_word"], 2)
        (['kl', 'kl_mean', 'recovered', 'same_word'], 1.0)
    """
    sae.check(model)
    activity = observe(model, prompts, [sae.site]).activity[sae.site]
    examples = tuple(Example(tuple(p), tuple(p), (0,), (1,), "", None) for p in prompts)
    rows = lay_out(examples, "base", "all", [0] * len(examples), model.device)
    step, start = batch_rows_for(model.width, len(rows.ids) / len(examples)), 0
    kl, kl_mean, same = 0.0, 0.0, 0
    with Session(model) as session, torch.no_grad():
        for part in np.split(np.arange(len(examples)), range(step, len(examples), step)):
            batch = rows.batch(part)
            here = activity[start:start + len(batch.ids)]
            start += len(batch.ids)
            last = torch.as_tensor(np.cumsum([len(prompts[i]) for i in part]) - 1, device=model.device)

            def says(instead=None):
                mixture = None if instead is None else Mixture({sae.site: here.new_ones(1, 1)}, {sae.site: instead})
                return session.run(batch, mixture=mixture, reads=last)[0].double().log_softmax(-1)

            itself, told, blank = says(), says(sae.reconstruct(here).to(here)), says(activity.mean(0).expand_as(here).contiguous())
            kl += float((itself.exp() * (itself - told)).sum())
            kl_mean += float((itself.exp() * (itself - blank)).sum())
            same += int((itself.argmax(-1) == told.argmax(-1)).sum())
    n = len(examples)
    return dict(kl=kl / n, kl_mean=kl_mean / n, recovered=1 - kl / kl_mean, same_word=same / n)
