"""The bits that a learning curve keeps, and the selection gap that they give."""

import numpy as np
import pytest
from made import made

from harness import page, runsheet, selection
from harness.evaluate import Evaluation
from harness.sheet import Shown


def evaluation(right, metric="accuracy"):
    """An evaluation with these rows right."""
    right = np.asarray(right, dtype=bool)
    return Evaluation(
        {metric: 100 * right.mean()}, {"prediction": right.astype(int).tolist(), "target": [1] * right.size}
    )


def run(matrix):
    """A run with these evaluations, [evaluations, rows]."""
    one = made()
    one.science["curve"] = [{"step": step, **selection.observed(evaluation(row))} for step, row in enumerate(matrix)]
    return one


def test_the_gap_is_that_of_the_rows():
    matrix = np.random.default_rng(0).random((6, 101)) < 0.7
    last, best, held_out = selection.gap(run(matrix))
    assert last == pytest.approx(100 * matrix[-1].mean())
    assert best == pytest.approx(100 * matrix.mean(axis=1).max())
    assert held_out < best, "six equal evaluations: the best one is best by chance"


def test_no_bits_where_they_would_say_nothing():
    assert "right" in selection.observed(evaluation([True, False]))
    for found in (
        evaluation([True, False], metric="matthews"),
        evaluation([True] * (selection.MOST_ROWS + 1)),
        Evaluation({"accuracy": 10.0}, {"prediction": [1, 0], "target": [1, 1]}),
        Evaluation({"accuracy": 10.0}, {"generated": ["a"]}),
    ):
        assert selection.observed(found) == found.scores


@pytest.mark.parametrize(
    "bits", [["2:gA=="], ["2:gA==", "3:gA=="], ["2:gA==", "x"], ["2:gA==", "9:gA=="], ["2:g", "2:g"], []]
)
def test_damaged_or_too_few_bits_give_no_gap(bits):
    one = made()
    one.science["curve"] = [{"step": step, "right": text} for step, text in enumerate(bits)]
    assert selection.gap(one) is None


def test_a_cells_page_says_it(tmp_path):
    runs = tuple(run(np.random.default_rng(seed).random((4, 40)) < 0.6) for seed in range(3))
    cell = Shown("lora", "t", "ours", [], [], runs, {0: 80.0, 1: 81.0, 2: 85.0}, metric="accuracy")
    text = page.detail(cell, runsheet.parts(cell, tmp_path))
    assert "what the choice adds by chance" in text
    assert "interquartile mean" in text and ">81." in text
