"""The mirror: what it writes, that a real offline W&B run says the same, that nothing of this machine is in it."""

import getpass
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness import mirror, status
from harness.config import WandbConfig
from harness.state import Survey

ROOT = Path(__file__).parents[2]
IDENTITY = {part: {"name": f"a-{part}"} for part in ("task", "model", "method", "budget")} | {"seed": 3}


def settings(mode="offline", trackers=()):
    return WandbConfig(mode, "peft-harness", None, None, ["a-table"], list(trackers))


def of(folder, **more):
    return mirror.Mirror(folder, "a.run.s3.0123", IDENTITY, settings(**more), None)


def records(path):
    """What a .wandb file holds: a LevelDB log of protocol buffers in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = Path(path).read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            return
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(path):
    rows = [one.history for one in records(path) if one.WhichOneof("record_type") == "history"]
    return [{".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in rows]


def test_a_requeued_run_goes_on_under_its_id_and_nothing_of_this_machine_is_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 120)
    root = tmp_path / "runs"
    (folder := root / "a.run").mkdir(parents=True)
    secret = "0123456789" * 4
    monkeypatch.setenv("WANDB_API_KEY", secret)
    losses = [0.9, 0.8, 0.7]
    with pytest.raises(SystemExit), of(folder) as first:  # stopped after two updates
        first.tell(3, losses[:2], [])
        raise SystemExit(143)
    with of(folder) as second:
        curve = [{"step": 3, "loss": 0.8, "accuracy": 90.0, "trace": {"ranks": [1, 2, 3], "name": "x"}}]
        second.tell(3, losses, curve)
        second.finish("DONE", {"scores": {"test": {"accuracy": 91.0}}, "cost": {"seconds": 1.5}})
    folders = mirror.offline(root)
    # offline-run-DATE-ID; W&B adds -1 to the second one of a second
    assert len(folders) == 2 and len({one.name.split("-")[3] for one in folders}) == 1
    last = next(folders[-1].glob("*.wandb"))
    rows = history(last)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == losses
    assert any(row.get("accuracy") == 90.0 and "trace/ranks" in {key.split(".")[0] for key in row} for row in rows)
    run = next(one.run for one in records(last) if one.WhichOneof("record_type") == "run")
    assert (run.run_group, run.display_name) == ("a-task.a-model.a-method.a-budget", "a.run.s3.0123")
    assert set(run.tags) == {"a-task", "a-model", "a-method", "a-budget", "a-table"}
    summary = {".".join(i.nested_key) or i.key: i.value_json for one in records(last)
               if one.WhichOneof("record_type") == "summary" for i in one.summary.update}  # fmt: skip
    assert json.loads(summary["scores/test/accuracy"]) == 91.0
    sent = b"".join(path.read_bytes() for one in folders for path in one.glob("*.wandb"))
    for private in (secret, os.path.expanduser("~"), str(ROOT), socket.gethostname() + ".", f"@{getpass.getuser()}"):
        assert private.encode() not in sent, private
    assert "wandb sync" in status.show(root, {}, Survey(root), False)


def test_a_mirror_that_cannot_start_or_write_costs_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with of(tmp_path) as dead:
        dead.tell(2, [1.0, 0.5], [])
        dead.finish("DONE", {})
    assert capsys.readouterr().err.count("warning") == 1


def test_a_mirror_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 0.2)
    hang = tmp_path / "hang"
    hang.write_text("#!/bin/sh\nexec sleep 20\n")
    hang.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hang))
    one = of(tmp_path)
    one.tell(100_000, [0.5] * 100_000, [])  # a service that takes nothing: the file alone grows, and is bounded
    one.finish("DONE", {})
    one._process.kill()
    one._process.wait()
    assert sum(1 for _ in (tmp_path / mirror.FILE).open()) <= mirror.MOST_LOSSES + 2


def test_no_secret_and_no_path_of_this_machine_reaches_a_tracker(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SOME_TOKEN", "planted-secret")
    monkeypatch.setattr(sys, "executable", "true")
    one = mirror.Mirror(
        tmp_path, "a.run.s3.0123", IDENTITY | {"note": "planted-secret in /home/somebody/x"}, settings(), None
    )
    one.tell(1, [0.5], [{"step": 1, "planted-secret": 1.0}])
    one.finish("DONE", {"planted-secret": 1.0})
    assert (tmp_path / mirror.FILE).read_text().count("[removed]") == 3
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "planted-secret" not in kept and "somebody" not in kept

    mirror.in_one_line(ConnectionError, ConnectionError("planted-secret is refused\nby /home/somebody/x"), None)
    assert capsys.readouterr().err == "error: not mirrored: ConnectionError: [removed] is refused\n"


def test_the_log_of_a_follower_that_fails_has_one_line(tmp_path):
    (tmp_path / mirror.FILE).write_text('{"head": {"mode": "disabled", "trackers": ["nowhere"]}}\n')
    done = subprocess.run(
        [sys.executable, "-m", "harness.mirror", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere is not told"), done.stderr
    assert done.stderr.count("\n") == 1


def test_who_is_told_without_being_asked(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    auto = settings("auto")
    assert mirror.mode(auto, None) == "offline"
    assert mirror.mode(auto, "embedded:backbones/deberta") == "disabled"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert mirror.mode(auto, "/a/directory") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mirror.mode(auto, None) == "disabled"
    assert mirror.mode(settings("offline"), "embedded:x") == "offline"


@pytest.mark.slow
def test_tensorboard_through_accelerate(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 120)
    with of(tmp_path, mode="disabled", trackers=["tensorboard"]) as one:
        one.tell(1, [0.5], [])
        one.finish("DONE", {"cost": {"seconds": 1.0}})
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*")), (tmp_path / mirror.LOG).read_text()


def test_the_follower_ends_with_its_run(tmp_path):
    (tmp_path / mirror.FILE).write_text('{"head": {}}\n{"step": 1, "row": {}}\n')
    script = "import sys; from pathlib import Path; from harness import mirror\n"
    script += "print(len(list(mirror.follow(Path(sys.argv[1]), 1))))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / mirror.FILE)], capture_output=True, text=True,
                          cwd=ROOT, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "2", done.stderr


def told_of(folder, monkeypatch, **more):
    """The reasons that a mirror of one row gives, and what the run prints."""
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 120)
    with of(folder, **more) as one:
        one.tell(1, [0.5], [])
        one.finish("DONE", {"cost": {"seconds": 1.0}})
    return mirror.reasons(folder)


def test_a_tracker_that_fails_costs_one_warning_and_no_other_its_rows(tmp_path, monkeypatch, capsys):
    (folder := tmp_path / "a.run").mkdir()
    [reason] = told_of(folder, monkeypatch, trackers=["comet_ml"])  # a package that is not here
    assert reason.startswith("comet_ml is not told of this run: ModuleNotFoundError")
    [kept] = mirror.offline(tmp_path)
    assert any("train/loss" in row for row in history(next(kept.glob("*.wandb"))))
    assert capsys.readouterr().err.count("warning: a.run: comet_ml") == 1
    assert "1 runs were not mirrored as asked; a.run: comet_ml" in status.show(tmp_path, {}, Survey(tmp_path), False)
    next(kept.glob("*.wandb")).with_suffix(".wandb.synced").touch()  # as `wandb sync` leaves it
    assert mirror.offline(tmp_path) == [] and "wandb sync" not in status.show(tmp_path, {}, Survey(tmp_path), False)


@pytest.mark.parametrize("key", [None, "0123456789" * 4])
def test_online_without_a_key_or_a_network_ends_offline(tmp_path, monkeypatch, key):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_API_KEY", key) if key else monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (folder := tmp_path / "a.run").mkdir()
    [reason] = told_of(folder, monkeypatch, mode="online")
    assert "offline, to be sent with wandb sync" in reason
    [kept] = mirror.offline(tmp_path)
    assert any("train/loss" in row for row in history(next(kept.glob("*.wandb"))))


def test_where_a_key_is_looked_for(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine wandb.example.org:8080\n  login user\n  password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert not mirror.has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/path")
    assert mirror.has_key()
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org:8080\n")
    assert mirror.has_key()
    (tmp_path / "netrc").write_text("nonsense")
    assert not mirror.has_key()
