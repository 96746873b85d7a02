"""The papers' special splits, whole groups, and rows that occur twice."""

from __future__ import annotations

import pytest
import torch
from specs import task

from harness.config import ConfigError
from harness.splits import Split, arrange, first, repeated
from harness.task import load


def rows(count, group=None):
    names = [str(at) for at in range(count)]
    groups = None if group is None else [str(at // group) for at in range(count)]
    return Split(names, [f"text {name}" for name in names], None, [0] * count, groups=groups)


def permutation(count):
    return [str(at) for at in torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()]


@pytest.mark.parametrize(
    ("count", "begins"),
    [(277, [207, 84, 253, 243, 190, 28]), (1043, [911, 408, 813, 657]), (67349, [6677, 49712, 38268, 32909])],
)
def test_the_data_seed_draws_the_same_rows_in_every_version(count, begins):
    small = arrange("propetl_t5", "propetl/rte", {"train": rows(1), "validation": rows(count)})
    assert small["validation"].ids[: len(begins)] == [str(at) for at in begins]


def test_small_tasks_halve_the_validation_set():
    found = arrange("propetl_t5", "propetl/rte", {"train": rows(20), "validation": rows(7)})
    assert found["train"] == rows(20)
    assert found["validation"].ids + found["test"].ids == permutation(7)
    assert len(found["validation"]) == 3


def test_large_tasks_hold_out_a_thousand_training_rows():
    found = arrange("propetl_t5", "glue/qnli", {"train": rows(2500), "validation": rows(7)})
    assert found["validation"].ids + found["train"].ids == permutation(2500)
    assert (len(found["validation"]), found["test"]) == (1000, rows(7))


def test_mnli_differs_between_the_papers_two_experiments():
    official = {"train": rows(1200), "validation": rows(5), "mismatched": rows(6)}
    text = arrange("propetl_t5", "propetl/mnli", official)
    assert text == {"train": rows(1200), "validation": rows(6), "test": rows(5)}
    encoder = arrange("propetl_roberta", "glue/mnli", official)
    assert (len(encoder["train"]), len(encoder["validation"]), encoder["test"]) == (200, 1000, rows(5))
    with pytest.raises(ConfigError, match="needs the official split 'mismatched'"):
        arrange("propetl_t5", "glue/mnli", {"train": rows(5), "validation": rows(5)})


def test_groups_stay_together():
    found = arrange("propetl_t5", "superglue/multirc", {"train": rows(4, 2), "validation": rows(12, 3)})
    assert set(found["validation"].groups).isdisjoint(found["test"].groups)
    assert [len(found[name]) for name in ("validation", "test")] == [6, 6]
    assert first(rows(12, 3), 8).ids == [str(at) for at in range(6)]
    assert len(first(rows(12, 3), 2)) == 2, "less than one group is what was asked for"
    assert len(first(rows(12, 3), 12)) == len(first(rows(12, 3), 99)) == 12


def test_every_tenth_row():
    found = arrange("every_tenth", "superni", {"train": rows(25), "test": rows(3)})
    assert (found["validation"].ids, len(found["train"]), found["test"]) == (["9", "19"], 23, rows(3))


def test_other_tasks_have_no_such_split():
    with pytest.raises(ConfigError, match=r"task\.splits=propetl_t5 is not defined for task xsum; it is for cola"):
        arrange("propetl_t5", "xsum", {"train": rows(5), "validation": rows(5)})
    official = {"train": rows(5), "test": rows(2)}
    assert arrange("official", "xsum", official) == official


def test_a_scheme_reports_on_its_test_set(tmp_path):
    spec = task("glue/rte", "task.splits=propetl_roberta")
    assert (spec.selects, spec.reports) == ("validation", "test")
    with pytest.raises(ConfigError, match=r"task\.splits: unknown value 'propetl'\. Did you mean propetl_t5"):
        task("glue/rte", "task.splits=propetl")


def test_what_occurs_twice_is_counted_by_letters_and_digits():
    train = Split(["0", "1"], ["A cat, sat.", "b"], ["x", "y"], [0, 0])
    other = Split(["0", "1", "2"], ["a  Cat sat", "a cat", "b"], ["X", "sat x", "z"], [0, 0, 0])
    assert repeated(train, other) == 1


def test_real_splits_have_the_papers_sizes(glue):
    sizes = {"rte": (2490, 138, 139), "mrpc": (3668, 204, 204), "sst2": (66349, 1000, 872)}
    for name, expected in sizes.items():
        found = load(task(f"propetl/{name}"), str(glue))
        assert tuple(len(found.splits[split]) for split in ("train", "validation", "test")) == expected
        assert found.reports == "test"
