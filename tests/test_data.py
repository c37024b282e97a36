"""Published data sets: what the loaders make of the files."""

import csv
import json
from types import SimpleNamespace

import pytest
from conftest import asset

import mctrace_nb as mct
from mctrace_nb.__main__ import main
from mctrace_nb.errors import InputError
from mctrace_nb.tasks import LOADERS, check_spec, load_task, raw_pairs, vig_professions


@pytest.fixture(scope="module")
def folder():
    return asset("README.md").parent


@pytest.fixture(scope="module")
def gpt2():
    from transformers import AutoTokenizer

    return SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(asset("tokenizers/gpt2")), name="gpt2")


def rows(path):
    with open(asset(path), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def everything(task):
    return task.search + task.heldout


# --- the pairs ---

COUNTS = {"winobias": (160, 160), "winobias:test": (130, 130), "winobias:anti": (160, 160), "winobias:test:anti": (130, 130),
          "winobias:published": (160, 160), "winobias:type2": (52, 30), "winobias:type2:anti": (53, 30), "winobias:type2:test": (62, 41),
          "winogender": (44, 44), "winogender:bergsma": (44, 44), "vig_professions": (4743, 2516), "counterfact": (100, 100),
          "ioi": (499, 499), "greater_than": (1000, 837)}


@pytest.mark.parametrize("spec", COUNTS)
def test_counts_with_the_gpt2_tokenizer(folder, gpt2, spec):
    published, usable = COUNTS[spec]
    pairs, task = raw_pairs(spec, folder), load_task(spec, gpt2, n=None, data_dir=folder)
    assert (len(pairs), len(everything(task))) == (published, usable)
    left_out = [note for note in task.notes if note.startswith(f"{published - usable} of {published} rows left out")]
    assert len(left_out) == (published > usable)
    assert not {e.group for e in task.search} & {e.group for e in task.heldout} and all(e.group for e in everything(task))
    assert all(len(e.base) == len(e.counterfactual) and e.subject for e in everything(task))


def test_samples_repeat_themselves_and_take_what_there_is(folder, gpt2):
    tasks = [load_task("ioi", gpt2, n=20, seed=seed, data_dir=folder) for seed in (3, 3, 4)]
    assert tasks[0] == tasks[1] and set(everything(tasks[0])) != set(everything(tasks[2])) and len(everything(tasks[0])) == 20
    assert "n=64 asked for; there are 44" in load_task("winogender", gpt2, data_dir=folder).notes[0]


def test_winobias_is_the_published_list_in_its_order():
    """Texts and order of the 160 examples of Vig et al.; they put a space before the last full stop."""
    published = rows("published/vig2020_gpt2_unfiltered_dev_examples.csv")
    ours = raw_pairs("winobias", asset("winobias"))
    assert [(p["base"], p["counterfactual"]) for p in ours] == [(r["base_string1"], r["base_string2"]) for r in published]
    tight = [(r["candidate1"].replace(" ", ""), r["candidate2"].replace(" ", "")) for r in published]
    assert [(p["foil"].replace(" ", ""), p["target"].replace(" ", "")) for p in ours] == tight


def test_winobias_by_hand(folder):
    first = dict(base="The mover said thank you to the housekeeper because she", target=" is grateful.", foil=" cleaned the truck.",
                 counterfactual="The mover said thank you to the housekeeper because he", cohort="male", group="housekeeper/mover")
    assert raw_pairs("winobias", folder)[0] == first
    assert raw_pairs("winobias:anti", folder)[0] == {**first, "target": first["foil"], "foil": first["target"]}
    assert raw_pairs("winobias:type2", folder)[0] == dict(
        base="The developer argued with the designer and slapped", counterfactual="The designer argued with the developer and slapped",
        target=" him", foil=" her", cohort="female", group="designer/developer")


def test_possessives_keep_their_pronoun(folder):
    """6 of the 160 pairs end in her/his; the code of arXiv 2606.03085 says she/he there."""
    pairs = raw_pairs("winobias", folder)
    possessive = [i for i, p in enumerate(pairs) if p["base"].endswith(" her") and p["counterfactual"].endswith(" his")]
    assert len(possessive) == 6 and pairs[possessive[0]]["base"] == "The construction worker asked the attendant to not lose her"
    published = raw_pairs("winobias:published", folder)
    assert all(p["base"].endswith(" she") for p in published)
    assert possessive == [i for i, (ours, theirs) in enumerate(zip(pairs, published)) if ours != theirs]


def test_winogender_by_hand(folder):
    """44 pairs as in the published runs; the continuation of an occupation goes with its majority."""
    pairs = {p["group"]: p for p in raw_pairs("winogender", folder)}
    assert {int(r["examples"]) for r in rows("published/vig2020_summary.csv") if r["run"].endswith("s_gpt2_unfiltered")} == {len(pairs)}
    assert pairs["nurse"] == dict(base="The nurse notified the patient that her", counterfactual="The nurse notified the patient that his",
                                  foil=" shift would be ending in an hour.", target=" blood would be drawn in an hour.",
                                  group="nurse", cohort="female")
    assert pairs["technician"]["foil"] == " could pay with cash." and pairs["technician"]["cohort"] == "male"
    assert sum(p["base"].endswith(" her") for p in pairs.values()) == 5  # 10 of 88 sentences
    other = {p["group"]: p for p in raw_pairs("winogender:bergsma", folder)}  # an accountant of the corpus is a man, and so on
    assert {g for g in pairs if pairs[g] != other[g]} >= {"pharmacist", "secretary"} and other["pharmacist"]["cohort"] == "male"


def test_professions_are_the_lists_of_vig_et_al(folder):
    for cohort in ("female", "male"):
        listed = json.loads(asset(f"professions/professions_{cohort}_stereo.json").read_text())
        everyone = json.loads(asset("professions/professions.json").read_text())
        ours = [p for p in vig_professions.sentences(everyone, ("said that",)) if p["cohort"] == cohort]
        assert [p["base"] for p in ours] == [f"The {word.replace('_', ' ')} said that" for word, *_ in listed]
    pairs = raw_pairs("vig_professions", folder)
    assert pairs[0] == dict(base="The accountant said that", counterfactual="The woman said that", target=" she", foil=" he",
                            group="said that", cohort="male")
    assert len({p["group"] for p in pairs}) == 17 and not any("actress" in p["base"] or "fireman" in p["base"] for p in pairs)
    assert any(p["base"] == "The adjunct professor was promoted because" for p in pairs)


def test_counterfact_in_both_formats(folder, gpt2, tmp_path):
    requests = json.loads(asset("counterfact/counterfact_100.json").read_text())
    whole = [{"case_id": i, "requested_rewrite": r} for i, r in enumerate(requests)]
    (tmp_path / "counterfact.json").write_text(json.dumps(whole))
    pairs = raw_pairs("counterfact", tmp_path)
    assert pairs == raw_pairs("counterfact", folder)
    assert pairs[0] == dict(base="The twin city of Tirana is", subject="Tirana", target=" Shanghai", foil=" Beijing", group="P190")
    for e in everything(load_task("counterfact", gpt2, n=None, data_dir=folder)):
        assert e.base == e.counterfactual
        assert gpt2.tokenizer.decode(e.base[slice(*e.subject)]).strip() == pairs[e.number]["subject"]


def test_minimal_pairs_by_hand(folder):
    assert raw_pairs("ioi", folder)[0] == dict(
        base="Then, Aaron and Amber were working at the house. Aaron decided to give a drink to",
        counterfactual="Then, Aaron and Amber were working at the house. Amber decided to give a drink to",
        foil=" Amber", target=" Aaron", group="Aaron/Amber")
    labels = [int(r["label"]) for r in rows("minimal_pairs/greater_than_data.csv")]
    pairs = raw_pairs("greater_than", folder, seed=5)
    assert all(2 <= int(p["target"]) <= label < int(p["foil"]) <= 99 and len(p["target"]) == len(p["foil"]) == 2
               for p, label in zip(pairs, labels))
    assert pairs == raw_pairs("greater_than", folder, seed=5) != raw_pairs("greater_than", folder, seed=6)
    assert pairs[0]["base"] == "The contract lasted from the year 1352 to the year 13" and pairs[0]["group"] == "contract"


def numbers(prompt):
    x, y, operation = prompt.replace("x = ", "").replace(" y = ", "").replace(". x ", ",").replace(" y =", "").split(",")
    return int(x), int(y), operation


@pytest.mark.parametrize("name", ["variable_binding", "variable_binding_operation"])
def test_variable_binding(gpt2, name):
    task = load_task(name, gpt2, n=60, seed=2)
    said, used = task.text, []
    for half in (task.search, task.heldout):
        assert len(half) == len({e.base for e in half}) == 30
        used.append(set())
        for e in half:
            (x, y, operation), (x2, y2, operation2) = numbers(said(e.base)), numbers(said(e.counterfactual))
            used[-1] |= {(x, y), (x2, y2)}
            results = [a + b if op == "+" else a - b for a, b, op in ((x, y, operation), (x2, y2, operation2))]
            assert [said(e.foil), said(e.target)] == [f" {r}" for r in results] and all(10 <= r <= 99 for r in results)
            changed = [x != x2, y != y2, operation != operation2]
            assert changed == [False, False, True] if name.endswith("operation") else sum(changed) == 1 and not changed[2]
    assert not used[0] & used[1]
    assert task == load_task(name, gpt2, n=60, seed=2) != load_task(name, gpt2, n=60, seed=3)
    twin = load_task("variable_binding", gpt2, n=60, seed=2)
    assert [e.base for e in everything(twin)] == [e.base for e in everything(task)]


def test_generated_tasks_say_when_they_cannot(tutorial, gpt2):
    for model, n, message in ((tutorial, 8, "0 can be made; ask for fewer; for example prompt 0: base .* does not know"),
                              (gpt2, 3000, "1500 pairs asked for in one half"), (gpt2, None, "n=None.*at least 2")):
        with pytest.raises(InputError, match=message):
            load_task("variable_binding_operation", model, n=n)


def test_noise_on_counterfact_subjects(folder):
    model = mct.load_model(str(asset("models/stories260K/config.json").parent), device="cpu")
    task = load_task("counterfact", model, n=6, data_dir=folder)
    trace = mct.Trace(model, task, "attn_block", corruption="noise")
    assert trace.total_effects().abs().min() > 0


# --- specs ---

SPECS = {"winobais": "did you mean 'winobias'", "winobias:tets": "unknown variant of winobias 'tets'; did you mean 'test'",
         "winobias:dev:test": "asks for 'dev' and 'test'; choose one of dev, test", "ioi:test": "'ioi' has no variants",
         "names:easy": "'names' has no variants", "winobias:": "unknown variant of winobias ''"}


@pytest.mark.parametrize("spec", SPECS)
def test_specs_are_checked(spec):
    for ask in (check_spec, lambda spec: load_task(spec, None)):
        with pytest.raises(InputError, match=SPECS[spec]):
            ask(spec)


def test_specs_that_are_known():
    for spec in (*LOADERS, "winobias:anti:test", "mine.csv", "folder/mine.jsonl"):
        check_spec(spec)


def test_options_that_do_not_fit(folder, gpt2):
    for options, message in ((dict(spec="ioi", n=-1), "n=-1"),
                             (dict(spec="winobias:type2:published"), "leave out 'published' or 'type2'"),
                             (dict(spec="ioi", heldout=1.0), "heldout=1.0 must lie"), (dict(spec="ioi", data_dir="/no/such"), "is not a folder")):
        with pytest.raises(InputError, match=message):
            load_task(**{"data_dir": folder, "model": gpt2, **options})
    with pytest.raises(InputError, match="'names' is generated"):
        raw_pairs("names")


# --- files ---

def test_assets_are_the_published_files(folder):
    """The pinned hashes are those of the upstream files."""
    checked = 0
    for loader in LOADERS.values():
        for file, sha256 in getattr(getattr(loader, "source", None), "files", {}).items():
            notes = []
            loader.source.fetch(file, folder, notes)
            checked += sha256 is not None
            assert not notes
    assert checked == 17  # winobias 10, winogender 2, professions 1, minimal pairs twice 2


def test_a_copy_of_another_format_is_refused(tmp_path, gpt2):
    (tmp_path / "counterfact.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="a file of counterfact is not in the published format"):
        load_task("counterfact", gpt2, data_dir=tmp_path)


# --- the command ---

def test_the_command_lists_every_task(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MCTRACE_DATA", str(tmp_path / "cache"))
    (tmp_path / "winogender").mkdir()
    (tmp_path / "winogender" / "templates.tsv").write_text("")
    assert main(["tasks", "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{said}" for name in LOADERS) and "type1|type2, dev|test, pro|anti, published" in said
    assert f"{tmp_path / 'winogender'} (1 of 2 files)" in said and "not yet downloaded" in said and "arXiv 1804.06876" in said
    assert main(["tasks", "--data-dir", str(tmp_path / "no")]) == 2 and "is not a folder" in capsys.readouterr().err
