"""The small modules that methods put at a place: forms. Several methods share each of them.

A form maps hidden states (or, at a weight, the frozen tensor) to what its part adds or puts there. It knows nothing of
models, sites or tasks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

INITS = ("normal", "houlsby", "identity")


def activation(name: str) -> nn.Module:
    """A non-linearity by the name that transformers knows it by (relu, gelu, gelu_new, swish, tanh, ...)."""
    if name not in ACT2FN:
        raise ValueError(f"no activation is called '{name}'; known are {', '.join(sorted(ACT2FN))}")
    return ACT2FN[name]


class Bottleneck(nn.Module):
    """`scaling * W_up act(W_down h + b_down) + b_up`, without the residual: the part adds.

    Args:
        width: of the hidden states.
        size: of the bottleneck; 2 * width * size + size + width parameters.
        activation_name: see `activation`.
        init: "normal", N(0, std); "houlsby", the same cut at two standard deviations; "identity", Kaiming-uniform down
            and zeros up, so that it adds nothing at the start. Biases start at zero.
        std: of the weights; None means 0.02 ("normal") or 0.001 ("houlsby").
        scaling: a constant factor on the output.
        dropout: probability, between the activation and the way up.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        activation_name: str = "relu",
        init: str = "normal",
        std: float | None = None,
        scaling: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a bottleneck of size {size} holds nothing; bottleneck_size is at least 1")
        if init not in INITS:
            raise ValueError(f"no initialisation of a bottleneck is called '{init}'; known are {', '.join(INITS)}")
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation, self.dropout, self.scaling = activation(activation_name), nn.Dropout(dropout), scaling
        self._reset(init, std)

    def _reset(self, init: str, std: float | None) -> None:
        for layer in (self.down, self.up):
            if init == "normal":
                nn.init.normal_(layer.weight, std=0.02 if std is None else std)
            elif init == "houlsby":
                std = 1e-3 if std is None else std
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
        if init == "identity":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) -> (..., width): what is added."""
        return self.scaling * self.up(self.dropout(self.activation(self.down(states))))


def split_prefix(block: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """(length, 2 * heads * head width), keys first, -> keys and values, each (heads, length, head width)."""
    keys, values = block.chunk(2, dim=-1)
    return keys.unflatten(-1, (heads, -1)).transpose(0, 1), values.unflatten(-1, (heads, -1)).transpose(0, 1)


class Prefix(nn.Module):
    """The keys and values of one attention, trained as they are; N(0, std) at the start.

    Args:
        length: number of pairs.
        heads: of the attention.
        width: of keys and of values over all heads.
        std: of the start; 2 * length * width parameters.
    """

    def __init__(self, length: int, heads: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.heads = heads
        self.block = nn.Parameter(torch.randn(length, 2 * width) * std)

    def forward(self, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (heads, length, head width), whatever the states are."""
        return split_prefix(self.block, self.heads)


class PrefixNetwork(nn.Module):
    """Blocks of keys and values of several layers, computed: embeddings -> linear -> tanh -> linear.

    Args:
        length: number of pairs.
        embedding_width: of the embeddings, the hidden size in the papers.
        inner_width: between the two linear maps.
        width: of keys and of values over all heads, in one layer.
        layers: how many layers it serves.
    """

    def __init__(self, length: int, embedding_width: int, inner_width: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.rows = 2 * width
        self.embedding = nn.Embedding(length, embedding_width)
        self.inner, self.outer = nn.Linear(embedding_width, inner_width), nn.Linear(inner_width, layers * self.rows)

    def forward(self, layer: int = 0) -> Tensor:
        """The block of one layer, (length, 2 * width). Only that layer's rows of the last map are computed."""
        rows = slice(layer * self.rows, (layer + 1) * self.rows)
        inner = torch.tanh(self.inner(self.embedding.weight))
        return nn.functional.linear(inner, self.outer.weight[rows], self.outer.bias[rows])
