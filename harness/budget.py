"""The parameter budget: what a method may train beside the task head."""

from __future__ import annotations

from harness.config import BudgetConfig
from harness.errors import ConfigError
from harness.model import Params


def check(budget: BudgetConfig, params: Params, method: str) -> None:
    """Raises ConfigError where a method at its configured size is larger than the ceiling."""
    ceiling = budget.max_adapter_params
    if ceiling is not None and params.adapter > ceiling:
        raise ConfigError(
            f"method {method} trains {params.adapter:,} adapter parameters at this size, above "
            f"budget.max_adapter_params={ceiling:,}; give it a smaller size (method.r=..., see conf/method/{method}.yaml)"
        )
