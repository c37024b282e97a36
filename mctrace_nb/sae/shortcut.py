"""Removing a spurious feature (arXiv 2606.16939, section 4.2.2, after Marks et al. 2025 on Bias in Bios), small enough to be run in a lesson.

A classifier reads the label of a sentence from the model's activity. It is trained where label and gender always coincide (the *ambiguous* set)
and tried where all four groups are equally frequent (the *balanced* set). The label node of CircuitLasso ranks the features on the ambiguous set;
those that are gender-like are set to zero. In the paper people mark them by reading; here a rule does: on a probe set of sentences *of one label
only*, which can teach nobody the label, a feature is gender-like if its AUROC for gender is far from one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Callable, Iterable

import numpy as np
import pandas as pd
import torch

from mctrace_nb import grammar
from mctrace_nb.circuits import auroc
from mctrace_nb.errors import InputError, one_of
from mctrace_nb.layout import LanguageModel
from mctrace_nb.observing import Site, observe
from mctrace_nb.progress import bar
from mctrace_nb.sae.autoencoder import Autoencoder, train_autoencoder
from mctrace_nb.sae.features import Coded, LabelNode, label_node
from mctrace_nb.stats import interval

__all__ = ["Removal", "SETTINGS", "Sentences", "Setting", "corpus", "dictionary", "measure", "remove", "sentences"]

WHEN = ("in the morning", "after the meeting")  # of one length, so that no position tells them apart
SIDES = tuple(tuple(w for w, she in grammar.OCCUPATIONS.items() if (she > 0.5) == side) for side in (False, True))
RIDGE = 1e-3
DRAWS = 10  # of random features, whose results are averaged
FAR = 0.15  # from one half: AUROCs below 0.35 or above 0.65 are gender-like
FRACTION = 0.02  # of the smallest penalty at which the label node is empty: small, so that features that say the same are all ranked


def _people(rng: Random, label: int, gender: int) -> str:
    who, pronoun = ("man", "woman")[gender], grammar.PRONOUNS[gender]
    return f"{WHEN[label]} the {who} {rng.choice(grammar.SAYING)} that {pronoun} {rng.choice(grammar.PROFESSION_TAILS)}"


def _occupations(rng: Random, label: int, gender: int) -> str:
    return f"{WHEN[label]} the {rng.choice(SIDES[gender])} {rng.choice(grammar.SAYING)} that"


@dataclass(frozen=True)
class Setting:
    """A label with its shortcut: `say(rng, label, gender)` makes a sentence, `pool` is how its words become one row, "mean" or "last".

        >>> mct.sae.shortcut.SETTINGS["people"].about
        'when it was, and whether a man or a woman speaks; mean over words'
    """

    say: Callable[[Random, int, int], str]
    pool: str
    about: str


SETTINGS = {
    "people": Setting(_people, "mean", "when it was, and whether a man or a woman speaks; mean over words"),
    "occupations": Setting(_occupations, "mean", "when it was, and the stereotype of the occupation; mean over words"),
    "last_word": Setting(_occupations, "last", "the same, read at the last word, where the model is about to say he or she"),
}


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences with their label and gender `(n,)`, zeros and ones.

        >>> said = mct.sae.shortcut.sentences("people", n=20)["ambiguous"]
        >>> said.texts[0], said.label[:4], said.gender[:4]
        ('in the morning the man said that he was happy', array([0, 1, 0, 1]), array([0, 1, 0, 1]))
    """

    texts: list[str]
    label: np.ndarray
    gender: np.ndarray


def sentences(setting: str, seed: int = 0, n: int = 300) -> dict[str, Sentences]:
    """The four sets of a setting: "ambiguous" (label and gender coincide) and "oracle" (all four groups) to train on, "balanced" to test on,
    each of n sentences, and "probe" of n // 5 of label 0 only. The same seed gives the same sentences. Raises InputError if n is no multiple of 20.

        >>> sets = mct.sae.shortcut.sentences("people", n=20)
        >>> sorted(sets), sets["probe"].texts[0]
        (['ambiguous', 'balanced', 'oracle', 'probe'], 'in the morning the man felt that he would stay')
    """
    say = SETTINGS[one_of(setting, SETTINGS, "setting of a shortcut")].say
    if n < 20 or n % 20:
        raise InputError(f"n={n} sentences do not divide; give a multiple of 20")
    groups = {"ambiguous": [(0, 0), (1, 1)], "oracle": [(a, b) for a in (0, 1) for b in (0, 1)], "probe": [(0, 0), (0, 1)]}
    groups["balanced"] = groups["oracle"]
    found = {}
    for name, group in groups.items():
        rng = Random(f"shortcut/{setting}/{name}/{seed}")
        drawn = group * ((n // 5 if name == "probe" else n) // len(group))
        found[name] = Sentences([say(rng, *pair) for pair in drawn], *(np.array(column) for column in zip(*drawn)))
    return found


def corpus(model: LanguageModel, n: int = 1500, seed: int = 0) -> list[list[int]]:
    """n sentences of all behaviours of the grammar as token ids, to train an autoencoder on.

        >>> len(mct.sae.shortcut.corpus(model, n=10))
        10
    """
    rng, ids = Random(f"corpus/{seed}"), model.tokenizer.get_vocab()
    return [[1, *(ids[word] for word in grammar.sentence(behaviour, rng).split())] for behaviour in rng.choices(grammar.BEHAVIOURS, k=n)]


def dictionary(model: LanguageModel, site: Site = ("residual", 2), features: int = 512, k: int = 16, seed: int = 0,
               steps: int = 800) -> Autoencoder:
    """An autoencoder of the tutorial model, trained on `corpus`.

        >>> sae = mct.sae.shortcut.dictionary(model, features=64, steps=5)
        >>> sae.W_enc.shape, sae.site
        (torch.Size([64, 64]), ('residual', 2))
    """
    return train_autoencoder(observe(model, corpus(model, seed=seed), [site]).activity[site], features, site, k, steps=steps, seed=seed)


def classifier(x: torch.Tensor, y) -> Callable[[torch.Tensor], np.ndarray]:
    """Logistic regression of y `(n,)` on x `(n, d)` with a ridge of 1e-3, columns centred and scaled alike, by Newton's method; returns what
    gives the log odds `(m,)` of 1 for activities `(m, d)`."""
    mean, scale = x.mean(0), x.std(0).pow(2).mean().sqrt().clamp(min=1e-12)

    def shaped(part):
        return torch.cat([(part - mean) / scale, part.new_ones(len(part), 1)], 1).double()

    inside, y = shaped(x), torch.as_tensor(y).to(x.device).double()
    ridge = RIDGE * torch.eye(inside.shape[1], dtype=torch.float64, device=x.device)
    b = torch.zeros(len(ridge), dtype=torch.float64, device=x.device)
    for _ in range(100):
        p = torch.sigmoid(inside @ b)
        step = torch.linalg.solve((inside * (p * (1 - p))[:, None]).T @ inside / len(y) + ridge, inside.T @ (p - y) / len(y) + ridge @ b)
        b = b - step * min(1.0, 5 / max(float(step.norm()), 1e-12))  # far from the optimum whole steps may overshoot
        if step.norm() < 1e-8:
            break
    return lambda part: (shaped(part) @ b).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Removal:
    """One run. ranking: a frame, a row a ranked feature (those with a weight): feature, score, weight, gender AUROC, whether it is removed.
    accuracy: a frame, a row a way: accuracy, that of the worst of four groups, agreement with gender (one half is ideal), AUROC of the log odds
    for the label (which a wrong threshold does not harm), features removed, and read: how many had to be looked at for that.
    active: how many features there were to rank. node: the label node.

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(64), torch.zeros(64), torch.eye(64), torch.zeros(64))
        >>> removed = mct.sae.shortcut.remove(model, sae, n=40)
        >>> removed.ranking.columns.tolist()
        ['feature', 'score', 'weight', 'gender_auroc', 'removed']
    """

    ranking: pd.DataFrame
    accuracy: pd.DataFrame
    active: int
    node: LabelNode


def remove(model: LanguageModel, sae: Autoencoder, setting: str = "people", seed: int = 0, n: int = 300) -> Removal:
    """Runs a setting once with an autoencoder of the tutorial model.

    Classifiers read the reconstruction, so that original and removal differ by the features alone. Ways: "original", "zeroed" (its classifier,
    features set to zero), "retrained" (the classifier, too), the same for as many random active features (the mean of ten draws), "by
    correlation" (retrained; as many features read as the label node ranks, but those that correlate most with the label), "every gender-like"
    (retrained; all features that pass the rule, none left unread), "oracle" (trained on all four groups).

        >>> import torch
        >>> sae = mct.sae.Autoencoder(("residual", 2), torch.eye(64), torch.zeros(64), torch.eye(64), torch.zeros(64))
        >>> removed = mct.sae.shortcut.remove(model, sae, n=40)
        >>> removed.accuracy["way"].tolist()[:3]
        ['original', 'zeroed', 'retrained']
    """
    sets, pooled = sentences(setting, seed, n), {}
    for name, said in sets.items():
        pooled[name] = _pooled(model, sae, said, SETTINGS[setting].pool)
    z = pooled["ambiguous"]
    active = ((z != 0).double().mean(0) >= 0.01).nonzero().flatten()
    coded = Coded(sae.site, z[:, active], active, (z[:, active] != 0).double().mean(0))
    gender = np.array([auroc(pooled["probe"][:, i].cpu(), sets["probe"].gender) for i in active])
    like = torch.as_tensor(np.abs(gender - 0.5) > FAR, device=z.device)
    node = label_node(coded, sets["ambiguous"].label, "squared", FRACTION)
    first = node.chosen
    ranking = node.ranking().iloc[:len(first)].assign(gender_auroc=gender[first.cpu()], removed=like[first].cpu().numpy())
    marked = first[like[first]]
    centred = torch.as_tensor(sets["ambiguous"].label - sets["ambiguous"].label.mean(), device=z.device)
    alone = (((coded.z.double() - node.mean) / node.sd).T @ centred).abs().argsort(descending=True, stable=True)[:len(first)]
    generator = torch.Generator().manual_seed(seed)
    random = [active[torch.randperm(len(active), generator=generator)[:len(marked)].to(active.device)] for _ in range(DRAWS)]
    nothing, gendered, alone, every = active[:0], active[marked], active[alone[like[alone]]], active[like]
    ways = {"original": ("ambiguous", nothing, [nothing], 0), "zeroed": ("ambiguous", nothing, [gendered], len(first)),
            "retrained": ("ambiguous", None, [gendered], len(first)), "random zeroed": ("ambiguous", nothing, random, 0),
            "random retrained": ("ambiguous", None, random, 0), "by correlation": ("ambiguous", None, [alone], len(first)),
            "every gender-like": ("ambiguous", None, [every], len(active)), "oracle": ("oracle", nothing, [nothing], 0)}
    rows = []
    for way, (trained_on, kept, drawn, looked_at) in ways.items():
        tries = []
        for without in drawn:
            odds = classifier(_without(sae, pooled[trained_on], without if kept is None else kept), sets[trained_on].label)
            tries.append(_judged(odds(_without(sae, pooled["balanced"], without)), sets["balanced"]))
        rows.append(dict(way=way, **pd.DataFrame(tries).mean(), removed=len(drawn[0]), read=looked_at))
    return Removal(ranking, pd.DataFrame(rows), len(active), node)


def _judged(odds: np.ndarray, test: Sentences) -> dict[str, float]:
    right = (odds > 0) == test.label
    groups = [right[(test.label == a) & (test.gender == b)].mean() for a in (0, 1) for b in (0, 1)]
    return dict(accuracy=right.mean(), worst_group=min(groups), gender=((odds > 0) == test.gender).mean(), label_auroc=auroc(odds, test.label))


def _pooled(model: LanguageModel, sae: Autoencoder, said: Sentences, pool: str) -> torch.Tensor:
    """`(n, D)` features of each sentence, of its last word or on the average of its words."""
    ids = model.tokenizer.get_vocab()
    observed = observe(model, [[1, *(ids[word] for word in text.split())] for text in said.texts], [sae.site])
    z = sae.encode(observed.activity[sae.site])
    if pool == "last":
        return z[observed.last]
    total = z.new_zeros(observed.prompts, z.shape[1]).index_add_(0, observed.prompt, z)
    return total / torch.bincount(observed.prompt)[:, None]


def _without(sae: Autoencoder, z: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    z = z.clone()
    z[:, features] = 0
    return sae.decode(z)


def measure(model: LanguageModel, seeds: Iterable[int] = range(5), setting: str = "people", site: Site = ("residual", 2), n: int = 300,
            **trained) -> pd.DataFrame:
    """The numbers of `remove` over seeds, which decide the autoencoder and the sentences: a frame, a row a way, with the mean and the ends of a
    95 % bootstrap interval over seeds of accuracy, worst_group, gender and label_auroc; removed and read, mean numbers of features; seeds, how
    many. trained: to `dictionary`.

        >>> found = mct.sae.shortcut.measure(model, seeds=[0], n=40, features=64, steps=5)
        >>> found[["way", "seeds"]].head(2)
                way  seeds
        0  original      1
        1    zeroed      1
    """
    found = []
    for seed in bar(list(seeds), "removing a shortcut"):
        found.append(remove(model, dictionary(model, site, seed=seed, **trained), setting, seed, n).accuracy)
    if not found:
        raise InputError("seeds is empty; give at least one seed")
    rows = []
    for i, way in enumerate(found[0]["way"]):
        row = dict(setting=setting, way=way)
        for name in ("accuracy", "worst_group", "gender", "label_auroc"):
            values = [float(frame[name][i]) for frame in found]
            low, high = interval(values)
            row |= {name: np.mean(values), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row | {name: np.mean([frame[name][i] for frame in found]) for name in ("removed", "read")} | dict(seeds=len(found)))
    return pd.DataFrame(rows)
