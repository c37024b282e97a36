"""What stands behind a found set: where it acts, whether it is complete, what chance would give, whether it carries over."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Mapping, Sequence

import numpy as np
import torch

from mctrace_nb.apply import applicable, continuation, next_tokens
from mctrace_nb.components import BLOCK_KINDS
from mctrace_nb.effects import Effects
from mctrace_nb.errors import InputError
from mctrace_nb.layout import LanguageModel
from mctrace_nb.metrics import Metric, Said
from mctrace_nb.progress import bar
from mctrace_nb.results import SCORE, Selection
from mctrace_nb.tasks import Task
from mctrace_nb.tracing import Trace

ROLES = ("earlier tokens", "first subject token", "middle subject tokens", "last subject token",
         "first token after it", "further tokens", "last token")


def roles(example) -> list[str]:
    """The role of each token of a base prompt, as in the averaged picture of Meng et al. 2022 (their figure 2)."""
    length = len(example.base)
    first, last = example.subject or (length - 1, length)
    found = []
    for i in range(length):
        if i == length - 1:
            found.append("last token")
        elif i < first:
            found.append("earlier tokens")
        elif i < last:
            found.append("last subject token" if i == last - 1 else "first subject token" if i == first else "middle subject tokens")
        else:
            found.append("first token after it" if i == last else "further tokens")
    return found


@dataclass(frozen=True)
class Sweep:
    """Effects of one layer's block at one position at a time: `effects` (layers, longest prompt, prompts), nan beyond a
    prompt's end. window: how many neighbouring layers were replaced together."""

    trace: Trace
    effects: np.ndarray
    window: int

    def by_role(self):
        """A frame of mean effects, a row a token role and a column a layer; tokens of a role are averaged in each prompt."""
        import pandas as pd

        rows = {}
        for role in ROLES:
            held = [np.nanmean(self.effects[:, [i for i, r in enumerate(roles(e)) if r == role], n], axis=1)
                    for n, e in enumerate(self.trace.examples) if role in roles(e)]
            if held:
                rows[role] = np.mean(held, axis=0)
        return pd.DataFrame(rows, index=range(self.effects.shape[0])).T.rename_axis("tokens").rename_axis("layer", axis=1)

    def by_token(self, prompt: int):
        """A frame of one prompt's effects, a row a token and a column a layer."""
        import pandas as pd

        e = self.trace.examples[prompt]
        words = [f"{i} {self.trace.task.text([t])}{'*' * (e.subject is not None and e.subject[0] <= i < e.subject[1])}"
                 for i, t in enumerate(e.base)]
        return pd.DataFrame(self.effects[:, :len(words), prompt].T, index=words).rename_axis("tokens").rename_axis("layer", axis=1)


def sweep(trace: Trace, window: int = 1, progress: bool = True) -> Sweep:
    """The effect of one kind of block at every layer and every position of each prompt: the layer x token picture.

    trace: of `residual`, `attn_block` or `mlp_block`, with positions="all". With direction="restore" and corruption="noise"
    this is causal tracing of Meng et al. 2022 (section 2.1): run with a noised subject, restore one clean state at a time;
    there `window` is 1 for the residual stream and 10 for attention and MLPs, so many layers around each one together.

    Raises InputError for a trace of other kinds or positions, or a window below 1.

        >>> picture = mct.sweep(mct.Trace(model, task, "residual"))
        >>> picture.by_role().round(1)
        layer                    0    1     2
        tokens
        earlier tokens         0.0  0.0   0.0
        last subject token    17.1  9.4   0.0
        first token after it  -0.0 -0.0   0.0
        further tokens        -0.0 -0.0   0.0
        last token            -0.1  7.4  17.1
    """
    kinds = trace.components.kinds
    if len(kinds) != 1 or kinds[0] not in BLOCK_KINDS or trace.positions != "all":
        raise InputError(f"a sweep over layers and positions needs a trace of one of {', '.join(BLOCK_KINDS)} at positions='all', "
                         f"not {', '.join(kinds)} at {trace.positions!r}")
    if not isinstance(window, int) or window < 1:
        raise InputError(f"window={window!r} must be a whole number of layers of at least 1")
    layers, n = trace.components.layers, len(trace)
    masks = torch.zeros(layers, layers)
    for layer in range(layers):  # fewer layers at either end, as there
        masks[layer, max(0, layer - window // 2):layer + (window + 1) // 2] = 1
    lengths = torch.tensor([len(e.base) for e in trace.examples])
    found = np.full((layers, int(lengths.max()), n), np.nan)
    for position in bar(range(found.shape[1]), "layers x positions", show=progress):
        here = (position < lengths).nonzero().flatten()
        at = torch.full((layers, len(here)), position, device=trace.model.device)
        found[:, position, here.numpy()] = trace.effects(masks, examples=here, at=at).cpu().numpy()
    return Sweep(trace, found, window)


def random_sets(trace: Effects, size: int, draws: int = 100, seed: int = 0, other_than: Sequence[str] = ()) -> np.ndarray:
    """Mean effects of up to `draws` different random sets of a size, `(draws,)`: the control of every claim about such a set.

    other_than: a set that is not to be among them. All sets there are, if they are no more than `draws`.
    """
    n, rng = len(trace.components), np.random.default_rng(seed)
    left_out = tuple(sorted(trace.components.index(label) for label in other_than))
    if math.comb(n, size) <= 2 * draws:
        pool = [s for s in combinations(range(n), size) if s != left_out]
        chosen = [pool[i] for i in sorted(rng.permutation(len(pool))[:draws])]
    else:
        chosen, seen = [], {left_out}
        while len(chosen) < draws:
            drawn = tuple(sorted(rng.choice(n, size, replace=False).tolist()))
            if drawn not in seen:
                seen.add(drawn)
                chosen.append(drawn)
    return torch.cat([trace.effects(part).mean(-1) for part in trace.components.masks(chosen).split(32)]).cpu().numpy()


def evidence(trace: Effects, selection: Selection, draws: int = 100, seed: int = 0, others: Mapping[str, Selection] | None = None,
             direction: str = "max"):
    """A frame of what can be said for a set, on search and held-out prompts: what, prompts, effect, ci_low, ci_high.

    Rows: the set; any `others` by their names, such as sets found on another task; everything outside it (completeness: what
    the others still do without it); the total effect; other random sets of the same size (mean, and the 5th and 95th percentile
    over draws in place of an interval), with the share of them that do at least as much as the set, in the `direction` of the
    search, in column `beaten_by`.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> mct.evidence(trace, best)[["what", "prompts", "effect"]].round(2)
                              what   prompts  effect
        0                  the set    search   13.98
        1    everything outside it    search    4.71
        2             total effect    search   17.05
        3  random sets of its size    search    2.96
        4                  the set  held-out   14.29
        5    everything outside it  held-out    5.10
        6             total effect  held-out   17.58
        7  random sets of its size  held-out    3.06
    """
    import pandas as pd

    rows = []
    for where, t in (("search", trace), *((("held-out", trace.heldout),) if trace.task.heldout else ())):
        first = len(rows)
        for what, chosen in {"the set": selection, **(others or {})}.items():
            _check_kinds(chosen, t)
            e = t.indirect_effect(chosen.components)
            rows.append(dict(what=what, prompts=where, effect=e.mean, ci_low=e.low, ci_high=e.high))
        outside, total = t.outside_effect(selection.components), t.estimate(t.total_effects())
        rows.append(dict(what="everything outside it", prompts=where, effect=outside.mean, ci_low=outside.low, ci_high=outside.high))
        rows.append(dict(what="total effect", prompts=where, effect=total.mean, ci_low=total.low, ci_high=total.high))
        if 0 < selection.size < len(t.components):
            chance, mine = random_sets(t, selection.size, draws, seed, selection.components), rows[first]["effect"]
            low, high = np.percentile(chance, [5, 95])
            rows.append(dict(what="random sets of its size", prompts=where, effect=chance.mean(), ci_low=low, ci_high=high,
                             beaten_by=float((SCORE[direction](chance) >= SCORE[direction](mine)).mean())))
    return pd.DataFrame(rows)


def speech(trace: Trace, selection: Selection, prompts: int = 3, tokens: int = 8, top: int = 3):
    """A frame of what the model says after some base prompts: untouched, with the set replaced, after the counterfactual.

    Columns: prompt, run, next (the likeliest next tokens with their probabilities), text (the greedy continuation). Empty where the
    selection cannot be applied: see `apply.applicable`.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> mct.speech(trace, best, prompts=1, tokens=2, top=1)[["run", "text"]]
                             run     text
        0              untouched  Peter .
        1       the set replaced  Julia .
        2  counterfactual prompt  Julia .
    """
    import pandas as pd

    rows, lm = [], trace.model
    fits = [e for e in trace.examples if len(e.base) == len(e.counterfactual) or trace.corruption == "zero"]
    for e in fits[:prompts] if applicable(selection) and selection.corruption == trace.corruption and selection.components else ():
        other = e.counterfactual if trace.corruption == "counterfactual" else None
        runs = [("untouched", e.base, (None, None)), ("the set replaced", e.base, (selection, other, e.subject))]
        for name, ids, put in [*runs, *([("counterfactual prompt", other, (None, None))] if other else [])]:
            likely = next_tokens(lm, ids, *put, top=top)
            rows.append(dict(prompt=trace.task.text(ids), run=name, text=continuation(lm, ids, *put, tokens=tokens).strip(),
                             next=", ".join(f"{t!r} {p:.2f}" for t, p in zip(likely["token"], likely["probability"]))))
    return pd.DataFrame(rows, columns=["prompt", "run", "next", "text"])


def answers(trace: Trace, chosen, prompt: int = 0, top: int = 4):
    """A frame of the next token's probability on one prompt, before and after the chosen components are replaced.

    Columns: token, answer ("target", "foil", or "" for the tokens that are likeliest beside them, before or after), before, after.
    Of an answer of several tokens the first stands, with dots behind it. top: rows. Works for every corruption of a trace.
    Raises InputError for labels or a prompt that the trace does not have.

        >>> mct.answers(trace, ["L1H2", "L2H2"], prompt=0, top=2).round(2)
           token  answer  before  after
        0  Julia  target     0.0    1.0
        1  Peter    foil     1.0    0.0
    """
    import pandas as pd

    mask = trace.components.mask(chosen)
    (before, after), e, said = trace.next_token(torch.stack([0 * mask, mask]), prompt).cpu(), trace.examples[prompt], {}
    for name, answer in (("target", e.target), ("foil", e.foil)):
        said.setdefault(answer[0], []).append(name)
    longer = {answer[0] for answer in (e.target, e.foil) if len(answer) > 1}
    likely = torch.maximum(before, after).topk(min(top + 2, len(before))).indices.tolist()
    ids = [*said, *(i for i in likely if i not in said)][:max(top, len(said))]
    return pd.DataFrame([dict(token=(trace.task.text([i]).strip() or repr(trace.task.text([i]))) + "..." * (i in longer),
                              answer=" and ".join(said.get(i, ())), before=float(before[i]), after=float(after[i])) for i in ids])


def _check_kinds(selection: Selection, trace: Effects) -> None:
    if selection.kinds and selection.kinds != trace.components.kinds:
        raise InputError(f"{selection} is of kind {'+'.join(selection.kinds)}, {trace!r} is not; trace the same kinds")


def transfer(selections: Sequence[Selection], traces: Sequence[Effects], draws: int = 100, seed: int = 0, direction: str = "max"):
    """A frame of every selection's effect on every trace (other tasks, other models), with interval and random control.

    A row each: found (method and set), on (model and task), effect, ci_low, ci_high, share of the total effect, and beaten_by,
    the share of other random sets of that size that do at least as much, in the `direction` of the search. Raises InputError
    where a model lacks one of the components.

        >>> best = mct.search(trace, "guided", budgets=[2])[2]
        >>> other = mct.Trace(model, mct.load_task("binding", model, n=16), "head_output")
        >>> mct.transfer([best], [trace, other])[["found", "on", "effect", "share"]].round(2)
                        found                 on  effect  share
        0  guided: L1H2, L2H2    tutorial, names   13.98   0.82
        1  guided: L1H2, L2H2  tutorial, binding    0.02   0.00
    """
    import pandas as pd

    rows = []
    for selection in selections:
        for trace in traces:
            _check_kinds(selection, trace)
            e, total = trace.indirect_effect(selection.components), float(trace.total_effects().mean())
            beaten = float("nan")
            if 0 < selection.size < len(trace.components):
                chance = random_sets(trace, selection.size, draws, seed, selection.components)
                beaten = float((SCORE[direction](chance) >= SCORE[direction](e.mean)).mean())
            rows.append(dict(found=f"{selection.method}: {', '.join(selection.components)}",
                             on=f"{trace.model.name}, {trace.task.name}", effect=e.mean, ci_low=e.low, ci_high=e.high,
                             share=e.mean / total if total else float("nan"), beaten_by=beaten))
    return pd.DataFrame(rows)


def _knows(said: Said) -> torch.Tensor:
    return (said.logits.argmax(-1) == said.tokens[..., 1]).to(said.answers.dtype)


def known(model: LanguageModel, task: Task) -> Task:
    """The task with only those pairs whose base prompt the model continues with the foil, its own answer (first token).

    As in Meng et al. 2022: what a model does not know cannot be traced in it. Raises InputError if nothing is left.

        >>> known = mct.known(model, mct.load_task("facts", model, n=16))
        >>> len(known.search), known.notes
        (8, ('16 of 16 pairs kept: the model knows their base answer',))
    """
    metric = Metric("knows", _knows, differentiable=False, reads_logits=True)
    kept = []
    for split in ("search", "heldout"):
        examples = getattr(task, split)
        trace = Trace(model, task, "attn_block", corruption="zero", metric=metric, split=split) if examples else None
        kept.append(tuple(e for e, known in zip(examples, trace.base_values if examples else ()) if known))
    count, of = sum(map(len, kept)), len(task.search) + len(task.heldout)
    if not kept[0] or (task.heldout and not kept[1]):
        raise InputError(f"{model.name!r} gives the expected answer on {count} of {of} base prompts of {task.name!r}, too few "
                         "to search on and hold out; give more prompts, or a model that knows them")
    return replace(task, search=kept[0], heldout=kept[1],
                   notes=(*task.notes, f"{count} of {of} pairs kept: the model knows their base answer"))
