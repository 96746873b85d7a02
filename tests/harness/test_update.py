"""Memory that runs out in an update: said with the batch's shape, or gone on with in smaller pieces."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_train import SETTINGS, Recorder, Tiny, rows, run
from torch import nn

from harness import execution, publish, record
from harness.errors import ConfigError
from harness.interrupt import Stopped
from harness.monitor import Diverged
from harness.record import RUNNING, Record
from harness.update import OutOfMemory

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


class Small(Recorder):
    """A device on which micro-batches of more than so many rows do not fit."""

    def __init__(self, fits, error=NO_MEMORY[0]):
        super().__init__()
        self.fits, self.error, self.sizes = fits, error, []

    def loss(self, model, batch, task_loss):
        self.sizes.append(len(batch["labels"]))
        if self.sizes[-1] > self.fits:
            raise self.error
        return super().loss(model, batch, task_loss)


@pytest.mark.parametrize("error", NO_MEMORY, ids=["gpu", "cpu", "python"])
def test_it_is_said_with_the_update_and_the_shape(error):
    with pytest.raises(
        OutOfMemory, match=r"at update 0 \(from 0\): a micro-batch of 4 rows x \d tokens, peak"
    ) as caught:
        run(Tiny(Small(2, error)))
    assert caught.value.state == "OUT_OF_MEMORY" and caught.value.peak_bytes > 1e6
    assert "train.accumulation_steps" in str(caught.value)


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_a_retry_in_halves_trains_the_same(fits):
    settings = replace(SETTINGS, retry_out_of_memory=True, adam_epsilon=1e-3)
    tuner, whole, divided = Small(fits), Tiny(), None
    expected = run(whole, settings)
    divided = Tiny(tuner)
    outcome = run(divided, settings)
    assert outcome.losses == pytest.approx(expected.losses, abs=1e-6)
    assert (outcome.examples, outcome.tokens) == (expected.examples, expected.tokens)
    pieces = 4 if fits == 1 else 2
    assert outcome.remarks == [f"out of memory: micro-batches were divided by {pieces}"] and expected.remarks == []
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(divided.get_parameter(name), parameter, atol=1e-6, rtol=0)


def test_a_single_row_that_does_not_fit_ends_it():
    with pytest.raises(OutOfMemory, match="a micro-batch of 1 rows"):
        run(Tiny(Small(0)), replace(SETTINGS, retry_out_of_memory=True))


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(Tiny(Small(2, RuntimeError("shapes do not fit"))), replace(SETTINGS, retry_out_of_memory=True))


@pytest.mark.parametrize(
    ("error", "state"),
    [(error, "OUT_OF_MEMORY") for error in NO_MEMORY]
    + [
        (OutOfMemory(3, (4, 9), 2**30, "CUDA"), "OUT_OF_MEMORY"), (Diverged(1, "loss", 0.0, []), "DIVERGED"),
        (ConfigError("no"), "FAILED"), (ZeroDivisionError("x"), "FAILED"), (KeyboardInterrupt(), "PREEMPTED"),
        (Stopped(15), "PREEMPTED"), (Stopped(2), "PREEMPTED"), (Stopped(10), "TIMEOUT"), (Stopped(12), "TIMEOUT"),
    ],
)  # fmt: skip
def test_every_end_has_its_state_in_the_record(tmp_path, error, state):
    with pytest.raises(type(error)), publish.failures(tmp_path, Record("demo.run", RUNNING, {}, {}, {})):
        raise error
    stored = record.read(tmp_path)
    assert stored.state == state and stored.error


def test_what_never_moves_is_remarked():
    class Ranked(Recorder):
        def trace(self):
            return {"ranks": {"layer": 3}}

    still = run(Tiny(Ranked()), replace(SETTINGS, learning_rate=0.0), rows(4))
    assert still.remarks == [
        f"the training loss never moved from {still.losses[0]:g}",
        "the method's ranks never changed",
    ]
    assert run(Tiny(Recorder())).remarks == []


MEMORY: dict = {}


class Recycled(torch.autograd.Function):
    """Gives its gradient in memory that the next backward pass writes over, as a CUDA graph does."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        kept = MEMORY.setdefault(gradient.shape, torch.empty_like(gradient))
        return kept.copy_(gradient).detach()


class Recycling(Tiny):
    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        table = Recycled.apply(self.embedding.weight)
        mean = (table[input_ids] * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(
            logits=nn.functional.linear(mean, Recycled.apply(self.head.weight), Recycled.apply(self.head.bias))
        )


def test_gradients_that_the_next_micro_batch_writes_over_are_copied_first(monkeypatch):
    settings = replace(SETTINGS, accumulation_steps=2)
    expected = run(Tiny(), settings)
    spoilt = run(Recycling(), settings)
    assert spoilt.losses != pytest.approx(expected.losses, abs=1e-4)  # this is what a graph's memory does
    monkeypatch.setattr(execution, "capture_forward", lambda model: None)
    found = run(Recycling(), replace(settings, cuda_graphs=True))
    assert found.losses == pytest.approx(expected.losses, abs=1e-6)
