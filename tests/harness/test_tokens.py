"""The cache of tokenised rows: the same rows as without it, one file for one content, and no harm from broken files."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness import atomic, tokens
from harness.data import Encoded, encode
from harness.paths import embedded
from harness.splits import Split
from harness.tokens import Tokens

SPLIT = Split(["0", "1", "2"], ["a cat sat", "b", "the dog ran " * 9], ["c", "d e", "f"], ["yes", "no way", "no"])
LENGTHS = {"max_length_tokens": 12, "max_target_tokens": 4}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded("embedded:backbones/t5"), local_files_only=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path / "tokens"


def plain(encoded):
    columns = {name: getattr(encoded, name) for name in ("input_ids", "token_type_ids", "targets")}
    rows = {name: column and [np.asarray(row).tolist() for row in column] for name, column in columns.items()}
    return rows | {"ids": encoded.ids, "rest": (encoded.kind, encoded.pad_token_id, encoded.truncated_rows)}


@pytest.mark.parametrize("kind", ["generation", "classification"])
def test_what_is_read_is_what_was_written(tokenizer, folder, kind, monkeypatch):
    split = SPLIT if kind == "generation" else replace(SPLIT, target=[0, 1, 1])
    direct = encode(split, tokenizer, kind=kind, **LENGTHS)
    assert direct.truncated_rows
    first = Tokens(tokenizer).encode(split, kind=kind, **LENGTHS)
    monkeypatch.setattr(tokens, "encode", None)  # a second time nothing is encoded
    second = Tokens(tokenizer).encode(split, kind=kind, **LENGTHS)
    assert plain(direct) == plain(first) == plain(second)
    assert len(list(folder.rglob("*"))) == 2, "one file in one folder"


def test_everything_that_decides_the_tokens_is_in_the_name(tokenizer, folder):
    other = AutoTokenizer.from_pretrained(embedded("embedded:backbones/bart"), local_files_only=True)
    for used in (tokenizer, other):
        Tokens(used).encode(SPLIT, kind="generation", **LENGTHS)
    Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS | {"max_length_tokens": 13})
    Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS | {"max_target_tokens": 5})
    Tokens(tokenizer).encode(replace(SPLIT, text=["a cat sat", "c", "d"]), kind="generation", **LENGTHS)
    Tokens(tokenizer).encode(replace(SPLIT, text_pair=None), kind="generation", **LENGTHS)
    Tokens(tokenizer).encode(replace(SPLIT, target=[0, 1, 1]), kind="classification", **LENGTHS)
    assert len(list(folder.rglob("*.npz"))) == 7
    # Calls leave truncation and padding in the tokenizer; it is the same one still.
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=5)
    Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)
    assert len(list(folder.rglob("*.npz"))) == 7


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None])
def test_a_broken_file_is_made_again(tokenizer, folder, damage):
    good = Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)
    path = next(folder.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert plain(Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)) == plain(good)
    assert plain(Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)) == plain(good)


def test_a_folder_that_cannot_be_written_stops_nothing(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        found = Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)
    assert len(found) == 3


def test_no_text_is_stored(tokenizer, folder):
    Tokens(tokenizer).encode(SPLIT, kind="generation", **LENGTHS)
    content = next(folder.rglob("*.npz")).read_bytes()
    assert b"sat" not in content and b"dog" not in content


def _encoded_by_a_process(tokenizer, start, found):
    start.wait()
    made = [Tokens(tokenizer).encode(split, kind="generation", **LENGTHS) for split in _splits()]
    found.put([plain(one) for one in made])


def _splits():
    return [replace(SPLIT, text=[f"a cat sat {at}", "b " * at, "the dog"]) for at in range(1, 9)]


def test_many_processes_may_begin_at_once(tokenizer, folder, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    context = multiprocessing.get_context("fork")
    start, found = context.Barrier(6), context.Queue()
    crowd = [context.Process(target=_encoded_by_a_process, args=(tokenizer, start, found)) for _ in range(6)]
    for one in crowd:
        one.start()
    results = [found.get(timeout=60) for _ in crowd]
    for one in crowd:
        one.join()
    direct = [plain(encode(split, tokenizer, kind="generation", **LENGTHS)) for split in _splits()]
    assert all(result == direct for result in results)
    assert len(list(folder.rglob("*.npz"))) == len(direct), "one file for each, and nothing half written beside them"
    assert sum(path.is_file() for path in folder.rglob("*")) == len(direct)


CHILD = """
import sys
from pathlib import Path
import numpy
from harness.data import Encoded
from harness import atomic, tokens
rows = [numpy.arange(at % 7 + 1, dtype="int32") for at in range(2000)]
encoded = Encoded("classification", rows, None, [0] * 2000, [str(at) for at in range(2000)], 0, 3)
path = Path(sys.argv[1])
for turn in range(20):
    atomic.write(path, tokens._bytes(encoded))
    with numpy.load(path) as stored:
        assert stored["truncated"] == 3 and len(stored["input_ids_ends"]) == 2000
print("whole")
"""


def test_many_processes_may_write_one_file(tmp_path):
    path = tmp_path / "one.npz"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, env=os.environ, text=True
    )
    rows = [np.arange(at % 7 + 1, dtype="int32") for at in range(2000)]
    content = tokens._bytes(Encoded("classification", rows, None, [0] * 2000, [str(at) for at in range(2000)], 0, 3))
    while child.poll() is None:
        atomic.write(path, content)
        time.sleep(0.01)
    assert child.communicate()[0].strip() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]
