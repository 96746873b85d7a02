"""Houlsby's adapter, HAdapter (Houlsby et al., ICML 2019, arXiv 1902.00751, section 2.1).

    A(h) = h + W_up act(W_down h + b_down) + b_up

after the attention's output projection and after the feed-forward, each before the residual is added and the norm is
applied; in an encoder-decoder also after cross-attention. 2dm + m + d parameters a place.

Two readings, one class. The defaults are the baseline of AdaLoRA (its code, commit d10f5eb, DeBERTa's two output
modules): swish, weights N(0, 0.02), norms frozen. The original (google-research/adapter-bert): GELU, truncated
N(0, 0.001), every layer norm trained (`activation=gelu init=houlsby train_layernorm=true`). Neither is the identity at
the start; `init=identity` is. AdapterDrop's specialised form (Rueckle et al., EMNLP 2021) is `skip_layers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from methods.additive.bottleneck import BottleneckConfig, layer_norms, places
from methods.parts import Activation
from methods.tuner import Tuner, register


@dataclass
class HoulsbyConfig(BottleneckConfig):
    """Two adapters a layer, three in a decoder's."""

    activation: str = field(default="swish", metadata={"help": "Non-linearity, by its name in transformers."})
    cross_attention: bool = field(default=True, metadata={"help": "Also stand after a decoder's cross-attention."})


class HoulsbyTuner(Tuner):
    """h -> A(h), after attention and after the feed-forward."""

    def build(self, model: PreTrainedModel, config: HoulsbyConfig) -> dict[str, nn.Module]:
        """One bottleneck a place, and the norms where they are trained."""
        found = [
            path
            for site in ("attention_output", "ffn_output")
            for path in places(model, site, config.skip_layers, config.cross_attention)
        ]
        width = model.config.hidden_size
        adapters: dict[str, nn.Module] = {path: Activation(path, config.form(width)) for path in found}
        return adapters | (layer_norms(model, config.modules_to_save) if config.train_layernorm else {})


register("houlsby", HoulsbyConfig, HoulsbyTuner)
