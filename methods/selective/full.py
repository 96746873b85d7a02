"""Full fine-tuning: every parameter of the backbone is trained. The upper reference of all tables.

Written as selection, so that it saves, switches, disables and merges like every other method. The price is one more
copy of the weights: the frozen ones stay beside the trained ones, in the model's dtype (with AdamW in float32: five
times the model's size in place of four).
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from methods import backbone
from methods.parts import Copy, Weight
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class FullConfig(TunerConfig):
    """Nothing to choose."""


class FullTuner(Tuner):
    """W -> a trained copy of W; tied tensors stay tied."""

    def build(self, model: PreTrainedModel, config: FullConfig) -> dict[str, Weight]:
        """One `Copy` a tensor."""
        names = backbone.aliases(model)
        own = backbone.parameters(model, config.modules_to_save or ())
        return {name: Weight(names[id(tensor)], Copy(tensor)) for name, tensor in own.items()}


register("full", FullConfig, FullTuner)
