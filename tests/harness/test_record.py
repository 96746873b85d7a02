"""A record that cannot be trusted is named, never skipped and never read as something else."""

import json
from dataclasses import asdict

import pytest

from harness import atomic, record
from harness.errors import RecordError
from harness.record import DONE, FAILED, Record, Unreadable

GOOD = Record("a", DONE, {"seed": 0}, {}, {"name": "demo", "note": ""}, science={"main": {"score": 1.0}})


def stored(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(asdict(GOOD) | changes))
    return folder


def test_what_is_written_is_read(tmp_path):
    record.write(tmp_path, GOOD)
    assert record.read(tmp_path) == GOOD


def test_no_record_yet(tmp_path):
    assert record.read(tmp_path) is None
    assert list(record.read_all(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 99}, "schema 99"),
        ({"state": "FINE"}, "state 'FINE'"),
        ({"science": [1]}, "'science' must be a mapping"),
        ({"science": {}}, "holds no score"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, changes, says):
    with pytest.raises(RecordError, match=says):
        record.read(stored(tmp_path, **changes))


def test_a_store_that_is_a_file_is_said(tmp_path):
    (tmp_path / "store").write_text("")
    for root in (tmp_path / "store", tmp_path / "store" / "below"):
        with pytest.raises(RecordError, match="is, or lies in, a file; give a folder"):
            record.read(root / "run")


def test_the_store_names_what_it_cannot_read(tmp_path):
    stored(tmp_path / "good")
    stored(tmp_path / "newer", schema=7)
    stored(tmp_path / "failed", state=FAILED)
    for name, content in {"cut": b'{"schema": 1, "sta', "foreign": b"[1, 2]", "bytes": b"\xff\x00"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_bytes(content)
    (tmp_path / "not_begun").mkdir()
    (tmp_path / "stray.txt").write_text("no folder")
    found = list(record.read_all(tmp_path))
    assert [entry.id for entry in found if isinstance(entry, Record)] == ["a", "a"]
    assert [entry.path.parent.name for entry in found if isinstance(entry, Unreadable)] == [
        "bytes",
        "cut",
        "foreign",
        "newer",
    ]


def test_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.to_json({"score": float("nan")})


def test_a_full_disk_leaves_the_old_file_and_no_orphan(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write(path, b"old")

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
