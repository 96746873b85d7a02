"""A kill at any moment of a store's life leaves no record that claims to be done and is not whole.

A forked child goes through a run's whole life in the store (claim, begin, predictions, adapter, publish, release) and is
killed immediately before and immediately after each write, fsync, rename, link and unlink, one after another.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from harness import publish, record
from harness.checkpoint import Checkpoints
from harness.claim import Claim
from harness.identity import hash_files
from harness.record import DONE, RUNNING, Record

CALLS = ("write", "fsync", "replace", "link", "unlink")
BEGUN = Record("demo.run", RUNNING, {"seed": 0}, {}, {"name": "demo", "note": ""})


class Evaluation:
    predictions: ClassVar = {"id": ["0", "1"], "prediction": [1, 0], "target": [1, 1]}


def life(folder: Path) -> None:
    """What run.py does with the store, with the same functions, the training left out."""
    with Claim(folder, beat_seconds=60) as claim:
        publish.supersede(folder)
        record.write(folder, BEGUN)
        with publish.failures(folder, BEGUN):
            saved = publish.save_predictions(folder, "test", Evaluation())
        science = {"main": {"split": "test", "metric": "accuracy", "score": 50.0}, "predictions": {"test": saved}}
        publish.publish(folder, replace(BEGUN, state=DONE, science=science), claim.held)


def kept(folder: Path) -> None:
    """Three checkpoints, or those that are still missing."""
    store = Checkpoints(folder, "key", 0.0)
    found = store.load()
    for step in range(1 if found is None else found["step"] + 1, 4):
        store.save({"step": step, "weights": torch.full((3,), float(step))})


def killed_at(folder: Path, moment: int, after: bool, life: Callable[[Path], None] = life) -> bool:
    """Live in a child that is killed at its n-th system call of interest; whether it lived to the end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def deadly(real):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == moment and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*arguments, **options)
                if count == moment and after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in CALLS:
            setattr(os, name, deadly(getattr(os, name)))
        life(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def whole(folder: Path) -> bool:
    """Whether the record claims to be done; fails the test if it does without everything it names being there."""
    stored = record.read(folder)
    if stored is None or stored.state != DONE:
        return False
    saved = stored.science["predictions"]["test"]
    assert hash_files([folder / saved["file"]]) == saved["sha256"]
    return True


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_no_kill_leaves_a_false_record(tmp_path, after):
    import pandas  # noqa: F401  (imported once here, not in every child)
    import pyarrow.parquet  # noqa: F401

    moment, kills, done_early = 0, 0, 0
    while True:
        moment += 1
        folder = tmp_path / f"{moment}" / "run"
        folder.parent.mkdir()
        lived = killed_at(folder, moment, after)
        kills += not lived
        if folder.exists():
            done_early += whole(folder) and not lived
        assert killed_at(folder, 0, after), "the same run, started again after the kill, must be able to finish"
        assert whole(folder)
        if lived:
            break
    assert kills >= 15, f"only {kills} moments were tried"
    assert done_early >= 1, "a kill after the last rename leaves a record that is done, and it is whole"


def test_no_kill_costs_more_than_the_checkpoint_that_was_being_written(tmp_path):
    moment, lived, whole_ones = 0, False, []
    while not lived:
        moment += 1
        folder = tmp_path / f"{moment}"
        lived = killed_at(folder, moment, False, kept)
        found = Checkpoints(folder, "key", 0.0).load()
        whole_ones.append(0 if found is None else found["step"])
        assert found is None or found["weights"].tolist() == [float(found["step"])] * 3
        kept(folder)
        assert Checkpoints(folder, "key", 0.0).load()["step"] == 3
    assert moment > 20 and whole_ones == sorted(whole_ones) and set(whole_ones) == {0, 1, 2, 3}


def test_a_rerun_keeps_the_old_result_aside(tmp_path):
    folder = tmp_path / "run"
    life(folder)
    first = json.loads((folder / "record.json").read_text())
    life(folder)
    aside = [json.loads(path.read_text()) for path in (folder / "superseded").glob("*/record.json")]
    assert aside == [first]
    assert len(list((folder / "superseded").glob("*/predictions.test.parquet"))) == 1
