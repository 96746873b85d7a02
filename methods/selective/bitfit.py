"""BitFit: train the biases and nothing else (Ben Zaken, Goldberg and Ravfogel, ACL 2022, arXiv 2106.10199, section 3).

A layer computes W x + b; W stays, b is trained, in every linear layer and every layer norm of the backbone; the task
head is trained as a whole. Published counts: 102,912 on DeBERTaV3-base (AdaLoRA, table 1, rounds to 0.1M), 102,144 on
RoBERTa-base.

A bias is a parameter whose own name contains "bias". The authors' code asks the same of the whole path, which on T5
would also take the table `relative_attention_bias.weight`; that is no bias vector and is left out. T5's layers have
no biases: there `add_missing` gives every linear layer of the blocks one that starts at zero (a different method; say
so beside the number), and without it BitFit refuses. Backbones with biases are not affected by `add_missing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods import backbone, sites
from methods.parts import Copy, Weight
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class BitFitConfig(TunerConfig):
    """Which biases are trained."""

    add_missing: bool = field(
        default=False, metadata={"help": "Give zero biases to linear layers of the blocks that have none (T5)."}
    )


class NewBias(nn.Module):
    """A bias for a linear layer without one: `out` zeros."""

    layer: nn.Linear

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(layer.out_features, device=layer.weight.device))
        self.__dict__["layer"] = layer  # not a child: the layer belongs to the backbone

    def forward(self, base: None) -> Tensor:
        """The bias in the dtype of its layer's weight; a quantised one has no dtype of its own to follow."""
        kind = self.layer.weight.dtype
        return self.value.to(kind) if kind.is_floating_point else self.value


class BitFitTuner(Tuner):
    """b -> a trained copy of b."""

    def build(self, model: PreTrainedModel, config: BitFitConfig) -> dict[str, Weight]:
        """One `Copy` a bias, and one `NewBias` a linear layer without bias where that is asked for."""
        names = backbone.aliases(model)
        own = backbone.parameters(model, config.modules_to_save or ())
        biases = {name: bias for name, bias in own.items() if "bias" in name.rpartition(".")[2]}
        parts = {name: Weight(names[id(bias)], Copy(bias)) for name, bias in biases.items()}
        if config.add_missing:
            for path in sites.find(model.config.model_type, "linears", [name for name, _ in model.named_modules()]):
                layer = model.get_submodule(path)
                if isinstance(layer, nn.Linear) and layer._parameters["bias"] is None:
                    parts[f"{path}.bias"] = Weight([f"{path}.bias"], NewBias(layer))
        if not parts:
            raise ValueError(
                f"BitFit finds no biases in this backbone ({type(model).__name__}); add_missing=True adds zero "
                "biases to the linear layers of its blocks"
            )
        return parts


register("bitfit", BitFitConfig, BitFitTuner)
