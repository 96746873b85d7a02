"""PROPETL with prefixes: one block of keys and values for all layers, a mask for each (Zeng et al., ACL 2023; see
`propetl`).

    [P_k; P_v]_i = m_i * P,   P = W_2 tanh(W_1 E + b_1) + b_2  or trained as it is

An encoder-decoder has a block each for encoder, decoder and cross-attention. Masked entries of a key are zero and the
prefix keeps its share of attention all the same. The network is dropped when training ends; P stays. Defaults of the
authors' RoBERTa run (commit 1c08f19): length 64, width 512, keep 0.1, scores at the rate of all else; there the network
is on (`reparameterize`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods import attention
from methods.attention import KeyValue
from methods.forms import Prefix, PrefixNetwork, split_prefix
from methods.hybrid.masks import LayerMasks
from methods.hybrid.prototype import PrototypeConfig, PrototypeTuner, Sharing
from methods.prompt.prefix import chosen, collapsed
from methods.tuner import register


@dataclass
class PropetlPrefixConfig(PrototypeConfig):
    """The block of keys and values that is the prototype."""

    keep: float = field(default=0.1, metadata={"help": "Share of the prototype's entries that a mask keeps."})
    mask_rate: float = field(default=1.0, metadata={"help": "Learning rate of the scores, in units of the run's."})
    prefix_length: int = field(default=64, metadata={"help": "Pairs of key and value in each attention."})
    attentions: list[str] = field(
        default_factory=lambda: list(attention.KINDS), metadata={"help": "Where: encoder, decoder, cross."}
    )
    init_std: float = field(default=0.02, metadata={"help": "Of a block that is trained directly."})
    reparameterize: bool = field(
        default=False, metadata={"help": "Train a network that gives the block, and drop it when training ends."}
    )
    network_width: int = field(default=512, metadata={"help": "Inner width of that network."})


class MaskedPrefix(nn.Module):
    """A layer's keys and values: the prototype's block times the layer's mask."""

    prototype: Prefix | PrefixNetwork

    def __init__(self, prototype: Prefix | PrefixNetwork, masks: LayerMasks, heads: int) -> None:
        super().__init__()
        self.__dict__["prototype"] = prototype  # not a child: the adapter holds it once
        self.masks, self.heads = masks, heads

    def forward(self, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (heads, length, head width)."""
        form = self.prototype
        block = form.block if isinstance(form, Prefix) else form()
        return split_prefix(block * self.masks("block"), self.heads)


class PropetlPrefixTuner(PrototypeTuner):
    """[K] -> [m_i P_k; K] and [V] -> [m_i P_v; V]."""

    def build(self, model: PreTrainedModel, config: PropetlPrefixConfig) -> dict[str, nn.Module]:
        """A prototype a kind of attention, the tasks' masks, a masked prefix an attention."""
        places = chosen(model, config.attentions, config.prefix_length)
        heads, head_width = attention.heads(model.get_submodule(next(iter(places.values()))[0]))
        length, width = config.prefix_length, heads * head_width
        shapes = {"block": (length, 2 * width)}
        sharing = Sharing(config, {"block": length * 2 * width})
        modules = sharing.with_tasks(shapes)
        parts: dict[str, nn.Module] = {}
        for kind, paths in places.items():
            prototype: Prefix | PrefixNetwork = Prefix(length, heads, width, config.init_std)
            if config.reparameterize:
                prototype = PrefixNetwork(length, model.config.hidden_size, config.network_width, width)
            modules[f"prototype_{kind}"] = prototype
            for path in paths:
                parts[path] = KeyValue(path, MaskedPrefix(prototype, sharing.layer(path, shapes), heads))
        return modules | parts

    def prototype_params(self) -> int:
        """Entries of the blocks: a network that gives them is not stored."""
        params = 0
        for module in self.adapter().values():
            if isinstance(module, Prefix):
                params += module.block.numel()
            elif isinstance(module, PrefixNetwork):
                params += module.embedding.num_embeddings * module.rows
        return params

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Keep the blocks, drop the networks that computed them. Outputs stay as they are."""
        config: Any = self.peft_config[self.active_adapters[0]]
        modules = self.adapter()
        forms = [form for part in modules.parts() if isinstance(form := getattr(part, "form", None), MaskedPrefix)]
        for name, network in list(modules.items()):
            if isinstance(network, PrefixNetwork):
                carved = [form for form in forms if form.prototype is network]
                modules[name] = kept = collapsed(network(), carved[0].heads)
                for form in carved:
                    form.__dict__["prototype"] = kept
        config.reparameterize = False


register("propetl_prefix", PropetlPrefixConfig, PropetlPrefixTuner)
