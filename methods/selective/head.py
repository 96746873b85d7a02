"""Only the task head is trained, on frozen features. The lower reference of all tables ("feature extractor", "frozen").

The adapter has no part; what is trained and saved is the head, which every method trains and which is counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from methods.parts import Part
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class HeadConfig(TunerConfig):
    """The head is `modules_to_save`."""


class HeadTuner(Tuner):
    """No part at all."""

    def build(self, model: PreTrainedModel, config: HeadConfig) -> dict[str, Part]:
        """Nothing, where there is a head. A language model has none: its output layer is the embedding table."""
        if not config.modules_to_save:
            raise ValueError(
                f"{type(model).__name__} has no task head to train; method=head needs a classification or regression "
                "task, or name the head's modules in modules_to_save"
            )
        return {}


register("head", HeadConfig, HeadTuner)
