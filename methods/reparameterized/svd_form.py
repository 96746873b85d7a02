"""What AdaLoRA and IncreLoRA share: the form of an SVD, its regulariser, and the linear layers that carry it.

A change of a weight is written as `s * B (E o A)`: rows of A (rank x in) and columns of B (out x rank) are meant to
become orthonormal, E (rank x 1) holds the singular values. In the papers' letters P, Lambda, Q.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor, nn

from methods import backbone, sites
from methods.parts import Activation
from methods.tuner import Tuner, TunerConfig

STD = 0.02  # of A and B at the start, in both papers' code
EPSILON = 1e-5  # beside the rank in the scale, as both codes have it
REGULARISERS = ("mean_unsquared", "sum_squared")


@dataclass
class SvdConfig(TunerConfig):
    """Where the triplets stand, how many they are, and what holds them orthonormal."""

    target_modules: str | list[str] | None = field(  # type: ignore[assignment, misc]
        default=None,
        metadata={"help": "Regular expression of whole paths, or a list of their ends; null: all linears."},
    )
    init_rank: int = field(default=1, metadata={"help": "Triplets of every layer at the start."})
    target_rank: int = field(default=8, metadata={"help": "Triplets a layer at the end, on average."})
    total_target_rank: int | None = field(
        default=None, metadata={"help": "Triplets of all layers together at the end, in place of target_rank a layer."}
    )
    alpha: float = field(
        default=16.0, metadata={"help": "The scale is alpha / (rank + 1e-5); 0 or less stands for init_rank."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Probability, on the input of the triplets."})
    orthogonality_weight: float = field(default=0.1, metadata={"help": "gamma, the weight of the penalty."})
    regulariser: str = field(default="mean_unsquared", metadata={"help": f"One of {', '.join(REGULARISERS)}."})
    beta1: float = field(default=0.85, metadata={"help": "Smoothing of the importance."})
    beta2: float = field(default=0.85, metadata={"help": "Smoothing of its uncertainty."})

    def __post_init__(self) -> None:
        """Raises ValueError for a setting outside its range."""
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie strictly between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and less than 1")
        if self.orthogonality_weight < 0:
            raise ValueError(f"orthogonality_weight={self.orthogonality_weight} must be 0 or more")
        if self.regulariser not in REGULARISERS:
            raise ValueError(f"regulariser={self.regulariser!r} must be one of {', '.join(REGULARISERS)}")
        self.check_at_least_one("init_rank", "target_rank", "total_target_rank")

    def check_at_least_one(self, *names: str) -> None:
        """Raises ValueError where one of these is set to less than 1."""
        for name in names:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


class SvdTuner(Tuner):
    """A tuner of linear layers that the configuration names in `target_modules`, one SVD form beside each."""

    def parts(self, adapter: str | None = None) -> dict[str, Activation]:
        """Layer path -> the part there, in the model's order."""
        return {part.site: part for part in self.adapter(adapter).parts() if isinstance(part, Activation)}

    def forms(self) -> list[Any]:
        """The active adapter's forms, in the model's order."""
        return [part.form for part in self.parts().values()]

    @property
    def settings(self) -> Any:
        """The active adapter's configuration."""
        return self.peft_config[self.active_adapters[0]]

    def total_target(self) -> int:
        """Triplets of all layers together at the end."""
        config = self.settings
        return config.total_target_rank or config.target_rank * len(self.parts())

    def ranks(self) -> dict[str, int]:
        """Layer path -> triplets in use, in the model's order."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it has in use")

    def active_params(self) -> int:
        """What the triplets in use have: rank (in + out + 1) of every layer."""
        layers = [self.model.get_submodule(path) for path in self.parts()]
        ranks = zip(self.ranks().values(), layers, strict=True)
        return sum(rank * (layer.in_features + layer.out_features + 1) for rank, layer in ranks)

    def room(self) -> tuple[int, int]:
        """The fewest and the most triplets that one layer can end up with."""
        raise NotImplementedError(f"{type(self).__name__} does not say how far its layers can go")

    def overshoot(self) -> int:
        """How many more triplets than `total_target` there may be at the end."""
        return 0

    def planned_params(self) -> tuple[int, int]:
        """After training: with triplets spread evenly, and with all that can be in the layers with the longest ones."""
        layers = [self.model.get_submodule(path) for path in self.parts()]
        lengths = [layer.in_features + layer.out_features + 1 for layer in layers]
        return spread(self.total_target(), lengths, *self.room(), self.overshoot())

    def penalty(self) -> Tensor | None:
        """`orthogonality_weight` times the regulariser; None where that is 0 or the adapter is not in use."""
        config = self.settings
        if not config.orthogonality_weight or self.container.disable_adapters or self.container.merged:
            return None
        lefts, rights = zip(*((form.left(), form.right()) for form in self.forms()), strict=True)
        return config.orthogonality_weight * orthogonality(lefts, rights, config.regulariser)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        """What peft is to see while it injects: a tuner that replaces no module."""
        seen: Any = copy.copy(peft_config)
        seen.target_modules, seen.rank_pattern = DUMMY_TARGET_MODULES, None
        return seen


def spread(total: int, lengths: Sequence[int], least: int, most: int, over: int = 0) -> tuple[int, int]:
    """Parameters of `total` triplets: spread evenly, and with all that can be in the layers with the longest ones.

    Args:
        lengths: of a triplet of every layer, in + out + 1.
        least: triplets that a layer has in any case.
        most: triplets that a layer can have.
        over: triplets beyond `total` that there may be.
    """
    left, longest = total + over - least * len(lengths), least * sum(lengths)
    for length in sorted(lengths, reverse=True):
        taken = min(left, most - least)
        left, longest = left - taken, longest + taken * length
    return total * sum(lengths) // len(lengths), longest


def linear_layers(model: Any, config: Any) -> dict[str, nn.Linear]:
    """The layers that `config.target_modules` names, by path, in the model's order; the task head is left out.

    A string is a regular expression that matches the whole path, a list holds paths or their ends, None means every
    linear layer of the blocks. Raises ValueError where nothing matches, or something that is no linear layer.
    """
    targets, head = config.target_modules, config.modules_to_save or ()
    if targets is None:
        targets = sites.regex(model.config.model_type, "linears")
    paths = [path for path, _ in model.named_modules() if not path.startswith(f"{backbone.CONTAINER}.")]
    found = [path for path in paths if not set(head) & set(path.split(".")) and _matches(path, targets)]
    layers: dict[str, Any] = {path: model.get_submodule(path) for path in found}
    if not layers:
        known = {path.rpartition(".")[2] for path in paths if isinstance(model.get_submodule(path), nn.Linear)}
        raise ValueError(
            f"target_modules={targets} matches no module of {type(model).__name__}; its linear layers are called "
            f"{', '.join(sorted(known))}"
        )
    for path, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"target_modules={targets} matches {path}, a {type(layer).__name__}; name linear layers only"
            )
    return layers


def _matches(path: str, targets: str | Iterable[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith(f".{target}") for target in targets)


def check_rank(rank: int, name: str, layers: dict[str, nn.Linear]) -> None:
    """Raises ValueError where a matrix cannot have this rank."""
    for path, layer in layers.items():
        if rank > (largest := min(layer.in_features, layer.out_features)):
            shape = f"{layer.out_features} x {layer.in_features}"
            raise ValueError(
                f"{name}={rank} is above the rank of {path}, which is {shape}; it can be {largest} at most"
            )


def scale(alpha: float, rank: int, init_rank: int) -> float:
    """s = alpha / (rank + 1e-5) as both codes compute it; an alpha of 0 or less stands for the initial rank."""
    return (alpha if alpha > 0 else init_rank) / (rank + EPSILON)


def smooth_(mean: Tensor, uncertainty: Tensor, now: Tensor, beta1: float, beta2: float) -> None:
    """Ibar <- b1 Ibar + (1 - b1) I, then Ubar <- b2 Ubar + (1 - b2) |I - Ibar| with the new Ibar, in place.

    Both start at 0 and are not corrected for it. `now`, which is I, is used up.
    """
    mean.mul_(beta1).add_(now, alpha=1 - beta1)
    uncertainty.mul_(beta2).add_(now.sub_(mean).abs_(), alpha=1 - beta2)


def steps_of(steps: int | None, fraction: float, total_steps: int) -> int:
    """A number of steps as it is given, or as a fraction of all, rounded down."""
    return int(fraction * total_steps) if steps is None else steps


def drawn(*shape: int, generator: torch.Generator | None = None) -> nn.Parameter:
    """Singular vectors at the start: N(0, 0.02). Without a generator from torch's global one."""
    values = torch.empty(*shape, device=None if generator is None else generator.device)
    return nn.Parameter(values.normal_(0, STD, generator=generator))


def by_shape(matrices: Sequence[Tensor]) -> list[list[int]]:
    """The places of matrices of equal shape, grouped.

    What works on stacks of them takes as many operations for twelve layers as for two.
    """
    groups: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        groups.setdefault(matrix.shape, []).append(place)
    return list(groups.values())


def orthogonality(lefts: Sequence[Tensor], rights: Sequence[Tensor], regulariser: str) -> Tensor:
    """How far the singular vectors are from orthonormal, a scalar.

    "mean_unsquared" (the codes): the mean over all matrices of ||A A' - I|| and ||B' B - I|| (Frobenius).
    "sum_squared" (the papers): the sum of their squares.

    Args:
        lefts: B of every layer, out x rank.
        rights: A of every layer, rank x in.
    """
    terms = []
    with torch.autocast(rights[0].device.type, enabled=False):
        stacks = [torch.stack([rights[place] for place in places]) for places in by_shape(rights)]
        stacks += [torch.stack([lefts[place] for place in places]).mT for places in by_shape(lefts)]
        for stack in stacks:
            identity = torch.eye(stack.shape[1], dtype=stack.dtype, device=stack.device)
            residue = torch.baddbmm(identity, stack, stack.mT, beta=-1)
            if regulariser == "sum_squared":
                terms.append(residue.square().sum())
            else:
                terms.append(torch.linalg.vector_norm(residue, dim=(1, 2)).sum() / (len(lefts) + len(rights)))
        return torch.stack(terms).sum()
