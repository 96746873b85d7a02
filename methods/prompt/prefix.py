"""Prefix-tuning: trained keys and values before those of the tokens, in every attention (Li and Liang, ACL 2021,
arXiv 2101.00190, section 4; P-tuning v2, Liu et al., ACL 2022, arXiv 2110.07602, is the direct form on encoders).

    head_i = softmax(q_i [P_k; K]^T / sqrt(d)) [P_v; V]

An encoder-decoder has three independent sets: encoder, decoder, cross-attention. 2ld parameters an attention.

`reparameterize` is the paper's training form: P = W_2 tanh(W_1 E + b_1) + b_2, one network a set; when training ends it
is dropped and the keys and values that it gave stay (`on_train_end`). Without it they are trained directly, which the
paper finds less stable. The authors' code (XiangLi1999/PrefixTuning) passes prefixes as past keys, which moves the
position ids of RoBERTa; here positions and relative distances are the backbone's. A prefix takes attention away from
the text, hence it is never the identity, whatever its values, and it cannot be merged.
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
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class PrefixConfig(TunerConfig):
    """Length and places of the prefixes, and how they are trained."""

    prefix_length: int = field(default=30, metadata={"help": "Pairs of key and value in each attention."})
    attentions: list[str] = field(
        default_factory=lambda: list(attention.KINDS),
        metadata={"help": "Where: encoder, decoder (self-attention), cross; kinds that a backbone lacks are ignored."},
    )
    init_std: float = field(default=0.02, metadata={"help": "Of keys and values that are trained directly."})
    reparameterize: bool = field(
        default=False, metadata={"help": "Train a network that gives the prefixes, and drop it when training ends."}
    )
    network_width: int = field(default=512, metadata={"help": "Inner width of that network."})


class Computed(nn.Module):
    """One layer's prefix out of the network that its set shares; it has no parameters of its own."""

    network: PrefixNetwork

    def __init__(self, network: PrefixNetwork, layer: int, heads: int) -> None:
        super().__init__()
        self.__dict__["network"] = network  # not a child: the adapter holds it once, beside its parts
        self.layer, self.heads = layer, heads

    def forward(self, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (heads, length, head width)."""
        return split_prefix(self.network(self.layer), self.heads)


def chosen(model: PreTrainedModel, kinds: list[str], length: int) -> dict[str, list[str]]:
    """Paths of the attentions that get a prefix, by kind. Raises ValueError for a bad kind or length, or no place."""
    if length < 1:
        raise ValueError(f"a prefix of length {length} is none; prefix_length is at least 1")
    if wrong := [kind for kind in kinds if kind not in attention.KINDS]:
        raise ValueError(f"no attention is of kind '{wrong[0]}'; known are {', '.join(attention.KINDS)}")
    found = attention.attentions(model)
    places = {kind: found[kind] for kind in attention.KINDS if kind in kinds and kind in found}
    if not places:
        raise ValueError(f"attentions={list(kinds)}: this backbone has only {', '.join(found)}")
    return places


def collapsed(block: Tensor, heads: int) -> Prefix:
    """A prefix to train directly, that starts at a computed block."""
    prefix = Prefix(len(block), heads, block.shape[1] // 2).to(block)
    prefix.block.copy_(block)
    return prefix


class PrefixTuner(Tuner):
    """[K] -> [P_k; K] and [V] -> [P_v; V]."""

    def build(self, model: PreTrainedModel, config: PrefixConfig) -> dict[str, nn.Module]:
        """One prefix an attention, and one network a set where they are computed."""
        modules: dict[str, nn.Module] = {}
        for kind, paths in chosen(model, config.attentions, config.prefix_length).items():
            number, head_width = attention.heads(model.get_submodule(paths[0]))
            width = number * head_width
            if not config.reparameterize:
                for path in paths:
                    modules[path] = KeyValue(path, Prefix(config.prefix_length, number, width, config.init_std))
                continue
            network = PrefixNetwork(
                config.prefix_length, model.config.hidden_size, config.network_width, width, len(paths)
            )
            modules[f"network_{kind}"] = network
            modules |= {path: KeyValue(path, Computed(network, i, number)) for i, path in enumerate(paths)}
        return modules

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Keep the keys and values, drop the networks that computed them. Outputs stay as they are."""
        config: Any = self.peft_config[self.active_adapters[0]]
        modules = self.adapter()
        for part in modules.parts():
            if isinstance(part, KeyValue) and isinstance(part.form, Computed):
                part.form = collapsed(part.form.network(part.form.layer), part.form.heads)
        for name in [name for name, module in modules.items() if isinstance(module, PrefixNetwork)]:
            del modules[name]
        config.reparameterize = False


register("prefix", PrefixConfig, PrefixTuner)
