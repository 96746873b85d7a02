"""Facts about the network under the adapter: its own parameters, which of them are tied, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

CONTAINER = "adapters"  # the child of the task model that holds every adapter; no part of the backbone
SAMPLED = 16  # entries of each tensor that go into a fingerprint


def aliases(model: nn.Module) -> dict[int, list[str]]:
    """Every name of every parameter by the parameter's id: tied tensors have several, in the model's order."""
    found: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        if path.split(".", 1)[0] == CONTAINER:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    return found


def parameters(model: nn.Module, head: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """The backbone's parameters by their first name: no task head, no adapter, tied tensors once.

    Args:
        model: the task model.
        head: names of the head's modules (peft's `modules_to_save`), left out where the architecture does not already
            keep the head beside its backbone.
    """
    heads = set(head)
    heads |= {path for path, module in model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)}
    network = getattr(model, "base_model", model)
    inside = {id(parameter) for parameter in network.parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        parents = name.split(".")[:-1]
        paths = {".".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
        if id(parameter) in inside and parents[:1] != [CONTAINER] and not heads & (paths | set(parents)):
            found[name] = parameter
    return found


def fingerprint(model: nn.Module, head: Iterable[str] = ()) -> str | None:
    """16 hexadecimal digits of names, shapes and sampled values of the backbone, or None on the meta device.

    Vectors and input embeddings are read: they tell two backbones apart and stay unquantised. Values are rounded to
    bfloat16, so a backbone loaded in float32 or bfloat16 has one fingerprint.
    """
    own = parameters(model, head)
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    table = embeddings._parameters.get("weight") if embeddings is not None else None
    chosen = {name: tensor for name, tensor in own.items() if tensor.dim() == 1 or tensor is table}
    chosen = chosen or own
    if any(tensor.is_meta for tensor in chosen.values()):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(chosen.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_sample(tensor).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(tensor: Tensor) -> Tensor:
    """Up to SAMPLED evenly spaced entries, on the CPU, in bfloat16."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].to("cpu", torch.bfloat16).contiguous()
