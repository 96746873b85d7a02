"""W&B and accelerate's trackers, as the mirror's process tells them (harness/mirror.py). One that fails stops no other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

INIT_SECONDS = 30.0  # how long W&B may take to begin before it is offline
FINISH_SECONDS = 300.0  # how long everybody may take to end


class Told:
    """Everybody who is told of a run; whoever fails is left out from then on.

    Args:
        head: what the run says first. folder: the run's. say: takes one line for each that fails.
    """

    def __init__(self, head: dict[str, Any], folder: Path, say: Callable[[str], None]) -> None:
        self.say = say
        self.told: dict[str, Any] = {}
        kinds: dict[str, Callable[[], Any]] = {} if head["mode"] == "disabled" else {"W&B": lambda: Wandb(head, folder)}
        kinds |= {name: lambda name=name: Tracker(name, head, folder) for name in head["trackers"]}  # type: ignore[misc]
        for name, begin in kinds.items():
            self._guarded(name, lambda name=name, begin=begin: self.told.update({name: begin()}))  # type: ignore[misc]
        if why := getattr(self.told.get("W&B"), "offline", ""):
            say(f"W&B: {why}")

    def log(self, values: dict[str, Any], step: int) -> None:
        """One row, to everybody."""
        for name, one in list(self.told.items()):
            self._guarded(name, lambda one=one: one.log(values, step))  # type: ignore[misc]

    def finish(self, summary: dict[str, Any], code: int) -> None:
        """The final numbers; who does not take them in time is left with what it has."""
        timer = threading.Timer(FINISH_SECONDS, self._late)
        timer.daemon = True
        timer.start()
        for name, one in list(self.told.items()):
            self._guarded(name, lambda one=one: one.finish(summary, code))  # type: ignore[misc]
            self.told.pop(name, None)
        timer.cancel()

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - other people's code raises anything; it is said, and costs no number
            self.told.pop(name, None)
            self.say(f"{name} is not told of this run: {_short(error)}")

    def _late(self) -> None:
        for name in self.told:
            self.say(
                f"{name} did not take everything within {FINISH_SECONDS:.0f} s; what W&B has here: wandb sync FOLDER"
            )
        os._exit(1)


def _short(error: Exception) -> str:
    """An exception's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class Wandb:
    """A W&B run, continued under the same id by whoever makes the run next. offline: why it is, where it should not be."""

    def __init__(self, head: dict[str, Any], folder: Path) -> None:
        import wandb

        self.offline = ""
        patience = float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_SECONDS)

        settings = wandb.Settings(
            console="off", silent=True, x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True, save_code=False, disable_code=True, host="", root_dir=str(folder), init_timeout=patience,
        )  # fmt: skip
        known = {key: head[key] for key in ("id", "name", "project", "entity", "group", "tags", "config", "mode")}
        try:
            self.run = wandb.init(**known, resume="allow", settings=settings)
        except wandb.Error as error:  # no key, no network, no such project: kept for `wandb sync`
            if head["mode"] != "online":
                raise
            self.offline = f"offline, to be sent with wandb sync, since W&B cannot be reached ({_short(error)})"
            wandb.teardown()  # its service still holds the id
            self.run = wandb.init(**(known | {"mode": "offline"}), resume="allow", settings=settings)
        self.image = wandb.Histogram

    def log(self, values: dict[str, Any], step: int) -> None:
        """One row; a list of numbers (ranks, say) becomes a histogram."""
        self.run.log({key: self.image(one) if isinstance(one, list) else one for key, one in values.items()}, step=step)

    def finish(self, summary: dict[str, Any], code: int) -> None:
        """The final numbers."""
        self.run.summary.update({key: one for key, one in summary.items() if not isinstance(one, list)})
        self.run.finish(exit_code=code)


class Tracker:
    """Any tracker that accelerate knows, by its name there."""

    def __init__(self, name: str, head: dict[str, Any], folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        place = {"logging_dir": str(folder / name)} if kind.requires_logging_directory else {}
        self.tracker = kind(head["id"], **place)
        if hasattr(self.tracker, "start"):
            self.tracker.start()
        self.tracker.store_init_configuration(
            {key: str(one) for key, one in head["config"].items() if key != "identity"}
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        """The numbers of one row."""
        self.tracker.log({key: one for key, one in values.items() if not isinstance(one, list)}, step=step)

    def finish(self, summary: dict[str, Any], code: int) -> None:
        """The final numbers."""
        self.tracker.log({f"final/{key}": one for key, one in summary.items() if not isinstance(one, list)}, step=0)
        self.tracker.finish()
