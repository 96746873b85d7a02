"""One update of the parameters: gradients of the whole effective batch, clipping, the method's hooks, AdamW."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from harness import device, losses, optimizer
from harness.distributed import Group
from harness.errors import HarnessError
from harness.feed import Feed
from methods.hooks import Hooks


class OutOfMemory(HarnessError):
    """The device's memory, or the host's, is too small for a micro-batch.

    Args:
        step: the update, from 0.
        shape: rows and tokens of the micro-batch.
        peak_bytes: the most that was held.
    """

    state = "OUT_OF_MEMORY"  # of the run's record

    def __init__(self, step: int, shape: tuple[int, int], peak_bytes: int, reason: str) -> None:
        self.step, self.shape, self.peak_bytes = step, shape, peak_bytes
        super().__init__(
            f"out of memory at update {step} (from 0): a micro-batch of {shape[0]} rows x {shape[1]} tokens, peak "
            f"{peak_bytes / 2**30:.2f} GiB ({reason}). Give a greater train.accumulation_steps (the effective batch "
            "stays the same), a smaller data.max_length_tokens, or train.retry_out_of_memory=true"
        )


@dataclass
class Update:
    """What an update needs. Called with its rows, its number and the optimizer.

    `retry` halves the micro-batches when memory runs out, and makes the update again.
    """

    accelerator: Accelerator
    model: nn.Module
    hooks: Hooks
    feed: Feed
    task_loss: losses.TaskLoss
    clip_norm: float | None
    retry: bool
    seed: int
    group: Group
    graphs: bool = False  # gradients come out of CUDA graphs, whose next run writes over them
    trained: list[nn.Parameter] = field(default_factory=list)  # what the optimizer moves, in the model's order

    def __call__(self, rows: np.ndarray, step: int, adamw: Optimizer) -> tuple[Tensor, Tensor | None, Tensor]:
        """Returns the task loss over the effective batch, the penalty and the gradient's norm, on the device.

        Raises OutOfMemory.
        """
        if len(self.trained) != sum(len(group["params"]) for group in adamw.param_groups):  # a new stage, or a growth
            self.trained = optimizer.trained(adamw, self.model)
        if not self.group.leads:  # dropout draws from a stream of each update: there is none to be kept or brought back
            stream = np.random.SeedSequence([self.seed, self.group.rank, step]).generate_state(1)
            torch.manual_seed(int(stream[0]))
        task = self.group.reduce(self.backward(rows, step), self.trained)
        penalty = self.hooks.penalty()  # of the parameters, so once an update and outside autocast
        if penalty is not None:
            self.accelerator.backward(penalty)
        norm = optimizer.clip(self.trained, self.clip_norm)
        self.hooks.on_pre_optimizer_step(step, adamw)
        optimizer.align(self.trained)
        adamw.step()
        self.hooks.on_optimizer_step(step)
        adamw.zero_grad(set_to_none=True)
        return task, None if penalty is None else penalty.detach(), norm

    def backward(self, rows: np.ndarray, step: int) -> Tensor:
        """The gradients of this process's share of the batch; returns its share of the loss. Raises OutOfMemory."""
        while True:
            try:
                return self._backward(rows)
            except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError, on a CPU a bare one
                if device.failed_as(error) != OutOfMemory.state:
                    raise
                reason = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
            self.model.zero_grad(set_to_none=True)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            if not (self.retry and self.feed.divide()):
                raise OutOfMemory(step, self.feed.shape, _peak_bytes(), reason)

    def _backward(self, rows: np.ndarray) -> Tensor:
        task = torch.zeros((), device=self.accelerator.device)
        for number, (batch, share) in enumerate(self.feed.micro_batches(rows)):
            if self.graphs and number == 1:  # what one micro-batch left becomes ours; the others are added to it
                for parameter in self.trained:
                    parameter.grad = None if parameter.grad is None else parameter.grad.clone()
            with self.accelerator.autocast():
                loss = self.hooks.loss(self.model, batch, self.task_loss) * share
            self.accelerator.backward(loss)
            task += loss.detach()
        return task


def _peak_bytes() -> int:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
