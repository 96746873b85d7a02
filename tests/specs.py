"""Configurations as a run gets them: composed by Hydra, checked by the schema."""

from __future__ import annotations

from functools import cache

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from harness import compose, sweep
from harness.config import RunConfig, TaskConfig
from harness.paths import CONF


@cache
def composed(*words: str) -> RunConfig:
    """The configuration of `python -m harness WORDS`."""
    compose.register()
    sweep.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose.checked(hydra_compose("config", overrides=list(words)))


def task(name: str, *words: str) -> TaskConfig:
    """The configuration of a task; further words change it: `task("glue/rte", "task.skip_broken=true")`."""
    return composed(f"task={name}", *words).task
