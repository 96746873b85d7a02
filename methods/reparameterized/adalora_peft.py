"""Hooks that drive peft's own AdaLoRA as its documentation asks, for parity with `methods.reparameterized.adalora`.

`transformers.Trainer` never calls peft's `update_and_allocate`, and without it AdaLoRA is plain SVD-LoRA at its initial
rank, without an error. Here it is called after each update (0-based, gradients still there), and the number of steps
reaches peft's configuration when training begins: `total_step` in YAML is a placeholder that peft wants to see, and a
`tinit` or `tfinal` between 0 and 1 is a fraction of all steps, rounded down.

How peft's differs from the authors' code, hence from ours (peft 0.21.2):

- at t = T - t_f it masks whether or not the interval divides t, and forgets its scores; later masks repeat that one, so
  the two agree wherever the interval divides T - t_f;
- its penalty also enters an evaluation loss that the model computes itself (no score here comes from there), and its
  default weight is .5;
- no explicit total of triplets, no paper variants; `r` is ignored, `init_r` counts;
- init_r = target_r raises at the first mask; here it raises before training;
- a saved adapter holds only the triplets of `rank_pattern`, the last mask. In the budget phase others may be back, so
  here the pattern is that of the non-zero values when training ends.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import AdaLoraModel
from peft.tuners.adalora.layer import RankAllocator
from torch import Tensor, nn

from methods import hooks
from methods.hooks import Hooks
from methods.reparameterized.svd_form import orthogonality, spread

SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what peft's allocator remembers of every tensor


class AdaLoraHooks(Hooks):
    """peft's tuner through our hooks. It keeps nothing itself: every call of `hooks.find` makes a new one."""

    def __init__(self, tuner: AdaLoraModel) -> None:
        self.tuner = tuner
        self.name: str | None = getattr(tuner, "trainable_adapter_name", None)  # peft sets it only to train

    @property
    def config(self) -> Any:
        """Of the adapter in training."""
        return self.tuner.peft_config[self.name or self.tuner.active_adapters[0]]

    def parameters(self, kind: str) -> dict[str, nn.Parameter]:
        """Layer path -> the adapter's lora_A, lora_B or lora_E."""
        end = f".{kind}.{self.name or self.tuner.active_adapters[0]}"
        found = self.tuner.model.named_parameters()
        return {name.removesuffix(end): parameter for name, parameter in found if name.endswith(end)}

    def on_train_begin(self, total_steps: int) -> None:
        """The true number of steps. Raises ValueError where the schedule does not fit, or nothing could be pruned."""
        config = self.config
        steps = {name: getattr(config, name) for name in ("tinit", "tfinal")}
        for name, value in steps.items():
            setattr(config, name, int(value * total_steps) if 0 < value < 1 else int(value))
        config.total_step = total_steps
        if config.tinit + config.tfinal >= total_steps:
            raise ValueError(
                f"peft's AdaLoRA has no steps to prune in: tinit={config.tinit} and tfinal={config.tfinal} take all of "
                f"the {total_steps} training steps"
            )
        if config.init_r <= config.target_r:
            raise ValueError(
                f"peft's AdaLoRA cannot keep init_r={config.init_r} triplets for target_r={config.target_r}: init_r "
                "must be greater; method=adalora takes equal ranks as no pruning"
            )
        self.tuner.rankallocator = RankAllocator(self.tuner.model, config, self.name)

    def will_move(self, total_steps: int) -> bool | None:
        """Whether peft's allocator will mask anything: its configuration promises less than there is."""
        allocator = self.tuner.rankallocator
        steps = map(allocator.budget_schedule, reversed(range(total_steps)))
        return any(due and budget < allocator.init_bgt for budget, due in steps)

    def penalty(self) -> Tensor | None:
        """peft's penalty, which it adds to a loss that the model computes itself."""
        if self.name is None or not self.config.orth_reg_weight:
            return None
        lefts, rights = (list(self.parameters(kind).values()) for kind in ("lora_B", "lora_A"))
        return self.config.orth_reg_weight * orthogonality(lefts, rights, "mean_unsquared")

    def on_optimizer_step(self, step: int) -> None:
        """peft's allocation, unless an adapter was loaded that has been pruned to the target already."""
        if self.tuner.rankallocator.init_bgt > self.tuner.rankallocator.target_bgt:
            self.tuner.update_and_allocate(step)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """What is saved are the values that are not zero, whichever checkpoint was chosen."""
        if self.config.rank_pattern is not None:
            values = self.parameters("lora_E").items()
            self.config.rank_pattern = {f"{path}.lora_E.{self.name}": (v != 0).flatten().tolist() for path, v in values}

    @torch.no_grad()
    def ranks(self) -> dict[str, int]:
        """Layer path -> singular values that are not zero; all of them before training."""
        values = self.parameters("lora_E")
        alive = {path: int((value != 0).sum()) for path, value in values.items()}
        return alive if any(alive.values()) else {path: value.numel() for path, value in values.items()}

    def active_params(self) -> int:
        """What the surviving triplets have: rank (in + out + 1) of every layer."""
        rights, lefts = self.parameters("lora_A"), self.parameters("lora_B")
        return sum(rank * (rights[path].shape[1] + lefts[path].shape[0] + 1) for path, rank in self.ranks().items())

    def planned_params(self) -> tuple[int, int]:
        """After training: with triplets spread evenly, and with all that can be in the layers with the longest ones."""
        rights, lefts = self.parameters("lora_A").values(), self.parameters("lora_B").values()
        lengths = [right.shape[1] + left.shape[0] + 1 for right, left in zip(rights, lefts, strict=True)]
        return spread(self.config.target_r * len(lengths), lengths, 0, self.config.init_r)

    def trace(self) -> dict[str, Any]:
        """The ranks of the layers."""
        return {"ranks": self.ranks()}

    def training_state(self) -> dict[str, Any]:
        """The allocator's scores, and the last mask."""
        return {"masks": self.config.rank_pattern} | {name: getattr(self.tuner.rankallocator, name) for name in SCORES}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The same, back."""
        self.config.rank_pattern = state["masks"]
        for name in SCORES:
            setattr(self.tuner.rankallocator, name, state[name])


hooks.DRIVERS[AdaLoraModel] = AdaLoraHooks
# A layer that lost all its triplets is saved empty; peft suspects a shard that DeepSpeed did not gather.
warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
