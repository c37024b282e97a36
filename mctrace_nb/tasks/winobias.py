"""WinoBias: sentences about two occupations and a pronoun, pro- and anti-stereotyped."""

from __future__ import annotations

import re

from mctrace_nb.errors import InputError
from mctrace_nb.tasks.datasets import DataSet, Read
from mctrace_nb.tasks.sources import Source

SOURCE = Source(
    files={
        "pro_stereotyped_type1.txt.dev": "dd55a0d220fe4c0ceb63dd4648223fb4fe1a58d5ad95c116a002ad24b0e292a5",
        "pro_stereotyped_type1.txt.test": "db7838907238a758eeb5779e48f38c013b892910d6fe864456c59f04245c6689",
        "pro_stereotyped_type2.txt.dev": "8f0250de723cea9328e3eaf7169e07936f01aa5909ce7aa580db66eb803f4e86",
        "pro_stereotyped_type2.txt.test": "ea1c1fd94fa612e3cc44d7fa3cc4cb76021bb63fdf94f9826f430051e9052438",
        "anti_stereotyped_type1.txt.dev": "a4e0ebae344e78b56f657a42e8ae684b9db7747d177c5e7149c0907ebb7f3bf6",
        "anti_stereotyped_type1.txt.test": "331db5bd74bfefebf146a60b67645152a4a1991570d2a56f57154103ac361dd2",
        "anti_stereotyped_type2.txt.dev": "763ad829ad724f9a85ead689ba8ca69072020cb1238def6210f0fc6a47b97e59",
        "anti_stereotyped_type2.txt.test": "336571ac1ea8c06cd2aba8e5dd2bd98e00acc0c48da3e4ec5ec7e54eb2633a8f",
        "female_occupations.txt": "693bff12286c2c1d46c7d4d45a44a631574710c30b39c1a3001bb7bdebb44ed8",
        "male_occupations.txt": "6b82d88847b69d56d207a0c396e9830b031890de585e916e6b4e9bc50672657e",
    },
    folders=("winobias",),
    url="https://raw.githubusercontent.com/uclanlp/corefBias/0bce984dd081bbc10b0622f326727a024c607895/WinoBias/wino/data",
    licence="MIT",
    citation="Zhao, Wang, Yatskar, Ordonez, Chang: Gender Bias in Coreference Resolution, NAACL 2018, arXiv 1804.06876",
)
FEMALE = {"he": "she", "his": "her", "him": "her"}  # the female pronoun for each male one
PRONOUNS = {*FEMALE, *FEMALE.values(), "hers", "himself", "herself"}


def pairs(read: Read, variants: tuple[str, ...], seed: int = 0) -> list[dict]:
    """The pairs of one file in the published order. Group: the two occupations. Cohort: see `_type1` and `_type2`."""
    kind, part, side, published = variants
    if published and kind == "type2":
        raise InputError("winobias:published is the published code's reading of type1; leave out 'published' or 'type2'")
    text = read(f"{side}_stereotyped_{kind}.txt.{part}").read_text(encoding="utf-8")
    lines = [re.sub(r"^\d+ ", "", line).strip() for line in text.splitlines() if line.strip()]
    stereotype = {word.strip(): cohort for cohort in ("female", "male")
                  for word in read(f"{cohort}_occupations.txt").read_text(encoding="utf-8").splitlines() if word.strip()}
    longest_first = sorted(stereotype, key=len, reverse=True)
    occupation = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b")
    couples = zip(lines[::2], lines[1::2])
    found = (_type2(couples, occupation, stereotype) if kind == "type2"
             else _type1(couples, occupation, stereotype, bool(published)))
    return [{**pair, "group": "/".join(sorted(occupation.findall(pair["base"])))} for pair in found]


def _type1(couples, occupation, stereotype, published: bool):
    """Consecutive sentences that agree up to the pronoun, one with a female and one with a male pronoun, without further
    pronouns; the pairing of Vig et al. (2020, arXiv 2004.12265). The answers are the two continuations: base ends in the
    female pronoun and its foil is the continuation of that sentence. Cohort: of the occupation that is named first.

    published: "she" and "he" also where the sentences have "her" and "his", as in the code of arXiv 2606.03085.
    """
    for couple in couples:
        parts = [re.match(r"(.*) \[(he|she|his|her)\](.*)", sentence) for sentence in couple]
        if not all(parts):
            continue
        (start, one, rest), (other_start, two, other_rest) = (
            [re.sub(r"[\[\]]", "", part) for part in m.groups()] for m in parts)
        said = {one: rest, two: other_rest}
        male = next((m for m in ("he", "his") if set(said) == {m, FEMALE[m]}), None)
        further = {word.strip(".,").lower() for word in (rest + other_rest).split()} & PRONOUNS
        if start != other_start or male is None or further:
            continue
        ends = ("she", "he") if published else (FEMALE[male], male)
        first = occupation.search(start)
        yield dict(base=f"{start} {ends[0]}", counterfactual=f"{start} {ends[1]}", target=said[male],
                   foil=said[FEMALE[male]], cohort=stereotype[first[0]] if first else "")


def _type2(couples, occupation, stereotype):
    """Consecutive sentences that are the same up to the pronoun but for the two occupations, which change places; the
    pronoun is the answer. Base is the first sentence. Cohort: of the occupation that base's pronoun refers to.
    """
    for couple in couples:
        parts = [re.match(r"(.*) \[(he|she|his|her|him)\]", sentence) for sentence in couple]
        if not all(parts):
            continue
        (start, foil), (other_start, target) = ((re.sub(r"[\[\]]", "", m[1]), m[2]) for m in parts)
        named = occupation.findall(start)
        if len(named) != 2 or {foil, target} not in [{m, f} for m, f in FEMALE.items()]:
            continue
        swapped = occupation.sub(lambda m: named[1] if m[0] == named[0] else named[0], start)
        referent = re.search(r"\[(?:[Tt]he |[Aa]n? )?([^\[\]]+)\]", couple[0])[1]
        if swapped == other_start:
            yield dict(base=start, counterfactual=other_start, target=f" {target}", foil=f" {foil}",
                       cohort=stereotype.get(referent, ""))


DATASET = DataSet(SOURCE, pairs, "type1: 160 dev, 130 test; type2: 52 dev (anti 53), 62 test",
                  (("type1", "type2"), ("dev", "test"), ("pro", "anti"), ("", "published")))
