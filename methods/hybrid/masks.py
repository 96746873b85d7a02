"""Binary masks that are learned: a score for each entry, the largest of which are kept; and their bits on disk.

Mask of a matrix of n scores S: the int((1 - keep) n) entries with the smallest |S| get 0, all others 1. The product is
computed in double precision and truncated, so keep=0.9 of 10 entries keeps all ten. Backward the mask is |S|: every
score, kept or not, gets sign(S) times the gradient of its mask entry (straight-through).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

COMBINATIONS = ("or", "and", "add")


def top_mask(scores: Tensor, keep: float) -> Tensor:
    """The mask of a tensor of scores, in its shape and dtype: 1 where kept, 0 elsewhere."""
    magnitude = scores.detach().abs()
    mask = torch.ones_like(magnitude)
    zeros = int((1 - keep) * magnitude.numel())
    if zeros:
        mask.view(-1)[magnitude.flatten().topk(zeros, largest=False, sorted=False).indices] = 0
    return mask


def combine(method: str, layer: Tensor, task: Tensor) -> Tensor:
    """Two masks as one, differentiable in both.

    "or" is 1 - (1 - layer)(1 - task): an entry that one mask keeps passes no gradient to the other. "and" is the
    product. "add" is the sum, 0, 1 or 2, which is no mask any more.
    """
    if method == "or":
        return 1 - (1 - task) * (1 - layer)
    return task * layer if method == "and" else task + layer


class Scores(nn.Module):
    """One learned mask.

    Args:
        shape: of the masked tensor.
        keep: share of the entries that are kept, 0 < keep <= 1.
        fan_in: scores start uniform in +-1/sqrt(fan_in); None means the size of a row.
    """

    def __init__(self, shape: tuple[int, ...], keep: float, fan_in: int | None = None) -> None:
        super().__init__()
        self.keep = keep
        bound = 1 / math.sqrt(fan_in or math.prod(shape[1:]))
        self.scores = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def forward(self) -> Tensor:
        """The mask, whose gradient is that of |scores|."""
        magnitude = self.scores.abs()
        return top_mask(self.scores, self.keep) + (magnitude - magnitude.detach())


class Tasks(nn.Module):
    """The masks of every task, shared by all layers. One task is active.

    Args:
        masks: task -> name of a matrix -> its scores.
    """

    def __init__(self, masks: Mapping[str, nn.ModuleDict]) -> None:
        super().__init__()
        self.names = tuple(masks)
        self.masks = nn.ModuleList(masks.values())  # by position: a task's name may be anything
        self.active: str | None = None

    def mask(self, task: str | None, name: str) -> Tensor:
        """A task's mask of one matrix. Raises ValueError for None and for an unknown task."""
        scores: Any = self.masks[self.index(task)]
        return scores[name]()

    def index(self, task: str | None) -> int:
        """The position of a task. Raises ValueError for None and for an unknown task."""
        if task is None or task not in self.names:
            found = "no task is set" if task is None else f"'{task}' is no task of this adapter"
            raise ValueError(f"{found}; call set_task with one of {', '.join(self.names)} before the forward pass")
        return self.names.index(task)


class LayerMasks(nn.Module):
    """The masks that one layer uses: its own, combined with the active task's where there are tasks.

    Args:
        own: name of a matrix -> scores; None where the layer borrows them.
        tasks: the adapter's tasks, or None.
        method: how own and task masks are combined.
        borrowed: the task whose masks stand in for the layer's own.
    """

    tasks: Any

    def __init__(
        self, own: nn.ModuleDict | None, tasks: Tasks | None = None, method: str = "or", borrowed: str | None = None
    ) -> None:
        super().__init__()
        self.own, self.method, self.borrowed = own, method, borrowed
        self.__dict__["tasks"] = tasks  # not a child: the adapter holds them once

    def forward(self, name: str) -> Tensor:
        """The mask of one matrix."""
        tasks: Tasks = self.tasks
        mask = tasks.mask(self.borrowed, name) if self.own is None else self.own[name]()
        return mask if tasks is None else combine(self.method, mask, tasks.mask(tasks.active, name))


def pack(mask: Tensor) -> Tensor:
    """A mask as ceil(n / 8) bytes: row-major, the first entry in the lowest bit, the tail filled with zeros."""
    bits = mask.detach().flatten().bool().cpu().numpy()
    return torch.from_numpy(np.packbits(bits, bitorder="little"))


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask (bool) that `pack` made bytes of. Raises ValueError where their number does not fit the shape."""
    count = math.prod(shape)
    if packed.dtype is not torch.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(
            f"a mask of shape {tuple(shape)} is {-(-count // 8)} bytes; the file has {packed.numel()} of {packed.dtype}"
        )
    bits = np.unpackbits(packed.cpu().numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits).bool().reshape(shape)


def scores_of(mask: Tensor) -> Tensor:
    """Scores that give this mask again, and that training can still move: none is zero, where |S| has no slope."""
    return (0.5 + 0.5 * mask.float()) / math.sqrt(math.prod(mask.shape[1:]))
