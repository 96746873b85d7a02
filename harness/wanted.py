"""Which runs a list of overrides asks for: each distinct cell composed once, the seed put in afterwards.

Composing is what costs (0.15 s of processor time a cell), and so does reading rows and weights for their fingerprints.
Both are remembered (harness/memory.py).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict

from harness import compose, device, directory, identity, paths, task
from harness.composer import SweepConfigs
from harness.config import RunConfig
from harness.errors import ConfigError, DataError, ModelError
from harness.memory import Memory, files_in, rebuilt
from harness.schema import TaskConfig

MANY = 16  # new cells that are worth more processes
DEVICES = ("cpu", "cuda")
DATA, WEIGHTS = "data", "weights"
ON_HUB = "on the hub, which is not asked for this"


@dataclass(frozen=True)
class Wanted:
    """A run that was asked for.

    Attributes:
        id: its name; it ends in `?` where its content is not known here. config, words: what the overrides compose.
        others: device -> its identity there, where the configuration leaves the choice of the device.
        lacks: which content is not known here (`data`, `weights`), and why.
        likes: device -> digest of all that is known of its identity, where something is not.
    """

    id: str
    config: RunConfig
    words: tuple[str, ...]
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    likes: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its record is, or will be."""
        return Path(self.config.results.root) / self.id

    @property
    def elsewhere(self) -> Iterator[tuple[str, str]]:
        """Its id on other devices: (device, id). Made when asked for: most runs of a large plan are done here."""
        return ((at, identity.run_id(one)) for at, one in self.others.items())


class Composer:
    """Composes jobs as Hydra's launchers do, and remembers.

    Args:
        loader, base: Hydra's loader and the configuration that the sweep was started with.
        where: the device of runs that say `device=auto`, where it is not this machine's.
        here: whether all content must be here, as for launching; else the hub is not asked, and what cannot be read
            is left unknown.
    """

    def __init__(self, loader: ConfigLoader, base: DictConfig, where: str | None = None, *, here: bool = True) -> None:
        self.configs, self.base, self.where, self.here = SweepConfigs(loader, base), base, where, here
        self.memory = Memory()
        self._places: dict[str, Path] = {}

    def wanted(self, jobs: Iterable[Sequence[str]]) -> dict[str, Wanted]:
        """The runs that these overrides ask for, by id; two ways to ask for one run are one run."""
        split = [_seed_apart(words) for words in jobs]
        found: dict[str, Wanted] = {}
        try:
            cells = self._cells(list(dict.fromkeys(cell for cell, _ in split)))
            known = {cell: self._identities(config) for cell, config in cells.items()}
        finally:
            self.memory.save()
        for cell, seed in split:
            config, (decided, lacks) = cells[cell], known[cell]
            if seed is not None and seed != config.seed:
                config, decided = config.seeded(seed), {at: one | {"seed": seed} for at, one in decided.items()}
            one = _named(config, cell if seed is None else (*cell, f"seed={seed}"), decided, lacks)
            found.setdefault(one.id, one)
        return found

    def _cells(self, cells: list[tuple[str, ...]]) -> dict[tuple[str, ...], RunConfig]:
        base = OmegaConf.to_container(self.base.hydra.overrides.hydra)
        chosen = self.base.hydra.runtime.choices["hydra/launcher"]
        folders = [Path(one.path) for one in self.base.hydra.runtime.config_sources if one.schema == "file"]
        elsewhere = files_in([at for at in folders if paths.CONF not in (at, *at.parents)], ("*.yaml",))
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

    def _identities(self, config: RunConfig) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """What decides a run's numbers, as `run.plan` finds it, for its device and then the other one; what is unknown.

        Rows and weights are read only where they are new.
        """
        where = self.where if config.device == "auto" and self.where else config.device
        named = where != "auto" and (where == self.where or not self.here)
        where = where if named and where else device.resolve(config.device)
        lacks: dict[str, str] = {}
        data = self._known(DATA, lacks, self._data_print, config)
        weights = self._known(WEIGHTS, lacks, self._weights_print, config)
        others = [at for at in DEVICES if at != where] if config.device == "auto" else []
        found = {}
        for at in (where, *others):
            precision = device.precision(config.train.precision, at)
            found[at] = identity.identity(config, data=data, weights=weights, device=at, precision=precision)
        return found, lacks

    def _known(self, part: str, lacks: dict[str, str], find: Callable[[RunConfig], str], config: RunConfig) -> str:
        """A fingerprint; "", and the reason in `lacks`, where it need not be known and is not."""
        try:
            return find(config)
        except (DataError, ModelError) as error:
            if self.here:
                raise
            lacks[part] = str(error)
            return ""

    def _data_print(self, config: RunConfig) -> str:
        if not self.here and _of_hub(config.task, config.data.root):
            raise DataError(ON_HUB)
        rows = [asdict(config.task), config.data.root, config.data.max_train_rows, config.data.max_eval_rows]
        return self.memory.recall(rows, lambda: _data_files(config), lambda: _data(config))

    def _weights_print(self, config: RunConfig) -> str:
        spec = config.model
        shape_alone = spec.init == "random" and spec.shape and spec.tokenizer is not None
        if not self.here and spec.path is None and spec.hub_id is not None and not shape_alone:
            raise ModelError(ON_HUB)
        at = self._located(config)
        return self.memory.recall(asdict(spec), lambda: files_in([at]), lambda: _weights(config, at))

    def _located(self, config: RunConfig) -> Path:
        key = identity.digest(asdict(config.model))
        if key not in self._places:
            self._places[key] = directory.locate(config.model)
        return self._places[key]


_composer: Composer | None = None


def _compose(words: Sequence[str]) -> dict[str, Any]:
    """In a process of its own."""
    return _composer.compose(words) if _composer is not None else {}


def _named(
    config: RunConfig, words: tuple[str, ...], decided: dict[str, dict[str, Any]], lacks: dict[str, str]
) -> Wanted:
    """A run by its identities on each device, the first of which is its own."""
    (_, own), *others = decided.items()
    if not lacks:
        return Wanted(identity.run_id(own), config, words, dict(others))
    likes = {at: like(one, lacks) for at, one in decided.items()}
    return Wanted(f"{identity.run_id(own)}?", config, words, {}, lacks, likes)


def like(known: dict[str, Any], lacks: Iterable[str]) -> str:
    """The digest of an identity without some of its content."""
    content = {name: one for name, one in known["content"].items() if name not in lacks}
    return identity.digest({**known, "content": content})


def _of_hub(spec: TaskConfig, root: str | None) -> bool:
    """Whether a task's rows, or those of one of its parts, come from the hub."""
    if spec.parts:
        return any(_of_hub(part, root) for part in spec.parts.values())
    return not (root or spec.root)


def _data_files(config: RunConfig) -> list[Any] | None:
    """The files of a task's folder; None for the hub's, which are asked for once a plan."""
    root = config.data.root or config.task.root
    if not root:
        return None
    at, name = paths.embedded(root), config.task.folder
    return files_in([folder for folder in (at / name, *at.glob(f"*/{name}")) if folder.is_dir()])


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
