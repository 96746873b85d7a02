"""What a configuration may make Hydra do: checked on the whole composed configuration, before Hydra acts on any of it.

A configuration can come from a stranger (`--config-dir`, `--config-path`, a record). Hydra itself imports and calls
whatever a `_target_` names, also of callbacks that run before `main`, whatever logging sections name, and packages to
search. Here a `_target_` is a method's configuration or a launcher or sweeper of ours or Hydra's; configurations are
files; logging and Hydra's folders write nothing; the environment is neither read nor set; lines of shell for a cluster
are those of our own files or of the command line (harness/shell.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import shell
from harness.errors import ConfigError

METHODS = ("peft.", "methods.")
PLUGINS = (
    "hydra_plugins.harness.",
    "hydra._internal.core_plugins.",
)  # others' run shell lines under names of their own
# Where a `_target_` may stand, and what it may begin with.
TARGETS = {
    "method._target_": METHODS,
    "hydra.launcher._target_": PLUGINS,
    "hydra.sweeper._target_": PLUGINS,
}
LOGGING = ("hydra.job_logging.", "hydra.hydra_logging.")
HANDLERS = ("logging.StreamHandler", "logging.NullHandler", "colorlog.ColoredFormatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# Where Hydra itself would write, and the values with which it does not
FOLDERS: dict[str, tuple[Any, ...]] = {
    "hydra.run.dir": (".",),
    "hydra.sweep.dir": (".",),
    "hydra.sweep.subdir": (".",),
    "hydra.output_subdir": (None,),
    "hydra.job.chdir": (None, False),
}
SOURCES = ("file", "made", "structured")  # files, rows of recipes, the schema
PACKAGES = ("pkg://hydra.conf", "pkg://hydra_plugins.")  # of Hydra's own; to look into a package is to import it


def install() -> None:
    """Check every configuration that Hydra composes from now on, and read no environment variable for any."""
    hydra_internals.ConfigLoaderImpl = Checked  # type: ignore[misc]
    importlib.import_module("hydra.main")._get_rerun_conf = _no_pickle  # type: ignore[attr-defined]
    for name in ("oc.env", "oc.create", "oc.decode", "oc.deprecated"):
        OmegaConf.register_new_resolver(name, _refused(name), replace=True)


def _refused(name: str) -> Any:
    def resolver(*arguments: Any) -> Any:
        raise ConfigError(
            f"${{{name}:...}} is not allowed: a configuration could read secrets with it; write the value"
        )

    return resolver


def _no_pickle(file: str, words: list[str]) -> Any:
    raise ConfigError(
        f"--experimental-rerun {file} is not allowed: a pickle runs code; a record's command makes it again"
    )


class Files(ConfigRepository):
    """Hydra's sources of configurations, where none of them is a package that a configuration names."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Raises ConfigError before such a package is imported."""
        for path in (str(one.path) for one in config_search_path.get_path()):
            if self._get_scheme(path) not in SOURCES and not path.startswith(PACKAGES):
                raise ConfigError(
                    f"hydra.searchpath: {path} is not allowed: configurations are files, give file://FOLDER"
                )
        super().initialize_sources(config_search_path)


class Checked(ConfigLoaderImpl):
    """Hydra's loader; what it composes is checked before anybody sees it, Hydra's own logging included."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        self.config_search_path = config_search_path
        self.repository = Files(config_search_path)

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *arguments: Any, **options: Any
    ) -> DictConfig:
        """The composed configuration. Raises ConfigError for what is not allowed."""
        try:
            config = super().load_configuration(config_name, overrides, *arguments, **options)
        except KeyError as error:  # hydra.job.env_copy of a variable that is not there
            raise ConfigError(f"the configuration asks for {error}, which is not there") from error
        except (TypeError, AttributeError) as error:  # a list of numbers as a group's option, a defaults list of them
            raise ConfigError(f"the configuration cannot be composed ({error}): options of groups are names") from error
        if sorted([*_words(config), *_words(config, "task")]) != sorted(overrides):
            raise ConfigError("hydra.overrides is not allowed: it says what the command line said")
        check(config)
        return config


def check(config: DictConfig) -> None:
    """Raises ConfigError with the key of the first thing that is not allowed."""
    words = _words(config)
    for key, value in _leaves(OmegaConf.to_container(config, resolve=False), ""):
        last = key.rpartition(".")[2]
        text = _resolved(config, key, value)
        if key.startswith("hydra") and OmegaConf.is_config(text):
            raise ConfigError(f"{key}={value} is not allowed: Hydra's own sections are written out, not pointed at")
        if last == "_target_":
            if not (isinstance(text, str) and text.startswith(TARGETS.get(key, ())) and ".." not in text):
                where = TARGETS.get(key)
                only = f"it must begin with {' or '.join(where)}" if where else "nothing may be called from there"
                raise ConfigError(f"{key}={text} is not allowed: {only}")
        elif key.startswith(LOGGING):
            _check_logging(key, last, text)
        elif key.startswith(("hydra.callbacks.", "hydra.job.env_set.", "hydra.job.env_copy")):
            raise ConfigError(
                f"{key}={text} is not allowed: a configuration must neither run code nor set environments"
            )
        elif key in FOLDERS and value not in FOLDERS[key]:
            raise ConfigError(f"{key}={text} is not allowed: Hydra writes nothing here; results go to results.root")
    shell.check(OmegaConf.select(config, "hydra.launcher"), words)


def _words(config: DictConfig, about: str = "hydra") -> list[str]:
    """The words of the command line that are about Hydra itself, or about the `task`."""
    return [str(word) for word in OmegaConf.select(config, f"hydra.overrides.{about}") or []]


def _check_logging(key: str, last: str, value: Any) -> None:
    """logging.config calls what `()` and `class` name and imports what begins with ext://."""
    if (
        last in ("()", "filename", "args", "kwargs")
        or (last == "class" and value not in HANDLERS)
        or (isinstance(value, str) and "ext://" in value and value not in STREAMS)
        or (isinstance(value, str) and value.startswith("cfg://"))
    ):
        raise ConfigError(
            f"{key}={value} is not allowed: a configuration must neither run code nor write files by logging"
        )


def _resolved(config: DictConfig, key: str, value: Any) -> Any:
    """A value with its interpolations replaced, where it has any; those that cannot be are what they say."""
    if not (isinstance(value, str) and "${" in value):
        return value
    try:
        return OmegaConf.select(config, key)
    except (OmegaConfBaseException, ValueError):
        return value


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping or list, with its key, dots between."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _leaves(inside, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inside in enumerate(value):
            yield from _leaves(inside, f"{key}.{place}")
    else:
        yield key, value
