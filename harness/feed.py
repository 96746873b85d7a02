"""Training rows as batches on the device, in a seeded order, with the decoder's inputs and a count of what was fed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness import losses
from harness.config import TrainConfig
from harness.data import Encoded, collate, epoch_batches
from harness.errors import ModelError
from harness.mixture import Mixture, choose

Batch = dict[str, Tensor]
GRAPH_TOKENS = 32  # lengths are rounded up to multiples of it where each length has a program of its own


def decoder_inputs(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The backbone's own way from labels (-100: padding) to decoder inputs: labels moved one place to the right."""
    unwrap: Any = getattr(model, "get_base_model", None)
    backbone = model if unwrap is None else unwrap()
    shift = getattr(backbone, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:
        raise ModelError(f"{type(backbone).__name__} has no decoder; a text-to-text task needs a BART or T5 backbone")
    return shift


class Feed:
    """The batches of one training.

    `examples` and `tokens` (source and target, padding not counted) are what was fed so far, calibration left out.
    """

    def __init__(
        self, encoded: Encoded | Mixture, settings: TrainConfig, model: nn.Module, device: torch.device, seed: int, buckets: bool,
        rank: int = 0, size: int = 1,
    ) -> None:  # fmt: skip
        self.examples = self.tokens = 0
        self.shape = (0, 0)  # rows and tokens of the last micro-batch
        self.pieces = 1  # into which a micro-batch is divided, since memory ran out
        self._rank, self._size = rank, size
        self.steps_per_epoch = math.ceil(len(encoded) / settings.batch_size)
        self._encoded, self._model, self._device, self._seed, self._buckets = encoded, model, device, seed, buckets
        self._batch_size, self._micro_size = settings.batch_size, settings.batch_size // settings.accumulation_steps
        self._multiple = GRAPH_TOKENS if settings.cuda_graphs else 1
        self._summed = settings.loss_reduction == "sum"
        self._shift = decoder_inputs(model) if encoded.kind == "generation" else None

    def updates(self, start: int = 0) -> Iterator[np.ndarray]:
        """The rows of update `start`, `start` + 1, ...: epoch after epoch, without end; an epoch's last may be fewer.

        Of several tasks they are drawn: see `Mixture`.
        """
        if isinstance(self._encoded, Mixture):
            yield from self._encoded.updates(self._batch_size, self._seed, start)
            return
        for epoch in count(start // self.steps_per_epoch):
            batches = epoch_batches(
                self._encoded.lengths, self._batch_size, seed=self._seed, epoch=epoch, buckets=self._buckets
            )
            yield from batches[max(0, start - epoch * self.steps_per_epoch) :]

    def state(self) -> dict[str, int]:
        """What was fed so far, for a checkpoint."""
        return {"examples": self.examples, "tokens": self.tokens, "pieces": self.pieces}

    def load_state(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.examples, self.tokens, self.pieces = state["examples"], state["tokens"], state["pieces"]

    def divide(self) -> bool:
        """Halve the micro-batches from now on; False where the last one was a single row already."""
        self.pieces *= 2
        return self.shape[0] > 1

    def remarks(self) -> list[str]:
        """Whether memory ran out."""
        return [f"out of memory: micro-batches were divided by {self.pieces}"] if self.pieces > 1 else []

    def micro_batches(self, rows: np.ndarray) -> Iterator[tuple[Batch, float]]:
        """An update's micro-batches on the device, each with its share of the effective batch; shares sum to 1.

        A share is of the examples, or of the target tokens where the loss is a mean over tokens; where it is their sum
        it is how many there are. Of several processes
        each has every n-th row of every micro-batch; one that gets none computes a row that counts for nothing.
        """
        total = self._weight(rows)
        whole = 1 if self._summed else max(1, total)
        for part in self._parts(rows):
            mine = part[self._rank :: self._size]
            for piece in np.array_split(mine, min(self.pieces, len(mine))) if len(mine) else [part[:1]]:
                batch = self._collated(piece)
                self.shape = (len(piece), batch["input_ids"].shape[1])
                yield self._moved(batch), self._weight(piece) / whole if len(mine) else 0.0
        self.examples += len(rows)
        self.tokens += int(self._encoded.lengths[rows].sum()) + (total if self._encoded.kind == "generation" else 0)

    def _weight(self, rows: np.ndarray) -> int:
        """What the mean of the task loss is taken over: examples, or target tokens."""
        _, encoded, places = self._at(rows)
        return losses.weight(encoded.kind, [encoded.targets[row] for row in places])

    def _at(self, rows: np.ndarray) -> tuple[str | None, Encoded, np.ndarray]:
        """Which task's split the rows are of (None where there is one task), and their numbers in it."""
        return self._encoded.at(rows) if isinstance(self._encoded, Mixture) else (None, self._encoded, rows)

    def _collated(self, rows: np.ndarray) -> Batch:
        """A batch, and the model told of its task."""
        task, encoded, places = self._at(rows)
        if task is not None:
            choose(self._model, task)
        return collate(encoded, places, self._multiple)

    def calibration(self) -> Iterator[Batch]:
        """The micro-batches of the first epoch, for a method's `prepare`."""
        for rows in islice(self.updates(), self.steps_per_epoch):
            for part in self._parts(rows):
                yield self._moved(self._collated(part))

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self._micro_size] for start in range(0, len(rows), self._micro_size)]

    def _moved(self, batch: Batch) -> Batch:
        """To the device; pinned memory first, since a copy from pageable memory makes the GPU wait."""
        if self._device.type == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        batch = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}
        if self._shift is not None:
            batch["decoder_input_ids"] = self._shift(batch["labels"])
        return batch
