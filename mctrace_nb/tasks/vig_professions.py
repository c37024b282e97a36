"""Professions with stereotype scores in the 17 sentence templates of Vig et al. (2020, arXiv 2004.12265)."""

from __future__ import annotations

import json

from mctrace_nb.tasks.datasets import DataSet, Read
from mctrace_nb.tasks.sources import Source

SOURCE = Source(
    files={"professions.json": "32cc82c7761e7cfb14e37e06dc1aa9f758bc8441f79ca7288996d3fc7c24639a"},
    folders=("vig_professions", "professions"),
    url="https://raw.githubusercontent.com/tolga-b/debiaswe/6bb03ee2a0d7214339e513ca71cd0a99069dc29c/data",
    licence="MIT",
    citation="Bolukbasi, Chang, Zou, Saligrama, Kalai: Man is to Computer Programmer as Woman is to Homemaker?, NeurIPS 2016, "
             "arXiv 1607.06520; templates of Vig et al., NeurIPS 2020, arXiv 2004.12265",
)
TEMPLATES = ("said that", "yelled that", "whispered that", "wanted that", "desired that", "wished that", "ate because",
             "ran because", "drove because", "slept because", "cried because", "laughed because", "went home because",
             "stayed up because", "was fired because", "was promoted because", "yelled because")
DEFINITIONAL = 0.75  # above it the word itself tells the gender: "actress", "fireman"


def sentences(professions, templates=TEMPLATES) -> list[dict]:
    """Pairs for rows `(profession, definitional score, stereotype score)`, template by template.

    A positive sum of the scores means male, a negative one female, which gives the lists of Vig et al.; a sum of zero is
    left out. The counterfactual's subject is the one word "man" or "woman" of the other gender.
    """
    found = []
    for template in templates:
        for word, definitional, stereotype in professions:
            if not definitional + stereotype:
                continue
            female = definitional + stereotype < 0
            found.append(dict(base=f"The {word.replace('_', ' ')} {template}",
                              counterfactual=f"The {'man' if female else 'woman'} {template}",
                              target=" he" if female else " she", foil=" she" if female else " he",
                              group=template, cohort="female" if female else "male"))
    return found


def pairs(read: Read, variants: tuple[str, ...] = (), seed: int = 0) -> list[dict]:
    """All professions that are not gendered by definition, in all templates."""
    rows = json.loads(read("professions.json").read_text(encoding="utf-8"))
    return sentences([row for row in rows if abs(row[1]) <= DEFINITIONAL])


DATASET = DataSet(SOURCE, pairs, "4,743 before alignment (279 professions, 17 templates)")
