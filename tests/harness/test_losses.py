from __future__ import annotations

import pytest
import torch
from transformers.trainer_pt_utils import LabelSmoother

from harness.losses import task_loss, weight


def test_classification_is_cross_entropy_in_float32():
    logits, labels = torch.randn(5, 3, dtype=torch.bfloat16), torch.tensor([0, 2, 1, 1, 0])
    expected = -torch.log_softmax(logits.float(), dim=-1)[torch.arange(5), labels].mean()
    torch.testing.assert_close(task_loss("classification")(logits, labels), expected)


def test_regression_is_the_squared_error_of_the_only_logit():
    loss = task_loss("regression")(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]))
    assert float(loss) == 2.5  # (1 + 4) / 2: no broadcast of [2] against [2, 1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_text_is_the_mean_over_target_tokens(smoothing):
    logits, labels = torch.randn(2, 4, 7), torch.tensor([[3, 1, 6, 2], [5, -100, -100, -100]])
    assert weight("generation", [[3, 1, 6, 2], [5]]) == 5
    theirs = LabelSmoother(epsilon=smoothing)({"logits": logits}, labels)
    torch.testing.assert_close(task_loss("generation", smoothing)(logits, labels), theirs)


def test_a_batch_without_target_tokens_costs_nothing():
    logits = torch.randn(1, 2, 7, requires_grad=True)
    loss = task_loss("generation")(logits, torch.full((1, 2), -100))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_a_micro_batch_weighs_by_its_examples():
    assert weight("classification", [1, 0, 1]) == weight("regression", [0.5, 1.0, 2.0]) == 3
