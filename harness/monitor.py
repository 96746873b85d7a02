"""What is known of a running training: losses fetched in blocks, the learning curve, the best checkpoint.

Nothing here makes a GPU wait at every step: a loss stays on the device until its block is full.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from methods.hooks import Hooks

SERIES = ("losses", "penalties", "step_seconds")


class Progress(Protocol):
    """A bar of updates, such as tqdm's; the loop sets its total."""

    total: float | None

    def update(self, n: int, /) -> object:
        """`n` more updates are done."""

    def set_postfix_str(self, s: str, refresh: bool) -> object:
        """A word to show beside the bar."""


class Diverged(HarnessError):
    """A loss, a gradient or a trained parameter is not finite.

    Args:
        step: the first update whose loss or gradient was not finite, from 0; the last one when only a parameter was not.
        value: what was found, of `what`.
        ids: the rows of that update's batch.
    """

    state = "DIVERGED"  # of the run's record

    def __init__(self, step: int, what: str, value: float, ids: Sequence[str]) -> None:
        self.step, self.value, self.ids = step, value, list(ids)
        rows = ", ".join(self.ids[:8]) + (f" and {len(self.ids) - 8} more" if len(self.ids) > 8 else "")
        super().__init__(
            f"training diverged: {what} {value} at update {step} (from 0), on rows {rows}; "
            "try a lower train.learning_rate, more train.warmup_steps or train.clip_norm=1"
        )

    def after(self, checkpoint: int | None) -> Diverged:
        """The same, naming the last good checkpoint by its number of updates."""
        good = "there is no earlier checkpoint" if checkpoint is None else f"the last good checkpoint has {checkpoint}"
        self.args = (f"{self.args[0]}; {good}{'' if checkpoint is None else ' updates'}",)
        return self


class Monitor:
    """Losses, seconds a step and the learning curve of one training.

    Args:
        ids: the id of every training row, to name those of a batch that diverged.
        total_steps: the number of updates to come.
        steps_per_epoch: turns a number of updates into epochs.
        block_steps: how many losses stay on the device before they are fetched together.
        progress: a bar, told of every update without waiting for its loss.
    """

    def __init__(
        self, ids: list[str], total_steps: int, steps_per_epoch: int, block_steps: int, progress: Progress | None
    ) -> None:
        self.losses: list[float] = []
        self.penalties: list[float] = []
        self.step_seconds: list[float] = []
        self.curve: list[dict[str, Any]] = []
        self._ids, self._steps_per_epoch = ids, steps_per_epoch
        self._block_steps, self._progress = block_steps, progress
        if progress is not None:
            progress.total = total_steps
        self._last_rows: Sequence[int] | np.ndarray = ()
        self._waiting: list[tuple[np.ndarray, Tensor, Tensor, Tensor]] = []
        self._tell = getattr(progress, "tell", None)  # a bar that wants losses and curve as well
        self._since = time.perf_counter()

    def resume_clock(self) -> None:
        """Time since the last fetch was not training (an evaluation, say): leave it out of the seconds a step."""
        self._since = time.perf_counter()

    def add(self, rows: np.ndarray, loss: Tensor, penalty: Tensor | None, norm: Tensor) -> None:
        """An update is done: its rows; its task loss, its penalty if it had one, its gradient's norm: detached scalars."""
        self._last_rows = rows
        self._waiting.append((rows, loss, loss.new_zeros(()) if penalty is None else penalty, norm.to(loss)))
        if len(self._waiting) == self._block_steps:
            self.fetch()
        if self._progress is not None:
            if self.losses:
                self._progress.set_postfix_str(f"loss {self.losses[-1]:.3f}", refresh=False)
            self._progress.update(1)

    def fetch(self) -> None:
        """Bring the waiting losses to the CPU. Raises Diverged at the first one that is not finite."""
        if not self._waiting:
            return
        values = torch.stack([torch.stack(scalars) for _, *scalars in self._waiting]).tolist()
        for (rows, *_), (loss, penalty, norm) in zip(self._waiting, values, strict=True):
            for what, value in (("loss", loss + penalty), ("gradient norm", norm)):
                if not math.isfinite(value):
                    raise Diverged(len(self.losses), what, value, [self._ids[row] for row in rows])
            self.losses.append(loss)
            self.penalties.append(penalty)
        self.step_seconds.append((time.perf_counter() - self._since) / len(self._waiting))
        self._waiting.clear()
        if self._tell is not None:
            self._tell(self.losses, self.curve)
        self._since = time.perf_counter()

    def check(self, parameters: list[nn.Parameter]) -> None:
        """At the end: every loss, and what the last update made of the parameters. Raises Diverged."""
        self.fetch()
        if parameters and not torch.stack([parameter.detach().isfinite().all() for parameter in parameters]).all():
            raise Diverged(len(self.losses) - 1, "a parameter", math.nan, [self._ids[row] for row in self._last_rows])

    def recorded(self, step: int) -> bool:
        """Whether the learning curve has a row of this update."""
        return bool(self.curve) and self.curve[-1]["step"] == step

    def remarks(self, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        """What looks like nothing was learnt: a loss that never moved, ranks (of the method's trace) that never did."""
        still = len(self.losses) > 1 and len(set(self.losses)) == 1
        told = [f"the training loss never moved from {self.losses[0]:g}"] if still else []
        same = self.losses and "ranks" in after and before.get("ranks") == after["ranks"]
        return told + (["the method's ranks never changed"] if same else [])

    def median_step_seconds(self) -> float | None:
        """The median over the fetched blocks; None before the first."""
        return statistics.median(self.step_seconds) if self.step_seconds else None

    def state(self) -> dict[str, Any]:
        """Everything so far, for a checkpoint. Raises Diverged where the last losses are not finite."""
        self.fetch()
        known = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in SERIES}
        return {**known, "curve": self.curve, "last_rows": [int(row) for row in self._last_rows]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in SERIES:
            setattr(self, name, state[name].tolist())
        self.curve, self._last_rows = state["curve"], state["last_rows"]
        if self._progress is not None:
            self._progress.update(len(self.losses))

    def record(self, scores: dict[str, float], trace: dict[str, Any]) -> dict[str, Any]:
        """A row of the learning curve: update, epoch, mean loss and penalty since the row before, scores, the trace."""
        self.fetch()
        step, before = len(self.losses), self.curve[-1]["step"] if self.curve else 0
        row: dict[str, Any] = {"step": step, "epoch": step / self._steps_per_epoch}
        row["loss"] = statistics.fmean(self.losses[before:]) if step > before else None
        if any(self.penalties[before:]):
            row["penalty"] = statistics.fmean(self.penalties[before:])
        row.update(scores)
        row["trace"] = trace
        self.curve.append(row)
        if self._tell is not None:
            self._tell(self.losses, self.curve)
        return row


def living(model: nn.Module, also: Collection[str] = ()) -> dict[str, Tensor]:
    """By name, all that training may change: trained parameters, the tuner's frozen ones, those named, buffers."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    found: dict[str, Tensor] = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad or name in also or (prefix and prefix in name)
    }
    return found | dict(model.named_buffers())


class Best:
    """The best row of the learning curve so far, and where asked for, a copy of what was trained at that moment.

    Of equal scores the earliest stays. A score that is not a number is never the best while there is another.
    """

    def __init__(self, model: nn.Module, hooks: Hooks, main: str, keep: bool) -> None:
        self._model, self._hooks, self._main, self._keep = model, hooks, main, keep
        self._tensors: dict[str, Tensor] | None = None
        self._method: dict[str, Any] = {}
        self.row: dict[str, Any] | None = None

    def offer(self, row: dict[str, Any]) -> None:
        """Compare a row of the learning curve; copy the trained state if it is the best."""
        known = -math.inf if self.row is None or math.isnan(self.row[self._main]) else self.row[self._main]
        if self.row is not None and not row[self._main] > known:
            return
        self.row = row
        if self._keep:
            self._tensors = {name: tensor.detach().clone() for name, tensor in living(self._model).items()}
            self._method = copy.deepcopy(self._hooks.training_state())

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"row": self.row, "tensors": self._tensors, "method": self._method}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.row, self._tensors, self._method = state["row"], state["tensors"], state["method"]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best state back. Raises RuntimeError where a method grew since and cannot go back."""
        if self._tensors is None or self.row is None:
            return
        self._hooks.load_training_state(self._method)
        now = living(self._model)
        for name in sorted(now.keys() ^ self._tensors.keys()):
            raise RuntimeError(
                f"{type(self._hooks).__name__} changed its parameters after update {self.row['step']} ({name}); its "
                "load_training_state has to bring them back before the best checkpoint can be restored"
            )
        for name, tensor in now.items():
            tensor.copy_(self._tensors[name])

    def summary(self, last: dict[str, Any]) -> dict[str, Any] | None:
        """The best row, and the score at the end beside it; None where nothing was offered."""
        if self.row is None:
            return None
        return {**self.row, "last_step": last["step"], f"last_{self._main}": last[self._main]}
