"""What no configuration class of a method checks: that its values are of the kinds that it names; and of peft's own ones,
that the layers they name are there, that their matrices have such a rank, and that what they promise is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


KINDS: dict[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a word"),
    "list": (list, "a list"),
    "dict": (dict, "a mapping"),
    "None": (type(None), "null"),
}


def check_kinds(config: Any, arguments: dict[str, Any], whole: Iterable[str] = ()) -> None:
    """Raises ConfigError for a value of another kind than a dataclass's field; what is annotated in other words passes.

    Where peft says `int` any number will do (alphas, fractions of all steps), but for the fields in `whole`.
    """
    if "modules_to_save" in arguments:
        raise ConfigError("method.modules_to_save is the task's head here; model.head_modules names what belongs to it")
    whole = set(whole)
    for field in fields(config):
        annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        words = [word.partition("[")[0].strip() for word in annotation.split("|")]
        if config.__module__.startswith("peft.") and field.name not in whole:
            words = ["float" if word == "int" else word for word in words]
        if field.name not in arguments or not words or not set(words) <= KINDS.keys():
            continue
        value = arguments[field.name]
        if not any(_is(value, KINDS[word][0]) for word in words):
            allowed = " or ".join(KINDS[word][1] for word in words)
            raise ConfigError(f"method.{field.name}={value} must be {allowed}")


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind in (int, float):
        return isinstance(value, int) or (isinstance(value, float) and (kind is float or value.is_integer()))
    return isinstance(value, kind)


def check_silent(config: Any, model: Any) -> None:
    """Raises ConfigError for what peft takes, and then does otherwise or not at all without a word."""
    from torch import nn

    if str(getattr(config, "init_lora_weights", "")).lower() == "eva":
        raise ConfigError(
            "method.init_lora_weights=eva needs activations of training rows, which nothing computes here: it would be "
            "plain LoRA under that name; choose another, or leave it out"
        )
    wanted = getattr(config, "layers_to_transform", None) or []
    layers = max(
        getattr(model.config, name, 0) or 0 for name in ("num_hidden_layers", "num_decoder_layers", "decoder_layers")
    )
    if layers and (out := [one for one in ([wanted] if isinstance(wanted, int) else wanted) if not 0 <= one < layers]):
        raise ConfigError(
            f"method.layers_to_transform: there is no layer {out[0]}; this backbone has layers 0 to {layers - 1}"
        )
    inner = getattr(config, "feedforward_modules", None)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if inner and not any(_named(name, inner) for name in linears):
        called = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
        raise ConfigError(f"method.feedforward_modules={inner} matches nothing; the linear layers are called {called}")


def _named(name: str, wanted: Any) -> bool:
    """As peft reads names of modules: a regular expression of the whole, or ends."""
    return bool(re.fullmatch(wanted, name)) if isinstance(wanted, str) else any(name.endswith(end) for end in wanted)


def check_rank(field: str, rank: int, config: PeftConfig, model: nn.Module) -> None:
    """Raises ConfigError where a targeted matrix cannot have this rank; peft itself takes any."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from torch import nn

    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not check_target_module_exists(config, name):
            continue
        if rank > (highest := min(module.in_features, module.out_features)):
            shape = f"{module.out_features} x {module.in_features}"
            raise ConfigError(
                f"method.{field}={rank} is above the rank of {name}, which is {shape}; it can be {highest} at most"
            )


def unmatched(model: nn.Module, config: PeftConfig) -> str:
    """What to say where targets of a method of peft's match nothing: peft itself does not say what there is."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from torch import nn

    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = getattr(config, "target_modules", None) if type(config).__module__.startswith("peft.") else None
    if not targets or any(check_target_module_exists(config, name) for name in linears):
        return ""
    called = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
    return (
        f"target_modules={targets} matches no module of {type(model).__name__}; its linear layers are called {called}"
    )
