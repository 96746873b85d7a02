"""How long a table over a large store takes: cold (no index), warm, and beside it a plain pandas read of the files.

    python scripts/bench_table.py [--records 100000] [--root DIR]

Makes the store first (synthetic records of the size of real ones: some 300 losses each), unless DIR holds it already.
Every measurement is a process of its own: seconds from its start, processor seconds of it and its helpers (what to read
on a busy machine: two processors share them in a cold run), and the largest resident set of one process. Targets on two
idle cores: 10 s cold, 2 s warm, 1 GB.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.record import Record

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
SEEDS, METHODS = 10, 50
PANDAS = """
import pathlib, sys
import pandas as pd, json
records = [json.loads(path.read_bytes()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*/record.json"))]
frame = pd.json_normalize([{"id": r["id"], "method": r["identity"]["method"]["name"],
    "task": r["identity"]["task"]["name"], "rate": r["identity"]["train"]["learning_rate"],
    "score": r["science"]["main"]["score"]} for r in records if r["state"] == "DONE"])
print(frame.groupby(["method", "rate", "task"]).score.agg(["mean", "std", "count"]).unstack("task").to_string()[:200])
"""


def build(root: Path, count: int) -> None:
    """A store of `count` records: learning rates x methods x tasks x seeds."""
    from harness import provenance, record

    noise = random.Random(0)
    code = provenance.code({"_target_": "peft.LoraConfig"})
    for group in range(-(-count // SEEDS)):
        one = example(group, noise, code)
        text = record.atomic.to_json(record.asdict(one)).decode()
        for seed in range(min(SEEDS, count - group * SEEDS)):
            name, score = one.id.replace(".s0.", f".s{seed}."), one.science["main"]["score"] + noise.gauss(0, 0.5)
            folder = root / name
            folder.mkdir(parents=True)
            mine = text.replace(one.id, name).replace('"seed": 0', f'"seed": {seed}')
            (folder / "record.json").write_text(mine.replace(repr(one.science["main"]["score"]), repr(score)))


def example(group: int, noise: random.Random, code: dict[str, Any]) -> Record:
    """The record of seed 0 of a configuration."""
    from harness import identity
    from harness.record import DONE, Record

    configuration, task = divmod(group, len(TASKS))
    rate, method = divmod(configuration, METHODS)
    run = {
        "seed": 0, "model": {"name": "deberta_v3_base", "family": "deberta", "init": "pretrained"},
        "task": {"name": f"glue/{TASKS[task]}", "kind": "classification", "score": "accuracy", "reports": "validation"},
        "method": {"name": f"m{method}", "_target_": "peft.LoraConfig", "target_modules": "x" * 120},
        "budget": {"name": "default", "max_adapter_params": None}, "data": {"max_train_rows": None},
        "train": {"learning_rate": (1 + rate) * 1e-4, "epochs": 3.0, "select": "last"},
        "content": {"data": identity.digest(task), "weights": "0" * 64, "device": "cuda"},
    }  # fmt: skip
    score = 80 + method / 10 + noise.random()
    science = {
        "main": {"split": "validation", "metric": "accuracy", "score": score},
        "scores": {"validation": {"accuracy": score, "f1": score + 1}},
        "params": {"adapter": 1000 * method, "head": 770, "active": 1000 * method, "total": 184_000_000},
        "predictions": {"validation": {"file": "p.parquet", "rows": 1000, "sha256": "0" * 64}},
        "losses": [noise.random() for _ in range(280)], "curve": [{"step": step, "accuracy": 1.5} for step in range(5)],
    }  # fmt: skip
    cost = {"train_seconds": 100.0, "examples": 1000, "peak_bytes": 10**9, "stored_bytes": 4000}
    made = {"commit": "0" * 40, "device": "H200", "begun": "2026-01-01"}
    told = ["recipe fallback: no published hyper-parameters"]
    return Record(identity.run_id(run), DONE, run, run | {"more": ["x" * 80] * 30}, {}, science, cost, code, made, told)


def measure(name: str, words: list[str]) -> None:
    """Run a command and print its seconds and its largest memory."""
    probe = (
        "import resource, subprocess, sys, time; t = time.perf_counter(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "r = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(time.perf_counter() - t, r.ru_utime + r.ru_stime, r.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", probe, *words], check=True, capture_output=True, text=True, cwd=ROOT)
    seconds, busy, memory = map(float, done.stdout.split())
    print(f"{name:<28} {seconds:6.2f} s {busy:6.2f} s of a processor {memory:7.0f} MiB", flush=True)


def main() -> None:
    """Build the store, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or Path(temporary)
        if not any(root.glob("*/record.json")):
            began = time.perf_counter()
            build(root, options.records)
            print(f"made {options.records:,} records in {time.perf_counter() - began:.0f} s", flush=True)
        size = sum(path.stat().st_size for path in list(root.glob("*/record.json"))[:100]) / 100
        print(json.dumps({"bytes a record": round(size)}))
        table = [sys.executable, "-m", "harness.table", "--root", str(root), "--stale"]
        (root / ".index.json").unlink(missing_ok=True)
        measure("table, cold (no index)", table)
        measure("table, warm", table)
        measure("table, warm, CSV", [*table, "--format", "csv"])
        measure("published table, warm", [*table, "table=adalora_glue"])
        measure("pandas over the JSON files", [sys.executable, "-c", PANDAS, str(root)])


if __name__ == "__main__":
    main()
