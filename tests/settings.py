"""The training section of conf/config.yaml, with changes: a new option does not have to be named in every test."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.config import TrainConfig

CONF = Path(__file__).parents[1] / "conf" / "config.yaml"


def training(**changes: Any) -> TrainConfig:
    """What no recipe sets, and what is given."""
    known: Any = OmegaConf.to_container(OmegaConf.load(CONF).train)
    return TrainConfig(**known | changes)
