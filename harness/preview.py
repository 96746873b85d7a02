"""What `--cfg job` cannot compose: the size that a budget is solved to when the run starts, as comments under the YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from harness import compose
from harness.errors import HarnessError


def asked(words: Sequence[str]) -> bool:
    """Whether a command line asks for the configuration of its run instead of the run."""
    return any(word in ("--cfg=job", "--cfg=all", "-cjob", "-call") for word in words) or any(
        pair in ((flag, part) for flag in ("--cfg", "-c") for part in ("job", "all")) for pair in pairwise(words)
    )


def solved(words: Sequence[str]) -> list[str]:
    """Lines to print beneath the configuration; none where it shows all that will run. Counts on the meta device."""
    try:
        config = compose.composed([word for word in words if "=" in word and not word.startswith("-")])
    except HarnessError:  # a folder of configurations of the user's own: what it adds is known to Hydra alone
        return []
    if not config.method.get("size") or (config.budget.sized and config.budget.max_adapter_params is None):
        return []
    import methods.hooks  # noqa: F401  (first: it hushes what bitsandbytes says while peft is imported)
    from harness import budget, directory, task

    shapes = config.model if config.model.path else replace(config.model, init="random")
    try:
        _, told = budget.solve(config.budget, config.method, shapes, directory.locate(shapes), task.empty(config.task))
    except HarnessError as error:
        return [f"# budget: {error}"]
    return [f"# budget: {line} (in place of the method's fields above)" for line in told]
