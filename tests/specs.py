"""Configurations as a run gets them (composed by Hydra, checked by the schema), and data directories for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from harness import compose, sweep
from harness.config import RunConfig, TaskConfig
from harness.errors import DataError
from harness.paths import CONF
from harness.task import load


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


def written(root: Path, folder: str, train: str | bytes, dev: str | bytes | None = None, suffix: str = ".tsv") -> str:
    """A task's folder with both splits; returns the root."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in (("train", train), ("dev", train if dev is None else dev)):
        data = content if isinstance(content, bytes) else content.encode()
        (root / folder / name).with_suffix(suffix).write_bytes(data)
    return str(root)


def complaint(name: str, root: str, *words: str) -> str:
    """The message of the error that loading raises."""
    with pytest.raises(DataError) as caught:
        load(task(name, *words), root)
    return str(caught.value)
