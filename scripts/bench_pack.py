"""What a pack saves: seconds of k packed trainings beside the same k one after another, and beside one.

    python scripts/bench_pack.py                                                    # 2 layers of base shape, CPU
    python scripts/bench_pack.py --layers 12 --device cuda --batch 32 --steps 100   # to be at most 1.6 of one there: unmeasured

The trainings are those of `python -m harness -m seed=0,1,2,3,4 pack=5` (harness/train.py with its order, clipping,
schedule and optimizer), of random weights in the shape of DeBERTaV3-base or RoBERTa-base, on made rows of a quarter of
`--length` tokens to all of it. Loading, preflight and evaluation are left out: a pack makes them run by run. The two
sides take turns; figures are medians over rounds. On a GPU one run with CUDA graphs follows (unmeasured). On a busy
CPU the processor's seconds are the ones to read.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import methods  # noqa: F401, I001  # before peft, which it teaches its methods
import numpy as np
import peft
import torch
from omegaconf import OmegaConf
from short_run import Ticks
from torch import nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification
from transformers import RobertaConfig, RobertaForSequenceClassification

from harness import pack
from harness.config import TrainConfig
from harness.data import Encoded
from harness.distributed import Group
from harness.train import train
from methods import attention, sites
from methods.additive.houlsby import HoulsbyConfig
from methods.selective.bitfit import BitFitConfig

WIDE: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
DEBERTA: dict[str, Any] = {
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0, "max_relative_positions": -1,
}  # fmt: skip
TYPES = {"deberta": "deberta-v2", "roberta": "roberta"}
Timed = tuple[float, float]  # wall and processor seconds


def model(family: str, method: str, layers: int, seed: int) -> nn.Module:
    """A backbone, the same for every seed, with an adapter of the seed's."""
    shape = WIDE | {"num_hidden_layers": layers}
    torch.manual_seed(0)
    if family == "deberta":
        backbone: Any = DebertaV2ForSequenceClassification(DebertaV2Config(**shape, **DEBERTA))
        attention.lean(backbone)
    else:
        backbone = RobertaForSequenceClassification(RobertaConfig(**shape))
    own: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "pooler"]}
    configurations: dict[str, Callable[[], peft.PeftConfig]] = {
        "lora": lambda: peft.LoraConfig(
            r=8, lora_alpha=16, target_modules=sites.regex(TYPES[family], "linears"), **own
        ),
        "houlsby": lambda: HoulsbyConfig(bottleneck_size=16, **own),
        "bitfit": lambda: BitFitConfig(**own),
    }
    torch.manual_seed(seed)
    return peft.get_peft_model(backbone, configurations[method]())


def made(rows: int, length: int) -> Encoded:
    """Rows of random tokens, of random lengths."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 1000, size) for size in draw.integers(max(2, length // 4), length + 1, rows)]
    return Encoded(
        "classification", texts, None, [int(text[0]) % 2 for text in texts], list(map(str, range(rows))), 1, 0
    )


def now(device: str) -> Timed:
    """The clocks, when a GPU is done with what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def timed(call: Callable[[], object], device: str) -> Timed:
    """Seconds of a call."""
    wall, processor = now(device)
    call()
    end = now(device)
    return end[0] - wall, end[1] - processor


def measure(options: argparse.Namespace) -> dict[str, list[Timed]]:
    """Every round's seconds of one run alone (the mean of k), of k alone, and of the pack; the first round is left out."""
    known: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "config.yaml").train)
    precision = "bfloat16" if options.device == "cuda" else "float32"
    settings = TrainConfig(**known | {"max_steps": options.steps, "batch_size": options.batch, "precision": precision})
    rows = made(options.batch * options.steps, options.length)

    def make(seed: int, group: Group | None = None) -> None:
        train(
            models[seed], rows, settings, seed=seed, device=options.device, buckets=True, validate=None, main="",
            group=group,
        )  # fmt: skip

    def graphed(net: nn.Module) -> list[Timed]:
        """One run with CUDA graphs, compiled once: the seconds of its epochs but the first, which captures."""
        updates, ends = itertools.count(1), []

        def tick() -> None:
            if next(updates) % options.steps == 0:  # nowhere else: one who waits at every step has no use of a queue
                ends.append(now(options.device))

        more = replace(settings, max_steps=(options.rounds + 1) * options.steps, cuda_graphs=True)
        progress: Any = Ticks(tick)
        train(net, rows, more, seed=0, device=options.device, buckets=True, validate=None, main="", progress=progress)
        return [(end - begun, late - early) for (begun, early), (end, late) in itertools.pairwise(ends)]

    def packed() -> None:
        if any(pack.together(list(map(str, models)), lambda seat: make(int(seat.run), seat))):
            raise RuntimeError("a packed training failed")

    seconds: dict[str, list[Timed]] = {"one": [], "alone": [], "pack": []}
    for turn in range(options.rounds + 1):
        models = {seed: model(options.family, options.method, options.layers, seed) for seed in range(options.pack)}
        alone = [timed(lambda seed=seed: make(seed), options.device) for seed in models]  # type: ignore[misc]
        models = {seed: model(options.family, options.method, options.layers, seed) for seed in range(options.pack)}
        together = timed(packed, options.device)
        if turn:
            total = (sum(wall for wall, _ in alone), sum(processor for _, processor in alone))
            seconds["one"].append((total[0] / options.pack, total[1] / options.pack))
            seconds["alone"].append(total)
            seconds["pack"].append(together)
    if options.device == "cuda":
        seconds["graphs"] = graphed(model(options.family, options.method, options.layers, 0))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"pack": 5, "layers": 2, "batch": 8, "length": 64, "steps": 10, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--family", choices=sorted(TYPES), default="deberta")
    parser.add_argument("--method", choices=["lora", "houlsby", "bitfit"], default="lora")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    seconds = measure(options)
    print(f"{options.method}, {options.family}, {options.layers} layers, {options.pack} runs of {options.steps} updates of "
          f"{options.batch} x at most {options.length} tokens, {options.device}, {options.rounds} rounds, "
          f"torch {torch.__version__}, {torch.get_num_threads()} threads")  # fmt: skip
    for place, clock in enumerate(("wall clock", "processor")):
        middle = {name: statistics.median(row[place] for row in rows) for name, rows in seconds.items()}
        ratios = {
            name: [ours[place] / theirs[place] for ours, theirs in zip(seconds["pack"], seconds[name], strict=True)]
            for name in ("one", "alone", "graphs")
            if name in seconds
        }
        shown = {
            name: f"{statistics.median(found):.2f} [{min(found):.2f}, {max(found):.2f}]"
            for name, found in ratios.items()
        }
        print(f"{clock:12} one {middle['one']:.2f} s, {options.pack} alone {middle['alone']:.2f} s, packed "
              f"{middle['pack']:.2f} s: {shown['one']} x one, {shown['alone']} x {options.pack} alone"
              + (f", {shown['graphs']} x one with CUDA graphs" if "graphs" in shown else ""))  # fmt: skip


if __name__ == "__main__":
    main()
