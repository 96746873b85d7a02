"""Frozen features kept: what lies below the first trained layer sees every text once.

It runs without dropout then (a feature that is kept cannot be drawn anew), so this is another stochastic process than
training with it, and part of a run's identity: `train.cache_features`. Of a method that trains the head alone one vector a
text is kept; a vector a token of one that trains the top layers (`+method.layers_to_transform=[10,11]` of LoRA, which peft
takes beside a list of `method.target_modules` alone; `method.skip_layers=[0,1]` of adapters). A text's features depend, by
rounding, on the texts that it was first computed with: a run that goes on from a checkpoint keeps them anew, and its record
says so.
"""

from __future__ import annotations

from typing import Any

import psutil
import torch
from torch import Tensor, nn

from harness.errors import ConfigError
from harness.kept import Kept, KeptLayers, first_of, memories

FIRST_TOKEN = ("deberta-v2", "roberta")  # whose heads read the first token's state and nothing else
LAYERED = (*FIRST_TOKEN, "bert")  # whose layers stand in `encoder.layer`, each given the states of the one before
SHARE = 0.5  # of the host's free memory that features may take
PROBE = ((4, 5, 6, 7), (8, 9, 10, 11))  # tokens that every vocabulary has


def keep(model: nn.Module, rows: int = 0, tokens: int = 0) -> None:
    """Make the layers below the first trained one remember what they gave for every text, in place.

    What is kept lies in the host's memory.

    Args:
        model: a backbone with its head, or a PeftModel of one.
        rows, tokens: of the training split, to see beforehand whether memory suffices.

    Raises:
        ConfigError: the first layer is trained already, the architecture is not known here, the method reads the states
            of lower layers elsewhere (a side network), or memory does not suffice.
    """
    inside: Any = getattr(model, "get_base_model", None)
    whole: Any = model if inside is None else inside()
    kind, body = whole.config.model_type, getattr(whole, whole.base_model_prefix)
    if kind not in LAYERED:
        raise ConfigError(
            f"train.cache_features=true: the head of a {kind} model reads more than the first token, and its layers are "
            f"not known here; it works with {', '.join(LAYERED)}"
        )
    layers = body.encoder.layer
    first = _first_trained(model, layers)
    if first == 0:
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        below = [name for name in trained if ".modules_to_save." not in name] or trained
        linears = "query_proj,value_proj" if kind == "deberta-v2" else "query,value"  # peft wants a list beside layers
        raise ConfigError(
            "train.cache_features=true: the method trains from the backbone's first layer on, so nothing lies below that "
            f"could be kept (it trains {below[0]}, ...); train the head alone (method=head) or the top layers (adapters: "
            f"method.skip_layers=[0], LoRA: method.target_modules=[{linears}] +method.layers_to_transform=[{len(layers) - 1}])"
        )
    if first == 1 and getattr(body.encoder, "conv", None) is not None:
        raise ConfigError(
            "train.cache_features=true: this backbone's convolution joins the first layer to the embeddings, with dropout "
            "of its own, so that layer alone cannot be kept; train from the third layer on, or the head alone"
        )
    alone = kind in FIRST_TOKEN and _head_alone(model, body)
    room = _room((rows if alone else tokens) * whole.config.hidden_size * next(body.parameters()).element_size())
    before = _answers(model)
    body.forward = Kept(body, room) if alone else KeptLayers(body, layers, first, room)
    if not all(
        torch.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in zip(before, _answers(model), strict=True)
    ):
        raise ConfigError(
            f"train.cache_features=true: this method reads the states of the frozen layers below ({first} of {len(layers)}), "
            "too, which kept features do not give; set train.cache_features=false"
        )


def _head_alone(model: nn.Module, body: nn.Module) -> bool:
    """Whether nothing is trained but the head. A method of ours keeps what it trains beside the backbone, not in it."""
    below = {id(parameter) for parameter in body.parameters()}
    peft = hasattr(model, "get_base_model")
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return all((".modules_to_save." in name or not peft) and id(parameter) not in below for name, parameter in trained)


def _first_trained(model: nn.Module, layers: nn.ModuleList) -> int:
    """The number of the first layer that anything trained reaches; how many there are where none is."""
    reached: list[bool] = []
    handles = [
        layer.register_forward_hook(lambda *seen: reached.append(first_of(seen[2]).requires_grad)) for layer in layers
    ]
    try:
        _answers(model)
    finally:
        for handle in handles:
            handle.remove()
    return reached.index(True) if True in reached else len(layers)


def _answers(model: nn.Module) -> list[Tensor]:
    """Logits of two texts, and the gradient of their squares by everything that is trained; the model stays as it was."""
    mode = model.training
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.tensor(PROBE, device=trained[0].device)
    model.eval()
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = torch.autograd.grad(logits.float().square().sum(), trained, allow_unused=True)
    finally:
        model.train(mode)
    return [logits.detach(), *(torch.zeros(1) if gradient is None else gradient for gradient in found)]


def _room(size: int) -> float:
    """Bytes that are left for what evaluation asks for, where the training rows take `size`."""
    free = psutil.virtual_memory().available
    if size > SHARE * free:
        raise ConfigError(
            f"train.cache_features=true: the features of the training rows take {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            f"of the host's memory are free, of which they may take {SHARE:.0%}; set train.cache_features=false"
        )
    return SHARE * free - size


def check(model: nn.Module) -> None:
    """After training: what was kept still holds.

    Raises ConfigError where a method has changed the frozen layers, or has begun to train them, while it trained.
    """
    for memory in memories(model):
        if memory.moved(torch.tensor(PROBE, device=next(model.parameters()).device)):
            raise ConfigError(
                "train.cache_features=true: the layers below the first trained one gave other states at the end of training "
                "than at its beginning: this method changes them, or trains them later on; set train.cache_features=false"
            )
