"""The index says what the records say, at once after every change, and is only ever a copy."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import fresh, made, seeds, store

from harness import index, record
from harness.cells import gather
from harness.record import DONE, Record, Unreadable


def plain(found):
    """What tables need of records, as plain values."""
    return [
        str(one) if isinstance(one, Unreadable) else
        (one.id, one.state, dict(one.identity), one.science.get("main"), one.science.get("scores"),
         one.science.get("params"), one.code, one.cost, one.remarks, one.error, one.provenance.get("device"))
        for one in found
    ]  # fmt: skip


def same(root):
    """Both readers agree, and so do the tables made of them."""
    fast, slow = index.read_all(root), list(record.read_all(root))
    assert plain(fast) == plain(slow)
    assert gather(fast, stale=fresh) == gather(slow, stale=fresh) == in_order(gather(index.bundles(root), stale=fresh))
    return fast


def in_order(gathered):
    """Cells with the runs of their notes in the order of names, as they stand where runs are read one by one."""
    cells, remarks = gathered
    for cell in cells:
        cell.notes = {note: sorted(runs) for note, runs in cell.notes.items()}
    return cells, sorted(remarks)


def test_like_the_records_cold_and_warm(tmp_path):
    ours = [
        *seeds("lora", [80.0, 81.5]),
        made(state="FAILED", seed=7, error="a\nb"),
        made("ia3", remarks=["subset: x"]),
    ]
    root = store(tmp_path, [replace(one, cost={"train_seconds": 1.5}, provenance={"device": "cpu"}) for one in ours])
    same(root)
    before = (root / index.NAME).read_bytes()
    same(root)
    assert (root / index.NAME).read_bytes() == before


def test_changes_are_seen(tmp_path):
    root = store(tmp_path, seeds("lora", [80.0, 81.5, 82.0]))
    first, second, third = (one.id for one in same(root))
    record.write(root / first, made("lora", seed=0, score=99.0))
    (root / second / "record.json").unlink()
    (root / third / "record.json").write_text("{")
    store(root, [made("ia3")])
    found = same(root)
    assert [one.science["main"]["score"] for one in found if isinstance(one, Record)] == [80.0, 99.0]
    assert sum(isinstance(one, Unreadable) for one in found) == 1
    record.write(root / third, made("lora", seed=2, score=77.0))
    same(root)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 99}', '{"version": 1, "names": ["x"], "stamps": []}'])
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    root = store(tmp_path, seeds("lora", [80.0, 81.5]))
    index.read_all(root)
    (root / index.NAME).write_text(damage)
    same(root)
    assert json.loads((root / index.NAME).read_text())["version"] == index.VERSION


def test_records_of_another_form_are_read_slowly(tmp_path):
    root = store(tmp_path, seeds("lora", [80.0, 81.5]))
    for path in root.glob("*/record.json"):
        path.write_text(json.dumps(json.loads(path.read_text())))
    same(root)


@pytest.mark.parametrize(
    "change",
    [{"schema": 99}, {"state": "WELL"}, {"science": {}}, {"identity": {}}, {"identity": {"seed": "0"}}, {"config": []},
     {"surplus": 1}],
)  # fmt: skip
def test_wrong_records_are_told_like_the_slow_way(tmp_path, change):
    root = store(tmp_path, seeds("lora", [80.0]))
    [path] = root.glob("*/record.json")
    path.write_bytes(record.atomic.to_json(json.loads(path.read_text()) | change))
    same(root)


def test_a_truncated_record_is_named(tmp_path):
    root = store(tmp_path, seeds("lora", [80.0]))
    [path] = root.glob("*/record.json")
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        assert isinstance(same(root)[0], Unreadable)


def test_words_that_look_like_keys(tmp_path):
    trap = '\n "config": {\n  "seed": 5,\n "losses": ['
    same(
        store(
            tmp_path, [replace(made(), error=trap, remarks=[trap], config={"x": trap, "seed": 3}, recipe={"seed": "1"})]
        )
    )


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    root = store(tmp_path, seeds("lora", [80.0]))

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(index.atomic, "write", refuse)
    assert len(same(root)) == 1
    assert not (root / index.NAME).exists()
    assert index.read_all(tmp_path / "missing") == []


def test_many_share_what_they_have_in_common(tmp_path):
    first, second = index.read_all(store(tmp_path, seeds("lora", [80.0, 81.0])))
    assert first.code is second.code
    assert first.identity["train"] is second.identity["train"]
    asked = []
    ask = index.remembered(lambda one: asked.append(one.id) or ["torch"])
    assert ask(first) == ask(second) == ["torch"]
    assert len(asked) == 1


def test_a_warm_index_opens_no_record(tmp_path, monkeypatch):
    root = store(tmp_path, [made("lora", seed=seed) for seed in range(20)])
    index.read_all(root)
    monkeypatch.setattr(index.skim, "read", None)  # calling it would fail
    assert len(index.read_all(root)) == 20


def test_several_processes_read_what_one_would(tmp_path, monkeypatch):
    root = store(tmp_path, [*seeds("lora", [80.0, 81.5, 79.0, 83.0]), made("ia3", state="FAILED", error="x")])
    (root / "cut").mkdir()
    (root / "cut/record.json").write_text("{")
    monkeypatch.setattr(index, "MANY", 2)
    monkeypatch.setattr(index.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    same(root)


def test_a_worker_that_dies_leaves_its_share(tmp_path, monkeypatch):
    root = store(tmp_path, seeds("lora", [80.0, 81.5, 79.0, 83.0]))
    monkeypatch.setattr(index, "MANY", 2)
    monkeypatch.setattr(index.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(index.sys, "executable", "false")
    same(root)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.builds(
            made, st.sampled_from(["lora", "ia3"]), st.sampled_from(["glue/mrpc", "glue/rte"]), st.integers(0, 3),
            st.floats(0, 100), state=st.sampled_from([DONE, "FAILED"]), learning_rate=st.sampled_from([1e-3, 5e-4]),
            remarks=st.lists(st.text(max_size=20), max_size=2),
        ),
        max_size=6, unique_by=lambda one: one.id,
    )
)  # fmt: skip
def test_any_store(tmp_path_factory, records):
    root = store(tmp_path_factory.mktemp("any"), records)
    same(root)
    same(root)
