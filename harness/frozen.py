"""Proof that training left the backbone alone: a sum over the raw bits of every frozen weight, before and after.

Each tensor is summed in blocks of its memory, as integers, on its own device: a changed bit changes a sum, an exchange
between blocks changes two. Reading the weights twice is all that it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor

from harness.errors import HarnessError

if TYPE_CHECKING:
    from peft import PeftModel

BLOCKS = 16
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Changed(HarnessError):
    """Weights that the method promised to leave alone are not what they were."""

    state = "FAILED"  # of the run's record


def adapter_prefix(config: Any) -> str:
    """What peft puts into the names of an adapter's weights; a prompt's are in an encoder beside the backbone."""
    return "prompt_encoder" if config.is_prompt_learning else PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type]


def sums(model: PeftModel) -> dict[str, Tensor]:
    """Of every weight that is frozen and no part of an adapter: its blocks' sums, int64 on the weight's device."""
    prefix = adapter_prefix(model.peft_config["default"])
    return {
        name: _blocks(parameter.detach())
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and prefix not in name and ".modules_to_save." not in name
    }


def _blocks(tensor: Tensor) -> Tensor:
    """Sums of a tensor's memory in BLOCKS pieces and a rest."""
    flat = tensor.contiguous().view(-1).view(WORDS[tensor.element_size()])
    size = flat.numel() // BLOCKS
    whole = flat[: size * BLOCKS].view(BLOCKS, size).sum(1, dtype=torch.int64)
    return torch.cat([whole, flat[size * BLOCKS :].sum(dtype=torch.int64).view(1)])


def check(model: PeftModel, before: dict[str, Tensor], method: dict[str, Any]) -> int | None:
    """How many frozen tensors are bit by bit what they were; None for a method that declares to move them.

    Raises Changed, with the tensors' names, if one is not.
    """
    if "moves_backbone" in (method.get("declares") or ()):
        return None
    after = sums(model)
    moved = [name for name, found in before.items() if name not in after or not torch.equal(found, after[name])]
    if moved:
        raise Changed(
            f"training changed {len(moved)} frozen weights of the backbone ({', '.join(moved[:3])}); the score would not "
            "be this method's. If it is meant to: method.declares=[moves_backbone]"
        )
    return len(before)
