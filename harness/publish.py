"""How a run ends in the store: everything it made on disk first, then one atomic record.json that says so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import atomic, device, record, scrub
from harness.errors import HarnessError, RecordError
from harness.identity import digest, hash_files
from harness.interrupt import Stopped
from harness.record import Record

if TYPE_CHECKING:
    from peft import PeftModel

    from harness.evaluate import Evaluation


def supersede(folder: Path) -> list[dict[str, Any]]:
    """Make room for an attempt at the run. Returns the earlier ones that did not end DONE: when each began, how it ended.

    A result and a failure are moved aside (never deleted), record.json first, so that no moment shows half of two
    results. What was merely interrupted goes on in its place, from its checkpoint.
    """
    known, stored = record.read(folder), folder / "record.json"
    if known is None:
        return []
    ended = {"begun": known.provenance.get("begun"), "state": known.state, "error": known.error}
    attempts = [] if known.state == record.DONE else [*known.provenance.get("attempts", []), ended]
    if known.state in (record.RUNNING, record.PREEMPTED, record.TIMEOUT):
        return attempts
    aside = folder / "superseded" / digest(stored.read_text(errors="replace"))[:12]
    aside.mkdir(parents=True, exist_ok=True)
    keep = {"record.json", "superseded", "owner.json", "heartbeat", "checkpoints"}
    others = sorted(path for path in folder.iterdir() if path.name not in keep and not path.name.startswith("owner."))
    for path in [stored, *others]:
        target = aside / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    atomic.sync_folder(folder)
    return attempts


@contextlib.contextmanager
def failures(folder: Path, begun: Record) -> Iterator[None]:
    """Put whatever stops a run into its record, with the traceback in log.txt, and let it go on its way."""
    try:
        yield
    except HarnessError as error:
        _ended(folder, begun, getattr(error, "state", record.FAILED), str(error))
        raise
    except Stopped as stopped:
        _ended(folder, begun, stopped.state, stopped.reason)
        raise
    except (KeyboardInterrupt, SystemExit):
        _ended(folder, begun, record.PREEMPTED, "interrupted")
        raise
    except BaseException as error:
        (folder / "log.txt").write_text(scrub.scrubbed(traceback.format_exc()), encoding="utf-8")
        _ended(folder, begun, device.failed_as(error), f"{type(error).__name__}: {error}")
        raise


def _ended(folder: Path, begun: Record, state: str, reason: str) -> None:
    """Store a state that is not DONE. A store that cannot be written must not hide why the run ended."""
    try:
        record.write(folder, replace(begun, state=state, error=reason[:2000]))
    except OSError as error:
        print(f"the record could not be updated either: {error}")


def save_predictions(folder: Path, split: str, evaluation: Evaluation) -> dict[str, Any]:
    """One row an example, as Parquet; returns the file's name, digest and number of rows."""
    import pandas

    table = pandas.DataFrame(evaluation.predictions)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    path = folder / f"predictions.{split}.parquet"
    atomic.write(path, buffer.getvalue())
    return {"file": path.name, "sha256": hash_files([path]), "rows": len(table)}


def save_adapter(folder: Path, model: PeftModel, backbone: str) -> str:
    """The adapter and head as peft writes them, in place at once as a whole; returns the digest of the weights.

    `backbone` stands in the adapter's configuration in place of a path of this machine.
    """
    from methods import saved

    temporary, final = folder / "adapter.tmp", folder / "adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    config = model.peft_config["default"]
    path_here, config.base_model_name_or_path = config.base_model_name_or_path, backbone
    try:
        model.save_pretrained(str(temporary), save_embedding_layers=False)
    finally:
        config.base_model_name_or_path = path_here
    saved.sign(temporary, config)
    weights = sorted(temporary.glob("*.safetensors"))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    atomic.sync_folder(folder)
    return hash_files([final / path.name for path in weights])


def drop_adapter(folder: Path) -> None:
    """Remove the trained adapter and head: `results.keep_adapter=false`."""
    shutil.rmtree(folder / "adapter", ignore_errors=True)


def publish(folder: Path, done: Record, held: Callable[[], bool]) -> None:
    """The last write of a run. Raises RecordError if the run was given to somebody else meanwhile (the fence)."""
    if not held():
        raise RecordError(f"{done.id} was taken over by another process; its record is that process's to write")
    try:
        json.dumps(asdict(done), allow_nan=False)
    except ValueError as error:
        raise RecordError(f"{done.id}: a score or loss is not a finite number; the record is not written") from error
    record.write(folder, done)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
