"""What one training step does and holds, counted on the meta device: floating-point operations and bytes, no data.

The step is run as it is (forward, loss, penalty, backward), on tensors that have shapes and no values. Every storage
that an operation makes is counted while it lives, so activation checkpointing, transient results and the order in which
gradients come and activations go are in the peak.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from harness import losses
from harness.data import IGNORED
from methods import hooks

# What autocast computes in bfloat16, and what in float32, as far as our backbones use it.
HALVED = {
    functional.linear, functional.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.baddbmm, torch.einsum,
    Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
}  # fmt: skip
WHOLE = {
    functional.layer_norm, functional.softmax, torch.softmax, Tensor.softmax, functional.cross_entropy,
    functional.mse_loss, torch.rsqrt, Tensor.pow,
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One forward and backward pass.

    Args:
        flops: floating-point operations of matrix products, a multiplication and an addition each.
        activation_bytes: the most that was held at once and is neither a weight nor a gradient of one.
        peak_bytes: the most that was held at once beside the weights, gradients included.
    """

    flops: int
    activation_bytes: int
    peak_bytes: int


class _Blank(TorchFunctionMode):
    """Answers what tensors without values cannot (transformers asks whether a mask hides anything); plays autocast.

    Args:
        half: matrix products in bfloat16, reductions in float32, as `torch.autocast` does on a device.
    """

    def __init__(self, half: bool) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        # Encoder-decoders that classify look up the text's last token by its id: one in every row.
        if func is torch.unique_consecutive and args[0].is_meta:
            return args[0][:1]
        if func is Tensor.__getitem__ and isinstance(args[1], tuple) and _mask(args[1][0]):
            return args[0][:, -1]
        if self._half and (func in HALVED or func in WHOLE):
            dtype = torch.bfloat16 if func in HALVED else torch.float32
            args, kwargs = tree_map(lambda one: _cast(one, dtype), (args, kwargs))
        return func(*args, **kwargs)


def _mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.is_meta and index.dtype == torch.bool and index.dim() == 2


def _cast(one: Any, dtype: torch.dtype) -> Any:
    return one.to(dtype) if isinstance(one, Tensor) and one.is_meta and one.is_floating_point() else one


class _Held(TorchDispatchMode):
    """Bytes of all storages on the meta device that operations made and that still live, those of gradients apart; FLOPs.

    torch's FlopCounterMode watches modules by hooks that keep activations alive: its formulas are used without it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others = self.gradients = self.most_others = self.most = self.flops = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=found)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor)
        return found

    def known(self, tensor: Tensor) -> None:
        """A tensor that was there before: not to be counted."""
        storage = tensor.untyped_storage()
        self._sizes[storage._cdata] = 0

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = size = storage.nbytes()
        weakref.finalize(storage, self._freed, key)
        self.others += size
        self.most_others = max(self.most_others, self.others)
        self.most = max(self.most, self.others + self.gradients)

    def _freed(self, key: int) -> None:
        self.others -= self._sizes.pop(key)

    def is_gradient(self, parameter: nn.Parameter) -> None:
        """A parameter's gradient is complete: what was counted as something else so far is a gradient from now on."""
        if parameter.grad is None:
            return
        key = parameter.grad.untyped_storage()._cdata
        size = self._sizes.get(key, 0)
        self._sizes[key] = 0
        self.others -= size
        self.gradients += size


def batch(model: nn.Module, kind: str, rows: int, length: int, target_length: int) -> dict[str, Tensor]:
    """A batch without values for a model on the meta device, as the loop would make it."""
    ids = torch.ones(rows, length, dtype=torch.int64, device="meta")
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "generation":
        target = torch.full((rows, target_length), IGNORED, dtype=torch.int64, device="meta")
        return found | {"decoder_input_ids": torch.ones_like(target), "labels": target}
    dtype = torch.int64 if kind == "classification" else torch.float32
    return found | {"labels": torch.ones(rows, dtype=dtype, device="meta")}


def work(model: nn.Module, kind: str, rows: int, length: int, target_length: int, *, half: bool = False) -> Work:
    """Count one forward and backward pass of a micro-batch.

    Args:
        model: on the meta device, its method attached; what requires a gradient gets one, and loses it again.
        kind: of the task.
        rows, length, target_length: of the batch, padding included; the last for text to text.
        half: bfloat16 autocast.
    """
    given, loss = batch(model, kind, rows, length, target_length), losses.task_loss(kind)
    method, held = hooks.find(model), _Held()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for tensor in (*model.parameters(), *model.buffers(), *given.values()):
        held.known(tensor)
    handles = [parameter.register_post_accumulate_grad_hook(held.is_gradient) for parameter in trained]
    model.train()
    try:
        with _Blank(half), held:
            method.loss(model, given, loss).backward()
            penalty = method.penalty()
            if penalty is not None:
                penalty.backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return Work(held.flops, held.most_others, held.most)
