"""Several tasks as one training set: batches of one task at a time, drawn by temperature; a head a task; one evaluation.

Each update draws a task with probability proportional to n ** (1 / temperature), n its rows, and then its rows, both with
replacement, as HyperFormer and PROPETL do (commit 1c08f19 of the latter). Update k has a generator of its own, seeded by
(seed, k): where a training goes on, or how many tasks it has, does not shift the draws of any other. Sorting by length
(`data.buckets`) has no meaning here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor, nn

from harness.data import Encoded
from methods.hooks import find

DRAWS = 0x7A5C  # tells these streams from those of a single task's epochs


@dataclass(frozen=True)
class Mixture:
    """The splits of several tasks, by the tasks' names; a row's number counts through all of them, in their order.

    Args:
        kind: `generation`, or `multi` where each task has a head of its own.
        parts: task -> its rows.
        temperature: 1 draws tasks in proportion to their rows, a large one draws all alike.
    """

    kind: str
    parts: dict[str, Encoded]
    temperature: float

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @cached_property
    def ids(self) -> list[str]:
        """`glue/rte/17` for each row."""
        return [f"{name}/{row}" for name, part in self.parts.items() for row in part.ids]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Source tokens of each row, int64 [rows]."""
        return np.concatenate([part.lengths for part in self.parts.values()])

    @property
    def truncated_rows(self) -> int:
        """Rows of all tasks that lost tokens."""
        return sum(part.truncated_rows for part in self.parts.values())

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.parts.values())])

    @property
    def shares(self) -> np.ndarray:
        """The probability of each task, in order; sums to 1."""
        weights = np.array([len(part) for part in self.parts.values()], dtype=float) ** (1 / self.temperature)
        return np.asarray(weights / weights.sum())

    def at(self, rows: Sequence[int] | np.ndarray) -> tuple[str, Encoded, np.ndarray]:
        """The task of some rows that belong to one, its split, and their numbers there."""
        place = int(np.searchsorted(self._starts, rows[0], side="right")) - 1
        name = list(self.parts)[place]
        return name, self.parts[name], np.asarray(rows) - self._starts[place]

    def updates(self, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """The rows of update `start`, `start` + 1, ..., without end: `batch_size` rows of one task each."""
        bounds = np.cumsum(self.shares)
        for step in count(start):
            # Raw numbers, not `Generator`'s methods: only the former keep their streams over NumPy's versions.
            raw = np.random.PCG64(np.random.SeedSequence([seed, step, DRAWS])).random_raw(batch_size + 1)
            task = min(int(np.searchsorted(bounds, float(raw[0]) / 2.0**64, side="right")), len(bounds) - 1)
            first, end = self._starts[task : task + 2]
            yield first + (raw[1:] % np.uint64(end - first)).astype(np.int64)


class Heads(nn.Module):
    """One head for each task in the place of the backbone's only one.

    Args:
        heads: task -> its head.
    """

    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(heads)
        self.heads = nn.ModuleList(heads.values())  # by position: a task's name may be anything
        self.active = 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the head of the task at hand."""
        found: Tensor = self.heads[self.active](*args, **kwargs)
        return found


def give_heads(model: Any, head_modules: list[str], outputs: dict[str, int]) -> None:
    """A head for each task in place of the model's, in place; drawn from the global generator, in the tasks' order.

    Args:
        model: with one new head. head_modules: what its parts are called; the last one ends in the classes.
        outputs: task -> its number of classes, 1 for a score.
    """
    for name in head_modules:
        for path in [path for path, _ in model.named_modules() if path.rpartition(".")[2] == name]:
            old, heads = model.get_submodule(path), dict[str, nn.Module]()
            for task, size in outputs.items():
                heads[task] = _with_outputs(old, size) if name == head_modules[-1] else copy.deepcopy(old)
                for module in heads[task].modules():
                    model._init_weights(module)
            model.set_submodule(path, Heads(heads))


def _with_outputs(head: nn.Module, size: int) -> nn.Module:
    """A copy of a head whose last linear layer has `size` outputs."""
    head = copy.deepcopy(head)
    path, last = [(path, one) for path, one in head.named_modules() if isinstance(one, nn.Linear)][-1]
    made = nn.Linear(
        last.in_features, size, bias=last.bias is not None, device=last.weight.device, dtype=last.weight.dtype
    )
    if not path:
        return made
    head.set_submodule(path, made)
    return head


def choose(model: nn.Module, task: str) -> None:
    """The coming batches are of this task: its head, and what the method does for it."""
    for module in model.modules():
        if isinstance(module, Heads):
            module.active = module.names.index(task)
    find(model).set_task(task)
