"""Features as units of CircuitLasso (arXiv 2606.16939, section 3.3): regressions between two sites, a label node, rankings, and labels in words.

    A_ij = argmin 1/(2M) ||Z_j - Z_i A_ij||_F^2 + alpha ||A_ij||_1

on standardised columns, one upstream site at a time. alpha is one penalty for all, in units of a correlation: alone, a feature is no parent of
another unless they correlate more than that. Weights rank dependencies; they are no causal effects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np
import pandas as pd
import torch

from mctrace_nb.errors import InputError, one_of
from mctrace_nb.lasso.solve import Moments, curvature, fista, logistic
from mctrace_nb.layout import LanguageModel
from mctrace_nb.observing import Observed, Site
from mctrace_nb.progress import bar
from mctrace_nb.sae.autoencoder import CELLS, Autoencoder

__all__ = ["Coded", "LabelNode", "Links", "code", "describe", "feature_name", "label_node", "link"]

SHORT = {"residual": "resid", "mlp_block": "mlp", "mlp_output": "mlp", "attn_block": "attn", "mlp_neuron": "neuron"}
LOSSES = ("logistic", "squared")


def feature_name(site: Site, number: int) -> str:
    """`L2.resid.f17`: feature 17 of the residual stream after layer 2.

        >>> mct.sae.features.feature_name(("residual", 2), 17)
        'L2.resid.f17'
    """
    return f"L{site[1]}.{SHORT.get(site[0], site[0])}.f{number}"


@dataclass(frozen=True, eq=False)
class Coded:
    """What the features that are active often enough say: z `(M, F)`, their numbers `(F,)` in the autoencoder, the share `(F,)` of rows in
    which each is active, and the site.

        >>> import torch
        >>> coded = mct.sae.features.Coded(("residual", 2), torch.tensor([[1.0], [3.0]]), numbers=torch.tensor([17]), share=torch.tensor([1.0]))
        >>> coded.names
        ['L2.resid.f17']
    """

    site: Site
    z: torch.Tensor
    numbers: torch.Tensor
    share: torch.Tensor

    @property
    def names(self) -> list[str]:
        return [feature_name(self.site, i) for i in self.numbers.tolist()]

    def at(self, rows: torch.Tensor) -> "Coded":
        """The same features on some rows only, such as `observed.last`."""
        return replace(self, z=self.z[rows], share=(self.z[rows] != 0).double().mean(0))

    def standardised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`(F,)` mean and standard deviation of each feature, in float64; the latter is 1 where a feature does not vary."""
        total, square = (sum(part.double().pow(p).sum(0) for part in self.z.split(_rows(self.z.shape[1]))) for p in (1, 2))
        mean = total / len(self.z)
        variance = square / len(self.z) - mean ** 2
        return mean, torch.where(variance > 1e-8 * (square / len(self.z)).clamp(min=1e-12), variance.clamp(min=0).sqrt(), 1.0)


def _rows(columns: int) -> int:
    return max(1, CELLS // max(1, columns))


def code(sae: Autoencoder, x: torch.Tensor, at_least: float = 0.01) -> Coded:
    """The features of activities `(M, d)` that are active on a share of `at_least` of them and vary; one pass to count, one to keep.

    Raises InputError for a share out of range, activities that are not finite, or no such feature.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
        >>> coded = mct.sae.features.code(sae, torch.tensor([[1.0, -1.0], [2.0, -1.0]]))
        >>> coded.names, coded.share
        (['L2.resid.f0'], tensor([1.], dtype=torch.float64))
    """
    if not 0 <= at_least <= 1 or not len(x):
        raise InputError(f"at_least={at_least} of {len(x)} activities; give a share from 0 to 1, and at least one activity")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{int((~torch.isfinite(x)).sum())} values of the activities are not finite; load the model with dtype='float32'")
    on, low, high = 0, torch.inf, -torch.inf
    for _, z in sae.parts(x):
        on = on + (z != 0).sum(0)
        low, high = torch.minimum(z.amin(0), torch.as_tensor(low).to(z)), torch.maximum(z.amax(0), torch.as_tensor(high).to(z))
    share = on.double() / len(x)
    numbers = ((share >= at_least) & (share > 0) & (high - low > 1e-6 * high.abs())).nonzero().flatten()
    if not len(numbers):
        raise InputError(f"none of {sae.features} features of {sae.site} is active on {at_least:.1%} of {len(x)} activities and varies; lower "
                         "at_least, or train the autoencoder on activities like these")
    return Coded(sae.site, torch.cat([z[:, numbers] for _, z in sae.parts(x)]), numbers, share[numbers])


@dataclass(frozen=True, eq=False)
class Links:
    """Regressions of the features of one site on those of another. edges: a frame with columns source, target, weight, largest first, which
    `networkx.from_pandas_edgelist(edges, edge_attr="weight", create_using=networkx.DiGraph)` makes a graph; weight: the coefficient on
    standardised features. explained: a Series, share of each target's variance that its parents explain. alpha: the penalty.

        >>> import torch
        >>> x = torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
        >>> low, high = (mct.sae.features.Coded(("residual", layer), x, torch.tensor([0]), torch.ones(1)) for layer in (1, 2))
        >>> mct.sae.features.link(low, high).explained.round(2)
        L2.resid.f0    1.0
        Name: explained, dtype: float64
    """

    edges: pd.DataFrame
    explained: pd.Series
    alpha: float


def link(upstream: Coded, downstream: Coded, alpha: float = 0.05, chunk: int = 256) -> Links:
    """Regresses every downstream feature on all upstream ones, `chunk` targets at a time: memory is the features themselves, one gram matrix
    `(F_up, F_up)` and three matrices `(F_up, chunk)`, whatever the number of targets. The result does not depend on the chunk.

    Raises InputError for rows that do not match, a penalty or chunk out of range.

        >>> import torch
        >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
        >>> low = mct.sae.features.Coded(("residual", 1), x, torch.tensor([0, 1]), torch.ones(2))
        >>> high = mct.sae.features.Coded(("residual", 2), x[:, :1] * 2, torch.tensor([5]), torch.ones(1))
        >>> mct.sae.features.link(low, high).edges.round(2)
                source       target  weight
        0  L1.resid.f0  L2.resid.f5    0.95
    """
    if len(upstream.z) != len(downstream.z):
        raise InputError(f"{len(upstream.z)} rows upstream and {len(downstream.z)} downstream; code both sites of the same observation")
    if not alpha > 0 or chunk < 1:
        raise InputError(f"alpha={alpha}, chunk={chunk}: give a penalty above 0 (a correlation), and at least one target at a time")
    mean, sd = upstream.standardised()
    to_mean, to_sd = downstream.standardised()
    gram = _product(upstream, upstream, slice(None), (mean, sd), (mean, sd))
    lipschitz, found, explained = curvature(gram), [], []
    for start in bar(range(0, len(to_sd), chunk), "regressing features"):
        part = slice(start, start + chunk)
        cross = _product(upstream, downstream, part, (mean, sd), (to_mean, to_sd))
        moments = Moments(gram, cross, torch.ones_like(cross[0]))
        weights = fista(moments, alpha, lipschitz=lipschitz)
        explained.append(moments.explained(weights))
        source, target = weights.nonzero(as_tuple=True)
        found.append((source, target + start, weights[source, target]))
    source, target, weight = (torch.cat(x).cpu().numpy() for x in zip(*found))
    edges = pd.DataFrame(dict(source=np.array(upstream.names)[source], target=np.array(downstream.names)[target], weight=weight))
    order = np.argsort(-np.abs(weight), kind="stable")
    shares = pd.Series(torch.cat(explained).cpu().numpy(), downstream.names, name="explained")
    return Links(edges.iloc[order].reset_index(drop=True), shares, alpha)


def _product(a: Coded, b: Coded, part: slice, of_a: tuple, of_b: tuple) -> torch.Tensor:
    """Correlations `(F_a, some of F_b)`, summed over rows some at a time."""
    step = _rows(a.z.shape[1])
    total = sum(((x.double() - of_a[0]) / of_a[1]).T @ ((y[:, part].double() - of_b[0][part]) / of_b[1][part])
                for x, y in zip(a.z.split(step), b.z.split(step)))
    return total / len(a.z)


@dataclass(frozen=True, eq=False)
class LabelNode:
    """Weights `(F,)` of a label on standardised features, with what they were standardised by, the intercept, loss and penalty.

        >>> import torch
        >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
        >>> coded = mct.sae.features.Coded(("residual", 2), x, torch.tensor([0, 1]), torch.ones(2))
        >>> mct.sae.features.label_node(coded, x[:, 0], loss="squared").weight.round(decimals=2)
        tensor([0.9500, 0.0000], dtype=torch.float64)
    """

    names: list[str]
    weight: torch.Tensor
    mean: torch.Tensor
    sd: torch.Tensor
    intercept: float
    loss: str
    alpha: float

    def ranking(self, z: torch.Tensor | None = None) -> pd.DataFrame:
        """A frame of features, highest score first. Over a data set the score is |A|; for one prompt, with its features z `(F,)`, it is
        |A| |z| with z in standard deviations (of A on standardised features, and zero where a feature is silent)."""
        score = self.weight.abs()
        if z is not None:
            if z.shape != self.weight.shape:
                raise InputError(f"z has the shape {tuple(z.shape)}; give the {len(self.names)} features of one prompt, such as coded.z[row]")
            score = score * z.double().abs() / self.sd
        order = torch.argsort(score, descending=True, stable=True).tolist()
        return pd.DataFrame(dict(feature=[self.names[i] for i in order], score=score[order].tolist(), weight=self.weight[order].tolist()))

    @property
    def chosen(self) -> torch.Tensor:
        """Which of the features have a weight, highest score first."""
        order = torch.argsort(self.weight.abs(), descending=True, stable=True)
        return order[self.weight[order] != 0]


def label_node(coded: Coded, label: Sequence[float] | torch.Tensor, loss: str = "logistic", fraction: float = 0.05) -> LabelNode:
    """Regresses a label, a number for each row of `coded`, on its features (section 3.3): "logistic" for labels of 0 and 1, "squared" for
    numbers, which are standardised too. fraction: the penalty, as a share of the smallest one at which no feature has a weight.

    Raises InputError for labels that do not match, do not vary, or are not 0 and 1 where they have to be.

        >>> import torch
        >>> x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
        >>> coded = mct.sae.features.Coded(("residual", 2), x, torch.tensor([0, 1]), torch.ones(2))
        >>> mct.sae.features.label_node(coded, x[:, 0], loss="squared").ranking().round(decimals=2)
               feature  score  weight
        0  L2.resid.f0   0.95    0.95
        1  L2.resid.f1   0.00    0.00
    """
    one_of(loss, LOSSES, "loss of a label node")
    y = torch.as_tensor(np.asarray(label, dtype=float)).to(coded.z.device)
    if len(y) != len(coded.z) or not 0 < fraction <= 1:
        raise InputError(f"{len(y)} labels for {len(coded.z)} rows and fraction={fraction}: give a label for each row, and a fraction above 0 "
                         "and up to 1")
    mean, sd = coded.standardised()
    x = (coded.z.double() - mean) / sd
    spread = float(y.std(correction=0))
    if not spread > 0:
        raise InputError(f"all {len(y)} labels are {y[0].item() if len(y) else 'missing'}; give labels that differ")
    most = float((x.T @ (y - y.mean())).abs().max()) / len(y)  # the gradient of either loss at zero, with the best intercept
    alpha = fraction * most if loss == "logistic" else fraction * most / spread
    if loss == "logistic":
        weight, intercept = logistic(x, y, alpha)
    else:
        weight, intercept = fista(Moments.of(x, ((y - y.mean()) / spread)[:, None]), alpha)[:, 0], y.mean()
    return LabelNode(coded.names, weight, mean, sd, float(intercept), loss, alpha)


def describe(model: LanguageModel, prompts: Sequence[Sequence[int]], observed: Observed, coded: Coded, features: Sequence[str] | None = None,
             top: int = 3) -> pd.DataFrame:
    """What features react to, a frame with a row a feature: share of tokens on which it is active, the words at which it is most active (the
    `top` different prompts in which it is highest, one token each), and those prompts with that token in brackets.

    prompts: as observed. coded: of all tokens. features: names, default all. Raises InputError for a name that is not there, or rows that do
    not match.

        >>> import torch
        >>> prompts = [e.base for e in task.search]
        >>> seen = mct.observing.observe(model, prompts, [("residual", 2)])
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(64), torch.zeros(64), torch.eye(64), torch.zeros(64))
        >>> coded = mct.sae.features.code(sae, seen.activity["residual", 2])
        >>> mct.sae.features.describe(model, prompts, seen, coded, coded.names[:1], top=2)[["feature", "words"]]
               feature words
        0  L2.resid.f0     a
    """
    if len(coded.z) != len(observed) or len(prompts) != observed.prompts:
        raise InputError(f"{len(coded.z)} rows of features, {len(observed)} observed tokens, {len(prompts)} of {observed.prompts} prompts: give "
                         "what was observed, and the features of all its tokens")
    names, rows = coded.names, []
    for name in names if features is None else features:
        column = names.index(one_of(name, names, "feature"))
        z = coded.z[:, column]
        words, marked, seen = Counter(), [], set()
        for row in torch.argsort(z, descending=True, stable=True).tolist():
            prompt = tuple(prompts[int(observed.prompt[row])])
            if len(marked) == top or z[row] == 0:
                break
            if prompt not in seen:  # one token of a prompt, and each text once
                seen.add(prompt)
                said = [model.tokenizer.decode([i]) for i in prompt]
                at = int(observed.position[row])
                words[said[at].strip()] += 1
                marked.append(_marked(said, at))
        said = ", ".join(word for word, _ in words.most_common())
        rows.append(dict(feature=name, share=float(coded.share[column]), words=said, prompts=tuple(marked)))
    return pd.DataFrame(rows)


def _marked(said: list[str], at: int) -> str:
    """A prompt with one token in brackets; tokens that bring no space with them get one."""
    gap = "" if any(word.startswith(" ") for word in said) else " "
    word = said[at]
    marked = word[:len(word) - len(word.lstrip())] + f"[{word.strip()}]"
    return gap.join([*said[:at], marked, *said[at + 1:]]).strip()
