"""Hydra composes one configuration at a time, from nothing; a sweep's are composed here with what they share made once.

Every file is read once. Configurations that differ in plain values alone (`train.learning_rate=1e-3`) are composed once and
given their values by Hydra's own function. Whatever is not as plain as that, or goes wrong, is composed as Hydra does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from harness import allowed, compose

PLAIN = re.compile(r"(?!hydra\.)\w+(\.\w+)+=[\w.+-]+")  # a key with dots, no group's name; a number or a word
KEPT = 64


class Repository(CachingConfigRepository):
    """Hydra's files; Hydra copies its repository for each configuration, and reads all of them again."""

    def __init__(self, delegate: Any) -> None:
        super().__init__(delegate)
        self._searched: list[tuple[Any, ...]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Repository:
        return self

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Look elsewhere, where a configuration asks for it."""
        searched = [(one.provider, one.path) for one in config_search_path.get_path()]
        if searched != self._searched:
            super().initialize_sources(config_search_path)
            self.cache.clear()
            self._searched = searched

    def load_config(self, config_path: str) -> ConfigResult | None:
        """A copy: composing writes into what it is given."""
        return copy.deepcopy(super().load_config(config_path))


class SweepConfigs:
    """The configurations of one sweep's jobs.

    Args:
        loader, base: Hydra's loader and the configuration that the sweep was started with.
    """

    def __init__(self, loader: Any, base: DictConfig) -> None:
        self.loader, self.base = loader, base
        if not isinstance(self.loader.repository, Repository):
            self.loader.repository = Repository(self.loader.repository)
        self._choices: dict[tuple[str, ...], DictConfig] = {}

    def of(self, words: Sequence[str]) -> DictConfig:
        """What `load_sweep_config` gives. Raises what it raises."""
        plain = [word for word in words if PLAIN.fullmatch(word)]
        if not plain:
            return self.loader.load_sweep_config(self.base, list(words))
        choices = tuple(word for word in words if word not in plain)
        try:
            config = copy.deepcopy(self._chosen(choices))
            ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(plain), config)
            allowed.check(config)
        except compose.COMPOSITION_ERRORS:  # said as if there were no short cut
            return self.loader.load_sweep_config(self.base, list(words))
        return config

    def _chosen(self, choices: tuple[str, ...]) -> DictConfig:
        """Composed of these words, now or before."""
        if choices not in self._choices:
            if len(self._choices) >= KEPT:
                self._choices.clear()
            self._choices[choices] = self.loader.load_sweep_config(self.base, list(choices))
        return self._choices[choices]
