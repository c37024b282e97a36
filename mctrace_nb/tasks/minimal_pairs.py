"""Two classic circuits as minimal pairs: indirect object identification (`ioi`) and `greater_than`."""

from __future__ import annotations

import csv
import re
from random import Random

from mctrace_nb.tasks.datasets import DataSet, Read
from mctrace_nb.tasks.sources import Source

SOURCE = Source(
    files={"ioi_llama.csv": "8d457ed826f8b69bddee0853b0f1882f870ae0c392b1661a23f665cefccfcf0a",
           "greater_than_data.csv": "8a7dd2764bbbda12ddc03795ac62f8f99a61c4a9deedefd61abd7d6b98c4f81d"},
    folders=("minimal_pairs", "ioi", "greater_than"),
    url="https://raw.githubusercontent.com/hannamw/EAP-IG/795f5607b25638935aec89aee3c1cb4bd9ed72f1",
    licence="MIT",
    citation="Hanna, Pezzelle, Belinkov: Have Faith in Faithfulness, COLM 2024, arXiv 2403.17806; tasks of Wang et al., "
             "ICLR 2023, arXiv 2211.00593 (IOI) and Hanna, Liu, Variengien, NeurIPS 2023, arXiv 2305.00586 (greater-than)",
)


def _rows(read: Read, file: str) -> list[dict]:
    with open(read(file), encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def ioi_pairs(read: Read, variants: tuple[str, ...] = (), seed: int = 0) -> list[dict]:
    """"When Ann and Bob ..., Bob gave it to": the answer is the name that is said once, " Ann".

    The counterfactual names the other giver, so that the two names swap roles. Names are read from the text, whatever the
    tokenizer; the published columns of token ids are not used. Group: the two names.
    """
    found = []
    for row in _rows(read, "ioi_llama.csv"):
        # Every sentence begins with a capitalised word that is no name.
        clean, hard = (re.findall(r"\b[A-Z]\w*", row[side])[1:] for side in ("clean", "corrupted_hard"))
        (one, two, giver), (*_, other_giver) = clean, hard
        receiver = {one: two, two: one}
        found.append(dict(base=row["clean"], counterfactual=row["corrupted_hard"], foil=f" {receiver[giver]}",
                          target=f" {receiver[other_giver]}", group="/".join(sorted((one, two)))))
    return found


def greater_than_pairs(read: Read, variants: tuple[str, ...] = (), seed: int = 0) -> list[dict]:
    """"The plan lasted from the year 1642 to the year 16": the answer is a later year, two digits without a space.

    The counterfactual starts in the year 01, after which earlier years are possible too. foil: a year from the label + 1
    to 99; target: a year from 02 to the label; one of each is drawn by the seed, the same for equal prompts. Group: the noun.
    """
    found = []
    for row in _rows(read, "greater_than_data.csv"):
        rng, label = Random(f"{seed}/{row['clean']}"), int(row["label"])
        found.append(dict(base=row["clean"], counterfactual=row["corrupted"], foil=f"{rng.randint(label + 1, 99):02d}",
                          target=f"{rng.randint(2, label):02d}", group=row["clean"].split()[1]))
    return found


IOI = DataSet(SOURCE, ioi_pairs, "499")
GREATER_THAN = DataSet(SOURCE, greater_than_pairs, "975 (1,000 rows, some of them repeated)", spaced=False)
