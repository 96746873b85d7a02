"""How a model's steps are executed, which changes what they cost: activation checkpointing, compilation, kept features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness import features
from harness.config import TrainConfig
from harness.errors import ConfigError


def prepare(model: nn.Module, settings: TrainConfig, *, rows: int, tokens: int) -> None:
    """Switch on what the settings ask for, in place, for a training split of so many rows and tokens.

    Raises ConfigError where the backbone, the method or the machine cannot.
    """
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    if settings.cache_features:
        features.keep(model, rows, tokens)
    if settings.cuda_graphs:
        capture_forward(model)
    elif settings.compile:
        compile_forward(model)


def finish(model: nn.Module, settings: TrainConfig) -> None:
    """After training. Raises ConfigError where what `prepare` relied upon did not hold."""
    if settings.cache_features:
        features.check(model)


def remarks(settings: TrainConfig, resumed: int) -> list[str]:
    """What a reader of the scores must know: a text's features depend, by rounding, on the texts it was first seen with."""
    again = settings.cache_features and resumed > 0
    return [f"features were kept anew from update {resumed} on: equal to rounding, not in bits"] if again else []


def checkpoint_activations(model: nn.Module) -> None:
    """Keep a layer's input alone, and compute the layer again when its gradients are due: less memory, more time.

    Dropout is drawn again as it was. Not the reentrant way, which cannot train what layers share, and needs embeddings
    that require gradients, which transformers switches on: every frozen layer would be run backwards for nothing.
    """
    backbone = unwrapped(model)
    if not getattr(backbone, "supports_gradient_checkpointing", False):
        raise ConfigError(f"train.gradient_checkpointing=true: {type(backbone).__name__} does not support it")
    backbone.gradient_checkpointing_enable({"use_reentrant": False})
    backbone.disable_input_require_grads()


def compile_forward(model: nn.Module) -> None:
    """Let torch.compile make the backbone's forward and backward pass; any length of text is one program.

    Names and weights stay. What a method changes while it trains (a rank, a mask) is noticed and compiled again.
    """
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    unwrapped(model).compile(dynamic=True)


def capture_forward(model: nn.Module) -> None:
    """Let torch.compile make one program and one CUDA graph for every length; evaluation is not compiled.

    A graph is launched as a whole, which saves what starting kernels costs where batches are small. Unmeasured: no GPU was
    at hand (`scripts/gpu_check.py compiled` measures it). Raises ConfigError without a GPU.
    """
    whole = unwrapped(model)
    if (where := next(whole.parameters()).device).type != "cuda":
        raise ConfigError(
            f"train.cuda_graphs=true needs a GPU, and this run is on the {where.type}; train.compile=true works here"
        )
    one_program_a_length(whole, mode="reduce-overhead")


def one_program_a_length(whole: Any, **how: Any) -> None:
    """Compile a model's forward pass for every shape that it trains on; `how` is torch.compile's.

    A batch of other rows than the one before, an epoch's smaller last one, runs uncompiled: it may have any length, and a
    program takes as long to make as hundreds of updates.
    """
    # torch's own limit is eight shapes; beyond it, it runs uncompiled and does not fail. 32 to 512 tokens are sixteen.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    plain = whole.forward
    compiled = torch.compile(plain, dynamic=False, **how)
    before: list[int] = []

    def forward(*args: Any, **named: Any) -> Any:
        if not whole.training:
            return plain(*args, **named)
        rows = next(len(one) for one in (*args, *named.values()) if isinstance(one, torch.Tensor))
        usual = before in ([], [rows])
        before[:] = [rows]
        return (compiled if usual else plain)(*args, **named)

    whole.forward = forward


def unwrapped(model: nn.Module) -> Any:
    """The backbone inside a PeftModel, or the model itself."""
    inside: Any = getattr(model, "get_base_model", None)
    return model if inside is None else inside()
