"""SuperGLUE's nested sets and Super-NaturalInstructions: what a model reads, and what is said of bad rows."""

from __future__ import annotations

import copy
import json

import pytest
import superglue
from specs import task

from harness.errors import ConfigError, DataError
from harness.task import hidden, load

NAMES = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]


def made(tmp_path, name, suite="superglue", *words):
    return load(task(f"{suite}/{name}", *words), superglue.directory(tmp_path, name)).splits["validation"]


def test_copa_asks_of_each_choice(tmp_path):
    rows = made(tmp_path, "copa")
    assert list(zip(rows.text, rows.text_pair, rows.target, rows.groups, rows.truth, strict=True)) == [
        ("It broke. What was the cause of this?", "It fell.", 1, "0", [1.0]),
        ("It broke. What was the cause of this?", "It rose.", 0, "0", [0.0]),
        ("It fell. What happened as a result?", "It rose.", 0, "1", [0.0]),
        ("It fell. What happened as a result?", "It broke.", 1, "1", [1.0]),
    ]


def test_multirc_groups_answers_by_question_and_drops_markup(tmp_path):
    rows = made(tmp_path, "multirc")
    assert rows.text == ["Sent 1: A cat sat. Sent 2: It ran. "] * 3
    assert rows.text_pair == ["Who sat? A cat", "Who sat? A dog", "Who ran? "]
    assert (rows.target, rows.groups) == ([1, 0, 0], ["7-3", "7-3", "7-4"])


def test_record_fills_the_query_with_every_candidate(tmp_path):
    rows = made(tmp_path, "record")
    assert rows.text[0] == "Ann Lee met the Bay Club in Oslo. The Bay Club won. Oslo is glad"
    assert rows.text_pair[:4] == ["Ann Lee won.", "the Bay Club won.", "Oslo won.", "Bay Club won."]
    assert (rows.target, rows.groups) == ([0, 1, 0, 1, 0, 0, 1, 0], ["9"] * 4 + ["10"] * 4)
    # Articles do not count, so both names of the club are right.
    assert rows.truth == [
        [0.0, 0.0],
        [1.0, 1.0],
        [0.0, 0.0],
        [1.0, 1.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [1.0, 1.0],
        [0.0, 0.0],
    ]


def test_spans_are_marked(tmp_path):
    rows = made(tmp_path, "wic")
    assert (rows.text, rows.text_pair, rows.target) == (["My * place *."], ["* Place * it."], [0])
    # The noun is said to begin with word 3; there it is written small.
    assert made(tmp_path, "wsc").text == ["The cat saw * the dog * , so # it # ran ."]


@pytest.mark.parametrize(
    ("span", "index", "marked"),
    [
        ("cat", 4, "A * cat * and a cat sat"),
        ("cat", 5, "A cat and a * cat * sat"),
        ("bird", 2, "A cat * and * a cat sat"),
    ],
)
def test_a_misplaced_span_is_looked_for(tmp_path, span, index, marked):
    row = {"text": "A cat and a cat sat", "idx": 0, "label": True}
    index = {"cat": {4: 2, 5: 4}.get(index, index)}.get(span, index)
    target = {"span1_index": index, "span1_text": span, "span2_index": 5, "span2_text": "sat"}
    root = superglue.directory(tmp_path, "wsc", [row | {"target": target}])
    found = load(task("superglue/wsc"), root).splits["train"].text[0]
    assert found == marked.removesuffix("sat") + "# sat #"


def test_prompts_are_those_of_the_papers(tmp_path):
    text = {name: made(tmp_path, name, "superglue_text").text[0] for name in NAMES}
    assert text["boolq"] == "boolq passage: Rain -- It rains. question: is it wet"
    assert text["cb"] == "cb hypothesis: he left premise: He left."
    assert text["copa"] == "copa choice1: It fell. choice2: It rose. premise: It broke. question: cause"
    assert text["multirc"].startswith("multirc question: Who sat? answer: A cat paragraph: Sent 1: A cat")
    assert text["record"].startswith("record query: @placeholder won. entities: Ann Lee, the Bay Club, Oslo, Bay Club")
    assert text["wic"] == "wic sentence1: My place. sentence2: Place it. word: place"
    assert text["wsc"] == "wsc text: The cat saw * the dog * , so # it # ran ."
    copa, record = made(tmp_path, "copa", "superglue_text"), made(tmp_path, "record", "superglue_text")
    assert (copa.target, copa.truth, copa.groups) == (["choice1", "choice2"], [0, 1], None)
    assert (record.target, record.truth) == (["the Bay Club", "Oslo"], [["the Bay Club", "Bay Club"], ["Oslo"]])
    multirc = made(tmp_path, "multirc", "superglue_text")
    assert (multirc.target, multirc.groups) == (["True", "False", "False"], ["7-3", "7-3", "7-4"])


def test_official_counts_are_of_queries_not_candidates(tmp_path):
    remarks = load(task("superglue/record"), superglue.directory(tmp_path, "record")).remarks
    assert "subset: train has 2 rows, the official split 100730" in remarks


def changed(name, change):
    row = copy.deepcopy(superglue.FILES[name][0])
    change(row)
    return row


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("copa", lambda row: row.update(question="why"), "question is 'why'; cause or effect"),
        ("copa", lambda row: row.update(label=2), "label is 2; 0 or 1"),
        ("copa", lambda row: row.pop("choice2"), "choice2 is missing; a text"),
        ("multirc", lambda row: row["passage"].pop("questions"), "passage.questions is missing; a list"),
        ("multirc", lambda row: row["passage"].update(text=" "), "passage.text is empty"),
        ("multirc", lambda row: row["passage"]["questions"][0]["answers"][1].update(label=5), "label is 5; one of"),
        (
            "multirc",
            lambda row: row["passage"]["questions"].append(3),
            "passage.questions holds something that is no obj",
        ),
        ("record", lambda row: row["qas"][1].update(query="no place"), "@placeholder in the query is missing"),
        ("record", lambda row: row["passage"].update(entities=[]), "an entity is missing"),
        ("record", lambda row: row["passage"]["entities"].append({"start": "0"}), "start is '0'; a whole number"),
        ("wic", lambda row: row.update(end1=99), "start1=3, end1=99 is no part of sentence1"),
        ("wic", lambda row: row.update(label="maybe"), "label is 'maybe'; one of False"),
        ("wsc", lambda row: row["target"].pop("span2_text"), "target.span2_text is missing"),
        ("boolq", lambda row: row.update(passage=""), "passage is ''; a text with something to read"),
        ("cb", lambda row: row.update(label="contradict"), "label is 'contradict'; one of entailment"),
        ("cb", lambda row: row.pop("premise"), "no field 'premise'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, name, change, says):
    good = superglue.FILES[name][0]
    root = superglue.directory(tmp_path, name, [good, changed(name, change)])
    with pytest.raises(DataError) as caught:
        load(task(f"superglue/{name}"), root)
    assert f"{superglue.FOLDERS[name]}/train.jsonl:2" in str(caught.value)
    assert says in str(caught.value)


def test_a_prompt_names_its_fields(tmp_path):
    root = superglue.directory(tmp_path, "wic")
    with pytest.raises(ConfigError, match=r"unknown field 'sentense1'\. Did you mean sentence1"):
        load(task("superglue_text/wic", "task.prompt='{sentense1}'"), root)
    with pytest.raises(ConfigError, match="malformed"):
        load(task("superglue_text/wic", "task.prompt='{sentence1'"), root)


def test_hidden_rows_carry_the_official_indices(tmp_path):
    row = copy.deepcopy(superglue.FILES["multirc"][0])
    for asked in row["passage"]["questions"]:
        for answer in asked["answers"]:
            del answer["label"]
    root = superglue.directory(tmp_path, "multirc", test=[row])
    rows = hidden(task("superglue/multirc"), root)["test"]
    assert (rows.ids, rows.target) == (["[7, 3, 0]", "[7, 3, 1]", "[7, 4, 2]"], [0, 0, 0])
    row = copy.deepcopy(superglue.FILES["record"][0])
    for asked in row["qas"]:
        del asked["answers"]
    rows = hidden(task("superglue/record"), superglue.directory(tmp_path, "record", test=[row]))["test"]
    assert (rows.groups[:4], rows.truth[:4]) == (["9"] * 4, superglue.ENTITIES)


def test_official_files_of_hidden_rows_have_columns_of_their_own(tmp_path):
    root = superglue.directory(tmp_path, "rte", test=[{"premise": "A", "hypothesis": "B", "idx": 0}])
    pairs = {"AX-b": ("sentence1", "sentence2"), "AX-g": ("premise", "hypothesis")}
    for name, (first, second) in pairs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_text(json.dumps({first: "C", second: name, "idx": 5}) + "\n")
    found = hidden(task("superglue/rte"), root)
    assert list(found) == ["test", "diagnostic", "winogender"]
    assert [rows.text_pair[0] for rows in found.values()] == ["B", "AX-b", "AX-g"]
    text = hidden(task("superglue_text/rte"), root)["diagnostic"]
    assert (text.ids, text.text) == (["5"], ["rte hypothesis: AX-b premise: C"])


def test_every_hidden_row_gets_an_answer(tmp_path):
    # The test file of QQP calls its index `id`; nothing may be left out of it, broken or not.
    (tmp_path / "QQP").mkdir()
    path = tmp_path / "QQP" / "test.tsv"
    path.write_text("id\tquestion1\tquestion2\n7\tWhy?\tHow?\n8\t\tWho?\n")
    rows = hidden(task("glue/qqp"), str(tmp_path))["test"]
    assert (rows.ids, rows.text, rows.text_pair) == (["7", "8"], ["Why?", "-"], ["How?", "Who?"])
    path.write_text("id\tquestion1\tquestion2\n7\tWhy?\n")
    with pytest.raises(DataError, match=r"test\.tsv:2: 2 fields found, 3 expected"):
        hidden(task("glue/qqp"), str(tmp_path))
    path.write_text("number\tquestion1\tquestion2\n7\tWhy?\tHow?\n")
    with pytest.raises(DataError, match=r"test\.tsv:1: no column 'index'"):
        hidden(task("glue/qqp"), str(tmp_path))


def test_val_notitle_goes_with_a_train_set_without_titles(tmp_path):
    rows = [row | {"passage": row["passage"].removeprefix("Rain -- ")} for row in superglue.FILES["boolq"]]
    root = superglue.directory(tmp_path, "boolq", train=rows, val_notitle=rows)
    assert load(task("superglue/boolq"), root).splits["validation"].text[0] == "It rains."


# Super-NaturalInstructions


def instructions(count=12, outputs=("yes", "Yes.")):
    instances = [{"id": f"i{at}", "input": f"question {at}?", "output": list(outputs)} for at in range(count)]
    examples = [{"input": f"example {at}", "output": "no", "explanation": "none"} for at in range(3)]
    return {"Definition": ["Answer the question"], "Positive Examples": examples, "Instances": instances}


def directory(root, content, test=None):
    for split, task_file in (("train", content), ("test", test or instructions(2))):
        folder = root / "SuperNI" / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "task001_made.json").write_text(json.dumps(task_file))
    return str(root)


def test_superni_has_the_prompt_of_tk_instruct(tmp_path):
    found = load(task("superni"), directory(tmp_path, instructions()))
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 11, "validation": 1, "test": 2}
    rows = found.splits["train"]
    first, second = (f" Positive Example {at} -\nInput: example {at - 1}.\n Output: no.\n\n" for at in (1, 2))
    asked = "Now complete the following example -\nInput: question 0?\nOutput: "
    opening = "Definition: Answer the question.\n\n"
    assert rows.text[0] == opening + first + second + asked
    assert rows.shorter[0] == [opening + first + asked, opening + asked]
    assert (rows.target[0], rows.truth[0]) == ("yes", ["yes", "Yes."])
    assert "question 9?" in found.splits["validation"].text[0]


def test_superni_reads_the_official_lists_too(tmp_path):
    content, lists = tmp_path / "SuperNI" / "tasks", tmp_path / "SuperNI" / "splits" / "default"
    content.mkdir(parents=True)
    lists.mkdir(parents=True)
    for name in ("task001_a", "task002_b"):
        (content / f"{name}.json").write_text(json.dumps(instructions(150)))
    (lists / "train_tasks.txt").write_text("task001_a\n")
    (lists / "test_tasks.txt").write_text("task002_b\n")
    found = load(task("superni"), str(tmp_path))
    assert [len(rows) for rows in found.splits.values()] == [90, 10, 100], "the first 100 instances"
    (lists / "test_tasks.txt").write_text("task003_c\n")
    with pytest.raises(DataError, match=r"names task003_c, and there is no .*tasks/task003_c\.json"):
        load(task("superni"), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.pop("Definition"), "Definition is missing"),
        (lambda content: content["Instances"][3].update(output=[]), r"Instances, entry 3\): output is \[\]"),
        (lambda content: content["Instances"][3].pop("input"), r"Instances, entry 3\): input is missing"),
        (lambda content: content.update({"Positive Examples": "none"}), "Positive Examples is 'none'; a list"),
    ],
)
def test_a_bad_task_file_is_named(tmp_path, change, says):
    content = instructions()
    change(content)
    with pytest.raises(DataError, match=says) as caught:
        load(task("superni"), directory(tmp_path, content))
    assert "train/task001_made.json" in str(caught.value)


def test_an_empty_folder_of_tasks_is_an_error(tmp_path):
    root = directory(tmp_path, instructions())
    (tmp_path / "SuperNI" / "test" / "task001_made.json").unlink()
    with pytest.raises(DataError, match=r"test holds no task"):
        load(task("superni"), root)
