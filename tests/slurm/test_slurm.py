"""Embedded runs on a real Slurm: arrays that fill a table, every accident, two sweeps at once; the same bits each time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("slurm")]

ROOT = Path(__file__).parents[2]
SHORT = ["data.max_train_rows=96", "data.max_eval_rows=40", "progress=false", "results.checkpoint_seconds=1",
         "results.heartbeat_seconds=1"]  # fmt: skip
SLURM = ["hydra/launcher=slurm", "hydra.launcher.memory_gb=1.5"]
LONG = ["train.max_steps=250", "method=lora", "seed=0"]  # long enough to be hit in its midst


def start(env, root, *words, slurm=True, module="harness"):
    words = [*(["-m"] if module == "harness" else []), *words, *SHORT, f"results.root={root}"]
    command = [sys.executable, "-m", module, *words, *(SLURM if slurm else ["threads=1"])]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code=0):
    out, _ = process.communicate(timeout=400)
    assert process.returncode == code, out
    return out


def sciences(root):
    """Run id -> the scientific part, for every run of the store; all are DONE."""
    records = [json.loads(path.read_text()) for path in sorted(Path(root).glob("*/record.json"))]
    assert {one["state"] for one in records} == {"DONE"}, [(one["id"], one["state"], one["error"]) for one in records]
    return {one["id"]: one["science"] for one in records}


def until(condition, seconds=240):
    """Wait for something to become true, and return it."""
    for _ in range(int(seconds * 5)):
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def training(root):
    """The run's folder, once it has a checkpoint: it is in the midst of training."""
    found = until(lambda: list(Path(root).glob("*/checkpoints/step-*.json")))
    return found[0].parent.parent


def job_of(folder):
    return json.loads((folder / "owner.json").read_text())


def ask(env, *words):
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory):
    """The long run, made on this machine without Slurm."""
    root = tmp_path_factory.mktemp("undisturbed")
    finish(start(slurm, root, *LONG, slurm=False))
    return sciences(root)


def test_arrays_of_twelve_runs_finish_and_fill_a_table(slurm, tmp_path):
    words = ["method=head,bitfit,ia3", "seed=0,1,2,3", "train.max_steps=2"]
    first, second = start(slurm, tmp_path, *words), start(slurm, tmp_path, *words, "rerun=never")
    out = finish(first) + finish(second)  # two sweeps of one table at once: every run is made by one of them
    assert out.count("submitted ") >= 2  # chunks of at most six
    assert len(sciences(tmp_path)) == 12
    attempts = [
        json.loads(path.read_text())["provenance"].get("attempts", []) for path in tmp_path.glob("*/record.json")
    ]
    assert attempts == [[]] * 12, "a run began twice"
    table = subprocess.run([sys.executable, "-m", "harness.table", "--root", str(tmp_path), "--stale"], cwd=ROOT, env=slurm,
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert table.count("(4)") == 3
    again = finish(start(slurm, tmp_path, *words))
    assert "submitted" not in again and "12 of 12 runs are done" in again


@pytest.mark.parametrize("accident", ["scancel", "kill -9", "requeue", "time limit"])
def test_an_accident_in_mid_run_costs_no_bit(slurm, tmp_path, undisturbed, accident):
    sweep = start(slurm, tmp_path, *LONG)
    folder = training(tmp_path)
    owner = job_of(folder)
    job, goes_on = owner["job"], accident in ("requeue", "time limit")
    if accident == "kill -9":
        os.kill(owner["pid"], signal.SIGKILL)
    elif accident == "scancel":
        ask(slurm, "scancel", job)
    elif accident == "requeue":
        ask(slurm, "scontrol", "requeue", job)
    else:  # what Slurm sends before a limit; waiting for one would take minutes
        ask(slurm, "scancel", "--signal=USR2", job)
    if goes_on:
        until(lambda: "PENDING" in ask(slurm, "squeue", "-h", "-o", "%T"))
        ask(slurm, "scontrol", "update", f"jobid={job}", "starttime=now")
        finish(sweep)
    else:
        out = finish(sweep, code=1)
        assert "the same command goes on" in out
        finish(start(slurm, tmp_path, *LONG))
    assert sciences(tmp_path) == undisturbed
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")]
    assert record["provenance"]["resumed_at"] > 0
    assert record["provenance"]["attempts"][0]["state"] in ("PREEMPTED", "TIMEOUT", "RUNNING")


def test_a_real_limit_of_one_minute_costs_no_bit(slurm, tmp_path, undisturbed):
    """The run is held in mid-training until Slurm's warning has come, so it outlasts its minute on any machine."""
    sweep = start(slurm, tmp_path, *LONG, "hydra.launcher.time_minutes=1", "hydra.launcher.signal_seconds=20")
    owner = job_of(training(tmp_path))
    os.kill(owner["pid"], signal.SIGSTOP)
    assert ask(slurm, "squeue", "-h", "-o", "%T %l").split() == ["RUNNING", "1:00"]
    until(lambda: not held(owner["pid"]), seconds=90)
    with contextlib.suppress(ProcessLookupError):
        os.kill(owner["pid"], signal.SIGCONT)
    while sweep.poll() is None:  # it may be warned again; without this each requeue waits two minutes
        if "PENDING" in ask(slurm, "squeue", "-h", "-o", "%T"):
            ask(slurm, "scontrol", "update", f"jobid={owner['job']}", "starttime=now")
        time.sleep(0.2)
    finish(sweep)
    assert sciences(tmp_path) == undisturbed
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")]
    assert record["provenance"]["resumed_at"] > 0
    assert {one["state"] for one in record["provenance"]["attempts"]} == {"TIMEOUT"}


def held(pid):
    """Whether a stopped process is still held: no SIGUSR2 waits for it, and nobody let it go on."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return False
    return lines["State"].split()[0] == "T" and not int(lines["ShdPnd"], 16) >> (signal.SIGUSR2 - 1) & 1


def test_one_killed_job_hides_no_other(slurm, tmp_path):
    sweep = start(slurm, tmp_path, "method=bitfit", "seed=0,1,2", "train.max_steps=40")
    [folder, *_] = until(lambda: [path.parent for path in tmp_path.glob("*/record.json")])
    os.kill(job_of(folder)["pid"], signal.SIGKILL)
    out = finish(sweep, code=1)
    assert f"2 of 3 runs are done; not: {folder.name}" in out and "Traceback" not in out
    states = {path.parent.name: json.loads(path.read_text())["state"] for path in tmp_path.glob("*/record.json")}
    assert sorted(states[run] for run in states if run != folder.name) == ["DONE", "DONE"]
    said = ask(slurm, sys.executable, "-m", "harness.status", f"results.root={tmp_path}")
    assert f"lost        {folder.name}; its process is gone" in said
    finish(start(slurm, tmp_path, "method=bitfit", "seed=0,1,2", "train.max_steps=40"))
    assert len(sciences(tmp_path)) == 3


def test_submit_and_leave_then_status_and_cancel(slurm, tmp_path):
    leave = ["train.max_steps=250", "method=lora", "hydra.launcher.wait=false"]
    out = finish(start(slurm, tmp_path, *leave, "seed=0,1,2,3"))
    assert "not waiting" in out
    status = subprocess.run([sys.executable, "-m", "harness.status", "--root", str(tmp_path)], cwd=ROOT, env=slurm,
                            capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "4 runs: " in status and "queued" in status and "job " in status
    gone = [finish(start(slurm, tmp_path, *leave, "seed=0", flag, module="harness.fill")).count("cancelled job ")
            for flag in ("--cancel", "--cancel-running")]  # fmt: skip
    assert gone[0] >= 2 and sum(gone) == 3, "at most one of the three runs beside the first one"
    ask(slurm, "scancel", "--me")


def test_what_slurm_refuses_is_said_in_one_line(slurm, tmp_path):
    out = finish(start(slurm, tmp_path, "seed=0", "hydra.launcher.partition=nowhere"), code=2)
    assert "partition" in out and "Traceback" not in out
