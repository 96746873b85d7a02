"""Mirrors a run to Weights & Biases, and to others through accelerate's trackers. Never the source of truth.

The run appends rows to `mirror.jsonl` in its folder and does nothing else; a process of its own follows that file and
speaks to the service. So a service that is down, slow or full costs the run no step and no second, and a requeued run
goes on under the same id. The file is bounded: of a long training every n-th loss.

Nothing of this machine is sent: no host name, user, path, command or secret; the configuration is the run's identity.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.config import WandbConfig
from harness.identity import digest
from harness.interrupt import Stopped
from harness.scrub import scrubbed

FILE, LOG = "mirror.jsonl", "mirror.log"
MOST_LOSSES = 10_000
PATIENCE_SECONDS = 5.0  # how long a finished run waits for its mirror; a slower one goes on without it


def mode(settings: WandbConfig, backbone: str | None) -> str:
    """online, offline or disabled. `auto`: what $WANDB_MODE says; nothing for embedded backbones; online with a key."""
    if settings.mode != "auto":
        return settings.mode
    told = os.environ.get("WANDB_MODE", "")
    if told in ("online", "offline", "disabled"):
        return told
    return "disabled" if (backbone or "").startswith("embedded:") else "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether W&B would find an API key; it is not read."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(OSError):
        return "api.wandb.ai" in Path(os.environ.get("NETRC") or "~/.netrc").expanduser().read_text()
    return False


class Mirror:
    """What a run tells; with nobody to tell, every method does nothing.

    Args:
        folder: the run's. run: its id. identity: what decides its numbers, which becomes the mirrored configuration.
        settings: the section `wandb`. backbone: `model.path`.
    """

    def __init__(self, folder: Path, run: str, identity: dict[str, Any], settings: WandbConfig,
                 backbone: str | None) -> None:  # fmt: skip
        chosen = mode(settings, backbone)
        self._file: Any = None
        self._told = [0, 0]  # losses, rows of the curve
        if chosen == "disabled" and not settings.trackers:
            return
        names = {part: identity[part]["name"] for part in ("task", "model", "method", "budget")}
        head = {
            "id": digest(run)[:16], "name": run, "mode": chosen, "project": settings.project, "entity": settings.entity,
            "group": settings.group or ".".join(names.values()), "tags": [*names.values(), *settings.tags],
            "config": names | {"seed": identity["seed"], "identity": identity}, "trackers": settings.trackers,
        }  # fmt: skip
        try:
            self._file = (folder / FILE).open("w", encoding="utf-8")
            self._write({"head": head})
            with (folder / LOG).open("wb") as log:
                self._process = subprocess.Popen([sys.executable, "-m", "harness.mirror", str(folder.absolute())],
                                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
        except OSError as error:
            self._off(error)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:  # `finish` was not reached: the run ends otherwise than DONE
            self.finish("stopped" if kind is Stopped else "FAILED", {})

    def tell(self, total: float, losses: list[float], curve: list[dict[str, Any]]) -> None:
        """Whatever of these growing lists was not told yet."""
        if self._file is None:
            return
        every = max(1, math.ceil(total / MOST_LOSSES))
        for step in range(self._told[0] + 1, len(losses) + 1):
            if step % every == 0:
                self._write({"step": step, "row": {"train/loss": losses[step - 1]}})
        for row in curve[self._told[1] :]:
            self._write({"step": row["step"], "row": flat(row)})
        self._told = [len(losses), len(curve)]

    def finish(self, state: str, summary: dict[str, Any]) -> None:
        """The end, with final scores and costs; waits a few seconds at most."""
        if self._file is None:
            return
        self._write({"end": state, "summary": flat(summary)})
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(scrubbed(row)) + "\n")
                self._file.flush()
            except OSError as error:
                self._off(error)

    def _off(self, error: OSError) -> None:
        print(f"warning: this run is not mirrored any more: {scrubbed(str(error))}", file=sys.stderr, flush=True)
        self._file = None


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float | list[float]]:
    """Nested numbers under joined names, `scores/test/accuracy`; what is neither number nor list of numbers is left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}/")
        elif (isinstance(value, int | float) and not isinstance(value, bool)) or (
            isinstance(value, list) and value and all(isinstance(one, int | float) for one in value)
        ):
            found[name] = value
    return found


def offline(root: Path) -> list[Path]:
    """The offline runs of a store that wait for `wandb sync`."""
    return sorted(root.glob("*/wandb/offline-run-*"))


# The process that follows


def follow(path: Path, parent: int) -> Iterator[dict[str, Any]]:
    """Rows as they are written, until the end or until the run's process is gone."""
    with path.open(encoding="utf-8") as stream:
        rest = ""
        while True:
            line = stream.readline()
            if line:
                rest += line
                if rest.endswith("\n"):
                    row = json.loads(rest)
                    yield row
                    if "end" in row:
                        return
                    rest = ""
            elif os.getppid() != parent:
                return
            else:
                time.sleep(0.2)


class Wandb:
    """A W&B run, continued under the same id by whoever makes the run next."""

    def __init__(self, head: dict[str, Any], folder: Path) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True, save_code=False, disable_code=True, host="", root_dir=str(folder), init_timeout=600,
        )  # fmt: skip
        known = {key: head[key] for key in ("id", "name", "project", "entity", "group", "tags", "config", "mode")}
        self.run = wandb.init(**known, resume="allow", settings=settings)
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


def main(folder: Path) -> None:
    """Follow the run in this folder and tell everybody who was asked for."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the run; we end when it does
    rows = follow(folder / FILE, os.getppid())
    head = next(rows)["head"]
    told: list[Any] = [] if head["mode"] == "disabled" else [Wandb(head, folder)]
    told += [Tracker(name, head, folder) for name in head["trackers"]]
    summary: dict[str, Any] = {}
    code = 1
    for row in rows:
        if "end" in row:
            summary, code = row["summary"], 0 if row["end"] == "DONE" else 1
            break
        for one in told:
            one.log(row["row"], row["step"])
    for one in told:
        one.finish(summary, code)


def in_one_line(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """In place of a traceback in this process's log, which would show paths, addresses and keys."""
    said = str(scrubbed(str(error))).splitlines()
    print(f"error: not mirrored: {kind.__name__}: {said[0] if said else ''}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.excepthook = in_one_line
    main(Path(sys.argv[1]))
