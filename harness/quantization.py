"""A quantised backbone: its linear layers in 4 or 8 bits, or all of it in bfloat16 (Dettmers et al. 2022, 2023).

It is a property of the model, not of a method: any method that reads the backbone's activations runs on it; one that
needs the weights themselves is refused when it is attached. The layers are bitsandbytes', quantised in place on the
CPU, which gives the same codes as loading with transformers' `BitsAndBytesConfig`, also for a model without a
checkpoint. Left as they are: the task head, output embeddings, and what transformers keeps in float32 (T5's `wo`, whose
module would cast its input to the weight's integer dtype).

Traps of bitsandbytes 0.50 are closed in `harness.packed`, and one here: merging into a quantised weight rounds the
result, so `merged` dequantises first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness import codes, packed
from harness.config import QuantizationConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

PACKED = ("Params4bit", "Int8Params")  # bitsandbytes' parameters, by name: it is an optional package


@dataclass(frozen=True)
class Footprint:
    """What a backbone with a fresh head takes in memory, quantisation constants included, before any adapter.

    Args:
        backbone_bytes: all parameters as they are stored.
        bits_per_param: the same in bits, over the number of parameters that they stand for.
        quantized_params: how many parameters are quantised.
        quantized_bits_per_param: of these alone; None where none is.
    """

    backbone_bytes: int
    bits_per_param: float
    quantized_params: int
    quantized_bits_per_param: float | None


def quantize(model: PreTrainedModel, settings: QuantizationConfig, *, head: list[str], precision: str) -> None:
    """Quantise a loaded backbone in place.

    Args:
        model: the task model in its load dtype, on the CPU.
        settings: the group `quantization`.
        head: names of the head's modules.
        precision: the run's, "float32" or "bfloat16": what `compute_dtype=auto` means.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ModelError: its codes are not those of `harness.codes`; the first layer is compared.
    """
    if settings.weights == "none":
        return
    if settings.weights == "bf16":
        _halve(model, head)
        return
    compute = getattr(torch, precision if settings.compute_dtype == "auto" else settings.compute_dtype)
    for place, (name, layer) in enumerate(list(layers(model, head))):
        four_bit = settings.weights in ("nf4", "fp4")
        made = _four_bit(layer, settings, compute) if four_bit else _eight_bit(layer, settings)
        if place == 0:
            codes.check(name, packed.values(made), layer.weight, settings.weights, settings.double_quant)
        model.set_submodule(name, made)
    _mark(model, settings, compute)


def layers(model: PreTrainedModel, head: list[str]) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers to quantise, by path."""
    spared = {*head, *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    output = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not output and not spared & set(name.split(".")):
            yield name, module


def _four_bit(layer: nn.Linear, settings: QuantizationConfig, compute: torch.dtype) -> nn.Linear:
    """The same layer with its weight in blocks of 64 codes of 4 bits."""
    modules = packed.package().nn
    kind = {"compress_statistics": settings.double_quant, "quant_type": settings.weights}
    made = packed.linear4bit()(
        layer.in_features, layer.out_features, layer.bias is not None, compute, device="meta", **kind
    )
    weight = layer.weight.detach()
    made.weight = modules.Params4bit(weight, requires_grad=False, module=made, **kind).to(weight.device)
    made.bias = layer.bias
    return made.train(layer.training)


def _eight_bit(layer: nn.Linear, settings: QuantizationConfig) -> nn.Linear:
    """The same layer with its weight in 8 bits, one scale a row (LLM.int8)."""
    modules = packed.package().nn
    made = packed.linear8bit()(
        layer.in_features, layer.out_features, layer.bias is not None,
        has_fp16_weights=False, threshold=settings.outlier_threshold, device="meta",
    )  # fmt: skip
    weight = layer.weight.detach()
    made.weight = modules.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(weight.device)
    made.bias = layer.bias
    return made.train(layer.training)


def _mark(model: Any, settings: QuantizationConfig, compute: torch.dtype) -> None:
    """What transformers writes on a model that it quantised itself; peft chooses its layers by it."""
    from transformers import BitsAndBytesConfig
    from transformers.utils.quantization_config import QuantizationMethod

    four_bit = settings.weights != "int8"
    model.config.quantization_config = BitsAndBytesConfig(
        load_in_4bit=four_bit, bnb_4bit_quant_type=settings.weights if four_bit else "fp4",
        bnb_4bit_use_double_quant=settings.double_quant, bnb_4bit_compute_dtype=compute,
        load_in_8bit=not four_bit, llm_int8_threshold=settings.outlier_threshold,
    )  # fmt: skip
    model.is_quantized, model.quantization_method = True, QuantizationMethod.BITS_AND_BYTES
    setattr(model, "is_loaded_in_4bit" if four_bit else "is_loaded_in_8bit", True)


def _halve(model: PreTrainedModel, head: list[str]) -> None:
    """The backbone in bfloat16. The head is trained, so it stays as it is and takes its input in its own dtype."""
    kept = [module for name, module in model.named_modules() if name.rpartition(".")[2] in head]
    spared = {id(tensor) for module in kept for tensor in module.parameters()}
    for tensor in model.parameters():
        if id(tensor) not in spared:
            tensor.data = tensor.data.to(torch.bfloat16)
    for module in kept:
        module.register_forward_pre_hook(_in_own_dtype)


def _in_own_dtype(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    own = next(module.parameters()).dtype
    return tuple(value.to(own) if isinstance(value, Tensor) and value.is_floating_point() else value for value in args)


def is_packed(parameter: Tensor | None) -> bool:
    """Whether a parameter holds codes instead of values."""
    return type(parameter).__name__ in PACKED


def size(parameter: Tensor) -> int:
    """How many values a parameter stands for: two in each byte of a 4-bit weight."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a quantised layer's weight with its constants. The code tables, one for all layers, are not counted."""
    weight: Any = module.weight
    constants = [getattr(weight, "SCB", None), getattr(getattr(module, "state", None), "SCB", None)]
    constants = [tensor for tensor in constants if tensor is not None][:1]
    if (state := getattr(weight, "quant_state", None)) is not None:
        constants = [state.absmax, *((state.state2.absmax, state.offset) if state.nested else ())]
    return sum(tensor.numel() * tensor.element_size() for tensor in (weight.data, *constants))


def footprint(model: nn.Module) -> Footprint:
    """Measured on the tensors, not predicted."""
    coding: list[Any] = [module for module in model.modules() if is_packed(module._parameters.get("weight"))]
    inside = {id(module.weight) for module in coding}
    plain = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    stored, coded = sum(stored_bytes(module) for module in coding), sum(size(module.weight) for module in coding)
    whole = stored + sum(parameter.numel() * parameter.element_size() for parameter in plain)
    return Footprint(
        whole,
        8 * whole / (coded + sum(parameter.numel() for parameter in plain)),
        coded,
        8 * stored / coded if coded else None,
    )


def dequantize(model: nn.Module) -> nn.Module:
    """Put plain linear layers with the values that the codes stand for in place of the quantised ones. Returns it."""
    for name, module in list(model.named_modules()):
        if not is_packed(module._parameters.get("weight")):
            continue
        plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(packed.values(module), requires_grad=False), module.bias
        model.set_submodule(name, plain.train(module.training))
    for mark in ("is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        model.__dict__.pop(mark, None)
    getattr(model, "config", model).__dict__.pop("quantization_config", None)
    return model


def merged(model: PeftModel) -> PreTrainedModel:
    """The task model with its adapter folded in, unquantised; `model` is used up.

    Merging into codes would round the sum again: the backbone is dequantised, the adapter loaded onto that and merged.
    Raises ValueError where the method cannot be merged.
    """
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        plain = dequantize(model.unload())
        return PeftModel.from_pretrained(plain, folder).merge_and_unload()
