"""Mirrors a run to Weights & Biases, and to others through accelerate's trackers. Never the source of truth.

The run appends rows to `mirror.jsonl` in its folder and does nothing else; a process of its own follows that file and
speaks to the service. So a service that is down, slow or full costs the run no step and no second, and a requeued run
goes on under the same id. The file is bounded: of a long training every n-th loss.

Nothing of this machine is sent: no host name, user, path, command or secret; the configuration is the run's identity.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import math
import netrc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import trackers
from harness.config import WandbConfig
from harness.identity import digest
from harness.interrupt import Stopped
from harness.scrub import scrubbed

FILE, LOG, REASON = "mirror.jsonl", "mirror.log", "mirror.failed"
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
    """Whether W&B would find an API key for its server; it is not given on."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    given = os.environ.get("NETRC")
    known = [Path(given)] if given else [Path("~/.netrc"), Path("~/_netrc")]
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        path = next((path for path in (one.expanduser() for one in known) if path.exists()), None)
        return path is not None and bool((netrc.netrc(path).authenticators(_server()) or ("", "", ""))[2])
    return False


def _server() -> str:
    """The host of W&B's server: the environment, the settings of this folder, the user's, or the public one."""
    base = os.environ.get("WANDB_BASE_URL")
    own = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"
    for path in (Path(os.environ.get("WANDB_DIR") or ".") / "wandb/settings", own) if not base else ():
        settings = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            settings.read(path, encoding="utf-8")
            if base := settings.get("default", "base_url", fallback=None):
                break
    return urlsplit(base or "https://api.wandb.ai").netloc


class Mirror:
    """What a run tells; with nobody to tell, every method does nothing.

    Args:
        folder: the run's. run: its id. identity: what decides its numbers, which becomes the mirrored configuration.
        settings: the section `wandb`. backbone: `model.path`.
    """

    def __init__(self, folder: Path, run: str, identity: dict[str, Any], settings: WandbConfig,
                 backbone: str | None) -> None:  # fmt: skip
        chosen = mode(settings, backbone)
        self.folder = folder
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
            (folder / REASON).unlink(missing_ok=True)
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
            for reason in reasons(self.folder):
                print(f"warning: {self.folder.name}: {reason}; {self.folder / LOG}", file=sys.stderr, flush=True)

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
    """The offline runs of a store that wait for `wandb sync`, which marks those that it sent."""
    return sorted(at for at in root.glob("*/wandb/offline-run-*") if not any(at.glob("*.synced")))


def reasons(folder: Path) -> list[str]:
    """Why somebody is not told of a run, a line for each."""
    try:
        return (folder / REASON).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def failures(root: Path) -> dict[str, list[str]]:
    """The runs of a store that somebody was not told of, and why."""
    return {path.parent.name: reasons(path.parent) for path in sorted(root.glob(f"*/{REASON}"))}


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


def main(folder: Path) -> None:
    """Follow the run in this folder and tell everybody who was asked for."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the run; we end when it does
    rows = follow(folder / FILE, os.getppid())
    head = next(rows)["head"]
    told = trackers.Told(head, folder, lambda reason: _reason(folder, reason))
    if not told.told:
        raise SystemExit(1)
    summary: dict[str, Any] = {}
    code = 1
    for row in rows:
        if not told.told:
            break
        if "end" in row:
            summary, code = row["summary"], 0 if row["end"] == "DONE" else 1
            break
        told.log(row["row"], row["step"])
    told.finish(summary, code)


def _reason(folder: Path, reason: str) -> None:
    """Keep one line of why somebody is not told, which the run and `harness.status` print; the log has it too."""
    line = str(scrubbed(reason))
    print(f"error: {line}", file=sys.stderr, flush=True)
    with (folder / REASON).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def in_one_line(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """In place of a traceback in this process's log, which would show paths, addresses and keys."""
    said = str(scrubbed(str(error))).splitlines()
    print(f"error: not mirrored: {kind.__name__}: {said[0] if said else ''}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.excepthook = in_one_line
    main(Path(sys.argv[1]))
