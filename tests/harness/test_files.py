"""Malformed files: nothing but a DataError, which names the line; and what was written is what is read."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import complaint, task, written

from harness.errors import DataError
from harness.files import read
from harness.task import load

HEADER = "index\tsentence1\tsentence2\tlabel\n"
GOOD = HEADER + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"
SCORED = "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("", "train.tsv is empty; it should begin with a header"),
        (HEADER, "train.tsv: the split is empty"),
        (HEADER + "0\ta\tentailment\n", "train.tsv:2: 3 fields found, 4 expected (index, sentence1, sentence2, label)"),
        (GOOD + "2\ta\tb\tc\tentailment\n", "train.tsv:4: 5 fields found, 4 expected"),
        (GOOD + "\n" + "2\ta\tb\tentailment\n", "train.tsv:4: 1 fields found"),
        (
            GOOD + "2\ta\tb\tneutral\n",
            "train.tsv:4: label is 'neutral'; one of entailment (or 0), not_entailment (or 1)",
        ),
        (GOOD + "2\ta\tb\t2\n", "train.tsv:4: label is '2'"),
        (GOOD + "2\ta\tb\t\n", "train.tsv:4: label is ''"),
        (GOOD + "2\t \tb\t0\n", "train.tsv:4: sentence1 is ' '; a text with something to read is expected"),
        (GOOD + "2\ta\t\t0\n", "train.tsv:4: sentence2 is ''"),
        (GOOD.encode() + b"2\t\xff\tb\t0\n", "train.tsv:4: byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf" + GOOD.encode() + b"2\t\xff\tb\t0\n", "train.tsv:4: byte 0xff is not UTF-8"),
        (GOOD.encode("utf-16"), "train.tsv:1: byte 0xff is not UTF-8"),
        (
            GOOD.replace("sentence2", "sentense2"),
            "no column 'sentence2' in the header (index, sentence1, sentense2, label)",
        ),
        (GOOD.replace("sentence2", "sentense2"), "The nearest is 'sentense2'"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, train, said):
    assert said in complaint("glue/rte", written(tmp_path, "RTE", train, GOOD))


@pytest.mark.parametrize("score", ["high", "", "nan", "inf", "5.1", "-0.5", "1e400", "1,5"])
def test_a_bad_score_is_named_with_its_line(tmp_path, score):
    said = complaint("glue/stsb", written(tmp_path, "STS-B", f"{SCORED}a\tb\t1.5\nc\td\t{score}\n"))
    assert f"/STS-B/train.tsv:3: score is {score!r}; a finite number from 0 to 5 is expected" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "train.jsonl:2: not a JSON object"),
        ("", "train.jsonl:2: not a JSON object"),
        ("[1]", "train.jsonl:2: a JSON object with sentence1, sentence2, label is expected; found a list"),
        ("[" * 100_000, "train.jsonl:2: not a JSON object"),
        ('{"sentence1": "a"}', "train.jsonl:2: no field 'sentence2'; the object has sentence1"),
        ('{"sentence1": 5, "sentence2": "b", "label": 0}', "train.jsonl:2: sentence1 is 5"),
        ('{"sentence1": null, "sentence2": "b", "label": 0}', "train.jsonl:2: sentence1 is None"),
        ('{"sentence1": "a", "sentence2": "b", "label": true}', "train.jsonl:2: label is True"),
        ('{"sentence1": "\\ud800", "sentence2": "b", "label": 0}', "train.jsonl:2: not a JSON object"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path, line, said):
    good = '{"sentence1": "a", "sentence2": "b", "label": 0}\n'
    assert said in complaint("glue/rte", written(tmp_path, "RTE", good + line + "\n", good, suffix=".jsonl"))


PIECES = st.sampled_from(
    [b"\t", b"\n", b"\r", b"a", b"0", b"entailment", b"\xff", b"\xef\xbb\xbf", b'"', b"{", b"\x00"]
)
BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=40).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(BYTES, st.booleans(), st.sampled_from([".tsv", ".jsonl"]), st.booleans())
def test_no_bytes_raise_anything_but_a_data_error(data, with_header, suffix, skip):
    content = (HEADER.encode() if with_header and suffix == ".tsv" else b"") + data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"train{suffix}"
        path.write_bytes(content)
        try:
            table = read(path, {"text": "sentence1", "target": "label"}, skip_broken=skip)
            assert {len(column) for column in table.columns.values()} == {len(table)}
        except DataError as error:
            assert str(path) in str(error)
        spec = replace(task("glue/rte"), skip_broken=skip)
        try:
            load(spec, written(Path(folder), "RTE", content, suffix=suffix))
        except DataError as error:
            assert folder in str(error)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 1)), min_size=1, max_size=8))
def test_what_was_written_is_read(rows):
    body = HEADER + "".join(f"{at}\t{a}\t{b}\t{label}\n" for at, (a, b, label) in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        found = load(task("glue/rte"), written(Path(folder), "RTE", body)).splits["train"]
    assert list(zip(found.text, found.text_pair, found.target, strict=True)) == rows
