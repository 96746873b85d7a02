"""PROPETL with LoRA: one pair of factors for all layers, masks for each (Zeng et al., ACL 2023; see `propetl`).

    W_i + (alpha / r) (B * m_i^B) (A * m_i^A)

at queries and values, each with a pair of its own that all layers share. B starts at zero, so the start is the
backbone. Masks differ by layer and so does the merged delta. Defaults of the authors' RoBERTa run (commit 1c08f19):
r 32, alpha 48, keep 0.1, scores at 300 times the rate of the factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from methods import sites
from methods.hybrid.masks import LayerMasks
from methods.hybrid.prototype import PrototypeConfig, PrototypeTuner, Sharing, prototype_name
from methods.parts import Activation
from methods.tuner import register

ROLES = ("query", "value")


@dataclass
class PropetlLoraConfig(PrototypeConfig):
    """The factors that are the prototype."""

    keep: float = field(default=0.1, metadata={"help": "Share of the prototype's entries that a mask keeps."})
    mask_rate: float = field(default=300.0, metadata={"help": "Learning rate of the scores, in units of the run's."})
    r: int = field(default=32, metadata={"help": "Rank."})
    lora_alpha: float = field(default=48.0, metadata={"help": "The delta is scaled by lora_alpha / r."})
    share_stacks: bool = field(
        default=True, metadata={"help": "One prototype for encoder and decoder; false: one each."}
    )


class Factors(nn.Module):
    """The prototype of one role: A (r, in), Kaiming-uniform, and B (out, r), zero."""

    def __init__(self, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        limit = min(in_features, out_features)
        if not 1 <= rank <= limit:
            raise ValueError(f"rank r={rank} does not fit a matrix of rank {limit} at most; choose 1 to {limit}")
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


class MaskedFactors(nn.Module):
    """A layer's delta at one matrix: the prototype's factors times the layer's masks."""

    prototype: Factors

    def __init__(self, prototype: Factors, masks: LayerMasks, role: str, scaling: float) -> None:
        super().__init__()
        self.__dict__["prototype"] = prototype  # not a child: the adapter holds it once
        self.masks, self.role, self.scaling = masks, role, scaling

    def _masked(self) -> tuple[Tensor, Tensor]:
        return self.prototype.a * self.masks(f"{self.role}_a"), self.prototype.b * self.masks(f"{self.role}_b")

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out): what is added."""
        a, b = self._masked()
        return self.scaling * linear(linear(states.to(a.dtype), a), b)

    def delta(self) -> Tensor:
        """The same as a matrix (out, in), for merging."""
        a, b = self._masked()
        return self.scaling * (b @ a)


class PropetlLoraTuner(PrototypeTuner):
    """W -> W + s (B * m^B)(A * m^A), at queries and values."""

    def build(self, model: PreTrainedModel, config: PropetlLoraConfig) -> dict[str, nn.Module]:
        """A prototype a role (and stack, where they are not shared), the tasks' masks, a masked pair a matrix."""
        names, kind = [name for name, _ in model.named_modules()], model.config.model_type
        paths = {role: sites.find(kind, role, names) for role in ROLES}
        sizes = {role: _size(model.get_submodule(found[0])) for role, found in paths.items()}
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            role: {f"{role}_a": (config.r, inward), f"{role}_b": (outward, config.r)}
            for role, (outward, inward) in sizes.items()
        }
        sharing = Sharing(config)
        tasks = sharing.with_tasks({name: shape for own in shapes.values() for name, shape in own.items()})
        prototypes: dict[str, Factors] = {}
        parts: dict[str, nn.Module] = {}
        for role, path in ((role, path) for role, found in paths.items() for path in found):
            name = f"{prototype_name(path, config.share_stacks)}_{role}"
            if name not in prototypes:
                prototypes[name] = Factors(*sizes[role], config.r)
            masks = sharing.layer(path, shapes[role])
            form = MaskedFactors(prototypes[name], masks, role, config.lora_alpha / config.r)
            parts[path] = Activation(path, form, reads="input")
        return {**tasks, **prototypes, **parts}


def _size(layer: Any) -> tuple[int, int]:
    """Output and input width of a linear layer, quantised ones included."""
    return layer.out_features, layer.in_features


register("propetl_lora", PropetlLoraConfig, PropetlLoraTuner)
