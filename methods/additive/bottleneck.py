"""What the bottleneck adapters share: their options, and where they stand.

Houlsby's and Pfeiffer's adapters differ in their places alone; both papers' later readers differ in activation,
initialisation and in whether the backbone's norms are trained, hence all of that is an option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from methods import backbone, sites
from methods.forms import Bottleneck
from methods.parts import Activation, Copy, Part, Weight, in_own_dtype
from methods.tuner import TunerConfig

POSITIONS = ("around_norm", "before_norm", "after_norm")


@dataclass
class BottleneckConfig(TunerConfig):
    """Size, form and places of the adapters. The defaults are those of AdaLoRA's baselines."""

    bottleneck_size: int = field(default=8, metadata={"help": "Width of the bottleneck."})
    activation: str = field(default="relu", metadata={"help": "Non-linearity, by its name in transformers."})
    init: str = field(
        default="normal",
        metadata={"help": "normal: N(0, std); houlsby: truncated normal; identity: Kaiming down, zeros up."},
    )
    init_std: float | None = field(
        default=None, metadata={"help": "Standard deviation of the weights; null: 0.02 (normal), 0.001 (houlsby)."}
    )
    scaling: float = field(default=1.0, metadata={"help": "Constant factor on what an adapter adds."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout probability inside the bottleneck."})
    skip_layers: list[int] | None = field(
        default=None,
        metadata={"help": "Layers without adapters, counted from 0 through the encoder and on through the decoder."},
    )
    train_layernorm: bool = field(
        default=False, metadata={"help": "Also train every layer norm of the backbone, as Houlsby et al. do."}
    )

    def form(self, width: int) -> Bottleneck:
        """A new adapter for hidden states of this width."""
        return Bottleneck(
            width,
            self.bottleneck_size,
            activation_name=self.activation,
            init=self.init,
            std=self.init_std,
            scaling=self.scaling,
            dropout=self.dropout,
        )


def places(
    model: PreTrainedModel, site: str, skip_layers: list[int] | None = None, cross_attention: bool = True
) -> list[str]:
    """The module paths of a site in the layers that have adapters.

    Args:
        model: the task model.
        site: a name of `methods.sites`.
        skip_layers: layers to leave out, the encoder's first.
        cross_attention: whether a decoder's cross-attention counts.

    Raises:
        ValueError: for an unknown architecture, a layer that does not exist, or when no layer is left.
    """
    names = [name for name, _ in model.named_modules()]
    kind = model.config.model_type
    layers = [sites.layer(path) for path in sites.find(kind, "layer", names)]
    skipped = set(skip_layers or ())
    if wrong := sorted(skipped - set(range(len(layers)))):
        raise ValueError(f"skip_layers={wrong}: this backbone has layers 0 to {len(layers) - 1}, encoder first")
    kept = {layer for index, layer in enumerate(layers) if index not in skipped}
    found = [path for path in sites.find(kind, site, names) if sites.layer(path) in kept]
    found = [path for path in found if cross_attention or not sites.is_cross(path)]
    if not found:
        raise ValueError(
            f"no place is left for an adapter at '{site}'; skip_layers leaves out all {len(layers)} layers"
        )
    return found


class AroundNorm(Part):
    """At the norm that ends a post-norm layer: `u -> LN(u + form(LN(u)))`, with the same norm twice.

    Args:
        site: path of the norm.
        form: maps the normalised stream to what is added to the stream before it.
    """

    def __init__(self, site: str, form: nn.Module) -> None:
        super().__init__()
        self.site, self.form = site, form

    def mount(self, model: nn.Module) -> None:
        """Hook the norm."""
        self.after(model.get_submodule(self.site), self._again)

    def _again(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        return module.forward(args[0] + in_own_dtype(self.form, output))  # forward, or the hook would meet itself


def after_feed_forward(
    model: PreTrainedModel, position: str, make: Callable[[str], nn.Module], skip_layers: list[int] | None = None
) -> dict[str, nn.Module]:
    """One adapter at the end of every layer, by path.

    Args:
        model: the task model.
        position: with h the feed-forward's output, x its residual, u = h + x and A the form:
            "around_norm" LN(u + A(LN(u))); "before_norm" LN(u + A(h)); "after_norm" LN(u) + A(LN(u)).
            A pre-norm layer (T5) ends without a norm: u + A(u), u + A(h), u + A(u).
        make: the form at a path.
        skip_layers: see `places`.

    Raises:
        ValueError: for an unknown position, and what `places` refuses.
    """
    if position not in POSITIONS:
        raise ValueError(f"no position after the feed-forward is called '{position}'; known are {', '.join(POSITIONS)}")
    if position == "before_norm":
        return {path: Activation(path, make(path)) for path in places(model, "ffn_output", skip_layers)}
    if sites.is_pre_norm(model.config.model_type):
        pairs = zip(places(model, "ffn_output", skip_layers), places(model, "ffn_residual", skip_layers), strict=True)
        return {path: Activation(path, make(path), reads="sum", source=source) for path, source in pairs}
    part = AroundNorm if position == "around_norm" else Activation
    # By the name of what owns the norm: optimisers spare whatever "norm" is in the name of from weight decay.
    return {path.rpartition(".")[0]: part(path, make(path)) for path in places(model, "ffn_norm", skip_layers)}


def layer_norms(model: nn.Module, head: list[str] | None) -> dict[str, nn.Module]:
    """A trained copy of every norm's gain and bias in the backbone, embeddings included."""
    norms = [path for path, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    own, names = backbone.parameters(model, head or ()), backbone.aliases(model)
    inside = {name: tensor for name, tensor in own.items() if name.rpartition(".")[0] in norms}
    return {name: Weight(names[id(tensor)], Copy(tensor)) for name, tensor in inside.items()}
