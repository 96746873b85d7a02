"""The same training by us and by the peers, as their users get it: for `bench_training.py` and `gpu_check.py`.

    ours    harness.train: buckets of like length, lean attention where the backbone has one
    a       peft's documented example: transformers.Trainer, batches padded to their longest row
    b       the same with `train_sampling_strategy="group_by_length"`
    c       the same with every row padded to the authors' maximum length
    d       full fine-tuning by the same Trainer, batches as in (a)

All with the same LoRA configuration, weights, dtype, batch size, AdamW, clipping and threads. A side trains on a few
batches of one epoch of its own sampler: those at evenly spaced quantiles of padded length, so that the mean of their
seconds stands for the epoch's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from short_run import Ticks
from torch import nn
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from turns import Pause

from harness import directory, feed, model, task
from harness.config import RunConfig
from harness.data import Encoded, epoch_batches
from harness.train import train

SIDES = ("ours", "a", "b", "c", "d")
TARGET_TOKENS = 2  # of a text-to-text label: a word and the end


@dataclass(frozen=True)
class Contest:
    """One comparison.

    Args:
        config: backbone, method and training; the loop's values are taken from it by every side.
        lengths: tokens of each training row.
        max_length: what (c) pads to.
        batches: how many batches of an epoch stand for it.
        repeats: how often each of them is trained on.
        every: steps between two pauses.
    """

    config: RunConfig
    lengths: np.ndarray
    max_length: int
    batches: int
    repeats: int
    every: int = 1

    @property
    def on_gpu(self) -> bool:
        """Whether the training runs on a GPU."""
        return self.config.device == "cuda"

    @property
    def seq2seq(self) -> bool:
        """Whether the task is text to text."""
        return self.config.task.kind == "generation"


def sampled(contest: Contest, side: str) -> list[np.ndarray]:
    """The batches (row numbers) that a side trains on: one to warm up with, then the chosen ones, again and again."""
    lengths, size = contest.lengths, contest.config.train.batch_size
    if side == "ours":
        epoch = epoch_batches(lengths, size, seed=0, epoch=0, buckets=contest.config.data.buckets)
    else:
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(lengths), generator=generator).tolist()
        if side == "b":
            order = list(LengthGroupedSampler(size, lengths=lengths.tolist(), generator=generator))
        epoch = [np.asarray(order[start : start + size]) for start in range(0, len(order), size)]
    whole = sorted((rows for rows in epoch if len(rows) == size), key=lambda rows: lengths[rows].max())
    places = (np.arange(contest.batches) + 0.5) / contest.batches * len(whole)
    chosen = [whole[int(place)] for place in places]
    if side == "c":  # every batch costs the same
        return [chosen[0]] * (1 + min(2, contest.batches * contest.repeats)) * contest.every
    steps = [rows for rows in chosen * contest.repeats for _ in range(contest.every)]
    return [chosen[len(chosen) // 2]] * contest.every + steps


def padded_tokens(contest: Contest, side: str) -> float:
    """Mean tokens of a batch, padding included, over the chosen batches."""
    kept = sampled(contest, side)[contest.every :]
    widths = [contest.max_length if side == "c" else int(contest.lengths[rows].max()) for rows in kept]
    return float(np.mean(widths)) * contest.config.train.batch_size


def network(contest: Contest, side: str) -> nn.Module:
    """The backbone with random weights and its adapter; the peers get transformers' attention, and (d) no adapter."""
    config = contest.config
    spec = config.model if side == "ours" else replace(config.model, attention="transformers")
    where, blank = directory.locate(spec), task.empty(config.task)
    backbone, _ = model.load(spec, where, blank, seed=0)
    if side == "d":
        return backbone
    method = model.method_config(config.method, spec, blank.kind, backbone)
    return model.attach(backbone, method, seed=0, lean=side == "ours")


def program(contest: Contest, side: str) -> Callable[[Pause], None]:
    """What a side does in its turns."""
    return lambda pause: (_ours if side == "ours" else _trainer)(contest, side, pause)


def _rows(contest: Contest, side: str) -> tuple[list[np.ndarray], list[Any]]:
    """Token ids and targets of every row, at random."""
    bits = np.random.Generator(np.random.PCG64(1))
    ids = [bits.integers(10, 100, size=length) for length in contest.lengths]
    if contest.seq2seq:
        return ids, [bits.integers(10, 100, size=TARGET_TOKENS) for _ in ids]
    return ids, bits.integers(0, max(1, len(contest.config.task.labels)), size=len(ids)).tolist()


class _Bar(Ticks):
    """Pauses after every `every`-th update, in the place of a progress bar."""

    def __init__(self, pause: Pause, contest: Contest) -> None:
        super().__init__(self._count)
        self._pause, self._contest, self._steps = pause, contest, 0

    def _count(self) -> None:
        self._steps += 1
        if self._steps % self._contest.every == 0:
            if self._contest.on_gpu:
                torch.cuda.synchronize()
            self._pause()


def _ours(contest: Contest, side: str, pause: Pause) -> None:
    config, steps = contest.config, sampled(contest, side)
    ids, targets = _rows(contest, side)
    pad = _tokenizer(contest).pad_token_id
    encoded = Encoded(config.task.kind, ids, None, targets, [str(row) for row in range(len(ids))], pad, 0)
    settings = replace(config.train, max_steps=len(steps), evaluate_every_epochs=None, select="last")
    with mock.patch.object(feed, "epoch_batches", lambda *_, **__: steps):
        train(
            network(contest, side), encoded, settings, seed=0, device=config.device, buckets=True, validate=None,
            main="", progress=_Bar(pause, contest),
        )  # fmt: skip


class _Pauses(TrainerCallback):
    """Pauses at the end of every `every`-th step."""

    def __init__(self, pause: Pause, contest: Contest) -> None:
        self._bar = _Bar(pause, contest)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(1)


def _trainer(contest: Contest, side: str, pause: Pause) -> None:
    """transformers.Trainer with its defaults but for what every side shares. Its sampler is that of `sampled`."""
    config, steps = contest.config, sampled(contest, side)
    set_seed(0)
    net, (ids, targets) = network(contest, side), _rows(contest, side)
    words = _tokenizer(contest)
    width = contest.max_length if side == "c" else 0
    rows = [_example(ids[row], targets[row], width, words.pad_token_id) for row in np.concatenate(steps)]
    collator = DataCollatorForSeq2Seq(words, net) if contest.seq2seq else DataCollatorWithPadding(words)
    half = config.train.precision == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=config.train.batch_size, max_steps=len(steps), bf16=half,
            learning_rate=config.train.learning_rate, train_sampling_strategy="sequential", report_to="none",
            save_strategy="no", use_cpu=not contest.on_gpu, disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(
            net, arguments, data_collator=collator, train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[_Pauses(pause, contest)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _tokenizer(contest: Contest) -> Any:
    return AutoTokenizer.from_pretrained(directory.locate(contest.config.model), local_files_only=True)


def _example(ids: np.ndarray, target: Any, width: int, pad: int) -> dict[str, Any]:
    """A row as a tokenizer gives it, padded to `width` where there is one."""
    missing = max(0, width - len(ids))
    row = {"input_ids": [*ids.tolist(), *[pad] * missing], "attention_mask": [1] * len(ids) + [0] * missing}
    return row | {"labels": target.tolist() if isinstance(target, np.ndarray) else target}
