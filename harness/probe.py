"""What preflight looks at: two short rows, and a copy of the model that shares the frozen weights with the run's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import RunConfig
from harness.data import Encoded, collate
from harness.errors import ConfigError, unknown
from harness.feed import decoder_inputs
from harness.mixture import choose
from harness.task import Task

if TYPE_CHECKING:
    from peft import PeftModel

LENGTH = 32  # tokens of a row at most
NOISE = 0.05  # standard deviation of what is added to trained values: zero initialisation hides gradients
DECLARATIONS = {
    "no_draws": "a new adapter depends on no seed",
    "padding": "padding changes logits",
    "penalised_loss": "the loss that the model itself computes has the penalty in it, also in evaluation",
    "moves_backbone": "training changes the backbone's own weights",
    "packs": "runs of it can be trained together (harness/pack.py)",
}


@dataclass
class Probe:
    """What a check may look at. `model` and `batch` are copies: a check may change them, and says what it leaves.

    Args:
        run: the configuration. task: the rows, labels and metric. splits: the same as token ids.
        real: the model that will be trained; not to be changed, only to be looked at.
        attach: seed -> the method on another copy of the backbone, as the run did it.
        counted: adapter parameters by shapes alone, as a budget counts them.
        precision: "float32" or "bfloat16", resolved.
    """

    run: RunConfig
    task: Task
    splits: dict[str, Any]
    real: PeftModel
    attach: Callable[[int], PeftModel]
    counted: Callable[[], tuple[int, int]]
    tokenizer: Any
    precision: str = "float32"
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = next(self.real.parameters()).device
        self.model: Any = shared(self.real)
        self.parts: tuple[str | None, ...] = tuple(self.task.parts) or (None,)
        self._whole = self.task, self.splits
        self.turn_to(None)
        words = self.run.method.get("declares") or []
        for word in words:
            if word not in DECLARATIONS:
                raise ConfigError(f"method.declares: {unknown('word', str(word), DECLARATIONS)}")
        self.declared = set(words)

    def turn_to(self, part: str | None) -> None:
        """Of several tasks to one, which the copy is told; None: to all of them, with rows of the first."""
        self.task, self.splits = self._whole
        first, train = part or self.parts[0], self.splits["train"]
        if first is not None:
            choose(self.model, first)
            train = train.parts[first]
        if part is not None:
            self.task = self.task.parts[part]
            self.splits = {split: whole.parts[part] for split, whole in self.splits.items() if part in whole.parts}
        self.rows = two_rows(train, set(self.tokenizer.all_special_ids))
        self.batch = self.batch_of(self.rows)

    def batch_of(self, rows: Encoded) -> dict[str, Tensor]:
        """Rows as one padded batch on the device, with the decoder's inputs."""
        batch = {name: tensor.to(self.device) for name, tensor in collate(rows, range(len(rows))).items()}
        if rows.kind == "generation":
            batch["decoder_input_ids"] = decoder_inputs(self.model)(batch["labels"])
        return batch

    def logits(self, batch: dict[str, Tensor] | None = None) -> Tensor:
        """What the copy says of a batch in evaluation."""
        self.model.eval()
        inputs = {name: tensor for name, tensor in (batch or self.batch).items() if name != "labels"}
        with torch.no_grad(), self.autocast():
            return self.model(**inputs).logits.float()

    def autocast(self) -> Any:
        """The run's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def trained(self) -> dict[str, nn.Parameter]:
        """What the copy trains, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def randomise(self, seed: int) -> None:
        """Noise on everything that the copy trains."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.trained().values():
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator).to(parameter))


def shared(model: Any, *, everything: bool = False) -> Any:
    """A copy of a model with modules, buffers and trained values of its own; frozen weights lie in the same memory.

    `everything`: no weight is copied, also where it requires a gradient.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if everything or not parameter.requires_grad:
            plain = type(parameter) is nn.Parameter  # a quantised one carries state that belongs to it: itself
            memo[id(parameter)] = nn.Parameter(parameter.data, parameter.requires_grad) if plain else parameter
    return copy.deepcopy(model, memo)


def two_rows(encoded: Encoded, special: set[int]) -> Encoded:
    """Two training rows of at most LENGTH tokens: the longest that are no longer, else the shortest, cut.

    Special tokens are never cut away: some architectures read their summary at the last one.
    """
    lengths = encoded.lengths
    order = np.argsort(np.where(lengths <= LENGTH, LENGTH - lengths, lengths), kind="stable")[:2]
    kept = [_places(encoded.input_ids[row], special) for row in order]
    types = encoded.token_type_ids
    targets = [encoded.targets[row] for row in order]
    return replace(
        encoded,
        input_ids=[np.asarray(encoded.input_ids[row])[at] for row, at in zip(order, kept, strict=True)],
        token_type_ids=types and [np.asarray(types[row])[at] for row, at in zip(order, kept, strict=True)],
        targets=[target[-LENGTH:] for target in targets] if encoded.kind == "generation" else targets,
        ids=[encoded.ids[row] for row in order],
    )


def _places(row: Any, special: set[int]) -> list[int]:
    """Which tokens of a row stay: all special ones, and the first others that there is room for."""
    marks = [place for place, token in enumerate(row) if int(token) in special]
    others = [place for place, token in enumerate(row) if int(token) not in special]
    return sorted(marks[-LENGTH:] + others[: max(0, LENGTH - len(marks))])
