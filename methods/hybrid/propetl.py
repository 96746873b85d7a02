"""PROPETL with adapters: one prototype for all layers, a binary mask for each (Zeng, Zhang and Lu, ACL 2023,
arXiv 2305.17682; read in the authors' code ChaosCodes/ProPETL, commit 1c08f19).

    layer i of task t:  (m_i | m_t) * W,   W the one prototype,   m = the entries with the largest |score|

The module is Pfeiffer's adapter, after the feed-forward. Each of its two matrices has masks of its own; biases are
shared and never masked. Each layer has masks, each task too, shared by all layers; with one task the layer's stand
alone. Scores learn faster than the prototype (`mask_rate`). With N parameters in the prototype, w of them masked, L
layers and T tasks: N + (L + T) w parameters, and 32 N + (L + T) w bits, which is what a saved adapter takes.

The defaults are those of T5 on GLUE (multi-task: name the `tasks`). RoBERTa's run differs: keep 0.5, ReLU,
`init_std` 0.02, scores stored transposed, mask_rate 30. Differences to the code: it makes the first layer's masks the
same object as the last task's (31 masks, not 32): `borrow_last_task`; its first step moves the scores alone, its
second nothing, and from then on rates are those of the step before: `masks_first`; its gradients are zeroed and not
dropped, so masks of tasks that are not in the batch go on by their momentum: `idle_tasks_move`; it stores a mask's
entry as a byte, here it is a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from methods.additive.bottleneck import after_feed_forward
from methods.forms import Bottleneck
from methods.hybrid.masks import LayerMasks
from methods.hybrid.prototype import PrototypeConfig, PrototypeTuner, Sharing, prototype_name
from methods.tuner import register


@dataclass
class PropetlConfig(PrototypeConfig):
    """The adapter that is the prototype."""

    bottleneck_size: int = field(default=64, metadata={"help": "Width of the bottleneck."})
    activation: str = field(default="gelu_new", metadata={"help": "Non-linearity, by its name in transformers."})
    init_std: float = field(default=0.01, metadata={"help": "Standard deviation of the prototype's weights."})
    share_stacks: bool = field(
        default=True, metadata={"help": "One prototype for encoder and decoder; false: one each."}
    )
    transposed_scores: bool = field(
        default=False,
        metadata={"help": "As the RoBERTa code: scores start as those of the transposed matrix, bounds swapped."},
    )


class MaskedBottleneck(nn.Module):
    """A layer's adapter: the prototype's two matrices times the layer's masks."""

    prototype: Bottleneck

    def __init__(self, prototype: Bottleneck, masks: LayerMasks) -> None:
        super().__init__()
        self.__dict__["prototype"] = prototype  # not a child: the adapter holds it once
        self.masks = masks

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) -> (..., width): what is added."""
        form = self.prototype
        down, up = form.down.weight * self.masks("down"), form.up.weight * self.masks("up")
        inner = form.activation(linear(states.to(down.dtype), down, form.down.bias))
        return form.scaling * linear(form.dropout(inner), up, form.up.bias)


class PropetlTuner(PrototypeTuner):
    """u -> LN(u + A_i(LN(u))), A_i carved out of one A."""

    def build(self, model: PreTrainedModel, config: PropetlConfig) -> dict[str, nn.Module]:
        """The prototype or two, the tasks' masks, and a masked adapter a layer."""
        width, size = model.config.hidden_size, config.bottleneck_size
        shapes = {"down": (size, width), "up": (width, size)}
        sharing = Sharing(config, {"down": size, "up": width} if config.transposed_scores else None)
        tasks, prototypes = sharing.with_tasks(shapes), dict[str, Bottleneck]()

        def make(path: str) -> MaskedBottleneck:
            name = prototype_name(path, config.share_stacks)
            if name not in prototypes:
                prototypes[name] = Bottleneck(width, size, activation_name=config.activation, std=config.init_std)
            return MaskedBottleneck(prototypes[name], sharing.layer(path, shapes))

        parts = after_feed_forward(model, "around_norm", make)
        return {**tasks, **prototypes, **parts}


register("propetl", PropetlConfig, PropetlTuner)
