"""bitsandbytes' quantised layers with what they lack (0.50): rows of any length, scales that follow a move, biases that stay.

Where a layer computes in another dtype than its bias has, theirs cast the bias in place: of a frozen float32 bias
bfloat16's precision is left after the first step. Here the cast is a copy.

On a CPU with AVX512 its kernel that decodes 4-bit weights takes the scales of other blocks, without a word, where rows
are a multiple of 16 long and none of 64: 16, 48, 96, 800, ... As one long row every weight is decoded rightly.

On a CPU with AVX512-BF16 theirs repacks every 4-bit weight at the first evaluation, after which gradients are wrong and
saving anything changes the weights: here it does not.

Left as it is: on a CPU an 8-bit layer rounds its inputs (LLM.int8) only where no gradient is wanted, so that a training
computes with the weight's values and an evaluation with rounded activations too; on a GPU both do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from harness.codes import BLOCK
from harness.errors import ConfigError


def package() -> Any:
    """bitsandbytes. Raises ConfigError where it is missing."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            "a quantised backbone needs bitsandbytes: pip install 'peft-harness[quantization]', or quantization=none"
        ) from error
    return bitsandbytes


def values(layer: Any) -> Tensor:
    """What a quantised layer's codes stand for, out x in."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return dequantize_bnb_weight(layer.weight, layer.state)
    row = copy.copy(state)
    row.shape = torch.Size([torch.Size(state.shape).numel()])
    decoded: Tensor = package().functional.dequantize_4bit(layer.weight.data, row)
    return decoded.view(state.shape)


@cache
def linear4bit() -> Any:
    """bitsandbytes' layer in 4 bits, for rows of any length, without its casts in place."""
    plain: Any = package().nn.Linear4bit
    from bitsandbytes.nn.modules import fix_4bit_weight_quant_state_from_module

    class Linear4bit(plain):
        def forward(self, x: Tensor) -> Tensor:
            fix_4bit_weight_quant_state_from_module(self)  # a weight that was moved may have lost it
            kind = self.compute_dtype or x.dtype
            bias = None if self.bias is None else self.bias.to(kind)
            if x.device.type == "cpu" and self.in_features % BLOCK:
                return linear(x.to(kind), values(self).to(kind), bias).to(x.dtype)
            state, turned = self.weight.quant_state, self.weight.t()  # as every version takes it; 0.50 either way
            made: Tensor = package().matmul_4bit(x.to(kind), turned, bias=bias, quant_state=state)
            return made.to(x.dtype)

    return Linear4bit


@cache
def linear8bit() -> Any:
    """bitsandbytes' layer in 8 bits, whose scales follow when the model moves: `nn.Module.to` reaches parameters alone."""
    plain: Any = package().nn.Linear8bitLt

    class Linear8bitLt(plain):
        def forward(self, x: Tensor) -> Tensor:
            self.state.is_training = self.training
            if self.weight.CB is not None:
                self.init_8bit_state()
            bias = None if self.bias is None else self.bias.to(x.dtype)
            made: Tensor = package().matmul(x, self.weight, bias=bias, state=self.state)
            if self.state.CB is not None:
                self.weight.data = self.state.CB
            return made

        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
            super()._apply(fn, recurse)
            for holder in (self.weight, self.state):
                if holder.CB is not None:
                    holder.CB, holder.SCB = self.weight.data, holder.SCB.to(self.weight.device)
            return self

    return Linear8bitLt
