"""CounterFact: facts with a subject, a true and a false object; for noise on the subject (corruption="noise")."""

from __future__ import annotations

import json

from mctrace_nb.tasks.datasets import DataSet, Read
from mctrace_nb.tasks.sources import Source

SOURCE = Source(
    files={"counterfact.json": None},  # the publisher gives no hash
    extracts={"counterfact.json": "counterfact_100.json"},
    folders=("counterfact",),
    url="https://rome.baulab.info/data/dsets",
    licence="MIT",
    citation="Meng, Bau, Andonian, Belinkov: Locating and Editing Factual Associations in GPT, NeurIPS 2022, arXiv 2202.05262",
)


def pairs(read: Read, variants: tuple[str, ...] = (), seed: int = 0) -> list[dict]:
    """Prompts with their subject and without a counterfactual: foil is the true object, which the prompt favours, target
    the false one. Group: the relation.

    The records are those of the published file (the request under "requested_rewrite") or the requests themselves.
    """
    records = json.loads(read("counterfact.json").read_text(encoding="utf-8"))
    requests = [record.get("requested_rewrite", record) for record in records]
    return [dict(base=r["prompt"].replace("{}", r["subject"]), subject=r["subject"], target=f" {r['target_new']['str']}",
                 foil=f" {r['target_true']['str']}", group=r["relation_id"]) for r in requests]


DATASET = DataSet(SOURCE, pairs, "21,919")
