"""Prompt pairs of the user's own: what is checked, what is said about it, and what comes out."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import asset

import mctrace_nb as mct
from mctrace_nb.errors import InputError
from mctrace_nb.tasks import Task, load_task
from mctrace_nb.tasks.encode import Encoder

PAIR = dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")
SUBJECTS = "nurse secretary dancer librarian teacher tailor cleaner florist".split()
SEVERAL = [{**PAIR, "base": f"the {who} said that"} for who in SUBJECTS]


def tokenizer_of(path):
    from transformers import AutoTokenizer

    return SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(asset(path)), name=path)


@pytest.fixture(scope="module")
def gpt2():
    return tokenizer_of("tokenizers/gpt2")


@pytest.fixture(scope="module")
def llama():
    return tokenizer_of("models/stories260K")


def lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


# --- sources ---

def test_lists_frames_csv_and_jsonl_give_the_same_task(tutorial, tmp_path):
    frame = pd.DataFrame(SEVERAL)
    frame.to_csv(tmp_path / "mine.csv", index=False, encoding="utf-8-sig")  # as spreadsheets write it, with a mark
    given = [Task.from_pairs(SEVERAL, tutorial, "mine"), Task.from_pairs(frame, tutorial, "mine"),
             Task.from_file(tmp_path / "mine.csv", tutorial, source=""), Task.from_file(lines(tmp_path / "mine.jsonl", SEVERAL), tutorial),
             load_task(str(tmp_path / "mine.csv"), tutorial)]
    assert len({task.search for task in given}) == len({task.heldout for task in given}) == 1
    assert {task.name for task in given} == {"mine"} and given[2].source == "mine.csv" and len(given[0].search) == 4


def test_cohort_and_columns(tutorial, tmp_path):
    rows = [dict(prompt=p["base"], other=p["counterfactual"], target="he", foil="she", cohort=i % 2) for i, p in enumerate(SEVERAL)]
    for columns in ({"base": "prompt", "counterfactual": "other"}, "base=prompt, counterfactual=other"):
        task = load_task(lines(tmp_path / "mine.jsonl", rows), tutorial, columns=columns, heldout=0, n=None)
        assert [e.cohort for e in task.search] == list("01010101") and task.to_frame().cohort[1] == "1"


def test_a_file_of_mistakes_is_not_told_in_full(tutorial):
    rows = [dict(base=f"the zzz{i} said that", counterfactual="the man said that", target="he", foil="she") for i in range(13)]
    with pytest.raises(InputError) as caught:
        Task.from_pairs(rows, tutorial)
    said = str(caught.value)
    assert said.startswith("13 of 13 prompt pairs") and "'zzz9'" in said and "'zzz10'" not in said and said.endswith("; and 3 more")


def test_line_numbers_are_those_of_the_file(tutorial, tmp_path):
    """Cells with line breaks and empty lines count as the lines they take."""
    good = "the {} said that,the man said that,he,she,{}\n"
    path = tmp_path / "mine.csv"
    path.write_text("base,counterfactual,target,foil,group\n" + good.format("nurse", '"a\nb\nc"') + "\n"
                    + good.format("zzz", "g") + good.format("dancer", '"d\ne"') + "the man said that,the man said that,he,she,g\n"
                    + "the tailor said that,he\n")
    with pytest.raises(InputError) as caught:
        Task.from_file(path, tutorial)
    said = str(caught.value)
    assert said.startswith("3 of 5 prompt pairs cannot be used: line 6: base 'the zzz said that' holds 'zzz'") and "\n" not in said
    assert "; line 9: base and counterfactual are the same" in said and "; line 10: 2 cells where the header has 5" in said
    task = Task.from_file(path, tutorial, skip_bad_rows=True, heldout=0)
    assert [e.called(0) for e in task.search] == ["line 2", "line 7"]
    assert task.notes[0].startswith("3 of 5 rows left out: line 6: ") and "1 note, see" in repr(task)


def test_all_that_is_wrong_with_a_pair_is_said_at_once(tutorial):
    with pytest.raises(InputError, match="prompt 0: base .*'yyy'.*prompt 0: counterfactual .*'zzz'.*prompt 0: target and foil are the same"):
        Task.from_pairs([{**PAIR, "base": "the yyy said", "counterfactual": "the zzz said", "foil": "he"}], tutorial)


FILES = {
    "missing": ("no.csv", None, "is not there"),
    "folder": ("folder.csv", ..., "is a folder"),
    "suffix": ("mine.txt", b"", "neither .csv nor .jsonl"),
    "encoding": ("mine.csv", b"base\nx\n\xff\n", "line 3: not UTF-8"),
    "empty": ("mine.jsonl", b"\n", "holds no prompt pairs"),
    "header alone": ("mine.csv", b"base,foil\n", "holds no prompt pairs"),
    "quote": ("mine.csv", b'base,foil\na,b\n"a,b\n', "line 3: unexpected end of data; close every quote"),
    "twice": ("mine.csv", b"base,base\na,b\n", "two columns 'base'"),
    "json": ("mine.jsonl", b'\n{"base": "a"\n', "line 2: broken JSON at character 13"),
    "no object": ("mine.jsonl", b'["a"]\n', "line 1: '\\[\"a\"\\]' is not an object"),
    "column": ("mine.csv", b"bases,counterfactual\na,b\n", "unknown column 'bases' .*columns={'base': 'bases'} \\(--columns base=bases\\)"),
    "far column": ("mine.csv", b"prompt,counterfactual\na,b\n", "unknown column 'prompt' .*columns={'base': 'prompt'}"),
    "number": ("mine.jsonl", b'{"base": "a", "counterfactual": "b", "target": 4, "foil": "5"}', "line 1: target is 4, not text"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_checked(tutorial, tmp_path, name):
    file, content, message = FILES[name]
    if content is ...:
        (tmp_path / file).mkdir()
    elif content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        Task.from_file(tmp_path / file, tutorial)
    assert "\n" not in str(caught.value)


COLUMNS = {
    "ours": ({"bass": "base"}, "did you mean 'base'"),
    "theirs": ({"group": "grop"}, "unknown column of the prompt pairs 'grop'"),
    "both": ({"base": "foil"}, "'base' is a column of the prompt pairs, but columns says"),
    "text": ("base", "not understood at 'base'"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_column_maps_are_checked(tutorial, name):
    columns, message = COLUMNS[name]
    with pytest.raises(InputError, match=message):
        Task.from_pairs(SEVERAL, tutorial, columns=columns)


ROWS = {
    "lengths": ([{**PAIR, "base": "yesterday the nurse said that"}], "base has 6 tokens, counterfactual 5; .*trace at positions='last'"),
    "shifted": ([{**PAIR, "base": "yesterday the nurse said that", "counterfactual": "the nurse said that dancer"}],
                "'the nurse said that' stands at token 2 of base and at token 1 of counterfactual"),
    "duplicate": ([*SEVERAL, PAIR], "prompt 8: the same pair as prompt 0; remove one"),
    "too few": (SEVERAL, "n=9 prompt pairs asked for, 8 can be used"),
    "subject": ([{**PAIR, "subject": "dancer"}], "subject 'dancer' does not stand in base"),
    "unknown key": ([{**PAIR, "cohrt": "f"}], "unknown column 'cohrt' .*'cohort': 'cohrt'"),
    "no mapping": ([PAIR, 3], "prompt 1 is 3, not a mapping"),
    "some without counterfactual": ([{**PAIR, "subject": "nurse"}, {**PAIR, "subject": "nurse", "counterfactual": None}],
                                    "prompt 1: counterfactual is missing or empty"),
    "some without subject": ([dict(base="the nurse", subject="nurse", target="he", foil="she"), dict(base="the man", target="he", foil="she")],
                             "prompt 1: subject is missing or empty"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_checked(tutorial, name):
    pairs, message = ROWS[name]
    with pytest.raises(InputError, match=message):
        Task.from_pairs(pairs, tutorial, n=9)


def test_empty_cells_of_a_frame_are_missing_values(tutorial):
    frame = pd.DataFrame([{**PAIR, "group": "g"}, {**SEVERAL[1], "group": None}]).astype("string")
    assert [e.group for e in Task.from_pairs(frame, tutorial, heldout=0).search] == ["g", ""]
    frame.loc[1, "target"] = pd.NA
    with pytest.raises(InputError, match="prompt 1: target is missing or empty"):
        Task.from_pairs(frame, tutorial)


@pytest.mark.parametrize("options, message", [(dict(n="3"), "n='3'"), (dict(n=-1), "n=-1"), (dict(heldout=1), "heldout=1 must"),
                                              (dict(heldout="x"), "heldout='x' must")])
def test_numbers_are_checked(tutorial, options, message):
    for make in (lambda: Task.from_pairs(SEVERAL, tutorial, **options), lambda: load_task("names", tutorial, **options)):
        with pytest.raises(InputError, match=message):
            make()


def test_nothing_left_is_an_error(tutorial):
    with pytest.raises(InputError, match="no prompt pair can be used: 1 of 1 rows left out: prompt 0: target and foil"):
        Task.from_pairs([{**PAIR, "foil": "he"}], tutorial, skip_bad_rows=True)


# --- drawing and splitting ---

def test_samples_repeat_themselves(tutorial):
    drawn = [Task.from_pairs(SEVERAL, tutorial, n=4, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] and drawn[0].search + drawn[0].heldout != drawn[2].search + drawn[2].heldout
    assert len(drawn[0].search) == len(drawn[0].heldout) == 2


def test_files_give_what_they_have(tutorial, tmp_path):
    task = load_task(lines(tmp_path / "mine.jsonl", SEVERAL), tutorial, n=64)
    assert len(task.search + task.heldout) == 8 and "n=64 asked for; there are 8 usable pairs" in task.notes[0]


def test_answers_that_begin_alike_are_noted(tutorial):
    task = Task.from_pairs([PAIR, {**SEVERAL[1], "target": "he that", "foil": "he said"}], tutorial, heldout=0)
    assert task.notes == ("target and foil begin with the same token in 1 of 2 pairs (prompt 1)",)


# --- tokens ---

def test_prompts_and_answers_with_a_beginning_token(llama):
    """SentencePiece puts a space before the first word and a special token before all: each once, and none in an answer."""
    pair = dict(base="One day, Lily said that", counterfactual="One day, John said that", target="he", foil="she")
    e, = Task.from_pairs([pair], llama, heldout=0, aligned=False).search
    whole = llama.tokenizer("One day, Lily said that he")["input_ids"]
    assert [*e.base, *e.target] == whole and e.base.count(1) == 1 and e.base[0] == 1 and 1 not in e.target
    assert llama.tokenizer.convert_ids_to_tokens(e.target)[0].startswith("▁")


def test_the_padding_side_changes_nothing(gpt2):
    before = Task.from_pairs(SEVERAL, gpt2, aligned=False)
    left = tokenizer_of("tokenizers/gpt2")
    left.tokenizer.padding_side, left.tokenizer.pad_token = "left", left.tokenizer.eos_token
    assert Task.from_pairs(SEVERAL, left, aligned=False) == before


def test_spaces_before_answers(gpt2):
    def answer(prompt, said):
        return gpt2.tokenizer.decode(Encoder(gpt2.tokenizer, aligned=False).example({**PAIR, "base": prompt, "target": said}).target)

    assert answer("The nurse said", "he") == answer("The nurse said", " he") == " he"
    assert answer("The nurse said", ", he") == ", he" and answer("護士說", "他") == "他"


def test_subjects_become_spans_of_tokens(gpt2):
    def span(**pair):
        e, = Task.from_pairs([{**PAIR, **pair}], gpt2, heldout=0).search
        return gpt2.tokenizer.decode(e.base[slice(*e.subject)])

    rome = dict(base="The Colosseum stands in", target="London", foil="Rome")
    assert span(**rome, subject="Colosseum", counterfactual=None) == " Colosseum"
    assert span(base="The nurse said that she", counterfactual="The nurse said that he", target="a", foil="b", subject="nurse") == " nurse"
    assert span(base="Hannah and Ann met", subject="Ann", counterfactual="") == " Ann"  # the whole word first
    e, = Task.from_pairs([{**rome, "subject": "Colosseum"}], gpt2, heldout=0).search
    assert e.base == e.counterfactual


def test_two_phrases_may_change_places(gpt2):
    swapped = dict(base="The hairdresser met the hairdresser's friend", counterfactual="The friend met the hairdresser", target="he", foil="she")
    with pytest.raises(InputError, match="tokens"):
        Task.from_pairs([swapped], gpt2, heldout=0)
    aligned = dict(base="The New York and New Delhi teams", counterfactual="The New Delhi and New York teams", target="a", foil="b")
    assert Task.from_pairs([aligned], gpt2, heldout=0).search[0].subject == (2, 6)


def test_noise_on_subjects_without_a_counterfactual(tutorial):
    pairs = [dict(base=p["base"], target="he", foil="she", subject=who) for p, who in zip(SEVERAL, SUBJECTS)]
    task = Task.from_pairs(pairs, tutorial, heldout=0)
    assert {e.subject for e in task.search} == {(2, 3)}  # after the beginning token and "the"
    assert mct.Trace(tutorial, task, "head_output", corruption="noise").total_effects().abs().min() > 0


def test_a_chat_begins_once(llama):
    chatty = SimpleNamespace(tokenizer=tokenizer_of("models/stories260K").tokenizer, name="chatty")
    with pytest.raises(InputError, match="chat=True needs a tokenizer with a chat template"):
        Task.from_pairs([PAIR], chatty, chat=True, heldout=0)
    chatty.tokenizer.chat_template = ("{{ bos_token }}{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}"
                                      "{% if add_generation_prompt %}Reply:{% endif %}")
    e, = Task.from_pairs([{**PAIR, "subject": "nurse"}], chatty, chat=True, heldout=0, aligned=False).search
    assert e.base.count(1) == 1 and e.base[0] == 1
    assert chatty.tokenizer.decode(e.base + e.target, skip_special_tokens=True) == "User: the nurse said that\nReply:he"
    assert "nurse" in chatty.tokenizer.decode(e.base[slice(*e.subject)])


def test_the_table_shows_tokens_as_they_are(llama, tutorial):
    pair = dict(base="One day a girl said that", counterfactual="One day a boy said that", target="he", foil="she")
    table = Task.from_pairs([pair], llama, heldout=0, aligned=False).tokens(0)
    assert list(table.frame.columns) == ["position", "base", "counterfactual", "differs", "role"] and table.frame.base[0] == "<s>"
    table = Task.from_pairs([PAIR], tutorial, heldout=0).tokens(0)
    assert list(table.frame.role) == ["prompt", "prompt", "subject", "prompt", "prompt", "answer"]
    assert list(table.frame[table.frame.differs].position) == [2, 5] and list(table.frame.base[[2, 5]]) == ["nurse", "she"]
    assert repr(table).count("≠") == 2
    page = table._repr_html_()
    assert page.count("≠") == 2 and "<strong><code>nurse</code></strong>" in page
    for place, half, message in ((1, "search", "i=1 is out of range"), (0, "heldout", "has 0 prompt pairs"), (0, "held", "did you mean 'heldout'")):
        with pytest.raises(InputError, match=message):
            Task.from_pairs([PAIR], tutorial, heldout=0).tokens(place, half)


def test_no_prompt_is_on_both_sides(tutorial):
    """One base with several counterfactuals, and pairs written in both directions, stay together without a group."""
    people = ("nurse", "dancer", "pilot", "sailor", "man", "woman")
    pairs = [dict(base=f"the {a} said that", counterfactual=f"the {b} said that", target="he", foil="she")
             for a, b in [("nurse", "man"), ("nurse", "woman"), ("nurse", "pilot"), ("pilot", "nurse"), ("dancer", "sailor"),
                          ("sailor", "dancer"), ("man", "woman"), ("woman", "man")]]
    assert len(people) == 6
    for seed in range(6):
        task = Task.from_pairs(pairs, tutorial, seed=seed)
        halves = [{e.base for e in half} for half in (task.search, task.heldout)]
        assert not halves[0] & halves[1]


def test_the_same_digits_farther_off_are_no_shift(tutorial):
    from mctrace_nb.tasks.encode import _shifted

    assert _shifted((1, 2, 10, 3, 4), (3, 4, 10, 5, 6)) is None
    assert _shifted((9, 1, 2, 3, 7), (1, 2, 3, 8, 7)) == (1, 0, 3)


def test_a_folder_of_a_task_s_name_hides_nothing(tutorial, tmp_path, monkeypatch):
    from mctrace_nb.parameters import validate

    (tmp_path / "professions").mkdir()
    (tmp_path / "winobias").mkdir()
    (tmp_path / "mine.csv").write_text("base,counterfactual,target,foil\n")
    monkeypatch.chdir(tmp_path)
    assert len(mct.load_task("professions", tutorial, n=4).search) == 2
    values = validate({"task": "winobias:test", "keep": "names, mine.csv", "columns": "base=prompt"})
    assert values["task"] == "winobias:test" and values["keep"] == f"names,{tmp_path / 'mine.csv'}"
    with pytest.raises(mct.InputError, match="is for files, and 'names' is none"):
        validate({"task": "names", "columns": "base=prompt"})


def test_what_a_file_lacks_is_said_once_and_together(tutorial, tmp_path):
    for text, message in (("base;counterfactual;target;foil\na;b;c;d\n", "is separated by semicolons; save it with commas"),
                          ("base,counterfactual,target\na,b,c\n", "has no column foil"),
                          ("basis,counterfactual,target,foyl\na,b,c,d\n", "unknown column 'basis' .*; unknown column 'foyl' .*did you mean 'foil'")):
        (tmp_path / "mine.csv").write_text(text)
        with pytest.raises(mct.InputError, match=message):
            Task.from_file(tmp_path / "mine.csv", tutorial)
    for spec in ("pairs.tsv", str(tmp_path)):
        with pytest.raises(mct.InputError, match="neither a task by name nor a .csv or .jsonl file"):
            mct.load_task(spec, tutorial)


def test_a_blank_after_an_answer_is_no_part_of_it(tutorial):
    pair = dict(base="the nurse said that", counterfactual="the man said that", target="he", foil="she")
    assert Task.from_pairs([dict(pair, target="he ")], tutorial, heldout=0).search == Task.from_pairs([pair], tutorial, heldout=0).search
