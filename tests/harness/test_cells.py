"""Which runs share a cell, what tells configurations apart, and that nothing is dropped in silence."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import fresh, made, seeds

from harness.bundle import problem
from harness.cells import Note, gather
from harness.record import DONE, RUNNING, STATES, Unreadable

OTHER = {"differs": ["harness.train", "torch"]}


def one(records, **options):
    """The only cell of these records."""
    cells, remarks = gather(records, stale=fresh, **options)
    assert len(cells) == 1
    return cells[0], remarks


def texts(cell):
    return [note.text for note in cell.notes]


def test_seeds_share_a_cell():
    cell, remarks = one(seeds("lora", [80.0, 82.0, 87.0]))
    assert cell.scores == {0: 80.0, 1: 82.0, 2: 87.0}
    assert (cell.row.method, cell.row.model, cell.row.budget, cell.row.settings) == ("lora", "minilm", "default", "")
    assert (cell.task, cell.metric, cell.split) == ("glue/mrpc", "accuracy", "validation")
    assert cell.params == {"adapter": [1000], "active": [1000], "head": [770], "total": [22_001_000]}
    assert cell.interval.low < 83 < cell.interval.high
    assert remarks == []


def test_one_seed_has_no_interval():
    assert one([made()])[0].interval is None


def test_another_learning_rate_is_another_row():
    cells, _ = gather([made(), made(seed=1), made(seed=0, learning_rate=5e-4)], stale=fresh)
    assert [(cell.row.settings, len(cell.scores)) for cell in cells] == [
        ("train.learning_rate=0.0005", 1),
        ("train.learning_rate=0.001", 2),
    ]


def test_a_label_holds_for_every_cell_of_its_row():
    records = [made(), made(learning_rate=5e-4), made(task="glue/rte"), made(task="glue/cola", learning_rate=2e-3)]
    cells, _ = gather(records, stale=fresh)
    assert {(cell.task, cell.row.settings) for cell in cells} == {
        ("glue/mrpc", "train.learning_rate=0.001"),
        ("glue/mrpc", "train.learning_rate=0.0005"),
        ("glue/rte", "train.learning_rate=0.001"),
        ("glue/cola", "train.learning_rate=0.002"),
    }


def test_tasks_alone_need_no_label():
    cells, _ = gather([made(), made(task="glue/rte", learning_rate=5e-4)], stale=fresh)
    assert {cell.row.settings for cell in cells} == {""}


def test_other_data_of_one_task_is_told_apart_there_only():
    cells, _ = gather([made(), made(data="subset"), made(task="glue/rte")], stale=fresh)
    by_task = [(cell.task, cell.row.settings.partition(" ")[0]) for cell in cells]
    assert sorted(by_task) == [("glue/mrpc", "data"), ("glue/mrpc", "data"), ("glue/rte", "")]
    assert len({cell.like for cell in cells}) == 3


def test_a_key_that_only_one_configuration_has():
    cells, _ = gather([made(), made(extra=[1, "a"])], stale=fresh)
    assert [cell.row.settings for cell in cells] == ['train.extra=[1, "a"]', "train.extra=unset"]


@pytest.mark.parametrize("state", [state for state in STATES if state != DONE])
def test_runs_that_are_not_done_are_named(state):
    error = "" if state == RUNNING else "CUDA out of memory\nTraceback ..."
    lost = made(seed=1, state=state, error=error)
    cell, _ = one([made(), lost])
    assert cell.scores == {0: 80.0}
    assert cell.absent == {state: 1}
    expected = state if state == RUNNING else f"{state}: CUDA out of memory"
    assert cell.notes == {Note(expected): [lost.id]}


def test_a_configuration_without_a_done_run_still_has_its_cell():
    cell, _ = one([made(state="FAILED"), made(seed=1, state="TIMEOUT", error="x" * 300)])
    assert cell.scores == {}
    assert texts(cell)[0] == "FAILED: no reason recorded"
    assert len(texts(cell)[1]) < 220


def test_stale_runs_stay_out_of_a_fresh_mean():
    old = made(seed=1, score=20.0, code=OTHER)
    cell, _ = one([made(), old])
    assert (cell.scores, cell.stale, cell.absent) == ({0: 80.0}, False, {"stale": 1})
    assert cell.notes == {
        Note("stale, left out of the mean (--stale includes it): made by other harness.train, torch"): [old.id]
    }


def test_stale_runs_join_on_request_and_mark_the_cell():
    cell, _ = one([made(), made(seed=1, score=20.0, code=OTHER)], include_stale=True)
    assert (len(cell.scores), cell.stale) == (2, True)
    assert texts(cell) == ["stale, shown as †: made by other harness.train, torch"]


def test_stale_runs_alone_are_shown_if_one_code_made_them():
    assert one(seeds("lora", [80.0, 81.0], code=OTHER))[0].stale
    mixed = [made(code=OTHER), made(seed=1, code={"differs": [f"module{index}" for index in range(9)]})]
    cell, _ = one(mixed)
    assert (cell.scores, cell.absent) == ({}, {"stale": 2})
    assert texts(cell)[1].endswith("module0, module1, module2, module3, module4 and 4 more")


def test_a_copy_counts_once():
    cell, remarks = one([made(), made(), made(seed=1)])
    assert len(cell.scores) == 2
    assert remarks == [f"duplicate: {made().id} stands 2 times in the store, counted once; remove the copies"]


def test_copies_that_contradict_do_not_count():
    cells, remarks = gather([made(), made(score=81.0)], stale=fresh)
    assert cells == []
    assert "different scores (80, 81)" in remarks[0]


def test_unreadable_records_are_named():
    cells, remarks = gather([Unreadable(Path("runs/x/record.json"), "runs/x/record.json is cut")], stale=fresh)
    assert (cells, remarks) == ([], ["unreadable: runs/x/record.json is cut"])


def damaged():
    good = made()
    main = good.science["main"]
    for score in (float("nan"), None, "80", True):
        yield replace(good, science={"main": main | {"score": score}}), "finite number"
    yield replace(good, science={"main": {"score": 80.0}}), "lacks 'metric'"
    yield replace(good, science={"main": main | {"metric": "f1"}}), "its task reports accuracy on validation"
    yield replace(good, identity=good.identity | {"seed": "0"}), "seed"
    yield replace(good, identity=good.identity | {"task": None}), "lacks"
    yield replace(good, identity={}), "lacks 'model'"


@pytest.mark.parametrize(("record", "says"), damaged())
def test_records_that_cannot_count_are_named(record, says):
    assert says in problem(record)
    cells, remarks = gather([record], stale=fresh)
    assert cells == []
    assert remarks[0].startswith(f"unusable: {record.id}: ")


def test_the_resolution_is_one_example():
    assert one([made(rows=400)])[0].resolution == 0.25
    assert one([made(rows=400, kind="regression")])[0].resolution == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            made,
            st.sampled_from(["lora", "ia3"]),
            st.sampled_from(["glue/mrpc", "glue/rte"]),
            st.integers(0, 3),
            st.floats(0, 100),
            state=st.sampled_from([DONE, "FAILED"]),
            learning_rate=st.sampled_from([1e-3, 5e-4]),
            code=st.sampled_from([{}, OTHER]),
        ),
        max_size=12,
        unique_by=lambda record: record.id,
    ),
    st.booleans(),
)
def test_every_run_counts_once_or_is_noted(records, include_stale):
    cells, remarks = gather(records, stale=fresh, include_stale=include_stale)
    assert remarks == []
    assert sum(len(cell.scores) + cell.absent.total() for cell in cells) == len(records)
    assert len({(cell.row, cell.task) for cell in cells}) == len(cells)
    noted = {run for cell in cells for runs in cell.notes.values() for run in runs}
    assert noted >= {record.id for record in records if record.state != DONE or record.code}
