"""Peak bytes of real training steps beside what `harness.estimate` says, on a CPU; a method a line.

    python scripts/check_estimate.py
    python scripts/check_estimate.py --words model=roberta_base model.shape.num_hidden_layers=4 --methods lora full

Every line is a process of its own: the peak of its resident memory over three updates on rows of the longest length,
less what it held before the backbone was made. glibc gives every tensor's memory back at once here
(`MALLOC_MMAP_THRESHOLD_`), or its heap's gaps would be measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = ["model=deberta_v3_base", "model.shape.num_hidden_layers=4", "model.shape.vocab_size=30000", "task=glue/mrpc",
         "data.max_length_tokens=128", "train.batch_size=16", "device=cpu"]  # fmt: skip
METHODS = ["lora", "bitfit", "head", "full", "qlora", "lora train.gradient_checkpointing=true"]


def resident(peak: bool) -> int:
    """This process's resident bytes, now or at most since the last reset."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def measure(words: list[str]) -> int:
    """Peak bytes of three updates, backbone included."""
    from short_run import build, trained

    from harness import compose

    config = compose.composed([*words, "model.init=random"])
    Path("/proc/self/clear_refs").write_text("5")
    before = resident(peak=False)
    net = build(config)
    Path("/proc/self/clear_refs").write_text("5")  # making random weights, or quantising them, is not training
    trained(config, net, config.data.max_length_tokens, steps=3)
    return resident(peak=True) - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", nargs="+", default=WORDS, help="of python -m harness; the backbone needs a shape")
    parser.add_argument("--methods", nargs="+", default=METHODS, help='methods, with more words: "lora method.r=64"')
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        words = json.loads(options.one)
        from harness import compose, estimate

        found = measure(words)
        print(json.dumps([found, vars(estimate.estimate(compose.composed([*words, "train.select=last"])))]))
        return
    print(
        f"{'MB':42}{'weights':>9}{'grad.':>8}{'moments':>9}{'activ.':>9}{'predicted':>11}{'measured':>10}{'ratio':>7}"
    )
    for name in options.methods:
        words = [*options.words, *f"method={name}".split()]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run([sys.executable, __file__, "--one", json.dumps(words)], env=environment,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            print(f"{name:42}failed: {done.stderr.strip().splitlines()[-1]}")
            continue
        measured, said = json.loads(done.stdout.splitlines()[-1])
        parts = [said[part] / 1e6 for part in ("weights", "gradients", "optimizer", "activations")]
        print(f"{name:42}{parts[0]:9.0f}{parts[1]:8.1f}{parts[2]:9.1f}{parts[3]:9.0f}{said['peak'] / 1e6:11.0f}"
              f"{measured / 1e6:10.0f}{said['peak'] / measured:7.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
