"""What peft's own methods do not check: that the layers they name are there, and that their matrices have such a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


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
