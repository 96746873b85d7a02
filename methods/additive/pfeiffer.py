"""Pfeiffer's adapter, PAdapter (Pfeiffer et al., EACL 2021, arXiv 2005.00247, section 3.2.1).

One adapter a layer, after the feed-forward. With h its output, x the residual and u = h + x, a post-norm layer becomes

    LN(u + W_up act(W_down LN(u) + b_down) + b_up)

where both norms are the layer's own: the adapter reads the normalised stream and adds to the stream before it. A
pre-norm layer (T5) has no norm there: u + A(u). 2dm + m + d parameters a layer.

That is what AdaLoRA's baseline (commit d10f5eb: ReLU, weights N(0, 0.02), norms frozen; the defaults here) and
AdapterHub compute. AdaLoRA's text says "after FFN and LayerNorm", which is another function, as is Houlsby's adapter
left out after attention: `position=after_norm` and `position=before_norm`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from methods.additive.bottleneck import BottleneckConfig, after_feed_forward, layer_norms
from methods.tuner import Tuner, register


@dataclass
class PfeifferConfig(BottleneckConfig):
    """One adapter a layer."""

    bottleneck_size: int = field(default=16, metadata={"help": "Width of the bottleneck."})
    position: str = field(
        default="around_norm",
        metadata={"help": "around_norm: LN(u + A(LN(u))); before_norm: LN(u + A(h)); after_norm: LN(u) + A(LN(u))."},
    )


class PfeifferTuner(Tuner):
    """u -> LN(u + A(LN(u))), after the feed-forward."""

    def build(self, model: PreTrainedModel, config: PfeifferConfig) -> dict[str, nn.Module]:
        """One bottleneck a layer, and the norms where they are trained."""
        width = model.config.hidden_size
        adapters = after_feed_forward(model, config.position, lambda path: config.form(width), config.skip_layers)
        return adapters | (layer_norms(model, config.modules_to_save) if config.train_layernorm else {})


register("pfeiffer", PfeifferConfig, PfeifferTuner)
