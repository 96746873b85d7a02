"""Everything that needs a GPU, checked and measured by one command, a row each; none of it has been run on one yet.

    python scripts/gpu_check.py                  # all rows: eight minutes, by reckoning, on an H200
    python scripts/gpu_check.py parity qlora     # some

A row is a process of its own with a time limit: one that fails or hangs costs itself alone. Without a GPU nothing is run
and the command succeeds. Sizes are of DeBERTaV3-base with random weights; what is compiled has six of its twelve layers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
BASE = ["model=deberta_v3_base", "model.init=random", "task=glue/rte", "device=cuda", "train.learning_rate=5e-4"]
LIMIT_SECONDS = 200


def configured(*words: str) -> Any:
    """A run's configuration."""
    from harness import compose

    return compose.composed([*BASE, *words])


def parity() -> str:
    """Logits and gradients of lean and fused attention (our kernels) against transformers' own; float32 is without TF32."""
    from short_run import build

    torch.backends.cuda.matmul.allow_tf32 = False
    words = ["method=lora", "model.shape.num_hidden_layers=4", "train.precision=float32"]
    told = []
    plain = build(configured(*words, "model.attention=transformers")).eval()
    for kind in ("lean", "fused"):
        other = build(configured(*words, f"model.attention={kind}")).eval()
        for dtype in (torch.float32, torch.bfloat16):
            worst = [max(_difference(plain, other, length, dtype)) for length in (17, 128, 400)]
            told.append(f"{kind}, {str(dtype).removeprefix('torch.')}: {', '.join(f'{one:.1e}' for one in worst)}")
    return f"largest difference at 17, 128, 400 tokens: {'; '.join(told)}"


def _difference(one: nn.Module, other: nn.Module, length: int, dtype: torch.dtype) -> tuple[float, float]:
    """Of logits, and of gradients relative to the largest."""
    ids = torch.randint(10, 1000, (8, length), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    logits, gradients = [], []
    for model in (one, other):
        model.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype is torch.bfloat16):
            logits.append(model(input_ids=ids, attention_mask=mask).logits.float())
        logits[-1].square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    apart = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    return float((logits[0] - logits[1]).detach().abs().max()), apart / largest


def attention() -> str:
    """Seconds a step of LoRA, bfloat16, batch 32, by kind of attention and length."""
    from short_run import build

    told = []
    for length in (32, 128, 320):
        seconds = {}
        for kind in ("transformers", "lean", "fused"):
            config = configured("method=lora", f"model.attention={kind}")
            seconds[kind], _ = _timed(config, build(config), length)
        told.append(f"{length} tokens: " + ", ".join(f"{kind} {one * 1e3:.1f} ms" for kind, one in seconds.items()))
    return "; ".join(told)


def _timed(config: Any, net: nn.Module, length: int, steps: int = 24) -> tuple[float, list[float]]:
    """Seconds an update, the median of blocks of four of which the first two warm up and compile; the losses."""
    from short_run import trained

    marks: list[float] = []

    def tick() -> None:
        if (len(marks) + 1) % 4 == 0:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    losses = trained(config, net, length, steps, tick).losses
    blocks = marks[7::4]
    return statistics.median(b - a for a, b in pairwise(blocks)) / 4, losses


def compiled() -> str:
    """torch.compile and CUDA graphs beside eager: seconds a step, and how far the losses part without dropout."""
    from short_run import build

    quiet = [f"++model.config.{name}_dropout{end}=0"
             for name, end in (("cls", ""), ("hidden", "_prob"), ("attention_probs", "_prob"))]  # fmt: skip
    told, losses = [], []
    for word in ("compile=false", "compile=true", "cuda_graphs=true"):
        config = configured("method=lora", "model.shape.num_hidden_layers=6", *quiet, f"train.{word}")
        seconds, found = _timed(config, build(config), 64)  # one training for both: to compile takes most of the row
        losses.append(found[:6])
        told.append(f"{word} {seconds * 1e3:.1f} ms")
    apart = max(max(found) - min(found) for found in zip(*losses, strict=True))
    return f"{', '.join(told)}; losses part by {apart:.1e}"


def packed() -> str:
    """Five runs over one backbone beside one run, eager and with CUDA graphs."""
    words = ["--layers", "6", "--device", "cuda", "--batch", "32", "--steps", "40", "--rounds", "3"]
    return "\n" + _said(str(HERE / "bench_pack.py"), *words)


def _said(*words: str) -> str:
    """What another program prints. Raises RuntimeError with the last line of its complaint."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return done.stdout.strip()


def qlora() -> str:
    """Quantise, train, merge: the loss falls, and the merged model says the same."""
    from short_run import build, trained

    from harness.quantization import footprint, merged

    config = configured("method=qlora", "train.batch_size=32", "train.accumulation_steps=1", "train.warmup_steps=0")
    net: Any = build(config)
    bits = footprint(net.get_base_model()).quantized_bits_per_param
    losses = trained(config, net, 48, 60).losses
    ids = torch.randint(20, 100, (8, 48), device="cuda")
    with torch.no_grad():
        before: Tensor = net.eval()(input_ids=ids).logits.float()
        whole: Any = merged(net)
        after: Tensor = whole.to("cuda").eval()(input_ids=ids).logits.float()
    first, last = statistics.fmean(losses[:10]), statistics.fmean(losses[-10:])
    apart = float((before - after).abs().max())
    return f"{bits:.3f} bits a weight, loss {first:.3f} -> {last:.3f}, merged differs by {apart:.1e}"


def paged() -> str:
    """The paged optimizer's losses beside plain AdamW's."""
    from short_run import build, trained

    losses = []
    for name in ("adamw", "paged_adamw"):
        words = ["train.precision=float32", "train.warmup_steps=0", f"train.optimizer={name}"]
        config = configured("method=lora", *words)  # without a warm-up: else nothing would move in ten updates
        losses.append(trained(config, build(config), 48, 10).losses)
    return f"ten losses part by {max(abs(a - b) for a, b in zip(*losses, strict=True)):.1e}"


def memory() -> str:
    """Peak bytes beside what harness.estimate says."""
    from short_run import build, trained

    from harness import estimate

    told = []
    for words in ("method=lora", "method=lora train.gradient_checkpointing=true", "method=qlora", "method=full"):
        config = configured(*words.split(), "data.max_length_tokens=128", "train.batch_size=32", "train.accumulation_steps=1",
                            "train.select=last")  # fmt: skip
        said = estimate.estimate(config).peak or 0
        gc.collect()  # the one before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        net = build(config)
        trained(config, net, 128, 3)
        peak = torch.cuda.max_memory_allocated()
        told.append(f"{words}: {peak / 1e6:,.0f} MB, predicted {said / 1e6:,.0f} ({said / peak:.2f})")
        del net
    return "; ".join(told)


def run() -> str:
    """A whole run on the embedded task."""
    words = ["device=cuda", "progress=false", "rerun=always", "results.root=/tmp/harness-gpu-check"]
    return _said("-m", "harness", *words).splitlines()[0]


def throughput() -> str:
    """Training beside the peers on RTE's lengths, bfloat16."""
    words = ["--device", "cuda", "--models", "deberta_v3_base", "--tasks", "rte", "--batches", "5", "--every", "5",
             "--repeats", "3"]  # fmt: skip
    return "\n" + _said(str(HERE / "bench_training.py"), *words)


ROWS: dict[str, Callable[[], str]] = {
    "parity": parity, "run": run, "throughput": throughput, "attention": attention, "qlora": qlora, "paged": paged,
    "memory": memory, "compiled": compiled, "packed": packed,
}  # fmt: skip


def _row(words: list[str], limit: float) -> str:
    """What a row prints, or why it failed. Nothing that it started outlives it and takes time from the next."""
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as row:
        try:
            said, complaint = row.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"FAILED: took more than {limit} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(row.pid, signal.SIGKILL)
    return said.strip() if row.returncode == 0 else f"FAILED: {(complaint.strip().splitlines() or ['?'])[-1]}"


def main() -> None:
    """Run the rows, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all without")
    parser.add_argument("--inside", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"unknown row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if options.inside:
        print(ROWS[options.inside]())
        return
    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} finds none; nothing was checked")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    begun = time.monotonic()
    for name in options.rows or ROWS:
        told = _row([sys.executable, __file__, "--inside", name], LIMIT_SECONDS)
        print(f"{name:12} {told}", flush=True)
    print(f"{time.monotonic() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
