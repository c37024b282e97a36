"""Winogender: one sentence template for each of 60 occupations, with two endings."""

from __future__ import annotations

import csv
import re

from mctrace_nb.tasks.datasets import DataSet, Read
from mctrace_nb.tasks.sources import Source

SOURCE = Source(
    files={"templates.tsv": "496f2e2dc77296bcebcdd8865a8dc5715ce22b772de9abb5f531d5b3114c48a0",
           "occupations-stats.tsv": "3f7f37c16381a70571356982ea7fe613ac700ad04a6d3b19b9f2be18248df567"},
    folders=("winogender",),
    url="https://raw.githubusercontent.com/rudinger/winogender-schemas/1c7f8b481ad8a234b41e9f76a424d6e856e13f7f/data",
    licence="MIT",
    citation="Rudinger, Naradowsky, Leonard, Van Durme: Gender Bias in Coreference Resolution, NAACL 2018, arXiv 1804.09301",
)
PRONOUNS = {"NOM": ("she", "he"), "POSS": ("her", "his"), "ACC": ("her", "him")}


def pairs(read: Read, variants: tuple[str, ...], seed: int = 0) -> list[dict]:
    """The occupations whose two sentences agree up to the pronoun (Vig et al. 2020, arXiv 2004.12265), in the file's order.

    The answers are the two continuations. The occupation's belongs to the pronoun of the gender that holds the majority
    in it by the statistics of the variant ("bls": US labour bureau, "bergsma": text corpus), the participant's to the
    other. Base ends in the female pronoun. Cohort: the majority's gender; group: the occupation.
    """
    with open(read("occupations-stats.tsv"), encoding="utf-8", newline="") as file:
        share = {row["occupation"]: float(row[f"{variants[0]}_pct_female"]) for row in csv.DictReader(file, delimiter="\t")}
    with open(read("templates.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = []
    for one, two in zip(rows[::2], rows[1::2]):
        starts, forms, rests = zip(*(_parts(row) for row in (one, two)))
        if len(set(starts)) > 1 or len(set(forms)) > 1:
            continue
        about_occupation, about_participant = rests if one["answer"] == "0" else rests[::-1]
        name = one["occupation(0)"]
        women = share[name] > 50
        female, male = PRONOUNS[forms[0]]
        found.append(dict(base=starts[0] + female, counterfactual=starts[0] + male,
                          foil=about_occupation if women else about_participant,
                          target=about_participant if women else about_occupation,
                          group=name, cohort="female" if women else "male"))
    return found


def _parts(row: dict) -> tuple[str, str, str]:
    """Start, form of the pronoun, and rest of a template with its words filled in."""
    sentence = row["sentence"].replace("$OCCUPATION", row["occupation(0)"])
    sentence = sentence.replace("$PARTICIPANT", row["other-participant(1)"])
    return re.match(r"(.*?)\$(NOM|POSS|ACC)_PRONOUN(.*)", sentence).groups()


DATASET = DataSet(SOURCE, pairs, "44", (("bls", "bergsma"),))
