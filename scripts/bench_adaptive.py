"""What adapting the rank costs: seconds a training step of LoRA (lean, and peft's), AdaLoRA (ours, peft's), IncreLoRA.

    python scripts/bench_adaptive.py                     # 2 layers of DeBERTaV3-base's shape, CPU
    python scripts/bench_adaptive.py --layers 12 --device cuda --batch 32 --length 128

Random weights in the shape of DeBERTaV3-base (768 wide, 3,072 inside, all six linear layers of a block), rank 8 in
every method: AdaLoRA with 8 triplets a layer, in its budget phase with a mask due at every step (the dearest case),
IncreLoRA with 4 in use and 4 in reserve, in the steps before a growth, whose scores count, and in those further off,
whose scores would have faded and are not taken. The methods take turns, step by step, in an order
that is reversed every round, so that a machine that slows down slows all of them. Ratios are medians over rounds of the
ratio to LoRA in the same round, with the quartiles beside them. On a busy CPU the processor's seconds are the ones to
read. "adds" is the penalty, its way back and the hooks alone, by the processor's clock, in percent of LoRA's whole step:
the forms' own forward passes differ too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from methods import hooks, lowrank, sites
from methods.reparameterized.adalora import AdaLoRAConfig
from methods.reparameterized.increlora import IncreLoRAConfig

RANK, FOREVER = 8, 10**6
SOON = 170  # steps to the first growth: scores of all of them count, and no more are measured
Step = Callable[[int], float]


def backbone(layers: int) -> nn.Module:
    """DeBERTaV3-base with fewer layers, a small vocabulary and random weights."""
    shape: dict[str, Any] = dict(
        vocab_size=1000, hidden_size=768, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=3072,
        relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, max_relative_positions=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    return DebertaV2ForSequenceClassification(DebertaV2Config(**shape))


def configurations() -> dict[str, peft.PeftConfig]:
    """The contestants: warm-up is over at once, and the end of the schedule never comes."""
    shared: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": sites.regex("deberta-v2", "linears")}
    triplets: dict[str, Any] = {"alpha": 16, "orthogonality_weight": 0.1}
    growing: dict[str, Any] = {"init_rank": RANK // 2, "target_rank": RANK, "add_rank": RANK // 2}
    return {
        "lora": peft.LoraConfig(r=RANK, lora_alpha=16, **shared),
        "lora_peft": peft.LoraConfig(r=RANK, lora_alpha=16, **shared),
        "adalora": AdaLoRAConfig(
            init_rank=RANK, target_rank=RANK // 2, warmup_steps=0, final_steps=2, interval_steps=1, **triplets, **shared
        ),
        "adalora_peft": peft.AdaLoraConfig(
            init_r=RANK, target_r=RANK // 2, tinit=0, tfinal=2, deltaT=1, orth_reg_weight=0.1, lora_alpha=16,
            total_step=FOREVER, **shared,
        ),
        "increlora": IncreLoRAConfig(interval_steps=SOON, init_warmup_steps=0, **growing, **triplets, **shared),
        "increlora_far": IncreLoRAConfig(interval_steps=FOREVER // 4, **growing, **triplets, **shared),
    }  # fmt: skip


def trainer(config: peft.PeftConfig, layers: int, batch: dict[str, Tensor], device: str, lean: bool) -> Step:
    """One optimiser step of a method, as the loop makes it; `lean`: peft's LoRA layers as our runs have them."""
    model = peft.get_peft_model(backbone(layers), config).to(device).train()
    if lean:
        lowrank.lean(model)
    method = hooks.find(model)
    method.on_train_begin(FOREVER)
    optimizer = torch.optim.AdamW(hooks.optimizer_groups(model, 1e-4, 0.0), fused=True)

    def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels)

    def penalise() -> None:
        penalty = method.penalty()
        if penalty is not None:
            penalty.backward()

    def step(index: int) -> float:
        method.loss(model, batch, task_loss).backward()
        adds = timed(penalise, device)
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        adds += timed(lambda: method.on_pre_optimizer_step(index, optimizer), device)
        optimizer.step()
        adds += timed(lambda: method.on_optimizer_step(index), device)
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return adds

    return step


def timed(call: Callable[[], None], device: str) -> float:
    """Seconds of a call: the processor's, on a GPU the wall clock's until it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(steps: dict[str, Step], rounds: int, warmup: int) -> dict[str, list[tuple[float, float, float]]]:
    """Wall and processor seconds of every round's step and of what the method adds, by method, without the warm-up."""
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    for index in range(warmup + rounds):
        for name in list(steps)[:: 1 if index % 2 else -1]:
            wall, processor = time.perf_counter(), time.process_time()
            adds = steps[name](index + 1)
            if index >= warmup:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - processor, adds))
    return seconds


def summary(seconds: dict[str, list[tuple[float, float, float]]], clock: int) -> dict[str, dict[str, float]]:
    """Medians over rounds: seconds, ratios to LoRA in the same round with quartiles, and what is added, in percent.

    Args:
        clock: the one that what is added was measured with, 0 the wall's and 1 the processor's.
    """
    report: dict[str, dict[str, float]] = {}
    for name, rows in seconds.items():
        pairs = list(zip(rows, seconds["lora"], strict=True))
        report[name] = {"adds_percent": statistics.median(100 * row[2] / lora[clock] for row, lora in pairs)}
        for title, place in (("wall", 0), ("processor", 1)):
            ratios = [row[place] / lora[place] for row, lora in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            report[name] |= {f"{title}_seconds": statistics.median(row[place] for row in rows)}
            report[name] |= {f"{title}_ratio": middle, f"{title}_low": low, f"{title}_high": high}
    return report


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"layers": 2, "batch": 8, "length": 64, "rounds": 20, "warmup": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rounds + options.warmup >= SOON:
        parser.error(f"--rounds and --warmup: less than {SOON} together")
    ids = torch.randint(4, 1000, (options.batch, options.length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
    steps = {
        name: trainer(config, options.layers, batch, options.device, lean=not name.endswith("_peft"))
        for name, config in configurations().items()
    }
    report = summary(measure(steps, options.rounds, options.warmup), 0 if options.device == "cuda" else 1)
    if options.json:
        print(json.dumps({"options": vars(options), "torch": torch.__version__, "methods": report}))
        return
    print(f"{options.layers} layers, {options.batch} x {options.length} tokens, {options.device}, rank {RANK}, "
          f"{options.rounds} rounds, torch {torch.__version__}, {torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'':14}{'seconds':>9}{'x LoRA, wall clock':>24}{'processor s':>14}{'x LoRA':>24}{'adds':>9}")
    for name, row in report.items():
        wall, processor = (f"{row[f'{clock}_ratio']:.3f} [{row[f'{clock}_low']:.3f}, {row[f'{clock}_high']:.3f}]"
                           for clock in ("wall", "processor"))  # fmt: skip
        print(f"{name:14}{row['wall_seconds']:9.4f}{wall:>24}{row['processor_seconds']:14.4f}{processor:>24}"
              f"{row['adds_percent']:8.2f}%")  # fmt: skip


if __name__ == "__main__":
    main()
