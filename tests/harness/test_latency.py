"""How long one row takes: medians, with the adapter merged where it can be, nothing where it refuses."""

import numpy as np
import torch
from torch import nn

from harness import latency
from harness.data import Encoded

ENCODED = Encoded(
    "classification", [np.arange(1, n) for n in range(4, 16)], None, [0] * 12, [str(n) for n in range(12)], 0, 0
)


class Model(nn.Module):
    """Takes as many ticks of a clock as the script says; merging halves them, or is refused with `refusal`."""

    def __init__(self, clock, ticks, refusal=None):
        super().__init__()
        self.clock, self.ticks, self.refusal, self.fed = clock, ticks, refusal, []
        self.other = nn.Dropout()

    def forward(self, input_ids, attention_mask):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.fed.append(input_ids.shape[1])
        self.clock[0] += self.ticks * input_ids.shape[1]

    def merge_and_unload(self):
        if self.refusal is not None:
            raise self.refusal
        return Model(self.clock, self.ticks / 2)


def measured(monkeypatch, refusal=None, encoded=ENCODED):
    clock = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    model = Model(clock, 1.0, refusal)
    return latency.measure(model, encoded, device="cpu", precision="float32"), model


def test_medians_apart_and_merged(monkeypatch):
    found, model = measured(monkeypatch)
    assert model.fed == [3, *range(3, 11)], "one to warm up, then the first eight, one by one"
    assert found == {"latency_seconds": 6.5, "latency_merged_seconds": 3.25}


def test_a_refused_merge_has_no_number(monkeypatch):
    for refusal in (ValueError("cannot be merged"), NotImplementedError()):
        assert measured(monkeypatch, refusal)[0] == {"latency_seconds": 6.5, "latency_merged_seconds": None}


def test_no_rows(monkeypatch):
    none = Encoded("classification", [], None, [], [], 0, 0)
    assert measured(monkeypatch, encoded=none)[0] == {"latency_seconds": None, "latency_merged_seconds": None}
