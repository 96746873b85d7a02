"""How long planning takes: 10,000 runs over 200 cells, most of them done. `python scripts/bench_plan.py [DIR]`.

Makes a store of records (copies of one real record under the ids that planning finds), plans it from nothing and then
again, and prints wall-clock and processor seconds of each. Nothing is trained.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("lora", "adalora", "bitfit", "houlsby", "pfeiffer", "head", "full", "ia3", "increlora", "prefix")
BUDGET_RATES = tuple(f"{n}e-4" for n in range(1, 21))  # 20 learning rates x 10 methods = 200 cells
SEEDS = 50
DONE_OF_TEN = 9


def plan(root: Path, cache: Path) -> tuple[float, float, str]:
    """Plan once in a process of its own: wall-clock seconds, processor seconds, last lines."""
    words = [f"method={','.join(METHODS)}", f"train.learning_rate={','.join(BUDGET_RATES)}"]
    words += [f"seed={','.join(map(str, range(SEEDS)))}", f"results.root={root}", "--dry-run"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "harness.fill", *words], capture_output=True, text=True,
                          env=os.environ | {"HARNESS_CACHE": str(cache)})  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used, " | ".join(done.stdout.splitlines()[-2:])


def records(root: Path) -> None:
    """Nine of ten runs of the same sweep as DONE, each with the identity and configuration that it would have."""
    script = f"""
import json, sys
from dataclasses import asdict
from pathlib import Path
from harness import launch, sweep
from harness.sweep import Request
def keep(found):
    for number, (run, (one, _)) in enumerate(found.items()):
        if number % 10 < {DONE_OF_TEN}:
            folder = Path({str(root)!r}) / run
            folder.mkdir(parents=True)
            config = asdict(one.config)
            science = {{"main": {{"split": "test", "metric": "accuracy", "score": 90.0}}, "params": {{}},
                        "predictions": {{}}, "scores": {{}}, "losses": [0.1] * 200}}
            content = {{"id": run, "state": "DONE", "identity": config | {{"content": {{}}}}, "config": config,
                        "recipe": {{}}, "science": science, "code": {{}}, "provenance": {{}}, "remarks": [], "error": "",
                        "cost": {{"seconds": 1.0, "train_seconds": 0.5, "examples": 100}}, "schema": 1}}
            (folder / "record.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\\n")
sweep.request = Request(instead=keep)
launch.hydra_main(sys.argv[1:])
"""
    words = [f"method={','.join(METHODS)}", f"train.learning_rate={','.join(BUDGET_RATES)}"]
    words += [f"seed={','.join(map(str, range(SEEDS)))}", f"results.root={root}"]
    subprocess.run([sys.executable, "-c", script, *words], check=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="plan-"))
    store = folder / "runs"
    if not store.exists():
        records(store)
    (store / ".index.json").unlink(missing_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder))
    for name in ("cold", "warm", "warm"):
        wall, used, said = plan(store, fresh)
        print(json.dumps({"plan": name, "seconds": round(wall, 2), "processor_seconds": round(used, 2), "said": said}))
