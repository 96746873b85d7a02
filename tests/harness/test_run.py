"""The main job, on the embedded backbone: one run, the same again, killed, stale, failed, swept; as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("run")  # one worker makes the store, once

ROOT = Path(__file__).parents[2]
SHORT = ["train.max_steps=3", "data.max_train_rows=96", "data.max_eval_rows=40", "progress=false"]
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def harness(root: Path, *words: str, check: int = 0, module: str = "harness") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *words]
    command += [f"results.root={root}", *SHORT] if module == "harness" else ["--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENV, timeout=300)
    assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def records(root: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("*/record.json"))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one finished run, and what was printed."""
    root = tmp_path_factory.mktemp("store")
    return root, harness(root).stdout


def test_one_honest_line(store):
    root, printed = store
    [record] = records(root)
    lines = printed.strip().splitlines()
    assert len(lines) == 1
    for part in (
        "lora on demo/entailment",
        "demo_deberta",
        "seed 0",
        "accuracy",
        "test (40 rows)",
        "adapter",
        " s; ",
        str(root),
    ):
        assert part in lines[0]
    assert f"{record['science']['main']['score']:.2f}" in lines[0]
    assert "subset: train cut to its first 96" in lines[0]
    assert record["state"] == "DONE"
    assert len(record["science"]["losses"]) == 3
    assert record["science"]["curve"][-1]["right"].startswith("40:"), "a bit for each row that selects"


def test_the_same_command_again_is_instant_and_says_the_same(store):
    root, printed = store
    began = time.monotonic()
    again = harness(root).stdout
    assert time.monotonic() - began < 10
    assert "already done" in again.splitlines()[0]
    assert again.splitlines()[1:] == printed.splitlines()


def test_nothing_heavy_is_imported_for_a_run_that_is_done(store):
    root, _ = store
    words = ["harness", f"results.root={root}", *SHORT]
    probe = (
        f"import sys\nsys.argv = {words!r}\nfrom harness.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('HEAVY', sorted({'torch', 'peft', 'transformers', 'evaluate', 'wandb', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, env=ENV)
    assert done.stdout.strip().endswith("HEAVY []"), done.stdout + done.stderr


def test_the_scientific_part_is_bit_identical(store, tmp_path):
    root, _ = store
    harness(tmp_path)
    [first], [second] = records(root), records(tmp_path)
    assert first["science"] == second["science"]
    assert first["id"] == second["id"]
    assert first["cost"] != second["cost"], "seconds stand apart, and are measured"


def test_no_text_of_the_task_and_no_home_in_a_record(store):
    root, _ = store
    [folder] = [path.parent for path in root.glob("*/record.json")]
    text = (ROOT / "harness/embedded/tasks/entailment/test.tsv").read_text().splitlines()[1].split("\t")[1]
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert text.encode() not in everything
    assert os.uname().nodename.encode() not in (folder / "record.json").read_bytes()


def test_a_stale_record_is_shown_as_such_and_made_again_on_request(store, tmp_path):
    root, _ = store
    [folder] = [path.parent for path in root.glob("*/record.json")]
    record = json.loads((folder / "record.json").read_text())
    record["code"]["modules"]["harness.train"] = "0" * 16
    copy = tmp_path / folder.name
    copy.mkdir()
    (copy / "record.json").write_text(json.dumps(record))
    shown = harness(tmp_path).stdout
    assert "STALE: made by other harness.train" in shown
    harness(tmp_path, "rerun=stale")
    [fresh] = records(tmp_path)
    assert fresh["code"]["modules"]["harness.train"] != "0" * 16
    assert len(list(copy.glob("superseded/*/record.json"))) == 1, "the old result is kept aside"


def interrupted(root: Path, step: int, number: signal.Signals) -> int:
    """A run that gets a signal when it has written its checkpoint of an update; its exit code."""
    words = ["harness", f"results.root={root}", "results.checkpoint_seconds=0", *SHORT]
    program = (
        "import os, sys\nfrom harness.checkpoint import Checkpoints\nsave = Checkpoints.save\n"
        "def deadly(self, state, **more):\n    save(self, state, **more)\n"
        f"    state['step'] == {step} and os.kill(os.getpid(), {int(number)})\n"
        f"Checkpoints.save = deadly\nsys.argv = {words!r}\nfrom harness.__main__ import main\nmain()"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=ENV, capture_output=True).returncode


def test_a_run_that_was_stopped_and_killed_goes_on_to_the_same_result(store, tmp_path):
    assert interrupted(tmp_path, 1, signal.SIGTERM) == 128 + signal.SIGTERM
    [record] = records(tmp_path)
    assert record["state"] == "PREEMPTED"
    assert record["error"].startswith("stopped by SIGTERM after update 2 of 3")
    assert interrupted(tmp_path, 3, signal.SIGKILL) == -signal.SIGKILL
    [record] = records(tmp_path)
    assert record["state"] == "RUNNING"
    assert [attempt["state"] for attempt in record["provenance"]["attempts"]] == ["PREEMPTED"]
    done = harness(tmp_path)
    assert "resumed at step 3" in done.stdout
    [record], [expected] = records(tmp_path), records(store[0])
    assert record["science"] == expected["science"]
    assert (record["id"], record["provenance"]["resumed_at"]) == (expected["id"], 3)
    assert [attempt["state"] for attempt in record["provenance"]["attempts"]] == ["PREEMPTED", "RUNNING"]
    [folder] = tmp_path.iterdir()
    assert not (folder / "checkpoints").exists() and not (folder / "superseded").exists()


def test_a_failure_is_in_the_store_with_its_reason(tmp_path):
    harness(tmp_path, "train.learning_rate=1e6", "train.clip_norm=null", "method=full", "train.warmup_ratio=0", check=1)
    [record] = records(tmp_path)
    assert record["state"] == "DIVERGED"
    assert "diverged" in record["error"]
    table = harness(tmp_path, module="harness.table").stdout
    assert "DIVERGED" in table


def test_a_sweep_runs_what_is_missing_and_fills_the_table(store, tmp_path):
    first = harness(tmp_path, "-m", "method=head,bitfit", "seed=0,1")
    assert "4 of 4 runs are done" in first.stdout
    again = harness(tmp_path, "-m", "method=head,bitfit,lora", "seed=0,1")
    assert again.stdout.count("already done") == 4
    assert "6 of 6 runs are done" in again.stdout
    table = harness(tmp_path, module="harness.table").stdout
    assert all(name in table for name in ("head", "bitfit", "lora"))
    assert "(2)" in table
    root, _ = store
    swept = next(
        r for r in records(tmp_path) if r["identity"]["method"]["name"] == "lora" and r["identity"]["seed"] == 0
    )
    assert swept["science"] == records(root)[0]["science"], "swept or alone, the same numbers"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model.path=/no/such/dir"], "/no/such/dir is no directory"),
        (["data.root=/no/such/dir"], "/no/such/dir"),
        (["method.rank=4", "method=lora"], "unknown key 'method.rank'"),
        (["+method.lora_alfa=4"], "Did you mean method.lora_alpha"),
        (["method._target_=os.system"], "is not allowed"),
        (["budget.max_adapter_params=10"], "above budget.max_adapter_params=10"),
        (["device=cuda"], "no NVIDIA GPU answers"),
        (["method.target_modules=nothing_like_this"], "does not fit this backbone"),
        (["results.root=/proc/nowhere"], "results"),
    ],
)
def test_bad_input_ends_in_one_message(tmp_path, words, says):
    if words == ["device=cuda"]:
        from harness.device import gpus

        if gpus():
            pytest.skip("this machine has a GPU, so device=cuda is no mistake here")
    done = subprocess.run(
        [sys.executable, "-m", "harness", f"results.root={tmp_path}", *SHORT, *words],
        capture_output=True, text=True, cwd=ROOT, env=ENV, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not [record for record in records(tmp_path) if record["state"] == "DONE"]
