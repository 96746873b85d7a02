"""What a checkpoint costs, in bytes and seconds, and what a kill costs a run.

    python scripts/bench_checkpoints.py sizes                       # LoRA and full fine-tuning, demo and DeBERTaV3-base
    python scripts/bench_checkpoints.py kills --kills 5 --every 2   # three epochs of the demo, killed at random

Sizes: random weights of the true shapes, AdamW after one update; the least of three writes (to the folder of
temporary files) and of three reads. Kills: processor seconds of the killed process and of the one that goes on, minus
those of a run that nobody disturbed; at most the interval and a start should be lost.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]


def trained(backbone: str, method: str) -> tuple[Any, dict[str, Any]]:
    """A tuned model with random weights, and its state after one update as the loop would store it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from harness import checkpoint, compose, directory, model, optimizer
    from harness.monitor import living
    from methods import hooks

    config = compose.composed([f"model={backbone}", f"method={method}", "model.init=random"])
    spec = config.model
    at = AutoConfig.for_model(**spec.shape) if spec.shape else AutoConfig.from_pretrained(directory.locate(spec))
    network = AutoModelForSequenceClassification.from_config(at)
    tuned = model.attach(network, model.method_config(config.method, spec, "classification", network), seed=0)
    adamw = optimizer.build(tuned, hooks.find(tuned), config.train, 1e-3)
    for parameter in optimizer.trained(adamw, tuned):
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    tensors, moments = living(tuned), optimizer.state(adamw, tuned)
    return tuned, {"step": 1, "model": checkpoint.model_state(tuned, tensors), "optimizer": moments}


def least(work: Callable[[], Any], times: int = 3) -> float:
    """The least seconds of some tries."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def sizes() -> None:
    """A line for each backbone and method."""
    from harness.checkpoint import Checkpoints

    print("| backbone | method | trained parameters | checkpoint | write | read |\n|---|---|---|---|---|---|")
    for backbone in ("demo_deberta", "deberta_v3_base"):
        for method in ("lora", "full"):
            tuned, state = trained(backbone, method)
            number = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
            with tempfile.TemporaryDirectory() as folder:
                store = Checkpoints(Path(folder), "bench", 0.0)
                write, read = least(lambda: store.save(state)), least(store.load)  # noqa: B023 - called at once
                size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(f"| {backbone} | {method} | {number:,} | {size / 1e6:,.1f} MB | {write:.3f} s | {read:.3f} s |")


def used(pid: int) -> float:
    """Processor seconds of a process so far; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process(root: str, every: float, seconds: float | None) -> tuple[float, bool]:
    """One process of the demo's run, killed after so many processor seconds; how many it took, and whether it was killed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "harness", f"results.root={root}", f"results.checkpoint_seconds={every}"]
    started = subprocess.Popen(
        [*command, "progress=false", "train.epochs=3"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while started.poll() is None:
        time.sleep(0.02)
        if seconds is not None and used(started.pid) > seconds:
            started.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, started.returncode != 0


def kills(number: int, every: float) -> None:
    """What random kills cost."""
    generator, lost = random.Random(0), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = process(f"{folder}/whole", every, None)
        while len(lost) < number:
            root = f"{folder}/{len(lost)}.{generator.random()}"
            first, killed = process(root, every, generator.uniform(0.4, 0.9) * whole)
            if killed:
                second, _ = process(root, every, None)
                lost.append(first + second - whole)
                print(f"killed after {first:.1f} s of {whole:.1f} s: {lost[-1]:.1f} s lost", flush=True)
    print(
        f"interval {every:g} s: lost {statistics.mean(lost):.1f} s on average, {max(lost):.1f} s at most, n = {number}"
    )


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "kills"))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=2.0)
    options = parser.parse_args()
    sizes() if options.what == "sizes" else kills(options.kills, options.every)


if __name__ == "__main__":
    main()
