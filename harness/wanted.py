"""Which runs a list of overrides asks for: each distinct cell composed once, the seed put in afterwards.

Composing is what costs (0.15 s of processor time a cell), and so does reading rows and weights for their fingerprints.
Both are remembered under `$HARNESS_CACHE/plans`, by the content of configuration and code and by the files' sizes and
times; everything there may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from harness import atomic, compose, device, directory, identity, paths, task
from harness.composer import SweepConfigs
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError

KEPT = 2000  # composed cells that are remembered
MANY = 16  # new cells that are worth more processes


@dataclass(frozen=True)
class Wanted:
    """A run that was asked for: its id, its configuration, and the overrides that compose it."""

    id: str
    config: RunConfig
    words: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its record is, or will be."""
        return Path(self.config.results.root) / self.id


class Composer:
    """Composes jobs as Hydra's launchers do, and remembers.

    Args:
        loader, base: Hydra's loader and the configuration that the sweep was started with.
        where: the device of runs that say `device=auto`, where it is not this machine's.
    """

    def __init__(self, loader: ConfigLoader, base: DictConfig, where: str | None = None) -> None:
        self.configs, self.base, self.where = SweepConfigs(loader, base), base, where
        self.memory = Memory()
        self._places: dict[str, Path] = {}

    def wanted(self, jobs: Iterable[Sequence[str]]) -> dict[str, Wanted]:
        """The runs that these overrides ask for, by id; two ways to ask for one run are one run."""
        split = [_seed_apart(words) for words in jobs]
        cells = self._cells(list(dict.fromkeys(cell for cell, _ in split)))
        known = {cell: self._identity(config) for cell, config in cells.items()}
        found: dict[str, Wanted] = {}
        for cell, seed in split:
            config, decided = cells[cell], known[cell]
            if seed is not None and seed != config.seed:
                config, decided = replace(config, seed=seed), decided | {"seed": seed}
            words = cell if seed is None else (*cell, f"seed={seed}")
            one = Wanted(identity.run_id(decided), config, words)
            found.setdefault(one.id, one)
        self.memory.save()
        return found

    def _cells(self, cells: list[tuple[str, ...]]) -> dict[tuple[str, ...], RunConfig]:
        base = OmegaConf.to_container(self.base.hydra.overrides.hydra)
        chosen = self.base.hydra.runtime.choices["hydra/launcher"]
        folders = [Path(one.path) for one in self.base.hydra.runtime.config_sources if one.schema == "file"]
        elsewhere = _files([at for at in folders if paths.CONF not in (at, *at.parents)], ("*.yaml",))
        keys = {cell: identity.digest([base, elsewhere, chosen, cell]) for cell in cells}
        new = [cell for cell in cells if keys[cell] not in self.memory.cells]
        for cell, made in zip(new, self._composed(new), strict=True):
            self.memory.cells[keys[cell]] = made
        return {cell: rebuilt(RunConfig, self.memory.cells[keys[cell]]) for cell in cells}

    def _composed(self, cells: list[tuple[str, ...]]) -> list[dict[str, Any]]:
        """Many are composed by several processes; the first error is raised as if there were one."""
        workers = min(len(os.sched_getaffinity(0)), 8) if len(cells) >= MANY else 1
        if workers == 1:
            return [self.compose(cell) for cell in cells]
        global _composer
        _composer = self  # the forks have it as it is
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            return pool.map(_compose, cells, chunksize=max(4, len(cells) // (4 * workers)))

    def compose(self, words: Sequence[str]) -> dict[str, Any]:
        """One job's configuration, resolved and checked, as plain data. Raises ConfigError."""
        try:
            config = self.configs.of(words)
        except compose.COMPOSITION_ERRORS as error:  # they do not travel between processes
            raise ConfigError(compose.explain(error)) from None
        chosen, here = self._launcher(config), self.base.hydra.runtime.choices["hydra/launcher"]
        if chosen != here:
            raise ConfigError(
                f"hydra/launcher={chosen} stands inside the swept configuration and would run on {here} in silence; "
                f"give it on the command line: hydra/launcher={chosen}"
            )
        with open_dict(config):
            del config["hydra"]
        return asdict(compose.checked(config))

    def _launcher(self, config: DictConfig) -> str:
        """The launcher that a job's configuration asks for, also in a user's own group, where conf's default hides it."""
        choices = config.hydra.runtime.choices
        folders = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
        for group, option in choices.items():
            if not isinstance(option, str) or group.split("/")[0] in ("hydra", *compose.groups()):
                continue
            for file in (folder / group / f"{option}.yaml" for folder in folders):
                content: Any = OmegaConf.load(file) if file.is_file() else {}
                for default in content.get("defaults") or ():
                    if OmegaConf.is_dict(default) and "override /hydra/launcher" in default:
                        return str(default["override /hydra/launcher"])
        return str(choices["hydra/launcher"])

    def _identity(self, config: RunConfig) -> dict[str, Any]:
        """What decides a run's numbers, as `run.plan` finds it; rows and weights are read only where they are new."""
        where = self.where if config.device == "auto" and self.where else config.device
        where = where if self.where and where == self.where else device.resolve(where)
        data, weights = self._fingerprints(config)
        precision = device.precision(config.train.precision, where)
        return identity.identity(config, data=data, weights=weights, device=where, precision=precision)

    def _fingerprints(self, config: RunConfig) -> tuple[str, str]:
        rows = [asdict(config.task), config.data.root, config.data.max_train_rows, config.data.max_eval_rows]
        data = self.memory.recall(rows, lambda: _data_files(config), lambda: _data(config))
        at = self._located(config)
        weights = self.memory.recall(asdict(config.model), lambda: _files([at]), lambda: _weights(config, at))
        return data, weights

    def _located(self, config: RunConfig) -> Path:
        key = identity.digest(asdict(config.model))
        if key not in self._places:
            self._places[key] = directory.locate(config.model)
        return self._places[key]


_composer: Composer | None = None


def _compose(words: Sequence[str]) -> dict[str, Any]:
    """In a process of its own."""
    return _composer.compose(words) if _composer is not None else {}


class Memory:
    """Composed cells and fingerprints of earlier plans, in one file for each state of configuration and code."""

    def __init__(self) -> None:
        self.path = cache() / f"{identity.digest(_program())[:24]}.json"
        self.cells: dict[str, dict[str, Any]] = {}
        self.prints: dict[str, list[Any]] = {}
        self._now: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self.path.read_bytes())
            self.cells, self.prints = dict(kept["cells"]), dict(kept["prints"])
        self._before = len(self.cells), json.dumps(self.prints)

    def recall(self, what: Any, files: Callable[[], list[Any] | None], make: Callable[[], str]) -> str:
        """The fingerprint of something, made anew where its files changed, and once a plan where it has none."""
        key = identity.digest(what)
        if key not in self._now:
            stamps = files()
            kept = self.prints.get(key)
            self._now[key] = kept[1] if kept and stamps and kept[0] == stamps else make()
            if stamps:
                self.prints[key] = [stamps, self._now[key]]
        return self._now[key]

    def save(self) -> None:
        """Keep what is new, if the folder can be written; former states of the program are forgotten."""
        if self._before == (len(self.cells), json.dumps(self.prints)):
            return
        cells = dict(list(self.cells.items())[-KEPT:])
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self.path, json.dumps({"cells": cells, "prints": self.prints}).encode())
            for old in sorted(self.path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-8]:
                old.unlink(missing_ok=True)


def cache() -> Path:
    """Where plans are remembered."""
    base = os.environ.get("HARNESS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "harness")
    return Path(base).expanduser() / "plans"


def _program() -> list[Any]:
    """What decides how words become a configuration and rows a fingerprint: our files, and Hydra's version."""
    found = _files([paths.CONF, paths.PACKAGE], ("*.py", "*.yaml", "*.toml")) or []
    return [found, *(metadata.version(name) for name in ("hydra-core", "omegaconf"))]


def _files(folders: list[Path], patterns: tuple[str, ...] = ("*",)) -> list[Any] | None:
    """Name, size and time of every file there; None where there is none."""
    files = sorted({path for folder in folders for pattern in patterns for path in folder.rglob(pattern)})
    stats = ((path, path.stat()) for path in files if path.is_file())
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats] or None


def _data_files(config: RunConfig) -> list[Any] | None:
    """The files of a task's folder; None for the hub's, which are asked for once a plan."""
    root = config.data.root or config.task.root
    if not root:
        return None
    at, name = paths.embedded(root), config.task.folder
    return _files([folder for folder in (at / name, *at.glob(f"*/{name}")) if folder.is_dir()])


def _data(config: RunConfig) -> str:
    found = task.load(config.task, config.data.root)
    return task.cut(found, config.data.max_train_rows, config.data.max_eval_rows).fingerprint


def _weights(config: RunConfig, at: Path) -> str:
    return directory.fingerprint(at, config.model.init, directory.shaped(config.model, at))


def _seed_apart(words: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """A job's words without its seed, and the seed; (words, None) where it is not a plain number given once."""
    seeds = [word for word in words if word.startswith("seed=")]
    if len(seeds) != 1 or not seeds[0].removeprefix("seed=").isdigit():
        return tuple(words), None
    return tuple(word for word in words if word is not seeds[0]), int(seeds[0].removeprefix("seed="))


def rebuilt(kind: type, content: dict[str, Any]) -> Any:
    """The dataclass that `asdict` took apart. Raises HarnessError for content of another shape."""
    hints = typing.get_type_hints(kind)
    if content.keys() != {field.name for field in fields(kind)}:
        raise HarnessError(f"a remembered configuration has other keys than {kind.__name__}; delete {cache()}")
    return kind(**{
        name: rebuilt(hints[name], value) if is_dataclass(hints[name]) else value for name, value in content.items()
    })  # fmt: skip
