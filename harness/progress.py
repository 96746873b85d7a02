"""What a person sees while a run goes on: a bar on standard error, a file for others to read; at the end one honest line."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from harness.mirror import Mirror
from harness.record import Record

FILE = "progress.json"
MOST_REMARKS = 3  # on single tasks of several that one line can bear


class Bar:
    """A bar of optimizer steps, as tqdm's, which also leaves in the run's folder how far it is.

    Args:
        name: shown. shown: whether anybody looks (`progress=false`, no terminal). folder: of the run; None: no file.
        every_seconds: how often the file is written. mirror: told of losses and curve.
    """

    def __init__(self, name: str, *, shown: bool, folder: Path | None = None, every_seconds: float = 10,
                 mirror: Mirror | None = None) -> None:  # fmt: skip
        from tqdm import tqdm

        self._bar = tqdm(
            desc=name.rsplit(".", 1)[0], unit="step", disable=None if shown else True, dynamic_ncols=True, leave=False
        )
        self._folder, self._every, self._mirror = folder, every_seconds, mirror
        self._done, self._resumed, self._total = 0, 0, 0.0
        self._written = self._begun = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / FILE).unlink(missing_ok=True)

    @property
    def total(self) -> float | None:
        """Steps to come; the loop sets it."""
        return self._total

    @total.setter
    def total(self, steps: float | None) -> None:
        self._bar.total, self._total = steps, steps or 0.0
        self._write()

    def update(self, n: int, /) -> None:
        """`n` more steps are done. Many at once are those of an earlier process."""
        self._bar.update(n)
        self._done += n
        if n > 1:
            self._resumed, self._begun = self._done, time.monotonic()
        if time.monotonic() - self._written >= self._every:
            self._write()

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        """A word beside the bar."""
        self._bar.set_postfix_str(s, refresh=refresh)

    def tell(self, losses: list[float], curve: list[dict[str, Any]]) -> None:
        """The loss of every update so far and the learning curve; the mirror takes what is new."""
        if self._mirror is not None:
            self._mirror.tell(self._total, losses, curve)

    def _write(self) -> None:
        """Say how far it is, for `python -m harness.status`. A full disk costs this word, not the run."""
        self._written = time.monotonic()
        if self._folder is None:
            return
        made = self._done - self._resumed
        rate = (self._written - self._begun) / made if made else None
        left = None if rate is None else round(rate * (self._total - self._done), 1)
        temporary = self._folder / f"{FILE}.tmp-{os.getpid()}"
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({"step": self._done, "of": self._total, "seconds_left": left}))
            os.replace(temporary, self._folder / FILE)


def read(folder: Path) -> dict[str, Any]:
    """Where a run that goes on is: `step`, `of`, `seconds_left` of its training; {} where it does not say."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _few(done: Record) -> list[str]:
    """The remarks; of a run of several tasks those on single ones as their number, and whether rows are missing."""
    names = tuple(done.identity["task"].get("parts") or ())
    single = {said: name for said in done.remarks for name in names
              if said.removeprefix("subset: ").removeprefix("superset: ").startswith(f"{name}: ")}  # fmt: skip
    if len(single) <= MOST_REMARKS:
        return list(done.remarks)
    cut = {name for said, name in single.items() if said.startswith("subset: ")}
    told = [f"subset: not all rows of {len(cut)} of {len(names)} tasks"] * bool(cut)
    told += [f"{len(single)} remarks on single tasks in the record"]
    return [said for said in done.remarks if said not in single] + told


def line(done: Record, folder: str) -> str:
    """Method, task, backbone, score with metric, parameters, seconds, recipe, record: all that a number needs.

    `lora on demo/entailment, demo_deberta, seed 0: accuracy 87.30 on test (1,000 rows); 98,304 adapter + 16,770 head
    parameters; 31.2 s; recipe demo; results/runs/...`
    """
    science, identity = done.science, done.identity
    main, params = science["main"], science["params"]
    rows = science["predictions"][main["split"]]["rows"]
    words = [
        f"{identity['method']['name']} on {identity['task']['name']}, {identity['model']['name']}, seed {identity['seed']}: "
        f"{main['metric']} {main['score']:.2f} on {main['split']} ({rows:,} rows)",
        f"{params['adapter']:,} adapter + {params['head']:,} head parameters",
        f"{done.cost['seconds']:.1f} s",
        *([f"resumed at step {step}"] if (step := done.provenance.get("resumed_at")) else []),
        *_few(done),
        folder,
    ]
    if done.recipe.get("name") not in ("none", "fallback"):
        words.insert(3, f"recipe {done.recipe['name']}")
    return "; ".join(words)
