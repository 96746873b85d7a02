"""Training throughput beside the peers, in one run: seconds a step of every side, ratios, and how far the floor is.

    python scripts/bench_training.py                                      # four backbones x four GLUE tasks, CPU: long
    python scripts/bench_training.py --models deberta_v3_base --tasks rte mrpc --layers 4
    python scripts/bench_training.py --small                              # seconds: that it runs, not how fast
    python scripts/bench_training.py --device cuda --batches 20 --every 10     # bfloat16 on every side

The sides are those of `scripts/peers.py`: ours; (a) transformers.Trainer + peft with dynamic padding; (b) the same,
grouped by length; (c) padded to the authors' maximum length; (d) full fine-tuning. They take turns, step by step.
Backbones have random weights (speed does not depend on them), lengths are the real ones (`token_lengths.py`), ids random;
BART and T5 do the tasks as text to text. `--layers` cuts backbones to fewer layers, which says less of a whole one's
head and embeddings. On a busy machine the processor's seconds are the ones to read.

The floor: FLOPs of our step by counting operations without data, padding included, and over this machine's best rate for
the backbone's own feed-forward product in the same dtype (utilisation). Bytes: what autograd keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peers import SIDES, TARGET_TOKENS, Contest, network, padded_tokens, program, sampled
from token_lengths import TASKS, measured, stored
from transformers.utils import logging
from turns import Side, alternate

from harness import compose
from harness.config import RunConfig
from harness.work import work

MODELS = ("deberta_v3_base", "roberta_base", "bart_large", "t5_base")
SMALL = {
    "deberta_v3_base": "demo_deberta",
    "roberta_base": "demo_roberta",
    "bart_large": "demo_bart",
    "t5_base": "demo_t5",
}
LAYERS = {"bart": ("encoder_layers", "decoder_layers"), "t5": ("num_layers", "num_decoder_layers")}


def configuration(options: argparse.Namespace, name: str, task: str) -> RunConfig:
    """The run that a user would ask for, with the peers' settings where Trainer and ours differ by default."""
    family = name.split("_")[0]
    suite = "glue_text" if family in LAYERS else "glue"
    words = [
        f"model={SMALL[name] if options.small else name}", "model.init=random", f"task={suite}/{task}",
        f"method={options.method}", f"device={options.device}", f"train.batch_size={options.batch}",
        "train.learning_rate=1e-4", "train.weight_decay=0", "train.clip_norm=1", "train.accumulation_steps=1",
        "data.buckets=true",  # the papers' recipes leave it out, as their authors did
        f"train.precision={'bfloat16' if options.device == 'cuda' else 'float32'}", *options.override,
    ]  # fmt: skip
    if options.layers:
        words += [f"model.shape.{key}={options.layers}" for key in LAYERS.get(family, ("num_hidden_layers",))]
    return compose.composed(words)


def contest(options: argparse.Namespace, name: str, task: str) -> Contest:
    """One backbone on one task's lengths."""
    authors = compose.composed(["method=adalora", "model=deberta_v3_base", f"task=glue/{task}"]).data.max_length_tokens
    found = measured(task, options.data, options.tokenizer) if options.data else stored(task, options.rows)
    lengths = found[: options.rows].clip(max=authors)
    return Contest(
        configuration(options, name, task), lengths, authors, options.batches, options.repeats, options.every
    )


def compare(one: Contest, sides: list[str]) -> dict[str, dict[str, Any]]:
    """Seconds a step of every side by both clocks, and how many times ours they are: the median, and pass by pass."""
    running = {side: Side(program(one, side)) for side in sides}
    alternate(running)
    report: dict[str, dict[str, Any]] = {}
    for name, side in running.items():
        report[name] = {"tokens": padded_tokens(one, name)}
        for clock in ("wall", "processor"):
            passes = [_pass(getattr(side, clock), one, number) for number in range(one.repeats)]
            ours = [_pass(getattr(running["ours"], clock), one, number) for number in range(one.repeats)]
            report[name][clock] = statistics.median(passes)
            ratios = [a / b for a, b in zip(passes, ours, strict=True)]
            report[name][f"{clock}_ratio"], report[name][f"{clock}_ratios"] = statistics.median(ratios), ratios
    return report


def _pass(seconds: list[float], one: Contest, number: int) -> float:
    """Mean seconds a step of one pass over the chosen batches; a side whose steps all cost the same makes fewer."""
    if len(seconds) < one.batches * one.repeats:
        return statistics.fmean(seconds) / one.every
    return statistics.fmean(seconds[number * one.batches : (number + 1) * one.batches]) / one.every


def floor(one: Contest, rate: float) -> dict[str, float]:
    """FLOPs and kept bytes of our step, mean over the chosen batches, and the seconds that the FLOPs need at `rate`."""
    half = one.config.train.precision == "bfloat16"
    with torch.device("meta"):
        net = network(one, "ours")
    chosen = sampled(one, "ours")[one.every :: one.every][: one.batches]
    found = [
        work(net, one.config.task.kind, len(rows), int(one.lengths[rows].max()), TARGET_TOKENS, half=half)
        for rows in chosen
    ]
    flops = statistics.fmean(one_step.flops for one_step in found)
    return {
        "flops": flops,
        "bytes": statistics.fmean(one_step.activation_bytes for one_step in found),
        "seconds": flops / rate,
    }


def gemm_rate(one: Contest) -> float:
    """FLOPs a second of the backbone's first feed-forward product, best of seven, at the mean number of tokens."""
    with torch.device("meta"):
        shape = vars(network(one, "d").config)
    wide = int(shape.get("hidden_size") or shape["d_model"])
    inner = int(shape.get("intermediate_size") or shape.get("encoder_ffn_dim") or shape["d_ff"])
    device = one.config.device
    dtype = torch.bfloat16 if one.config.train.precision == "bfloat16" else torch.float32
    tokens = int(padded_tokens(one, "ours"))
    left, right = (
        torch.randn(tokens, wide, device=device, dtype=dtype),
        torch.randn(wide, inner, device=device, dtype=dtype),
    )
    best, many = float("inf"), 1 if device == "cpu" else 50  # one product on a GPU takes less than waiting for it
    for _ in range(7):
        started = time.process_time() if device == "cpu" else time.perf_counter()
        for _ in range(many):
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.process_time() if device == "cpu" else time.perf_counter()) - started)
    return 2.0 * many * tokens * wide * inner / best


def show(name: str, task: str, options: argparse.Namespace, row: dict[str, Any]) -> None:
    """One comparison as text."""
    layers = f", {options.layers} layers" if options.layers else ""
    print(f"\n{name}{layers}, {task}, {options.method}, batch {options.batch}, {options.device}, "
          f"{torch.get_num_threads()} threads, {options.batches} batches x {options.repeats}")  # fmt: skip
    print(f"{'':6}{'tokens a step':>14}{'wall s/step':>13}{'x ours':>8}{'processor':>11}{'x ours':>8}")
    for side, found in row["sides"].items():
        print(f"{side:6}{found['tokens']:14,.0f}{found['wall']:13.4f}{found['wall_ratio']:8.2f}"
              f"{found['processor']:11.4f}{found['processor_ratio']:8.2f}")  # fmt: skip
    low = row["floor"]
    took = row["sides"]["ours"]["processor" if options.device == "cpu" else "wall"]
    print(f"floor  {low['flops'] / 1e9:.1f} GFLOP a step at {row['rate'] / 1e9:.0f} GFLOP/s: {low['seconds']:.4f} s; "
          f"utilisation {100 * low['seconds'] / took:.0f} %; activations {low['bytes'] / 1e6:.0f} MB", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    for key, value in {"batch": 32, "batches": 4, "repeats": 2, "every": 1, "rows": 10**6}.items():
        parser.add_argument(f"--{key}", type=int, default=value)
    parser.add_argument("--layers", type=int, help="cut the backbone to this many layers (of encoder and decoder)")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--data", help="a directory in GLUE's official layout, to measure lengths anew")
    parser.add_argument("--tokenizer", help="a tokenizer's directory, for --data")
    parser.add_argument("--override", nargs="*", default=[], help="more key=value, as of python -m harness")
    parser.add_argument("--small", action="store_true", help="the embedded backbones, few rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if bool(options.data) != bool(options.tokenizer):
        parser.error("--data and --tokenizer belong together")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if options.small:
        options.batch, options.rows, options.batches, options.repeats = 4, 64, 2, 1
    logging.set_verbosity_error()
    rows = []
    for name in options.models:
        for task in options.tasks:
            one = contest(options, name, task)
            sides = ["ours", *[side for side in options.sides if side != "ours"]]
            row: dict[str, Any] = {"model": name, "task": task, "rate": gemm_rate(one), "sides": compare(one, sides)}
            row["floor"] = floor(one, row["rate"])
            rows.append(row)
            if not options.json:
                show(name, task, options, row)
    if options.json:
        print(json.dumps({"options": vars(options), "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
