"""What is remarked before a run: settings that come to nothing there."""

from __future__ import annotations

import pytest

from harness import compose, remarks, task

SAID = "train.label_smoothing has no effect on a regression: it is of classes"
BOTH = ["task=multi", "task.tasks=[demo/entailment,demo/similarity]"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task=demo/similarity", "train.label_smoothing=0.1"], True),
        ([*BOTH, "train.label_smoothing=0.1"], True),
        (["task=demo/entailment", "train.label_smoothing=0.1"], False),
        (["task=demo/similarity"], False),
    ],
)
def test_smoothed_labels_of_a_regression(words, told):
    config = compose.composed(words)
    assert (SAID in remarks.of(config, task.load(config.task, None), "cpu")) == told
